//! Joins: by hash where columns are compared for equality, otherwise row by row.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion_common::{DFSchema, Result};
use datafusion_expr::{Expr, Join, JoinType};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Column;
use datafusion_physical_plan::ExecutionPlan;
use datafusion_physical_plan::joins::utils::{JoinFilter, JoinOn};
use datafusion_physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode,
};
use datafusion_physical_plan::projection::{ProjectionExec, ProjectionExpr};

use super::lower::Lowering;
use super::null_extended;

/// One side of a join, and its keys as columns of it.
type Keyed = (Arc<dyn ExecutionPlan>, Vec<Arc<dyn PhysicalExpr>>);

impl Lowering<'_> {
    pub(super) fn join(
        &self,
        join: &Join,
        left: Arc<dyn ExecutionPlan>,
        right: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let filter = self.join_filter(join, &left, &right)?;
        let (left, right) = null_extended::inputs(left, right, join.join_type);
        if join.on.is_empty() {
            return Ok(match filter {
                None if join.join_type == JoinType::Inner => {
                    Arc::new(CrossJoinExec::new(left, right))
                }
                filter => {
                    let kind = &join.join_type;
                    Arc::new(NestedLoopJoinExec::try_new(
                        left, right, filter, kind, None,
                    )?)
                }
            });
        }
        let widths = [left.schema().fields().len(), right.schema().fields().len()];
        let lefts = join.on.iter().map(|(left, _)| left);
        let (left, left_keys) = self.with_keys(left, join.left.schema(), lefts)?;
        let rights = join.on.iter().map(|(_, right)| right);
        let (right, right_keys) = self.with_keys(right, join.right.schema(), rights)?;
        let added = [
            left.schema().fields().len() - widths[0],
            right.schema().fields().len() - widths[1],
        ];
        let on: JoinOn = left_keys.into_iter().zip(right_keys).collect();
        let plan: Arc<dyn ExecutionPlan> = Arc::new(HashJoinExec::try_new(
            left,
            right,
            on,
            filter,
            &join.join_type,
            None,
            PartitionMode::CollectLeft,
            join.null_equality,
            join.null_aware,
        )?);
        match added {
            [0, 0] => Ok(plan),
            added => without_keys(plan, join.join_type, widths, added),
        }
    }

    /// The input with a column for each key that is not one, and all keys as columns.
    fn with_keys<'e>(
        &self,
        input: Arc<dyn ExecutionPlan>,
        schema: &DFSchema,
        keys: impl Iterator<Item = &'e Expr>,
    ) -> Result<Keyed> {
        let mut exprs = columns(&input.schema());
        let width = exprs.len();
        let mut places: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
        for key in keys {
            let expr = self.expr(key, schema)?;
            if expr.is::<Column>() {
                places.push(expr);
                continue;
            }
            let alias = format!("join key {}", exprs.len() - width);
            places.push(Arc::new(Column::new(&alias, exprs.len())));
            exprs.push(ProjectionExpr { expr, alias });
        }
        let input = match exprs.len() == width {
            true => input,
            false => Arc::new(ProjectionExec::try_new(exprs, input)?),
        };
        Ok((input, places))
    }

    /// What must hold besides the equality of keys, over the columns of both sides that it reads.
    fn join_filter(
        &self,
        join: &Join,
        left: &Arc<dyn ExecutionPlan>,
        right: &Arc<dyn ExecutionPlan>,
    ) -> Result<Option<JoinFilter>> {
        let Some(filter) = &join.filter else {
            return Ok(None);
        };
        let read = filter.column_refs();
        let sides = [(join.left.schema(), left), (join.right.schema(), right)];
        let mut places: [Vec<usize>; 2] = Default::default();
        let mut logical = Vec::new();
        let mut physical = Vec::new();
        for (places, (schema, plan)) in places.iter_mut().zip(sides) {
            let found = read.iter().filter_map(|c| schema.index_of_column(c).ok());
            places.extend(found);
            places.sort_unstable();
            for place in places.iter() {
                let (qualifier, field) = schema.qualified_field(*place);
                logical.push((qualifier.cloned(), Arc::clone(field)));
                physical.push(plan.schema().field(*place).clone());
            }
        }
        let mut metadata = join.left.schema().metadata().clone();
        metadata.extend(join.right.schema().metadata().clone());
        let logical = DFSchema::new_with_metadata(logical, metadata.clone())?;
        let expr = self.expr(filter, &logical)?;
        let [lefts, rights] = places;
        let indices = JoinFilter::build_column_indices(lefts, rights);
        let schema = Arc::new(Schema::new_with_metadata(physical, metadata));
        Ok(Some(JoinFilter::new(expr, indices, schema)))
    }
}

/// A join without the columns that were added to its sides to compare them.
fn without_keys(
    plan: Arc<dyn ExecutionPlan>,
    kind: JoinType,
    widths: [usize; 2],
    added: [usize; 2],
) -> Result<Arc<dyn ExecutionPlan>> {
    use JoinType::{LeftAnti, LeftMark, LeftSemi, RightAnti, RightMark, RightSemi};
    let mut exprs = columns(&plan.schema());
    match kind {
        // The mark comes last.
        LeftSemi | LeftAnti | LeftMark => drop(exprs.drain(widths[0]..widths[0] + added[0])),
        RightSemi | RightAnti | RightMark => drop(exprs.drain(widths[1]..widths[1] + added[1])),
        _ => {
            exprs.truncate(widths[0] + added[0] + widths[1]);
            exprs.drain(widths[0]..widths[0] + added[0]);
        }
    }
    Ok(Arc::new(ProjectionExec::try_new(exprs, plan)?))
}

/// Every column of a schema, as itself.
fn columns(schema: &Schema) -> Vec<ProjectionExpr> {
    let fields = schema.fields().iter().enumerate();
    let columns = fields.map(|(place, field)| ProjectionExpr {
        expr: Arc::new(Column::new(field.name(), place)),
        alias: field.name().clone(),
    });
    columns.collect()
}
