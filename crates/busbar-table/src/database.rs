//! What makes tables that are kept in other systems: this crate knows no connection.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use busbar_event::Error;
use busbar_log::Clock;

use crate::spec::{DatabasePlace, HotPlace};
use crate::wide::CellStore;
use crate::{HotElsewhere, Table};

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

    /// A hot table whose rows another system keeps, with the declared columns, none if they are those of its flows. The system
    /// is asked when the table is first used.
    fn hot(
        &self,
        name: &str,
        place: &HotPlace,
        declared: &SchemaRef,
        key: &[String],
        clock: Arc<dyn Clock>,
    ) -> Arc<dyn HotElsewhere>;

    /// What keeps the cells of a wide table, by the name of its connection. It is asked when it is first used.
    fn cells(&self, table: &str, connection: &str) -> Arc<dyn CellStore>;
}
