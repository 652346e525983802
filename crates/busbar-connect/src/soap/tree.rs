//! An XML document as a tree, with its namespaces: small, bounded, and without anything that a document could declare.

use std::collections::HashMap;

use busbar_event::limits::{XML_ATTRIBUTES_MAX, XML_DEPTH_MAX, XML_NODES_MAX};
use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

/// A document. The first element is the root.
#[derive(Debug, Default)]
pub(super) struct XmlTree {
    elements: Vec<TreeElement>,
}

/// An element.
#[derive(Debug)]
pub(super) struct TreeElement {
    pub parent: Option<usize>,
    pub name: QualifiedName,
    pub attributes: Vec<(QualifiedName, String)>,
    pub children: Vec<TreeChild>,
}

/// What is in an element.
#[derive(Debug)]
pub(super) enum TreeChild {
    /// An element, by its number.
    Element(usize),
    Text(String),
}

/// A name without its prefix, and the namespace that the prefix stands for; empty without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QualifiedName {
    pub local: String,
    pub namespace: String,
}

/// Why a document is not taken, in words that people look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TreeFault {
    /// It is not XML, or breaks off.
    Syntax,
    /// It has a document type, or entities that XML itself does not have.
    Declared,
    /// It is nested too deep, or has too much in it.
    Large,
}

impl XmlTree {
    /// Reads a document.
    pub fn read(document: &str) -> Result<XmlTree, TreeFault> {
        let mut reader = Reader::from_str(document);
        let mut tree = XmlTree::default();
        let mut open: Vec<usize> = Vec::new();
        // For each open element the namespaces that it declares, by prefix.
        let mut scopes: Vec<HashMap<String, String>> = Vec::new();
        let mut nodes = 0;
        loop {
            let event = reader.read_event().map_err(|_| TreeFault::Syntax)?;
            let text = match event {
                Event::Start(start) => {
                    if open.len() == XML_DEPTH_MAX {
                        return Err(TreeFault::Large);
                    }
                    let place = tree.add(&start, open.last().copied(), &mut scopes, &mut nodes)?;
                    open.push(place);
                    continue;
                }
                Event::Empty(start) => {
                    tree.add(&start, open.last().copied(), &mut scopes, &mut nodes)?;
                    scopes.pop();
                    continue;
                }
                Event::End(_) => {
                    open.pop().ok_or(TreeFault::Syntax)?;
                    scopes.pop();
                    continue;
                }
                Event::Text(text) => text.to_string(),
                Event::CData(text) => text.to_string(),
                Event::GeneralRef(reference) => match &*reference {
                    "lt" => "<".into(),
                    "gt" => ">".into(),
                    "amp" => "&".into(),
                    "quot" => "\"".into(),
                    "apos" => "'".into(),
                    _ => {
                        let letter = reference.resolve_char_ref().ok().flatten();
                        letter.ok_or(TreeFault::Declared)?.to_string()
                    }
                },
                Event::DocType(_) => return Err(TreeFault::Declared),
                Event::Decl(_) | Event::Comment(_) | Event::PI(_) => continue,
                Event::Eof => break,
            };
            match open.last() {
                Some(place) => tree.elements[*place].push_text(&text),
                None if text.trim().trim_start_matches('\u{feff}').is_empty() => {}
                None => return Err(TreeFault::Syntax),
            }
        }
        match open.is_empty() && !tree.elements.is_empty() {
            true => Ok(tree),
            false => Err(TreeFault::Syntax),
        }
    }

    fn add(
        &mut self,
        start: &BytesStart<'_>,
        parent: Option<usize>,
        scopes: &mut Vec<HashMap<String, String>>,
        nodes: &mut usize,
    ) -> Result<usize, TreeFault> {
        if parent.is_none() && !self.elements.is_empty() {
            return Err(TreeFault::Syntax);
        }
        let mut declared = HashMap::new();
        let mut attributes = Vec::new();
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|_| TreeFault::Syntax)?;
            let value = attribute
                .normalized_value(XmlVersion::Implicit1_0)
                .map_err(|_| TreeFault::Declared)?
                .into_owned();
            let name = attribute.key.into_inner();
            if name == "xmlns" {
                declared.insert(String::new(), value);
            } else if let Some(prefix) = name.strip_prefix("xmlns:") {
                declared.insert(prefix.to_owned(), value);
            } else {
                attributes.push((name.to_owned(), value));
            }
            if attributes.len() + declared.len() > XML_ATTRIBUTES_MAX {
                return Err(TreeFault::Large);
            }
        }
        *nodes += 1 + attributes.len();
        if *nodes > XML_NODES_MAX {
            return Err(TreeFault::Large);
        }
        scopes.push(declared);
        let resolve = |name: &str, is_element: bool| -> Result<QualifiedName, TreeFault> {
            let (prefix, local) = name.split_once(':').unwrap_or(("", name));
            let mut scopes = scopes.iter().rev();
            let namespace = match prefix {
                // An attribute without a prefix is in no namespace.
                "" if !is_element => "",
                "xml" => "http://www.w3.org/XML/1998/namespace",
                _ => match scopes.find_map(|scope| scope.get(prefix)) {
                    Some(namespace) => namespace,
                    None if prefix.is_empty() => "",
                    None => return Err(TreeFault::Syntax),
                },
            };
            Ok(QualifiedName {
                local: local.to_owned(),
                namespace: namespace.to_owned(),
            })
        };
        let name = resolve(start.name().into_inner(), true)?;
        let attributes = attributes.into_iter();
        let attributes = attributes.map(|(name, value)| Ok((resolve(&name, false)?, value)));
        let attributes = attributes.collect::<Result<_, _>>()?;
        let place = self.elements.len();
        self.elements.push(TreeElement {
            parent,
            name,
            attributes,
            children: Vec::new(),
        });
        if let Some(parent) = parent {
            self.elements[parent]
                .children
                .push(TreeChild::Element(place));
        }
        Ok(place)
    }

    /// An element by its number; 0 is the root.
    pub fn element(&self, place: usize) -> &TreeElement {
        &self.elements[place]
    }

    /// The elements below an element, in order.
    pub fn children(&self, place: usize) -> impl Iterator<Item = usize> + '_ {
        let children = self.elements[place].children.iter();
        children.filter_map(|child| match child {
            TreeChild::Element(place) => Some(*place),
            TreeChild::Text(_) => None,
        })
    }

    /// The first element of this local name below an element.
    pub fn child(&self, place: usize, local: &str) -> Option<usize> {
        self.children(place)
            .find(|child| self.elements[*child].name.local == local)
    }

    /// An element's number and those of all below it, in the order of the document.
    pub fn with_all_below(&self, place: usize) -> Vec<usize> {
        let mut all = vec![place];
        let mut at = 0;
        // Breadth first would not be in order; elements are numbered as they begin.
        while at < all.len() {
            all.extend(self.children(all[at]));
            at += 1;
        }
        all.sort_unstable();
        all
    }

    /// All text in an element and below it.
    pub fn text(&self, place: usize) -> String {
        let mut text = String::new();
        // What is still to be written; the next is last. The document was bounded when it was read.
        let mut open: Vec<&TreeChild> = self.elements[place].children.iter().rev().collect();
        while let Some(child) = open.pop() {
            match child {
                TreeChild::Text(own) => text.push_str(own),
                TreeChild::Element(below) => {
                    open.extend(self.elements[*below].children.iter().rev())
                }
            }
        }
        text
    }
}

impl TreeElement {
    fn push_text(&mut self, text: &str) {
        match self.children.last_mut() {
            Some(TreeChild::Text(before)) => before.push_str(text),
            _ => self.children.push(TreeChild::Text(text.to_owned())),
        }
    }
}
