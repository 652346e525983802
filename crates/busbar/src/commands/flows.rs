//! `busbar flows` and `busbar replay`: the flows of a node, their versions and positions.

use std::time::Duration;

use busbar_event::{Class, Error};
use clap_complete::ArgValueCandidates;
use serde_json::json;

use crate::client::{NodeArgs, escape};
use crate::commands::apply;
use crate::exit::{self, Failure};
use crate::{complete, say};

/// List flows, compare and roll back their versions, pause and resume them.
#[derive(Debug, clap::Args)]
pub struct FlowsArgs {
    #[command(subcommand)]
    command: Option<FlowsCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum FlowsCommand {
    /// List all flows with their counters; the same as without a command.
    List,
    /// List the versions of a flow.
    Versions {
        /// The flow.
        #[arg(add = ArgValueCandidates::new(complete::flows))]
        flow: String,
    },
    /// Show what changed between two versions of a flow.
    Diff {
        /// The flow.
        #[arg(add = ArgValueCandidates::new(complete::flows))]
        flow: String,
        /// The older version.
        from: u64,
        /// The newer version.
        to: u64,
    },
    /// Deploy an earlier version again.
    #[command(disable_version_flag = true)]
    Rollback {
        /// The flow.
        #[arg(add = ArgValueCandidates::new(complete::flows))]
        flow: String,
        /// The version to return to.
        version: u64,
        /// Compute the flow again from the oldest event where that version cannot keep the state that there is.
        #[arg(long)]
        replay: bool,
    },
    /// Pause a flow at its current position.
    Pause {
        /// The flow.
        #[arg(add = ArgValueCandidates::new(complete::flows))]
        flow: String,
    },
    /// Resume a paused flow.
    Resume {
        /// The flow.
        #[arg(add = ArgValueCandidates::new(complete::flows))]
        flow: String,
    },
    /// List the runs of a flow over ranges of time (`busbar replay --into`).
    Runs {
        /// The flow.
        #[arg(add = ArgValueCandidates::new(complete::flows))]
        flow: String,
    },
    /// Cancel a run of a flow over a range of time; the rows that it has written stay.
    Cancel {
        /// The number of the run.
        run: u64,
    },
}

/// Read a flow's input again, or run it over a range of time into a table.
///
/// Without --into the flow itself goes back and writes to its outputs again. With --into it goes on as it is, and its
/// results over the range go to the table.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// The flow.
    #[arg(add = ArgValueCandidates::new(complete::flows))]
    pub(super) flow: String,
    /// Where to start: earliest, latest, an RFC 3339 time, or a span back such as -1h.
    #[arg(long, default_value = "earliest", allow_hyphen_values = true)]
    pub(super) from: String,
    /// With --into: where the range ends, an RFC 3339 time, a span back such as -1h, or latest.
    #[arg(
        long,
        default_value = "latest",
        allow_hyphen_values = true,
        requires = "into"
    )]
    pub(super) to: String,
    /// Write the results over the range from --from to --to to this table, beside the flow that runs.
    #[arg(long, value_name = "TABLE")]
    pub(super) into: Option<String>,
    /// With --into: create the table, with the columns of the results, if it does not exist.
    #[arg(long, value_name = "ENGINE", value_parser = ["hot", "relational"], requires = "into")]
    pub(super) create: Option<String>,
    /// Wait until all events have been read, and show the progress.
    #[arg(long)]
    pub(super) wait: bool,
}

/// Show the stages, state and guarantees of a flow.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// The flow.
    #[arg(add = ArgValueCandidates::new(complete::flows))]
    flow: String,
}

/// How often the progress of a replay is asked for.
pub(super) const LOOK: Duration = Duration::from_millis(200);

/// Runs `busbar flows`.
pub fn run(args: &FlowsArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let command = args.command.as_ref().unwrap_or(&FlowsCommand::List);
    let flow_path = |flow: &str, rest: &str| format!("/api/v1/flows/{}{rest}", escape(flow));
    let answer = match command {
        FlowsCommand::List => node.get("/api/v1/flows")?,
        FlowsCommand::Versions { flow } => node.get(&flow_path(flow, "/versions"))?,
        FlowsCommand::Diff { flow, from, to } => {
            node.get(&flow_path(flow, &format!("/diff?from={from}&to={to}")))?
        }
        FlowsCommand::Rollback {
            flow,
            version,
            replay,
        } => node.post(
            &flow_path(flow, "/rollback"),
            &json!({ "version": version, "replay": replay }),
        )?,
        FlowsCommand::Pause { flow } => node.post(&flow_path(flow, "/pause"), &json!({}))?,
        FlowsCommand::Resume { flow } => node.post(&flow_path(flow, "/resume"), &json!({}))?,
        FlowsCommand::Runs { flow } => node.get(&flow_path(flow, "/runs"))?,
        FlowsCommand::Cancel { run } => node.delete(&format!("/api/v1/runs/{run}"))?,
    };
    if json {
        println!("{answer}");
        return apply::all_started(&answer);
    }
    match command {
        FlowsCommand::List => {
            let columns = [
                "name",
                "state",
                "version",
                "in",
                "out",
                "filtered",
                "dead",
                "lag",
                "watermark",
            ];
            say::list(&answer["flows"], &columns, "cli.no-flows");
        }
        FlowsCommand::Versions { .. } => {
            let columns = ["version", "time", "by", "note"];
            say::list(&answer["versions"], &columns, "cli.no-versions");
        }
        FlowsCommand::Diff { .. } => match answer["diff"].as_str().unwrap_or_default() {
            "" => println!("{}", say::line("cli.no-difference", &[])),
            diff => print!("{diff}"),
        },
        FlowsCommand::Rollback { flow, version, .. } => {
            apply::tell_flows(&answer);
            apply::tell_warnings(&answer);
            apply::all_started(&answer)?;
            println!(
                "{}",
                say::line(
                    "cli.rolled-back",
                    &[("flow", flow.clone()), ("version", version.to_string())]
                )
            );
        }
        FlowsCommand::Pause { flow } => {
            println!("{}", say::line("cli.paused", &[("flow", flow.clone())]))
        }
        FlowsCommand::Resume { flow } => {
            println!("{}", say::line("cli.resumed", &[("flow", flow.clone())]))
        }
        FlowsCommand::Runs { .. } => {
            let columns = [
                "id", "state", "into", "from", "to", "read", "offsets", "rows", "late", "dead",
                "started",
            ];
            say::list(&answer["runs"], &columns, "cli.no-runs");
        }
        FlowsCommand::Cancel { run } => {
            println!(
                "{}",
                say::line("cli.run-cancelled", &[("run", run.to_string())])
            );
        }
    }
    Ok(())
}

/// Shows how a flow runs.
pub fn explain(args: &ExplainArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let plan = node.get(&format!("/api/v1/flows/{}/plan", escape(&args.flow)))?;
    if json {
        println!("{plan}");
        return Ok(());
    }
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let each = |list: &serde_json::Value| list.as_array().cloned().unwrap_or_default();
    for stage in each(&plan["stages"]) {
        let said = ["stage", "reads", "partitions", "tasks"].map(|key| (key, text(&stage[key])));
        println!("{}", say::line("cli.plan-stage", &said));
        for step in each(&stage["steps"]) {
            let mut said = vec![("step", text(&step["step"])), ("kind", text(&step["kind"]))];
            let part = step["part"].as_str().unwrap_or_default();
            said.push(("part", part.to_owned()));
            let case = step["case"].as_str().unwrap_or_default();
            said.push(("case", case.to_owned()));
            let code = match case.is_empty() {
                true => "cli.plan-step",
                false => "cli.plan-step-of-case",
            };
            println!("  {}", say::line(code, &said).trim_end());
            if let Some(table) = step["table"].as_str() {
                let said = [("table", table.to_owned())];
                let code = match step["as_of"] == true {
                    true => "cli.plan-look-up-as-of",
                    false => "cli.plan-look-up",
                };
                println!("    {}", say::line(code, &said));
            }
            if let Some(name) = step["state"].as_str() {
                let bytes = step["state_memory_bytes"].as_u64().unwrap_or(0);
                let said = [("name", name.to_owned()), ("bytes", bytes.to_string())];
                println!("    {}", say::line("cli.plan-state", &said));
            }
        }
        if let Some(cost) = stage["checkpoints"].as_object() {
            let number = |key: &str| cost.get(key).and_then(serde_json::Value::as_f64);
            let said = ["restored_ms", "changes", "commit_ms", "longest_stall_ms"]
                .map(|key| (key, format!("{:.0}", number(key).unwrap_or(0.0))));
            println!("  {}", say::line("cli.plan-checkpoints", &said));
        }
        if let Some(regroup) = stage["regroup"].as_object() {
            let keys: Vec<String> = each(&regroup["keys"]).iter().map(text).collect();
            let partitions = text(&regroup["partitions"]);
            let code = match keys.is_empty() {
                true => "cli.plan-regroup-all",
                false => "cli.plan-regroup",
            };
            let said = [("keys", keys.join(", ")), ("partitions", partitions)];
            println!("  {}", say::line(code, &said));
        }
    }
    for output in each(&plan["outputs"]) {
        let why = match say::language() {
            busbar_event::Language::Zh => &output["why_zh"],
            busbar_event::Language::En => &output["why"],
        };
        let said = [
            ("kind", text(&output["kind"])),
            ("name", text(&output["name"])),
            ("guarantee", text(&output["guarantee"])),
            ("why", text(why)),
        ];
        println!("{}", say::line("cli.plan-output", &said));
    }
    let megabytes = |key: &str| (plan[key].as_u64().unwrap_or(0) >> 20).to_string();
    let said = [
        ("state", megabytes("state_bytes_max")),
        ("batches", megabytes("batches_bytes_max")),
    ];
    println!("{}", say::line("cli.plan-memory", &said));
    Ok(())
}

/// Runs `busbar replay`.
pub fn replay(args: &ReplayArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    if let Some(into) = &args.into {
        return super::bounded::run(args, into, node, json);
    }
    let flow = format!("/api/v1/flows/{}", escape(&args.flow));
    // A replay adds to the counters of before.
    let before = match args.wait {
        true => node.get(&flow)?["in"].as_u64().unwrap_or(0),
        false => 0,
    };
    let answer = node.post(&format!("{flow}/replay"), &json!({ "from": args.from }))?;
    if !json {
        let told = [("flow", args.flow.clone()), ("from", args.from.clone())];
        println!("{}", say::line("cli.replaying", &told));
    }
    if args.wait {
        follow(&args.flow, &flow, before, node, json)?;
    }
    if json {
        println!("{answer}");
    }
    Ok(())
}

/// Waits until a flow has read all its input, of which it had read `before` events when this began. Interrupting the
/// command does not stop the flow.
fn follow(name: &str, path: &str, before: u64, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let progress = say::progress(json, "cli.reading-again");
    let begun = std::time::Instant::now();
    let outcome = loop {
        let flow = match node.get(path) {
            Ok(flow) => flow,
            Err(failure) => break Err(failure),
        };
        let lag = flow["lag"].as_u64().unwrap_or(0);
        let read = flow["in"].as_u64().unwrap_or(0).saturating_sub(before);
        progress.set_length(read + lag);
        progress.set_position(read);
        if lag == 0 {
            break Ok(read);
        }
        if ["paused", "disabled", "stopped"]
            .iter()
            .any(|state| flow["state"] == *state)
        {
            let error = Error::new(Class::Configuration, "cli.replay-stands").with("flow", name);
            let error = error.with("state", say::state(&flow["state"]));
            break Err(Failure::new(exit::FOUND, error));
        }
        std::thread::park_timeout(LOOK);
    };
    progress.finish_and_clear();
    let read = outcome?;
    if !json {
        let seconds = format!("{:.1}", begun.elapsed().as_secs_f64());
        let told = [
            ("flow", name.to_owned()),
            ("count", read.to_string()),
            ("seconds", seconds),
        ];
        println!("{}", say::line("cli.replayed", &told));
    }
    Ok(())
}
