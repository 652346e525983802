//! Changes of tables, found by a version that grows with each change of a row.
//!
//! Each table is a part, whose note says how far it has come. First what is in the table is read in pages by key; the
//! highest version before the first page is where the changes begin. Then each look takes the rows behind the last version
//! and key in pages, in the order of version and key: of several rows with one version none is skipped, wherever a page
//! ends. A look begins so far before the last version as rows may be committed late.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use busbar_bus::Span;
use busbar_change::event;
use busbar_connector::{Polled, Polling, Position, Source, SourceContext, Work};
use busbar_event::{ARRIVAL, BatchBuilder, Class, Error, Flags, Row};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::dialect::{DriverDialect, DriverDialectName};
use super::limits::{KEY_COLUMNS_MAX, OVERLAP_ROWS_MAX, PAGE_ROWS};
use super::options::{DriverOverlap, PollOptions, PolledTable};
use super::row::{plain, write_change};
use super::session::{DriverColumn, DriverPage, DriverParameter, DriverSession};
use super::sink::table as look_at;
use super::types::{DriverTarget, sql};
use super::worker::DriverWorker;

use crate::change::plan::names;

use crate::change::{attempt, table_name};
use crate::topic::TopicTemplate;

/// The overlap of times, where the connection's file does not say.
const OVERLAP_TIME_MICROS: i64 = 10_000_000;
/// The overlap of numbers, where the connection's file does not say.
const OVERLAP_NUMBER: u64 = 1_000;

/// Looks at tables at intervals.
pub struct DriverPollSource {
    worker: Arc<DriverWorker>,
    options: PollOptions,
    tables: Vec<PollTable>,
    session: Option<DriverSession>,
    /// The table that is next.
    turn: usize,
    builder: BatchBuilder,
}

/// A table, and how far it has come.
struct PollTable {
    /// As it is written in SQL.
    sql: String,
    topic: String,
    part: Arc<str>,
    dialect: &'static DriverDialect,
    version: PollColumn,
    key: Vec<PollColumn>,
    overlap: u64,
    /// Behind the last batch.
    position: u64,
    place: PollPlace,
    due: Instant,
    look: Option<Look>,
    /// Rows of the look before.
    before: HashSet<u64>,
}

/// A column by which rows are ordered.
struct PollColumn {
    name: String,
    /// As it is written in SQL.
    sql: String,
    kind: i32,
}

/// A look under way.
#[derive(Default)]
struct Look {
    /// Version and key of the last row of the page before.
    after: Option<Vec<Box<RawValue>>>,
    /// Rows of this look, the newest ones.
    rows: VecDeque<u64>,
    /// Rows that the look before has had.
    repeated: usize,
    /// Whether any others came.
    news: bool,
}

/// How far a table has come. Kept as JSON with the position.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct PollPlace {
    /// It is known where the changes begin.
    begun: bool,
    /// What was in the table has been read.
    read: bool,
    /// The key of the last row that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Vec<Box<RawValue>>>,
    /// The highest version before; none of an empty table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark: Option<Box<RawValue>>,
    /// Version and key of the last change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<Vec<Box<RawValue>>>,
}

impl DriverPollSource {
    pub(super) async fn open(
        worker: Arc<DriverWorker>,
        dialect: Option<DriverDialectName>,
        options: PollOptions,
        topic: &TopicTemplate,
        context: SourceContext,
    ) -> Result<DriverPollSource, Error> {
        let mut session = DriverSession::open(&worker).await?;
        let dialect = DriverDialect::of(dialect, &session.about.product);
        let mut tables = Vec::with_capacity(options.tables.len());
        for table in &options.tables {
            let (schema, name) = table_name(&table.table, "");
            let mut found = look_at(&mut session, schema, name).await?;
            let Some(columns) = found.columns.take() else {
                return Err(Error::new(Class::Configuration, "driver.no-table")
                    .with("url", &worker.login.url)
                    .with("said", "-")
                    .with("state", "-")
                    .with("table", &table.table));
            };
            let (version, key) = ordered_by(dialect, table, &columns, &found.keys)?;
            let mut written = String::new();
            let value = |variable: &str| match variable {
                "connection" => Some(context.name.to_string()),
                "schema" => Some(found.schema.clone()),
                _ => Some(found.table.clone()),
            };
            topic.write(value, &mut written);
            let prefix = match options.generation {
                0 => String::new(),
                generation => format!("{generation}:"),
            };
            let part = format!("{prefix}table:{}.{}", found.schema, found.table);
            let place = serde_json::from_slice(context.resume.note(&part)).unwrap_or_default();
            tables.push(PollTable {
                sql: dialect.table(&found.schema, &found.table),
                topic: written,
                dialect,
                overlap: overlap(options.overlap.as_ref(), &version)?,
                version,
                key,
                position: attempt(context.clock.now_micros(), context.resume.reached(&part)),
                part: part.into(),
                place,
                due: Instant::now(),
                look: None,
                before: HashSet::new(),
            });
        }
        Ok(DriverPollSource {
            worker,
            options,
            tables,
            session: Some(session),
            turn: 0,
            builder: BatchBuilder::new(),
        })
    }

    async fn next(&mut self) -> Result<Polled, Error> {
        loop {
            let now = Instant::now();
            // From the one whose turn it is, so that a large table does not hold the others up.
            let turns = (0..self.tables.len()).map(|add| (self.turn + add) % self.tables.len());
            let mut turns = turns.filter(|at| self.tables[*at].is_due(now));
            let Some(at) = turns.next() else {
                let due = self.tables.iter().map(|table| table.due).min();
                let wait = due.unwrap_or(now).saturating_duration_since(now);
                return Ok(Polled::Idle(wait));
            };
            self.turn = at + 1;
            if let Some(polling) = self.step(at).await? {
                return Ok(Polled::Batch(polling));
            }
        }
    }

    /// Reads a page of a table; what is to be handed on, if there is anything.
    async fn step(&mut self, at: usize) -> Result<Option<Polling>, Error> {
        let known = self.session.take().filter(DriverSession::usable);
        let mut session = match known {
            Some(session) => session,
            None => DriverSession::open(&self.worker).await?,
        };
        let table = &self.tables[at];
        let step = table.next_step(self.options.snapshot);
        let (sql, parameters) = table.statement(&step);
        let answer = session.query(&sql, &parameters, Some(PAGE_ROWS)).await;
        let answer = answer.map_err(|failed| session.told(failed, &table.sql, "SELECT"))?;
        let mut columns = Vec::new();
        let page = session.page(&answer, &mut columns)?;
        // From here on nothing waits, so that what is noted is handed on.
        let whole = !page.more && page.rows.len() < PAGE_ROWS;
        self.session = Some(session);
        let every = self.options.every.as_duration();
        let anew = self.options.generation > 0;
        let builder = &mut self.builder;
        let table = &mut self.tables[at];
        match step {
            PollStep::Mark => {
                table.note_mark(&page, self.options.snapshot);
                if anew && self.options.snapshot {
                    let mut payload = Vec::new();
                    event::truncate(&mut payload);
                    table.push(None, &payload, builder);
                }
                Ok(Some(table.hand_on(builder)))
            }
            PollStep::Read => {
                table.read(&columns, &page, builder)?;
                table.place.read = whole;
                if whole {
                    table.place.key = None;
                }
                Ok(Some(table.hand_on(builder)))
            }
            PollStep::Look => {
                table.look(&columns, &page, builder)?;
                if whole {
                    table.end_look()?;
                    table.due = Instant::now() + every;
                }
                Ok((!builder.is_empty()).then(|| table.hand_on(builder)))
            }
        }
    }
}

/// What is done with a table next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PollStep {
    /// Its highest version is looked up.
    Mark,
    /// What is in it is read.
    Read,
    /// Its changes are read.
    Look,
}

impl PollTable {
    fn is_due(&self, now: Instant) -> bool {
        !self.place.begun || !self.place.read || self.look.is_some() || self.due <= now
    }

    fn next_step(&self, snapshot: bool) -> PollStep {
        match (self.place.begun, self.place.read || !snapshot) {
            (false, _) => PollStep::Mark,
            (true, false) => PollStep::Read,
            (true, true) => PollStep::Look,
        }
    }

    fn statement(&self, step: &PollStep) -> (String, Vec<DriverParameter<'_>>) {
        let version = &self.version;
        match step {
            PollStep::Mark => (
                format!("SELECT MAX({}) FROM {}", version.sql, self.sql),
                Vec::new(),
            ),
            PollStep::Read => {
                let key: Vec<&PollColumn> = self.key.iter().collect();
                let (behind, parameters) = match &self.place.key {
                    None => (String::new(), Vec::new()),
                    Some(last) => {
                        let (behind, parameters) = behind(&key, last);
                        (format!(" WHERE {behind}"), parameters)
                    }
                };
                (self.select(&behind, &key), parameters)
            }
            PollStep::Look => {
                let mut order = vec![version];
                order.extend(&self.key);
                let after = self.look.as_ref().and_then(|look| look.after.as_ref());
                let strict = after.or(match self.overlap {
                    0 => self.place.last.as_ref(),
                    _ => None,
                });
                let from = self.place.last.as_ref().and_then(|last| last.first());
                let from = from.or(self.place.mark.as_ref());
                let (filter, parameters) = match (strict, from) {
                    (Some(last), _) => behind(&order, last),
                    (None, Some(from)) => (
                        format!("{} >= ?", version.sql),
                        vec![DriverParameter {
                            kind: version.kind,
                            value: from,
                            less: (self.overlap > 0).then_some(self.overlap),
                        }],
                    ),
                    (None, None) => (format!("{} IS NOT NULL", version.sql), Vec::new()),
                };
                (self.select(&format!(" WHERE {filter}"), &order), parameters)
            }
        }
    }

    fn select(&self, filter: &str, order: &[&PollColumn]) -> String {
        let order: Vec<_> = order.iter().map(|column| column.sql.as_str()).collect();
        let order = order.join(", ");
        let select = format!("SELECT * FROM {}{filter} ORDER BY {order}", self.sql);
        self.dialect.limited(&select, PAGE_ROWS)
    }

    fn note_mark(&mut self, page: &DriverPage<'_>, snapshot: bool) {
        let mark = page.rows.first().and_then(|row| row.first());
        let mark = mark.filter(|mark| !super::row::is_null(mark));
        self.place = PollPlace {
            begun: true,
            read: !snapshot,
            mark: mark.map(|mark| (*mark).to_owned()),
            ..PollPlace::default()
        };
    }

    /// Publishes rows that were in the table.
    fn read(
        &mut self,
        columns: &[DriverColumn],
        page: &DriverPage<'_>,
        builder: &mut BatchBuilder,
    ) -> Result<(), Error> {
        let places = self.places(columns)?;
        let mut payload = Vec::new();
        for row in &page.rows {
            payload.clear();
            write_change("read", columns, row, &mut payload);
            let key = key_text(row, &places[1..]);
            self.push(Some(&key), &payload, builder);
        }
        if let Some(last) = page.rows.last() {
            let key = places[1..].iter().map(|at| last[*at].to_owned());
            self.place.key = Some(key.collect());
        }
        Ok(())
    }

    /// Publishes rows that have changed.
    fn look(
        &mut self,
        columns: &[DriverColumn],
        page: &DriverPage<'_>,
        builder: &mut BatchBuilder,
    ) -> Result<(), Error> {
        let places = self.places(columns)?;
        let mut look = self.look.take().unwrap_or_default();
        let mut payload = Vec::new();
        for row in &page.rows {
            payload.clear();
            write_change("upsert", columns, row, &mut payload);
            if self.overlap > 0 {
                let mut hasher = DefaultHasher::new();
                payload.hash(&mut hasher);
                let hash = hasher.finish();
                if look.rows.len() >= OVERLAP_ROWS_MAX {
                    look.rows.pop_front();
                }
                look.rows.push_back(hash);
                if self.before.contains(&hash) {
                    look.repeated += 1;
                    continue;
                }
            }
            look.news = true;
            let key = key_text(row, &places[1..]);
            self.push(Some(&key), &payload, builder);
        }
        if let Some(last) = page.rows.last() {
            let last: Vec<_> = places.iter().map(|at| last[*at].to_owned()).collect();
            // Rows that are gone do not lead back.
            if look.news {
                self.place.last = Some(last.clone());
            }
            look.after = Some(last);
        }
        self.look = Some(look);
        Ok(())
    }

    fn end_look(&mut self) -> Result<(), Error> {
        let look = self.look.take().unwrap_or_default();
        if look.repeated >= OVERLAP_ROWS_MAX {
            let error = Error::new(Class::Configuration, "driver.overlap-rows");
            return Err(error.with("most", OVERLAP_ROWS_MAX));
        }
        self.before = look.rows.into_iter().collect();
        Ok(())
    }

    /// Where version and key are among columns.
    fn places(&self, columns: &[DriverColumn]) -> Result<Vec<usize>, Error> {
        let all = std::iter::once(&self.version).chain(&self.key);
        let places = all.map(|wanted| {
            let place = columns.iter().position(|column| column.name == wanted.name);
            place.ok_or_else(|| {
                let there = columns.iter().map(|column| column.name.as_str());
                no_column(&wanted.name, &self.sql, there)
            })
        });
        places.collect()
    }

    fn push(&self, key: Option<&str>, payload: &[u8], builder: &mut BatchBuilder) {
        let topic = builder.topic_id(&self.topic);
        builder.push(Row {
            topic,
            key,
            time: ARRIVAL,
            client: None,
            flags: Flags::default().with_qos(1),
            tags: &[],
            payload,
        });
    }

    fn hand_on(&mut self, builder: &mut BatchBuilder) -> Polling {
        self.position += 1;
        Polling {
            batch: builder.finish(),
            part: Arc::clone(&self.part),
            position: Position::End(self.position),
            note: serde_json::to_vec(&self.place).unwrap_or_default(),
        }
    }
}

fn no_column<'a>(column: &str, table: &str, there: impl Iterator<Item = &'a str>) -> Error {
    Error::new(Class::Configuration, "driver.poll-column")
        .with("column", column)
        .with("table", table)
        .with("there", names(there))
}

/// The columns by which a table is ordered: version and key.
fn ordered_by(
    dialect: &DriverDialect,
    table: &PolledTable,
    columns: &[DriverTarget],
    keys: &[Vec<String>],
) -> Result<(PollColumn, Vec<PollColumn>), Error> {
    let find = |name: &String| {
        let exact = columns.iter().find(|column| column.name == *name);
        let found = exact.or_else(|| {
            let mut columns = columns.iter();
            columns.find(|column| column.name.eq_ignore_ascii_case(name))
        });
        let found = found.map(|column| PollColumn {
            name: column.name.clone(),
            sql: dialect.exact(&column.name),
            kind: column.kind,
        });
        let there = columns.iter().map(|column| column.name.as_str());
        found.ok_or_else(|| no_column(name, &table.table, there))
    };
    let version = find(&table.version)?;
    let grows = [
        DriverOverlap::Number(0),
        DriverOverlap::Time(Span::default()),
    ];
    if !grows.iter().any(|kind| kind.suits(version.kind)) {
        return Err(Error::new(Class::Configuration, "driver.version-type")
            .with("column", &version.name)
            .with("table", &table.table));
    }
    let key = match table.key.is_empty() {
        true => keys.first().map(Vec::as_slice).unwrap_or_default(),
        false => &table.key,
    };
    if key.is_empty() || key.len() > KEY_COLUMNS_MAX {
        let error = Error::new(Class::Configuration, "driver.poll-key");
        return Err(error.with("table", &table.table));
    }
    let key: Vec<_> = key.iter().map(find).collect::<Result<_, _>>()?;
    let unordered = [sql::CLOB, sql::BLOB, sql::REAL, sql::DOUBLE];
    if let Some(column) = key.iter().find(|column| unordered.contains(&column.kind)) {
        return Err(Error::new(Class::Configuration, "driver.key-type")
            .with("column", &column.name)
            .with("table", &table.table));
    }
    Ok((version, key))
}

/// How far a look begins before the last version.
fn overlap(said: Option<&DriverOverlap>, version: &PollColumn) -> Result<u64, Error> {
    let time = DriverOverlap::Time(Span::from_micros(OVERLAP_TIME_MICROS));
    match said {
        Some(said) if said.suits(version.kind) => Ok(said.amount()),
        Some(_) => {
            let error = Error::new(Class::Configuration, "driver.query-overlap");
            Err(error.with("column", &version.name))
        }
        None if time.suits(version.kind) => Ok(time.amount()),
        None => Ok(OVERLAP_NUMBER),
    }
}

/// The condition of rows behind these values, and its parameters. `(a, b) > (1, 2)` is not known everywhere.
fn behind<'a>(
    order: &[&PollColumn],
    last: &'a [Box<RawValue>],
) -> (String, Vec<DriverParameter<'a>>) {
    let mut parameters = Vec::new();
    let mut ways = Vec::new();
    for at in 0..order.len().min(last.len()) {
        let mut all: Vec<_> = order[..at]
            .iter()
            .map(|column| format!("{} = ?", column.sql))
            .collect();
        all.push(format!("{} > ?", order[at].sql));
        for (column, value) in order.iter().zip(last).take(at + 1) {
            parameters.push(DriverParameter {
                kind: column.kind,
                value,
                less: None,
            });
        }
        ways.push(format!("({})", all.join(" AND ")));
    }
    (format!("({})", ways.join(" OR ")), parameters)
}

fn key_text(row: &[&RawValue], places: &[usize]) -> String {
    let values: Vec<_> = places.iter().map(|at| plain(row[*at])).collect();
    values.join(",")
}

impl Source for DriverPollSource {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(self.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_behind_a_place_are_asked_for_column_by_column() {
        let column = |name: &str, kind| PollColumn {
            name: name.into(),
            sql: format!("\"{name}\""),
            kind,
        };
        let (a, b) = (column("a", sql::TIMESTAMP), column("b", sql::BIGINT));
        let last: Vec<_> = ["\"2024-05-06T07:08:09\"", "7"]
            .map(|value| RawValue::from_string(value.into()).expect("JSON"))
            .into();
        let (sql, parameters) = behind(&[&a, &b], &last);
        assert_eq!(sql, "((\"a\" > ?) OR (\"a\" = ? AND \"b\" > ?))");
        let kinds: Vec<_> = parameters.iter().map(|parameter| parameter.kind).collect();
        assert_eq!(kinds, [sql::TIMESTAMP, sql::TIMESTAMP, sql::BIGINT]);
    }
}
