//! `busbar top`: rates, lag and errors of a node, refreshed each second.

use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use busbar_event::Language;
use serde_json::Value;

use crate::client::NodeArgs;
use crate::exit::{self, Failure};
use crate::say;

/// Watch a node's streams and flows.
#[derive(Debug, clap::Args)]
pub struct TopArgs {
    /// Print once and exit.
    #[arg(long)]
    once: bool,
}

const REFRESH: Duration = Duration::from_secs(1);

/// Prints the tables, each second when standard output is a terminal.
pub fn run(args: &TopArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let again = !args.once && std::io::stdout().is_terminal();
    let mut seen = false;
    loop {
        let text = match look(node) {
            Ok(answers) if json => format!("{answers}\n"),
            Ok(answers) => {
                seen = true;
                let (width, height) = if again {
                    screen()
                } else {
                    (usize::MAX, usize::MAX)
                };
                picture(&answers, width, height)
            }
            // A node may be restarting; one that has never answered is an error.
            Err(failure) if again && seen && !json && failure.code == exit::UNAVAILABLE => {
                let message = failure.error.message(say::language());
                format!("{message}\n{}\n", say::line("cli.top-again", &[]))
            }
            Err(failure) => return Err(failure),
        };
        // One write that overwrites the old text and then clears the rest, so that the screen does not flicker.
        let text = if again && !json {
            format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
        } else {
            text
        };
        let mut out = std::io::stdout().lock();
        if out
            .write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .is_err()
            || !again
        {
            return Ok(());
        }
        drop(out);
        std::thread::park_timeout(REFRESH);
    }
}

fn look(node: &NodeArgs) -> Result<Value, Failure> {
    Ok(serde_json::json!({
        "overview": node.get("/api/v1/overview")?,
        "streams": node.get("/api/v1/streams")?,
        "flows": node.get("/api/v1/flows")?,
    }))
}

/// Columns and lines of the terminal.
fn screen() -> (usize, usize) {
    let size = terminal_size::terminal_size();
    size.map_or((80, 24), |(width, height)| {
        (width.0.into(), height.0.into())
    })
}

/// The rows of a table that fit into `lines`, and a line with the number of the others.
fn fitted(head: &[String], rows: &[Vec<String>], lines: usize) -> String {
    if rows.len() < lines {
        return say::table(head, rows);
    }
    let shown = lines.saturating_sub(2);
    let more = [("count", (rows.len() - shown).to_string())];
    format!(
        "{}{}\n",
        say::table(head, &rows[..shown]),
        say::line("cli.top-more", &more)
    )
}

/// The line, shortened to the width of the terminal.
fn clipped(line: &str, width: usize) -> String {
    if say::width(line) <= width {
        return line.to_owned();
    }
    let mut text = String::new();
    for letter in line.chars() {
        if say::width(&text) + say::width(letter.encode_utf8(&mut [0; 4])) >= width {
            break;
        }
        text.push(letter);
    }
    text.push('…');
    text
}

fn picture(answers: &Value, width: usize, height: usize) -> String {
    let overview = &answers["overview"];
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
    let streams: Vec<Vec<String>> = entries(&answers["streams"], "streams")
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
    let flows: Vec<Vec<String>> = entries(&answers["flows"], "flows")
        .iter()
        .map(|flow| {
            vec![
                say::cell(&flow["name"]),
                say::state(&flow["state"]),
                say::rate(number(&flow["rate"])),
                say::cell(&flow["in"]),
                say::cell(&flow["out"]),
                say::cell(&flow["filtered"]),
                say::cell(&flow["dead"]),
                say::cell(&flow["lag"]),
                behind(flow),
            ]
        })
        .collect();
    // Two lines are left: the one between the tables and the one of the cursor.
    let room = height.saturating_sub(text.lines().count() + 2);
    let (upper, lower) = share(room, streams.len() + 1, flows.len() + 1);
    text.push_str(&fitted(
        &head(&["cli.stream", "cli.rate", "cli.events", "cli.size"]),
        &streams,
        upper,
    ));
    text.push('\n');
    let codes = [
        "cli.flow",
        "cli.state",
        "cli.rate",
        "cli.in",
        "cli.out",
        "cli.filtered",
        "cli.dead",
        "cli.lag",
        "cli.watermark-age",
    ];
    text.push_str(&fitted(&head(&codes), &flows, lower));
    let lines: Vec<String> = text.lines().map(|line| clipped(line, width)).collect();
    lines.join("\n") + "\n"
}

/// How far a flow is behind its input, by event time. A flow that has read everything is not behind,
/// however old its last event is; a clock that was set back makes no span negative.
fn behind(flow: &Value) -> String {
    if flow["lag"].as_u64() == Some(0) {
        return say::span(0.0);
    }
    let age = flow["watermark_age_s"].as_f64();
    age.map_or_else(String::new, say::span)
}

/// Divides lines between two tables: lines that one does not need go to the other.
fn share(room: usize, upper: usize, lower: usize) -> (usize, usize) {
    let half = room / 2;
    if upper + lower <= room {
        (upper, lower)
    } else if upper <= half {
        (upper, room - upper)
    } else if lower <= room - half {
        (room - lower, lower)
    } else {
        (half, room - half)
    }
}

/// The list of an answer, whether it stands alone or under its name.
fn entries<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value
        .as_array()
        .or_else(|| value[name].as_array())
        .map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answers(count: usize) -> Value {
        let streams: Vec<_> = (0..count)
            .map(|n| json!({ "name": format!("流-{n}"), "rate": 1.5, "events": n, "bytes": 2048 }))
            .collect();
        let flows: Vec<_> = (0..count)
            .map(|n| json!({ "name": format!("flow-{n}"), "state": "running", "rate": 2, "in": n }))
            .collect();
        json!({ "overview": {}, "streams": streams, "flows": flows })
    }

    #[test]
    fn the_picture_fits_the_terminal() {
        for (count, width, height) in [(3, 80, 24), (100, 80, 24), (30, 40, 12), (100, 200, 50)] {
            let text = picture(&answers(count), width, height);
            let lines = text.lines().count();
            assert!(lines < height, "{lines} lines of {height}:\n{text}");
            for line in text.lines() {
                assert!(say::width(line) <= width, "{line}");
            }
            assert!(text.contains("flow-0") && text.contains("流-0"), "{text}");
        }
        let whole = picture(&answers(100), usize::MAX, usize::MAX);
        assert!(whole.contains("flow-99") && whole.contains("流-99"));
    }

    #[test]
    fn a_flow_without_lag_is_not_behind() {
        let flow = |lag: u64, age: f64| behind(&json!({ "lag": lag, "watermark_age_s": age }));
        assert_eq!(flow(0, 101.0), say::span(0.0));
        assert_eq!(flow(0, -7.0), say::span(0.0));
        assert_eq!(flow(3, 101.0), say::span(60.0));
        assert_eq!(flow(3, -7.0), say::span(0.0));
        assert_eq!(behind(&json!({ "lag": 3 })), "");
    }

    #[test]
    fn room_that_one_table_leaves_is_the_others() {
        assert_eq!(share(20, 5, 40), (5, 15));
        assert_eq!(share(20, 40, 5), (15, 5));
        assert_eq!(share(21, 40, 40), (10, 11));
        assert_eq!(share(20, 5, 6), (5, 6));
    }
}
