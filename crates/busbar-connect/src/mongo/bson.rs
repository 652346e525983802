//! Documents as bytes: BSON, as <https://bsonspec.org> has it.

use std::borrow::Cow;

use super::hex::hex;
use super::limits::DEPTH_MAX;

/// A document that is being written.
#[derive(Clone, Debug)]
pub struct BsonWriter {
    bytes: Vec<u8>,
    /// Where the documents that are open begin.
    open: Vec<usize>,
}

/// A document that was read, whose form was checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BsonDocument<'a>(&'a [u8]);

/// A value of a document.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BsonValue<'a> {
    Double(f64),
    Text(&'a str),
    /// The bytes of a text, a pattern or a program that are no UTF-8. The standard wants UTF-8, and servers keep whatever a
    /// program sends.
    NotText(&'a [u8]),
    Document(BsonDocument<'a>),
    /// Its values have the names `0`, `1`, ….
    Array(BsonDocument<'a>),
    /// The kind of bytes, and the bytes.
    Binary(u8, &'a [u8]),
    ObjectId([u8; 12]),
    Bool(bool),
    /// Milliseconds since 1970.
    Date(i64),
    Null,
    /// Pattern and options.
    Regex(&'a str, &'a str),
    /// A program, or a symbol.
    Code(&'a str),
    Int(i32),
    /// Seconds since 1970 in the upper half, and a number in the lower one.
    Timestamp(u64),
    Long(i64),
    Decimal([u8; 16]),
    MinKey,
    MaxKey,
    /// Kinds that the standard has given up.
    Old,
}

/// The numbers of the kinds.
pub mod kind {
    pub const DOUBLE: u8 = 0x01;
    pub const TEXT: u8 = 0x02;
    pub const DOCUMENT: u8 = 0x03;
    pub const ARRAY: u8 = 0x04;
    pub const BINARY: u8 = 0x05;
    pub const OBJECT_ID: u8 = 0x07;
    pub const BOOL: u8 = 0x08;
    pub const DATE: u8 = 0x09;
    pub const NULL: u8 = 0x0a;
    pub const INT: u8 = 0x10;
    pub const TIMESTAMP: u8 = 0x11;
    pub const LONG: u8 = 0x12;
    pub const DECIMAL: u8 = 0x13;
}

impl Default for BsonWriter {
    fn default() -> BsonWriter {
        BsonWriter {
            bytes: vec![0; 4],
            open: vec![0],
        }
    }
}

impl BsonWriter {
    pub fn new() -> BsonWriter {
        BsonWriter::default()
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    fn head(&mut self, kind: u8, name: &str) {
        self.bytes.push(kind);
        // Names without zero bytes only are handed in; one would end the name here.
        self.bytes.extend(name.bytes().filter(|byte| *byte != 0));
        self.bytes.push(0);
    }

    pub fn double(&mut self, name: &str, value: f64) {
        self.head(kind::DOUBLE, name);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn text(&mut self, name: &str, value: &str) {
        self.head(kind::TEXT, name);
        self.length(value.len() + 1);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
    }

    /// Lengths of what fits into a message; longer ones are refused where messages are sent.
    fn length(&mut self, length: usize) {
        let length = i32::try_from(length).unwrap_or(i32::MAX);
        self.bytes.extend_from_slice(&length.to_le_bytes());
    }

    pub fn binary(&mut self, name: &str, of: u8, value: &[u8]) {
        self.head(kind::BINARY, name);
        self.length(value.len());
        self.bytes.push(of);
        self.bytes.extend_from_slice(value);
    }

    pub fn object_id(&mut self, name: &str, value: [u8; 12]) {
        self.head(kind::OBJECT_ID, name);
        self.bytes.extend_from_slice(&value);
    }

    pub fn bool(&mut self, name: &str, value: bool) {
        self.head(kind::BOOL, name);
        self.bytes.push(value.into());
    }

    /// Milliseconds since 1970.
    pub fn date(&mut self, name: &str, millis: i64) {
        self.head(kind::DATE, name);
        self.bytes.extend_from_slice(&millis.to_le_bytes());
    }

    pub fn null(&mut self, name: &str) {
        self.head(kind::NULL, name);
    }

    pub fn int(&mut self, name: &str, value: i32) {
        self.head(kind::INT, name);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn long(&mut self, name: &str, value: i64) {
        self.head(kind::LONG, name);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn decimal(&mut self, name: &str, value: [u8; 16]) {
        self.head(kind::DECIMAL, name);
        self.bytes.extend_from_slice(&value);
    }

    /// A whole document.
    pub fn document(&mut self, name: &str, document: &[u8]) {
        self.head(kind::DOCUMENT, name);
        self.bytes.extend_from_slice(document);
    }

    /// A value of another document.
    pub fn copy(&mut self, name: &str, element: &BsonElement<'_>) {
        self.head(element.kind, name);
        self.bytes.extend_from_slice(element.raw);
    }

    /// Begins a document in this one.
    pub fn open(&mut self, name: &str) {
        self.begin(kind::DOCUMENT, name);
    }

    /// Begins an array.
    pub fn open_array(&mut self, name: &str) {
        self.begin(kind::ARRAY, name);
    }

    fn begin(&mut self, kind: u8, name: &str) {
        self.head(kind, name);
        self.open.push(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 4]);
    }

    /// Ends the document or the array that was begun last.
    pub fn close(&mut self) {
        if let Some(at) = self.open.pop() {
            self.bytes.push(0);
            let length = i32::try_from(self.bytes.len() - at).unwrap_or(i32::MAX);
            self.bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
        }
    }

    /// The whole document.
    pub fn finish(mut self) -> Vec<u8> {
        while !self.open.is_empty() {
            self.close();
        }
        self.bytes
    }
}

/// A value with its name.
#[derive(Clone, Debug)]
pub struct BsonElement<'a> {
    /// Its name; one that is no UTF-8 as [`not_text`] has it.
    pub name: Cow<'a, str>,
    pub value: BsonValue<'a>,
    kind: u8,
    /// The bytes of the value.
    raw: &'a [u8],
}

impl<'a> BsonDocument<'a> {
    /// A document with nothing in it.
    pub const EMPTY: BsonDocument<'static> = BsonDocument(&[5, 0, 0, 0, 0]);

    /// The document of these bytes; none where they have another form.
    pub fn read(bytes: &'a [u8]) -> Option<BsonDocument<'a>> {
        let document = BsonDocument(bytes);
        document.is_whole(DEPTH_MAX).then_some(document)
    }

    fn is_whole(self, depth: usize) -> bool {
        let Some(length) = length(self.0) else {
            return false;
        };
        if depth == 0 || length != self.0.len() || self.0.last() != Some(&0) {
            return false;
        }
        let mut rest = &self.0[4..];
        loop {
            if rest == [0] {
                return true;
            }
            let Some((element, after)) = element(rest) else {
                return false;
            };
            let whole = match element.value {
                BsonValue::Document(inner) | BsonValue::Array(inner) => inner.is_whole(depth - 1),
                _ => true,
            };
            if !whole {
                return false;
            }
            rest = after;
        }
    }

    /// Its bytes.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Its values, in their order.
    pub fn elements(self) -> impl Iterator<Item = BsonElement<'a>> {
        let mut rest = self.0.get(4..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (found, after) = element(rest)?;
            rest = after;
            Some(found)
        })
    }

    /// The value of a name.
    pub fn element(self, name: &str) -> Option<BsonElement<'a>> {
        self.elements().find(|element| element.name == name)
    }

    /// The value of a name; of `a.b` the one that is called `b` in the document `a`.
    pub fn get(self, path: &str) -> Option<BsonValue<'a>> {
        if let Some(element) = self.element(path) {
            return Some(element.value);
        }
        let (first, rest) = path.split_once('.')?;
        match self.element(first)?.value {
            BsonValue::Document(inner) => inner.get(rest),
            _ => None,
        }
    }

    pub fn text(self, path: &str) -> Option<&'a str> {
        match self.get(path)? {
            BsonValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number of any width.
    pub fn number(self, path: &str) -> Option<i64> {
        match self.get(path)? {
            BsonValue::Int(number) => Some(number.into()),
            BsonValue::Long(number) => Some(number),
            #[allow(clippy::cast_possible_truncation, reason = "small numbers of servers")]
            BsonValue::Double(number) => Some(number as i64),
            _ => None,
        }
    }

    /// Whether a value is true, or a number that is not zero.
    pub fn is(self, path: &str) -> bool {
        match self.get(path) {
            Some(BsonValue::Bool(value)) => value,
            _ => self.number(path).is_some_and(|number| number != 0),
        }
    }

    pub fn document(self, path: &str) -> Option<BsonDocument<'a>> {
        match self.get(path)? {
            BsonValue::Document(inner) => Some(inner),
            _ => None,
        }
    }

    /// The values of an array; none without one.
    pub fn list(self, path: &str) -> impl Iterator<Item = BsonValue<'a>> {
        let array = match self.get(path) {
            Some(BsonValue::Array(array)) => array,
            _ => BsonDocument::EMPTY,
        };
        array.elements().map(|element| element.value)
    }

    /// The documents of an array.
    pub fn documents(self, path: &str) -> impl Iterator<Item = BsonDocument<'a>> {
        self.list(path).filter_map(|value| match value {
            BsonValue::Document(document) => Some(document),
            _ => None,
        })
    }

    /// The texts of an array.
    pub fn texts(self, path: &str) -> impl Iterator<Item = &'a str> {
        self.list(path).filter_map(|value| match value {
            BsonValue::Text(text) => Some(text),
            _ => None,
        })
    }
}

impl BsonElement<'_> {
    /// The bytes of the value as those of a document with this value alone, to be kept.
    pub fn alone(&self, name: &str) -> Vec<u8> {
        let mut writer = BsonWriter::new();
        writer.copy(name, self);
        writer.finish()
    }

    /// Kind and bytes of the value: the same for values that are the same.
    pub fn same(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind];
        bytes.extend_from_slice(self.raw);
        bytes
    }
}

fn length(bytes: &[u8]) -> Option<usize> {
    let bytes = bytes.first_chunk::<4>()?;
    usize::try_from(i32::from_le_bytes(*bytes)).ok()
}

/// Bytes that are no UTF-8, for people: `\x` and their digits.
pub fn not_text(bytes: &[u8]) -> String {
    format!("\\x{}", hex(bytes))
}

/// The bytes up to a zero byte, and what is behind it.
fn name(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// The first value, and what is behind it.
fn element(bytes: &[u8]) -> Option<(BsonElement<'_>, &[u8])> {
    let (&kind, rest) = bytes.split_first()?;
    if kind == 0 {
        return None;
    }
    let (name, rest) = name(rest)?;
    let name = match std::str::from_utf8(name) {
        Ok(name) => Cow::Borrowed(name),
        Err(_) => Cow::Owned(not_text(name)),
    };
    let (value, size) = value(kind, rest)?;
    let raw = rest.get(..size)?;
    let element = BsonElement {
        name,
        value,
        kind,
        raw,
    };
    Some((element, &rest[size..]))
}

/// A value, and the number of its bytes.
fn value(of: u8, rest: &[u8]) -> Option<(BsonValue<'_>, usize)> {
    fn fixed<const N: usize>(rest: &[u8]) -> Option<[u8; N]> {
        rest.first_chunk::<N>().copied()
    }
    let text = |rest: &'_ [u8]| -> Option<usize> {
        let length = length(rest)?.checked_sub(1)?;
        (*rest.get(4 + length)? == 0).then_some(length)
    };
    let bytes_of = |rest| {
        let length = text(rest)?;
        Some((&rest[4..4 + length], length + 5))
    };
    Some(match of {
        kind::DOUBLE => (BsonValue::Double(f64::from_le_bytes(fixed(rest)?)), 8),
        kind::TEXT => {
            let (bytes, size) = bytes_of(rest)?;
            let text = std::str::from_utf8(bytes).map(BsonValue::Text);
            (text.unwrap_or(BsonValue::NotText(bytes)), size)
        }
        kind::DOCUMENT | kind::ARRAY => {
            let size = length(rest)?;
            let inner = BsonDocument(rest.get(..size).filter(|inner| inner.len() >= 5)?);
            let value = match of {
                kind::DOCUMENT => BsonValue::Document(inner),
                _ => BsonValue::Array(inner),
            };
            (value, size)
        }
        kind::BINARY => {
            let size = length(rest)?;
            let of = *rest.get(4)?;
            (
                BsonValue::Binary(of, rest.get(5..size.checked_add(5)?)?),
                size + 5,
            )
        }
        kind::OBJECT_ID => (BsonValue::ObjectId(fixed(rest)?), 12),
        kind::BOOL => (BsonValue::Bool(fixed::<1>(rest)? != [0]), 1),
        kind::DATE => (BsonValue::Date(i64::from_le_bytes(fixed(rest)?)), 8),
        kind::NULL => (BsonValue::Null, 0),
        0x0b => {
            let (pattern, after) = name(rest)?;
            let (options, after) = name(after)?;
            let size = rest.len() - after.len();
            let texts = (std::str::from_utf8(pattern), std::str::from_utf8(options));
            match texts {
                (Ok(pattern), Ok(options)) => (BsonValue::Regex(pattern, options), size),
                // Both, with the zero bytes that end them.
                _ => (BsonValue::NotText(&rest[..size]), size),
            }
        }
        0x0d | 0x0e => {
            let (bytes, size) = bytes_of(rest)?;
            let text = std::str::from_utf8(bytes).map(BsonValue::Code);
            (text.unwrap_or(BsonValue::NotText(bytes)), size)
        }
        kind::INT => (BsonValue::Int(i32::from_le_bytes(fixed(rest)?)), 4),
        kind::TIMESTAMP => (BsonValue::Timestamp(u64::from_le_bytes(fixed(rest)?)), 8),
        kind::LONG => (BsonValue::Long(i64::from_le_bytes(fixed(rest)?)), 8),
        kind::DECIMAL => (BsonValue::Decimal(fixed(rest)?), 16),
        0xff => (BsonValue::MinKey, 0),
        0x7f => (BsonValue::MaxKey, 0),
        0x06 => (BsonValue::Old, 0),
        0x0c => (BsonValue::Old, text(rest)? + 5 + 12),
        0x0f => (BsonValue::Old, length(rest)?.max(4)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_broken_is_refused() {
        let mut writer = BsonWriter::new();
        writer.text("a", "张三");
        writer.open("b");
        writer.long("c", -5);
        writer.open_array("d");
        writer.bool("0", true);
        writer.double("1", 0.5);
        writer.close();
        writer.close();
        writer.date("e", 1);
        let bytes = writer.finish();
        let document = BsonDocument::read(&bytes).expect("a document");
        assert_eq!(document.text("a"), Some("张三"));
        assert_eq!(document.number("b.c"), Some(-5));
        let list: Vec<_> = document.list("b.d").collect();
        assert_eq!(list, [BsonValue::Bool(true), BsonValue::Double(0.5)]);
        assert_eq!(document.get("e"), Some(BsonValue::Date(1)));
        assert_eq!(document.elements().count(), 3);
        // The example of the standard.
        let mut hello = BsonWriter::new();
        hello.text("hello", "world");
        assert_eq!(
            hello.finish(),
            b"\x16\x00\x00\x00\x02hello\x00\x06\x00\x00\x00world\x00\x00"
        );
        // Bytes that are no UTF-8, as a name and as a value, and others beside them.
        let mut odd = BsonWriter::new();
        odd.text("n", "v");
        odd.int("after", 7);
        let mut odd = odd.finish();
        for at in [5, 11] {
            odd[at] = 0xff;
        }
        let read = BsonDocument::read(&odd).expect("a document");
        let found: Vec<_> = read.elements().map(|one| (one.name, one.value)).collect();
        let first = ("\\xff".into(), BsonValue::NotText(&[0xff]));
        assert_eq!(found, [first, ("after".into(), BsonValue::Int(7))]);
        for at in 0..bytes.len() {
            assert!(BsonDocument::read(&bytes[..at]).is_none());
            // No byte may lead beyond the end.
            let mut broken = bytes.clone();
            broken[at] ^= 0xff;
            if let Some(document) = BsonDocument::read(&broken) {
                document.elements().for_each(drop);
            }
        }
        let mut deep = BsonWriter::new();
        for _ in 0..DEPTH_MAX {
            deep.open("a");
        }
        assert!(BsonDocument::read(&deep.finish()).is_none());
    }
}
