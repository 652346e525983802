//! Reads what was in the tables before their changes came.

use std::collections::HashSet;

use busbar_change::postgres::row;
use busbar_event::Error;
use bytes::Bytes;

use super::{ChangeSource, Following, Reading};
use crate::change::snapshot::{Progress, Window};
use crate::postgres::failure::Failed;
use crate::postgres::limits::{CHUNK_BYTES, CHUNK_ROWS, FETCH_ROWS};
use crate::postgres::link::{Answer, Fetched, Link};
use crate::postgres::snapshot::{self, Seen};

impl ChangeSource {
    pub(super) fn close_windows(&mut self) {
        if self.collector.in_transaction() {
            return;
        }
        let position = self.collector.position();
        for table in &mut self.tables {
            if table
                .window
                .as_ref()
                .is_some_and(|window| position >= window.high)
            {
                table.window = None;
            }
            let is_settled = table.window.is_none();
            if let Some(failed) = self.collector.end_count(&mut table.table, is_settled) {
                tracing::warn!(connection = %self.context.name, error = %failed, "the rows of a table were not counted");
            }
        }
    }

    /// Begins the snapshots that were asked for.
    pub(super) fn begin_asked(&mut self) {
        for following in &mut self.tables {
            self.collector.end_told(&mut following.table);
            if self.collector.begin_asked(&mut following.table) {
                following.window = None;
                following.reading = None;
            }
        }
    }

    /// The transactions that have written to tables that are to be read, and are not over.
    pub(super) async fn writing(&mut self) -> Result<HashSet<String>, Error> {
        let unread = self
            .tables
            .iter()
            .filter(|table| !table.table.progress.done);
        let unread: Vec<_> = unread.map(|table| table.followed.quoted()).collect();
        if unread.is_empty() {
            return Ok(HashSet::new());
        }
        let mut sql = self.session().await?;
        let writing = snapshot::writing(&mut sql, &unread).await;
        let writing = writing.map_err(|failed| failed.told(self.server.doing("", "SELECT")))?;
        self.sql = Some(sql);
        Ok(writing)
    }

    /// Reads a piece of a snapshot, if one is due; whether it has.
    pub(super) async fn read_snapshot(&mut self) -> Result<bool, Error> {
        let waits = self.tables.iter().any(|table| table.window.is_some());
        // A chunk that has not seen what streams hold would come behind it, and what is left out then does not put it right.
        if waits || self.collector.in_transaction() || self.collector.repeats() {
            return Ok(false);
        }
        let Some(at) = self
            .tables
            .iter()
            .position(|table| !table.table.progress.done)
        else {
            return Ok(false);
        };
        if !self.writing.is_empty() {
            let writing = self.writing().await?;
            self.writing
                .retain(|transaction| writing.contains(transaction));
            if !self.writing.is_empty() {
                return Ok(false);
            }
        }
        let quoted = self.tables[at].followed.quoted();
        let read = match self.tables[at].followed.key.is_empty() {
            true => self.read_whole(at).await,
            false => self.read_chunk(at).await,
        };
        match read {
            Ok(read) => Ok(read),
            Err(failed) => Err(failed.told(self.server.doing(&quoted, "SELECT"))),
        }
    }

    /// Whether a snapshot saw every transaction that the stream has passed. The server sends a transaction to readers of its
    /// log before it shows it to others, who wait for a replica, for instance. A chunk without it would come behind the
    /// change, and with the state before.
    fn is_late(&mut self, seen: &Seen) -> bool {
        if self
            .passed
            .iter()
            .any(|transaction| !seen.has(*transaction))
        {
            return true;
        }
        self.passed.clear();
        false
    }

    async fn read_chunk(&mut self, at: usize) -> Result<bool, Failed> {
        let mut sql = self.session().await?;
        let after = self.tables[at].table.progress.last.clone();
        let followed = &self.tables[at].followed;
        let chunk = snapshot::chunk(&mut sql, followed, after.as_deref()).await?;
        if self.is_late(&chunk.seen) {
            if chunk.last {
                sql.run("COMMIT").await?;
            }
            self.sql = Some(sql);
            return Ok(false);
        }
        let followed = &self.tables[at].followed;
        let mut keys = HashSet::new();
        let rows = &chunk.answer.rows;
        if followed.order.is_none() {
            keys.extend(rows.iter().map(|row| snapshot::key(followed, row)));
        }
        let last = rows.last().map(|row| snapshot::key(followed, row));
        let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
        let last = last.map(|key| key.iter().map(text).collect());
        let progress = Progress::up_to(last.or(after.clone()), chunk.last);
        self.publish(at, &chunk.answer, Some(progress));
        match chunk.last {
            true => self.count(at, sql),
            false => self.sql = Some(sql),
        }
        self.tables[at].window = Some(Window {
            after,
            seen: chunk.seen,
            high: chunk.high.0,
            keys,
        });
        // The answer says that the stream has come as far.
        self.status(true).await?;
        Ok(true)
    }

    /// Reads a piece of a table without a key.
    async fn read_whole(&mut self, at: usize) -> Result<bool, Failed> {
        let (mut reading, mut asked) = match self.tables[at].reading.take() {
            Some(reading) => (reading, false),
            None => {
                let mut link = self.server.open().await?;
                let (seen, high) = snapshot::begin(&mut link).await?;
                if self.is_late(&seen) {
                    link.close().await;
                    return Ok(false);
                }
                let statement = snapshot::statement(&self.tables[at].followed, None);
                link.begin(&statement, &[], FETCH_ROWS).await?;
                (Reading { link, seen, high }, true)
            }
        };
        let mut answer = Answer::default();
        let whole = loop {
            if !std::mem::take(&mut asked) {
                reading.link.more(FETCH_ROWS).await?;
            }
            match reading.link.fetch(&mut answer).await? {
                Fetched::All => break true,
                Fetched::Part if answer.rows.len() >= CHUNK_ROWS => break false,
                Fetched::Part if snapshot::bytes(&answer) >= CHUNK_BYTES => break false,
                Fetched::Part => {}
            }
        };
        let progress = whole.then(|| Progress::up_to(None, true));
        self.publish(at, &answer, progress);
        if whole {
            self.tables[at].window = Some(Window {
                after: None,
                seen: reading.seen,
                high: reading.high.0,
                keys: HashSet::new(),
            });
            reading.link.finish().await?;
            self.count(at, reading.link);
            self.status(true).await?;
        } else {
            self.tables[at].reading = Some(reading);
        }
        Ok(true)
    }

    /// Lets the server count the rows of a table, in the transaction that read the last of them.
    fn count(&mut self, at: usize, link: Link) {
        let Following {
            followed, table, ..
        } = &mut self.tables[at];
        let counting = snapshot::count(link, self.server.clone(), followed.quoted());
        table.count.count(counting);
    }

    /// Hands on rows that a snapshot read, with how far it has come.
    fn publish(&mut self, at: usize, answer: &Answer, progress: Option<Progress>) {
        let Following {
            followed, table, ..
        } = &mut self.tables[at];
        let mut payload = Vec::new();
        for values in &answer.rows {
            payload.clear();
            row::write_read(&followed.columns, values, &mut payload);
            let mut key = String::new();
            row::write_key(followed.key.iter().map(|at| values[*at].as_ref()), &mut key);
            let key = (!followed.key.is_empty()).then_some(key.as_str());
            self.collector.push_read(table, key, &payload);
        }
        table.count.read(answer.rows.len() as u64);
        self.collector.hand_on();
        self.collector.end_read(table, progress);
    }
}
