//! `postgres`: a PostgreSQL database. Its changes or the rows of a query come in as events; rows are written to a table.
//!
//! ```yaml
//! postgres:
//!   address: "db.example:5432"
//!   database: his
//!   user: busbar
//!   password: { env: HIS_PASSWORD }
//!   write: { table: public.patient, mode: upsert, key: [id] }      # a sink
//!   # follow: { tables: [public.patient] }                         # a source: changes as they are committed
//! ```

mod auth;
mod begin;
mod changes;
mod copy;
mod database;
mod failure;
mod follow;
mod limits;
mod link;
mod query;
mod rows;
mod sink;
mod snapshot;
mod survey;
mod types;

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

use crate::change::{Echoed, Write};
use crate::places::Places;
use crate::relational::LoginOptions;
use crate::relational::login::{LoginCodes, check_followed, default_sessions, default_timeout};
use crate::secret::{self, Secret, refuse_placeholder};
use crate::tls::Tls;
use crate::topic::TopicTemplate;
use crate::{lacks_sink, lacks_source};
pub use begin::default_name;
use changes::ChangeSource;
use database::PostgresDatabase;
use link::{PostgresProtocol, Server};
use query::QuerySource;
use sink::PostgresSink;
pub(crate) use types::made_for;

/// The connector.
pub struct Postgres {
    places: Places,
}

/// A PostgreSQL database, version 13 or newer.
///
/// As a source with `follow`: changes as they are committed, from a replication slot, each exactly once and in their order;
/// before them what is in the tables (`read`), in chunks that are joined to the changes without gap. A snapshot that is
/// interrupted goes on behind its last chunk; rows that are changed meanwhile may then come twice, and a table without a
/// primary key is read again. Each event has the row's columns and `change`: `read`, `insert`, `update`, `delete`,
/// `truncate` or `schema`; `before` is the row as it was, if the table's `REPLICA IDENTITY` is `FULL`; `unchanged` names
/// large values that the database did not repeat. An update that changes the key is a `delete` and an `insert`. The tags
/// `transaction`, `position` and `sequence` say where it stands. Whole numbers and finite floating-point numbers are
/// numbers, `json` is JSON, times are in UTC, and everything else is a text as the database writes it, `numeric` too.
///
/// As a source with `query`: at least once; the rows of a statement, run at intervals from the position of the last row.
/// Rows that are deleted, or that change without a new position, are not seen; rows that were committed late are found with
/// `overlap`. After a restart rows of the overlap come again.
///
/// A slot or a position that is lost stops the connection. Its error says how to go on: a new `generation` takes everything
/// anew.
///
/// Without either: steps look rows up in its tables (`join` with `table: NAME.public.patient`), `call` its statements, and SQL
/// reads its tables.
///
/// As a sink: exactly once. Each delivery is one transaction that also notes how far its producer has come, in the table
/// `busbar_position` of the same schema. A row that the database refuses becomes a dead letter (kept in `busbar_refused`
/// beside it until the next position) and the others of its delivery are written. Types are compared when the sink is
/// opened; where values would be rounded or cut, it is refused unless `lossy` is on.
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
    /// TLS; `{}` trusts the usual authorities. A server that offers none is refused.
    tls: Option<Tls>,
    /// How long a statement may take.
    #[serde(default = "default_timeout")]
    timeout: Span,
    /// The most sessions that are open at a time for look-ups, queries and statements of flows.
    #[serde(default = "default_sessions")]
    #[schemars(range(min = 1, max = 64))]
    sessions: u16,
    /// Tables whose changes come in; makes the connection a source.
    follow: Option<Follow>,
    /// A statement whose rows come in; makes the connection a source.
    query: Option<QueryOptions>,
    /// A table to write to; makes the connection a sink.
    write: Option<Write>,
}

/// What is followed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Follow {
    /// The tables, as `schema.table`, or `table` in the schema `public`.
    tables: Vec<String>,
    /// Names of connections whose writes do not come in, of those with `newer` (version 14 or newer): what Busbar itself has written through them
    /// from the other one of two tables that are kept in step both ways. What they deleted comes in, with the tag `producer`.
    #[serde(default)]
    without: Vec<String>,
    /// Which changes of these come in all the same: `deletes` where both sides write with `newer`. Where one side is preferred,
    /// `returned` for that side and `none` for the other.
    #[serde(default)]
    echo: Echoed,
    /// Whether what is in the tables comes before their changes.
    #[serde(default = "yes")]
    snapshot: bool,
    /// Name of the replication slot; by default `busbar_` and the connection's name.
    slot: Option<String>,
    /// Name of the publication; by default the same.
    publication: Option<String>,
    /// Makes the slot and the publication where they are missing. With `false`, and where the user may not, the error says
    /// the statement.
    #[serde(default = "yes")]
    create: bool,
    /// A higher number begins anew: with a new slot and new snapshots, behind a `truncate` of each table.
    #[serde(default)]
    generation: u32,
    /// A higher number for a table takes its snapshot anew, behind a `truncate`: `{ public.patient: 1 }`.
    #[serde(default)]
    again: BTreeMap<String, u32>,
}

/// A statement that is run again and again.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Query")]
pub(super) struct QueryOptions {
    /// The statement. With `position` it takes rows behind `$1`, in the order of that column:
    /// `select * from orders where id > $1 order by id`.
    statement: String,
    /// How often it is run.
    #[serde(default = "ten_seconds")]
    every: Span,
    /// The column whose value in the last row is `$1` of the next run.
    position: Option<String>,
    /// `$1` of the first run.
    start: Option<String>,
    /// How far before the last position the next run begins, for rows that were committed late: a span for times, a number
    /// for numbers. Rows that came with the run before are left out.
    overlap: Option<Overlap>,
}

/// How far runs overlap.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Overlap {
    /// For whole numbers.
    Number(u64),
    /// For times.
    Time(Span),
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

const CODES: LoginCodes = LoginCodes {
    address: "postgres.address",
    timeout: "postgres.timeout",
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

impl Postgres {
    pub(crate) fn new(places: Places) -> Postgres {
        Postgres { places }
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
        if let Some(query) = &options.query {
            if options.follow.is_some() {
                return Err(refuse("query", "postgres.two-sources"));
            }
            if query.position.is_some() != query.start.is_some()
                || query.overlap.is_some() && query.position.is_none()
            {
                return Err(refuse("query", "postgres.query-position"));
            }
            if query.every.as_duration() < limits::QUERY_EVERY_MIN {
                let error = Error::new(Class::Configuration, "postgres.query-every");
                let error = error.with("least_ms", limits::QUERY_EVERY_MIN.as_millis());
                return Err(spec.options.diagnostic("query", error));
            }
        }
        if let Some(follow) = &options.follow {
            let tables = (&follow.tables[..], &follow.again);
            let codes = ["postgres.no-tables", "postgres.again"];
            check_followed(spec, tables, "public", limits::TABLES_MAX, codes)?;
        }
        if let Some(code) = options.write.as_ref().and_then(Write::check) {
            return Err(refuse("write", code));
        }
        Ok(options)
    }

    /// The options, and where the server is. Blocks on the disk when the password stands in a file.
    fn opened(
        &self,
        spec: &ConnectionSpec,
        project: &Arc<std::path::Path>,
    ) -> Result<(Options, Server), Error> {
        let options = self.options(spec)?;
        let protocol = PostgresProtocol;
        let server = options.login().server(protocol, project, &self.places)?;
        Ok((options, server))
    }
}

impl Connector for Postgres {
    fn kind(&self) -> &'static str {
        "postgres"
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
            let database = PostgresDatabase::new(&context.name, server, options.sessions);
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
            let rows = rows::PostgresRows::open(server, &read).await?;
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
            if let Some(follow) = options.follow {
                let source = ChangeSource::open(server, &follow, &topic, context).await?;
                return Ok(Box::new(source) as Box<dyn Source>);
            }
            let query = options.query.ok_or_else(|| lacks_source(self.kind()))?;
            let source = QuerySource::open(server, query, &topic, context).await?;
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
            let sink = PostgresSink::open(server, write, context).await?;
            Ok(Box::new(sink) as Box<dyn Sink>)
        })
    }
}
