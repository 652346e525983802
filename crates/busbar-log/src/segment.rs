//! One file of a partition, as readers and the commit thread share it.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::disk::{Disk, File};
use crate::error::{Damage, LogError, Result};
use crate::frame::{FIXED_BYTES, Frame, Header, Kind, SegmentHeader};
use crate::index::{Index, UNKNOWN_MICROS, load, write_whole};
use crate::limits::{ALIGN_BYTES, FILES_OPEN_MAX, INDEX_STRIDE_BYTES};
use crate::scan::{Found, Scan, read_aligned};

/// Most bytes read at once beyond what a single frame needs.
const READ_BYTES_MAX: usize = 4 << 20;
/// Least bytes read at once: looking for a frame within an index stride takes few reads.
const READ_BYTES_MIN: usize = 64 << 10;
/// Places where readers have stopped, remembered for their next read.
const HINTS: usize = 8;

/// One segment.
pub(crate) struct Segment {
    /// Tells it from another that has or had the same path.
    id: u64,
    pub base: u64,
    pub path: PathBuf,
    state: Mutex<State>,
}

struct State {
    /// First offset after the segment: of the last committed row, or where the next begins.
    end: u64,
    /// Bytes that are committed.
    len: u64,
    sealed: bool,
    /// Known for a segment that is written to; loaded for others when it is needed.
    index: Option<Index>,
    hints: [(u64, u64); HINTS],
    next_hint: usize,
}

/// What reading found besides frames.
pub(crate) struct ReadEnd {
    /// Set when damage was met; nothing after it was read.
    pub damage: Option<Damage>,
}

impl Segment {
    /// A segment that is written to.
    pub fn active(path: PathBuf, index: Index) -> Segment {
        Segment::with(path, index.base, index.end, index.len, false, Some(index))
    }

    /// A segment that is complete.
    pub fn sealed(path: PathBuf, base: u64, end: u64, len: u64, index: Option<Index>) -> Segment {
        Segment::with(path, base, end, len, true, index)
    }

    fn with(
        path: PathBuf,
        base: u64,
        end: u64,
        len: u64,
        sealed: bool,
        index: Option<Index>,
    ) -> Segment {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Segment {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            base,
            path,
            state: Mutex::new(State {
                end,
                len,
                sealed,
                index,
                hints: [(0, 0); HINTS],
                next_hint: 0,
            }),
        }
    }

    pub fn end(&self) -> u64 {
        self.state.lock().end
    }

    pub fn len(&self) -> u64 {
        self.state.lock().len
    }

    pub fn is_sealed(&self) -> bool {
        self.state.lock().sealed
    }

    /// Makes frames that have been written readable.
    pub fn publish(&self, frames: &[(Header, u64)], now_micros: i64) {
        let mut state = self.state.lock();
        let state = &mut *state;
        if let Some(index) = &mut state.index {
            for (header, position) in frames {
                index.add(header, *position);
            }
            index.last_micros = now_micros;
            state.end = index.end;
            state.len = index.len;
        }
    }

    /// Nothing will be added any more; `end` is where the next segment begins.
    pub fn seal(&self, end: u64) {
        let mut state = self.state.lock();
        state.sealed = true;
        state.end = end;
    }

    /// A copy of the index as it is now, if it is in memory.
    pub fn index(&self) -> Option<Index> {
        self.state.lock().index.clone()
    }

    /// Looks at the index, which is loaded or rebuilt if needed.
    pub fn with_index<T>(&self, files: &Files, look: impl FnOnce(&Index) -> T) -> Result<T> {
        let (end, len) = {
            let state = self.state.lock();
            if let Some(index) = &state.index {
                return Ok(look(index));
            }
            (state.end, state.len)
        };
        let file = files.open(self)?;
        let index = match stored_index(&*files.disk, &self.path, self.base) {
            // One that stops short was written before the segment failed: what came after it would
            // not be found by its time.
            Some(index) if index.len <= len && index.end == end => index,
            _ => {
                let index = rebuild(&*file, self.base, end, len)
                    .map_err(|e| LogError::io("cannot read", &self.path, e))?;
                // Only to be faster next time.
                let bytes = index.encode(None);
                let _ = write_whole(&*files.disk, &index_path(&self.path), &bytes, false);
                index
            }
        };
        let mut state = self.state.lock();
        Ok(look(state.index.get_or_insert(index)))
    }

    /// Reads frames from the one that holds `offset` on into `out`, while they fit in `bytes_max`
    /// together; one is read however large it is, unless `out` has some already.
    pub fn read(
        &self,
        files: &Files,
        offset: u64,
        bytes_max: usize,
        out: &mut Vec<Frame>,
    ) -> Result<ReadEnd> {
        let file = files.open(self)?;
        self.read_file(&*file, files, offset, bytes_max, out)
            .map_err(|e| match e {
                ReadError::Io(e) => LogError::io("cannot read", &self.path, e),
                ReadError::Log(e) => e,
            })
    }

    fn read_file(
        &self,
        file: &dyn File,
        files: &Files,
        offset: u64,
        bytes_max: usize,
        out: &mut Vec<Frame>,
    ) -> std::result::Result<ReadEnd, ReadError> {
        let (start, salt, end, len) = self.locate(files, offset)?;
        let ahead = bytes_max.clamp(READ_BYTES_MIN, READ_BYTES_MAX);
        let mut scan = Scan::new(file, salt, start, len, false).read_ahead(ahead);
        let mut left = bytes_max;
        let mut reached = offset;
        while reached < end {
            let at = scan.position;
            let bad = match scan.next()? {
                Found::Frame(header) => {
                    if header.kind != Kind::Rows || header.end() <= reached {
                        continue;
                    }
                    if !out.is_empty() && header.body_len > left {
                        scan.position = at;
                        break;
                    }
                    if header.base > reached {
                        "frames are missing here"
                    } else {
                        match scan.body(&header)? {
                            Ok(body) => {
                                left = left.saturating_sub(header.body_len);
                                reached = header.end();
                                out.push(Frame::new(header, body, None));
                                continue;
                            }
                            Err(why) => why,
                        }
                    }
                }
                Found::Bad(why) => why,
                Found::End => "the file ends before the last of its events",
            };
            let (damage, resume) = self.gap(file, salt, at, reached, bad)?;
            if damage.resume > reached {
                return Ok(ReadEnd {
                    damage: Some(damage),
                });
            }
            // The bad place lies before what is wanted here.
            scan.position = resume;
        }
        self.remember(reached, scan.position);
        Ok(ReadEnd { damage: None })
    }

    /// Where to begin to look for `offset`, the salt, and how far the segment goes.
    fn locate(
        &self,
        files: &Files,
        offset: u64,
    ) -> std::result::Result<(u64, u32, u64, u64), ReadError> {
        let (place, salt) = self
            .with_index(files, |index| (index.place_of(offset), index.salt))
            .map_err(ReadError::Log)?;
        let (end, len) = {
            let state = self.state.lock();
            (state.end, state.len)
        };
        let mut best = place.map_or((0, FIXED_BYTES as u64), |p| (p.offset, p.position));
        for hint in self.state.lock().hints {
            if hint.1 > best.1 && hint.0 <= offset {
                best = hint;
            }
        }
        Ok((best.1, salt, end, len))
    }

    fn remember(&self, offset: u64, position: u64) {
        let mut state = self.state.lock();
        let slot = state.next_hint % HINTS;
        state.hints[slot] = (offset, position);
        state.next_hint = slot + 1;
    }

    /// Describes what cannot be read at `at`, where the row `from` was looked for, and finds the
    /// position where reading can go on.
    fn gap(
        &self,
        file: &dyn File,
        salt: u32,
        at: u64,
        from: u64,
        why: &'static str,
    ) -> io::Result<(Damage, u64)> {
        let (end, len) = {
            let state = self.state.lock();
            (state.end, state.len)
        };
        let mut scan = Scan::new(file, salt, at, len, false);
        let mut resume = (end, len);
        while scan.resync()? {
            let position = scan.position;
            match scan.next()? {
                Found::Frame(h) if h.kind == Kind::Rows && h.end() > from => {
                    resume = (h.base.min(end), position);
                    break;
                }
                Found::Frame(_) => {}
                Found::Bad(_) | Found::End => break,
            }
        }
        let damage = Damage {
            file: self.path.clone(),
            position: at,
            bytes: resume.1.saturating_sub(at),
            from,
            resume: resume.0,
            why,
        };
        if resume.1 < len {
            self.remember(resume.0, resume.1);
        }
        Ok((damage, resume.1))
    }

    /// An offset in this segment before which every row is older than `micros`; `None` if all are.
    pub fn offset_at_time(&self, files: &Files, micros: i64) -> Result<Option<u64>> {
        let found = self.with_index(files, |index| (index.place_at_time(micros), index.salt))?;
        let (Some(place), salt) = found else {
            return Ok(None);
        };
        let file = files.open(self)?;
        let len = self.len();
        let mut scan = Scan::new(&*file, salt, place.position, len, false);
        while scan.position < place.position.saturating_add(2 * INDEX_STRIDE_BYTES) {
            match scan.next() {
                Ok(Found::Frame(h)) if h.kind == Kind::Rows && h.max_time >= micros => {
                    return Ok(Some(h.base));
                }
                Ok(Found::Frame(_)) => {}
                // Damage: begin before it, the reader will be told.
                Ok(Found::Bad(_) | Found::End) => break,
                Err(e) => return Err(LogError::io("cannot read", &self.path, e)),
            }
        }
        Ok(Some(place.offset))
    }
}

enum ReadError {
    Io(io::Error),
    Log(LogError),
}

impl From<io::Error> for ReadError {
    fn from(e: io::Error) -> Self {
        ReadError::Io(e)
    }
}

/// Path of the index that belongs to a segment.
pub(crate) fn index_path(segment: &Path) -> PathBuf {
    segment.with_extension("idx")
}

/// Name of the segment that begins at `base`.
pub(crate) fn segment_name(base: u64) -> String {
    format!("{base:020}.log")
}

/// The base offset in a segment's name.
pub(crate) fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// The index file of a segment, if it is whole and belongs to it.
fn stored_index(disk: &dyn Disk, path: &Path, base: u64) -> Option<Index> {
    let (index, _) = load(disk, &index_path(path))?;
    let head = read_aligned(&*disk.open(path, false).ok()?, 0, FIXED_BYTES).ok()?;
    let matches = SegmentHeader::decode(&head)
        .is_ok_and(|h| h.salt == index.salt && h.base == base && index.base == base);
    matches.then_some(index)
}

/// Builds the index of a complete segment from its frames' headers. Bad places are skipped: the
/// reader that comes to them reports them.
fn rebuild(file: &dyn File, base: u64, end: u64, len: u64) -> io::Result<Index> {
    let head = read_aligned(file, 0, FIXED_BYTES)?;
    let (salt, created) = match SegmentHeader::decode(&head) {
        Ok(header) => (header.salt, header.created_micros),
        Err(_) => (find_salt(file, len)?.unwrap_or(0), UNKNOWN_MICROS),
    };
    let mut index = Index::new(salt, base, created, FIXED_BYTES as u64);
    let mut scan = Scan::new(file, salt, FIXED_BYTES as u64, len, false);
    loop {
        let at = scan.position;
        match scan.next()? {
            Found::Frame(header) if header.kind == Kind::Rows => {
                if header.base >= index.end && header.end() <= end {
                    index.add(&header, at);
                }
            }
            Found::Frame(_) => {}
            Found::Bad(_) => {
                scan.position += ALIGN_BYTES as u64;
                if !scan.resync()? {
                    break;
                }
            }
            Found::End => break,
        }
    }
    index.len = len;
    index.end = end;
    Ok(index)
}

/// The salt of a segment whose header is damaged: that of its first good frame.
pub(crate) fn find_salt(file: &dyn File, len: u64) -> io::Result<Option<u32>> {
    let mut at = FIXED_BYTES as u64;
    while at < len {
        let chunk = read_aligned(file, at, (READ_BYTES_MAX as u64).min(len - at) as usize)?;
        if chunk.is_empty() {
            break;
        }
        for step in (0..chunk.len()).step_by(FIXED_BYTES) {
            let rest = &chunk[step..];
            if Header::announced_len(rest).is_ok()
                && let Ok(header) = Header::decode(rest)
            {
                return Ok(Some(header.salt));
            }
        }
        at += chunk.len().next_multiple_of(FIXED_BYTES) as u64;
    }
    Ok(None)
}

/// Files open for reading, over all partitions: a bounded cache.
pub(crate) struct Files {
    pub disk: Arc<dyn Disk>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    files: HashMap<u64, (Arc<dyn File>, u64)>,
    tick: u64,
}

impl Files {
    pub fn new(disk: Arc<dyn Disk>) -> Files {
        Files {
            disk,
            open: Mutex::default(),
        }
    }

    pub fn open(&self, segment: &Segment) -> Result<Arc<dyn File>> {
        let mut open = self.open.lock();
        open.tick += 1;
        let tick = open.tick;
        if let Some((file, used)) = open.files.get_mut(&segment.id) {
            *used = tick;
            return Ok(file.clone());
        }
        drop(open);
        let file = self
            .disk
            .open(&segment.path, false)
            .map_err(|e| LogError::io("cannot open", &segment.path, e))?;
        let mut open = self.open.lock();
        if open.files.len() >= FILES_OPEN_MAX
            && let Some(oldest) = open.files.iter().min_by_key(|(_, (_, used))| *used)
        {
            let oldest = *oldest.0;
            open.files.remove(&oldest);
        }
        open.files.insert(segment.id, (file.clone(), tick));
        Ok(file)
    }

    /// Closes the file of a segment that is removed or replaced. Those who read it still can.
    pub fn forget(&self, segment: &Segment) {
        self.open.lock().files.remove(&segment.id);
    }
}
