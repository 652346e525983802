//! `busbar trace`: finds a message, shows its way through flows, and sends it again.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use busbar_event::{Class, Error};
use clap_complete::ArgValueCandidates;
use serde_json::{Value, json};

use super::dead_letters::read;
use crate::client::{NodeArgs, escape};
use crate::exit::{self, Failure};
use crate::{complete, say};

/// Find a message, show what every step made of it, and resend it.
#[derive(Debug, clap::Args)]
pub struct TraceArgs {
    #[command(subcommand)]
    command: TraceCommand,
}

#[derive(Debug, clap::Subcommand)]
enum TraceCommand {
    /// Find messages in all streams, the newest first.
    Find(FindArgs),
    /// Show the way of a message through every step of the flows that took it.
    #[command(disable_version_flag = true)]
    Show {
        #[command(flatten)]
        of: OfEvent,
        /// Only this flow.
        #[arg(long, add = ArgValueCandidates::new(complete::flows))]
        flow: Option<String>,
        /// Compute with this version of the project.
        #[arg(long, value_name = "NUMBER")]
        version: Option<u64>,
        /// How many of the events that came of it are followed, too.
        #[arg(long, default_value_t = HOPS)]
        hops: usize,
    },
    /// Resend a message through a flow as it runs.
    #[command(disable_version_flag = true)]
    Resend {
        #[command(flatten)]
        of: OfEvent,
        /// The flow.
        #[arg(long, add = ArgValueCandidates::new(complete::flows))]
        flow: String,
        /// From where: event, or a step or an output as show names it, such as step:1 or to:0.
        #[arg(long, default_value = "event")]
        from: String,
        /// The version of the project that computes what comes before that step.
        #[arg(long, value_name = "NUMBER")]
        version: Option<u64>,
        /// Another payload for the whole event, as text.
        #[arg(long, value_name = "TEXT", conflicts_with = "file")]
        payload: Option<String>,
        /// A file with another payload, byte for byte; `-` for standard input.
        #[arg(long)]
        file: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
struct FindArgs {
    /// A text in topic, key, tags or payload.
    text: Option<String>,
    /// Only with this key.
    #[arg(long)]
    key: Option<String>,
    /// Only with this tag: NAME or NAME=VALUE.
    #[arg(long)]
    tag: Option<String>,
    /// Only with this value at a path of the payload: PID.3.1=10023, patient.id=7.
    #[arg(long)]
    field: Option<String>,
    /// Only of topics that this filter matches, such as meter/#.
    #[arg(long)]
    filter: Option<String>,
    /// Only in this stream.
    #[arg(long, add = ArgValueCandidates::new(complete::streams))]
    stream: Option<String>,
    /// Only since this time.
    #[arg(long)]
    since: Option<String>,
    /// Only before this time.
    #[arg(long)]
    until: Option<String>,
    /// So many at most.
    #[arg(long, default_value_t = FOUND)]
    limit: usize,
}

#[derive(Debug, clap::Args)]
struct OfEvent {
    /// The message: stream, partition and offset, such as meter/0@17, as find prints it.
    event: String,
}

/// Where an event is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct EventPlace {
    stream: String,
    partition: u16,
    offset: u64,
}

/// Messages that are printed by default.
const FOUND: usize = 20;
/// Events that are followed by default.
const HOPS: usize = 16;

/// Runs `busbar trace`.
pub fn run(args: &TraceArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    match &args.command {
        TraceCommand::Find(find) => self::find(find, node, json),
        TraceCommand::Show {
            of,
            flow,
            version,
            hops,
        } => show(
            &EventPlace::parse(&of.event)?,
            (flow.as_deref(), *version),
            *hops,
            node,
            json,
        ),
        TraceCommand::Resend {
            of,
            flow,
            from,
            version,
            payload,
            file,
        } => {
            let event = EventPlace::parse(&of.event)?;
            let mut body = json!({
                "stream": event.stream, "partition": event.partition, "offset": event.offset,
                "flow": flow, "from": from, "version": version,
            });
            if let Some(text) = payload {
                body["payload_text"] = text.as_str().into();
            } else if let Some(path) = file {
                body["payload_base64"] = STANDARD.encode(read(path)?).into();
            }
            let answer = node.post("/api/v1/trace/resend", &body)?;
            if json {
                println!("{answer}");
            } else {
                let count = |name: &str| say::cell(&answer[name]);
                let counts = [("sent", count("sent")), ("died", count("died"))];
                println!("{}", say::line("cli.trace-resent", &counts));
            }
            Ok(())
        }
    }
}

fn find(args: &FindArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let limit = args.limit.to_string();
    let given = [
        ("text", &args.text),
        ("key", &args.key),
        ("tag", &args.tag),
        ("field", &args.field),
        ("filter", &args.filter),
        ("stream", &args.stream),
        ("since", &args.since),
        ("until", &args.until),
    ];
    let mut path = format!("/api/v1/search?order=newest&limit={limit}");
    for (name, value) in given {
        if let Some(value) = value {
            path += &format!("&{name}={}", escape(value));
        }
    }
    // Each answer is of a part of the log.
    let progress = say::waiting(json, "cli.searching");
    let (mut found, mut from) = (Vec::new(), String::new());
    loop {
        let mut answer = node.get(&format!("{path}{from}"))?;
        if let Some(events) = answer["events"].as_array_mut() {
            found.append(events);
        }
        if answer["end"] == true || found.len() >= args.limit {
            break;
        }
        from = format!("&from={}", escape(&say::cell(&answer["next"])));
    }
    progress.finish_and_clear();
    found.truncate(args.limit);
    let mut answer = json!({ "events": found });
    if json {
        println!("{answer}");
        return Ok(());
    }
    for event in answer["events"].as_array_mut().into_iter().flatten() {
        event["event"] = EventPlace::of(event).to_string().into();
        event["payload"] = payload(event).into();
    }
    let columns = ["event", "time", "topic", "key", "payload"];
    say::list(&answer["events"], &columns, "cli.no-messages");
    Ok(())
}

fn show(
    first: &EventPlace,
    (flow, version): (Option<&str>, Option<u64>),
    hops: usize,
    node: &NodeArgs,
    json: bool,
) -> Result<(), Failure> {
    let (mut known, mut traces) = (BTreeSet::new(), Vec::new());
    let mut queue = VecDeque::from([first.clone()]);
    let mut left = 0;
    while let Some(place) = queue.pop_front() {
        if !known.insert(place.to_string()) {
            continue;
        }
        // The first one is not one that came of it.
        if traces.len() > hops {
            left += 1;
            continue;
        }
        let mut path = format!(
            "/api/v1/trace?stream={}&partition={}&offset={}",
            escape(&place.stream),
            place.partition,
            place.offset
        );
        // What came of it goes through other flows.
        if traces.is_empty() {
            if let Some(flow) = flow {
                path += &format!("&flow={}", escape(flow));
            }
            if let Some(version) = version {
                path += &format!("&version={version}");
            }
        }
        let trace = match node.get(&path) {
            // What came of it may be in a stream that was removed since.
            Err(_) if !traces.is_empty() => continue,
            trace => trace?,
        };
        for flow in items(&trace["flows"]) {
            let made = items(&flow["outputs"]).flat_map(|output| items(&output["events"]));
            let made = made.chain(items(&flow["lineage"]["results"]));
            for made in made.filter(|made| made["found"] == true) {
                queue.push_back(EventPlace::of(&made["event"]));
            }
        }
        if !json {
            print!("{}", told(&trace));
        }
        traces.push(trace);
    }
    if json {
        println!("{}", json!({ "traces": traces, "left": left }));
    } else if left > 0 {
        println!(
            "{}",
            say::line("cli.trace-left", &[("count", left.to_string())])
        );
    }
    Ok(())
}

/// A trace as lines: the event, then each flow with its steps and outputs.
fn told(trace: &Value) -> String {
    let event = &trace["event"];
    let mut text = format!(
        "{}  {}  {}\n    {}\n",
        EventPlace::of(event),
        say::time(&event["time"]),
        say::cell(&event["topic"]),
        payload(event)
    );
    told_why(&mut text, &trace["orchestrations_error"]);
    for start in items(&trace["orchestrations"]) {
        let args = ["orchestration", "key", "status", "part", "by"];
        let args = args.map(|name| (name, say::cell(&start[name])));
        if start["key"].is_string() {
            text += &format!("  {}\n", say::line("cli.trace-starts", &args));
        } else if start["by"].is_string() {
            text += &format!("  {}\n", say::line("cli.trace-waits", &args));
        } else {
            text += &format!("  {}\n", say::cell(&start["orchestration"]));
        }
        told_why(&mut text, &start["error"]);
    }
    for flow in items(&trace["flows"]) {
        let version = [
            ("flow", say::cell(&flow["flow"])),
            ("version", say::cell(&flow["version"])),
        ];
        text += &format!("  {}\n", say::line("cli.trace-flow", &version));
        for why in [&flow["error"], &flow["unread"]] {
            told_why(&mut text, why);
        }
        for letter in items(&flow["letters"]) {
            let code = match letter["open"] == true {
                true => "cli.trace-letter-open",
                false => "cli.trace-letter-closed",
            };
            let cause = match say::language() {
                busbar_event::Language::Zh => &letter["cause_zh"],
                busbar_event::Language::En => &letter["cause"],
            };
            let told = [
                ("id", say::cell(&letter["id"])),
                ("step", say::cell(&letter["step"])),
                ("cause", say::cell(cause)),
            ];
            text += &format!("    {}\n", say::line(code, &told));
        }
        for step in items(&flow["steps"]) {
            let fate = say::cell(&step["fate"]);
            let fate = say::line(&format!("cli.trace-{fate}"), &[]);
            text += &format!("    {}  {fate}\n", named(step));
            told_why(&mut text, &step["cause"]);
            for (sign, rows) in [("<", &step["before"]), (">", &step["after"])] {
                for row in rows.as_array().into_iter().flatten() {
                    text += &format!("      {sign} {}\n", say::cell(row));
                }
            }
        }
        told_lineage(&mut text, flow);
        for output in items(&flow["outputs"]) {
            text += &format!("    {}\n", named(output));
            told_why(&mut text, &output["cause"]);
            for made in items(&output["events"]) {
                let event = &made["event"];
                let place = match made["found"] == true {
                    true => EventPlace::of(event).to_string(),
                    false => say::line("cli.trace-not-found", &[]),
                };
                let topic = say::cell(&event["topic"]);
                text += &format!("      > {topic}  {place}\n        {}\n", payload(event));
            }
            if output["events"].as_array().is_none_or(Vec::is_empty) {
                for row in items(&output["rows"]) {
                    text += &format!("      > {}\n", say::cell(row));
                }
            }
            for event in items(&output["recorded"]) {
                let (place, topic) = (EventPlace::of(event), say::cell(&event["topic"]));
                text += &format!("      ? {topic}  {place}\n        {}\n", payload(event));
            }
        }
    }
    text
}

/// The results of a flow with state that the event is part of, each with the events that it was made of.
fn told_lineage(text: &mut String, flow: &Value) {
    told_why(text, &flow["lineage_error"]);
    let lineage = &flow["lineage"];
    if !lineage.is_object() {
        return;
    }
    let events = [("events", say::cell(&lineage["events"]))];
    let is_empty = items(&lineage["results"]).next().is_none();
    let code = match (lineage["whole"] == true, is_empty) {
        (true, true) => "cli.trace-no-part",
        (false, true) => "cli.trace-no-part-within",
        (true, false) => "cli.trace-part",
        (false, false) => "cli.trace-part-within",
    };
    *text += &format!("    {}\n", say::line(code, &events));
    for result in items(&lineage["results"]) {
        let made = &result["event"];
        let place = match (result["open"] == true, result["found"] == true) {
            (true, _) => say::line("cli.trace-open", &[]),
            (false, true) => EventPlace::of(made).to_string(),
            (false, false) if made.is_object() => say::line("cli.trace-not-found", &[]),
            (false, false) => String::new(),
        };
        let (topic, made) = match made.is_object() {
            true => (say::cell(&made["topic"]), payload(made)),
            false => (String::new(), say::cell(&result["row"])),
        };
        let output = say::cell(&result["output"]);
        *text += &format!("      = {output}  {topic}  {place}\n        {made}\n");
        for input in items(&result["inputs"]) {
            let place = EventPlace::of(input);
            *text += &format!("        < {place}  {}\n", payload(input));
        }
        told_more(text, "cli.trace-more-inputs", &result["more"]);
    }
    told_more(text, "cli.trace-more-results", &lineage["more"]);
}

fn told_more(text: &mut String, code: &str, count: &Value) {
    if count.as_u64().is_some_and(|count| count > 0) {
        let count = [("count", say::cell(count))];
        *text += &format!("        {}\n", say::line(code, &count));
    }
}

/// The values of a list; none of what is no list.
fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn told_why(text: &mut String, error: &Value) {
    if error.is_object() {
        *text += &format!("      ! {}\n", say::told(error));
    }
}

/// A step or an output: its id, its name or kind, and what it does.
fn named(part: &Value) -> String {
    let name = part["name"].as_str().or(part["kind"].as_str());
    let (id, name) = (say::cell(&part["id"]), name.unwrap_or_default());
    format!("{id}  {name}  {}", say::cell(&part["label"]))
}

/// The payload of an event as one line.
fn payload(event: &Value) -> String {
    match event["payload"].is_null() {
        true => say::cell(&event["payload_base64"]),
        false => say::cell(&event["payload"]),
    }
}

impl EventPlace {
    fn parse(text: &str) -> Result<EventPlace, Failure> {
        let parts = || {
            let (rest, offset) = text.rsplit_once('@')?;
            let (stream, partition) = rest.rsplit_once('/')?;
            Some(EventPlace {
                stream: stream.to_owned(),
                partition: partition.parse().ok()?,
                offset: offset.parse().ok()?,
            })
        };
        parts().ok_or_else(|| {
            let error = Error::new(Class::Configuration, "cli.trace-place")
                .with("value", busbar_event::quote(text))
                .with("example", "meter/0@17");
            Failure::new(exit::USAGE, error)
        })
    }

    /// The place of an event of an answer.
    fn of(event: &Value) -> EventPlace {
        let number = |name: &str| event[name].as_u64().unwrap_or_default();
        EventPlace {
            stream: say::cell(&event["stream"]),
            partition: u16::try_from(number("partition")).unwrap_or_default(),
            offset: number("offset"),
        }
    }
}

impl std::fmt::Display for EventPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}@{}", self.stream, self.partition, self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        let place = EventPlace::parse("alarm.late/3@17").unwrap();
        assert_eq!(
            (&*place.stream, place.partition, place.offset),
            ("alarm.late", 3, 17)
        );
        assert_eq!(place.to_string(), "alarm.late/3@17");
        for wrong in [
            "meter",
            "meter@17",
            "meter/0",
            "meter/x@1",
            "meter/0@-1",
            "meter/70000@1",
        ] {
            assert!(EventPlace::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_result_is_told_with_its_place_and_the_events_that_it_was_made_of() {
        let event = |stream: &str, offset: u64, payload: Value| {
            json!({
                "stream": stream, "partition": 0, "offset": offset, "topic": "t/a",
                "time": "2026-11-29T08:00:00Z", "payload": payload
            })
        };
        let result = json!({
            "output": "to:0", "event": event("sums", 3, json!({ "kw": 4 })), "found": true, "open": false,
            "inputs": [event("meter", 0, json!({ "kw": 1 })), event("meter", 2, json!({ "kw": 3 }))],
            "more": 2
        });
        let lineage = json!({ "events": 5, "whole": true, "more": 0, "results": [result] });
        let flow = json!({ "flow": "sum", "version": 1, "lineage": lineage });
        let mut text = String::new();
        told_lineage(&mut text, &flow);
        let more = say::line("cli.trace-more-inputs", &[("count", "2".to_owned())]);
        let events = say::line("cli.trace-part", &[("events", "5".to_owned())]);
        assert_eq!(
            text,
            format!(
                "    {events}\n      = to:0  t/a  sums/0@3\n        {{\"kw\":4}}\n        < meter/0@0  {{\"kw\":1}}\n        < meter/0@2  {{\"kw\":3}}\n        {more}\n"
            )
        );
        // A row of a table that has not come out.
        let row = json!({ "output": "to:1", "row": { "kw": 4 }, "found": false, "open": true, "inputs": [], "more": 0 });
        let mut flow = flow;
        flow["lineage"]["results"] = json!([row]);
        text.clear();
        told_lineage(&mut text, &flow);
        let open = say::line("cli.trace-open", &[]);
        assert!(
            text.ends_with(&format!("= to:1    {open}\n        {{\"kw\":4}}\n")),
            "{text}"
        );
    }
}
