//! State on disk: one fjall database for all tasks of a node.
//!
//! A key is the task's name, a zero byte, and the key within the task. One keyspace holds them all, so that a commit is one
//! entry of its journal, synced before the commit returns.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use busbar_event::{Class, Error};
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable as _};
use parking_lot::RwLock;

use super::StateStore;
use crate::limits::{STATE_CACHE_BYTES, STATE_LOCK_WAIT, STATE_REMOVE_KEYS};
use crate::operator::{StateChange, Visit};

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

    /// As [`FjallStore::open`]. A database that cannot be opened because its files are damaged is put aside, and a new one
    /// takes its place; answers where the old one is then.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open_or_replace(folder: &Path) -> Result<(FjallStore, Option<PathBuf>), Error> {
        match FjallStore::open(folder) {
            Err(error) if error.code() == "flow.state-damaged" => {
                let aside = aside(folder);
                let failed = |error: std::io::Error| failed(error.into());
                std::fs::rename(folder, &aside).map_err(failed)?;
                tracing::error!(
                    %error, folder = %aside.display(),
                    "the database of the state of flows is damaged and was put aside; flows go on from their copies"
                );
                Ok((FjallStore::open(folder)?, Some(aside)))
            }
            opened => Ok((opened?, None)),
        }
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

/// Disks fill up and are cleared again: whoever meets such an error tries again. What is not as it was written stays so.
fn failed(error: fjall::Error) -> Error {
    use fjall::Error::{Io, Locked, Poisoned, Storage};
    let (class, code) = match &error {
        Io(_) | Locked | Poisoned => (Class::Transient, "flow.state-disk"),
        Storage(inner) if std::error::Error::source(inner).is_some() => {
            (Class::Transient, "flow.state-disk")
        }
        _ => (Class::Permanent, "flow.state-damaged"),
    };
    Error::new(class, code).caused_by(error)
}

/// A folder's name with a number that no other has.
fn aside(folder: &Path) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let numbered = |number: u32| folder.with_file_name(format!("{name}-damaged-{number}"));
    let mut free = (1..).map(numbered);
    free.find(|path| !path.exists())
        .unwrap_or_else(|| numbered(0))
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
        // As of one moment, whatever is committed meanwhile.
        let open = self.keyspace()?;
        let snapshot = open.database.snapshot();
        for pair in snapshot.prefix(&open.keyspace, key_of(task, prefix)) {
            let (key, value) = pair.into_inner().map_err(failed)?;
            visit(&key[skip..], bytes(&value))?;
        }
        Ok(())
    }

    fn remove(&self, prefix: &str) -> Result<(), Error> {
        loop {
            let open = self.keyspace()?;
            let pairs = open.keyspace.prefix(prefix.as_bytes());
            let mut keys = Vec::new();
            for pair in pairs.take(STATE_REMOVE_KEYS) {
                keys.push(pair.key().map_err(failed)?);
            }
            if keys.is_empty() {
                return Ok(());
            }
            self.write(|open| {
                let mut batch = open.database.batch();
                for key in keys {
                    batch.remove(&open.keyspace, key);
                }
                batch.commit()
            })?;
        }
    }

    fn commit(&self, task: &str, changes: Vec<StateChange>) -> Result<(), Error> {
        self.write(|open| {
            let mut batch = open
                .database
                .batch()
                .durability(Some(PersistMode::SyncData));
            let mut whole = key_of(task, b"");
            let begin = whole.len();
            for (key, value) in changes {
                whole.truncate(begin);
                whole.extend_from_slice(&key);
                match value {
                    Some(value) => batch.insert(&open.keyspace, &whole[..], &value[..]),
                    None => batch.remove(&open.keyspace, &whole[..]),
                }
            }
            batch.commit()
        })
    }
}
