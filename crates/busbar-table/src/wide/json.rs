//! Keys and cells as JSON.

use busbar_event::{Class, Error, time};
use serde_json::{Map, Value as Json};

use super::Wide;
use super::cell::CellValue;
use crate::columns::{ColumnType, EXACT_INT_MAX};

impl Wide {
    /// The values of a key: an object with a member for each column of the key, or for the first ones of them.
    ///
    /// # Errors
    /// A member that is no column of the key, is missing before another one, or does not fit its column.
    pub fn key_values(&self, object: &Map<String, Json>) -> Result<Vec<CellValue>, Error> {
        let layout = self.layout();
        let form = self.form(&layout)?;
        let columns: Vec<&str> = self.key.iter().map(String::as_str).collect();
        let unfit = |column: &str| {
            Error::new(Class::Permanent, "table.wide-key-member")
                .with("table", &self.name)
                .with("column", column)
                .with("key", columns.join(", "))
        };
        let mut values = Vec::with_capacity(object.len());
        for (column, kind) in columns.iter().zip(form.types()) {
            let Some(json) = object.get(*column) else {
                break;
            };
            let value = cell_value(json.clone(), Some(*kind));
            values.push(value.ok().flatten().ok_or_else(|| unfit(column))?);
        }
        let known = &columns[..values.len()];
        match object
            .keys()
            .find(|column| !known.contains(&column.as_str()))
        {
            Some(column) => Err(unfit(column)),
            None => Ok(values),
        }
    }

    /// The key as an object.
    pub fn key_object(&self, values: &[CellValue]) -> Map<String, Json> {
        let members = self.key.iter().zip(values);
        members
            .map(|(column, value)| (column.clone(), value.to_json()))
            .collect()
    }

    /// A value for a cell; none for null.
    ///
    /// # Errors
    /// A value that the column of the cell does not keep.
    pub fn cell_value(&self, column: &str, json: Json) -> Result<Option<CellValue>, Error> {
        let layout = self.layout();
        let (family, qualifier) = self.cell(&layout, column)?;
        let kind = layout.column_type(family, qualifier.as_bytes());
        cell_value(json, kind).map_err(|given| {
            let kept = kind.unwrap_or(ColumnType::Json);
            Error::new(Class::Permanent, "table.wide-value-type")
                .with("column", column)
                .with("kept", kept.word())
                .with("given", given)
        })
    }

    /// Whether a name is that of a family.
    pub fn is_family(&self, name: &str) -> bool {
        self.layout().family_named(name).is_some()
    }
}

impl CellValue {
    /// The value as JSON: times as text in UTC, bytes as hexadecimal digits, documents as they are.
    pub fn to_json(&self) -> Json {
        match self {
            Self::Bool(value) => (*value).into(),
            Self::Int(value) => (*value).into(),
            Self::Float(value) => (*value).into(),
            Self::Text(value) => value.as_str().into(),
            Self::Time(value) => time::text(*value).into(),
            Self::Binary(value) => {
                let digits = value.iter().map(|byte| format!("{byte:02x}"));
                digits.collect::<String>().into()
            }
            Self::Json(value) => {
                serde_json::from_str(value).unwrap_or_else(|_| value.as_str().into())
            }
        }
    }
}

/// What a JSON value is as a cell, of the column's type where the cell has a column; none for null.
///
/// # Errors
/// The word for what was given, if it does not fit the type.
pub(super) fn cell_value(
    json: Json,
    kind: Option<ColumnType>,
) -> Result<Option<CellValue>, &'static str> {
    let value = match json {
        Json::Null => return Ok(None),
        Json::Bool(value) => CellValue::Bool(value),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(int), _) => CellValue::Int(int),
            (None, Some(float)) => CellValue::Float(float),
            (None, None) => return Err("float"),
        },
        Json::String(value) => CellValue::Text(value),
        nested => CellValue::Json(nested.to_string()),
    };
    let given = value.kind().word();
    match kind {
        None => Ok(Some(value)),
        Some(kind) => fit(value, kind).map(Some).ok_or(given),
    }
}

/// A value as a column of this type keeps it; none if it does not without a change.
pub(super) fn fit(value: CellValue, kind: ColumnType) -> Option<CellValue> {
    Some(match (value, kind) {
        (value, kind) if value.is_of(kind) => value,
        (CellValue::Int(int), ColumnType::Float) if int.unsigned_abs() <= EXACT_INT_MAX => {
            CellValue::Float(int as f64)
        }
        (CellValue::Json(text), ColumnType::Text) => CellValue::Text(text),
        (CellValue::Text(text), ColumnType::Json) => {
            serde_json::from_str::<serde::de::IgnoredAny>(&text).ok()?;
            CellValue::Json(text)
        }
        (CellValue::Text(text), ColumnType::Time) => CellValue::Time(time::parse(&text)?),
        (CellValue::Text(text), ColumnType::Binary) => CellValue::Binary(digits(&text)?),
        _ => return None,
    })
}

/// The bytes that pairs of hexadecimal digits stand for.
fn digits(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some((digit(high)? * 16 + digit(low)?) as u8),
            _ => None,
        })
        .collect()
}
