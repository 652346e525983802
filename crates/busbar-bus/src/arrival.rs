//! Times of arrival: each event of a partition gets one of its own.
//!
//! Events that come in one read share a clock reading, and two publishers may read the same one. So
//! the partition assigns times when a batch is appended: the first row gets the clock's time, or one
//! microsecond more than the last time assigned if that is later, and each further row one microsecond
//! more than the row before. Times therefore grow strictly with offsets.
//!
//! A time is never before the clock. It is ahead of the clock where a burst has more than one event a
//! microsecond, or where the clock was set back, by at most [`ARRIVAL_AHEAD_MICROS_MAX`] plus one
//! microsecond for each row of the batch. Beyond that times begin again at the clock, and a warning is
//! logged: only then may two events of a partition have the same time.

use std::sync::Arc;

use busbar_event::Micros;
use busbar_log::{Clock, Partition};

use crate::limits::ARRIVAL_AHEAD_MICROS_MAX;

/// Assigns the times of arrival of one partition.
pub(crate) struct Arrivals {
    clock: Arc<dyn Clock>,
    /// The last time assigned; `None` until it has been looked up in the log.
    last: Option<Micros>,
}

impl Arrivals {
    pub fn new(clock: Arc<dyn Clock>) -> Arrivals {
        Arrivals { clock, last: None }
    }

    /// The first of `rows` consecutive microseconds that are assigned from now on to nobody else. Reads
    /// the end of the log when it is first called, so that times go on growing after a restart.
    pub fn reserve(&mut self, rows: usize, log: &Partition) -> Micros {
        let now = self.clock.now_micros();
        let last = match self.last {
            Some(last) => last,
            None => committed(log).unwrap_or(Micros::MIN),
        };
        let next = last.saturating_add(1);
        let first = match next.saturating_sub(now) > ARRIVAL_AHEAD_MICROS_MAX {
            true => {
                // The time that the log ends with may be one that a sender gave.
                if self.last.is_some() {
                    let ahead_ms = (next - now) / 1_000;
                    tracing::warn!(
                        partition = log.name(),
                        ahead_ms,
                        "times of arrival ran ahead of the clock and begin again at the clock"
                    );
                }
                now
            }
            false => next.max(now),
        };
        self.last = Some(first.saturating_add(rows as Micros - 1));
        first
    }
}

/// The largest time of the last frame, if there is one that can be read.
fn committed(log: &Partition) -> Option<Micros> {
    let last = log.end().checked_sub(1)?;
    let frames = log.read(last, 1).ok()?;
    frames.iter().map(|frame| frame.max_time).max()
}
