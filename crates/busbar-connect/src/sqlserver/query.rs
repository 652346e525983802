//! The rows of a statement that is run again and again, each time from where the last one ended.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use busbar_connector::{Polled, Polling, Position, Source, SourceContext, Work};
use busbar_event::{ARRIVAL, BatchBuilder, Class, Error, Flags, Row};
use bytes::Bytes;
use encoding_rs::Encoding;
use serde::{Deserialize, Serialize};

use super::failure::MssqlFailed;
use super::limits::{CHUNK_BYTES, OVERLAP_ROWS_MAX};
use super::link::{MssqlFetched, MssqlHead, MssqlLink, MssqlServer};
use super::token::TdsColumn;
use super::value::MssqlPositions;
use super::wire::{literal, plain};
use super::{MssqlOverlap, MssqlQuery};
use crate::change::attempt;
use crate::change::plan::names;
use crate::run_place::resumable;
use crate::schedule::{CronTimes, RunSchedule};
use crate::topic::TopicTemplate;

/// Runs a statement at intervals or at times of the day.
pub struct MssqlQuerySource {
    server: MssqlServer,
    options: MssqlQuery,
    topic: String,
    link: Option<MssqlLink>,
    /// The columns of the run under way.
    running: Option<Arc<[TdsColumn]>>,
    place: MssqlPlace,
    /// Behind the last row of the run under way.
    last: Option<MssqlPlace>,
    /// Behind the last batch.
    position: u64,
    /// In which encoding the database keeps variables of single bytes.
    encoding: Option<&'static Encoding>,
    schedule: RunSchedule,
    builder: BatchBuilder,
    /// Rows of the last run and of this one, to tell those of the overlap that came before.
    before: HashSet<u64>,
    now: HashSet<u64>,
}

/// Where the next run begins. Kept as JSON with the position.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct MssqlPlace {
    /// The value of the last row's `position`, as it is written in SQL.
    #[serde(default)]
    value: Option<String>,
    /// Its type; empty before the first row.
    #[serde(default)]
    kind: String,
}

impl MssqlQuerySource {
    pub(super) async fn open(
        server: MssqlServer,
        options: MssqlQuery,
        topic: &TopicTemplate,
        context: SourceContext,
    ) -> Result<MssqlQuerySource, Error> {
        let link = server.open().await?;
        let mut written = String::new();
        topic.write(|_| Some(context.name.to_string()), &mut written);
        let place = serde_json::from_slice(context.resume.note("")).unwrap_or_default();
        let schedule = match options.at.as_deref().and_then(CronTimes::read) {
            Some(times) => RunSchedule::at(times, Arc::clone(&context.clock)),
            None => {
                let every = options.every.unwrap_or_else(super::ten_seconds);
                RunSchedule::every(every.as_duration())
            }
        };
        Ok(MssqlQuerySource {
            position: attempt(context.clock.now_micros(), context.resume.reached("")),
            encoding: link.encoding,
            server,
            options,
            topic: written,
            link: Some(link),
            running: None,
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
            let wait = self.schedule.wait();
            if self.running.is_none() && !wait.is_zero() {
                return Ok(Polled::Idle(wait));
            }
            let read = self.read().await;
            let polling = read.map_err(|failed| failed.told(self.server.doing("", "")))?;
            if let Some(polling) = polling {
                return Ok(Polled::Batch(polling));
            }
        }
    }

    /// Reads a piece of a run; the rows in it, if there are any that have not come.
    async fn read(&mut self) -> Result<Option<Polling>, MssqlFailed> {
        // Where its caller was dropped, or the session failed, the run begins anew at the last place.
        let (mut link, running) = match (self.link.take(), self.running.take()) {
            (Some(link), Some(running)) => (link, Some(running)),
            (Some(link), None) if link.usable() => (link, None),
            _ => (self.server.open().await?, None),
        };
        let columns = match running {
            Some(columns) => columns,
            None => {
                self.last = None;
                self.before = std::mem::take(&mut self.now);
                link.begin(&self.statement()?).await?;
                loop {
                    match link.head().await? {
                        MssqlHead::Rows(columns) => break columns,
                        MssqlHead::Done(_) => {}
                        MssqlHead::End => {
                            self.link = Some(link);
                            self.schedule.ran();
                            return Ok(None);
                        }
                    }
                }
            }
        };
        let mut rows = Vec::new();
        let fetched = link.fetch(CHUNK_BYTES, &mut rows).await?;
        let whole = fetched == MssqlFetched::All;
        if whole {
            // A failure behind the rows is one of the run, which is taken again from the last place.
            while !matches!(link.head().await?, MssqlHead::End) {}
        }
        let polling = self.publish(&columns, &rows, !whole)?;
        if whole {
            self.schedule.ran();
        } else {
            self.running = Some(columns);
        }
        self.link = Some(link);
        Ok(polling)
    }

    /// The statement, behind the declaration of `@position`.
    fn statement(&self) -> Result<String, Error> {
        let statement = &self.options.statement;
        let Some(start) = &self.options.start else {
            return Ok(statement.clone());
        };
        let (kind, value) = match &self.place.value {
            None => first(start),
            Some(value) => {
                let kind = self.place.kind.clone();
                let value = match &self.options.overlap {
                    None => value.clone(),
                    Some(overlap) => overlapped(overlap, &kind, value).ok_or_else(|| {
                        Error::new(Class::Configuration, "sqlserver.query-overlap")
                            .with("column", self.options.position.as_deref().unwrap_or("-"))
                    })?,
                };
                (kind, value)
            }
        };
        Ok(format!("DECLARE @position {kind} = {value}; {statement}"))
    }

    /// What is to be handed on of a piece of a run, behind which more rows may follow or not.
    fn publish(
        &mut self,
        columns: &[TdsColumn],
        rows: &[Vec<Option<Bytes>>],
        more: bool,
    ) -> Result<Option<Polling>, Error> {
        let place = match &self.options.position {
            None => None,
            Some(name) => {
                let mut there = columns.iter();
                let found = there.position(|column| column.name.eq_ignore_ascii_case(name));
                Some(found.ok_or_else(|| {
                    let there = columns.iter().map(|column| column.name.as_str());
                    Error::new(Class::Configuration, "sqlserver.query-column")
                        .with("column", name)
                        .with("there", names(there))
                })?)
            }
        };
        let mut payload = Vec::new();
        for values in rows {
            if self.options.overlap.is_some() {
                let mut hasher = DefaultHasher::new();
                values.hash(&mut hasher);
                let hash = hasher.finish();
                if self.now.len() >= OVERLAP_ROWS_MAX {
                    let error = Error::new(Class::Configuration, "sqlserver.query-overlap-rows");
                    return Err(error.with("most", OVERLAP_ROWS_MAX));
                }
                self.now.insert(hash);
                if self.before.contains(&hash) {
                    continue;
                }
            }
            payload.clear();
            super::row::write_object(columns, values, &mut payload);
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
        let ends = !more && self.last.is_some();
        if let Some(place) = place {
            self.advance(&columns[place], place, rows, more)?;
        }
        // Where it has come to is kept also where the last piece is empty.
        if self.builder.is_empty() && !(ends && rows.is_empty()) {
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

    /// Notes where a run begins behind a piece.
    fn advance(
        &mut self,
        column: &TdsColumn,
        at: usize,
        rows: &[Vec<Option<Bytes>>],
        more: bool,
    ) -> Result<(), Error> {
        let encoding = self.encoding;
        let place = |row: &Vec<Option<Bytes>>| match &row[at] {
            None => {
                let error = Error::new(Class::Configuration, "sqlserver.query-null");
                Err(error.with("column", &column.name))
            }
            Some(value) => Ok(MssqlPlace {
                value: Some(column.of.literal(value)),
                kind: column.of.variable(value, encoding),
            }),
        };
        if let Some(before) = resumable(rows.iter().map(|row| &row[at]), more) {
            self.place = place(&rows[before])?;
        }
        if let Some(last) = rows.last() {
            self.last = Some(place(last)?);
        }
        if !more && let Some(last) = self.last.take() {
            self.place = last;
        }
        Ok(())
    }
}

/// Type and value of the first `@position`: of what it looks like. A text of ASCII is compared with a column of either kind of
/// texts as that column compares, and by its index.
fn first(start: &str) -> (String, String) {
    let is_time = start.len() >= 10
        && start.as_bytes()[..10]
            .iter()
            .enumerate()
            .all(|(at, byte)| matches!(at, 4 | 7) && *byte == b'-' || byte.is_ascii_digit());
    let hex = start.strip_prefix("0x").unwrap_or_default();
    if start.parse::<i64>().is_ok() {
        ("bigint".into(), start.to_owned())
    } else if !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        ("varbinary(8000)".into(), start.to_owned())
    } else if is_time {
        ("datetime2".into(), literal(&start.replacen(' ', "T", 1)))
    } else if start.is_ascii() {
        ("varchar(8000)".into(), plain(start))
    } else {
        ("nvarchar(4000)".into(), literal(start))
    }
}

/// The value less the overlap; none where it does not fit the type.
fn overlapped(overlap: &MssqlOverlap, kind: &str, value: &str) -> Option<String> {
    let of = MssqlPositions::of(kind);
    match overlap {
        MssqlOverlap::Number(by) if of == MssqlPositions::Number => Some(format!("{value} - {by}")),
        MssqlOverlap::Time(span) if of == MssqlPositions::Time => {
            let seconds = span.as_duration().as_millis().div_ceil(1000);
            Some(format!("DATEADD(second, -{seconds}, {value})"))
        }
        _ => None,
    }
}

impl Source for MssqlQuerySource {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(self.next())
    }

    fn close(&mut self) -> Work<'_, Result<(), Error>> {
        Box::pin(async {
            if let Some(link) = self.link.take() {
                link.close().await;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_has_the_type_that_it_looks_like() {
        for (start, kind, value) in [
            ("0", "bigint", "0"),
            ("-12", "bigint", "-12"),
            ("0x00ff", "varbinary(8000)", "0x00ff"),
            ("2024-05-06 07:08:09", "datetime2", "N'2024-05-06T07:08:09'"),
            ("AB-1", "varchar(8000)", "'AB-1'"),
            ("0x'; drop", "varchar(8000)", "'0x''; drop'"),
            ("雨", "nvarchar(4000)", "N'雨'"),
        ] {
            assert_eq!(first(start), (kind.into(), value.into()), "{start}");
        }
        let number = MssqlOverlap::Number(5);
        assert_eq!(overlapped(&number, "bigint", "7").as_deref(), Some("7 - 5"));
        assert_eq!(overlapped(&number, "datetime2", "x"), None);
    }
}
