//! The database for look-ups, queries and statements of flows.

use busbar_connector::{
    ColumnType, PoolUse, SqlColumn, SqlCompares, SqlDatabase, SqlRows, SqlStatement, SqlTable,
    SqlValue, Work, number_kind,
};
use busbar_event::Error;

use super::link::MssqlServer;
use super::sink::DEFAULT_SCHEMA;
use super::wire::{bytes_literal, identifier, literal, plain};
use crate::relational::selected::{CatalogueColumn, PooledServer};

/// Sessions with a server, and what is asked over them.
pub struct MssqlDatabase(PooledServer<MssqlServer>);

impl MssqlDatabase {
    pub(super) fn new(name: &str, server: MssqlServer, sessions: u16) -> MssqlDatabase {
        let wait = server.timeout;
        MssqlDatabase(PooledServer::new(name, server, sessions, wait, written))
    }
}

impl SqlDatabase for MssqlDatabase {
    fn quoted(&self, name: &str) -> String {
        identifier(name)
    }

    fn describe<'a>(&'a self, path: &'a [String]) -> Work<'a, Result<Option<SqlTable>, Error>> {
        let place = match path {
            [table] => [DEFAULT_SCHEMA, table.as_str()],
            [schema, table] => [schema.as_str(), table.as_str()],
            _ => return Box::pin(async { Ok(None) }),
        };
        let sql = [
            "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, DATA_TYPE, NUMERIC_PRECISION, NUMERIC_SCALE \
             FROM INFORMATION_SCHEMA.COLUMNS WHERE TABLE_SCHEMA = ",
            " AND TABLE_NAME = ",
            " ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION",
        ];
        Box::pin(self.0.catalogued(place, sql, catalogued))
    }

    fn run<'a>(&'a self, statement: &'a SqlStatement) -> Work<'a, Result<Box<dyn SqlRows>, Error>> {
        Box::pin(self.0.begin(statement))
    }

    fn limited(&self, rows: usize) -> String {
        format!(" ORDER BY (SELECT NULL) OFFSET 0 ROWS FETCH NEXT {rows} ROWS ONLY")
    }

    fn pool(&self) -> PoolUse {
        self.0.pool.used()
    }
}

fn catalogued(column: CatalogueColumn<'_>) -> SqlColumn {
    let (kind, compares) = column_kind(column.kind, column.precision, column.scale);
    SqlColumn {
        name: column.name.to_owned(),
        kind,
        bound: matches!(column.kind, "char" | "varchar").then(|| PLAIN.to_owned()),
        compares,
    }
}

/// A value as a literal. A column of single bytes is compared with a text of such, so that its index is used.
fn written(value: &SqlValue, kind: Option<&str>) -> String {
    match value {
        SqlValue::Null => "NULL".to_owned(),
        SqlValue::Bool(true) => "1".to_owned(),
        SqlValue::Bool(false) => "0".to_owned(),
        SqlValue::Int(value) => value.to_string(),
        // There are no others there.
        SqlValue::Float(value) if !value.is_finite() => "NULL".to_owned(),
        // With an exponent it is a floating-point number, not a decimal one.
        SqlValue::Float(value) => format!("{value:e}"),
        SqlValue::Bytes(bytes) => bytes_literal(bytes),
        SqlValue::Time(_) => {
            let text = value.text().unwrap_or_default().replacen(' ', "T", 1);
            format!("CAST(N'{text}' AS datetime2)")
        }
        SqlValue::Text(text) if kind == Some(PLAIN) && text.is_ascii() => plain(text),
        SqlValue::Text(text) => literal(text),
    }
}

/// The type of texts that are kept in single bytes.
const PLAIN: &str = "varchar";

/// What a column of a type holds without loss, and which comparisons are the same here and there.
fn column_kind(kind: &str, precision: i32, scale: i32) -> (ColumnType, SqlCompares) {
    match kind {
        "tinyint" | "smallint" | "int" | "bigint" => (ColumnType::Int, SqlCompares::All),
        "bit" => (ColumnType::Bool, SqlCompares::Equal),
        "decimal" | "numeric" => match number_kind(precision, scale) {
            ColumnType::Text => (ColumnType::Text, SqlCompares::Never),
            kind => (kind, SqlCompares::All),
        },
        "float" => (ColumnType::Float, SqlCompares::All),
        "real" => (ColumnType::Float, SqlCompares::Never),
        "datetime2" | "datetimeoffset" => (ColumnType::Time, SqlCompares::All),
        // Kept in steps of 1/300 s, or of a minute: what is compared is not what is shown.
        "datetime" | "smalldatetime" => (ColumnType::Time, SqlCompares::Never),
        "binary" | "varbinary" | "image" | "timestamp" | "rowversion" | "hierarchyid"
        | "geometry" | "geography" => (ColumnType::Binary, SqlCompares::Never),
        "char" | "varchar" | "nchar" | "nvarchar" | "sysname" => {
            (ColumnType::Text, SqlCompares::AtLeastEqual)
        }
        _ => (ColumnType::Text, SqlCompares::Never),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_literals_that_stay_one_value() {
        for (value, kind, expected) in [
            (SqlValue::Null, None, "NULL"),
            (SqlValue::Bool(true), None, "1"),
            (SqlValue::Int(-5), None, "-5"),
            (SqlValue::Float(0.1), None, "1e-1"),
            (SqlValue::Float(f64::NAN), None, "NULL"),
            (
                SqlValue::Text("it's \\ 雨".into()),
                Some(PLAIN),
                "N'it''s \\ 雨'",
            ),
            (SqlValue::Text("a'b".into()), Some(PLAIN), "'a''b'"),
            (SqlValue::Text("a".into()), None, "N'a'"),
            (
                SqlValue::Time(1_500_000),
                None,
                "CAST(N'1970-01-01T00:00:01.500000' AS datetime2)",
            ),
            (SqlValue::Bytes(vec![0, 255]), None, "0x00ff"),
        ] {
            assert_eq!(written(&value, kind), expected);
        }
    }
}
