//! Rows as record batches, by topic and partition.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use busbar_catalog::{Template, TemplatePart, Variable};
use busbar_connector::Delivery;
use busbar_event::tags::unescape;
use busbar_event::{Batch, Class, Error, reserved};
use busbar_kafka::batch::{BatchStamp, BatchWriter, KafkaCodec, RecordParts};
use busbar_kafka::message::{ProduceBatch, ProducerIdentity};
use busbar_kafka::partition_of;

use super::limits::{BATCH_BYTES, TOPIC_NAME_BYTES_MAX};
use super::{Compression, KafkaWrite};
use crate::cells::TextCells;
use crate::change::Op;

/// How rows become records.
pub struct RowPlan {
    topic: RowText,
    key: Option<RowText>,
    change: Option<usize>,
    codec: KafkaCodec,
}

/// A text with values of the row in it.
enum RowText {
    Literal(Arc<str>),
    Parts(Vec<RowTextPiece>),
}

enum RowTextPiece {
    Literal(String),
    Own(Variable),
    /// The place of a column, and its name.
    Column(usize, String),
}

/// What is to be written to one partition.
pub struct PartitionRows {
    pub topic: Arc<str>,
    pub partition: i32,
    /// The batches in order, each with the rows that are in it.
    pub batches: Vec<(ProduceBatch, Vec<usize>)>,
}

/// The sequence of the next record in each partition.
pub type Sequences = BTreeMap<(Arc<str>, i32), i32>;

/// Where the rows of a topic go.
pub struct BatchTarget<'a> {
    pub topic: &'a Arc<str>,
    /// How many partitions the topic has.
    pub partitions: usize,
    /// Bytes of a batch of more than one row.
    pub most: usize,
    /// Who writes.
    pub identity: ProducerIdentity,
}

/// Rows that are sorted by the topic that they go to.
pub struct SortedRows {
    /// The rows of each topic, each with its key.
    pub topics: BTreeMap<Arc<str>, Vec<SortedRow>>,
    /// Rows that cannot be written, and why.
    pub rejected: Vec<(usize, Error)>,
}

/// A row with its key.
pub struct SortedRow {
    pub row: usize,
    key: Option<Vec<u8>>,
    deleted: bool,
}

impl RowPlan {
    /// # Errors
    /// *Configuration*: a column that the flow does not make.
    pub fn new(options: &KafkaWrite, schema: &SchemaRef) -> Result<RowPlan, Error> {
        let place = |option: &'static str, column: &str| {
            schema.index_of(column).map_err(|_| {
                let there: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                Error::new(Class::Configuration, "kafka.flow-column")
                    .with("option", option)
                    .with("column", column)
                    .with("there", there.join(", "))
            })
        };
        let pattern = |option: &'static str, text: &str| {
            let template = Template::parse(text).map_err(|(_, error)| error)?;
            if let Some(literal) = template.literal() {
                return Ok(RowText::Literal(literal.into()));
            }
            let pieces = template.parts().iter().map(|part| match part {
                TemplatePart::Literal(text) => Ok(RowTextPiece::Literal(text.clone())),
                TemplatePart::Variable {
                    variable: Variable::Column(name),
                    ..
                } => place(option, name).map(|at| RowTextPiece::Column(at, name.clone())),
                TemplatePart::Variable { variable, .. } => Ok(RowTextPiece::Own(variable.clone())),
            });
            pieces.collect::<Result<_, Error>>().map(RowText::Parts)
        };
        let change = options.change.as_deref();
        let key = options.key.as_deref();
        Ok(RowPlan {
            topic: pattern("topic", &options.topic)?,
            key: key.map(|key| pattern("key", key)).transpose()?,
            change: change.map(|column| place("change", column)).transpose()?,
            codec: match options.compression {
                Compression::None => KafkaCodec::None,
                Compression::Lz4 => KafkaCodec::Lz4,
                Compression::Zstd => KafkaCodec::Zstd,
                Compression::Gzip => KafkaCodec::Gzip,
            },
        })
    }

    /// The topic, where all rows have the same one.
    pub fn one_topic(&self) -> Option<&Arc<str>> {
        match &self.topic {
            RowText::Literal(topic) => Some(topic),
            RowText::Parts(_) => None,
        }
    }

    /// Sorts some rows of a delivery.
    ///
    /// # Errors
    /// *Configuration*: a column without text.
    pub fn sort(&self, delivery: &Delivery, rows: Range<usize>) -> Result<SortedRows, Error> {
        let cells = |pattern: &RowText| match pattern {
            RowText::Literal(_) => Ok(Vec::new()),
            RowText::Parts(pieces) => pieces
                .iter()
                .map(|piece| match piece {
                    RowTextPiece::Column(at, name) => {
                        TextCells::new(name, delivery.rows.column(*at)).map(Some)
                    }
                    _ => Ok(None),
                })
                .collect::<Result<Vec<_>, Error>>(),
        };
        let topic_cells = cells(&self.topic)?;
        let key_cells = self.key.as_ref().map(&cells).transpose()?;
        let change = self.change.map(|at| {
            let column = cast(delivery.rows.column(at), &DataType::Utf8);
            column.map_err(|why| {
                Error::new(Class::Configuration, "connect.change-type").caused_by(why)
            })
        });
        let change = change.transpose()?;
        let mut sorted = SortedRows {
            topics: BTreeMap::new(),
            rejected: Vec::new(),
        };
        let events = &delivery.events;
        let mut name = Vec::new();
        for row in rows {
            let op = match &change {
                None => Ok(Op::Insert),
                Some(column) => Op::of(text_at(column, row)),
            };
            let deleted = match op {
                Ok(Op::Truncate | Op::Nothing) => continue,
                Ok(op) => op == Op::Delete,
                Err(error) => {
                    sorted.rejected.push((row, error));
                    continue;
                }
            };
            let key = match (&self.key, &key_cells) {
                (Some(pattern), Some(cells)) => {
                    let mut key = Vec::new();
                    match pattern.write(events, row, cells, &mut key) {
                        Ok(()) => Some(key),
                        Err(error) => {
                            sorted.rejected.push((row, error));
                            continue;
                        }
                    }
                }
                _ => events.key(row).map(|key| key.as_bytes().to_vec()),
            };
            if deleted && key.is_none() {
                let error = Error::new(Class::Permanent, "kafka.no-key");
                sorted.rejected.push((row, error));
                continue;
            }
            let one = SortedRow { row, key, deleted };
            if let RowText::Literal(topic) = &self.topic {
                match sorted.topics.get_mut(topic) {
                    Some(rows) => rows.push(one),
                    None => drop(sorted.topics.insert(Arc::clone(topic), vec![one])),
                }
                continue;
            }
            name.clear();
            if let Err(error) = self.topic.write(events, row, &topic_cells, &mut name) {
                sorted.rejected.push((row, error));
                continue;
            }
            let topic = topic_name(&name);
            match sorted.topics.get_mut(topic.as_str()) {
                Some(rows) => rows.push(one),
                None => drop(sorted.topics.insert(topic.into(), vec![one])),
            }
        }
        Ok(sorted)
    }

    /// Makes batches of the rows of one topic.
    pub fn batches(
        &self,
        delivery: &Delivery,
        rows: &[&SortedRow],
        target: &BatchTarget<'_>,
        sequences: &mut Sequences,
    ) -> Vec<PartitionRows> {
        let BatchTarget {
            topic,
            partitions,
            most,
            identity,
        } = *target;
        let events = &delivery.events;
        let payloads = events.payloads();
        let mut open: BTreeMap<usize, OpenRows> = BTreeMap::new();
        let mut texts: Vec<(String, String)> = Vec::new();
        for one in rows {
            let row = one.row;
            let place = match &one.key {
                Some(key) => partition_of(key, partitions),
                // Those of one topic stay in their order.
                None => partition_of(events.topic(row).as_bytes(), partitions),
            };
            let Some(place) = place else { continue };
            let open = open
                .entry(place)
                .or_insert_with(|| OpenRows::new(topic, place));
            texts.clear();
            if events.has_tags() {
                let tags = events.tags(row).filter_map(|(name, value)| {
                    let name = header_name(name)?;
                    Some((name.to_owned(), value.to_owned()))
                });
                texts.extend(tags);
            }
            let headers: Vec<_> = texts
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .collect();
            let record = RecordParts {
                time: events.times()[row].div_euclid(1_000),
                key: one.key.as_deref(),
                value: (!one.deleted).then(|| payloads.value(row)),
                headers: &headers,
            };
            let bytes = open.writer.bytes() + BatchWriter::bytes_of(&record);
            if open.writer.count() > 0 && bytes > most.min(BATCH_BYTES) {
                open.finish(self.codec, identity, sequences);
            }
            open.writer.push(&record);
            open.rows.push(row);
        }
        let open = open.into_values().map(|mut open| {
            open.finish(self.codec, identity, sequences);
            open.done
        });
        open.collect()
    }
}

struct OpenRows {
    writer: BatchWriter,
    rows: Vec<usize>,
    done: PartitionRows,
}

impl OpenRows {
    fn new(topic: &Arc<str>, partition: usize) -> OpenRows {
        OpenRows {
            writer: BatchWriter::default(),
            rows: Vec::new(),
            done: PartitionRows {
                topic: Arc::clone(topic),
                partition: i32::try_from(partition).unwrap_or(i32::MAX),
                batches: Vec::new(),
            },
        }
    }

    fn finish(&mut self, codec: KafkaCodec, identity: ProducerIdentity, sequences: &mut Sequences) {
        if self.rows.is_empty() {
            return;
        }
        let key = (Arc::clone(&self.done.topic), self.done.partition);
        let sequence = sequences.entry(key).or_insert(0);
        let stamp = BatchStamp {
            producer_id: identity.id,
            producer_epoch: identity.epoch,
            base_sequence: *sequence,
            transactional: true,
        };
        // As Kafka counts: behind the largest comes 0.
        let count = i32::try_from(self.writer.count()).unwrap_or(i32::MAX);
        *sequence = sequence.wrapping_add(count) & i32::MAX;
        let mut records = Vec::with_capacity(self.writer.bytes());
        self.writer.finish(stamp, codec, &mut records);
        let batch = ProduceBatch {
            topic: Arc::clone(&self.done.topic),
            partition: self.done.partition,
            records,
        };
        let rows = std::mem::take(&mut self.rows);
        self.done.batches.push((batch, rows));
    }
}

impl RowText {
    fn write(
        &self,
        events: &Batch,
        row: usize,
        cells: &[Option<TextCells>],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let pieces = match self {
            RowText::Literal(text) => {
                out.extend(text.as_bytes());
                return Ok(());
            }
            RowText::Parts(pieces) => pieces,
        };
        let null =
            |name: &str| Error::new(Class::Permanent, "connect.key-null").with("column", name);
        for (piece, cells) in pieces.iter().zip(cells) {
            match (piece, cells) {
                (RowTextPiece::Literal(text), _) => out.extend(text.as_bytes()),
                (RowTextPiece::Column(_, name), Some(cells)) => {
                    out.extend_from_slice(&cells.get(row).ok_or_else(|| null(name))?);
                }
                (RowTextPiece::Column(_, name), None) => return Err(null(name)),
                (RowTextPiece::Own(variable), _) => {
                    let parts = busbar_event::topic::parts(events.topic(row));
                    let text = match variable {
                        Variable::Topic => Some(events.topic(row)),
                        Variable::Kind => Some(parts.kind),
                        Variable::Client => Some(parts.client),
                        Variable::Subject => Some(parts.subject),
                        Variable::Key => events.key(row),
                        Variable::Tag(name) => {
                            let mut tags = events.tags(row);
                            tags.find(|(tag, _)| tag == name).map(|(_, value)| value)
                        }
                        Variable::Column(_) => None,
                    };
                    let text = text.ok_or_else(|| null(&variable.name()))?;
                    out.extend(text.as_bytes());
                }
            }
        }
        Ok(())
    }
}

fn text_at(column: &ArrayRef, row: usize) -> &str {
    match column.is_valid(row) {
        true => column.as_string::<i32>().value(row),
        false => "",
    }
}

/// The header that a tag becomes; `None` for those of Busbar's own that say nothing to others.
fn header_name(tag: &str) -> Option<&str> {
    match (unescape(tag), tag) {
        (Some(name), _) => Some(name),
        (None, reserved::CONTENT_TYPE) => Some("content-type"),
        (None, reserved::REPLY_TO) => Some("reply-to"),
        (None, reserved::CORRELATION_DATA) => Some("correlation-data"),
        (None, _) => None,
    }
}

/// A topic's name that Kafka takes.
fn topic_name(text: &[u8]) -> String {
    let mut name = String::new();
    for c in String::from_utf8_lossy(text).chars() {
        let c = match c {
            '/' => '.',
            c if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') => c,
            _ => '_',
        };
        name.push(c);
    }
    name.truncate(TOPIC_NAME_BYTES_MAX);
    match name.as_str() {
        "" | "." | ".." => "_".to_owned(),
        _ => name,
    }
}

/// Numbers of rows as text: `3,17-20`.
pub fn write_rows(rows: &[usize], out: &mut String) {
    let mut rest = rows;
    while let Some(first) = rest.first() {
        let pairs = rest.windows(2).take_while(|pair| pair[1] == pair[0] + 1);
        let run = 1 + pairs.count();
        if !out.is_empty() && !out.ends_with(' ') {
            out.push(',');
        }
        // Writing to a text does not fail.
        let _ = match run {
            1 => write!(out, "{first}"),
            _ => write!(out, "{first}-{}", rest[run - 1]),
        };
        rest = &rest[run..];
    }
}

/// The numbers of rows in a text.
pub fn read_rows(text: &str) -> Vec<usize> {
    let runs = text.split(',').filter_map(|run| {
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        Some(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?)
    });
    // No delivery has more rows.
    runs.flatten()
        .take(busbar_event::limits::BODY_ROWS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_kept_as_text() {
        for (rows, text) in [
            (&[][..], ""),
            (&[3], "3"),
            (&[3, 4], "3-4"),
            (&[0, 3, 4, 5, 9, 11, 12], "0,3-5,9,11-12"),
        ] {
            let mut out = String::new();
            write_rows(rows, &mut out);
            assert_eq!(out, text);
            assert_eq!(read_rows(text), rows);
        }
    }

    #[test]
    fn any_text_becomes_a_topic() {
        for (text, name) in [
            ("gateway/d1/rain", "gateway.d1.rain"),
            ("a b", "a_b"),
            ("雨", "_"),
            ("", "_"),
            ("..", "_"),
        ] {
            assert_eq!(topic_name(text.as_bytes()), name);
        }
        assert_eq!(topic_name(&[b'a'; 500]).len(), TOPIC_NAME_BYTES_MAX);
    }
}
