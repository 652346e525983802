//! Queries over a table's file, with values bound to them, for programs that know SQLite.

use std::sync::mpsc::channel;

use busbar_event::{Class, Error};
use rusqlite::Connection;
use rusqlite::types::{Value, ValueRef};
use serde_json::{Map, Number, Value as Json};

use super::sqlite::{Readers, sqlite_error};
use crate::limits::QUERY_TIMEOUT;

/// At most `limit` rows of a query, as a JSON array of objects.
pub(super) fn run(
    readers: &Readers,
    sql: &str,
    parameters: &[Json],
    limit: usize,
) -> Result<String, Error> {
    let first = sql.split_whitespace().next().unwrap_or_default();
    let reads = ["select", "values", "with"];
    if !reads.iter().any(|word| first.eq_ignore_ascii_case(word)) {
        return Err(Error::new(Class::Permanent, "table.query-reads").with("table", &readers.table));
    }
    let connection = readers.take()?;
    let interrupt = connection.get_interrupt_handle();
    let (done, waited) = channel::<()>();
    let guard = std::thread::spawn(move || {
        // The sender is dropped when the query has ended.
        if waited.recv_timeout(QUERY_TIMEOUT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            interrupt.interrupt();
        }
    });
    let rows = read(&connection, sql, parameters, limit);
    drop(done);
    // Until it has ended, it could interrupt whoever has the connection next.
    let _ = guard.join();
    readers.give_back(connection);
    rows.map_err(|cause| match &cause {
        rusqlite::Error::SqliteFailure(code, _)
            if code.code == rusqlite::ErrorCode::OperationInterrupted =>
        {
            Error::new(Class::Permanent, "table.query-slow")
                .with("table", &readers.table)
                .with("seconds", QUERY_TIMEOUT.as_secs())
        }
        rusqlite::Error::SqliteFailure(code, Some(detail))
            if code.code == rusqlite::ErrorCode::Unknown =>
        {
            wrong(&readers.table, detail)
        }
        rusqlite::Error::SqlInputError { msg, .. } => wrong(&readers.table, msg),
        rusqlite::Error::InvalidParameterCount(..) => wrong(&readers.table, &cause.to_string()),
        _ => sqlite_error(&readers.table, cause),
    })
}

fn wrong(table: &str, detail: &str) -> Error {
    Error::new(Class::Permanent, "table.query-wrong")
        .with("table", table)
        .with("detail", detail)
}

fn read(
    connection: &Connection,
    sql: &str,
    parameters: &[Json],
    limit: usize,
) -> rusqlite::Result<String> {
    let mut statement = connection.prepare_cached(sql)?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut rows = statement.query(rusqlite::params_from_iter(parameters.iter().map(bound)))?;
    let mut all = Vec::new();
    while all.len() < limit
        && let Some(row) = rows.next()?
    {
        let mut object = Map::with_capacity(names.len());
        for (place, name) in names.iter().enumerate() {
            object.insert(name.clone(), shown(row.get_ref(place)?));
        }
        all.push(Json::Object(object));
    }
    Ok(Json::Array(all).to_string())
}

fn bound(value: &Json) -> Value {
    match value {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Integer(i64::from(*value)),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::Integer(whole),
            None => number.as_f64().map_or(Value::Null, Value::Real),
        },
        Json::String(text) => Value::Text(text.clone()),
        other => Value::Text(other.to_string()),
    }
}

/// Bytes are shown in hexadecimal digits.
fn shown(value: ValueRef<'_>) -> Json {
    match value {
        ValueRef::Null => Json::Null,
        ValueRef::Integer(whole) => whole.into(),
        ValueRef::Real(number) => Number::from_f64(number).map_or(Json::Null, Json::Number),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned().into(),
        ValueRef::Blob(bytes) => {
            let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
            digits.collect::<String>().into()
        }
    }
}
