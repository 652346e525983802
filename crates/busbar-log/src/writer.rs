//! The commit thread's side of one partition: assigns offsets, writes a group, and publishes it
//! when it is durable.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::append::{Append, Appended, Done, RECORDS_ONLY};
use crate::disk::{Disk, File, write_all};
use crate::error::LogError;
use crate::frame::{
    Companion, FIXED_BYTES, Frame, Header, Kind, SegmentHeader, encode_producers, header_len,
    no_producers, padding,
};
use crate::index::{Index, write_whole};
use crate::limits::{
    PAGE_CACHE_BYTES, PAGE_CACHE_STEP_BYTES, RETRY_MICROS, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
    TRIAL_BYTES,
};
use crate::mark::{Mark, MarkFile};
use crate::options::Durability;
use crate::segment::{Segment, index_path, segment_name};
use crate::state::PartitionState;

/// A file that is written to find out whether the disk takes appends again. Recovery removes it.
const TRIAL_FILE: &str = "trial.new";
/// The index of a segment is written anew when this much has been added: recovery reads no more.
const CHECKPOINT_BYTES: u64 = 16 << 20;

/// What the commit thread keeps of one partition.
pub(crate) struct Writer {
    active: Option<Active>,
    next: u64,
    group: Vec<Pending>,
    /// Positions that frames of this group will have established.
    tentative: HashMap<Arc<str>, u64>,
    /// Before this no new segment is tried after a failure.
    retry_at: i64,
    last_error: Option<LogError>,
    scratch: Vec<u8>,
    /// Where is noted for the next start what is durable; `None` if that has failed.
    mark: Option<MarkFile>,
}

/// The segment that is written to.
pub(crate) struct Active {
    pub segment: Arc<Segment>,
    pub file: Arc<dyn File>,
    pub salt: u32,
    /// Where the next frame goes.
    pub position: u64,
    /// What is known to be on the disk.
    pub durable: u64,
    pub reserved: u64,
    /// What the index file covers.
    pub checkpointed: u64,
    /// Up to here the page cache has been told to forget the file.
    pub forgotten: u64,
    /// The file before, and the part of it that the page cache may still hold.
    pub before: Option<(Arc<dyn File>, u64, u64)>,
}

struct Pending {
    done: Option<Done>,
    state: PendingState,
}

/// What the disk did with a group of appends.
#[derive(Clone, Debug)]
pub(crate) enum GroupOutcome {
    /// There was nothing to write.
    Nothing,
    /// It took all that was to be written.
    Written,
    /// It refused at least one append.
    Refused(LogError),
}

enum PendingState {
    /// Waits to be written, with the checksum of its body.
    New(Box<Append>, u32),
    Written {
        header: Header,
        position: u64,
        body: Bytes,
        companion: Option<Companion>,
    },
    Duplicate,
    Refused(LogError),
}

impl Writer {
    pub fn new(active: Option<Active>, next: u64, mark: Option<MarkFile>) -> Writer {
        Writer {
            active,
            next,
            group: Vec::new(),
            tentative: HashMap::new(),
            retry_at: i64::MIN,
            last_error: None,
            scratch: Vec::new(),
            mark,
        }
    }

    /// Lets go of the files: the partition is being removed.
    pub fn abandon(&mut self) {
        self.active = None;
        self.mark = None;
    }

    /// Takes an append into the group. `refused` says why it cannot be written, if so.
    pub fn add(&mut self, mut append: Box<Append>, body_crc: u32, refused: Option<LogError>) {
        let done = append.done.take();
        let state = match refused {
            Some(error) => PendingState::Refused(error),
            None => PendingState::New(append, body_crc),
        };
        self.group.push(Pending { done, state });
    }

    /// Refuses what is in the group: the commit thread has panicked. What was written of it is not known.
    pub fn refuse_group(&mut self) {
        for pending in self.group.drain(..) {
            if let Some(done) = pending.done {
                guarded("completion", || done(Err(LogError::Closed)));
            }
        }
    }

    pub fn has_group(&self) -> bool {
        !self.group.is_empty()
    }

    /// Writes the group, without syncing. The file is to be synced if one comes back.
    pub fn write(&mut self, inner: &PartitionState, now: i64) -> Option<Arc<dyn File>> {
        let (durability, segment_bytes) = {
            let options = inner.options.lock();
            let bytes = options
                .segment_bytes
                .clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
            (options.durability, bytes)
        };
        self.next = inner.end.load(Ordering::Acquire);
        if inner.closed.load(Ordering::Acquire) {
            self.refuse_new(&LogError::Closed);
            return None;
        }
        if !self.has_new() {
            return None;
        }
        if let Err(error) = self.make_room(inner, segment_bytes, now) {
            self.refuse_new(&error);
            return None;
        }
        let Some(active) = self.active.as_mut() else {
            self.refuse_new(&LogError::Closed);
            return None;
        };
        let (from, next) = (active.position, self.next);
        self.scratch.clear();
        // In the scratch buffer the padding after one body is followed by the header of the next
        // frame, so a frame takes two parts of the vectored write.
        let mut cuts: Vec<(usize, Bytes)> = Vec::with_capacity(self.group.len());
        let committed = inner.producers.lock();
        for pending in &mut self.group {
            let PendingState::New(append, body_crc) = &mut pending.state else {
                continue;
            };
            let body_crc = *body_crc;
            let mut known = 0;
            for (id, position) in &append.producers {
                let last = self
                    .tentative
                    .get(id)
                    .copied()
                    .or_else(|| committed.get(id));
                known += usize::from(last.is_some_and(|last| *position <= last));
            }
            if known > 0 && append.attributes & RECORDS_ONLY == 0 {
                pending.state = if known == append.producers.len() {
                    PendingState::Duplicate
                } else {
                    let why = "some of its producers have written it before and some have not";
                    PendingState::Refused(LogError::Refused { why })
                };
                continue;
            }
            let producers = if append.producers.is_empty() {
                no_producers()
            } else {
                Arc::from(std::mem::take(&mut append.producers))
            };
            for (id, position) in producers.iter() {
                let last = self.tentative.entry(id.clone()).or_insert(*position);
                *last = (*last).max(*position);
            }
            let header = Header {
                kind: Kind::Rows,
                body_crc,
                body_len: append.body.len(),
                header_len: header_len(&producers),
                base: self.next,
                count: append.count,
                attributes: append.attributes,
                min_time: append.min_time,
                max_time: append.max_time,
                durable: active.durable,
                salt: active.salt,
                producers,
            };
            header.encode(&mut self.scratch);
            let body = std::mem::take(&mut append.body);
            cuts.push((self.scratch.len(), body.clone()));
            self.scratch.extend_from_slice(padding(body.len()));
            self.next = header.end();
            let position = active.position;
            active.position += header.frame_len();
            pending.state = PendingState::Written {
                header,
                position,
                body,
                companion: append.companion.take(),
            };
        }
        drop(committed);
        if cuts.is_empty() {
            return None;
        }
        active.reserve(segment_bytes);
        let mut parts = Vec::with_capacity(cuts.len() * 2 + 1);
        let mut at = 0;
        for (cut, body) in &cuts {
            parts.push(IoSlice::new(&self.scratch[at..*cut]));
            parts.push(IoSlice::new(body));
            at = *cut;
        }
        parts.push(IoSlice::new(&self.scratch[at..]));
        match write_all(&*active.file, from, &mut parts) {
            Ok(()) => (durability == Durability::Fsync).then(|| active.file.clone()),
            Err(e) => {
                active.position = from;
                self.next = next;
                self.write_failed(inner, e, now);
                None
            }
        }
    }

    /// Publishes what was written of the group if `synced`. Returns what the disk did with the group.
    pub fn settle(
        &mut self,
        inner: &PartitionState,
        synced: io::Result<()>,
        now: i64,
    ) -> GroupOutcome {
        if let Err(e) = synced {
            // Nobody knows what of this group is on the disk. It is not acknowledged, and this
            // file is never written or synced again.
            let path = self.active.as_ref().map(|a| a.segment.path.clone());
            let error = LogError::Failed {
                path: path.unwrap_or_else(|| inner.dir.clone()),
                source: Arc::new(e),
            };
            self.fail(inner, &error, now);
            self.refuse_written(&error);
        } else if inner.closed.load(Ordering::Acquire) {
            // Removed since it was written.
            self.refuse_written(&LogError::Closed);
        }
        let mut group = std::mem::take(&mut self.group);
        self.publish(inner, &mut group, now);
        let outcome = outcome_of(&group);
        self.group = group;
        outcome
    }

    /// Completes every append of the group.
    pub fn complete(&mut self, inner: &PartitionState) {
        let end = inner.end.load(Ordering::Acquire);
        for pending in self.group.drain(..) {
            let result = match pending.state {
                PendingState::Written { header, .. } => Ok(Appended {
                    base: header.base,
                    count: header.count,
                    duplicate: false,
                }),
                PendingState::Duplicate => Ok(Appended {
                    base: end,
                    count: 0,
                    duplicate: true,
                }),
                PendingState::Refused(error) => Err(error),
                PendingState::New(..) => Err(LogError::Closed),
            };
            if let Some(done) = pending.done {
                guarded("completion", || done(result));
            }
        }
        self.tentative.clear();
    }

    /// Finds out whether the disk takes appends again after it refused one: begins the next segment if there
    /// is none, and otherwise writes a file of its own.
    pub fn try_disk(&mut self, inner: &PartitionState, now: i64) -> Result<(), LogError> {
        if self.active.is_none() {
            self.next = inner.end.load(Ordering::Acquire);
            return self.begin(inner, now);
        }
        let disk = &*inner.files.disk;
        let path = inner.dir.join(TRIAL_FILE);
        let remove = || match disk.remove(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
        let bytes = vec![0; TRIAL_BYTES];
        let written = remove().and_then(|()| disk.create(&path)).and_then(|file| {
            write_all(&*file, 0, &mut [IoSlice::new(&bytes)])?;
            file.sync()
        });
        written
            .and(remove())
            .map_err(|e| match LogError::io("cannot write", &path, e) {
                LogError::Io { path, source, .. } => LogError::Failed { path, source },
                other => other,
            })
    }

    fn publish(&mut self, inner: &PartitionState, group: &mut [Pending], now: i64) {
        let Some(active) = self.active.as_mut() else {
            return;
        };
        let mut written = Vec::with_capacity(group.len());
        let mut frames = Vec::with_capacity(group.len());
        for pending in group {
            if let PendingState::Written {
                header,
                position,
                body,
                companion,
            } = &mut pending.state
            {
                let body = std::mem::take(body);
                frames.push(Frame::new(header.clone(), body, companion.take()));
                written.push((header.clone(), *position));
            }
        }
        let Some(last) = written.last() else {
            return;
        };
        let end = last.0.end();
        let observers = inner.observers.read().clone();
        for observer in observers.iter() {
            for frame in &frames {
                guarded("observer", || observer(frame));
            }
        }
        active.segment.publish(&written, now);
        {
            let mut producers = inner.producers.lock();
            for (header, _) in &written {
                for (id, position) in header.producers.iter() {
                    producers.set(id, *position, header.base);
                }
            }
        }
        let cache_bytes = inner.options.lock().cache_bytes;
        inner.tail.lock().push(frames, cache_bytes);
        inner.end.store(end, Ordering::Release);
    }

    /// Notes that all that has been written is durable.
    pub fn all_synced(&mut self) {
        if let Some(position) = self.active.as_ref().map(|a| a.position) {
            self.synced(position, self.next);
        }
    }

    /// Notes, here and for the next start, that the file is durable up to `position`, and so are all
    /// rows before `end`.
    pub fn synced(&mut self, position: u64, end: u64) {
        let Some(active) = self.active.as_mut() else {
            return;
        };
        if position <= active.durable {
            return;
        }
        active.durable = position;
        active.forget();
        let mark = Mark {
            salt: active.salt,
            base: active.segment.base,
            len: position,
            end,
        };
        if let Some(file) = self.mark.as_mut()
            && let Err(e) = file.write(&mark)
        {
            // Of no use to anybody until the next start, which then knows less.
            tracing::warn!(
                file = %active.segment.path.display(), error = %e,
                "cannot note how much is durable; noting stops until the next segment"
            );
            self.mark = None;
        }
    }

    /// Writes the index beside the segment when enough has been added to it.
    pub fn checkpoint(&mut self, inner: &PartitionState) {
        let Some(active) = self.active.as_mut() else {
            return;
        };
        if active.durable == active.position
            && active.position - active.checkpointed >= CHECKPOINT_BYTES
        {
            active.checkpoint(&*inner.files.disk, &inner.producers.lock().list());
        }
    }

    /// The file written to and how far, if some of it is not known to be durable.
    pub fn unsynced(&self) -> Option<(Arc<dyn File>, u64)> {
        let active = self.active.as_ref()?;
        (active.durable < active.position).then(|| (active.file.clone(), active.position))
    }

    /// Whether `file` is the one that is written to.
    pub fn writes_to(&self, file: &Arc<dyn File>) -> bool {
        let same = |a: &Active| std::ptr::addr_eq(Arc::as_ptr(&a.file), Arc::as_ptr(file));
        self.active.as_ref().is_some_and(same)
    }

    /// A sync of what had been acknowledged under durability `memory` has failed.
    pub fn background_failed(&mut self, inner: &PartitionState, e: io::Error, now: i64) {
        let Some(active) = self.active.take() else {
            return;
        };
        tracing::error!(
            file = %active.segment.path.display(), error = %e,
            "a background sync failed; the segment is closed, and what durability `memory` \
             acknowledged since the last sync may not survive a crash of this machine"
        );
        // Its frames have been acknowledged and are served: nothing is cut off.
        active.segment.seal(inner.end.load(Ordering::Acquire));
        self.retry_at = now;
    }

    /// Makes all durable and notes it beside the segment, so that the next start is quick.
    pub fn close(&mut self, inner: &PartitionState) {
        if let Some((file, position)) = self.unsynced() {
            if let Err(e) = file.sync() {
                tracing::error!(partition = inner.name, error = %e, "sync failed");
                return;
            }
            self.synced(position, inner.end.load(Ordering::Acquire));
        }
        let Some(active) = self.active.as_mut() else {
            return;
        };
        // Gives back what was reserved, also by an earlier process.
        let _ = active.file.truncate(active.position);
        active.reserved = 0;
        if active.checkpointed < active.position {
            active.checkpoint(&*inner.files.disk, &inner.producers.lock().list());
        }
    }

    /// Ends the segment that is written to, if it has rows, and begins a new one.
    pub fn roll(&mut self, inner: &PartitionState, now: i64) -> Result<(), LogError> {
        self.next = inner.end.load(Ordering::Acquire);
        if let Some(active) = self.active.as_ref() {
            if active.segment.end() == active.segment.base {
                return Ok(());
            }
            let path = active.segment.path.clone();
            // The next segment's existence says that this one is all there.
            if let Some((file, position)) = self.unsynced() {
                if let Err(e) = file.sync() {
                    self.background_failed(inner, io::Error::from(e.kind()), now);
                    return Err(LogError::Failed {
                        path,
                        source: Arc::new(e),
                    });
                }
                self.synced(position, self.next);
            }
        }
        // Once the next segment may exist, a row more in this one would be lost behind its begin.
        let mut before = None;
        if let Some(mut old) = self.active.take() {
            old.segment.seal(self.next);
            // Gives back what was reserved, also by an earlier process.
            let _ = old.file.truncate(old.position);
            old.checkpoint(&*inner.files.disk, &inner.producers.lock().list());
            before = Some((old.file, old.forgotten, old.position));
        }
        self.begin(inner, now)?;
        if let Some(active) = self.active.as_mut() {
            active.before = before;
        }
        Ok(())
    }

    fn begin(&mut self, inner: &PartitionState, now: i64) -> Result<(), LogError> {
        match self.make_segment(inner, now) {
            Ok(made) => {
                self.active = Some(made);
                self.last_error = None;
                Ok(())
            }
            Err(e) => {
                let error = match LogError::io("cannot begin a segment in", &inner.dir, e) {
                    LogError::Io { path, source, .. } => LogError::Failed { path, source },
                    other => other,
                };
                self.retry_at = now.saturating_add(RETRY_MICROS);
                self.last_error = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Sees to it that there is a segment to write to.
    fn make_room(
        &mut self,
        inner: &PartitionState,
        segment_bytes: u64,
        now: i64,
    ) -> Result<(), LogError> {
        match &self.active {
            Some(active) if active.position < segment_bytes => Ok(()),
            Some(_) => self.roll(inner, now),
            // (A clock that was set back must not make this long.)
            None if (self.retry_at.saturating_sub(RETRY_MICROS)..self.retry_at).contains(&now) => {
                Err(match &self.last_error {
                    Some(error) => error.clone(),
                    None => LogError::Failed {
                        path: inner.dir.clone(),
                        source: Arc::new(io::Error::other("the segment failed a moment ago")),
                    },
                })
            }
            None => self.begin(inner, now),
        }
    }

    /// Makes the segment that begins at the next offset. It gets its name when its head, with every
    /// producer's position, is on the disk, and is used when the name is.
    fn make_segment(&mut self, inner: &PartitionState, now: i64) -> io::Result<Active> {
        let disk = &*inner.files.disk;
        if self.mark.is_none() {
            // The sync of the folder below keeps its name.
            self.mark = MarkFile::open_if_possible(disk, &inner.dir);
        }
        let path = inner.dir.join(segment_name(self.next));
        let temporary = path.with_extension("new");
        match disk.remove(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let salt = disk.random() as u32;
        let head = SegmentHeader {
            salt,
            base: self.next,
            created_micros: now,
        };
        let mut bytes = head.encode().to_vec();
        let mut table = Vec::new();
        encode_producers(&inner.producers.lock().list(), &mut table);
        let header = Header {
            kind: Kind::Producers,
            body_crc: crc32c::crc32c(&table),
            body_len: table.len(),
            header_len: FIXED_BYTES,
            base: self.next,
            count: 0,
            attributes: 0,
            min_time: 0,
            max_time: 0,
            durable: 0,
            salt,
            producers: no_producers(),
        };
        header.encode(&mut bytes);
        bytes.extend_from_slice(&table);
        bytes.extend_from_slice(padding(table.len()));
        let len = bytes.len() as u64;
        let file = disk.create(&temporary)?;
        write_all(&*file, 0, &mut [IoSlice::new(&bytes)])?;
        file.sync()?;
        disk.rename(&temporary, &path)?;
        disk.sync_dir(&inner.dir)?;
        let segment = Arc::new(Segment::active(path, Index::new(salt, self.next, now, len)));
        let mut segments = inner.segments.write();
        // A failed segment without a committed row had this very name.
        segments.retain(|s| s.base != segment.base);
        segments.push(segment.clone());
        drop(segments);
        Ok(Active {
            segment,
            file,
            salt,
            position: len,
            durable: len,
            reserved: 0,
            checkpointed: 0,
            forgotten: 0,
            before: None,
        })
    }

    /// A write failed. If the disk is full and what was half written can be taken back, the
    /// segment goes on when there is room; otherwise it is closed.
    fn write_failed(&mut self, inner: &PartitionState, e: io::Error, now: i64) {
        let Some(active) = self.active.as_mut() else {
            return;
        };
        let path = active.segment.path.clone();
        let full = matches!(
            e.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        // The sync keeps what was refused from coming back after a crash.
        let taken_back =
            full && active.file.truncate(active.position).is_ok() && active.file.sync().is_ok();
        active.reserved = 0;
        let error = if full {
            LogError::Full { path }
        } else {
            LogError::Failed {
                path,
                source: Arc::new(e),
            }
        };
        if taken_back {
            self.all_synced();
        } else {
            self.fail(inner, &error, now);
        }
        self.refuse_written(&error);
    }

    /// Closes the segment for good. Its committed rows stay readable.
    fn fail(&mut self, inner: &PartitionState, error: &LogError, now: i64) {
        let Some(active) = self.active.take() else {
            return;
        };
        tracing::error!(
            file = %active.segment.path.display(), %error,
            "the segment is closed; a new one is begun when the disk allows it"
        );
        let committed = inner.end.load(Ordering::Acquire);
        // Only so that less is left over: the next segment's name ends this one in any case.
        let _ = active.file.truncate(active.segment.len());
        active.segment.seal(committed);
        self.last_error = Some(error.clone());
        self.retry_at = now.saturating_add(RETRY_MICROS);
    }

    fn has_new(&self) -> bool {
        let new = |p: &Pending| matches!(p.state, PendingState::New(..));
        self.group.iter().any(new)
    }

    fn refuse_new(&mut self, error: &LogError) {
        for pending in &mut self.group {
            if matches!(pending.state, PendingState::New(..)) {
                pending.state = PendingState::Refused(error.clone());
            }
        }
    }

    /// Fails all that depends on what was just written: a duplicate of it was not written either.
    fn refuse_written(&mut self, error: &LogError) {
        for pending in &mut self.group {
            if !matches!(pending.state, PendingState::Refused(_)) {
                pending.state = PendingState::Refused(error.clone());
            }
        }
    }
}

impl Active {
    /// Lets the page cache forget what lies further back than readers are likely to be.
    fn forget(&mut self) {
        let until = self.durable.saturating_sub(PAGE_CACHE_BYTES);
        if until < self.forgotten + PAGE_CACHE_STEP_BYTES {
            return;
        }
        if let Some((file, from, to)) = self.before.take() {
            file.forget(from, to);
        }
        self.file.forget(self.forgotten, until);
        self.forgotten = until;
    }

    /// Reserves room ahead, growing with the file, so that blocks are neighbours and a sync has
    /// less to write down about them.
    fn reserve(&mut self, segment_bytes: u64) {
        if self.position > self.reserved && self.position < segment_bytes {
            let ahead = self.position.clamp(64 << 10, 16 << 20);
            let until = (self.position + ahead).min(segment_bytes);
            // If there is no room, the write will say so; a disk that cannot do this needs not.
            let _ = self.file.reserve(until);
            self.reserved = until.max(self.position);
        }
    }

    fn checkpoint(&mut self, disk: &dyn Disk, producers: &[(Arc<str>, u64)]) {
        if let Some(index) = self.segment.index() {
            let covered = index.len;
            let path = index_path(&self.segment.path);
            // It can be rebuilt, so a failure costs only time.
            if write_whole(disk, &path, &index.encode(Some(producers)), false).is_ok() {
                self.checkpointed = covered;
            }
        }
    }
}

fn outcome_of(group: &[Pending]) -> GroupOutcome {
    let mut outcome = GroupOutcome::Nothing;
    for pending in group {
        match &pending.state {
            PendingState::Refused(
                error @ (LogError::Full { .. } | LogError::Failed { .. } | LogError::Io { .. }),
            ) => return GroupOutcome::Refused(error.clone()),
            PendingState::Written { .. } => outcome = GroupOutcome::Written,
            _ => {}
        }
    }
    outcome
}

/// Runs somebody else's code on the commit thread; its panic must not end everybody's commits.
pub(crate) fn guarded(what: &'static str, run: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(run)).is_err() {
        tracing::error!(what, "panicked on the commit thread");
    }
}
