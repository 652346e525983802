//! The database of all wide tables of a node, and its commits.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use busbar_event::{Class, Error};
use busbar_log::Clock;
use fjall::compaction::filter::{
    CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict,
};
use fjall::{
    Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable as _,
    Snapshot,
};
use hashbrown::HashMap;
use parking_lot::RwLock;

use crate::limits::{WIDE_CACHE_BYTES, WIDE_FAMILIES_EVER_MAX, WIDE_LOCK_WAIT};

/// The keyspace of what is kept beside the cells. No table can have this name.
const META: &str = "_meta";

/// Time to live of the families of each table, by their numbers in keys, in microseconds.
type Ttls = Arc<RwLock<HashMap<String, [Option<i64>; WIDE_FAMILIES_EVER_MAX]>>>;

/// One fjall database: a keyspace for the cells of each table and one for what is kept beside them.
///
/// | key in `_meta` | value |
/// | --- | --- |
/// | `l/<table>` | [`super::layout::StoredLayout`], JSON |
/// | `p/<table>/<producer>` | the producer's last position, 8 bytes, big-endian |
/// | `s/<table>` | the number of the table's last fragment, 8 bytes, big-endian |
pub(crate) struct WideStore {
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    ttls: Ttls,
    /// None after a failed write, until it is opened again: a database that could not write accepts nothing more.
    open: RwLock<Option<Arc<Opened>>>,
}

struct Opened {
    database: Database,
    meta: Keyspace,
    tables: RwLock<HashMap<String, Keyspace>>,
}

/// Changes that are made together.
pub(super) struct CellCommit {
    opened: Arc<Opened>,
    cells: Keyspace,
    batch: OwnedWriteBatch,
}

/// A table as it was at one moment.
pub(super) struct StoredPicture {
    snapshot: Snapshot,
    cells: Keyspace,
}

impl WideStore {
    /// The database in this folder, opened when it is first needed.
    pub fn new(folder: &Path, clock: Arc<dyn Clock>) -> Self {
        Self {
            folder: folder.to_owned(),
            clock,
            ttls: Ttls::default(),
            open: RwLock::default(),
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Sets how long cells of each family stay, by the family's number in keys.
    pub(super) fn set_ttls(&self, table: &str, ttls: [Option<i64>; WIDE_FAMILIES_EVER_MAX]) {
        self.ttls.write().insert(table.to_owned(), ttls);
    }

    fn opened(&self) -> Result<Arc<Opened>, Error> {
        if let Some(opened) = &*self.open.read() {
            return Ok(Arc::clone(opened));
        }
        let mut slot = self.open.write();
        if let Some(opened) = &*slot {
            return Ok(Arc::clone(opened));
        }
        let opened = Arc::new(self.open_database()?);
        Ok(Arc::clone(slot.insert(opened)))
    }

    fn open_database(&self) -> Result<Opened, Error> {
        // For the user of the node alone, as the data folder.
        let mut builder = std::fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&self.folder);
        made.map_err(|cause| {
            Error::new(Class::Configuration, "table.folder")
                .with("folder", self.folder.display())
                .caused_by(cause)
        })?;
        let until = Instant::now() + WIDE_LOCK_WAIT;
        let database = loop {
            let (ttls, clock) = (Arc::clone(&self.ttls), Arc::clone(&self.clock));
            let builder = Database::builder(&self.folder)
                .worker_threads(1)
                .cache_size(WIDE_CACHE_BYTES)
                .with_compaction_filter_factories(Arc::new(move |table| {
                    let expiry = Expiry {
                        table: table.to_owned(),
                        ttls: Arc::clone(&ttls),
                        clock: Arc::clone(&clock),
                    };
                    (table != META).then(|| Arc::new(expiry) as Arc<dyn Factory>)
                }));
            match builder.open() {
                // Whoever had it open is just ending.
                Err(fjall::Error::Locked) if Instant::now() < until => {
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                opened => break opened.map_err(failed)?,
            }
        };
        let meta = keyspace(&database, META)?;
        Ok(Opened {
            database,
            meta,
            tables: RwLock::default(),
        })
    }

    fn cells(&self, table: &str) -> Result<(Arc<Opened>, Keyspace), Error> {
        let opened = self.opened()?;
        let known = opened.tables.read().get(table).cloned();
        if let Some(cells) = known {
            return Ok((opened, cells));
        }
        let cells = keyspace(&opened.database, table)?;
        let name = table.to_owned();
        opened.tables.write().insert(name, cells.clone());
        Ok((opened, cells))
    }

    /// What is kept beside the cells under a key.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let value = self.opened()?.meta.get(key).map_err(failed)?;
        Ok(value.map(|value| value.to_vec()))
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self, table: &str) -> Result<u64, Error> {
        Ok(self.cells(table)?.1.disk_space())
    }

    /// The table as it is now.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn picture(&self, table: &str) -> Result<StoredPicture, Error> {
        let (opened, cells) = self.cells(table)?;
        Ok(StoredPicture {
            snapshot: opened.database.snapshot(),
            cells,
        })
    }

    /// Begins a commit.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn begin(&self, table: &str) -> Result<CellCommit, Error> {
        let (opened, cells) = self.cells(table)?;
        let batch = opened.database.batch();
        Ok(CellCommit {
            opened,
            cells,
            batch,
        })
    }

    /// Makes the changes of a commit. They are not durable before [`WideStore::sync`] has returned.
    ///
    /// # Errors
    /// What the disk says; then nothing has changed.
    pub(super) fn commit(&self, commit: CellCommit) -> Result<(), Error> {
        let CellCommit { opened, batch, .. } = commit;
        let done = batch.commit();
        drop(opened);
        self.settle(done)
    }

    /// Makes every commit so far durable.
    ///
    /// # Errors
    /// What the disk says; then it is not known whether the commits are durable.
    pub(super) fn sync(&self) -> Result<(), Error> {
        let done = self.opened()?.database.persist(PersistMode::SyncData);
        self.settle(done)
    }

    fn settle(&self, done: fjall::Result<()>) -> Result<(), Error> {
        done.map_err(|cause| {
            // It does not take anything more. What it had synced is there when it is opened again.
            *self.open.write() = None;
            failed(cause)
        })
    }
}

impl CellCommit {
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.batch.insert(&self.cells, key, value);
    }

    pub fn remove(&mut self, key: &[u8]) {
        self.batch.remove(&self.cells, key);
    }

    pub fn put_meta(&mut self, key: &str, value: &[u8]) {
        self.batch.insert(&self.opened.meta, key, value);
    }
}

impl StoredPicture {
    /// Fragments whose keys are in the range, in order.
    pub fn range(&self, range: impl std::ops::RangeBounds<Vec<u8>>) -> fjall::Iter {
        self.snapshot.range(&self.cells, range)
    }
}

fn keyspace(database: &Database, name: &str) -> Result<Keyspace, Error> {
    let made = database.keyspace(name, KeyspaceCreateOptions::default);
    made.map_err(failed)
}

/// Disks fill up and are cleared again: whoever meets such an error tries again.
pub(super) fn failed(cause: fjall::Error) -> Error {
    Error::new(Class::Transient, "table.wide-disk").caused_by(cause)
}

/// Leaves out, when files are merged, the fragments whose time to live is over.
struct Expiry {
    table: String,
    ttls: Ttls,
    clock: Arc<dyn Clock>,
}

impl std::panic::RefUnwindSafe for Expiry {}

impl Factory for Expiry {
    fn name(&self) -> &str {
        "expiry"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        let now = self.clock.now_micros();
        let ttls = self.ttls.read().get(&self.table).copied();
        // A fragment written before this time has expired.
        let before = ttls.unwrap_or_default().map(|ttl| Some(now - ttl?));
        Box::new(Expired { before })
    }
}

struct Expired {
    before: [Option<i64>; WIDE_FAMILIES_EVER_MAX],
}

impl CompactionFilter for Expired {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        let expired = super::read::Stamp::of(item.key()).is_some_and(|(_, stamp)| {
            let before = self.before.get(usize::from(stamp.family)).copied();
            before.flatten().is_some_and(|before| stamp.time < before)
        });
        // A key is written once, so nothing older can come to light.
        Ok(if expired {
            Verdict::Destroy
        } else {
            Verdict::Keep
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use busbar_log::ManualClock;

    use super::super::read::Stamp;
    use super::*;

    #[test]
    fn what_has_expired_is_left_out_when_files_are_merged() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(100));
        let store = WideStore::new(folder.path(), Arc::clone(&clock) as _);
        let mut ttls = [None; WIDE_FAMILIES_EVER_MAX];
        ttls[1] = Some(50);
        store.set_ttls("t", ttls);
        let mut commit = store.begin("t").unwrap();
        for (family, time) in [(0, 10), (1, 10), (1, 90), (2, 10)] {
            let mut key = b"row".to_vec();
            let number = 1;
            Stamp {
                family,
                time,
                number,
            }
            .push(&mut key);
            commit.put(&key, b"");
        }
        store.commit(commit).unwrap();
        let left = || {
            let all = store.picture("t").unwrap().range(..);
            let keys = all.map(|guard| guard.key().unwrap());
            let stamps = keys.map(|key| Stamp::of(&key).map(|(_, it)| (it.family, it.time)));
            stamps.map(Option::unwrap).collect::<Vec<_>>()
        };
        assert_eq!(left(), [(0, 10), (1, 90), (1, 10), (2, 10)]);
        let (_, cells) = store.cells("t").unwrap();
        cells.rotate_memtable_and_wait().unwrap();
        cells.major_compact().unwrap();
        assert_eq!(left(), [(0, 10), (1, 90), (2, 10)]);
    }
}
