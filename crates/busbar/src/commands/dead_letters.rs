//! `busbar dead-letters`: what could not be processed, why, and sending it again.

use clap_complete::ArgValueCandidates;
use serde_json::{Value, json};

use crate::client::{NodeArgs, escape};
use crate::exit::Failure;
use crate::{complete, say};

/// Inspect dead letters and send them again.
#[derive(Debug, clap::Args)]
pub struct DeadLettersArgs {
    #[command(subcommand)]
    command: Option<DeadLettersCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum DeadLettersCommand {
    /// Causes, with how many events each has stopped.
    Groups,
    /// The events themselves, the newest first; the same as without a command.
    List(ListArgs),
    /// Everything about one dead letter.
    Inspect {
        /// The letter's id, as `list` shows it.
        #[arg(add = ArgValueCandidates::new(complete::dead_letters))]
        id: String,
    },
    /// Send originals through the present version of their flow again.
    Redrive {
        /// Only those with these ids.
        #[arg(add = ArgValueCandidates::new(complete::dead_letters))]
        ids: Vec<String>,
        /// Only those of this flow.
        #[arg(long, add = ArgValueCandidates::new(complete::flows))]
        flow: Option<String>,
        /// Only those with this cause, by its code.
        #[arg(long)]
        cause: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only those of this flow.
    #[arg(long, add = ArgValueCandidates::new(complete::flows))]
    flow: Option<String>,
    /// Only those with this cause, by its code.
    #[arg(long)]
    cause: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = LETTERS)]
    limit: u64,
}

/// Letters that are listed when nobody says how many.
const LETTERS: u64 = 20;

/// Asks the node and prints.
pub fn run(args: &DeadLettersArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let all = DeadLettersCommand::List(ListArgs {
        flow: None,
        cause: None,
        limit: LETTERS,
    });
    match args.command.as_ref().unwrap_or(&all) {
        DeadLettersCommand::Groups => {
            let answer = node.get("/api/v1/dead-letters/groups")?;
            show(
                &answer,
                "groups",
                &["flow", "step", "code", "count", cause_member()],
                json,
            );
        }
        DeadLettersCommand::List(ListArgs { flow, cause, limit }) => {
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
                    "id",
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
        DeadLettersCommand::Inspect { id } => {
            let letter = node.get(&format!("/api/v1/dead-letters/{}", escape(id)))?;
            if json {
                println!("{letter}");
            } else {
                print!("{}", whole(&letter));
            }
        }
        DeadLettersCommand::Redrive { ids, flow, cause } => {
            let ids = (!ids.is_empty()).then_some(ids);
            // It answers when all are through, which may take a while.
            let progress = say::waiting(json, "cli.redriving");
            let answer = node.post(
                "/api/v1/dead-letters/redrive",
                &json!({ "ids": ids, "flow": flow, "cause": cause }),
            );
            progress.finish_and_clear();
            let answer = answer?;
            if json {
                println!("{answer}");
            } else {
                println!(
                    "{}",
                    say::line("cli.redriven", &[("count", say::cell(&answer["redriven"]))])
                );
                for (name, code) in [
                    ("died", "cli.redriven-died"),
                    ("orphaned", "cli.redriven-orphaned"),
                ] {
                    if answer[name].as_u64().is_some_and(|count| count > 0) {
                        println!(
                            "{}",
                            say::line(code, &[("count", say::cell(&answer[name]))])
                        );
                    }
                }
            }
        }
    }
    Ok(())
}

/// A letter as lines of name and value; the payload stands last, and whole.
fn whole(letter: &Value) -> String {
    let event = &letter["event"];
    let place = format!(
        "{}/{}@{}",
        say::cell(&letter["stream"]),
        say::cell(&letter["partition"]),
        say::cell(&letter["offset"])
    );
    let mut rows: Vec<Vec<String>> = vec![
        vec!["id".to_owned(), say::cell(&letter["id"])],
        vec!["time".to_owned(), say::cell(&letter["time"])],
        vec!["flow".to_owned(), say::cell(&letter["flow"])],
        vec!["step".to_owned(), say::cell(&letter["step"])],
        vec!["code".to_owned(), say::cell(&letter["code"])],
        vec!["cause".to_owned(), say::cell(&letter[cause_member()])],
        vec!["redriven".to_owned(), say::cell(&letter["redriven"])],
        vec!["event".to_owned(), place],
        vec!["topic".to_owned(), say::cell(&event["topic"])],
        vec!["key".to_owned(), say::cell(&event["key"])],
        vec!["event-time".to_owned(), say::cell(&event["time"])],
    ];
    for (name, value) in event["tags"].as_object().into_iter().flatten() {
        let tag = say::line("cli.tag", &[("name", say::cell(&name.as_str().into()))]);
        rows.push(vec![tag, say::cell(value)]);
    }
    let payload = if event["payload"].is_null() {
        &event["payload_base64"]
    } else {
        &event["payload"]
    };
    rows.push(vec!["payload".to_owned(), say::cell(payload)]);
    rows.retain(|row| !row[1].is_empty());
    for row in &mut rows {
        row[0] = say::heading(&row[0]);
    }
    let head = [String::new(), String::new()];
    let table = say::table(&head, &rows);
    table.trim_start_matches('\n').to_owned()
}

fn show(answer: &Value, name: &str, columns: &[&str], json: bool) {
    if json {
        println!("{answer}");
    } else {
        say::list(&answer[name], columns, "cli.no-dead-letters");
    }
}

/// The member that holds the cause in the reader's language.
fn cause_member() -> &'static str {
    match say::language() {
        busbar_event::Language::Zh => "cause_zh",
        busbar_event::Language::En => "cause",
    }
}
