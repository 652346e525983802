//! Events and tables that tests ask about.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use busbar_event::format::{FieldSpec, FieldType, FormatSpec, SchemaSpec};
use busbar_event::{Batch, BatchBuilder, Error, Flags, Row};
use busbar_log::SystemClock;
use busbar_sql::{Events, Piece, Relation, Relations, StreamRelation};
use busbar_table::Tables;

/// 2026-03-01T00:00:00Z
/// How long a test waits for what has to come. Nothing takes as long; a machine may be slow or busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub const NOON: i64 = 1_772_323_200_000_000;
pub const MINUTE: i64 = 60_000_000;

/// Events in memory, some batches a partition.
#[derive(Debug, Default)]
pub struct Stored {
    pub partitions: Vec<Vec<Batch>>,
    /// Batches that were read.
    pub read: Arc<AtomicU64>,
    /// How long reading one takes.
    pub pause: Duration,
    /// Events that cannot be read, at the beginning of each partition.
    pub missing: u64,
}

impl Events for Stored {
    fn partitions(&self) -> usize {
        self.partitions.len()
    }

    fn range(&self, partition: usize) -> Range<u64> {
        0..self.partitions[partition]
            .iter()
            .map(|b| b.rows() as u64)
            .sum()
    }

    fn offset_at_time(&self, partition: usize, time: i64) -> Result<u64, Error> {
        let mut offset = 0;
        for batch in &self.partitions[partition] {
            if batch.time_range().1 >= time {
                break;
            }
            offset += batch.rows() as u64;
        }
        Ok(offset)
    }

    fn read(
        &self,
        partition: usize,
        range: Range<u64>,
    ) -> Box<dyn Iterator<Item = Result<Piece, Error>> + Send> {
        let mut base = 0;
        let mut slices = Vec::new();
        for batch in &self.partitions[partition] {
            let end = base + batch.rows() as u64;
            let (from, to) = (range.start.max(base), range.end.min(end));
            if from < to {
                let slice = batch.slice((from - base) as usize, (to - from) as usize);
                slices.push((from, slice));
            }
            base = end;
        }
        let (read, pause) = (Arc::clone(&self.read), self.pause);
        let missing = Some(self.missing).filter(|events| *events > 0);
        let missing = missing.map(|events| Ok(Piece::Missing(events)));
        Box::new(
            missing
                .into_iter()
                .chain(slices.into_iter().map(move |(base, slice)| {
                    read.fetch_add(1, Ordering::Relaxed);
                    // A disk blocks the thread that reads it.
                    #[allow(clippy::disallowed_methods)]
                    std::thread::sleep(pause);
                    Ok(Piece::Events(base, slice))
                })),
        )
    }
}

/// Streams and tables by name.
#[derive(Default)]
pub struct Known(pub BTreeMap<String, Relation>);

impl Relations for Known {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn relation(&self, name: &str) -> Result<Option<Relation>, Error> {
        Ok(self.0.get(name).cloned())
    }
}

pub struct Event<'a> {
    pub topic: &'a str,
    pub time: i64,
    pub tags: &'a [(&'a str, &'a str)],
    pub payload: &'a str,
}

pub fn batch(events: &[Event<'_>]) -> Batch {
    let mut builder = BatchBuilder::new();
    for event in events {
        let topic = builder.topic_id(event.topic);
        builder.push(Row {
            topic,
            key: None,
            time: event.time,
            client: None,
            flags: Flags(0),
            tags: event.tags,
            payload: event.payload.as_bytes(),
        });
    }
    builder.finish()
}

pub fn json() -> FormatSpec {
    serde_json::from_str("\"json\"").unwrap()
}

pub fn gauge_columns() -> SchemaSpec {
    SchemaSpec(vec![
        FieldSpec::new("site", FieldType::Text),
        FieldSpec::new("level_mm", FieldType::Int),
        FieldSpec::new("flowRate", FieldType::Float),
        FieldSpec::new("ok", FieldType::Bool),
    ])
}

/// Readings of two gauges; one payload is broken and one is not of the schema's types.
pub fn gauge_events() -> Vec<Batch> {
    let at = |minute: i64| NOON + minute * MINUTE;
    let event = |topic, minute, payload| Event {
        topic,
        time: at(minute),
        tags: &[],
        payload,
    };
    vec![
        batch(&[
            event(
                "gauge/g1/rain",
                0,
                r#"{"site":"a","level_mm":12,"flowRate":0.5,"ok":true}"#,
            ),
            event(
                "gauge/g2/rain",
                1,
                r#"{"site":"b","level_mm":62,"flowRate":1.5,"ok":true}"#,
            ),
            Event {
                topic: "gauge/g1/rain",
                time: at(2),
                tags: &[("site", "north"), ("unit", "mm")],
                payload: r#"{"site":"a","level_mm":70,"ok":false}"#,
            },
        ]),
        batch(&[
            event("gauge/g2/rain", 3, r#"{"site":"b","level_mm":"#),
            event("gauge/g2/rain", 4, r#"{"site":"b","level_mm":"high"}"#),
            event(
                "gauge/g3/wind",
                5,
                r#"{"site":"河口","level_mm":null,"flowRate":9}"#,
            ),
        ]),
        batch(&[event(
            "gauge/g1/rain",
            60,
            r#"{"site":"a","level_mm":5,"flowRate":2.25,"ok":true}"#,
        )]),
    ]
}

pub fn stream(partitions: Vec<Vec<Batch>>, columns: Option<SchemaSpec>) -> Relation {
    let columns = columns.map(|columns| columns.schema().unwrap());
    let events = Stored {
        partitions,
        ..Stored::default()
    };
    Relation::Stream(StreamRelation::new(Arc::new(events), json(), columns))
}

/// `gauge` and `inbox`, streams of the same events; `sites` in memory; `peak-levels` in SQLite.
pub fn known(folder: &std::path::Path) -> Known {
    let tables = Tables::open(folder, Arc::new(SystemClock)).unwrap();
    let spec = |text: &str| serde_json::from_str(text).unwrap();
    let columns = r#""columns": [{"name": "site", "type": "text"}, {"name": "name", "type": "text"},
        {"name": "alarm_mm", "type": "int"}]"#;
    tables
        .apply(&BTreeMap::from([
            (
                "sites".to_owned(),
                spec(&format!(r#"{{"hot": {{}}, "key": ["site"], {columns}}}"#)),
            ),
            (
                "peak-levels".to_owned(),
                spec(&format!(
                    r#"{{"relational": {{}}, "key": ["site"], {columns}}}"#
                )),
            ),
        ]))
        .unwrap();
    let rows = RecordBatch::try_from_iter([
        (
            "site",
            Arc::new(StringArray::from(vec!["a", "b", "c"])) as ArrayRef,
        ),
        (
            "name",
            Arc::new(StringArray::from(vec![Some("Alder"), Some("Birch"), None])),
        ),
        (
            "alarm_mm",
            Arc::new(Int64Array::from(vec![Some(50), Some(65), None])),
        ),
    ])
    .unwrap();
    let mut known = Known::default();
    for name in tables.names() {
        let table = tables.table(&name).unwrap();
        table.apply(&rows, None).unwrap();
        known.0.insert(name, Relation::Table(table));
    }
    let gauge = stream(vec![gauge_events()], Some(gauge_columns()));
    known.0.insert("gauge".to_owned(), gauge);
    known
        .0
        .insert("inbox".to_owned(), stream(vec![gauge_events()], None));
    known
}

/// Rows as lines, cells between bars, names first.
pub fn lines(names: &[String], batches: &[RecordBatch]) -> Vec<String> {
    let mut lines = vec![names.join(" | ")];
    let options = FormatOptions::default().with_null("null");
    for batch in batches {
        let cells: Vec<ArrayFormatter<'_>> = batch
            .columns()
            .iter()
            .map(|column: &ArrayRef| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
            .collect();
        for row in 0..batch.num_rows() {
            let row: Vec<String> = cells
                .iter()
                .map(|cell| cell.value(row).to_string())
                .collect();
            lines.push(row.join(" | "));
        }
    }
    lines
}

pub fn names(schema: &arrow::datatypes::Schema) -> Vec<String> {
    schema
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect()
}
