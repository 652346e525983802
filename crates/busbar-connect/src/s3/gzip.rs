//! Objects that are compressed with gzip.

use std::io::Write as _;

use bytes::{Buf as _, Bytes};
use flate2::Compression;
use flate2::write::{GzEncoder, MultiGzDecoder};

use super::limits::{GZIP_FED_BYTES, PIECE_BYTES};

/// What the keys of such objects end with.
pub const SUFFIX: &str = ".gz";

/// Whether the object with this key is one.
pub fn is_gzip(key: &str) -> bool {
    key.ends_with(SUFFIX)
}

/// The bytes as one member. Nothing stays nothing.
pub fn compressed(bytes: &[u8]) -> Bytes {
    if bytes.is_empty() {
        return Bytes::new();
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    // Memory takes all that is written to it.
    written.unwrap_or_default().into()
}

/// An object that is being read: one member or several that follow each other.
pub struct GzipReading {
    decoder: MultiGzDecoder<Vec<u8>>,
    /// Bytes of the object that have been fetched.
    pub fetched: u64,
    /// Those of them that are still to be decompressed.
    waiting: Bytes,
    /// What it holds up to here was published before.
    skip: u64,
    is_whole: bool,
}

impl GzipReading {
    /// Begins with an object of which so many bytes, decompressed, were published before.
    pub fn new(skip: u64) -> GzipReading {
        GzipReading {
            decoder: MultiGzDecoder::new(Vec::new()),
            fetched: 0,
            waiting: Bytes::new(),
            skip,
            is_whole: false,
        }
    }

    /// Whether more of the object is to be fetched before there is a piece.
    pub fn is_hungry(&self) -> bool {
        !self.is_whole && self.plain().len() < PIECE_BYTES && self.waiting.is_empty()
    }

    /// Takes the next bytes of the object, which has `size`.
    ///
    /// # Errors
    /// They are not gzip, or the object ends too early.
    pub fn feed(&mut self, bytes: Bytes, size: u64) -> std::io::Result<()> {
        self.fetched += bytes.len() as u64;
        self.waiting = bytes;
        self.go_on(size)
    }

    /// Decompresses until there is a piece, or nothing is left. Few bytes may become many: it stops soon after a piece is full.
    ///
    /// # Errors
    /// As of [`GzipReading::feed`].
    pub fn go_on(&mut self, size: u64) -> std::io::Result<()> {
        while self.plain().len() < PIECE_BYTES && !self.waiting.is_empty() {
            let some = self.waiting.len().min(GZIP_FED_BYTES);
            self.decoder.write_all(&self.waiting[..some])?;
            self.waiting.advance(some);
            // The decoder keeps some of what it has decompressed until it is asked.
            self.decoder.flush()?;
            let plain = self.decoder.get_mut();
            let skipped = plain
                .len()
                .min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            plain.drain(..skipped);
            self.skip -= skipped as u64;
        }
        if self.waiting.is_empty() && self.fetched >= size && !self.is_whole {
            self.decoder.try_finish()?;
            self.is_whole = true;
        }
        Ok(())
    }

    fn plain(&self) -> &[u8] {
        self.decoder.get_ref()
    }

    /// Takes whole lines, and what is left at the end of the object; none where a line is longer than a piece.
    pub fn take_lines(&mut self) -> Option<Bytes> {
        let is_whole = self.is_whole;
        let plain = self.decoder.get_mut();
        let whole = match memchr::memrchr(b'\n', plain) {
            _ if is_whole => plain.len(),
            Some(at) => at + 1,
            None => return None,
        };
        let rest = plain.split_off(whole);
        Some(std::mem::replace(plain, rest).into())
    }

    /// Whether nothing is left.
    pub fn is_over(&self) -> bool {
        self.is_whole && self.plain().is_empty()
    }
}
