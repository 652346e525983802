//! The storage interface for users, tokens and sessions.

use std::collections::BTreeMap;

use busbar_event::Error;
use parking_lot::Mutex;

/// A small durable map. The node implements it with a store of the log, so that users are in
/// the same data folder, written by the same commit thread, as everything else.
pub trait Backing: Send + Sync {
    /// All keys and values, in any order.
    #[expect(
        clippy::type_complexity,
        reason = "pairs of keys and values need no name"
    )]
    fn load(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Error>;
    /// Sets a key; durable when it returns.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Error>;
    /// Removes a key; durable when it returns.
    fn delete(&self, key: &[u8]) -> Result<(), Error>;
}

/// A backing in memory, for tests and tools.
#[derive(Default)]
pub struct MemoryBacking(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Backing for MemoryBacking {
    fn load(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Error> {
        Ok(self
            .0
            .lock()
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect())
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.0.lock().insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn delete(&self, key: &[u8]) -> Result<(), Error> {
        self.0.lock().remove(key);
        Ok(())
    }
}
