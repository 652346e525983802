//! What `fhir` does beside what all sinks do, its calls and its surveys.

use std::path::Path;

use arrow::array::StringArray;
use busbar_catalog::CallSpec;
use busbar_connector::{CallForm, CallParts, Delivery, ServiceAnswer};
use busbar_event::Class;
use busbar_event::format::SchemaSpec;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::runtime::Runtime;

use crate::fhir_peer::FhirPeer;
use crate::postgres_sink::{ints, open, rows, texts, write};
use crate::sinks::delivery;
use crate::world::spec;

fn connection(peer: &FhirPeer, write: &str) -> String {
    format!("fhir: {{ url: '{}', write: {{ {write} }} }}\n", peer.url())
}

fn resources(position: u64, payloads: &[&str]) -> Delivery {
    delivery("t", payloads, position)
}

fn told(text: &str, delivery: &Delivery) -> Vec<(usize, String)> {
    Runtime::new().expect("a runtime").block_on(async {
        let mut sink = open(text, delivery).await.expect("it opens");
        let written = sink.write(delivery).await.expect("it is written");
        let rejected = written.rejected.into_iter();
        rejected
            .map(|(row, error)| (row, error.to_string()))
            .collect()
    })
}

#[test]
fn columns_become_a_resource() {
    let peer = FhirPeer::new();
    let text = connection(
        &peer,
        "type: Patient, id: 'p-${pid}', resource: { 'identifier(system=urn:his).value': pid, 'name[0].family': family, 'name[0].given[0]': given, active: active }",
    );
    let row = rows(
        1,
        vec![
            ("pid", texts(&["7", "8"])),
            (
                "family",
                Arc::new(StringArray::from(vec![Some("张"), None])),
            ),
            ("given", texts(&["三", ""])),
            (
                "active",
                Arc::new(arrow::array::BooleanArray::from(vec![true, false])),
            ),
        ],
    );
    assert_eq!(write(&text, &row).unwrap(), [0; 0]);
    let mut first = peer.resource("Patient/p-7").expect("a resource");
    first["meta"].take();
    assert_eq!(
        first,
        json!({ "resourceType": "Patient", "id": "p-7", "active": true, "meta": null, "name": [{ "family": "张", "given": ["三"] }],
            "identifier": [{ "system": "urn:his", "value": "7" }] })
    );
    let second = peer.resource("Patient/p-8").expect("a resource");
    assert_eq!(second.get("name"), None);
    assert_eq!(second["active"], false);
    assert_eq!(peer.bundles().len(), 1);
    let text = connection(
        &peer,
        "type: Patient, id: '${no}', resource: { active: active }",
    );
    let refused = write(&text, &row).expect_err("no such column");
    assert_eq!(
        (refused.class(), refused.code()),
        (Class::Configuration, "fhir.flow-column")
    );
}

/// Entries of one Bundle have no order among them.
#[test]
fn changes_of_one_resource_stay_in_order() {
    let peer = FhirPeer::new();
    let text = connection(
        &peer,
        "type: Patient, id: '${id}', change: change, resource: { language: v }",
    );
    let changes = rows(
        1,
        vec![
            (
                "change",
                texts(&[
                    "insert", "insert", "update", "delete", "update", "delete", "schema",
                    "truncate", "merge",
                ]),
            ),
            ("id", texts(&["a", "b", "a", "b", "a", "c", "d", "e", "f"])),
            ("v", texts(&["1", "1", "2", "", "3", "", "", "", ""])),
        ],
    );
    assert_eq!(write(&text, &changes).unwrap(), [7, 8]);
    assert_eq!(
        peer.resource("Patient/a").expect("a resource")["language"],
        "3"
    );
    assert_eq!(peer.resource("Patient/b"), None);
    let entries: Vec<_> = peer
        .bundles()
        .iter()
        .map(|b| b["entry"].as_array().expect("entries").len())
        .collect();
    assert_eq!(entries, [2, 2, 2]);
}

#[test]
fn a_condition_finds_the_resource() {
    let peer = FhirPeer::new();
    let by = |more: &str| {
        connection(
            &peer,
            &format!(
                "type: Patient, match: 'identifier=urn:his|${{pid}}', resource: {{ 'identifier[0].system': s, 'identifier[0].value': pid, language: v }}, {more}"
            ),
        )
    };
    let row = |position, pid: &str, v: &str| {
        rows(
            position,
            vec![
                ("pid", texts(&[pid])),
                ("s", texts(&["urn:his"])),
                ("v", texts(&[v])),
            ],
        )
    };
    assert_eq!(
        write(&by("mode: create"), &row(1, "a|b", "1")).unwrap(),
        [0; 0]
    );
    assert_eq!(
        write(&by("mode: create"), &row(2, "a|b", "2")).unwrap(),
        [0; 0]
    );
    let created: Vec<_> = peer
        .store
        .lock()
        .versions
        .iter()
        .map(|v| v.1.clone())
        .collect();
    assert_eq!(created.len(), 1, "it is there already");
    assert_eq!(
        write(&by("mode: update"), &row(3, "a|b", "3")).unwrap(),
        [0; 0]
    );
    assert_eq!(
        peer.resource(&created[0]).expect("a resource")["language"],
        "3"
    );
    let delete = connection(
        &peer,
        "type: Patient, match: 'identifier=urn:his|${pid}', mode: delete",
    );
    for position in 4..6 {
        assert_eq!(write(&delete, &row(position, "a|b", "")).unwrap(), [0; 0]);
    }
    assert_eq!(peer.resource(&created[0]), None);
    // Two are found.
    for id in ["x", "y"] {
        let two = json!({ "identifier": [{ "system": "urn:his", "value": "d" }] });
        peer.store.lock().put(&format!("Patient/{id}"), Some(two));
    }
    let refused = told(&by("mode: update"), &row(6, "d", "4"));
    assert!(
        refused[0].1.contains("several are found (Patient.name)"),
        "{refused:?}"
    );
}

/// The answer is lost on its way: the same rows come again, by the sink that sent them and by one that knows nothing of them.
#[test]
fn a_resource_is_created_once_although_the_answer_is_lost() {
    for bundle in ["batch", "transaction", "none"] {
        let peer = FhirPeer::new();
        peer.store.lock().lost = 1;
        let text = connection(
            &peer,
            &format!(
                "type: Patient, match: 'identifier=urn:his|${{pid}}', mode: create, bundle: {bundle}, \
                 resource: {{ 'identifier(system=urn:his).value': pid }}"
            ),
        );
        let two = rows(1, vec![("pid", texts(&["a", "b"]))]);
        Runtime::new().expect("a runtime").block_on(async {
            let mut sink = open(&text, &two).await.expect("it opens");
            let lost = sink.write(&two).await.expect_err("no answer");
            assert_eq!(lost.class(), Class::Transient, "{lost}");
            let written = sink.write(&two).await.expect("written");
            assert!(written.rejected.is_empty(), "{bundle}");
        });
        assert_eq!(write(&text, &two).unwrap(), [0; 0]);
        assert_eq!(peer.store.lock().versions.len(), 2, "{bundle}");
    }
}

#[test]
fn another_version_is_not_overwritten() {
    let peer = FhirPeer::new();
    peer.store
        .lock()
        .put("Patient/a", Some(json!({ "language": "1" })));
    for bundle in ["batch", "none"] {
        let text = connection(
            &peer,
            &format!(
                "type: Patient, id: '${{id}}', if_match: version, bundle: {bundle}, resource: {{ language: v }}"
            ),
        );
        let there = peer.store.lock().versions.len();
        let row = |position, version: String| {
            rows(
                position,
                vec![
                    ("id", texts(&["a"])),
                    ("version", texts(&[&version])),
                    ("v", texts(&["2"])),
                ],
            )
        };
        let newest = peer.resource("Patient/a").expect("a resource")["meta"]["versionId"].clone();
        let newest = newest.as_str().expect("a version").to_owned();
        let refused = told(&text, &row(1, format!("{newest}9")));
        assert!(
            refused[0].1.contains("another version is there"),
            "{refused:?}"
        );
        assert_eq!(
            peer.store.lock().versions.len(),
            there,
            "it was overwritten"
        );
        assert_eq!(told(&text, &row(2, newest)), []);
        assert_eq!(peer.store.lock().versions.len(), there + 1);
    }
}

#[test]
fn payloads_are_resources() {
    let peer = FhirPeer::new();
    let text = connection(&peer, "");
    let rows = resources(
        1,
        &[
            r#"{"resourceType":"Patient","id":"a","x":3.20}"#,
            r#"{"resourceType":"Patient"}"#,
            r#"{"resourceType":"Patient","id":"a b"}"#,
            r#"{"id":"a"}"#,
            "plain",
            r#"{"resourceType":"Nothing","id":"a"}"#,
            r#"{"resourceType":"Encounter","id":"e.1"}"#,
        ],
    );
    let refused = told(&text, &rows);
    let refused: Vec<_> = refused.iter().map(|(row, _)| *row).collect();
    assert_eq!(refused, [1, 2, 3, 4, 5]);
    assert!(peer.resource("Encounter/e.1").is_some());
    let sent = peer.web.requests();
    assert!(
        sent.iter()
            .any(|r| r.text().contains(r#""id":"a","x":3.20"#)),
        "digits are kept"
    );
    // New ones get their ids from the server.
    let text = connection(&peer, "mode: create, type: Patient, bundle: none");
    assert_eq!(
        told(
            &text,
            &resources(2, &[r#"{"resourceType":"Patient","id":"mine"}"#])
        ),
        []
    );
    assert!(peer.resource("Patient/mine").is_none());
    let other = told(&text, &resources(3, &[r#"{"resourceType":"Encounter"}"#]));
    assert_eq!(other.len(), 1);
}

#[test]
fn refused_entries_are_told_and_the_others_written() {
    for bundle in ["batch", "transaction", "none"] {
        let peer = FhirPeer::new();
        peer.store.lock().refused = Some("nobody");
        let ids: Vec<String> = (0..40).map(|n| format!("i{n}")).collect();
        let mut names = vec!["x"; 40];
        (names[5], names[33]) = ("nobody", "nobody");
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let delivery = rows(1, vec![("id", texts(&ids)), ("v", texts(&names))]);
        let text = connection(
            &peer,
            &format!("type: Patient, id: '${{id}}', bundle: {bundle}, resource: {{ language: v }}"),
        );
        let refused = told(&text, &delivery);
        assert_eq!(
            refused.iter().map(|(row, _)| *row).collect::<Vec<_>>(),
            [5, 33],
            "{bundle}"
        );
        assert!(
            refused[0].1.contains("as the test says (Patient.name)"),
            "{refused:?}"
        );
        let there = (0..40).filter(|n| peer.resource(&format!("Patient/i{n}")).is_some());
        assert_eq!(there.count(), 38, "{bundle}");
    }
}

#[test]
fn entries_refused_for_now_come_again() {
    let peer = FhirPeer::new();
    peer.store.lock().busy = Some(("slow", 1));
    let text = connection(
        &peer,
        "type: Patient, id: '${id}', resource: { language: v }",
    );
    let three = rows(
        1,
        vec![
            ("id", texts(&["a", "b", "a"])),
            ("v", texts(&["slow", "other", "last"])),
        ],
    );
    Runtime::new().expect("a runtime").block_on(async {
        let mut sink = open(&text, &three).await.expect("it opens");
        let failed = sink.write(&three).await.expect_err("one is refused");
        assert_eq!(
            (failed.class(), failed.code()),
            (Class::Transient, "fhir.for-now")
        );
        let written = sink.write(&three).await.expect("written");
        assert!(written.rejected.is_empty());
    });
    assert_eq!(
        peer.resource("Patient/a").expect("a resource")["language"],
        "last"
    );
    let there = peer.store.lock().versions.clone();
    let values = there.iter().filter(|version| version.1 == "Patient/a");
    let values: Vec<_> = values
        .map(|version| version.2.as_ref().expect("a resource")["language"].clone())
        .collect();
    assert_eq!(
        values,
        ["slow", "last"],
        "what was refused comes before what follows"
    );
    let others = peer
        .store
        .lock()
        .versions
        .iter()
        .filter(|v| v.1 == "Patient/b")
        .count();
    assert_eq!(others, 1, "what was written is not sent again");
}

#[test]
fn a_request_that_is_too_large_is_split() {
    let peer = FhirPeer::new();
    peer.store.lock().most = Some(900);
    let text = connection(
        &peer,
        "type: Patient, id: '${id}', resource: { language: v }",
    );
    let long = "x".repeat(1_000);
    let mut values = vec!["short"; 20];
    values[11] = &long;
    let ids: Vec<i64> = (0..20).collect();
    let delivery = rows(1, vec![("id", ints(&ids)), ("v", texts(&values))]);
    assert_eq!(write(&text, &delivery).unwrap(), [11]);
    assert_eq!(peer.store.lock().versions.len(), 19);
}

#[test]
fn a_call_reads_columns_by_their_paths() {
    let spec = spec("fhir: { url: 'http://a/fhir' }\n");
    let registry = busbar_connect::registry();
    let connector = registry.get("fhir").expect("registered");
    let form = |step: &str| -> Result<Arc<dyn CallForm>, &'static str> {
        let call: CallSpec = serde_json::from_str(step).expect("a step");
        connector
            .call_form(&spec, &call)
            .map_err(|fault| fault.error.code())
    };
    let step = r#"{"connection":"a","path":"Patient?identifier=x","answer":{
        "id":{"type":"text","path":"entry[0].resource.id"},"family":{"type":"text","path":"entry[0].resource.name(use=official).family"},
        "all":{"type":"json","path":"entry[*].resource.id"},"total":"int","none":{"type":"text","path":"link[3].url"}}}"#;
    let form_ = form(step).expect("it fits");
    let request = form_.request(CallParts {
        path: "Patient?identifier=x".into(),
        ..CallParts::default()
    });
    let request = request.expect("a request");
    let header = |name: &str| {
        request
            .headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, v)| v.as_str())
    };
    assert_eq!(
        (request.method.as_str(), header("accept")),
        ("GET", Some("application/fhir+json"))
    );
    let answer = |status, body: &str| {
        form_.answer(ServiceAnswer {
            status,
            body: body.to_owned().into(),
            ..ServiceAnswer::default()
        })
    };
    let found = r#"{"resourceType":"Bundle","total":2,"entry":[{"resource":{"id":"p1","name":[{"family":"x"},{"use":"official","family":"y"}]}},{"resource":{"id":"p2"}}]}"#;
    let read: Value = serde_json::from_slice(&answer(200, found).unwrap()).expect("JSON");
    assert_eq!(
        read,
        json!({ "id": "p1", "family": "y", "all": ["p1", "p2"], "total": 2 })
    );
    let flat = form_.columns(&SchemaSpec(
        serde_json::from_str(r#"[{"name":"id","type":"text","path":"entry[0].id"}]"#).unwrap(),
    ));
    assert_eq!(flat.0[0].path, None);
    let outcome = r#"{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"x","diagnostics":"no such","expression":["Patient.id"]}]}"#;
    let refused = answer(404, outcome).unwrap_err();
    assert_eq!(refused.class(), Class::Permanent);
    assert!(
        refused.to_string().contains("no such (Patient.id)"),
        "{refused}"
    );
    assert_eq!(answer(503, outcome).unwrap_err().class(), Class::Transient);
    assert_eq!(answer(200, "<html>").unwrap_err().code(), "fhir.strange");
    for (path, kind, code) in [
        ("a b", "text", "event.fhir-path"),
        ("a[*]", "text", "event.fhir-list"),
    ] {
        let step =
            format!(r#"{{"connection":"a","answer":{{"x":{{"type":"{kind}","path":"{path}"}}}}}}"#);
        assert_eq!(form(&step).err(), Some(code));
    }
}

#[test]
fn a_server_is_surveyed() {
    let peer = FhirPeer::new();
    let spec = spec(&connection(&peer, ""));
    let registry = busbar_connect::registry();
    let connector = registry.get(&spec.kind).expect("registered");
    let runtime = Runtime::new().expect("a runtime");
    let survey = runtime.block_on(connector.survey(&spec, Path::new("/").into(), true));
    let survey = survey.expect("it answers");
    assert_eq!(survey.server, "Peer 1 (FHIR 4.0.1)");
    assert_eq!(survey.tables[0].name, "Patient");
    let columns: Vec<_> = survey.tables[0]
        .columns
        .iter()
        .map(|c| (c.name.as_str(), c.key))
        .collect();
    assert_eq!(columns, [("_id", true), ("name", false)]);
}
