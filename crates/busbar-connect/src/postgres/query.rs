//! The rows of a statement that is run again and again, each time from where the last one ended.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use busbar_change::event::text;
use busbar_change::postgres::wire::Column;
use busbar_change::postgres::{oid, write_json};
use busbar_connector::{Polled, Polling, Position, Source, SourceContext, Work};
use busbar_event::{ARRIVAL, BatchBuilder, Class, Error, Flags, Row};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::failure::Failed;
use super::limits::{CHUNK_BYTES, CHUNK_ROWS, FETCH_ROWS, OVERLAP_ROWS_MAX};
use super::link::{Answer, Fetched, Link, Server};

use super::{Overlap, QueryOptions};
use crate::change::attempt;
use crate::change::plan::names;
use crate::run_place::resumable;
use crate::topic::TopicTemplate;

/// Runs a statement at intervals.
pub struct QuerySource {
    server: Server,
    options: QueryOptions,
    topic: String,
    link: Option<Link>,
    /// The session while the rows of a run are read in pieces, and their columns.
    running: Option<Link>,
    columns: Vec<Column>,
    place: Place,
    /// Behind the last row of the run under way.
    last: Option<Place>,
    /// Behind the last batch.
    position: u64,
    due: Instant,
    builder: BatchBuilder,
    /// Rows of the last run and of this one, to tell those of the overlap that came before.
    before: HashSet<u64>,
    now: HashSet<u64>,
}

/// Where the next run begins. Kept as JSON with the position.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Place {
    /// The value of the last row's `position`, as the server writes it.
    #[serde(default)]
    value: Option<String>,
    /// Its type.
    #[serde(default)]
    oid: u32,
}

impl QuerySource {
    pub(super) async fn open(
        server: Server,
        options: QueryOptions,
        topic: &TopicTemplate,
        context: SourceContext,
    ) -> Result<QuerySource, Error> {
        let link = server.open().await?;
        let mut written = String::new();
        topic.write(|_| Some(context.name.to_string()), &mut written);
        let mut place: Place = serde_json::from_slice(context.resume.note("")).unwrap_or_default();
        if place.value.is_none() {
            place.value = options.start.clone();
        }
        Ok(QuerySource {
            position: attempt(context.clock.now_micros(), context.resume.reached("")),
            server,
            options,
            topic: written,
            link: Some(link),
            running: None,
            columns: Vec::new(),
            place,
            last: None,
            due: Instant::now(),
            builder: BatchBuilder::new(),
            before: HashSet::new(),
            now: HashSet::new(),
        })
    }

    async fn next(&mut self) -> Result<Polled, Error> {
        loop {
            let wait = self.due.saturating_duration_since(Instant::now());
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
    async fn read(&mut self) -> Result<Option<Polling>, Failed> {
        // Where its caller was dropped, the run begins anew at the last place.
        let (mut link, begun) = match (self.running.take(), self.link.take().filter(Link::usable)) {
            (Some(link), _) => (link, true),
            (None, Some(link)) => (link, false),
            (None, None) => (self.server.open().await?, false),
        };
        let mut answer = Answer::default();
        if begun {
            answer.columns.clone_from(&self.columns);
            link.more(FETCH_ROWS).await?;
        } else {
            self.last = None;
            self.before = std::mem::take(&mut self.now);
            let from = self.from(&mut link).await?;
            let parameter = [from.as_deref()];
            let parameters = if self.options.position.is_some() {
                &parameter[..]
            } else {
                &[]
            };
            link.begin(&self.options.statement, parameters, FETCH_ROWS)
                .await?;
        }
        let whole = loop {
            match link.fetch(&mut answer).await? {
                Fetched::All => break true,
                Fetched::Part if super::snapshot::bytes(&answer) >= CHUNK_BYTES => break false,
                Fetched::Part if answer.rows.len() >= CHUNK_ROWS => break false,
                Fetched::Part => link.more(FETCH_ROWS).await?,
            }
        };
        let polling = self.publish(&answer, !whole)?;
        if whole {
            link.finish().await?;
            self.link = Some(link);
            self.due = Instant::now() + self.options.every.as_duration();
        } else {
            self.columns = answer.columns;
            self.running = Some(link);
        }
        Ok(polling)
    }

    /// The value that the statement is run with: the last one, less the overlap.
    async fn from(&self, link: &mut Link) -> Result<Option<String>, Failed> {
        let (Some(value), Some(overlap)) = (&self.place.value, &self.options.overlap) else {
            return Ok(self.place.value.clone());
        };
        let (sql, by) = match (overlap, self.place.oid) {
            // Not known before the first row, and nothing is overlapped before it.
            (_, 0) => return Ok(Some(value.clone())),
            (Overlap::Time(span), oid::TIMESTAMPTZ | oid::TIMESTAMP | oid::DATE) => (
                "SELECT ($1::timestamptz - $2::interval)::text",
                format!("{} microseconds", span.as_duration().as_micros()),
            ),
            (Overlap::Number(by), oid::INT2 | oid::INT4 | oid::INT8 | oid::NUMERIC) => {
                ("SELECT ($1::numeric - $2::numeric)::text", by.to_string())
            }
            _ => {
                let error = Error::new(Class::Configuration, "postgres.query-overlap");
                return Err(error
                    .with("column", self.options.position.as_deref().unwrap_or("-"))
                    .into());
            }
        };
        let answer = link
            .ask(sql, &[Some(value.as_str()), Some(by.as_str())])
            .await?;
        Ok(answer.text(0, 0).map(str::to_owned))
    }

    /// What is to be handed on of a piece of a run, behind which more rows may follow or not.
    fn publish(&mut self, answer: &Answer, more: bool) -> Result<Option<Polling>, Error> {
        let columns = &answer.columns;
        let place = match &self.options.position {
            None => None,
            Some(name) => Some(
                columns
                    .iter()
                    .position(|column| column.name == *name)
                    .ok_or_else(|| {
                        Error::new(Class::Configuration, "postgres.query-column")
                            .with("column", name)
                            .with(
                                "there",
                                names(columns.iter().map(|column| column.name.as_str())),
                            )
                    })?,
            ),
        };
        let mut payload = Vec::new();
        for values in &answer.rows {
            if self.options.overlap.is_some() {
                let mut hasher = DefaultHasher::new();
                values.hash(&mut hasher);
                let hash = hasher.finish();
                if self.now.len() >= OVERLAP_ROWS_MAX {
                    let error = Error::new(Class::Configuration, "postgres.query-overlap-rows");
                    return Err(error.with("most", OVERLAP_ROWS_MAX));
                }
                self.now.insert(hash);
                if self.before.contains(&hash) {
                    continue;
                }
            }
            payload.clear();
            write_row(columns, values, &mut payload);
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
        if let Some(column) = place {
            self.advance(answer, column, more)?;
        }
        // Where it has come to is kept also where the last piece is empty.
        if self.builder.is_empty() && !(ends && answer.rows.is_empty()) {
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
    fn advance(&mut self, answer: &Answer, column: usize, more: bool) -> Result<(), Error> {
        let Column { name, oid, .. } = &answer.columns[column];
        let place = |row: &Vec<Option<Bytes>>| match &row[column] {
            None => {
                let error = Error::new(Class::Configuration, "postgres.query-null");
                Err(error.with("column", name))
            }
            Some(value) => Ok(Place {
                value: Some(String::from_utf8_lossy(value).into_owned()),
                oid: *oid,
            }),
        };
        let values = answer.rows.iter().map(|row| &row[column]);
        if let Some(at) = resumable(values, more) {
            self.place = place(&answer.rows[at])?;
        }
        if let Some(last) = answer.rows.last() {
            self.last = Some(place(last)?);
        }
        if !more && let Some(last) = self.last.take() {
            self.place = last;
        }
        Ok(())
    }
}

fn write_row(columns: &[Column], values: &[Option<Bytes>], out: &mut Vec<u8>) {
    out.push(b'{');
    for (at, (column, value)) in columns.iter().zip(values).enumerate() {
        if at > 0 {
            out.push(b',');
        }
        text(&column.name, out);
        out.push(b':');
        match value {
            Some(value) => write_json(value, column.oid, out),
            None => out.extend_from_slice(b"null"),
        }
    }
    out.push(b'}');
}

impl Source for QuerySource {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(self.next())
    }

    fn close(&mut self) -> Work<'_, Result<(), Error>> {
        Box::pin(async {
            for link in [self.link.take(), self.running.take()]
                .into_iter()
                .flatten()
            {
                link.close().await;
            }
            Ok(())
        })
    }
}
