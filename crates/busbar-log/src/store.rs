//! A small durable map.

use bytes::Bytes;

use crate::error::Result;

/// One change of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets the value of a key.
    Put(Bytes, Bytes),
    /// Removes a key.
    Delete(Bytes),
}

/// A durable ordered map in memory, journalled through the commit thread.
#[derive(Clone)]
pub struct Store(());

impl Store {
    /// The committed value of a key.
    pub fn get(&self, _key: &[u8]) -> Option<Bytes> {
        todo!()
    }
    /// Up to `limit` committed pairs whose keys start with `prefix`, in order, after key `after`.
    pub fn scan(&self, _prefix: &[u8], _after: Option<&[u8]>, _limit: usize) -> Vec<(Bytes, Bytes)> {
        todo!()
    }
    /// Number of keys.
    pub fn len(&self) -> usize {
        todo!()
    }
    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Applies all of `changes` or none; `done` is called on the commit thread when they are
    /// durable and visible, or have failed. Never blocks.
    pub fn apply(&self, _changes: Vec<Change>, _done: Option<Box<dyn FnOnce(Result<()>) + Send>>) {
        todo!()
    }
    /// As [`Store::apply`], waiting. Not to be called on the commit thread.
    pub fn apply_sync(&self, _changes: Vec<Change>) -> Result<()> {
        todo!()
    }
}
