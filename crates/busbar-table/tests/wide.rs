//! Cells of wide tables: versions, time to live, conditions, sums, ranges of keys, and what is removed in the background.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::Int64Type;
use busbar_log::ManualClock;
use busbar_table::wide::{
    CellChange, CellFilter, CellScan, CellSelect, CellValue, Increment, RowCells, RowChange,
};
use busbar_table::{
    Compare, Condition, Constant, Scan, Table as _, TableSpec, Tables, Wide, Write,
};
use proptest::prelude::*;

const SECOND: i64 = 1_000_000;

struct Bench {
    tables: Tables,
    clock: Arc<ManualClock>,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(spec: &str) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(1_000 * SECOND));
        let tables = open(folder.path(), &clock, spec).unwrap();
        Bench {
            tables,
            clock,
            folder,
        }
    }

    fn table(&self) -> Arc<Wide> {
        self.tables.wide("t").unwrap()
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

fn specs(spec: &str) -> BTreeMap<String, TableSpec> {
    BTreeMap::from([("t".to_owned(), serde_json::from_str(spec).unwrap())])
}

const RIGS: &str = r#"{
    "wide": { "families": [{"name": "m", "versions": 3}, {"name": "note", "ttl": "60s", "free": true}] },
    "key": ["rig", "n"],
    "columns": [{"name": "rig", "type": "text"}, {"name": "n", "type": "int"}, {"name": "temp", "type": "float"},
                {"name": "note.by", "type": "text"}]
}"#;

fn key(rig: &str, n: i64) -> Vec<CellValue> {
    vec![CellValue::Text(rig.to_owned()), CellValue::Int(n)]
}

fn put(rig: &str, n: i64, cells: &[(&str, CellValue)]) -> RowChange {
    let changes = cells
        .iter()
        .map(|(column, value)| CellChange::Put((*column).to_owned(), value.clone()));
    RowChange {
        key: key(rig, n),
        changes: changes.collect(),
        ..RowChange::default()
    }
}

fn row(table: &Wide, rig: &str, n: i64, select: &CellSelect) -> Option<RowCells> {
    table.get(&[key(rig, n)], select).unwrap().pop().unwrap()
}

/// `family.qualifier=value` of each cell.
fn shown(row: Option<RowCells>) -> Vec<String> {
    let cells = row.into_iter().flat_map(|row| row.cells);
    cells
        .map(|cell| {
            format!(
                "{}.{}={}",
                cell.family,
                cell.qualifier,
                cell.value.to_json()
            )
        })
        .collect()
}

fn all(versions: u32) -> CellSelect {
    CellSelect {
        versions: Some(versions),
        ..CellSelect::default()
    }
}

#[test]
fn the_newest_versions_of_a_cell_are_kept() {
    let bench = Bench::new(RIGS);
    let table = bench.table();
    for value in 1..=5 {
        bench.clock.advance(SECOND);
        table
            .change(&[put(
                "a",
                1,
                &[
                    ("temp", CellValue::Int(value)),
                    ("m.other", CellValue::Bool(true)),
                ],
            )])
            .unwrap();
    }
    assert_eq!(
        shown(row(&table, "a", 1, &all(2))),
        ["m.other=true", "m.other=true", "m.temp=5.0", "m.temp=4.0"]
    );
    let temp = CellSelect {
        columns: vec!["m.temp".to_owned()],
        versions: Some(10),
    };
    let check = |table: &Wide| {
        let cells = row(table, "a", 1, &temp).unwrap().cells;
        let times: Vec<i64> = cells.iter().map(|cell| cell.time / SECOND).collect();
        assert_eq!(times, [1005, 1004, 1003]);
    };
    check(&table);
    drop(table);
    let bench = bench.restarted(RIGS);
    check(&bench.table());
    // An older cell that comes late takes its place among the others, and the oldest goes.
    let late = RowChange {
        time: Some(1004 * SECOND + 1),
        ..put("a", 1, &[("temp", CellValue::Float(9.5))])
    };
    bench.table().change(&[late]).unwrap();
    let cells = row(&bench.table(), "a", 1, &temp).unwrap().cells;
    let values: Vec<CellValue> = cells.into_iter().map(|cell| cell.value).collect();
    assert_eq!(
        values,
        [
            CellValue::Float(5.0),
            CellValue::Float(9.5),
            CellValue::Float(4.0)
        ]
    );
}

#[test]
fn cells_families_and_rows_are_deleted() {
    let bench = Bench::new(RIGS);
    let table = bench.table();
    let cells = [
        ("temp", CellValue::Float(1.0)),
        ("m.x", CellValue::Int(1)),
        ("note.by", CellValue::Text("li".into())),
    ];
    table
        .change(&[put("a", 1, &cells), put("a", 2, &cells)])
        .unwrap();
    let delete = |n, change| RowChange {
        key: key("a", n),
        changes: vec![change],
        ..RowChange::default()
    };
    table
        .change(&[delete(1, CellChange::Delete("m.x".into()))])
        .unwrap();
    assert_eq!(
        shown(row(&table, "a", 1, &all(3))),
        ["m.temp=1.0", r#"note.by="li""#]
    );
    table
        .change(&[delete(1, CellChange::DeleteFamily("m".into()))])
        .unwrap();
    assert_eq!(shown(row(&table, "a", 1, &all(3))), [r#"note.by="li""#]);
    table.change(&[delete(1, CellChange::DeleteRow)]).unwrap();
    assert_eq!(row(&table, "a", 1, &all(3)), None);
    assert_eq!(table.rows().unwrap(), 1);
    // What is put after a deletion in the same change is there.
    let mut again = put("a", 2, &[("temp", CellValue::Float(2.0))]);
    again.changes.insert(0, CellChange::DeleteRow);
    table.change(&[again]).unwrap();
    assert_eq!(shown(row(&table, "a", 2, &all(3))), ["m.temp=2.0"]);
}

#[test]
fn cells_expire_by_family() {
    let bench = Bench::new(RIGS);
    let table = bench.table();
    let cells = [
        ("temp", CellValue::Float(1.0)),
        ("note.by", CellValue::Text("li".into())),
    ];
    table.change(&[put("a", 1, &cells)]).unwrap();
    table
        .change(&[put("b", 1, &[("note.by", CellValue::Text("wang".into()))])])
        .unwrap();
    bench.clock.advance(60 * SECOND);
    assert_eq!(
        shown(row(&table, "a", 1, &all(3))),
        ["m.temp=1.0", r#"note.by="li""#]
    );
    bench.clock.advance(1);
    assert_eq!(shown(row(&table, "a", 1, &all(3))), ["m.temp=1.0"]);
    // A row of which everything has expired is not there.
    assert_eq!(row(&table, "b", 1, &all(3)), None);
    assert_eq!(table.rows().unwrap(), 1);
    assert_eq!(table.remove_dead().unwrap(), 1);
    assert_eq!(shown(row(&table, "a", 1, &all(3))), ["m.temp=1.0"]);
}

#[test]
fn a_row_changes_only_if_its_conditions_fit() {
    let bench = Bench::new(RIGS);
    let table = bench.table();
    let only_if = |value: Option<CellValue>| CellFilter {
        column: "temp".to_owned(),
        compare: Compare::Equal,
        value,
    };
    let guarded = |value, expected| RowChange {
        only_if: vec![only_if(expected)],
        ..put("a", 1, &[("temp", CellValue::Float(value))])
    };
    assert_eq!(
        table
            .change(&[guarded(1.0, Some(CellValue::Float(9.0)))])
            .unwrap(),
        [false]
    );
    assert_eq!(row(&table, "a", 1, &all(1)), None);
    assert_eq!(table.change(&[guarded(1.0, None)]).unwrap(), [true]);
    assert_eq!(table.change(&[guarded(2.0, None)]).unwrap(), [false]);
    assert_eq!(
        table
            .change(&[guarded(2.0, Some(CellValue::Float(1.0)))])
            .unwrap(),
        [true]
    );
    assert_eq!(shown(row(&table, "a", 1, &all(1))), ["m.temp=2.0"]);
    // Of many who try at once exactly one finds what it expects.
    let won: usize = std::thread::scope(|scope| {
        let tries = (0..8).map(|n| {
            let (table, change) = (
                &table,
                guarded(f64::from(n) + 10.0, Some(CellValue::Float(2.0))),
            );
            scope.spawn(move || table.change(&[change]).unwrap()[0])
        });
        let tries: Vec<_> = tries.collect();
        tries
            .into_iter()
            .map(|t| usize::from(t.join().unwrap()))
            .sum()
    });
    assert_eq!(won, 1);
}

#[test]
fn sums_of_many_writers_lose_nothing() {
    let bench = Bench::new(RIGS);
    let table = bench.table();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let sum = |by| Increment {
                    key: key("a", 1),
                    column: "m.count".to_owned(),
                    by,
                };
                for _ in 0..25 {
                    table.increment(&[sum(1), sum(2)]).unwrap();
                }
            });
        }
    });
    assert_eq!(shown(row(&table, "a", 1, &all(1))), ["m.count=300"]);
    let refused = |column: &str, by| {
        let sum = Increment {
            key: key("a", 1),
            column: column.to_owned(),
            by,
        };
        table.increment(&[sum]).unwrap_err().code()
    };
    assert_eq!(refused("m.count", i64::MAX), "table.wide-sum");
    table
        .change(&[put("a", 1, &[("temp", CellValue::Float(1.0))])])
        .unwrap();
    assert_eq!(refused("temp", 1), "table.wide-no-counter");
    assert_eq!(refused("rig", 1), "table.wide-key-cell");
}

fn keys(rows: &[RowCells]) -> Vec<(String, i64)> {
    let key = |row: &RowCells| match &row.key[..] {
        [CellValue::Text(rig), CellValue::Int(n)] => (rig.clone(), *n),
        other => panic!("{other:?}"),
    };
    rows.iter().map(key).collect()
}

#[test]
fn rows_are_read_by_prefix_range_filter_and_page() {
    let bench = Bench::new(RIGS);
    let table = bench.table();
    for rig in ["a", "b"] {
        let rows = (-3..30).map(|n| put(rig, n, &[("temp", CellValue::Float(n as f64))]));
        table.change(&rows.collect::<Vec<_>>()).unwrap();
    }
    let text = |rig: &str| vec![CellValue::Text(rig.to_owned())];
    let scan = |scan: CellScan| keys(&table.scan_cells(&scan).unwrap().rows);
    let prefix = scan(CellScan {
        prefix: text("a"),
        ..CellScan::default()
    });
    assert_eq!(
        prefix,
        (-3..30).map(|n| ("a".to_owned(), n)).collect::<Vec<_>>()
    );
    let range = scan(CellScan {
        prefix: text("b"),
        from: vec![CellValue::Int(-1)],
        to: vec![CellValue::Int(2)],
        ..CellScan::default()
    });
    assert_eq!(range, [("b".into(), -1), ("b".into(), 0), ("b".into(), 1)]);
    let filtered = CellScan {
        filters: vec![CellFilter {
            column: "m.temp".to_owned(),
            compare: Compare::Greater,
            value: Some(CellValue::Float(28.0)),
        }],
        select: CellSelect {
            columns: vec!["note".to_owned()],
            versions: None,
        },
        ..CellScan::default()
    };
    let found = table.scan_cells(&filtered).unwrap().rows;
    assert_eq!(keys(&found), [("a".into(), 29), ("b".into(), 29)]);
    assert!(found.iter().all(|row| row.cells.is_empty()));
    // Pages hold every row once.
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = table
            .scan_cells(&CellScan {
                after,
                limit: Some(7),
                ..CellScan::default()
            })
            .unwrap();
        paged.extend(keys(&page.rows));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(paged, scan(CellScan::default()));
    let nothing = scan(CellScan {
        prefix: text("b"),
        from: vec![CellValue::Int(5)],
        to: vec![CellValue::Int(-5)],
        ..CellScan::default()
    });
    assert!(nothing.is_empty());
}

#[test]
fn a_salted_key_is_read_by_what_the_salt_is_made_of() {
    let spec = r#"{"wide": {"salt": ["rig"]}, "key": ["rig", "n"], "columns": [{"name": "rig", "type": "text"},
        {"name": "n", "type": "int"}, {"name": "v", "type": "int"}]}"#;
    let bench = Bench::new(spec);
    let table = bench.table();
    let rows = (0..50).map(|n| put(&format!("r{}", n % 5), n, &[("v", CellValue::Int(n))]));
    table.change(&rows.collect::<Vec<_>>()).unwrap();
    let of = |conditions: Vec<Condition>| {
        let scan = Scan {
            conditions,
            ..Scan::default()
        };
        let batches = table.scan(&scan).unwrap().map(Result::unwrap);
        batches.map(|batch| batch.num_rows()).sum::<usize>()
    };
    assert_eq!(of(Vec::new()), 50);
    let rig = Condition {
        column: 0,
        compare: Compare::Equal,
        constant: Constant::Text("r3".to_owned()),
    };
    assert_eq!(of(vec![rig.clone()]), 10);
    let n = Condition {
        column: 1,
        compare: Compare::GreaterOrEqual,
        constant: Constant::Int(23),
    };
    assert_eq!(of(vec![rig, n.clone()]), 6);
    assert_eq!(of(vec![n]), 50, "not in the order of keys: read whole");
    let whole = CellScan {
        prefix: vec![CellValue::Text("r1".into())],
        ..CellScan::default()
    };
    assert_eq!(table.scan_cells(&whole).unwrap().rows.len(), 10);
    // Another salt would not find these rows again.
    let other = spec.replace(r#""salt": ["rig"]"#, r#""salt": ["rig", "n"]"#);
    let refused = bench.tables.apply(&specs(&other)).unwrap_err();
    assert_eq!(refused.code(), "table.wide-changed");
}

#[test]
fn objects_of_free_families_become_cells_and_come_back() {
    let bench = Bench::new(RIGS);
    let table = bench.table();
    let batch = |texts: Vec<Option<&str>>| {
        let count = texts.len();
        let rigs = StringArray::from_iter_values((0..count).map(|_| "a"));
        let numbers = Int64Array::from_iter_values(0..count as i64);
        RecordBatch::try_from_iter([
            ("rig", Arc::new(rigs) as ArrayRef),
            ("n", Arc::new(numbers)),
            ("note", Arc::new(StringArray::from(texts))),
        ])
        .unwrap()
    };
    let given = batch(vec![
        Some(r#"{"by": "li", "x": 1.5, "list": [1, 2], "gone": null}"#),
        Some("[1]"),
        None,
        Some(r#"{"by": 5}"#),
    ]);
    let applied = table.apply(&given, None).unwrap();
    let codes: Vec<_> = applied
        .rejected
        .iter()
        .map(|r| (r.row, r.cause.code()))
        .collect();
    assert_eq!(
        codes,
        [(1, "table.wide-not-object"), (3, "table.wide-value-type")]
    );
    assert_eq!(applied.put, 2);
    assert_eq!(
        shown(row(&table, "a", 0, &all(1))),
        [r#"note.by="li""#, "note.list=[1,2]", "note.x=1.5"]
    );
    let batch = table
        .scan(&Scan::default())
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let names: Vec<_> = batch
        .schema()
        .fields()
        .iter()
        .map(|f| f.name().clone())
        .collect();
    assert_eq!(names, ["rig", "n", "temp", "note.by", "note"]);
    assert_eq!(batch.column(3).as_string::<i32>().value(0), "li");
    let object = batch.column(4).as_string::<i32>();
    let object: serde_json::Value = serde_json::from_str(object.value(0)).unwrap();
    assert_eq!(object, serde_json::json!({"list": [1, 2], "x": 1.5}));
    assert_eq!(batch.num_rows(), 2, "a row without cells is a row");
}

#[test]
fn a_column_of_the_row_stamps_its_cells() {
    let spec = r#"{"wide": {"families": [{"name": "d", "versions": 2}], "time": "at"}, "key": ["k"], "columns": [
        {"name": "k", "type": "text"}, {"name": "at", "type": "time"}, {"name": "v", "type": "int"}]}"#;
    let bench = Bench::new(spec);
    let table = bench.table();
    let write = |at: i64, v: i64| {
        let times = TimestampMicrosecondArray::from(vec![at]).with_timezone("UTC");
        let batch = RecordBatch::try_from_iter([
            ("k", Arc::new(StringArray::from(vec!["a"])) as ArrayRef),
            ("at", Arc::new(times)),
            ("v", Arc::new(Int64Array::from(vec![v]))),
        ])
        .unwrap();
        table.apply(&batch, None).unwrap();
    };
    write(20, 2);
    write(30, 3);
    write(10, 1);
    let batch = table
        .scan(&Scan::default())
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(batch.column(2).as_primitive::<Int64Type>().value(0), 3);
    let select = CellSelect {
        columns: vec!["v".to_owned()],
        versions: Some(5),
    };
    let cells = table
        .get(&[vec![CellValue::Text("a".into())]], &select)
        .unwrap();
    assert_eq!(shown(cells[0].clone()), ["d.v=3", "d.v=2"]);
}

#[test]
fn a_clock_that_is_set_back_does_not_hide_what_is_written() {
    let bench = Bench::new(RIGS);
    bench
        .table()
        .change(&[put("a", 1, &[("temp", CellValue::Int(1))])])
        .unwrap();
    bench.clock.advance(-500 * SECOND);
    bench
        .table()
        .change(&[put("a", 1, &[("temp", CellValue::Int(2))])])
        .unwrap();
    assert_eq!(shown(row(&bench.table(), "a", 1, &all(1))), ["m.temp=2.0"]);
    let bench = bench.restarted(RIGS);
    bench
        .table()
        .change(&[put("a", 1, &[("temp", CellValue::Int(3))])])
        .unwrap();
    assert_eq!(shown(row(&bench.table(), "a", 1, &all(1))), ["m.temp=3.0"]);
}

#[test]
fn families_come_go_and_come_back_with_their_cells() {
    let bench = Bench::new(RIGS);
    let cells = [("temp", CellValue::Int(1)), ("note.x", CellValue::Int(2))];
    bench.table().change(&[put("a", 1, &cells)]).unwrap();
    let without = RIGS
        .replace(
            r#", {"name": "note", "ttl": "60s", "free": true}"#,
            r#", {"name": "more"}"#,
        )
        .replace(r#""note.by""#, r#""more.by""#);
    bench.tables.apply(&specs(&without)).unwrap();
    assert_eq!(shown(row(&bench.table(), "a", 1, &all(1))), ["m.temp=1.0"]);
    let bench = bench.restarted(&without);
    assert_eq!(shown(row(&bench.table(), "a", 1, &all(1))), ["m.temp=1.0"]);
    bench.tables.apply(&specs(RIGS)).unwrap();
    assert_eq!(
        shown(row(&bench.table(), "a", 1, &all(1))),
        ["m.temp=1.0", "note.x=2"]
    );
}

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
