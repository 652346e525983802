//! Reads a project from a folder or a bundle and checks it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use busbar_bus::StreamSpec;
use busbar_event::tags::{RELAY_TO, STORE};
use busbar_event::{Class, Error};
use busbar_plugin::{Package, PluginSpec};
use busbar_table::TableSpec;

use crate::api::ApiSpec;
use crate::bundle::{Bundle, Kind};
use crate::config::Config;
use crate::connection::ConnectionSpec;
use crate::diagnostic::{Diagnostic, Severity, has_errors};
use crate::flow::FlowSpec;
use crate::flow_names::check_names;
use crate::gateway::GatewaySpec;
use crate::limits::{
    DIAGNOSTICS_MAX, EXPRESSION_BYTES_MAX, FLOW_INPUTS_MAX, FLOW_OUTPUTS_MAX, FLOW_STEPS_ALL_MAX,
    FLOW_STEPS_MAX, ROUTE_CASES_MAX, ROUTE_DEPTH_MAX,
};
use crate::orchestration::OrchestrationSpec;
use crate::project::{Parsed, Project};
use crate::step::{ANY, StepSpec};
use crate::topology::check_topology;
use crate::tree::{PathItem, Source};

impl Project {
    /// Reads a project's folder and checks fields and topology.
    ///
    /// # Errors
    /// Everything that is wrong, ordered by file and place.
    pub fn load(dir: &Path) -> Result<Project, Vec<Diagnostic>> {
        let (project, diagnostics) = Project::parse(Bundle::read(dir)?.0);
        if has_errors(&diagnostics) {
            Err(diagnostics)
        } else {
            Ok(project)
        }
    }

    /// Reads a bundle. What could be read is in the project; what could not, in the diagnostics, which hold
    /// warnings too. All files are checked, but what names a resource that could not be read is not wrong for that:
    /// one mistyped key does not make a stream "unknown" in ten other places.
    pub fn parse(bundle: Bundle) -> (Project, Vec<Diagnostic>) {
        Project::parse_beside(bundle, Vec::new())
    }

    /// As [`Project::parse`], where some files could not be read from the disk: `bad` says which and why, and is part of
    /// the diagnostics.
    pub fn parse_beside(bundle: Bundle, mut bad: Vec<Diagnostic>) -> (Project, Vec<Diagnostic>) {
        let mut project = Project::default();
        for diagnostic in bad
            .iter()
            .filter(|found| found.severity() == Severity::Error)
        {
            project.unread.add(diagnostic.file());
        }
        if let Err(error) = bundle.check_size() {
            bad.push(Diagnostic::new("", "", 0..0, error));
            return (project, bad);
        }
        for (path, text) in &bundle.files {
            // A plug-in or connection without one of its files is not the one that was written.
            let of = Bundle::classify(path);
            if of.is_ok_and(|(kind, name)| project.unread.contains(kind, name)) {
                continue;
            }
            if let Err(diagnostic) = project.add(path, text, &bundle) {
                project.unread.add(path);
                bad.push(diagnostic);
            }
        }
        let mut found = lonely_files(&project, &bundle);
        for (name, stream) in &project.streams {
            let table = stream.spec.store.as_ref();
            let table = table.and_then(|table| project.tables.get(table));
            match tag_flow(name, &stream.spec, table.map(|table| &table.spec)) {
                Some(Ok((flow, parsed))) => drop(project.flows.insert(flow, parsed)),
                Some(Err(diagnostic)) => bad.push(diagnostic),
                None => {}
            }
        }
        project.bundle = bundle;
        found.extend(check_topology(&project));
        found.retain(|found| !project.unread.explains(found));
        bad.extend(found);
        bad.sort_by(|a, b| (a.file(), a.span().start).cmp(&(b.file(), b.span().start)));
        bad.truncate(DIAGNOSTICS_MAX);
        (project, bad)
    }

    fn add(&mut self, path: &str, text: &str, bundle: &Bundle) -> Result<(), Diagnostic> {
        let (kind, name) =
            Bundle::classify(path).map_err(|e| Diagnostic::new(path, text, 0..0, e))?;
        if kind == Kind::Config {
            return Config::check_file(text);
        }
        if kind.is_part(path) {
            // It belongs to the file of the plug-in or connection.
            return Ok(());
        }
        let source = Source::parse(path, text)?;
        let name = name.to_owned();
        let twice = match kind {
            Kind::Stream => insert(&mut self.streams, name, source.read()?, source),
            Kind::Table => insert(&mut self.tables, name, source.read()?, source),
            Kind::Connection => {
                let mut spec = ConnectionSpec::read(&source)?;
                spec.files = Arc::new(files_of(kind, &name, bundle));
                insert(&mut self.connections, name, spec, source)
            }
            Kind::Gateway => {
                let spec: GatewaySpec = source.read()?;
                spec.check(&source)?;
                insert(&mut self.gateways, name, spec, source)
            }
            Kind::Flow => {
                let spec: FlowSpec = source.read()?;
                check_flow(&spec, &source)?;
                insert(&mut self.flows, name, spec, source)
            }
            Kind::Orchestration => {
                let spec: OrchestrationSpec = source.read()?;
                spec.check(&source)?;
                insert(&mut self.orchestrations, name, spec, source)
            }
            Kind::Api => {
                let spec: ApiSpec = source.read()?;
                spec.check(&source)?;
                insert(&mut self.apis, name, spec, source)
            }
            Kind::Plugin => {
                let package = read_plugin(name.as_str(), &source, bundle)?;
                insert(&mut self.plugins, name, package, source)
            }
            Kind::Config => None,
        };
        match twice {
            None => Ok(()),
            // `a.yaml` and `a.yml`.
            Some(source) => Err(source.diagnostic(
                &[],
                None,
                Error::new(Class::Configuration, "catalog.twice").with("path", path),
            )),
        }
    }
}

/// The flow that relays and stores the events of a stream as their tags say, where its file asks for that. Rows in a table
/// whose file names no columns say where and when the event was published, too.
fn tag_flow(
    stream: &str,
    spec: &StreamSpec,
    stored_in: Option<&TableSpec>,
) -> Option<Result<(String, Parsed<FlowSpec>), Diagnostic>> {
    if !spec.relay && spec.store.is_none() {
        return None;
    }
    let mut text = format!("from: {stream}\nsteps:\n- route:\n    match: all\n    cases:\n");
    let mut to = String::new();
    if spec.relay {
        text += &format!(
            "    - {{ name: relay, when: {{ tags: {{ '{RELAY_TO}*': {ANY} }} }}, to: [relay] }}\n"
        );
        to += "- { relay: tags, name: relay }\n";
    }
    if let Some(table) = &spec.store {
        let steps = match (&spec.schema, stored_in) {
            (Some(schema), Some(table)) if table.columns.is_empty() && table.wide.is_none() => {
                let fields = schema.0.iter().map(|field| field.name.as_str());
                let columns = ["topic", "time"].into_iter().chain(fields);
                let columns = columns.map(|name| format!("\"{}\"", name.replace('"', "\"\"")));
                let columns: Vec<String> = columns.collect();
                let select = serde_json::json!([{ "select": columns.join(", ") }]);
                format!("steps: {select}, ")
            }
            _ => String::new(),
        };
        text += &format!(
            "    - {{ name: store, when: {{ tags: {{ {STORE}: {ANY} }} }}, {steps}to: [store] }}\n"
        );
        to += &format!("- {{ table: {}, name: store }}\n", serde_json::json!(table));
    }
    text += &format!("to:\n{to}");
    let parsed = Source::parse(&format!("streams/{stream}.yaml"), &text)
        .and_then(|source| Ok((source.read()?, source)));
    Some(parsed.map(|(spec, source)| (format!("{stream}.tags"), Parsed { spec, source })))
}

fn insert<T>(
    map: &mut BTreeMap<String, Parsed<T>>,
    name: String,
    spec: T,
    source: Source,
) -> Option<Source> {
    map.insert(name, Parsed { spec, source })
        .map(|old| old.source)
}

/// A plug-in with the files of its folder.
fn read_plugin(name: &str, source: &Source, bundle: &Bundle) -> Result<Package, Diagnostic> {
    let spec: PluginSpec = source.read()?;
    spec.check()
        .map_err(|(key, error)| source.diagnostic_about(Some(key), error))?;
    let mut files = files_of(Kind::Plugin, name, bundle);
    files.remove(Kind::PLUGIN_FILE);
    Ok(Package { spec, files })
}

/// The files in the folder of a resource, by their paths within it.
fn files_of(kind: Kind, name: &str, bundle: &Bundle) -> BTreeMap<String, String> {
    let folder = format!("{}/{name}/", kind.folder());
    let files = bundle.files.range(folder.clone()..);
    let files = files.map_while(|(path, text)| Some((path.strip_prefix(&folder)?, text)));
    files
        .map(|(file, text)| (file.to_owned(), text.clone()))
        .collect()
}

/// Files in folders of plug-ins and connections without a file that says what the plug-in or connection is.
fn lonely_files(project: &Project, bundle: &Bundle) -> Vec<Diagnostic> {
    let mut told = BTreeSet::new();
    let mut bad = Vec::new();
    for path in bundle.files.keys() {
        let Ok((kind, name)) = Bundle::classify(path) else {
            continue;
        };
        let (code, is_known) = match kind {
            Kind::Plugin => ("catalog.plugin-file", project.plugins.contains_key(name)),
            Kind::Connection => (
                "catalog.connection-alone",
                project.connections.contains_key(name)
                    || bundle
                        .files
                        .contains_key(&format!("connections/{name}.yml")),
            ),
            _ => continue,
        };
        let own = kind.path(name);
        let is_known = is_known || !kind.is_part(path) || bundle.files.contains_key(&own);
        if !is_known && told.insert((kind, name)) {
            let error = Error::new(Class::Configuration, code).with("file", own);
            bad.push(Diagnostic::new(path, "", 0..0, error));
        }
    }
    bad
}

/// What the types of a flow's fields do not say.
pub(crate) fn check_flow(spec: &FlowSpec, source: &Source) -> Result<(), Diagnostic> {
    let count = |key: &str, found: usize, least: usize, most: usize| {
        if (least..=most).contains(&found) {
            return Ok(());
        }
        let error = Error::new(Class::Configuration, "catalog.count")
            .with("key", key)
            .with("found", found)
            .with("least", least)
            .with("most", most);
        Err(source.diagnostic(&[key.into()], None, error))
    };
    count("from", spec.from.len(), 1, FLOW_INPUTS_MAX)?;
    count("steps", spec.steps.len(), 0, FLOW_STEPS_MAX)?;
    count("to", spec.to.len(), 1, FLOW_OUTPUTS_MAX)?;
    let steps = spec.all_steps();
    let nested =
        |path: &[PathItem<'_>]| path.iter().filter(|item| **item == "cases".into()).count();
    for (number, at) in steps.iter().enumerate() {
        let (code, most) = match at.spec {
            _ if number >= FLOW_STEPS_ALL_MAX => ("catalog.steps-many", FLOW_STEPS_ALL_MAX),
            _ if nested(&at.path) > ROUTE_DEPTH_MAX => ("catalog.route-deep", ROUTE_DEPTH_MAX),
            StepSpec::Route(route) if route.cases.len() > ROUTE_CASES_MAX => {
                ("catalog.route-cases", ROUTE_CASES_MAX)
            }
            _ => continue,
        };
        let error = Error::new(Class::Configuration, code).with("most", most);
        return Err(source.diagnostic(&at.path, None, error));
    }
    for at in &steps {
        let step = at.spec;
        for (place, text) in step.texts() {
            let code = match text {
                _ if text.len() > EXPRESSION_BYTES_MAX => "catalog.expression-too-long",
                _ if text.trim().is_empty() => "catalog.expression-empty",
                _ => continue,
            };
            let path = [&at.path[..], &place[..]].concat();
            let error = Error::new(Class::Configuration, code)
                .with("kind", step.kind())
                .with("bytes_max", EXPRESSION_BYTES_MAX);
            return Err(source.diagnostic(&path, None, error));
        }
    }
    for (i, name) in spec.from.iter().enumerate() {
        if spec.from[..i].contains(name) {
            let error = Error::new(Class::Configuration, "catalog.from-twice").with("stream", name);
            return Err(source.diagnostic(&["from".into(), i.into()], None, error));
        }
    }
    check_names(spec, source)?;
    let mut joined: Vec<&String> = Vec::new();
    for (_, below, join) in spec.joins() {
        let path = |key: &'static str| [&below[..], &[key.into()]].concat();
        if join.on.is_empty() {
            let error = Error::new(Class::Configuration, "catalog.join-on");
            return Err(source.diagnostic(&path("on"), None, error));
        }
        let Some(stream) = &join.stream else { continue };
        if joined.contains(&stream) {
            let error =
                Error::new(Class::Configuration, "catalog.join-twice").with("stream", stream);
            return Err(source.diagnostic(&path("stream"), None, error));
        }
        joined.push(stream);
    }
    count("from", spec.streams().count(), 1, FLOW_INPUTS_MAX)?;
    Ok(())
}
