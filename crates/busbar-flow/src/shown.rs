//! Payloads and rows as JSON, as people are shown them and tests compare them.

use arrow::array::{Array, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field, Fields};
use busbar_event::format::encode_json;
use busbar_event::{Class, Error};
use serde_json::Value as Json;

use crate::reader::plain;

/// A payload as JSON; as text where it is none.
pub(crate) fn parsed(payload: &[u8]) -> Json {
    serde_json::from_slice(payload)
        .unwrap_or_else(|_| Json::String(String::from_utf8_lossy(payload).into_owned()))
}

/// Rows as JSON objects.
pub(crate) fn objects(rows: &RecordBatch) -> Result<Vec<Json>, Error> {
    let mut fields: Vec<Field> = Vec::new();
    let mut arrays = Vec::new();
    for (field, array) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        if !matches!(field.data_type(), DataType::Map(..)) {
            let array = plain(array)?;
            fields.push(
                field
                    .as_ref()
                    .clone()
                    .with_data_type(array.data_type().clone()),
            );
            arrays.push(array);
        }
    }
    if arrays.is_empty() {
        return Ok(vec![Json::Object(Default::default()); rows.num_rows()]);
    }
    let structs = StructArray::try_new(Fields::from(fields), arrays, None).map_err(|e| {
        Error::new(Class::Permanent, "flow.misfit")
            .with("column", "")
            .caused_by(e)
    })?;
    let encoded = encode_json(&structs);
    Ok((0..encoded.len())
        .map(|row| parsed(encoded.value(row)))
        .collect())
}
