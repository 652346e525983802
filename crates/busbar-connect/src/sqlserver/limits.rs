//! Every bound of the SQL Server connector, units last.

use std::time::Duration;

/// Bytes of a packet before the server has said how large they are.
pub const PACKET_BYTES: usize = 4_096;
/// The most bytes that a packet has in the protocol.
pub const PACKET_BYTES_MAX: usize = 32_767;
/// Bytes of one row, or of another token, that are taken from the server.
pub const TOKEN_BYTES_MAX: usize = 256 << 20;
/// Bytes of an answer that is held as a whole.
pub const ANSWER_BYTES_MAX: usize = 256 << 20;
/// The socket's buffer grows in steps of this size.
pub const READ_BYTES: usize = 32 << 10;
/// Bytes of one statement with several rows, unless one row has more.
pub const STATEMENT_BYTES: usize = 256 << 10;
/// Rows of one list of values: more are refused by the server.
pub const STATEMENT_ROWS: usize = 500;
/// Bytes of one statement that keeps refused rows.
pub const REFUSALS_BYTES: usize = 64 << 10;
/// How long a connection may take to be opened.
pub const CONNECT_MAX: Duration = Duration::from_secs(15);
/// How long closing a connection in good order may take.
pub const GOODBYE_MAX: Duration = Duration::from_secs(2);
/// Characters of the name of a producer.
pub const PRODUCER_CHARS_MAX: usize = 255;
/// Rows of the first chunk of a snapshot, and the most that one has.
pub const CHUNK_ROWS_FIRST: usize = 1_024;
pub const CHUNK_ROWS: usize = 8_192;
/// Bytes that a chunk or a page should have, by those of the one before.
pub const CHUNK_BYTES: usize = 8 << 20;
/// Bytes at which a chunk ends although more rows were asked for.
pub const CHUNK_BYTES_MAX: usize = 4 * CHUNK_BYTES;
/// The most rows of a page of changes of one table.
pub const CHANGE_ROWS: usize = 1_024;
/// Bytes at which reading changes ends although more rows were asked for.
pub const CHANGE_BYTES_MAX: usize = 4 * CHUNK_BYTES;
/// Transactions that one look at the changes takes.
pub const LOOK_TRANSACTIONS: usize = 4_096;
/// Versions that one look at tracked changes takes.
pub const LOOK_VERSIONS: u64 = 65_536;
/// Tables that one change source follows; each look has a statement for each of them.
pub const TABLES_MAX: usize = 500;
/// How often the source looks at how far the server is.
pub const STATUS_EVERY: Duration = Duration::from_secs(5);
/// The first pause after a look that found nothing; it doubles up to `every`.
pub const IDLE_FIRST: Duration = Duration::from_millis(20);
/// The shortest time between two runs of a statement.
pub const EVERY_MIN: Duration = Duration::from_millis(100);
/// The longest pause between looks that may be configured.
pub const EVERY_MAX: Duration = Duration::from_secs(3600);
/// Rows that are read at a time where a table is read in the order of its key.
pub const PAGE_ROWS: usize = 5_000;
/// Rows within the overlap of a query.
pub const OVERLAP_ROWS_MAX: usize = 1_000_000;
