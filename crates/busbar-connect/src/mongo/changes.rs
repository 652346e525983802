//! Changes as they are committed, from the change stream, behind a snapshot of what was there before.
//!
//! Positions are times of the cluster; the note beside them is the token by which the stream goes on. Changes of one
//! transaction have the same time: they are handed on together, once a change of another time or nothing follows; where the
//! changes of several sets are merged, once all sets have passed that time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use busbar_change::event;
use busbar_connector::{Polled, Source, SourceContext, Work};
use busbar_event::limits::PAYLOAD_BYTES_MAX;
use busbar_event::{Class, Error, quote};
use bytes::Bytes;
use tokio::time::Instant;

use super::MongoFollow;
use super::bson::{BsonDocument, BsonElement, BsonValue, BsonWriter};
use super::failure::MongoFailure;
use super::hex::{hex, unhex};
use super::json::{scalar_text, write_value};
use super::limits::{
    AWAIT, CHANGES, CHUNK_BYTES, CHUNK_ROWS, CHUNK_ROWS_FIRST, IDLE, KEEP_EVERY, NOTE_BYTES_MAX,
};
use super::link::{MongoAnswer, MongoLink, MongoServer};
use crate::change::begin::BeginTables;
use crate::change::collect::{Collector, Table};
use crate::change::snapshot::{Order, Progress, Window, publishes};
use crate::topic::TopicTemplate;

/// What following takes, as roles name it.
const RIGHTS: &str = "find, changeStream";
/// What cursors over all collections of a database are asked for more by.
const WHOLE_DATABASE: &str = "$cmd.aggregate";

/// Follows the changes of a database.
pub struct MongoFollower {
    server: MongoServer,
    options: MongoFollow,
    context: SourceContext,
    collector: Collector,
    collections: Vec<FollowedCollection>,
    stream: Option<ChangeCursor>,
    /// The session for snapshots.
    reader: Option<MongoLink>,
    /// Behind the last change that was taken.
    token: Vec<u8>,
    /// The time of the changes that were taken last and may have more beside them.
    open: Option<u64>,
    kept: Instant,
}

/// A collection and how far its snapshot has come.
struct FollowedCollection {
    name: String,
    table: Table,
    window: Option<Window<u64>>,
    /// Documents of the next chunk.
    rows: i32,
    /// The server does not order texts by their bytes here, or does not say how.
    collated: bool,
}

struct ChangeCursor {
    link: MongoLink,
    id: i64,
}

impl MongoFollower {
    /// Opens the stream.
    ///
    /// # Errors
    /// *Configuration*: a server without change streams, or one that has lost the place at which this goes on.
    pub(super) async fn open(
        server: MongoServer,
        options: MongoFollow,
        topic: TopicTemplate,
        context: SourceContext,
    ) -> Result<MongoFollower, Error> {
        let collector = Collector::new(options.generation, context.resume.clone());
        let token = collector.note.clone();
        let is_new = collector.position() == 0;
        let mut source = MongoFollower {
            server,
            collector,
            collections: Vec::new(),
            stream: None,
            reader: None,
            token,
            open: None,
            kept: Instant::now(),
            options,
            context,
        };
        if !is_new && BsonDocument::read(&source.token).is_none() {
            return Err(source.lost("-"));
        }
        source.begin_stream().await?;
        if is_new && source.collector.position() == 0 {
            let error = Error::new(Class::Configuration, "mongodb.no-changes");
            return Err(error.with("address", source.server.doing("", "").address));
        }
        let plain = source.plain_collections().await?;
        let begin = BeginTables {
            topic: &topic,
            snapshot: source.options.snapshot,
            generation: source.options.generation,
            again: &source
                .options
                .again
                .iter()
                .map(|(name, again)| (format!("{}.{name}", source.server.database), *again))
                .collect(),
        };
        for name in source.options.collections.clone() {
            let database = source.server.database.to_string();
            let of = (&mut source.collector, &source.context);
            let table = begin.begin(of, (&database, &name), None);
            source.collections.push(FollowedCollection {
                collated: !plain.contains(&name),
                name,
                table,
                window: None,
                rows: CHUNK_ROWS_FIRST,
            });
        }
        source.collector.hand_on_position();
        Ok(source)
    }

    /// The collections in which the server orders texts by their bytes.
    async fn plain_collections(&mut self) -> Result<HashSet<String>, Error> {
        let mut link = self.server.open().await?;
        let mut list = BsonWriter::new();
        list.int("listCollections", 1);
        list.open("filter");
        list.open("name");
        list.open_array("$in");
        for (at, name) in self.options.collections.iter().enumerate() {
            list.text(&at.to_string(), name);
        }
        for _ in 0..3 {
            list.close();
        }
        list.open("cursor");
        list.int("batchSize", CHANGES);
        list.close();
        list.text("$db", &self.server.database);
        let answer = match link.run(&list.finish(), None).await {
            Ok(answer) => answer,
            // Whoever may not ask gets changes that a chunk has, too: without the order none can be left out.
            Err(MongoFailure::Refused(_)) => return Ok(HashSet::new()),
            Err(failed) => return Err(self.told(failed)),
        };
        let found = answer.document().documents("cursor.firstBatch");
        let plain = found.filter(|one| one.get("options.collation").is_none());
        let names = plain.filter_map(|one| one.text("name").map(str::to_owned));
        let names = names.collect();
        self.reader = Some(link);
        Ok(names)
    }

    fn lost(&self, said: &str) -> Error {
        Error::new(Class::Configuration, "mongodb.history-lost")
            .with("address", self.server.doing("", "").address)
            .with("said", said)
            .with("generation", self.options.generation + 1)
    }

    fn told(&self, failed: MongoFailure) -> Error {
        match failed {
            MongoFailure::Refused(refusal) if refusal.lost_history() => {
                self.lost(&refusal.code.to_string())
            }
            failed => failed.told(
                self.server
                    .doing(&self.options.collections.join(", "), RIGHTS),
            ),
        }
    }

    /// Opens the stream behind the last change that was taken; at its end where there is none yet.
    async fn begin_stream(&mut self) -> Result<(), Error> {
        let mut link = self.server.open().await?;
        if !link.about.replicated {
            let error = Error::new(Class::Configuration, "mongodb.no-changes");
            return Err(error.with("address", &link.address));
        }
        let mut command = BsonWriter::new();
        command.int("aggregate", 1);
        command.open_array("pipeline");
        command.open("0");
        command.open("$changeStream");
        command.text("fullDocument", "updateLookup");
        if self.options.before {
            command.text("fullDocumentBeforeChange", "whenAvailable");
        }
        if BsonDocument::read(&self.token).is_some() {
            command.document("startAfter", &self.token);
        }
        command.close();
        command.close();
        command.open("1");
        command.open("$match");
        command.open_array("$or");
        for (at, field) in ["ns.coll", "to.coll"].into_iter().enumerate() {
            command.open(&at.to_string());
            command.open(field);
            command.open_array("$in");
            for (at, name) in self.options.collections.iter().enumerate() {
                command.text(&at.to_string(), name);
            }
            command.close();
            command.close();
            command.close();
        }
        command.open("2");
        command.open("operationType");
        command.open_array("$in");
        command.text("0", "dropDatabase");
        command.text("1", "invalidate");
        for _ in 0..6 {
            command.close();
        }
        // The stages end here.
        command.close();
        command.open("cursor");
        // All changes come by asking for more.
        command.int("batchSize", 0);
        command.close();
        command.text("$db", &self.server.database);
        let answer = link.run(&command.finish(), None).await;
        let answer = answer.map_err(|failed| self.told(failed))?;
        let id = answer.document().number("cursor.id").unwrap_or(0);
        if self.token.is_empty() {
            self.pass(&answer);
        }
        self.stream = Some(ChangeCursor { link, id });
        Ok(())
    }

    /// Asks for more changes; whether there were any.
    async fn more(&mut self) -> Result<bool, Error> {
        let Some(mut stream) = self.stream.take().filter(|stream| stream.id != 0) else {
            self.begin_stream().await?;
            return Ok(true);
        };
        let sharded = stream.link.about.sharded;
        let waits = (self.open.is_none() || sharded)
            && self.collections.iter().all(|one| one.window.is_none());
        let wait = match waits {
            true => AWAIT
                .min(self.server.timeout / 2)
                .max(Duration::from_millis(1)),
            false => Duration::from_millis(1),
        };
        let mut command = BsonWriter::new();
        command.long("getMore", stream.id);
        command.text("collection", WHOLE_DATABASE);
        command.int("batchSize", CHANGES);
        command.long("maxTimeMS", i64::try_from(wait.as_millis()).unwrap_or(1));
        command.text("$db", &self.server.database);
        let answer = stream.link.run(&command.finish(), None).await;
        let answer = answer.map_err(|failed| self.told(failed))?;
        stream.id = answer.document().number("cursor.id").unwrap_or(0);
        let any = answer.document().list("cursor.nextBatch").next().is_some();
        match any {
            true => self.take(&answer)?,
            // A set whose changes of this time have not come yet: behind a commit of the others they would count as known.
            false if sharded && !self.has_passed(&answer) => {}
            false => {
                self.close();
                self.pass(&answer);
                if self.kept.elapsed() >= KEEP_EVERY {
                    // So that the place in the log does not become too old where nothing happens in these collections.
                    self.kept = Instant::now();
                    self.collector.hand_on_position();
                }
            }
        }
        self.collector.hand_on();
        self.stream = Some(stream);
        Ok(any)
    }

    /// Whether the stream has passed the time of the changes that were taken last.
    fn has_passed(&self, answer: &MongoAnswer) -> bool {
        let Some(open) = self.open else { return true };
        let token = answer.document().document("cursor.postBatchResumeToken");
        token.and_then(token_time).is_some_and(|time| time > open)
    }

    /// Nothing more came: the stream has passed all that is before the token of the answer.
    fn pass(&mut self, answer: &MongoAnswer) {
        let Some(token) = answer.document().document("cursor.postBatchResumeToken") else {
            return;
        };
        if let Some(time) = token_time(token) {
            self.token = token.bytes().to_vec();
            self.collector.note.clone_from(&self.token);
            self.collector.advance(time);
        }
    }

    /// The changes that were taken last are all of their time.
    fn close(&mut self) {
        let Some(time) = self.open.take() else {
            return;
        };
        // What was handed on before is of the times before.
        if self.collector.is_large() {
            self.collector.note.clone_from(&self.token);
        }
        self.collector.commit(time);
        self.collector.note.clone_from(&self.token);
    }

    fn take(&mut self, answer: &MongoAnswer) -> Result<(), Error> {
        for change in answer.document().documents("cursor.nextBatch") {
            let (Some(token), Some(BsonValue::Timestamp(time))) =
                (change.document("_id"), change.get("clusterTime"))
            else {
                let error = Error::new(Class::Configuration, "mongodb.no-changes");
                return Err(error.with("address", self.server.doing("", "").address));
            };
            if token.bytes().len() > NOTE_BYTES_MAX {
                return Err(Error::new(Class::Configuration, "mongodb.token-large")
                    .with("most", NOTE_BYTES_MAX));
            }
            if self.open.is_some_and(|open| open != time) {
                self.close();
            }
            if self.open.is_none() {
                self.open = Some(time);
                let shown = format!("{}.{}", time >> 32, time & 0xffff_ffff);
                let id = match (change.document("lsid"), change.number("txnNumber")) {
                    (Some(session), Some(number)) => {
                        let session = session.get("id").and_then(scalar_text);
                        format!("{}:{number}", session.unwrap_or_default())
                    }
                    _ => shown.clone(),
                };
                let micros = match change.get("wallTime") {
                    Some(BsonValue::Date(millis)) => millis.saturating_mul(1_000),
                    _ => i64::try_from(time >> 32).unwrap_or(0) * 1_000_000,
                };
                let now = self.context.clock.now_micros();
                self.collector.begin(time, shown, id, micros, now);
            }
            self.change(change, time)?;
            self.collector.count();
            self.token = token.bytes().to_vec();
        }
        Ok(())
    }

    fn change(&mut self, change: BsonDocument<'_>, time: u64) -> Result<(), Error> {
        let kind = change.text("operationType").unwrap_or_default();
        let of = change.text("ns.coll").unwrap_or_default();
        match kind {
            "drop" | "rename" => {
                self.empty(of, time);
                if let Some(to) = change.text("to.coll")
                    && self.collections.iter().any(|one| one.name == to)
                {
                    self.empty(to, time);
                    tracing::warn!(
                        connection = %self.context.name, collection = to,
                        "another collection has got the name of one that is followed; raise its number in \"again\" to read what is in it"
                    );
                }
                return Ok(());
            }
            "dropDatabase" => {
                for name in self.options.collections.clone() {
                    self.empty(&name, time);
                }
                return Ok(());
            }
            "insert" | "update" | "replace" | "delete" => {}
            _ => return Ok(()),
        }
        let Some(followed) = self.collections.iter().find(|one| one.name == of) else {
            return Ok(());
        };
        let document = match kind {
            "delete" => change.document("documentKey"),
            // Of a document that is gone meanwhile, only its deletion comes.
            _ => change.document("fullDocument"),
        };
        let key = change
            .document("documentKey")
            .and_then(|key| key.element("_id"));
        let (Some(document), Some(key)) = (document, key) else {
            return Ok(());
        };
        if !followed.publishes(&key, time) {
            return Ok(());
        }
        let word = if kind == "replace" { "update" } else { kind };
        let before = change.document("fullDocumentBeforeChange");
        let payload = payload(word, document, before);
        check_size(&payload, of, &key)?;
        let topic = Arc::clone(&followed.table.topic);
        self.collector.push(&topic, Some(text_of(&key)), payload);
        Ok(())
    }

    /// All documents of a collection are gone, at a time.
    fn empty(&mut self, name: &str, time: u64) {
        let followed = self.collections.iter_mut().find(|one| one.name == name);
        if let Some(followed) = followed.filter(|one| one.table.has_begun()) {
            Window::empty(&mut followed.window, |seen| time <= *seen);
            self.collector.empty(&mut followed.table);
        }
    }

    fn close_windows(&mut self) {
        let position = self.collector.position();
        for one in &mut self.collections {
            if one
                .window
                .as_ref()
                .is_some_and(|window| position >= window.high)
            {
                one.window = None;
            }
        }
    }

    /// Reads a chunk of a snapshot, if one is due; whether it has.
    async fn read_snapshot(&mut self) -> Result<bool, Error> {
        // A chunk that has not seen what streams hold would come behind it, and what is left out then does not put it right.
        if self.open.is_some()
            || self.collector.repeats()
            || self.collections.iter().any(|one| one.window.is_some())
        {
            return Ok(false);
        }
        let due = self.collections.iter();
        let Some(at) = due.clone().position(|one| !one.table.progress.done) else {
            return Ok(false);
        };
        let mut link = match self.reader.take() {
            Some(link) => link,
            None => self.server.open().await?,
        };
        let followed = &self.collections[at];
        let after = followed.after();
        let mut find = self.server.command("find", &followed.name);
        find.open("sort");
        find.int("_id", 1);
        find.close();
        find.open("hint");
        find.int("_id", 1);
        find.close();
        if let Some(after) = &after {
            // Conditions find values of one type only; a bound of the index has all that are behind it, and itself.
            find.document("min", after);
        }
        let limit = followed.rows + i32::from(after.is_some());
        find.int("limit", limit);
        find.int("batchSize", limit);
        find.open("readConcern");
        find.text("level", "snapshot");
        find.close();
        let answer = link.run(&find.finish(), None).await;
        let answer = answer.map_err(|failed| self.told(failed))?;
        let document = answer.document();
        let mut id = document.number("cursor.id").unwrap_or(0);
        let mut behind = None;
        if id != 0 && after.is_some() && document.documents("cursor.firstBatch").nth(1).is_none() {
            // The document that was read before leaves no room in the answer for a large one behind it.
            let mut more = BsonWriter::new();
            more.long("getMore", id);
            more.text("collection", &self.collections[at].name);
            more.int("batchSize", 1);
            more.text("$db", &self.server.database);
            let answer = link.run(&more.finish(), None).await;
            let answer = answer.map_err(|failed| self.told(failed))?;
            id = answer.document().number("cursor.id").unwrap_or(0);
            behind = Some(answer);
        }
        if id != 0 {
            // The chunk ends where the answer was full.
            let mut kill = self
                .server
                .command("killCursors", &self.collections[at].name);
            kill.open_array("cursors");
            kill.long("0", id);
            kill.close();
            let killed = link.run(&kill.finish(), None).await;
            killed.map_err(|failed| self.told(failed))?;
        }
        self.reader = Some(link);
        let Some(BsonValue::Timestamp(seen)) = document.get("cursor.atClusterTime") else {
            return Err(Error::new(Class::Configuration, "mongodb.no-snapshot")
                .with("address", self.server.doing("", "").address));
        };
        if seen < self.collector.position() {
            // It would come behind changes that it has not seen.
            return Ok(false);
        }
        let mut found: Vec<_> = document.documents("cursor.firstBatch").collect();
        if let Some(answer) = &behind {
            found.extend(answer.document().documents("cursor.nextBatch"));
        }
        let is_last = id == 0 && i32::try_from(found.len()).is_ok_and(|count| count < limit);
        let before = after.as_deref().and_then(BsonDocument::read);
        let before = before.and_then(|before| before.element("_id"));
        let before = before.map(|before| before.same());
        let FollowedCollection {
            name,
            table,
            window,
            rows,
            collated,
        } = &mut self.collections[at];
        let (mut last, mut bytes) = (None, 0);
        for document in found {
            let Some(key) = document.element("_id") else {
                continue;
            };
            let same = before.as_ref() == Some(&key.same());
            last = Some(key.clone());
            if same {
                continue;
            }
            let payload = payload("read", document, None);
            check_size(&payload, name, &key)?;
            bytes += payload.len();
            self.collector
                .push_read(table, Some(&text_of(&key)), &payload);
        }
        let last = match last {
            Some(key) => Some(vec![
                sortable(&key, *collated).unwrap_or_default(),
                hex(&key.alone("_id")),
            ]),
            None => table.progress.last.clone(),
        };
        let progress = Progress::up_to(last, is_last);
        *window = Some(Window {
            after: table.progress.last.clone(),
            seen,
            high: seen,
            keys: HashSet::new(),
        });
        let fits = i32::try_from(CHUNK_BYTES / bytes.max(1)).unwrap_or(i32::MAX);
        *rows = fits
            .saturating_mul(*rows)
            .clamp(1, (*rows * 2).min(CHUNK_ROWS));
        self.collector.end_read(table, Some(progress));
        Ok(true)
    }

    async fn next(&mut self) -> Result<Polled, Error> {
        loop {
            if let Some(polling) = self.collector.pop() {
                return Ok(Polled::Batch(polling));
            }
            self.close_windows();
            if self.read_snapshot().await? {
                continue;
            }
            if !self.more().await? && !self.collector.is_full() {
                let reads =
                    |one: &FollowedCollection| one.window.is_some() || !one.table.progress.done;
                let pause = match self.collections.iter().any(reads) {
                    true => IDLE,
                    false => Duration::ZERO,
                };
                return Ok(Polled::Idle(pause));
            }
        }
    }
}

impl FollowedCollection {
    /// The last document that its snapshot has read, as a bound of the index.
    fn after(&self) -> Option<Vec<u8>> {
        let last = self.table.progress.last.as_ref()?;
        unhex(last.get(1)?).filter(|bytes| BsonDocument::read(bytes).is_some())
    }

    /// Whether the change of a document is published: not where a chunk has it, or will have it.
    fn publishes(&self, key: &BsonElement<'_>, time: u64) -> bool {
        let Table {
            progress, resumed, ..
        } = &self.table;
        if *resumed || (progress.done && self.window.is_none()) {
            return true;
        }
        // Keys whose order is not known here are published, so that none is missed.
        let known = |key: &Option<Vec<String>>| {
            key.as_ref()
                .is_none_or(|key| key.first().is_some_and(|text| !text.is_empty()))
        };
        let after = self
            .window
            .as_ref()
            .is_none_or(|window| known(&window.after));
        match sortable(key, self.collated).filter(|_| known(&progress.last) && after) {
            None => progress.last.is_some() || progress.done,
            Some(key) => publishes(
                Some(&[Order::Bytes]),
                progress,
                self.window.as_ref(),
                &[Bytes::from(key)],
                |seen| time <= *seen,
            ),
        }
    }
}

/// A text that is ordered as the server orders keys; none for types whose order takes more than their bytes, as that of texts in a
/// collection with a collation.
fn sortable(key: &BsonElement<'_>, collated: bool) -> Option<String> {
    // Kinds in the server's order.
    let (of, bytes) = match key.value {
        #[allow(
            clippy::cast_sign_loss,
            reason = "moved so that negative numbers come first"
        )]
        BsonValue::Int(number) => (
            1,
            ((i64::from(number) ^ i64::MIN) as u64)
                .to_be_bytes()
                .to_vec(),
        ),
        #[allow(
            clippy::cast_sign_loss,
            reason = "moved so that negative numbers come first"
        )]
        BsonValue::Long(number) => (1, ((number ^ i64::MIN) as u64).to_be_bytes().to_vec()),
        BsonValue::Text(text) if !collated => (2, text.as_bytes().to_vec()),
        BsonValue::ObjectId(bytes) => (5, bytes.to_vec()),
        BsonValue::Bool(value) => (6, vec![value.into()]),
        #[allow(
            clippy::cast_sign_loss,
            reason = "moved so that negative numbers come first"
        )]
        BsonValue::Date(millis) => (7, ((millis ^ i64::MIN) as u64).to_be_bytes().to_vec()),
        _ => return None,
    };
    Some(format!("{of}{}", hex(&bytes)))
}

fn text_of(key: &BsonElement<'_>) -> String {
    scalar_text(key.value).unwrap_or_else(|| {
        let mut out = Vec::new();
        write_value(key.value, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    })
}

fn payload(change: &str, document: BsonDocument<'_>, before: Option<BsonDocument<'_>>) -> Vec<u8> {
    let mut out = Vec::new();
    event::open(change, &mut out);
    for field in document.elements() {
        event::member(&field.name, &mut out, |out| write_value(field.value, out));
    }
    if let Some(before) = before {
        event::open_before(&mut out);
        let mut first = true;
        for field in before.elements() {
            event::pair(&field.name, &mut first, &mut out, |out| {
                write_value(field.value, out);
            });
        }
        out.push(b'}');
    }
    out.push(b'}');
    out
}

fn check_size(payload: &[u8], collection: &str, key: &BsonElement<'_>) -> Result<(), Error> {
    match payload.len() > PAYLOAD_BYTES_MAX {
        false => Ok(()),
        true => Err(Error::new(Class::Configuration, "mongodb.event-large")
            .with("collection", collection)
            .with("id", quote(&text_of(key)))
            .with("most", PAYLOAD_BYTES_MAX)),
    }
}

/// The time of the cluster at which a token is: behind the number of its type, at the begin of its text.
fn token_time(token: BsonDocument<'_>) -> Option<u64> {
    let bytes = unhex(token.text("_data")?.get(..18)?)?;
    let (0x82, time) = bytes.split_first().map(|(kind, time)| (*kind, time))? else {
        return None;
    };
    Some(u64::from_be_bytes(*time.first_chunk::<8>()?))
}

impl Source for MongoFollower {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(self.next())
    }

    fn committed(&mut self, part: &str, position: u64) {
        self.collector.note_committed(part, position);
    }

    fn forgotten(&mut self) -> Vec<Arc<str>> {
        self.collector.forgotten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_ordered_as_the_server_orders_them() {
        let mut writer = BsonWriter::new();
        writer.long("0", i64::MIN);
        writer.int("1", -1);
        writer.long("2", 0);
        writer.int("3", 300);
        writer.text("4", "");
        writer.text("5", "B");
        writer.text("6", "a");
        writer.text("7", "ab");
        writer.object_id("8", [1; 12]);
        writer.object_id("9", [0xff; 12]);
        writer.bool("10", false);
        writer.date("11", -5);
        writer.date("12", 7);
        let bytes = writer.finish();
        let document = BsonDocument::read(&bytes).expect("a document");
        let all: Vec<_> = document
            .elements()
            .map(|key| sortable(&key, false))
            .collect();
        assert!(all.iter().all(Option::is_some));
        assert!(all.is_sorted(), "{all:?}");
        // "B" is behind "a" there.
        for key in document.elements() {
            let is_text = matches!(key.value, BsonValue::Text(_));
            assert_eq!(sortable(&key, true).is_none(), is_text, "{}", key.name);
        }
    }

    #[test]
    fn a_token_says_its_time() {
        let mut token = BsonWriter::new();
        token.text("_data", "82635019A0000000012B022C0100296E5A1004");
        let bytes = token.finish();
        let token = BsonDocument::read(&bytes).expect("a document");
        assert_eq!(token_time(token), Some(0x6350_19a0_0000_0001));
    }
}
