//! State as an operator sees it: keys and values of its own, read from the last snapshot, written by the next.

use busbar_event::Error;
use bytes::Bytes;

/// What a scan calls with each key and value; an error ends the scan.
pub(crate) type Visit<'a> = dyn FnMut(&[u8], Bytes) -> Result<(), Error> + 'a;

/// Reads an operator's state as of its last snapshot. May block on the disk.
pub(crate) trait StateReader: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// What the disk says.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// Calls `visit` with each pair whose key starts with `prefix`, in the order of the keys, until it fails.
    ///
    /// # Errors
    /// What the disk says, or `visit`.
    fn scan(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), Error>;
}

/// What has changed in an operator's state since its last snapshot.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) changes: Vec<(Vec<u8>, Option<Bytes>)>,
}

impl Changes {
    /// Sets the value of a key.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Bytes>) {
        self.changes.push((key.into(), Some(value.into())));
    }

    /// Removes a key.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.changes.push((key.into(), None));
    }
}
