//! Bounds of the connector `table`.

use std::time::Duration;

/// Tables of one connection.
pub(super) const TABLES_MAX: usize = 64;

/// Shortest time between two looks at a table by its version.
pub(super) const EVERY_MIN: Duration = Duration::from_millis(100);

/// How often changes are looked for where there were none.
pub(super) const FOLLOW_EVERY: Duration = Duration::from_millis(20);

/// Bytes of events after which a batch is handed on.
pub(super) const BATCH_BYTES: usize = 1 << 20;

/// Rows after which a batch is handed on.
pub(super) const BATCH_ROWS: usize = 4096;

/// Bytes of rows that are written as events at a time.
pub(super) const WRITTEN_BYTES: usize = 16 << 20;

/// Batches of all tables that wait to be taken.
pub(super) const WAITING_BATCHES: usize = 2;

/// How long a source rests where nothing has come.
pub(super) const REST: Duration = Duration::from_secs(1);

/// Rows with the highest version that are remembered, so that they do not come again.
pub(super) const TIES_MAX: usize = 100_000;

/// Bytes of changes that are read at a time.
pub(super) const READ_BYTES: usize = 1 << 20;
