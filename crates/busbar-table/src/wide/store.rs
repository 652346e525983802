//! The database of all wide tables of a node, and its commits.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use busbar_event::{Class, Error};
use busbar_log::Clock;
use fjall::compaction::filter::{
    CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict,
};
use fjall::{
    Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, OwnedWriteBatch, PersistMode,
    Readable as _, Slice, Snapshot,
};
use hashbrown::HashMap;
use parking_lot::RwLock;

use super::group_sync::{GroupSync, JournalFile};
use super::kept_rows::FragmentEntry;
use super::key::KeyRange;
use super::layout::WideLayout;
use super::read::{Stamp, damaged};
use super::release::Releases;
use super::row_cache::{Cached, CachedFragments, RowCache, RowsOf};
use super::sweep::{FragmentState, LiveRow};
use super::writeback::Writeback;
use crate::limits::{
    WIDE_APART_BYTES, WIDE_FAMILIES_EVER_MAX, WIDE_LOCK_WAIT, WIDE_ROW_CACHED_BYTES_MAX,
};

/// The keyspace of what is kept beside the cells. No table can have this name.
const META: &str = "_meta";

/// Time to live of the families of each table, by their numbers in keys, in microseconds.
type Ttls = Arc<RwLock<HashMap<String, [Option<i64>; WIDE_FAMILIES_EVER_MAX]>>>;

/// Key and value of what is kept beside the cells.
type MetaEntry = (Vec<u8>, Vec<u8>);

/// One fjall database: a keyspace for the cells of each table and one for what is kept beside them.
///
/// | key in `_meta` | value |
/// | --- | --- |
/// | `l/<table>` | [`super::layout::StoredLayout`], JSON |
/// | `p/<table>/<producer>` | the producer's last position, 8 bytes, big-endian |
/// | `c/<table>/<position>` | a change that nobody has taken yet: see `kept_changes` |
/// | `s/<table>` | the number of the table's last fragment and the time of the last writing, 8 bytes each, big-endian |
/// | `w/<table>` | that number when the last whole sweep began, and how many fragments it left, 8 bytes each, big-endian |
pub(crate) struct WideStore {
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    ttls: Ttls,
    /// None after a failed write, until it is opened again: a database that could not write accepts nothing more.
    open: RwLock<Option<Arc<Opened>>>,
    rows: RowCache,
    cache_bytes: u64,
    /// Numbers that tables were given.
    numbered: AtomicU32,
}

struct Opened {
    /// Before the database: it holds parts of it.
    releases: Releases,
    writeback: Writeback,
    database: Database,
    meta: Keyspace,
    tables: RwLock<HashMap<String, Arc<StoredTable>>>,
    durable: GroupSync,
    journal: JournalFile,
}

struct StoredTable {
    /// What [`RowCache`] knows it by: another one after the database was opened again.
    number: u32,
    cells: Keyspace,
    /// Twice the number of changes so far, and one more while one is made, until [`RowCache`] has it too.
    changes: AtomicU64,
}

/// Changes that are made together.
pub(super) struct CellCommit {
    opened: Arc<Opened>,
    table: Arc<StoredTable>,
    batch: OwnedWriteBatch,
    /// Fragments that are put.
    put: Vec<FragmentEntry>,
    /// Keys of deletions that are removed.
    deletions: Vec<Slice>,
}

/// A commit that is visible, and may not be durable yet.
#[must_use]
pub(super) struct Undurable {
    opened: Arc<Opened>,
    number: u64,
}

/// A table as it was at one moment.
pub(super) struct StoredPicture {
    store: Arc<WideStore>,
    opened: Arc<Opened>,
    table: Arc<StoredTable>,
    /// None as long as it need not be taken: where one row is read, it is as it was at one moment in any case.
    snapshot: Option<Snapshot>,
    /// Rows in memory that no later change has changed are those of this moment; none is if the table was being changed.
    until: Option<u64>,
}

/// Reads all fragments of a table as it was at one moment.
pub(super) struct AllFragments {
    entries: fjall::Iter,
    /// The same fragments: of one entry either the value or its size can be asked for.
    sizes: fjall::Iter,
    /// The key of the fragment before.
    before: Option<Slice>,
    snapshot: Snapshot,
    table: Arc<StoredTable>,
}

/// A fragment of a table.
pub(super) struct FoundFragment {
    pub key: Slice,
    /// Bytes of the value.
    pub size: u32,
    /// None for the first fragment of a family of a row.
    pub value: Option<Slice>,
}

impl WideStore {
    /// The database in this folder, opened when it is first needed. `cache_bytes` of what was read lately are kept in memory.
    pub fn new(folder: &Path, clock: Arc<dyn Clock>, cache_bytes: u64) -> Self {
        Self {
            folder: folder.to_owned(),
            clock,
            cache_bytes,
            ttls: Ttls::default(),
            open: RwLock::default(),
            rows: RowCache::new(usize::try_from(cache_bytes / 2).unwrap_or(usize::MAX)),
            numbered: AtomicU32::new(0),
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
                .cache_size(self.cache_bytes / 2)
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
        let meta = database.keyspace(META, KeyspaceCreateOptions::default);
        let meta = meta.map_err(failed)?;
        let writeback = Writeback::start();
        writeback.add(&meta);
        Ok(Opened {
            releases: Releases::new(&self.folder),
            writeback,
            database,
            meta,
            tables: RwLock::default(),
            durable: GroupSync::default(),
            journal: JournalFile::new(&self.folder),
        })
    }

    fn table(&self, table: &str) -> Result<(Arc<Opened>, Arc<StoredTable>), Error> {
        let opened = self.opened()?;
        let known = opened.tables.read().get(table).cloned();
        if let Some(known) = known {
            return Ok((opened, known));
        }
        let cells = opened.database.keyspace(table, cells_options);
        let cells = cells.map_err(failed)?;
        let mut tables = opened.tables.write();
        let number = self.numbered.fetch_add(1, Ordering::Relaxed);
        let made = tables.entry(table.to_owned()).or_insert_with(|| {
            opened.releases.add(&cells);
            opened.writeback.add(&cells);
            let changes = AtomicU64::new(0);
            Arc::new(StoredTable {
                number,
                cells,
                changes,
            })
        });
        let made = Arc::clone(made);
        drop(tables);
        Ok((opened, made))
    }

    /// What is kept beside the cells under a key.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let value = self.opened()?.meta.get(key).map_err(failed)?;
        Ok(value.map(|value| value.to_vec()))
    }

    /// What is kept beside the cells under the keys of a range, both ends included: at least one, and no more after `bytes_max`.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn meta_range(
        &self,
        from: &str,
        to: &str,
        bytes_max: usize,
    ) -> Result<Vec<MetaEntry>, Error> {
        let opened = self.opened()?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        for guard in opened.database.snapshot().range(&opened.meta, from..=to) {
            let (key, value) = guard.into_inner().map_err(failed)?;
            bytes += value.len();
            found.push((key.to_vec(), value.to_vec()));
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(found)
    }

    /// Bytes on disk.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn bytes(&self, table: &str) -> Result<u64, Error> {
        Ok(self.table(table)?.1.cells.disk_space())
    }

    /// Whether a table has any fragments.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn has_fragments(&self, table: &str) -> Result<bool, Error> {
        let (opened, table) = self.table(table)?;
        let mut all = opened.database.snapshot().iter(&table.cells);
        Ok(all.next().is_some())
    }

    /// All fragments of a table as it is now.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn all(&self, table: &str) -> Result<AllFragments, Error> {
        let (opened, table) = self.table(table)?;
        let snapshot = opened.database.snapshot();
        Ok(AllFragments {
            entries: snapshot.iter(&table.cells),
            sizes: snapshot.iter(&table.cells),
            before: None,
            snapshot,
            table,
        })
    }

    /// The table as it is now, of which so many rows or ranges of rows will be read.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn picture(
        self: &Arc<Self>,
        table: &str,
        reads: usize,
    ) -> Result<StoredPicture, Error> {
        let (opened, table) = self.table(table)?;
        let before = table.changes.load(Ordering::SeqCst);
        let snapshot = (reads > 1).then(|| opened.database.snapshot());
        let after = table.changes.load(Ordering::SeqCst);
        let until = match snapshot {
            Some(_) => (before == after && before.is_multiple_of(2)).then_some(before),
            None => None,
        };
        Ok(StoredPicture {
            store: Arc::clone(self),
            opened,
            table,
            snapshot,
            until,
        })
    }

    /// Begins a commit.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn begin(&self, table: &str) -> Result<CellCommit, Error> {
        let (opened, table) = self.table(table)?;
        let batch = opened.database.batch();
        Ok(CellCommit {
            opened,
            table,
            batch,
            put: Vec::new(),
            deletions: Vec::new(),
        })
    }

    /// Makes the changes of a commit. They are not durable before [`WideStore::sync`] has returned. Callers make those of one
    /// table one after another.
    ///
    /// # Errors
    /// What the disk says; then nothing has changed.
    pub(super) fn commit(
        &self,
        commit: CellCommit,
        layout: &WideLayout,
    ) -> Result<Undurable, Error> {
        let CellCommit {
            opened,
            table,
            batch,
            put,
            ..
        } = commit;
        let of = table.rows(layout);
        self.rows.begin_change(of, &put);
        let changed = table.changes.fetch_add(1, Ordering::SeqCst) + 2;
        let done = batch.commit();
        match done {
            Ok(()) => {
                let now = self.clock.now_micros();
                self.rows.end_change(of, &put, changed, layout, now);
            }
            Err(_) => self.rows.abandon_change(of, &put),
        }
        table.changes.fetch_add(1, Ordering::SeqCst);
        opened.releases.note_write();
        let number = opened.durable.note_commit();
        self.settle(done)?;
        Ok(Undurable { opened, number })
    }

    /// Makes the removals of a commit. They become durable with what is committed next.
    ///
    /// # Errors
    /// What the disk says; then nothing has changed.
    pub(super) fn remove(&self, commit: CellCommit, layout: &WideLayout) -> Result<(), Error> {
        let done = commit.batch.commit();
        // Without the deletion, what is put with an earlier time can be seen: a row in memory must not have it longer than the
        // files. The other fragments were hidden for good, so a row in memory may keep them; to read it from the files again
        // could mean to read past tens of thousands that were removed.
        let keys = commit.deletions.iter().filter_map(|key| Stamp::of(key));
        for (row, _) in keys {
            self.rows.forget(commit.table.rows(layout), row);
        }
        self.settle(done)
    }

    /// Makes a commit durable, and every one before it.
    ///
    /// # Errors
    /// What the disk says; then it is not known whether the commits are durable.
    pub(super) fn sync(&self, commit: Undurable) -> Result<(), Error> {
        let Undurable { opened, number } = commit;
        self.settle(opened.make_durable(number))
    }

    /// Makes every commit so far durable.
    ///
    /// # Errors
    /// As of [`WideStore::sync`].
    pub(super) fn sync_all(&self) -> Result<(), Error> {
        let opened = self.opened()?;
        let number = opened.durable.last_commit();
        self.settle(opened.make_durable(number))
    }

    fn settle(&self, done: fjall::Result<()>) -> Result<(), Error> {
        done.map_err(|cause| {
            // It does not take anything more. What it had synced is there when it is opened again.
            *self.open.write() = None;
            self.rows.clear();
            failed(cause)
        })
    }
}

impl Opened {
    fn make_durable(&self, number: u64) -> fjall::Result<()> {
        let sync = || {
            // Into the journal's file, if it is not there yet.
            self.database.persist(PersistMode::Buffer)?;
            Ok(self.journal.sync()?)
        };
        self.durable
            .make_durable(number, sync, || fjall::Error::Poisoned)
    }
}

impl AllFragments {
    /// The value of a fragment that was found.
    ///
    /// # Errors
    /// What the disk says.
    pub fn value(&self, key: &Slice) -> Result<Slice, Error> {
        let value = self.snapshot.get(&self.table.cells, key);
        value.map_err(failed)?.ok_or_else(damaged)
    }

    fn found(&mut self, entry: fjall::Guard, size: fjall::Guard) -> fjall::Result<FoundFragment> {
        let before = self.before.as_deref().and_then(Stamp::group);
        let follows = |key: &Slice| before.is_some() && before == Stamp::group(key);
        let (key, value) = entry.into_inner_if(follows)?;
        let size = size.size()?;
        self.before = Some(key.clone());
        Ok(FoundFragment { key, size, value })
    }
}

/// In the order of keys. A value is read only where the fragment before is of the same family of the same row: values are most of
/// what a table is.
impl Iterator for AllFragments {
    type Item = Result<FoundFragment, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let (entry, size) = (self.entries.next()?, self.sizes.next()?);
        Some(self.found(entry, size).map_err(failed))
    }
}

impl StoredTable {
    fn rows(&self, layout: &WideLayout) -> RowsOf {
        RowsOf {
            table: self.number,
            layout: layout.number,
        }
    }
}

impl CellCommit {
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        let (key, value) = (Slice::from(key), Slice::from(value));
        self.batch
            .insert(&self.table.cells, key.clone(), value.clone());
        self.put.push((key, value));
    }

    /// Removes a fragment that is dead.
    pub fn remove(&mut self, key: &Slice) {
        self.batch.remove(&self.table.cells, key.clone());
    }

    /// Removes a deletion.
    pub fn remove_deletion(&mut self, key: &Slice) {
        self.remove(key);
        self.deletions.push(key.clone());
    }

    pub fn put_meta(&mut self, key: &str, value: &[u8]) {
        self.batch.insert(&self.opened.meta, key, value);
    }

    pub fn remove_meta(&mut self, key: &str) {
        self.batch.remove(&self.opened.meta, key);
    }
}

impl StoredPicture {
    fn snapshot(&mut self) -> &Snapshot {
        let opened = &self.opened;
        self.snapshot
            .get_or_insert_with(|| opened.database.snapshot())
    }

    /// Fragments whose keys are in the range, in order.
    pub fn range(&mut self, range: KeyRange) -> fjall::Iter {
        let table = Arc::clone(&self.table);
        self.snapshot()
            .range(&table.cells, (range.start, range.end))
    }

    /// The fragments of a row, if they are in memory.
    ///
    /// # Errors
    /// What the disk says.
    fn cached(&self, of: RowsOf, row: &[u8]) -> Result<Option<CachedFragments>, Error> {
        let until = match (&self.snapshot, self.until) {
            (None, _) => None,
            (Some(_), Some(until)) => Some(until),
            (Some(_), None) => return Ok(None),
        };
        let rows = &self.store.rows;
        let mut cached = rows.get(of, row, until);
        loop {
            let (fragments, written) = match cached {
                Cached::Row(fragments) => return Ok(Some(fragments)),
                Cached::Changing(fragments, written) => (fragments, written),
                Cached::Nothing => return Ok(None),
            };
            // Whether others see what is being committed: all of it or nothing.
            let now = self.opened.database.snapshot();
            let is_visible = now.contains_key(&self.table.cells, &written[0].0);
            if is_visible.map_err(failed)? {
                let mut all = [&fragments[..], &written].concat();
                all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
                all.dedup_by(|a, b| a.0 == b.0);
                return Ok(Some(all.into()));
            }
            // Not yet, as long as it is still being committed; afterwards a later change may have replaced it.
            cached = match rows.get(of, row, until) {
                Cached::Changing(_, still) if still[0].0 == written[0].0 => Cached::Row(fragments),
                changed => changed,
            };
        }
    }

    /// The fragments of a row that can be seen, and more of them that are still to be read where they are too many to be kept
    /// in memory.
    ///
    /// # Errors
    /// What the disk says, or a fragment that cannot be read.
    pub fn row(
        &mut self,
        range: KeyRange,
        layout: &WideLayout,
    ) -> Result<(CachedFragments, Option<fjall::Iter>), Error> {
        let (store, table) = (Arc::clone(&self.store), Arc::clone(&self.table));
        let of = table.rows(layout);
        let row = range.row().unwrap_or_default().to_vec();
        let mut has_waited = false;
        let loading = loop {
            if let Some(found) = self.cached(of, &row)? {
                return Ok((found, None));
            }
            let loading = store.rows.load(of, &row);
            if loading.is_some() || has_waited {
                break loading;
            }
            // A popular row may have tens of thousands of fragments: it is enough if one reads them.
            store.rows.wait(of, &row);
            has_waited = true;
        };
        // A picture that was taken before must not lack what has been written until now; what is written from now on is taken.
        let changes = table.changes.load(Ordering::SeqCst);
        let is_now = self.snapshot.is_none() || self.until == Some(changes);
        let loading = loading.filter(|_| is_now);
        let now = store.clock.now_micros();
        let (mut live, mut found, mut bytes) = (LiveRow::new(layout, now), Vec::new(), 0);
        let mut fragments = self.range(range);
        for guard in fragments.by_ref() {
            let (key, value) = guard.into_inner().map_err(failed)?;
            if live.look(&key, &value)? == FragmentState::Dead {
                continue;
            }
            bytes += key.len() + value.len();
            // Copies: what the files' cache hands out holds whole blocks.
            found.push((Slice::from(&*key), Slice::from(&*value)));
            if bytes > WIDE_ROW_CACHED_BYTES_MAX {
                return Ok((found.into(), Some(fragments)));
            }
        }
        let found: CachedFragments = found.into();
        if let Some(loading) = loading {
            let changed = table.changes.load(Ordering::SeqCst).next_multiple_of(2);
            loading.keep(&found, changed, layout, now);
        }
        Ok((found, None))
    }
}

/// Large values are in files of their own, so that merging the others does not write them again.
pub(super) fn cells_options() -> KeyspaceCreateOptions {
    let apart = KvSeparationOptions::default().separation_threshold(WIDE_APART_BYTES);
    KeyspaceCreateOptions::default().with_kv_separation(Some(apart))
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

    use super::*;
    use crate::limits::WIDE_CACHE_BYTES;

    #[test]
    fn what_has_expired_is_left_out_when_files_are_merged() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(100));
        let store = WideStore::new(folder.path(), Arc::clone(&clock) as _, WIDE_CACHE_BYTES);
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
        let committed = store.commit(commit, &WideLayout::plain()).unwrap();
        store.sync(committed).unwrap();
        let left = || {
            let all = store.all("t").unwrap();
            let keys = all.map(|found| found.unwrap().key);
            let stamps = keys.map(|key| Stamp::of(&key).map(|(_, it)| (it.family, it.time)));
            stamps.map(Option::unwrap).collect::<Vec<_>>()
        };
        assert_eq!(left(), [(0, 10), (1, 90), (1, 10), (2, 10)]);
        let (_, table) = store.table("t").unwrap();
        table.cells.rotate_memtable_and_wait().unwrap();
        table.cells.major_compact().unwrap();
        assert_eq!(left(), [(0, 10), (1, 90), (2, 10)]);
    }
}
