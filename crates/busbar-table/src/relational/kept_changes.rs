//! The changes of a table in its file.
//!
//! | where | holds |
//! | --- | --- |
//! | `_busbar_changes` | `position` behind the last row of a write, `producer`, `time` in microseconds since 1970, `rows` in the codec of batches |
//! | `_busbar_positions`, producer `$changes` | the identity of the log |
//! | `_busbar_positions`, producer `$changes-end` | the position behind the last change |

use busbar_event::Error;
use bytes::Bytes;
use rusqlite::{Connection, TransactionBehavior, params};

use super::sqlite::sqlite_error;
use super::{Relational, position};
use crate::ProducerPosition;
use crate::change_log::{END, FramedRows, IDENTITY, gap, is_kept, next_identity};
use crate::columns::TypedRows;
use crate::table::{Rows, Scan, Table};
use crate::{ChangeLog, ReadChanges, TableChange};

impl Relational {
    /// Keeps changes from now on, or keeps them no longer.
    pub(crate) fn keep_changes(&self, keeps: bool, now_micros: i64) -> Result<(), Error> {
        let fault = |cause| sqlite_error(&self.name, cause);
        let mut writer = self.writer.lock();
        let known = position(&writer, &self.name, IDENTITY)?;
        let identity = match is_kept(known) == keeps {
            true => known,
            false => Some(next_identity(known, now_micros, keeps)),
        };
        if let (Some(identity), true) = (identity, identity != known) {
            let transaction = writer
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(fault)?;
            transaction
                .execute_batch(match keeps {
                    true => {
                        "CREATE TABLE IF NOT EXISTS _busbar_changes (
                           position INTEGER PRIMARY KEY, producer TEXT, time INTEGER NOT NULL, rows BLOB NOT NULL
                         ) STRICT"
                    }
                    false => "DROP TABLE IF EXISTS _busbar_changes",
                })
                .map_err(fault)?;
            set_position(&transaction, &self.name, IDENTITY, identity)?;
            transaction.commit().map_err(fault)?;
        }
        let bytes: i64 = match keeps {
            true => writer
                .query_row(
                    "SELECT coalesce(sum(length(rows)), 0) FROM _busbar_changes",
                    [],
                    |row| row.get(0),
                )
                .map_err(fault)?,
            false => 0,
        };
        let identity = identity.filter(|_| keeps);
        self.changes.set(identity, bytes.unsigned_abs());
        Ok(())
    }

    /// Keeps the rows of a write in its transaction; how many bytes they take.
    pub(super) fn note_change(
        &self,
        transaction: &Connection,
        whole: &TypedRows,
        at: Option<&ProducerPosition>,
        now_micros: i64,
    ) -> Result<u64, Error> {
        let fault = |cause| sqlite_error(&self.name, cause);
        if whole.rows == 0 {
            return Ok(0);
        }
        let rows = FramedRows {
            rows: whole.to_record(&self.shape().schema)?,
            deletes: whole.deletes.clone(),
            times: vec![now_micros; whole.rows],
        };
        let bytes = busbar_event::encode(&rows.batch()?);
        let end = position(transaction, &self.name, END)?.unwrap_or(0) + whole.rows as u64;
        set_position(transaction, &self.name, END, end)?;
        transaction
            .prepare_cached(
                "INSERT INTO _busbar_changes (position, producer, time, rows) VALUES (?1, ?2, ?3, ?4)",
            )
            .and_then(|mut statement| {
                let producer = at.map(|at| &*at.producer);
                statement.execute(params![end as i64, producer, now_micros, &bytes[..]])
            })
            .map_err(fault)?;
        Ok(bytes.len() as u64)
    }
}

impl ChangeLog for Relational {
    fn identity(&self) -> Result<Option<u64>, Error> {
        Ok(self.changes.identity())
    }

    fn end(&self) -> Result<u64, Error> {
        Ok(self.position(END)?.unwrap_or(0))
    }

    fn picture(&self) -> Result<(u64, Rows), Error> {
        let writer = self.writer.lock();
        let end = position(&writer, &self.name, END)?.unwrap_or(0);
        Ok((end, self.scan(&Scan::default())?))
    }

    fn read(&self, behind: u64, bytes_max: usize) -> Result<ReadChanges, Error> {
        let fault = |cause| sqlite_error(&self.name, cause);
        let reader = self.readers.take()?;
        let end = position(&reader, &self.name, END)?.unwrap_or(0);
        if behind > end {
            return Err(gap(&self.name, behind));
        }
        let mut read = ReadChanges {
            changes: Vec::new(),
            until: behind,
        };
        let mut bytes = 0;
        {
            let mut statement = reader
                .prepare_cached(
                    "SELECT position, producer, time, rows FROM _busbar_changes WHERE position > ?1 ORDER BY position",
                )
                .map_err(fault)?;
            let mut cursor = statement.query([behind as i64]).map_err(fault)?;
            while bytes < bytes_max {
                let Some(row) = cursor.next().map_err(fault)? else {
                    break;
                };
                let until: i64 = row.get(0).map_err(fault)?;
                let producer: Option<String> = row.get(1).map_err(fault)?;
                let time: i64 = row.get(2).map_err(fault)?;
                let kept: Vec<u8> = row.get(3).map_err(fault)?;
                bytes += kept.len();
                let FramedRows { rows, deletes, .. } = FramedRows::read(Bytes::from(kept))?;
                let until = until.unsigned_abs();
                read.until = until;
                let change = TableChange {
                    begin: until.saturating_sub(rows.num_rows() as u64),
                    producer: producer.map(Into::into),
                    time,
                    rows,
                    deletes,
                };
                read.changes.push(change.behind(behind));
            }
        }
        self.readers.give_back(reader);
        Ok(read)
    }

    fn renew(&self) -> Result<u64, Error> {
        let writer = self.writer.lock();
        let known = position(&writer, &self.name, IDENTITY)?;
        let identity = next_identity(known, self.clock.now_micros(), true);
        set_position(&writer, &self.name, IDENTITY, identity)?;
        self.changes.renewed(identity);
        Ok(identity)
    }

    fn forget(&self, until: u64) -> Result<(), Error> {
        let fault = |cause| sqlite_error(&self.name, cause);
        if !self.changes.are_kept() {
            return Ok(());
        }
        let mut writer = self.writer.lock();
        let transaction = writer
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(fault)?;
        let until = i64::try_from(until).unwrap_or(i64::MAX);
        let bytes: i64 = transaction
            .query_row(
                "SELECT coalesce(sum(length(rows)), 0) FROM _busbar_changes WHERE position <= ?1",
                [until],
                |row| row.get(0),
            )
            .map_err(fault)?;
        if bytes == 0 {
            return Ok(());
        }
        transaction
            .execute("DELETE FROM _busbar_changes WHERE position <= ?1", [until])
            .map_err(fault)?;
        transaction.commit().map_err(fault)?;
        self.changes.taken(bytes.unsigned_abs());
        Ok(())
    }
}

fn set_position(
    connection: &Connection,
    table: &str,
    producer: &str,
    position: u64,
) -> Result<(), Error> {
    super::advance(
        connection,
        table,
        &ProducerPosition::new(producer, position),
    )
    .map(drop)
}
