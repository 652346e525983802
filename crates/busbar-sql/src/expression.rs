//! A compiled expression over the columns of a batch.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use busbar_event::{Class, Error};
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, DataFusionError};
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::simplify::SimplifyContext;
use datafusion_expr::{Expr, LogicalPlan, Volatility};
use datafusion_optimizer::simplify_expressions::ExprSimplifier;
use datafusion_physical_expr::expressions::Column as PhysicalColumn;
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion_sql::planner::PlannerContext;
use datafusion_sql::sqlparser::ast;

use crate::explain::{explain, run_error};
use crate::names::Names;
use crate::planner::Context;
use crate::rewrite::CheckedIntegers;
use crate::walk::{self, Part};
use crate::{Diagnostic, Failed, check, dictionary, session, text};

/// A compiled expression.
#[derive(Clone, Debug)]
pub(crate) struct Expression {
    physical: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
    data_type: DataType,
    nullable: bool,
}

impl Expression {
    /// Compiles an expression that was parsed from a part of `text`.
    pub fn compile(
        schema: &SchemaRef,
        text: &str,
        mut parsed: ast::Expr,
    ) -> Result<Self, Diagnostic> {
        let state = session::state();
        let context = Context::new(state);
        let wrong = |error: DataFusionError| explain(text, error, session::function_names());
        let relation = DFSchema::try_from(Arc::clone(schema)).map_err(wrong)?;
        Names::of(schema).resolve(&mut parsed);
        refuse_subqueries(text, &parsed)?;
        check::types(text, &parsed, &context, &relation)?;
        let logical = context
            .planner()
            .sql_to_expr(parsed, &relation, &mut PlannerContext::new())
            .map_err(wrong)?;
        refuse_unrepeatable(text, &logical)?;
        let simplifier = ExprSimplifier::new(
            SimplifyContext::builder()
                .with_schema(Arc::new(relation.clone()))
                .with_config_options(Arc::clone(state.config_options()))
                .build(),
        );
        let logical = simplifier.coerce(logical, &relation).map_err(wrong)?;
        let logical = CheckedIntegers::expression(logical, &relation).map_err(wrong)?;
        let logical = simplifier.simplify(logical).map_err(wrong)?;
        let physical = create_physical_expr(
            &logical,
            &relation,
            state.execution_props(),
            &PhysicalPlanningContext::default(),
        )
        .map_err(wrong)?;
        let data_type = physical.data_type(schema).map_err(wrong)?;
        let nullable = physical.nullable(schema).map_err(wrong)?;
        let physical = dictionary::once_for_each_value(physical, schema).map_err(wrong)?;
        Ok(Self {
            physical,
            schema: Arc::clone(schema),
            data_type,
            nullable,
        })
    }

    /// The expression that returns a column.
    pub fn column(schema: &SchemaRef, index: usize) -> Self {
        let field = schema.field(index);
        Self {
            physical: Arc::new(PhysicalColumn::new(field.name(), index)),
            schema: Arc::clone(schema),
            data_type: field.data_type().clone(),
            nullable: field.is_nullable(),
        }
    }

    pub fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// The index of the column, if the expression only returns one.
    pub fn source(&self) -> Option<usize> {
        let column = self.physical.downcast_ref::<PhysicalColumn>()?;
        Some(column.index())
    }

    pub fn nullable(&self) -> bool {
        self.nullable
    }

    /// Indexes in the schema of the columns that it reads, sorted.
    pub fn columns(&self) -> Vec<usize> {
        let mut columns = Vec::new();
        let walked = self.physical.apply(|node| {
            if let Some(column) = node.downcast_ref::<PhysicalColumn>() {
                columns.push(column.index());
            }
            Ok(TreeNodeRecursion::Continue)
        });
        debug_assert!(walked.is_ok());
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// The same expression for batches of another schema that has all its columns.
    pub fn bind(&self, schema: &SchemaRef) -> Result<Self, Error> {
        let physical = Arc::clone(&self.physical)
            .transform_up(|node| {
                let Some(column) = node.downcast_ref::<PhysicalColumn>() else {
                    return Ok(Transformed::no(node));
                };
                let field = self.schema.field(column.index());
                let index = schema.index_of(field.name())?;
                if schema.field(index).data_type() != field.data_type() {
                    return Err(DataFusionError::Plan(format!(
                        "column {} has another type",
                        field.name()
                    )));
                }
                Ok(Transformed::yes(
                    Arc::new(PhysicalColumn::new(field.name(), index)) as Arc<dyn PhysicalExpr>,
                ))
            })
            .map_err(|_| Error::new(Class::Configuration, "sql.bind"))?;
        Ok(Self {
            physical: physical.data,
            schema: Arc::clone(schema),
            ..self.clone()
        })
    }

    pub fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, Error> {
        self.physical
            .evaluate(batch)
            .and_then(|value| value.into_array(batch.num_rows()))
            .map_err(run_error)
    }
}

/// The rows that fail, in order, found by halving: `fails` evaluates a range and returns its error.
pub(crate) fn isolate(
    rows: usize,
    fails: &mut dyn FnMut(Range<usize>) -> Option<Error>,
) -> Vec<Failed> {
    let mut failed = Vec::new();
    let mut open: Vec<Range<usize>> = std::iter::once(0..rows).collect();
    while let Some(range) = open.pop() {
        if range.is_empty() {
            continue;
        }
        let Some(cause) = fails(range.clone()) else {
            continue;
        };
        if range.len() == 1 {
            failed.push(Failed {
                row: range.start,
                cause,
            });
            continue;
        }
        let middle = range.start + range.len() / 2;
        // The first half is taken next, so that rows are in order.
        open.push(middle..range.end);
        open.push(range.start..middle);
    }
    failed
}

fn refuse_subqueries(text: &str, parsed: &ast::Expr) -> Result<(), Diagnostic> {
    let found = walk::find(parsed, |part| match part {
        Part::Expr(
            expr @ (ast::Expr::Subquery(_)
            | ast::Expr::InSubquery { .. }
            | ast::Expr::Exists { .. }),
        ) => Some(check::place(text, expr).unwrap_or(0..text.len())),
        _ => None,
    });
    found.map_or(Ok(()), |place| {
        Err(Diagnostic::new("sql.subquery-here", place))
    })
}

/// Refuses functions that make an event's result differ when it is processed again, and aggregates.
fn refuse_unrepeatable(text: &str, logical: &Expr) -> Result<(), Diagnostic> {
    let found = find_call(logical, |node| match node {
        Expr::ScalarFunction(call) if is_unrepeatable(node) => {
            Some(("sql.not-repeatable", call.func.name().to_owned()))
        }
        Expr::AggregateFunction(call) => Some(("sql.aggregate-here", call.func.name().to_owned())),
        Expr::WindowFunction(call) => Some(("sql.aggregate-here", call.fun.name().to_owned())),
        _ => None,
    });
    found.map_or(Ok(()), |(code, name)| Err(call_error(text, code, name)))
}

/// Refuses functions that make a batch's result differ when it is processed again.
pub(crate) fn refuse_unrepeatable_in_query(
    text: &str,
    plan: &LogicalPlan,
) -> Result<(), Diagnostic> {
    let mut found = None;
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            found = find_call(expr, |node| match node {
                Expr::ScalarFunction(call) if is_unrepeatable(node) => {
                    Some(call.func.name().to_owned())
                }
                _ => None,
            });
            Ok(stop_if(found.is_some()))
        })
    });
    debug_assert!(walked.is_ok());
    found.map_or(Ok(()), |name| {
        Err(call_error(text, "sql.not-repeatable", name))
    })
}

/// Refuses aggregates that gather all values as window functions: they would gather them again for each row.
pub(crate) fn refuse_growing_windows(text: &str, plan: &LogicalPlan) -> Result<(), Diagnostic> {
    let mut found = None;
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            found = find_call(expr, |node| match node {
                Expr::WindowFunction(call)
                    if matches!(call.fun.name(), "array_agg" | "string_agg") =>
                {
                    Some(call.fun.name().to_owned())
                }
                _ => None,
            });
            Ok(stop_if(found.is_some()))
        })
    });
    debug_assert!(walked.is_ok());
    found.map_or(Ok(()), |name| {
        Err(call_error(text, "sql.growing-window", name))
    })
}

fn is_unrepeatable(node: &Expr) -> bool {
    match node {
        Expr::ScalarFunction(call) => call.func.signature().volatility != Volatility::Immutable,
        _ => false,
    }
}

fn find_call<T>(logical: &Expr, mut look: impl FnMut(&Expr) -> Option<T>) -> Option<T> {
    let mut found = None;
    let walked = logical.apply(|node| {
        found = look(node);
        Ok(stop_if(found.is_some()))
    });
    debug_assert!(walked.is_ok());
    found
}

fn stop_if(stop: bool) -> TreeNodeRecursion {
    match stop {
        true => TreeNodeRecursion::Stop,
        false => TreeNodeRecursion::Continue,
    }
}

fn call_error(text: &str, code: &'static str, name: String) -> Diagnostic {
    let place = text::find_word(text, &name).unwrap_or(0..text.len());
    Diagnostic::new(code, place).with("function", name)
}
