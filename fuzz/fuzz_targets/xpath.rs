//! XPath: a path and a document, with a line end between them. Both are read or refused with a place within them, and
//! what a path returns is the same whatever is asked for.
#![no_main]

use busbar_xml::{XPath, XPathNames, XPathType, XmlDocument, document_text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (path, document) = match data.iter().position(|b| *b == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &b"<a b='1'>x<c/><c>2</c></a>"[..]),
    };
    let mut tree = XmlDocument::default();
    let text = document_text(document);
    if let Ok(text) = &text
        && let Err(fault) = tree.read(text)
    {
        assert!(fault.line >= 1 && fault.line <= text.lines().count() + 1);
    }
    let Ok(path) = std::str::from_utf8(path) else {
        return;
    };
    let names = XPathNames {
        prefixes: vec![("a".into(), "urn:a".into())],
        bare_is_any: data.len() % 2 == 1,
    };
    let compiled = match XPath::compile(path, &names) {
        Ok(compiled) => compiled,
        Err(fault) => {
            assert!(path.get(fault.at).is_some(), "the fault is in the path");
            return;
        }
    };
    let from = tree.element().unwrap_or(tree.root());
    let Ok(text) = compiled.text(&tree, from) else {
        return;
    };
    if compiled.returns() == XPathType::Nodes
        && let Ok(nodes) = compiled.nodes(&tree, from)
    {
        assert!(nodes.is_sorted_by(|a, b| a < b), "in order, each once");
        assert_eq!(text, nodes.first().map_or("", |node| tree.value(*node)));
        assert_eq!(compiled.truth(&tree, from), Ok(!nodes.is_empty()));
    }
});
