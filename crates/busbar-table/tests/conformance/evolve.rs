//! Columns that nobody declared, whatever the engine is.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Float64Type, Schema};
use busbar_table::{Scan, Table};

use super::cases::{LOOSE, all, at, batch, pairs, rows};
use super::each;

#[test]
fn columns_that_nobody_declared_widen_without_a_change_of_values() {
    for key in [r#""key": ["k"]"#, r#""key": []"#] {
        each(key, |bench| {
            let table = bench.table();
            let whole: ArrayRef = Arc::new(Int64Array::from(vec![Some(3), None, Some(-7)]));
            let names = || Arc::new(StringArray::from(vec!["a", "b", "c"])) as ArrayRef;
            let bits: ArrayRef = Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]));
            let first = batch([
                ("k", names()),
                ("v", Arc::clone(&whole)),
                ("w", whole),
                ("b", bits),
            ]);
            table.evolve(&first.schema()).unwrap();
            table.apply(&first, Some(&at("p", 1))).unwrap();
            let name = || Arc::new(StringArray::from(vec!["d"])) as ArrayRef;
            let then = batch([
                ("k", name()),
                ("v", Arc::new(Float64Array::from(vec![0.5])) as ArrayRef),
                (
                    "w",
                    Arc::new(StringArray::from(vec!["18446744073709551615"])),
                ),
                ("b", Arc::new(StringArray::from(vec!["maybe"]))),
            ]);
            table.check(&then.schema()).unwrap();
            table.evolve(&then.schema()).unwrap();
            table.apply(&then, Some(&at("p", 2))).unwrap();
            let shown = |table: Arc<dyn Table>| {
                let mut found = Vec::new();
                for batch in table.scan(&Scan::default()).unwrap() {
                    let batch = batch.unwrap();
                    for row in 0..batch.num_rows() {
                        let column = |name: &str| batch.column_by_name(name).unwrap();
                        let text = |name: &str| {
                            let text = column(name).as_string::<i32>();
                            text.is_valid(row).then(|| text.value(row).to_owned())
                        };
                        let v = column("v").as_primitive::<Float64Type>();
                        let v = v.is_valid(row).then(|| v.value(row));
                        found.push((text("k").unwrap(), v, text("w"), text("b")));
                    }
                }
                found.sort_by(|a, b| a.0.cmp(&b.0));
                found
            };
            let text = |text: &str| Some(text.to_owned());
            let expected = [
                ("a".to_owned(), Some(3.0), text("3"), text("true")),
                ("b".to_owned(), None, None, text("false")),
                ("c".to_owned(), Some(-7.0), text("-7"), None),
                (
                    "d".to_owned(),
                    Some(0.5),
                    text("18446744073709551615"),
                    text("maybe"),
                ),
            ];
            assert_eq!(shown(Arc::clone(&table)), expected);
            // Rows that come again are still recognised.
            assert!(table.apply(&then, Some(&at("p", 2))).unwrap().duplicate);
            drop(table);
            assert_eq!(shown(bench.restarted(key).table()), expected);
        });
    }
    // A whole number that no float holds keeps its column what it is.
    each(LOOSE, |bench| {
        let table = bench.table();
        let large = rows(&[("a", (1 << 53) + 1)]);
        table.evolve(&large.schema()).unwrap();
        table.apply(&large, None).unwrap();
        let float = Schema::new(vec![Field::new("v", DataType::Float64, true)]);
        assert_eq!(
            table.evolve(&float).unwrap_err().code(),
            "table.column-type"
        );
        assert_eq!(all(&table), pairs(&[("a", (1 << 53) + 1)]));
    });
}
