//! Where a reader starts: the parameter `from` of the API.

use std::fmt::Write as _;

use busbar_bus::Span;
use busbar_event::{Class, Error};

use crate::limits::LAST_EVENTS_MAX;
use busbar_event::time;

/// The place where a reader starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// The next event.
    Now,
    /// The oldest event that is kept.
    Earliest,
    /// The last matching events, this many.
    Last(usize),
    /// The first event at or after a time in microseconds since 1970.
    Time(i64),
    /// An offset of every partition that is read.
    Offset(u64),
    /// The position of an earlier reader: stream, partition, offset.
    Positions(Vec<(String, u16, u64)>),
}

/// Number of partitions in a position, and its length in bytes, at most.
const POSITIONS_MAX: usize = 4_096;
const POSITION_BYTES_MAX: usize = 64 << 10;

impl Start {
    /// Reads `now`, `earliest`, `last:N` (or `-N`), an RFC 3339 time, a span before `now` in microseconds
    /// since 1970 (`-90s`, `-1h`), an offset, or the id of an event of an earlier subscription
    /// (`meter/0@17,meter/1@3`).
    ///
    /// # Errors
    /// When the text is none of these, or asks for more than [`LAST_EVENTS_MAX`] events.
    pub(crate) fn parse(text: &str, now: i64) -> Result<Start, Error> {
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
        if let Some(span) = text.strip_prefix('-')
            && !span.bytes().all(|b| b.is_ascii_digit())
        {
            let span = Span::parse(span).map_err(|_| bad())?;
            return Ok(Start::Time(now.saturating_sub(span.as_micros())));
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
            ("-90s", Start::Time(110_000_000)),
            ("-1h", Start::Time(200_000_000 - 3_600_000_000)),
            ("读数/1@7", Start::Positions(vec![("读数".into(), 1, 7)])),
        ] {
            assert_eq!(Start::parse(text, 200_000_000).unwrap(), start, "{text}");
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
            "-",
            "-1y",
            "-h",
        ] {
            assert!(Start::parse(bad, 0).is_err(), "{bad}");
        }
        let positions = [("a", 0, 1), ("b-c", 2, u64::MAX)];
        let Start::Positions(read) = Start::parse(&write(positions.into_iter()), 0).unwrap() else {
            panic!("not positions");
        };
        assert_eq!(read, [("a".into(), 0, 1), ("b-c".into(), 2, u64::MAX)]);
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*") {
            let _ = Start::parse(&text, 0);
        }
    }
}
