//! The last retained value of each topic.
//!
//! Values are in memory, changed by the commit thread before the event that changes them is
//! acknowledged, so that whoever subscribes after an acknowledgement finds them. They are made
//! durable without a sync of their own on that way: a journal writes changed topics, together with
//! how far each partition has been applied, to a store a little later, and after a start what the
//! partitions hold behind those positions is read again.

mod journal;
mod seek;
mod value;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use busbar_event::{Batch, Flags, Result, topic::Filter};
use busbar_log::{Clock, Frame, LogError, Store};
use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use parking_lot::{Condvar, Mutex, RwLock};

use crate::{
    error::from_log,
    limits::{
        CURSOR_READ_BYTES, RETAINED_EXPIRE_MAX, RETAINED_PAGE_MAX, RETAINED_RESCAN_BYTES,
        RETAINED_STEPS_MAX,
    },
    options::BusOptions,
    stream::{ATTRIBUTE_RETAIN, StreamPartition, batch_of},
};

pub use value::RetainedValue;

/// The last retained value of each topic. An empty payload deletes; what has expired is not
/// answered and is removed after a while.
pub struct Retained {
    inner: Arc<Inner>,
    journal: Option<std::thread::JoinHandle<()>>,
}

/// Some retained values, in order of their topics.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The values.
    pub values: Vec<RetainedValue>,
    /// Where to go on; `None` when there are no more. A page may be short, even empty, and still
    /// have more behind it.
    pub next: Option<Arc<str>>,
}

struct Inner {
    map: RwLock<Map>,
    store: Store,
    clock: Arc<dyn Clock>,
    topics_max: usize,
    bytes_max: usize,
    count: AtomicUsize,
    full: AtomicBool,
    /// Bytes of log applied since positions were last journalled.
    since: AtomicU64,
    pending: Mutex<Pending>,
    /// Wakes the journal.
    work: Condvar,
}

#[derive(Default)]
struct Map {
    /// Encoded values by topic.
    values: BTreeMap<Arc<str>, Bytes>,
    bytes: usize,
    /// Those that expire, soonest first.
    expiring: BTreeSet<(i64, Arc<str>)>,
    /// Topics changed since the journal last looked.
    dirty: HashSet<Arc<str>>,
    /// How far each partition has been applied.
    applied: Vec<Applied>,
}

/// How far a partition has been applied; its values were put in the map before it moves on.
#[derive(Clone)]
struct Applied {
    partition: Arc<str>,
    end: Arc<AtomicU64>,
}

#[derive(Default)]
struct Pending {
    work: bool,
    stop: bool,
}

impl Retained {
    pub(crate) fn open(store: Store, options: &BusOptions) -> Result<Retained> {
        let inner = Arc::new(Inner {
            map: RwLock::new(journal::load(&store)),
            store,
            clock: Arc::clone(&options.clock),
            topics_max: options.retained_topics_max,
            bytes_max: options.retained_bytes_max,
            count: AtomicUsize::new(0),
            full: AtomicBool::new(false),
            since: AtomicU64::new(0),
            pending: Mutex::default(),
            work: Condvar::new(),
        });
        inner.tally(&inner.map.read());
        Ok(Retained {
            inner,
            journal: None,
        })
    }

    /// How many topics have a value.
    pub fn count(&self) -> usize {
        self.inner.count.load(Ordering::Relaxed)
    }

    /// Bytes of all values.
    pub fn bytes(&self) -> usize {
        self.inner.map.read().bytes
    }

    /// The value of a topic.
    pub fn get(&self, topic: &str) -> Option<RetainedValue> {
        let map = self.inner.map.read();
        let (topic, encoded) = map.values.get_key_value(topic)?;
        let value = value::decode(topic, encoded)?;
        (!value.is_expired(self.inner.clock.now_micros())).then_some(value)
    }

    /// Values of topics that `filter` selects, in order of topics, behind topic `after`: at most
    /// `limit` (and at most [`RETAINED_PAGE_MAX`]).
    pub fn matching(&self, filter: &Filter, after: Option<&str>, limit: usize) -> Page {
        let limit = limit.clamp(1, RETAINED_PAGE_MAX);
        let now = self.inner.clock.now_micros();
        let map = self.inner.map.read();
        let levels: Vec<&str> = filter.as_str().split('/').collect();
        let mut page = Page::default();
        let from = match after {
            Some(topic) => Bound::Excluded(topic),
            None => Bound::Unbounded,
        };
        let mut rows = map.values.range::<str, _>((from, Bound::Unbounded));
        for _ in 0..RETAINED_STEPS_MAX {
            let Some((topic, encoded)) = rows.next() else {
                return page;
            };
            if filter.matches(topic) {
                match value::decode(topic, encoded) {
                    Some(value) if !value.is_expired(now) => page.values.push(value),
                    _ => {}
                }
                if page.values.len() == limit {
                    page.next = Some(Arc::clone(topic));
                    return page;
                }
                continue;
            }
            match seek::after(&levels, topic) {
                seek::Next::Step => {}
                seek::Next::To(key) => {
                    rows = map
                        .values
                        .range::<str, _>((Bound::Included(&*key), Bound::Unbounded));
                }
                seek::Next::End => return page,
            }
        }
        // The next page begins with the topic that would be looked at now.
        page.next = rows.next().and_then(|(topic, _)| {
            map.values
                .range::<str, _>((Bound::Unbounded, Bound::Excluded(&**topic)))
                .next_back()
                .map(|(before, _)| Arc::clone(before))
        });
        page
    }

    /// Whether a value of so many bytes may be retained for a topic.
    #[inline]
    pub(crate) fn has_room(&self, topic: &str, bytes: usize) -> bool {
        bytes <= value::PAYLOAD_BYTES_MAX
            && (!self.inner.full.load(Ordering::Relaxed)
                || self.inner.map.read().values.contains_key(topic))
    }

    /// Applies what is committed to a partition from now on.
    pub(crate) fn observe(&self, partition: &StreamPartition) {
        let inner = Arc::clone(&self.inner);
        let end = Arc::new(AtomicU64::new(partition.end()));
        let name: Arc<str> = partition.log().name().into();
        inner.map.write().applied.push(Applied {
            partition: name,
            end: Arc::clone(&end),
        });
        partition.log().observe(Arc::new(move |frame: &Frame| {
            if frame.attributes & ATTRIBUTE_RETAIN != 0 {
                // A frame that does not decode is reported to its readers.
                if let Ok(batch) = batch_of(frame) {
                    inner.apply(&batch);
                }
            }
            end.store(frame.end(), Ordering::Release);
            let since = inner
                .since
                .fetch_add(frame.body.len() as u64, Ordering::Relaxed);
            if since >= RETAINED_RESCAN_BYTES {
                inner.wake();
            }
        }));
    }

    /// Applies what the partitions hold behind the journalled positions, then starts the journal.
    /// In a partition the last event of a topic counts, whatever its time says. Where a topic's
    /// events lie in several partitions (its stream may have changed), the latest by time wins.
    pub(crate) fn recover(&mut self, partitions: &[Arc<StreamPartition>]) -> Result<()> {
        let mut latest: HashMap<String, (i64, Option<Bytes>)> = HashMap::new();
        for partition in partitions {
            let from = journal::position(&self.inner.store, partition.log().name());
            for (topic, (time, value)) in scan(partition, from.unwrap_or(0))? {
                if latest.get(&topic).is_none_or(|(known, _)| *known <= time) {
                    latest.insert(topic, (time, value));
                }
            }
        }
        {
            let mut map = self.inner.map.write();
            for (topic, (_, value)) in latest {
                map.set(topic.into(), value);
            }
            self.inner.tally(&map);
        }
        if !self.inner.map.read().dirty.is_empty() {
            self.inner.wake();
        }
        let inner = Arc::clone(&self.inner);
        let journal = std::thread::Builder::new()
            .name("busbar-retained".into())
            .spawn(move || journal::run(&inner))
            .map_err(|cause| {
                busbar_event::Error::new(busbar_event::Class::Transient, "bus.thread")
                    .caused_by(cause)
            })?;
        self.journal = Some(journal);
        Ok(())
    }

    /// Writes the journal now. Not to be called on the commit thread.
    pub fn flush(&self) -> Result<()> {
        journal::write(&self.inner).map_err(from_log)
    }
}

/// The journal is written for the last time, so that the next start has nothing to read again.
impl Drop for Retained {
    fn drop(&mut self) {
        self.inner.pending.lock().stop = true;
        self.inner.work.notify_all();
        if let Some(journal) = self.journal.take() {
            let _ = journal.join();
        }
    }
}

impl Inner {
    /// Applies the retained rows of a batch.
    fn apply(&self, batch: &Batch) {
        let mut map = self.map.write();
        for (row, flags) in batch.flags().iter().enumerate() {
            if !Flags(*flags).retain() {
                continue;
            }
            let event = batch.event(row);
            let value = (!event.payload.is_empty()).then(|| value::encode(&event));
            let topic = match map.values.get_key_value(event.topic) {
                Some((known, _)) => Arc::clone(known),
                None => event.topic.into(),
            };
            map.set(topic, value);
        }
        self.tally(&map);
        drop(map);
        self.wake();
    }

    fn tally(&self, map: &Map) {
        self.count.store(map.values.len(), Ordering::Relaxed);
        let full = map.values.len() >= self.topics_max || map.bytes >= self.bytes_max;
        self.full.store(full, Ordering::Relaxed);
    }

    fn wake(&self) {
        let mut pending = self.pending.lock();
        if !pending.work {
            pending.work = true;
            self.work.notify_one();
        }
    }

    /// Removes some of what has expired.
    fn expire(&self) {
        let now = self.clock.now_micros();
        if self
            .map
            .read()
            .expiring
            .first()
            .is_none_or(|(at, _)| *at > now)
        {
            return;
        }
        let mut map = self.map.write();
        for _ in 0..RETAINED_EXPIRE_MAX {
            match map.expiring.first() {
                Some((at, topic)) if *at <= now => {
                    let topic = Arc::clone(topic);
                    map.set(topic, None);
                }
                _ => break,
            }
        }
        self.tally(&map);
    }
}

impl Map {
    /// Sets or removes the value of a topic.
    fn set(&mut self, topic: Arc<str>, value: Option<Bytes>) {
        let cost = |topic: &str, value: &Bytes| topic.len() + value.len() + value::OVERHEAD_BYTES;
        let before = match value {
            Some(value) => {
                self.bytes += cost(&topic, &value);
                if let Some(at) = value::expires_at(&value) {
                    self.expiring.insert((at, Arc::clone(&topic)));
                }
                self.values.insert(Arc::clone(&topic), value)
            }
            None => self.values.remove(&topic),
        };
        if let Some(before) = before {
            self.bytes -= cost(&topic, &before);
            if let Some(at) = value::expires_at(&before)
                && self.values.get(&topic).and_then(value::expires_at) != Some(at)
            {
                self.expiring.remove(&(at, Arc::clone(&topic)));
            }
        }
        self.dirty.insert(topic);
    }
}

/// What was last retained of each topic in a partition from an offset on, with its time.
fn scan(partition: &StreamPartition, from: u64) -> Result<HashMap<String, (i64, Option<Bytes>)>> {
    let mut latest = HashMap::new();
    let mut at = from.max(partition.start());
    while at < partition.end() {
        let frames = match partition.log().read(at, CURSOR_READ_BYTES) {
            Ok(frames) => frames,
            Err(LogError::Trimmed { start: resume } | LogError::Damaged { resume, .. })
                if resume > at =>
            {
                at = resume;
                continue;
            }
            Err(error) => return Err(from_log(error)),
        };
        for frame in &frames {
            at = frame.end();
            if frame.attributes & ATTRIBUTE_RETAIN == 0 {
                continue;
            }
            let Ok(batch) = batch_of(frame) else { continue };
            for (row, flags) in batch.flags().iter().enumerate() {
                if !Flags(*flags).retain() {
                    continue;
                }
                let event = batch.event(row);
                let value = (!event.payload.is_empty()).then(|| value::encode(&event));
                latest.insert(event.topic.to_owned(), (event.time, value));
            }
        }
        if frames.is_empty() {
            break;
        }
    }
    Ok(latest)
}
