//! What a flow means: unchanged, it is not deployed anew.

use std::collections::BTreeMap;

use busbar_catalog::{FlowSpec, Kind, OutputTarget, Parsed, Project, StepSpec, canonical};

/// What a flow means, with everything it names.
pub(super) fn meaning(project: &Project, parsed: &Parsed<FlowSpec>) -> serde_json::Value {
    let spec = &parsed.spec;
    let mut named = BTreeMap::new();
    let stream = |name: &String| {
        project.streams.get(name).map(|s| {
            let mut json = canonical(Kind::Stream, &s.spec);
            if let Some(map) = json.as_object_mut() {
                // How long events are kept changes nothing for those who read them.
                map.remove("retention");
            }
            json
        })
    };
    for name in spec.streams() {
        named.insert(format!("stream/{name}"), stream(name));
    }
    let table = |name: &String| {
        let table = project.tables.get(name);
        table.map(|table| canonical(Kind::Table, &table.spec))
    };
    for name in spec.read_tables() {
        named.insert(format!("table/{name}"), table(name));
        if let Some((connection, _)) = name.split_once('.') {
            let connection = project.connections.get(connection);
            let json = connection.map(|c| canonical(Kind::Connection, &c.spec));
            named.insert(format!("database/{name}"), json);
        }
    }
    for output in &spec.to {
        let (key, json) = match &output.target {
            OutputTarget::Stream { stream: name, .. } => (format!("stream/{name}"), stream(name)),
            OutputTarget::Topic(_) | OutputTarget::Relay(_) => continue,
            OutputTarget::Table(name) => (format!("table/{name}"), table(name)),
            OutputTarget::Connection(name) => {
                let connection = project.connections.get(name);
                let json = connection.map(|c| canonical(Kind::Connection, &c.spec));
                (format!("connection/{name}"), json)
            }
        };
        named.insert(key, json);
    }
    for step in spec.all_steps() {
        if let Some(name) = step.spec.plugin() {
            let plugin = project.plugins.get(name);
            let json = plugin.map(|plugin| plugin.spec.hash().into());
            named.insert(format!("plugin/{name}"), json);
        }
        let (key, json) = match step.spec {
            StepSpec::Call(call) => {
                let name = &call.connection;
                let connection = project.connections.get(name);
                let json = connection.map(|c| canonical(Kind::Connection, &c.spec));
                (format!("connection/{name}"), json)
            }
            _ => continue,
        };
        named.insert(key, json);
    }
    serde_json::json!({ "flow": canonical(Kind::Flow, spec), "names": named })
}
