//! What the sink of `mysql` does beside what all sinks do.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Float64Array, ListArray, TimestampMicrosecondArray,
};
use arrow::datatypes::Int64Type;
use busbar_event::{Class, Language};
use tokio::runtime::Runtime;

use crate::postgres_sink::{ints, open, rows, texts, write};
use crate::servers::{DatabaseServer, mariadb, own_mariadb};
use crate::world::eventually;

fn connection(server: &DatabaseServer, database: &str, write: &str) -> String {
    format!(
        "mysql: {{ address: '127.0.0.1:{}', database: {database}, user: root, write: {{ {write} }} }}\n",
        server.port
    )
}

#[test]
fn changes_are_followed_row_by_row() {
    let server = mariadb();
    let database = server.database("create table t (id int primary key, name text, bio text)");
    let text = connection(
        server,
        &database,
        "table: t, change: change, key: [id], unchanged: unchanged",
    );
    let changes = |position, all: &[(&str, i64, &str, &str, &str)]| {
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
    };
    let there = || server.run(&database, "select id, name, bio from t order by id");
    let first = changes(
        1,
        &[
            ("read", 1, "a", "long", ""),
            ("insert", 2, "it's \\ 'x", "x", ""),
            ("insert", 3, "c", "y", ""),
            ("delete", 3, "", "", ""),
            ("schema", 0, "", "", ""),
            ("update", 1, "a2", "", "[\"bio\"]"),
            ("insert", 4, "d", "kept", ""),
            ("update", 4, "d2", "", "bio"),
        ],
    );
    assert_eq!(write(&text, &first).unwrap(), [0; 0]);
    assert_eq!(there(), "1\ta2\tlong\n2\tit's \\\\ 'x\tx\n4\td2\tkept");
    let wrong = changes(2, &[("upsert", 5, "e", "", ""), ("merge", 6, "f", "", "")]);
    assert_eq!(write(&text, &wrong).unwrap(), [1]);
    let emptied = changes(
        3,
        &[
            ("insert", 7, "g", "", ""),
            ("truncate", 0, "", "", ""),
            ("insert", 8, "h", "", ""),
        ],
    );
    assert_eq!(write(&text, &emptied).unwrap(), [0; 0]);
    assert_eq!(there(), "8\th\t");
    // What is delivered again is not done again.
    server.run(&database, "delete from t");
    write(&text, &emptied).unwrap();
    assert_eq!(there(), "");
}

#[test]
fn each_mode_does_its_own() {
    let server = mariadb();
    let database = server.database("create table t (id int primary key, name varchar(10)); insert into t values (1, 'a'), (2, 'b'), (3, 'c')");
    let there = || {
        server.run(
            &database,
            "select group_concat(concat(id, name) order by id) from t",
        )
    };
    let two = |position, name| {
        rows(
            position,
            vec![("id", ints(&[2, 9])), ("name", texts(&[name, name]))],
        )
    };
    write(
        &connection(server, &database, "table: t, mode: update, key: [id]"),
        &two(1, "u"),
    )
    .unwrap();
    assert_eq!(there(), "1a,2u,3c");
    write(
        &connection(server, &database, "table: t, mode: upsert, key: [id]"),
        &two(2, "v"),
    )
    .unwrap();
    assert_eq!(there(), "1a,2v,3c,9v");
    write(
        &connection(server, &database, "table: t, mode: delete, key: [id]"),
        &two(3, ""),
    )
    .unwrap();
    assert_eq!(there(), "1a,3c");
    // The row that is there already is at fault, and the one that is too long; and only these.
    let insert = rows(
        4,
        vec![
            ("id", ints(&[4, 3, 5, 6])),
            ("name", texts(&["d", "x", "e", "01234567890"])),
        ],
    );
    assert_eq!(
        write(&connection(server, &database, "table: t"), &insert).unwrap(),
        [1, 3]
    );
    assert_eq!(there(), "1a,3c,4d,5e");
}

#[test]
fn a_table_is_made_with_the_types_of_the_flow_and_values_are_whole() {
    let server = mariadb();
    let database = server.database("");
    let delivery = rows(
        1,
        vec![
            ("Id", ints(&[i64::MIN, i64::MAX])),
            ("on", Arc::new(BooleanArray::from(vec![true, false]))),
            ("x", Arc::new(Float64Array::from(vec![0.1, f64::MAX]))),
            ("text", texts(&["tab\tline\nback\\slash", "张三 \u{1f600}"])),
            (
                "at",
                Arc::new(TimestampMicrosecondArray::from(vec![
                    0,
                    1_709_164_800_000_001,
                ])),
            ),
            (
                "raw",
                Arc::new(BinaryArray::from(vec![&b"\x00\xff"[..], b""])),
            ),
        ],
    );
    write(
        &connection(server, &database, "table: made, create: true, key: [Id]"),
        &delivery,
    )
    .unwrap();
    let types = "select group_concat(column_type order by ordinal_position) from information_schema.columns where table_schema = database() and table_name = 'made'";
    assert_eq!(
        server.run(&database, types),
        "bigint(20),tinyint(1),double,longtext,datetime(6),longblob"
    );
    assert_eq!(
        server.run(
            &database,
            "select Id, `on`, x, hex(text), at, hex(raw) from made order by Id"
        ),
        "-9223372036854775808\t1\t0.1\t746162096C696E650A6261636B5C736C617368\t1970-01-01 00:00:00.000000\t00FF\n\
         9223372036854775807\t0\t1.7976931348623157e308\tE5BCA0E4B88920F09F9880\t2024-02-29 00:00:00.000001\t"
    );
}

#[test]
fn values_that_would_be_cut_are_refused_unless_it_is_allowed() {
    let server = mariadb();
    let database = server.database("create table t (money decimal(6,2), day date, small smallint, x float, at datetime, short varchar(3))");
    let of = |column, values: ArrayRef, more: &str| {
        write(
            &connection(server, &database, &format!("table: t{more}")),
            &rows(1, vec![(column, values)]),
        )
    };
    let float: ArrayRef = Arc::new(Float64Array::from(vec![1.006]));
    let time: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1]));
    for (column, values) in [
        ("money", &float),
        ("small", &float),
        ("x", &float),
        ("day", &time),
        ("at", &time),
    ] {
        let refused = of(column, Arc::clone(values), "").unwrap_err();
        assert_eq!(
            (refused.class(), refused.code()),
            (Class::Configuration, "connect.type-lossy"),
            "{column}"
        );
    }
    let mixed = rows(
        2,
        vec![
            ("small", ints(&[1, 70_000])),
            ("short", texts(&["abc", "a"])),
        ],
    );
    assert_eq!(
        write(&connection(server, &database, "table: t"), &mixed).unwrap(),
        [1]
    );
    let mixed = rows(
        3,
        vec![
            ("money", texts(&["1.50", "1.005"])),
            (
                "at",
                texts(&["2024-05-06 07:08:09", "2024-05-06 07:08:09.5"]),
            ),
        ],
    );
    assert_eq!(
        write(&connection(server, &database, "table: t"), &mixed).unwrap(),
        [1]
    );
    // Dates that are none.
    let zero = rows(
        4,
        vec![("day", texts(&["0000-00-00", "2024-02-30", "2024-02-29"]))],
    );
    assert_eq!(
        write(&connection(server, &database, "table: t"), &zero).unwrap(),
        [0, 1]
    );
    of("money", float, ", lossy: true, producer: other").unwrap();
    assert_eq!(
        server.run(&database, "select money from t where money = 1.01"),
        "1.01"
    );
}

/// The last microsecond before the year 1, which this server knows no name for.
pub const BEFORE_YEAR_1: i64 = -62_135_596_800_000_001;

#[test]
fn a_list_that_is_not_there_is_null_and_a_time_before_the_first_year_is_refused() {
    let server = mariadb();
    let database = server.database("create table t (id int, list json, at datetime(6))");
    let lists = [Some(vec![Some(1)]), None, Some(vec![]), None];
    let times = [0, BEFORE_YEAR_1, BEFORE_YEAR_1 + 1, 1];
    let delivery = rows(
        1,
        vec![
            ("id", ints(&[1, 2, 3, 4])),
            (
                "list",
                Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists)),
            ),
            (
                "at",
                Arc::new(TimestampMicrosecondArray::from(times.to_vec())),
            ),
        ],
    );
    let text = connection(server, &database, "table: t");
    assert_eq!(write(&text, &delivery).unwrap(), [1]);
    assert_eq!(
        server.run(&database, "select id, list, at from t order by id"),
        "1\t[1]\t1970-01-01 00:00:00.000000\n3\t[]\t0001-01-01 00:00:00.000000\n\
         4\tNULL\t1970-01-01 00:00:00.000001"
    );
}

#[test]
fn what_is_wrong_is_said_with_the_statement_that_mends_it() {
    let server = mariadb();
    let database = server.database(
        "create table t (id int, name text); create table old (id int) engine=MyISAM; \
         create user weak@'127.0.0.1' identified by 'secret'",
    );
    server.run(
        &database,
        &format!("grant select, insert on {database}.t to weak@'127.0.0.1'"),
    );
    let plain = connection(server, &database, "table: t");
    let id = || vec![("id", ints(&[1]))];
    let weak = plain.replace("user: root", "user: weak, password: secret");
    for (text, columns, code, statement) in [
        (
            plain.replace("user: root", "user: weak, password: no"),
            id(),
            "mysql.credentials",
            "ALTER USER 'weak' IDENTIFIED BY",
        ),
        (
            plain.replace(&format!("database: {database}"), "database: nowhere"),
            id(),
            "mysql.no-database",
            "CREATE DATABASE `nowhere`",
        ),
        (
            plain.replace("user: root,", "user: root, tls: {},"),
            id(),
            "mysql.no-tls",
            "ssl_cert",
        ),
        (
            connection(server, &database, "table: gone"),
            id(),
            "mysql.no-table",
            "create: true",
        ),
        (
            connection(server, &database, "table: old"),
            id(),
            "mysql.engine",
            "ALTER TABLE",
        ),
        (
            plain.clone(),
            vec![("nam", texts(&["a"]))],
            "connect.table-column",
            "ADD COLUMN `nam` longtext",
        ),
        (
            connection(server, &database, "table: t, mode: upsert, key: [id]"),
            id(),
            "mysql.no-key",
            "ADD UNIQUE (`id`)",
        ),
        (
            weak,
            id(),
            "mysql.no-positions",
            "`busbar_position` (producer varchar(255)",
        ),
    ] {
        let error = write(&text, &rows(1, columns)).unwrap_err();
        let (en, zh) = (error.message(Language::En), error.message(Language::Zh));
        assert_eq!(
            (error.class(), error.code()),
            (Class::Configuration, code),
            "{en}"
        );
        assert!(
            en.contains(statement) && zh.contains(statement),
            "{en} {zh}"
        );
    }
}

/// Rows and position are one transaction: wherever the server dies, neither is there without the other.
#[test]
fn a_server_that_is_killed_in_the_middle_loses_and_repeats_nothing() {
    let server = own_mariadb();
    let database = server.database("create table t (n bigint)");
    let text = connection(&server, &database, "table: t");
    let of = |position: u64| {
        let numbers: Vec<_> = (0..100).map(|n| position as i64 * 100 + n).collect();
        rows(position, vec![("n", ints(&numbers))])
    };
    let runtime = Runtime::new().expect("a runtime");
    let mut sink = runtime.block_on(open(&text, &of(1))).expect("opens");
    let mut position = 1;
    for round in 0..3_u64 {
        let error = std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                crate::world::rest(60 + 17 * round);
                server.kill();
            });
            let failed = runtime.block_on(async {
                loop {
                    match sink.write(&of(position)).await {
                        Ok(_) => position += 1,
                        Err(error) => break error,
                    }
                }
            });
            killer.join().expect("killed");
            failed
        });
        assert_eq!(error.class(), Class::Transient, "{error:?}");
        server.start();
        eventually("a write", || {
            runtime
                .block_on(sink.write(&of(position)))
                .map(drop)
                .map_err(|why| why.to_string())
        });
        position += 1;
    }
    let count = server.run(
        &database,
        "select count(*) = count(distinct n) and count(*) = max(n) - 99, count(*) from t",
    );
    assert_eq!(count, format!("1\t{}", (position - 1) * 100));
    server.kill();
}
