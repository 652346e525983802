//! The changes of a wide table on the node's disk, beside its cells.
//!
//! | key in `_meta` | value |
//! | --- | --- |
//! | `c/<table>/<position>` | a write: its time and the length of its producer's name (8 bytes each, big-endian), the name, the rows in the codec of batches; the position behind its last row has 16 hexadecimal digits |
//! | `p/<table>/$changes` | the identity of the log |
//! | `p/<table>/$changes-end` | the position behind the last change |

use busbar_event::Error;
use bytes::Bytes;

use super::Wide;
use super::keeper::{WideCommit, WideKeeper};
use super::read::damaged;
use crate::ProducerPosition;
use crate::change_log::{END, FramedRows, IDENTITY, gap, is_kept, next_identity};
use crate::columns::TypedRows;
use crate::limits::CHANGES_READ_BYTES;
use crate::table::{Rows, Scan, Table};
use crate::{ChangeLog, ReadChanges, TableChange};

impl Wide {
    /// Keeps changes from now on, or keeps them no longer.
    pub(crate) fn keep_changes(&self, keeps: bool) -> Result<(), Error> {
        if self.place().is_some() {
            return Ok(());
        }
        let _writer = self.writer.lock();
        let known = self.keeper.position(&self.name, IDENTITY)?;
        let mut identity = known;
        if is_kept(known) != keeps {
            let next = next_identity(known, self.keeper.clock().now_micros(), keeps);
            self.set_identity(next)?;
            identity = Some(next);
        }
        if !keeps {
            self.remove_changes(u64::MAX)?;
        }
        let (mut bytes, mut behind) = (0, 0);
        loop {
            let page = self.kept_changes(behind, CHANGES_READ_BYTES)?;
            let Some((last, _)) = page.last() else {
                break;
            };
            behind = *last;
            bytes += page
                .iter()
                .map(|(_, value)| value.len() as u64)
                .sum::<u64>();
        }
        self.changes.set(identity.filter(|_| keeps), bytes);
        Ok(())
    }

    /// Keeps the rows of a write in its commit; how many bytes they take.
    pub(super) fn note_change(
        &self,
        commit: &mut WideCommit,
        whole: &TypedRows,
        at: Option<&ProducerPosition>,
    ) -> Result<u64, Error> {
        let WideCommit::Own(cells) = commit else {
            return Err(damaged());
        };
        if whole.rows == 0 {
            return Ok(0);
        }
        let now = self.keeper.clock().now_micros();
        let rows = FramedRows {
            rows: whole.to_record(&self.layout().schema)?,
            deletes: whole.deletes.clone(),
            times: vec![now; whole.rows],
        };
        let body = busbar_event::encode(&rows.batch()?);
        let producer = at.map_or("", |at| &at.producer);
        let mut value = now.to_be_bytes().to_vec();
        value.extend_from_slice(&(producer.len() as u64).to_be_bytes());
        value.extend_from_slice(producer.as_bytes());
        value.extend_from_slice(&body);
        let end = self.keeper.position(&self.name, END)?.unwrap_or(0) + whole.rows as u64;
        cells.put_meta(&self.change_key(end), &value);
        commit.put_position(&self.name, END, end);
        Ok(value.len() as u64)
    }

    fn change_key(&self, position: u64) -> String {
        format!("c/{}/{position:016x}", self.name)
    }

    /// The changes behind a position, with the positions behind them: at least one, and no more after `bytes_max`.
    fn kept_changes(&self, behind: u64, bytes_max: usize) -> Result<Vec<(u64, Vec<u8>)>, Error> {
        let WideKeeper::Own(store) = &self.keeper else {
            return Ok(Vec::new());
        };
        let from = self.change_key(behind.saturating_add(1));
        let found = store.meta_range(&from, &self.change_key(u64::MAX), bytes_max)?;
        let position = |key: &[u8]| {
            let digits = key.get(key.len().saturating_sub(16)..)?;
            u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
        };
        let found = found.into_iter();
        found
            .map(|(key, value)| Ok((position(&key).ok_or_else(damaged)?, value)))
            .collect()
    }

    fn set_identity(&self, identity: u64) -> Result<(), Error> {
        let mut commit = self.keeper.begin(&self.name)?;
        commit.put_position(&self.name, IDENTITY, identity);
        match self.keeper.commit(commit, &self.layout())? {
            Some(committed) => self.keeper.sync(committed),
            None => Ok(()),
        }
    }

    /// Removes changes up to a position; how many bytes they had. The caller holds the writer.
    fn remove_changes(&self, until: u64) -> Result<u64, Error> {
        let WideKeeper::Own(store) = &self.keeper else {
            return Ok(0);
        };
        let (mut bytes, mut behind) = (0, 0);
        loop {
            let mut page = self.kept_changes(behind, CHANGES_READ_BYTES)?;
            page.retain(|(position, _)| *position <= until);
            let Some((last, _)) = page.last() else {
                return Ok(bytes);
            };
            behind = *last;
            let mut commit = store.begin(&self.name)?;
            for (position, value) in &page {
                bytes += value.len() as u64;
                commit.remove_meta(&self.change_key(*position));
            }
            store.remove(commit, &self.layout())?;
        }
    }
}

impl ChangeLog for Wide {
    fn identity(&self) -> Result<Option<u64>, Error> {
        Ok(self.changes.identity())
    }

    fn end(&self) -> Result<u64, Error> {
        Ok(self.keeper.position(&self.name, END)?.unwrap_or(0))
    }

    fn picture(&self) -> Result<(u64, Rows), Error> {
        let _writer = self.writer.lock();
        Ok((ChangeLog::end(self)?, self.scan(&Scan::default())?))
    }

    fn read(&self, behind: u64, bytes_max: usize) -> Result<ReadChanges, Error> {
        if behind > ChangeLog::end(self)? {
            return Err(gap(&self.name, behind));
        }
        let mut read = ReadChanges {
            changes: Vec::new(),
            until: behind,
        };
        let found = self.kept_changes(behind, bytes_max)?;
        // A commit is seen before it is durable.
        self.keeper.sync_all()?;
        for (until, value) in found {
            let (time, rest) = value.split_first_chunk::<8>().ok_or_else(damaged)?;
            let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
            let length = usize::try_from(u64::from_be_bytes(*length)).map_err(|_| damaged())?;
            let (producer, body) = rest.split_at_checked(length).ok_or_else(damaged)?;
            let producer = std::str::from_utf8(producer).map_err(|_| damaged())?;
            let FramedRows { rows, deletes, .. } = FramedRows::read(Bytes::copy_from_slice(body))?;
            let change = TableChange {
                begin: until.saturating_sub(rows.num_rows() as u64),
                producer: (!producer.is_empty()).then(|| producer.into()),
                time: i64::from_be_bytes(*time),
                rows,
                deletes,
            };
            read.changes.push(change.behind(behind));
            read.until = until;
        }
        Ok(read)
    }

    fn renew(&self) -> Result<u64, Error> {
        let _writer = self.writer.lock();
        let known = self.keeper.position(&self.name, IDENTITY)?;
        let identity = next_identity(known, self.keeper.clock().now_micros(), true);
        self.set_identity(identity)?;
        self.changes.renewed(identity);
        Ok(identity)
    }

    fn forget(&self, until: u64) -> Result<(), Error> {
        let _writer = self.writer.lock();
        let bytes = self.remove_changes(until)?;
        self.changes.taken(bytes);
        Ok(())
    }
}
