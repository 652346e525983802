//! Removing fragments that nobody can see any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use busbar_event::Error;
use hashbrown::HashMap;

use super::Wide;
use super::cell::Fragment;
use super::keeper::WideKeeper;
use super::layout::{FamilyLayout, WideLayout};
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
    let mut families: Vec<Swept> = Vec::new();
    let mut dead: Vec<fjall::Slice> = Vec::new();
    for guard in store.picture(name)?.range(..) {
        let (key, value) = guard.into_inner().map_err(failed)?;
        let (its, stamp) = Stamp::of(&key).ok_or_else(damaged)?;
        if its != row.as_slice() {
            for swept in families.drain(..) {
                left += swept.finish(&mut dead);
            }
            row.clear();
            row.extend_from_slice(its);
            families.resize_with(layout.families.len(), Swept::default);
            if dead.len() >= WIDE_SWEEP_COMMIT {
                remove(store, name, &mut dead)?;
                if must_end.load(Ordering::Relaxed) {
                    return Ok(left);
                }
            }
        }
        match layout.family(stamp.family) {
            Some(place) => {
                let family = &layout.families[place];
                families[place].fragment(family, stamp, now, key, &value)?;
            }
            // The table's file names the family no longer, and may do so again.
            None => left += 1,
        }
    }
    for swept in families {
        left += swept.finish(&mut dead);
    }
    remove(store, name, &mut dead)?;
    Ok(left)
}

fn remove(store: &WideStore, name: &str, dead: &mut Vec<fjall::Slice>) -> Result<(), Error> {
    if dead.is_empty() {
        return Ok(());
    }
    let mut commit = store.begin(name)?;
    for key in dead.drain(..) {
        commit.remove(&key);
    }
    store.commit(commit)
}

/// What a sweep knows of one family of one row.
#[derive(Default)]
struct Swept {
    /// The newest deletion.
    deletion: Option<fjall::Slice>,
    is_over: bool,
    versions: HashMap<Vec<u8>, u32>,
    puts: u64,
    dead: Vec<fjall::Slice>,
}

impl Swept {
    fn fragment(
        &mut self,
        family: &FamilyLayout,
        stamp: Stamp,
        now: i64,
        key: fjall::Slice,
        value: &[u8],
    ) -> Result<(), Error> {
        if self.is_over || has_expired(family, stamp.time, now) {
            self.is_over = true;
            self.dead.push(key);
            return Ok(());
        }
        let Fragment::Put(cells) = Fragment::read(value)? else {
            self.is_over = true;
            self.deletion = Some(key);
            return Ok(());
        };
        // The newest fragment shows that the row is there, whatever it holds.
        let mut is_live = self.puts == 0;
        for cell in cells {
            let (qualifier, value) = cell?;
            let versions = self.versions.entry_ref(qualifier).or_insert(0);
            if *versions < family.versions {
                is_live = true;
                *versions = if value.is_null() {
                    family.versions
                } else {
                    *versions + 1
                };
            }
        }
        if is_live {
            self.puts += 1;
        } else {
            self.dead.push(key);
        }
        Ok(())
    }

    /// Adds the dead fragments to `dead`; how many are left. What a deletion hides is removed with it.
    fn finish(mut self, dead: &mut Vec<fjall::Slice>) -> u64 {
        dead.append(&mut self.dead);
        dead.extend(self.deletion);
        self.puts
    }
}
