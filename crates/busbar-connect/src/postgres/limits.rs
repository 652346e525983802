//! Every bound of the PostgreSQL connector, units last.

use std::time::Duration;

/// The socket's buffer grows in steps of this size.
pub const READ_BYTES: usize = 64 << 10;
/// Bytes of rows that are collected before they are sent to the server.
pub const WRITE_BYTES: usize = 256 << 10;
/// How long a connection may take to be opened.
pub const CONNECT_MAX: Duration = Duration::from_secs(15);
/// How long closing a connection in good order may take.
pub const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// Rows of one chunk of a snapshot.
pub const CHUNK_ROWS: usize = 8_192;
/// Bytes of one chunk of a snapshot, beyond which it ends before it has all its rows.
pub const CHUNK_BYTES: usize = 8 << 20;
/// Rows that the server is asked for at a time.
pub const FETCH_ROWS: u32 = 1_024;
/// How long the server may take to count the rows of a table at the end of its snapshot.
pub const COUNT_MAX: Duration = Duration::from_secs(15 * 60);
/// Tables that one change source follows.
pub const TABLES_MAX: usize = 10_000;
/// How often the server is told how far the source has come, and asked how far it is itself.
pub const STATUS_EVERY: Duration = Duration::from_secs(5);
/// Pause before the next look at a server that has sent nothing.
pub const IDLE: Duration = Duration::from_millis(20);
/// How long a poll waits for the server before it answers that nothing came.
pub const POLL_MAX: Duration = Duration::from_millis(500);
/// How long the server may send nothing, not even an answer to a request for one.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long a poll waits for the server while a chunk waits for the stream to pass it.
pub const WINDOW_POLL: Duration = Duration::from_millis(20);
/// The shortest interval of a query source.
pub const QUERY_EVERY_MIN: Duration = Duration::from_millis(100);
/// Rows of one run of a query source with an overlap, by which those that come again are recognised.
pub const OVERLAP_ROWS_MAX: usize = 1_000_000;
/// Transactions of tables that are still being read that are remembered until a chunk has seen them. Only as many as there are
/// sessions can be in the log and not yet to be seen.
pub const PASSED_MAX: usize = 16_384;
/// Bytes of one statement with several refused rows, unless one row has more.
pub const STATEMENT_BYTES: usize = 512 << 10;
