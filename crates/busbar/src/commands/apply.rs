//! `busbar apply`: sends a project to a running node.

use std::path::PathBuf;

use busbar_catalog::{Bundle, has_errors};
use busbar_event::{Class, Error};
use serde_json::{Value, json};

use crate::client::NodeArgs;
use crate::commands::check;
use crate::exit::{self, Failure};
use crate::say;

/// Send a project to a running node.
#[derive(Debug, clap::Args)]
pub struct ApplyArgs {
    /// The project's folder.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Compute a flow again from the oldest event where its new version cannot keep the state of the one before.
    #[arg(long)]
    replay: bool,
    /// A note on what changed, kept with the version.
    #[arg(long)]
    note: Option<String>,
}

/// Checks the files locally, then sends them.
pub fn run(args: &ApplyArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let (_, diagnostics) = check::load(&args.dir);
    if has_errors(&diagnostics) {
        check::tell(&diagnostics, json);
        return Err(check::wrong(exit::FOUND, &diagnostics).answered());
    }
    let (bundle, _) = Bundle::read(&args.dir).map_err(|refused| {
        check::tell(&refused, json);
        check::wrong(exit::FOUND, &refused).answered()
    })?;
    let note = args.note.as_deref().unwrap_or_default();
    let body = json!({
        "files": bundle.files,
        "dry_run": args.dry_run,
        "replay": args.replay,
        "note": note,
    });
    // The node answers when every flow has started or failed to.
    let progress = say::waiting(json, "cli.applying");
    let answer = node.post("/api/v1/apply", &body);
    progress.finish_and_clear();
    let answer = answer?;
    if json {
        println!("{answer}");
    } else {
        for change in list(&answer["changes"]) {
            let meaning = if change["meaning"] == json!(false) {
                say::line("cli.apply-same", &[])
            } else {
                String::new()
            };
            let kind = match change["kind"].as_str() {
                Some("added") => "cli.apply-added",
                Some("removed") => "cli.apply-removed",
                _ => "cli.apply-changed",
            };
            let path = [("path", say::cell(&change["path"]))];
            println!("{}{meaning}", say::line(kind, &path));
        }
        tell_flows(&answer);
        tell_warnings(&answer);
        let code = if args.dry_run {
            "cli.apply-dry"
        } else {
            "cli.applied"
        };
        println!(
            "{}",
            say::line(code, &[("version", say::cell(&answer["version"]))])
        );
    }
    all_started(&answer)
}

/// Prints which flows a deployment could not start, and what to know of those that it did.
pub fn tell_flows(answer: &Value) {
    for (flow, why) in named(&answer["applied"]["failed"]) {
        eprintln!("{flow}: {}", say::told(why));
    }
    for (_, notice) in named(&answer["applied"]["notices"]) {
        eprintln!("{}", say::told(notice));
    }
}

/// Fails when a deployment could not start a flow: its old version goes on, and everything else was applied.
pub fn all_started(answer: &Value) -> Result<(), Failure> {
    match named(&answer["applied"]["failed"]).count() {
        0 => Ok(()),
        count => {
            let error = Error::new(Class::Configuration, "cli.apply-failed").with("count", count);
            Err(Failure::new(exit::FOUND, error).answered())
        }
    }
}

fn named(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// Prints the warnings that a node answered a deployment with, and in which files what runs now differs from the folder
/// that the node runs.
pub fn tell_warnings(answer: &Value) {
    for warning in list(&answer["diagnostics"]) {
        let (file, line, column) = (&warning["file"], &warning["line"], &warning["column"]);
        let file = say::cell(file);
        eprintln!("{file}:{line}:{column}: {}", say::told(warning));
    }
    let differs = list(&answer["differs"]);
    if !differs.is_empty() {
        let names: Vec<_> = differs
            .iter()
            .map(|file| say::cell(&file["path"]))
            .collect();
        let names = [("files", names.join(", "))];
        eprintln!("{}", say::line("cli.applied-differs", &names));
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
