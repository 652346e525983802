//! Removing fragments that nobody can see any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use busbar_event::Error;
use hashbrown::HashMap;

use super::Wide;
use super::cell::Fragment;
use super::keeper::WideKeeper;
use super::layout::WideLayout;
use super::read::{Stamp, damaged, has_expired};
use super::store::{WideStore, failed};
use crate::limits::{WIDE_SWEEP_COMMIT, WIDE_SWEEP_FRAGMENTS};

/// When to sweep a table, and the end of a sweep that is under way.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    /// Fragments written since the last sweep began.
    written: AtomicU64,
    state: Arc<SweepState>,
}

#[derive(Debug, Default)]
struct SweepState {
    is_running: AtomicBool,
    must_end: AtomicBool,
    /// Fragments that the last sweep left.
    left: AtomicU64,
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
                match sweep(&store, &name, &layout, &state.must_end) {
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
        let go_on = AtomicBool::new(false);
        sweep(store, &self.name, &self.layout(), &go_on)
    }
}

/// Removes dead fragments; how many are left. A fragment is dead for good: what hides it stays until it is removed, and
/// later ones only hide more. So nothing is locked while it is looked for.
fn sweep(
    store: &WideStore,
    name: &str,
    layout: &WideLayout,
    must_end: &AtomicBool,
) -> Result<u64, Error> {
    let now = store.clock().now_micros();
    let (mut row, mut left) = (Vec::new(), 0);
    let mut live = LiveRow::new(layout, now);
    // What a deletion hides is removed with it.
    let (mut dead, mut deletions): (Vec<fjall::Slice>, Vec<fjall::Slice>) = Default::default();
    for guard in store.all(name)? {
        let (key, value) = guard.into_inner().map_err(failed)?;
        let (its, _) = Stamp::of(&key).ok_or_else(damaged)?;
        if its != row.as_slice() {
            row.clear();
            row.extend_from_slice(its);
            live.begin();
            dead.append(&mut deletions);
            if dead.len() >= WIDE_SWEEP_COMMIT {
                remove(store, name, layout, &mut dead)?;
                if must_end.load(Ordering::Relaxed) {
                    return Ok(left);
                }
            }
        }
        match live.look(&key, &value)? {
            FragmentState::Live => left += 1,
            FragmentState::Deletion => deletions.push(key),
            FragmentState::Dead => dead.push(key),
        }
    }
    dead.append(&mut deletions);
    remove(store, name, layout, &mut dead)?;
    Ok(left)
}

fn remove(
    store: &WideStore,
    name: &str,
    layout: &WideLayout,
    dead: &mut Vec<fjall::Slice>,
) -> Result<(), Error> {
    if dead.is_empty() {
        return Ok(());
    }
    let mut commit = store.begin(name)?;
    for key in dead.drain(..) {
        commit.remove(&key);
    }
    store.remove(commit, layout)
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
