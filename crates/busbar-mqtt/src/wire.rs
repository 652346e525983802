//! Strict readers and writers of the wire's primitive types.

use crate::reason::{Refusal, Result};

/// Reads primitive types from the front of a slice, never past its end.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader over `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `n` bytes.
    #[inline]
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        if n > self.rest.len() {
            return Err(Refusal::malformed("packet ends inside a field"));
        }
        let (head, tail) = self.rest.split_at(n);
        self.rest = tail;
        Ok(head)
    }

    /// One byte.
    #[inline]
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// A two byte integer.
    #[inline]
    pub fn u16(&mut self) -> Result<u16> {
        let b = self.take(2)?;
        Ok(u16::from_be_bytes([b[0], b[1]]))
    }

    /// A four byte integer.
    #[inline]
    pub fn u32(&mut self) -> Result<u32> {
        let b = self.take(4)?;
        Ok(u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// A packet identifier, which is never zero.
    #[inline]
    pub fn packet_id(&mut self) -> Result<u16> {
        match self.u16()? {
            0 => Err(Refusal::protocol("packet identifier is zero")),
            id => Ok(id),
        }
    }

    /// A variable byte integer of at most four bytes in its shortest form.
    #[inline]
    pub fn varint(&mut self) -> Result<u32> {
        match varint(self.rest)? {
            Some((value, used)) => {
                self.rest = &self.rest[used..];
                Ok(value)
            }
            None => Err(Refusal::malformed("packet ends inside a length")),
        }
    }

    /// Binary data: a two byte length and so many bytes.
    #[inline]
    pub fn binary(&mut self) -> Result<&'a [u8]> {
        let n = self.u16()?;
        self.take(usize::from(n))
    }

    /// A UTF-8 string as the standard wants it.
    #[inline]
    pub fn text(&mut self) -> Result<&'a str> {
        text(self.binary()?)
    }

    /// Fails when something is left.
    pub fn finish(self) -> Result<()> {
        match self.rest.is_empty() {
            true => Ok(()),
            false => Err(Refusal::malformed("bytes after the end of the packet")),
        }
    }
}

/// Checks that `bytes` are a UTF-8 string without U+0000 (surrogates are not UTF-8 at all).
#[inline]
pub fn text(bytes: &[u8]) -> Result<&str> {
    let text =
        std::str::from_utf8(bytes).map_err(|_| Refusal::malformed("text is not valid UTF-8"))?;
    if bytes.contains(&0) {
        return Err(Refusal::malformed("text contains U+0000"));
    }
    Ok(text)
}

/// Reads a variable byte integer from the front of `bytes`: its value and how many bytes it took;
/// `None` when more bytes are needed to tell.
#[inline]
pub fn varint(bytes: &[u8]) -> Result<Option<(u32, usize)>> {
    let mut value = 0u32;
    for (i, &byte) in bytes.iter().enumerate().take(4) {
        value |= u32::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            if i > 0 && byte == 0 {
                return Err(Refusal::malformed("length is not in its shortest form"));
            }
            return Ok(Some((value, i + 1)));
        }
    }
    match bytes.len() >= 4 {
        true => Err(Refusal::malformed("length takes more than four bytes")),
        false => Ok(None),
    }
}

/// Bytes that `value` takes as a variable byte integer.
#[inline]
pub fn varint_len(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

/// Appends `value` as a variable byte integer; `value` is at most
/// [`REMAINING_LENGTH_MAX`](crate::limits::REMAINING_LENGTH_MAX).
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value > 127 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends binary data or text with its two byte length. What is longer than 65,535 bytes cannot be
/// said on the wire and is cut: callers check lengths before.
#[inline]
pub fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    let n = bytes.len().min(usize::from(u16::MAX));
    out.extend_from_slice(&(n as u16).to_be_bytes());
    out.extend_from_slice(&bytes[..n]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    #[test]
    fn varints_round_trip_and_long_forms_are_refused() {
        for value in [
            0usize,
            1,
            127,
            128,
            16_383,
            16_384,
            2_097_151,
            2_097_152,
            268_435_455,
        ] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_len(value));
            assert_eq!(varint(&out).unwrap(), Some((value as u32, out.len())));
            assert_eq!(varint(&out[..out.len() - 1]).unwrap(), None);
        }
        for bad in [
            &[0x80u8, 0x00][..],
            &[0xff, 0xff, 0xff, 0xff],
            &[0x80, 0x80, 0x80, 0x80, 1],
        ] {
            assert_eq!(varint(bad).unwrap_err().reason, Reason::MALFORMED_PACKET);
        }
    }

    #[test]
    fn text_refuses_nul_and_surrogates() {
        assert!(text("电表".as_bytes()).is_ok());
        assert!(text(b"a\0b").is_err());
        assert!(text(&[0xed, 0xa0, 0x80]).is_err());
        assert!(text(&[0xc0, 0x80]).is_err());
    }
}
