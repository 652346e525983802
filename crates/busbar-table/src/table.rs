use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::datatypes::{Schema, SchemaRef};
use busbar_event::{Class, Error};

use crate::ProducerPosition;

/// Kept rows. See the [crate's page](crate) for what engines promise.
pub trait Table: Debug + Send + Sync {
    /// The table's name: that of its file in the project.
    fn name(&self) -> &str;

    /// `hot`, `relational`, `wide` or `database`, for people.
    fn engine(&self) -> &'static str;

    /// What callers must know of the engine.
    fn capabilities(&self) -> Capabilities;

    /// Columns as they are now; [`Table::evolve`] may add some later. Empty until a table without
    /// declared columns meets its first flow.
    fn schema(&self) -> SchemaRef;

    /// Names of the key's columns; empty for a table that only grows.
    fn key(&self) -> &[String];

    /// The same table to be looked up by other columns, for a table that finds rows by any of its columns; none for one that
    /// finds them by its key alone.
    fn keyed_by(&self, _key: &[String]) -> Option<Arc<dyn Table>> {
        None
    }

    /// So many keys were answered from what a caller had kept, and not looked up: for counting.
    fn cached(&self, _keys: usize) {}

    /// Whether a scan with this condition answers with exactly the rows that fit it, so that the caller need not apply it again.
    fn follows(&self, _condition: &Condition) -> bool {
        false
    }

    /// What a scan sends to another system, for people; none for a table of this process.
    fn shown(&self, _scan: &Scan) -> Option<String> {
        None
    }

    /// The families by which columns named `family.qualifier` belong together; none for an engine without families.
    fn families(&self) -> Vec<String> {
        Vec::new()
    }

    /// Add the columns of `schema` that are missing, as nullable ones. A column that is already
    /// there with another type is refused, and so is any new one if the table's file declares its
    /// columns.
    fn evolve(&self, schema: &Schema) -> Result<(), Error>;

    /// What [`Table::evolve`] would say, without doing it: for checking a flow before it is deployed.
    fn check(&self, schema: &Schema) -> Result<(), Error>;

    /// Put and delete rows, all or nothing, in the order of the batch. Blocks until the rows are as
    /// safe as the engine makes them.
    ///
    /// Columns that the batch does not have keep their value in a row that exists and are null in a
    /// new one. Rows that cannot be kept (a null in the key, a value out of range or too large) are
    /// named in [`Applied::rejected`] and their neighbours are written. The same rows are named when
    /// a write turns out to be a duplicate, so that a crash between writing and dead-lettering
    /// loses none.
    fn write(&self, write: &Write<'_>) -> Result<Applied, Error>;

    /// Whether [`Table::write_newer`] compares rows.
    fn compares(&self) -> bool {
        false
    }

    /// As [`Table::write`], but a row takes the place of one that is there only if it is newer, and deletes it only if that is
    /// not newer than the deleted row. Rows that give way are counted in [`Applied::conflicts`]; one without a value of the
    /// column is rejected.
    ///
    /// # Errors
    /// `table.no-newer` for a table that does not compare rows, `table.newer-column`; as of [`Table::write`].
    fn write_newer(&self, _write: &Write<'_>, _newer: &Newer) -> Result<Applied, Error> {
        Err(Error::new(Class::Configuration, "table.no-newer").with("table", self.name()))
    }

    /// The changes of the table, where its file says that they are kept.
    fn changes(&self) -> Option<&dyn ChangeLog> {
        None
    }

    /// Read rows. The answer is one consistent picture of the table at the time of this call.
    fn scan(&self, scan: &Scan) -> Result<Rows, Error>;

    /// Find rows by their keys, each key once. The answer is one consistent picture of the table at the time of this call.
    ///
    /// # Errors
    /// `table.lookup-keys` when the keys are not those of the table; what the disk says.
    fn lookup(&self, lookup: &Lookup<'_>) -> Result<Found, Error>;

    /// What the table can say of the past.
    fn looks_back(&self) -> LooksBack {
        LooksBack::No
    }

    /// How many versions are kept of the values of a column, by its place in [`Table::schema`].
    fn versions(&self, _column: usize) -> u32 {
        1
    }

    /// As [`Table::lookup`], but each key as of a time, in microseconds since 1970: see [`LooksBack`] for what is found, and
    /// by which keys. Only what the table still keeps is found. `times` are as many as the keys.
    ///
    /// # Errors
    /// `table.no-past` for a table that cannot look back; as of [`Table::lookup`].
    fn lookup_as_of(&self, _lookup: &Lookup<'_>, _times: &[i64]) -> Result<Found, Error> {
        Err(Error::new(Class::Configuration, "table.no-past").with("table", self.name()))
    }

    /// At most `limit` rows of a query over the file of a relational table, as a JSON array of objects; `?` in the query stand
    /// for the parameters, in order. The query is in the language of the file's engine. Blocks.
    ///
    /// # Errors
    /// `table.no-queries` for a table without a file of rows; what is wrong with the query.
    fn query(
        &self,
        _sql: &str,
        _parameters: &[serde_json::Value],
        _limit: usize,
    ) -> Result<String, Error> {
        Err(Error::new(Class::Permanent, "table.no-queries").with("table", self.name()))
    }

    /// Rows there are now, expired ones not counted.
    fn rows(&self) -> Result<u64, Error>;

    /// The last position written by `producer`, if any.
    fn position(&self, producer: &str) -> Result<Option<u64>, Error>;

    /// Counters for people.
    fn stats(&self) -> Result<Stats, Error>;

    /// Shorthand for a [`Table::write`] that only puts rows.
    fn apply(
        &self,
        batch: &RecordBatch,
        position: Option<&ProducerPosition>,
    ) -> Result<Applied, Error> {
        self.write(&Write {
            rows: batch,
            deletes: None,
            position,
        })
    }
}

/// Which of two rows of one key stays: the one with the greater value of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newer {
    /// A column that grows with each change of a row: a time, a number or a text.
    pub column: Arc<str>,
    /// A row with an equal value takes the place of the one that is there, too.
    pub or_equal: bool,
}

/// The changes of a table for one reader.
///
/// Positions count rows: that of a row is greater than those of all rows before it. A change is kept by the same commit that
/// makes it, until [`ChangeLog::forget`]. Rows that leave a hot table when their time to live is over, when they make room or
/// when they move to another table are no changes.
pub trait ChangeLog: Send + Sync {
    /// What tells one log of the table from another one: it is another number where the file of the table was replaced, or
    /// changes were not kept for a while. Nothing as long as no changes can be kept.
    ///
    /// # Errors
    /// What the disk says.
    fn identity(&self) -> Result<Option<u64>, Error>;

    /// The position behind the last change.
    ///
    /// # Errors
    /// What the disk says.
    fn end(&self) -> Result<u64, Error>;

    /// The rows of the table, and the position behind the last change that made them.
    ///
    /// # Errors
    /// What the disk says.
    fn picture(&self) -> Result<(u64, Rows), Error>;

    /// Changes behind a position: at least one unless there is none, and no more after `bytes_max`.
    ///
    /// # Errors
    /// `table.changes-gap` (*configuration*) where changes behind the position were not kept; what the disk says.
    fn read(&self, behind: u64, bytes_max: usize) -> Result<ReadChanges, Error>;

    /// Begins another log, behind the last change; its identity.
    ///
    /// # Errors
    /// What the disk says.
    fn renew(&self) -> Result<u64, Error>;

    /// Changes up to this position are not needed any more.
    ///
    /// # Errors
    /// What the disk says.
    fn forget(&self, until: u64) -> Result<(), Error>;
}

/// What [`ChangeLog::read`] found.
#[derive(Debug, Default)]
pub struct ReadChanges {
    /// The changes, in order.
    pub changes: Vec<TableChange>,
    /// The position behind what was read, which may be behind the last change.
    pub until: u64,
}

/// The rows that one write has put and deleted.
#[derive(Clone, Debug)]
pub struct TableChange {
    /// The position before the first row. That of a row is this, its place and one more.
    pub begin: u64,
    /// The producer that wrote them, if the write named one.
    pub producer: Option<Arc<str>>,
    /// When they were written, in microseconds since 1970.
    pub time: i64,
    /// The rows with all columns of the table. A deleted row is as it was before.
    pub rows: RecordBatch,
    /// True for a row that was deleted.
    pub deletes: Option<BooleanArray>,
}

/// What callers must know of a table's engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// What was written is there after a restart, with the positions of producers.
    pub is_durable: bool,
    /// Calls may wait for the disk: on an async thread they are to be handed to one that may block.
    pub waits_for_disk: bool,
    /// [`Table::lookup`] may wait for the disk: it is to be called on a thread that may block, and its answers are worth
    /// keeping for a while.
    pub lookup_waits: bool,
    /// Other programs can hold writers up for long, so that a writer wants a cursor of its own.
    pub can_be_held_up: bool,
}

/// What a table can say of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LooksBack {
    /// Nothing: it has what was written last.
    No,
    /// Cells have times. Keys are whole. A key has, in each column, the newest version that is kept and is not later than the
    /// time asked for; there is no row if none of the columns asked for has one. A deletion takes the past with it.
    Versions,
    /// The last column of its key is a time. Keys are without it: each has the row with the latest such time that is not later
    /// than the time asked for.
    LastKeyColumn,
}

/// Rows to put and to delete.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The rows, in order. A row that is deleted needs only its key's columns.
    pub rows: &'a RecordBatch,
    /// True for a row whose key is to be deleted. Needs a table with a key.
    pub deletes: Option<&'a BooleanArray>,
    /// What the write stands for; none if it need not be recognised when it comes again.
    pub position: Option<&'a ProducerPosition>,
}

impl Write<'_> {
    /// The position that is recognised and kept, if one is.
    pub(crate) fn kept_position(&self) -> Option<&ProducerPosition> {
        self.position.filter(|at| !at.is_part)
    }
}

/// What a [`Write`] did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Rows put, those included that a later row of the same batch replaced.
    pub put: usize,
    /// Rows put that a later row of the same batch put again, under the same key.
    pub overwritten: usize,
    /// Rows of the batch that asked for a deletion, whether or not there was such a row.
    pub deleted: usize,
    /// The position was already there: nothing was written.
    pub duplicate: bool,
    /// Rows that cannot be kept, in the order of the batch.
    pub rejected: Vec<Rejected>,
    /// Rows that gave way to a newer one that is there.
    pub conflicts: usize,
}

/// The places in a batch of the rows that were not rejected.
pub(crate) fn remaining(rows: usize, rejected: &[Rejected]) -> Vec<usize> {
    let mut rejected = rejected.iter().map(|rejected| rejected.row).peekable();
    (0..rows)
        .filter(|row| rejected.next_if_eq(row).is_none())
        .collect()
}

/// A row that cannot be kept.
#[derive(Debug)]
pub struct Rejected {
    /// Its place in the batch.
    pub row: usize,
    /// Why.
    pub cause: Error,
}

/// What to read.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Columns by their place in [`Table::schema`]; none for all.
    pub projection: Option<Vec<usize>>,
    /// Conditions that an engine *may* use to read less. The caller applies them again.
    pub conditions: Vec<Condition>,
    /// Stop after at least this many rows that fit the conditions the engine uses. A limit together
    /// with conditions is only followed by an engine that uses all of them.
    pub limit: Option<usize>,
}

/// Keys whose rows are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    /// The columns of the key, in the order of [`Table::key`], of the types that [`Table::schema`] has, and all of the same
    /// length. A key with a null in it is never found.
    pub keys: &'a [ArrayRef],
    /// Columns to read, by their place in [`Table::schema`].
    pub columns: &'a [usize],
}

/// What a [`Lookup`] found.
#[derive(Debug)]
pub struct Found {
    /// The rows that there are, with the columns asked for.
    pub rows: RecordBatch,
    /// For each key the place of its row in `rows`; null for a key that the table does not have.
    pub places: UInt32Array,
}

/// `column <compare> constant`.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The column's place in [`Table::schema`].
    pub column: usize,
    /// How to compare.
    pub compare: Compare,
    /// With what.
    pub constant: Constant,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// `=`
    Equal,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// A constant of a [`Condition`].
#[derive(Clone, Debug, PartialEq)]
pub enum Constant {
    /// For columns of truth values.
    Bool(bool),
    /// For columns of whole numbers.
    Int(i64),
    /// For columns of numbers.
    Float(f64),
    /// For columns of text.
    Text(String),
    /// For columns of times: microseconds since 1970.
    Time(i64),
}

/// Counters of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Rows there are.
    pub rows: u64,
    /// Bytes they take: memory for a hot table, the file for a relational one.
    pub bytes: u64,
    /// Rows put since the start.
    pub put: u64,
    /// Rows deleted since the start.
    pub deleted: u64,
    /// Rows whose time to live was over, since the start.
    pub expired: u64,
    /// Rows that made room for others, since the start.
    pub evicted: u64,
    /// Rows rejected since the start.
    pub rejected: u64,
    /// Writes that were recognised as duplicates since the start.
    pub duplicates: u64,
    /// Rows moved to another table since the start.
    pub moved: u64,
    /// Rows that the other table has rejected. They stay in this one until they are written again or deleted.
    pub move_rejected: u64,
    /// How long the oldest row that is to be moved has waited beyond its time to live, in microseconds.
    pub move_lag_us: u64,
}

/// Rows being read: record batches, one at a time. Dropping it ends the reading.
pub struct Rows {
    schema: SchemaRef,
    batches: Box<dyn Iterator<Item = Result<RecordBatch, Error>> + Send>,
}

impl Rows {
    /// Rows of `schema`, the projected one.
    pub fn new(
        schema: SchemaRef,
        batches: impl Iterator<Item = Result<RecordBatch, Error>> + Send + 'static,
    ) -> Self {
        Self {
            schema,
            batches: Box::new(batches),
        }
    }

    /// The schema of the batches.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

impl Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows")
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

impl Iterator for Rows {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batches.next()
    }
}
