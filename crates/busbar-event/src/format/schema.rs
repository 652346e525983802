//! What is in a payload: [`SchemaSpec`], the typed columns that people declare.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef, TimeUnit as ArrowUnit};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

use crate::limits::COLUMNS_MAX;
use crate::{Class, Error, Result};

/// The typed columns of a stream, in order. In a file it is a map of names to types,
/// `{ level_mm: float, at: { type: time, unit: s } }`, or a list of fields with names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SchemaSpec(pub Vec<FieldSpec>);

/// One column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldSpec {
    /// What queries and flows call it.
    pub name: String,
    /// What sort of value it is.
    #[serde(rename = "type")]
    pub field_type: FieldType,
    /// Where it is in the document, as a dotted path; the field of the same name if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The unit of a time that is given as a number; judged by its size if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<TimeUnit>,
    /// Whether an event without the field is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
}

/// The sorts of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FieldType {
    /// True or false.
    Bool,
    /// A whole number of 64 bits with sign.
    Int,
    /// A number with a fraction, of 64 bits.
    Float,
    /// Text.
    Text,
    /// A point in time, kept in microseconds.
    Time,
    /// Anything, kept as its JSON text.
    Json,
}

/// Units of times that are given as numbers since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, serde::Deserialize, JsonSchema)]
pub enum TimeUnit {
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Millis,
    /// Microseconds.
    #[serde(rename = "us")]
    Micros,
    /// Nanoseconds.
    #[serde(rename = "ns")]
    Nanos,
}

/// Names under which a schema's fields carry what Arrow has no word for.
pub(super) const META_TYPE: &str = "busbar.type";
pub(super) const META_PATH: &str = "busbar.path";
pub(super) const META_UNIT: &str = "busbar.unit";
const META_EXACT: &str = "busbar.exact";

/// The same schema, whose columns accept a value only if they print it as it came. For inferred columns: a
/// value is changed to fit a column only where the column was declared.
pub fn exact(schema: &ArrowSchema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let mut metadata = field.metadata().clone();
        metadata.insert(META_EXACT.to_string(), "true".to_string());
        Field::clone(field).with_metadata(metadata)
    });
    Arc::new(ArrowSchema::new(fields.collect::<Vec<_>>()))
}

/// The name under which typed columns hold a column: its own, or the one it had before it was called
/// otherwise to keep it apart from the stream's columns.
pub fn source_name(field: &Field) -> &str {
    match field.metadata().get(META_PATH) {
        Some(path) if is_exact(field) => path,
        _ => field.name(),
    }
}

/// Whether a column is one of [`exact`].
pub(super) fn is_exact(field: &Field) -> bool {
    field.metadata().contains_key(META_EXACT)
}

impl FieldType {
    /// The type as it is written in files.
    pub fn as_str(self) -> &'static str {
        match self {
            FieldType::Bool => "bool",
            FieldType::Int => "int",
            FieldType::Float => "float",
            FieldType::Text => "text",
            FieldType::Time => "time",
            FieldType::Json => "json",
        }
    }

    /// The Arrow type of such a column.
    pub fn data_type(self) -> DataType {
        match self {
            FieldType::Bool => DataType::Boolean,
            FieldType::Int => DataType::Int64,
            FieldType::Float => DataType::Float64,
            FieldType::Text | FieldType::Json => DataType::Utf8,
            FieldType::Time => DataType::Timestamp(ArrowUnit::Microsecond, Some("UTC".into())),
        }
    }

    /// What a column of an Arrow schema holds, if it is one that payloads are decoded to.
    pub fn of(field: &Field) -> Option<FieldType> {
        Some(match field.data_type() {
            DataType::Boolean => FieldType::Bool,
            DataType::Int64 => FieldType::Int,
            DataType::Float64 => FieldType::Float,
            DataType::Utf8 if field.metadata().get(META_TYPE).is_some_and(|t| t == "json") => {
                FieldType::Json
            }
            DataType::Utf8 => FieldType::Text,
            DataType::Timestamp(ArrowUnit::Microsecond, _) => FieldType::Time,
            _ => return None,
        })
    }
}

impl TimeUnit {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            TimeUnit::Seconds => "s",
            TimeUnit::Millis => "ms",
            TimeUnit::Micros => "us",
            TimeUnit::Nanos => "ns",
        }
    }

    pub(super) fn of(field: &Field) -> Option<TimeUnit> {
        let unit = field.metadata().get(META_UNIT)?;
        [
            TimeUnit::Seconds,
            TimeUnit::Millis,
            TimeUnit::Micros,
            TimeUnit::Nanos,
        ]
        .into_iter()
        .find(|known| known.as_str() == unit)
    }
}

impl FieldSpec {
    /// A field that may be missing, found under its own name.
    pub fn new(name: impl Into<String>, field_type: FieldType) -> FieldSpec {
        FieldSpec {
            name: name.into(),
            field_type,
            path: None,
            unit: None,
            required: false,
        }
    }

    /// The column of this field.
    pub fn field(&self) -> Field {
        let mut metadata = HashMap::new();
        if self.field_type == FieldType::Json {
            metadata.insert(META_TYPE.to_string(), "json".to_string());
        }
        if let Some(path) = &self.path {
            metadata.insert(META_PATH.to_string(), path.clone());
        }
        if let Some(unit) = self.unit {
            metadata.insert(META_UNIT.to_string(), unit.as_str().to_string());
        }
        Field::new(&self.name, self.field_type.data_type(), !self.required).with_metadata(metadata)
    }
}

impl SchemaSpec {
    /// The columns as Arrow sees them, or what is wrong with the declaration.
    pub fn schema(&self) -> Result<SchemaRef> {
        let wrong = |code, name: &str| {
            Error::new(Class::Configuration, code).with("field", crate::quote(name))
        };
        if self.0.len() > COLUMNS_MAX {
            return Err(
                Error::new(Class::Configuration, "event.schema-many").with("max", COLUMNS_MAX)
            );
        }
        let mut seen = HashSet::new();
        for field in &self.0 {
            if field.name.is_empty() {
                return Err(wrong("event.schema-name", &field.name));
            }
            if !seen.insert(field.name.as_str()) {
                return Err(wrong("event.schema-twice", &field.name));
            }
            if field
                .path
                .as_ref()
                .is_some_and(|path| path.split('.').any(str::is_empty))
            {
                return Err(wrong("event.schema-path", &field.name));
            }
            if field.unit.is_some() && field.field_type != FieldType::Time {
                return Err(wrong("event.schema-unit", &field.name));
            }
        }
        Ok(Arc::new(ArrowSchema::new(
            self.0.iter().map(FieldSpec::field).collect::<Vec<_>>(),
        )))
    }

    /// The declaration that gives this schema, for showing an inferred one to people. Columns of
    /// types that payloads are not decoded to are left out.
    pub fn of(schema: &ArrowSchema) -> SchemaSpec {
        let fields = schema.fields().iter().filter_map(|field| {
            Some(FieldSpec {
                name: field.name().clone(),
                field_type: FieldType::of(field)?,
                path: field.metadata().get(META_PATH).cloned(),
                unit: TimeUnit::of(field),
                required: !field.is_nullable(),
            })
        });
        SchemaSpec(fields.collect())
    }
}

/// A field in a map, where the name is the key.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Unnamed {
    #[serde(rename = "type")]
    field_type: FieldType,
    path: Option<String>,
    unit: Option<TimeUnit>,
    #[serde(default)]
    required: bool,
}

/// What a name stands for in a map: a type, or a type with more.
struct TypeOrMore(Unnamed);

impl<'de> Deserialize<'de> for TypeOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = TypeOrMore;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a type (bool, int, float, text, time or json) or a map with one")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<TypeOrMore, E> {
                let field_type = FieldType::deserialize(de::value::StrDeserializer::new(name))?;
                Ok(TypeOrMore(Unnamed {
                    field_type,
                    path: None,
                    unit: None,
                    required: false,
                }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TypeOrMore, A::Error> {
                Unnamed::deserialize(de::value::MapAccessDeserializer::new(map)).map(TypeOrMore)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for SchemaSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = SchemaSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of field names to types or a list of fields")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<SchemaSpec, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = seq.next_element()? {
                    fields.push(field);
                }
                Ok(SchemaSpec(fields))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SchemaSpec, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, TypeOrMore(more))) = map.next_entry()? {
                    let Unnamed {
                        field_type,
                        path,
                        unit,
                        required,
                    } = more;
                    fields.push(FieldSpec {
                        name,
                        field_type,
                        path,
                        unit,
                        required,
                    });
                }
                Ok(SchemaSpec(fields))
            }
        }
        deserializer.deserialize_any(Fields)
    }
}

impl Serialize for SchemaSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl JsonSchema for SchemaSpec {
    fn schema_name() -> Cow<'static, str> {
        "FieldTypes".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let field = generator.subschema_for::<FieldSpec>();
        let field_type = generator.subschema_for::<FieldType>();
        let unit = generator.subschema_for::<TimeUnit>();
        json_schema!({
            "description": "The typed columns: a map of names to types, or a list of fields",
            "oneOf": [
                { "type": "array", "items": field },
                {
                    "type": "object",
                    "additionalProperties": {
                        "oneOf": [
                            field_type,
                            {
                                "type": "object",
                                "properties": {
                                    "type": field_type,
                                    "path": { "type": "string" },
                                    "unit": unit,
                                    "required": { "type": "boolean" },
                                },
                                "required": ["type"],
                                "additionalProperties": false,
                            },
                        ],
                    },
                },
            ],
        })
    }
}
