//! Shapes that several resources answer with.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Schema, TimeUnit};
use serde::Serialize;
use utoipa::ToSchema;

/// An event as it is read.
#[derive(Serialize, ToSchema)]
pub(crate) struct EventView {
    /// Where it belongs.
    pub(crate) topic: String,
    /// Its key; absent when it has none.
    pub(crate) key: Option<String>,
    /// When it happened.
    pub(crate) time: String,
    /// Names and values; absent when it has none.
    pub(crate) tags: Option<BTreeMap<String, String>>,
    /// Who published it.
    pub(crate) client: Option<String>,
    /// The payload: JSON when it is JSON, else its text.
    #[schema(value_type = serde_json::Value, required = false)]
    pub(crate) payload: Option<serde_json::Value>,
    /// The payload, when it is not text.
    pub(crate) payload_base64: Option<String>,
    /// The stream that holds it.
    pub(crate) stream: String,
    /// The partition of the stream.
    pub(crate) partition: u16,
    /// Its place in the partition.
    pub(crate) offset: u64,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Field {
    /// Its name.
    pub(crate) name: String,
    /// Its type, in words of SQL.
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

/// The columns of a schema.
pub(crate) fn fields(schema: &Schema) -> Vec<Field> {
    schema
        .fields()
        .iter()
        .map(|field| Field {
            name: field.name().clone(),
            kind: type_name(field.data_type()),
        })
        .collect()
}

/// A type as people write it.
pub(crate) fn type_name(kind: &DataType) -> String {
    match kind {
        DataType::Boolean => "bool".into(),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => "int".into(),
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => "uint".into(),
        DataType::Float16 | DataType::Float32 | DataType::Float64 => "float".into(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".into(),
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => "binary".into(),
        DataType::Timestamp(
            TimeUnit::Microsecond | TimeUnit::Nanosecond | TimeUnit::Millisecond | TimeUnit::Second,
            _,
        ) => "time".into(),
        DataType::Date32 | DataType::Date64 => "date".into(),
        DataType::Decimal128(_, _) | DataType::Decimal256(_, _) => "decimal".into(),
        DataType::Dictionary(_, values) => type_name(values),
        DataType::List(item) | DataType::LargeList(item) => {
            format!("list of {}", type_name(item.data_type()))
        }
        DataType::Map(_, _) => "map".into(),
        DataType::Struct(fields) => {
            let inner: Vec<String> = fields
                .iter()
                .map(|field| format!("{} {}", field.name(), type_name(field.data_type())))
                .collect();
            format!("struct({})", inner.join(", "))
        }
        other => other.to_string().to_lowercase(),
    }
}
