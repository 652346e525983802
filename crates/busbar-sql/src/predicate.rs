use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, SchemaRef};
use busbar_event::{Class, Error};

use datafusion_sql::sqlparser::ast::Expr;

use crate::explain::kernel_error;
use crate::expression::{Expression, isolate};
use crate::stack::deep;
use crate::{Diagnostic, Failed, check, parse, text};

/// A condition such as `level_mm >= 50 and status <> 'test'`.
///
/// ```
/// use std::sync::Arc;
/// use arrow::array::{ArrayRef, Int64Array, RecordBatch};
///
/// let levels: ArrayRef = Arc::new(Int64Array::from(vec![Some(10), Some(62), None]));
/// let batch = RecordBatch::try_from_iter([("level_mm", levels)]).unwrap();
/// let high = busbar_sql::Predicate::compile(&batch.schema(), "level_mm >= 50").unwrap();
/// assert_eq!(high.filter(&batch).unwrap().num_rows(), 1);
///
/// let wrong = busbar_sql::Predicate::compile(&batch.schema(), "levl_mm >= 50").unwrap_err();
/// assert_eq!(wrong.span(), 0..7);
/// assert_eq!(wrong.suggestion(), Some("level_mm"));
/// ```
#[derive(Clone, Debug)]
pub struct Predicate {
    expression: Expression,
}

impl Predicate {
    /// Compiles a condition over rows of `schema`. It must be boolean, and null counts as false. Functions that do
    /// not always return the same for the same event, such as `now()`, are refused.
    pub fn compile(schema: &SchemaRef, text: &str) -> Result<Self, Diagnostic> {
        let lost = |error| Diagnostic::from_error(error, 0..text.len());
        deep(lost, || Self::compiled(schema, text))
    }

    fn compiled(schema: &SchemaRef, text: &str) -> Result<Self, Diagnostic> {
        Self::of_parsed(schema, text, parse::expression(text)?)
    }

    /// Compiles a condition that was parsed from a part of `text`.
    pub(crate) fn of_parsed(
        schema: &SchemaRef,
        text: &str,
        parsed: Expr,
    ) -> Result<Self, Diagnostic> {
        let place = check::place(text, &parsed).unwrap_or(0..text.len());
        let expression = Expression::compile(schema, text, parsed)?;
        match expression.data_type() {
            DataType::Boolean | DataType::Null => Ok(Self { expression }),
            other => Err(Diagnostic::new("sql.not-a-condition", place)
                .with("expression", text::quote(text.trim()))
                .with("type", check::word(other))),
        }
    }

    /// Indexes in the schema of the columns that it reads, sorted.
    pub fn columns(&self) -> Vec<usize> {
        self.expression.columns()
    }

    /// The same condition for batches of another schema that has its columns, such as one with only the columns
    /// that a flow reads.
    pub fn bind(&self, schema: &SchemaRef) -> Result<Self, Error> {
        let expression = self.expression.bind(schema)?;
        Ok(Self { expression })
    }

    /// The result for each row. If it fails for a row, the whole batch fails; [`Predicate::failing`] finds the
    /// rows.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanArray, Error> {
        let array = self.expression.evaluate(batch)?;
        match array.data_type() {
            DataType::Boolean => Ok(array.as_boolean().clone()),
            DataType::Null => Ok(BooleanArray::new_null(batch.num_rows())),
            _ => Err(Error::new(Class::Permanent, "sql.evaluate")),
        }
    }

    /// The rows for which it is true.
    pub fn filter(&self, batch: &RecordBatch) -> Result<RecordBatch, Error> {
        let mask = self.evaluate(batch)?;
        filter_record_batch(batch, &mask).map_err(kernel_error)
    }

    /// The rows for which it fails, each with its cause, in order.
    pub fn failing(&self, batch: &RecordBatch) -> Vec<Failed> {
        isolate(batch.num_rows(), &mut |rows| {
            let slice = batch.slice(rows.start, rows.len());
            self.expression.evaluate(&slice).err()
        })
    }
}
