//! What is on the other side: the server's version, and the tables with their columns.

use busbar_connector::Survey;
use busbar_event::Error;

use super::limits::SURVEYED_COLUMNS_MAX;
use super::link::{CassandraLink, CassandraServer};
use super::table::{CATALOGUE, ColumnRole};

/// Looks at a server, and at the tables where they are asked for.
///
/// # Errors
/// As [`CassandraServer::open`]; *configuration* where there are too many columns to list.
pub async fn survey(server: &CassandraServer, tables: bool) -> Result<Survey, Error> {
    let mut link = server.open().await?;
    let surveyed = look(&mut link, tables).await;
    let surveyed =
        surveyed.map_err(|failed| failed.told(server.doing(&link, "\"system_schema\"", "SELECT")));
    link.close().await;
    surveyed
}

async fn look(link: &mut CassandraLink, tables: bool) -> Result<Survey, super::link::CqlFailed> {
    let version = "SELECT release_version FROM system.local";
    let version = link.read(version, &[], CATALOGUE, 1).await?;
    let version = version.into_iter().flatten().next().unwrap_or_default();
    let name = format!("Cassandra {version}");
    let mut columns = match tables {
        true => {
            let text = "SELECT keyspace_name, table_name, column_name, type, kind, position FROM system_schema.columns";
            link.read(text, &[], CATALOGUE, SURVEYED_COLUMNS_MAX)
                .await?
        }
        false => Vec::new(),
    };
    columns.retain(|row| !is_of_system(&row[0]));
    columns.sort_by_cached_key(|row| {
        let role = ColumnRole::of(&row[4], &row[5]);
        (row[0].clone(), row[1].clone(), role, row[2].clone())
    });
    let rows = columns.iter().map(|row| {
        let is_key = ColumnRole::of(&row[4], &row[5]) != ColumnRole::Value;
        let key = if is_key { "1" } else { "" };
        [&row[0], &row[1], "", &row[2], &row[3], key, ""]
    });
    Ok(Survey::from_rows(name, rows))
}

/// Whether a keyspace is the server's own.
fn is_of_system(keyspace: &str) -> bool {
    keyspace == "system" || keyspace.starts_with("system_")
}
