//! `busbar top`: rates, lag and errors of a node, refreshed each second.

use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use busbar_event::Language;
use serde_json::Value;

use crate::client::NodeArgs;
use crate::exit::Failure;
use crate::say;

/// Watch a node's streams and flows.
#[derive(Debug, clap::Args)]
pub struct TopArgs {
    /// Print once and end.
    #[arg(long)]
    once: bool,
}

const REFRESH: Duration = Duration::from_secs(1);

/// Prints the picture, again and again when a person is looking.
pub fn run(args: &TopArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let again = !args.once && std::io::stdout().is_terminal();
    loop {
        let overview = node.get("/api/v1/overview")?;
        let streams = node.get("/api/v1/streams")?;
        let flows = node.get("/api/v1/flows")?;
        if json {
            println!(
                "{}",
                serde_json::json!({ "overview": overview, "streams": streams, "flows": flows })
            );
        } else {
            let picture = picture(&overview, &streams, &flows);
            // One write, so that the screen does not flicker.
            let clear = if again { "\x1b[H\x1b[2J" } else { "" };
            let mut out = std::io::stdout().lock();
            if write!(out, "{clear}{picture}")
                .and_then(|()| out.flush())
                .is_err()
            {
                return Ok(());
            }
        }
        if !again {
            return Ok(());
        }
        std::thread::park_timeout(REFRESH);
    }
}

fn picture(overview: &Value, streams: &Value, flows: &Value) -> String {
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let mut text = say::line(
        "cli.top-head",
        &[
            ("version", say::cell(&overview["version"])),
            ("memory", say::bytes(number(&overview["memory_bytes"]))),
            ("rate_in", say::rate(number(&overview["events_in_per_s"]))),
            ("rate_out", say::rate(number(&overview["events_out_per_s"]))),
            ("durability", say::cell(&overview["durability"])),
        ],
    );
    text.push_str("\n\n");
    if let Some(first) = overview["refused"]["first"].as_object() {
        let message = match say::language() {
            Language::Zh => &first["message_zh"],
            Language::En => &first["message"],
        };
        let place = ["file", "line", "column"].map(|name| say::cell(&first[name]));
        let told = [("place", place.join(":")), ("message", say::cell(message))];
        text.push_str(&say::line("cli.refused-save", &told));
        text.push_str("\n\n");
    }
    let head = |codes: &[&str]| {
        codes
            .iter()
            .map(|code| say::line(code, &[]))
            .collect::<Vec<_>>()
    };
    let rows: Vec<Vec<String>> = entries(streams, "streams")
        .iter()
        .map(|stream| {
            vec![
                say::cell(&stream["name"]),
                say::rate(number(&stream["rate"])),
                say::cell(&stream["events"]),
                say::bytes(number(&stream["bytes"])),
            ]
        })
        .collect();
    text.push_str(&say::table(
        &head(&["cli.stream", "cli.rate", "cli.events", "cli.size"]),
        &rows,
    ));
    text.push('\n');
    let rows: Vec<Vec<String>> = entries(flows, "flows")
        .iter()
        .map(|flow| {
            vec![
                say::cell(&flow["name"]),
                say::cell(&flow["state"]),
                say::cell(&flow["in"]),
                say::cell(&flow["out"]),
                say::cell(&flow["filtered"]),
                say::cell(&flow["dead"]),
                say::cell(&flow["lag"]),
            ]
        })
        .collect();
    let codes = [
        "cli.flow",
        "cli.state",
        "cli.in",
        "cli.out",
        "cli.filtered",
        "cli.dead",
        "cli.lag",
    ];
    text.push_str(&say::table(&head(&codes), &rows));
    text
}

/// The list of an answer, whether it stands alone or under its name.
fn entries<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value
        .as_array()
        .or_else(|| value[name].as_array())
        .map_or(&[], Vec::as_slice)
}
