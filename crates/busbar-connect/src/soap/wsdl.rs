//! WSDL 1.1: the operations of a service, their messages and its address.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use busbar_catalog::{XsdSchemas, XsdShape};
use busbar_event::{Class, Error, quote};
use busbar_xml::{NodeAt, NodeKind, XmlDocument};

use super::SoapVersion;
use super::limits::WSDL_FILES_MAX;

/// A service as its WSDL describes it, at one of its ports.
pub(super) struct Wsdl {
    files: Vec<WsdlFile>,
    schemas: XsdSchemas,
    /// The binding of the port.
    binding: WsdlPlace,
    /// The version of SOAP that the port speaks.
    pub version: SoapVersion,
    /// Its address; none where the WSDL leaves it open.
    pub address: Option<String>,
}

/// An operation that a step can call.
pub(super) struct WsdlOperation {
    /// The SOAPAction.
    pub action: String,
    /// The elements that the header of a request may have.
    pub headers: Vec<XsdShape>,
    /// What is in the body of a request.
    pub input: XsdShape,
    /// What is in the body of an answer; none where there is no answer.
    pub output: Option<XsdShape>,
}

/// How an operation is sent.
#[derive(Default)]
struct BoundOperation {
    action: String,
    /// The parts are elements of a type within one that has the name of the operation; else one part is the element itself.
    is_rpc: bool,
    input: BoundMessage,
    output: BoundMessage,
}

/// Where the parts of a message go.
#[derive(Default)]
struct BoundMessage {
    /// The namespace of the element around the parts, in the style rpc.
    namespace: String,
    /// The parts in the body, where they are named.
    parts: Option<Vec<String>>,
    headers: Vec<BoundHeader>,
}

/// A part of a message that goes into the header.
struct BoundHeader {
    message: WsdlPlace,
    part: String,
}

struct WsdlFile {
    path: PathBuf,
    document: Arc<XmlDocument>,
}

/// An element of one of the files.
#[derive(Clone, Copy, PartialEq)]
struct WsdlPlace {
    file: usize,
    node: NodeAt,
}

/// A namespace and a local name.
type QualifiedName = (String, String);

const WSDL: &str = "http://schemas.xmlsoap.org/wsdl/";
const WSDL_TWO: &str = "http://www.w3.org/ns/wsdl";
const XSD: &str = "http://www.w3.org/2001/XMLSchema";
const MIME: &str = "http://schemas.xmlsoap.org/wsdl/mime/";
const BINDINGS: [(&str, SoapVersion); 2] = [
    ("http://schemas.xmlsoap.org/wsdl/soap/", SoapVersion::One),
    ("http://schemas.xmlsoap.org/wsdl/soap12/", SoapVersion::Two),
];
const TRANSPORTS: [&str; 2] = [
    "http://schemas.xmlsoap.org/soap/http",
    "http://www.w3.org/2003/05/soap/bindings/HTTP/",
];

impl Wsdl {
    /// Reads a WSDL and the files that it names, which are all among `files`.
    ///
    /// # Errors
    /// *Configuration*: what is wrong with it, and in which file.
    pub fn read(
        files: &BTreeMap<String, String>,
        name: &str,
        port: Option<&str>,
        version: Option<SoapVersion>,
    ) -> Result<Wsdl, Error> {
        let documents = read_all(files, name)?;
        let mut schemas = Vec::new();
        for file in &documents {
            let document = &file.document;
            let root = document.element().unwrap_or(document.root());
            for types in elements(document, root) {
                if !is(document, types, WSDL, "types") {
                    continue;
                }
                for schema in elements(document, types) {
                    if is(document, schema, XSD, "schema") {
                        schemas.push((file.path.clone(), Arc::clone(document), schema));
                    }
                }
            }
        }
        let nowhere = documents.first().map(|file| file.document.root());
        let mut wsdl = Wsdl {
            binding: WsdlPlace {
                file: 0,
                node: nowhere.ok_or_else(|| wrong("connect.wsdl-file", name))?,
            },
            files: documents,
            schemas: XsdSchemas::read(schemas, files)?,
            version: SoapVersion::One,
            address: None,
        };
        let (binding, version, address) = wsdl.choose(name, port, version)?;
        wsdl.binding = binding;
        wsdl.version = version;
        wsdl.address = address;
        Ok(wsdl)
    }

    /// The binding, version and address of the port that is wanted, else of the first one that speaks SOAP.
    fn choose(
        &self,
        name: &str,
        port: Option<&str>,
        version: Option<SoapVersion>,
    ) -> Result<(WsdlPlace, SoapVersion, Option<String>), Error> {
        let mut names = Vec::new();
        for at in self.declared("service").flat_map(|at| self.below(at)) {
            let known = self.attribute(at, "name").unwrap_or_default();
            if !self.is(at, "port") || port.is_some_and(|port| port != known) {
                names.extend((!known.is_empty()).then(|| known.to_owned()));
                continue;
            }
            let binding = self.attribute(at, "binding").unwrap_or_default();
            let binding = self.named("binding", at, binding)?;
            let Some((namespace, speaks)) = self.soap_of(binding) else {
                continue;
            };
            if version.is_some_and(|version| version != speaks) {
                continue;
            }
            let address = self.below(at).into_iter().find(|inner| {
                let document = &self.files[inner.file].document;
                is(document, inner.node, namespace, "address")
            });
            let address = address.and_then(|address| self.attribute(address, "location"));
            return Ok((binding, speaks, address.map(str::to_owned)));
        }
        match port {
            Some(port) if !names.is_empty() && !names.iter().any(|known| known == port) => {
                Err(wrong("connect.wsdl-port", port).with("known", names.join(", ")))
            }
            _ => Err(wrong("connect.wsdl-no-port", name)),
        }
    }

    /// The version of SOAP over HTTP that a binding is of, with the namespace of its extensions.
    fn soap_of(&self, binding: WsdlPlace) -> Option<(&'static str, SoapVersion)> {
        let document = &self.files[binding.file].document;
        let mut inner = self.below(binding).into_iter();
        inner.find_map(|at| {
            let mut known = BINDINGS.into_iter();
            let found = known.find(|(namespace, _)| is(document, at.node, namespace, "binding"))?;
            let transport = self.attribute(at, "transport").unwrap_or(TRANSPORTS[0]);
            TRANSPORTS.contains(&transport).then_some(found)
        })
    }

    /// The names of the operations, in order.
    pub fn names(&self) -> Vec<&str> {
        let all = self.below(self.binding).into_iter();
        let all = all.filter(|at| self.is(*at, "operation"));
        all.filter_map(|at| self.attribute(at, "name")).collect()
    }

    /// An operation of the port; none if it has none of this name.
    ///
    /// # Errors
    /// *Configuration*: why it cannot be called, such as one whose messages are encoded.
    pub fn operation(&self, name: &str) -> Result<Option<WsdlOperation>, Error> {
        let of_name =
            |at: &WsdlPlace| self.is(*at, "operation") && self.attribute(*at, "name") == Some(name);
        let mut bound = self.below(self.binding).into_iter().filter(of_name);
        let Some(at) = bound.next() else {
            return Ok(None);
        };
        if bound.next().is_some() {
            return Err(wrong("connect.wsdl-overloaded", name));
        }
        let bound = self.bound(name, at)?;
        let port_type = self.attribute(self.binding, "type").unwrap_or_default();
        let port_type = self.named("portType", self.binding, port_type)?;
        let mut all = self.below(port_type).into_iter().filter(of_name);
        let at = all.next();
        let at = at.ok_or_else(|| self.unknown(port_type, "operation", name))?;
        let Some(input) = self.message(name, at, "input", &bound)? else {
            return Err(wrong("connect.wsdl-parts", name));
        };
        let headers = bound.input.headers.iter();
        Ok(Some(WsdlOperation {
            headers: headers
                .map(|header| self.header(name, header))
                .collect::<Result<_, Error>>()?,
            input,
            output: self.message(name, at, "output", &bound)?,
            action: bound.action,
        }))
    }

    /// How an operation is sent.
    fn bound(&self, name: &str, operation: WsdlPlace) -> Result<BoundOperation, Error> {
        let document = &self.files[operation.file].document;
        let is_soap = |at: WsdlPlace, local: &str| {
            let namespace = document.namespace(at.node);
            BINDINGS.iter().any(|(known, _)| *known == namespace)
                && document.local_name(at.node) == local
        };
        let style_error = |style: &str| {
            let error = wrong("connect.wsdl-style", name);
            error.with("style", quote(style))
        };
        let mut style = None;
        for at in self.below(self.binding) {
            if is_soap(at, "binding") {
                style = self.attribute(at, "style");
            }
        }
        let mut bound = BoundOperation::default();
        for at in self.below(operation) {
            if is_soap(at, "operation") {
                style = self.attribute(at, "style").or(style);
                let given = self.attribute(at, "soapAction").unwrap_or_default();
                bound.action = given.to_owned();
            }
            let message = match (self.is(at, "input"), self.is(at, "output")) {
                (true, _) => &mut bound.input,
                (_, true) => &mut bound.output,
                _ => continue,
            };
            for part in self.below(at) {
                let (is_body, is_header) = (is_soap(part, "body"), is_soap(part, "header"));
                if document.namespace(part.node) == MIME {
                    return Err(wrong("connect.wsdl-attachments", name));
                }
                if (is_body || is_header) && self.attribute(part, "use") == Some("encoded") {
                    return Err(style_error("encoded"));
                }
                if is_body {
                    let namespace = self.attribute(part, "namespace").unwrap_or_default();
                    namespace.clone_into(&mut message.namespace);
                    let parts = self.attribute(part, "parts");
                    message.parts =
                        parts.map(|names| names.split_whitespace().map(str::to_owned).collect());
                }
                if is_header {
                    let of = self.attribute(part, "message").unwrap_or_default();
                    let header = self.attribute(part, "part").unwrap_or_default();
                    message.headers.push(BoundHeader {
                        message: self.named("message", part, of)?,
                        part: header.to_owned(),
                    });
                }
            }
        }
        bound.is_rpc = match style.unwrap_or("document") {
            "document" => false,
            "rpc" => true,
            other => return Err(style_error(other)),
        };
        Ok(bound)
    }

    /// The shape of a header: the element of its part.
    fn header(&self, name: &str, header: &BoundHeader) -> Result<XsdShape, Error> {
        let mut parts = self.below(header.message).into_iter();
        let part = parts.find(|at| {
            self.is(*at, "part") && self.attribute(*at, "name") == Some(header.part.as_str())
        });
        let part = part.ok_or_else(|| self.unknown(header.message, "part", &header.part))?;
        let Some(element) = self.attribute(part, "element") else {
            let error = wrong("connect.wsdl-header", name);
            return Err(error.with("header", quote(&header.part)));
        };
        self.element(part, element)
    }

    /// The shape of a message of an operation: the element of its one part, or one around its parts.
    fn message(
        &self,
        name: &str,
        operation: WsdlPlace,
        direction: &str,
        bound: &BoundOperation,
    ) -> Result<Option<XsdShape>, Error> {
        let mut all = self.below(operation).into_iter();
        let Some(at) = all.find(|at| self.is(*at, direction)) else {
            return Ok(None);
        };
        let (sent, root) = match direction {
            "input" => (&bound.input, name.to_owned()),
            _ => (&bound.output, format!("{name}Response")),
        };
        let message = self.attribute(at, "message").unwrap_or_default();
        let message = self.named("message", at, message)?;
        let is_in_body = |part: &WsdlPlace| {
            let own = self.attribute(*part, "name").unwrap_or_default();
            match &sent.parts {
                Some(parts) => parts.iter().any(|part| part == own),
                None => !sent
                    .headers
                    .iter()
                    .any(|header| header.message == message && header.part == own),
            }
        };
        let parts = self.below(message).into_iter();
        let parts = parts.filter(|at| self.is(*at, "part"));
        let parts: Vec<WsdlPlace> = parts.filter(is_in_body).collect();
        if bound.is_rpc {
            let typed = parts.iter().map(|part| {
                let of = self.attribute(*part, "type")?;
                let own = self.attribute(*part, "name")?;
                Some((own.to_owned(), self.qualified(*part, of)))
            });
            let typed: Option<Vec<_>> = typed.collect();
            let typed = typed.ok_or_else(|| wrong("connect.wsdl-rpc-parts", name))?;
            let shape = self
                .schemas
                .shape_of_parts((&sent.namespace, &root), &typed)?;
            return Ok(Some(shape));
        }
        let [part] = parts[..] else {
            return Err(wrong("connect.wsdl-parts", name));
        };
        let Some(element) = self.attribute(part, "element") else {
            return Err(wrong("connect.wsdl-parts", name));
        };
        self.element(part, element).map(Some)
    }

    /// The shape of an element that a part names.
    fn element(&self, part: WsdlPlace, name: &str) -> Result<XsdShape, Error> {
        let (namespace, local) = self.qualified(part, name);
        let shape = self.schemas.shape(&namespace, &local)?;
        shape.ok_or_else(|| self.unknown(part, "element", name))
    }

    /// The elements of WSDL of one kind that stand directly in the files.
    fn declared<'w>(&'w self, kind: &'w str) -> impl Iterator<Item = WsdlPlace> + 'w {
        (0..self.files.len()).flat_map(move |file| {
            let document = &self.files[file].document;
            let root = document.element().unwrap_or(document.root());
            let all = elements(document, root).map(move |node| WsdlPlace { file, node });
            all.filter(|at| self.is(*at, kind))
        })
    }

    /// What a name stands for.
    fn named(&self, kind: &str, from: WsdlPlace, written: &str) -> Result<WsdlPlace, Error> {
        let name = self.qualified(from, written);
        let found = self.declared(kind).find(|at| {
            let document = &self.files[at.file].document;
            let root = document.element().unwrap_or(document.root());
            let target = attribute(document, root, "targetNamespace").unwrap_or_default();
            target == name.0 && self.attribute(*at, "name") == Some(&name.1)
        });
        found.ok_or_else(|| self.unknown(from, kind, written))
    }

    fn qualified(&self, from: WsdlPlace, written: &str) -> QualifiedName {
        let document = &self.files[from.file].document;
        let (prefix, local) = written.split_once(':').unwrap_or(("", written));
        let namespace = document.namespace_of(from.node, prefix).unwrap_or_default();
        (namespace.to_owned(), local.to_owned())
    }

    fn unknown(&self, from: WsdlPlace, kind: &str, name: &str) -> Error {
        wrong("connect.wsdl-unknown", name)
            .with("kind", kind)
            .with("file", quote(&shown(&self.files[from.file].path)))
    }

    fn is(&self, at: WsdlPlace, local: &str) -> bool {
        is(&self.files[at.file].document, at.node, WSDL, local)
    }

    fn attribute(&self, at: WsdlPlace, name: &str) -> Option<&str> {
        attribute(&self.files[at.file].document, at.node, name)
    }

    fn below(&self, at: WsdlPlace) -> Vec<WsdlPlace> {
        let all = elements(&self.files[at.file].document, at.node);
        all.map(|node| WsdlPlace { node, ..at }).collect()
    }
}

/// The WSDL and those that it imports.
fn read_all(files: &BTreeMap<String, String>, name: &str) -> Result<Vec<WsdlFile>, Error> {
    let mut all: Vec<WsdlFile> = Vec::new();
    let mut seen: HashSet<PathBuf> = HashSet::new();
    let mut waiting = vec![PathBuf::from(name)];
    while let Some(path) = waiting.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        if all.len() == WSDL_FILES_MAX {
            return Err(wrong("connect.wsdl-files", name).with("max", WSDL_FILES_MAX));
        }
        let file = shown(&path);
        let text = files.get(&file);
        let text = text.ok_or_else(|| wrong("connect.wsdl-file", &file))?;
        let document = XmlDocument::of(text);
        let document = document
            .map_err(|fault| wrong("connect.wsdl-document", &file).caused_by(fault.error()))?;
        let root = document.element().unwrap_or(document.root());
        if document.namespace(root) == WSDL_TWO {
            return Err(wrong("connect.wsdl-two", &file));
        }
        if !is(&document, root, WSDL, "definitions") {
            return Err(wrong("connect.wsdl-root", &file));
        }
        for import in elements(&document, root) {
            if is(&document, import, WSDL, "import")
                && let Some(location) = attribute(&document, import, "location")
            {
                waiting.push(beside(&path, location)?);
            }
        }
        all.push(WsdlFile {
            path,
            document: Arc::new(document),
        });
    }
    Ok(all)
}

fn beside(from: &Path, location: &str) -> Result<PathBuf, Error> {
    XsdSchemas::beside(from, location).map_err(|_| wrong("connect.wsdl-outside", location))
}

fn wrong(code: &'static str, name: &str) -> Error {
    Error::new(Class::Configuration, code).with("name", quote(name))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn elements(document: &XmlDocument, node: NodeAt) -> impl Iterator<Item = NodeAt> + '_ {
    let all = document.children(node);
    all.filter(|node| document.kind(*node) == NodeKind::Element)
}

fn is(document: &XmlDocument, node: NodeAt, namespace: &str, local: &str) -> bool {
    document.namespace(node) == namespace && document.local_name(node) == local
}

fn attribute<'d>(document: &'d XmlDocument, element: NodeAt, name: &str) -> Option<&'d str> {
    let mut all = document.attributes(element);
    let found =
        all.find(|node| document.namespace(*node).is_empty() && document.local_name(*node) == name);
    found.map(|node| document.value(node).trim())
}
