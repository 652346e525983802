//! The rows of a hot table: slots in chunks, an index by key, and the order in which rows were
//! written, which is both the order in which they expire and the one in which they are evicted.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};
use busbar_event::{Class, Error};
use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashTable};
use std::hash::BuildHasher;

use super::chunk::{Chunk, Source, gather};
use crate::columns::{ColumnType, TypedRows, arrow_error, type_of, widen};
use crate::limits::{HOT_CHUNK_ROWS, MOVE_BYTES_MAX, MOVE_ROWS_MAX};
use crate::spec::{HotOptions, WhenFull};
use crate::table::Stats;

/// Text and binary bytes of one chunk: a place in it is a `u32`, an Arrow offset an `i32`.
const CHUNK_BYTES_MAX: usize = 1 << 30;

/// What a row costs besides its values: its place in the order, its key and its index entry.
const ROW_BYTES: u64 = 64;

const NONE: u32 = u32::MAX;

pub(super) struct State {
    pub options: HotOptions,
    pub schema: SchemaRef,
    /// Places of the key's columns; empty until they are known.
    pub key: Vec<usize>,
    pub positions: HashMap<Arc<str>, u64>,
    pub stats: Stats,
    /// Rows that are due stay until a mover has taken them to another table.
    pub is_moving: bool,
    /// Rows that the other table has rejected. They are not in the order of age, so that they neither leave nor are tried
    /// again before they are written anew or put back.
    aside: u64,
    kinds: Vec<ColumnType>,
    chunks: Vec<Arc<Chunk>>,
    chunk_bytes: Vec<usize>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    index: HashTable<u32>,
    /// The row written longest ago, and the one written last.
    oldest: u32,
    newest: u32,
    /// Counts writes, so that a slot knows which row of which write touched it last.
    writes: u64,
}

/// A write and the row of it.
type Touched = (u64, u32);

struct Slot {
    hash: u64,
    key: Box<[u8]>,
    written: i64,
    older: u32,
    newer: u32,
    touched: Touched,
    live: bool,
    is_aside: bool,
}

/// Rows that are to be moved, and how each was when it was read.
#[derive(Default)]
pub(super) struct DueRows {
    pub slots: Vec<u32>,
    touched: Vec<Touched>,
}

/// What [`State::put`] did.
#[derive(Default)]
pub(super) struct Done {
    pub put: usize,
    pub overwritten: usize,
    pub deleted: usize,
}

impl State {
    pub fn new(options: HotOptions, schema: SchemaRef) -> Self {
        Self {
            is_moving: options.moves_to.is_some(),
            aside: 0,
            options,
            kinds: schema.fields().iter().map(|f| type_of(f)).collect(),
            schema,
            key: Vec::new(),
            positions: HashMap::new(),
            stats: Stats::default(),
            chunks: Vec::new(),
            chunk_bytes: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            oldest: NONE,
            newest: NONE,
            writes: 0,
        }
    }

    /// Take a schema that begins with the present one, some of whose columns may have become wider. On an error
    /// nothing has changed.
    pub fn widen(&mut self, table: &str, schema: SchemaRef) -> Result<(), Error> {
        let mut wider = Vec::new();
        for (column, kind) in self.kinds.iter().enumerate() {
            let field = schema.field(column);
            let next = type_of(field);
            if next == *kind {
                continue;
            }
            for (place, chunk) in self.chunks.iter().enumerate() {
                let values = widen(table, field.name(), &chunk.array(column), next)?;
                wider.push((column, next, place, values));
            }
        }
        for (column, kind, place, values) in wider {
            let chunk = Arc::make_mut(&mut self.chunks[place]);
            // Numbers and truth values, which become texts here, took no bytes of text before.
            let bytes = chunk.replace(column, kind, &values);
            self.chunk_bytes[place] += bytes;
            self.stats.bytes += bytes as u64;
        }
        for (column, kind) in self.kinds.iter_mut().enumerate() {
            *kind = type_of(schema.field(column));
        }
        for field in &schema.fields()[self.kinds.len()..] {
            let kind = type_of(field);
            self.kinds.push(kind);
            for chunk in &mut self.chunks {
                Arc::make_mut(chunk).add_column(kind);
            }
        }
        self.schema = schema;
        Ok(())
    }

    /// Remove what has lived its time.
    pub fn expire(&mut self, now: i64) {
        let Some(ttl) = self.options.ttl else {
            return;
        };
        if self.is_moving {
            return;
        }
        let ttl = i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX);
        while self.oldest != NONE {
            let slot = &self.slots[self.oldest as usize];
            if slot.written.saturating_add(ttl) > now {
                break;
            }
            self.remove(self.oldest);
            self.stats.expired += 1;
        }
    }

    /// The oldest rows that are to be moved: those whose time to live is over, and those that make room.
    pub fn due(&self, now: i64, makes_room: bool) -> DueRows {
        let ttl = self
            .options
            .ttl
            .map(|ttl| i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX));
        let columns: Vec<usize> = (0..self.kinds.len()).collect();
        let (mut due, mut bytes, mut freed) = (DueRows::default(), 0, 0);
        let mut at = self.oldest;
        while at != NONE && due.slots.len() < MOVE_ROWS_MAX && bytes < MOVE_BYTES_MAX {
            let slot = &self.slots[at as usize];
            let is_over = ttl.is_some_and(|ttl| slot.written.saturating_add(ttl) <= now);
            let above = |kept: u64, most: u64| u128::from(kept) * 4 > u128::from(most) * 3;
            let is_full = makes_room
                && (above(
                    self.stats.rows - due.slots.len() as u64,
                    self.options.rows_max,
                ) || above(
                    self.stats.bytes.saturating_sub(freed),
                    self.options.bytes_max,
                ));
            if !is_over && !is_full {
                break;
            }
            let (chunk, place) = place(at);
            let row = self.chunks[chunk].bytes_of(place, columns.iter().copied());
            bytes += row;
            freed += row as u64 + self.fixed_bytes() + slot.key.len() as u64;
            due.slots.push(at);
            due.touched.push(slot.touched);
            at = slot.newer;
        }
        due
    }

    /// Whether a table that makes room has so little left that rows are to be moved.
    pub fn is_nearly_full(&self) -> bool {
        let near = |kept: u64, most: u64| u128::from(kept) * 8 >= u128::from(most) * 7;
        self.options.when_full == WhenFull::Evict
            && (near(self.stats.rows, self.options.rows_max)
                || near(self.stats.bytes, self.options.bytes_max))
    }

    /// How long the oldest row that is to be moved has waited beyond its time to live, in microseconds; none if its time
    /// to live is not over.
    pub fn overdue(&self, now: i64) -> Option<u64> {
        self.waited(&self.options, now)
    }

    fn waited(&self, options: &HotOptions, now: i64) -> Option<u64> {
        let slot = self.slots.get(self.oldest as usize)?;
        let ttl = i64::try_from(options.ttl?.as_micros()).unwrap_or(i64::MAX);
        u64::try_from(now.saturating_sub(slot.written.saturating_add(ttl))).ok()
    }

    /// Whether rows would be dropped if the table moved none any more and had these options. Rows that the other table has
    /// rejected are not among them.
    pub fn has_waiting(&self, options: &HotOptions, now: i64) -> bool {
        let is_over = self.stats.rows > options.rows_max || self.stats.bytes > options.bytes_max;
        let makes_room = options.when_full == WhenFull::Evict && is_over && self.oldest != NONE;
        self.is_moving && (makes_room || self.waited(options, now).is_some())
    }

    /// Rows that the other table has rejected.
    pub fn rejected(&self) -> u64 {
        self.aside
    }

    /// Puts rows that the other table has rejected back into the order of age.
    pub fn put_back(&mut self) {
        if self.aside > 0 {
            self.sort_by_age();
        }
    }

    /// Whether a row of [`State::due`] is as it was then.
    pub fn is_unchanged(&self, due: &DueRows, row: usize) -> bool {
        let slot = &self.slots[due.slots[row] as usize];
        slot.live && slot.touched == due.touched[row]
    }

    /// Leaves a row to this table, until it is written again or put back.
    pub fn reject(&mut self, due: &DueRows, row: usize) {
        let slot = due.slots[row];
        if self.is_unchanged(due, row) && !self.slots[slot as usize].is_aside {
            self.unlink(slot);
            self.slots[slot as usize].is_aside = true;
            self.aside += 1;
        }
    }

    /// Removes a row that was moved.
    pub fn remove_moved(&mut self, due: &DueRows, row: usize) {
        self.remove(due.slots[row]);
        self.stats.moved += 1;
    }

    /// Refuse rows that would not fit, before anything is changed.
    pub fn check_room(&self, rows: &TypedRows, keys: Option<&Rows>) -> Result<(), Error> {
        let sources = self.sources(rows);
        let incoming: usize = sources
            .iter()
            .map(|(_, source)| {
                (0..rows.rows)
                    .map(|row| source.bytes_at(row))
                    .sum::<usize>()
            })
            .sum();
        let key_bytes: usize = keys.map_or(0, |keys| {
            (0..rows.rows).map(|row| keys.row(row).data().len()).sum()
        });
        let fixed = self.fixed_bytes();
        let most_rows = self.stats.rows + rows.rows as u64;
        let incoming = (incoming + key_bytes) as u64;
        let most_bytes = self.stats.bytes + incoming + rows.rows as u64 * fixed;
        // The mover makes room afterwards, so that a write passes a bound by its own rows at most.
        let has_room =
            self.stats.rows < self.options.rows_max && self.stats.bytes < self.options.bytes_max;
        if self.options.when_full == WhenFull::Evict && (!self.is_moving || has_room) {
            return Ok(());
        }
        if most_rows <= self.options.rows_max && most_bytes <= self.options.bytes_max {
            return Ok(());
        }
        // Too much if every row were new: now count those that are.
        let mut new = hashbrown::HashSet::new();
        let mut bytes = self.stats.bytes;
        for row in (0..rows.rows).filter(|row| !rows.is_delete(*row)) {
            let incoming: usize = sources.iter().map(|(_, s)| s.bytes_at(row)).sum();
            bytes += incoming as u64;
            match keys.map(|keys| keys.row(row).data()) {
                None => bytes += fixed,
                Some(key) => match self.find(hash(key), key) {
                    Some(slot) => {
                        let (chunk, place) = place(slot);
                        let columns = sources.iter().map(|(column, _)| *column);
                        bytes -= self.chunks[chunk].bytes_of(place, columns) as u64;
                    }
                    None => {
                        if new.insert(key) {
                            bytes += fixed + key.len() as u64;
                        }
                    }
                },
            }
        }
        let added = match keys {
            Some(_) => new.len() as u64,
            None => rows.rows as u64,
        };
        if added == 0 && bytes <= self.stats.bytes {
            return Ok(());
        }
        if self.stats.rows + added > self.options.rows_max || bytes > self.options.bytes_max {
            return Err(Error::new(Class::Transient, "table.full")
                .with("rows", self.stats.rows)
                .with("rows_max", self.options.rows_max)
                .with("bytes", self.stats.bytes)
                .with("bytes_max", self.options.bytes_max));
        }
        Ok(())
    }

    /// Put and delete rows. `keys` are theirs, in the table's own encoding; `times` are when they were
    /// written.
    pub fn put(&mut self, rows: &TypedRows, keys: Option<&Rows>, times: &[i64]) -> Done {
        self.writes += 1;
        let evicts = self.options.when_full == WhenFull::Evict && !self.is_moving;
        let mut done = Done::default();
        let mut places = vec![NONE; rows.rows];
        for (row, at) in places.iter_mut().enumerate() {
            let key: &[u8] = keys.map_or(&[], |keys| keys.row(row).data());
            let hash = hash(key);
            let known = keys.and_then(|_| self.find(hash, key));
            if rows.is_delete(row) {
                done.deleted += 1;
                if let Some(slot) = known {
                    self.remove(slot);
                }
                continue;
            }
            done.put += 1;
            let slot = match known {
                Some(slot) => {
                    let same_write = self.slots[slot as usize].touched.0 == self.writes;
                    done.overwritten += usize::from(same_write);
                    self.unlink(slot);
                    slot
                }
                None => self.insert(hash, key, keys.is_some()),
            };
            self.link(slot);
            self.slots[slot as usize].written = times[row];
            self.slots[slot as usize].touched = (self.writes, row as u32);
            *at = slot;
            while evicts && self.stats.rows > self.options.rows_max && self.oldest != slot {
                self.evict();
            }
        }
        let sources = self.sources_owned(rows);
        for (column, array) in &sources {
            let source = Source::new(self.kinds[*column], array);
            for (row, slot) in places.iter().enumerate() {
                if *slot == NONE || !self.is_last(*slot, row) {
                    continue;
                }
                let (chunk, place) = place(*slot);
                let chunk_rows = Arc::make_mut(&mut self.chunks[chunk]);
                let (before, after) = chunk_rows.set(*column, place, &source, row);
                self.chunk_bytes[chunk] = self.chunk_bytes[chunk] - before + after;
                self.stats.bytes = self.stats.bytes - before as u64 + after as u64;
            }
        }
        while evicts && self.stats.bytes > self.options.bytes_max && self.oldest != self.newest {
            self.evict();
        }
        done
    }

    /// Whether every chunk has room for all bytes of these rows.
    pub fn chunks_can_take(&self, rows: &TypedRows) -> bool {
        let incoming: usize = rows
            .columns
            .iter()
            .map(|(_, array)| array.get_array_memory_size())
            .sum();
        let fullest = self.chunk_bytes.iter().copied().max().unwrap_or(0);
        fullest + incoming <= CHUNK_BYTES_MAX
    }

    /// The rows there are, as chunks that will not change.
    pub fn snapshot(&self) -> Vec<Arc<Chunk>> {
        let alive = self.chunks.iter().filter(|chunk| chunk.live_rows() > 0);
        alive.cloned().collect()
    }

    /// The slot of the row with that key.
    pub fn slot(&self, key: &[u8]) -> Option<u32> {
        self.find(hash(key), key)
    }

    /// The values of a column in these slots, in that order.
    pub fn gather(&self, column: usize, slots: &[u32]) -> ArrayRef {
        let places = slots.iter().map(|slot| {
            let (chunk, place) = place(*slot);
            (&*self.chunks[chunk], place)
        });
        gather(self.kinds[column], column, places)
    }

    /// The chunk of the row with that key, and its place there.
    pub fn lookup(&self, key: &[u8]) -> Option<(Arc<Chunk>, usize)> {
        let (chunk, place) = place(self.slot(key)?);
        Some((Arc::clone(&self.chunks[chunk]), place))
    }

    /// The rows there are, as chunks that will not change, and when each live row was written.
    pub fn dated_chunks(&self) -> Vec<(Arc<Chunk>, Vec<i64>)> {
        let slots = self.slots.chunks(HOT_CHUNK_ROWS);
        let dated = self.chunks.iter().zip(slots).map(|(chunk, slots)| {
            let live = slots.iter().filter(|slot| slot.live);
            let times: Vec<i64> = live.map(|slot| slot.written).collect();
            (Arc::clone(chunk), times)
        });
        dated.filter(|(_, times)| !times.is_empty()).collect()
    }

    /// Orders the rows by when they were written, where they were put in another order.
    pub fn sort_by_age(&mut self) {
        let mut live: Vec<u32> = (0..self.slots.len() as u32)
            .filter(|slot| self.slots[*slot as usize].live)
            .collect();
        live.sort_by_key(|slot| self.slots[*slot as usize].written);
        (self.oldest, self.newest, self.aside) = (NONE, NONE, 0);
        for slot in live {
            self.slots[slot as usize].is_aside = false;
            self.link(slot);
        }
    }

    /// The keys of some rows; none for a table without a key.
    pub fn keys_of(&self, rows: &TypedRows) -> Result<Option<Rows>, Error> {
        if self.key.is_empty() {
            return Ok(None);
        }
        let columns = self.key.iter();
        let columns: Vec<ArrayRef> = columns
            .filter_map(|column| rows.column(*column).cloned())
            .collect();
        self.encode_keys(&columns).map(Some)
    }

    /// Encode the key's columns of some rows.
    pub fn encode_keys(&self, columns: &[ArrayRef]) -> Result<Rows, Error> {
        let fields = self
            .key
            .iter()
            .map(|column| SortField::new(self.schema.field(*column).data_type().clone()));
        let converter = RowConverter::new(fields.collect()).map_err(arrow_error)?;
        converter.convert_columns(columns).map_err(arrow_error)
    }

    fn sources<'a>(&self, rows: &'a TypedRows) -> Vec<(usize, Source<'a>)> {
        let columns = rows.columns.iter();
        columns
            .map(|(column, array)| (*column, Source::new(self.kinds[*column], array)))
            .collect()
    }

    fn sources_owned(&self, rows: &TypedRows) -> Vec<(usize, ArrayRef)> {
        rows.columns.clone()
    }

    fn is_last(&self, slot: u32, row: usize) -> bool {
        let slot = &self.slots[slot as usize];
        slot.live && slot.touched == (self.writes, row as u32)
    }

    fn fixed_bytes(&self) -> u64 {
        ROW_BYTES + 9 * self.kinds.len() as u64
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.index
            .find(hash, |slot| &*self.slots[*slot as usize].key == key)
            .copied()
    }

    fn insert(&mut self, hash: u64, key: &[u8], indexed: bool) -> u32 {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                if self.chunks.last().is_none_or(|chunk| chunk.is_full()) {
                    self.chunks
                        .push(Arc::new(Chunk::new(self.kinds.iter().copied())));
                    self.chunk_bytes.push(0);
                }
                if let Some(chunk) = self.chunks.last_mut() {
                    Arc::make_mut(chunk).push();
                }
                self.slots.push(Slot {
                    hash: 0,
                    key: Box::default(),
                    written: 0,
                    older: NONE,
                    newer: NONE,
                    touched: (0, 0),
                    live: false,
                    is_aside: false,
                });
                (self.slots.len() - 1) as u32
            }
        };
        let (chunk, place) = place(slot);
        Arc::make_mut(&mut self.chunks[chunk]).revive(place);
        let entry = &mut self.slots[slot as usize];
        entry.hash = hash;
        entry.key = key.into();
        entry.live = true;
        if indexed {
            let slots = &self.slots;
            self.index
                .insert_unique(hash, slot, |slot| slots[*slot as usize].hash);
        }
        self.stats.rows += 1;
        self.stats.bytes += self.fixed_bytes() + key.len() as u64;
        slot
    }

    fn remove(&mut self, slot: u32) {
        self.unlink(slot);
        let (chunk, place) = place(slot);
        let bytes = Arc::make_mut(&mut self.chunks[chunk]).clear(place);
        self.chunk_bytes[chunk] -= bytes;
        let entry = &mut self.slots[slot as usize];
        let key = std::mem::take(&mut entry.key);
        entry.live = false;
        let hash = entry.hash;
        if let Ok(found) = self.index.find_entry(hash, |known| *known == slot) {
            found.remove();
        }
        self.free.push(slot);
        self.stats.rows -= 1;
        self.stats.bytes -= self.fixed_bytes() + (key.len() + bytes) as u64;
    }

    fn evict(&mut self) {
        self.remove(self.oldest);
        self.stats.evicted += 1;
    }

    fn link(&mut self, slot: u32) {
        let before = self.newest;
        self.slots[slot as usize].older = before;
        self.slots[slot as usize].newer = NONE;
        match self.slots.get_mut(before as usize) {
            Some(before) => before.newer = slot,
            None => self.oldest = slot,
        }
        self.newest = slot;
    }

    fn unlink(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        if std::mem::take(&mut entry.is_aside) {
            self.aside -= 1;
            return;
        }
        let (older, newer) = (entry.older, entry.newer);
        match self.slots.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match self.slots.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
    }
}

/// Keys come from outside, but a table's rows are bounded and its writers are flows, not strangers:
/// a fixed seed keeps runs repeatable.
fn hash(key: &[u8]) -> u64 {
    FixedState::with_seed(0x6275_7362_6172).hash_one(key)
}

fn place(slot: u32) -> (usize, usize) {
    let slot = slot as usize;
    (slot / HOT_CHUNK_ROWS, slot % HOT_CHUNK_ROWS)
}

/// Rows of one chunk, in the columns asked for.
pub(super) fn chunk_batch(
    chunk: &Chunk,
    schema: &SchemaRef,
    columns: &[usize],
) -> Result<RecordBatch, Error> {
    if columns.is_empty() {
        return crate::columns::rows_without_columns(schema, chunk.live_rows());
    }
    let arrays = columns.iter().map(|column| chunk.array(*column)).collect();
    let batch = RecordBatch::try_new(Arc::clone(schema), arrays).map_err(arrow_error)?;
    match chunk.mask() {
        None => Ok(batch),
        Some(mask) => arrow::compute::filter_record_batch(&batch, &mask).map_err(arrow_error),
    }
}
