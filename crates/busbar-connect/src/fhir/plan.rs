//! Rows as requests: which resource each makes, and what is done with it.

use arrow::array::{RecordBatch, StructArray};
use arrow::datatypes::{Field, Fields, SchemaRef};
use busbar_catalog::TemplatePart;
use busbar_connector::{Delivery, Escape};
use busbar_event::format::{
    FhirWriter, JsonParts, encode_json, is_fhir_id, json_unquote, write_json_text,
};
use busbar_event::{Class, Error, quote};

use super::limits::MATCH_BYTES_MAX;
use super::page::text_of;
use super::{FhirMode, FhirWrite, template};
use crate::cells::TextCells;
use crate::change::Op;

/// How rows become requests.
pub struct FhirPlan {
    mode: FhirMode,
    resource_type: Option<String>,
    id: Option<Vec<Part>>,
    matches: Option<Vec<Part>>,
    change: Option<usize>,
    if_match: Option<(usize, String)>,
    /// The columns that the resource is made of, where it is not the payload.
    made: Option<(FhirWriter, Vec<usize>)>,
}

enum Part {
    Literal(String),
    /// The place of a column, and its name.
    Column(usize, String),
}

/// What is done with one row.
#[derive(Debug)]
pub struct FhirAction {
    pub row: usize,
    pub method: &'static str,
    /// Behind the base address.
    pub path: String,
    /// Only where no resource has these parameters.
    pub if_none_exist: Option<String>,
    /// Only where the resource has this version.
    pub if_match: Option<String>,
    /// The resource; nothing for one that is deleted.
    pub body: Vec<u8>,
    /// What tells its resource from others; none for one that is new.
    pub target: Option<String>,
}

impl FhirPlan {
    /// # Errors
    /// *Configuration*: a column that the flow does not make, paths that do not fit together.
    pub fn new(options: &FhirWrite, schema: &SchemaRef) -> Result<FhirPlan, Error> {
        let place = |option: &'static str, column: &str| {
            schema.index_of(column).map_err(|_| {
                let there: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                Error::new(Class::Configuration, "fhir.flow-column")
                    .with("option", option)
                    .with("column", column)
                    .with("there", there.join(", "))
            })
        };
        let parts = |option: &'static str, text: &Option<String>| {
            let Some(text) = text else {
                return Ok(None);
            };
            let template = template(text)?;
            let parts = template.parts().iter().map(|part| match part {
                TemplatePart::Literal(text) => Ok(Part::Literal(text.to_string())),
                TemplatePart::Variable { variable, .. } => {
                    let name = variable.name().into_owned();
                    Ok(Part::Column(place(option, &name)?, name))
                }
            });
            parts.collect::<Result<Vec<_>, Error>>().map(Some)
        };
        let special = |option, column: &Option<String>| {
            let column = column.as_deref();
            column.map(|column| place(option, column)).transpose()
        };
        let made = match (&options.resource, &options.resource_type) {
            (Some(paths), Some(kind)) => {
                let writer = FhirWriter::new(kind, paths.keys().map(String::as_str))?;
                let places = paths.values().map(|column| place("resource", column));
                Some((writer, places.collect::<Result<Vec<_>, Error>>()?))
            }
            _ => None,
        };
        let if_match = special("if_match", &options.if_match)?.zip(options.if_match.clone());
        Ok(FhirPlan {
            mode: options.mode,
            resource_type: options.resource_type.clone(),
            id: parts("id", &options.id)?,
            matches: parts("match", &options.matches)?,
            change: special("change", &options.change)?,
            if_match,
            made,
        })
    }

    /// The actions of a delivery, and the rows of which none can be made.
    ///
    /// # Errors
    /// *Configuration*: columns whose type does not fit.
    pub fn actions(&self, delivery: &Delivery) -> Result<FhirActions, Error> {
        let rows = &delivery.rows;
        let columns = PlanCells {
            id: cells(self.id.as_deref(), rows)?,
            matches: cells(self.matches.as_deref(), rows)?,
            change: text_column(self.change, rows)?,
            if_match: self
                .if_match
                .as_ref()
                .map(|(at, name)| TextCells::new(name, rows.column(*at)))
                .transpose()?,
            made: self.made.as_ref().map(|(_, places)| values(places, rows)),
        };
        let payloads = delivery.events.payloads();
        let mut actions = FhirActions::default();
        for row in 0..rows.num_rows() {
            match self.action(payloads.value(row), &columns, row) {
                Ok(Some(action)) => actions.all.push(action),
                Ok(None) => {}
                Err(error) => actions.rejected.push((row, error)),
            }
        }
        Ok(actions)
    }

    fn action(
        &self,
        payload: &[u8],
        cells: &PlanCells<'_>,
        row: usize,
    ) -> Result<Option<FhirAction>, Error> {
        let wrong = |code| Error::new(Class::Permanent, code);
        let deletes = match &cells.change {
            None => self.mode == FhirMode::Delete,
            Some(change) => {
                let word = change.get(row).unwrap_or_default();
                match Op::of(&String::from_utf8_lossy(&word))? {
                    Op::Nothing => return Ok(None),
                    Op::Truncate => return Err(wrong("fhir.truncate")),
                    Op::Delete => true,
                    Op::Insert | Op::Upsert | Op::Update | Op::Read | Op::Returned => false,
                }
            }
        };
        let resource = match (&cells.made, &self.made) {
            (Some(values), Some((writer, _))) if !deletes => {
                Some(writer.resource(values.iter().map(|column| column.get(row))))
            }
            (Some(_), _) => None,
            (None, _) => match is_resource(payload) {
                true => Some(payload.to_vec()),
                // A deleted one is found by its type and its id.
                false if deletes => None,
                false => return Err(wrong("fhir.no-resource")),
            },
        };
        let text = resource.as_deref().map(std::str::from_utf8);
        let text = text.transpose().map_err(|_| wrong("fhir.no-resource"))?;
        let own_type = text.and_then(|text| text_of(text, "resourceType"));
        let kind = match (own_type, &self.resource_type) {
            (Some(own), Some(kind)) if own != *kind => {
                return Err(wrong("fhir.other-type")
                    .with("type", quote(&own))
                    .with("wanted", kind));
            }
            (Some(own), _) => own,
            (None, Some(kind)) => kind.clone(),
            (None, None) => return Err(wrong("fhir.no-resource")),
        };
        if !busbar_event::format::is_resource_type(&kind) {
            return Err(wrong("fhir.unknown-type").with("type", quote(&kind)));
        }
        let if_match = match (&cells.if_match, &self.if_match) {
            (Some(versions), Some((_, name))) => {
                let version = versions.get(row);
                let version =
                    version.ok_or_else(|| wrong("connect.key-null").with("column", name))?;
                let version = String::from_utf8_lossy(&version).into_owned();
                if !is_fhir_id(&version) {
                    return Err(wrong("fhir.version-text").with("version", quote(&version)));
                }
                Some(format!("W/\"{version}\""))
            }
            _ => None,
        };
        let searched = match &cells.matches {
            Some(parts) => Some(search_of(parts, row)?),
            None => None,
        };
        let id = match &cells.id {
            Some(parts) => Some(id_of(parts, row)?),
            None if searched.is_none() => text.and_then(|text| text_of(text, "id")),
            None => None,
        };
        if let Some(id) = &id
            && !is_fhir_id(id)
        {
            return Err(wrong("fhir.id").with("id", quote(id)));
        }
        let creates = self.mode == FhirMode::Create && !deletes;
        let (method, path) = match (deletes, creates, &id, &searched) {
            (true, _, Some(id), _) => ("DELETE", format!("/{kind}/{id}")),
            (true, _, None, Some(search)) => ("DELETE", format!("/{kind}?{search}")),
            (false, true, ..) => ("POST", format!("/{kind}")),
            (false, false, Some(id), _) => ("PUT", format!("/{kind}/{id}")),
            (false, false, None, Some(search)) => ("PUT", format!("/{kind}?{search}")),
            (_, _, None, None) => return Err(wrong("fhir.no-id")),
        };
        let target = match (method, &searched) {
            ("POST", None) => None,
            ("POST", Some(search)) => Some(format!("/{kind}?{search}")),
            _ => Some(path.clone()),
        };
        let body = match (deletes, text) {
            (false, Some(text)) if method == "PUT" => with_id(text, id.as_deref()),
            // The server gives it one.
            (false, Some(text)) => with_id(text, None),
            _ => Vec::new(),
        };
        Ok(Some(FhirAction {
            row,
            method,
            path,
            if_none_exist: searched.filter(|_| creates),
            if_match: if_match.filter(|_| method != "POST"),
            body,
            target,
        }))
    }
}

/// A delivery as actions.
#[derive(Debug, Default)]
pub struct FhirActions {
    pub all: Vec<FhirAction>,
    pub rejected: Vec<(usize, Error)>,
}

struct PlanCells<'a> {
    id: Option<PartCells<'a>>,
    matches: Option<PartCells<'a>>,
    change: Option<TextCells>,
    if_match: Option<TextCells>,
    made: Option<Vec<JsonCells>>,
}

/// A column whose values are written as JSON.
struct JsonCells(arrow::array::BinaryArray);

impl JsonCells {
    /// The value, as its JSON text; none for NULL and for an empty text, of which FHIR has none.
    fn get(&self, row: usize) -> Option<&str> {
        let object = std::str::from_utf8(self.0.value(row)).ok()?;
        // `{"v":…}`
        let value = object.get(5..object.len().checked_sub(1)?)?;
        (!matches!(value, "" | "\"\"" | "null")).then_some(value)
    }
}

fn values(places: &[usize], rows: &RecordBatch) -> Vec<JsonCells> {
    let columns = places.iter().map(|at| {
        let schema = rows.schema();
        let field = schema.field(*at);
        let metadata = field.metadata().clone();
        let one = Field::new("v", field.data_type().clone(), true).with_metadata(metadata);
        let array = std::sync::Arc::clone(rows.column(*at));
        JsonCells(encode_json(&StructArray::new(
            Fields::from(vec![one]),
            vec![array],
            None,
        )))
    });
    columns.collect()
}

fn text_column(place: Option<usize>, rows: &RecordBatch) -> Result<Option<TextCells>, Error> {
    place
        .map(|at| TextCells::new(rows.schema().field(at).name(), rows.column(at)))
        .transpose()
}

fn cells<'a>(
    parts: Option<&'a [Part]>,
    rows: &RecordBatch,
) -> Result<Option<PartCells<'a>>, Error> {
    let cells = |part: &'a Part| match part {
        Part::Literal(_) => Ok((part, None)),
        Part::Column(at, name) => Ok((part, Some(TextCells::new(name, rows.column(*at))?))),
    };
    parts
        .map(|parts| parts.iter().map(cells).collect())
        .transpose()
}

/// The parts of a template, each with its column.
type PartCells<'a> = Vec<(&'a Part, Option<TextCells>)>;

/// The values of a template's columns, each written by `write`.
fn filled(
    parts: &[(&Part, Option<TextCells>)],
    row: usize,
    write: impl Fn(Result<&str, &str>, &mut String),
) -> Result<String, Error> {
    let mut filled = String::new();
    for (part, cells) in parts {
        match (part, cells) {
            (Part::Column(_, column), Some(cells)) => {
                let value = cells.get(row).ok_or_else(|| {
                    Error::new(Class::Permanent, "connect.key-null").with("column", column)
                })?;
                let value = std::str::from_utf8(&value).map_err(|_| {
                    let shown = String::from_utf8_lossy(&value).into_owned();
                    Error::new(Class::Permanent, "connect.not-text").with("payload", quote(&shown))
                })?;
                write(Ok(value), &mut filled);
            }
            (Part::Literal(text), _) => write(Err(text), &mut filled),
            (Part::Column(..), None) => {}
        }
    }
    Ok(filled)
}

fn id_of(parts: &[(&Part, Option<TextCells>)], row: usize) -> Result<String, Error> {
    filled(parts, row, |text, out| {
        let (Ok(text) | Err(text)) = text;
        out.push_str(text);
    })
}

/// Parameters of a search. What stands in the file is taken as it is, but for characters that no URL has; a value stays one
/// value, also with a comma or a bar in it.
fn search_of(parts: &[(&Part, Option<TextCells>)], row: usize) -> Result<String, Error> {
    let search = filled(parts, row, |text, out| match text {
        Ok(value) => {
            let mut escaped = String::new();
            for c in value.chars() {
                if matches!(c, ',' | '|' | '$' | '\\') {
                    escaped.push('\\');
                }
                escaped.push(c);
            }
            Escape::Percent.write(&escaped, out);
        }
        Err(literal) => {
            let mut bytes = [0; 4];
            for c in literal.chars() {
                match c {
                    '!'..='~'
                        if !matches!(
                            c,
                            '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}' | '#'
                        ) =>
                    {
                        out.push(c);
                    }
                    c => Escape::Percent.write(c.encode_utf8(&mut bytes), out),
                }
            }
        }
    })?;
    match search.len() <= MATCH_BYTES_MAX {
        true => Ok(search),
        false => {
            Err(Error::new(Class::Permanent, "fhir.match-large").with("most", MATCH_BYTES_MAX))
        }
    }
}

fn is_resource(payload: &[u8]) -> bool {
    let text = std::str::from_utf8(payload).unwrap_or_default();
    let mut whole = JsonParts::new(text);
    whole.value().is_ok() && whole.at_end() && text_of(text, "resourceType").is_some()
}

/// A resource with this id, or without one.
fn with_id(resource: &str, id: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(resource.len() + 80);
    let mut first = true;
    let mut separate = |out: &mut Vec<u8>| {
        out.push(if std::mem::take(&mut first) {
            b'{'
        } else {
            b','
        });
    };
    // The text was checked, so that nothing is amiss here.
    let _ = JsonParts::new(resource).object(|key, place| {
        let name = json_unquote(key).unwrap_or_default();
        if name == "id" {
            return;
        }
        separate(&mut out);
        out.extend_from_slice(key.as_bytes());
        out.push(b':');
        out.extend_from_slice(resource[place].as_bytes());
        if name == "resourceType"
            && let Some(id) = id
        {
            out.extend_from_slice(b",\"id\":");
            write_json_text(id, &mut out);
        }
    });
    out.push(b'}');
    out
}
