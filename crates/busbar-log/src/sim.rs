//! A disk in memory that loses power on demand, for tests here and above.
//!
//! It has a page cache: what is written is visible at once and durable only when synced. At a
//! [`crash`](SimDisk::crash) each unsynced page is kept, lost or torn, each file's new length is
//! kept or lost, and names are kept up to some point of each folder's history: by the seed, so one
//! seed is one history. A sync that fails behaves as Linux does: the pages count as clean
//! afterwards, but nobody knows whether they are on the disk.

mod file;
mod state;

use std::any::Any;
use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{Disk, Entry, File, Space};
use file::SimFile;
use state::State;

/// How often things go wrong, each in events per million calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A write takes only a part of what it is given.
    pub short_write: u32,
    /// A write fails with EIO after it has written a part.
    pub write_error: u32,
    /// A sync fails with EIO.
    pub sync_error: u32,
    /// A read fails with EIO.
    pub read_error: u32,
    /// Making, renaming or removing a file, or syncing a folder, fails with EIO.
    pub name_error: u32,
}

/// What has been asked of a simulated disk so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimStats {
    /// Calls that wrote to a file.
    pub writes: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Reads of files.
    pub reads: u64,
    /// Faults injected.
    pub faults: u64,
    /// Bytes that the page cache was told to forget.
    pub forgotten_bytes: u64,
    /// Pages among them that were not on the disk yet: a mistake.
    pub forgotten_dirty: u64,
}

/// A simulated disk. Clones share it.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty disk whose accidents follow `seed`.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk {
            state: Arc::new(Mutex::new(State::new(seed))),
        }
    }

    /// Sets how often things go wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Sets the size of the disk; `None` is without bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// The next `count` syncs of files fail.
    pub fn fail_syncs(&self, count: u32) {
        self.state.lock().failing_syncs = count;
    }

    /// The next `count` writes fail, after writing a part.
    pub fn fail_writes(&self, count: u32) {
        self.state.lock().failing_writes = count;
    }

    /// The next `count` syncs of folders fail.
    pub fn fail_dir_syncs(&self, count: u32) {
        self.state.lock().failing_dir_syncs = count;
    }

    /// The process dies when it has changed something `calls` times more: that call does a part of
    /// what it should or nothing, and all after it fail until [`crash`](SimDisk::crash) or
    /// [`kill`](SimDisk::kill). `None` lets it live.
    pub fn die_after(&self, calls: Option<u64>) {
        self.state.lock().fuse = calls;
    }

    /// Whether the process has died of [`die_after`](SimDisk::die_after).
    pub fn has_died(&self) -> bool {
        self.state.lock().alive().is_err()
    }

    /// The power fails and comes back. Open files and locks from before are dead.
    pub fn crash(&self) {
        self.state.lock().crash();
    }

    /// The process is killed: open files and locks are dead, but the operating system still has
    /// what was written.
    pub fn kill(&self) {
        self.state.lock().kill();
    }

    /// Replaces bytes of a file, both in the cache and on the disk, as bad hardware does.
    pub fn corrupt(&self, path: &Path, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.state.lock().corrupt(path, position, bytes)
    }

    /// What a file holds as a process sees it.
    pub fn contents(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.state.lock();
        let id = state.file(path)?;
        Ok(state.inode(id).data.clone())
    }

    /// Counters.
    pub fn stats(&self) -> SimStats {
        self.state.lock().stats
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, _write: bool) -> io::Result<Arc<dyn File>> {
        let state = self.state.lock();
        state.alive()?;
        let id = state.file(path)?;
        Ok(Arc::new(SimFile::new(self.state.clone(), &state, id)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        state.name_fault()?;
        let id = state.create(path)?;
        Ok(Arc::new(SimFile::new(self.state.clone(), &state, id)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.spend()?;
        state.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let state = self.state.lock();
        state.alive()?;
        state.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.name_fault()?;
        state.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.name_fault()?;
        state.file(path)?;
        state.remove(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.spend()?;
        state.remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.name_fault()?;
        state.sync_dir(dir)
    }

    fn space(&self, _dir: &Path) -> io::Result<Space> {
        let state = self.state.lock();
        let total = state.capacity.unwrap_or(1 << 50);
        Ok(Space {
            free: total.saturating_sub(state.used()),
            total,
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        let mut state = self.state.lock();
        if state.file(path).is_err() {
            state.create(path)?;
        }
        let epoch = state.epoch;
        if !state.locks.insert(path.to_path_buf()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock {
            state: self.state.clone(),
            path: path.to_path_buf(),
            epoch,
        }))
    }

    fn random(&self) -> u64 {
        self.state.lock().random.next()
    }
}

struct SimLock {
    state: Arc<Mutex<State>>,
    path: std::path::PathBuf,
    epoch: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.epoch == self.epoch {
            state.locks.remove(&self.path);
        }
    }
}

/// Numbers from a seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    #[allow(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// True `per_million` times in a million.
    pub fn chance(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.below(1_000_000) < u64::from(per_million)
    }
}

#[cfg(test)]
mod tests;
