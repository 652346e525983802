//! The columns that queries see of a stream's events.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use crate::envelope::{KEY, PAYLOAD, TAGS, TIME, TOPIC};

/// Names of the columns that every stream has, in their order. No column of a payload has one of them.
pub const RELATION_COLUMNS: [&str; 6] = ["topic", "key", "time", "tags", "partition", "offset"];

static PARTITION: LazyLock<FieldRef> =
    LazyLock::new(|| Arc::new(Field::new("partition", DataType::Int64, false)));
static OFFSET: LazyLock<FieldRef> =
    LazyLock::new(|| Arc::new(Field::new("offset", DataType::Int64, false)));

/// The relation of a stream: [`RELATION_COLUMNS`], then the columns of its payloads, or `payload` where
/// they have none.
pub fn relation_schema(columns: Option<&SchemaRef>) -> SchemaRef {
    let envelope = [&TOPIC, &KEY, &TIME, &TAGS, &PARTITION, &OFFSET];
    let mut fields: Vec<FieldRef> = envelope.iter().map(|field| Arc::clone(field)).collect();
    match columns {
        None => fields.push(Arc::clone(&PAYLOAD)),
        Some(columns) => {
            let own = columns.fields().iter();
            fields.extend(
                own.filter(|field| !is_relation_column(field.name()))
                    .cloned(),
            );
        }
    }
    Arc::new(Schema::new(fields))
}

/// Whether every stream has a column of this name.
pub fn is_relation_column(name: &str) -> bool {
    RELATION_COLUMNS.contains(&name)
}
