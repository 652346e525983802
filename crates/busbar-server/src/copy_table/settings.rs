//! Whether a database is set up so that a table can be followed; what has to be run if not.

use std::sync::Arc;

use arrow::util::display::{ArrayFormatter, FormatOptions};
use busbar_connector::{ServiceContext, SqlDatabase, SqlPart, SqlStatement};
use busbar_event::{Class, Error};

use super::files::CopyEnd;
use super::value::CopyDatabase;
use crate::app::App;

/// What somebody has to run, or to set, before the copy works.
#[derive(Debug)]
pub(crate) struct NeededStatement {
    pub connection: String,
    pub statement: String,
    pub why: Error,
}

impl NeededStatement {
    pub fn new(end: &CopyEnd, statement: impl Into<String>, why: &'static str) -> NeededStatement {
        NeededStatement {
            connection: end.connection.clone(),
            statement: statement.into(),
            why: Error::new(Class::Configuration, why)
                .with("connection", &end.connection)
                .with("table", end.path()),
        }
    }
}

/// What the database of a table needs so that the table can be followed.
///
/// # Errors
/// What the database says.
pub(crate) async fn needed(
    app: &App,
    end: &CopyEnd,
    whole_before: bool,
) -> Result<Vec<NeededStatement>, Error> {
    match end.database {
        CopyDatabase::Postgres => postgres(app, end, whole_before).await,
        CopyDatabase::MySql => mysql(app, end).await,
        // It is asked for its rows as for any others.
        CopyDatabase::Driven => Ok(Vec::new()),
    }
}

async fn postgres(
    app: &App,
    end: &CopyEnd,
    whole_before: bool,
) -> Result<Vec<NeededStatement>, Error> {
    let table = end.in_sql();
    let sql = format!(
        "SELECT current_setting('wal_level'), current_user::text, \
         (SELECT (rolreplication OR rolsuper)::text FROM pg_roles WHERE rolname = current_user), \
         (SELECT relreplident::text FROM pg_class WHERE oid = to_regclass('{}'))",
        table.replace('\'', "''")
    );
    let found = row(app, &end.connection, sql).await?;
    let text = |at: usize| found.get(at).and_then(Option::as_deref);
    let mut needed = Vec::new();
    if text(0) != Some("logical") {
        let statement = "ALTER SYSTEM SET wal_level = logical";
        needed.push(NeededStatement::new(end, statement, "server.copy-why-log"));
    }
    if text(2) != Some("true") {
        let user = end.database.identifier(text(1).unwrap_or_default());
        let statement = format!("ALTER ROLE {user} REPLICATION");
        needed.push(NeededStatement::new(end, statement, "server.copy-why-role"));
    }
    if whole_before && text(3) != Some("f") {
        let statement = format!("ALTER TABLE {table} REPLICA IDENTITY FULL");
        needed.push(NeededStatement::new(
            end,
            statement,
            "server.copy-why-identity",
        ));
    }
    Ok(needed)
}

/// What has to be run so that tables of a database of PostgreSQL are in a publication, where the user of the connection may not
/// see to that: it takes the owner of the tables who may make publications in the database, or a superuser.
///
/// # Errors
/// What the database says.
pub(crate) async fn published(
    app: &App,
    connection: &str,
    publication: &str,
    tables: &[String],
) -> Result<Option<NeededStatement>, Error> {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let oids = tables.iter();
    let oids: Vec<_> = oids
        .map(|table| format!("to_regclass({})", quoted(table)))
        .collect();
    let name = quoted(publication);
    let sql = format!(
        "WITH missing AS (SELECT c.relowner, format('%I.%I', n.nspname, c.relname) AS path \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid IN ({}) \
         AND NOT EXISTS (SELECT FROM pg_publication_tables p WHERE p.pubname = {name} \
         AND p.schemaname = n.nspname AND p.tablename = c.relname)) \
         SELECT current_user::text, (SELECT string_agg(path, ', ' ORDER BY path) FROM missing), \
         (SELECT bool_and(pg_has_role(relowner, 'USAGE'))::text FROM missing), \
         (SELECT string_agg(DISTINCT pg_get_userbyid(relowner)::text, ', ') FROM missing), \
         (SELECT pg_has_role(pubowner, 'USAGE')::text FROM pg_publication WHERE pubname = {name}), \
         has_database_privilege(current_database(), 'CREATE')::text",
        oids.join(", ")
    );
    let found = row(app, connection, sql).await?;
    let text = |at: usize| found.get(at).and_then(Option::as_deref);
    let Some(missing) = text(1) else {
        return Ok(None);
    };
    let is_there = text(4).is_some();
    let may_name = if is_there { text(4) } else { text(5) };
    if [text(2), may_name] == [Some("true"); 2] {
        return Ok(None);
    }
    let publication = CopyDatabase::Postgres.identifier(publication);
    let statement = match is_there {
        true => format!("ALTER PUBLICATION {publication} ADD TABLE {missing}"),
        false => format!("CREATE PUBLICATION {publication} FOR TABLE {missing}"),
    };
    Ok(Some(NeededStatement {
        connection: connection.to_owned(),
        statement,
        why: Error::new(Class::Configuration, "server.copy-why-publication")
            .with("connection", connection)
            .with("user", text(0).unwrap_or_default())
            .with("owner", text(3).unwrap_or_default()),
    }))
}

async fn mysql(app: &App, end: &CopyEnd) -> Result<Vec<NeededStatement>, Error> {
    let sql = "SELECT IF(@@log_bin, 'ON', 'OFF'), @@binlog_format, @@binlog_row_image, @@binlog_row_metadata";
    let found = row(app, &end.connection, sql.into()).await?;
    let text = |at: usize| found.get(at).and_then(Option::as_deref).unwrap_or_default();
    let mut needed = Vec::new();
    if text(0) != "ON" {
        let setting = "log_bin = bin";
        needed.push(NeededStatement::new(end, setting, "server.copy-why-binlog"));
    }
    for (at, wanted, statement) in [
        (1, "ROW", "SET GLOBAL binlog_format = ROW"),
        (2, "FULL", "SET GLOBAL binlog_row_image = FULL"),
        (3, "FULL", "SET GLOBAL binlog_row_metadata = FULL"),
    ] {
        if !text(at).eq_ignore_ascii_case(wanted) {
            needed.push(NeededStatement::new(end, statement, "server.copy-why-rows"));
        }
    }
    Ok(needed)
}

/// The database of a connection.
///
/// # Errors
/// It is not there, and what the database says.
pub(super) async fn database(app: &App, connection: &str) -> Result<Arc<dyn SqlDatabase>, Error> {
    let (connector, spec) = app.runtime.connector_of(connection)?;
    let context = ServiceContext {
        name: connection.into(),
        project_dir: Arc::clone(app.runtime.project_dir()),
        clock: Arc::clone(app.bus.clock()),
    };
    connector.database(&spec, context).await
}

/// The first row that a statement answers with, as texts.
async fn row(app: &App, connection: &str, sql: String) -> Result<Vec<Option<String>>, Error> {
    let database = database(app, connection).await?;
    let statement = SqlStatement {
        parts: vec![SqlPart::Text(sql)],
        columns: None,
        declared: Vec::new(),
        table: String::new(),
        reads: true,
    };
    let mut rows = database.run(&statement).await?;
    while let Some(batch) = rows.next().await? {
        if batch.num_rows() == 0 {
            continue;
        }
        let unreadable = |why: arrow::error::ArrowError| {
            Error::new(Class::Permanent, "server.failed-within").caused_by(why)
        };
        let options = FormatOptions::default();
        return batch
            .columns()
            .iter()
            .map(|column| match column.is_null(0) {
                true => Ok(None),
                false => {
                    let texts = ArrayFormatter::try_new(column.as_ref(), &options);
                    let texts = texts.map_err(unreadable)?;
                    texts.value(0).try_to_string().map(Some).map_err(unreadable)
                }
            })
            .collect();
    }
    Ok(Vec::new())
}
