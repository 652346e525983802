//! The types that columns are made with: those that the source declares where both databases are of one kind, otherwise the
//! narrowest that are known to hold every value.

use busbar_connector::SurveyedColumn;

use super::value::{CopiedValue, CopyDatabase, CopyFit, CopyType, is_text, parts};

/// Makes types for the columns of one table.
pub(super) struct MadeTypes {
    from: CopyDatabase,
    to: CopyDatabase,
    /// Bytes that a row, and its key, may still take.
    row: usize,
    key: usize,
}

/// Bytes of a row of MySQL and MariaDB without large values, and of a key of InnoDB. A row also has bits for what is null.
const MYSQL_ROW_BYTES: usize = 65_000;
const MYSQL_KEY_BYTES: usize = 3_072;

/// Bytes of a character of utf8mb4.
const MYSQL_CHAR_BYTES: usize = 4;

/// Bytes of a value that is no text and no bytes, or that a row only points to: at most those of `decimal(65,30)`.
const MYSQL_VALUE_BYTES: usize = 32;

/// Characters of a `uuid`.
const UUID_CHARS: i32 = 36;

impl MadeTypes {
    /// For a table of the database `to`.
    pub fn new(from: CopyDatabase, to: CopyDatabase) -> MadeTypes {
        MadeTypes {
            from,
            to,
            row: MYSQL_ROW_BYTES,
            key: MYSQL_KEY_BYTES,
        }
    }

    /// The type for a column with these values, and how they fit it.
    pub fn of(
        &mut self,
        column: &SurveyedColumn,
        value: CopiedValue,
        key: bool,
    ) -> (String, CopyFit) {
        let from = CopyType::new(self.from, &column.kind);
        let wanted = match self.from == self.to {
            true => declared(from, key),
            false => narrowest(from, value, self.to, key),
        };
        if let Some(kind) = wanted.filter(|kind| self.has_room(kind, key)) {
            let fit = value.fit(from, CopyType::new(self.to, &kind));
            if !matches!(fit, CopyFit::Lossy | CopyFit::AsBool | CopyFit::Never) {
                self.take(&kind, key);
                return (kind, fit);
            }
        }
        let kind = value.made(self.to, key);
        self.take(&kind, key);
        (kind, CopyFit::Whole)
    }

    fn has_room(&self, kind: &str, key: bool) -> bool {
        let bytes = mysql_bytes(kind);
        self.to != CopyDatabase::MySql || bytes <= self.row && !(key && bytes > self.key)
    }

    fn take(&mut self, kind: &str, key: bool) {
        let bytes = mysql_bytes(kind);
        self.row = self.row.saturating_sub(bytes);
        if key {
            self.key = self.key.saturating_sub(bytes);
        }
    }
}

/// Bytes of a value in a row of MySQL, at most.
fn mysql_bytes(kind: &str) -> usize {
    let (word, numbers) = parts(kind);
    let length = numbers.first().copied().unwrap_or(1);
    let length = usize::try_from(length).unwrap_or(0);
    match word.as_str() {
        "char" | "varchar" => length.saturating_mul(MYSQL_CHAR_BYTES),
        "binary" | "varbinary" => length,
        _ => MYSQL_VALUE_BYTES,
    }
}

/// A type as it is declared, where it means the same in another database of its kind.
fn declared(from: CopyType, key: bool) -> Option<String> {
    let CopyType { database, kind } = from;
    let (word, _) = parts(kind);
    match database {
        CopyDatabase::Postgres => postgres(&word, kind),
        CopyDatabase::MySql => mysql(&word, kind, key),
        CopyDatabase::Driven => None,
    }
}

/// Whether a type is words and measures, without anything that would have to be quoted.
fn is_plain(kind: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b" (),[]".contains(&b);
    kind.bytes().all(fits)
}

fn postgres(word: &str, kind: &str) -> Option<String> {
    let known = matches!(
        word,
        "bigint"
            | "bit"
            | "boolean"
            | "box"
            | "bytea"
            | "character"
            | "cidr"
            | "circle"
            | "date"
            | "daterange"
            | "double"
            | "inet"
            | "int4range"
            | "int8range"
            | "integer"
            | "interval"
            | "json"
            | "jsonb"
            | "line"
            | "lseg"
            | "macaddr"
            | "macaddr8"
            | "numeric"
            | "numrange"
            | "path"
            | "point"
            | "polygon"
            | "real"
            | "smallint"
            | "text"
            | "time"
            | "timestamp"
            | "tsrange"
            | "tstzrange"
            | "uuid"
    );
    if !known || !is_plain(kind) {
        return None;
    }
    // What a duration or a member of a list has more than the measure says would be cut without a word.
    Some(match word == "interval" || kind.contains('[') {
        true => without_measures(kind),
        false => kind.to_owned(),
    })
}

fn without_measures(kind: &str) -> String {
    match (kind.split_once('('), kind.split_once(')')) {
        (Some((before, _)), Some((_, behind))) => format!("{before}{behind}"),
        _ => kind.to_owned(),
    }
}

fn mysql(word: &str, kind: &str, key: bool) -> Option<String> {
    let is_listed = matches!(word, "enum" | "set");
    let known = match word {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "year" | "float" | "double"
        | "decimal" | "date" | "datetime" | "time" | "char" | "varchar" | "binary"
        | "varbinary" | "bit" => is_plain(kind),
        // A key has only a part of a large value, and a time stamp in it would be set by the server.
        "tinytext" | "text" | "mediumtext" | "longtext" | "tinyblob" | "blob" | "mediumblob"
        | "longblob" | "json" | "timestamp" => is_plain(kind) && !key,
        _ => is_listed && kind.get(word.len()..).is_some_and(is_list),
    };
    if !known {
        return None;
    }
    let mut made = kind.to_owned();
    if is_text(word) || is_listed {
        made.push_str(" character set utf8mb4");
        if key {
            made.push_str(" collate utf8mb4_bin");
        }
    }
    // Without it the server sets the first time stamp of a row by itself.
    if word == "timestamp" {
        made.push_str(" null");
    }
    Some(made)
}

/// Whether this is `('a','it''s')`.
fn is_list(text: &str) -> bool {
    let inner = text
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'));
    let Some(mut rest) = inner.filter(|inner| !inner.contains('\\')) else {
        return false;
    };
    loop {
        let Some(inner) = rest.strip_prefix('\'') else {
            return false;
        };
        let mut chars = inner.char_indices().peekable();
        let mut behind = None;
        while let Some((at, c)) = chars.next() {
            // Written twice, it is one of the member.
            if c == '\'' && chars.next_if(|(_, next)| *next == '\'').is_none() {
                behind = inner.get(at + 1..);
                break;
            }
        }
        match behind {
            None => return false,
            Some("") => return true,
            Some(behind) => match behind.strip_prefix(',') {
                None => return false,
                Some(next) => rest = next,
            },
        }
    }
}

/// The narrowest type of another database that holds every value of a declared one; none where the declaration says no more
/// than the values.
fn narrowest(from: CopyType, value: CopiedValue, to: CopyDatabase, key: bool) -> Option<String> {
    // What a driver says of lengths is not always what its database holds to.
    if from.database == CopyDatabase::Driven {
        return None;
    }
    let mysql = to == CopyDatabase::MySql;
    let (word, numbers) = parts(from.kind);
    let unsigned = from.kind.contains("unsigned");
    let kind = match (value, word.as_str()) {
        (CopiedValue::Whole, "tinyint" | "year") => "smallint",
        (CopiedValue::Whole, "smallint") if !unsigned => "smallint",
        (CopiedValue::Whole, "smallint" | "mediumint") => "integer",
        (CopiedValue::Whole, "int" | "integer") if !unsigned => "integer",
        (CopiedValue::Float, _) if from.is_single() && mysql => "float",
        (CopiedValue::Float, _) if from.is_single() => "real",
        (CopiedValue::Text, "char" | "varchar" | "character" | "uuid")
            if !from.kind.contains('[') =>
        {
            let length = match word.as_str() {
                "uuid" => UUID_CHARS,
                _ => *numbers.first().filter(|length| **length > 0)?,
            };
            return Some(match (mysql, key) {
                (false, _) => format!("character varying({length})"),
                (true, false) => format!("varchar({length}) character set utf8mb4"),
                (true, true) => {
                    format!("varchar({length}) character set utf8mb4 collate utf8mb4_bin")
                }
            });
        }
        _ => return None,
    };
    Some(kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use CopyDatabase::{Driven, MySql, Postgres};

    fn made(from: CopyDatabase, kind: &str, to: CopyDatabase, key: bool) -> (String, CopyFit) {
        let column = SurveyedColumn {
            name: "c".into(),
            kind: kind.into(),
            key,
            required: key,
        };
        let value = CopiedValue::of(from, kind).expect("a value");
        MadeTypes::new(from, to).of(&column, value, key)
    }

    #[test]
    fn a_declared_type_stays_in_a_database_of_its_kind() {
        for kind in [
            "smallint",
            "integer",
            "bigint",
            "real",
            "double precision",
            "numeric",
            "numeric(50,10)",
            "boolean",
            "date",
            "time(3) without time zone",
            "timestamp without time zone",
            "timestamp(3) with time zone",
            "character varying(50)",
            "character(10)",
            "text",
            "bytea",
            "uuid",
            "jsonb",
            "inet",
            "integer[]",
        ] {
            assert_eq!(made(Postgres, kind, Postgres, false).0, kind);
        }
        for kind in [
            "tinyint(1)",
            "int(11)",
            "int(10) unsigned",
            "bigint(20) unsigned",
            "float",
            "decimal(65,30)",
            "date",
            "datetime",
            "datetime(3)",
            "time(6)",
            "year(4)",
            "binary(16)",
            "varbinary(9)",
            "mediumblob",
            "bit(10)",
        ] {
            assert_eq!(made(MySql, kind, MySql, false).0, kind);
        }
        for (kind, key, expected) in [
            ("varchar(50)", false, "varchar(50) character set utf8mb4"),
            (
                "varchar(50)",
                true,
                "varchar(50) character set utf8mb4 collate utf8mb4_bin",
            ),
            ("text", false, "text character set utf8mb4"),
            (
                "text",
                true,
                "varchar(255) character set utf8mb4 collate utf8mb4_bin",
            ),
            (
                "enum('A b','it''s','')",
                false,
                "enum('A b','it''s','') character set utf8mb4",
            ),
            ("timestamp(3)", false, "timestamp(3) null"),
            ("timestamp", true, "datetime(6)"),
            // A longer key has no room.
            (
                "varchar(800)",
                true,
                "varchar(255) character set utf8mb4 collate utf8mb4_bin",
            ),
        ] {
            assert_eq!(made(MySql, kind, MySql, key).0, expected, "{kind}");
        }
        assert_eq!(made(MySql, "float", MySql, false).1, CopyFit::AsSingle);
        assert_eq!(made(MySql, "datetime", MySql, false).1, CopyFit::AsText);
        assert_eq!(
            made(MySql, "bigint(20) unsigned", MySql, false).1,
            CopyFit::AsText
        );
        assert_eq!(made(Postgres, "interval(3)", Postgres, false).0, "interval");
        assert_eq!(
            made(Postgres, "numeric(9,2)[]", Postgres, false).0,
            "numeric[]"
        );
    }

    #[test]
    fn a_type_that_may_be_another_one_there_is_a_text() {
        for kind in ["mood", "public.mood", "\"char\"", "text); drop table t --"] {
            assert_eq!(made(Postgres, kind, Postgres, false).0, "text", "{kind}");
        }
        for kind in [
            "enum('a\\\\')",
            "enum('a') x",
            "enum('a','b'",
            "enum('a''",
            "enum(a)",
            "inet6",
            "varchar(9)'",
        ] {
            assert_eq!(
                made(MySql, kind, MySql, false).0,
                "longtext character set utf8mb4",
                "{kind}"
            );
        }
    }

    #[test]
    fn another_database_gets_the_narrowest_type_that_holds_every_value() {
        for (from, kind, to, expected) in [
            (MySql, "tinyint(1)", Postgres, "smallint"),
            (MySql, "smallint(5) unsigned", Postgres, "integer"),
            (MySql, "mediumint(8) unsigned", Postgres, "integer"),
            (MySql, "int(11)", Postgres, "integer"),
            (MySql, "int(10) unsigned", Postgres, "bigint"),
            (MySql, "bigint(20) unsigned", Postgres, "numeric(20,0)"),
            (MySql, "float", Postgres, "real"),
            (MySql, "varchar(50)", Postgres, "character varying(50)"),
            (MySql, "varchar(0)", Postgres, "text"),
            (MySql, "enum('a')", Postgres, "text"),
            (Postgres, "smallint", MySql, "smallint"),
            (Postgres, "real", MySql, "float"),
            (Postgres, "numeric(38,30)", MySql, "decimal(38,30)"),
            (
                Postgres,
                "numeric(38,31)",
                MySql,
                "longtext character set utf8mb4",
            ),
            (
                Postgres,
                "character varying(50)",
                MySql,
                "varchar(50) character set utf8mb4",
            ),
            (
                Postgres,
                "character varying",
                MySql,
                "longtext character set utf8mb4",
            ),
            (
                Postgres,
                "character varying(20000)",
                MySql,
                "longtext character set utf8mb4",
            ),
            (Postgres, "uuid", MySql, "varchar(36) character set utf8mb4"),
            (Postgres, "uuid[]", MySql, "longtext character set utf8mb4"),
            (Driven, "varchar(40)", Postgres, "text"),
        ] {
            assert_eq!(made(from, kind, to, false).0, expected, "{kind}");
        }
    }

    #[test]
    fn columns_of_a_row_of_mysql_share_its_room() {
        let mut types = MadeTypes::new(MySql, MySql);
        let mut column = |kind: &str, key| {
            let column = SurveyedColumn {
                name: "c".into(),
                kind: kind.into(),
                key,
                required: key,
            };
            types.of(&column, CopiedValue::Text, key).0
        };
        assert!(column("varchar(400)", true).starts_with("varchar(400)"));
        // What is left of the key is less than 2000 bytes.
        assert!(column("varchar(500)", true).starts_with("varchar(255)"));
        assert!(column("varchar(15000)", false).starts_with("varchar(15000)"));
        assert!(column("varchar(15000)", false).starts_with("longtext"));
        assert!(column("varchar(10)", false).starts_with("varchar(10)"));
    }
}
