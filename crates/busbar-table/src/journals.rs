//! The journals of the hot tables of a node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use busbar_event::{Error, hash::fnv1a};
use busbar_log::{Change, Clock, Log, Partition, Store};

use crate::Hot;
use crate::hot::from_log;
use crate::spec::{Engine, TableSpec};

/// Where hot tables are journalled.
pub(crate) struct Journals {
    log: Log,
    /// The partitions there are, each with the file of its table as JSON; noted before they are made, so that none is
    /// forgotten.
    known: Store,
}

impl Journals {
    pub fn new(log: Log) -> Result<Self, Error> {
        let known = log.store("hot").map_err(from_log)?;
        Ok(Self { log, known })
    }

    /// The journal of a table, which is made when it is not there.
    pub fn open(&self, name: &str, spec: &TableSpec) -> Result<Partition, Error> {
        let partition = journal_name(name, spec);
        if self.known.get(partition.as_bytes()).is_none() {
            let noted = Change::Put(partition.clone().into(), noted(spec).into());
            self.known.apply_sync(vec![noted]).map_err(from_log)?;
        }
        self.partition(&partition)
    }

    /// The tables whose journals no table of `specs` uses and that moved their rows to another table, as they were left.
    pub fn left_behind(
        &self,
        specs: &BTreeMap<String, TableSpec>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Vec<Hot>, Error> {
        let mut left = Vec::new();
        let used = used(specs.iter());
        for (partition, noted) in self.known.scan(b"", None, usize::MAX) {
            let partition = String::from_utf8_lossy(&partition).into_owned();
            let name = partition.split('/').nth(1).unwrap_or_default();
            // What was noted by a version that moved no rows says nothing.
            let Ok(spec) = serde_json::from_slice::<TableSpec>(&noted) else {
                continue;
            };
            if used.contains(&partition) || !spec.moves() {
                continue;
            }
            let Engine::Hot(options) = spec.engine(name)? else {
                continue;
            };
            let (schema, journal) = (spec.schema(name)?, self.partition(&partition)?);
            let clock = Arc::clone(clock);
            left.push(Hot::new(
                name,
                &schema,
                &spec.key,
                options,
                clock,
                Some(journal),
            )?);
        }
        Ok(left)
    }

    /// Notes the files of tables, and removes the journals of tables that there are no more.
    pub fn keep_only<'a>(
        &self,
        specs: impl Iterator<Item = (&'a String, &'a TableSpec)> + Clone,
    ) -> Result<(), Error> {
        let mut changes = Vec::new();
        for (name, spec) in specs.clone().filter(|(_, spec)| spec.in_node_memory()) {
            let (partition, noted) = (journal_name(name, spec), noted(spec));
            if self.known.get(partition.as_bytes()).as_deref() != Some(&noted[..]) {
                changes.push(Change::Put(partition.into(), noted.into()));
            }
        }
        if !changes.is_empty() {
            self.known.apply_sync(changes).map_err(from_log)?;
        }
        let used = used(specs);
        for (name, _) in self.known.scan(b"", None, usize::MAX) {
            let partition = String::from_utf8_lossy(&name).into_owned();
            if !used.contains(&partition) {
                self.log.remove_partition(&partition).map_err(from_log)?;
                let forgotten = vec![Change::Delete(name)];
                self.known.apply_sync(forgotten).map_err(from_log)?;
            }
        }
        Ok(())
    }

    fn partition(&self, name: &str) -> Result<Partition, Error> {
        self.log
            .partition(name, Hot::journal_options())
            .map_err(from_log)
    }
}

fn noted(spec: &TableSpec) -> Vec<u8> {
    serde_json::to_vec(spec).unwrap_or_default()
}

fn used<'a>(specs: impl Iterator<Item = (&'a String, &'a TableSpec)>) -> BTreeSet<String> {
    let hot = specs.filter(|(_, spec)| spec.in_node_memory());
    hot.map(|(name, spec)| journal_name(name, spec)).collect()
}

/// The partition of a hot table's journal. What decides whether rows can be kept is part of the name: the
/// key and the declared columns.
fn journal_name(name: &str, spec: &TableSpec) -> String {
    let identity = serde_json::json!([spec.key, spec.columns]).to_string();
    format!("hot/{name}/{:016x}", fnv1a(identity.as_bytes()))
}
