use super::{FhirFound, FhirPath, path};
use crate::format::column::Column;
use crate::format::json::Problem;
use crate::format::{FieldType, JsonParts, NotJson, cell, json_unquote};
use crate::{Class, Error, Result};

/// Reads the columns of a projection from resources.
#[derive(Debug)]
pub(in crate::format) struct FhirDecoder {
    paths: Vec<FhirPath>,
    parsed: Vec<FhirParsed>,
    /// Texts of the columns of one resource, one behind the other.
    texts: Vec<u8>,
}

/// Why a payload has no row.
#[derive(Debug)]
pub(in crate::format) enum FhirReject {
    /// It is not JSON.
    Json(NotJson),
    /// It is JSON, but no resource.
    NoResource,
    /// The value of a column does not fit.
    Field(usize, Problem),
}

#[derive(Debug, Clone, Copy)]
enum FhirParsed {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// From here to there in the texts.
    Text(usize, usize),
}

impl FhirDecoder {
    /// For columns whose paths these are.
    ///
    /// # Errors
    /// *Configuration*: `event.fhir-path`, `event.fhir-list`.
    pub fn new(columns: &[Column], paths: &[&str]) -> Result<FhirDecoder> {
        let read = |(column, path): (&Column, &&str)| {
            let wrong = |code| {
                Error::new(Class::Configuration, code)
                    .with("field", crate::quote(&column.name))
                    .with("path", crate::quote(path))
            };
            let parsed = FhirPath::parse(path).ok_or_else(|| wrong("event.fhir-path"))?;
            match column.field_type == FieldType::Json || parsed.is_scalar() {
                true => Ok(parsed),
                false => Err(wrong("event.fhir-list")),
            }
        };
        Ok(FhirDecoder {
            paths: columns
                .iter()
                .zip(paths)
                .map(read)
                .collect::<Result<Vec<_>>>()?,
            parsed: Vec::new(),
            texts: Vec::new(),
        })
    }

    /// Appends the values of a resource to the columns, or nothing if it is bad.
    pub fn row(&mut self, resource: &str, columns: &mut [Column]) -> Result<(), FhirReject> {
        let mut whole = JsonParts::new(resource);
        whole.value().map_err(FhirReject::Json)?;
        let kind = path::member(resource, "resourceType").and_then(json_unquote);
        if !whole.at_end() || kind.is_none_or(|kind| kind.is_empty()) {
            return Err(FhirReject::NoResource);
        }
        self.parsed.clear();
        self.texts.clear();
        for (number, (column, path)) in columns.iter().zip(&self.paths).enumerate() {
            let parsed = match path.find(resource, column.field_type == FieldType::Json) {
                FhirFound::Nothing => FhirParsed::Null,
                FhirFound::Many(values) => {
                    let from = self.texts.len();
                    for (at, value) in values.iter().enumerate() {
                        self.texts.push(if at == 0 { b'[' } else { b',' });
                        self.texts.extend_from_slice(value.as_bytes());
                    }
                    self.texts.push(b']');
                    FhirParsed::Text(from, self.texts.len())
                }
                FhirFound::One(value) => value_of(value, column, &mut self.texts)
                    .map_err(|problem| FhirReject::Field(number, problem))?,
            };
            if matches!(parsed, FhirParsed::Null) && column.required {
                return Err(FhirReject::Field(number, Problem::Missing));
            }
            self.parsed.push(parsed);
        }
        for (column, parsed) in columns.iter_mut().zip(&self.parsed) {
            match *parsed {
                FhirParsed::Null => column.push_null(),
                FhirParsed::Bool(value) => column.push_bool(value),
                FhirParsed::Int(value) => column.push_int(value),
                FhirParsed::Float(value) => column.push_float(value),
                FhirParsed::Text(from, to) => {
                    column.push_text(|bytes| bytes.extend_from_slice(&self.texts[from..to]));
                }
            }
        }
        Ok(())
    }
}

/// A value as its column holds it.
fn value_of(json: &str, column: &Column, texts: &mut Vec<u8>) -> Result<FhirParsed, Problem> {
    let from = texts.len();
    if column.field_type == FieldType::Json {
        texts.extend_from_slice(json.as_bytes());
        return Ok(FhirParsed::Text(from, texts.len()));
    }
    let unquoted = json_unquote(json);
    let text = match (&unquoted, json.as_bytes().first()) {
        (Some(text), _) => &**text,
        (None, Some(b'{')) => return Err(Problem::Type("object")),
        (None, Some(b'[')) => return Err(Problem::Type("array")),
        (None, _) => json,
    };
    let found = match (&unquoted, json) {
        (Some(_), _) => "text",
        (None, "true" | "false") => "bool",
        (None, _) => "number",
    };
    let misfit = || Problem::Type(found);
    Ok(match column.field_type {
        FieldType::Text | FieldType::Json => {
            texts.extend_from_slice(text.as_bytes());
            FhirParsed::Text(from, texts.len())
        }
        FieldType::Bool => FhirParsed::Bool(cell::bool(text).ok_or_else(misfit)?),
        FieldType::Int => FhirParsed::Int(cell::int(text).ok_or_else(misfit)?),
        FieldType::Float => FhirParsed::Float(cell::float(text).ok_or_else(misfit)?),
        FieldType::Time => {
            let day = match text.len() {
                4 if column.unit.is_none() => format!("{text}-01-01"),
                7 if column.unit.is_none() => format!("{text}-01"),
                _ => text.to_owned(),
            };
            let time = match day.len() {
                10 if column.unit.is_none() => crate::time::parse(&format!("{day}T00:00:00Z")),
                _ => cell::time(text, column.unit),
            };
            FhirParsed::Int(time.ok_or(Problem::Time)?)
        }
    })
}
