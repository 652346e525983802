//! `select`: computes columns from each row.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use busbar_event::Error;
use busbar_sql::{Failed, Projection};
use futures::future::{BoxFuture, FutureExt, ready};

use super::{Operator, Output, Rows, Step, StepContext, Wrong};

/// Compiles the list of columns.
pub(super) fn compile(text: &str, context: &StepContext<'_>) -> Result<Arc<dyn Step>, Wrong> {
    let projection = Projection::compile(context.schema, text)?;
    Ok(Arc::new(Select(projection)))
}

struct Select(Projection);

impl Step for Select {
    fn schema(&self) -> Option<SchemaRef> {
        Some(self.0.schema())
    }

    fn columns(&self) -> Vec<usize> {
        self.0.columns()
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        Ok(Box::new(Select(self.0.bind(schema)?)))
    }
}

impl Operator for Select {
    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let made = self.0.evaluate(&rows.batch);
        ready(made.map(|columns| out.push(rows.with_columns(columns)))).boxed()
    }

    fn failing(&mut self, rows: &Rows) -> Vec<Failed> {
        self.0.failing(&rows.batch)
    }
}
