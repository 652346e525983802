//! The shape of an element's documents: what is in it, in order, with namespaces.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use busbar_event::Error;
use busbar_event::format::FieldType;
use busbar_xml::{NodeAt, XmlDocument};

use super::load::{Component, XsdFiles, XsdPart, within};
use super::particle::{ContentReader, TypeOf};
use super::simple::SimpleOf;
use super::wrong;
use crate::limits::SHAPE_DEPTH_MAX;

/// Schemas that stand in a document, as those of a WSDL do, and the files that they name.
pub struct XsdSchemas {
    files: XsdFiles,
}

/// What documents of an element hold.
#[derive(Clone, Debug)]
pub struct XsdShape {
    /// The element.
    pub root: ShapeElement,
    /// The complex types in it, by [`ShapeContent::Complex`].
    pub types: Vec<ShapeType>,
}

/// An element.
#[derive(Clone, Debug)]
pub struct ShapeElement {
    /// Its name without a prefix.
    pub name: String,
    /// Its namespace; empty for none.
    pub namespace: String,
    /// What is in it.
    pub content: ShapeContent,
    /// It must be there.
    pub is_required: bool,
    /// It may be there several times.
    pub is_repeated: bool,
    /// It may be there without a value, with `xsi:nil`.
    pub is_nillable: bool,
}

/// What is in an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapeContent {
    /// A value: the type of a column of such values, and the type of XML Schema that it is derived from.
    Value(FieldType, &'static str),
    /// Elements and attributes: the number of the type.
    Complex(usize),
    /// Anything.
    Any,
}

/// What is in elements of a complex type.
#[derive(Clone, Debug, Default)]
pub struct ShapeType {
    /// Its attributes.
    pub attributes: Vec<ShapeAttribute>,
    /// Its elements, in order.
    pub elements: Vec<ShapeElement>,
    /// Its text, where it has no elements.
    pub text: Option<(FieldType, &'static str)>,
}

/// An attribute.
#[derive(Clone, Debug)]
pub struct ShapeAttribute {
    /// Its name.
    pub name: String,
    /// The type of a column of its values, and the type of XML Schema that it is derived from.
    pub value: (FieldType, &'static str),
    /// It must be there.
    pub is_required: bool,
}

impl XsdSchemas {
    /// Schemas in documents: the path of the document's file, the document and the element of the schema. The files that they
    /// include and import are among `files`, by paths.
    ///
    /// # Errors
    /// *Configuration*: what is wrong with a schema, with its file.
    pub fn read(
        schemas: Vec<(PathBuf, Arc<XmlDocument>, NodeAt)>,
        files: &BTreeMap<String, String>,
    ) -> Result<XsdSchemas, Error> {
        let parts = schemas.into_iter();
        let parts = parts.map(|(path, document, root)| XsdPart::Element(path, document, root));
        let read = |path: &Path| {
            let shown = path.display().to_string();
            let text = files.get(&shown);
            let text = text.ok_or_else(|| wrong("xsd.outside", &shown))?;
            let document = XmlDocument::of(text);
            document.map_err(|fault| wrong("xsd.document", &shown).caused_by(fault.error()))
        };
        Ok(XsdSchemas {
            files: XsdFiles::of(parts.collect(), &read)?,
        })
    }

    /// The path of a file that another one names, within their folder.
    ///
    /// # Errors
    /// *Configuration*: it is elsewhere, as on the network.
    pub fn beside(from: &Path, location: &str) -> Result<PathBuf, Error> {
        within(from, location)
    }

    /// The shape of an element that the schemas declare; none if they do not.
    ///
    /// # Errors
    /// *Configuration*: what is wrong with its type, with the file.
    pub fn shape(&self, namespace: &str, name: &str) -> Result<Option<XsdShape>, Error> {
        let Some(element) = self.files.element(namespace, name) else {
            return Ok(None);
        };
        let mut walk = ShapeWalk::new(&self.files);
        let root = walk.element(element)?;
        Ok(Some(XsdShape {
            root,
            types: walk.types,
        }))
    }
}

impl XsdSchemas {
    /// The shape of an element that no schema declares, such as those around the parts of a message: one with an element in no
    /// namespace for each part, given by its name and the namespace and name of its type.
    ///
    /// # Errors
    /// *Configuration*: there is no such type, or what is wrong with it.
    pub fn shape_of_parts(
        &self,
        (namespace, name): (&str, &str),
        parts: &[(String, (String, String))],
    ) -> Result<XsdShape, Error> {
        let mut walk = ShapeWalk::new(&self.files);
        // The one around comes first.
        walk.types.push(ShapeType::default());
        let mut elements = Vec::with_capacity(parts.len());
        for (part, (namespace, local)) in parts {
            let named = walk.reader.type_named(namespace, local)?;
            let unknown = || wrong("xsd.unknown-type", local).with("namespace", namespace);
            elements.push(ShapeElement {
                name: part.clone(),
                namespace: String::new(),
                content: walk.content(named.ok_or_else(unknown)?)?,
                is_required: true,
                is_repeated: false,
                is_nillable: false,
            });
        }
        walk.types[0].elements = elements;
        Ok(XsdShape {
            root: ShapeElement {
                name: name.to_owned(),
                namespace: namespace.to_owned(),
                content: ShapeContent::Complex(0),
                is_required: true,
                is_repeated: false,
                is_nillable: false,
            },
            types: walk.types,
        })
    }
}

struct ShapeWalk<'x> {
    reader: ContentReader<'x>,
    /// The complex types that are known.
    known: HashMap<Component, ShapeContent>,
    types: Vec<ShapeType>,
    /// Types around the one that is read.
    depth: usize,
}

impl<'x> ShapeWalk<'x> {
    fn new(files: &'x XsdFiles) -> ShapeWalk<'x> {
        ShapeWalk {
            reader: ContentReader { files, steps: 0 },
            known: HashMap::new(),
            types: Vec::new(),
            depth: 0,
        }
    }

    fn content(&mut self, of: TypeOf) -> Result<ShapeContent, Error> {
        Ok(match of {
            TypeOf::Simple(simple) => ShapeContent::Value(simple.field_type, simple.built_in),
            TypeOf::Complex(complex) => self.complex(complex)?,
            TypeOf::Any => ShapeContent::Any,
        })
    }

    fn element(&mut self, declaration: Component) -> Result<ShapeElement, Error> {
        let files = self.reader.files;
        let is_true = |name| matches!(files.attribute(declaration, name), Some("true" | "1"));
        Ok(ShapeElement {
            name: files.own_name(declaration)?.to_owned(),
            namespace: files.namespace_of(declaration).to_owned(),
            content: {
                let of = self.reader.type_of(declaration, 0)?;
                self.content(of)?
            },
            is_required: true,
            is_repeated: false,
            is_nillable: is_true("nillable"),
        })
    }

    fn complex(&mut self, complex: Component) -> Result<ShapeContent, Error> {
        if let Some(known) = self.known.get(&complex) {
            return Ok(*known);
        }
        let content = self.reader.content(complex, 0)?;
        let names_nothing = content.children.is_empty() && content.attributes.is_empty();
        if content.has_any && names_nothing && content.text.is_none() {
            self.known.insert(complex, ShapeContent::Any);
            return Ok(ShapeContent::Any);
        }
        if self.depth == SHAPE_DEPTH_MAX {
            return Err(self.reader.files.at(complex, "xsd.large", ""));
        }
        // Known before it is whole: it may hold itself.
        let number = self.types.len();
        self.known.insert(complex, ShapeContent::Complex(number));
        self.types.push(ShapeType::default());
        self.depth += 1;
        let value = |of: SimpleOf| (of.field_type, of.built_in);
        let mut elements = Vec::with_capacity(content.children.len());
        for child in &content.children {
            let Some(first) = child.declarations.first() else {
                continue;
            };
            let mut element = self.element(*first)?;
            for other in &child.declarations[1..] {
                // One name, several types.
                if self.element(*other)?.content != element.content {
                    element.content = ShapeContent::Any;
                }
            }
            element.is_required = child.is_required;
            element.is_repeated = child.is_repeated;
            elements.push(element);
        }
        self.depth -= 1;
        let attributes = content.attributes.iter().map(|attribute| ShapeAttribute {
            name: attribute.name.clone(),
            value: value(attribute.of),
            is_required: attribute.is_required,
        });
        self.types[number] = ShapeType {
            attributes: attributes.collect(),
            elements,
            text: match content.text {
                None if content.is_mixed => Some((FieldType::Text, "string")),
                text => text.map(value),
            },
        };
        Ok(ShapeContent::Complex(number))
    }
}
