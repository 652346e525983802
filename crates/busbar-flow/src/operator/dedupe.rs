//! `dedupe`: drops events that repeat one of the same key.

use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::datatypes::SchemaRef;
use busbar_catalog::DedupeSpec;
use busbar_event::{Class, Error};
use futures::future::{BoxFuture, FutureExt, ready};

use super::keyed::{KeyExpressions, KeyReader, KeyedState, Reader, Stored};
use super::{
    Changes, Operator, Output, Rows, StateReader, Stateful, Step, StepContext, Wrong, misses_times,
};

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
    let keys = KeyExpressions::compile(context.schema, &spec.by)?;
    Ok(Arc::new(Dedupe {
        names: keys.names(context.schema),
        keys,
        within,
        name: spec.name.clone(),
    }))
}

struct Dedupe {
    keys: KeyExpressions,
    names: Vec<String>,
    within: i64,
    name: Option<String>,
}

impl Step for Dedupe {
    fn schema(&self) -> Option<SchemaRef> {
        None
    }

    fn columns(&self) -> Vec<usize> {
        self.keys.columns().collect()
    }

    fn stateful(&self) -> Option<Stateful> {
        Some(Stateful {
            name: self.name.clone(),
            keys: self.names.clone(),
            meaning: format!("dedupe {:?}", self.keys.texts()),
            divided: None,
        })
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        Ok(Box::new(Deduping {
            keys: self.keys.bind(schema)?,
            within: self.within,
            passed: KeyedState::new(),
        }))
    }
}

struct Deduping {
    keys: KeyReader,
    within: i64,
    passed: KeyedState<Passed>,
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
        let mut reader = Reader(bytes);
        Some(Passed {
            time: reader.i64()?,
            forget: reader.i64()?,
        })
    }

    fn due(&self) -> Option<i64> {
        Some(self.forget)
    }
}

impl Deduping {
    fn pass(&mut self, rows: Rows, out: &mut Output) -> Result<(), Error> {
        let keys = self.keys.read(&rows.batch)?;
        let times = rows.times.as_ref().ok_or_else(misses_times)?;
        let mut kept = Vec::with_capacity(rows.len());
        let mut late: Vec<u32> = Vec::new();
        for row in 0..rows.len() {
            let (key, time) = (keys.at(row), times.times[row]);
            if time.saturating_add(self.within) <= times.marks[row] {
                late.push(row as u32);
                kept.push(false);
                continue;
            }
            let known = self.passed.get(key)?;
            if known.is_some_and(|passed| passed.time.abs_diff(time) < self.within as u64) {
                kept.push(false);
                continue;
            }
            kept.push(true);
            // The latest is remembered: what comes is rather after it than before.
            if known.is_none_or(|passed| passed.time < time) {
                let forget = time.saturating_add(self.within.saturating_mul(2));
                self.passed.set(key, Passed { time, forget });
            }
        }
        if !late.is_empty() {
            out.late.push(rows.take(&late.into())?);
        }
        out.push(rows.filter(&BooleanArray::from(kept))?);
        Ok(())
    }
}

impl Operator for Deduping {
    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        ready(self.pass(rows, out)).boxed()
    }

    fn on_time(&mut self, watermark: i64, _out: &mut Output) -> Result<(), Error> {
        for key in self.passed.due(watermark)? {
            self.passed.remove(&key);
        }
        Ok(())
    }

    fn snapshot(&mut self, changes: &mut Changes) -> Result<(), Error> {
        self.passed.snapshot(changes);
        Ok(())
    }

    fn restore(&mut self, state: Arc<dyn StateReader>) -> Result<(), Error> {
        self.passed.restore(state)
    }

    fn memory(&self) -> usize {
        self.passed.bytes()
    }

    fn shrink(&mut self, bytes: usize) {
        self.passed.shrink(bytes);
    }
}
