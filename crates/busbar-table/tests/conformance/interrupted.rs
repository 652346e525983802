//! A stream of changes whose delivery ends in the middle.

use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::datatypes::{Schema, SchemaRef};
use busbar_event::{Class, Error};
use busbar_table::{
    Applied, Capabilities, ChangeColumns, Found, Lookup, ProducerPosition, Rows, Scan, Stats,
    Table, Write,
};

use super::changes::{Row, all, rows};

/// A table that takes so many writes and no more, as before a crash.
#[derive(Debug)]
struct Interrupted<'a> {
    table: &'a dyn Table,
    left: AtomicUsize,
}

impl Table for Interrupted<'_> {
    fn write(&self, write: &Write<'_>) -> Result<Applied, Error> {
        let left = self.left.load(Ordering::SeqCst);
        if left == 0 {
            return Err(Error::new(Class::Transient, "test.crash"));
        }
        self.left.store(left - 1, Ordering::SeqCst);
        self.table.write(write)
    }
    fn name(&self) -> &str {
        self.table.name()
    }
    fn engine(&self) -> &'static str {
        self.table.engine()
    }
    fn capabilities(&self) -> Capabilities {
        self.table.capabilities()
    }
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }
    fn key(&self) -> &[String] {
        self.table.key()
    }
    fn evolve(&self, schema: &Schema) -> Result<(), Error> {
        self.table.evolve(schema)
    }
    fn check(&self, schema: &Schema) -> Result<(), Error> {
        self.table.check(schema)
    }
    fn scan(&self, scan: &Scan) -> Result<Rows, Error> {
        self.table.scan(scan)
    }
    fn lookup(&self, lookup: &Lookup<'_>) -> Result<Found, Error> {
        self.table.lookup(lookup)
    }
    fn rows(&self) -> Result<u64, Error> {
        self.table.rows()
    }
    fn position(&self, producer: &str) -> Result<Option<u64>, Error> {
        self.table.position(producer)
    }
    fn stats(&self) -> Result<Stats, Error> {
        self.table.stats()
    }
}

/// Rows that need several writes end in the middle of them. The position is not there then, and the same rows, alone or with
/// those that follow, complete what is missing.
pub fn completed(table: &dyn Table) {
    let columns = ChangeColumns {
        change: "change".into(),
        unchanged: Some("unchanged".into()),
        newer: None,
    };
    let first: &[Row<'_>] = &[
        ("insert", Some("a"), 1, None),
        ("insert", Some("b"), 2, None),
        ("truncate", None, 0, None),
        ("insert", Some("b"), 3, None),
        ("update", Some("b"), 4, Some(r#"["w"]"#)),
        ("insert", Some("c"), 5, None),
        ("delete", Some("c"), 0, None),
        ("insert", Some("d"), 6, None),
    ];
    let next = ("insert", Some("e"), 7, None);
    let with_next = [first, &[next]].concat();
    for joined in [false, true] {
        for left in 0.. {
            let before = [("truncate", None, 0, None), ("insert", Some("x"), 9, None)];
            columns.write(table, &rows(&before), None).expect("written");
            let producer = format!("flow:f/{joined}{left}");
            let at = |position| ProducerPosition::new(producer.as_str(), position);
            let crash = Interrupted {
                table,
                left: AtomicUsize::new(left),
            };
            let whole = columns.write(&crash, &rows(first), Some(&at(8))).is_ok();
            let known = table.position(&producer).expect("a position");
            assert_eq!(known, whole.then_some(8), "behind {left} writes");
            match joined && !whole {
                true => columns.write(table, &rows(&with_next), Some(&at(9))),
                false => columns
                    .write(table, &rows(first), Some(&at(8)))
                    .and_then(|_| columns.write(table, &rows(&[next]), Some(&at(9)))),
            }
            .expect("written");
            assert_eq!(
                all(table),
                ["b 4 w3", "d 6 w6", "e 7 w7"],
                "behind {left} writes"
            );
            if whole {
                assert!(left > 3, "it was one write");
                break;
            }
        }
    }
}
