//! Changes as they are committed, from a replication slot, behind a snapshot of what was there before.
//!
//! Parts and positions: `stream` is at the end of the last transaction in the server's log. A transaction that is too
//! large for one batch is a part of its own, `large:PLACE`, with the numbers of its rows as positions; once it is over,
//! `stream` passes it. Each table is a part, too, whose note says how far its snapshot has come.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use busbar_connector::{Polled, Polling, Position, Source, SourceContext, Work};
use busbar_event::{ARRIVAL, BatchBuilder, Class, Error, Flags, Micros, Row};
use bytes::Bytes;
use tokio::time::Instant;

use super::failure::Failed;
use super::follow::{self, Followed, Identity};
use super::limits::{
    CHUNK_BYTES, CHUNK_ROWS, FETCH_ROWS, IDLE, LARGE_TRANSACTIONS_MAX, POLL_MAX, SILENCE_MAX,
    STATUS_EVERY, TRANSACTION_BYTES, TRANSACTION_ROWS, WINDOW_POLL,
};
use super::link::{Answer, Fetched, Link, Server};
use super::pgoutput::{self, Event, Frame, Lsn, Relation, Tuple, Value};
use super::row;
use super::snapshot::{self, Progress, Window};
use super::wire::{identifier, literal};
use super::{Follow, attempt};
use crate::topic::TopicTemplate;

/// Follows the changes of a database.
pub struct ChangeSource {
    server: Server,
    context: SourceContext,
    slot: String,
    identity: Identity,
    /// The session that changes come through.
    stream: Link,
    /// The session for snapshots and for looking at the server.
    sql: Option<Link>,
    tables: Vec<Table>,
    relations: HashMap<u32, Known>,
    transaction: Option<Transaction>,
    /// Rows of whole transactions, not handed on yet, with the place behind the transaction of each.
    builder: BatchBuilder,
    positions: Vec<u64>,
    queue: VecDeque<Polling>,
    part: Arc<str>,
    prefix: String,
    /// Behind the last whole transaction, or where the server is while nothing happens.
    position: Lsn,
    /// What `queue` was last given.
    handed_on: Lsn,
    committed: Lsn,
    /// Committed at the last status.
    settling: Lsn,
    /// Committed at the status before, and by now kept for good.
    kept: Lsn,
    /// Parts of large transactions that are over, and the place behind each.
    over: Vec<(Lsn, Arc<str>)>,
    next_status: Instant,
    heard: Instant,
    reply_wanted: bool,
    /// A change was taken and not worked through.
    torn: bool,
    lag_bytes: Option<u64>,
}

/// A table and how far its snapshot has come.
struct Table {
    followed: Followed,
    topic: String,
    part: Arc<str>,
    /// Behind the last batch of its snapshot.
    position: u64,
    progress: Progress,
    /// Its snapshot was interrupted: what the chunks before saw is not known any more.
    resumed: bool,
    window: Option<Window>,
    /// A table without a key, which is read in one transaction.
    reading: Option<Reading>,
}

struct Reading {
    link: Link,
    seen: snapshot::Seen,
    high: Lsn,
}

struct Known {
    relation: Relation,
    table: Option<usize>,
}

struct Transaction {
    commit: Lsn,
    time: Micros,
    id: u32,
    /// Changes seen, with those that are not published.
    seen: u64,
    rows: Vec<Change>,
    bytes: usize,
    /// The part of its own, and the position up to which its rows were committed before.
    large: Option<(Arc<str>, u64)>,
}

struct Change {
    table: usize,
    number: u64,
    key: Option<String>,
    payload: Vec<u8>,
}

impl ChangeSource {
    /// Checks the server, makes what is missing and allowed, and begins to listen.
    pub(super) async fn open(
        server: Server,
        options: &Follow,
        topic: &TopicTemplate,
        context: SourceContext,
    ) -> Result<ChangeSource, Error> {
        let prefix = match options.generation {
            0 => String::new(),
            generation => format!("{generation}:"),
        };
        let part: Arc<str> = format!("{prefix}stream").into();
        let known = Lsn(context.resume.position(&part));
        let name = options
            .slot
            .clone()
            .unwrap_or_else(|| default_name(&context.name));
        let publication = options
            .publication
            .clone()
            .unwrap_or_else(|| default_name(&context.name));
        let mut sql = server.open().await?;
        let followed = follow::tables(&server, &mut sql, options).await?;
        follow::publish(&server, &mut sql, options, &publication, &followed).await?;
        let opened = server.open_replication().await;
        let mut stream = opened.map_err(|failed| follow::replication_told(&server, failed))?;
        let identity = Identity::from_bytes(context.resume.note(&part));
        let identity = follow::identify(&server, &mut stream, identity, known).await?;
        let position = begin_at(&server, &mut sql, options, &name, known).await?;
        let start = format!(
            "START_REPLICATION SLOT {} LOGICAL {position} (proto_version '1', publication_names {})",
            identifier(&name),
            literal(&identifier(&publication)),
        );
        stream
            .replicate(&start)
            .await
            .map_err(|failed| follow::replication_told(&server, failed))?;
        let tables = followed
            .into_iter()
            .map(|table| Table::new(table, options, topic, &context, &prefix));
        let tables = tables.collect::<Vec<_>>();
        let now = Instant::now();
        let mut source = ChangeSource {
            server,
            slot: name,
            identity,
            stream,
            sql: Some(sql),
            tables,
            relations: HashMap::new(),
            transaction: None,
            builder: BatchBuilder::new(),
            positions: Vec::new(),
            queue: VecDeque::new(),
            part,
            prefix,
            position,
            handed_on: known,
            committed: known,
            settling: known,
            kept: known,
            over: Vec::new(),
            next_status: now,
            heard: now,
            reply_wanted: false,
            torn: false,
            lag_bytes: None,
            context,
        };
        source.remember_large();
        source.begin_snapshots(options);
        source.hand_on_position();
        Ok(source)
    }

    /// Parts of large transactions that the stream has passed.
    fn remember_large(&mut self) {
        let begin = format!("{}large:", self.prefix);
        let parts = self.context.resume.positions.keys();
        let parts = parts.filter_map(|part| {
            let commit = u64::from_str_radix(part.strip_prefix(&begin)?, 16).ok()?;
            Some((Lsn(commit), Arc::from(part.as_str())))
        });
        self.over.extend(parts.take(LARGE_TRANSACTIONS_MAX));
    }

    /// Says for each table that a new attempt at it begins, so that its positions are behind those of the one before.
    fn begin_snapshots(&mut self, options: &Follow) {
        for at in 0..self.tables.len() {
            if self.tables[at].progress.done {
                continue;
            }
            let first = self.tables[at].progress.last.is_none() && !self.tables[at].resumed;
            // Rows that are gone since the snapshot before are known by their absence only.
            if first
                && (options.generation > 0
                    || options
                        .again
                        .contains_key(&self.tables[at].followed.shown()))
            {
                let (mut payload, topic) = (Vec::new(), self.tables[at].topic.clone());
                row::write_truncate(&mut payload);
                let topic = self.builder.topic_id(&topic);
                self.builder
                    .push(plain(topic, None, ARRIVAL, &[], &payload));
            }
            let batch = self.builder.finish();
            self.push_table(at, batch);
        }
    }

    fn push_table(&mut self, at: usize, batch: busbar_event::Batch) {
        let table = &mut self.tables[at];
        table.position += 1;
        let note = serde_json::to_vec(&table.progress).unwrap_or_default();
        self.queue.push_back(Polling {
            batch,
            part: Arc::clone(&table.part),
            position: Position::End(table.position),
            note,
        });
    }

    async fn next(&mut self) -> Result<Polled, Error> {
        if self.torn {
            let error = Error::new(Class::Transient, "postgres.closed");
            return Err(error.with("address", &self.server.address));
        }
        loop {
            if let Some(polling) = self.queue.pop_front() {
                return Ok(Polled::Batch(polling));
            }
            self.keep_in_touch().await?;
            if !self.queue.is_empty() {
                continue;
            }
            self.close_windows();
            if self.transaction.is_none() && self.read_snapshot().await? {
                continue;
            }
            let window = self.tables.iter().any(|table| table.window.is_some());
            let wait = if window { WINDOW_POLL } else { POLL_MAX };
            let Some(message) = self
                .stream
                .stream(wait)
                .await
                .map_err(|failed| self.told(failed))?
            else {
                if self.heard.elapsed() > SILENCE_MAX {
                    let error = Error::new(Class::Transient, "postgres.silent");
                    return Err(error
                        .with("address", &self.server.address)
                        .with("seconds", SILENCE_MAX.as_secs()));
                }
                if window {
                    self.status(true).await?;
                    continue;
                }
                return Ok(Polled::Idle(IDLE));
            };
            self.heard = Instant::now();
            self.take(&message).await?;
            while self.queue.is_empty() && !self.builder.is_full() {
                let Some(message) = self.stream.streamed().map_err(|failed| self.told(failed))?
                else {
                    break;
                };
                self.take(&message).await?;
            }
            self.hand_on();
        }
    }

    fn told(&self, failed: Failed) -> Error {
        // The server ends the session of a slot that it has dropped; the next one says so.
        match &failed {
            Failed::Server(error) if error.code.starts_with("55") => {
                let error =
                    Error::new(Class::Transient, "postgres.for-now").with("said", &error.message);
                error.with("address", &self.server.address)
            }
            _ => failed.told(self.server.doing("", "")),
        }
    }

    /// Tells the server what is kept, and looks at how far it is, from time to time.
    async fn keep_in_touch(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.reply_wanted) {
            self.status(false).await?;
        }
        if Instant::now() < self.next_status {
            return Ok(());
        }
        self.next_status = Instant::now() + STATUS_EVERY;
        // A position is written some time after the rows that it is about; by the next status it is.
        self.kept = self.settling;
        self.settling = self.committed;
        self.status(true).await?;
        self.hand_on_position();
        let mut sql = match self.sql.take().filter(Link::usable) {
            Some(link) => link,
            None => self.server.open().await?,
        };
        let Some(slot) = follow::slot(&self.server, &mut sql, &self.slot).await? else {
            return Err(gone(&self.server, &self.slot));
        };
        self.lag_bytes = Some(slot.end.0.saturating_sub(self.position.0));
        let held = slot.end.0.saturating_sub(slot.confirmed.0);
        if let Some(left) = slot.left
            && u64::try_from(left).unwrap_or(0) < held / 3
        {
            tracing::warn!(
                connection = %self.context.name, slot = self.slot, held_bytes = held, left_bytes = left,
                "the database will soon remove what this connection has not read; raise max_slot_wal_keep_size"
            );
        }
        self.sql = Some(sql);
        Ok(())
    }

    async fn status(&mut self, reply: bool) -> Result<(), Error> {
        let now = self.context.clock.now_micros();
        let message = pgoutput::status(self.kept, self.position, now, reply);
        self.stream
            .send(&message)
            .await
            .map_err(|failed| self.told(failed))
    }

    /// Notes a position without rows, so that a database where nothing happens to these tables keeps no log for them.
    fn hand_on_position(&mut self) {
        self.hand_on();
        if self.transaction.is_none() && self.position > self.handed_on {
            self.handed_on = self.position;
            self.queue.push_back(Polling {
                batch: self.builder.finish(),
                part: Arc::clone(&self.part),
                position: Position::End(self.position.0),
                note: self.identity.to_bytes(),
            });
        }
    }

    /// Hands on the rows of whole transactions.
    fn hand_on(&mut self) {
        let Some(last) = self.positions.last() else {
            return;
        };
        self.handed_on = Lsn(*last);
        self.queue.push_back(Polling {
            batch: self.builder.finish(),
            part: Arc::clone(&self.part),
            position: Position::Rows(std::mem::take(&mut self.positions)),
            note: self.identity.to_bytes(),
        });
    }

    /// Takes a message of the stream.
    async fn take(&mut self, message: &Bytes) -> Result<(), Error> {
        let data = match pgoutput::frame(message) {
            Some(Frame::Data(data)) => data,
            Some(Frame::KeepAlive { end, reply }) => {
                self.reply_wanted |= reply;
                if self.transaction.is_none() {
                    self.position = self.position.max(end);
                }
                return Ok(());
            }
            None => return Ok(()),
        };
        let event = pgoutput::event(&data)
            .ok_or_else(|| self.stream.strange("a change of another form"))?;
        match event {
            Event::Begin {
                commit,
                time,
                transaction,
            } => {
                let part = format!("{}large:{:016x}", self.prefix, commit.0);
                let before = self.context.resume.positions.get(&part);
                self.transaction = Some(Transaction {
                    commit,
                    time,
                    id: transaction,
                    seen: 0,
                    rows: Vec::new(),
                    bytes: 0,
                    large: before.map(|before| (part.as_str().into(), *before)),
                });
            }
            Event::Commit { end } => self.commit(end),
            Event::Relation(relation) => self.relation(relation),
            Event::Insert { table, after } => self.change("insert", table, &after, None),
            Event::Update {
                table,
                before,
                after,
            } => self.update(table, before, after).await?,
            Event::Delete { table, before } => self.change("delete", table, &before, None),
            Event::Truncate { tables } => {
                for table in tables {
                    let known = self.relations.get(&table).and_then(|known| known.table);
                    if let Some(at) = known.filter(|at| self.tables[*at].has_begun()) {
                        let mut payload = Vec::new();
                        row::write_truncate(&mut payload);
                        self.push(at, None, payload);
                    }
                }
                self.count();
            }
            Event::Other => {}
        }
        self.spill();
        Ok(())
    }

    fn relation(&mut self, mut relation: Relation) {
        let table = self.tables.iter().position(|table| {
            table.followed.schema == relation.schema && table.followed.name == relation.name
        });
        if let Some(at) = table {
            let followed = &self.tables[at].followed;
            for column in &mut relation.columns {
                let known = followed.columns.iter().zip(&followed.types);
                let mut known =
                    known.filter(|(known, of)| known.name == column.name && **of == column.oid);
                if let Some((known, _)) = known.next() {
                    column.oid = known.oid;
                }
            }
            if relation.full && !followed.key.is_empty() {
                let is_key = |name: &String| {
                    followed
                        .key
                        .iter()
                        .any(|at| followed.columns[*at].name == *name)
                };
                relation.key = relation
                    .columns
                    .iter()
                    .map(|column| is_key(&column.name))
                    .collect();
            }
            let before = self
                .relations
                .get(&relation.id)
                .map(|known| &known.relation.columns);
            if *before.unwrap_or(&followed.columns) != relation.columns {
                let mut payload = Vec::new();
                row::write_schema(&relation, &mut payload);
                self.push(at, None, payload);
                self.count();
            }
        }
        self.relations
            .insert(relation.id, Known { relation, table });
    }

    /// An update: the row as it was where that is known, and as it is.
    async fn update(
        &mut self,
        table: u32,
        before: Option<Tuple>,
        mut after: Tuple,
    ) -> Result<(), Error> {
        let Some(Known {
            relation,
            table: Some(at),
        }) = self.relations.get(&table)
        else {
            self.count();
            return Ok(());
        };
        if let Some(before) = before.as_ref().filter(|before| !before.only_key) {
            for (new, old) in after.values.iter_mut().zip(&before.values) {
                if *new == Value::Unchanged {
                    new.clone_from(old);
                }
            }
        }
        let keyed = !self.tables[*at].followed.key.is_empty();
        let moved = |before: &Tuple| {
            keyed && !row::key_values(relation, before).eq(row::key_values(relation, &after))
        };
        match before {
            // Whoever keeps rows by key has to let go of the old one, and needs all of the new one.
            Some(before) if moved(&before) => {
                if after.values.contains(&Value::Unchanged) {
                    after = self.filled(table, after).await?;
                }
                self.one("delete", table, &before, None);
                self.change("insert", table, &after, None);
            }
            before => self.change(
                "update",
                table,
                &after,
                before.as_ref().filter(|before| !before.only_key),
            ),
        }
        Ok(())
    }

    /// A row with the values that the database did not repeat, as they are now. Where the row has been changed since, its
    /// next change says so.
    async fn filled(&mut self, table: u32, mut row: Tuple) -> Result<Tuple, Error> {
        let Some(Known {
            relation,
            table: Some(at),
        }) = self.relations.get(&table)
        else {
            return Ok(row);
        };
        let columns: Vec<_> = relation
            .columns
            .iter()
            .map(|column| identifier(&column.name))
            .collect();
        let is_key = columns
            .iter()
            .zip(&relation.key)
            .filter(|(_, is_key)| **is_key);
        let same: Vec<_> = is_key
            .enumerate()
            .map(|(at, (column, _))| format!("{column} = ${}", at + 1))
            .collect();
        let quoted = self.tables[*at].followed.quoted();
        let sql = format!(
            "SELECT {} FROM {quoted} WHERE {}",
            columns.join(", "),
            same.join(" AND ")
        );
        let key: Vec<_> = row::key_values(relation, &row)
            .map(|value| value.map(|value| String::from_utf8_lossy(value).into_owned()))
            .collect();
        let key: Vec<_> = key.iter().map(Option::as_deref).collect();
        // The message is taken already: a caller that gives up here has to begin at the last position.
        self.torn = true;
        let mut link = match self.sql.take().filter(Link::usable) {
            Some(link) => link,
            None => self.server.open().await?,
        };
        let answer = link.ask(&sql, &key).await;
        let answer = answer.map_err(|failed| failed.told(self.server.doing(&quoted, "SELECT")))?;
        self.sql = Some(link);
        self.torn = false;
        for (value, found) in row
            .values
            .iter_mut()
            .zip(answer.rows.into_iter().next().into_iter().flatten())
        {
            if *value == Value::Unchanged {
                *value = found.map_or(Value::Null, Value::Text);
            }
        }
        Ok(row)
    }

    fn change(&mut self, change: &str, table: u32, tuple: &Tuple, before: Option<&Tuple>) {
        self.one(change, table, tuple, before);
        self.count();
    }

    fn one(&mut self, change: &str, table: u32, tuple: &Tuple, before: Option<&Tuple>) {
        let Some(Known {
            relation,
            table: Some(at),
        }) = self.relations.get(&table)
        else {
            return;
        };
        let (at, table) = (*at, &self.tables[*at]);
        let transaction = self
            .transaction
            .as_ref()
            .map_or(0, |transaction| transaction.id);
        if !table.resumed && (!table.progress.done || table.window.is_some()) {
            let key: Vec<Bytes> = match table.followed.key.is_empty() {
                true => Vec::new(),
                false => row::key_values(relation, tuple)
                    .map(|value| value.cloned().unwrap_or_default())
                    .collect(),
            };
            if !snapshot::publishes(
                table.followed.order.as_deref(),
                &table.progress,
                table.window.as_ref(),
                &key,
                transaction,
            ) {
                return;
            }
        }
        let (mut key, mut payload) = (String::new(), Vec::new());
        row::write_change(change, relation, tuple, before, &mut key, &mut payload);
        let key = (!table.followed.key.is_empty()).then_some(key);
        self.push(at, key, payload);
    }

    fn push(&mut self, table: usize, key: Option<String>, payload: Vec<u8>) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let number = transaction.seen + 1;
        if transaction
            .large
            .as_ref()
            .is_some_and(|(_, known)| number <= *known)
        {
            return;
        }
        transaction.bytes += payload.len();
        transaction.rows.push(Change {
            table,
            number,
            key,
            payload,
        });
    }

    /// Counts a change, whether it is published or not: the numbers are the same when it comes again.
    fn count(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.seen += 1;
        }
    }

    /// Hands on rows of a transaction that is too large to be held until its end.
    fn spill(&mut self) {
        let large = self.transaction.as_ref().is_some_and(|transaction| {
            transaction.rows.len() >= TRANSACTION_ROWS || transaction.bytes >= TRANSACTION_BYTES
        });
        if large {
            self.hand_on();
            let Some(transaction) = &mut self.transaction else {
                return;
            };
            if transaction.large.is_none() {
                let part = format!("{}large:{:016x}", self.prefix, transaction.commit.0);
                transaction.large = Some((part.into(), 0));
            }
            self.hand_on_large();
        }
    }

    fn hand_on_large(&mut self) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let Some((part, _)) = &transaction.large else {
            return;
        };
        let numbers: Vec<_> = transaction
            .rows
            .iter()
            .map(|change| change.number)
            .collect();
        if numbers.is_empty() {
            return;
        }
        let part = Arc::clone(part);
        push_rows(&mut self.builder, &self.tables, transaction);
        self.queue.push_back(Polling {
            batch: self.builder.finish(),
            part,
            position: Position::Rows(numbers),
            note: Vec::new(),
        });
    }

    fn commit(&mut self, end: Lsn) {
        let Some(mut transaction) = self.transaction.take() else {
            return;
        };
        if let Some((part, _)) = transaction.large.clone() {
            self.hand_on();
            self.transaction = Some(transaction);
            self.hand_on_large();
            self.transaction = None;
            self.position = self.position.max(end);
            self.over.push((end, part));
            self.hand_on_position();
            return;
        }
        self.positions
            .resize(self.positions.len() + transaction.rows.len(), end.0);
        push_rows(&mut self.builder, &self.tables, &mut transaction);
        self.position = self.position.max(end);
    }

    fn close_windows(&mut self) {
        if self.transaction.is_some() {
            return;
        }
        for table in &mut self.tables {
            if table
                .window
                .as_ref()
                .is_some_and(|window| self.position >= window.high)
            {
                table.window = None;
            }
        }
    }

    /// Reads a piece of a snapshot, if one is due; whether it has.
    async fn read_snapshot(&mut self) -> Result<bool, Error> {
        if self.tables.iter().any(|table| table.window.is_some()) {
            return Ok(false);
        }
        let Some(at) = self.tables.iter().position(|table| !table.progress.done) else {
            return Ok(false);
        };
        let doing = self.server.clone();
        let quoted = self.tables[at].followed.quoted();
        let read = match self.tables[at].followed.key.is_empty() {
            true => self.read_whole(at).await,
            false => self.read_chunk(at).await,
        };
        match read {
            Ok(()) => Ok(true),
            Err(failed) => Err(failed.told(doing.doing(&quoted, "SELECT"))),
        }
    }

    async fn read_chunk(&mut self, at: usize) -> Result<(), Failed> {
        let mut sql = match self.sql.take().filter(Link::usable) {
            Some(link) => link,
            None => self.server.open().await?,
        };
        let after = self.tables[at].progress.last.clone();
        let chunk = snapshot::chunk(&mut sql, &self.tables[at].followed, after.as_deref()).await?;
        self.sql = Some(sql);
        let table = &self.tables[at];
        let mut keys = std::collections::HashSet::new();
        let rows = &chunk.answer.rows;
        if table.followed.order.is_none() {
            keys.extend(rows.iter().map(|row| snapshot::key(&table.followed, row)));
        }
        let last = rows.last().map(|row| snapshot::key(&table.followed, row));
        let last = last.map(|key| {
            key.iter()
                .map(|value| String::from_utf8_lossy(value).into_owned())
                .collect()
        });
        let progress = Progress {
            last: last.or(after.clone()),
            done: chunk.last,
        };
        self.push_rows_read(at, &chunk.answer, Some(progress));
        self.tables[at].window = Some(Window {
            after,
            seen: chunk.seen,
            high: chunk.high,
            keys,
        });
        // The answer says that the stream has come as far.
        self.status(true).await?;
        Ok(())
    }

    /// Reads a piece of a table without a key.
    async fn read_whole(&mut self, at: usize) -> Result<(), Failed> {
        let (mut reading, mut fetching) = match self.tables[at].reading.take() {
            Some(reading) => (reading, false),
            None => {
                let mut link = self.server.open().await?;
                let (seen, high) = snapshot::begin(&mut link).await?;
                link.begin(
                    &snapshot::statement(&self.tables[at].followed, None),
                    &[],
                    FETCH_ROWS,
                )
                .await?;
                (Reading { link, seen, high }, true)
            }
        };
        let mut answer = Answer {
            columns: self.tables[at].followed.columns.clone(),
            ..Answer::default()
        };
        let whole = loop {
            if !std::mem::take(&mut fetching) {
                reading.link.more(FETCH_ROWS).await?;
            }
            match reading.link.fetch(&mut answer).await? {
                Fetched::All => break true,
                Fetched::Part
                    if answer.rows.len() >= CHUNK_ROWS
                        || snapshot::bytes(&answer) >= CHUNK_BYTES =>
                {
                    break false;
                }
                Fetched::Part => {}
            }
        };
        let progress = whole.then(|| Progress {
            last: None,
            done: true,
        });
        self.push_rows_read(at, &answer, progress);
        if whole {
            self.tables[at].window = Some(Window {
                after: None,
                seen: reading.seen,
                high: reading.high,
                keys: std::collections::HashSet::new(),
            });
            reading.link.close().await;
            self.status(true).await?;
        } else {
            self.tables[at].reading = Some(reading);
        }
        Ok(())
    }

    /// Hands on rows that a snapshot read; the last batch says how far it has come.
    fn push_rows_read(&mut self, at: usize, answer: &Answer, progress: Option<Progress>) {
        self.hand_on();
        let mut payload = Vec::new();
        for values in &answer.rows {
            payload.clear();
            let table = &self.tables[at];
            row::write_read(&table.followed.columns, values, &mut payload);
            let mut key = String::new();
            row::write_key(
                table.followed.key.iter().map(|at| values[*at].as_ref()),
                &mut key,
            );
            let key = (!table.followed.key.is_empty()).then_some(key.as_str());
            let topic = self.builder.topic_id(&table.topic);
            self.builder.push(plain(topic, key, ARRIVAL, &[], &payload));
            if self.builder.is_full() {
                let batch = self.builder.finish();
                self.push_table(at, batch);
            }
        }
        if let Some(progress) = progress {
            self.tables[at].progress = progress;
        }
        let batch = self.builder.finish();
        self.push_table(at, batch);
    }
}

impl Source for ChangeSource {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(self.next())
    }

    fn committed(&mut self, part: &str, position: u64) {
        if part == &*self.part {
            self.committed = self.committed.max(Lsn(position));
        }
    }

    fn forgotten(&mut self) -> Vec<Arc<str>> {
        let committed = self.committed;
        let (gone, left) = std::mem::take(&mut self.over)
            .into_iter()
            .partition(|(end, _)| *end < committed);
        self.over = left;
        let gone: Vec<(Lsn, Arc<str>)> = gone;
        gone.into_iter().map(|(_, part)| part).collect()
    }

    fn lag_bytes(&self) -> Option<u64> {
        self.lag_bytes
    }

    fn close(&mut self) -> Work<'_, Result<(), Error>> {
        Box::pin(async {
            // The server frees the slot when it sees the end; else only after its own timeout.
            self.stream.leave().await;
            Ok(())
        })
    }
}

impl Table {
    fn new(
        followed: Followed,
        options: &Follow,
        topic: &TopicTemplate,
        context: &SourceContext,
        prefix: &str,
    ) -> Table {
        let mut written = String::new();
        let value = |name: &str| match name {
            "connection" => Some(context.name.to_string()),
            "schema" => Some(followed.schema.clone()),
            _ => Some(followed.name.clone()),
        };
        topic.write(value, &mut written);
        let again = options.again.get(&followed.shown()).copied().unwrap_or(0);
        let part: Arc<str> = match again {
            0 => format!("{prefix}table:{}", followed.shown()).into(),
            again => format!("{prefix}table:{}:{again}", followed.shown()).into(),
        };
        let known = context.resume.position(&part);
        let mut progress: Progress =
            serde_json::from_slice(context.resume.note(&part)).unwrap_or_default();
        progress.done |= !options.snapshot;
        Table {
            topic: written,
            position: attempt(context.clock.now_micros(), known),
            resumed: known > 0 && !progress.done,
            progress,
            part,
            window: None,
            reading: None,
            followed,
        }
    }

    fn has_begun(&self) -> bool {
        self.progress.done || self.progress.last.is_some() || self.resumed
    }
}

/// The name of slot and publication of a connection.
fn default_name(connection: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '_'
        }
    };
    let name: String = connection.chars().map(plain).take(50).collect();
    format!("busbar_{name}")
}

/// The place to begin at. Makes the slot when it has never been there.
async fn begin_at(
    server: &Server,
    sql: &mut Link,
    options: &Follow,
    name: &str,
    known: Lsn,
) -> Result<Lsn, Error> {
    // A new generation begins anew, whatever became of the slot.
    if options.generation > 0 && known == Lsn::default() && options.create {
        let drop = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {} AND NOT active",
            literal(name)
        );
        sql.run(&drop)
            .await
            .map_err(|failed| follow::replication_told(server, failed))?;
    }
    match follow::slot(server, sql, name).await? {
        None if known > Lsn::default() => Err(gone(server, name)),
        None => follow::make_slot(server, sql, options, name).await,
        Some(slot) if known == Lsn::default() => Ok(slot.confirmed),
        Some(slot) if slot.confirmed > known => {
            Err(Error::new(Class::Configuration, "postgres.slot-ahead")
                .with("address", &server.address)
                .with("slot", name)
                .with("position", known)
                .with("confirmed", slot.confirmed))
        }
        Some(_) => Ok(known),
    }
}

fn gone(server: &Server, slot: &str) -> Error {
    Error::new(Class::Configuration, "postgres.slot-gone")
        .with("address", &server.address)
        .with("slot", slot)
}

fn plain<'a>(
    topic: u32,
    key: Option<&'a str>,
    time: Micros,
    tags: &'a [(&'a str, &'a str)],
    payload: &'a [u8],
) -> Row<'a> {
    Row {
        topic,
        key,
        time,
        client: None,
        flags: Flags::default().with_qos(1),
        tags,
        payload,
    }
}

/// Moves the rows of a transaction to the builder.
fn push_rows(builder: &mut BatchBuilder, tables: &[Table], transaction: &mut Transaction) {
    let (id, place) = (transaction.id.to_string(), transaction.commit.to_string());
    for change in transaction.rows.drain(..) {
        let number = change.number.to_string();
        let tags = [
            ("transaction", id.as_str()),
            ("position", &place),
            ("sequence", &number),
        ];
        let topic = builder.topic_id(&tables[change.table].topic);
        builder.push(plain(
            topic,
            change.key.as_deref(),
            transaction.time,
            &tags,
            &change.payload,
        ));
    }
    transaction.bytes = 0;
}
