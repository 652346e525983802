//! `latest`: drops events that are older than one of the same key.

use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::datatypes::SchemaRef;
use busbar_catalog::LatestSpec;
use busbar_event::Error;
use futures::future::{BoxFuture, FutureExt, ready};

use super::keyed::{KeyExpressions, KeyReader, KeyedState, Reader, Stored};
use super::{
    Changes, Operator, Output, Rows, StateReader, Stateful, Step, StepContext, Wrong, misses_times,
};

/// Compiles the keys.
pub(super) fn compile(
    spec: &LatestSpec,
    context: &StepContext<'_>,
) -> Result<Arc<dyn Step>, Wrong> {
    let keys = KeyExpressions::compile(context.schema, &spec.by)?;
    Ok(Arc::new(Latest {
        names: keys.names(context.schema),
        keys,
        name: spec.name.clone(),
    }))
}

struct Latest {
    keys: KeyExpressions,
    names: Vec<String>,
    name: Option<String>,
}

impl Step for Latest {
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
            meaning: format!("latest {:?}", self.keys.texts()),
            divided: None,
        })
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        Ok(Box::new(Passing {
            keys: self.keys.bind(schema)?,
            seen: KeyedState::new(),
        }))
    }
}

struct Passing {
    keys: KeyReader,
    seen: KeyedState<Seen>,
}

/// The time of the latest event of a key.
struct Seen(i64);

impl Stored for Seen {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Reader(bytes).i64().map(Seen)
    }
}

impl Passing {
    fn pass(&mut self, rows: Rows, out: &mut Output) -> Result<(), Error> {
        let keys = self.keys.read(&rows.batch)?;
        let times = rows.times.as_ref().ok_or_else(misses_times)?;
        let mut kept = Vec::with_capacity(rows.len());
        for row in 0..rows.len() {
            let (key, time) = (keys.at(row), times.times[row]);
            let newest = self.seen.get(key)?.is_none_or(|seen| seen.0 <= time);
            if newest {
                self.seen.set(key, Seen(time));
            }
            kept.push(newest);
        }
        out.push(rows.filter(&BooleanArray::from(kept))?);
        Ok(())
    }
}

impl Operator for Passing {
    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        ready(self.pass(rows, out)).boxed()
    }

    fn snapshot(&mut self, changes: &mut Changes) -> Result<(), Error> {
        self.seen.snapshot(changes);
        Ok(())
    }

    fn restore(&mut self, state: Arc<dyn StateReader>) -> Result<(), Error> {
        self.seen.restore(state)
    }

    fn memory(&self) -> usize {
        self.seen.bytes()
    }

    fn shrink(&mut self, bytes: usize) {
        self.seen.shrink(bytes);
    }
}
