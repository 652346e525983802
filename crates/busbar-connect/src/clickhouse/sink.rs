//! Inserts rows, each delivery once.
//!
//! Before a delivery is inserted, its position is noted in a table, so that a start after a crash cuts its input at it: the same
//! rows come again under the same token, by which the server leaves out what it has.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use busbar_connector::{Delivery, Sink, SinkContext, Work, Written};
use busbar_event::{Class, Error};
use bytes::Bytes;
use serde::Deserialize;

use super::ClickHouseWrite;
use super::column::{ColumnWriter, TableColumn};
use super::limits::WINDOW_INSERTS;
use super::link::{ClickHouseLink, literal, quoted};
use crate::change::Op;
use crate::change::plan::{Halving, Refused};
use crate::change::refusal::{RefusedRecord, content_of};

/// Inserts rows.
pub struct ClickHouseSink {
    link: ClickHouseLink,
    options: ClickHouseWrite,
    schema: SchemaRef,
    now_micros: u64,
    /// The columns that are written; none before the table was looked at.
    columns: Option<Vec<ColumnWriter>>,
    noted: Option<InsertNote>,
}

/// How far a producer has come.
#[derive(Clone)]
struct InsertNote {
    producer: Arc<str>,
    /// A greater number for each start, so that notes of the one before that come late count for nothing.
    start: u64,
    /// All rows before it are there.
    done: u64,
    /// The position of a delivery that is there, or comes next.
    position: u64,
    /// Number of its rows.
    rows: u64,
    /// Whether this sink knows that it is there.
    there: bool,
    /// Those of its rows that the server refused.
    refused: Vec<RefusedRecord>,
}

/// A row of the table that keeps notes.
#[derive(Deserialize)]
struct NoteRow {
    start: u64,
    done: u64,
    position: u64,
    rows: u64,
    /// Refused rows as JSON: number, content, cause.
    refused: String,
}

/// A row as it is sent.
struct InsertLine {
    /// Its number in the delivery.
    row: usize,
    /// Its place in the body.
    bytes: Range<usize>,
}

impl ClickHouseSink {
    pub(super) fn new(
        link: ClickHouseLink,
        options: ClickHouseWrite,
        context: &SinkContext,
    ) -> ClickHouseSink {
        ClickHouseSink {
            link,
            options,
            schema: Arc::clone(&context.schema),
            now_micros: u64::try_from(context.clock.now_micros()).unwrap_or(0),
            columns: None,
            noted: None,
        }
    }

    /// Looks at the table, once.
    async fn look(&mut self) -> Result<(), Error> {
        if self.columns.is_some() {
            return Ok(());
        }
        self.check_engine().await?;
        let table = &self.options.table;
        let there: Vec<TableColumn> = self
            .link
            .rows(
                "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = {table:String}",
                &[("table", table)],
            )
            .await?;
        let mut columns = Vec::new();
        for (at, field) in self.schema.fields().iter().enumerate() {
            let Some(column) = there.iter().find(|column| column.name == *field.name()) else {
                let error = Error::new(Class::Configuration, "clickhouse.no-column");
                return Err(error.with("table", table).with("column", field.name()));
            };
            columns.push(ColumnWriter::new(at, field.data_type(), column, table)?);
        }
        // The later of two notes of one start has the greater sum.
        let create = format!(
            "CREATE TABLE IF NOT EXISTS {} (producer String, start UInt64, done UInt64, position UInt64, rows UInt64, \
             refused String, version UInt64 DEFAULT done + position) ENGINE = ReplacingMergeTree(version) ORDER BY (producer, start)",
            quoted(&self.options.positions)
        );
        self.link.run(&create, &[], Bytes::new()).await?;
        self.columns = Some(columns);
        Ok(())
    }

    /// Refuses a table that does not recognise rows that come again.
    async fn check_engine(&self) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct TableRow {
            engine: String,
            create_table_query: String,
        }
        let table = &self.options.table;
        let engines: Vec<TableRow> = self
            .link
            .rows(
                "SELECT engine, create_table_query FROM system.tables WHERE database = currentDatabase() AND name = {table:String}",
                &[("table", table)],
            )
            .await?;
        let wrong = |code| Error::new(Class::Configuration, code).with("table", table);
        let [found] = &engines[..] else {
            return Err(wrong("clickhouse.no-table"));
        };
        if !found.engine.ends_with("MergeTree") {
            return Err(wrong("clickhouse.engine").with("engine", &found.engine));
        }
        let replicated = ["Replicated", "Shared"];
        let replicated = replicated.iter().any(|name| found.engine.starts_with(name));
        let setting = match replicated {
            true => "replicated_deduplication_window",
            false => "non_replicated_deduplication_window",
        };
        let words = found.create_table_query.split([' ', ',', '=']);
        let mut words = words.filter(|word| !word.is_empty());
        let window = words.find(|word| *word == setting).and(words.next());
        // Replicated tables remember where nothing is said.
        if window.map_or(!replicated, |count| count == "0") {
            let mend = format!(
                "ALTER TABLE {} MODIFY SETTING {setting} = {WINDOW_INSERTS}",
                quoted(table)
            );
            return Err(wrong("clickhouse.no-window").with("statement", mend));
        }
        Ok(())
    }

    /// How far a producer has come. Changes nothing: somebody else may be writing.
    async fn begin(&mut self, producer: &Arc<str>) -> Result<InsertNote, Error> {
        self.look().await?;
        let statement = format!(
            "SELECT start, done, position, rows, refused FROM {} WHERE producer = {{producer:String}} \
             ORDER BY start DESC, done + position DESC LIMIT 1",
            quoted(&self.options.positions)
        );
        let parameters = [("producer", &**producer)];
        let rows: Vec<NoteRow> = self.link.rows(&statement, &parameters).await?;
        let mut noted = InsertNote {
            producer: Arc::clone(producer),
            start: self.now_micros,
            done: 0,
            position: 0,
            rows: 0,
            there: false,
            refused: Vec::new(),
        };
        if let Some(last) = rows.into_iter().next() {
            let refused: Vec<(usize, String, String)> =
                serde_json::from_str(&last.refused).unwrap_or_default();
            let record = |(row, content, cause)| RefusedRecord {
                row,
                content,
                cause,
            };
            noted.start = self.now_micros.max(last.start.saturating_add(1));
            noted.done = last.done;
            noted.position = last.position;
            noted.rows = last.rows;
            noted.refused = refused.into_iter().map(record).collect();
        }
        if let Some(own) = &self.noted
            && own.producer == noted.producer
            && (own.done, own.position) == (noted.done, noted.position)
        {
            noted.there = own.there;
            noted.refused.clone_from(&own.refused);
        }
        Ok(noted)
    }

    /// Keeps how far a producer has come.
    async fn note(&self, noted: &InsertNote) -> Result<(), Error> {
        let records = noted.refused.iter();
        let refused: Vec<_> = records
            .map(|record| (record.row, &record.content, &record.cause))
            .collect();
        let refused = serde_json::to_string(&refused).unwrap_or_default();
        let statement = self.noting(noted, (noted.done, noted.position, noted.rows), &refused);
        self.link.run(&statement, &[], Bytes::new()).await?;
        Ok(())
    }

    /// The statement that keeps how far a producer has come.
    fn noting(
        &self,
        noted: &InsertNote,
        (done, position, rows): (u64, u64, u64),
        refused: &str,
    ) -> String {
        format!(
            "INSERT INTO {} (producer, start, done, position, rows, refused) SETTINGS async_insert = 0 \
             VALUES ({}, {}, {done}, {position}, {rows}, {})",
            quoted(&self.options.positions),
            literal(&noted.producer),
            noted.start,
            literal(refused)
        )
    }

    /// Whether rows of a delivery have to be inserted; notes it where that is new.
    async fn advance(&mut self, delivery: &Delivery) -> Result<bool, Error> {
        let (position, rows) = (delivery.position, delivery.rows.num_rows() as u64);
        let noted = match self.noted.take() {
            Some(noted) if noted.producer == delivery.producer => noted,
            _ => self.begin(&delivery.producer).await?,
        };
        let noted = self.noted.insert(noted).clone();
        if position <= noted.done {
            return Ok(false);
        }
        if position == noted.position && rows == noted.rows {
            return Ok(!noted.there);
        }
        let next = match (position > noted.position, noted.there) {
            // What was noted last is there: what follows comes behind it only.
            (true, _) => InsertNote {
                done: noted.position,
                position,
                rows,
                there: false,
                refused: Vec::new(),
                ..noted
            },
            // It comes again, cut in another way.
            (false, true) => InsertNote {
                done: noted.position,
                ..noted
            },
            (false, false) => return Err(self.unknown(&noted)),
        };
        self.note(&next).await?;
        let missing = !next.there;
        self.noted = Some(next);
        Ok(missing)
    }

    /// Rows come again in other parts than they were sent in, and nobody knows whether they are there.
    fn unknown(&self, noted: &InsertNote) -> Error {
        let statement = |done, rows| self.noting(noted, (done, done, rows), "[]");
        Error::new(Class::Configuration, "clickhouse.parts")
            .with("table", &self.options.table)
            .with("producer", &noted.producer)
            .with("rows", noted.rows)
            .with("there", statement(noted.position, noted.rows))
            .with("missing", statement(noted.done, 0))
    }

    async fn deliver(&mut self, delivery: &Delivery) -> Result<Written, Error> {
        self.look().await?;
        let mut rejected = Vec::new();
        let (body, lines) = self.lines(delivery, &mut rejected)?;
        let kept = !delivery.producer.is_empty();
        let content = |line: &InsertLine| content_of(Op::Insert, &body[line.bytes.clone()]);
        if kept && !self.advance(delivery).await? {
            let records = self.noted.as_ref().map(|noted| noted.refused.clone());
            let rows = lines.iter().map(|line| (line.row, content(line)));
            rejected.extend(RefusedRecord::recalled(records.unwrap_or_default(), rows));
        } else {
            let mut refused = Vec::new();
            let mut halving = Halving::new(&lines);
            while let Some(part) = halving.part() {
                match self.insert(delivery, &body, part).await {
                    Err(error) if error.class() == Class::Permanent => {
                        if let Some(line) = halving.refused(part) {
                            refused.push((line.row, error));
                        }
                    }
                    inserted => inserted?,
                }
            }
            if let Some(noted) = &mut self.noted {
                let text = |row: usize| {
                    let at = lines.binary_search_by_key(&row, |line| line.row);
                    at.map_or_else(|_| String::new(), |at| content(&lines[at]))
                };
                noted.there = true;
                noted.refused = RefusedRecord::of(&refused, text);
            }
            rejected.append(&mut refused);
        }
        rejected.sort_by_key(|(row, _)| *row);
        Ok(Written::of(rejected))
    }

    /// The rows as TabSeparated; those that the columns do not keep as they are go to `rejected`.
    fn lines(
        &self,
        delivery: &Delivery,
        rejected: &mut Vec<Refused>,
    ) -> Result<(Bytes, Vec<InsertLine>), Error> {
        let columns = self.columns.as_deref().unwrap_or_default();
        let values = columns
            .iter()
            .map(|column| column.values(delivery.rows.column(column.place())));
        let values: Vec<_> = values.collect::<Result<_, _>>()?;
        let (mut body, mut lines) = (Vec::new(), Vec::new());
        for row in 0..delivery.rows.num_rows() {
            let begin = body.len();
            let made = values.iter().enumerate().try_for_each(|(at, values)| {
                if at > 0 {
                    body.push(b'\t');
                }
                values.write(row, &mut body)
            });
            match made {
                Ok(()) => {
                    body.push(b'\n');
                    let bytes = begin..body.len();
                    lines.push(InsertLine { row, bytes });
                }
                Err(error) => {
                    body.truncate(begin);
                    rejected.push((row, error));
                }
            }
        }
        Ok((Bytes::from(body), lines))
    }

    /// Inserts lines that follow each other.
    async fn insert(
        &self,
        delivery: &Delivery,
        body: &Bytes,
        lines: &[InsertLine],
    ) -> Result<(), Error> {
        let (Some(first), Some(last)) = (lines.first(), lines.last()) else {
            return Ok(());
        };
        let columns = self.columns.as_deref().unwrap_or_default();
        let names: Vec<_> = columns.iter().map(|column| quoted(column.name())).collect();
        let (producer, position) = (&delivery.producer, delivery.position);
        let once = match producer.is_empty() {
            true => "insert_deduplicate = 0".to_owned(),
            false => {
                let from = delivery.first + first.row;
                let token = format!("{producer}:{position}:{from}:{}", lines.len());
                let token = literal(&token);
                format!("insert_deduplicate = 1, insert_deduplication_token = {token}")
            }
        };
        // One block, so that it is there as a whole or not at all; an answer says that it is there.
        let statement = format!(
            "INSERT INTO {} ({}) SETTINGS {once}, async_insert = 0, input_format_parallel_parsing = 0, \
             input_format_null_as_default = 0, date_time_input_format = 'best_effort', max_insert_block_size = 10000000 \
             FORMAT TabSeparated",
            quoted(&self.options.table),
            names.join(", "),
        );
        let rows = body.slice(first.bytes.start..last.bytes.end);
        self.link.run(&statement, &[], rows).await?;
        Ok(())
    }
}

impl Sink for ClickHouseSink {
    fn write<'a>(&'a mut self, delivery: &'a Delivery) -> Work<'a, Result<Written, Error>> {
        Box::pin(async move {
            let written = self.deliver(delivery).await;
            if written.is_err() {
                // The table may have changed.
                self.columns = None;
            }
            written
        })
    }

    fn position<'a>(&'a mut self, producer: &'a str) -> Work<'a, Result<Option<u64>, Error>> {
        Box::pin(async move {
            let noted = self.begin(&producer.into()).await?;
            Ok(Some(noted.position).filter(|position| *position > 0))
        })
    }

    fn cuts<'a>(&'a mut self, producer: &'a str) -> Work<'a, Result<Vec<u64>, Error>> {
        Box::pin(async move {
            let noted = self.begin(&producer.into()).await?;
            let mut cuts = vec![noted.done, noted.position];
            self.noted = Some(noted);
            cuts.dedup();
            cuts.retain(|position| *position > 0);
            Ok(cuts)
        })
    }
}
