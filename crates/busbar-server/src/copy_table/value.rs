//! How the values of a column go from one database to another.

use busbar_event::format::FieldType;
use busbar_table::ColumnType;

/// A database that tables are copied from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopyDatabase {
    Postgres,
    MySql,
    /// One behind a JDBC or ODBC driver, which tables are copied from only.
    Driven,
}

impl CopyDatabase {
    /// The database of a kind of connection.
    pub fn of(kind: &str) -> Option<CopyDatabase> {
        match kind {
            "postgres" => Some(CopyDatabase::Postgres),
            "mysql" => Some(CopyDatabase::MySql),
            "jdbc" | "odbc" => Some(CopyDatabase::Driven),
            _ => None,
        }
    }

    /// A name as an identifier.
    pub fn identifier(self, name: &str) -> String {
        match self {
            CopyDatabase::Postgres | CopyDatabase::Driven => {
                format!("\"{}\"", name.replace('"', "\"\""))
            }
            CopyDatabase::MySql => format!("`{}`", name.replace('`', "``")),
        }
    }
}

/// What a column holds, as flows see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopiedValue {
    Bool,
    /// Whole numbers of 64 bits.
    Whole,
    /// Whole numbers of 64 bits without sign.
    Unsigned,
    Float,
    /// Digits altogether, and behind the point.
    Number(u8, i8),
    Day,
    /// A point in time.
    Moment,
    /// A day and a time without a zone, taken as UTC.
    Local,
    Bytes,
    Json,
    Text,
}

/// How values fit a column that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopyFit {
    /// They are written as they are.
    Whole,
    /// They are written as texts, which the database reads.
    AsText,
    /// They are numbers of 32 bits here and there.
    AsSingle,
    /// Numbers become truth values: all but 0 the same one.
    AsBool,
    /// Some would be rounded or cut.
    Lossy,
    Never,
}

/// The digits of a decimal number that a flow computes with.
const DIGITS_MAX: u8 = 38;

/// Digits behind the point of a decimal number of MySQL.
const MYSQL_SCALE_MAX: i8 = 30;

/// A type of a database, as the database writes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyType<'a> {
    pub database: CopyDatabase,
    pub kind: &'a str,
}

impl<'a> CopyType<'a> {
    pub fn new(database: CopyDatabase, kind: &'a str) -> CopyType<'a> {
        CopyType { database, kind }
    }

    /// Whether its values are floating-point numbers of 32 bits.
    pub fn is_single(self) -> bool {
        match self.database {
            CopyDatabase::Postgres => parts(self.kind).0 == "real",
            CopyDatabase::MySql => parts(self.kind).0 == "float",
            CopyDatabase::Driven => false,
        }
    }

    /// Digits behind the seconds of a time.
    fn second_digits(self) -> i32 {
        let most = match self.database {
            CopyDatabase::MySql => 0,
            CopyDatabase::Postgres | CopyDatabase::Driven => 6,
        };
        parts(self.kind).1.first().copied().unwrap_or(most)
    }
}

/// The word of a type and the numbers in its parentheses.
pub(super) fn parts(kind: &str) -> (String, Vec<i32>) {
    let kind = kind.to_lowercase();
    let word = kind.split(['(', ' ', '[']).next().unwrap_or_default();
    let inner = kind.split_once('(').and_then(|(_, rest)| {
        let (inner, _) = rest.split_once(')')?;
        Some(inner.to_owned())
    });
    let numbers = inner.iter().flat_map(|inner| inner.split(','));
    let numbers = numbers.filter_map(|number| number.trim().parse().ok());
    (word.to_owned(), numbers.collect())
}

/// Whether a type holds texts and says no more of them.
pub(super) fn is_text(word: &str) -> bool {
    matches!(
        word,
        "char"
            | "character"
            | "varchar"
            | "text"
            | "tinytext"
            | "mediumtext"
            | "longtext"
            | "bpchar"
            | "clob"
            | "longvarchar"
            | "nchar"
            | "nclob"
            | "ntext"
            | "nvarchar"
            | "nvarchar2"
            | "varchar2"
    )
}

/// A decimal number with these digits altogether and behind the point; a text where a flow cannot compute with it.
fn number(numbers: &[i32]) -> CopiedValue {
    let digits = numbers
        .first()
        .and_then(|digits| u8::try_from(*digits).ok());
    let scale = numbers.get(1).copied().unwrap_or(0);
    match (digits, i8::try_from(scale)) {
        (Some(digits), Ok(scale)) if digits <= DIGITS_MAX && scale >= 0 => {
            CopiedValue::Number(digits, scale)
        }
        _ => CopiedValue::Text,
    }
}

impl CopiedValue {
    /// What a column behind a driver holds, by what it is there and how the driver writes its type.
    pub fn driven(is: ColumnType, kind: &str) -> CopiedValue {
        let (word, numbers) = parts(kind);
        let zone = [
            "with time zone",
            "with local time zone",
            "timestamptz",
            "datetimeoffset",
        ];
        match (is, word.as_str()) {
            (ColumnType::Bool, _) => CopiedValue::Bool,
            (ColumnType::Int, _) => CopiedValue::Whole,
            (
                ColumnType::Float | ColumnType::Text,
                "decimal" | "dec" | "numeric" | "number" | "money" | "smallmoney",
            ) if is == ColumnType::Text || !numbers.is_empty() => number(&numbers),
            (ColumnType::Text, "bigint") => CopiedValue::Unsigned,
            (ColumnType::Float, _) => CopiedValue::Float,
            (ColumnType::Time, _) if zone.iter().any(|zone| kind.to_lowercase().contains(zone)) => {
                CopiedValue::Moment
            }
            (ColumnType::Time, _) => CopiedValue::Local,
            (ColumnType::Binary, _) => CopiedValue::Bytes,
            (ColumnType::Text, "date") => CopiedValue::Day,
            _ => CopiedValue::Text,
        }
    }

    /// Whether a flow cuts values of a type: it computes with microseconds.
    pub fn is_cut(self, kind: &str) -> bool {
        let digits = parts(kind).1.first().copied();
        matches!(self, CopiedValue::Moment | CopiedValue::Local)
            && digits.is_some_and(|digits| digits > 6)
    }

    /// Whether values of a column may grow with each change of a row: they are whole numbers or times.
    pub fn grows(self) -> bool {
        matches!(
            self,
            CopiedValue::Whole | CopiedValue::Number(..) | CopiedValue::Moment | CopiedValue::Local
        )
    }

    /// What a column of a type holds, as the database writes the type; none where changes do not carry its values.
    pub fn of(database: CopyDatabase, kind: &str) -> Option<CopiedValue> {
        let (word, numbers) = parts(kind);
        let lower = kind.to_lowercase();
        // An array of whatever is a text.
        if lower.contains('[') {
            return Some(CopiedValue::Text);
        }
        Some(match word.as_str() {
            "bool" | "boolean" => CopiedValue::Bool,
            "bigint" if lower.contains("unsigned") => CopiedValue::Unsigned,
            "tinyint" | "smallint" | "mediumint" | "int" | "integer" | "bigint" | "year"
            | "smallserial" | "serial" | "bigserial" => CopiedValue::Whole,
            "real" | "float" | "double" => CopiedValue::Float,
            "decimal" | "numeric" => number(&numbers),
            "date" => CopiedValue::Day,
            "datetime" => CopiedValue::Local,
            "timestamp" if lower.contains("without") => CopiedValue::Local,
            "timestamp" => CopiedValue::Moment,
            "bytea" | "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => {
                CopiedValue::Bytes
            }
            "bit" if database == CopyDatabase::MySql => CopiedValue::Bytes,
            "json" | "jsonb" if database == CopyDatabase::Postgres => CopiedValue::Json,
            "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
            | "multipolygon" | "geometrycollection" | "geomcollection"
                if database == CopyDatabase::MySql =>
            {
                return None;
            }
            _ => CopiedValue::Text,
        })
    }

    /// Whether the type says more than the text that its values become: a time of day, a list, a document.
    pub fn becomes_text(self, kind: &str) -> bool {
        matches!(self, CopiedValue::Json | CopiedValue::Text) && !is_text(&parts(kind).0)
    }

    /// The type of the column of the stream.
    pub fn field(self) -> FieldType {
        match self {
            CopiedValue::Bool => FieldType::Bool,
            CopiedValue::Whole => FieldType::Int,
            CopiedValue::Float => FieldType::Float,
            CopiedValue::Moment => FieldType::Time,
            CopiedValue::Json => FieldType::Json,
            CopiedValue::Unsigned
            | CopiedValue::Number(..)
            | CopiedValue::Day
            | CopiedValue::Local
            | CopiedValue::Bytes
            | CopiedValue::Text => FieldType::Text,
        }
    }

    /// What a flow makes of a column of texts that a database reads as they are.
    pub fn as_text(self, column: &str, to: CopyDatabase) -> String {
        match (self, to) {
            // A time there has no zone; that of the session is UTC.
            (CopiedValue::Moment, CopyDatabase::MySql) => format!("rtrim({column}, 'Z')"),
            _ => column.to_owned(),
        }
    }

    /// What a flow makes of the column of a stream of this database, as SQL.
    pub fn computed(self, column: &str, from: CopyDatabase) -> String {
        match self {
            CopiedValue::Unsigned => format!("cast({column} as decimal(20, 0))"),
            CopiedValue::Number(digits, scale) => {
                format!("cast({column} as decimal({digits}, {scale}))")
            }
            CopiedValue::Day => format!("cast({column} as date)"),
            CopiedValue::Local => format!("cast({column} as timestamp(6))"),
            CopiedValue::Bytes if from == CopyDatabase::Driven => {
                format!("decode({column}, 'hex')")
            }
            // `\x00ff` or `0x00ff`
            CopiedValue::Bytes => format!("decode(substr({column}, 3), 'hex')"),
            _ => column.to_owned(),
        }
    }

    /// The type of a column of a table of the node. Numbers that are not of 64 bits are texts with all their digits, unless
    /// they may be rounded.
    pub fn kept(self, lossy: bool) -> ColumnType {
        match self {
            CopiedValue::Bool => ColumnType::Bool,
            CopiedValue::Whole => ColumnType::Int,
            CopiedValue::Float => ColumnType::Float,
            CopiedValue::Unsigned | CopiedValue::Number(..) if lossy => ColumnType::Float,
            CopiedValue::Moment | CopiedValue::Local => ColumnType::Time,
            CopiedValue::Bytes => ColumnType::Binary,
            CopiedValue::Json => ColumnType::Json,
            CopiedValue::Unsigned
            | CopiedValue::Number(..)
            | CopiedValue::Day
            | CopiedValue::Text => ColumnType::Text,
        }
    }

    /// What a flow makes of the column of the stream for a table of the node.
    pub fn computed_to_keep(self, column: &str, from: CopyDatabase, lossy: bool) -> String {
        match (self, self.kept(lossy)) {
            (CopiedValue::Local | CopiedValue::Bytes, _) => self.computed(column, from),
            (_, ColumnType::Float) if self != CopiedValue::Float => {
                format!("cast({column} as double)")
            }
            _ => column.to_owned(),
        }
    }

    /// The type of a column that is made for the values, as the sinks of the database make it.
    pub fn made(self, database: CopyDatabase, key: bool) -> String {
        let mysql = database == CopyDatabase::MySql;
        match self {
            CopiedValue::Bool => "boolean".into(),
            CopiedValue::Whole => "bigint".into(),
            CopiedValue::Unsigned if mysql => "decimal(20,0)".into(),
            CopiedValue::Unsigned => "numeric(20,0)".into(),
            CopiedValue::Float if mysql => "double".into(),
            CopiedValue::Float => "double precision".into(),
            CopiedValue::Number(digits, scale) if mysql && scale <= MYSQL_SCALE_MAX => {
                format!("decimal({digits},{scale})")
            }
            CopiedValue::Number(..) if mysql => CopiedValue::Text.made(database, key),
            CopiedValue::Number(digits, scale) => format!("numeric({digits},{scale})"),
            CopiedValue::Day => "date".into(),
            CopiedValue::Moment | CopiedValue::Local if mysql => "datetime(6)".into(),
            CopiedValue::Moment | CopiedValue::Local => "timestamp with time zone".into(),
            CopiedValue::Bytes if !mysql => "bytea".into(),
            CopiedValue::Bytes if key => "varbinary(255)".into(),
            CopiedValue::Bytes => "longblob".into(),
            CopiedValue::Json | CopiedValue::Text if !mysql => "text".into(),
            _ if key => "varchar(255) character set utf8mb4 collate utf8mb4_bin".into(),
            _ => "longtext character set utf8mb4".into(),
        }
    }

    /// How values of a column of a type fit a column of another one that is there.
    pub fn fit(self, from: CopyType, target: CopyType) -> CopyFit {
        use CopiedValue::{
            Bool, Bytes, Day, Float, Json, Local, Moment, Number, Text, Unsigned, Whole,
        };
        let CopyType { database, kind: to } = target;
        let (word, numbers) = parts(to);
        let (from_word, from_numbers) = parts(from.kind);
        if is_text(&word) && !to.contains('[') {
            return match self {
                Bytes => CopyFit::Never,
                _ => CopyFit::Whole,
            };
        }
        let Some(there) = CopiedValue::of(database, to) else {
            return CopyFit::Never;
        };
        // `numeric` without measures holds whatever number there is.
        let decimal = |word: &str| matches!(word, "numeric" | "decimal");
        let unbounded = decimal(&word) && numbers.is_empty();
        let scale = |numbers: &[i32]| numbers.get(1).copied().unwrap_or(0);
        let fewer = !from_numbers.is_empty() && scale(&from_numbers) <= scale(&numbers);
        match (self, there) {
            (Bool, Bool) | (Whole, Whole) | (Day, Day | Moment | Local) | (Bytes, Bytes) => {
                CopyFit::Whole
            }
            (Bool, Whole) if database == CopyDatabase::MySql => CopyFit::Whole,
            (Whole, Bool) if from_word == "tinyint" && from_numbers == [1] => CopyFit::AsBool,
            (Whole, Number(_, scale)) if scale >= 0 => CopyFit::Whole,
            (Unsigned, Whole | Unsigned) | (Whole, Unsigned) => CopyFit::AsText,
            (Whole | Unsigned | Number(..), Float) => CopyFit::Lossy,
            (Unsigned, Number(..)) => CopyFit::Whole,
            (Whole | Unsigned | Number(..) | Float, Text) if unbounded => CopyFit::Whole,
            (Number(_, scale), Number(_, more)) if scale <= more => CopyFit::Whole,
            (Number(..) | Float, Number(..)) => CopyFit::Lossy,
            (Float, Float) if target.is_single() && from.is_single() => CopyFit::AsSingle,
            (Float, Float) if target.is_single() => CopyFit::Lossy,
            (Float, Float) => CopyFit::Whole,
            (Moment | Local, Moment | Local) if target.second_digits() >= 6 => CopyFit::Whole,
            // A flow computes with microseconds; the text has the digits that the database wrote.
            (Moment, Moment) | (Local, Local)
                if from.database == database && from.second_digits() <= target.second_digits() =>
            {
                CopyFit::AsText
            }
            (Moment | Local, Moment | Local) => CopyFit::Lossy,
            (Moment | Local, Day) => CopyFit::Lossy,
            (Text | Json, Bytes) => CopyFit::Never,
            // A text of the same type there, or a document for a document; other texts may say something else, or nothing.
            (Text, Text) if decimal(&from_word) && decimal(&word) => match unbounded || fewer {
                true => CopyFit::Whole,
                false => CopyFit::Lossy,
            },
            (Text, Text) if from_word == word => CopyFit::Whole,
            (Text | Json, Json) if matches!(from_word.as_str(), "json" | "jsonb") => CopyFit::Whole,
            (Json, Text) if matches!(word.as_str(), "json" | "jsonb") => CopyFit::Whole,
            (Text | Json, _) => CopyFit::Lossy,
            (_, Json) => CopyFit::Never,
            _ => CopyFit::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_as_the_documented_table_says() {
        use CopiedValue::*;
        use CopyDatabase::{MySql, Postgres};
        for (database, kind, value, made) in [
            (MySql, "tinyint(1)", Some(Whole), "bigint"),
            (MySql, "int(10) unsigned", Some(Whole), "bigint"),
            (
                MySql,
                "bigint(20) unsigned",
                Some(Unsigned),
                "numeric(20,0)",
            ),
            (MySql, "decimal(10,2)", Some(Number(10, 2)), "numeric(10,2)"),
            (MySql, "decimal(65,30)", Some(Text), "text"),
            (MySql, "varchar(50)", Some(Text), "text"),
            (MySql, "enum('a','b')", Some(Text), "text"),
            (
                MySql,
                "datetime(6)",
                Some(Local),
                "timestamp with time zone",
            ),
            (MySql, "date", Some(Day), "date"),
            (MySql, "time", Some(Text), "text"),
            (MySql, "float", Some(Float), "double precision"),
            (MySql, "varbinary(16)", Some(Bytes), "bytea"),
            (MySql, "json", Some(Text), "text"),
            (MySql, "point", None, ""),
            (Postgres, "boolean", Some(Bool), "boolean"),
            (
                Postgres,
                "numeric",
                Some(Text),
                "longtext character set utf8mb4",
            ),
            (
                Postgres,
                "numeric(12,3)",
                Some(Number(12, 3)),
                "decimal(12,3)",
            ),
            (
                Postgres,
                "integer[]",
                Some(Text),
                "longtext character set utf8mb4",
            ),
            (
                Postgres,
                "timestamp(3) without time zone",
                Some(Local),
                "datetime(6)",
            ),
            (
                Postgres,
                "jsonb",
                Some(Json),
                "longtext character set utf8mb4",
            ),
            (Postgres, "double precision", Some(Float), "double"),
            (Postgres, "bytea", Some(Bytes), "longblob"),
        ] {
            let found = CopiedValue::of(database, kind);
            assert_eq!(found, value, "{kind}");
            let other = match database {
                MySql => Postgres,
                _ => MySql,
            };
            let there = found.map_or_else(String::new, |value| value.made(other, false));
            assert_eq!(there, made, "{kind}");
        }
    }

    #[test]
    fn columns_behind_drivers_are_what_their_events_have() {
        use ColumnType as C;
        use CopiedValue::*;
        for (is, kind, value) in [
            (C::Bool, "bool", Bool),
            (C::Int, "BIGINT", Whole),
            (C::Int, "NUMBER(10,0)", Whole),
            (C::Float, "NUMERIC(12,4)", Number(12, 4)),
            (C::Text, "NUMBER(38,10)", Number(38, 10)),
            (C::Text, "NUMBER", Text),
            (C::Text, "DECIMAL(60,2)", Text),
            (C::Text, "BIGINT UNSIGNED", Unsigned),
            (C::Float, "DOUBLE PRECISION", Float),
            (C::Float, "float8", Float),
            // Oracle's has a time of day.
            (C::Time, "DATE", Local),
            (C::Text, "DATE", Day),
            (C::Time, "TIMESTAMP", Local),
            (C::Time, "TIMESTAMP(6) WITH TIME ZONE", Moment),
            (C::Time, "timestamptz", Moment),
            (C::Binary, "RAW(16)", Bytes),
            (C::Text, "VARCHAR2(40)", Text),
            (C::Text, "SET(1,2)", Text),
            (C::Text, "UUID", Text),
        ] {
            assert_eq!(CopiedValue::driven(is, kind), value, "{kind}");
        }
        assert!(Local.is_cut("TIMESTAMP(9)") && !Local.is_cut("TIMESTAMP(6)"));
        assert!(!Number(9, 2).is_cut("NUMERIC(9,2)"));
        let bytes = |from| Bytes.computed("b", from);
        assert_eq!(bytes(CopyDatabase::Driven), "decode(b, 'hex')");
        assert_eq!(bytes(CopyDatabase::MySql), "decode(substr(b, 3), 'hex')");
    }

    #[test]
    fn what_would_lose_something_is_refused() {
        use CopyDatabase::{MySql, Postgres};
        for (from, kind, to, there, fit) in [
            (MySql, "int(11)", Postgres, "integer", CopyFit::Whole),
            (
                MySql,
                "int(11)",
                Postgres,
                "double precision",
                CopyFit::Lossy,
            ),
            (MySql, "tinyint(1)", Postgres, "boolean", CopyFit::AsBool),
            (MySql, "int(11)", Postgres, "boolean", CopyFit::Never),
            (
                MySql,
                "decimal(10,3)",
                Postgres,
                "numeric(10,2)",
                CopyFit::Lossy,
            ),
            (MySql, "decimal(10,3)", Postgres, "numeric", CopyFit::Whole),
            (
                MySql,
                "datetime",
                Postgres,
                "timestamp(3) with time zone",
                CopyFit::Lossy,
            ),
            (
                Postgres,
                "timestamp with time zone",
                MySql,
                "datetime",
                CopyFit::Lossy,
            ),
            (
                Postgres,
                "timestamp with time zone",
                MySql,
                "datetime(6)",
                CopyFit::Whole,
            ),
            (
                Postgres,
                "numeric(20,0)",
                MySql,
                "bigint(20) unsigned",
                CopyFit::Never,
            ),
            (Postgres, "text", MySql, "varchar(50)", CopyFit::Whole),
            (Postgres, "text", MySql, "enum('a','b')", CopyFit::Lossy),
            (Postgres, "text", MySql, "int", CopyFit::Lossy),
            (
                MySql,
                "varchar(9)",
                Postgres,
                "numeric(9,2)",
                CopyFit::Lossy,
            ),
            (
                MySql,
                "varchar(9)",
                Postgres,
                "timestamp without time zone",
                CopyFit::Lossy,
            ),
            (MySql, "varchar(36)", Postgres, "uuid", CopyFit::Lossy),
            (Postgres, "uuid", Postgres, "uuid", CopyFit::Whole),
            (
                MySql,
                "time",
                Postgres,
                "time without time zone",
                CopyFit::Whole,
            ),
            (MySql, "decimal(65,30)", Postgres, "numeric", CopyFit::Whole),
            (MySql, "json", Postgres, "jsonb", CopyFit::Whole),
            (Postgres, "jsonb", MySql, "json", CopyFit::Whole),
            (MySql, "longtext", Postgres, "jsonb", CopyFit::Lossy),
            (Postgres, "numeric", Postgres, "numeric", CopyFit::Whole),
            (MySql, "tinyint(1)", Postgres, "boolean", CopyFit::AsBool),
            (Postgres, "double precision", MySql, "float", CopyFit::Lossy),
            (Postgres, "real", MySql, "float", CopyFit::AsSingle),
            (MySql, "float", MySql, "double", CopyFit::Whole),
            (MySql, "datetime", MySql, "datetime", CopyFit::AsText),
            (MySql, "datetime(3)", MySql, "datetime(2)", CopyFit::Lossy),
            (MySql, "datetime", MySql, "timestamp", CopyFit::Lossy),
            (
                Postgres,
                "numeric(50,10)",
                Postgres,
                "numeric(50,9)",
                CopyFit::Lossy,
            ),
            (
                Postgres,
                "numeric(50,10)",
                Postgres,
                "numeric(60,10)",
                CopyFit::Whole,
            ),
            (Postgres, "bytea", MySql, "longtext", CopyFit::Never),
            (Postgres, "boolean", MySql, "tinyint(1)", CopyFit::Whole),
            (Postgres, "date", MySql, "date", CopyFit::Whole),
            (
                Postgres,
                "timestamp without time zone",
                MySql,
                "date",
                CopyFit::Lossy,
            ),
        ] {
            let value = CopiedValue::of(from, kind).expect("a value");
            let (from, to) = (CopyType::new(from, kind), CopyType::new(to, there));
            assert_eq!(value.fit(from, to), fit, "{kind} to {there}");
        }
    }
}
