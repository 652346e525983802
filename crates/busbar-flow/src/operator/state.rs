//! State as an operator sees it: keys and values of its own, read from the last snapshot, written by the next.

use std::ops::Range;

use busbar_event::Error;
use bytes::Bytes;

/// What a scan calls with each key and value; an error ends the scan.
pub(crate) type Visit<'a> = dyn FnMut(&[u8], Bytes) -> Result<(), Error> + 'a;

/// A key and its new value; none where it is removed.
pub(crate) type StateChange = (Bytes, Option<Bytes>);

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
///
/// A snapshot is taken on the thread of the task, so it does as little as it can: keys and small values are copied one
/// behind the other into one buffer, and large values are made by [`Changes::resolve`], on the thread that commits them.
#[derive(Default)]
pub(crate) struct Changes {
    /// Stands before every key.
    prefix: Vec<u8>,
    bytes: Vec<u8>,
    changes: Vec<(Range<usize>, NewValue)>,
}

enum NewValue {
    Removed,
    /// Its place in the buffer.
    Copied(Range<usize>),
    Made(Box<dyn FnOnce() -> Result<Bytes, Error> + Send>),
}

impl Changes {
    /// No changes yet, of keys that all begin with `prefix`.
    pub fn under(prefix: Vec<u8>) -> Changes {
        Changes {
            prefix,
            ..Changes::default()
        }
    }

    /// Sets the value of a key.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.write(&[key], |out| out.extend_from_slice(value));
    }

    /// Sets the value of a key, given in pieces, to what `value` appends.
    pub fn write(&mut self, key: &[&[u8]], value: impl FnOnce(&mut Vec<u8>)) {
        let key = self.key(key);
        let begin = self.bytes.len();
        value(&mut self.bytes);
        let value = NewValue::Copied(begin..self.bytes.len());
        self.changes.push((key, value));
    }

    /// Sets the value of a key to what `value` answers later, on another thread.
    pub fn put_made(
        &mut self,
        key: &[u8],
        value: impl FnOnce() -> Result<Bytes, Error> + Send + 'static,
    ) {
        let key = self.key(&[key]);
        self.changes.push((key, NewValue::Made(Box::new(value))));
    }

    /// Removes a key, given in pieces.
    pub fn delete(&mut self, key: &[&[u8]]) {
        let key = self.key(key);
        self.changes.push((key, NewValue::Removed));
    }

    fn key(&mut self, pieces: &[&[u8]]) -> Range<usize> {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&self.prefix);
        for piece in pieces {
            self.bytes.extend_from_slice(piece);
        }
        begin..self.bytes.len()
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// The changes in the order in which they were made.
    ///
    /// # Errors
    /// What making a value said.
    pub fn resolve(self) -> Result<Vec<StateChange>, Error> {
        let bytes = Bytes::from(self.bytes);
        let resolve = |(key, value): (Range<usize>, NewValue)| {
            let value = match value {
                NewValue::Removed => None,
                NewValue::Copied(place) => Some(bytes.slice(place)),
                NewValue::Made(make) => Some(make()?),
            };
            Ok((bytes.slice(key), value))
        };
        self.changes.into_iter().map(resolve).collect()
    }
}
