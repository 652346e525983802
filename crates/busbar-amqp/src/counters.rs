//! What the gateway counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct CountCell(AtomicU64);

impl CountCell {
    /// Adds to it.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of the AMQP gateway.
#[derive(Debug, Default)]
pub struct AmqpCounters {
    /// Connections refused, or closed because of what the client did.
    pub refusals: CountCell,
    /// Logins refused.
    pub logins_refused: CountCell,
    /// Messages taken.
    pub published: CountCell,
    /// Payload bytes taken.
    pub published_bytes: CountCell,
    /// Messages refused.
    pub publishes_refused: CountCell,
    /// Messages delivered.
    pub delivered: CountCell,
}
