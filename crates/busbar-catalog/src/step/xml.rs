//! The steps of XML: `xml` writes columns as a document, `xslt` transforms documents and `validate` checks them.

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
    /// Columns and the paths of their values in the document: `@id` is an attribute of the root element, `name.family` an element in an element,
    /// `level.#text` the text of an element with attributes. Without it each column of the payload is an element of its name.
    #[serde(default, skip_serializing_if = "XmlPaths::is_empty")]
    pub columns: XmlPaths,
    /// The name of a column for the document; other columns go on beside it.
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
}

/// Columns and the paths of their values in a document, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct XmlPaths(pub Vec<(String, String)>);

impl XmlPaths {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for XmlPaths {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(column, path)| (column, path)))
    }
}

impl<'de> Deserialize<'de> for XmlPaths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct XmlPathsVisitor;
        impl<'de> Visitor<'de> for XmlPathsVisitor {
            type Value = XmlPaths;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of columns to paths in a document")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<XmlPaths, A::Error> {
                let mut paths = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    paths.push(entry);
                }
                Ok(XmlPaths(paths))
            }
        }
        deserializer.deserialize_map(XmlPathsVisitor)
    }
}

impl JsonSchema for XmlPaths {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "XmlPaths".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Columns and the paths of their values in a document",
            "type": "object",
            "additionalProperties": { "type": "string" },
        })
    }
}

/// Transforms a document with a plug-in whose language is `xslt`. An event of which the style sheet makes nothing becomes a dead
/// letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct XsltSpec {
    /// The plug-in. Its parameters are settings, parts of the event and tags.
    pub plugin: String,
    /// The column with the document; without it the payload. A null stays one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The column for the result, beside the others; without it the result takes the place of the document.
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
}

/// Checks a document by an XML Schema, with a plug-in whose language is `xsd`. An event whose document does not fit becomes a dead
/// letter with line, path and reason, or says so in a column with `flag`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ValidateSpec {
    /// The plug-in.
    pub plugin: String,
    /// The column with the document; without it the payload. A null is not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// A text column for what is wrong with the document; null where it fits. All events go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flag: Option<String>,
}
