//! Gives back what fjall has replaced, outside of its locks.
//!
//! fjall lets go of a memtable that is in files by now, and of files that were merged, with a lock held that all readers and
//! writers of the table need. Giving back the many small pieces of a memtable takes a tenth of a second, and removing files
//! takes as long on some file systems. So one more reference is held to each of them until it is the last one, and is given up
//! by a thread that holds no lock.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use fjall::{AbstractTree as _, Keyspace};
use hashbrown::HashSet;
use parking_lot::Mutex;

use super::removed::RemovedFiles;
use crate::limits::{
    WIDE_RELEASE_EVERY, WIDE_RELEASE_NICE, WIDE_RELEASE_REST, WIDE_RELEASE_WATCH,
    WIDE_REMOVED_EVERY,
};

/// What a database and its tables have replaced.
pub(super) struct Releases {
    state: Arc<ReleaseState>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct ReleaseState {
    /// The folder of the database.
    folder: PathBuf,
    /// The tables that are not held yet.
    added: Mutex<Vec<Keyspace>>,
    /// The thread looks again when it is woken.
    is_resting: AtomicBool,
    must_end: AtomicBool,
}

/// One more reference to what a table is and was.
struct HeldTable {
    keyspace: Keyspace,
    /// The memtable that is written to comes last.
    memtables: Vec<(u64, Box<dyn Held>)>,
    /// The files of the table as they are come last.
    versions: Vec<HeldVersion>,
}

/// The files of a table as they were.
struct HeldVersion {
    number: u64,
    /// fjall has let go of them, and of the versions that follow until the next one that is held: some are missed between two
    /// looks, and have the same files.
    is_let_go: bool,
    paths: HashSet<PathBuf>,
    _files: Box<dyn Send>,
}

/// A reference.
trait Held: Send {
    /// Whether nobody else has one.
    fn is_last(&self) -> bool;
}

impl<T: Send + Sync> Held for Arc<T> {
    fn is_last(&self) -> bool {
        Arc::strong_count(self) == 1
    }
}

impl Releases {
    /// Of the database in this folder.
    pub fn new(folder: &Path) -> Self {
        let state = ReleaseState {
            folder: folder.to_owned(),
            added: Mutex::default(),
            is_resting: AtomicBool::new(false),
            must_end: AtomicBool::new(false),
        };
        Self {
            state: Arc::new(state),
            thread: Mutex::default(),
        }
    }

    /// Holds what this table is from now on.
    pub fn add(&self, table: &Keyspace) {
        self.state.added.lock().push(table.clone());
        let mut thread = self.thread.lock();
        if thread.is_none() {
            let state = Arc::clone(&self.state);
            let spawned = std::thread::Builder::new()
                .name("busbar-wide-release".to_owned())
                .spawn(move || state.run());
            // Without the thread fjall gives everything back itself.
            *thread = spawned.ok();
        }
        drop(thread);
        self.wake();
    }

    /// Notes that something was written: it may lead to what is replaced.
    pub fn note_write(&self) {
        if self.state.is_resting.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    fn wake(&self) {
        self.state.is_resting.store(false, Ordering::SeqCst);
        if let Some(thread) = &*self.thread.lock() {
            thread.thread().unpark();
        }
    }
}

impl Drop for Releases {
    fn drop(&mut self) {
        self.state.must_end.store(true, Ordering::SeqCst);
        let thread = self.thread.get_mut().take();
        if let Some(thread) = thread {
            thread.thread().unpark();
            // It ends only where it panics, which is told elsewhere.
            let _ = thread.join();
        }
    }
}

impl ReleaseState {
    fn run(&self) {
        give_way();
        let mut tables: Vec<HeldTable> = Vec::new();
        let mut removed = RemovedFiles::default();
        let mut watched_until = Instant::now() + WIDE_RELEASE_WATCH;
        loop {
            let added = std::mem::take(&mut *self.added.lock());
            tables.extend(added.into_iter().map(HeldTable::new));
            let mut holds = false;
            removed.hold_journals(&self.folder);
            for table in &mut tables {
                if table.look(&mut removed) {
                    watched_until = Instant::now() + WIDE_RELEASE_WATCH;
                }
                holds |= table.holds();
            }
            removed.look();
            if removed.give_back() {
                std::thread::park_timeout(WIDE_REMOVED_EVERY);
            } else if Instant::now() < watched_until {
                std::thread::park_timeout(WIDE_RELEASE_EVERY);
            } else {
                self.is_resting.store(true, Ordering::SeqCst);
                match holds {
                    true => std::thread::park_timeout(WIDE_RELEASE_REST),
                    false => std::thread::park(),
                }
                if !self.is_resting.swap(false, Ordering::SeqCst) {
                    watched_until = Instant::now() + WIDE_RELEASE_WATCH;
                }
            }
            if self.must_end.load(Ordering::SeqCst) {
                return;
            }
        }
    }
}

impl HeldTable {
    fn new(keyspace: Keyspace) -> Self {
        Self {
            keyspace,
            memtables: Vec::new(),
            versions: Vec::new(),
        }
    }

    /// Holds what the table is now, and gives up what nobody else has any more, files that are removed with it to `removed`.
    /// True where the table has changed.
    fn look(&mut self, removed: &mut RemovedFiles) -> bool {
        let mut changed = false;
        let memtable = self.keyspace.tree.active_memtable();
        let number = memtable.id();
        if self.memtables.last().is_none_or(|last| last.0 != number) {
            self.memtables.push((number, Box::new(memtable)));
            changed = true;
        }
        let files = self.keyspace.tree.current_version();
        let number = files.id();
        if self
            .versions
            .last()
            .is_none_or(|last| last.number != number)
        {
            let tables = files.iter_tables().map(|it| it.path.to_path_buf());
            let values = files.blob_files.iter().map(|it| it.path().to_owned());
            self.versions.push(HeldVersion {
                number,
                is_let_go: false,
                paths: tables.chain(values).collect(),
                _files: Box::new(files),
            });
            changed = true;
        }
        self.memtables.retain(|(_, memtable)| !memtable.is_last());
        // fjall removes a version's note a moment before it lets go of the files.
        let (given_up, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.versions)
            .into_iter()
            .partition(|version| version.is_let_go);
        self.versions = kept;
        let numbers: Vec<u64> = self.versions.iter().map(|it| it.number).collect();
        for (version, next) in self.versions.iter_mut().zip(&numbers[1..]) {
            version.is_let_go = !has_note(self.keyspace.path(), version.number..*next);
        }
        // fjall removes those that no other version has when the last reference to them is dropped, at the end of this function.
        for path in given_up.iter().flat_map(|version| &version.paths) {
            if !self.versions.iter().any(|it| it.paths.contains(path)) {
                removed.hold(path);
            }
        }
        changed
    }

    /// Whether it holds anything that the table is not any more.
    fn holds(&self) -> bool {
        self.memtables.len() + self.versions.len() > 2
    }
}

/// Whether fjall still has one of these versions of the table in this folder.
fn has_note(folder: &Path, mut numbers: Range<u64>) -> bool {
    numbers.any(|number| folder.join(format!("v{number}")).exists())
}

/// Lets this thread have what others leave of the processor. Nobody waits for it: it holds no lock.
fn give_way() {
    // SAFETY: the call takes no pointers. On Linux it is about the calling thread alone.
    let refused = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, WIDE_RELEASE_NICE) } != 0;
    if refused {
        tracing::debug!(error = %std::io::Error::last_os_error(), "the thread has the priority of others");
    }
}

#[cfg(test)]
mod tests {
    use fjall::{Database, KeyspaceCreateOptions};

    use super::*;

    #[test]
    fn what_is_replaced_is_given_back_here_once_fjall_has_let_go_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::builder(folder.path()).open().unwrap();
        let table = database
            .keyspace("t", KeyspaceCreateOptions::default)
            .unwrap();
        let mut held = HeldTable::new(table.clone());
        let mut removed = RemovedFiles::default();
        assert!(held.look(&mut removed), "it is new");
        assert!(
            !held.look(&mut removed) && !held.holds(),
            "nothing was replaced"
        );
        let mut given_back = 0;
        let (mut memtables, mut versions) = (0, 0);
        for round in 0..20_u8 {
            table.insert([round], [round]).unwrap();
            table.rotate_memtable_and_wait().unwrap();
            table.major_compact().unwrap();
            memtables += held.memtables.iter().filter(|it| it.1.is_last()).count();
            versions += held.versions.iter().filter(|it| it.is_let_go).count();
            assert!(held.look(&mut removed), "memtable and files are others");
            removed.look();
            given_back += removed.shrinking.len();
            while removed.give_back() {}
        }
        assert!(memtables > 15 && versions > 15, "{memtables} {versions}");
        assert!(given_back > 15, "{given_back}");
        assert!(held.memtables.len() < 5 && held.versions.len() < 5);
        let files = std::fs::read_dir(table.path().join("tables")).unwrap();
        assert!(files.count() < 10, "files are removed");
    }

    #[test]
    fn versions_that_no_look_has_seen_have_files_too() {
        let folder = tempfile::tempdir().unwrap();
        for (note, has) in [("v2", false), ("v6", false), ("v3", true), ("v5", true)] {
            let path = folder.path().join(note);
            std::fs::File::create(&path).unwrap();
            assert_eq!(has_note(folder.path(), 3..6), has, "{note}");
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn what_a_snapshot_keeps_behind_a_look_is_not_left_to_fjall() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::builder(folder.path()).open().unwrap();
        let table = database
            .keyspace("t", KeyspaceCreateOptions::default)
            .unwrap();
        let flush = |key: u8| {
            table.insert([key], [key]).unwrap();
            table.rotate_memtable_and_wait().unwrap();
        };
        let mut held = HeldTable::new(table.clone());
        let mut removed = RemovedFiles::default();
        flush(1);
        held.look(&mut removed);
        let seen = held.versions.last().unwrap().number;
        let paths = held.versions.last().unwrap().paths.clone();
        assert_eq!(paths.len(), 1);
        // No look sees this version, and somebody reads it while the files are merged.
        flush(2);
        let snapshot = database.snapshot();
        flush(3);
        table.major_compact().unwrap();
        for _ in 0..3 {
            held.look(&mut removed);
        }
        assert_eq!(
            held.versions[0].number, seen,
            "the one that was missed has its file"
        );
        drop(snapshot);
        for key in 4..20 {
            flush(key);
            table.major_compact().unwrap();
            held.look(&mut removed);
            assert!(
                held.versions[0].number > seen || paths.iter().all(|it| it.exists()),
                "removed by fjall"
            );
        }
        assert!(held.versions[0].number > seen, "given up in the end");
    }

    #[test]
    fn a_database_whose_parts_are_held_can_be_closed() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let database = Database::builder(folder.path()).open().unwrap();
            let releases = Releases::new(folder.path());
            let table = database.keyspace("t", KeyspaceCreateOptions::default);
            releases.add(&table.unwrap());
            releases.note_write();
        }
    }
}
