//! XML documents and XPath 1.0.
//!
//! A document is read once into an [`XmlDocument`]: a table of nodes in the order of the document, which XPath needs and
//! which costs 28 bytes a node. Document types are refused, and with them everything that a document could declare or
//! load. An [`XPath`] is compiled once, is checked then as far as it can be (functions, their arguments, prefixes), and can
//! be evaluated on any number of documents at once.
//!
//! It is a crate of its own because expressions (`busbar-sql`) and connectors (`busbar-connect`) both need it, and neither
//! may know the other.

mod document;
mod encoding;
mod fault;
pub mod limits;
mod names;
mod native;
mod read;
mod xpath;

pub use document::{NodeAt, NodeKind, XmlDocument};
pub use encoding::{document_text, document_text_in};
pub use fault::{DocumentFault, DocumentFaultKind};
pub use native::{NativeFault, NativeLibraries, StyleSheet, XmlSchema};
pub use xpath::{
    EvaluationFault, XPath, XPathFault, XPathFaultKind, XPathNames, XPathType, number_text,
};
