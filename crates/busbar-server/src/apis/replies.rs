//! Request and reply over events: who waits for a reply, and the readers that hand replies out.
//!
//! A request is on the disk before anybody waits for its reply, and the reply is an event of its stream like any other. So
//! after a crash, or when the caller's time is over, both are still there; only the caller's connection is gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use busbar_bus::{Cursor, Item};
use busbar_catalog::ApiRequest;
use busbar_event::format::{JsonParts, json_unquote};
use busbar_event::tags::{REQUEST, reserved};
use busbar_event::{Batch, Class, Error, quote};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::late::api_digits;
use crate::limits::{API_WAITS_MAX, REPLY_RETRY_MILLIS};

/// An event that replies to a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiReply {
    /// The media type of the payload, where its sender said one.
    pub(crate) content_type: Option<String>,
    pub(crate) payload: Bytes,
}

impl ApiReply {
    /// An event as a reply.
    pub(crate) fn of(batch: &Batch, row: usize) -> ApiReply {
        let mut tags = batch.tags(row);
        let content_type = tags.find(|(name, _)| *name == reserved::CONTENT_TYPE);
        ApiReply {
            content_type: content_type.map(|(_, kind)| kind.to_owned()),
            payload: Bytes::from(batch.event(row).payload.into_owned()),
        }
    }

    /// The status that the reply says.
    ///
    /// # Errors
    /// *Permanent*: it is none from 200 to 599.
    pub(crate) fn status(&self, request: &ApiRequest) -> Result<StatusCode, Error> {
        let Some(said) = self.field(request.status.as_deref()) else {
            return Ok(StatusCode::OK);
        };
        let number = said.parse().ok().filter(|code| (200..=599).contains(code));
        let status = number.and_then(|code: u16| StatusCode::from_u16(code).ok());
        status.ok_or_else(|| {
            Error::new(Class::Permanent, "server.api-status")
                .with("field", request.status.as_deref().unwrap_or_default())
                .with("value", quote(&said))
        })
    }

    /// What the payload says in a field, as text; none where it is null or missing, or the payload is no JSON.
    pub(crate) fn field(&self, name: Option<&str>) -> Option<String> {
        let (name, text) = (name?, std::str::from_utf8(&self.payload).ok()?);
        let mut found = None;
        let walked = JsonParts::new(text).object(|key, place| {
            if json_unquote(key).is_some_and(|key| key == name) {
                let value = &text[place];
                let unquoted = json_unquote(value).map(|value| value.into_owned());
                found = unquoted.or_else(|| (value != "null").then(|| value.to_owned()));
            }
        });
        walked.ok().and(found)
    }
}

/// Requests that wait for replies.
pub(crate) struct ReplyWaits {
    /// What the identifiers of this run of the node begin with.
    run: String,
    waiting: Mutex<HashMap<String, oneshot::Sender<ApiReply>>>,
    /// The fields that payloads say their request in, by stream.
    fields: Mutex<BTreeMap<String, Arc<BTreeSet<String>>>>,
    answered: AtomicU64,
    late: AtomicU64,
}

/// A request that waits. Dropping it ends the wait.
pub(crate) struct ReplyWait {
    /// What identifies the request. It cannot be guessed, so that nobody replies who has not seen the request.
    pub(crate) id: String,
    reply: oneshot::Receiver<ApiReply>,
    waits: Arc<ReplyWaits>,
}

impl ReplyWaits {
    pub(crate) fn new() -> Result<ReplyWaits, Error> {
        Ok(ReplyWaits {
            run: random::<8>()?,
            waiting: Mutex::default(),
            fields: Mutex::default(),
            answered: AtomicU64::new(0),
            late: AtomicU64::new(0),
        })
    }

    /// Waits for the reply to a request of an API that is not yet published, and is made at `now`, in microseconds since 1970.
    ///
    /// # Errors
    /// When [`API_WAITS_MAX`] wait already.
    pub(crate) fn begin(self: &Arc<Self>, api: &str, now: i64) -> Result<ReplyWait, Error> {
        // The time says from where on the reply is looked for when it comes late.
        let (time, random) = (now.max(0), random::<12>()?);
        let id = format!("{}-{time:x}-{random}{}", self.run, api_digits(api));
        let (sender, reply) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if waiting.len() >= API_WAITS_MAX {
            return Err(
                Error::new(Class::Transient, "server.api-waits").with("most", API_WAITS_MAX)
            );
        }
        waiting.insert(id.clone(), sender);
        Ok(ReplyWait {
            id,
            reply,
            waits: Arc::clone(self),
        })
    }

    pub(crate) fn set_fields(&self, fields: BTreeMap<String, BTreeSet<String>>) {
        let fields = fields.into_iter();
        *self.fields.lock() = fields.map(|(name, set)| (name, Arc::new(set))).collect();
    }

    /// Ends all waits.
    pub(crate) fn clear(&self) {
        self.waiting.lock().clear();
    }

    fn fields_of(&self, stream: &str) -> Arc<BTreeSet<String>> {
        self.fields.lock().get(stream).cloned().unwrap_or_default()
    }

    /// Hands the replies of a batch out. The first reply to a request is its answer; one to a request of this run that nobody
    /// waits for is late, and counted.
    fn take(&self, batch: &Batch, fields: &BTreeSet<String>) {
        if fields.is_empty() && !batch.has_tags() {
            return;
        }
        for row in 0..batch.rows() {
            let is_own = |id: &str| id.starts_with(&self.run);
            let Some(id) = request_of(batch, row, fields, is_own) else {
                continue;
            };
            let Some(sender) = self.waiting.lock().remove(&id) else {
                self.late.fetch_add(1, Ordering::Relaxed);
                tracing::info!(request = id, "a reply is late: nobody waits for it");
                continue;
            };
            // Whoever waited may have gone just now.
            match sender.send(ApiReply::of(batch, row)) {
                Ok(()) => self.answered.fetch_add(1, Ordering::Relaxed),
                Err(_) => self.late.fetch_add(1, Ordering::Relaxed),
            };
        }
    }
}

impl ReplyWait {
    /// The reply; none when the time is over or the node stops.
    pub(crate) async fn reply(&mut self, time: Duration) -> Option<ApiReply> {
        let reply = tokio::time::timeout(time, &mut self.reply).await;
        reply.ok().and_then(Result::ok)
    }
}

impl Drop for ReplyWait {
    fn drop(&mut self) {
        self.waits.waiting.lock().remove(&self.id);
    }
}

/// Reads the replies of one partition.
pub(crate) struct ReplyReader {
    pub(crate) stream: String,
    pub(crate) cursor: Cursor,
    pub(crate) waits: Arc<ReplyWaits>,
}

impl ReplyReader {
    pub(crate) async fn run(mut self) {
        loop {
            match self.cursor.next().await {
                Ok(Item::Chunk(chunk)) => {
                    let fields = self.waits.fields_of(&self.stream);
                    self.waits.take(&chunk.batch, &fields);
                }
                Ok(Item::Gap(gap)) => {
                    tracing::error!(
                        stream = self.stream, from = gap.from, to = gap.resume, cause = %gap.cause,
                        "replies are lost"
                    );
                }
                Err(error) => {
                    tracing::warn!(stream = self.stream, %error, "replies cannot be read");
                    tokio::time::sleep(Duration::from_millis(REPLY_RETRY_MILLIS)).await;
                }
            }
        }
    }
}

/// The request that an event replies to, by its tags or by one of the fields of its payload, if it is one that is `wanted`.
pub(super) fn request_of(
    batch: &Batch,
    row: usize,
    fields: &BTreeSet<String>,
    wanted: impl Fn(&str) -> bool,
) -> Option<String> {
    let by_tag = batch.tags(row).find_map(|(name, value)| match name {
        REQUEST => Some(value.to_owned()),
        reserved::CORRELATION_DATA => {
            let bytes = STANDARD.decode(value).ok()?;
            String::from_utf8(bytes).ok()
        }
        _ => None,
    });
    by_tag.filter(|id| wanted(id)).or_else(|| {
        if fields.is_empty() {
            return None;
        }
        by_field(batch.payloads().value(row), fields).filter(|id| wanted(id))
    })
}

/// The text in the first of the fields that a JSON object has.
fn by_field(payload: &[u8], fields: &BTreeSet<String>) -> Option<String> {
    let text = std::str::from_utf8(payload).ok()?;
    let mut found = None;
    let walked = JsonParts::new(text).object(|key, place| {
        if found.is_none() && json_unquote(key).is_some_and(|key| fields.contains(&*key)) {
            found = json_unquote(&text[place]).map(|value| value.into_owned());
        }
    });
    walked.ok().and(found)
}

/// Random bytes in hexadecimal digits.
pub(crate) fn random<const N: usize>() -> Result<String, Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|cause| Error::new(Class::Transient, "server.no-random").caused_by(cause))?;
    let mut text = String::with_capacity(2 * N);
    for byte in bytes {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use busbar_event::{BatchBuilder, Flags, Row};

    use super::*;

    fn batch(tags: &[(&str, &str)], payload: &str) -> Batch {
        let mut builder = BatchBuilder::new();
        let topic = builder.topic_id("a/reply");
        builder.push(Row {
            topic,
            key: None,
            time: 0,
            client: None,
            flags: Flags::default(),
            tags,
            payload: payload.as_bytes(),
        });
        builder.finish()
    }

    #[tokio::test]
    async fn a_reply_is_known_by_tag_by_correlation_data_and_by_field() {
        let waits = Arc::new(ReplyWaits::new().unwrap());
        let fields = BTreeSet::from(["re".to_owned()]);
        for way in 0..3 {
            let mut wait = waits.begin("a", 1).unwrap();
            let id = wait.id.clone();
            let encoded = STANDARD.encode(&id);
            let of_another = "00-11".to_owned();
            let event = match way {
                0 => batch(&[(REQUEST, &id)], "1"),
                1 => batch(&[(reserved::CORRELATION_DATA, &encoded)], "1"),
                // A tag of another bridge does not hide the field.
                _ => batch(
                    &[(REQUEST, &of_another)],
                    &format!("{{\"x\":1,\"re\":\"{id}\"}}"),
                ),
            };
            waits.take(&event, &fields);
            assert!(wait.reply(Duration::from_secs(60)).await.is_some(), "{way}");
            // The first reply is the answer; another one is late.
            waits.take(&event, &fields);
            assert_eq!(waits.late.load(Ordering::Relaxed), way + 1);
        }
        assert_eq!(waits.answered.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_wait_that_ends_leaves_nothing_behind() {
        let waits = Arc::new(ReplyWaits::new().unwrap());
        let mut wait = waits.begin("a", 1).unwrap();
        assert_eq!(wait.reply(Duration::from_millis(1)).await, None);
        let id = wait.id.clone();
        drop(wait);
        assert!(waits.waiting.lock().is_empty());
        waits.take(&batch(&[(REQUEST, &id)], "1"), &BTreeSet::new());
        assert_eq!(waits.late.load(Ordering::Relaxed), 1);
        // A reply to nobody of this run is none.
        waits.take(&batch(&[(REQUEST, "00-11")], "1"), &BTreeSet::new());
        assert_eq!(waits.late.load(Ordering::Relaxed), 1);
    }
}
