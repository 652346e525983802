//! What documents and paths are bounded by.

/// Deepest nesting of the elements of a document.
pub const DOCUMENT_DEPTH_MAX: usize = 256;
/// Most nodes of a document: elements, attributes, texts, comments and processing instructions.
pub const DOCUMENT_NODES_MAX: usize = 1 << 20;
/// Largest document, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 16 << 20;
/// Most attributes and namespace declarations of one element.
pub const ELEMENT_ATTRIBUTES_MAX: usize = 256;
/// Most namespaces that are declared around an element and by it.
pub const SCOPE_NAMESPACES_MAX: usize = 512;
/// Longest path, in bytes.
pub const XPATH_BYTES_MAX: usize = 16 << 10;
/// Deepest nesting of parentheses, predicates and arguments in a path.
pub const XPATH_DEPTH_MAX: usize = 48;
/// Most nodes that one evaluation looks at, and texts that it compares.
pub const XPATH_STEPS_MAX: u64 = 5_000_000;
/// Longest text that a function of a path makes, in bytes.
pub const XPATH_TEXT_MAX: usize = 16 << 20;
/// Most documents of a plug-in's folder that are kept for style sheets that look things up in them; more are read each time.
pub const LOOKUP_DOCUMENTS_MAX: usize = 64;
