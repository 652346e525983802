//! Every bound of the MongoDB connector, units last.

use std::time::Duration;

/// Bytes of one message in the protocol, as servers limit it.
pub const MESSAGE_BYTES_MAX: usize = 48_000_000;
/// Bytes of a document that a server takes, unless it says otherwise.
pub const DOCUMENT_BYTES_MAX: usize = 16 << 20;
/// How deep documents may be nested, as servers limit it, and some for what is around them in an answer.
pub const DEPTH_MAX: usize = 120;
/// The socket's buffer grows in steps of this size.
pub const READ_BYTES: usize = 64 << 10;
/// Servers of one connection.
pub const ADDRESSES_MAX: usize = 16;
/// Servers that are asked for the primary of their set, those that were named by others among them.
pub const ASKED_SERVERS_MAX: usize = 64;
/// How long a connection may take to be opened.
pub const CONNECT_MAX: Duration = Duration::from_secs(15);
/// The longest timeout of a command that may be configured.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long closing a connection in good order may take.
pub const GOODBYE_MAX: Duration = Duration::from_secs(2);
/// Messages that proving who one is may take.
pub const SCRAM_STEPS_MAX: usize = 4;
/// Bytes of the rows of one command, unless one row has more.
pub const COMMAND_BYTES: usize = 8 << 20;
/// Rows of one command.
pub const COMMAND_ROWS: usize = 10_000;
/// Rows that may be refused by a transaction each, before the others are tried in small groups.
pub const REFUSED_FIRST: usize = 3;
/// Rows of such a group.
pub const PROBE_ROWS: usize = 64;
/// Names of rows that a connection may have.
pub const TABLES_MAX: usize = 256;
/// Keys that are looked up with one command.
pub const FIND_KEYS_MAX: usize = 1_000;
/// Documents that one answer has at first, and at most.
pub const BATCH_FIRST: i32 = 256;
pub const BATCH_MAX: i32 = 8_192;
/// Fields by which documents are sorted.
pub const SORT_FIELDS_MAX: usize = 8;
/// Documents that one page may have.
pub const PAGE_ROWS_MAX: usize = 10_000;
/// Bytes of the values that are kept with the position.
pub const NOTE_BYTES_MAX: usize = 8 << 10;
/// The shortest pause between two queries.
pub const EVERY_MIN: Duration = Duration::from_millis(100);
/// Collections that are shown.
pub const SURVEYED_MAX: usize = 1_000;
/// Documents of a collection that are looked at to tell its fields.
pub const SAMPLED_DOCUMENTS: i32 = 50;
/// Fields of a collection that are shown.
pub const SAMPLED_FIELDS_MAX: usize = 500;
/// Documents of the first chunk of a snapshot, and the most that one has.
pub const CHUNK_ROWS_FIRST: i32 = 512;
pub const CHUNK_ROWS: i32 = 8_192;
/// Bytes that a chunk should have, by those of the chunk before.
pub const CHUNK_BYTES: usize = 8 << 20;
/// Changes that are asked for at a time.
pub const CHANGES: i32 = 1_000;
/// How long the server waits for a change before it answers that there is none.
pub const AWAIT: Duration = Duration::from_millis(500);
/// Pause before the next look at a server that had nothing and was not asked to wait.
pub const IDLE: Duration = Duration::from_millis(20);
/// How often the place in the log is kept while nothing happens in the collections.
pub const KEEP_EVERY: Duration = Duration::from_secs(5);
