//! Whether a source stands still while the other side goes on.

use std::time::Duration;

use busbar_event::{Class, Error};
use tokio::time::Instant;

use crate::limits::{STILL_BYTES, STILL_MAX};

/// Something that should grow.
#[derive(Clone, Copy, Debug)]
struct StillMark {
    value: u64,
    since: Instant,
}

/// Compares from time to time how far a source is with how far the other side is.
pub struct Watch {
    /// How far the source is.
    source: StillMark,
    /// How far the other side was when the source moved last.
    there_then: u64,
    there: u64,
    /// Rows of snapshots that were read, while there are some to be read.
    reading: Option<StillMark>,
    /// Bytes of the log that the other side keeps from where on, and how far it was when that moved last.
    kept: Option<(StillMark, u64)>,
    now: Instant,
}

/// What a look has found, in the order of the other side's log.
#[derive(Clone, Copy, Debug)]
pub struct Looked {
    /// Grows with everything that the source takes.
    pub taken: u64,
    /// The end of the other side's log.
    pub there: u64,
    /// Rows of snapshots that were read, while there are some to be read.
    pub reading: Option<u64>,
    /// From where on the other side keeps its log for the source, if it does.
    pub kept_from: Option<u64>,
}

impl Watch {
    /// Begins to watch.
    pub fn new(now: Instant) -> Watch {
        let mark = StillMark {
            value: 0,
            since: now,
        };
        Watch {
            source: mark,
            there_then: 0,
            there: 0,
            reading: None,
            kept: None,
            now,
        }
    }

    /// Notes what a look has found.
    pub fn look(&mut self, now: Instant, looked: Looked) {
        self.now = now;
        self.there = looked.there;
        let mark = |value| StillMark { value, since: now };
        if looked.taken != self.source.value || self.there_then == 0 {
            self.source = mark(looked.taken);
            self.there_then = looked.there;
        }
        self.reading = looked.reading.map(|rows| match self.reading {
            Some(before) if before.value == rows => before,
            _ => mark(rows),
        });
        self.kept = looked.kept_from.map(|from| match self.kept {
            Some(before) if before.0.value == from => before,
            _ => (mark(from), looked.there),
        });
    }

    /// What should be looked at: an error for each thing that stands still. `connection` and `address` are named in them.
    pub fn alarms(&self, connection: &str, address: &str) -> Vec<Error> {
        let still = |mark: StillMark| {
            let still = self.now.saturating_duration_since(mark.since);
            (still >= STILL_MAX).then_some(still)
        };
        let alarm = |code, still: Duration| {
            Error::new(Class::Transient, code)
                .with("connection", connection)
                .with("address", address)
                .with("seconds", still.as_secs())
        };
        let mut alarms = Vec::new();
        let grown = self.there.saturating_sub(self.there_then);
        if let Some(still) = still(self.source).filter(|_| grown >= STILL_BYTES) {
            alarms.push(alarm("connect.no-progress", still).with("bytes", grown));
        }
        if let Some(still) = self.reading.and_then(still) {
            alarms.push(alarm("connect.snapshot-still", still));
        }
        if let Some((mark, there_then)) = self.kept
            && let Some(still) = still(mark)
            && self.there.saturating_sub(there_then) >= STILL_BYTES
        {
            let bytes = self.there.saturating_sub(mark.value);
            alarms.push(alarm("connect.log-kept", still).with("bytes", bytes));
        }
        alarms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(watch: &Watch) -> Vec<&'static str> {
        let alarms = watch.alarms("c", "a:1");
        alarms.iter().map(Error::code).collect()
    }

    #[test]
    fn what_stands_still_while_the_other_side_goes_on_is_told() {
        let begin = Instant::now();
        let mut watch = Watch::new(begin);
        let mut look = |seconds: u64, taken, there, reading, kept_from| {
            let looked = Looked {
                taken,
                there,
                reading,
                kept_from,
            };
            watch.look(begin + Duration::from_secs(seconds), looked);
            codes(&watch)
        };
        let none: Vec<&str> = Vec::new();
        let still = STILL_MAX.as_secs();
        let much = STILL_BYTES;
        assert_eq!(look(0, 5, 100, Some(0), Some(50)), none);
        // Nothing to take: the other side does not go on either.
        assert_eq!(look(still, 5, 100, Some(1), Some(50)), none);
        // It goes on, and nothing comes.
        assert_eq!(
            look(still + 1, 5, 100 + much, Some(2), Some(100)),
            ["connect.no-progress"]
        );
        // It comes, but a snapshot does not, and the log is kept.
        assert_eq!(look(still + 5, 6, 100 + much, Some(2), Some(100)), none);
        assert_eq!(
            look(2 * still + 5, 7, 100 + 2 * much, Some(2), Some(100)),
            ["connect.snapshot-still", "connect.log-kept"]
        );
        // All goes on.
        assert_eq!(
            look(2 * still + 10, 8, 100 + 2 * much, None, Some(101)),
            none
        );
        // Little is written.
        assert_eq!(look(9 * still, 8, 101 + 2 * much, None, Some(101)), none);
    }

    #[test]
    fn an_alarm_names_how_long_and_how_much() {
        let begin = Instant::now();
        let mut watch = Watch::new(begin);
        for (seconds, there) in [(0, 1), (STILL_MAX.as_secs() + 3, 1 + STILL_BYTES)] {
            let looked = Looked {
                taken: 1,
                there,
                reading: None,
                kept_from: None,
            };
            watch.look(begin + Duration::from_secs(seconds), looked);
        }
        let alarm = watch.alarms("his", "db:5432").pop().expect("one");
        let args: Vec<_> = alarm
            .args()
            .iter()
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(args, ["his", "db:5432", "63", &STILL_BYTES.to_string()]);
    }
}
