//! `busbar schema`: JSON Schemas of files, and XML Schemas of rows and columns.

use std::path::{Path, PathBuf};

use busbar_catalog::{
    Bundle, Kind, Project, columns_of_xsd, has_errors, schema, table_columns, xsd_of,
};
use busbar_event::format::{FieldSpec, FormatSpec, SchemaSpec};
use busbar_event::{Class, Error, quote};
use serde_json::json;

use super::check;
use crate::exit::{self, Failure};
use crate::say;

/// Print JSON Schemas of files and XML Schemas of rows, or read columns from one.
#[derive(Debug, clap::Args)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
pub struct SchemaArgs {
    /// The kind of file.
    #[arg(required = true, value_parser = ["config", "stream", "flow", "table", "connection", "gateway", "orchestration", "api", "plugin"])]
    kind: Option<String>,
    #[command(subcommand)]
    command: Option<SchemaCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum SchemaCommand {
    /// Print the XML Schema of the rows of a stream or table.
    Xsd {
        /// The stream or table.
        name: String,
        /// The project's folder.
        #[arg(long, default_value = ".")]
        dir: PathBuf,
        /// The table, where a stream has the same name.
        #[arg(long)]
        table: bool,
        /// The root element; without it the name of the stream or table.
        #[arg(long)]
        root: Option<String>,
        /// The namespace of the elements.
        #[arg(long)]
        namespace: Option<String>,
    },
    /// Print the columns of a stream whose payloads fit an XML Schema.
    Columns {
        /// The schema's file. What it includes must lie in its folder.
        file: PathBuf,
        /// The root element of the documents, where the schema declares several.
        #[arg(long)]
        root: Option<String>,
        /// Levels of elements that become columns; what is deeper is kept as JSON.
        #[arg(long)]
        depth: Option<usize>,
    },
}

/// Runs `busbar schema`.
pub fn run(args: &SchemaArgs, json: bool) -> Result<(), Failure> {
    match &args.command {
        None => {
            print_kind(args.kind.as_deref().unwrap_or_default());
            Ok(())
        }
        Some(SchemaCommand::Xsd {
            name,
            dir,
            table,
            root,
            namespace,
        }) => {
            let rows = rows(name, dir, *table, json)?;
            let root = root.as_deref().unwrap_or(name);
            let xsd = xsd_of(
                root,
                namespace.as_deref(),
                rows.within.as_deref(),
                &rows.columns,
            )
            .map_err(|error| Failure::new(exit::CONFIGURATION, error))?;
            match json {
                true => println!("{}", json!({ "xsd": xsd })),
                false => print!("{xsd}"),
            }
            Ok(())
        }
        Some(SchemaCommand::Columns { file, root, depth }) => {
            columns(file, root.as_deref(), *depth, json)
        }
    }
}

fn print_kind(kind: &str) {
    let kind = match kind {
        "config" => Kind::Config,
        "stream" => Kind::Stream,
        "flow" => Kind::Flow,
        "table" => Kind::Table,
        "gateway" => Kind::Gateway,
        "orchestration" => Kind::Orchestration,
        "api" => Kind::Api,
        "plugin" => Kind::Plugin,
        _ => Kind::Connection,
    };
    println!("{:#}", schema::schema(kind));
}

/// The columns of rows, and where they begin in a document.
struct RowColumns {
    columns: Vec<FieldSpec>,
    within: Option<String>,
}

fn rows(name: &str, dir: &Path, is_table: bool, json: bool) -> Result<RowColumns, Failure> {
    let wrong = |bad: &[busbar_catalog::Diagnostic]| {
        check::tell(bad, json);
        check::wrong(exit::FOUND, bad).answered()
    };
    let (bundle, _) = Bundle::read(dir).map_err(|bad| wrong(&bad))?;
    let (project, bad) = Project::parse(bundle);
    if has_errors(&bad) {
        return Err(wrong(&bad));
    }
    let refuse = |code| {
        let error = Error::new(Class::Configuration, code).with("name", quote(name));
        Failure::new(exit::CONFIGURATION, error)
    };
    if let Some(stream) = project.streams.get(name).filter(|_| !is_table) {
        let spec = &stream.spec;
        let mut columns = spec
            .schema
            .clone()
            .ok_or_else(|| refuse("xsd.no-columns"))?
            .0;
        let mut within = None;
        match &spec.format {
            FormatSpec::Xml(options) => within.clone_from(&options.root),
            // As the step `xml` writes them: paths in other formats are none in XML.
            _ => columns.iter_mut().for_each(|column| column.path = None),
        }
        return Ok(RowColumns { columns, within });
    }
    let table = project
        .tables
        .get(name)
        .ok_or_else(|| refuse("xsd.no-rows"))?;
    if table.spec.columns.is_empty() {
        return Err(refuse("xsd.no-columns"));
    }
    Ok(RowColumns {
        columns: table_columns(&table.spec),
        within: None,
    })
}

fn columns(
    file: &Path,
    root: Option<&str>,
    depth: Option<usize>,
    json: bool,
) -> Result<(), Failure> {
    let found = columns_of_xsd(file, root, depth)
        .map_err(|error| Failure::new(exit::CONFIGURATION, error))?;
    let language = say::language();
    let remarks = found.remarks.iter().map(|(path, error)| {
        let path = match path.is_empty() {
            true => found.root.as_str(),
            false => path,
        };
        (path, error)
    });
    if json {
        let remarks = remarks.map(|(path, error)| {
            json!({ "path": path, "code": error.code(), "message": error.message(language) })
        });
        let remarks: Vec<_> = remarks.collect();
        println!(
            "{}",
            json!({ "root": found.root, "format": "xml", "schema": found.schema, "remarks": remarks })
        );
        return Ok(());
    }
    print!("{}", stream_file(&found.schema));
    for (path, error) in remarks {
        println!("# {path}: {}", error.message(language));
    }
    Ok(())
}

/// Format and columns as a stream's file has them.
fn stream_file(schema: &SchemaSpec) -> String {
    let mut out = String::from("format: xml\n");
    if schema.0.is_empty() {
        out.push_str("schema: []\n");
        return out;
    }
    out.push_str("schema:\n");
    for column in &schema.0 {
        let name = quoted(&column.name);
        let field_type = column.field_type.as_str();
        let mut more = String::new();
        if let Some(path) = &column.path {
            more.push_str(&format!(", path: {}", quoted(path)));
        }
        if column.required {
            more.push_str(", required: true");
        }
        match more.is_empty() {
            true => out.push_str(&format!("  {name}: {field_type}\n")),
            false => out.push_str(&format!("  {name}: {{ type: {field_type}{more} }}\n")),
        }
    }
    out
}

/// A text of YAML, in quotation marks unless it is a plain word.
fn quoted(text: &str) -> String {
    const TAKEN: [&str; 8] = ["true", "false", "null", "yes", "no", "on", "off", "y"];
    let is_word = text.starts_with(|letter: char| letter.is_ascii_alphabetic())
        && text
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || "_.".contains(letter))
        && !TAKEN.contains(&text.to_ascii_lowercase().as_str());
    match is_word && text.len() > 1 {
        true => text.to_owned(),
        false => json!(text).to_string(),
    }
}
