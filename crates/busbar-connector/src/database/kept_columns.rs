//! The columns of a table that another system keeps.

use std::time::Instant;

use busbar_event::Error;
use parking_lot::Mutex;

use crate::limits::ASK_AGAIN;

/// When a system was asked for the columns of a table and did not answer.
#[derive(Default)]
pub(super) struct AskedColumns(Mutex<Option<Instant>>);

impl AskedColumns {
    /// What the system answers; none where it does not, and for some time after that, in which it is not asked.
    pub fn of<T>(&self, table: &str, ask: impl FnOnce() -> Result<T, Error>) -> Option<T> {
        let failed = *self.0.lock();
        if failed.is_some_and(|at| at.elapsed() < ASK_AGAIN) {
            return None;
        }
        ask()
            .inspect_err(|error| {
                tracing::warn!(table, %error, "the columns of the table are not known");
                *self.0.lock() = Some(Instant::now());
            })
            .ok()
    }
}
