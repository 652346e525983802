//! A chunk of a snapshot that waits for the stream.
//!
//! Not every server says which transactions a chunk saw. It is enough to know that it saw all that the stream had passed
//! before, and nothing behind a place in the log: the chunk is kept back until the stream has come to that place, and a row
//! that is changed meanwhile is left out of it, because its changes are published. What is left has not changed between the
//! place where the stream was and the place where it is, so that it does not matter when it was read. Nothing is missing and
//! nothing comes twice.

use std::collections::HashMap;

use bytes::Bytes;

use super::snapshot::{Order, Progress, is_behind};

/// Rows of a chunk until they may be published.
pub struct HeldChunk {
    /// The key before its first row; `None` for the first chunk.
    after: Option<Vec<String>>,
    /// Where in the log everything that it saw has passed.
    high: u64,
    /// How far the table is read with it.
    progress: Progress,
    rows: Vec<HeldRow>,
    /// Rows of the chunk's range that are there: their place among `rows`, or none for one that a change has written since.
    there: HashMap<Vec<Bytes>, Option<usize>>,
}

/// A row as it is published.
pub struct HeldRow {
    /// The key of its event.
    pub key: String,
    /// Its event.
    pub payload: Vec<u8>,
    /// A change has written or deleted it since.
    changed: bool,
}

impl HeldChunk {
    /// A chunk without rows yet, behind a key.
    pub fn new(after: Option<Vec<String>>, high: u64, progress: Progress) -> HeldChunk {
        HeldChunk {
            after,
            high,
            progress,
            rows: Vec::new(),
            there: HashMap::new(),
        }
    }

    /// Adds a row that was read.
    pub fn push(&mut self, parts: Vec<Bytes>, key: String, payload: Vec<u8>) {
        self.there.insert(parts, Some(self.rows.len()));
        self.rows.push(HeldRow {
            key,
            payload,
            changed: false,
        });
    }

    /// How far the table is read with it.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether the stream has passed everything that it saw.
    pub fn is_passed(&self, position: u64) -> bool {
        position >= self.high
    }

    /// A row was written or deleted, and the change is published. Answers whether the row is in the range of the chunk;
    /// `None` where that is not known.
    pub fn change(
        &mut self,
        order: Option<&[Order]>,
        key: &[Bytes],
        deleted: bool,
    ) -> Option<bool> {
        let known = self.there.get(key).copied();
        if let Some(Some(at)) = known {
            self.rows[at].changed = true;
        }
        let inside = match (order, &self.after) {
            (None, _) => known.map(|_| true),
            // What is behind the chunk is not published.
            (_, None) => Some(true),
            (_, Some(after)) => is_behind(order, key, after),
        };
        match (inside, deleted) {
            (Some(true), true) => drop(self.there.remove(key)),
            (Some(true), false) => drop(self.there.insert(key.to_vec(), None)),
            _ => {}
        }
        inside
    }

    /// The table was emptied, and the change is published.
    pub fn empty(&mut self) {
        self.rows.clear();
        self.there.clear();
    }

    /// How many rows are there in its range.
    pub fn there(&self) -> u64 {
        self.there.len() as u64
    }

    /// The rows that no change has written since, in their order.
    pub fn rows(&self) -> impl Iterator<Item = &HeldRow> {
        self.rows.iter().filter(|row| !row.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &'static str) -> Vec<Bytes> {
        vec![Bytes::from_static(text.as_bytes())]
    }

    fn held(chunk: &HeldChunk) -> Vec<&str> {
        chunk.rows().map(|row| row.key.as_str()).collect()
    }

    #[test]
    fn rows_that_are_changed_meanwhile_are_left_out_and_those_there_are_counted() {
        let numbers = Some(&[Order::Number][..]);
        let mut chunk = HeldChunk::new(Some(vec!["9".into()]), 50, Progress::default());
        for row in ["10", "11", "12", "13"] {
            chunk.push(key(row), row.to_owned(), Vec::new());
        }
        assert!(!chunk.is_passed(49) && chunk.is_passed(50));
        // Before the chunk.
        assert_eq!(chunk.change(numbers, &key("9"), true), Some(false));
        assert_eq!(chunk.change(numbers, &key("11"), false), Some(true));
        assert_eq!(chunk.change(numbers, &key("12"), true), Some(true));
        assert_eq!((held(&chunk), chunk.there()), (vec!["10", "13"], 3));
        // It has seen this one go; the change says so once more.
        assert_eq!(chunk.change(numbers, &key("14"), true), Some(true));
        assert_eq!(chunk.there(), 3);
        assert_eq!(chunk.change(numbers, &key("12"), false), Some(true));
        assert_eq!((held(&chunk), chunk.there()), (vec!["10", "13"], 4));
        chunk.empty();
        assert_eq!((held(&chunk), chunk.there()), (Vec::new(), 0));
    }

    #[test]
    fn without_an_order_a_row_is_known_by_its_key() {
        let mut chunk = HeldChunk::new(None, 50, Progress::default());
        for row in ["b", "a"] {
            chunk.push(key(row), row.to_owned(), Vec::new());
        }
        assert_eq!(chunk.change(None, &key("b"), false), Some(true));
        assert_eq!(chunk.change(None, &key("c"), false), None);
        assert_eq!(held(&chunk), ["a"]);
    }
}
