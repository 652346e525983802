//! Systems that keep the rows of hot tables.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use busbar_event::Error;
use busbar_log::Clock;
use busbar_table::{Found, HotPlace};

use super::{PoolUse, SqlRows};
use crate::{Sink, Work};

/// A hot table as the system that keeps its rows must know it.
#[derive(Clone)]
pub struct HotLayout {
    /// Where its rows are, and how long they stay.
    pub place: HotPlace,
    /// Its columns.
    pub schema: SchemaRef,
    /// The columns of its key.
    pub key: Vec<String>,
    /// By which rows become due.
    pub clock: Arc<dyn Clock>,
}

/// How many rows a hot table has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HotCount {
    /// Rows there are.
    pub rows: u64,
    /// Rows among them that the table they are to be moved to has rejected.
    pub rejected: u64,
    /// When the oldest row that waits to be moved was due, in microseconds since 1970; none if no row waits.
    pub due: Option<i64>,
}

/// A system that keeps the rows of hot tables. Any number of calls may be under way at a time.
///
/// Errors: *transient*, the system does not answer, or cannot do it now; *configuration*, somebody must change something
/// first; *permanent*, a value is no value of its column.
pub trait HotDatabase: Send + Sync {
    /// Checks that rows can be kept there without being lost behind the table's back; what was noted of the table, none if
    /// nothing was.
    ///
    /// # Errors
    /// See [`HotDatabase`].
    fn prepare<'a>(&'a self, place: &'a HotPlace) -> Work<'a, Result<Option<Vec<u8>>, Error>>;

    /// Notes something of the table, if what is noted is still `before`; whether it was.
    ///
    /// # Errors
    /// See [`HotDatabase`].
    fn note<'a>(
        &'a self,
        place: &'a HotPlace,
        before: Option<Vec<u8>>,
        note: Vec<u8>,
    ) -> Work<'a, Result<bool, Error>>;

    /// Lets the rows that there are stay until they are moved, or go by themselves, as [`HotPlace::moves`] says. Answers with the
    /// rows that wait to be moved, which stay in either case.
    ///
    /// # Errors
    /// See [`HotDatabase`].
    fn keep<'a>(&'a self, rows: &'a HotLayout) -> Work<'a, Result<u64, Error>>;

    /// A sink for rows with these columns, which keeps the positions of producers with the rows. `change`, if given, names the
    /// column that says `delete` for rows to delete. Rows keep their value in columns that they lack.
    ///
    /// # Errors
    /// See [`HotDatabase`].
    fn sink<'a>(
        &'a self,
        rows: &'a HotLayout,
        columns: SchemaRef,
        change: Option<&'a str>,
    ) -> Work<'a, Result<Box<dyn Sink>, Error>>;

    /// Finds rows by their keys, a column of keys for each column of the key, of its type.
    ///
    /// # Errors
    /// See [`HotDatabase`].
    fn find<'a>(
        &'a self,
        rows: &'a HotLayout,
        keys: &'a [ArrayRef],
        columns: &'a [usize],
    ) -> Work<'a, Result<Found, Error>>;

    /// All rows, in pieces, in no order, with these columns. A row that is written or deleted meanwhile may be there or not.
    ///
    /// # Errors
    /// See [`HotDatabase`].
    fn all<'a>(
        &'a self,
        rows: &'a HotLayout,
        columns: &'a [usize],
    ) -> Work<'a, Result<Box<dyn SqlRows + 'a>, Error>>;

    /// How many rows there are.
    ///
    /// # Errors
    /// See [`HotDatabase`].
    fn count<'a>(&'a self, rows: &'a HotLayout) -> Work<'a, Result<HotCount, Error>>;

    /// Rows that wait to be moved, as many as are moved at once; none if there are none.
    ///
    /// # Errors
    /// See [`HotDatabase`].
    fn due<'a>(
        &'a self,
        rows: &'a HotLayout,
    ) -> Work<'a, Result<Option<Box<dyn LeavingRows>>, Error>>;

    /// Rows that were rejected by the table they are to be moved to are due again.
    ///
    /// # Errors
    /// See [`HotDatabase`].
    fn try_again<'a>(&'a self, rows: &'a HotLayout) -> Work<'a, Result<(), Error>>;

    /// What is used of the pool of sessions.
    fn pool(&self) -> PoolUse;
}

/// Rows that wait to be moved, as they were read. Dropped, they stay.
pub trait LeavingRows: Send {
    /// The rows, at least one, with all columns.
    fn rows(&self) -> &RecordBatch;

    /// Removes the rows, but for those that were rejected, which wait no longer, and those that have been written since they were
    /// read; how many were removed.
    ///
    /// # Errors
    /// See [`HotDatabase`].
    fn leave(self: Box<Self>, is_rejected: Vec<bool>) -> Work<'static, Result<u64, Error>>;
}
