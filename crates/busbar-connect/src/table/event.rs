//! Rows of a table as events.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{Field, Fields};
use arrow::util::display::array_value_to_string;
use busbar_change::event::column_name;
use busbar_connector::ColumnType;
use busbar_event::format::{FieldSpec, FieldType, encode_json};
use busbar_event::{BatchBuilder, Class, Error, Flags, Micros, Row};

use super::limits::{BATCH_BYTES, BATCH_ROWS, WRITTEN_BYTES};

/// Rows of one table on their way to events.
pub(super) struct RowEvents {
    topic: String,
    key: Vec<String>,
    builder: BatchBuilder,
}

/// What is said of a row besides its columns.
pub(super) struct EventAbout<'a> {
    pub time: Micros,
    /// Who has written it, where that is to be seen.
    pub producer: Option<&'a str>,
}

impl RowEvents {
    pub fn new(topic: String, key: Vec<String>) -> RowEvents {
        RowEvents {
            topic,
            key,
            builder: BatchBuilder::new(),
        }
    }

    /// Whether so much has come that it is to be handed on.
    pub fn is_full(&self) -> bool {
        self.builder.bytes() >= BATCH_BYTES || self.builder.rows() >= BATCH_ROWS
    }

    /// Whether nothing has come.
    pub fn is_empty(&self) -> bool {
        self.builder.is_empty()
    }

    /// What has come.
    pub fn take(&mut self) -> busbar_event::Batch {
        self.builder.finish()
    }

    /// Says that all rows are gone.
    pub fn truncate(&mut self, time: Micros) {
        let mut payload = Vec::new();
        busbar_change::event::truncate(&mut payload);
        self.push(
            None,
            &payload,
            &EventAbout {
                time,
                producer: None,
            },
        );
    }

    /// Adds rows, each with what is done with it.
    pub fn rows(
        &mut self,
        rows: &RecordBatch,
        changes: &[&str],
        about: &EventAbout<'_>,
    ) -> Result<(), Error> {
        let keys = self.keys(rows)?;
        let payloads = payloads(rows, changes)?;
        for (row, payload) in payloads.iter().enumerate() {
            self.push(Some(&keys[row]), payload.unwrap_or_default(), about);
        }
        Ok(())
    }

    fn keys(&self, rows: &RecordBatch) -> Result<Vec<String>, Error> {
        let columns = self.key.iter().filter_map(|name| rows.column_by_name(name));
        let columns: Vec<&ArrayRef> = columns.collect();
        let text = |row: usize| {
            let values = columns.iter();
            let values = values.map(|column| array_value_to_string(column.as_ref(), row));
            let values = values.collect::<Result<Vec<_>, _>>().map_err(unfit)?;
            Ok(values.join(","))
        };
        (0..rows.num_rows()).map(text).collect()
    }

    fn push(&mut self, key: Option<&str>, payload: &[u8], about: &EventAbout<'_>) {
        let topic = self.builder.topic_id(&self.topic);
        let tags = about.producer.map(|producer| [("producer", producer)]);
        self.builder.push(Row {
            topic,
            key,
            time: about.time,
            client: None,
            flags: Flags::default().with_qos(1).with_utf8(true),
            tags: tags.as_ref().map_or(&[], |tags| tags),
            payload,
        });
    }
}

/// Rows in pieces that can be written as events at a time.
pub(super) fn pieces(rows: &RecordBatch) -> impl Iterator<Item = (usize, RecordBatch)> + '_ {
    let count = rows.num_rows();
    let each = rows.get_array_memory_size() / count.max(1) + 1;
    let most = (WRITTEN_BYTES / each).clamp(1, BATCH_ROWS);
    (0..count)
        .step_by(most)
        .map(move |from| (from, rows.slice(from, most.min(count - from))))
}

/// The rows whose places are true.
pub(super) fn only(rows: &RecordBatch, keep: &BooleanArray) -> Result<RecordBatch, Error> {
    arrow::compute::filter_record_batch(rows, keep).map_err(unfit)
}

fn payloads(rows: &RecordBatch, changes: &[&str]) -> Result<arrow::array::BinaryArray, Error> {
    let mut fields = vec![Arc::new(FieldSpec::new("change", FieldType::Text).field())];
    let mut columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(changes.to_vec()))];
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        let name = column_name(field.name());
        let field = match ColumnType::of(field) {
            Some(ColumnType::Json) => FieldSpec::new(name, FieldType::Json).field(),
            _ => Field::new(name, field.data_type().clone(), true),
        };
        fields.push(Arc::new(field));
        columns.push(Arc::clone(column));
    }
    let rows = StructArray::try_new(Fields::from(fields), columns, None).map_err(unfit)?;
    Ok(encode_json(&rows))
}

fn unfit(cause: arrow::error::ArrowError) -> Error {
    Error::new(Class::Permanent, "table.columns").caused_by(cause)
}
