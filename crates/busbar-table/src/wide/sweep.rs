//! Removing fragments that nobody can see any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use busbar_event::Error;
use fjall::Slice;
use hashbrown::HashMap;

use super::cell::{DELETION_BYTES, Fragment};
use super::keeper::WideKeeper;
use super::layout::WideLayout;
use super::read::{Stamp, damaged, has_expired};
use super::store::{AllFragments, FoundFragment, WideStore};
use super::{Stamper, Wide, big_endian};
use crate::limits::{WIDE_SWEEP_COMMIT, WIDE_SWEEP_FRAGMENTS, WIDE_SWEEP_PAUSE, WIDE_SWEEP_SLICE};

/// When to sweep a table, and the end of a sweep that is under way.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    /// Fragments written since the last whole sweep began.
    written: AtomicU64,
    state: Arc<SweepState>,
}

#[derive(Debug, Default)]
struct SweepState {
    is_running: AtomicBool,
    must_end: AtomicBool,
    /// Fragments that the last whole sweep left.
    left: AtomicU64,
}

/// What is kept of the last whole sweep, so that a start does not lead to another one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LastSweep {
    /// The number of the table's last fragment when it began.
    began_at: u64,
    /// Fragments that it left.
    left: u64,
}

impl LastSweep {
    /// That of a table, if there was one.
    ///
    /// # Errors
    /// What the disk says.
    pub fn of(store: &WideStore, table: &str) -> Result<Self, Error> {
        let kept = store.meta(&last_sweep_key(table))?.unwrap_or_default();
        let mut numbers = kept.chunks_exact(8).map(big_endian);
        Ok(Self {
            began_at: numbers.next().unwrap_or(0),
            left: numbers.next().unwrap_or(0),
        })
    }
}

/// Where the last whole sweep of a table is noted.
fn last_sweep_key(table: &str) -> String {
    format!("w/{table}")
}

impl Sweeper {
    /// For a table whose last fragment has this number.
    pub fn new(last: LastSweep, number: u64) -> Self {
        let state = SweepState {
            left: AtomicU64::new(last.left),
            ..SweepState::default()
        };
        Self {
            written: AtomicU64::new(number.saturating_sub(last.began_at)),
            state: Arc::new(state),
        }
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.state.must_end.store(true, Ordering::Relaxed);
    }
}

impl Wide {
    /// Notes fragments that were written, and sweeps in the background when there are many: as many as there were after
    /// the last sweep, so that the work stays a constant share of the writing.
    pub(super) fn sweep_after(&self, fragments: u64) {
        let WideKeeper::Own(store) = &self.keeper else {
            // The other system removes what is dead.
            return;
        };
        let sweeper = &self.sweeper;
        let written = sweeper.written.fetch_add(fragments, Ordering::Relaxed) + fragments;
        let left = sweeper.state.left.load(Ordering::Relaxed);
        if written < WIDE_SWEEP_FRAGMENTS.max(left)
            || sweeper.state.is_running.swap(true, Ordering::Relaxed)
        {
            return;
        }
        sweeper.written.store(0, Ordering::Relaxed);
        let (store, layout) = (Arc::clone(store), self.layout());
        let (name, state) = (self.name.clone(), Arc::clone(&sweeper.state));
        let spawned = std::thread::Builder::new()
            .name("busbar-wide-sweep".to_owned())
            .spawn(move || {
                match sweep(&store, &name, &layout, Some(&state.must_end)) {
                    Ok(left) => state.left.store(left, Ordering::Relaxed),
                    // The next one looks again.
                    Err(error) => tracing::warn!(table = name, %error, "wide table not swept"),
                }
                state.is_running.store(false, Ordering::Relaxed);
            });
        if spawned.is_err() {
            sweeper.state.is_running.store(false, Ordering::Relaxed);
        }
    }

    /// Removes at once what nobody can see any more; how many fragments are left. Another system does so by itself.
    ///
    /// # Errors
    /// What the disk says.
    pub fn remove_dead(&self) -> Result<u64, Error> {
        let WideKeeper::Own(store) = &self.keeper else {
            return Ok(0);
        };
        sweep(store, &self.name, &self.layout(), None)
    }
}

/// Removes dead fragments; how many are left. A fragment is dead for good: what hides it stays until it is removed, and
/// later ones only hide more. So nothing is locked while it is looked for. One in the background, which can be told to end, leaves
/// the processor to others most of the time.
fn sweep(
    store: &WideStore,
    name: &str,
    layout: &WideLayout,
    must_end: Option<&AtomicBool>,
) -> Result<u64, Error> {
    let began_at = Stamper::of(store, name)?.number;
    let mut sweep = Sweep {
        live: LiveRow::new(layout, store.clock().now_micros()),
        left: 0,
        dead: Vec::new(),
        open: Vec::new(),
        deletions: Vec::new(),
    };
    let mut all = store.all(name)?;
    // The first fragment of a family of a row, until it is known whether others follow.
    let mut first: Option<FoundFragment> = None;
    let (mut looked_at, mut slice) = (0_u64, Instant::now());
    while let Some(found) = all.next() {
        let found = found?;
        looked_at += 1;
        if let Some(must_end) = must_end.filter(|_| looked_at.is_multiple_of(WIDE_SWEEP_SLICE)) {
            std::thread::park_timeout(slice.elapsed() * WIDE_SWEEP_PAUSE);
            if must_end.load(Ordering::Relaxed) {
                sweep.remove(store, name)?;
                return Ok(sweep.left);
            }
            slice = Instant::now();
        }
        let Some(value) = &found.value else {
            if let Some(alone) = first.replace(found) {
                sweep.alone(alone, &all)?;
            }
            sweep.begin();
            sweep.remove_many(store, name)?;
            continue;
        };
        if let Some(first) = first.take() {
            sweep.look(first.key.clone(), &all.value(&first.key)?)?;
        }
        sweep.look(found.key.clone(), value)?;
        // A popular row may have tens of thousands: writers wait for as long as a commit takes.
        sweep.remove_many(store, name)?;
    }
    if let Some(alone) = first {
        sweep.alone(alone, &all)?;
    }
    sweep.begin();
    sweep.remove(store, name)?;
    let numbers = [began_at, sweep.left].map(u64::to_be_bytes);
    let mut commit = store.begin(name)?;
    commit.put_meta(&last_sweep_key(name), &numbers.concat());
    store.remove(commit, layout)?;
    Ok(sweep.left)
}

/// What a sweep has found.
struct Sweep<'a> {
    live: LiveRow<'a>,
    /// Fragments that stay.
    left: u64,
    dead: Vec<Slice>,
    /// Deletions of the family of the row that is looked at. What they hide is removed with them.
    open: Vec<Slice>,
    /// Those of which all that they hide has been looked at.
    deletions: Vec<Slice>,
}

impl Sweep<'_> {
    /// Goes on with another family or row.
    fn begin(&mut self) {
        self.live.begin();
        self.deletions.append(&mut self.open);
    }

    /// Looks at the only fragment of a family of a row. What it puts need not be known.
    fn alone(&mut self, found: FoundFragment, all: &AllFragments) -> Result<(), Error> {
        if found.size <= DELETION_BYTES {
            let value = all.value(&found.key)?;
            return self.look(found.key, &value);
        }
        let state = self.live.look_alone(&found.key)?;
        self.take(found.key, state);
        Ok(())
    }

    fn look(&mut self, key: Slice, value: &[u8]) -> Result<(), Error> {
        let state = self.live.look(&key, value)?;
        self.take(key, state);
        Ok(())
    }

    fn take(&mut self, key: Slice, state: FragmentState) {
        match state {
            FragmentState::Live => self.left += 1,
            FragmentState::Deletion => self.open.push(key),
            FragmentState::Dead => self.dead.push(key),
        }
    }

    /// Removes what is dead if that is enough for a commit.
    fn remove_many(&mut self, store: &WideStore, name: &str) -> Result<(), Error> {
        match self.dead.len() + self.deletions.len() >= WIDE_SWEEP_COMMIT {
            true => self.remove(store, name),
            false => Ok(()),
        }
    }

    /// Removes what is dead.
    fn remove(&mut self, store: &WideStore, name: &str) -> Result<(), Error> {
        if self.dead.is_empty() && self.deletions.is_empty() {
            return Ok(());
        }
        let mut commit = store.begin(name)?;
        for key in self.dead.drain(..) {
            commit.remove(&key);
        }
        for key in self.deletions.drain(..) {
            commit.remove_deletion(&key);
        }
        store.remove(commit, self.live.layout)
    }
}

/// Tells which fragments of a row can still be seen. It is shown them in the order of their keys.
pub(super) struct LiveRow<'a> {
    layout: &'a WideLayout,
    now: i64,
    /// For each family of the layout.
    families: Vec<LiveFamily>,
}

/// What can be seen of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FragmentState {
    /// A cell of it, or that the row is there. Also a fragment of a family that the table's file names no longer, since it may
    /// do so again.
    Live,
    /// It is a deletion, which hides what is older.
    Deletion,
    /// Nothing, for good.
    Dead,
}

#[derive(Default)]
struct LiveFamily {
    is_over: bool,
    is_there: bool,
    versions: HashMap<Vec<u8>, u32>,
}

impl<'a> LiveRow<'a> {
    /// `now` is in microseconds since 1970.
    pub fn new(layout: &'a WideLayout, now: i64) -> Self {
        let families = layout.families.iter();
        Self {
            layout,
            now,
            families: families.map(|_| LiveFamily::default()).collect(),
        }
    }

    /// Goes on with another row.
    pub fn begin(&mut self) {
        for family in &mut self.families {
            family.is_over = false;
            family.is_there = false;
            family.versions.clear();
        }
    }

    /// Looks at a fragment that puts cells and is the only one of its family and row.
    ///
    /// # Errors
    /// A key that cannot be read.
    fn look_alone(&self, key: &[u8]) -> Result<FragmentState, Error> {
        let (_, stamp) = Stamp::of(key).ok_or_else(damaged)?;
        let Some(place) = self.layout.family(stamp.family) else {
            return Ok(FragmentState::Live);
        };
        let family = &self.layout.families[place];
        Ok(match has_expired(family, stamp.time, self.now) {
            true => FragmentState::Dead,
            false => FragmentState::Live,
        })
    }

    /// Looks at the next fragment.
    ///
    /// # Errors
    /// A fragment that cannot be read.
    pub fn look(&mut self, key: &[u8], value: &[u8]) -> Result<FragmentState, Error> {
        let (_, stamp) = Stamp::of(key).ok_or_else(damaged)?;
        let Some(place) = self.layout.family(stamp.family) else {
            return Ok(FragmentState::Live);
        };
        let (family, seen) = (&self.layout.families[place], &mut self.families[place]);
        if seen.is_over || has_expired(family, stamp.time, self.now) {
            seen.is_over = true;
            return Ok(FragmentState::Dead);
        }
        let Fragment::Put(cells) = Fragment::read(value)? else {
            seen.is_over = true;
            return Ok(FragmentState::Deletion);
        };
        // The newest fragment shows that the row is there, whatever it holds.
        let mut is_live = !std::mem::replace(&mut seen.is_there, true);
        for cell in cells {
            let (qualifier, value) = cell?;
            let versions = seen.versions.entry_ref(qualifier).or_insert(0);
            if *versions < family.versions {
                is_live = true;
                *versions = if value.is_null() {
                    family.versions
                } else {
                    *versions + 1
                };
            }
        }
        Ok(if is_live {
            FragmentState::Live
        } else {
            FragmentState::Dead
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use busbar_log::SystemClock;
    use serde_json::json;

    use super::super::{CellChange, CellValue, RowChange};
    use super::*;
    use crate::{TableSpec, Tables};

    #[test]
    fn a_start_is_no_reason_to_sweep_again() {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let spec = json!({
                "wide": { "families": [{ "name": "f" }] },
                "key": ["k"],
                "columns": [{ "name": "k", "type": "int" }, { "name": "v", "type": "int" }],
            });
            let spec: TableSpec = serde_json::from_value(spec).unwrap();
            let tables = Tables::open(folder.path(), Arc::new(SystemClock)).unwrap();
            tables
                .apply(&BTreeMap::from([("t".to_owned(), spec)]))
                .unwrap();
            tables.wide("t").unwrap()
        };
        let put = |table: &Wide, keys: std::ops::Range<i64>| {
            let rows: Vec<_> = keys
                .map(|key| RowChange {
                    key: vec![CellValue::Int(key)],
                    changes: vec![CellChange::Put("v".to_owned(), CellValue::Int(1))],
                    ..RowChange::default()
                })
                .collect();
            table.change(&rows).unwrap();
        };
        let due = |table: &Wide| {
            let written = table.sweeper.written.load(Ordering::Relaxed);
            (written, table.sweeper.state.left.load(Ordering::Relaxed))
        };
        let table = open();
        put(&table, 0..10);
        drop(table);
        let table = open();
        assert_eq!(due(&table), (10, 0), "it was never swept");
        put(&table, 0..3);
        assert_eq!(table.remove_dead().unwrap(), 10);
        put(&table, 0..7);
        drop(table);
        assert_eq!(due(&open()), (7, 10));
    }
}
