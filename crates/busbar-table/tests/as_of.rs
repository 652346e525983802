//! Look-ups as of a time: of wide tables by the times of their cells, of relational ones by a key that ends in a time. The
//! stand-in of a table must find what the table itself does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::Int64Type;
use busbar_log::ManualClock;
use busbar_table::{LooksBack, Lookup, StandIn, Table, TableSpec, Tables, Write};
use proptest::prelude::*;

const NOW: i64 = 1_000_000;

const WIDE: &str = r#"{"wide": {"families": [{"name": "m", "versions": 3}, {"name": "n", "versions": 2}], "time": "at"},
    "key": ["k"], "columns": [{"name": "k", "type": "text"}, {"name": "v", "type": "int"}, {"name": "n.w", "type": "int"},
    {"name": "at", "type": "time"}]}"#;
const DATED: &str = r#"{"relational": {}, "key": ["k", "since"], "columns": [{"name": "v", "type": "int"},
    {"name": "k", "type": "text"}, {"name": "since", "type": "time"}]}"#;

fn spec(text: &str) -> TableSpec {
    serde_json::from_str(text).unwrap()
}

fn open(folder: &Path, text: &str) -> Arc<dyn Table> {
    let clock = Arc::new(ManualClock::new(NOW));
    let tables = Tables::open(folder, clock).unwrap();
    tables
        .apply(&BTreeMap::from([("t".to_owned(), spec(text))]))
        .unwrap();
    tables.table("t").unwrap()
}

fn stand_in(text: &str) -> StandIn {
    StandIn::new("t", &spec(text), Arc::new(ManualClock::new(NOW))).unwrap()
}

fn texts(keys: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(keys.to_vec()))
}

fn ints(values: &[Option<i64>]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn moments(times: &[Option<i64>]) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC"))
}

fn batch<const N: usize>(columns: [(&str, ArrayRef); N]) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true)))
        .unwrap()
}

/// The values of int columns for each key as of a time; none for one that is not found.
fn found(
    table: &dyn Table,
    asked: &[(Option<&str>, i64)],
    columns: &[&str],
) -> Vec<Option<Vec<Option<i64>>>> {
    let schema = table.schema();
    let keys = &[texts(
        &asked.iter().map(|(key, _)| *key).collect::<Vec<_>>(),
    )];
    let columns: Vec<usize> = columns
        .iter()
        .map(|name| schema.index_of(name).unwrap())
        .collect();
    let times: Vec<i64> = asked.iter().map(|(_, time)| *time).collect();
    let lookup = Lookup {
        keys,
        columns: &columns,
    };
    let found = table.lookup_as_of(&lookup, &times).unwrap();
    let value = |column: usize, row: usize| {
        let values = found.rows.column(column).as_primitive::<Int64Type>();
        values.is_valid(row).then(|| values.value(row))
    };
    let rows = found.places.iter();
    let rows = rows.map(|place| {
        let row = place? as usize;
        Some(
            (0..columns.len())
                .map(|column| value(column, row))
                .collect(),
        )
    });
    rows.collect()
}

fn put(table: &dyn Table, at: i64, key: &str, v: Option<i64>) {
    let rows = [
        ("k", texts(&[Some(key)])),
        ("v", ints(&[v])),
        ("at", moments(&[Some(at)])),
    ];
    table.apply(&batch(rows), None).unwrap();
}

fn delete(table: &dyn Table, key: &str) {
    table
        .write(&Write {
            rows: &batch([("k", texts(&[Some(key)]))]),
            deletes: Some(&BooleanArray::from(vec![true])),
            position: None,
        })
        .unwrap();
}

/// The wide table, and what stands in for it.
fn both_wide(case: impl Fn(&dyn Table)) {
    let folder = tempfile::tempdir().unwrap();
    case(&*open(folder.path(), WIDE));
    case(&stand_in(WIDE));
}

#[test]
fn the_newest_version_that_is_not_later_is_found() {
    both_wide(|table| {
        assert_eq!(table.looks_back(), LooksBack::Versions);
        let schema = table.schema();
        let versions = |name: &str| table.versions(schema.index_of(name).unwrap());
        assert_eq!(
            (versions("k"), versions("v"), versions("n.w")),
            (u32::MAX, 3, 2)
        );
        // In any order; the last written of two with one time counts.
        for (at, v) in [(10, 1), (30, 3), (20, 9), (20, 2)] {
            put(table, at, "a", Some(v));
        }
        put(table, 15, "b", Some(5));
        let one = |v: i64| Some(vec![Some(v)]);
        let asked = [
            (Some("a"), 9),
            (Some("a"), 29),
            (Some("b"), 15),
            (Some("a"), 30),
            (None, 30),
            (Some("c"), 30),
            (Some("a"), i64::MAX),
            (Some("a"), 20),
            (Some("b"), i64::MIN),
        ];
        let expected = [
            None,
            one(2),
            one(5),
            one(3),
            None,
            None,
            one(3),
            one(2),
            None,
        ];
        assert_eq!(found(table, &asked, &["v"]), expected);
    });
}

#[test]
fn a_version_that_is_not_kept_is_not_found_and_no_older_one_in_its_place() {
    both_wide(|table| {
        // Rows of which only `v` has newer versions: the old row is kept for its other cell.
        let rows = [
            ("k", texts(&[Some("a")])),
            ("v", ints(&[Some(1)])),
            ("n.w", ints(&[Some(100)])),
            ("at", moments(&[Some(10)])),
        ];
        table.apply(&batch(rows), None).unwrap();
        for at in [20, 30, 40, 50] {
            put(table, at, "a", Some(at / 10));
        }
        let asked = [10, 20, 29, 30, 50].map(|at| (Some("a"), at));
        let v: Vec<_> = found(table, &asked, &["v"])
            .into_iter()
            .map(|row| row?[0])
            .collect();
        assert_eq!(v, [None, None, None, Some(3), Some(5)]);
        // The row is there as soon as one of the columns is.
        let both = found(table, &asked[..1], &["v", "n.w"]);
        assert_eq!(both, [Some(vec![None, Some(100)])]);
    });
}

#[test]
fn null_and_deletion_take_the_past_with_them() {
    both_wide(|table| {
        put(table, 10, "a", Some(1));
        put(table, 20, "a", None);
        put(table, 30, "a", Some(3));
        let asked = [15, 25, 35].map(|at| (Some("a"), at));
        let three = Some(vec![Some(3)]);
        assert_eq!(found(table, &asked, &["v"]), [None, None, three]);
        delete(table, "a");
        assert_eq!(found(table, &asked, &["v"]), [None, None, None]);
        put(table, NOW + 10, "a", Some(4));
        let later = [NOW + 9, NOW + 10].map(|at| (Some("a"), at));
        assert_eq!(found(table, &later, &["v"]), [None, Some(vec![Some(4)])]);
    });
}

#[test]
fn a_key_that_ends_in_a_time_is_looked_up_by_the_latest_that_is_not_later() {
    let folder = tempfile::tempdir().unwrap();
    let relational = open(folder.path(), DATED);
    let stand_in = stand_in(DATED);
    for table in [&*relational, &stand_in as &dyn Table] {
        assert_eq!(table.looks_back(), LooksBack::LastKeyColumn);
        let rows = [
            ("k", texts(&[Some("a"), Some("a"), Some("a"), Some("b")])),
            ("since", moments(&[Some(30), Some(-10), Some(20), Some(15)])),
            ("v", ints(&[Some(3), Some(1), Some(2), None])),
        ];
        table.apply(&batch(rows), None).unwrap();
        let asked = [
            (Some("a"), -11),
            (Some("a"), -10),
            (Some("a"), 29),
            (Some("b"), 15),
            (Some("a"), i64::MAX),
            (None, 30),
            (Some("a"), i64::MIN),
            (Some("c"), 30),
        ];
        let one = |v: i64| Some(vec![Some(v)]);
        let null = Some(vec![None]);
        let expected = [None, one(1), one(2), null, one(3), None, None, None];
        assert_eq!(found(table, &asked, &["v"]), expected);
    }
}

#[test]
fn a_table_that_only_has_what_was_written_last_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let columns =
        r#""key": ["k"], "columns": [{"name": "k", "type": "text"}, {"name": "v", "type": "int"}]"#;
    for engine in ["hot", "relational"] {
        let text = format!(r#"{{"{engine}": {{}}, {columns}}}"#);
        let table = open(&folder.path().join(engine), &text);
        let stand_in = stand_in(&text);
        for table in [&*table, &stand_in as &dyn Table] {
            assert_eq!(table.looks_back(), LooksBack::No);
            let keys = &[texts(&[Some("a")])];
            let lookup = Lookup {
                keys,
                columns: &[1],
            };
            let error = table.lookup_as_of(&lookup, &[0]).unwrap_err();
            assert_eq!(error.code(), "table.no-past");
        }
    }
}

/// A row: its key, its time and its two values, of which the second may be left out; or the deletion of a key.
#[derive(Clone, Debug)]
enum Change {
    Put(u8, i64, Option<i64>, Option<Option<i64>>),
    Delete(u8),
}

fn change() -> impl Strategy<Value = Change> {
    let value = || prop::option::weighted(0.9, 0..100_i64);
    prop_oneof![
        12 => (0..3_u8, 0..40_i64, value(), prop::option::of(value()))
            .prop_map(|(key, at, v, w)| Change::Put(key, at, v, w)),
        1 => (0..3_u8).prop_map(Change::Delete),
    ]
}

const KEYS: [&str; 3] = ["a", "b\0", ""];

fn apply(table: &dyn Table, change: &Change) {
    match change {
        Change::Delete(key) => delete(table, KEYS[usize::from(*key)]),
        Change::Put(key, at, v, w) => {
            let key = texts(&[Some(KEYS[usize::from(*key)])]);
            let (v, at) = (ints(&[*v]), moments(&[Some(*at)]));
            let rows = match w {
                None => batch([("k", key), ("v", v), ("at", at)]),
                Some(w) => batch([("k", key), ("v", v), ("n.w", ints(&[*w])), ("at", at)]),
            };
            table.apply(&rows, None).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_wide_table_finds_what_a_plain_history_does(
        changes in prop::collection::vec(change(), 1..40),
        asked in prop::collection::vec((0..3_usize, 0..45_i64), 1..40),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let table = open(folder.path(), WIDE);
        let plain = stand_in(WIDE);
        for change in &changes {
            apply(&*table, change);
            apply(&plain, change);
        }
        let asked: Vec<_> = asked.iter().map(|(key, at)| (Some(KEYS[*key]), *at)).collect();
        for columns in [&["v", "n.w"][..], &["n.w"], &["v"]] {
            let expected = found(&plain, &asked, columns);
            prop_assert_eq!(found(&*table, &asked, columns), expected);
        }
    }
}
