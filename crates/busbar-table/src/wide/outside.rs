//! What another system must do to keep the cells of wide tables: this crate knows no connection.

use std::sync::Arc;
use std::time::Duration;

use busbar_event::Error;

/// Keeps cells in another system. A row is atomic by itself; nothing else is. Calls block.
pub trait CellStore: Send + Sync {
    /// Sees to it that a table has these families, with their versions and times to live. It may have others.
    ///
    /// # Errors
    /// *Configuration*: the table or a family is missing and may not be made. *Transient*: the system does not answer.
    fn prepare(&self, table: &str, families: &[CellFamily], create: bool) -> Result<(), Error>;

    /// Whether it leads to the same system as when a table was prepared last. If not, all tables are prepared again.
    fn is_same(&self) -> bool;

    /// Rows by their keys: one for each key, in that order, without cells if there is no such row.
    ///
    /// # Errors
    /// *Transient*: the system does not answer, or cannot do it now. *Configuration*: somebody must change something first.
    fn get(&self, table: &str, keys: Vec<Vec<u8>>, read: CellRead) -> Result<Vec<CellRow>, Error>;

    /// Rows in the order of their keys, from the first key on and up to the second one; to the end if that is empty.
    ///
    /// # Errors
    /// As [`CellStore::get`].
    fn scan(
        &self,
        table: &str,
        from: Vec<u8>,
        to: Vec<u8>,
        read: CellRead,
    ) -> Result<CellRows, Error>;

    /// Changes rows; all of them are changed when it returns. Every change has its time, so that doing it again does no harm.
    ///
    /// # Errors
    /// As [`CellStore::get`]; then some of the rows may be changed. *Permanent*: the system refuses the values.
    fn change(&self, table: &str, rows: Vec<CellMutation>) -> Result<(), Error>;

    /// Changes a row if a cell of it holds what is expected; whether it did.
    ///
    /// # Errors
    /// As [`CellStore::change`].
    fn change_if(&self, table: &str, guard: CellGuard, row: CellMutation) -> Result<bool, Error>;
}

/// Rows of a [`CellStore::scan`], in pieces.
pub type CellRows = Box<dyn Iterator<Item = Result<Vec<CellRow>, Error>> + Send>;

/// How the cells of a family are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellFamily {
    /// Its name.
    pub name: Arc<str>,
    /// Versions of a cell that are kept, the newest ones.
    pub versions: u32,
    /// How long a cell is kept after its time; for ever if not given.
    pub ttl: Option<Duration>,
}

/// Which cells are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellRead {
    /// Of which families.
    pub families: Vec<FamilyRead>,
    /// Versions of a cell at most, the newest ones.
    pub versions: u32,
}

/// Which cells of a family are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyRead {
    /// The family.
    pub name: Arc<str>,
    /// These qualifiers; all cells of the family if not given.
    pub qualifiers: Option<Vec<Box<[u8]>>>,
}

/// A row of another system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CellRow {
    /// Its key.
    pub key: Vec<u8>,
    /// Its cells, in no order.
    pub cells: Vec<CellBytes>,
}

/// A cell of another system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellBytes {
    /// Its family.
    pub family: Arc<str>,
    /// Its qualifier, which may be empty.
    pub qualifier: Vec<u8>,
    /// Milliseconds since 1970, not negative.
    pub time_ms: i64,
    /// What it holds.
    pub value: Vec<u8>,
}

/// Changes of one row, made together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CellMutation {
    /// Its key.
    pub key: Vec<u8>,
    /// Families whose cells are deleted, each up to a time in milliseconds since 1970.
    pub deleted: Vec<(Arc<str>, i64)>,
    /// Cells that are put. None has the time of a deletion of its family, or an earlier one, unless that is to hide it.
    pub cells: Vec<CellBytes>,
}

/// What the newest version of a cell must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellGuard {
    /// Its family.
    pub family: Arc<str>,
    /// Its qualifier.
    pub qualifier: Vec<u8>,
    /// Its value; none if there must be no such cell.
    pub value: Option<Vec<u8>>,
}
