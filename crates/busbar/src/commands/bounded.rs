//! `busbar replay --into`: a flow over a range of time, into a table.

use busbar_event::{Class, Error};
use serde_json::{Value, json};

use super::flows::{LOOK, ReplayArgs};
use crate::client::{NodeArgs, escape};
use crate::exit::{self, Failure};
use crate::say;

/// Starts a run, and waits for its end where that is asked for. Interrupting the command does not end the run.
pub(super) fn run(
    args: &ReplayArgs,
    into: &str,
    node: &NodeArgs,
    json: bool,
) -> Result<(), Failure> {
    let path = format!("/api/v1/flows/{}/runs", escape(&args.flow));
    let mut wanted = json!({ "from": args.from, "to": args.to, "into": into });
    if let Some(engine) = &args.create {
        wanted["create"] = json!(engine);
    }
    let started = node.post(&path, &wanted)?;
    let id = started["id"].as_u64().unwrap_or_default().to_string();
    if !json {
        let told = [
            ("flow", args.flow.clone()),
            ("from", args.from.clone()),
            ("to", args.to.clone()),
            ("into", into.to_owned()),
            ("run", id.clone()),
        ];
        println!("{}", say::line("cli.run-started", &told));
    }
    let run = match args.wait {
        true => follow(&format!("/api/v1/runs/{id}"), node, json)?,
        false => started,
    };
    if json {
        println!("{run}");
    } else if args.wait {
        tell(&run);
    }
    match run["state"].as_str() {
        Some("failed") => {
            let why = say::told(&run["error"]);
            let error = Error::new(Class::Permanent, "cli.run-failed").with("run", id);
            Err(Failure::new(exit::FOUND, error.with("cause", why)))
        }
        Some("cancelled") => {
            let error = Error::new(Class::Permanent, "cli.run-was-cancelled").with("run", id);
            Err(Failure::new(exit::FOUND, error))
        }
        _ => Ok(()),
    }
}

fn follow(path: &str, node: &NodeArgs, json: bool) -> Result<Value, Failure> {
    let progress = say::progress(json, "cli.running-over");
    let ended = loop {
        let run = match node.get(path) {
            Ok(run) => run,
            Err(failure) => break Err(failure),
        };
        progress.set_length(run["offsets"].as_u64().unwrap_or(0));
        progress.set_position(run["read"].as_u64().unwrap_or(0));
        if run["state"] != "running" {
            break Ok(run);
        }
        std::thread::park_timeout(LOOK);
    };
    progress.finish_and_clear();
    ended
}

fn tell(run: &Value) {
    let number = |key: &'static str| (key, run[key].as_u64().unwrap_or(0).to_string());
    let said = ["events", "rows", "late", "dead"].map(number);
    println!("{}", say::line("cli.run-done", &said));
    let cause = match say::language() {
        busbar_event::Language::Zh => &run["cause_zh"],
        busbar_event::Language::En => &run["cause"],
    };
    if let Some(cause) = cause.as_str() {
        println!(
            "{}",
            say::line("cli.run-cause", &[("cause", cause.to_owned())])
        );
    }
}
