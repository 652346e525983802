//! Operations of a WSDL: what goes out, which steps are refused, and what becomes of answers that are not as it says.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use busbar_catalog::{CallSpec, ConnectionSpec};
use busbar_connector::{CallFault, CallForm, CallParts, ServiceAnswer};
use busbar_event::format::FieldSpec;
use busbar_event::{Class, Error};
use http::{HeaderMap, HeaderValue, header};
use tokio::runtime::Runtime;

use crate::peers::Web;
use crate::service_context;
use crate::soap_subject::{FILES, fault};
use crate::world::spec;

fn called(connection: &ConnectionSpec, step: &str) -> Result<Arc<dyn CallForm>, CallFault> {
    let registry = busbar_connect::registry();
    let connector = registry.get("soap").expect("it is registered");
    let call: CallSpec = serde_json::from_str(step).expect("a step");
    connector.call_form(connection, &call)
}

pub fn form(connection: &str, step: &str) -> Arc<dyn CallForm> {
    let form = called(&spec(connection), step);
    form.unwrap_or_else(|fault| panic!("{}", fault.error))
}

pub fn body(form: &dyn CallForm, row: &str) -> Result<String, Error> {
    let request = form.request(CallParts {
        body: Some(row.as_bytes().to_vec().into()),
        ..CallParts::default()
    })?;
    let text = String::from_utf8(request.body.to_vec()).expect("UTF-8");
    let from = text.find("<soap:Body>").expect("a body") + 11;
    let to = text.find("</soap:Body>").expect("its end");
    Ok(text[from..to].to_owned())
}

const ADMIT: &str = r#"{"connection":"x","method":"Admit","send":"*"}"#;

#[test]
fn a_row_becomes_the_message_of_its_operation() {
    let admit = form("soap: { wsdl: ward.wsdl }\n", ADMIT);
    for (row, expected) in [
        // In the order of the schema, whatever the order of the columns; names with points and with `_`.
        (
            r#"{"urgent":true,"patient_family":"Li & Co","patient.@id":7,"at":"2026-03-01T08:00:00.000000Z","patient.born":"1960-02-29"}"#,
            r#"<Admit xmlns="urn:ward:types"><at>2026-03-01T08:00:00.000000Z</at><patient id="7"><family>Li &amp; Co</family><born>1960-02-29</born></patient><urgent>true</urgent></Admit>"#,
        ),
        // An element without a namespace, one that is nil, a list, text with an attribute, and a type that holds itself.
        (
            r##"{"at":"t","patient":{"@id":1,"family":"a","given":"b"},"code":["x","<y>"],"level":1.5e21,"tree":{"name":"r","tree":[{"name":"s"},{"name":"t"}]}}"##,
            r#"<Admit xmlns="urn:ward:types"><at>t</at><patient id="1"><family>a</family><given xmlns="">b</given><born xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:nil="true"/></patient><level>1500000000000000000000</level><code>x</code><code>&lt;y&gt;</code><tree><name>r</name><tree><name>s</name></tree><tree><name>t</name></tree></tree></Admit>"#,
        ),
        (
            r##"{"at":"t","patient_id":1,"patient_family":"","level.#text":2,"level.@unit":"m","more":{"a":[1,{"b":true}]}}"##,
            r#"<Admit xmlns="urn:ward:types"><at>t</at><patient id="1"><family></family><born xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:nil="true"/></patient><level unit="m">2</level><more><a>1</a><a><b>true</b></a></more></Admit>"#,
        ),
    ] {
        assert_eq!(body(&*admit, row).expect(row), expected, "{row}");
    }
    let note = form(
        "soap: { wsdl: ward.wsdl }\n",
        r##"{"connection":"x","method":"Note","send":"a as \"#text\""}"##,
    );
    let written = body(&*note, r##"{"#text":"a"}"##).expect("a message");
    assert_eq!(written, r#"<Note xmlns="urn:ward:types">a</Note>"#);
    for (row, code, word) in [
        ("{}", "connect.soap-value-missing", "at"),
        (
            r#"{"at":"t","patient_id":1}"#,
            "connect.soap-value-missing",
            "patient.family",
        ),
        (
            r#"{"at":"t","patient":{"@id":"x","family":"a"}}"#,
            "connect.soap-value-type",
            "patient.@id",
        ),
        (
            r#"{"at":"t","patient":{"@id":1,"family":"a","dog":1}}"#,
            "connect.soap-value-unknown",
            "patient.dog",
        ),
        (
            r#"{"at":"t","patient":[1]}"#,
            "connect.soap-value-object",
            "patient",
        ),
        (
            "{\"at\":\"\\u0001\",\"patient\":{\"@id\":1,\"family\":\"a\"}}",
            "connect.soap-value-character",
            "at",
        ),
    ] {
        let error = body(&*admit, row).expect_err(row);
        assert_eq!(
            (error.class(), error.code()),
            (Class::Permanent, code),
            "{row}"
        );
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn requests_go_to_the_port_that_is_wanted() {
    for (options, kind, address) in [
        ("wsdl: ward.wsdl", "text/xml; charset=utf-8", "/one"),
        (
            "wsdl: ward.wsdl, port: Two",
            "application/soap+xml; charset=utf-8; action=\"urn:ward/Admit\"",
            "/two",
        ),
        (
            "wsdl: ward.wsdl, version: '1.2'",
            "application/soap+xml; charset=utf-8; action=\"urn:ward/Admit\"",
            "/two",
        ),
    ] {
        let form = form(&format!("soap: {{ {options} }}\n"), ADMIT);
        let row = r#"{"at":"t","patient_id":1,"patient_family":"a"}"#;
        let request = form.request(CallParts {
            body: Some(row.into()),
            ..CallParts::default()
        });
        let request = request.expect("a request");
        let sent = |name: &str| {
            let mut all = request.headers.iter();
            all.find(|(known, _)| known == name)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!(sent("Content-Type"), Some(kind));
        let action = kind.starts_with("text").then_some("\"urn:ward/Admit\"");
        assert_eq!(sent("SOAPAction"), action);
        // The address stands in what is said of an answer.
        let refused = form.answer(ServiceAnswer {
            status: 404,
            ..ServiceAnswer::default()
        });
        let said = refused.expect_err("not found").to_string();
        assert!(said.contains(address), "{said}");
    }
}

/// A column by the types of files.
pub fn column(name: &str, field_type: &str) -> Field {
    let field: FieldSpec =
        serde_json::from_value(serde_json::json!({ "name": name, "type": field_type }))
            .expect("a column");
    field.field()
}

#[test]
fn columns_that_are_sent_are_those_of_the_operation() {
    let admit = form("soap: { wsdl: ward.wsdl }\n", ADMIT);
    let good = [
        ("at", "time"),
        ("patient_id", "int"),
        ("patient_family", "text"),
    ];
    let checked = |more: &[(&str, &str)], without: &str| {
        let columns = good.iter().chain(more);
        let columns = columns.filter(|(name, _)| *name != without);
        let columns: Vec<Field> = columns.map(|(name, kind)| column(name, kind)).collect();
        admit.check_sent(&Schema::new(columns))
    };
    for more in [
        &[][..],
        &[("level", "json"), ("code[*]", "json"), ("urgent", "bool")],
        &[
            ("level_unit", "text"),
            ("level.#text", "int"),
            ("more", "int"),
        ],
        &[
            ("kin.@id", "int"),
            ("kin.family", "int"),
            ("kin.born", "text"),
        ],
        &[
            ("tree", "json"),
            ("code", "text"),
            ("patient.given", "bool"),
        ],
    ] {
        let told = checked(more, "").err().map(|fault| fault.error.to_string());
        assert_eq!(told, None, "{more:?}");
    }
    for (more, without, code, word) in [
        (
            ("patient_famly", "text"),
            "",
            "connect.soap-no-column",
            "patient_famly",
        ),
        (
            ("urgent", "text"),
            "",
            "connect.soap-column-type",
            "xs:boolean",
        ),
        (("urgent", "int"), "", "connect.soap-column-type", "urgent"),
        (
            ("level.#text", "text"),
            "",
            "connect.soap-column-type",
            "xs:decimal",
        ),
        (
            ("patient.born", "time"),
            "",
            "connect.soap-column-type",
            "xs:date",
        ),
        (("tree", "text"), "", "connect.soap-column-type", "json"),
        (
            ("patient.family", "text"),
            "",
            "connect.soap-column-twice",
            "patient.family",
        ),
        (
            ("patient", "json"),
            "",
            "connect.soap-column-twice",
            "patient",
        ),
        (
            ("urgent", "bool"),
            "at",
            "connect.soap-column-missing",
            "at",
        ),
        (
            ("urgent", "bool"),
            "patient_family",
            "connect.soap-column-missing",
            "patient.family",
        ),
        // What an element needs that may be left out as a whole.
        (
            ("kin.family", "text"),
            "",
            "connect.soap-column-missing",
            "kin.@id",
        ),
    ] {
        let fault = checked(&[more], without).expect_err(word);
        let told = fault.error.to_string();
        assert_eq!(fault.error.code(), code, "{told}");
        assert_eq!(fault.error.class(), Class::Configuration);
        assert!(told.contains(word), "{told}");
        assert_eq!(fault.path.len(), 1);
    }
    // Days and numbers as Arrow has them.
    let days = Schema::new(vec![
        Field::new("at", DataType::Timestamp(TimeUnit::Second, None), true),
        Field::new("patient.@id", DataType::Int16, true),
        Field::new("patient.family", DataType::LargeUtf8, true),
        Field::new("patient.born", DataType::Date32, true),
        Field::new("level.#text", DataType::Float32, true),
    ]);
    assert!(admit.check_sent(&days).is_ok());
}

#[test]
fn what_is_wrong_with_a_step_is_said_at_its_place() {
    let connection = spec("soap: { wsdl: ward.wsdl }\n");
    for (step, code, word) in [
        (
            r#""method":"Admitt","send":"*""#,
            "connect.wsdl-operation",
            "Admitt",
        ),
        (
            r#""method":"Admit","body":"x""#,
            "connect.soap-columns",
            "send",
        ),
        (
            r#""method":"Admit","send":"*","action":"x""#,
            "connect.soap-action-known",
            "action",
        ),
        (r#""send":"*""#, "connect.soap-send-method", "method"),
        (
            r#""method":"Admit","send":"*","answer":{"bad":"int"}"#,
            "connect.soap-answer-path",
            "bad",
        ),
        (
            r#""method":"Admit","send":"*","answer":{"n":{"type":"text","path":"w:nurse[1]/familie"}}"#,
            "xml.path-prefix",
            "w",
        ),
        (
            r#""method":"Admit","send":"*","answer":{"n":{"type":"text","path":"nurse[1]/familie"}}"#,
            "connect.soap-answer-path",
            "familie",
        ),
        (
            r#""method":"Admit","send":"*","answer":{"n":{"type":"int","path":"level"}}"#,
            "connect.soap-answer-type",
            "xs:decimal",
        ),
        (
            r#""method":"Admit","send":"*","answer":{"n":{"type":"time","path":"nurse"}}"#,
            "connect.soap-answer-type",
            "nurse",
        ),
        (
            r#""method":"Note","send":"*","answer":{"a":"text"}"#,
            "connect.soap-one-way",
            "answer",
        ),
    ] {
        let step = format!(r#"{{"connection":"x",{step}}}"#);
        let fault = called(&connection, &step).err().expect(&step);
        let told = fault.error.to_string();
        assert_eq!(fault.error.code(), code, "{told}");
        assert!(told.contains(word), "{told}");
    }
    let near = called(&connection, &ADMIT.replace("Admit", "Admitt")).err();
    let help = near.and_then(|fault| fault.help).expect("a suggestion");
    assert!(help.to_string().contains("Admit"), "{help}");
}

#[test]
fn a_wsdl_that_does_not_do_is_refused_with_its_place() {
    let replaced = |from: &str, to: &str| {
        let text = FILES[0].1;
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    };
    let deep = format!("{}{}", "<a>".repeat(300), "</a>".repeat(300));
    for (wsdl, code, word) in [
        (
            replaced("style=\"document\"", "style=\"rpc\""),
            "connect.wsdl-rpc-parts",
            "PutRow",
        ),
        (
            replaced("style=\"document\"", "style=\"wrapped\""),
            "connect.wsdl-style",
            "wrapped",
        ),
        (
            replaced("use=\"literal\"", "use=\"encoded\""),
            "connect.wsdl-style",
            "encoded",
        ),
        (
            replaced(
                "<input><soap:body use=\"literal\"/>",
                "<input><soap:body use=\"literal\"/><soap:header message=\"t:PutRowIn\" part=\"session\" use=\"literal\"/>",
            ),
            "connect.wsdl-unknown",
            "session",
        ),
        (
            replaced(
                "<input><soap:body use=\"literal\"/>",
                "<input><soap:body use=\"literal\"/><soap:header message=\"t:PutRowIn\" part=\"row\" use=\"encoded\"/>",
            ),
            "connect.wsdl-style",
            "encoded",
        ),
        (
            replaced(
                "<input><soap:body use=\"literal\"/>",
                "<input><m:multipartRelated xmlns:m=\"http://schemas.xmlsoap.org/wsdl/mime/\"/>",
            ),
            "connect.wsdl-attachments",
            "PutRow",
        ),
        (
            replaced("element=\"t:PutRow\"", "type=\"xs:string\""),
            "connect.wsdl-parts",
            "PutRow",
        ),
        (
            replaced("element=\"t:PutRow\"", "element=\"t:Put\""),
            "connect.wsdl-unknown",
            "t:Put",
        ),
        (
            replaced("type=\"xs:long\"", "type=\"t:Long\""),
            "xsd.unknown",
            "t:Long",
        ),
        (
            replaced(
                "<types>",
                "<import namespace=\"urn:b\" location=\"http://127.0.0.1:1/b.wsdl\"/><types>",
            ),
            "connect.wsdl-outside",
            "http://127.0.0.1:1/b.wsdl",
        ),
        (
            replaced(
                "<xs:element name=\"PutRow\">",
                "<xs:import namespace=\"urn:b\" schemaLocation=\"http://127.0.0.1:1/b.xsd\"/><xs:element name=\"PutRow\">",
            ),
            "xsd.outside",
            "http://127.0.0.1:1/b.xsd",
        ),
        (
            replaced("<types>", "<import location=\"../rows.yaml\"/><types>"),
            "connect.wsdl-outside",
            "../rows.yaml",
        ),
        (
            replaced("<types>", "<import location=\"other.wsdl\"/><types>"),
            "connect.wsdl-file",
            "other.wsdl",
        ),
        (
            replaced("t:RowsBinding", "t:Binding"),
            "connect.wsdl-unknown",
            "t:Binding",
        ),
        (
            replaced(
                "transport=\"http://schemas.xmlsoap.org/soap/http\"",
                "transport=\"urn:jms\"",
            ),
            "connect.wsdl-no-port",
            "rows.wsdl",
        ),
        (
            replaced("<soap:address location=\"http://127.0.0.1:1/rows\"/>", ""),
            "connect.wsdl-address",
            "url",
        ),
        (
            "<description xmlns=\"http://www.w3.org/ns/wsdl\"/>".to_owned(),
            "connect.wsdl-two",
            "rows.wsdl",
        ),
        ("<html/>".to_owned(), "connect.wsdl-root", "rows.wsdl"),
        (
            "<definitions>".to_owned(),
            "connect.wsdl-document",
            "rows.wsdl",
        ),
        (
            format!("<!DOCTYPE a [<!ENTITY b 'c'>]>{}", FILES[0].1),
            "connect.wsdl-document",
            "rows.wsdl",
        ),
        (deep, "connect.wsdl-document", "rows.wsdl"),
    ] {
        let mut connection = spec("soap: { wsdl: rows.wsdl }\n");
        let files: BTreeMap<String, String> = [("rows.wsdl".to_owned(), wsdl)].into();
        connection.files = Arc::new(files);
        let step = r#"{"connection":"x","method":"PutRow","send":"*"}"#;
        let fault = called(&connection, step).err().expect(code);
        let told = fault.error.to_string();
        assert_eq!(fault.error.code(), code, "{told}");
        assert!(told.contains(word), "{told}");
        assert_eq!(fault.error.class(), Class::Configuration, "{told}");
    }
}

/// Sixty types, each with two elements of the next one: as many paths as no machine can count.
#[test]
fn a_schema_of_many_combinations_comes_to_an_end() {
    let types: String = (0..60)
        .map(|n| {
            format!(
                "<xs:complexType name=\"T{n}\"><xs:sequence><xs:element name=\"a\" type=\"t:T{0}\"/><xs:element name=\"b\" type=\"t:T{0}\" minOccurs=\"0\"/></xs:sequence></xs:complexType>",
                n + 1
            )
        })
        .collect();
    let whole = format!(
        "{types}<xs:complexType name=\"T60\"/><xs:element name=\"PutRow\" type=\"t:T0\"/><xs:element name=\"Other\">"
    );
    let text = FILES[0].1.replace("<xs:element name=\"PutRow\">", &whole);
    let mut connection = spec("soap: { wsdl: rows.wsdl }\n");
    connection.files = Arc::new([("rows.wsdl".to_owned(), text)].into());
    let step = r#"{"connection":"x","method":"PutRow","send":"*"}"#;
    let form = called(&connection, step).unwrap_or_else(|fault| panic!("{}", fault.error));
    let missing = form.check_sent(&Schema::empty()).is_err();
    assert!(missing || body(&*form, "{}").is_ok());
}

pub fn answer(status: u16, kind: &'static str, body: impl Into<Vec<u8>>) -> ServiceAnswer {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    ServiceAnswer {
        status,
        headers,
        body: body.into().into(),
    }
}

pub fn envelope(content: &str) -> String {
    format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>{content}</s:Body></s:Envelope>"
    )
}

#[test]
fn an_answer_is_read_by_its_types() {
    let admit = form(
        "soap: { wsdl: ward.wsdl }\n",
        r#"{"connection":"x","method":"Admit","send":"*","answer":{
            "bed":"int","ward":"text","free":"bool",
            "level":{"type":"float","path":"level"},"unit":{"type":"text","path":"level/@unit"},
            "nurses":{"type":"json","path":"nurse"},"first":{"type":"json","path":"nurse[1]/family"},
            "count":{"type":"int","path":"count(nurse)"}}}"#,
    );
    let whole = envelope(
        r#"<Admitted xmlns="urn:ward:types"><bed> 7 </bed><ward>007</ward><level unit="m">1.50</level><free>1</free><nurse id="1"><family>王</family><given xmlns="">1</given><born xsi:nil="1" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"/></nurse></Admitted>"#,
    );
    let read = |bytes: Vec<u8>, kind: &'static str| {
        let columns = admit.answer(answer(200, kind, bytes)).expect("an answer");
        let columns: serde_json::Value = serde_json::from_slice(&columns).expect("JSON");
        columns
    };
    let expected = serde_json::json!({
        "bed": 7, "ward": "007", "free": true, "level": 1.5, "unit": "m", "first": "王", "count": 1,
        "nurses": [{ "@id": 1, "family": "王", "given": "1", "born": null }],
    });
    assert_eq!(
        read(whole.clone().into_bytes(), "text/xml; charset=utf-8"),
        expected
    );
    // The media type says the encoding, not what the document says.
    let gb = [
        &b"<?xml version='1.0' encoding='utf-8'?>"[..],
        &gb18030(&whole),
    ]
    .concat();
    assert_eq!(read(gb, "text/xml; charset=\"GB18030\""), expected);
    // What may be left out is null.
    let least = envelope("<Admitted xmlns='urn:ward:types'><bed>1</bed></Admitted>");
    let nothing = serde_json::json!({
        "bed": 1, "ward": null, "free": null, "level": null, "unit": null, "first": null, "count": 0, "nurses": [],
    });
    assert_eq!(read(least.into_bytes(), "text/xml"), nothing);
}

/// The only character outside of ASCII in these tests is 王.
fn gb18030(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for c in text.chars() {
        match c {
            '王' => out.extend([0xcd, 0xf5]),
            c => out.push(u8::try_from(c).expect("ASCII")),
        }
    }
    out
}

#[test]
fn answers_that_are_not_as_the_wsdl_says_have_a_class() {
    let admit = form(
        "soap: { wsdl: ward.wsdl }\n",
        r#"{"connection":"x","method":"Admit","send":"*","answer":{"bed":"int"}}"#,
    );
    let plain = "text/xml";
    let whole = envelope("<Admitted xmlns='urn:ward:types'><bed>1</bed></Admitted>");
    for (given, class, code, word) in [
        (
            answer(
                200,
                plain,
                envelope("<Admitted xmlns='urn:ward'><bed>1</bed></Admitted>"),
            ),
            Class::Permanent,
            "connect.soap-other",
            "{urn:ward}Admitted",
        ),
        (
            answer(200, plain, envelope("")),
            Class::Permanent,
            "connect.soap-other",
            "{urn:ward:types}Admitted",
        ),
        (
            answer(200, plain, &whole.as_bytes()[..whole.len() / 2]),
            Class::Transient,
            "connect.soap-not-xml",
            "",
        ),
        (
            answer(200, "text/xml; charset=EBCDIC", whole.clone()),
            Class::Permanent,
            "connect.soap-encoding",
            "",
        ),
        (
            answer(
                200,
                "text/xml; charset=utf-8",
                envelope("<a>王</a>")
                    .replace('王', "\u{e9}")
                    .chars()
                    .map(|c| c as u8)
                    .collect::<Vec<u8>>(),
            ),
            Class::Permanent,
            "connect.soap-encoding",
            "",
        ),
        (
            answer(
                200,
                "multipart/related; type=\"application/xop+xml\"",
                whole.clone(),
            ),
            Class::Permanent,
            "connect.soap-attachments",
            "",
        ),
        (
            answer(500, plain, fault("s:Client.Unknown", "no such patient")),
            Class::Permanent,
            "connect.soap-fault",
            "no such patient",
        ),
        (
            answer(500, plain, fault("s:Server", "out of beds")),
            Class::Transient,
            "connect.soap-fault",
            "out of beds",
        ),
        (
            answer(
                500,
                plain,
                fault("wsse:FailedAuthentication", "who is that"),
            ),
            Class::Permanent,
            "connect.soap-login",
            "who is that",
        ),
        (
            answer(200, "text/html; charset=utf-8", "<p>Please log in</p>"),
            Class::Transient,
            "connect.soap-page",
            "proxy",
        ),
        (
            answer(503, "text/html", "<html>"),
            Class::Transient,
            "connect.http-refused",
            "503",
        ),
    ] {
        let told = format!("{given:?}");
        let error = admit.answer(given).expect_err(&told);
        assert_eq!((error.class(), error.code()), (class, code), "{told}");
        assert!(error.to_string().contains(word), "{error}");
    }
}

/// The text between two words of a request.
fn between<'t>(text: &'t str, from: &str, to: &str) -> &'t str {
    let after = text
        .split_once(from)
        .unwrap_or_else(|| panic!("{from}: {text}"))
        .1;
    after
        .split_once(to)
        .unwrap_or_else(|| panic!("{to}: {text}"))
        .0
}

#[test]
fn each_request_has_a_token_of_its_own_and_nobody_sees_the_password() {
    let web = Web::new();
    let text = format!(
        "soap: {{ url: 'http://127.0.0.1:{}', wsdl: rows.wsdl, user: {{ name: bus, password: 'open<sesame', digest: true }} }}\n",
        web.port
    );
    let connection = spec(&text);
    let registry = busbar_connect::registry();
    let connector = registry.get("soap").expect("it is registered");
    assert_eq!(connector.secrets(&connection).len(), 1);
    let runtime = Runtime::new().expect("a runtime");
    let context = service_context(std::path::Path::new("."));
    let service = runtime.block_on(connector.service(&connection, context));
    let service = service.expect("it opens");
    let form = form(&text, r#"{"connection":"x","method":"PutRow","send":"*"}"#);
    web.answer(|_| {
        Some((
            200,
            "",
            fault(
                "s:Client",
                "open&lt;sesame and open<!-- -->sesame open<sesame",
            ),
        ))
    });
    let mut nonces = Vec::new();
    for n in 0..2 {
        let request = form.request(CallParts {
            body: Some(format!("{{\"n\":{n}}}").into()),
            ..CallParts::default()
        });
        let request = request.expect("a request");
        let answered = runtime
            .block_on(service.exchange(&request))
            .expect("an answer");
        let said = String::from_utf8_lossy(&answered.body).into_owned();
        assert!(
            !said.contains("open<sesame") && !said.contains("open&lt;sesame"),
            "{said}"
        );
        let came = web.requests().remove(n).text();
        assert!(!came.contains("sesame"), "{came}");
        assert!(came.contains("<n>"), "{came}");
        assert_eq!(between(&came, "<wsse:Username>", "<"), "bus");
        let nonce = between(between(&came, "<wsse:Nonce", "/wsse"), ">", "<");
        let created = between(&came, "<wsu:Created>", "<");
        let mut digest = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
        digest.update(&BASE64.decode(nonce).expect("base64"));
        digest.update(created.as_bytes());
        digest.update(b"open<sesame");
        let sent = between(&came, "#PasswordDigest\">", "<");
        assert_eq!(sent, BASE64.encode(digest.finish()));
        nonces.push(nonce.to_owned());
    }
    assert_ne!(nonces[0], nonces[1]);
}
