//! Typed columns as JSON.

use std::io::Write;

use arrow::array::*;
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::*;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::scan::{is_json, plain_end};
use crate::time;

/// Each row as a JSON object; a null is left out.
///
/// Times are RFC 3339 with `Z` and microseconds, bytes are base64, numbers that JSON cannot say
/// (infinite, not a number) are null.
pub fn encode_json(columns: &StructArray) -> BinaryArray {
    let object = Object::new(columns);
    let rows = columns.len();
    let mut offsets = Vec::with_capacity(rows + 1);
    offsets.push(0i32);
    let mut out = Vec::with_capacity(rows * 32 * columns.num_columns().max(1));
    for row in 0..rows {
        object.write(row, &mut out);
        // A batch is far smaller than what 32 bits can count, even as text.
        assert!(
            out.len() <= i32::MAX as usize,
            "a batch is too large to be written as JSON"
        );
        offsets.push(out.len() as i32);
    }
    BinaryArray::new(
        OffsetBuffer::new(ScalarBuffer::from(offsets)),
        Buffer::from_vec(out),
        None,
    )
}

/// Columns with their names as JSON keys.
struct Object<'a> {
    members: Vec<(Vec<u8>, Column<'a>)>,
}

impl<'a> Object<'a> {
    fn new(columns: &'a StructArray) -> Self {
        let members = columns
            .fields()
            .iter()
            .zip(columns.columns())
            .map(|(field, column)| {
                let mut key = Vec::new();
                text(field.name().as_bytes(), &mut key);
                key.push(b':');
                (key, Column::new(column, super::FieldType::of(field)))
            });
        Object {
            members: members.collect(),
        }
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) {
        out.push(b'{');
        let begin = out.len();
        for (key, column) in &self.members {
            if column.is_valid(row) && !matches!(column.values, Values::Nothing) {
                if out.len() > begin {
                    out.push(b',');
                }
                out.extend_from_slice(key);
                column.write(row, out);
            }
        }
        out.push(b'}');
    }
}

/// A column, its type looked up once and not for each value.
pub(super) struct Column<'a> {
    array: &'a dyn Array,
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

enum Values<'a> {
    Nothing,
    Bool(&'a BooleanArray),
    I8(&'a Int8Array),
    I16(&'a Int16Array),
    I32(&'a Int32Array),
    I64(&'a Int64Array),
    U8(&'a UInt8Array),
    U16(&'a UInt16Array),
    U32(&'a UInt32Array),
    U64(&'a UInt64Array),
    F32(&'a Float32Array),
    F64(&'a Float64Array),
    Decimal(&'a Decimal128Array),
    Text(&'a StringArray),
    Json(&'a StringArray),
    Bytes(&'a BinaryArray),
    /// Microseconds from values: multiplied, then divided.
    Time(&'a [i64], i64, i64),
    Day(&'a Date32Array),
    /// A time of day, in units of which the number makes a second.
    Clock32(&'a [i32], i64),
    Clock64(&'a [i64], i64),
    Count(&'a [i64]),
    List(&'a OffsetBuffer<i32>, Box<Column<'a>>),
    Map(&'a OffsetBuffer<i32>, &'a StringArray, Box<Column<'a>>),
    Object(Object<'a>),
    /// Of a type that batches do not keep, such as a view: as Arrow shows it.
    Other,
}

impl<'a> Column<'a> {
    pub fn new(array: &'a ArrayRef, field_type: Option<super::FieldType>) -> Self {
        use arrow::datatypes::TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
        let nested = |array| Box::new(Column::new(array, None));
        let values = match array.data_type() {
            DataType::Null => Values::Nothing,
            DataType::Boolean => Values::Bool(array.as_boolean()),
            DataType::Int8 => Values::I8(array.as_primitive()),
            DataType::Int16 => Values::I16(array.as_primitive()),
            DataType::Int32 => Values::I32(array.as_primitive()),
            DataType::Int64 => Values::I64(array.as_primitive()),
            DataType::UInt8 => Values::U8(array.as_primitive()),
            DataType::UInt16 => Values::U16(array.as_primitive()),
            DataType::UInt32 => Values::U32(array.as_primitive()),
            DataType::UInt64 => Values::U64(array.as_primitive()),
            DataType::Float32 => Values::F32(array.as_primitive()),
            DataType::Float64 => Values::F64(array.as_primitive()),
            DataType::Decimal128(..) => Values::Decimal(array.as_primitive()),
            DataType::Utf8 if field_type == Some(super::FieldType::Json) => {
                Values::Json(array.as_string())
            }
            DataType::Utf8 => Values::Text(array.as_string()),
            DataType::Binary => Values::Bytes(array.as_binary()),
            DataType::Timestamp(Second, _) => Values::Time(
                array.as_primitive::<TimestampSecondType>().values(),
                1_000_000,
                1,
            ),
            DataType::Timestamp(Millisecond, _) => Values::Time(
                array.as_primitive::<TimestampMillisecondType>().values(),
                1_000,
                1,
            ),
            DataType::Timestamp(Microsecond, _) => Values::Time(
                array.as_primitive::<TimestampMicrosecondType>().values(),
                1,
                1,
            ),
            DataType::Timestamp(Nanosecond, _) => Values::Time(
                array.as_primitive::<TimestampNanosecondType>().values(),
                1,
                1_000,
            ),
            DataType::Date32 => Values::Day(array.as_primitive()),
            DataType::Date64 => Values::Time(array.as_primitive::<Date64Type>().values(), 1_000, 1),
            DataType::Time32(Second) => {
                Values::Clock32(array.as_primitive::<Time32SecondType>().values(), 1)
            }
            DataType::Time32(Millisecond) => Values::Clock32(
                array.as_primitive::<Time32MillisecondType>().values(),
                1_000,
            ),
            DataType::Time64(Microsecond) => Values::Clock64(
                array.as_primitive::<Time64MicrosecondType>().values(),
                1_000_000,
            ),
            DataType::Time64(Nanosecond) => Values::Clock64(
                array.as_primitive::<Time64NanosecondType>().values(),
                1_000_000_000,
            ),
            DataType::Duration(Second) => {
                Values::Count(array.as_primitive::<DurationSecondType>().values())
            }
            DataType::Duration(Millisecond) => {
                Values::Count(array.as_primitive::<DurationMillisecondType>().values())
            }
            DataType::Duration(Microsecond) => {
                Values::Count(array.as_primitive::<DurationMicrosecondType>().values())
            }
            DataType::Duration(Nanosecond) => {
                Values::Count(array.as_primitive::<DurationNanosecondType>().values())
            }
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                Values::List(list.offsets(), nested(list.values()))
            }
            DataType::Map(..) if array.as_map().keys().data_type() == &DataType::Utf8 => {
                let map = array.as_map();
                Values::Map(map.offsets(), map.keys().as_string(), nested(map.values()))
            }
            DataType::Struct(_) => Values::Object(Object::new(array.as_struct())),
            _ => Values::Other,
        };
        Column {
            array,
            nulls: array.nulls(),
            values,
        }
    }

    #[inline]
    pub fn is_valid(&self, row: usize) -> bool {
        self.nulls.is_none_or(|nulls| nulls.is_valid(row))
    }

    /// A value that may be null.
    fn write_nullable(&self, row: usize, out: &mut Vec<u8>) {
        if self.is_valid(row) {
            self.write(row, out)
        } else {
            null(out)
        }
    }

    /// Writes a value that is not null.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) {
        match &self.values {
            Values::Nothing => null(out),
            Values::Bool(values) => {
                out.extend_from_slice(if values.value(row) { b"true" } else { b"false" });
            }
            Values::I8(values) => int(values.value(row), out),
            Values::I16(values) => int(values.value(row), out),
            Values::I32(values) => int(values.value(row), out),
            Values::I64(values) => int(values.value(row), out),
            Values::U8(values) => int(values.value(row), out),
            Values::U16(values) => int(values.value(row), out),
            Values::U32(values) => int(values.value(row), out),
            Values::U64(values) => int(values.value(row), out),
            Values::F32(values) => match values.value(row) {
                value if value.is_finite() => {
                    out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
                }
                _ => null(out),
            },
            Values::F64(values) => match values.value(row) {
                value if value.is_finite() => {
                    out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
                }
                _ => null(out),
            },
            Values::Decimal(values) => {
                out.extend_from_slice(values.value_as_string(row).as_bytes());
            }
            Values::Text(values) => text(values.value(row).as_bytes(), out),
            // What an expression made of JSON text need not be JSON any more.
            Values::Json(values) => match values.value(row).as_bytes() {
                // Line ends are only between its parts, and must not end a line of NDJSON.
                json if is_json(json) => out.extend(json.iter().filter(|byte| **byte >= b' ')),
                other => text(other, out),
            },
            Values::Bytes(values) => {
                out.push(b'"');
                let (bytes, begin) = (values.value(row), out.len());
                out.resize(begin + bytes.len().div_ceil(3) * 4, 0);
                let written = STANDARD.encode_slice(bytes, &mut out[begin..]).unwrap_or(0);
                out.truncate(begin + written);
                out.push(b'"');
            }
            Values::Time(values, factor, divisor) => {
                out.push(b'"');
                let micros = values[row].saturating_mul(*factor).div_euclid(*divisor);
                time::write(micros, out);
                out.push(b'"');
            }
            Values::Day(values) => {
                out.push(b'"');
                time::write_date(values.value(row).into(), out);
                out.push(b'"');
            }
            Values::Clock32(values, scale) => clock(values[row].into(), *scale, out),
            Values::Clock64(values, scale) => clock(values[row], *scale, out),
            Values::Count(values) => int(values[row], out),
            Values::List(offsets, items) => {
                out.push(b'[');
                let (from, to) = (offsets[row] as usize, offsets[row + 1] as usize);
                for item in from..to {
                    if item > from {
                        out.push(b',');
                    }
                    items.write_nullable(item, out);
                }
                out.push(b']');
            }
            Values::Map(offsets, keys, values) => {
                out.push(b'{');
                let (from, to) = (offsets[row] as usize, offsets[row + 1] as usize);
                for pair in from..to {
                    if pair > from {
                        out.push(b',');
                    }
                    text(keys.value(pair).as_bytes(), out);
                    out.push(b':');
                    values.write_nullable(pair, out);
                }
                out.push(b'}');
            }
            Values::Object(object) => object.write(row, out),
            Values::Other => {
                let shown = arrow::util::display::array_value_to_string(self.array, row);
                text(shown.unwrap_or_default().as_bytes(), out);
            }
        }
    }
}

fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(b"null");
}

fn int(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn clock(value: i64, scale: i64, out: &mut Vec<u8>) {
    out.push(b'"');
    let second = value.div_euclid(scale).rem_euclid(86_400);
    let micros = value.rem_euclid(scale) as i128 * 1_000_000 / i128::from(scale);
    time::write_clock(second, micros as i64, out);
    out.push(b'"');
}

/// Writes text as a JSON string.
pub fn write_json_text(value: &str, out: &mut Vec<u8>) {
    text(value.as_bytes(), out);
}

fn text(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut from = 0;
    loop {
        let at = plain_end(text, from);
        out.extend_from_slice(&text[from..at]);
        let Some(byte) = text.get(at) else { break };
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..=0x1f => {
                // Writing to memory does not fail.
                let _ = write!(out, "\\u{byte:04x}");
            }
            _ => out.extend_from_slice(&[b'\\', *byte]),
        }
        from = at + 1;
    }
    out.push(b'"');
}
