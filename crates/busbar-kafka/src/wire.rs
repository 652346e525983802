//! Readers and writers of the protocol's primitive types. Flexible versions have compact lengths and tagged fields, classic
//! ones have neither: whoever reads or writes a message says once which it is.

use crate::{KafkaFault, Result};

/// Reads primitive types from the front of a slice, never past its end.
#[derive(Clone, Copy, Debug)]
pub struct KafkaReader<'a> {
    rest: &'a [u8],
    flexible: bool,
}

impl<'a> KafkaReader<'a> {
    /// A reader over `bytes`, of a flexible version or a classic one.
    pub fn new(bytes: &'a [u8], flexible: bool) -> KafkaReader<'a> {
        KafkaReader {
            rest: bytes,
            flexible,
        }
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `n` bytes.
    #[inline]
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, tail) = self
            .rest
            .split_at_checked(n)
            .ok_or(KafkaFault::Malformed("a message ends inside a field"))?;
        self.rest = tail;
        Ok(head)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, tail) = self
            .rest
            .split_first_chunk()
            .ok_or(KafkaFault::Malformed("a message ends inside a field"))?;
        self.rest = tail;
        Ok(*head)
    }

    /// One signed byte.
    pub fn i8(&mut self) -> Result<i8> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    /// A truth value.
    pub fn bool(&mut self) -> Result<bool> {
        Ok(self.i8()? != 0)
    }

    /// Two bytes.
    pub fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    /// Four bytes.
    pub fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// Eight bytes.
    pub fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// The 16 bytes of an identifier.
    pub fn uuid(&mut self) -> Result<[u8; 16]> {
        self.array()
    }

    /// An unsigned integer of variable length, at most five bytes.
    pub fn uvarint(&mut self) -> Result<u32> {
        let mut value = 0_u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && bits > 0xf {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(KafkaFault::Malformed("a variable length is too long"))
    }

    /// A length; none where it says that there is nothing.
    fn length(&mut self, short: bool) -> Result<Option<usize>> {
        let length = match (self.flexible, short) {
            (true, _) => i64::from(self.uvarint()?) - 1,
            (false, true) => i64::from(self.i16()?),
            (false, false) => i64::from(self.i32()?),
        };
        match length {
            -1 => Ok(None),
            0.. => Ok(usize::try_from(length).ok()),
            _ => Err(KafkaFault::Malformed("a length is negative")),
        }
    }

    /// A text; none where it is null.
    pub fn nullable_text(&mut self) -> Result<Option<&'a str>> {
        match self.length(true)? {
            None => Ok(None),
            Some(length) => match std::str::from_utf8(self.take(length)?) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(KafkaFault::Malformed("a text is not UTF-8")),
            },
        }
    }

    /// A text.
    pub fn text(&mut self) -> Result<&'a str> {
        self.nullable_text()?
            .ok_or(KafkaFault::Malformed("a text is null"))
    }

    /// Bytes; none where they are null.
    pub fn nullable_bytes(&mut self) -> Result<Option<&'a [u8]>> {
        match self.length(false)? {
            None => Ok(None),
            Some(length) => Ok(Some(self.take(length)?)),
        }
    }

    /// Each element of an array, which has at least `least` bytes; nothing where the array is null.
    pub fn each<T>(
        &mut self,
        least: usize,
        mut read: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let count = self.length(false)?.unwrap_or(0);
        if count > self.rest.len() / least.max(1) {
            return Err(KafkaFault::Malformed("an array is longer than its message"));
        }
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            all.push(read(self)?);
        }
        Ok(all)
    }

    /// Passes the tagged fields of a flexible version.
    pub fn tags(&mut self) -> Result<()> {
        if self.flexible {
            for _ in 0..self.uvarint()? {
                self.uvarint()?;
                let size = self.uvarint()?;
                self.take(size as usize)?;
            }
        }
        Ok(())
    }
}

/// Appends primitive types to a frame.
#[derive(Debug)]
pub struct KafkaWriter<'a> {
    out: &'a mut Vec<u8>,
    flexible: bool,
}

impl<'a> KafkaWriter<'a> {
    /// A writer at the end of `out`, of a flexible version or a classic one.
    pub fn new(out: &'a mut Vec<u8>, flexible: bool) -> KafkaWriter<'a> {
        KafkaWriter { out, flexible }
    }

    /// One signed byte.
    pub fn i8(&mut self, value: i8) {
        self.out.extend(value.to_be_bytes());
    }

    /// A truth value.
    pub fn bool(&mut self, value: bool) {
        self.i8(i8::from(value));
    }

    /// Two bytes.
    pub fn i16(&mut self, value: i16) {
        self.out.extend(value.to_be_bytes());
    }

    /// Four bytes.
    pub fn i32(&mut self, value: i32) {
        self.out.extend(value.to_be_bytes());
    }

    /// Eight bytes.
    pub fn i64(&mut self, value: i64) {
        self.out.extend(value.to_be_bytes());
    }

    /// An identifier.
    pub fn uuid(&mut self, value: [u8; 16]) {
        self.out.extend(value);
    }

    fn uvarint(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    fn length(&mut self, length: Option<usize>, short: bool) {
        match (self.flexible, short) {
            (true, _) => self.uvarint(length.map_or(0, |length| length + 1)),
            (false, true) => self.i16(length.map_or(-1, |length| length as i16)),
            (false, false) => self.i32(length.map_or(-1, |length| length as i32)),
        }
    }

    /// A text of at most 32,767 bytes.
    pub fn text(&mut self, text: &str) {
        self.nullable_text(Some(text));
    }

    /// A text or null.
    pub fn nullable_text(&mut self, text: Option<&str>) {
        self.length(text.map(str::len), true);
        self.out.extend(text.unwrap_or_default().as_bytes());
    }

    /// Bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.length(Some(bytes.len()), false);
        self.out.extend(bytes);
    }

    /// An array, each element written by `write`.
    pub fn each<T>(
        &mut self,
        all: impl ExactSizeIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T),
    ) {
        self.length(Some(all.len()), false);
        for one in all {
            write(self, one);
        }
    }

    /// The array that is not there.
    pub fn no_array(&mut self) {
        self.length(None, false);
    }

    /// No tagged fields.
    pub fn tags(&mut self) {
        if self.flexible {
            self.out.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for flexible in [false, true] {
            let mut out = Vec::new();
            let mut w = KafkaWriter::new(&mut out, flexible);
            w.i8(-3);
            w.bool(true);
            w.i16(-300);
            w.i32(70_000);
            w.i64(-1);
            w.uuid([7; 16]);
            w.text("雨");
            w.nullable_text(None);
            w.bytes(&[9; 300]);
            w.each([1, 2, 3].iter(), |w, n| w.i32(*n));
            w.no_array();
            w.tags();
            let mut r = KafkaReader::new(&out, flexible);
            assert_eq!(r.i8(), Ok(-3));
            assert_eq!(r.bool(), Ok(true));
            assert_eq!(r.i16(), Ok(-300));
            assert_eq!(r.i32(), Ok(70_000));
            assert_eq!(r.i64(), Ok(-1));
            assert_eq!(r.uuid(), Ok([7; 16]));
            assert_eq!(r.text(), Ok("雨"));
            assert_eq!(r.nullable_text(), Ok(None));
            assert_eq!(r.nullable_bytes(), Ok(Some(&[9; 300][..])));
            assert_eq!(r.each(4, KafkaReader::i32), Ok(vec![1, 2, 3]));
            assert_eq!(r.each(4, KafkaReader::i32), Ok(vec![]));
            r.tags().expect("no tags");
            assert!(r.rest().is_empty());
        }
    }

    #[test]
    fn lengths_are_compared_with_what_is_there() {
        let huge = i32::MAX.to_be_bytes();
        let mut r = KafkaReader::new(&huge, false);
        assert!(r.each(1, KafkaReader::i8).is_err());
        assert!(KafkaReader::new(&huge, false).nullable_bytes().is_err());
        assert!(
            KafkaReader::new(&[0xff, 0xfe], false)
                .nullable_text()
                .is_err()
        );
        for bytes in [&[0xff; 5][..], &[0x80, 0x80, 0x80, 0x80, 0x10]] {
            assert!(KafkaReader::new(bytes, true).uvarint().is_err());
        }
        assert_eq!(
            KafkaReader::new(&[0xff, 0xff, 0xff, 0xff, 0x0f], true).uvarint(),
            Ok(u32::MAX)
        );
    }
}
