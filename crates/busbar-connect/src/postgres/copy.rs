//! Rows as lines of `COPY … FROM STDIN`: values with tabs between them, `\N` for NULL.

use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, Fields, Float32Type, Float64Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use busbar_change::postgres::oid;
use busbar_change::write_time;
use busbar_event::format::encode_json;
use busbar_event::{Class, Error};

use super::types::{fit, numeric_scale};
use crate::change::keys::KeyTexts;
use crate::change::plan::{Fit, TargetColumn};
use crate::relational::literal::fraction_digits;

/// A column of a table that is written to.
#[derive(Clone, Debug)]
pub struct Target {
    pub name: String,
    pub oid: u32,
    /// -1 without one.
    pub modifier: i32,
    /// As it is written in SQL.
    pub shown: String,
    /// Texts that differ may be the same to it.
    pub is_collated: bool,
    /// Whether what does not fit is rounded or cut.
    pub lossy: bool,
}

impl TargetColumn for Target {
    fn name(&self) -> &str {
        &self.name
    }

    fn shown(&self) -> &str {
        &self.shown
    }

    fn fit(&self, from: &DataType) -> Fit {
        fit(from, self.oid, self.modifier)
    }

    fn taken(&self, _: &str, lossy: bool) -> Target {
        Target {
            lossy,
            ..self.clone()
        }
    }

    fn texts(&self) -> KeyTexts {
        match self.oid {
            _ if self.is_collated => KeyTexts::Collated,
            oid::BPCHAR => KeyTexts::Padded,
            oid::TEXT | oid::VARCHAR | oid::BYTEA => KeyTexts::Exact,
            oid::INT2 | oid::INT4 | oid::INT8 | oid::NUMERIC | oid::FLOAT4 | oid::FLOAT8 => {
                KeyTexts::Number
            }
            oid::DATE | oid::TIMESTAMP | oid::TIMESTAMPTZ => KeyTexts::Time,
            oid::UUID => KeyTexts::Uuid,
            _ => KeyTexts::Unknown,
        }
    }
}

/// One column of a batch, ready to be written.
pub enum Cells {
    Bool(ArrayRef),
    Int(ArrayRef),
    Float(ArrayRef, bool),
    Text(ArrayRef),
    Bytes(ArrayRef),
    Time(ArrayRef),
    Json(ArrayRef),
    Other(ArrayRef),
}

impl Cells {
    /// Prepares a column for its target.
    ///
    /// # Errors
    /// *Configuration*: a type without values as text, which [`super::types::fit`] has refused before.
    pub fn new(column: &ArrayRef, target: &Target) -> Result<Cells, Error> {
        let to = |to: &DataType| {
            cast(column, to).map_err(|why| {
                Error::new(Class::Configuration, "connect.type-never")
                    .with("column", &target.name)
                    .with("from", column.data_type())
                    .with("to", &target.shown)
                    .caused_by(why)
            })
        };
        Ok(match column.data_type() {
            DataType::Boolean => Cells::Bool(Arc::clone(column)),
            DataType::UInt64 => Cells::Other(Arc::clone(column)),
            from if from.is_integer() => Cells::Int(to(&DataType::Int64)?),
            DataType::Float32 => Cells::Float(Arc::clone(column), whole(target)),
            DataType::Float16 | DataType::Float64 => {
                Cells::Float(to(&DataType::Float64)?, whole(target))
            }
            DataType::Utf8 => Cells::Text(Arc::clone(column)),
            DataType::LargeUtf8 | DataType::Utf8View => Cells::Text(to(&DataType::Utf8)?),
            DataType::Dictionary(_, values) => return Cells::new(&to(values)?, target),
            DataType::Binary => Cells::Bytes(Arc::clone(column)),
            DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                Cells::Bytes(to(&DataType::Binary)?)
            }
            DataType::Timestamp(..) => {
                Cells::Time(to(&DataType::Timestamp(TimeUnit::Microsecond, None))?)
            }
            DataType::Struct(_)
            | DataType::List(_)
            | DataType::LargeList(_)
            | DataType::Map(..) => {
                let field = Field::new("v", column.data_type().clone(), true);
                let object =
                    StructArray::new(Fields::from(vec![field]), vec![Arc::clone(column)], None);
                Cells::Json(Arc::new(encode_json(&object)))
            }
            _ => Cells::Other(Arc::clone(column)),
        })
    }

    fn array(&self) -> &ArrayRef {
        match self {
            Cells::Bool(array)
            | Cells::Int(array)
            | Cells::Float(array, _)
            | Cells::Text(array)
            | Cells::Bytes(array)
            | Cells::Time(array)
            | Cells::Json(array)
            | Cells::Other(array) => array,
        }
    }

    /// Whether a row has no value.
    pub fn is_null(&self, row: usize) -> bool {
        match self {
            Cells::Json(array) => json_value(array, row).is_none(),
            _ => self.array().is_null(row),
        }
    }

    /// Appends the value of a row.
    ///
    /// # Errors
    /// *Permanent*: the server would round or cut this value.
    pub fn write(&self, row: usize, target: &Target, out: &mut Vec<u8>) -> Result<(), Error> {
        if self.is_null(row) {
            out.extend_from_slice(b"\\N");
            return Ok(());
        }
        // Writing to memory does not fail.
        match self {
            Cells::Bool(array) => out.push(if array.as_boolean().value(row) {
                b't'
            } else {
                b'f'
            }),
            Cells::Int(array) => {
                let _ = write!(out, "{}", array.as_primitive::<Int64Type>().value(row));
            }
            Cells::Float(array, round) => {
                let value = match array.data_type() {
                    DataType::Float32 => {
                        let value = array.as_primitive::<Float32Type>().value(row);
                        if !*round && value.is_finite() {
                            let _ = write!(out, "{value}");
                            return Ok(());
                        }
                        f64::from(value)
                    }
                    _ => array.as_primitive::<Float64Type>().value(row),
                };
                let value = if *round { value.round() } else { value };
                let _ = match value {
                    _ if value.is_nan() => write!(out, "NaN"),
                    _ if value.is_infinite() && value > 0.0 => write!(out, "Infinity"),
                    _ if value.is_infinite() => write!(out, "-Infinity"),
                    _ => write!(out, "{value}"),
                };
            }
            Cells::Text(array) => {
                let text = array.as_string::<i32>().value(row);
                check_text(text, target)?;
                escape(text.as_bytes(), out);
            }
            Cells::Bytes(array) => {
                out.extend_from_slice(b"\\\\x");
                for byte in array.as_binary::<i32>().value(row) {
                    let _ = write!(out, "{byte:02x}");
                }
            }
            Cells::Time(array) => {
                write_time(
                    array.as_primitive::<TimestampMicrosecondType>().value(row),
                    out,
                );
            }
            Cells::Json(array) => escape(json_value(array, row).unwrap_or_default(), out),
            Cells::Other(array) => {
                let options = FormatOptions::default();
                let text = ArrayFormatter::try_new(array.as_ref(), &options)
                    .and_then(|formatter| formatter.value(row).try_to_string());
                let text = text.map_err(|why| {
                    Error::new(Class::Permanent, "postgres.value-text")
                        .with("column", &target.name)
                        .caused_by(why)
                })?;
                escape(text.as_bytes(), out);
            }
        }
        Ok(())
    }
}

/// The value of `{"v":…}`, which is left out where there is none.
fn json_value(array: &ArrayRef, row: usize) -> Option<&[u8]> {
    let object = array.as_binary::<i32>().value(row);
    object.get(5..object.len().saturating_sub(1))
}

fn whole(target: &Target) -> bool {
    target.lossy && matches!(target.oid, oid::INT2 | oid::INT4 | oid::INT8)
}

/// What the server would cut off a text without a word: a time behind a date, and digits of a number.
fn check_text(text: &str, target: &Target) -> Result<(), Error> {
    if target.lossy {
        return Ok(());
    }
    let loses = match target.oid {
        oid::DATE => text.trim().bytes().any(|byte| byte == b':'),
        // With an exponent the number is the server's to judge.
        oid::NUMERIC if target.modifier >= 0 => {
            fraction_digits(text) > usize::try_from(numeric_scale(target.modifier)).unwrap_or(0)
        }
        // The modifier is the number of digits behind the seconds.
        oid::TIME | oid::TIMESTAMP | oid::TIMESTAMPTZ => {
            usize::try_from(target.modifier).is_ok_and(|most| fraction_digits(text) > most)
        }
        _ => false,
    };
    match loses {
        false => Ok(()),
        true => Err(Error::new(Class::Permanent, "postgres.value-lossy")
            .with("value", busbar_event::quote(text))
            .with("column", &target.name)
            .with("to", &target.shown)),
    }
}

fn escape(text: &[u8], out: &mut Vec<u8>) {
    for byte in text {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            other => out.push(*other),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{BinaryArray, Float64Array, StringArray};

    use super::*;

    fn target(oid: u32, modifier: i32) -> Target {
        Target {
            name: "c".into(),
            oid,
            modifier,
            shown: "t".into(),
            is_collated: false,
            lossy: false,
        }
    }

    fn written(column: ArrayRef, target: &Target) -> Result<String, Error> {
        let mut out = Vec::new();
        Cells::new(&column, target)?.write(0, target, &mut out)?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn values_are_written_as_the_server_reads_them() {
        let text = |text: &str| Arc::new(StringArray::from(vec![text])) as ArrayRef;
        assert_eq!(
            written(text("a\tb\\c\n"), &target(oid::TEXT, -1)).unwrap(),
            "a\\tb\\\\c\\n"
        );
        let null = Arc::new(StringArray::from(vec![None::<&str>]));
        assert_eq!(written(null, &target(oid::TEXT, -1)).unwrap(), "\\N");
        let bytes = Arc::new(BinaryArray::from(vec![&b"\x00\xff"[..]]));
        assert_eq!(
            written(bytes, &target(oid::BYTEA, -1)).unwrap(),
            "\\\\x00ff"
        );
        let float = |value| Arc::new(Float64Array::from(vec![value])) as ArrayRef;
        assert_eq!(
            written(float(f64::NEG_INFINITY), &target(oid::FLOAT8, -1)).unwrap(),
            "-Infinity"
        );
        assert_eq!(
            written(float(0.1), &target(oid::FLOAT8, -1)).unwrap(),
            "0.1"
        );
    }

    #[test]
    fn a_text_that_would_be_cut_is_refused() {
        let text = |text: &str| Arc::new(StringArray::from(vec![text])) as ArrayRef;
        let money = target(oid::NUMERIC, ((10 << 16) | 2) + 4);
        assert!(written(text("1.230"), &money).is_ok());
        assert_eq!(
            written(text("1.234"), &money).unwrap_err().code(),
            "postgres.value-lossy"
        );
        let lossy = Target {
            lossy: true,
            ..money
        };
        assert!(written(text("1.234"), &lossy).is_ok());
        assert!(written(text("2024-05-06"), &target(oid::DATE, -1)).is_ok());
        assert!(written(text("2024-05-06 07:08"), &target(oid::DATE, -1)).is_err());
        for at in [oid::TIME, oid::TIMESTAMP, oid::TIMESTAMPTZ].map(|oid| target(oid, 3)) {
            assert!(written(text("2024-05-06T07:08:09.123000Z"), &at).is_ok());
            assert!(written(text("2024-05-06 07:08:09.1230+00"), &at).is_ok());
            assert!(written(text("2024-05-06T07:08:09.1234Z"), &at).is_err());
        }
        assert!(written(text("07:08:09.123456"), &target(oid::TIME, -1)).is_ok());
    }
}
