//! A partition: an ordered, durable sequence of frames, as those above see it.

use std::io;
use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::append::{Append, Done, check, cost};
use crate::disk::File;
use crate::error::{Damage, LogError, Result};
use crate::frame::Frame;
use crate::index::UNKNOWN_MICROS;
use crate::limits::DAMAGES_MAX;
use crate::options::PartitionOptions;
use crate::queue::Queue;
use crate::segment::{Segment, index_path};
use crate::state::PartitionState;
use crate::writer::Writer;

/// One file of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Offset of the first row.
    pub base: u64,
    /// First offset after the last row.
    pub end: u64,
    /// Length of the file's used part.
    pub bytes: u64,
    /// Whether nothing will be appended to it any more.
    pub sealed: bool,
}

/// What frames were merged to by a rewrite.
pub struct Merged {
    /// The rows of all the frames given, in order.
    pub body: Bytes,
    /// The merged frame's attributes.
    pub attributes: u16,
}

/// What a rewrite has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Frames before and after.
    pub frames: (u64, u64),
    /// Bytes of the file before and after.
    pub bytes: (u64, u64),
}

/// An ordered, durable sequence of frames.
#[derive(Clone)]
pub struct Partition {
    pub(crate) inner: Arc<Inner>,
}

/// A partition with its place in front of the commit thread. Locks are taken in the order of the fields,
/// those of the state last.
pub(crate) struct Inner {
    pub queue: Arc<Queue<Item>>,
    /// Held while whole segments are removed or replaced.
    pub maintenance: Mutex<()>,
    /// The commit thread's; uncontended but when the partition is removed.
    pub writer: Mutex<Writer>,
    pub state: PartitionState,
}

impl Deref for Inner {
    type Target = PartitionState;

    fn deref(&self) -> &PartitionState {
        &self.state
    }
}

/// Work for the commit thread.
pub(crate) enum Item {
    Append {
        partition: Arc<Inner>,
        append: Box<Append>,
        body_crc: u32,
    },
    /// Seal the segment that is written to.
    Roll(Arc<Inner>),
    /// A background sync has ended.
    Synced {
        partition: Arc<Inner>,
        file: Arc<dyn File>,
        position: u64,
        /// First offset behind `position`.
        end: u64,
        result: io::Result<()>,
    },
    /// Determine whether appends are refused, and try those partitions that refused the last one.
    Look,
    /// Close everything and end.
    Shutdown(Vec<Arc<Inner>>),
}

/// Ends a registration when dropped.
#[must_use = "the waker is called only as long as its guard lives"]
pub struct WakerGuard {
    inner: Weak<Inner>,
    id: u64,
}

impl Drop for WakerGuard {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade() {
            let mut wakers = inner.wakers.write();
            let others = wakers.iter().filter(|(id, _)| *id != self.id);
            *wakers = Arc::new(others.cloned().collect());
        }
    }
}

impl Partition {
    /// Hands rows to the commit thread; never blocks. What becomes of them is told to
    /// [`Append::done`]: on the commit thread, or on this one if they are refused at once.
    pub fn append(&self, append: Append) {
        if let Err((done, error)) = self.try_append(append)
            && let Some(done) = done
        {
            done(Err(error));
        }
    }

    /// As [`Partition::append`], but what is refused at once comes back.
    pub(crate) fn try_append(&self, append: Append) -> Result<(), (Option<Done>, LogError)> {
        if let Some(error) = check(&append) {
            return Err((append.done, error));
        }
        // On the appender's core, while the body is still in its cache.
        let body_crc = crc32c::crc32c(&append.body);
        let bytes = cost(&append);
        let item = Item::Append {
            partition: self.inner.clone(),
            append: Box::new(append),
            body_crc,
        };
        self.inner
            .queue
            .push_append(item, bytes)
            .map_err(|(item, error)| match item {
                Item::Append { append, .. } => (append.done, error),
                _ => (None, error),
            })
    }

    /// The partition's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// First offset that is kept.
    pub fn start(&self) -> u64 {
        self.inner.start.load(Ordering::Acquire)
    }

    /// First offset that is not committed yet.
    pub fn end(&self) -> u64 {
        self.inner.end.load(Ordering::Acquire)
    }

    /// Bytes of its segments.
    pub fn bytes(&self) -> u64 {
        self.inner.segments.read().iter().map(|s| s.len()).sum()
    }

    /// Committed frames from the one that holds `offset` on, from memory or disk: at least one
    /// unless `offset` is the end, and beyond that no more than fit in `bytes_max`. The first may
    /// begin before `offset`.
    ///
    /// # Errors
    /// [`LogError::Trimmed`] and [`LogError::Damaged`] say where reading can go on.
    pub fn read(&self, offset: u64, bytes_max: usize) -> Result<Vec<Frame>> {
        if let Some(frames) = self.read_cached(offset, bytes_max) {
            return Ok(frames);
        }
        self.inner.read_disk(offset, bytes_max)
    }

    /// As [`Partition::read`], if memory has them all from `offset` on; `None` otherwise.
    pub fn read_cached(&self, offset: u64, bytes_max: usize) -> Option<Vec<Frame>> {
        let tail = self.inner.tail.lock();
        if offset == self.inner.end.load(Ordering::Acquire) {
            return Some(Vec::new());
        }
        if offset < self.inner.start.load(Ordering::Acquire) {
            return None;
        }
        tail.read(offset, bytes_max)
    }

    /// An offset before which every row is older than `micros`: the end, if all are.
    ///
    /// # Errors
    /// When an index or a segment cannot be read.
    pub fn offset_at_time(&self, micros: i64) -> Result<u64> {
        let end = self.end();
        let segments = self.inner.segments.read().clone();
        for segment in segments {
            if let Some(offset) = segment.offset_at_time(&self.inner.files, micros)? {
                return Ok(offset.clamp(self.start().min(end), end));
            }
        }
        Ok(end)
    }

    /// The committed position of a producer.
    pub fn producer_position(&self, id: &str) -> Option<u64> {
        self.inner.producers.lock().get(id)
    }

    /// Calls `observer` with each frame on the commit thread, after the sync and before readers
    /// see it and the append is acknowledged. It must be quick: everybody's commits wait for it.
    pub fn observe(&self, observer: Arc<dyn Fn(&Frame) + Send + Sync>) {
        let mut observers = self.inner.observers.write();
        let mut all = observers.to_vec();
        all.push(observer);
        *observers = Arc::new(all);
    }

    /// Calls `waker` on the commit thread when the end has moved, until the guard is dropped.
    pub fn on_commit(&self, waker: Arc<dyn Fn() + Send + Sync>) -> WakerGuard {
        let id = self.inner.next_waker.fetch_add(1, Ordering::Relaxed);
        let mut wakers = self.inner.wakers.write();
        let mut all = wakers.to_vec();
        all.push((id, waker));
        *wakers = Arc::new(all);
        WakerGuard {
            inner: Arc::downgrade(&self.inner),
            id,
        }
    }

    /// Damaged places found so far.
    pub fn damage(&self) -> Vec<Damage> {
        self.inner.damage.lock().clone()
    }

    /// Changes how the partition is kept from now on.
    pub fn set_options(&self, options: PartitionOptions) {
        self.inner.tail.lock().shrink(options.cache_bytes);
        *self.inner.options.lock() = options;
    }

    /// How the partition is kept.
    pub fn options(&self) -> PartitionOptions {
        self.inner.options.lock().clone()
    }

    /// The files, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let segments = self.inner.segments.read();
        let info = |s: &Arc<Segment>| SegmentInfo {
            base: s.base,
            end: s.end(),
            bytes: s.len(),
            sealed: s.is_sealed(),
        };
        segments.iter().map(info).collect()
    }

    /// Removes whole segments that hold nothing at or after `offset`.
    ///
    /// # Errors
    /// When a file cannot be removed; what it held is not served any more in any case.
    pub fn trim(&self, offset: u64) -> Result<()> {
        self.inner.remove_oldest(|_, end| end <= offset)
    }

    /// Seals the segment that is written to, and goes on in a new one.
    pub fn roll(&self) {
        self.inner.queue.push(Item::Roll(self.inner.clone()));
    }
}

impl Inner {
    pub fn read_disk(&self, offset: u64, bytes_max: usize) -> Result<Vec<Frame>> {
        let end = self.end.load(Ordering::Acquire);
        if offset > end {
            return Err(LogError::Beyond { offset, end });
        }
        let mut out = Vec::new();
        while out.is_empty() && offset < end {
            let start = self.start.load(Ordering::Acquire);
            if offset < start {
                return Err(LogError::Trimmed { start });
            }
            let segment = {
                let segments = self.segments.read();
                let after = segments.partition_point(|s| s.base <= offset);
                let at = after.checked_sub(1).and_then(|i| segments.get(i).cloned());
                match at {
                    Some(segment) if offset < segment.end() => segment,
                    // Between two segments, or before the first: what was there is gone.
                    at => {
                        let resume = segments.get(after).map_or(end, |next| next.base);
                        let file = at.map_or_else(|| self.dir.clone(), |s| s.path.clone());
                        drop(segments);
                        return Err(self.note(Damage {
                            file,
                            position: 0,
                            bytes: 0,
                            from: offset,
                            resume,
                            why: "a file of this partition is missing or set aside",
                        }));
                    }
                }
            };
            match segment.read(&self.files, offset, bytes_max, &mut out) {
                Ok(found) => {
                    if let Some(damage) = found.damage
                        && (out.is_empty() || damage.from < end)
                    {
                        if !self.is_current(&segment) {
                            // Written anew while it was read: what looked bad is another file.
                            out.clear();
                            continue;
                        }
                        let error = self.note(damage);
                        if out.is_empty() {
                            return Err(error);
                        }
                    }
                }
                // Retention may have removed the file since we looked.
                Err(_) if offset < self.start.load(Ordering::Acquire) => {}
                Err(e) => return Err(e),
            }
            out.retain(|frame| frame.base < end);
        }
        Ok(out)
    }

    /// Whether a segment is still the one that stands at its place.
    fn is_current(&self, segment: &Arc<Segment>) -> bool {
        // A rewrite that has replaced the file but not yet the segment is waited for.
        let _held = self.maintenance.lock();
        self.segments.read().iter().any(|s| Arc::ptr_eq(s, segment))
    }

    /// Remembers damage, and makes the error that tells the reader.
    fn note(&self, damage: Damage) -> LogError {
        let error = LogError::Damaged {
            file: damage.file.clone(),
            position: damage.position,
            from: damage.from,
            resume: damage.resume,
            why: damage.why,
        };
        let mut all = self.damage.lock();
        let known = |d: &Damage| d.file == damage.file && d.position == damage.position;
        if !all.iter().any(known) && all.len() < DAMAGES_MAX {
            tracing::error!(partition = self.name, error = %error, "damage in stored events; the rest is served");
            all.push(damage);
        }
        error
    }

    /// Removes segments from the oldest on while `gone(bytes of all, end of this)` says so; never
    /// the one that is written to.
    pub fn remove_oldest(&self, gone: impl Fn(u64, u64) -> bool) -> Result<()> {
        let _held = self.maintenance.lock();
        loop {
            let (oldest, next) = {
                let segments = self.segments.read();
                let total = segments.iter().map(|s| s.len()).sum();
                match (segments.first(), segments.get(1).map(|s| s.base)) {
                    (Some(first), Some(next)) if first.is_sealed() && gone(total, next) => {
                        (first.clone(), next)
                    }
                    _ => return Ok(()),
                }
            };
            self.start.store(next, Ordering::Release);
            self.files.forget(&oldest);
            match self.files.disk.remove(&oldest.path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    // A younger one must not go before it: a store would see what was deleted.
                    self.start.store(oldest.base, Ordering::Release);
                    return Err(LogError::io("cannot remove", &oldest.path, e));
                }
                _ => {}
            }
            self.segments.write().retain(|s| !Arc::ptr_eq(s, &oldest));
            self.tail.lock().trim(next);
            let _ = self.files.disk.remove(&index_path(&oldest.path));
        }
    }

    /// Applies age and size of the options.
    pub fn retain(self: &Arc<Inner>, now: i64) -> Result<()> {
        let (age, bytes) = {
            let options = self.options.lock();
            (options.retention_age, options.retention_bytes)
        };
        if let Some(age) = age {
            let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
            let limit = now.saturating_sub(age);
            // A segment was last written to before the next one was made.
            let segments = self.segments.read().clone();
            let mut keep_from = 0;
            for next in segments.iter().skip(1) {
                match next.with_index(&self.files, |index| index.created_micros)? {
                    // Those before it go when one behind it is old enough.
                    UNKNOWN_MICROS => {}
                    made if made >= limit => break,
                    _ => keep_from = next.base,
                }
            }
            self.remove_oldest(|_, end| end <= keep_from)?;
            // A slow stream must not keep its rows for ever in a segment that never fills.
            if let Some(last) = segments.last()
                && let Some(index) = last.index()
                && !last.is_sealed()
                && index.frames > 0
                && index.created_micros < now.saturating_sub(age / 4)
            {
                self.queue.push(Item::Roll(self.clone()));
            }
        }
        if let Some(bytes) = bytes {
            self.remove_oldest(|total, _| total > bytes)?;
        }
        Ok(())
    }
}
