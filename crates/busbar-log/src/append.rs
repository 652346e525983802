//! An append: what is handed in, what comes back, and the rules it has to keep.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{LogError, Result};
use crate::frame::{Companion, FIXED_BYTES, aligned};
use crate::limits::{BODY_BYTES_MAX, PRODUCER_ID_BYTES_MAX, PRODUCERS_PER_FRAME_MAX};

/// Called on the commit thread, in order, when an append has been committed or has failed.
pub type Done = Box<dyn FnOnce(Result<Appended>) + Send>;

/// The one bit of [`Append::attributes`] that means something to the log: the producers' positions
/// are recorded, but do not decide whether the rows have been written before. For rows of many
/// senders in one frame, where the position of one must not take away the rows of another.
pub const RECORDS_ONLY: u16 = 1 << 15;

/// Some rows to append at once.
pub struct Append {
    /// The rows, opaque. Best aligned at 64 bytes, so that those who read it from the cache decode
    /// it as cheaply as those who read it from disk.
    pub body: Bytes,
    /// Number of rows; at least 1.
    pub count: u32,
    /// Smallest time of the rows, microseconds.
    pub min_time: i64,
    /// Largest time of the rows.
    pub max_time: i64,
    /// Producers with rows here and the position each has reached. An append whose producers
    /// all have reached their positions before is acknowledged as a duplicate and not written.
    pub producers: Vec<(Arc<str>, u64)>,
    /// The appender's own bits; but see [`RECORDS_ONLY`].
    pub attributes: u16,
    /// What the body decodes to, for live readers.
    pub companion: Option<Companion>,
    /// Called when it is committed, or has failed.
    pub done: Option<Done>,
}

/// Where an append landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first row (of a duplicate: the end of the partition at that moment).
    pub base: u64,
    /// Rows written; 0 for a duplicate.
    pub count: u32,
    /// Whether it had been written before.
    pub duplicate: bool,
}

/// Why an append breaks a rule, if it does.
pub(crate) fn check(append: &Append) -> Option<LogError> {
    let refused = |why| Some(LogError::Refused { why });
    if append.count == 0 {
        return refused("it has no rows");
    }
    if append.body.len() > BODY_BYTES_MAX {
        return refused("its body is too large");
    }
    if append.producers.len() > PRODUCERS_PER_FRAME_MAX {
        return refused("it has too many producers");
    }
    let bad = |id: &Arc<str>| id.is_empty() || id.len() > PRODUCER_ID_BYTES_MAX;
    if append.producers.iter().any(|(id, _)| bad(id)) {
        return refused("a producer's name is empty or too long");
    }
    None
}

/// Bytes an append takes on the disk, roughly.
pub(crate) fn cost(append: &Append) -> usize {
    aligned(append.body.len()) + FIXED_BYTES + append.producers.len() * 32
}
