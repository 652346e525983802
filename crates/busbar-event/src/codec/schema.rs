//! The schema message of typed columns, written by Arrow and checked by us before Arrow reads it,
//! because Arrow's conversion panics at what it does not know.

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};
use arrow::ipc;
use arrow::ipc::convert::IpcSchemaEncoder;
use arrow::ipc::writer::DictionaryTracker;
use flatbuffers::FlatBufferBuilder;

use super::{HAS_CLIENT, HAS_KEY, HAS_TAGS, damaged};
use crate::limits::{COLUMN_DEPTH_MAX, COLUMNS_MAX};
use crate::{Result, envelope};

/// The metadata of the schema message for these typed columns.
pub(super) fn to_message(columns: &Fields, present: u8) -> Vec<u8> {
    let value = Field::new("value", DataType::Struct(columns.clone()), false);
    let fields: Vec<FieldRef> = [
        Some(&envelope::TOPIC),
        (present & HAS_KEY != 0).then_some(&envelope::KEY),
        Some(&envelope::TIME),
        (present & HAS_TAGS != 0).then_some(&envelope::TAGS),
        (present & HAS_CLIENT != 0).then_some(&envelope::CLIENT),
        Some(&envelope::FLAGS),
    ]
    .into_iter()
    .flatten()
    .map(|field| FieldRef::clone(field))
    .chain([FieldRef::new(value)])
    .collect();
    let mut builder = FlatBufferBuilder::new();
    let mut tracker = DictionaryTracker::new(false);
    let schema = IpcSchemaEncoder::new()
        .with_dictionary_tracker(&mut tracker)
        .schema_to_fb_offset(&mut builder, &Schema::new(fields));
    let message = ipc::Message::create(
        &mut builder,
        &ipc::MessageArgs {
            version: ipc::MetadataVersion::V5,
            header_type: ipc::MessageHeader::Schema,
            header: Some(schema.as_union_value()),
            bodyLength: 0,
            custom_metadata: None,
        },
    );
    builder.finish(message, None);
    builder.finished_data().to_vec()
}

/// The typed columns that a schema message declares.
pub(super) fn columns(schema: ipc::Schema<'_>) -> Result<Fields> {
    let fields = schema
        .fields()
        .ok_or_else(|| damaged("schema without fields"))?;
    if fields.is_empty() {
        return Err(damaged("schema without fields"));
    }
    if schema.endianness() != ipc::Endianness::Little {
        return Err(damaged("byte order"));
    }
    let value = fields.get(fields.len() - 1);
    if value.type_type() != ipc::Type::Struct_ {
        return Err(damaged("typed columns"));
    }
    check(&value, 0, &mut 0)?;
    match Field::from(value).data_type() {
        DataType::Struct(columns) => Ok(columns.clone()),
        _ => Err(damaged("typed columns")),
    }
}

/// Checks that a field is one that we write, so that Arrow can convert it.
fn check(field: &ipc::Field<'_>, depth: usize, seen: &mut usize) -> Result<()> {
    *seen += 1;
    if depth > COLUMN_DEPTH_MAX || *seen > COLUMNS_MAX {
        return Err(damaged("too many columns"));
    }
    let unit = |unit: ipc::TimeUnit| (0..=3).contains(&unit.0);
    let children = field.children();
    let count = children.map_or(0, |children| children.len());
    let good = field.dictionary().is_none()
        && match field.type_type() {
            ipc::Type::Null | ipc::Type::Bool | ipc::Type::Utf8 | ipc::Type::Binary => true,
            ipc::Type::Int => field
                .type_as_int()
                .is_some_and(|int| matches!(int.bitWidth(), 8 | 16 | 32 | 64)),
            ipc::Type::FloatingPoint => field.type_as_floating_point().is_some_and(|float| {
                matches!(
                    float.precision(),
                    ipc::Precision::SINGLE | ipc::Precision::DOUBLE
                )
            }),
            ipc::Type::Date => field.type_as_date().is_some_and(|date| {
                matches!(date.unit(), ipc::DateUnit::DAY | ipc::DateUnit::MILLISECOND)
            }),
            ipc::Type::Time => field.type_as_time().is_some_and(|time| {
                matches!((time.bitWidth(), time.unit().0), (32, 0 | 1) | (64, 2 | 3))
            }),
            ipc::Type::Timestamp => field
                .type_as_timestamp()
                .is_some_and(|time| unit(time.unit())),
            ipc::Type::Duration => field
                .type_as_duration()
                .is_some_and(|time| unit(time.unit())),
            ipc::Type::Decimal => field.type_as_decimal().is_some_and(|decimal| {
                decimal.bitWidth() == 128
                    && (1..=38).contains(&decimal.precision())
                    && (-38..=decimal.precision()).contains(&decimal.scale())
            }),
            ipc::Type::List => field.type_as_list().is_some() && count == 1,
            ipc::Type::Map => field.type_as_map().is_some() && count == 1,
            ipc::Type::Struct_ => true,
            _ => false,
        };
    if !good {
        return Err(damaged("column type"));
    }
    let Some(children) = children else {
        return Ok(());
    };
    children
        .iter()
        .try_for_each(|child| check(&child, depth + 1, seen))
}
