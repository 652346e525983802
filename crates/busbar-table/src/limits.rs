//! Every bound of this crate, with its unit last.

use std::time::Duration;

/// Longest table name, in bytes. A name becomes a file name.
pub const NAME_BYTES_MAX: usize = 64;

/// Longest column name, in bytes.
pub const COLUMN_NAME_BYTES_MAX: usize = 128;

/// Most columns a table may have. SQLite's own bound is 2000.
pub const COLUMNS_MAX: usize = 512;

/// Largest text, binary or JSON value. A larger one rejects its row.
pub const VALUE_BYTES_MAX: usize = 4 << 20;

/// Rows of a hot table unless its file says otherwise.
pub const HOT_ROWS_MAX_DEFAULT: u64 = 1_000_000;

/// Bytes of a hot table unless its file says otherwise.
pub const HOT_BYTES_MAX_DEFAULT: u64 = 256 << 20;

/// Rows a hot table can be allowed at most: a slot is a `u32`.
pub const HOT_ROWS_MAX: u64 = u32::MAX as u64 - 1;

/// Rows in one chunk of a hot table: what a writer copies at most when a reader holds the chunk.
pub const HOT_CHUNK_ROWS: usize = 4096;

/// Bytes of what the keys of a hot table in another system begin with.
pub const HOT_PREFIX_BYTES_MAX: usize = 200;

/// Rows that are moved from a hot table to another one at once.
pub const MOVE_ROWS_MAX: usize = 1024;

/// Bytes after which no further row is moved at once.
pub const MOVE_BYTES_MAX: usize = 4 << 20;

/// How often a hot table looks for rows that are to be moved.
pub const MOVE_INTERVAL: Duration = Duration::from_millis(100);

/// Longest wait before a move that failed is tried again.
pub const MOVE_RETRY_MAX: Duration = Duration::from_secs(5);

/// Size at which a segment of a hot table's journal is sealed.
pub const JOURNAL_SEGMENT_BYTES: u64 = 16 << 20;

/// The journal of a hot table is replaced by a snapshot when it exceeds this many bytes plus twice the bytes
/// of the table.
pub const JOURNAL_BYTES_MIN: u64 = 32 << 20;

/// Bytes of a journal that are read at once.
pub const JOURNAL_READ_BYTES: usize = 4 << 20;

/// Rows of a frame of a snapshot at most.
pub const SNAPSHOT_ROWS_MAX: usize = 1024;

/// Text and binary bytes after which a frame of a snapshot takes no further row.
pub const SNAPSHOT_BYTES_MAX: usize = 4 << 20;

/// Bytes of changes of one table that wait to be taken by those who follow it.
pub const CHANGES_BYTES_MAX: u64 = 256 << 20;

/// Bytes of changes of one table that are read at once.
pub const CHANGES_READ_BYTES: usize = 1 << 20;

/// Rows one batch of a relational scan holds at most.
pub const SCAN_ROWS_MAX: usize = 4096;

/// Text and binary bytes after which a batch of a relational scan is handed over early.
pub const SCAN_BYTES_MAX: usize = 4 << 20;

/// Idle read connections that a relational table keeps open.
pub const READERS_IDLE_MAX: usize = 4;

/// How long SQLite waits for a lock that another process holds on the file.
pub const BUSY_WAIT: Duration = Duration::from_secs(5);
/// How long a query of a program over a table's file may take.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Prepared statements a connection keeps.
pub const STATEMENTS_CACHED_MAX: usize = 32;

/// Families that a wide table may have.
pub const WIDE_FAMILIES_MAX: usize = 4;

/// Families that a wide table may have had, those included that its file names no longer.
pub const WIDE_FAMILIES_EVER_MAX: usize = 16;

/// Versions of a cell that a family may keep.
pub const WIDE_VERSIONS_MAX: u32 = 10_000;

/// Bytes of wide tables that were read lately and are kept in memory, over all tables, where nobody says how many: one half for
/// rows, the other for blocks of files.
pub const WIDE_CACHE_BYTES: u64 = 128 << 20;

/// Bytes of a fragment that is kept apart from the others.
pub const WIDE_APART_BYTES: u32 = 512;

/// How often what was replaced in a wide table that is written to is looked for and given back.
pub const WIDE_RELEASE_EVERY: Duration = Duration::from_millis(100);

/// The priority of the thread that gives it back: the lowest one.
pub const WIDE_RELEASE_NICE: i32 = 19;

/// How long it is looked for after the last change.
pub const WIDE_RELEASE_WATCH: Duration = Duration::from_secs(60);

/// How often, after that, as long as something is left.
pub const WIDE_RELEASE_REST: Duration = Duration::from_secs(10);

/// The blocks of a file that was removed are given back in pieces of so many bytes.
pub const WIDE_REMOVED_BYTES: u64 = 4 << 20;

/// How long the disk serves others between two pieces.
pub const WIDE_REMOVED_EVERY: Duration = Duration::from_millis(10);

/// So many files that are about to be removed are held open for that.
pub const WIDE_REMOVED_FILES_MAX: usize = 256;

/// How often files of wide tables that grow are looked at, to hand what was appended to the disk.
pub const WIDE_WRITEBACK_EVERY: Duration = Duration::from_millis(10);

/// Pieces in which it is handed on.
pub const WIDE_WRITEBACK_BYTES: u64 = 256 << 10;

/// A file that has not grown for so long is complete.
pub const WIDE_WRITEBACK_WATCH: Duration = Duration::from_secs(1);

/// So many files are looked at; fjall's one thread makes few at a time.
pub const WIDE_WRITEBACK_FILES_MAX: usize = 64;

/// Fragments of a row that a scan reads one after the other, before it looks for those that can be seen.
pub const WIDE_SCAN_FRAGMENTS: usize = 64;

/// Bytes of a row that is kept in memory.
pub const WIDE_ROW_CACHED_BYTES_MAX: usize = 64 << 10;

/// Parts of the rows that are kept in memory, each with a lock of its own.
pub const WIDE_ROW_CACHE_SHARDS: usize = 64;

/// How long a start waits for another process that still has the wide tables open.
pub const WIDE_LOCK_WAIT: Duration = Duration::from_secs(20);

/// Bytes of a qualifier.
pub const WIDE_QUALIFIER_BYTES_MAX: usize = 1024;

/// Bytes of a row key. The store's own bound is 65,535 with what it adds.
pub const WIDE_KEY_BYTES_MAX: usize = 16 << 10;

/// How long a reader of a row waits for another one who reads it from the files already.
pub const WIDE_LOAD_WAIT: Duration = Duration::from_secs(1);

/// Rows of a wide table above which they are counted at most once in [`WIDE_COUNT_EVERY`].
pub const WIDE_COUNT_ROWS: u64 = 100_000;

/// Time between two counts of a large wide table.
pub const WIDE_COUNT_EVERY: Duration = Duration::from_secs(60);

/// Fragments written to a wide table after which dead ones are looked for; a table with more waits for as many as it has.
pub const WIDE_SWEEP_FRAGMENTS: u64 = 100_000;

/// Fragments that a sweep in the background looks at before it pauses.
pub const WIDE_SWEEP_SLICE: u64 = 1_024;

/// How many times as long as a slice of it took it pauses.
pub const WIDE_SWEEP_PAUSE: u32 = 5;

/// Fragments that a sweep removes by one commit.
pub const WIDE_SWEEP_COMMIT: usize = 256;

/// Rows that one call reads or changes by their keys.
pub const WIDE_CALL_ROWS_MAX: usize = 10_000;

/// Bytes of cells that one call answers with.
pub const WIDE_CALL_BYTES_MAX: usize = 16 << 20;

/// A large wide table is not counted again before this many times as long as counting it took has passed.
pub const WIDE_COUNT_PAUSE: u32 = 50;

/// Bytes of the name of a table that keeps cells in another system, with its namespace.
pub const WIDE_PLACE_BYTES_MAX: usize = 200;

/// How long the columns of a wide table are not asked for again, after the system that keeps its cells did not answer.
pub const WIDE_ASK_AGAIN: Duration = Duration::from_secs(5);

/// Rows that are asked for at a time by their keys, of a system that keeps cells.
pub const WIDE_FETCH_ROWS: usize = 256;

/// Bytes of the changes of one commit in a system that keeps cells.
pub const WIDE_REDO_BYTES_MAX: usize = 64 << 20;

/// Bytes of one piece of such changes.
pub const WIDE_REDO_CHUNK_BYTES: usize = 1 << 20;

/// How far the time of writing that a system keeps may be behind the latest one, in milliseconds.
pub const WIDE_CLOCK_MS: i64 = 1_000;

/// How often a change with a condition is tried, where other programs change the same row meanwhile.
pub const WIDE_TRIES_MAX: usize = 16;

const _: () = assert!(WIDE_FAMILIES_MAX <= WIDE_FAMILIES_EVER_MAX);
const _: () = assert!(HOT_CHUNK_ROWS.is_power_of_two());
const _: () = assert!(HOT_ROWS_MAX_DEFAULT <= HOT_ROWS_MAX);
