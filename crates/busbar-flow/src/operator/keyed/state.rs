//! State by key.

use std::collections::BTreeSet;
use std::sync::Arc;

use busbar_event::{Class, Error};
use bytes::Bytes;
use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;

use super::keys::Keys;
use crate::operator::{Changes, StateReader};

/// What an operator remembers of one key.
pub(crate) trait Stored: Sized {
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

    /// How many rows it holds that come out later, themselves or in a result with each of them.
    fn rows_held(&self) -> u64 {
        0
    }
}

/// What an operator remembers, by key. What has changed since the last snapshot is written by the next; what has not can
/// be dropped from memory and is read again when its key comes.
pub(crate) struct KeyedState<S> {
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
    /// Rows that are held, those that were dropped from memory included.
    rows_held: u64,
    /// What the last snapshot says of that.
    rows_held_said: u64,
}

struct Entry<S> {
    /// None: removed, and the next snapshot says so.
    value: Option<S>,
    changed: bool,
    timer: i64,
    bytes: usize,
    rows_held: u64,
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
            rows_held: 0,
            rows_held_said: 0,
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

    /// Lets `look` see what is remembered of a key, and change it.
    ///
    /// # Errors
    /// What the disk says, where the key was dropped from memory; then `look` was not called.
    pub fn visit<T>(
        &mut self,
        key: &[u8],
        look: impl FnOnce(&mut KeySlot<'_, S>) -> T,
    ) -> Result<T, Error> {
        self.load(key)?;
        let mut known = match self.entries.entry_ref(key) {
            EntryRef::Occupied(known) => known,
            EntryRef::Vacant(new) => {
                let mut value = None;
                let answer = look(&mut KeySlot::new(&mut value));
                let Some(value) = value else {
                    return Ok(answer);
                };
                let key: Arc<[u8]> = Arc::from(key);
                let bytes = size_of::<Entry<S>>() + key.len() + value.heap_bytes();
                let timer = value.due().unwrap_or(i64::MAX);
                if timer < i64::MAX {
                    self.timers.insert((timer, Arc::clone(&key)));
                }
                let rows_held = value.rows_held();
                self.bytes += bytes;
                self.rows_held += rows_held;
                self.changed.push(Arc::clone(&key));
                let entry = Entry {
                    value: Some(value),
                    changed: true,
                    timer,
                    bytes,
                    rows_held,
                };
                new.insert_entry_with_key(key, entry);
                return Ok(answer);
            }
        };
        let key_bytes = known.key().len();
        let entry = known.get_mut();
        let mut slot = KeySlot::new(&mut entry.value);
        let answer = look(&mut slot);
        if !slot.changed {
            return Ok(answer);
        }
        let value = entry.value.as_ref();
        let bytes = size_of::<Entry<S>>() + key_bytes + value.map_or(0, Stored::heap_bytes);
        self.bytes = self.bytes + bytes - entry.bytes;
        entry.bytes = bytes;
        let rows_held = value.map_or(0, Stored::rows_held);
        self.rows_held = self.rows_held + rows_held - entry.rows_held;
        entry.rows_held = rows_held;
        let due = value.and_then(Stored::due).unwrap_or(i64::MAX);
        let is_first = !std::mem::replace(&mut entry.changed, true);
        let is_sooner = due < entry.timer;
        entry.timer = entry.timer.min(due);
        if is_first {
            self.changed.push(Arc::clone(known.key()));
        }
        if is_sooner {
            self.timers.insert((due, Arc::clone(known.key())));
        }
        Ok(answer)
    }

    /// Brings what is remembered of the keys of so many rows into memory.
    ///
    /// # Errors
    /// What the disk says.
    pub fn load_all(&mut self, keys: &Keys, rows: usize) -> Result<(), Error> {
        match self.spilled {
            true => (0..rows).try_for_each(|row| self.load(keys.at(row))),
            false => Ok(()),
        }
    }

    /// Forgets a key.
    pub fn remove(&mut self, key: &[u8]) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.value = None;
            self.rows_held -= std::mem::take(&mut entry.rows_held);
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
                Some(value) => changes.write(&[PREFIX, &key], |out| value.write(out)),
                None => {
                    self.bytes -= entry.bytes;
                    self.entries.remove(&*key);
                    changes.delete(&[PREFIX, &key]);
                }
            }
        }
        if self.rows_held != self.rows_held_said {
            changes.put(ROWS_HELD, &self.rows_held.to_be_bytes());
            self.rows_held_said = self.rows_held;
        }
    }

    /// How many rows it holds that come out later.
    pub fn rows_held(&self) -> u64 {
        self.rows_held
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
        self.rows_held = self.entries.values().map(|entry| entry.rows_held).sum();
        let said = state.get(ROWS_HELD)?;
        self.rows_held_said = said.map_or(0, |said| rows_held(&said));
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
        let mut freed = 0;
        let unchanged = self.entries.extract_if(|_, entry| !entry.changed);
        for (_, entry) in unchanged {
            freed += entry.bytes;
            if freed >= bytes {
                break;
            }
        }
        self.bytes -= freed;
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
        let rows_held = value.rows_held();
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
            rows_held,
        };
        self.entries.insert(key, entry);
        Ok(())
    }
}

/// What is remembered of a key, to be looked at and changed.
pub(crate) struct KeySlot<'a, S> {
    value: &'a mut Option<S>,
    changed: bool,
}

impl<'a, S> KeySlot<'a, S> {
    fn new(value: &'a mut Option<S>) -> KeySlot<'a, S> {
        let changed = false;
        KeySlot { value, changed }
    }

    /// What is remembered.
    pub fn get(&self) -> Option<&S> {
        self.value.as_ref()
    }

    /// Remembers a value in place of the one before.
    pub fn set(&mut self, value: S) {
        *self.change() = Some(value);
    }

    /// What is remembered, to be changed; none: the key is forgotten.
    pub fn change(&mut self) -> &mut Option<S> {
        self.changed = true;
        self.value
    }
}

const PREFIX: &[u8] = b"k";

/// Under this key the state of an operator says how many rows it holds, for those who cannot read the rest.
pub(crate) const ROWS_HELD: &[u8] = b"held";

/// The number that stands there.
pub(crate) fn rows_held(value: &[u8]) -> u64 {
    value.try_into().map_or(0, u64::from_be_bytes)
}

fn stored_key(key: &[u8]) -> Vec<u8> {
    [PREFIX, key].concat()
}

/// Reads numbers and byte strings that a [`Stored`] wrote.
pub(crate) struct StateBytes<'a>(pub &'a [u8]);

impl<'a> StateBytes<'a> {
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
pub(crate) fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}
