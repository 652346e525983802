use super::*;
use crate::format::{XmlOptions, infer};

fn xml(root: Option<&str>) -> FormatSpec {
    FormatSpec::Xml(XmlOptions {
        root: root.map(str::to_owned),
    })
}

#[test]
fn reads_documents_as_columns() {
    let spec = spec(
        r#"{"id":{"type":"int","path":"@id"},"level":{"type":"float","path":"level.#text"},
            "unit":{"type":"text","path":"level.@unit"},"at":"time","code":"text","values":"json"}"#,
    );
    let rows = payloads(&[
        "<r id='7'><level unit='mm'>62.50</level><at>2026-11-22T02:03:04Z</at><code>007</code><values><v>1</v><v>x</v></values></r>",
        "<r><level unit='mm'>high</level></r>",
        "<r><at>soon</at></r>",
        "<r id='1.5'/>",
        "<!DOCTYPE r><r/>",
        "{}",
        "<r id='8'/>",
    ]);
    let decoded = decode(&xml(None), &spec, &rows);
    assert_eq!(
        values(&decoded.columns),
        [
            json!({"id":7,"level":62.5,"unit":"mm","at":"2026-11-22T02:03:04.000000Z","code":"007","values":{"v":[1,"x"]}}),
            json!({"id":8}),
        ]
    );
    assert_eq!(
        causes(&decoded),
        [
            (1, "event.member-type"),
            (2, "event.member-time"),
            (3, "event.member-range"),
            (4, "event.xml-document-type"),
            (5, "event.xml-root"),
        ]
    );
}

#[test]
fn fields_can_be_below_the_root() {
    let rows = payloads(&["<envelope><body><reading><kw>5</kw></reading></body></envelope>"]);
    let decoded = decode(&xml(Some("body.reading")), &spec(r#"{"kw":"int"}"#), &rows);
    assert_eq!(values(&decoded.columns), [json!({"kw":5})]);
}

#[test]
fn columns_are_inferred() {
    let rows = payloads(&[
        "<r id='1'><kw>5</kw><site>a</site></r>",
        "<r id='2'><kw>5.5</kw><phase><v>1</v></phase><code>01</code></r>",
        "no xml",
    ]);
    let schema = infer(&xml(None), &rows).unwrap();
    let fields: Vec<String> = SchemaSpec::of(&schema)
        .0
        .iter()
        .map(|field| format!("{} {}", field.name, field.field_type.as_str()))
        .collect();
    assert_eq!(
        fields,
        [
            "@id int",
            "kw float",
            "site text",
            "phase json",
            "code text"
        ]
    );
}

#[test]
fn documents_are_read_in_their_encoding() {
    let (gb, ..) = encoding_rs::GB18030
        .encode("<?xml version='1.0' encoding='GB18030'?><r><site>水位𠀀</site></r>");
    let mut utf16 = vec![0xff, 0xfe];
    let units = "<r><site>水</site></r>".encode_utf16();
    utf16.extend(units.flat_map(u16::to_le_bytes));
    let rows = payloads(&[
        &gb[..],
        &utf16,
        "\u{feff}<r><site>水</site></r>".as_bytes(),
        b"<?xml version='1.0' encoding='ISO-8859-1'?><r><site>\xe9</site></r>",
        b"<?xml version='1.0' encoding='GBK'?><r><site>\xff</site></r>",
        b"<?xml version='1.0' encoding='EBCDIC'?><r/>",
        b"<r>\xff</r>",
    ]);
    let decoded = decode(&xml(None), &spec(r#"{"site":"text"}"#), &rows);
    assert_eq!(
        values(&decoded.columns),
        ["水位𠀀", "水", "水", "é"].map(|site| json!({ "site": site }))
    );
    assert_eq!(
        causes(&decoded),
        [
            (4, "event.xml-bytes"),
            (5, "event.xml-encoding"),
            (6, "event.payload-utf8"),
        ]
    );
    assert!(infer(&xml(None), &payloads(&[&gb[..]])).is_ok());
}

#[test]
fn lists_and_texts_of_paths_do_not_depend_on_the_document() {
    let columns = spec(
        r##"{"lines":{"type":"json","path":"order.line[*]"},"level":{"type":"float","path":"level.#text"},
            "unit":{"type":"text","path":"level.@unit"}}"##,
    );
    let rows = payloads(&[
        "<r><order><line><n>1</n></line></order><level>5</level></r>",
        "<r><order><line/><line>2</line></order><level unit='m'/></r>",
        "<r><order/><level/></r>",
    ]);
    let decoded = decode(&xml(None), &columns, &rows);
    assert_eq!(
        values(&decoded.columns),
        [
            json!({"lines":[{"n":1}],"level":5.0}),
            json!({"lines":[null,2],"unit":"m"}),
            json!({}),
        ]
    );
    let wrong = spec(r#"{"n":{"type":"int","path":"line[*].n"}}"#);
    let refused = Decoder::new(&xml(None), &wrong, &[0]).unwrap_err();
    assert_eq!(refused.code(), "event.xml-list-path");
}
