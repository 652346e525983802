//! Every bound of this crate, units last.

/// Bytes of the header of a record batch, before its records.
pub const BATCH_HEAD_BYTES: usize = 61;
/// Bytes of a record batch before the bytes that its length counts.
pub const BATCH_LENGTH_AT_BYTES: usize = 12;
/// The fewest bytes that a record has: a length, attributes, two deltas, two lengths and a count.
pub const RECORD_BYTES_MIN: usize = 7;
/// The fewest bytes that a header of a record has: two lengths.
pub const HEADER_BYTES_MIN: usize = 2;
/// Bytes of a block that xerial's framing of snappy may announce.
pub const SNAPPY_BLOCK_BYTES_MAX: usize = 64 << 20;
/// Logarithm of the largest window of a zstd frame, in bytes: 128 MiB, which is what the reference decoder allows.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 27;
