//! `jdbc`: any database with a JDBC driver. The rows of a query or the changes of tables come in; rows are written to a table.
//!
//! ```yaml
//! jdbc:
//!   driver: drivers/ojdbc11.jar
//!   url: "jdbc:oracle:thin:@//db.example:1521/HIS"
//!   user: busbar
//!   password: { env: HIS_PASSWORD }
//!   write: { table: patient, mode: upsert, key: [id] }      # a sink
//!   # poll: { tables: [{ table: patient, version: changed }] }   # a source
//! ```
//!
//! The drivers are loaded by a Java program, the worker, whose source is in `java`: it is compiled when it is first needed,
//! and speaks with the node over its input and output. One process serves all that use the connection.

mod cells;
mod database;
mod dialect;
mod failure;
mod frame;
mod java;
mod limits;
mod poll;
mod query;
mod row;
mod rows;
mod session;
mod sink;
mod survey;
mod types;
mod worker;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Weak};

use busbar_bus::Span;
use busbar_catalog::{ConnectionSpec, Diagnostic, Node, Project, Value};
use busbar_connector::{
    Connector, Guarantee, LiteralSecret, OrderedRows, Roles, ServiceContext, Sink, SinkContext,
    Source, SourceContext, SqlDatabase, Survey, TableRead, Work,
};
use busbar_event::{Class, Error, Size};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::change::{Write, is_table_name};
use crate::places::{PathRefused, Places};
use crate::schedule::CronTimes;
use crate::secret::{self, Secret, refuse_placeholder};
use crate::topic::TopicTemplate;
use database::JdbcDatabase;
use dialect::JdbcDialectName;
use poll::JdbcPollSource;
use query::JdbcQuerySource;
use sink::JdbcSink;
use worker::{JdbcLogin, JdbcWorker};

/// The connector.
pub struct Jdbc {
    places: Places,
    /// Those that somebody uses.
    workers: Mutex<Vec<Weak<JdbcWorker>>>,
}

/// Any database with a JDBC driver, whose jar the site provides. Java 11 or newer with its compiler has to be installed.
///
/// As a source with `poll`: at least once; the rows of tables whose version, a number or a time that grows with each
/// change, is new, in the order of version and key, so that none is skipped where several have the same version. Before
/// them comes what is in the tables (`read`). Each event has the row's columns and `change`: `read` or `upsert`. Rows that
/// are deleted are not seen. A row that is committed late, with a version that is behind, is found within `overlap`; after a
/// restart rows of the overlap come again.
///
/// As a source with `query`: at least once; the rows of a statement, run at intervals from the position of the last row.
///
/// Without either: steps look rows up in its tables (`join` with `table: NAME.schema.table`), `call` its statements, and SQL
/// reads its tables.
///
/// Whole numbers and finite floating-point numbers are numbers, bytes are hexadecimal digits, times are as in ISO 8601,
/// instants in UTC, and everything else is a text, decimal numbers too where they have digits behind the point or more than
/// 18 digits.
///
/// As a sink: exactly once. Each delivery is one transaction that also notes how far its producer has come, in the table
/// `busbar_position` of the same schema. A row that the database refuses becomes a dead letter (kept in `busbar_refused`
/// beside it until the next position) and the others of its delivery are written. Types are compared when the sink is
/// opened; where values would be rounded or cut, it is refused unless `lossy` is on.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The driver's jar, or several: inside the project's folder, or in one that `[files] allow` names.
    driver: Drivers,
    /// The driver's class. Not needed where the jar names it, as jars do since JDBC 4.
    class: Option<String>,
    /// The address, as the driver's manual says it: `jdbc:oracle:thin:@//db.example:1521/HIS`. Without a password.
    url: String,
    /// User name.
    #[serde(default)]
    user: String,
    /// Password: a text, `{ env: NAME }` or `{ file: PATH }`.
    password: Option<Secret>,
    /// Properties of the driver, each a text, `{ env: NAME }` or `{ file: PATH }`.
    #[serde(default)]
    properties: BTreeMap<String, Secret>,
    /// How the database writes SQL, where the driver's name for it says too little.
    dialect: Option<JdbcDialectName>,
    /// Memory of the Java program for its objects.
    #[serde(default = "memory")]
    memory: Size,
    /// Connections to the database at most. Each source and each partition of a sink takes one.
    #[serde(default = "sessions")]
    sessions: usize,
    /// How long a statement may take.
    #[serde(default = "half_a_minute")]
    timeout: Span,
    /// Tables whose changes come in; makes the connection a source.
    poll: Option<PollOptions>,
    /// A statement whose rows come in; makes the connection a source.
    query: Option<QueryOptions>,
    /// A table to write to; makes the connection a sink.
    write: Option<Write>,
}

/// One jar or several.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Drivers {
    /// A path.
    One(String),
    /// Paths.
    Several(Vec<String>),
}

/// What is polled.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Poll")]
pub(super) struct PollOptions {
    /// The tables.
    tables: Vec<PolledTable>,
    /// How often they are looked at.
    #[serde(default = "ten_seconds")]
    every: Span,
    /// How far before the last version the next look begins, for rows that are committed late: a span for times, a number
    /// for numbers. Rows that came with the look before are left out.
    overlap: Option<JdbcOverlap>,
    /// Whether what is in the tables comes before their changes.
    #[serde(default = "yes")]
    snapshot: bool,
    /// A higher number begins anew, behind a `truncate` of each table.
    #[serde(default)]
    generation: u32,
}

/// A table that is polled.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PolledTable {
    /// The table, as `schema.table`, or `table` in the schema that the database takes by itself.
    table: String,
    /// The column with the version: a number or a time that grows with each change of a row. Rows without one are not seen.
    version: String,
    /// Columns that tell rows apart; by default the primary key.
    #[serde(default)]
    key: Vec<String>,
}

/// A statement that is run again and again.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Query")]
pub(super) struct QueryOptions {
    /// The statement. With `position` it takes rows behind `?`, in the order of that column:
    /// `select * from orders where id > ? order by id`.
    statement: String,
    /// How often it is run; 10 s unless this or `at` is set.
    every: Option<Span>,
    /// When it is run, in UTC and as cron writes it, with minute, hour, day, month and weekday: `0 3 * * *`.
    at: Option<String>,
    /// The column whose value in the last row is each `?` of the next run.
    position: Option<String>,
    /// The `?` of the first run: a number, or a time such as `2024-05-06T07:08:09Z`, or another text.
    start: Option<String>,
    /// How far before the last position the next run begins, for rows that were committed late: a span for times, a number
    /// for numbers. Rows that came with the run before are left out.
    overlap: Option<JdbcOverlap>,
}

/// How far runs overlap.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Overlap")]
pub(super) enum JdbcOverlap {
    /// For numbers.
    Number(u64),
    /// For times.
    Time(Span),
}

impl JdbcOverlap {
    /// As the worker takes it: microseconds, or the number.
    fn amount(&self) -> u64 {
        match self {
            JdbcOverlap::Number(number) => *number,
            JdbcOverlap::Time(span) => span.as_micros().unsigned_abs(),
        }
    }

    /// Whether it can be taken from values of a type.
    fn suits(&self, kind: i32) -> bool {
        use types::jdbc as of;
        match self {
            JdbcOverlap::Number(_) => matches!(
                kind,
                of::TINYINT | of::SMALLINT | of::INTEGER | of::BIGINT | of::NUMERIC
            ),
            JdbcOverlap::Time(_) => {
                matches!(kind, of::DATE | of::TIMESTAMP | of::TIMESTAMP_WITH_TIMEZONE)
            }
        }
    }
}

fn memory() -> Size {
    Size::from_bytes(limits::MEMORY_BYTES)
}

fn sessions() -> usize {
    limits::SESSIONS
}

fn half_a_minute() -> Span {
    Span::from_micros(30_000_000)
}

fn ten_seconds() -> Span {
    Span::from_micros(10_000_000)
}

fn yes() -> bool {
    true
}

const DEFAULT_TOPIC: &str = "change/${connection}/${schema}/${table}";
const OFFERED: [&str; 3] = ["connection", "schema", "table"];

const QUERY_TOPIC: &str = "query/${connection}";
const QUERY_OFFERED: [&str; 1] = ["connection"];

impl Drivers {
    fn paths(&self) -> &[String] {
        match self {
            Drivers::One(path) => std::slice::from_ref(path),
            Drivers::Several(paths) => paths,
        }
    }
}

impl Options {
    /// The topic of events, if the connection is a source.
    fn topic(&self, spec: &ConnectionSpec) -> Result<TopicTemplate, Diagnostic> {
        match self.query {
            Some(_) => TopicTemplate::read(spec, QUERY_TOPIC, &QUERY_OFFERED),
            None => TopicTemplate::read(spec, DEFAULT_TOPIC, &OFFERED),
        }
    }

    /// What is wrong with it: the key, and the code of the error.
    fn fault(&self, places: &Places) -> Option<(&'static str, Error)> {
        let wrong = |key, code| Some((key, Error::new(Class::Configuration, code)));
        let paths = self.driver.paths();
        if paths.is_empty() || paths.len() > limits::DRIVERS_MAX {
            return wrong("driver", "jdbc.no-driver");
        }
        if let Some(code) = paths.iter().find_map(|path| places.check(path).err()) {
            return wrong("driver", code);
        }
        if !self.url.starts_with("jdbc:") {
            return wrong("url", "jdbc.url");
        }
        if has_password(&self.url) {
            return wrong("url", "jdbc.url-password");
        }
        let secrets = self.password.iter().map(|secret| ("password", secret));
        let properties = self.properties.values();
        let properties = properties.map(|secret| ("properties", secret));
        for (key, secret) in secrets.chain(properties) {
            if let Some(Err(code)) = secret.file().map(|file| places.check(file)) {
                return wrong(key, code);
            }
        }
        let memory = self.memory.as_bytes();
        if !(limits::MEMORY_BYTES_MIN..=limits::MEMORY_BYTES_MAX).contains(&memory) {
            let error = Error::new(Class::Configuration, "jdbc.memory");
            let error = error.with("least_mib", limits::MEMORY_BYTES_MIN >> 20);
            return Some((
                "memory",
                error.with("most_mib", limits::MEMORY_BYTES_MAX >> 20),
            ));
        }
        if self.sessions == 0 || self.sessions > limits::SESSIONS_MAX {
            let error = Error::new(Class::Configuration, "jdbc.sessions-number");
            return Some(("sessions", error.with("most", limits::SESSIONS_MAX)));
        }
        let timeout = self.timeout.as_duration();
        if timeout.is_zero() || timeout > limits::TIMEOUT_MAX {
            let error = Error::new(Class::Configuration, "jdbc.timeout");
            return Some((
                "timeout",
                error.with("most_s", limits::TIMEOUT_MAX.as_secs()),
            ));
        }
        if self.poll.is_some() && self.query.is_some() {
            return wrong("query", "jdbc.two-sources");
        }
        let rare = |every: Span| every.as_duration() < limits::EVERY_MIN;
        let every = || {
            let error = Error::new(Class::Configuration, "jdbc.every");
            error.with("least_ms", limits::EVERY_MIN.as_millis())
        };
        if let Some(query) = &self.query {
            if query.position.is_some() != query.start.is_some()
                || query.overlap.is_some() && query.position.is_none()
            {
                return wrong("query", "jdbc.query-position");
            }
            if query.every.is_some_and(rare) {
                return Some(("query", every()));
            }
            let times = query.at.as_deref().map(CronTimes::read);
            if times == Some(None) || times.is_some() && query.every.is_some() {
                return wrong("query", "jdbc.query-at");
            }
        }
        if let Some(poll) = &self.poll {
            if poll.tables.is_empty() || poll.tables.len() > limits::TABLES_MAX {
                return wrong("poll", "jdbc.no-tables");
            }
            if !poll.tables.iter().all(|table| is_table_name(&table.table)) {
                return wrong("poll", "connect.table-name");
            }
            if rare(poll.every) {
                return Some(("poll", every()));
            }
        }
        if self.write.as_ref().is_some_and(Write::is_told) {
            return wrong("write", "jdbc.no-newer");
        }
        let write = self.write.as_ref().and_then(Write::check);
        write.and_then(|code| wrong("write", code))
    }
}

/// Whether an address seems to hold a password.
fn has_password(url: &str) -> bool {
    let small = url.to_ascii_lowercase();
    let named = ["password=", "pwd=", "passwd="];
    let in_login = |rest: &str| {
        rest.split_once('@')
            .is_some_and(|(login, _)| login.contains('/'))
    };
    named.iter().any(|name| small.contains(name))
        || small
            .strip_prefix("jdbc:oracle:thin:")
            .is_some_and(in_login)
}

impl Jdbc {
    pub(crate) fn new(places: Places) -> Jdbc {
        Jdbc {
            places,
            workers: Mutex::default(),
        }
    }

    fn options(&self, spec: &ConnectionSpec) -> Result<Options, Diagnostic> {
        for key in ["url", "user", "password"] {
            refuse_placeholder(spec, &[key])?;
        }
        let options: Options = spec.options.read()?;
        match options.fault(&self.places) {
            None => Ok(options),
            Some((key, error)) => Err(spec.options.diagnostic(key, error)),
        }
    }

    fn opened(&self, spec: &ConnectionSpec) -> Result<Options, Error> {
        self.options(spec)
            .map_err(|refused| refused.error().clone())
    }

    /// The process for these options, shared with all that use it. Blocks on the disk for a moment.
    fn worker(&self, options: &Options, project: &Arc<Path>) -> Result<Arc<JdbcWorker>, Error> {
        let read = |secret: &Secret| secret.read(project, &self.places);
        let drivers = options.driver.paths().iter().map(|driver| {
            let found = self.places.resolve(project, &project.join(driver));
            found.map_err(|refused| match refused {
                PathRefused::Outside(error) => error,
                PathRefused::Io(why) => Error::new(Class::Configuration, "jdbc.driver-missing")
                    .with("file", driver)
                    .caused_by(why),
            })
        });
        let properties = options.properties.iter();
        let properties = properties.map(|(name, secret)| Ok((name.clone(), read(secret)?)));
        let login = JdbcLogin {
            folder: project.to_path_buf(),
            drivers: drivers.collect::<Result<_, _>>()?,
            class: options.class.clone(),
            url: options.url.clone(),
            user: options.user.clone(),
            password: options.password.as_ref().map(read).transpose()?,
            properties: properties.collect::<Result<_, Error>>()?,
            memory: options.memory.as_bytes(),
            timeout: options.timeout.as_duration(),
            sessions: options.sessions,
        };
        let mut workers = self.workers.lock();
        workers.retain(|worker| worker.strong_count() > 0);
        let known = workers.iter().filter_map(Weak::upgrade);
        if let Some(worker) = known.into_iter().find(|worker| worker.login == login) {
            return Ok(worker);
        }
        let worker = Arc::new(JdbcWorker::new(login));
        workers.push(Arc::downgrade(&worker));
        Ok(worker)
    }
}

impl Connector for Jdbc {
    fn kind(&self) -> &'static str {
        "jdbc"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        let options = self.options(spec)?;
        options.topic(spec)?;
        Ok(Roles {
            source: options.poll.is_some() || options.query.is_some(),
            sink: options.write.is_some(),
            service: true,
        })
    }

    fn schema(&self) -> serde_json::Value {
        schemars::schema_for!(Options).to_value()
    }

    fn warnings(&self, spec: &ConnectionSpec, _: &Project) -> Vec<Diagnostic> {
        let mut warnings = secret::warnings(spec, &self.secrets(spec));
        let missing = ["java", "javac"].map(java::find);
        if let Some(missing) = missing.into_iter().find_map(Result::err) {
            warnings.push(spec.options.diagnostic("driver", missing).warning());
        }
        warnings
    }

    fn secrets(&self, spec: &ConnectionSpec) -> Vec<LiteralSecret> {
        let literal = |node: &Node| !matches!(node.value, Value::Map(_) | Value::Null);
        let secret = |path: &[&str]| LiteralSecret {
            path: path.iter().map(|key| (*key).to_owned()).collect(),
            shown: secret::HIDDEN.into(),
        };
        let mut secrets = Vec::new();
        let options = spec.options.node();
        if options.child("password".into()).is_some_and(literal) {
            secrets.push(secret(&["password"]));
        }
        let Some(properties) = options.child("properties".into()) else {
            return secrets;
        };
        let Value::Map(entries) = &properties.value else {
            return secrets;
        };
        for (key, value) in entries {
            let name = key.text.to_lowercase();
            let hidden = ["password", "passwd", "pwd", "secret", "token"];
            if literal(value) && hidden.iter().any(|word| name.contains(word)) {
                secrets.push(secret(&["properties", &key.text]));
            }
        }
        secrets
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn is_database(&self) -> bool {
        true
    }

    fn database<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: ServiceContext,
    ) -> Work<'a, Result<Arc<dyn SqlDatabase>, Error>> {
        Box::pin(async move {
            let options = self.opened(spec)?;
            let worker = self.worker(&options, &context.project_dir)?;
            let database = JdbcDatabase::new(&context.name, worker, options.dialect);
            Ok(Arc::new(database) as Arc<dyn SqlDatabase>)
        })
    }

    fn survey<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        project_dir: Arc<Path>,
        tables: bool,
    ) -> Work<'a, Result<Survey, Error>> {
        Box::pin(async move {
            let options = self.opened(spec)?;
            let worker = self.worker(&options, &project_dir)?;
            survey::survey(&worker, tables).await
        })
    }

    fn read_table<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        project_dir: Arc<Path>,
        read: TableRead,
    ) -> Work<'a, Result<Box<dyn OrderedRows>, Error>> {
        Box::pin(async move {
            let options = self.opened(spec)?;
            let worker = self.worker(&options, &project_dir)?;
            let rows = rows::JdbcRows::open(&worker, options.dialect, &read).await?;
            Ok(Box::new(rows) as Box<dyn OrderedRows>)
        })
    }

    fn source<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SourceContext,
    ) -> Work<'a, Result<Box<dyn Source>, Error>> {
        Box::pin(async move {
            let options = self.opened(spec)?;
            let topic = options
                .topic(spec)
                .map_err(|refused| refused.error().clone())?;
            if options.poll.is_none() && options.query.is_none() {
                let error = Error::new(Class::Configuration, "connect.no-source");
                return Err(error.with("kind", "jdbc"));
            }
            let worker = self.worker(&options, &context.project_dir)?;
            if let Some(poll) = options.poll {
                let source =
                    JdbcPollSource::open(worker, options.dialect, poll, &topic, context).await?;
                return Ok(Box::new(source) as Box<dyn Source>);
            }
            let Some(query) = options.query else {
                let error = Error::new(Class::Configuration, "connect.no-source");
                return Err(error.with("kind", "jdbc"));
            };
            let source = JdbcQuerySource::open(worker, query, &topic, context).await?;
            Ok(Box::new(source) as Box<dyn Source>)
        })
    }

    fn sink<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SinkContext,
    ) -> Work<'a, Result<Box<dyn Sink>, Error>> {
        Box::pin(async move {
            let mut options = self.opened(spec)?;
            let Some(write) = options.write.take() else {
                let error = Error::new(Class::Configuration, "connect.no-sink");
                return Err(error.with("kind", "jdbc"));
            };
            let worker = self.worker(&options, &context.project_dir)?;
            let sink = JdbcSink::open(worker, options.dialect, write, context).await?;
            Ok(Box::new(sink) as Box<dyn Sink>)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_addresses_are_seen() {
        for (url, expected) in [
            ("jdbc:oracle:thin:@//db:1521/HIS", false),
            ("jdbc:oracle:thin:scott/tiger@//db:1521/HIS", true),
            ("jdbc:postgresql://db/his?password=x", true),
            ("jdbc:sqlserver://db;databaseName=his;Password=x", true),
            ("jdbc:h2:./data/his", false),
        ] {
            assert_eq!(has_password(url), expected, "{url}");
        }
    }
}
