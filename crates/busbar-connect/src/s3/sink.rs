//! Writes each delivery as an object whose key says who wrote it and what came before.
//!
//! A process that ends may leave a request on its way that arrives later, when the next process has read how far the producer
//! has come. So a key depends only on what was written before, objects are created and never replaced, and who begins creates an
//! empty object where such a request would go: it then fails, or is seen.

use std::sync::Arc;

use busbar_connector::{Delivery, Escape, Sink, Work, Written};
use busbar_event::{Class, Error};
use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};

use super::gzip::compressed;
use super::limits::{ATTEMPT_DIGITS, CREATE_TRIES_MAX, KEY_BYTES_MAX, POSITION_DIGITS};
use super::link::{ObjectMark, S3Link};
use super::{ObjectCompression, S3Write};
use crate::json::json_text;

const PLAIN: &str = ".ndjson";
const GZIP: &str = ".ndjson.gz";

/// Writes objects.
pub struct S3Sink {
    link: S3Link,
    /// Before the names of producers.
    prefix: String,
    /// What the keys of objects end with, and what other objects would.
    suffixes: [&'static str; 2],
    compression: ObjectCompression,
    /// What the objects of this sink say it is called.
    writer: String,
    row: Option<ObjectRow>,
}

/// The objects of a producer, in a row.
struct ObjectRow {
    producer: Arc<str>,
    folder: String,
    /// The position behind the last one.
    known: Option<u64>,
    next: ObjectName,
    /// The position of an object that was sent, as long as it is not known whether it is there.
    open: Option<u64>,
}

/// The part of a key that tells a producer's objects apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ObjectName {
    /// The position behind the object before.
    from: u64,
    attempt: u32,
}

impl ObjectName {
    /// The name of an object whose key ends so.
    fn read(text: &str, suffix: &str) -> Option<ObjectName> {
        let (from, attempt) = text.strip_suffix(suffix)?.split_once('-')?;
        let digits = (from.len(), attempt.len());
        if digits != (POSITION_DIGITS, ATTEMPT_DIGITS) {
            return None;
        }
        Some(ObjectName {
            from: from.parse().ok()?,
            attempt: attempt.parse().ok()?,
        })
    }

    fn key(self, folder: &str, suffix: &str) -> String {
        format!(
            "{folder}{:0POSITION_DIGITS$}-{:0ATTEMPT_DIGITS$}{suffix}",
            self.from, self.attempt
        )
    }

    /// The name of the object behind one that reaches to a position.
    fn behind(self, position: u64) -> ObjectName {
        match position > self.from {
            true => ObjectName {
                from: position,
                attempt: 0,
            },
            false => ObjectName {
                from: self.from,
                attempt: self.attempt.saturating_add(1),
            },
        }
    }
}

impl S3Sink {
    /// # Errors
    /// *Transient*: the system has no random number.
    pub(super) fn new(link: S3Link, write: S3Write) -> Result<S3Sink, Error> {
        let mut random = [0; 8];
        SystemRandom::new()
            .fill(&mut random)
            .map_err(|_| Error::new(Class::Transient, "connect.failed-within"))?;
        Ok(S3Sink {
            link,
            prefix: write.prefix,
            suffixes: match write.compression {
                ObjectCompression::None => [PLAIN, GZIP],
                ObjectCompression::Gzip => [GZIP, PLAIN],
            },
            compression: write.compression,
            writer: format!("{:016x}", u64::from_le_bytes(random)),
            row: None,
        })
    }

    /// What the keys of a producer's objects begin with: its name with `/` in the place of `:`.
    fn folder(&self, producer: &str) -> String {
        let mut folder = self.prefix.clone();
        for part in producer.split(':') {
            Escape::Percent.write(part, &mut folder);
            folder.push('/');
        }
        folder
    }

    async fn deliver(&mut self, delivery: &Delivery) -> Result<Written, Error> {
        let mut written = Written::default();
        let payloads = delivery.events.payloads();
        let mut body = Vec::new();
        for row in 0..delivery.events.rows() {
            match json_text(payloads.value(row)) {
                Ok(text) => {
                    body.extend_from_slice(&text);
                    body.push(b'\n');
                }
                Err(error) => written.rejected.push((row, error)),
            }
        }
        let position = delivery.position;
        let mut row = match self.row.take() {
            Some(row)
                if row.producer == delivery.producer
                    // Another delivery came before it, and may be there.
                    && row.open.is_none_or(|open| open == position) =>
            {
                row
            }
            _ => self.begin(&delivery.producer).await?,
        };
        // Already there. What is put again would be the same.
        if row.known.is_some_and(|known| known >= position) && delivery.first == 0 {
            self.row = Some(row);
            return Ok(written);
        }
        let mark = ObjectMark {
            position,
            writer: self.writer.clone(),
        };
        row.open = Some(position);
        // Kept when this is given up.
        let row = self.row.insert(row);
        let body = match self.compression {
            ObjectCompression::None => Bytes::from(body),
            ObjectCompression::Gzip => compressed(&body),
        };
        let mut tries = 0;
        loop {
            // A delivery of which nothing is left is noted too.
            let key = row.next.key(&row.folder, self.suffixes[0]);
            if self.link.create(&key, &mark, body.clone()).await? {
                break;
            }
            let there = self.link.mark(&key).await?;
            if there == mark {
                break;
            }
            if there.position > row.next.from {
                return Err(Error::new(Class::Configuration, "s3.taken")
                    .with("bucket", &self.link.bucket)
                    .with("key", &key));
            }
            tries += 1;
            if tries >= CREATE_TRIES_MAX {
                // The next try finds the last one by the list.
                self.row = None;
                return Err(self.link.taken_for_now(&key));
            }
            // An empty one: a new version of the flow, which has not taken over, looks how far this one is.
            row.next = row.next.behind(there.position);
        }
        row.open = None;
        row.known = Some(position);
        row.next = row.next.behind(position);
        Ok(written)
    }

    /// Finds the last object of a producer, and makes sure that no request from before adds another one.
    async fn begin(&self, producer: &Arc<str>) -> Result<ObjectRow, Error> {
        let folder = self.folder(producer);
        let mut next = ObjectName {
            from: 0,
            attempt: 0,
        };
        let key_bytes = next.key(&folder, self.suffixes[0]).len();
        if key_bytes > KEY_BYTES_MAX {
            return Err(Error::new(Class::Configuration, "s3.key-long")
                .with("key", next.key(&folder, self.suffixes[0]))
                .with("most", KEY_BYTES_MAX));
        }
        if let Some(last) = self.last(&folder).await? {
            next = last.behind(
                self.link
                    .mark(&last.key(&folder, self.suffixes[0]))
                    .await?
                    .position,
            );
        }
        for _ in 0..CREATE_TRIES_MAX {
            let key = next.key(&folder, self.suffixes[0]);
            let mark = ObjectMark {
                position: next.from,
                writer: self.writer.clone(),
            };
            if self.link.create(&key, &mark, Bytes::new()).await? {
                // Nothing is lost if it is replaced, and nothing else may be.
                if self.link.create(&key, &mark, Bytes::new()).await? {
                    return Err(self.link.no_conditions(&key));
                }
                return Ok(ObjectRow {
                    producer: Arc::clone(producer),
                    folder,
                    known: Some(next.from).filter(|position| *position > 0),
                    next: next.behind(next.from),
                    open: None,
                });
            }
            // It came meanwhile.
            next = next.behind(self.link.mark(&key).await?.position);
        }
        Err(self.link.always_there(&next.key(&folder, self.suffixes[0])))
    }

    /// The name of a producer's last object, or of one not far before it. Asks the service about sixty times where there are
    /// more objects than one list holds.
    async fn last(&self, folder: &str) -> Result<Option<ObjectName>, Error> {
        let listed = async |after: Option<u64>| {
            let after = after.map(|position| format!("{folder}{position:0POSITION_DIGITS$}~"));
            let (objects, more) = self
                .link
                .list(folder, &after.unwrap_or_default(), true)
                .await?;
            let named = |suffix| {
                let names = objects.iter().filter_map(move |object| {
                    let name = object.key.strip_prefix(folder)?;
                    ObjectName::read(name, suffix)
                });
                names.max()
            };
            let [ours, others] = self.suffixes.map(named);
            // A request of the process before might still add one of those.
            if let Some(other) = others {
                return Err(Error::new(Class::Configuration, "s3.other-compression")
                    .with("bucket", &self.link.bucket)
                    .with("key", other.key(folder, self.suffixes[1])));
            }
            Ok::<_, Error>((ours, more))
        };
        let (mut found, more) = listed(None).await?;
        let Some(first) = found.filter(|_| more) else {
            return Ok(found);
        };
        // There is one from `greatest` on; behind `beyond` there is none.
        let (mut greatest, mut beyond) = (first.from, u64::MAX);
        while greatest < beyond {
            let after = greatest + (beyond - greatest) / 2;
            match listed(Some(after)).await? {
                (None, _) => beyond = after,
                (Some(name), more) => {
                    found = Some(name);
                    if !more {
                        break;
                    }
                    greatest = name.from;
                }
            }
        }
        Ok(found)
    }
}

impl Sink for S3Sink {
    fn write<'a>(&'a mut self, delivery: &'a Delivery) -> Work<'a, Result<Written, Error>> {
        Box::pin(self.deliver(delivery))
    }

    fn position<'a>(&'a mut self, producer: &'a str) -> Work<'a, Result<Option<u64>, Error>> {
        Box::pin(async move {
            self.row = None;
            let row = self.begin(&producer.into()).await?;
            Ok(self.row.insert(row).known)
        })
    }
}
