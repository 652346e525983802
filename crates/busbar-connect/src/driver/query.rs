//! The rows of a statement that is run again and again, each time from where the last one ended.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use busbar_connector::{Polled, Polling, Position, Source, SourceContext, Work};
use busbar_event::{ARRIVAL, BatchBuilder, Class, Error, Flags, Row};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::limits::OVERLAP_ROWS_MAX;
use super::options::{DriverOverlap, QueryOptions, ten_seconds};
use super::row::{is_null, write_object};
use super::session::{DriverColumn, DriverPage, DriverParameter, DriverSession};
use super::types::sql;
use super::worker::DriverWorker;
use crate::change::attempt;
use crate::change::plan::names;
use crate::run_place::resumable;
use crate::schedule::{CronTimes, RunSchedule};
use crate::topic::TopicTemplate;

/// Runs a statement at intervals.
pub struct DriverQuerySource {
    worker: Arc<DriverWorker>,
    options: QueryOptions,
    topic: String,
    session: Option<DriverSession>,
    /// The rows of a run are being read.
    running: bool,
    columns: Vec<DriverColumn>,
    place: QueryPlace,
    /// Behind the last row of the run under way.
    last: Option<QueryPlace>,
    /// Behind the last batch.
    position: u64,
    schedule: RunSchedule,
    builder: BatchBuilder,
    /// Rows of the last run and of this one, to tell those of the overlap that came before.
    before: HashSet<u64>,
    now: HashSet<u64>,
}

/// Where the next run begins. Kept as JSON with the position.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct QueryPlace {
    /// The value of the last row's `position`.
    #[serde(default)]
    value: Option<Box<RawValue>>,
    /// Its type.
    #[serde(default)]
    kind: i32,
    /// A statement that is run once has been.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    done: bool,
}

impl DriverQuerySource {
    pub(super) async fn open(
        worker: Arc<DriverWorker>,
        options: QueryOptions,
        topic: &TopicTemplate,
        context: SourceContext,
    ) -> Result<DriverQuerySource, Error> {
        let session = DriverSession::open(&worker).await?;
        let mut written = String::new();
        topic.write(|_| Some(context.name.to_string()), &mut written);
        let note = context.resume.note("");
        let mut place: QueryPlace = serde_json::from_slice(note).unwrap_or_default();
        if place.value.is_none() {
            let start = options.start.as_ref();
            place.value = start.and_then(|start| to_raw_value(start).ok());
        }
        let schedule = schedule(&options, &context);
        Ok(DriverQuerySource {
            position: attempt(context.clock.now_micros(), context.resume.reached("")),
            worker,
            options,
            topic: written,
            session: Some(session),
            running: false,
            columns: Vec::new(),
            place,
            last: None,
            schedule,
            builder: BatchBuilder::new(),
            before: HashSet::new(),
            now: HashSet::new(),
        })
    }

    async fn next(&mut self) -> Result<Polled, Error> {
        loop {
            if self.place.done {
                return Ok(Polled::End);
            }
            let wait = self.schedule.wait();
            if !self.running && !wait.is_zero() {
                return Ok(Polled::Idle(wait));
            }
            if let Some(polling) = self.read().await? {
                return Ok(Polled::Batch(polling));
            }
        }
    }

    /// Reads a page of a run; the rows in it, if there are any that have not come.
    async fn read(&mut self) -> Result<Option<Polling>, Error> {
        // Where its caller was dropped, or the session failed, the run begins anew at the last place.
        let known = self.session.take().filter(DriverSession::usable);
        let begun = std::mem::take(&mut self.running) && known.is_some();
        let mut session = match known {
            Some(session) => session,
            None => DriverSession::open(&self.worker).await?,
        };
        let answer = if begun {
            session.more().await
        } else {
            self.last = None;
            self.before = std::mem::take(&mut self.now);
            let parameters = self.parameters()?;
            // The statement is the user's, and may set something.
            session.sets = true;
            session
                .query(&self.options.statement, &parameters, None)
                .await
        };
        let answer = answer.map_err(|failed| session.told(failed, "", "SELECT"))?;
        let mut columns = std::mem::take(&mut self.columns);
        let page = session.page(&answer, &mut columns)?;
        self.columns = columns;
        let polling = self.publish(&page, self.options.once && !page.more)?;
        match page.more {
            true => self.running = true,
            false => self.schedule.ran(),
        }
        self.session = Some(session);
        Ok(polling)
    }

    /// The value that the statement is run with, less the overlap, once for each question mark.
    fn parameters(&self) -> Result<Vec<DriverParameter<'_>>, Error> {
        let Some(value) = self.place.value.as_deref() else {
            return Ok(Vec::new());
        };
        // Nothing is overlapped before the first row.
        let overlap = self.options.overlap.as_ref();
        let overlap = overlap.filter(|_| self.place.kind != 0);
        if overlap.is_some_and(|overlap| !overlap.suits(self.place.kind)) {
            let error = Error::new(Class::Configuration, "driver.query-overlap");
            return Err(error.with("column", self.options.position.as_deref().unwrap_or("-")));
        }
        let kind = match self.place.kind {
            0 => first_kind(value),
            kind => kind,
        };
        let parameter = DriverParameter {
            kind,
            value,
            less: overlap.map(DriverOverlap::amount),
        };
        Ok(vec![parameter; question_marks(&self.options.statement)])
    }

    /// What is to be handed on of a page, which is the last of a statement that is run once or not.
    fn publish(&mut self, page: &DriverPage<'_>, done: bool) -> Result<Option<Polling>, Error> {
        let columns = &self.columns;
        let place = match &self.options.position {
            None => None,
            Some(name) => Some(
                columns
                    .iter()
                    .position(|column| column.name.eq_ignore_ascii_case(name))
                    .ok_or_else(|| {
                        let there = columns.iter().map(|column| column.name.as_str());
                        Error::new(Class::Configuration, "driver.query-column")
                            .with("column", name)
                            .with("there", names(there))
                    })?,
            ),
        };
        let mut payload = Vec::new();
        for values in &page.rows {
            payload.clear();
            write_object(columns, values, &mut payload);
            if self.options.overlap.is_some() {
                let mut hasher = DefaultHasher::new();
                payload.hash(&mut hasher);
                let hash = hasher.finish();
                if self.now.len() >= OVERLAP_ROWS_MAX {
                    let error = Error::new(Class::Configuration, "driver.overlap-rows");
                    return Err(error.with("most", OVERLAP_ROWS_MAX));
                }
                self.now.insert(hash);
                if self.before.contains(&hash) {
                    continue;
                }
            }
            let topic = self.builder.topic_id(&self.topic);
            self.builder.push(Row {
                topic,
                key: None,
                time: ARRIVAL,
                client: None,
                flags: Flags::default().with_qos(1),
                tags: &[],
                payload: &payload,
            });
        }
        let ends = !page.more && self.last.is_some();
        if let Some(column) = place {
            self.advance(page, column)?;
        }
        self.place.done = done;
        // That it is done, and where it has come to, is kept also where the last page is empty.
        if self.builder.is_empty() && !done && !(ends && page.rows.is_empty()) {
            return Ok(None);
        }
        self.position += 1;
        Ok(Some(Polling {
            batch: self.builder.finish(),
            part: Arc::from(""),
            position: Position::End(self.position),
            note: serde_json::to_vec(&self.place).unwrap_or_default(),
        }))
    }

    /// Notes where a run begins behind a page.
    fn advance(&mut self, page: &DriverPage<'_>, column: usize) -> Result<(), Error> {
        let DriverColumn { name, kind } = &self.columns[column];
        let place = |row: &Vec<&RawValue>| match is_null(row[column]) {
            true => {
                let error = Error::new(Class::Configuration, "driver.query-null");
                Err(error.with("column", name))
            }
            false => Ok(QueryPlace {
                value: Some(row[column].to_owned()),
                kind: *kind,
                done: false,
            }),
        };
        let values = page.rows.iter().map(|row| row[column].get());
        if let Some(at) = resumable(values, page.more) {
            self.place = place(&page.rows[at])?;
        }
        if let Some(last) = page.rows.last() {
            self.last = Some(place(last)?);
        }
        if !page.more
            && let Some(last) = self.last.take()
        {
            self.place = last;
        }
        Ok(())
    }
}

/// When the statement is run.
fn schedule(options: &QueryOptions, context: &SourceContext) -> RunSchedule {
    match options.at.as_deref().and_then(CronTimes::read) {
        Some(times) => RunSchedule::at(times, Arc::clone(&context.clock)),
        None => {
            let every = options.every.unwrap_or_else(ten_seconds);
            RunSchedule::every(every.as_duration())
        }
    }
}

/// The type of a start: databases compare a number with a number and a time with a time only.
fn first_kind(value: &RawValue) -> i32 {
    let text = super::row::plain(value);
    let number = text.parse::<f64>().is_ok() && !text.contains(['e', 'E', 'n', 'N']);
    let is_time = || {
        let mut parts = text.split(['-', 'T', ' ', ':', '.', 'Z', '+']);
        text.len() >= 19
            && text.as_bytes().get(4) == Some(&b'-')
            && parts.all(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    match number {
        true => sql::NUMERIC,
        false if is_time() => sql::TIMESTAMP,
        false => sql::VARCHAR,
    }
}

/// The parameters of a statement: question marks outside of texts, names and comments.
fn question_marks(sql: &str) -> usize {
    let (mut count, mut rest) = (0, sql);
    while let Some(at) = rest.find(['?', '\'', '"', '`', '-', '/']) {
        let (found, behind) = rest[at..].split_at(1);
        let skipped = match found {
            "?" => {
                count += 1;
                Some(0)
            }
            "-" if behind.starts_with('-') => behind.find('\n'),
            "/" if behind.starts_with('*') => behind.find("*/").map(|end| end + 2),
            "-" | "/" => Some(0),
            quote => behind.find(quote).map(|end| end + 1),
        };
        rest = &behind[skipped.unwrap_or(behind.len())..];
    }
    count
}

impl Source for DriverQuerySource {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(self.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_counted() {
        for (sql, expected) in [
            ("select 1", 0),
            ("select * from t where a > ? or a = ?", 2),
            ("select '?' as \"a?\", `b?` from t where a > ?", 1),
            ("select 'it''s ?' -- ?\n from t where a - 1 > ? /* ? */", 1),
            ("select 'open ?", 0),
        ] {
            assert_eq!(question_marks(sql), expected, "{sql}");
        }
    }

    #[test]
    fn a_start_has_the_type_that_it_looks_like() {
        for (start, expected) in [
            ("0", sql::NUMERIC),
            ("-12.5", sql::NUMERIC),
            ("nan", sql::VARCHAR),
            ("1e5", sql::VARCHAR),
            ("2024-05-06T07:08:09Z", sql::TIMESTAMP),
            ("2024-05-06 07:08:09.123456", sql::TIMESTAMP),
            ("AB-1", sql::VARCHAR),
        ] {
            let value = to_raw_value(start).expect("a text");
            assert_eq!(first_kind(&value), expected, "{start}");
        }
    }
}
