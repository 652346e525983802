//! Bitmaps that grow: which rows of a column have a value.

use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};

/// A bitmap, lowest bit first, as Arrow keeps them.
#[derive(Debug, Default)]
pub(crate) struct Bits {
    bytes: Vec<u8>,
    len: usize,
}

impl Bits {
    /// `len` bits of the same value.
    pub fn repeat(on: bool, len: usize) -> Bits {
        let mut bits = Bits {
            bytes: vec![if on { 0xff } else { 0 }; len.div_ceil(8)],
            len,
        };
        // Bits after the end are zero, so that they can be set one by one.
        if let Some(last) = bits.bytes.last_mut()
            && on
            && !len.is_multiple_of(8)
        {
            *last = (1 << (len % 8)) - 1;
        }
        bits
    }

    #[inline]
    pub fn push(&mut self, on: bool) {
        let bit = self.len & 7;
        if bit == 0 {
            self.bytes.push(0);
        }
        if let Some(last) = self.bytes.last_mut() {
            *last |= u8::from(on) << bit;
        }
        self.len += 1;
    }

    pub fn finish(self) -> BooleanBuffer {
        BooleanBuffer::new(Buffer::from_vec(self.bytes), 0, self.len)
    }

    /// As validity, or `None` if every bit is set.
    pub fn into_nulls(self) -> Option<NullBuffer> {
        let nulls = NullBuffer::new(self.finish());
        (nulls.null_count() > 0).then_some(nulls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_after_any_number_of_equal_bits() {
        for on in [false, true] {
            for len in 0..20 {
                let mut bits = Bits::repeat(on, len);
                bits.push(true);
                bits.push(false);
                let expected: Vec<bool> = [vec![on; len], vec![true, false]].concat();
                assert_eq!(bits.finish().iter().collect::<Vec<_>>(), expected);
            }
        }
        assert!(Bits::repeat(true, 13).into_nulls().is_none());
    }
}
