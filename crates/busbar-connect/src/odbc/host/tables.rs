//! What a database is, and the tables that it has, by the interface's catalogue functions.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use serde_json::{Value, json};

use super::fault::OdbcFault;
use super::handle::{OdbcConnection, OdbcStatement};
use super::kind::kind_of;
use super::library as odbc;
use super::limits::CATALOG_ROWS_MAX;
use super::parameters::OdbcBound;
use super::rows::{OdbcAbilities, OdbcRows};
use crate::driver::sql;

/// Schemas that are the database's own.
const OWN: [&str; 25] = [
    "INFORMATION_SCHEMA",
    "SYSTEM_LOBS",
    "SYS",
    "SYSIBM",
    "SYSIBMADM",
    "SYSCAT",
    "SYSSTAT",
    "SYSTOOLS",
    "SYSFUN",
    "SYSPROC",
    "SQLJ",
    "NULLID",
    "PG_CATALOG",
    "PG_TOAST",
    "MYSQL",
    "PERFORMANCE_SCHEMA",
    "SYSTEM",
    "XDB",
    "CTXSYS",
    "MDSYS",
    "WMSYS",
    "SYSAUDITOR",
    "SYSSSO",
    "SYS_CATALOG",
    "SYSMAC",
];

/// One word for the kind of database; the name itself in small letters where it is not known.
pub fn product(name: &str) -> String {
    let small = name.to_lowercase();
    let known = [
        ("postgres", "postgres"),
        ("kingbase", "postgres"),
        ("mariadb", "mysql"),
        ("mysql", "mysql"),
        ("tidb", "mysql"),
        ("sqlite", "sqlite"),
        ("oracle", "oracle"),
        ("microsoft sql", "microsoft"),
        ("sql server", "microsoft"),
        ("db2", "db2"),
        ("dm", "dm"),
    ];
    let found = known.iter().find(|(begin, _)| small.starts_with(begin));
    found.map_or(small.clone(), |(_, product)| (*product).to_owned())
}

/// The answer to `open`.
pub fn about(connection: &OdbcConnection) -> Result<Value, OdbcFault> {
    let name = connection.info(odbc::INFO_DBMS_NAME)?;
    let version = connection.info(odbc::INFO_DBMS_VERSION).unwrap_or_default();
    // SQL_TC_NONE is 0.
    let transactions = connection.info_number(odbc::INFO_TRANSACTIONS)? & 0xffff != 0;
    Ok(json!({
        "product": connection.product,
        "server": format!("{name} {}", version.chars().take(80).collect::<String>()).trim(),
        "transactions": transactions,
    }))
}

/// A row of an answer of the catalogue.
struct OdbcFound(Vec<Value>);

impl OdbcFound {
    fn text(&self, column: usize) -> Option<&str> {
        match self.0.get(column - 1)? {
            Value::String(text) => Some(text.trim_end()).filter(|text| !text.is_empty()),
            _ => None,
        }
    }

    fn number(&self, column: usize) -> Option<i64> {
        match self.0.get(column - 1)? {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }
}

/// The rows of a catalogue function, and the names of its columns.
fn found(
    connection: &Rc<OdbcConnection>,
    ask: impl FnOnce(&OdbcStatement) -> Result<(), OdbcFault>,
) -> Result<(Vec<OdbcFound>, Vec<String>), OdbcFault> {
    let statement = OdbcStatement::new(connection)?;
    ask(&statement)?;
    let mut rows = OdbcRows::of(statement, OdbcAbilities::default(), 1, OdbcBound::default())?;
    let (mut all, mut row) = (Vec::new(), Vec::new());
    while rows.next(&mut row)? {
        let values = serde_json::from_slice(&row);
        all.push(OdbcFound(
            values.map_err(|why| OdbcFault::new("worker", why.to_string()))?,
        ));
        row.clear();
        if all.len() > CATALOG_ROWS_MAX {
            return Err(OdbcFault::new(
                "refused",
                format!("more than {CATALOG_ROWS_MAX} rows in the catalogue"),
            ));
        }
    }
    let names = rows.columns.iter().map(|column| column.name.to_lowercase());
    Ok((all, names.collect()))
}

/// Where tables are, and how their names are asked for.
struct OdbcCatalog<'c> {
    connection: &'c Rc<OdbcConnection>,
    /// Databases whose tables are in catalogues, not in schemas.
    in_catalogs: bool,
    current: Option<String>,
    escape: String,
}

impl OdbcCatalog<'_> {
    fn of(connection: &Rc<OdbcConnection>) -> OdbcCatalog<'_> {
        let current = connection
            .info(odbc::INFO_DATABASE_NAME)
            .unwrap_or_default();
        let product = connection.product.as_str();
        OdbcCatalog {
            connection,
            in_catalogs: product == "mysql",
            // Files and instances are no catalogues.
            current: Some(current).filter(|name| {
                !name.is_empty() && matches!(product, "mysql" | "postgres" | "microsoft")
            }),
            escape: connection
                .info(odbc::INFO_SEARCH_ESCAPE)
                .unwrap_or_default(),
        }
    }

    /// A name as a pattern that fits it alone, or at least it.
    fn escaped(&self, name: &str) -> String {
        let escape = self.escape.as_str();
        match escape.is_empty() {
            true => name.to_owned(),
            false => name
                .replace(escape, &escape.repeat(2))
                .replace('_', &format!("{escape}_"))
                .replace('%', &format!("{escape}%")),
        }
    }

    fn schema(&self, row: &OdbcFound) -> String {
        let (catalog, schema) = (row.text(1), row.text(2));
        match self.in_catalogs {
            true => catalog,
            false => schema,
        }
        .unwrap_or_default()
        .to_owned()
    }

    /// Catalogue and schema of a table, as functions take them.
    fn home<'a>(&'a self, schema: &'a str) -> (Option<&'a str>, Option<&'a str>) {
        let schema = Some(schema).filter(|schema| !schema.is_empty());
        match self.in_catalogs {
            true => (schema, None),
            false => (self.current.as_deref(), schema),
        }
    }

    fn columns(
        &self,
        schema: &str,
        table: &str,
    ) -> Result<(Vec<OdbcFound>, Vec<String>), OdbcFault> {
        let (catalog, within) = self.home(schema);
        let within = within.map(|within| self.escaped(within));
        let (mut rows, names) = found(self.connection, |statement| {
            statement.columns(catalog, within.as_deref(), &self.escaped(table))
        })?;
        rows.retain(|row| row.text(3) == Some(table));
        Ok((rows, names))
    }

    fn key(&self, schema: &str, table: &str) -> Vec<String> {
        let (catalog, within) = self.home(schema);
        let rows = found(self.connection, |statement| {
            statement.primary_key(catalog, within, table)
        });
        // Not every driver has the function.
        let Ok((rows, _)) = rows else {
            return Vec::new();
        };
        let mut key: Vec<_> = rows
            .iter()
            .filter_map(|row| Some((row.number(5).unwrap_or(0), row.text(4)?.to_owned())))
            .collect();
        key.sort();
        key.into_iter().map(|(_, column)| column).collect()
    }

    fn unique(&self, schema: &str, table: &str) -> Vec<Vec<String>> {
        let (catalog, within) = self.home(schema);
        let rows = found(self.connection, |statement| {
            statement.unique_indices(catalog, within, table)
        });
        let Ok((rows, _)) = rows else {
            return Vec::new();
        };
        let mut indices: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in &rows {
            // Rows of statistics have no index.
            if let (Some(index), Some(column), Some(0)) = (row.text(6), row.text(9), row.number(4))
            {
                indices
                    .entry(index.to_owned())
                    .or_default()
                    .push(column.to_owned());
            }
        }
        indices.into_values().collect()
    }
}

/// All tables that are not the database's own, with their columns: schema, table, column, type, and whether it is of the key.
pub fn tables(connection: &Rc<OdbcConnection>, most: usize) -> Result<Value, OdbcFault> {
    let catalog = OdbcCatalog::of(connection);
    let (rows, _) = found(connection, |statement| {
        statement.tables(catalog.current.as_deref(), "%", Some("TABLE"))
    })?;
    let mut all: Vec<(String, String)> = rows
        .iter()
        .filter(|row| {
            row.text(4).is_none_or(|kind| {
                kind.eq_ignore_ascii_case("TABLE") || kind.eq_ignore_ascii_case("BASE TABLE")
            })
        })
        .filter_map(|row| Some((catalog.schema(row), row.text(3)?.to_owned())))
        .filter(|(schema, name)| {
            let own = OWN.contains(&schema.to_uppercase().as_str());
            let of_sqlite = connection.product == "sqlite" && name.starts_with("sqlite_");
            !own && !of_sqlite
        })
        .collect();
    all.sort();
    all.dedup();
    all.truncate(most);
    let mut answer = Vec::new();
    for (schema, table) in &all {
        let key: HashSet<String> = catalog.key(schema, table).into_iter().collect();
        let (columns, names) = catalog.columns(schema, table)?;
        for column in &columns {
            let Some(name) = column.text(4) else { continue };
            let is_key = if key.contains(name) { "1" } else { "" };
            let shown = shown(column, is_free(column, &names));
            answer.push(json!([schema, table, name, shown, is_key]));
        }
    }
    Ok(Value::Array(answer))
}

/// A table by its name, in whatever letters; without columns where there is none.
pub fn columns(
    connection: &Rc<OdbcConnection>,
    schema: &str,
    table: &str,
) -> Result<Value, OdbcFault> {
    let catalog = OdbcCatalog::of(connection);
    let home = match catalog.in_catalogs {
        true => catalog.current.clone(),
        false => current_schema(connection)?,
    };
    let wanted = Some(schema.to_owned())
        .filter(|schema| !schema.is_empty())
        .or(home.clone());
    let Some((schema, table)) = find(&catalog, wanted.as_deref(), table)? else {
        return Ok(json!({ "schema": home.unwrap_or_default(), "columns": null }));
    };
    let (rows, names) = catalog.columns(&schema, &table)?;
    let seconds = seconds(&catalog, &schema, &table)?;
    let columns = rows.iter().filter_map(|row| {
        let name = row.text(4)?;
        let raw = i32::try_from(row.number(5)?).ok()?;
        let type_name = row.text(6).unwrap_or_default();
        let size = usize::try_from(row.number(7).unwrap_or(0)).unwrap_or(0);
        let mut kind = kind_of(raw, type_name, size);
        let mut digits = row.number(9);
        let free = is_free(row, &names);
        let is_time = matches!(
            kind,
            sql::TIMESTAMP | sql::TIMESTAMP_WITH_TIMEZONE | sql::TIME
        );
        if connection.product == "sqlite" {
            // A column holds what it is given: whole numbers of 64 bits, and times as texts.
            digits = measures(type_name).map(|(_, digits)| digits);
            if matches!(kind, sql::TINYINT | sql::SMALLINT | sql::INTEGER) {
                kind = sql::BIGINT;
            }
        } else if is_time {
            let described = seconds.get(name).copied();
            digits = described.or(digits).or_else(|| of_seconds(kind, size));
        } else if kind == sql::NUMERIC && (free || raw == -360 || size == 0 || size > 1_000) {
            digits = None;
        }
        let size = match (connection.product.as_str(), measures(type_name)) {
            ("sqlite", Some((size, _))) => usize::try_from(size).unwrap_or(0),
            _ => size,
        };
        Some(json!({
            "name": name, "raw": raw, "type": kind, "shown": shown(row, free), "size": size.min(i32::MAX as usize), "digits": digits,
        }))
    });
    let columns: Vec<Value> = columns.collect();
    let mut keys = Vec::new();
    let key = catalog.key(&schema, &table);
    if !key.is_empty() {
        keys.push(key);
    }
    keys.extend(catalog.unique(&schema, &table));
    Ok(json!({ "schema": schema, "table": table, "columns": columns, "keys": keys }))
}

/// Size and digits in the name of a type: `decimal(10,2)`.
fn measures(type_name: &str) -> Option<(i64, i64)> {
    let (_, inner) = type_name.split_once('(')?;
    let inner = inner.split_once(')')?.0;
    let (size, digits) = inner.split_once(',').unwrap_or((inner, "0"));
    Some((size.trim().parse().ok()?, digits.trim().parse().ok()?))
}

/// Digits of seconds of a table's columns, where the catalogue does not have them: MariaDB's driver knows them of answers only.
fn seconds(
    catalog: &OdbcCatalog<'_>,
    schema: &str,
    table: &str,
) -> Result<HashMap<String, i64>, OdbcFault> {
    if catalog.connection.product != "mysql" {
        return Ok(HashMap::new());
    }
    let quoted = |name: &str| format!("`{}`", name.replace('`', "``"));
    let statement = OdbcStatement::new(catalog.connection)?;
    statement.direct(&format!(
        "SELECT * FROM {}.{} WHERE 1 = 0",
        quoted(schema),
        quoted(table)
    ))?;
    let count = statement.column_count()?;
    let described = (1..=count).map(|at| statement.describe(at));
    described
        .map(|column| column.map(|column| (column.name, i64::from(column.digits))))
        .collect()
}

/// Digits of seconds, by the length of a time as text; none where that is not known.
fn of_seconds(kind: i32, size: usize) -> Option<i64> {
    let whole = if kind == sql::TIME { 8 } else { 19 };
    match size.checked_sub(whole)? {
        0 => Some(0),
        more @ 2..=10 => Some(more as i64 - 1),
        _ => None,
    }
}

/// Whether a column's type has no measures: PostgreSQL's driver makes up digits for such numbers, and says so in a column of
/// its own.
fn is_free(column: &OdbcFound, names: &[String]) -> bool {
    let modifier = names.iter().position(|name| name == "typmod");
    modifier.is_some_and(|at| column.number(at + 1) == Some(-1))
}

fn shown(column: &OdbcFound, free: bool) -> String {
    let name = column.text(6).unwrap_or("?");
    let (size, digits) = (
        column.number(7).unwrap_or(0),
        column.number(9).unwrap_or(-1),
    );
    let raw = column.number(5).unwrap_or(0);
    match raw {
        _ if name.contains('(') => name.to_owned(),
        1 | 12 | -8 | -9 | -2 | -3 if (1..1_000_000).contains(&size) => format!("{name}({size})"),
        2 | 3 if (1..1_000).contains(&size) && digits >= 0 && !free => {
            format!("{name}({size},{digits})")
        }
        // Times with more digits of seconds than drivers take for granted; SQL Server's with a zone has a number of its own.
        11 | 93 | -155 if (7..=12).contains(&digits) => {
            let (word, rest) = name.split_at(name.find(' ').unwrap_or(name.len()));
            format!("{word}({digits}){rest}")
        }
        _ => name.to_owned(),
    }
}

/// The schema that the database takes by itself; none where it has no schemas, or none is known.
fn current_schema(connection: &Rc<OdbcConnection>) -> Result<Option<String>, OdbcFault> {
    let sql = match connection.product.as_str() {
        "postgres" => "select current_schema()",
        "microsoft" => "select schema_name()",
        "oracle" | "dm" => "select sys_context('userenv', 'current_schema') from dual",
        "db2" => "values current schema",
        "sqlite" => return Ok(None),
        _ => {
            let user = connection.info(odbc::INFO_USER_NAME).unwrap_or_default();
            return Ok(Some(user).filter(|user| !user.is_empty()));
        }
    };
    let (rows, _) = found(connection, |statement| statement.direct(sql))?;
    Ok(rows.first().and_then(|row| row.text(1)).map(str::to_owned))
}

fn find(
    catalog: &OdbcCatalog<'_>,
    schema: Option<&str>,
    table: &str,
) -> Result<Option<(String, String)>, OdbcFault> {
    let mut names = vec![table.to_owned()];
    for other in [table.to_uppercase(), table.to_lowercase()] {
        if !names.contains(&other) {
            names.push(other);
        }
    }
    for name in names {
        let within = match catalog.in_catalogs {
            true => schema,
            false => catalog.current.as_deref(),
        };
        let (rows, _) = found(catalog.connection, |statement| {
            statement.tables(within, &catalog.escaped(&name), None)
        })?;
        let mut near = None;
        for row in &rows {
            let Some(there) = row.text(3) else { continue };
            // SQLite finds them in whatever letters.
            if there != name
                && !(catalog.connection.product == "sqlite" && there.eq_ignore_ascii_case(&name))
            {
                continue;
            }
            let within = catalog.schema(row);
            match schema {
                None => return Ok(Some((within, there.to_owned()))),
                Some(schema) if schema == within => return Ok(Some((within, there.to_owned()))),
                Some(schema) if schema.eq_ignore_ascii_case(&within) => {
                    near = Some((within, there.to_owned()));
                }
                Some(_) => {}
            }
        }
        if near.is_some() {
            return Ok(near);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_known_by_what_their_drivers_call_them() {
        for (name, expected) in [
            ("PostgreSQL", "postgres"),
            ("KingbaseES", "postgres"),
            ("MariaDB", "mysql"),
            ("SQLite", "sqlite"),
            ("Microsoft SQL Server", "microsoft"),
            ("SQL Server", "microsoft"),
            ("DB2/LINUXX8664", "db2"),
            ("DM8", "dm"),
            ("Informix", "informix"),
        ] {
            assert_eq!(product(name), expected);
        }
    }
}
