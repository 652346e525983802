//! Makes sure that a database can be followed: its log, its tables, the rights. What may not be changed here is refused with
//! the statement that changes it.

use busbar_event::{Class, Error};
use bytes::Bytes;

use super::Follow;
use super::binlog::Place;
use super::failure::Failed;
use super::limits::{CHUNK_BYTES, CHUNK_ROWS};
use super::link::{Answer, Link, Server};
use super::wire::{identifier, literal};
use crate::change::snapshot::Order;
use crate::change::table_name;

/// A table that is followed.
#[derive(Clone, Debug)]
pub struct Followed {
    pub schema: String,
    pub name: String,
    pub columns: Vec<Described>,
    /// Places of the columns of the primary key.
    pub key: Vec<usize>,
    /// How the values of each column of the key are ordered, if they can be compared here.
    pub order: Option<Vec<Order>>,
}

/// A column as the catalogue describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    pub name: String,
    pub shape: Shape,
}

/// How the values of a column are written in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Number,
    Text,
    /// `0x00ff`.
    Bytes,
    /// The same, from a number of so many bits.
    Bits(u32),
    Date,
    DateTime,
    /// A time in UTC.
    Timestamp,
}

/// Where the log is, and which files of it there are.
#[derive(Clone, Debug, Default)]
pub struct Logs {
    /// The name of the files before the number: `bin`.
    pub base: String,
    /// Number and length of each.
    pub files: Vec<(u32, u64)>,
}

impl Followed {
    /// As it is written in SQL.
    pub fn quoted(&self) -> String {
        format!("{}.{}", identifier(&self.schema), identifier(&self.name))
    }

    /// As people write it.
    pub fn shown(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// The statement that reads so many rows behind a key, in its order.
    pub fn statement(&self, after: Option<&[String]>, rows: usize) -> String {
        let columns = self.columns.iter().map(|column| {
            let name = identifier(&column.name);
            match column.shape {
                Shape::Bytes => format!("CONCAT('0x', LOWER(HEX({name})))"),
                Shape::Bits(bits) => format!(
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
            .map(|at| identifier(&self.columns[*at].name))
            .collect();
        let mut sql = format!("SELECT {} FROM {}", columns.join(", "), self.quoted());
        if let Some(after) = after {
            let value = |at: usize| match self.columns[self.key[at]].shape {
                Shape::Number | Shape::Bytes | Shape::Bits(_) => after[at].clone(),
                _ => literal(&after[at]),
            };
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

impl Logs {
    /// Bytes of the log behind a place.
    pub fn behind(&self, place: Place) -> u64 {
        let files = self.files.iter().filter(|(file, _)| *file >= place.file);
        files
            .map(|(file, length)| match *file == place.file {
                true => length.saturating_sub(u64::from(place.byte)),
                false => *length,
            })
            .sum()
    }

    /// The end of the log.
    pub fn end(&self) -> Place {
        let last = self.files.last().copied().unwrap_or_default();
        Place {
            file: last.0,
            byte: u32::try_from(last.1).unwrap_or(u32::MAX),
        }
    }

    /// The name of a file.
    pub fn name(&self, file: u32) -> String {
        format!("{}.{file:06}", self.base)
    }
}

/// Refuses with the class *configuration*.
fn refuse(server: &Server, code: &'static str) -> Error {
    Error::new(Class::Configuration, code).with("address", &server.address)
}

/// A refusal to replicate, with the statement that allows it.
pub fn replication_told(server: &Server, failed: Failed) -> Error {
    match failed.number() {
        1227 | 1045 | 1142 => refuse(server, "mysql.replication-right").with("user", &server.user),
        _ => failed.told(server.doing("", "")),
    }
}

/// Checks how the server writes its log.
///
/// # Errors
/// *Configuration*, with the statement that mends it.
pub async fn check(server: &Server, link: &mut Link) -> Result<(), Error> {
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

fn setting(server: &Server, variable: &str, wanted: &str, found: &str) -> Error {
    refuse(server, "mysql.log-setting")
        .with("variable", variable)
        .with("wanted", wanted)
        .with("found", found)
}

/// The files of the log.
///
/// # Errors
/// *Configuration*: the user may not see them.
pub async fn logs(server: &Server, link: &mut Link) -> Result<Logs, Error> {
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

/// The tables that are to be followed, as they are now.
///
/// # Errors
/// *Configuration*: a table is not there, may not be read, or has something that cannot be followed.
pub async fn tables(
    server: &Server,
    link: &mut Link,
    options: &Follow,
) -> Result<Vec<Followed>, Error> {
    let mut tables = Vec::new();
    for table in &options.tables {
        let (schema, name) = table_name(table, &server.database);
        let quoted = format!("{}.{}", identifier(schema), identifier(name));
        let doing = server.doing(&quoted, "SELECT");
        let sql = format!(
            "SELECT c.column_name, c.data_type, c.column_type, c.character_set_name, s.seq_in_index \
             FROM information_schema.columns c LEFT JOIN information_schema.statistics s ON s.table_schema = c.table_schema \
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
            if !["", "utf8mb4", "utf8mb3", "utf8", "ascii", "binary"].contains(&text(row, 3)) {
                return Err(refuse(server, "mysql.charset")
                    .with("table", &quoted)
                    .with("column", text(row, 0))
                    .with("charset", text(row, 3)));
            }
            if text(row, 1) == "json" && !link.version.contains("MariaDB") {
                return Err(refuse(server, "mysql.json-column")
                    .with("table", &quoted)
                    .with("column", text(row, 0)));
            }
            if let Ok(place) = text(row, 4).parse::<usize>() {
                key.push((place, row));
            }
            columns.push(Described {
                name: text(row, 0).to_owned(),
                shape: shape(&text(row, 1).to_lowercase(), text(row, 2)),
            });
        }
        key.sort_unstable();
        if key.is_empty() {
            return Err(refuse(server, "mysql.no-identity").with("table", &quoted));
        }
        let key: Vec<_> = key.into_iter().map(|(_, row)| row).collect();
        let numbers = key.iter().all(|at| {
            columns[*at].shape == Shape::Number && !matches!(text(*at, 1), "float" | "double")
        });
        tables.push(Followed {
            schema: schema.to_owned(),
            name: name.to_owned(),
            order: numbers.then(|| vec![Order::Number; key.len()]),
            columns,
            key,
        });
    }
    Ok(tables)
}

fn shape(kind: &str, whole: &str) -> Shape {
    match kind {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "year" | "float" | "double" => {
            Shape::Number
        }
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "geometry"
        | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
        | "multipolygon" | "geometrycollection" => Shape::Bytes,
        "bit" => {
            let bits = whole.trim_start_matches("bit(").trim_end_matches(')');
            Shape::Bits(bits.parse().unwrap_or(1))
        }
        "date" => Shape::Date,
        "datetime" => Shape::DateTime,
        "timestamp" => Shape::Timestamp,
        _ => Shape::Text,
    }
}

/// A chunk of a table as it was read.
pub struct Chunk {
    pub answer: Answer,
    /// The place in the log up to which it saw everything. MariaDB says it exactly; elsewhere it may have seen more.
    pub seen: Place,
    /// Nothing is behind it.
    pub last: bool,
}

/// Reads the rows behind a key, at most so many.
///
/// # Errors
/// Why it failed.
pub async fn chunk(
    server: &Server,
    link: &mut Link,
    table: &Followed,
    after: Option<&[String]>,
    rows: usize,
) -> Result<Chunk, Failed> {
    let before = logs(server, link).await?.end();
    let begun = link
        .run("START TRANSACTION WITH CONSISTENT SNAPSHOT; SHOW STATUS LIKE 'binlog_snapshot_%'")
        .await?;
    let status = begun.get(1).cloned().unwrap_or_default();
    let of = |name: &str| {
        let row = (0..status.rows.len()).find(|row| {
            status
                .text(*row, 0)
                .is_some_and(|there| there.eq_ignore_ascii_case(name))
        });
        row.and_then(|row| status.text(row, 1))
    };
    let file = of("binlog_snapshot_file").and_then(|file| file.rsplit_once('.')?.1.parse().ok());
    let byte = of("binlog_snapshot_position").and_then(|byte| byte.parse().ok());
    let seen = match (file, byte) {
        (Some(file), Some(byte)) => Place { file, byte },
        _ => before,
    };
    let answers = link.run(&table.statement(after, rows)).await?;
    link.run("COMMIT").await?;
    let answer = answers.into_iter().next().unwrap_or_default();
    let last = answer.rows.len() < rows;
    Ok(Chunk { answer, seen, last })
}

/// How many rows the next chunk has, so that it stays within its bytes.
pub fn next_rows(answer: &Answer) -> usize {
    let bytes: usize = answer.rows.iter().flatten().flatten().map(Bytes::len).sum();
    let each = bytes / answer.rows.len().max(1) + 1;
    (CHUNK_BYTES / each).clamp(1, CHUNK_ROWS)
}
