//! Functions with bounded results.
//!
//! `repeat('x', 1000000000)` is a short text with a long result. If the size of a function's result is not in
//! proportion to its arguments, it is computed before the call. Each value and the result of each call are bounded,
//! and in a query the result is charged to the query's [`Budget`].

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray as _, Int64Array};
use arrow::compute::kernels::length::length;
use arrow::compute::{cast, concat};
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use busbar_event::{Class, Error};
use datafusion_common::config::ConfigOptions;
use datafusion_common::{ExprSchema, Result, ScalarValue};
use datafusion_expr::interval_arithmetic::Interval;
use datafusion_expr::preimage::PreimageResult;
use datafusion_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion_expr::{
    ColumnarValue, Documentation, Expr, ExpressionPlacement, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, StructFieldMapping,
};

use crate::budget::{Budget, told};
use crate::limits::{
    CONSTANT_BYTES_MAX, FUNCTION_HELD_BYTES_MIN, FUNCTION_RESULT_BYTES_MAX, PATTERN_ROWS,
    VALUE_BYTES_MAX,
};

/// The function with its bounds. Functions that only return their arguments need none.
pub(crate) fn bounded(function: Arc<ScalarUDF>, budget: Option<&Arc<Budget>>) -> Arc<ScalarUDF> {
    let grows = match function.name() {
        "arrow_cast" | "arrow_try_cast" | "coalesce" | "get_field" | "greatest" | "least"
        | "named_struct" | "nullif" | "nvl" | "nvl2" | "struct" => return function,
        "concat" | "concat_ws" | "||" => Grows::Sum,
        "lpad" | "rpad" => Grows::Pad,
        "regexp_replace" => Grows::Everywhere,
        "repeat" => Grows::Times,
        "replace" => Grows::Replace,
        _ => Grows::Little,
    };
    Arc::new(ScalarUDF::new_from_impl(Bounded {
        inner: function,
        grows,
        budget: budget.cloned(),
    }))
}

/// How the result grows with the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Grows {
    /// A few times the arguments at most.
    Little,
    /// All arguments together.
    Sum,
    /// The second argument is the length of the result in characters.
    Pad,
    /// The first argument, as many times as the second.
    Times,
    /// The third argument for each occurrence of the second in the first.
    Replace,
    /// The third argument, which may refer to what it replaces, at each byte of the first.
    Everywhere,
}

#[derive(Debug)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    grows: Grows,
    budget: Option<Arc<Budget>>,
}

/// Functions that differ only in their budget are equal.
impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner && self.grows == other.grows
    }
}

impl Eq for Bounded {}

impl Hash for Bounded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
        self.grows.hash(state);
    }
}

impl Bounded {
    fn function(&self) -> &dyn ScalarUDFImpl {
        self.inner.inner().as_ref()
    }
}

// Every method is delegated to the function, except for calls.
#[warn(clippy::missing_trait_methods)]
impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.function().name()
    }

    fn aliases(&self) -> &[String] {
        self.function().aliases()
    }

    fn display_name(&self, arguments: &[Expr]) -> Result<String> {
        #[expect(deprecated)]
        self.function().display_name(arguments)
    }

    fn schema_name(&self, arguments: &[Expr]) -> Result<String> {
        self.function().schema_name(arguments)
    }

    fn signature(&self) -> &Signature {
        self.function().signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.function().return_type(arguments)
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        self.function().with_updated_config(config)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.function().return_field_from_args(arguments)
    }

    fn is_nullable(&self, arguments: &[Expr], schema: &dyn ExprSchema) -> bool {
        #[expect(deprecated)]
        self.function().is_nullable(arguments, schema)
    }

    fn is_strict(&self) -> bool {
        self.function().is_strict()
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let Some(budget) = &self.budget {
            budget.check()?;
            if self.is_slow(&call) {
                return self.in_pieces(&call, budget);
            }
        }
        self.fits(self.result_bytes(&call)?)?;
        self.hold(self.function().invoke_with_args(call)?)
    }

    fn simplify(
        &self,
        arguments: Vec<Expr>,
        context: &SimplifyContext,
    ) -> Result<ExprSimplifyResult> {
        // It would become an operator, which is not bounded.
        if self.name().starts_with("regexp_")
            && !matches!(arguments.get(1), Some(Expr::Literal(..)))
        {
            return Ok(ExprSimplifyResult::Original(arguments));
        }
        self.function().simplify(arguments, context)
    }

    fn preimage(
        &self,
        arguments: &[Expr],
        literal: &Expr,
        context: &SimplifyContext,
    ) -> Result<PreimageResult> {
        self.function().preimage(arguments, literal, context)
    }

    fn short_circuits(&self) -> bool {
        self.function().short_circuits()
    }

    fn conditional_arguments<'a>(
        &self,
        arguments: &'a [Expr],
    ) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.function().conditional_arguments(arguments)
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> Result<Interval> {
        self.function().evaluate_bounds(input)
    }

    fn propagate_constraints(
        &self,
        interval: &Interval,
        inputs: &[&Interval],
    ) -> Result<Option<Vec<Interval>>> {
        self.function().propagate_constraints(interval, inputs)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.function().output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.function().preserves_lex_ordering(inputs)
    }

    fn strictly_order_preserving(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.function().strictly_order_preserving(inputs)
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.function().coerce_types(arguments)
    }

    fn struct_field_mapping(&self, literals: &[Option<ScalarValue>]) -> Option<StructFieldMapping> {
        self.function().struct_field_mapping(literals)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.function().documentation()
    }

    fn placement(&self, arguments: &[ExpressionPlacement]) -> ExpressionPlacement {
        self.function().placement(arguments)
    }
}

impl Bounded {
    fn fits(&self, bytes: u64) -> Result<()> {
        if bytes <= FUNCTION_RESULT_BYTES_MAX {
            return Ok(());
        }
        Err(told(
            Error::new(Class::Permanent, "sql.result-bytes")
                .with("function", self.name())
                .with("bytes", bytes)
                .with("most", FUNCTION_RESULT_BYTES_MAX),
        ))
    }

    /// Whether each row has a pattern of its own. Compiling them may take long, so it is done for a few at a time.
    fn is_slow(&self, call: &ScalarFunctionArgs) -> bool {
        self.name().starts_with("regexp_")
            && call.number_rows > PATTERN_ROWS
            && matches!(call.args.get(1), Some(ColumnarValue::Array(_)))
    }

    fn in_pieces(&self, call: &ScalarFunctionArgs, budget: &Arc<Budget>) -> Result<ColumnarValue> {
        let mut pieces: Vec<ArrayRef> = Vec::new();
        for from in (0..call.number_rows).step_by(PATTERN_ROWS) {
            budget.check()?;
            let rows = PATTERN_ROWS.min(call.number_rows - from);
            let piece = ScalarFunctionArgs {
                args: call
                    .args
                    .iter()
                    .map(|argument| match argument {
                        ColumnarValue::Array(array) => {
                            ColumnarValue::Array(array.slice(from, rows))
                        }
                        scalar => scalar.clone(),
                    })
                    .collect(),
                arg_fields: call.arg_fields.clone(),
                number_rows: rows,
                return_field: Arc::clone(&call.return_field),
                config_options: Arc::clone(&call.config_options),
            };
            self.fits(self.result_bytes(&piece)?)?;
            let made = self.function().invoke_with_args(piece)?;
            pieces.push(budget.hold(made.into_array(rows)?)?);
        }
        let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
        self.hold(ColumnarValue::Array(concat(&pieces)?))
    }

    /// The result, counted.
    fn hold(&self, made: ColumnarValue) -> Result<ColumnarValue> {
        let array = match made {
            ColumnarValue::Array(array) => array,
            ColumnarValue::Scalar(value) => {
                let bytes = value.size();
                self.value_fits(bytes, CONSTANT_BYTES_MAX)?;
                // Planning keeps copies of it.
                if let Some(budget) = &self.budget
                    && bytes > FUNCTION_HELD_BYTES_MIN
                {
                    budget.spend(bytes)?;
                }
                return Ok(ColumnarValue::Scalar(value));
            }
        };
        let bytes = array.get_buffer_memory_size();
        self.fits(bytes as u64)?;
        if bytes > VALUE_BYTES_MAX && is_text(array.data_type()) {
            let longest = lengths(&array)?.iter().flatten().max().unwrap_or(0);
            self.value_fits(usize::try_from(longest).unwrap_or(0), VALUE_BYTES_MAX)?;
        }
        match &self.budget {
            Some(budget) if bytes > FUNCTION_HELD_BYTES_MIN => {
                budget.hold(array).map(ColumnarValue::Array)
            }
            _ => Ok(ColumnarValue::Array(array)),
        }
    }

    fn value_fits(&self, bytes: usize, most: usize) -> Result<()> {
        if bytes <= most {
            return Ok(());
        }
        Err(told(
            Error::new(Class::Permanent, "sql.value-bytes")
                .with("function", self.name())
                .with("bytes", bytes)
                .with("most", most),
        ))
    }

    /// An upper bound of the result's size in bytes, if it is not in proportion to the arguments; otherwise 0.
    fn result_bytes(&self, call: &ScalarFunctionArgs) -> Result<u64> {
        let constant = call
            .args
            .iter()
            .all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { call.number_rows };
        match self.grows {
            Grows::Little => return Ok(0),
            Grows::Sum => {
                let separator = match self.name() {
                    "concat_ws" => call.args.len() as u64,
                    _ => 1,
                };
                let mut bytes = 0_u64;
                for (at, argument) in call.args.iter().enumerate() {
                    let times = if at == 0 { separator } else { 1 };
                    bytes = bytes.saturating_add(total(argument, rows)?.saturating_mul(times));
                }
                return Ok(bytes);
            }
            _ => {}
        }
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
                Grows::Little | Grows::Sum => 0,
            };
            bytes = bytes.saturating_add(grown);
        }
        Ok(bytes)
    }
}

/// Size of an argument's texts in bytes; a constant counts for each row.
fn total(argument: &ColumnarValue, rows: usize) -> Result<u64> {
    let (array, times) = match argument {
        ColumnarValue::Array(array) => (Arc::clone(array), 1),
        ColumnarValue::Scalar(value) => (value.to_array()?, rows as u64),
    };
    if let Some(texts) = array.as_string_opt::<i32>() {
        let offsets = texts.value_offsets();
        let bytes = offsets[texts.len()] - offsets[0];
        return Ok((bytes as u64).saturating_mul(times));
    }
    let lengths = lengths(&array)?;
    let bytes = lengths.iter().flatten().fold(0_u64, |all, length| {
        all.saturating_add(u64::try_from(length).unwrap_or(0))
    });
    Ok(bytes.saturating_mul(times))
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

fn is_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
    )
}

/// Length of each text in bytes.
fn lengths(array: &ArrayRef) -> Result<Int64Array> {
    let texts = match array.data_type() {
        known if is_text(known) => Arc::clone(array),
        _ => cast(array, &DataType::Utf8)?,
    };
    counts(&length(&texts)?)
}
