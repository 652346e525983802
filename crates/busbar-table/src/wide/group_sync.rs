//! Makes commits durable, all that wait at once.
//!
//! fjall holds its journal's lock while it waits for the disk, so nobody could commit meanwhile, and each call of the disk would
//! serve one or two commits. Here the disk is waited for without that lock, through a handle of our own.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};

/// Commits by their numbers, from 1.
#[derive(Default)]
pub(super) struct GroupSync {
    /// Commits so far.
    committed: AtomicU64,
    synced: Mutex<Synced>,
    /// A call of the disk is over.
    over: Condvar,
}

#[derive(Default)]
struct Synced {
    /// How many commits are durable.
    durable: u64,
    is_running: bool,
    /// A call has failed. What it was for may be lost, and the system may say of the next call that all is well.
    has_failed: bool,
}

/// The file that fjall writes its commits to.
pub(super) struct JournalFile {
    folder: PathBuf,
    /// The number in its name, and the file.
    open: Mutex<Option<(u64, File)>>,
}

impl GroupSync {
    /// Notes a commit that has been made; its number.
    pub fn note_commit(&self) -> u64 {
        self.committed.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The number of the last commit.
    pub fn last_commit(&self) -> u64 {
        self.committed.load(Ordering::SeqCst)
    }

    /// Makes so many commits durable. One call of `sync` serves all who have committed until it begins.
    ///
    /// # Errors
    /// What `sync` says; after that, `failed` for everybody.
    pub fn make_durable<E>(
        &self,
        number: u64,
        sync: impl FnOnce() -> Result<(), E>,
        failed: impl FnOnce() -> E,
    ) -> Result<(), E> {
        let mut synced = self.synced.lock();
        loop {
            if synced.durable >= number {
                return Ok(());
            }
            if synced.has_failed {
                return Err(failed());
            }
            if !synced.is_running {
                break;
            }
            self.over.wait(&mut synced);
        }
        synced.is_running = true;
        drop(synced);
        let committed = self.last_commit();
        let done = sync();
        let mut synced = self.synced.lock();
        synced.is_running = false;
        match done {
            Ok(()) => synced.durable = committed,
            Err(_) => synced.has_failed = true,
        }
        drop(synced);
        self.over.notify_all();
        done
    }
}

impl JournalFile {
    /// That of the database in this folder.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            open: Mutex::new(None),
        }
    }

    /// Waits until everything is on the disk that fjall has written to its newest journal. What is in an older one is there
    /// already: fjall makes it durable before it begins another one.
    ///
    /// # Errors
    /// What the disk says, or that there is no journal.
    pub fn sync(&self) -> io::Result<()> {
        let newest = newest_journal(&self.folder)?;
        let mut open = self.open.lock();
        let known = open.take().filter(|(number, _)| *number == newest);
        let (_, file) = open.insert(match known {
            Some(known) => known,
            None => (newest, File::open(self.folder.join(file_name(newest)))?),
        });
        file.sync_data()
    }
}

fn file_name(number: u64) -> String {
    format!("{number}.jnl")
}

fn newest_journal(folder: &Path) -> io::Result<u64> {
    let mut newest = None;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".jnl"));
        newest = newest.max(number.and_then(|number| number.parse().ok()));
    }
    newest.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "fjall has no journal"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use fjall::{Database, KeyspaceCreateOptions};

    use super::*;

    #[test]
    fn one_call_serves_all_who_have_committed_and_nobody_is_told_too_early() {
        let (group, calls) = (GroupSync::default(), AtomicU64::new(0));
        let (begun, begins) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let call = || {
            calls.fetch_add(1, Ordering::SeqCst);
            Ok::<_, ()>(())
        };
        let first = group.note_commit();
        std::thread::scope(|scope| {
            let group = &group;
            scope.spawn(move || {
                let slow = || {
                    begun.send(()).unwrap();
                    ends.recv().map_err(drop)
                };
                group.make_durable(first, slow, || ()).unwrap();
            });
            begins.recv().unwrap();
            // They have committed since the call began: it does not count for them.
            let later: Vec<_> = (0..8)
                .map(|_| {
                    let number = group.note_commit();
                    scope.spawn(move || group.make_durable(number, call, || ()))
                })
                .collect();
            std::thread::park_timeout(std::time::Duration::from_millis(20));
            assert!(later.iter().all(|thread| !thread.is_finished()));
            assert_eq!(calls.load(Ordering::SeqCst), 0);
            end.send(()).unwrap();
            for thread in later {
                thread.join().unwrap().unwrap();
            }
        });
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn nothing_is_durable_after_a_call_that_failed() {
        let group = GroupSync::default();
        let before = group.note_commit();
        group.make_durable(before, || Ok(()), || "failed").unwrap();
        let number = group.note_commit();
        let done = group.make_durable(number, || Err("no room"), || "failed");
        assert_eq!(done, Err("no room"));
        // The system would say that it went well.
        let again = group.make_durable(number, || Ok(()), || "failed");
        assert_eq!(again, Err("failed"));
        assert_eq!(group.make_durable(before, || Ok(()), || "failed"), Ok(()));
    }

    /// What the newest journal is named, and that it has a commit when fjall says so, is fjall's own business: this is to be
    /// seen when it changes.
    #[test]
    fn the_newest_journal_has_what_was_committed_last() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::builder(folder.path()).open().unwrap();
        let keyspace = database.keyspace("k", KeyspaceCreateOptions::default);
        let keyspace = keyspace.unwrap();
        let journal = JournalFile::new(folder.path());
        let mut journals = Vec::new();
        for round in 0..3 {
            let value = format!("the value of round {round}");
            let mut batch = database.batch();
            batch.insert(&keyspace, "key", value.as_str());
            batch.commit().unwrap();
            journal.sync().unwrap();
            let (number, _) = *journal.open.lock().as_ref().unwrap();
            let bytes = fs::read(folder.path().join(file_name(number))).unwrap();
            let has_it = bytes.windows(value.len()).any(|it| it == value.as_bytes());
            assert!(has_it, "{number}.jnl of {round}");
            journals.push(number);
            if round == 1 {
                // fjall begins another journal when it has so much in one.
                keyspace.insert("much", vec![7; 65 << 20]).unwrap();
                keyspace.rotate_memtable_and_wait().unwrap();
            }
        }
        assert_eq!(journals[0], journals[1]);
        assert!(journals[1] < journals[2]);
    }
}
