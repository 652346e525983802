//! A small durable map: in memory, journalled as frames of a partition of its own.
//!
//! A frame's body is a sequence of changes: operation (1: 1 put, 2 delete), length of the key (4),
//! length of the value (4), key, value. Replaying all frames from the oldest gives the map.
//!
//! Compaction needs no snapshot: what is still alive in the oldest segment is put again at the end,
//! and the segment is removed. A deletion needs no trace once it is in the oldest segment, because
//! nothing older is left that it could delete.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Weak, mpsc};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::append::Append;
use crate::error::{LogError, Result};
use crate::frame::Frame;
use crate::limits::{
    BODY_BYTES_MAX, STORE_CHANGES_MAX, STORE_COMPACT_STEP_BYTES, STORE_GARBAGE_BYTES_MIN,
    STORE_KEY_BYTES_MAX, STORE_VALUE_BYTES_MAX,
};
use crate::partition::Partition;

const READ_BYTES: usize = 4 << 20;
const RECORD_HEAD: usize = 9;

/// One change of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets the value of a key.
    Put(Bytes, Bytes),
    /// Removes a key.
    Delete(Bytes),
}

/// Called on the commit thread when changes are durable and visible, or have failed.
pub type Applied = Box<dyn FnOnce(Result<()>) + Send>;

/// A durable ordered map in memory, journalled through the commit thread. Clones share it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    partition: Partition,
    /// Held while an append is handed over, so that the journal has the order of the calls.
    order: Mutex<()>,
    /// Changes on their way, by key: compaction leaves those keys alone.
    in_flight: Mutex<HashMap<Bytes, u32>>,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    map: BTreeMap<Bytes, Entry>,
    live_bytes: u64,
}

struct Entry {
    value: Bytes,
    /// Offset of the frame that set it.
    offset: u64,
}

/// What a step of compaction has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compaction {
    /// There is too little to gain.
    Idle,
    /// A segment was removed, there may be more.
    Moved,
    /// Live records are on their way to the end.
    Waiting,
}

impl Store {
    pub(crate) fn open(partition: Partition) -> Result<Store> {
        let mut state = State::default();
        let mut offset = partition.start();
        loop {
            match partition.read(offset, READ_BYTES) {
                Ok(frames) if frames.is_empty() => break,
                Ok(frames) => {
                    for frame in &frames {
                        state.replay(frame);
                        offset = frame.end();
                    }
                }
                // It is in the partition's list of damage; the rest of the map is served.
                Err(LogError::Damaged { resume, .. }) if resume > offset => offset = resume,
                Err(e) => return Err(e),
            }
        }
        let inner = Arc::new(Inner {
            partition,
            order: Mutex::default(),
            in_flight: Mutex::default(),
            state: RwLock::new(state),
        });
        let weak: Weak<Inner> = Arc::downgrade(&inner);
        inner.partition.observe(Arc::new(move |frame| {
            if let Some(inner) = weak.upgrade() {
                inner.state.write().replay(frame);
            }
        }));
        Ok(Store { inner })
    }

    /// The committed value of a key.
    pub fn get(&self, key: &[u8]) -> Option<Bytes> {
        let state = self.inner.state.read();
        state.map.get(key).map(|entry| entry.value.clone())
    }

    /// Up to `limit` committed pairs whose keys start with `prefix` and come after `after`, in order.
    pub fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<(Bytes, Bytes)> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let state = self.inner.state.read();
        let range = state.map.range::<[u8], _>((from, Bound::Unbounded));
        let pairs = range.take_while(|(key, _)| key.starts_with(prefix));
        pairs
            .take(limit)
            .map(|(key, entry)| (key.clone(), entry.value.clone()))
            .collect()
    }

    /// Calls `visit` with each committed pair whose key starts with `prefix`, in order. The store's changes wait meanwhile.
    pub fn for_each(&self, prefix: &[u8], mut visit: impl FnMut(&Bytes, &Bytes)) {
        let state = self.inner.state.read();
        let from = Bound::Included(prefix);
        for (key, entry) in state.map.range::<[u8], _>((from, Bound::Unbounded)) {
            if !key.starts_with(prefix) {
                break;
            }
            visit(key, &entry.value);
        }
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.inner.state.read().map.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The partition that keeps it: its damage, its size on the disk.
    pub fn partition(&self) -> &Partition {
        &self.inner.partition
    }

    /// Applies all of `changes` or none; `done` is called on the commit thread when they are
    /// durable and visible, or have failed (on this thread, if they are refused at once). Never
    /// blocks. Until then [`Store::get`] shows the old values.
    pub fn apply(&self, changes: Vec<Change>, done: Option<Applied>) {
        if let Some((done, result)) = self.hand_over(changes, done)
            && let Some(done) = done
        {
            done(result);
        }
    }

    /// As [`Store::apply`], waiting. Not to be called on the commit thread, which would wait for itself.
    ///
    /// # Errors
    /// When the changes break a bound, or could not be made durable.
    pub fn apply_sync(&self, changes: Vec<Change>) -> Result<()> {
        let (send, receive) = mpsc::sync_channel(1);
        self.apply(
            changes,
            Some(Box::new(move |result| {
                let _ = send.send(result);
            })),
        );
        receive.recv().unwrap_or(Err(LogError::Closed))
    }

    /// Hands changes to the commit thread, or says at once what comes of them.
    fn hand_over(
        &self,
        changes: Vec<Change>,
        done: Option<Applied>,
    ) -> Option<(Option<Applied>, Result<()>)> {
        if changes.is_empty() {
            return Some((done, Ok(())));
        }
        let body = match encode(&changes) {
            Ok(body) => body,
            Err(e) => return Some((done, Err(e))),
        };
        let _held = self.inner.order.lock();
        self.send(changes, body, done)
    }

    /// With the order held.
    fn send(
        &self,
        changes: Vec<Change>,
        body: Vec<u8>,
        done: Option<Applied>,
    ) -> Option<(Option<Applied>, Result<()>)> {
        let count = changes.len() as u32;
        let keys: Vec<Bytes> = changes.into_iter().map(Change::into_key).collect();
        {
            let mut in_flight = self.inner.in_flight.lock();
            for key in &keys {
                *in_flight.entry(key.clone()).or_default() += 1;
            }
        }
        // `done` can come back if the append is refused at once.
        let slot = Arc::new(Mutex::new(done));
        let (theirs, inner) = (slot.clone(), self.inner.clone());
        let append = Append {
            body: Bytes::from(body),
            count,
            min_time: 0,
            max_time: 0,
            producers: Vec::new(),
            attributes: 0,
            companion: None,
            done: Some(Box::new(move |result| {
                inner.landed(&keys);
                let done = theirs.lock().take();
                if let Some(done) = done {
                    done(result.map(|_| ()));
                }
            })),
        };
        match self.inner.partition.try_append(append) {
            Ok(()) => None,
            Err((refused, error)) => {
                let done = slot.lock().take();
                if let Some(refused) = refused {
                    refused(Err(error.clone()));
                }
                Some((done, Err(error)))
            }
        }
    }

    /// Moves what lives in the oldest segment to the end, or removes that segment.
    pub(crate) fn compact(&self) -> Result<Compaction> {
        let partition = &self.inner.partition;
        let live = self.inner.state.read().live_bytes;
        if partition.bytes() < live * 2 + STORE_GARBAGE_BYTES_MIN {
            return Ok(Compaction::Idle);
        }
        let Some(oldest) = partition.segments().into_iter().next().filter(|s| s.sealed) else {
            return Ok(Compaction::Idle);
        };
        let moving = self.living(oldest.base, oldest.end)?;
        if moving.is_empty() {
            partition.trim(oldest.end)?;
            return Ok(Compaction::Moved);
        }
        let _held = self.inner.order.lock();
        let mut changes = Vec::new();
        let mut bytes = 0;
        {
            let in_flight = self.inner.in_flight.lock();
            let state = self.inner.state.read();
            for key in moving {
                // A key with a change on its way leaves the segment by itself.
                if bytes < STORE_COMPACT_STEP_BYTES
                    && changes.len() < STORE_CHANGES_MAX
                    && !in_flight.contains_key(&key)
                    && let Some(entry) = state.map.get(&key)
                    && entry.offset < oldest.end
                {
                    bytes += key.len() + entry.value.len();
                    changes.push(Change::Put(key, entry.value.clone()));
                }
            }
        }
        if !changes.is_empty() {
            let body = encode(&changes)?;
            if let Some((_, result)) = self.send(changes, body, None) {
                result?;
            }
        }
        Ok(Compaction::Waiting)
    }

    /// Keys whose values were set between two offsets.
    fn living(&self, base: u64, end: u64) -> Result<Vec<Bytes>> {
        let mut keys = Vec::new();
        let mut offset = base;
        let mut bytes = 0;
        while offset < end {
            let frames = match self.inner.partition.inner.read_disk(offset, READ_BYTES) {
                Ok(frames) if !frames.is_empty() => frames,
                // What cannot be read there is still in memory.
                Ok(_) | Err(LogError::Damaged { .. }) => {
                    let state = self.inner.state.read();
                    let lives = |e: &Entry| (base..end).contains(&e.offset);
                    let all = state.map.iter().filter(|(_, e)| lives(e));
                    return Ok(all.map(|(key, _)| key.clone()).collect());
                }
                Err(e) => return Err(e),
            };
            for frame in &frames {
                offset = frame.end();
                if frame.base >= end {
                    break;
                }
                let state = self.inner.state.read();
                for change in decode(&frame.body).flatten() {
                    if let Change::Put(key, value) = change
                        && state.map.get(&key).is_some_and(|e| e.offset == frame.base)
                    {
                        bytes += key.len() + value.len();
                        // Not a slice of the segment, which would keep all of it in memory.
                        keys.push(Bytes::copy_from_slice(&key));
                    }
                }
                if bytes > STORE_COMPACT_STEP_BYTES {
                    return Ok(keys);
                }
            }
        }
        Ok(keys)
    }
}

impl Inner {
    fn landed(&self, keys: &[Bytes]) {
        let mut in_flight = self.in_flight.lock();
        for key in keys {
            if let Some(count) = in_flight.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    in_flight.remove(key);
                }
            }
        }
    }
}

impl State {
    fn replay(&mut self, frame: &Frame) {
        for change in decode(&frame.body) {
            match change {
                Ok(Change::Put(key, value)) => {
                    // Copies, so that one live value does not keep its whole frame in memory.
                    let key = Bytes::copy_from_slice(&key);
                    let value = Bytes::copy_from_slice(&value);
                    self.live_bytes += weight(&key, &value);
                    let entry = Entry {
                        value,
                        offset: frame.base,
                    };
                    if let Some(old) = self.map.insert(key.clone(), entry) {
                        self.live_bytes -= weight(&key, &old.value);
                    }
                }
                Ok(Change::Delete(key)) => {
                    if let Some(old) = self.map.remove(&key) {
                        self.live_bytes -= weight(&key, &old.value);
                    }
                }
                Err(why) => {
                    tracing::error!(offset = frame.base, why, "a store's frame is not one");
                    return;
                }
            }
        }
    }
}

impl Change {
    fn into_key(self) -> Bytes {
        match self {
            Change::Put(key, _) | Change::Delete(key) => key,
        }
    }
}

fn weight(key: &[u8], value: &[u8]) -> u64 {
    (RECORD_HEAD + key.len() + value.len()) as u64
}

fn encode(changes: &[Change]) -> Result<Vec<u8>> {
    let refused = |why| Err(LogError::Refused { why });
    if changes.len() > STORE_CHANGES_MAX {
        return refused("there are too many changes at once");
    }
    let mut out = Vec::new();
    for change in changes {
        let (operation, key, value): (u8, &[u8], &[u8]) = match change {
            Change::Put(key, value) => (1, key, value),
            Change::Delete(key) => (2, key, &[]),
        };
        if key.len() > STORE_KEY_BYTES_MAX {
            return refused("a key is too long");
        }
        if value.len() > STORE_VALUE_BYTES_MAX {
            return refused("a value is too long");
        }
        if out.len() + RECORD_HEAD + key.len() + value.len() > BODY_BYTES_MAX {
            return refused("the changes together are too long");
        }
        out.push(operation);
        out.extend_from_slice(&(key.len() as u32).to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    }
    Ok(out)
}

/// The changes of a frame's body; ends after the first that is not one.
pub(crate) fn decode(body: &Bytes) -> impl Iterator<Item = Result<Change, &'static str>> {
    let mut rest = body.clone();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let change = decode_one(&mut rest);
        if change.is_err() {
            rest = Bytes::new();
        }
        Some(change)
    })
}

fn decode_one(rest: &mut Bytes) -> Result<Change, &'static str> {
    if rest.len() < RECORD_HEAD {
        return Err("a change is cut short");
    }
    let head = rest.split_to(RECORD_HEAD);
    let key_len = crate::frame::u32_at(&head, 1) as usize;
    let value_len = crate::frame::u32_at(&head, 5) as usize;
    if key_len
        .checked_add(value_len)
        .is_none_or(|len| len > rest.len())
    {
        return Err("a change is cut short");
    }
    let key = rest.split_to(key_len);
    let value = rest.split_to(value_len);
    match head[0] {
        1 => Ok(Change::Put(key, value)),
        2 if value_len == 0 => Ok(Change::Delete(key)),
        _ => Err("a change is of an unknown kind"),
    }
}

#[cfg(test)]
mod tests;
