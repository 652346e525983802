//! What is on the other side: the server's version, and its tables.

use busbar_connector::Survey;
use busbar_event::Error;

use super::link::Server;

/// Looks at the server, and at its tables where they are asked for.
///
/// # Errors
/// As [`Server::open`].
pub async fn survey(server: &Server, tables: bool) -> Result<Survey, Error> {
    let told = |failed: super::failure::Failed| failed.told(server.doing("", ""));
    let mut link = server.open().await?;
    let answers = link.run("SHOW server_version").await.map_err(told)?;
    let version = answers
        .first()
        .and_then(|answer| answer.text(0, 0))
        .unwrap_or_default();
    // `15.20 (Debian 15.20-0+deb12u1)`
    let version = format!(
        "PostgreSQL {}",
        version.split(' ').next().unwrap_or_default()
    );
    let sql = "SELECT n.nspname, c.relname, CASE WHEN c.reltuples >= 0 THEN c.reltuples::int8::text END, a.attname, \
         format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnum = ANY (i.indkey) THEN '1' END, \
         CASE WHEN a.attnotnull THEN '1' END \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid \
         LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary \
         WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%' \
         AND a.attnum > 0 AND NOT a.attisdropped ORDER BY n.nspname, c.relname, a.attnum";
    let answer = match tables {
        true => link
            .run(sql)
            .await
            .map_err(told)?
            .into_iter()
            .next()
            .unwrap_or_default(),
        false => super::link::Answer::default(),
    };
    link.close().await;
    let rows = 0..answer.rows.len();
    let text = |row, column| answer.text(row, column).unwrap_or_default();
    let rows = rows.map(|row| [0, 1, 2, 3, 4, 5, 6].map(|column| text(row, column)));
    Ok(Survey::from_rows(version, rows))
}
