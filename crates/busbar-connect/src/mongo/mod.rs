//! `mongodb`: a MongoDB server or replica set. Rows become documents; documents are read by queries and looked up, and
//! changes come in as they are committed.
//!
//! The protocol is spoken here and not by the `mongodb` crate, which needs some fifty crates that nothing else here does
//! (a resolver of DNS, a cache, several macros), and whose documents would have to be copied into columns once more.
//!
//! ```yaml
//! mongodb:
//!   address: "db1.example:27017,db2.example:27017"
//!   database: his
//!   user: busbar
//!   password: { env: MONGODB_PASSWORD }
//!   write: { collection: patients, mode: replace, key: [_id] }
//! ```

mod bson;
mod cell;
mod changes;
mod decimal;
mod document;
mod failure;
mod hex;
mod json;
mod limits;
mod link;
mod query;
mod sink;
mod store;
mod survey;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use busbar_bus::Span;
use busbar_catalog::{ConnectionSpec, Diagnostic, Project};
use busbar_connector::limits::{POOL_SESSIONS, POOL_SESSIONS_MAX};
use busbar_connector::{
    ColumnSpec, Connector, Guarantee, KeyedStore, LiteralSecret, Roles, ServiceContext, Sink,
    SinkContext, Source, SourceContext, Survey, Work,
};
use busbar_event::{Class, Error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::places::Places;
use crate::secret::{self, Secret, refuse_placeholder};
use crate::tls::Tls;
use crate::topic::TopicTemplate;
use crate::{lacks_sink, lacks_source};
use changes::MongoFollower;
use link::MongoServer;
use query::MongoQuery;
use sink::MongoSink;
use store::MongoStore;

/// The connector.
pub struct Mongo {
    places: Places,
}

/// MongoDB 4.4 and newer: a server, a replica set, or what leads to a sharded cluster.
///
/// As a sink: exactly once on a replica set. Each delivery is one transaction that also notes how far its producer has come,
/// in the collection `busbar_position` of the same database. A row that the server refuses becomes a dead letter and the
/// others are written. With `transactions: false`, as a server that stands alone needs it, rows are written at least once, and
/// one that comes again takes the place of itself.
///
/// As a source with `follow`: changes as they are committed, each exactly once and in their order, from the change stream of
/// a replica set of version 5 and newer; before them what is in the collections (`read`), in chunks that are joined to the
/// changes without gap. Where a snapshot is interrupted and goes on, documents that are changed meanwhile may come twice. With
/// `read`: documents in the order of fields that grow, at least once.
///
/// Without either: steps look documents up (`join` with `table: NAME.patient`).
///
/// Texts, whole and floating-point numbers, truth values, documents and arrays come as that in JSON. An ObjectId comes as its
/// 24 digits, a date as `2024-02-29T23:59:59.000000Z`, a decimal number as its text, bytes in base64, a UUID as its text.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Host and port of the server, or of several servers of a set with commas between them.
    address: String,
    /// Name of the database.
    database: String,
    /// User name, for SCRAM-SHA-256.
    user: Option<String>,
    /// Password: a text, `{ env: NAME }` or `{ file: PATH }`.
    password: Option<Secret>,
    /// The database that knows the user.
    #[serde(default = "admin")]
    auth_database: String,
    /// TLS; `{}` trusts the usual authorities.
    tls: Option<Tls>,
    /// How long a command may take.
    #[serde(default = "half_a_minute")]
    timeout: Span,
    /// The most sessions that are open at a time for look-ups.
    #[serde(default = "pool_sessions")]
    sessions: u16,
    /// Documents that flows look up and queries read, by the name that they have behind the connection's: `his.patient`.
    #[serde(default)]
    tables: BTreeMap<String, MongoRows>,
    /// Documents to read; makes the connection a source.
    read: Option<MongoRead>,
    /// Collections whose changes come in; makes the connection a source.
    follow: Option<MongoFollow>,
    /// Where rows are written; makes the connection a sink.
    write: Option<MongoWrite>,
}

/// Which documents are looked up.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MongoRows {
    /// The collection.
    collection: String,
    /// Fields that tell its documents apart, by which they are looked up. An index on them is needed.
    key: Vec<String>,
    /// The columns: those of the key, and other fields. `a.b` is the field `b` of the document `a`. A row has NULL for a field
    /// that its document lacks.
    columns: Vec<ColumnSpec>,
    /// Columns of the key whose texts are ObjectIds.
    #[serde(default)]
    object_ids: Vec<String>,
}

/// Which documents are read. The connection's `topic` may use `${collection}` and `${connection}`. Each event is a document as
/// JSON, with its `_id` as the key.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MongoRead {
    /// The collection.
    collection: String,
    /// Fields by which documents are ordered, whose values grow for new documents and are of one type. No two documents may
    /// have the same values in all of them; `_id` as the last one sees to that. The first is a date unless `settle` is `0s`.
    sort: Vec<String>,
    /// Which documents, as a query of MongoDB in JSON: `{"site":"north"}`. Without it, all.
    query: Option<String>,
    /// How long after the time in the first field of `sort` a document is read, so that those that are written late have come.
    #[serde(default = "five_seconds")]
    settle: Span,
    /// Pause before the next query when there was nothing new.
    #[serde(default = "five_seconds")]
    every: Span,
    /// How many documents are asked for at a time.
    #[serde(default = "a_thousand")]
    rows: usize,
}

/// What is followed. The connection's `topic` may use `${collection}` and `${connection}`. Each event has the document's fields
/// and `change`: `read`, `insert`, `update`, `delete` or `truncate`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MongoFollow {
    /// The collections.
    collections: Vec<String>,
    /// Whether what is in the collections comes before their changes.
    #[serde(default = "yes")]
    snapshot: bool,
    /// Whether events have `before`, the document as it was. The collections need `changeStreamPreAndPostImages` for it.
    #[serde(default)]
    before: bool,
    /// A higher number begins anew: at the end of the log and with new snapshots, behind a `truncate` of each collection.
    #[serde(default)]
    generation: u32,
    /// A higher number for a collection takes its snapshot anew, behind a `truncate`: `{ patients: 1 }`.
    #[serde(default)]
    again: BTreeMap<String, u32>,
}

/// How rows are written. A column that is NULL is a field that the document does not have.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MongoWrite {
    /// The collection.
    collection: String,
    /// What is done with each row; `insert` by default, and `replace` with `change`.
    mode: Option<MongoMode>,
    /// Columns that tell documents apart. All modes but `insert` need them; those that add documents need a unique index on
    /// them, which `_id` has.
    #[serde(default)]
    key: Vec<String>,
    /// A column that says for each row what is done: `insert`, `read`, `update` and `upsert` write the document, `delete`
    /// deletes it, `truncate` deletes all documents of the collection, `schema` is ignored. Change sources write it.
    change: Option<String>,
    /// A column that names the fields of a row that keep their value, as a JSON list or with commas. Change sources write it
    /// for large values that the database did not repeat.
    unchanged: Option<String>,
    /// Columns whose texts are ObjectIds, such as `_id`.
    #[serde(default)]
    object_ids: Vec<String>,
    /// Lets times be cut to milliseconds, which is what MongoDB keeps. Without it, a time with more is refused.
    #[serde(default)]
    cut_times: bool,
    /// Whether a delivery is one transaction. A server that stands alone has none.
    #[serde(default = "yes")]
    transactions: bool,
    /// Under which name positions are kept, by default the connection's. Two nodes that write to one database from flows of
    /// the same name need different ones.
    producer: Option<String>,
}

/// What is done with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum MongoMode {
    /// Adds it.
    Insert,
    /// Puts it in the place of the document with the same key, or adds it.
    Replace,
    /// Changes the fields of the document with the same key that are columns of the flow, or adds it.
    Merge,
    /// Changes the fields of the document with the same key, if there is one.
    Update,
    /// Deletes the document with the same key, if there is one.
    Delete,
}

fn admin() -> String {
    "admin".to_owned()
}

fn pool_sessions() -> u16 {
    POOL_SESSIONS
}

fn half_a_minute() -> Span {
    Span::from_micros(30_000_000)
}

fn five_seconds() -> Span {
    Span::from_micros(5_000_000)
}

fn a_thousand() -> usize {
    1_000
}

fn yes() -> bool {
    true
}

/// What is wrong with options: the option, and why.
type WrongOption = Option<(&'static str, Error)>;

fn wrong_option(option: &'static str, code: &'static str) -> WrongOption {
    Some((option, Error::new(Class::Configuration, code)))
}

fn is_collection(name: &str) -> bool {
    !name.is_empty() && !name.starts_with("system.") && !name.contains(['$', '\0'])
}

fn all_different(names: &[String]) -> bool {
    names.iter().collect::<BTreeSet<_>>().len() == names.len()
}

impl MongoRows {
    fn refusal(&self) -> WrongOption {
        let names: Vec<_> = self.columns.iter().map(|one| one.name.clone()).collect();
        let known = |column: &String| names.contains(column);
        match () {
            () if !is_collection(&self.collection) => {
                wrong_option("collection", "mongodb.collection")
            }
            () if self.key.is_empty() || !all_different(&self.key) => {
                wrong_option("key", "mongodb.table-key")
            }
            () if !all_different(&names) || !self.key.iter().all(known) => {
                wrong_option("columns", "mongodb.table-columns")
            }
            () if !self.object_ids.iter().all(|one| self.key.contains(one)) => {
                wrong_option("object_ids", "mongodb.table-object-ids")
            }
            () => None,
        }
    }
}

impl MongoRead {
    fn refusal(&self) -> WrongOption {
        let fields = self.sort.len();
        let is_query = |text: &String| json::json_document(text).is_ok();
        match () {
            () if !is_collection(&self.collection) => {
                wrong_option("collection", "mongodb.collection")
            }
            () if !(1..=limits::SORT_FIELDS_MAX).contains(&fields)
                || !all_different(&self.sort) =>
            {
                let error = Error::new(Class::Configuration, "mongodb.sort");
                Some(("sort", error.with("most", limits::SORT_FIELDS_MAX)))
            }
            () if !self.query.iter().all(is_query) => wrong_option("query", "mongodb.query"),
            () if self.every.as_duration() < limits::EVERY_MIN => {
                let error = Error::new(Class::Configuration, "mongodb.every");
                let least = limits::EVERY_MIN.as_millis();
                Some(("every", error.with("least_ms", least)))
            }
            () if !(1..=limits::PAGE_ROWS_MAX).contains(&self.rows) => {
                let error = Error::new(Class::Configuration, "mongodb.rows");
                Some(("rows", error.with("most", limits::PAGE_ROWS_MAX)))
            }
            () => None,
        }
    }
}

impl MongoFollow {
    fn refusal(&self) -> WrongOption {
        let all = &self.collections;
        let named = !all.is_empty() && all.iter().all(|name| is_collection(name));
        match () {
            () if !named || !all_different(all) || all.len() > limits::TABLES_MAX => {
                let error = Error::new(Class::Configuration, "mongodb.collections");
                Some(("collections", error.with("most", limits::TABLES_MAX)))
            }
            () if !self.again.keys().all(|name| all.contains(name)) => {
                wrong_option("again", "mongodb.again")
            }
            () => None,
        }
    }
}

impl MongoWrite {
    fn mode(&self) -> MongoMode {
        match (self.mode, &self.change) {
            (Some(mode), _) => mode,
            (None, Some(_)) => MongoMode::Replace,
            (None, None) => MongoMode::Insert,
        }
    }

    fn refusal(&self) -> WrongOption {
        let mode = self.mode();
        let by_change = matches!(mode, MongoMode::Replace | MongoMode::Merge);
        match () {
            () if !is_collection(&self.collection) => {
                wrong_option("collection", "mongodb.collection")
            }
            () if self.change.is_some() && !by_change => {
                wrong_option("mode", "mongodb.mode-change")
            }
            () if mode != MongoMode::Insert && self.key.is_empty() => {
                wrong_option("key", "mongodb.key-needed")
            }
            () if !all_different(&self.key) => wrong_option("key", "mongodb.key-needed"),
            () if self.unchanged.is_some() && self.change.is_none() => {
                wrong_option("unchanged", "mongodb.unchanged")
            }
            // A delivery that comes again would be there twice.
            () if !self.transactions && mode == MongoMode::Insert => {
                wrong_option("transactions", "mongodb.insert-twice")
            }
            () => None,
        }
    }
}

impl Mongo {
    pub(crate) fn new(places: Places) -> Mongo {
        Mongo { places }
    }

    fn options(&self, spec: &ConnectionSpec) -> Result<Options, Diagnostic> {
        for key in ["address", "database", "user", "password"] {
            refuse_placeholder(spec, &[key])?;
        }
        let options: Options = spec.options.read()?;
        let refuse = |key: &str, code| {
            let error = Error::new(Class::Configuration, code);
            spec.options.diagnostic(key, error)
        };
        let is_address = |address: &str| {
            address.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
        };
        let addresses = addresses(&options.address);
        let known = !addresses.is_empty() && addresses.len() <= limits::ADDRESSES_MAX;
        if !known || !addresses.iter().all(|address| is_address(address)) {
            return Err(refuse("address", "mongodb.address"));
        }
        if options.database.is_empty()
            || options
                .database
                .contains(['/', '\\', '.', ' ', '"', '$', '\0'])
        {
            return Err(refuse("database", "mongodb.database"));
        }
        if options.user.is_some() != options.password.is_some() {
            return Err(refuse("password", "mongodb.who"));
        }
        let timeout = options.timeout.as_duration();
        if timeout.is_zero() || timeout > limits::TIMEOUT_MAX {
            let error = Error::new(Class::Configuration, "mongodb.timeout");
            let error = error.with("most_s", limits::TIMEOUT_MAX.as_secs());
            return Err(spec.options.diagnostic("timeout", error));
        }
        if let Some(ca) = options.tls.as_ref().and_then(|tls| tls.ca.as_deref()) {
            self.places.check(ca).map_err(|code| refuse("tls", code))?;
        }
        if let Some(file) = options.password.as_ref().and_then(Secret::file) {
            let checked = self.places.check(file);
            checked.map_err(|code| refuse("password", code))?;
        }
        if options.sessions == 0 || options.sessions > POOL_SESSIONS_MAX {
            let error = Error::new(Class::Configuration, "database.sessions");
            let error = error.with("most", POOL_SESSIONS_MAX);
            return Err(spec.options.diagnostic("sessions", error));
        }
        if options.tables.len() > limits::TABLES_MAX {
            let error = Error::new(Class::Configuration, "mongodb.tables");
            let error = error.with("most", limits::TABLES_MAX);
            return Err(spec.options.diagnostic("tables", error));
        }
        let at = |path: &[&str], error: Error| {
            let path: Vec<String> = path.iter().map(|one| (*one).to_owned()).collect();
            match spec
                .options
                .at(&path)
                .or_else(|| spec.options.at(&path[..1]))
            {
                Some(node) => spec.options.diagnostic_at(node, error),
                None => spec.options.diagnostic(&path[0], error),
            }
        };
        for (name, rows) in &options.tables {
            if let Some((option, error)) = rows.refusal() {
                return Err(at(&["tables", name, option], error.with("table", name)));
            }
        }
        let roles = [
            options.read.as_ref().map(|read| ("read", read.refusal())),
            options
                .follow
                .as_ref()
                .map(|follow| ("follow", follow.refusal())),
            options
                .write
                .as_ref()
                .map(|write| ("write", write.refusal())),
        ];
        let mut roles = roles.into_iter().flatten();
        match (roles.next(), roles.next()) {
            (None, _) if !options.tables.is_empty() => {}
            (None, _) | (_, Some(_)) => return Err(refuse("write", "mongodb.no-role")),
            (Some((part, Some((option, error)))), None) => return Err(at(&[part, option], error)),
            (Some((part, None)), None) if part != "write" => {
                self.topic(spec)?;
            }
            (Some(_), None) => {}
        }
        Ok(options)
    }

    fn topic(&self, spec: &ConnectionSpec) -> Result<TopicTemplate, Diagnostic> {
        let offered = ["connection", "collection"];
        TopicTemplate::read(spec, "${connection}/${collection}", &offered)
    }

    /// Where the servers are. The password may stand in a file.
    async fn server(
        &self,
        options: &Options,
        project: &Arc<std::path::Path>,
    ) -> Result<MongoServer, Error> {
        let (given, folder) = (options.password.clone(), Arc::clone(project));
        let places = self.places.clone();
        let read = tokio::task::spawn_blocking(move || {
            given
                .map(|secret| secret.read(&folder, &places))
                .transpose()
        });
        let password = read.await.map_err(|why| {
            Error::new(Class::Transient, "connect.failed-within").caused_by(why)
        })??;
        Ok(MongoServer {
            addresses: addresses(&options.address),
            database: options.database.as_str().into(),
            user: options.user.clone(),
            password,
            auth_database: options.auth_database.clone(),
            tls: options.tls.clone(),
            timeout: options.timeout.as_duration(),
            project: Arc::clone(project),
            places: self.places.clone(),
        })
    }
}

/// The servers that an address names.
fn addresses(address: &str) -> Vec<String> {
    let all = address.split(',').map(str::trim);
    all.filter(|one| !one.is_empty())
        .map(str::to_owned)
        .collect()
}

impl Connector for Mongo {
    fn kind(&self) -> &'static str {
        "mongodb"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        let options = self.options(spec)?;
        Ok(Roles {
            source: options.read.is_some() || options.follow.is_some(),
            sink: options.write.is_some(),
            service: false,
        })
    }

    fn schema(&self) -> serde_json::Value {
        schemars::schema_for!(Options).to_value()
    }

    fn warnings(&self, spec: &ConnectionSpec, _: &Project) -> Vec<Diagnostic> {
        secret::warnings(spec, &self.secrets(spec))
    }

    fn secrets(&self, spec: &ConnectionSpec) -> Vec<LiteralSecret> {
        secret::literals(spec, &[&["password"]])
    }

    fn keeps_rows(&self, spec: &ConnectionSpec) -> bool {
        let options = self.options(spec);
        options.is_ok_and(|options| !options.tables.is_empty())
    }

    fn store<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: ServiceContext,
    ) -> Work<'a, Result<Arc<dyn KeyedStore>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let server = self.server(&options, &context.project_dir).await?;
            let (name, tables) = (&context.name, &options.tables);
            let store = MongoStore::new(name, server, options.sessions, tables);
            Ok(Arc::new(store) as Arc<dyn KeyedStore>)
        })
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn survey<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        project_dir: Arc<std::path::Path>,
        tables: bool,
    ) -> Work<'a, Result<Survey, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let server = self.server(&options, &project_dir).await?;
            survey::survey(&server, tables).await
        })
    }

    fn source<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SourceContext,
    ) -> Work<'a, Result<Box<dyn Source>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let server = self.server(&options, &context.project_dir).await?;
            let topic = self.topic(spec)?;
            if let Some(read) = options.read {
                return Ok(
                    Box::new(MongoQuery::new(server, read, topic, &context)?) as Box<dyn Source>
                );
            }
            let follow = options.follow.ok_or_else(|| lacks_source(self.kind()))?;
            let source = MongoFollower::open(server, follow, topic, context).await?;
            Ok(Box::new(source) as Box<dyn Source>)
        })
    }

    fn sink<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SinkContext,
    ) -> Work<'a, Result<Box<dyn Sink>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let server = self.server(&options, &context.project_dir).await?;
            let write = options.write.ok_or_else(|| lacks_sink(self.kind()))?;
            let sink = MongoSink::open(server, write, context).await?;
            Ok(Box::new(sink) as Box<dyn Sink>)
        })
    }
}
