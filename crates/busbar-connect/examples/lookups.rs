//! How many rows a second a flow looks up in a table of a database: `lookups FILE TABLE ROWS`, where the file is that of a connection
//! and the table has the key `id`, whole numbers from 0 on.
//!
//! Prints for each of three rounds the rate without a cache and with one, and what the database was asked.

#![allow(clippy::print_stdout, reason = "a measurement")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{BinaryArray, StringArray};
use busbar_bus::{Bus, BusOptions};
use busbar_catalog::{Bundle, Project};
use busbar_connector::Databases;
use busbar_event::{Batch, Body, Envelope};
use busbar_flow::{Runtime, RuntimeOptions};
use busbar_log::sim::SimDisk;
use busbar_log::{Clock, Log, LogOptions, SystemClock};
use busbar_table::Tables;

const EVENTS: u64 = 200_000;
const BATCH: u64 = 2_000;

fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(file), Some(table), Some(rows)) = (args.next(), args.next(), args.next()) else {
        println!("lookups FILE TABLE ROWS");
        return;
    };
    let connection = std::fs::read_to_string(file).expect("the connection's file");
    let rows: u64 = rows.parse().expect("a number of rows");
    for round in 1..=3 {
        for cache in ["0s", "1h"] {
            measure(round, cache, &connection, &table, rows);
        }
    }
}

fn measure(round: u32, cache: &str, connection: &str, table: &str, rows: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let log = Log::open(
        Arc::new(SimDisk::new(1)),
        Path::new("/data"),
        LogOptions::default(),
        clock.clone(),
    );
    let bus = Bus::open(log.expect("a log"), BusOptions::default()).expect("a bus");
    let tokio = tokio::runtime::Runtime::new().expect("a runtime");
    let databases = Databases::new(
        busbar_connect::registry(),
        folder.path().into(),
        clock.clone(),
    )
    .expect("a thread");
    let flows = tokio.block_on(async {
        Runtime::open(RuntimeOptions {
            snapshot_every: busbar_flow::limits::SNAPSHOT_EVERY,
            state_bytes_max: busbar_flow::limits::STATE_BYTES_MAX,
            bus: bus.clone(),
            tables: Arc::new(Tables::open(folder.path(), clock).expect("tables")),
            connectors: busbar_connect::registry(),
            databases: databases.clone(),
            project_dir: folder.path().into(),
            state_dir: folder.path().join("state").into(),
            dead_letters: busbar_bus::Retention::default(),
        })
        .expect("flows")
    });
    let flow = format!(
        "from: in\nsteps:\n  - join: {{ table: {table}, on: id, type: left, cache: {cache} }}\n\
         to:\n  - stream: out\n    topic: out/x\n"
    );
    let files = [
        (
            "streams/in.yaml",
            "topics: in/#\nformat: json\nschema: { id: int }\n",
        ),
        ("streams/out.yaml", "topics: out/#\n"),
        ("connections/db.yaml", connection),
        ("flows/f.yaml", &flow),
    ];
    let files: BTreeMap<String, String> = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
        .collect();
    let (project, bad) = Project::parse(Bundle { files });
    assert!(bad.is_empty(), "{bad:?}");
    tokio.block_on(async {
        let begun = Instant::now();
        let applied = flows.apply(&project, 1).await.expect("it is right");
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        for first in (0..EVENTS).step_by(BATCH as usize) {
            // Keys in no order, each as often as the others.
            let keys = (first..first + BATCH).map(|n| n.wrapping_mul(7_919) % rows);
            let payloads: Vec<String> = keys.map(|id| format!("{{\"id\":{id}}}")).collect();
            let topics = StringArray::from(vec!["in/x"; payloads.len()]);
            let envelope = Envelope::new(&topics, vec![SystemClock.now_micros(); payloads.len()]);
            let payloads = payloads.iter().map(String::as_bytes);
            let body = Body::Payload(BinaryArray::from_iter_values(payloads));
            let batch = Batch::from_columns(envelope, body).expect("a batch");
            bus.append(batch, None).await.expect("an append");
        }
        loop {
            let status = flows.status_of("f").expect("a flow");
            if status.lag == 0 && status.conservation.counters.held == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let seconds = begun.elapsed().as_secs_f64();
        let asked = databases.get("db").expect("a database").status();
        println!(
            "round {round} cache {cache}: {:.0} rows/s; {} keys asked in {} statements, {} known",
            EVENTS as f64 / seconds,
            asked.keys,
            asked.statements,
            asked.cached
        );
        flows.shutdown().await;
    });
}
