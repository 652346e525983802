//! State of a bounded run: on disk once there is more than memory may hold, and removed with the run.

use std::path::{Path, PathBuf};

use busbar_event::Error;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::operator::{StateChange, Visit};
use crate::state::{FjallStore, StateStore};

/// A store whose folder is made when something is first committed, and removed when the store is dropped.
pub(super) struct OverflowStore {
    folder: PathBuf,
    open: Mutex<Option<FjallStore>>,
}

impl OverflowStore {
    pub fn new(folder: &Path) -> OverflowStore {
        OverflowStore {
            folder: folder.to_owned(),
            open: Mutex::default(),
        }
    }
}

impl StateStore for OverflowStore {
    fn get(&self, task: &str, key: &[u8]) -> Result<Option<Bytes>, Error> {
        match &*self.open.lock() {
            Some(store) => store.get(task, key),
            None => Ok(None),
        }
    }

    fn scan(&self, task: &str, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        match &*self.open.lock() {
            Some(store) => store.scan(task, prefix, visit),
            None => Ok(()),
        }
    }

    fn commit(&self, task: &str, changes: Vec<StateChange>) -> Result<(), Error> {
        let mut open = self.open.lock();
        let store = match &mut *open {
            Some(store) => store,
            slot => slot.insert(FjallStore::open(&self.folder)?),
        };
        store.commit(task, changes)
    }

    fn remove(&self, prefix: &str) -> Result<(), Error> {
        match &*self.open.lock() {
            Some(store) => store.remove(prefix),
            None => Ok(()),
        }
    }
}

impl Drop for OverflowStore {
    fn drop(&mut self) {
        if self.open.get_mut().take().is_some()
            && let Err(error) = std::fs::remove_dir_all(&self.folder)
        {
            tracing::warn!(folder = %self.folder.display(), %error, "the state of a run was not removed");
        }
    }
}
