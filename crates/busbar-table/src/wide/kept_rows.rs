//! Fragments as cells of another system, and back.
//!
//! Each cell of a fragment is a cell there: its value begins with the byte that says its type, as in a fragment. One more cell,
//! without a qualifier and without a value, says that the family of this row was written, so that a row is found whichever of
//! its columns are read. The deletion of a family is one there.

use std::cmp::Reverse;
use std::sync::Arc;

use busbar_event::{Class, Error};
use hashbrown::HashMap;

use super::cell::{Fragment, FragmentWriter, StoredCell};
use super::outside::{CellBytes, CellMutation, CellRow, CellRows};
use super::read::{Stamp, damaged};

/// The key and the value of a fragment.
pub(super) type FragmentEntry = (fjall::Slice, fjall::Slice);

/// The families by their numbers in keys.
pub(super) type FamilyNames = Arc<[Arc<str>]>;

const MILLI: i64 = 1_000;

/// The fragments of rows of another system, in the order in which the node's own store has them.
pub(super) struct KeptFragments {
    rows: CellRows,
    names: FamilyNames,
    ready: std::vec::IntoIter<FragmentEntry>,
}

impl KeptFragments {
    pub fn new(rows: CellRows, names: FamilyNames) -> Self {
        Self {
            rows,
            names,
            ready: Vec::new().into_iter(),
        }
    }

    /// Those of one row.
    pub fn of(row: &CellRow, names: FamilyNames) -> Self {
        let mut ready = Vec::new();
        push_fragments(row, &names, &mut ready);
        Self {
            rows: Box::new(std::iter::empty()),
            names,
            ready: ready.into_iter(),
        }
    }
}

impl Iterator for KeptFragments {
    type Item = Result<FragmentEntry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.ready.next() {
                return Some(Ok(entry));
            }
            let rows = match self.rows.next()? {
                Ok(rows) => rows,
                Err(error) => return Some(Err(error)),
            };
            let mut ready = Vec::new();
            for row in &rows {
                push_fragments(row, &self.names, &mut ready);
            }
            self.ready = ready.into_iter();
        }
    }
}

/// Cells of one family and one time become one fragment, as which they were written.
fn push_fragments(row: &CellRow, names: &[Arc<str>], out: &mut Vec<FragmentEntry>) {
    let numbered = row.cells.iter().filter_map(|cell| {
        let number = names.iter().position(|name| *name == cell.family)?;
        Some((number as u8, cell))
    });
    let mut cells: Vec<(u8, &CellBytes)> = numbered.collect();
    cells.sort_by_key(|(number, cell)| (*number, Reverse(cell.time_ms)));
    for same in cells.chunk_by(|a, b| a.0 == b.0 && a.1.time_ms == b.1.time_ms) {
        let (mut key, mut value) = (row.key.clone(), Vec::new());
        let mut fragment = FragmentWriter::new(&mut value);
        for (_, cell) in same.iter().filter(|(_, cell)| !cell.qualifier.is_empty()) {
            match StoredCell::read(&cell.value) {
                Some(stored) => fragment.stored(&cell.qualifier, stored),
                // Another program wrote it.
                None => match std::str::from_utf8(&cell.value) {
                    Ok(text) if !text.contains(|c: char| c.is_control() && !c.is_whitespace()) => {
                        fragment.text(&cell.qualifier, text);
                    }
                    _ => fragment.binary(&cell.qualifier, &cell.value),
                },
            }
        }
        let stamp = Stamp {
            family: same[0].0,
            time: same[0].1.time_ms.saturating_mul(MILLI),
            number: 0,
        };
        stamp.push(&mut key);
        out.push((key.into(), value.into()));
    }
}

/// A row's place, a family, a time in milliseconds and a qualifier.
type OwnCell<'a> = (usize, u8, i64, &'a [u8]);

/// Fragments as changes of rows, and the latest time among those without a time of their own, in milliseconds.
///
/// Fragments of one family of one row that have the time of writing `written` (microseconds) get a millisecond each, in their
/// order, so that a deletion does not hide what was put after it.
///
/// # Errors
/// A time before 1970, which the other system may not have.
pub(super) fn mutations<'a>(
    entries: &'a [(Vec<u8>, Vec<u8>)],
    names: &[Arc<str>],
    written: i64,
) -> Result<(Vec<CellMutation>, i64), Error> {
    let first = written.div_euclid(MILLI);
    let (mut rows, mut latest) = (Vec::<CellMutation>::new(), first);
    let mut places: HashMap<&'a [u8], usize> = HashMap::with_capacity(entries.len());
    let mut times: HashMap<(usize, u8), i64> = HashMap::with_capacity(entries.len());
    // Cells with times of their own, which another fragment may put again.
    let mut own: HashMap<OwnCell<'a>, usize> = HashMap::new();
    for (entry, fragment) in entries {
        let (key, stamp) = Stamp::of(entry).ok_or_else(damaged)?;
        let name = names
            .get(usize::from(stamp.family))
            .ok_or_else(damaged)?
            .clone();
        let place = *places.entry(key).or_insert_with(|| {
            rows.push(CellMutation {
                key: key.to_vec(),
                ..CellMutation::default()
            });
            rows.len() - 1
        });
        let is_own_time = stamp.time != written;
        let time_ms = match is_own_time {
            true => stamp.time.div_euclid(MILLI),
            false => {
                let next = times.entry((place, stamp.family)).or_insert(first - 1);
                *next += 1;
                latest = latest.max(*next);
                *next
            }
        };
        check_time(time_ms)?;
        let row = &mut rows[place];
        let Fragment::Put(cells) = Fragment::read(fragment)? else {
            row.deleted.push((name, time_ms));
            continue;
        };
        let mut put = |qualifier: &'a [u8], value: Vec<u8>| {
            if is_own_time {
                let next = row.cells.len();
                let at = *own
                    .entry((place, stamp.family, time_ms, qualifier))
                    .or_insert(next);
                if at < next {
                    row.cells[at].value = value;
                    return;
                }
            }
            row.cells.push(CellBytes {
                family: Arc::clone(&name),
                qualifier: qualifier.to_vec(),
                time_ms,
                value,
            });
        };
        put(&[], Vec::new());
        for cell in cells {
            let (qualifier, stored) = cell?;
            put(qualifier, stored.to_bytes());
        }
    }
    Ok((rows, latest))
}

/// # Errors
/// A time before 1970.
pub(super) fn check_time(time: i64) -> Result<(), Error> {
    match time < 0 {
        true => Err(Error::new(Class::Permanent, "table.wide-before-1970")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::cell::{CellValue, write_deletion};
    use super::*;

    fn entry(row: &str, family: u8, time: i64, number: u64) -> Vec<u8> {
        let mut key = row.as_bytes().to_vec();
        let stamp = Stamp {
            family,
            time,
            number,
        };
        stamp.push(&mut key);
        key
    }

    fn put(cells: &[(&str, CellValue)]) -> Vec<u8> {
        let mut value = Vec::new();
        let mut fragment = FragmentWriter::new(&mut value);
        for (qualifier, cell) in cells {
            fragment.value(qualifier.as_bytes(), cell);
        }
        value
    }

    #[test]
    fn fragments_become_cells_and_come_back() {
        let names: FamilyNames = [Arc::from("m"), Arc::from("note")].into();
        let mut deletion = Vec::new();
        write_deletion(&mut deletion);
        let cells = put(&[
            ("a", CellValue::Int(-1)),
            ("b", CellValue::Text("雨".into())),
        ]);
        let entries = [
            (entry("r", 0, 5_000, 1), deletion),
            (entry("r", 0, 5_000, 2), cells.clone()),
            (
                entry("r", 1, 2_999, 3),
                put(&[("x", CellValue::Bool(true))]),
            ),
            (
                entry("r", 1, 2_500, 4),
                put(&[("x", CellValue::Bool(false))]),
            ),
            (entry("s", 0, 5_000, 5), put(&[])),
        ];
        let (rows, latest) = mutations(&entries, &names, 5_000).unwrap();
        assert_eq!((rows.len(), latest), (2, 6));
        assert_eq!(rows[0].deleted, [(names[0].clone(), 5)]);
        // What follows the deletion is later than it; of two of one millisecond the last one counts.
        let times: Vec<_> = rows[0].cells.iter().map(|cell| cell.time_ms).collect();
        assert_eq!(times, [6, 6, 6, 2, 2]);
        let row = CellRow {
            key: rows[0].key.clone(),
            cells: rows[0].cells.iter().rev().cloned().collect(),
        };
        let back: Vec<_> = KeptFragments::of(&row, Arc::clone(&names)).collect();
        let back: Vec<_> = back.into_iter().map(Result::unwrap).collect();
        assert_eq!(back.len(), 2);
        assert_eq!(&*back[0].0, entry("r", 0, 6_000, 0));
        assert_eq!(&*back[1].1, put(&[("x", CellValue::Bool(false))]));
        assert_eq!(rows[1].cells.len(), 1, "a row without cells is a row");
        let early = [(entry("r", 0, -1, 1), cells)];
        let refused = mutations(&early, &names, 5_000).unwrap_err();
        assert_eq!(refused.code(), "table.wide-before-1970");
    }

    #[test]
    fn what_other_programs_wrote_is_text_or_bytes() {
        let names: FamilyNames = [Arc::from("m")].into();
        let read = |value: &[u8]| {
            let cell = CellBytes {
                family: Arc::clone(&names[0]),
                qualifier: b"q".to_vec(),
                time_ms: 1,
                value: value.to_vec(),
            };
            let row = CellRow {
                key: b"r".to_vec(),
                cells: vec![cell],
            };
            let mut entries = KeptFragments::of(&row, Arc::clone(&names));
            let (_, fragment) = entries.next().unwrap().unwrap();
            let Fragment::Put(mut cells) = Fragment::read(&fragment).unwrap() else {
                panic!("a deletion");
            };
            let (_, stored) = cells.next().unwrap().unwrap();
            stored.value()
        };
        assert_eq!(read(b"plain"), Some(CellValue::Text("plain".into())));
        let long = 5_i64.to_be_bytes();
        assert_eq!(read(&long), Some(CellValue::Binary(long.to_vec())));
        assert_eq!(read(b""), Some(CellValue::Text(String::new())));
        assert_eq!(read(&[0]), None, "deleted");
    }
}
