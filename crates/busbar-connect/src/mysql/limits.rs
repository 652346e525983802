//! Every bound of the MySQL connector, units last.

use std::time::Duration;

/// The socket's buffer grows in steps of this size.
pub const READ_BYTES: usize = 64 << 10;
/// Bytes of one statement with several rows, unless one row has more.
pub const STATEMENT_BYTES: usize = 512 << 10;
/// How long a connection may take to be opened.
pub const CONNECT_MAX: Duration = Duration::from_secs(15);
/// How long closing a connection in good order may take.
pub const GOODBYE_MAX: Duration = Duration::from_secs(2);
/// Characters of the name of a producer.
pub const PRODUCER_CHARS_MAX: usize = 255;
/// Rows of the first chunk of a snapshot, and the most that one has.
pub const CHUNK_ROWS_FIRST: usize = 1_024;
pub const CHUNK_ROWS: usize = 8_192;
/// Bytes that a chunk should have, by those of the chunk before.
pub const CHUNK_BYTES: usize = 8 << 20;
/// Transactions that are remembered until a chunk has seen them. Only as many as there are sessions can be in the log and not
/// yet to be seen.
pub const PASSED_MAX: usize = 4_096;
/// How long a chunk waits for the transaction of a row to be over before the stream goes on and it is tried again.
pub const LOCK_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long the server may take to count the rows of a table at the end of its snapshot.
pub const COUNT_MAX: Duration = Duration::from_secs(15 * 60);
/// Tables that one change source follows.
pub const TABLES_MAX: usize = 10_000;
/// Descriptions of tables in the log that are remembered.
pub const MAPS_MAX: usize = 4_096;
/// How often the source looks at how far the server is.
pub const STATUS_EVERY: Duration = Duration::from_secs(5);
/// Pause before the next look at a server that has sent nothing.
pub const IDLE: Duration = Duration::from_millis(20);
/// How long a poll waits for the server before it answers that nothing came.
pub const POLL_MAX: Duration = Duration::from_millis(500);
/// How long the server may send nothing, not even a sign of life.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Rows that are read at a time where a table is read in the order of its key.
pub const PAGE_ROWS: usize = 5_000;
