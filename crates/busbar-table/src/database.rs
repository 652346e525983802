//! What makes tables that are kept in other systems: this crate knows no connection.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use busbar_event::Error;

use crate::Table;
use crate::spec::DatabasePlace;
use crate::wide::CellStore;

/// Makes tables that are kept in databases, and leads to what keeps cells.
pub trait DatabaseTables: Send + Sync {
    /// A table with the declared columns, none if they are those of its flows. The database is asked when the table is first
    /// used, so that a node starts while its database is down.
    ///
    /// # Errors
    /// What cannot be used, whatever the database says.
    fn open(
        &self,
        name: &str,
        place: &DatabasePlace,
        declared: &SchemaRef,
        key: &[String],
    ) -> Result<Arc<dyn Table>, Error>;

    /// What keeps the cells of a wide table, by the name of its connection. It is asked when it is first used.
    fn cells(&self, table: &str, connection: &str) -> Arc<dyn CellStore>;
}
