//! The hot engine: rows in memory.

mod chunk;
mod elsewhere;
mod journal;
mod mover;
mod state;

use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions,
    StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use busbar_event::{Class, Error};
use busbar_log::{Clock, Partition, PartitionOptions};
use parking_lot::{RwLock, RwLockWriteGuard};

use crate::Newer;
use crate::ProducerPosition;
use crate::change_log::{IDENTITY, full, gap, is_kept, next_identity};
use crate::columns::{self, ColumnType, TypedRows};
use crate::compared::compare;
use crate::limits::{CHANGES_BYTES_MAX, SNAPSHOT_BYTES_MAX, SNAPSHOT_ROWS_MAX};
use crate::spec::{HotOptions, check_key_type};
use crate::table::{
    Applied, Capabilities, Compare, Constant, Found, Lookup, Rows, Scan, Stats, Table, Write,
};
use crate::{ChangeLog, ReadChanges};
pub use elsewhere::{DueBatch, HotElsewhere, HotTable};
pub(crate) use journal::from_log;
use journal::{Entry, EntryKind, Journal};
pub(crate) use mover::Mover;
use state::{State, chunk_batch};

/// Rows in memory, the last one of each key.
///
/// * **Durability.** Each write is journalled in the log, synced, before it is applied, together with the
///   position of its producer. A restart applies the journal again before the table is used, whatever ended
///   the process; rows whose time to live is over by then do not come back. When the journal has grown much
///   larger than the table, it is replaced by a snapshot. Without a log (for checks and tests) rows are gone
///   when the process ends.
/// * **Time to live** counts from the moment a row was last written, by the clock of the machine.
///   Expired rows are removed by the next call of any kind, so none is ever seen.
/// * **Bounds.** A table has a bound of rows and one of bytes. A write that would pass one is
///   refused as a whole with a transient error, or, with `when_full: evict`, makes room: the rows
///   that were written longest ago go, and are counted in [`Stats::evicted`]. A single row always
///   has room.
/// * **Reading** takes a picture of the table under the lock in some microseconds per million rows
///   and builds the columns afterwards; a writer that meets a reader copies a chunk, not the table.
pub struct Hot {
    name: String,
    key: Vec<String>,
    declared: bool,
    clock: Arc<dyn Clock>,
    journal: Option<Journal>,
    state: RwLock<State>,
}

impl Hot {
    pub(crate) fn new(
        name: &str,
        schema: &SchemaRef,
        key: &[String],
        options: HotOptions,
        clock: Arc<dyn Clock>,
        journal: Option<Partition>,
    ) -> Result<Self, Error> {
        let table = Self {
            name: name.to_owned(),
            key: key.to_vec(),
            declared: !schema.fields().is_empty(),
            clock,
            journal: journal.map(Journal::new),
            state: RwLock::new(State::new(options, Arc::clone(schema))),
        };
        if table.declared {
            let mut state = table.state.write();
            state.key = table.key_columns(schema)?;
        }
        if let Some(journal) = &table.journal {
            journal.follow(table.state.read().options.changes)?;
        }
        table.restore()?;
        Ok(table)
    }

    /// How the journal of a hot table is kept.
    pub(crate) fn journal_options() -> PartitionOptions {
        Journal::options()
    }

    /// Applies what was journalled before.
    fn restore(&self) -> Result<(), Error> {
        let Some(journal) = &self.journal else {
            return Ok(());
        };
        let mut state = self.state.write();
        let mut out_of_order = false;
        state.is_moving = false;
        for entry in journal.entries() {
            let entry = entry?;
            let merged = columns::merge_columns(
                &self.name,
                &self.key,
                &state.schema,
                &entry.rows.schema(),
                false,
            )?;
            let key = self.key_columns(&merged)?;
            state.widen(&self.name, merged)?;
            state.key = key;
            if entry.is_kept != state.is_moving {
                if std::mem::take(&mut out_of_order) {
                    state.sort_by_age();
                }
                // What was over by then had left the table.
                state.expire(entry.times.first().copied().unwrap_or(i64::MIN));
                state.is_moving = entry.is_kept;
            }
            if entry.kind == EntryKind::Note {
                continue;
            }
            let write = Write {
                rows: &entry.rows,
                deletes: entry.deletes.as_ref(),
                position: None,
            };
            let rows = columns::typed_rows(&self.name, &state.schema, &state.key, &write)?;
            let keys = state.keys_of(&rows)?;
            if entry.kind != EntryKind::Snapshot {
                if std::mem::take(&mut out_of_order) {
                    state.sort_by_age();
                }
                state.expire(entry.times.first().copied().unwrap_or(i64::MIN));
            }
            let is_kept = |row: &usize| rows.rejected.iter().all(|rejected| rejected.row != *row);
            let kept = (0..entry.times.len()).filter(is_kept);
            let times: Vec<i64> = kept.map(|row| entry.times[row]).collect();
            state.put(&rows, keys.as_ref(), &times);
            out_of_order |= entry.kind == EntryKind::Snapshot;
        }
        if out_of_order {
            state.sort_by_age();
        }
        // Rows that waited to be moved wait on, whatever the table's file says now: see `has_waiting`.
        state.expire(self.clock.now_micros());
        // Counters are those of this process.
        let Stats { rows, bytes, .. } = state.stats;
        state.stats = Stats {
            rows,
            bytes,
            ..Stats::default()
        };
        Ok(())
    }

    /// Replaces a journal that has grown large. The caller holds the journal.
    fn shorten(&self, journal: &Journal) -> Result<(), Error> {
        let (schema, chunks, is_kept) = {
            let mut state = self.state.write();
            state.expire(self.clock.now_micros());
            if !journal.wants_snapshot(state.stats.bytes) {
                return Ok(());
            }
            let is_kept = state.is_moving;
            (Arc::clone(&state.schema), state.dated_chunks(), is_kept)
        };
        let columns: Vec<usize> = (0..schema.fields().len()).collect();
        journal.snapshot(chunks.into_iter().flat_map(|(chunk, times)| {
            match chunk_batch(&chunk, &schema, &columns) {
                Ok(rows) => snapshot_entries(&rows, &times, is_kept),
                Err(error) => vec![Err(error)],
            }
        }))
    }

    /// Takes new options; rows stay. Rows that were rejected by the table they were to be moved to are tried again, or have the
    /// time to live of all others if rows are not moved any more.
    pub(crate) fn reconfigure(&self, options: HotOptions) -> Result<(), Error> {
        // A write is journalled and applied under the same options.
        let _one = self.journal.as_ref().map(|journal| journal.writing.lock());
        let now = self.clock.now_micros();
        let is_moving = options.moves_to.is_some();
        let (schema, was_moving) = {
            let mut state = self.state.write();
            state.expire(now);
            (Arc::clone(&state.schema), state.is_moving)
        };
        if let Some(journal) = &self.journal {
            if is_moving != was_moving {
                journal.note(&schema, None, (now, is_moving))?;
            }
            journal.follow(options.changes)?;
            note_identity(journal, &schema, options.changes, (now, is_moving))?;
        }
        let mut state = self.state.write();
        if !is_moving && state.rejected() > 0 {
            tracing::warn!(
                table = %self.name,
                rows = state.rejected(),
                "rows that the other table has rejected are not kept any longer than others"
            );
        }
        state.put_back();
        state.is_moving = is_moving;
        state.options = options;
        state.expire(now);
        Ok(())
    }

    fn key_columns(&self, schema: &SchemaRef) -> Result<Vec<usize>, Error> {
        let find = |column: &String| match schema.column_with_name(column) {
            Some((place, field)) => {
                check_key_type(&self.name, column, columns::type_of(field))?;
                Ok(place)
            }
            None => Err(Error::new(Class::Configuration, "table.key-missing")
                .with("table", &self.name)
                .with("column", column)),
        };
        self.key.iter().map(find).collect()
    }

    /// Bring rows into the table's types, outside the lock.
    fn prepare(
        &self,
        write: &Write<'_>,
        newer: Option<&Newer>,
    ) -> Result<(SchemaRef, TypedRows), Error> {
        let (schema, key) = {
            let state = self.state.read();
            (Arc::clone(&state.schema), state.key.clone())
        };
        if key.len() < self.key.len() {
            return Err(Error::new(Class::Configuration, "table.key-missing")
                .with("table", &self.name)
                .with("column", &self.key[0]));
        }
        let mut prepared = columns::typed_rows(&self.name, &schema, &key, write)?;
        if let Some(newer) = newer {
            let given = write.rows.num_rows();
            newer.reject_unversioned(&self.name, &schema, &mut prepared, given)?;
        }
        Ok((schema, prepared))
    }

    /// Puts and deletes rows; with `newer` only those that are newer than what is there.
    fn put(&self, write: &Write<'_>, newer: Option<&Newer>) -> Result<Applied, Error> {
        let journal = self.journal.as_ref();
        let _one = journal.map(|journal| journal.writing.lock());
        let (mut schema, mut rows) = self.prepare(write, newer)?;
        let mut state = self.state.write();
        while !Arc::ptr_eq(&schema, &state.schema) {
            // Columns came while the rows were prepared.
            drop(state);
            (schema, rows) = self.prepare(write, newer)?;
            state = self.state.write();
        }
        let now = self.clock.now_micros();
        state.expire(now);
        let mut absent = 0;
        let mut applied = Applied {
            rejected: std::mem::take(&mut rows.rejected),
            ..Applied::default()
        };
        if let Some(at) = write.kept_position() {
            let known = match journal {
                Some(journal) => journal.position(&at.producer),
                None => state.positions.get(&at.producer).copied(),
            };
            if known.is_some_and(|known| at.position <= known) {
                state.stats.duplicates += 1;
                applied.duplicate = true;
                return Ok(applied);
            }
        }
        let is_followed = journal.is_some() && state.options.changes;
        if newer.is_some() || is_followed {
            let key = (&schema, &*state.key);
            let find = |lookup: &Lookup<'_>| self.find(&state, lookup);
            let compared = compare(&self.name, rows, key, newer, find)?;
            rows = match is_followed {
                true => compared.whole,
                false => compared.rows,
            };
            absent = compared.absent;
            applied.conflicts = compared.conflicts;
        }
        if let (Some(journal), true) = (journal, is_followed) {
            let (bytes, is_kept) = (state.stats.bytes, state.is_moving);
            let waiting = journal.bytes_waiting(bytes);
            if waiting > CHANGES_BYTES_MAX {
                return Err(full(&self.name, waiting, CHANGES_BYTES_MAX));
            }
            drop(state);
            note_identity(journal, &schema, true, (now, is_kept))?;
            state = self.state.write();
        }
        let keys = state.keys_of(&rows)?;
        state.check_room(&rows, keys.as_ref())?;
        if !state.chunks_can_take(&rows) {
            return Err(Error::new(Class::Permanent, "table.rows-large").with("table", &self.name));
        }
        let times = vec![now; rows.rows];
        if let (Some(journal), 0, Some(at)) = (journal, rows.rows, write.kept_position()) {
            let is_kept = state.is_moving;
            drop(state);
            journal.note(&schema, Some(at), (now, is_kept))?;
            state = self.state.write();
        } else if let Some(journal) = journal
            && rows.rows > 0
        {
            // The lock is not held while waiting for the disk, so readers go on. `writing` keeps other writers out.
            let is_kept = state.is_moving;
            drop(state);
            let entry = Entry {
                rows: rows.to_record(&schema)?,
                deletes: rows.deletes.clone(),
                times: times.clone(),
                kind: match is_followed {
                    true => EntryKind::WholeWrite,
                    false => EntryKind::Write,
                },
                is_kept,
            };
            let part = write.position.filter(|at| at.is_part);
            let part = part.map(|at| journal.part_position(&at.producer));
            journal.append(&entry, part.as_ref().or(write.position))?;
            state = self.state.write();
        }
        let done = state.put(&rows, keys.as_ref(), &times);
        if let (Some(at), None) = (write.kept_position(), journal) {
            state
                .positions
                .insert(Arc::clone(&at.producer), at.position);
        }
        state.stats.put += done.put as u64;
        state.stats.deleted += (done.deleted + absent) as u64;
        state.stats.rejected += applied.rejected.len() as u64;
        applied.put = done.put;
        applied.overwritten = done.overwritten;
        applied.deleted = done.deleted + absent;
        if let Some(journal) = journal
            && journal.wants_snapshot(state.stats.bytes)
        {
            drop(state);
            // The write is journalled and applied; a snapshot that fails is tried again by the next one.
            if let Err(error) = self.shorten(journal) {
                tracing::warn!(table = %self.name, %error, "the table's journal was not shortened");
            }
        }
        Ok(applied)
    }

    /// Finds rows by their keys, in a state that is held.
    fn find(&self, state: &State, lookup: &Lookup<'_>) -> Result<Found, Error> {
        columns::check_lookup(&self.name, &state.schema, &state.key, lookup.keys)?;
        let keys = state.encode_keys(lookup.keys)?;
        let is_null = |key: usize| lookup.keys.iter().any(|column| column.is_null(key));
        let (mut slots, mut places) = (Vec::new(), Vec::with_capacity(keys.num_rows()));
        for key in 0..keys.num_rows() {
            let slot = match is_null(key) {
                true => None,
                false => state.slot(keys.row(key).data()),
            };
            places.push(slot.map(|_| slots.len() as u32));
            slots.extend(slot);
        }
        let schema = state.schema.project(lookup.columns);
        let schema = Arc::new(schema.map_err(columns::arrow_error)?);
        let arrays = lookup.columns.iter();
        let arrays = arrays.map(|column| state.gather(*column, &slots)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(slots.len()));
        let rows = RecordBatch::try_new_with_options(schema, arrays, &options);
        Ok(Found {
            rows: rows.map_err(columns::arrow_error)?,
            places: places.into(),
        })
    }

    fn point(&self, state: &State, scan: &Scan) -> Option<Point> {
        let [column] = state.key[..] else {
            return None;
        };
        let fits = |c: &&crate::Condition| c.column == column && c.compare == Compare::Equal;
        let condition = scan.conditions.iter().find(fits)?;
        let kind = columns::type_of(state.schema.field(column));
        let key: ArrayRef = match (&condition.constant, kind) {
            (Constant::Text(value), ColumnType::Text) => {
                Arc::new(StringArray::from(vec![value.as_str()]))
            }
            (Constant::Int(value), ColumnType::Int) => Arc::new(Int64Array::from(vec![*value])),
            (Constant::Bool(value), ColumnType::Bool) => Arc::new(BooleanArray::from(vec![*value])),
            (Constant::Time(value), ColumnType::Time) => {
                Arc::new(TimestampMicrosecondArray::from(vec![*value]).with_timezone("UTC"))
            }
            _ => return None,
        };
        let keys = state.encode_keys(&[key]).ok()?;
        Some(Point(state.lookup(keys.row(0).data())))
    }
}

/// The one row with a key, or none.
struct Point(Option<(Arc<chunk::Chunk>, usize)>);

impl Table for Hot {
    fn name(&self) -> &str {
        &self.name
    }

    fn engine(&self) -> &'static str {
        "hot"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            is_durable: self.journal.is_some(),
            waits_for_disk: self.journal.is_some(),
            lookup_waits: false,
            can_be_held_up: false,
        }
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.state.read().schema)
    }

    fn key(&self) -> &[String] {
        &self.key
    }

    fn evolve(&self, schema: &Schema) -> Result<(), Error> {
        // A write that waits for the disk must find the columns that it was prepared for.
        let _one = self.journal.as_ref().map(|journal| journal.writing.lock());
        let mut state = self.state.write();
        let before = Arc::clone(&state.schema);
        let merged = columns::merge_columns(&self.name, &self.key, &before, schema, self.declared)?;
        let key = self.key_columns(&merged)?;
        state.widen(&self.name, Arc::clone(&merged))?;
        state.key = key;
        let is_moving = state.is_moving;
        drop(state);
        match &self.journal {
            Some(journal) if !Arc::ptr_eq(&before, &merged) => {
                journal.note(&merged, None, (self.clock.now_micros(), is_moving))
            }
            _ => Ok(()),
        }
    }

    fn check(&self, schema: &Schema) -> Result<(), Error> {
        let state = self.state.read();
        let merged =
            columns::merge_columns(&self.name, &self.key, &state.schema, schema, self.declared)?;
        self.key_columns(&merged).map(drop)
    }

    fn write(&self, write: &Write<'_>) -> Result<Applied, Error> {
        self.put(write, None)
    }

    fn compares(&self) -> bool {
        true
    }

    fn write_newer(&self, write: &Write<'_>, newer: &Newer) -> Result<Applied, Error> {
        self.put(write, Some(newer))
    }

    fn changes(&self) -> Option<&dyn ChangeLog> {
        let is_kept = self.journal.is_some() && self.state.read().options.changes;
        is_kept.then_some(self as &dyn ChangeLog)
    }

    fn scan(&self, scan: &Scan) -> Result<Rows, Error> {
        let (schema, chunks, point) = {
            let mut state = self.state.write();
            state.expire(self.clock.now_micros());
            match self.point(&state, scan) {
                Some(point) => (Arc::clone(&state.schema), Vec::new(), Some(point)),
                None => (Arc::clone(&state.schema), state.snapshot(), None),
            }
        };
        let all = || (0..schema.fields().len()).collect();
        let columns: Vec<usize> = scan.projection.clone().unwrap_or_else(all);
        let projected = schema.project(&columns).map_err(columns::arrow_error)?;
        let projected = Arc::new(projected);
        if let Some(Point(found)) = point {
            let one = found.map(|(chunk, place)| one_row(&chunk, place, &projected, &columns));
            return Ok(Rows::new(projected, one.into_iter()));
        }
        // A limit is followed only where no condition could drop rows afterwards.
        let mut left = match scan.limit {
            Some(limit) if scan.conditions.is_empty() => limit,
            _ => usize::MAX,
        };
        let batch_schema = Arc::clone(&projected);
        let batches = chunks.into_iter().map_while(move |chunk| {
            if left == 0 {
                return None;
            }
            left = left.saturating_sub(chunk.live_rows());
            Some(chunk_batch(&chunk, &batch_schema, &columns))
        });
        Ok(Rows::new(projected, batches))
    }

    fn lookup(&self, lookup: &Lookup<'_>) -> Result<Found, Error> {
        let mut state = self.state.write();
        state.expire(self.clock.now_micros());
        // Other readers may go on meanwhile.
        let state = RwLockWriteGuard::downgrade(state);
        self.find(&state, lookup)
    }

    fn rows(&self) -> Result<u64, Error> {
        let mut state = self.state.write();
        state.expire(self.clock.now_micros());
        Ok(state.stats.rows)
    }

    fn position(&self, producer: &str) -> Result<Option<u64>, Error> {
        Ok(match &self.journal {
            Some(journal) => journal.position(producer),
            None => self.state.read().positions.get(producer).copied(),
        })
    }

    fn stats(&self) -> Result<Stats, Error> {
        let mut state = self.state.write();
        let now = self.clock.now_micros();
        state.expire(now);
        let mut stats = state.stats;
        if state.is_moving {
            stats.move_rejected = state.rejected();
            stats.move_lag_us = state.overdue(now).unwrap_or(0);
        }
        Ok(stats)
    }
}

impl ChangeLog for Hot {
    fn identity(&self) -> Result<Option<u64>, Error> {
        let journal = self.journal.as_ref();
        let identity = journal.and_then(|journal| journal.position(IDENTITY));
        Ok(identity.filter(|_| is_kept(identity)))
    }

    fn end(&self) -> Result<u64, Error> {
        Ok(self.journal.as_ref().map_or(0, Journal::end))
    }

    fn picture(&self) -> Result<(u64, Rows), Error> {
        let _one = self.journal.as_ref().map(|journal| journal.writing.lock());
        Ok((ChangeLog::end(self)?, self.scan(&Scan::default())?))
    }

    fn read(&self, behind: u64, bytes_max: usize) -> Result<ReadChanges, Error> {
        match &self.journal {
            Some(journal) => journal.changes(&self.name, behind, bytes_max),
            None => Err(gap(&self.name, behind)),
        }
    }

    fn renew(&self) -> Result<u64, Error> {
        let Some(journal) = &self.journal else {
            return Err(gap(&self.name, 0));
        };
        let _one = journal.writing.lock();
        let (schema, is_moving) = {
            let state = self.state.read();
            (Arc::clone(&state.schema), state.is_moving)
        };
        let now = self.clock.now_micros();
        let identity = next_identity(journal.position(IDENTITY), now, true);
        let at = ProducerPosition::new(IDENTITY, identity);
        journal.note(&schema, Some(&at), (now, is_moving))?;
        Ok(identity)
    }

    fn forget(&self, until: u64) -> Result<(), Error> {
        match &self.journal {
            Some(journal) => journal.taken(until),
            None => Ok(()),
        }
    }
}

/// Notes that changes are kept from now on, or are not.
fn note_identity(
    journal: &Journal,
    schema: &SchemaRef,
    keeps: bool,
    (now, is_moving): (i64, bool),
) -> Result<(), Error> {
    let known = journal.position(IDENTITY);
    if is_kept(known) == keeps {
        return Ok(());
    }
    let at = ProducerPosition::new(IDENTITY, next_identity(known, now, keeps));
    journal.note(schema, Some(&at), (now, is_moving))
}

fn one_row(
    chunk: &chunk::Chunk,
    place: usize,
    schema: &SchemaRef,
    columns: &[usize],
) -> Result<arrow::array::RecordBatch, Error> {
    if columns.is_empty() {
        return crate::columns::rows_without_columns(schema, 1);
    }
    let arrays = columns.iter().map(|c| chunk.array(*c).slice(place, 1));
    arrow::array::RecordBatch::try_new(Arc::clone(schema), arrays.collect())
        .map_err(crate::columns::arrow_error)
}

/// Rows of a chunk and when each was written, in pieces that fit a frame.
fn snapshot_entries(rows: &RecordBatch, times: &[i64], is_kept: bool) -> Vec<Result<Entry, Error>> {
    let bytes_of = |row: usize| {
        rows.slice(row, 1)
            .columns()
            .iter()
            .map(text_bytes)
            .sum::<usize>()
    };
    let mut entries = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for row in 0..rows.num_rows() {
        bytes += bytes_of(row);
        let next = row + 1;
        if next == rows.num_rows()
            || next - from >= SNAPSHOT_ROWS_MAX
            || bytes >= SNAPSHOT_BYTES_MAX
        {
            entries.push(Ok(Entry {
                rows: rows.slice(from, next - from),
                deletes: None,
                times: times[from..next].to_vec(),
                kind: EntryKind::Snapshot,
                is_kept,
            }));
            (from, bytes) = (next, 0);
        }
    }
    entries
}

/// Bytes of text and binary in a column.
fn text_bytes(column: &ArrayRef) -> usize {
    let ends = |offsets: &[i32]| (offsets[offsets.len() - 1] - offsets[0]) as usize;
    match column.data_type() {
        DataType::Utf8 => ends(column.as_string::<i32>().value_offsets()),
        DataType::Binary => ends(column.as_binary::<i32>().value_offsets()),
        _ => 0,
    }
}

impl fmt::Debug for Hot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hot")
            .field("name", &self.name)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
