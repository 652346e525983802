//! What a gateway counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters over all threads of one gateway.
#[derive(Debug, Default)]
pub(crate) struct SocketCounters {
    /// Events taken.
    pub events: AtomicU64,
    /// Their payload bytes.
    pub bytes: AtomicU64,
    /// Frames refused, or not committed.
    pub refused: AtomicU64,
    /// Logins refused.
    pub logins_refused: AtomicU64,
    /// Connections refused or closed because of what the client did.
    pub closed: AtomicU64,
}

/// Counts of one thread since they were last added to the counters.
#[derive(Debug, Default)]
pub(crate) struct EventTally {
    pub events: u64,
    pub bytes: u64,
    pub refused: u64,
}

impl EventTally {
    /// Adds the counts to `counters` and begins anew.
    pub fn flush(&mut self, counters: &SocketCounters) {
        for (count, counter) in [
            (&mut self.events, &counters.events),
            (&mut self.bytes, &counters.bytes),
            (&mut self.refused, &counters.refused),
        ] {
            if *count > 0 {
                counter.fetch_add(std::mem::take(count), Ordering::Relaxed);
            }
        }
    }
}
