//! Names within the types of an aggregate's state.
//!
//! DataFusion names the parts of some states by the places of the columns that they come from, and these are others where a
//! task reads fewer columns than the query was compiled for. In a state that is kept, parts are named by their own place, so
//! that it fits wherever the aggregation runs.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StructArray};
use arrow::datatypes::{DataType, FieldRef, Fields};

/// The type with its parts named by their place.
pub(super) fn placed(data_type: &DataType) -> DataType {
    let renamed = |field: &FieldRef, name: String| {
        let inner = placed(field.data_type());
        let field = field.as_ref().clone().with_name(name);
        Arc::new(field.with_data_type(inner).with_nullable(true))
    };
    match data_type {
        DataType::List(element) => DataType::List(renamed(element, "item".to_owned())),
        DataType::Struct(fields) => {
            let fields = fields.iter().enumerate();
            let fields = fields.map(|(place, field)| renamed(field, place.to_string()));
            DataType::Struct(fields.collect::<Fields>())
        }
        other => other.clone(),
    }
}

/// The array with the names of this type, which is its own but for names.
pub(super) fn named(array: &ArrayRef, data_type: &DataType) -> ArrayRef {
    if array.data_type() == data_type {
        return Arc::clone(array);
    }
    match (array.data_type(), data_type) {
        (DataType::List(_), DataType::List(element)) => {
            let list = array.as_list::<i32>();
            let values = named(list.values(), element.data_type());
            let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
            let renamed = ListArray::try_new(Arc::clone(element), offsets, values, nulls);
            renamed.map_or_else(|_| Arc::clone(array), |list| Arc::new(list))
        }
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let parts = array.as_struct();
            let columns = parts.columns().iter().zip(fields);
            let columns = columns.map(|(column, field)| named(column, field.data_type()));
            let nulls = parts.nulls().cloned();
            let (columns, rows) = (columns.collect(), parts.len());
            let renamed = StructArray::try_new_with_length(fields.clone(), columns, nulls, rows);
            renamed.map_or_else(|_| Arc::clone(array), |parts| Arc::new(parts))
        }
        _ => Arc::clone(array),
    }
}
