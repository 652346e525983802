//! State by key, for operators that remember something of each key.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, Rows as KeyRows, SortField};
use busbar_event::{Class, Error};
use busbar_sql::Projection;
use bytes::Bytes;
use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;

use super::rows::misfit;
use super::{Changes, StateReader, Wrong};

/// Key expressions of a step, such as `by: [site, lower(meter)]`.
#[derive(Clone)]
pub(super) struct KeyExpressions {
    texts: Vec<String>,
    expressions: Vec<Projection>,
}

impl KeyExpressions {
    /// Compiles the list that stands under `by`.
    ///
    /// # Errors
    /// What is wrong, at its place in the list.
    pub fn compile(schema: &SchemaRef, by: &[String]) -> Result<Self, Wrong> {
        let compile = |(i, text): (usize, &String)| {
            Projection::compile(schema, text).map_err(|wrong| Wrong::from(wrong).at(i).at("by"))
        };
        Ok(Self {
            texts: by.to_vec(),
            expressions: by
                .iter()
                .enumerate()
                .map(compile)
                .collect::<Result<_, _>>()?,
        })
    }

    /// The keys as they stand in the flow file.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// The names of the keys where all of them are columns. Other keys cannot be told apart before they are computed:
    /// then the list is empty, and all rows must meet.
    pub fn names(&self, schema: &SchemaRef) -> Vec<String> {
        let column = |text: &String| schema.field_with_name(text).ok().map(|f| f.name().clone());
        self.texts
            .iter()
            .map(column)
            .collect::<Option<_>>()
            .unwrap_or_default()
    }

    /// Places of the columns that the keys read.
    pub fn columns(&self) -> impl Iterator<Item = usize> {
        self.expressions.iter().flat_map(Projection::columns)
    }

    /// The same keys over batches of another schema, ready to be evaluated.
    pub fn bind(&self, schema: &SchemaRef) -> Result<KeyReader, Error> {
        let bound: Vec<Projection> = self
            .expressions
            .iter()
            .map(|key| key.bind(schema))
            .collect::<Result<_, _>>()?;
        let types = bound
            .iter()
            .map(|key| plain(key.schema().field(0).data_type()));
        let types: Vec<DataType> = types.collect();
        let converter = match types.is_empty() {
            true => None,
            false => {
                let fields = types.iter().cloned().map(SortField::new).collect();
                Some(RowConverter::new(fields).map_err(misfit)?)
            }
        };
        Ok(KeyReader {
            expressions: bound,
            types,
            converter,
        })
    }
}

/// Keys of batches as bytes.
pub(super) struct KeyReader {
    expressions: Vec<Projection>,
    types: Vec<DataType>,
    /// None without keys: all rows have the same.
    converter: Option<RowConverter>,
}

/// The key of each row of a batch.
pub(super) struct Keys(Option<KeyRows>);

impl KeyReader {
    /// The key of each row.
    ///
    /// # Errors
    /// One of the whole batch, when a key cannot be computed for a row.
    pub fn read(&self, batch: &RecordBatch) -> Result<Keys, Error> {
        let Some(converter) = &self.converter else {
            return Ok(Keys(None));
        };
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.expressions.len());
        for (expression, data_type) in self.expressions.iter().zip(&self.types) {
            let column = Arc::clone(expression.evaluate(batch)?.column(0));
            columns.push(match column.data_type() == data_type {
                true => column,
                false => cast(&column, data_type).map_err(misfit)?,
            });
        }
        converter
            .convert_columns(&columns)
            .map(|rows| Keys(Some(rows)))
            .map_err(misfit)
    }
}

impl Keys {
    /// The key of a row; equal keys have equal bytes.
    pub fn at(&self, row: usize) -> &[u8] {
        self.0.as_ref().map_or(&[], |rows| rows.row(row).data())
    }
}

fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, value) => plain(value),
        other => other.clone(),
    }
}

/// What an operator remembers of one key.
pub(super) trait Stored: Sized {
    /// Appends its bytes.
    fn write(&self, out: &mut Vec<u8>);

    /// Reads what [`Stored::write`] wrote; none when the bytes are damaged.
    fn read(bytes: &[u8]) -> Option<Self>;

    /// Bytes of memory besides its own size.
    fn heap_bytes(&self) -> usize {
        0
    }

    /// The watermark at which something is to be done about it.
    fn due(&self) -> Option<i64> {
        None
    }
}

/// What an operator remembers, by key. What has changed since the last snapshot is written by the next; what has not can
/// be dropped from memory and is read again when its key comes.
pub(super) struct KeyedState<S> {
    entries: HashMap<Arc<[u8]>, Entry<S>, foldhash::fast::RandomState>,
    /// Keys that have changed since the last snapshot.
    changed: Vec<Arc<[u8]>>,
    /// Keys and the watermarks at which they may be due. An entry whose time has moved on keeps its place here until that
    /// has passed.
    timers: BTreeSet<(i64, Arc<[u8]>)>,
    state: Option<Arc<dyn StateReader>>,
    /// Whether entries were dropped from memory.
    spilled: bool,
    bytes: usize,
}

struct Entry<S> {
    /// None: removed, and the next snapshot says so.
    value: Option<S>,
    changed: bool,
    timer: i64,
    bytes: usize,
}

impl<S: Stored> KeyedState<S> {
    pub fn new() -> Self {
        Self {
            entries: HashMap::default(),
            changed: Vec::new(),
            timers: BTreeSet::new(),
            state: None,
            spilled: false,
            bytes: 0,
        }
    }

    /// What is remembered of a key.
    ///
    /// # Errors
    /// What the disk says, where the key was dropped from memory.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<&S>, Error> {
        self.load(key)?;
        Ok(self.entries.get(key).and_then(|entry| entry.value.as_ref()))
    }

    /// Remembers a value in place of the one before.
    pub fn set(&mut self, key: &[u8], value: S) {
        let bytes = size_of::<Entry<S>>() + key.len() + value.heap_bytes();
        let due = value.due();
        let mut known = match self.entries.entry_ref(key) {
            EntryRef::Occupied(known) => known,
            EntryRef::Vacant(new) => {
                let entry = Entry {
                    value: None,
                    changed: false,
                    timer: i64::MAX,
                    bytes: 0,
                };
                new.insert_entry_with_key(Arc::from(key), entry)
            }
        };
        let key = Arc::clone(known.key());
        let entry = known.get_mut();
        self.bytes = self.bytes + bytes - entry.bytes;
        entry.bytes = bytes;
        entry.value = Some(value);
        if !std::mem::replace(&mut entry.changed, true) {
            self.changed.push(Arc::clone(&key));
        }
        if let Some(due) = due
            && due < entry.timer
        {
            entry.timer = due;
            self.timers.insert((due, key));
        }
    }

    /// Forgets a key.
    pub fn remove(&mut self, key: &[u8]) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.value = None;
            if !std::mem::replace(&mut entry.changed, true) {
                self.changed.push(Arc::from(key));
            }
        }
    }

    /// The keys whose time has come, in the order of their times.
    ///
    /// # Errors
    /// What the disk says.
    pub fn due(&mut self, watermark: i64) -> Result<Vec<Arc<[u8]>>, Error> {
        let mut due: Vec<(i64, Arc<[u8]>)> = Vec::new();
        while self
            .timers
            .first()
            .is_some_and(|(time, _)| *time <= watermark)
        {
            let Some((_, key)) = self.timers.pop_first() else {
                break;
            };
            self.load(&key)?;
            let Some(entry) = self.entries.get_mut(&*key) else {
                continue;
            };
            entry.timer = i64::MAX;
            match entry.value.as_ref().and_then(Stored::due) {
                Some(time) if time <= watermark => due.push((time, key)),
                Some(time) => {
                    entry.timer = time;
                    self.timers.insert((time, key));
                }
                None => {}
            }
        }
        due.sort_unstable();
        Ok(due.into_iter().map(|(_, key)| key).collect())
    }

    /// The least watermark at which [`Self::due`] may answer a key.
    pub fn next_due(&self) -> Option<i64> {
        self.timers.first().map(|(time, _)| *time)
    }

    /// Writes what has changed.
    pub fn snapshot(&mut self, changes: &mut Changes) {
        for key in std::mem::take(&mut self.changed) {
            let Some(entry) = self.entries.get_mut(&*key) else {
                continue;
            };
            entry.changed = false;
            match &entry.value {
                Some(value) => {
                    let mut bytes = Vec::new();
                    value.write(&mut bytes);
                    changes.put(stored_key(&key), bytes);
                }
                None => {
                    self.bytes -= entry.bytes;
                    self.entries.remove(&*key);
                    changes.delete(stored_key(&key));
                }
            }
        }
    }

    /// Reads what snapshots wrote.
    ///
    /// # Errors
    /// `flow.state-damaged`, or what the disk says.
    pub fn restore(&mut self, state: Arc<dyn StateReader>) -> Result<(), Error> {
        state.scan(PREFIX, &mut |key, value| {
            let key = &key[PREFIX.len()..];
            self.put_loaded(key, &value)
        })?;
        self.state = Some(state);
        Ok(())
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Drops about so many bytes of what the last snapshot holds as well. Timers stay.
    pub fn shrink(&mut self, bytes: usize) {
        if self.state.is_none() {
            return;
        }
        let (mut freed, total) = (0, &mut self.bytes);
        self.entries.retain(|_, entry| {
            if entry.changed || freed >= bytes {
                return true;
            }
            freed += entry.bytes;
            *total -= entry.bytes;
            false
        });
        self.spilled |= freed > 0;
    }

    fn load(&mut self, key: &[u8]) -> Result<(), Error> {
        if !self.spilled || self.entries.contains_key(key) {
            return Ok(());
        }
        let stored = match &self.state {
            Some(state) => state.get(&stored_key(key))?,
            None => None,
        };
        match stored {
            Some(value) => self.put_loaded(key, &value),
            None => Ok(()),
        }
    }

    fn put_loaded(&mut self, key: &[u8], value: &Bytes) -> Result<(), Error> {
        let damaged = || Error::new(Class::Permanent, "flow.state-damaged");
        let value = S::read(value).ok_or_else(damaged)?;
        let bytes = size_of::<Entry<S>>() + key.len() + value.heap_bytes();
        let timer = value.due().unwrap_or(i64::MAX);
        let key: Arc<[u8]> = Arc::from(key);
        if timer < i64::MAX {
            self.timers.insert((timer, Arc::clone(&key)));
        }
        self.bytes += bytes;
        let entry = Entry {
            value: Some(value),
            changed: false,
            timer,
            bytes,
        };
        self.entries.insert(key, entry);
        Ok(())
    }
}

const PREFIX: &[u8] = b"k";

fn stored_key(key: &[u8]) -> Vec<u8> {
    [PREFIX, key].concat()
}

/// Reads numbers and byte strings that a [`Stored`] wrote.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn i64(&mut self) -> Option<i64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(i64::from_le_bytes(*number))
    }

    pub fn u8(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    /// Bytes with their length before them.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk()?;
        let length = u32::from_le_bytes(*length) as usize;
        let (bytes, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }
}

/// Writes bytes with their length before them. A row is bounded by the event it comes from, far below 4 GiB.
pub(super) fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Whole rows as bytes, for operators that give them back later.
pub(super) struct RowBytes {
    converter: RowConverter,
    /// The types of the columns; dictionaries come back as such.
    types: Vec<DataType>,
}

impl RowBytes {
    /// For rows of `schema`.
    ///
    /// # Errors
    /// `flow.misfit` for a type that cannot be kept.
    pub fn new(schema: &SchemaRef) -> Result<Self, Error> {
        let types: Vec<DataType> = schema
            .fields()
            .iter()
            .map(|field| field.data_type().clone())
            .collect();
        let fields = types
            .iter()
            .map(|data_type| SortField::new(plain(data_type)));
        Ok(Self {
            converter: RowConverter::new(fields.collect()).map_err(misfit)?,
            types,
        })
    }

    /// The bytes of each row of a batch, whose columns are those of the schema by name and place.
    ///
    /// # Errors
    /// `flow.misfit` when the columns are others.
    pub fn encode(&self, batch: &RecordBatch) -> Result<KeyRows, Error> {
        let flatten = |(column, data_type): (&ArrayRef, &DataType)| match plain(data_type) {
            flat if flat == *column.data_type() => Ok(Arc::clone(column)),
            flat => cast(column, &flat).map_err(misfit),
        };
        let columns = batch.columns().iter().zip(&self.types).map(flatten);
        let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
        self.converter.convert_columns(&columns).map_err(misfit)
    }

    /// The columns of rows.
    ///
    /// # Errors
    /// `flow.misfit` when a column cannot have its type back.
    pub fn decode(&self, rows: &[impl AsRef<[u8]>]) -> Result<Vec<ArrayRef>, Error> {
        let parser = self.converter.parser();
        let rows = rows.iter().map(|row| parser.parse(row.as_ref()));
        let columns = self.converter.convert_rows(rows).map_err(misfit)?;
        let restore =
            |(column, data_type): (ArrayRef, &DataType)| match column.data_type() == data_type {
                true => Ok(column),
                false => cast(&column, data_type).map_err(misfit),
            };
        columns.into_iter().zip(&self.types).map(restore).collect()
    }
}
