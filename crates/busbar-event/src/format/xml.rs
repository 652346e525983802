//! XML payloads: a document as the JSON object that says the same, which is then decoded as JSON is.
//!
//! | XML | member of the object |
//! | --- | --- |
//! | the root element | the object itself; its name does not count |
//! | attribute `id` | `@id` |
//! | element without attributes and elements within | its text; null if it has none |
//! | any other element | an object of its attributes and elements; text of its own beside them is `#text` |
//! | several elements of one name | an array of them, where the first one stands |
//! | an element to which the path of a column leads with `[*]` | an array, also where it comes once |
//! | an element of which a column is the `#text` | an object, also where it has nothing else |
//!
//! A text that is a number or a truth value as JSON writes it becomes one, any other a text; white space around it does not
//! count. Prefixes of namespaces and their declarations are left out, so that `<a:level/>` is `level`. CDATA is text; comments
//! and processing instructions are passed over. Entities are the five of XML and characters by number. A document type is
//! refused, and with it all entities that a document could declare.

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use quick_xml::XmlVersion;
use quick_xml::errors::{Error as XmlError, SyntaxError};
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

use super::json_write::write_json_text;
use super::xml_shape::XmlShape;
use super::{FieldType, natural_type};
use crate::limits::{XML_ATTRIBUTES_MAX, XML_DEPTH_MAX, XML_NODES_MAX};

/// Why a document cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum XmlFault {
    /// It breaks off.
    End,
    /// It is not XML at this byte.
    Syntax(usize),
    /// It has a document type.
    DocumentType(usize),
    /// It uses an entity that XML itself does not have.
    Entity(usize),
    /// It says that it is in an encoding that is not known or is not that of its bytes.
    Encoding,
    /// Its bytes are not in this encoding, which it is in.
    Bytes(&'static str),
    /// It is not UTF-8 at this byte.
    Utf8(usize),
    /// Its elements are nested too deep.
    Depth(usize),
    /// An element has too many attributes, or two of one name.
    Attributes(usize),
    /// It has too many elements and attributes.
    Nodes(usize),
    /// It has no root element, or something beside it.
    Root(usize),
}

/// Reads documents; keeps its buffers from one to the next.
#[derive(Debug, Default)]
pub(super) struct XmlReader {
    nodes: Vec<XmlNode>,
    /// Names and texts of the nodes, one behind the other.
    texts: String,
    /// The last node of a name below a parent, by the parent's place.
    last: HashMap<(usize, String), usize, RandomState>,
    json: Vec<u8>,
    /// What the paths of columns say of elements.
    shape: XmlShape,
}

/// An element or an attribute.
#[derive(Debug)]
struct XmlNode {
    name: (usize, usize),
    is_attribute: bool,
    /// Its text, as far as it has one.
    text: (usize, usize),
    first_child: Option<usize>,
    last_child: Option<usize>,
    /// The next node of the same parent.
    next: Option<usize>,
    /// The next one that has the same name too.
    next_same: Option<usize>,
    /// Not the first of its name.
    is_repeated: bool,
}

impl XmlReader {
    /// A reader of documents for columns of which this is known.
    pub fn new(shape: XmlShape) -> XmlReader {
        XmlReader {
            shape,
            ..XmlReader::default()
        }
    }

    /// The JSON object that says the same as a document.
    pub fn json(&mut self, document: &str) -> Result<&[u8], XmlFault> {
        self.nodes.clear();
        self.texts.clear();
        self.last.clear();
        self.json.clear();
        self.read(document)?;
        self.write(0, self.shape.root());
        Ok(&self.json)
    }

    fn read(&mut self, document: &str) -> Result<(), XmlFault> {
        let mut reader = Reader::from_str(document);
        reader.config_mut().check_comments = false;
        // The elements that are open, and the text of each so far.
        let mut open: Vec<(usize, String)> = Vec::new();
        loop {
            let event = reader.read_event();
            let at = position(&reader);
            let event = event.map_err(|error| match error {
                XmlError::Syntax(
                    SyntaxError::UnclosedTag
                    | SyntaxError::UnclosedCData
                    | SyntaxError::UnclosedComment
                    | SyntaxError::UnclosedPI
                    | SyntaxError::UnclosedXmlDecl
                    | SyntaxError::UnclosedDoctype,
                ) => XmlFault::End,
                _ => XmlFault::Syntax(at),
            })?;
            match event {
                Event::Start(start) => {
                    let node = self.element(&start, open.last().map(|(node, _)| *node), at)?;
                    if open.len() == XML_DEPTH_MAX {
                        return Err(XmlFault::Depth(at));
                    }
                    open.push((node, String::new()));
                }
                Event::Empty(start) => {
                    self.element(&start, open.last().map(|(node, _)| *node), at)?;
                }
                Event::End(_) => {
                    let (node, text) = open.pop().ok_or(XmlFault::Syntax(at))?;
                    self.nodes[node].text = self.keep(text.trim());
                }
                Event::Text(text) => match open.last_mut() {
                    Some((_, own)) => own.push_str(&text),
                    None if text.trim().trim_start_matches('\u{feff}').is_empty() => {}
                    None => return Err(XmlFault::Root(at)),
                },
                Event::CData(text) => match open.last_mut() {
                    Some((_, own)) => own.push_str(&text),
                    None => return Err(XmlFault::Root(at)),
                },
                Event::GeneralRef(reference) => {
                    let named = match &*reference {
                        "lt" => Some('<'),
                        "gt" => Some('>'),
                        "amp" => Some('&'),
                        "quot" => Some('"'),
                        "apos" => Some('\''),
                        _ => reference.resolve_char_ref().ok().flatten(),
                    };
                    match (open.last_mut(), named) {
                        (Some((_, own)), Some(letter)) => own.push(letter),
                        (None, _) => return Err(XmlFault::Root(at)),
                        (_, None) => return Err(XmlFault::Entity(at)),
                    }
                }
                // The caller has decoded the document.
                Event::Decl(declaration) => {
                    if declaration.encoding().is_some_and(|name| name.is_err()) {
                        return Err(XmlFault::Syntax(at));
                    }
                }
                Event::DocType(_) => return Err(XmlFault::DocumentType(at)),
                Event::Comment(_) | Event::PI(_) => {}
                Event::Eof => break,
            }
        }
        match (open.is_empty(), self.nodes.is_empty()) {
            (false, _) => Err(XmlFault::End),
            (_, true) => Err(XmlFault::Root(0)),
            _ => Ok(()),
        }
    }

    /// Adds an element with its attributes.
    fn element(
        &mut self,
        start: &BytesStart<'_>,
        parent: Option<usize>,
        at: usize,
    ) -> Result<usize, XmlFault> {
        if parent.is_none() && !self.nodes.is_empty() {
            return Err(XmlFault::Root(at));
        }
        // The reader takes any text for a name.
        const NOT_IN_NAMES: &[char] = &['<', '&', '"', '\'', '=', '!', '?'];
        if start.name().into_inner().contains(NOT_IN_NAMES) {
            return Err(XmlFault::Syntax(at));
        }
        let node = self.node(start.local_name().into_inner(), parent, false, at)?;
        for (number, attribute) in start.attributes().enumerate() {
            let attribute = attribute.map_err(|_| XmlFault::Attributes(at))?;
            if number == XML_ATTRIBUTES_MAX {
                return Err(XmlFault::Attributes(at));
            }
            let name = attribute.key.into_inner();
            if name.contains(NOT_IN_NAMES) || attribute.value.contains('<') {
                return Err(XmlFault::Syntax(at));
            }
            if name == "xmlns" || name.starts_with("xmlns:") {
                continue;
            }
            let value = attribute
                .normalized_value(XmlVersion::Implicit1_0)
                .map_err(|_| XmlFault::Entity(at))?;
            let local = attribute.key.local_name().into_inner();
            let place = self.node(local, Some(node), true, at)?;
            if self.nodes[place].is_repeated {
                // Of two namespaces: their names are the same here.
                return Err(XmlFault::Attributes(at));
            }
            self.nodes[place].text = self.keep(value.trim());
        }
        Ok(node)
    }

    fn node(
        &mut self,
        name: &str,
        parent: Option<usize>,
        is_attribute: bool,
        at: usize,
    ) -> Result<usize, XmlFault> {
        let place = self.nodes.len();
        if place == XML_NODES_MAX {
            return Err(XmlFault::Nodes(at));
        }
        let mut is_repeated = false;
        if let Some(parent) = parent {
            let marked = match is_attribute {
                true => format!("@{name}"),
                false => name.to_owned(),
            };
            if let Some(before) = self.last.insert((parent, marked), place) {
                self.nodes[before].next_same = Some(place);
                is_repeated = true;
            }
            match self.nodes[parent].last_child.replace(place) {
                Some(before) => self.nodes[before].next = Some(place),
                None => self.nodes[parent].first_child = Some(place),
            }
        }
        let name = self.keep(name);
        self.nodes.push(XmlNode {
            name,
            is_attribute,
            text: (0, 0),
            first_child: None,
            last_child: None,
            next: None,
            next_same: None,
            is_repeated,
        });
        Ok(place)
    }

    fn keep(&mut self, text: &str) -> (usize, usize) {
        let from = self.texts.len();
        self.texts.push_str(text);
        (from, self.texts.len())
    }

    /// Writes what an element says. The document was bounded in depth when it was read.
    fn write(&mut self, place: usize, shape: Option<usize>) {
        let node = &self.nodes[place];
        if node.first_child.is_none() && place > 0 && !self.shape.has_text(shape) {
            return self.write_text(place);
        }
        let (text, mut child) = (node.text, node.first_child);
        self.json.push(b'{');
        let mut is_first = true;
        while let Some(at) = child {
            let node = &self.nodes[at];
            child = node.next;
            if node.is_repeated {
                continue;
            }
            let name = match node.is_attribute {
                true => format!("@{}", &self.texts[node.name.0..node.name.1]),
                false => self.texts[node.name.0..node.name.1].to_owned(),
            };
            let mut same = node.next_same;
            let below = self.shape.below(shape, &name);
            self.member(&name, &mut is_first);
            if same.is_none() && !self.shape.is_list(below) {
                self.write(at, below);
                continue;
            }
            self.json.push(b'[');
            self.write(at, below);
            while let Some(next) = same {
                self.json.push(b',');
                self.write(next, below);
                same = self.nodes[next].next_same;
            }
            self.json.push(b']');
        }
        if text.1 > text.0 {
            self.member("#text", &mut is_first);
            self.write_text(place);
        }
        self.json.push(b'}');
    }

    fn member(&mut self, name: &str, is_first: &mut bool) {
        if !std::mem::take(is_first) {
            self.json.push(b',');
        }
        write_json_text(name, &mut self.json);
        self.json.push(b':');
    }

    fn write_text(&mut self, place: usize) {
        let (from, to) = self.nodes[place].text;
        let text = &self.texts[from..to];
        match natural_type(text) {
            _ if text.is_empty() => self.json.extend_from_slice(b"null"),
            FieldType::Bool | FieldType::Int | FieldType::Float => {
                self.json.extend_from_slice(text.as_bytes());
            }
            _ => write_json_text(text, &mut self.json),
        }
    }
}

fn position(reader: &Reader<&[u8]>) -> usize {
    usize::try_from(reader.error_position().max(reader.buffer_position())).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(document: &str) -> Result<String, XmlFault> {
        let mut reader = XmlReader::default();
        let json = reader.json(document)?;
        Ok(String::from_utf8(json.to_vec()).unwrap())
    }

    #[test]
    fn documents_become_objects() {
        for (document, expected) in [
            ("<r/>", "{}"),
            ("<r>text</r>", r##"{"#text":"text"}"##),
            (
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<reading id=\"7\"><level>62.5</level> <ok>true</ok><code>007</code></reading>\n<!-- end -->",
                r#"{"@id":7,"level":62.5,"ok":true,"code":"007"}"#,
            ),
            (
                "<r><v>1</v><w/><v>2</v><v>x</v></r>",
                r#"{"v":[1,2,"x"],"w":null}"#,
            ),
            (
                "<r><v u=\"mm\"> 5 </v><v u=\"cm\"/><v/></r>",
                r##"{"v":[{"@u":"mm","#text":5},{"@u":"cm"},null]}"##,
            ),
            (
                "<a:r xmlns:a=\"http://x/a\" xmlns=\"http://x\"><a:level a:unit='mm'>3</a:level><b>&lt;&#x4e2d;&amp;<![CDATA[<&>]]></b></a:r>",
                r##"{"level":{"@unit":"mm","#text":3},"b":"<中&<&>"}"##,
            ),
            ("<r>a<b>1</b>c</r>", r##"{"b":1,"#text":"ac"}"##),
            ("\u{feff}<r><b>\"\\\t</b></r>", r#"{"b":"\"\\"}"#),
        ] {
            assert_eq!(json(document).unwrap(), expected, "{document}");
        }
    }

    #[test]
    fn what_is_refused() {
        let bomb = "<!DOCTYPE r [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;&a;\">]><r>&b;</r>";
        let deep = format!("{}{}", "<a>".repeat(100), "</a>".repeat(100));
        let attributes: String = (0..=XML_ATTRIBUTES_MAX)
            .map(|n| format!(" a{n}='1'"))
            .collect();
        let wide = format!("<r>{}</r>", "<a/>".repeat(XML_NODES_MAX));
        for (document, name) in [
            ("", "Root"),
            ("text", "Root"),
            ("<a/><b/>", "Root"),
            ("<a>", "End"),
            ("<a", "End"),
            ("<a></b>", "Syntax"),
            (bomb, "DocumentType"),
            ("<r>&b;</r>", "Entity"),
            ("<r a='&b;'/>", "Entity"),
            (&deep, "Depth"),
            ("<r a='1' a='2'/>", "Attributes"),
            ("<r x:a='1' y:a='2'/>", "Attributes"),
            ("<r u<!DOCTYPE='mm'/>", "Syntax"),
            ("<r u='<!DOCTYPE'/>", "Syntax"),
            ("<r<x/>", "Syntax"),
            (&format!("<r{attributes}/>"), "Attributes"),
            (&wide, "Nodes"),
        ] {
            let fault = format!("{:?}", json(document).unwrap_err());
            let shown: String = document.chars().take(60).collect();
            assert!(fault.starts_with(name), "{shown}: {fault}");
        }
    }
}
