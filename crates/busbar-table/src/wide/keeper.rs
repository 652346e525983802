//! Where the cells of a table are: in the node's own store, or in another system.

use std::sync::Arc;

use busbar_event::Error;
use busbar_log::Clock;
use hashbrown::HashMap;

use super::kept::{KeptCells, KeptCommit};
use super::kept_rows::{FragmentEntry, KeptFragments};
use super::key::KeyRange;
use super::layout::WideLayout;
use super::outside::{CellGuard, CellRead, CellRow, FamilyRead};
use super::range_read::RangeRead;
use super::read::{WantedCells, WantedFamily};
use super::row_cache::CachedFragments;
use super::store::{CellCommit, StoredPicture, Undurable, WideStore, failed};
use crate::limits::WIDE_FETCH_ROWS;

/// What keeps the cells of a table.
#[derive(Clone)]
pub(super) enum WideKeeper {
    /// The node's own store.
    Own(Arc<WideStore>),
    /// Another system.
    Other(Arc<KeptCells>),
}

/// Changes that are made together.
pub(super) enum WideCommit {
    Own(CellCommit),
    Other(KeptCommit),
}

/// Changes that were made.
#[must_use]
pub(super) enum WideCommitted {
    /// They may not be durable yet.
    Own(Undurable),
    Other,
}

/// A table as it was at one moment. Of another system only each row is.
pub(super) enum Picture {
    Own(StoredPicture),
    Other(Fetching),
}

/// Fragments in the order of their keys.
pub(super) enum Fragments {
    /// Those of a range in files.
    Own(Box<RangeRead>),
    /// Those of a row, and more of them in files.
    Row(CachedFragments, usize, Option<fjall::Iter>),
    Other(KeptFragments),
}

/// Rows of another system, asked for many at a time.
pub(super) struct Fetching {
    kept: Arc<KeptCells>,
    /// Keys of rows that will be read, in that order.
    keys: Vec<Vec<u8>>,
    /// How many of them have been asked for.
    asked: usize,
    found: HashMap<Vec<u8>, CellRow>,
}

impl WideKeeper {
    pub fn clock(&self) -> &dyn Clock {
        match self {
            Self::Own(store) => store.clock(),
            Self::Other(kept) => kept.clock(),
        }
    }

    /// Where it is, for people.
    pub fn shown(&self) -> String {
        match self {
            Self::Own(store) => store.folder().display().to_string(),
            Self::Other(kept) => kept.shown(),
        }
    }

    /// Bytes on the node's disk.
    ///
    /// # Errors
    /// What the disk says.
    pub fn bytes(&self, table: &str) -> Result<u64, Error> {
        match self {
            Self::Own(store) => store.bytes(table),
            Self::Other(_) => Ok(0),
        }
    }

    /// The last position of a producer.
    ///
    /// # Errors
    /// What the disk says.
    pub fn position(&self, table: &str, producer: &str) -> Result<Option<u64>, Error> {
        match self {
            Self::Own(store) => {
                let kept = store.meta(&position_key(table, producer))?;
                Ok(kept.map(|bytes| super::big_endian(&bytes)))
            }
            Self::Other(kept) => Ok(kept.position(producer)),
        }
    }

    /// The time of the next commit, in microseconds since 1970, not before `last`.
    pub fn next_time(&self, last: i64) -> i64 {
        match self {
            Self::Own(store) => last.max(store.clock().now_micros()),
            Self::Other(kept) => kept.next_time(),
        }
    }

    /// Whether cells can have times before 1970.
    pub fn has_early_times(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    /// Whether there is any row, also one whose cells have expired.
    ///
    /// # Errors
    /// What the disk says.
    pub fn has_rows(&self, table: &str) -> Result<bool, Error> {
        match self {
            Self::Own(store) => store.has_fragments(table),
            Self::Other(kept) => kept.has_rows(),
        }
    }

    /// The table as it is now, of which so many rows or ranges of rows will be read.
    ///
    /// # Errors
    /// What the disk says.
    pub fn picture(&self, table: &str, reads: usize) -> Result<Picture, Error> {
        Ok(match self {
            Self::Own(store) => Picture::Own(store.picture(table, reads)?),
            Self::Other(kept) => Picture::Other(Fetching {
                kept: Arc::clone(kept),
                keys: Vec::new(),
                asked: 0,
                found: HashMap::new(),
            }),
        })
    }

    /// Begins a commit.
    ///
    /// # Errors
    /// What the disk says.
    pub fn begin(&self, table: &str) -> Result<WideCommit, Error> {
        Ok(match self {
            Self::Own(store) => WideCommit::Own(store.begin(table)?),
            Self::Other(_) => WideCommit::Other(KeptCommit::default()),
        })
    }

    /// Makes the changes of a commit; none if its guard did not fit. In the node's own store they are not durable before
    /// [`WideKeeper::sync`] has returned.
    ///
    /// # Errors
    /// What the disk says; then nothing has changed. As of [`KeptCells::commit`].
    pub fn commit(
        &self,
        commit: WideCommit,
        layout: &WideLayout,
    ) -> Result<Option<WideCommitted>, Error> {
        match (self, commit) {
            (Self::Own(store), WideCommit::Own(commit)) => {
                let committed = store.commit(commit, layout)?;
                Ok(Some(WideCommitted::Own(committed)))
            }
            (Self::Other(kept), WideCommit::Other(commit)) => {
                Ok(kept.commit(commit)?.then_some(WideCommitted::Other))
            }
            _ => Err(super::read::damaged()),
        }
    }

    /// Makes a commit durable, and those before it.
    ///
    /// # Errors
    /// What the disk says; then it is not known whether the commits are durable.
    pub fn sync(&self, commit: WideCommitted) -> Result<(), Error> {
        match (self, commit) {
            (Self::Own(store), WideCommitted::Own(commit)) => store.sync(commit),
            _ => Ok(()),
        }
    }

    /// Makes every commit so far durable.
    ///
    /// # Errors
    /// As of [`WideKeeper::sync`].
    pub fn sync_all(&self) -> Result<(), Error> {
        match self {
            Self::Own(store) => store.sync_all(),
            Self::Other(_) => Ok(()),
        }
    }
}

impl WideCommit {
    /// Adds a fragment.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        match self {
            Self::Own(commit) => commit.put(key, value),
            Self::Other(commit) => commit.entries.push((key.to_vec(), value.to_vec())),
        }
    }

    /// Notes the position of a producer.
    pub fn put_position(&mut self, table: &str, producer: &str, position: u64) {
        match self {
            Self::Own(commit) => {
                commit.put_meta(&position_key(table, producer), &position.to_be_bytes());
            }
            Self::Other(commit) => commit.position = Some((producer.to_owned(), position)),
        }
    }

    /// Notes the layout.
    pub fn put_layout(&mut self, table: &str, text: &[u8]) {
        match self {
            Self::Own(commit) => commit.put_meta(&format!("l/{table}"), text),
            Self::Other(commit) => commit.layout = Some(text.to_vec()),
        }
    }

    /// Notes the number of the last fragment and the time of writing.
    pub fn put_stamper(&mut self, table: &str, number: u64, time: i64) {
        match self {
            Self::Own(commit) => {
                let mut both = number.to_be_bytes().to_vec();
                both.extend_from_slice(&time.to_be_bytes());
                commit.put_meta(&format!("s/{table}"), &both);
            }
            Self::Other(commit) => commit.written = time,
        }
    }

    /// The changes are made only if a cell of a row still holds what was seen: for other systems, which others may change
    /// meanwhile, and only where this row is all that changes.
    pub fn guard(&mut self, key: &[u8], guard: impl FnOnce() -> CellGuard) {
        if let Self::Other(commit) = self {
            commit.guard = Some((key.to_vec(), guard()));
        }
    }
}

fn position_key(table: &str, producer: &str) -> String {
    format!("p/{table}/{producer}")
}

impl Picture {
    /// Rows with these keys will be read, in this order.
    pub fn expect(
        &mut self,
        keys: impl FnOnce() -> Result<Vec<Vec<u8>>, Error>,
    ) -> Result<(), Error> {
        if let Self::Other(fetching) = self {
            fetching.keys = keys()?;
            fetching.asked = 0;
            fetching.found.clear();
        }
        Ok(())
    }

    /// The fragments of the row that this is the range of, at least those of the cells that are wanted.
    ///
    /// # Errors
    /// As of [`super::outside::CellStore::get`].
    pub fn row(
        &mut self,
        range: KeyRange,
        layout: &WideLayout,
        wanted: &WantedCells,
    ) -> Result<Fragments, Error> {
        match self {
            Self::Own(picture) => {
                let (found, more) = picture.row(range, layout)?;
                Ok(Fragments::Row(found, 0, more))
            }
            Self::Other(fetching) => fetching.range(&range, layout, wanted).map(Fragments::Other),
        }
    }

    /// The fragments in a range of keys, at least those of the cells that are wanted.
    ///
    /// # Errors
    /// As of [`super::outside::CellStore::get`].
    pub fn range(
        self,
        range: KeyRange,
        layout: &Arc<WideLayout>,
        wanted: &WantedCells,
    ) -> Result<Fragments, Error> {
        match self {
            Self::Own(picture) => {
                let read = RangeRead::new(picture, range, layout);
                Ok(Fragments::Own(Box::new(read)))
            }
            Self::Other(mut fetching) => {
                fetching.range(&range, layout, wanted).map(Fragments::Other)
            }
        }
    }
}

impl Fetching {
    fn range(
        &mut self,
        range: &KeyRange,
        layout: &WideLayout,
        wanted: &WantedCells,
    ) -> Result<KeptFragments, Error> {
        let names = self.kept.names();
        let read = || cell_read(layout, wanted);
        let Some(key) = range.row() else {
            let (from, to) = range.bytes();
            let rows = self.kept.scan(from, to, read())?;
            return Ok(KeptFragments::new(rows, names));
        };
        if !self.found.contains_key(key) {
            let ahead = self.keys.get(self.asked..).unwrap_or_default();
            // Those before it are there already.
            let before = ahead
                .iter()
                .take(WIDE_FETCH_ROWS)
                .position(|next| next == key);
            let keys: Vec<Vec<u8>> = match before {
                Some(before) => {
                    let next = ahead[before..].iter().take(WIDE_FETCH_ROWS);
                    let next: Vec<Vec<u8>> = next.cloned().collect();
                    self.asked += before + next.len();
                    next
                }
                None => vec![key.to_vec()],
            };
            self.found.clear();
            for row in self.kept.get(keys, read())? {
                self.found.insert(row.key.clone(), row);
            }
        }
        let none = CellRow::default();
        Ok(KeptFragments::of(
            self.found.get(key).unwrap_or(&none),
            names,
        ))
    }
}

impl Iterator for Fragments {
    type Item = Result<FragmentEntry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Own(fragments) => fragments.next(),
            Self::Row(found, at, more) => match found.get(*at) {
                Some(entry) => {
                    *at += 1;
                    Some(Ok(entry.clone()))
                }
                None => {
                    let guard = more.as_mut()?.next()?;
                    Some(guard.into_inner().map_err(failed))
                }
            },
            Self::Other(fragments) => fragments.next(),
        }
    }
}

/// What is asked for: the cells that are wanted, and those that say that a family was written.
fn cell_read(layout: &WideLayout, wanted: &WantedCells) -> CellRead {
    let families = layout.families.iter().zip(&wanted.families);
    let families = families.map(|(family, wanted)| {
        let written: Box<[u8]> = Box::new([]);
        FamilyRead {
            name: family.name.as_str().into(),
            qualifiers: match wanted {
                WantedFamily::All => None,
                WantedFamily::None => Some(vec![written]),
                WantedFamily::Some(known) => Some(known.keys().cloned().chain([written]).collect()),
            },
        }
    });
    let kept = layout.families.iter().map(|family| family.versions).max();
    CellRead {
        families: families.collect(),
        versions: kept.unwrap_or(1).min(wanted.versions),
    }
}
