//! `busbar process`: flows in the notation of service buses.

use std::path::{Path, PathBuf};

use busbar_catalog::{Bundle, Kind, Project, flow_file, flow_of, has_errors, process_of};
use busbar_event::{Class, Error};
use serde_json::json;

use super::check;
use crate::exit::{self, Failure};
use crate::say;

/// Write flows as processes in XML, and processes as flows.
#[derive(Debug, clap::Args)]
pub struct ProcessArgs {
    #[command(subcommand)]
    command: ProcessCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ProcessCommand {
    /// Write the flow of a process into a project's folder.
    Import {
        /// The document of the process.
        file: PathBuf,
        /// The project's folder.
        #[arg(long, default_value = ".")]
        dir: PathBuf,
        /// Replace a flow of the same name.
        #[arg(long)]
        force: bool,
    },
    /// Print a flow of a project as a process.
    Export {
        /// The flow.
        name: String,
        /// The project's folder.
        #[arg(long, default_value = ".")]
        dir: PathBuf,
    },
}

/// Runs `busbar process`.
pub fn run(args: &ProcessArgs, json: bool) -> Result<(), Failure> {
    match &args.command {
        ProcessCommand::Import { file, dir, force } => import(file, dir, *force, json),
        ProcessCommand::Export { name, dir } => export(name, dir, json),
    }
}

fn import(file: &Path, dir: &Path, force: bool, json: bool) -> Result<(), Failure> {
    let shown = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|cause| {
        let error = Error::new(Class::Transient, "cli.process-read").with("path", &shown);
        Failure::new(exit::IO, error.caused_by(cause))
    })?;
    let (name, flow) = flow_of(&shown, &text).map_err(|wrong| {
        check::tell(std::slice::from_ref(&wrong), json);
        check::wrong(exit::FOUND, &[wrong]).answered()
    })?;
    let path = dir.join(Kind::Flow.path(&name));
    if path.exists() && !force {
        let error = Error::new(Class::Configuration, "cli.flow-exists");
        return Err(Failure::new(
            exit::CONFIGURATION,
            error.with("path", path.display()),
        ));
    }
    let folder = dir.join(Kind::Flow.folder());
    let written =
        std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, flow_file(&flow)));
    written.map_err(|cause| {
        let error = Error::new(Class::Transient, "cli.process-write").with("path", path.display());
        Failure::new(exit::IO, error.caused_by(cause))
    })?;
    let path = path.display().to_string();
    if json {
        println!("{}", json!({ "file": path }));
    } else {
        println!("{}", say::line("cli.process-imported", &[("path", path)]));
    }
    Ok(())
}

fn export(name: &str, dir: &Path, json: bool) -> Result<(), Failure> {
    let wrong = |bad: &[busbar_catalog::Diagnostic]| {
        check::tell(bad, json);
        check::wrong(exit::FOUND, bad).answered()
    };
    let (bundle, _) = Bundle::read(dir).map_err(|bad| wrong(&bad))?;
    let (project, bad) = Project::parse(bundle);
    if has_errors(&bad) {
        return Err(wrong(&bad));
    }
    let refuse = |error| Failure::new(exit::CONFIGURATION, error);
    let Some(flow) = project.flows.get(name) else {
        return Err(refuse(
            Error::new(Class::Configuration, "flow.unknown").with("flow", name),
        ));
    };
    let xml = process_of(name, &flow.spec).map_err(refuse)?;
    match json {
        true => println!("{}", json!({ "process": xml })),
        false => print!("{xml}"),
    }
    Ok(())
}
