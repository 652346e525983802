//! Tables in memory survive what ends a process.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use busbar_log::sim::SimDisk;
use busbar_log::{Disk, Log, LogOptions, ManualClock, OsDisk};
use busbar_table::{ProducerPosition, Scan, Table, Tables, Write};

const SECOND: i64 = 1_000_000;

fn open(disk: Arc<dyn Disk>, folder: &Path, clock: &Arc<ManualClock>, spec: &str) -> Tables {
    let clock: Arc<dyn busbar_log::Clock> = Arc::clone(clock) as _;
    let log = Log::open(disk, folder, LogOptions::default(), Arc::clone(&clock)).unwrap();
    let tables = Tables::open(folder, clock)
        .unwrap()
        .with_journals(log)
        .unwrap();
    apply(&tables, spec);
    tables
}

fn apply(tables: &Tables, spec: &str) {
    let spec = serde_json::from_str(spec).unwrap();
    tables
        .apply(&BTreeMap::from([("t".to_owned(), spec)]))
        .unwrap();
}

fn table(tables: &Tables) -> Arc<dyn Table> {
    tables.table("t").unwrap()
}

fn rows(pairs: &[(&str, i64)]) -> RecordBatch {
    let keys = StringArray::from_iter_values(pairs.iter().map(|pair| pair.0));
    let values = Int64Array::from_iter_values(pairs.iter().map(|pair| pair.1));
    RecordBatch::try_from_iter([("k", Arc::new(keys) as ArrayRef), ("v", Arc::new(values))])
        .unwrap()
}

fn column(name: &str, keys: &[&str], values: &[i64]) -> RecordBatch {
    let keys = StringArray::from_iter_values(keys);
    let values = Int64Array::from_iter_values(values.iter().copied());
    RecordBatch::try_from_iter([("k", Arc::new(keys) as ArrayRef), (name, Arc::new(values))])
        .unwrap()
}

/// Keys and values of `v`, in order of keys.
fn all(table: &Arc<dyn Table>) -> Vec<(String, Option<i64>)> {
    let mut found = Vec::new();
    for batch in table.scan(&Scan::default()).unwrap() {
        let batch = batch.unwrap();
        let keys = batch.column_by_name("k").unwrap().as_string::<i32>();
        let values = batch
            .column_by_name("v")
            .unwrap()
            .as_primitive::<Int64Type>();
        found.extend(keys.iter().flatten().map(str::to_owned).zip(values.iter()));
    }
    found.sort();
    found
}

fn pairs(expected: &[(&str, i64)]) -> Vec<(String, Option<i64>)> {
    let owned = expected.iter().map(|(k, v)| ((*k).to_owned(), Some(*v)));
    owned.collect()
}

#[test]
fn what_was_written_is_there_after_a_power_cut_but_for_what_has_lived_its_time() {
    let spec = r#"{"hot": {"ttl": "10s"}, "key": ["k"]}"#;
    let disk = SimDisk::new(1);
    let clock = Arc::new(ManualClock::new(0));
    let open = || open(Arc::new(disk.clone()), Path::new("/data"), &clock, spec);
    let tables = open();
    let t = table(&tables);
    t.evolve(&rows(&[]).schema()).unwrap();
    let at = |position| ProducerPosition::new("p", position);
    t.apply(&rows(&[("old", 1), ("new", 1), ("gone", 1)]), Some(&at(1)))
        .unwrap();
    clock.set(6 * SECOND);
    let write = Write {
        rows: &rows(&[("new", 2), ("gone", 0)]),
        deletes: Some(&BooleanArray::from(vec![false, true])),
        position: Some(&at(2)),
    };
    t.write(&write).unwrap();
    // The values of columns that a write does not have stay.
    t.evolve(&column("w", &[], &[]).schema()).unwrap();
    t.apply(&column("w", &["new"], &[7]), Some(&at(3))).unwrap();
    disk.crash();
    drop((t, tables));

    clock.set(9 * SECOND);
    let tables = open();
    assert_eq!(all(&table(&tables)), pairs(&[("new", 2), ("old", 1)]));
    assert_eq!(table(&tables).position("p").unwrap(), Some(3));
    let again = table(&tables)
        .apply(&rows(&[("new", 9)]), Some(&at(3)))
        .unwrap();
    assert!(again.duplicate);
    assert_eq!(table(&tables).stats().unwrap().put, 0);
    disk.crash();
    drop(tables);

    clock.set(10 * SECOND);
    let tables = open();
    assert_eq!(all(&table(&tables)), pairs(&[("new", 2)]));
    clock.set(16 * SECOND);
    assert_eq!(all(&table(&tables)), []);
}

#[test]
fn a_write_that_is_not_on_the_disk_is_not_in_the_table() {
    let spec = r#"{"hot": {}, "key": ["k"]}"#;
    let disk = SimDisk::new(1);
    let clock = Arc::new(ManualClock::new(0));
    let open = || open(Arc::new(disk.clone()), Path::new("/data"), &clock, spec);
    let tables = open();
    let t = table(&tables);
    let at = |position| ProducerPosition::new("p", position);
    t.evolve(&rows(&[]).schema()).unwrap();
    t.apply(&rows(&[("a", 1)]), Some(&at(1))).unwrap();
    disk.fail_syncs(1);
    let second = rows(&[("a", 2), ("b", 1)]);
    t.apply(&second, Some(&at(2))).unwrap_err();
    assert_eq!(all(&t), pairs(&[("a", 1)]));
    assert_eq!(t.position("p").unwrap(), Some(1));
    // The log tries another file after a second.
    clock.set(2 * SECOND);
    let again = t.apply(&second, Some(&at(2))).unwrap();
    assert!(!again.duplicate);
    disk.crash();
    drop((t, tables));
    let tables = open();
    assert_eq!(all(&table(&tables)), pairs(&[("a", 2), ("b", 1)]));
    assert_eq!(table(&tables).position("p").unwrap(), Some(2));
}

#[test]
fn a_journal_that_has_grown_large_is_replaced_by_what_the_table_holds() {
    let spec = r#"{"hot": {}, "key": ["k"]}"#;
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(0));
    let open = || open(Arc::new(OsDisk), folder.path(), &clock, spec);
    let tables = open();
    let t = table(&tables);
    t.evolve(&rows(&[]).schema()).unwrap();
    // Keys that are written once are older than the snapshot; those written again and again make it large.
    t.apply(&rows(&[("once", 1), ("twice", 1)]), None).unwrap();
    let text = "x".repeat(1 << 20);
    let long = StringArray::from_iter_values([&text]);
    let long = RecordBatch::try_from_iter([
        (
            "k",
            Arc::new(StringArray::from_iter_values(["long"])) as ArrayRef,
        ),
        ("text", Arc::new(long)),
    ])
    .unwrap();
    t.evolve(&long.schema()).unwrap();
    let mut largest = 0;
    for n in 0..120 {
        clock.set(n * SECOND);
        t.apply(&long, Some(&ProducerPosition::new("p", n as u64 + 1)))
            .unwrap();
        largest = largest.max(bytes_of(&folder.path().join("hot/t")));
    }
    t.apply(&rows(&[("twice", 2)]), None).unwrap();
    assert!(largest < 90 << 20, "{largest} bytes of journal");
    let before = all(&t);
    assert_eq!(before.len(), 3);
    drop((t, tables));
    let tables = open();
    assert_eq!(all(&table(&tables)), before);
    assert_eq!(table(&tables).position("p").unwrap(), Some(120));
}

#[test]
fn a_table_with_another_key_begins_anew_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(0));
    let spec = |key: &str| {
        format!(
            r#"{{"hot": {{}}, "key": ["{key}"],
                "columns": [{{"name": "k", "type": "text"}}, {{"name": "v", "type": "int"}}]}}"#
        )
    };
    let tables = open(Arc::new(OsDisk), folder.path(), &clock, &spec("k"));
    table(&tables)
        .apply(&rows(&[("a", 1), ("b", 1)]), None)
        .unwrap();
    apply(&tables, &spec("v"));
    assert_eq!(all(&table(&tables)), []);
    table(&tables)
        .apply(&rows(&[("a", 1), ("b", 1)]), None)
        .unwrap();
    drop(tables);
    let tables = open(Arc::new(OsDisk), folder.path(), &clock, &spec("v"));
    assert_eq!(all(&table(&tables)), pairs(&[("b", 1)]));
    let journals = std::fs::read_dir(folder.path().join("hot/t")).unwrap();
    assert_eq!(journals.count(), 1);
    tables.apply(&BTreeMap::new()).unwrap();
    let left = std::fs::read_dir(folder.path().join("hot/t"));
    assert_eq!(left.map_or(0, Iterator::count), 0);
}

fn bytes_of(folder: &Path) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let file = entry.metadata().unwrap();
        bytes += match file.is_dir() {
            true => bytes_of(&entry.path()),
            false => file.len(),
        };
    }
    bytes
}
