//! Every bound of this crate, units last.

use std::time::Duration;

pub use busbar_event::limits::{BATCH_BYTES_MAX, BATCH_ROWS_MAX};

/// Bytes a task asks its input partition for at once.
pub const READ_BYTES: usize = BATCH_BYTES_MAX;
/// Rows below which a batch is put together with what has come behind it. Above, the cost of a batch is
/// shared well enough, and copying rows together would cost more than it saves.
pub const GATHER_ROWS: usize = BATCH_ROWS_MAX / 4;
/// How long a checkpoint may lag behind the outputs it is about. Outputs to logs and SQLite are recognised
/// when they come again, so the lag costs work after a crash, not correctness.
pub const CHECKPOINT_EVERY: Duration = Duration::from_millis(200);
/// How long a new version of a flow has to show that it can run.
pub const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a source is asked how many events have not come.
pub const LAG_EVERY: Duration = Duration::from_millis(500);
/// Requests for snapshots of one connection that wait until its source takes them.
pub const SNAPSHOT_ASKED_MAX: usize = 16;
/// How long such a request waits for a source that is being opened.
pub const SNAPSHOT_ASKED_WAIT: Duration = Duration::from_secs(10);
/// How long a flow has to finish what it has begun before it is cut off; its outputs then come again.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Rows a hot-deployed version is tried on before it takes over.
pub const TRIAL_ROWS_MAX: usize = 1024;
/// How long a plug-in that is tried may work on one batch.
pub const PLUGIN_TRIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of the answer of a plug-in that is tried.
pub const PLUGIN_TRIAL_OUTPUT_BYTES: u64 = 4 << 20;
/// Bytes of an error's text kept with a dead letter.
pub const CAUSE_BYTES_MAX: usize = 1024;
/// Dead letters of an orchestration in one append.
pub const UNFIT_PIECE_EVENTS: usize = 512;
/// Bytes of the payloads of those; one alone may have more.
pub const UNFIT_PIECE_BYTES: usize = 1 << 20;
/// Bytes of dead letters put down at once.
pub const DEAD_BATCH_BYTES: usize = BATCH_BYTES_MAX;
/// What a dead letter takes besides its payload, as far as room for it is reckoned.
pub const DEAD_MARKS_BYTES: usize = 512;
/// Dead letters noted as sent again by one change of the store.
pub const DEAD_DONE_MAX: usize = 32_768;
/// Dead letters read at once when those of a task are looked for.
pub const DEAD_READ_ROWS: usize = 4096;
/// Bytes of a payload that a dead letter is re-driven with instead of its own.
pub const DEAD_EDIT_BYTES_MAX: usize = 4 << 20;
/// Groups of dead letters told apart; what is beyond is one group.
pub const DEAD_GROUPS_MAX: usize = 1000;
/// Dead letters listed or re-driven by one call.
pub const DEAD_LETTERS_MAX: usize = 100_000;
/// Bytes of a topic or key made from a template.
pub const TEMPLATE_BYTES_MAX: usize = busbar_event::limits::TOPIC_BYTES_MAX;
/// Differences shown of one failed flow test.
pub const TEST_DIFFERENCES_MAX: usize = 20;
/// How long a flow that could not start for the moment waits before it tries again.
pub const RESTART_AFTER: Duration = Duration::from_secs(5);
/// How often the rate of a counter is taken.
pub const RATE_EVERY: Duration = Duration::from_secs(1);

const _: () = assert!(TRIAL_ROWS_MAX <= BATCH_ROWS_MAX);
// It is recorded in base64 before it is sent.
const _: () =
    assert!(DEAD_EDIT_BYTES_MAX * 4 / 3 + 1024 < busbar_log::limits::STORE_VALUE_BYTES_MAX);
const _: () = assert!(DEAD_DONE_MAX < busbar_log::limits::STORE_CHANGES_MAX);
/// Cursors of one flow on one partition: the flow's own and one for each connection, of all versions.
pub const LANES_MAX: usize = 1024;
/// Part of a bound on dead letters, in percent, from which on a warning says that open letters will be deleted.
pub const DEAD_WARN_PERCENT: u64 = 80;
/// Dead letters whose cause and number are kept in memory; older ones stay in their stream and are not counted.
pub const DEAD_INDEX_MAX: usize = 1_000_000;
/// Panes that one window may consist of; more would make each window merge that many states.
pub const WINDOW_PANES_MAX: i64 = 10_000;
/// Partial aggregates that a snapshot merges on the thread of the task; more are merged on another one.
pub const WINDOW_MERGE_ROWS: usize = 4096;
/// Parts, each a snapshot's worth of partial aggregates, that sessions keep before rows are moved out of the emptiest.
pub const SESSION_PARTS_MAX: usize = 64;
/// Partial aggregates that a session consists of before a snapshot merges them.
pub const SESSION_FRAGMENTS_MAX: usize = 8;
/// Partial aggregates of sessions that a snapshot looks at to move them together, besides twice as many as have changed.
pub const SESSION_MOVED_ROWS: usize = 4096;
/// Rows that `top` keeps of each group and window.
pub const TOP_ROWS_MAX: u32 = 10_000;
/// Events that a pattern may consist of.
pub const PATTERN_EVENTS_MAX: usize = 32;
/// Beginnings of a pattern that are followed at once for each key; a further one replaces the oldest.
pub const PATTERN_OPEN_MAX: usize = 16;
/// Members of a group of `aggregate`; a further one is a dead letter.
pub const AGGREGATE_MEMBERS_MAX: u32 = 10_000;
/// The same where each member is followed by a look at the whole group, for `when`.
pub const AGGREGATE_WHEN_MEMBERS_MAX: u32 = 1_000;
/// Bytes of the members of a group of `aggregate`; a member that would make it more is a dead letter.
pub const AGGREGATE_GROUP_BYTES_MAX: usize = 4 << 20;
/// Events of a key that `resequence` lets wait.
pub const RESEQUENCE_BUFFER_MAX: u32 = 10_000;
/// The same where the step does not say how many.
pub const RESEQUENCE_BUFFER: u32 = 1_000;
/// Elements of a list that `split` takes apart; an event with more is a dead letter.
pub const SPLIT_ELEMENTS_MAX: usize = 10_000;
/// Bytes of the rows that `split` makes of a batch; a batch with more is taken in halves, and a single event with more is a
/// dead letter.
pub const SPLIT_BYTES_MAX: usize = 64 << 20;
/// How often a task with state commits what has changed in it.
pub const SNAPSHOT_EVERY: Duration = Duration::from_secs(1);
/// How long a partition must be without events before a tick may move its time on.
pub const IDLE_AFTER: Duration = Duration::from_secs(1);
/// How often an idle partition is looked at.
pub const IDLE_CHECK: Duration = Duration::from_millis(200);
/// Memory of a flow's state where the settings do not say otherwise, and of a run over a range of time, in bytes; beyond it
/// operators leave on disk what they do not need at once.
pub const STATE_BYTES_MAX: usize = 256 << 20;
/// Memory for blocks of the state of all flows that were read from disk, in bytes.
pub const STATE_CACHE_BYTES: u64 = 32 << 20;
/// How long what a flow has kept outlives the flow: one that is added again goes on where it was.
pub const REMOVED_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Keys of state that are removed at once.
pub const STATE_REMOVE_KEYS: usize = 10_000;
/// How often the state of a task is copied while it changes.
pub const STATE_COPY_EVERY: Duration = Duration::from_secs(10);
/// Copying takes at most one part in so many of the time.
pub const STATE_COPY_SHARE: u32 = 100;
/// How long opening the state waits for a process that is just ending to let go of it.
pub const STATE_LOCK_WAIT: Duration = Duration::from_secs(20);
/// Rows of results that are written as one piece.
pub const PIECE_ROWS_MAX: usize = 65_536;
/// Bytes of results that are written as one piece.
pub const PIECE_BYTES_MAX: usize = 16 << 20;
/// How long late events are kept.
pub const LATE_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Bytes of late events kept of one flow.
pub const LATE_BYTES_MAX: u64 = 1 << 30;
/// Bytes of ticks kept of one flow.
pub const TICKS_BYTES_MAX: u64 = 256 << 20;
/// Rows that are shown of each step where an event is traced.
pub const TRACE_ROWS_MAX: usize = 100;
/// Events of other streams that are read to find the results of an event in one flow.
pub const TRACE_SCAN_EVENTS_MAX: u64 = 256 << 10;
/// Events that a flow with state is run over again to find those that a result was made of, of all partitions together.
pub const LINEAGE_EVENTS_MAX: u64 = 4096;
/// Bytes of these events.
pub const LINEAGE_BYTES_MAX: usize = 64 << 20;
/// Events of all partitions together that go through the flow at once then.
pub const LINEAGE_BATCH_EVENTS_MAX: usize = 256;
/// How many of the nearest events are tried first.
pub const LINEAGE_NEAREST: usize = 16;
/// How often it is run again for that.
pub const LINEAGE_RUNS_MAX: usize = 800;
/// Results of one such run.
pub const LINEAGE_RUN_RESULTS_MAX: usize = 64 << 10;
/// Results of an event that are shown with the events that they were made of.
pub const LINEAGE_RESULTS_MAX: usize = 16;
/// Events that are shown of one result.
pub const LINEAGE_INPUTS_MAX: usize = 100;
/// Bytes that are read at once for that.
pub const TRACE_READ_BYTES: usize = 256 << 10;
/// Threads that flows compute on, at most.
pub const COMPUTE_THREADS_MAX: usize = 16;

const _: () = assert!(PIECE_ROWS_MAX <= busbar_bus::limits::APPEND_ROWS_MAX);
const _: () = assert!(2 * PIECE_BYTES_MAX <= busbar_bus::limits::APPEND_BYTES_MAX);
/// Runs over ranges of time that are under way at once.
pub const BOUNDED_AT_ONCE_MAX: usize = 2;
/// Runs over ranges of time that are remembered.
pub const BOUNDED_KEPT_MAX: usize = 100;
/// How often such a run tries what fails for the moment.
pub const BOUNDED_TRIES_MAX: u32 = 8;
/// The priority of such a run's thread, as of `nice`: 0 is that of all others, 19 the lowest.
pub const BOUNDED_NICE: i32 = 15;

/// Streams between stages are trimmed once in so many times that rates are taken.
pub const TRIM_TICKS: u64 = 10;
/// How long a join uses an answer of a table again whose look-ups wait for a disk or another system, unless its step says
/// otherwise.
pub const JOIN_CACHE_FOR: Duration = Duration::from_secs(1);
/// Answers of a table that one task of a join keeps.
pub const JOIN_CACHE_ROWS_MAX: usize = 65_536;
/// Batches of answers that are kept apart before they are put together.
pub const JOIN_CACHE_BATCHES_MAX: usize = 64;
/// Results that the rows of one batch may have in a join of two streams; a batch with more is taken in halves, and a single
/// row with more is a dead letter.
pub const JOIN_RESULTS_MAX: usize = 1 << 20;
/// Rows of a join's state that are stored as one piece.
pub const JOIN_PART_ROWS: usize = 8192;
/// Tags and columns whose values are looked up among the constants of a route; others are tested case by case.
pub const ROUTE_SIGNATURE_MAX: usize = 8;
/// Combinations of looked-up values whose cases a route remembers.
pub const ROUTE_SIGNATURES_MAX: usize = 65_536;
/// How often a service is asked about an event to which it answers that it has failed, where the step does not say: as often
/// as it may fail in a row before its circuit opens.
pub const CALL_TRIES: u32 = 5;
/// Calls of one connection that are under way at a time.
pub const CALLS_IN_FLIGHT_MAX: usize = 64;
/// Bytes of answers that are kept before they are read into columns.
pub const CALL_DECODE_BYTES: usize = 4 << 20;
/// How often a test asks again a service that says "later".
pub const TEST_TRIES_MAX: u32 = 100;
/// Keys of the first ranges that a comparison of two tables counts; more where there would be too many ranges.
pub const COMPARE_RANGE_ROWS: u64 = 10_000;
/// Ranges of a comparison.
pub const COMPARE_RANGES_MAX: usize = 256;
/// Rows that are written at a time where a comparison puts a table right.
pub const COMPARE_REPAIR_ROWS: usize = 1_000;
