//! Every size, count and wait of the log that has a bound. Units stand last in the name.

/// Alignment of frames and of their bodies, within the file and in memory.
pub const ALIGN_BYTES: usize = 64;
/// The longest producer id.
pub const PRODUCER_ID_BYTES_MAX: usize = 256;
/// The most producers that have rows in one frame.
pub const PRODUCERS_PER_FRAME_MAX: usize = 4096;
/// The most producers remembered by one partition; beyond it those that have been silent longest
/// are forgotten.
pub const PRODUCERS_PER_PARTITION_MAX: usize = 16_384;
/// The longest header of a frame: fixed part, producers, padding.
pub const HEADER_BYTES_MAX: usize = 2 << 20;
/// The longest body of a frame.
pub const BODY_BYTES_MAX: usize = 64 << 20;
/// The commit thread closes a group when it has gathered this much; the rest waits for the next.
pub const GROUP_BYTES_MAX: usize = 4 << 20;
/// The most appends in one group.
pub const GROUP_APPENDS_MAX: usize = 4096;
/// Bytes that may wait in front of the commit thread; beyond it appends are refused as busy.
pub const QUEUE_BYTES_MAX: usize = 512 << 20;
/// Appends that may wait in front of the commit thread; beyond it they are refused as busy.
pub const QUEUE_APPENDS_MAX: usize = 1 << 20;
/// The most buffers handed to one vectored write.
pub const WRITE_PARTS_MAX: usize = 1024;
/// Threads that sync files beside the commit thread when one group touched several.
pub const SYNC_THREADS_MAX: usize = 3;
/// Smallest size of a segment.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// Largest size of a segment: frames count positions in units of [`ALIGN_BYTES`] in 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 64 << 30;
/// How much of what was last written to a partition stays in the operating system's page cache for
/// readers that have fallen behind the frames in memory. What is older gives its pages to what is
/// written next, since on a virtual machine a fresh page costs several times one that is used again.
pub const PAGE_CACHE_BYTES: u64 = 64 << 20;
/// Pages are given back in portions of this size.
pub const PAGE_CACHE_STEP_BYTES: u64 = 8 << 20;
/// Distance of two entries of a segment's sparse index.
pub const INDEX_STRIDE_BYTES: u64 = 256 << 10;
/// The longest index file that is read.
pub const INDEX_FILE_BYTES_MAX: u64 = 64 << 20;
/// Files kept open for reading, over all partitions.
pub const FILES_OPEN_MAX: usize = 256;
/// A partition remembers at most this many damaged places one by one.
pub const DAMAGES_MAX: usize = 1024;
/// The longest name of a partition, of its parts together.
pub const NAME_BYTES_MAX: usize = 512;
/// The longest key in a store.
pub const STORE_KEY_BYTES_MAX: usize = 64 << 10;
/// The longest value in a store.
pub const STORE_VALUE_BYTES_MAX: usize = 16 << 20;
/// The most changes applied to a store at once.
pub const STORE_CHANGES_MAX: usize = 65_536;
/// Size of a store's segments.
pub const STORE_SEGMENT_BYTES: u64 = 8 << 20;
/// Bytes of dead records a store may hold beyond its live ones before it is compacted.
pub const STORE_GARBAGE_BYTES_MIN: u64 = 16 << 20;
/// Live bytes that one step of compaction moves.
pub const STORE_COMPACT_STEP_BYTES: usize = 1 << 20;
/// Steps of compaction of one store in a second at most.
pub const STORE_COMPACT_ROUNDS_MAX: usize = 512;
/// Threads and tasks that are named when they have ended although they should run.
pub const ENDED_MAX: usize = 64;
/// Size of a small append: the disk counts as full when it has no room for it above the reserve.
pub const SMALL_APPEND_BYTES: u64 = 4 << 10;
/// Bytes written to find out whether a partition that refused appends can be written again.
pub const TRIAL_BYTES: usize = 64 << 10;
/// How long a segment that failed rests before a new one is tried.
pub const RETRY_MICROS: i64 = 500_000;

const _: () = {
    assert!(BODY_BYTES_MAX + HEADER_BYTES_MAX < u32::MAX as usize);
    assert!(
        64 + PRODUCERS_PER_FRAME_MAX * (2 + PRODUCER_ID_BYTES_MAX + 8) + ALIGN_BYTES
            <= HEADER_BYTES_MAX
    );
    assert!(HEADER_BYTES_MAX / ALIGN_BYTES <= u16::MAX as usize);
    assert!(STORE_KEY_BYTES_MAX + STORE_VALUE_BYTES_MAX + 64 < BODY_BYTES_MAX);
    assert!(SEGMENT_BYTES_MAX / ALIGN_BYTES as u64 <= u32::MAX as u64);
    assert!(PRODUCERS_PER_PARTITION_MAX * (2 + PRODUCER_ID_BYTES_MAX + 16) < BODY_BYTES_MAX);
};
