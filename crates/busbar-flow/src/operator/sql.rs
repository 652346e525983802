//! `sql`: a query over each batch, or over windows of time.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use busbar_event::{Class, Error};
use busbar_sql::{BatchQuery, Failed, WindowQuery};
use futures::future::{BoxFuture, FutureExt, ready};

use super::{Made, Operator, Output, Rows, Step, StepContext, Wrong, window};

/// Compiles the query.
pub(super) fn compile(text: &str, context: &StepContext<'_>) -> Result<Arc<dyn Step>, Wrong> {
    if let Some(query) = WindowQuery::parse(text)? {
        return window::compile_query(&query, context);
    }
    let query = BatchQuery::compile(context.schema, text)?;
    // Rows come in batches as it happens: a sum over a batch would be another one at the next replay.
    if let Some(word) = query.across_rows() {
        let at = text.to_lowercase().find(word);
        let error = Error::new(Class::Configuration, "flow.sql-across-rows").with("word", word);
        return Err(Wrong {
            span: at.map(|at| at..at + word.len()),
            ..Wrong::new(error)
        });
    }
    Ok(Arc::new(Sql(query)))
}

struct Sql(BatchQuery);

impl Step for Sql {
    fn schema(&self) -> Option<SchemaRef> {
        Some(self.0.schema())
    }

    fn columns(&self) -> Vec<usize> {
        self.0.columns()
    }

    fn row_by_row(&self) -> bool {
        false
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        // A query keeps what it works on: each task has its own.
        Ok(Box::new(Sql(self.0.bind(schema)?)))
    }
}

impl Operator for Sql {
    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let result = self.0.execute(&rows.batch);
        ready(result.map(|batch| {
            out.push(Rows {
                batch,
                made: Made::Many,
                times: None,
            });
        }))
        .boxed()
    }

    fn failing(&mut self, rows: &Rows) -> Vec<Failed> {
        // The rows that are left are asked as one batch again: halves of a batch may answer otherwise than the whole.
        let mut failed = Vec::new();
        let mut open: Vec<_> = std::iter::once(0..rows.len()).collect();
        while let Some(range) = open.pop() {
            let part = rows.batch.slice(range.start, range.len());
            let Err(cause) = self.0.execute(&part) else {
                continue;
            };
            match range.len() {
                0 => {}
                1 => failed.push(Failed {
                    row: range.start,
                    cause,
                }),
                length => {
                    let middle = range.start + length / 2;
                    open.push(middle..range.end);
                    open.push(range.start..middle);
                }
            }
        }
        failed
    }
}
