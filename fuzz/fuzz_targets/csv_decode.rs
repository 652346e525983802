//! CSV payloads, with and without a header.
#![no_main]

use std::sync::LazyLock;

use arrow::array::BinaryArray;
use arrow::datatypes::SchemaRef;
use busbar_event::format::{CsvOptions, Decoder, FormatSpec, SchemaSpec, infer};
use libfuzzer_sys::fuzz_target;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = r#"{"a":"int","b":"float","c":"bool","d":"time","e":"text","f":"json"}"#;
    serde_json::from_str::<SchemaSpec>(text)
        .expect("a schema")
        .schema()
        .expect("a good one")
});

fuzz_target!(|data: &[u8]| {
    let rows = BinaryArray::from(vec![data, b"a,e\n1,x", data]);
    for header in [false, true] {
        let format = FormatSpec::Csv(CsvOptions {
            header,
            ..CsvOptions::default()
        });
        for projection in [&[0, 1, 2, 3, 4, 5][..], &[5, 4], &[]] {
            let mut decoder = Decoder::new(&format, &SCHEMA, projection).expect("a decoder");
            let decoded = decoder.decode(&rows);
            assert_eq!(decoded.columns.num_rows() + decoded.rejected.len(), 3);
        }
        let _ = infer(&format, &rows);
    }
});
