use super::json::JsonOut;
use super::message::Hl7Message;
use super::{Hl7Options, Hl7Path, Hl7Reader, Hl7Value, Hl7Zone};
use crate::format::column::Column;
use crate::format::{FieldType, cell, time};
use crate::{Class, Error, Result};

/// Reads the columns of a projection from messages.
#[derive(Debug)]
pub(in crate::format) struct Hl7Decoder {
    reader: Hl7Reader,
    zone: Hl7Zone,
    paths: Vec<Hl7Path>,
    parsed: Vec<Hl7Parsed>,
    /// Texts of the columns of one message, one behind the other.
    texts: Vec<u8>,
    scratch: Vec<u8>,
}

/// Why a message has no row.
#[derive(Debug)]
pub(in crate::format) enum Hl7Reject {
    /// It cannot be read.
    Message(Error),
    /// A column is required, and nothing is there.
    Missing(usize),
    /// What is there does not fit the type of a column.
    Value(usize),
}

#[derive(Debug, Clone, Copy)]
enum Hl7Parsed {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// From here to there in the texts.
    Text(usize, usize),
}

impl Hl7Decoder {
    /// For columns whose paths these are.
    ///
    /// # Errors
    /// *Configuration*: `event.hl7-path`, `event.hl7-list`, `event.hl7-option`.
    pub fn new(options: &Hl7Options, columns: &[Column], paths: &[&str]) -> Result<Hl7Decoder> {
        let read = |(column, path): (&Column, &&str)| {
            let wrong = |code| {
                Error::new(Class::Configuration, code)
                    .with("field", crate::quote(&column.name))
                    .with("path", crate::quote(path))
            };
            let parsed = Hl7Path::parse(path).ok_or_else(|| wrong("event.hl7-path"))?;
            match column.field_type == FieldType::Json || parsed.is_scalar() {
                true => Ok(parsed),
                false => Err(wrong("event.hl7-list")),
            }
        };
        Ok(Hl7Decoder {
            reader: Hl7Reader::new(options)?,
            zone: options.zone()?,
            paths: columns
                .iter()
                .zip(paths)
                .map(read)
                .collect::<Result<Vec<_>>>()?,
            parsed: Vec::new(),
            texts: Vec::new(),
            scratch: Vec::new(),
        })
    }

    /// The path of a column.
    pub fn path(&self, column: usize) -> &Hl7Path {
        &self.paths[column]
    }

    /// Appends the values of a message to the columns, or nothing if it is bad.
    pub fn row(&mut self, payload: &[u8], columns: &mut [Column]) -> Result<(), Hl7Reject> {
        let message = self.reader.read(payload).map_err(Hl7Reject::Message)?;
        self.parsed.clear();
        self.texts.clear();
        for (number, (column, path)) in columns.iter().zip(&self.paths).enumerate() {
            let from = self.texts.len();
            let parsed = match column.field_type {
                FieldType::Json => {
                    let out = &mut JsonOut {
                        json: &mut self.texts,
                        text: &mut self.scratch,
                    };
                    match message.json(path, out) {
                        true => Hl7Parsed::Text(from, self.texts.len()),
                        false => Hl7Parsed::Null,
                    }
                }
                FieldType::Text => match message.value(path, &mut self.texts) {
                    Hl7Value::Missing => Hl7Parsed::Null,
                    Hl7Value::Deleted | Hl7Value::Text => Hl7Parsed::Text(from, self.texts.len()),
                },
                _ => {
                    let parsed = scalar(&message, path, column, self.zone, &mut self.scratch);
                    parsed.ok_or(Hl7Reject::Value(number))?
                }
            };
            if matches!(parsed, Hl7Parsed::Null) && column.required {
                return Err(Hl7Reject::Missing(number));
            }
            self.parsed.push(parsed);
        }
        for (column, parsed) in columns.iter_mut().zip(&self.parsed) {
            match *parsed {
                Hl7Parsed::Null => column.push_null(),
                Hl7Parsed::Bool(value) => column.push_bool(value),
                Hl7Parsed::Int(value) => column.push_int(value),
                Hl7Parsed::Float(value) => column.push_float(value),
                Hl7Parsed::Text(from, to) => {
                    column.push_text(|bytes| bytes.extend_from_slice(&self.texts[from..to]));
                }
            }
        }
        Ok(())
    }
}

/// A number, truth value or time; `None` if what is there is none. A deleted one is null.
fn scalar(
    message: &Hl7Message<'_>,
    path: &Hl7Path,
    column: &Column,
    zone: Hl7Zone,
    scratch: &mut Vec<u8>,
) -> Option<Hl7Parsed> {
    scratch.clear();
    if message.value(path, scratch) != Hl7Value::Text {
        return Some(Hl7Parsed::Null);
    }
    let text = std::str::from_utf8(scratch).ok()?;
    Some(match column.field_type {
        FieldType::Bool => Hl7Parsed::Bool(match text.trim() {
            "Y" => true,
            "N" => false,
            other => cell::bool(other)?,
        }),
        FieldType::Int => Hl7Parsed::Int(cell::int(text)?),
        FieldType::Float => Hl7Parsed::Float(cell::float(text)?),
        FieldType::Time => Hl7Parsed::Int(match column.unit {
            None => zone.read(text)?,
            unit => time::from_float(cell::float(text)?, unit)?,
        }),
        FieldType::Text | FieldType::Json => return None,
    })
}
