//! The inferred columns of a stream, in memory and on the disk.

use arrow::datatypes::SchemaRef;
use busbar_event::{Class, Error, Result, format::SchemaSpec};
use busbar_log::{Change, Store};
use parking_lot::{Mutex, MutexGuard};

use crate::error::from_log;

/// What is known of a stream's inferred columns.
pub(crate) struct KnownColumns {
    store: Store,
    known: Mutex<Known>,
}

#[derive(Default)]
pub(crate) struct Known {
    /// Fixed: read from the store, or written to it.
    pub fixed: Option<SchemaRef>,
    /// Inferred from fewer events than it takes to fix it, and from how many.
    pub provisional: Option<(usize, SchemaRef)>,
}

impl KnownColumns {
    pub fn new(store: Store) -> KnownColumns {
        KnownColumns {
            store,
            known: Mutex::default(),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock()
    }

    /// The columns that were fixed before the process began, if they were.
    pub fn stored(&self, stream: &str) -> Result<Option<SchemaSpec>> {
        let Some(stored) = self.store.get(stream.as_bytes()) else {
            return Ok(None);
        };
        let stored = serde_json::from_slice(&stored);
        stored.map(Some).map_err(|cause| unreadable(stream, cause))
    }

    /// Keeps the columns over restarts.
    pub fn store(&self, stream: &str, schema: &SchemaRef) -> Result<()> {
        let text = serde_json::to_vec(&SchemaSpec::of(schema));
        let text = text.map_err(|cause| unreadable(stream, cause))?;
        let key = stream.as_bytes().to_vec().into();
        let change = Change::Put(key, text.into());
        self.store.apply_sync(vec![change]).map_err(from_log)
    }

    /// Forgets the columns: what was inferred holds for one format only.
    pub fn forget(&self, stream: &str) -> Result<()> {
        *self.known.lock() = Known::default();
        let change = Change::Delete(stream.as_bytes().to_vec().into());
        self.store.apply_sync(vec![change]).map_err(from_log)
    }
}

fn unreadable(stream: &str, cause: serde_json::Error) -> Error {
    Error::new(Class::Permanent, "bus.schema-stored")
        .with("stream", stream)
        .caused_by(cause)
}
