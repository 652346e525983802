//! What plug-ins ask their node for.

use busbar_event::{Class, Error};
use serde::Deserialize;
use serde_json::value::RawValue;

/// PluginAnswers requests of plug-ins.
pub trait PluginHost: Send + Sync {
    /// The rows that a plug-in asks for, as a JSON array of objects. May block.
    ///
    /// # Errors
    /// Why there is no answer; the program sees it as an exception.
    fn rows(&self, request: &TableRequest<'_>) -> Result<String, Error>;
}

/// Rows of a table that a plug-in asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableRequest<'a> {
    /// The table's name.
    pub table: String,
    /// Values that columns must have, by name.
    #[serde(default, rename = "where")]
    pub conditions: serde_json::Map<String, serde_json::Value>,
    /// Rows at most.
    #[serde(default)]
    pub limit: Option<usize>,
    /// A query over a relational table in place of conditions.
    #[serde(default)]
    pub sql: Option<String>,
    /// Values for the `?` of the query, in order.
    #[serde(default, borrow)]
    pub parameters: Vec<&'a RawValue>,
}

/// Has no tables.
pub struct NoTables;

impl PluginHost for NoTables {
    fn rows(&self, request: &TableRequest<'_>) -> Result<String, Error> {
        let error = Error::new(Class::Permanent, "plugin.unknown-table");
        Err(error.with("table", &request.table))
    }
}
