//! Reading and changing single cells.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use busbar_event::{Class, Error};
use hashbrown::HashMap;

use super::cell::{CellValue, FragmentWriter, StoredCell, write_deletion};
use super::json::fit;
use super::keeper::{WideCommit, WideCommitted};
use super::kept_rows::check_time;
use super::key::{KeyLayout, KeyRange};
use super::layout::WideLayout;
use super::outside::CellGuard;
use super::read::{Paused, TakeCells, WantedCells, WantedFamily, damaged};
use super::write::{Stamps, check_qualifier, key_too_large};
use super::{Stamper, Wide};
use crate::columns::column_type_error;
use crate::limits::{WIDE_CALL_BYTES_MAX, WIDE_CALL_ROWS_MAX, WIDE_KEY_BYTES_MAX, WIDE_TRIES_MAX};
use crate::table::Compare;

/// Which cells of a row are asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CellSelect {
    /// Families (`m`), cells of a family (`m.temp`) or of the first one (`temp`). All cells if there are none.
    pub columns: Vec<String>,
    /// Versions of each cell at most, the newest ones; 1 if not given.
    pub versions: Option<u32>,
}

/// A row, as cells.
#[derive(Clone, Debug, PartialEq)]
pub struct RowCells {
    /// The values of the key's columns.
    pub key: Vec<CellValue>,
    /// By family, then qualifier, the newest version of each first.
    pub cells: Vec<Cell>,
}

/// A cell.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// Its family.
    pub family: Arc<str>,
    /// Its name within the family.
    pub qualifier: String,
    /// Microseconds since 1970.
    pub time: i64,
    /// What it holds.
    pub value: CellValue,
}

/// What to read with [`Wide::scan_cells`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CellScan {
    /// Values of the first columns of the key that every row has.
    pub prefix: Vec<CellValue>,
    /// Only rows whose next key columns are not less than these.
    pub from: Vec<CellValue>,
    /// Only rows whose next key columns are less than these.
    pub to: Vec<CellValue>,
    /// Only rows behind the one with this key: [`CellScanned::next`] of the answer before.
    pub after: Option<Vec<CellValue>>,
    /// Which cells.
    pub select: CellSelect,
    /// Only rows that fit all of these.
    pub filters: Vec<CellFilter>,
    /// Rows at most.
    pub limit: Option<usize>,
}

/// A condition on the newest version of a cell.
#[derive(Clone, Debug, PartialEq)]
pub struct CellFilter {
    /// The cell's column.
    pub column: String,
    /// How to compare; a cell of another type does not fit.
    pub compare: Compare,
    /// With what; none fits a row without the cell, and then `compare` is [`Compare::Equal`].
    pub value: Option<CellValue>,
}

/// Rows of one call of [`Wide::scan_cells`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CellScanned {
    /// The rows, in the order of their keys as they are stored.
    pub rows: Vec<RowCells>,
    /// The key of the last row that was looked at, if there may be more rows.
    pub next: Option<Vec<CellValue>>,
}

/// Changes of one row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowChange {
    /// The values of the key's columns.
    pub key: Vec<CellValue>,
    /// The changes, in order.
    pub changes: Vec<CellChange>,
    /// The time of the cells, in microseconds since 1970; the time of writing if not given.
    pub time: Option<i64>,
    /// Change the row only if all of these fit.
    pub only_if: Vec<CellFilter>,
}

/// A change of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum CellChange {
    /// Put a value into a cell.
    Put(String, CellValue),
    /// Delete a cell, all its versions.
    Delete(String),
    /// Delete all cells of a family.
    DeleteFamily(String),
    /// Delete the row.
    DeleteRow,
}

/// A sum that is added to a cell.
#[derive(Clone, Debug, PartialEq)]
pub struct Increment {
    /// The values of the key's columns.
    pub key: Vec<CellValue>,
    /// The cell's column. It holds a whole number, or does not exist and counts as 0.
    pub column: String,
    /// What is added.
    pub by: i64,
}

impl Wide {
    /// The rows with these keys, none for a row that is not there. All are as they were at one moment.
    ///
    /// # Errors
    /// Keys or columns that do not fit the table, too many rows or too much data for one call, what the disk says.
    pub fn get(
        &self,
        keys: &[Vec<CellValue>],
        select: &CellSelect,
    ) -> Result<Vec<Option<RowCells>>, Error> {
        self.settle()?;
        self.get_rows(keys, select)
    }

    fn get_rows(
        &self,
        keys: &[Vec<CellValue>],
        select: &CellSelect,
    ) -> Result<Vec<Option<RowCells>>, Error> {
        self.check_call(keys.len())?;
        let layout = self.layout();
        let form = self.form(&layout)?;
        let asked = Asked::new(self, &layout, select, &[])?;
        let mut picture = self.keeper.picture(&self.name, keys.len())?;
        picture.expect(|| keys.iter().map(|key| row_key(form, key)).collect())?;
        let now = self.keeper.clock().now_micros();
        let (mut rows, mut bytes) = (Vec::with_capacity(keys.len()), 0);
        let mut cells = CellsOfRow::new(&layout);
        let mut row = Vec::new();
        for key in keys {
            let paused = Paused::new(picture.row(form.row(key)?, &layout, &asked.wanted)?);
            let mut reader = paused.resume(&layout, &asked.wanted, now);
            let is_there = reader.row(&mut row, &mut cells)?;
            let (cells, size) = cells.take_row();
            bytes += size;
            check_bytes(&self.name, bytes)?;
            rows.push(is_there.then(|| RowCells {
                key: key.clone(),
                cells,
            }));
        }
        Ok(rows)
    }

    /// Rows in a range of keys. An answer ends early when it has become large; [`CellScanned::next`] says where to go on.
    ///
    /// # Errors
    /// As [`Wide::get`].
    pub fn scan_cells(&self, scan: &CellScan) -> Result<CellScanned, Error> {
        let limit = scan.limit.unwrap_or(WIDE_CALL_ROWS_MAX);
        self.check_call(limit)?;
        self.settle()?;
        let layout = self.layout();
        let form = self.form(&layout)?;
        let asked = Asked::new(self, &layout, &scan.select, &scan.filters)?;
        let range = scan_range(form, scan)?;
        let now = self.keeper.clock().now_micros();
        let paused = Paused::new(super::scan::open(self, range, &layout, &asked.wanted)?);
        let mut reader = paused.resume(&layout, &asked.wanted, now);
        let mut scanned = CellScanned::default();
        let (mut row, mut bytes, mut looked_at) = (Vec::new(), 0, 0);
        let mut cells = CellsOfRow::new(&layout);
        while scanned.rows.len() < limit {
            if !reader.row(&mut row, &mut cells)? {
                return Ok(scanned);
            }
            looked_at += 1;
            let key = form.decode(&row).ok_or_else(damaged)?;
            let (mut cells, size) = cells.take_row();
            let fits = asked.filters.iter().all(|filter| filter.fits(&cells));
            if fits {
                bytes += size;
                cells.retain(|cell| asked.shows(&layout, cell));
                scanned.rows.push(RowCells { key, cells });
            }
            let is_full = bytes > WIDE_CALL_BYTES_MAX / 2 || looked_at >= WIDE_CALL_ROWS_MAX * 10;
            if is_full || scanned.rows.len() == limit {
                scanned.next = form.decode(&row);
                return Ok(scanned);
            }
        }
        Ok(scanned)
    }

    /// Changes rows, all or nothing, durable when it returns. Says of each row whether its conditions did fit; one whose
    /// conditions did not is left as it is. Conditions are those of the moment before the call.
    ///
    /// # Errors
    /// As [`Wide::get`]; or a value that does not fit the column that holds the cell.
    pub fn change(&self, rows: &[RowChange]) -> Result<Vec<bool>, Error> {
        self.check_call(rows.len())?;
        self.settle()?;
        let mut writer = self.writer.lock();
        self.check_unfollowed()?;
        for tried in 0..WIDE_TRIES_MAX {
            if let Some((changed, committed)) = self.try_change(rows, &mut writer, tried)? {
                drop(writer);
                self.keeper.sync(committed)?;
                self.counters.put.fetch_add(changed.put, Ordering::Relaxed);
                self.counters
                    .deleted
                    .fetch_add(changed.deleted, Ordering::Relaxed);
                self.sweep_after(changed.fragments);
                return Ok(changed.done);
            }
        }
        Err(self.contended())
    }

    /// None if somebody else changed the row meanwhile.
    fn try_change(
        &self,
        rows: &[RowChange],
        writer: &mut Stamper,
        tried: usize,
    ) -> Result<Option<(Changed, WideCommitted)>, Error> {
        let layout = self.layout();
        let form = self.form(&layout)?;
        let mut commit = self.keeper.begin(&self.name)?;
        let mut done = Vec::with_capacity(rows.len());
        let (mut put, mut deleted) = (0, 0);
        let mut stamps = Stamps::begin(writer, self);
        for row in rows {
            let key = row_key(form, &row.key)?;
            let fits = match row.only_if.first() {
                None => true,
                Some(first) => {
                    let (fits, seen) = self.fits(&layout, form, row)?;
                    if fits {
                        let seen = seen.as_ref();
                        commit.guard(&key, || guard(&layout, &first.column, seen, tried));
                    }
                    fits
                }
            };
            done.push(fits);
            if !fits {
                continue;
            }
            if let Some(time) = row.time.filter(|_| !self.keeper.has_early_times()) {
                check_time(time)?;
            }
            let is_put = write_row(self, &layout, &key, row, &mut stamps, &mut commit)?;
            put += u64::from(is_put);
            deleted += u64::from(!is_put);
        }
        let fragments = stamps.finish(&mut commit);
        let Some(committed) = self.keeper.commit(commit, &self.layout())? else {
            return Ok(None);
        };
        self.counters.writes.fetch_add(1, Ordering::Relaxed);
        let changed = Changed {
            done,
            put,
            deleted,
            fragments,
        };
        Ok(Some((changed, committed)))
    }

    /// Changes are kept of whole rows.
    fn check_unfollowed(&self) -> Result<(), Error> {
        match self.changes.are_kept() {
            true => {
                let error = Error::new(Class::Configuration, "table.changes-cells");
                Err(error.with("table", &self.name))
            }
            false => Ok(()),
        }
    }

    fn contended(&self) -> Error {
        Error::new(Class::Transient, "table.wide-contended").with("table", &self.name)
    }

    /// Adds to cells, all or nothing, durable when it returns. The answer is what each cell holds then.
    ///
    /// # Errors
    /// As [`Wide::change`]; a cell that holds no whole number, or a sum beyond 64 bits.
    pub fn increment(&self, sums: &[Increment]) -> Result<Vec<i64>, Error> {
        self.check_call(sums.len())?;
        self.settle()?;
        let mut writer = self.writer.lock();
        self.check_unfollowed()?;
        for tried in 0..WIDE_TRIES_MAX {
            if let Some(added) = self.try_increment(sums, &mut writer, tried)? {
                let (answers, fragments, committed) = added;
                drop(writer);
                self.keeper.sync(committed)?;
                self.counters
                    .put
                    .fetch_add(sums.len() as u64, Ordering::Relaxed);
                self.sweep_after(fragments);
                return Ok(answers);
            }
        }
        Err(self.contended())
    }

    /// The sums, how many fragments were written, and the commit; none if somebody else changed the row meanwhile.
    fn try_increment(
        &self,
        sums: &[Increment],
        writer: &mut Stamper,
        tried: usize,
    ) -> Result<Option<(Vec<i64>, u64, WideCommitted)>, Error> {
        let layout = self.layout();
        let form = self.form(&layout)?;
        let mut commit = self.keeper.begin(&self.name)?;
        let mut stamps = Stamps::begin(writer, self);
        // A cell that stands there twice is added to twice.
        let mut known: HashMap<(Vec<u8>, usize, String), i64> = HashMap::new();
        let mut answers = Vec::with_capacity(sums.len());
        for sum in sums {
            let (family, qualifier) = self.cell(&layout, &sum.column)?;
            let key = row_key(form, &sum.key)?;
            let id = (key, family, qualifier.to_owned());
            let before = match known.get(&id) {
                Some(before) => *before,
                None => {
                    let seen = self.counter(&layout, sum)?;
                    let value = seen.map(CellValue::Int);
                    let value = value.as_ref();
                    commit.guard(&id.0, || guard(&layout, &sum.column, value, tried));
                    seen.unwrap_or(0)
                }
            };
            let after = before.checked_add(sum.by).ok_or_else(|| {
                Error::new(Class::Permanent, "table.wide-sum")
                    .with("table", &self.name)
                    .with("column", &sum.column)
            })?;
            let row = RowChange {
                changes: vec![CellChange::Put(sum.column.clone(), CellValue::Int(after))],
                ..RowChange::default()
            };
            write_row(self, &layout, &id.0, &row, &mut stamps, &mut commit)?;
            known.insert(id, after);
            answers.push(after);
        }
        let fragments = stamps.finish(&mut commit);
        let Some(committed) = self.keeper.commit(commit, &self.layout())? else {
            return Ok(None);
        };
        self.counters.writes.fetch_add(1, Ordering::Relaxed);
        Ok(Some((answers, fragments, committed)))
    }

    /// What the cell of an increment holds; none if it does not exist.
    fn counter(&self, layout: &WideLayout, sum: &Increment) -> Result<Option<i64>, Error> {
        let select = CellSelect {
            columns: vec![sum.column.clone()],
            versions: None,
        };
        let found = self
            .get_rows(std::slice::from_ref(&sum.key), &select)?
            .pop();
        let cell = found.flatten().and_then(|row| row.cells.into_iter().next());
        match cell.map(|cell| cell.value) {
            None => Ok(None),
            Some(CellValue::Int(value)) => Ok(Some(value)),
            Some(value) => {
                let (family, qualifier) = layout.cell(&sum.column);
                let column = format!("{}.{qualifier}", layout.families[family].name);
                Err(Error::new(Class::Permanent, "table.wide-no-counter")
                    .with("table", &self.name)
                    .with("column", column)
                    .with("type", value.kind().word()))
            }
        }
    }

    /// Whether the conditions of a row fit, and what the cell of the first one holds.
    fn fits(
        &self,
        layout: &WideLayout,
        form: &KeyLayout,
        row: &RowChange,
    ) -> Result<(bool, Option<CellValue>), Error> {
        let nothing = CellSelect {
            columns: Vec::new(),
            versions: None,
        };
        let mut asked = Asked::new(self, layout, &nothing, &row.only_if)?;
        asked.wanted = asked.only_filters(layout);
        let range = form.row(&row.key)?;
        let now = self.keeper.clock().now_micros();
        let mut picture = self.keeper.picture(&self.name, 1)?;
        let paused = Paused::new(picture.row(range, layout, &asked.wanted)?);
        let mut reader = paused.resume(layout, &asked.wanted, now);
        let mut cells = CellsOfRow::new(layout);
        reader.row(&mut Vec::new(), &mut cells)?;
        let (cells, _) = cells.take_row();
        let fits = asked.filters.iter().all(|filter| filter.fits(&cells));
        let first = asked.filters.first().and_then(|filter| filter.cell(&cells));
        Ok((fits, first.map(|cell| cell.value.clone())))
    }

    pub(super) fn form<'a>(&self, layout: &'a WideLayout) -> Result<&'a KeyLayout, Error> {
        layout.key.as_ref().ok_or_else(|| {
            Error::new(Class::Configuration, "table.key-missing")
                .with("table", &self.name)
                .with("column", &self.key[0])
        })
    }

    /// The family and qualifier of a column.
    pub(super) fn cell<'a>(
        &self,
        layout: &WideLayout,
        column: &'a str,
    ) -> Result<(usize, &'a str), Error> {
        if self.key.iter().any(|key| key == column) {
            return Err(Error::new(Class::Permanent, "table.wide-key-cell")
                .with("table", &self.name)
                .with("column", column));
        }
        let (family, qualifier) = layout.cell(column);
        check_qualifier(qualifier)?;
        Ok((family, qualifier))
    }

    fn check_call(&self, rows: usize) -> Result<(), Error> {
        if rows > WIDE_CALL_ROWS_MAX {
            return Err(Error::new(Class::Permanent, "table.wide-call-rows")
                .with("rows", rows)
                .with("most", WIDE_CALL_ROWS_MAX));
        }
        Ok(())
    }
}

/// What was done to rows.
struct Changed {
    /// Whether the conditions of each row did fit.
    done: Vec<bool>,
    put: u64,
    deleted: u64,
    fragments: u64,
}

/// The cell of a column still holds what was seen. One that was not seen may not exist or hold null: the first is tried first.
fn guard(layout: &WideLayout, column: &str, seen: Option<&CellValue>, tried: usize) -> CellGuard {
    let (family, qualifier) = layout.cell(column);
    CellGuard {
        family: layout.families[family].name.as_str().into(),
        qualifier: qualifier.as_bytes().to_vec(),
        value: match seen {
            Some(value) => Some(value.to_stored()),
            None => (tried % 2 == 1).then(|| StoredCell::null().to_bytes()),
        },
    }
}

/// Writes the changes of one row; whether it puts something.
fn write_row(
    table: &Wide,
    layout: &WideLayout,
    key: &[u8],
    row: &RowChange,
    stamps: &mut Stamps<'_>,
    commit: &mut WideCommit,
) -> Result<bool, Error> {
    let (mut entry, mut value) = (Vec::new(), Vec::new());
    let mut put = |family: usize, value: &[u8], stamps: &mut Stamps<'_>| {
        entry.clear();
        entry.extend_from_slice(key);
        let number = layout.families[family].number;
        stamps.next(number, row.time).push(&mut entry);
        commit.put(&entry, value);
    };
    let mut is_put = false;
    // Changes of cells that follow each other in one family become one fragment.
    let mut changes = row.changes.iter().peekable();
    while let Some(change) = changes.next() {
        match change {
            CellChange::DeleteRow => {
                write_deletion(&mut value);
                for family in 0..layout.families.len() {
                    put(family, &value, stamps);
                }
            }
            CellChange::DeleteFamily(name) => {
                let family = layout.family_named(name).ok_or_else(|| {
                    Error::new(Class::Permanent, "table.wide-no-family")
                        .with("table", &table.name)
                        .with("family", name)
                })?;
                write_deletion(&mut value);
                put(family, &value, stamps);
            }
            CellChange::Put(column, _) | CellChange::Delete(column) => {
                let (family, _) = table.cell(layout, column)?;
                let mut fragment = FragmentWriter::new(&mut value);
                let mut next = Some(change);
                let mut written: Vec<&str> = Vec::new();
                while let Some(CellChange::Put(column, _) | CellChange::Delete(column)) = next {
                    let (its, qualifier) = table.cell(layout, column)?;
                    written.push(qualifier);
                    match next {
                        Some(CellChange::Put(_, cell)) => {
                            let kind = layout.column_type(its, qualifier.as_bytes());
                            let fitting = match kind {
                                Some(kind) => fit(cell.clone(), kind).ok_or_else(|| {
                                    column_type_error(&table.name, column, kind, cell.kind())
                                })?,
                                None => cell.clone(),
                            };
                            fragment.value(qualifier.as_bytes(), &fitting);
                            is_put = true;
                        }
                        _ => fragment.null(qualifier.as_bytes()),
                    }
                    // One cell is written once in a fragment, where the first one would hide the others.
                    next = changes.next_if(|change| match change {
                        CellChange::Put(column, _) | CellChange::Delete(column) => {
                            let (other, qualifier) = layout.cell(column);
                            other == family && !written.contains(&qualifier)
                        }
                        _ => false,
                    });
                }
                put(family, &value, stamps);
            }
        }
    }
    Ok(is_put)
}

fn row_key(form: &KeyLayout, values: &[CellValue]) -> Result<Vec<u8>, Error> {
    let mut key = Vec::new();
    form.encode(values, &mut key)?;
    if key.len() > WIDE_KEY_BYTES_MAX {
        return Err(key_too_large(key.len()));
    }
    Ok(key)
}

fn scan_range(form: &KeyLayout, scan: &CellScan) -> Result<KeyRange, Error> {
    let with = |more: &[CellValue]| {
        let values: Vec<CellValue> = scan.prefix.iter().chain(more).cloned().collect();
        form.prefix(&values)
    };
    let mut range = form.prefix(&scan.prefix)?;
    if !scan.from.is_empty() {
        range.start = with(&scan.from)?.start;
    }
    if !scan.to.is_empty() {
        range.end = match with(&scan.to)?.start {
            Bound::Included(end) => Bound::Excluded(end),
            other => other,
        };
    }
    if let Some(after) = &scan.after
        && let Bound::Excluded(end) = form.row(after)?.end
    {
        range.start = Bound::Included(end);
    }
    let is_empty = match (&range.start, &range.end) {
        (Bound::Included(start), Bound::Excluded(end)) => start > end,
        _ => false,
    };
    if is_empty {
        range.end = match &range.start {
            Bound::Included(start) => Bound::Excluded(start.clone()),
            other => other.clone(),
        };
    }
    Ok(range)
}

fn check_bytes(table: &str, bytes: usize) -> Result<(), Error> {
    if bytes > WIDE_CALL_BYTES_MAX {
        return Err(Error::new(Class::Permanent, "table.wide-call-bytes")
            .with("table", table)
            .with("most", WIDE_CALL_BYTES_MAX));
    }
    Ok(())
}

/// What a call asks for.
struct Asked {
    wanted: WantedCells,
    filters: Vec<CellTest>,
    /// For each family the cells that the answer has: all, some or none.
    shown: Vec<WantedFamily>,
}

struct CellTest {
    family: Arc<str>,
    place: usize,
    qualifier: String,
    compare: Compare,
    value: Option<CellValue>,
}

impl Asked {
    fn new(
        table: &Wide,
        layout: &WideLayout,
        select: &CellSelect,
        filters: &[CellFilter],
    ) -> Result<Self, Error> {
        let count = layout.families.len();
        let mut shown = vec![WantedFamily::None; count];
        if select.columns.is_empty() {
            shown = vec![WantedFamily::All; count];
        }
        for column in &select.columns {
            if let Some(family) = layout.family_named(column) {
                shown[family] = WantedFamily::All;
                continue;
            }
            let (family, qualifier) = table.cell(layout, column)?;
            want(&mut shown[family], qualifier);
        }
        let mut wanted = shown.clone();
        let mut needed = Vec::with_capacity(filters.len());
        for filter in filters {
            let (family, qualifier) = table.cell(layout, &filter.column)?;
            want(&mut wanted[family], qualifier);
            needed.push(CellTest {
                family: layout.families[family].name.as_str().into(),
                place: family,
                qualifier: qualifier.to_owned(),
                compare: filter.compare,
                value: filter.value.clone(),
            });
        }
        let versions = select.versions.unwrap_or(1).max(1);
        Ok(Self {
            wanted: WantedCells {
                families: wanted,
                versions,
                until: i64::MIN,
            },
            filters: needed,
            shown,
        })
    }

    /// The cells that the filters need.
    fn only_filters(&self, layout: &WideLayout) -> WantedCells {
        let mut families = vec![WantedFamily::None; layout.families.len()];
        for filter in &self.filters {
            want(&mut families[filter.place], &filter.qualifier);
        }
        WantedCells {
            families,
            versions: 1,
            until: i64::MIN,
        }
    }

    fn shows(&self, layout: &WideLayout, cell: &Cell) -> bool {
        let family = layout.family_named(&cell.family);
        match family.map(|family| &self.shown[family]) {
            None | Some(WantedFamily::None) => false,
            Some(WantedFamily::All) => true,
            Some(WantedFamily::Some(known)) => known.contains_key(cell.qualifier.as_bytes()),
        }
    }
}

fn want(family: &mut WantedFamily, qualifier: &str) {
    let qualifier: Box<[u8]> = qualifier.as_bytes().into();
    match family {
        WantedFamily::All => {}
        WantedFamily::Some(known) => {
            let place = known.len();
            known.entry(qualifier).or_insert(place);
        }
        WantedFamily::None => *family = WantedFamily::Some(HashMap::from([(qualifier, 0)])),
    }
}

impl CellTest {
    fn cell<'a>(&self, cells: &'a [Cell]) -> Option<&'a Cell> {
        let mut cells = cells.iter();
        cells.find(|cell| cell.family == self.family && cell.qualifier == self.qualifier)
    }

    fn fits(&self, cells: &[Cell]) -> bool {
        match (self.cell(cells), &self.value) {
            (None, None) => self.compare == Compare::Equal,
            (Some(cell), Some(value)) => compare(&cell.value, self.compare, value),
            _ => false,
        }
    }
}

fn compare(cell: &CellValue, compare: Compare, with: &CellValue) -> bool {
    use std::cmp::Ordering as O;
    let order = match (cell, with) {
        (CellValue::Bool(a), CellValue::Bool(b)) => Some(a.cmp(b)),
        (CellValue::Int(a), CellValue::Int(b)) | (CellValue::Time(a), CellValue::Time(b)) => {
            Some(a.cmp(b))
        }
        (CellValue::Float(a), CellValue::Float(b)) => a.partial_cmp(b),
        (CellValue::Int(a), CellValue::Float(b)) => (*a as f64).partial_cmp(b),
        (CellValue::Float(a), CellValue::Int(b)) => a.partial_cmp(&(*b as f64)),
        (CellValue::Text(a) | CellValue::Json(a), CellValue::Text(b) | CellValue::Json(b)) => {
            Some(a.cmp(b))
        }
        (CellValue::Binary(a), CellValue::Binary(b)) => Some(a.cmp(b)),
        _ => None,
    };
    order.is_some_and(|order| match compare {
        Compare::Equal => order == O::Equal,
        Compare::Less => order == O::Less,
        Compare::LessOrEqual => order != O::Greater,
        Compare::Greater => order == O::Greater,
        Compare::GreaterOrEqual => order != O::Less,
    })
}

/// Collects the cells of rows, one after another.
struct CellsOfRow {
    families: Vec<Arc<str>>,
    cells: Vec<Cell>,
    bytes: usize,
    /// How many cells there is room for when the first one of a row comes: as many as the row before had.
    room: usize,
}

impl CellsOfRow {
    fn new(layout: &WideLayout) -> Self {
        let families = layout.families.iter();
        Self {
            families: families.map(|family| family.name.as_str().into()).collect(),
            cells: Vec::new(),
            bytes: 0,
            room: 16,
        }
    }

    /// The cells of the row that was read, and their bytes. The next row can be read then.
    fn take_row(&mut self) -> (Vec<Cell>, usize) {
        let mut cells = std::mem::take(&mut self.cells);
        self.room = cells.len();
        // Versions come the newest first, and a stable sort leaves them so.
        cells.sort_by(|a, b| (&a.family, &a.qualifier).cmp(&(&b.family, &b.qualifier)));
        (cells, std::mem::take(&mut self.bytes))
    }
}

impl TakeCells for CellsOfRow {
    fn take(
        &mut self,
        family: usize,
        _: Option<usize>,
        qualifier: &[u8],
        time: i64,
        value: StoredCell<'_>,
    ) {
        if let Some(value) = value.value() {
            if self.cells.is_empty() {
                self.cells.reserve(self.room);
            }
            self.bytes += qualifier.len() + value.bytes() + size_of::<Cell>();
            self.cells.push(Cell {
                family: Arc::clone(&self.families[family]),
                qualifier: String::from_utf8_lossy(qualifier).into_owned(),
                time,
                value,
            });
        }
    }
}
