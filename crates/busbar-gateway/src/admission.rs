//! How many connections a gateway takes, at once and in a second, and what their large messages may hold.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use busbar_event::Micros;
use parking_lot::Mutex;

use crate::limits::{LARGE_PACKETS_BYTES_MAX, SURPLUS_MAX};

/// What becomes of a connection that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is served.
    Granted,
    /// There are too many; it is answered with a refusal in the words of its protocol.
    Surplus,
    /// There are too many to even answer it.
    Refused,
}

/// Counts the connections of one gateway over all its threads.
#[derive(Debug)]
pub struct Admissions {
    connections_max: usize,
    connections_per_second_max: u32,
    open: AtomicUsize,
    accepted: AtomicU64,
    most: AtomicU64,
    rate: Mutex<(Micros, u32)>,
    /// Bytes reserved for large messages that are being received.
    large: AtomicUsize,
    stopping: AtomicBool,
}

impl Admissions {
    /// At most `connections_max` connections at once, and `connections_per_second_max` new ones in a second.
    pub fn new(connections_max: usize, connections_per_second_max: u32) -> Admissions {
        Admissions {
            connections_max,
            connections_per_second_max,
            open: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            most: AtomicU64::new(0),
            rate: Mutex::new((0, 0)),
            large: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        }
    }

    /// Counts a new connection and says what becomes of it. Unless it is refused,
    /// [`Admissions::close_connection`] has to follow.
    pub fn open_connection(&self) -> Admission {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        if before >= self.connections_max.saturating_add(SURPLUS_MAX) {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Admission::Refused;
        }
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.most.fetch_max(before as u64 + 1, Ordering::Relaxed);
        match before < self.connections_max {
            true => Admission::Granted,
            false => Admission::Surplus,
        }
    }

    /// Counts a connection that has ended.
    pub fn close_connection(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Connections now.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections accepted since the start.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// The most connections that were open at one time.
    pub fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// Whether one more connection is within the number allowed in this second. Counts it.
    pub fn within_rate(&self, now: Micros) -> bool {
        let mut rate = self.rate.lock();
        let second = now.div_euclid(1_000_000);
        if rate.0 != second {
            *rate = (second, 0);
        }
        rate.1 += 1;
        rate.1 <= self.connections_per_second_max
    }

    /// Reserves memory for a large message; false when there is none now.
    pub fn take_room(&self, bytes: usize) -> bool {
        let reserve = |taken: usize| {
            let sum = taken.saturating_add(bytes);
            (sum <= LARGE_PACKETS_BYTES_MAX).then_some(sum)
        };
        self.large
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, reserve)
            .is_ok()
    }

    /// Gives back what [`Admissions::take_room`] reserved.
    pub fn give_room(&self, bytes: usize) {
        self.large.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// From now on new connections are refused.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether the gateway is stopping.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_connections_beyond_the_limit_are_told_so_and_the_rest_is_refused() {
        let admissions = Admissions::new(2, 3);
        let open = |n: usize| {
            (0..n)
                .map(|_| admissions.open_connection())
                .collect::<Vec<_>>()
        };
        assert_eq!(open(2), [Admission::Granted; 2]);
        assert_eq!(open(SURPLUS_MAX), vec![Admission::Surplus; SURPLUS_MAX]);
        assert_eq!(open(1), [Admission::Refused]);
        for _ in 0..=SURPLUS_MAX {
            admissions.close_connection();
        }
        assert_eq!(open(1), [Admission::Granted]);
        assert_eq!(
            (admissions.connections(), admissions.most()),
            (2, SURPLUS_MAX as u64 + 2)
        );
        let within = |at| {
            (0..4)
                .map(|_| admissions.within_rate(at))
                .collect::<Vec<_>>()
        };
        assert_eq!(within(5), [true, true, true, false]);
        assert_eq!(within(1_000_000), [true, true, true, false]);
    }
}
