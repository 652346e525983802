//! A stream of changes keeps a table in step, whatever its engine is.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use busbar_table::{Applied, ChangeColumns, ProducerPosition, Scan, Table};

/// What is done, the key, the value and the columns that keep theirs.
pub type Row<'a> = (&'a str, Option<&'a str>, i64, Option<&'a str>);

pub fn rows(of: &[Row<'_>]) -> RecordBatch {
    let texts = |pick: for<'a> fn(&Row<'a>) -> Option<&'a str>| -> ArrayRef {
        Arc::new(of.iter().map(pick).collect::<StringArray>())
    };
    let values: Int64Array = of.iter().map(|row| Some(row.2)).collect();
    let long: StringArray = of.iter().map(|row| Some(format!("w{}", row.2))).collect();
    let columns: [(&str, ArrayRef); 5] = [
        ("change", texts(|row| Some(row.0))),
        ("k", texts(|row| row.1)),
        ("v", Arc::new(values)),
        ("w", Arc::new(long)),
        ("unchanged", texts(|row| row.3)),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

pub fn all(table: &dyn Table) -> Vec<String> {
    let mut found = Vec::new();
    for batch in table.scan(&Scan::default()).expect("a scan") {
        let batch = batch.expect("rows");
        let cell = |column: &str, row: usize| {
            let column = batch.column_by_name(column).expect("a column");
            match column.is_null(row) {
                true => "-".to_owned(),
                false => arrow::util::display::array_value_to_string(column, row).expect("a text"),
            }
        };
        let rows = (0..batch.num_rows()).map(|row| ["k", "v", "w"].map(|c| cell(c, row)).join(" "));
        found.extend(rows);
    }
    found.sort();
    found
}

fn rejected(applied: &Applied) -> Vec<usize> {
    applied.rejected.iter().map(|one| one.row).collect()
}

/// The case.
pub fn followed(table: &dyn Table) {
    let columns = ChangeColumns {
        change: "change".into(),
        unchanged: Some("unchanged".into()),
        newer: None,
    };
    let write = |number: u64, of: &[Row<'_>]| {
        let at = ProducerPosition::new("flow:f/0", number);
        columns
            .write(table, &rows(of), Some(&at))
            .unwrap_or_else(|error| panic!("{error}"))
    };
    let first: &[Row<'_>] = &[
        ("read", Some("a"), 1, None),
        ("insert", Some("b"), 2, None),
        ("schema", None, 0, None),
        ("insert", Some("c"), 3, None),
        ("update", Some("b"), 4, Some(r#"["w"]"#)),
        ("delete", Some("c"), 0, None),
        ("strange", Some("d"), 5, None),
        ("insert", None, 6, None),
        ("delete", Some("gone"), 0, None),
        ("upsert", Some("e"), 7, Some("")),
    ];
    let applied = write(10, first);
    assert_eq!(all(table), ["a 1 w1", "b 4 w2", "e 7 w7"]);
    assert_eq!((applied.put, applied.deleted), (5, 2));
    assert_eq!(rejected(&applied), [6, 7]);
    // The same rows once more are recognised as a whole, and name what was rejected.
    let applied = write(10, first);
    assert!(applied.duplicate);
    assert_eq!(rejected(&applied), [6, 7]);
    assert_eq!(all(table), ["a 1 w1", "b 4 w2", "e 7 w7"]);
    // What comes before the table is emptied goes, too, and what comes behind stays; also when it is the last thing said.
    write(
        11,
        &[
            ("insert", Some("f"), 8, None),
            ("truncate", None, 0, None),
            ("insert", Some("a"), 9, None),
            ("delete", Some("a"), 0, None),
            ("insert", Some("g"), 9, None),
        ],
    );
    assert_eq!(all(table), ["g 9 w9"]);
    write(
        12,
        &[("insert", Some("h"), 1, None), ("truncate", None, 0, None)],
    );
    assert_eq!(all(table), Vec::<String>::new());
    assert_eq!(table.position("flow:f/0").expect("a position"), Some(12));
    write(13, &[("insert", Some("i"), 1, None)]);
    let applied = write(12, &[("truncate", None, 0, None)]);
    assert!(applied.duplicate, "an old one empties nothing");
    assert_eq!(all(table), ["i 1 w1"]);
    // A column that is not there is no row's fault.
    let missing = ChangeColumns {
        change: "op".into(),
        unchanged: None,
        newer: None,
    };
    let error = missing.write(table, &rows(first), None).unwrap_err();
    assert_eq!(error.code(), "table.change-columns");
}
