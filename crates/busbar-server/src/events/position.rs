//! Where a reader begins.

use std::fmt::Write as _;

use busbar_event::{Class, Error};

use crate::limits::LAST_EVENTS_MAX;
use crate::time;

/// What `from` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With the next event.
    Now,
    /// With the oldest event that is kept.
    Earliest,
    /// With the last so many that match.
    Last(usize),
    /// With the first event at or after a time, in microseconds since 1970.
    Time(i64),
    /// At an offset, of every partition that is read.
    Offset(u64),
    /// Where an earlier reader was: stream, partition, offset.
    Positions(Vec<(String, u16, u64)>),
}

/// Most partitions a text may name, and most bytes it may have.
const POSITIONS_MAX: usize = 4_096;
const POSITION_BYTES_MAX: usize = 64 << 10;

impl Start {
    /// Reads `now`, `earliest`, `last:N` (or `-N`), an RFC 3339 time, an offset, or the id of an
    /// event of an earlier subscription (`meter/0@17,meter/1@3`).
    pub(crate) fn parse(text: &str) -> Result<Start, Error> {
        let bad = || {
            Error::new(Class::Permanent, "server.bad-from").with("from", busbar_event::quote(text))
        };
        if text.len() > POSITION_BYTES_MAX {
            return Err(bad());
        }
        match text {
            "now" | "latest" | "" => return Ok(Start::Now),
            "earliest" => return Ok(Start::Earliest),
            _ => {}
        }
        if let Some(count) = text
            .strip_prefix("last:")
            .or_else(|| text.strip_prefix('-'))
        {
            let count: usize = count.parse().map_err(|_| bad())?;
            return if count <= LAST_EVENTS_MAX {
                Ok(Start::Last(count))
            } else {
                Err(Error::new(Class::Permanent, "server.last-too-many")
                    .with("max", LAST_EVENTS_MAX))
            };
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return text.parse().map(Start::Offset).map_err(|_| bad());
        }
        if let Some(time) = time::parse(text) {
            return Ok(Start::Time(time));
        }
        let mut positions = Vec::new();
        for part in text.split(',') {
            let (place, offset) = part.rsplit_once('@').ok_or_else(bad)?;
            let (stream, partition) = place.rsplit_once('/').ok_or_else(bad)?;
            if positions.len() >= POSITIONS_MAX {
                return Err(bad());
            }
            positions.push((
                stream.to_owned(),
                partition.parse().map_err(|_| bad())?,
                offset.parse().map_err(|_| bad())?,
            ));
        }
        Ok(Start::Positions(positions))
    }
}

/// Positions as text, for [`Start::parse`].
pub(crate) fn write<'a>(positions: impl Iterator<Item = (&'a str, u16, u64)>) -> String {
    let mut text = String::new();
    for (stream, partition, offset) in positions {
        if !text.is_empty() {
            text.push(',');
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{stream}/{partition}@{offset}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_form_is_read() {
        for (text, start) in [
            ("now", Start::Now),
            ("earliest", Start::Earliest),
            ("last:20", Start::Last(20)),
            ("-20", Start::Last(20)),
            ("17", Start::Offset(17)),
            ("1970-01-01T00:00:01Z", Start::Time(1_000_000)),
            ("读数/1@7", Start::Positions(vec![("读数".into(), 1, 7)])),
        ] {
            assert_eq!(Start::parse(text).unwrap(), start, "{text}");
        }
        for bad in [
            "yesterday",
            "last:",
            "last:x",
            "last:1000000",
            "99999999999999999999",
            "a@1",
            "a/x@1",
            "a/1@",
        ] {
            assert!(Start::parse(bad).is_err(), "{bad}");
        }
        let positions = [("a", 0, 1), ("b-c", 2, u64::MAX)];
        let Start::Positions(read) = Start::parse(&write(positions.into_iter())).unwrap() else {
            panic!("not positions");
        };
        assert_eq!(read, [("a".into(), 0, 1), ("b-c".into(), 2, u64::MAX)]);
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*") {
            let _ = Start::parse(&text);
        }
    }
}
