//! Documents as rows.

use std::borrow::Cow;
use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use busbar_connector::{ColumnType, TextColumns};
use busbar_event::{Error, time};
use serde_json::value::RawValue;

use super::ElasticRows;

/// The column with a document's id.
pub const ID: &str = "_id";

/// The documents of an index as rows.
pub struct DocumentRows {
    pub index: String,
    pub schema: SchemaRef,
    kinds: Vec<ColumnType>,
    /// Places of the columns of the key.
    pub key: Vec<usize>,
}

impl DocumentRows {
    pub(super) fn new(options: &ElasticRows) -> DocumentRows {
        let columns = &options.columns;
        let fields = columns.iter().map(|one| one.kind.field(&one.name));
        let place = |key: &String| columns.iter().position(|one| one.name == *key);
        DocumentRows {
            index: options.index.clone(),
            schema: std::sync::Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>())),
            kinds: columns.iter().map(|one| one.kind).collect(),
            key: options.key.iter().filter_map(place).collect(),
        }
    }

    pub fn name(&self, column: usize) -> &str {
        self.schema.field(column).name()
    }

    /// The names of the columns of the key.
    pub fn key_names(&self) -> Vec<&str> {
        self.key.iter().map(|column| self.name(*column)).collect()
    }

    /// Whether documents are found by their ids alone.
    pub fn by_id(&self) -> bool {
        self.key_names() == [ID]
    }

    /// The fields that these columns need, and those of the key. Where that is none, one that no document has: a list without
    /// fields would mean all.
    pub fn wanted(&self, columns: &[usize]) -> Vec<&str> {
        let mut all: Vec<&str> = columns.iter().map(|column| self.name(*column)).collect();
        all.extend(self.key_names());
        all.retain(|name| *name != ID);
        all.sort_unstable();
        all.dedup();
        if all.is_empty() {
            all.push(ID);
        }
        all
    }

    /// The values of a row's key as JSON; none where one is null, for no document has it.
    pub fn asked(keys: &[ArrayRef], row: usize) -> Option<Vec<String>> {
        let one = |column: &ArrayRef| {
            if column.is_null(row) {
                return None;
            }
            Some(match column.data_type() {
                DataType::Boolean => column.as_boolean().value(row).to_string(),
                DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
                _ => text_json(column.as_string_opt::<i32>()?.value(row)),
            })
        };
        keys.iter().map(one).collect()
    }

    /// The values of a document's key, as [`DocumentRows::asked`] writes them; none where the document has another kind of value.
    pub fn key_of(&self, id: &str, source: &RawValue) -> Option<Vec<String>> {
        let one = |column: &usize| {
            if self.name(*column) == ID {
                return Some(text_json(id));
            }
            let value = field(source, self.name(*column))?.get();
            match self.kinds[*column] {
                ColumnType::Int => whole(value).map(|number| number.to_string()),
                ColumnType::Bool => serde_json::from_str::<bool>(value)
                    .ok()
                    .map(|value| value.to_string()),
                _ => serde_json::from_str::<String>(value)
                    .ok()
                    .map(|text| text_json(&text)),
            }
        };
        self.key.iter().map(one).collect()
    }

    /// Adds a document's values of some columns.
    ///
    /// # Errors
    /// *Permanent*: a value that the type of its column cannot hold.
    pub fn push(
        &self,
        id: &str,
        source: &RawValue,
        columns: &[usize],
        made: &mut TextColumns,
    ) -> Result<(), Error> {
        let texts = columns.iter().map(|column| match self.name(*column) {
            ID => Some(Cow::Borrowed(id)),
            name => text(self.kinds[*column], field(source, name)?),
        });
        let texts: Vec<_> = texts.collect();
        made.push(texts.iter().map(|text| text.as_deref().map(str::as_bytes)))
    }
}

/// A value as [`TextColumns`] takes it; none for null.
fn text(kind: ColumnType, value: &RawValue) -> Option<Cow<'_, str>> {
    let value = value.get();
    let number = || {
        value
            .parse::<f64>()
            .ok()
            .filter(|number| number.is_finite())
    };
    Some(match (kind, value.as_bytes().first()) {
        (_, Some(b'n') | None) => return None,
        (ColumnType::Json, _) => Cow::Borrowed(value),
        (_, Some(b'"')) => Cow::Owned(serde_json::from_str(value).ok()?),
        (ColumnType::Int, _) => match whole(value) {
            Some(number) => Cow::Owned(number.to_string()),
            None => Cow::Borrowed(value),
        },
        // Milliseconds since 1970.
        #[allow(clippy::cast_possible_truncation, reason = "it was compared")]
        (ColumnType::Time, Some(b'-' | b'0'..=b'9')) => match number() {
            Some(millis) if millis.abs() < 9e15 => {
                Cow::Owned(time::text((millis * 1_000.0).round() as i64))
            }
            _ => Cow::Borrowed(value),
        },
        _ => Cow::Borrowed(value),
    })
}

/// A whole number, also where it is written with a point or an exponent.
#[allow(clippy::cast_possible_truncation, reason = "it was compared")]
fn whole(value: &str) -> Option<i64> {
    value.parse().ok().or_else(|| {
        let number: f64 = value.parse().ok()?;
        (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
    })
}

fn text_json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The value of a field: `a.b` is the field of that name, or the field `b` of the object `a`.
fn field<'a>(object: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    let fields: BTreeMap<Cow<'_, str>, &'a RawValue> = serde_json::from_str(object.get()).ok()?;
    if let Some(value) = fields.get(name) {
        return Some(value);
    }
    let mut dots = name.match_indices('.');
    dots.find_map(|(at, _)| field(fields.get(&name[..at])?, &name[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect("JSON")
    }

    #[test]
    fn fields_are_found_in_objects_and_by_names_with_dots() {
        let document = raw(r#"{"a":{"b.c":1,"d":{"e":"\u00e9"}},"a.x":2,"l":[{"m":3}]}"#);
        for (name, expected) in [
            ("a.b.c", Some("1")),
            ("a.d.e", Some("\"\\u00e9\"")),
            ("a.x", Some("2")),
            ("l", Some("[{\"m\":3}]")),
            ("l.m", None),
            ("a.d.f", None),
            ("z", None),
        ] {
            assert_eq!(
                field(&document, name).map(RawValue::get),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn values_are_read_as_their_column_has_them() {
        for (kind, value, expected) in [
            (ColumnType::Text, "null", None),
            (ColumnType::Text, r#""a\n""#, Some("a\n")),
            (ColumnType::Text, "1.10", Some("1.10")),
            (ColumnType::Text, "[1]", Some("[1]")),
            (ColumnType::Int, "5.0", Some("5")),
            (
                ColumnType::Int,
                "9007199254740993",
                Some("9007199254740993"),
            ),
            (ColumnType::Int, "5.5", Some("5.5")),
            (ColumnType::Int, "\"7\"", Some("7")),
            (
                ColumnType::Time,
                "1500",
                Some("1970-01-01T00:00:01.500000Z"),
            ),
            (ColumnType::Time, "\"2024-05-06\"", Some("2024-05-06")),
            (ColumnType::Bool, "true", Some("true")),
            (ColumnType::Json, "\"a\"", Some("\"a\"")),
        ] {
            assert_eq!(text(kind, &raw(value)).as_deref(), expected, "{value}");
        }
    }
}
