//! `where`: keeps the rows for which a condition is true.

use std::sync::Arc;

use arrow::array::Array;
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::SchemaRef;
use busbar_event::Error;
use busbar_sql::{Failed, Predicate};
use futures::future::{BoxFuture, FutureExt, ready};

use super::{Operator, Output, Rows, Step, StepContext, Wrong};

/// Compiles the condition.
pub(super) fn compile(text: &str, context: &StepContext<'_>) -> Result<Arc<dyn Step>, Wrong> {
    let predicate = Predicate::compile(context.schema, text)?;
    Ok(Arc::new(Where(predicate)))
}

struct Where(Predicate);

impl Step for Where {
    fn schema(&self) -> Option<SchemaRef> {
        None
    }

    fn columns(&self) -> Vec<usize> {
        self.0.columns()
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        Ok(Box::new(Where(self.0.bind(schema)?)))
    }
}

impl Operator for Where {
    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        ready(keep(&self.0, rows).map(|kept| out.push(kept))).boxed()
    }

    fn failing(&mut self, rows: &Rows) -> Vec<Failed> {
        self.0.failing(&rows.batch)
    }
}

/// The rows for which a condition is true.
///
/// # Errors
/// As [`Predicate::evaluate`].
pub(super) fn keep(condition: &Predicate, rows: Rows) -> Result<Rows, Error> {
    let mask = condition.evaluate(&rows.batch)?;
    let mask = match mask.null_count() {
        0 => mask,
        _ => prep_null_mask_filter(&mask),
    };
    match mask.true_count() == rows.len() {
        true => Ok(rows),
        false => rows.filter(&mask),
    }
}
