//! What types the typed columns of a batch may have, and how others become these.

use std::sync::Arc;

use arrow::array::{Array, AsArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields};

use crate::limits::{COLUMN_DEPTH_MAX, COLUMNS_MAX};
use crate::{Class, Error, Result};

/// The columns with types that are stored: views and dictionaries become plain, the rest stays.
pub(crate) fn plain(columns: &StructArray) -> Result<StructArray> {
    check_columns(columns.data_type(), 0, &mut 0)?;
    let fields = columns.fields();
    let mut plain_fields: Vec<FieldRef> = Vec::with_capacity(fields.len());
    let mut same = true;
    for field in fields {
        let plain = plain_type(field.data_type()).ok_or_else(|| refuse(field))?;
        if &plain == field.data_type() {
            plain_fields.push(field.clone());
        } else {
            same = false;
            plain_fields.push(Arc::new(Field::clone(field).with_data_type(plain)));
        }
    }
    if same {
        return Ok(columns.clone());
    }
    let arrays = columns
        .columns()
        .iter()
        .zip(&plain_fields)
        .map(|(array, field)| {
            cast(array, field.data_type()).map_err(|error| refuse(field).caused_by(error))
        });
    let arrays = arrays.collect::<Result<Vec<_>>>()?;
    StructArray::try_new_with_length(
        Fields::from(plain_fields),
        arrays,
        columns.nulls().cloned(),
        columns.len(),
    )
    .map_err(|error| Error::new(Class::Permanent, "event.batch-mixed").caused_by(error))
}

/// How much memory the rows of a stored column take, in bytes, without what is shared with rows
/// sliced away.
pub(crate) fn bytes(array: &dyn Array) -> usize {
    let rows = array.len();
    let span = |offsets: &OffsetBuffer<i32>| {
        let first = offsets[0] as usize;
        (first, offsets[offsets.len() - 1] as usize - first)
    };
    let values = match array.data_type() {
        DataType::Boolean => rows.div_ceil(8),
        DataType::Utf8 => 4 * rows + span(array.as_string::<i32>().offsets()).1,
        DataType::Binary => 4 * rows + span(array.as_binary::<i32>().offsets()).1,
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (first, items) = span(list.offsets());
            4 * rows + bytes(&list.values().slice(first, items))
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let (first, pairs) = span(map.offsets());
            4 * rows + bytes(&map.entries().slice(first, pairs))
        }
        DataType::Struct(_) => array
            .as_struct()
            .columns()
            .iter()
            .map(|column| bytes(column))
            .sum(),
        fixed => rows * fixed.primitive_width().unwrap_or(0),
    };
    values + array.nulls().map_or(0, |_| rows.div_ceil(8))
}

fn refuse(field: &Field) -> Error {
    Error::new(Class::Permanent, "event.batch-column")
        .with("column", field.name())
        .with("type", field.data_type())
}

/// The stored type of a column of this type, or `None` if such columns are not stored.
pub(crate) fn plain_type(data_type: &DataType) -> Option<DataType> {
    use DataType::*;
    let nested = |field: &FieldRef| -> Option<FieldRef> {
        let plain = plain_type(field.data_type())?;
        Some(if &plain == field.data_type() {
            field.clone()
        } else {
            Arc::new(Field::clone(field).with_data_type(plain))
        })
    };
    Some(match data_type {
        Null | Boolean | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 => {
            data_type.clone()
        }
        Float32 | Float64 | Utf8 | Binary | Date32 | Date64 => data_type.clone(),
        Timestamp(..) | Time32(_) | Time64(_) | Duration(_) | Decimal128(..) => data_type.clone(),
        Float16 => Float32,
        Utf8View | LargeUtf8 => Utf8,
        BinaryView | LargeBinary => Binary,
        Dictionary(_, values) => plain_type(values)?,
        List(field) | LargeList(field) => List(nested(field)?),
        Struct(fields) => Struct(fields.iter().map(nested).collect::<Option<Fields>>()?),
        Map(entries, sorted) => Map(nested(entries)?, *sorted),
        _ => return None,
    })
}

/// Refuses columns that are too many or nested too deeply.
pub(crate) fn check_columns(data_type: &DataType, depth: usize, seen: &mut usize) -> Result<()> {
    *seen += 1;
    if depth > COLUMN_DEPTH_MAX || *seen > COLUMNS_MAX {
        return Err(Error::new(Class::Permanent, "event.columns-many")
            .with("columns", COLUMNS_MAX)
            .with("depth", COLUMN_DEPTH_MAX));
    }
    match data_type {
        DataType::Struct(fields) => fields
            .iter()
            .try_for_each(|field| check_columns(field.data_type(), depth + 1, seen)),
        DataType::List(field) | DataType::Map(field, _) => {
            check_columns(field.data_type(), depth + 1, seen)
        }
        _ => Ok(()),
    }
}
