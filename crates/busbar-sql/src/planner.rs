//! From parsed SQL to DataFusion's logical plans.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::config::ConfigOptions;
use datafusion_common::{Result, TableReference, plan_datafusion_err};
use datafusion_expr::planner::ExprPlanner;
use datafusion_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF};
use datafusion_session::Session;
use datafusion_sql::planner::{ContextProvider, ParserOptions, SqlToRel};

use crate::session::SessionState;

/// What the planner asks about: functions, and the relations that were looked up beforehand.
pub(crate) struct Context<'a> {
    state: &'a SessionState,
    relations: HashMap<String, Arc<dyn TableSource>>,
}

impl<'a> Context<'a> {
    pub fn new(state: &'a SessionState) -> Self {
        Self {
            state,
            relations: HashMap::new(),
        }
    }

    pub fn add(&mut self, name: &str, source: Arc<dyn TableSource>) {
        self.relations.insert(name.to_owned(), source);
    }

    pub fn planner(&self) -> SqlToRel<'_, Self> {
        let options = ParserOptions::from(&self.state.config().options().sql_parser);
        SqlToRel::new_with_options(self, options)
    }
}

impl ContextProvider for Context<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        let before = name.catalog().into_iter().chain(name.schema());
        let known: Vec<&str> = before.chain([name.table()]).collect();
        let known = known.join(".");
        self.relations
            .get(&known)
            .cloned()
            .ok_or_else(|| plan_datafusion_err!("table '{name}' not found"))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.state.expr_planners()
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.state.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.state.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.state.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.state.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _variable_names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        self.state.scalar_functions().keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.state
            .higher_order_functions()
            .keys()
            .cloned()
            .collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.state.aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.state.window_functions().keys().cloned().collect()
    }
}
