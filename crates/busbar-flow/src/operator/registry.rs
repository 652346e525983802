//! The kinds of steps: one line each.

use std::sync::Arc;

use busbar_catalog::StepSpec;

use super::{Step, StepContext, Wrong, filter, select, sql};

/// Compiles a step of a flow file.
///
/// # Errors
/// What is wrong with it, and where.
pub(crate) fn compile(spec: &StepSpec, context: &StepContext<'_>) -> Result<Arc<dyn Step>, Wrong> {
    match spec {
        StepSpec::Where(condition) => filter::compile(condition, context),
        StepSpec::Select(columns) => select::compile(columns, context),
        StepSpec::Sql(query) => sql::compile(query, context),
    }
}
