//! Writes rows as documents: each delivery in one transaction together with the producer's position, or, without
//! transactions, so that a row that comes again changes nothing.

use std::collections::HashSet;
use std::sync::Arc;

use busbar_connector::{Delivery, Sink, SinkContext, Work, Written};
use busbar_event::{Class, Error};
use busbar_log::Clock;
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};

use super::bson::{BsonDocument, BsonWriter};
use super::document::{ChangePlan, ChangeVerb, MongoChange, MongoChanges};
use super::failure::{
    DUPLICATE, MongoFailure, MongoPart, MongoRefusal, NEWER_TRANSACTION, NO_COLLECTION,
};
use super::limits::{COMMAND_BYTES, COMMAND_ROWS, PROBE_ROWS, REFUSED_FIRST};
use super::link::{MongoLink, MongoServer};
use super::wire::DocumentSequence;
use super::{MongoMode, MongoWrite};
use crate::change::plan::Refused;
use crate::change::refusal::{RefusedRecord, content_of};

/// The collection beside the written one in which positions are kept.
const POSITIONS: &str = "busbar_position";
/// What writing takes, as roles name it.
const RIGHTS: &str = "find, insert, update, remove, listIndexes";

/// Writes documents.
pub struct MongoSink {
    server: MongoServer,
    /// The connection's name, before the names of producers.
    name: Arc<str>,
    options: MongoWrite,
    plan: ChangePlan,
    clock: Arc<dyn Clock>,
    link: Option<MongoLink>,
    /// The number of the last transaction.
    transaction: i64,
    /// A session that no other process has.
    own: [u8; 16],
    /// Another process has used the session that the producer's name stands for.
    replaced: bool,
}

/// A transaction that is under way.
struct MongoTransaction {
    session: [u8; 16],
    number: i64,
    begun: bool,
}

/// What became of the rows of a transaction.
enum WriteAttempt {
    Committed,
    /// The producer had come so far before, with these rows refused.
    Known(Vec<RefusedRecord>),
    /// The row at this place is refused, and with it the transaction.
    Refused(usize, Error),
}

/// How a transaction ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    Commit,
    /// It was only to see which rows are refused.
    Abort,
}

impl MongoSink {
    /// Opens a session and looks at what is there.
    ///
    /// # Errors
    /// *Configuration*: a server without transactions where they are asked for, or a collection in which rows that come again
    /// would be there twice.
    pub(super) async fn open(
        server: MongoServer,
        options: MongoWrite,
        context: SinkContext,
    ) -> Result<MongoSink, Error> {
        let mut link = server.open().await?;
        if options.transactions && !link.about.replicated {
            return Err(Error::new(Class::Configuration, "mongodb.no-transactions")
                .with("address", &link.address));
        }
        let mut own = [0; 16];
        SystemRandom::new()
            .fill(&mut own)
            .map_err(|_| Error::new(Class::Transient, "connect.failed-within"))?;
        let mut sink = MongoSink {
            plan: ChangePlan::new(&options, &context.schema)?,
            server,
            name: context.name,
            options,
            clock: context.clock,
            link: None,
            transaction: 0,
            own: session_of(&own),
            replaced: false,
        };
        sink.check_index(&mut link).await?;
        sink.link = Some(link);
        Ok(sink)
    }

    fn told(&self, failed: MongoFailure) -> Error {
        failed.told(self.server.doing(&self.options.collection, RIGHTS))
    }

    /// Two writers that add the same document would add two, and each change would look at all documents, where the key has
    /// no unique index.
    async fn check_index(&self, link: &mut MongoLink) -> Result<(), Error> {
        let key = &self.options.key;
        let adds = matches!(self.options.mode(), MongoMode::Replace | MongoMode::Merge);
        if !adds || key.iter().any(|column| column == "_id") {
            return Ok(());
        }
        let command = self.server.command("listIndexes", &self.options.collection);
        let answer = match link.run(&command.finish(), None).await {
            Ok(answer) => Some(answer),
            Err(MongoFailure::Refused(refusal)) if refusal.code == NO_COLLECTION => None,
            Err(failed) => return Err(self.told(failed)),
        };
        let indexes = answer.as_ref().map(|answer| answer.document());
        let indexes = indexes
            .iter()
            .flat_map(|answer| answer.documents("cursor.firstBatch"));
        let fits = |index: BsonDocument<'_>| {
            let fields = index.document("key").unwrap_or(BsonDocument::EMPTY);
            index.is("unique")
                && index.document("partialFilterExpression").is_none()
                && fields
                    .elements()
                    .all(|field| key.iter().any(|column| *column == field.name))
        };
        let mut indexes = indexes;
        if indexes.any(fits) {
            return Ok(());
        }
        let fields: Vec<_> = key
            .iter()
            .map(|column| format!("{}: 1", serde_json::json!(column)))
            .collect();
        let statement = format!(
            "db.getCollection({}).createIndex({{ {} }}, {{ unique: true }})",
            serde_json::json!(self.options.collection),
            fields.join(", ")
        );
        Err(Error::new(Class::Configuration, "mongodb.no-index")
            .with("collection", &self.options.collection)
            .with("key", key.join(", "))
            .with("statement", statement))
    }

    async fn session(&mut self) -> Result<MongoLink, Error> {
        match self.link.take() {
            Some(link) => Ok(link),
            None => self.server.open().await,
        }
    }

    /// Under which name a producer's position is kept.
    fn position_name(&self, producer: &str) -> String {
        let name = self.options.producer.as_deref().unwrap_or(&self.name);
        format!("{name}/{producer}")
    }

    async fn deliver(&mut self, delivery: &Delivery) -> Result<Written, Error> {
        let mut link = self.session().await?;
        let changes = self.plan.changes(delivery, link.about.document_bytes)?;
        let written = match self.options.transactions {
            true => self.transact(&mut link, delivery, changes).await,
            false => self.bulk(&mut link, changes).await,
        };
        let mut rejected = written?;
        // Only a session whose last command was answered is used again.
        self.link = Some(link);
        rejected.sort_by_key(|(row, _)| *row);
        Ok(Written::of(rejected))
    }

    /// Writes the rows in one transaction without those that the server refuses: a refusal ends the transaction, which is
    /// done again without the row. Where many are refused, small groups are tried by themselves first.
    async fn transact(
        &mut self,
        link: &mut MongoLink,
        delivery: &Delivery,
        changes: MongoChanges,
    ) -> Result<Vec<Refused>, Error> {
        if changes.truncate && !self.knows(link, delivery).await? {
            self.truncate(link).await?;
        }
        let mut open: Vec<&MongoChange> = changes.all.iter().collect();
        let mut refused: Vec<Refused> = Vec::new();
        let mut probed = false;
        loop {
            let attempt = self
                .attempt(link, delivery, &open, &refused, &changes, Ends::Commit)
                .await?;
            match attempt {
                WriteAttempt::Committed => break,
                WriteAttempt::Known(records) => {
                    let rows = changes.all.iter();
                    let rows =
                        rows.map(|change| (change.row, content_of(change.op, &change.bytes)));
                    refused = RefusedRecord::recalled(records, rows);
                    break;
                }
                WriteAttempt::Refused(at, error) => refused.push((open.remove(at).row, error)),
            }
            if refused.len() >= REFUSED_FIRST && !probed {
                probed = true;
                let mut good = Vec::with_capacity(open.len());
                for group in open.chunks(PROBE_ROWS) {
                    let mut group = group.to_vec();
                    while let WriteAttempt::Refused(at, error) = self
                        .attempt(link, delivery, &group, &[], &changes, Ends::Abort)
                        .await?
                    {
                        refused.push((group.remove(at).row, error));
                    }
                    good.extend(group);
                }
                open = good;
            }
        }
        refused.extend(changes.rejected);
        Ok(refused)
    }

    /// One transaction.
    async fn attempt(
        &mut self,
        link: &mut MongoLink,
        delivery: &Delivery,
        rows: &[&MongoChange],
        refused: &[Refused],
        changes: &MongoChanges,
        ends: Ends,
    ) -> Result<WriteAttempt, Error> {
        let mut transaction = self.begin(&delivery.producer);
        let keeps = ends == Ends::Commit && !delivery.producer.is_empty();
        if keeps {
            let found = self
                .find_position(link, &delivery.producer, Some(&mut transaction))
                .await;
            let found = found.map_err(|failed| self.failed(failed))?;
            if let Some((position, records)) = found
                && position >= delivery.position
            {
                self.abort(link, &mut transaction).await?;
                return Ok(WriteAttempt::Known(records));
            }
        }
        let mut at = 0;
        while at < rows.len() {
            let count = group(&rows[at..], |_, _| true);
            let sent = self
                .send(link, &rows[at..at + count], Some(&mut transaction))
                .await?;
            if let Some((within, refusal)) = sent.into_iter().next() {
                let error = self.row_error(&refusal);
                if error.class() != Class::Permanent {
                    return Err(error);
                }
                self.abort(link, &mut transaction).await?;
                return Ok(WriteAttempt::Refused(at + within, error));
            }
            at += count;
        }
        if keeps {
            let content = |row: usize| {
                let change = changes.all.iter().find(|change| change.row == row);
                change.map_or_else(String::new, |change| content_of(change.op, &change.bytes))
            };
            let records = RefusedRecord::of(refused, content);
            self.note(link, delivery, &records, &mut transaction)
                .await?;
        }
        if ends == Ends::Abort {
            self.abort(link, &mut transaction).await?;
        } else if transaction.begun {
            let mut commit = BsonWriter::new();
            commit.int("commitTransaction", 1);
            commit.text("$db", "admin");
            commit.open("writeConcern");
            commit.text("w", "majority");
            commit.close();
            transaction.mark(&mut commit);
            let answer = link.run(&commit.finish(), None).await;
            let answer = answer.map_err(|failed| self.failed(failed))?;
            if let Some(why) = answer.document().document("writeConcernError") {
                // It is committed here and may not be so elsewhere: the delivery comes again and is recognised.
                let doing = self.server.doing(&self.options.collection, RIGHTS);
                let told = MongoRefusal::of(why).told(MongoPart::Command, doing);
                return Err(Error::new(Class::Transient, "mongodb.for-now")
                    .with("address", &link.address)
                    .with(
                        "said",
                        told.args()
                            .iter()
                            .map(|(_, value)| value.as_str())
                            .collect::<Vec<_>>()
                            .join(" "),
                    ));
            }
        }
        Ok(WriteAttempt::Committed)
    }

    /// A transaction of the session that a producer's name stands for: with a higher number it ends what a process before
    /// this one has left open, and that process can commit nothing any more.
    fn begin(&mut self, producer: &str) -> MongoTransaction {
        let session = match self.replaced || producer.is_empty() {
            true => self.own,
            false => {
                let (database, collection) = (&self.server.database, &self.options.collection);
                let name = self.position_name(producer);
                session_of(format!("{database}/{collection}/{name}").as_bytes())
            }
        };
        self.transaction = self.clock.now_micros().max(self.transaction + 1);
        MongoTransaction {
            session,
            number: self.transaction,
            begun: false,
        }
    }

    /// Why a command of a transaction failed.
    fn failed(&mut self, failed: MongoFailure) -> Error {
        if let MongoFailure::Refused(refusal) = &failed {
            // Two processes write as the same producer, or the clock went back. The position keeps them apart all the same.
            self.replaced |= refusal.code == NEWER_TRANSACTION;
        }
        self.told(failed)
    }

    async fn abort(
        &self,
        link: &mut MongoLink,
        transaction: &mut MongoTransaction,
    ) -> Result<(), Error> {
        if !transaction.begun {
            return Ok(());
        }
        let mut abort = BsonWriter::new();
        abort.int("abortTransaction", 1);
        abort.text("$db", "admin");
        transaction.mark(&mut abort);
        match link.run(&abort.finish(), None).await {
            // A refused command has ended it already.
            Ok(_) | Err(MongoFailure::Refused(_)) => Ok(()),
            Err(failed) => Err(self.told(failed)),
        }
    }

    /// Sends a command with rows; those that the server refuses, by their place.
    async fn send(
        &mut self,
        link: &mut MongoLink,
        rows: &[&MongoChange],
        transaction: Option<&mut MongoTransaction>,
    ) -> Result<Vec<(usize, MongoRefusal)>, Error> {
        let Some(first) = rows.first() else {
            return Ok(Vec::new());
        };
        let (word, list) = first.verb.words();
        let mut command = self.server.command(word, &self.options.collection);
        command.bool("ordered", transaction.is_some());
        match transaction {
            Some(transaction) => transaction.mark(&mut command),
            None if link.about.replicated => {
                command.open("writeConcern");
                command.text("w", "majority");
                command.close();
            }
            None => {}
        }
        let documents: Vec<&[u8]> = rows.iter().map(|change| &change.bytes[..]).collect();
        let rows = DocumentSequence {
            name: list,
            documents: &documents,
        };
        let answer = link.run(&command.finish(), Some(rows)).await;
        let answer = match answer {
            Ok(answer) => answer,
            // In a transaction, some servers refuse the command for one row of it; a command of one row says which.
            Err(MongoFailure::Refused(refusal))
                if documents.len() == 1 && refusal.class(MongoPart::Row) == Class::Permanent =>
            {
                return Ok(vec![(0, refusal)]);
            }
            Err(failed) => return Err(self.failed(failed)),
        };
        let document = answer.document();
        let errors = document.documents("writeErrors").map(|error| {
            let at = error
                .number("index")
                .and_then(|at| usize::try_from(at).ok());
            (at.unwrap_or(usize::MAX), MongoRefusal::of(error))
        });
        let errors: Vec<_> = errors.collect();
        if errors.iter().any(|(at, _)| *at >= documents.len()) {
            return Err(link.strange("a refused row that was not sent"));
        }
        match document.document("writeConcernError") {
            // The rows that are not refused may be lost with this server.
            Some(why) => {
                let doing = self.server.doing(&self.options.collection, RIGHTS);
                Err(MongoRefusal::of(why).told(MongoPart::Command, doing))
            }
            None => Ok(errors),
        }
    }

    fn row_error(&self, refusal: &MongoRefusal) -> Error {
        let doing = self.server.doing(&self.options.collection, RIGHTS);
        refusal.told(MongoPart::Row, doing)
    }

    /// Writes rows without a transaction. Rows that were written stay; the delivery comes again where the others could not be.
    async fn bulk(
        &mut self,
        link: &mut MongoLink,
        changes: MongoChanges,
    ) -> Result<Vec<Refused>, Error> {
        if changes.truncate {
            self.truncate(link).await?;
        }
        let rows: Vec<&MongoChange> = changes.all.iter().collect();
        let mut refused = changes.rejected;
        let mut at = 0;
        while at < rows.len() {
            // The rows of a command may be written in another order: each document is in it once.
            let mut keys: HashSet<&[u8]> = HashSet::new();
            let count = group(&rows[at..], |_, change| {
                change.verb == ChangeVerb::Insert || keys.insert(&change.key)
            });
            let part = &rows[at..at + count];
            for (within, refusal) in self.send(link, part, None).await? {
                let error = self.row_error(&refusal);
                match error.class() {
                    Class::Permanent => refused.push((part[within].row, error)),
                    _ => return Err(error),
                }
            }
            at += count;
        }
        Ok(refused)
    }

    /// Deletes every document. Done again where the delivery comes again.
    async fn truncate(&mut self, link: &mut MongoLink) -> Result<(), Error> {
        let mut all = BsonWriter::new();
        all.document("q", BsonDocument::EMPTY.bytes());
        all.int("limit", 0);
        let change = MongoChange {
            row: 0,
            op: crate::change::Op::Truncate,
            verb: ChangeVerb::Delete,
            bytes: all.finish(),
            key: Vec::new(),
        };
        match self.send(link, &[&change], None).await?.first() {
            None => Ok(()),
            Some((_, refusal)) => {
                let doing = self.server.doing(&self.options.collection, RIGHTS);
                Err(refusal.told(MongoPart::Command, doing))
            }
        }
    }

    /// Whether a delivery was written before.
    async fn knows(&self, link: &mut MongoLink, delivery: &Delivery) -> Result<bool, Error> {
        if delivery.producer.is_empty() {
            return Ok(false);
        }
        let found = self.find_position(link, &delivery.producer, None).await;
        let found = found.map_err(|failed| self.told(failed))?;
        Ok(found.is_some_and(|(position, _)| position >= delivery.position))
    }

    /// A producer's position, and the rows that were refused before it.
    async fn find_position(
        &self,
        link: &mut MongoLink,
        producer: &str,
        transaction: Option<&mut MongoTransaction>,
    ) -> Result<Option<(u64, Vec<RefusedRecord>)>, MongoFailure> {
        let mut find = self.server.command("find", POSITIONS);
        find.open("filter");
        find.text("_id", &self.position_name(producer));
        find.close();
        find.int("limit", 1);
        find.bool("singleBatch", true);
        match transaction {
            Some(transaction) => transaction.mark(&mut find),
            None => {
                find.open("readConcern");
                find.text("level", "majority");
                find.close();
            }
        }
        let answer = link.run(&find.finish(), None).await?;
        let found = answer.document().documents("cursor.firstBatch").next();
        Ok(found.and_then(|found| {
            let position = u64::try_from(found.number("position")?).ok()?;
            let records = found.documents("refused").filter_map(|record| {
                Some(RefusedRecord {
                    row: 0,
                    content: record.text("content")?.to_owned(),
                    cause: record.text("cause")?.to_owned(),
                })
            });
            Some((position, records.collect()))
        }))
    }

    /// Notes in the transaction how far the producer has come, and which rows were refused.
    async fn note(
        &mut self,
        link: &mut MongoLink,
        delivery: &Delivery,
        refused: &[RefusedRecord],
        transaction: &mut MongoTransaction,
    ) -> Result<(), Error> {
        let mut change = BsonWriter::new();
        change.open("q");
        change.text("_id", &self.position_name(&delivery.producer));
        change.close();
        change.open("u");
        change.open("$set");
        change.long(
            "position",
            i64::try_from(delivery.position).unwrap_or(i64::MAX),
        );
        change.date("at", self.clock.now_micros().div_euclid(1_000));
        change.open_array("refused");
        for (at, record) in refused.iter().enumerate() {
            change.open(&at.to_string());
            change.text("content", &record.content);
            change.text("cause", &record.cause);
            change.close();
        }
        change.close();
        change.close();
        change.close();
        change.bool("upsert", true);
        let change = change.finish();
        let mut command = self.server.command("update", POSITIONS);
        transaction.mark(&mut command);
        let rows = DocumentSequence {
            name: "updates",
            documents: &[&change],
        };
        let answer = link.run(&command.finish(), Some(rows)).await;
        let answer = answer.map_err(|failed| self.failed(failed))?;
        match answer.document().documents("writeErrors").next() {
            None => Ok(()),
            Some(error) => {
                let refusal = MongoRefusal::of(error);
                let doing = self.server.doing(POSITIONS, RIGHTS);
                let error = refusal.told(MongoPart::Command, doing);
                Err(match refusal.code {
                    // Another process has written it meanwhile; the next attempt sees it.
                    DUPLICATE => Error::new(Class::Transient, "mongodb.for-now")
                        .with("address", &link.address)
                        .with("said", error),
                    _ => error,
                })
            }
        }
    }
}

impl MongoTransaction {
    /// Makes a command a part of it.
    fn mark(&mut self, command: &mut BsonWriter) {
        command.open("lsid");
        // The kind of bytes that a UUID is.
        command.binary("id", 4, &self.session);
        command.close();
        command.long("txnNumber", self.number);
        if !std::mem::replace(&mut self.begun, true) {
            command.bool("startTransaction", true);
            command.open("readConcern");
            command.text("level", "snapshot");
            command.close();
        }
        command.bool("autocommit", false);
    }
}

/// How many rows from the first fit into one command, by their verb, their bytes and what `also` says.
fn group<'a>(
    rows: &[&'a MongoChange],
    mut also: impl FnMut(usize, &'a MongoChange) -> bool,
) -> usize {
    let (mut count, mut bytes) = (0, 0);
    for change in rows.iter().take(COMMAND_ROWS) {
        let fits = count == 0 || bytes + change.bytes.len() <= COMMAND_BYTES;
        if change.verb != rows[0].verb || !fits || !also(count, change) {
            break;
        }
        count += 1;
        bytes += change.bytes.len();
    }
    count
}

/// A UUID that a name stands for.
fn session_of(name: &[u8]) -> [u8; 16] {
    let hash = digest::digest(&digest::SHA256, name);
    let mut id = [0; 16];
    id.copy_from_slice(&hash.as_ref()[..16]);
    // Version 8: of the application's own making.
    id[6] = (id[6] & 0x0f) | 0x80;
    id[8] = (id[8] & 0x3f) | 0x80;
    id
}

impl Sink for MongoSink {
    fn write<'a>(&'a mut self, delivery: &'a Delivery) -> Work<'a, Result<Written, Error>> {
        Box::pin(self.deliver(delivery))
    }

    fn position<'a>(&'a mut self, producer: &'a str) -> Work<'a, Result<Option<u64>, Error>> {
        Box::pin(async move {
            if !self.options.transactions {
                return Ok(None);
            }
            let mut link = self.session().await?;
            let found = self.find_position(&mut link, producer, None).await;
            let found = found.map_err(|failed| self.told(failed))?;
            self.link = Some(link);
            Ok(found.map(|(position, _)| position))
        })
    }

    fn close(&mut self) -> Work<'_, Result<(), Error>> {
        Box::pin(async {
            if let Some(link) = self.link.take() {
                link.close().await;
            }
            Ok(())
        })
    }
}
