//! What is on the other side: the database's version, and its tables.

use std::sync::Arc;

use busbar_connector::Survey;
use busbar_event::Error;
use serde_json::json;

use super::limits::SURVEY_TABLES_MAX;
use super::session::DriverSession;
use super::worker::DriverWorker;

/// Looks at the database, and at its tables where they are asked for.
///
/// # Errors
/// As [`DriverSession::open`].
pub async fn survey(worker: &Arc<DriverWorker>, tables: bool) -> Result<Survey, Error> {
    let mut session = DriverSession::open(worker).await?;
    let server = session.about.server.clone();
    if !tables {
        return Ok(Survey {
            server,
            tables: Vec::new(),
        });
    }
    let request = json!({ "do": "tables", "most": SURVEY_TABLES_MAX });
    let answer = session.ask(request.to_string().as_bytes()).await;
    let answer = answer.map_err(|failed| session.told(failed, "", ""))?;
    let rows: Vec<[String; 5]> = session.read(&answer)?;
    let rows = rows.iter();
    let rows = rows.map(|[schema, table, column, kind, key]| {
        // How many rows a table has is not said by metadata, and what refuses null not by all drivers.
        [
            schema.as_str(),
            table.as_str(),
            "",
            column.as_str(),
            kind.as_str(),
            key.as_str(),
            "",
        ]
    });
    Ok(Survey::from_rows(server, rows))
}
