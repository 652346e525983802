//! The lines of objects, in the order of their keys.

use std::collections::VecDeque;
use std::sync::Arc;

use busbar_connector::{Polled, Polling, Position, Source, SourceContext, Work};
use busbar_event::{ARRIVAL, BatchBuilder, Class, Error, Flags, Row};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::S3Read;
use super::gzip::{GzipReading, is_gzip};
use super::limits::PIECE_BYTES;
use super::link::{Listed, S3Link};
use crate::change::attempt;
use crate::topic::TopicTemplate;

/// Reads objects one after the other.
pub struct S3Source {
    link: S3Link,
    options: S3Read,
    topic: TopicTemplate,
    name: Arc<str>,
    place: ObjectPlace,
    /// The object at hand, if it is compressed and has been read in part.
    reading: Option<GzipReading>,
    /// Objects behind the one at hand.
    listed: VecDeque<Listed>,
    /// Behind the last batch.
    position: u64,
    builder: BatchBuilder,
}

/// How far objects have been read. Kept as JSON with the position.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct ObjectPlace {
    /// The object at hand, or the last one.
    #[serde(default)]
    key: String,
    #[serde(default)]
    etag: String,
    #[serde(default)]
    size: u64,
    /// Bytes of it that are published; of one that is compressed all of them or none.
    #[serde(default)]
    offset: u64,
    /// Bytes that are published of what an object that is compressed holds.
    #[serde(default)]
    plain: u64,
}

impl S3Source {
    pub(super) fn new(
        link: S3Link,
        options: S3Read,
        topic: TopicTemplate,
        context: &SourceContext,
    ) -> S3Source {
        S3Source {
            link,
            options,
            topic,
            name: Arc::clone(&context.name),
            place: serde_json::from_slice(context.resume.note("")).unwrap_or_default(),
            reading: None,
            listed: VecDeque::new(),
            position: attempt(context.clock.now_micros(), context.resume.reached("")),
            builder: BatchBuilder::new(),
        }
    }

    async fn next(&mut self) -> Result<Polled, Error> {
        loop {
            if self.place.offset < self.place.size {
                if let Some(polling) = self.read().await? {
                    return Ok(Polled::Batch(polling));
                }
                continue;
            }
            let Some(object) = self.listed.pop_front() else {
                let (objects, _) = self
                    .link
                    .list(&self.options.prefix, &self.place.key, false)
                    .await?;
                if objects.is_empty() {
                    return Ok(Polled::Idle(self.options.every.as_duration()));
                }
                self.listed = objects.into();
                continue;
            };
            self.place = ObjectPlace {
                key: object.key,
                etag: object.etag,
                size: object.size,
                ..ObjectPlace::default()
            };
            self.reading = None;
        }
    }

    /// The next lines of the object at hand.
    async fn read(&mut self) -> Result<Option<Polling>, Error> {
        if is_gzip(&self.place.key) {
            return self.read_gzip().await;
        }
        let from = self.place.offset;
        let bytes = self.piece(from).await?;
        let is_last = from + bytes.len() as u64 == self.place.size;
        let whole = match memchr::memrchr(b'\n', &bytes) {
            _ if is_last => bytes.len(),
            Some(at) => at + 1,
            None => return Err(self.line_long()),
        };
        self.place.offset += whole as u64;
        Ok(self.publish(&bytes.slice(..whole)))
    }

    /// The next lines of the object at hand, which is compressed. Behind a start it is read from its beginning.
    async fn read_gzip(&mut self) -> Result<Option<Polling>, Error> {
        let plain = self.place.plain;
        let mut reading = self
            .reading
            .take()
            .unwrap_or_else(|| GzipReading::new(plain));
        let size = self.place.size;
        let mut read = reading.go_on(size);
        while read.is_ok() && reading.is_hungry() {
            // Asked for again where that fails.
            let bytes = match self.piece(reading.fetched).await {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.reading = Some(reading);
                    return Err(error);
                }
            };
            read = reading.feed(bytes, size);
        }
        if let Err(why) = read {
            let error = Error::new(Class::Permanent, "s3.gzip")
                .with("bucket", &self.link.bucket)
                .with("key", &self.place.key)
                .with("read", plain)
                .caused_by(why);
            self.place.offset = size;
            return Err(error);
        }
        let Some(lines) = reading.take_lines() else {
            return Err(self.line_long());
        };
        self.place.plain += lines.len() as u64;
        match reading.is_over() {
            true => self.place.offset = size,
            false => self.reading = Some(reading),
        }
        Ok(self.publish(&lines))
    }

    /// A piece of the object at hand.
    async fn piece(&mut self, from: u64) -> Result<Bytes, Error> {
        let place = &self.place;
        let object = Listed {
            key: place.key.clone(),
            etag: place.etag.clone(),
            size: place.size,
        };
        let to = (from + PIECE_BYTES as u64).min(place.size);
        if let Some(bytes) = self.link.piece(&object, from, to).await? {
            return Ok(bytes);
        }
        // Removed, or replaced: what has not been read of it is not to be had any more.
        let error = Error::new(Class::Permanent, "s3.changed")
            .with("bucket", &self.link.bucket)
            .with("key", &place.key)
            .with("read", from);
        self.place.offset = self.place.size;
        Err(error)
    }

    fn line_long(&self) -> Error {
        Error::new(Class::Configuration, "s3.line-long")
            .with("bucket", &self.link.bucket)
            .with("key", &self.place.key)
            .with("most", PIECE_BYTES)
    }

    /// The lines of a piece; none where all are empty.
    fn publish(&mut self, piece: &Bytes) -> Option<Polling> {
        let mut topic = String::new();
        let value = |name: &str| match name {
            "key" => Some(self.place.key.clone()),
            _ => Some(self.name.to_string()),
        };
        self.topic.write(value, &mut topic);
        let topic = self.builder.topic_id(&topic);
        for line in piece.split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                continue;
            }
            self.builder.push(Row {
                topic,
                key: None,
                time: ARRIVAL,
                client: None,
                flags: Flags::default().with_qos(1),
                tags: &[],
                payload: line,
            });
        }
        if self.builder.is_empty() {
            return None;
        }
        self.position += 1;
        Some(Polling {
            batch: self.builder.finish(),
            part: Arc::from(""),
            position: Position::End(self.position),
            note: serde_json::to_vec(&self.place).unwrap_or_default(),
        })
    }
}

impl Source for S3Source {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(self.next())
    }
}
