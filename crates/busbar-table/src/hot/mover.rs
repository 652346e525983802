//! Rows that leave a hot table for another one.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use busbar_event::{Class, Error};

use super::journal::Entry;
use super::{Hot, state::Due};
use crate::columns::arrow_error;
use crate::limits::{MOVE_INTERVAL, MOVE_RETRY_MAX};
use crate::table::{Table, Write};

/// A thread that moves the rows of one hot table that are due to another table, until it is dropped.
///
/// A row is written to the other table before its deletion is journalled, so it is always in one of the two, for a
/// moment in both. While the other table fails, rows stay where they are.
pub(crate) struct Mover {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Mover {
    pub fn start(from: Arc<Hot>, to: Arc<dyn Table>) -> Result<Self, Error> {
        let (stop, stopped) = mpsc::channel();
        let run = move || {
            let mut wait = MOVE_INTERVAL;
            loop {
                match stopped.recv_timeout(wait) {
                    Err(RecvTimeoutError::Timeout) => {}
                    _ => return,
                }
                wait = match from.move_due(&*to) {
                    Ok(0) => MOVE_INTERVAL,
                    Ok(_) => std::time::Duration::ZERO,
                    Err(error) => {
                        tracing::warn!(
                            table = from.name(),
                            target_table = to.name(),
                            %error,
                            "rows could not be moved and stay in memory"
                        );
                        (wait.max(MOVE_INTERVAL) * 2).min(MOVE_RETRY_MAX)
                    }
                };
            }
        };
        let thread = std::thread::Builder::new()
            .name("table-mover".to_owned())
            .spawn(run)
            .map_err(|cause| Error::new(Class::Transient, "table.mover").caused_by(cause))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a thread that moves rows of a table ended by a panic");
        }
    }
}

impl Hot {
    /// Whether rows are due that were not moved yet.
    pub(crate) fn has_due(&self) -> bool {
        let state = self.state.read();
        state.is_moving && state.overdue(self.clock.now_micros()) > 0
    }

    /// Moves rows that are due, as many as are moved at once; answers with how many were taken.
    fn move_due(&self, to: &dyn Table) -> Result<usize, Error> {
        let Some((due, rows)) = self.take_due()? else {
            return Ok(0);
        };
        to.evolve(rows.schema_ref())?;
        let written = to.write(&Write {
            rows: &rows,
            deletes: None,
            position: None,
        })?;
        let mut is_kept = vec![false; due.slots.len()];
        for rejected in &written.rejected {
            is_kept[rejected.row] = true;
        }
        self.forget(&due, &rows, &is_kept)?;
        Ok(due.slots.len())
    }

    fn take_due(&self) -> Result<Option<(Due, RecordBatch)>, Error> {
        let state = self.state.read();
        if !state.is_moving {
            return Ok(None);
        }
        let due = state.due(self.clock.now_micros(), state.is_nearly_full());
        if due.slots.is_empty() {
            return Ok(None);
        }
        let columns = 0..state.schema.fields().len();
        let arrays = columns
            .map(|column| state.gather(column, &due.slots))
            .collect();
        let rows = RecordBatch::try_new(Arc::clone(&state.schema), arrays).map_err(arrow_error)?;
        Ok(Some((due, rows)))
    }

    /// Removes rows that the other table has, but for those that were written meanwhile and those that it rejected.
    fn forget(&self, due: &Due, rows: &RecordBatch, is_rejected: &[bool]) -> Result<(), Error> {
        let _one = self.journal.as_ref().map(|journal| journal.writing.lock());
        let (gone, key) = {
            let mut state = self.state.write();
            for row in (0..is_rejected.len()).filter(|row| is_rejected[*row]) {
                state.reject(due, row);
            }
            let is_gone = |row: usize| !is_rejected[row] && state.is_unchanged(due, row);
            let gone: Vec<bool> = (0..is_rejected.len()).map(is_gone).collect();
            (gone, state.key.clone())
        };
        if !gone.contains(&true) {
            return Ok(());
        }
        if let Some(journal) = &self.journal {
            let keys = rows.project(&key).map_err(arrow_error)?;
            let keys = filter_record_batch(&keys, &BooleanArray::from(gone.clone()));
            let keys = keys.map_err(arrow_error)?;
            let deleted = keys.num_rows();
            let entry = Entry {
                rows: keys,
                deletes: Some(BooleanArray::from(vec![true; deleted])),
                times: vec![self.clock.now_micros(); deleted],
                is_snapshot: false,
                is_note: false,
                is_kept: true,
            };
            journal.append(&entry, None)?;
        }
        let mut state = self.state.write();
        for row in (0..gone.len()).filter(|row| gone[*row]) {
            // Without a journal a write may have come since.
            if state.is_unchanged(due, row) {
                state.remove_moved(due, row);
            }
        }
        Ok(())
    }
}
