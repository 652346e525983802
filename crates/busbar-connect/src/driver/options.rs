//! What connections of both kinds say alike, and what is wrong with it.

use busbar_bus::Span;
use busbar_catalog::{ConnectionSpec, Diagnostic};
use busbar_event::{Class, Error, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dialect::DriverDialectName;
use super::limits;
use crate::change::{Write, is_table_name};
use crate::schedule::CronTimes;
use crate::topic::TopicTemplate;

/// How a connection is used, and within which bounds.
#[derive(Clone)]
pub struct DriverUse {
    /// How the database writes SQL, where that is said.
    pub dialect: Option<DriverDialectName>,
    /// Memory of the worker.
    pub memory: Size,
    /// Connections to the database at most.
    pub sessions: usize,
    /// How long a statement may take.
    pub timeout: Span,
    /// Tables whose changes come in.
    pub poll: Option<PollOptions>,
    /// A statement whose rows come in.
    pub query: Option<QueryOptions>,
    /// A table to write to.
    pub write: Option<Write>,
}

const DEFAULT_TOPIC: &str = "change/${connection}/${schema}/${table}";
const OFFERED: [&str; 3] = ["connection", "schema", "table"];

const QUERY_TOPIC: &str = "query/${connection}";
const QUERY_OFFERED: [&str; 1] = ["connection"];

impl DriverUse {
    /// The topic of events, if the connection is a source.
    pub fn topic(&self, spec: &ConnectionSpec) -> Result<TopicTemplate, Diagnostic> {
        match self.query {
            Some(_) => TopicTemplate::read(spec, QUERY_TOPIC, &QUERY_OFFERED),
            None => TopicTemplate::read(spec, DEFAULT_TOPIC, &OFFERED),
        }
    }

    /// What is wrong with it: the key, and the error.
    pub fn fault(&self) -> Option<(&'static str, Error)> {
        let wrong = |key, code| Some((key, Error::new(Class::Configuration, code)));
        let memory = self.memory.as_bytes();
        if !(limits::MEMORY_BYTES_MIN..=limits::MEMORY_BYTES_MAX).contains(&memory) {
            let error = Error::new(Class::Configuration, "driver.memory");
            let error = error.with("least_mib", limits::MEMORY_BYTES_MIN >> 20);
            return Some((
                "memory",
                error.with("most_mib", limits::MEMORY_BYTES_MAX >> 20),
            ));
        }
        if self.sessions == 0 || self.sessions > limits::SESSIONS_MAX {
            let error = Error::new(Class::Configuration, "driver.sessions-number");
            return Some(("sessions", error.with("most", limits::SESSIONS_MAX)));
        }
        let timeout = self.timeout.as_duration();
        if timeout.is_zero() || timeout > limits::TIMEOUT_MAX {
            let error = Error::new(Class::Configuration, "driver.timeout");
            return Some((
                "timeout",
                error.with("most_s", limits::TIMEOUT_MAX.as_secs()),
            ));
        }
        if self.poll.is_some() && self.query.is_some() {
            return wrong("query", "driver.two-sources");
        }
        let rare = |every: Span| every.as_duration() < limits::EVERY_MIN;
        let every = || {
            let error = Error::new(Class::Configuration, "driver.every");
            error.with("least_ms", limits::EVERY_MIN.as_millis())
        };
        if let Some(query) = &self.query {
            let again = query.every.is_some() || query.at.is_some() || query.position.is_some();
            if query.once && again {
                return wrong("query", "driver.query-once");
            }
            if query.position.is_some() != query.start.is_some()
                || query.overlap.is_some() && query.position.is_none()
            {
                return wrong("query", "driver.query-position");
            }
            if query.every.is_some_and(rare) {
                return Some(("query", every()));
            }
            let times = query.at.as_deref().map(CronTimes::read);
            if times == Some(None) || times.is_some() && query.every.is_some() {
                return wrong("query", "driver.query-at");
            }
        }
        if let Some(poll) = &self.poll {
            if poll.tables.is_empty() || poll.tables.len() > limits::TABLES_MAX {
                return wrong("poll", "driver.no-tables");
            }
            if !poll.tables.iter().all(|table| is_table_name(&table.table)) {
                return wrong("poll", "connect.table-name");
            }
            if rare(poll.every) {
                return Some(("poll", every()));
            }
        }
        if self.write.as_ref().is_some_and(Write::is_told) {
            return wrong("write", "driver.no-newer");
        }
        let write = self.write.as_ref().and_then(Write::check);
        write.and_then(|code| wrong("write", code))
    }
}

/// What is polled.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Poll")]
pub struct PollOptions {
    /// The tables.
    pub tables: Vec<PolledTable>,
    /// How often they are looked at.
    #[serde(default = "ten_seconds")]
    pub every: Span,
    /// How far before the last version the next look begins, for rows that are committed late: a span for times, a number
    /// for numbers. Rows that came with the look before are left out.
    pub overlap: Option<DriverOverlap>,
    /// Whether what is in the tables comes before their changes.
    #[serde(default = "yes")]
    pub snapshot: bool,
    /// A higher number begins anew, behind a `truncate` of each table.
    #[serde(default)]
    pub generation: u32,
}

/// A table that is polled.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolledTable {
    /// The table, as `schema.table`, or `table` in the schema that the database takes by itself.
    pub table: String,
    /// The column with the version: a number or a time that grows with each change of a row. Rows without one are not seen.
    pub version: String,
    /// Columns that tell rows apart; by default the primary key.
    #[serde(default)]
    pub key: Vec<String>,
}

/// A statement that is run again and again.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Query")]
pub struct QueryOptions {
    /// The statement. With `position` it takes rows behind `?`, in the order of that column:
    /// `select * from orders where id > ? order by id`.
    pub statement: String,
    /// How often it is run; 10 s unless this or `at` is set.
    pub every: Option<Span>,
    /// When it is run, in UTC and as cron writes it, with minute, hour, day, month and weekday: `0 3 * * *`.
    pub at: Option<String>,
    /// The column whose value in the last row is each `?` of the next run.
    pub position: Option<String>,
    /// The `?` of the first run: a number, or a time such as `2024-05-06T07:08:09Z`, or another text.
    pub start: Option<String>,
    /// How far before the last position the next run begins, for rows that were committed late: a span for times, a number
    /// for numbers. Rows that came with the run before are left out.
    pub overlap: Option<DriverOverlap>,
    /// It is run to its end once, also over restarts, and then the source has ended. A run that is interrupted begins anew.
    #[serde(default)]
    pub once: bool,
}

/// How far runs overlap.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Overlap")]
pub enum DriverOverlap {
    /// For numbers.
    Number(u64),
    /// For times.
    Time(Span),
}

impl DriverOverlap {
    /// As the worker takes it: microseconds, or the number.
    pub fn amount(&self) -> u64 {
        match self {
            DriverOverlap::Number(number) => *number,
            DriverOverlap::Time(span) => span.as_micros().unsigned_abs(),
        }
    }

    /// Whether it can be taken from values of a type.
    pub fn suits(&self, kind: i32) -> bool {
        use super::types::sql as of;
        match self {
            DriverOverlap::Number(_) => matches!(
                kind,
                of::TINYINT | of::SMALLINT | of::INTEGER | of::BIGINT | of::NUMERIC
            ),
            DriverOverlap::Time(_) => {
                matches!(kind, of::DATE | of::TIMESTAMP | of::TIMESTAMP_WITH_TIMEZONE)
            }
        }
    }
}

pub fn memory() -> Size {
    Size::from_bytes(limits::MEMORY_BYTES)
}

pub fn sessions() -> usize {
    limits::SESSIONS
}

pub fn half_a_minute() -> Span {
    Span::from_micros(30_000_000)
}

pub fn ten_seconds() -> Span {
    Span::from_micros(10_000_000)
}

pub fn yes() -> bool {
    true
}
