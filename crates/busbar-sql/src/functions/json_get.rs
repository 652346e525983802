//! `json_get(payload, 'a.b')`: a value inside a JSON document, as text. `json_get_float`, `json_get_int` and
//! `json_get_bool` return it as that type. A path consists of names and, for lists, of indexes from 0. The result is
//! null if the document is not JSON, if the path does not exist, or if the value has another type.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array};
use arrow::datatypes::DataType;
use busbar_event::{Class, Error};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::topic_part::text_or_dictionary;
use super::usage::misused;
use crate::budget::told;
use crate::dictionary::map_texts;
use crate::limits::JSON_PATH_STEPS_MAX;

/// What is made of the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wanted {
    Text,
    Bool,
    Float,
    Int,
}

pub(super) fn function(name: &'static str, wanted: Wanted) -> ScalarUDF {
    ScalarUDF::new_from_impl(JsonGet {
        name,
        wanted,
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct JsonGet {
    name: &'static str,
    wanted: Wanted,
    signature: Signature,
}

impl ScalarUDFImpl for JsonGet {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let [document, path] = arguments else {
            return Err(misused(self.name));
        };
        let document = match document {
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
                Some(DataType::Binary)
            }
            other => text_or_dictionary(other),
        };
        match (document, text_or_dictionary(path)) {
            (Some(document), Some(_)) => Ok(vec![document, DataType::Utf8]),
            _ => Err(misused(self.name)),
        }
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(match self.wanted {
            Wanted::Text => DataType::Utf8,
            Wanted::Bool => DataType::Boolean,
            Wanted::Float => DataType::Float64,
            Wanted::Int => DataType::Int64,
        })
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [documents, path] = &call.args[..] else {
            return Err(misused(self.name));
        };
        let path = match path {
            ColumnarValue::Scalar(ScalarValue::Utf8(path)) => path.clone(),
            _ => return Err(misused(self.name)),
        };
        let steps: Vec<&str> = match &path {
            Some(path) if !path.is_empty() => path.split('.').collect(),
            _ => Vec::new(),
        };
        if steps.len() > JSON_PATH_STEPS_MAX {
            return Err(told(
                Error::new(Class::Configuration, "sql.path-steps")
                    .with("function", self.name)
                    .with("most", JSON_PATH_STEPS_MAX),
            ));
        }
        let is_scalar = matches!(documents, ColumnarValue::Scalar(_));
        let documents = documents.to_array(if is_scalar { 1 } else { call.number_rows })?;
        let found = self.find(&documents, &steps)?;
        Ok(match is_scalar {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&found, 0)?),
            false => ColumnarValue::Array(found),
        })
    }
}

impl JsonGet {
    fn find(&self, documents: &ArrayRef, steps: &[&str]) -> Result<ArrayRef> {
        if self.wanted == Wanted::Text {
            return map_texts(documents, |document| text_of(find(document, steps)?));
        }
        // Each value is found once a distinct document, in the order of the rows.
        let mut bools = Vec::new();
        let mut floats = Vec::new();
        let mut ints = Vec::new();
        let documents = match documents.data_type() {
            DataType::Dictionary(_, value) => arrow::compute::cast(documents, value)?,
            _ => Arc::clone(documents),
        };
        let wanted = self.wanted;
        let mut rows = 0;
        let mut add = |found: Option<Value>| {
            rows += 1;
            match wanted {
                Wanted::Bool => bools.push(found.and_then(|value| value.as_bool())),
                Wanted::Float => floats.push(found.and_then(|value| float_of(&value))),
                Wanted::Int => ints.push(found.and_then(|value| int_of(&value))),
                Wanted::Text => {}
            }
        };
        match documents.data_type() {
            DataType::Binary => {
                let documents = datafusion_common::cast::as_binary_array(&documents)?;
                documents
                    .iter()
                    .for_each(|document| add(document.and_then(|d| find(d, steps))));
            }
            _ => {
                let documents = datafusion_common::cast::as_string_array(&documents)?;
                documents
                    .iter()
                    .for_each(|document| add(document.and_then(|d| find(d.as_bytes(), steps))));
            }
        }
        Ok(match wanted {
            Wanted::Bool => Arc::new(BooleanArray::from(bools)),
            Wanted::Int => Arc::new(Int64Array::from(ints)),
            _ => Arc::new(Float64Array::from(floats)),
        })
    }
}

fn text_of(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

fn float_of(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    }
}

fn int_of(value: &Value) -> Option<i64> {
    match value {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_i64(),
    }
}

/// The value at a path. What stands beside the path is skipped, not built.
fn find(document: &[u8], steps: &[&str]) -> Option<Value> {
    let mut reader = serde_json::Deserializer::from_slice(document);
    let found = Path(steps).deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    found
}

struct Path<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for Path<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        match self.0 {
            [] => serde::Deserialize::deserialize(reader).map(Some),
            _ => reader.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Path<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON document")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if found.is_none() && *key == *self.0[0] {
                found = map.next_value_seed(Path(&self.0[1..]))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let wanted: Option<usize> = self.0[0].parse().ok();
        let mut found = None;
        let mut at = 0;
        loop {
            if Some(at) == wanted {
                match list.next_element_seed(Path(&self.0[1..]))? {
                    None => return Ok(found),
                    Some(value) => found = value,
                }
            } else if list.next_element::<IgnoredAny>()?.is_none() {
                return Ok(found);
            }
            at += 1;
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_into_documents() {
        let document = br#"{"a": {"b": [10, {"c": "x"}]}, "n": null, "s": "7.5", "a.b": 1}"#;
        let text = |path: &str| {
            let steps: Vec<&str> = path.split('.').collect();
            find(document, &steps).and_then(text_of)
        };
        assert_eq!(text("a.b.0").as_deref(), Some("10"));
        assert_eq!(text("a.b.1.c").as_deref(), Some("x"));
        assert_eq!(text("a.b.1").as_deref(), Some(r#"{"c":"x"}"#));
        assert_eq!(text("a.b.2"), None);
        assert_eq!(text("a.b.x"), None);
        assert_eq!(text("n"), None);
        assert_eq!(text("s.t"), None);
        assert_eq!(find(document, &["s"]).and_then(|v| float_of(&v)), Some(7.5));
        assert!(find(b"{\"a\": 1", &["a"]).is_none());
        assert!(find(b"{\"a\": 1} x", &["a"]).is_none());
        assert!(find(&[0xff, 0xfe], &["a"]).is_none());
        assert!(find("[".repeat(100_000).as_bytes(), &["a"]).is_none());
    }
}
