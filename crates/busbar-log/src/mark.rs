//! The mark beside a partition's segments, `synced.mark`: how far the newest segment is durable.
//!
//! It is written after each sync, before anybody is told of it, and is not synced itself. So it is
//! never ahead of what is durable. When only the process dies it is exact, because the operating
//! system has it; when the machine loses power it may be behind. What does not read before the mark
//! is damage, and only what comes after it can be a torn tail.
//!
//! Two slots are written in turn, in pages of their own, so that a torn one leaves the other. A mark
//! that is missing or damaged is written anew: recovery then knows less, and nothing else is lost.
//!
//! | at | size | slot, at byte 0 and at byte 4096 |
//! | ---: | ---: | --- |
//! | 0 | 4 | magic `BBMK` |
//! | 4 | 4 | CRC-32C of bytes 8 to 64 |
//! | 8 | 1 | version, 1 |
//! | 9 | 3 | zero |
//! | 12 | 4 | the segment's salt; 0 of one that was set aside |
//! | 16 | 8 | the segment's base offset |
//! | 24 | 8 | bytes of the segment that are durable |
//! | 32 | 8 | first offset after those |
//! | 40 | 8 | turn: 1, 2, 3 and so on; the slot is its remainder by 2, the higher one counts |
//! | 48 | 16 | zero |

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::write_all;
use crate::disk::{Disk, File};
use crate::frame::{u32_at, u64_at};

pub(crate) const MARK_FILE: &str = "synced.mark";
const MAGIC: [u8; 4] = *b"BBMK";
const VERSION: u8 = 1;
const SLOT_BYTES: usize = 64;
const SLOT_DISTANCE: u64 = 4096;

/// How far a segment is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub salt: u32,
    pub base: u64,
    /// Bytes of the segment.
    pub len: u64,
    /// First offset after them.
    pub end: u64,
}

impl Mark {
    fn encode(&self, turn: u64) -> [u8; SLOT_BYTES] {
        let mut out = [0; SLOT_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[8] = VERSION;
        out[12..16].copy_from_slice(&self.salt.to_le_bytes());
        out[16..24].copy_from_slice(&self.base.to_le_bytes());
        out[24..32].copy_from_slice(&self.len.to_le_bytes());
        out[32..40].copy_from_slice(&self.end.to_le_bytes());
        out[40..48].copy_from_slice(&turn.to_le_bytes());
        let crc = crc32c::crc32c(&out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The mark in these bytes and its turn; `None` if they hold none.
    fn decode(bytes: &[u8]) -> Option<(Mark, u64)> {
        let bytes = bytes.get(..SLOT_BYTES)?;
        if bytes[..4] != MAGIC
            || crc32c::crc32c(&bytes[8..]) != u32_at(bytes, 4)
            || bytes[8] != VERSION
        {
            return None;
        }
        let mark = Mark {
            salt: u32_at(bytes, 12),
            base: u64_at(bytes, 16),
            len: u64_at(bytes, 24),
            end: u64_at(bytes, 32),
        };
        // Another one follows it.
        let turn = u64_at(bytes, 40);
        (turn < u64::MAX).then_some((mark, turn))
    }
}

/// The mark of a partition, open for writing.
pub(crate) struct MarkFile {
    file: Arc<dyn File>,
    turn: u64,
}

impl MarkFile {
    /// Opens the mark in a partition's folder, or makes one.
    pub fn open(disk: &dyn Disk, dir: &Path) -> io::Result<MarkFile> {
        let path = path(dir);
        match disk.open(&path, true).and_then(|f| Ok((read(&*f)?, f))) {
            Ok((Some((_, turn)), file)) => return Ok(MarkFile { file, turn }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Ok((None, _)) | Err(_) => disk.remove(&path)?,
        }
        let file = disk.create(&path)?;
        // Writing a slot shall not have to find room for it.
        let zeros = [0; 2 * SLOT_DISTANCE as usize];
        write_all(&*file, 0, &mut [IoSlice::new(&zeros)])?;
        Ok(MarkFile { file, turn: 0 })
    }

    /// As [`MarkFile::open`]. A partition can do without, so a failure is only told.
    pub fn open_if_possible(disk: &dyn Disk, dir: &Path) -> Option<MarkFile> {
        let opened = MarkFile::open(disk, dir);
        if let Err(error) = &opened {
            tracing::warn!(file = %path(dir).display(), %error, "cannot note here what is durable");
        }
        opened.ok()
    }

    /// Puts a mark in the place of the last but one.
    pub fn write(&mut self, mark: &Mark) -> io::Result<()> {
        let turn = self.turn + 1;
        let at = turn % 2 * SLOT_DISTANCE;
        write_all(&*self.file, at, &mut [IoSlice::new(&mark.encode(turn))])?;
        self.turn = turn;
        Ok(())
    }
}

/// The mark in a partition's folder; `None` if the file holds none that can be read.
pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> io::Result<Option<Mark>> {
    let file = disk.open(&path(dir), false)?;
    Ok(read(&*file)?.map(|(mark, _)| mark))
}

pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join(MARK_FILE)
}

/// The newer of the two slots.
fn read(file: &dyn File) -> io::Result<Option<(Mark, u64)>> {
    let mut newest: Option<(Mark, u64)> = None;
    for slot in 0..2 {
        let mut bytes = [0; SLOT_BYTES];
        let mut done = 0;
        while done < SLOT_BYTES {
            match file.read_at(slot * SLOT_DISTANCE + done as u64, &mut bytes[done..]) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let found = Mark::decode(&bytes[..done]).filter(|(_, turn)| turn % 2 == slot);
        if found.is_some_and(|(_, turn)| newest.is_none_or(|(_, best)| turn > best)) {
            newest = found;
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimDisk;

    const GOLDEN: &str = include_str!("../fixtures/mark.hex");
    const DIR: &str = "/d";

    fn mark(n: u64) -> Mark {
        Mark {
            salt: 0x0102_0304,
            base: 42,
            len: 4096 * n,
            end: 42 + n,
        }
    }

    fn disk() -> SimDisk {
        let disk = SimDisk::new(1);
        disk.create_dir(Path::new(DIR)).unwrap();
        disk
    }

    fn loaded(disk: &SimDisk) -> Option<Mark> {
        load(disk, Path::new(DIR)).unwrap()
    }

    /// What version 1 writes must be read for ever.
    #[test]
    fn the_golden_mark_is_read_and_written() {
        let digits: Vec<u8> = GOLDEN.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pair =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let stored: Vec<u8> = digits.chunks(2).map(pair).collect();
        assert_eq!(mark(7).encode(5)[..], stored[..]);
        assert_eq!(Mark::decode(&stored), Some((mark(7), 5)));
        for at in 0..stored.len() {
            let mut bad = stored.clone();
            bad[at] ^= 4;
            assert_eq!(Mark::decode(&bad), None, "byte {at}");
            assert_eq!(Mark::decode(&stored[..at]), None, "cut at {at}");
        }
        assert_eq!(Mark::decode(&mark(7).encode(u64::MAX)), None);
    }

    #[test]
    fn the_newest_mark_counts_and_a_torn_one_leaves_the_one_before() {
        let disk = disk();
        let mut file = MarkFile::open(&disk, Path::new(DIR)).unwrap();
        assert_eq!(loaded(&disk), None);
        for n in 1..6 {
            file.write(&mark(n)).unwrap();
            assert_eq!(loaded(&disk), Some(mark(n)));
        }
        // The fifth lies in the second slot.
        disk.corrupt(&path(Path::new(DIR)), SLOT_DISTANCE + 30, &[0xff])
            .unwrap();
        assert_eq!(loaded(&disk), Some(mark(4)));
        // Whoever opens it now does not overwrite the good one.
        let mut file = MarkFile::open(&disk, Path::new(DIR)).unwrap();
        disk.fail_writes(1);
        assert!(file.write(&mark(6)).is_err());
        assert_eq!(loaded(&disk), Some(mark(4)));
        file.write(&mark(6)).unwrap();
        assert_eq!(loaded(&disk), Some(mark(6)));
    }

    #[test]
    fn a_mark_without_a_good_slot_is_made_anew() {
        let disk = disk();
        let mut file = MarkFile::open(&disk, Path::new(DIR)).unwrap();
        file.write(&mark(1)).unwrap();
        disk.corrupt(&path(Path::new(DIR)), SLOT_DISTANCE + 8, &[9])
            .unwrap();
        assert_eq!(loaded(&disk), None);
        let mut file = MarkFile::open(&disk, Path::new(DIR)).unwrap();
        file.write(&mark(2)).unwrap();
        assert_eq!(loaded(&disk), Some(mark(2)));
    }
}
