//! Orchestrations: instances a second with five calls each, and the memory of instances that wait. Events start them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::calls::Echo;
use super::node::{self, Process};
use super::report::{Report, Row};
use super::{BenchArgs, note};

const CALLS: &str = "orchestration, 5 calls each";
const WAITING: &str = "100 k instances that wait";
/// Instances for each second asked for.
const INSTANCES_PER_SECOND: u64 = 1_000;
const WAITING_INSTANCES: u64 = 100_000;
/// Events in one request.
const EVENTS_AT_ONCE: u64 = 1_000;
/// The longest time that all instances may take.
const ALL_MAX: Duration = Duration::from_secs(900);

const STREAM: &str =
    "topics: begin/+\nformat: json\nschema: { id: text, amount: float, note: text }\n";

/// Measures the rows that are wanted.
pub fn rows(args: &BenchArgs, report: &mut Report, failed: &mut Vec<String>) {
    if args.wants(CALLS) {
        note(calls(args), report, failed);
    }
    if args.wants(WAITING) {
        note(waiting(), report, failed);
    }
}

fn calls(args: &BenchArgs) -> Result<Row, String> {
    let echo = Echo::start().map_err(|why| format!("the echo does not start: {why}"))?;
    let connection = format!("http: {{ url: 'http://{}' }}\n", echo.address);
    let parts: String = (1..=5)
        .map(|i| {
            format!(
                "- name: p{i}\n  call: {{ connection: echo, path: '/p/${{id}}', send: 'id, amount, note', answer: {{ a{i}: {{ type: float, path: amount }} }} }}\n  compensate: {{ connection: echo, method: DELETE, path: '/p/${{id}}' }}\n"
            )
        })
        .collect();
    let orchestration = orchestration(&parts);
    let files = [
        ("streams/begin.yaml", STREAM),
        ("connections/echo.yaml", &*connection),
        ("orchestrations/bench.yaml", &*orchestration),
    ];
    let node = Process::busbar(&node::project(&files)?)?;
    let http = node.http.ok_or("the node has no HTTP address")?;
    let instances = args.seconds * INSTANCES_PER_SECOND;
    eprintln!("busbar: {CALLS} ...");
    let begun = Instant::now();
    begin(http, instances)?;
    until(http, "done", instances)?;
    Ok(Row {
        job: CALLS,
        who: "busbar".to_owned(),
        connections: 0,
        events_per_second: Some(instances as f64 / begun.elapsed().as_secs_f64()),
        latency_ms: None,
        events: instances,
        lost: 0,
        note: Some("instances; each part is synced; the echo shares the machine".to_owned()),
    })
}

fn waiting() -> Result<Row, String> {
    let orchestration =
        orchestration("- name: go\n  event: { stream: begin, by: id, where: \"note = 'go'\" }\n");
    let files = [
        ("streams/begin.yaml", STREAM),
        ("orchestrations/bench.yaml", &*orchestration),
    ];
    let node = Process::busbar(&node::project(&files)?)?;
    let http = node.http.ok_or("the node has no HTTP address")?;
    eprintln!("busbar: {WAITING} ...");
    let begun = Instant::now();
    begin(http, WAITING_INSTANCES)?;
    until(http, "running", WAITING_INSTANCES)?;
    let rate = WAITING_INSTANCES as f64 / begun.elapsed().as_secs_f64();
    let memory = node::resident_bytes_of(node.id()).unwrap_or_default();
    Ok(Row {
        job: WAITING,
        who: "busbar".to_owned(),
        connections: 0,
        events_per_second: Some(rate),
        latency_ms: None,
        events: WAITING_INSTANCES,
        lost: 0,
        note: Some(format!(
            "instances begun; the node holds {} MB",
            memory / 1_000_000
        )),
    })
}

fn orchestration(parts: &str) -> String {
    format!(
        "input: {{ id: {{ type: text, required: true }}, amount: float, note: text }}\nkey: ${{id}}\nstart:\n- {{ stream: begin, where: \"note = 'begin'\" }}\nparts:\n{parts}"
    )
}

fn begin(http: SocketAddr, instances: u64) -> Result<(), String> {
    for first in (0..instances).step_by(EVENTS_AT_ONCE as usize) {
        let events: Vec<Json> = (first..instances.min(first + EVENTS_AT_ONCE))
            .map(|id| {
                let payload = json!({ "id": id.to_string(), "amount": id as f64, "note": "begin" });
                json!({ "topic": "begin/x", "payload": payload })
            })
            .collect();
        let sent = ureq::post(format!("http://{http}/api/v1/events")).send_json(&events);
        sent.map_err(|why| format!("publishing events: {why}"))?;
    }
    Ok(())
}

fn until(http: SocketAddr, status: &str, wanted: u64) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let asked = ureq::get(format!("http://{http}/api/v1/orchestrations/bench")).call();
        let mut answer = asked.map_err(|why| format!("asking for the instances: {why}"))?;
        let answer: Json = answer
            .body_mut()
            .read_json()
            .map_err(|why| format!("reading the instances: {why}"))?;
        if answer["instances"][status].as_u64() >= Some(wanted) {
            return Ok(());
        }
        if begun.elapsed() > ALL_MAX {
            return Err(format!("after {ALL_MAX:?}: {}", answer["instances"]));
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}
