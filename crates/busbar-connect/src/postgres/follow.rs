//! Makes sure that a database can be followed: its log, publication, slot and tables. What may not be made here is
//! refused with the statement that makes it.

use std::collections::HashSet;

use busbar_change::postgres::oid;
use busbar_change::postgres::pgoutput::Lsn;
use busbar_change::postgres::wire::{Column, identifier, literal};
use busbar_event::{Class, Error};

use super::Follow;
use super::failure::Failed;
use super::link::{Link, Server};

use crate::change::plan::names;
use crate::change::snapshot::Order;
use crate::change::{Echoed, table_name};

/// A table that is followed.
#[derive(Clone, Debug)]
pub struct Followed {
    pub schema: String,
    pub name: String,
    /// The columns that are published, in order; a domain is its base type.
    pub columns: Vec<Column>,
    /// The type of each as the server names it in changes.
    pub types: Vec<u32>,
    /// Places of the columns of the primary key, or of the index that is the replica identity; empty without one.
    pub key: Vec<usize>,
    /// How the values of each column of the key are ordered, if they can be compared here.
    pub order: Option<Vec<Order>>,
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
}

/// The first version whose streams of changes have messages.
const MESSAGES_SINCE: u32 = 140_000;

/// What the server is, to see that it is the same one the next time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub system: u64,
    pub timeline: u32,
}

impl Identity {
    /// Twelve bytes for the note that is kept with a position.
    pub fn to_bytes(self) -> Vec<u8> {
        [&self.system.to_be_bytes()[..], &self.timeline.to_be_bytes()].concat()
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Identity> {
        let (system, timeline) = bytes.split_first_chunk::<8>()?;
        let timeline = timeline.first_chunk::<4>()?;
        Some(Identity {
            system: u64::from_be_bytes(*system),
            timeline: u32::from_be_bytes(*timeline),
        })
    }
}

/// Refuses with the class *configuration*.
fn refuse(server: &Server, code: &'static str) -> Error {
    Error::new(Class::Configuration, code).with("address", &server.address)
}

/// Looks at the server by the session that the changes come through; it goes back to where it was with `known`.
///
/// # Errors
/// *Configuration*: it is another server, or one that is behind what was read from it.
pub async fn identify(
    server: &Server,
    link: &mut Link,
    known: Option<Identity>,
    position: Lsn,
) -> Result<Identity, Error> {
    let answers = link.run("IDENTIFY_SYSTEM").await;
    let answers = answers.map_err(|failed| replication_told(server, failed))?;
    let text = |column| {
        answers
            .first()
            .and_then(|answer| answer.text(0, column))
            .unwrap_or_default()
    };
    let found = Identity {
        system: text(0).parse().unwrap_or(0),
        timeline: text(1).parse().unwrap_or(0),
    };
    let at = Lsn::parse(text(2)).unwrap_or_default();
    let Some(known) = known else { return Ok(found) };
    if known.system != found.system {
        return Err(refuse(server, "postgres.other-system")
            .with("known", known.system)
            .with("found", found.system));
    }
    if found.timeline < known.timeline || at < position {
        return Err(refuse(server, "postgres.behind")
            .with("position", position)
            .with("end", at));
    }
    Ok(found)
}

/// A refusal to replicate, with the statement that allows it.
pub fn replication_told(server: &Server, failed: Failed) -> Error {
    match failed.code() {
        "42501" | "28000" => {
            refuse(server, "postgres.replication-right").with("user", &server.user)
        }
        _ => failed.told(server.doing("", "")),
    }
}

/// The tables that are to be followed, as they are now.
///
/// # Errors
/// *Configuration*: a table is not there, may not be read, or has no identity of its rows.
pub async fn tables(
    server: &Server,
    link: &mut Link,
    options: &Follow,
) -> Result<Vec<Followed>, Error> {
    let mut tables: Vec<Followed> = Vec::new();
    for (schema, name) in options
        .tables
        .iter()
        .map(|table| table_name(table, "public"))
    {
        let quoted = format!("{}.{}", identifier(schema), identifier(name));
        let doing = server.doing(&quoted, "SELECT");
        let sql = format!(
            "SELECT a.attname, a.atttypid::int8, coalesce(a.attnum = ANY (i.indkey), false), c.relreplident, \
             has_table_privilege(c.oid, 'SELECT'), c.relkind, c.relpersistence, \
             CASE WHEN t.typbasetype <> 0 THEN t.typbasetype ELSE a.atttypid END::int8, \
             CASE WHEN l.collname = 'default' THEN d.datcollate ELSE l.collname END \
             FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid \
             JOIN pg_database d ON d.datname = current_database() LEFT JOIN pg_collation l ON l.oid = a.attcollation \
             LEFT JOIN pg_index i ON i.indrelid = c.oid \
             AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END \
             WHERE c.oid = {}::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum",
            literal(&quoted)
        );
        let answers = link.run(&sql).await.map_err(|failed| failed.told(doing))?;
        let answer = answers.first();
        let rows = answer.map_or(0, |answer| answer.rows.len());
        let text = |row, column| {
            answer
                .and_then(|answer| answer.text(row, column))
                .unwrap_or_default()
        };
        if rows == 0 || !matches!(text(0, 5), "r" | "p") || text(0, 6) != "p" {
            return Err(refuse(server, "postgres.not-a-table").with("table", &quoted));
        }
        if text(0, 4) != "t" {
            return Err(refuse(server, "postgres.rights-table")
                .with("user", &server.user)
                .with("said", "SELECT")
                .with("rights", "SELECT")
                .with("table", &quoted));
        }
        let key: Vec<_> = (0..rows).filter(|row| text(*row, 2) == "t").collect();
        // Updates and deletes of such a table would be refused as soon as it is published.
        if text(0, 3) == "n" || text(0, 3) == "d" && key.is_empty() {
            return Err(refuse(server, "postgres.no-identity").with("table", &quoted));
        }
        // What returns says which version it was made on.
        if options.echo == Echoed::Returned && text(0, 3) != "f" {
            return Err(refuse(server, "postgres.echo-identity").with("table", &quoted));
        }
        let order = key
            .iter()
            .map(|row| order(text(*row, 7).parse().unwrap_or(0), text(*row, 8)));
        tables.push(Followed {
            order: order.collect::<Option<_>>(),
            types: (0..rows)
                .map(|row| text(row, 1).parse().unwrap_or(0))
                .collect(),
            schema: schema.to_owned(),
            name: name.to_owned(),
            columns: (0..rows)
                .map(|row| Column {
                    name: text(row, 0).to_owned(),
                    oid: text(row, 7).parse().unwrap_or(0),
                    modifier: -1,
                })
                .collect(),
            key,
        });
    }
    Ok(tables)
}

/// How the server orders values of a type under a collation, if it is known here.
fn order(of: u32, collation: &str) -> Option<Order> {
    let plain = ["C", "POSIX", "C.UTF-8", "C.utf8", "ucs_basic"].contains(&collation);
    match of {
        oid::INT2 | oid::INT4 | oid::INT8 => Some(Order::Number),
        oid::UUID | oid::BYTEA => Some(Order::Bytes),
        oid::TEXT | oid::VARCHAR if plain => Some(Order::Bytes),
        _ => None,
    }
}

/// The tables of a publication, as `schema.table`; none where it is not there.
///
/// # Errors
/// Why they cannot be read.
pub async fn published(
    server: &Server,
    link: &mut Link,
    publication: &str,
) -> Result<HashSet<String>, Error> {
    let sql = format!(
        "SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname = {}",
        literal(publication)
    );
    let answers = link.run(&sql).await;
    let answers = answers.map_err(|failed| failed.told(server.doing("", "")))?;
    let rows = answers
        .first()
        .map_or(&[][..], |answer| answer.rows.as_slice());
    let names = rows.iter().filter_map(|row| row.first()?.as_deref());
    Ok(names
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect())
}

/// Checks the log's level and that the publication has the tables; makes it or adds them where that is allowed. Those that
/// were added.
///
/// # Errors
/// *Configuration*, with the statement to run.
pub async fn publish(
    server: &Server,
    link: &mut Link,
    options: &Follow,
    publication: &str,
    tables: &[Followed],
) -> Result<Vec<String>, Error> {
    let told = |failed: Failed| failed.told(server.doing("", ""));
    let level = link.run("SHOW wal_level").await.map_err(told)?;
    let level = level
        .first()
        .and_then(|answer| answer.text(0, 0))
        .unwrap_or_default()
        .to_owned();
    if level != "logical" {
        return Err(refuse(server, "postgres.wal-level").with("level", level));
    }
    let published = published(server, link, publication).await?;
    let sql = format!(
        "SELECT 1 FROM pg_publication WHERE pubname = {}",
        literal(publication)
    );
    let answers = link.run(&sql).await.map_err(told)?;
    let exists = answers
        .first()
        .is_some_and(|answer| !answer.rows.is_empty());
    let missing: Vec<_> = tables
        .iter()
        .filter(|table| !published.contains(&table.shown()))
        .collect();
    if exists && missing.is_empty() {
        return Ok(Vec::new());
    }
    let list: Vec<_> = missing.iter().map(|table| table.quoted()).collect();
    let statement = match exists {
        true => format!(
            "ALTER PUBLICATION {} ADD TABLE {}",
            identifier(publication),
            list.join(", ")
        ),
        false => format!(
            "CREATE PUBLICATION {} FOR TABLE {}",
            identifier(publication),
            list.join(", ")
        ),
    };
    let needed = || {
        refuse(server, "postgres.publication")
            .with("publication", publication)
            .with("user", &server.user)
            .with(
                "tables",
                names(missing.iter().map(|table| table.name.as_str())),
            )
            .with("statement", &statement)
    };
    if !options.create {
        return Err(needed());
    }
    match link.run(&statement).await {
        Ok(_) => Ok(missing.iter().map(|table| table.shown()).collect()),
        Err(failed) if failed.code() == "42501" => Err(needed()),
        Err(failed) => Err(told(failed)),
    }
}

/// The option that lets messages come with the changes.
///
/// # Errors
/// *Configuration*: the server is too old for it.
pub async fn messages(server: &Server, link: &mut Link) -> Result<&'static str, Error> {
    let answers = link.run("SHOW server_version_num").await;
    let answers = answers.map_err(|failed| failed.told(server.doing("", "")))?;
    let version = answers.first().and_then(|answer| answer.text(0, 0));
    let version = version.and_then(|version| version.parse().ok());
    match version.unwrap_or(0) >= MESSAGES_SINCE {
        true => Ok(", messages 'true'"),
        false => Err(refuse(server, "postgres.no-messages")),
    }
}

/// How the slot is.
#[derive(Clone, Debug)]
pub struct Slot {
    /// How far the server has been told that everything is kept.
    pub confirmed: Lsn,
    /// From where on the log is kept for it.
    pub kept_from: Lsn,
    /// The end of the log.
    pub end: Lsn,
    /// Bytes that are left before it is lost, if that is limited.
    pub left: Option<i64>,
    /// Which transactions others see by now, as the server writes it.
    pub seen: String,
}

/// Looks at the slot; `None` when there is none.
///
/// # Errors
/// *Configuration*: it is of another kind, or the server has removed what it needs.
pub async fn slot(server: &Server, link: &mut Link, name: &str) -> Result<Option<Slot>, Error> {
    // The columns that tell a lost slot came with version 13.
    let sql = format!(
        "SELECT s.plugin, s.database, to_jsonb(s) ->> 'wal_status', s.confirmed_flush_lsn, \
         pg_current_wal_flush_lsn(), to_jsonb(s) ->> 'safe_wal_size', s.restart_lsn, pg_current_snapshot() \
         FROM pg_replication_slots s WHERE s.slot_name = {}",
        literal(name)
    );
    let answers = link
        .run(&sql)
        .await
        .map_err(|failed| failed.told(server.doing("", "")))?;
    let Some(answer) = answers.first().filter(|answer| !answer.rows.is_empty()) else {
        return Ok(None);
    };
    let text = |column| answer.text(0, column).unwrap_or_default();
    if text(0) != "pgoutput" || text(1) != &*server.database {
        return Err(refuse(server, "postgres.slot-other")
            .with("slot", name)
            .with("plugin", if text(0).is_empty() { "-" } else { text(0) })
            .with("database", if text(1).is_empty() { "-" } else { text(1) }));
    }
    let confirmed = Lsn::parse(text(3));
    if text(2) == "lost" || confirmed.is_none() {
        return Err(refuse(server, "postgres.slot-lost").with("slot", name));
    }
    Ok(Some(Slot {
        confirmed: confirmed.unwrap_or_default(),
        end: Lsn::parse(text(4)).unwrap_or_default(),
        left: answer.text(0, 5).and_then(|left| left.parse().ok()),
        kept_from: Lsn::parse(text(6)).or(confirmed).unwrap_or_default(),
        seen: text(7).to_owned(),
    }))
}

/// Makes the slot; the place where its changes begin.
///
/// # Errors
/// *Configuration*, with the statement to run.
pub async fn make_slot(
    server: &Server,
    link: &mut Link,
    options: &Follow,
    name: &str,
) -> Result<Lsn, Error> {
    let statement = format!(
        "SELECT lsn FROM pg_create_logical_replication_slot({}, 'pgoutput')",
        literal(name)
    );
    if !options.create {
        return Err(refuse(server, "postgres.no-slot")
            .with("slot", name)
            .with("statement", statement));
    }
    match link.run(&statement).await {
        Ok(answers) => {
            let lsn = answers
                .first()
                .and_then(|answer| answer.text(0, 0))
                .and_then(Lsn::parse);
            lsn.ok_or_else(|| {
                refuse(server, "postgres.no-slot")
                    .with("slot", name)
                    .with("statement", statement)
            })
        }
        Err(failed) if failed.code() == "53400" => Err(refuse(server, "postgres.slots-used")),
        Err(failed) => Err(replication_told(server, failed)),
    }
}
