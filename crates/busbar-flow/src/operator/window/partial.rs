//! A window in two parts: aggregates within each batch where the events are read, and windows where their states meet.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use busbar_event::{Class, Error};
use busbar_sql::{Aggregation, Failed, Predicate};
use futures::future::{BoxFuture, FutureExt, ready};

use super::super::rows::misfit;
use super::panes::by_pane;
use super::shape::{PaneKey, Shape};
use super::{
    Changes, Open, Operator, Output, Rows, StateReader, Step, Window, WindowOperator, columns,
    counted, failing, misses_times, stops,
};

/// The names of the key columns between the parts.
pub(super) fn keys(aggregation: &Aggregation) -> Vec<String> {
    let schema = aggregation.state_schema();
    let keys = schema.fields()[..aggregation.key_count()].iter();
    keys.map(|field| field.name().clone()).collect()
}

/// What goes from one part to the other: a pane, the first window that counts the rows, and a state.
fn schema(aggregation: &Aggregation) -> SchemaRef {
    let mut fields: Vec<FieldRef> = vec![
        Arc::new(Field::new("pane", DataType::Int64, false)),
        Arc::new(Field::new("first_window", DataType::Int64, false)),
    ];
    fields.extend(aggregation.state_schema().fields().iter().cloned());
    Arc::new(Schema::new(fields))
}

/// Aggregates the rows of each batch by pane and keys.
pub(super) struct Before {
    shape: Shape,
    condition: Option<Predicate>,
    aggregation: Aggregation,
    schema: SchemaRef,
}

impl Before {
    pub fn new(shape: Shape, condition: Option<Predicate>, aggregation: Aggregation) -> Self {
        Self {
            schema: schema(&aggregation),
            shape,
            condition,
            aggregation,
        }
    }
}

impl Step for Before {
    fn schema(&self) -> Option<SchemaRef> {
        Some(Arc::clone(&self.schema))
    }

    fn columns(&self) -> Vec<usize> {
        columns(self.condition.as_ref(), &self.aggregation)
    }

    fn row_by_row(&self) -> bool {
        false
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        Ok(Box::new(Before::new(
            self.shape,
            self.condition
                .as_ref()
                .map(|c| c.bind(schema))
                .transpose()?,
            self.aggregation.bind(schema)?,
        )))
    }
}

impl Operator for Before {
    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let rows = counted(self.condition.as_ref(), rows);
        ready(rows.and_then(|rows| self.aggregate(&rows, out))).boxed()
    }

    fn failing(&mut self, rows: &Rows) -> Vec<Failed> {
        failing(self.condition.as_ref(), &self.aggregation, rows)
    }
}

impl Before {
    fn aggregate(&self, rows: &Rows, out: &mut Output) -> Result<(), Error> {
        let inputs = self.aggregation.inputs(&rows.batch)?;
        let times = rows.times.as_ref().ok_or_else(misses_times)?;
        let (panes, late) = by_pane(&self.shape, &times.times, &times.marks);
        let mut batches = Vec::with_capacity(panes.len());
        let mut ends = Vec::new();
        for (pane, rows) in panes {
            let mut groups = self.aggregation.groups()?;
            rows.update(&mut groups, &inputs)?;
            let state = groups.take_state()?;
            let filled = |value: i64| -> ArrayRef {
                Arc::new(Int64Array::from(vec![value; state.num_rows()]))
            };
            let mut columns = vec![filled(pane.start), filled(pane.first_window)];
            columns.extend(state.columns().iter().cloned());
            ends.extend(vec![self.shape.pane_end(pane.start) - 1; state.num_rows()]);
            batches.push(RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(misfit)?);
        }
        out.taken += inputs.rows() - late.len();
        if !late.is_empty() {
            out.late.push(rows.take(&late.into())?);
        }
        let batch = concat_batches(&self.schema, &batches).map_err(misfit)?;
        out.push(Rows::results(batch, ends));
        Ok(())
    }
}

/// Windows over states.
pub(super) struct After(pub Window);

impl Step for After {
    fn schema(&self) -> Option<SchemaRef> {
        Some(self.0.aggregation.schema())
    }

    fn columns(&self) -> Vec<usize> {
        (0..schema(&self.0.aggregation).fields().len()).collect()
    }

    fn row_by_row(&self) -> bool {
        false
    }

    fn operator(&self, _schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        // The states are all it reads.
        Ok(Box::new(StateMerge {
            window: self.0.bind(self.0.aggregation.clone())?,
            state: self.0.aggregation.state_schema(),
        }))
    }
}

struct StateMerge {
    window: WindowOperator,
    state: SchemaRef,
}

impl StateMerge {
    fn merge(&mut self, rows: &Rows) -> Result<(), Error> {
        let damaged = || Error::new(Class::Permanent, "flow.state-damaged");
        let columns = rows.batch.columns();
        let [panes, firsts, ..] = columns else {
            return Err(damaged());
        };
        let panes = panes.as_primitive_opt::<Int64Type>().ok_or_else(damaged)?;
        let firsts = firsts.as_primitive_opt::<Int64Type>().ok_or_else(damaged)?;
        let state = RecordBatch::try_new(Arc::clone(&self.state), columns[2..].to_vec());
        let state = state.map_err(misfit)?;
        let Open::Regular(open) = &mut self.window.open else {
            return Err(damaged());
        };
        // Rows of one pane stand together.
        let mut from = 0;
        for row in 1..=state.num_rows() {
            let key = |row: usize| PaneKey {
                start: panes.value(row),
                first_window: firsts.value(row),
            };
            if row == state.num_rows() || key(row) != key(from) {
                open.merge(key(from), &state.slice(from, row - from))
                    .map_err(stops)?;
                from = row;
            }
        }
        Ok(())
    }
}

impl Operator for StateMerge {
    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        out.taken += rows.len();
        ready(self.merge(&rows)).boxed()
    }

    fn on_time(&mut self, watermark: i64, out: &mut Output) -> Result<(), Error> {
        self.window.on_time(watermark, out)
    }

    fn next_time(&self) -> Option<i64> {
        self.window.next_time()
    }

    fn flush(&mut self, out: &mut Output) -> Result<(), Error> {
        self.window.flush(out)
    }

    fn snapshot(&mut self, changes: &mut Changes) -> Result<(), Error> {
        self.window.snapshot(changes)
    }

    fn restore(&mut self, state: Arc<dyn StateReader>) -> Result<(), Error> {
        self.window.restore(state)
    }

    fn memory(&self) -> usize {
        self.window.memory()
    }

    fn shrink(&mut self, bytes: usize) {
        self.window.shrink(bytes);
    }
}
