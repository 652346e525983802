//! Changes as they are committed, from a replication slot, behind a snapshot of what was there before. Positions are places
//! in the server's write-ahead log.

mod reading;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use busbar_change::postgres::pgoutput::{
    self, FollowEvent, Frame, Lsn, MESSAGE_PREFIX, Relation, Tuple, Value,
};
use busbar_change::postgres::row;
use busbar_change::postgres::wire::{identifier, literal};
use busbar_connector::{Polled, SnapshotStatus, Source, SourceContext, Work};
use busbar_event::{Class, Error};
use bytes::Bytes;
use tokio::time::Instant;

use super::Follow;
use super::begin::{begin_at, default_name, gone};
use super::failure::Failed;
use super::follow::{self, Followed, Identity};
use super::limits::{IDLE, PASSED_MAX, POLL_MAX, SILENCE_MAX, STATUS_EVERY, WINDOW_POLL};
use super::link::{Link, Server};
use super::snapshot::Seen;
use crate::change::begin::BeginTables;
use crate::change::collect::{Collector, Table};
use crate::change::count::RowEffect;
use crate::change::snapshot::{Window, publishes};
use crate::change::watch::{Looked, Watch};
use crate::topic::TopicTemplate;

/// Follows the changes of a database.
pub struct ChangeSource {
    server: Server,
    context: SourceContext,
    slot: String,
    publication: String,
    /// The session that changes come through.
    stream: Link,
    /// The session for snapshots and for looking at the server.
    sql: Option<Link>,
    tables: Vec<Following>,
    relations: HashMap<u32, Known>,
    /// The number of the transaction under way.
    transaction: u32,
    /// It has a change of a followed table.
    changed: bool,
    /// Transactions with such changes that not everybody has seen yet, as far as is known. A chunk without one of them is read
    /// again.
    passed: VecDeque<u32>,
    /// Transactions that had written to tables that are to be read, and were not over when the source was opened. The stream may
    /// have passed them before, so that a chunk has to see them.
    writing: HashSet<String>,
    collector: Collector,
    /// What the server was told at the last status to be kept for good.
    kept: Lsn,
    next_status: Instant,
    heard: Instant,
    reply_wanted: bool,
    /// A change was taken and not worked through.
    torn: bool,
    lag_bytes: Option<u64>,
    watch: Watch,
    /// What the last look at the server has found.
    found: Vec<Error>,
}

/// A table and how far its snapshot has come.
struct Following {
    followed: Followed,
    table: Table,
    window: Option<Window<Seen>>,
    /// A table without a key, which is read in one transaction.
    reading: Option<Reading>,
}

struct Reading {
    link: Link,
    seen: Seen,
    high: Lsn,
}

struct Known {
    relation: Relation,
    table: Option<usize>,
}

impl ChangeSource {
    /// Checks the server, makes what is missing and allowed, and begins to listen.
    pub(super) async fn open(
        server: Server,
        options: &Follow,
        topic: &TopicTemplate,
        context: SourceContext,
    ) -> Result<ChangeSource, Error> {
        let mut collector = Collector::new(options.generation, context.resume.clone());
        collector.leave_out(&options.without, options.echo);
        let known = Lsn(collector.position());
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
        let published =
            follow::publish(&server, &mut sql, options, &publication, &followed).await?;
        let opened = server.open_replication().await;
        let mut stream = opened.map_err(|failed| follow::replication_told(&server, failed))?;
        let identity = Identity::from_bytes(&collector.note);
        let identity = follow::identify(&server, &mut stream, identity, known).await?;
        collector.note = identity.to_bytes();
        let position = begin_at(&server, &mut sql, options, &name, known).await?;
        let messages = match options.without.is_empty() {
            true => "",
            false => follow::messages(&server, &mut sql).await?,
        };
        let start = format!(
            "START_REPLICATION SLOT {} LOGICAL {position} (proto_version '1', publication_names {}{messages})",
            identifier(&name),
            literal(&identifier(&publication)),
        );
        stream
            .replicate(&start)
            .await
            .map_err(|failed| follow::replication_told(&server, failed))?;
        collector.advance(position.0);
        let now = Instant::now();
        let mut source = ChangeSource {
            server,
            slot: name,
            publication,
            stream,
            sql: Some(sql),
            tables: Vec::new(),
            relations: HashMap::new(),
            transaction: 0,
            changed: false,
            passed: VecDeque::new(),
            writing: HashSet::new(),
            collector,
            kept: known,
            next_status: now,
            heard: now,
            reply_wanted: false,
            torn: false,
            lag_bytes: None,
            watch: Watch::new(now),
            found: Vec::new(),
            context,
        };
        let begin = BeginTables {
            topic,
            snapshot: options.snapshot,
            generation: options.generation,
            again: &options.again,
        };
        for followed in followed {
            let (schema, name) = (&followed.schema, &followed.name);
            let columns = Some(row::columns_mark(&followed.columns));
            let of = (&mut source.collector, &source.context);
            let mut table = begin.begin(of, (schema, name), columns);
            // It was followed before, and its changes did not come while it was not published.
            if published.contains(&table.name) && known > Lsn::default() && table.is_known() {
                source.collector.note_missed(&mut table);
            }
            source.tables.push(Following {
                followed,
                table,
                window: None,
                reading: None,
            });
        }
        if known > Lsn::default() {
            source.writing = source.writing().await?;
        }
        source.collector.hand_on_position();
        Ok(source)
    }

    async fn next(&mut self) -> Result<Polled, Error> {
        if self.torn {
            let error = Error::new(Class::Transient, "postgres.closed");
            return Err(error.with("address", &self.server.address));
        }
        loop {
            if let Some(polling) = self.collector.pop() {
                return Ok(Polled::Batch(polling));
            }
            self.keep_in_touch().await?;
            self.begin_asked();
            self.close_windows();
            if self.collector.is_full() || self.read_snapshot().await? {
                continue;
            }
            let window = self.tables.iter().any(|table| table.window.is_some());
            let wait = if window { WINDOW_POLL } else { POLL_MAX };
            let received = self.stream.stream(wait).await;
            let Some(message) = received.map_err(|failed| self.told(failed))? else {
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
            while !self.collector.is_full() {
                let received = self.stream.streamed();
                let Some(message) = received.map_err(|failed| self.told(failed))? else {
                    break;
                };
                self.take(&message).await?;
            }
            self.collector.hand_on();
        }
    }

    fn told(&self, failed: Failed) -> Error {
        // The server ends the session of a slot that it has dropped; the next one says so.
        match &failed {
            Failed::Server(error) if error.code.starts_with("55") => {
                Error::new(Class::Transient, "postgres.for-now")
                    .with("said", &error.message)
                    .with("address", &self.server.address)
            }
            _ => failed.told(self.server.doing("", "")),
        }
    }

    /// The session for statements; put back by the caller once its answer is there.
    async fn session(&mut self) -> Result<Link, Error> {
        match self.sql.take().filter(Link::usable) {
            Some(link) => Ok(link),
            None => self.server.open().await,
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
        self.kept = Lsn(self.collector.committed());
        self.status(true).await?;
        // A database where nothing happens to these tables is to keep no log for them.
        self.collector.hand_on_position();
        let mut sql = self.session().await?;
        let Some(slot) = follow::slot(&self.server, &mut sql, &self.slot).await? else {
            return Err(gone(&self.server, &self.slot));
        };
        let published = follow::published(&self.server, &mut sql, &self.publication).await?;
        self.sql = Some(sql);
        if let Some(seen) = Seen::parse(&slot.seen) {
            self.passed.retain(|transaction| !seen.has(*transaction));
        }
        self.lag_bytes = Some(slot.end.0.saturating_sub(self.collector.position()));
        let reading = self
            .tables
            .iter()
            .filter(|table| !table.table.progress.done);
        let read = self.tables.iter().map(|table| table.table.progress.rows);
        let looked = Looked {
            taken: self.collector.taken(),
            there: slot.end.0,
            reading: (reading.count() > 0).then(|| read.sum()),
            kept_from: Some(slot.kept_from.0),
        };
        self.watch.look(Instant::now(), looked);
        self.found.clear();
        let alarm = |code| {
            let error = Error::new(Class::Configuration, code);
            error.with("address", &self.server.address)
        };
        let held = slot.end.0.saturating_sub(slot.confirmed.0);
        if let Some(left) = slot.left
            && u64::try_from(left).unwrap_or(0) < held / 3
        {
            let short = alarm("postgres.slot-short").with("slot", &self.slot);
            self.found.push(short.with("held", held).with("left", left));
        }
        for Following { table, .. } in &mut self.tables {
            if !published.contains(&table.name) {
                self.collector.note_missed(table);
                let alarm = alarm("postgres.not-published");
                let alarm = alarm.with("publication", &self.publication);
                self.found.push(alarm.with("table", &table.name));
            }
        }
        Ok(())
    }

    async fn status(&mut self, reply: bool) -> Result<(), Error> {
        let now = self.context.clock.now_micros();
        let position = Lsn(self.collector.position());
        let message = pgoutput::status(self.kept, position, now, reply);
        self.stream
            .send(&message)
            .await
            .map_err(|failed| self.told(failed))
    }

    /// Takes a message of the stream.
    async fn take(&mut self, message: &Bytes) -> Result<(), Error> {
        let data = match pgoutput::frame(message) {
            Some(Frame::Data(data)) => data,
            Some(Frame::KeepAlive { end, reply }) => {
                self.reply_wanted |= reply;
                self.collector.advance(end.0);
                return Ok(());
            }
            None => return Ok(()),
        };
        let taken = pgoutput::event(&data)
            .ok_or_else(|| self.stream.strange("a change of another form"))?;
        match taken {
            FollowEvent::Begin {
                commit,
                time,
                transaction,
            } => {
                self.transaction = transaction;
                self.changed = false;
                let (shown, id) = (commit.to_string(), transaction.to_string());
                let now = self.context.clock.now_micros();
                self.collector.begin(commit.0, shown, id, time, now);
            }
            FollowEvent::Commit { end } => {
                if std::mem::take(&mut self.changed) {
                    self.passed.truncate(PASSED_MAX - 1);
                    self.passed.push_front(self.transaction);
                }
                self.collector.commit(end.0);
            }
            FollowEvent::Relation(relation) => self.relation(relation),
            FollowEvent::Insert { table, after } => self.change("insert", table, &after, None),
            FollowEvent::Update {
                table,
                before,
                after,
            } => self.update(table, before, after).await?,
            FollowEvent::Delete { table, before } => self.change("delete", table, &before, None),
            FollowEvent::Truncate { tables } => {
                for table in tables {
                    let known = self.relations.get(&table).and_then(|known| known.table);
                    if let Some(at) = known {
                        self.empty(at);
                    }
                }
                self.collector.count();
            }
            FollowEvent::Message { prefix, content } if prefix == MESSAGE_PREFIX => {
                let producer = String::from_utf8_lossy(&content);
                self.collector.written_by(&producer);
            }
            FollowEvent::Message { .. } | FollowEvent::Other => {}
        }
        Ok(())
    }

    /// The transaction under way has emptied a table.
    fn empty(&mut self, at: usize) {
        let Following { table, window, .. } = &mut self.tables[at];
        if table.has_begun() {
            self.changed = true;
            Window::empty(window, |seen| seen.has(self.transaction));
            self.collector.empty(table);
        }
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
            let mark = row::columns_mark(&relation.columns);
            let same = match self.relations.get(&relation.id) {
                Some(before) => before.relation.columns == relation.columns,
                None => self.tables[at].table.has_told(&mark).unwrap_or(true),
            };
            self.tables[at].table.tell(mark);
            if !same {
                let mut payload = Vec::new();
                row::write_schema(&relation, &mut payload);
                self.collector
                    .push(&self.tables[at].table.topic, None, payload);
                self.collector.count();
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
            self.collector.count();
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
            before => {
                let before = before.as_ref().filter(|before| !before.only_key);
                self.change("update", table, &after, before);
            }
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
        let key = columns
            .iter()
            .zip(&relation.key)
            .filter(|(_, is_key)| **is_key);
        let same: Vec<_> = key
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
        let mut link = self.session().await?;
        let answer = link.ask(&sql, &key).await;
        let answer = answer.map_err(|failed| failed.told(self.server.doing(&quoted, "SELECT")))?;
        self.sql = Some(link);
        self.torn = false;
        let found = answer.rows.into_iter().next().into_iter().flatten();
        for (value, found) in row.values.iter_mut().zip(found) {
            if *value == Value::Unchanged {
                *value = found.map_or(Value::Null, Value::Text);
            }
        }
        Ok(row)
    }

    fn change(&mut self, change: &str, table: u32, tuple: &Tuple, before: Option<&Tuple>) {
        self.one(change, table, tuple, before);
        self.collector.count();
    }

    fn one(&mut self, change: &str, table: u32, tuple: &Tuple, before: Option<&Tuple>) {
        let Some(Known {
            relation,
            table: Some(at),
        }) = self.relations.get(&table)
        else {
            return;
        };
        let Following {
            followed,
            table,
            window,
            ..
        } = &mut self.tables[*at];
        self.changed = true;
        let row_change = RowEffect::of(change);
        let Some(change) = self.collector.published(change) else {
            // The database counts it nevertheless.
            table.count.lose();
            return;
        };
        if !table.resumed && (!table.progress.done || window.is_some()) {
            let key: Vec<Bytes> = match followed.key.is_empty() {
                true => Vec::new(),
                false => row::key_values(relation, tuple)
                    .map(|value| value.cloned().unwrap_or_default())
                    .collect(),
            };
            let transaction = self.transaction;
            let has = |seen: &Seen| seen.has(transaction);
            if !publishes(
                followed.order.as_deref(),
                &table.progress,
                window.as_ref(),
                &key,
                has,
            ) {
                return;
            }
        }
        match window {
            // Rows whose place in the order is not known may be read again, or were in the chunk.
            _ if table.progress.done && window.is_none() => {}
            _ if followed.order.is_none() => table.count.lose(),
            Some(window) if table.progress.done && !window.seen.has(self.transaction) => {}
            _ => table.count.changed(row_change),
        }
        let (mut key, mut payload) = (String::new(), Vec::new());
        row::write_change(change, relation, tuple, before, &mut key, &mut payload);
        let key = (!followed.key.is_empty()).then_some(key);
        self.collector.push(&table.topic, key, payload);
    }
}

impl Source for ChangeSource {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(self.next())
    }

    fn kept(&mut self, part: &str, position: u64) {
        self.collector.note_committed(part, position);
    }

    fn forgotten(&mut self) -> Vec<Arc<str>> {
        self.collector.forgotten()
    }

    fn lag_bytes(&self) -> Option<u64> {
        self.lag_bytes
    }

    fn alarms(&self) -> Vec<Error> {
        let connection = &self.context.name;
        let tables = self.tables.iter();
        let mut alarms = self.watch.alarms(connection, &self.server.address);
        alarms.extend(self.found.iter().cloned());
        alarms.extend(tables.flat_map(|table| table.table.alarms(connection)));
        alarms
    }

    fn snapshots(&self) -> Vec<SnapshotStatus> {
        let tables = self.tables.iter();
        tables.filter_map(|table| table.table.status()).collect()
    }

    fn take_anew(&mut self, table: &str) -> Result<(), Error> {
        let tables = self.tables.iter_mut().map(|table| &mut table.table);
        Table::ask(tables, table)
    }

    fn close(&mut self) -> Work<'_, Result<(), Error>> {
        Box::pin(async {
            // The server frees the slot when it sees the end; else only after its own timeout.
            self.stream.leave().await;
            Ok(())
        })
    }
}
