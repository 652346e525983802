//! From a publish to an event, and from a row to a packet.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use busbar_event::tags::{escape, unescape};
use busbar_event::{ARRIVAL, Batch, Flags, Micros, reserved};
use busbar_mqtt::control::Will;
use busbar_mqtt::property::{Writer, id};
use busbar_mqtt::{Publish, PublishProperties};

use crate::conn::OwnedEvent;

/// Flags of a publish.
pub fn flags(qos: u8, retain: bool, text: bool, reserved: bool) -> Flags {
    Flags::default()
        .with_qos(qos)
        .with_retain(retain)
        .with_utf8(text)
        .with_reserved_tags(reserved)
}

/// Appends the tags that the properties of a publish stand for; whether one has a reserved name.
pub fn tags_of(
    publish: &Publish<'_>,
    properties: &PublishProperties<'_>,
    now: Micros,
    tags: &mut Vec<(String, String)>,
) -> bool {
    reserved_tags(
        properties.content_type,
        properties.response_topic,
        properties.correlation,
        properties.expiry_s,
        now,
        tags,
    );
    let reserved = !tags.is_empty();
    if properties.has_user {
        for (name, value) in publish.user_properties() {
            tags.push((escape(name).into_owned(), value.to_owned()));
        }
    }
    reserved
}

fn reserved_tags(
    content_type: Option<&str>,
    response_topic: Option<&str>,
    correlation: Option<&[u8]>,
    expiry_s: Option<u32>,
    now: Micros,
    tags: &mut Vec<(String, String)>,
) {
    let mut add = |name: &str, value: String| tags.push((name.to_owned(), value));
    if let Some(text) = content_type {
        add(reserved::CONTENT_TYPE, text.to_owned());
    }
    if let Some(text) = response_topic {
        add(reserved::REPLY_TO, text.to_owned());
    }
    if let Some(data) = correlation {
        add(reserved::CORRELATION_DATA, BASE64.encode(data));
    }
    if let Some(s) = expiry_s {
        add(
            reserved::EXPIRES_AT,
            (now + i64::from(s) * 1_000_000).to_string(),
        );
    }
}

/// The event that a will becomes.
pub fn event_of_will(will: &Will, now: Micros) -> OwnedEvent {
    let mut tags = Vec::new();
    reserved_tags(
        will.content_type.as_deref(),
        will.response_topic.as_deref(),
        will.correlation.as_deref(),
        will.expiry_s,
        now,
        &mut tags,
    );
    let reserved = !tags.is_empty();
    tags.extend(
        will.user
            .iter()
            .map(|(n, v)| (escape(n).into_owned(), v.clone())),
    );
    OwnedEvent {
        topic: will.topic.clone(),
        flags: flags(will.qos, will.retain, will.text_payload, reserved),
        tags,
        payload: will.payload.clone(),
        time: ARRIVAL,
    }
}

/// Whether a row is past its expiry.
pub fn is_expired(batch: &Batch, row: usize, now: Micros) -> bool {
    Flags(batch.flags()[row]).reserved_tags()
        && batch
            .tags(row)
            .find(|(name, _)| *name == reserved::EXPIRES_AT)
            .and_then(|(_, at)| at.parse::<Micros>().ok())
            .is_some_and(|at| at <= now)
}

/// Appends the properties that a row's flags and tags stand for.
pub fn write_row_properties(batch: &Batch, row: usize, now: Micros, out: &mut Vec<u8>) {
    let flags = Flags(batch.flags()[row]);
    let mut w = Writer(out);
    if flags.utf8() {
        w.byte(id::PAYLOAD_FORMAT, 1);
    }
    if !batch.has_tags() {
        return;
    }
    for (name, value) in batch.tags(row) {
        if let Some(name) = unescape(name) {
            w.pair(name, value);
            continue;
        }
        match name {
            reserved::CONTENT_TYPE => w.binary(id::CONTENT_TYPE, value.as_bytes()),
            reserved::REPLY_TO => w.binary(id::RESPONSE_TOPIC, value.as_bytes()),
            reserved::CORRELATION_DATA => {
                if let Ok(data) = BASE64.decode(value) {
                    w.binary(id::CORRELATION_DATA, &data);
                }
            }
            reserved::EXPIRES_AT => {
                if let Ok(at) = value.parse::<Micros>() {
                    let left_s = (at - now + 999_999).div_euclid(1_000_000);
                    w.four(
                        id::MESSAGE_EXPIRY,
                        left_s.clamp(0, i64::from(u32::MAX)) as u32,
                    );
                }
            }
            _ => {}
        }
    }
}
