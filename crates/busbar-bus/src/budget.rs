//! One byte budget from the sockets to the disk.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::IN_FLIGHT_HARD_FACTOR;

/// The bytes that all publishers together may hold uncommitted.
///
/// Booked in steps by publishers, given back when a batch is committed or has failed. It is a
/// brake, not a gate: a publisher that is over it still takes what its owner has already read, the
/// owner stops reading. Only far beyond it ([`IN_FLIGHT_HARD_FACTOR`]) are events refused.
#[derive(Debug)]
pub struct ByteBudget {
    used: AtomicU64,
    max: u64,
}

impl ByteBudget {
    /// A budget of `max` bytes.
    pub fn new(max: u64) -> Self {
        Self {
            used: AtomicU64::new(0),
            max,
        }
    }

    /// Bytes booked now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that may be booked before owners stop reading.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Whether owners may go on reading.
    pub fn has_room(&self) -> bool {
        self.used() < self.max
    }

    /// Whether new events must be refused.
    pub(crate) fn overrun(&self) -> bool {
        self.used() >= self.max.saturating_mul(IN_FLIGHT_HARD_FACTOR)
    }

    pub(crate) fn book(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn release(&self, bytes: u64) {
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "the budget gave back more than was booked");
    }
}
