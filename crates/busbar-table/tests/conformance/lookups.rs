//! What every engine promises of look-ups.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array, Int64Array, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::Int64Type;
use busbar_table::Lookup;

use super::cases::{KEYED, batch, rows};
use super::each;

#[test]
fn keys_are_looked_up_together() {
    each(KEYED, |bench| {
        let table = bench.table();
        table.apply(&rows(&[("a", 1), ("b", 2)]), None).unwrap();
        table.apply(&rows(&[("b", 4), ("c", 5)]), None).unwrap();
        let keys: ArrayRef = Arc::new(StringArray::from(vec![
            Some("c"),
            Some("nobody"),
            None,
            Some("b"),
            Some("b"),
        ]));
        let look_up = |columns: &[usize]| {
            let keys = &[Arc::clone(&keys)];
            table.lookup(&Lookup { keys, columns }).unwrap()
        };
        let found = look_up(&[1, 0]);
        let value = |key: usize| {
            let place = found.places.is_valid(key).then(|| found.places.value(key));
            place.map(|row| {
                let value = found.rows.column(0).as_primitive::<Int64Type>();
                let key = found.rows.column(1).as_string::<i32>();
                (key.value(row as usize), value.value(row as usize))
            })
        };
        let values: Vec<_> = (0..5).map(value).collect();
        let (b, c) = (Some(("b", 4)), Some(("c", 5)));
        assert_eq!(values, [c, None, None, b, b]);
        // Without columns it is still said which keys there are.
        let there = look_up(&[]).places;
        let there: Vec<bool> = (0..5).map(|key| there.is_valid(key)).collect();
        assert_eq!(there, [true, false, false, true, true]);
        let wrong: &[ArrayRef] = &[Arc::new(Int64Array::from(vec![1]))];
        let lookup = Lookup {
            keys: wrong,
            columns: &[0],
        };
        let error = table.lookup(&lookup).unwrap_err();
        assert_eq!(error.code(), "table.lookup-keys");
    });
}

#[test]
fn keys_of_several_columns_and_of_all_types_are_found() {
    let columns = r#"[{"name": "i", "type": "int"}, {"name": "t", "type": "time"}, {"name": "b", "type": "bool"},
        {"name": "f", "type": "float"}, {"name": "x", "type": "binary"}]"#;
    each(
        &format!(r#""key": ["t", "i", "b"], "columns": {columns}"#),
        |bench| {
            let table = bench.table();
            let ints: ArrayRef = Arc::new(Int64Array::from(vec![1, 1, 2]));
            let times = TimestampMicrosecondArray::from(vec![5, 6, 5]).with_timezone("UTC");
            let times: ArrayRef = Arc::new(times);
            let bools: ArrayRef = Arc::new(BooleanArray::from(vec![true, true, false]));
            let floats: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.5), None, Some(2.5)]));
            let bytes: ArrayRef =
                Arc::new(BinaryArray::from_opt_vec(vec![Some(b"x"), Some(b""), None]));
            let all = [
                ("i", Arc::clone(&ints)),
                ("t", Arc::clone(&times)),
                ("b", Arc::clone(&bools)),
                ("f", Arc::clone(&floats)),
                ("x", Arc::clone(&bytes)),
            ];
            table.apply(&batch(all), None).unwrap();
            let keys = &[Arc::clone(&times), ints, bools];
            let columns = &[3, 4, 1];
            let found = table.lookup(&Lookup { keys, columns }).unwrap();
            let column = |at: usize| {
                arrow::compute::take(found.rows.column(at), &found.places, None).unwrap()
            };
            assert_eq!(&column(0), &floats);
            assert_eq!(&column(1), &bytes);
            assert_eq!(&column(2), &times);
        },
    );
}
