//! What the last segment of a partition holds, and whether what comes after its last good frame is a
//! torn tail or damage.

use std::io;
use std::path::Path;

use crate::disk::File;
use crate::error::Damage;
use crate::frame::{FIXED_BYTES, Header, Kind, ProducerReader, SegmentHeader, Why};
use crate::index::{Index, Table, UNKNOWN_MICROS};
use crate::limits::ALIGN_BYTES;
use crate::mark::Mark;
use crate::producers::ProducerTable;
use crate::scan::{Found, Scan, read_aligned};
use crate::segment::find_salt;

/// What is known of a segment besides its bytes.
#[derive(Clone, Default)]
pub(crate) struct Known {
    pub index: Option<(Index, Table)>,
    /// The mark, if it is of the segment that begins where this one does.
    pub mark: Option<Mark>,
    /// Where the next segment begins: what lies behind that was never acknowledged.
    pub until: Option<u64>,
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

/// Reads the last segment, from where its index ends if `skip_indexed`, and judges what follows the
/// last good frame.
pub(crate) fn read_tail(
    file: &dyn File,
    path: &Path,
    base: u64,
    len: u64,
    known: Known,
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
            (find_salt(file, len)?.unwrap_or(0), UNKNOWN_MICROS)
        }
    };
    let mut proven = 0;
    let mut producers = ProducerTable::default();
    let mut producers_known = false;
    let mut index = Index::new(salt, base, created, FIXED_BYTES as u64);
    let mut stored_end = base;
    if let Some((stored, table)) = known.index
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
    if let Some(mark) = known.mark.filter(|m| m.base == base) {
        stored_end = stored_end.max(mark.end);
        if mark.salt == salt {
            proven = proven.max(mark.len);
        }
    }
    let mut scan = Scan::new(file, salt, index.len, len, true);
    let mut looked_ahead = false;
    let mut torn = None;
    loop {
        let at = scan.position;
        let why = match scan.next()? {
            Found::Frame(header) if known.until.is_some_and(|until| header.base >= until) => break,
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
        let (offset, position) = resume.unwrap_or((stored_end.max(from), proven.min(len)));
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
