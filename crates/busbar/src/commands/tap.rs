//! `busbar tap`: events as they arrive.

use clap_complete::ArgValueCandidates;
use serde_json::Value;

use crate::client::{NodeArgs, escape};
use crate::exit::{self, Failure};
use crate::{complete, say};

/// Show events as they arrive.
#[derive(Debug, clap::Args)]
pub struct TapArgs {
    /// A topic filter, such as "alarm/#"; all topics when not given.
    #[arg(add = ArgValueCandidates::new(complete::filters))]
    filter: Option<String>,
    /// Where to start: now, earliest, an RFC 3339 time, a span back such as -1h, an offset, or -N for the
    /// last N events.
    #[arg(long, default_value = "now", allow_hyphen_values = true)]
    from: String,
    /// Stop at this RFC 3339 time.
    #[arg(long)]
    until: Option<String>,
    /// Only events of this stream.
    #[arg(long)]
    stream: Option<String>,
    /// Only events with this text in topic, key, tags or payload; ASCII letters match in either case.
    #[arg(long, allow_hyphen_values = true)]
    text: Option<String>,
    /// Only events with this key.
    #[arg(long, allow_hyphen_values = true)]
    key: Option<String>,
    /// Only events with this tag: NAME or NAME=VALUE.
    #[arg(long, allow_hyphen_values = true)]
    tag: Option<String>,
    /// Stop after this many events.
    #[arg(long, short = 'n')]
    count: Option<u64>,
}

/// Prints events until the stream ends or the number asked for is reached.
pub fn run(args: &TapArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let mut path = format!("/api/v1/events?from={}", escape(&args.from));
    for (name, value) in [
        ("filter", &args.filter),
        ("until", &args.until),
        ("stream", &args.stream),
        ("text", &args.text),
        ("key", &args.key),
        ("tag", &args.tag),
    ] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", escape(value)));
        }
    }
    let mut left = args.count.unwrap_or(u64::MAX);
    if left == 0 {
        return Ok(());
    }
    if let Some(name) = &args.filter {
        hint_at_stream(name, node);
    }
    end_with_the_reader();
    node.events(&path, |data| {
        let events = match serde_json::from_str(data) {
            Ok(Value::Array(events)) => events,
            Ok(Value::Object(mut frame)) if frame.contains_key("events") => {
                match frame.remove("events") {
                    Some(Value::Array(events)) => events,
                    _ => Vec::new(),
                }
            }
            Ok(event) => vec![event],
            Err(_) => Vec::new(),
        };
        for event in events {
            if event.get("topic").is_none() {
                // A gap or an error; it must not look like silence.
                eprintln!(
                    "busbar: {}",
                    say::told(event.get("error").unwrap_or(&event))
                );
                continue;
            }
            if json {
                println!("{event}");
            } else {
                let payload = event
                    .get("payload")
                    .or(event.get("payload_base64"))
                    .unwrap_or(&Value::Null);
                println!(
                    "{}  {}  {}",
                    say::time(&event["time"]),
                    say::cell(&event["topic"]),
                    say::cell(payload)
                );
            }
            left -= 1;
            if left == 0 {
                return false;
            }
        }
        true
    })
}

/// Tells who gave the name of a stream in the place of a filter how its events are shown: else nothing would ever come.
fn hint_at_stream(name: &str, node: &NodeArgs) {
    if name.contains(['/', '+', '#']) {
        return;
    }
    let Ok(stream) = node.get(&format!("/api/v1/streams/{}", escape(name))) else {
        return;
    };
    let topics = stream["topics"].as_array().into_iter().flatten();
    if topics.filter_map(Value::as_str).all(|topic| topic != name) {
        eprintln!(
            "{}",
            say::line("cli.tap-stream", &[("name", name.to_owned())])
        );
    }
}

/// Exits when the reader of standard output has closed it. Otherwise `busbar tap … | head -1` would go on
/// until the next event.
fn end_with_the_reader() {
    std::thread::spawn(|| {
        let mut output = libc::pollfd {
            fd: libc::STDOUT_FILENO,
            events: 0,
            revents: 0,
        };
        loop {
            // SAFETY: one pollfd, which lives as long as the call.
            let changed = unsafe { libc::poll(&raw mut output, 1, -1) };
            if changed == 1 && output.revents & (libc::POLLERR | libc::POLLHUP) != 0 {
                // This process holds no state that must be saved.
                #[allow(clippy::disallowed_methods)]
                std::process::exit(i32::from(exit::OK));
            }
            // A signal may end the wait; any other result would be returned again at once.
            if changed >= 0 {
                return;
            }
        }
    });
}
