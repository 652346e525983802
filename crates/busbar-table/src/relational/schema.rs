//! What stands in the file besides the rows, and the SQL made from it.
//!
//! | table | columns | holds |
//! | --- | --- | --- |
//! | the table itself | the user's, in order; without a key also `_busbar_producer`, `_busbar_position`, `_busbar_row` | rows |
//! | `_busbar_columns` | `place`, `name`, `type`, `key` | the columns' types as Busbar sees them; `key` is a column's place in the key |
//! | `_busbar_positions` | `producer`, `position` | the last position of each producer |
//!
//! | type | SQLite | as |
//! | --- | --- | --- |
//! | `bool` | `INTEGER` | 0, 1 |
//! | `int` | `INTEGER` | |
//! | `float` | `REAL` | |
//! | `text`, `json` | `TEXT` | |
//! | `time` | `TEXT` | `2026-03-01T12:00:00.000000Z`, always 27 bytes |
//! | `binary` | `BLOB` | |
//!
//! Tables are `STRICT`, so that SQLite never turns a value into another type on its own. The file's
//! `application_id` is [`APPLICATION_ID`] and its `user_version` is [`FORMAT_VERSION`].

use std::fmt::Write as _;

use arrow::datatypes::{Schema, SchemaRef};
use busbar_event::{Class, Error};
use rusqlite::{Connection, params};

use super::sqlite::sqlite_error;
use crate::columns::{
    ColumnType, EXACT_INT_MAX, arrow_error, column_type_error, row_number, type_of,
};
use crate::spec::check_key_type;

/// `BusB`.
pub(super) const APPLICATION_ID: i32 = 0x4275_7342;
/// Grows when an older program could no longer read or write the file.
pub(super) const FORMAT_VERSION: i32 = 1;

/// The table as it is at a moment.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub schema: SchemaRef,
    /// Places of the key's columns.
    pub key: Vec<usize>,
    /// A name for SQLite's row number that no column has taken.
    pub row_number: &'static str,
}

impl Shape {
    pub fn new(table: &str, schema: SchemaRef, key: &[String]) -> Result<Self, Error> {
        let find = |column: &String| match schema.column_with_name(column) {
            Some((place, field)) => {
                check_key_type(table, column, type_of(field))?;
                Ok(place)
            }
            None => Err(Error::new(Class::Configuration, "table.key-missing")
                .with("table", table)
                .with("column", column)),
        };
        let key = match schema.fields().is_empty() {
            true => Vec::new(),
            false => key.iter().map(find).collect::<Result<_, _>>()?,
        };
        let row_number = row_number(&schema)?;
        Ok(Self {
            schema,
            key,
            row_number,
        })
    }
}

/// Check that a file is ours and of a version we know; prepare a new one.
pub(super) fn prepare_file(connection: &Connection, table: &str) -> Result<(), Error> {
    let fault = |cause| sqlite_error(table, cause);
    let number = |pragma: &str| {
        connection
            .query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i32>(0))
            .map_err(fault)
    };
    let version = number("user_version")?;
    let application = number("application_id")?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(fault)?;
    if tables > 0 && application != APPLICATION_ID {
        return Err(Error::new(Class::Configuration, "table.file-not-ours").with("table", table));
    }
    if version > FORMAT_VERSION {
        return Err(Error::new(Class::Configuration, "table.file-newer")
            .with("table", table)
            .with("version", version)
            .with("known", FORMAT_VERSION));
    }
    if version == FORMAT_VERSION {
        return Ok(());
    }
    connection
        .execute_batch(&format!(
            "BEGIN IMMEDIATE;
             PRAGMA application_id = {APPLICATION_ID};
             PRAGMA user_version = {FORMAT_VERSION};
             CREATE TABLE _busbar_columns (
               place INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, type TEXT NOT NULL, key INTEGER
             ) STRICT;
             CREATE TABLE _busbar_positions (
               producer TEXT PRIMARY KEY, position INTEGER NOT NULL
             ) STRICT, WITHOUT ROWID;
             COMMIT;"
        ))
        .map_err(fault)
}

/// Columns and key as the file knows them; nothing for a table that has no rows yet.
pub(super) fn read_columns(
    connection: &Connection,
    table: &str,
) -> Result<(Schema, Vec<String>), Error> {
    let fault = |cause| sqlite_error(table, cause);
    let mut statement = connection
        .prepare("SELECT name, type, key FROM _busbar_columns ORDER BY place")
        .map_err(fault)?;
    let rows = statement
        .query_map([], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
                row.get::<_, Option<i64>>(2)?,
            ))
        })
        .map_err(fault)?;
    let mut fields = Vec::new();
    let mut key = Vec::new();
    for row in rows {
        let (name, word, place) = row.map_err(fault)?;
        let kind = ColumnType::parse(&word).ok_or_else(|| {
            Error::new(Class::Configuration, "table.file-damaged")
                .with("table", table)
                .with("detail", format!("column {name} of type {word}"))
        })?;
        fields.push(kind.field(&name));
        key.extend(place.map(|place| (place, name)));
    }
    key.sort_unstable();
    let key = key.into_iter().map(|(_, name)| name).collect();
    Ok((Schema::new(fields), key))
}

/// Make the table, widen its columns, or give it the columns that `next` has more than `before`.
pub(super) fn write_columns(
    connection: &mut Connection,
    table: &str,
    before: &Schema,
    next: &Shape,
) -> Result<(), Error> {
    let fault = |cause| sqlite_error(table, cause);
    let transaction = connection.transaction().map_err(fault)?;
    let fields = next.schema.fields();
    let added = before.fields().len();
    if added == 0 {
        transaction
            .execute_batch(&create(table, &next.schema, &next.key))
            .map_err(fault)?;
    } else {
        widen_columns(&transaction, table, before, next)?;
    }
    for (place, field) in fields.iter().enumerate().skip(added) {
        let kind = type_of(field);
        if added > 0 {
            let sql = format!(
                "ALTER TABLE {} ADD COLUMN {} {}",
                quoted(table),
                quoted(field.name()),
                sqlite_type(kind)
            );
            transaction.execute_batch(&sql).map_err(fault)?;
        }
        let key = next.key.iter().position(|column| *column == place);
        transaction
            .execute(
                "INSERT INTO _busbar_columns (place, name, type, key) VALUES (?1, ?2, ?3, ?4)",
                params![
                    place as i64,
                    field.name(),
                    kind.word(),
                    key.map(|place| place as i64)
                ],
            )
            .map_err(fault)?;
    }
    transaction.commit().map_err(fault)
}

/// Copy the rows into a table whose columns have the types of `next`, where these are wider than before: SQLite
/// cannot change the type of a column.
fn widen_columns(
    transaction: &Connection,
    table: &str,
    before: &Schema,
    next: &Shape,
) -> Result<(), Error> {
    let fault = |cause| sqlite_error(table, cause);
    let kinds = |place: usize| {
        let (from, to) = (before.field(place), next.schema.field(place));
        (type_of(from), type_of(to))
    };
    let places = 0..before.fields().len();
    let wider: Vec<usize> = places
        .clone()
        .filter(|p| kinds(*p).0 != kinds(*p).1)
        .collect();
    if wider.is_empty() {
        return Ok(());
    }
    for place in &wider {
        let (name, (from, to)) = (before.field(*place).name(), kinds(*place));
        if to == ColumnType::Float {
            let sql = format!(
                "SELECT count(*) FROM {0} WHERE {1} > {2} OR {1} < -{2}",
                quoted(table),
                quoted(name),
                EXACT_INT_MAX
            );
            let inexact: i64 = transaction
                .query_row(&sql, [], |row| row.get(0))
                .map_err(fault)?;
            if inexact > 0 {
                return Err(column_type_error(table, name, from, to));
            }
        }
        transaction
            .execute(
                "UPDATE _busbar_columns SET type = ?1 WHERE place = ?2",
                params![to.word(), *place as i64],
            )
            .map_err(fault)?;
    }
    let wide = next.schema.project(&places.clone().collect::<Vec<_>>());
    let wide = wide.map_err(arrow_error)?;
    let mut names: Vec<String> = places
        .clone()
        .map(|p| quoted(before.field(p).name()))
        .collect();
    let mut values: Vec<String> = places
        .map(|place| {
            let name = quoted(before.field(place).name());
            match kinds(place) {
                (from, to) if from == to => name,
                (ColumnType::Bool, _) => {
                    format!("CASE {name} WHEN 1 THEN 'true' WHEN 0 THEN 'false' END")
                }
                (_, to) => format!("CAST({name} AS {})", sqlite_type(to)),
            }
        })
        .collect();
    if next.key.is_empty() {
        let own = OWN_COLUMNS.map(str::to_owned);
        names.extend(own.clone());
        values.extend(own);
    }
    let sql = format!(
        "ALTER TABLE {0} RENAME TO _busbar_narrow; {1};
         INSERT INTO {0} ({2}) SELECT {3} FROM _busbar_narrow ORDER BY {4};
         DROP TABLE _busbar_narrow;",
        quoted(table),
        create(table, &wide, &next.key),
        names.join(", "),
        values.join(", "),
        next.row_number,
    );
    transaction.execute_batch(&sql).map_err(fault)
}

/// Columns of a table without a key that tell repeated rows.
const OWN_COLUMNS: [&str; 3] = ["_busbar_producer", "_busbar_position", "_busbar_row"];

fn create(table: &str, schema: &Schema, key: &[usize]) -> String {
    let mut sql = format!("CREATE TABLE {} (", quoted(table));
    for field in schema.fields() {
        let kind = sqlite_type(type_of(field));
        let _ = write!(sql, "{} {kind}, ", quoted(field.name()));
    }
    if key.is_empty() {
        sql.push_str(
            "_busbar_producer TEXT, _busbar_position INTEGER, _busbar_row INTEGER, \
             UNIQUE (_busbar_producer, _busbar_position, _busbar_row)",
        );
    } else {
        let _ = write!(sql, "PRIMARY KEY ({})", key_list(schema, key));
    }
    sql.push_str(") STRICT");
    sql
}

/// The statement that puts one row with values for `columns`.
pub(super) fn put_sql(table: &str, shape: &Shape, columns: &[usize]) -> String {
    let name = |column: &usize| quoted(shape.schema.field(*column).name());
    let mut names: Vec<String> = columns.iter().map(name).collect();
    if shape.key.is_empty() {
        names.extend(OWN_COLUMNS.map(str::to_owned));
    }
    let marks = vec!["?"; names.len()].join(", ");
    let mut sql = format!(
        "INSERT INTO {} ({}) VALUES ({marks})",
        quoted(table),
        names.join(", ")
    );
    if !shape.key.is_empty() {
        let others: Vec<String> = columns
            .iter()
            .filter(|column| !shape.key.contains(column))
            .map(|column| format!("{0} = excluded.{0}", name(column)))
            .collect();
        let _ = write!(
            sql,
            " ON CONFLICT ({}) DO ",
            key_list(&shape.schema, &shape.key)
        );
        if others.is_empty() {
            sql.push_str("NOTHING");
        } else {
            let _ = write!(sql, "UPDATE SET {}", others.join(", "));
        }
    }
    sql
}

/// The statement that deletes one row by its key.
pub(super) fn delete_sql(table: &str, shape: &Shape) -> String {
    let tests: Vec<String> = shape
        .key
        .iter()
        .map(|column| format!("{} = ?", quoted(shape.schema.field(*column).name())))
        .collect();
    format!(
        "DELETE FROM {} WHERE {}",
        quoted(table),
        tests.join(" AND ")
    )
}

fn key_list(schema: &Schema, key: &[usize]) -> String {
    let names = key
        .iter()
        .map(|column| quoted(schema.field(*column).name()));
    names.collect::<Vec<_>>().join(", ")
}

/// A name that cannot be mistaken for anything else.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn sqlite_type(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Bool | ColumnType::Int => "INTEGER",
        ColumnType::Float => "REAL",
        ColumnType::Text | ColumnType::Json | ColumnType::Time => "TEXT",
        ColumnType::Binary => "BLOB",
    }
}
