//! Documents in XML: transformed by the style sheet of `examples/hospital` in one worker, and by `xsltproc`, which reads files.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::flows::File;
use super::node::{self, Process};
use super::report::{Report, Row};
use super::{BenchArgs, fill, flows, note};

const TRANSFORM: &str = "XSLT, documents of 2 KB";
/// Documents that are stored for each second asked for.
const EVENTS_PER_SECOND: u64 = 20_000;
/// Documents that `xsltproc` transforms for each second asked for.
const FILES_PER_SECOND: u64 = 10_000;
/// Files that one `xsltproc` is given.
const FILES_OF_ONE: usize = 10_000;

const STREAMS: [File; 2] = [
    ("streams/summaries.yaml", "topics: his/summary\n"),
    ("streams/cards.yaml", "topics: card/#\n"),
];
const PLUGIN: [File; 3] = [
    ("plugins/card/plugin.yaml", "language: xslt\n"),
    (
        "plugins/card/main.xsl",
        include_str!("../../../../examples/hospital/plugins/card/main.xsl"),
    ),
    (
        "plugins/card/sexes.xml",
        include_str!("../../../../examples/hospital/plugins/card/sexes.xml"),
    ),
];
const FLOW: File = (
    "flows/card.yaml",
    "from: summaries\nsteps:\n- xslt: { plugin: card }\nto:\n- { topic: card/x, name: cards }\n",
);

/// Measures the row if it is wanted, and `xsltproc` beside it where that is installed.
pub fn rows(args: &BenchArgs, report: &mut Report, failed: &mut Vec<String>) {
    if !args.wants(TRANSFORM) {
        return;
    }
    eprintln!("busbar: {TRANSFORM} ...");
    note(worked_off(args), report, failed);
    if args.no_peers {
        return;
    }
    match program("xsltproc") {
        Some(program) => note(peer(args, &program), report, failed),
        None => eprintln!("xsltproc is not installed here, so it is not measured"),
    }
}

fn worked_off(args: &BenchArgs) -> Result<Row, String> {
    let node = Process::busbar(&node::project(&STREAMS)?)?;
    let http = node.http.ok_or("the node has no HTTP address")?;
    let events = args.seconds * EVENTS_PER_SECOND;
    fill::summaries(node.mqtt, events).map_err(|why| format!("filling the stream: {why}"))?;
    let mut files = STREAMS.into_iter().chain(PLUGIN).chain([FLOW]);
    flows::apply(http, &mut files)?;
    let rate = flows::worked_off(http, &["card".to_owned()], events)?;
    Ok(Row {
        events_per_second: Some(rate),
        events,
        ..Row::note(TRANSFORM, "one worker".to_owned())
    })
}

fn peer(args: &BenchArgs, program: &Path) -> Result<Row, String> {
    let folder = node::project(&PLUGIN)?.join("plugins/card");
    let events = args.seconds * FILES_PER_SECOND;
    let mut names: Vec<String> = Vec::new();
    for number in 0..events {
        let mut document = String::new();
        fill::summary(number, &mut document);
        let name = format!("{number}.xml");
        std::fs::write(folder.join(&name), document)
            .map_err(|why| format!("cannot write {name}: {why}"))?;
        names.push(name);
    }
    let begun = Instant::now();
    for names in names.chunks(FILES_OF_ONE) {
        let status = Command::new(program)
            .current_dir(&folder)
            .arg("main.xsl")
            .args(names)
            .stdout(Stdio::null())
            .status();
        let is_done = status.is_ok_and(|status| status.success());
        is_done
            .then_some(())
            .ok_or("xsltproc did not transform the documents")?;
    }
    let rate = events as f64 / begun.elapsed().as_secs_f64().max(1e-9);
    let removed = folder.parent().and_then(Path::parent);
    if let Some(folder) = removed {
        // What is left there is removed with other temporary files.
        let _ = std::fs::remove_dir_all(folder);
    }
    Ok(Row {
        who: "xsltproc".to_owned(),
        events_per_second: Some(rate),
        events,
        ..Row::note(TRANSFORM, "files read, results thrown away".to_owned())
    })
}

/// A program of this machine.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut places = std::env::split_paths(&path).map(|folder| folder.join(name));
    places.find(|place| place.is_file())
}
