//! Databases that answer SQL.
//!
//! A connector implements [`SqlDatabase`]: it describes a table and runs a statement. Made of that, for every such connector:
//!
//! | use | made by |
//! | --- | --- |
//! | a `join` with a table of the database, and its tables in SQL | [`RemoteTable`] |
//! | a relational table that is kept in the database | [`KeptTable`], over [`Connector::sink`](crate::Connector::sink) |
//! | a `call` of a statement | [`SqlForm`](crate::SqlForm) and [`SqlService`](crate::SqlService) |
//! | sessions that are used again, and their number | [`SessionPool`] |
//! | rows that come as texts | [`TextColumns`] |
//!
//! A connector to a store that knows no SQL implements [`KeyedStore`] instead: its rows are found by their keys alone. One to a
//! system of families, qualifiers and versions implements [`CellDatabase`]: wide tables can be kept there. One to a system that
//! keeps rows in memory implements [`HotDatabase`]: hot tables can be kept there.

mod cells;
mod columns;
mod effect;
mod hot;
mod kept;
mod kept_columns;
mod kept_hot;
mod kept_query;
mod kept_write;
mod keyed;
mod open;
mod pool;
mod statement;
mod table;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use busbar_event::Error;
pub use busbar_table::ColumnType;

use crate::Work;

pub use cells::{CellDatabase, CellScanner};
pub use columns::TextColumns;
pub use effect::SessionEffect;
pub use hot::{HotCount, HotDatabase, HotLayout, LeavingRows};
pub use kept::KeptTable;
pub use keyed::{KeyedLayout, KeyedStore};
pub use open::{AskedDatabase, DatabaseStatus, Databases};
pub use pool::{PoolUse, Pooled, SessionPool};
pub use statement::{SqlPart, SqlStatement, SqlValue};
pub use table::RemoteTable;

/// A database that answers SQL. Any number of statements may be under way at a time, each on a session of its own.
pub trait SqlDatabase: Send + Sync {
    /// A name as the database's SQL writes it: `"patient"`.
    fn quoted(&self, name: &str) -> String;

    /// The columns of a table or a view; none if there is no such table. The path is what a project writes behind the
    /// connection's name: the table, or the schema and the table.
    ///
    /// # Errors
    /// As [`SqlDatabase::run`].
    fn describe<'a>(&'a self, path: &'a [String]) -> Work<'a, Result<Option<SqlTable>, Error>>;

    /// Runs a statement; its rows come in pieces. Waits no longer than the connection says. May be dropped at any time.
    ///
    /// # Errors
    /// *Transient*: the database does not answer, or cannot do it now. *Permanent*: it refuses the values. *Configuration*:
    /// somebody must change something first, such as a table that is not there.
    fn run<'a>(&'a self, statement: &'a SqlStatement) -> Work<'a, Result<Box<dyn SqlRows>, Error>>;

    /// Finds the rows that have these values in columns of a table, with other columns of it, in the place of
    /// [`SqlDatabase::run`]: for a database whose statements find the rows of one key each. None for any other.
    fn find<'a>(
        &'a self,
        table: &'a SqlTable,
        key: &'a [usize],
        values: &'a [Vec<SqlValue>],
        columns: &'a [usize],
    ) -> Option<Work<'a, Result<Vec<RecordBatch>, Error>>> {
        let _ = (table, key, values, columns);
        None
    }

    /// What ends a statement so that it answers with at most so many rows.
    fn limited(&self, rows: usize) -> String {
        format!(" LIMIT {rows}")
    }

    /// The type of a column that is made for values of this kind, in a key or not; none where no tables are made.
    fn made_for(&self, kind: ColumnType, key: bool) -> Option<String> {
        let _ = (kind, key);
        None
    }

    /// What is used of the pool of sessions.
    fn pool(&self) -> PoolUse;
}

/// The rows of a statement. Dropping it ends the statement.
pub trait SqlRows: Send {
    /// The next rows; none once all have come. They have the columns of [`SqlStatement::columns`], or those that the database
    /// names where there are none.
    ///
    /// # Errors
    /// As [`SqlDatabase::run`]; *permanent* for a value that its column's type cannot hold.
    fn next(&mut self) -> Work<'_, Result<Option<RecordBatch>, Error>>;

    /// Rows that the statement changed; known once all rows have come. None for a statement that answers with rows.
    fn affected(&self) -> Option<u64> {
        None
    }
}

/// A table or a view of a database.
#[derive(Clone, Debug)]
pub struct SqlTable {
    /// The schema or database, and its name, as the database has them.
    pub path: Vec<String>,
    /// Its columns, in order.
    pub columns: Vec<SqlColumn>,
}

impl SqlTable {
    /// The columns as Busbar sees them.
    pub fn schema(&self) -> SchemaRef {
        let fields = self.columns.iter();
        let fields = fields.map(|column| column.kind.field(&column.name));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }
}

/// What holds numbers of so many digits, of them `scale` behind the point, without loss: whole numbers where 64 bits hold
/// all of them, floating-point numbers up to the 15 digits that they keep, and texts beyond.
pub fn number_kind(precision: i32, scale: i32) -> ColumnType {
    match (precision, scale) {
        (1..=18, 0) => ColumnType::Int,
        (1..=15, 0..) => ColumnType::Float,
        _ => ColumnType::Text,
    }
}

/// A column of such a table.
#[derive(Clone, Debug)]
pub struct SqlColumn {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: ColumnType,
    /// The type that values compared with it are given in SQL; none for the one that the database takes by itself.
    pub bound: Option<String>,
    /// Which comparisons the database may make in Busbar's place.
    pub compares: SqlCompares,
}

/// Which comparisons of a column with a constant the database makes as Busbar does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SqlCompares {
    /// None.
    Never,
    /// `=` finds what Busbar finds, and perhaps more: other cases, blanks at the end.
    AtLeastEqual,
    /// `=` is the same; the order may be another.
    Equal,
    /// All are the same.
    All,
}
