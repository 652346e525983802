//! Tables as the catalogue describes them.

use super::failure::CassandraDoing;
use super::frame::CqlConsistency;
use super::kind::CqlType;
use super::limits::COLUMNS_MAX;
use super::link::{CassandraLink, CqlFailed, quoted};

/// The catalogue is the same on all servers.
pub const CATALOGUE: CqlConsistency = 1;

/// A table.
#[derive(Clone, Debug)]
pub struct CassandraTable {
    pub keyspace: String,
    pub name: String,
    pub columns: Vec<CassandraColumn>,
}

/// A column of a table.
#[derive(Clone, Debug)]
pub struct CassandraColumn {
    pub name: String,
    /// Its type as CQL writes it.
    pub shown: String,
    /// None for one that has parts, such as a list.
    pub kind: Option<CqlType>,
    pub role: ColumnRole,
}

/// What a column is for. Those of the key stand first, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ColumnRole {
    /// One of those that say where a row is kept: its place among them.
    Partition(usize),
    /// One of those that tell rows of a partition apart: its place among them.
    Clustering(usize),
    /// Any other.
    Value,
}

impl CassandraTable {
    /// The table as it is now; none where there is no such table.
    ///
    /// # Errors
    /// As [`CassandraLink::ask`].
    pub async fn look(
        link: &mut CassandraLink,
        keyspace: &str,
        name: &str,
    ) -> Result<Option<CassandraTable>, CqlFailed> {
        let text = "SELECT column_name, type, kind, position FROM system_schema.columns WHERE keyspace_name = ? AND table_name = ?";
        let values = [keyspace.as_bytes(), name.as_bytes()];
        let rows = link.read(text, &values, CATALOGUE, COLUMNS_MAX).await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let mut columns = Vec::new();
        for row in rows {
            if let Ok([name, shown, role, place]) = <[String; 4]>::try_from(row) {
                columns.push(CassandraColumn {
                    kind: CqlType::of_name(&shown),
                    role: ColumnRole::of(&role, &place),
                    name,
                    shown,
                });
            }
        }
        columns.sort_by(|a, b| (a.role, &a.name).cmp(&(b.role, &b.name)));
        Ok(Some(CassandraTable {
            keyspace: keyspace.to_owned(),
            name: name.to_owned(),
            columns,
        }))
    }

    /// The table as CQL writes it.
    pub fn written(&self) -> String {
        format!("{}.{}", quoted(&self.keyspace), quoted(&self.name))
    }

    /// The columns of the key, in its order.
    pub fn key(&self) -> impl Iterator<Item = &CassandraColumn> {
        let columns = self.columns.iter();
        columns.take_while(|column| column.role != ColumnRole::Value)
    }
}

impl ColumnRole {
    /// The role that the catalogue names so.
    pub fn of(word: &str, place: &str) -> ColumnRole {
        let place = place.parse().unwrap_or(0);
        match word {
            "partition_key" => ColumnRole::Partition(place),
            "clustering" => ColumnRole::Clustering(place),
            _ => ColumnRole::Value,
        }
    }

    /// Whether it says where a row is kept.
    pub fn is_partition(self) -> bool {
        matches!(self, ColumnRole::Partition(_))
    }
}

/// What was being done when values were sent.
pub fn with_values(doing: CassandraDoing<'_>) -> CassandraDoing<'_> {
    CassandraDoing {
        values: true,
        ..doing
    }
}
