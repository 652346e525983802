//! Tables that keep their changes, and tables that compare rows.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray as _, BooleanArray, Int64Array, RecordBatch, StringArray,
};
use busbar_log::{Log, LogOptions, ManualClock, OsDisk};
use busbar_table::{
    ChangeColumns, ChangeLog, Newer, ProducerPosition, Table, TableSpec, Tables, Write,
};

/// The engines that keep changes.
const KEEPING: &[&str] = &[r#""hot": {}"#, r#""relational": {}"#, r#""wide": {}"#];

const REST: &str = r#""key": ["k"], "columns": [{"name": "k", "type": "text"}, {"name": "v", "type": "int"}, {"name": "w", "type": "text"}]"#;

struct Node {
    folder: tempfile::TempDir,
    tables: Tables,
    engine: &'static str,
}

fn open(folder: &Path) -> Tables {
    let clock = Arc::new(ManualClock::new(1_000_000));
    let disk = Arc::new(OsDisk);
    let log = Log::open(
        disk,
        &folder.join("log"),
        LogOptions::default(),
        Arc::clone(&clock) as _,
    );
    let tables = Tables::open(folder, clock).expect("tables");
    tables.with_journals(log.expect("a log")).expect("journals")
}

impl Node {
    fn apply(&self, changes: bool) {
        let text = format!("{{{}, {REST}, \"changes\": {changes}}}", self.engine);
        let spec: TableSpec = serde_json::from_str(&text).expect("a spec");
        let specs = BTreeMap::from([("t".to_owned(), spec)]);
        self.tables.apply(&specs).expect("applied");
    }

    fn table(&self) -> Arc<dyn Table> {
        self.tables.table("t").expect("the table")
    }

    /// The process has ended and begins again.
    fn restarted(self) -> Node {
        drop(self.tables);
        let node = Node {
            tables: open(self.folder.path()),
            ..self
        };
        node.apply(true);
        node
    }
}

fn each(case: impl Fn(Node)) {
    for engine in KEEPING {
        eprintln!("-- {engine}");
        let folder = tempfile::tempdir().expect("a folder");
        let node = Node {
            tables: open(folder.path()),
            folder,
            engine,
        };
        node.apply(true);
        case(node);
    }
}

fn log(table: &dyn Table) -> &dyn ChangeLog {
    table.changes().expect("it keeps changes")
}

/// Key and value, and what is written beside them if anything is.
fn put(table: &dyn Table, number: u64, rows: &[(&str, i64, Option<&str>)], deletes: &[bool]) {
    let keys = StringArray::from_iter_values(rows.iter().map(|row| row.0));
    let values = Int64Array::from_iter_values(rows.iter().map(|row| row.1));
    let mut columns: Vec<(&str, ArrayRef)> = vec![("k", Arc::new(keys)), ("v", Arc::new(values))];
    if rows.iter().any(|row| row.2.is_some()) {
        let beside: StringArray = rows.iter().map(|row| row.2).collect();
        columns.push(("w", Arc::new(beside)));
    }
    let rows = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let deletes = BooleanArray::from(deletes.to_vec());
    let at = ProducerPosition::new("flow:f:s:0:1", number);
    let write = Write {
        rows: &rows,
        deletes: (!deletes.is_empty()).then_some(&deletes),
        position: Some(&at),
    };
    table.write(&write).unwrap_or_else(|why| panic!("{why}"));
}

/// Position, what was done, and the whole row.
fn changes(log: &dyn ChangeLog, mut behind: u64) -> Vec<String> {
    let mut found = Vec::new();
    loop {
        let read = log.read(behind, 1).unwrap_or_else(|why| panic!("{why}"));
        for change in &read.changes {
            assert_eq!(change.producer.as_deref(), Some("flow:f:s:0:1"));
            for row in 0..change.rows.num_rows() {
                let cell = |column: &str| {
                    let column = change.rows.column_by_name(column).expect("a column");
                    match column.is_null(row) {
                        true => "-".to_owned(),
                        false => arrow::util::display::array_value_to_string(column, row)
                            .expect("a text"),
                    }
                };
                let deletes = change.deletes.as_ref();
                let sign = match deletes.is_some_and(|deletes| deletes.value(row)) {
                    true => '-',
                    false => '+',
                };
                let position = change.begin + row as u64 + 1;
                assert!(position > behind, "it was behind {behind}");
                found.push(format!("{sign}{} {} {}", cell("k"), cell("v"), cell("w")));
            }
        }
        if read.until == behind {
            return found;
        }
        behind = read.until;
    }
}

#[test]
fn each_change_is_kept_with_its_whole_row_until_it_was_taken() {
    each(|node| {
        let table = node.table();
        let begin = log(&*table).end().expect("a position");
        put(&*table, 1, &[("a", 1, Some("x")), ("b", 2, Some("y"))], &[]);
        // Only some columns; one row twice; a row that is not there is deleted.
        put(
            &*table,
            2,
            &[("a", 3, None), ("a", 4, None), ("c", 5, None)],
            &[],
        );
        put(
            &*table,
            3,
            &[
                ("b", 0, None),
                ("gone", 0, None),
                ("b", 6, None),
                ("a", 7, None),
            ],
            &[true, true, false, false],
        );
        let expected = [
            "+a 1 x", "+b 2 y", "+a 3 x", "+a 4 x", "+c 5 -", "-b 2 y", "+b 6 -", "+a 7 x",
        ];
        assert_eq!(changes(log(&*table), begin), expected);
        // What comes again is no change.
        put(&*table, 3, &[("a", 9, None)], &[]);
        assert_eq!(changes(log(&*table), begin), expected);
        let identity = log(&*table).identity().expect("an identity");
        assert!(identity.is_some());
        drop(table);
        let node = node.restarted();
        let table = node.table();
        assert_eq!(log(&*table).identity().expect("an identity"), identity);
        assert_eq!(changes(log(&*table), begin), expected);
        // From the middle of a write on.
        let read = log(&*table).read(begin, 1).expect("changes");
        let first = read.changes[0].begin + 1;
        assert_eq!(changes(log(&*table), first), expected[1..]);
        let end = log(&*table).end().expect("a position");
        log(&*table).forget(end).expect("forgotten");
        assert!(changes(log(&*table), end).is_empty());
        put(&*table, 4, &[("a", 8, None)], &[]);
        assert_eq!(changes(log(&*table), end), ["+a 8 x"]);
    });
}

#[test]
fn each_piece_of_a_delivery_says_who_has_written_it() {
    each(|node| {
        let table = node.table();
        put(&*table, 1, &[("a", 1, Some("x")), ("b", 2, Some("y"))], &[]);
        let behind = log(&*table).end().expect("a position");
        let columns = ChangeColumns {
            change: "change".into(),
            unchanged: Some("unchanged".into()),
            newer: None,
        };
        let texts = |of: [Option<&str>; 4]| Arc::new(StringArray::from(of.to_vec())) as ArrayRef;
        let rows = RecordBatch::try_from_iter([
            (
                "change",
                texts(["update", "update", "truncate", "insert"].map(Some)),
            ),
            ("k", texts([Some("a"), Some("b"), None, Some("c")])),
            (
                "v",
                Arc::new(Int64Array::from(vec![3, 4, 0, 5])) as ArrayRef,
            ),
            ("w", texts([None, Some("z"), None, Some("n")])),
            ("unchanged", texts([Some(r#"["w"]"#), None, None, None])),
        ]);
        let rows = rows.expect("columns of one length");
        let at = ProducerPosition::new("flow:f:s:0:1", 2);
        columns.write(&*table, &rows, Some(&at)).expect("written");
        // `changes` looks at the producer of each.
        let mut found = changes(log(&*table), behind);
        found[2..4].sort();
        assert_eq!(found, ["+a 3 x", "+b 4 z", "-a 3 x", "-b 4 z", "+c 5 n"]);
        assert_eq!(table.position("flow:f:s:0:1").expect("one"), Some(2));
        let again = columns.write(&*table, &rows, Some(&at)).expect("written");
        assert!(again.duplicate);
        drop(table);
        let node = node.restarted();
        let table = node.table();
        let (_, rows) = log(&*table).picture().expect("a picture");
        let keys = rows.flat_map(|rows| {
            let rows = rows.expect("rows");
            let keys = rows.column_by_name("k").expect("a column");
            let keys = keys.as_string::<i32>().iter().flatten();
            keys.map(str::to_owned).collect::<Vec<_>>()
        });
        assert_eq!(keys.collect::<Vec<_>>(), ["c"]);
        let mut again = changes(log(&*table), behind);
        again[2..4].sort();
        assert_eq!(again, found);
    });
}

#[test]
fn a_log_that_does_not_go_on_is_another_one() {
    each(|node| {
        let table = node.table();
        put(&*table, 1, &[("a", 1, None)], &[]);
        let before = log(&*table).identity().expect("an identity");
        let behind = log(&*table).end().expect("a position");
        node.apply(false);
        assert!(table.changes().is_none());
        put(&*table, 2, &[("a", 2, None)], &[]);
        node.apply(true);
        put(&*table, 3, &[("a", 3, None)], &[]);
        let after = log(&*table).identity().expect("an identity");
        assert_ne!(before, after);
        let renewed = log(&*table).renew().expect("another one");
        assert_ne!(after, Some(renewed));
        assert_eq!(log(&*table).identity().expect("one"), Some(renewed));
        let refused = log(&*table).read(behind + 1000, 1).map(drop);
        assert_eq!(refused.unwrap_err().code(), "table.changes-gap");
        // A picture and the position behind it belong together.
        let (end, rows) = log(&*table).picture().expect("a picture");
        let rows: usize = rows.map(|batch| batch.expect("rows").num_rows()).sum();
        assert_eq!(rows, 1);
        put(&*table, 4, &[("b", 1, None)], &[]);
        assert_eq!(changes(log(&*table), end), ["+b 1 -"]);
    });
}

#[test]
fn a_row_gives_way_to_a_newer_one() {
    each(|node| {
        for (or_equal, second) in [(false, "y"), (true, "same")] {
            let table = node.table();
            let newer = Newer {
                column: "v".into(),
                or_equal,
            };
            let write = |rows: &[(&str, Option<i64>, &str)], deletes: &[bool]| {
                let keys = StringArray::from_iter_values(rows.iter().map(|row| row.0));
                let values: Int64Array = rows.iter().map(|row| row.1).collect();
                let beside = StringArray::from_iter_values(rows.iter().map(|row| row.2));
                let rows = RecordBatch::try_from_iter([
                    ("k", Arc::new(keys) as ArrayRef),
                    ("v", Arc::new(values)),
                    ("w", Arc::new(beside)),
                ]);
                let rows = rows.expect("columns of one length");
                let deletes = BooleanArray::from(deletes.to_vec());
                let write = Write {
                    rows: &rows,
                    deletes: (!deletes.is_empty()).then_some(&deletes),
                    position: None,
                };
                let applied = table.write_newer(&write, &newer).expect("written");
                let rejected: Vec<usize> = applied.rejected.iter().map(|one| one.row).collect();
                (applied.conflicts, rejected)
            };
            let all = || {
                let mut found = Vec::new();
                for batch in table.scan(&Default::default()).expect("a scan") {
                    let batch = batch.expect("rows");
                    for row in 0..batch.num_rows() {
                        let cell = |column: usize| {
                            arrow::util::display::array_value_to_string(batch.column(column), row)
                                .expect("a text")
                        };
                        found.push(format!("{}{}{}", cell(0), cell(1), cell(2)));
                    }
                }
                found.sort();
                found
            };
            write(
                &[
                    ("a", Some(0), "-"),
                    ("b", Some(0), "-"),
                    ("c", Some(0), "-"),
                    ("d", Some(0), "-"),
                ],
                &[],
            );
            put(
                &*table,
                if or_equal { 20 } else { 10 },
                &[("a", 5, Some("x")), ("b", 5, Some("y"))],
                &[],
            );
            // Older, equal, newer, new, and one that says nothing.
            let given = [
                ("a", Some(4), "old"),
                ("b", Some(5), "same"),
                ("c", Some(1), "new"),
                ("n", Some(1), "new"),
                ("d", None, "none"),
            ];
            let conflicts = if or_equal { 1 } else { 2 };
            assert_eq!(write(&given, &[]), (conflicts, vec![4]));
            let b = format!("b5{second}");
            assert_eq!(all(), ["a5x", &b, "c1new", "d0-", "n1new"]);
            // The same row is no conflict. A deletion is of the row as it was.
            let given = [
                ("a", Some(5), "x"),
                ("b", Some(4), ""),
                ("c", Some(1), ""),
                ("n", Some(2), ""),
                ("d", Some(9), "late"),
                ("d", Some(8), "early"),
            ];
            let deletes = [false, true, true, true, false, false];
            assert_eq!(write(&given, &deletes), (2, vec![]));
            assert_eq!(all(), ["a5x", &b, "d9late"]);
            let all = [
                ("a", Some(99), ""),
                ("b", Some(99), ""),
                ("d", Some(99), ""),
            ];
            assert_eq!(write(&all, &[true, true, true]), (0, vec![]));
        }
    });
}
