//! `busbar flows` and `busbar replay`: what runs, its versions, and where it reads.

use serde_json::{Value, json};

use crate::client::{NodeArgs, escape};
use crate::exit::Failure;
use crate::say;

/// List flows, compare and roll back their versions, pause and resume them.
#[derive(Debug, clap::Subcommand)]
pub enum FlowsCommand {
    /// All flows with their counters.
    List,
    /// The versions of a flow.
    Versions {
        /// The flow.
        flow: String,
    },
    /// What changed between two versions of a flow.
    Diff {
        /// The flow.
        flow: String,
        /// The older version.
        from: u64,
        /// The newer version.
        to: u64,
    },
    /// Deploy an earlier version again.
    Rollback {
        /// The flow.
        flow: String,
        /// The version to return to.
        version: u64,
    },
    /// Stop a flow where it stands.
    Pause {
        /// The flow.
        flow: String,
    },
    /// Let a paused flow go on.
    Resume {
        /// The flow.
        flow: String,
    },
}

/// Read a flow's input again from an earlier place.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// The flow.
    flow: String,
    /// Where to begin: earliest, latest, or an RFC 3339 time.
    #[arg(long, default_value = "earliest")]
    from: String,
}

/// Asks the node and prints.
pub fn run(command: &FlowsCommand, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let flow_path = |flow: &str, rest: &str| format!("/api/v1/flows/{}{rest}", escape(flow));
    let answer = match command {
        FlowsCommand::List => node.get("/api/v1/flows")?,
        FlowsCommand::Versions { flow } => node.get(&flow_path(flow, "/versions"))?,
        FlowsCommand::Diff { flow, from, to } => {
            node.get(&flow_path(flow, &format!("/diff?from={from}&to={to}")))?
        }
        FlowsCommand::Rollback { flow, version } => node.post(
            &flow_path(flow, "/rollback"),
            &json!({ "version": version }),
        )?,
        FlowsCommand::Pause { flow } => node.post(&flow_path(flow, "/pause"), &json!({}))?,
        FlowsCommand::Resume { flow } => node.post(&flow_path(flow, "/resume"), &json!({}))?,
    };
    if json {
        println!("{answer}");
        return Ok(());
    }
    match command {
        FlowsCommand::List => print!(
            "{}",
            listing(
                &answer,
                "flows",
                &[
                    "name", "state", "version", "in", "out", "filtered", "dead", "lag"
                ]
            )
        ),
        FlowsCommand::Versions { .. } => print!(
            "{}",
            listing(&answer, "versions", &["version", "time", "by", "note"])
        ),
        FlowsCommand::Diff { .. } => print!("{}", answer["diff"].as_str().unwrap_or_default()),
        FlowsCommand::Rollback { flow, version } => {
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
    }
    Ok(())
}

/// Sets a flow's cursor back.
pub fn replay(args: &ReplayArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let path = format!("/api/v1/flows/{}/replay", escape(&args.flow));
    let answer = node.post(&path, &json!({ "from": args.from }))?;
    if json {
        println!("{answer}");
    } else {
        let args = [("flow", args.flow.clone()), ("from", args.from.clone())];
        println!("{}", say::line("cli.replaying", &args));
    }
    Ok(())
}

/// Columns of a list of objects; a dot in a column's name goes one level down.
fn listing(answer: &Value, name: &str, columns: &[&str]) -> String {
    let list = answer
        .as_array()
        .or_else(|| answer[name].as_array())
        .map_or(&[][..], Vec::as_slice);
    let head: Vec<String> = columns
        .iter()
        .map(|column| column.rsplit('.').next().unwrap_or(column).to_owned())
        .collect();
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|entry| {
            let at = |column: &str| column.split('.').fold(entry, |value, key| &value[key]);
            columns.iter().map(|column| say::cell(at(column))).collect()
        })
        .collect();
    say::table(&head, &rows)
}
