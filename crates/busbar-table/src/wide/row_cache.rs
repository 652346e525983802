//! Rows that were read lately, in memory.
//!
//! Of a row everything is kept that can still be seen: the fragments that a sweep would leave. So a row that is changed over and
//! over is read as fast as any other one, however many dead fragments the files have until a sweep. Writers keep the rows that are
//! here up to date after each commit. A row that is being read from the files takes what is written to it meanwhile, so that what
//! is kept then lacks nothing. While a change is being committed the files may have it already, and a row here not yet: what is
//! being written is known, so that nobody sees a row go back.

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hashbrown::{DefaultHashBuilder, Equivalent, HashMap, HashTable};
use parking_lot::{Condvar, Mutex};

use super::kept_rows::FragmentEntry;
use super::layout::WideLayout;
use super::read::Stamp;
use super::sweep::{FragmentState, LiveRow};
use crate::limits::{WIDE_LOAD_WAIT, WIDE_ROW_CACHE_SHARDS, WIDE_ROW_CACHED_BYTES_MAX};

/// What a row costs beside its fragments, in bytes.
const ROW_BYTES: usize = 128;
/// What a fragment costs beside its key and value, in bytes.
const FRAGMENT_BYTES: usize = 96;

/// Rows of all tables of a store.
pub(super) struct RowCache {
    shards: Box<[LockedShard]>,
    hasher: DefaultHashBuilder,
    /// How many reads of a row from the files have begun.
    loads: AtomicU64,
    bytes_max: usize,
}

/// Fragments of a row that can still be seen, in the order of their keys.
pub(super) type CachedFragments = Arc<[FragmentEntry]>;

/// Whose rows, and as what they are seen: what is kept under one layout may lack what can be seen under another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct RowsOf {
    /// The number of the table.
    pub table: u32,
    /// That of its layout.
    pub layout: u64,
}

/// What the cache has of a row.
#[derive(Clone, Debug)]
pub(super) enum Cached {
    /// Its fragments.
    Row(CachedFragments),
    /// Its fragments, and those that are being committed: the files may have these already.
    Changing(CachedFragments, Vec<FragmentEntry>),
    Nothing,
}

/// Which row.
#[derive(Clone, PartialEq, Eq, Hash)]
struct CachedRowId {
    of: RowsOf,
    key: Box<[u8]>,
}

/// The same, to look for.
#[derive(Hash)]
struct RowRef<'a> {
    of: RowsOf,
    key: &'a [u8],
}

impl Equivalent<CachedRowId> for RowRef<'_> {
    fn equivalent(&self, id: &CachedRowId) -> bool {
        self.of == id.of && *self.key == *id.key
    }
}

#[derive(Default)]
struct LockedShard {
    rows: Mutex<Shard>,
    /// A row has been read from the files, or will not be.
    loaded: Condvar,
}

#[derive(Default)]
struct Shard {
    /// Places of `rows` by the hash of their ids.
    index: HashTable<usize>,
    rows: Vec<Option<WideCachedRow>>,
    free: Vec<usize>,
    /// Rows that are being read from the files, with what has been written to them meanwhile.
    loading: HashMap<CachedRowId, LoadedRow>,
    /// What is being written to rows, whether or not they are here.
    changing: HashMap<CachedRowId, Vec<FragmentEntry>>,
    bytes: usize,
    /// The place that is looked at next for a row to let go of.
    hand: usize,
}

struct WideCachedRow {
    id: CachedRowId,
    fragments: CachedFragments,
    /// Fragments that were there when dead ones were last removed.
    pruned: usize,
    /// The change of the table that changed it last.
    changed: u64,
    bytes: usize,
    /// It was read since the hand came by.
    is_used: bool,
}

struct LoadedRow {
    /// Which reading it is.
    load: u64,
    written: Vec<FragmentEntry>,
    changed: u64,
}

/// A row that is being read from the files. Dropped, it is not kept.
pub(super) struct Loading<'a> {
    cache: &'a RowCache,
    id: CachedRowId,
    hash: u64,
    load: u64,
    is_over: bool,
}

impl RowCache {
    /// A cache of rows with at most so many bytes.
    pub fn new(bytes_max: usize) -> RowCache {
        let shards = (0..WIDE_ROW_CACHE_SHARDS).map(|_| LockedShard::default());
        RowCache {
            shards: shards.collect(),
            hasher: DefaultHashBuilder::default(),
            loads: AtomicU64::new(0),
            bytes_max,
        }
    }

    fn hash(&self, of: RowsOf, key: &[u8]) -> u64 {
        self.hasher.hash_one((of, key))
    }

    fn locked(&self, hash: u64) -> &LockedShard {
        // The index goes by the low bits.
        &self.shards[(hash >> 48) as usize % self.shards.len()]
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.locked(hash).rows
    }

    /// The row as it is now, or, with `until`, as it was after that change of the table and before any later one.
    pub fn get(&self, of: RowsOf, key: &[u8], until: Option<u64>) -> Cached {
        let hash = self.hash(of, key);
        let mut shard = self.shard(hash).lock();
        let shard = &mut *shard;
        let place = shard.place(hash, of, key);
        let row = place.and_then(|place| shard.rows[place].as_mut());
        let Some(row) = row.filter(|row| until.is_none_or(|until| row.changed <= until)) else {
            return Cached::Nothing;
        };
        row.is_used = true;
        let fragments = Arc::clone(&row.fragments);
        let changing = match until {
            None if !shard.changing.is_empty() => shard.changing.get(&RowRef { of, key }),
            _ => None,
        };
        match changing {
            Some(written) => Cached::Changing(fragments, written.clone()),
            None => Cached::Row(fragments),
        }
    }

    /// A change that will write these fragments is about to be committed.
    pub fn begin_change(&self, of: RowsOf, entries: &[FragmentEntry]) {
        for same in entries.chunk_by(|a, b| row_of(a) == row_of(b)) {
            let key = row_of(&same[0]);
            let mut shard = self.shard(self.hash(of, key)).lock();
            let key = key.into();
            let written = shard.changing.entry(CachedRowId { of, key });
            written.or_default().extend(same.iter().cloned());
        }
    }

    /// It was not committed.
    pub fn abandon_change(&self, of: RowsOf, entries: &[FragmentEntry]) {
        for same in entries.chunk_by(|a, b| row_of(a) == row_of(b)) {
            let key = row_of(&same[0]);
            let mut shard = self.shard(self.hash(of, key)).lock();
            shard.changing.remove(&RowRef { of, key });
        }
    }

    /// Begins to read a row; none if somebody else already does, or if it is here.
    pub fn load(&self, of: RowsOf, key: &[u8]) -> Option<Loading<'_>> {
        let hash = self.hash(of, key);
        let id = CachedRowId {
            of,
            key: key.into(),
        };
        let mut shard = self.shard(hash).lock();
        if shard.place(hash, of, key).is_some() || shard.loading.contains_key(&id) {
            return None;
        }
        let load = self.loads.fetch_add(1, Ordering::Relaxed);
        let loaded = LoadedRow {
            load,
            written: Vec::new(),
            changed: 0,
        };
        shard.loading.insert(id.clone(), loaded);
        Some(Loading {
            cache: self,
            id,
            hash,
            load,
            is_over: false,
        })
    }

    /// Waits until nobody reads a row from the files any more, at most [`WIDE_LOAD_WAIT`].
    pub fn wait(&self, of: RowsOf, key: &[u8]) {
        let until = Instant::now() + WIDE_LOAD_WAIT;
        let locked = self.locked(self.hash(of, key));
        let mut shard = locked.rows.lock();
        while shard.loading.contains_key(&RowRef { of, key }) {
            if locked.loaded.wait_until(&mut shard, until).timed_out() {
                return;
            }
        }
    }

    /// Takes what a change has written, which is over then.
    pub fn end_change(
        &self,
        of: RowsOf,
        entries: &[FragmentEntry],
        changed: u64,
        layout: &WideLayout,
        now: i64,
    ) {
        for same in entries.chunk_by(|a, b| row_of(a) == row_of(b)) {
            let key = row_of(&same[0]);
            let hash = self.hash(of, key);
            let mut shard = self.shard(hash).lock();
            let shard = &mut *shard;
            if let Some(loaded) = shard.loading.get_mut(&RowRef { of, key }) {
                loaded.written.extend(same.iter().cloned());
                loaded.changed = changed;
                continue;
            }
            let Some(place) = shard.place(hash, of, key) else {
                continue;
            };
            let Some(row) = shard.rows[place].take() else {
                continue;
            };
            shard.bytes -= row.bytes;
            let mut fragments = Vec::with_capacity(row.fragments.len() + same.len());
            fragments.extend(row.fragments.iter().cloned());
            fragments.extend(same.iter().cloned());
            let is_used = row.is_used;
            let row = WideCachedRow::new(row.id, fragments, row.pruned, changed, layout, now);
            match row {
                Some(row) => {
                    shard.bytes += row.bytes;
                    shard.rows[place] = Some(WideCachedRow { is_used, ..row });
                }
                None => shard.remove_from_index(hash, place),
            }
            shard.make_room(self);
        }
        // Behind all of them, since a change may write a row in several places.
        self.abandon_change(of, entries);
    }

    /// Lets go of a row, also of one that is being read.
    pub fn forget(&self, of: RowsOf, key: &[u8]) {
        let hash = self.hash(of, key);
        let mut shard = self.shard(hash).lock();
        if let Some(place) = shard.place(hash, of, key) {
            shard.drop_row(hash, place);
        }
        shard.loading.remove(&RowRef { of, key });
        drop(shard);
        self.locked(hash).loaded.notify_all();
    }

    /// Lets go of everything, also of what is being read.
    pub fn clear(&self) {
        for shard in &self.shards {
            *shard.rows.lock() = Shard::default();
            shard.loaded.notify_all();
        }
    }
}

impl Loading<'_> {
    /// Keeps the row with these fragments, which are those that can be seen in a picture that was taken after the reading began.
    /// `changed` is a change of the table that is not before that picture.
    pub fn keep(
        mut self,
        fragments: &[FragmentEntry],
        changed: u64,
        layout: &WideLayout,
        now: i64,
    ) {
        self.is_over = true;
        let locked = self.cache.locked(self.hash);
        let mut shard = locked.rows.lock();
        // It was let go of meanwhile.
        let Some(loaded) = shard.end_load(&self.id, self.load) else {
            return;
        };
        // Those who wait look at the row once the lock is free.
        locked.loaded.notify_all();
        let pruned = fragments.len();
        let mut fragments = fragments.to_vec();
        fragments.extend(loaded.written);
        let changed = changed.max(loaded.changed);
        let id = self.id.clone();
        let Some(row) = WideCachedRow::new(id, fragments, pruned, changed, layout, now) else {
            return;
        };
        shard.insert(self.cache, self.hash, row);
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let locked = self.cache.locked(self.hash);
            locked.rows.lock().end_load(&self.id, self.load);
            locked.loaded.notify_all();
        }
    }
}

impl WideCachedRow {
    /// None if it is too large to be kept.
    fn new(
        id: CachedRowId,
        mut fragments: Vec<FragmentEntry>,
        pruned: usize,
        changed: u64,
        layout: &WideLayout,
        now: i64,
    ) -> Option<Self> {
        // The key of a fragment is its row and what sorts the newest first. The picture may have had what was written meanwhile.
        fragments.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        fragments.dedup_by(|a, b| a.0 == b.0);
        let mut pruned = pruned;
        if fragments.len() > pruned * 2 + 8 {
            let mut live = LiveRow::new(layout, now);
            // What cannot be read is kept, for whoever reads it to say so.
            fragments
                .retain(|(key, value)| !matches!(live.look(key, value), Ok(FragmentState::Dead)));
            pruned = fragments.len();
        }
        let sizes = fragments
            .iter()
            .map(|(key, value)| key.len() + value.len() + FRAGMENT_BYTES);
        let bytes = ROW_BYTES + id.key.len() + sizes.sum::<usize>();
        (bytes <= WIDE_ROW_CACHED_BYTES_MAX).then(|| Self {
            id,
            fragments: fragments.into(),
            pruned,
            changed,
            bytes,
            is_used: false,
        })
    }
}

impl Shard {
    fn place(&self, hash: u64, of: RowsOf, key: &[u8]) -> Option<usize> {
        let is_it = |place: &usize| {
            let row = self.rows[*place].as_ref();
            row.is_some_and(|row| row.id.of == of && *row.id.key == *key)
        };
        self.index.find(hash, is_it).copied()
    }

    /// What was written while a row was read; none if it was let go of, also where somebody else reads it now.
    fn end_load(&mut self, id: &CachedRowId, load: u64) -> Option<LoadedRow> {
        let is_it = self.loading.get(id).is_some_and(|it| it.load == load);
        is_it.then(|| self.loading.remove(id)).flatten()
    }

    fn insert(&mut self, cache: &RowCache, hash: u64, row: WideCachedRow) {
        if let Some(place) = self.place(hash, row.id.of, &row.id.key) {
            self.drop_row(hash, place);
        }
        self.bytes += row.bytes;
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.rows.push(None);
                self.rows.len() - 1
            }
        };
        self.rows[place] = Some(row);
        let rows = &self.rows;
        self.index.insert_unique(hash, place, |place| {
            let row = rows[*place].as_ref();
            row.map_or(0, |row| cache.hash(row.id.of, &row.id.key))
        });
        self.make_room(cache);
    }

    /// Lets go of rows that were not read for a while, until what is left fits.
    fn make_room(&mut self, cache: &RowCache) {
        while self.bytes > cache.bytes_max / WIDE_ROW_CACHE_SHARDS {
            self.hand = (self.hand + 1) % self.rows.len();
            let Some(row) = &mut self.rows[self.hand] else {
                continue;
            };
            if std::mem::take(&mut row.is_used) {
                continue;
            }
            let hash = cache.hash(row.id.of, &row.id.key);
            self.drop_row(hash, self.hand);
        }
    }

    fn drop_row(&mut self, hash: u64, place: usize) {
        if let Some(row) = self.rows[place].take() {
            self.bytes -= row.bytes;
        }
        self.remove_from_index(hash, place);
    }

    fn remove_from_index(&mut self, hash: u64, place: usize) {
        if let Ok(entry) = self.index.find_entry(hash, |known| *known == place) {
            entry.remove();
            self.free.push(place);
        }
    }
}

fn row_of(entry: &FragmentEntry) -> &[u8] {
    Stamp::of(&entry.0).map_or(&[], |(row, _)| row)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::cell::{CellValue, FragmentWriter};
    use super::*;

    const CACHE_BYTES: usize = 64 << 20;

    const OF: RowsOf = RowsOf {
        table: 0,
        layout: 0,
    };

    /// A fragment with one cell, newer with each number.
    fn fragment(row: &str, number: u64, bytes: usize) -> FragmentEntry {
        let mut key = row.as_bytes().to_vec();
        let stamp = Stamp {
            family: 0,
            time: 7,
            number,
        };
        stamp.push(&mut key);
        let mut value = Vec::new();
        FragmentWriter::new(&mut value).value(b"q", &CellValue::Binary(vec![0; bytes]));
        (key.into(), value.into())
    }

    fn keep(cache: &RowCache, row: &str, bytes: usize) {
        let loading = cache.load(OF, row.as_bytes()).unwrap();
        loading.keep(&[fragment(row, 1, bytes)], 2, &WideLayout::plain(), 9);
    }

    fn has(cache: &RowCache, row: &str) -> bool {
        matches!(cache.get(OF, row.as_bytes(), None), Cached::Row(_))
    }

    #[test]
    fn a_row_that_is_changed_over_and_over_stays_small() {
        let (cache, layout) = (RowCache::new(CACHE_BYTES), WideLayout::plain());
        keep(&cache, "a", 10);
        for number in 2..1_000 {
            cache.end_change(OF, &[fragment("a", number, 10)], number * 2, &layout, 9);
        }
        let Cached::Row(found) = cache.get(OF, b"a", None) else {
            panic!("it is kept");
        };
        assert!(found.len() < 12, "{}", found.len());
        assert_eq!(found[0], fragment("a", 999, 10));
        // Whoever reads an older picture must not see it.
        assert!(matches!(cache.get(OF, b"a", Some(1_997)), Cached::Nothing));
        assert!(matches!(cache.get(OF, b"a", Some(1_998)), Cached::Row(_)));
        let other = RowsOf { layout: 1, ..OF };
        assert!(matches!(cache.get(other, b"a", None), Cached::Nothing));
        // While it is being changed the files may have more than is here.
        let more = [fragment("a", 1_000, 10)];
        cache.begin_change(OF, &more);
        let Cached::Changing(before, written) = cache.get(OF, b"a", None) else {
            panic!("it is being changed");
        };
        assert_eq!(
            (before[..].to_vec(), &written[..]),
            (found.to_vec(), &more[..])
        );
        assert!(matches!(cache.get(OF, b"a", Some(1_998)), Cached::Row(_)));
        cache.abandon_change(OF, &more);
        assert!(has(&cache, "a"));
    }

    #[test]
    fn what_is_written_while_a_row_is_read_is_not_missed() {
        let (cache, layout) = (RowCache::new(CACHE_BYTES), WideLayout::plain());
        let loading = cache.load(OF, b"a").unwrap();
        assert!(cache.load(OF, b"a").is_none(), "it is read already");
        let written = [fragment("a", 2, 10), fragment("b", 3, 10)];
        cache.end_change(OF, &written, 4, &layout, 9);
        cache.end_change(OF, &[fragment("a", 5, 10)], 6, &layout, 9);
        // The picture had the first of them, too, and not the second.
        let read = [fragment("a", 2, 10), fragment("a", 1, 10)];
        loading.keep(&read, 2, &layout, 9);
        let Cached::Row(found) = cache.get(OF, b"a", Some(6)) else {
            panic!("it is kept");
        };
        let all = [5, 2, 1].map(|number| fragment("a", number, 10));
        assert_eq!(found[..], all);
        assert!(matches!(cache.get(OF, b"a", Some(5)), Cached::Nothing));
        let loading = cache.load(OF, b"c").unwrap();
        cache.forget(OF, b"c");
        loading.keep(&[fragment("c", 1, 10)], 2, &layout, 9);
        assert!(!has(&cache, "c"), "it may have been read before it changed");
        // Somebody else reads it meanwhile, who has a later picture.
        let early = cache.load(OF, b"c").unwrap();
        cache.forget(OF, b"c");
        cache.end_change(OF, &[fragment("c", 2, 10)], 4, &layout, 9);
        let late = cache.load(OF, b"c").unwrap();
        early.keep(&[fragment("c", 1, 10)], 2, &layout, 9);
        assert!(!has(&cache, "c"));
        late.keep(&[fragment("c", 2, 10)], 4, &layout, 9);
        assert!(has(&cache, "c"));
        drop(cache.load(OF, b"d").unwrap());
        assert!(cache.load(OF, b"d").is_some(), "reading failed");
    }

    #[test]
    fn who_waits_for_a_row_that_somebody_reads_finds_it() {
        let cache = RowCache::new(CACHE_BYTES);
        let loading = cache.load(OF, b"a").unwrap();
        let given_up = cache.load(OF, b"b").unwrap();
        let (begins, begun) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                begins.send(()).unwrap();
                cache.wait(OF, b"a");
                cache.wait(OF, b"b");
                cache.wait(OF, b"nobody reads it");
                (has(&cache, "a"), has(&cache, "b"))
            });
            begun.recv().unwrap();
            // Whoever does not wait has looked by then.
            std::thread::park_timeout(Duration::from_millis(20));
            loading.keep(&[fragment("a", 1, 10)], 2, &WideLayout::plain(), 9);
            drop(given_up);
            assert_eq!(waiting.join().unwrap(), (true, false));
        });
    }

    #[test]
    fn rows_are_kept_within_the_bound_and_those_that_are_read_longest() {
        let cache = RowCache::new(CACHE_BYTES);
        let bytes = WIDE_ROW_CACHED_BYTES_MAX / 2;
        keep(&cache, "often", bytes);
        let rows = 3 * CACHE_BYTES / bytes;
        for row in 0..rows {
            assert!(has(&cache, "often"), "{row}");
            // A change does not make it one that is not read.
            let change = [fragment("often", row as u64 + 2, 10)];
            cache.end_change(OF, &change, 4, &WideLayout::plain(), 9);
            keep(&cache, &format!("{row}"), bytes);
        }
        let kept = cache.shards.iter().map(|shard| shard.rows.lock().bytes);
        let kept: usize = kept.sum();
        assert!(kept <= CACHE_BYTES && kept > CACHE_BYTES / 2, "{kept}");
        let counted = (0..rows)
            .filter(|row| has(&cache, &format!("{row}")))
            .count();
        assert!(counted * bytes <= kept);
        keep(&cache, "large", WIDE_ROW_CACHED_BYTES_MAX);
        assert!(!has(&cache, "large"));
        cache.clear();
        assert!(!has(&cache, "often"));
    }
}
