//! Reads plain serde types from a [`Node`]; every error carries the place of the node it is about, and says what is
//! needed in the words of the file instead of those of serde.

use std::fmt::{self, Display};
use std::ops::Range;

use busbar_event::{Class, Error, messages, quote};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer,
    MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};

use crate::diagnostic::{Diagnostic, suggest};
use crate::tree::{Node, Source, Spot, Value};

impl Source {
    /// The document as a typed value; the error points at the node that does not fit.
    ///
    /// # Errors
    /// A diagnostic with the offending node's place, and a suggestion for a mistyped key.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Diagnostic> {
        self.read_node(self.root())
    }

    /// The same for one node of the document.
    ///
    /// # Errors
    /// As [`Source::read`].
    pub fn read_node<T: DeserializeOwned>(&self, node: &Node) -> Result<T, Diagnostic> {
        node.read()
            .map_err(|e| e.diagnostic(self.file(), self.text(), node))
    }
}

impl Node {
    /// A typed value from this node.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, NodeError> {
        T::deserialize(self).map_err(|e| e.at(&self.span))
    }
}

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
    UnknownStep(String, &'static [&'static str]),
    MissingKey(&'static str),
    DuplicateKey(&'static str),
    WrongType {
        found: String,
        expected: String,
    },
    /// It fits none of several forms that are allowed.
    NoForm,
    /// A value of this project says itself what is wrong with it.
    Told(Error),
    Other(String),
}

/// What is needed in a place, from what serde says of the type that is read there.
fn needed(expected: &str) -> Error {
    let new = |code| Error::new(Class::Configuration, code);
    let whole = |least: i128, most: u128| {
        new("catalog.needs-whole-number")
            .with("least", least)
            .with("most", most)
    };
    match expected {
        "u8" => whole(0, u8::MAX.into()),
        "u16" => whole(0, u16::MAX.into()),
        "u32" => whole(0, u32::MAX.into()),
        "u64" | "usize" | "u128" => whole(0, u64::MAX.into()),
        "i8" => whole(i8::MIN.into(), i8::MAX as u128),
        "i16" => whole(i16::MIN.into(), i16::MAX as u128),
        "i32" => whole(i32::MIN.into(), i32::MAX as u128),
        "i64" | "isize" | "i128" => whole(i64::MIN.into(), i64::MAX as u128),
        "f32" | "f64" => new("catalog.needs-number"),
        "a boolean" => new("catalog.needs-boolean"),
        "a sequence" => new("catalog.needs-list"),
        "a map" => new("catalog.needs-keys"),
        text if text.contains("string") || text == "a character" => new("catalog.needs-text"),
        list if list.contains("tuple") => new("catalog.needs-list"),
        keys if keys.starts_with("struct ") || keys.starts_with("enum ") => {
            new("catalog.needs-keys")
        }
        nothing if nothing == "nothing" || nothing.starts_with("unit") => {
            new("catalog.needs-nothing")
        }
        // A type of this project says itself what it needs.
        own => in_words(new("catalog.wrong-type"), "expected", own),
    }
}

/// Adds a text of a type of this project to an error, in both languages where the catalogue has it.
fn in_words(error: Error, name: &'static str, text: &str) -> Error {
    match messages::code_of(text) {
        Some(code) => error.with_text(name, code),
        None => error.with(name, text),
    }
}

/// What was found, as it is written in a file.
fn written(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(value) => value.to_string(),
        Unexpected::Signed(value) => value.to_string(),
        Unexpected::Float(value) => value.to_string(),
        Unexpected::Char(value) => quote(&value.to_string()),
        Unexpected::Str(value) => format!("\"{}\"", quote(value)),
        Unexpected::Seq => "[…]".into(),
        Unexpected::Map => "{…}".into(),
        Unexpected::Unit | Unexpected::Option => "null".into(),
        _ => "…".into(),
    }
}

impl NodeError {
    /// Gives the error a place unless it has a closer one.
    pub(crate) fn at(mut self, span: &Range<usize>) -> Self {
        self.span.get_or_insert_with(|| span.clone());
        self
    }

    /// Says what the value is that is not known, of types with a name of their own for it.
    fn of_type(mut self, name: &'static str) -> Self {
        self.what = match (self.what, name) {
            (What::UnknownValue(step, known), "StepSpec") => What::UnknownStep(step, known),
            (what, _) => what,
        };
        self
    }

    /// The error as people see it.
    pub(crate) fn diagnostic(self, file: &str, text: &str, node: &Node) -> Diagnostic {
        let new = |code| Error::new(Class::Configuration, code);
        let near = |word: &str, known: &[&str], code| {
            let listed = || (!known.is_empty()).then(|| new(code).with("names", known.join(", ")));
            suggest(word, known.iter().copied()).or_else(listed)
        };
        let mut help = None;
        let error = match self.what {
            What::UnknownKey(key, known) => {
                help = near(&key, known, "catalog.known-keys");
                match known.is_empty() {
                    true => new("catalog.no-keys").with("key", key),
                    false => new("catalog.unknown-key").with("key", key),
                }
            }
            What::UnknownValue(value, known) => {
                help = near(&value, known, "catalog.known-values");
                new("catalog.unknown-value").with("value", value)
            }
            What::UnknownStep(step, known) => {
                help = near(&step, known, "catalog.known-steps");
                new("catalog.unknown-step").with("step", step)
            }
            What::MissingKey(key) => new("catalog.missing-key").with("key", key),
            What::DuplicateKey(key) => new("catalog.duplicate-key").with("name", key),
            What::WrongType { found, expected } => needed(&expected).with("found", found),
            What::NoForm => new("catalog.no-form"),
            What::Told(error) => new("catalog.invalid").with_error("why", &error),
            What::Other(why) => in_words(new("catalog.invalid"), "why", &why),
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
            What::UnknownStep(step, known) => {
                write!(f, "unknown step `{step}`; known are {}", known.join(", "))
            }
            What::MissingKey(key) => write!(f, "key `{key}` is missing"),
            What::DuplicateKey(key) => write!(f, "key `{key}` is given twice"),
            What::WrongType { found, expected } => {
                let error = needed(expected).with("found", found);
                f.write_str(&error.message(busbar_event::Language::En))
            }
            What::NoForm => f.write_str("the value has none of the forms that are allowed here"),
            What::Told(error) => write!(f, "{error}"),
            What::Other(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for NodeError {}

impl de::Error for NodeError {
    fn custom<T: Display>(why: T) -> Self {
        // An error of this project writes itself so that it can be read again.
        let why = format!("{why:#}");
        match Error::recorded(&why) {
            Some(error) => What::Told(error).into(),
            None if why.starts_with("data did not match any variant of untagged enum") => {
                What::NoForm.into()
            }
            None => What::Other(why).into(),
        }
    }
    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        What::WrongType {
            found: written(found),
            expected: expected.to_string(),
        }
        .into()
    }
    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        What::WrongType {
            found: written(found),
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
        name: &'static str,
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
            Value::Map(entries) if entries.len() > 1 => {
                let (first, second) = (&entries[0].0, &entries[1].0);
                let error = Error::new(Class::Configuration, "catalog.keys-together")
                    .with("first", quote(&first.text))
                    .with("second", quote(&second.text));
                Err(NodeError::from(What::Told(error)).at(&second.span))
            }
            _ => Err(de::Error::invalid_type(
                unexpected(&self.value),
                &"a name, or one key with a value",
            )),
        }
        .map_err(|e| e.of_type(name).at(&self.span))
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
                found: self.name.to_owned(),
                expected: "a value after it".into(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read")]
    struct Options {
        count: Option<u16>,
        ratio: Option<f64>,
        on: Option<bool>,
        name: Option<String>,
        list: Option<Vec<String>>,
        inner: Option<Inner>,
        either: Option<Either>,
        none: Option<Nothing>,
    }

    #[derive(serde::Deserialize, Debug)]
    #[allow(dead_code, reason = "only read")]
    struct Inner {
        a: u8,
    }

    #[derive(serde::Deserialize, Debug)]
    #[serde(untagged)]
    #[allow(dead_code, reason = "only read")]
    enum Either {
        One(u8),
        Many(Vec<u8>),
    }

    #[derive(serde::Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}

    #[test]
    fn what_is_needed_is_said_without_types_of_rust() {
        for (text, code, message) in [
            (
                "count: b",
                "catalog.needs-whole-number",
                "\"b\" does not fit here: a whole number from 0 to 65535 is needed",
            ),
            (
                "count: 70000",
                "catalog.needs-whole-number",
                "70000 does not fit here: a whole number from 0 to 65535 is needed",
            ),
            (
                "ratio: [1]",
                "catalog.needs-number",
                "[…] does not fit here: a number is needed",
            ),
            (
                "on: 1",
                "catalog.needs-boolean",
                "1 does not fit here: true or false is needed",
            ),
            (
                "name: { a: 1 }",
                "catalog.needs-text",
                "{…} does not fit here: text is needed",
            ),
            (
                "list: a",
                "catalog.needs-list",
                "\"a\" does not fit here: a list is needed, as [a, b] or with \"- \" before each entry",
            ),
            (
                "inner: 5",
                "catalog.needs-keys",
                "5 does not fit here: keys with values are needed",
            ),
            (
                "either: x",
                "catalog.no-form",
                "this value has none of the forms that are allowed here",
            ),
            (
                "none: { x: 1 }",
                "catalog.no-keys",
                "unknown key x: no keys are allowed here",
            ),
        ] {
            let source = Source::parse("f", text).unwrap();
            let wrong = source.read::<Options>().unwrap_err();
            assert_eq!(wrong.error().code(), code, "{text}");
            assert_eq!(wrong.message(busbar_event::Language::En), message, "{text}");
            assert!(wrong.help().is_none(), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_value_is_said_in_both_languages() {
        for (text, code) in [
            ("topics: a\nretention: { age: 5 parsec }\n", "event.span"),
            ("topics: a\nretention: { bytes: 5 parsec }\n", "event.size"),
            (
                "topics: a\nretention: { bytes: [] }\n",
                "catalog.expects-size",
            ),
            ("topics: 1\n", "catalog.expects-topics"),
            ("topics: a/#/b\n", "event.filter-wildcard"),
            ("topics: a\nformat: { json: , csv: }\n", "event.format-two"),
        ] {
            let source = Source::parse("streams/x.yaml", text).unwrap();
            let found = source.read::<busbar_bus::StreamSpec>().unwrap_err();
            for language in busbar_event::Language::ALL {
                let message = found.message(language);
                let template = messages::template(language, code).unwrap();
                // What stands before, between and behind the arguments.
                for part in template.split(['{', '}']).step_by(2) {
                    assert!(message.contains(part), "{text}{message}: {part}");
                }
            }
        }
    }

    #[test]
    fn keys_that_each_need_an_entry_of_their_own_are_named() {
        let text = "from: in\nsteps:\n- where: a > 1\n  select: a\n";
        let source = Source::parse("flows/f.yaml", text).unwrap();
        let wrong = source.read::<crate::FlowSpec>().unwrap_err();
        assert_eq!(wrong.word(), "select");
        let message = wrong.message(busbar_event::Language::En);
        let said = "where and select cannot stand in one entry";
        assert!(message.starts_with(said), "{message}");
    }

    #[test]
    fn what_types_expect_is_in_the_catalogue() {
        let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .unwrap();
        let folders = ["catalog/src", "event/src", "bus/src", "connect/src/mllp"];
        let mut open: Vec<_> = folders.map(|f| crates.join(format!("busbar-{f}"))).into();
        let mut seen = 0;
        while let Some(path) = open.pop() {
            if path.is_dir() {
                let entries = std::fs::read_dir(&path).unwrap();
                open.extend(entries.map(|entry| entry.unwrap().path()));
                continue;
            }
            // A tree takes everything.
            if path.extension().is_none_or(|e| e != "rs") || path.ends_with("src/tree.rs") {
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            for after in source.split(concat!("fn ", "expecting")).skip(1) {
                let text = after.split_once("write_str(").map(|(_, text)| text);
                let text = text.and_then(|text| text.trim_start().strip_prefix('"'));
                let Some(text) = text.and_then(|text| text.split('"').next()) else {
                    continue;
                };
                let place = path.display();
                assert!(messages::code_of(text).is_some(), "{place}: {text}");
                seen += 1;
            }
        }
        assert!(seen > 10, "the scan finds nothing: {seen}");
    }
}
