//! The session that plans every expression and query: functions, options and optimizer rules.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion_common::alias::AliasGenerator;
use datafusion_common::config::{ConfigOptions, TableOptions};
use datafusion_common::{DFSchema, Result, plan_datafusion_err};
use datafusion_execution::TaskContext;
use datafusion_execution::config::SessionConfig;
use datafusion_execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion_execution::memory_pool::GreedyMemoryPool;
use datafusion_execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::planner::ExprPlanner;
use datafusion_expr::registry::{
    ExtensionTypeRegistryRef, FunctionRegistry, MemoryExtensionTypeRegistry,
};
use datafusion_expr::simplify::SimplifyContext;
use datafusion_expr::{AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, ScalarUDF, WindowUDF};
use datafusion_functions::core::planner::CoreFunctionPlanner;
use datafusion_functions::datetime::planner::DatetimeFunctionPlanner;
use datafusion_functions::regex::regexp_like;
use datafusion_functions::unicode::planner::UnicodeFunctionPlanner;
use datafusion_functions_aggregate::planner::AggregateFunctionPlanner;
use datafusion_functions_window::planner::WindowFunctionPlanner;
use datafusion_optimizer::analyzer::resolve_grouping_function::ResolveGroupingFunction;
use datafusion_optimizer::analyzer::type_coercion::TypeCoercion;
use datafusion_optimizer::simplify_expressions::ExprSimplifier;
use datafusion_optimizer::{Analyzer, Optimizer, OptimizerConfig};
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion_physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion_physical_plan::ExecutionPlan;
use datafusion_session::{
    CatalogProviderList, EmptyCatalogProviderList, PhysicalOptimizerRule, Session,
};

use crate::budget::Budget;
use crate::functions;
use crate::limits::BATCH_ROWS;
use crate::operators::{FieldAccess, TextOperators};
use crate::physical::{self, PlanSession};
use crate::rewrite::{CheckedIntegers, NegatedMembership};

static STATE: LazyLock<SessionState> = LazyLock::new(SessionState::shared);

/// The names of all functions, for suggestions.
static FUNCTIONS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let state = state();
    let mut names: Vec<String> = state
        .scalar_functions
        .keys()
        .chain(state.aggregate_functions.keys())
        .chain(state.window_functions.keys())
        .cloned()
        .collect();
    names.sort_unstable();
    names.dedup();
    names
});

/// The session that plans expressions. Those of queries are copies of it.
pub(crate) fn state() -> &'static SessionState {
    &STATE
}

/// A session for one query, with a memory pool of `bytes_max`.
///
/// # Errors
/// DataFusion cannot build its runtime.
pub(crate) fn state_for(budget: &Arc<Budget>, bytes_max: usize) -> Result<SessionState> {
    let mut state = STATE.clone();
    state.runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(bytes_max)))
        .with_disk_manager_builder(
            DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled),
        )
        .build_arc()?;
    state.expr_planners = expr_planners(Some(budget));
    state.scalar_functions = scalar_functions(&state.config, Some(budget));
    // Fixes what `now()` returns.
    let options = Arc::clone(state.config.options());
    state.execution_props.mark_start_execution(options);
    Ok(state)
}

pub(crate) fn function_names() -> &'static [String] {
    &FUNCTIONS
}

/// What planning and running a query needs to know.
#[derive(Clone)]
pub(crate) struct SessionState {
    config: SessionConfig,
    runtime: Arc<RuntimeEnv>,
    execution_props: ExecutionProps,
    expr_planners: Vec<Arc<dyn ExprPlanner>>,
    scalar_functions: HashMap<String, Arc<ScalarUDF>>,
    higher_order_functions: HashMap<String, Arc<HigherOrderUDF>>,
    aggregate_functions: HashMap<String, Arc<AggregateUDF>>,
    window_functions: HashMap<String, Arc<WindowUDF>>,
    extension_types: ExtensionTypeRegistryRef,
    table_options: TableOptions,
    analyzer: Arc<Analyzer>,
    optimizer: Arc<Optimizer>,
    physical_optimizer: Arc<PhysicalOptimizer>,
}

impl SessionState {
    fn shared() -> Self {
        let mut config = SessionConfig::new()
            // One partition: a query uses one core, and the others stay free for events.
            .with_target_partitions(1)
            .with_batch_size(BATCH_ROWS)
            .with_information_schema(false)
            .with_create_default_catalog_and_schema(false);
        // With it, `select distinct` over a window with a limit fails with an internal error.
        let optimizer = &mut config.options_mut().optimizer;
        optimizer.enable_distinct_aggregation_soft_limit = false;
        let parser = &mut config.options_mut().sql_parser;
        parser.collect_spans = true;
        parser.map_string_types_to_utf8view = false;
        let mut aggregate_functions = HashMap::new();
        let aggregates = datafusion_functions_aggregate::all_default_aggregate_functions();
        for function in functions::aggregates(aggregates) {
            let names = names(function.name(), function.aliases());
            aggregate_functions.extend(names.map(|name| (name, Arc::clone(&function))));
        }
        let mut window_functions = HashMap::new();
        for function in datafusion_functions_window::all_default_window_functions() {
            let names = names(function.name(), function.aliases());
            window_functions.extend(names.map(|name| (name, Arc::clone(&function))));
        }
        Self {
            runtime: Arc::default(),
            execution_props: ExecutionProps::new(),
            expr_planners: expr_planners(None),
            scalar_functions: scalar_functions(&config, None),
            higher_order_functions: HashMap::new(),
            aggregate_functions,
            window_functions,
            extension_types: Arc::new(MemoryExtensionTypeRegistry::default()),
            table_options: TableOptions::default_from_session_config(config.options()),
            analyzer: Arc::new(Analyzer::with_rules(vec![
                Arc::new(NegatedMembership),
                Arc::new(ResolveGroupingFunction::new()),
                Arc::new(TypeCoercion::new()),
                Arc::new(CheckedIntegers),
            ])),
            optimizer: Arc::new(Optimizer::new()),
            physical_optimizer: Arc::new(physical::rules()),
            config,
        }
    }

    /// The planners of operators and field accesses.
    pub fn expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.expr_planners
    }

    /// The options of planning and running.
    pub fn config_options(&self) -> &Arc<ConfigOptions> {
        self.config.options()
    }

    /// From a logical plan to one that runs.
    pub fn create_physical_plan(&self, logical: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
        physical::plan(self, logical)
    }

    /// An expression over rows of `schema`, with its types made to fit.
    pub fn create_physical_expr(
        &self,
        expr: Expr,
        schema: &DFSchema,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let context = SimplifyContext::builder()
            .with_schema(Arc::new(schema.clone()))
            .with_config_options(Arc::clone(self.config_options()))
            .with_query_execution_start_time(self.execution_props.query_execution_start_time)
            .build();
        let expr = ExprSimplifier::new(context).coerce(expr, schema)?;
        let planning = PhysicalPlanningContext::default();
        create_physical_expr(&expr, schema, &self.execution_props, &planning)
    }

    /// The plan with the types of operators' sides made to fit each other.
    pub fn analyze(&self, logical: LogicalPlan) -> Result<LogicalPlan> {
        self.analyzer
            .execute_and_check(logical, self.config.options(), |_, _| {})
    }

    /// What physical expressions are made with.
    pub fn execution_props(&self) -> &ExecutionProps {
        &self.execution_props
    }

    /// What operators are given to run with.
    pub fn task_ctx(&self) -> Arc<TaskContext> {
        let session: &dyn Session = self;
        Arc::new(TaskContext::from(session))
    }
}

fn names(name: &str, aliases: &[String]) -> impl Iterator<Item = String> {
    let mut names = aliases.to_vec();
    names.push(name.to_owned());
    names.into_iter()
}

/// Every scalar function, with its bounds.
fn scalar_functions(
    config: &SessionConfig,
    budget: Option<&Arc<Budget>>,
) -> HashMap<String, Arc<ScalarUDF>> {
    let mut functions = HashMap::new();
    let all = datafusion_functions::all_default_functions()
        .into_iter()
        .chain(functions::all());
    for function in all {
        let function = functions::bounded(function, budget);
        let function = match function.inner().with_updated_config(config.options()) {
            Some(configured) => Arc::new(configured),
            None => function,
        };
        let names = names(function.name(), function.aliases());
        functions.extend(names.map(|name| (name, Arc::clone(&function))));
    }
    functions
}

fn expr_planners(budget: Option<&Arc<Budget>>) -> Vec<Arc<dyn ExprPlanner>> {
    vec![
        Arc::new(CoreFunctionPlanner::default()),
        Arc::new(DatetimeFunctionPlanner),
        Arc::new(UnicodeFunctionPlanner),
        Arc::new(AggregateFunctionPlanner),
        Arc::new(WindowFunctionPlanner),
        Arc::new(FieldAccess),
        Arc::new(TextOperators {
            concat: functions::bounded(functions::concat_texts(), budget),
            regexp_like: functions::bounded(regexp_like(), budget),
        }),
    ]
}

#[async_trait]
impl Session for SessionState {
    fn session_id(&self) -> &str {
        "busbar"
    }

    fn config(&self) -> &SessionConfig {
        &self.config
    }

    fn catalog_list(&self) -> Arc<dyn CatalogProviderList> {
        Arc::new(EmptyCatalogProviderList)
    }

    fn physical_optimizers(&self) -> &[Arc<dyn PhysicalOptimizerRule + Send + Sync>] {
        &self.physical_optimizer.rules
    }

    async fn create_physical_plan(&self, logical: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
        SessionState::create_physical_plan(self, logical)
    }

    fn create_physical_expr(&self, expr: Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
        SessionState::create_physical_expr(self, expr, schema)
    }

    fn scalar_functions(&self) -> &HashMap<String, Arc<ScalarUDF>> {
        &self.scalar_functions
    }

    fn higher_order_functions(&self) -> &HashMap<String, Arc<HigherOrderUDF>> {
        &self.higher_order_functions
    }

    fn aggregate_functions(&self) -> &HashMap<String, Arc<AggregateUDF>> {
        &self.aggregate_functions
    }

    fn window_functions(&self) -> &HashMap<String, Arc<WindowUDF>> {
        &self.window_functions
    }

    fn extension_type_registry(&self) -> &ExtensionTypeRegistryRef {
        &self.extension_types
    }

    fn runtime_env(&self) -> &Arc<RuntimeEnv> {
        &self.runtime
    }

    fn execution_props(&self) -> &ExecutionProps {
        &self.execution_props
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn table_options(&self) -> &TableOptions {
        &self.table_options
    }

    fn table_options_mut(&mut self) -> &mut TableOptions {
        &mut self.table_options
    }

    fn task_ctx(&self) -> Arc<TaskContext> {
        SessionState::task_ctx(self)
    }
}

impl PlanSession for SessionState {
    fn analyzer(&self) -> &Analyzer {
        &self.analyzer
    }

    fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }
}

impl OptimizerConfig for SessionState {
    fn query_execution_start_time(&self) -> Option<DateTime<Utc>> {
        self.execution_props.query_execution_start_time
    }

    fn alias_generator(&self) -> &Arc<AliasGenerator> {
        &self.execution_props.alias_generator
    }

    fn options(&self) -> Arc<ConfigOptions> {
        Arc::clone(self.config.options())
    }

    fn function_registry(&self) -> Option<&dyn FunctionRegistry> {
        Some(self)
    }
}

/// Optimizer rules look up functions by name.
impl FunctionRegistry for SessionState {
    fn udfs(&self) -> HashSet<String> {
        self.scalar_functions.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> HashSet<String> {
        self.higher_order_functions.keys().cloned().collect()
    }

    fn udafs(&self) -> HashSet<String> {
        self.aggregate_functions.keys().cloned().collect()
    }

    fn udwfs(&self) -> HashSet<String> {
        self.window_functions.keys().cloned().collect()
    }

    fn udf(&self, name: &str) -> Result<Arc<ScalarUDF>> {
        found(&self.scalar_functions, name)
    }

    fn higher_order_function(&self, name: &str) -> Result<Arc<HigherOrderUDF>> {
        found(&self.higher_order_functions, name)
    }

    fn udaf(&self, name: &str) -> Result<Arc<AggregateUDF>> {
        found(&self.aggregate_functions, name)
    }

    fn udwf(&self, name: &str) -> Result<Arc<WindowUDF>> {
        found(&self.window_functions, name)
    }

    fn expr_planners(&self) -> Vec<Arc<dyn ExprPlanner>> {
        self.expr_planners.clone()
    }
}

fn found<T>(functions: &HashMap<String, Arc<T>>, name: &str) -> Result<Arc<T>> {
    let function = functions.get(name).map(Arc::clone);
    function.ok_or_else(|| plan_datafusion_err!("there is no function \"{name}\""))
}
