//! `busbar check`: everything that can be said about a project without running it.

use std::path::{Path, PathBuf};

use busbar_catalog::{Bundle, Diagnostic, Kind, Project, Severity, has_errors, schema};
use busbar_event::{Class, Error};

use crate::exit::{self, Failure};
use crate::{report, say};

/// Check a project without running it.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The project's folder.
    #[arg(default_value = ".")]
    dir: PathBuf,
}

/// Print the JSON Schema of a kind of file, for editors.
#[derive(Debug, clap::Args)]
pub struct SchemaArgs {
    /// The kind of file.
    #[arg(value_parser = ["config", "stream", "flow", "table", "connection"])]
    kind: String,
}

/// Checks and prints what is wrong.
pub fn run(args: &CheckArgs, json: bool) -> Result<(), Failure> {
    let (project, diagnostics) = load(&args.dir);
    tell(&diagnostics, json);
    let Some(project) = project.filter(|_| !has_errors(&diagnostics)) else {
        return Err(wrong(exit::FOUND, &diagnostics).answered());
    };
    if !json {
        let counts = [
            ("streams", project.streams.len().to_string()),
            ("flows", project.flows.len().to_string()),
            ("tables", project.tables.len().to_string()),
            ("connections", project.connections.len().to_string()),
        ];
        println!("{}", say::line("cli.check-passed", &counts));
    }
    Ok(())
}

/// A project with everything there is to say about it; `None` when it cannot be read at all.
pub fn load(dir: &Path) -> (Option<Project>, Vec<Diagnostic>) {
    let bundle = match Bundle::read(dir) {
        Ok(bundle) => bundle,
        Err(diagnostics) => return (None, diagnostics),
    };
    let empty = bundle.files.is_empty();
    let (project, mut diagnostics) = Project::parse(bundle);
    if empty {
        let path = dir.display().to_string();
        let error = Error::new(Class::Configuration, "cli.empty-project").with("path", &path);
        diagnostics.push(Diagnostic::new(&path, "", 0..0, error).warning());
    }
    if !has_errors(&diagnostics) {
        diagnostics.extend(busbar_flow::check(&project, &busbar_connect::registry()));
    }
    (Some(project), diagnostics)
}

/// Prints diagnostics with the line they are about, or as JSON.
pub fn tell(diagnostics: &[Diagnostic], json: bool) {
    if json {
        println!("{}", serde_json::json!({ "diagnostics": diagnostics }));
        return;
    }
    for diagnostic in diagnostics {
        eprintln!("{}", report::draw(&diagnostic.printed(say::language())));
    }
}

/// How a command ends when a project is wrong; what is wrong was reported.
pub fn wrong(code: u8, diagnostics: &[Diagnostic]) -> Failure {
    let errors = diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.severity() == Severity::Error)
        .count();
    let error = Error::new(Class::Configuration, "cli.check-failed").with("count", errors);
    Failure::new(code, error)
}

/// Prints a schema.
pub fn print_schema(args: &SchemaArgs) {
    let kind = match args.kind.as_str() {
        "config" => Kind::Config,
        "stream" => Kind::Stream,
        "flow" => Kind::Flow,
        "table" => Kind::Table,
        _ => Kind::Connection,
    };
    println!("{:#}", schema::schema(kind));
}
