//! What `elasticsearch` does beside what all sinks and sources do.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
use busbar_connector::{Resume, Source};
use busbar_event::Class;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::elastic_peer::Peer;
use crate::postgres_sink::{ints, open, rows, texts, write};
use crate::world::{next_batch, source_of, spec};

fn connection(peer: &Peer, write: &str) -> String {
    format!(
        "elasticsearch: {{ url: '{}', write: {{ {write} }} }}\n",
        peer.url()
    )
}

fn maybe(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

#[test]
fn a_row_becomes_a_document_as_its_mode_says() {
    let peer = Peer::new();
    let row = |position, x: Option<f64>| {
        rows(
            position,
            vec![
                ("id", ints(&[7])),
                ("site", texts(&["北 \"n\""])),
                ("x", Arc::new(Float64Array::from(vec![x]))),
            ],
        )
    };
    let by = |mode: &str| {
        connection(
            &peer,
            &format!("index: 'a-${{id}}', id: '${{site}}/${{id}}', mode: {mode}"),
        )
    };
    let there = || peer.document("a-7", "北 \"n\"/7");
    assert_eq!(write(&by("create"), &row(1, Some(0.5))).unwrap(), [0; 0]);
    assert_eq!(
        there(),
        Some(json!({ "id": 7, "site": "北 \"n\"", "x": 0.5 }))
    );
    // It is there already.
    assert_eq!(write(&by("create"), &row(2, Some(1.5))).unwrap(), [0; 0]);
    assert_eq!(there().expect("a document")["x"], 0.5);
    // What has no value loses that of the document.
    assert_eq!(write(&by("merge"), &row(3, None)).unwrap(), [0; 0]);
    assert_eq!(there().expect("a document").get("x"), Some(&Value::Null));
    assert_eq!(write(&by("replace"), &row(4, None)).unwrap(), [0; 0]);
    assert_eq!(there(), Some(json!({ "id": 7, "site": "北 \"n\"" })));
    for _ in 0..2 {
        assert_eq!(write(&by("delete"), &row(5, None)).unwrap(), [0; 0]);
        assert_eq!(there(), None);
    }
}

#[test]
fn changes_are_followed_row_by_row() {
    let peer = Peer::new();
    let text = connection(
        &peer,
        "index: t, id: '${id}', change: change, unchanged: unchanged",
    );
    type Change<'a> = (&'a str, Option<i64>, &'a str, &'a str);
    let changes = |position, all: &[Change<'_>]| {
        let id: ArrayRef = Arc::new(Int64Array::from_iter(all.iter().map(|row| row.1)));
        let column = |values: Vec<&str>| texts(&values);
        rows(
            position,
            vec![
                ("change", column(all.iter().map(|row| row.0).collect())),
                ("id", id),
                ("a \"name\"", column(all.iter().map(|row| row.2).collect())),
                ("bio", column(all.iter().map(|row| row.2).collect())),
                ("unchanged", column(all.iter().map(|row| row.3).collect())),
            ],
        )
    };
    let first = changes(
        1,
        &[
            ("read", Some(1), "a", ""),
            ("insert", Some(2), "b", ""),
            ("delete", Some(2), "", ""),
            ("schema", Some(0), "", ""),
            ("update", Some(1), "c", "[\"bio\"]"),
            ("merge", Some(1), "", ""),
            ("insert", None, "d", ""),
        ],
    );
    assert_eq!(write(&text, &first).unwrap(), [5, 6]);
    assert_eq!(peer.store.lock().documents.len(), 1);
    let kept = json!({ "id": 1, "a \"name\"": "c", "bio": "a" });
    assert_eq!(peer.document("t", "1"), Some(kept));
    // What came before a truncation is gone, also what is in the same delivery.
    let emptied = changes(
        2,
        &[
            ("insert", Some(3), "x", ""),
            ("truncate", None, "", ""),
            ("insert", Some(4), "y", ""),
        ],
    );
    assert_eq!(write(&text, &emptied).unwrap(), [0; 0]);
    let ids: Vec<_> = peer
        .store
        .lock()
        .documents
        .keys()
        .map(|(_, id)| id.clone())
        .collect();
    assert_eq!(ids, ["4"]);
}

/// Those behind it for the same document come again too, so that the last one stays the last.
#[test]
fn rows_that_are_refused_for_now_come_again_in_order() {
    let peer = Peer::new();
    let text = connection(&peer, "index: t, id: '${id}'");
    let three = rows(
        1,
        vec![
            ("id", ints(&[1, 2, 1])),
            ("v", texts(&["slow", "other", "last"])),
        ],
    );
    peer.store.lock().busy = Some(("slow", 1));
    Runtime::new().expect("a runtime").block_on(async {
        let mut sink = open(&text, &three).await.expect("it opens");
        let failed = sink.write(&three).await.expect_err("one is refused");
        assert_eq!(
            (failed.class(), failed.code()),
            (Class::Transient, "elastic.for-now")
        );
        assert!(
            sink.write(&three)
                .await
                .expect("written")
                .rejected
                .is_empty()
        );
    });
    assert_eq!(peer.document("t", "1").expect("a document")["v"], "last");
    let requests = peer.bodies("/_bulk");
    let lines: Vec<_> = requests.iter().map(|body| body.lines().count()).collect();
    assert_eq!(lines, [6, 4], "{requests:?}");
    assert!(!requests[1].contains("other"), "{requests:?}");
}

#[test]
fn an_older_version_changes_nothing() {
    let peer = Peer::new();
    let text = connection(&peer, "index: t, id: '${id}', version: v");
    let row = |position, v| rows(position, vec![("id", ints(&[1])), ("v", ints(&[v]))]);
    for (position, v, rejected, there) in [(1, 5, 0, 5), (2, 4, 0, 5), (3, 6, 0, 6), (4, -1, 1, 6)]
    {
        assert_eq!(write(&text, &row(position, v)).unwrap().len(), rejected);
        assert_eq!(peer.document("t", "1").expect("a document")["v"], there);
    }
}

#[test]
fn a_request_that_is_too_large_is_split() {
    let peer = Peer::new();
    peer.store.lock().most = Some(400);
    let text = connection(&peer, "index: t, id: '${id}'");
    let long = "x".repeat(500);
    let mut values = vec!["short"; 20];
    values[11] = &long;
    let ids: Vec<i64> = (0..20).collect();
    let delivery = rows(1, vec![("id", ints(&ids)), ("v", texts(&values))]);
    assert_eq!(write(&text, &delivery).unwrap(), [11]);
    assert_eq!(peer.store.lock().documents.len(), 19);
}

#[test]
fn an_id_that_cannot_be_is_a_dead_letter() {
    let peer = Peer::new();
    let text = connection(&peer, "index: t, id: '${id}'");
    let (most, more) = ("i".repeat(512), "i".repeat(513));
    let ids = maybe(&[Some(""), None, Some(&most), Some(&more), Some("a")]);
    assert_eq!(
        write(&text, &rows(1, vec![("id", ids)])).unwrap(),
        [0, 1, 3]
    );
    let refused = write(
        &connection(&peer, "index: t, id: '${no}'"),
        &rows(1, vec![("id", ints(&[1]))]),
    );
    let refused = refused.expect_err("no such column");
    assert_eq!(
        (refused.class(), refused.code()),
        (Class::Configuration, "elastic.flow-column")
    );
}

async fn source(peer: &Peer, resume: Resume) -> Box<dyn Source> {
    let text = format!(
        "elasticsearch: {{ url: '{}', read: {{ index: docs, sort: [n], settle: 0s, rows: 10 }} }}\n",
        peer.url()
    );
    source_of(&text, resume).await
}

fn put(peer: &Peer, id: &str, n: Value) {
    let key = ("docs".to_owned(), id.to_owned());
    peer.store.lock().documents.insert(key, json!({ "n": n }));
}

#[test]
fn reading_goes_on_behind_the_last_document() {
    let peer = Peer::new();
    // More than a float keeps.
    let first = 9_007_199_254_740_993_i64;
    for n in 0..25 {
        put(&peer, &n.to_string(), json!(first + n));
    }
    Runtime::new().expect("a runtime").block_on(async {
        let mut reading = source(&peer, Resume::default()).await;
        let one = next_batch(reading.as_mut())
            .await
            .unwrap()
            .expect("a batch");
        assert_eq!(one.batch.rows(), 10);
        let mut resume = Resume::default();
        resume
            .positions
            .insert(String::new(), one.position.last().expect("a position"));
        resume.notes.insert(String::new(), one.note);
        let mut reading = source(&peer, resume).await;
        // Not all of the shards answer at first.
        peer.store.lock().partial = 1;
        let failed = next_batch(reading.as_mut())
            .await
            .expect_err("a shard is missing");
        assert_eq!(
            (failed.class(), failed.code()),
            (Class::Transient, "elastic.partial")
        );
        let mut counts = Vec::new();
        while let Some(next) = next_batch(reading.as_mut()).await.unwrap() {
            counts.push(next.batch.rows());
        }
        assert_eq!(counts, [10, 5]);
    });
}

#[test]
fn a_page_that_is_too_large_is_asked_for_in_parts() {
    let peer = Peer::new();
    peer.store.lock().padding = 4 << 20;
    for n in 0..7 {
        put(&peer, &n.to_string(), json!(n));
    }
    Runtime::new().expect("a runtime").block_on(async {
        let mut reading = source(&peer, Resume::default()).await;
        let mut rows = 0;
        while let Some(next) = next_batch(reading.as_mut()).await.unwrap() {
            rows += next.batch.rows();
        }
        assert_eq!(rows, 7);
    });
}

/// One of them would be passed over: behind the first is behind the second.
/// Also behind a start, which knows only the place of the last document.
#[test]
fn documents_that_come_again_are_refused() {
    let peer = Peer::new();
    for n in 0..25 {
        put(&peer, &n.to_string(), json!(n));
    }
    peer.store.lock().repeats = true;
    Runtime::new().expect("a runtime").block_on(async {
        let mut reading = source(&peer, Resume::default()).await;
        let first = next_batch(reading.as_mut()).await.unwrap();
        let first = first.expect("a batch");
        let mut resume = Resume::default();
        let position = first.position.last().expect("a position");
        resume.positions.insert(String::new(), position);
        resume.notes.insert(String::new(), first.note);
        for mut reading in [reading, source(&peer, resume).await] {
            let refused = next_batch(reading.as_mut()).await.expect_err("again");
            assert_eq!(
                (refused.class(), refused.code()),
                (Class::Configuration, "elastic.page-again")
            );
            let message = refused.message(busbar_event::Language::En);
            assert!(message.contains(" index docs "), "{message}");
        }
    });
}

#[test]
fn documents_that_the_order_does_not_tell_apart_are_refused() {
    for (other, code) in [
        (json!(9), "elastic.sort-same"),
        (Value::Null, "elastic.sort-null"),
    ] {
        let peer = Peer::new();
        for n in 0..10 {
            put(&peer, &n.to_string(), json!(n));
        }
        put(&peer, "other", other);
        Runtime::new().expect("a runtime").block_on(async {
            let mut reading = source(&peer, Resume::default()).await;
            let refused = next_batch(reading.as_mut()).await.expect_err(code);
            assert_eq!(
                (refused.class(), refused.code()),
                (Class::Configuration, code)
            );
        });
    }
}

#[test]
fn indices_are_surveyed_with_their_fields() {
    let peer = Peer::new();
    let spec = spec(&connection(&peer, "index: t, id: '${id}'"));
    let registry = busbar_connect::registry();
    let connector = registry.get(&spec.kind).expect("registered");
    let runtime = Runtime::new().expect("a runtime");
    let survey = runtime.block_on(connector.survey(&spec, Path::new("/").into(), true));
    let survey = survey.expect("it answers");
    assert_eq!(survey.server, "Elasticsearch 8.19.0");
    let [table] = &survey.tables[..] else {
        panic!("{survey:?}");
    };
    assert_eq!((table.name.as_str(), table.rows), ("a", Some(3)));
    let columns: Vec<_> = table
        .columns
        .iter()
        .map(|c| (c.name.as_str(), c.kind.as_str()))
        .collect();
    assert_eq!(
        columns,
        [("_id", "keyword"), ("at.x", "long"), ("name", "text")]
    );
}
