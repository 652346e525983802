//! Makes sure that a database can be followed: its log, its tables, the rights. What may not be changed here is refused with
//! the statement that changes it.

use std::collections::HashSet;

use busbar_change::ColumnsMark;
use busbar_change::mysql::binlog::LogPlace;
use busbar_change::mysql::wire::{identifier, literal};
use busbar_change::mysql::{DescribedColumn, ValueShape};
use busbar_event::{Class, Error};
use bytes::Bytes;

use super::MySqlFollow;
use super::failure::Failed;
use super::link::{Link, MysqlServer};
use crate::change::snapshot::Order;
use crate::change::table_name;

/// A table that is followed.
#[derive(Clone, Debug)]
pub struct BinlogTable {
    pub schema: String,
    pub name: String,
    pub columns: Vec<DescribedColumn>,
    /// Places of the columns of the primary key.
    pub key: Vec<usize>,
    /// Which of these are ordered by their text: the server orders them by a number of their own, but compares texts.
    by_text: Vec<bool>,
    /// How the values of each column of the key are ordered, if they can be compared here.
    pub order: Option<Vec<Order>>,
}

/// Where the log is, and which files of it there are.
#[derive(Clone, Debug, Default)]
pub struct Logs {
    /// The name of the files before the number: `bin`.
    pub base: String,
    /// Number and length of each.
    pub files: Vec<(u32, u64)>,
}

/// Where the first event of a file is.
const FILE_BEGIN: u64 = 4;

impl BinlogTable {
    /// What identifies its columns, of which the log has other words for the types.
    pub fn mark(&self) -> ColumnsMark {
        ColumnsMark::of_names(self.columns.iter().map(|column| column.name.as_str()))
    }

    /// As it is written in SQL.
    pub fn quoted(&self) -> String {
        format!("{}.{}", identifier(&self.schema), identifier(&self.name))
    }

    /// The statement that reads so many rows behind a key, in its order.
    pub fn statement(&self, after: Option<&[String]>, rows: usize) -> String {
        let columns = self.columns.iter().map(|column| {
            let name = identifier(&column.name);
            match column.shape {
                ValueShape::Float => format!("{name} + 0e0"),
                ValueShape::Bytes => format!("CONCAT('0x', LOWER(HEX({name})))"),
                ValueShape::Bits(bits) => format!(
                    "CONCAT('0x', LPAD(LOWER(HEX({name} + 0)), {}, '0'))",
                    bits.div_ceil(8) * 2
                ),
                _ => name,
            }
        });
        let columns: Vec<_> = columns.collect();
        let key: Vec<_> = self
            .key
            .iter()
            .zip(&self.by_text)
            .map(
                |(at, by_text)| match (identifier(&self.columns[*at].name), by_text) {
                    (name, true) => format!("CONVERT({name} USING utf8mb4) COLLATE utf8mb4_bin"),
                    (name, false) => name,
                },
            )
            .collect();
        let mut sql = format!("SELECT {} FROM {}", columns.join(", "), self.quoted());
        if let Some(after) = after {
            let value = |at: usize| self.key_value(at, &after[at]);
            // Written out, so that the index is used.
            let behind = (0..key.len()).map(|last| {
                let same = (0..last)
                    .map(|at| format!("{} = {} AND ", key[at], value(at)))
                    .collect::<String>();
                format!("({same}{} > {})", key[last], value(last))
            });
            sql.push_str(&format!(
                " WHERE {}",
                behind.collect::<Vec<_>>().join(" OR ")
            ));
        }
        sql.push_str(&format!(" ORDER BY {} LIMIT {rows}", key.join(", ")));
        sql
    }
}

impl BinlogTable {
    /// A value of the key, as it is written in SQL.
    fn key_value(&self, at: usize, text: &str) -> String {
        match self.columns[self.key[at]].shape {
            ValueShape::Number | ValueShape::Bits(_) => text.to_owned(),
            ValueShape::Bytes => format!("X'{}'", text.trim_start_matches("0x")),
            _ => literal(text),
        }
    }

    /// The statement that asks for the row of a key once nobody changes it.
    pub fn locking(&self, key: &[Bytes]) -> String {
        let same = self
            .key
            .iter()
            .zip(key)
            .enumerate()
            .map(|(at, (column, text))| {
                let name = identifier(&self.columns[*column].name);
                format!(
                    "{name} = {}",
                    self.key_value(at, &String::from_utf8_lossy(text))
                )
            });
        let same: Vec<_> = same.collect();
        let quoted = self.quoted();
        format!(
            "SELECT 1 FROM {quoted} WHERE {} LOCK IN SHARE MODE",
            same.join(" AND ")
        )
    }
}

impl Logs {
    /// A place as the server's statements name it.
    pub fn shown(&self, place: LogPlace) -> String {
        format!("{}:{}", self.name(place.file), place.byte)
    }

    /// Bytes of the log behind a place.
    pub fn behind(&self, place: LogPlace) -> u64 {
        let files = self.files.iter().filter(|(file, _)| *file >= place.file);
        files
            .map(|(file, length)| match *file == place.file {
                true => length.saturating_sub(place.byte),
                false => *length,
            })
            .sum()
    }

    /// The end of the log.
    pub fn end(&self) -> LogPlace {
        let last = self.files.last().copied().unwrap_or_default();
        LogPlace {
            file: last.0,
            byte: last.1,
        }
    }

    /// Where to go on at a place; `None` if the log does not have it.
    pub fn begin_at(&self, place: LogPlace) -> Option<LogPlace> {
        let mut files = self.files.iter();
        files.find(|(file, length)| *file == place.file && place.byte <= *length)?;
        if u32::try_from(place.byte).is_ok() {
            return Some(place);
        }
        // The server reads from a byte of 32 bits. Behind a transaction that is as large it begins another file.
        let (file, _) = files.next()?;
        Some(LogPlace {
            file: *file,
            byte: FILE_BEGIN,
        })
    }

    /// The name of a file.
    pub fn name(&self, file: u32) -> String {
        format!("{}.{file:06}", self.base)
    }
}

/// The error of a place that is not in the log any more.
pub fn lost(server: &MysqlServer, logs: &Logs, place: String) -> Error {
    let oldest = logs.files.first().map_or(0, |(file, _)| *file);
    Error::new(Class::Configuration, "mysql.position-lost")
        .with("address", &server.address)
        .with("place", place)
        .with("oldest", logs.name(oldest))
}

/// Refuses with the class *configuration*.
fn refuse(server: &MysqlServer, code: &'static str) -> Error {
    Error::new(Class::Configuration, code).with("address", &server.address)
}

/// A refusal to replicate, with the statement that allows it.
pub fn replication_told(server: &MysqlServer, failed: Failed) -> Error {
    match failed.number() {
        1227 | 1045 | 1142 => refuse(server, "mysql.replication-right").with("user", &server.user),
        _ => failed.told(server.doing("", "")),
    }
}

/// Checks how the server writes its log.
///
/// # Errors
/// *Configuration*, with the statement that mends it.
pub async fn check(server: &MysqlServer, link: &mut Link) -> Result<(), Error> {
    let told = |failed: Failed| failed.told(server.doing("", ""));
    let answers = link
        .run("SELECT @@log_bin, @@binlog_format, @@binlog_row_image")
        .await
        .map_err(told)?;
    let text = |column| {
        answers
            .first()
            .and_then(|answer| answer.text(0, column))
            .unwrap_or_default()
    };
    if text(0) != "1" {
        return Err(refuse(server, "mysql.log-off"));
    }
    for (column, variable, wanted) in [(1, "binlog_format", "ROW"), (2, "binlog_row_image", "FULL")]
    {
        if text(column) != wanted {
            return Err(setting(server, variable, wanted, text(column)));
        }
    }
    if !link.version.contains("MariaDB") {
        let answers = link.run("SELECT @@binlog_order_commits, @@gtid_mode").await;
        let answers = answers.map_err(told)?;
        let text = |column| answers.first().and_then(|answer| answer.text(0, column));
        if text(0) != Some("1") && text(1) != Some("ON") {
            return Err(setting(server, "binlog_order_commits", "ON", "OFF"));
        }
    }
    // A server without it is too old to say the names of columns.
    let metadata = match link.run("SELECT @@binlog_row_metadata").await {
        Ok(answers) => answers
            .first()
            .and_then(|answer| answer.text(0, 0))
            .unwrap_or_default()
            .to_owned(),
        Err(failed) if failed.number() == 1193 => "-".to_owned(),
        Err(failed) => return Err(told(failed)),
    };
    match metadata.as_str() {
        "FULL" => Ok(()),
        other => Err(setting(server, "binlog_row_metadata", "FULL", other)),
    }
}

fn setting(server: &MysqlServer, variable: &str, wanted: &str, found: &str) -> Error {
    refuse(server, "mysql.log-setting")
        .with("variable", variable)
        .with("wanted", wanted)
        .with("found", found)
}

/// The files of the log.
///
/// # Errors
/// *Configuration*: the user may not see them.
pub async fn logs(server: &MysqlServer, link: &mut Link) -> Result<Logs, Error> {
    let answers = link.run("SHOW BINARY LOGS").await;
    let answers = answers.map_err(|failed| replication_told(server, failed))?;
    let mut logs = Logs::default();
    let rows = answers.first().map_or(0, |answer| answer.rows.len());
    for row in 0..rows {
        let text = |column| {
            answers
                .first()
                .and_then(|answer| answer.text(row, column))
                .unwrap_or_default()
        };
        if let Some((base, number)) = text(0).rsplit_once('.')
            && let (Ok(number), Ok(length)) = (number.parse(), text(1).parse())
        {
            base.clone_into(&mut logs.base);
            logs.files.push((number, length));
        }
    }
    Ok(logs)
}

/// What tells a server from others: MySQL's identity, or the number that MariaDB's servers have among each other.
///
/// # Errors
/// Why it cannot be read.
pub async fn identity(server: &MysqlServer, link: &mut Link) -> Result<String, Error> {
    let sql = match link.version.contains("MariaDB") {
        true => "SELECT @@server_id",
        false => "SELECT @@server_uuid",
    };
    let answers = link.run(sql).await;
    let answers = answers.map_err(|failed| failed.told(server.doing("", "")))?;
    let text = answers.first().and_then(|answer| answer.text(0, 0));
    Ok(text.unwrap_or_default().to_owned())
}

/// MariaDB's numbers of the last transactions before a place, as a list; empty elsewhere.
///
/// # Errors
/// Why they cannot be read.
pub async fn gtids_at(
    server: &MysqlServer,
    link: &mut Link,
    logs: &Logs,
    place: LogPlace,
) -> Result<String, Error> {
    if !link.version.contains("MariaDB") {
        return Ok(String::new());
    }
    let sql = format!(
        "SELECT BINLOG_GTID_POS({}, {})",
        literal(&logs.name(place.file)),
        place.byte
    );
    let answers = link.run(&sql).await;
    let answers = answers.map_err(|failed| failed.told(server.doing("", "")))?;
    let text = answers.first().and_then(|answer| answer.text(0, 0));
    Ok(text.unwrap_or_default().to_owned())
}

/// The numbers of collations whose texts are UTF-8.
///
/// # Errors
/// Why they cannot be read.
pub async fn collations(server: &MysqlServer, link: &mut Link) -> Result<HashSet<u64>, Error> {
    // MariaDB knows collations of several character sets under the second table only.
    let told = |failed: Failed| failed.told(server.doing("", ""));
    let list = READ_CHARSETS.map(literal).join(", ");
    let maria = link.version.contains("MariaDB");
    let sql = match maria {
        true => format!(
            "SELECT id FROM information_schema.collation_character_set_applicability WHERE character_set_name IN ({list})"
        ),
        false => format!(
            "SELECT id FROM information_schema.collations WHERE character_set_name IN ({list})"
        ),
    };
    let answers = match link.run(&sql).await {
        // Versions before 10.10 have no numbers there.
        Err(Failed::Server(error)) if maria && error.number == UNKNOWN_COLUMN => {
            let sql = format!(
                "SELECT id FROM information_schema.collations WHERE character_set_name IN ({list})"
            );
            link.run(&sql).await
        }
        answers => answers,
    };
    let answers = answers.map_err(told)?;
    let answer = answers.into_iter().next().unwrap_or_default();
    let ids = (0..answer.rows.len()).filter_map(|row| answer.text(row, 0)?.parse().ok());
    Ok(ids.collect())
}

/// Character sets whose texts are UTF-8, or bytes.
const READ_CHARSETS: [&str; 5] = ["utf8mb4", "utf8mb3", "utf8", "ascii", "binary"];

/// The number of a server's error about a column that is not there.
const UNKNOWN_COLUMN: u16 = 1054;

/// The tables that are to be followed, as they are now.
///
/// # Errors
/// *Configuration*: a table is not there, may not be read, or has something that cannot be followed.
pub async fn tables(
    server: &MysqlServer,
    link: &mut Link,
    options: &MySqlFollow,
) -> Result<Vec<BinlogTable>, Error> {
    let mut tables = Vec::new();
    for table in &options.tables {
        let (schema, name) = table_name(table, &server.database);
        let quoted = format!("{}.{}", identifier(schema), identifier(name));
        let doing = server.doing(&quoted, "SELECT");
        let sql = format!(
            "SELECT c.column_name, c.data_type, c.column_type, c.character_set_name, s.seq_in_index, t.engine \
             FROM information_schema.columns c JOIN information_schema.tables t ON t.table_schema = c.table_schema \
             AND t.table_name = c.table_name LEFT JOIN information_schema.statistics s ON s.table_schema = c.table_schema \
             AND s.table_name = c.table_name AND s.column_name = c.column_name AND s.index_name = 'PRIMARY' \
             WHERE c.table_schema = {} AND c.table_name = {} ORDER BY c.ordinal_position; SELECT 1 FROM {quoted} LIMIT 0",
            literal(schema),
            literal(name)
        );
        let answers = link.run(&sql).await.map_err(|failed| failed.told(doing))?;
        let answer = answers.first().cloned().unwrap_or_default();
        let text = |row, column| answer.text(row, column).unwrap_or_default();
        let (mut columns, mut key) = (Vec::new(), Vec::new());
        for row in 0..answer.rows.len() {
            if !text(row, 3).is_empty() && !READ_CHARSETS.contains(&text(row, 3)) {
                return Err(refuse(server, "mysql.charset")
                    .with("table", &quoted)
                    .with("column", text(row, 0))
                    .with("charset", text(row, 3)));
            }
            if let Ok(place) = text(row, 4).parse::<usize>() {
                key.push((place, row));
            }
            columns.push(DescribedColumn {
                name: text(row, 0).to_owned(),
                shape: shape(&text(row, 1).to_lowercase(), text(row, 2)),
            });
        }
        // The snapshot of another engine is of no single moment.
        if !text(0, 5).eq_ignore_ascii_case("InnoDB") {
            return Err(refuse(server, "mysql.engine")
                .with("table", &quoted)
                .with("engine", text(0, 5)));
        }
        key.sort_unstable();
        if key.is_empty() {
            return Err(refuse(server, "mysql.no-identity").with("table", &quoted));
        }
        let key: Vec<_> = key.into_iter().map(|(_, row)| row).collect();
        let float = |at: &&usize| ["float", "double"].contains(&text(**at, 1));
        if let Some(at) = key.iter().find(float) {
            return Err(refuse(server, "mysql.float-key")
                .with("table", &quoted)
                .with("column", text(*at, 0)));
        }
        let by_text: Vec<_> = key
            .iter()
            .map(|at| ["enum", "set"].contains(&text(*at, 1)))
            .collect();
        // Texts are ordered by their collation, which is not known here, and so are digits.
        let order = key
            .iter()
            .zip(&by_text)
            .map(|(at, by_text)| match columns[*at].shape {
                ValueShape::Number => Some(Order::Number),
                ValueShape::Text if !by_text => None,
                _ => Some(Order::Bytes),
            });
        tables.push(BinlogTable {
            schema: schema.to_owned(),
            name: name.to_owned(),
            order: order.collect(),
            by_text,
            columns,
            key,
        });
    }
    Ok(tables)
}

fn shape(kind: &str, whole: &str) -> ValueShape {
    match kind {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "year" | "double" => {
            ValueShape::Number
        }
        "float" => ValueShape::Float,
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "geometry"
        | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
        | "multipolygon" | "geometrycollection" => ValueShape::Bytes,
        "bit" => {
            let bits = whole.trim_start_matches("bit(").trim_end_matches(')');
            ValueShape::Bits(bits.parse().unwrap_or(1))
        }
        "date" => ValueShape::Date,
        "datetime" => ValueShape::DateTime,
        "timestamp" => ValueShape::Timestamp,
        _ => ValueShape::Text,
    }
}
