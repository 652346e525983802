//! What `clickhouse` does beside what all sinks and sources do, with the stand-in and with the engine itself.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array,
    StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::DataType;
use busbar_connector::{Delivery, Polled, Resume, Sink, SourceContext};
use busbar_event::Class;
use tokio::runtime::Runtime;

use crate::clickhouse_peer::ClickHousePeer;
use crate::postgres_sink::{ints, open, rows, texts, write};
use crate::servers::{DatabaseServer, clickhouse};
use crate::sinks::{by, delivery};
use crate::subjects::numbered;
use crate::world::{next_batch, source_of, spec};

const PRODUCER: &str = "flow:f:in:0:0:to";

async fn sink(text: &str) -> Box<dyn Sink> {
    open(text, &delivery("t", &["{}"], 1))
        .await
        .expect("it opens")
}

fn part(from: u64, to: u64) -> Delivery {
    by(delivery("t", &numbered(from..to), to), PRODUCER)
}

/// The process was killed when its last request was on its way. The next one cuts its input where that one was cut.
#[test]
fn a_request_that_outlives_its_process_adds_no_rows() {
    for (arrives, before) in [
        (0, 0),
        (1, 0),
        (2, 0),
        (3, 0),
        (0, 10),
        (1, 10),
        (2, 10),
        (3, 10),
    ] {
        let peer = ClickHousePeer::new();
        let text = peer.connection("write: { table: t }");
        Runtime::new().expect("a runtime").block_on(async {
            let mut first = sink(&text).await;
            if before > 0 {
                first.write(&part(0, before)).await.expect("written");
            }
            peer.store.lock().slow = true;
            let failed = first.write(&part(before, 20)).await.expect_err("no answer");
            assert_eq!(failed.class(), Class::Transient);
            drop(first);
            if arrives == 0 {
                peer.let_through();
            }
            peer.store.lock().slow = false;
            let mut second = sink(&text).await;
            let cuts = second.cuts(PRODUCER).await.expect("it answers");
            let expected: Vec<_> = [before, 20].into_iter().filter(|cut| *cut > 0).collect();
            assert_eq!(cuts, expected);
            if arrives == 1 {
                peer.let_through();
            }
            // The flow had not noted that the first part is written.
            let mut from = 0;
            for cut in cuts {
                second.write(&part(from, cut)).await.expect("written");
                from = cut;
            }
            if arrives == 2 {
                peer.let_through();
            }
            second.write(&part(20, 35)).await.expect("written");
            peer.let_through();
            assert_eq!(second.position(PRODUCER).await.unwrap(), Some(35));
        });
        assert_eq!(peer.notes(), numbered(0..35), "{arrives} {before}");
    }
}

/// Another output did not take the batch: it comes again in halves.
#[test]
fn a_delivery_that_is_there_comes_again_in_halves() {
    let peer = ClickHousePeer::new();
    peer.store.lock().refused = Some(":13}");
    let text = peer.connection("write: { table: t }");
    let whole = part(10, 20);
    let half = |from: usize, to: usize, position| {
        let rows = whole.slice(from..to);
        Delivery {
            position,
            first: 0,
            ..rows
        }
    };
    let expected: Vec<_> = numbered(10..20);
    let expected: Vec<_> = expected
        .into_iter()
        .filter(|row| !row.contains(":13}"))
        .collect();
    Runtime::new().expect("a runtime").block_on(async {
        let mut first = sink(&text).await;
        let rejected = |written: busbar_connector::Written| -> Vec<usize> {
            written.rejected.iter().map(|(row, _)| *row).collect()
        };
        let written = first.write(&whole).await.expect("written");
        assert_eq!(rejected(written), [3]);
        let written = first.write(&half(0, 5, 15)).await.expect("known");
        assert_eq!(rejected(written), [3]);
        let written = first.write(&half(5, 10, 20)).await.expect("known");
        assert_eq!(rejected(written), [0; 0]);
        // The process dies between the halves.
        let mut second = sink(&text).await;
        assert_eq!(second.cuts(PRODUCER).await.expect("it answers"), [20]);
        let written = second.write(&half(0, 5, 15)).await.expect("known");
        assert_eq!(rejected(written), [3]);
        second.write(&half(5, 10, 20)).await.expect("known");
    });
    assert_eq!(peer.notes(), expected);
}

/// Nothing says whether the rows are there, so that a person has to look.
#[test]
fn parts_of_a_request_without_answer_are_not_guessed() {
    for arrived in [true, false] {
        let peer = ClickHousePeer::new();
        let text = peer.connection("write: { table: t }");
        Runtime::new().expect("a runtime").block_on(async {
            let mut first = sink(&text).await;
            peer.store.lock().slow = true;
            first.write(&part(0, 20)).await.expect_err("no answer");
            if arrived {
                peer.let_through();
            }
            peer.store.lock().slow = false;
            let mut second = sink(&text).await;
            assert_eq!(second.cuts(PRODUCER).await.expect("it answers"), [20]);
            let refused = second.write(&part(0, 8)).await.expect_err("a part");
            assert_eq!(
                (refused.class(), refused.code()),
                (Class::Configuration, "clickhouse.parts")
            );
            let name = if arrived { "there" } else { "missing" };
            let mend = refused.args().iter().find(|(key, _)| *key == name);
            let (_, mend) = mend.expect("what mends it");
            peer.store.lock().note(mend);
            let mut third = sink(&text).await;
            for (from, to) in [(0, 8), (8, 20), (20, 30)] {
                third.write(&part(from, to)).await.expect("written");
            }
        });
        assert_eq!(peer.notes(), numbered(0..30), "{arrived}");
    }
}

#[test]
fn a_table_that_cannot_keep_rows_once_is_refused() {
    let peer = ClickHousePeer::new();
    let text = peer.connection("write: { table: t }");
    for (engine, code) in [
        ("MergeTree", "clickhouse.no-window"),
        (
            "MergeTree SETTINGS non_replicated_deduplication_window = 0",
            "clickhouse.no-window",
        ),
        ("Log", "clickhouse.engine"),
        (
            "ReplicatedMergeTree SETTINGS replicated_deduplication_window = 0",
            "clickhouse.no-window",
        ),
    ] {
        let mut store = peer.store.lock();
        store.engine = engine;
        drop(store);
        let refused = write(&text, &part(0, 1)).expect_err(engine);
        assert_eq!(
            (refused.class(), refused.code()),
            (Class::Configuration, code)
        );
    }
    assert_eq!(peer.notes(), [""; 0]);
}

/// The server would keep another value, or none, without a word.
#[test]
fn values_that_a_column_does_not_keep_are_dead_letters() {
    let peer = ClickHousePeer::new();
    let text = peer.connection("write: { table: t }");
    let int = |values: &[Option<i64>]| Arc::new(Int64Array::from(values.to_vec())) as ArrayRef;
    let time =
        |values: &[i64]| Arc::new(TimestampMicrosecondArray::from(values.to_vec())) as ArrayRef;
    let day = |values: &[i32]| Arc::new(Date32Array::from(values.to_vec())) as ArrayRef;
    for (kind, column, rejected) in [
        (
            "Int64",
            int(&[Some(i64::MIN), None, Some(i64::MAX)]),
            vec![1],
        ),
        (
            "Nullable(Int8)",
            int(&[Some(-128), None, Some(-129), Some(128)]),
            vec![2, 3],
        ),
        ("UInt64", int(&[Some(-1), Some(i64::MAX)]), vec![0]),
        (
            "LowCardinality(Nullable(UInt8))",
            int(&[Some(255), Some(256), None]),
            vec![1],
        ),
        (
            "DateTime",
            time(&[-1, 0, 1, 1_000_000, i64::MAX]),
            vec![0, 2, 4],
        ),
        (
            "DateTime64(3, 'UTC')",
            time(&[1_000, 1_001, i64::MIN]),
            vec![1, 2],
        ),
        ("DateTime64(6)", time(&[1, -1]), vec![]),
        ("Date", day(&[-1, 0, 65_535, 65_536]), vec![0, 3]),
        ("Date32", day(&[-25_567, -25_568]), vec![1]),
    ] {
        peer.store.lock().columns = vec![("v", kind)];
        let all = rows(1, vec![("v", column)]);
        let all = by(all, &format!("p-{kind}"));
        assert_eq!(
            write(&text, &all).unwrap_or_else(|why| panic!("{kind}: {why}")),
            rejected,
            "{kind}"
        );
    }
}

#[test]
fn types_that_do_not_fit_are_refused_before_anything_is_written() {
    let peer = ClickHousePeer::new();
    let text = peer.connection("write: { table: t }");
    let decimal = Decimal128Array::from(vec![1]).with_precision_and_scale(10, 3);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("Int64", Arc::new(Float64Array::from(vec![1.5]))),
        ("Float32", Arc::new(Float64Array::from(vec![1.5]))),
        ("Float64", ints(&[1])),
        ("Bool", ints(&[1])),
        ("UInt8", Arc::new(BooleanArray::from(vec![true]))),
        ("DateTime", texts(&["2026-01-01"])),
        ("Decimal(10, 2)", Arc::new(decimal.expect("a decimal"))),
        ("Array(Int64)", texts(&["[1]"])),
    ];
    for (kind, column) in columns {
        peer.store.lock().columns = vec![("v", kind)];
        let refused = write(&text, &rows(1, vec![("v", column)])).expect_err(kind);
        assert_eq!(
            (refused.class(), refused.code()),
            (Class::Configuration, "clickhouse.type"),
            "{kind}"
        );
    }
    peer.store.lock().columns = vec![("w", "Int64")];
    let refused = write(&text, &rows(1, vec![("v", ints(&[1]))])).expect_err("no such column");
    assert_eq!(refused.code(), "clickhouse.no-column");
}

/// A statement that heeds no position would answer with the same rows for ever.
#[test]
fn rows_that_come_again_are_refused() {
    let peer = ClickHousePeer::new();
    peer.store.lock().numbers.extend(0..5);
    peer.store.lock().repeats = true;
    let query = "query: { statement: 'select n from t where n > {position:Int64} order by n', position: n, start: '-1', rows: 3 }";
    Runtime::new().expect("a runtime").block_on(async {
        let mut source = source_of(&peer.connection(query), Resume::default()).await;
        let first = next_batch(source.as_mut()).await.unwrap();
        let first = first.expect("a batch");
        assert_eq!(first.batch.rows(), 3);
        let refused = next_batch(source.as_mut()).await.expect_err("again");
        assert_eq!(
            (refused.class(), refused.code()),
            (Class::Configuration, "clickhouse.position-again")
        );
    });
}

fn connection(server: &DatabaseServer, more: &str) -> String {
    format!(
        "clickhouse: {{ url: 'http://127.0.0.1:{}', database: default, {more} }}\n",
        server.port
    )
}

/// The engine of ClickHouse in a process of Python.
#[test]
#[ignore = "make test-servers"]
fn rows_are_there_once_and_as_they_were() {
    let server = clickhouse();
    let run = |statement: &str| {
        let answer = server.request("POST", "/?wait_end_of_query=1&database=default", statement);
        let answer = answer.unwrap_or_else(|why| panic!("{why}: {statement}"));
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        body.trim_end().to_owned()
    };
    let window = "SETTINGS non_replicated_deduplication_window = 1000";
    run("CREATE TABLE plain (n Int64, note Nullable(String)) ENGINE = MergeTree ORDER BY n");
    let refused = write(&connection(&server, "write: { table: plain }"), &part(0, 1));
    let refused = refused.expect_err("no window");
    assert_eq!(refused.code(), "clickhouse.no-window");
    let statement = refused.args().iter().find(|(name, _)| *name == "statement");
    run(&statement.expect("what mends it").1);
    let text = connection(&server, "write: { table: plain }");
    Runtime::new().expect("a runtime").block_on(async {
        let mut known = 0;
        for end in [500, 900] {
            let mut sink = sink(&text).await;
            let cuts = sink.cuts(PRODUCER).await.expect("it answers");
            assert_eq!(cuts.last().copied().unwrap_or(0), known);
            for (from, to) in [(known, known + 100), (known + 100, end)] {
                for _ in 0..2 {
                    sink.write(&part(from, to)).await.expect("written");
                }
            }
            // Another process, which sends the last part again.
            let mut other = self::sink(&text).await;
            let cuts = other.cuts(PRODUCER).await.expect("it answers");
            assert_eq!(cuts, [known + 100, end]);
            other.write(&part(known + 100, end)).await.expect("written");
            known = end;
        }
    });
    assert_eq!(
        run("SELECT count(), uniqExact(note) FROM plain FORMAT TSV"),
        "900\t900"
    );
    // Values of each type come back as they were.
    let types: Vec<(&str, ArrayRef, &str)> = vec![
        ("Int64", ints(&[i64::MIN]), "-9223372036854775808"),
        ("UInt64", ints(&[i64::MAX]), "9223372036854775807"),
        (
            "Nullable(Int8)",
            Arc::new(Int64Array::from(vec![None])),
            "NULL",
        ),
        (
            "Float64",
            Arc::new(Float64Array::from(vec![f64::NEG_INFINITY])),
            "-inf",
        ),
        ("Float64", Arc::new(Float64Array::from(vec![0.1])), "0.1"),
        ("Bool", Arc::new(BooleanArray::from(vec![true])), "true"),
        ("String", texts(&["a\tb\\N\n'ü\0"]), "6109625C4E0A27C3BC00"),
        (
            "String",
            Arc::new(BinaryArray::from(vec![&b"\xff\x00\t"[..]])),
            "FF0009",
        ),
        (
            "LowCardinality(Nullable(String))",
            Arc::new(StringArray::from(vec![None::<&str>])),
            "NULL",
        ),
        (
            "UUID",
            texts(&["61f0c404-5cb3-11e7-907b-a6006ad3dba0"]),
            "61f0c404-5cb3-11e7-907b-a6006ad3dba0",
        ),
        ("Enum8('a' = 1, 'b' = 2)", texts(&["b"]), "b"),
        (
            "Decimal(20, 4)",
            Arc::new(
                Decimal128Array::from(vec![-12_345])
                    .with_precision_and_scale(10, 3)
                    .expect("a decimal"),
            ),
            "-12.345",
        ),
        (
            "DateTime64(6, 'UTC')",
            Arc::new(TimestampMicrosecondArray::from(vec![-1])),
            "1969-12-31 23:59:59.999999",
        ),
        (
            "DateTime64(6, 'UTC')",
            Arc::new(TimestampMicrosecondArray::from(vec![1_700_000_000_123_456])),
            "2023-11-14 22:13:20.123456",
        ),
        (
            "DateTime('Asia/Shanghai')",
            Arc::new(TimestampMicrosecondArray::from(vec![1_700_000_000_000_000])),
            "2023-11-15 06:13:20",
        ),
        (
            "Date",
            Arc::new(Date32Array::from(vec![19_675])),
            "2023-11-14",
        ),
        (
            "Date32",
            Arc::new(Date32Array::from(vec![-25_567])),
            "1900-01-01",
        ),
    ];
    for (at, (kind, column, expected)) in types.into_iter().enumerate() {
        run(&format!(
            "CREATE TABLE v{at} (v {kind}) ENGINE = MergeTree ORDER BY tuple() {window}"
        ));
        let text = connection(&server, &format!("write: {{ table: v{at} }}"));
        let is_string =
            matches!(column.data_type(), DataType::Binary) || expected.starts_with("6109");
        let one = by(rows(1, vec![("v", column)]), &format!("v{at}"));
        let rejected = write(&text, &one).unwrap_or_else(|why| panic!("{kind}: {why:?}"));
        assert_eq!(rejected, [0; 0], "{kind}");
        let shown = match is_string {
            true => "hex(v)",
            false => "ifNull(toString(v), 'NULL')",
        };
        assert_eq!(
            run(&format!("SELECT {shown} FROM v{at} FORMAT TSVRaw")),
            expected,
            "{kind}"
        );
    }
    // A text that is no UUID is found among others.
    let ids = texts(&["61f0c404-5cb3-11e7-907b-a6006ad3dba0", "no"]);
    let two = by(rows(2, vec![("v", ids)]), "v9");
    let rejected = write(&connection(&server, "write: { table: v9 }"), &two);
    assert_eq!(rejected.expect("the other one is written"), [1]);
    assert_eq!(run("SELECT count() FROM v9 FORMAT TSV"), "2");
    rows_are_read(&server);
}

fn rows_are_read(server: &DatabaseServer) {
    let query = "query: { statement: 'select n, note from plain where n > {position:Int64} order by n', position: n, start: '-1', rows: 99 }";
    let spec = spec(&connection(server, query));
    let registry = busbar_connect::registry();
    let connector = registry.get(&spec.kind).expect("registered");
    Runtime::new().expect("a runtime").block_on(async {
        let context = SourceContext {
            name: "x".into(),
            project_dir: Path::new("/").into(),
            clock: Arc::new(busbar_log::SystemClock),
            resume: Resume::default(),
            tables: crate::world::no_tables(),
        };
        let mut source = connector.source(&spec, context).await.expect("it opens");
        // The numbers are those of a row in its part: four have each of them.
        let refused = source.poll().await;
        match refused {
            Ok(Polled::Batch(_)) => panic!("rows with the same position"),
            Ok(_) => panic!("nothing"),
            Err(refused) => assert_eq!(refused.code(), "clickhouse.position-same"),
        }
        let survey = connector.survey(&spec, Path::new("/").into(), true).await;
        let survey = survey.expect("it answers");
        assert!(survey.server.starts_with("ClickHouse "), "{survey:?}");
        let plain = survey.tables.iter().find(|table| table.name == "plain");
        let plain = plain.expect("the table");
        assert_eq!(plain.rows, Some(900));
        let columns = plain.columns.iter();
        let columns: Vec<_> = columns
            .map(|c| (c.name.as_str(), c.kind.as_str(), c.key))
            .collect();
        assert_eq!(
            columns,
            [("n", "Int64", true), ("note", "Nullable(String)", false)]
        );
    });
}
