//! Reads plain serde types from a [`Node`]; every error carries the place of the node it is about.

use std::fmt::{self, Display};
use std::ops::Range;

use busbar_event::{Class, Error};
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};

use crate::diagnostic::{Diagnostic, suggest};
use crate::tree::{Node, Spot, Value};

/// Why a node does not fit the type that was asked for.
#[derive(Debug)]
pub struct NodeError {
    what: What,
    span: Option<Range<usize>>,
}

#[derive(Debug)]
enum What {
    UnknownKey(String, &'static [&'static str]),
    UnknownValue(String, &'static [&'static str]),
    MissingKey(&'static str),
    DuplicateKey(&'static str),
    WrongType { found: String, expected: String },
    Other(String),
}

impl NodeError {
    /// Gives the error a place unless it has a closer one.
    pub(crate) fn at(mut self, span: &Range<usize>) -> Self {
        self.span.get_or_insert_with(|| span.clone());
        self
    }

    /// The error as people see it.
    pub(crate) fn diagnostic(self, file: &str, text: &str, node: &Node) -> Diagnostic {
        let new = |code| Error::new(Class::Configuration, code);
        let mut help = None;
        let error = match self.what {
            What::UnknownKey(key, known) => {
                help = suggest(&key, known.iter().copied());
                if help.is_none() {
                    help = Some(new("catalog.known-keys").with("keys", known.join(", ")));
                }
                new("catalog.unknown-key").with("key", key)
            }
            What::UnknownValue(value, known) => {
                help = suggest(&value, known.iter().copied());
                if help.is_none() {
                    help = Some(new("catalog.known-keys").with("keys", known.join(", ")));
                }
                new("catalog.unknown-value").with("value", value)
            }
            What::MissingKey(key) => new("catalog.missing-key").with("key", key),
            What::DuplicateKey(key) => new("catalog.duplicate-key").with("key", key),
            What::WrongType { found, expected } => new("catalog.wrong-type")
                .with("found", found)
                .with("expected", expected),
            What::Other(why) => new("catalog.invalid").with("why", why),
        };
        let span = self.span.unwrap_or_else(|| node.span.clone());
        Diagnostic::new(file, text, span, error).with_help(help)
    }
}

impl Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::UnknownKey(key, known) => {
                write!(f, "unknown key `{key}`; known are {}", known.join(", "))
            }
            What::UnknownValue(value, known) => {
                write!(f, "unknown value `{value}`; known are {}", known.join(", "))
            }
            What::MissingKey(key) => write!(f, "key `{key}` is missing"),
            What::DuplicateKey(key) => write!(f, "key `{key}` is given twice"),
            What::WrongType { found, expected } => write!(f, "{found} where {expected} belongs"),
            What::Other(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for NodeError {}

impl de::Error for NodeError {
    fn custom<T: Display>(why: T) -> Self {
        What::Other(why.to_string()).into()
    }
    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        What::WrongType {
            found: found.to_string(),
            expected: expected.to_string(),
        }
        .into()
    }
    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        What::WrongType {
            found: found.to_string(),
            expected: expected.to_string(),
        }
        .into()
    }
    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        What::UnknownKey(key.to_owned(), known).into()
    }
    fn unknown_variant(value: &str, known: &'static [&'static str]) -> Self {
        What::UnknownValue(value.to_owned(), known).into()
    }
    fn missing_field(key: &'static str) -> Self {
        What::MissingKey(key).into()
    }
    fn duplicate_field(key: &'static str) -> Self {
        What::DuplicateKey(key).into()
    }
}

impl From<What> for NodeError {
    fn from(what: What) -> Self {
        NodeError { what, span: None }
    }
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = NodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(v) => visitor.visit_bool(*v),
            Value::Int(v) => visitor.visit_i64(*v),
            Value::UInt(v) => visitor.visit_u64(*v),
            Value::Float(v) => visitor.visit_f64(*v),
            Value::Text(v) => visitor.visit_borrowed_str(v),
            Value::Seq(items) => visitor.visit_seq(Items(items.iter())),
            Value::Map(entries) => visitor.visit_map(Entries {
                rest: entries.iter(),
                value: None,
            }),
        }
        .map_err(|e| e.at(&self.span))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        match &self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
        .map_err(|e| e.at(&self.span))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        match (&self.value, &self.raw) {
            // `version: 1.10` and `where: true` mean what is written.
            (Value::Bool(_) | Value::Int(_) | Value::UInt(_) | Value::Float(_), Some(raw)) => {
                visitor
                    .visit_borrowed_str(raw)
                    .map_err(|e: NodeError| e.at(&self.span))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, NodeError> {
        visitor
            .visit_newtype_struct(self)
            .map_err(|e| e.at(&self.span))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NodeError> {
        match &self.value {
            Value::Text(name) => visitor.visit_enum(Variant {
                name,
                span: &self.span,
                content: None,
            }),
            Value::Map(entries) if entries.len() == 1 => {
                let (key, node) = &entries[0];
                visitor.visit_enum(Variant {
                    name: &key.text,
                    span: &key.span,
                    content: Some(node),
                })
            }
            _ => Err(de::Error::invalid_type(
                unexpected(&self.value),
                &"a name, or a mapping with one key",
            )),
        }
        .map_err(|e| e.at(&self.span))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        match &self.value {
            // An empty file, or a key with nothing behind it, is a mapping without keys.
            Value::Null => visitor
                .visit_map(Entries {
                    rest: [].iter(),
                    value: None,
                })
                .map_err(|e| e.at(&self.span)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NodeError> {
        self.deserialize_map(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        seq tuple tuple_struct identifier ignored_any
    }
}

fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(v) => Unexpected::Bool(*v),
        Value::Int(v) => Unexpected::Signed(*v),
        Value::UInt(v) => Unexpected::Unsigned(*v),
        Value::Float(v) => Unexpected::Float(*v),
        Value::Text(v) => Unexpected::Str(v),
        Value::Seq(_) => Unexpected::Seq,
        Value::Map(_) => Unexpected::Map,
    }
}

impl<'de> IntoDeserializer<'de, NodeError> for &'de Node {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

struct Items<'de>(std::slice::Iter<'de, Node>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = NodeError;
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, NodeError> {
        self.0
            .next()
            .map(|node| seed.deserialize(node).map_err(|e| e.at(&node.span)))
            .transpose()
    }
    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

struct Entries<'de> {
    rest: std::slice::Iter<'de, (Spot, Node)>,
    value: Option<&'de Node>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = NodeError;
    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, NodeError> {
        let Some((key, node)) = self.rest.next() else {
            return Ok(None);
        };
        self.value = Some(node);
        seed.deserialize(key.text.as_str().into_deserializer())
            .map(Some)
            .map_err(|e: NodeError| e.at(&key.span))
    }
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, NodeError> {
        let node = self.value.take().ok_or_else(|| {
            NodeError::from(What::Other("a value was asked for before its key".into()))
        })?;
        seed.deserialize(node).map_err(|e| e.at(&node.span))
    }
    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

struct Variant<'de> {
    name: &'de str,
    span: &'de Range<usize>,
    content: Option<&'de Node>,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = NodeError;
    type Variant = Self;
    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), NodeError> {
        let variant = seed
            .deserialize(self.name.into_deserializer())
            .map_err(|e: NodeError| e.at(self.span))?;
        Ok((variant, self))
    }
}

impl<'de> Variant<'de> {
    fn content(&self) -> Result<&'de Node, NodeError> {
        self.content.ok_or_else(|| {
            let what = What::WrongType {
                found: format!("the bare name `{}`", self.name),
                expected: "a value behind it".into(),
            };
            NodeError::from(what).at(self.span)
        })
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = NodeError;
    fn unit_variant(self) -> Result<(), NodeError> {
        match self.content.map(|n| &n.value) {
            None | Some(Value::Null) => Ok(()),
            Some(Value::Map(entries)) if entries.is_empty() => Ok(()),
            Some(other) => {
                let error: NodeError = de::Error::invalid_type(unexpected(other), &"nothing");
                Err(error.at(self.span))
            }
        }
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, NodeError> {
        let node = self.content()?;
        seed.deserialize(node).map_err(|e| e.at(&node.span))
    }
    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, NodeError> {
        self.content()?.deserialize_any(visitor)
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NodeError> {
        self.content()?.deserialize_struct("", fields, visitor)
    }
}
