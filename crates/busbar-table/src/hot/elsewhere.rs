//! What all hot tables have in common, wherever their rows are: this crate knows no connection.

use arrow::array::RecordBatch;
use busbar_event::Error;

use crate::Table;

/// A hot table whose rows may be moved to another table when their time to live is over.
pub trait HotTable: Table {
    /// Rows that are to be moved now, as many as are moved at once; none if there are none. Blocks.
    ///
    /// # Errors
    /// *Transient*: the system that keeps the rows does not answer. *Configuration*: somebody must change something first.
    fn due(&self) -> Result<Option<Box<dyn DueBatch + '_>>, Error>;
}

/// Rows that are to be moved to another table. Dropped, they stay where they are.
pub trait DueBatch {
    /// The rows, at least one, with all columns of their table.
    fn rows(&self) -> &RecordBatch;

    /// Removes the rows, which the other table has, but for those that were written since they were read. A row that the other
    /// table has rejected, of which `is_rejected` says true, stays until it is written again or tried again.
    ///
    /// # Errors
    /// As [`HotTable::due`]. Rows may then still be there, and are due again.
    fn leave(self: Box<Self>, is_rejected: &[bool]) -> Result<(), Error>;
}

/// A hot table whose rows another system keeps.
pub trait HotElsewhere: HotTable {
    /// Whether there are rows that wait to be moved to another table. Blocks.
    ///
    /// # Errors
    /// As [`HotTable::due`].
    fn has_waiting(&self) -> Result<bool, Error>;

    /// Rows that the other table has rejected are due again.
    fn try_rejected_again(&self);
}
