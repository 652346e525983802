//! Writing rows of columns.

use std::sync::atomic::Ordering;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array, Int64Array, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use busbar_event::{Class, Error};
use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;

use super::cell::{CellValue, FragmentWriter, write_deletion};
use super::json::cell_value;
use super::keeper::WideCommit;
use super::kept_rows::check_time;
use super::key::KeyLayout;
use super::layout::{WideColumn, WideLayout};
use super::read::Stamp;
use super::{Stamper, Wide, scan};
use crate::Newer;
use crate::columns::{self, ColumnType, TypedRows, type_of};
use crate::compared::compare;
use crate::limits::{WIDE_KEY_BYTES_MAX, WIDE_QUALIFIER_BYTES_MAX};
use crate::table::{Applied, Lookup, Rejected, Write, remaining};

/// Puts and deletes the rows of a write.
pub(super) fn rows(
    table: &Wide,
    write: &Write<'_>,
    newer: Option<&Newer>,
) -> Result<Applied, Error> {
    let layout = table.layout();
    let Some(form) = &layout.key else {
        return Err(Error::new(Class::Configuration, "table.key-missing")
            .with("table", &table.name)
            .with("column", &table.key[0]));
    };
    let mut rows = columns::typed_rows(&table.name, &layout.schema, &layout.key_places, write)?;
    if let Some(newer) = newer {
        let given = write.rows.num_rows();
        newer.reject_unversioned(&table.name, &layout.schema, &mut rows, given)?;
    }
    let mut applied = Applied {
        rejected: std::mem::take(&mut rows.rejected),
        ..Applied::default()
    };
    let mut places = remaining(write.rows.num_rows(), &applied.rejected);
    let mut writer = table.writer.lock();
    let mut commit = table.keeper.begin(&table.name)?;
    let is_duplicate = match write.kept_position() {
        None => false,
        Some(at) => {
            commit.put_position(&table.name, &at.producer, at.position);
            let known = table.keeper.position(&table.name, &at.producer)?;
            known.is_some_and(|known| at.position <= known)
        }
    };
    let is_followed = table.changes.are_kept();
    let (mut kept, mut absent) = (0, 0);
    if (newer.is_some() || is_followed) && !is_duplicate {
        if is_followed {
            table.changes.check_room(&table.name)?;
        }
        // Rows that cannot be written are not compared with others.
        let source = CellSource::new(&layout, &rows);
        let mut rejected = Vec::new();
        for row in 0..rows.rows {
            if let Err(cause) = source.check(table, form, &layout, &rows, row)? {
                rejected.push(Rejected { row, cause });
            }
        }
        rows.rejected = std::mem::take(&mut applied.rejected);
        rows.reject(rejected, write.rows.num_rows())?;
        applied.rejected = std::mem::take(&mut rows.rejected);
        let key = (&layout.schema, &*layout.key_places);
        let find = |lookup: &Lookup<'_>| scan::find(table, lookup);
        let compared = compare(&table.name, rows, key, newer, find)?;
        if is_followed {
            kept = table.note_change(&mut commit, &compared.whole, write.position)?;
        }
        absent = compared.absent;
        applied.conflicts = compared.conflicts;
        rows = compared.rows;
        // All of them can be written.
        places = (0..rows.rows).collect();
    }
    let source = CellSource::new(&layout, &rows);
    let mut stamps = Stamps::begin(&mut writer, table);
    let mut last = HashMap::with_capacity(rows.rows);
    let (mut row_key, mut entry, mut value) = (Vec::new(), Vec::new(), Vec::new());
    for (row, place) in places.into_iter().enumerate() {
        let is_delete = rows.is_delete(row);
        row_key.clear();
        let checked = source.check_into(table, form, &layout, &rows, row, &mut row_key)?;
        let (time, free) = match checked {
            Ok(checked) => checked,
            Err(cause) => {
                applied.rejected.push(Rejected { row: place, cause });
                continue;
            }
        };
        if is_duplicate {
            continue;
        }
        let mut put = |family: u8, value: &[u8], stamps: &mut Stamps<'_>| {
            entry.clear();
            entry.extend_from_slice(&row_key);
            stamps.next(family, time).push(&mut entry);
            commit.put(&entry, value);
        };
        match last.entry_ref(row_key.as_slice()) {
            EntryRef::Occupied(mut before) => {
                let was_put = std::mem::replace(before.get_mut(), !is_delete);
                applied.overwritten += usize::from(was_put && !is_delete);
            }
            EntryRef::Vacant(entry) => {
                entry.insert(!is_delete);
            }
        }
        if is_delete {
            applied.deleted += 1;
            write_deletion(&mut value);
            for family in &layout.families {
                put(family.number, &value, &mut stamps);
            }
            continue;
        }
        applied.put += 1;
        let mut is_written = false;
        for (place, family) in layout.families.iter().enumerate() {
            let known = &source.families[place];
            let free = free.iter().filter(|cell| cell.family == place);
            if known.is_empty() && free.clone().next().is_none() {
                continue;
            }
            let mut fragment = FragmentWriter::new(&mut value);
            for (qualifier, column) in known {
                column.write(qualifier, row, &mut fragment);
            }
            // What its own column says of a cell is taken.
            let is_known = |cell: &&FreeCell| {
                let mut known = known.iter();
                known.any(|(qualifier, _)| *qualifier == cell.qualifier.as_bytes())
            };
            for cell in free.filter(|cell| !is_known(cell)) {
                match &cell.value {
                    Some(value) => fragment.value(cell.qualifier.as_bytes(), value),
                    None => fragment.null(cell.qualifier.as_bytes()),
                }
            }
            put(family.number, &value, &mut stamps);
            is_written = true;
        }
        if !is_written {
            // The row is there, without cells.
            FragmentWriter::new(&mut value);
            put(layout.families[0].number, &value, &mut stamps);
        }
    }
    applied.rejected.sort_by_key(|rejected| rejected.row);
    let rejected = applied.rejected.len() as u64;
    table
        .counters
        .rejected
        .fetch_add(rejected, Ordering::Relaxed);
    if is_duplicate {
        drop(writer);
        table.counters.duplicates.fetch_add(1, Ordering::Relaxed);
        applied.duplicate = true;
        // The write that was there first may not be synced yet.
        table.keeper.sync_all()?;
        return Ok(applied);
    }
    applied.deleted += absent;
    let fragments = stamps.finish(&mut commit);
    let committed = table.keeper.commit(commit, &table.layout())?;
    table.changes.kept(kept);
    table.counters.writes.fetch_add(1, Ordering::Relaxed);
    drop(writer);
    if let Some(committed) = committed {
        table.keeper.sync(committed)?;
    }
    let add = |counter: &std::sync::atomic::AtomicU64, n: usize| {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    };
    add(&table.counters.put, applied.put);
    add(&table.counters.deleted, applied.deleted);
    table.sweep_after(fragments);
    Ok(applied)
}

/// Numbers and times of the fragments of one commit.
pub(super) struct Stamps<'a> {
    writer: &'a mut Stamper,
    table: String,
    first: u64,
}

impl<'a> Stamps<'a> {
    /// Begins a commit. The clock may have been set back: times of writing never go back, or what is written now would
    /// count as older than what it replaces.
    pub fn begin(writer: &'a mut Stamper, table: &Wide) -> Self {
        writer.time = table.keeper.next_time(writer.time);
        Self {
            first: writer.number,
            table: table.name.clone(),
            writer,
        }
    }

    /// The stamp of the next fragment, with the time of writing or another one.
    pub fn next(&mut self, family: u8, time: Option<i64>) -> Stamp {
        self.writer.number += 1;
        Stamp {
            family,
            time: time.unwrap_or(self.writer.time),
            number: self.writer.number,
        }
    }

    /// Notes how far the numbers have come; how many there are in this commit.
    pub fn finish(self, commit: &mut WideCommit) -> u64 {
        commit.put_stamper(&self.table, self.writer.number, self.writer.time);
        self.writer.number - self.first
    }
}

pub(super) fn key_too_large(bytes: usize) -> Error {
    Error::new(Class::Permanent, "table.wide-key-large")
        .with("bytes", bytes)
        .with("most", WIDE_KEY_BYTES_MAX)
}

/// The columns of a write by what they hold.
struct CellSource<'a> {
    key: Vec<Typed<'a>>,
    /// For each family its qualifiers that the write has.
    families: Vec<Vec<(&'a [u8], Typed<'a>)>>,
    /// The objects of free families.
    free: Vec<(usize, &'a StringArray)>,
    time: Option<&'a TimestampMicrosecondArray>,
}

impl<'a> CellSource<'a> {
    fn new(layout: &'a WideLayout, rows: &'a TypedRows) -> Self {
        let mut source = Self {
            key: Vec::with_capacity(layout.key_places.len()),
            families: vec![Vec::new(); layout.families.len()],
            free: Vec::new(),
            time: None,
        };
        let typed = |place: usize| {
            let kind = type_of(layout.schema.field(place));
            rows.column(place).map(|array| Typed::new(kind, array))
        };
        // `prepare` has seen to it that the key is whole.
        source
            .key
            .extend(layout.key_places.iter().copied().filter_map(typed));
        for (place, column) in layout.columns.iter().enumerate() {
            match column {
                WideColumn::Key(_) => {}
                WideColumn::Cell { family, qualifier } => {
                    if let Some(typed) = typed(place) {
                        source.families[*family].push((qualifier.as_bytes(), typed));
                    }
                }
                WideColumn::Free { family } => {
                    if let Some(array) = rows.column(place) {
                        source.free.push((*family, array.as_string()));
                    }
                }
            }
        }
        if let Some(Typed::Time(times)) = layout.time.and_then(typed) {
            source.time = Some(times);
        }
        source
    }

    /// Why a row cannot be written, if it cannot.
    fn check(
        &self,
        table: &Wide,
        form: &KeyLayout,
        layout: &WideLayout,
        rows: &TypedRows,
        row: usize,
    ) -> Result<Result<(), Error>, Error> {
        let checked = self.check_into(table, form, layout, rows, row, &mut Vec::new())?;
        Ok(checked.map(drop))
    }

    /// The key of a row, the time of its cells if they have one of their own, and its cells that stand in objects of free
    /// families; or why it cannot be written.
    fn check_into(
        &self,
        table: &Wide,
        form: &KeyLayout,
        layout: &WideLayout,
        rows: &TypedRows,
        row: usize,
        row_key: &mut Vec<u8>,
    ) -> Result<Result<CheckedRow, Error>, Error> {
        let values: Vec<CellValue> = self.key.iter().map(|column| column.value(row)).collect();
        form.encode(&values, row_key)?;
        let is_delete = rows.is_delete(row);
        let time = self.time.and_then(|times| {
            let at = times.is_valid(row).then(|| times.value(row));
            at.filter(|_| !is_delete)
        });
        let early = time.filter(|_| !table.keeper.has_early_times());
        if row_key.len() > WIDE_KEY_BYTES_MAX {
            return Ok(Err(key_too_large(row_key.len())));
        }
        if is_delete {
            return Ok(Ok((time, Vec::new())));
        }
        let checked = check_time(early.unwrap_or(0));
        let free = checked.and_then(|()| self.free_cells(layout, row));
        Ok(free.map(|free| (time, free)))
    }

    /// The cells of a row that stand in objects of free families.
    fn free_cells(&self, layout: &WideLayout, row: usize) -> Result<Vec<FreeCell>, Error> {
        let mut cells = Vec::new();
        for (family, texts) in &self.free {
            if texts.is_null(row) {
                continue;
            }
            let name = || layout.families[*family].name.clone();
            let object: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(texts.value(row)).map_err(|_| {
                    Error::new(Class::Permanent, "table.wide-not-object").with("family", name())
                })?;
            for (qualifier, json) in object {
                check_qualifier(&qualifier)?;
                let kind = layout.column_type(*family, qualifier.as_bytes());
                let value = cell_value(json, kind).map_err(|given| {
                    let kept = kind.unwrap_or(ColumnType::Json);
                    let column = format!("{}.{qualifier}", name());
                    Error::new(Class::Permanent, "table.wide-value-type")
                        .with("column", column)
                        .with("kept", kept.word())
                        .with("given", given)
                })?;
                cells.push(FreeCell {
                    family: *family,
                    qualifier,
                    value,
                });
            }
        }
        Ok(cells)
    }
}

/// The time of a row's cells, and those that stand in objects.
type CheckedRow = (Option<i64>, Vec<FreeCell>);

/// A cell that stands in an object; without a value it is deleted.
struct FreeCell {
    family: usize,
    qualifier: String,
    value: Option<CellValue>,
}

/// # Errors
/// A qualifier that is empty or too long.
pub(super) fn check_qualifier(qualifier: &str) -> Result<(), Error> {
    if qualifier.is_empty() || qualifier.len() > WIDE_QUALIFIER_BYTES_MAX {
        return Err(Error::new(Class::Permanent, "table.wide-qualifier")
            .with("bytes", qualifier.len())
            .with("most", WIDE_QUALIFIER_BYTES_MAX));
    }
    Ok(())
}

/// A column's values, its type looked up once.
#[derive(Clone, Copy)]
pub(super) enum Typed<'a> {
    Bool(&'a BooleanArray),
    Int(&'a Int64Array),
    Float(&'a Float64Array),
    Text(&'a StringArray),
    Json(&'a StringArray),
    Time(&'a TimestampMicrosecondArray),
    Binary(&'a BinaryArray),
}

impl<'a> Typed<'a> {
    pub fn new(kind: ColumnType, array: &'a ArrayRef) -> Self {
        match kind {
            ColumnType::Bool => Self::Bool(array.as_boolean()),
            ColumnType::Int => Self::Int(array.as_primitive::<Int64Type>()),
            ColumnType::Float => Self::Float(array.as_primitive::<Float64Type>()),
            ColumnType::Text => Self::Text(array.as_string()),
            ColumnType::Json => Self::Json(array.as_string()),
            ColumnType::Time => Self::Time(array.as_primitive::<TimestampMicrosecondType>()),
            ColumnType::Binary => Self::Binary(array.as_binary()),
        }
    }

    /// The value of a row of a key's column, which has no nulls.
    pub fn value(&self, row: usize) -> CellValue {
        match self {
            Self::Bool(array) => CellValue::Bool(array.value(row)),
            Self::Int(array) => CellValue::Int(array.value(row)),
            Self::Float(array) => CellValue::Float(array.value(row)),
            Self::Text(array) => CellValue::Text(array.value(row).to_owned()),
            Self::Json(array) => CellValue::Json(array.value(row).to_owned()),
            Self::Time(array) => CellValue::Time(array.value(row)),
            Self::Binary(array) => CellValue::Binary(array.value(row).to_vec()),
        }
    }

    fn write(&self, qualifier: &[u8], row: usize, out: &mut FragmentWriter<'_>) {
        match self {
            Self::Bool(array) if array.is_valid(row) => out.bool(qualifier, array.value(row)),
            Self::Int(array) if array.is_valid(row) => out.int(qualifier, array.value(row)),
            Self::Float(array) if array.is_valid(row) => out.float(qualifier, array.value(row)),
            Self::Text(array) if array.is_valid(row) => out.text(qualifier, array.value(row)),
            Self::Json(array) if array.is_valid(row) => out.json(qualifier, array.value(row)),
            Self::Time(array) if array.is_valid(row) => out.time(qualifier, array.value(row)),
            Self::Binary(array) if array.is_valid(row) => out.binary(qualifier, array.value(row)),
            _ => out.null(qualifier),
        }
    }
}
