//! Whether what a query says of a row depends on the other rows of its batch.

use datafusion_common::tree_node::TreeNodeRecursion;
use datafusion_expr::LogicalPlan;

/// What in a query over one relation looks at several rows: where the rows happen to come in other batches, it answers
/// otherwise. None if each row is judged by itself.
pub(crate) fn across_rows(plan: &LogicalPlan) -> Option<&'static str> {
    let (mut found, mut scans, mut meets) = (None, 0, None);
    let walked = plan.apply_with_subqueries(|node| {
        let across = match node {
            LogicalPlan::Aggregate(_) => Some("group by"),
            LogicalPlan::Distinct(_) => Some("distinct"),
            LogicalPlan::Window(_) => Some("over"),
            LogicalPlan::Limit(_) => Some("limit"),
            LogicalPlan::RecursiveQuery(_) => Some("with recursive"),
            _ => None,
        };
        found = found.or(across);
        match node {
            LogicalPlan::TableScan(_) => scans += 1,
            LogicalPlan::Join(_) => meets = meets.or(Some("join")),
            LogicalPlan::Subquery(_) => meets = meets.or(Some("select")),
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok());
    found.or(meets.filter(|_| scans > 1))
}
