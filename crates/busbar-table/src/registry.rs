use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use busbar_event::{Class, Error, hash::fnv1a};
use busbar_log::{Change, Clock, Log, Partition, Store};
use parking_lot::{Mutex, RwLock};

use crate::hot::{Mover, from_log};
use crate::spec::{Engine, HotSpec, TableSpec};
use crate::wide::WideStore;
use crate::{Hot, Relational, Table, Wide};

/// The tables of a node, by name.
///
/// ```text
/// <data>/tables/<name>.db         one SQLite file a relational table, with its -wal and -shm beside it
/// <data>/tables/_wide/            the cells of all wide tables
/// <data>/hot/<name>/<identity>/   the journal of a hot table; another key or other columns make another one
/// ```
pub struct Tables {
    dir: PathBuf,
    wide: Arc<WideStore>,
    clock: Arc<dyn Clock>,
    journals: Option<Journals>,
    open: RwLock<BTreeMap<String, Open>>,
    /// One for each hot table whose rows are moved to another table.
    movers: Mutex<Vec<Mover>>,
}

/// Where hot tables are journalled.
struct Journals {
    log: Log,
    /// The partitions there are; noted before they are made, so that none is forgotten.
    known: Store,
}

/// Tables that were opened and are not yet those that there are: see [`Tables::stage`].
pub struct Staged(BTreeMap<String, Open>);

#[derive(Clone)]
struct Open {
    spec: TableSpec,
    kept: Kept,
}

#[derive(Clone)]
enum Kept {
    Hot(Arc<Hot>),
    Relational(Arc<Relational>),
    Wide(Arc<Wide>),
}

impl Kept {
    fn table(&self) -> Arc<dyn Table> {
        match self {
            Kept::Hot(table) => Arc::clone(table) as Arc<dyn Table>,
            Kept::Relational(table) => Arc::clone(table) as Arc<dyn Table>,
            Kept::Wide(table) => Arc::clone(table) as Arc<dyn Table>,
        }
    }
}

impl Tables {
    /// Tables that keep their files in `dir`, which is made when the first one is needed.
    pub fn open(dir: impl AsRef<Path>, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let folder = dir.as_ref().join("_wide");
        Ok(Self {
            dir: dir.as_ref().to_owned(),
            wide: Arc::new(WideStore::new(&folder, Arc::clone(&clock))),
            clock,
            journals: None,
            open: RwLock::default(),
            movers: Mutex::default(),
        })
    }

    /// Journals hot tables in this log, so that they survive a restart.
    pub fn with_journals(mut self, log: Log) -> Result<Self, Error> {
        let known = log.store("hot").map_err(from_log)?;
        self.journals = Some(Journals { log, known });
        Ok(self)
    }

    /// Make the tables be those of `specs`; blocks while files are opened. If one is refused, none
    /// is changed but for files and columns that were added.
    ///
    /// A table stays as it is, with its rows and for those who hold it, while its engine and its key
    /// stay the same; for a hot one also its columns. One that is no longer named is closed when the
    /// last holder lets go of it; the file of a relational one stays on the disk, and naming it again
    /// brings it back. Another key for a relational table that has rows is refused, because they
    /// were merged by the old one.
    pub fn apply(&self, specs: &BTreeMap<String, TableSpec>) -> Result<(), Error> {
        let staged = self.stage(specs)?;
        self.adopt(staged)
    }

    /// Open what [`Tables::apply`] would need, without making it the tables that there are; for those who
    /// have more to change, all or nothing. Tables must not be changed otherwise until it is adopted or dropped.
    pub fn stage(&self, specs: &BTreeMap<String, TableSpec>) -> Result<Staged, Error> {
        for (name, spec) in specs {
            spec.check(name)?;
            spec.check_move(name, specs)?;
        }
        let open = self.open.read();
        let mut next = BTreeMap::new();
        for (name, spec) in specs {
            let before = open.get(name);
            check_waiting(name, spec, before)?;
            let kept = match before.filter(|before| before.spec == *spec) {
                Some(before) => before.kept.clone(),
                None => self.make(name, spec, before)?,
            };
            let spec = spec.clone();
            next.insert(name.clone(), Open { spec, kept });
        }
        Ok(Staged(next))
    }

    /// Make staged tables those that there are.
    pub fn adopt(&self, Staged(next): Staged) -> Result<(), Error> {
        let mut open = self.open.write();
        for (name, Open { spec, kept }) in &next {
            match (kept, spec.engine(name)?) {
                (Kept::Hot(table), Engine::Hot(options)) => table.reconfigure(options),
                (Kept::Wide(table), Engine::Wide(options)) => table.reconfigure(options)?,
                _ => {}
            }
        }
        // A mover ends before the next one begins.
        let mut movers = self.movers.lock();
        movers.clear();
        *open = next;
        for Open { spec, kept } in open.values() {
            if let (
                Kept::Hot(table),
                Some(HotSpec {
                    moves_to: Some(target),
                    ..
                }),
            ) = (kept, &spec.hot)
                && let Some(target) = open.get(target)
            {
                movers.push(Mover::start(Arc::clone(table), target.kept.table())?);
            }
        }
        match &self.journals {
            Some(journals) => journals.keep_only(&open),
            None => Ok(()),
        }
    }

    /// The table of that name.
    pub fn table(&self, name: &str) -> Option<Arc<dyn Table>> {
        let open = self.open.read();
        Some(open.get(name)?.kept.table())
    }

    /// The wide table of that name, for its cells.
    pub fn wide(&self, name: &str) -> Option<Arc<Wide>> {
        match &self.open.read().get(name)?.kept {
            Kept::Wide(table) => Some(Arc::clone(table)),
            _ => None,
        }
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.open.read().keys().cloned().collect()
    }

    /// The spec a table was made from.
    pub fn spec(&self, name: &str) -> Option<TableSpec> {
        self.open.read().get(name).map(|open| open.spec.clone())
    }

    fn make(&self, name: &str, spec: &TableSpec, before: Option<&Open>) -> Result<Kept, Error> {
        let schema = spec.schema(name)?;
        let before = before.filter(|before| before.spec.key == spec.key);
        match spec.engine(name)? {
            Engine::Hot(options) => {
                if let Some(Open {
                    spec: old,
                    kept: Kept::Hot(table),
                }) = before
                    && old.columns == spec.columns
                {
                    return Ok(Kept::Hot(Arc::clone(table)));
                }
                let clock = Arc::clone(&self.clock);
                let journal = match &self.journals {
                    Some(journals) => Some(journals.open(name, spec)?),
                    None => None,
                };
                let table = Hot::new(name, &schema, &spec.key, options, clock, journal)?;
                Ok(Kept::Hot(Arc::new(table)))
            }
            Engine::Relational => {
                if let Some(Open {
                    kept: Kept::Relational(table),
                    ..
                }) = before
                {
                    table.declare(&schema)?;
                    return Ok(Kept::Relational(Arc::clone(table)));
                }
                // For the user of the node alone, as the data folder.
                let made = std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&self.dir);
                made.map_err(|cause| {
                    Error::new(Class::Configuration, "table.folder")
                        .with("folder", self.dir.display())
                        .caused_by(cause)
                })?;
                let file = self.dir.join(format!("{name}.db"));
                let table = Relational::open(&file, name, &schema, &spec.key)?;
                Ok(Kept::Relational(Arc::new(table)))
            }
            Engine::Wide(options) => {
                if let Some(Open {
                    kept: Kept::Wide(table),
                    ..
                }) = before
                {
                    table.check_options(&options)?;
                    table.declare(&schema)?;
                    return Ok(Kept::Wide(Arc::clone(table)));
                }
                let store = Arc::clone(&self.wide);
                let table = Wide::open(name, &schema, &spec.key, options, store)?;
                Ok(Kept::Wide(Arc::new(table)))
            }
        }
    }
}

/// Rows that wait to be moved would expire if the table moved none any more.
fn check_waiting(name: &str, spec: &TableSpec, before: Option<&Open>) -> Result<(), Error> {
    let moves = spec.hot.as_ref().is_some_and(|hot| hot.moves_to.is_some());
    match before {
        Some(Open {
            kept: Kept::Hot(table),
            ..
        }) if !moves && table.has_due() => {
            Err(Error::new(Class::Transient, "table.moves-waiting").with("table", name))
        }
        _ => Ok(()),
    }
}

impl Journals {
    fn open(&self, name: &str, spec: &TableSpec) -> Result<Partition, Error> {
        let partition = journal_name(name, spec);
        if self.known.get(partition.as_bytes()).is_none() {
            let noted = Change::Put(partition.clone().into(), Vec::<u8>::new().into());
            self.known.apply_sync(vec![noted]).map_err(from_log)?;
        }
        self.log
            .partition(&partition, Hot::journal_options())
            .map_err(from_log)
    }

    /// Removes the journals of tables that there are no more.
    fn keep_only(&self, open: &BTreeMap<String, Open>) -> Result<(), Error> {
        let hot = open
            .iter()
            .filter(|(_, open)| matches!(open.kept, Kept::Hot(_)));
        let used: BTreeSet<String> = hot
            .map(|(name, open)| journal_name(name, &open.spec))
            .collect();
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
}

/// The partition of a hot table's journal. What decides whether rows can be kept is part of the name: the
/// key and the declared columns.
fn journal_name(name: &str, spec: &TableSpec) -> String {
    let identity = serde_json::json!([spec.key, spec.columns]).to_string();
    format!("hot/{name}/{:016x}", fnv1a(identity.as_bytes()))
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tables")
            .field("dir", &self.dir)
            .field("open", &self.open.read().keys())
            .finish_non_exhaustive()
    }
}
