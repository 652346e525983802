//! `a || b`: concatenates two texts; null if one of them is.
//!
//! It replaces DataFusion's operator, so that its result is bounded as that of every function is.

use std::sync::Arc;

use arrow::array::{Array, AsArray, StringArray};
use arrow::compute::kernels::concat_elements::concat_elements_utf8;
use arrow::datatypes::DataType;
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::topic_part::text_or_dictionary;
use super::usage::misused;

pub(super) fn function() -> ScalarUDF {
    ScalarUDF::new_from_impl(ConcatTexts {
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ConcatTexts {
    signature: Signature,
}

impl ScalarUDFImpl for ConcatTexts {
    fn name(&self) -> &str {
        "||"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let [left, right] = arguments else {
            return Err(misused("||"));
        };
        let fits = |data_type: &DataType| {
            text_or_dictionary(data_type).is_some()
                || data_type.is_numeric()
                || data_type.is_temporal()
                || *data_type == DataType::Boolean
        };
        match fits(left) && fits(right) {
            true => Ok(vec![DataType::Utf8; 2]),
            false => Err(misused("||")),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [left, right] = &call.args[..] else {
            return Err(misused("||"));
        };
        let constant = [left, right]
            .iter()
            .all(|side| matches!(side, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { call.number_rows };
        let text = |side: &ColumnarValue| -> Result<StringArray> {
            Ok(side.to_array(rows)?.as_string::<i32>().clone())
        };
        let joined = concat_elements_utf8(&text(left)?, &text(right)?)?;
        debug_assert_eq!(joined.len(), rows);
        Ok(match constant {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&joined, 0)?),
            false => ColumnarValue::Array(Arc::new(joined)),
        })
    }
}
