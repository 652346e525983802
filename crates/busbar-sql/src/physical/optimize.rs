//! The rules of both optimizers, and the checks between them.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{DataFusionError, Result, internal_err};
use datafusion_expr::LogicalPlan;
use datafusion_physical_plan::ExecutionPlan;
use datafusion_physical_plan::execution_plan::InvariantLevel;
use datafusion_session::{PhysicalOptimizerContext, PhysicalOptimizerRule};

use super::PlanSession;

/// Checks types and names, and applies every rule of the logical optimizer.
pub(super) fn logical(session: &dyn PlanSession, plan: LogicalPlan) -> Result<LogicalPlan> {
    let options = session.config_options();
    let analyzed = session
        .analyzer()
        .execute_and_check(plan, options, |_, _| {})?;
    session.optimizer().optimize(analyzed, session, |_, _| {})
}

/// Applies every rule of the physical optimizer, and shows `observer` the plan after each.
pub(super) fn physical(
    session: &dyn PlanSession,
    mut plan: Arc<dyn ExecutionPlan>,
    mut observer: impl FnMut(&dyn ExecutionPlan, &dyn PhysicalOptimizerRule),
) -> Result<Arc<dyn ExecutionPlan>> {
    check(&plan, InvariantLevel::Always)?;
    for rule in session.physical_optimizers() {
        let before = plan.schema();
        plan = rule
            .optimize_with_context(plan, &RuleOptions(session.config_options()))
            .map_err(|error| DataFusionError::Context(rule.name().to_owned(), Box::new(error)))?;
        if rule.schema_check() && !narrows(&before, &plan.schema()) {
            return internal_err!("the rule {} changed the columns of a plan", rule.name());
        }
        observer(plan.as_ref(), rule.as_ref());
    }
    check(&plan, InvariantLevel::Executable)?;
    Ok(plan)
}

/// The options as rules of the physical optimizer ask for them.
struct RuleOptions<'a>(&'a ConfigOptions);

impl PhysicalOptimizerContext for RuleOptions<'_> {
    fn config_options(&self) -> &ConfigOptions {
        self.0
    }
}

fn check(plan: &Arc<dyn ExecutionPlan>, level: InvariantLevel) -> Result<()> {
    plan.apply(|node| {
        node.check_invariants(level)?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

/// Whether rows of `new` are rows of `old`: the same columns, of which some may no longer be null.
fn narrows(old: &Schema, new: &Schema) -> bool {
    let columns = old.fields().iter().zip(new.fields());
    old.metadata() == new.metadata()
        && old.fields().len() == new.fields().len()
        && columns.into_iter().all(|(old, new)| {
            old.name() == new.name()
                && old.data_type() == new.data_type()
                && old.metadata() == new.metadata()
                && (old.is_nullable() || !new.is_nullable())
        })
}
