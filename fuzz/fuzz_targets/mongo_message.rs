//! Messages of MongoDB as a client reads them, and the documents in them: any bytes are refused, or are documents whose values
//! are whole, become JSON and can be written again.
#![no_main]
#![allow(dead_code, missing_docs)]

#[path = "../../crates/busbar-connect/src/mongo/bson.rs"]
mod bson;
#[path = "../../crates/busbar-connect/src/mongo/decimal.rs"]
mod decimal;
#[path = "../../crates/busbar-connect/src/mongo/hex.rs"]
mod hex;
#[path = "../../crates/busbar-connect/src/mongo/json.rs"]
mod json;
#[path = "../../crates/busbar-connect/src/mongo/limits.rs"]
mod limits;
#[path = "../../crates/busbar-connect/src/mongo/wire.rs"]
mod wire;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bson::{BsonDocument, BsonValue, BsonWriter};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;

fuzz_target!(|bytes: &[u8]| {
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some((_, document))) = wire::answer(&mut buffer) {
        look(&document);
    }
    // No fuzzer guesses a length.
    let mut whole = (bytes.len() as u32 + 5).to_le_bytes().to_vec();
    whole.extend_from_slice(bytes);
    whole.push(0);
    look(&whole);
    let mut message = BytesMut::new();
    wire::message(7, &whole, None, &mut message);
    if let Ok(Some((_, document))) = wire::answer(&mut message) {
        assert_eq!(document, whole);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(document) = json::json_document(text)
    {
        assert!(BsonDocument::read(&document).is_some());
    }
});

fn look(bytes: &[u8]) {
    let Some(document) = BsonDocument::read(bytes) else {
        return;
    };
    let mut json = Vec::new();
    json::write_document(document, &mut json);
    let read = serde_json::from_slice::<IgnoredAny>(&json);
    assert!(read.is_ok(), "{}", String::from_utf8_lossy(&json));
    let mut copied = BsonWriter::new();
    let mut is_text = true;
    for element in document.elements() {
        is_text &= !element.name.starts_with("\\x");
        copied.copy(&element.name, &element);
        assert!(memchr::memchr(0, element.name.as_bytes()).is_none());
        if let BsonValue::Binary(kind, inner) = element.value
            && kind != 4
        {
            let text = json::scalar_text(element.value).expect("a text");
            assert_eq!(STANDARD.decode(text).expect("base64"), inner);
        }
        let alone = element.alone("a");
        let alone = BsonDocument::read(&alone).expect("a document");
        let same = alone.element("a").expect("its value");
        assert_eq!(same.same(), element.same());
        if let BsonValue::Document(inner) | BsonValue::Array(inner) = element.value {
            assert!(BsonDocument::read(inner.bytes()).is_some());
        }
    }
    let copied = copied.finish();
    assert!(BsonDocument::read(&copied).is_some());
    if is_text {
        assert_eq!(copied, bytes);
    }
}
