//! A schema from samples.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, BinaryArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::cell::EXACT_INT_MAX;
use super::csv::CsvDecoder;
use super::scan::{Fault, Number, Scanner, unescape};
use super::xml::XmlReader;
use super::xml_text::xml_text;
use super::{
    CsvOptions, FieldSpec, FieldType, FormatSpec, Hl7Reader, JsonOptions, SchemaSpec, natural_type,
};
use crate::limits::{INFER_FIELDS_MAX, INFER_ROWS_MAX, JSON_DEPTH_MAX, XML_BYTES_MAX};
use crate::{Class, Error, Result};

/// The schema that fits the payloads of a sample: fields in order of their first appearance, each
/// of the narrowest type that prints all its values as they came. Payloads that cannot be read are passed
/// over.
///
/// Whole numbers of 64 bits are `int`. Numbers are `float` if floats of 64 bits hold all of them exactly, whole
/// ones up to 2^53 among them. Any other mixture is `text`, as are numbers that neither type holds, such as
/// unsigned ones beyond 2^63; objects and arrays make a field `json`. A field that is always null is `text`.
/// An HL7 message has a `json` column for each segment.
/// A cell of CSV is a number only if the number is written just so: `00501`, `+49` and `1.10` are text.
pub fn infer(format: &FormatSpec, sample: &BinaryArray) -> Result<SchemaRef> {
    if *format == FormatSpec::Raw {
        let payload = Field::new("payload", DataType::Binary, false);
        return Ok(Arc::new(Schema::new(vec![payload])));
    }
    let mut fields = Found::default();
    if see(format, sample, &mut fields)? == 0 {
        let rows = sample.len().min(INFER_ROWS_MAX);
        return Err(Error::new(Class::Permanent, "event.infer-empty").with("rows", rows));
    }
    fields.schema()
}

/// The schema that holds what the first holds, and the payloads of the sample besides: for values that an
/// inferred schema turns out not to fit. Fields keep their places.
pub fn widen_for(
    first: &SchemaRef,
    format: &FormatSpec,
    sample: &BinaryArray,
) -> Result<SchemaRef> {
    if *format == FormatSpec::Raw {
        return Ok(Arc::clone(first));
    }
    let known = SchemaSpec::of(first).0;
    let mut fields = Found::default();
    for field in &known {
        // Times are never inferred, so that a declared one stays.
        fields.see(
            field.path.as_deref().unwrap_or(&field.name),
            Some(Kind::of(field.field_type)),
        );
    }
    see(format, sample, &mut fields)?;
    let found = fields.schema()?;
    let mut found = SchemaSpec::of(&found).0;
    for (field, known) in found.iter_mut().zip(known) {
        if known.field_type == FieldType::Time {
            field.field_type = FieldType::Time;
        }
        (field.name, field.path, field.unit) = (known.name, known.path, known.unit);
    }
    SchemaSpec(found).schema()
}

/// Notes the fields of the payloads of a sample; how many payloads could be read.
fn see(format: &FormatSpec, sample: &BinaryArray, fields: &mut Found) -> Result<usize> {
    let rows = sample.len().min(INFER_ROWS_MAX);
    Ok(match format {
        FormatSpec::Raw => 0,
        FormatSpec::Json(options) => (0..rows)
            .filter(|row| json(sample.value(*row), options, fields).is_ok())
            .count(),
        FormatSpec::Csv(options) => csv(options, sample, rows, fields)?,
        FormatSpec::Xml(options) => {
            let mut reader = XmlReader::default();
            let options = JsonOptions {
                root: options.root.clone(),
            };
            let mut is_read = |row: usize| {
                let payload = Some(sample.value(row)).filter(|p| p.len() <= XML_BYTES_MAX);
                let text = payload.and_then(|payload| xml_text(payload).ok());
                let document = text.as_deref().and_then(|text| reader.json(text).ok());
                document.is_some_and(|document| json(document, &options, fields).is_ok())
            };
            (0..rows).filter(|row| is_read(*row)).count()
        }
        FormatSpec::Fhir => (0..rows)
            .filter(|row| json(sample.value(*row), &JsonOptions::default(), fields).is_ok())
            .count(),
        FormatSpec::Hl7(options) => {
            let mut reader = Hl7Reader::new(options)?;
            let mut is_read = |row: usize| match reader.read(sample.value(row)) {
                Ok(message) => {
                    let names = message.segment_names();
                    names.for_each(|name| fields.see(name, Some(Kind::Json)));
                    true
                }
                Err(_) => false,
            };
            (0..rows).filter(|row| is_read(*row)).count()
        }
    })
}

/// The schema that holds what either holds: for a stream whose later events say more than its
/// first ones. Fields of the first keep their places.
pub fn widen(first: &SchemaRef, second: &SchemaRef) -> Result<SchemaRef> {
    let mut wide = SchemaSpec::of(first).0;
    for field in SchemaSpec::of(second).0 {
        match wide.iter_mut().find(|known| known.name == field.name) {
            Some(known) if known.field_type == field.field_type => {
                known.required &= field.required;
            }
            Some(known) => {
                let kinds = (Kind::of(known.field_type), Kind::of(field.field_type));
                known.field_type = kinds.0.wider(kinds.1).field_type();
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

/// What the values of a field are, as far as it decides the field's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bool,
    /// Whole numbers that floats hold exactly.
    SmallInt,
    /// Whole numbers, not all of which floats hold exactly.
    Int,
    /// Numbers that floats hold exactly.
    Float,
    Text,
    Json,
}

impl Kind {
    /// What a column of this type has held so far.
    fn of(field_type: FieldType) -> Kind {
        match field_type {
            FieldType::Bool => Kind::Bool,
            FieldType::Int => Kind::SmallInt,
            FieldType::Float => Kind::Float,
            FieldType::Text | FieldType::Time => Kind::Text,
            FieldType::Json => Kind::Json,
        }
    }

    fn int(value: i64) -> Kind {
        match value.unsigned_abs() <= EXACT_INT_MAX {
            true => Kind::SmallInt,
            false => Kind::Int,
        }
    }

    fn field_type(self) -> FieldType {
        match self {
            Kind::Bool => FieldType::Bool,
            Kind::SmallInt | Kind::Int => FieldType::Int,
            Kind::Float => FieldType::Float,
            Kind::Text => FieldType::Text,
            Kind::Json => FieldType::Json,
        }
    }

    fn wider(self, other: Kind) -> Kind {
        match (self, other) {
            _ if self == other => self,
            (Kind::Json, _) | (_, Kind::Json) => Kind::Json,
            (Kind::SmallInt, Kind::Int) | (Kind::Int, Kind::SmallInt) => Kind::Int,
            (Kind::SmallInt, Kind::Float) | (Kind::Float, Kind::SmallInt) => Kind::Float,
            _ => Kind::Text,
        }
    }
}

/// The fields seen so far; `None` of a field that was always null.
#[derive(Default)]
struct Found {
    places: HashMap<String, usize>,
    fields: Vec<(String, Option<Kind>)>,
}

impl Found {
    fn see(&mut self, name: &str, seen: Option<Kind>) {
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
            (Some(known), Some(seen)) => Some(known.wider(seen)),
            (known, seen) => known.or(seen),
        };
    }

    fn schema(self) -> Result<SchemaRef> {
        let fields = self
            .fields
            .into_iter()
            .map(|(name, kind)| FieldSpec::new(name, kind.unwrap_or(Kind::Text).field_type()));
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
                    b'"' => Some(Kind::Text),
                    b't' | b'f' => Some(Kind::Bool),
                    b'n' => None,
                    b'{' | b'[' => Some(Kind::Json),
                    _ => {
                        let from = scanner.at;
                        let number = scanner.number()?;
                        scanner.at = from;
                        Some(number_kind(&number, scanner.bytes))
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

fn number_kind(number: &Number, bytes: &[u8]) -> Kind {
    let whole = number.is_whole() && !number.is_negative_zero();
    match number.as_int(bytes).filter(|_| whole) {
        Some(value) => Kind::int(value),
        None if number.is_exact_float(bytes) => Kind::Float,
        None => Kind::Text,
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
        let Ok((names, cells)) = decoder.texts(payload) else {
            continue;
        };
        if names
            .as_ref()
            .is_some_and(|names| names.len() != cells.len())
        {
            continue;
        }
        read += 1;
        for (index, cell) in cells.iter().enumerate() {
            let is_null = !cell.quoted && cell.text.is_empty();
            let seen = (!is_null).then(|| match natural_type(&cell.text) {
                FieldType::Int => cell.text.parse().map_or(Kind::Text, Kind::int),
                other => Kind::of(other),
            });
            match &names {
                Some(names) => fields.see(&names[index], seen),
                None => fields.see(&format!("column{}", index + 1), seen),
            }
        }
    }
    Ok(read)
}
