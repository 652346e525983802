//! Frames: the unit that is appended, checksummed, indexed and read.
//!
//! A segment file is a 64-byte segment header followed by frames. All numbers are little-endian.
//! Every frame begins at a multiple of 64 bytes, and so does its body: what is read into aligned
//! memory needs no copy to be decoded.
//!
//! | at | size | segment header |
//! | ---: | ---: | --- |
//! | 0 | 4 | magic `BBSG` |
//! | 4 | 4 | CRC-32C of bytes 8 to 64 |
//! | 8 | 1 | version, 1 |
//! | 9 | 3 | zero |
//! | 12 | 4 | salt: random, repeated in each frame of the file |
//! | 16 | 8 | base offset: of the first row the segment may hold |
//! | 24 | 8 | when the segment was made, microseconds |
//! | 32 | 32 | zero |
//!
//! | at | size | frame |
//! | ---: | ---: | --- |
//! | 0 | 4 | magic `BBFR` |
//! | 4 | 4 | CRC-32C of the header from byte 8 to its end |
//! | 8 | 4 | CRC-32C of the body |
//! | 12 | 1 | version, 1 |
//! | 13 | 1 | kind: 0 rows, 1 table of producers |
//! | 14 | 1 | codec of the body: 0 none |
//! | 15 | 1 | zero |
//! | 16 | 4 | length of the body |
//! | 20 | 2 | length of the header in units of 64 bytes |
//! | 22 | 2 | number of producers |
//! | 24 | 8 | base offset |
//! | 32 | 4 | number of rows |
//! | 36 | 2 | attributes: the appender's |
//! | 38 | 2 | zero |
//! | 40 | 8 | smallest time of the rows, microseconds |
//! | 48 | 8 | largest time |
//! | 56 | 4 | how much of the file was known to be durable when this was written, in units of 64 bytes |
//! | 60 | 4 | the segment's salt |
//! | 64 | | for each producer: length of its id (2), id, position (8) |
//! | | | zeros up to a multiple of 64 bytes |
//! | | | the body, then zeros up to a multiple of 64 bytes |
//!
//! The header's checksum covers the body's, so together they cover all that follows them. They are
//! two because then a scan can trust lengths before it has read a body, and because an appender
//! computes the body's on its own core before the commit thread knows the offset.
//!
//! *Salt* keeps a frame that somebody sent as the body of another from being taken for a frame
//! when recovery looks for the next good one after damage. *Durable* tells a torn tail from
//! damage: a bad place is a torn tail only if no later frame was written after a sync had
//! covered it.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::limits::{
    ALIGN_BYTES, BODY_BYTES_MAX, HEADER_BYTES_MAX, PRODUCER_ID_BYTES_MAX, PRODUCERS_PER_FRAME_MAX,
};

/// Something decoded from a frame's body by those above, kept beside it.
pub type Companion = Arc<dyn Any + Send + Sync>;

/// Producers with rows in a frame, and the position each had reached with them.
pub(crate) type Producers = Arc<[(Arc<str>, u64)]>;

/// What was appended at once: some rows with consecutive offsets, as one opaque body.
#[derive(Clone)]
pub struct Frame {
    /// Offset of the first row.
    pub base: u64,
    /// Number of rows.
    pub count: u32,
    /// Smallest time of the rows, as the appender gave it (microseconds).
    pub min_time: i64,
    /// Largest time of the rows.
    pub max_time: i64,
    /// The appender's own bits.
    pub attributes: u16,
    /// Producers that have rows here, with their positions.
    pub producers: Arc<[(Arc<str>, u64)]>,
    /// The body, 64-byte aligned when it was read from disk.
    pub body: Bytes,
    companion: Arc<OnceLock<Companion>>,
}

impl Frame {
    /// First offset after this frame.
    pub fn end(&self) -> u64 {
        self.base + u64::from(self.count)
    }

    /// What was decoded from this frame before, if anything.
    pub fn companion(&self) -> Option<&Companion> {
        self.companion.get()
    }

    /// The companion; made by `init` when there is none yet, and shared with all clones.
    ///
    /// # Errors
    /// Those of `init`.
    pub fn companion_or_init<E>(
        &self,
        init: impl FnOnce(&Frame) -> Result<Companion, E>,
    ) -> Result<Companion, E> {
        if let Some(companion) = self.companion.get() {
            return Ok(companion.clone());
        }
        let made = init(self)?;
        Ok(self.companion.get_or_init(|| made).clone())
    }

    pub(crate) fn new(header: Header, body: Bytes, companion: Option<Companion>) -> Frame {
        Frame {
            base: header.base,
            count: header.count,
            min_time: header.min_time,
            max_time: header.max_time,
            attributes: header.attributes,
            producers: header.producers,
            body,
            companion: Arc::new(companion.map_or_else(OnceLock::new, OnceLock::from)),
        }
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame")
            .field("base", &self.base)
            .field("count", &self.count)
            .field("body", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// Length of a segment header and of the fixed part of a frame's.
pub(crate) const FIXED_BYTES: usize = 64;
const FRAME_MAGIC: [u8; 4] = *b"BBFR";
const SEGMENT_MAGIC: [u8; 4] = *b"BBSG";
const VERSION: u8 = 1;
static ZEROS: [u8; ALIGN_BYTES] = [0; ALIGN_BYTES];

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Rows for readers.
    Rows = 0,
    /// Every producer the partition remembers, at the head of a segment.
    Producers = 1,
}

/// A frame without its body.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Header {
    pub kind: Kind,
    pub body_crc: u32,
    pub body_len: usize,
    pub header_len: usize,
    pub base: u64,
    pub count: u32,
    pub attributes: u16,
    pub min_time: i64,
    pub max_time: i64,
    /// Bytes of the file known to be durable when it was written.
    pub durable: u64,
    pub salt: u32,
    pub producers: Producers,
}

/// The head of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub salt: u32,
    pub base: u64,
    pub created_micros: i64,
}

/// Why bytes are not a frame, in words.
pub(crate) type Why = &'static str;

/// `len` rounded up to the alignment.
pub(crate) const fn aligned(len: usize) -> usize {
    len.next_multiple_of(ALIGN_BYTES)
}

/// The zeros that follow a body of `len` bytes.
pub(crate) fn padding(len: usize) -> &'static [u8] {
    &ZEROS[..aligned(len) - len]
}

/// No producers, without an allocation each.
pub(crate) fn no_producers() -> Producers {
    static NONE: OnceLock<Producers> = OnceLock::new();
    NONE.get_or_init(|| Arc::from([])).clone()
}

/// Length of the header of a frame with these producers.
pub(crate) fn header_len(producers: &[(Arc<str>, u64)]) -> usize {
    let ids: usize = producers.iter().map(|(id, _)| 2 + id.len() + 8).sum();
    aligned(FIXED_BYTES + ids)
}

impl Header {
    /// Length of the whole frame.
    pub fn frame_len(&self) -> u64 {
        (self.header_len + aligned(self.body_len)) as u64
    }

    /// First offset after the frame.
    pub fn end(&self) -> u64 {
        self.base + u64::from(self.count)
    }

    /// Appends the header's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let at = out.len();
        debug_assert_eq!(self.header_len, header_len(&self.producers));
        out.extend_from_slice(&FRAME_MAGIC);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.body_crc.to_le_bytes());
        out.extend_from_slice(&[VERSION, self.kind as u8, 0, 0]);
        out.extend_from_slice(&(self.body_len as u32).to_le_bytes());
        out.extend_from_slice(&((self.header_len / ALIGN_BYTES) as u16).to_le_bytes());
        out.extend_from_slice(&(self.producers.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.base.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.attributes.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.min_time.to_le_bytes());
        out.extend_from_slice(&self.max_time.to_le_bytes());
        out.extend_from_slice(&((self.durable / ALIGN_BYTES as u64) as u32).to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        encode_producers(&self.producers, out);
        out.resize(at + self.header_len, 0);
        let crc = crc32c::crc32c(&out[at + 8..]);
        out[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
    }

    /// How long the header that begins with these bytes says it is, if they can be one. Nothing
    /// but the magic and the bounds has been checked then.
    pub fn announced_len(bytes: &[u8]) -> Result<usize, Why> {
        if bytes.len() < FIXED_BYTES {
            return Err("the file ends within a frame's header");
        }
        if bytes[..4] != FRAME_MAGIC {
            return Err(if bytes[..FIXED_BYTES] == ZEROS[..FIXED_BYTES] {
                "there are zeros where a frame should begin"
            } else {
                "no frame begins here"
            });
        }
        let len = usize::from(u16_at(bytes, 20)) * ALIGN_BYTES;
        if !(FIXED_BYTES..=HEADER_BYTES_MAX).contains(&len) {
            return Err("a frame's header has an impossible length");
        }
        Ok(len)
    }

    /// Reads the header at the start of `bytes`, which must hold all of it.
    pub fn decode(bytes: &[u8]) -> Result<Header, Why> {
        let header_len = Header::announced_len(bytes)?;
        let Some(bytes) = bytes.get(..header_len) else {
            return Err("the file ends within a frame's header");
        };
        if crc32c::crc32c(&bytes[8..]) != u32_at(bytes, 4) {
            return Err("the checksum of a frame's header is wrong");
        }
        // From here on the bytes are as somebody wrote them; they can still be nonsense.
        if bytes[12] != VERSION {
            return Err("a frame has an unknown version");
        }
        let kind = match bytes[13] {
            0 => Kind::Rows,
            1 => Kind::Producers,
            _ => return Err("a frame is of an unknown kind"),
        };
        if bytes[14] != 0 {
            return Err("a frame's body has an unknown codec");
        }
        let body_len = u32_at(bytes, 16) as usize;
        if body_len > BODY_BYTES_MAX {
            return Err("a frame's body has an impossible length");
        }
        let base = u64_at(bytes, 24);
        let count = u32_at(bytes, 32);
        if base.checked_add(u64::from(count)).is_none() {
            return Err("a frame's offsets are impossible");
        }
        if (kind == Kind::Rows) != (count > 0) {
            return Err("a frame's number of rows does not fit its kind");
        }
        let producers = decode_producers(&bytes[FIXED_BYTES..], usize::from(u16_at(bytes, 22)))?;
        Ok(Header {
            kind,
            body_crc: u32_at(bytes, 8),
            body_len,
            header_len,
            base,
            count,
            attributes: u16_at(bytes, 36),
            min_time: u64_at(bytes, 40) as i64,
            max_time: u64_at(bytes, 48) as i64,
            durable: u64::from(u32_at(bytes, 56)) * ALIGN_BYTES as u64,
            salt: u32_at(bytes, 60),
            producers,
        })
    }

    /// Checks a body with its padding against this header.
    pub fn check_body(&self, padded: &[u8]) -> Result<(), Why> {
        if padded.len() != aligned(self.body_len) {
            return Err("the file ends within a frame's body");
        }
        let (body, rest) = padded.split_at(self.body_len);
        if crc32c::crc32c(body) != self.body_crc {
            return Err("the checksum of a frame's body is wrong");
        }
        if rest.iter().any(|b| *b != 0) {
            return Err("a frame's padding is not zero");
        }
        Ok(())
    }
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; FIXED_BYTES] {
        let mut out = [0; FIXED_BYTES];
        out[..4].copy_from_slice(&SEGMENT_MAGIC);
        out[8] = VERSION;
        out[12..16].copy_from_slice(&self.salt.to_le_bytes());
        out[16..24].copy_from_slice(&self.base.to_le_bytes());
        out[24..32].copy_from_slice(&self.created_micros.to_le_bytes());
        let crc = crc32c::crc32c(&out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, Why> {
        let Some(bytes) = bytes.get(..FIXED_BYTES) else {
            return Err("the file is shorter than a segment's header");
        };
        if bytes[..4] != SEGMENT_MAGIC {
            return Err("the file does not begin as a segment");
        }
        if crc32c::crc32c(&bytes[8..]) != u32_at(bytes, 4) {
            return Err("the checksum of the segment's header is wrong");
        }
        if bytes[8] != VERSION {
            return Err("the segment has an unknown version");
        }
        Ok(SegmentHeader {
            salt: u32_at(bytes, 12),
            base: u64_at(bytes, 16),
            created_micros: u64_at(bytes, 24) as i64,
        })
    }
}

/// Appends producers as a frame's header and a table of producers hold them.
pub(crate) fn encode_producers(producers: &[(Arc<str>, u64)], out: &mut Vec<u8>) {
    for (id, position) in producers {
        out.extend_from_slice(&(id.len() as u16).to_le_bytes());
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(&position.to_le_bytes());
    }
}

fn decode_producers(bytes: &[u8], count: usize) -> Result<Producers, Why> {
    if count == 0 {
        return Ok(no_producers());
    }
    if count > PRODUCERS_PER_FRAME_MAX {
        return Err("a frame has too many producers");
    }
    let mut reader = ProducerReader(bytes);
    let mut producers = Vec::with_capacity(count);
    for _ in 0..count {
        producers.push(reader.next().ok_or("a frame's producers are cut short")?);
    }
    Ok(producers.into())
}

/// Reads producers one after the other; ends at the first that is not whole.
pub(crate) struct ProducerReader<'a>(pub &'a [u8]);

impl Iterator for ProducerReader<'_> {
    type Item = (Arc<str>, u64);

    fn next(&mut self) -> Option<Self::Item> {
        let (len, rest) = self.0.split_first_chunk::<2>()?;
        let len = usize::from(u16::from_le_bytes(*len));
        if len == 0 || len > PRODUCER_ID_BYTES_MAX {
            return None;
        }
        let (id, rest) = rest.split_at_checked(len)?;
        let (position, rest) = rest.split_first_chunk::<8>()?;
        self.0 = rest;
        Some((
            Arc::from(std::str::from_utf8(id).ok()?),
            u64::from_le_bytes(*position),
        ))
    }
}

/// Checks bytes as one frame, as the reader does: for the fuzzer.
#[doc(hidden)]
pub fn check_frame(bytes: &[u8]) -> Result<(u64, u32, usize), &'static str> {
    let header = Header::decode(bytes)?;
    let from = header.header_len;
    let Some(body) = bytes.get(from..from + aligned(header.body_len)) else {
        return Err("the file ends within a frame's body");
    };
    header.check_body(body)?;
    Ok((header.base, header.count, header.producers.len()))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

#[cfg(test)]
mod tests;
