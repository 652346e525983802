//! Keys that differ here and are one to the database, and rows that are in the way of others by other columns than the key.

use busbar_connector::Delivery;

use crate::driver_engine::Engine;
use crate::postgres_sink::{connection, rows, texts, write};
use crate::servers::{mariadb, postgres};

/// Changes of rows with a key and a value.
fn changes(all: &[(&str, &str, &str)]) -> Delivery {
    let (mut change, mut id, mut name) = (Vec::new(), Vec::new(), Vec::new());
    for row in all {
        change.push(row.0);
        id.push(row.1);
        name.push(row.2);
    }
    rows(
        1,
        vec![
            ("change", texts(&change)),
            ("id", texts(&id)),
            ("name", texts(&name)),
        ],
    )
}

/// Upserts of rows with a key, a value that is there once only, and another one.
fn people(all: &[(&str, &str, &str)]) -> Delivery {
    let (mut id, mut mail, mut name) = (Vec::new(), Vec::new(), Vec::new());
    for row in all {
        id.push(row.0);
        mail.push(row.1);
        name.push(row.2);
    }
    rows(
        1,
        vec![
            ("id", texts(&id)),
            ("mail", texts(&mail)),
            ("name", texts(&name)),
        ],
    )
}

/// The second of two keys stands before the first one by its bytes, and what is deleted stands behind what it deletes.
const ALIKE: [(&str, &str, &str); 7] = [
    ("upsert", "a", "1"),
    ("upsert", "A", "2"),
    ("upsert", "b", "3"),
    ("delete", "B", ""),
    ("upsert", "é", "4"),
    ("upsert", "E", "5"),
    ("upsert", "雨", "6"),
];

const WRITE: &str = "change: change, key: [id]";

fn mysql(database: &str, write: &str) -> String {
    let port = mariadb().port;
    format!(
        "mysql: {{ address: '127.0.0.1:{port}', database: {database}, user: root, write: {{ {write} }} }}\n"
    )
}

#[test]
fn keys_that_are_one_to_the_database_are_written_in_their_order() {
    let server = mariadb();
    let made = "create table t (id varchar(10) collate utf8mb4_general_ci primary key, name text)";
    let database = server.database(made);
    let there = || server.run(&database, "select name from t order by name");
    for newer in ["", ", newer: name"] {
        let anew = "delete from t; drop table if exists busbar_position";
        server.run(&database, anew);
        let text = mysql(&database, &format!("table: t, {WRITE}{newer}"));
        let mut all = ALIKE;
        // As new as what it deletes.
        all[3].2 = "3";
        assert_eq!(write(&text, &changes(&all)).unwrap(), [0; 0]);
        assert_eq!(there(), "2\n5\n6", "{newer}");
    }

    let server = postgres();
    let database = server.database(
        "create collation alike (provider = icu, locale = 'und-u-ks-level1', deterministic = false); \
         create table t (id text collate alike primary key, name text); create table padded (id char(4) primary key, name text)",
    );
    let text = connection(server, &database, &format!("table: t, {WRITE}"));
    assert_eq!(write(&text, &changes(&ALIKE)).unwrap(), [0; 0]);
    let there = server.run(&database, "select name from t order by name");
    assert_eq!(there, "2\n5\n6");
    let padded = [
        ("upsert", "a", "1"),
        ("delete", "a ", ""),
        ("upsert", "b", "2"),
        ("upsert", "b  ", "3"),
    ];
    let write_padded = format!("table: padded, producer: p, {WRITE}");
    let text = connection(server, &database, &write_padded);
    assert_eq!(write(&text, &changes(&padded)).unwrap(), [0; 0]);
    assert_eq!(
        server.run(&database, "select id, name from padded"),
        "b   |3"
    );
}

/// The texts of one number, moment or UUID: the last one counts, and what is deleted is gone.
#[test]
fn texts_of_one_value_are_one_key() {
    let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    let upper = uuid.to_uppercase();
    let numbers = ["1", "1.0", "2.50", "+2.5", "3"];
    let moments = [
        "2024-05-06 07:08:09",
        "2024-05-06T07:08:09.00",
        "2024-05-07 00:00:00",
        "2024-05-07",
        "2024-05-08",
    ];
    let other = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12";
    let upper_other = other.to_uppercase();
    let last = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a13";
    let uuids = [uuid, &upper, other, &upper_other, last];
    let (first, second) = (postgres(), mariadb());
    for (kinds, keys) in [
        (["numeric(10,2)", "decimal(10,2)"], numbers),
        (["timestamp", "datetime"], moments),
        (["uuid", "uuid"], uuids),
    ] {
        let all = [
            ("upsert", keys[0], "1"),
            ("upsert", keys[1], "2"),
            ("upsert", keys[2], "3"),
            ("delete", keys[3], ""),
            ("upsert", keys[4], "4"),
        ];
        for (server, kind) in [first, second].into_iter().zip(kinds) {
            let made = format!("create table t (id {kind} primary key, name text)");
            let database = server.database(&made);
            let table = format!("table: t, {WRITE}");
            let text = match std::ptr::eq(server, first) {
                true => connection(server, &database, &table),
                false => mysql(&database, &table),
            };
            assert_eq!(write(&text, &changes(&all)).unwrap(), [0; 0], "{kind}");
            let there = server.run(&database, "select name from t order by name");
            assert_eq!(there, "2\n4", "{kind}");
        }
    }
}

#[test]
fn keys_that_are_one_to_the_database_are_written_in_their_order_by_drivers() {
    for name in ["mariadb", "mariadb-odbc"] {
        let engine = Engine::start(name);
        let table = engine.table();
        engine.run(&format!(
            "create table {table} (id varchar(10) character set utf8mb4 collate utf8mb4_general_ci primary key, name varchar(9))"
        ));
        let write = format!("table: {table}, {WRITE}");
        let written = engine.write(&write, &changes(&ALIKE));
        assert_eq!(written.expect(name), [0; 0]);
        let there = engine.texts(&format!("select name from {table} order by name"));
        assert_eq!(there, ["2", "5", "6"], "{name}");
    }
}

/// Three rows of which the second one has a value that the first one has: MySQL itself would take it for that one.
const PEOPLE: [(&str, &str, &str); 3] = [("1", "x", "c"), ("2", "x", "b"), ("3", "y", "d")];

const MADE: &str = "(id int primary key, mail varchar(20) unique, name varchar(20))";

#[test]
fn a_row_that_another_one_is_in_the_way_of_leaves_that_one_as_it_is() {
    let server = mariadb();
    let made = format!("create table t {MADE}; insert into t values (1, 'x', 'a')");
    let database = server.database(&made);
    let there = || server.run(&database, "select id, mail, name from t order by id");
    let text = mysql(&database, "table: t, mode: upsert, key: [id]");
    assert_eq!(write(&text, &people(&PEOPLE)).unwrap(), [1]);
    assert_eq!(there(), "1\tx\tc\n3\ty\td");
    // The same with a comparison: only what is newer is written, and what gives way is not added.
    server.run(&database, "delete from busbar_position");
    let text = mysql(&database, "table: t, mode: upsert, key: [id], newer: name");
    let older = [
        ("1", "x", "b"),
        ("2", "y", "e"),
        ("3", "z", "e"),
        ("4", "w", "a"),
    ];
    assert_eq!(write(&text, &people(&older)).unwrap(), [1]);
    assert_eq!(there(), "1\tx\tc\n3\tz\te\n4\tw\ta");
    // An index of a part of a column does not tell rows apart by the whole of it.
    let made = "create table t (id varchar(20), name varchar(20), unique (name, id(3)))";
    let database = server.database(made);
    let text = mysql(&database, "table: t, change: mail, key: [name]");
    let error = write(&text, &people(&PEOPLE)).unwrap_err();
    assert_eq!(error.code(), "mysql.no-key");
}

#[test]
fn a_row_that_another_one_is_in_the_way_of_leaves_that_one_as_it_is_by_drivers() {
    for name in ["mariadb", "mariadb-odbc"] {
        let engine = Engine::start(name);
        let table = engine.table();
        engine.run(&format!("create table {table} {MADE}"));
        engine.run(&format!("insert into {table} values (1, 'x', 'a')"));
        let write = format!("table: {table}, mode: upsert, key: [id]");
        // The last one is the same already, which not every driver counts.
        engine.run(&format!("insert into {table} values (3, 'y', 'd')"));
        let written = engine.write(&write, &people(&PEOPLE));
        assert_eq!(written.expect(name), [1], "{name}");
        let there = engine.texts(&format!("select id, mail, name from {table} order by id"));
        assert_eq!(there, ["1|x|c", "3|y|d"], "{name}");
    }
}
