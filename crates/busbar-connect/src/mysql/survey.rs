//! What is on the other side: the server's version, and its tables.

use busbar_connector::Survey;
use busbar_event::Error;

use super::link::{Answer, MysqlServer};

/// Looks at the server, and at its tables where they are asked for.
///
/// # Errors
/// As [`MysqlServer::open`].
pub async fn survey(server: &MysqlServer, tables: bool) -> Result<Survey, Error> {
    let told = |failed: super::failure::Failed| failed.told(server.doing("", ""));
    let mut link = server.open().await?;
    // `10.11.19-MariaDB-0+deb12u1-log`
    let mut version = link.version.split('-');
    let number = version.next().unwrap_or_default().to_owned();
    let name = if version.any(|part| part == "MariaDB") {
        "MariaDB"
    } else {
        "MySQL"
    };
    let sql = "SELECT t.table_schema, t.table_name, t.table_rows, c.column_name, c.column_type, IF(c.column_key = 'PRI', '1', ''), \
         IF(c.is_nullable = 'NO', '1', '') \
         FROM information_schema.tables t JOIN information_schema.columns c ON c.table_schema = t.table_schema \
         AND c.table_name = t.table_name WHERE t.table_type = 'BASE TABLE' \
         AND t.table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema') \
         ORDER BY t.table_schema, t.table_name, c.ordinal_position";
    let answer = match tables {
        true => link
            .run(sql)
            .await
            .map_err(told)?
            .into_iter()
            .next()
            .unwrap_or_default(),
        false => Answer::default(),
    };
    link.close().await;
    let rows = 0..answer.rows.len();
    let text = |row, column| answer.text(row, column).unwrap_or_default();
    let rows = rows.map(|row| [0, 1, 2, 3, 4, 5, 6].map(|column| text(row, column)));
    Ok(Survey::from_rows(format!("{name} {number}"), rows))
}
