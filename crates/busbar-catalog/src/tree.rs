//! A YAML document as a tree in which every node has its place in the text.
//!
//! Specs stay plain serde types: `de.rs` reads them from the tree, with errors that carry the place of the node that
//! was read. A later check finds the place of a value by its path ([`Source::place`]) or by what its error names
//! ([`Source::diagnostic_about`]).

use std::ops::Range;
use std::sync::Arc;

use busbar_event::{Class, Error};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_saphyr::{Location, Spanned};

use crate::diagnostic::Diagnostic;
use crate::limits::{FILE_BYTES_MAX, YAML_DEPTH_MAX, YAML_NODES_MAX};

/// One file: its path in the project, its text and what the text says.
#[derive(Clone, Debug)]
pub struct Source {
    file: Arc<str>,
    text: Arc<str>,
    root: Node,
}

/// A value and its place, a range of bytes in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where the value is written. For a mapping or a sequence from its first to its last child.
    pub span: Range<usize>,
    /// What is written there.
    pub value: Value,
    /// How a number, a boolean or null was written, for fields that want text.
    pub(crate) raw: Option<Box<str>>,
}

/// What a YAML node says, in the types of JSON.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number above `i64::MAX`.
    UInt(u64),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// Text.
    Text(String),
    /// A sequence.
    Seq(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<(Spot, Node)>),
}

/// A key of a mapping and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Spot {
    /// The key.
    pub text: String,
    /// Where it is written.
    pub span: Range<usize>,
}

/// One step of a [`Path`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathItem<'a> {
    /// The value under a key.
    Key(&'a str),
    /// An element of a sequence.
    Index(usize),
}

/// The way from a document's root to a value.
pub type Path<'a> = &'a [PathItem<'a>];

impl<'a> From<&'a str> for PathItem<'a> {
    fn from(key: &'a str) -> Self {
        PathItem::Key(key)
    }
}

impl From<usize> for PathItem<'_> {
    fn from(index: usize) -> Self {
        PathItem::Index(index)
    }
}

impl Source {
    /// Reads a YAML (or JSON) document. `file` is the path people know it by.
    ///
    /// # Errors
    /// A diagnostic with the place where the text stops being YAML, or a bound it goes beyond.
    pub fn parse(file: &str, text: &str) -> Result<Source, Diagnostic> {
        // Some editors begin a file with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.len() > FILE_BYTES_MAX {
            let error = Error::new(Class::Configuration, "catalog.file-too-long")
                .with("bytes", text.len())
                .with("bytes_max", FILE_BYTES_MAX);
            return Err(Diagnostic::new(file, "", 0..0, error));
        }
        let mut budget = serde_saphyr::Budget::default();
        budget.max_depth = YAML_DEPTH_MAX;
        budget.max_nodes = YAML_NODES_MAX;
        budget.max_events = YAML_NODES_MAX * 2;
        let options = serde_saphyr::options! {
            strict_booleans: true,
            with_snippet: false,
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
            budget: Some(budget),
        };
        let parsed: Result<Read, _> = serde_saphyr::from_str_with_options(text, options);
        let root = match parsed {
            Ok(read) => read.settle(text),
            Err(error) => {
                return Err(syntax(file, text, error.without_snippet()));
            }
        };
        Ok(Source {
            file: file.into(),
            text: text.into(),
            root,
        })
    }

    /// The path of the file in the project.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The file's text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The whole document.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// The node at a path, or the deepest one on the way that exists.
    pub fn node(&self, path: Path<'_>) -> &Node {
        let mut at = &self.root;
        for item in path {
            match at.child(*item) {
                Some(next) => at = next,
                None => break,
            }
        }
        at
    }

    /// The place of `inner`, a range of bytes inside the text value at `path`.
    ///
    /// Plain and quoted scalars on one line are exact; block scalars are mapped line by line; where the
    /// text was escaped or folded, the answer is the whole scalar.
    pub fn place(&self, path: Path<'_>, inner: Option<Range<usize>>) -> Range<usize> {
        let node = self.node(path);
        match (&node.value, inner) {
            (Value::Text(value), Some(inner)) => {
                place_in_scalar(&self.text, &node.span, value, &inner)
                    .unwrap_or_else(|| node.span.clone())
            }
            _ => node.span.clone(),
        }
    }

    /// A diagnostic at a path of this file, optionally at a range inside the text there.
    pub fn diagnostic(
        &self,
        path: Path<'_>,
        inner: Option<Range<usize>>,
        error: Error,
    ) -> Diagnostic {
        Diagnostic::new(&self.file, &self.text, self.place(path, inner), error)
    }

    /// A diagnostic about an error that was raised without a place: it points at the value of the key that the error is
    /// about, else at a value or key that the error names, else at the first key of the file.
    pub fn diagnostic_about(&self, key: Option<&str>, error: Error) -> Diagnostic {
        let by_key = key.and_then(|key| find_key(&self.root, key));
        let named = || {
            let names = error.args().iter().map(|(_, value)| value.as_str());
            let mut names = names.filter(|name| !name.is_empty());
            names.find_map(|name| find_text(&self.root, name))
        };
        let first = || match &self.root.value {
            Value::Map(entries) => entries.first().map(|(key, _)| key.span.clone()),
            _ => None,
        };
        let span = by_key.or_else(named).or_else(first);
        Diagnostic::new(&self.file, &self.text, span.unwrap_or(0..0), error)
    }

    /// A diagnostic at a key (not its value) of the mapping at `path`.
    pub fn diagnostic_at_key(&self, path: Path<'_>, key: &str, error: Error) -> Diagnostic {
        let node = self.node(path);
        let span = match &node.value {
            Value::Map(entries) => entries
                .iter()
                .find(|(k, _)| k.text == key)
                .map(|(k, _)| k.span.clone()),
            _ => None,
        };
        Diagnostic::new(
            &self.file,
            &self.text,
            span.unwrap_or(node.span.clone()),
            error,
        )
    }
}

/// The place of the value of a key, at any depth.
fn find_key(node: &Node, wanted: &str) -> Option<Range<usize>> {
    match &node.value {
        Value::Map(entries) => entries
            .iter()
            .find(|(key, _)| key.text == wanted)
            .map(|(_, value)| value.span.clone())
            .or_else(|| {
                entries
                    .iter()
                    .find_map(|(_, value)| find_key(value, wanted))
            }),
        Value::Seq(items) => items.iter().find_map(|item| find_key(item, wanted)),
        _ => None,
    }
}

/// The place of a key or a value that is written just so.
fn find_text(node: &Node, wanted: &str) -> Option<Range<usize>> {
    match &node.value {
        Value::Text(text) if text == wanted => Some(node.span.clone()),
        Value::Map(entries) => entries.iter().find_map(|(key, value)| {
            let key = (key.text == wanted).then(|| key.span.clone());
            key.or_else(|| find_text(value, wanted))
        }),
        Value::Seq(items) => items.iter().find_map(|item| find_text(item, wanted)),
        _ if node.raw.as_deref() == Some(wanted) => Some(node.span.clone()),
        _ => None,
    }
}

impl Node {
    /// The child under a key or index.
    pub fn child(&self, item: PathItem<'_>) -> Option<&Node> {
        match (&self.value, item) {
            (Value::Map(entries), PathItem::Key(key)) => entries
                .iter()
                .find(|(k, _)| k.text == key)
                .map(|(_, node)| node),
            (Value::Seq(items), PathItem::Index(index)) => items.get(index),
            // A single value stands for a list of one (`from: a`).
            (_, PathItem::Index(0)) => Some(self),
            _ => None,
        }
    }

    /// The value as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(i) => Json::from(*i),
            Value::UInt(u) => Json::from(*u),
            Value::Float(f) => Json::from(*f),
            Value::Text(t) => Json::String(t.clone()),
            Value::Seq(items) => Json::Array(items.iter().map(Node::to_json).collect()),
            Value::Map(entries) => Json::Object(
                entries
                    .iter()
                    .map(|(k, v)| (k.text.clone(), v.to_json()))
                    .collect(),
            ),
        }
    }
}

impl Serialize for Node {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(s)
    }
}

/// The tree as serde-saphyr reads it; [`Read::settle`] converts it to nodes.
struct Read(Spanned<ReadValue>);

enum ReadValue {
    Scalar(Value),
    Seq(Vec<Read>),
    Map(Vec<(Spanned<String>, Read)>),
}

/// The diagnostic for a text that is not YAML, in this project's words.
fn syntax(file: &str, text: &str, error: &serde_saphyr::Error) -> Diagnostic {
    let place = error
        .location()
        .map(|location| bytes_of(&location).unwrap_or_else(|| counted(text, &location)))
        .unwrap_or(0..0);
    let place = clamp(text, place);
    let why = error.to_string();
    if let Some(tab) = tab_in_indent(text, place.start, why.contains("tab")) {
        let error = Error::new(Class::Configuration, "catalog.tab");
        return Diagnostic::new(file, text, tab..tab + 1, error);
    }
    use serde_saphyr::Error as Yaml;
    let new = |code| Error::new(Class::Configuration, code);
    let error = match error {
        Yaml::DuplicateMappingKey { key, .. } => {
            let name = key.as_deref().unwrap_or_default();
            new("catalog.duplicate-key").with("name", name)
        }
        Yaml::MultipleDocuments { .. } => new("catalog.yaml-documents"),
        Yaml::UnknownAnchor { .. } => new("catalog.yaml-alias"),
        Yaml::Budget { .. }
        | Yaml::AliasReplayLimitExceeded { .. }
        | Yaml::AliasExpansionLimitExceeded { .. }
        | Yaml::AliasReplayStackDepthExceeded { .. } => new("catalog.yaml-large")
            .with("nodes_max", YAML_NODES_MAX)
            .with("depth_max", YAML_DEPTH_MAX),
        // The parser tells these apart by its words alone; should they change, the general message is right too.
        _ if why.contains("mapping values are not allowed") => new("catalog.yaml-colon"),
        _ if why.contains("quoted scalar") => new("catalog.yaml-quote"),
        _ if ["flow", "bracket", "brace", "']'", "'}'"]
            .iter()
            .any(|word| why.contains(word)) =>
        {
            new("catalog.yaml-bracket")
        }
        _ => new("catalog.yaml"),
    };
    // The parser names what comes behind; the open quotation mark, or the line between two documents, is what to mend.
    let before = &text[..place.start];
    let place = match error.code() {
        "catalog.yaml-quote" => before.rfind(['"', '\'']).map(|at| at..at + 1),
        "catalog.yaml-documents" => before.rfind("\n---").map(|at| at + 1..at + 4),
        _ => None,
    }
    .unwrap_or(place);
    Diagnostic::new(file, text, place, error)
}

/// A tab in the indentation of the line of `at`, or with `below` of the first line from there on that has one: the parser
/// may report the place of what came before.
fn tab_in_indent(text: &str, at: usize, below: bool) -> Option<usize> {
    let mut line = text[..at].rfind('\n').map_or(0, |end| end + 1);
    for shown in text[line..].split_inclusive('\n') {
        let indent = shown.len() - shown.trim_start_matches([' ', '\t']).len();
        if let Some(tab) = shown[..indent].find('\t') {
            return Some(line + tab);
        }
        if !below {
            return None;
        }
        line += shown.len();
    }
    None
}

/// The byte at a line and column, both from 1, for locations without byte offsets.
fn counted(text: &str, location: &Location) -> Range<usize> {
    let nth = |number: u64| usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX);
    let line: usize = text
        .split_inclusive('\n')
        .take(nth(location.line()))
        .map(str::len)
        .sum();
    let column: usize = text[line..]
        .chars()
        .take(nth(location.column()))
        .take_while(|c| *c != '\n')
        .map(char::len_utf8)
        .sum();
    line + column..line + column
}

fn bytes_of(location: &Location) -> Option<Range<usize>> {
    let span = location.span();
    let start = usize::try_from(span.byte_offset()?).ok()?;
    let len = usize::try_from(span.byte_len().unwrap_or(0)).ok()?;
    Some(start..start.checked_add(len)?)
}

/// The range, clamped to character boundaries of `text`.
fn clamp(text: &str, span: Range<usize>) -> Range<usize> {
    let floor = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = floor(span.start);
    start..floor(span.end).max(start)
}

impl Read {
    fn settle(self, text: &str) -> Node {
        let own = bytes_of(&self.0.referenced).unwrap_or(0..0);
        let mut span = clamp(text, own);
        let mut raw = None;
        let value = match self.0.value {
            ReadValue::Scalar(value) => {
                if let (Value::Text(_), end) = (&value, text[span.clone()].trim_end().len()) {
                    // Block scalars end before the blank lines that follow them.
                    span.end = span.start + end;
                } else {
                    // For an alias, the text at its anchor.
                    let defined = bytes_of(&self.0.defined).unwrap_or_else(|| span.clone());
                    raw = Some(bare(&text[clamp(text, defined)]).into());
                }
                value
            }
            ReadValue::Seq(items) => {
                let items: Vec<Node> = items.into_iter().map(|i| i.settle(text)).collect();
                widen(
                    &mut span,
                    items.first().map(|n| &n.span),
                    items.last().map(|n| &n.span),
                );
                Value::Seq(items)
            }
            ReadValue::Map(entries) => {
                let entries: Vec<(Spot, Node)> = entries
                    .into_iter()
                    .map(|(key, node)| {
                        let span = clamp(text, bytes_of(&key.referenced).unwrap_or(0..0));
                        (
                            Spot {
                                text: key.value,
                                span,
                            },
                            node.settle(text),
                        )
                    })
                    .collect();
                widen(
                    &mut span,
                    entries.first().map(|(k, _)| &k.span),
                    entries.last().map(|(_, n)| &n.span),
                );
                Value::Map(entries)
            }
        };
        Node { span, value, raw }
    }
}

/// A scalar without the anchor and tag before it.
fn bare(written: &str) -> &str {
    let mut rest = written.trim();
    while rest.starts_with(['&', '!']) {
        let Some((_, behind)) = rest.split_once(char::is_whitespace) else {
            break;
        };
        rest = behind.trim_start();
    }
    rest
}

fn widen(span: &mut Range<usize>, first: Option<&Range<usize>>, last: Option<&Range<usize>>) {
    if let Some(first) = first {
        span.start = span.start.min(first.start);
    }
    if let Some(last) = last {
        span.end = span.end.max(last.end);
    }
}

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Spanned::<ReadValue>::deserialize(d).map(Read)
    }
}

impl<'de> Deserialize<'de> for ReadValue {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = ReadValue;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a YAML value")
            }
            fn visit_unit<E>(self) -> Result<ReadValue, E> {
                Ok(ReadValue::Scalar(Value::Null))
            }
            fn visit_none<E>(self) -> Result<ReadValue, E> {
                Ok(ReadValue::Scalar(Value::Null))
            }
            fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<ReadValue, D::Error> {
                ReadValue::deserialize(d)
            }
            fn visit_bool<E>(self, v: bool) -> Result<ReadValue, E> {
                Ok(ReadValue::Scalar(Value::Bool(v)))
            }
            fn visit_i64<E>(self, v: i64) -> Result<ReadValue, E> {
                Ok(ReadValue::Scalar(Value::Int(v)))
            }
            fn visit_u64<E>(self, v: u64) -> Result<ReadValue, E> {
                Ok(ReadValue::Scalar(
                    i64::try_from(v).map_or(Value::UInt(v), Value::Int),
                ))
            }
            fn visit_f64<E>(self, v: f64) -> Result<ReadValue, E> {
                Ok(ReadValue::Scalar(Value::Float(v)))
            }
            fn visit_str<E>(self, v: &str) -> Result<ReadValue, E> {
                Ok(ReadValue::Scalar(Value::Text(v.to_owned())))
            }
            fn visit_string<E>(self, v: String) -> Result<ReadValue, E> {
                Ok(ReadValue::Scalar(Value::Text(v)))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ReadValue, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(ReadValue::Seq(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ReadValue, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key()? {
                    entries.push((key, map.next_value()?));
                }
                Ok(ReadValue::Map(entries))
            }
        }
        d.deserialize_any(Any)
    }
}

/// Maps a range inside a scalar's value to the file.
fn place_in_scalar(
    text: &str,
    span: &Range<usize>,
    value: &str,
    inner: &Range<usize>,
) -> Option<Range<usize>> {
    let inner = inner.start.min(value.len())..inner.end.min(value.len());
    let written = text.get(span.clone())?;
    // Plain, or quoted without an escape: the value stands in the file as it is.
    let shift = match written.as_bytes().first()? {
        b'"' | b'\'' if written.get(1..)?.starts_with(value) => 1,
        b'"' | b'\'' => {
            let place = |offset| place_in_quoted(written, value, offset);
            return Some(span.start + place(inner.start)?..span.start + place(inner.end)?);
        }
        _ if written.starts_with(value) => 0,
        _ => return place_in_block(text, span, value, &inner),
    };
    Some(span.start + shift + inner.start..span.start + shift + inner.end)
}

/// The place in a quoted scalar of a byte of its value: both are walked side by side, over escapes and
/// folded line breaks.
fn place_in_quoted(written: &str, value: &str, offset: usize) -> Option<usize> {
    let quote = written.chars().next()?;
    let (mut at, mut done) = (1, 0);
    loop {
        let (rest, left) = (written.get(at..)?, value.get(done..)?);
        if done >= offset {
            return Some(at);
        }
        let next = left.chars().next()?;
        let blank = rest.len() - rest.trim_start().len();
        if rest[..blank].contains(['\n', '\r']) {
            at += blank;
            done += left.len() - left.trim_start().len();
        } else if quote == '\'' && rest.starts_with("''") {
            at += 2;
            done += 1;
        } else if quote == '"' && rest.starts_with('\\') {
            let kind = rest[1..].chars().next()?;
            let digits = match kind {
                'x' => 2,
                'u' => 4,
                'U' => 8,
                // A line that goes on in the next: nothing of it is in the value.
                '\n' | '\r' => {
                    at += 1 + rest[1..].len() - rest[1..].trim_start().len();
                    continue;
                }
                _ => 0,
            };
            at += 1 + kind.len_utf8() + digits;
            done += next.len_utf8();
        } else if rest.starts_with(next) {
            at += next.len_utf8();
            done += next.len_utf8();
        } else {
            return None;
        }
    }
}

/// A literal (`|`) or folded (`>`) scalar, or a plain one over several lines: the value's lines are found
/// again one after the other, each behind its indentation.
fn place_in_block(
    text: &str,
    span: &Range<usize>,
    value: &str,
    inner: &Range<usize>,
) -> Option<Range<usize>> {
    // A folded line break is a space in the value, so words are what both have in common.
    let place = |offset: usize| -> Option<usize> {
        let mut at = span.start;
        if matches!(text.as_bytes().get(at)?, b'|' | b'>') {
            at += text.get(at..)?.find('\n')? + 1;
        }
        let mut rest = value;
        let mut done = 0;
        loop {
            let blank = rest.len() - rest.trim_start().len();
            if offset < done + blank && offset > done {
                // Inside white space: right behind the word before it.
                return Some(at);
            }
            done += blank;
            rest = &rest[blank..];
            let gap = text.get(at..)?;
            at += gap.len() - gap.trim_start().len();
            let word = rest.find(char::is_whitespace).unwrap_or(rest.len());
            if !text.get(at..)?.starts_with(&rest[..word]) {
                return None;
            }
            if offset <= done + word {
                return Some(at + offset.saturating_sub(done));
            }
            if word == 0 {
                return None;
            }
            at += word;
            done += word;
            rest = &rest[word..];
        }
    };
    let start = place(inner.start)?;
    let end = if inner.end > inner.start {
        place(inner.end)?
    } else {
        start
    };
    Some(start..end.max(start))
}

#[cfg(test)]
mod tests;
