//! Why a document is refused, and where.

use busbar_event::{Class, Error};

use crate::limits::{DOCUMENT_BYTES_MAX, DOCUMENT_DEPTH_MAX, DOCUMENT_NODES_MAX};

/// Why a document is refused, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentFault {
    /// What is wrong.
    pub kind: DocumentFaultKind,
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
}

/// What is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DocumentFaultKind {
    /// It is not well-formed here.
    Syntax,
    /// It ends within an element, a comment or the like.
    End,
    /// An end tag does not fit the element that is open, whose name this is.
    EndTag(String),
    /// It has no root element, or something beside it.
    Root,
    /// It holds a character that XML does not allow.
    Character,
    /// It has a document type.
    DocumentType,
    /// It uses an entity that XML itself does not have.
    Entity,
    /// An element has two attributes of one name.
    TwiceNamed,
    /// A prefix stands for no namespace, or a declaration of a namespace is not allowed.
    Namespace,
    /// It says that it has this encoding, which is not known.
    Encoding(String),
    /// Its bytes are not what its encoding allows.
    Bytes(&'static str),
    /// Its elements are nested too deep.
    Deep,
    /// It has too many nodes, or an element has too many attributes.
    Nodes,
    /// It has too many bytes.
    Large,
}

impl DocumentFault {
    /// A fault at a byte of a document.
    pub(crate) fn at(kind: DocumentFaultKind, text: &str, at: usize) -> DocumentFault {
        let before = &text.as_bytes()[..at.min(text.len())];
        let line = memchr::memchr_iter(b'\n', before).count() + 1;
        let from = memchr::memrchr(b'\n', before).map_or(0, |end| end + 1);
        // Bytes that continue a character do not count.
        let column = before[from..].iter().filter(|b| **b & 0xc0 != 0x80).count() + 1;
        DocumentFault { kind, line, column }
    }

    /// The fault in the words that people read.
    pub fn error(&self) -> Error {
        use DocumentFaultKind as Kind;
        let (code, detail) = match &self.kind {
            Kind::Syntax => ("xml.syntax", None),
            Kind::End => ("xml.end", None),
            Kind::EndTag(open) => ("xml.end-tag", Some(("open", open.clone()))),
            Kind::Root => ("xml.root", None),
            Kind::Character => ("xml.character", None),
            Kind::DocumentType => ("xml.document-type", None),
            Kind::Entity => ("xml.entity", None),
            Kind::TwiceNamed => ("xml.twice-named", None),
            Kind::Namespace => ("xml.namespace", None),
            Kind::Encoding(name) => ("xml.encoding", Some(("encoding", name.clone()))),
            Kind::Bytes(name) => ("xml.bytes", Some(("encoding", (*name).to_owned()))),
            Kind::Deep => ("xml.deep", Some(("max", DOCUMENT_DEPTH_MAX.to_string()))),
            Kind::Nodes => ("xml.nodes", Some(("max", DOCUMENT_NODES_MAX.to_string()))),
            Kind::Large => ("xml.large", Some(("max", DOCUMENT_BYTES_MAX.to_string()))),
        };
        let error = Error::new(Class::Permanent, code)
            .with("line", self.line)
            .with("column", self.column);
        match detail {
            None => error,
            Some((name, value)) => error.with(name, value),
        }
    }
}
