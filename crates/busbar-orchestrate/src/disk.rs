//! Instances on the disk: a fjall database of their own, synced with each commit.

use std::ops::Bound;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use busbar_event::{Class, Error};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use parking_lot::RwLock;

use crate::limits::{CACHE_BYTES, LOCK_WAIT_SECONDS};
use crate::store::{InstanceStore, Look, StoreChange};

/// Keeps instances in a folder.
pub struct DiskStore {
    folder: PathBuf,
    /// None after a failed write, until it is opened again: a database that could not write accepts nothing more.
    open: RwLock<Option<(Database, Keyspace)>>,
}

impl DiskStore {
    /// Opens the database in a folder, or makes one.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open(folder: &Path) -> Result<DiskStore, Error> {
        Ok(DiskStore {
            open: RwLock::new(Some(open(folder)?)),
            folder: folder.to_owned(),
        })
    }

    fn opened(&self) -> Result<(Database, Keyspace), Error> {
        if let Some(open) = &*self.open.read() {
            return Ok(open.clone());
        }
        let mut slot = self.open.write();
        match &*slot {
            Some(open) => Ok(open.clone()),
            None => Ok(slot.insert(open(&self.folder)?).clone()),
        }
    }
}

fn open(folder: &Path) -> Result<(Database, Keyspace), Error> {
    // For the user of the node alone, as the data folder.
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(folder);
    made.map_err(|error| failed(error.into()))?;
    let until = Instant::now() + Duration::from_secs(LOCK_WAIT_SECONDS);
    let database = loop {
        let builder = Database::builder(folder)
            .worker_threads(1)
            .cache_size(CACHE_BYTES);
        match builder.open() {
            // Whoever had it open is just ending.
            Err(fjall::Error::Locked) if Instant::now() < until => {
                std::thread::park_timeout(Duration::from_millis(20));
            }
            opened => break opened.map_err(failed)?,
        }
    };
    let keyspace = database
        .keyspace("instances", KeyspaceCreateOptions::default)
        .map_err(failed)?;
    Ok((database, keyspace))
}

/// Disks fill up and are cleared again: whoever meets such an error tries again. What is not as it was written stays so.
fn failed(error: fjall::Error) -> Error {
    use fjall::Error::{Io, Locked, Poisoned, Storage};
    let (class, code) = match &error {
        Io(_) | Locked | Poisoned => (Class::Transient, "orchestrate.disk"),
        Storage(inner) if std::error::Error::source(inner).is_some() => {
            (Class::Transient, "orchestrate.disk")
        }
        _ => (Class::Permanent, "orchestrate.damaged"),
    };
    Error::new(class, code).caused_by(error)
}

impl InstanceStore for DiskStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let value = self.opened()?.1.get(key).map_err(failed)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, look: &mut Look<'_>) -> Result<(), Error> {
        let from = match after {
            Some(after) => Bound::Excluded(after.to_vec()),
            None => Bound::Included(prefix.to_vec()),
        };
        let (_, keyspace) = self.opened()?;
        for pair in keyspace.range::<Vec<u8>, _>((from, Bound::Unbounded)) {
            let (key, value) = pair.into_inner().map_err(failed)?;
            if !key.starts_with(prefix) || !look(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn commit(&self, changes: &[StoreChange]) -> Result<(), Error> {
        let (database, keyspace) = self.opened()?;
        let mut batch = database.batch().durability(Some(PersistMode::SyncData));
        for change in changes {
            match change {
                StoreChange::Put(key, value) => batch.insert(&keyspace, &key[..], &value[..]),
                StoreChange::Remove(key) => batch.remove(&keyspace, &key[..]),
            }
        }
        batch.commit().map_err(|error| {
            // It does not take anything more. What it had synced is there when it is opened again.
            *self.open.write() = None;
            failed(error)
        })
    }
}
