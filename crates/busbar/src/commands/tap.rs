//! `busbar tap`: events as they arrive.

use clap_complete::ArgValueCandidates;
use serde_json::Value;

use crate::client::{NodeArgs, escape};
use crate::exit::{self, Failure};
use crate::{complete, say};

/// Show events as they arrive.
#[derive(Debug, clap::Args)]
pub struct TapArgs {
    /// A topic filter, such as "alarm/#".
    #[arg(add = ArgValueCandidates::new(complete::filters))]
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
                // Events that cannot be read, or why there are no more; a gap must not look like silence.
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

/// Ends the program when nobody reads its output any more. Without it `busbar tap … | head -1` would
/// only notice when the next event comes, which may be tomorrow.
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
                // Nothing of this process is to be drained: it only shows.
                #[allow(clippy::disallowed_methods)]
                std::process::exit(i32::from(exit::OK));
            }
            // A signal may end the wait; anything else would come again at once.
            if changed >= 0 {
                return;
            }
        }
    });
}
