//! Partitions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Damage, Result};
use crate::frame::{Companion, Frame};

/// What an acknowledgement is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Handed to the operating system; survives a crash of the process, not of the machine. Synced
    /// in the background.
    Memory,
    /// Synced to the disk before it is acknowledged.
    Fsync,
}

/// How a partition is kept.
#[derive(Clone, Debug)]
pub struct PartitionOptions {
    /// A segment is sealed when it has reached this many bytes.
    pub segment_bytes: u64,
    /// Segments whose last append is older than this are removed.
    pub retention_age: Option<Duration>,
    /// Oldest segments are removed while the partition is larger than this.
    pub retention_bytes: Option<u64>,
    /// What an acknowledgement is worth.
    pub durability: Durability,
    /// Recent frames kept in memory, in bytes of their bodies.
    pub cache_bytes: usize,
}

impl Default for PartitionOptions {
    fn default() -> Self {
        PartitionOptions {
            segment_bytes: 256 << 20,
            retention_age: None,
            retention_bytes: None,
            durability: Durability::Fsync,
            cache_bytes: 16 << 20,
        }
    }
}

/// Called on the commit thread, in order, when an append has been committed or has failed.
pub type Done = Box<dyn FnOnce(Result<Appended>) + Send>;

/// Some rows to append at once.
pub struct Append {
    /// The rows, opaque. Best aligned at 64 bytes, so that those who read it from the cache decode
    /// it as cheaply as those who read it from disk.
    pub body: Bytes,
    /// Number of rows; at least 1.
    pub count: u32,
    /// Smallest time of the rows, microseconds.
    pub min_time: i64,
    /// Largest time of the rows.
    pub max_time: i64,
    /// Producers with rows here and the position each has reached. An append whose producers
    /// all have reached their positions before is acknowledged as a duplicate and not written.
    pub producers: Vec<(Arc<str>, u64)>,
    /// The appender's own bits.
    pub attributes: u16,
    /// What the body decodes to, for live readers.
    pub companion: Option<Companion>,
    /// Called when it is committed, or has failed.
    pub done: Option<Done>,
}

/// Where an append landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first row (of a duplicate: the end of the partition at that moment).
    pub base: u64,
    /// Rows written; 0 for a duplicate.
    pub count: u32,
    /// Whether it had been written before.
    pub duplicate: bool,
}

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
pub struct Partition(());

/// Ends a registration when dropped.
pub struct WakerGuard(());

impl Partition {
    /// Hands rows to the commit thread; never blocks.
    pub fn append(&self, _append: Append) {
        todo!()
    }
    /// First offset that is kept.
    pub fn start(&self) -> u64 {
        todo!()
    }
    /// First offset that is not committed yet.
    pub fn end(&self) -> u64 {
        todo!()
    }
    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        todo!()
    }
    /// The partition's name.
    pub fn name(&self) -> &str {
        todo!()
    }
    /// Committed frames from the one that holds `offset` on, from memory or disk: at least one
    /// unless `offset` is the end, and no more than fit in `bytes_max`. The first frame may begin before `offset`.
    pub fn read(&self, _offset: u64, _bytes_max: usize) -> Result<Vec<Frame>> {
        todo!()
    }
    /// As [`Partition::read`], if memory has them all from `offset` on; `None` otherwise.
    pub fn read_cached(&self, _offset: u64, _bytes_max: usize) -> Option<Vec<Frame>> {
        todo!()
    }
    /// An offset before which every row is older than `micros`.
    pub fn offset_at_time(&self, _micros: i64) -> Result<u64> {
        todo!()
    }
    /// The committed position of a producer.
    pub fn producer_position(&self, _id: &str) -> Option<u64> {
        todo!()
    }
    /// Calls `observer` with each frame on the commit thread, after the sync and before readers
    /// see it and the append is acknowledged.
    pub fn observe(&self, _observer: Arc<dyn Fn(&Frame) + Send + Sync>) {
        todo!()
    }
    /// Calls `waker` on the commit thread when `end` has moved, until the guard is dropped.
    pub fn on_commit(&self, _waker: Arc<dyn Fn() + Send + Sync>) -> WakerGuard {
        todo!()
    }
    /// Damaged places found so far.
    pub fn damage(&self) -> Vec<Damage> {
        todo!()
    }
    /// Changes how the partition is kept from now on.
    pub fn set_options(&self, _options: PartitionOptions) {
        todo!()
    }
    /// The files, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        todo!()
    }
    /// Writes a sealed segment anew with fewer, larger frames: `merge` gets runs of neighbouring
    /// frames (together at most `run_bytes_max`) and answers what to write in their place, or
    /// `None` to keep them as they are. Offsets do not change. Crash-safe: the new file replaces
    /// the old one by a rename once it is synced.
    pub fn rewrite(
        &self,
        _base: u64,
        _run_bytes_max: usize,
        _merge: &mut dyn FnMut(&[Frame]) -> Option<Merged>,
    ) -> Result<Rewritten> {
        todo!()
    }
}
