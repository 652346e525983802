//! What is particular to tables in memory: time to live and bounds.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use busbar_log::ManualClock;
use busbar_table::{Scan, Table, Tables};

fn open(clock: &Arc<ManualClock>, hot: &str) -> (Tables, Arc<dyn Table>) {
    let tables = Tables::open("/nowhere", Arc::clone(clock) as _).unwrap();
    apply(&tables, hot);
    let table = tables.table("t").unwrap();
    table.evolve(rows(&[]).schema_ref()).unwrap();
    (tables, table)
}

fn apply(tables: &Tables, hot: &str) {
    let spec = serde_json::from_str(&format!(r#"{{"hot": {hot}, "key": ["k"]}}"#)).unwrap();
    tables
        .apply(&BTreeMap::from([("t".to_owned(), spec)]))
        .unwrap();
}

fn rows(pairs: &[(&str, i64)]) -> RecordBatch {
    let keys = StringArray::from_iter_values(pairs.iter().map(|pair| pair.0));
    let values = Int64Array::from_iter_values(pairs.iter().map(|pair| pair.1));
    RecordBatch::try_from_iter([("k", Arc::new(keys) as ArrayRef), ("v", Arc::new(values))])
        .unwrap()
}

fn keys(table: &Arc<dyn Table>) -> Vec<String> {
    let mut found = Vec::new();
    for batch in table.scan(&Scan::default()).unwrap() {
        let batch = batch.unwrap();
        let keys = batch.column(0).as_string::<i32>().iter().flatten();
        found.extend(keys.map(str::to_owned));
    }
    found.sort();
    found
}

const SECOND: i64 = 1_000_000;

#[test]
fn rows_live_from_their_last_write() {
    let clock = Arc::new(ManualClock::new(0));
    let (tables, table) = open(&clock, r#"{"ttl": "10s"}"#);
    table.apply(&rows(&[("a", 1), ("b", 1)]), None).unwrap();
    clock.set(6 * SECOND);
    table.apply(&rows(&[("a", 2), ("c", 1)]), None).unwrap();
    clock.set(10 * SECOND);
    assert_eq!(keys(&table), ["a", "c"]);
    // Holders of the table see new bounds at once.
    apply(&tables, r#"{"ttl": "20s"}"#);
    clock.set(25 * SECOND);
    assert_eq!(keys(&table), ["a", "c"]);
    clock.set(26 * SECOND);
    assert_eq!(table.rows().unwrap(), 0);
    assert_eq!(table.stats().unwrap().expired, 3);
    assert_eq!(table.stats().unwrap().bytes, 0);
    table.apply(&rows(&[("a", 3)]), None).unwrap();
    assert_eq!(keys(&table), ["a"]);
}

#[test]
fn a_full_table_refuses_or_makes_room() {
    let clock = Arc::new(ManualClock::new(0));
    let (_tables, table) = open(&clock, r#"{"rows_max": 2}"#);
    table.apply(&rows(&[("a", 1), ("b", 1)]), None).unwrap();
    let error = table.apply(&rows(&[("a", 2), ("c", 1)]), None).unwrap_err();
    assert_eq!(error.code(), "table.full");
    assert_eq!(error.class(), busbar_event::Class::Transient);
    assert_eq!(keys(&table), ["a", "b"], "a refused write changes nothing");
    table
        .apply(&rows(&[("a", 2), ("b", 3), ("a", 4)]), None)
        .unwrap();

    let (_tables, table) = open(&clock, r#"{"rows_max": 2, "when_full": "evict"}"#);
    table
        .apply(&rows(&[("a", 1), ("b", 1), ("a", 2), ("c", 1)]), None)
        .unwrap();
    assert_eq!(keys(&table), ["a", "c"]);
    assert_eq!(table.stats().unwrap().evicted, 1);
}

#[test]
fn bytes_are_bounded_and_counted() {
    let clock = Arc::new(ManualClock::new(0));
    let (_tables, table) = open(&clock, r#"{"bytes_max": 100000}"#);
    let long = "x".repeat(1000);
    let mut refused = 0;
    for n in 0..200 {
        let key = format!("{long}{n}");
        if table.apply(&rows(&[(&key, n)]), None).is_err() {
            refused += 1;
        }
    }
    assert!(refused > 100, "{refused} {:?}", table.stats());
    assert!(table.stats().unwrap().bytes <= 100_000);

    let (_tables, table) = open(&clock, r#"{"bytes_max": 100000, "when_full": "evict"}"#);
    for n in 0..200 {
        let key = format!("{long}{n}");
        table.apply(&rows(&[(&key, n)]), None).unwrap();
    }
    let stats = table.stats().unwrap();
    assert!(stats.bytes <= 100_000 && stats.rows > 20 && stats.evicted > 100);
}
