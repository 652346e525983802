//! `dedupe`: drops events that repeat one of the same key.

use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::datatypes::SchemaRef;
use busbar_catalog::DedupeSpec;
use busbar_event::{Class, Error};

use super::keyed::{KeyedOperator, KeyedState, KeyedStep, Keys, StateBytes, Stored};
use super::{Operator, Output, Rows, Stateful, Step, StepContext, Wrong, misses_times};

/// Compiles the keys.
pub(super) fn compile(
    spec: &DedupeSpec,
    context: &StepContext<'_>,
) -> Result<Arc<dyn Step>, Wrong> {
    let within = spec.within.as_micros();
    if within <= 0 {
        let error = Error::new(Class::Configuration, "flow.span-positive");
        return Err(Wrong::new(error).at("within"));
    }
    Ok(Arc::new(Dedupe {
        keyed: KeyedStep::compile(context.schema, &spec.by, spec.name.as_ref())?,
        within,
    }))
}

struct Dedupe {
    keyed: KeyedStep,
    within: i64,
}

impl Step for Dedupe {
    fn schema(&self) -> Option<SchemaRef> {
        None
    }

    fn columns(&self) -> Vec<usize> {
        self.keyed.columns()
    }

    fn stateful(&self) -> Option<Stateful> {
        let meaning = format!("dedupe {:?}", self.keyed.texts());
        Some(self.keyed.stateful(meaning))
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let within = self.within;
        self.keyed.operator(schema, Deduping { within })
    }
}

struct Deduping {
    within: i64,
}

/// An event that was passed on.
struct Passed {
    time: i64,
    /// From this watermark on no event can come that it would drop and that is not late.
    forget: i64,
}

impl Stored for Passed {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.time.to_le_bytes());
        out.extend_from_slice(&self.forget.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = StateBytes(bytes);
        Some(Passed {
            time: reader.i64()?,
            forget: reader.i64()?,
        })
    }

    fn due(&self) -> Option<i64> {
        Some(self.forget)
    }
}

impl KeyedOperator for Deduping {
    type Kept = Passed;

    fn take(
        &mut self,
        keys: &Keys,
        rows: Rows,
        kept: &mut KeyedState<Passed>,
        out: &mut Output,
    ) -> Result<(), Error> {
        let times = rows.times.as_ref().ok_or_else(misses_times)?;
        let within = self.within;
        let mut passes = Vec::with_capacity(rows.len());
        let mut late: Vec<u32> = Vec::new();
        for row in 0..rows.len() {
            let time = times.times[row];
            // What has no key repeats nothing.
            if !keys.is_known(row) {
                passes.push(true);
                continue;
            }
            if time.saturating_add(within) <= times.marks[row] {
                late.push(row as u32);
                passes.push(false);
                continue;
            }
            passes.push(kept.visit(keys.at(row), |slot| {
                let known = slot.get();
                if known.is_some_and(|passed| passed.time.abs_diff(time) < within as u64) {
                    return false;
                }
                // The latest is remembered: what comes is rather after it than before.
                if known.is_none_or(|passed| passed.time < time) {
                    let forget = time.saturating_add(within.saturating_mul(2));
                    slot.set(Passed { time, forget });
                }
                true
            })?);
        }
        if !late.is_empty() {
            out.late.push(rows.take(&late.into())?);
        }
        out.push(rows.filter(&BooleanArray::from(passes))?);
        Ok(())
    }
}
