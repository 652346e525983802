//! Integer `+`, `-`, `*` and negation that fail on overflow.
//!
//! DataFusion's operators wrap around. [`crate::rewrite::CheckedIntegers`] replaces them by these functions.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Datum};
use arrow::compute::kernels::numeric;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use busbar_event::{Class, Error};
use datafusion_common::{Result, ScalarValue, internal_err};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::{
    ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use crate::budget::told;

/// `left <operator> right` with a check for overflow; none for operators that cannot overflow silently.
pub(crate) fn checked_binary(left: &Expr, operator: Operator, right: &Expr) -> Option<Expr> {
    let function = match operator {
        Operator::Plus => &ADD,
        Operator::Minus => &SUBTRACT,
        Operator::Multiply => &MULTIPLY,
        _ => return None,
    };
    Some(call(function, vec![left.clone(), right.clone()]))
}

/// `-operand` with a check for overflow.
pub(crate) fn checked_negation(operand: &Expr) -> Expr {
    call(&NEGATE, vec![operand.clone()])
}

static ADD: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| function(Operation::Add));
static SUBTRACT: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| function(Operation::Subtract));
static MULTIPLY: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| function(Operation::Multiply));
static NEGATE: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| function(Operation::Negate));

fn function(operation: Operation) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(CheckedArithmetic {
        operation,
        signature: Signature::any(operation.operands(), Volatility::Immutable),
    }))
}

fn call(function: &Arc<ScalarUDF>, arguments: Vec<Expr>) -> Expr {
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(function), arguments))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Operation {
    Add,
    Subtract,
    Multiply,
    Negate,
}

impl Operation {
    fn operands(self) -> usize {
        match self {
            Self::Negate => 1,
            _ => 2,
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract | Self::Negate => "-",
            Self::Multiply => "*",
        }
    }
}

/// One operation on integers of one type.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedArithmetic {
    operation: Operation,
    signature: Signature,
}

impl CheckedArithmetic {
    fn apply(&self, operands: &[&dyn Datum]) -> Result<ArrayRef> {
        let result = match (self.operation, operands) {
            (Operation::Add, [left, right]) => numeric::add(*left, *right),
            (Operation::Subtract, [left, right]) => numeric::sub(*left, *right),
            (Operation::Multiply, [left, right]) => numeric::mul(*left, *right),
            (Operation::Negate, [operand]) => numeric::neg(operand.get().0),
            _ => return internal_err!("{:?} got {} operands", self.operation, operands.len()),
        };
        result.map_err(|error| match error {
            ArrowError::ArithmeticOverflow(_) => told(
                Error::new(Class::Permanent, "sql.out-of-range")
                    .with("operation", self.operation.sign()),
            ),
            other => other.into(),
        })
    }
}

impl ScalarUDFImpl for CheckedArithmetic {
    fn name(&self) -> &str {
        match self.operation {
            Operation::Add => "checked_add",
            Operation::Subtract => "checked_subtract",
            Operation::Multiply => "checked_multiply",
            Operation::Negate => "checked_negate",
        }
    }

    /// The name that the operator itself has in a schema, so that the replacement renames no column.
    fn schema_name(&self, arguments: &[Expr]) -> Result<String> {
        let sign = self.operation.sign();
        Ok(match arguments {
            [left, right] => format!("{} {sign} {}", left.schema_name(), right.schema_name()),
            [operand] => format!("(- {})", operand.schema_name()),
            _ => self.name().to_owned(),
        })
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments.first() {
            Some(data_type) => Ok(data_type.clone()),
            None => internal_err!("{} got no operands", self.name()),
        }
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = call
            .args
            .iter()
            .all(|operand| matches!(operand, ColumnarValue::Scalar(_)));
        let scalars = call.args.iter().map(|operand| match operand {
            ColumnarValue::Scalar(value) => value.to_scalar().map(Some),
            ColumnarValue::Array(_) => Ok(None),
        });
        let scalars = scalars.collect::<Result<Vec<_>>>()?;
        let operands: Vec<&dyn Datum> = call
            .args
            .iter()
            .zip(&scalars)
            .map(|(operand, scalar)| match (operand, scalar) {
                (ColumnarValue::Array(array), _) => array as &dyn Datum,
                (_, Some(scalar)) => scalar as &dyn Datum,
                (ColumnarValue::Scalar(_), None) => {
                    unreachable!("every scalar was converted above")
                }
            })
            .collect();
        let result = self.apply(&operands)?;
        Ok(match constant {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?),
            false => ColumnarValue::Array(result),
        })
    }
}
