//! HL7 payloads: whoever reads a message accepts it or not alike, what is kept is JSON, and what is written of it is read as the
//! same.
#![no_main]

use std::sync::LazyLock;

use arrow::array::{AsArray, BinaryArray};
use arrow::datatypes::SchemaRef;
use busbar_event::format::{
    Decoder, FormatSpec, Hl7Options, Hl7Path, Hl7Reader, Hl7Writer, SchemaSpec, infer,
};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

static LOOSE: LazyLock<SchemaRef> = LazyLock::new(|| {
    schema(r#"{"*":"json","PID":"json","OBX[*].5":"json","PID.3.1":"text","MSH.2":"text"}"#)
});
static STRICT: LazyLock<SchemaRef> = LazyLock::new(|| {
    schema(
        r#"{"a":{"type":"time","path":"MSH.7"},"b":{"type":"int","path":"PID.1"},
            "c":{"type":"float","path":"OBX[2].5.1.2"},"d":{"type":"bool","path":"PID.30"}}"#,
    )
});

fn schema(text: &str) -> SchemaRef {
    serde_json::from_str::<SchemaSpec>(text)
        .expect("a schema")
        .schema()
        .expect("a good one")
}

fuzz_target!(|data: &[u8]| {
    let format = FormatSpec::Hl7(Hl7Options::default());
    let read = |schema: &SchemaRef, payload: &[u8]| {
        let rows = BinaryArray::from(vec![payload, b"MSH|^~\\&|"]);
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let mut decoder = Decoder::new(&format, schema, &all).expect("a decoder");
        decoder.decode(&rows)
    };
    let loose = read(&LOOSE, data);
    let good = loose.rejected.is_empty();
    let none = Decoder::new(&format, &LOOSE, &[])
        .expect("a decoder")
        .decode(&BinaryArray::from(vec![data]));
    assert_eq!(none.rejected.is_empty(), good, "it depends on who reads it");
    let strict = read(&STRICT, data);
    assert_eq!(strict.columns.num_rows() + strict.rejected.len(), 2);
    let sample = BinaryArray::from(vec![data]);
    if let Ok(schema) = infer(&format, &sample) {
        assert!(good, "a schema of what cannot be read");
        assert!(
            read(&schema, data).rejected.is_empty(),
            "it does not read its sample"
        );
    }
    if !good {
        return;
    }
    let whole: Value =
        serde_json::from_str(loose.columns.column(0).as_string::<i32>().value(0)).expect("JSON");
    let mut writer = Hl7Writer::default();
    let all = Hl7Path::parse("*").expect("a path");
    if writer.set(&all, &whole).is_err() {
        // Too many places, or numbers beyond those of paths.
        return;
    }
    let Ok(message) = writer.finish() else { return };
    // It goes out in the character set that it names.
    let mut reader = Hl7Reader::new(&Hl7Options::default()).expect("a reader");
    let charset = reader.read(data).expect("it was read before").charset();
    let Some(bytes) = charset.encode(&message) else {
        return;
    };
    // The name of a character set that has been written with escape sequences is not found again.
    if !matches!(reader.read(&bytes), Ok(again) if again.charset() == charset) {
        return;
    }
    let again = read(&LOOSE, &bytes);
    let again: Value =
        serde_json::from_str(again.columns.column(0).as_string::<i32>().value(0)).expect("JSON");
    writer.set(&all, &again).expect("what was written");
    assert_eq!(writer.finish().expect("as before"), message);
});
