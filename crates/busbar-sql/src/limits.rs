//! Every bound of this crate, with its unit last.

use std::time::Duration;

/// Longest expression or query, in bytes.
pub const TEXT_BYTES_MAX: usize = 64 << 10;

/// Most operators in one text. They make trees as deep as they are many, and a deep tree needs
/// stack when it is compiled and each time it is evaluated.
pub const OPERATORS_MAX: usize = 256;

/// Deepest nesting of brackets and subqueries.
pub const NESTING_MAX: usize = 50;

/// Most `select`s in one text. Each may read from the one before, so that plans are as deep as they are many.
pub const SELECTS_MAX: usize = 100;

/// Most streams and tables one query may name.
pub const RELATIONS_MAX: usize = 32;

/// Most levels of a topic that `topic_part` looks at.
pub const TOPIC_PARTS_MAX: i64 = 128;

/// Longest path that `json_get` takes, in steps.
pub const JSON_PATH_STEPS_MAX: usize = 32;

/// Bytes of text that one call of a function may make, for all rows of a batch together.
pub const FUNCTION_RESULT_BYTES_MAX: u64 = 64 << 20;

/// Bytes of one value that a function makes.
pub const VALUE_BYTES_MAX: usize = 4 << 20;

/// Bytes of one value that a function makes of constants alone. Planning copies it, who knows how often.
pub const CONSTANT_BYTES_MAX: usize = 64 << 10;

/// Bytes of a function's result below which it is not taken out of a query's budget.
pub const FUNCTION_HELD_BYTES_MIN: usize = 4 << 10;

/// Rows for which patterns of their own are compiled between two looks at the clock.
pub const PATTERN_ROWS: usize = 16;

/// Bytes of the constants that one batch of a projection repeats.
pub const CONSTANTS_BATCH_BYTES_MAX: usize = 32 << 20;

/// Rows in one batch of a join's answer.
pub const JOIN_BATCH_ROWS: usize = 512;

/// Bytes of a row on either side of a join: so many rows of both sides are one batch.
pub const JOIN_ROW_BYTES_MAX: usize = 256 << 10;

/// Most columns of one `select`.
pub const COLUMNS_MAX: usize = 1024;

/// Most characters of a text that an error repeats.
pub const QUOTED_CHARS_MAX: usize = 80;

/// Most names that an error lists.
pub const NAMES_LISTED_MAX: usize = 24;

/// Rows of a query's answer unless the caller says otherwise.
pub const QUERY_ROWS_MAX_DEFAULT: usize = 10_000;

/// Memory of one query unless the node says otherwise, in bytes.
pub const QUERY_BYTES_MAX_DEFAULT: usize = 256 << 20;

/// Time of one query unless the node says otherwise.
pub const QUERY_TIME_MAX_DEFAULT: Duration = Duration::from_secs(30);

/// Time of one query that returns all its rows.
pub const EXPORT_TIME_MAX_DEFAULT: Duration = Duration::from_secs(3600);

/// Queries that run at the same time unless the node says otherwise.
pub const QUERIES_MAX_DEFAULT: usize = 8;

/// How long a query waits for its turn before it is told that the node is busy.
pub const QUERY_TURN_WAIT_MAX: Duration = Duration::from_secs(2);

/// Threads that run queries.
pub const QUERY_THREADS_MAX: usize = 2;

/// Batches a query may be ahead of whoever reads its answer.
pub const ANSWER_BATCHES_AHEAD_MAX: usize = 2;

/// Batches a scan may be ahead of the operators above it.
pub const SCAN_BATCHES_AHEAD_MAX: usize = 2;

/// Bytes of frames a stream scan reads at a time.
pub const SCAN_READ_BYTES_MAX: usize = 4 << 20;

/// Rows a batch has while a query works on it.
pub const BATCH_ROWS: usize = 8192;

/// Events a scan that begins at the end of a stream goes back at a time.
pub const SCAN_WINDOW_ROWS: u64 = 16_384;

/// Bytes of a query's answer unless the node says otherwise.
pub const ANSWER_BYTES_MAX_DEFAULT: usize = 64 << 20;

/// Stack of the threads that plan and run queries, in bytes: deep expressions need it.
pub const QUERY_STACK_BYTES: usize = 8 << 20;

/// Expressions of one `cube`, which makes a grouping set of each subset of them: 4096 sets.
pub const CUBE_EXPRESSIONS_MAX: usize = 12;
