//! `clickhouse`: tables of ClickHouse over HTTP. Rows are inserted; the rows of a statement are read; tables are looked up and
//! queried.
//!
//! ```yaml
//! clickhouse:
//!   url: "http://clickhouse.example:8123"
//!   user: busbar
//!   password: { env: CLICKHOUSE_PASSWORD }
//!   write: { table: alarms }
//! ```

mod column;
mod database;
mod limits;
mod lines;
mod link;
mod sink;
mod source;
mod survey;

use std::collections::BTreeMap;
use std::sync::Arc;

use busbar_bus::Span;
use busbar_catalog::{ConnectionSpec, Diagnostic, Project};
use busbar_connector::{
    Connector, Guarantee, LiteralSecret, Roles, ServiceContext, Sink, SinkContext, Source,
    SourceContext, SqlDatabase, Survey, Work,
};
use busbar_event::{Class, Error};
use busbar_log::Clock;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::http::{RemoteOptions, check_remote};
use crate::places::Places;
use crate::schedule::{CronTimes, RunSchedule};
use crate::secret::{self, Secret, refuse_placeholder};
use crate::tls::Tls;
use crate::topic::TopicTemplate;
use crate::{lacks_sink, lacks_source};
use database::ClickHouseDatabase;
use link::ClickHouseLink;
use sink::ClickHouseSink;
use source::ClickHouseSource;

/// The connector.
pub struct ClickHouse {
    places: Places,
}

/// ClickHouse of version 23.3 and newer, over HTTP.
///
/// As a sink: exactly once. The rows of a batch are inserted together under a token by which the server recognises them when they
/// come again. That takes a table of the MergeTree family that remembers its last inserts: replicated ones do, others with the
/// setting `non_replicated_deduplication_window`. Replicated ones remember for `replicated_deduplication_window_seconds`: as long as
/// a node may be down. How far each flow has come is kept in a table beside it. The columns of the flow must be columns of the
/// table, of a type that keeps their values as they are. A value that is out of range, and one that is null where the column is
/// not `Nullable`, makes the row a dead letter.
///
/// As a source: the rows of a statement in the order of a column whose values grow, at least once. A row that gets a value
/// before the last one that was read does not come.
///
/// Without either: steps look rows up in its tables (`join` with `table: NAME.patient`, or `NAME.database.patient`), `call` its
/// statements, and SQL reads its tables. The user needs `readonly` 0 or 2: settings come with each request.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClickHouseOptions {
    /// The address of the server, `http` or `https`.
    url: String,
    /// The database.
    #[serde(default = "default_database")]
    database: String,
    /// User name.
    user: Option<String>,
    /// Password: a text, `{ env: NAME }` or `{ file: PATH }`.
    password: Option<Secret>,
    /// Authorities to trust with `https`; by default the usual ones.
    tls: Option<Tls>,
    /// How long a request may take.
    #[serde(default = "a_minute")]
    timeout: Span,
    /// A statement whose rows come in; makes the connection a source.
    query: Option<ClickHouseQuery>,
    /// A table to write to; makes the connection a sink.
    write: Option<ClickHouseWrite>,
}

/// A statement that is run again and again. The connection's `topic` may use `${connection}`. Each event is a row as JSON.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ClickHouseQuery {
    /// The statement, without `SETTINGS` and `FORMAT`. It takes rows behind `{position:TYPE}`, in the order of that column:
    /// `select * from orders where id > {position:UInt64} order by id`.
    statement: String,
    /// The column whose value in the last row is `{position}` of the next run. No two rows have the same value in it.
    position: String,
    /// `{position}` of the first run.
    start: String,
    /// How often it is run; 10 s unless this or `at` is set.
    every: Option<Span>,
    /// When it is run, in UTC and as cron writes it, with minute, hour, day, month and weekday: `0 3 * * *`.
    at: Option<String>,
    /// How many rows are asked for at a time.
    #[serde(default = "ten_thousand")]
    rows: usize,
}

/// How rows are written.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClickHouseWrite {
    /// The table.
    table: String,
    /// The table that keeps how far each flow has come, made where it is missing on the server at `url`, which should be one
    /// server and always the same.
    #[serde(default = "first_positions")]
    positions: String,
}

fn default_database() -> String {
    "default".to_owned()
}

fn first_positions() -> String {
    "busbar_position".to_owned()
}

fn a_minute() -> Span {
    Span::from_micros(60_000_000)
}

fn ten_thousand() -> usize {
    10_000
}

impl ClickHouseQuery {
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

impl ClickHouse {
    pub(crate) fn new(places: Places) -> ClickHouse {
        ClickHouse { places }
    }

    fn options(&self, spec: &ConnectionSpec) -> Result<ClickHouseOptions, Diagnostic> {
        for key in ["user", "password", "database"] {
            refuse_placeholder(spec, &[key])?;
        }
        let options: ClickHouseOptions = spec.options.read()?;
        let headers = BTreeMap::new();
        let remote = RemoteOptions {
            url: &options.url,
            headers: &headers,
            tls: options.tls.as_ref(),
            timeout: options.timeout,
        };
        check_remote(spec, &remote, &self.places)?;
        let wrong = |code| Error::new(Class::Configuration, code);
        let refuse = |key: &str, code| spec.options.diagnostic(key, wrong(code));
        if options.url.contains(['?', '#']) {
            return Err(refuse("url", "clickhouse.url"));
        }
        if let Some(file) = options.password.as_ref().and_then(Secret::file) {
            let checked = self.places.check(file);
            checked.map_err(|code| refuse("password", code))?;
        }
        if options.password.is_some() && options.user.is_none() {
            return Err(refuse("password", "clickhouse.who"));
        }
        let at = |part: &str, option: &str, error| {
            let place = spec.options.at(&[part.to_owned(), option.to_owned()]);
            match place {
                Some(node) => spec.options.diagnostic_at(node, error),
                None => spec.options.diagnostic(part, error),
            }
        };
        match (&options.query, &options.write) {
            (None, None) => {}
            (Some(_), Some(_)) => return Err(refuse("write", "clickhouse.no-role")),
            (Some(query), None) => {
                self.topic(spec)?;
                if !query.statement.contains("{position:") {
                    return Err(at("query", "statement", wrong("clickhouse.statement")));
                }
                let every = query.every.map(|every| every.as_duration());
                if every.is_some_and(|every| every < limits::EVERY_MIN) {
                    let least = limits::EVERY_MIN.as_millis();
                    let error = wrong("clickhouse.every").with("least_ms", least);
                    return Err(at("query", "every", error));
                }
                let times = query.at.as_deref().map(CronTimes::read);
                if times == Some(None) || times.is_some() && every.is_some() {
                    return Err(at("query", "at", wrong("clickhouse.query-at")));
                }
                if !(1..=limits::PAGE_ROWS_MAX).contains(&query.rows) {
                    let error = wrong("clickhouse.rows").with("most", limits::PAGE_ROWS_MAX);
                    return Err(at("query", "rows", error));
                }
            }
            (None, Some(write)) => {
                for (option, name) in [("table", &write.table), ("positions", &write.positions)] {
                    if name.is_empty() || name.contains('.') {
                        return Err(at("write", option, wrong("clickhouse.table")));
                    }
                }
            }
        }
        Ok(options)
    }

    fn topic(&self, spec: &ConnectionSpec) -> Result<TopicTemplate, Diagnostic> {
        TopicTemplate::read(spec, "query/${connection}", &["connection"])
    }
}

impl Connector for ClickHouse {
    fn kind(&self) -> &'static str {
        "clickhouse"
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
        schemars::schema_for!(ClickHouseOptions).to_value()
    }

    fn warnings(&self, spec: &ConnectionSpec, _: &Project) -> Vec<Diagnostic> {
        secret::warnings(spec, &self.secrets(spec))
    }

    fn secrets(&self, spec: &ConnectionSpec) -> Vec<LiteralSecret> {
        let mut secrets = secret::literals(spec, &[&["password"]]);
        secrets.extend(crate::http::telling(
            spec,
            crate::http::address_secrets(spec),
        ));
        secrets
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
            let link = ClickHouseLink::open(&options, &context, &self.places).await?;
            Ok(Arc::new(ClickHouseDatabase::new(link)) as Arc<dyn SqlDatabase>)
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
            let context = ServiceContext::unnamed(project_dir);
            let link = ClickHouseLink::open(&options, &context, &self.places).await?;
            survey::survey(&link, tables).await
        })
    }

    fn source<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SourceContext,
    ) -> Work<'a, Result<Box<dyn Source>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let query = options
                .query
                .clone()
                .ok_or_else(|| lacks_source(self.kind()))?;
            let topic = self.topic(spec)?;
            let with = ServiceContext::from(&context);
            let link = ClickHouseLink::open(&options, &with, &self.places).await?;
            Ok(Box::new(ClickHouseSource::new(link, query, &topic, &context)) as Box<dyn Source>)
        })
    }

    fn sink<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SinkContext,
    ) -> Work<'a, Result<Box<dyn Sink>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let write = options
                .write
                .clone()
                .ok_or_else(|| lacks_sink(self.kind()))?;
            let with = ServiceContext::from(&context);
            let link = ClickHouseLink::open(&options, &with, &self.places).await?;
            Ok(Box::new(ClickHouseSink::new(link, write, &context)) as Box<dyn Sink>)
        })
    }
}
