//! Hashes of Redis as rows: looked up by `join`, and read as a whole.

use std::collections::BTreeSet;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use busbar_event::Class;
use busbar_flow::DeadFilter;
use busbar_table::Scan;
use serde_json::{Value as Json, json};

use crate::database_lookups::{counted, joined, results, send};
use crate::servers::{Cut, redis};
use crate::world::{World, eventually};

/// A connection named `db` to rows named `patient`, whose keys begin with this text.
fn connection(port: u16, begin: &str) -> String {
    format!(
        "redis:\n  address: '127.0.0.1:{port}'\n  timeout: 20s\n  tables:\n    patient:\n      key: '{begin}:${{site}}:${{id}}'\n      columns:\n\
         \x20       - {{ name: site, type: text }}\n\
         \x20       - {{ name: id, type: int }}\n\
         \x20       - {{ name: name, type: text }}\n\
         \x20       - {{ name: weight, type: float }}\n\
         \x20       - {{ name: born, type: time }}\n\
         \x20       - {{ name: ok, type: bool }}\n"
    )
}

fn letters(world: &World) -> Vec<String> {
    let letters = world
        .tokio
        .block_on(world.flows.dead_letters(DeadFilter::default(), 10));
    let letters = letters.expect("they are read");
    letters.iter().map(|letter| letter.code.clone()).collect()
}

#[test]
fn hashes_are_looked_up_by_the_columns_of_their_keys() {
    let server = redis();
    let name = server.name();
    server.run(
        "",
        &format!(
            "hset {name}:n:1 name 张三 weight 61.25 born 1990-02-28T00:00:00Z ok true\n\
             hset {name}:n:2 other 1\n\
             hset {name}:s:1 name \"it's\" born '2001-01-01 08:00:00' ok 0\n\
             hset {name}:x:1 weight heavy\n\
             set {name}:y:1 text\n"
        ),
    );
    let join = "table: db.patient, on: [site, id], type: left, cache: 1h";
    let world = joined(&connection(server.port, &name), join);
    let rows = [
        json!({"n": 0, "site": "n", "id": 1}),
        json!({"n": 1, "site": "s", "id": 1}),
        // A hash without these fields, no hash, and no key.
        json!({"n": 2, "site": "n", "id": 2}),
        json!({"n": 3, "site": "n", "id": 3}),
        json!({"n": 4, "site": "n"}),
    ];
    send(&world, &rows);
    let found = results(&world, 5);
    let born = |row: &Json| row["born"].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        (&found[0]["name"], &found[0]["weight"], &found[0]["ok"]),
        (&json!("张三"), &json!(61.25), &json!(true))
    );
    assert!(born(&found[0]).starts_with("1990-02-28T00:00:00"));
    assert_eq!(
        (&found[1]["name"], &found[1]["ok"]),
        (&json!("it's"), &json!(false))
    );
    assert!(born(&found[1]).starts_with("2001-01-01T08:00:00"));
    let counts = counted(&world);
    assert_eq!((counts.keys, counts.found, counts.cached), (4, 3, 0));
    send(&world, &rows);
    results(&world, 10);
    let counts = counted(&world);
    assert_eq!((counts.keys, counts.cached), (4, 4), "{counts:?}");
    assert_eq!((counts.pool.size, counts.pool.used), (8, 0));
    // A value of another type, and a key that holds something else: each is the fault of one event.
    send(
        &world,
        &[
            json!({"n": 5, "site": "x", "id": 1}),
            json!({"n": 6, "site": "n", "id": 1}),
            json!({"n": 7, "site": "y", "id": 1}),
        ],
    );
    results(&world, 11);
    let codes = eventually("dead letters", || match letters(&world) {
        codes if codes.len() == 2 => Ok(codes),
        codes => Err(format!("{codes:?}")),
    });
    let codes: BTreeSet<&str> = codes.iter().map(String::as_str).collect();
    assert_eq!(
        codes,
        BTreeSet::from(["database.value", "redis.wrong-type"])
    );
}

#[test]
fn a_server_that_goes_away_holds_the_flow_up_and_loses_nothing() {
    let server = redis();
    let name = server.name();
    server.run(
        "",
        &format!("hset {name}:n:1 name a\nhset {name}:n:2 name b\n"),
    );
    let cut = Cut::before(server.port);
    let join = "table: db.patient, on: [site, id], columns: [name], cache: 0s";
    let world = joined(&connection(cut.port, &name), join);
    send(&world, &[json!({"n": 0, "site": "n", "id": 1})]);
    results(&world, 1);
    cut.cut();
    send(&world, &[json!({"n": 1, "site": "n", "id": 2})]);
    eventually("the flow says so", || {
        let status = world.flows.status_of("f").expect("a flow");
        let errors = status.nodes.iter().filter_map(|node| node.error.as_ref());
        match errors.map(|error| error.class()).next() {
            Some(Class::Transient) => Ok(()),
            other => Err(format!("{other:?} {:?}", status.state)),
        }
    });
    cut.join();
    let found = results(&world, 2);
    assert_eq!(
        (&found[0]["name"], &found[1]["name"]),
        (&json!("a"), &json!("b"))
    );
    assert!(letters(&world).is_empty());
}

#[test]
fn all_rows_are_read_each_once() {
    let server = redis();
    let name = server.name();
    let hashes = (0..3000).map(|id| format!("hset {name}:s{}:{id} name r{id}\n", id % 7));
    server.run("", &hashes.collect::<String>());
    // Other kinds of values, other keys, and a key that no row has.
    server.run(
        "",
        &format!("set {name}:n:1 x\nhset {name}:n name x\nhset other:{name}:n:1 name x\n"),
    );
    let join = "table: db.patient, on: [site, id], columns: [name]";
    let world = joined(&connection(server.port, &name), join);
    let table = world.databases.table("db.patient").expect("it answers");
    let table = table.expect("a table");
    assert_eq!(table.key(), ["site", "id"]);
    assert_eq!(table.rows().expect("it answers"), 3000);
    let scan = Scan {
        projection: Some(vec![2, 1]),
        ..Scan::default()
    };
    let mut ids = BTreeSet::new();
    for batch in table.scan(&scan).expect("it answers") {
        let batch = batch.expect("it answers");
        let (names, numbers) = (
            batch.column(0).as_string::<i32>(),
            batch.column(1).as_primitive::<Int64Type>(),
        );
        for (name, id) in names.iter().zip(numbers) {
            let id = id.expect("part of the key");
            assert_eq!(name, Some(format!("r{id}").as_str()));
            assert!(ids.insert(id), "{id} twice");
        }
    }
    assert_eq!(ids.len(), 3000);
    let unknown = world.databases.table("db.nobody").expect("it is known");
    assert!(unknown.is_none());
}
