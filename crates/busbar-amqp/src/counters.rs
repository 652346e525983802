//! What the gateway counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
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
    pub refusals: Tally,
    /// Logins refused.
    pub logins_refused: Tally,
    /// Messages taken.
    pub published: Tally,
    /// Payload bytes taken.
    pub published_bytes: Tally,
    /// Messages refused.
    pub publishes_refused: Tally,
    /// Messages delivered.
    pub delivered: Tally,
}
