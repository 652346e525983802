//! Changes of transactions as batches: what sources that follow a database's log have in common.
//!
//! Parts and positions: `stream` is behind the last whole transaction in the log. A transaction that is too large for one
//! batch is a part of its own, `large:PLACE`, with the numbers of its rows as positions and a note that says how they are
//! numbered; once it is over, `stream` passes it. Each table is a part, too, whose note says how far its snapshot has come.

use std::collections::VecDeque;
use std::sync::Arc;

use busbar_change::ColumnsMark;
use busbar_change::event;
use busbar_connector::{Polling, Position, Resume, SnapshotState, SnapshotStatus};
use busbar_event::{ARRIVAL, BatchBuilder, Class, Error, Flags, Micros, Row};

use super::Echoed;
use super::count::SentRows;
use super::large::{FollowedTables, LargePart, RowNumbers};
use super::snapshot::Progress;
use crate::limits::{LARGE_TRANSACTIONS_MAX, TRANSACTION_BYTES, TRANSACTION_ROWS};

/// Collects changes until they are handed on.
pub struct Collector {
    prefix: String,
    part: Arc<str>,
    resume: Resume,
    /// How far streams hold rows of `stream` from before: what comes again up to here is left out of them.
    reached: u64,
    /// Kept with the position of `stream`.
    pub note: Vec<u8>,
    /// What the names of producers begin with whose writes are left out.
    without: Vec<String>,
    /// Which of these come in all the same.
    echo: Echoed,
    transaction: Option<Transaction>,
    /// Rows of whole transactions, not handed on yet, with the place behind the transaction of each.
    builder: BatchBuilder,
    positions: Vec<u64>,
    queue: VecDeque<Polling>,
    /// Behind the last whole transaction, or where the log is while nothing happens.
    position: u64,
    /// What was handed on last.
    handed_on: u64,
    committed: u64,
    /// Parts of large transactions that are over, and the place behind each.
    over: Vec<(u64, Arc<str>)>,
    /// The tables that are followed: their changes are counted.
    followed: FollowedTables,
    /// Rows of a snapshot have been handed on since the source was opened.
    has_read: bool,
}

/// The snapshot of a table, as far as it has come.
pub struct Table {
    /// As its source's options name it in full.
    pub name: String,
    pub topic: Arc<str>,
    part: Arc<str>,
    /// Behind the last batch of its snapshot.
    position: u64,
    pub progress: Progress,
    /// Its snapshot was interrupted: what the chunks before saw is not known any more, nor which of their rows streams hold. All
    /// changes are published, also of rows that a later chunk reads: one of them may be there already.
    pub resumed: bool,
    pub count: SentRows,
    /// Its snapshot is taken, or was.
    is_taken: bool,
    /// Its snapshot is to be taken anew.
    is_asked: bool,
    /// The columns that the transaction under way has told, or the last one.
    told: Option<ColumnsMark>,
}

struct Transaction {
    place: u64,
    /// As people see it.
    shown: String,
    id: String,
    time: Micros,
    /// The producer that writes what follows, if it is one of those whose writes are left out.
    producer: Option<Arc<str>>,
    /// Changes seen, with those that are not published.
    seen: u64,
    rows: Vec<Change>,
    bytes: usize,
    /// The part of its own.
    large: Option<LargePart>,
    /// What comes before the numbers of its rows in positions of that part.
    attempt: u64,
}

struct Change {
    topic: Arc<str>,
    number: u64,
    key: Option<String>,
    /// The producer that wrote it, if it is one of those whose writes are left out.
    producer: Option<Arc<str>>,
    payload: Vec<u8>,
}

impl Table {
    /// The table of this name, with what is known of its snapshot. `again` counts the times that it was begun anew.
    pub fn new(
        name: &str,
        topic: String,
        again: u32,
        snapshot: bool,
        collector: &Collector,
        now_micros: i64,
    ) -> Table {
        let part: Arc<str> = match again {
            0 => format!("{}table:{name}", collector.prefix).into(),
            again => format!("{}table:{name}:{again}", collector.prefix).into(),
        };
        let known = collector.resume.position(&part);
        let mut progress: Progress =
            serde_json::from_slice(collector.resume.note(&part)).unwrap_or_default();
        let is_taken = snapshot || progress.asked;
        let has_read = known > 0 && !std::mem::take(&mut progress.untaken);
        progress.done |= !is_taken;
        let resumed = has_read && !progress.done;
        let mut count = SentRows::default();
        if resumed && !progress.empties {
            count.lose();
        }
        Table {
            name: name.to_owned(),
            topic: topic.into(),
            position: super::attempt(now_micros, collector.resume.reached(&part)),
            resumed,
            progress,
            part,
            count,
            is_taken,
            is_asked: false,
            told: None,
        }
    }

    /// Whether its events have these columns; none where nothing is known of them.
    pub fn has_told(&self, columns: &ColumnsMark) -> Option<bool> {
        let told = self.told.as_ref().or(self.progress.columns.as_ref());
        told.map(|told| told.fits(columns))
    }

    /// Its events have these columns from here on. It is kept behind the transaction under way.
    pub fn tell(&mut self, columns: ColumnsMark) {
        self.told = Some(columns);
    }

    /// Asks for the snapshot of one of these tables anew; see [`Collector::begin_asked`].
    ///
    /// # Errors
    /// *Configuration*: it is none of them.
    pub fn ask<'a>(tables: impl Iterator<Item = &'a mut Table>, name: &str) -> Result<(), Error> {
        let mut there = Vec::new();
        for table in tables {
            if table.name == name {
                table.is_asked = true;
                return Ok(());
            }
            there.push(table.name.as_str());
        }
        let error = Error::new(Class::Configuration, "connect.not-followed");
        Err(error
            .with("table", busbar_event::quote(name))
            .with("there", there.join(", ")))
    }

    /// Whether something is known of it from before.
    pub fn is_known(&self) -> bool {
        self.progress.done || self.resumed
    }

    /// How far its snapshot has come, if there is one.
    pub fn status(&self) -> Option<SnapshotStatus> {
        let compared = self.progress.compared.as_ref();
        let state = match compared {
            _ if !self.progress.done => SnapshotState::Reading,
            _ if self.count.is_counting() => SnapshotState::Counting,
            Some(compared) => compared.state(),
            None => SnapshotState::Uncompared,
        };
        self.is_taken.then(|| SnapshotStatus {
            table: self.name.clone(),
            state,
            rows: self.progress.rows,
            expected: compared.and_then(|compared| compared.expected),
            counted: compared.and_then(|compared| compared.counted),
        })
    }

    /// What should be looked at.
    pub fn alarms(&self, connection: &str) -> Vec<Error> {
        let alarm = |code| {
            Error::new(Class::Configuration, code)
                .with("connection", connection)
                .with("table", &self.name)
        };
        let mut alarms = Vec::new();
        if self.progress.missed {
            alarms.push(alarm("connect.changes-missed"));
        }
        if let Some(compared) = self.progress.compared.as_ref().filter(|one| one.differs) {
            let number = |number: Option<String>| number.unwrap_or_else(|| "-".into());
            let expected = number(compared.expected.map(|expected| expected.to_string()));
            let counted = number(compared.counted.map(|counted| counted.to_string()));
            let differs = alarm("connect.snapshot-differs");
            alarms.push(differs.with("expected", expected).with("counted", counted));
        }
        alarms
    }

    /// Whether anything of it has been published.
    pub fn has_begun(&self) -> bool {
        self.progress.done || self.progress.last.is_some() || self.resumed
    }
}

impl Collector {
    /// Goes on behind what was committed; a higher generation begins with nothing.
    pub fn new(generation: u32, resume: Resume) -> Collector {
        let prefix = match generation {
            0 => String::new(),
            generation => format!("{generation}:"),
        };
        let part: Arc<str> = format!("{prefix}stream").into();
        let known = resume.position(&part);
        let begin = format!("{prefix}large:");
        let large = resume.positions.keys().filter_map(|part| {
            let place = u64::from_str_radix(part.strip_prefix(&begin)?, 16).ok()?;
            Some((place, Arc::from(part.as_str())))
        });
        Collector {
            over: large.take(LARGE_TRANSACTIONS_MAX).collect(),
            note: resume.note(&part).to_vec(),
            without: Vec::new(),
            echo: Echoed::default(),
            reached: resume.reached(&part),
            prefix,
            part,
            resume,
            transaction: None,
            builder: BatchBuilder::new(),
            positions: Vec::new(),
            queue: VecDeque::new(),
            position: known,
            handed_on: known,
            committed: known,
            followed: FollowedTables::default(),
            has_read: false,
        }
    }

    /// Changes of this table are counted.
    pub fn follow(&mut self, table: &str) {
        self.followed.add(table);
    }

    /// Behind everything that was taken.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Behind everything that was taken, and that streams hold from before.
    pub fn reached(&self) -> u64 {
        self.position.max(self.reached)
    }

    /// Whether whole transactions come that streams hold from before: what is published of them now is left out.
    pub fn repeats(&self) -> bool {
        self.position < self.reached
    }

    /// Whether streams hold rows of the transaction under way from before.
    pub fn repeats_transaction(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| {
            let part = large_part(&self.prefix, transaction.place);
            self.resume.reached(&part) > 0
        })
    }

    /// How far everything is committed.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Whether a transaction is under way.
    pub fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// Whether the transaction under way has changes that were counted.
    pub fn has_changes(&self) -> bool {
        self.transaction
            .as_ref()
            .is_some_and(|transaction| transaction.seen > 0)
    }

    /// Whether a part of the transaction under way has been handed on.
    pub fn is_large(&self) -> bool {
        self.transaction
            .as_ref()
            .is_some_and(|transaction| transaction.large.is_some())
    }

    /// What is to be handed on next.
    pub fn pop(&mut self) -> Option<Polling> {
        self.queue.pop_front()
    }

    /// Whether something is to be handed on before more is taken.
    pub fn is_full(&self) -> bool {
        !self.queue.is_empty() || self.builder.is_full()
    }

    /// A transaction begins; `place` tells it apart from all others in the log. `now_micros` numbers its rows anew where their
    /// numbers would not be those that streams hold.
    pub fn begin(&mut self, place: u64, shown: String, id: String, time: Micros, now_micros: i64) {
        let part = large_part(&self.prefix, place);
        let known = self.resume.positions.get(&part).copied();
        let (mut attempt, mut large) = (0, None);
        if let Some(known) = known {
            let kept = RowNumbers::kept(self.resume.note(&part), &mut self.followed);
            // A row of the snapshot may have come behind the rows that are there, without having seen them.
            match kept.filter(|_| !self.has_read) {
                Some(kept) => {
                    attempt = kept;
                    large = Some(LargePart::known(part.into(), known));
                }
                None => {
                    attempt = super::attempt(now_micros, self.resume.reached(&part));
                    large = Some(LargePart::new(part.into()));
                }
            }
        }
        self.transaction = Some(Transaction {
            place,
            shown,
            id,
            time,
            producer: None,
            seen: 0,
            rows: Vec::new(),
            bytes: 0,
            large,
            attempt,
        });
    }

    /// The transaction that has begun may have other changes when it comes again, so that their numbers would not be those of
    /// before: of a large one all rows come again then, behind those that were committed.
    pub fn number_anew(&mut self, now_micros: i64) {
        if let Some(transaction) = &mut self.transaction {
            let part = large_part(&self.prefix, transaction.place);
            transaction.attempt = super::attempt(now_micros, self.resume.reached(&part));
            transaction.large = transaction.large.take().map(|large| large.anew());
        }
    }

    /// Leaves out what sinks of these names have written; see [`Collector::published`].
    pub fn leave_out(&mut self, without: &[String], echo: Echoed) {
        self.without = without.iter().map(|name| format!("{name}/")).collect();
        self.echo = echo;
    }

    /// What follows in the transaction under way was written on behalf of this producer.
    pub fn written_by(&mut self, producer: &str) {
        let left_out = self.without.iter().any(|name| producer.starts_with(name));
        if let Some(transaction) = &mut self.transaction {
            transaction.producer = left_out.then(|| producer.into());
        }
    }

    /// What a change of the transaction under way is published as, if it is. Of a transaction that is left out deletes go back
    /// to the side that they came from: most often nothing is there any more; a row that an older change from here brought
    /// back in the meantime is deleted.
    pub fn published<'a>(&self, change: &'a str) -> Option<&'a str> {
        let transaction = self.transaction.as_ref();
        match transaction.and_then(|transaction| transaction.producer.as_ref()) {
            None => Some(change),
            Some(_) => match (self.echo, change) {
                (Echoed::None, _) => None,
                (_, "delete") => Some(change),
                (Echoed::Deletes, _) => None,
                (Echoed::Returned, _) => Some("returned"),
            },
        }
    }

    /// Adds an event to the transaction.
    pub fn push(&mut self, topic: &Arc<str>, key: Option<String>, payload: Vec<u8>) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let number = transaction.seen + 1;
        let large = transaction.large.as_ref();
        if large.is_some_and(|large| large.has(transaction.attempt + number)) {
            return;
        }
        transaction.bytes += payload.len();
        transaction.rows.push(Change {
            topic: Arc::clone(topic),
            number,
            key,
            producer: transaction.producer.clone(),
            payload,
        });
    }

    /// The transaction under way empties a table.
    pub fn empty(&mut self, table: &mut Table) {
        table.count.emptied();
        let mut payload = Vec::new();
        event::truncate(&mut payload);
        let topic = Arc::clone(&table.topic);
        self.push(&topic, None, payload);
    }

    /// Counts a change, whether it is published or not: the numbers are the same when it comes again.
    pub fn count(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.seen += 1;
        }
        self.spill();
    }

    /// Whether as much of the transaction under way is held as may be.
    fn holds_much(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| {
            transaction.rows.len() >= TRANSACTION_ROWS || transaction.bytes >= TRANSACTION_BYTES
        })
    }

    /// Hands on rows of a transaction that is too large to be held until its end.
    fn spill(&mut self) {
        if self.holds_much() {
            self.hand_on();
            let Some(transaction) = &mut self.transaction else {
                return;
            };
            if transaction.large.is_none() {
                let part = large_part(&self.prefix, transaction.place);
                transaction.large = Some(LargePart::new(part.into()));
            }
            self.hand_on_large();
        }
    }

    fn hand_on_large(&mut self) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let Some(large) = &mut transaction.large else {
            return;
        };
        let attempt = transaction.attempt;
        let positions: Vec<_> = transaction
            .rows
            .iter()
            .map(|change| attempt + change.number)
            .collect();
        if positions.is_empty() {
            return;
        }
        let part = Arc::clone(&large.part);
        let note = RowNumbers::new(&mut self.followed, attempt).to_note();
        if large.begin() {
            // How its rows are numbered is kept before the first of them.
            self.queue.push_back(Polling {
                batch: self.builder.finish(),
                part: Arc::clone(&part),
                position: Position::End(attempt),
                note: note.clone(),
            });
        }
        push_rows(&mut self.builder, transaction);
        self.queue.push_back(Polling {
            batch: self.builder.finish(),
            part,
            position: Position::Rows(positions),
            note,
        });
    }

    /// The transaction is over.
    pub fn commit(&mut self, end: u64) {
        if self.is_large() {
            self.hand_on();
            self.hand_on_large();
        }
        let Some(mut transaction) = self.transaction.take() else {
            return;
        };
        self.position = self.position.max(end);
        match transaction.large {
            Some(large) => {
                self.over.push((end, large.part));
                self.hand_on_position();
            }
            None => {
                self.positions
                    .resize(self.positions.len() + transaction.rows.len(), end);
                push_rows(&mut self.builder, &mut transaction);
            }
        }
    }

    /// The changes of the transaction under way do not stay. Those that were handed on already do.
    pub fn take_back(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.rows.clear();
            transaction.bytes = 0;
        }
    }

    /// The log has come so far, without anything that is followed.
    pub fn advance(&mut self, position: u64) {
        if self.transaction.is_none() {
            self.position = self.position.max(position);
        }
    }

    /// Hands on the rows of whole transactions.
    pub fn hand_on(&mut self) {
        let Some(last) = self.positions.last() else {
            return;
        };
        self.handed_on = *last;
        self.queue.push_back(Polling {
            batch: self.builder.finish(),
            part: Arc::clone(&self.part),
            position: Position::Rows(std::mem::take(&mut self.positions)),
            note: self.note.clone(),
        });
    }

    /// Hands on the position, without rows where there are none.
    pub fn hand_on_position(&mut self) {
        self.hand_on();
        if self.transaction.is_none() && self.position > self.handed_on {
            self.handed_on = self.position;
            self.queue.push_back(Polling {
                batch: self.builder.finish(),
                part: Arc::clone(&self.part),
                position: Position::End(self.position),
                note: self.note.clone(),
            });
        }
    }

    /// Says that a new attempt at the snapshot of a table begins, so that its positions are behind those of the one before;
    /// with the event `emptied`, if there is one.
    pub fn begin_snapshot(&mut self, table: &mut Table, emptied: Option<&[u8]>) {
        self.hand_on();
        if let Some(payload) = emptied {
            self.push_of_table(table, None, payload);
        }
        self.end_read(table, None);
    }

    /// Begins the snapshot of a table anew if it was asked for: `true` if so. Not while a transaction is under way, whose
    /// changes would come behind the event that empties the table.
    pub fn begin_asked(&mut self, table: &mut Table) -> bool {
        if self.transaction.is_some() || !std::mem::take(&mut table.is_asked) {
            return false;
        }
        self.hand_on();
        table.is_taken = true;
        table.resumed = false;
        table.count = SentRows::default();
        table.progress = Progress {
            asked: true,
            empties: true,
            columns: table.progress.columns.take(),
            ..Progress::default()
        };
        // What was asked for is kept before the table is emptied: after a crash between them it is emptied, too.
        self.end_read(table, None);
        table.progress.empties = false;
        let mut emptied = Vec::new();
        event::truncate(&mut emptied);
        self.begin_snapshot(table, Some(&emptied));
        true
    }

    /// Notes what came of counting the rows of a table, once that is known. `is_settled`: no change is awaited that the
    /// database may have counted. What kept it from counting, if something did.
    pub fn end_count(&mut self, table: &mut Table, is_settled: bool) -> Option<Error> {
        let (compared, failed) = table.count.take(is_settled)?;
        let (expected, counted) = (compared.expected, compared.counted);
        match compared.differs {
            true => tracing::warn!(table = table.name, expected, counted, "a snapshot differs"),
            false => tracing::info!(table = table.name, expected, counted, "a snapshot is whole"),
        }
        table.progress.compared = Some(compared);
        self.hand_on();
        self.end_read(table, None);
        failed
    }

    /// Keeps which columns the events of a table have, if others were told. Not while a transaction is under way: before its
    /// end they may have to be told again.
    pub fn end_told(&mut self, table: &mut Table) {
        if self.transaction.is_none()
            && let Some(told) = table.told.take()
            && table.progress.columns.as_ref() != Some(&told)
        {
            table.progress.columns = Some(told);
            self.hand_on();
            self.end_read(table, None);
        }
    }

    /// Notes that changes of a table may be missing.
    pub fn note_missed(&mut self, table: &mut Table) {
        if !std::mem::replace(&mut table.progress.missed, true) {
            self.hand_on();
            self.end_read(table, None);
        }
    }

    /// Grows with everything that is taken.
    pub fn taken(&self) -> u64 {
        let seen = self
            .transaction
            .as_ref()
            .map_or(0, |transaction| transaction.seen);
        self.position.wrapping_add(seen)
    }

    /// Adds a row that a snapshot read. What is handed on already is handed on first.
    pub fn push_read(&mut self, table: &mut Table, key: Option<&str>, payload: &[u8]) {
        table.progress.rows += 1;
        self.has_read = true;
        self.push_of_table(table, key, payload);
    }

    fn push_of_table(&mut self, table: &mut Table, key: Option<&str>, payload: &[u8]) {
        self.hand_on();
        let topic = self.builder.topic_id(&table.topic);
        self.builder.push(plain(topic, key, ARRIVAL, &[], payload));
        if self.builder.is_full() {
            self.end_read(table, None);
        }
    }

    /// Hands on the rows that a snapshot read, with how far it has come.
    pub fn end_read(&mut self, table: &mut Table, progress: Option<Progress>) {
        if let Some(progress) = progress {
            table.progress.last = progress.last;
            table.progress.done = progress.done;
        }
        table.position += 1;
        let mut note = table.progress.clone();
        if !table.is_taken {
            (note.done, note.untaken) = (false, true);
        }
        self.queue.push_back(Polling {
            batch: self.builder.finish(),
            part: Arc::clone(&table.part),
            position: Position::End(table.position),
            note: serde_json::to_vec(&note).unwrap_or_default(),
        });
    }

    /// Everything up to a position of a part is committed.
    pub fn note_committed(&mut self, part: &str, position: u64) {
        if part == &*self.part {
            self.committed = self.committed.max(position);
        }
    }

    /// Parts of large transactions that the stream has passed.
    pub fn forgotten(&mut self) -> Vec<Arc<str>> {
        let committed = self.committed;
        let gone: Vec<_> = self
            .over
            .extract_if(.., |(end, _)| *end < committed)
            .collect();
        gone.into_iter().map(|(_, part)| part).collect()
    }
}

/// The part of a transaction that is too large to be held until its end.
fn large_part(prefix: &str, place: u64) -> String {
    format!("{prefix}large:{place:016x}")
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
fn push_rows(builder: &mut BatchBuilder, transaction: &mut Transaction) {
    for change in transaction.rows.drain(..) {
        let number = change.number.to_string();
        let tags = [
            ("transaction", transaction.id.as_str()),
            ("position", &transaction.shown),
            ("sequence", &number),
            ("producer", change.producer.as_deref().unwrap_or("")),
        ];
        let tags = match change.producer {
            Some(_) => &tags[..],
            None => &tags[..3],
        };
        let topic = builder.topic_id(&change.topic);
        builder.push(plain(
            topic,
            change.key.as_deref(),
            transaction.time,
            tags,
            &change.payload,
        ));
    }
    transaction.bytes = 0;
}

#[cfg(test)]
mod tests;
