//! The step `xml`: columns as an XML document.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};

/// Writes columns of each event as an XML document, which becomes the event's payload, or a column with `as`. An event of which no
/// document can be made becomes a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct XmlSpec {
    /// The name of the root element.
    pub root: String,
    /// The namespace of all elements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The encoding of the documents, such as `GB18030`; UTF-8 without it. Not with `as`, since a column is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// Columns and where their values go: `@id` is an attribute of the root element, `name.family` an element in an element,
    /// `level.#text` the text of an element with attributes. Without it each column of the payload is an element of its name.
    #[serde(default, skip_serializing_if = "XmlPlaces::is_empty")]
    pub columns: XmlPlaces,
    /// The name of a column for the document; other columns go on beside it.
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
}

/// Columns and their places in a document, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct XmlPlaces(pub Vec<(String, String)>);

impl XmlPlaces {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for XmlPlaces {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(column, place)| (column, place)))
    }
}

impl<'de> Deserialize<'de> for XmlPlaces {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct XmlPlacesVisitor;
        impl<'de> Visitor<'de> for XmlPlacesVisitor {
            type Value = XmlPlaces;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of columns to places in a document")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<XmlPlaces, A::Error> {
                let mut places = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    places.push(entry);
                }
                Ok(XmlPlaces(places))
            }
        }
        deserializer.deserialize_map(XmlPlacesVisitor)
    }
}

impl JsonSchema for XmlPlaces {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "XmlPlaces".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Columns and their places in a document",
            "type": "object",
            "additionalProperties": { "type": "string" },
        })
    }
}
