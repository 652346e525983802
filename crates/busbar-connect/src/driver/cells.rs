//! Values of a flow as JSON for the worker.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, Fields, Float32Type, Float64Type, TimeUnit, TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use busbar_change::write_time;
use busbar_event::format::encode_json;
use busbar_event::{Class, Error};

use super::types::DriverTarget;
use crate::change::plan::TargetColumn;

/// One column of a batch, ready to be written.
pub struct DriverCells {
    array: ArrayRef,
    json: bool,
}

impl DriverCells {
    /// Prepares a column for its target.
    ///
    /// # Errors
    /// *Configuration*: a type that is not written, which has been refused before.
    pub fn new(column: &ArrayRef, target: &DriverTarget) -> Result<DriverCells, Error> {
        let to = |to: DataType| {
            cast(column, &to).map_err(|why| {
                Error::new(Class::Configuration, "connect.type-never")
                    .with("column", target.name())
                    .with("from", column.data_type())
                    .with("to", target.shown())
                    .caused_by(why)
            })
        };
        let (array, json) = match column.data_type() {
            DataType::Dictionary(_, values) => {
                return DriverCells::new(&to((**values).clone())?, target);
            }
            DataType::LargeUtf8 | DataType::Utf8View => (to(DataType::Utf8)?, false),
            DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                (to(DataType::Binary)?, false)
            }
            DataType::Date64 => (to(DataType::Date32)?, false),
            DataType::Timestamp(..) => {
                (to(DataType::Timestamp(TimeUnit::Microsecond, None))?, false)
            }
            DataType::Struct(_)
            | DataType::List(_)
            | DataType::LargeList(_)
            | DataType::Map(..) => {
                let field = Field::new("v", column.data_type().clone(), true);
                let object =
                    StructArray::new(Fields::from(vec![field]), vec![Arc::clone(column)], None);
                let json: ArrayRef = Arc::new(encode_json(&object));
                // An object has a value also where the column has none.
                return Ok(DriverCells {
                    array: json,
                    json: true,
                });
            }
            _ => (Arc::clone(column), false),
        };
        Ok(DriverCells { array, json })
    }

    /// Whether a row has no value.
    pub fn is_null(&self, row: usize) -> bool {
        match self.json {
            true => self.object(row) == b"null",
            false => self.array.is_null(row),
        }
    }

    /// The value of `{"v":…}`.
    fn object(&self, row: usize) -> &[u8] {
        let object = self.array.as_binary::<i32>().value(row);
        object
            .get(5..object.len().saturating_sub(1))
            .unwrap_or(b"null")
    }

    /// Appends a row's value as JSON.
    ///
    /// # Errors
    /// *Permanent*: no database can hold it.
    pub fn write(&self, row: usize, target: &DriverTarget, out: &mut String) -> Result<(), Error> {
        if self.is_null(row) {
            out.push_str("null");
            return Ok(());
        }
        // Writing to memory does not fail.
        match self.array.data_type() {
            DataType::Boolean => {
                let _ = write!(out, "{}", self.array.as_boolean().value(row));
            }
            DataType::Utf8 => quote(self.array.as_string::<i32>().value(row), out),
            DataType::Binary if self.json => {
                quote(&String::from_utf8_lossy(self.object(row)), out);
            }
            DataType::Binary => {
                out.push('"');
                STANDARD.encode_string(self.array.as_binary::<i32>().value(row), out);
                out.push('"');
            }
            DataType::Float32 => {
                let value = self.array.as_primitive::<Float32Type>().value(row);
                float(f64::from(value), value, target, out)?;
            }
            DataType::Float64 => {
                let value = self.array.as_primitive::<Float64Type>().value(row);
                float(value, value, target, out)?;
            }
            DataType::Timestamp(..) => {
                let micros = self.array.as_primitive::<TimestampMicrosecondType>();
                let mut text = Vec::new();
                write_time(micros.value(row), &mut text);
                // `2024-05-06 07:08:09.000001+00`
                let text = String::from_utf8_lossy(&text);
                // Without what stands behind it a year before the first one would be another year.
                let text = text.strip_suffix("+00").ok_or_else(|| {
                    Error::new(Class::Permanent, "driver.value-text")
                        .with("column", target.name())
                        .caused_by(ArrowError::CastError(format!(
                            "{text} is before the year 1"
                        )))
                })?;
                let (date, time) = text.split_once(' ').unwrap_or((text, "00:00:00"));
                let _ = write!(out, "\"{date}T{time}Z\"");
            }
            kind => {
                let options = FormatOptions::default();
                let text = ArrayFormatter::try_new(self.array.as_ref(), &options)
                    .and_then(|formatter| formatter.value(row).try_to_string());
                let text = text.map_err(|why| {
                    Error::new(Class::Permanent, "driver.value-text")
                        .with("column", target.name())
                        .caused_by(why)
                })?;
                match kind.is_integer() {
                    true => out.push_str(&text),
                    false => quote(&text, out),
                }
            }
        }
        Ok(())
    }
}

fn float(
    value: f64,
    shown: impl std::fmt::Display,
    target: &DriverTarget,
    out: &mut String,
) -> Result<(), Error> {
    if !value.is_finite() {
        return Err(Error::new(Class::Permanent, "driver.not-finite")
            .with("column", target.name())
            .with("value", value));
    }
    // A text, so that each digit reaches the database.
    let _ = write!(out, "\"{shown}\"");
    Ok(())
}

fn quote(text: &str, out: &mut String) {
    // A text has no failure as JSON.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}
