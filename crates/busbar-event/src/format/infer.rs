//! A schema from samples.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, BinaryArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::csv::CsvDecoder;
use super::scan::{Fault, Scanner, unescape};
use super::{CsvOptions, FieldSpec, FieldType, FormatSpec, JsonOptions, SchemaSpec};
use crate::limits::{INFER_FIELDS_MAX, INFER_ROWS_MAX, JSON_DEPTH_MAX};
use crate::{Class, Error, Result};

/// The schema that fits the payloads of a sample: fields in order of their first appearance, each
/// of the narrowest type that holds all its values. Payloads that cannot be read are passed over.
///
/// Whole numbers become floats if one has a fraction, and both become text beside other values;
/// objects and arrays become JSON text. A field that is always null becomes text.
pub fn infer(format: &FormatSpec, sample: &BinaryArray) -> Result<SchemaRef> {
    let mut fields = Found::default();
    let rows = sample.len().min(INFER_ROWS_MAX);
    let read = match format {
        FormatSpec::Raw => {
            let payload = Field::new("payload", DataType::Binary, false);
            return Ok(Arc::new(Schema::new(vec![payload])));
        }
        FormatSpec::Json(options) => (0..rows)
            .filter(|row| json(sample.value(*row), options, &mut fields).is_ok())
            .count(),
        FormatSpec::Csv(options) => csv(options, sample, rows, &mut fields)?,
    };
    if read == 0 {
        return Err(Error::new(Class::Permanent, "event.infer-empty").with("rows", rows));
    }
    fields.schema()
}

/// The schema that holds what either holds: for a stream whose later events say more than its
/// first ones. Fields of the first keep their places.
pub fn widen(first: &SchemaRef, second: &SchemaRef) -> Result<SchemaRef> {
    let mut wide = SchemaSpec::of(first).0;
    for field in SchemaSpec::of(second).0 {
        match wide.iter_mut().find(|known| known.name == field.name) {
            Some(known) => {
                known.field_type = wider(known.field_type, field.field_type);
                known.required &= field.required;
            }
            None => wide.push(FieldSpec {
                required: false,
                ..field
            }),
        }
    }
    SchemaSpec(wide).schema()
}

fn wider(a: FieldType, b: FieldType) -> FieldType {
    match (a, b) {
        _ if a == b => a,
        (FieldType::Json, _) | (_, FieldType::Json) => FieldType::Json,
        (FieldType::Int, FieldType::Float) | (FieldType::Float, FieldType::Int) => FieldType::Float,
        _ => FieldType::Text,
    }
}

/// The fields seen so far; `None` of a field that was always null.
#[derive(Default)]
struct Found {
    places: HashMap<String, usize>,
    fields: Vec<(String, Option<FieldType>)>,
}

impl Found {
    fn see(&mut self, name: &str, seen: Option<FieldType>) {
        let place = match self.places.get(name) {
            Some(place) => *place,
            None if self.fields.len() == INFER_FIELDS_MAX || name.is_empty() => return,
            None => {
                self.fields.push((name.to_string(), None));
                self.places.insert(name.to_string(), self.fields.len() - 1);
                self.fields.len() - 1
            }
        };
        let known = &mut self.fields[place].1;
        *known = match (*known, seen) {
            (Some(known), Some(seen)) => Some(wider(known, seen)),
            (known, seen) => known.or(seen),
        };
    }

    fn schema(self) -> Result<SchemaRef> {
        let fields = self
            .fields
            .into_iter()
            .map(|(name, field_type)| FieldSpec::new(name, field_type.unwrap_or(FieldType::Text)));
        SchemaSpec(fields.collect()).schema()
    }
}

fn json(document: &[u8], options: &JsonOptions, fields: &mut Found) -> Result<(), Fault> {
    if let Err(error) = std::str::from_utf8(document) {
        return Err(Fault::Utf8(error.valid_up_to()));
    }
    // The whole is checked first, so that half of a broken document does not count.
    let mut scanner = Scanner::new(document);
    scanner.skip(0)?;
    scanner.end()?;
    let root: Vec<&str> = options
        .root
        .iter()
        .flat_map(|root| root.split('.'))
        .collect();
    let mut scanner = Scanner::new(document);
    if root.len() > JSON_DEPTH_MAX || scanner.peek()? != b'{' {
        return Err(Fault::NotObject);
    }
    members(&mut scanner, &root, fields)
}

/// The members of the object that begins here, or of the one that the path leads to.
fn members(scanner: &mut Scanner<'_>, path: &[&str], fields: &mut Found) -> Result<(), Fault> {
    scanner.at += 1;
    if scanner.peek()? == b'}' {
        scanner.at += 1;
        return Ok(());
    }
    let mut name = Vec::new();
    loop {
        let (key, _) = scanner.key()?;
        name.clear();
        unescape(&scanner.bytes[key.from..key.to], &mut name);
        let text = std::str::from_utf8(&name).unwrap_or_default();
        let byte = scanner.peek()?;
        match path.split_first() {
            Some((part, rest)) if *part == text && byte == b'{' => members(scanner, rest, fields)?,
            Some(_) => scanner.skip(1)?,
            None => {
                let seen = match byte {
                    b'"' => Some(FieldType::Text),
                    b't' | b'f' => Some(FieldType::Bool),
                    b'n' => None,
                    b'{' | b'[' => Some(FieldType::Json),
                    _ => {
                        let from = scanner.at;
                        let number = scanner.number()?;
                        scanner.at = from;
                        let whole = number.is_whole() && number.as_int().is_some();
                        Some(if whole {
                            FieldType::Int
                        } else {
                            FieldType::Float
                        })
                    }
                };
                fields.see(text, seen);
                scanner.skip(1)?;
            }
        }
        let next = scanner.peek()?;
        scanner.at += 1;
        if next != b',' {
            return Ok(());
        }
        scanner.peek()?;
    }
}

/// Fields of rows with a header are named by it, others `column1`, `column2` and so on.
fn csv(
    options: &CsvOptions,
    sample: &BinaryArray,
    rows: usize,
    fields: &mut Found,
) -> Result<usize> {
    let mut decoder = CsvDecoder::new(options, Vec::new(), Vec::new(), 0)?;
    let mut read = 0;
    for row in 0..rows {
        let payload = sample.value(row);
        if std::str::from_utf8(payload).is_err() {
            continue;
        }
        let Ok((names, texts)) = decoder.texts(payload) else {
            continue;
        };
        if names
            .as_ref()
            .is_some_and(|names| names.len() != texts.len())
        {
            continue;
        }
        read += 1;
        for (index, text) in texts.iter().enumerate() {
            let seen = text.as_deref().map(|text| match text.trim() {
                "true" | "false" => FieldType::Bool,
                text if text.parse::<i64>().is_ok() => FieldType::Int,
                text if text.parse::<f64>().is_ok_and(f64::is_finite) => FieldType::Float,
                _ => FieldType::Text,
            });
            match &names {
                Some(names) => fields.see(names[index].trim(), seen),
                None => fields.see(&format!("column{}", index + 1), seen),
            }
        }
    }
    Ok(read)
}
