//! `latest`: drops events that are older than one of the same key.

use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::datatypes::SchemaRef;
use busbar_catalog::LatestSpec;
use busbar_event::Error;

use super::keyed::{KeyedOperator, KeyedState, KeyedStep, Keys, StateBytes, Stored};
use super::{Operator, Output, Rows, Stateful, Step, StepContext, Wrong, misses_times};

/// Compiles the keys.
pub(super) fn compile(
    spec: &LatestSpec,
    context: &StepContext<'_>,
) -> Result<Arc<dyn Step>, Wrong> {
    let keyed = KeyedStep::compile(context.schema, &spec.by, spec.name.as_ref())?;
    Ok(Arc::new(Latest(keyed)))
}

struct Latest(KeyedStep);

impl Step for Latest {
    fn schema(&self) -> Option<SchemaRef> {
        None
    }

    fn columns(&self) -> Vec<usize> {
        self.0.columns()
    }

    fn stateful(&self) -> Option<Stateful> {
        let meaning = format!("latest {:?}", self.0.texts());
        Some(self.0.stateful(meaning))
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        self.0.operator(schema, Passing)
    }
}

struct Passing;

/// The time of the latest event of a key.
struct Seen(i64);

impl Stored for Seen {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        StateBytes(bytes).i64().map(Seen)
    }
}

impl KeyedOperator for Passing {
    type Kept = Seen;

    fn take(
        &mut self,
        keys: &Keys,
        rows: Rows,
        kept: &mut KeyedState<Seen>,
        out: &mut Output,
    ) -> Result<(), Error> {
        let times = rows.times.as_ref().ok_or_else(misses_times)?;
        let mut passes = Vec::with_capacity(rows.len());
        for row in 0..rows.len() {
            let time = times.times[row];
            // What has no key is older than nothing.
            if !keys.is_known(row) {
                passes.push(true);
                continue;
            }
            passes.push(kept.visit(keys.at(row), |slot| {
                let newest = slot.get().is_none_or(|seen| seen.0 <= time);
                if newest {
                    slot.set(Seen(time));
                }
                newest
            })?);
        }
        out.push(rows.filter(&BooleanArray::from(passes))?);
        Ok(())
    }
}
