//! Runs of a statement that end before all rows have come: the next one brings the others, also where several rows have the
//! value behind which it begins.

use std::collections::BTreeSet;

use busbar_connector::{Connector, Polled, Polling, Resume, SourceContext};
use serde_json::Value;

use crate::driver_engine::{Engine, payloads};
use crate::servers::postgres;
use crate::tds_peer::{TdsCell, TdsPeer, TdsReply};
use crate::world::spec;

/// The last rows have one value, and the first batch ends among them.
const ROWS: usize = 9_000;
const LAST_VALUE: usize = 8_000;

fn numbers(polling: &Polling) -> Vec<i64> {
    let payloads = payloads(&polling.batch);
    let number = |payload: &Vec<u8>| {
        let row: Value = serde_json::from_slice(payload).expect("an object");
        let number = row.get("n").or(row.get("N"));
        number.and_then(Value::as_i64).expect("a number")
    };
    payloads.iter().map(number).collect()
}

/// The numbers of the rows, where the source is opened anew behind its first batch.
async fn read_in_two(
    connector: &dyn Connector,
    text: &str,
    context: impl Fn(Resume) -> SourceContext,
) -> Vec<i64> {
    let spec = spec(text);
    let source = connector.source(&spec, context(Resume::default())).await;
    let Polled::Batch(first) = source.expect("opens").poll().await.expect("rows") else {
        panic!("no rows");
    };
    let mut found = numbers(&first);
    let mut resume = Resume::default();
    let position = first.position.last().expect("a position");
    resume.positions.insert(String::new(), position);
    resume.notes.insert(String::new(), first.note);
    let source = connector.source(&spec, context(resume)).await;
    let mut source = source.expect("opens");
    while let Polled::Batch(polling) = source.poll().await.expect("rows") {
        found.extend(numbers(&polling));
    }
    found
}

/// All came, and only those of the value at which the first batch ended came twice.
fn check(found: &[i64], rows: usize, name: &str) {
    let distinct: BTreeSet<_> = found.iter().collect();
    assert_eq!(distinct.len(), rows, "{name}");
    let again = found.len() - rows;
    assert!((1..=ROWS - LAST_VALUE).contains(&again), "{name}: {again}");
}

#[test]
fn rows_with_the_value_at_which_a_run_was_ended_come_with_the_next() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let made = format!(
        "create table t (n int, v int); insert into t select n, least(n, {LAST_VALUE}) from generate_series(1, {ROWS}) n"
    );
    let database = postgres().database(&made);
    let text = format!(
        "postgres: {{ address: '127.0.0.1:{}', database: {database}, user: postgres, password: secret, \
         query: {{ statement: 'select n, v from t where v > $1 order by v', position: v, start: '0', every: 1h }} }}\n",
        postgres().port
    );
    let registry = busbar_connect::registry();
    let context = |resume| SourceContext {
        resume,
        ..crate::source_context(folder.path())
    };
    let connector = registry.get("postgres").expect("registered");
    let found = runtime.block_on(read_in_two(&**connector, &text, context));
    check(&found, ROWS, "postgres");

    // Pieces of this one are bounded by their bytes alone.
    let rows = 2_000;
    let peer = TdsPeer::new(move |sql| {
        let from = sql.strip_prefix("DECLARE @position bigint = ");
        let from = from.and_then(|rest| rest.split(';').next()?.parse().ok());
        let from: i64 = from.unwrap_or_else(|| panic!("{sql}"));
        let of = |n: i64| (n, n.min(1_000));
        let row = |(n, v)| {
            vec![
                TdsCell::Int(n),
                TdsCell::Int(v),
                TdsCell::Bytes(vec![7; 7_000]),
            ]
        };
        let behind = (1..=rows).map(of).filter(|(_, v)| *v > from);
        let columns = vec![
            ("n", TdsCell::Int(0)),
            ("v", TdsCell::Int(0)),
            ("raw", TdsCell::Bytes(Vec::new())),
        ];
        vec![TdsReply::Rows(columns, behind.map(row).collect())]
    });
    let text = format!(
        "sqlserver: {{ address: '127.0.0.1:{}', database: d, user: u, \
         query: {{ statement: 'select n, v, raw from t where v > @position', position: v, start: '0', every: 1h }} }}\n",
        peer.port
    );
    let connector = registry.get("sqlserver").expect("registered");
    let found = runtime.block_on(read_in_two(&**connector, &text, context));
    check(&found, 2_000, "sqlserver");
}

#[test]
fn rows_with_the_value_at_which_a_run_was_ended_come_with_the_next_by_drivers() {
    for (name, numbers) in [
        ("h2", format!("system_range(1, {ROWS})")),
        (
            "postgres-odbc",
            format!("generate_series(1, {ROWS}) as s (x)"),
        ),
    ] {
        let engine = Engine::start(name);
        let table = engine.table();
        engine.run(&format!("create table {table} (n integer, v integer)"));
        engine.run(&format!(
            "insert into {table} select x, least(x, {LAST_VALUE}) from {numbers}"
        ));
        let text = engine.connection(&format!(
            "query: {{ statement: 'select n, v from {table} where v > ? order by v', position: v, start: '0', every: 1h }}"
        ));
        let context = |resume| engine.source_context(resume);
        let read = read_in_two(&*engine.connector, &text, context);
        let found = engine.runtime.block_on(read);
        check(&found, ROWS, name);
    }
}
