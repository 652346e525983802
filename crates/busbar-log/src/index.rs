//! The sparse index beside a segment, `<base>.idx`: where to begin to look for an offset or a time.
//!
//! It can always be rebuilt from the segment and is never trusted beyond its checksum. What it
//! covers was durable before it was written, so it also tells recovery where to begin.
//!
//! | at | size | index file |
//! | ---: | ---: | --- |
//! | 0 | 4 | magic `BBIX` |
//! | 4 | 4 | CRC-32C of all that follows |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | the segment's salt |
//! | 16 | 8 | the segment's base offset |
//! | 24 | 8 | when the segment was made; -2⁶³ if its head is damaged |
//! | 32 | 8 | bytes of the segment that are covered |
//! | 40 | 8 | first offset after those |
//! | 48 | 8 | frames in them |
//! | 56 | 8 | smallest time in them |
//! | 64 | 8 | largest time in them |
//! | 72 | 8 | when the last of them was written |
//! | 80 | 4 | number of entries |
//! | 84 | 4 | number of producers; 2³² - 1: they are not listed |
//! | 88 | | for each entry: offset (8), position in the segment (8), largest time up to the next entry (8) |
//! | | | for each producer: length of its id (2), id, position (8), in order of their last appends |

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use crate::disk::Disk;
use crate::frame::{Header, ProducerReader, encode_producers, u32_at, u64_at};
use crate::limits::{INDEX_FILE_BYTES_MAX, INDEX_STRIDE_BYTES, PRODUCERS_PER_PARTITION_MAX};

const MAGIC: [u8; 4] = *b"BBIX";
const VERSION: u32 = 1;
const FIXED: usize = 88;
const UNKNOWN: u32 = u32::MAX;

/// When a segment was made whose head is damaged.
pub(crate) const UNKNOWN_MICROS: i64 = i64::MIN;

/// The producers as they were at the end of what an index covers, if that is known.
pub(crate) type Table = Option<Vec<(Arc<str>, u64)>>;

/// One place of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub offset: u64,
    pub position: u64,
    /// Largest time of the frames from here up to the next place.
    pub max_time: i64,
}

/// What is known of a segment without reading it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Index {
    pub salt: u32,
    pub base: u64,
    pub created_micros: i64,
    pub len: u64,
    pub end: u64,
    pub frames: u64,
    pub min_time: i64,
    pub max_time: i64,
    pub last_micros: i64,
    pub places: Vec<Place>,
}

impl Index {
    pub fn new(salt: u32, base: u64, created_micros: i64, len: u64) -> Index {
        Index {
            salt,
            base,
            created_micros,
            len,
            end: base,
            frames: 0,
            min_time: i64::MAX,
            max_time: i64::MIN,
            last_micros: created_micros,
            places: Vec::new(),
        }
    }

    /// Takes note of a frame of rows at `position`, which follows all seen before.
    pub fn add(&mut self, header: &Header, position: u64) {
        match self.places.last_mut() {
            Some(place) if position < place.position + INDEX_STRIDE_BYTES => {
                place.max_time = place.max_time.max(header.max_time);
            }
            _ => self.places.push(Place {
                offset: header.base,
                position,
                max_time: header.max_time,
            }),
        }
        self.frames += 1;
        self.min_time = self.min_time.min(header.min_time);
        self.max_time = self.max_time.max(header.max_time);
        self.end = header.end();
        self.len = position + header.frame_len();
    }

    /// The last place at or before `offset`.
    pub fn place_of(&self, offset: u64) -> Option<Place> {
        let after = self.places.partition_point(|p| p.offset <= offset);
        after.checked_sub(1).map(|i| self.places[i])
    }

    /// The first place with a time of `micros` or later.
    pub fn place_at_time(&self, micros: i64) -> Option<Place> {
        self.places.iter().find(|p| p.max_time >= micros).copied()
    }

    /// With the producers as they were at the end of what is covered, if that is known.
    pub fn encode(&self, producers: Option<&[(Arc<str>, u64)]>) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED + self.places.len() * 24);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        for number in [
            self.base,
            self.created_micros as u64,
            self.len,
            self.end,
            self.frames,
            self.min_time as u64,
            self.max_time as u64,
            self.last_micros as u64,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&(self.places.len() as u32).to_le_bytes());
        let count = producers.map_or(UNKNOWN, |list| list.len() as u32);
        out.extend_from_slice(&count.to_le_bytes());
        for place in &self.places {
            out.extend_from_slice(&place.offset.to_le_bytes());
            out.extend_from_slice(&place.position.to_le_bytes());
            out.extend_from_slice(&place.max_time.to_le_bytes());
        }
        encode_producers(producers.unwrap_or_default(), &mut out);
        let crc = crc32c::crc32c(&out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The index these bytes hold, and the producers; `None` if they are damaged.
    pub fn decode(bytes: &[u8]) -> Option<(Index, Table)> {
        if bytes.len() < FIXED || bytes[..4] != MAGIC {
            return None;
        }
        if crc32c::crc32c(&bytes[8..]) != u32_at(bytes, 4) || u32_at(bytes, 8) != VERSION {
            return None;
        }
        let places = u32_at(bytes, 80) as usize;
        let producers = u32_at(bytes, 84);
        let rest = &bytes[FIXED..];
        let (place_bytes, rest) = rest.split_at_checked(places.checked_mul(24)?)?;
        let table = if producers == UNKNOWN {
            None
        } else {
            let count = producers as usize;
            if count > PRODUCERS_PER_PARTITION_MAX {
                return None;
            }
            let table: Vec<_> = ProducerReader(rest).take(count).collect();
            if table.len() != count {
                return None;
            }
            Some(table)
        };
        let place = |raw: &[u8]| Place {
            offset: u64_at(raw, 0),
            position: u64_at(raw, 8),
            max_time: u64_at(raw, 16) as i64,
        };
        let index = Index {
            salt: u32_at(bytes, 12),
            base: u64_at(bytes, 16),
            created_micros: u64_at(bytes, 24) as i64,
            len: u64_at(bytes, 32),
            end: u64_at(bytes, 40),
            frames: u64_at(bytes, 48),
            min_time: u64_at(bytes, 56) as i64,
            max_time: u64_at(bytes, 64) as i64,
            last_micros: u64_at(bytes, 72) as i64,
            places: place_bytes.chunks_exact(24).map(place).collect(),
        };
        Some((index, table))
    }
}

/// Writes a whole file so that a crash leaves the old one or the new one, never half of it
/// (unless the disk lies; then its checksum tells).
pub(crate) fn write_whole(
    disk: &dyn Disk,
    path: &Path,
    bytes: &[u8],
    sync: bool,
) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = std::path::PathBuf::from(name);
    match disk.remove(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = disk.create(&temporary)?;
    let mut done = 0;
    while done < bytes.len() {
        let wrote = file.write_at(done as u64, &[IoSlice::new(&bytes[done..])])?;
        if wrote == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        done += wrote;
    }
    if sync {
        file.sync()?;
    }
    disk.rename(&temporary, path)
}

/// Reads a whole file of at most `bytes_max`.
pub(crate) fn read_whole(disk: &dyn Disk, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(path, false)?;
    let len = file.len()?;
    if len > bytes_max {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = vec![0; len as usize];
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(done as u64, &mut bytes[done..])? {
            0 => break,
            n => done += n,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// Reads an index file; `None` if there is none or it is damaged.
pub(crate) fn load(disk: &dyn Disk, path: &Path) -> Option<(Index, Table)> {
    Index::decode(&read_whole(disk, path, INDEX_FILE_BYTES_MAX).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_reads_back_and_a_flipped_bit_is_seen() {
        let mut index = Index::new(7, 100, 5, 64);
        index.places = vec![
            Place {
                offset: 100,
                position: 64,
                max_time: 10,
            },
            Place {
                offset: 200,
                position: 300_000,
                max_time: 30,
            },
            Place {
                offset: 300,
                position: 600_000,
                max_time: 20,
            },
        ];
        index.end = 400;
        index.len = 700_032;
        let producers = vec![(Arc::from("a"), 1), (Arc::from("zähler"), u64::MAX)];
        let bytes = index.encode(Some(&producers));
        assert_eq!(
            Index::decode(&bytes),
            Some((index.clone(), Some(producers)))
        );
        assert_eq!(
            Index::decode(&index.encode(None)),
            Some((index.clone(), None))
        );
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert_eq!(Index::decode(&bad), None, "byte {at}");
            assert_eq!(Index::decode(&bytes[..at]), None, "cut at {at}");
        }
        assert_eq!(index.place_of(99), None);
        assert_eq!(index.place_of(100).unwrap().position, 64);
        assert_eq!(index.place_of(299).unwrap().position, 300_000);
        assert_eq!(index.place_at_time(11).unwrap().offset, 200);
        assert_eq!(index.place_at_time(31), None);
    }
}
