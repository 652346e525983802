//! XPath against what libxml2 says of expressions at random, and what the standard says where the two differ.

#![allow(missing_docs)]

use busbar_xml::{NodeAt, NodeKind, XPath, XPathNames, XPathType, XmlDocument, number_text};
use serde_json::Value;

const DOCUMENT: &str = include_str!("cases/document.xml");

fn names() -> XPathNames {
    XPathNames::parse("w=urn:water p=urn:plain x=urn:extra").unwrap()
}

/// A node as `oracle.py` writes it.
fn shown(document: &XmlDocument, node: NodeAt) -> String {
    let value = document.value(node);
    let local = document.local_name(node);
    let name = match document.namespace(node) {
        "" => local.to_owned(),
        uri => format!("{{{uri}}}{local}"),
    };
    let whole = match document.kind(node) {
        NodeKind::Root => format!("/={value}"),
        NodeKind::Element => format!("{name}={value}"),
        NodeKind::Attribute => format!("@{name}={value}"),
        NodeKind::Text => format!("#text={value}"),
        NodeKind::Comment => format!("#comment={value}"),
        NodeKind::Instruction => format!("?{local}={value}"),
        NodeKind::Namespace => format!("xmlns:{local}={value}"),
    };
    whole.chars().take(80).collect()
}

/// Whether two numbers are the same but for what libxml2 loses when it writes one.
fn is_same_number(expected: &Value, found: f64) -> bool {
    match expected {
        Value::String(name) => match name.as_str() {
            "nan" => found.is_nan(),
            "inf" => found == f64::INFINITY,
            _ => found == f64::NEG_INFINITY,
        },
        number => number.as_f64() == Some(found),
    }
}

fn difference(document: &XmlDocument, text: &str, expected: &Value) -> Option<String> {
    let compiled = XPath::compile(text, &names());
    let kind = expected[0].as_str().unwrap();
    let path = match (compiled, kind) {
        (Err(_), "refused") => return None,
        (Ok(_), "refused") => return Some("is refused by libxml2".into()),
        (Err(fault), _) => return Some(format!("{fault:?}")),
        (Ok(path), _) => path,
    };
    let from = document.element().unwrap();
    match (path.returns(), kind) {
        (XPathType::Truth, "truth") => {
            let found = path.truth(document, from).unwrap();
            (expected[1] != found).then(|| found.to_string())
        }
        (XPathType::Number, "number") => {
            let found = path.number(document, from).unwrap();
            (!is_same_number(&expected[1], found)).then(|| number_text(found))
        }
        (XPathType::Text, "text") => {
            let found = path.text(document, from).unwrap();
            (expected[1] != *found).then(|| found.into_owned())
        }
        (XPathType::Nodes, "nodes") => {
            let mut nodes = path.nodes(document, from).unwrap();
            assert!(nodes.is_sorted(), "{text}");
            // lxml leaves the root out.
            nodes.retain(|node| document.kind(*node) != NodeKind::Root);
            let mut found: Vec<_> = nodes
                .iter()
                .map(|node| shown(document, *node))
                .take(12)
                .collect();
            let mut wanted: Vec<_> = expected[2]
                .as_array()
                .unwrap()
                .iter()
                .map(|node| node.as_str().unwrap().to_owned())
                .collect();
            // The order of namespaces is up to the implementation.
            if found.iter().any(|node| node.starts_with("xmlns:")) && found.len() < 12 {
                found.sort();
                wanted.sort();
            }
            let is_same = expected[1] == nodes.len() && found == wanted;
            (!is_same).then(|| format!("{} {found:?}", nodes.len()))
        }
        (other, _) => Some(format!("{other:?}")),
    }
}

#[test]
fn expressions_at_random_are_what_libxml2_says() {
    let document = XmlDocument::of(DOCUMENT).unwrap();
    let mut cases = 0;
    let mut different = Vec::new();
    for line in include_str!("cases/generated.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let text = case[0].as_str().unwrap();
        cases += 1;
        if let Some(found) = difference(&document, text, &case[1]) {
            different.push(format!(
                "{text}\n   libxml2: {}\n   found:   {found}",
                case[1]
            ));
        }
    }
    assert!(cases > 3000);
    assert!(
        different.is_empty(),
        "{} differ:\n{}",
        different.len(),
        different.join("\n")
    );
}

/// What an expression returns, as a text, in a document of its own.
fn evaluated(path: &str, document: &str) -> String {
    let document = XmlDocument::of(document).unwrap_or_else(|fault| panic!("{fault:?}"));
    let path = XPath::compile(path, &names()).unwrap_or_else(|fault| panic!("{path}: {fault:?}"));
    path.text(&document, document.root()).unwrap().into_owned()
}

/// Where libxml2 does not do what the standard says, and what needs another document.
#[test]
fn expressions_are_what_the_standard_says() {
    for (path, document, expected) in [
        // Numbers are written without exponents and with all their digits.
        ("1000000000000000000000", "<a/>", "1000000000000000000000"),
        ("0.1 + 0.2", "<a/>", "0.30000000000000004"),
        ("1 div 1000000000", "<a/>", "0.000000001"),
        ("-0", "<a/>", "0"),
        ("1 div -0", "<a/>", "-Infinity"),
        ("-(0 div 0)", "<a/>", "NaN"),
        ("5 mod -2", "<a/>", "1"),
        ("-5 mod 2", "<a/>", "-1"),
        ("1.5 mod 0.5", "<a/>", "0"),
        ("number('1e3')", "<a/>", "NaN"),
        ("number('+1')", "<a/>", "NaN"),
        ("number(' -.5 ')", "<a/>", "-0.5"),
        ("number('.')", "<a/>", "NaN"),
        ("round(-2.5)", "<a/>", "-2"),
        ("round(0.49999999999999994)", "<a/>", "0"),
        ("1 div round(-0.2)", "<a/>", "-Infinity"),
        ("substring('12345', 1.5, 2.6)", "<a/>", "234"),
        ("substring('12345', 0 div 0, 3)", "<a/>", ""),
        ("substring('12345', 1, 0 div 0)", "<a/>", ""),
        ("substring('12345', -42, 1 div 0)", "<a/>", "12345"),
        ("substring('12345', -1 div 0, 1 div 0)", "<a/>", ""),
        ("string-length('水位𠀀')", "<a/>", "3"),
        ("translate('bar', 'abc', 'AB')", "<a/>", "BAr"),
        ("translate('--aaa--', 'abc-', 'ABC')", "<a/>", "AAA"),
        // CDATA is text like any other.
        ("count(//text())", "<a>1<![CDATA[2]]>3</a>", "1"),
        ("/a/text()", "<a>1<![CDATA[&]]>&lt;<!-- c -->4</a>", "1&<"),
        ("a", "<a>x\r\ny\rz&#13;</a>", "x\ny\nz\r"),
        ("a/@b", "<a b='x\r\ny\tz&#9;&amp;'/>", "x y z\t&"),
        // A default namespace does not hold for paths, and is taken away by an empty one.
        (
            "count(//b)",
            "<a xmlns='urn:plain'><b/><b xmlns=''/></a>",
            "1",
        ),
        (
            "count(//p:b)",
            "<a xmlns='urn:plain'><b/><b xmlns=''/></a>",
            "1",
        ),
        ("count(/a/b/namespace::*)", "<a><b/></a>", "1"),
        (
            "count(//c/namespace::*)",
            "<a xmlns='u'><c xmlns='' xmlns:d='v'/></a>",
            "2",
        ),
        (
            "count(//*[local-name()='c']/namespace::*)",
            "<a xmlns='u'><c xmlns='' xmlns:d='v'/></a>",
            "2",
        ),
        ("//xml:lang", "<a xml:lang='en'/>", ""),
        ("//@xml:lang", "<a xml:lang='en'/>", "en"),
        // Words that are operators elsewhere are names here.
        (
            "and/or[div]/mod * 2",
            "<and><or><div/><mod>4</mod></or></and>",
            "8",
        ),
        ("* * *", "<a>3</a>", "9"),
        ("-a - -a", "<a-b>1</a-b>", "NaN"),
        (
            "text/comment = 'x'",
            "<text><comment>x</comment></text>",
            "true",
        ),
        ("a < b | c", "<a/>", "false"),
        ("1 < 2 = 2 > 1", "<a/>", "true"),
        ("3 > 2 > 1", "<a/>", "false"),
        ("lang('en')", "<a/>", "false"),
        (
            "string(//b[lang('EN')])",
            "<a xml:lang='en-us'><b>1</b></a>",
            "1",
        ),
        ("name(//@*)", "<w:a xmlns:w='urn:water' w:b=''/>", "w:b"),
        ("(//b)[2]", "<a><c><b>1</b></c><c><b>2</b></c></a>", "2"),
        (
            "count(//b[1])",
            "<a><c><b>1</b></c><c><b>2</b></c></a>",
            "2",
        ),
        (
            "count(//c[b][last()])",
            "<a><c><b>1</b></c><c><b>2</b></c></a>",
            "1",
        ),
        (
            "(//d/preceding-sibling::*)[1]",
            "<a><b>1</b><c>2</c><d/></a>",
            "1",
        ),
        (
            "//d/preceding-sibling::*[1]",
            "<a><b>1</b><c>2</c><d/></a>",
            "2",
        ),
    ] {
        assert_eq!(evaluated(path, document), expected, "{path} of {document}");
    }
}

#[test]
fn faults_in_paths_have_places() {
    use busbar_xml::XPathFaultKind as Kind;
    for (path, kind, at) in [
        ("", Kind::End, 0..0),
        ("a/", Kind::End, 2..2),
        ("a[1", Kind::End, 3..3),
        ("a]", Kind::Syntax, 1..2),
        ("水/#", Kind::Syntax, 4..5),
        ("'x", Kind::Unclosed, 0..2),
        ("a/b/size(.)", Kind::Syntax, 4..8),
        ("size(.)", Kind::Function, 0..4),
        ("x:size(.)", Kind::Function, 0..6),
        ("below::a", Kind::Axis, 0..5),
        (
            "contains('a')",
            Kind::Arguments("contains(text, part)"),
            0..13,
        ),
        ("1 + count('a')", Kind::NotNodes, 10..13),
        ("a | 'b'", Kind::NotNodes, 4..7),
        ("('a')/b", Kind::NotNodes, 0..5),
        ("a/y:b", Kind::Prefix, 2..3),
        ("a[@id = $id]", Kind::Variable, 8..9),
    ] {
        let fault = XPath::compile(path, &names()).unwrap_err();
        assert_eq!((fault.kind.clone(), fault.at.clone()), (kind, at), "{path}");
        assert!(
            !fault.error(path).to_string().contains("xml.path"),
            "it has words"
        );
    }
    let deep = format!("{}1{}", "(".repeat(2000), ")".repeat(2000));
    assert_eq!(
        XPath::compile(&deep, &names()).unwrap_err().kind,
        Kind::Deep
    );
    let long = "a/".repeat(9000);
    assert_eq!(
        XPath::compile(&long, &names()).unwrap_err().kind,
        Kind::Long
    );
    // Chains without brackets are long, not deep.
    for chain in ["1+", "a|", "a and ", "1=", "-", "a/"] {
        let path = format!("{}a", chain.repeat(2000));
        XPath::compile(&path, &names())
            .unwrap()
            .text(
                &XmlDocument::of("<a/>").unwrap(),
                XmlDocument::default().root(),
            )
            .unwrap();
    }
}

#[test]
fn evaluation_is_bounded() {
    let document = format!("<a>{}</a>", "<b><c/></b>".repeat(4000));
    let document = XmlDocument::of(&document).unwrap();
    for path in [
        "count(//*[count(//*[count(//*) > 0]) > 0])",
        "count(//*/following::*)",
    ] {
        let path = XPath::compile(path, &names()).unwrap();
        assert!(path.text(&document, document.root()).is_err());
    }
    // A text that would double with each step.
    let path = (0..30).fold("'xxxxxxxxxxxxxxxx'".to_owned(), |path, _| {
        match path.len() < 4000 {
            true => format!("concat({path}, {path})"),
            false => path,
        }
    });
    let text = "x".repeat(1 << 20);
    let long = XmlDocument::of(&format!("<a>{text}</a>")).unwrap();
    let path = path.replace("'xxxxxxxxxxxxxxxx'", "/a");
    let path = XPath::compile(&path, &names()).unwrap();
    assert!(path.text(&long, long.root()).is_err());
}

#[test]
fn what_is_not_a_document_is_refused_with_its_place() {
    use busbar_xml::DocumentFaultKind as Kind;
    let deep = "<a>".repeat(300);
    let wide = format!(
        "<a{}/>",
        (0..300).map(|n| format!(" b{n}=''")).collect::<String>()
    );
    for (document, kind, line, column) in [
        ("", Kind::Root, 1, 1),
        ("x", Kind::Root, 1, 1),
        ("<a/><b/>", Kind::Root, 1, 5),
        ("<a/>\n水x", Kind::Root, 2, 1),
        ("<![CDATA[x]]><a/>", Kind::Root, 1, 1),
        ("<a>\n <b>", Kind::End, 2, 5),
        ("<a b='", Kind::End, 1, 7),
        ("<a><!-- x", Kind::End, 1, 10),
        ("<a></b>", Kind::EndTag("a".into()), 1, 4),
        ("<a></ab>", Kind::EndTag("a".into()), 1, 4),
        ("</a>", Kind::Root, 1, 1),
        ("<a>水<!DOCTYPE b></a>", Kind::DocumentType, 1, 5),
        (
            "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
            Kind::DocumentType,
            1,
            1,
        ),
        ("<a>&b;</a>", Kind::Entity, 1, 4),
        ("<a b='&b;'/>", Kind::Entity, 1, 7),
        ("<a>& b</a>", Kind::Syntax, 1, 4),
        ("<a>&#x0;</a>", Kind::Character, 1, 4),
        ("<a>&#xD800;</a>", Kind::Character, 1, 4),
        ("<a>\u{1}</a>", Kind::Character, 1, 4),
        ("<a>\u{fffe}</a>", Kind::Character, 1, 4),
        ("<a>]]></a>", Kind::Syntax, 1, 4),
        ("<a b='<'/>", Kind::Syntax, 1, 7),
        ("<a b=1/>", Kind::Syntax, 1, 6),
        ("<a b='1'c='2'/>", Kind::Syntax, 1, 9),
        ("<a b/>", Kind::Syntax, 1, 5),
        ("<1/>", Kind::Syntax, 1, 2),
        ("<a><!-- a -- b --></a>", Kind::Syntax, 1, 13),
        ("<a><?xml version='1.0'?></a>", Kind::Syntax, 1, 6),
        (" <?xml version='1.0'?><a/>", Kind::Syntax, 1, 4),
        ("<?xml encoding='UTF-8'?><a/>", Kind::Syntax, 1, 7),
        ("<a b='1' b='2'/>", Kind::TwiceNamed, 1, 1),
        (
            "<a xmlns:x='u' xmlns:y='u' x:b='1' y:b='2'/>",
            Kind::TwiceNamed,
            1,
            1,
        ),
        ("<a xmlns:x='u' xmlns:x='v'/>", Kind::TwiceNamed, 1, 16),
        ("<x:a/>", Kind::Namespace, 1, 2),
        ("<a x:b=''/>", Kind::Namespace, 1, 4),
        ("<a xmlns:x=''/>", Kind::Namespace, 1, 4),
        ("<a xmlns:xml='u'/>", Kind::Namespace, 1, 4),
        ("<a:b:c xmlns:a='u'/>", Kind::Syntax, 1, 5),
        (&deep, Kind::Deep, 1, 769),
        (&wide, Kind::Nodes, 1, 1942),
    ] {
        let fault = XmlDocument::of(document).unwrap_err();
        let found = (fault.kind.clone(), fault.line, fault.column);
        let shown: String = document.chars().take(60).collect();
        assert_eq!(found, (kind, line, column), "{shown}");
        assert!(!fault.error().to_string().contains("xml."), "it has words");
    }
}

#[test]
fn a_document_that_is_read_again_holds_nothing_of_the_one_before() {
    let mut document = XmlDocument::default();
    document
        .read("<w:a xmlns:w='urn:water' xml:id='x'>one<b/></w:a>")
        .unwrap();
    assert!(document.read("<w:a/>").is_err());
    assert_eq!(document.element(), None);
    document.read("<a>two</a>").unwrap();
    assert_eq!(document.value(document.root()), "two");
    let path = XPath::compile(
        "count(//@*) + count(//namespace::*) + count(//node())",
        &names(),
    )
    .unwrap();
    assert_eq!(path.number(&document, document.root()), Ok(3.0));
}
