//! DataFusion's state: functions, rules and options, the same for expressions and queries.

use std::sync::{Arc, LazyLock};

use datafusion::execution::SessionStateDefaults;
use datafusion::execution::context::SessionState;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::functions::regex::regexp_like;
use datafusion::logical_expr::ScalarUDF;
use datafusion::logical_expr::planner::ExprPlanner;
use datafusion::prelude::SessionConfig;

use crate::budget::Budget;
use crate::functions;
use crate::limits::BATCH_ROWS;
use crate::planner::{FieldAccess, TextOperators};

static STATE: LazyLock<SessionState> = LazyLock::new(|| build(Arc::default()));

/// The names of all functions, for suggestions.
static FUNCTIONS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let state = state();
    let mut names: Vec<String> = state
        .scalar_functions()
        .keys()
        .chain(state.aggregate_functions().keys())
        .chain(state.window_functions().keys())
        .cloned()
        .collect();
    names.sort_unstable();
    names.dedup();
    names
});

/// The state that plans everything and runs what works on one batch.
pub(crate) fn state() -> &'static SessionState {
    &STATE
}

/// A state that runs one query within the bounds of `runtime` and `budget`.
pub(crate) fn state_within(runtime: Arc<RuntimeEnv>, budget: &Arc<Budget>) -> SessionState {
    let mut state = SessionStateBuilder::new_from_existing(STATE.clone())
        .with_runtime_env(runtime)
        .with_expr_planners(planners(Some(budget)))
        .with_scalar_functions(scalars(Some(budget)))
        .build();
    // From here on `now()` is this moment.
    state.mark_start_execution();
    state
}

pub(crate) fn function_names() -> &'static [String] {
    &FUNCTIONS
}

fn build(runtime: Arc<RuntimeEnv>) -> SessionState {
    let mut config = SessionConfig::new()
        // One partition: a query takes one core and leaves the others to the events.
        .with_target_partitions(1)
        .with_batch_size(BATCH_ROWS)
        .with_information_schema(false)
        .with_create_default_catalog_and_schema(false);
    let parser = &mut config.options_mut().sql_parser;
    parser.collect_spans = true;
    parser.map_string_types_to_utf8view = false;
    SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_expr_planners(planners(None))
        .with_scalar_functions(scalars(None))
        .with_aggregate_functions(SessionStateDefaults::default_aggregate_functions())
        .with_window_functions(SessionStateDefaults::default_window_functions())
        .build()
}

/// Every function of one row, with its bounds.
fn scalars(budget: Option<&Arc<Budget>>) -> Vec<Arc<ScalarUDF>> {
    SessionStateDefaults::default_scalar_functions()
        .into_iter()
        .chain(functions::all())
        .map(|function| functions::bounded(function, budget))
        .collect()
}

fn planners(budget: Option<&Arc<Budget>>) -> Vec<Arc<dyn ExprPlanner>> {
    let mut planners = SessionStateDefaults::default_expr_planners();
    planners.push(Arc::new(FieldAccess));
    planners.push(Arc::new(TextOperators {
        concat: functions::bounded(functions::concat_texts(), budget),
        regexp_like: functions::bounded(regexp_like(), budget),
    }));
    planners
}
