//! XML payloads: whoever reads a document accepts it or not alike, and what is inferred from it reads it.
#![no_main]

use std::sync::LazyLock;

use arrow::array::BinaryArray;
use arrow::datatypes::SchemaRef;
use busbar_event::format::{Decoder, FormatSpec, SchemaSpec, XmlOptions, infer};
use libfuzzer_sys::fuzz_target;

static LOOSE: LazyLock<SchemaRef> =
    LazyLock::new(|| schema(r#"{"a":"json","b":"text","c":{"type":"json","path":"a.@b"}}"#));
static STRICT: LazyLock<SchemaRef> =
    LazyLock::new(|| schema(r#"{"a":"int","b":"float","c":"bool","d":"time","e":"text"}"#));

fn schema(text: &str) -> SchemaRef {
    serde_json::from_str::<SchemaSpec>(text)
        .expect("a schema")
        .schema()
        .expect("a good one")
}

fuzz_target!(|data: &[u8]| {
    let format = FormatSpec::Xml(XmlOptions::default());
    let rows = BinaryArray::from(vec![data, b"<r/>"]);
    let decode = |schema: &SchemaRef, projection: &[usize]| {
        Decoder::new(&format, schema, projection)
            .expect("a decoder")
            .decode(&rows)
    };
    let loose = decode(&LOOSE, &[0, 1, 2]);
    let good = loose.rejected.is_empty();
    for column in [0, 2] {
        let texts = loose.columns.column(column);
        let texts = arrow::array::AsArray::as_string::<i32>(texts);
        for text in texts.iter().flatten() {
            serde_json::from_str::<serde_json::Value>(text).expect("what is kept is JSON");
        }
    }
    assert_eq!(
        decode(&LOOSE, &[]).rejected.is_empty(),
        good,
        "it depends on who reads it"
    );
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
    // Documents in other encodings are read, too; this looks for the bytes of a document type.
    if good && let Ok(text) = std::str::from_utf8(data) {
        assert!(
            !text.contains("<!DOCTYPE")
                || text.contains("<!--")
                || text.contains("CDATA")
                || text.contains("<?")
        );
    }
});
