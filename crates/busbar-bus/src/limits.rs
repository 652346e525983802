//! Every bound of the bus in one place; the unit stands last in a name.

/// Rows at which a lane's batch is sealed without waiting for the one before it.
pub const LANE_ROWS_MAX: usize = 8_192;
/// Bytes at which a lane's batch is sealed without waiting for the one before it. Large enough
/// that the fixed part of a sync is shared, small enough that encoding overlaps the disk.
pub const LANE_BYTES_MAX: usize = 1 << 20;
/// Sealed and not yet settled batches of one lane at which its publisher stops being writable.
pub const LANE_IN_FLIGHT_MAX: u64 = 4;
/// Topics whose route a publisher caches.
pub const TOPIC_CACHE_MAX: usize = 131_072;
/// Bytes of topic text in that cache.
pub const TOPIC_CACHE_BYTES_MAX: usize = 16 << 20;
/// Bytes a publisher may hold before it books them in the shared budget.
pub const BUDGET_STEP_BYTES: u64 = 64 << 10;
/// Largest payload that any setting may allow: with what gathers before it and its tags, a batch
/// must fit one frame of the log.
pub const PAYLOAD_BYTES_MAX: usize = 32 << 20;
/// Fixed cost booked for an event beside its own bytes.
pub const EVENT_OVERHEAD_BYTES: usize = 32;
/// Ranges of failed batches a lane remembers; older tickets read as failed afterwards.
pub const LANE_FAILURES_MAX: usize = 256;
/// Default of the byte budget of all publishers.
pub const IN_FLIGHT_BYTES_MAX_DEFAULT: u64 = 64 << 20;
/// Beyond the budget by this factor, events are refused even if the owner goes on reading.
pub const IN_FLIGHT_HARD_FACTOR: u64 = 2;

/// How far times of arrival may run ahead of the clock before they begin again at the clock.
pub const ARRIVAL_AHEAD_MICROS_MAX: i64 = 60_000_000;
/// How far ahead of the node's clock the time of an event may be when it arrives, unless its stream says otherwise.
pub const TIME_AHEAD_MICROS_MAX_DEFAULT: i64 = 5 * 60 * 1_000_000;

/// Bytes read at once while the first event at a time is looked for.
pub const TIME_SEARCH_READ_BYTES: usize = 1 << 20;

/// Longest name of a stream.
pub const STREAM_NAME_BYTES_MAX: usize = 64;
/// Longest name of a stream that belongs to a flow, in bytes: the flow's name and what is put around it.
pub const DERIVED_NAME_BYTES_MAX: usize = 2 * STREAM_NAME_BYTES_MAX;
/// Most streams of a project.
pub const STREAMS_MAX: usize = 4_096;
/// Most topic patterns of a stream.
pub const STREAM_TOPICS_MAX: usize = 256;
/// Segments that the size bound of a stream is divided into at least: a partition exceeds the bound by at
/// most one segment.
pub const SEGMENTS_PER_RETENTION: u64 = 4;
/// Most partitions of a stream.
pub const STREAM_PARTITIONS_MAX: u16 = 256;
/// Longest key template.
pub const KEY_TEMPLATE_BYTES_MAX: usize = 1_024;

/// Most rows of one `append`, so that what a producer's position covers fits one frame.
pub const APPEND_ROWS_MAX: usize = 1 << 20;
/// Most bytes (in memory) of one `append`.
pub const APPEND_BYTES_MAX: usize = 32 << 20;
/// Memory for recent events of all partitions, by default.
pub const CACHE_BYTES_DEFAULT: usize = 256 << 20;
/// Recent frames a partition keeps at most.
pub const CACHE_PARTITION_BYTES_MAX: usize = 16 << 20;
/// Recent frames a partition keeps however many there are.
pub const CACHE_PARTITION_BYTES_MIN: usize = 256 << 10;
/// Bytes a cursor asks of the log at once.
pub const CURSOR_READ_BYTES: usize = 4 << 20;

/// Retained topics by default.
pub const RETAINED_TOPICS_MAX_DEFAULT: usize = 2_000_000;
/// Bytes of retained values by default.
pub const RETAINED_BYTES_MAX_DEFAULT: usize = 512 << 20;
/// Most retained values in one page.
pub const RETAINED_PAGE_MAX: usize = 1_000;
/// Most topics looked at for one page, so that a page never holds the commit thread up for long.
pub const RETAINED_STEPS_MAX: usize = 16_384;
/// Changes the journal of retained values writes at once.
pub const RETAINED_JOURNAL_CHANGES_MAX: usize = 4_096;
/// How long changed retained values are gathered before they are journalled.
pub const RETAINED_JOURNAL_EVERY_MILLIS: u64 = 250;
/// Bytes of log after which positions are journalled though no retained value changed.
pub const RETAINED_RESCAN_BYTES: u64 = 64 << 20;
/// Expired values removed in one step.
pub const RETAINED_EXPIRE_MAX: usize = 4_096;

/// Events a schema is inferred from; then it is fixed.
pub const SCHEMA_SAMPLES: usize = 100;
/// Bytes read at most to find them.
pub const SCHEMA_SAMPLE_BYTES_MAX: usize = 1 << 20;

/// Topics of which the live board keeps the last event.
pub const LAST_TOPICS_MAX: usize = 20_000;
/// Payload bytes the live board keeps in all.
pub const LAST_BYTES_MAX: usize = 32 << 20;
/// Bytes of each partition the live board reads back when it is first asked.
pub const LAST_SCAN_BYTES_MAX: usize = 8 << 20;

/// Bytes of the run of small frames that are merged to one.
pub const MERGE_BYTES_MAX: usize = busbar_event::limits::BATCH_BYTES_MAX / 4;
/// Segments whose frames are larger than this on average stay as they are.
pub const MERGE_FRAME_BYTES_MIN: usize = 32 << 10;
/// Bytes of a segment by which the size of its frames is judged.
pub const MERGE_SAMPLE_BYTES: usize = 1 << 20;
/// How often sealed segments are looked for.
pub const MERGE_EVERY_MILLIS: u64 = 10_000;

const _: () = assert!(LANE_ROWS_MAX <= busbar_event::limits::BATCH_ROWS_MAX);
const _: () = assert!(LANE_BYTES_MAX <= busbar_event::limits::BATCH_BYTES_MAX);
const _: () = assert!(LANE_IN_FLIGHT_MAX > 1);
const _: () = assert!(
    2 * busbar_event::limits::BATCH_BYTES_MAX
        + PAYLOAD_BYTES_MAX
        + busbar_event::limits::TAGS_MAX * 2 * busbar_event::limits::TAG_BYTES_MAX
        < busbar_log::limits::BODY_BYTES_MAX
);
const _: () = assert!(APPEND_BYTES_MAX >= busbar_event::limits::BATCH_BYTES_MAX);
