//! `delay`: holds events back, for a time or until the time in a column.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType};
use busbar_catalog::DelaySpec;
use busbar_event::{Class, Error};
use busbar_sql::{Failed, Projection};

use super::held::{FreedRows, HeldRows, held_key, stopped};
use super::keyed::{KeyedOperator, KeyedState, KeyedStep, Keys, RowBytes, flat};
use super::rows::misfit;
use super::{Operator, Output, Rows, Stateful, Step, StepContext, Wrong, misses_times};

/// Compiles the time.
pub(super) fn compile(spec: &DelaySpec, context: &StepContext<'_>) -> Result<Arc<dyn Step>, Wrong> {
    let schema = context.schema;
    let refuse = |code| Wrong::new(Error::new(Class::Configuration, code));
    let until = match (spec.held_for, &spec.until) {
        (Some(span), None) if span.as_micros() <= 0 => {
            return Err(refuse("flow.span-positive").at("for"));
        }
        (Some(span), None) => Until::Later(span.as_micros()),
        (None, Some(text)) => {
            let time = Projection::compile(schema, text).map_err(|w| Wrong::from(w).at("until"))?;
            let one = time.schema();
            let is_time = matches!(flat(one.field(0).data_type()), DataType::Timestamp(..));
            if one.fields().len() != 1 || !is_time {
                return Err(refuse("flow.delay-until").at("until"));
            }
            Until::Column(time)
        }
        _ => return Err(refuse("flow.delay-kind")),
    };
    Ok(Arc::new(Delay {
        keyed: KeyedStep::compile(schema, &spec.by, spec.name.as_ref())?,
        until,
        meaning: format!("delay {:?}", schema.fields()),
        input: Arc::clone(schema),
    }))
}

/// When a row goes on.
enum Until {
    /// So many microseconds behind its event time.
    Later(i64),
    Column(Projection),
}

struct Delay {
    keyed: KeyedStep,
    until: Until,
    input: SchemaRef,
    meaning: String,
}

impl Step for Delay {
    fn schema(&self) -> Option<SchemaRef> {
        Some(Arc::clone(&self.input))
    }

    fn columns(&self) -> Vec<usize> {
        (0..self.input.fields().len()).collect()
    }

    fn row_by_row(&self) -> bool {
        false
    }

    fn stateful(&self) -> Option<Stateful> {
        Some(self.keyed.stateful(self.meaning.clone()))
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let delaying = Delaying {
            until: match &self.until {
                Until::Later(span) => Until::Later(*span),
                Until::Column(time) => Until::Column(time.bind(schema)?),
            },
            rows: RowBytes::new(&self.input)?,
            schema: Arc::clone(&self.input),
        };
        self.keyed.operator(schema, delaying)
    }
}

struct Delaying {
    until: Until,
    rows: RowBytes,
    schema: SchemaRef,
}

impl Delaying {
    /// Lets the rows go on that a watermark has reached, in the order of their times.
    fn free(
        watermark: i64,
        kept: &mut KeyedState<HeldRows>,
        freed: &mut FreedRows,
    ) -> Result<(), Error> {
        for key in kept.due(watermark)? {
            kept.visit(&key, |slot| {
                if let Some(held) = slot.change().take() {
                    for row in held.rows {
                        freed.add(row, held.due);
                    }
                }
            })?;
        }
        Ok(())
    }
}

impl KeyedOperator for Delaying {
    type Kept = HeldRows;

    fn load(
        &self,
        _keys: &Keys,
        _rows: &Rows,
        _kept: &mut KeyedState<HeldRows>,
    ) -> Result<(), Error> {
        // State is kept by the time that rows wait for, and not by their keys.
        Ok(())
    }

    fn take(
        &mut self,
        _keys: &Keys,
        rows: Rows,
        kept: &mut KeyedState<HeldRows>,
        out: &mut Output,
    ) -> Result<(), Error> {
        let times = rows.times.as_ref().ok_or_else(misses_times)?;
        let until: Option<ArrayRef> = match &self.until {
            Until::Later(_) => None,
            Until::Column(time) => {
                let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
                let column = Arc::clone(time.evaluate(&rows.batch)?.column(0));
                Some(cast(&column, &micros).map_err(misfit)?)
            }
        };
        let until = until
            .as_ref()
            .map(|until| until.as_primitive::<TimestampMicrosecondType>());
        let encoded = self.rows.encode(&rows.batch)?;
        let mut freed = FreedRows::default();
        let mut held = 0;
        for row in 0..rows.len() {
            let (time, mark) = (times.times[row], times.marks[row]);
            Delaying::free(mark, kept, &mut freed).map_err(stopped)?;
            let due = match (&self.until, until) {
                (Until::Later(span), _) => time.saturating_add(*span),
                (Until::Column(_), Some(until)) if until.is_valid(row) => until.value(row),
                (Until::Column(_), _) => i64::MIN,
            };
            let bytes = encoded.row(row).data();
            // Without a watermark yet, nothing has passed.
            if due <= mark || due <= time && matches!(self.until, Until::Column(_)) {
                freed.add(bytes, time.max(mark));
                continue;
            }
            held += 1;
            let visited = kept.visit(&held_key(due, time, bytes), |slot| {
                let rows = Vec::new();
                let known = slot.change().get_or_insert(HeldRows { due, rows });
                known.rows.push(bytes.into());
            });
            visited.map_err(stopped)?;
        }
        out.taken += held;
        freed.tell(&self.rows, &self.schema, out)
    }

    fn failing(&self, rows: &Rows) -> Vec<Failed> {
        match &self.until {
            Until::Later(_) => Vec::new(),
            Until::Column(time) => time.failing(&rows.batch),
        }
    }

    fn on_time(
        &mut self,
        watermark: i64,
        kept: &mut KeyedState<HeldRows>,
        out: &mut Output,
    ) -> Result<(), Error> {
        let mut freed = FreedRows::default();
        Delaying::free(watermark, kept, &mut freed)?;
        freed.tell(&self.rows, &self.schema, out)
    }

    fn tells_when_due(&self) -> bool {
        true
    }

    fn ends_with_input(&self) -> bool {
        true
    }
}
