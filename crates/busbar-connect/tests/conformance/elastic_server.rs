//! `elasticsearch` with a real server: `make test-servers`.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, StringArray};
use busbar_connector::{Polled, Resume, SourceContext};
use busbar_event::Class;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::postgres_sink::{ints, rows, texts, write};
use crate::servers::{DatabaseServer, elasticsearch};
use crate::world::spec;

fn connection(server: &DatabaseServer, role: &str) -> String {
    format!(
        "elasticsearch: {{ url: 'http://127.0.0.1:{}', {role} }}\n",
        server.port
    )
}

fn body(answer: &str) -> Value {
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    serde_json::from_str(body).unwrap_or_else(|why| panic!("{why}: {answer}"))
}

fn document(server: &DatabaseServer, index: &str, id: &str) -> Option<Value> {
    let answer = server.request("GET", &format!("/{index}/_doc/{id}"), "");
    Some(body(&answer.ok()?)["_source"].clone())
}

#[test]
#[ignore = "make test-servers"]
fn documents_are_written_followed_and_read() {
    let server = elasticsearch();
    a_row_becomes_a_document(&server);
    changes_are_followed(&server);
    refused_rows_are_told(&server);
    documents_are_read_in_order(&server);
}

fn a_row_becomes_a_document(server: &DatabaseServer) {
    let row = |position, x: Option<f64>| {
        rows(
            position,
            vec![
                ("id", ints(&[7])),
                ("site", texts(&["north \"n\""])),
                ("x", Arc::new(Float64Array::from(vec![x]))),
            ],
        )
    };
    let by = |mode: &str| {
        let role = format!("write: {{ index: 'a-${{id}}', id: 'k${{id}}', mode: {mode} }}");
        connection(server, &role)
    };
    let there = || document(server, "a-7", "k7");
    assert_eq!(write(&by("create"), &row(1, Some(0.5))).unwrap(), [0; 0]);
    let first = json!({ "id": 7, "site": "north \"n\"", "x": 0.5 });
    assert_eq!(there(), Some(first.clone()));
    assert_eq!(write(&by("create"), &row(2, Some(1.5))).unwrap(), [0; 0]);
    assert_eq!(there(), Some(first));
    assert_eq!(write(&by("merge"), &row(3, None)).unwrap(), [0; 0]);
    assert_eq!(there().expect("a document").get("x"), Some(&Value::Null));
    assert_eq!(write(&by("replace"), &row(4, None)).unwrap(), [0; 0]);
    assert_eq!(there(), Some(json!({ "id": 7, "site": "north \"n\"" })));
    for _ in 0..2 {
        assert_eq!(write(&by("delete"), &row(5, None)).unwrap(), [0; 0]);
        assert_eq!(there(), None);
    }
    let text = connection(server, "write: { index: v, id: '${id}', version: v }");
    for (v, there) in [(5, 5), (4, 5), (5, 5), (6, 6)] {
        let row = rows(1, vec![("id", ints(&[1])), ("v", ints(&[v]))]);
        assert_eq!(write(&text, &row).unwrap(), [0; 0]);
        assert_eq!(document(server, "v", "1").expect("a document")["v"], there);
    }
}

/// Without truncations: what Maven has lacks the module behind `_delete_by_query`.
fn changes_are_followed(server: &DatabaseServer) {
    let text = connection(server, "write: { index: t, id: '${id}', change: change }");
    let changes = |all: &[(&str, i64, &str)]| {
        let changes: Vec<_> = all.iter().map(|row| row.0).collect();
        let ids: Vec<_> = all.iter().map(|row| row.1).collect();
        let names: Vec<_> = all.iter().map(|row| row.2).collect();
        rows(
            1,
            vec![
                ("change", texts(&changes)),
                ("id", ints(&ids)),
                ("name", texts(&names)),
            ],
        )
    };
    let first = [
        ("insert", 1, "a"),
        ("insert", 2, "b"),
        ("update", 1, "c"),
        ("delete", 2, ""),
    ];
    assert_eq!(write(&text, &changes(&first)).unwrap(), [0; 0]);
    assert_eq!(document(server, "t", "1").expect("a document")["name"], "c");
    assert_eq!(document(server, "t", "2"), None);
}

fn refused_rows_are_told(server: &DatabaseServer) {
    let mapping = "{\"mappings\":{\"dynamic\":\"strict\",\"properties\":{\"id\":{\"type\":\"long\"},\"at\":{\"type\":\"date\"}}}}";
    server.request("PUT", "/strict", mapping).expect("an index");
    let text = connection(server, "write: { index: strict, id: '${id}' }");
    let at: ArrayRef = Arc::new(StringArray::from(vec![
        Some("2026-01-01"),
        Some("soon"),
        None,
    ]));
    let three = rows(1, vec![("id", ints(&[1, 2, 3])), ("at", at)]);
    assert_eq!(write(&text, &three).unwrap(), [1]);
    assert!(document(server, "strict", "3").is_some());
    // An index that takes nothing now.
    let blocked = "{\"index.blocks.read_only_allow_delete\":true}";
    let settings = "/strict/_settings";
    server.request("PUT", settings, blocked).expect("blocked");
    let one = rows(1, vec![("id", ints(&[4]))]);
    let failed = write(&text, &one).expect_err("it is blocked");
    assert_eq!(failed.class(), Class::Transient, "{failed:?}");
    let free = "{\"index.blocks.read_only_allow_delete\":null}";
    server.request("PUT", settings, free).expect("free");
    assert_eq!(write(&text, &one).unwrap(), [0; 0]);
}

fn documents_are_read_in_order(server: &DatabaseServer) {
    // More than a float keeps.
    let first = 9_007_199_254_740_993_i64;
    let ids: Vec<_> = (0..250).map(|n| first + n).collect();
    let text = connection(server, "write: { index: docs, id: '${n}' }");
    assert_eq!(
        write(&text, &rows(1, vec![("n", ints(&ids))])).unwrap(),
        [0; 0]
    );
    server.request("POST", "/docs/_refresh", "").expect("found");
    let read = "read: { index: docs, sort: [n], settle: 0s, rows: 100 }";
    let spec = spec(&connection(server, read));
    let registry = busbar_connect::registry();
    let connector = registry.get(&spec.kind).expect("registered");
    Runtime::new().expect("a runtime").block_on(async {
        let mut resume = Resume::default();
        let mut found = Vec::new();
        loop {
            // A new start after each page.
            let context = SourceContext {
                name: "x".into(),
                project_dir: Path::new("/").into(),
                clock: Arc::new(busbar_log::SystemClock),
                resume: resume.clone(),
                tables: crate::world::no_tables(),
            };
            let mut source = connector.source(&spec, context).await.expect("it opens");
            let Polled::Batch(page) = source.poll().await.expect("it answers") else {
                break;
            };
            let payloads = page.batch.payloads();
            for row in 0..page.batch.rows() {
                let document: Value = serde_json::from_slice(payloads.value(row)).expect("JSON");
                found.push(document["n"].as_i64().expect("a number"));
            }
            let position = page.position.last().expect("a position");
            resume.positions.insert(String::new(), position);
            resume.notes.insert(String::new(), page.note);
        }
        assert_eq!(found, ids);
        let survey = connector.survey(&spec, Path::new("/").into(), true).await;
        let survey = survey.expect("it answers");
        assert_eq!(survey.server, "Elasticsearch 8.19.21");
        let docs = survey.tables.iter().find(|table| table.name == "docs");
        let docs = docs.expect("the index");
        assert_eq!(docs.rows, Some(250));
        let columns: Vec<_> = docs
            .columns
            .iter()
            .map(|c| (c.name.as_str(), c.kind.as_str()))
            .collect();
        assert_eq!(columns, [("_id", "keyword"), ("n", "long")]);
    });
}
