//! From parsed SQL to DataFusion's logical plans.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DFSchema, Result, TableReference, plan_datafusion_err};
use datafusion::execution::context::SessionState;
use datafusion::functions::core::get_field;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{
    ExprPlanner, PlannerResult, RawBinaryExpr, RawFieldAccessExpr,
};
use datafusion::logical_expr::{
    AggregateUDF, Expr, ExprSchemable, GetFieldAccess, HigherOrderUDF, ScalarUDF, TableSource,
    WindowUDF, lit,
};
use datafusion::sql::planner::{ContextProvider, ParserOptions, SqlToRel};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use crate::functions::text_or_dictionary;

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
        let known = match name.schema() {
            Some(schema) => format!("{schema}.{}", name.table()),
            None => name.table().to_owned(),
        };
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

/// `tags['site']` and `column['field']`: what DataFusion's own planner does in a package that is
/// left out for its weight.
#[derive(Debug)]
pub(crate) struct FieldAccess;

impl ExprPlanner for FieldAccess {
    fn plan_field_access(
        &self,
        access: RawFieldAccessExpr,
        _schema: &DFSchema,
    ) -> Result<PlannerResult<RawFieldAccessExpr>> {
        Ok(match access.field_access {
            GetFieldAccess::NamedStructField { name } => {
                let arguments = vec![access.expr, lit(name)];
                let call = ScalarFunction::new_udf(get_field(), arguments);
                PlannerResult::Planned(Expr::ScalarFunction(call))
            }
            field_access => PlannerResult::Original(RawFieldAccessExpr {
                expr: access.expr,
                field_access,
            }),
        })
    }
}

/// Operators on texts that are planned as calls of functions, whose results and time are bounded: `a || b`,
/// and `a ~ b` with a pattern for each row.
#[derive(Debug)]
pub(crate) struct TextOperators {
    pub concat: Arc<ScalarUDF>,
    pub regexp_like: Arc<ScalarUDF>,
}

impl ExprPlanner for TextOperators {
    fn plan_binary_op(
        &self,
        operation: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        let is_text = |side: &Expr| {
            side.get_type(schema)
                .is_ok_and(|data_type| text_or_dictionary(&data_type).is_some())
        };
        let call = |function: &Arc<ScalarUDF>, arguments| {
            Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(function), arguments))
        };
        // What is no text at all is for DataFusion to refuse.
        let texts = is_text(&operation.left) || is_text(&operation.right);
        let constant = matches!(operation.right, Expr::Literal(..));
        if !texts || (constant && operation.op != BinaryOperator::StringConcat) {
            return Ok(PlannerResult::Original(operation));
        }
        let mut arguments = vec![operation.left, operation.right];
        let ignores_case = matches!(
            operation.op,
            BinaryOperator::PGRegexIMatch | BinaryOperator::PGRegexNotIMatch
        );
        if ignores_case {
            arguments.push(lit("i"));
        }
        Ok(PlannerResult::Planned(match operation.op {
            BinaryOperator::StringConcat => call(&self.concat, arguments),
            BinaryOperator::PGRegexMatch | BinaryOperator::PGRegexIMatch => {
                call(&self.regexp_like, arguments)
            }
            BinaryOperator::PGRegexNotMatch | BinaryOperator::PGRegexNotIMatch => {
                !call(&self.regexp_like, arguments)
            }
            op => {
                let [left, right] = <[Expr; 2]>::try_from(arguments)
                    .map_err(|_| plan_datafusion_err!("an operator has two sides"))?;
                return Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }));
            }
        }))
    }
}
