//! Functions that make much text out of little, within a bound.
//!
//! `repeat('x', 1000000000)` is a short text and a long answer, and the memory of a function's result is
//! taken before any operator counts it. So the size of the result is worked out beforehand.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray as _, Int64Array};
use arrow::compute::cast;
use arrow::compute::kernels::length::length;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use crate::limits::FUNCTION_RESULT_BYTES_MAX;

/// The function with a bound, where it is one that needs it.
pub(crate) fn bounded(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    let grows = match function.name() {
        "lpad" | "rpad" => Grows::Pad,
        "regexp_replace" => Grows::Everywhere,
        "repeat" => Grows::Times,
        "replace" => Grows::Replace,
        _ => return function,
    };
    Arc::new(ScalarUDF::new_from_impl(Bounded {
        inner: function,
        grows,
    }))
}

/// How the result grows with the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Grows {
    /// As long as the second argument says, in characters.
    Pad,
    /// The first argument, as often as the second says.
    Times,
    /// The third argument for each of the second in the first.
    Replace,
    /// The third argument, which may repeat what it replaces, at each byte of the first.
    Everywhere,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    grows: Grows,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arguments)
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let bytes = self.result_bytes(&call)?;
        if bytes > FUNCTION_RESULT_BYTES_MAX {
            return exec_err!(
                "the result of '{}' would take {bytes} bytes; at most {FUNCTION_RESULT_BYTES_MAX} are allowed",
                self.name()
            );
        }
        self.inner.invoke_with_args(call)
    }
}

impl Bounded {
    /// Bytes that the result takes at most.
    fn result_bytes(&self, call: &ScalarFunctionArgs) -> Result<u64> {
        let constant = call
            .args
            .iter()
            .all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { call.number_rows };
        let numbers = |at: usize| match (call.args.get(at), self.grows) {
            (None, _) => Ok(None),
            (Some(given), Grows::Pad | Grows::Times) if at == 1 => {
                counts(&column(given)?).map(Some)
            }
            (Some(given), _) => lengths(&column(given)?).map(Some),
        };
        let (first, second, third) = (numbers(0)?, numbers(1)?, numbers(2)?);
        let at = |numbers: &Option<Int64Array>, row: usize| {
            let Some(numbers) = numbers else { return 0 };
            let row = if numbers.len() == 1 { 0 } else { row };
            match row < numbers.len() && numbers.is_valid(row) {
                true => u64::try_from(numbers.value(row)).unwrap_or(0),
                false => 0,
            }
        };
        let mut bytes = 0_u64;
        for row in 0..rows {
            let (a, b, c) = (at(&first, row), at(&second, row), at(&third, row));
            let grown = match self.grows {
                // A character takes at most four bytes.
                Grows::Pad => b.saturating_mul(4),
                Grows::Times => a.saturating_mul(b),
                Grows::Replace => a.saturating_add((a / b.max(1) + 1).saturating_mul(c)),
                Grows::Everywhere => a.saturating_add((a + 1).saturating_mul(c)),
            };
            bytes = bytes.saturating_add(grown);
        }
        Ok(bytes)
    }
}

fn column(given: &ColumnarValue) -> Result<ArrayRef> {
    match given {
        ColumnarValue::Array(array) => Ok(Arc::clone(array)),
        ColumnarValue::Scalar(value) => value.to_array(),
    }
}

fn counts(array: &ArrayRef) -> Result<Int64Array> {
    Ok(cast(array, &DataType::Int64)?
        .as_primitive::<Int64Type>()
        .clone())
}

/// Bytes of each text.
fn lengths(array: &ArrayRef) -> Result<Int64Array> {
    let texts = match array.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Arc::clone(array),
        _ => cast(array, &DataType::Utf8)?,
    };
    counts(&length(&texts)?)
}
