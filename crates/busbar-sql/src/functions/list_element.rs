//! `list[n]`: an element of a list. The first is 1, the last is -1; null if there is none.

use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, UInt64Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Int64Type};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::usage::misused;

pub(super) fn function() -> ScalarUDF {
    ScalarUDF::new_from_impl(ListElement {
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ListElement {
    signature: Signature,
}

impl ScalarUDFImpl for ListElement {
    fn name(&self) -> &str {
        "list_element"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [list @ DataType::List(_), index] if index.is_integer() => {
                Ok(vec![list.clone(), DataType::Int64])
            }
            _ => Err(misused("list_element")),
        }
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments.first() {
            Some(DataType::List(element)) => Ok(element.data_type().clone()),
            _ => Err(misused("list_element")),
        }
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [lists, indexes] = &call.args[..] else {
            return Err(misused("list_element"));
        };
        let constant = [lists, indexes]
            .iter()
            .all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { call.number_rows };
        let lists = lists.to_array(rows)?;
        let Some(lists) = lists.as_list_opt::<i32>() else {
            return Err(misused("list_element"));
        };
        let indexes = cast(&indexes.to_array(rows)?, &DataType::Int64)?;
        let indexes: &Int64Array = indexes.as_primitive::<Int64Type>();
        let places = (0..rows).map(|row| {
            if lists.is_null(row) || indexes.is_null(row) {
                return None;
            }
            let length = i64::from(lists.value_length(row));
            let place = match indexes.value(row) {
                0 => return None,
                index if index > 0 => index - 1,
                index => length.checked_add(index)?,
            };
            let first = i64::from(lists.value_offsets()[row]);
            (0..length)
                .contains(&place)
                .then_some(u64::try_from(first + place).ok())?
        });
        let places: UInt64Array = places.collect();
        let elements = take(lists.values(), &places, None)?;
        Ok(match constant {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&elements, 0)?),
            false => ColumnarValue::Array(Arc::clone(&elements)),
        })
    }
}
