//! The files of a schema, and what they declare by name.

use std::collections::{HashMap, HashSet};
use std::path::{Component as PathPart, Path, PathBuf};
use std::sync::Arc;

use busbar_event::format::is_xml_name;
use busbar_event::{Class, Error, quote};
use busbar_xml::{NodeAt, NodeKind, XmlDocument, document_text};

use super::{XML, XSD, wrong};
use crate::limits::{FILE_BYTES_MAX, XSD_FILES_MAX};

/// The sort of what a schema declares by name. Elements, attributes, types and groups have names of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Declared {
    Element,
    Attribute,
    Type,
    Group,
    AttributeGroup,
}

/// An element of one of a schema's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Component {
    pub file: usize,
    pub node: NodeAt,
}

/// The namespace and the local name of what a schema declares.
pub(super) type DeclaredName = (String, String);

/// A schema: the root of a file, or an element within another document.
#[derive(Debug)]
struct XsdFile {
    path: String,
    document: Arc<XmlDocument>,
    root: NodeAt,
    /// The namespace of what it declares.
    target: String,
}

/// A schema that is to be read.
#[derive(Debug)]
pub(super) enum XsdPart {
    /// A file, and the namespace of the schema that includes it.
    File(PathBuf, Option<String>),
    /// An element of a document, which is in the file of this path.
    Element(PathBuf, Arc<XmlDocument>, NodeAt),
}

/// A schema with all files that it includes.
#[derive(Debug)]
pub(super) struct XsdFiles {
    files: Vec<XsdFile>,
    declared: HashMap<(Declared, DeclaredName), Component>,
    /// The elements that may stand in the place of another one.
    substitutes: HashMap<DeclaredName, Vec<Component>>,
    /// The elements that the first file declares, in order.
    pub roots: Vec<Component>,
}

impl XsdFiles {
    /// Reads a schema and what it includes and imports, which must lie in the folder of its file.
    pub fn read(file: &Path) -> Result<XsdFiles, Error> {
        let folder = file.parent().unwrap_or(Path::new(""));
        let name = PathBuf::from(file.file_name().unwrap_or_default());
        XsdFiles::of(vec![XsdPart::File(name, None)], &|path| {
            read_document(folder, path)
        })
    }

    /// Reads schemas and what they include and import, with the files that `read` gives. Of several schemas in documents, each
    /// may use what the others declare.
    pub fn of(
        mut waiting: Vec<XsdPart>,
        read: &dyn Fn(&Path) -> Result<XmlDocument, Error>,
    ) -> Result<XsdFiles, Error> {
        let mut files = XsdFiles {
            files: Vec::new(),
            declared: HashMap::new(),
            substitutes: HashMap::new(),
            roots: Vec::new(),
        };
        let mut seen: HashSet<(PathBuf, String)> = HashSet::new();
        // Namespaces of schemas within documents: what imports one of them needs no file.
        let mut here: HashSet<String> = HashSet::new();
        for part in &waiting {
            if let XsdPart::Element(_, document, root) = part {
                let target = attribute(document, *root, "targetNamespace");
                here.insert(target.unwrap_or_default().to_owned());
            }
        }
        while let Some(part) = waiting.pop() {
            let (path, document, root, includer) = match part {
                XsdPart::File(path, includer) => {
                    let document = Arc::new(read(&path)?);
                    let root = document.element();
                    let root = root.filter(|root| is_xsd(&document, *root, "schema"));
                    let root =
                        root.ok_or_else(|| wrong("xsd.no-schema", &path.display().to_string()))?;
                    (path, document, root, Some(includer))
                }
                XsdPart::Element(path, document, root) => (path, document, root, None),
            };
            let shown = path.display().to_string();
            let own = attribute(&document, root, "targetNamespace").map(str::to_owned);
            // A file without a namespace that is included gets that of the file that includes it.
            let is_file = includer.is_some();
            let target = own.or(includer.flatten()).unwrap_or_default();
            if is_file && !seen.insert((path.clone(), target.clone())) {
                continue;
            }
            if files.files.len() == XSD_FILES_MAX {
                let error = Error::new(Class::Configuration, "xsd.files");
                return Err(error.with("max", XSD_FILES_MAX));
            }
            for child in document.children(root) {
                if document.namespace(child) != XSD {
                    continue;
                }
                let kind = document.local_name(child);
                let location = attribute(&document, child, "schemaLocation");
                match (kind, location) {
                    ("redefine" | "override", _) => return Err(wrong("xsd.redefine", &shown)),
                    ("include", Some(location)) => {
                        let file = within(&path, location)?;
                        waiting.push(XsdPart::File(file, Some(target.clone())));
                    }
                    ("import", Some(location)) => {
                        let namespace = attribute(&document, child, "namespace");
                        let namespace = namespace.unwrap_or_default();
                        if namespace != XML && !here.contains(namespace) {
                            waiting.push(XsdPart::File(within(&path, location)?, None));
                        }
                    }
                    _ => {}
                }
            }
            files.add(shown, document, root, target);
        }
        Ok(files)
    }

    fn add(&mut self, path: String, document: Arc<XmlDocument>, root: NodeAt, target: String) {
        let number = self.files.len();
        self.files.push(XsdFile {
            path,
            document,
            root,
            target,
        });
        let children: Vec<NodeAt> = self.files[number].document.children(root).collect();
        for node in children {
            let component = Component { file: number, node };
            let (Some(kind), Some(name)) =
                (self.kind(component), self.attribute(component, "name"))
            else {
                continue;
            };
            let declared = match kind {
                "element" => Declared::Element,
                "attribute" => Declared::Attribute,
                "simpleType" | "complexType" => Declared::Type,
                "group" => Declared::Group,
                "attributeGroup" => Declared::AttributeGroup,
                _ => continue,
            };
            let name = (self.files[number].target.clone(), name.to_owned());
            if declared == Declared::Element {
                if number == 0 {
                    self.roots.push(component);
                }
                let heads = self.attribute(component, "substitutionGroup");
                let heads: Vec<DeclaredName> = heads
                    .into_iter()
                    .flat_map(str::split_whitespace)
                    .filter_map(|head| self.name(component, head).ok())
                    .collect();
                for head in heads {
                    self.substitutes.entry(head).or_default().push(component);
                }
            }
            self.declared.entry((declared, name)).or_insert(component);
        }
    }

    /// The kind of an element of XML Schema; none for any other element and for text.
    pub fn kind(&self, component: Component) -> Option<&str> {
        let document = &self.files[component.file].document;
        (document.namespace(component.node) == XSD).then(|| document.local_name(component.node))
    }

    /// An attribute without a namespace.
    pub fn attribute(&self, component: Component, name: &str) -> Option<&str> {
        attribute(&self.files[component.file].document, component.node, name)
    }

    /// The name of an element or attribute that is declared.
    ///
    /// # Errors
    /// *Configuration*: `xsd.unnamed`, since no document can have one without a name.
    pub fn own_name(&self, component: Component) -> Result<&str, Error> {
        match self.attribute(component, "name") {
            Some(name) if is_xml_name(name) => Ok(name),
            other => Err(self.at(component, "xsd.unnamed", other.unwrap_or_default())),
        }
    }

    /// The elements of XML Schema in one, without annotations.
    pub fn children(&self, component: Component) -> impl Iterator<Item = Component> + '_ {
        let document = &self.files[component.file].document;
        let all = document.children(component.node);
        all.filter(|node| {
            document.kind(*node) == NodeKind::Element
                && document.namespace(*node) == XSD
                && document.local_name(*node) != "annotation"
        })
        .map(move |node| Component {
            file: component.file,
            node,
        })
    }

    /// The first element of one of these kinds in one.
    pub fn child(&self, component: Component, kinds: &[&str]) -> Option<Component> {
        let mut all = self.children(component);
        all.find(|child| self.kind(*child).is_some_and(|kind| kinds.contains(&kind)))
    }

    /// The name that a text with a prefix stands for.
    pub fn name(&self, component: Component, written: &str) -> Result<DeclaredName, Error> {
        let file = &self.files[component.file];
        let (prefix, local) = written.split_once(':').unwrap_or(("", written));
        let namespace = match file.document.namespace_of(component.node, prefix) {
            Some(namespace) => namespace.to_owned(),
            None if prefix.is_empty() => file.target.clone(),
            None => return Err(self.at(component, "xsd.unknown", written)),
        };
        Ok((namespace, local.to_owned()))
    }

    /// The element that is declared by this name.
    pub fn element(&self, namespace: &str, local: &str) -> Option<Component> {
        let name = (namespace.to_owned(), local.to_owned());
        self.declared.get(&(Declared::Element, name)).copied()
    }

    /// The type of a name that the schemas declare.
    pub fn type_of_name(&self, namespace: &str, local: &str) -> Option<Component> {
        let name = (namespace.to_owned(), local.to_owned());
        self.declared.get(&(Declared::Type, name)).copied()
    }

    /// The namespace of an element in documents, by its declaration: that of its schema where it is declared by name, or
    /// where elements within types have one.
    pub fn namespace_of(&self, element: Component) -> &str {
        let file = &self.files[element.file];
        let is_global = file.document.parent(element.node) == Some(file.root);
        let form = self.attribute(element, "form");
        let form = form.or_else(|| attribute(&file.document, file.root, "elementFormDefault"));
        match is_global || form == Some("qualified") {
            true => &file.target,
            false => "",
        }
    }

    /// What a name stands for.
    pub fn declared(
        &self,
        kind: Declared,
        from: Component,
        written: &str,
    ) -> Result<Component, Error> {
        let name = self.name(from, written)?;
        let found = self.declared.get(&(kind, name)).copied();
        found.ok_or_else(|| self.at(from, "xsd.unknown", written))
    }

    /// Whether an attribute that is referred to is one of XML's own, such as `xml:lang`.
    pub fn is_of_xml(&self, from: Component, written: &str) -> bool {
        let name = self.name(from, written);
        name.is_ok_and(|(namespace, _)| namespace == XML)
    }

    /// The elements that may stand in the place of one that is declared by name, each once.
    pub fn substitutes(&self, head: Component) -> Vec<Component> {
        let mut found: Vec<Component> = Vec::new();
        let mut waiting = vec![head];
        while let Some(head) = waiting.pop() {
            let name = self.attribute(head, "name").unwrap_or_default();
            let name = (self.files[head.file].target.clone(), name.to_owned());
            for member in self.substitutes.get(&name).into_iter().flatten() {
                if *member != head && !found.contains(member) {
                    found.push(*member);
                    waiting.push(*member);
                }
            }
        }
        found
    }

    /// What is wrong in a file.
    pub fn at(&self, component: Component, code: &'static str, name: &str) -> Error {
        wrong(code, name).with("file", &self.files[component.file].path)
    }
}

pub(super) fn attribute<'d>(
    document: &'d XmlDocument,
    element: NodeAt,
    name: &str,
) -> Option<&'d str> {
    let mut all = document.attributes(element);
    all.find(|node| document.namespace(*node).is_empty() && document.local_name(*node) == name)
        .map(|node| document.value(node).trim())
}

fn is_xsd(document: &XmlDocument, node: NodeAt, kind: &str) -> bool {
    document.namespace(node) == XSD && document.local_name(node) == kind
}

/// The path of a file that another one names, within their folder.
pub(super) fn within(from: &Path, location: &str) -> Result<PathBuf, Error> {
    let refused = || wrong("xsd.outside", location);
    if location.contains("://") || location.contains('\\') {
        return Err(refused());
    }
    let mut path: Vec<&std::ffi::OsStr> = match from.parent() {
        Some(folder) => folder.iter().collect(),
        None => Vec::new(),
    };
    for part in Path::new(location).components() {
        match part {
            PathPart::Normal(name) => path.push(name),
            PathPart::CurDir => {}
            PathPart::ParentDir if path.pop().is_some() => {}
            _ => return Err(refused()),
        }
    }
    Ok(path.iter().collect())
}

fn read_document(folder: &Path, path: &Path) -> Result<XmlDocument, Error> {
    let whole = folder.join(path);
    let shown = path.display().to_string();
    let unread = |cause: std::io::Error| {
        let error = Error::new(Class::Configuration, "xsd.read");
        error.with("name", quote(&shown)).caused_by(cause)
    };
    // A link could lead elsewhere.
    let real = whole.canonicalize().map_err(unread)?;
    let base = match folder.as_os_str().is_empty() {
        true => Path::new(".").canonicalize(),
        false => folder.canonicalize(),
    };
    if !real.starts_with(base.map_err(unread)?) {
        return Err(wrong("xsd.outside", &shown));
    }
    let length = std::fs::metadata(&real).map_err(unread)?.len();
    if length > FILE_BYTES_MAX as u64 {
        let error = wrong("xsd.file-large", &shown);
        return Err(error.with("max", FILE_BYTES_MAX));
    }
    let bytes = std::fs::read(&real).map_err(unread)?;
    let text = document_text(&bytes);
    let document = text.and_then(|text| XmlDocument::of(&text));
    document.map_err(|fault| wrong("xsd.document", &shown).caused_by(fault.error()))
}
