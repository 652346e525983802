//! `mysql`: a MySQL or MariaDB database, or one that speaks their protocol. Its changes come in as events; rows are written
//! to a table.
//!
//! ```yaml
//! mysql:
//!   address: "db.example:3306"
//!   database: his
//!   user: busbar
//!   password: { env: HIS_PASSWORD }
//!   write: { table: patient, mode: upsert, key: [id] }      # a sink
//!   # follow: { tables: [patient] }                         # a source: changes as they are committed
//! ```

mod auth;
mod changes;
mod database;
mod failure;
mod follow;
mod limits;
mod link;
mod origin;
mod rows;
mod sink;
mod snapshot;
mod statement;
mod survey;
mod table_columns;
mod values;

use std::collections::BTreeMap;
use std::sync::Arc;

use busbar_bus::Span;
use busbar_catalog::{ConnectionSpec, Diagnostic, Project};
use busbar_change::mysql::ZeroDates;
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
use changes::MySqlChanges;
use database::MysqlDatabase;
use link::{MysqlProtocol, MysqlServer};
use sink::MysqlSink;
pub(crate) use values::made_for;

/// The connector.
pub struct Mysql {
    places: Places,
}

/// A database of MySQL 8 or MariaDB 10.5 and newer, or one that speaks their protocol.
///
/// As a source with `follow`: changes as they are committed, from the binary log, each exactly once and in their order;
/// before them what is in the tables (`read`), in chunks that are joined to the changes without gap. MariaDB says which
/// changes a chunk has already; with MySQL, with texts in the key, and where a snapshot is interrupted and goes on, rows that
/// are changed meanwhile may come twice. Each event has the row's columns and `change`: `read`, `insert`, `update`, `delete`,
/// `truncate` or `schema`; `before` is the row as it was. An update that changes the key is a `delete` and an `insert`. The
/// tags `transaction`, `position` and `sequence` say where it stands. Whole and floating-point numbers are numbers, `datetime`
/// and `timestamp` are `2024-02-29T23:59:59` without and with `Z`, bytes are `0x00ff`, and everything else is a text as the
/// database writes it, `decimal` too. Positions are places in the log of this server, and MariaDB's numbers of transactions
/// (GTID), by which another server goes on after a fail-over; for MySQL take a higher `generation` then.
///
/// Without either: steps look rows up in its tables (`join` with `table: NAME.his.patient`), `call` its statements, and SQL
/// reads its tables.
///
/// As a sink: exactly once. Each delivery is one transaction that also notes how far its producer has come, in the table
/// `busbar_position` of the same database; both tables are of InnoDB. A row that the database refuses becomes a dead letter
/// (kept in `busbar_refused` beside it until the next position) and the others of its delivery are written. Types are
/// compared when the sink is opened; where values would be rounded or cut, it is refused unless `lossy` is on. Times are
/// written in UTC.
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
    follow: Option<MySqlFollow>,
    /// A table to write to; makes the connection a sink.
    write: Option<Write>,
}

/// What is followed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MySqlFollow {
    /// The tables, as `database.table`, or `table` in the connection's database. Each has a primary key.
    tables: Vec<String>,
    /// Names of connections whose writes do not come in, of those with `newer`: what Busbar itself has written through them
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
    /// What becomes of dates that are none, such as `0000-00-00`.
    #[serde(default)]
    zero_dates: ZeroDates,
    /// The number by which the server tells its readers apart; by default one at random.
    server_id: Option<u32>,
    /// A higher number begins anew: at the end of the log and with new snapshots, behind a `truncate` of each table.
    #[serde(default)]
    generation: u32,
    /// A higher number for a table takes its snapshot anew, behind a `truncate`: `{ his.patient: 1 }`.
    #[serde(default)]
    again: BTreeMap<String, u32>,
}

const DEFAULT_TOPIC: &str = "change/${connection}/${schema}/${table}";
const OFFERED: [&str; 3] = ["connection", "schema", "table"];

fn yes() -> bool {
    true
}

const CODES: LoginCodes = LoginCodes {
    address: "mysql.address",
    timeout: "mysql.timeout",
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
}

impl Mysql {
    pub(crate) fn new(places: Places) -> Mysql {
        Mysql { places }
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
        if let Some(follow) = &options.follow {
            let tables = (&follow.tables[..], &follow.again);
            let codes = ["mysql.no-tables", "mysql.again"];
            check_followed(spec, tables, &options.database, limits::TABLES_MAX, codes)?;
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
    ) -> Result<(Options, MysqlServer), Error> {
        let options = self.options(spec)?;
        let protocol = MysqlProtocol;
        let server = options.login().server(protocol, project, &self.places)?;
        Ok((options, server))
    }
}

impl Connector for Mysql {
    fn kind(&self) -> &'static str {
        "mysql"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        let options = self.options(spec)?;
        TopicTemplate::read(spec, DEFAULT_TOPIC, &OFFERED)?;
        Ok(Roles {
            source: options.follow.is_some(),
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
            let database = MysqlDatabase::new(&context.name, server, options.sessions);
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
            let rows = rows::MysqlRows::open(server, &read).await?;
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
            let topic = TopicTemplate::read(spec, DEFAULT_TOPIC, &OFFERED)?;
            let follow = options.follow.ok_or_else(|| lacks_source(self.kind()))?;
            let source = MySqlChanges::open(server, &follow, &topic, context).await?;
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
            let sink = MysqlSink::open(server, write, context).await?;
            Ok(Box::new(sink) as Box<dyn Sink>)
        })
    }
}
