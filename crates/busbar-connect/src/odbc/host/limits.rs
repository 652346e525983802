//! Every bound of the worker with the ODBC drivers, units last.

use crate::driver::limits::{FRAME_BYTES_MAX, PAGE_CHARS};

/// Bytes of one request.
pub const REQUEST_BYTES_MAX: usize = 256 << 20;
/// Bytes of one value that is read.
pub const VALUE_BYTES_MAX: usize = 16 << 20;
/// Bytes of one row as JSON before its last value.
pub const ROW_BYTES_MAX: usize = 64 << 20;
/// Bytes of one piece of a long value.
pub const PIECE_BYTES: usize = 64 << 10;
/// Bytes of a column's value that is bound to a buffer; longer ones are read in pieces.
pub const BOUND_BYTES_MAX: usize = 8 << 10;
/// Bytes of all buffers of a rowset.
pub const ROWSET_BYTES_MAX: usize = 2 << 20;
/// Bytes of all buffers of an array of parameters; one row may have more.
pub const ARRAY_BYTES_MAX: usize = 4 << 20;
/// Rows of an array of parameters.
pub const ARRAY_ROWS_MAX: usize = 1_000;
/// Records of diagnostics that are looked at.
pub const DIAGNOSTICS_MAX: i16 = 8;
/// Characters of a name.
pub const NAME_CHARS_MAX: usize = 1_024;
/// Columns of an answer.
pub const COLUMNS_MAX: usize = 4_096;
/// Rows of an answer of the catalogue's functions.
pub const CATALOG_ROWS_MAX: usize = 200_000;
/// Bytes of a thread's stack.
pub const STACK_BYTES: usize = 2 << 20;
/// Memory of the program itself, beside that of drivers.
pub const OWN_BYTES: u64 = 128 << 20;
/// How long sessions may take to end in good order, in milliseconds.
pub const END_MILLIS: u64 = 5_000;

// A page ends behind the row with which it is full. Two bytes of a value become six of JSON at most.
const _: () = assert!(PAGE_CHARS + ROW_BYTES_MAX + 3 * VALUE_BYTES_MAX < FRAME_BYTES_MAX);
