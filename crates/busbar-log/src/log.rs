//! The log of one data folder: its lock, its version, its threads.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use crate::clock::Clock;
use crate::commit::{Committer, STORE_PREFIX, Step};
use crate::disk::{Disk, File, write_all};
use crate::error::{LogError, Result};
use crate::frame::FIXED_BYTES;
use crate::health::AppendHealth;
use crate::index::{read_whole, write_whole};
use crate::limits::{NAME_BYTES_MAX, STORE_COMPACT_ROUNDS_MAX, STORE_SEGMENT_BYTES};
use crate::mark::MARK_FILE;
use crate::options::{Durability, LogOptions, PartitionOptions};
use crate::partition::{Inner, Item, Partition};
use crate::queue::Queue;
use crate::recover::recover;
use crate::segment::Files;
use crate::state::PartitionState;
use crate::store::{Compaction, Store};
use crate::supervise::Supervisor;
use crate::tail::Tail;
use crate::writer::{Active, Writer};

/// The version of the data folder this program writes, and the newest it reads.
pub const DATA_VERSION: u32 = 1;
pub(crate) const VERSION_FILE: &str = "VERSION";
pub(crate) const LOCK_FILE: &str = "LOCK";
/// How often retention and compaction are looked at.
const KEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How long compaction waits for the commit thread before it looks again.
const COMPACT_PAUSE: Duration = Duration::from_millis(2);

/// The log of one data folder, with its commit thread. Clones share it. The folder is free again
/// after [`Log::shutdown`], or when the last clone is gone.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    files: Arc<Files>,
    queue: Arc<Queue<Item>>,
    clock: Arc<dyn Clock>,
    /// In order of names, so that a simulation repeats itself.
    partitions: Mutex<BTreeMap<String, Partition>>,
    stores: Mutex<BTreeMap<String, Store>>,
    keeper: Arc<Keeper>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<Box<dyn Any + Send + Sync>>>,
    health: Arc<AppendHealth>,
    supervisor: Supervisor,
    closed: AtomicBool,
    /// Without threads.
    driven: bool,
}

/// Drives a log that has no threads of its own: for simulations.
pub struct Driver {
    committer: Committer,
    shared: Arc<Shared>,
}

impl Driver {
    /// Commits one group of what waits.
    pub fn step(&mut self) -> Step {
        self.committer.step()
    }

    /// Commits until nothing waits.
    pub fn drain(&mut self) {
        while self.step() == Step::Worked {}
    }

    /// Applies retention and compacts stores, as the background thread does each second.
    pub fn keep(&self) {
        self.shared.keep();
    }
}

impl Log {
    /// Opens a data folder, which is made if needed: takes its lock and checks its version.
    ///
    /// # Errors
    /// [`LogError::Locked`] if another process has it, [`LogError::Version`] if a newer program
    /// wrote it, [`LogError::Io`] if it cannot be written.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Log> {
        let (log, mut committer) = Log::prepare(disk, dir, &options, clock, true)?;
        let queue = log.shared.queue.clone();
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(run)
                .map_err(|e| LogError::io("cannot start a thread for", dir, e))
        };
        let watched = log.shared.supervisor.watch("log-commit");
        let weak = Arc::downgrade(&log.shared);
        let commit = spawn(
            "log-commit",
            Box::new(move || {
                let watched = watched;
                let ended = catch_unwind(AssertUnwindSafe(|| commit_all(&mut committer, &queue)));
                // However this thread ends, every append that waits for it is completed.
                committer.abandon();
                if let Err(panic) = ended {
                    if let Some(shared) = weak.upgrade() {
                        shared.abandon();
                    }
                    resume_unwind(panic);
                }
                watched.finish();
            }),
        )?;
        let keeper = log.shared.keeper.clone();
        let weak = Arc::downgrade(&log.shared);
        let watched = log.shared.supervisor.watch("log-keep");
        let keep = spawn(
            "log-keep",
            Box::new(move || {
                let watched = watched;
                while keeper.sleep(KEEP_INTERVAL) {
                    match weak.upgrade() {
                        Some(shared) => shared.keep(),
                        None => break,
                    }
                }
                watched.finish();
            }),
        )?;
        log.shared.threads.lock().extend([commit, keep]);
        Ok(log)
    }

    /// Opens a data folder without threads: nothing is committed but by the driver.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_driven(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(Log, Driver)> {
        let (log, committer) = Log::prepare(disk, dir, &options, clock, false)?;
        let shared = log.shared.clone();
        Ok((log, Driver { committer, shared }))
    }

    fn prepare(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: &LogOptions,
        clock: Arc<dyn Clock>,
        threads: bool,
    ) -> Result<(Log, Committer)> {
        make_dir(&*disk, dir, dir)?;
        let lock = lock(&*disk, dir)?;
        check_version(&*disk, dir)?;
        let queue = Arc::new(Queue::default());
        let health = Arc::new(AppendHealth::default());
        let committer = Committer::new(
            queue.clone(),
            clock.clone(),
            disk.clone(),
            dir.to_path_buf(),
            options,
            health.clone(),
            threads,
        );
        let shared = Shared {
            dir: dir.to_path_buf(),
            files: Arc::new(Files::new(disk)),
            queue,
            clock,
            partitions: Mutex::default(),
            stores: Mutex::default(),
            keeper: Arc::default(),
            threads: Mutex::default(),
            lock: Mutex::new(Some(lock)),
            health,
            supervisor: Supervisor::default(),
            closed: AtomicBool::new(false),
            driven: !threads,
        };
        let shared = Arc::new(shared);
        Ok((Log { shared }, committer))
    }

    /// Why appends are refused now, as those who append hear it; `None` while they are taken. Determined with
    /// each append, and once a second while there are none.
    pub fn refusal(&self) -> Option<LogError> {
        match self.shared.queue.is_closed() {
            true => Some(LogError::Closed),
            false => self.shared.health.refusal(),
        }
    }

    /// Records which threads of the log, and of those above it, have ended although they should run.
    pub fn supervisor(&self) -> &Supervisor {
        &self.shared.supervisor
    }

    /// The data folder.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// The partition of that name (`streams/meter/0`: its folder within the data folder), which is
    /// made or recovered if needed. Of one that is open already, `options` are ignored.
    ///
    /// # Errors
    /// When the name is not allowed, or its folder cannot be read and written.
    pub fn partition(&self, name: &str, options: PartitionOptions) -> Result<Partition> {
        check_name(name)?;
        let mut partitions = self.shared.partitions.lock();
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(LogError::Closed);
        }
        if let Some(open) = partitions.get(name) {
            return Ok(open.clone());
        }
        let partition = self.shared.open_partition(name, options)?;
        partitions.insert(name.to_owned(), partition.clone());
        Ok(partition)
    }

    /// Removes a partition with all it holds. Those who still have it get [`LogError::Closed`] for
    /// appends, and its readers find nothing more.
    ///
    /// # Errors
    /// When a file cannot be removed; what is left is removed by trying again.
    pub fn remove_partition(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let mut partitions = self.shared.partitions.lock();
        let disk = &*self.shared.files.disk;
        let dir = self.shared.dir.join(name);
        if let Some(partition) = partitions.remove(name) {
            let inner = &partition.inner;
            inner.closed.store(true, Ordering::Release);
            // A group that is on its way is refused when its turn comes.
            inner.writer.lock().abandon();
            let _held = inner.maintenance.lock();
            for segment in inner.segments.write().drain(..) {
                inner.files.forget(&segment);
            }
            inner
                .start
                .store(inner.end.load(Ordering::Acquire), Ordering::Release);
            inner.tail.lock().trim(u64::MAX);
        }
        let entries = match disk.list(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(|e| LogError::io("cannot list", &dir, e))?,
        };
        // The mark first: without its segments it would say that they are missing.
        let files = entries.iter().filter(|entry| !entry.is_dir);
        let (marks, others): (Vec<_>, Vec<_>) = files.partition(|entry| entry.name == MARK_FILE);
        for entry in marks.into_iter().chain(others) {
            let path = dir.join(&entry.name);
            disk.remove(&path)
                .map_err(|e| LogError::io("cannot remove", &path, e))?;
        }
        disk.sync_dir(&dir)
            .and_then(|()| match disk.remove_dir(&dir) {
                // Another partition lives below it.
                Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                other => other,
            })
            .map_err(|e| LogError::io("cannot remove", &dir, e))
    }

    /// The store of that name, which is made or recovered if needed.
    ///
    /// # Errors
    /// When the name is not allowed, or its folder cannot be read and written.
    pub fn store(&self, name: &str) -> Result<Store> {
        let mut stores = self.shared.stores.lock();
        if let Some(open) = stores.get(name) {
            return Ok(open.clone());
        }
        let options = PartitionOptions {
            segment_bytes: STORE_SEGMENT_BYTES,
            retention_age: None,
            retention_bytes: None,
            durability: Durability::Fsync,
            cache_bytes: 0,
        };
        let partition = self.partition(&format!("{STORE_PREFIX}{name}"), options)?;
        let store = Store::open(partition)?;
        stores.insert(name.to_owned(), store.clone());
        Ok(store)
    }

    /// Commits what waits, notes that all is well, and ends the threads. Later appends get
    /// [`LogError::Closed`]. Not to be called on the commit thread. A driven log is shut down when its driver has
    /// been drained afterwards.
    pub fn shutdown(&self) {
        self.shared.shutdown();
    }
}

impl Shared {
    fn open_partition(&self, name: &str, options: PartitionOptions) -> Result<Partition> {
        let disk = &*self.files.disk;
        let dir = self.dir.join(name);
        make_dir(disk, &dir, &self.dir)?;
        let recovered = recover(disk, &dir)?;
        let start = recovered.segments.first().map_or(recovered.end, |s| s.base);
        let active = match (recovered.active, recovered.segments.last()) {
            (Some((file, position)), Some(segment)) => Some(Active {
                segment: segment.clone(),
                salt: segment.index().map_or(0, |index| index.salt),
                file,
                position,
                durable: position,
                reserved: 0,
                checkpointed: 0,
                forgotten: position,
                before: None,
            }),
            _ => None,
        };
        let inner = Inner {
            queue: self.queue.clone(),
            maintenance: Mutex::default(),
            writer: Mutex::new(Writer::new(active, recovered.end, recovered.mark)),
            state: PartitionState {
                name: name.to_owned(),
                dir,
                files: self.files.clone(),
                options: Mutex::new(options),
                segments: RwLock::new(recovered.segments),
                producers: Mutex::new(recovered.producers),
                tail: Mutex::new(Tail::default()),
                observers: RwLock::default(),
                wakers: RwLock::default(),
                damage: Mutex::new(recovered.damage),
                start: AtomicU64::new(start),
                end: AtomicU64::new(recovered.end),
                closed: AtomicBool::new(false),
                next_waker: AtomicU64::new(0),
            },
        };
        Ok(Partition {
            inner: Arc::new(inner),
        })
    }

    fn keep(&self) {
        self.queue.push(Item::Look);
        let now = self.clock.now_micros();
        let partitions: Vec<Partition> = self.partitions.lock().values().cloned().collect();
        for partition in partitions {
            if let Err(error) = partition.inner.retain(now) {
                tracing::warn!(partition = partition.name(), %error, "retention failed");
            }
        }
        let stores: Vec<Store> = self.stores.lock().values().cloned().collect();
        for store in stores {
            for _ in 0..STORE_COMPACT_ROUNDS_MAX {
                match store.compact() {
                    Ok(Compaction::Idle) => break,
                    Ok(Compaction::Moved) => {}
                    // The commit thread has to do its part first.
                    Ok(Compaction::Waiting) if self.driven => break,
                    Ok(Compaction::Waiting) => {
                        if !self.keeper.sleep(COMPACT_PAUSE) {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "compaction of a store failed");
                        break;
                    }
                }
            }
        }
    }

    /// Refuses the appends that a commit thread which panicked had begun to write.
    fn abandon(&self) {
        for partition in self.partitions.lock().values() {
            partition.inner.writer.lock().refuse_group();
        }
    }

    fn shutdown(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.keeper.end();
        let partitions = self.partitions.lock();
        let all = partitions.values().map(|p| p.inner.clone()).collect();
        drop(partitions);
        self.queue.push(Item::Shutdown(all));
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("a thread of the log had panicked");
            }
        }
        if !self.driven {
            *self.lock.lock() = None;
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Commits until the log is shut down.
fn commit_all(committer: &mut Committer, queue: &Queue<Item>) {
    loop {
        match committer.step() {
            Step::Worked => {}
            Step::Idle(wait) => {
                let wait = wait.map(|w| Duration::from_micros(w.max(0) as u64));
                queue.sleep(wait);
            }
            Step::Ended => return,
        }
    }
}

/// Lets the background thread sleep and end.
#[derive(Default)]
struct Keeper {
    ended: Mutex<bool>,
    wake: Condvar,
}

impl Keeper {
    /// Sleeps for a while; `false` when it is time to end.
    fn sleep(&self, wait: Duration) -> bool {
        let mut ended = self.ended.lock();
        if !*ended {
            self.wake.wait_for(&mut ended, wait);
        }
        !*ended
    }

    fn end(&self) {
        *self.ended.lock() = true;
        self.wake.notify_all();
    }
}

/// Makes a folder in the data folder `root` (or that itself), whose name survives a crash. One that is
/// there and empty may have been made by a process that died before its name was durable; files are
/// made in it only afterwards.
fn make_dir(disk: &dyn Disk, dir: &Path, root: &Path) -> Result<()> {
    if let Ok(entries) = disk.list(dir)
        && entries.iter().any(|entry| !entry.is_dir)
    {
        return Ok(());
    }
    let mut parents = Vec::new();
    for above in dir.ancestors() {
        let inside = above.starts_with(root);
        if above.as_os_str().is_empty()
            || (above == root && dir != root)
            || (!inside && disk.list(above).is_ok())
        {
            break;
        }
        parents.push(above.parent().unwrap_or(Path::new("/")));
    }
    let existed = disk.list(root).is_ok();
    disk.create_dir(dir)
        .map_err(|e| LogError::io("cannot make", dir, e))?;
    for parent in parents {
        let parent = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        match disk.sync_dir(parent) {
            // What the data folder lies in may be nobody's business here.
            Err(e) if existed && e.kind() == io::ErrorKind::PermissionDenied => {}
            other => other.map_err(|e| LogError::io("cannot sync", parent, e))?,
        }
    }
    Ok(())
}

fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn Any + Send + Sync>> {
    let path = dir.join(LOCK_FILE);
    let guard = disk.lock(&path).map_err(|e| {
        if e.kind() != io::ErrorKind::WouldBlock {
            return LogError::io("cannot lock", &path, e);
        }
        let text = read_whole(disk, &path, FIXED_BYTES as u64).unwrap_or_default();
        LogError::Locked {
            dir: dir.into(),
            pid: String::from_utf8(text)
                .ok()
                .and_then(|t| t.trim().parse().ok()),
        }
    })?;
    // Only to be told to others, so a full disk does not matter; the lock itself is the operating
    // system's.
    let pid = format!("{}\n", std::process::id());
    let write = |file: Arc<dyn File>| {
        file.truncate(0)?;
        write_all(&*file, 0, &mut [IoSlice::new(pid.as_bytes())])
    };
    if let Err(e) = disk.open(&path, true).and_then(write) {
        tracing::debug!(error = %e, "cannot note the process in the lock file");
    }
    Ok(guard)
}

fn check_version(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let path = dir.join(VERSION_FILE);
    match read_whole(disk, &path, 1024) {
        Ok(text) => parse_version(dir, &text),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let text = format!("busbar-data {DATA_VERSION}\n");
            write_whole(disk, &path, text.as_bytes(), true)
                .and_then(|()| disk.sync_dir(dir))
                .map_err(|e| LogError::io("cannot write", &path, e))
        }
        Err(e) => Err(LogError::io("cannot read", &path, e)),
    }
}

/// Checks what a data folder's VERSION file says.
pub(crate) fn parse_version(dir: &Path, text: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(text);
    let found = text.trim();
    let number = found
        .strip_prefix("busbar-data ")
        .and_then(|n| n.parse::<u32>().ok());
    if number.is_some_and(|n| (1..=DATA_VERSION).contains(&n)) {
        return Ok(());
    }
    Err(LogError::Version {
        dir: dir.into(),
        found: number.map_or_else(|| format!("'{found:.40}'"), |n| n.to_string()),
        supported: DATA_VERSION,
    })
}

fn check_name(name: &str) -> Result<()> {
    let refused = |why| {
        Err(LogError::Name {
            name: name.chars().take(80).collect(),
            why,
        })
    };
    if name.len() > NAME_BYTES_MAX {
        return refused("it is too long");
    }
    for part in name.split('/') {
        if part.is_empty() || part.len() > 200 {
            return refused("each of its parts has 1 to 200 bytes");
        }
        if part.starts_with('.') || matches!(part, VERSION_FILE | LOCK_FILE | MARK_FILE) {
            return refused("a part begins with a dot or is reserved");
        }
        if !part
            .chars()
            .all(|c| c.is_alphanumeric() || "_-.$@+".contains(c))
        {
            return refused("only letters, digits and _ - . $ @ + are allowed");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
