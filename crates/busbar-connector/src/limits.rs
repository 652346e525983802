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
/// Keys that one statement of a look-up asks for.
pub const LOOKUP_KEYS_MAX: usize = 1_000;
/// Bytes of rows that are read from a database at a time, about.
pub const ROWS_BYTES: usize = 1 << 20;
/// Rows that are read from a database at a time.
pub const ROWS_MAX: usize = 8_192;
/// Rows of the first piece that is read, before it is known how large they are.
pub const ROWS_FIRST: usize = 256;
/// Pieces of rows that are read before they are asked for.
pub const ROWS_AHEAD_MAX: usize = 1;
/// Rows that one `call` of a statement takes.
pub const CALL_ROWS_MAX: usize = 10_000;
/// Bytes of rows that one `call` of a statement takes.
pub const CALL_BYTES_MAX: usize = 16 << 20;
/// Sessions of a pool, unless the connection says otherwise.
pub const POOL_SESSIONS: u16 = 8;
/// The most sessions that a pool may have.
pub const POOL_SESSIONS_MAX: u16 = 64;
/// How long a session may be unused before it is closed instead of used again.
pub const POOL_IDLE_MAX: Duration = Duration::from_secs(300);
/// Sinks that a table in a database keeps open, each for rows with other columns.
pub const TABLE_SINKS_MAX: usize = 4;
/// Producers whose positions a table in a database remembers.
pub const TABLE_POSITIONS_MAX: usize = 1_024;
/// How long the columns of a table are not asked for again, after its database did not answer.
pub const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Threads that talk to databases.
pub const DATABASE_THREADS: usize = 1;
/// How often the columns of a hot table are noted in the system that keeps its rows, where other nodes note theirs meanwhile.
pub const NOTE_TRIES_MAX: usize = 8;
