//! Every bound of the S3 connector, units last.

/// Bytes of one answer: a piece of an object, or a list of a thousand objects.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Bytes of an object that are read at a time. A line has fewer.
pub const PIECE_BYTES: usize = 4 << 20;
/// Compressed bytes that are decompressed at a time: gzip makes up to about a thousand times as many of them.
pub const GZIP_FED_BYTES: usize = 4 << 10;
/// Objects that are listed at a time, as the service limits it.
pub const LISTED_MAX: usize = 1_000;
/// Objects that a sink tries to create one after the other while the service says that each is there: one for each process that
/// begins at the same time, and far more.
pub const CREATE_TRIES_MAX: usize = 200;
/// Bytes of an object's key, as the service limits it.
pub const KEY_BYTES_MAX: usize = 1_024;
/// Digits of a position in a key: those of the largest one, so that keys are in the order of positions.
pub const POSITION_DIGITS: usize = 20;
/// Digits of the number of a try in a key.
pub const ATTEMPT_DIGITS: usize = 10;
