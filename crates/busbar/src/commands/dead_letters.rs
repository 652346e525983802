//! `busbar dead-letters`: what could not be processed, why, and sending it again.

use serde_json::{Value, json};

use crate::client::{NodeArgs, escape};
use crate::exit::Failure;
use crate::say;

/// Inspect dead letters and send them again.
#[derive(Debug, clap::Subcommand)]
pub enum DeadLettersCommand {
    /// Causes, with how many events each has stopped.
    Groups,
    /// The events themselves.
    List {
        /// Only those of this flow.
        #[arg(long)]
        flow: Option<String>,
        /// Only those with this cause.
        #[arg(long)]
        cause: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 20)]
        limit: u64,
    },
    /// Send originals through the present version of their flow again.
    Redrive {
        /// Only those of this flow.
        #[arg(long)]
        flow: Option<String>,
        /// Only those with this cause.
        #[arg(long)]
        cause: Option<String>,
    },
}

/// Asks the node and prints.
pub fn run(command: &DeadLettersCommand, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    match command {
        DeadLettersCommand::Groups => {
            let answer = node.get("/api/v1/dead-letters/groups")?;
            show(
                &answer,
                "groups",
                &["flow", "step", "code", "count", cause_member()],
                json,
            );
        }
        DeadLettersCommand::List { flow, cause, limit } => {
            let mut path = format!("/api/v1/dead-letters?limit={limit}");
            for (name, value) in [("flow", flow), ("cause", cause)] {
                if let Some(value) = value {
                    path.push_str(&format!("&{name}={}", escape(value)));
                }
            }
            show(
                &node.get(&path)?,
                "letters",
                &[
                    "time",
                    "flow",
                    "step",
                    "code",
                    "event.topic",
                    cause_member(),
                    "event.payload",
                ],
                json,
            );
        }
        DeadLettersCommand::Redrive { flow, cause } => {
            let answer = node.post(
                "/api/v1/dead-letters/redrive",
                &json!({ "flow": flow, "cause": cause }),
            )?;
            if json {
                println!("{answer}");
            } else {
                println!(
                    "{}",
                    say::line("cli.redriven", &[("count", say::cell(&answer["redriven"]))])
                );
            }
        }
    }
    Ok(())
}

fn show(answer: &Value, name: &str, columns: &[&str], json: bool) {
    if json {
        println!("{answer}");
        return;
    }
    let list = answer
        .as_array()
        .or_else(|| answer[name].as_array())
        .map_or(&[][..], Vec::as_slice);
    if list.is_empty() {
        println!("{}", say::line("cli.no-dead-letters", &[]));
        return;
    }
    let head: Vec<String> = columns
        .iter()
        .map(|name| name.rsplit('.').next().unwrap_or(name).to_owned())
        .collect();
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|letter| {
            columns
                .iter()
                .map(|name| say::cell(name.split('.').fold(letter, |value, key| &value[key])))
                .collect()
        })
        .collect();
    print!("{}", say::table(&head, &rows));
}

/// The member that holds the cause in the reader's language.
fn cause_member() -> &'static str {
    match say::language() {
        busbar_event::Language::Zh => "cause_zh",
        busbar_event::Language::En => "cause",
    }
}
