//! Window functions.

use std::sync::Arc;

use datafusion_common::{DFSchema, Result, plan_err};
use datafusion_expr::expr::NullTreatment;
use datafusion_expr::{Expr, Window, WindowFrame, WindowFrameBound};
use datafusion_physical_plan::windows::{BoundedWindowAggExec, WindowAggExec, create_window_expr};
use datafusion_physical_plan::{ExecutionPlan, InputOrderMode, WindowExpr};

use super::lower::Lowering;

impl Lowering<'_> {
    pub(super) fn window(
        &self,
        window: &Window,
        input: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let functions = window
            .window_expr
            .iter()
            .map(|expr| self.window_function(expr, &window.schema))
            .collect::<Result<Vec<_>>>()?;
        Ok(match functions.iter().all(|f| f.uses_bounded_memory()) {
            true => Arc::new(BoundedWindowAggExec::try_new(
                functions,
                input,
                InputOrderMode::Sorted,
                false,
            )?),
            false => Arc::new(WindowAggExec::try_new(functions, input, false)?),
        })
    }

    fn window_function(&self, expr: &Expr, schema: &DFSchema) -> Result<Arc<dyn WindowExpr>> {
        let (name, expr) = match expr {
            Expr::Alias(alias) => {
                let inner = alias.expr.as_ref().clone().unalias_nested().data;
                (alias.name.clone(), inner)
            }
            _ => (expr.schema_name().to_string(), expr.clone()),
        };
        let Expr::WindowFunction(function) = expr else {
            return plan_err!("a window function was expected, not {expr}");
        };
        let params = &function.params;
        if !is_valid(&params.window_frame) {
            return plan_err!(
                "Invalid window frame: start bound ({}) cannot be larger than end bound ({})",
                params.window_frame.start_bound,
                params.window_frame.end_bound
            );
        }
        let filter = params.filter.as_ref();
        let filter = filter.map(|filter| self.expr(filter, schema)).transpose()?;
        create_window_expr(
            &function.fun,
            name,
            &self.exprs(&params.args, schema)?,
            &self.exprs(&params.partition_by, schema)?,
            &self.sort_exprs(&params.order_by, schema)?,
            Arc::new(params.window_frame.clone()),
            Arc::clone(schema.inner()),
            params.null_treatment == Some(NullTreatment::IgnoreNulls),
            params.distinct,
            filter,
        )
    }
}

/// Whether a frame ends no earlier than it begins. Its bounds have the type of the column they order by
/// only here.
fn is_valid(frame: &WindowFrame) -> bool {
    use WindowFrameBound::{CurrentRow, Following, Preceding};
    match (&frame.start_bound, &frame.end_bound) {
        (Following(_), Preceding(_) | CurrentRow) | (CurrentRow, Preceding(_)) => false,
        (Preceding(first), Preceding(last)) => {
            !last.is_null() && (first.is_null() || first >= last)
        }
        (Following(first), Following(last)) => {
            !first.is_null() && (last.is_null() || first <= last)
        }
        _ => true,
    }
}
