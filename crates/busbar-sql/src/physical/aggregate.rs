//! `group by` and aggregate functions.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion_common::{DFSchema, Result, ScalarValue, internal_err, plan_err};
use datafusion_expr::expr::{GroupingSet, physical_name};
use datafusion_expr::{Aggregate, Expr};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Literal;
use datafusion_physical_plan::ExecutionPlan;
use datafusion_physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};

use super::lower::Lowering;
use crate::limits::CUBE_EXPRESSIONS_MAX;
use crate::rewrite::lowered_aggregate;

impl Lowering<'_> {
    /// Two steps, which the optimizer makes one where the input has one partition.
    pub(super) fn aggregate(
        &self,
        aggregate: &Aggregate,
        input: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let logical_schema = aggregate.input.schema();
        let schema = input.schema();
        if !same_columns(logical_schema.as_arrow(), &schema) {
            return internal_err!("an aggregate over other columns than were planned");
        }
        let groups = self.groups(&aggregate.group_expr, logical_schema, &schema)?;
        let mut functions = Vec::with_capacity(aggregate.aggr_expr.len());
        let mut filters = Vec::with_capacity(aggregate.aggr_expr.len());
        for expr in &aggregate.aggr_expr {
            let props = self.execution_props();
            let lowered = lowered_aggregate(expr, logical_schema, &schema, props, self.planning)?;
            functions.push(lowered.aggregate);
            filters.push(lowered.filter);
        }
        let partial = Arc::new(AggregateExec::try_new(
            AggregateMode::Partial,
            groups,
            functions,
            filters.clone(),
            input,
            Arc::clone(&schema),
        )?);
        // The first step may have replaced a function, such as `first_value` by `last_value` of the
        // reverse order.
        let functions = partial.aggr_expr().to_vec();
        let groups = partial.group_expr().as_final();
        let mode = AggregateMode::Final;
        let last = AggregateExec::try_new(mode, groups, functions, filters, partial, schema)?;
        Ok(Arc::new(last))
    }

    fn groups(
        &self,
        exprs: &[Expr],
        logical_schema: &DFSchema,
        schema: &Schema,
    ) -> Result<PhysicalGroupBy> {
        let [Expr::GroupingSet(sets)] = exprs else {
            let named = exprs
                .iter()
                .map(|expr| self.named(expr, logical_schema))
                .collect::<Result<Vec<_>>>()?;
            return Ok(match named.is_empty() {
                true => PhysicalGroupBy::new(vec![], vec![], vec![], false),
                false => PhysicalGroupBy::new_single(named),
            });
        };
        if let GroupingSet::Cube(exprs) = sets
            && exprs.len() > CUBE_EXPRESSIONS_MAX
        {
            return plan_err!(
                "CUBE of {} expressions; at most {CUBE_EXPRESSIONS_MAX} are allowed",
                exprs.len()
            );
        }
        let (exprs, left_out) = grouping_sets(sets);
        let mut named = Vec::with_capacity(exprs.len());
        let mut nulls: Vec<(Arc<dyn PhysicalExpr>, String)> = Vec::with_capacity(exprs.len());
        for expr in exprs {
            let (physical, name) = self.named(&expr, logical_schema)?;
            let null = ScalarValue::try_from(&physical.data_type(schema)?)?;
            nulls.push((Arc::new(Literal::new(null)), name.clone()));
            named.push((physical, name));
        }
        Ok(PhysicalGroupBy::new(named, nulls, left_out, true))
    }

    fn named(&self, expr: &Expr, schema: &DFSchema) -> Result<(Arc<dyn PhysicalExpr>, String)> {
        Ok((self.expr(expr, schema)?, physical_name(expr)?))
    }
}

/// The expressions that occur in grouping sets, each once, and for each set which of them it leaves out.
fn grouping_sets(sets: &GroupingSet) -> (Vec<Expr>, Vec<Vec<bool>>) {
    match sets {
        GroupingSet::GroupingSets(sets) => {
            let mut exprs: Vec<Expr> = Vec::new();
            for expr in sets.iter().flatten() {
                if !exprs.contains(expr) {
                    exprs.push(expr.clone());
                }
            }
            let left_out = |set: &Vec<Expr>| exprs.iter().map(|e| !set.contains(e)).collect();
            let left_out = sets.iter().map(left_out).collect();
            (exprs, left_out)
        }
        // The first of them, the first two, …
        GroupingSet::Rollup(exprs) => {
            let kept = 0..=exprs.len();
            let left_out = kept.map(|kept| (0..exprs.len()).map(|i| i >= kept).collect());
            (exprs.clone(), left_out.collect())
        }
        // Each subset.
        GroupingSet::Cube(exprs) => {
            let subsets = 0..1_usize << exprs.len();
            let left_out = subsets.map(|set| (0..exprs.len()).map(|i| set >> i & 1 == 1).collect());
            (exprs.clone(), left_out.collect())
        }
    }
}

/// Whether two schemas have the same columns in the same order. Whether one may be null is known better
/// by the physical plan.
fn same_columns(logical: &Schema, physical: &Schema) -> bool {
    let columns = logical.fields().iter().zip(physical.fields());
    logical.fields().len() == physical.fields().len()
        && columns.into_iter().all(|(logical, physical)| {
            logical.name() == physical.name()
                && logical.data_type().equals_datatype(physical.data_type())
        })
}
