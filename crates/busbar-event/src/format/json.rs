//! JSON payloads as typed columns, in one pass over the bytes.
//!
//! The wanted paths form a tree. A document is walked once; members that the tree does not name
//! are skipped, those that it does are parsed at once to their column's type and noted in a slot.
//! Only when the whole document is good are the slots appended to the columns, so that a bad one
//! leaves nothing behind.

use super::column::Column;
use super::scan::{Fault, Scanner, Span, unescape};
use super::{FieldType, cell, time};
use crate::limits::JSON_DEPTH_MAX;

/// Where the wanted fields are, and what the present document has of them.
#[derive(Debug)]
pub(super) struct JsonDecoder {
    /// The tree of wanted paths; the first node is the document.
    nodes: Vec<Node>,
    slots: Vec<Slot>,
    required: Vec<usize>,
    key: Vec<u8>,
}

/// A place in the document.
#[derive(Debug, Default)]
struct Node {
    /// The columns that this value is for; more than one if several are declared with one path.
    columns: Vec<usize>,
    /// Its members that are wanted or have wanted members.
    children: Vec<(Box<[u8]>, usize)>,
    /// Bit n: a child's key has n bytes (the last bit: that many or more).
    key_lengths: u64,
    /// All columns below.
    below: Vec<usize>,
}

/// What the document has for a column.
#[derive(Debug, Clone, Copy)]
enum Slot {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Text as it stands in the document.
    Plain(Span),
    /// Text with escapes.
    Escaped(Span),
    Bad(Problem, usize),
}

/// Why a value does not fit its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Problem {
    /// It is of another type, namely this.
    Type(&'static str),
    /// It is too large, or not whole.
    Range,
    /// It is not a point in time.
    Time,
    /// It must not be missing.
    Missing,
}

/// Why a payload is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reject {
    /// It is not JSON.
    Document(Fault),
    /// The value of a column, at a byte, does not fit.
    Field(usize, Problem, usize),
}

impl From<Fault> for Reject {
    fn from(fault: Fault) -> Reject {
        Reject::Document(fault)
    }
}

impl JsonDecoder {
    /// A decoder of columns at these paths.
    pub fn new(columns: &[Column], paths: &[Vec<String>]) -> JsonDecoder {
        let mut nodes = vec![Node::default()];
        for (column, path) in paths.iter().enumerate() {
            let mut at = 0;
            for part in path {
                nodes[at].below.push(column);
                let part = part.as_bytes();
                at = match nodes[at].children.iter().find(|(key, _)| **key == *part) {
                    Some((_, child)) => *child,
                    None => {
                        nodes.push(Node::default());
                        let child = nodes.len() - 1;
                        nodes[at].children.push((part.into(), child));
                        nodes[at].key_lengths |= length_bit(part.len());
                        child
                    }
                };
            }
            nodes[at].columns.push(column);
        }
        let required = (0..columns.len())
            .filter(|column| columns[*column].required)
            .collect();
        JsonDecoder {
            nodes,
            slots: vec![Slot::Null; columns.len()],
            required,
            key: Vec::new(),
        }
    }

    /// Appends the fields of a document to the columns, or nothing if it is bad. The caller has
    /// checked that the document is UTF-8.
    #[inline]
    pub fn row(&mut self, document: &[u8], columns: &mut [Column]) -> Result<(), Reject> {
        self.slots.fill(Slot::Null);
        let mut walk = Walk {
            scanner: Scanner::new(document),
            nodes: &self.nodes,
            slots: &mut self.slots,
            columns,
            key: &mut self.key,
        };
        if walk.scanner.peek()? != b'{' {
            // Say that it is no object only if it is JSON at all.
            walk.scanner.skip(0)?;
            walk.scanner.end()?;
            return Err(Fault::NotObject.into());
        }
        walk.object(0, 1)?;
        walk.scanner.end()?;
        for column in &self.required {
            if let Slot::Null = self.slots[*column] {
                return Err(Reject::Field(*column, Problem::Missing, 0));
            }
        }
        for (column, slot) in self.slots.iter().enumerate() {
            if let Slot::Bad(problem, at) = slot {
                return Err(Reject::Field(column, *problem, *at));
            }
        }
        for (column, slot) in columns.iter_mut().zip(&self.slots) {
            match *slot {
                Slot::Null | Slot::Bad(..) => column.push_null(),
                Slot::Bool(value) => column.push_bool(value),
                Slot::Int(value) => column.push_int(value),
                Slot::Float(value) => column.push_float(value),
                Slot::Plain(Span { from, to }) => {
                    column.push_text(|bytes| bytes.extend_from_slice(&document[from..to]));
                }
                Slot::Escaped(Span { from, to }) => {
                    column.push_text(|bytes| unescape(&document[from..to], bytes));
                }
            }
        }
        Ok(())
    }
}

fn length_bit(bytes: usize) -> u64 {
    1 << bytes.min(63)
}

struct Walk<'a, 'd> {
    scanner: Scanner<'d>,
    nodes: &'a [Node],
    slots: &'a mut [Slot],
    columns: &'a [Column],
    key: &'a mut Vec<u8>,
}

impl Walk<'_, '_> {
    /// The members of an object, whose brace is here and which is the `depth`th container.
    fn object(&mut self, node: usize, depth: usize) -> Result<(), Fault> {
        let node = &self.nodes[node];
        self.scanner.at += 1;
        if self.scanner.peek()? == b'}' {
            self.scanner.at += 1;
            return Ok(());
        }
        if depth > JSON_DEPTH_MAX {
            return Err(Fault::Depth(self.scanner.at));
        }
        loop {
            let (key, escaped) = self.scanner.key()?;
            match self.child(node, key, escaped) {
                None => self.scanner.skip(depth)?,
                Some(child) => self.value(child, depth)?,
            }
            match self.scanner.peek()? {
                b',' => {
                    self.scanner.at += 1;
                    self.scanner.peek()?;
                }
                b'}' => {
                    self.scanner.at += 1;
                    return Ok(());
                }
                _ => return Err(Fault::Syntax(self.scanner.at)),
            }
        }
    }

    #[inline(always)]
    fn child(&mut self, node: &Node, key: Span, escaped: bool) -> Option<usize> {
        let mut key = &self.scanner.bytes[key.from..key.to];
        if escaped {
            self.key.clear();
            unescape(key, self.key);
            key = self.key;
        }
        if node.key_lengths & length_bit(key.len()) == 0 {
            return None;
        }
        node.children
            .iter()
            .find(|(name, _)| **name == *key)
            .map(|(_, child)| *child)
    }

    /// A value that is wanted, or that has wanted members.
    fn value(&mut self, node: usize, depth: usize) -> Result<(), Fault> {
        let wanted = &self.nodes[node];
        let byte = self.scanner.peek()?;
        let from = self.scanner.at;
        if !wanted.below.is_empty() {
            // If the member is repeated, nothing of the one before stays.
            for column in &wanted.below {
                self.slots[*column] = Slot::Null;
            }
            match byte {
                b'{' => self.object(node, depth + 1)?,
                _ => self.scanner.skip(depth)?,
            }
        }
        for column in &wanted.columns {
            self.scanner.at = from;
            self.slots[*column] = self.parse(byte, &self.columns[*column], depth)?;
        }
        Ok(())
    }

    /// A value that begins with `byte`, for a column.
    #[inline(always)]
    fn parse(&mut self, byte: u8, column: &Column, depth: usize) -> Result<Slot, Fault> {
        let from = self.scanner.at;
        let slot = match byte {
            b'"' => {
                let (span, escaped) = self.scanner.string()?;
                match column.field_type {
                    FieldType::Text if escaped => Slot::Escaped(span),
                    FieldType::Text => Slot::Plain(span),
                    FieldType::Json => Slot::Plain(Span {
                        from,
                        to: self.scanner.at,
                    }),
                    FieldType::Time => {
                        let text = &self.scanner.bytes[span.from..span.to];
                        crate::time::parse_bytes(text)
                            .map_or(Slot::Bad(Problem::Time, from), Slot::Int)
                    }
                    _ if escaped || column.exact => Slot::Bad(Problem::Type("text"), from),
                    other => text(&self.scanner.bytes[span.from..span.to], other)
                        .unwrap_or(Slot::Bad(Problem::Type("text"), from)),
                }
            }
            b'-' | b'0'..=b'9' => {
                let number = self.scanner.number()?;
                match column.field_type {
                    FieldType::Int if column.exact && number.is_negative_zero() => {
                        Slot::Bad(Problem::Range, from)
                    }
                    FieldType::Int => number
                        .as_int(self.scanner.bytes)
                        .map_or(Slot::Bad(Problem::Range, from), Slot::Int),
                    FieldType::Float
                        if column.exact && !number.is_exact_float(self.scanner.bytes) =>
                    {
                        Slot::Bad(Problem::Range, from)
                    }
                    FieldType::Float => number
                        .as_float(self.scanner.bytes)
                        .map_or(Slot::Bad(Problem::Range, from), Slot::Float),
                    FieldType::Text | FieldType::Json => Slot::Plain(number.span),
                    FieldType::Time => {
                        let whole = number.as_int(self.scanner.bytes);
                        let micros = match whole.filter(|_| number.is_whole()) {
                            Some(value) => time::from_int(value, column.unit),
                            None => number
                                .as_float(self.scanner.bytes)
                                .and_then(|value| time::from_float(value, column.unit)),
                        };
                        micros.map_or(Slot::Bad(Problem::Time, from), Slot::Int)
                    }
                    FieldType::Bool => match &self.scanner.bytes[from..number.span.to] {
                        digit @ (b"0" | b"1") if !column.exact => Slot::Bool(digit == b"1"),
                        _ => Slot::Bad(Problem::Type("number"), from),
                    },
                }
            }
            b't' | b'f' => {
                self.scanner
                    .literal(if byte == b't' { b"true" } else { b"false" })?;
                match column.field_type {
                    FieldType::Bool => Slot::Bool(byte == b't'),
                    FieldType::Text | FieldType::Json => Slot::Plain(Span {
                        from,
                        to: self.scanner.at,
                    }),
                    _ => Slot::Bad(Problem::Type("bool"), from),
                }
            }
            b'n' => {
                self.scanner.literal(b"null")?;
                Slot::Null
            }
            _ => {
                self.scanner.skip(depth)?;
                match column.field_type {
                    FieldType::Text | FieldType::Json => Slot::Plain(Span {
                        from,
                        to: self.scanner.at,
                    }),
                    _ if byte == b'{' => Slot::Bad(Problem::Type("object"), from),
                    _ => Slot::Bad(Problem::Type("array"), from),
                }
            }
        };
        Ok(slot)
    }
}

/// A text for a column of another type, as a cell of CSV is read.
fn text(text: &[u8], field_type: FieldType) -> Option<Slot> {
    let text = std::str::from_utf8(text).ok()?;
    match field_type {
        FieldType::Bool => cell::bool(text).map(Slot::Bool),
        FieldType::Int => cell::int(text).map(Slot::Int),
        FieldType::Float => cell::float(text).map(Slot::Float),
        _ => None,
    }
}
