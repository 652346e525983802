//! How far each producer has come, and at which time its rows were written.

use std::sync::Arc;

use busbar_event::{Class, Error};

use super::frame::{CqlBound, CqlConsistency, CqlPage, CqlRequest, write_value};
use super::link::{CassandraLink, CassandraServer, CqlFailed, quoted, strange};
use super::table::CassandraTable;

/// The consistency that a note is read and written with where the rows have a lesser one.
const LOCAL_QUORUM: CqlConsistency = 6;
const ONE: CqlConsistency = 1;
const LOCAL_ONE: CqlConsistency = 10;
const COLUMNS: [&str; 6] = ["producer", "done", "position", "time", "rows", "content"];

/// How far a producer has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteNote {
    pub producer: Arc<str>,
    /// All rows before it are there.
    pub done: u64,
    /// The position of a delivery that is there, or comes next.
    pub position: u64,
    /// The time of its first row, in microseconds since 1970; each row after it is one later.
    pub time: i64,
    pub rows: u64,
    /// What its rows are recognised by.
    pub content: i64,
}

/// The table of notes.
pub struct WriteNotes {
    /// The connection's name, before the names of producers.
    connection: String,
    keyspace: String,
    name: String,
    consistency: CqlConsistency,
}

impl WriteNote {
    /// The note of a delivery: this one where it comes again with the same rows, else one whose time is behind all that were
    /// written before.
    pub fn next(&self, position: u64, rows: u64, content: i64, now_micros: i64) -> WriteNote {
        // Rows that need not be recognised are written anew, also where they are the same.
        let is_kept = !self.producer.is_empty();
        if is_kept && (position, rows, content) == (self.position, self.rows, self.content) {
            return self.clone();
        }
        let behind = self.time.saturating_add(self.rows.max(1) as i64);
        WriteNote {
            producer: Arc::clone(&self.producer),
            // What was noted last is there where something follows it.
            done: if position > self.position {
                self.position
            } else {
                self.done
            },
            position,
            time: now_micros.max(behind),
            rows,
            content,
        }
    }
}

impl WriteNotes {
    /// Those of a connection, in a table of a keyspace; with the consistency of its rows.
    pub fn new(connection: &str, table: (&str, &str), rows: CqlConsistency) -> WriteNotes {
        WriteNotes {
            connection: connection.to_owned(),
            keyspace: table.0.to_owned(),
            name: table.1.to_owned(),
            consistency: match rows {
                ONE | LOCAL_ONE => LOCAL_QUORUM,
                rows => rows,
            },
        }
    }

    /// Under which name notes of a producer are kept.
    fn kept_name(&self, producer: &str) -> String {
        format!("{}/{producer}", self.connection)
    }

    fn table(&self) -> String {
        format!("{}.{}", quoted(&self.keyspace), quoted(&self.name))
    }

    /// Makes the table where it is missing.
    ///
    /// # Errors
    /// *Transient*, or *configuration* with the statement that makes it.
    pub async fn make(
        &self,
        link: &mut CassandraLink,
        server: &CassandraServer,
    ) -> Result<(), Error> {
        let looked = CassandraTable::look(link, &self.keyspace, &self.name).await;
        let told = |link: &CassandraLink, failed: CqlFailed| {
            failed.told(server.doing(link, "\"system_schema\".\"columns\"", "SELECT"))
        };
        match looked.map_err(|failed| told(link, failed))? {
            Some(table) => {
                let missing = COLUMNS
                    .iter()
                    .any(|name| !table.columns.iter().any(|column| column.name == *name));
                match missing {
                    true => Err(Error::new(Class::Configuration, "cassandra.positions")
                        .with("table", self.table())),
                    false => Ok(()),
                }
            }
            None => {
                let statement = format!(
                    "CREATE TABLE IF NOT EXISTS {} (producer text PRIMARY KEY, done bigint, position bigint, time bigint, rows bigint, content bigint)",
                    self.table()
                );
                let made = link
                    .ask(&CqlRequest::query(&statement, self.consistency))
                    .await;
                made.map(drop).map_err(|failed| {
                    let told = failed.told(server.doing(link, "", ""));
                    match told.class() {
                        Class::Transient => told,
                        _ => Error::new(Class::Configuration, "cassandra.no-positions")
                            .with("address", &link.address)
                            .with("user", &server.user)
                            .with("statement", statement)
                            .caused_by(told),
                    }
                })
            }
        }
    }

    /// How far a producer has come; nothing for a new one.
    ///
    /// # Errors
    /// As the server's refusal is.
    pub async fn read(
        &self,
        link: &mut CassandraLink,
        server: &CassandraServer,
        producer: &Arc<str>,
    ) -> Result<WriteNote, Error> {
        let table = self.table();
        let text =
            format!("SELECT done, position, time, rows, content FROM {table} WHERE producer = ?");
        let rows = match producer.is_empty() {
            true => Ok(Vec::new()),
            false => {
                link.read(
                    &text,
                    &[self.kept_name(producer).as_bytes()],
                    self.consistency,
                    1,
                )
                .await
            }
        };
        let rows = rows.map_err(|failed| failed.told(server.doing(link, &table, "SELECT")))?;
        let mut note = WriteNote {
            producer: Arc::clone(producer),
            done: 0,
            position: 0,
            time: 0,
            rows: 0,
            content: 0,
        };
        if let Some(row) = rows.first() {
            let numbers = row.iter().map(|text| text.parse::<i64>());
            let numbers: Vec<i64> = numbers
                .collect::<Result<_, _>>()
                .map_err(|_| strange(&link.address, "a note without its numbers"))?;
            if let [done, position, time, rows, content] = numbers[..] {
                (note.done, note.position) = (done as u64, position as u64);
                (note.time, note.rows, note.content) = (time, rows as u64, content);
            }
        }
        Ok(note)
    }

    /// Keeps a note. One that comes late has an earlier time, and does not count.
    ///
    /// # Errors
    /// As the server's refusal is.
    pub async fn write(
        &self,
        link: &mut CassandraLink,
        server: &CassandraServer,
        note: &WriteNote,
    ) -> Result<(), Error> {
        let table = self.table();
        let text = format!(
            "INSERT INTO {table} ({}) VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?",
            COLUMNS.join(", ")
        );
        let told = |link: &CassandraLink, failed: CqlFailed| {
            failed.told(server.doing(link, &table, "MODIFY"))
        };
        let prepared = link
            .prepare(&text)
            .await
            .map_err(|failed| told(link, failed))?;
        let mut values = Vec::new();
        write_value(Some(self.kept_name(&note.producer).as_bytes()), &mut values);
        let (done, position, rows) = (note.done as i64, note.position as i64, note.rows as i64);
        for number in [done, position, note.time, rows, note.content, note.time] {
            write_value(Some(&number.to_be_bytes()), &mut values);
        }
        let bound = CqlBound {
            id: &prepared.id,
            count: COLUMNS.len() + 1,
            values: &values,
        };
        let request = CqlRequest::execute(bound, self.consistency, &CqlPage::default());
        let written = link.ask(&request).await;
        written.map(drop).map_err(|failed| told(link, failed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_grow_whatever_the_clock_says() {
        let first = WriteNote {
            producer: "p".into(),
            done: 0,
            position: 0,
            time: 0,
            rows: 0,
            content: 0,
        };
        let one = first.next(10, 5, 77, 1_000_000);
        assert_eq!((one.done, one.position, one.time), (0, 10, 1_000_000));
        // The same rows: the same times.
        assert_eq!(one.next(10, 5, 77, 2_000_000), one);
        // The clock was set back.
        let two = one.next(20, 3, 78, 5);
        assert_eq!((two.done, two.position, two.time), (10, 20, 1_000_005));
        // Other rows up to the same position, and a part of them.
        let other = two.next(20, 3, 79, 5);
        assert_eq!(
            (other.done, other.position, other.time),
            (10, 20, 1_000_008)
        );
        let part = two.next(15, 1, 80, 5);
        assert_eq!((part.done, part.position, part.time), (10, 15, 1_000_008));
        // Nobody keeps how far an unnamed one has come: the same rows count again.
        let unnamed = WriteNote {
            producer: "".into(),
            ..one
        };
        assert_eq!(unnamed.next(10, 5, 77, 5).time, 1_000_005);
    }
}
