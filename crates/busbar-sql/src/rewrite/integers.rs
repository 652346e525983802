//! Integer operators that wrap around are replaced by functions that fail.

use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DFSchema, Result};
use datafusion_expr::expr_rewriter::NamePreserver;
use datafusion_expr::utils::merge_schema;
use datafusion_expr::{Expr, ExprSchemable, LogicalPlan};
use datafusion_optimizer::AnalyzerRule;

use crate::functions::{checked_binary, checked_negation};

/// Makes integer arithmetic in a plan fail on overflow.
///
/// Runs after type coercion: both sides of an operator then have the type of its result.
#[derive(Debug)]
pub(crate) struct CheckedIntegers;

impl AnalyzerRule for CheckedIntegers {
    fn name(&self) -> &str {
        "checked_integers"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let changed = plan.transform_up_with_subqueries(|plan| {
            let schema = merge_schema(&plan.inputs());
            let names = NamePreserver::new(&plan);
            let changed = plan.map_expressions(|expression| {
                let name = names.save(&expression);
                let changed = checked(expression, &schema)?;
                Ok(changed.update_data(|expression| name.restore(expression)))
            })?;
            match changed.transformed {
                true => changed.map_data(LogicalPlan::recompute_schema),
                false => Ok(changed),
            }
        })?;
        Ok(changed.data)
    }
}

impl CheckedIntegers {
    /// The same for one expression, whose types are coerced.
    pub fn expression(expression: Expr, schema: &DFSchema) -> Result<Expr> {
        Ok(checked(expression, schema)?.data)
    }
}

fn checked(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    expression.transform_up(|node| {
        let replacement = match &node {
            Expr::BinaryExpr(binary) => {
                let (left, right) = (&binary.left, &binary.right);
                let data_type = left.get_type(schema)?;
                // Otherwise one of them is an interval or the like.
                let integers = data_type.is_integer() && data_type == right.get_type(schema)?;
                integers
                    .then(|| checked_binary(left, binary.op, right))
                    .flatten()
            }
            Expr::Negative(operand) if operand.get_type(schema)?.is_integer() => {
                Some(checked_negation(operand))
            }
            _ => None,
        };
        Ok(replacement.map_or_else(|| Transformed::no(node), Transformed::yes))
    })
}
