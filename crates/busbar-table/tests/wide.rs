//! Cells of wide tables in the node's own store, and what is removed there in the background.

#[path = "wide/cases.rs"]
mod cases;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use busbar_log::ManualClock;
use busbar_table::wide::{CellChange, CellScan, CellValue, RowChange};
use busbar_table::{Table as _, Tables, Wide, Write};
use cases::{SECOND, all, key, put, specs, wide_cases};
use proptest::prelude::*;

struct Bench {
    tables: Tables,
    clock: Arc<ManualClock>,
    folder: tempfile::TempDir,
    /// The time at which it began, in microseconds since 1970.
    start: i64,
}

impl Bench {
    fn new(spec: &str) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let start = 1_000 * SECOND;
        let clock = Arc::new(ManualClock::new(start));
        let tables = open(folder.path(), &clock, spec).unwrap();
        Bench {
            tables,
            clock,
            folder,
            start,
        }
    }

    fn table(&self) -> Arc<Wide> {
        self.tables.wide("t").unwrap()
    }

    fn apply(&self, spec: &str) -> Result<(), busbar_event::Error> {
        self.tables.apply(&specs(spec))
    }

    fn restarted(self, spec: &str) -> Bench {
        drop(self.tables);
        let tables = open(self.folder.path(), &self.clock, spec).unwrap();
        Bench { tables, ..self }
    }
}

fn open(
    folder: &Path,
    clock: &Arc<ManualClock>,
    spec: &str,
) -> Result<Tables, busbar_event::Error> {
    let tables = Tables::open(folder, Arc::clone(clock) as _)?;
    tables.apply(&specs(spec))?;
    Ok(tables)
}

macro_rules! test {
    ($name:ident) => {
        #[test]
        fn $name() {
            cases::$name();
        }
    };
}
wide_cases!(test);

#[test]
fn specs_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(0));
    for (spec, code) in [
        (r#"{"wide": {}}"#, "table.wide-key"),
        (
            r#"{"wide": {"salt": ["b"]}, "key": ["a", "b"]}"#,
            "table.wide-salt",
        ),
        (
            r#"{"wide": {"families": [{"name": "A"}]}, "key": ["a"]}"#,
            "table.wide-family-name",
        ),
        (
            r#"{"wide": {"families": [{"name": "a"}, {"name": "a"}]}, "key": ["k"]}"#,
            "table.wide-family-twice",
        ),
        (
            r#"{"wide": {"families": [{"name": "a", "versions": 0}]}, "key": ["k"]}"#,
            "table.wide-versions",
        ),
        (
            r#"{"wide": {"families": [{"name": "a", "ttl": "soon"}]}, "key": ["k"]}"#,
            "table.ttl",
        ),
        (
            r#"{"wide": {"families": [{"name": "k", "free": true}]}, "key": ["k"]}"#,
            "table.wide-free-column",
        ),
        (
            r#"{"wide": {"families": [{"name":"a"},{"name":"b"},{"name":"c"},{"name":"d"},{"name":"e"}]}, "key": ["k"]}"#,
            "table.wide-families",
        ),
        (
            r#"{"wide": {}, "hot": {}, "key": ["k"]}"#,
            "table.one-engine",
        ),
        (
            r#"{"wide": {"time": "k"}, "key": ["k"], "columns": [{"name": "k", "type": "text"}]}"#,
            "table.wide-time",
        ),
    ] {
        let refused = open(folder.path(), &clock, spec).unwrap_err();
        assert_eq!(refused.code(), code, "{spec}");
    }
}

/// Time, number, value.
type Written = (i64, u64, Option<i64>);

/// What a table of cells holds, in the plainest way: every cell ever written, and every deletion.
#[derive(Default)]
struct Model {
    /// By row and qualifier; without a value it is a deletion.
    cells: BTreeMap<(u8, u8), Vec<Written>>,
    rows: BTreeMap<u8, Vec<(i64, u64)>>,
    number: u64,
}

impl Model {
    fn get(&self, row: u8, versions: usize) -> Vec<(u8, i64)> {
        let gone = self.rows.get(&row).and_then(|d| d.iter().max()).copied();
        let mut found = Vec::new();
        for ((its, qualifier), cells) in &self.cells {
            let mut cells = cells.clone();
            cells.sort_by_key(|(time, number, _)| std::cmp::Reverse((*time, *number)));
            let live = cells.iter().take_while(|(time, number, value)| {
                value.is_some() && Some((*time, *number)) > gone
            });
            if *its == row {
                found.extend(
                    live.take(versions)
                        .map(|cell| (*qualifier, cell.2.unwrap())),
                );
            }
        }
        found
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8, i64, Option<i64>),
    DeleteRow(u8),
    Restart,
    Sweep,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let time = prop::option::of(900i64..1_100);
    let step = prop_oneof![
        8 => (0u8..3, 0u8..3, any::<i64>(), time).prop_map(|(r, q, v, t)| Step::Put(r, q, v, t)),
        2 => (0u8..3).prop_map(Step::DeleteRow),
        1 => Just(Step::Restart),
        2 => Just(Step::Sweep),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is written, deleted, stamped with times of its own and written again after a restart, rows hold what a
    /// list of all that happened says.
    #[test]
    fn a_table_holds_what_happened(steps in steps()) {
        let spec = r#"{"wide": {"families": [{"name": "m", "versions": 2}]}, "key": ["rig", "n"],
            "columns": [{"name": "rig", "type": "text"}, {"name": "n", "type": "int"}]}"#;
        let mut bench = Bench::new(spec);
        let mut model = Model::default();
        for step in steps {
            model.number += 1;
            let now = 1_000 * SECOND;
            match step {
                Step::Put(r, q, v, time) => {
                    let time = time.map(|time| time * SECOND);
                    let change = RowChange {
                        time,
                        ..put("r", i64::from(r), &[(&format!("q{q}"), CellValue::Int(v))])
                    };
                    bench.table().change(&[change]).unwrap();
                    let cell = (time.unwrap_or(now), model.number, Some(v));
                    model.cells.entry((r, q)).or_default().push(cell);
                }
                Step::DeleteRow(r) => {
                    let batch = RecordBatch::try_from_iter([
                        ("rig", Arc::new(StringArray::from(vec!["r"])) as ArrayRef),
                        ("n", Arc::new(Int64Array::from(vec![i64::from(r)]))),
                    ]).unwrap();
                    let deletes = BooleanArray::from(vec![true]);
                    let write = Write { rows: &batch, deletes: Some(&deletes), position: None };
                    bench.table().write(&write).unwrap();
                    model.rows.entry(r).or_default().push((now, model.number));
                }
                Step::Restart => bench = bench.restarted(spec),
                Step::Sweep => {
                    bench.table().remove_dead().unwrap();
                    // What a deletion hid is gone with the deletion, which hides nothing later any more.
                    for row in 0..3 {
                        if let Some(gone) = model.rows.remove(&row).and_then(|d| d.into_iter().max()) {
                            for ((its, _), cells) in &mut model.cells {
                                if *its == row {
                                    cells.retain(|(time, number, _)| (*time, *number) > gone);
                                }
                            }
                        }
                    }
                }
            }
            for row in 0..3u8 {
                let found = bench.table().get(&[key("r", i64::from(row))], &all(2)).unwrap().pop().unwrap();
                let cells = found.into_iter().flat_map(|row| row.cells);
                let found: Vec<(u8, i64)> = cells.map(|cell| match cell.value {
                    CellValue::Int(value) => (cell.qualifier.as_bytes()[1] - b'0', value),
                    other => panic!("{other:?}"),
                }).collect();
                prop_assert_eq!(found, model.get(row, 2));
            }
        }
    }
}

/// Rows are kept in memory while they are written: whoever reads sees what was written before, never older than what was seen
/// before, and rows that were changed together as they were at one moment.
#[test]
fn who_reads_while_rows_are_written_sees_each_moment_whole() {
    const CHANGES: i64 = 2_000;
    let spec = r#"{"wide": {}, "key": ["rig", "n"],
        "columns": [{"name": "rig", "type": "text"}, {"name": "n", "type": "int"}]}"#;
    let bench = Bench::new(spec);
    let table = bench.table();
    let value = |row: &busbar_table::wide::RowCells| match row.cells[0].value {
        CellValue::Int(value) => value,
        ref other => panic!("{other:?}"),
    };
    let read = |keys: &[i64]| -> Vec<i64> {
        let keys: Vec<_> = keys.iter().map(|n| key("r", *n)).collect();
        let rows = table.get(&keys, &all(1)).unwrap();
        rows.iter()
            .map(|row| row.as_ref().map_or(0, value))
            .collect()
    };
    let change = |at: i64| {
        let rows = [1, 2].map(|n| put("r", n, &[("v", CellValue::Int(at))]));
        table.change(&rows).unwrap();
    };
    change(1);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The readers end also where an assertion here fails.
        let _over = SetAtEnd(&is_over);
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = 0;
                    while seen < CHANGES && !is_over.load(Ordering::SeqCst) {
                        let both = read(&[1, 2]);
                        assert_eq!(both[0], both[1]);
                        assert!(both[0] >= seen, "{both:?} after {seen}");
                        let one = read(&[1])[0];
                        assert!(one >= both[0], "{one} after {both:?}");
                        seen = one;
                        if seen % 100 == 0 {
                            table.remove_dead().unwrap();
                        }
                    }
                })
            })
            .collect();
        for at in 2..=CHANGES {
            change(at);
            assert_eq!(read(&[2]), [at], "it was written before");
        }
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

/// A scan does not read all fragments of a row that has many, and finds what reading the row alone finds.
#[test]
fn a_scan_goes_on_behind_rows_that_were_changed_over_and_over() {
    let spec = r#"{
        "wide": { "families": [{"name": "m", "versions": 3}, {"name": "note"}] },
        "key": ["rig", "n"], "columns": [{"name": "rig", "type": "text"}, {"name": "n", "type": "int"}]}"#;
    let mut bench = Bench::new(spec);
    for (n, changes) in [(1, 1), (2, 500), (3, 1), (4, 300), (5, 200)] {
        for at in 0..changes {
            let v = put("r", n, &[("m.v", CellValue::Int(at))]);
            let note = put(
                "r",
                n,
                &[(["note.a", "note.b"][at as usize % 2], CellValue::Int(at))],
            );
            bench.table().change(&[v, note]).unwrap();
            if (n, at) == (4, 290) {
                let row = RowChange {
                    key: key("r", 4),
                    changes: vec![CellChange::DeleteRow],
                    ..RowChange::default()
                };
                bench.table().change(&[row]).unwrap();
            }
        }
    }
    // With what writers have left in memory, without it, and with what the scan before has left there.
    for round in 0..3 {
        let table = bench.table();
        for (from, to) in [(1, 6), (2, 3), (1, 2), (2, 5), (4, 5), (3, 6), (5, 6)] {
            let keys: Vec<_> = (from..to).map(|n| key("r", n)).collect();
            let scan = CellScan {
                prefix: vec![CellValue::Text("r".into())],
                from: vec![CellValue::Int(from)],
                to: vec![CellValue::Int(to)],
                select: all(5),
                ..CellScan::default()
            };
            let scanned = table.scan_cells(&scan).unwrap().rows;
            let rows = table.get(&keys, &all(5)).unwrap();
            let rows: Vec<_> = rows.into_iter().map(Option::unwrap).collect();
            assert_eq!(scanned, rows, "{from} to {to} in round {round}");
            let versions = |row: &busbar_table::wide::RowCells| row.cells.len();
            assert!(from > 2 || to < 3 || versions(&rows[(2 - from) as usize]) == 5);
        }
        drop(table);
        if round == 0 {
            bench = bench.restarted(spec);
        }
    }
}

/// A sweep reads the values of families with several fragments only, and finds what is dead in any case.
#[test]
fn a_sweep_leaves_what_can_be_seen() {
    let spec = r#"{
        "wide": { "families": [{"name": "m"}, {"name": "note", "ttl": "1s"}] },
        "key": ["rig", "n"],
        "columns": [{"name": "rig", "type": "text"}, {"name": "n", "type": "int"}, {"name": "v", "type": "int"},
            {"name": "note.by", "type": "text"}]}"#;
    let bench = Bench::new(spec);
    let table = bench.table();
    let change = |n: i64, changes: Vec<CellChange>| {
        let row = RowChange {
            key: key("r", n),
            changes,
            ..RowChange::default()
        };
        table.change(&[row]).unwrap();
    };
    let v = |value: i64| CellChange::Put("v".into(), CellValue::Int(value));
    let by = || CellChange::Put("note.by".into(), CellValue::Text("li".into()));
    // Alone, twice, deleted, deleted without ever having been there, deleted and there again, and about to expire.
    change(1, vec![v(1)]);
    change(2, vec![v(1)]);
    change(2, vec![v(2)]);
    change(3, vec![v(1)]);
    change(3, vec![CellChange::DeleteRow]);
    change(4, vec![CellChange::DeleteRow]);
    change(5, vec![v(1)]);
    change(5, vec![CellChange::DeleteRow]);
    change(5, vec![v(2)]);
    change(6, vec![by()]);
    change(7, vec![v(1), by()]);
    let seen = || -> Vec<i64> {
        let keys: Vec<_> = (1..=7).map(|n| key("r", n)).collect();
        let rows = table.get(&keys, &all(1)).unwrap();
        (1..)
            .zip(rows)
            .filter_map(|(n, row)| row.map(|_| n))
            .collect()
    };
    assert_eq!(
        (table.remove_dead().unwrap(), seen()),
        (6, vec![1, 2, 5, 6, 7])
    );
    bench.clock.advance(2 * SECOND);
    assert_eq!(
        (table.remove_dead().unwrap(), seen()),
        (4, vec![1, 2, 5, 7])
    );
    assert_eq!(
        (table.remove_dead().unwrap(), seen()),
        (4, vec![1, 2, 5, 7])
    );
}

/// A deletion hides what is put with an earlier time until a sweep removes it, in memory as in the files.
#[test]
fn a_deletion_that_a_sweep_has_removed_hides_nothing() {
    let spec = r#"{"wide": {}, "key": ["rig", "n"],
        "columns": [{"name": "rig", "type": "text"}, {"name": "n", "type": "int"}]}"#;
    let bench = Bench::new(spec);
    let (table, start) = (bench.table(), bench.start);
    let early = |column: &str| RowChange {
        time: Some(start - SECOND),
        ..put("r", 1, &[(column, CellValue::Int(1))])
    };
    let seen = |table: &Wide| {
        let row = table.get(&[key("r", 1)], &all(1)).unwrap().pop().unwrap();
        let cells = row.into_iter().flat_map(|row| row.cells);
        cells.map(|cell| cell.qualifier).collect::<Vec<_>>()
    };
    let delete = RowChange {
        key: key("r", 1),
        changes: vec![CellChange::DeleteRow],
        ..RowChange::default()
    };
    table.change(&[delete]).unwrap();
    table
        .change(&[put("r", 1, &[("v", CellValue::Int(1))])])
        .unwrap();
    table.change(&[early("before")]).unwrap();
    assert_eq!(seen(&table), ["v"]);
    table.remove_dead().unwrap();
    assert_eq!(seen(&table), ["v"]);
    table.change(&[early("after")]).unwrap();
    let in_memory = seen(&table);
    drop(table);
    let in_files = seen(&bench.restarted(spec).table());
    assert_eq!(in_memory, in_files);
    assert_eq!(in_files, ["after", "v"]);
}

/// Rows that are kept in memory are deleted and live their time while others read and remove what nobody sees: whoever deleted a
/// row, or knows that its time is over, does not see it again.
#[test]
fn a_row_that_was_deleted_or_has_lived_its_time_is_not_seen_again() {
    const ROUNDS: i64 = 500;
    let spec = r#"{
        "wide": { "families": [{"name": "m"}, {"name": "note", "ttl": "1s", "free": true}] },
        "key": ["rig", "n"], "columns": [{"name": "rig", "type": "text"}, {"name": "n", "type": "int"}]}"#;
    let bench = Bench::new(spec);
    let table = bench.table();
    let seen = |n: i64| {
        let row = table.get(&[key("r", n)], &all(1)).unwrap().pop().unwrap();
        row.map(|row| match row.cells[0].value {
            CellValue::Int(value) => value,
            ref other => panic!("{other:?}"),
        })
    };
    let change = |n: i64, change: CellChange| {
        let row = RowChange {
            key: key("r", n),
            changes: vec![change],
            ..RowChange::default()
        };
        table.change(&[row]).unwrap();
    };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let (mut last, mut reads) = ([0; 2], 0);
                while !done.load(Ordering::SeqCst) {
                    for (n, last) in (1..).zip(&mut last) {
                        let value = seen(n).unwrap_or(*last);
                        assert!(value >= *last, "{value} after {last} of {n}");
                        *last = value;
                    }
                    reads += 1;
                    if reads % 50 == 0 {
                        table.remove_dead().unwrap();
                    }
                }
            });
        }
        // The readers end also where an assertion here fails.
        let _done = SetAtEnd(&done);
        for at in 1..=ROUNDS {
            change(1, CellChange::Put("m.v".into(), CellValue::Int(at)));
            assert_eq!(seen(1), Some(at), "it was written before");
            change(1, CellChange::DeleteRow);
            assert_eq!(seen(1), None, "it was deleted before, in round {at}");
            change(2, CellChange::Put("note.v".into(), CellValue::Int(at)));
            assert_eq!(seen(2), Some(at), "it was written before");
            bench.clock.advance(SECOND + 2_000);
            assert_eq!(seen(2), None, "its time is over, in round {at}");
        }
    });
}

/// Sets a flag when it goes.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
