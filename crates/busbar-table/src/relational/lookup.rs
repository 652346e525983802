//! Finding rows of a relational table by their keys.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch, RecordBatchOptions};
use busbar_event::{Error, time};
use rusqlite::Connection;

use super::Values;
use super::scan::{Builder, stored_value_error};
use super::schema::{Shape, quoted};
use super::sqlite::{Readers, sqlite_error};
use crate::columns::{arrow_error, check_lookup, type_of};
use crate::table::{Found, Lookup};

/// Looks the keys up one by one, or each without its last column as of a time, in one read transaction, with one prepared statement: SQLite runs in this process, so that a
/// statement for many keys at once would save nothing.
pub(super) fn find(
    readers: &Readers,
    table: &str,
    shape: &Shape,
    lookup: &Lookup<'_>,
    times: Option<&[i64]>,
) -> Result<Found, Error> {
    check_lookup(table, &shape.schema, given_key(shape, times), lookup.keys)?;
    let connection = readers.take()?;
    let fault = |cause| sqlite_error(table, cause);
    connection.execute_batch("BEGIN").map_err(fault)?;
    let found = read(&connection, table, shape, lookup, times);
    // A connection that cannot end its transaction is closed.
    if connection.execute_batch("ROLLBACK").is_ok() {
        readers.give_back(connection);
    }
    found
}

/// The columns of the key that are given; with times all but the last, which is a time.
fn given_key<'a>(shape: &'a Shape, times: Option<&[i64]>) -> &'a [usize] {
    match (shape.key.split_last(), times) {
        (Some((_, given)), Some(_)) => given,
        _ => &shape.key,
    }
}

fn read(
    connection: &Connection,
    table: &str,
    shape: &Shape,
    lookup: &Lookup<'_>,
    times: Option<&[i64]>,
) -> Result<Found, Error> {
    let fault = |cause| sqlite_error(table, cause);
    let schema = Arc::new(shape.schema.project(lookup.columns).map_err(arrow_error)?);
    let given = given_key(shape, times);
    let name = |column: usize| quoted(shape.schema.field(column).name());
    let numbered = given.iter().enumerate();
    let mut tests: Vec<String> = numbered
        .map(|(place, column)| format!("{} = ?{}", name(*column), place + 1))
        .collect();
    let mut order = String::new();
    if let (Some(_), Some(last)) = (times, shape.key.last()) {
        let last = name(*last);
        tests.push(format!("{last} <= ?{}", given.len() + 1));
        order = format!(" ORDER BY {last} DESC LIMIT 1");
    }
    // Without columns it is still to be known whether there is a row.
    let names: Vec<String> = match schema.fields().is_empty() {
        true => vec!["1".to_owned()],
        false => schema.fields().iter().map(|f| quoted(f.name())).collect(),
    };
    let sql = format!(
        "SELECT {} FROM {} WHERE {}{order}",
        names.join(", "),
        quoted(table),
        tests.join(" AND "),
    );
    let mut statement = connection.prepare_cached(&sql).map_err(fault)?;
    let key = given.iter().zip(lookup.keys);
    let key: Vec<Values<'_>> = key
        .map(|(column, array)| Values::new(type_of(shape.schema.field(*column)), array))
        .collect();
    let mut builders: Vec<Builder> = schema
        .fields()
        .iter()
        .map(|field| Builder::new(type_of(field)))
        .collect();
    let (keys, mut rows) = (lookup.keys[0].len(), 0_u32);
    let mut places = Vec::with_capacity(keys);
    for at in 0..keys {
        for (place, values) in key.iter().enumerate() {
            values.bind(&mut statement, place + 1, at).map_err(fault)?;
        }
        if let Some(times) = times {
            // Written times are in order only within the years that can be written.
            let written = match times[at] < time::MIN {
                true => None,
                false => Some(time::text(times[at].min(time::MAX))),
            };
            let bound = statement.raw_bind_parameter(key.len() + 1, written);
            bound.map_err(fault)?;
        }
        let mut cursor = statement.raw_query();
        let Some(row) = cursor.next().map_err(fault)? else {
            places.push(None);
            continue;
        };
        for (place, builder) in builders.iter_mut().enumerate() {
            let value = row.get_ref(place).map_err(fault)?;
            if builder.append(value).is_none() {
                return Err(stored_value_error(table, schema.field(place)));
            }
        }
        places.push(Some(rows));
        rows += 1;
    }
    let arrays = builders.into_iter().map(Builder::finish).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows as usize));
    let rows = RecordBatch::try_new_with_options(schema, arrays, &options).map_err(arrow_error)?;
    Ok(Found {
        rows,
        places: places.into(),
    })
}
