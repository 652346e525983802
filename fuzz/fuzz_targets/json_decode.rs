//! JSON payloads: accepted exactly if `serde_json` accepts them as an object, whatever is asked for.
#![no_main]

use std::sync::LazyLock;

use arrow::array::BinaryArray;
use arrow::datatypes::SchemaRef;
use busbar_event::format::{Decoder, FormatSpec, JsonOptions, SchemaSpec, infer};
use libfuzzer_sys::fuzz_target;

static LOOSE: LazyLock<SchemaRef> =
    LazyLock::new(|| schema(r#"{"a":"json","b":"text","c":{"type":"json","path":"a.b"}}"#));
static STRICT: LazyLock<SchemaRef> =
    LazyLock::new(|| schema(r#"{"a":"int","b":"float","c":"bool","d":"time","e":"text"}"#));

fn schema(text: &str) -> SchemaRef {
    serde_json::from_str::<SchemaSpec>(text)
        .expect("a schema")
        .schema()
        .expect("a good one")
}

fuzz_target!(|data: &[u8]| {
    let format = FormatSpec::Json(JsonOptions::default());
    let rows = BinaryArray::from(vec![data, b"{}"]);
    let decode = |schema: &SchemaRef, projection: &[usize]| {
        Decoder::new(&format, schema, projection)
            .expect("a decoder")
            .decode(&rows)
    };
    let good = decode(&LOOSE, &[0, 1, 2]).rejected.is_empty();
    assert_eq!(
        decode(&LOOSE, &[]).rejected.is_empty(),
        good,
        "it depends on who reads it"
    );
    match serde_json::from_slice::<serde_json::Value>(data) {
        Ok(value) => {
            // Neither is told to go as deep as the other.
            let deep = !good
                && data
                    .iter()
                    .filter(|byte| matches!(byte, b'[' | b'{'))
                    .count()
                    > 64;
            assert!(deep || good == value.is_object());
        }
        Err(error) if error.to_string().contains("out of range") => {}
        Err(_) => assert!(!good),
    }
    let strict = decode(&STRICT, &[4, 3, 2, 1, 0]);
    assert_eq!(strict.columns.num_rows() + strict.rejected.len(), 2);
    if let Ok(schema) = infer(&format, &rows) {
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let inferred = decode(&schema, &all);
        assert_eq!(
            inferred.rejected.is_empty(),
            good,
            "an inferred schema reads its sample"
        );
    }
});
