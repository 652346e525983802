//! Steps that remember something of each key.
//!
//! Such a step consists of a [`KeyedStep`], which has its keys and its name, and of a [`KeyedOperator`], which says what it
//! does with rows. Reading the keys of rows, snapshots, restoring, and the bound on memory are the same for all and stand
//! here.

mod keys;
mod row_bytes;
mod state;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use busbar_event::Error;
use busbar_sql::Failed;
use futures::future::{BoxFuture, FutureExt, ready};

pub(super) use keys::{KeyExpressions, Keys, flat, flattened};
pub(super) use row_bytes::RowBytes;
pub(super) use state::{KeyedState, StateBytes, Stored, write_bytes};
pub(crate) use state::{ROWS_HELD, rows_held};

use super::{Changes, Operator, Output, Rows, StateReader, Stateful, Wrong};
use keys::KeyReader;

/// The keys and the name of a step that remembers something of each key.
pub(super) struct KeyedStep {
    keys: KeyExpressions,
    /// The names of the keys, where all of them are columns.
    names: Vec<String>,
    name: Option<String>,
}

impl KeyedStep {
    /// Compiles the list that stands under `by`. `name` is the one under which state is kept, where the file gives one.
    ///
    /// # Errors
    /// What is wrong, at its place in the list.
    pub fn compile(
        schema: &SchemaRef,
        by: &[String],
        name: Option<&String>,
    ) -> Result<KeyedStep, Wrong> {
        let keys = KeyExpressions::compile(schema, by)?;
        Ok(KeyedStep {
            names: keys.names(schema),
            keys,
            name: name.cloned(),
        })
    }

    /// The keys as they stand in the flow file.
    pub fn texts(&self) -> &[String] {
        self.keys.texts()
    }

    /// Places of the columns that the keys read.
    pub fn columns(&self) -> Vec<usize> {
        self.keys.columns().collect()
    }

    /// What the step says of its state.
    pub fn stateful(&self, meaning: String) -> Stateful {
        Stateful {
            name: self.name.clone(),
            keys: self.names.clone(),
            meaning,
            divided: None,
        }
    }

    /// An operator for one task.
    ///
    /// # Errors
    /// When the columns do not fit.
    pub fn operator<O: KeyedOperator + 'static>(
        &self,
        schema: &SchemaRef,
        of: O,
    ) -> Result<Box<dyn Operator>, Error> {
        Ok(Box::new(Keyed {
            keys: self.keys.bind(schema)?,
            kept: KeyedState::new(),
            of,
        }))
    }
}

/// What a step does that remembers something of each key.
pub(super) trait KeyedOperator: Send {
    /// What is remembered of a key.
    type Kept: Stored + Send;

    /// Brings what [`KeyedOperator::take`] looks at into memory: reading the disk may fail, and must not once something has
    /// changed.
    ///
    /// # Errors
    /// What the disk says.
    fn load(
        &self,
        keys: &Keys,
        rows: &Rows,
        kept: &mut KeyedState<Self::Kept>,
    ) -> Result<(), Error> {
        kept.load_all(keys, rows.len())
    }

    /// As [`Operator::process`], with the key of each row.
    ///
    /// # Errors
    /// As [`Operator::process`]: nothing has changed then.
    fn take(
        &mut self,
        keys: &Keys,
        rows: Rows,
        kept: &mut KeyedState<Self::Kept>,
        out: &mut Output,
    ) -> Result<(), Error>;

    /// As [`Operator::failing`].
    fn failing(&self, _rows: &Rows) -> Vec<Failed> {
        Vec::new()
    }

    /// As [`Operator::on_time`]. Forgets the keys that are due, unless the step does something else with them.
    ///
    /// # Errors
    /// What the disk says.
    fn on_time(
        &mut self,
        watermark: i64,
        kept: &mut KeyedState<Self::Kept>,
        _out: &mut Output,
    ) -> Result<(), Error> {
        for key in kept.due(watermark)? {
            kept.remove(&key);
        }
        Ok(())
    }

    /// Whether something comes out when a key is due: then the time of an idle partition must go on.
    fn tells_when_due(&self) -> bool {
        false
    }

    /// Whether everything is due when the input has ended.
    fn ends_with_input(&self) -> bool {
        false
    }
}

/// A step by key at work.
struct Keyed<O: KeyedOperator> {
    keys: KeyReader,
    kept: KeyedState<O::Kept>,
    of: O,
}

impl<O: KeyedOperator> Keyed<O> {
    fn take(&mut self, rows: Rows, out: &mut Output) -> Result<(), Error> {
        let keys = self.keys.read(&rows.batch)?;
        self.of.load(&keys, &rows, &mut self.kept)?;
        self.of.take(&keys, rows, &mut self.kept, out)
    }
}

impl<O: KeyedOperator> Operator for Keyed<O> {
    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        ready(self.take(rows, out)).boxed()
    }

    fn failing(&mut self, rows: &Rows) -> Vec<Failed> {
        self.of.failing(rows)
    }

    fn on_time(&mut self, watermark: i64, out: &mut Output) -> Result<(), Error> {
        self.of.on_time(watermark, &mut self.kept, out)
    }

    fn next_time(&self) -> Option<i64> {
        let next = self.kept.next_due();
        next.filter(|_| self.of.tells_when_due())
    }

    fn flush(&mut self, out: &mut Output) -> Result<(), Error> {
        match self.of.ends_with_input() {
            true => self.of.on_time(i64::MAX, &mut self.kept, out),
            false => Ok(()),
        }
    }

    fn snapshot(&mut self, changes: &mut Changes) -> Result<(), Error> {
        self.kept.snapshot(changes);
        Ok(())
    }

    fn restore(&mut self, state: Arc<dyn StateReader>) -> Result<(), Error> {
        self.kept.restore(state)
    }

    fn memory(&self) -> usize {
        self.kept.bytes()
    }

    fn rows_held(&self) -> u64 {
        self.kept.rows_held()
    }

    fn shrink(&mut self, bytes: usize) {
        self.kept.shrink(bytes);
    }
}
