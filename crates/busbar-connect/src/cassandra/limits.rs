//! Every bound of the Cassandra connector, units last.

use std::time::Duration;

/// The socket's buffer grows in steps of this size.
pub const READ_BYTES: usize = 64 << 10;
/// Bytes of one answer, such as a page of rows.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Bytes of the answers to requests that are sent together.
pub const ANSWERS_BYTES_MAX: usize = 128 << 20;
/// Columns of an answer.
pub const COLUMNS_MAX: usize = 4_096;
/// How deep types of an answer may be nested.
pub const DEPTH_MAX: usize = 16;
/// Bytes of the values of one row that is written: what a server takes in one request by default.
pub const ROW_BYTES_MAX: usize = 15 << 20;
/// Bytes of a value in the key.
pub const KEY_BYTES_MAX: usize = 65_535;
/// Requests of one connection that wait for their answers.
pub const IN_FLIGHT_MAX: usize = 256;
/// Bytes of requests that are waiting to be sent.
pub const OUT_BYTES: usize = 256 << 10;
/// Bytes of values in one batch: servers warn above 5 KiB and refuse above 50 KiB by default.
pub const BATCH_BYTES: usize = 4 << 10;
/// Rows in one batch.
pub const BATCH_ROWS: usize = 100;
/// Addresses of one connection.
pub const ADDRESSES_MAX: usize = 16;
/// How long a connection may take to be opened.
pub const CONNECT_MAX: Duration = Duration::from_secs(15);
/// The longest timeout of a request that may be configured.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// The longest time to live that the server takes: 20 years.
pub const TTL_MAX: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// How long closing a connection in good order may take.
pub const GOODBYE_MAX: Duration = Duration::from_secs(2);
/// The shortest pause between two runs of a statement.
pub const EVERY_MIN: Duration = Duration::from_millis(100);
/// Rows that are asked for at a time.
pub const PAGE_ROWS_MAX: usize = 100_000;
/// Rows that are asked for at a time by look-ups and queries.
pub const PAGE_ROWS: usize = 1_000;
/// Keys that are looked up at a time.
pub const FIND_KEYS: usize = 256;
/// Statements that a connection keeps prepared.
pub const PREPARED_MAX: usize = 256;
/// Rows of the catalogue that a survey reads: a row for each column.
pub const SURVEYED_COLUMNS_MAX: usize = 100_000;
