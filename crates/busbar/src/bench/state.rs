//! What the state of flows costs: restoring a million keys, checkpoints of them, and flows beside each other.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::flows::{self, File, KEYED, OUT, TUMBLE};
use super::node::{self, Process, START_MAX};
use super::report::{Report, Row, thousands};
use super::{BenchArgs, fill};

/// Keys of the rows about checkpoints.
const KEYS: u64 = 1_000_000;
/// One key of a hundred.
const CHANGED: u64 = KEYS / 100;
/// How often so many keys change.
const BURSTS: u64 = 4;
/// Between bursts. A snapshot is taken every second, behind a batch.
const BURST_EVERY: Duration = Duration::from_millis(1100);

const RESTORE_LATEST: &str = "restore and checkpoint, latest of 1 M keys";
const RESTORE_WINDOW: &str = "restore and checkpoint, window of 1 M keys";
const MANY_FLOWS: &str = "1,000 flows with where over one live stream";
const BACKFILL: &str = "tumble 10 s beside a backfill";

/// Keeps the latest of each key and writes nothing.
const LATEST: &str =
    "from: keyed\nsteps:\n  - latest: { by: [site] }\n  - where: v < 0\nto:\n  - stream: out\n";
/// A window that stays open.
const WINDOW: &str = "from: keyed\nsteps:\n  - window: { tumble: 1h, by: [site], select: 'site, window_end, sum(v) as v, count(*) as n' }\nto:\n  - stream: out\n";

/// The rows, each with a node of its own.
pub fn rows(args: &BenchArgs, report: &mut Report, failed: &mut Vec<String>) {
    type Measure = fn(&BenchArgs, &'static str) -> Result<Row, String>;
    let rows: [(&'static str, Measure); 4] = [
        (RESTORE_LATEST, |_, row| checkpoints(row, LATEST)),
        (RESTORE_WINDOW, |_, row| checkpoints(row, WINDOW)),
        (MANY_FLOWS, many_flows),
        (BACKFILL, backfill),
    ];
    for (row, measure) in rows {
        if !args.wants(row) {
            continue;
        }
        eprintln!("busbar: {row} ...");
        match measure(args, row) {
            Ok(row) => report.add(row),
            Err(why) => failed.push(format!("{row}: {why}")),
        }
    }
}

fn row(job: &'static str, rate: Option<f64>, events: u64, note: String) -> Row {
    Row {
        job,
        who: "busbar".to_owned(),
        connections: 0,
        events_per_second: rate,
        latency_ms: None,
        events,
        lost: 0,
        note: Some(note),
    }
}

fn started(files: &[File]) -> Result<(Process, SocketAddr), String> {
    let node = Process::busbar(&node::project(files)?)?;
    let http = node.http.ok_or("the node has no HTTP address")?;
    Ok((node, http))
}

/// A flow with a million keys is paused and resumed, and then one key of a hundred changes, some times.
fn checkpoints(job: &'static str, flow: &str) -> Result<Row, String> {
    let (node, http) = started(KEYED)?;
    let filling = |why| format!("filling the stream: {why}");
    fill::keyed(node.mqtt, 0..KEYS, KEYS).map_err(filling)?;
    let files = KEYED
        .iter()
        .copied()
        .chain([OUT, ("flows/kept.yaml", flow)]);
    flows::apply(http, &mut files.into_iter())?;
    let names = ["kept".to_owned()];
    flows::worked_off(http, &names, KEYS)?;
    for what in ["pause", "resume"] {
        post(http, &format!("flows/kept/{what}"), &Value::Null)?;
    }
    let restored = figure(&measured(http)?, "restored_ms")?;
    let (mut commit, mut stall, mut changes) = (0.0_f64, 0.0_f64, 0.0_f64);
    for burst in 0..BURSTS {
        let begun = KEYS + burst * CHANGED;
        fill::keyed(node.mqtt, begun..begun + CHANGED, KEYS).map_err(filling)?;
        std::thread::park_timeout(BURST_EVERY);
        let now = measured(http)?;
        commit = commit.max(figure(&now, "commit_ms")?);
        stall = stall.max(figure(&now, "longest_stall_ms")?);
        changes = changes.max(figure(&now, "changes")?);
    }
    let note = format!(
        "restored in {restored:.0} ms; with {} keys changed, a checkpoint of {} pieces is committed in {commit:.0} ms and holds the task up for {stall:.1} ms",
        thousands(CHANGED as f64),
        thousands(changes)
    );
    Ok(row(job, None, KEYS + BURSTS * CHANGED, note))
}

/// What the node has measured of the checkpoints of the flow, once it runs.
fn measured(http: SocketAddr) -> Result<Value, String> {
    let begun = Instant::now();
    loop {
        let plan = get(http, "flows/kept/plan")?;
        let measured = &plan["stages"][0]["checkpoints"];
        if measured.is_object() {
            return Ok(measured.clone());
        }
        if begun.elapsed() > START_MAX {
            return Err("the node does not say what checkpoints cost".to_owned());
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn figure(measured: &Value, name: &str) -> Result<f64, String> {
    let missing = || format!("the node does not say {name}");
    measured[name].as_f64().ok_or_else(missing)
}

/// A thousand flows that are there when the events come.
fn many_flows(args: &BenchArgs, job: &'static str) -> Result<Row, String> {
    const FLOWS: usize = 1_000;
    let (node, http) = started(KEYED)?;
    let names: Vec<String> = (0..FLOWS).map(|number| format!("where-{number}")).collect();
    let paths: Vec<String> = names.iter().map(|n| format!("flows/{n}.yaml")).collect();
    let flows = paths.iter().map(|path| (&**path, flows::FILTER));
    let files = KEYED.iter().copied().chain([OUT]).chain(flows);
    flows::apply(http, &mut files.into_iter())?;
    let events = args.seconds * 10_000;
    fill::keyed(node.mqtt, 0..events, 10_000)
        .map_err(|why| format!("filling the stream: {why}"))?;
    let rate = flows::worked_off(http, &names, events)?;
    let note = "events of all flows together".to_owned();
    Ok(row(job, Some(rate), events, note))
}

/// A flow works a stored stream off alone, and then beside a run over the same events.
fn backfill(args: &BenchArgs, job: &'static str) -> Result<Row, String> {
    let tables: &[File] = &[("tables/old.yaml", "relational: {}\n")];
    let (node, http) = started(KEYED)?;
    let events = args.seconds * 400_000;
    fill::keyed(node.mqtt, 0..events, 10_000)
        .map_err(|why| format!("filling the stream: {why}"))?;
    let deploy = |flows: &[File]| {
        let files = KEYED.iter().chain([&OUT]).chain(tables).chain(flows);
        flows::apply(http, &mut files.copied())
    };
    deploy(&[("flows/alone.yaml", TUMBLE)])?;
    let alone = flows::worked_off(http, &["alone".to_owned()], events)?;
    let run = serde_json::json!({ "from": "earliest", "to": "now", "into": "old" });
    let run = post(http, "flows/alone/runs", &run)?;
    let id = run["id"].as_u64().ok_or("the run has no number")?;
    deploy(&[("flows/alone.yaml", TUMBLE), ("flows/beside.yaml", TUMBLE)])?;
    let beside = flows::worked_off(http, &["beside".to_owned()], events)?;
    let run = get(http, &format!("runs/{id}"))?;
    let (read, state) = (run["read"].as_u64().unwrap_or(0), &run["state"]);
    if run["error"].is_object() {
        return Err(format!("the backfill failed: {}", run["error"]));
    }
    let note = format!(
        "{} alone; the backfill has read {} events meanwhile and is {}",
        thousands(alone),
        thousands(read as f64),
        state.as_str().unwrap_or_default()
    );
    Ok(row(job, Some(beside), events, note))
}

fn post(http: SocketAddr, path: &str, body: &Value) -> Result<Value, String> {
    let request = ureq::post(format!("http://{http}/api/v1/{path}"));
    let answer = match body {
        Value::Null => request.send_empty(),
        body => request.send_json(body),
    };
    let text = answer
        .and_then(|mut answer| answer.body_mut().read_to_string())
        .map_err(|why| format!("asking the node for {path}: {why}"))?;
    Ok(serde_json::from_str(&text).unwrap_or_default())
}

fn get(http: SocketAddr, path: &str) -> Result<Value, String> {
    ureq::get(format!("http://{http}/api/v1/{path}"))
        .call()
        .and_then(|mut answer| answer.body_mut().read_json())
        .map_err(|why| format!("asking the node for {path}: {why}"))
}
