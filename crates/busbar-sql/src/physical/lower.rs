//! One operator for each node of an optimized logical plan.

use std::sync::Arc;

use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, HashMap, Result, not_impl_err, plan_err};
use datafusion_datasource::memory::MemorySourceConfig;
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::expr::{Sort as SortExpr, physical_name};
use datafusion_expr::expr_rewriter::unnormalize_cols;
use datafusion_expr::logical_plan::Subquery;
use datafusion_expr::physical_planning_context::{
    PhysicalPlanningContext, ScalarSubqueryResults, SubqueryIndex,
};
use datafusion_expr::{
    Expr, FetchType, Filter, Limit, LogicalPlan, Projection, RecursiveQuery, SkipType, Sort,
    TableScan, Unnest, Values,
};
use datafusion_physical_expr::{
    LexOrdering, PhysicalExpr, PhysicalSortExpr, create_physical_expr, create_physical_exprs,
    create_physical_sort_exprs,
};
use datafusion_physical_plan::empty::EmptyExec;
use datafusion_physical_plan::filter::FilterExecBuilder;
use datafusion_physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion_physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion_physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion_physical_plan::recursive_query::RecursiveQueryExec;
use datafusion_physical_plan::scalar_subquery::{ScalarSubqueryExec, ScalarSubqueryLink};
use datafusion_physical_plan::sorts::sort::SortExec;
use datafusion_physical_plan::union::UnionExec;
use datafusion_physical_plan::unnest::{ListUnnest, UnnestExec};
use datafusion_physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion_session::ScanArgs;

use super::PlanSession;
use crate::source::provider_of;
use crate::wait::block_on;

/// The operators of a logical plan, in the form in which the physical optimizer takes them.
pub(super) fn lower(
    session: &dyn PlanSession,
    logical: &LogicalPlan,
) -> Result<Arc<dyn ExecutionPlan>> {
    let mut links = Vec::new();
    let mut indexes = HashMap::new();
    for subquery in scalar_subqueries(logical)? {
        if indexes.contains_key(&subquery) {
            continue;
        }
        let plan = lower(session, &subquery.subquery)?;
        let index = SubqueryIndex::new(links.len());
        links.push(ScalarSubqueryLink { plan, index });
        indexes.insert(subquery, index);
    }
    if links.is_empty() {
        let planning = &PhysicalPlanningContext::default();
        return Lowering { session, planning }.node(logical);
    }
    // They run first; expressions read their values by index.
    let results = ScalarSubqueryResults::new(links.len());
    let planning = &PhysicalPlanningContext::new(indexes, results.clone());
    let plan = Lowering { session, planning }.node(logical)?;
    Ok(Arc::new(ScalarSubqueryExec::new(plan, links, results)))
}

/// Subqueries that give one value and do not depend on the row around them. Those within them are found
/// when they are planned.
fn scalar_subqueries(logical: &LogicalPlan) -> Result<Vec<Subquery>> {
    let mut found = Vec::new();
    logical.apply(|node| {
        for expr in node.expressions() {
            expr.apply(|expr| {
                if let Expr::ScalarSubquery(subquery) = expr
                    && subquery.outer_ref_columns.is_empty()
                {
                    found.push(subquery.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

/// What one level of a query is planned with.
pub(super) struct Lowering<'a> {
    session: &'a dyn PlanSession,
    pub(super) planning: &'a PhysicalPlanningContext,
}

impl Lowering<'_> {
    pub(super) fn execution_props(&self) -> &ExecutionProps {
        self.session.execution_props()
    }

    pub(super) fn expr(&self, expr: &Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
        create_physical_expr(expr, schema, self.execution_props(), self.planning)
    }

    pub(super) fn exprs(
        &self,
        exprs: &[Expr],
        schema: &DFSchema,
    ) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
        create_physical_exprs(exprs, schema, self.execution_props(), self.planning)
    }

    pub(super) fn sort_exprs(
        &self,
        exprs: &[SortExpr],
        schema: &DFSchema,
    ) -> Result<Vec<PhysicalSortExpr>> {
        create_physical_sort_exprs(exprs, schema, self.execution_props(), self.planning)
    }

    /// The operators of a node and of all under it. As deep as the logical plan, whose depth the limits of
    /// texts bound.
    fn node(&self, logical: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(match logical {
            LogicalPlan::TableScan(scan) => self.scan(scan)?,
            LogicalPlan::Values(values) => self.values(values)?,
            LogicalPlan::EmptyRelation(empty) => {
                let schema = Arc::clone(empty.schema.inner());
                match empty.produce_one_row {
                    true => Arc::new(PlaceholderRowExec::new(schema)),
                    false => Arc::new(EmptyExec::new(schema)),
                }
            }
            LogicalPlan::Projection(projection) => {
                let input = self.node(&projection.input)?;
                self.projection(projection, input)?
            }
            LogicalPlan::Filter(filter) => self.filter(filter)?,
            LogicalPlan::Window(window) => self.window(window, self.node(&window.input)?)?,
            LogicalPlan::Aggregate(aggregate) => {
                self.aggregate(aggregate, self.node(&aggregate.input)?)?
            }
            LogicalPlan::Sort(sort) => self.sort(sort)?,
            LogicalPlan::Limit(limit) => self.limit(limit)?,
            LogicalPlan::SubqueryAlias(alias) => self.node(&alias.input)?,
            LogicalPlan::Unnest(unnest) => self.unnest(unnest)?,
            LogicalPlan::Join(join) => {
                let (left, right) = (self.node(&join.left)?, self.node(&join.right)?);
                self.join(join, left, right)?
            }
            LogicalPlan::Union(union) => {
                let inputs = union.inputs.iter().map(|input| self.node(input));
                UnionExec::try_new(inputs.collect::<Result<_>>()?)?
            }
            LogicalPlan::RecursiveQuery(query) => self.recursive(query)?,
            LogicalPlan::Subquery(_) => {
                return not_impl_err!("a subquery that depends on the row around it in this way");
            }
            other => return plan_err!("a query with the step {}", other.display()),
        })
    }

    fn scan(&self, scan: &TableScan) -> Result<Arc<dyn ExecutionPlan>> {
        let provider = provider_of(&scan.source)?;
        // Providers do not know under which name a query refers to them.
        let filters = unnormalize_cols(scan.filters.iter().cloned());
        let arguments = ScanArgs::default()
            .with_projection(scan.projection.as_deref())
            .with_filters(Some(&filters))
            .with_limit(scan.fetch);
        // Providers here plan without waiting.
        let scanned = block_on(provider.scan_with_args(self.session, arguments))?;
        Ok(scanned.into_inner())
    }

    fn values(&self, values: &Values) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = values.values.iter();
        let rows = rows.map(|row| self.exprs(row, &values.schema));
        let schema = Arc::clone(values.schema.inner());
        Ok(MemorySourceConfig::try_new_as_values(
            schema,
            rows.collect::<Result<_>>()?,
        )?)
    }

    fn projection(
        &self,
        projection: &Projection,
        input: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let logical_schema = projection.input.schema();
        let schema = input.schema();
        let mut exprs = Vec::with_capacity(projection.expr.len());
        for expr in &projection.expr {
            // A column that the input computed has a qualified name in the logical plan, and only its own
            // in the physical one. Both have it at the same place.
            let place = expr
                .try_as_col()
                .map(|column| logical_schema.index_of_column(column));
            let alias = match place {
                Some(Ok(place)) => schema.field(place).name().clone(),
                _ => physical_name(expr)?,
            };
            let expr = self.expr(expr, logical_schema)?;
            exprs.push(ProjectionExpr { expr, alias });
        }
        let named = projection.schema.as_arrow();
        let plan = ProjectionExec::try_new_with_schema_metadata(exprs, input, named)?;
        Ok(Arc::new(plan))
    }

    fn filter(&self, filter: &Filter) -> Result<Arc<dyn ExecutionPlan>> {
        let input = self.node(&filter.input)?;
        let predicate = self.expr(&filter.predicate, filter.input.schema())?;
        let config = self.session.config();
        let selectivity = config.options().optimizer.default_filter_selectivity;
        let plan = FilterExecBuilder::new(predicate, input)
            .with_batch_size(config.batch_size())
            .build()?
            .with_default_selectivity(selectivity)?;
        Ok(Arc::new(plan))
    }

    fn sort(&self, sort: &Sort) -> Result<Arc<dyn ExecutionPlan>> {
        let input = self.node(&sort.input)?;
        let exprs = self.sort_exprs(&sort.expr, sort.input.schema())?;
        let Some(ordering) = LexOrdering::new(exprs) else {
            return plan_err!("a sort without an expression to sort by");
        };
        Ok(Arc::new(
            SortExec::new(ordering, input).with_fetch(sort.fetch),
        ))
    }

    fn limit(&self, limit: &Limit) -> Result<Arc<dyn ExecutionPlan>> {
        let input = self.node(&limit.input)?;
        let (SkipType::Literal(skip), FetchType::Literal(fetch)) =
            (limit.get_skip_type()?, limit.get_fetch_type()?)
        else {
            return not_impl_err!("LIMIT and OFFSET other than by a constant number");
        };
        // One limit counts the rows of all partitions; no partition need give more than it.
        let input: Arc<dyn ExecutionPlan> = match fetch {
            Some(fetch) if input.output_partitioning().partition_count() > 1 => {
                Arc::new(LocalLimitExec::new(input, fetch.saturating_add(skip)))
            }
            _ => input,
        };
        Ok(Arc::new(GlobalLimitExec::new(input, skip, fetch)))
    }

    fn unnest(&self, unnest: &Unnest) -> Result<Arc<dyn ExecutionPlan>> {
        let lists = unnest.list_type_columns.iter();
        let lists = lists.map(|(index, list)| ListUnnest {
            index_in_input_schema: *index,
            depth: list.depth,
        });
        let plan = UnnestExec::new(
            self.node(&unnest.input)?,
            lists.collect(),
            unnest.struct_type_columns.clone(),
            Arc::clone(unnest.schema.inner()),
            unnest.options.clone(),
        )?;
        Ok(Arc::new(plan))
    }

    fn recursive(&self, query: &RecursiveQuery) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = RecursiveQueryExec::try_new(
            query.name.clone(),
            Arc::clone(query.schema.inner()),
            self.node(&query.static_term)?,
            self.node(&query.recursive_term)?,
            query.is_distinct,
        )?;
        Ok(Arc::new(plan))
    }
}
