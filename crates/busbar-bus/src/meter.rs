//! Counters of a partition: written by the commit thread only, read by any thread without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What has been committed since the process started.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    events: Tally,
    bytes: Tally,
    frames: AtomicU64,
}

/// Counters of a stream or a partition at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Events committed since the start of the process.
    pub events: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Frames they came in.
    pub frames: u64,
    /// Events in the last full second.
    pub events_per_second: u64,
    /// Bytes in the last full second.
    pub bytes_per_second: u64,
}

/// A total and how much of it fell into this second and the one before.
#[derive(Debug, Default)]
struct Tally {
    total: AtomicU64,
    second: AtomicU64,
    now: AtomicU64,
    before: AtomicU64,
}

impl Meter {
    /// Counts one frame; only the commit thread calls it.
    pub fn count(&self, events: u64, bytes: u64, now_micros: i64) {
        let second = second(now_micros);
        self.events.add(events, second);
        self.bytes.add(bytes, second);
        self.frames.store(self.frames.load(Relaxed) + 1, Relaxed);
    }

    /// The counters now.
    pub fn read(&self, now_micros: i64) -> Counters {
        let second = second(now_micros);
        Counters {
            events: self.events.total.load(Relaxed),
            bytes: self.bytes.total.load(Relaxed),
            frames: self.frames.load(Relaxed),
            events_per_second: self.events.rate(second),
            bytes_per_second: self.bytes.rate(second),
        }
    }
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.bytes += other.bytes;
        self.frames += other.frames;
        self.events_per_second += other.events_per_second;
        self.bytes_per_second += other.bytes_per_second;
    }
}

impl Tally {
    /// One writer, so plain loads and stores do; a reader may see a second half turned over, which
    /// shows as one rate that is off for an instant.
    fn add(&self, n: u64, second: u64) {
        self.total.store(self.total.load(Relaxed) + n, Relaxed);
        let last = self.second.load(Relaxed);
        if last == second {
            self.now.store(self.now.load(Relaxed) + n, Relaxed);
        } else {
            let before = if last + 1 == second {
                self.now.load(Relaxed)
            } else {
                0
            };
            self.before.store(before, Relaxed);
            self.now.store(n, Relaxed);
            self.second.store(second, Relaxed);
        }
    }

    fn rate(&self, second: u64) -> u64 {
        match second.checked_sub(self.second.load(Relaxed)) {
            Some(0) | None => self.before.load(Relaxed),
            Some(1) => self.now.load(Relaxed),
            Some(_) => 0,
        }
    }
}

fn second(micros: i64) -> u64 {
    micros.max(0).unsigned_abs() / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_full_second() {
        let meter = Meter::default();
        let at = |s: i64| s * 1_000_000 + 5;
        meter.count(10, 100, at(100));
        meter.count(5, 50, at(100));
        assert_eq!(meter.read(at(100)).events_per_second, 0);
        assert_eq!(meter.read(at(101)).events_per_second, 15);
        meter.count(1, 10, at(101));
        assert_eq!(meter.read(at(101)).events_per_second, 15);
        assert_eq!(meter.read(at(102)).bytes_per_second, 10);
        assert_eq!(meter.read(at(104)).events_per_second, 0);
        let all = meter.read(at(104));
        assert_eq!((all.events, all.bytes, all.frames), (16, 160, 3));
    }
}
