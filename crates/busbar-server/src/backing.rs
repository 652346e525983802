//! Users and tokens in a store of the log.

use busbar_access::Backing;
use busbar_bus::from_log;
use busbar_event::Error;
use busbar_log::{Change, Store};
use bytes::Bytes;

/// A store of the log, as the access crate wants it.
pub(crate) struct StoreBacking(pub(crate) Store);

/// Records read at once.
const PAGE: usize = 1_000;

impl Backing for StoreBacking {
    fn load(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Error> {
        let mut all: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut after: Option<Bytes> = None;
        loop {
            let page = self.0.scan(b"", after.as_deref(), PAGE);
            let Some((last, _)) = page.last() else {
                return Ok(all);
            };
            after = Some(last.clone());
            all.extend(
                page.iter()
                    .map(|(key, value)| (key.to_vec(), value.to_vec())),
            );
        }
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let put = Change::Put(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        self.0.apply_sync(vec![put]).map_err(from_log)
    }

    fn delete(&self, key: &[u8]) -> Result<(), Error> {
        let delete = Change::Delete(Bytes::copy_from_slice(key));
        self.0.apply_sync(vec![delete]).map_err(from_log)
    }
}
