//! The tables that a copy is between, as they are asked for.

use busbar_connector::SurveyedTable;
use busbar_event::Error;
use serde_json::{Map, Value, json};

use super::files::CopyEnd;
use super::value::CopyDatabase;
use super::{driven, refusal};
use crate::app::App;

/// One of the two tables, and its columns where it exists.
pub(super) async fn find(
    app: &App,
    named: &str,
    same: Option<&str>,
) -> Result<(CopyEnd, Option<SurveyedTable>), Error> {
    let (connection, table) = named.split_once(':').unwrap_or((named, ""));
    let table = match (table.is_empty(), same) {
        (true, Some(same)) => same,
        (true, None) => return Err(refusal("server.copy-table").with("text", named)),
        (false, _) => table,
    };
    let mut end = end(app, connection)?;
    if same.is_some() && end.database == CopyDatabase::Driven {
        return Err(refusal("server.copy-driver-to")
            .with("connection", connection)
            .with("kind", &end.kind));
    }
    let survey = app.runtime.survey(connection, true).await?;
    let (schema, table) = match table.split_once('.') {
        Some((schema, table)) => (schema.to_owned(), table),
        None => (own_schema(&end, &survey.tables, table)?, table),
    };
    (end.schema, end.table) = (schema, table.to_owned());
    let found = find_table(&end, &survey.tables, table).cloned();
    if let Some(found) = &found {
        end.is_at(app, &survey.server, found).await?;
    }
    Ok((end, found))
}

impl CopyEnd {
    /// Notes which table it is; `server` is what the database calls itself.
    ///
    /// # Errors
    /// What a driver says of it.
    pub(super) async fn is_at(
        &mut self,
        app: &App,
        server: &str,
        table: &SurveyedTable,
    ) -> Result<(), Error> {
        (self.schema, self.table) = (table.schema.clone(), table.name.clone());
        if self.database == CopyDatabase::Driven {
            self.driven = Some(driven::look(app, &self.connection, server, table).await?);
        }
        Ok(())
    }
}

/// A table of an end's schema; behind a driver in whatever case, where none is written so.
pub(super) fn find_table<'a>(
    end: &CopyEnd,
    tables: &'a [SurveyedTable],
    name: &str,
) -> Option<&'a SurveyedTable> {
    let exact = tables
        .iter()
        .find(|one| one.schema == end.schema && one.name == name);
    let any_case = end.database == CopyDatabase::Driven;
    exact.or_else(|| {
        tables.iter().find(|one| {
            any_case
                && one.schema.eq_ignore_ascii_case(&end.schema)
                && one.name.eq_ignore_ascii_case(name)
        })
    })
}

/// A table of a connection that is not known yet.
pub(super) fn end(app: &App, connection: &str) -> Result<CopyEnd, Error> {
    let (connector, spec) = app.runtime.connector_of(connection)?;
    let Some(database) = CopyDatabase::of(&spec.kind) else {
        return Err(refusal("server.copy-kind")
            .with("connection", connection)
            .with("kind", &spec.kind));
    };
    let mut options = match spec.options.to_json() {
        Value::Object(options) => options,
        _ => Map::new(),
    };
    for used in ["follow", "poll", "query", "write"] {
        options.remove(used);
    }
    // Connections that differ in it do not share the process with the driver, and some databases are open to one only.
    if database != CopyDatabase::Driven {
        options.remove("sessions");
    }
    for secret in connector.secrets(&spec) {
        let Some((first, rest)) = secret.path.split_first() else {
            continue;
        };
        let mut value = options.get_mut(first);
        for key in rest {
            value = value.and_then(|value| value.get_mut(key));
        }
        if let Some(value) = value {
            *value = json!(secret.shown);
        }
    }
    Ok(CopyEnd {
        database,
        kind: spec.kind.clone(),
        connection: connection.to_owned(),
        options,
        schema: String::new(),
        table: String::new(),
        driven: None,
    })
}

/// The schema of tables that are named without one.
///
/// # Errors
/// Behind a driver, tables of this name in several.
pub(super) fn own_schema(
    end: &CopyEnd,
    tables: &[SurveyedTable],
    name: &str,
) -> Result<String, Error> {
    match end.database {
        CopyDatabase::Postgres => Ok("public".to_owned()),
        CopyDatabase::MySql => {
            let database = end.options.get("database");
            let database = database.and_then(Value::as_str);
            Ok(database.unwrap_or_default().to_owned())
        }
        CopyDatabase::Driven => driven::schema(&end.connection, tables, name),
    }
}
