//! Reads a range of rows from files.

use std::ops::Bound;
use std::sync::Arc;

use busbar_event::Error;

use super::kept_rows::FragmentEntry;
use super::key::KeyRange;
use super::layout::WideLayout;
use super::read::Stamp;
use super::store::{StoredPicture, failed};
use crate::limits::WIDE_SCAN_FRAGMENTS;

/// The fragments in a range, in the order of their keys. Of a row with many of them, those that nobody can see are left out where
/// the others are in memory: a row that was changed over and over has tens of thousands until a sweep.
pub(super) struct RangeRead {
    picture: StoredPicture,
    layout: Arc<WideLayout>,
    end: Bound<Vec<u8>>,
    entries: fjall::Iter,
    /// The row that is being read, and how many of its fragments were.
    row: Vec<u8>,
    count: usize,
    /// What follows of it, from memory.
    rest: std::vec::IntoIter<FragmentEntry>,
}

impl RangeRead {
    pub fn new(mut picture: StoredPicture, range: KeyRange, layout: &Arc<WideLayout>) -> Self {
        Self {
            end: range.end.clone(),
            entries: picture.range(range),
            picture,
            layout: Arc::clone(layout),
            row: Vec::new(),
            count: 0,
            rest: Vec::new().into_iter(),
        }
    }

    /// Goes on behind a row with many fragments, if the rest of what can be seen of it fits in memory.
    fn shorten(&mut self, last: &[u8]) -> Result<(), Error> {
        let range = KeyRange::of_row(self.row.clone());
        let behind = range.behind(&self.end);
        let (fragments, None) = self.picture.row(range, &self.layout)? else {
            return Ok(());
        };
        let rest = fragments.iter().filter(|(key, _)| **key > *last);
        self.rest = rest.cloned().collect::<Vec<_>>().into_iter();
        self.entries = self.picture.range(behind);
        Ok(())
    }
}

impl Iterator for RangeRead {
    type Item = Result<FragmentEntry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(entry) = self.rest.next() {
            return Some(Ok(entry));
        }
        let entry = match self.entries.next()?.into_inner().map_err(failed) {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        // Whoever takes it says what is wrong with a key that has no row.
        let row = Stamp::of(&entry.0).map_or(&[][..], |(row, _)| row);
        if row == self.row.as_slice() {
            self.count += 1;
        } else {
            self.row.clear();
            self.row.extend_from_slice(row);
            self.count = 1;
        }
        if self.count == WIDE_SCAN_FRAGMENTS
            && let Err(error) = self.shorten(&entry.0)
        {
            return Some(Err(error));
        }
        Some(Ok(entry))
    }
}
