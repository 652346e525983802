//! How many events a second one core takes through `where` and `select` on JSON, from a stream to a stream.
//!
//! `cargo run --release -p busbar-flow --example filter [-- <events> <folder>]`
//!
//! The input is written first; what is measured is the flow reading it, with all of its own output synced to the
//! disk. One thread runs the flow; the log's commit thread is beside it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{BinaryArray, StringArray};
use busbar_bus::{Bus, BusOptions};
use busbar_catalog::{Bundle, Project};
use busbar_connector::{Connectors, Databases};
use busbar_event::{Batch, Body, Envelope};
use busbar_flow::{Runtime, RuntimeOptions};
use busbar_log::{Clock, Log, LogOptions, OsDisk, SystemClock};
use busbar_table::Tables;

const FILES: [(&str, &str); 3] = [
    (
        "streams/in.yaml",
        "topics: meter/#\nformat: json\nschema: { site: text, kw: float, volt: float, amp: float, status: text, seq: int, at: text }\n",
    ),
    ("streams/out.yaml", "topics: high/#\n"),
    (
        "flows/f.yaml",
        "from: in\nsteps:\n  - where: kw >= 2.5\n  - select: site, kw * 1000 as watt\nto:\n  - stream: out\n",
    ),
];

const ROWS: usize = 8192;

fn batch(from: usize) -> Batch {
    let topics: Vec<String> = (0..100).map(|m| format!("meter/m{m}/reading")).collect();
    let names = StringArray::from_iter_values((0..ROWS).map(|i| &topics[(from + i) % 100]));
    let now = SystemClock.now_micros();
    let payloads = BinaryArray::from_iter_values((from..from + ROWS).map(|i| {
        format!(
            r#"{{"site":"plant-{:03}","kw":{}.{},"volt":230.{},"amp":{}.5,"status":"ok","seq":{i},"at":"2026-03-01T08:{:02}:{:02}Z","note":"reading of the main incomer, phase {}"}}"#,
            i % 50,
            i % 5,
            i % 10,
            i % 7,
            i % 16,
            i / 60 % 60,
            i % 60,
            i % 3 + 1
        )
    }));
    Batch::from_columns(
        Envelope::new(&names, vec![now; ROWS]),
        Body::Payload(payloads),
    )
    .expect("the columns fit")
}

fn main() {
    let mut args = std::env::args().skip(1);
    let events: usize = args
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(2_000_000);
    let folder = tempfile::tempdir_in(args.next().unwrap_or_else(|| ".".into())).expect("a folder");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let log = Log::open(
        Arc::new(OsDisk),
        &folder.path().join("data"),
        LogOptions::default(),
        Arc::clone(&clock),
    );
    let bus = Bus::open(log.expect("the log opens"), BusOptions::default()).expect("the bus opens");
    let tables = Tables::open(folder.path().join("tables"), clock).expect("tables open");
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let files: BTreeMap<String, String> = FILES
        .iter()
        .map(|(p, t)| ((*p).to_owned(), (*t).to_owned()))
        .collect();
    let (project, bad) = Project::parse(Bundle { files });
    assert!(bad.is_empty(), "{bad:?}");
    bus.apply_streams(&project.stream_specs()).expect("streams");
    let mut bytes = 0;
    for from in (0..events).step_by(ROWS) {
        let batch = batch(from);
        bytes += batch.payloads().value_data().len();
        tokio.block_on(bus.append(batch, None)).expect("an append");
    }
    let written = events.div_ceil(ROWS) * ROWS;
    println!("{written} events of {} B wait", bytes / written);
    let mut options = RuntimeOptions {
        snapshot_every: busbar_flow::limits::SNAPSHOT_EVERY,
        state_bytes_max: busbar_flow::limits::STATE_BYTES_MAX,
        bus: bus.clone(),
        tables: Arc::new(tables),
        databases: Databases::new(
            Connectors::default(),
            folder.path().into(),
            bus.clock().clone(),
        )
        .expect("a thread"),
        connectors: Connectors::default(),
        project_dir: folder.path().into(),
        state_dir: folder.path().join("state").into(),
        dead_letters: busbar_bus::Retention::default(),
    };
    for round in 1..=3 {
        options.project_dir = folder.path().into();
        let flows = tokio
            .block_on(async { Runtime::open(options.clone()) })
            .expect("flows");
        let began = Instant::now();
        let cpu = cpu_seconds();
        tokio
            .block_on(flows.apply(&project, 1))
            .expect("the project applies");
        if round > 1 {
            let from = busbar_flow::ReplayFrom::Earliest;
            tokio.block_on(flows.replay("f", from)).expect("it replays");
        }
        let out = loop {
            let status = flows.status_of("f").expect("the flow");
            if status.lag == 0 && status.conservation.counters.held == 0 {
                break status.conservation.counters;
            }
            tokio.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
        };
        let took = began.elapsed().as_secs_f64();
        println!(
            "round {round}: {:.0} events/s ({took:.2} s, {:.2} s of processor), {} out of {}",
            written as f64 / took,
            cpu_seconds() - cpu,
            out.out,
            out.input,
        );
        tokio.block_on(flows.shutdown());
    }
}

/// Processor time of all threads, from the operating system.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string(Path::new("/proc/self/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    let ticks = |i: usize| {
        fields
            .get(i)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / 100.0
}
