//! The step `map`: fields of other names, types and codes, each made of a column, a constant, several columns, or a part of one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use busbar_bus::Span;
use busbar_event::format::FieldType;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

/// Makes fields of columns: renames, constants, types, code tables, dates, parts and joined texts. An event whose value does
/// not fit a field becomes a dead letter that names the field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MapSpec {
    /// What each field is made of, in order: the name of a column, or a map of what is done.
    pub fields: MapFields,
    /// `true`: columns that no field is named after pass as they are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep: bool,
    /// Columns that do not pass; with `keep` only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop: Vec<String>,
}

/// Fields by name, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct MapFields(pub Vec<(String, MapField)>);

/// One field. It has one of `from`, `value`, `join` and `split`; the rest is done in the order in which it stands here.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MapField {
    /// The column that it is made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// A constant: a text, number or truth value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<MapConstant>,
    /// Columns whose texts are joined, with `with` between them; those without a value are left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub join: Vec<String>,
    /// A column whose text is split at each `with`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// What is between joined texts, or at what a text is split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub with: Option<String>,
    /// Which part of the text that is split, counted from 1; from the end where it is negative.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<i64>,
    /// A code table: what stands for each value. Another value makes a dead letter, unless there is `otherwise`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub codes: BTreeMap<String, MapConstant>,
    /// What stands for a value that is not in `codes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otherwise: Option<MapConstant>,
    /// How the text writes a time, such as `%d.%m.%Y`; it becomes a time, in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// A span that is added to the time, such as `30d`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plus: Option<Span>,
    /// A span that is taken from the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minus: Option<Span>,
    /// Whole years from the time to that of this column, such as an age at the event's `time`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub years_until: Option<String>,
    /// How the time is written as text, such as `%Y-%m-%d`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// The type it gets.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub field_type: Option<FieldType>,
    /// What it is where there is no value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<MapConstant>,
}

/// A text, a number or a truth value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapConstant {
    /// A text.
    Text(String),
    /// A number, as it is written.
    Number(String),
    /// A truth value.
    Bool(bool),
}

impl MapSpec {
    /// The names of the fields, as one line.
    pub(super) fn summary(&self) -> String {
        let names: Vec<&str> = self
            .fields
            .0
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        names.join(", ")
    }
}

impl<'de> Deserialize<'de> for MapFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapFieldsVisitor;
        impl<'de> Visitor<'de> for MapFieldsVisitor {
            type Value = MapFields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of field names to columns, or to maps of what is done")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MapFields, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, ColumnOrMore(field))) = map.next_entry()? {
                    fields.push((name, field));
                }
                Ok(MapFields(fields))
            }
        }
        deserializer.deserialize_map(MapFieldsVisitor)
    }
}

/// What a name stands for: a column, or a map.
struct ColumnOrMore(MapField);

impl<'de> Deserialize<'de> for ColumnOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ColumnOrMoreVisitor;
        impl<'de> Visitor<'de> for ColumnOrMoreVisitor {
            type Value = ColumnOrMore;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a column, or a map of what is done")
            }

            fn visit_str<E: de::Error>(self, column: &str) -> Result<ColumnOrMore, E> {
                Ok(ColumnOrMore(MapField {
                    from: Some(column.to_owned()),
                    ..MapField::default()
                }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ColumnOrMore, A::Error> {
                MapField::deserialize(MapAccessDeserializer::new(map)).map(ColumnOrMore)
            }
        }
        deserializer.deserialize_any(ColumnOrMoreVisitor)
    }
}

impl Serialize for MapFields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, field) in &self.0 {
            match &field.from {
                Some(column) if *field == MapField::renamed(column) => {
                    map.serialize_entry(name, column)?;
                }
                _ => map.serialize_entry(name, field)?,
            }
        }
        map.end()
    }
}

impl MapField {
    /// A column under another name.
    pub fn renamed(column: &str) -> MapField {
        MapField {
            from: Some(column.to_owned()),
            ..MapField::default()
        }
    }
}

impl JsonSchema for MapFields {
    fn schema_name() -> Cow<'static, str> {
        "MapFields".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let field = generator.subschema_for::<MapField>();
        json_schema!({
            "type": "object",
            "additionalProperties": { "oneOf": [{ "type": "string" }, field] },
        })
    }
}

impl<'de> Deserialize<'de> for MapConstant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapConstantVisitor;
        impl Visitor<'_> for MapConstantVisitor {
            type Value = MapConstant;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number or a truth value")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<MapConstant, E> {
                Ok(MapConstant::Text(text.to_owned()))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<MapConstant, E> {
                Ok(MapConstant::Bool(value))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<MapConstant, E> {
                Ok(MapConstant::Number(value.to_string()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<MapConstant, E> {
                Ok(MapConstant::Number(value.to_string()))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<MapConstant, E> {
                match value.is_finite() {
                    true => Ok(MapConstant::Number(value.to_string())),
                    false => Err(E::invalid_value(de::Unexpected::Float(value), &self)),
                }
            }
        }
        deserializer.deserialize_any(MapConstantVisitor)
    }
}

impl Serialize for MapConstant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            MapConstant::Text(text) => serializer.serialize_str(text),
            MapConstant::Bool(value) => serializer.serialize_bool(*value),
            MapConstant::Number(text) => match (text.parse::<i64>(), text.parse::<f64>()) {
                (Ok(number), _) => serializer.serialize_i64(number),
                (_, Ok(number)) => serializer.serialize_f64(number),
                _ => serializer.serialize_str(text),
            },
        }
    }
}

impl JsonSchema for MapConstant {
    fn schema_name() -> Cow<'static, str> {
        "MapConstant".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}
