use super::*;

fn shown(yaml: &str, path: Path<'_>, inner: Range<usize>) -> String {
    let source = Source::parse("flows/x.yaml", yaml).unwrap();
    yaml[source.place(path, Some(inner))].to_owned()
}

#[test]
fn finds_words_in_every_kind_of_scalar() {
    let path: Path<'_> = &[
        PathItem::Key("a"),
        PathItem::Index(0),
        PathItem::Key("where"),
    ];
    assert_eq!(shown("a:\n  - where: x > yy and z\n", path, 4..6), "yy");
    assert_eq!(shown("a:\n  - where: 'x > yy and z'\n", path, 4..6), "yy");
    assert_eq!(shown("a:\n  - where: \"x > yy and z\"\n", path, 4..6), "yy");
    assert_eq!(
        shown("a:\n  - where: x >\n      yy and z\n", path, 4..6),
        "yy"
    );
    assert_eq!(
        shown("a:\n  - where: |\n      x >\n      yy and z\n", path, 4..6),
        "yy"
    );
    assert_eq!(
        shown(
            "a:\n  - where: >-\n      x >\n\n      yy and z\n",
            path,
            4..6
        ),
        "yy"
    );
    assert_eq!(shown("a:\n  - where: größe > yy # c\n", path, 10..12), "yy");
    // Escapes, of every kind and before the word.
    assert_eq!(shown("a:\n  - where: \"x\\t> yy\"\n", path, 4..6), "yy");
    assert_eq!(shown("a:\n  - where: \"\\u6c34 > yy\"\n", path, 6..8), "yy");
    assert_eq!(
        shown("a:\n  - where: \"x \\\n     > yy\"\n", path, 4..6),
        "yy"
    );
    assert_eq!(
        shown("a:\n  - where: \"x = \\\"a\\\" or yy\"\n", path, 11..13),
        "yy"
    );
    assert_eq!(
        shown("a:\n  - where: 'x = ''a''  or yy'\n", path, 12..14),
        "yy"
    );
    assert_eq!(
        shown("a:\n  - where: 'x = ''a''\n     or yy'\n", path, 11..13),
        "yy"
    );
    // Behind text of other scripts, an anchor, and with the line ends of Windows.
    assert_eq!(
        shown("水: 1\na:\n  - where: 水位 > yy # 水\n", path, 9..11),
        "yy"
    );
    assert_eq!(
        shown("a:\n  - where: '水 = ''b'' or yy'\n", path, 13..15),
        "yy"
    );
    assert_eq!(shown("a:\n  - where: &w x > yy\n", path, 4..6), "yy");
    assert_eq!(shown("a:\r\n  - where: x > yy\r\n", path, 4..6), "yy");
    assert_eq!(
        shown(
            "a:\r\n  - where: >\r\n      水 >\r\n      yy\r\n",
            path,
            6..8
        ),
        "yy"
    );
    assert_eq!(
        shown(
            "a:\r\n  - where: |\r\n      x\r\n      > yy\r\n",
            path,
            4..6
        ),
        "yy"
    );
}

#[test]
fn anchors_aliases_and_marks_do_not_change_what_is_said() {
    let text = "\u{feff}a: &v 1.50\nb: *v\nc: &s x > 1\nd: *s\ne: !!str 7\n";
    let source = Source::parse("f", text).unwrap();
    let read = |key: &str| {
        source
            .read_node::<String>(source.node(&[key.into()]))
            .unwrap()
    };
    assert_eq!(
        ["a", "b", "c", "d", "e"].map(read),
        ["1.50", "1.50", "x > 1", "x > 1", "7"]
    );
    assert_eq!(source.root().to_json()["b"], serde_json::json!(1.5));
    // Without the mark, which is no column.
    let wrong = source.diagnostic(&["a".into()], None, Error::new(Class::Permanent, "x"));
    assert_eq!(wrong.line_column().0, 1);
    assert_eq!(
        source
            .diagnostic_at_key(&[], "a", Error::new(Class::Permanent, "x"))
            .line_column(),
        (1, 1)
    );
}

#[test]
fn keeps_the_types_of_json_and_how_numbers_were_written() {
    let source = Source::parse("f", "a: 1\nb: 1.50\nc: yes\nd: ~\ne: true\nf: '1'\n").unwrap();
    let json = source.root().to_json();
    assert_eq!(
        json,
        serde_json::json!({"a":1,"b":1.5,"c":"yes","d":null,"e":true,"f":"1"})
    );
    let raw = source.node(&["b".into()]).raw.as_deref();
    assert_eq!(raw, Some("1.50"));
}

#[test]
fn hostile_documents_are_refused_with_a_place() {
    let deep = "[".repeat(5000);
    let code = Source::parse("f", &deep).unwrap_err();
    let code = code.error().code();
    assert!(code.starts_with("catalog.yaml"), "{code}");
    for (bad, code, line_column) in [
        ("a: [1,", "catalog.yaml-bracket", (1, 4)),
        ("a: b: c", "catalog.yaml-colon", (1, 5)),
        ("a: 1\n---\nb: 2\n", "catalog.yaml-documents", (2, 1)),
        ("a: *b\n", "catalog.yaml-alias", (1, 4)),
        ("a: \"b\n", "catalog.yaml-quote", (1, 4)),
        ("a: 1\na: 2\n", "catalog.duplicate-key", (2, 1)),
        ("a:\n\t- b: 1\n", "catalog.tab", (2, 1)),
        ("水:\n  - b: 1\n  \t- c: 1\n", "catalog.tab", (3, 3)),
        ("a:\n  - b: c > 1\n\t- d: 1\n", "catalog.tab", (3, 1)),
    ] {
        let diagnostic = Source::parse("f", bad).unwrap_err();
        assert_eq!(diagnostic.error().code(), code, "{bad}");
        assert_eq!(diagnostic.line_column(), line_column, "{bad}");
    }
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for i in 1..9 {
        let alias = format!("*a{}", i - 1);
        bomb += &format!("a{i}: &a{i} [{}]\n", [alias.as_str(); 9].join(","));
    }
    assert!(Source::parse("f", &bomb).is_err());
}
