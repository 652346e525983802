//! What is asked of tables that are files.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, StringArray};
use busbar_log::ManualClock;
use busbar_table::{TableSpec, Tables};

use super::cases::{GROWING, KEYED, all, all_batches, at, batch, pairs, rows};
use super::{each, open};

#[test]
fn a_crash_at_any_moment_leaves_whole_writes() {
    let folder = tempfile::tempdir().unwrap();
    let tables = open(
        folder.path(),
        &format!(r#"{{"relational": {{}}, {GROWING}}}"#),
    )
    .unwrap();
    let table = tables.table("t").unwrap();
    let copies = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 1..=300u64 {
                let five: Vec<(&str, i64)> = (0..5).map(|_| ("k", n as i64)).collect();
                table.apply(&rows(&five), Some(&at("p", n))).unwrap();
            }
        });
        let mut number = 0;
        while !writer.is_finished() {
            let copy = copies.path().join(number.to_string());
            std::fs::create_dir(&copy).unwrap();
            // The main file changes only when SQLite moves the log into it; two files copied around
            // that moment are no picture of any moment.
            let main = folder.path().join("t.db");
            let changed = || std::fs::metadata(&main).unwrap().modified().unwrap();
            let before = changed();
            for file in ["t.db-wal", "t.db"] {
                let from = folder.path().join(file);
                if from.exists() {
                    std::fs::copy(from, copy.join(file)).unwrap();
                }
            }
            if changed() != before {
                std::fs::remove_dir_all(&copy).unwrap();
            }
            number += 1;
            #[expect(clippy::disallowed_methods)]
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
    });
    let mut opened = 0;
    for copy in std::fs::read_dir(copies.path()).unwrap() {
        let copy: PathBuf = copy.unwrap().path();
        let spec = format!(r#"{{"relational": {{}}, {GROWING}}}"#);
        let tables = open(&copy, &spec).unwrap();
        let table = tables.table("t").unwrap();
        let position = table.position("p").unwrap().unwrap_or(0);
        assert_eq!(table.rows().unwrap(), position * 5);
        opened += 1;
    }
    assert!(opened > 0);
}

#[test]
fn files_that_are_not_ours_are_refused() {
    let spec = format!(r#"{{"relational": {{}}, {KEYED}}}"#);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.db"), vec![b'x'; 8192]).unwrap();
    let error = open(folder.path(), &spec).unwrap_err();
    assert_eq!(error.code(), "table.file-damaged");

    let folder = tempfile::tempdir().unwrap();
    let other = rusqlite::Connection::open(folder.path().join("t.db")).unwrap();
    other.execute_batch("CREATE TABLE theirs (a)").unwrap();
    drop(other);
    assert_eq!(
        open(folder.path(), &spec).unwrap_err().code(),
        "table.file-not-ours"
    );

    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path(), &spec).unwrap());
    let ours = rusqlite::Connection::open(folder.path().join("t.db")).unwrap();
    ours.execute_batch("PRAGMA user_version = 99").unwrap();
    drop(ours);
    assert_eq!(
        open(folder.path(), &spec).unwrap_err().code(),
        "table.file-newer"
    );

    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path(), &spec).unwrap());
    let other_key = spec.replace(r#""key": ["k"]"#, r#""key": ["k", "v"]"#);
    assert_eq!(
        open(folder.path(), &other_key).unwrap_err().code(),
        "table.key-changed"
    );
}

#[test]
fn names_are_quoted_and_checked() {
    let hostile = r#""key": ["select \"; drop"], "columns": [
        {"name": "select \"; drop", "type": "int"}, {"name": "rowid", "type": "text"},
        {"name": "'", "type": "bool"}]"#;
    each(hostile, |bench| {
        let table = bench.table();
        let given = batch([
            (
                "select \"; drop",
                Arc::new(Int64Array::from(vec![1, 1])) as ArrayRef,
            ),
            ("rowid", Arc::new(StringArray::from(vec!["x", "y"]))),
            ("'", Arc::new(BooleanArray::from(vec![true, false]))),
        ]);
        table.apply(&given, None).unwrap();
        assert_eq!(table.rows().unwrap(), 1);
        let found = all_batches(&table);
        assert_eq!(found[0].column(1).as_string::<i32>().value(0), "y");
    });
    let folder = tempfile::tempdir().unwrap();
    let tables = Tables::open(folder.path(), Arc::new(ManualClock::new(0))).unwrap();
    let spec: TableSpec = serde_json::from_str(r#"{"relational": {}}"#).unwrap();
    for name in ["", "../x", "a/b", "A", "input", "1", &"a".repeat(65)] {
        let refused = tables.apply(&BTreeMap::from([(name.to_owned(), spec.clone())]));
        assert_eq!(refused.unwrap_err().code(), "table.name", "{name}");
    }
    for name in ["sqlite_t", "sqlite_sequence"] {
        assert_eq!(spec.check(name).unwrap_err().code(), "table.name-reserved");
    }
    // None of SQLite's names for its row number is left.
    let taken = r#"{"relational": {}, "columns": [{"name": "RowId", "type": "int"},
        {"name": "_rowid_", "type": "int"}, {"name": "OID", "type": "int"}]}"#;
    let taken: TableSpec = serde_json::from_str(taken).unwrap();
    assert_eq!(
        taken.check("t").unwrap_err().code(),
        "table.column-name-reserved"
    );
}

#[test]
fn a_file_that_is_taken_away_is_missed_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let tables = open(
        folder.path(),
        &format!(r#"{{"relational": {{}}, {KEYED}}}"#),
    )
    .unwrap();
    let table = tables.table("t").unwrap();
    table.apply(&rows(&[("a", 1)]), Some(&at("p", 1))).unwrap();
    let file = folder.path().join("t.db");
    let aside = folder.path().join("aside.db");
    std::fs::rename(&file, &aside).unwrap();
    let error = table
        .apply(&rows(&[("b", 2)]), Some(&at("p", 2)))
        .unwrap_err();
    assert_eq!(
        (error.code(), error.class()),
        ("table.file-gone", busbar_event::Class::Configuration)
    );
    // Put back, it is as if nothing had been.
    std::fs::rename(&aside, &file).unwrap();
    table.apply(&rows(&[("b", 2)]), Some(&at("p", 2))).unwrap();
    assert_eq!(all(&table), pairs(&[("a", 1), ("b", 2)]));
    // Gone for good, a flow that starts again begins with an empty table of the same columns.
    for ending in ["db", "db-wal", "db-shm"] {
        let _ = std::fs::remove_file(folder.path().join(format!("t.{ending}")));
    }
    assert!(table.apply(&rows(&[("c", 3)]), Some(&at("p", 3))).is_err());
    table.evolve(rows(&[]).schema_ref()).unwrap();
    assert_eq!(table.position("p").unwrap(), None);
    table.apply(&rows(&[("c", 3)]), Some(&at("p", 3))).unwrap();
    assert_eq!(all(&table), pairs(&[("c", 3)]));
    assert_eq!(table.rows().unwrap(), 1);
    drop((table, tables));
    let tables = open(
        folder.path(),
        &format!(r#"{{"relational": {{}}, {KEYED}}}"#),
    )
    .unwrap();
    assert_eq!(all(&tables.table("t").unwrap()), pairs(&[("c", 3)]));
}

#[test]
fn a_file_that_another_program_locks_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let tables = open(
        folder.path(),
        &format!(r#"{{"relational": {{}}, {KEYED}}}"#),
    )
    .unwrap();
    let table = tables.table("t").unwrap();
    let other = rusqlite::Connection::open(folder.path().join("t.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = table
        .apply(&rows(&[("a", 1)]), Some(&at("p", 1)))
        .unwrap_err();
    assert_eq!(
        (error.code(), error.class()),
        ("table.file-busy", busbar_event::Class::Transient)
    );
    // Readers do not wait.
    assert_eq!(all(&table), []);
    other.execute_batch("ROLLBACK").unwrap();
    table.apply(&rows(&[("a", 1)]), Some(&at("p", 1))).unwrap();
    assert_eq!(all(&table), pairs(&[("a", 1)]));
}
