//! Web services: a flow by request and reply that is called with SOAP.

use serde_json::json;

use crate::access::{as_user, basic, with_admin};
use crate::support::{Answer, World};

const ONE: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const TWO: &str = "http://www.w3.org/2003/05/soap-envelope";

/// Flows that double a number, whose replies are JSON, XML, and not what the service says.
const FILES: &[(&str, &str)] = &[
    (
        "streams/asked.yaml",
        "topics: double/ask\nformat: json\nschema: { n: int, note: text, more: json, at: time, wet: bool, share: float }\n",
    ),
    ("streams/told.yaml", "topics: double/told\n"),
    (
        "flows/double.yaml",
        "from: asked\nsteps:\n- select: n * 2 as twice, note, more\nto:\n- topic: double/told\n",
    ),
    (
        "streams/asked-xml.yaml",
        "topics: xml/ask\nformat: json\nschema: { n: int }\n",
    ),
    ("streams/told-xml.yaml", "topics: xml/told\n"),
    (
        "flows/xml.yaml",
        "from: asked-xml\nsteps:\n- select: n * 2 as twice\n- xml: { root: r, columns: { twice: deep.twice } }\n\
         to:\n- topic: xml/told\n",
    ),
    (
        "apis/double.yaml",
        "description: Doubles <numbers>.\n\
         parameters: { n: { type: int, required: true }, note: text, more: json, at: time, wet: bool, share: float }\n\
         request: { topic: double/ask, reply: told }\nwithin: 5min\n\
         soap:\n  answer: { twice: { type: int, required: true }, note: text, more: json }\n",
    ),
    (
        "apis/in-xml.yaml",
        "parameters: { n: int }\nrequest: { topic: xml/ask, reply: told-xml }\nwithin: 5min\n\
         soap: { operation: Twice, namespace: 'urn:x?a=1&b', address: 'https://bus.example/x',\n\
         \x20 answer: { twice: { type: int, path: deep.twice } } }\n",
    ),
    (
        "apis/unfit.yaml",
        "parameters: { n: int }\nrequest: { topic: double/ask, reply: told }\nwithin: 5min\n\
         soap: { answer: { twice: bool } }\n",
    ),
    (
        "apis/silent.yaml",
        "parameters: { n: int }\nrequest: { topic: silent/ask, reply: told }\nwithin: 200ms\n\
         soap: { answer: { twice: int } }\n",
    ),
    (
        "apis/parts.yaml",
        "parameters: { n: { type: int, required: true }, note: { type: text, required: true }, wet: bool }\n\
         request: { topic: double/ask, reply: told }\nwithin: 5min\n\
         soap: { style: rpc, operation: Parts, headers: [wet],\n\
         \x20 answer: { twice: { type: int, required: true }, note: { type: text, required: true } } }\n",
    ),
    (
        "apis/plain.yaml",
        "parameters: { n: int }\nrequest: { topic: double/ask, reply: told }\n",
    ),
];

fn envelope(namespace: &str, body: &str) -> String {
    format!("<e:Envelope xmlns:e=\"{namespace}\"><e:Header/><e:Body>{body}</e:Body></e:Envelope>")
}

fn double(inner: &str) -> String {
    format!("<double xmlns=\"urn:busbar:double\">{inner}</double>")
}

fn call(world: &World, name: &str, message: &str) -> Answer {
    let kind = match message.contains(TWO) {
        true => "application/soap+xml",
        false => "text/xml; charset=utf-8",
    };
    world.post_text(&format!("/services/{name}"), kind, message)
}

/// What stands between two tags.
fn within<'a>(answer: &'a Answer, name: &str) -> &'a str {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let inner = answer
        .body
        .split_once(&open)
        .and_then(|(_, rest)| rest.split_once(&close));
    inner.unwrap_or_else(|| panic!("no {name}: {answer:?}")).0
}

#[test]
fn a_flow_answers_in_both_versions() {
    let world = World::new(FILES);
    for (namespace, kind, share) in [(ONE, "text/xml", "25"), (TWO, "application/soap+xml", "35")] {
        let inner = format!(
            "<n> -4 </n><note> a &lt;b&gt; </note><more><x>1</x></more><more>2</more>\
             <at>2026-03-01T08:00:00+08:00</at><wet>1</wet><share>{share}e-1</share>"
        );
        let answer = call(&world, "double", &envelope(namespace, &double(&inner)));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(
            answer.headers["content-type"],
            format!("{kind}; charset=utf-8")
        );
        let told = "<soap:Body><doubleResponse xmlns=\"urn:busbar:double\"><twice>-8</twice>\
             <note> a &lt;b&gt; </note><more><x>1</x></more><more>2</more></doubleResponse></soap:Body>";
        assert!(answer.body.contains(told), "{answer:?}");
        assert!(answer.body.contains(namespace), "{answer:?}");
        let columns = "n, note, more, cast(at as text), wet";
        let asked = world.sql(&format!(
            "select {columns} from asked where share = {share} / 10.0"
        ));
        let note = json!([[-4, " a <b> ", "[{\"x\":1},2]", "2026-03-01T00:00:00Z", true]]);
        assert_eq!(asked, note);
    }
    // What is nil, left out or empty.
    let nil = "<n>1</n><note/><e:more xmlns:e=\"urn:busbar:double\" xmlns:i=\"http://www.w3.org/2001/XMLSchema-instance\" i:nil=\"true\"/>";
    let answer = call(&world, "double", &envelope(ONE, &double(nil)));
    let told = "<twice>2</twice><note/></doubleResponse>";
    assert!(answer.body.contains(told), "{answer:?}");
    // A reply in XML, under names that the file gives.
    let body = "<Twice xmlns=\"urn:x?a=1&amp;b\"><n>3</n></Twice>";
    let answer = call(&world, "in-xml", &envelope(TWO, body));
    let told = "<TwiceResponse xmlns=\"urn:x?a=1&amp;b\"><twice>6</twice></TwiceResponse>";
    assert!(answer.body.contains(told), "{answer:?}");
    // Bytes in the encoding that the media type says.
    let message = envelope(ONE, &double("<n>1</n><note>水位</note>"));
    let utf16: Vec<u8> = message.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let kind = ("content-type", "text/xml; charset=\"utf-16le\"");
    let answer = world.request("POST", "/services/double", &[kind], &utf16);
    assert_eq!(within(&answer, "note"), "水位");
    let list = world.get_json("/api/v1/apis");
    let counts = list["apis"]
        .as_array()
        .unwrap()
        .iter()
        .find(|api| api["name"] == "double");
    assert_eq!(counts.unwrap()["answered_total"], 4);
    assert_eq!(counts.unwrap()["service"], "/services/double");
}

#[test]
fn what_does_not_fit_is_a_fault_of_the_caller() {
    let world = World::new(FILES);
    let of = |inner: &str| envelope(ONE, &double(inner));
    let headed = |header: &str| {
        let body = double("<n>1</n>");
        format!(
            "<e:Envelope xmlns:e=\"{ONE}\"><e:Header>{header}</e:Header><e:Body>{body}</e:Body></e:Envelope>"
        )
    };
    let deep = format!("{}{}", "<a>".repeat(300), "</a>".repeat(300));
    for (message, code) in [
        (of(""), "server.api-parameter-missing"),
        (of("<n/>"), "server.api-parameter"),
        (of("<n>1.5</n>"), "server.api-parameter"),
        (of("<n>9223372036854775808</n>"), "server.api-parameter"),
        (of("<n>1<b/></n>"), "server.api-parameter"),
        (of("<n>1</n><share>INF</share>"), "server.api-parameter"),
        (
            of("<n>1</n><at>2026-03-01T08:00:00</at>"),
            "server.api-parameter",
        ),
        (of("<n>1</n><n>2</n>"), "server.api-parameter-twice"),
        (of("<m>1</m>"), "server.api-parameter-unknown"),
        (
            of("<n xmlns='urn:other'>1</n>"),
            "server.api-parameter-unknown",
        ),
        (envelope(ONE, ""), "server.soap-body"),
        (
            envelope(ONE, "<double><n>1</n></double>"),
            "server.soap-body",
        ),
        (
            envelope(ONE, &double("<n>1</n>").repeat(2)),
            "server.soap-body",
        ),
        (of("<n>1</m>"), "xml.end-tag"),
        (of(&deep), "xml.deep"),
        (
            format!("<!DOCTYPE a [<!ENTITY b 'c'>]>{}", of("<n>1</n>")),
            "xml.document-type",
        ),
        (of("<n>&b;</n>"), "xml.entity"),
        (String::new(), "xml.root"),
    ] {
        let answer = call(&world, "double", &message);
        assert_eq!(
            (answer.status, within(&answer, "code")),
            (500, code),
            "{message}"
        );
        assert_eq!(within(&answer, "faultcode"), "soap:Client", "{message}");
    }
    let answer = call(&world, "double", &envelope(TWO, &double("<n>x</n>")));
    assert_eq!(
        (answer.status, within(&answer, "soap:Value")),
        (400, "soap:Sender")
    );
    let chinese = "<soap:Text xml:lang=\"zh\">参数 n 的类型应为 int</soap:Text>";
    assert!(answer.body.contains(chinese), "{answer:?}");
    let security = "<s:Security xmlns:s='urn:s' e:mustUnderstand='1'/>";
    for (message, code) in [
        (headed(security), "soap:MustUnderstand"),
        (
            envelope("urn:other", &double("<n>1</n>")),
            "soap:VersionMismatch",
        ),
        (double("<n>1</n>"), "soap:VersionMismatch"),
    ] {
        let answer = call(&world, "double", &message);
        assert_eq!(
            (answer.status, within(&answer, "faultcode")),
            (500, code),
            "{answer:?}"
        );
        assert!(!answer.body.contains("<detail>"), "{answer:?}");
    }
    // In the newer version a header of the answer says which one it was.
    let two = headed(security).replace(ONE, TWO);
    let answer = call(&world, "double", &two);
    assert_eq!(within(&answer, "soap:Value"), "soap:MustUnderstand");
    let named = "<soap:Header><soap:NotUnderstood xmlns:not=\"urn:s\" qname=\"not:Security\"/></soap:Header><soap:Body>";
    assert!(answer.body.contains(named), "{answer:?}");
    // Headers that others shall understand, or that need not be understood, are passed over.
    let other =
        "<s:a xmlns:s='urn:s' e:mustUnderstand='1' e:actor='urn:other'/><s:b xmlns:s='urn:s'/>";
    assert_eq!(
        within(&call(&world, "double", &headed(other)), "twice"),
        "2"
    );
    let attached = world.post_text("/services/double", "multipart/related; boundary=x", "--x--");
    assert_eq!(within(&attached, "code"), "server.soap-content-type");
    let none = call(&world, "plain", &of("<n>1</n>"));
    assert_eq!(
        (none.status, &*none.code()),
        (404, "server.unknown-service")
    );
    let put = world.request("PUT", "/services/double", &[], b"");
    assert_eq!((put.status, &*put.headers["allow"]), (405, "GET, POST"));
    assert_eq!(world.sql("select count(*) from asked"), json!([[1]]));
}

#[test]
fn parts_have_types_and_parameters_stand_in_the_header() {
    let world = World::new(FILES);
    let wsdl = world.get("/services/parts?wsdl").body;
    for part in [
        "<soap12:binding style=\"rpc\"",
        "<wsdl:part name=\"n\" type=\"xs:long\"/>",
        "<soap:header message=\"tns:PartsHeader\" part=\"wet\" use=\"literal\"/><soap:body use=\"literal\" namespace=\"urn:busbar:parts\"/>",
        "<wsdl:part name=\"wet\" element=\"tns:wet\"/>",
        "<xs:element name=\"wet\" type=\"xs:boolean\" nillable=\"true\"/>",
    ] {
        assert!(wsdl.contains(part), "{part}: {wsdl}");
    }
    let message = |version: &str, header: &str, body: &str| {
        format!(
            "<e:Envelope xmlns:e=\"{version}\" xmlns:p=\"urn:busbar:parts\"><e:Header>{header}</e:Header><e:Body><p:Parts>{body}</p:Parts></e:Body></e:Envelope>"
        )
    };
    // It must be understood, and is.
    let wet = "<p:wet e:mustUnderstand=\"1\">true</p:wet>";
    for version in [ONE, TWO] {
        let answer = call(&world, "parts", &message(version, wet, "<n>4</n><note/>"));
        let told = "<rpc:PartsResponse xmlns:rpc=\"urn:busbar:parts\"><twice>8</twice><note/></rpc:PartsResponse>";
        assert!(answer.body.contains(told), "{answer:?}");
    }
    let asked = world.sql("select n, note, wet from asked");
    assert_eq!(asked, json!([[4, "", true], [4, "", true]]));
    for (header, body, code) in [
        (
            "<p:wet>perhaps</p:wet>",
            "<n>4</n><note/>",
            "server.api-parameter",
        ),
        (
            &*wet.repeat(2),
            "<n>4</n><note/>",
            "server.api-parameter-twice",
        ),
        (
            "",
            "<n>4</n><note/><wet>true</wet>",
            "server.api-parameter-unknown",
        ),
        ("", "<n>4</n>", "server.api-parameter-missing"),
    ] {
        let answer = call(&world, "parts", &message(ONE, header, body));
        assert_eq!(within(&answer, "code"), code, "{answer:?}");
    }
    // One of another namespace is not that of the service.
    let other = "<wet xmlns=\"urn:other\" e:mustUnderstand=\"1\">true</wet>";
    let answer = call(&world, "parts", &message(ONE, other, "<n>4</n><note/>"));
    assert_eq!(within(&answer, "faultcode"), "soap:MustUnderstand");
}

#[test]
fn what_cannot_be_answered_is_a_fault_of_the_service() {
    let world = World::new(FILES);
    let late = call(
        &world,
        "silent",
        &envelope(TWO, "<silent xmlns=\"urn:busbar:silent\"><n>7</n></silent>"),
    );
    assert_eq!(
        (late.status, within(&late, "code")),
        (500, "server.soap-late")
    );
    assert_eq!(within(&late, "soap:Value"), "soap:Receiver");
    let stored = world.sql("select tags['busbar-request'] from inbox where topic = 'silent/ask'");
    assert_eq!(stored, json!([[within(&late, "request")]]));
    let unfit = call(
        &world,
        "unfit",
        &envelope(ONE, "<unfit xmlns=\"urn:busbar:unfit\"><n>7</n></unfit>"),
    );
    assert_eq!(
        (unfit.status, within(&unfit, "code")),
        (500, "server.soap-reply")
    );
    assert_eq!(within(&unfit, "faultcode"), "soap:Server");
    assert!(within(&unfit, "message").contains("twice"), "{unfit:?}");
    let list = world.get_json("/api/v1/apis");
    let count = |name: &str, key: &str| {
        let api = list["apis"]
            .as_array()
            .unwrap()
            .iter()
            .find(|api| api["name"] == name);
        api.unwrap()[key].clone()
    };
    assert_eq!(
        (
            count("silent", "late_total"),
            count("unfit", "failed_total")
        ),
        (json!(1), json!(1))
    );
}

#[test]
fn who_may_call_an_api_may_call_its_service() {
    let (world, ann) = with_admin(FILES);
    let add = |name: &str, rules: serde_json::Value| {
        let new =
            json!({"name": name, "password": "a-good-password", "role": "device", "rules": rules});
        assert_eq!(
            as_user(&world, "POST", "/api/v1/users", &ann, &new).status,
            201
        );
        basic(name, "a-good-password")
    };
    let partner = add("partner", json!({"call": ["api:double"]}));
    let other = add("other", json!({"call": ["api:plain"]}));
    let message = envelope(ONE, &double("<n>1</n>"));
    let call = |who: &str| {
        let headers = [("authorization", who), ("content-type", "text/xml")];
        let posted = world.request("POST", "/services/double", &headers, message.as_bytes());
        let wsdl = world.request("GET", "/services/double?wsdl", &headers[..1], b"");
        (posted.status, wsdl.status)
    };
    assert_eq!((call(&partner), call(&other)), ((200, 200), (403, 403)));
    // Nothing below /services is open without a login.
    for path in [
        "/services/double?wsdl",
        "/services/none",
        "/services/double/other",
    ] {
        let refused = world.get(path);
        assert_eq!(
            (refused.status, &*refused.code()),
            (401, "access.login-needed"),
            "{path}"
        );
    }
}

#[test]
fn the_wsdl_says_types_and_where_the_service_is() {
    let world = World::new(FILES);
    let wsdl = world.get("/services/double?wsdl");
    assert_eq!(&*wsdl.headers["content-type"], "text/xml; charset=utf-8");
    for part in [
        "<xs:element name=\"n\" type=\"xs:long\"/>",
        "<xs:element name=\"at\" type=\"xs:dateTime\" minOccurs=\"0\" nillable=\"true\"/>",
        "<xs:element name=\"more\" type=\"xs:anyType\" minOccurs=\"0\" nillable=\"true\" maxOccurs=\"unbounded\"/>",
        "Doubles &lt;numbers&gt;.",
        &format!(
            "<soap12:address location=\"http://{}/services/double\"/>",
            world.http
        ),
    ] {
        assert!(wsdl.body.contains(part), "{part}: {}", wsdl.body);
    }
    let wsdl = world.get("/services/in-xml?wsdl").body;
    for part in [
        "targetNamespace=\"urn:x?a=1&amp;b\"",
        "<soap:address location=\"https://bus.example/x\"/>",
        "<wsdl:operation name=\"Twice\">",
    ] {
        assert!(wsdl.contains(part), "{part}: {wsdl}");
    }
}

#[test]
fn a_service_that_cannot_work_is_refused_with_its_place() {
    let world = World::new(FILES);
    let ask = "request: { topic: silent/ask, reply: told }\nsoap:";
    for (path, file, code) in [
        (
            "apis/w.yaml",
            "query: select 1\nsoap: { answer: { a: int } }\n".to_owned(),
            "catalog.api-key",
        ),
        (
            "apis/w.yaml",
            format!("{ask} {{ answer: {{}} }}\n"),
            "catalog.api-answer",
        ),
        (
            "apis/w.yaml",
            format!("{ask} {{ answer: {{ a b: int }} }}\n"),
            "event.xml-name",
        ),
        (
            "apis/w.yaml",
            format!("{ask} {{ answer: {{ a: int }}, operation: a.b }}\n"),
            "catalog.api-operation",
        ),
        (
            "apis/w.yaml",
            format!("{ask} {{ answer: {{ a: int }}, namespace: a b }}\n"),
            "catalog.api-namespace",
        ),
        (
            "apis/w.yaml",
            format!("{ask} {{ answer: {{ a: int }}, style: rpc }}\n"),
            "catalog.api-rpc-required",
        ),
        (
            "apis/w.yaml",
            format!("{ask} {{ answer: {{ a: {{ type: json, required: true }} }}, style: rpc }}\n"),
            "catalog.api-soap-json",
        ),
        (
            "apis/w.yaml",
            format!("{ask} {{ answer: {{ a: int }}, headers: [b] }}\n"),
            "catalog.api-no-parameter",
        ),
        (
            "apis/w.yaml",
            format!("parameters: {{ b: json }}\n{ask} {{ answer: {{ a: int }}, headers: [b] }}\n"),
            "catalog.api-soap-json",
        ),
        (
            "apis/w.yaml",
            format!(
                "parameters: {{ b: int }}\n{ask} {{ answer: {{ a: int }}, headers: [b], operation: b }}\n"
            ),
            "catalog.api-header-name",
        ),
        (
            "apis/w.yaml",
            format!("{ask} {{ answer: {{ a: int }}, address: 'ftp://a' }}\n"),
            "catalog.api-address",
        ),
    ] {
        let mut files: serde_json::Map<String, serde_json::Value> = FILES
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).into()))
            .collect();
        files.insert(path.to_owned(), file.clone().into());
        let answer = world.post("/api/v1/apply", &json!({"files": files, "dry_run": true}));
        assert_eq!(answer.status, 422, "{file}: {answer:?}");
        let found = &answer.json()["diagnostics"][0];
        assert_eq!(
            (&found["file"], &found["code"]),
            (&json!(path), &json!(code)),
            "{file}"
        );
    }
}

#[test]
fn a_flow_says_that_it_refuses_a_request() {
    let world = World::new(&[
        (
            "streams/asked.yaml",
            "topics: judge/ask\nformat: json\nschema: { n: int }\n",
        ),
        ("streams/told.yaml", "topics: judge/told\n"),
        (
            "flows/judge.yaml",
            "from: asked\nsteps:\n- select: >\n    n, case when n < 0 then 404 when n = 0 then 503 when n > 9 then 42 end as code,\n    case when n < 0 then 'no <such> number' end as why\nto:\n- topic: judge/told\n",
        ),
        (
            "apis/judge.yaml",
            "parameters: { n: int }\nrequest: { topic: judge/ask, reply: told, status: code, reason: why }\nwithin: 5min\n\
             soap: { answer: { n: int } }\n",
        ),
    ]);
    let asked = |n: i64| {
        let body = format!("<judge xmlns=\"urn:busbar:judge\"><n>{n}</n></judge>");
        let plain = world.post_text("/apis/judge", "application/json", &format!("{{\"n\":{n}}}"));
        let both = [ONE, TWO].map(|version| call(&world, "judge", &envelope(version, &body)));
        (plain, both)
    };
    let (plain, both) = asked(3);
    assert_eq!((plain.status, plain.body.contains("\"n\":3")), (200, true));
    assert!(
        both.iter().all(|answer| within(answer, "n") == "3"),
        "{both:?}"
    );
    // What it says is the text of the fault, in the words of both versions.
    let (plain, [one, two]) = asked(-1);
    assert_eq!((plain.status, plain.body.contains("<such>")), (404, true));
    assert_eq!((one.status, two.status), (500, 400));
    assert_eq!(within(&one, "faultcode"), "soap:Client");
    assert_eq!(within(&two, "soap:Value"), "soap:Sender");
    for answer in [&one, &two] {
        assert_eq!(within(answer, "code"), "server.soap-refused");
        assert_eq!(within(answer, "message"), "no &lt;such&gt; number");
    }
    let (plain, [one, two]) = asked(0);
    assert_eq!((plain.status, one.status, two.status), (503, 500, 500));
    assert_eq!(within(&one, "faultcode"), "soap:Server");
    assert!(within(&two, "message").contains("503"), "{two:?}");
    // What is no status is no answer.
    let (plain, [one, _]) = asked(10);
    assert_eq!(
        (plain.status, plain.code()),
        (500, "server.api-status".into()),
        "{plain:?}"
    );
    assert_eq!(within(&one, "code"), "server.soap-reply");
}
