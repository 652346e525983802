//! `cassandra`: tables of Cassandra, or of a server that speaks its protocol. Rows are written by their keys, looked up, and read
//! by a statement.
//!
//! ```yaml
//! cassandra:
//!   addresses: ["cassandra1.example:9042", "cassandra2.example:9042"]
//!   keyspace: plant
//!   user: busbar
//!   password: { env: CASSANDRA_PASSWORD }
//!   write: { table: reading }
//! ```

mod cells;
mod database;
mod failure;
mod frame;
mod kind;
mod limits;
mod link;
mod note;
mod number;
mod sink;
mod source;
mod survey;
mod table;

use std::sync::Arc;

use busbar_bus::Span;
use busbar_catalog::{ConnectionSpec, Diagnostic, Project};
use busbar_connector::limits::{POOL_SESSIONS, POOL_SESSIONS_MAX};
use busbar_connector::{
    Connector, Guarantee, LiteralSecret, Roles, ServiceContext, Sink, SinkContext, Source,
    SourceContext, SqlDatabase, Survey, Work,
};
use busbar_event::{Class, Error};
use busbar_log::Clock;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::change::{is_table_name, table_name};
use crate::places::Places;
use crate::schedule::{CronTimes, RunSchedule};
use crate::secret::{self, Secret, refuse_placeholder};
use crate::tls::Tls;
use crate::topic::TopicTemplate;
use crate::{lacks_sink, lacks_source};
use database::CassandraDatabase;
use link::CassandraServer;
use sink::CassandraSink;
use source::CassandraSource;

/// The connector.
pub struct Cassandra {
    places: Places,
}

/// Cassandra of version 3.11 and newer, or a server that speaks version 4 of its protocol, such as ScyllaDB.
///
/// Without `query` and `write`: steps look rows up in its tables (`join` with `table: NAME.plant.reading`) by the columns of their
/// keys, `call` its statements, and SQL reads its tables.
///
/// As a sink: exactly once. A row is written by its key, `USING TIMESTAMP`: the time at which its batch was begun, which is noted in
/// a table beside it before the batch is written. A batch that comes again after a crash is written again with the same times, which
/// changes nothing, and a request that is carried out late does not replace what was written since. A row that the server refuses,
/// and one with a value that its column does not keep as it is, becomes a dead letter. Of two writers of one row the later time
/// counts, so that the clocks of other writers and of this machine should agree.
///
/// As a source: the rows of a statement that is run at intervals or at times of the day, page by page, at least once.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CassandraOptions {
    /// Host and port of servers of the cluster. One is asked; the next one where it does not answer.
    addresses: Vec<String>,
    /// The keyspace of tables that are named without one.
    keyspace: Option<String>,
    /// User name.
    user: Option<String>,
    /// Password: a text, `{ env: NAME }` or `{ file: PATH }`.
    password: Option<Secret>,
    /// TLS; `{}` trusts the usual authorities.
    tls: Option<Tls>,
    /// How long a request may take.
    #[serde(default = "half_a_minute")]
    timeout: Span,
    /// How many servers that keep a row must have read or written it.
    #[serde(default)]
    consistency: CassandraConsistency,
    /// The most sessions that are open at a time for look-ups, queries and statements of flows.
    #[serde(default = "pool_sessions")]
    #[schemars(range(min = 1, max = 64))]
    sessions: u16,
    /// A statement whose rows come in; makes the connection a source.
    query: Option<CassandraQuery>,
    /// A table to write to; makes the connection a sink.
    write: Option<CassandraWrite>,
}

/// A statement that is run again and again. The connection's `topic` may use `${connection}`. Each event is a row as JSON.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CassandraQuery {
    /// The statement. With `position` it takes rows behind `:position`:
    /// `select * from alarm where site = 'north' and at > :position`. Without, all its rows come with each run.
    statement: String,
    /// How often it is run; 10 s unless this or `at` is set.
    every: Option<Span>,
    /// When it is run, in UTC and as cron writes it, with minute, hour, day, month and weekday: `0 3 * * *`.
    at: Option<String>,
    /// The column whose greatest value is `:position` of the next run. A row that gets a value before it does not come.
    position: Option<String>,
    /// The `:position` of the first run: a number, a text, or a time such as `2024-05-06T07:08:09Z`.
    start: Option<String>,
    /// How many rows are asked for at a time.
    #[serde(default = "a_thousand")]
    rows: usize,
}

/// How rows are written.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CassandraWrite {
    /// The table, as `keyspace.table`, or `table` in the connection's keyspace. All columns of its primary key are columns of the
    /// flow.
    table: String,
    /// What is done with each row; not used where `change` says it.
    #[serde(default)]
    mode: CassandraMode,
    /// A column that says for each row what is done: `insert`, `read`, `update` and `upsert` write it, `delete` deletes the one
    /// with its key, `truncate` deletes all rows, `schema` is ignored. Change sources write it.
    change: Option<String>,
    /// A column that names the columns of a row that keep their value, as a JSON list or with commas. Change sources write it
    /// for large values that the database did not repeat.
    unchanged: Option<String>,
    /// What becomes of a column whose value is null.
    #[serde(default)]
    nulls: CassandraNulls,
    /// How long a row stays since it was written; without it, as long as the table says.
    ttl: Option<Span>,
    /// Lets values be rounded where the column cannot hold them whole.
    #[serde(default)]
    lossy: bool,
    /// The table beside it that keeps how far each flow has come, made where it is missing. Two nodes that write to one keyspace
    /// over connections and from flows of the same names need different ones.
    #[serde(default = "first_positions")]
    positions: String,
}

/// What is done with a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum CassandraMode {
    /// Puts it in the place of the one with its key.
    #[default]
    Upsert,
    /// Deletes the one with its key.
    Delete,
}

/// What becomes of nulls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum CassandraNulls {
    /// The column has no value any more. Each leaves a mark that Cassandra keeps for some days (tombstone).
    #[default]
    Delete,
    /// The column keeps the value that it has.
    Keep,
}

/// How many servers must have done what is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum CassandraConsistency {
    /// Most of those in the data centre of the server that is asked.
    #[default]
    LocalQuorum,
    /// Most of those in all data centres.
    Quorum,
    /// All of them.
    All,
    /// One of those in the data centre.
    LocalOne,
    /// One of them.
    One,
}

fn half_a_minute() -> Span {
    Span::from_micros(30_000_000)
}

fn pool_sessions() -> u16 {
    POOL_SESSIONS
}

fn a_thousand() -> usize {
    1_000
}

fn first_positions() -> String {
    "busbar_position".to_owned()
}

/// What is wrong with options: the option, and why.
type CassandraWrong = Option<(&'static str, Error)>;

fn wrong(option: &'static str, code: &'static str) -> CassandraWrong {
    Some((option, Error::new(Class::Configuration, code)))
}

impl CassandraConsistency {
    /// Its number in the protocol.
    fn number(self) -> u16 {
        match self {
            CassandraConsistency::One => 1,
            CassandraConsistency::Quorum => 4,
            CassandraConsistency::All => 5,
            CassandraConsistency::LocalQuorum => 6,
            CassandraConsistency::LocalOne => 10,
        }
    }
}

impl CassandraWrite {
    /// Keyspace and name of the table.
    fn table_name<'a>(&'a self, keyspace: &'a str) -> (&'a str, &'a str) {
        table_name(&self.table, keyspace)
    }

    fn refusal(&self, keyspace: &str) -> CassandraWrong {
        let ttl = self.ttl.map(|ttl| ttl.as_duration());
        match () {
            () if !is_table_name(&self.table) => wrong("table", "connect.table-name"),
            () if self.table_name(keyspace).0.is_empty() => wrong("table", "cassandra.keyspace"),
            () if self.positions.is_empty() || self.positions.contains('.') => {
                wrong("positions", "cassandra.positions-name")
            }
            () if ttl.is_some_and(|ttl| ttl.as_secs() < 1 || ttl > limits::TTL_MAX) => {
                wrong("ttl", "cassandra.ttl")
            }
            () if self.change.is_some() && self.mode != CassandraMode::Upsert => {
                wrong("mode", "cassandra.mode-change")
            }
            () => None,
        }
    }
}

impl CassandraQuery {
    fn refusal(&self) -> CassandraWrong {
        let names = self.statement.contains(":position");
        let every = self.every.map(|every| every.as_duration());
        let times = self.at.as_deref().map(CronTimes::read);
        match () {
            () if self.statement.trim().is_empty() => wrong("statement", "cassandra.statement"),
            () if self.position.is_some() != names || self.start.is_some() != names => {
                wrong("statement", "cassandra.query-position")
            }
            () if every.is_some_and(|every| every < limits::EVERY_MIN) => {
                let error = Error::new(Class::Configuration, "cassandra.every");
                let least = limits::EVERY_MIN.as_millis();
                Some(("every", error.with("least_ms", least)))
            }
            () if times == Some(None) || times.is_some() && every.is_some() => {
                wrong("at", "cassandra.query-at")
            }
            () if !(1..=limits::PAGE_ROWS_MAX).contains(&self.rows) => {
                let error = Error::new(Class::Configuration, "cassandra.rows");
                Some(("rows", error.with("most", limits::PAGE_ROWS_MAX)))
            }
            () => None,
        }
    }

    /// When the statement is run.
    fn schedule(&self, clock: &Arc<dyn Clock>) -> RunSchedule {
        match self.at.as_deref().and_then(CronTimes::read) {
            Some(times) => RunSchedule::at(times, Arc::clone(clock)),
            None => {
                let every = self.every.unwrap_or(Span::from_micros(10_000_000));
                RunSchedule::every(every.as_duration())
            }
        }
    }
}

impl Cassandra {
    pub(crate) fn new(places: Places) -> Cassandra {
        Cassandra { places }
    }

    fn options(&self, spec: &ConnectionSpec) -> Result<CassandraOptions, Diagnostic> {
        for key in ["user", "password", "keyspace"] {
            refuse_placeholder(spec, &[key])?;
        }
        let options: CassandraOptions = spec.options.read()?;
        let refuse = |key: &str, error| spec.options.diagnostic(key, error);
        let new = |code| Error::new(Class::Configuration, code);
        let count = options.addresses.len();
        if !(1..=limits::ADDRESSES_MAX).contains(&count) {
            let error = new("cassandra.addresses").with("most", limits::ADDRESSES_MAX);
            return Err(refuse("addresses", error));
        }
        for address in &options.addresses {
            let port = address.rsplit_once(':').and_then(|(host, port)| {
                (!host.is_empty())
                    .then(|| port.parse::<u16>().ok())
                    .flatten()
            });
            if port.is_none_or(|port| port == 0) {
                let error = new("cassandra.address").with("address", address);
                return Err(refuse("addresses", error));
            }
        }
        let timeout = options.timeout.as_duration();
        if timeout.is_zero() || timeout > limits::TIMEOUT_MAX {
            let error = new("cassandra.timeout").with("most_s", limits::TIMEOUT_MAX.as_secs());
            return Err(refuse("timeout", error));
        }
        if let Some(ca) = options.tls.as_ref().and_then(|tls| tls.ca.as_deref()) {
            self.places
                .check(ca)
                .map_err(|code| refuse("tls", new(code)))?;
        }
        if let Some(file) = options.password.as_ref().and_then(Secret::file) {
            let checked = self.places.check(file);
            checked.map_err(|code| refuse("password", new(code)))?;
        }
        if options.password.is_some() != options.user.is_some() {
            let key = if options.user.is_some() {
                "user"
            } else {
                "password"
            };
            return Err(refuse(key, new("cassandra.who")));
        }
        if options.sessions == 0 || options.sessions > POOL_SESSIONS_MAX {
            let error = new("database.sessions").with("most", POOL_SESSIONS_MAX);
            return Err(refuse("sessions", error));
        }
        let of_query = options.query.as_ref().and_then(CassandraQuery::refusal);
        let of_write = options.write.as_ref();
        let of_write = of_write
            .and_then(|write| write.refusal(options.keyspace.as_deref().unwrap_or_default()));
        for (part, wrong) in [("query", of_query), ("write", of_write)] {
            if let Some((option, error)) = wrong {
                let place = spec.options.at(&[part.to_owned(), option.to_owned()]);
                return Err(match place {
                    Some(node) => spec.options.diagnostic_at(node, error),
                    None => spec.options.diagnostic(part, error),
                });
            }
        }
        if options.query.is_some() {
            self.topic(spec)?;
        }
        Ok(options)
    }

    fn topic(&self, spec: &ConnectionSpec) -> Result<TopicTemplate, Diagnostic> {
        TopicTemplate::read(spec, "query/${connection}", &["connection"])
    }

    /// Where the servers are. Blocks on the disk when the password stands in a file.
    fn server(
        &self,
        options: &CassandraOptions,
        project: &Arc<std::path::Path>,
    ) -> Result<CassandraServer, Error> {
        let password = options.password.as_ref();
        let password = password
            .map(|secret| secret.read(project, &self.places))
            .transpose()?;
        Ok(CassandraServer {
            addresses: options.addresses.clone(),
            last: Default::default(),
            keyspace: options.keyspace.clone().unwrap_or_default(),
            user: options.user.clone().unwrap_or_default(),
            password,
            tls: options.tls.clone(),
            timeout: options.timeout.as_duration(),
            consistency: options.consistency.number(),
            project: Arc::clone(project),
            places: self.places.clone(),
        })
    }
}

impl Connector for Cassandra {
    fn kind(&self) -> &'static str {
        "cassandra"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        let options = self.options(spec)?;
        Ok(Roles {
            source: options.query.is_some(),
            sink: options.write.is_some(),
            service: true,
        })
    }

    fn schema(&self) -> serde_json::Value {
        schemars::schema_for!(CassandraOptions).to_value()
    }

    fn warnings(&self, spec: &ConnectionSpec, _: &Project) -> Vec<Diagnostic> {
        secret::warnings(spec, &self.secrets(spec))
    }

    fn secrets(&self, spec: &ConnectionSpec) -> Vec<LiteralSecret> {
        secret::literals(spec, &[&["password"]])
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn is_database(&self) -> bool {
        true
    }

    fn keeps_tables(&self) -> bool {
        false
    }

    fn database<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: ServiceContext,
    ) -> Work<'a, Result<Arc<dyn SqlDatabase>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let server = self.server(&options, &context.project_dir)?;
            let database = CassandraDatabase::new(&context.name, server, options.sessions);
            Ok(Arc::new(database) as Arc<dyn SqlDatabase>)
        })
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
            let query = options.query.ok_or_else(|| lacks_source(self.kind()))?;
            let topic = self.topic(spec)?;
            let source = CassandraSource::new(server, query, &topic, &context);
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
            Ok(Box::new(CassandraSink::new(server, write, &context)) as Box<dyn Sink>)
        })
    }
}
