use std::path::{Path, PathBuf};
use std::sync::Arc;

use busbar_event::format::{Decoder, FieldSpec, FieldType, FormatSpec, SchemaSpec, encode_json};
use proptest::prelude::*;

use super::{XsdColumns, columns_of_xsd, xsd_of};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/xsd")
}

/// Columns as lines: type, path and whether it is required.
fn lines(found: &XsdColumns) -> Vec<String> {
    let columns = found.schema.0.iter().map(|column| {
        let path = column.path.as_ref().unwrap_or(&column.name);
        let required = if column.required { " required" } else { "" };
        format!("{} {path}{required}", column.field_type.as_str())
    });
    let remarks = found.remarks.iter();
    let remarks = remarks.map(|(path, error)| format!("# {path} {}", error.code()));
    columns.chain(remarks).collect()
}

#[test]
fn every_kind_of_declaration_becomes_columns() {
    let found = columns_of_xsd(&folder().join("visit.xsd"), None, None).unwrap();
    let expected = include_str!("../../tests/xsd/visit.columns");
    assert_eq!(lines(&found).join("\n"), expected.trim_end());
}

/// The documents are valid by libxml2 and by xmlschema; `oracle.py` says so.
#[test]
fn valid_documents_are_read_by_the_columns_of_their_schema() {
    let found = columns_of_xsd(&folder().join("visit.xsd"), None, None).unwrap();
    let schema = found.schema.schema().unwrap();
    let all: Vec<usize> = (0..schema.fields().len()).collect();
    let format = FormatSpec::Xml(Default::default());
    let documents = include_str!("../../tests/xsd/visit.xml");
    let payloads: Vec<&[u8]> = documents.lines().map(str::as_bytes).collect();
    let payloads = arrow::array::BinaryArray::from_vec(payloads);
    let decoded = Decoder::new(&format, &schema, &all)
        .unwrap()
        .decode(&payloads);
    let refused: Vec<String> = decoded
        .rejected
        .iter()
        .map(|one| one.cause.to_string())
        .collect();
    assert_eq!(refused, [] as [&str; 0]);
    let rows = encode_json(&decoded.columns.into());
    let rows: Vec<&str> = rows
        .iter()
        .flatten()
        .map(|row| std::str::from_utf8(row).unwrap())
        .collect();
    assert_eq!(
        rows.join("\n"),
        include_str!("../../tests/xsd/visit.rows").trim_end()
    );
}

/// Such an element has nothing in it, also where it would have to.
#[test]
fn nothing_is_required_in_an_element_that_may_be_nil() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("main.xsd");
    for (nillable, expected) in [("false", "text a.b required"), ("true", "text a.b")] {
        let schema = format!(
            "{HEAD}<xs:element name='r'><xs:complexType><xs:sequence><xs:element name='a' nillable='{nillable}'><xs:complexType><xs:sequence><xs:element name='b' type='xs:date'/></xs:sequence></xs:complexType></xs:element></xs:sequence></xs:complexType></xs:element></xs:schema>"
        );
        std::fs::write(&file, schema).unwrap();
        let found = columns_of_xsd(&file, None, None).unwrap();
        assert_eq!(lines(&found), [expected]);
    }
}

/// The columns of a schema with one element `r`.
fn columns(parts: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("main.xsd");
    std::fs::write(&file, format!("{HEAD}{parts}</xs:schema>")).unwrap();
    lines(&columns_of_xsd(&file, None, None).unwrap())
}

#[test]
fn what_only_one_branch_of_a_choice_has_is_not_required() {
    let element = |name: &str| format!("<xs:element name='{name}' type='xs:date'/>");
    // Of a group it is one element, wherever the group stands.
    let part = |name: char| match name {
        'a' => "<xs:group ref='g'/>".to_owned(),
        name => element(&name.to_string()),
    };
    let choice = |branches: [&str; 2]| {
        let branches = branches.map(|branch| {
            let parts: String = branch.chars().map(part).collect();
            format!("<xs:sequence>{parts}</xs:sequence>")
        });
        columns(&format!(
            "<xs:group name='g'><xs:sequence>{}</xs:sequence></xs:group>\
             <xs:element name='r'><xs:complexType><xs:choice>{}</xs:choice></xs:complexType></xs:element>",
            element("a"),
            branches.concat()
        ))
    };
    assert_eq!(choice(["a", "b"]), ["text a", "text b"]);
    assert_eq!(
        choice(["ab", "ac"]),
        ["text a required", "text b", "text c"]
    );
    assert_eq!(choice(["ab", "a"]), ["text a required", "text b"]);
}

#[test]
fn an_attribute_is_as_the_restriction_says() {
    let attribute =
        |name: &str, more: &str| format!("<xs:attribute name='{name}' type='xs:date' {more}/>");
    let base: String = ["x", "y", "z"]
        .iter()
        .map(|name| attribute(name, ""))
        .collect();
    let less = [
        attribute("x", "use='required'"),
        attribute("y", "use='prohibited'"),
    ]
    .concat();
    let found = columns(&format!(
        "<xs:complexType name='base'>{base}</xs:complexType><xs:complexType name='less'><xs:complexContent>\
         <xs:restriction base='base'>{less}</xs:restriction></xs:complexContent></xs:complexType><xs:element name='r' type='less'/>"
    ));
    assert_eq!(found, ["text @z", "text @x required"]);
}

#[test]
fn an_element_that_others_may_stand_for_is_not_required() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("main.xsd");
    let columns = |more: &str| {
        let schema = format!(
            "{HEAD}<xs:element name='r'><xs:complexType><xs:sequence><xs:element ref='a'/></xs:sequence></xs:complexType></xs:element>{more}</xs:schema>"
        );
        std::fs::write(&file, schema).unwrap();
        let found = columns_of_xsd(&file, Some("r"), None).unwrap();
        let columns = found.schema.0.into_iter();
        let shown = columns.map(|column| format!("{} {}", column.name, column.required));
        shown.collect::<Vec<_>>()
    };
    let head = "<xs:element name='a' type='xs:int'/>";
    let other = "<xs:element name='b' type='xs:int' substitutionGroup='a'/>";
    assert_eq!(columns(head), ["a true"]);
    assert_eq!(columns(&format!("{head}{other}")), ["a false", "b false"]);
    let head = "<xs:element name='a' type='xs:int' abstract='true'/>";
    assert_eq!(columns(&format!("{head}{other}")), ["b true"]);
}

#[test]
fn deep_elements_are_json() {
    let found = columns_of_xsd(&folder().join("visit.xsd"), None, Some(1)).unwrap();
    let found = lines(&found);
    assert!(found.contains(&"json patient".to_owned()), "{found:?}");
    assert!(
        !found.iter().any(|line| line.contains("patient.")),
        "{found:?}"
    );
}

const HEAD: &str = "<xs:schema xmlns:xs='http://www.w3.org/2001/XMLSchema'>";

/// What is said of a schema, of which `parts.xsd` is another file.
fn refused(schema: &str, parts: &str) -> &'static str {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("main.xsd");
    let text = |text: &str| match text.starts_with("<xs:") {
        true => format!("{HEAD}{text}</xs:schema>"),
        false => text.to_owned(),
    };
    std::fs::write(&file, text(schema)).unwrap();
    std::fs::write(folder.path().join("parts.xsd"), text(parts)).unwrap();
    columns_of_xsd(&file, None, None).unwrap_err().code()
}

#[test]
fn what_no_columns_come_from_is_refused() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outside.path(), format!("{HEAD}</xs:schema>")).unwrap();
    let absolute = format!(
        "<xs:include schemaLocation='{}'/>",
        outside.path().display()
    );
    let nested = |depth: usize| {
        let groups = (0..depth).map(|n| {
            let next = format!("<xs:group ref='g{}'/>", n + 1);
            format!("<xs:group name='g{n}'><xs:sequence>{next}{next}</xs:sequence></xs:group>")
        });
        let groups: String = groups.collect();
        format!(
            "<xs:element name='r'><xs:complexType><xs:group ref='g0'/></xs:complexType></xs:element>{groups}<xs:group name='g{depth}'><xs:sequence><xs:element name='a'/></xs:sequence></xs:group>"
        )
    };
    let wide: String = (0..1100)
        .map(|n| format!("<xs:element name='e{n}'/>"))
        .collect();
    let wide = format!(
        "<xs:element name='r'><xs:complexType><xs:sequence>{wide}</xs:sequence></xs:complexType></xs:element>"
    );
    let bomb = "<!DOCTYPE x [<!ENTITY a 'aa'>]><x>&a;</x>";
    for (schema, code) in [
        ("<r/>", "xsd.no-schema"),
        ("<xs:schema", "xsd.document"),
        (bomb, "xsd.document"),
        ("<xs:simpleType name='t'/>", "xsd.no-root"),
        (
            "<xs:element name='a'/><xs:element name='b'/>",
            "xsd.which-root",
        ),
        ("<xs:element name='a' type='none'/>", "xsd.unknown"),
        ("<xs:element name='a' type='xs:none'/>", "xsd.unknown"),
        ("<xs:element name='a' type='x:none'/>", "xsd.unknown"),
        ("<xs:redefine schemaLocation='parts.xsd'/>", "xsd.redefine"),
        ("<xs:include schemaLocation='none.xsd'/>", "xsd.read"),
        ("<xs:include schemaLocation='../main.xsd'/>", "xsd.outside"),
        (
            "<xs:include schemaLocation='http://127.0.0.1/a.xsd'/>",
            "xsd.outside",
        ),
        (
            "<xs:include schemaLocation='file:///etc/passwd'/>",
            "xsd.outside",
        ),
        (&absolute, "xsd.outside"),
        (
            "<xs:element name='r' type='t'/><xs:simpleType name='t'><xs:restriction base='t'/></xs:simpleType>",
            "xsd.circular",
        ),
        (
            "<xs:element name='r' type='t'/><xs:complexType name='t'><xs:complexContent><xs:extension base='t'/></xs:complexContent></xs:complexType>",
            "xsd.circular",
        ),
        (
            "<xs:element name='r'><xs:complexType><xs:group ref='g'/></xs:complexType></xs:element><xs:group name='g'><xs:sequence><xs:group ref='g'/></xs:sequence></xs:group>",
            "xsd.circular",
        ),
        ("<xs:element name='a b'/>", "xsd.unnamed"),
        ("<xs:element name=''/>", "xsd.unnamed"),
        (
            "<xs:element name='r'><xs:complexType><xs:sequence><xs:element type='xs:int'/></xs:sequence></xs:complexType></xs:element>",
            "xsd.unnamed",
        ),
        (
            "<xs:element name='r'><xs:complexType><xs:choice><xs:element name='1'/></xs:choice></xs:complexType></xs:element>",
            "xsd.unnamed",
        ),
        (
            "<xs:element name='r'><xs:complexType><xs:attribute type='xs:int'/></xs:complexType></xs:element>",
            "xsd.unnamed",
        ),
        (
            "<xs:element name='r'><xs:complexType><xs:attribute ref='a[*]'/></xs:complexType></xs:element><xs:attribute name='a[*]'/>",
            "xsd.unnamed",
        ),
        (&nested(30), "xsd.large"),
        (&wide, "xsd.many"),
    ] {
        assert_eq!(
            refused(schema, "<xs:simpleType name='u'/>"),
            code,
            "{schema}"
        );
    }
    #[cfg(unix)]
    {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link.xsd")).unwrap();
        let file = folder.path().join("main.xsd");
        let main = format!("{HEAD}<xs:include schemaLocation='link.xsd'/></xs:schema>");
        std::fs::write(&file, main).unwrap();
        assert_eq!(
            columns_of_xsd(&file, None, None).unwrap_err().code(),
            "xsd.outside"
        );
    }
}

#[test]
fn columns_that_no_document_can_have_are_refused() {
    let column = |path: &str| FieldSpec {
        path: Some(path.to_owned()),
        ..FieldSpec::new("c", FieldType::Text)
    };
    for (paths, code) in [
        (vec!["a b"], "xsd.name"),
        (vec!["@1"], "xsd.name"),
        (vec!["a[*].b"], "xsd.path"),
        (vec!["@a.b"], "xsd.path"),
        (vec!["a", "a"], "xsd.place"),
        (vec!["a.#text", "a.#text"], "xsd.place"),
        (vec!["@a", "@a"], "xsd.place"),
    ] {
        let columns: Vec<FieldSpec> = paths.iter().map(|path| column(path)).collect();
        assert_eq!(
            xsd_of("r", None, None, &columns).unwrap_err().code(),
            code,
            "{paths:?}"
        );
    }
    assert_eq!(
        xsd_of("a b", None, None, &[]).unwrap_err().code(),
        "xsd.name"
    );
}

/// The parts of an element that a document can have: attributes, text, elements.
fn parts(depth: u32) -> BoxedStrategy<Vec<FieldSpec>> {
    let value = || {
        prop_oneof![
            Just(FieldType::Bool),
            Just(FieldType::Int),
            Just(FieldType::Float),
            Just(FieldType::Text),
            Just(FieldType::Time),
        ]
    };
    let column = |path: String, field_type: FieldType, required: bool| FieldSpec {
        path: Some(path),
        required,
        ..FieldSpec::new("", field_type)
    };
    let attributes = prop::collection::btree_map("[a-z]{1,3}", (value(), any::<bool>()), 0..3);
    let attributes = attributes.prop_map(move |all| {
        let all = all.into_iter();
        let all = all.map(|(name, (kind, required))| column(format!("@{name}"), kind, required));
        all.collect::<Vec<_>>()
    });
    let simple = (value(), any::<bool>());
    let simple =
        simple.prop_map(move |(kind, required)| vec![column(String::new(), kind, required)]);
    let list = any::<bool>();
    let list = list.prop_map(move |required| vec![column("[*]".into(), FieldType::Json, required)]);
    let any_type = Just(vec![column(String::new(), FieldType::Json, false)]);
    let text = (value(), any::<bool>(), attributes.clone());
    let text = text.prop_map(move |(kind, required, mut all)| {
        // Without attributes only an element that may be nil has its text apart.
        let required = required && !all.is_empty();
        all.push(column("#text".into(), kind, required));
        all
    });
    let leaf = prop_oneof![simple, list, any_type, text];
    let child = match depth {
        0 => leaf.boxed(),
        _ => prop_oneof![2 => leaf, 1 => parts(depth - 1)].boxed(),
    };
    let children = prop::collection::btree_map("[a-z]{1,3}", child, 1..4);
    (attributes, children)
        .prop_map(|(mut all, children)| {
            for (name, below) in children {
                for mut one in below {
                    one.path = one.path.map(|path| match path.as_str() {
                        "" | "[*]" => format!("{name}{path}"),
                        _ => format!("{name}.{path}"),
                    });
                    all.push(one);
                }
            }
            all
        })
        .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn columns_come_back_from_their_schema(
        columns in parts(2),
        namespace in prop::option::of(Just("urn:a&b")),
    ) {
        let xsd = xsd_of("root", namespace, None, &columns).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("main.xsd");
        std::fs::write(&file, &xsd).unwrap();
        let back = columns_of_xsd(&file, None, None)
            .map_err(|error| TestCaseError::fail(format!("{error}\n{xsd}")))?;
        let of = |columns: &[FieldSpec]| {
            let all = columns.iter().map(|column| {
                let path = column.path.as_ref().unwrap_or(&column.name);
                (path.clone(), column.field_type, column.required)
            });
            let mut all: Vec<_> = all.collect();
            all.sort_by(|a, b| a.0.cmp(&b.0));
            all
        };
        prop_assert_eq!(of(&back.schema.0), of(&columns), "{}", xsd);
        prop_assert_eq!(back.root, "root");
    }
}

/// The type that columns have in a stream's file.
#[test]
fn columns_are_those_of_a_stream() {
    let found = columns_of_xsd(&folder().join("visit.xsd"), None, None).unwrap();
    let text = serde_json::to_string(&found.schema).unwrap();
    let read: SchemaSpec = serde_json::from_str(&text).unwrap();
    assert_eq!(read, found.schema);
    assert!(Arc::clone(&read.schema().unwrap()).fields().len() > 20);
}
