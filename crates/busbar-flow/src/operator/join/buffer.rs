//! Rows that an operator keeps for some time, in the order in which they came, found by key.
//!
//! Rows are numbered in that order and kept in parts, each a record batch. A part is stored once, by the first snapshot behind
//! it, and removed when all its rows and those before it are out of date; what is out of date by then is never stored. In
//! memory a part can do without its batch once it is stored: keys and times stay.
//!
//! | key | value |
//! | --- | --- |
//! | prefix, `p`, number of the first row (8 bytes, big-endian) | the rows in Arrow's stream format, their times in the last column |
//! | prefix, `s`, number of the first row | for each row a byte: 1 if it is settled |

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::compute::{concat_batches, interleave};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use busbar_event::{Class, Error};

use crate::limits::{JOIN_PART_ROWS, PIECE_ROWS_MAX, STATE_BYTES_MAX};
use crate::operator::rows::misfit;
use crate::operator::{Changes, StateReader, ipc};

/// Rows in the order in which they came.
pub(super) struct Buffer {
    prefix: u8,
    schema: SchemaRef,
    /// With the times.
    stored: SchemaRef,
    keys: KeyEncoder,
    parts: VecDeque<BufferPart>,
    /// The number of the next row.
    next: u64,
    /// The newest row with each hash of a key.
    newest: HashMap<u64, u64, foldhash::fast::RandomState>,
    /// Numbers of stored parts that were removed since the last snapshot.
    removed: Vec<u64>,
    state: Option<Arc<dyn StateReader>>,
    bytes: usize,
}

/// Bytes of rows that are taken into memory when state is restored; those behind it are read when they are needed.
const RESTORED_BYTES_MAX: usize = STATE_BYTES_MAX / 4;

/// No row.
const NONE: u64 = u64::MAX;

struct BufferPart {
    /// The number of its first row.
    first: u64,
    /// None if it is only on disk.
    batch: Option<RecordBatch>,
    keys: KeyBytes,
    /// For each row the one before it whose key has the same hash, or [`NONE`].
    before: Vec<u64>,
    times: Vec<i64>,
    /// Nothing is to be done any more when a row goes out of date.
    settled: Vec<bool>,
    /// The greatest time.
    latest: i64,
    /// No row with a smaller time is unsettled.
    due: i64,
    is_stored: bool,
    /// Rows were settled since it was stored.
    is_changed: bool,
    bytes: usize,
}

impl Buffer {
    /// For rows of `schema` with keys in these columns. `prefix` is the beginning of the keys of its state.
    pub fn new(prefix: u8, schema: &SchemaRef, keys: &[usize]) -> Result<Buffer, Error> {
        let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new("$time", DataType::Int64, false)));
        Ok(Buffer {
            prefix,
            keys: KeyEncoder::new(schema, keys)?,
            schema: Arc::clone(schema),
            stored: Arc::new(Schema::new(fields)),
            parts: VecDeque::new(),
            next: 0,
            newest: HashMap::default(),
            removed: Vec::new(),
            state: None,
            bytes: 0,
        })
    }

    /// The keys of rows.
    pub fn keys(&self, batch: &RecordBatch) -> Result<KeyBytes, Error> {
        self.keys.encode(batch)
    }

    /// Adds rows and answers the number of the first. `settled`: nothing is to be done when they go out of date.
    pub fn add(
        &mut self,
        batch: RecordBatch,
        keys: KeyBytes,
        times: Vec<i64>,
        settled: bool,
    ) -> u64 {
        let first = self.next;
        if times.is_empty() {
            return first;
        }
        let rows = times.len();
        self.push(BufferPart::new(
            first,
            batch,
            keys,
            times,
            vec![settled; rows],
        ));
        first
    }

    fn push(&mut self, mut part: BufferPart) {
        for (row, hash) in part.keys.hashes.iter().enumerate() {
            let number = part.first + row as u64;
            part.before
                .push(self.newest.insert(*hash, number).unwrap_or(NONE));
        }
        self.next = part.first + part.rows() as u64;
        self.bytes += part.bytes;
        self.parts.push_back(part);
    }

    /// Takes the rows back that were added last, from number `first` on.
    pub fn take_back(&mut self, first: u64) {
        let Some(part) = self.parts.pop_back_if(|part| part.first == first) else {
            return;
        };
        for (row, hash) in part.keys.hashes.iter().enumerate().rev() {
            match part.before[row] {
                NONE => self.newest.remove(hash),
                before => self.newest.insert(*hash, before),
            };
        }
        self.next = part.first;
        self.bytes -= part.bytes;
    }

    /// Calls `visit` with the number and the time of each row with a key.
    pub fn find(&self, keys: &KeyBytes, key: usize, mut visit: impl FnMut(u64, i64)) {
        let first = self.parts.front().map_or(NONE, |part| part.first);
        let mut number = self.newest.get(&keys.hashes[key]).copied().unwrap_or(NONE);
        let bytes = keys.at(key);
        let mut place = self.parts.len();
        while number != NONE && number >= first {
            if place == self.parts.len() || number < self.parts[place].first {
                place = self.place(number);
            }
            let part = &self.parts[place];
            let row = (number - part.first) as usize;
            if part.keys.at(row) == bytes {
                visit(number, part.times[row]);
            }
            number = part.before[row];
        }
    }

    /// The part that a row is in.
    fn place(&self, number: u64) -> usize {
        self.parts.partition_point(|part| part.first <= number) - 1
    }

    /// Nothing is to be done any more when this row goes out of date.
    pub fn settle(&mut self, number: u64) {
        let place = self.place(number);
        let part = &mut self.parts[place];
        let settled = &mut part.settled[(number - part.first) as usize];
        part.is_changed |= !std::mem::replace(settled, true);
    }

    /// The numbers of the unsettled rows whose times are before `time`.
    pub fn due(&self, time: i64) -> Vec<u64> {
        let mut due = Vec::new();
        for part in self.parts.iter().filter(|part| part.due < time) {
            for (row, at) in part.times.iter().enumerate() {
                if *at < time && !part.settled[row] {
                    due.push(part.first + row as u64);
                }
            }
        }
        due
    }

    /// Settles the rows whose times are before `time` and removes the parts all of whose rows are.
    pub fn pass(&mut self, time: i64) {
        for part in self.parts.iter_mut().filter(|part| part.due < time) {
            part.due = i64::MAX;
            for (row, at) in part.times.iter().enumerate() {
                if part.settled[row] {
                    continue;
                }
                if *at < time {
                    part.settled[row] = true;
                    part.is_changed = true;
                } else {
                    part.due = part.due.min(*at);
                }
            }
        }
        while let Some(part) = self.parts.pop_front_if(|part| part.latest < time) {
            self.bytes -= part.bytes;
            if part.is_stored {
                self.removed.push(part.first);
            }
        }
        let rows = self.parts.front().map_or(0, |part| self.next - part.first) as usize;
        if self.newest.len() > 2 * rows + JOIN_PART_ROWS {
            let first = self.next - rows as u64;
            self.newest.retain(|_, number| *number >= first);
        }
    }

    /// The least time of an unsettled row, or a smaller one.
    pub fn next_due(&self) -> Option<i64> {
        let due = self.parts.iter().map(|part| part.due).min()?;
        (due < i64::MAX).then_some(due)
    }

    /// Rows that are read together: how many of `numbers`, from the first on. They are in memory but for one part at most.
    pub fn piece(&self, numbers: impl Iterator<Item = u64>) -> usize {
        let mut read: Option<u64> = None;
        let mut rows = 0;
        for number in numbers.take(PIECE_ROWS_MAX) {
            let part = &self.parts[self.place(number)];
            if part.batch.is_none() && read.replace(part.first).is_some_and(|r| r != part.first) {
                break;
            }
            rows += 1;
        }
        rows
    }

    /// Whether some rows are only on disk: it is cheaper then to read in the order of the numbers.
    pub fn is_on_disk(&self) -> bool {
        self.parts.iter().any(|part| part.batch.is_none())
    }

    /// The columns of rows.
    ///
    /// # Errors
    /// What the disk says, where they are only there.
    pub fn columns(&self, numbers: &[u64]) -> Result<Vec<ArrayRef>, Error> {
        let mut batches: Vec<RecordBatch> = Vec::new();
        let mut known: HashMap<u64, usize> = HashMap::new();
        let mut places = Vec::with_capacity(numbers.len());
        let mut last = (0, 0..0_u64);
        for number in numbers {
            if !last.1.contains(number) {
                let part = &self.parts[self.place(*number)];
                let batch = match known.get(&part.first) {
                    Some(batch) => *batch,
                    None => {
                        batches.push(self.batch(part)?);
                        known.insert(part.first, batches.len() - 1);
                        batches.len() - 1
                    }
                };
                last = (batch, part.first..part.first + part.rows() as u64);
            }
            places.push((last.0, (number - last.1.start) as usize));
        }
        let column = |column: usize| {
            let arrays: Vec<&dyn Array> =
                batches.iter().map(|b| b.column(column).as_ref()).collect();
            interleave(&arrays, &places).map_err(misfit)
        };
        (0..self.schema.fields().len()).map(column).collect()
    }

    /// The time of a row.
    pub fn time(&self, number: u64) -> i64 {
        let part = &self.parts[self.place(number)];
        part.times[(number - part.first) as usize]
    }

    /// The key of a row.
    pub fn key(&self, number: u64) -> &[u8] {
        let part = &self.parts[self.place(number)];
        part.keys.at((number - part.first) as usize)
    }

    fn batch(&self, part: &BufferPart) -> Result<RecordBatch, Error> {
        if let Some(batch) = &part.batch {
            return Ok(batch.clone());
        }
        let missing = || Error::new(Class::Permanent, "flow.state-missing");
        let state = self.state.as_ref().ok_or_else(missing)?;
        let bytes = state.get(&self.stored_key(b'p', part.first))?;
        let batch = ipc::decode(&bytes.ok_or_else(missing)?, &self.stored)?;
        self.without_times(&batch)
    }

    fn without_times(&self, stored: &RecordBatch) -> Result<RecordBatch, Error> {
        let columns = stored.columns()[..self.schema.fields().len()].to_vec();
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(misfit)
    }

    fn stored_key(&self, kind: u8, first: u64) -> Vec<u8> {
        let mut key = vec![self.prefix, kind];
        key.extend_from_slice(&first.to_be_bytes());
        key
    }

    /// Writes what has changed.
    ///
    /// # Errors
    /// When rows cannot be written, which their types decide.
    pub fn snapshot(&mut self, changes: &mut Changes) -> Result<(), Error> {
        for first in std::mem::take(&mut self.removed) {
            changes.delete(&[&self.stored_key(b'p', first)]);
            changes.delete(&[&self.stored_key(b's', first)]);
        }
        self.put_together()?;
        for place in 0..self.parts.len() {
            let part = &self.parts[place];
            if let (Some(batch), false) = (&part.batch, part.is_stored) {
                let mut columns = batch.columns().to_vec();
                columns.push(Arc::new(Int64Array::from(part.times.clone())));
                let stored = RecordBatch::try_new(Arc::clone(&self.stored), columns);
                let stored = stored.map_err(misfit)?;
                let key = self.stored_key(b'p', part.first);
                changes.put_made(&key, move || ipc::encode(&stored));
            }
            // Rows that are unsettled are the rule.
            if part.is_changed || (!part.is_stored && part.settled.contains(&true)) {
                let settled: Vec<u8> = part
                    .settled
                    .iter()
                    .map(|settled| u8::from(*settled))
                    .collect();
                changes.put(&self.stored_key(b's', part.first), &settled);
            }
            let part = &mut self.parts[place];
            (part.is_stored, part.is_changed) = (true, false);
        }
        Ok(())
    }

    /// Makes one part of small ones that are not stored.
    fn put_together(&mut self) -> Result<(), Error> {
        let mut parts: VecDeque<BufferPart> = VecDeque::with_capacity(self.parts.len());
        let mut group: Vec<BufferPart> = Vec::new();
        let mut rows = 0;
        for part in std::mem::take(&mut self.parts) {
            if part.is_stored || rows + part.rows() > JOIN_PART_ROWS {
                parts.extend(together(&self.schema, std::mem::take(&mut group))?);
                rows = 0;
            }
            if part.is_stored {
                parts.push_back(part);
                continue;
            }
            rows += part.rows();
            group.push(part);
        }
        parts.extend(together(&self.schema, group)?);
        self.bytes = parts.iter().map(|part| part.bytes).sum();
        self.parts = parts;
        Ok(())
    }

    /// Reads what snapshots wrote.
    ///
    /// # Errors
    /// `flow.state-damaged`, or what the disk says.
    pub fn restore(&mut self, state: Arc<dyn StateReader>) -> Result<(), Error> {
        let damaged = || Error::new(Class::Permanent, "flow.state-damaged");
        let first = |key: &[u8]| {
            let number = key.get(2..).and_then(|number| number.try_into().ok());
            number.map(u64::from_be_bytes).ok_or_else(damaged)
        };
        let mut settled: HashMap<u64, Vec<bool>> = HashMap::new();
        state.scan(&[self.prefix, b's'], &mut |key, value| {
            let rows = value.iter().map(|settled| *settled == 1).collect();
            settled.insert(first(key)?, rows);
            Ok(())
        })?;
        state.scan(&[self.prefix, b'p'], &mut |key, value| {
            let stored = ipc::decode(&value, &self.stored)?;
            let times = stored.column(stored.num_columns() - 1);
            let times = times.as_primitive::<Int64Type>().values().to_vec();
            let batch = self.without_times(&stored)?;
            let keys = self.keys(&batch)?;
            let first = first(key)?;
            let settled = settled
                .remove(&first)
                .unwrap_or_else(|| vec![false; times.len()]);
            if settled.len() != times.len() || first < self.next {
                return Err(damaged());
            }
            let mut part = BufferPart::new(first, batch, keys, times, settled);
            part.is_stored = true;
            if self.bytes > RESTORED_BYTES_MAX {
                part.bytes -= part.batch.take().map_or(0, |b| b.get_array_memory_size());
            }
            self.push(part);
            Ok(())
        })?;
        self.state = Some(state);
        Ok(())
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> usize {
        self.bytes + self.newest.capacity() * size_of::<(u64, u64)>()
    }

    /// Drops about so many bytes of what the last snapshot holds as well, the oldest rows first.
    pub fn shrink(&mut self, bytes: usize) {
        let mut freed = 0;
        for part in self.parts.iter_mut().filter(|part| part.is_stored) {
            if freed >= bytes {
                break;
            }
            if let Some(batch) = part.batch.take() {
                let held = batch.get_array_memory_size();
                part.bytes -= held;
                freed += held;
            }
        }
        self.bytes -= freed;
    }
}

impl BufferPart {
    fn new(
        first: u64,
        batch: RecordBatch,
        keys: KeyBytes,
        times: Vec<i64>,
        settled: Vec<bool>,
    ) -> BufferPart {
        let unsettled = times.iter().zip(&settled).filter(|(_, settled)| !**settled);
        let due = unsettled.map(|(time, _)| *time).min();
        let rows = times.len() * (2 * size_of::<i64>() + size_of::<bool>());
        BufferPart {
            first,
            bytes: batch.get_array_memory_size() + keys.memory() + rows,
            batch: Some(batch),
            keys,
            before: Vec::with_capacity(times.len()),
            latest: times.iter().copied().max().unwrap_or(i64::MIN),
            due: due.unwrap_or(i64::MAX),
            times,
            settled,
            is_stored: false,
            is_changed: false,
        }
    }

    fn rows(&self) -> usize {
        self.times.len()
    }
}

/// Parts one behind the other as one; none of none.
fn together(schema: &SchemaRef, mut parts: Vec<BufferPart>) -> Result<Option<BufferPart>, Error> {
    if parts.len() < 2 {
        return Ok(parts.pop());
    }
    let batches = parts.iter().filter_map(|part| part.batch.as_ref());
    let batch = concat_batches(schema, batches).map_err(misfit)?;
    let mut keys = KeyBytes::default();
    let (mut times, mut settled, mut before) = (Vec::new(), Vec::new(), Vec::new());
    for part in &parts {
        keys.extend(&part.keys);
        times.extend_from_slice(&part.times);
        settled.extend_from_slice(&part.settled);
        before.extend_from_slice(&part.before);
    }
    let mut one = BufferPart::new(parts[0].first, batch, keys, times, settled);
    one.before = before;
    Ok(Some(one))
}

/// The keys of rows as bytes, one behind the other; equal keys have equal bytes.
#[derive(Default)]
pub(super) struct KeyBytes {
    ends: Vec<u32>,
    bytes: Vec<u8>,
    hashes: Vec<u64>,
}

impl KeyBytes {
    /// The key of a row.
    pub fn at(&self, row: usize) -> &[u8] {
        let begin = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[begin as usize..self.ends[row] as usize]
    }

    fn extend(&mut self, other: &KeyBytes) {
        let begin = self.bytes.len() as u32;
        self.ends.extend(other.ends.iter().map(|end| begin + end));
        self.bytes.extend_from_slice(&other.bytes);
        self.hashes.extend_from_slice(&other.hashes);
    }

    fn memory(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * 4 + self.hashes.capacity() * 8
    }
}

struct KeyEncoder {
    places: Vec<usize>,
    converter: RowConverter,
    hasher: foldhash::fast::FixedState,
}

impl KeyEncoder {
    fn new(schema: &SchemaRef, places: &[usize]) -> Result<KeyEncoder, Error> {
        let types = places.iter().map(|place| schema.field(*place).data_type());
        let fields = types.cloned().map(SortField::new).collect();
        Ok(KeyEncoder {
            places: places.to_vec(),
            converter: RowConverter::new(fields).map_err(misfit)?,
            hasher: foldhash::fast::FixedState::default(),
        })
    }

    fn encode(&self, batch: &RecordBatch) -> Result<KeyBytes, Error> {
        let columns = self.places.iter();
        let columns: Vec<ArrayRef> = columns.map(|at| Arc::clone(batch.column(*at))).collect();
        let encoded = self.converter.convert_columns(&columns).map_err(misfit)?;
        let mut keys = KeyBytes::default();
        keys.ends.reserve(batch.num_rows());
        keys.hashes.reserve(batch.num_rows());
        for row in encoded.iter() {
            keys.bytes.extend_from_slice(row.data());
            keys.ends.push(keys.bytes.len() as u32);
            keys.hashes.push(self.hasher.hash_one(row.data()));
        }
        Ok(keys)
    }
}
