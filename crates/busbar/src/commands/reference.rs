//! `busbar reference`: writes the pages of `docs/reference` from the specs that the program itself
//! reads: command line, settings, files of a project, connectors, REST API.

use std::fmt::Write as _;
use std::path::PathBuf;

use busbar_catalog::{Kind, schema};
use busbar_event::{Class, Error, Language};
use clap::Command;
use serde_json::{Map, Value};

use crate::exit::{self, Failure};
use crate::help;

/// Write the reference pages, made from this program's own specs.
#[derive(Debug, clap::Args)]
pub struct ReferenceArgs {
    /// The folder to write to.
    dir: PathBuf,
}

/// Writes all pages.
pub fn run(args: &ReferenceArgs, program: &Command) -> Result<(), Failure> {
    let pages = [
        ("commands.md", commands(program, Language::En)),
        ("commands.zh-CN.md", commands(program, Language::Zh)),
        ("settings.md", settings()),
        ("files.md", files()),
        ("connections.md", connections()),
        ("api.md", api()),
        ("openapi.json", openapi()),
    ];
    for (name, text) in pages {
        let path = args.dir.join(name);
        let written = std::fs::create_dir_all(&args.dir).and_then(|()| std::fs::write(&path, text));
        written.map_err(|why| {
            let error =
                Error::new(Class::Configuration, "cli.cannot-write").with("path", path.display());
            Failure::new(exit::IO, error.caused_by(why))
        })?;
    }
    Ok(())
}

const MADE: &str =
    "<!-- Made by `busbar reference docs/reference` from the program's own specs. -->\n";

fn commands(program: &Command, language: Language) -> String {
    let title = match language {
        Language::En => "Commands",
        Language::Zh => "命令",
    };
    let mut text = format!("{MADE}\n# {title}\n");
    let mut program = help::in_language(program.clone(), language);
    program.build();
    command(&mut program, "", &mut text);
    text
}

fn command(program: &mut Command, before: &str, text: &mut String) {
    let name = format!("{before}{}", program.get_name());
    let help = program
        .clone()
        .term_width(100)
        .render_long_help()
        .to_string();
    let _ = write!(text, "\n## `{name}`\n\n```text\n{}\n```\n", help.trim_end());
    let below: Vec<_> = program
        .get_subcommands()
        .filter(|c| c.get_name() != "help" && !c.is_hide_set())
        .cloned()
        .collect();
    for mut each in below {
        command(&mut each, &format!("{name} "), text);
    }
}

fn settings() -> String {
    let schema = schema::schema(Kind::Config);
    let mut text = format!(
        "{MADE}\n# Settings\n\nEach setting stands in `busbar.toml` as `[section] key`, or in the environment as \
         `BUSBAR_<SECTION>_<KEY>`. Flags win over environment, environment over file.\n"
    );
    let defaults = serde_json::to_value(busbar_catalog::Config::default()).unwrap_or_default();
    for (section, spec) in object(&schema["properties"]) {
        let spec = resolve(&schema, spec);
        let _ = write!(
            text,
            "\n## `[{section}]`\n\n| key | environment | default | |\n| --- | --- | --- | --- |\n"
        );
        for (key, field) in object(&spec["properties"]) {
            let variable = format!("BUSBAR_{}_{}", section.to_uppercase(), key.to_uppercase());
            let default = &defaults[section][key];
            let default = if default.is_null() {
                String::new()
            } else {
                format!("`{}`", plain(default))
            };
            let _ = writeln!(
                text,
                "| `{key}` | `{variable}` | {default} | {} |",
                one_line(field)
            );
        }
    }
    text
}

fn files() -> String {
    let mut text = format!(
        "{MADE}\n# Files of a project\n\nOne directory is a project, a file is a resource, its name is the file's \
         name. `busbar schema KIND` prints the JSON Schema of a kind, for editors.\n"
    );
    for (kind, title) in [
        (Kind::Stream, "streams/NAME.yaml"),
        (Kind::Flow, "flows/NAME.yaml"),
        (Kind::Orchestration, "orchestrations/NAME.yaml"),
        (Kind::Api, "apis/NAME.yaml"),
        (Kind::Table, "tables/NAME.yaml"),
        (Kind::Connection, "connections/NAME.yaml"),
        (Kind::Gateway, "gateways/NAME.yaml"),
        (Kind::Plugin, "plugins/NAME/plugin.yaml"),
    ] {
        let schema = schema::schema(kind);
        let _ = write!(text, "\n## `{title}`\n\n{}\n\n", paragraph(&schema));
        fields(&schema, &schema, &mut text);
        for (name, definition) in object(&schema["$defs"]) {
            if definition["properties"].is_object() {
                let _ = write!(text, "\n### {name}\n\n{}\n\n", paragraph(definition));
                fields(&schema, definition, &mut text);
            } else if let Some(choices) = choices(definition) {
                let _ = write!(
                    text,
                    "\n### {name}\n\n{}\n\n{choices}\n",
                    paragraph(definition)
                );
            }
        }
    }
    text
}

fn connections() -> String {
    let registry = busbar_connect::registry();
    let mut text =
        format!("{MADE}\n# Connections\n\nThe one key of a connection's file names its kind.\n");
    for kind in registry.kinds() {
        let Some(connector) = registry.get(kind) else {
            continue;
        };
        let schema = connector.schema();
        let _ = write!(text, "\n## `{kind}`\n\n{}\n\n", paragraph(&schema));
        fields(&schema, &schema, &mut text);
    }
    text
}

/// The description of the REST API, with its members in order so that differences can be read.
fn openapi() -> String {
    let document: Value = serde_json::from_str(&busbar_server::openapi()).unwrap_or_default();
    let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
    text.push('\n');
    text
}

fn api() -> String {
    let document: Value = serde_json::from_str(&busbar_server::openapi()).unwrap_or_default();
    let mut text = format!(
        "{MADE}\n# REST API\n\nThe console and the command line use exactly this. A running node serves the same as \
         OpenAPI at `/api/openapi.json`.\n\n| | path | |\n| --- | --- | --- |\n"
    );
    for (path, methods) in object(&document["paths"]) {
        for (method, operation) in object(methods) {
            let summary = operation["summary"]
                .as_str()
                .or_else(|| operation["description"].as_str());
            let summary = summary
                .unwrap_or_default()
                .lines()
                .next()
                .unwrap_or_default();
            let _ = writeln!(text, "| {} | `{path}` | {summary} |", method.to_uppercase());
        }
    }
    text
}

fn fields(root: &Value, spec: &Value, text: &mut String) {
    if !spec["properties"].is_object() {
        return;
    }
    let required = spec["required"].as_array().map_or(&[][..], Vec::as_slice);
    text.push_str("| key | type | default | |\n| --- | --- | --- | --- |\n");
    for (key, field) in object(&spec["properties"]) {
        let default = match &field["default"] {
            Value::Null if required.contains(&Value::from(key.as_str())) => "required".to_owned(),
            Value::Null => String::new(),
            value => format!("`{}`", plain(value)),
        };
        let about = if field["description"].is_string() {
            one_line(field)
        } else {
            one_line(resolve(root, field))
        };
        let _ = writeln!(
            text,
            "| `{key}` | {} | {default} | {about} |",
            kind_of(field)
        );
    }
}

/// What a field may hold, in words.
fn kind_of(field: &Value) -> String {
    if let Some(name) = field["$ref"]
        .as_str()
        .and_then(|path| path.rsplit('/').next())
    {
        return name.to_owned();
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        if let Some(parts) = field[key].as_array() {
            let mut names: Vec<_> = parts
                .iter()
                .map(kind_of)
                .filter(|name| name != "null")
                .collect();
            names.dedup();
            return names.join(" or ");
        }
    }
    if let Some(values) = field["enum"].as_array() {
        return values
            .iter()
            .map(|value| format!("`{}`", plain(value)))
            .collect::<Vec<_>>()
            .join(", ");
    }
    match &field["type"] {
        Value::String(kind) if kind == "array" => format!("list of {}", kind_of(&field["items"])),
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => kinds
            .iter()
            .filter_map(Value::as_str)
            .filter(|k| *k != "null")
            .collect::<Vec<_>>()
            .join(" or "),
        _ if field["const"].is_string() => format!("`{}`", plain(&field["const"])),
        _ => "any".to_owned(),
    }
}

fn choices(definition: &Value) -> Option<String> {
    let parts = definition["oneOf"]
        .as_array()
        .or_else(|| definition["anyOf"].as_array())?;
    let mut text = String::new();
    for part in parts {
        let name = match part["const"].as_str() {
            Some(name) => format!("`{name}`"),
            None => object(&part["properties"])
                .map(|(key, _)| format!("`{key}:`"))
                .collect::<Vec<_>>()
                .join(", "),
        };
        let name = if name.is_empty() { kind_of(part) } else { name };
        let _ = writeln!(text, "- {name} {}", one_line(part));
    }
    Some(text)
}

fn resolve<'a>(root: &'a Value, spec: &'a Value) -> &'a Value {
    match spec["$ref"]
        .as_str()
        .and_then(|path| path.strip_prefix('#'))
    {
        Some(pointer) => root.pointer(pointer).unwrap_or(spec),
        None => spec,
    }
}

fn paragraph(spec: &Value) -> String {
    spec["description"]
        .as_str()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn one_line(spec: &Value) -> String {
    paragraph(spec).replace('\n', " ").replace('|', "\\|")
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}
