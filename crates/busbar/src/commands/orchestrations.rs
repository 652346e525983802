//! `busbar orchestrations`: the orchestrations of a node and their instances.

use busbar_event::{Class, Error, Language};
use clap_complete::ArgValueCandidates;
use serde_json::{Value, json};

use crate::client::{NodeArgs, escape};
use crate::exit::{self, Failure};
use crate::{complete, say};

/// List orchestrations, start their instances, look at them, and let them go on.
#[derive(Debug, clap::Args)]
pub struct OrchestrationsArgs {
    #[command(subcommand)]
    command: Option<OrchestrationsCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum OrchestrationsCommand {
    /// List all orchestrations; the same as without a command.
    List,
    /// List the instances of an orchestration, the newest first.
    Instances {
        /// The orchestration.
        #[arg(add = ArgValueCandidates::new(complete::orchestrations))]
        orchestration: String,
        /// Only those that are running, failing, undoing, stuck, done, failed or cancelled.
        #[arg(long)]
        status: Option<String>,
        /// Only those whose business key begins with this.
        #[arg(long)]
        key: Option<String>,
        /// So many at most.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show an instance with its history.
    Show {
        #[command(flatten)]
        of: InstanceArgs,
    },
    /// Start an instance, or find the one that has the key already.
    Start {
        /// The orchestration.
        #[arg(add = ArgValueCandidates::new(complete::orchestrations))]
        orchestration: String,
        /// The input, as JSON.
        #[arg(long, default_value = "{}")]
        input: String,
        /// Wait so long for the end, such as 30s.
        #[arg(long)]
        wait: Option<String>,
    },
    /// Undo what an instance has done, and end it.
    Cancel {
        #[command(flatten)]
        of: InstanceArgs,
    },
    /// Try again what is stuck, or begin again what has failed or was cancelled.
    Retry {
        #[command(flatten)]
        of: InstanceArgs,
    },
    /// Leave undone what cannot be undone, and go on with the rest.
    Skip {
        #[command(flatten)]
        of: InstanceArgs,
    },
    /// Begin no further part of an instance.
    Pause {
        #[command(flatten)]
        of: InstanceArgs,
    },
    /// Let a paused instance go on.
    Resume {
        #[command(flatten)]
        of: InstanceArgs,
    },
    /// Fill in the form of a part that waits for a person, or say what an event would have said.
    Answer {
        #[command(flatten)]
        of: InstanceArgs,
        /// The part that waits.
        part: String,
        /// The values, as JSON.
        #[arg(long, default_value = "{}")]
        values: String,
    },
}

#[derive(Debug, clap::Args)]
struct InstanceArgs {
    /// The orchestration.
    #[arg(add = ArgValueCandidates::new(complete::orchestrations))]
    orchestration: String,
    /// The business key of the instance.
    instance: String,
}

impl InstanceArgs {
    fn path(&self) -> String {
        let (name, key) = (escape(&self.orchestration), escape(&self.instance));
        format!("/api/v1/orchestrations/{name}/instances/{key}")
    }
}

/// Runs `busbar orchestrations`.
pub fn run(args: &OrchestrationsArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    use OrchestrationsCommand as Command;
    let command = args.command.as_ref().unwrap_or(&Command::List);
    let order = |of: &InstanceArgs, order| node.post(&of.path(), &json!({ "order": order }));
    let instances = |name: &str| format!("/api/v1/orchestrations/{}/instances", escape(name));
    let mut answer = match command {
        Command::List => node.get("/api/v1/orchestrations")?,
        Command::Instances {
            orchestration,
            status,
            key,
            limit,
        } => {
            let mut path = format!("{}?limit={limit}", instances(orchestration));
            for (name, value) in [("status", status), ("key", key)] {
                if let Some(value) = value {
                    path += &format!("&{name}={}", escape(value));
                }
            }
            node.get(&path)?
        }
        Command::Show { of } => node.get(&of.path())?,
        Command::Start {
            orchestration,
            input,
            wait,
        } => {
            let body = json!({ "input": object(input, "--input")?, "wait": wait });
            node.post(&instances(orchestration), &body)?
        }
        Command::Cancel { of } => order(of, "cancel")?,
        Command::Retry { of } => order(of, "retry")?,
        Command::Skip { of } => order(of, "skip")?,
        Command::Pause { of } => order(of, "pause")?,
        Command::Resume { of } => order(of, "resume")?,
        Command::Answer { of, part, values } => {
            let values = object(values, "--values")?;
            let body = json!({ "order": "answer", "part": part, "values": values });
            node.post(&of.path(), &body)?
        }
    };
    if json {
        println!("{answer}");
        return Ok(());
    }
    match command {
        Command::List => {
            for one in answer["orchestrations"]
                .as_array_mut()
                .into_iter()
                .flatten()
            {
                for status in STATUSES {
                    one[status] = one["instances"][status].clone();
                }
            }
            let columns = [&["name"], &STATUSES[..]].concat();
            say::list(&answer["orchestrations"], &columns, "cli.no-orchestrations");
        }
        Command::Instances { .. } => {
            for one in answer["instances"].as_array_mut().into_iter().flatten() {
                one["part"] = joined(&one["at"]).into();
                one["why"] = why(&one["failure"]);
            }
            let columns = ["key", "status", "part", "started", "changed", "why"];
            say::list(&answer["instances"], &columns, "cli.no-instances");
        }
        Command::Start { .. } => {
            println!(
                "{} {}",
                say::cell(&answer["key"]),
                say::cell(&answer["status"])
            );
            if let Some(message) = why(&answer["failure"]).as_str() {
                println!("{message}");
            }
            if !answer["answer"].is_null() {
                println!("{:#}", answer["answer"]);
            }
        }
        _ => show(&mut answer),
    }
    Ok(())
}

const STATUSES: [&str; 7] = [
    "running",
    "failing",
    "undoing",
    "stuck",
    "done",
    "failed",
    "cancelled",
];

/// Why an instance or a part has failed, in the reader's language; what was recorded in English alone stays so.
fn why(failure: &Value) -> Value {
    let own = &failure["message_zh"];
    match say::language() {
        Language::Zh if own.is_string() => own.clone(),
        _ => failure["message"].clone(),
    }
}

fn joined(list: &Value) -> String {
    let items = list.as_array().into_iter().flatten();
    let items: Vec<_> = items.filter_map(Value::as_str).collect();
    items.join(" ")
}

fn show(answer: &mut Value) {
    println!(
        "{} {}",
        say::cell(&answer["key"]),
        say::cell(&answer["status"])
    );
    if let Some(message) = why(&answer["failure"]).as_str() {
        println!("{message}");
    }
    println!("{:#}", answer["values"]);
    for record in answer["history"].as_array_mut().into_iter().flatten() {
        record["part"] = record["place"].clone();
        record["why"] = why(&record["failure"]);
    }
    let columns = [
        "number", "time", "what", "part", "before", "after", "by", "why",
    ];
    say::list(&answer["history"], &columns, "cli.no-instances");
}

fn object(text: &str, flag: &str) -> Result<Value, Failure> {
    match serde_json::from_str::<Value>(text) {
        Ok(value) if value.is_object() => Ok(value),
        _ => {
            let error = Error::new(Class::Configuration, "cli.not-an-object")
                .with("flag", flag)
                .with("example", r#"{"order_id": "17"}"#);
            Err(Failure::new(exit::USAGE, error))
        }
    }
}
