//! What every wide table does, wherever its cells are kept: versions, time to live, conditions, sums, ranges of keys, objects.
//!
//! Whoever includes this file says what a `Bench` is. Times are whole milliseconds, as some systems keep them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::Int64Type;
use busbar_table::wide::{
    CellChange, CellFilter, CellScan, CellSelect, CellValue, Increment, RowCells, RowChange,
};
use busbar_table::{
    Compare, Condition, Constant, Lookup, ProducerPosition, Scan, Table as _, TableSpec, Wide,
    Write,
};

use super::Bench;

pub const MILLI: i64 = 1_000;
pub const SECOND: i64 = 1_000_000;

pub fn specs(spec: &str) -> BTreeMap<String, TableSpec> {
    BTreeMap::from([("t".to_owned(), serde_json::from_str(spec).unwrap())])
}

pub const RIGS: &str = r#"{
    "wide": { "families": [{"name": "m", "versions": 3}, {"name": "note", "ttl": "1h", "free": true}] },
    "key": ["rig", "n"],
    "columns": [{"name": "rig", "type": "text"}, {"name": "n", "type": "int"}, {"name": "temp", "type": "float"},
                {"name": "note.by", "type": "text"}]
}"#;

pub fn key(rig: &str, n: i64) -> Vec<CellValue> {
    vec![CellValue::Text(rig.to_owned()), CellValue::Int(n)]
}

pub fn put(rig: &str, n: i64, cells: &[(&str, CellValue)]) -> RowChange {
    let changes = cells
        .iter()
        .map(|(column, value)| CellChange::Put((*column).to_owned(), value.clone()));
    RowChange {
        key: key(rig, n),
        changes: changes.collect(),
        ..RowChange::default()
    }
}

pub fn row(table: &Wide, rig: &str, n: i64, select: &CellSelect) -> Option<RowCells> {
    table.get(&[key(rig, n)], select).unwrap().pop().unwrap()
}

/// `family.qualifier=value` of each cell.
pub fn shown(row: Option<RowCells>) -> Vec<String> {
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

pub fn all(versions: u32) -> CellSelect {
    CellSelect {
        versions: Some(versions),
        ..CellSelect::default()
    }
}

pub fn the_newest_versions_of_a_cell_are_kept() {
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
    let start = bench.start;
    let check = |table: &Wide| {
        let cells = row(table, "a", 1, &temp).unwrap().cells;
        let times: Vec<i64> = cells.iter().map(|cell| cell.time - start).collect();
        assert_eq!(times, [5, 4, 3].map(|n| n * SECOND));
    };
    check(&table);
    drop(table);
    let bench = bench.restarted(RIGS);
    check(&bench.table());
    // An older cell that comes late takes its place among the others, and the oldest goes.
    let late = RowChange {
        time: Some(start + 4 * SECOND + MILLI),
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

pub fn cells_families_and_rows_are_deleted() {
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

pub fn cells_expire_by_family() {
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
    bench.clock.advance(3_600 * SECOND);
    assert_eq!(
        shown(row(&table, "a", 1, &all(3))),
        ["m.temp=1.0", r#"note.by="li""#]
    );
    bench.clock.advance(2 * MILLI);
    assert_eq!(shown(row(&table, "a", 1, &all(3))), ["m.temp=1.0"]);
    // A row of which everything has expired is not there.
    assert_eq!(row(&table, "b", 1, &all(3)), None);
    assert_eq!(table.rows().unwrap(), 1);
    // One of three, where this node removes what has expired.
    assert!(table.remove_dead().unwrap() <= 1);
    assert_eq!(shown(row(&table, "a", 1, &all(3))), ["m.temp=1.0"]);
}

pub fn a_row_changes_only_if_its_conditions_fit() {
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
    // One that does not fit is left as it is, and the others are changed.
    let other = put("b", 1, &[("temp", CellValue::Float(5.0))]);
    let unfit = guarded(3.0, Some(CellValue::Float(9.0)));
    assert_eq!(table.change(&[unfit, other]).unwrap(), [false, true]);
    assert_eq!(shown(row(&table, "a", 1, &all(1))), ["m.temp=2.0"]);
    assert_eq!(shown(row(&table, "b", 1, &all(1))), ["m.temp=5.0"]);
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

pub fn sums_of_many_writers_lose_nothing() {
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

pub fn rows_are_read_by_prefix_range_filter_and_page() {
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

pub fn a_salted_key_is_read_by_what_the_salt_is_made_of() {
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
    let refused = bench.apply(&other).unwrap_err();
    assert_eq!(refused.code(), "table.wide-changed");
}

pub fn objects_of_free_families_become_cells_and_come_back() {
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
    // A cell that comes in its column and in the object.
    let twice = RecordBatch::try_from_iter([
        ("rig", Arc::new(StringArray::from(vec!["a"])) as ArrayRef),
        ("n", Arc::new(Int64Array::from(vec![9]))),
        ("note.by", Arc::new(StringArray::from(vec!["wu"]))),
        (
            "note",
            Arc::new(StringArray::from(vec![r#"{"by": "li", "y": 1}"#])),
        ),
    ]);
    table.apply(&twice.unwrap(), None).unwrap();
    assert_eq!(
        shown(row(&table, "a", 9, &all(1))),
        [r#"note.by="wu""#, "note.y=1"]
    );
}

pub fn a_column_of_the_row_stamps_its_cells() {
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
    write(20 * MILLI, 2);
    write(30 * MILLI, 3);
    write(10 * MILLI, 1);
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

pub fn a_clock_that_is_set_back_does_not_hide_what_is_written() {
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

pub fn families_come_go_and_come_back_with_their_cells() {
    let bench = Bench::new(RIGS);
    let cells = [("temp", CellValue::Int(1)), ("note.x", CellValue::Int(2))];
    bench.table().change(&[put("a", 1, &cells)]).unwrap();
    let without = RIGS
        .replace(
            r#", {"name": "note", "ttl": "1h", "free": true}"#,
            r#", {"name": "more"}"#,
        )
        .replace(r#""note.by""#, r#""more.by""#);
    bench.apply(&without).unwrap();
    assert_eq!(shown(row(&bench.table(), "a", 1, &all(1))), ["m.temp=1.0"]);
    let bench = bench.restarted(&without);
    assert_eq!(shown(row(&bench.table(), "a", 1, &all(1))), ["m.temp=1.0"]);
    bench.apply(RIGS).unwrap();
    assert_eq!(
        shown(row(&bench.table(), "a", 1, &all(1))),
        ["m.temp=1.0", "note.x=2"]
    );
}

/// Columns of rows: keys and values.
pub fn rows(pairs: &[(&str, Option<i64>)]) -> RecordBatch {
    let keys = StringArray::from_iter_values(pairs.iter().map(|pair| pair.0));
    let values: Int64Array = pairs.iter().map(|pair| pair.1).collect();
    RecordBatch::try_from_iter([("k", Arc::new(keys) as ArrayRef), ("v", Arc::new(values))])
        .unwrap()
}

pub const PAIRS: &str = r#"{"wide": {"families": [{"name": "d", "versions": 5}]}, "key": ["k"]}"#;

/// The versions of the cell `v` of a row, the newest first; none if there is no such row.
pub fn versions(table: &Wide, k: &str) -> Option<Vec<i64>> {
    let select = CellSelect {
        columns: vec!["v".to_owned()],
        versions: Some(9),
    };
    let key = vec![CellValue::Text(k.to_owned())];
    let found = table.get(&[key], &select).unwrap().pop().unwrap()?;
    let values = found.cells.iter().map(|cell| match &cell.value {
        CellValue::Int(value) => *value,
        other => panic!("{other:?}"),
    });
    Some(values.collect())
}

/// Puts and deletes rows in one write: those without a value and with `true` are deleted.
pub fn write(table: &Wide, batch: &RecordBatch, deletes: Vec<bool>, at: u64) -> bool {
    let position = ProducerPosition::new("flow:f/0", at);
    let deletes = BooleanArray::from(deletes);
    let write = Write {
        rows: batch,
        deletes: Some(&deletes),
        position: Some(&position),
    };
    table.write(&write).unwrap().duplicate
}

pub fn a_position_is_written_once_with_its_rows() {
    let bench = Bench::new(PAIRS);
    let table = bench.table();
    let first = rows(&[("a", Some(1)), ("b", Some(2)), ("a", Some(3)), ("c", None)]);
    table.evolve(&first.schema()).unwrap();
    assert!(!write(&table, &first, vec![false; 4], 7));
    assert_eq!(table.position("flow:f/0").unwrap(), Some(7));
    assert_eq!(table.position("flow:g/0").unwrap(), None);
    // In the order of the batch: a deletion, and what was put after it.
    let second = rows(&[("a", None), ("b", None), ("b", Some(4))]);
    assert!(!write(&table, &second, vec![true, true, false], 9));
    for position in [9, 8] {
        let late = rows(&[("a", Some(5))]);
        assert!(write(&table, &late, vec![false], position));
    }
    let check = |table: &Wide| {
        assert_eq!(versions(table, "a"), None);
        assert_eq!(versions(table, "b"), Some(vec![4]));
        assert_eq!(
            versions(table, "c"),
            Some(Vec::new()),
            "a row without cells"
        );
        assert_eq!(table.position("flow:f/0").unwrap(), Some(9));
        assert_eq!(table.rows().unwrap(), 2);
    };
    check(&table);
    drop(table);
    let bench = bench.restarted(PAIRS);
    let table = bench.table();
    check(&table);
    assert_eq!(table.schema().fields().len(), 2, "the columns are kept");
    let third = rows(&[("b", Some(6))]);
    assert!(!write(&table, &third, vec![false], 10));
    assert_eq!(versions(&table, "b"), Some(vec![6, 4]));
}

pub fn rows_are_looked_up_by_many_keys() {
    let bench = Bench::new(PAIRS);
    let table = bench.table();
    let names: Vec<String> = (0..700).map(|n| format!("k{n}")).collect();
    let pairs = names
        .iter()
        .zip(0_i64..)
        .map(|(k, n)| (k.as_str(), Some(n)));
    let batch = rows(&pairs.collect::<Vec<_>>());
    table.evolve(&batch.schema()).unwrap();
    table.apply(&batch, None).unwrap();
    // Every second one is there; one is asked for twice and one is null.
    let asked = (0..700).map(|n| match n {
        5 => None,
        600 => Some("k2".to_owned()),
        n if n % 2 == 0 => Some(format!("k{n}")),
        n => Some(format!("none{n}")),
    });
    let keys: ArrayRef = Arc::new(StringArray::from_iter(asked));
    let lookup = Lookup {
        keys: &[keys],
        columns: &[1],
    };
    let found = table.lookup(&lookup).unwrap();
    let values = found.rows.column(0).as_primitive::<Int64Type>();
    let value = |n: usize| {
        let place = found.places.iter().nth(n).flatten();
        place.map(|place| values.value(place as usize))
    };
    assert_eq!(
        [value(0), value(2), value(698)],
        [Some(0), Some(2), Some(698)]
    );
    assert_eq!([value(1), value(5), value(699)], [None; 3]);
    assert_eq!(value(600), Some(2));
    assert_eq!(found.rows.num_rows(), 350);
    assert_eq!(table.rows().unwrap(), 700);
}

/// Every case, for whoever makes tests of them.
macro_rules! wide_cases {
    ($test:ident) => {
        $test!(the_newest_versions_of_a_cell_are_kept);
        $test!(cells_families_and_rows_are_deleted);
        $test!(cells_expire_by_family);
        $test!(a_row_changes_only_if_its_conditions_fit);
        $test!(sums_of_many_writers_lose_nothing);
        $test!(rows_are_read_by_prefix_range_filter_and_page);
        $test!(a_salted_key_is_read_by_what_the_salt_is_made_of);
        $test!(objects_of_free_families_become_cells_and_come_back);
        $test!(a_column_of_the_row_stamps_its_cells);
        $test!(a_clock_that_is_set_back_does_not_hide_what_is_written);
        $test!(families_come_go_and_come_back_with_their_cells);
        $test!(a_position_is_written_once_with_its_rows);
        $test!(rows_are_looked_up_by_many_keys);
    };
}
pub(crate) use wide_cases;
