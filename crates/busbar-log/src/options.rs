//! How a log and its partitions are kept.

use std::time::Duration;

/// How a log works.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// How long data of durability `memory` may stay unsynced.
    pub sync_interval: Duration,
    /// Appends are refused as full when the disk has less room than this (or a 32nd of a
    /// small disk), so that the rest of the machine and our own bookkeeping can go on.
    pub reserve_bytes: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            sync_interval: Duration::from_millis(200),
            reserve_bytes: 64 << 20,
        }
    }
}

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
