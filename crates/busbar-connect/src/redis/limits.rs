//! Every bound of the Redis connector, units last.

use std::time::Duration;

/// The socket's buffer grows in steps of this size.
pub const READ_BYTES: usize = 64 << 10;
/// Bytes of one value from the server: the largest payload that an event may have.
pub const VALUE_BYTES_MAX: usize = busbar_event::limits::PAYLOAD_BYTES_MAX;
/// Bytes of the values of one answer.
pub const ANSWER_BYTES_MAX: usize = 2 * VALUE_BYTES_MAX;
/// Bytes of a line in the protocol, such as the text of an error.
pub const LINE_BYTES_MAX: usize = 64 << 10;
/// Elements of one list in an answer.
pub const LIST_MAX: usize = 1 << 24;
/// How deep lists in an answer may be nested.
pub const DEPTH_MAX: usize = 8;
/// How long a connection may take to be opened.
pub const CONNECT_MAX: Duration = Duration::from_secs(15);
/// The longest timeout of a command that may be configured.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long closing a connection in good order may take.
pub const GOODBYE_MAX: Duration = Duration::from_secs(2);
/// Entries that are asked for first; more with each answer that is small, fewer after a large one.
pub const ENTRIES_FIRST: u64 = 64;
/// Entries that are asked for at a time.
pub const ENTRIES_MAX: u64 = 8_192;
/// Bytes of an answer above which fewer entries are asked for.
pub const ENTRIES_BYTES: usize = 4 << 20;
/// How long the server waits for a new entry before it answers that there is none.
pub const BLOCK: Duration = Duration::from_secs(5);
/// Streams of one connection.
pub const STREAMS_MAX: usize = 256;
/// Keys that are looked at to list what is on the server.
pub const SURVEYED_KEYS_MAX: usize = 10_000;
/// Keys that are asked for at a time.
pub const SCAN_KEYS: usize = 1_000;
/// Rows that are looked up at a time.
pub const FIND_KEYS_MAX: usize = 1_000;
/// Keys that reading all rows of a name may come across: each is kept until the end, for the server may name it twice.
pub const SCANNED_KEYS_MAX: usize = 5_000_000;
/// Names of rows that a connection may have.
pub const TABLES_MAX: usize = 256;
/// Bits of a position for the number of an entry within its millisecond; the rest is for the millisecond.
pub const SEQUENCE_BITS: u32 = 22;
/// Rows of a hot table that are moved to another table at a time.
pub const DUE_ROWS_MAX: usize = 1_024;
/// Bytes of rows after which no further row is moved at a time.
pub const DUE_BYTES_MAX: usize = 4 << 20;
/// Keys that one command of an index names.
pub const INDEX_KEYS_MAX: usize = 1_000;
/// How long the keys of rows that have expired stay in the index of their table: the clocks of the node and the server may differ
/// by so much.
pub const INDEX_SLACK: Duration = Duration::from_secs(60);
