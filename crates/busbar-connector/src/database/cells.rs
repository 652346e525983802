//! Cells of wide tables in a system that a connection leads to.

use std::sync::Arc;

use busbar_event::Error;
use busbar_table::wide::{
    CellFamily, CellGuard, CellMutation, CellRead, CellRow, CellRows, CellStore,
};
use parking_lot::RwLock;

use super::open::{AskedDatabase, pieces};
use super::{Databases, PoolUse};
use crate::Work;

/// A system that keeps cells. Any number of calls may be under way at a time. What each call does, and its errors, are those of
/// [`CellStore`].
pub trait CellDatabase: Send + Sync {
    /// See [`CellStore::prepare`].
    fn prepare<'a>(
        &'a self,
        table: &'a str,
        families: &'a [CellFamily],
        create: bool,
    ) -> Work<'a, Result<(), Error>>;

    /// See [`CellStore::get`].
    fn get<'a>(
        &'a self,
        table: &'a str,
        keys: Vec<Vec<u8>>,
        read: &'a CellRead,
    ) -> Work<'a, Result<Vec<CellRow>, Error>>;

    /// See [`CellStore::scan`].
    fn scan<'a>(
        &'a self,
        table: &'a str,
        from: Vec<u8>,
        to: Vec<u8>,
        read: &'a CellRead,
    ) -> Work<'a, Result<Box<dyn CellScanner + 'a>, Error>>;

    /// See [`CellStore::change`].
    fn change<'a>(&'a self, table: &'a str, rows: Vec<CellMutation>)
    -> Work<'a, Result<(), Error>>;

    /// See [`CellStore::change_if`].
    fn change_if<'a>(
        &'a self,
        table: &'a str,
        guard: CellGuard,
        row: CellMutation,
    ) -> Work<'a, Result<bool, Error>>;

    /// What is used of the pool of sessions.
    fn pool(&self) -> PoolUse;
}

/// The rows of a [`CellDatabase::scan`]. Dropping it ends the reading.
pub trait CellScanner: Send {
    /// The next rows; none once all have come.
    ///
    /// # Errors
    /// As [`CellStore::get`].
    fn next(&mut self) -> Work<'_, Result<Option<Vec<CellRow>>, Error>>;
}

/// The cells that a table keeps by a connection, which is looked for when they are used.
pub(super) struct AskedCells {
    pub databases: Databases,
    /// The table of this node, for errors.
    pub table: String,
    pub connection: String,
    /// Where tables were prepared last. All calls go there, so that those of one commit do not go to two systems when the
    /// connection changes meanwhile; [`CellStore::is_same`] then says so before the next one.
    pub prepared: RwLock<Option<Arc<AskedDatabase>>>,
}

impl AskedCells {
    fn open(&self) -> Result<Arc<AskedDatabase>, Error> {
        self.databases.of_table(&self.table, &self.connection)
    }

    /// Where tables were prepared.
    fn prepared(&self) -> Result<Arc<AskedDatabase>, Error> {
        let prepared = self.prepared.read().clone();
        prepared.map_or_else(|| self.open(), Ok)
    }
}

impl CellStore for AskedCells {
    fn prepare(&self, table: &str, families: &[CellFamily], create: bool) -> Result<(), Error> {
        let open = self.open()?;
        let (asked, table, families) = (Arc::clone(&open), table.to_owned(), families.to_vec());
        open.wait(async move {
            let cells = asked.cells().await?;
            cells.prepare(&table, &families, create).await
        })?;
        *self.prepared.write() = Some(open);
        Ok(())
    }

    fn is_same(&self) -> bool {
        let prepared = self.prepared.read();
        let now = self.databases.get(&self.connection);
        matches!((&*prepared, now), (Some(before), Some(now)) if Arc::ptr_eq(before, &now))
    }

    fn get(&self, table: &str, keys: Vec<Vec<u8>>, read: CellRead) -> Result<Vec<CellRow>, Error> {
        let open = self.prepared()?;
        let (asked, table) = (Arc::clone(&open), table.to_owned());
        open.wait(async move {
            let cells = asked.cells().await?;
            cells.get(&table, keys, &read).await
        })
    }

    fn scan(
        &self,
        table: &str,
        from: Vec<u8>,
        to: Vec<u8>,
        read: CellRead,
    ) -> Result<CellRows, Error> {
        let open = self.prepared()?;
        let (asked, table) = (Arc::clone(&open), table.to_owned());
        Ok(Box::new(pieces(&open, move |sender| async move {
            let cells = asked.cells().await?;
            let mut rows = cells.scan(&table, from, to, &read).await?;
            while let Some(some) = rows.next().await? {
                if sender.send(Ok(Some(some))).await.is_err() {
                    break;
                }
            }
            Ok(())
        })))
    }

    fn change(&self, table: &str, rows: Vec<CellMutation>) -> Result<(), Error> {
        let open = self.prepared()?;
        let (asked, table) = (Arc::clone(&open), table.to_owned());
        open.wait(async move {
            let cells = asked.cells().await?;
            cells.change(&table, rows).await
        })
    }

    fn change_if(&self, table: &str, guard: CellGuard, row: CellMutation) -> Result<bool, Error> {
        let open = self.prepared()?;
        let (asked, table) = (Arc::clone(&open), table.to_owned());
        open.wait(async move {
            let cells = asked.cells().await?;
            cells.change_if(&table, guard, row).await
        })
    }
}
