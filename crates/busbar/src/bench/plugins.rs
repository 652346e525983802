//! Plug-ins: events a second through one worker, memory of an idle one, and how long a flow stands still while a new
//! version takes over.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use busbar_plugin::{PluginLanguage, template};
use serde_json::Value as Json;

use super::flows::{self, File};
use super::node::{self, Process, START_MAX};
use super::report::{Report, Row};
use super::{BenchArgs, fill};

/// A plug-in that changes one number of each event.
struct ScriptJob {
    row: &'static str,
    language: PluginLanguage,
    text: &'static str,
    /// More keys of its `plugin.yaml`.
    keys: &'static str,
}

static SCRIPTS: [ScriptJob; 4] = [
    ScriptJob {
        row: "script, JavaScript",
        language: PluginLanguage::Javascript,
        text: "export default function (event) {\n  event.payload.kw *= 1000;\n  return event;\n}\n",
        keys: "",
    },
    ScriptJob {
        row: "script, Python",
        language: PluginLanguage::Python,
        text: "def process(event):\n    event[\"payload\"][\"kw\"] *= 1000\n    return event\n",
        keys: "",
    },
    ScriptJob {
        row: "script, Java",
        language: PluginLanguage::Java,
        text: "import busbar.Event;\nimport busbar.Plugin;\nimport java.util.List;\n\npublic class Main implements Plugin {\n    public List<Event> process(Event event) {\n        event.object().put(\"kw\", event.number(\"kw\") * 1000);\n        return List.of(event);\n    }\n}\n",
        keys: "",
    },
    ScriptJob {
        row: "script, Python with Arrow",
        language: PluginLanguage::Python,
        text: "import pyarrow.compute as pc\n\ndef on_batch(batch):\n    at = batch.schema.get_field_index(\"kw\")\n    return batch.set_column(at, \"kw\", pc.multiply(batch[\"kw\"], 1000.0))\n",
        keys: "arrow: { site: text, kw: float, volt: float, phase: int, status: text, serial: text, note: text }\n",
    },
];

static IDLE_ROWS: [(&str, PluginLanguage); 6] = [
    ("idle plug-in, JavaScript", PluginLanguage::Javascript),
    ("idle plug-in, Python", PluginLanguage::Python),
    ("idle plug-in, Java", PluginLanguage::Java),
    ("idle plug-in, Perl", PluginLanguage::Perl),
    ("idle plug-in, Scala", PluginLanguage::Scala),
    ("idle plug-in, Erlang", PluginLanguage::Erlang),
];

static DEPLOY_ROWS: [(&str, usize); 2] = [
    ("new version under 100 k/s, JavaScript", 0),
    ("new version under 100 k/s, Python", 1),
];

const STREAMS: [File; 2] = [
    (
        "streams/readings.yaml",
        "topics: meter/+/reading\nformat: json\nschema:\n  site: text\n  kw: float\n",
    ),
    ("streams/out.yaml", "topics: out/#\n"),
];

/// A flow that does nothing but call the plug-in `bench`.
const FLOW: &str = "from: readings\nsteps:\n- script: bench\nto:\n- { topic: out/x, name: out }\n";

/// Events that are stored for each second asked for.
const EVENTS_PER_SECOND: u64 = 200_000;
/// Events a second while a new version is deployed.
const DEPLOY_RATE: u64 = 100_000;
/// How long the flow runs before the new version is deployed, and how long it is looked at behind that.
const DEPLOY_MARGIN: Duration = Duration::from_secs(2);
/// How long a plug-in is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(2);

/// All rows of plug-ins. A language that is not installed is said so in its row.
pub fn rows(args: &BenchArgs, report: &mut Report, failed: &mut Vec<String>) {
    let mut measure =
        |row: &'static str, language: PluginLanguage, run: &dyn Fn() -> Result<Row, String>| {
            if !args.wants(row) {
                return;
            }
            if let Some(program) = lacks(language) {
                report.add(Row::note(
                    row,
                    format!("left out: {program} is not installed"),
                ));
                return;
            }
            eprintln!("busbar: {row} ...");
            match run() {
                Ok(row) => report.add(row),
                Err(why) => failed.push(format!("{row}: {why}")),
            }
        };
    for job in &SCRIPTS {
        measure(job.row, job.language, &|| {
            if !job.keys.is_empty() && !has_pyarrow() {
                let what = "left out: pyarrow is not installed".to_owned();
                return Ok(Row::note(job.row, what));
            }
            job.rate(args.seconds * EVENTS_PER_SECOND)
        });
    }
    for (row, language) in &IDLE_ROWS {
        measure(row, *language, &|| idle(row, *language));
    }
    for (row, script) in &DEPLOY_ROWS {
        let job = &SCRIPTS[*script];
        measure(row, job.language, &|| pause(row, job));
    }
}

/// A program that the language needs and this machine lacks.
fn lacks(language: PluginLanguage) -> Option<&'static str> {
    let needed: &[&str] = match language {
        PluginLanguage::Javascript
        | PluginLanguage::Command
        | PluginLanguage::Xslt
        | PluginLanguage::Xsd => &[],
        PluginLanguage::Python => &["python3"],
        PluginLanguage::Java => &["java", "javac"],
        PluginLanguage::Perl => &["perl"],
        PluginLanguage::Scala if std::env::var_os("SCALA_HOME").is_some() => &["java", "javac"],
        PluginLanguage::Scala => &["java", "javac", "scalac"],
        PluginLanguage::Erlang => &["erl", "erlc"],
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there =
        |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    needed.iter().copied().find(|program| !is_there(program))
}

/// Whether the `python3` that plug-ins run with has the library for Arrow columns.
fn has_pyarrow() -> bool {
    let import = std::process::Command::new("python3")
        .args(["-c", "import pyarrow"])
        .stderr(std::process::Stdio::null())
        .status();
    import.is_ok_and(|status| status.success())
}

impl ScriptJob {
    /// The files of a project with the plug-in in some version.
    fn files(&self, version: u32) -> Vec<(String, String)> {
        let comment = match self.language {
            PluginLanguage::Python => "#",
            _ => "//",
        };
        let mut files: Vec<(String, String)> = STREAMS
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
            .collect();
        let folder = "plugins/bench";
        let (language, main) = (self.language.as_str(), self.language.main());
        files.extend([
            (
                format!("{folder}/plugin.yaml"),
                format!("language: {language}\n{}", self.keys),
            ),
            (
                format!("{folder}/{main}"),
                format!("{}\n{comment} version {version}\n", self.text.trim_end()),
            ),
            ("flows/bench.yaml".to_owned(), FLOW.to_owned()),
        ]);
        files
    }

    fn rate(&self, events: u64) -> Result<Row, String> {
        let node = Process::busbar(&node::project(&STREAMS)?)?;
        let http = node.http.ok_or("the node has no HTTP address")?;
        fill::readings(node.mqtt, events).map_err(|why| format!("filling the stream: {why}"))?;
        deploy(http, &self.files(1))?;
        let rate = flows::worked_off(http, &["bench".to_owned()], events)?;
        Ok(Row {
            events_per_second: Some(rate),
            events,
            ..Row::note(
                self.row,
                "one worker; 200 B JSON, one field changed".to_owned(),
            )
        })
    }
}

fn deploy(http: SocketAddr, files: &[(String, String)]) -> Result<(), String> {
    flows::apply(
        http,
        &mut files.iter().map(|(path, text)| (&**path, &**text)),
    )
}

/// Memory of a worker that has worked and waits.
fn idle(row: &'static str, language: PluginLanguage) -> Result<Row, String> {
    let node = Process::busbar(&node::project(&STREAMS)?)?;
    let http = node.http.ok_or("the node has no HTTP address")?;
    let mut files = SCRIPTS[0].files(1);
    files.retain(|(path, _)| !path.starts_with("plugins/"));
    let plugin = template(language);
    files.extend(
        plugin
            .into_iter()
            .map(|(file, text)| (format!("plugins/bench/{file}"), text)),
    );
    deploy(http, &files)?;
    const EVENTS: u64 = 1000;
    fill::readings(node.mqtt, EVENTS).map_err(|why| format!("publishing: {why}"))?;
    let begun = Instant::now();
    while worker(http)?.0 < EVENTS {
        if begun.elapsed() > 4 * START_MAX {
            return Err("the plug-in was not given its events".to_owned());
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    std::thread::park_timeout(IDLE);
    let (_, process, memory) = worker(http)?;
    let (bytes, what) = match process {
        None => (memory, "of the interpreter's heap, within the node"),
        Some(process) => (
            node::resident_bytes_of(process).ok_or("the memory of the worker cannot be read")?,
            "resident, of the worker's process",
        ),
    };
    Ok(Row::note(
        row,
        format!("{:.1} MB {what}", bytes as f64 / 1e6),
    ))
}

/// Events that the plug-in was given, the process of its first worker, and that worker's memory in bytes.
fn worker(http: SocketAddr) -> Result<(u64, Option<u32>, u64), String> {
    let answer = get(http, "/api/v1/plugins")?;
    let plugin = &answer["plugins"][0];
    let worker = &plugin["workers"][0];
    let process = worker["process"].as_u64();
    Ok((
        plugin["given"].as_u64().unwrap_or(0),
        process.and_then(|process| u32::try_from(process).ok()),
        worker["memory"].as_u64().unwrap_or(0),
    ))
}

/// The longest time for which the flow takes nothing, with a new version deployed in the middle.
fn pause(row: &'static str, job: &ScriptJob) -> Result<Row, String> {
    let node = Process::busbar(&node::project(&STREAMS)?)?;
    let http = node.http.ok_or("the node has no HTTP address")?;
    deploy(http, &job.files(1))?;
    // Until the new version runs, and the margins around it.
    let seconds = 4 * DEPLOY_MARGIN.as_secs();
    let events = DEPLOY_RATE * seconds;
    std::thread::scope(|scope| {
        let load = scope.spawn(|| fill::paced_readings(node.mqtt, events, DEPLOY_RATE));
        let before = watch(http, DEPLOY_MARGIN, |_| Ok(false))?;
        let deployed = scope.spawn(|| deploy(http, &job.files(2)));
        let mut since = None;
        let during = watch(http, START_MAX, |now| {
            if deployed.is_finished() && since.is_none() {
                since = Some(now);
            }
            Ok(since.is_some_and(|since: Instant| since.elapsed() > DEPLOY_MARGIN / 2))
        })?;
        let new = deployed.join().map_err(|_| "the deployment panicked")?;
        new?;
        let filled = load.join().map_err(|_| "the load panicked")?;
        filled.map_err(|why| format!("publishing: {why}"))?;
        Ok(Row {
            events,
            ..Row::note(
                row,
                format!(
                    "longest pause {:.0} ms; {:.0} ms without a deployment",
                    during.as_secs_f64() * 1e3,
                    before.as_secs_f64() * 1e3
                ),
            )
        })
    })
}

/// Looks at the flow's counter until `over` says so or the time is up; answers the longest time in which it did not move.
fn watch(
    http: SocketAddr,
    at_most: Duration,
    mut over: impl FnMut(Instant) -> Result<bool, String>,
) -> Result<Duration, String> {
    let begun = Instant::now();
    let (mut count, mut moved, mut longest) = (None, begun, Duration::ZERO);
    loop {
        let answer = get(http, "/api/v1/flows")?;
        let taken = answer["flows"][0]["in"].as_u64();
        let now = Instant::now();
        if taken != count {
            // The first event does not end a pause.
            if count.is_some_and(|count| count > 0) {
                longest = longest.max(now - moved);
            }
            (count, moved) = (taken, now);
        }
        if over(now)? || begun.elapsed() > at_most {
            return Ok(longest.max(match count {
                Some(1..) => now - moved,
                _ => Duration::ZERO,
            }));
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

fn get(http: SocketAddr, path: &str) -> Result<Json, String> {
    ureq::get(format!("http://{http}{path}"))
        .call()
        .and_then(|mut answer| answer.body_mut().read_json())
        .map_err(|why| format!("reading {path}: {why}"))
}
