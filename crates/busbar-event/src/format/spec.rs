//! How payloads are written: [`FormatSpec`].

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::Hl7Options;
use crate::{Class, Error};

/// How the payloads of a stream are written. In a file it is a name, `json`, or a name with
/// options, `csv: { delimiter: ";" }`.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum FormatSpec {
    /// Bytes that are not decoded.
    #[default]
    Raw,
    /// A JSON object in each payload.
    Json(JsonOptions),
    /// A row of separated values in each payload.
    Csv(CsvOptions),
    /// An XML document in each payload.
    Xml(XmlOptions),
    /// A message of HL7 version 2 in each payload.
    Hl7(Hl7Options),
    /// A resource of FHIR in JSON in each payload.
    Fhir,
}

/// Options of JSON payloads.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JsonOptions {
    /// Where in the document the fields are, as a dotted path; the whole document if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
}

/// Options of XML payloads. An attribute `id` is the member `@id`, an element the member of its name without a prefix; text
/// beside attributes or elements is `#text`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct XmlOptions {
    /// Where below the root element the fields are, as a dotted path; the root element itself if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
}

/// Options of CSV payloads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CsvOptions {
    /// Whether each payload begins with a line of column names. If not, the columns are the
    /// schema's, in its order.
    pub header: bool,
    /// What separates values: one ASCII character.
    pub delimiter: char,
    /// What may surround a value; doubled inside it stands for itself: one ASCII character.
    pub quote: char,
}

impl Default for CsvOptions {
    fn default() -> Self {
        CsvOptions {
            header: false,
            delimiter: ',',
            quote: '"',
        }
    }
}

impl FormatSpec {
    /// The name of the format without its options.
    pub fn name(&self) -> &'static str {
        match self {
            FormatSpec::Raw => "raw",
            FormatSpec::Json(_) => "json",
            FormatSpec::Csv(_) => "csv",
            FormatSpec::Xml(_) => "xml",
            FormatSpec::Hl7(_) => "hl7",
            FormatSpec::Fhir => "fhir",
        }
    }
}

impl Serialize for FormatSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fn with<S: Serializer, O: Serialize>(
            serializer: S,
            name: &'static str,
            options: &O,
        ) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry(name, options)?;
            map.end()
        }
        match self {
            FormatSpec::Json(options) if *options != JsonOptions::default() => {
                with(serializer, "json", options)
            }
            FormatSpec::Csv(options) if *options != CsvOptions::default() => {
                with(serializer, "csv", options)
            }
            FormatSpec::Xml(options) if *options != XmlOptions::default() => {
                with(serializer, "xml", options)
            }
            FormatSpec::Hl7(options) if *options != Hl7Options::default() => {
                with(serializer, "hl7", options)
            }
            plain => serializer.serialize_str(plain.name()),
        }
    }
}

const NAMES: &[&str] = &["raw", "json", "csv", "xml", "hl7", "fhir"];

impl<'de> Deserialize<'de> for FormatSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Format;
        impl<'de> Visitor<'de> for Format {
            type Value = FormatSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("raw, json, csv, xml, hl7 or fhir, or one of them with options")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<FormatSpec, E> {
                match name {
                    "raw" => Ok(FormatSpec::Raw),
                    "json" => Ok(FormatSpec::Json(JsonOptions::default())),
                    "csv" => Ok(FormatSpec::Csv(CsvOptions::default())),
                    "xml" => Ok(FormatSpec::Xml(XmlOptions::default())),
                    "hl7" => Ok(FormatSpec::Hl7(Hl7Options::default())),
                    "fhir" => Ok(FormatSpec::Fhir),
                    other => Err(E::unknown_variant(other, NAMES)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FormatSpec, A::Error> {
                let Some(name) = map.next_key::<String>()? else {
                    return Err(de::Error::invalid_length(0, &self));
                };
                let format = match name.as_str() {
                    "raw" | "fhir" => {
                        #[derive(serde::Deserialize)]
                        #[serde(deny_unknown_fields)]
                        struct NoOptions {}
                        map.next_value::<Option<NoOptions>>()?;
                        match name.as_str() {
                            "raw" => FormatSpec::Raw,
                            _ => FormatSpec::Fhir,
                        }
                    }
                    "json" => FormatSpec::Json(map.next_value::<Option<_>>()?.unwrap_or_default()),
                    "csv" => FormatSpec::Csv(map.next_value::<Option<_>>()?.unwrap_or_default()),
                    "xml" => FormatSpec::Xml(map.next_value::<Option<_>>()?.unwrap_or_default()),
                    "hl7" => FormatSpec::Hl7(map.next_value::<Option<_>>()?.unwrap_or_default()),
                    other => return Err(de::Error::unknown_variant(other, NAMES)),
                };
                match map.next_key::<String>()? {
                    None => Ok(format),
                    Some(more) => {
                        let error = Error::new(Class::Configuration, "event.format-two")
                            .with("format", format.name())
                            .with("other", crate::quote(&more));
                        Err(de::Error::custom(error))
                    }
                }
            }
        }
        deserializer.deserialize_any(Format)
    }
}

impl JsonSchema for FormatSpec {
    fn schema_name() -> Cow<'static, str> {
        "Format".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let json = generator.subschema_for::<JsonOptions>();
        let csv = generator.subschema_for::<CsvOptions>();
        let xml = generator.subschema_for::<XmlOptions>();
        let hl7 = generator.subschema_for::<Hl7Options>();
        json_schema!({
            "description": "How payloads are written: a name, or a name with options",
            "oneOf": [
                { "type": "string", "enum": NAMES },
                {
                    "type": "object",
                    "properties": { "json": json, "csv": csv, "xml": xml, "hl7": hl7 },
                    "additionalProperties": false,
                    "minProperties": 1,
                    "maxProperties": 1,
                },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_a_name_or_with_options() {
        for (text, format) in [
            ("\"raw\"", FormatSpec::Raw),
            ("\"json\"", FormatSpec::Json(JsonOptions::default())),
            ("\"csv\"", FormatSpec::Csv(CsvOptions::default())),
            (
                r#"{"csv":{"header":true,"delimiter":";","quote":"\""}}"#,
                FormatSpec::Csv(CsvOptions {
                    header: true,
                    delimiter: ';',
                    quote: '"',
                }),
            ),
            ("\"xml\"", FormatSpec::Xml(XmlOptions::default())),
            (
                r#"{"xml":{"root":"body.reading"}}"#,
                FormatSpec::Xml(XmlOptions {
                    root: Some("body.reading".into()),
                }),
            ),
            ("\"hl7\"", FormatSpec::Hl7(Hl7Options::default())),
            ("\"fhir\"", FormatSpec::Fhir),
            (
                r#"{"hl7":{"charset":"GB18030","zone":"+08:00"}}"#,
                FormatSpec::Hl7(Hl7Options {
                    charset: Some("GB18030".into()),
                    zone: Some("+08:00".into()),
                }),
            ),
            (
                r#"{"json":{"root":"data"}}"#,
                FormatSpec::Json(JsonOptions {
                    root: Some("data".into()),
                }),
            ),
        ] {
            assert_eq!(serde_json::from_str::<FormatSpec>(text).unwrap(), format);
            assert_eq!(serde_json::to_string(&format).unwrap(), text);
        }
        assert_eq!(
            serde_json::from_str::<FormatSpec>(r#"{"csv":null}"#).unwrap(),
            FormatSpec::Csv(CsvOptions::default())
        );
        for wrong in [
            "\"yaml\"",
            "{}",
            r#"{"raw":{"a":1}}"#,
            r#"{"fhir":{"a":1}}"#,
            r#"{"csv":{"delimiter":";;"}}"#,
            r#"{"csv":{"separator":";"}}"#,
            r#"{"csv":{},"json":{}}"#,
            "3",
        ] {
            assert!(
                serde_json::from_str::<FormatSpec>(wrong).is_err(),
                "{wrong}"
            );
        }
    }
}
