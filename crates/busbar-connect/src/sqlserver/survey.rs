//! What is on the other side: the server's version, and its tables.

use busbar_connector::Survey;
use busbar_event::Error;

use super::failure::MssqlFailed;
use super::link::MssqlServer;
use super::target::shown;

/// Looks at the server, and at its tables where they are asked for.
///
/// # Errors
/// As [`MssqlServer::open`].
pub async fn survey(server: &MssqlServer, tables: bool) -> Result<Survey, Error> {
    let told = |failed: MssqlFailed| failed.told(server.doing("", ""));
    let mut link = server.open().await?;
    let name = format!("SQL Server {}", link.version);
    if !tables {
        link.close().await;
        return Ok(Survey::from_rows(name, std::iter::empty()));
    }
    let columns = "SELECT c.TABLE_SCHEMA, c.TABLE_NAME, c.COLUMN_NAME, c.DATA_TYPE, c.CHARACTER_MAXIMUM_LENGTH, \
         c.NUMERIC_PRECISION, c.NUMERIC_SCALE, c.DATETIME_PRECISION \
         FROM INFORMATION_SCHEMA.COLUMNS c JOIN INFORMATION_SCHEMA.TABLES t ON t.TABLE_SCHEMA = c.TABLE_SCHEMA \
         AND t.TABLE_NAME = c.TABLE_NAME WHERE t.TABLE_TYPE = 'BASE TABLE' AND c.TABLE_SCHEMA <> 'cdc' \
         ORDER BY c.TABLE_SCHEMA, c.TABLE_NAME, c.ORDINAL_POSITION";
    let keys = "SELECT k.TABLE_SCHEMA, k.TABLE_NAME, k.COLUMN_NAME FROM INFORMATION_SCHEMA.TABLE_CONSTRAINTS c \
         JOIN INFORMATION_SCHEMA.KEY_COLUMN_USAGE k ON k.CONSTRAINT_NAME = c.CONSTRAINT_NAME \
         AND k.TABLE_SCHEMA = c.TABLE_SCHEMA AND k.TABLE_NAME = c.TABLE_NAME WHERE c.CONSTRAINT_TYPE = 'PRIMARY KEY'";
    let counts = "SELECT s.name, t.name, SUM(p.rows) FROM sys.tables t JOIN sys.schemas s ON s.schema_id = t.schema_id \
         JOIN sys.partitions p ON p.object_id = t.object_id WHERE p.index_id IN (0, 1) GROUP BY s.name, t.name";
    let mut answers = Vec::with_capacity(3);
    for sql in [columns, keys, counts] {
        answers.push(
            link.run(sql)
                .await
                .map_err(told)?
                .into_iter()
                .next()
                .unwrap_or_default(),
        );
    }
    link.close().await;
    let [columns, keys, counts] = &answers[..] else {
        return Ok(Survey::from_rows(name, std::iter::empty()));
    };
    let key: std::collections::HashSet<_> = (0..keys.rows.len())
        .map(|row| [0, 1, 2].map(|column| keys.text(row, column).unwrap_or_default()))
        .collect();
    let count: std::collections::HashMap<_, _> = (0..counts.rows.len())
        .map(|row| {
            let text = |column| counts.text(row, column).unwrap_or_default();
            ([text(0), text(1)], text(2))
        })
        .collect();
    let rows: Vec<_> = (0..columns.rows.len())
        .map(|row| {
            let text = |column| columns.text(row, column).unwrap_or_default();
            let kind = shown(
                &text(3).to_lowercase(),
                [text(4), text(5), text(6), text(7)],
            );
            let place = [text(0), text(1), text(2)];
            (place, kind)
        })
        .collect();
    let rows = rows.iter().map(|([schema, table, column], kind)| {
        let estimate = count.get(&[*schema, *table]).copied().unwrap_or_default();
        let key = if key.contains(&[*schema, *table, *column]) {
            "1"
        } else {
            ""
        };
        [*schema, *table, estimate, *column, kind.as_str(), key, ""]
    });
    Ok(Survey::from_rows(name, rows))
}
