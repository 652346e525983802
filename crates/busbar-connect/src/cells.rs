//! Columns of a batch and times as texts, for keys and values of other systems.

use std::borrow::Cow;
use std::io::Write as _;
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

/// Appends microseconds since 1970 as `2024-05-06 07:08:09.000001+00`.
pub fn write_time(micros: i64, out: &mut Vec<u8>) {
    let (seconds, fraction) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days of the civil calendar, in eras of 400 years that begin with March.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let (year, era) = if year > 0 {
        (year, "")
    } else {
        (1 - year, " BC")
    };
    let _ = write!(
        out,
        "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{fraction:06}+00{era}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (micros, expected) in [
            (0, "1970-01-01 00:00:00.000000+00"),
            (-1, "1969-12-31 23:59:59.999999+00"),
            (1_709_164_800_000_001, "2024-02-29 00:00:00.000001+00"),
            (-62_135_596_800_000_000, "0001-01-01 00:00:00.000000+00"),
            (-62_135_596_800_000_001, "0001-12-31 23:59:59.999999+00 BC"),
            (253_402_300_799_000_000, "9999-12-31 23:59:59.000000+00"),
        ] {
            let mut out = Vec::new();
            write_time(micros, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }
}
