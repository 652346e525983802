//! State on disk: one fjall database for all tasks of a node.
//!
//! A key is the task's name, a zero byte, and the key within the task. One keyspace holds them all, so that a commit is one
//! entry of its journal, synced before the commit returns.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use busbar_event::{Class, Error};
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use parking_lot::RwLock;

use super::{StateChange, StateStore};
use crate::limits::{STATE_CACHE_BYTES, STATE_LOCK_WAIT};

use crate::operator::Visit;

/// Keeps state in a folder.
pub(crate) struct FjallStore {
    folder: PathBuf,
    /// None after a failed write, until it is opened again: a database that could not write accepts nothing more.
    open: RwLock<Option<OpenDatabase>>,
}

#[derive(Clone)]
struct OpenDatabase {
    database: Database,
    keyspace: Keyspace,
}

impl FjallStore {
    /// Opens the database in a folder, or makes one.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open(folder: &Path) -> Result<FjallStore, Error> {
        let open = open(folder)?;
        Ok(FjallStore {
            folder: folder.to_owned(),
            open: RwLock::new(Some(open)),
        })
    }

    fn keyspace(&self) -> Result<OpenDatabase, Error> {
        if let Some(open) = &*self.open.read() {
            return Ok(open.clone());
        }
        let mut slot = self.open.write();
        match &*slot {
            Some(open) => Ok(open.clone()),
            None => Ok(slot.insert(open(&self.folder)?).clone()),
        }
    }

    fn write(&self, write: impl FnOnce(&OpenDatabase) -> fjall::Result<()>) -> Result<(), Error> {
        let open = self.keyspace()?;
        let written = write(&open);
        drop(open);
        written.map_err(|error| {
            // It does not take anything more. What it had synced is there when it is opened again.
            *self.open.write() = None;
            failed(error)
        })
    }
}

fn open(folder: &Path) -> Result<OpenDatabase, Error> {
    // For the user of the node alone, as the data folder.
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(folder);
    made.map_err(|error| failed(error.into()))?;
    let until = Instant::now() + STATE_LOCK_WAIT;
    let database = loop {
        let builder = Database::builder(folder)
            .worker_threads(1)
            .cache_size(STATE_CACHE_BYTES);
        match builder.open() {
            // Whoever had it open is just ending.
            Err(fjall::Error::Locked) if Instant::now() < until => {
                std::thread::park_timeout(Duration::from_millis(20));
            }
            opened => break opened.map_err(failed)?,
        }
    };
    let keyspace = database
        .keyspace("state", KeyspaceCreateOptions::default)
        .map_err(failed)?;
    Ok(OpenDatabase { database, keyspace })
}

/// Disks fill up and are cleared again: whoever meets such an error tries again.
fn failed(error: fjall::Error) -> Error {
    Error::new(Class::Transient, "flow.state-disk").caused_by(error)
}

fn key_of(task: &str, key: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(task.len() + 1 + key.len());
    whole.extend_from_slice(task.as_bytes());
    whole.push(0);
    whole.extend_from_slice(key);
    whole
}

fn bytes(value: &[u8]) -> Bytes {
    // A copy: the value would keep the block it lies in.
    Bytes::copy_from_slice(value)
}

impl StateStore for FjallStore {
    fn get(&self, task: &str, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let value = self.keyspace()?.keyspace.get(key_of(task, key));
        Ok(value.map_err(failed)?.map(|value| bytes(&value)))
    }

    fn scan(&self, task: &str, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        let skip = task.len() + 1;
        for pair in self.keyspace()?.keyspace.prefix(key_of(task, prefix)) {
            let (key, value) = pair.into_inner().map_err(failed)?;
            visit(&key[skip..], bytes(&value))?;
        }
        Ok(())
    }

    fn commit(&self, task: &str, changes: Vec<StateChange>) -> Result<(), Error> {
        self.write(|open| {
            let mut batch = open
                .database
                .batch()
                .durability(Some(PersistMode::SyncData));
            for (key, value) in changes {
                let key = key_of(task, &key);
                match value {
                    Some(value) => batch.insert(&open.keyspace, key, &value[..]),
                    None => batch.remove(&open.keyspace, key),
                }
            }
            batch.commit()
        })
    }
}
