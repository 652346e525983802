//! Snappy, which only older producers use: reading it, in xerial's framing as Java writes it or without any.

use crate::limits::SNAPPY_BLOCK_BYTES_MAX;
use crate::{KafkaFault, Result};

const XERIAL: &[u8] = b"\x82SNAPPY\0";

/// The bytes behind a compressed text, at most `most` of them.
pub fn decompress(input: &[u8], most: usize) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let Some(framed) = input.strip_prefix(XERIAL) else {
        block(input, most, &mut out)?;
        return Ok(out);
    };
    // Two versions, each of four bytes, then blocks with their lengths.
    let mut rest = framed.get(8..).ok_or(KafkaFault::Compression)?;
    while let Some((length, tail)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes(*length) as usize;
        if length > SNAPPY_BLOCK_BYTES_MAX {
            return Err(KafkaFault::Compression);
        }
        let (one, tail) = tail
            .split_at_checked(length)
            .ok_or(KafkaFault::Compression)?;
        block(one, most, &mut out)?;
        rest = tail;
    }
    match rest.is_empty() {
        true => Ok(out),
        false => Err(KafkaFault::Compression),
    }
}

/// Appends what one block holds.
fn block(input: &[u8], most: usize, out: &mut Vec<u8>) -> Result<()> {
    let (length, mut rest) = length(input)?;
    let begin = out.len();
    if length > most.saturating_sub(begin) {
        return Err(KafkaFault::TooLarge);
    }
    let end = begin + length;
    while let Some((&tag, tail)) = rest.split_first() {
        rest = tail;
        let number = |rest: &mut &[u8], bytes: usize| -> Result<usize> {
            let (head, tail) = rest
                .split_at_checked(bytes)
                .ok_or(KafkaFault::Compression)?;
            *rest = tail;
            let fold = |all: usize, byte: &u8| all << 8 | usize::from(*byte);
            Ok(head.iter().rev().fold(0, fold))
        };
        let upper = usize::from(tag >> 2);
        let (count, back) = match tag & 3 {
            0 => {
                let count = match upper {
                    0..60 => upper + 1,
                    _ => number(&mut rest, upper - 59)?.saturating_add(1),
                };
                let (text, tail) = rest
                    .split_at_checked(count)
                    .ok_or(KafkaFault::Compression)?;
                if count > end - out.len() {
                    return Err(KafkaFault::Compression);
                }
                out.extend(text);
                rest = tail;
                continue;
            }
            1 => {
                let low = number(&mut rest, 1)?;
                (4 + (upper & 7), (upper >> 3) << 8 | low)
            }
            2 => (upper + 1, number(&mut rest, 2)?),
            _ => (upper + 1, number(&mut rest, 4)?),
        };
        if back == 0 || back > out.len() - begin || count > end - out.len() {
            return Err(KafkaFault::Compression);
        }
        let from = out.len() - back;
        if back >= count {
            out.extend_from_within(from..from + count);
        } else {
            // What is copied is repeated.
            for at in from..from + count {
                out.push(out[at]);
            }
        }
    }
    match out.len() == end {
        true => Ok(()),
        false => Err(KafkaFault::Compression),
    }
}

/// The length that a block says it has, and what follows.
fn length(input: &[u8]) -> Result<(usize, &[u8])> {
    let mut length = 0_u64;
    for (at, byte) in input.iter().take(5).enumerate() {
        length |= u64::from(byte & 0x7f) << (7 * at);
        if *byte < 0x80 {
            let length = usize::try_from(length).map_err(|_| KafkaFault::Compression)?;
            return Ok((length, &input[at + 1..]));
        }
    }
    Err(KafkaFault::Compression)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_copies_are_read() {
        // "abc", then five from three back, then two from eight back.
        let block = [
            10,
            2 << 2,
            b'a',
            b'b',
            b'c',
            1 | 1 << 2,
            3,
            2 | 1 << 2,
            8,
            0,
        ];
        let text = b"abcabcabab";
        assert_eq!(decompress(&block, 10).as_deref(), Ok(&text[..]));
        let framed = [XERIAL, &[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 10], &block].concat();
        let twice = [&framed[..], &[0, 0, 0, 10], &block].concat();
        assert_eq!(decompress(&framed, 10).as_deref(), Ok(&text[..]));
        assert_eq!(decompress(&twice, 20).map(|all| all.len()), Ok(20));
        assert_eq!(decompress(&twice, 19), Err(KafkaFault::TooLarge));
    }

    #[test]
    fn what_is_no_snappy_is_refused() {
        for bad in [
            &[][..],
            &[0xff; 5],
            &[3, 2 << 2, b'a'],
            &[3, 1, 1],
            &[1, 2 << 2, b'a', b'b', b'c'],
            &[4, 0, b'a'],
            XERIAL,
        ] {
            assert_eq!(
                decompress(bad, 100),
                Err(KafkaFault::Compression),
                "{bad:?}"
            );
        }
        assert_eq!(decompress(&[0xff, 0xff, 3], 100), Err(KafkaFault::TooLarge));
    }
}
