//! Typed columns as XML documents: the reverse of how payloads of `format: xml` are read.
//!
//! The path of a column says where its value goes: `@id` is an attribute of the root element, `name` an element, `name.family`
//! an element in an element, `level.#text` the text of an element that has attributes too. A null is left out, and so is an
//! element with nothing in it. A list, and an array in a column of JSON, is its element several times; an object is an element
//! of its members, by the same rules.

use arrow::array::{Array, BinaryArray, BinaryBuilder, StructArray};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

use super::FieldType;
use super::json_parts::{JsonParts, json_unquote};
use super::json_write::Column;
use super::xml_shape::{LIST, TEXT};
use super::xml_text::is_xml_name;
use crate::limits::XML_DEPTH_MAX;
use crate::{Class, Error, Result, quote};

/// Writes rows as documents.
#[derive(Clone, Debug)]
pub struct XmlEncoder {
    head: String,
    namespace: String,
    encoding: &'static Encoding,
    root: ElementPlan,
}

/// What became of the rows of a batch.
#[derive(Debug)]
pub struct XmlDocuments {
    /// A document for each row; null for a row that has none.
    pub payloads: BinaryArray,
    /// Rows that no document can be made of, and why, in order.
    pub refused: Vec<(usize, Error)>,
}

/// An element and the columns that are in it.
#[derive(Clone, Debug, Default)]
struct ElementPlan {
    name: String,
    attributes: Vec<(String, usize)>,
    text: Option<usize>,
    children: Vec<ChildPlan>,
}

#[derive(Clone, Debug)]
enum ChildPlan {
    Column(String, usize),
    Element(ElementPlan),
}

/// Why a value cannot be written.
struct Unfit {
    column: usize,
    code: &'static str,
    name: String,
}

impl XmlEncoder {
    /// An encoder of columns, given by the paths to which their values go, in order. Elements are in `namespace`. Without an
    /// encoding, documents are in UTF-8.
    ///
    /// # Errors
    /// *Configuration*: `event.xml-name`, `event.xml-place`, `event.xml-list-path`, `event.xml-charset`.
    pub fn new(
        root: &str,
        namespace: Option<&str>,
        encoding: Option<&str>,
        paths: &[&str],
    ) -> Result<XmlEncoder> {
        let encoding = match encoding {
            None => UTF_8,
            Some(name) => Encoding::for_label(name.as_bytes())
                .filter(|known| known.name() != "replacement" && known.name() != "x-user-defined")
                .ok_or_else(|| wrong("event.xml-charset", "encoding", name))?,
        };
        let mut plan = ElementPlan {
            name: checked_name(root, encoding)?.to_owned(),
            ..ElementPlan::default()
        };
        for (column, path) in paths.iter().enumerate() {
            plan.add(path, path, column, encoding)?;
        }
        let mut attribute = String::new();
        if let Some(namespace) = namespace {
            attribute.push_str(" xmlns=\"");
            if !write_xml_text(namespace, true, &mut attribute) {
                return Err(wrong("event.xml-name", "name", namespace));
            }
            attribute.push('"');
        }
        let head = match encoding == UTF_8 {
            true => String::new(),
            false => {
                // The order of the bytes is said by the byte order mark, not by the declaration.
                let name = match encoding.name() {
                    "UTF-16LE" | "UTF-16BE" => "UTF-16",
                    other => other,
                };
                format!(
                    "<?xml version=\"1.0\" encoding=\"{}\"?>\n",
                    name.to_uppercase()
                )
            }
        };
        Ok(XmlEncoder {
            head,
            namespace: attribute,
            encoding,
            root: plan,
        })
    }

    /// Writes each row as a document. The columns are those of the paths, in their order.
    pub fn encode(&self, columns: &StructArray) -> XmlDocuments {
        let fields = columns.fields().iter().zip(columns.columns());
        let mut writer = RowWriter {
            columns: fields
                .map(|(field, array)| Column::new(array, FieldType::of(field)))
                .collect(),
            encoding: self.encoding,
            value: Vec::new(),
            out: String::new(),
        };
        let mut payloads = BinaryBuilder::with_capacity(columns.len(), columns.len() * 64);
        let mut refused = Vec::new();
        for row in 0..columns.len() {
            writer.out.clear();
            writer.out.push_str(&self.head);
            match writer.element(&self.root, row, Some(&self.namespace)) {
                Ok(()) => self.append(&writer.out, &mut payloads),
                Err(unfit) => {
                    payloads.append_null();
                    let field = columns.fields()[unfit.column].name();
                    let error = Error::new(Class::Permanent, unfit.code);
                    let error = error.with("field", quote(field));
                    let error = error.with("name", quote(&unfit.name));
                    refused.push((row, error.with("max", XML_DEPTH_MAX)));
                }
            }
        }
        XmlDocuments {
            payloads: payloads.finish(),
            refused,
        }
    }

    fn append(&self, document: &str, payloads: &mut BinaryBuilder) {
        let is_little = self.encoding == UTF_16LE;
        if is_little || self.encoding == UTF_16BE {
            let units = std::iter::once(0xfeff).chain(document.encode_utf16());
            let bytes: Vec<u8> = match is_little {
                true => units.flat_map(u16::to_le_bytes).collect(),
                false => units.flat_map(u16::to_be_bytes).collect(),
            };
            payloads.append_value(bytes);
        } else {
            // Characters that the encoding lacks become characters by number.
            payloads.append_value(self.encoding.encode(document).0);
        }
    }
}

fn wrong(code: &'static str, key: &'static str, value: &str) -> Error {
    Error::new(Class::Configuration, code).with(key, quote(value))
}

/// The name of an element or attribute, which must be one in the document's encoding.
fn checked_name<'a>(name: &'a str, encoding: &'static Encoding) -> Result<&'a str> {
    match is_name_in(name, encoding) {
        true => Ok(name),
        false => Err(wrong("event.xml-name", "name", name)),
    }
}

/// Whether a text is a name whose characters the encoding has: those of names cannot be written by number.
fn is_name_in(name: &str, encoding: &'static Encoding) -> bool {
    let is_utf16 = encoding == UTF_16LE || encoding == UTF_16BE;
    is_xml_name(name) && (is_utf16 || name.is_ascii() || !encoding.encode(name).2)
}

impl ElementPlan {
    fn add(
        &mut self,
        path: &str,
        whole: &str,
        column: usize,
        encoding: &'static Encoding,
    ) -> Result<()> {
        let twice = || wrong("event.xml-place", "path", whole);
        let Some((first, rest)) = path.split_once('.') else {
            if path == TEXT {
                return match self.text.replace(column) {
                    None => Ok(()),
                    Some(_) => Err(twice()),
                };
            }
            if let Some(name) = path.strip_prefix('@') {
                let name = checked_name(name, encoding)?;
                // It would declare a namespace.
                if name == "xmlns" {
                    return Err(wrong("event.xml-name", "name", name));
                }
                let is_new = self.attributes.iter().all(|(known, _)| known != name);
                self.attributes.push((name.to_owned(), column));
                return is_new.then_some(()).ok_or_else(twice);
            }
            let name = checked_name(path.strip_suffix(LIST).unwrap_or(path), encoding)?;
            let is_new = self.children.iter().all(|child| child.name() != name);
            self.children
                .push(ChildPlan::Column(name.to_owned(), column));
            return is_new.then_some(()).ok_or_else(twice);
        };
        if first.ends_with(LIST) {
            return Err(wrong("event.xml-list-path", "path", whole));
        }
        let name = checked_name(first, encoding)?;
        match self.children.iter_mut().find(|child| child.name() == name) {
            Some(ChildPlan::Element(element)) => element.add(rest, whole, column, encoding),
            Some(ChildPlan::Column(..)) => Err(twice()),
            None => {
                let mut element = ElementPlan {
                    name: name.to_owned(),
                    ..ElementPlan::default()
                };
                element.add(rest, whole, column, encoding)?;
                self.children.push(ChildPlan::Element(element));
                Ok(())
            }
        }
    }
}

impl ChildPlan {
    fn name(&self) -> &str {
        match self {
            ChildPlan::Column(name, _) => name,
            ChildPlan::Element(element) => &element.name,
        }
    }
}

struct RowWriter<'a> {
    columns: Vec<Column<'a>>,
    encoding: &'static Encoding,
    /// The value that is being written, as JSON.
    value: Vec<u8>,
    out: String,
}

impl RowWriter<'_> {
    /// Writes an element, or nothing if no column has a value in it. The root element is always written, with its namespace.
    fn element(&mut self, plan: &ElementPlan, row: usize, root: Option<&str>) -> Result<(), Unfit> {
        let begin = self.out.len();
        self.out.push('<');
        self.out.push_str(&plan.name);
        self.out.push_str(root.unwrap_or_default());
        let mut is_empty = root.is_none();
        for (name, column) in &plan.attributes {
            if self.read(*column, row) {
                self.out.push(' ');
                self.out.push_str(name);
                self.out.push_str("=\"");
                self.text(*column, true)?;
                self.out.push('"');
                is_empty = false;
            }
        }
        let inner = self.out.len();
        self.out.push('>');
        if let Some(column) = plan.text
            && self.read(column, row)
        {
            self.text(column, false)?;
            is_empty = false;
        }
        for child in &plan.children {
            match child {
                ChildPlan::Element(element) => self.element(element, row, None)?,
                ChildPlan::Column(name, column) => {
                    if self.read(*column, row) {
                        let value = std::mem::take(&mut self.value);
                        let cell = JsonCell {
                            column: *column,
                            encoding: self.encoding,
                        };
                        let written = json_text(&value, *column)
                            .and_then(|json| write_json(name, json, cell, 0, &mut self.out));
                        self.value = value;
                        written?;
                    }
                }
            }
        }
        match (self.out.len() > inner + 1, is_empty) {
            (true, _) => {
                self.out.push_str("</");
                self.out.push_str(&plan.name);
                self.out.push('>');
            }
            (false, false) => self.out.insert(inner, '/'),
            (false, true) => self.out.truncate(begin),
        }
        Ok(())
    }

    /// Reads a column's value; false for none.
    fn read(&mut self, column: usize, row: usize) -> bool {
        self.value.clear();
        let values = &self.columns[column];
        if values.is_valid(row) {
            values.write(row, &mut self.value);
        }
        !self.value.is_empty() && self.value != b"null"
    }

    /// Writes the value that was read as text.
    fn text(&mut self, column: usize, is_attribute: bool) -> Result<(), Unfit> {
        let json = json_text(&self.value, column)?;
        write_text(json, column, is_attribute, &mut self.out)
    }
}

fn json_text(value: &[u8], column: usize) -> Result<&str, Unfit> {
    std::str::from_utf8(value)
        .map(str::trim)
        .map_err(|_| unfit(column, "event.xml-write-text", ""))
}

fn unfit(column: usize, code: &'static str, name: &str) -> Unfit {
    Unfit {
        column,
        code,
        name: name.to_owned(),
    }
}

/// Writes a scalar of JSON as text.
fn write_text(
    json: &str,
    column: usize,
    is_attribute: bool,
    out: &mut String,
) -> Result<(), Unfit> {
    let fits = match json.as_bytes().first() {
        Some(b'{' | b'[') => return Err(unfit(column, "event.xml-write-shape", "")),
        Some(b'"') => match json_unquote(json) {
            Some(text) => write_xml_text(&text, is_attribute, out),
            None => false,
        },
        _ => {
            out.push_str(json);
            true
        }
    };
    match fits {
        true => Ok(()),
        false => Err(unfit(column, "event.xml-write-text", "")),
    }
}

/// The column of a value, and the encoding of its document.
#[derive(Clone, Copy)]
struct JsonCell {
    column: usize,
    encoding: &'static Encoding,
}

/// Writes a value of JSON as an element, or as one for each element of an array.
fn write_json(
    name: &str,
    json: &str,
    cell: JsonCell,
    depth: usize,
    out: &mut String,
) -> Result<(), Unfit> {
    if depth > XML_DEPTH_MAX {
        return Err(unfit(cell.column, "event.xml-write-deep", name));
    }
    if json.starts_with('[') {
        let mut items = Vec::new();
        let read = JsonParts::new(json).array(|range| items.push(range));
        read.map_err(|_| unfit(cell.column, "event.xml-write-shape", name))?;
        for item in items {
            let item = json[item].trim();
            if item.starts_with('[') {
                return Err(unfit(cell.column, "event.xml-write-shape", name));
            }
            write_json(name, item, cell, depth + 1, out)?;
        }
        return Ok(());
    }
    out.push('<');
    out.push_str(name);
    let inner = if json.starts_with('{') {
        write_object(name, json, cell, depth, out)?
    } else {
        let inner = out.len();
        out.push('>');
        if json != "null" {
            write_text(json, cell.column, false, out)?;
        }
        inner
    };
    match out.len() > inner + 1 {
        true => {
            out.push_str("</");
            out.push_str(name);
            out.push('>');
        }
        false => out.insert(inner, '/'),
    }
    Ok(())
}

/// Writes the members of an object as attributes, text and elements of an element whose tag is open; answers where it ends.
fn write_object(
    name: &str,
    json: &str,
    cell: JsonCell,
    depth: usize,
    out: &mut String,
) -> Result<usize, Unfit> {
    let mut members = Vec::new();
    let read = JsonParts::new(json).object(|key, range| members.push((key, range)));
    read.map_err(|_| unfit(cell.column, "event.xml-write-shape", name))?;
    let mut named = Vec::with_capacity(members.len());
    for (key, range) in members {
        let key =
            json_unquote(key).ok_or_else(|| unfit(cell.column, "event.xml-write-text", name))?;
        named.push((key, json[range].trim()));
    }
    for (at, (key, value)) in named.iter().enumerate() {
        let Some(attribute) = key.strip_prefix('@') else {
            continue;
        };
        let is_twice = named[..at].iter().any(|(known, _)| known == key);
        if is_twice || !is_name_in(attribute, cell.encoding) || attribute == "xmlns" {
            return Err(unfit(cell.column, "event.xml-write-name", key));
        }
        if *value != "null" {
            out.push(' ');
            out.push_str(attribute);
            out.push_str("=\"");
            write_text(value, cell.column, true, out)?;
            out.push('"');
        }
    }
    let inner = out.len();
    out.push('>');
    for (key, value) in &named {
        match key.as_ref() {
            TEXT if *value == "null" => {}
            TEXT => write_text(value, cell.column, false, out)?,
            key if key.starts_with('@') => {}
            key if is_name_in(key, cell.encoding) => write_json(key, value, cell, depth + 1, out)?,
            key => return Err(unfit(cell.column, "event.xml-write-name", key)),
        }
    }
    Ok(inner)
}

/// Appends text with what has a meaning in XML escaped; false if XML lacks one of its characters.
pub fn write_xml_text(text: &str, is_attribute: bool, out: &mut String) -> bool {
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escaped = match byte {
            b'&' => "&amp;",
            b'<' => "&lt;",
            b'>' => "&gt;",
            b'"' if is_attribute => "&quot;",
            b'\r' => "&#13;",
            b'\n' if is_attribute => "&#10;",
            b'\t' if is_attribute => "&#9;",
            b'\n' | b'\t' => continue,
            0..=0x1f => return false,
            // U+FFFE and U+FFFF
            0xef if matches!(text.as_bytes()[at..], [_, 0xbf, 0xbe | 0xbf, ..]) => return false,
            _ => continue,
        };
        out.push_str(&text[from..at]);
        out.push_str(escaped);
        from = at + 1;
    }
    out.push_str(&text[from..]);
    true
}

#[cfg(test)]
mod tests {
    use super::super::tests::{decode_rows, rows_of};
    use super::*;
    use crate::format::{FormatSpec, XmlOptions};

    #[test]
    fn rows_become_documents_in_every_encoding() {
        let schema = r#"{"id":{"type":"int","path":"@id"},"level":{"type":"float","path":"level.#text"},
            "unit":{"type":"text","path":"level.@unit"},"family":{"type":"text","path":"name.family"},
            "phases":{"type":"json","path":"phase[*]"}}"#;
        let rows = [
            r##"{"id":7,"level":62.5,"unit":"m\"m","family":"<𠀀&>","phases":[1,{"@n":2,"#text":"x"}]}"##,
            r#"{"level":1.0,"phases":["y"]}"#,
            "{}",
        ];
        let (columns, paths) = rows_of(schema, &rows);
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        for (encoding, beginning) in [
            (
                None,
                &b"<reading xmlns=\"urn:w\" id=\"7\"><level unit=\"m&quot;m\">62.5</level><name>"[..],
            ),
            (
                Some("GB18030"),
                b"<?xml version=\"1.0\" encoding=\"GB18030\"?>\n",
            ),
            (Some("utf-16"), b"\xff\xfe<\0?\0x\0m\0l\0"),
            (Some("utf-16be"), b"\xfe\xff\0<\0?"),
            // It lacks some of the characters, which are written by number.
            (
                Some("iso-8859-1"),
                b"<?xml version=\"1.0\" encoding=\"WINDOWS-1252\"?>\n",
            ),
        ] {
            let encoder = XmlEncoder::new("reading", Some("urn:w"), encoding, &paths).unwrap();
            let made = encoder.encode(&columns);
            assert!(made.refused.is_empty(), "{:?}", made.refused);
            assert!(
                made.payloads.value(0).starts_with(beginning),
                "{encoding:?}"
            );
            let format = FormatSpec::Xml(XmlOptions::default());
            let read = decode_rows(&format, schema, &made.payloads);
            let written = StructArray::from(read);
            assert_eq!(written, columns, "{encoding:?}");
        }
    }

    #[test]
    fn what_xml_cannot_say_is_refused() {
        let schema = r#"{"a":"text","b":"json","c":{"type":"json","path":"@c"}}"#;
        let rows = [
            r#"{"a":"\u0001"}"#,
            r#"{"a":"\uffff"}"#,
            r#"{"b":{"a b":1}}"#,
            r#"{"b":[[1]]}"#,
            r#"{"b":{"@a":1,"@a":2}}"#,
            r#"{"c":[1]}"#,
            r#"{"b":{"@xmlns":"u"}}"#,
            r#"{"a":"good"}"#,
        ];
        let (columns, paths) = rows_of(schema, &rows);
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let encoder = XmlEncoder::new("r", None, None, &paths).unwrap();
        let made = encoder.encode(&columns);
        let codes: Vec<_> = made
            .refused
            .iter()
            .map(|(row, e)| (*row, e.code()))
            .collect();
        assert_eq!(
            codes,
            [
                (0, "event.xml-write-text"),
                (1, "event.xml-write-text"),
                (2, "event.xml-write-name"),
                (3, "event.xml-write-shape"),
                (4, "event.xml-write-name"),
                (5, "event.xml-write-shape"),
                (6, "event.xml-write-name"),
            ]
        );
        assert!(made.payloads.is_null(0));
        assert_eq!(made.payloads.value(7), b"<r><a>good</a></r>");
    }

    #[test]
    fn names_that_the_encoding_lacks_are_refused() {
        let schema = r#"{"a":{"type":"json"}}"#;
        let rows = [
            r#"{"a":{"水":1}}"#,
            r#"{"a":{"@水":1}}"#,
            r#"{"a":{"b":"水"}}"#,
        ];
        let (columns, _) = rows_of(schema, &rows);
        let encoder = XmlEncoder::new("r", None, Some("iso-8859-1"), &["a"]).unwrap();
        let made = encoder.encode(&columns);
        let refused = made.refused.iter().map(|(row, e)| (*row, e.code()));
        let code = "event.xml-write-name";
        assert_eq!(refused.collect::<Vec<_>>(), [(0, code), (1, code)]);
        let text = std::str::from_utf8(made.payloads.value(2)).unwrap();
        assert!(text.ends_with("<r><a><b>&#27700;</b></a></r>"), "{text}");
        let encoder = XmlEncoder::new("r", None, Some("GB18030"), &["a"]).unwrap();
        assert!(encoder.encode(&columns).refused.is_empty());
    }

    #[test]
    fn paths_that_lead_nowhere_are_refused() {
        for (root, paths, code) in [
            ("a b", &["x"][..], "event.xml-name"),
            ("r", &["1x"], "event.xml-name"),
            ("r", &["@"], "event.xml-name"),
            ("r", &["x", "x"], "event.xml-place"),
            ("r", &["x", "x.y"], "event.xml-place"),
            ("r", &["x.y", "x"], "event.xml-place"),
            ("r", &["@x", "@x"], "event.xml-place"),
            ("r", &["@xmlns"], "event.xml-name"),
            ("r", &["x[*].y"], "event.xml-list-path"),
        ] {
            let error = XmlEncoder::new(root, None, None, paths).unwrap_err();
            assert_eq!(error.code(), code, "{paths:?}");
        }
        let error = XmlEncoder::new("r", None, Some("EBCDIC"), &[]).unwrap_err();
        assert_eq!(error.code(), "event.xml-charset");
        let error = XmlEncoder::new("水", None, Some("iso-8859-1"), &[]).unwrap_err();
        assert_eq!(error.code(), "event.xml-name");
    }
}
