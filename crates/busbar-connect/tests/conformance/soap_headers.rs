//! Parts and headers of operations, and what faults may repeat.

use arrow::datatypes::{Field, Schema};
use busbar_connector::CallParts;
use busbar_event::{Class, Error};
use tokio::runtime::Runtime;

use crate::peers::Web;
use crate::service_context;
use crate::soap::{answer, body, column, envelope, form};
use crate::soap_subject::fault;
use crate::world::spec;

#[test]
fn parts_of_rpc_and_elements_of_the_header_are_columns() {
    let put = form(
        "soap: { wsdl: desk.wsdl }\n",
        r#"{"connection":"x","method":"Put","send":"*","answer":{"bed":"int","nurse":{"type":"text","path":"nurse/family"},"id":{"type":"int","path":"nurse/@id"}}}"#,
    );
    let written = body(&*put, r#"{"n":7,"patient_id":1,"patient.family":"Li"}"#);
    assert_eq!(
        written.expect("a message"),
        r#"<Put xmlns="urn:desk:in"><n xmlns="">7</n><patient xmlns="" id="1"><family xmlns="urn:desk:types">Li</family></patient></Put>"#
    );
    let told = |namespace: &str| {
        let content = format!(
            "<r:PutResponse xmlns:r='{namespace}'><bed>7</bed><nurse id='2'><family xmlns='urn:desk:types'>Wu</family></nurse></r:PutResponse>"
        );
        put.answer(answer(200, "text/xml", envelope(&content)))
    };
    assert_eq!(
        told("urn:desk:out").expect("columns"),
        r#"{"bed":7,"nurse":"Wu","id":2}"#
    );
    let other = told("urn:desk:in").expect_err("another element");
    assert_eq!(other.code(), "connect.soap-other");
    let missing = put.check_sent(&Schema::new(vec![column("n", "int")]));
    assert_eq!(
        missing.expect_err("no patient").error.code(),
        "connect.soap-column-missing"
    );

    let ask = form(
        "soap: { wsdl: desk.wsdl }\n",
        r#"{"connection":"x","method":"Ask","send":"*"}"#,
    );
    let whole = |row: &str| {
        let request = ask.request(CallParts {
            body: Some(row.as_bytes().to_vec().into()),
            ..CallParts::default()
        })?;
        let text = String::from_utf8(request.body.to_vec()).expect("UTF-8");
        let begin = text.find("envelope/\">").expect("an envelope") + 11;
        Ok::<String, Error>(text[begin..].to_owned())
    };
    let rest =
        r#"<soap:Body><Ask xmlns="urn:desk:types"><n>1</n></Ask></soap:Body></soap:Envelope>"#;
    let headed = r#"{"n":1,"header.Session.@id":5,"header_Session_user":"<w>","header.Trace":"t"}"#;
    let session = r#"<Session xmlns="urn:desk:types" id="5"><user>&lt;w&gt;</user></Session>"#;
    let trace = r#"<Trace xmlns="urn:desk:types">t</Trace>"#;
    for (row, header) in [
        (
            headed,
            format!("<soap:Header>{session}{trace}</soap:Header>"),
        ),
        // A header of which nothing is known is left out.
        (
            r#"{"n":1,"header.Session.@id":null,"header.Session.user":null}"#,
            String::new(),
        ),
        (r#"{"n":1}"#, String::new()),
    ] {
        assert_eq!(whole(row).expect(row), format!("{header}{rest}"));
    }
    let half = whole(r#"{"n":1,"header.Session.@id":5}"#).expect_err("no user");
    assert_eq!(
        (half.class(), half.code()),
        (Class::Permanent, "connect.soap-value-missing")
    );
    for (columns, code) in [
        (
            &[("header.Session.@id", "int")][..],
            "connect.soap-column-missing",
        ),
        (
            &[
                ("header.Session.@id", "text"),
                ("header.Session.user", "text"),
            ],
            "connect.soap-column-type",
        ),
        (&[("header.Session.@ids", "int")], "connect.soap-no-column"),
        (&[("header.Sessions", "int")], "connect.soap-no-column"),
    ] {
        let columns = columns.iter().chain(&[("n", "int")]);
        let columns: Vec<Field> = columns.map(|(name, kind)| column(name, kind)).collect();
        let fault = ask.check_sent(&Schema::new(columns)).expect_err(code);
        assert_eq!(fault.error.code(), code);
    }
    // The token of the user stands beside them.
    let web = Web::new();
    let text = format!(
        "soap: {{ url: 'http://127.0.0.1:{}', wsdl: desk.wsdl, user: {{ name: bus, password: sesame }} }}\n",
        web.port
    );
    let registry = busbar_connect::registry();
    let connector = registry.get("soap").expect("it is registered");
    let runtime = Runtime::new().expect("a runtime");
    let context = service_context(std::path::Path::new("."));
    let service = runtime.block_on(connector.service(&spec(&text), context));
    let service = service.expect("it opens");
    web.answer(|_| Some((200, "", Vec::new())));
    for row in [headed, r#"{"n":1}"#] {
        let request = ask.request(CallParts {
            body: Some(row.as_bytes().to_vec().into()),
            ..CallParts::default()
        });
        let request = request.expect("a request");
        let sent = service.exchange(&request);
        runtime.block_on(sent).expect("an answer");
    }
    let came: Vec<String> = web.requests().iter().map(|one| one.text()).collect();
    assert!(
        came[0].contains(&format!("<soap:Header>{session}{trace}<wsse:Security ")),
        "{}",
        came[0]
    );
    for one in &came {
        assert_eq!(one.matches("<soap:Header>").count(), 1, "{one}");
        assert!(
            one.contains("</wsse:Security></soap:Header><soap:Body>"),
            "{one}"
        );
    }
}

#[test]
fn a_fault_repeats_no_password_in_any_encoding() {
    let web = Web::new();
    let text = format!(
        "soap: {{ url: 'http://127.0.0.1:{}', wsdl: rows.wsdl, user: {{ name: bus, password: 'open<sesame' }}, headers: {{ X-Key: 'token-0123' }} }}\n",
        web.port
    );
    let registry = busbar_connect::registry();
    let connector = registry.get("soap").expect("it is registered");
    let runtime = Runtime::new().expect("a runtime");
    let context = service_context(std::path::Path::new("."));
    let service = runtime.block_on(connector.service(&spec(&text), context));
    let service = service.expect("it opens");
    let form = form(&text, r#"{"connection":"x","method":"PutRow","send":"*"}"#);
    let request = form.request(CallParts {
        body: Some(r#"{"n":1}"#.into()),
        ..CallParts::default()
    });
    let request = request.expect("a request");
    let utf16 = |text: &str| {
        let units = std::iter::once(0xfeff).chain(text.encode_utf16());
        units.flat_map(u16::to_le_bytes).collect::<Vec<u8>>()
    };
    for (said, shown) in [
        ("nobody is 王", "nobody is 王"),
        ("not open&lt;sesame here", "not (hidden) here"),
        ("not open&#60;ses<!-- -->ame here", "(hidden)"),
        ("no token<![CDATA[-0123]]>", "(hidden)"),
    ] {
        for (status, is_wide) in [(200, false), (200, true), (500, false), (500, true)] {
            let whole = String::from_utf8(fault("s:Client.Who", said)).expect("UTF-8");
            let bytes = match is_wide {
                true => utf16(&whole),
                false => whole.into_bytes(),
            };
            web.answer(move |_| Some((status, "", bytes.clone())));
            let answered = runtime.block_on(service.exchange(&request));
            let answered = answered.expect("an answer");
            let error = form.answer(answered).expect_err("a fault");
            assert_eq!(error.code(), "connect.soap-fault", "{status} {is_wide}");
            let told = error.to_string();
            assert!(
                told.contains("s:Client.Who") && told.contains(shown),
                "{told}"
            );
            assert!(
                !told.contains("sesame") && !told.contains("-0123"),
                "{told}"
            );
        }
    }
}
