//! Hashes that stay the same over restarts and versions, for what is named or placed by them.

/// Where FNV-1a begins.
pub const FNV1A_START: u64 = 0xcbf2_9ce4_8422_2325;

/// The 64-bit FNV-1a hash of some bytes. Not for tables that strangers fill: it is easy to find bytes with
/// the same hash.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(FNV1A_START, |hash, byte| fnv1a_step(hash, *byte))
}

/// The hash with one more byte.
#[inline]
pub const fn fnv1a_step(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_hashes() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
