//! Each type of each engine: read as JSON, written, and read again.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Float32Array, Float64Array, Int64Array, StringArray,
};
use serde_json::Value;

use crate::driver_engine::{ENGINES, Engine};
use crate::postgres_sink::rows;

/// A line of a case file.
struct Case {
    sql_type: String,
    literal: String,
    json: Value,
    held: String,
}

fn cases(engine: &str) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/driver_types");
    let text = std::fs::read_to_string(folder.join(format!("{engine}.txt"))).expect("cases");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let cases: Vec<_> = lines
        .map(|line| {
            let parts: Vec<_> = line.split(" | ").map(str::trim).collect();
            let [sql_type, literal, json, held] = parts[..] else {
                panic!("{engine}: {line}");
            };
            Case {
                sql_type: sql_type.into(),
                literal: literal.into(),
                json: serde_json::from_str(json).unwrap_or_else(|why| panic!("{why}: {line}")),
                held: held.into(),
            }
        })
        .collect();
    assert!(cases.len() > 10, "{engine}");
    cases
}

/// The value as a column of a flow.
fn column(case: &Case) -> ArrayRef {
    let text = case.json.as_str();
    let hex = |text: &str| -> Vec<u8> {
        let digits = (0..text.len()).step_by(2);
        digits
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("digits"))
            .collect()
    };
    let number = case.json.as_f64();
    match case.held.as_str() {
        "bool" => Arc::new(BooleanArray::from(vec![case.json.as_bool()])),
        "int" => Arc::new(Int64Array::from(vec![case.json.as_i64()])),
        "float" => Arc::new(Float64Array::from(vec![number])),
        "real" => Arc::new(Float32Array::from(vec![number.map(|number| number as f32)])),
        "bytes" => Arc::new(BinaryArray::from_iter([text.map(hex)])),
        "text" => Arc::new(StringArray::from(vec![text])),
        held => panic!("{held}"),
    }
}

#[test]
fn values_of_each_type_go_there_and_back() {
    for name in ENGINES {
        let engine = Engine::start(name);
        // Each delivery is a later one, else it would be taken for the one before.
        for (position, case) in (1..).zip(cases(name)) {
            let what = format!("{name}: {} {}", case.sql_type, case.literal);
            let (from, to) = (engine.table(), engine.table());
            for table in [&from, &to] {
                engine.run(&format!("create table {table} (v {})", case.sql_type));
            }
            engine.run(&format!("insert into {from} values ({})", case.literal));
            let read = |table: &str| -> Value {
                let rows = engine.run(&format!("select v from {table}"));
                let row = rows.first().unwrap_or_else(|| panic!("{what}: no row"));
                let row: Value = serde_json::from_slice(row).expect("JSON");
                let value = row.as_object().and_then(|row| row.values().next()).cloned();
                value.expect("a value")
            };
            assert_eq!(read(&from), case.json, "{what}");
            let delivery = rows(position, vec![("v", column(&case))]);
            let written = engine.write(&format!("table: {to}"), &delivery);
            let refused = written.unwrap_or_else(|why| panic!("{what}: {why}"));
            assert_eq!(refused, [0; 0], "{what}");
            assert_eq!(read(&to), case.json, "{what}, written");
        }
    }
}
