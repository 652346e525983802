//! Every bound of connectors with drivers in a worker, units last.

use std::time::Duration;

/// The version of the protocol between node and worker.
pub const PROTOCOL_VERSION: u32 = 1;
/// Bytes of one frame from a worker, which may hold a whole page of rows.
pub const FRAME_BYTES_MAX: usize = 128 << 20;
/// Bytes that are read from a worker at a time.
pub const READ_BYTES: usize = 256 << 10;
/// Memory of a worker for its objects, where the connection does not say.
pub const MEMORY_BYTES: u64 = 256 << 20;
/// Memory that a worker has at least.
pub const MEMORY_BYTES_MIN: u64 = 64 << 20;
/// Memory that a worker has at most.
pub const MEMORY_BYTES_MAX: u64 = 64 << 30;
/// Connections to the database, where the connection's file does not say.
pub const SESSIONS: usize = 8;
/// Connections to the database at most.
pub const SESSIONS_MAX: usize = 256;
/// How long a compiler may take.
pub const COMPILE_MAX: Duration = Duration::from_secs(300);
/// How long a worker may take to start.
pub const START_MAX: Duration = Duration::from_secs(120);
/// How long a worker may take beyond the time of a statement before it is killed.
pub const GRACE: Duration = Duration::from_secs(15);
/// How often a worker is asked whether it is still there.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);
/// How long a worker may send nothing, not even an answer to that.
pub const SILENCE_MAX: Duration = Duration::from_secs(120);
/// How long a worker may take to end in good order.
pub const STOP_MAX: Duration = Duration::from_secs(10);
/// How long a worker has to live for the next one to be started without a pause.
pub const STABLE_AFTER: Duration = Duration::from_secs(60);
/// Bytes of one line that a worker writes to its log.
pub const LOG_LINE_BYTES_MAX: usize = 4096;
/// Characters of what a driver says of a failure: workers cut off the rest.
pub const SAID_CHARS_MAX: usize = 1_000;
/// The longest timeout of a statement that may be configured.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// Rows of one page that a worker sends.
pub const PAGE_ROWS: usize = 8_192;
/// Characters of one page, beyond which it ends before it has all its rows.
pub const PAGE_CHARS: usize = 4 << 20;
/// Rows that a driver is told to fetch at a time.
pub const FETCH_ROWS: usize = 1_024;
/// The shortest interval between two runs of a statement.
pub const EVERY_MIN: Duration = Duration::from_millis(100);
/// Rows of an overlap by which those that come again are recognised.
pub const OVERLAP_ROWS_MAX: usize = 100_000;
/// Tables that one source polls.
pub const TABLES_MAX: usize = 1_000;
/// Columns of a key.
pub const KEY_COLUMNS_MAX: usize = 16;
/// Tables that are shown of a database.
pub const SURVEY_TABLES_MAX: usize = 10_000;
/// Driver jars of one connection.
pub const DRIVERS_MAX: usize = 100;
/// Characters of the name of a producer.
pub const PRODUCER_CHARS_MAX: usize = 255;
