//! The rows of a statement that is run again and again, page by page.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use busbar_connector::{Polled, Polling, Position, Source, SourceContext, Work};
use busbar_event::{ARRIVAL, BatchBuilder, Class, Error, Flags, Row};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::CassandraQuery;
use super::frame::{CqlAnswer, CqlBound, CqlPage, CqlPrepared, CqlRequest, CqlRows, write_value};
use super::kind::{CqlCell, CqlType};
use super::link::{CassandraLink, CassandraServer, CqlFailed, strange};
use crate::change::attempt;
use crate::schedule::RunSchedule;
use crate::topic::TopicTemplate;

/// Runs a statement.
pub struct CassandraSource {
    server: CassandraServer,
    options: CassandraQuery,
    topic: String,
    schedule: RunSchedule,
    place: PagePlace,
    /// Behind the last batch.
    position: u64,
    /// Rows that are asked for: fewer after an answer that was too large.
    rows: usize,
    link: Option<CassandraLink>,
    builder: BatchBuilder,
}

/// The place behind the last page. Kept as JSON with the position.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct PagePlace {
    /// What the run that is under way, or the next one, takes rows behind.
    #[serde(default)]
    value: Option<String>,
    /// The greatest value of that column in the run that is under way.
    #[serde(default)]
    last: Option<String>,
    /// Where its next page begins, as the server says it; none between two runs.
    #[serde(default)]
    page: Option<String>,
}

impl CassandraSource {
    pub(super) fn new(
        server: CassandraServer,
        options: CassandraQuery,
        topic: &TopicTemplate,
        context: &SourceContext,
    ) -> CassandraSource {
        let mut written = String::new();
        topic.write(|_| Some(context.name.to_string()), &mut written);
        CassandraSource {
            server,
            topic: written,
            schedule: options.schedule(&context.clock),
            place: serde_json::from_slice(context.resume.note("")).unwrap_or_default(),
            position: attempt(context.clock.now_micros(), context.resume.reached("")),
            rows: options.rows,
            options,
            link: None,
            builder: BatchBuilder::new(),
        }
    }

    async fn next(&mut self) -> Result<Polled, Error> {
        let wait = match self.place.page {
            Some(_) => Duration::ZERO,
            None => self.schedule.wait(),
        };
        if !wait.is_zero() {
            return Ok(Polled::Idle(wait));
        }
        let mut link = match self.link.take().filter(CassandraLink::rests) {
            Some(link) => link,
            None => self.server.open().await?,
        };
        let read = self.page(&mut link).await;
        if link.rests() {
            self.link = Some(link);
        }
        match read {
            Ok(polled) => {
                self.rows = (self.rows * 2).min(self.options.rows);
                Ok(polled)
            }
            Err(error) if error.code() == "cassandra.too-large" && self.rows > 1 => {
                self.link = None;
                self.rows /= 2;
                Ok(Polled::Idle(Duration::ZERO))
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the next page.
    async fn page(&mut self, link: &mut CassandraLink) -> Result<Polled, Error> {
        let told = |link: &CassandraLink, failed: CqlFailed| {
            failed.told(self.server.doing(link, "", "SELECT"))
        };
        let statement = self.options.statement.trim().trim_end_matches(';');
        let prepared = link.prepare(statement).await;
        let prepared = prepared.map_err(|failed| told(link, failed))?;
        let values = self.values(&prepared)?;
        let page = self.place.page.as_ref().map(|text| STANDARD.decode(text));
        let page = CqlPage {
            rows: self.rows,
            // A place that cannot be read begins the run anew.
            behind: page.and_then(Result::ok).map(Bytes::from),
        };
        let bound = CqlBound {
            id: &prepared.id,
            count: prepared.takes.len(),
            values: &values,
        };
        let asked = link
            .ask(&CqlRequest::execute(bound, self.server.consistency, &page))
            .await;
        let mut rows = match asked {
            Ok(CqlAnswer::Rows(rows)) => rows,
            Ok(_) => return Err(Error::new(Class::Configuration, "cassandra.no-rows")),
            // The server does not know the place any more: the run begins anew.
            Err(CqlFailed::Refused(refusal)) if page.behind.is_some() && refusal.is_invalid() => {
                self.place.page = None;
                return Ok(Polled::Idle(Duration::ZERO));
            }
            Err(failed) => return Err(told(link, failed)),
        };
        let more = rows.more.take();
        link.check_more(page.behind.as_ref(), more.as_ref())?;
        let mut place = self.place.clone();
        let topic = self.builder.topic_id(&self.topic);
        let count = rows.count;
        let mut payload = Vec::new();
        while let Some(row) = rows.next().map_err(|why| link.unreadable(&why))? {
            write_row(&rows, &row, &mut payload)
                .ok_or_else(|| strange(&link.address, "a value of another type"))?;
            if let Some(column) = &self.options.position {
                place.last = Some(later(&rows, &row, column, place.last.take())?);
            }
            self.builder.push(Row {
                topic,
                key: None,
                time: ARRIVAL,
                client: None,
                flags: Flags::default().with_qos(1),
                tags: &[],
                payload: &payload,
            });
            payload.clear();
        }
        place.page = more.map(|more| STANDARD.encode(more));
        if place.page.is_none() {
            self.schedule.ran();
            place.value = place.last.take().or(place.value);
        }
        let is_same = std::mem::replace(&mut self.place, place) == self.place;
        if count == 0 && is_same {
            return Ok(Polled::Idle(Duration::ZERO));
        }
        self.position += 1;
        Ok(Polled::Batch(Polling {
            batch: self.builder.finish(),
            part: Arc::from(""),
            position: Position::End(self.position),
            note: serde_json::to_vec(&self.place).unwrap_or_default(),
        }))
    }

    /// The values that the statement takes: the position, wherever it is named.
    fn values(&self, prepared: &CqlPrepared) -> Result<Vec<u8>, Error> {
        let wrong = |code| Error::new(Class::Configuration, code);
        let mut values = Vec::new();
        for takes in &prepared.takes {
            if self.options.position.is_none() || takes.name != "position" {
                return Err(wrong("cassandra.statement-takes").with("name", &takes.name));
            }
            let start = self.options.start.as_deref().unwrap_or_default();
            let text = self.place.value.as_deref().unwrap_or(start);
            let mut value = Vec::new();
            let cell = CqlCell::Text(text.into());
            takes
                .kind
                .encode(&cell, false, &mut value)
                .ok_or_else(|| wrong("cassandra.start").with("value", busbar_event::quote(text)))?;
            write_value(Some(&value), &mut values);
        }
        Ok(values)
    }
}

/// Writes a row as a JSON object; none where a value is none of its type.
fn write_row(rows: &CqlRows, row: &[Option<Bytes>], out: &mut Vec<u8>) -> Option<()> {
    out.push(b'{');
    for (at, (column, value)) in rows.columns.iter().zip(row).enumerate() {
        if at > 0 {
            out.push(b',');
        }
        // A text has no failure as JSON.
        let _ = serde_json::to_writer(&mut *out, &column.name);
        out.push(b':');
        column.kind.write_json(value.as_deref(), out).ok()?;
    }
    out.push(b'}');
    Some(())
}

/// The later one of the value of a column and of the latest before it.
fn later(
    rows: &CqlRows,
    row: &[Option<Bytes>],
    column: &str,
    before: Option<String>,
) -> Result<String, Error> {
    let wrong = |code| Error::new(Class::Configuration, code).with("position", column);
    let place = rows.columns.iter().position(|known| known.name == column);
    let place = place.ok_or_else(|| wrong("cassandra.no-position"))?;
    let kind = &rows.columns[place].kind;
    let value = row
        .get(place)
        .and_then(Option::as_deref)
        .unwrap_or_default();
    let text = kind.text(value).ok().flatten();
    let text = text.ok_or_else(|| wrong("cassandra.position-null"))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let Some(before) = before else {
        return Ok(text);
    };
    let order = compare(kind, &text, &before).ok_or_else(|| wrong("cassandra.position-type"))?;
    Ok(if order == Ordering::Less {
        before
    } else {
        text
    })
}

/// The order of two values as texts; none for a type whose values do not grow.
fn compare(kind: &CqlType, a: &str, b: &str) -> Option<Ordering> {
    match kind {
        CqlType::Ascii | CqlType::Text => Some(a.cmp(b)),
        // Of the same length, the largest part first.
        CqlType::Date | CqlType::Time | CqlType::Timestamp => Some(a.cmp(b)),
        CqlType::Bigint | CqlType::Int | CqlType::Smallint | CqlType::Tinyint => {
            Some(a.parse::<i64>().ok()?.cmp(&b.parse().ok()?))
        }
        CqlType::Timeuuid => Some(uuid_time(a)?.cmp(&uuid_time(b)?)),
        _ => None,
    }
}

/// The time within a `timeuuid`, and the text itself for those of one time.
fn uuid_time(text: &str) -> Option<(u64, &str)> {
    let mut parts = text.split('-');
    let (low, middle, high) = (parts.next()?, parts.next()?, parts.next()?);
    let digits = format!("{}{middle}{low}", high.get(1..)?);
    Some((u64::from_str_radix(&digits, 16).ok()?, text))
}

impl Source for CassandraSource {
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
    fn values_are_in_the_order_of_their_type() {
        for (kind, small, large) in [
            (CqlType::Bigint, "9", "10"),
            (CqlType::Bigint, "-10", "-9"),
            (CqlType::Text, "a", "b"),
            (
                CqlType::Timestamp,
                "2024-01-01T00:00:00.001Z",
                "2024-01-01T00:00:01.000Z",
            ),
            (
                CqlType::Timeuuid,
                "ffffffff-0000-11e7-907b-a6006ad3dba0",
                "00000000-0001-11e7-907b-a6006ad3dba0",
            ),
        ] {
            assert_eq!(
                compare(&kind, small, large),
                Some(Ordering::Less),
                "{kind:?}"
            );
            assert_eq!(compare(&kind, large, small), Some(Ordering::Greater));
        }
        assert_eq!(compare(&CqlType::Uuid, "a", "b"), None);
    }
}
