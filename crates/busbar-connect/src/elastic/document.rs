//! Rows as actions on documents.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use busbar_catalog::TemplatePart;
use busbar_connector::Delivery;
use busbar_event::format::{encode_json, write_json_text};
use busbar_event::{Class, Error};
use serde_json::value::RawValue;

use super::limits::{ID_BYTES_MAX, MERGE_CONFLICTS_MAX};
use super::{ElasticMode, ElasticWrite, template};
use crate::cells::TextCells;
use crate::change::{Op, kept};

/// How rows become actions.
pub struct DocumentPlan {
    index: Vec<NamePart>,
    id: Vec<NamePart>,
    mode: ElasticMode,
    /// The places of the columns that are fields of the document.
    fields: Vec<usize>,
    change: Option<usize>,
    unchanged: Option<usize>,
    version: Option<(usize, String)>,
}

enum NamePart {
    Literal(String),
    /// The place of a column, and its name.
    Column(usize, String),
}

/// What is done with one row.
#[derive(Clone, Debug)]
pub struct DocumentAction {
    pub row: usize,
    pub index: String,
    pub id: String,
    pub verb: ElasticMode,
    /// Whether the row says its version.
    pub versioned: bool,
    /// The lines of the request.
    pub lines: Vec<u8>,
}

/// A delivery as actions.
#[derive(Debug, Default)]
pub struct DocumentActions {
    pub all: Vec<DocumentAction>,
    /// The documents that there are go first.
    pub truncate: bool,
    pub rejected: Vec<(usize, Error)>,
}

impl DocumentPlan {
    /// # Errors
    /// *Configuration*: a column that the flow does not make.
    pub fn new(options: &ElasticWrite, schema: &SchemaRef) -> Result<DocumentPlan, Error> {
        let place = |option: &'static str, column: &str| {
            schema.index_of(column).map_err(|_| {
                let there: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                Error::new(Class::Configuration, "elastic.flow-column")
                    .with("option", option)
                    .with("column", column)
                    .with("there", there.join(", "))
            })
        };
        let parts = |option: &'static str, text: &str| {
            let template = template(text)?;
            let parts = template.parts().iter().map(|part| match part {
                TemplatePart::Literal(text) => Ok(NamePart::Literal(text.to_string())),
                TemplatePart::Variable { variable, .. } => {
                    let name = variable.name().into_owned();
                    Ok(NamePart::Column(place(option, &name)?, name))
                }
            });
            parts.collect::<Result<Vec<_>, Error>>()
        };
        let special = |option, column: &Option<String>| {
            let column = column.as_deref();
            column.map(|column| place(option, column)).transpose()
        };
        let change = special("change", &options.change)?;
        let unchanged = special("unchanged", &options.unchanged)?;
        let version = special("version", &options.version)?.zip(options.version.clone());
        let fields = 0..schema.fields().len();
        Ok(DocumentPlan {
            index: parts("index", &options.index)?,
            id: parts("id", &options.id)?,
            mode: options.mode,
            fields: fields
                .filter(|at| Some(*at) != change && Some(*at) != unchanged)
                .collect(),
            change,
            unchanged,
            version,
        })
    }

    /// The actions of a delivery, and the rows of which none can be made.
    ///
    /// # Errors
    /// *Configuration*: columns whose type does not fit.
    pub fn actions(&self, delivery: &Delivery) -> Result<DocumentActions, Error> {
        let rows = &delivery.rows;
        let index = cells(&self.index, delivery)?;
        let id = cells(&self.id, delivery)?;
        let texts = |place: Option<usize>| {
            let column = place.map(|at| cast(rows.column(at), &DataType::Utf8));
            column.transpose().map_err(|why| {
                Error::new(Class::Configuration, "connect.change-type").caused_by(why)
            })
        };
        let (change, unchanged) = (texts(self.change)?, texts(self.unchanged)?);
        let text = |column: &Option<ArrayRef>, row: usize| {
            let column = column.as_ref().filter(|column| column.is_valid(row));
            column.map(|column| column.as_string::<i32>().value(row).to_owned())
        };
        let version = match &self.version {
            None => None,
            Some((at, name)) => {
                let column = rows.column(*at);
                if !column.data_type().is_integer() {
                    return Err(Error::new(Class::Configuration, "elastic.version-type")
                        .with("column", name)
                        .with("type", column.data_type()));
                }
                let numbers = cast(column, &DataType::Int64).map_err(|why| {
                    Error::new(Class::Configuration, "elastic.version-type")
                        .with("column", name)
                        .with("type", column.data_type())
                        .caused_by(why)
                })?;
                Some((numbers, name))
            }
        };
        let schema = rows.schema();
        let fields: arrow::datatypes::Fields = self
            .fields
            .iter()
            .map(|at| std::sync::Arc::clone(&schema.fields()[*at]))
            .collect();
        let columns: Vec<ArrayRef> = self
            .fields
            .iter()
            .map(|at| std::sync::Arc::clone(rows.column(*at)))
            .collect();
        let documents = match columns.is_empty() {
            true => encode_json(&StructArray::new_empty_fields(rows.num_rows(), None)),
            false => encode_json(&StructArray::new(fields, columns, None)),
        };
        let mut actions = DocumentActions::default();
        for row in 0..rows.num_rows() {
            let op = match (&change, self.mode) {
                (None, ElasticMode::Delete) => Ok(Op::Delete),
                (None, _) => Ok(Op::Upsert),
                (Some(_), _) => Op::of(&text(&change, row).unwrap_or_default()),
            };
            let op = match op {
                Ok(op) => op,
                Err(error) => {
                    actions.rejected.push((row, error));
                    continue;
                }
            };
            match op {
                Op::Nothing => continue,
                Op::Truncate => {
                    // What came before it would go with it.
                    actions.all.clear();
                    actions.truncate = true;
                    continue;
                }
                _ => {}
            }
            let kept = text(&unchanged, row).map(|text| kept(&text));
            let kept = kept.unwrap_or_default();
            let verb = match (op, self.mode) {
                (Op::Delete, _) => ElasticMode::Delete,
                (_, ElasticMode::Create) => ElasticMode::Create,
                (_, ElasticMode::Merge) => ElasticMode::Merge,
                _ if !kept.is_empty() => ElasticMode::Merge,
                _ => ElasticMode::Replace,
            };
            let made = name_of(&index, row).and_then(|index| {
                let id = name_of(&id, row)?;
                check_id(&id)?;
                let version = match &version {
                    None => None,
                    Some((numbers, _)) if numbers.is_valid(row) => {
                        let number = numbers.as_primitive::<Int64Type>().value(row);
                        if number < 0 {
                            let error = Error::new(Class::Permanent, "elastic.version-negative");
                            return Err(error.with("version", number));
                        }
                        Some(number)
                    }
                    Some((_, name)) => {
                        let error = Error::new(Class::Permanent, "connect.key-null");
                        return Err(error.with("column", name));
                    }
                };
                let mut lines = Vec::new();
                head(verb, &index, &id, version, &mut lines);
                match verb {
                    ElasticMode::Delete => {}
                    ElasticMode::Replace | ElasticMode::Create => {
                        lines.extend_from_slice(documents.value(row));
                        lines.push(b'\n');
                    }
                    ElasticMode::Merge => {
                        self.merge(delivery, row, documents.value(row), &kept, &mut lines);
                    }
                }
                Ok(DocumentAction {
                    row,
                    index,
                    id,
                    verb,
                    versioned: version.is_some(),
                    lines,
                })
            });
            match made {
                Ok(action) => actions.all.push(action),
                Err(error) => actions.rejected.push((row, error)),
            }
        }
        Ok(actions)
    }

    /// The line of a merged document: its fields without those that are kept. Fields without a value are written as `null`,
    /// for the server keeps those that are not named.
    fn merge(
        &self,
        delivery: &Delivery,
        row: usize,
        document: &[u8],
        kept: &[String],
        out: &mut Vec<u8>,
    ) {
        let fields: BTreeMap<String, &RawValue> = match kept.is_empty() {
            true => BTreeMap::new(),
            false => serde_json::from_slice(document).unwrap_or_default(),
        };
        out.extend_from_slice(b"{\"doc\":{");
        let mut first = true;
        let mut separate = |out: &mut Vec<u8>| {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
        };
        if kept.is_empty() {
            let inner = &document[1..document.len().saturating_sub(1)];
            if !inner.is_empty() {
                separate(out);
                out.extend_from_slice(inner);
            }
        }
        for (name, value) in fields {
            if kept.contains(&name) {
                continue;
            }
            separate(out);
            write_json_text(&name, out);
            out.push(b':');
            out.extend_from_slice(value.get().as_bytes());
        }
        let schema = delivery.rows.schema();
        for at in &self.fields {
            let name = schema.field(*at).name();
            if delivery.rows.column(*at).is_null(row) && !kept.contains(name) {
                separate(out);
                write_json_text(name, out);
                out.extend_from_slice(b":null");
            }
        }
        out.extend_from_slice(b"},\"doc_as_upsert\":true}\n");
    }
}

/// The first line of an action.
fn head(verb: ElasticMode, index: &str, id: &str, version: Option<i64>, out: &mut Vec<u8>) {
    out.extend_from_slice(match verb {
        ElasticMode::Replace => b"{\"index\":{\"_index\":".as_slice(),
        ElasticMode::Create => b"{\"create\":{\"_index\":",
        ElasticMode::Merge => b"{\"update\":{\"_index\":",
        ElasticMode::Delete => b"{\"delete\":{\"_index\":",
    });
    write_json_text(index, out);
    out.extend_from_slice(b",\"_id\":");
    write_json_text(id, out);
    if let Some(version) = version {
        let text = format!(",\"version\":{version},\"version_type\":\"external_gte\"");
        out.extend_from_slice(text.as_bytes());
    }
    if verb == ElasticMode::Merge {
        let text = format!(",\"retry_on_conflict\":{MERGE_CONFLICTS_MAX}");
        out.extend_from_slice(text.as_bytes());
    }
    out.extend_from_slice(b"}}\n");
}

/// The parts of a name, with the columns that are in it.
type Cells<'a> = Vec<(&'a NamePart, Option<TextCells>)>;

fn cells<'a>(parts: &'a [NamePart], delivery: &Delivery) -> Result<Cells<'a>, Error> {
    let cells = parts.iter().map(|part| match part {
        NamePart::Literal(_) => Ok((part, None)),
        NamePart::Column(at, name) => {
            let cells = TextCells::new(name, delivery.rows.column(*at))?;
            Ok((part, Some(cells)))
        }
    });
    cells.collect()
}

fn name_of(cells: &Cells<'_>, row: usize) -> Result<String, Error> {
    let mut name = Vec::new();
    for (part, cells) in cells {
        match (part, cells) {
            (NamePart::Column(_, column), Some(cells)) => match cells.get(row) {
                Some(value) => name.extend_from_slice(&value),
                None => {
                    let error = Error::new(Class::Permanent, "connect.key-null");
                    return Err(error.with("column", column));
                }
            },
            (NamePart::Literal(text), _) => name.extend_from_slice(text.as_bytes()),
            (NamePart::Column(..), None) => {}
        }
    }
    String::from_utf8(name).map_err(|why| {
        let shown = String::from_utf8_lossy(why.as_bytes()).into_owned();
        Error::new(Class::Permanent, "connect.not-text")
            .with("payload", busbar_event::quote(&shown))
    })
}

fn check_id(id: &str) -> Result<(), Error> {
    match id.len() {
        0 => Err(Error::new(Class::Permanent, "elastic.id-empty")),
        1..=ID_BYTES_MAX => Ok(()),
        bytes => Err(Error::new(Class::Permanent, "elastic.id-long")
            .with("bytes", bytes)
            .with("most", ID_BYTES_MAX)),
    }
}
