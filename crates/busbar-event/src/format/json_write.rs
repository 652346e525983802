//! Typed columns as JSON.

use arrow::array::{BinaryArray, StructArray};

/// Each row as a JSON object; a null is left out.
pub fn encode_json(columns: &StructArray) -> BinaryArray {
    use arrow::array::{Array, RecordBatch};
    (0..columns.len())
        .map(|row| {
            let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
            writer
                .write(&RecordBatch::from(columns.slice(row, 1)))
                .ok()?;
            let mut line = writer.into_inner();
            line.pop();
            Some(line)
        })
        .collect()
}
