//! Reads a document: XML 1.0 with namespaces, without document types.

use std::borrow::Cow;

use memchr::{memchr, memchr_iter, memmem};

use crate::document::{Declaration, NONE, NodeAt, NodeData, NodeKind, Slice, XmlDocument};
use crate::fault::{DocumentFault, DocumentFaultKind as Kind};
use crate::limits::{
    DOCUMENT_BYTES_MAX, DOCUMENT_DEPTH_MAX, DOCUMENT_NODES_MAX, ELEMENT_ATTRIBUTES_MAX,
    SCOPE_NAMESPACES_MAX,
};
use crate::names::{is_space, is_xml_char, name_length};

impl XmlDocument {
    /// Reads a document.
    ///
    /// # Errors
    /// What is wrong with it, and where; the document is then empty.
    pub fn read(&mut self, text: &str) -> Result<(), DocumentFault> {
        self.clear();
        let read = read(self, text);
        if read.is_err() {
            self.clear();
        }
        read
    }

    /// A document of a text.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn of(text: &str) -> Result<XmlDocument, DocumentFault> {
        let mut document = XmlDocument::default();
        document.read(text)?;
        Ok(document)
    }
}

/// Whether a document, well-formed or not, is within every bound and has no document type, by the number of its marks alone: another
/// reader may have it first.
pub(crate) fn is_surely_bounded(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= DOCUMENT_BYTES_MAX
        // Without it the first bytes of UTF-16 and UTF-32 are not there, which a reader may go by.
        && memchr(0, bytes).is_none()
        && memmem::find(bytes, b"<!DOCTYPE").is_none()
        // An element that holds another one has two tags.
        && memchr_iter(b'<', bytes).count() <= 2 * DOCUMENT_DEPTH_MAX
        && memchr_iter(b'=', bytes).count() <= ELEMENT_ATTRIBUTES_MAX
}

/// Adds the nodes of a document to an empty one.
fn read(document: &mut XmlDocument, text: &str) -> Result<(), DocumentFault> {
    let mut reader = DocumentReader {
        text,
        at: 0,
        document,
        open: vec![OpenElement::default()],
        scope: vec![0],
        attributes: Vec::new(),
    };
    reader
        .document()
        .map_err(|(kind, at)| DocumentFault::at(kind, text, at))
}

type Fault = (Kind, usize);

struct DocumentReader<'t, 'd> {
    text: &'t str,
    at: usize,
    document: &'d mut XmlDocument,
    /// The root and the elements that are open.
    open: Vec<OpenElement<'t>>,
    /// The declarations of namespaces that hold, by their numbers.
    scope: Vec<u32>,
    /// Those of the element that is being read; kept for its memory.
    attributes: Vec<(&'t str, Cow<'t, str>, usize)>,
}

#[derive(Default)]
struct OpenElement<'t> {
    node: u32,
    name: &'t str,
    last_child: Option<u32>,
    /// How many declarations held around it.
    scope: usize,
}

impl<'t> DocumentReader<'t, '_> {
    fn document(&mut self) -> Result<(), Fault> {
        if self.text.len() > DOCUMENT_BYTES_MAX {
            return Err((Kind::Large, 0));
        }
        characters(self.text)?;
        self.take("\u{feff}");
        self.declaration()?;
        let mut has_element = false;
        while self.at < self.text.len() {
            let rest = &self.text.as_bytes()[self.at..];
            match rest {
                [b'<', b'!', ..] => self.marked()?,
                [b'<', b'?', ..] => self.instruction()?,
                [b'<', b'/', ..] => self.end_tag()?,
                [b'<', ..] => {
                    if self.open.len() == 1 && std::mem::replace(&mut has_element, true) {
                        return Err((Kind::Root, self.at));
                    }
                    self.start_tag()?;
                }
                _ => self.characters()?,
            }
        }
        match (self.open.len(), has_element) {
            (2.., _) => Err((Kind::End, self.at)),
            (_, false) => Err((Kind::Root, self.at)),
            _ => {
                let end = self.document.nodes.len() as u32;
                self.document.nodes[0].end = end;
                Ok(())
            }
        }
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn take(&mut self, what: &str) -> bool {
        let is_there = self.rest().starts_with(what);
        if is_there {
            self.at += what.len();
        }
        is_there
    }

    fn blanks(&mut self) -> bool {
        let bytes = &self.text.as_bytes()[self.at..];
        let blank = bytes
            .iter()
            .take_while(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n'));
        let blank = blank.count();
        self.at += blank;
        blank > 0
    }

    /// Where something ends that is ended by `end`; what is in between is returned.
    fn until(&mut self, end: &str) -> Result<&'t str, Fault> {
        let length = memmem::find(self.rest().as_bytes(), end.as_bytes());
        let length = length.ok_or((Kind::End, self.text.len()))?;
        let inner = &self.rest()[..length];
        self.at += length + end.len();
        Ok(inner)
    }

    /// What is not understood here; that a document ends is said as such.
    fn unexpected(&self) -> Fault {
        match self.rest().is_empty() {
            true => (Kind::End, self.at),
            false => (Kind::Syntax, self.at),
        }
    }

    fn declaration(&mut self) -> Result<(), Fault> {
        let is_declared = self
            .rest()
            .strip_prefix("<?xml")
            .is_some_and(|rest| rest.starts_with(is_space));
        if !is_declared {
            return Ok(());
        }
        self.at += "<?xml".len();
        let mut seen = 0;
        loop {
            let blank = self.blanks();
            if self.take("?>") {
                break;
            }
            let (rank, name) = match self.rest() {
                rest if rest.starts_with("version") => (1, "version"),
                rest if rest.starts_with("encoding") => (2, "encoding"),
                rest if rest.starts_with("standalone") => (3, "standalone"),
                _ => return Err(self.unexpected()),
            };
            if !blank || rank <= seen || (seen == 0 && rank > 1) {
                return Err(self.unexpected());
            }
            seen = rank;
            self.at += name.len();
            self.equals()?;
            let at = self.at;
            let value = self.quoted()?;
            let is_good = match rank {
                1 => value.strip_prefix("1.").is_some_and(|minor| {
                    !minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit())
                }),
                2 => value.starts_with(|c: char| c.is_ascii_alphabetic()),
                _ => matches!(value, "yes" | "no"),
            };
            if !is_good {
                return Err((Kind::Syntax, at));
            }
        }
        match seen {
            0 => Err((Kind::Syntax, self.at)),
            _ => Ok(()),
        }
    }

    fn equals(&mut self) -> Result<(), Fault> {
        self.blanks();
        if !self.take("=") {
            return Err(self.unexpected());
        }
        self.blanks();
        Ok(())
    }

    fn quoted(&mut self) -> Result<&'t str, Fault> {
        let quote = match self.rest().as_bytes().first() {
            Some(quote @ (b'"' | b'\'')) => *quote,
            _ => return Err(self.unexpected()),
        };
        self.at += 1;
        let length = memchr(quote, self.rest().as_bytes()).ok_or((Kind::End, self.text.len()))?;
        let value = &self.rest()[..length];
        self.at += length + 1;
        Ok(value)
    }

    /// Comments, CDATA sections and document types.
    fn marked(&mut self) -> Result<(), Fault> {
        let from = self.at;
        if self.take("<!--") {
            let at = self.at;
            let comment = self.until("--")?;
            if !self.take(">") {
                return Err(self.unexpected());
            }
            let value = self.lines(comment);
            let value = self.document.keep(&value);
            return self.add(NodeKind::Comment, NONE, value, at);
        }
        if self.take("<![CDATA[") {
            if self.open.len() == 1 {
                return Err((Kind::Root, from));
            }
            let data = self.until("]]>")?;
            let data = self.lines(data);
            return self.text(&data, from);
        }
        match self.rest().starts_with("<!DOCTYPE") {
            true => Err((Kind::DocumentType, from)),
            false => Err((Kind::Syntax, from)),
        }
    }

    fn instruction(&mut self) -> Result<(), Fault> {
        let from = self.at;
        self.at += 2;
        let length = name_length(self.rest());
        let target = &self.rest()[..length];
        if length == 0 || target.eq_ignore_ascii_case("xml") {
            return Err((Kind::Syntax, self.at));
        }
        self.at += length;
        let has_blank = self.blanks();
        if !has_blank && !self.rest().starts_with("?>") {
            return Err(self.unexpected());
        }
        let value = self.until("?>")?;
        let value = self.lines(value);
        let value = self.document.keep(&value);
        let name = self.document.name(target, 0, NONE);
        self.add(NodeKind::Instruction, name, value, from)
    }

    /// Line ends as XML has them.
    fn lines(&self, text: &'t str) -> Cow<'t, str> {
        match memchr(b'\r', text.as_bytes()) {
            None => Cow::Borrowed(text),
            Some(_) => Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n")),
        }
    }

    fn characters(&mut self) -> Result<(), Fault> {
        let from = self.at;
        let length = memchr(b'<', self.rest().as_bytes()).unwrap_or(self.rest().len());
        let text = &self.rest()[..length];
        self.at += length;
        if self.open.len() == 1 {
            let other = text.find(|c| !is_space(c));
            return match other {
                None => Ok(()),
                Some(other) => Err((Kind::Root, from + other)),
            };
        }
        if let Some(at) = memmem::find(text.as_bytes(), b"]]>") {
            return Err((Kind::Syntax, from + at));
        }
        if memchr(b'&', text.as_bytes()).is_none() {
            let text = self.lines(text);
            return self.text(&text, from);
        }
        let mut whole = String::with_capacity(text.len());
        let mut at = 0;
        while let Some(reference) = memchr(b'&', &text.as_bytes()[at..]) {
            whole.push_str(&self.lines(&text[at..at + reference]));
            at += reference;
            let (letter, length) = reference_at(&text[at..]).map_err(|kind| (kind, from + at))?;
            whole.push(letter);
            at += length;
        }
        whole.push_str(&self.lines(&text[at..]));
        self.text(&whole, from)
    }

    fn text(&mut self, text: &str, at: usize) -> Result<(), Fault> {
        if text.is_empty() {
            return Ok(());
        }
        let from = self.document.texts.len() as u32;
        self.document.texts.push_str(text);
        let to = self.document.texts.len() as u32;
        let last = self.document.nodes.len() as u32 - 1;
        let before = self.open.last().and_then(|open| open.last_child);
        if before == Some(last) && self.document.data(last).kind == NodeKind::Text {
            self.document.nodes[last as usize].value.to = to;
            return Ok(());
        }
        self.add(NodeKind::Text, NONE, Slice { from, to }, at)
    }

    /// Adds a node to the element that is open.
    fn add(&mut self, kind: NodeKind, name: u32, value: Slice, at: usize) -> Result<(), Fault> {
        let number = self.document.nodes.len();
        if number >= DOCUMENT_NODES_MAX {
            return Err((Kind::Nodes, at));
        }
        let number = number as u32;
        let mut previous = None;
        let mut parent = 0;
        if let Some(open) = self.open.last_mut() {
            parent = open.node;
            if kind != NodeKind::Attribute {
                previous = open.last_child.replace(number);
            }
        }
        self.document.nodes.push(NodeData {
            kind,
            name,
            parent,
            end: number + 1,
            previous: previous.unwrap_or(NONE),
            value,
        });
        Ok(())
    }

    fn start_tag(&mut self) -> Result<(), Fault> {
        let from = self.at;
        self.at += 1;
        let name = self.qualified()?;
        let mut attributes = std::mem::take(&mut self.attributes);
        attributes.clear();
        let is_empty = loop {
            let blank = self.blanks();
            if self.take(">") {
                break false;
            }
            if self.take("/>") {
                break true;
            }
            if !blank {
                return Err(self.unexpected());
            }
            let at = self.at;
            let name = self.qualified()?;
            self.equals()?;
            let value_at = self.at + 1;
            let value =
                attribute_value(self.quoted()?).map_err(|(kind, at)| (kind, value_at + at))?;
            if attributes.len() == ELEMENT_ATTRIBUTES_MAX {
                return Err((Kind::Nodes, at));
            }
            attributes.push((name, value, at));
        };
        if self.open.len() > DOCUMENT_DEPTH_MAX {
            return Err((Kind::Deep, from));
        }
        let node = self.document.nodes.len() as u32;
        let scope = self.scope.len();
        for (name, uri, at) in &attributes {
            self.declare(node, name, uri, *at)?;
        }
        let element = self
            .resolve(name, true)
            .ok_or((Kind::Namespace, from + 1))?;
        let begin = self.document.texts.len() as u32;
        let value = Slice {
            from: begin,
            to: begin,
        };
        self.add(NodeKind::Element, element, value, from)?;
        self.open.push(OpenElement {
            node,
            name,
            last_child: None,
            scope,
        });
        for (name, value, at) in &attributes {
            if *name == "xmlns" || name.starts_with("xmlns:") {
                continue;
            }
            let name = self.resolve(name, false).ok_or((Kind::Namespace, *at))?;
            let value = self.document.keep(value);
            self.add(NodeKind::Attribute, name, value, *at)?;
        }
        self.check_attributes(node, from)?;
        self.attributes = attributes;
        if is_empty {
            self.close();
        }
        Ok(())
    }

    fn close(&mut self) {
        if let Some(open) = self.open.pop() {
            self.scope.truncate(open.scope);
            let end = self.document.nodes.len() as u32;
            let text = self.document.texts.len() as u32;
            let node = &mut self.document.nodes[open.node as usize];
            (node.end, node.value.to) = (end, text);
        }
    }

    fn end_tag(&mut self) -> Result<(), Fault> {
        let from = self.at;
        self.at += 2;
        let open = match self.open.as_slice() {
            [_, .., open] => open.name,
            _ => return Err((Kind::Root, from)),
        };
        let fits = self
            .rest()
            .strip_prefix(open)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(|c| c == '>' || is_space(c)));
        if !fits {
            return Err((Kind::EndTag(open.to_owned()), from));
        }
        self.at += open.len();
        self.blanks();
        if !self.take(">") {
            return Err(self.unexpected());
        }
        self.close();
        Ok(())
    }

    /// A name with at most one colon in it.
    fn qualified(&mut self) -> Result<&'t str, Fault> {
        let rest = self.rest();
        let mut length = name_length(rest);
        if length > 0 && rest[length..].starts_with(':') {
            let local = name_length(&rest[length + 1..]);
            if local == 0 {
                self.at += length;
                return Err(self.unexpected());
            }
            length += 1 + local;
        }
        if length == 0 {
            return Err(self.unexpected());
        }
        self.at += length;
        Ok(&rest[..length])
    }

    fn declare(&mut self, element: u32, name: &str, uri: &str, at: usize) -> Result<(), Fault> {
        let prefix = match name.strip_prefix("xmlns") {
            Some("") => "",
            Some(prefix) if prefix.starts_with(':') => &prefix[1..],
            _ => return Ok(()),
        };
        let is_xml = uri == self.document.other(self.document.declarations[0].uri);
        let is_good = match prefix {
            "xml" => is_xml,
            "xmlns" => false,
            _ => {
                !is_xml
                    && uri != "http://www.w3.org/2000/xmlns/"
                    && (prefix.is_empty() || !uri.is_empty())
            }
        };
        if !is_good {
            return Err((Kind::Namespace, at));
        }
        let from = self.scope.len();
        let prefix = self.document.keep(prefix);
        let uri = self.document.keep(uri);
        let own = self.scope[..from]
            .iter()
            .rev()
            .map(|number| &self.document.declarations[*number as usize]);
        let mut own = own.take_while(|declaration| declaration.element == element);
        if own.any(|declaration| {
            self.document.other(declaration.prefix) == self.document.other(prefix)
        }) {
            return Err((Kind::TwiceNamed, at));
        }
        if from == SCOPE_NAMESPACES_MAX {
            return Err((Kind::Nodes, at));
        }
        self.scope.push(self.document.declarations.len() as u32);
        self.document.declarations.push(Declaration {
            element,
            prefix,
            uri,
        });
        Ok(())
    }

    /// The number of a name; none if its prefix stands for nothing.
    fn resolve(&mut self, written: &str, is_element: bool) -> Option<u32> {
        let colon = memchr(b':', written.as_bytes());
        let prefix = &written[..colon.unwrap_or(0)];
        let mut declaration = NONE;
        if is_element || colon.is_some() {
            let found = self.scope.iter().rev().find(|number| {
                let declaration = &self.document.declarations[**number as usize];
                self.document.other(declaration.prefix) == prefix
            });
            declaration = match found {
                Some(number) => *number,
                None if colon.is_some() => return None,
                None => NONE,
            };
            if declaration != NONE {
                let uri = self.document.declarations[declaration as usize].uri;
                if uri.from == uri.to {
                    declaration = NONE;
                }
            }
        }
        let length = colon.map_or(0, |colon| colon + 1);
        Some(self.document.name(written, length, declaration))
    }

    /// No two attributes have the same name in the same namespace.
    fn check_attributes(&self, element: u32, at: usize) -> Result<(), Fault> {
        let first = element + 1;
        let end = self.document.nodes.len() as u32;
        for one in first..end {
            let one = NodeAt::plain(one);
            for other in first..one.node {
                let other = NodeAt::plain(other);
                let is_same = self.document.local_name(one) == self.document.local_name(other)
                    && self.document.namespace(one) == self.document.namespace(other);
                if is_same {
                    return Err((Kind::TwiceNamed, at));
                }
            }
        }
        Ok(())
    }
}

/// The first character that XML does not allow.
fn characters(text: &str) -> Result<(), Fault> {
    let bytes = text.as_bytes();
    let is_control = |b: &u8| *b < 0x20 && !matches!(*b, b'\t' | b'\n' | b'\r');
    if let Some(at) = bytes.iter().position(is_control) {
        return Err((Kind::Character, at));
    }
    let strange =
        memchr_iter(0xef, bytes).find(|at| matches!(bytes[*at..], [_, 0xbf, 0xbe | 0xbf, ..]));
    strange.map_or(Ok(()), |at| Err((Kind::Character, at)))
}

/// The character that a reference stands for, and the reference's length.
fn reference_at(text: &str) -> Result<(char, usize), Kind> {
    let end = memchr(b';', text.as_bytes()).ok_or(Kind::Syntax)?;
    let name = &text[1..end];
    let letter = match name {
        "lt" => '<',
        "gt" => '>',
        "amp" => '&',
        "quot" => '"',
        "apos" => '\'',
        _ => {
            let number = match name.strip_prefix('#') {
                None if name_length(name) == name.len() && !name.is_empty() => {
                    return Err(Kind::Entity);
                }
                None => return Err(Kind::Syntax),
                Some(number) => number,
            };
            let (digits, radix) = match number.strip_prefix('x') {
                Some(digits) => (digits, 16),
                None => (number, 10),
            };
            let is_number = digits.bytes().all(|b| (b as char).is_digit(radix));
            let code = u32::from_str_radix(digits, radix)
                .ok()
                .filter(|_| is_number);
            code.and_then(char::from_u32)
                .filter(|c| is_xml_char(*c))
                .ok_or(Kind::Character)?
        }
    };
    Ok((letter, end + 1))
}

/// An attribute's value: references are resolved, and white space is blanks.
fn attribute_value(written: &str) -> Result<Cow<'_, str>, Fault> {
    let special = |b: &u8| matches!(b, b'&' | b'<' | b'\t' | b'\r' | b'\n');
    let Some(first) = written.as_bytes().iter().position(special) else {
        return Ok(Cow::Borrowed(written));
    };
    let mut value = String::with_capacity(written.len());
    value.push_str(&written[..first]);
    let mut at = first;
    while let Some(letter) = written[at..].chars().next() {
        match letter {
            '<' => return Err((Kind::Syntax, at)),
            '&' => {
                let (letter, length) = reference_at(&written[at..]).map_err(|kind| (kind, at))?;
                value.push(letter);
                at += length;
                continue;
            }
            // One line end is one blank.
            '\r' if written[at + 1..].starts_with('\n') => {}
            '\t' | '\r' | '\n' => value.push(' '),
            other => value.push(other),
        }
        at += letter.len_utf8();
    }
    Ok(Cow::Owned(value))
}
