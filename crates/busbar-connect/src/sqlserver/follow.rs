//! The tables whose changes are followed, and what the server must have for it.

use std::sync::Arc;

use busbar_change::ColumnsMark;
use busbar_connector::ColumnType;
use busbar_event::{Class, Error};
use bytes::Bytes;

use super::failure::MssqlFailed;
use super::limits::CHUNK_BYTES_MAX;
use super::link::{MssqlAnswer, MssqlFetched, MssqlHead, MssqlLink, MssqlServer, strange};
use super::lsn::MssqlLsn;
use super::sink::DEFAULT_SCHEMA;
use super::token::TdsColumn;
use super::wire::{identifier, literal, qualified};
use super::{MssqlFollow, MssqlFollowBy};
use crate::change::snapshot::Order;
use crate::change::table_name;
use crate::relational::keyed_pages::behind;

/// A table that is followed.
pub struct MssqlFollowed {
    pub schema: String,
    pub name: String,
    /// The columns that are read.
    pub columns: Arc<[TdsColumn]>,
    /// Places of the key among them.
    pub key: Vec<usize>,
    /// How keys are compared here; none where only the server can.
    pub order: Option<Vec<Order>>,
    /// Where its changes are, from the oldest; with change tracking there are none.
    pub instances: Vec<CaptureInstance>,
}

/// A table of captured changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureInstance {
    /// Its name, as it is written in SQL.
    pub table: String,
    /// Changes behind this place are there.
    pub start: MssqlLsn,
}

/// A chunk of a snapshot.
pub struct MssqlChunk {
    pub answer: MssqlAnswer,
    /// Changes up to here are in its rows.
    pub seen: u64,
    /// Nothing is behind it.
    pub last: bool,
}

impl MssqlFollowed {
    /// As it is written in SQL.
    pub fn quoted(&self) -> String {
        qualified(&self.schema, &self.name)
    }

    /// Names of the columns of the key.
    pub fn key_names(&self) -> impl Iterator<Item = &str> {
        self.key.iter().map(|at| self.columns[*at].name.as_str())
    }

    /// The values of a key as texts.
    pub fn key_texts(&self, key: &[Bytes]) -> Vec<String> {
        let columns = self.key.iter().map(|at| &self.columns[*at]);
        let texts = columns
            .zip(key)
            .map(|(column, value)| column.of.text(value));
        texts.collect()
    }

    /// Takes other columns, among which those of the key must be; none where they are not.
    pub fn take_columns(&mut self, columns: Arc<[TdsColumn]>) -> Option<()> {
        let place = |key: &str| columns.iter().position(|column| column.name == key);
        let key: Option<Vec<_>> = self.key_names().map(place).collect();
        self.key = key?;
        self.columns = columns;
        Some(())
    }

    /// The columns as the event of other columns says them: name, type as JSON, and whether it is one of the key.
    pub fn described(&self) -> Vec<(String, String, bool)> {
        let columns = self.columns.iter().enumerate();
        let described = columns.map(|(at, column)| {
            let of = format!("\"{}\"", column.of.sql());
            (column.name.clone(), of, self.key.contains(&at))
        });
        described.collect()
    }

    /// What identifies them.
    pub fn mark(&self) -> ColumnsMark {
        let columns = self.described().into_iter();
        ColumnsMark::of(columns.map(|(name, of, key)| (name, format!("{of} {key}"))))
    }

    /// The key of a row.
    pub fn key_of(&self, row: &[Option<Bytes>]) -> Vec<Bytes> {
        let value = |at: &usize| row.get(*at).cloned().flatten().unwrap_or_default();
        self.key.iter().map(value).collect()
    }
}

/// The columns of a list, as they are written in SQL.
pub fn list<'a>(names: impl Iterator<Item = &'a str>, of: &str) -> String {
    let names: Vec<_> = names
        .map(|name| format!("{of}{}", identifier(name)))
        .collect();
    names.join(", ")
}

/// The tables that the options name.
///
/// # Errors
/// *Configuration*: one is not there, has no key, or its changes are not kept; with the statement that mends it.
pub async fn tables(
    server: &MssqlServer,
    link: &mut MssqlLink,
    options: &MssqlFollow,
) -> Result<Vec<MssqlFollowed>, Error> {
    let mut tables = Vec::with_capacity(options.tables.len());
    for table in &options.tables {
        let (schema, name) = table_name(table, DEFAULT_SCHEMA);
        let quoted = qualified(schema, name);
        let told = |failed: MssqlFailed| failed.told(server.doing(&quoted, "SELECT"));
        let sql = format!(
            "SELECT k.COLUMN_NAME FROM INFORMATION_SCHEMA.TABLE_CONSTRAINTS c \
             JOIN INFORMATION_SCHEMA.KEY_COLUMN_USAGE k ON k.CONSTRAINT_NAME = c.CONSTRAINT_NAME \
             AND k.TABLE_SCHEMA = c.TABLE_SCHEMA AND k.TABLE_NAME = c.TABLE_NAME \
             WHERE c.CONSTRAINT_TYPE = 'PRIMARY KEY' AND c.TABLE_SCHEMA = {} AND c.TABLE_NAME = {} ORDER BY k.ORDINAL_POSITION; \
             SELECT TOP 0 * FROM {quoted}",
            literal(schema),
            literal(name)
        );
        let answers = link.run(&sql).await.map_err(told)?;
        let keys = answers
            .first()
            .map_or_else(Vec::new, |answer| texts(answer, 0));
        let mut columns = answers
            .get(1)
            .map_or_else(|| Arc::from([]), |answer| Arc::clone(&answer.columns));
        let mut instances = Vec::new();
        if options.by == MssqlFollowBy::Cdc {
            instances = captured(server, link, schema, name).await?;
            let Some(newest) = instances.last() else {
                return Err(not_captured(server, schema, name));
            };
            columns = captured_columns(link, newest).await.map_err(told)?;
        }
        let key: Option<Vec<_>> = keys
            .iter()
            .map(|key| columns.iter().position(|column| column.name == *key))
            .collect();
        let key = key.filter(|key| !key.is_empty());
        let key = key.ok_or_else(|| no_identity(server, &quoted))?;
        let order = key.iter().map(|at| match columns[*at].of.kind() {
            ColumnType::Int => Some(Order::Number),
            ColumnType::Time if columns[*at].of.sql() != "datetimeoffset" => Some(Order::Bytes),
            _ => None,
        });
        tables.push(MssqlFollowed {
            schema: schema.to_owned(),
            name: name.to_owned(),
            order: order.collect(),
            columns,
            key,
            instances,
        });
    }
    Ok(tables)
}

/// The tables with the captured changes of a table, from the oldest.
///
/// # Errors
/// *Configuration*: nothing is captured in this database, or the user may not read it.
pub async fn captured(
    server: &MssqlServer,
    link: &mut MssqlLink,
    schema: &str,
    name: &str,
) -> Result<Vec<CaptureInstance>, Error> {
    let sql = format!(
        "SELECT c.capture_instance, c.start_lsn FROM cdc.change_tables c JOIN sys.tables t ON t.object_id = c.source_object_id \
         JOIN sys.schemas s ON s.schema_id = t.schema_id WHERE s.name = {} AND t.name = {} ORDER BY c.start_lsn",
        literal(schema),
        literal(name)
    );
    let answers = link
        .run(&sql)
        .await
        .map_err(|failed| capture_told(server, failed))?;
    let Some(answer) = answers.first() else {
        return Ok(Vec::new());
    };
    let rows = 0..answer.rows.len();
    let instances = rows.filter_map(|row| {
        Some(CaptureInstance {
            table: qualified("cdc", &format!("{}_CT", answer.text(row, 0)?)),
            // None until the capture job has run for the first time.
            start: answer
                .bytes(row, 1)
                .map_or(Some(MssqlLsn::default()), MssqlLsn::read)?,
        })
    });
    Ok(instances.collect())
}

/// The columns of a table of captured changes that are those of the table itself.
pub async fn captured_columns(
    link: &mut MssqlLink,
    instance: &CaptureInstance,
) -> Result<Arc<[TdsColumn]>, MssqlFailed> {
    let answers = link
        .run(&format!("SELECT TOP 0 * FROM {}", instance.table))
        .await?;
    let columns = answers.first().map_or(&[][..], |answer| &answer.columns);
    let own = columns
        .iter()
        .filter(|column| !column.name.starts_with("__$"));
    Ok(own.cloned().collect())
}

/// How far the changes are known.
///
/// # Errors
/// *Configuration*: changes are not kept. *Transient*: none have been captured yet.
pub async fn end(
    server: &MssqlServer,
    link: &mut MssqlLink,
    by: MssqlFollowBy,
) -> Result<u64, Error> {
    let sql = match by {
        MssqlFollowBy::Cdc => "SELECT MAX(start_lsn) FROM cdc.lsn_time_mapping",
        MssqlFollowBy::Tracking => "SELECT CHANGE_TRACKING_CURRENT_VERSION()",
    };
    let answers = link
        .run(sql)
        .await
        .map_err(|failed| capture_told(server, failed))?;
    let answer = answers.first().cloned().unwrap_or_default();
    place(server, by, &answer)?.ok_or_else(|| match by {
        MssqlFollowBy::Cdc => {
            Error::new(Class::Transient, "sqlserver.capture-idle").with("address", &server.address)
        }
        MssqlFollowBy::Tracking => Error::new(Class::Configuration, "sqlserver.tracking-off")
            .with("address", &server.address)
            .with("database", &server.database)
            .with(
                "statement",
                format!(
                    "ALTER DATABASE {} SET CHANGE_TRACKING = ON (CHANGE_RETENTION = 7 DAYS, AUTO_CLEANUP = ON)",
                    identifier(&server.database)
                ),
            ),
    })
}

/// The place that an answer has as its only value: that of a log as a number, or one more than a version, of which the first
/// is 0.
pub fn place(
    server: &MssqlServer,
    by: MssqlFollowBy,
    answer: &MssqlAnswer,
) -> Result<Option<u64>, Error> {
    let Some(value) = answer.bytes(0, 0) else {
        return Ok(None);
    };
    match by {
        MssqlFollowBy::Tracking => Ok(answer
            .text(0, 0)
            .and_then(|text| text.parse::<u64>().ok())
            .map(|version| version.saturating_add(1))),
        MssqlFollowBy::Cdc => number(server, value).map(Some),
    }
}

/// A place in the log as a number.
pub fn number(server: &MssqlServer, value: &Bytes) -> Result<u64, Error> {
    let number = MssqlLsn::read(value).and_then(MssqlLsn::number);
    number.ok_or_else(|| {
        Error::new(Class::Configuration, "sqlserver.lsn")
            .with("address", &server.address)
            .with("place", super::wire::bytes_literal(value))
    })
}

/// Sees that changes of a table are tracked; the oldest place from which they are all there.
pub fn tracked(
    server: &MssqlServer,
    table: &MssqlFollowed,
    answer: &MssqlAnswer,
) -> Result<u64, Error> {
    let oldest = place(server, MssqlFollowBy::Tracking, answer)?;
    oldest.ok_or_else(|| {
        let quoted = table.quoted();
        Error::new(Class::Configuration, "sqlserver.table-not-tracked")
            .with("address", &server.address)
            .with("table", &quoted)
            .with("user", &server.user)
            .with(
                "statement",
                format!(
                    "ALTER TABLE {quoted} ENABLE CHANGE_TRACKING; GRANT SELECT, VIEW CHANGE TRACKING ON {quoted} TO {}",
                    identifier(&server.user)
                ),
            )
    })
}

/// The statement that asks for it.
pub fn oldest_tracked(table: &MssqlFollowed) -> String {
    format!(
        "SELECT CHANGE_TRACKING_MIN_VALID_VERSION(OBJECT_ID({}))",
        literal(&table.quoted())
    )
}

/// Reads the rows behind a key, as many as a chunk has. Where they are too large for that, the chunk has fewer and the session is
/// not used again.
///
/// # Errors
/// Why it failed.
pub async fn chunk(
    server: &MssqlServer,
    link: &mut MssqlLink,
    by: MssqlFollowBy,
    table: &MssqlFollowed,
    after: Option<&[String]>,
    rows: usize,
) -> Result<MssqlChunk, MssqlFailed> {
    // What is captured or has a version is committed, so that the rows that are read behind it have it.
    let seen = end(server, link, by).await?;
    let order: Vec<_> = table.key_names().map(identifier).collect();
    let condition = match after {
        None => String::new(),
        Some(after) => {
            let last: Vec<_> = table
                .key
                .iter()
                .zip(after)
                .map(|(at, value)| Some(table.columns[*at].of.literal_of_text(value)))
                .collect();
            format!("WHERE {}", behind(&order, &last))
        }
    };
    let sql = format!(
        "SELECT TOP ({rows}) {} FROM {} {condition} ORDER BY {}",
        list(table.columns.iter().map(|column| column.name.as_str()), ""),
        table.quoted(),
        order.join(", ")
    );
    link.begin(&sql).await?;
    let MssqlHead::Rows(columns) = link.head().await? else {
        return Err(strange(&server.address, "another number of answers").into());
    };
    let mut found = Vec::new();
    let fetched = link.fetch(CHUNK_BYTES_MAX, &mut found).await?;
    if fetched == MssqlFetched::All {
        // A failure behind the rows is one of the chunk.
        while !matches!(link.head().await?, MssqlHead::End) {}
    }
    Ok(MssqlChunk {
        last: fetched == MssqlFetched::All && found.len() < rows,
        answer: MssqlAnswer {
            columns,
            rows: found,
        },
        seen,
    })
}

/// Whether an error says that a table, or a column of it, is not there any more.
pub fn is_gone_by(number: i32) -> bool {
    matches!(number, 207 | 208)
}

/// What reading captured changes failed of.
pub fn capture_told(server: &MssqlServer, failed: MssqlFailed) -> Error {
    match failed.number() {
        208 => Error::new(Class::Configuration, "sqlserver.capture-off")
            .with("address", &server.address)
            .with("database", &server.database),
        229 => Error::new(Class::Configuration, "sqlserver.capture-rights")
            .with("address", &server.address)
            .with("user", &server.user),
        _ => failed.told(server.doing("", "")),
    }
}

/// A table has no primary key, or its columns are not captured.
pub fn no_identity(server: &MssqlServer, table: &str) -> Error {
    Error::new(Class::Configuration, "sqlserver.no-identity")
        .with("address", &server.address)
        .with("table", table)
}

/// Nothing is captured of a table.
pub fn not_captured(server: &MssqlServer, schema: &str, name: &str) -> Error {
    Error::new(Class::Configuration, "sqlserver.table-not-captured")
        .with("address", &server.address)
        .with("table", qualified(schema, name))
        .with(
            "statement",
            format!(
                "EXEC sys.sp_cdc_enable_table @source_schema = {}, @source_name = {}, @role_name = NULL",
                literal(schema),
                literal(name)
            ),
        )
}

fn texts(answer: &MssqlAnswer, column: usize) -> Vec<String> {
    let rows = 0..answer.rows.len();
    rows.filter_map(|row| answer.text(row, column).map(str::to_owned))
        .collect()
}
