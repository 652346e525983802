//! Makes retained values durable, a little behind the commits that changed them.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use busbar_log::{Change, LogError, Store};
use bytes::{BufMut, Bytes, BytesMut};

use super::{Inner, Map, value};
use crate::limits::{RETAINED_JOURNAL_CHANGES_MAX, RETAINED_JOURNAL_EVERY_MILLIS};

/// Keys of values begin with this, then the topic.
const TOPIC: u8 = b't';
/// Keys of positions begin with this, then the partition's name.
const POSITION: u8 = b'p';
/// Pairs read from the store at once.
const LOAD_PAIRS: usize = 10_000;
/// How often expired values are looked for while there are some that expire.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);

/// The values that the store holds.
pub(super) fn load(store: &Store) -> Map {
    let mut map = Map::default();
    let mut after: Option<Bytes> = None;
    loop {
        let pairs = store.scan(&[TOPIC], after.as_deref(), LOAD_PAIRS);
        let Some((last, _)) = pairs.last() else { break };
        after = Some(last.clone());
        for (key, encoded) in pairs {
            let Ok(topic) = std::str::from_utf8(&key[1..]) else {
                continue;
            };
            let topic: Arc<str> = topic.into();
            if value::decode(&topic, &encoded).is_some() {
                map.set(topic, Some(encoded));
            }
        }
    }
    map.dirty.clear();
    map
}

/// Up to where a partition had been applied when the journal was last written.
pub(super) fn position(store: &Store, partition: &str) -> Option<u64> {
    let value = store.get(&key(POSITION, partition))?;
    Some(u64::from_le_bytes(value.as_ref().try_into().ok()?))
}

/// The journal's thread.
pub(super) fn run(inner: &Inner) {
    let mut failing = false;
    loop {
        let stop = wait(inner);
        inner.expire();
        match write(inner) {
            Ok(()) => failing = false,
            Err(error) => {
                if !failing && !stop {
                    tracing::warn!(%error, "retained values are not journalled; they are read again from the streams after a start");
                }
                failing = true;
            }
        }
        if stop {
            return;
        }
        // What changes in the meantime is gathered.
        let mut pending = inner.pending.lock();
        if !pending.stop {
            let pause = Duration::from_millis(RETAINED_JOURNAL_EVERY_MILLIS);
            let pause = if failing { EXPIRE_EVERY } else { pause };
            let until = std::time::Instant::now() + pause;
            while !pending.stop && !inner.work.wait_until(&mut pending, until).timed_out() {}
        }
    }
}

/// Waits for something to do; true when it is the last time.
fn wait(inner: &Inner) -> bool {
    let mut pending = inner.pending.lock();
    while !pending.work && !pending.stop {
        if inner.map.read().expiring.is_empty() {
            inner.work.wait(&mut pending);
        } else if inner.work.wait_for(&mut pending, EXPIRE_EVERY).timed_out() {
            break;
        }
    }
    pending.work = false;
    pending.stop
}

/// Writes changed values, then the positions they stand for: a crash in between makes the next
/// start read a little more, never less.
pub(super) fn write(inner: &Inner) -> Result<(), LogError> {
    let (dirty, positions) = {
        let mut map = inner.map.write();
        let positions: Vec<_> = map
            .applied
            .iter()
            .map(|applied| {
                (
                    Arc::clone(&applied.partition),
                    applied.end.load(Ordering::Acquire),
                )
            })
            .collect();
        (std::mem::take(&mut map.dirty), positions)
    };
    inner.since.store(0, Ordering::Relaxed);
    let topics: Vec<Arc<str>> = dirty.into_iter().collect();
    for (at, part) in topics.chunks(RETAINED_JOURNAL_CHANGES_MAX).enumerate() {
        let changes = {
            let map = inner.map.read();
            part.iter()
                .map(|topic| {
                    let key = key(TOPIC, topic);
                    match map.values.get(topic) {
                        Some(value) => Change::Put(key, value.clone()),
                        None => Change::Delete(key),
                    }
                })
                .collect()
        };
        if let Err(error) = inner.store.apply_sync(changes) {
            let rest = topics[at * RETAINED_JOURNAL_CHANGES_MAX..].iter().cloned();
            inner.map.write().dirty.extend(rest);
            inner.pending.lock().work = true;
            return Err(error);
        }
    }
    let changes: Vec<Change> = positions
        .into_iter()
        .filter(|(partition, end)| position(&inner.store, partition) != Some(*end))
        .map(|(partition, end)| {
            let end = Bytes::copy_from_slice(&end.to_le_bytes());
            Change::Put(key(POSITION, &partition), end)
        })
        .collect();
    match changes.is_empty() {
        true => Ok(()),
        false => inner.store.apply_sync(changes),
    }
}

fn key(kind: u8, name: &str) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + name.len());
    key.put_u8(kind);
    key.put_slice(name.as_bytes());
    key.freeze()
}
