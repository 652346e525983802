//! Finding rows as of a time.

use std::cmp::Reverse;

use arrow::array::{Array as _, RecordBatch, RecordBatchOptions};
use busbar_event::Error;
use hashbrown::HashMap;

use super::Wide;
use super::cell::{CellValue, StoredCell};
use super::read::{Paused, TakeCells, WantedFamily, damaged};
use super::scan::{CellBuilder, RowOfCells, builders, wanted};
use super::write::Typed;
use crate::columns::{arrow_error, check_lookup};
use crate::table::{Found, Lookup};

/// Finds rows by their keys, each as of a time, all in what the table keeps at this moment. The fragments of a row are read
/// once, for all times that are asked for.
pub(super) fn find(table: &Wide, lookup: &Lookup<'_>, times: &[i64]) -> Result<Found, Error> {
    let layout = table.layout();
    check_lookup(&table.name, &layout.schema, &layout.key_places, lookup.keys)?;
    let form = layout.key.as_ref().ok_or_else(damaged)?;
    let schema = layout.schema.project(lookup.columns).map_err(arrow_error)?;
    let mut wanted = wanted(&layout, lookup.columns);
    wanted.versions = u32::MAX;
    if wanted
        .families
        .iter()
        .all(|family| *family == WantedFamily::None)
    {
        // Any cell shows that the row was there.
        wanted.families.fill(WantedFamily::All);
    }
    let key = lookup.keys.iter().zip(form.types());
    let key: Vec<Typed<'_>> = key.map(|(array, kind)| Typed::new(*kind, array)).collect();
    let values =
        |at: usize| -> Vec<CellValue> { key.iter().map(|column| column.value(at)).collect() };
    let count = lookup.keys[0].len();
    let mut asked: Vec<(Vec<u8>, Reverse<i64>, usize)> = Vec::with_capacity(count);
    for (at, time) in times.iter().enumerate().take(count) {
        if lookup.keys.iter().all(|column| column.is_valid(at)) {
            let mut encoded = Vec::new();
            form.encode(&values(at), &mut encoded)?;
            asked.push((encoded, Reverse(*time), at));
        }
    }
    asked.sort_unstable();

    let mut picture = table.keeper.picture(&table.name, asked.len())?;
    picture.expect(|| Ok(asked.iter().map(|one| one.0.clone()).collect()))?;
    let now = table.keeper.clock().now_micros();
    let mut cells = RowOfCells::new(&layout, lookup.columns);
    let mut builders = builders(&schema);
    let (mut places, mut rows) = (vec![None; count], 0_u32);
    let mut row = Vec::new();
    for same in asked.chunk_by(|one, other| one.0 == other.0) {
        let Some(Reverse(earliest)) = same.last().map(|(_, time, _)| *time) else {
            continue;
        };
        wanted.until = earliest;
        let key = values(same[0].2);
        let range = form.row(&key)?;
        let mut past = Past::new(same.iter().map(|(_, Reverse(time), _)| *time).collect());
        let paused = Paused::new(picture.row(range, &layout, &wanted)?);
        paused
            .resume(&layout, &wanted, now)
            .row(&mut row, &mut past)?;
        let mut last = None;
        for (_, Reverse(time), at) in same {
            let moved = past.go_back(*time);
            if past.is_empty() {
                break;
            }
            if moved || last.is_none() {
                cells.begin();
                past.show(&mut cells);
                cells.append(&key, &mut builders);
                last = Some(rows);
                rows += 1;
            }
            places[*at] = last;
        }
    }
    let arrays = builders.into_iter().map(CellBuilder::finish).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows as usize));
    let rows = RecordBatch::try_new_with_options(schema.into(), arrays, &options);
    Ok(Found {
        rows: rows.map_err(arrow_error)?,
        places: places.into(),
    })
}

/// The versions of the cells of one row that are the newest ones at some of the times asked for.
struct Past {
    /// The times, the latest first.
    times: Vec<i64>,
    cells: Vec<PastCell>,
    by_place: HashMap<(usize, usize), usize>,
    others: HashMap<(usize, Box<[u8]>), usize>,
}

struct PastCell {
    family: usize,
    place: Option<usize>,
    qualifier: Box<[u8]>,
    /// The newest first.
    versions: Vec<PastVersion>,
    /// The version that is shown.
    at: usize,
    /// Number of times for which a version is known.
    answered: usize,
}

struct PastVersion {
    time: i64,
    tag: u8,
    bytes: Box<[u8]>,
}

impl Past {
    fn new(times: Vec<i64>) -> Self {
        Self {
            times,
            cells: Vec::new(),
            by_place: HashMap::new(),
            others: HashMap::new(),
        }
    }

    /// Goes back to a time, not later than the last one. True where what is shown has changed.
    fn go_back(&mut self, time: i64) -> bool {
        let mut moved = false;
        for cell in &mut self.cells {
            while cell
                .versions
                .get(cell.at)
                .is_some_and(|version| version.time > time)
            {
                cell.at += 1;
                moved = true;
            }
        }
        moved
    }

    /// Whether no cell has a version of the time that it was taken back to, or before.
    fn is_empty(&self) -> bool {
        let mut cells = self.cells.iter();
        cells.all(|cell| cell.at >= cell.versions.len())
    }

    fn show(&self, into: &mut impl TakeCells) {
        for cell in &self.cells {
            if let Some(version) = cell.versions.get(cell.at) {
                let value = StoredCell {
                    tag: version.tag,
                    bytes: &version.bytes,
                };
                into.take(
                    cell.family,
                    cell.place,
                    &cell.qualifier,
                    version.time,
                    value,
                );
            }
        }
    }
}

impl TakeCells for Past {
    fn take(
        &mut self,
        family: usize,
        place: Option<usize>,
        qualifier: &[u8],
        time: i64,
        value: StoredCell<'_>,
    ) {
        let next = self.cells.len();
        let number = match place {
            Some(place) => *self.by_place.entry((family, place)).or_insert(next),
            None => *self
                .others
                .entry((family, qualifier.into()))
                .or_insert(next),
        };
        if number == next {
            self.cells.push(PastCell {
                family,
                place,
                qualifier: qualifier.into(),
                versions: Vec::new(),
                at: 0,
                answered: 0,
            });
        }
        let cell = &mut self.cells[number];
        let answered = self.times.partition_point(|asked| *asked >= time);
        // A version that is not the newest one at any of the times is not copied.
        if answered > cell.answered {
            cell.answered = answered;
            cell.versions.push(PastVersion {
                time,
                tag: value.tag,
                bytes: value.bytes.into(),
            });
        }
    }
}
