use super::*;
use crate::format::{FhirPath, FhirWriter, check_resource};

const PATIENT: &str = r#"{"resourceType":"Patient","id":"p1","meta":{"lastUpdated":"2026-03-01T08:00:00+08:00"},
    "identifier":[{"system":"urn:ssn","value":"998"},{"system":"urn:his","use":"usual","value":"12345"}],
    "active":true,"name":[{"family":"张","given":["三","\u4e09"]},{"use":"nickname","text":"\"Z\""}],
    "birthDate":"1980-03","multipleBirthInteger":2,"extension":[{"url":"http://a.b/c","valueDecimal":3.20}],
    "maritalStatus":{"text":null}}"#;

#[test]
fn paths_lead_to_typed_columns() {
    let spec = spec(
        r#"{"id":"text","resourceType":"text","pid":{"type":"int","path":"identifier(system=urn:his).value"},
            "usual":{"type":"text","path":"identifier(use=usual,system=urn:his).value"},
            "none":{"type":"text","path":"identifier(system=urn:x).value"},"active":"bool",
            "family":{"type":"text","path":"name.family"},"given":{"type":"text","path":"name[0].given[1]"},
            "nick":{"type":"text","path":"name[1].text"},"third":{"type":"text","path":"name[2].text"},
            "born":{"type":"time","path":"birthDate"},"at":{"type":"time","path":"meta.lastUpdated"},
            "birth":{"type":"float","path":"multipleBirthInteger"},"status":{"type":"text","path":"maritalStatus.text"},
            "exact":{"type":"text","path":"extension(url=http://a.b/c).valueDecimal"},
            "names":{"type":"json","path":"name[0].given"},"all":{"type":"json","path":"identifier[*].value"},
            "whole":{"type":"json","path":"name[1]"},"nobody":{"type":"json","path":"contact[*].name"}}"#,
    );
    let decoded = decode(&FormatSpec::Fhir, &spec, &payloads(&[PATIENT]));
    assert_eq!(causes(&decoded), []);
    assert_eq!(
        values(&decoded.columns),
        [json!({
            "id":"p1","resourceType":"Patient","pid":12345,"usual":"12345","active":true,"family":"张","given":"三",
            "nick":"\"Z\"","born":"1980-03-01T00:00:00.000000Z","at":"2026-03-01T00:00:00.000000Z","birth":2.0,
            "exact":"3.20","names":["三","三"],"all":["998","12345"],"whole":{"use":"nickname","text":"\"Z\""}
        })]
    );
}

#[test]
fn what_is_no_resource_is_rejected() {
    let spec =
        spec(r#"{"n":{"type":"int","path":"name.family"},"id":{"type":"text","required":true}}"#);
    let rows = [
        r#"{"resourceType":"Patient","id":"a"}"#,
        r#"{"resourceType":"Patient","id":"a","name":[{"family":"x"}]}"#,
        r#"{"resourceType":"Patient","id":"a","name":[{"family":{}}]}"#,
        r#"{"resourceType":"Patient"}"#,
        r#"{"id":"a"}"#,
        r#"{"resourceType":"Patient","id":"a""#,
        r#"{"resourceType":"Patient","id":"a"} x"#,
        r#"[{"resourceType":"Patient"}]"#,
    ];
    let decoded = decode(&FormatSpec::Fhir, &spec, &payloads(&rows));
    let codes: Vec<_> = decoded
        .rejected
        .iter()
        .map(|r| (r.row, r.cause.code()))
        .collect();
    assert_eq!(
        codes,
        [
            (1, "event.member-type"),
            (2, "event.member-type"),
            (3, "event.field-missing"),
            (4, "event.fhir-no-type"),
            (5, "event.json-syntax"),
            (6, "event.fhir-no-type"),
            (7, "event.fhir-no-type"),
        ]
    );
    assert_eq!(values(&decoded.columns), [json!({ "id": "a" })]);
}

#[test]
fn paths_are_read_as_they_are_written() {
    for path in [
        "id",
        "name[0].given[10]",
        "a(b=c,d=http://x.y/z).e",
        "a[*].b",
    ] {
        assert_eq!(FhirPath::parse(path).expect(path).to_string(), path);
    }
    let deep = ["a"; 65].join(".");
    for wrong in [
        "", ".", "a.", ".a", "a[", "a[x]", "a[-1]", "a[1000]", "a()", "a(b)", "a(=c)", "a(b=)",
        "a b", "a[0]b", "a(b=c", &deep,
    ] {
        assert!(FhirPath::parse(wrong).is_none(), "{wrong}");
    }
}

#[test]
fn values_become_a_resource() {
    let paths = [
        "id",
        "identifier(system=urn:his).value",
        "identifier(system=urn:his).use",
        "identifier(system=urn:ssn).value",
        "name[1].text",
        "name[0].family",
        "name[0].given[0]",
        "active",
        "maritalStatus.coding[0].code",
    ];
    let writer = FhirWriter::new("Patient", paths).unwrap();
    let all = [
        "\"a\"",
        "\"1\"",
        "\"usual\"",
        "\"2\"",
        "\"Z\"",
        "\"张\"",
        "\"三\"",
        "true",
        "\"M\"",
    ];
    let resource = writer.resource(all.iter().map(|value| Some(*value)));
    assert_eq!(
        String::from_utf8(resource.clone()).unwrap(),
        r#"{"resourceType":"Patient","id":"a","identifier":[{"system":"urn:his","value":"1","use":"usual"},{"system":"urn:ssn","value":"2"}],"name":[{"family":"张","given":["三"]},{"text":"Z"}],"active":true,"maritalStatus":{"coding":[{"code":"M"}]}}"#
    );
    check_resource(std::str::from_utf8(&resource).unwrap()).unwrap();
    // What has no value leaves nothing behind.
    let some = [
        None,
        None,
        None,
        Some("\"2\""),
        Some("\"Z\""),
        None,
        None,
        None,
        None,
    ];
    assert_eq!(
        String::from_utf8(writer.resource(some)).unwrap(),
        r#"{"resourceType":"Patient","identifier":[{"system":"urn:ssn","value":"2"}],"name":[{"text":"Z"}]}"#
    );
    assert_eq!(writer.resource([]), br#"{"resourceType":"Patient"}"#);
    for (paths, code) in [
        (["a", "a"], "event.fhir-path-clash"),
        (["a", "a.b"], "event.fhir-path-clash"),
        (["a.b", "a"], "event.fhir-path-clash"),
        (["a[0]", "a.b"], "event.fhir-path-clash"),
        (["a(b=c).b", "d"], "event.fhir-path-clash"),
        (["resourceType", "a"], "event.fhir-path-clash"),
        (["a[*]", "b"], "event.fhir-path-list"),
        (["a b", "b"], "event.fhir-path"),
    ] {
        assert_eq!(
            FhirWriter::new("Patient", paths).unwrap_err().code(),
            code,
            "{paths:?}"
        );
    }
}

#[test]
fn faults_of_form_have_their_place() {
    let head = check_resource(
        r#" {"id":"a-1.B","resourceType":"Patient","name":[{"given":["x",null],"_given":[null,{"id":"b"}]}]} "#,
    );
    let head = head.unwrap();
    assert_eq!(
        (&*head.resource_type, head.id.as_deref()),
        ("Patient", Some("a-1.B"))
    );
    let long = format!(r#"{{"resourceType":"Patient","{}":1}}"#, "n".repeat(200));
    for (text, path, code) in [
        ("{", "", "event.fhir-json"),
        ("{} {}", "", "event.fhir-json"),
        ("[]", "", "event.fhir-object"),
        ("{}", "", "event.fhir-no-type"),
        (
            r#"{"resourceType":"Patent"}"#,
            "",
            "event.fhir-unknown-type",
        ),
        (r#"{"resourceType":7}"#, "", "event.fhir-no-type"),
        (
            r#"{"resourceType":"Patient","id":7}"#,
            "Patient.id",
            "event.fhir-id",
        ),
        (
            r#"{"resourceType":"Patient","id":"a b"}"#,
            "Patient.id",
            "event.fhir-id",
        ),
        (
            r#"{"resourceType":"Patient","meta":[]}"#,
            "Patient.meta",
            "event.fhir-empty",
        ),
        (
            r#"{"resourceType":"Patient","meta":[1]}"#,
            "Patient.meta",
            "event.fhir-object",
        ),
        (
            r#"{"resourceType":"Patient","meta":{"versionId":1}}"#,
            "Patient.meta.versionId",
            "event.fhir-text",
        ),
        (
            r#"{"resourceType":"Patient","meta":{"lastUpdated":"2026"}}"#,
            "Patient.meta.lastUpdated",
            "event.fhir-instant",
        ),
        (
            r#"{"resourceType":"Patient","meta":{"profile":"x"}}"#,
            "Patient.meta.profile",
            "event.fhir-list-wanted",
        ),
        (
            r#"{"resourceType":"Patient","language":false}"#,
            "Patient.language",
            "event.fhir-text",
        ),
        (
            r#"{"resourceType":"Patient","text":{"div":1}}"#,
            "Patient.text.div",
            "event.fhir-text",
        ),
        (
            r#"{"resourceType":"Patient","contained":[{"resourceType":"Organization","id":"_"}]}"#,
            "Patient.contained[0].id",
            "event.fhir-id",
        ),
        (
            r#"{"resourceType":"Patient","extension":[{"url":"a"},{"valueCode":"b"}]}"#,
            "Patient.extension[1]",
            "event.fhir-extension-url",
        ),
        (
            r#"{"resourceType":"Patient","name":[{"family":null}]}"#,
            "Patient.name[0].family",
            "event.fhir-null",
        ),
        (
            r#"{"resourceType":"Patient","name":[{"family":""}]}"#,
            "Patient.name[0].family",
            "event.fhir-empty",
        ),
        (
            r#"{"resourceType":"Patient","name":[{}]}"#,
            "Patient.name[0]",
            "event.fhir-empty",
        ),
        (
            r#"{"resourceType":"Patient","name":[]}"#,
            "Patient.name",
            "event.fhir-empty",
        ),
        (
            r#"{"resourceType":"Patient","active":true,"active":true}"#,
            "Patient.active",
            "event.fhir-twice",
        ),
        (&long, "Patient", "event.fhir-name"),
    ] {
        let fault = check_resource(text).expect_err(text);
        assert_eq!((fault.path.as_str(), fault.code), (path, code), "{text}");
    }
}

proptest! {
    #[test]
    fn hostile_texts_are_refused_not_followed(text in r#"[\[\]{}",:\\ resourceTypPatnmd0-9]{0,60}"#, path in r#"[a-z\[\]()=,.*0-9]{0,20}"#) {
        let _ = check_resource(&text);
        if let Some(path) = FhirPath::parse(&path) {
            prop_assert_eq!(FhirPath::parse(&path.to_string()), Some(path.clone()));
            let _ = path.find(&text, true);
        }
    }
}
