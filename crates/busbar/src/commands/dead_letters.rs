//! `busbar dead-letters`: events that could not be processed, why, and re-driving, editing and discarding them.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use busbar_event::{Class, Error};
use clap_complete::ArgValueCandidates;
use serde_json::{Value, json};

use crate::client::{NodeArgs, escape};
use crate::exit::{self, Failure};
use crate::{complete, say};

/// Inspect dead letters, send them again, edit or discard them.
#[derive(Debug, clap::Args)]
pub struct DeadLettersArgs {
    #[command(subcommand)]
    command: Option<DeadLettersCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum DeadLettersCommand {
    /// Causes, with the number of open letters of each.
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
    /// Send one dead letter through its flow again, with another payload.
    Edit {
        /// The letter's id, as `list` shows it.
        #[arg(add = ArgValueCandidates::new(complete::dead_letters))]
        id: String,
        /// The new payload, as text.
        #[arg(
            long,
            value_name = "TEXT",
            required_unless_present = "file",
            conflicts_with = "file"
        )]
        payload: Option<String>,
        /// A file with the new payload, byte for byte; `-` for standard input.
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Close dead letters without sending them again.
    Discard {
        /// Only those with these ids.
        #[arg(add = ArgValueCandidates::new(complete::dead_letters), required_unless_present_any = ["flow", "cause"])]
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
    /// Closed ones too: re-driven, edited or discarded.
    #[arg(long)]
    closed: bool,
    /// Most letters to print.
    #[arg(long, default_value_t = LETTERS)]
    limit: u64,
}

/// Letters that are printed by default.
const LETTERS: u64 = 20;

/// Asks the node and prints.
pub fn run(args: &DeadLettersArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let all = DeadLettersCommand::List(ListArgs {
        flow: None,
        cause: None,
        closed: false,
        limit: LETTERS,
    });
    match args.command.as_ref().unwrap_or(&all) {
        DeadLettersCommand::Groups => {
            let mut answer = node.get("/api/v1/dead-letters/groups")?;
            if !json {
                mark_newest(&mut answer["groups"]);
            }
            show(
                &answer,
                "groups",
                &["flow", "step", "code", "count", cause_member()],
                json,
            );
        }
        DeadLettersCommand::List(ListArgs {
            flow,
            cause,
            closed,
            limit,
        }) => {
            let mut path = format!("/api/v1/dead-letters?limit={limit}&closed={closed}");
            for (name, value) in [("flow", flow), ("cause", cause)] {
                if let Some(value) = value {
                    path.push_str(&format!("&{name}={}", escape(value)));
                }
            }
            let answer = node.get(&path)?;
            let mut columns = vec![
                "id",
                "time",
                "flow",
                "step",
                "code",
                "event.topic",
                cause_member(),
                "event.payload",
            ];
            if *closed {
                columns.insert(1, "state");
            }
            show(&answer, "letters", &columns, json);
            let letters = answer["letters"].as_array().map_or(0, Vec::len) as u64;
            let events = answer["events"].as_u64().unwrap_or(letters);
            if !json && events < letters {
                let told = [
                    ("letters", letters.to_string()),
                    ("events", events.to_string()),
                ];
                println!("{}", say::line("cli.letters-of-events", &told));
            }
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
            // The node answers when all are sent, which may take a while.
            let progress = say::waiting(json, "cli.redriving");
            let answer = node.post(
                "/api/v1/dead-letters/redrive",
                &json!({ "ids": ids, "flow": flow, "cause": cause }),
            );
            progress.finish_and_clear();
            redriven(&answer?, json);
        }
        DeadLettersCommand::Edit { id, payload, file } => {
            let body = match (payload, file) {
                (Some(text), _) => json!({ "payload_text": text }),
                (None, file) => {
                    let bytes = read(file.as_deref().unwrap_or(Path::new("-")))?;
                    json!({ "payload_base64": STANDARD.encode(bytes) })
                }
            };
            let path = format!("/api/v1/dead-letters/{}/redrive", escape(id));
            redriven(&node.post(&path, &body)?, json);
        }
        DeadLettersCommand::Discard { ids, flow, cause } => {
            let ids = (!ids.is_empty()).then_some(ids);
            let answer = node.post(
                "/api/v1/dead-letters/discard",
                &json!({ "ids": ids, "flow": flow, "cause": cause }),
            )?;
            if json {
                println!("{answer}");
            } else {
                let count = say::cell(&answer["discarded"]);
                println!("{}", say::line("cli.discarded", &[("count", count)]));
            }
        }
    }
    Ok(())
}

/// Prints the outcome of a re-drive.
fn redriven(answer: &Value, json: bool) {
    if json {
        println!("{answer}");
        return;
    }
    println!(
        "{}",
        say::line("cli.redriven", &[("count", say::cell(&answer["redriven"]))])
    );
    for (name, code) in [
        ("died", "cli.redriven-died"),
        ("orphaned", "cli.redriven-orphaned"),
        ("refused", "cli.redriven-refused"),
    ] {
        if answer[name].as_u64().is_some_and(|count| count > 0) {
            println!(
                "{}",
                say::line(code, &[("count", say::cell(&answer[name]))])
            );
        }
    }
    if answer["cause"].is_object() {
        println!("{}", say::told(&answer["cause"]));
    }
}

/// Says of causes that are those of one letter of many, where others name something else.
fn mark_newest(groups: &mut Value) {
    for group in groups.as_array_mut().into_iter().flatten() {
        if group["varies"] == true {
            let args = [
                ("count", say::cell(&group["total"])),
                ("cause", say::cell(&group[cause_member()])),
            ];
            group[cause_member()] = say::line("cli.newest-of", &args).into();
        }
    }
}

/// The bytes of a file, or of standard input for `-`.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let done = match path == Path::new("-") {
        true => std::io::stdin().read_to_end(&mut bytes).map(drop),
        false => std::fs::read(path).map(|read| bytes = read),
    };
    done.map_err(|why| {
        let error =
            Error::new(Class::Configuration, "cli.cannot-read").with("path", path.display());
        Failure::new(exit::IO, error.caused_by(why))
    })?;
    Ok(bytes)
}

/// Names in a list of an answer, one behind the other.
fn names(list: &Value) -> String {
    let names = list.as_array().into_iter().flatten().map(say::cell);
    names.collect::<Vec<_>>().join(", ")
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
        vec!["state".to_owned(), say::state(&letter["state"])],
        vec!["closed_by".to_owned(), say::cell(&letter["closed_by"])],
        vec!["closed_at".to_owned(), say::cell(&letter["closed_at"])],
        vec!["also_in".to_owned(), names(&letter["also_in"])],
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
