//! The log of one data folder.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::disk::Disk;
use crate::error::Result;
use crate::partition::{Partition, PartitionOptions};
use crate::store::Store;

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

/// The log of one data folder, with its commit thread.
#[derive(Clone)]
pub struct Log(());

impl Log {
    /// Opens a data folder, which is made if needed: takes its lock and checks its version.
    pub fn open(
        _disk: Arc<dyn Disk>,
        _dir: &Path,
        _options: LogOptions,
        _clock: Arc<dyn Clock>,
    ) -> Result<Log> {
        todo!()
    }
    /// The partition of that name (`stream/meter/0`), which is made or recovered if needed.
    pub fn partition(&self, _name: &str, _options: PartitionOptions) -> Result<Partition> {
        todo!()
    }
    /// Removes a partition with all it holds.
    pub fn remove_partition(&self, _name: &str) -> Result<()> {
        todo!()
    }
    /// The store of that name, which is made or recovered if needed.
    pub fn store(&self, _name: &str) -> Result<Store> {
        todo!()
    }
    /// Commits what waits, notes that all is well, and ends the threads. Later appends get
    /// [`crate::LogError::Closed`].
    pub fn shutdown(&self) {
        todo!()
    }
}
