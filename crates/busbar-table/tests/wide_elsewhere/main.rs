//! Cells of wide tables in another system, played here: it does what all wide tables do, and it may fail at every call.

#[path = "../wide/cases.rs"]
mod cases;
mod memory;

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use busbar_event::{Class, Error};
use busbar_log::{Clock, ManualClock};
use busbar_table::wide::{
    CellFilter, CellRead, CellStore, CellValue, FamilyRead, Increment, RowChange,
};
use busbar_table::{
    Compare, DatabasePlace, DatabaseTables, HotElsewhere, HotPlace, ProducerPosition, Table,
    Tables, Wide, Write,
};
use cases::{PAIRS, SECOND, key, rows, specs, versions, wide_cases};
use memory::MemoryCells;

struct Bench {
    tables: Tables,
    clock: Arc<ManualClock>,
    cells: Arc<MemoryCells>,
    /// The time at which it began, in microseconds since 1970.
    start: i64,
}

struct OneStore(Arc<MemoryCells>);

impl DatabaseTables for OneStore {
    fn open(
        &self,
        name: &str,
        _: &DatabasePlace,
        _: &SchemaRef,
        _: &[String],
    ) -> Result<Arc<dyn Table>, Error> {
        Err(Error::new(Class::Configuration, "table.no-connection").with("table", name))
    }

    fn hot(
        &self,
        _: &str,
        _: &HotPlace,
        _: &SchemaRef,
        _: &[String],
        _: Arc<dyn Clock>,
    ) -> Arc<dyn HotElsewhere> {
        unreachable!("no table of the suite is a hot one")
    }

    fn cells(&self, _: &str, _: &str) -> Arc<dyn CellStore> {
        Arc::clone(&self.0) as _
    }
}

/// The same file, with the cells elsewhere.
fn elsewhere(spec: &str) -> String {
    let mut spec: serde_json::Value = serde_json::from_str(spec).unwrap();
    spec["wide"]["connection"] = "there".into();
    spec["wide"]["table"] = "ns:cells".into();
    spec.to_string()
}

fn open(cells: &Arc<MemoryCells>, clock: &Arc<ManualClock>, spec: &str) -> Tables {
    // No file is opened.
    let tables = Tables::open(Path::new("/nowhere"), Arc::clone(clock) as _).unwrap();
    let tables = tables.with_databases(Arc::new(OneStore(Arc::clone(cells))));
    tables.apply(&specs(&elsewhere(spec))).unwrap();
    tables
}

impl Bench {
    fn new(spec: &str) -> Bench {
        let (start, cells) = (1_000 * SECOND, Arc::new(MemoryCells::default()));
        let clock = Arc::new(ManualClock::new(start));
        Bench {
            tables: open(&cells, &clock, spec),
            clock,
            cells,
            start,
        }
    }

    fn table(&self) -> Arc<Wide> {
        self.tables.wide("t").unwrap()
    }

    fn apply(&self, spec: &str) -> Result<(), Error> {
        self.tables.apply(&specs(&elsewhere(spec)))
    }

    fn restarted(self, spec: &str) -> Bench {
        drop(self.tables);
        let tables = open(&self.cells, &self.clock, spec);
        Bench { tables, ..self }
    }
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

/// Three writes: rows that are put, put again and deleted.
const WRITES: u64 = 3;

fn try_write(table: &Wide, at: u64) -> Result<bool, Error> {
    let (batch, deletes) = match at {
        1 => (
            rows(&[("a", Some(1)), ("b", Some(1)), ("c", Some(1))]),
            vec![false; 3],
        ),
        2 => (
            rows(&[("a", Some(2)), ("a", Some(3)), ("b", None), ("d", Some(2))]),
            vec![false, false, true, false],
        ),
        _ => (
            rows(&[("c", None), ("c", Some(4)), ("d", Some(5))]),
            vec![true, false, false],
        ),
    };
    table.evolve(&batch.schema())?;
    let deletes = deletes.into();
    let position = ProducerPosition::new("flow:f/0", at);
    let write = Write {
        rows: &batch,
        deletes: Some(&deletes),
        position: Some(&position),
    };
    Ok(table.write(&write)?.duplicate)
}

/// Whichever call to the other system fails, before or after it did its work or in the middle, and whether the node goes on or
/// begins anew: in the end each row has what was written, every version once.
#[test]
fn whatever_fails_each_change_is_made_once() {
    let mut failed = 0;
    for is_restarted in [false, true] {
        for done in [0, 1, usize::MAX] {
            for call in 0.. {
                let mut bench = Bench::new(PAIRS);
                bench.cells.fail_at(call, done);
                let mut was_hit = false;
                for at in 1..=WRITES {
                    while let Err(error) = try_write(&bench.table(), at) {
                        assert_eq!(error.class(), Class::Transient, "{error:?}");
                        assert!(!was_hit, "it fails once");
                        was_hit = true;
                        if is_restarted {
                            bench = bench.restarted(PAIRS);
                        }
                        let kept = bench.table().position("flow:f/0").unwrap();
                        assert!(kept.unwrap_or(0) + 1 >= at, "{kept:?} of {at}");
                    }
                }
                let table = bench.table();
                let place =
                    format!("call {call}, {done} rows of it done, restarted: {is_restarted}");
                let found = ["a", "b", "c", "d"].map(|k| versions(&table, k));
                let expected = [Some(vec![3, 2, 1]), None, Some(vec![4]), Some(vec![5, 2])];
                assert_eq!(found, expected, "{place}");
                assert_eq!(table.position("flow:f/0").unwrap(), Some(WRITES), "{place}");
                if !bench.cells.has_failed() {
                    break;
                }
                failed += 1;
            }
        }
    }
    // Both tables, the layout, the time, and three calls for each write at least.
    assert!(failed >= 6 * 12, "{failed}");
}

/// What the row of a producer keeps until its changes are made is not kept for ever.
#[test]
fn changes_that_were_made_are_not_kept() {
    let bench = Bench::new(PAIRS);
    for at in 1..=2 {
        assert!(!try_write(&bench.table(), at).unwrap());
        let read = CellRead {
            families: vec![FamilyRead {
                name: "s".into(),
                qualifiers: None,
            }],
            versions: 1,
        };
        let key = b"ns:cells/p/flow:f/0".to_vec();
        let rows = bench.cells.get("ns:busbar_state", vec![key], read).unwrap();
        let left = rows[0].cells.iter().map(|cell| cell.qualifier.as_slice());
        assert_eq!(left.collect::<Vec<_>>(), [b"h"]);
    }
}

/// The other system checks one row and changes it: with others beside it the check would not hold.
#[test]
fn conditions_beside_other_rows_are_refused() {
    let bench = Bench::new(cases::RIGS);
    let table = bench.table();
    let with = |n: i64, only_if: Vec<CellFilter>| RowChange {
        only_if,
        ..cases::put("a", n, &[("temp", CellValue::Float(1.0))])
    };
    let is_none = || CellFilter {
        column: "temp".to_owned(),
        compare: Compare::Equal,
        value: None,
    };
    for other in [vec![], vec![is_none()]] {
        let refused = table.change(&[with(1, vec![is_none()]), with(2, other)]);
        assert_eq!(refused.unwrap_err().code(), "table.wide-guards");
    }
    let sum = |n: i64| Increment {
        key: key("a", n),
        column: "m.count".to_owned(),
        by: 1,
    };
    let refused = table.increment(&[sum(1), sum(2)]).unwrap_err();
    assert_eq!(
        (refused.code(), refused.class()),
        ("table.wide-guards", Class::Permanent)
    );
    assert_eq!(table.rows().unwrap(), 0, "nothing was changed");
    assert_eq!(table.change(&[with(1, vec![is_none()])]).unwrap(), [true]);
    assert_eq!(table.increment(&[sum(1), sum(1)]).unwrap(), [1, 2]);
}

/// A node that was taken for dead, and writes on, is told so by the row of its producer.
#[test]
fn a_producer_that_goes_on_elsewhere_is_not_overwritten() {
    let bench = Bench::new(PAIRS);
    let old = bench.table();
    assert!(!try_write(&old, 1).unwrap());
    let tables = open(&bench.cells, &bench.clock, PAIRS);
    assert!(!try_write(&tables.wide("t").unwrap(), 2).unwrap());
    let refused = try_write(&old, 2).unwrap_err();
    assert_eq!(
        (refused.code(), refused.class()),
        ("table.wide-unsettled", Class::Transient)
    );
    // It looks again, and knows better.
    assert!(try_write(&old, 2).unwrap());
    assert_eq!(versions(&old, "d"), Some(vec![2]));
}

/// Whoever reads while the changes of a write are made does not take them for those of one that was left unfinished.
#[test]
fn reading_does_not_disturb_a_write_that_is_under_way() {
    let bench = Bench::new(PAIRS);
    let table = bench.table();
    assert!(!try_write(&table, 1).unwrap());
    let reader = Arc::clone(&table);
    bench
        .cells
        .before_next_change("ns:cells", move || assert_eq!(reader.rows().unwrap(), 3));
    assert!(!try_write(&table, 2).unwrap());
    assert!(bench.cells.has_called(), "it was read meanwhile");
    assert_eq!(versions(&table, "d"), Some(vec![2]));
}

#[test]
fn a_system_that_does_not_answer_holds_up_no_start() {
    let bench = Bench::new(cases::RIGS);
    bench.cells.fail_at(0, 0);
    let table = bench.table();
    assert_eq!(table.schema().fields().len(), 5, "the declared columns");
    let refused = table.rows().unwrap_err();
    assert_eq!(refused.class(), Class::Transient);
    assert_eq!(table.rows().unwrap(), 0);
}

#[test]
fn a_table_that_may_not_be_made_and_times_before_1970_are_refused() {
    let bench = Bench::new(cases::RIGS);
    let change = |time| RowChange {
        time: Some(time),
        ..cases::put("a", 1, &[("temp", CellValue::Int(1))])
    };
    let refused = bench.table().change(&[change(-1)]).unwrap_err();
    assert_eq!(refused.code(), "table.wide-before-1970");
    assert_eq!(bench.table().change(&[change(0)]).unwrap(), [true]);
    assert_eq!(key("a", 1).len(), 2);
    let without = cases::RIGS.replace(r#""families""#, r#""create": false, "families""#);
    let cells = Arc::new(MemoryCells::default());
    let tables = open(&cells, &bench.clock, &without);
    let refused = tables.wide("t").unwrap().rows().unwrap_err();
    assert_eq!(refused.class(), Class::Configuration);
    for (wide, code) in [
        (r#""table": "x""#, "table.needs-connection"),
        (r#""connection": "c", "table": "a:b:c""#, "table.cells-path"),
        (r#""connection": "c", "table": "-a""#, "table.cells-path"),
    ] {
        let spec = format!(r#"{{"wide": {{{wide}}}, "key": ["k"]}}"#);
        let refused = bench.tables.apply(&specs(&spec)).unwrap_err();
        assert_eq!(refused.code(), code, "{spec}");
    }
}
