//! Documents in the order of fields that grow.

use std::sync::Arc;
use std::time::Duration;

use busbar_connector::{Polled, Polling, Position, Source, SourceContext, Work};
use busbar_event::limits::PAYLOAD_BYTES_MAX;
use busbar_event::{ARRIVAL, BatchBuilder, Class, Error, Flags, Row};
use busbar_log::Clock;

use super::MongoRead;
use super::bson::{BsonDocument, BsonValue, BsonWriter};
use super::json::{json_document, scalar_text, write_document, write_value};
use super::limits::NOTE_BYTES_MAX;
use super::link::{MongoLink, MongoServer};
use crate::change::attempt;
use crate::topic::TopicTemplate;

/// Reads documents.
pub struct MongoQuery {
    server: MongoServer,
    options: MongoRead,
    filter: Vec<u8>,
    topic: TopicTemplate,
    name: Arc<str>,
    clock: Arc<dyn Clock>,
    link: Option<MongoLink>,
    /// The values of the fields in the last document, as a document whose names are their places; empty before the first.
    after: Vec<u8>,
    /// Behind the last batch.
    position: u64,
    builder: BatchBuilder,
}

impl MongoQuery {
    pub(super) fn new(
        server: MongoServer,
        options: MongoRead,
        topic: TopicTemplate,
        context: &SourceContext,
    ) -> Result<MongoQuery, Error> {
        let filter = json_document(options.query.as_deref().unwrap_or("{}"));
        let filter = filter
            .map_err(|why| Error::new(Class::Configuration, "mongodb.query").caused_by(why))?;
        Ok(MongoQuery {
            server,
            filter,
            topic,
            name: Arc::clone(&context.name),
            clock: Arc::clone(&context.clock),
            link: None,
            after: context.resume.note("").to_vec(),
            position: attempt(context.clock.now_micros(), context.resume.reached("")),
            options,
            builder: BatchBuilder::new(),
        })
    }

    /// The query for the next page. One document more than is published is asked for, to see whether it has the same values
    /// as the last one; it would be passed over.
    fn find(&self) -> Vec<u8> {
        let mut find = self.server.command("find", &self.options.collection);
        find.open("filter");
        find.open_array("$and");
        find.document("0", &self.filter);
        // What has no value has no place in the order.
        let mut at = 1;
        for field in &self.options.sort {
            find.open(&at.to_string());
            find.open(field);
            find.null("$ne");
            find.close();
            find.close();
            at += 1;
        }
        let settle = self.options.settle.as_duration();
        if let Some(first) = self.options.sort.first()
            && !settle.is_zero()
        {
            let millis = i64::try_from(settle.as_millis()).unwrap_or(i64::MAX);
            let until = self
                .clock
                .now_micros()
                .div_euclid(1_000)
                .saturating_sub(millis);
            find.open(&at.to_string());
            find.open(first);
            find.date("$lte", until);
            find.close();
            find.close();
            at += 1;
        }
        if let Some(after) = BsonDocument::read(&self.after) {
            find.open(&at.to_string());
            find.open_array("$or");
            let values: Vec<_> = after.elements().collect();
            for (deep, value) in values.iter().enumerate() {
                find.open(&deep.to_string());
                for (field, same) in self.options.sort.iter().zip(&values[..deep]) {
                    find.copy(field, same);
                }
                find.open(&self.options.sort[deep]);
                find.copy("$gt", value);
                find.close();
                find.close();
            }
            find.close();
            find.close();
        }
        find.close();
        find.close();
        find.open("sort");
        for field in &self.options.sort {
            find.int(field, 1);
        }
        find.close();
        let limit = i32::try_from(self.options.rows + 1).unwrap_or(i32::MAX);
        find.int("limit", limit);
        find.int("batchSize", limit);
        // A page that does not fit into one answer ends earlier; the next one goes on behind it.
        find.bool("singleBatch", true);
        find.finish()
    }

    async fn next(&mut self) -> Result<Polled, Error> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.server.open().await?,
        };
        let answer = link.run(&self.find(), None).await;
        let doing = self.server.doing(&self.options.collection, "find");
        let answer = answer.map_err(|failed| failed.told(doing))?;
        self.link = Some(link);
        let documents: Vec<_> = answer.document().documents("cursor.firstBatch").collect();
        Ok(match self.publish(&documents)? {
            Some(polling) => Polled::Batch(polling),
            None if documents.is_empty() => Polled::Idle(self.options.every.as_duration()),
            None => Polled::Idle(Duration::ZERO),
        })
    }

    fn wrong(&self, code: &'static str, document: BsonDocument<'_>) -> Error {
        let mut id = Vec::new();
        write_value(document.get("_id").unwrap_or(BsonValue::Null), &mut id);
        Error::new(Class::Configuration, code)
            .with("collection", &self.options.collection)
            .with("sort", self.options.sort.join(", "))
            .with("id", busbar_event::quote(&String::from_utf8_lossy(&id)))
    }

    /// The values of a document in the fields of the order.
    fn place(&self, document: BsonDocument<'_>) -> Result<Vec<u8>, Error> {
        let mut place = BsonWriter::new();
        for (at, field) in self.options.sort.iter().enumerate() {
            let (within, name) = match field.rsplit_once('.') {
                Some((path, name)) => (document.document(path), name),
                None => (Some(document), field.as_str()),
            };
            let element = within.and_then(|within| within.element(name));
            let Some(element) = element else {
                return Err(self.wrong("mongodb.sort-none", document));
            };
            if matches!(element.value, BsonValue::Array(_) | BsonValue::Null) {
                return Err(self.wrong("mongodb.sort-none", document));
            }
            place.copy(&at.to_string(), &element);
        }
        Ok(place.finish())
    }

    fn publish(&mut self, documents: &[BsonDocument<'_>]) -> Result<Option<Polling>, Error> {
        // The last of a full page is only looked at.
        let count = documents.len().min(self.options.rows);
        let places = documents.iter().map(|document| self.place(*document));
        let places = places.collect::<Result<Vec<_>, _>>()?;
        for (pair, document) in places.windows(2).zip(documents) {
            if pair[0] == pair[1] {
                return Err(self.wrong("mongodb.sort-same", *document));
            }
        }
        let Some(last) = places[..count].last() else {
            return Ok(None);
        };
        if last.len() > NOTE_BYTES_MAX {
            let error = self.wrong("mongodb.sort-large", documents[count - 1]);
            return Err(error.with("most", NOTE_BYTES_MAX));
        }
        let mut topic = String::new();
        let mut payload = Vec::new();
        for document in &documents[..count] {
            payload.clear();
            write_document(*document, &mut payload);
            if payload.len() > PAYLOAD_BYTES_MAX {
                return Err(self.wrong("mongodb.document-unreadable", *document));
            }
            let value = |name: &str| match name {
                "collection" => Some(self.options.collection.clone()),
                _ => Some(self.name.to_string()),
            };
            self.topic.write(value, &mut topic);
            let key = document.get("_id").and_then(scalar_text);
            let topic = self.builder.topic_id(&topic);
            self.builder.push(Row {
                topic,
                key: key.as_deref(),
                time: ARRIVAL,
                client: None,
                flags: Flags::default().with_qos(1),
                tags: &[],
                payload: &payload,
            });
        }
        self.after.clone_from(last);
        self.position += 1;
        Ok(Some(Polling {
            batch: self.builder.finish(),
            part: Arc::from(""),
            position: Position::End(self.position),
            note: last.clone(),
        }))
    }
}

impl Source for MongoQuery {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(self.next())
    }
}
