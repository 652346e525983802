//! `sqlserver`: a database of Microsoft SQL Server or Azure SQL. Its changes or the rows of a query come in as events; rows are
//! written to a table.
//!
//! ```yaml
//! sqlserver:
//!   address: "db.example:1433"
//!   database: nis
//!   user: busbar
//!   password: { env: NIS_PASSWORD }
//!   write: { table: dbo.patient, mode: upsert, key: [id] }      # a sink
//!   # follow: { tables: [dbo.patient] }                           # a source: changes as they are committed
//!   # query: { statement: "select * from dbo.visit where id > @position order by id", position: id, start: "0" }
//! ```

mod changes;
mod codepage;
mod database;
mod failure;
mod follow;
mod limits;
mod link;
mod lsn;
mod pages;
mod query;
mod reader;
mod row;
mod rows;
mod sink;
mod survey;
mod target;
mod token;
mod tunnel;
mod value;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use busbar_bus::Span;
use busbar_catalog::{ConnectionSpec, Diagnostic, Project};
use busbar_connector::{
    Connector, Guarantee, LiteralSecret, OrderedRows, Roles, ServiceContext, Sink, SinkContext,
    Source, SourceContext, SqlDatabase, Survey, TableRead, Work,
};
use busbar_event::{Class, Error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::change::Write;
use crate::places::Places;
use crate::relational::LoginOptions;
use crate::relational::login::{LoginCodes, check_followed, default_sessions, default_timeout};
use crate::schedule::CronTimes;
use crate::secret::{self, Secret, refuse_placeholder};
use crate::tls::Tls;
use crate::topic::TopicTemplate;
use crate::{lacks_sink, lacks_source};
use changes::MssqlChanges;
use database::MssqlDatabase;
use link::{MssqlServer, TdsProtocol};
use query::MssqlQuerySource;
use sink::{DEFAULT_SCHEMA, MssqlSink};

/// The connector.
pub struct Sqlserver {
    places: Places,
}

/// A database of Microsoft SQL Server 2016 and newer, or Azure SQL. Users log in with a name and a password of SQL Server.
///
/// As a source with `follow`: changes as they are committed, each exactly once and in their order; before them what is in the
/// tables (`read`), in chunks that are joined to the changes without gap. They are read from the tables of change data capture
/// (`by: cdc`), each change with the row before it; or by change tracking (`by: tracking`), of each row the last change, and of
/// a deleted row the key. Rows that are changed while they are read may come twice, the second time with an older state that
/// the changes behind it make good. Each event has the row's columns and `change`: `read`, `insert`, `update`, `delete`,
/// `truncate` or `schema`; `before` is the row as it was. An update that changes the key is a `delete` and an `insert`. The tags
/// `transaction`, `position` and `sequence` say where it stands. A position that the server has let go of stops the connection;
/// its error says how to go on.
///
/// As a source with `query`: at least once; the rows of a statement, run at intervals or at times of the day from the position
/// of the last row. Rows that are deleted, or that change without a new position, are not seen; rows that were committed late
/// are found with `overlap`. After a restart rows of the overlap come again.
///
/// Numbers are numbers, but `decimal` and `money`, which are texts with all their digits; `bit` is a truth value; times are
/// `2024-02-29T23:59:59`, with their offset where they have one; bytes are `0x00ff`; and everything else is a text.
///
/// Without either: steps look rows up in its tables (`join` with `table: NAME.dbo.patient`), `call` its statements, and SQL reads its
/// tables.
///
/// As a sink: exactly once. Each delivery is one transaction that also notes how far its producer has come, in the table
/// `busbar_position` of the same schema. A row that the database refuses becomes a dead letter (kept in `busbar_refused`
/// beside it until the next position) and the others of its delivery are written. Types are compared when the sink is
/// opened; where values would be rounded or cut, or a character is not in the column's code page, it is refused unless `lossy`
/// is on. Times are written in UTC.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Host and port of the server.
    address: String,
    /// Name of the database.
    database: String,
    /// User name.
    user: String,
    /// Password: a text, `{ env: NAME }` or `{ file: PATH }`.
    password: Option<Secret>,
    /// TLS for everything; `{}` trusts the usual authorities. Without it only the login is encrypted, where the server can.
    tls: Option<Tls>,
    /// TLS for everything, with any certificate, such as the one that a server makes for itself: nobody can listen, but it is
    /// not proved who the server is.
    #[serde(default)]
    trust_certificate: bool,
    /// How long a statement may take.
    #[serde(default = "default_timeout")]
    timeout: Span,
    /// The most sessions that are open at a time for look-ups, queries and statements of flows.
    #[serde(default = "default_sessions")]
    #[schemars(range(min = 1, max = 64))]
    sessions: u16,
    /// Tables whose changes come in; makes the connection a source.
    follow: Option<MssqlFollow>,
    /// A statement whose rows come in; makes the connection a source.
    query: Option<MssqlQuery>,
    /// A table to write to; makes the connection a sink.
    write: Option<Write>,
}

/// What is followed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MssqlFollow {
    /// The tables, as `schema.table`, or `table` in the schema `dbo`. Each has a primary key.
    tables: Vec<String>,
    /// Where the changes are found.
    #[serde(default)]
    by: MssqlFollowBy,
    /// Whether what is in the tables comes before their changes.
    #[serde(default = "yes")]
    snapshot: bool,
    /// The longest pause between two looks at the changes. While there are some, pauses are shorter.
    #[serde(default = "one_second")]
    every: Span,
    /// A higher number begins anew: at the end of the changes and with new snapshots, behind a `truncate` of each table.
    #[serde(default)]
    generation: u32,
    /// A higher number for a table takes its snapshot anew, behind a `truncate`: `{ dbo.patient: 1 }`.
    #[serde(default)]
    again: BTreeMap<String, u32>,
}

/// Where changes are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum MssqlFollowBy {
    /// Change data capture: all changes, with the rows before them.
    #[default]
    Cdc,
    /// Change tracking: the last change of each row.
    Tracking,
}

/// A statement that is run again and again.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Query")]
pub(super) struct MssqlQuery {
    /// The statement. With `position` it takes rows behind `@position`, in the order of that column:
    /// `select * from dbo.visit where id > @position order by id`.
    statement: String,
    /// How often it is run; 10 s unless this or `at` is set.
    every: Option<Span>,
    /// When it is run, in UTC and as cron writes it, with minute, hour, day, month and weekday: `0 3 * * *`.
    at: Option<String>,
    /// The column whose value in the last row is `@position` of the next run.
    position: Option<String>,
    /// `@position` of the first run: a number, a time such as `2024-05-06T07:08:09`, bytes such as `0x00`, or another text.
    start: Option<String>,
    /// How far before the last position the next run begins, for rows that were committed late: a span for times, a number
    /// for numbers. Rows that came with the run before are left out.
    overlap: Option<MssqlOverlap>,
}

/// How far runs overlap.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Overlap")]
pub(super) enum MssqlOverlap {
    /// For numbers.
    Number(u64),
    /// For times.
    Time(Span),
}

const QUERY_TOPIC: &str = "query/${connection}";
const QUERY_OFFERED: [&str; 1] = ["connection"];

const DEFAULT_TOPIC: &str = "change/${connection}/${schema}/${table}";
const OFFERED: [&str; 3] = ["connection", "schema", "table"];

fn yes() -> bool {
    true
}

fn one_second() -> Span {
    Span::from_micros(1_000_000)
}

fn ten_seconds() -> Span {
    Span::from_micros(10_000_000)
}

const CODES: LoginCodes = LoginCodes {
    address: "sqlserver.address",
    timeout: "sqlserver.timeout",
};

impl Options {
    /// What names the server.
    fn login(&self) -> LoginOptions<'_> {
        LoginOptions {
            address: &self.address,
            database: &self.database,
            user: &self.user,
            password: self.password.as_ref(),
            tls: self.tls.as_ref(),
            timeout: self.timeout,
            sessions: self.sessions,
        }
    }

    /// The topic of events, if the connection is a source.
    fn topic(&self, spec: &ConnectionSpec) -> Result<TopicTemplate, Diagnostic> {
        match self.query {
            Some(_) => TopicTemplate::read(spec, QUERY_TOPIC, &QUERY_OFFERED),
            None => TopicTemplate::read(spec, DEFAULT_TOPIC, &OFFERED),
        }
    }
}

impl Sqlserver {
    pub(crate) fn new(places: Places) -> Sqlserver {
        Sqlserver { places }
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
        options.login().check(spec, &self.places, &CODES)?;
        // Nothing would be checked although "tls" asks for it.
        if options.tls.is_some() && options.trust_certificate {
            return Err(refuse("trust_certificate", "sqlserver.trust"));
        }
        if let Some(follow) = &options.follow {
            let tables = (&follow.tables[..], &follow.again);
            let codes = ["sqlserver.no-tables", "sqlserver.again"];
            check_followed(spec, tables, DEFAULT_SCHEMA, limits::TABLES_MAX, codes)?;
            let every = follow.every.as_duration();
            if every < limits::IDLE_FIRST || every > limits::EVERY_MAX {
                let error = Error::new(Class::Configuration, "sqlserver.every")
                    .with("least_ms", limits::IDLE_FIRST.as_millis())
                    .with("most_s", limits::EVERY_MAX.as_secs());
                return Err(spec.options.diagnostic("follow", error));
            }
        }
        if let Some(query) = &options.query {
            if options.follow.is_some() {
                return Err(refuse("query", "sqlserver.two-sources"));
            }
            if query.position.is_some() != query.start.is_some()
                || query.overlap.is_some() && query.position.is_none()
            {
                return Err(refuse("query", "sqlserver.query-position"));
            }
            if query
                .every
                .is_some_and(|every| every.as_duration() < limits::EVERY_MIN)
            {
                let error = Error::new(Class::Configuration, "sqlserver.query-every");
                let error = error.with("least_ms", limits::EVERY_MIN.as_millis());
                return Err(spec.options.diagnostic("query", error));
            }
            let times = query.at.as_deref().map(CronTimes::read);
            if times == Some(None) || times.is_some() && query.every.is_some() {
                return Err(refuse("query", "sqlserver.query-at"));
            }
        }
        if options.write.as_ref().is_some_and(Write::is_told) {
            return Err(refuse("write", "sqlserver.no-newer"));
        }
        match options.write.as_ref().and_then(Write::check) {
            Some(code) => Err(refuse("write", code)),
            None => Ok(options),
        }
    }

    /// The options, and where the server is. Blocks on the disk when the password stands in a file.
    fn opened(
        &self,
        spec: &ConnectionSpec,
        project: &Arc<std::path::Path>,
    ) -> Result<(Options, MssqlServer), Error> {
        let options = self.options(spec)?;
        let protocol = TdsProtocol {
            trust: options.trust_certificate,
        };
        let server = options.login().server(protocol, project, &self.places)?;
        Ok((options, server))
    }
}

impl Connector for Sqlserver {
    fn kind(&self) -> &'static str {
        "sqlserver"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        let options = self.options(spec)?;
        options.topic(spec)?;
        Ok(Roles {
            source: options.follow.is_some() || options.query.is_some(),
            sink: options.write.is_some(),
            service: true,
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
            let (options, server) = self.opened(spec, &context.project_dir)?;
            let database = MssqlDatabase::new(&context.name, server, options.sessions);
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
            let (_, server) = self.opened(spec, &project_dir)?;
            survey::survey(&server, tables).await
        })
    }

    fn read_table<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        project_dir: Arc<std::path::Path>,
        read: TableRead,
    ) -> Work<'a, Result<Box<dyn OrderedRows>, Error>> {
        Box::pin(async move {
            let (_, server) = self.opened(spec, &project_dir)?;
            let rows = rows::MssqlRows::open(server, &read).await?;
            Ok(Box::new(rows) as Box<dyn OrderedRows>)
        })
    }

    fn source<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SourceContext,
    ) -> Work<'a, Result<Box<dyn Source>, Error>> {
        Box::pin(async move {
            let (options, server) = self.opened(spec, &context.project_dir)?;
            let topic = options.topic(spec)?;
            if let Some(follow) = &options.follow {
                let source = MssqlChanges::open(server, follow, &topic, context).await?;
                return Ok(Box::new(source) as Box<dyn Source>);
            }
            let query = options.query.ok_or_else(|| lacks_source(self.kind()))?;
            let source = MssqlQuerySource::open(server, query, &topic, context).await?;
            Ok(Box::new(source) as Box<dyn Source>)
        })
    }

    fn sink<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SinkContext,
    ) -> Work<'a, Result<Box<dyn Sink>, Error>> {
        Box::pin(async move {
            let (options, server) = self.opened(spec, &context.project_dir)?;
            let write = options.write.ok_or_else(|| lacks_sink(self.kind()))?;
            let sink = MssqlSink::open(server, write, context).await?;
            Ok(Box::new(sink) as Box<dyn Sink>)
        })
    }
}
