//! Rows, put together from their fragments.

use busbar_event::{Class, Error};
use hashbrown::HashMap;

use super::cell::{Fragment, StoredCell};
use super::keeper::Fragments;
use super::layout::{FamilyLayout, WideLayout};

/// What follows the row in the key of a fragment: family (1 byte), time and number (8 bytes each, big-endian, inverted, so
/// that the newest comes first).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub family: u8,
    /// Microseconds since 1970.
    pub time: i64,
    /// The table's number of the fragment: of two with one time the greater is the newer.
    pub number: u64,
}

const STAMP_BYTES: usize = 17;
const SIGN: u64 = 1 << 63;

impl Stamp {
    pub fn push(self, out: &mut Vec<u8>) {
        out.push(self.family);
        out.extend_from_slice(&(!((self.time as u64) ^ SIGN)).to_be_bytes());
        out.extend_from_slice(&(!self.number).to_be_bytes());
    }

    /// The row and the family of a fragment's key; none for a key that is too short.
    pub fn group(key: &[u8]) -> Option<&[u8]> {
        key.get(..key.len().checked_sub(STAMP_BYTES - 1)?)
    }

    /// The row of a fragment's key, and its stamp; none for a key that is too short.
    pub fn of(key: &[u8]) -> Option<(&[u8], Stamp)> {
        let (row, stamp) = key.split_last_chunk::<STAMP_BYTES>()?;
        let (family, rest) = stamp.split_first()?;
        let (time, number) = rest.split_first_chunk::<8>()?;
        let stamp = Stamp {
            family: *family,
            time: (!u64::from_be_bytes(*time) ^ SIGN) as i64,
            number: !u64::from_be_bytes(*number.first_chunk::<8>()?),
        };
        Some((row, stamp))
    }
}

/// Which cells are wanted.
#[derive(Clone, Debug)]
pub(super) struct WantedCells {
    /// For each family of the layout.
    pub families: Vec<WantedFamily>,
    /// Versions of a cell at most; a family may keep fewer.
    pub versions: u32,
    /// Microseconds since 1970. A version that is not later is the last one of its cell that is wanted.
    pub until: i64,
}

/// Which cells of a family are wanted.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum WantedFamily {
    None,
    All,
    /// Those of these qualifiers, each with its place in what takes them.
    Some(HashMap<Box<[u8]>, usize>),
}

/// Takes the cells of a row as they are found: families in order, within one the newest cells first.
pub(super) trait TakeCells {
    /// A live cell. `place` is that of [`WantedFamily::Some`].
    fn take(
        &mut self,
        family: usize,
        place: Option<usize>,
        qualifier: &[u8],
        time: i64,
        value: StoredCell<'_>,
    );
}

/// Reads rows in the order of their keys.
pub(super) struct RowReader<'a> {
    fragments: Fragments,
    layout: &'a WideLayout,
    wanted: &'a WantedCells,
    /// Microseconds since 1970, by which cells have expired.
    now: i64,
    next: Option<(fjall::Slice, fjall::Slice)>,
    merges: Vec<FamilyMerge>,
}

/// Keeps a reader's place while nobody reads.
pub(super) struct Paused {
    fragments: Fragments,
    next: Option<(fjall::Slice, fjall::Slice)>,
}

impl Paused {
    pub fn new(fragments: Fragments) -> Self {
        Self {
            fragments,
            next: None,
        }
    }

    pub fn resume<'a>(
        self,
        layout: &'a WideLayout,
        wanted: &'a WantedCells,
        now: i64,
    ) -> RowReader<'a> {
        RowReader {
            fragments: self.fragments,
            layout,
            wanted,
            now,
            next: self.next,
            merges: Vec::new(),
        }
    }
}

impl RowReader<'_> {
    pub fn pause(self) -> Paused {
        Paused {
            fragments: self.fragments,
            next: self.next,
        }
    }

    fn pull(&mut self) -> Result<Option<(fjall::Slice, fjall::Slice)>, Error> {
        match self.next.take() {
            Some(pair) => Ok(Some(pair)),
            None => self.fragments.next().transpose(),
        }
    }

    /// Reads the next row that is there: its key into `row`, its cells into `into`. False at the end.
    ///
    /// # Errors
    /// What the disk says, or a fragment that cannot be read.
    pub fn row(&mut self, row: &mut Vec<u8>, into: &mut impl TakeCells) -> Result<bool, Error> {
        loop {
            let Some(first) = self.pull()? else {
                return Ok(false);
            };
            let (key, _) = Stamp::of(&first.0).ok_or_else(damaged)?;
            row.clear();
            row.extend_from_slice(key);
            self.begin();
            self.next = Some(first);
            let mut is_there = false;
            while let Some((key, value)) = self.pull()? {
                let (its, stamp) = Stamp::of(&key).ok_or_else(damaged)?;
                if its != row.as_slice() {
                    self.next = Some((key, value));
                    break;
                }
                self.next = self.fragments.next().transpose()?;
                let next = self.next.as_ref().map(|(next, _)| Stamp::group(next));
                let is_last = next != Some(Stamp::group(&key));
                if let Some(family) = self.layout.family(stamp.family) {
                    is_there |= self.fragment(family, stamp, is_last, &value, into)?;
                }
            }
            if is_there {
                return Ok(true);
            }
        }
    }

    fn begin(&mut self) {
        let count = self.layout.families.len();
        self.merges.resize_with(count, FamilyMerge::default);
        for (merge, wanted) in self.merges.iter_mut().zip(&self.wanted.families) {
            merge.begin(wanted);
        }
    }

    /// Takes what is live of a fragment, the last one of its family or not. True if it shows that the row is there.
    fn fragment(
        &mut self,
        place: usize,
        stamp: Stamp,
        is_last: bool,
        value: &[u8],
        into: &mut impl TakeCells,
    ) -> Result<bool, Error> {
        let (merge, family) = (&mut self.merges[place], &self.layout.families[place]);
        if merge.is_over || has_expired(family, stamp.time, self.now) {
            merge.is_over = true;
            return Ok(false);
        }
        let Fragment::Put(cells) = Fragment::read(value)? else {
            merge.is_over = true;
            return Ok(false);
        };
        if merge.is_full {
            return Ok(true);
        }
        let wanted = &self.wanted.families[place];
        let most = family.versions.min(self.wanted.versions);
        // Then no cell comes twice, and nothing has to be known of those before.
        let is_alone = std::mem::take(&mut merge.is_first) && is_last && cells.are_in_order();
        for cell in cells {
            let (qualifier, value) = cell?;
            let known = match wanted {
                WantedFamily::None => break,
                WantedFamily::All => None,
                WantedFamily::Some(known) => match known.get(qualifier) {
                    Some(place) => Some(*place),
                    None => continue,
                },
            };
            if is_alone {
                if !value.is_null() {
                    into.take(place, known, qualifier, stamp.time, value);
                }
                continue;
            }
            let versions = merge.versions(known, qualifier);
            if *versions >= most {
                continue;
            }
            if value.is_null() {
                // Everything older is deleted.
                *versions = most;
            } else {
                *versions = match stamp.time <= self.wanted.until {
                    true => most,
                    false => *versions + 1,
                };
                into.take(place, known, qualifier, stamp.time, value);
            }
            if *versions == most && known.is_some() {
                merge.open -= 1;
                merge.is_full = merge.open == 0;
            }
        }
        Ok(true)
    }
}

/// What is known of a family while a row is read, the newest fragment first.
#[derive(Debug, Default)]
struct FamilyMerge {
    /// No cells have been found yet.
    is_first: bool,
    /// What follows is deleted or has expired.
    is_over: bool,
    /// Every cell that is wanted has been found.
    is_full: bool,
    /// Places of wanted qualifiers that may still have versions to come.
    open: usize,
    /// Versions found of each wanted qualifier, by its place.
    places: Vec<u32>,
    /// Versions found of other qualifiers.
    others: HashMap<Vec<u8>, u32>,
}

impl FamilyMerge {
    fn begin(&mut self, wanted: &WantedFamily) {
        self.is_first = true;
        self.is_over = false;
        self.open = match wanted {
            WantedFamily::Some(known) => known.len(),
            _ => 0,
        };
        self.is_full = *wanted == WantedFamily::None;
        self.places.clear();
        self.others.clear();
    }

    fn versions(&mut self, place: Option<usize>, qualifier: &[u8]) -> &mut u32 {
        match place {
            Some(place) => {
                if place >= self.places.len() {
                    self.places.resize(place + 1, 0);
                }
                &mut self.places[place]
            }
            None => self.others.entry_ref(qualifier).or_insert(0),
        }
    }
}

pub(super) fn has_expired(family: &FamilyLayout, time: i64, now: i64) -> bool {
    family
        .ttl_us
        .is_some_and(|ttl| time < now.saturating_sub(ttl))
}

pub(super) fn damaged() -> Error {
    Error::new(Class::Permanent, "table.wide-damaged")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_sort_the_newest_first_and_come_back() {
        let stamp = |time, number| Stamp {
            family: 1,
            time,
            number,
        };
        let mut keys = Vec::new();
        for it in [
            stamp(5, 1),
            stamp(i64::MAX, 0),
            stamp(5, 2),
            stamp(-5, 9),
            stamp(i64::MIN, 0),
        ] {
            let mut key = b"row".to_vec();
            it.push(&mut key);
            assert_eq!(Stamp::of(&key), Some((&b"row"[..], it)));
            keys.push(key);
        }
        keys.sort();
        let times = keys.iter().map(|key| Stamp::of(key).unwrap().1);
        let times: Vec<_> = times.map(|it| (it.time, it.number)).collect();
        assert_eq!(
            times,
            [(i64::MAX, 0), (5, 2), (5, 1), (-5, 9), (i64::MIN, 0)]
        );
        assert_eq!(Stamp::of(&[0; 16]), None);
    }
}
