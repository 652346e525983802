//! Every bound of the ClickHouse connector, units last.

use std::time::Duration;

/// Bytes of an answer that is read as a whole, a page of rows, and of one row of an answer that is read as it comes.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;
/// The shortest pause between two runs of a statement.
pub const EVERY_MIN: Duration = Duration::from_millis(100);
/// Bytes of a statement that servers take without being told its length (`max_query_size` is 262,144 unless it is set).
pub const PLAIN_STATEMENT_BYTES: usize = 200_000;
/// Rows that are asked for at a time.
pub const PAGE_ROWS_MAX: usize = 100_000;
/// Inserts that a table is to remember, in the statement that makes it remember them.
pub const WINDOW_INSERTS: usize = 1000;
