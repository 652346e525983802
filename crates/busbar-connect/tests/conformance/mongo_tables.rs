//! Documents of MongoDB as rows: looked up by `join`, read as a whole and in the order of fields; and what is on the server.

use std::path::Path;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use busbar_connector::{Polled, Resume, Source};
use busbar_event::Class;
use busbar_table::Scan;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::database_lookups::{joined, results, send};
use crate::servers::{mongodb, mongodb_set};
use crate::world::{source_of, spec};

#[test]
fn documents_are_looked_up_and_read() {
    for server in [mongodb_set(), mongodb()] {
        let database = server.name();
        server.run(
            &database,
            "u = datetime.datetime(1990, 2, 28)\n\
             db.p.insert_many([\n\
             {'site': 'n', 'id': 1, 'name': '张三', 'weight': bson.Decimal128('61.25'), 'born': u, 'ok': True, 'at': {'ward': 5.0}, 'more': [1, {'a': None}]},\n\
             {'site': 'n', 'id': bson.Int64(2)}, {'site': 's', 'id': 1.0, 'name': 'it\\'s', 'weight': 2, 'ok': False}, {'site': 'x', 'id': 1, 'weight': 'heavy'},\n\
             {'site': 'y', 'id': 1}, {'site': 'y', 'id': 1}])",
        );
        let text = format!(
            "mongodb:\n  address: '127.0.0.1:{}'\n  database: {database}\n  timeout: 60s\n  tables:\n    patient:\n      collection: p\n      key: [site, id]\n      columns:\n\
             \x20       - {{ name: site, type: text }}\n\
             \x20       - {{ name: id, type: int }}\n\
             \x20       - {{ name: name, type: text }}\n\
             \x20       - {{ name: weight, type: float }}\n\
             \x20       - {{ name: born, type: time }}\n\
             \x20       - {{ name: ok, type: bool }}\n\
             \x20       - {{ name: at.ward, type: int }}\n\
             \x20       - {{ name: more, type: json }}\n",
            server.port
        );
        let world = joined(
            &text,
            "table: db.patient, on: [site, id], type: left, cache: 1h",
        );
        send(
            &world,
            &[
                json!({"n": 0, "site": "n", "id": 1}),
                json!({"n": 1, "site": "s", "id": 1}),
                json!({"n": 2, "site": "n", "id": 2}),
                json!({"n": 3, "site": "n", "id": 3}),
                json!({"n": 4, "site": "n"}),
            ],
        );
        let found = results(&world, 5);
        assert_eq!(
            [
                &found[0]["name"],
                &found[0]["weight"],
                &found[0]["ok"],
                &found[0]["at.ward"]
            ],
            [&json!("张三"), &json!(61.25), &json!(true), &json!(5)]
        );
        assert!(
            found[0]["born"]
                .as_str()
                .unwrap_or_default()
                .starts_with("1990-02-28T00:00:00")
        );
        assert_eq!(found[0]["more"], r#"[1,{"a":null}]"#);
        assert_eq!(
            (&found[1]["name"], &found[1]["weight"]),
            (&json!("it's"), &json!(2.0))
        );
        assert!(found[2].get("name").is_none_or(|name| name.is_null()));
        let survey = {
            let spec = spec(&text);
            let registry = busbar_connect::registry();
            let connector = registry.get("mongodb").expect("registered");
            let runtime = Runtime::new().expect("a runtime");
            runtime
                .block_on(connector.survey(&spec, Path::new("/").into(), true))
                .expect("it answers")
        };
        assert!(survey.server.starts_with("MongoDB "), "{}", survey.server);
        let table = survey
            .tables
            .iter()
            .find(|table| table.schema == database)
            .expect("the collection");
        assert_eq!((table.name.as_str(), table.rows), ("p", Some(6)));
        let of = |name: &str| {
            table
                .columns
                .iter()
                .find(|column| column.name == name)
                .expect("the field")
        };
        assert!(of("_id").key);
        assert_eq!(
            (of("id").kind.as_str(), of("weight").kind.as_str()),
            ("int, long, double", "decimal, int, string")
        );
    }
}

#[test]
fn all_documents_of_a_collection_are_a_table() {
    for server in [mongodb_set(), mongodb()] {
        let database = server.name();
        server.run(
            &database,
            "db.p.insert_many([{'_id': n, 'x': 'f' * 100} for n in range(3000)])",
        );
        let text = format!(
            "mongodb: {{ address: '127.0.0.1:{}', database: {database}, timeout: 60s, tables: {{ p: {{ collection: p, key: [_id], columns: [{{ name: _id, type: int }}, {{ name: x, type: text }}] }} }} }}\n",
            server.port
        );
        let world = joined(&text, "table: db.p, on: [id = _id]");
        let table = world.databases.table("db.p").expect("it answers");
        let table = table.expect("a table");
        // Also without any column.
        assert_eq!(table.rows().expect("it answers"), 3_000);
        let mut ids = Vec::new();
        for batch in table.scan(&Scan::default()).expect("it is read") {
            let batch = batch.expect("it is read");
            ids.extend(
                batch
                    .column(0)
                    .as_primitive::<Int64Type>()
                    .values()
                    .iter()
                    .copied(),
            );
        }
        ids.sort_unstable();
        assert_eq!(ids, (0..3_000).collect::<Vec<_>>());
    }
}

/// The `_id` of each document that there is now, and how far that is.
async fn all(source: &mut dyn Source, resume: &mut Resume) -> Vec<i64> {
    let mut ids = Vec::new();
    loop {
        match source.poll().await.expect("it is read") {
            Polled::Batch(polling) => {
                let payloads = polling.batch.payloads();
                for row in 0..polling.batch.rows() {
                    let json: serde_json::Value =
                        serde_json::from_slice(payloads.value(row)).expect("JSON");
                    ids.push(json["_id"].as_i64().expect("a number"));
                    assert_eq!(polling.batch.topic(row), "x/p");
                }
                let position = polling.position.last().expect("a position");
                resume.positions.insert(String::new(), position);
                resume.notes.insert(String::new(), polling.note);
            }
            Polled::Idle(pause) if pause.is_zero() => {}
            _ => return ids,
        }
    }
}

#[test]
fn documents_are_read_in_the_order_of_fields_that_grow() {
    for server in [mongodb_set(), mongodb()] {
        let database = server.name();
        // Each time is that of several documents; some have none, and one is of the future.
        server.run(
            &database,
            "u = datetime.datetime(2020, 1, 1)\n\
             db.p.insert_many([{'_id': n, 'at': u + datetime.timedelta(seconds=n // 7), 'site': 'n'} for n in range(500)])\n\
             db.p.insert_many([{'_id': 1000, 'site': 'n'}, {'_id': 1001, 'site': 'n', 'at': datetime.datetime(2999, 1, 1)}, {'_id': 1002, 'site': 's', 'at': u}])",
        );
        let text = |sort: &str| {
            format!(
                "mongodb: {{ address: '127.0.0.1:{}', database: {database}, timeout: 60s, read: {{ collection: p, sort: [{sort}], query: '{{\"site\":\"n\"}}', rows: 64, every: 1s }} }}\n",
                server.port
            )
        };
        Runtime::new().expect("a runtime").block_on(async {
            let mut resume = Resume::default();
            let mut first = source_of(&text("at, _id"), resume.clone()).await;
            let ids = all(first.as_mut(), &mut resume).await;
            assert_eq!(ids, (0..500).collect::<Vec<_>>());
            server.run(
                &database,
                "u = datetime.datetime(2020, 1, 2)\ndb.p.insert_many([{'_id': 500 + n, 'at': u, 'site': 'n'} for n in range(3)])",
            );
            // Another process goes on behind what was committed.
            let mut second = source_of(&text("at, _id"), resume.clone()).await;
            assert_eq!(all(second.as_mut(), &mut resume).await, [500, 501, 502]);
            let mut same = source_of(&text("at"), Resume::default()).await;
            let refused = same.poll().await.expect_err("two have the same time");
            assert_eq!((refused.class(), refused.code()), (Class::Configuration, "mongodb.sort-same"));
        });
    }
}
