//! What makes relational tables that are kept in databases: this crate knows no connection.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use busbar_event::Error;

use crate::Table;

/// Makes tables that are kept in databases.
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
}

/// Where a table of a database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabasePlace {
    /// The connection that writes go to.
    pub connection: String,
    /// The connection that reads go to, if it is another one.
    pub replica: Option<String>,
    /// The table, or its schema and the table.
    pub path: Vec<String>,
    /// Whether the table and its columns are made where they are missing.
    pub create: bool,
}
