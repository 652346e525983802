//! Every bound of this crate, units last.

use std::time::Duration;

/// The first pause before a failed write is tried again.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest pause between two tries.
pub const BACKOFF_LAST: Duration = Duration::from_secs(30);
