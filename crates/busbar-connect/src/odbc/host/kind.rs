//! As which type values of a column are handled.

use crate::driver::sql;

/// The type of [`sql`] for a driver's number, its name for the type, and the size of a column.
pub fn kind_of(raw: i32, type_name: &str, size: usize) -> i32 {
    let name = type_name.to_lowercase();
    match name.as_str() {
        "timestamptz" | "datetimeoffset" => return sql::TIMESTAMP_WITH_TIMEZONE,
        "timetz" => return sql::OTHER,
        "bool" | "boolean" => return sql::BOOLEAN,
        "uuid" | "uniqueidentifier" | "json" | "jsonb" | "xml" => return sql::OTHER,
        "year" => return sql::SMALLINT,
        _ => {}
    }
    if name.starts_with("timestamp") && name.contains("with") && !name.contains("without") {
        return sql::TIMESTAMP_WITH_TIMEZONE;
    }
    if name.contains("unsigned") {
        match () {
            () if name.starts_with("bigint") => return sql::NUMERIC,
            () if name.starts_with("int") => return sql::BIGINT,
            () => {}
        }
    }
    // SQLite's driver takes them for texts.
    if raw == 12 && (name.starts_with("decimal") || name.starts_with("numeric")) {
        return sql::NUMERIC;
    }
    match raw {
        // Types of SQL Server and Db2 that have numbers of their own.
        -155 => sql::TIMESTAMP_WITH_TIMEZONE,
        -154 => sql::TIME,
        -98 => sql::BLOB,
        -99 | -350 => sql::CLOB,
        -360 => sql::NUMERIC,
        // BIT; SQL Server's truth values, and PostgreSQL's bits.
        -7 if size <= 1 => sql::BOOLEAN,
        -7 => sql::VARCHAR,
        // DECIMAL and NUMERIC, FLOAT and DOUBLE.
        2 | 3 => sql::NUMERIC,
        6 | 8 => sql::DOUBLE,
        // WCHAR; LONGVARCHAR, WVARCHAR, WLONGVARCHAR.
        -8 => sql::CHAR,
        -1 | -9 | -10 => sql::VARCHAR,
        // BINARY, VARBINARY, LONGVARBINARY.
        -4..=-2 => sql::VARBINARY,
        // Times of version 2.
        9 => sql::DATE,
        10 => sql::TIME,
        11 => sql::TIMESTAMP,
        sql::TINYINT
        | sql::SMALLINT
        | sql::INTEGER
        | sql::BIGINT
        | sql::REAL
        | sql::CHAR
        | sql::VARCHAR
        | sql::DATE
        | sql::TIME
        | sql::TIMESTAMP => raw,
        _ => sql::OTHER,
    }
}
