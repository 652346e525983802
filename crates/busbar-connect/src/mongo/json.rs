//! Values as JSON, and JSON as values.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use busbar_event::format::write_json_text;
use busbar_event::time;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};

use super::bson::{BsonDocument, BsonValue, BsonWriter, not_text};
use super::decimal::{decimal_parsed, decimal_text};
use super::hex::{hex, unhex};

/// The kind of binary data that is a UUID.
const UUID: u8 = 4;

/// An ObjectId of its 24 digits.
pub fn object_id(text: &str) -> Option<[u8; 12]> {
    unhex(text)?.try_into().ok()
}

/// The text of a value that is not nested; none for a document and an array, and for null.
pub fn scalar_text(value: BsonValue<'_>) -> Option<String> {
    Some(match value {
        BsonValue::Double(value) if value.is_finite() => {
            let text = value.to_string();
            match text.contains(['.', 'e']) {
                true => text,
                false => format!("{text}.0"),
            }
        }
        BsonValue::Double(value) if value.is_nan() => "NaN".to_owned(),
        BsonValue::Double(value) if value > 0.0 => "Infinity".to_owned(),
        BsonValue::Double(_) => "-Infinity".to_owned(),
        BsonValue::Text(text) => text.to_owned(),
        BsonValue::NotText(bytes) => not_text(bytes),
        BsonValue::Code(text) => text.to_owned(),
        BsonValue::Binary(UUID, bytes) if bytes.len() == 16 => {
            let digits = hex(bytes);
            let [a, b, c, d, e] = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
            format!("{a}-{b}-{c}-{d}-{e}")
        }
        BsonValue::Binary(_, bytes) => STANDARD.encode(bytes),
        BsonValue::ObjectId(bytes) => hex(&bytes),
        BsonValue::Bool(value) => value.to_string(),
        BsonValue::Date(millis) => {
            match millis.checked_mul(1_000).filter(|at| time::is_written(*at)) {
                Some(micros) => time::text(micros),
                None => format!("{millis}"),
            }
        }
        BsonValue::Int(value) => value.to_string(),
        BsonValue::Long(value) => value.to_string(),
        BsonValue::Decimal(bytes) => decimal_text(bytes),
        BsonValue::Timestamp(value) => format!("{}.{}", value >> 32, value & 0xffff_ffff),
        BsonValue::Regex(pattern, options) => format!("/{pattern}/{options}"),
        BsonValue::MinKey => "MinKey".to_owned(),
        BsonValue::MaxKey => "MaxKey".to_owned(),
        BsonValue::Document(_) | BsonValue::Array(_) | BsonValue::Null | BsonValue::Old => {
            return None;
        }
    })
}

/// Writes a value as JSON: numbers and truth values as they are, documents and arrays with what is in them, everything else
/// as a text, decimals too.
pub fn write_value(value: BsonValue<'_>, out: &mut Vec<u8>) {
    match value {
        BsonValue::Document(document) => write_document(document, out),
        BsonValue::Array(array) => {
            out.push(b'[');
            for (at, element) in array.elements().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_value(element.value, out);
            }
            out.push(b']');
        }
        BsonValue::Double(number) if number.is_finite() => {
            out.extend_from_slice(scalar_text(value).unwrap_or_default().as_bytes());
        }
        BsonValue::Bool(_) | BsonValue::Int(_) | BsonValue::Long(_) => {
            out.extend_from_slice(scalar_text(value).unwrap_or_default().as_bytes());
        }
        other => match scalar_text(other) {
            Some(text) => write_json_text(&text, out),
            None => out.extend_from_slice(b"null"),
        },
    }
}

/// Writes a document as JSON.
pub fn write_document(document: BsonDocument<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (at, element) in document.elements().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_json_text(&element.name, out);
        out.push(b':');
        write_value(element.value, out);
    }
    out.push(b'}');
}

/// Adds a JSON text as a value: objects as documents, arrays as arrays, and what Extended JSON has for an ObjectId, a date, a
/// decimal number and a long one (`{"$oid": …}`, `{"$date": …}`, `{"$numberDecimal": …}`, `{"$numberLong": …}`) as that.
///
/// # Errors
/// Why it is none.
pub fn json_value(
    name: &str,
    json: &str,
    writer: &mut BsonWriter,
) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(json);
    JsonInto { name, writer }.deserialize(&mut reader)?;
    reader.end()
}

/// The bytes of a JSON object.
///
/// # Errors
/// Why it is none.
pub fn json_document(json: &str) -> Result<Vec<u8>, serde_json::Error> {
    let mut writer = BsonWriter::new();
    json_value("d", json, &mut writer)?;
    let whole = writer.finish();
    let inner = BsonDocument::read(&whole).and_then(|whole| whole.document("d"));
    inner
        .map(|inner| inner.bytes().to_vec())
        .ok_or_else(|| serde_json::Error::custom("not an object"))
}

/// A value that is written into a document.
struct JsonInto<'a> {
    name: &'a str,
    writer: &'a mut BsonWriter,
}

impl<'de> DeserializeSeed<'de> for JsonInto<'_> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl JsonInto<'_> {
    /// What `{"$oid": "…"}` and the like mean.
    fn special<E: serde::de::Error>(self, word: &str, text: &str) -> Result<(), E> {
        let wrong = || E::custom(format!("{word} of another form"));
        let (name, writer) = (self.name, self.writer);
        match word {
            "$oid" => writer.object_id(name, object_id(text).ok_or_else(wrong)?),
            "$date" => {
                let micros = time::parse(text).ok_or_else(wrong)?;
                writer.date(name, micros.div_euclid(1_000));
            }
            "$numberLong" => writer.long(name, text.parse().map_err(|_| wrong())?),
            "$numberDecimal" => writer.decimal(name, decimal_parsed(text).ok_or_else(wrong)?),
            _ => {
                writer.open(name);
                writer.text(word, text);
                writer.close();
            }
        }
        Ok(())
    }
}

/// The words of Extended JSON that are values.
const WORDS: [&str; 4] = ["$oid", "$date", "$numberLong", "$numberDecimal"];

impl<'de> Visitor<'de> for JsonInto<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.writer.bool(self.name, value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        match i32::try_from(value) {
            Ok(value) => self.writer.int(self.name, value),
            Err(_) => self.writer.long(self.name, value),
        }
        Ok(())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => Err(E::custom("a number beyond 64 bits")),
        }
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.writer.double(self.name, value);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.writer.text(self.name, value);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.writer.null(self.name);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.writer.open_array(self.name);
        for at in 0_u64.. {
            let name = at.to_string();
            let next = JsonInto {
                name: &name,
                writer: self.writer,
            };
            if list.next_element_seed(next)?.is_none() {
                break;
            }
        }
        self.writer.close();
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut key: Option<String> = map.next_key()?;
        if let Some(word) = key.as_deref().filter(|key| WORDS.contains(key)) {
            let text: String = map.next_value()?;
            if map.next_key::<serde::de::IgnoredAny>()?.is_some() {
                return Err(A::Error::custom(format!("{word} beside other names")));
            }
            return self.special(word, &text);
        }
        self.writer.open(self.name);
        while let Some(name) = key {
            if name.contains('\0') {
                return Err(A::Error::custom("a zero byte in a name"));
            }
            map.next_value_seed(JsonInto {
                name: &name,
                writer: self.writer,
            })?;
            key = map.next_key()?;
        }
        self.writer.close();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_kept_in_its_order_and_what_extended_json_means_is_understood() {
        let json = r#"{"b":1,"a":[1.5,null,{"x":"y"}],"big":9007199254740993,"id":{"$oid":"507f1f77bcf86cd799439011"},"at":{"$date":"2024-02-29T00:00:00.001Z"},"n":{"$numberDecimal":"1.50"}}"#;
        let bytes = json_document(json).expect("a document");
        let mut out = Vec::new();
        write_document(BsonDocument::read(&bytes).expect("whole"), &mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            r#"{"b":1,"a":[1.5,null,{"x":"y"}],"big":9007199254740993,"id":"507f1f77bcf86cd799439011","at":"2024-02-29T00:00:00.001000Z","n":"1.50"}"#
        );
        for wrong in [
            "[1]",
            "1",
            "{",
            r#"{"a":18446744073709551615}"#,
            r#"{"a":{"$oid":"x"}}"#,
            "{\"a\\u0000b\":1}",
        ] {
            assert!(json_document(wrong).is_err(), "{wrong}");
        }
    }
}
