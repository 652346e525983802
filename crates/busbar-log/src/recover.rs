//! Opening a partition's folder after whatever happened to it.
//!
//! Every segment but the last is complete: it was synced before the next one was made. A segment
//! ends where the next begins, so rows that a failed segment holds beyond that (they were never
//! acknowledged) stay unread for ever. In the last segment everything up to the first bad place is
//! good. What comes after it is a *torn tail*, and cut off, unless it can be shown to have been
//! durable once: by the mark or the index beside it, or by a later frame that was written when this
//! place had been synced. Then it is *damage*: it stays, is reported, and a new segment goes on
//! behind it. The same holds for a file that ends too early, or is not there any more.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::write_all;
use crate::disk::{Disk, File};
use crate::error::{Damage, LogError, Result};
use crate::frame::{FIXED_BYTES, SegmentHeader, Why};
use crate::index::load;
use crate::mark::{self, Mark, MarkFile};
use crate::producers::ProducerTable;
use crate::scan::{Scan, read_aligned};
use crate::segment::{Segment, find_salt, index_path, parse_segment_name, segment_name};

mod last;

pub(crate) use last::{Known, read_tail};

/// What a partition's folder holds.
pub(crate) struct Recovered {
    pub segments: Vec<Arc<Segment>>,
    /// The last segment opened for writing, if it can be gone on with.
    pub active: Option<(Arc<dyn File>, u64)>,
    pub end: u64,
    pub producers: ProducerTable,
    pub damage: Vec<Damage>,
    /// Where the writer notes what is durable.
    pub mark: Option<MarkFile>,
}

/// The newest segment, when it is there no more or nothing in it can be read.
pub(crate) struct Gone {
    pub base: u64,
    /// First offset after those it is known to have held.
    pub end: u64,
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
    let noted = match mark::load(disk, dir) {
        Ok(noted) => noted,
        Err(e) => {
            if e.kind() != io::ErrorKind::NotFound {
                let file = mark::path(dir);
                tracing::warn!(file = %file.display(), error = %e, "cannot read what was durable");
            }
            None
        }
    };
    let mut recovered = Recovered {
        segments: Vec::new(),
        active: None,
        end: 0,
        producers: ProducerTable::default(),
        damage: Vec::new(),
        mark: MarkFile::open_if_possible(disk, dir),
    };
    let mut gone = missing(dir, noted, &found, &mut recovered.damage);
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
        let indexed = load(disk, &index_path(&path)).map_or(base, |(index, _)| index.end);
        let marked = noted.filter(|m| m.base == base).map_or(base, |m| m.end);
        let resume = indexed.max(marked).max(base);
        let end = gone.as_ref().map_or(0, |g| g.end).max(resume);
        if let Some(mark) = recovered.mark.as_mut() {
            // For the starts after this one, which will not find the file.
            let salt = 0;
            note(
                mark,
                dir,
                Mark {
                    salt,
                    base,
                    len,
                    end,
                },
            );
        }
        let aside = aside(&path);
        disk.rename(&path, &aside)
            .and_then(|()| disk.sync_dir(dir))
            .map_err(|e| LogError::io("cannot rename", &path, e))?;
        recovered.damage.push(Damage {
            file: aside,
            position: 0,
            bytes: len,
            from: base,
            resume,
            why: NOTHING_GOOD,
        });
        gone = Some(Gone { base, end });
        found.pop();
    }
    tell(&recovered.damage);
    let last = match &gone {
        Some(_) => None,
        None => found.pop(),
    };
    let next = last.as_ref().map(|(base, ..)| *base);
    let next = next.or(gone.as_ref().map(|g| g.base)).unwrap_or(0);
    for (i, (base, path, len)) in found.iter().enumerate() {
        let end = found.get(i + 1).map_or(next, |next| next.0);
        let segment = Segment::sealed(path.clone(), *base, end, *len, None);
        recovered.segments.push(Arc::new(segment));
    }
    match (last, gone) {
        (Some(last), _) => recover_last(disk, dir, last, noted, &found, &mut recovered)?,
        (None, Some(gone)) => {
            // All that are left are complete. A new one begins behind what is gone.
            recovered.end = gone.end.max(gone.base);
            recovered.producers = producers_of(disk, found.last(), gone.base)?;
        }
        (None, None) => {}
    }
    Ok(recovered)
}

const NOTHING_GOOD: Why = "no frame in it can be read";
const NOT_THERE: Why = "the file is missing";

/// The segment that the mark tells of, if it is the newest and is not there.
pub(crate) fn missing(
    dir: &Path,
    noted: Option<Mark>,
    found: &[(u64, PathBuf, u64)],
    damage: &mut Vec<Damage>,
) -> Option<Gone> {
    let mark = noted?;
    if found.last().is_some_and(|last| last.0 >= mark.base) {
        return None;
    }
    let end = mark.end.max(mark.base);
    if end > mark.base {
        let path = dir.join(segment_name(mark.base));
        // It has the salt 0 if it was set aside at an earlier start.
        let (file, why) = match mark.salt {
            0 => (aside(&path), NOTHING_GOOD),
            _ => (path, NOT_THERE),
        };
        damage.push(Damage {
            file,
            position: 0,
            bytes: mark.len,
            from: mark.base,
            resume: end,
            why,
        });
    }
    Some(Gone {
        base: mark.base,
        end,
    })
}

/// The name under which a segment is set aside.
fn aside(segment: &Path) -> PathBuf {
    segment.with_extension("log.damaged")
}

fn tell(damage: &[Damage]) {
    for damage in damage {
        tracing::error!(
            file = %damage.file.display(), position = damage.position, bytes = damage.bytes,
            from = damage.from, resume = damage.resume, why = damage.why,
            "damage in stored events; the rest is served"
        );
    }
}

/// Writes a mark, which recovery can do without.
fn note(file: &mut MarkFile, dir: &Path, mark: Mark) {
    if let Err(e) = file.write(&mark) {
        tracing::warn!(file = %mark::path(dir).display(), error = %e, "cannot note what is durable");
    }
}

/// The producers at the end of a complete segment, behind which the next begins at `until`.
fn producers_of(
    disk: &dyn Disk,
    segment: Option<&(u64, PathBuf, u64)>,
    until: u64,
) -> Result<ProducerTable> {
    let Some((base, path, len)) = segment else {
        return Ok(ProducerTable::default());
    };
    let file = open(disk, path)?;
    let known = Known {
        index: load(disk, &index_path(path)),
        mark: None,
        until: Some(until),
    };
    let tail = read_tail(&*file, path, *base, *len, known, true)
        .map_err(|e| LogError::io("cannot read", path, e))?;
    Ok(tail.producers)
}

fn recover_last(
    disk: &dyn Disk,
    dir: &Path,
    (base, path, len): (u64, PathBuf, u64),
    noted: Option<Mark>,
    before: &[(u64, PathBuf, u64)],
    recovered: &mut Recovered,
) -> Result<()> {
    let file = open(disk, &path)?;
    let failed = |e| LogError::io("cannot read", &path, e);
    let noted = noted.filter(|m| m.base == base);
    let known = Known {
        index: load(disk, &index_path(&path)),
        mark: noted,
        until: None,
    };
    let mut tail = read_tail(&*file, &path, base, len, known, true).map_err(failed)?;
    if !tail.producers_known {
        // The segment before this one knows all but the newest.
        let mut older = producers_of(disk, before.last(), base)?;
        older.update(tail.producers);
        tail.producers = older;
    }
    let (end, used) = (tail.index.end, tail.index.len);
    let salt = tail.index.salt;
    recovered.end = end;
    recovered.producers = tail.producers;
    let mark = Mark {
        salt,
        base,
        len: used,
        end,
    };
    let durable = noted.filter(|m| m.salt == salt).map_or(0, |m| m.len);
    if tail.damage.is_empty() {
        if let Some((bytes, why)) = tail.torn {
            tracing::warn!(
                file = %path.display(), position = used, bytes, why,
                "cutting off a torn tail that was never acknowledged"
            );
        }
        if len > used {
            file.truncate(used)
                .map_err(|e| LogError::io("cannot cut off the torn tail of", &path, e))?;
        }
        make_durable(&*file, durable, used).map_err(|e| LogError::io("cannot sync", &path, e))?;
        disk.sync_dir(dir)
            .map_err(|e| LogError::io("cannot sync", dir, e))?;
        if let Some(file) = recovered.mark.as_mut() {
            note(file, dir, mark);
        }
        let segment = Segment::active(path, tail.index);
        recovered.segments.push(Arc::new(segment));
        recovered.active = Some((file, used));
    } else {
        tell(&tail.damage);
        // Readers come to the bad places themselves; what is torn behind them stays unread.
        recovered.damage.append(&mut tail.damage);
        // They are served from now on, so they shall last; but a damaged file may refuse.
        let newer = noted.is_none_or(|m| m.len < used);
        if make_durable(&*file, durable, used).is_ok()
            && newer
            && let Some(file) = recovered.mark.as_mut()
        {
            note(file, dir, mark);
        }
        let segment = Segment::sealed(path, base, end, used, Some(tail.index));
        recovered.segments.push(Arc::new(segment));
    }
    Ok(())
}

/// Makes all of a file durable, of which the first `durable` bytes are known to be.
///
/// The cut is durable before anything is written behind it: otherwise a later crash could bring the
/// old tail back behind the new frames. And what was read from the page cache just now is not known
/// to be on the disk. If an earlier process tried to sync it and failed, its pages count as clean and
/// a sync alone would not write them, so they are written once more.
fn make_durable(file: &dyn File, durable: u64, len: u64) -> io::Result<()> {
    let mut at = durable.min(len);
    while at < len {
        let chunk = read_aligned(file, at, (1 << 20).min(len - at) as usize)?;
        if chunk.is_empty() {
            break;
        }
        write_all(file, at, &mut [IoSlice::new(&chunk)])?;
        at += chunk.len() as u64;
    }
    file.sync()
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

#[cfg(test)]
mod tests;
