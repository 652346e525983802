//! An order of rows inside an aggregate whose result does not depend on it, as in `avg(level_mm order by time)`.
//!
//! Most aggregate functions do not say whether the order matters to them, and DataFusion hands the values to order by to
//! the function as further arguments, which it does not expect.

use arrow::datatypes::Schema;
use datafusion_common::{DFSchema, Result};
use datafusion_expr::Expr;
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::expr::physical_name;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_physical_expr::aggregate::{LoweredAggregate, LoweredAggregateBuilder};

/// The functions to which the order of rows matters, besides those with `within group`.
const ORDERED: [&str; 6] = [
    "any_value",
    "array_agg",
    "first_value",
    "last_value",
    "nth_value",
    "string_agg",
];

/// The physical form of an aggregate, with an order only where it matters.
pub(crate) fn lowered_aggregate(
    expr: &Expr,
    logical_schema: &DFSchema,
    schema: &Schema,
    properties: &ExecutionProps,
    planning: &PhysicalPlanningContext,
) -> Result<LoweredAggregate> {
    let mut plain = expr.clone();
    let mut inner = &mut plain;
    while let Expr::Alias(alias) = inner {
        inner = &mut alias.expr;
    }
    if let Expr::AggregateFunction(call) = inner
        && !ORDERED.contains(&call.func.name())
        && !call.func.supports_within_group_clause()
    {
        call.params.order_by.clear();
    }
    let builder =
        LoweredAggregateBuilder::new(&plain, logical_schema, schema, properties, planning);
    match expr {
        Expr::Alias(_) => builder.build(),
        // Operators above know the column by the name that the text gives it.
        _ => builder.with_name(physical_name(expr)?).build(),
    }
}
