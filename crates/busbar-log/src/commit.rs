//! The commit thread: gathers waiting appends of all partitions, writes them, syncs each file once,
//! and tells everybody, in order. While a sync runs, the next group gathers by itself.
//!
//! The logic is a plain struct whose [`Committer::step`] does one group, so a test can drive it
//! without a thread.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::append::cost;
use crate::clock::Clock;
use crate::disk::{Disk, File};
use crate::error::LogError;
use crate::health::AppendHealth;
use crate::limits::{GROUP_APPENDS_MAX, GROUP_BYTES_MAX, SMALL_APPEND_BYTES};
use crate::options::LogOptions;
use crate::partition::{Inner, Item};
use crate::queue::Queue;
use crate::sync::Syncers;
use crate::writer::{GroupOutcome, guarded};

/// Room on the disk is looked at again when this long has passed.
const SPACE_MICROS: i64 = 100_000;
/// A small disk's reserve is this part of it.
const RESERVE_PART: u64 = 32;
/// Partitions whose names begin so are stores.
pub(crate) const STORE_PREFIX: &str = "store/";

/// Tells who waits for an append that it has not been written.
fn refuse(item: Item, error: &LogError) {
    if let Item::Append { mut append, .. } = item
        && let Some(done) = append.done.take()
    {
        guarded("completion", || done(Err(error.clone())));
    }
}

/// What a step has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something; there may be more.
    Worked,
    /// Nothing: there is nothing to do before this many microseconds have passed, if given.
    Idle(Option<i64>),
    /// The log has been shut down.
    Ended,
}

/// The commit logic.
pub(crate) struct Committer {
    queue: Arc<Queue<Item>>,
    clock: Arc<dyn Clock>,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    syncers: Syncers,
    health: Arc<AppendHealth>,
    /// Partitions whose last append was refused because of the disk.
    refusing: Vec<Arc<Inner>>,
    /// Taken from the queue, not yet in a group.
    ready: VecDeque<Item>,
    touched: Vec<Arc<Inner>>,
    /// Partitions of durability `memory` with unsynced data.
    unsynced: Vec<Arc<Inner>>,
    sync_interval: i64,
    next_sync: i64,
    reserve_bytes: u64,
    space_checked: i64,
    space_free: u64,
    space_reserve: u64,
    /// Bytes above the reserve without which the disk counts as full.
    space_needed: u64,
    /// Whether the disk has less room than that.
    full: bool,
    ended: bool,
}

impl Committer {
    pub fn new(
        queue: Arc<Queue<Item>>,
        clock: Arc<dyn Clock>,
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        options: &LogOptions,
        health: Arc<AppendHealth>,
        threads: bool,
    ) -> Committer {
        Committer {
            queue,
            clock,
            disk,
            dir,
            syncers: Syncers::new(threads),
            health,
            refusing: Vec::new(),
            ready: VecDeque::new(),
            touched: Vec::new(),
            unsynced: Vec::new(),
            sync_interval: i64::try_from(options.sync_interval.as_micros()).unwrap_or(i64::MAX),
            next_sync: i64::MAX,
            reserve_bytes: options.reserve_bytes,
            space_checked: i64::MIN,
            space_free: 0,
            space_reserve: 0,
            space_needed: SMALL_APPEND_BYTES,
            full: false,
            ended: false,
        }
    }

    /// Commits one group.
    pub fn step(&mut self) -> Step {
        if self.ended {
            return Step::Ended;
        }
        let now = self.clock.now_micros();
        if self.next_sync != i64::MAX {
            // A clock that is set back must not put the sync off.
            self.next_sync = self.next_sync.min(now.saturating_add(self.sync_interval));
        }
        if now >= self.next_sync {
            self.sync_in_background();
        }
        if self.ready.is_empty() && !self.queue.take(&mut self.ready) {
            let due = self
                .next_sync
                .checked_sub(now)
                .filter(|_| self.next_sync != i64::MAX);
            return Step::Idle(due);
        }
        self.gather(now);
        self.commit();
        if self.ended {
            Step::Ended
        } else {
            Step::Worked
        }
    }

    /// Moves appends into their partitions' groups until the group is full or other work is met.
    fn gather(&mut self, now: i64) {
        let (mut bytes, mut appends) = (0, 0);
        while bytes < GROUP_BYTES_MAX && appends < GROUP_APPENDS_MAX {
            match self.ready.pop_front() {
                Some(Item::Append {
                    partition,
                    append,
                    body_crc,
                }) => {
                    let size = cost(&append);
                    let refused =
                        (!self.has_room(&partition, size as u64, now)).then(|| LogError::Full {
                            path: partition.dir.clone(),
                        });
                    bytes += size;
                    appends += 1;
                    let mut writer = partition.writer.lock();
                    let first = !writer.has_group();
                    writer.add(append, body_crc, refused);
                    drop(writer);
                    if first {
                        self.touched.push(partition);
                    }
                }
                Some(other) if appends > 0 => {
                    // In order: what came before it is committed first.
                    self.ready.push_front(other);
                    return;
                }
                Some(other) => self.other(other, now),
                None => return,
            }
        }
    }

    fn other(&mut self, item: Item, now: i64) {
        match item {
            Item::Append { .. } => {}
            Item::Roll(partition) => {
                if !partition.closed.load(Ordering::Acquire)
                    && let Err(error) = partition.writer.lock().roll(&partition, now)
                {
                    tracing::warn!(partition = partition.name, %error, "cannot begin a segment");
                }
            }
            Item::Synced {
                partition,
                file,
                position,
                end,
                result,
            } => match result {
                Ok(()) => self.synced(&partition, &file, position, end, now),
                Err(e) => {
                    let mut writer = partition.writer.lock();
                    if writer.writes_to(&file) {
                        writer.background_failed(&partition, e, now);
                    }
                }
            },
            Item::Look => self.look(now),
            Item::Shutdown(partitions) => {
                self.abandon();
                for partition in partitions {
                    partition.writer.lock().close(&partition);
                }
                self.ended = true;
            }
        }
    }

    /// Takes no more appends, and refuses those that wait.
    pub fn abandon(&mut self) {
        self.ready.extend(self.queue.close());
        for item in self.ready.drain(..) {
            refuse(item, &LogError::Closed);
        }
    }

    /// Writes, syncs and publishes the groups of the touched partitions.
    fn commit(&mut self) {
        let touched = std::mem::take(&mut self.touched);
        let now = self.clock.now_micros();
        let files: Vec<Option<Arc<dyn File>>> = touched
            .iter()
            .map(|partition| partition.writer.lock().write(partition, now))
            .collect();
        let results = self.syncers.sync(&files);
        for ((partition, file), result) in touched.iter().zip(&files).zip(results) {
            let before = partition.end.load(Ordering::Acquire);
            let durable = file.is_some() && result.is_ok();
            let mut writer = partition.writer.lock();
            if durable {
                writer.all_synced();
            }
            // Before anybody hears of it, so that the log reports what those who append hear.
            let outcome = writer.settle(partition, result, now);
            self.note(partition, outcome);
            writer.complete(partition);
            writer.checkpoint(partition);
            if writer.unsynced().is_some() {
                self.unsynced_later(partition, now);
            }
            drop(writer);
            if partition.end.load(Ordering::Acquire) != before {
                let wakers = partition.wakers.read().clone();
                for (_, waker) in wakers.iter() {
                    guarded("waker", || waker());
                }
            }
        }
        self.touched = touched;
        self.touched.clear();
    }

    /// Records what the disk did with the last group of a partition.
    fn note(&mut self, partition: &Arc<Inner>, outcome: GroupOutcome) {
        let same = |p: &Arc<Inner>| Arc::ptr_eq(p, partition);
        match outcome {
            GroupOutcome::Nothing => {}
            GroupOutcome::Written if self.refusing.is_empty() => {}
            GroupOutcome::Written => {
                if let Some(at) = self.refusing.iter().position(same) {
                    self.refusing.swap_remove(at);
                    self.health.set_partition(&partition.name, None);
                }
            }
            GroupOutcome::Refused(error) => {
                if !self.refusing.iter().any(same) {
                    self.refusing.push(partition.clone());
                }
                self.health.set_partition(&partition.name, Some(error));
            }
        }
    }

    /// Determines whether appends are refused although nobody appends. A partition that refused the last
    /// append is tried by a write of its own.
    fn look(&mut self, now: i64) {
        self.check_space(now);
        if self.full {
            return;
        }
        for partition in std::mem::take(&mut self.refusing) {
            let tried = match partition.closed.load(Ordering::Acquire) {
                true => Ok(()),
                false => partition.writer.lock().try_disk(&partition, now),
            };
            if let Err(error) = &tried {
                self.health
                    .set_partition(&partition.name, Some(error.clone()));
                self.refusing.push(partition);
            } else {
                self.health.set_partition(&partition.name, None);
            }
        }
    }

    fn unsynced_later(&mut self, partition: &Arc<Inner>, now: i64) {
        if !self.unsynced.iter().any(|p| Arc::ptr_eq(p, partition)) {
            self.unsynced.push(partition.clone());
            if self.next_sync == i64::MAX {
                self.next_sync = now.saturating_add(self.sync_interval);
            }
        }
    }

    /// Syncs what durability `memory` has acknowledged, beside the commits that go on.
    fn sync_in_background(&mut self) {
        self.next_sync = i64::MAX;
        for partition in std::mem::take(&mut self.unsynced) {
            let unsynced = partition.writer.lock().unsynced();
            if let Some((file, position)) = unsynced {
                // No group is on its way, so all that was written is published.
                let end = partition.end.load(Ordering::Acquire);
                let queue = self.queue.clone();
                self.syncers.later(file.clone(), move |result| {
                    queue.push(Item::Synced {
                        partition,
                        file,
                        position,
                        end,
                        result,
                    });
                });
            }
        }
    }

    fn synced(
        &mut self,
        partition: &Arc<Inner>,
        file: &Arc<dyn File>,
        position: u64,
        end: u64,
        now: i64,
    ) {
        let mut writer = partition.writer.lock();
        if !writer.writes_to(file) {
            // Sealed in between, which synced it, or closed after a failure.
            return;
        }
        writer.synced(position, end);
        writer.checkpoint(partition);
        if writer.unsynced().is_some() {
            drop(writer);
            self.unsynced_later(partition, now);
        }
    }

    /// Asks the disk how much room it has.
    fn check_space(&mut self, now: i64) {
        self.space_checked = now;
        // If the disk does not answer, the write fails and says why.
        (self.space_free, self.space_reserve) = match self.disk.space(&self.dir) {
            Ok(space) => (
                space.free,
                self.reserve_bytes.min(space.total / RESERVE_PART),
            ),
            Err(_) => (u64::MAX, 0),
        };
        let full = self.space_free < self.space_reserve.saturating_add(self.space_needed);
        if full != self.full {
            self.full = full;
            self.health.set_full(full.then(|| LogError::Full {
                path: self.dir.clone(),
            }));
        }
        if !full {
            self.space_needed = SMALL_APPEND_BYTES;
        }
    }

    /// Whether the disk has room for `bytes` above the reserve. Stores may use half the reserve:
    /// positions and sessions must be kept when there is no room for more events.
    fn has_room(&mut self, partition: &Inner, bytes: u64, now: i64) -> bool {
        if now >= self.space_checked.saturating_add(SPACE_MICROS) || now < self.space_checked {
            self.check_space(now);
        }
        let reserve = if partition.name.starts_with(STORE_PREFIX) {
            self.space_reserve / 2
        } else {
            self.space_reserve
        };
        if self.space_free < bytes.saturating_add(reserve) {
            self.space_needed = bytes.max(SMALL_APPEND_BYTES);
            return false;
        }
        self.space_free -= bytes;
        true
    }
}
