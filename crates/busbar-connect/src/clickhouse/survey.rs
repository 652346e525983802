//! What is on the other side: the server's version, and the tables of the database with their columns.

use busbar_connector::{Survey, SurveyedColumn, SurveyedTable};
use busbar_event::Error;
use serde::Deserialize;

use super::link::ClickHouseLink;

/// Looks at the server, and at the tables where they are asked for.
///
/// # Errors
/// *Transient* without an answer, *configuration* where the server refuses.
pub async fn survey(link: &ClickHouseLink, tables: bool) -> Result<Survey, Error> {
    #[derive(Deserialize)]
    struct VersionRow {
        version: String,
    }
    #[derive(Deserialize)]
    struct CountRow {
        name: String,
        rows: Option<u64>,
    }
    #[derive(Deserialize)]
    struct ColumnRow {
        table: String,
        name: String,
        r#type: String,
        key: u8,
    }
    let version: Vec<VersionRow> = link.rows("SELECT version() AS version", &[]).await?;
    let version = version.first().map_or("", |row| &row.version);
    let mut survey = Survey {
        server: format!("ClickHouse {version}"),
        tables: Vec::new(),
    };
    if !tables {
        return Ok(survey);
    }
    let statement = "SELECT name, total_rows AS rows FROM system.tables WHERE database = currentDatabase() ORDER BY name";
    let counts: Vec<CountRow> = link.rows(statement, &[]).await?;
    let statement = "SELECT table, name, type, is_in_primary_key AS key FROM system.columns WHERE database = currentDatabase() ORDER BY table, position";
    let columns: Vec<ColumnRow> = link.rows(statement, &[]).await?;
    survey.tables = counts
        .into_iter()
        .map(|CountRow { name, rows }| SurveyedTable {
            schema: String::new(),
            rows,
            columns: columns
                .iter()
                .filter(|column| column.table == name)
                .map(|column| SurveyedColumn {
                    name: column.name.clone(),
                    kind: column.r#type.clone(),
                    key: column.key != 0,
                    required: false,
                })
                .collect(),
            name,
        })
        .collect();
    Ok(survey)
}
