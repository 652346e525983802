//! Rows that a database sends as texts, as columns.

use std::sync::Arc;

use arrow::array::{
    ArrayBuilder, ArrayRef, BinaryBuilder, BooleanBuilder, Float64Builder, Int64Builder,
    RecordBatch, RecordBatchOptions, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, SchemaRef};
use busbar_event::{Class, Error, time};

/// Columns that are being built from texts.
pub struct TextColumns {
    schema: SchemaRef,
    builders: Vec<TextBuilder>,
    rows: usize,
    bytes: usize,
}

enum TextBuilder {
    Bool(BooleanBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    Text(StringBuilder),
    Time(TimestampMicrosecondBuilder),
    Binary(BinaryBuilder),
}

impl TextColumns {
    /// Columns of the types that tables have.
    pub fn new(schema: SchemaRef) -> TextColumns {
        let builder = |field: &Arc<Field>| match field.data_type() {
            DataType::Boolean => TextBuilder::Bool(BooleanBuilder::new()),
            DataType::Int64 => TextBuilder::Int(Int64Builder::new()),
            DataType::Float64 => TextBuilder::Float(Float64Builder::new()),
            DataType::Timestamp(..) => TextBuilder::Time(TimestampMicrosecondBuilder::new()),
            DataType::Binary => TextBuilder::Binary(BinaryBuilder::new()),
            _ => TextBuilder::Text(StringBuilder::new()),
        };
        TextColumns {
            builders: schema.fields().iter().map(builder).collect(),
            schema,
            rows: 0,
            bytes: 0,
        }
    }

    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Whole rows so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of the values so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the values of a row; those that it lacks are null. Whole numbers and floating-point numbers are in digits, truth
    /// values `t`, `f`, `true`, `false`, `1` or `0`, times as `2024-05-06 07:08:09.5` in UTC or with their offset, bytes as they
    /// are.
    ///
    /// # Errors
    /// *Permanent*: a value that the type of its column cannot hold.
    pub fn push<'a>(
        &mut self,
        row: impl IntoIterator<Item = Option<&'a [u8]>>,
    ) -> Result<(), Error> {
        let mut values = row.into_iter();
        for (builder, field) in self.builders.iter_mut().zip(self.schema.fields()) {
            let value = values.next().flatten();
            self.bytes += value.map_or(0, <[u8]>::len) + 8;
            if builder.push(value).is_none() {
                let value = value.unwrap_or_default();
                return Err(Error::new(Class::Permanent, "database.value")
                    .with("column", field.name())
                    .with(
                        "value",
                        busbar_event::quote(&String::from_utf8_lossy(value)),
                    ));
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// The rows so far; what follows begins anew.
    ///
    /// # Errors
    /// *Permanent*, after a row that was refused.
    pub fn finish(&mut self) -> Result<RecordBatch, Error> {
        let columns: Vec<ArrayRef> = self.builders.iter_mut().map(TextBuilder::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        (self.rows, self.bytes) = (0, 0);
        let schema = Arc::clone(&self.schema);
        RecordBatch::try_new_with_options(schema, columns, &options)
            .map_err(|cause| Error::new(Class::Permanent, "database.rows").caused_by(cause))
    }
}

impl TextBuilder {
    /// None for a text that is no value of the type.
    fn push(&mut self, value: Option<&[u8]>) -> Option<()> {
        fn parsed<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
            std::str::from_utf8(value).ok()?.trim().parse().ok()
        }
        let Some(value) = value else {
            match self {
                TextBuilder::Bool(builder) => builder.append_null(),
                TextBuilder::Int(builder) => builder.append_null(),
                TextBuilder::Float(builder) => builder.append_null(),
                TextBuilder::Text(builder) => builder.append_null(),
                TextBuilder::Time(builder) => builder.append_null(),
                TextBuilder::Binary(builder) => builder.append_null(),
            }
            return Some(());
        };
        match self {
            TextBuilder::Bool(builder) => builder.append_value(match value {
                b"t" | b"true" | b"TRUE" | b"1" => true,
                b"f" | b"false" | b"FALSE" | b"0" => false,
                _ => return None,
            }),
            TextBuilder::Int(builder) => builder.append_value(parsed(value)?),
            TextBuilder::Float(builder) => builder.append_value(parsed(value)?),
            TextBuilder::Text(builder) => builder.append_value(std::str::from_utf8(value).ok()?),
            TextBuilder::Time(builder) => builder.append_value(micros(value)?),
            TextBuilder::Binary(builder) => builder.append_value(value),
        }
        Some(())
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            TextBuilder::Bool(builder) => ArrayBuilder::finish(builder),
            TextBuilder::Int(builder) => ArrayBuilder::finish(builder),
            TextBuilder::Float(builder) => ArrayBuilder::finish(builder),
            TextBuilder::Text(builder) => ArrayBuilder::finish(builder),
            TextBuilder::Time(builder) => Arc::new(builder.finish().with_timezone("UTC")),
            TextBuilder::Binary(builder) => ArrayBuilder::finish(builder),
        }
    }
}

/// `2024-05-06 07:08:09.5`, with an offset such as `+00`, `+08:00` or `Z`, or in UTC without one; also a date alone.
fn micros(value: &[u8]) -> Option<i64> {
    // The longest: a date, a time with 9 digits, and an offset.
    let mut text = [0_u8; 48];
    let length = value.len();
    if length > text.len() - 10 || length < 10 {
        return None;
    }
    text[..length].copy_from_slice(value);
    let mut end = length;
    if length == 10 {
        text[10..20].copy_from_slice(b"T00:00:00Z");
        return time::parse_bytes(&text[..20]);
    }
    if text[10] == b' ' {
        text[10] = b'T';
    }
    let zone = text[11..end]
        .iter()
        .rposition(|byte| !(byte.is_ascii_digit() || *byte == b':'));
    match zone.map(|at| (at + 11, text[at + 11])) {
        Some((_, b'Z')) => {}
        // An offset of hours alone.
        Some((at, b'+' | b'-')) if end - at == 3 => {
            text[end..end + 3].copy_from_slice(b":00");
            end += 3;
        }
        Some((_, b'+' | b'-')) => {}
        _ => {
            text[end] = b'Z';
            end += 1;
        }
    }
    time::parse_bytes(&text[..end])
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Float64Type, Int64Type, Schema, TimestampMicrosecondType};
    use busbar_table::ColumnType;

    use super::*;

    fn schema() -> SchemaRef {
        let kinds = [
            ColumnType::Bool,
            ColumnType::Int,
            ColumnType::Float,
            ColumnType::Text,
            ColumnType::Time,
            ColumnType::Binary,
        ];
        let fields = kinds.iter().map(|kind| kind.field(kind.word()));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    #[test]
    fn texts_become_values_of_their_columns() {
        let mut columns = TextColumns::new(schema());
        let row: [&[u8]; 6] = [
            b"t",
            b"-9223372036854775808",
            b"1.5e3",
            "雨".as_bytes(),
            b"2024-05-06 07:08:09.5+00",
            b"\x00\xff",
        ];
        columns.push(row.map(Some)).unwrap();
        columns.push([]).unwrap();
        assert_eq!(columns.rows(), 2);
        let batch = columns.finish().unwrap();
        assert!(batch.column(0).as_boolean().value(0));
        assert_eq!(
            batch.column(1).as_primitive::<Int64Type>().value(0),
            i64::MIN
        );
        assert_eq!(
            batch.column(2).as_primitive::<Float64Type>().value(0),
            1500.0
        );
        assert_eq!(batch.column(3).as_string::<i32>().value(0), "雨");
        assert_eq!(
            batch
                .column(4)
                .as_primitive::<TimestampMicrosecondType>()
                .value(0),
            1_714_979_289_500_000
        );
        assert_eq!(batch.column(5).as_binary::<i32>().value(0), b"\x00\xff");
        for column in batch.columns() {
            assert!(column.is_null(1));
        }
        assert_eq!((columns.rows(), columns.bytes()), (0, 0));
    }

    #[test]
    fn times_are_read_with_and_without_offset() {
        for (text, expected) in [
            ("1970-01-01", Some(0)),
            ("1970-01-01 00:00:01", Some(1_000_000)),
            ("1970-01-01T08:00:00+08", Some(0)),
            ("1970-01-01 08:00:00.000001+08:00", Some(1)),
            ("1969-12-31 16:00:00-08", Some(0)),
            ("1970-01-01T00:00:00.25Z", Some(250_000)),
            ("0000-00-00 00:00:00", None),
            ("infinity", None),
            ("0044-03-15 12:00:00 BC", None),
        ] {
            assert_eq!(micros(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_value_of_another_kind_is_named() {
        let mut columns = TextColumns::new(schema());
        let refused = columns
            .push([None, Some(&b"18446744073709551615"[..])])
            .unwrap_err();
        assert_eq!(
            (refused.code(), refused.class()),
            ("database.value", Class::Permanent)
        );
        assert!(
            refused
                .args()
                .iter()
                .any(|(_, value)| value.contains("int"))
        );
    }
}
