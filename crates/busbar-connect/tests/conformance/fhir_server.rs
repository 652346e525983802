//! `fhir` with HAPI's server: `make test-servers`.

use std::path::Path;

use busbar_catalog::CallSpec;
use busbar_connector::{CallParts, Polled, Resume};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::postgres_sink::{open, rows, texts};
use crate::servers::{DatabaseServer, hapi};
use crate::service_context;
use crate::world::{eventually, source_of, spec};

fn connection(server: &DatabaseServer, role: &str) -> String {
    format!(
        "fhir: {{ url: 'http://127.0.0.1:{}/fhir', {role} }}\n",
        server.port
    )
}

fn read(server: &DatabaseServer, path: &str) -> Option<Value> {
    let answer = server.request("GET", &format!("/fhir/{path}"), "").ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    // It comes in chunks.
    let body = body.get(body.find('{')?..=body.rfind('}')?)?;
    Some(serde_json::from_str(body).unwrap_or_else(|why| panic!("{why}: {answer}")))
}

/// Writes patients of these families; rows that are refused, and why.
fn write(
    server: &DatabaseServer,
    role: &str,
    position: u64,
    rows_: &[(&str, &str, &str)],
) -> Vec<(usize, String)> {
    let column = |at: usize| {
        let values = rows_.iter().map(|row| [row.0, row.1, row.2][at]);
        texts(&values.collect::<Vec<_>>())
    };
    let delivery = rows(
        position,
        vec![
            ("change", column(0)),
            ("pid", column(1)),
            ("family", column(2)),
        ],
    );
    let text = connection(
        server,
        &format!(
            "write: {{ type: Patient, change: change, {role}, resource: {{ 'identifier(system=urn:his).value': pid, 'name[0].family': family }} }}"
        ),
    );
    Runtime::new().expect("a runtime").block_on(async {
        let mut sink = open(&text, &delivery).await.expect("it opens");
        let written = sink.write(&delivery).await.expect("it is written");
        let rejected = written.rejected.into_iter();
        rejected
            .map(|(row, error)| (row, error.to_string()))
            .collect()
    })
}

#[test]
#[ignore = "make test-servers"]
fn resources_are_written_found_and_followed() {
    let server = hapi();
    for (number, bundle) in ["batch", "none"].into_iter().enumerate() {
        let position = 10 * number as u64;
        let by_id = format!("id: 'b{number}-${{pid}}', bundle: {bundle}");
        let first = [
            ("insert", "1", "Zhang"),
            ("insert", "2", "Refused"),
            ("insert", "3", "Li"),
            ("insert", "4", "a|b,c"),
        ];
        let refused = write(&server, &by_id, position + 1, &first);
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(
            refused[0]
                .1
                .contains("nobody has this name (Patient.name[0].family)"),
            "{refused:?}"
        );
        let second = [
            ("update", "1", "Wang"),
            ("delete", "3", ""),
            ("delete", "9", ""),
        ];
        assert_eq!(write(&server, &by_id, position + 2, &second), []);
        let there = read(&server, &format!("Patient/b{number}-1")).expect("a patient");
        assert_eq!(there["name"], json!([{ "family": "Wang" }]));
        assert_eq!(there["meta"]["versionId"], "2");
        assert_eq!(read(&server, &format!("Patient/b{number}-3")), None);
        // By a condition: one that is there is found, also by a value with the signs of a search in it.
        let odd = format!("{number}x|y,z");
        let by_match = format!("match: 'identifier=urn:his|${{pid}}', bundle: {bundle}");
        for family in ["Sun", "Zhao"] {
            assert_eq!(
                write(
                    &server,
                    &by_match,
                    position + 3,
                    &[("insert", &odd, family)]
                ),
                []
            );
        }
        let found = read(
            &server,
            &format!("Patient?identifier=urn:his%7C{number}x%5C%7Cy%5C,z"),
        )
        .expect("a Bundle");
        assert_eq!(found["total"], 1, "{found}");
        assert_eq!(found["entry"][0]["resource"]["name"][0]["family"], "Zhao");
        let once = format!("{by_match}, mode: create");
        assert_eq!(
            write(&server, &once, position + 4, &[("insert", &odd, "Zhou")]),
            []
        );
        assert_eq!(
            read(&server, "Patient").expect("a Bundle")["total"],
            3 * (number as u64 + 1)
        );
    }
    resources_are_followed(&server);
    resources_are_looked_up(&server);
}

/// What a source brings until there is nothing new for three rounds.
fn follow(server: &DatabaseServer, by: &str) -> Vec<String> {
    let text = connection(
        server,
        &format!("read: {{ types: [Patient], by: {by}, settle: 0s, every: 400ms }}"),
    );
    Runtime::new().expect("a runtime").block_on(async {
        let mut source = source_of(&text, Resume::default()).await;
        let (mut seen, mut idle) = (Vec::new(), 0);
        while idle < 3 {
            match source.poll().await.expect("it reads") {
                Polled::Batch(polling) => {
                    let events = &polling.batch;
                    for row in 0..events.rows() {
                        let payload: Value =
                            serde_json::from_slice(events.payloads().value(row)).expect("JSON");
                        assert_eq!(payload["resourceType"], "Patient");
                        let change = events.tags(row).next().expect("a change").1.to_owned();
                        seen.push(format!("{} {change}", events.key(row).expect("an id")));
                    }
                }
                Polled::Idle(wait) if wait.is_zero() => {}
                Polled::Idle(wait) => {
                    idle += 1;
                    tokio::time::sleep(wait).await;
                }
                Polled::End => unreachable!("there is always more"),
            }
        }
        seen
    })
}

fn resources_are_followed(server: &DatabaseServer) {
    // More than a page of HAPI's, so that its links are followed.
    let ids: Vec<String> = (0..25).map(|n| format!("{n}")).collect();
    let many: Vec<_> = ids
        .iter()
        .map(|id| ("insert", id.as_str(), "Many"))
        .collect();
    assert_eq!(write(server, "id: 'm${pid}'", 100, &many), []);
    let mut current = Vec::new();
    // What is of the second that is not over comes later.
    eventually("all current patients", || {
        current = follow(server, "search");
        match current.len() {
            31 => Ok(()),
            other => Err(format!("{other}: {current:?}")),
        }
    });
    assert_eq!(current.last().map(String::as_str), Some("m24 read"));
    let history = follow(server, "history");
    let of = |id: &str| -> Vec<String> {
        let prefix = format!("{id} ");
        let those = history.iter().filter_map(|seen| seen.strip_prefix(&prefix));
        those.map(str::to_owned).collect()
    };
    assert_eq!(of("b0-1"), ["insert", "update"], "{history:?}");
    assert_eq!(of("b0-3"), ["insert", "delete"], "{history:?}");
    assert_eq!(of("m0"), ["insert"], "{history:?}");
}

fn resources_are_looked_up(server: &DatabaseServer) {
    let spec = spec(&connection(server, ""));
    let registry = busbar_connect::registry();
    let connector = registry.get("fhir").expect("registered");
    let call: CallSpec = serde_json::from_str(
        r#"{"connection":"a","path":"Patient?identifier=urn:his|1","answer":{"id":{"type":"text","path":"entry[0].resource.id"},"total":"int"}}"#,
    )
    .expect("a step");
    let form = connector
        .call_form(&spec, &call)
        .map_err(|fault| fault.error)
        .expect("it fits");
    let runtime = Runtime::new().expect("a runtime");
    let service = runtime.block_on(connector.service(&spec, service_context(Path::new("."))));
    let service = service.expect("it opens");
    let ask = |path: &str| {
        let request = form.request(CallParts {
            path: path.into(),
            ..CallParts::default()
        });
        runtime
            .block_on(service.exchange(&request.expect("a request")))
            .expect("an answer")
    };
    let answer = form
        .answer(ask("Patient?identifier=urn:his%7C1"))
        .expect("it is taken");
    let read: Value = serde_json::from_slice(&answer).expect("JSON");
    assert_eq!((&read["total"], &read["id"]), (&json!(3), &json!("b0-1")));
    let refused = form.answer(ask("Patient/nobody")).expect_err("nobody");
    assert!(refused.to_string().contains("404"), "{refused}");
}
