//! Opening a partition's folder after whatever happened to it.
//!
//! Every segment but the last is complete: it was synced before the next one was made. A segment
//! ends where the next begins, so rows that a failed segment holds beyond that (they were never
//! acknowledged) stay unread for ever. In the last segment everything up to the first bad place is
//! good. What comes after it is a *torn tail*, and cut off, unless it can be shown to have been
//! durable once: by the index beside it, or by a later frame that was written when this place
//! had been synced. Then it is *damage*: it stays, is reported, and a new segment goes on behind it.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, File};
use crate::error::{Damage, LogError, Result};
use crate::frame::{FIXED_BYTES, Header, Kind, ProducerReader, SegmentHeader, Why};
use crate::index::{Index, Table, load};
use crate::limits::{ALIGN_BYTES, PRODUCERS_PER_PARTITION_MAX};
use crate::scan::{Found, Scan, read_aligned};
use crate::segment::{Segment, find_salt, index_path, parse_segment_name};

/// The last position of each producer, and the offset it was reached at.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProducerTable {
    positions: HashMap<Arc<str>, (u64, u64)>,
}

impl ProducerTable {
    pub fn get(&self, id: &str) -> Option<u64> {
        self.positions.get(id).map(|(position, _)| *position)
    }

    /// Takes note that `id` has reached `position` with rows at `offset`. A position is never
    /// lowered, which only frames of [`RECORDS_ONLY`](crate::partition::RECORDS_ONLY) could try.
    pub fn set(&mut self, id: &Arc<str>, position: u64, offset: u64) {
        if let Some(known) = self.positions.get_mut(id) {
            *known = (position.max(known.0), offset);
            return;
        }
        self.positions.insert(id.clone(), (position, offset));
        if self.positions.len() > PRODUCERS_PER_PARTITION_MAX {
            // Those silent longest go, an eighth at a time, so that this is rare.
            let oldest = self.list();
            for (id, _) in &oldest[..PRODUCERS_PER_PARTITION_MAX / 8] {
                self.positions.remove(id);
            }
        }
    }

    /// All of them, those silent longest first.
    pub fn list(&self) -> Vec<(Arc<str>, u64)> {
        let mut all: Vec<_> = self.positions.iter().collect();
        all.sort_unstable_by(|a, b| (a.1.1, a.0).cmp(&(b.1.1, b.0)));
        all.iter().map(|(id, at)| ((*id).clone(), at.0)).collect()
    }

    /// Takes a list as [`ProducerTable::list`] gave it at the head of a segment that begins at
    /// `base`.
    pub fn load(&mut self, list: impl Iterator<Item = (Arc<str>, u64)>, base: u64) {
        for (id, position) in list.take(PRODUCERS_PER_PARTITION_MAX) {
            self.set(&id, position, base.saturating_sub(1));
        }
    }
}

/// What a partition's folder holds.
pub(crate) struct Recovered {
    pub segments: Vec<Arc<Segment>>,
    /// The last segment opened for writing, if it can be gone on with.
    pub active: Option<(Arc<dyn File>, u64)>,
    pub end: u64,
    pub producers: ProducerTable,
    pub damage: Vec<Damage>,
    /// Bytes of a torn tail that were cut off.
    pub torn_bytes: u64,
}

/// What the last segment turned out to hold.
pub(crate) struct Tail {
    pub index: Index,
    pub producers: ProducerTable,
    pub damage: Vec<Damage>,
    /// Bytes after the last good frame that were never acknowledged, and why they are no frame.
    pub torn: Option<(u64, Why)>,
    /// Whether the producers are all known (a damaged head hides some).
    pub producers_known: bool,
}

/// Opens (or makes) a partition's folder.
pub(crate) fn recover(disk: &dyn Disk, dir: &Path) -> Result<Recovered> {
    let entries = match disk.list(dir) {
        Ok(entries) => entries,
        Err(e) => return Err(LogError::io("cannot list", dir, e)),
    };
    let mut found: Vec<(u64, PathBuf, u64)> = Vec::new();
    for entry in entries {
        let path = dir.join(&entry.name);
        if entry.name.ends_with(".tmp") || entry.name.ends_with(".new") {
            // Left by a crash in the middle of writing a file anew; the old one is in place.
            disk.remove(&path)
                .map_err(|e| LogError::io("cannot remove", &path, e))?;
        } else if !entry.is_dir
            && let Some(base) = parse_segment_name(&entry.name)
        {
            found.push((base, path, entry.len));
        }
    }
    let mut recovered = Recovered {
        segments: Vec::new(),
        active: None,
        end: 0,
        producers: ProducerTable::default(),
        damage: Vec::new(),
        torn_bytes: 0,
    };
    // Every segment had a good head before it got its name, so one without any good frame has been
    // damaged all over. It is set aside under another name, and the offsets it is known to have
    // held are not given away again.
    while let Some((base, path, len)) = found.last().cloned() {
        let file = open(disk, &path)?;
        let good = has_frame(&*file, len).map_err(|e| LogError::io("cannot read", &path, e))?;
        if good {
            break;
        }
        drop(file);
        let known = load(disk, &index_path(&path)).map_or(base, |(index, _)| index.end.max(base));
        let aside = path.with_extension("log.damaged");
        disk.rename(&path, &aside)
            .and_then(|()| disk.sync_dir(dir))
            .map_err(|e| LogError::io("cannot rename", &path, e))?;
        recovered.end = recovered.end.max(known);
        recovered.damage.push(Damage {
            file: aside,
            position: 0,
            bytes: len,
            from: base,
            resume: known,
            why: "no frame in it can be read",
        });
        found.pop();
    }
    let Some((base, path, len)) = found.pop() else {
        return Ok(recovered);
    };
    for (i, (sealed_base, sealed_path, sealed_len)) in found.iter().enumerate() {
        let end = found.get(i + 1).map_or(base, |next| next.0);
        recovered.segments.push(Arc::new(Segment::sealed(
            sealed_path.clone(),
            *sealed_base,
            end,
            *sealed_len,
            None,
        )));
    }
    recover_last(disk, dir, (base, path, len), &found, &mut recovered)?;
    Ok(recovered)
}

fn recover_last(
    disk: &dyn Disk,
    dir: &Path,
    (base, path, len): (u64, PathBuf, u64),
    before: &[(u64, PathBuf, u64)],
    recovered: &mut Recovered,
) -> Result<()> {
    let file = open(disk, &path)?;
    let failed = |e| LogError::io("cannot read", &path, e);
    let stored = load(disk, &index_path(&path));
    let mut tail = read_tail(&*file, &path, base, len, stored, true).map_err(failed)?;
    if !tail.producers_known {
        // The segment before this one knows all but the newest.
        let mut older = ProducerTable::default();
        if let Some((base, path, len)) = before.last() {
            let file = open(disk, path)?;
            let stored = load(disk, &index_path(path));
            let last = read_tail(&*file, path, *base, *len, stored, true)
                .map_err(|e| LogError::io("cannot read", path, e))?;
            older = last.producers;
        }
        for (id, (position, offset)) in tail.producers.positions.drain() {
            older.set(&id, position, offset);
        }
        tail.producers = older;
    }
    recovered.end = recovered.end.max(tail.index.end);
    recovered.producers = tail.producers;
    if tail.damage.is_empty() {
        let used = tail.index.len;
        if let Some((bytes, why)) = tail.torn {
            tracing::warn!(
                file = %path.display(), position = used, bytes, why,
                "cutting off a torn tail that was never acknowledged"
            );
            recovered.torn_bytes = bytes;
        }
        if len > used {
            file.truncate(used)
                .map_err(|e| LogError::io("cannot cut off the torn tail of", &path, e))?;
        }
        // The cut is durable before anything is written there: otherwise a later crash could bring
        // the old tail back behind the new frames. And what was read from the page cache just now
        // is not known to be on the disk.
        file.sync()
            .map_err(|e| LogError::io("cannot sync", &path, e))?;
        disk.sync_dir(dir)
            .map_err(|e| LogError::io("cannot sync", dir, e))?;
        recovered
            .segments
            .push(Arc::new(Segment::active(path, tail.index)));
        recovered.active = Some((file, used));
    } else {
        for damage in &tail.damage {
            tracing::error!(
                file = %damage.file.display(), position = damage.position, bytes = damage.bytes,
                from = damage.from, resume = damage.resume, why = damage.why,
                "damage in stored events; the rest is served"
            );
        }
        recovered.damage = tail.damage;
        // Readers come to the bad places themselves; what is torn behind them stays unread.
        let (end, used) = (tail.index.end, tail.index.len);
        recovered.segments.push(Arc::new(Segment::sealed(
            path,
            base,
            end,
            used,
            Some(tail.index),
        )));
    }
    Ok(())
}

fn open(disk: &dyn Disk, path: &Path) -> Result<Arc<dyn File>> {
    disk.open(path, true)
        .map_err(|e| LogError::io("cannot open", path, e))
}

/// Whether anything in a segment file can be read.
fn has_frame(file: &dyn File, len: u64) -> io::Result<bool> {
    if len < FIXED_BYTES as u64 {
        return Ok(false);
    }
    let head = read_aligned(file, 0, FIXED_BYTES)?;
    let salt = match SegmentHeader::decode(&head) {
        Ok(header) => header.salt,
        Err(_) => match find_salt(file, len)? {
            Some(salt) => salt,
            None => return Ok(false),
        },
    };
    Scan::new(file, salt, FIXED_BYTES as u64, len, true).resync()
}

/// Reads the last segment, from where its index ends if `skip_indexed`, and judges what follows the
/// last good frame.
pub(crate) fn read_tail(
    file: &dyn File,
    path: &Path,
    base: u64,
    len: u64,
    stored: Option<(Index, Table)>,
    skip_indexed: bool,
) -> io::Result<Tail> {
    let mut damage = Vec::new();
    let head = read_aligned(file, 0, FIXED_BYTES)?;
    let (salt, created) = match SegmentHeader::decode(&head) {
        Ok(header) if header.base == base => (header.salt, header.created_micros),
        other => {
            damage.push(Damage {
                file: path.into(),
                position: 0,
                bytes: FIXED_BYTES as u64,
                from: base,
                resume: base,
                why: other
                    .err()
                    .unwrap_or("the segment is not the one its name says"),
            });
            (find_salt(file, len)?.unwrap_or(0), 0)
        }
    };
    let mut proven = 0;
    let mut producers = ProducerTable::default();
    let mut producers_known = false;
    let mut index = Index::new(salt, base, created, FIXED_BYTES as u64);
    let mut stored_end = base;
    if let Some((stored, table)) = stored
        && stored.salt == salt
        && stored.base == base
    {
        // It was written after a sync of all it covers.
        proven = stored.len;
        stored_end = stored.end;
        if skip_indexed
            && stored.len <= len
            && let Some(table) = table
        {
            producers.load(table.into_iter(), stored.end);
            producers_known = true;
            index = stored;
        }
    }
    let mut scan = Scan::new(file, salt, index.len, len, true);
    let mut looked_ahead = false;
    let mut torn = None;
    loop {
        let at = scan.position;
        let why = match scan.next()? {
            Found::Frame(header) => match take(&header, at, &mut index, &mut producers) {
                Ok(()) => {
                    if header.kind == Kind::Producers {
                        if let Ok(body) = scan.body(&header)? {
                            producers.load(ProducerReader(&body), header.base);
                            producers_known = true;
                        }
                        index.len = scan.position;
                    }
                    continue;
                }
                Err(why) => why,
            },
            Found::End => break,
            Found::Bad(why) => why,
        };
        if !looked_ahead {
            proven = proven.max(durable_after(file, salt, at + ALIGN_BYTES as u64, len)?);
            looked_ahead = true;
        }
        if proven <= at {
            if !rest_is_zero(file, at, len)? {
                torn = Some((len - at, why));
            }
            break;
        }
        // It was durable once, so it is damage. Go on behind it.
        let from = index.end;
        let mut resume = None;
        scan.position = at;
        while scan.resync()? {
            let position = scan.position;
            match scan.next()? {
                Found::Frame(header) if header.base >= from && header.kind == Kind::Rows => {
                    scan.position = position;
                    resume = Some((header.base, position));
                    break;
                }
                Found::Frame(_) => {}
                Found::Bad(_) | Found::End => break,
            }
        }
        let (offset, position) = resume.unwrap_or((stored_end.max(from), len));
        damage.push(Damage {
            file: path.into(),
            position: at,
            bytes: position - at,
            from,
            resume: offset,
            why,
        });
        index.end = offset;
        index.len = position;
        if resume.is_none() {
            break;
        }
    }
    if index.end < stored_end {
        // The file is shorter than it once was.
        damage.push(Damage {
            file: path.into(),
            position: len,
            bytes: proven.saturating_sub(len),
            from: index.end,
            resume: stored_end,
            why: "the file ends before the last of its events",
        });
        index.end = stored_end;
    }
    Ok(Tail {
        index,
        producers,
        damage,
        torn,
        producers_known,
    })
}

/// Adds a good frame, if it is the one that should come next.
fn take(
    header: &Header,
    at: u64,
    index: &mut Index,
    producers: &mut ProducerTable,
) -> Result<(), Why> {
    if header.kind == Kind::Producers {
        return Ok(());
    }
    if header.base != index.end {
        return Err(if header.base > index.end {
            "frames are missing here"
        } else {
            "a frame repeats earlier offsets"
        });
    }
    for (id, position) in header.producers.iter() {
        producers.set(id, *position, header.base);
    }
    index.add(header, at);
    Ok(())
}

/// How much of the file the good frames from `from` on say was durable when they were written.
fn durable_after(file: &dyn File, salt: u32, from: u64, len: u64) -> io::Result<u64> {
    let mut scan = Scan::new(file, salt, from, len, true);
    let mut durable = 0;
    while scan.resync()? {
        while let Found::Frame(header) = scan.next()? {
            durable = durable.max(header.durable);
        }
    }
    Ok(durable)
}

fn rest_is_zero(file: &dyn File, from: u64, len: u64) -> io::Result<bool> {
    let mut at = from;
    while at < len {
        let chunk = read_aligned(file, at, (1 << 20).min(len - at) as usize)?;
        if chunk.is_empty() {
            break;
        }
        if chunk.iter().any(|b| *b != 0) {
            return Ok(false);
        }
        at += chunk.len() as u64;
    }
    Ok(true)
}
