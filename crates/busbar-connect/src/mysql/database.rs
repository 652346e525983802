//! The database for look-ups, queries and statements of flows.

use busbar_change::mysql::wire::{identifier, literal};
use busbar_connector::{
    ColumnType, PoolUse, SqlColumn, SqlCompares, SqlDatabase, SqlRows, SqlStatement, SqlTable,
    SqlValue, Work, number_kind,
};
use busbar_event::Error;

use super::link::MysqlServer;
use crate::relational::selected::{CatalogueColumn, PooledServer};

/// Sessions with a server, and what is asked over them.
pub struct MysqlDatabase(PooledServer<MysqlServer>);

impl MysqlDatabase {
    pub(super) fn new(name: &str, server: MysqlServer, sessions: u16) -> MysqlDatabase {
        let wait = server.timeout;
        MysqlDatabase(PooledServer::new(name, server, sessions, wait, written))
    }
}

impl SqlDatabase for MysqlDatabase {
    fn quoted(&self, name: &str) -> String {
        identifier(name)
    }

    fn describe<'a>(&'a self, path: &'a [String]) -> Work<'a, Result<Option<SqlTable>, Error>> {
        let place = match path {
            [table] => [&*self.0.server.database, table.as_str()],
            [schema, table] => [schema.as_str(), table.as_str()],
            _ => return Box::pin(async { Ok(None) }),
        };
        let sql = [
            "SELECT table_schema, table_name, column_name, data_type, \
             COALESCE(numeric_precision, -1), COALESCE(numeric_scale, 0) \
             FROM information_schema.columns WHERE table_schema = ",
            " AND table_name = ",
            " ORDER BY table_schema, table_name, ordinal_position",
        ];
        Box::pin(self.0.catalogued(place, sql, catalogued))
    }

    fn run<'a>(&'a self, statement: &'a SqlStatement) -> Work<'a, Result<Box<dyn SqlRows>, Error>> {
        Box::pin(self.0.begin(statement))
    }

    fn made_for(&self, kind: ColumnType, key: bool) -> Option<String> {
        Some(super::values::made_for(&kind.arrow(), key))
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
        bound: None,
        compares,
    }
}

/// A value as a literal. Sessions take backslashes as they are.
fn written(value: &SqlValue, _: Option<&str>) -> String {
    match value {
        SqlValue::Null => "NULL".to_owned(),
        SqlValue::Bool(true) => "1".to_owned(),
        SqlValue::Bool(false) => "0".to_owned(),
        SqlValue::Int(value) => value.to_string(),
        // There are no others there.
        SqlValue::Float(value) if !value.is_finite() => "NULL".to_owned(),
        // With an exponent it is a floating-point number, not a decimal one.
        SqlValue::Float(value) => format!("{value:e}"),
        SqlValue::Bytes(bytes) => {
            let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
            format!("X'{}'", digits.collect::<String>())
        }
        other => literal(&other.text().unwrap_or_default()),
    }
}

/// What a column of a type holds without loss, and which comparisons are the same here and there.
fn column_kind(kind: &str, precision: i32, scale: i32) -> (ColumnType, SqlCompares) {
    match kind {
        "tinyint" | "smallint" | "mediumint" | "int" | "integer" | "bigint" | "year" => {
            (ColumnType::Int, SqlCompares::All)
        }
        "decimal" | "numeric" => match number_kind(precision, scale) {
            ColumnType::Text => (ColumnType::Text, SqlCompares::Never),
            kind => (kind, SqlCompares::All),
        },
        "double" => (ColumnType::Float, SqlCompares::All),
        "float" => (ColumnType::Float, SqlCompares::Never),
        "datetime" | "timestamp" => (ColumnType::Time, SqlCompares::All),
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "bit" => {
            (ColumnType::Binary, SqlCompares::Never)
        }
        "json" => (ColumnType::Json, SqlCompares::Never),
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "enum" | "date"
        | "uuid" => (ColumnType::Text, SqlCompares::AtLeastEqual),
        _ => (ColumnType::Text, SqlCompares::Never),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_literals_that_stay_one_value() {
        for (value, expected) in [
            (SqlValue::Null, "NULL"),
            (SqlValue::Bool(true), "1"),
            (SqlValue::Int(-5), "-5"),
            (SqlValue::Float(0.1), "1e-1"),
            (SqlValue::Float(f64::NAN), "NULL"),
            (SqlValue::Text("it's \\ 雨".into()), "'it''s \\ 雨'"),
            (SqlValue::Time(1_500_000), "'1970-01-01 00:00:01.500000'"),
            (SqlValue::Bytes(vec![0, 255]), "X'00ff'"),
        ] {
            assert_eq!(written(&value, None), expected);
        }
    }
}
