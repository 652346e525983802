//! The queries of `examples/nexmark`: each flow gives the rows that its batch query gives over the same events.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, BinaryArray, RecordBatch, StringArray, StructArray};
use busbar_event::format::encode_json;
use busbar_event::{Batch, Body, Envelope};
use busbar_sql::{Engine, QueryLimits};
use busbar_table::Scan;
use serde_json::Value;

use crate::common::{PATIENCE, Streams, World, rest};
use generator::{Kind, Nexmark, kind};

#[path = "../../../busbar/src/bench/nexmark.rs"]
mod generator;

const EVENTS: u64 = 20_000;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/nexmark")
}

/// The files of a part of the project, by path.
fn files(part: &str) -> Vec<(String, String)> {
    let read = fs::read_dir(folder().join(part)).unwrap();
    let mut files: Vec<(String, String)> = read
        .map(|entry| {
            let entry = entry.unwrap();
            let path = format!("{part}/{}", entry.file_name().into_string().unwrap());
            (path, fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn apply(world: &World, files: &[(String, String)]) {
    let files: Vec<(&str, &str)> = files.iter().map(|(p, t)| (&**p, &**t)).collect();
    let applied = world.apply(&files);
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
}

/// The events, in the order of their numbers for each stream.
fn publish(world: &World, nexmark: Nexmark) {
    let append = |topic: &'static str, events: &[(i64, String)]| {
        let topics = StringArray::from(vec![topic; events.len()]);
        let times = events.iter().map(|(time, _)| *time).collect();
        let payloads = events.iter().map(|(_, payload)| payload.as_bytes());
        let body = Body::Payload(BinaryArray::from_iter_values(payloads));
        let batch = Batch::from_columns(Envelope::new(&topics, times), body).unwrap();
        world.tokio.block_on(world.bus.append(batch, None)).unwrap();
    };
    for wanted in [Kind::Person, Kind::Auction, Kind::Bid] {
        let numbers = (0..EVENTS).filter(|number| kind(*number) == wanted);
        let events: Vec<(i64, String)> = numbers
            .map(|number| {
                let mut payload = String::new();
                nexmark.payload(number, &mut payload);
                (nexmark.time_micros(number), payload)
            })
            .collect();
        for events in events.chunks(1000) {
            append(wanted.topic(), events);
            if wanted == Kind::Bid {
                append("nexmark/arrival/bid", events);
            }
        }
    }
}

/// A row as text: columns by name, without nulls, numbers to nine digits.
fn line(row: &Value) -> String {
    let Value::Object(row) = row else {
        panic!("{row} is no row");
    };
    let cells: BTreeMap<&String, String> = row
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| {
            let value = match (value.as_i64(), value.as_f64()) {
                (None, Some(number)) => format!("{number:.8e}"),
                (Some(number), _) => format!("{:.8e}", number as f64),
                _ => value.to_string(),
            };
            (name, value)
        })
        .collect();
    format!("{cells:?}")
}

fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in batches {
        let encoded = encode_json(&StructArray::from(batch.clone()));
        let rows =
            (0..encoded.len()).map(|row| serde_json::from_slice(encoded.value(row)).unwrap());
        lines.extend(rows.map(|row: Value| line(&row)));
    }
    lines.sort_unstable();
    lines
}

/// What a flow has written.
fn written(world: &World, name: &str, is_table: bool) -> Vec<String> {
    if is_table {
        let table = world.tables.table(name).unwrap();
        let batches: Result<Vec<RecordBatch>, _> = table.scan(&Scan::default()).unwrap().collect();
        return lines(&batches.unwrap());
    }
    let mut rows: Vec<String> = world
        .contents(name)
        .iter()
        .map(|(_, row)| line(row))
        .collect();
    rows.sort_unstable();
    rows
}

#[test]
fn every_query_gives_what_its_batch_query_gives() {
    // Slow enough for windows of ten seconds to begin and end.
    let nexmark = Nexmark {
        events_per_second: 100,
        ..Nexmark::default()
    };
    let world = World::new(5);
    let mut all = files("streams");
    let tables = files("tables");
    all.extend(tables.clone());
    // The events are there before the flows are: afterwards the clock closes every window.
    apply(&world, &all);
    publish(&world, nexmark);
    let flows = files("flows");
    all.extend(flows.clone());
    apply(&world, &all);

    let limits = QueryLimits {
        rows_max: usize::MAX,
        ..QueryLimits::default()
    };
    let engine = Engine::new(Arc::new(Streams(world.bus.clone())), limits).unwrap();
    assert_eq!(flows.len(), files("batch").len());
    for (path, query) in files("batch") {
        let name = path.trim_start_matches("batch/").trim_end_matches(".sql");
        let batches = world.tokio.block_on(async {
            let answer = engine.query(&query).await;
            let mut answer = answer.unwrap_or_else(|wrong| panic!("{name}: {wrong:?}"));
            answer.collect().await.unwrap()
        });
        let expected = lines(&batches);
        assert!(!expected.is_empty(), "{name} has no rows");
        let is_table = tables
            .iter()
            .any(|(path, _)| *path == format!("tables/{name}.yaml"));
        let until = Instant::now() + PATIENCE;
        loop {
            let status = world.settle(name);
            let found = written(&world, name, is_table);
            if found == expected {
                assert_eq!(status.conservation.difference, 0, "{status:#?}");
                assert_eq!(status.conservation.counters.dead, 0, "{status:#?}");
                break;
            }
            if Instant::now() > until {
                let other: Vec<_> = found.iter().filter(|row| !expected.contains(row)).collect();
                let missing: Vec<_> = expected.iter().filter(|row| !found.contains(row)).collect();
                panic!(
                    "{name}: {} rows, expected {}\nother: {:#?}\nmissing: {:#?}",
                    found.len(),
                    expected.len(),
                    &other[..other.len().min(3)],
                    &missing[..missing.len().min(3)],
                );
            }
            rest(100);
        }
    }
}
