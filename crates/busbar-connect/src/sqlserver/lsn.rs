//! Places in the log of a database, as `cdc` writes them, and as numbers that grow with them.

use bytes::Bytes;

/// A place: the number of a file within the log, of a block in it, and of a record in the block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MssqlLsn([u8; 10]);

/// Bits of the three numbers in the place as one number.
const FILE_BITS: u32 = 26;
const BLOCK_BITS: u32 = 26;
const RECORD_BITS: u32 = 12;

impl MssqlLsn {
    pub fn read(bytes: &Bytes) -> Option<MssqlLsn> {
        bytes[..].try_into().ok().map(MssqlLsn)
    }

    /// The place as one number; none for one that has no room in it.
    pub fn number(self) -> Option<u64> {
        let [a, b, c, d, e, f, g, h, i, j] = self.0;
        let file = u64::from(u32::from_be_bytes([a, b, c, d]));
        let block = u64::from(u32::from_be_bytes([e, f, g, h]));
        let record = u64::from(u16::from_be_bytes([i, j]));
        let fits = file >> FILE_BITS == 0 && block >> BLOCK_BITS == 0 && record >> RECORD_BITS == 0;
        fits.then_some(file << (BLOCK_BITS + RECORD_BITS) | block << RECORD_BITS | record)
    }

    /// The place that a number is of.
    pub fn of(number: u64) -> MssqlLsn {
        let file = (number >> (BLOCK_BITS + RECORD_BITS)) as u32;
        let block = (number >> RECORD_BITS) as u32 & ((1 << BLOCK_BITS) - 1);
        let record = number as u16 & ((1 << RECORD_BITS) - 1);
        let mut place = [0; 10];
        place[..4].copy_from_slice(&file.to_be_bytes());
        place[4..8].copy_from_slice(&block.to_be_bytes());
        place[8..].copy_from_slice(&record.to_be_bytes());
        MssqlLsn(place)
    }

    /// As it is written in SQL.
    pub fn literal(self) -> String {
        super::wire::bytes_literal(&self.0)
    }
}

impl std::fmt::Display for MssqlLsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.literal())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_number_that_grows_with_it() {
        let place = |text: [u8; 10]| MssqlLsn(text);
        let places = [
            place([0, 0, 0, 0x20, 0, 0, 0, 0x90, 0, 1]),
            place([0, 0, 0, 0x20, 0, 0, 0, 0x90, 0, 2]),
            place([0, 0, 0, 0x20, 0, 0, 0x01, 0, 0, 1]),
            place([0, 0, 0, 0x21, 0, 0, 0, 0x10, 0, 1]),
            place([3, 0xff, 0xff, 0xff, 3, 0xff, 0xff, 0xff, 0x0f, 0xff]),
        ];
        let numbers: Vec<_> = places
            .iter()
            .map(|place| place.number().expect("room"))
            .collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        for (place, number) in places.iter().zip(&numbers) {
            assert_eq!(MssqlLsn::of(*number), *place);
        }
        assert_eq!(place([4, 0, 0, 0, 0, 0, 0, 0, 0, 0]).number(), None);
        assert_eq!(place([0, 0, 0, 1, 0, 0, 0, 0, 0x10, 0]).number(), None);
    }
}
