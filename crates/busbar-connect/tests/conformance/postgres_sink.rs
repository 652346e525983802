//! What the sink of `postgres` does beside what all sinks do.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, ListArray, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Field, Int64Type, Schema};
use busbar_connector::{Delivery, Sink, SinkContext};
use busbar_event::{Class, Error, Language};
use tokio::runtime::Runtime;

use crate::servers::{DatabaseServer, postgres};
use crate::sinks::delivery;
use crate::world::{eventually, spec};

pub fn connection(server: &DatabaseServer, database: &str, write: &str) -> String {
    format!(
        "postgres: {{ address: '127.0.0.1:{}', database: {database}, user: postgres, password: secret, write: {{ {write} }} }}\n",
        server.port
    )
}

/// Columns by name, as a delivery.
pub fn rows(position: u64, columns: Vec<(&str, ArrayRef)>) -> Delivery {
    let fields: Vec<_> = columns
        .iter()
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), true))
        .collect();
    let batch = RecordBatch::try_new(
        Arc::new(Schema::new(fields)),
        columns.into_iter().map(|(_, column)| column).collect(),
    );
    let batch = batch.expect("rows");
    let payloads = vec!["{}"; batch.num_rows()];
    Delivery {
        rows: batch,
        ..delivery("t", &payloads, position)
    }
}

pub async fn open(text: &str, like: &Delivery) -> Result<Box<dyn Sink>, Error> {
    let registry = busbar_connect::registry();
    let spec = spec(text);
    let connector = registry.get(&spec.kind).expect("registered");
    let context = SinkContext {
        name: "x".into(),
        project_dir: Path::new("/").into(),
        clock: Arc::new(busbar_log::SystemClock),
        schema: like.rows.schema(),
    };
    connector.sink(&spec, context).await
}

/// What writing comes to: the rejected rows, or the error's class and code.
pub fn write(text: &str, rows: &Delivery) -> Result<Vec<usize>, Error> {
    Runtime::new().expect("a runtime").block_on(async {
        let written = open(text, rows).await?.write(rows).await?;
        Ok(written.rejected.into_iter().map(|(row, _)| row).collect())
    })
}

pub fn ints(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

pub fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

#[test]
fn changes_are_followed_row_by_row() {
    let server = postgres();
    let database = server.database("create table t (id int primary key, name text, bio text)");
    let text = connection(
        server,
        &database,
        "table: t, change: change, key: [id], unchanged: unchanged",
    );
    let changes = |position, rows_: &[(&str, i64, &str, &str, &str)]| {
        rows(
            position,
            vec![
                (
                    "change",
                    texts(&rows_.iter().map(|row| row.0).collect::<Vec<_>>()),
                ),
                (
                    "id",
                    ints(&rows_.iter().map(|row| row.1).collect::<Vec<_>>()),
                ),
                (
                    "name",
                    texts(&rows_.iter().map(|row| row.2).collect::<Vec<_>>()),
                ),
                (
                    "bio",
                    texts(&rows_.iter().map(|row| row.3).collect::<Vec<_>>()),
                ),
                (
                    "unchanged",
                    texts(&rows_.iter().map(|row| row.4).collect::<Vec<_>>()),
                ),
            ],
        )
    };
    let there = || server.run(&database, "select id, name, bio from t order by id");
    let first = changes(
        1,
        &[
            ("read", 1, "a", "long", ""),
            ("insert", 2, "b", "x", ""),
            ("update", 2, "b2", "x2", ""),
            ("insert", 3, "c", "y", ""),
            ("delete", 3, "", "", ""),
            ("schema", 0, "", "", ""),
            // The value that the database did not repeat stays, also where the row came just before.
            ("update", 1, "a2", "", "[\"bio\"]"),
            ("insert", 4, "d", "kept", ""),
            ("update", 4, "d2", "", "bio"),
        ],
    );
    assert_eq!(write(&text, &first).unwrap(), [0; 0]);
    assert_eq!(there(), "1|a2|long\n2|b2|x2\n4|d2|kept");
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
    assert_eq!(there(), "8|h|");
    // What is delivered again is not done again.
    server.run(&database, "delete from t");
    write(&text, &emptied).unwrap();
    assert_eq!(there(), "");
}

#[test]
fn each_mode_does_its_own() {
    let server = postgres();
    let database = server.database("create table t (id int primary key, name text); insert into t values (1, 'a'), (2, 'b'), (3, 'c')");
    let there = || {
        server.run(
            &database,
            "select string_agg(id || name, ',' order by id) from t",
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
    // The row that is there already is at fault, and only it.
    let insert = rows(
        4,
        vec![("id", ints(&[4, 3, 5])), ("name", texts(&["d", "x", "e"]))],
    );
    assert_eq!(
        write(&connection(server, &database, "table: t"), &insert).unwrap(),
        [1]
    );
    assert_eq!(there(), "1a,3c,4d,5e");
}

#[test]
fn a_table_is_made_with_the_types_of_the_flow_and_values_are_whole() {
    let server = postgres();
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
    let types = "select string_agg(format_type(atttypid, atttypmod), ', ' order by attnum) from pg_attribute where attrelid = 'made'::regclass and attnum > 0";
    assert_eq!(
        server.run(&database, types),
        "bigint, boolean, double precision, text, timestamp with time zone, bytea"
    );
    let values = "set timezone = 'UTC'; select \"Id\", \"on\", x, md5(text), at, raw from made order by \"Id\"";
    let text = |text: &str| server.run(&database, &format!("select md5({text})"));
    let (first, second) = (
        text("E'tab\\tline\\nback\\\\slash'"),
        text("'张三 \u{1f600}'"),
    );
    assert_eq!(
        server.run(&database, values),
        format!(
            "-9223372036854775808|t|0.1|{first}|1970-01-01 00:00:00+00|\\x00ff\n\
             9223372036854775807|f|1.7976931348623157e+308|{second}|2024-02-29 00:00:00.000001+00|\\x"
        )
    );
}

#[test]
fn values_that_would_be_cut_are_refused_unless_it_is_allowed() {
    let server = postgres();
    let database = server.database(
        "create table t (money numeric(6,2), day date, small smallint, x real, short varchar(3))",
    );
    let lossy = |column, values: ArrayRef, more: &str| {
        write(
            &connection(server, &database, &format!("table: t{more}")),
            &rows(1, vec![(column, values)]),
        )
    };
    let float: ArrayRef = Arc::new(Float64Array::from(vec![1.005]));
    for (column, values) in [
        ("money", Arc::clone(&float)),
        ("small", Arc::clone(&float)),
        ("x", Arc::clone(&float)),
        ("day", Arc::new(TimestampMicrosecondArray::from(vec![1]))),
    ] {
        let refused = lossy(column, values, "").unwrap_err();
        assert_eq!(
            (refused.class(), refused.code()),
            (Class::Configuration, "connect.type-lossy"),
            "{column}"
        );
    }
    let never = lossy("day", Arc::new(BooleanArray::from(vec![true])), "").unwrap_err();
    assert_eq!(never.code(), "connect.type-never");
    // Out of range or too long: the row alone.
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
            ("short", texts(&["ab", "abcd"])),
        ],
    );
    assert_eq!(
        write(&connection(server, &database, "table: t"), &mixed).unwrap(),
        [1]
    );
    lossy("money", float, ", lossy: true, producer: other").unwrap();
    assert_eq!(
        server.run(&database, "select money from t where short is null"),
        "1.01"
    );
}

#[test]
fn what_is_wrong_is_said_with_the_statement_that_mends_it() {
    let server = postgres();
    let database = server.database(
        "create table t (id int, name text); create table closed (id int); create schema other; create table other.t (id int); \
         create role weak login password 'secret'; revoke create on schema public from public; grant insert on t to weak; grant usage on schema other to weak",
    );
    let of = |text: String, columns: Vec<(&str, ArrayRef)>| {
        let error = write(&text, &rows(1, columns)).unwrap_err();
        let (en, zh) = (error.message(Language::En), error.message(Language::Zh));
        assert!(!en.contains('{') || en.contains("{ env"), "{en}");
        assert!(zh.chars().any(|c| c > '\u{4e00}'), "{zh}");
        (error.class(), error.code(), en)
    };
    let id = || vec![("id", ints(&[1]))];
    let plain = connection(server, &database, "table: t");
    for (text, columns, code, statement) in [
        (
            plain.replace("password: secret", "password: wrong"),
            id(),
            "postgres.credentials",
            "ALTER ROLE \"postgres\" LOGIN PASSWORD",
        ),
        (
            plain.replace(", password: secret", ""),
            id(),
            "postgres.password-needed",
            "password: { env: NAME }",
        ),
        (
            plain.replace(&format!("database: {database}"), "database: nowhere"),
            id(),
            "postgres.no-database",
            "CREATE DATABASE \"nowhere\"",
        ),
        (
            plain.replace("user: postgres,", "user: postgres, tls: {},"),
            id(),
            "postgres.no-tls",
            "ssl = on",
        ),
        (
            connection(server, &database, "table: gone"),
            id(),
            "postgres.no-table",
            "create: true",
        ),
        (
            plain.clone(),
            vec![("nam", texts(&["a"]))],
            "connect.table-column",
            "ALTER TABLE \"public\".\"t\" ADD COLUMN \"nam\" text",
        ),
        (
            connection(server, &database, "table: t, mode: upsert, key: [id]"),
            vec![("id", ints(&[1])), ("name", texts(&["a"]))],
            "postgres.no-key",
            "ALTER TABLE \"public\".\"t\" ADD PRIMARY KEY",
        ),
        (
            connection(server, &database, "table: t, mode: upsert, key: [no]"),
            id(),
            "connect.flow-column",
            "The flow makes id",
        ),
    ] {
        let (class, found, message) = of(text.clone(), columns);
        assert_eq!((class, found), (Class::Configuration, code), "{message}");
        assert!(message.contains(statement), "{message}");
    }
    let weak = plain.replace("user: postgres", "user: weak");
    let (_, code, message) = of(weak.clone(), id());
    assert_eq!(code, "postgres.rights-positions");
    assert!(
        message.contains("GRANT SELECT, INSERT, UPDATE ON \"public\".busbar_position TO \"weak\""),
        "{message}"
    );
    server.run(&database, "drop table busbar_position");
    let (_, code, message) = of(weak, id());
    assert_eq!(code, "postgres.no-positions");
    assert!(
        message.contains("CREATE TABLE \"public\".busbar_position"),
        "{message}"
    );
    server.run(&database, "create table busbar_position (producer text primary key, position bigint not null); grant all on busbar_position, busbar_refused to weak");
    let weak =
        connection(server, &database, "table: closed").replace("user: postgres", "user: weak");
    let (_, code, message) = of(weak, id());
    assert_eq!(code, "postgres.rights-table");
    assert!(
        message.contains("GRANT SELECT, INSERT ON \"public\".\"closed\" TO \"weak\""),
        "{message}"
    );
}

/// A column that is renamed while the sink is open stops it, and nothing of the delivery is written.
#[test]
fn a_table_that_changes_is_looked_at_anew() {
    let server = postgres();
    let database = server.database("create table t (id int, name text)");
    let one = |position, id| rows(position, vec![("id", ints(&[id])), ("name", texts(&["a"]))]);
    Runtime::new().expect("a runtime").block_on(async {
        let text = connection(server, &database, "table: t");
        let mut sink = open(&text, &one(1, 1)).await.expect("opens");
        sink.write(&one(1, 1)).await.expect("written");
        server.run(&database, "alter table t rename column name to title");
        let refused = sink.write(&one(2, 2)).await.expect_err("a column is gone");
        assert_eq!((refused.class(), refused.code()), (Class::Configuration, "postgres.no-column"));
        server.run(&database, "alter table t rename column title to name");
        sink.write(&one(2, 2)).await.expect("written");
        server.run(&database, "drop table t");
        assert_eq!(sink.write(&one(3, 3)).await.expect_err("gone").code(), "postgres.no-table");
        // A session that an administrator ends is opened anew.
        server.run(&database, "create table t (id int, name text)");
        sink.write(&one(3, 3)).await.expect("written");
        server.run(&database, &format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}' and application_name = 'busbar'"));
        let failed = sink.write(&one(4, 4)).await.expect_err("ended");
        assert_eq!(failed.class(), Class::Transient, "{failed:?}");
        sink.write(&one(4, 4)).await.expect("written");
    });
    assert_eq!(
        server.run(
            &database,
            "select string_agg(id::text, ',' order by id) from t"
        ),
        "3,4"
    );
}

/// Rows and position are one transaction: wherever the server dies, neither is there without the other.
#[test]
fn a_server_that_is_killed_in_the_middle_loses_and_repeats_nothing() {
    let server = crate::servers::own_postgres();
    let database = server.database("create table t (n bigint)");
    let text = connection(&server, &database, "table: t");
    let of = |position: u64| {
        let numbers: Vec<_> = (0..100).map(|n| position as i64 * 100 + n).collect();
        rows(position, vec![("n", ints(&numbers))])
    };
    let runtime = Runtime::new().expect("a runtime");
    let mut sink = runtime.block_on(open(&text, &of(1))).expect("opens");
    let mut position = 1;
    for round in 0..4_u64 {
        let done = std::thread::scope(|scope| {
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
        assert_eq!(done.class(), Class::Transient, "{done:?}");
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
        "select count(*) = count(distinct n) and count(*) = (max(n) - 99), count(*) from t",
    );
    assert_eq!(count, format!("t|{}", (position - 1) * 100));
    server.kill();
}

#[test]
fn a_list_that_is_not_there_is_null_and_times_are_those_of_any_year() {
    let server = postgres();
    let database = server.database("create table t (id int, list jsonb, at timestamptz)");
    let lists = [Some(vec![Some(1)]), None];
    let times = [0, crate::mysql_sink::BEFORE_YEAR_1];
    let delivery = rows(
        1,
        vec![
            ("id", ints(&[1, 2])),
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
    assert_eq!(
        write(&connection(server, &database, "table: t"), &delivery).unwrap(),
        [0; 0]
    );
    assert_eq!(
        server.run(
            &database,
            "select id, list, list is null, at at time zone 'UTC' from t order by id"
        ),
        "1|[1]|f|1970-01-01 00:00:00\n2||t|0001-12-31 23:59:59.999999 BC"
    );
}
