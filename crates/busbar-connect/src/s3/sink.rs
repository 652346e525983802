//! Writes each delivery as an object whose key says who wrote it and how far it reaches.

use std::sync::Arc;

use busbar_connector::{Delivery, Escape, Sink, Work, Written};
use busbar_event::{Class, Error};
use bytes::Bytes;

use super::limits::{KEY_BYTES_MAX, POSITION_DIGITS};
use super::link::S3Link;
use crate::json::json_text;

/// Writes objects.
pub struct S3Sink {
    link: S3Link,
    /// Before the names of producers.
    prefix: String,
    /// The producer whose position is known, and that position.
    known: Option<(Arc<str>, Option<u64>)>,
}

impl S3Sink {
    pub(super) fn new(link: S3Link, prefix: String) -> S3Sink {
        S3Sink {
            link,
            prefix,
            known: None,
        }
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
        let producer = &delivery.producer;
        let known = match &self.known {
            Some((of, position)) if of == producer => *position,
            _ => self.last(producer).await?,
        };
        // Already there. What is put again would be the same.
        if known.is_some_and(|known| known >= delivery.position) && delivery.first == 0 {
            self.known = Some((Arc::clone(producer), known));
            return Ok(written);
        }
        // A delivery of which nothing is left is noted too.
        let folder = self.folder(producer);
        let part = match delivery.first {
            0 => String::new(),
            first => format!("-{first:010}"),
        };
        let key = format!("{folder}{:020}{part}.ndjson", delivery.position);
        if key.len() > KEY_BYTES_MAX {
            return Err(Error::new(Class::Configuration, "s3.key-long")
                .with("key", &key)
                .with("most", KEY_BYTES_MAX));
        }
        // Not known while it is being written: a call that is given up may have written it.
        self.known = None;
        self.link.put(&key, Bytes::from(body)).await?;
        self.known = Some((Arc::clone(producer), Some(delivery.position)));
        Ok(written)
    }

    /// The greatest position in the keys of a producer. Asks the service about sixty times where there are more objects than
    /// one list holds.
    async fn last(&self, producer: &str) -> Result<Option<u64>, Error> {
        let folder = self.folder(producer);
        let key = |position: u64| match position {
            0 => String::new(),
            position => format!("{folder}{position:020}~"),
        };
        let (mut greatest, mut beyond) = (0, u64::MAX);
        let mut found = None;
        // `greatest` is there; behind `beyond` there is nothing.
        let mut after = 0;
        while greatest < beyond {
            let (objects, more) = self.link.list(&folder, &key(after), true).await?;
            let last = objects.iter().filter_map(|object| {
                let name = object.key.strip_prefix(&folder)?;
                name.get(..POSITION_DIGITS)?.parse::<u64>().ok()
            });
            match last.max() {
                None => beyond = after,
                Some(position) => {
                    found = found.max(Some(position));
                    greatest = position;
                    if !more {
                        break;
                    }
                }
            }
            after = greatest + (beyond - greatest) / 2;
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
            let last = self.last(producer).await?;
            self.known = Some((producer.into(), last));
            Ok(last)
        })
    }
}
