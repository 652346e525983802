//! The rules of the physical optimizer, of which those that move filters need unique names.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion_common::Result;
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion_physical_plan::ExecutionPlan;
use datafusion_session::PhysicalOptimizerRule;

/// All rules, in DataFusion's order.
pub(crate) fn rules() -> PhysicalOptimizer {
    let rules = PhysicalOptimizer::new().rules.into_iter();
    let rules = rules.map(|rule| match rule.name().starts_with("FilterPushdown") {
        true => Arc::new(OfUniqueNames(rule)) as Arc<dyn PhysicalOptimizerRule + Send + Sync>,
        false => rule,
    });
    PhysicalOptimizer::with_rules(rules.collect())
}

/// A rule that is only applied if no operator returns two columns of one name.
///
/// The rules that push filters down find the columns of an input by name. Of two columns of one name, such as `s` of
/// both sides of a join, they may take the wrong one. The logical optimizer has pushed down the conditions of the
/// query already; what is lost is filters that are only known while a query runs.
#[derive(Debug)]
struct OfUniqueNames(Arc<dyn PhysicalOptimizerRule + Send + Sync>);

impl PhysicalOptimizerRule for OfUniqueNames {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match names_are_unique(&plan)? {
            true => self.0.optimize(plan, config),
            false => Ok(plan),
        }
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

fn names_are_unique(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let mut unique = true;
    plan.apply(|node| {
        let schema = node.schema();
        let mut names = HashSet::new();
        unique &= schema
            .fields()
            .iter()
            .all(|field| names.insert(field.name()));
        Ok(match unique {
            true => TreeNodeRecursion::Continue,
            false => TreeNodeRecursion::Stop,
        })
    })?;
    Ok(unique)
}
