//! What the sink of `jdbc` and `odbc` does beside what all sinks do, on each engine.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, BooleanArray, Float64Array, TimestampMicrosecondArray};
use busbar_event::{Class, Language};

use crate::driver_engine::{ENGINES, Engine};
use crate::postgres_sink::{ints, rows, texts};

fn changes(position: u64, all: &[(&str, i64, &str, &str, &str)]) -> busbar_connector::Delivery {
    rows(
        position,
        vec![
            (
                "change",
                texts(&all.iter().map(|row| row.0).collect::<Vec<_>>()),
            ),
            ("id", ints(&all.iter().map(|row| row.1).collect::<Vec<_>>())),
            (
                "name",
                texts(&all.iter().map(|row| row.2).collect::<Vec<_>>()),
            ),
            (
                "bio",
                texts(&all.iter().map(|row| row.3).collect::<Vec<_>>()),
            ),
            (
                "unchanged",
                texts(&all.iter().map(|row| row.4).collect::<Vec<_>>()),
            ),
        ],
    )
}

#[test]
fn changes_are_followed_row_by_row_on_each_engine() {
    for name in ENGINES {
        let engine = Engine::start(name);
        let table = engine.table();
        engine.run(&format!(
            "create table {table} (id integer not null primary key, name varchar(100), bio varchar(100))"
        ));
        let write = format!("table: {table}, change: change, key: [id], unchanged: unchanged");
        let there = || engine.texts(&format!("select id, name, bio from {table} order by id"));
        let first = changes(
            1,
            &[
                ("read", 1, "a", "long", ""),
                ("insert", 2, "it's \\ 'x", "x", ""),
                ("insert", 3, "c", "y", ""),
                ("delete", 3, "", "", ""),
                ("schema", 0, "", "", ""),
                ("update", 1, "a2", "", "[\"bio\"]"),
                ("insert", 4, "雨", "kept", ""),
                ("update", 4, "雨😀", "", "bio"),
            ],
        );
        assert_eq!(engine.write(&write, &first).expect(name), [0; 0], "{name}");
        assert_eq!(
            there(),
            ["1|a2|long", "2|it's \\ 'x|x", "4|雨😀|kept"],
            "{name}"
        );
        let wrong = changes(2, &[("upsert", 5, "e", "", ""), ("merge", 6, "f", "", "")]);
        assert_eq!(engine.write(&write, &wrong).expect(name), [1], "{name}");
        let emptied = changes(
            3,
            &[
                ("insert", 7, "g", "", ""),
                ("truncate", 0, "", "", ""),
                ("insert", 8, "h", "b", ""),
            ],
        );
        assert_eq!(
            engine.write(&write, &emptied).expect(name),
            [0; 0],
            "{name}"
        );
        assert_eq!(there(), ["8|h|b"], "{name}");
        // What is delivered again is not done again.
        engine.run(&format!("delete from {table}"));
        engine.write(&write, &emptied).expect(name);
        assert_eq!(there(), [""; 0], "{name}");
    }
}

#[test]
fn each_mode_does_its_own_on_each_engine() {
    for name in ENGINES {
        let engine = Engine::start(name);
        let table = engine.table();
        engine.run(&format!(
            "create table {table} (id integer not null primary key, name varchar(10))"
        ));
        engine.run(&format!(
            "insert into {table} values (1, 'a'), (2, 'b'), (3, 'c')"
        ));
        let there = || {
            let rows = engine.texts(&format!("select id, name from {table} order by id"));
            rows.join(",").replace('|', "")
        };
        let two = |position, value| {
            rows(
                position,
                vec![("id", ints(&[2, 9])), ("name", texts(&[value, value]))],
            )
        };
        let write = |mode: &str, rows: &busbar_connector::Delivery| {
            let write = format!("table: {table}, {mode}");
            engine
                .write(&write, rows)
                .unwrap_or_else(|why| panic!("{name}: {why}"))
        };
        write("mode: update, key: [id]", &two(1, "u"));
        assert_eq!(there(), "1a,2u,3c", "{name}");
        write("mode: upsert, key: [id]", &two(2, "v"));
        assert_eq!(there(), "1a,2v,3c,9v", "{name}");
        write("mode: delete, key: [id]", &two(3, ""));
        assert_eq!(there(), "1a,3c", "{name}");
        // The row that is there already is at fault, and the one that is too long; and only these.
        let insert = rows(
            4,
            vec![
                ("id", ints(&[4, 3, 5, 6])),
                ("name", texts(&["d", "x", "e", "01234567890"])),
            ],
        );
        // SQLite takes texts of any length.
        let (refused, rest) = match engine.database {
            "sqlite" => (vec![1], ",601234567890"),
            _ => (vec![1, 3], ""),
        };
        assert_eq!(write("mode: insert", &insert), refused, "{name}");
        assert_eq!(there(), format!("1a,3c,4d,5e{rest}"), "{name}");
        // Out of range, also for drivers that would cut it.
        let large = rows(
            5,
            vec![("id", ints(&[7, 1 << 40])), ("name", texts(&["g", "h"]))],
        );
        // SQLite's whole numbers have 64 bits.
        let (refused, more) = match engine.database {
            "sqlite" => (vec![], ",1099511627776h"),
            _ => (vec![1], ""),
        };
        assert_eq!(write("mode: insert", &large), refused, "{name}");
        assert_eq!(there(), format!("1a,3c,4d,5e{rest},7g{more}"), "{name}");
    }
}

#[test]
fn standard_sql_alone_does_for_a_database_that_is_not_known() {
    let engine = Engine::start("h2");
    let table = engine.table();
    engine.run(&format!(
        "create table \"{table}\" (\"id\" integer not null primary key, \"name\" varchar(10))"
    ));
    engine.run(&format!("insert into \"{table}\" values (2, 'b')"));
    let text = format!("write: {{ table: {table}, mode: upsert, key: [id] }}\n  dialect: generic");
    let two = rows(
        1,
        vec![("id", ints(&[2, 9, 2])), ("name", texts(&["u", "v", "w"]))],
    );
    engine.runtime.block_on(async {
        let context = busbar_connector::SinkContext {
            name: "x".into(),
            project_dir: engine.folder.path().into(),
            clock: Arc::new(busbar_log::SystemClock),
            schema: two.rows.schema(),
        };
        let spec = crate::world::spec(&engine.connection(&text));
        let mut sink = engine
            .connector
            .sink(&spec, context)
            .await
            .expect("it opens");
        sink.write(&two).await.expect("written");
    });
    let there = engine.texts(&format!("select * from \"{table}\" order by \"id\""));
    assert_eq!(there, ["2|w", "9|v"]);
}

#[test]
fn a_table_is_made_with_the_types_of_the_flow_and_values_are_whole() {
    for name in ENGINES {
        let engine = Engine::start(name);
        let table = engine.table();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", ints(&[1, 2])),
            ("code", texts(&["a", "b"])),
            ("yes", Arc::new(BooleanArray::from(vec![true, false]))),
            ("num", Arc::new(Float64Array::from(vec![0.1 + 0.2, -1e300]))),
            (
                "at",
                Arc::new(TimestampMicrosecondArray::from(vec![
                    1_715_000_889_123_456,
                    -1,
                ])),
            ),
            (
                "raw",
                Arc::new(BinaryArray::from(vec![&b"\x00\xff"[..], b""])),
            ),
            ("txt", texts(&["雨😀\n\"'\\", "x"])),
        ];
        let delivery = rows(1, columns);
        let write = format!("table: {table}, create: true, mode: upsert, key: [id, code]");
        assert_eq!(
            engine.write(&write, &delivery).expect(name),
            [0; 0],
            "{name}"
        );
        let there = engine.texts(&format!("select * from {table} order by id"));
        let zone = if engine.database == "postgres" {
            "Z"
        } else {
            ""
        };
        // MariaDB's ODBC driver does not say that a number is a truth value.
        let [yes, no] = match name {
            "mariadb-odbc" => ["1", "0"],
            _ => ["true", "false"],
        };
        // SQLite's ODBC driver reads numbers as texts of 15 digits.
        let num = match name {
            "sqlite-odbc" => "0.3",
            _ => "0.30000000000000004",
        };
        assert_eq!(
            there,
            [
                format!("1|a|{yes}|{num}|2024-05-06T13:08:09.123456{zone}|00ff|雨😀\n\"'\\"),
                format!("2|b|{no}|-1e+300|1969-12-31T23:59:59.999999{zone}||x"),
            ],
            "{name}"
        );
        // And again, into the table that is there now.
        assert_eq!(
            engine
                .write(
                    &write,
                    &rows(
                        2,
                        vec![
                            ("id", ints(&[2])),
                            ("code", texts(&["b"])),
                            ("txt", texts(&["y"])),
                        ]
                    )
                )
                .expect(name),
            [0; 0],
            "{name}"
        );
        let there = engine.texts(&format!("select txt from {table} order by id"));
        assert_eq!(there[1], "y", "{name}");
    }
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    for name in ["h2", "postgres-odbc"] {
        unfit_is_refused(&Engine::start(name));
    }
}

fn unfit_is_refused(engine: &Engine) {
    let table = engine.table();
    engine.run(&format!(
        "create table {table} (id integer primary key, num decimal(10, 2), born date, seen timestamp(3), name varchar(10))"
    ));
    let open = |write: &str, columns: Vec<(&str, ArrayRef)>| {
        let delivery = rows(1, columns);
        engine.write(&write.replace("TABLE", &table), &delivery)
    };
    let refused = |write: &str, columns: Vec<(&str, ArrayRef)>, code: &str, part: &str| {
        let why = open(write, columns).expect_err(code);
        assert_eq!(
            (why.class(), why.code()),
            (Class::Configuration, code),
            "{why}"
        );
        for language in [Language::En, Language::Zh] {
            let said = why.message(language);
            assert!(said.contains(part) && !said.contains(code), "{said}");
        }
    };
    let at = || -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(vec![1])) };
    let float = || -> ArrayRef { Arc::new(Float64Array::from(vec![0.125])) };
    refused(
        "table: no_such",
        vec![("id", ints(&[1]))],
        "driver.no-table",
        "no_such",
    );
    refused(
        "table: TABLE",
        vec![("other", ints(&[1]))],
        "connect.table-column",
        "other",
    );
    refused(
        "table: TABLE",
        vec![("num", float())],
        "connect.type-lossy",
        "num",
    );
    refused(
        "table: TABLE",
        vec![("born", at())],
        "connect.type-lossy",
        "born",
    );
    refused(
        "table: TABLE",
        vec![("seen", at())],
        "connect.type-lossy",
        "seen",
    );
    refused(
        "table: TABLE",
        vec![("id", at())],
        "connect.type-never",
        "id",
    );
    refused(
        "table: TABLE, mode: upsert, key: [name]",
        vec![("id", ints(&[1])), ("name", texts(&["x"]))],
        "driver.no-key",
        if engine.database == "h2" {
            "NAME"
        } else {
            "name"
        },
    );
    // Where it is allowed, it is rounded; a text that would be is a dead letter.
    let lossy = vec![("id", ints(&[1])), ("num", float())];
    assert_eq!(
        open("table: TABLE, lossy: true", lossy).expect("written"),
        [0; 0]
    );
    assert_eq!(engine.texts(&format!("select num from {table}")), ["0.12"]);
    let cut = rows(
        2,
        vec![
            ("id", ints(&[2, 3, 4])),
            ("num", texts(&["1.50", "1.505", "x"])),
        ],
    );
    assert_eq!(
        engine
            .write(&format!("table: {table}"), &cut)
            .expect("written"),
        [1, 2]
    );
}

#[test]
fn a_time_before_the_first_year_is_refused() {
    let engine = Engine::start("h2");
    let table = engine.table();
    engine.run(&format!("create table {table} (at timestamp(6))"));
    let times = [0, crate::mysql_sink::BEFORE_YEAR_1];
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times.to_vec()));
    let written = engine.write(&format!("table: {table}"), &rows(1, vec![("at", times)]));
    assert_eq!(written.expect("written"), [1]);
}
