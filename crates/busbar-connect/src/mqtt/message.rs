//! Messages of another broker as events, and rows as messages.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use busbar_event::limits::TAGS_MAX;
use busbar_event::tags::{HOPS, escape, unescape};
use busbar_event::{Batch, Flags, Micros, reserved, topic};
use busbar_mqtt::property::{Writer, id};
use busbar_mqtt::{Publish, Version};
use tokio::sync::OwnedSemaphorePermit;

use crate::topic::fitting;

/// A message, copied out of the read buffer.
pub struct Message {
    pub topic: String,
    pub flags: Flags,
    pub packet_id: u16,
    pub tags: Vec<(String, String)>,
    pub payload: Vec<u8>,
    /// Its permits of the bytes that may wait.
    pub room: Option<OwnedSemaphorePermit>,
}

impl Message {
    pub fn read(
        publish: &Publish<'_>,
        version: Version,
        now: Micros,
    ) -> busbar_mqtt::Result<Message> {
        let mut tags: Vec<(String, String)> = Vec::new();
        let mut text_payload = false;
        if version == Version::V5 {
            let properties = publish.parse_properties()?;
            text_payload = properties.text_payload;
            let mut add = |name: &str, value: String| tags.push((name.to_owned(), value));
            if let Some(text) = properties.content_type {
                add(reserved::CONTENT_TYPE, text.to_owned());
            }
            if let Some(text) = properties.response_topic {
                add(reserved::REPLY_TO, text.to_owned());
            }
            if let Some(data) = properties.correlation {
                add(reserved::CORRELATION_DATA, BASE64.encode(data));
            }
            if let Some(s) = properties.expiry_s {
                let at = now.saturating_add(i64::from(s) * 1_000_000);
                add(reserved::EXPIRES_AT, at.to_string());
            }
        }
        let reserved = !tags.is_empty();
        let mut topic = publish.topic_text()?.to_owned();
        if topic::check(&topic).is_err() {
            let fitting = fitting(&topic);
            tags.push(("original-topic".to_owned(), topic));
            topic = fitting;
        }
        if version == Version::V5 {
            let room = TAGS_MAX.saturating_sub(tags.len());
            let mut properties = publish.user_properties();
            let user = properties.by_ref().take(room);
            tags.extend(user.map(|(name, value)| (escape(name).into_owned(), value.to_owned())));
            if properties.next().is_some() {
                tracing::warn!(%topic, "a message has more than {TAGS_MAX} user properties; the rest is left out");
            }
        }
        Ok(Message {
            topic,
            flags: Flags::default()
                .with_qos(publish.qos)
                .with_retain(publish.retain)
                .with_utf8(text_payload)
                .with_reserved_tags(reserved),
            packet_id: publish.packet_id,
            tags,
            payload: publish.payload.to_vec(),
            room: None,
        })
    }

    /// Approximate size in memory, in bytes.
    pub fn bytes(&self) -> usize {
        let tags: usize = self.tags.iter().map(|(n, v)| n.len() + v.len()).sum();
        self.topic.len() + self.payload.len() + tags
    }
}

/// Whether the message expiry of a row has passed.
pub fn is_expired(batch: &Batch, row: usize, now: Micros) -> bool {
    expires_at(batch, row).is_some_and(|at| at <= now)
}

fn expires_at(batch: &Batch, row: usize) -> Option<Micros> {
    let mut tags = batch.tags(row);
    let tag = tags.find(|(name, _)| *name == reserved::EXPIRES_AT)?;
    tag.1.parse().ok()
}

/// Number of bridges that a row has passed.
pub fn hops(batch: &Batch, row: usize) -> u32 {
    let mut tags = batch.tags(row);
    let tag = tags.find(|(name, _)| *name == HOPS);
    tag.and_then(|(_, hops)| hops.parse().ok()).unwrap_or(0)
}

/// Appends the properties that a row's flags and tags stand for, and the number of bridges passed.
pub fn write_properties(batch: &Batch, row: usize, now: Micros, hops: u32, out: &mut Vec<u8>) {
    let mut w = Writer(out);
    if Flags(batch.flags()[row]).utf8() {
        w.byte(id::PAYLOAD_FORMAT, 1);
    }
    if let Some(at) = expires_at(batch, row) {
        let left_s = at.saturating_sub(now).saturating_add(999_999) / 1_000_000;
        w.four(
            id::MESSAGE_EXPIRY,
            left_s.clamp(0, i64::from(u32::MAX)) as u32,
        );
    }
    w.pair(HOPS, &hops.to_string());
    for (name, value) in batch.tags(row) {
        match (unescape(name), name) {
            (Some(_), HOPS) => {}
            (Some(name), _) => w.pair(name, value),
            (None, reserved::CONTENT_TYPE) => w.binary(id::CONTENT_TYPE, value.as_bytes()),
            (None, reserved::REPLY_TO) => w.binary(id::RESPONSE_TOPIC, value.as_bytes()),
            (None, reserved::CORRELATION_DATA) => {
                if let Ok(data) = BASE64.decode(value) {
                    w.binary(id::CORRELATION_DATA, &data);
                }
            }
            _ => {}
        }
    }
}
