//! `busbar check`: checks a project without running it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use busbar_catalog::{
    Bundle, Config, ConfigSource, Diagnostic, Kind, Project, Severity, has_errors,
};
use busbar_connect::Places;
use busbar_connector::Connectors;
use busbar_event::{Class, Error, Language};

use crate::exit::{self, Failure};
use crate::report::Complaint;
use crate::say;

/// Check a project without running it.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The project's folder.
    #[arg(default_value = ".")]
    dir: PathBuf,
}

/// Checks and prints what is wrong.
pub fn run(args: &CheckArgs, json: bool) -> Result<(), Failure> {
    let (project, diagnostics) = load(&args.dir);
    tell(&diagnostics, json);
    let Some(project) = project.filter(|_| !has_errors(&diagnostics)) else {
        return Err(wrong(exit::FOUND, &diagnostics).answered());
    };
    if !json {
        let comma = match say::language() {
            Language::En => ", ",
            Language::Zh => "，",
        };
        let counts = counts(&project).join(comma);
        println!("{}", say::line("cli.check-passed", &[("counts", counts)]));
    }
    Ok(())
}

/// How many resources of each kind there are; kinds without any are left out, except streams and flows.
fn counts(project: &Project) -> Vec<String> {
    [
        ("cli.count-streams", project.streams.len()),
        ("cli.count-flows", project.flows.len()),
        ("cli.count-tables", project.tables.len()),
        ("cli.count-connections", project.connections.len()),
        ("cli.count-gateways", project.gateways.len()),
        ("cli.count-orchestrations", project.orchestrations.len()),
        ("cli.count-apis", project.apis.len()),
        ("cli.count-plugins", project.plugins.len()),
    ]
    .into_iter()
    .enumerate()
    .filter(|(place, (_, count))| *place < 2 || *count > 0)
    .map(|(_, (code, count))| say::line(code, &[("count", count.to_string())]))
    .collect()
}

/// A project with all diagnostics; `None` when it cannot be read at all.
pub fn load(dir: &Path) -> (Option<Project>, Vec<Diagnostic>) {
    let (bundle, found) = match Bundle::read_partly(dir) {
        Ok(read) => read,
        Err(diagnostics) => return (None, diagnostics),
    };
    let empty = empty(dir, &bundle).filter(|_| !has_errors(&found));
    let (project, mut diagnostics) = Project::parse_beside(bundle, found);
    diagnostics.extend(empty);
    // A mistake that was found before is not told twice.
    let place = |found: &Diagnostic| (found.file().to_owned(), found.span().start);
    let errors = diagnostics
        .iter()
        .filter(|found| found.severity() == Severity::Error);
    let known: BTreeSet<_> = errors.map(place).collect();
    let flows = busbar_flow::check(&project, &connectors(dir)).into_iter();
    diagnostics.extend(flows.filter(|found| !known.contains(&place(found))));
    diagnostics.sort_by_key(place);
    (Some(project), diagnostics)
}

/// An error about a project without files: checking it proves nothing, and applying it would remove everything.
pub fn empty(dir: &Path, bundle: &Bundle) -> Option<Diagnostic> {
    let path = dir.display().to_string();
    let error = Error::new(Class::Configuration, "cli.empty-project").with("path", &path);
    let found = Diagnostic::new(&path, "", 0..0, error);
    bundle.files.is_empty().then_some(found)
}

/// The connectors, with the folders that the settings of a project's folder allow.
pub fn connectors(dir: &Path) -> Connectors {
    let source = ConfigSource {
        file: std::fs::read_to_string(dir.join(Kind::Config.path(""))).ok(),
        env: ConfigSource::environment(),
        flags: Vec::new(),
    };
    // Settings that do not check are reported where the file is read.
    let config = Config::load(&source).map_or_else(|_| Config::default(), |(config, _)| config);
    let allowed = config.files.allow.iter().map(|folder| dir.join(folder));
    busbar_connect::registry_with(&Places::new(allowed))
}

/// Prints diagnostics with the line they are about, or as JSON.
pub fn tell(diagnostics: &[Diagnostic], json: bool) {
    if json {
        println!("{}", serde_json::json!({ "diagnostics": diagnostics }));
        return;
    }
    for diagnostic in diagnostics {
        eprintln!("{}", Complaint::of(diagnostic).drawn());
    }
}

/// The failure of a command whose project has errors; the errors were reported.
pub fn wrong(code: u8, diagnostics: &[Diagnostic]) -> Failure {
    let errors = diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.severity() == Severity::Error)
        .count();
    let error = Error::new(Class::Configuration, "cli.check-failed").with("count", errors);
    Failure::new(code, error)
}
