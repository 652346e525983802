use std::any::Any;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use bytes::Bytes;

use crate::append::Append;
use crate::clock::{ManualClock, SystemClock};
use crate::disk::{Disk, File};
use crate::error::LogError;
use crate::log::{Driver, Log};
use crate::sim::SimDisk;
use crate::testing::{append, commit, open, options, small};

#[test]
fn the_refusal_is_what_appends_hear_and_heals_without_appends() {
    let disk = SimDisk::new(77);
    let clock = Arc::new(ManualClock::new(1_000_000));
    let (log, mut driver) = open(&disk, &clock);
    let partition = log.partition("streams/a/0", options()).unwrap();
    let store = log.store("positions").unwrap();
    driver.drain();
    // What an append hears now, and what the log says before and after it.
    let heard = |driver: &mut Driver, clock: &ManualClock| {
        clock.advance(1_000_000);
        driver.keep();
        driver.drain();
        let before = log.refusal().map(|e| e.code());
        let appended = commit(driver, &partition, append(vec![1; 100], 1));
        let after = log.refusal().map(|e| e.code());
        (before, appended.err().map(|e| e.code()), after)
    };
    assert_eq!(heard(&mut driver, &clock), (None, None, None));
    // A full disk is reported before anybody appends, and so is that it has room again.
    disk.set_capacity(Some(1));
    let full = Some("log.full");
    assert_eq!(heard(&mut driver, &clock), (full, full, full));
    disk.set_capacity(None);
    assert_eq!(heard(&mut driver, &clock), (None, None, None));
    // Without being asked again, the log reports what the last append heard.
    disk.set_capacity(Some(1));
    clock.advance(1_000_000);
    let refused = commit(&mut driver, &partition, append(vec![1; 100], 1));
    assert_eq!(
        (refused.unwrap_err().code(), log.refusal().unwrap().code()),
        ("log.full", "log.full")
    );
    disk.set_capacity(None);
    assert_eq!(heard(&mut driver, &clock), (None, None, None));
    // An I/O error that lasts: trying the disk fails as an append does.
    let failed = Some("log.failed");
    disk.fail_syncs(u32::MAX);
    assert_eq!(heard(&mut driver, &clock), (None, failed, failed));
    for _ in 0..3 {
        assert_eq!(heard(&mut driver, &clock), (failed, failed, failed));
    }
    disk.fail_syncs(0);
    assert_eq!(heard(&mut driver, &clock), (None, None, None));
    // The same without any append: it heals within one look.
    disk.fail_syncs(1);
    assert!(commit(&mut driver, &partition, append(vec![1; 100], 1)).is_err());
    assert_eq!(log.refusal().map(|e| e.code()), failed);
    clock.advance(1_000_000);
    driver.keep();
    driver.drain();
    assert!(log.refusal().is_none());
    // A store that cannot be written counts too.
    disk.fail_writes(1);
    store.apply(
        vec![crate::Change::Put(Bytes::from_static(b"k"), Bytes::new())],
        None,
    );
    driver.drain();
    assert_eq!(log.refusal().map(|e| e.code()), failed);
    clock.advance(1_000_000);
    driver.keep();
    driver.drain();
    assert!(log.refusal().is_none());
    log.shutdown();
    driver.drain();
    assert_eq!(log.refusal().map(|e| e.code()), Some("log.closed"));
}

/// A disk whose syncs panic once they are told to.
struct Panicking {
    disk: SimDisk,
    now: Arc<AtomicBool>,
}

struct PanickingFile {
    file: Arc<dyn File>,
    now: Arc<AtomicBool>,
}

impl Disk for Panicking {
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>> {
        let (file, now) = (self.disk.open(path, write)?, self.now.clone());
        Ok(Arc::new(PanickingFile { file, now }))
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let (file, now) = (self.disk.create(path)?, self.now.clone());
        Ok(Arc::new(PanickingFile { file, now }))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<crate::Entry>> {
        self.disk.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn space(&self, dir: &Path) -> io::Result<crate::Space> {
        self.disk.space(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.disk.lock(path)
    }
    fn random(&self) -> u64 {
        self.disk.random()
    }
}

impl File for PanickingFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn write_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.file.write_at(position, parts)
    }
    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(position, into)
    }
    fn sync(&self) -> io::Result<()> {
        assert!(!self.now.load(Ordering::Acquire), "on purpose");
        self.file.sync()
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }
    fn reserve(&self, len: u64) -> io::Result<()> {
        self.file.reserve(len)
    }
}

#[test]
fn a_commit_thread_that_panics_is_named_and_nobody_waits_for_it() {
    let now = Arc::new(AtomicBool::new(false));
    let disk = Panicking {
        disk: SimDisk::new(78),
        now: now.clone(),
    };
    let clock = Arc::new(SystemClock);
    let log = Log::open(Arc::new(disk), Path::new("/data"), small(), clock).unwrap();
    let partition = log.partition("streams/a/0", options()).unwrap();
    let append = || {
        let (send, receive) = mpsc::channel();
        partition.append(Append {
            done: Some(Box::new(move |r| {
                let _ = send.send(r);
            })),
            ..append(vec![1; 10], 1)
        });
        receive
    };
    append().recv().unwrap().unwrap();
    assert!(log.refusal().is_none() && log.supervisor().ended().is_empty());
    now.store(true, Ordering::Release);
    assert!(matches!(append().recv(), Ok(Err(LogError::Closed))));
    let begun = std::time::Instant::now();
    while log.supervisor().ended().is_empty() {
        assert!(begun.elapsed() < std::time::Duration::from_secs(60));
        std::thread::yield_now();
    }
    let ended = log.supervisor().ended();
    assert_eq!(
        (ended.len(), &*ended[0].name, ended[0].panicked),
        (1, "log-commit", true)
    );
    assert!(matches!(append().recv().unwrap(), Err(LogError::Closed)));
    assert!(matches!(log.refusal(), Some(LogError::Closed)));
}
