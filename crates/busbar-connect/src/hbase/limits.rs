//! Every bound of the HBase connector, units last.

use std::time::Duration;

/// The socket's buffer grows in steps of this size.
pub const READ_BYTES: usize = 64 << 10;
/// Bytes of one answer of the server: more than a row of `busbar_state` has, which holds up to 64 MiB of changes.
pub const ANSWER_BYTES_MAX: usize = 80 << 20;
/// How deep an answer may be nested: tables, families, attributes.
pub const DEPTH_MAX: usize = 32;
/// How long a connection may take to be opened.
pub const CONNECT_MAX: Duration = Duration::from_secs(15);
/// The longest timeout of a call that may be configured.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long a session may have rested before it is asked whether it is still open.
pub const REST_MAX: Duration = Duration::from_secs(5);
/// Rows that are changed by one call.
pub const CHANGE_ROWS_MAX: usize = 4_096;
/// Bytes of a call that every framed server takes: 2 MB unless it is told otherwise.
pub const FRAME_BYTES: usize = 2 << 20;
/// Bytes of changes that one call makes, where they are not those of one row.
pub const CHANGE_BYTES: usize = 1 << 20;
/// Rows that a scan asks for first; more with each answer that is small, fewer after a large one.
pub const SCAN_ROWS_FIRST: usize = 256;
/// Rows that a scan asks for at a time.
pub const SCAN_ROWS_MAX: usize = 16_384;
/// Bytes of an answer to a scan above which fewer rows are asked for.
pub const SCAN_BYTES: usize = 1 << 20;
/// Tables that are listed.
pub const SURVEYED_TABLES_MAX: usize = 10_000;

const _: () = assert!(CHANGE_BYTES * 3 / 2 < FRAME_BYTES);
