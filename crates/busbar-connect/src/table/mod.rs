//! `table`: tables of the node as a source. Their changes come in as they are made, or their rows by a version.
//!
//! ```yaml
//! table: { follow: { tables: [patient], without: [his_to_patient] } }
//! # table: { poll: { tables: [{ table: patient, version: changed }], every: 10s } }
//! topic: patient/changes
//! ```

mod event;
mod follow;
mod limits;
mod poll;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use busbar_bus::Span;
use busbar_catalog::{ConnectionSpec, Diagnostic, Project};
use busbar_connector::{Connector, Roles, Source, SourceContext, Table, Tables, Work};
use busbar_event::{Class, Error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::change::Echoed;
use crate::topic::TopicTemplate;
use follow::Follower;
use limits::{EVERY_MIN, TABLES_MAX};
use poll::Poller;
use source::{FollowerThread, TableSource};

/// The connector.
pub struct NodeTable;

/// Tables of the node as a source, for flows that keep other tables in step with them.
///
/// With `follow`: changes of tables with `changes: true` as they are made, each exactly once and those of one key in their order,
/// whoever made them; before them what is in the tables (`read`). Each event has all columns of the row and `change`: `upsert`,
/// or `delete` with the row as it was. Rows that leave a hot table because their time to live is over, to make room or to move to
/// another table are no changes. A table keeps its changes until they are in the log, up to 256 MiB; then it takes no further
/// writes.
///
/// With `poll`: at least once; rows of any table with a key, wherever it is kept, whose version was not less than the greatest
/// one of the look before. Deletions are not seen, nor changes that do not change the version.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NodeTableOptions {
    /// Tables whose changes come in.
    follow: Option<TableFollow>,
    /// Tables that are looked at by a version of their rows.
    poll: Option<TablePoll>,
}

/// Whose changes come in. The connection's `topic` may use `${table}` and `${connection}`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TableFollow {
    /// The tables. A table is followed by one connection.
    tables: Vec<String>,
    /// Whether what is in the tables comes before their changes.
    #[serde(default = "yes")]
    snapshot: bool,
    /// Flows whose writes are left out: those that bring the changes of the other one of two tables.
    #[serde(default)]
    without: Vec<String>,
    /// What of the changes that are left out comes in all the same, with the tag `producer`.
    #[serde(default)]
    echo: Echoed,
}

/// Which tables are looked at. The connection's `topic` may use `${table}` and `${connection}`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TablePoll {
    /// The tables.
    tables: Vec<VersionedTable>,
    /// Time between two looks.
    #[serde(default = "ten_seconds")]
    every: Span,
}

/// A table that is looked at.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct VersionedTable {
    /// Its name.
    table: String,
    /// A column that grows with each change of a row: a number, a time or a text.
    version: String,
}

fn yes() -> bool {
    true
}

fn ten_seconds() -> Span {
    Span::from_micros(10_000_000)
}

const DEFAULT_TOPIC: &str = "${connection}/${table}";
const OFFERED: [&str; 2] = ["connection", "table"];

/// The tables of the node, as they are at the moment.
#[derive(Clone)]
struct NodeTables(Arc<Tables>);

impl NodeTables {
    fn get(&self, name: &str) -> Result<Arc<dyn Table>, Error> {
        self.0.table(name).ok_or_else(|| no_table(name))
    }
}

fn no_table(name: &str) -> Error {
    let error = Error::new(Class::Configuration, "table.source-unknown");
    error.with("table", busbar_event::quote(name))
}

impl NodeTableOptions {
    fn tables(&self) -> Vec<&str> {
        let followed = self.follow.iter().flat_map(|follow| &follow.tables);
        let polled = self.poll.iter().flat_map(|poll| &poll.tables);
        let polled = polled.map(|polled| polled.table.as_str());
        followed.map(String::as_str).chain(polled).collect()
    }

    /// The option that is wrong, and why.
    fn wrong(&self) -> Option<(&'static str, Error)> {
        let new = |code| Error::new(Class::Configuration, code);
        let key = match (&self.follow, &self.poll) {
            (Some(_), None) => "follow",
            (None, Some(_)) => "poll",
            _ => return Some(("poll", new("table.source-one"))),
        };
        let tables = self.tables();
        let distinct: BTreeSet<_> = tables.iter().collect();
        if tables.is_empty() || tables.len() > TABLES_MAX || distinct.len() < tables.len() {
            return Some((
                key,
                new("table.source-tables")
                    .with("option", key)
                    .with("most", TABLES_MAX),
            ));
        }
        if let Some(poll) = &self.poll
            && poll.every.as_duration() < EVERY_MIN
        {
            let least = EVERY_MIN.as_millis();
            let error = new("table.source-every").with("every", poll.every);
            return Some((key, error.with("least_ms", least)));
        }
        None
    }
}

impl NodeTable {
    fn options(spec: &ConnectionSpec) -> Result<(NodeTableOptions, TopicTemplate), Diagnostic> {
        let options: NodeTableOptions = spec.options.read()?;
        if let Some((key, error)) = options.wrong() {
            return Err(spec.options.diagnostic(key, error));
        }
        let topic = TopicTemplate::read(spec, DEFAULT_TOPIC, &OFFERED)?;
        if options.tables().len() > 1 && !topic.uses("table") {
            let error =
                Error::new(Class::Configuration, "table.source-topic").with("example", "${table}");
            return Err(spec.diagnostic_at_kind(error));
        }
        Ok((options, topic))
    }

    fn open(spec: &ConnectionSpec, context: SourceContext) -> Result<TableSource, Error> {
        let (options, topic) = NodeTable::options(spec)?;
        let tables = NodeTables(Arc::clone(&context.tables));
        let topic_of = |table: &str| {
            let value = |variable: &str| match variable {
                "connection" => Some(context.name.to_string()),
                _ => Some(table.to_owned()),
            };
            let mut written = String::new();
            topic.write(value, &mut written);
            written
        };
        let mut threads: Vec<Box<dyn FollowerThread>> = Vec::new();
        let mut followed = BTreeMap::new();
        if let Some(follow) = &options.follow {
            for table in &follow.tables {
                let (follower, shared) = Follower::new(
                    table,
                    tables.clone(),
                    follow.clone(),
                    topic_of(table),
                    &context,
                );
                threads.push(Box::new(follower));
                followed.insert(table.clone(), shared);
            }
        }
        if let Some(poll) = &options.poll {
            for table in &poll.tables {
                threads.push(Box::new(Poller::new(
                    table,
                    tables.clone(),
                    topic_of(&table.table),
                    poll.every.as_duration(),
                    &*context.clock,
                    &context.resume,
                )));
            }
        }
        TableSource::start(threads, followed)
    }
}

impl Connector for NodeTable {
    fn kind(&self) -> &'static str {
        "table"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        NodeTable::options(spec).map(|_| Roles {
            source: true,
            sink: false,
            service: false,
        })
    }

    /// Tables that the project does not have, that keep no changes, or that another connection follows.
    fn warnings(&self, spec: &ConnectionSpec, project: &Project) -> Vec<Diagnostic> {
        let Ok((options, _)) = NodeTable::options(spec) else {
            return Vec::new();
        };
        let key = if options.follow.is_some() {
            "follow"
        } else {
            "poll"
        };
        let mut found = Vec::new();
        for name in options.tables() {
            let error = match project.tables.get(name) {
                None => Some(no_table(name)),
                Some(table) if options.follow.is_some() && !table.spec.changes => {
                    let error = Error::new(Class::Configuration, "table.changes-off");
                    Some(error.with("table", name))
                }
                Some(_) => None,
            };
            found.extend(error.map(|error| spec.options.diagnostic(key, error)));
        }
        found
    }

    fn schema(&self) -> serde_json::Value {
        schemars::schema_for!(NodeTableOptions).to_value()
    }

    fn source<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SourceContext,
    ) -> Work<'a, Result<Box<dyn Source>, Error>> {
        Box::pin(async move {
            let source = NodeTable::open(spec, context)?;
            Ok(Box::new(source) as Box<dyn Source>)
        })
    }
}
