//! An open file of a simulated disk.

use std::io::{self, IoSlice};
use std::sync::Arc;

use parking_lot::Mutex;

use super::state::{Id, State};
use crate::disk::File;

pub(super) struct SimFile {
    state: Arc<Mutex<State>>,
    id: Id,
    epoch: u64,
}

impl SimFile {
    pub fn new(shared: Arc<Mutex<State>>, state: &State, id: Id) -> SimFile {
        SimFile {
            state: shared,
            id,
            epoch: state.epoch,
        }
    }

    /// The disk, if this file was opened since the last crash.
    fn live(&self) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let state = self.state.lock();
        if state.epoch != self.epoch {
            return Err(io::Error::other("opened before the crash"));
        }
        Ok(state)
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.live()?.inode(self.id).data.len() as u64)
    }

    fn write_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.live()?.write(self.id, position, parts)
    }

    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<usize> {
        self.live()?.read(self.id, position, into)
    }

    fn sync(&self) -> io::Result<()> {
        self.live()?.sync(self.id)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.live()?.truncate(self.id, len)
    }

    fn reserve(&self, _len: u64) -> io::Result<()> {
        self.live().map(|_| ())
    }

    fn forget(&self, from: u64, to: u64) {
        if let Ok(mut state) = self.live() {
            state.forget(self.id, from, to);
        }
    }
}
