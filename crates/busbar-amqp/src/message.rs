//! Properties and tags: what of a message's header becomes a tag of its event, and the way back.
//!
//! | property | kept as |
//! | --- | --- |
//! | delivery-mode 2, 1 | quality of service 1, 0 |
//! | content-type, reply-to, correlation-id | the tags that MQTT 5.0 uses too |
//! | expiration | the time at which it is over, which MQTT uses too, and its text |
//! | a header with text | a tag of that name |
//! | a header with a number, a boolean or a time | a tag of that name, and [`HEADERS`] |
//! | another header | [`HEADERS`] |
//! | the others | a reserved tag each |

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use busbar_event::tags::{escape, unescape};
use busbar_event::{Batch, Flags, Micros, reserved};

use crate::codec::table::put_short;
use crate::codec::{BasicProperties, FieldTable, FieldValue, TableWriter, WireReader};
use crate::fault::AmqpFault;
use crate::limits::TAG_BYTES_MAX;
use crate::mapping;

/// Tag: the routing key, where the topic cannot say it.
pub const ROUTING_KEY: &str = "$routing-key";
/// Tag: headers that are not text, as a field table in base64.
pub const HEADERS: &str = "$amqp-headers";
/// Tag: `content-encoding`.
pub const CONTENT_ENCODING: &str = "$content-encoding";
/// Tag: `priority`.
pub const PRIORITY: &str = "$priority";
/// Tag: `expiration`, as it was given.
pub const EXPIRATION: &str = "$expiration";
/// Tag: `message-id`.
pub const MESSAGE_ID: &str = "$message-id";
/// Tag: `timestamp`, in seconds.
pub const TIMESTAMP: &str = "$timestamp";
/// Tag: `type`.
pub const TYPE: &str = "$type";
/// Tag: `user-id`.
pub const USER_ID: &str = "$user-id";
/// Tag: `app-id`.
pub const APP_ID: &str = "$app-id";
/// Tag: `cluster-id`.
pub const CLUSTER_ID: &str = "$cluster-id";
/// What a correlation identifier begins with whose bytes are no text.
const BASE64_MARK: &str = "base64:";

/// Names and values.
pub type OwnedTags = Vec<(String, String)>;

/// Appends the tags that the properties stand for. True when one of them has a reserved name.
///
/// # Errors
/// 406 when a value is longer than a tag may be, or `expiration` is no number.
pub fn write_tags(
    p: &BasicProperties<'_>,
    prefix: &str,
    now: Micros,
    tags: &mut OwnedTags,
) -> Result<bool, AmqpFault> {
    let mut add = |name: &str, value: &str| tags.push((name.to_owned(), value.to_owned()));
    for (name, value) in [
        (reserved::CONTENT_TYPE, p.content_type),
        (CONTENT_ENCODING, p.content_encoding),
        (EXPIRATION, p.expiration),
        (MESSAGE_ID, p.message_id),
        (TYPE, p.kind),
        (USER_ID, p.user_id),
        (APP_ID, p.app_id),
        (CLUSTER_ID, p.cluster_id),
    ] {
        if let Some(value) = value {
            add(name, value);
        }
    }
    if let Some(reply_to) = p.reply_to {
        add(
            reserved::REPLY_TO,
            &mapping::topic_of_reply(prefix, reply_to),
        );
    }
    if let Some(id) = p.correlation_id {
        let bytes = id
            .strip_prefix(BASE64_MARK)
            .and_then(|text| BASE64.decode(text).ok());
        let bytes = bytes.unwrap_or_else(|| id.as_bytes().to_vec());
        add(reserved::CORRELATION_DATA, &BASE64.encode(bytes));
    }
    if let Some(text) = p.expiration {
        let ms: i64 = text.parse().ok().filter(|ms| *ms >= 0).ok_or_else(|| {
            AmqpFault::precondition(format!(
                "invalid expiration '{text}': not a number of milliseconds"
            ))
        })?;
        let at = now.saturating_add(ms.saturating_mul(1000));
        add(reserved::EXPIRES_AT, &at.to_string());
    }
    if let Some(priority) = p.priority {
        add(PRIORITY, &priority.to_string());
    }
    if let Some(seconds) = p.timestamp {
        add(TIMESTAMP, &seconds.to_string());
    }
    let mut has_reserved = !tags.is_empty();
    if let Some(headers) = p.headers {
        let mut others = Vec::new();
        for (name, value) in headers.iter() {
            let text = value.to_tag();
            if !matches!(value, FieldValue::Text(_)) || text.is_none() {
                put_short(&mut others, name);
                crate::codec::table::put_value(&mut others, &value);
            }
            if let Some(text) = text {
                tags.push((escape(name).into_owned(), text));
            }
        }
        if !others.is_empty() {
            has_reserved = true;
            tags.push((HEADERS.to_owned(), BASE64.encode(others)));
        }
    }
    if tags.iter().any(|(_, value)| value.len() > TAG_BYTES_MAX) {
        return Err(AmqpFault::precondition(format!(
            "a header is longer than {TAG_BYTES_MAX} bytes"
        )));
    }
    Ok(has_reserved)
}

/// The flags of an event with these properties.
pub fn flags(p: &BasicProperties<'_>, has_reserved: bool) -> Flags {
    Flags::default()
        .with_qos(u8::from(p.delivery_mode == Some(2)))
        .with_reserved_tags(has_reserved)
}

/// Appends the encoded properties of a row, as a consumer in the virtual host of `prefix` sees them.
pub fn write_properties(batch: &Batch, row: usize, prefix: &str, out: &mut Vec<u8>) {
    let flags = Flags(batch.flags()[row]);
    let delivery_mode = if flags.qos() > 0 { 2 } else { 1 };
    if !batch.has_tags() || batch.tags(row).len() == 0 {
        // 0x1000 is the flag of delivery-mode.
        out.extend_from_slice(&[0x10, 0, delivery_mode]);
        return;
    }
    let mut texts = Vec::new();
    let (mut reply_to, mut correlation, mut table) = (None, None, None);
    let mut p = BasicProperties {
        delivery_mode: Some(delivery_mode),
        ..Default::default()
    };
    for (name, value) in batch.tags(row) {
        if let Some(name) = unescape(name) {
            texts.push((name, value));
            continue;
        }
        match name {
            reserved::CONTENT_TYPE => p.content_type = Some(value),
            reserved::REPLY_TO => reply_to = Some(mapping::reply_of_topic(prefix, value)),
            reserved::CORRELATION_DATA => correlation = BASE64.decode(value).ok(),
            CONTENT_ENCODING => p.content_encoding = Some(value),
            EXPIRATION => p.expiration = Some(value),
            MESSAGE_ID => p.message_id = Some(value),
            TYPE => p.kind = Some(value),
            USER_ID => p.user_id = Some(value),
            APP_ID => p.app_id = Some(value),
            CLUSTER_ID => p.cluster_id = Some(value),
            PRIORITY => p.priority = value.parse().ok(),
            // AMQP 1.0 has milliseconds, behind a point.
            TIMESTAMP => p.timestamp = value.split('.').next().and_then(|s| s.parse().ok()),
            HEADERS => table = BASE64.decode(value).ok(),
            _ => {}
        }
    }
    let correlation = correlation.map(|bytes| match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(other) => format!("{BASE64_MARK}{}", BASE64.encode(other.as_bytes())),
    });
    p.correlation_id = correlation.as_deref();
    p.reply_to = reply_to.as_deref();
    let typed = table
        .as_deref()
        .and_then(|bytes| FieldTable::check(bytes).ok());
    let typed = typed.unwrap_or_default();
    let mut headers = Vec::new();
    let mut writer = TableWriter::begin(&mut headers);
    for (name, value) in texts {
        if typed.get(name).is_none() {
            writer.text(name, value);
        }
    }
    writer.raw(typed.bytes());
    writer.end();
    if headers.len() > 4 {
        p.headers = FieldTable::check(&headers[4..]).ok();
    }
    p.write(out);
}

/// A header of a row: the text of its tag.
pub fn header_of<'a>(batch: &'a Batch, row: usize, name: &str) -> Option<&'a str> {
    batch
        .tags(row)
        .find(|(tag, _)| unescape(tag) == Some(name))
        .map(|(_, value)| value)
}

/// The reserved tag of that name.
pub fn reserved_tag<'a>(batch: &'a Batch, row: usize, name: &str) -> Option<&'a str> {
    if !Flags(batch.flags()[row]).reserved_tags() {
        return None;
    }
    batch
        .tags(row)
        .find(|(tag, _)| *tag == name)
        .map(|(_, v)| v)
}

/// When a row is over, if it says so.
pub fn expires_at(batch: &Batch, row: usize) -> Option<Micros> {
    reserved_tag(batch, row, reserved::EXPIRES_AT)?.parse().ok()
}

/// The headers that are not text, from their tag; none if it holds something else.
pub fn decode_headers(tag: &str) -> Vec<u8> {
    let bytes = BASE64.decode(tag).unwrap_or_default();
    match FieldTable::check(&bytes) {
        Ok(_) => bytes,
        Err(_) => Vec::new(),
    }
}

/// The tag value for headers that are not text.
pub fn encode_headers(fields: &[u8]) -> String {
    BASE64.encode(fields)
}

/// Reads the properties of a content header's payload; also the length of the body.
///
/// # Errors
/// 502 when it is not well formed.
pub fn read_header(payload: &[u8]) -> Result<(u64, BasicProperties<'_>, &[u8]), AmqpFault> {
    let mut r = WireReader::new(payload);
    let class = r.u16()?;
    if class != 60 {
        return Err(AmqpFault::unexpected_frame(format!(
            "expected content header for class 60, got one for class {class} instead"
        )));
    }
    r.u16()?;
    let len = r.u64()?;
    let raw = r.rest();
    let properties = BasicProperties::read(&mut r)?;
    let used = raw.len() - r.rest().len();
    Ok((len, properties, &raw[..used]))
}
