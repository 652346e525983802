//! Messages of operations: which columns they have, and rows as their XML.

use std::collections::HashMap;
use std::fmt::Write as _;

use arrow::datatypes::{DataType, Field, Schema};
use busbar_catalog::{ShapeContent, ShapeElement, ShapeType, XsdShape};
use busbar_event::format::{FieldType, write_xml_text};
use busbar_event::{Class, Error, quote};
use serde_json::{Map, Value};

use super::limits::{MESSAGE_COLUMNS_MAX, MESSAGE_DEPTH_MAX};

/// Makes messages of rows.
pub(super) struct MessageWriter {
    shape: XsdShape,
    /// The parts of the message that are no element with others in it.
    leaves: Vec<Leaf>,
    /// Where a column of this name goes.
    places: HashMap<String, MessagePlace>,
}

/// A part of a message that has a column.
struct Leaf {
    path: Vec<String>,
    content: ShapeContent,
    is_repeated: bool,
    /// It must be there, where the element around it is there.
    is_required: bool,
    /// How much of the path leads to an element that may be left out.
    optional: usize,
}

/// Where a column goes.
#[derive(Clone)]
struct MessagePlace {
    path: Vec<String>,
    content: ShapeContent,
    is_repeated: bool,
}

/// What is wrong with the columns of a message.
pub(super) struct ColumnFault {
    pub error: Error,
    /// The name that was probably meant.
    pub help: Option<Error>,
}

/// What the values of a column are.
#[derive(Clone, Copy, PartialEq)]
enum Sent {
    Bool,
    Int,
    Float,
    Text,
    Time,
    Day,
    Bytes,
    Json,
    Null,
}

const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";

impl MessageWriter {
    pub fn new(shape: XsdShape) -> MessageWriter {
        let mut walk = LeafWalk {
            shape: &shape,
            open: Vec::new(),
            path: Vec::new(),
            leaves: Vec::new(),
            wholes: Vec::new(),
        };
        walk.content(&shape.root, 0);
        let LeafWalk { leaves, wholes, .. } = walk;
        let mut places = HashMap::new();
        let of_leaves = leaves.iter().map(|leaf| MessagePlace {
            path: leaf.path.clone(),
            content: leaf.content,
            is_repeated: leaf.is_repeated,
        });
        let all: Vec<MessagePlace> = of_leaves.chain(wholes).collect();
        // A path counts before a name that is made of one.
        for place in &all {
            let path = place.path.join(".");
            if place.is_repeated {
                places.insert(format!("{path}[*]"), place.clone());
            }
            places.insert(path, place.clone());
        }
        for place in &all {
            let parts = place.path.iter().filter(|part| *part != "#text");
            let parts: Vec<&str> = parts.map(|part| part.trim_start_matches('@')).collect();
            places
                .entry(parts.join("_"))
                .or_insert_with(|| place.clone());
        }
        places.remove("");
        MessageWriter {
            shape,
            leaves,
            places,
        }
    }

    /// Whether a column of this name is part of the message.
    pub fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Checks that the columns are those of the message.
    ///
    /// # Errors
    /// One that the message does not have, whose type does not fit, or that is missing.
    pub fn check(&self, columns: &Schema) -> Result<(), ColumnFault> {
        let fault = |error| ColumnFault { error, help: None };
        let new = |code, field: &str| {
            Error::new(Class::Configuration, code)
                .with("column", quote(field))
                .with("element", &self.shape.root.name)
        };
        let mut sent: Vec<(&str, &MessagePlace)> = Vec::new();
        for field in columns.fields() {
            let Some(place) = self.places.get(field.name()) else {
                let names = self.leaves.iter().map(|leaf| leaf.path.join("."));
                let names: Vec<String> = names.collect();
                return Err(ColumnFault {
                    error: new("connect.soap-no-column", field.name()),
                    help: busbar_catalog::suggest(field.name(), names.iter().map(String::as_str)),
                });
            };
            if let Some((_, other)) = sent.iter().enumerate().find_map(|(at, (_, known))| {
                let (a, b) = (&known.path, &place.path);
                (a.starts_with(b) || b.starts_with(a)).then_some((at, *known))
            }) {
                let error = new("connect.soap-column-twice", field.name());
                return Err(fault(error.with("path", quote(&other.path.join(".")))));
            }
            if !fits(sent_of(field), place) {
                let error = new("connect.soap-column-type", field.name())
                    .with("path", quote(&place.path.join(".")))
                    .with("found", type_name(field))
                    .with("expected", expected(place));
                return Err(fault(error));
            }
            sent.push((field.name(), place));
        }
        for leaf in &self.leaves {
            let around = &leaf.path[..leaf.optional];
            let is_open = leaf.optional == 0
                || sent.iter().any(|(_, place)| {
                    place.path.len() > around.len() && place.path.starts_with(around)
                });
            let is_sent = || {
                sent.iter()
                    .any(|(_, place)| leaf.path.starts_with(&place.path))
            };
            if leaf.is_required && is_open && !is_sent() {
                return Err(fault(new(
                    "connect.soap-column-missing",
                    &leaf.path.join("."),
                )));
            }
        }
        Ok(())
    }

    /// The message of a row, given as a JSON object of its columns.
    ///
    /// # Errors
    /// *Permanent*: a value that does not fit its place, or one that is missing.
    pub fn write(&self, row: Map<String, Value>) -> Result<String, Error> {
        let mut tree = Map::new();
        for (name, value) in row {
            if let Some(place) = self.places.get(&name) {
                put(&mut tree, &place.path, value);
            }
        }
        let mut writer = ElementWriter {
            types: &self.shape.types,
            path: Vec::new(),
            out: String::new(),
        };
        let root = &self.shape.root;
        let value = match root.content {
            ShapeContent::Value(..) => tree.remove("#text").unwrap_or(Value::Null),
            _ => Value::Object(tree),
        };
        writer.element(root, Some(&value), "")?;
        Ok(writer.out)
    }
}

/// Puts a value into a tree of objects.
fn put(tree: &mut Map<String, Value>, path: &[String], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    if rest.is_empty() {
        tree.insert(first.clone(), value);
        return;
    }
    let inner = tree.entry(first.clone());
    let inner = inner.or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(inner) = inner {
        put(inner, rest, value);
    }
}

/// Finds the parts of a message that have columns.
struct LeafWalk<'s> {
    shape: &'s XsdShape,
    /// The types around the element.
    open: Vec<usize>,
    path: Vec<String>,
    leaves: Vec<Leaf>,
    /// Elements with others in them, which one column may fill.
    wholes: Vec<MessagePlace>,
}

impl LeafWalk<'_> {
    fn leaf(
        &mut self,
        name: Option<&str>,
        (content, is_repeated): (ShapeContent, bool),
        (is_required, optional): (bool, usize),
    ) {
        let mut path = self.path.clone();
        path.extend(name.map(str::to_owned));
        self.leaves.push(Leaf {
            path,
            content,
            is_repeated,
            is_required,
            optional,
        });
    }

    /// Adds what is in an element, to which the path leads.
    fn content(&mut self, element: &ShapeElement, optional: usize) {
        let ShapeContent::Complex(number) = element.content else {
            let content = (element.content, false);
            return self.leaf(Some("#text"), content, (false, optional));
        };
        let shape = self.shape;
        let of = &shape.types[number];
        self.open.push(number);
        for attribute in &of.attributes {
            let content = ShapeContent::Value(attribute.value.0, attribute.value.1);
            let name = format!("@{}", attribute.name);
            self.leaf(
                Some(&name),
                (content, false),
                (attribute.is_required, optional),
            );
        }
        if let Some(text) = of.text {
            let content = ShapeContent::Value(text.0, text.1);
            self.leaf(Some("#text"), (content, false), (false, optional));
        }
        for inner in &of.elements {
            self.path.push(inner.name.clone());
            let is_needed = inner.is_required && !inner.is_nillable;
            let is_whole = match inner.content {
                ShapeContent::Complex(number) => {
                    inner.is_repeated
                        || self.open.contains(&number)
                        || self.leaves.len() + self.wholes.len() >= MESSAGE_COLUMNS_MAX
                        || self.open.len() >= MESSAGE_DEPTH_MAX
                }
                _ => true,
            };
            if is_whole {
                let content = (inner.content, inner.is_repeated);
                self.leaf(None, content, (is_needed, optional));
            } else {
                self.wholes.push(MessagePlace {
                    path: self.path.clone(),
                    content: inner.content,
                    is_repeated: false,
                });
                let optional = match is_needed {
                    true => optional,
                    false => self.path.len(),
                };
                self.content(inner, optional);
            }
            self.path.pop();
        }
        self.open.pop();
    }
}

fn sent_of(field: &Field) -> Option<Sent> {
    fn of(data_type: &DataType) -> Option<Sent> {
        Some(match data_type {
            DataType::Null => Sent::Null,
            DataType::Boolean => Sent::Bool,
            other if other.is_integer() => Sent::Int,
            other if other.is_numeric() => Sent::Float,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Sent::Text,
            DataType::Timestamp(..) => Sent::Time,
            DataType::Date32 | DataType::Date64 => Sent::Day,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Sent::Bytes,
            DataType::Dictionary(_, value) => return of(value),
            other if other.is_nested() => Sent::Json,
            _ => return None,
        })
    }
    match FieldType::of(field) {
        Some(FieldType::Json) => Some(Sent::Json),
        _ => of(field.data_type()),
    }
}

/// Whether the values of a column can be those of a place.
fn fits(sent: Option<Sent>, place: &MessagePlace) -> bool {
    let Some(sent) = sent else { return false };
    if sent == Sent::Null || (sent == Sent::Json && place.is_repeated) {
        return true;
    }
    let ShapeContent::Value(field_type, built_in) = place.content else {
        return place.content == ShapeContent::Any || sent == Sent::Json;
    };
    match (field_type, sent) {
        (FieldType::Bool, Sent::Bool)
        | (FieldType::Int, Sent::Int)
        | (FieldType::Float, Sent::Int | Sent::Float)
        | (FieldType::Time, Sent::Time | Sent::Text)
        | (FieldType::Text | FieldType::Json, Sent::Text) => true,
        (FieldType::Text, sent) => match built_in {
            "date" => sent == Sent::Day,
            "gYear" => sent == Sent::Int,
            "base64Binary" => sent == Sent::Bytes,
            "string" | "token" => !matches!(sent, Sent::Bytes | Sent::Json),
            _ => false,
        },
        _ => false,
    }
}

/// The type of a column as files write it.
fn type_name(field: &Field) -> String {
    match sent_of(field) {
        Some(Sent::Bool) => "bool",
        Some(Sent::Int) => "int",
        Some(Sent::Float) => "float",
        Some(Sent::Text) => "text",
        Some(Sent::Time) => "time",
        Some(Sent::Json) => "json",
        _ => return field.data_type().to_string(),
    }
    .to_owned()
}

fn expected(place: &MessagePlace) -> String {
    match place.content {
        _ if place.is_repeated => "json".to_owned(),
        ShapeContent::Value(_, built_in) => format!("xs:{built_in}"),
        _ => "json".to_owned(),
    }
}

struct ElementWriter<'s> {
    types: &'s [ShapeType],
    /// The names of the elements around, for messages.
    path: Vec<&'s str>,
    out: String,
}

impl<'s> ElementWriter<'s> {
    fn wrong(&self, code: &'static str, name: &str) -> Error {
        let mut path = self.path.join(".");
        if !name.is_empty() {
            path.push_str(if path.is_empty() { "" } else { "." });
            path.push_str(name);
        }
        Error::new(Class::Permanent, code).with("path", quote(&path))
    }

    /// Writes an element, or nothing where it may be left out. `within` is the namespace of names without a prefix around it.
    fn element(
        &mut self,
        element: &'s ShapeElement,
        value: Option<&Value>,
        within: &str,
    ) -> Result<(), Error> {
        let value = value.filter(|value| !value.is_null());
        if value.is_none() && !element.is_required {
            return Ok(());
        }
        if self.path.len() > MESSAGE_DEPTH_MAX {
            return Err(self.wrong("connect.soap-value-deep", &element.name));
        }
        let name = &element.name;
        let begin = self.out.len();
        self.out.push('<');
        self.out.push_str(name);
        if element.namespace != within {
            self.out.push_str(" xmlns=\"");
            write_xml_text(&element.namespace, true, &mut self.out);
            self.out.push('"');
        }
        let inner = element.namespace.as_str();
        match (element.content, value) {
            (_, None) if element.is_nillable => {
                // Writing to a text does not fail.
                let _ = write!(self.out, " xmlns:xsi=\"{XSI}\" xsi:nil=\"true\"/>");
                return Ok(());
            }
            (ShapeContent::Value(field_type, built_in), Some(value)) => {
                self.out.push('>');
                self.text(value, (field_type, built_in), name, false)?;
            }
            (ShapeContent::Value(..), None) => {
                self.out.truncate(begin);
                return Err(self.wrong("connect.soap-value-missing", name));
            }
            (ShapeContent::Complex(number), value) => {
                self.path.push(name);
                self.complex(number, value, inner)?;
                self.path.pop();
            }
            (ShapeContent::Any, value) => {
                self.out.push('>');
                self.path.push(name);
                self.anything(value.unwrap_or(&Value::Null), 0)?;
                self.path.pop();
            }
        }
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
        Ok(())
    }

    /// Writes the rest of a begin tag and what is in the element.
    fn complex(&mut self, number: usize, value: Option<&Value>, within: &str) -> Result<(), Error> {
        let types = self.types;
        let of = &types[number];
        let empty = Map::new();
        let members = match value {
            None => &empty,
            Some(Value::Object(members)) => members,
            // The text of an element whose attributes are left out.
            Some(text) if of.text.is_some() && !text.is_array() => {
                let of_text = of.text.unwrap_or((FieldType::Text, "string"));
                if let Some(attribute) = of.attributes.iter().find(|one| one.is_required) {
                    let name = format!("@{}", attribute.name);
                    return Err(self.wrong("connect.soap-value-missing", &name));
                }
                self.out.push('>');
                return self.text(text, of_text, "#text", false);
            }
            Some(_) => return Err(self.wrong("connect.soap-value-object", "")),
        };
        for name in members.keys() {
            let is_known = match name.strip_prefix('@') {
                Some(name) => of.attributes.iter().any(|one| one.name == name),
                None if name == "#text" => of.text.is_some(),
                None => of.elements.iter().any(|one| one.name == *name),
            };
            if !is_known {
                return Err(self.wrong("connect.soap-value-unknown", name));
            }
        }
        for attribute in &of.attributes {
            let name = format!("@{}", attribute.name);
            match members.get(&name).filter(|value| !value.is_null()) {
                Some(value) => {
                    let _ = write!(self.out, " {}=\"", attribute.name);
                    self.text(value, attribute.value, &name, true)?;
                    self.out.push('"');
                }
                None if attribute.is_required => {
                    return Err(self.wrong("connect.soap-value-missing", &name));
                }
                None => {}
            }
        }
        self.out.push('>');
        if let (Some(of), Some(value)) = (of.text, members.get("#text")) {
            self.text(value, of, "#text", false)?;
        }
        for element in &of.elements {
            let value = members.get(&element.name);
            match value {
                Some(Value::Array(all)) if element.is_repeated => {
                    if all.is_empty() && element.is_required {
                        return Err(self.wrong("connect.soap-value-missing", &element.name));
                    }
                    for one in all {
                        self.element(element, Some(one), within)?;
                    }
                }
                value => self.element(element, value, within)?,
            }
        }
        Ok(())
    }

    /// Writes JSON for which there is no type.
    fn anything(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MESSAGE_DEPTH_MAX {
            return Err(self.wrong("connect.soap-value-deep", ""));
        }
        let members = match value {
            Value::Object(members) => members,
            Value::Array(_) => return Err(self.wrong("connect.soap-value-object", "")),
            Value::Null => return Ok(()),
            value => return self.text(value, (FieldType::Text, "string"), "", false),
        };
        for (name, value) in members {
            if name == "#text" {
                self.text(value, (FieldType::Text, "string"), name, false)?;
                continue;
            }
            if !is_plain_name(name) {
                return Err(self.wrong("connect.soap-value-unknown", name));
            }
            let all = match value {
                Value::Array(all) => all.as_slice(),
                one => std::slice::from_ref(one),
            };
            for one in all {
                let _ = write!(self.out, "<{name}>");
                self.anything(one, depth + 1)?;
                let _ = write!(self.out, "</{name}>");
            }
        }
        Ok(())
    }

    fn text(
        &mut self,
        value: &Value,
        (field_type, built_in): (FieldType, &str),
        name: &str,
        is_attribute: bool,
    ) -> Result<(), Error> {
        let text = match (field_type, value) {
            (_, Value::Null) => return Ok(()),
            (FieldType::Bool, Value::Bool(_)) => value.to_string(),
            (FieldType::Int, Value::Number(number)) if !number.is_f64() => number.to_string(),
            // No exponent: a decimal has none.
            (FieldType::Float, Value::Number(number)) if built_in == "decimal" => {
                match number.as_f64().filter(|_| number.is_f64()) {
                    Some(float) => float.to_string(),
                    None => number.to_string(),
                }
            }
            (FieldType::Float, Value::Number(number)) => number.to_string(),
            (FieldType::Time, Value::String(text)) => text.clone(),
            (FieldType::Text | FieldType::Json, Value::String(text)) => text.clone(),
            (FieldType::Text | FieldType::Json, Value::Bool(_) | Value::Number(_)) => {
                value.to_string()
            }
            _ => {
                let error = self.wrong("connect.soap-value-type", name);
                return Err(error.with("expected", format!("xs:{built_in}")));
            }
        };
        match write_xml_text(&text, is_attribute, &mut self.out) {
            true => Ok(()),
            false => Err(self.wrong("connect.soap-value-character", name)),
        }
    }
}

/// Whether a text is a name of an element without a prefix.
fn is_plain_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters
        .next()
        .is_some_and(|c| c.is_alphabetic() || c == '_')
        && letters.all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
}
