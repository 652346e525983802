//! Flows that work off a stored stream: one partition is one task, so one core computes.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::node::{self, Process, START_MAX};
use super::report::{Report, Row, thousands};
use super::{BenchArgs, fill};

/// Flows over the same stored events.
struct Set {
    /// The streams that are filled, as files of a project.
    files: &'static [File],
    fill: fn(SocketAddr, u64) -> io::Result<()>,
    /// Events that are stored for each second asked for.
    events_per_second: u64,
    /// As many are stored at least.
    least: u64,
    jobs: &'static [Job],
}

/// One flow, which is one row of the report.
struct Job {
    row: &'static str,
    /// The flow's file.
    flow: &'static str,
    /// What it writes to and looks up in.
    files: &'static [File],
    /// A flow over the same events that runs before, to fill a table.
    before: Option<&'static str>,
    /// How many of fifty stored events the flow reads.
    reads: u64,
    /// How many flows of this kind run at a time, each over all events.
    flows: u64,
    /// Events a second that Flink's developers publish for one core.
    flink: Option<f64>,
}

/// Path and text.
pub type File = (&'static str, &'static str);

/// A query of `examples/nexmark`.
macro_rules! nexmark {
    ($query:literal, $reads:literal, $flink:expr) => {
        Job {
            row: concat!("NEXMark ", $query),
            flow: include_str!(concat!(
                "../../../../examples/nexmark/flows/",
                $query,
                ".yaml"
            )),
            files: &[(
                concat!("streams/", $query, ".yaml"),
                concat!("topics: nexmark/", $query, "\nformat: json\n"),
            )],
            before: None,
            reads: $reads,
            flows: 1,
            flink: $flink,
        }
    };
}

/// A stream of the example.
macro_rules! nexmark_stream {
    ($name:literal) => {
        (
            concat!("streams/", $name, ".yaml"),
            include_str!(concat!(
                "../../../../examples/nexmark/streams/",
                $name,
                ".yaml"
            )),
        )
    };
}

/// A route of so many cases, see [`flow_of`].
const fn routed(row: &'static str, cases: &'static str) -> Job {
    Job {
        row,
        flow: cases,
        files: &[
            ("streams/even.yaml", "topics: even/#\n"),
            ("streams/odd.yaml", "topics: odd/#\n"),
        ],
        before: None,
        reads: 50,
        flows: 1,
        flink: None,
    }
}

/// The text of a flow's file. A number stands for a route with so many cases, each for one site, that lead to two streams.
fn flow_of(text: &str) -> Cow<'_, str> {
    let Ok(cases) = text.parse::<usize>() else {
        return Cow::Borrowed(text);
    };
    let mut flow = String::from("from: readings\nsteps:\n- route:\n    cases:\n");
    for case in 0..cases {
        let to = if case % 2 == 0 { "even" } else { "odd" };
        flow += &format!("    - {{ when: \"site = 's{case:02}'\", to: [{to}] }}\n");
    }
    flow += "    default: { to: [even] }\nto:\n- { topic: even/x, name: even }\n- { topic: odd/x, name: odd }\n";
    Cow::Owned(flow)
}

const fn keyed(row: &'static str, flow: &'static str) -> Job {
    Job {
        row,
        flow,
        files: &[OUT],
        before: None,
        reads: 50,
        flows: 1,
        flink: None,
    }
}

/// A sum and a count by key in windows of ten seconds.
pub(super) const TUMBLE: &str = "from: keyed\nsteps:\n  - window: { tumble: 10s, by: [site], select: 'site, window_end, sum(v) as v, count(*) as n' }\nto:\n  - stream: out\n";

/// A flow that keeps few events.
pub(super) const FILTER: &str =
    "from: keyed\nsteps:\n  - where: v = 7\n  - select: site, v\nto:\n  - stream: out\n";

pub(super) const KEYED: &[File] = &[(
    "streams/keyed.yaml",
    "topics: keyed/reading\nformat: json\nschema: { site: text, v: int, id: int, at: time }\ntime: at\n",
)];

pub(super) const OUT: File = ("streams/out.yaml", "topics: out/x\nformat: json\n");

/// Keys of the rows that aggregate by key.
const KEYS: u64 = 10_000;

static SETS: [Set; 7] = [
    Set {
        files: &[(
            "streams/readings.yaml",
            "topics: meter/+/reading\nformat: json\nschema:\n  site: text\n  kw: float\n  volt: float\n  phase: int\n  status: text\n  serial: text\n  note: text\n",
        )],
        fill: fill::readings,
        events_per_second: 200_000,
        least: 0,
        jobs: &[
            Job {
                row: "stream, where, select, stream",
                flow: "from: readings\nsteps:\n  - where: kw >= 5 and status <> 'test'\n  - select: site, kw * 1000 as watt\nto:\n  - stream: peaks\n    topic: peak/${site}\n",
                files: &[("streams/peaks.yaml", "topics: peak/#\n")],
                before: None,
                reads: 50,
                flows: 1,
                flink: None,
            },
            routed("route, 10 cases", "10"),
            routed("route, 1,000 cases", "1000"),
            routed("route, 10,000 cases", "10000"),
        ],
    },
    Set {
        files: KEYED,
        fill: |address, events| fill::keyed(address, 0..events, KEYS),
        events_per_second: 400_000,
        least: 0,
        jobs: &[
            keyed("tumble 10 s, sum and count, 10 k keys", TUMBLE),
            keyed(
                "hop 10 s every 1 s, sum and count, 10 k keys",
                "from: keyed\nsteps:\n  - window: { hop: { size: 10s, every: 1s }, by: [site], select: 'site, window_end, sum(v) as v, count(*) as n' }\nto:\n  - stream: out\n",
            ),
            keyed(
                "hop 60 s every 1 s, sum and count, 10 k keys",
                "from: keyed\nsteps:\n  - window: { hop: { size: 60s, every: 1s }, by: [site], select: 'site, window_end, sum(v) as v, count(*) as n' }\nto:\n  - stream: out\n",
            ),
            Job {
                flows: 10,
                ..keyed("10 flows with where over one stream", FILTER)
            },
            Job {
                flows: 100,
                ..keyed("100 flows with where over one stream", FILTER)
            },
            Job {
                files: &[OUT, ("tables/sites.yaml", "hot: {}\nkey: [site]\n")],
                before: Some(
                    "from: keyed\nsteps:\n  - select: site, v as class\nto:\n  - table: sites\n",
                ),
                ..keyed(
                    "join with a table of 10 k rows",
                    "from: keyed\nsteps:\n  - join: { table: sites, on: site, columns: [class] }\n  - select: site, v, class\nto:\n  - stream: out\n",
                )
            },
            keyed(
                "dedupe within 1 min",
                "from: keyed\nsteps:\n  - dedupe: { by: [id], within: 1m }\n  - select: site, id\nto:\n  - stream: out\n",
            ),
        ],
    },
    Set {
        files: KEYED,
        fill: |address, events| fill::keyed(address, 0..events, 1_000),
        events_per_second: 400_000,
        least: 0,
        jobs: &[keyed("tumble 10 s, sum and count, 1 k keys", TUMBLE)],
    },
    Set {
        files: KEYED,
        fill: |address, events| fill::keyed(address, 0..events, 100_000),
        events_per_second: 400_000,
        least: 0,
        jobs: &[keyed("tumble 10 s, sum and count, 100 k keys", TUMBLE)],
    },
    Set {
        files: KEYED,
        fill: |address, events| fill::keyed(address, 0..events, 1_000_000),
        events_per_second: 400_000,
        least: 0,
        jobs: &[keyed("tumble 10 s, sum and count, 1 M keys", TUMBLE)],
    },
    Set {
        files: KEYED,
        fill: |address, events| fill::keyed(address, 0..events, 10_000_000),
        events_per_second: 400_000,
        // Each key once, in one window.
        least: 10_000_000,
        jobs: &[keyed(
            "tumble 1 h, sum and count, 10 M keys",
            "from: keyed\nsteps:\n  - window: { tumble: 1h, by: [site], select: 'site, window_end, sum(v) as v, count(*) as n' }\nto:\n  - stream: out\n",
        )],
    },
    Set {
        files: &[
            nexmark_stream!("person"),
            nexmark_stream!("auction"),
            nexmark_stream!("bid"),
            nexmark_stream!("bid_arrival"),
        ],
        fill: fill::nexmark,
        events_per_second: 400_000,
        least: 0,
        jobs: &[
            nexmark!("q0", 46, Some(155_000.0)),
            nexmark!("q1", 46, None),
            nexmark!("q2", 46, None),
            nexmark!("q3", 4, Some(152_000.0)),
            nexmark!("q4", 49, Some(34_000.0)),
            nexmark!("q5", 46, Some(22_000.0)),
            nexmark!("q7", 46, Some(12_000.0)),
            nexmark!("q8", 4, Some(146_000.0)),
            nexmark!("q9", 49, Some(14_000.0)),
            nexmark!("q11", 46, None),
            nexmark!("q14", 46, None),
            nexmark!("q15", 46, None),
            nexmark!("q16", 46, None),
            nexmark!("q17", 46, Some(117_000.0)),
            Job {
                files: &[(
                    "tables/q18.yaml",
                    include_str!("../../../../examples/nexmark/tables/q18.yaml"),
                )],
                ..nexmark!("q18", 46, Some(54_000.0))
            },
            nexmark!("q19", 46, None),
            nexmark!("q20", 49, Some(19_000.0)),
            nexmark!("q22", 46, None),
        ],
    },
];

/// The rows of flows: for each set of events one node, filled once.
pub fn rows(args: &BenchArgs, report: &mut Report, failed: &mut Vec<String>) {
    for set in &SETS {
        let jobs: Vec<&Job> = set.jobs.iter().filter(|job| args.wants(job.row)).collect();
        if jobs.is_empty() {
            continue;
        }
        let events = set.least.max(args.seconds * set.events_per_second);
        let node = match set.filled(events) {
            Ok(node) => node,
            Err(why) => {
                failed.push(why);
                continue;
            }
        };
        for (number, job) in jobs.into_iter().enumerate() {
            eprintln!("busbar: {} ...", job.row);
            let read = events / 50 * job.reads;
            match job.measure(&node, set, number, read) {
                Ok(rate) => report.add(job.line(rate, read)),
                Err(why) => failed.push(format!("{}: {why}", job.row)),
            }
        }
    }
}

impl Set {
    fn filled(&self, events: u64) -> Result<Process, String> {
        let node = Process::busbar(&node::project(self.files)?)?;
        eprintln!("busbar: filling the stream with {events} events ...");
        (self.fill)(node.mqtt, events).map_err(|why| format!("filling the stream: {why}"))?;
        Ok(node)
    }
}

impl Job {
    /// Answers how many events a second the flow takes.
    fn measure(
        &self,
        node: &Process,
        set: &Set,
        number: usize,
        events: u64,
    ) -> Result<f64, String> {
        let http = node.http.ok_or("the node has no HTTP address")?;
        let deploy = |name: &str, flow: &str, copies: u64| {
            let names: Vec<String> = (0..copies).map(|copy| format!("{name}-{copy}")).collect();
            let paths: Vec<String> = names.iter().map(|n| format!("flows/{n}.yaml")).collect();
            let files = set.files.iter().chain(self.files).copied();
            let flows = paths.iter().map(|path| (&**path, flow));
            apply(http, &mut files.chain(flows))?;
            worked_off(http, &names, events)
        };
        // A flow of a name that there was before goes on where that one was.
        if let Some(before) = self.before {
            deploy(&format!("before-{number}"), before, 1)?;
        }
        let rate = deploy(
            &format!("measured-{number}"),
            &flow_of(self.flow),
            self.flows,
        )?;
        // The next flow has the core to itself.
        apply(http, &mut set.files.iter().copied())?;
        Ok(rate)
    }

    fn line(&self, rate: f64, events: u64) -> Row {
        let cores = match self.flows {
            1 => "one core",
            _ => "events of all flows together",
        };
        let note = match self.flink {
            Some(flink) => format!(
                "{cores}; {:.1} × {} that Flink publishes",
                rate / flink,
                thousands(flink)
            ),
            None => cores.to_owned(),
        };
        Row {
            job: self.row,
            who: "busbar".to_owned(),
            connections: 0,
            events_per_second: Some(rate),
            latency_ms: None,
            events,
            lost: 0,
            note: Some(note),
        }
    }
}

/// Makes these files the project of a node.
pub fn apply(
    http: SocketAddr,
    files: &mut dyn Iterator<Item = (&str, &str)>,
) -> Result<(), String> {
    let files: serde_json::Map<String, serde_json::Value> = files
        .map(|(path, text)| (path.to_owned(), text.into()))
        .collect();
    let answer = ureq::post(format!("http://{http}/api/v1/apply"))
        .send_json(serde_json::json!({ "files": files }));
    answer.map_err(|why| format!("deploying the flow: {why}"))?;
    Ok(())
}

/// Waits until each of some flows has taken so many events; answers how many they took in a second, together.
pub fn worked_off(http: SocketAddr, flows: &[String], events: u64) -> Result<f64, String> {
    let begun = Instant::now();
    let mut first = None;
    let all = events * flows.len() as u64;
    // Flows that take ten thousand events a second are far below every figure that is asked for.
    let patience = START_MAX + Duration::from_secs(all / 10_000);
    loop {
        let answer: serde_json::Value = ureq::get(format!("http://{http}/api/v1/flows"))
            .call()
            .and_then(|mut answer| answer.body_mut().read_json())
            .map_err(|why| format!("reading the counters of flows: {why}"))?;
        let listed = answer["flows"].as_array().into_iter().flatten();
        let done: u64 = listed
            .filter(|flow| flows.iter().any(|name| flow["name"] == **name))
            .filter_map(|flow| flow["in"].as_u64())
            .sum();
        if done > 0 && first.is_none() {
            first = Some((Instant::now(), done));
        }
        if let Some((at, already)) = first.filter(|_| done >= all) {
            return Ok(done.saturating_sub(already) as f64 / at.elapsed().as_secs_f64().max(1e-9));
        }
        if begun.elapsed() > patience {
            return Err(format!("it took {done} of {all} events and stopped there"));
        }
        // Listing a thousand flows takes a while, too.
        std::thread::park_timeout(
            Duration::from_millis(10).max(Duration::from_micros(200 * flows.len() as u64)),
        );
    }
}
