//! APIs that take resources of FHIR: what is answered when it is stored, and what is refused where.

use serde_json::{Value, json};

use crate::support::{Answer, World};

const FILES: &[(&str, &str)] = &[
    (
        "streams/resources.yaml",
        "topics: fhir/#\npartitions: 1\nformat: fhir\nschema: { id: text, family: { type: text, path: 'name[0].family' }, to: { type: text, path: 'subject.reference' } }\n",
    ),
    (
        "apis/fhir.yaml",
        "description: Of the ward.\nfhir: { topic: fhir, types: [Patient, Encounter] }\n",
    ),
    ("apis/any.yaml", "fhir: { topic: other }\n"),
    ("apis/plain.yaml", "query: select 1 as one\n"),
];

const KIND: (&str, &str) = ("content-type", "application/fhir+json");

fn ask(world: &World, method: &str, path: &str, body: &Value) -> Answer {
    world.request(method, path, &[KIND], body.to_string().as_bytes())
}

/// What a refusal says: the code of the error and the place.
fn told(outcome: &Value) -> (String, Value) {
    assert_eq!(outcome["resourceType"], "OperationOutcome", "{outcome}");
    let issue = &outcome["issue"][0];
    let code = issue["details"]["coding"][0]["code"]
        .as_str()
        .expect("a code");
    (code.to_owned(), issue["expression"][0].clone())
}

#[test]
fn resources_are_answered_when_they_are_stored() {
    let world = World::new(FILES);
    let patient = json!({ "resourceType": "Patient", "id": "mine", "name": [{ "family": "张" }] });
    let created = ask(&world, "POST", "/apis/fhir/Patient", &patient);
    assert_eq!((created.status, created.body.as_str()), (201, ""));
    let place = created.headers["location"].clone();
    let id = place.rsplit('/').next().expect("an id").to_owned();
    assert!(
        place.starts_with("http://") && place.contains("/apis/fhir/Patient/"),
        "{place}"
    );
    assert_ne!(id, "mine", "the node gives it");
    let put = ask(&world, "PUT", "/apis/fhir/Patient/mine", &patient);
    assert_eq!(put.status, 200);
    let prefer = [KIND, ("prefer", "return=representation")];
    let whole = world.request(
        "PUT",
        "/apis/fhir/Patient/mine",
        &prefer,
        patient.to_string().as_bytes(),
    );
    assert_eq!(whole.json(), patient);
    assert_eq!(
        ask(&world, "DELETE", "/apis/fhir/Patient/mine", &Value::Null).status,
        204
    );
    let rows = world.sql("select topic, key, tags['change'], id, family from resources");
    assert_eq!(
        rows,
        json!([
            ["fhir/Patient", id, "insert", id, "张"],
            ["fhir/Patient", "mine", "upsert", "mine", "张"],
            ["fhir/Patient", "mine", "upsert", "mine", "张"],
            ["fhir/Patient", "mine", "delete", "mine", null],
        ])
    );
    let said = world.get_json("/apis/fhir/metadata");
    assert_eq!(
        (&said["resourceType"], &said["fhirVersion"]),
        (&json!("CapabilityStatement"), &json!("4.0.1"))
    );
    assert_eq!(said["implementation"]["description"], "Of the ward.");
    let types: Vec<_> = said["rest"][0]["resource"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["type"])
        .collect();
    assert_eq!(types, ["Patient", "Encounter"]);
    let document = world.get_json("/apis/fhir/openapi.json");
    let types = &document["paths"]["/apis/fhir/{type}"]["parameters"][0]["schema"]["enum"];
    assert_eq!(types, &json!(["Patient", "Encounter"]), "{document:#}");
    let listed = world.get_json("/api/v1/apis");
    let listed = listed["apis"]
        .as_array()
        .unwrap()
        .iter()
        .find(|api| api["name"] == "fhir")
        .unwrap();
    assert_eq!(
        (&listed["work"], &listed["topic"]),
        (&json!("fhir"), &json!("fhir/+"))
    );
    assert_eq!(listed["answered_total"], 5);
    assert_eq!(
        ask(
            &world,
            "POST",
            "/apis/any/Basic",
            &json!({ "resourceType": "Basic" })
        )
        .status,
        201
    );
}

#[test]
fn what_is_not_taken_is_told_with_its_place() {
    let world = World::new(FILES);
    let patient = json!({ "resourceType": "Patient", "id": "a" });
    for (method, path, body, status, code, place) in [
        (
            "POST",
            "/apis/fhir/Patient",
            json!({ "resourceType": "Patient", "name": [{ "family": "" }] }),
            400,
            "event.fhir-empty",
            json!("Patient.name[0].family"),
        ),
        (
            "POST",
            "/apis/fhir/Patient",
            json!({ "resourceType": "Encounter" }),
            400,
            "server.fhir-other-type",
            Value::Null,
        ),
        (
            "POST",
            "/apis/fhir/Patient",
            json!([]),
            400,
            "event.fhir-object",
            Value::Null,
        ),
        (
            "POST",
            "/apis/fhir/Observation",
            json!({ "resourceType": "Observation" }),
            404,
            "server.fhir-type",
            Value::Null,
        ),
        (
            "POST",
            "/apis/any/Nothing",
            json!({ "resourceType": "Nothing" }),
            404,
            "server.fhir-type",
            Value::Null,
        ),
        (
            "PUT",
            "/apis/fhir/Patient/b",
            patient.clone(),
            400,
            "server.fhir-id",
            json!("Patient.id"),
        ),
        (
            "PUT",
            "/apis/fhir/Patient",
            patient.clone(),
            405,
            "server.fhir-method",
            Value::Null,
        ),
        (
            "POST",
            "/apis/fhir/Patient/a",
            patient.clone(),
            405,
            "server.fhir-method",
            Value::Null,
        ),
        (
            "GET",
            "/apis/fhir/Patient/a",
            Value::Null,
            405,
            "server.fhir-method",
            Value::Null,
        ),
        (
            "PUT",
            "/apis/fhir/Patient?identifier=a",
            patient.clone(),
            501,
            "server.fhir-condition",
            Value::Null,
        ),
        (
            "DELETE",
            "/apis/fhir/Patient/a%20b",
            Value::Null,
            400,
            "event.fhir-id",
            Value::Null,
        ),
        (
            "POST",
            "/apis/fhir",
            patient.clone(),
            400,
            "server.fhir-bundle",
            Value::Null,
        ),
        (
            "PUT",
            "/apis/fhir",
            patient.clone(),
            405,
            "server.fhir-method",
            Value::Null,
        ),
    ] {
        let refused = ask(&world, method, path, &body);
        assert_eq!(refused.status, status, "{method} {path} {refused:?}");
        assert_eq!(
            told(&refused.json()),
            (code.to_owned(), place),
            "{method} {path}"
        );
    }
    let body = patient.to_string();
    for (header, status, code) in [
        (
            ("content-type", "application/fhir+xml"),
            415,
            "server.fhir-media-type",
        ),
        (
            ("if-none-exist", "identifier=a"),
            501,
            "server.fhir-condition",
        ),
        (("if-match", "W/\"1\""), 501, "server.fhir-condition"),
    ] {
        let refused = world.request("PUT", "/apis/fhir/Patient/a", &[header], body.as_bytes());
        assert_eq!(
            (refused.status, told(&refused.json()).0),
            (status, code.to_owned())
        );
    }
    let broken = world.request(
        "POST",
        "/apis/fhir/Patient",
        &[KIND],
        b"{\"resourceType\":\"Patient\",",
    );
    assert_eq!(told(&broken.json()).0, "event.fhir-json");
    // What takes no resources has nothing below its address.
    assert_eq!(world.get("/apis/plain/Patient").status, 404);
    assert_eq!(world.sql("select count(*) from resources"), json!([[0]]));
}

#[test]
fn a_batch_is_taken_entry_by_entry_and_a_transaction_as_a_whole() {
    let world = World::new(FILES);
    let entry = |method: &str, url: &str, resource: Value| json!({ "request": { "method": method, "url": url }, "resource": resource });
    let mut new = entry(
        "POST",
        "Patient",
        json!({ "resourceType": "Patient", "name": [{ "family": "李" }] }),
    );
    new["fullUrl"] = json!("urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0");
    let visit = entry(
        "PUT",
        "Encounter/e1",
        json!({ "resourceType": "Encounter", "id": "e1", "subject": { "reference": "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0" } }),
    );
    let bad = entry(
        "PUT",
        "Patient/x",
        json!({ "resourceType": "Patient", "id": "x", "name": null }),
    );
    let bundle = |kind: &str, entries: &[&Value]| json!({ "resourceType": "Bundle", "type": kind, "entry": entries });
    let refused = ask(
        &world,
        "POST",
        "/apis/fhir",
        &bundle("transaction", &[&new, &visit, &bad]),
    );
    assert_eq!(refused.status, 400);
    assert_eq!(
        told(&refused.json()),
        (
            "event.fhir-null".to_owned(),
            json!("Bundle.entry[2].resource.name")
        )
    );
    assert_eq!(
        world.sql("select count(*) from resources"),
        json!([[0]]),
        "nothing of it is stored"
    );
    let taken = ask(
        &world,
        "POST",
        "/apis/fhir",
        &bundle("transaction", &[&new, &visit]),
    );
    assert_eq!(
        (taken.status, &taken.json()["type"]),
        (200, &json!("transaction-response")),
        "{taken:?}"
    );
    let place = taken.json()["entry"][0]["response"]["location"]
        .as_str()
        .expect("a place")
        .to_owned();
    let rows = world.sql("select topic, key, \"to\" from resources order by topic");
    assert_eq!(
        rows[0],
        json!(["fhir/Encounter", "e1", place]),
        "the reference is that of the new patient"
    );
    let gone = json!({ "request": { "method": "DELETE", "url": "Patient/x" } });
    let conditional = entry(
        "PUT",
        "Patient?identifier=a",
        json!({ "resourceType": "Patient" }),
    );
    let answer = ask(
        &world,
        "POST",
        "/apis/fhir",
        &bundle("batch", &[&bad, &gone, &conditional]),
    );
    let entries = answer.json()["entry"].clone();
    let status = |at: usize| {
        entries[at]["response"]["status"]
            .as_str()
            .expect("a status")
            .to_owned()
    };
    assert_eq!(
        [status(0), status(1), status(2)],
        ["400 Bad Request", "204 No Content", "501 Not Implemented"]
    );
    assert_eq!(
        told(&entries[0]["response"]["outcome"]),
        (
            "event.fhir-null".to_owned(),
            json!("Bundle.entry[0].resource.name")
        )
    );
    assert_eq!(world.sql("select count(*) from resources"), json!([[3]]));
}
