//! Operators that are planned as function calls.

use std::sync::Arc;

use datafusion_common::{DFSchema, Result, plan_datafusion_err};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr, RawFieldAccessExpr};
use datafusion_expr::{Expr, ExprSchemable, GetFieldAccess, ScalarUDF, lit};
use datafusion_functions::core::get_field;
use datafusion_sql::sqlparser::ast::BinaryOperator;

use crate::functions::{list_element, text_or_dictionary};

/// `tags['site']`, `column['field']` and `list[1]`. DataFusion plans them in its crate of functions on lists, which is
/// not used.
#[derive(Debug)]
pub(crate) struct FieldAccess;

impl ExprPlanner for FieldAccess {
    fn plan_field_access(
        &self,
        access: RawFieldAccessExpr,
        _schema: &DFSchema,
    ) -> Result<PlannerResult<RawFieldAccessExpr>> {
        Ok(match access.field_access {
            GetFieldAccess::NamedStructField { name } => {
                let arguments = vec![access.expr, lit(name)];
                let call = ScalarFunction::new_udf(get_field(), arguments);
                PlannerResult::Planned(Expr::ScalarFunction(call))
            }
            GetFieldAccess::ListIndex { key } => {
                let call = ScalarFunction::new_udf(list_element(), vec![access.expr, *key]);
                PlannerResult::Planned(Expr::ScalarFunction(call))
            }
            field_access => PlannerResult::Original(RawFieldAccessExpr {
                expr: access.expr,
                field_access,
            }),
        })
    }
}

/// Operators on texts that are planned as function calls, so that their memory and time are bounded: `a || b`, and
/// `a ~ b` with a pattern for each row.
#[derive(Debug)]
pub(crate) struct TextOperators {
    pub concat: Arc<ScalarUDF>,
    pub regexp_like: Arc<ScalarUDF>,
}

impl ExprPlanner for TextOperators {
    fn plan_binary_op(
        &self,
        operation: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        let is_text = |side: &Expr| {
            side.get_type(schema)
                .is_ok_and(|data_type| text_or_dictionary(&data_type).is_some())
        };
        let call = |function: &Arc<ScalarUDF>, arguments| {
            Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(function), arguments))
        };
        // DataFusion refuses operands that are not texts.
        let texts = is_text(&operation.left) || is_text(&operation.right);
        let constant = matches!(operation.right, Expr::Literal(..));
        if !texts || (constant && operation.op != BinaryOperator::StringConcat) {
            return Ok(PlannerResult::Original(operation));
        }
        let mut arguments = vec![operation.left, operation.right];
        let ignores_case = matches!(
            operation.op,
            BinaryOperator::PGRegexIMatch | BinaryOperator::PGRegexNotIMatch
        );
        if ignores_case {
            arguments.push(lit("i"));
        }
        Ok(PlannerResult::Planned(match operation.op {
            BinaryOperator::StringConcat => call(&self.concat, arguments),
            BinaryOperator::PGRegexMatch | BinaryOperator::PGRegexIMatch => {
                call(&self.regexp_like, arguments)
            }
            BinaryOperator::PGRegexNotMatch | BinaryOperator::PGRegexNotIMatch => {
                !call(&self.regexp_like, arguments)
            }
            op => {
                let [left, right] = <[Expr; 2]>::try_from(arguments)
                    .map_err(|_| plan_datafusion_err!("an operator has two sides"))?;
                return Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }));
            }
        }))
    }
}
