//! Every limit of this crate. The unit is the last part of a name.

use std::time::Duration;

/// Longest expression or query, in bytes.
pub const TEXT_BYTES_MAX: usize = 64 << 10;

/// Most operators in one text. A syntax tree can be as deep as it has operators, and a deep tree needs stack when it
/// is compiled and each time it is evaluated.
pub const OPERATORS_MAX: usize = 256;

/// Deepest nesting of brackets and subqueries.
pub const NESTING_MAX: usize = 50;

/// Most `select`s in one text. A plan can be as deep as it has selects.
pub const SELECTS_MAX: usize = 100;

/// Most streams and tables one query may name.
pub const RELATIONS_MAX: usize = 32;

/// Most levels of a topic that `topic_part` reads.
pub const TOPIC_PARTS_MAX: i64 = 128;

/// Most windows of a `hop` that one row is counted in.
pub const HOPS_MAX: i64 = 10_000;

/// Longest path that `json_get` takes, in steps.
pub const JSON_PATH_STEPS_MAX: usize = 32;

/// Size of the result of one call of a function, for all rows of a batch together, in bytes.
pub const FUNCTION_RESULT_BYTES_MAX: u64 = 64 << 20;

/// Size of one value that a function returns, in bytes.
pub const VALUE_BYTES_MAX: usize = 4 << 20;

/// Size of one value that a function returns for constants, in bytes. Planning copies it several times.
pub const CONSTANT_BYTES_MAX: usize = 64 << 10;

/// Size of a function's result up to which it is not charged to the query's budget, in bytes.
pub const FUNCTION_HELD_BYTES_MIN: usize = 4 << 10;

/// Rows with patterns of their own between two checks of the deadline.
pub const PATTERN_ROWS: usize = 16;

/// Size of the constants that one batch of a projection repeats, in bytes.
pub const CONSTANTS_BATCH_BYTES_MAX: usize = 32 << 20;

/// Rows in one batch of a join's result.
pub const JOIN_BATCH_ROWS: usize = 512;

/// Size of a row on either side of a join, in bytes.
pub const JOIN_ROW_BYTES_MAX: usize = 256 << 10;

/// Most columns of one `select`.
pub const COLUMNS_MAX: usize = 1024;

/// Most characters of a text that an error contains.
pub const QUOTED_CHARS_MAX: usize = 80;

/// Most names that an error lists.
pub const NAMES_LISTED_MAX: usize = 24;

/// Memory that a batch takes besides its columns, in bytes: what operators that gather batches do not count.
pub const BATCH_OVERHEAD_BYTES: usize = 256;

/// Memory that a column of a batch takes besides its values, in bytes.
pub const COLUMN_OVERHEAD_BYTES: usize = 128;

/// Default of [`BatchLimits::memory_bytes_max`](crate::BatchLimits::memory_bytes_max).
pub const BATCH_QUERY_BYTES_MAX_DEFAULT: usize = 64 << 20;

/// Default of [`BatchLimits::time_max`](crate::BatchLimits::time_max).
pub const BATCH_QUERY_TIME_MAX_DEFAULT: Duration = Duration::from_secs(10);

/// Default of [`QueryLimits::rows_max`](crate::QueryLimits::rows_max).
pub const QUERY_ROWS_MAX_DEFAULT: usize = 10_000;

/// Default of [`QueryLimits::memory_bytes_max`](crate::QueryLimits::memory_bytes_max).
pub const QUERY_BYTES_MAX_DEFAULT: usize = 256 << 20;

/// Default of [`QueryLimits::time_max`](crate::QueryLimits::time_max).
pub const QUERY_TIME_MAX_DEFAULT: Duration = Duration::from_secs(30);

/// Default of [`QueryLimits::export_time_max`](crate::QueryLimits::export_time_max).
pub const EXPORT_TIME_MAX_DEFAULT: Duration = Duration::from_secs(3600);

/// Default of [`QueryLimits::queries_max`](crate::QueryLimits::queries_max).
pub const QUERIES_MAX_DEFAULT: usize = 8;

/// Time that a query waits for its turn before it fails with `sql.busy`.
pub const QUERY_TURN_WAIT_MAX: Duration = Duration::from_secs(2);

/// Threads that run queries.
pub const QUERY_THREADS_MAX: usize = 2;

/// Batches of a result that wait for its reader.
pub const ANSWER_BATCHES_AHEAD_MAX: usize = 2;

/// Batches of a scan that wait for the operators above it.
pub const SCAN_BATCHES_AHEAD_MAX: usize = 2;

/// Size of the frames that a stream scan reads at a time, in bytes.
pub const SCAN_READ_BYTES_MAX: usize = 4 << 20;

/// Rows of a batch in a query.
pub const BATCH_ROWS: usize = 8192;

/// Bytes of payload that a stream scan decodes together.
pub const SCAN_DECODE_BYTES_MAX: usize = 8 << 20;

/// Events that a scan from the end of a stream reads at a time.
pub const SCAN_WINDOW_ROWS: u64 = 16_384;

/// Default of [`QueryLimits::answer_bytes_max`](crate::QueryLimits::answer_bytes_max).
pub const ANSWER_BYTES_MAX_DEFAULT: usize = 64 << 20;

/// Stack of the threads that plan and run queries, in bytes: deep expressions need it.
pub const QUERY_STACK_BYTES: usize = 8 << 20;

/// Expressions of one `cube`, which makes a grouping set of each subset of them: 4096 sets.
pub const CUBE_EXPRESSIONS_MAX: usize = 12;

/// Compiled XPaths that are kept.
pub(crate) const XPATHS_KEPT: usize = 256;

/// Memory of read XML documents that a thread keeps for the next call on the same column, in bytes.
pub(crate) const DOCUMENTS_KEPT_BYTES: usize = 8 << 20;
