//! Columns of a batch as texts, for keys and values of other systems.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, Float32Type, Float64Type};
use busbar_event::format::encode_json;
use busbar_event::{Class, Error};

/// One column, ready to be written.
pub enum TextCells {
    /// Texts as they are.
    Text(ArrayRef),
    /// Bytes as they are.
    Bytes(ArrayRef),
    /// Numbers, times and structures: each row as `{"v":…}`, and the column itself.
    Json(BinaryArray, ArrayRef),
}

impl TextCells {
    /// Prepares a column.
    ///
    /// # Errors
    /// *Configuration*: a type that has no text.
    pub fn new(name: &str, column: &ArrayRef) -> Result<TextCells, Error> {
        let to = |to: &DataType| {
            cast(column, to).map_err(|why| {
                Error::new(Class::Configuration, "connect.column-type")
                    .with("column", name)
                    .with("from", column.data_type())
                    .caused_by(why)
            })
        };
        Ok(match column.data_type() {
            DataType::Dictionary(_, values) => return TextCells::new(name, &to(values)?),
            DataType::Utf8 => TextCells::Text(Arc::clone(column)),
            DataType::LargeUtf8 | DataType::Utf8View => TextCells::Text(to(&DataType::Utf8)?),
            DataType::Binary => TextCells::Bytes(Arc::clone(column)),
            DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                TextCells::Bytes(to(&DataType::Binary)?)
            }
            kind => {
                let field = Field::new("v", kind.clone(), true);
                let object =
                    StructArray::new(Fields::from(vec![field]), vec![Arc::clone(column)], None);
                TextCells::Json(encode_json(&object), Arc::clone(column))
            }
        })
    }

    /// The text of a row's value; `None` for NULL.
    pub fn get(&self, row: usize) -> Option<Cow<'_, [u8]>> {
        match self {
            TextCells::Text(array) if array.is_null(row) => None,
            TextCells::Bytes(array) if array.is_null(row) => None,
            TextCells::Json(_, array) if array.is_null(row) => None,
            TextCells::Text(array) => Some(Cow::Borrowed(
                array.as_string::<i32>().value(row).as_bytes(),
            )),
            TextCells::Bytes(array) => Some(Cow::Borrowed(array.as_binary::<i32>().value(row))),
            TextCells::Json(json, array) => {
                // JSON has no words for these.
                let number = match array.data_type() {
                    DataType::Float64 => array.as_primitive::<Float64Type>().value(row),
                    DataType::Float32 => f64::from(array.as_primitive::<Float32Type>().value(row)),
                    _ => 0.0,
                };
                if !number.is_finite() {
                    return Some(Cow::Borrowed(match number {
                        f64::INFINITY => &b"Infinity"[..],
                        f64::NEG_INFINITY => &b"-Infinity"[..],
                        _ => &b"NaN"[..],
                    }));
                }
                let object = json.value(row);
                let value = object.get(5..object.len().saturating_sub(1))?;
                // The text of a time or a decimal holds nothing that JSON escapes.
                let bare = value
                    .strip_prefix(b"\"")
                    .and_then(|value| value.strip_suffix(b"\""));
                Some(Cow::Borrowed(bare.unwrap_or(value)))
            }
        }
    }
}
