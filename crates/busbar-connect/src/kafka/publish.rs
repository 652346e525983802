//! Records as events.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use busbar_event::limits::{KEY_BYTES_MAX, TAG_BYTES_MAX, TAGS_MAX};
use busbar_event::tags::escape;
use busbar_event::{ARRIVAL, Batch, BatchBuilder, Flags, Row, topic};
use busbar_kafka::batch::KafkaRecord;

use super::reader::ReadPartition;
use crate::topic::{TopicTemplate, fitting};

/// The tag of a record without a value.
const DELETED: &str = "kafka-deleted";
/// The tag that names what of a record no event can have.
const LEFT_OUT: &str = "kafka-left-out";
/// Tags that may come beside those of the headers.
const OWN_TAGS: usize = 4;

/// Makes events of records.
pub struct RecordPublisher {
    builder: BatchBuilder,
    template: TopicTemplate,
    /// Whether the topic depends on the record's key.
    by_key: bool,
    connection: Arc<str>,
    offset_tags: bool,
    topic: String,
    number: String,
}

impl RecordPublisher {
    pub fn new(
        template: TopicTemplate,
        connection: Arc<str>,
        offset_tags: bool,
    ) -> RecordPublisher {
        RecordPublisher {
            builder: BatchBuilder::new(),
            by_key: template.uses("key"),
            template,
            connection,
            offset_tags,
            topic: String::new(),
            number: String::new(),
        }
    }

    /// Whether the events so far are to be published before the next one.
    pub fn is_full(&self) -> bool {
        self.builder.is_full()
    }

    pub fn is_empty(&self) -> bool {
        self.builder.is_empty()
    }

    /// The events so far.
    pub fn finish(&mut self) -> Batch {
        self.topic.clear();
        self.builder.finish()
    }

    /// Adds a record.
    pub fn push(&mut self, partition: &ReadPartition, record: &KafkaRecord<'_>) {
        let key = record.key.map(text);
        let fits = key.as_ref().is_none_or(|key| key.len() <= KEY_BYTES_MAX);
        let key = key.filter(|_| fits);
        if self.by_key || self.topic.is_empty() {
            self.write_topic(partition, key.as_deref().unwrap_or_default());
        }
        let topic = self.builder.topic_id(&self.topic);
        let time = match record.time {
            millis @ 0.. => millis.saturating_mul(1_000),
            _ => ARRIVAL,
        };
        let mut row = Row {
            topic,
            key: key.as_deref(),
            time,
            client: None,
            flags: Flags::default().with_qos(1),
            tags: &[],
            payload: record.value.unwrap_or_default(),
        };
        let odd = !fits || record.value.is_none() || self.offset_tags;
        if !odd && record.headers.len() == 0 {
            self.builder.push(row);
            return;
        }
        // Most headers are texts that can be tags as they are.
        let mut plain = [("", ""); TAGS_MAX];
        let mut count = 0;
        for (name, value) in record.headers {
            let fitting = |bytes| {
                let text = std::str::from_utf8(bytes).ok()?;
                (text.len() <= TAG_BYTES_MAX).then_some(text)
            };
            let tag = fitting(name).zip(value.and_then(fitting));
            let tag = tag.filter(|(name, _)| matches!(escape(name), Cow::Borrowed(_)));
            match (tag, plain.get_mut(count)) {
                (Some(tag), Some(place)) => *place = tag,
                _ => break,
            }
            count += 1;
        }
        if !odd && count == record.headers.len() {
            row.tags = &plain[..count];
            self.builder.push(row);
            return;
        }
        let mut left_out = Vec::new();
        let mut tags: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
        if !fits {
            left_out.push("key".to_owned());
        }
        for (name, value) in record.headers {
            let name = text(name);
            let tag = (escape(&name).into_owned(), text(value.unwrap_or_default()));
            let fits = tag.0.len().max(tag.1.len()) <= TAG_BYTES_MAX;
            match fits && tags.len() < TAGS_MAX - OWN_TAGS {
                true => tags.push((tag.0.into(), tag.1)),
                false => left_out.push(name.chars().take(64).collect()),
            }
        }
        if record.value.is_none() {
            tags.push((DELETED.into(), "true".into()));
        }
        if !left_out.is_empty() {
            left_out.truncate(TAGS_MAX);
            tags.push((LEFT_OUT.into(), left_out.join(", ").into()));
        }
        if self.offset_tags {
            self.number.clear();
            // Writing to a text does not fail.
            let _ = write!(self.number, "{}", record.offset);
            let number = partition.number.to_string();
            tags.push(("kafka-partition".into(), number.into()));
            tags.push(("kafka-offset".into(), self.number.as_str().into()));
        }
        let tags: Vec<_> = tags.iter().map(|(n, v)| (&**n, &**v)).collect();
        row.tags = &tags;
        self.builder.push(row);
    }

    fn write_topic(&mut self, partition: &ReadPartition, key: &str) {
        let connection = &self.connection;
        let value = |name: &str| {
            Some(match name {
                "connection" => connection.to_string(),
                "partition" => partition.number.to_string(),
                "topic" => partition.topic.to_string(),
                _ => key.to_owned(),
            })
        };
        self.template.write(value, &mut self.topic);
        if topic::check(&self.topic).is_err() {
            self.topic = fitting(&self.topic);
        }
    }
}

/// Bytes as text: as they are where they are UTF-8, as PostgreSQL writes bytes otherwise.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            let mut text = String::with_capacity(2 + 2 * bytes.len());
            text.push_str("\\x");
            for byte in bytes {
                // Writing to a text does not fail.
                let _ = write!(text, "{byte:02x}");
            }
            Cow::Owned(text)
        }
    }
}
