//! From logical plans to plans that run: the step between DataFusion's optimizers that its umbrella
//! crate would bring, with file formats and catalogs that nothing here uses.
//!
//! It plans what a query may contain (see `statement.rs`) for one partition. Operators, expressions and
//! the rules of both optimizers are DataFusion's.

mod aggregate;
mod explain;
mod join;
mod lower;
mod null_extended;
mod optimize;
mod pushdown;
mod window;

use std::sync::Arc;

use datafusion_common::Result;
use datafusion_expr::LogicalPlan;
use datafusion_optimizer::{Analyzer, Optimizer, OptimizerConfig};
use datafusion_physical_plan::ExecutionPlan;
use datafusion_session::Session;

pub(crate) use pushdown::rules;

/// What planning needs: functions, options and rules.
pub(crate) trait PlanSession: Session + OptimizerConfig {
    /// The rules that check and complete a logical plan.
    fn analyzer(&self) -> &Analyzer;

    /// The rules that improve a logical plan.
    fn optimizer(&self) -> &Optimizer;
}

/// Checks and optimizes a logical plan, and plans its operators.
pub(crate) fn plan(
    session: &dyn PlanSession,
    logical: &LogicalPlan,
) -> Result<Arc<dyn ExecutionPlan>> {
    match logical {
        LogicalPlan::Explain(explain) => explain::explain(session, explain),
        LogicalPlan::Analyze(analyze) => explain::analyze(session, analyze),
        _ => {
            let optimized = optimize::logical(session, logical.clone())?;
            optimize::physical(session, lower::lower(session, &optimized)?, |_, _| {})
        }
    }
}
