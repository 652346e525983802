//! Documents of Elasticsearch as rows: looked up by `join`, and read as a whole.

use std::path::Path;

use busbar_event::Class;
use busbar_flow::{DeadFilter, FlowState};
use serde_json::{Value, json};

use crate::database_lookups::{counted, joined, results, send};
use crate::database_queries::Asked;
use crate::elastic_peer::Peer;
use crate::servers::elasticsearch;
use crate::service_context;
use crate::world::{World, eventually, spec};

const COLUMNS: &str = "[{ name: _id, type: text }, { name: site, type: text }, { name: id, type: int }, { name: name, type: text }, \
     { name: weight, type: float }, { name: born, type: time }, { name: ok, type: bool }, { name: at.ward, type: int }, { name: more, type: json }]";

/// A connection with documents `p` under this key.
fn connection(url: &str, index: &str, key: &str) -> String {
    format!(
        "elasticsearch: {{ url: '{url}', timeout: 60s, tables: {{ p: {{ index: {index}, key: [{key}], columns: {COLUMNS} }} }} }}\n"
    )
}

fn documents() -> Vec<(&'static str, Value)> {
    vec![
        (
            "n/1",
            json!({"site": "n", "id": 1, "name": "张三", "weight": 61.25, "born": "1990-02-28T00:00:00Z", "ok": true,
                "at": {"ward": 5}, "more": [1, {"a": null}]}),
        ),
        ("n/2", json!({"site": "n", "id": 2, "born": 1_500})),
        (
            "s/1",
            json!({"site": "s", "id": 1, "name": "it's", "weight": 2, "ok": false}),
        ),
        // Both sites have it, and neither is its site.
        ("both", json!({"site": ["n", "s"], "id": 9})),
    ]
}

fn is_null(row: &Value, column: &str) -> bool {
    row.get(column).is_none_or(Value::is_null)
}

/// What holds with the stand-in and with the server.
fn look_ups_and_queries(url: &str) {
    let world = joined(
        &connection(url, "docs", "site, id"),
        "table: db.p, on: [site, id], type: left, cache: 1h",
    );
    let rows = [
        json!({"n": 0, "site": "n", "id": 1}),
        json!({"n": 1, "site": "s", "id": 1}),
        json!({"n": 2, "site": "n", "id": 2}),
        json!({"n": 3, "site": "n", "id": 9}),
        json!({"n": 4, "site": "n"}),
        json!({"n": 5, "site": "N", "id": 1}),
        json!({"n": 6, "site": "n", "id": 1}),
    ];
    send(&world, &rows);
    let found = results(&world, 7);
    for at in [0, 6] {
        let row = &found[at];
        assert_eq!(
            [&row["name"], &row["weight"], &row["ok"], &row["at.ward"]],
            [&json!("张三"), &json!(61.25), &json!(true), &json!(5)]
        );
        assert_eq!(
            (&row["_id"], &row["more"]),
            (&json!("n/1"), &json!("[1,{\"a\":null}]"))
        );
        let born = row["born"].as_str().unwrap_or_default();
        assert!(born.starts_with("1990-02-28T00:00:00"), "{row}");
    }
    assert_eq!(
        (&found[1]["name"], &found[1]["weight"]),
        (&json!("it's"), &json!(2.0))
    );
    let born = found[2]["born"].as_str().unwrap_or_default();
    assert!(
        born.starts_with("1970-01-01T00:00:01.5") && is_null(&found[2], "name"),
        "{}",
        found[2]
    );
    for at in [3, 4, 5] {
        assert!(is_null(&found[at], "_id"), "{}", found[at]);
    }
    send(&world, &rows);
    results(&world, 14);
    let counts = counted(&world);
    assert_eq!((counts.keys, counts.failures), (5, 0), "{counts:?}");
    let world = joined(
        &connection(url, "docs", "_id"),
        "table: db.p, on: site = _id, columns: [name], type: left",
    );
    let rows = [
        json!({"n": 0, "site": "n/1"}),
        json!({"n": 1, "site": "n/3"}),
        json!({"n": 2, "site": ""}),
    ];
    send(&world, &rows);
    let found = results(&world, 3);
    assert_eq!(found[0]["name"], "张三");
    assert!(is_null(&found[1], "name") && is_null(&found[2], "name"));
    let asked = Asked::new(&connection(url, "docs", "_id"));
    assert_eq!(
        asked.column("select _id from db.p order by _id"),
        "both,n/1,n/2,s/1"
    );
    assert_eq!(asked.column("select count(*) from db.p"), "4");
    assert_eq!(
        asked.column("select name from db.p where weight < 3"),
        "it's"
    );
    // Several documents have it.
    let twice = joined(
        &connection(url, "docs", "id"),
        "table: db.p, on: id, columns: [name]",
    );
    send(&twice, &[json!({"n": 0, "id": 1})]);
    assert_eq!(stopped(&twice), "elastic.key-twice");
}

fn stopped(world: &World) -> String {
    eventually("the flow stops", || {
        let status = world.flows.status_of("f").expect("a flow");
        match (status.state, status.error) {
            (FlowState::Stopped, Some(error)) if error.class() == Class::Configuration => {
                Ok(error.code().to_owned())
            }
            other => Err(format!("{other:?}")),
        }
    })
}

fn peer() -> Peer {
    let peer = Peer::new();
    {
        let mut store = peer.store.lock();
        store.fields = json!({"site": {"keyword": {}}, "id": {"long": {}}});
        for (id, document) in documents() {
            store.documents.insert(("docs".into(), id.into()), document);
        }
    }
    peer
}

#[test]
fn documents_are_looked_up_and_read() {
    look_ups_and_queries(&peer().url());
}

#[test]
fn keys_of_a_batch_are_one_request_and_answers_that_are_too_large_come_in_parts() {
    let peer = peer();
    for n in 0..40 {
        let key = ("docs".to_owned(), format!("m{n}"));
        let document = json!({"site": format!("m{n}"), "id": n});
        peer.store.lock().documents.insert(key, document);
    }
    for (key, path, padding, requests) in [
        ("_id", "/docs/_mget", 0, 1),
        ("site", "/docs/_search", 0, 1),
        // Sixteen MB are twenty documents.
        ("_id", "/docs/_mget", 800_000, 3),
        ("site", "/docs/_search", 800_000, 3),
    ] {
        let before = peer.bodies(path).len();
        peer.store.lock().padding = padding;
        let join = format!("table: db.p, on: site = {key}, columns: [id as found]");
        let world = joined(&connection(&peer.url(), "docs", key), &join);
        let rows: Vec<_> = (0..40)
            .map(|n| json!({"n": n, "site": format!("m{n}")}))
            .collect();
        send(&world, &rows);
        let found = results(&world, 40);
        assert!(
            found.iter().all(|row| row["found"] == row["n"]),
            "{found:?}"
        );
        assert_eq!(
            peer.bodies(path).len() - before,
            requests,
            "{key} {padding}"
        );
    }
}

#[test]
fn a_field_that_is_compared_by_its_words_is_no_key() {
    let peer = peer();
    let text = connection(&peer.url(), "docs", "site");
    let join = "table: db.p, on: site, columns: [name], type: left";
    peer.store.lock().fields = json!({"site": {"text": {}}});
    let world = joined(&text, join);
    send(&world, &[json!({"n": 0, "site": "n"})]);
    assert_eq!(stopped(&world), "elastic.key-words");
    // Its field of whole values is used.
    peer.store.lock().fields = json!({"site": {"text": {}}, "site.keyword": {"keyword": {}}});
    let key = ("docs".to_owned(), "x".to_owned());
    let document = json!({"site": "a b", "name": "whole"});
    peer.store.lock().documents.insert(key, document);
    let world = joined(&text, join);
    send(&world, &[json!({"n": 0, "site": "a b"})]);
    assert_eq!(results(&world, 1)[0]["name"], "whole");
    let asked = peer.bodies("/docs/_search");
    let asked = asked.last().expect("a search");
    assert!(asked.contains("\"site.keyword\":[\"a b\"]"), "{asked}");
    // Documents with other values could take the place of those that are meant.
    {
        let mut store = peer.store.lock();
        for n in 0..5 {
            let key = ("docs".to_owned(), format!("0{n}"));
            store
                .documents
                .insert(key, json!({"site": ["z", "y"], "id": n}));
        }
    }
    let world = joined(&text, join);
    send(&world, &[json!({"n": 0, "site": "z"})]);
    assert_eq!(stopped(&world), "elastic.key-loose");
}

#[test]
fn a_search_without_one_of_the_shards_is_repeated() {
    let peer = peer();
    peer.store.lock().partial = 1;
    let text = connection(&peer.url(), "docs", "site, id");
    let world = joined(
        &text,
        "table: db.p, on: [site, id], columns: [name], type: left",
    );
    send(&world, &[json!({"n": 0, "site": "s", "id": 1})]);
    assert_eq!(results(&world, 1)[0]["name"], "it's");
    assert_eq!(counted(&world).failures, 1);
}

/// A reading that begins again and again has no end.
#[test]
fn a_page_that_comes_again_ends_the_reading() {
    let peer = peer();
    let registry = busbar_connect::registry();
    let connector = registry.get("elasticsearch").expect("registered");
    let spec = spec(&connection(&peer.url(), "docs", "site, id"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let context = service_context(Path::new("/"));
        let store = connector.store(&spec, context).await.expect("it opens");
        for (repeats, ends) in [(false, true), (true, false)] {
            peer.store.lock().repeats = repeats;
            let mut rows = store.all("p", &[0]).await.expect("it begins");
            let ended = loop {
                match rows.next().await {
                    Ok(Some(_)) => {}
                    other => break other,
                }
            };
            match ended {
                Ok(_) => assert!(ends),
                Err(error) => assert_eq!((error.code(), ends), ("elastic.page-again", false)),
            }
        }
    });
}

/// Elasticsearch itself.
#[test]
#[ignore = "make test-servers"]
fn a_server_finds_and_reads_documents() {
    let server = elasticsearch();
    let ask = |method: &str, path: &str, body: &str| {
        let answer = server.request(method, path, body);
        answer.unwrap_or_else(|why| panic!("{why}: {path}"))
    };
    ask(
        "PUT",
        "/docs",
        "{\"mappings\":{\"properties\":{\"born\":{\"type\":\"date\"},\"id\":{\"type\":\"integer\"},\"more\":{\"enabled\":false}}}}",
    );
    for (id, document) in documents() {
        let path = format!("/docs/_doc/{}?refresh=true", id.replace('/', "%2F"));
        ask("PUT", &path, &document.to_string());
    }
    let url = format!("http://127.0.0.1:{}", server.port);
    look_ups_and_queries(&url);
    // What the field's type cannot have is that event's fault alone.
    let text = connection(&url, "docs", "id, site");
    let world = joined(
        &text,
        "table: db.p, on: [id, site], columns: [name], type: left",
    );
    let rows = [
        json!({"n": 0, "id": 1, "site": "s"}),
        json!({"n": 1, "id": 5_000_000_000_i64, "site": "s"}),
    ];
    send(&world, &rows);
    let letters = || {
        let letters = world.flows.dead_letters(DeadFilter::default(), 10);
        world.tokio.block_on(letters).expect("they are read")
    };
    eventually("both", || {
        match (world.events("out").len(), letters().len()) {
            (out, dead) if out + dead == 2 && out > 0 => Ok(()),
            other => Err(format!("{other:?} {:?}", world.flows.status_of("f"))),
        }
    });
    assert_eq!(
        results(&world, world.events("out").len())[0]["name"],
        "it's"
    );
    let world = joined(
        &connection(&url, "no-such", "site"),
        "table: db.p, on: site, columns: [name]",
    );
    send(&world, &[json!({"n": 0, "site": "s"})]);
    assert_eq!(stopped(&world), "elastic.no-index");
}
