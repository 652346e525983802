//! `in (select ...)` with the meaning that SQL gives it.
//!
//! `x not in (s)` is true only if `x = y` is false for every `y` in `s`: not if one of them is null, and not if
//! `x` is null and `s` has a row. DataFusion plans it as an anti join, which gets some of these cases wrong:
//! constants, correlated subqueries, and places other than the top of a condition. Here it becomes
//!
//! ```text
//! not exists (s where y = x) and not exists (s where y is null) and (x is not null or not exists (s))
//! ```
//!
//! and `x in (s)` becomes `exists (s where y = x)`. Where it matters whether the result is false or null, it becomes
//! `case when x in (s) then true when x not in (s) then false end` with both of these.
//!
//! Correlated subqueries that DataFusion would pull a condition out of, though the rows depend on where it
//! stands, are refused.

use std::sync::Arc;

use busbar_event::{Class, Error};
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, DFSchema, ExprSchema, JoinType, Result, ScalarValue};
use datafusion_expr::expr::{Case, InSubquery};
use datafusion_expr::utils::{merge_schema, split_conjunction};
use datafusion_expr::{
    BinaryExpr, Distinct, Expr, ExprSchemable, Filter, LogicalPlan, LogicalPlanBuilder, Operator,
    Subquery, exists, lit, not_exists,
};
use datafusion_optimizer::AnalyzerRule;

use crate::budget::told;

/// Rewrites `in (select ...)` in conditions, and refuses what cannot be planned correctly.
#[derive(Debug)]
pub(crate) struct NegatedMembership;

impl AnalyzerRule for NegatedMembership {
    fn name(&self) -> &str {
        "negated_membership"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let changed = plan.transform_up_with_subqueries(|plan| {
            plan.apply_expressions(|expression| {
                expression.apply(|node| {
                    match node {
                        Expr::Exists(exists) => refuse_misplaced(&exists.subquery, Place::Exists)?,
                        Expr::InSubquery(membership) => {
                            refuse_misplaced(&membership.subquery, Place::In)?;
                        }
                        Expr::ScalarSubquery(subquery) => {
                            refuse_misplaced(subquery, Place::Scalar)?;
                        }
                        _ => {}
                    }
                    Ok(TreeNodeRecursion::Continue)
                })
            })?;
            let LogicalPlan::Filter(filter) = plan else {
                return refuse_elsewhere(plan).map(Transformed::no);
            };
            if !has_membership(&filter.predicate)? {
                return Ok(Transformed::no(LogicalPlan::Filter(filter)));
            }
            let schema = merge_schema(&[&filter.input]);
            let predicate =
                Rewrite { schema: &schema }.condition(filter.predicate, false, false)?;
            let filter = Filter::try_new(predicate, filter.input)?;
            Ok(Transformed::yes(LogicalPlan::Filter(filter)))
        })?;
        Ok(changed.data)
    }
}

struct Rewrite<'a> {
    /// Of the rows that the condition is about.
    schema: &'a DFSchema,
}

impl Rewrite<'_> {
    /// The condition, or its negation. Unless `exact`, null may become false.
    fn condition(&self, condition: Expr, negate: bool, exact: bool) -> Result<Expr> {
        if !has_membership(&condition)? {
            return Ok(if negate { !condition } else { condition });
        }
        match condition {
            Expr::Not(inner) => self.condition(*inner, !negate, exact),
            Expr::BinaryExpr(BinaryExpr { left, op, right })
                if matches!(op, Operator::And | Operator::Or) =>
            {
                let left = self.condition(*left, negate, exact)?;
                let right = self.condition(*right, negate, exact)?;
                // De Morgan's laws hold for three values, too.
                Ok(match (op == Operator::And) != negate {
                    true => left.and(right),
                    false => left.or(right),
                })
            }
            Expr::InSubquery(membership) => {
                let negated = membership.negated != negate;
                match (exact, negated) {
                    (false, false) => self.is_in(&membership),
                    (false, true) => self.is_not_in(&membership),
                    (true, _) => Ok(Expr::Case(Case::new(
                        None,
                        vec![
                            (Box::new(self.is_in(&membership)?), Box::new(lit(!negated))),
                            (
                                Box::new(self.is_not_in(&membership)?),
                                Box::new(lit(negated)),
                            ),
                        ],
                        Some(Box::new(lit(ScalarValue::Boolean(None)))),
                    ))),
                }
            }
            other => {
                let changed = other.map_children(|child| {
                    self.condition(child, false, true).map(Transformed::yes)
                })?;
                Ok(if negate { !changed.data } else { changed.data })
            }
        }
    }

    /// True where `x in (s)` is; false where it is false or null.
    fn is_in(&self, membership: &InSubquery) -> Result<Expr> {
        let (value, _) = column(&membership.subquery)?;
        let equal = value.eq(self.outer((*membership.expr).clone())?);
        Ok(exists(rows_with(&membership.subquery, equal)?))
    }

    /// True where `x not in (s)` is; false where it is false or null.
    fn is_not_in(&self, membership: &InSubquery) -> Result<Expr> {
        let subquery = &membership.subquery;
        let sought = &*membership.expr;
        let (value, may_be_null) = column(subquery)?;
        let equal = value.clone().eq(self.outer(sought.clone())?);
        let mut all = not_exists(rows_with(subquery, equal)?);
        if may_be_null {
            all = all.and(not_exists(rows_with(subquery, value.is_null())?));
        }
        if sought.nullable(self.schema)? {
            let empty = not_exists(Arc::clone(&subquery.subquery));
            all = all.and(sought.clone().is_not_null().or(empty));
        }
        Ok(all)
    }

    /// The expression as the subquery sees it.
    fn outer(&self, expression: Expr) -> Result<Expr> {
        let outer = expression.transform_up(|node| match node {
            Expr::Column(column) => {
                let field = Arc::clone(self.schema.field_from_column(&column)?);
                Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(outer.data)
    }
}

/// The only column of a subquery, and whether it may be null.
fn column(subquery: &Subquery) -> Result<(Expr, bool)> {
    match subquery.subquery.schema().iter().collect::<Vec<_>>()[..] {
        [(qualifier, field)] => {
            let column = Column::new(qualifier.cloned(), field.name());
            Ok((Expr::Column(column), field.is_nullable()))
        }
        _ => Err(told(Error::new(
            Class::Configuration,
            "sql.subquery-columns",
        ))),
    }
}

/// The rows of a subquery for which a condition is true.
fn rows_with(subquery: &Subquery, condition: Expr) -> Result<Arc<LogicalPlan>> {
    let rows = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone());
    Ok(Arc::new(rows.filter(condition)?.build()?))
}

fn has_membership(expression: &Expr) -> Result<bool> {
    expression.exists(|node| Ok(matches!(node, Expr::InSubquery(_))))
}

/// Only conditions can hold `in (select ...)` and `exists`.
fn refuse_elsewhere(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut found = false;
    plan.apply_expressions(|expression| {
        found |= expression.exists(|node| {
            Ok(matches!(
                node,
                Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_)
            ))
        })?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    match found {
        true => Err(told(Error::new(Class::Configuration, "sql.subquery-place"))),
        false => Ok(plan),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    In,
    Exists,
    Scalar,
}

/// DataFusion runs a correlated subquery once, without its correlated condition, and joins the result on it. That
/// is right only if nothing between the condition and the subquery's result depends on which rows there are.
fn refuse_misplaced(subquery: &Subquery, place: Place) -> Result<()> {
    if subquery.outer_ref_columns.is_empty() {
        return Ok(());
    }
    let mut top = &*subquery.subquery;
    if place == Place::Exists {
        // One row is as good as all.
        while let LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) = top {
            top = top.inputs()[0];
        }
        if let LogicalPlan::Limit(limit) = top
            && limit.skip.is_none()
        {
            top = &limit.input;
        }
    }
    let mut aggregates = 0;
    top.apply(|node| {
        let below = node.inputs().iter().any(|input| is_correlated(input));
        if !below {
            return Ok(TreeNodeRecursion::Continue);
        }
        let sees_all = match node {
            LogicalPlan::Aggregate(aggregate) if aggregate.aggr_expr.is_empty() => false,
            LogicalPlan::Aggregate(aggregate) => {
                aggregates += 1;
                let misplaced = match place {
                    Place::Scalar => aggregates > 1 || !aggregate.group_expr.is_empty(),
                    Place::In | Place::Exists => aggregate.group_expr.is_empty(),
                };
                misplaced || !is_linked_by_equality(node)?
            }
            LogicalPlan::Join(join) => join.join_type != JoinType::Inner,
            // DataFusion adds columns below an alias without adding them to it.
            LogicalPlan::SubqueryAlias(_) => true,
            LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::Sort(_) => false,
            LogicalPlan::Distinct(Distinct::All(_)) => place == Place::Scalar,
            _ => true,
        };
        match sees_all {
            true => Err(told(Error::new(
                Class::Configuration,
                "sql.subquery-correlated",
            ))),
            false => Ok(TreeNodeRecursion::Continue),
        }
    })?;
    Ok(())
}

/// Whether the plan or one below it refers to the outer query.
fn is_correlated(plan: &LogicalPlan) -> bool {
    !plan.all_out_ref_exprs().is_empty()
}

/// Whether every correlated condition compares a column for equality: only then can rows be aggregated for each
/// value of that column, and the result be joined on it.
fn is_linked_by_equality(plan: &LogicalPlan) -> Result<bool> {
    let mut linked = true;
    plan.apply(|node| {
        if let LogicalPlan::Filter(filter) = node {
            let correlated = split_conjunction(&filter.predicate);
            let mut correlated = correlated.into_iter().filter(|each| each.contains_outer());
            linked &= correlated.all(|condition| match condition {
                Expr::BinaryExpr(BinaryExpr { left, op, right }) if *op == Operator::Eq => {
                    let is_column = |side: &Expr| matches!(side, Expr::Column(_));
                    (is_column(left) && !right.any_column_refs())
                        || (is_column(right) && !left.any_column_refs())
                }
                _ => false,
            });
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(linked)
}
