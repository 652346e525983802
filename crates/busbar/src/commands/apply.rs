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
    /// A word on what changed, kept with the version.
    #[arg(long)]
    note: Option<String>,
}

/// Checks here first, where the files are, then sends.
pub fn run(args: &ApplyArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let (_, diagnostics) = check::load(&args.dir);
    if has_errors(&diagnostics) {
        check::report(&diagnostics, json);
        let error =
            Error::new(Class::Configuration, "cli.check-failed").with("count", diagnostics.len());
        return Err(Failure::new(exit::FOUND, error));
    }
    let bundle = Bundle::read(&args.dir).map_err(|refused| {
        check::report(&refused, json);
        let error =
            Error::new(Class::Configuration, "cli.check-failed").with("count", refused.len());
        Failure::new(exit::FOUND, error)
    })?;
    let body = json!({ "files": bundle.files, "dry_run": args.dry_run, "note": args.note });
    let answer = node.post("/api/v1/apply", &body)?;
    if json {
        println!("{answer}");
    } else {
        for change in answer["changes"].as_array().map_or(&[][..], Vec::as_slice) {
            println!(
                "{}  {}/{}",
                say::cell(&change["change"]),
                say::cell(&change["kind"]),
                say::cell(&change["name"])
            );
        }
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
    let refused = answer["diagnostics"].as_array().map_or(0, Vec::len);
    if answer["applied"] == Value::Bool(false) && !args.dry_run && refused > 0 {
        eprintln!("{:#}", answer["diagnostics"]);
        let error = Error::new(Class::Configuration, "cli.check-failed").with("count", refused);
        return Err(Failure::new(exit::FOUND, error));
    }
    Ok(())
}
