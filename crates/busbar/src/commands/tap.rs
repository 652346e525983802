//! `busbar tap`: events as they arrive.

use serde_json::Value;

use crate::client::{NodeArgs, escape};
use crate::exit::Failure;
use crate::say;

/// Show events as they arrive.
#[derive(Debug, clap::Args)]
pub struct TapArgs {
    /// A topic filter, such as "alarm/#".
    filter: String,
    /// Where to begin: now, earliest, an RFC 3339 time, or -N for the last N events.
    #[arg(long, default_value = "now", allow_hyphen_values = true)]
    from: String,
    /// Stop after so many events.
    #[arg(long, short = 'n')]
    count: Option<u64>,
}

/// Prints events until they end or enough are there.
pub fn run(args: &TapArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let path = format!(
        "/api/v1/events?filter={}&from={}",
        escape(&args.filter),
        escape(&args.from)
    );
    let mut left = args.count.unwrap_or(u64::MAX);
    if left == 0 {
        return Ok(());
    }
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
                    say::cell(&event["time"]),
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
