//! What was in a table before its changes came, and which changes are in it already.
//!
//! Tables are read in chunks by key. The snapshot of a chunk says which transactions it saw. Until the stream has passed
//! all of them the chunk has a [`Window`]: a change of one of its rows by a transaction that it saw is in it already, and is
//! left out. A change of a row behind the last chunk is left out, too, for a later chunk will read it. Nothing is missing
//! and nothing comes twice.
//!
//! What a chunk saw is not kept across a restart. A table that is read on after one publishes each change, so that some
//! come beside the row that has them already; for tables that are kept by key it makes no difference.

use std::cmp::Ordering;
use std::collections::HashSet;

use busbar_change::ColumnsMark;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::count::RowsCompared;

/// How far a table has been read. Kept as JSON with the position of its part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The key of the last row that was read, as the server writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Vec<String>>,
    /// All of it.
    #[serde(default)]
    pub done: bool,
    /// It was asked for while the source ran, whatever the options say.
    #[serde(default, skip_serializing_if = "is_false")]
    pub asked: bool,
    /// The event that empties the table comes first.
    #[serde(default, skip_serializing_if = "is_false")]
    pub empties: bool,
    /// Rows that were read.
    #[serde(default)]
    pub rows: u64,
    /// What came of comparing their number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<RowsCompared>,
    /// Changes of the table may be missing since.
    #[serde(default, skip_serializing_if = "is_false")]
    pub missed: bool,
    /// The columns that its events have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<ColumnsMark>,
    /// No snapshot was taken: this says of the table what else is known.
    #[serde(default, skip_serializing_if = "is_false")]
    pub untaken: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it so")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Progress {
    /// Read up to a key, or all of it.
    pub fn up_to(last: Option<Vec<String>>, done: bool) -> Progress {
        Progress {
            last,
            done,
            ..Progress::default()
        }
    }
}

/// How values of a column are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As whole numbers.
    Number,
    /// By the bytes of their text.
    Bytes,
}

/// The last chunk of a table.
#[derive(Clone, Debug)]
pub struct Window<S> {
    /// The key before its first row; `None` for the first chunk.
    pub after: Option<Vec<String>>,
    /// Which transactions it saw.
    pub seen: S,
    /// Where in the log all of these have passed.
    pub high: u64,
    /// The keys of its rows, for tables whose keys cannot be compared here.
    pub keys: HashSet<Vec<Bytes>>,
}

impl<S> Window<S> {
    /// The table is emptied by a transaction; `has` says whether the chunk saw it. What such a chunk has read is in front of the
    /// event that empties the table, and no row of it is there any more: all changes behind the event are published.
    pub fn empty(window: &mut Option<Window<S>>, has: impl Fn(&S) -> bool) {
        window.take_if(|window| has(&window.seen));
    }
}

/// Compares two keys as the server does; `None` where that is not known here.
fn compare(
    order: Option<&[Order]>,
    a: &[impl AsRef<[u8]>],
    b: &[impl AsRef<[u8]>],
) -> Option<Ordering> {
    let mut found = Ordering::Equal;
    for ((order, a), b) in order?.iter().zip(a).zip(b) {
        found = found.then(match order {
            Order::Bytes => a.as_ref().cmp(b.as_ref()),
            Order::Number => number(a.as_ref())?.cmp(&number(b.as_ref())?),
        });
    }
    Some(found)
}

/// Whether a key is behind another one; `None` where that is not known here.
pub fn is_behind(order: Option<&[Order]>, key: &[Bytes], other: &[String]) -> Option<bool> {
    compare(order, key, other).map(|ordering| ordering == Ordering::Greater)
}

/// Whether the row of a key will be read by a later chunk, as far as that is known here.
pub fn will_be_read(order: Option<&[Order]>, progress: &Progress, key: &[Bytes]) -> bool {
    let last = progress.last.as_deref().unwrap_or_default();
    !progress.done && (last.is_empty() || is_behind(order, key, last) == Some(true))
}

fn number(text: &[u8]) -> Option<i128> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Whether the change of a row is published.
pub fn publishes<S>(
    order: Option<&[Order]>,
    progress: &Progress,
    window: Option<&Window<S>>,
    key: &[Bytes],
    has: impl Fn(&S) -> bool,
) -> bool {
    if will_be_read(order, progress, key) {
        return false;
    }
    let Some(window) = window else { return true };
    let inside = match &window.after {
        // Without a key all of the table is one chunk.
        _ if key.is_empty() => true,
        _ if order.is_none() => window.keys.contains(key),
        None => true,
        Some(after) => is_behind(order, key, after).unwrap_or(false),
    };
    !(inside && has(&window.seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_published_unless_a_chunk_has_it_or_will_have_it() {
        let key = |key: &'static str| vec![Bytes::from_static(key.as_bytes())];
        let progress = |last: Option<&str>, done| {
            Progress::up_to(last.map(|last| vec![last.to_owned()]), done)
        };
        let window = Window {
            after: Some(vec!["10".into()]),
            seen: 60,
            high: 1,
            keys: HashSet::from([key("15")]),
        };
        let open = Some(&window);
        let numbers = Some(&[Order::Number][..]);
        let bytes = Some(&[Order::Bytes][..]);
        for (order, progress, window, row, transaction, expected) in [
            (numbers, progress(None, false), None, "1", 40, false),
            (numbers, progress(Some("20"), false), None, "20", 70, true),
            (numbers, progress(Some("20"), false), None, "21", 70, false),
            // As numbers, 9 is before 20; as texts, it is behind.
            (numbers, progress(Some("20"), false), open, "9", 40, true),
            (bytes, progress(Some("20"), false), open, "9", 40, false),
            (bytes, progress(Some("20"), false), open, "100", 61, true),
            (numbers, progress(Some("20"), false), open, "15", 40, false),
            (numbers, progress(Some("20"), false), open, "15", 61, true),
            (numbers, progress(Some("20"), true), open, "99", 40, false),
            (numbers, progress(Some("20"), true), None, "99", 40, true),
            (None, progress(Some("20"), false), open, "15", 40, false),
            (None, progress(Some("20"), false), open, "99", 40, true),
        ] {
            let found = publishes(order, &progress, window, &key(row), |seen| {
                transaction <= *seen
            });
            assert_eq!(
                found, expected,
                "{order:?} {progress:?} {row} {transaction}"
            );
        }
    }
}
