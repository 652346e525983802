//! Bounds of the packet layer.

/// Largest value of a variable byte integer, and so of a packet's remaining length.
pub const REMAINING_LENGTH_MAX: u32 = 268_435_455;
/// Bytes of the longest fixed header: type and flags, then four bytes of length.
pub const FIXED_HEADER_BYTES_MAX: usize = 5;
/// Bytes of the largest CONNECT: it arrives before the client is known, so it gets less room than
/// other packets (a will's payload takes at most 64 KiB of it).
pub const CONNECT_BYTES_MAX: u32 = 256 * 1024;
/// Filters in one SUBSCRIBE or UNSUBSCRIBE.
pub const FILTERS_PER_PACKET_MAX: usize = 4096;
