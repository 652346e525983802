//! The cases of the suite. Whoever has a `Bench` and runs it with `each` has them; the program of the suite is `main.rs` beside
//! this file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, DictionaryArray, Float64Array, Int32Array,
    Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use busbar_table::{Applied, Compare, Condition, Constant, ProducerPosition, Scan, Table, Write};
use proptest::prelude::*;

use super::{changes, each, interrupted};

pub const KEYED: &str =
    r#""key": ["k"], "columns": [{"name": "k", "type": "text"}, {"name": "v", "type": "int"}]"#;
/// With a column more.
pub const WIDER: &str = r#""key": ["k"], "columns": [{"name": "k", "type": "text"}, {"name": "v", "type": "int"}, {"name": "w", "type": "text"}]"#;
pub const LOOSE: &str = r#""key": ["k"]"#;
pub const GROWING: &str =
    r#""columns": [{"name": "k", "type": "text"}, {"name": "v", "type": "int"}]"#;

pub fn rows(pairs: &[(&str, i64)]) -> RecordBatch {
    let keys = StringArray::from_iter_values(pairs.iter().map(|pair| pair.0));
    let values = Int64Array::from_iter_values(pairs.iter().map(|pair| pair.1));
    batch([("k", Arc::new(keys) as ArrayRef), ("v", Arc::new(values))])
}

pub fn batch<const N: usize>(columns: [(&str, ArrayRef); N]) -> RecordBatch {
    RecordBatch::try_from_iter(columns).unwrap()
}

pub fn at(producer: &str, position: u64) -> ProducerPosition {
    ProducerPosition::new(producer, position)
}

fn read(table: &Arc<dyn Table>, scan: &Scan) -> Vec<(String, Option<i64>)> {
    let mut found = Vec::new();
    for batch in table.scan(scan).unwrap() {
        let batch = batch.unwrap();
        let (keys, values) = (batch.column(0).as_string::<i32>(), batch.column(1));
        let values = values.as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let value = values.is_valid(row).then(|| values.value(row));
            found.push((keys.value(row).to_owned(), value));
        }
    }
    found.sort();
    found
}

pub fn all(table: &Arc<dyn Table>) -> Vec<(String, Option<i64>)> {
    read(table, &Scan::default())
}

pub fn pairs(expected: &[(&str, i64)]) -> Vec<(String, Option<i64>)> {
    let owned = expected.iter().map(|(k, v)| ((*k).to_owned(), Some(*v)));
    owned.collect()
}

fn codes(applied: &Applied) -> Vec<(usize, &'static str)> {
    let rejected = applied.rejected.iter();
    rejected.map(|r| (r.row, r.cause.code())).collect()
}

#[test]
fn the_last_row_of_a_key_stays() {
    each(KEYED, |bench| {
        let table = bench.table();
        let applied = table
            .apply(&rows(&[("a", 1), ("b", 2), ("a", 3)]), None)
            .unwrap();
        assert_eq!((applied.put, applied.duplicate), (3, false));
        table.apply(&rows(&[("b", 4), ("c", 5)]), None).unwrap();
        assert_eq!(all(&table), pairs(&[("a", 3), ("b", 4), ("c", 5)]));
        assert_eq!(table.rows().unwrap(), 3);
        assert_eq!(table.key(), ["k"]);
    });
}

#[test]
fn deletions_and_puts_keep_their_order() {
    each(KEYED, |bench| {
        let table = bench.table();
        table.apply(&rows(&[("a", 1), ("b", 2)]), None).unwrap();
        let mixed = rows(&[("a", 0), ("c", 7), ("c", 0), ("b", 0), ("b", 9)]);
        let deletes = BooleanArray::from(vec![true, false, true, true, false]);
        let applied = table
            .write(&Write {
                rows: &mixed,
                deletes: Some(&deletes),
                position: None,
            })
            .unwrap();
        assert_eq!((applied.put, applied.deleted), (2, 3));
        assert_eq!(all(&table), pairs(&[("b", 9)]));
        assert_eq!(table.rows().unwrap(), 1);
    });
}

#[test]
fn a_stream_of_changes_keeps_a_table_in_step() {
    each(WIDER, |bench| {
        changes::followed(&*bench.table());
    });
}

#[test]
fn changes_that_end_in_the_middle_are_completed() {
    each(WIDER, |bench| {
        interrupted::completed(&*bench.table());
    });
}

#[test]
fn a_deletion_empties_the_columns_that_the_next_put_lacks() {
    each(KEYED, |bench| {
        let table = bench.table();
        table.apply(&rows(&[("a", 1)]), None).unwrap();
        let keys: ArrayRef = Arc::new(StringArray::from(vec!["a", "a"]));
        table
            .write(&Write {
                rows: &batch([("k", keys)]),
                deletes: Some(&BooleanArray::from(vec![true, false])),
                position: None,
            })
            .unwrap();
        assert_eq!(all(&table), vec![("a".to_owned(), None)]);
    });
}

#[test]
fn columns_that_a_write_lacks_keep_their_value() {
    each(KEYED, |bench| {
        let table = bench.table();
        table.apply(&rows(&[("a", 1)]), None).unwrap();
        let keys: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
        table.apply(&batch([("k", keys)]), None).unwrap();
        let expected = vec![("a".to_owned(), Some(1)), ("b".to_owned(), None)];
        assert_eq!(all(&table), expected);
    });
}

#[test]
fn a_position_is_written_once() {
    each(KEYED, |bench| {
        let table = bench.table();
        let first = rows(&[("a", 1)]);
        assert!(!table.apply(&first, Some(&at("p", 10))).unwrap().duplicate);
        assert!(
            table
                .apply(&rows(&[("a", 2)]), Some(&at("p", 10)))
                .unwrap()
                .duplicate
        );
        assert!(
            table
                .apply(&rows(&[("a", 2)]), Some(&at("p", 9)))
                .unwrap()
                .duplicate
        );
        assert_eq!(all(&table), pairs(&[("a", 1)]));
        assert!(
            !table
                .apply(&rows(&[("b", 2)]), Some(&at("q", 1)))
                .unwrap()
                .duplicate
        );
        assert!(
            !table
                .apply(&rows(&[("a", 3)]), Some(&at("p", 11)))
                .unwrap()
                .duplicate
        );
        assert_eq!(table.position("p").unwrap(), Some(11));
        assert_eq!(table.position("q").unwrap(), Some(1));
        assert_eq!(table.position("r").unwrap(), None);
        assert_eq!(table.stats().unwrap().duplicates, 2);
        drop(table);
        let bench = bench.restarted(KEYED);
        let table = bench.table();
        assert_eq!(table.position("p").unwrap(), Some(11));
        assert!(
            table
                .apply(&rows(&[("a", 9)]), Some(&at("p", 11)))
                .unwrap()
                .duplicate
        );
        assert_eq!(all(&table), pairs(&[("a", 3), ("b", 2)]));
    });
}

#[test]
fn a_table_without_key_grows() {
    each(GROWING, |bench| {
        let table = bench.table();
        table
            .apply(&rows(&[("a", 1), ("a", 1)]), Some(&at("p", 2)))
            .unwrap();
        table
            .apply(&rows(&[("a", 1), ("a", 1)]), Some(&at("p", 2)))
            .unwrap();
        table.apply(&rows(&[("a", 1)]), None).unwrap();
        table.apply(&rows(&[("a", 1)]), None).unwrap();
        assert_eq!(table.rows().unwrap(), 4);
        let refused = table.write(&Write {
            rows: &rows(&[("a", 1)]),
            deletes: Some(&BooleanArray::from(vec![true])),
            position: None,
        });
        assert_eq!(refused.unwrap_err().code(), "table.delete-without-key");
    });
}

#[test]
fn types_come_back_as_they_went() {
    each(LOOSE, |bench| {
        let tags = {
            let mut builder = arrow::array::MapBuilder::new(
                None,
                arrow::array::StringBuilder::new(),
                arrow::array::StringBuilder::new(),
            );
            builder.keys().append_value("site");
            builder.values().append_value("a");
            builder.append(true).unwrap();
            builder.append(false).unwrap();
            builder.append(true).unwrap();
            builder.finish()
        };
        let times = vec![
            Some(-62_167_219_200_000_000),
            None,
            Some(253_402_300_799_999_999),
        ];
        let given = batch([
            (
                "k",
                Arc::new(StringArray::from(vec!["1", "2", "3"])) as ArrayRef,
            ),
            (
                "bool",
                Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
            ),
            (
                "int",
                Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)])),
            ),
            (
                "float",
                Arc::new(Float64Array::from(vec![
                    Some(-0.1),
                    None,
                    Some(f64::INFINITY),
                ])),
            ),
            (
                "text",
                Arc::new(StringArray::from(vec![Some(""), None, Some("水位\0|")])),
            ),
            (
                "time",
                Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
            ),
            (
                "binary",
                Arc::new(BinaryArray::from(vec![
                    Some(&b"\x00\xff"[..]),
                    None,
                    Some(b""),
                ])),
            ),
            (
                "small",
                Arc::new(Int32Array::from(vec![Some(-1), None, Some(7)])),
            ),
            ("tags", Arc::new(tags)),
            (
                "topic",
                Arc::new(DictionaryArray::new(
                    Int32Array::from(vec![Some(0), None, Some(0)]),
                    Arc::new(StringArray::from(vec!["a/b"])),
                )),
            ),
        ]);
        let table = bench.table();
        table.evolve(given.schema_ref()).unwrap();
        assert!(table.apply(&given, None).unwrap().rejected.is_empty());
        let check = |table: Arc<dyn Table>| {
            let found: Vec<RecordBatch> = table
                .scan(&Scan::default())
                .unwrap()
                .map(Result::unwrap)
                .collect();
            let found = arrow::compute::concat_batches(&table.schema(), &found).unwrap();
            let order = arrow::compute::sort_to_indices(found.column(0), None, None).unwrap();
            let found = arrow::compute::take_record_batch(&found, &order).unwrap();
            for name in ["k", "bool", "int", "float", "text", "time", "binary"] {
                let (given, found) = (given.column_by_name(name), found.column_by_name(name));
                assert_eq!(given.unwrap(), found.unwrap(), "{name}");
            }
            let column = |name: &str| found.column_by_name(name).unwrap();
            let small = column("small").as_primitive::<Int64Type>();
            assert_eq!((small.value(0), small.is_null(1)), (-1, true));
            let tags = column("tags").as_string::<i32>();
            assert_eq!(
                (tags.value(0), tags.is_null(1), tags.value(2)),
                (r#"{"site":"a"}"#, true, "{}")
            );
            let topic = column("topic").as_string::<i32>();
            assert_eq!((topic.value(0), topic.is_null(1)), ("a/b", true));
        };
        check(bench.table());
        drop(table);
        check(bench.restarted(LOOSE).table());
    });
}

#[test]
fn rows_that_cannot_be_kept_are_named_and_their_neighbours_stay() {
    let spec = r#""key": ["k"], "columns": [{"name": "k", "type": "text"},
        {"name": "v", "type": "int"}, {"name": "t", "type": "time"}, {"name": "j", "type": "json"},
        {"name": "b", "type": "text"}, {"name": "f", "type": "float"}]"#;
    each(spec, |bench| {
        let table = bench.table();
        let large = "x".repeat(busbar_table::limits::VALUE_BYTES_MAX + 1);
        let given = batch([
            (
                "k",
                Arc::new(StringArray::from(vec![
                    Some("a"),
                    None,
                    Some("c"),
                    Some("d"),
                    Some("e"),
                    Some("f"),
                ])) as ArrayRef,
            ),
            (
                "v",
                Arc::new(UInt64Array::from(vec![1, 2, u64::MAX, 4, 5, 6])),
            ),
            (
                "t",
                Arc::new(
                    TimestampMicrosecondArray::from(vec![0, 0, 0, i64::MAX, 0, 0])
                        .with_timezone("UTC"),
                ),
            ),
            (
                "j",
                Arc::new(StringArray::from(vec!["{}", "1", "1", "1", "{", "null"])),
            ),
            (
                "b",
                Arc::new(StringArray::from(vec!["", "", "", "", "", large.as_str()])),
            ),
            (
                "f",
                Arc::new(Float64Array::from(vec![f64::NAN, 0.0, 0.0, 0.0, 0.0, 0.0])),
            ),
        ]);
        let expected = vec![
            (1, "table.key-null"),
            (2, "table.value-range"),
            (3, "table.value-range"),
            (4, "table.value-not-json"),
            (5, "table.value-large"),
        ];
        let applied = table.apply(&given, Some(&at("p", 6))).unwrap();
        assert_eq!((codes(&applied), applied.put), (expected.clone(), 1));
        // The same rows are named when the same write comes again.
        let again = table.apply(&given, Some(&at("p", 6))).unwrap();
        assert!(again.duplicate);
        assert_eq!(codes(&again), expected);
        assert_eq!(all(&table), pairs(&[("a", 1)]));
        // There is no NaN in tables.
        let kept = table
            .scan(&Scan::default())
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        assert!(kept.column_by_name("f").unwrap().is_null(0));
    });
}

#[test]
fn columns_are_added_and_never_changed() {
    each(LOOSE, |bench| {
        let table = bench.table();
        assert_eq!(table.rows().unwrap(), 0);
        assert!(all_batches(&table).is_empty());
        let refused = table.apply(&rows(&[("a", 1)]), None);
        assert_eq!(refused.unwrap_err().code(), "table.key-missing");
        table.check(rows(&[]).schema_ref()).unwrap();
        assert_eq!(table.schema().fields().len(), 0, "checking changes nothing");
        table.evolve(rows(&[]).schema_ref()).unwrap();
        table.apply(&rows(&[("a", 1)]), None).unwrap();
        let more = Schema::new(vec![
            Field::new("extra", DataType::Float64, true),
            Field::new("k", DataType::Utf8, true),
        ]);
        table.evolve(&more).unwrap();
        table.evolve(&more).unwrap();
        let names: Vec<String> = table
            .schema()
            .fields()
            .iter()
            .map(|f| f.name().clone())
            .collect();
        assert_eq!(names, ["k", "v", "extra"]);
        table.apply(&rows(&[("b", 2)]), None).unwrap();
        assert_eq!(all(&table), pairs(&[("a", 1), ("b", 2)]));
        let other = Schema::new(vec![
            Field::new("k", DataType::Utf8, true),
            Field::new("v", DataType::Binary, true),
        ]);
        assert_eq!(table.check(&other).unwrap_err().code(), "table.column-type");
        assert_eq!(
            table.evolve(&other).unwrap_err().code(),
            "table.column-type"
        );
        let float_key = Schema::new(vec![Field::new("K", DataType::Float64, true)]);
        assert_eq!(
            table.evolve(&float_key).unwrap_err().code(),
            "table.column-twice"
        );
        drop(table);
        let bench = bench.restarted(LOOSE);
        assert_eq!(bench.table().schema().fields().len(), 3);
        assert_eq!(all(&bench.table()), pairs(&[("a", 1), ("b", 2)]));
    });
    each(KEYED, |bench| {
        let more = Schema::new(vec![Field::new("extra", DataType::Int64, true)]);
        let refused = bench.table().evolve(&more).unwrap_err();
        assert_eq!(refused.code(), "table.unknown-column");
    });
}

pub fn all_batches(table: &Arc<dyn Table>) -> Vec<RecordBatch> {
    let batches = table.scan(&Scan::default()).unwrap();
    batches.map(Result::unwrap).collect()
}

#[test]
fn a_scan_is_one_picture_projected_and_limited() {
    each(KEYED, |bench| {
        let table = bench.table();
        let many: Vec<(String, i64)> = (0..20_000).map(|n| (format!("key-{n:05}"), n)).collect();
        let borrowed: Vec<(&str, i64)> = many.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        table.apply(&rows(&borrowed), None).unwrap();
        let mut picture = table.scan(&Scan::default()).unwrap();
        let first = picture.next().unwrap().unwrap();
        let changed: Vec<(&str, i64)> = borrowed.iter().map(|(k, _)| (*k, -1)).collect();
        table.apply(&rows(&changed), None).unwrap();
        let mut seen: BTreeSet<i64> = BTreeSet::new();
        for batch in std::iter::once(Ok(first)).chain(picture) {
            seen.extend(
                batch
                    .unwrap()
                    .column(1)
                    .as_primitive::<Int64Type>()
                    .values(),
            );
        }
        if bench.sees_one_moment() {
            assert_eq!(seen.len(), 20_000, "what is written later is not seen");
        }
        assert!(all(&table).iter().all(|(_, value)| *value == Some(-1)));
        let only = Scan {
            projection: Some(vec![1]),
            ..Scan::default()
        };
        let scanned = table.scan(&only).unwrap();
        assert_eq!(scanned.schema().field(0).name(), "v");
        assert_eq!(
            scanned.map(|b| b.unwrap().num_rows()).sum::<usize>(),
            20_000
        );
        let none = Scan {
            projection: Some(vec![]),
            ..Scan::default()
        };
        let counted = table.scan(&none).unwrap();
        assert_eq!(
            counted.map(|b| b.unwrap().num_rows()).sum::<usize>(),
            20_000
        );
        let some = Scan {
            limit: Some(10),
            ..Scan::default()
        };
        let limited: usize = table
            .scan(&some)
            .unwrap()
            .map(|b| b.unwrap().num_rows())
            .sum();
        assert!((10..20_000).contains(&limited), "{limited}");
    });
}

#[test]
fn conditions_never_lose_a_row_that_fits() {
    each(KEYED, |bench| {
        let table = bench.table();
        table
            .apply(&rows(&[("a", 1), ("b", 2), ("c", 3), ("d", 2)]), None)
            .unwrap();
        let ask = |column: usize, compare: Compare, constant: Constant| {
            let conditions = vec![Condition {
                column,
                compare,
                constant,
            }];
            let scan = Scan {
                conditions,
                ..Scan::default()
            };
            read(&table, &scan)
        };
        let found = ask(0, Compare::Equal, Constant::Text("b".to_owned()));
        assert!(found.contains(&("b".to_owned(), Some(2))));
        assert!(ask(0, Compare::Equal, Constant::Text("zz".to_owned())).len() <= 4);
        let found = ask(1, Compare::GreaterOrEqual, Constant::Int(2));
        for key in ["b", "c", "d"] {
            assert!(found.iter().any(|(found, _)| found == key));
        }
        // A constant of another type is no reason to find nothing.
        assert_eq!(
            ask(1, Compare::Equal, Constant::Text("2".to_owned())).len(),
            4
        );
    });
}

#[test]
fn writers_and_readers_do_not_disturb_each_other() {
    each(KEYED, |bench| {
        let table = bench.table();
        table.apply(&rows(&[("a", 0), ("b", 0)]), None).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 1..200 {
                    table
                        .apply(&rows(&[("a", n), ("b", n)]), Some(&at("p", n as u64)))
                        .unwrap();
                }
            });
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let found = all(&table);
                        assert_eq!(found.len(), 2);
                        if bench.sees_one_moment() {
                            assert_eq!(found[0].1, found[1].1, "half of a write was seen");
                        }
                    }
                });
            }
        });
        assert_eq!(all(&table), pairs(&[("a", 199), ("b", 199)]));
    });
}

/// Copies of the files, taken while a writer is at work, hold whole writes only: for each position
/// that is there its rows are there, and no others.
#[derive(Clone, Debug)]
pub enum Step {
    Write(Vec<(u8, i64, bool)>),
    Again,
    Restart,
}

/// What is done to a table, for a program of the suite to choose how often.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let row = (0u8..6, -9i64..9, prop::bool::weighted(0.2));
    let step = prop_oneof![
        6 => prop::collection::vec(row, 0..20).prop_map(Step::Write),
        2 => Just(Step::Again),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..20)
}

/// A table holds what a map would hold.
pub fn a_table_holds_what_a_map_would(steps: &[Step]) {
    each(KEYED, |bench| {
        let mut bench = bench;
        let mut model: BTreeMap<String, i64> = BTreeMap::new();
        let mut last = None;
        let mut position = 0;
        for step in steps {
            match step {
                Step::Write(writes) => {
                    position += 1;
                    let names: Vec<String> = writes.iter().map(|w| format!("k{}", w.0)).collect();
                    let given: Vec<(&str, i64)> = names
                        .iter()
                        .zip(writes)
                        .map(|(n, w)| (n.as_str(), w.1))
                        .collect();
                    let given = rows(&given);
                    let deletes: BooleanArray = writes.iter().map(|w| Some(w.2)).collect();
                    for (name, (_, value, delete)) in names.into_iter().zip(writes) {
                        match delete {
                            true => model.remove(&name),
                            false => model.insert(name, *value),
                        };
                    }
                    let at = at("p", position);
                    let write = Write {
                        rows: &given,
                        deletes: Some(&deletes),
                        position: Some(&at),
                    };
                    assert!(!bench.table().write(&write).unwrap().duplicate);
                    last = Some((given, deletes, at));
                }
                Step::Again => {
                    if let Some((given, deletes, at)) = &last {
                        let write = Write {
                            rows: given,
                            deletes: Some(deletes),
                            position: Some(at),
                        };
                        assert!(bench.table().write(&write).unwrap().duplicate);
                    }
                }
                Step::Restart => bench = bench.restarted(KEYED),
            }
            let expected: Vec<_> = model.iter().map(|(k, v)| (k.clone(), Some(*v))).collect();
            assert_eq!(all(&bench.table()), expected);
            assert_eq!(bench.table().rows().unwrap(), model.len() as u64);
        }
    });
}

#[test]
fn rows_that_a_later_row_of_the_batch_replaces_are_counted() {
    each(KEYED, |bench| {
        let table = bench.table();
        let given = rows(&[("a", 1), ("b", 1), ("a", 2), ("a", 3), ("c", 1), ("c", 2)]);
        let applied = table.apply(&given, None).unwrap();
        assert_eq!((applied.put, applied.overwritten), (6, 3));
        assert_eq!(all(&table), pairs(&[("a", 3), ("b", 1), ("c", 2)]));
        // What an earlier batch wrote is replaced, not lost.
        let applied = table.apply(&rows(&[("a", 4), ("b", 2)]), None).unwrap();
        assert_eq!((applied.put, applied.overwritten), (2, 0));
        // Nor is a row that is deleted and comes again.
        let write = Write {
            rows: &rows(&[("a", 5), ("a", 0), ("a", 6)]),
            deletes: Some(&BooleanArray::from(vec![false, true, false])),
            position: None,
        };
        let applied = table.write(&write).unwrap();
        assert_eq!(
            (applied.put, applied.deleted, applied.overwritten),
            (2, 1, 0)
        );
    });
}

#[test]
fn the_smallest_and_the_largest_whole_number_are_keys_like_others() {
    let spec = r#""key": ["k"], "columns": [{"name": "k", "type": "int"}]"#;
    each(spec, |bench| {
        let keys = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX];
        let given = batch([("k", Arc::new(Int64Array::from(keys.to_vec())) as ArrayRef)]);
        bench.table().apply(&given, None).unwrap();
        let check = |table: Arc<dyn Table>| {
            let mut found: Vec<i64> = Vec::new();
            for batch in table.scan(&Scan::default()).unwrap() {
                let batch = batch.unwrap();
                found.extend(batch.column(0).as_primitive::<Int64Type>().values().iter());
            }
            found.sort_unstable();
            assert_eq!(found, keys);
        };
        check(bench.table());
        check(bench.restarted(spec).table());
    });
}
