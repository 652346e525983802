//! Integers of variable length, zigzag, as records have them.

use crate::{KafkaFault, Result};

/// Reads one at `at` and moves behind it.
#[inline]
pub fn read(bytes: &[u8], at: &mut usize) -> Result<i64> {
    let mut value = 0_u64;
    let mut shift = 0;
    loop {
        let byte = *bytes
            .get(*at)
            .ok_or(KafkaFault::Malformed("a record ends inside a field"))?;
        *at += 1;
        let bits = u64::from(byte & 0x7f);
        if shift > 63 || (shift == 63 && bits > 1) {
            return Err(KafkaFault::Malformed("a number in a record is too long"));
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
        }
        shift += 7;
    }
}

/// Reads a length and what has it; none for the length -1.
#[inline]
pub fn read_bytes<'a>(bytes: &'a [u8], at: &mut usize) -> Result<Option<&'a [u8]>> {
    let length = read(bytes, at)?;
    if length == -1 {
        return Ok(None);
    }
    let end = usize::try_from(length)
        .ok()
        .and_then(|length| at.checked_add(length));
    let found = end.and_then(|end| bytes.get(*at..end));
    let found = found.ok_or(KafkaFault::Malformed("a record ends inside a field"))?;
    *at += found.len();
    Ok(Some(found))
}

/// Appends one.
#[inline]
pub fn write(value: i64, out: &mut Vec<u8>) {
    let mut value = zigzag(value);
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes one has.
#[inline]
pub fn len(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_has_the_length_that_is_said() {
        for value in [0, 1, -1, 63, 64, -64, -65, 300, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            write(value, &mut out);
            assert_eq!(out.len(), len(value), "{value}");
            let mut at = 0;
            assert_eq!(read(&out, &mut at), Ok(value));
            assert_eq!(at, out.len());
            assert!(read(&out[..out.len() - 1], &mut 0).is_err());
        }
        assert!(read(&[0xff; 11], &mut 0).is_err());
    }
}
