//! `redis`: a Redis server, or one that speaks its protocol, such as Valkey. Rows are written under keys; entries of streams
//! are read, hashes are looked up, and hot tables are kept there.
//!
//! ```yaml
//! redis:
//!   address: "cache.example:6379"
//!   password: { env: REDIS_PASSWORD }
//!   write: { key: "patient:${id}", ttl: 1h, change: change }
//! ```

mod failure;
mod hot;
mod hot_due;
mod hot_index;
mod hot_memory;
mod key;
mod limits;
mod link;
mod sink;
mod source;
mod store;
mod survey;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use busbar_bus::Span;
use busbar_catalog::{ConnectionSpec, Diagnostic, Project, Template};
use busbar_connector::limits::{POOL_SESSIONS, POOL_SESSIONS_MAX};
use busbar_connector::{
    ColumnSpec, Connector, Guarantee, HotDatabase, KeyedStore, LiteralSecret, Roles,
    ServiceContext, Sink, SinkContext, Source, SourceContext, Survey, Work,
};
use busbar_event::{Class, Error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::places::Places;
use crate::secret::{self, Secret, refuse_placeholder};
use crate::tls::Tls;
use crate::topic::TopicTemplate;
use crate::{lacks_sink, lacks_source};
use hot::RedisHot;
use key::RedisKey;
use link::RedisServer;
use sink::RedisSink;
use source::RedisSource;
use store::RedisStore;

/// The connector.
pub struct Redis {
    places: Places,
}

/// A Redis server of version 6 and newer, or one that speaks its protocol, alone or with replicas. A cluster and a sentinel
/// are refused.
///
/// As a sink: exactly once. Each delivery is one MULTI … EXEC that also notes how far its producer has come, under
/// `busbar:position:` and a name. A row whose key holds another kind of value becomes a dead letter and the others of its
/// delivery are written. What Redis itself loses when it fails depends on its own settings (`appendonly`, `appendfsync`);
/// rows and position are lost together, and the log says so.
///
/// As a source: each entry of a stream once; how far it has been read is kept here. Entries that the server dropped before
/// they were read are an error that is shown.
///
/// Hot tables whose file names the connection are kept there, each write exactly once, as by the sink; that needs neither `read`
/// nor `write` nor `tables`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Host and port of the server.
    address: String,
    /// Number of the database.
    #[serde(default)]
    database: u32,
    /// User name; without one the server's `default`.
    user: Option<String>,
    /// Password: a text, `{ env: NAME }` or `{ file: PATH }`.
    password: Option<Secret>,
    /// TLS; `{}` trusts the usual authorities.
    tls: Option<Tls>,
    /// How long a command may take.
    #[serde(default = "half_a_minute")]
    timeout: Span,
    /// The most sessions that are open at a time for look-ups.
    #[serde(default = "pool_sessions")]
    sessions: u16,
    /// Hashes that flows look up and queries read, by the name that they have behind the connection's: `cache.patient`.
    #[serde(default)]
    tables: BTreeMap<String, RowsOptions>,
    /// Streams to read; makes the connection a source.
    read: Option<ReadOptions>,
    /// Where rows are written; makes the connection a sink.
    write: Option<WriteOptions>,
}

/// Which streams are read. The connection's `topic` may use `${stream}` and `${connection}`. Each event has the time of its
/// entry, and the entry's number in the tag `redis-id`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReadOptions {
    /// Keys of the streams. One that does not exist yet is waited for.
    streams: Vec<String>,
    /// A field whose value is the payload; without one the payload is a JSON object of all fields, each a text.
    payload: Option<String>,
    /// Leaves out what was in a stream before it was read for the first time.
    #[serde(default)]
    new_only: bool,
}

/// How rows are written.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriteOptions {
    /// The key of a row, with columns of the flow in it: `patient:${id}`.
    key: String,
    /// What is kept under the key.
    #[serde(default, rename = "as")]
    kind: Kind,
    /// How long a key stays since it was written last; without it, until it is deleted. Not for a stream.
    ttl: Option<Span>,
    /// Deletes keys in place of writing them: those of a hash or a value; of a set, the row from the set.
    #[serde(default)]
    delete: bool,
    /// A column that says for each row what is done: `insert`, `read`, `update` and `upsert` write it, `delete` deletes its
    /// key, `truncate` deletes all keys that match, `schema` is ignored. Change sources write it. For hashes and values.
    change: Option<String>,
    /// A column that names the fields of a row that keep their value, as a JSON list or with commas. Change sources write it
    /// for large values that the database did not repeat. For hashes.
    unchanged: Option<String>,
    /// About how many entries a stream keeps: the oldest go first.
    max: Option<u64>,
    /// Under which name positions are kept, by default the connection's. Two nodes that write to one server from flows of
    /// the same name need different ones.
    producer: Option<String>,
}

/// Hashes whose keys are made alike: a row each.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RowsOptions {
    /// The key of a row, with columns in it: `patient:${id}`. By these columns rows are looked up.
    key: String,
    /// The columns: those of the key, and fields of the hashes. A row has NULL for a field that its hash lacks.
    columns: Vec<ColumnSpec>,
}

/// What is kept under a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// A hash with a field for each column; a field that is null is removed.
    #[default]
    Hash,
    /// The row as the flow sends it: JSON, unless it has a format of its own.
    Value,
    /// A set of rows, each as for a value.
    Set,
    /// A stream with an entry for each row, whose fields are the columns.
    Stream,
}

fn pool_sessions() -> u16 {
    POOL_SESSIONS
}

fn half_a_minute() -> Span {
    Span::from_micros(30_000_000)
}

impl RowsOptions {
    fn row_key(&self) -> Result<RedisKey, Error> {
        let template = Template::parse(&self.key).map_err(|(_, error)| error)?;
        Ok(RedisKey::new(&template))
    }

    /// What is wrong with it: the option, and why.
    fn refusal(&self, name: &str) -> Option<(&'static str, Error)> {
        let refuse = |option, code| {
            let error = Error::new(Class::Configuration, code);
            Some((option, error.with("table", name)))
        };
        let key = match self.row_key() {
            Ok(key) => key,
            Err(error) => return Some(("key", error)),
        };
        let mut names: Vec<&str> = self.columns.iter().map(|one| one.name.as_str()).collect();
        names.sort_unstable();
        let is_column = |column: &str| names.binary_search(&column).is_ok();
        let twice = names.windows(2).any(|pair| pair[0] == pair[1]);
        let mut of_key: Vec<&str> = key.columns().collect();
        of_key.sort_unstable();
        let key_twice = of_key.windows(2).any(|pair| pair[0] == pair[1]);
        match () {
            () if !key.begins_with_text() || of_key.is_empty() => refuse("key", "redis.table-key"),
            () if key.is_ambiguous() || key_twice => refuse("key", "redis.table-key"),
            () if twice || !of_key.iter().all(|column| is_column(column)) => {
                refuse("columns", "redis.table-columns")
            }
            () => None,
        }
    }
}

impl WriteOptions {
    fn template(&self) -> Result<Template, Error> {
        Template::parse(&self.key).map_err(|(_, error)| error)
    }

    fn ttl_millis(&self) -> Option<u64> {
        let ttl = self.ttl.map(|ttl| ttl.as_duration().as_millis());
        ttl.and_then(|millis| u64::try_from(millis).ok())
    }

    /// What is wrong with it: the option, and why.
    fn refusal(&self) -> Option<(&'static str, Error)> {
        let refuse = |option, code| Some((option, Error::new(Class::Configuration, code)));
        let template = match self.template() {
            Ok(template) => template,
            Err(error) => return Some(("key", error)),
        };
        let kind = self.kind;
        let keyed = matches!(kind, Kind::Hash | Kind::Value);
        let begins = RedisKey::new(&template).begins_with_text();
        match () {
            () if self.key.is_empty() => refuse("key", "redis.key-empty"),
            () if keyed && template.literal().is_some() => refuse("key", "redis.key-fixed"),
            // All keys of the server would be truncated.
            () if self.change.is_some() && !begins => refuse("key", "redis.key-begins"),
            () if self.change.is_some() && !keyed => refuse("change", "redis.not-keyed"),
            () if self.unchanged.is_some() && kind != Kind::Hash => {
                refuse("unchanged", "redis.not-hash")
            }
            () if self.delete && (kind == Kind::Stream || self.change.is_some()) => {
                refuse("delete", "redis.not-deleted")
            }
            () if self.max.is_some() && kind != Kind::Stream => refuse("max", "redis.not-stream"),
            () if self.ttl.is_some() && (kind == Kind::Stream || self.ttl_millis() < Some(1)) => {
                refuse("ttl", "redis.ttl")
            }
            () => None,
        }
    }
}

impl Redis {
    pub(crate) fn new(places: Places) -> Redis {
        Redis { places }
    }

    fn options(&self, spec: &ConnectionSpec) -> Result<Options, Diagnostic> {
        for key in ["address", "user", "password"] {
            refuse_placeholder(spec, &[key])?;
        }
        let options: Options = spec.options.read()?;
        let refuse = |key: &str, code| {
            let error = Error::new(Class::Configuration, code);
            spec.options.diagnostic(key, error)
        };
        let inner = |path: [&str; 2], error| match spec.options.at(&path.map(str::to_owned)) {
            Some(node) => spec.options.diagnostic_at(node, error),
            None => spec.options.diagnostic(path[0], error),
        };
        let port = options.address.rsplit_once(':').and_then(|(host, port)| {
            (!host.is_empty())
                .then(|| port.parse::<u16>().ok())
                .flatten()
        });
        if port.is_none_or(|port| port == 0) {
            return Err(refuse("address", "redis.address"));
        }
        let timeout = options.timeout.as_duration();
        if timeout.is_zero() || timeout > limits::TIMEOUT_MAX {
            let error = Error::new(Class::Configuration, "redis.timeout");
            let error = error.with("most_s", limits::TIMEOUT_MAX.as_secs());
            return Err(spec.options.diagnostic("timeout", error));
        }
        if let Some(ca) = options.tls.as_ref().and_then(|tls| tls.ca.as_deref()) {
            self.places.check(ca).map_err(|code| refuse("tls", code))?;
        }
        if let Some(file) = options.password.as_ref().and_then(Secret::file) {
            self.places
                .check(file)
                .map_err(|code| refuse("password", code))?;
        }
        if options.sessions == 0 || options.sessions > POOL_SESSIONS_MAX {
            let error = Error::new(Class::Configuration, "database.sessions");
            let error = error.with("most", POOL_SESSIONS_MAX);
            return Err(spec.options.diagnostic("sessions", error));
        }
        if options.tables.len() > limits::TABLES_MAX {
            let error = Error::new(Class::Configuration, "redis.tables");
            let error = error.with("most", limits::TABLES_MAX);
            return Err(spec.options.diagnostic("tables", error));
        }
        for (name, rows) in &options.tables {
            if let Some((option, error)) = rows.refusal(name) {
                let path = ["tables", name, option].map(str::to_owned);
                return Err(match spec.options.at(&path) {
                    Some(node) => spec.options.diagnostic_at(node, error),
                    None => spec.options.diagnostic("tables", error),
                });
            }
        }
        match (&options.read, &options.write) {
            (None, None) => {}
            (Some(_), Some(_)) => return Err(refuse("write", "redis.two-roles")),
            (Some(read), None) => {
                let count = read.streams.len();
                let mut names: Vec<_> = read.streams.iter().collect();
                names.sort();
                names.dedup();
                if !(1..=limits::STREAMS_MAX).contains(&count) || names.len() != count {
                    let error = Error::new(Class::Configuration, "redis.streams");
                    let error = error.with("most", limits::STREAMS_MAX);
                    return Err(inner(["read", "streams"], error));
                }
                self.topic(spec)?;
            }
            (None, Some(write)) => {
                if let Some((option, error)) = write.refusal() {
                    return Err(inner(["write", option], error));
                }
            }
        }
        Ok(options)
    }

    fn topic(&self, spec: &ConnectionSpec) -> Result<TopicTemplate, Diagnostic> {
        TopicTemplate::read(spec, "${connection}/${stream}", &["connection", "stream"])
    }

    /// Where the server is. Blocks on the disk when the password stands in a file.
    fn server(
        &self,
        options: &Options,
        project: &Arc<std::path::Path>,
    ) -> Result<RedisServer, Error> {
        let password = options.password.as_ref();
        let password = password
            .map(|secret| secret.read(project, &self.places))
            .transpose()?;
        Ok(RedisServer {
            address: options.address.as_str().into(),
            database: options.database,
            user: options.user.as_deref().unwrap_or("default").into(),
            password,
            tls: options.tls.clone(),
            timeout: options.timeout.as_duration(),
            project: Arc::clone(project),
            places: self.places.clone(),
        })
    }
}

impl Connector for Redis {
    fn kind(&self) -> &'static str {
        "redis"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        let options = self.options(spec)?;
        Ok(Roles {
            source: options.read.is_some(),
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
            let server = self.server(&options, &context.project_dir)?;
            let (name, tables) = (&context.name, &options.tables);
            let store = RedisStore::new(name, server, options.sessions, tables)?;
            Ok(Arc::new(store) as Arc<dyn KeyedStore>)
        })
    }

    fn keeps_hot(&self) -> bool {
        true
    }

    fn hot<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: ServiceContext,
    ) -> Work<'a, Result<Arc<dyn HotDatabase>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let server = self.server(&options, &context.project_dir)?;
            let hot = RedisHot::new(context.name, server, options.sessions)?;
            Ok(Arc::new(hot) as Arc<dyn HotDatabase>)
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
            let server = self.server(&options, &project_dir)?;
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
            let server = self.server(&options, &context.project_dir)?;
            let read = options.read.ok_or_else(|| lacks_source(self.kind()))?;
            let topic = self.topic(spec)?;
            let source = RedisSource::open(server, read, topic, context).await?;
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
            let server = self.server(&options, &context.project_dir)?;
            let write = options.write.ok_or_else(|| lacks_sink(self.kind()))?;
            let sink = RedisSink::open(server, write, context).await?;
            Ok(Box::new(sink) as Box<dyn Sink>)
        })
    }
}
