//! Every bound of this crate, units last.

use std::time::Duration;

/// The first pause before a failed write is tried again.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest pause between two tries.
pub const BACKOFF_LAST: Duration = Duration::from_secs(30);
/// Failures of a service in a row with which its circuit opens.
pub const BREAKER_FAILURES_MAX: u32 = 5;
/// How long a circuit is open the first time; twice as long after each trial that fails.
pub const BREAKER_PAUSE_FIRST: Duration = Duration::from_secs(1);
/// The longest time that a circuit is open before the next trial.
pub const BREAKER_PAUSE_LAST: Duration = Duration::from_secs(30);
