//! Messages and events: what of the sections of a message becomes the payload and the tags of an event, and the
//! way back.
//!
//! | section | kept as |
//! | --- | --- |
//! | header: durable | quality of service 1, else 0 |
//! | header: priority, ttl; properties | the tags of the properties of 0-9-1, and some of their own |
//! | message-annotations | [`ANNOTATIONS`] |
//! | application-properties | as the headers of 0-9-1 |
//! | data | payload; several are put together |
//! | amqp-value with a string or bytes | payload, and [`BODY`] = `string` or `binary` |
//! | amqp-value with null, no body | empty payload, and [`BODY`] = `null` |
//! | another amqp-value, amqp-sequence | payload as JSON, and [`BODY`] with the sections as they are |
//! | delivery-annotations, footer | not kept |

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use busbar_event::tags::{escape, unescape};
use busbar_event::{Batch, Flags, Micros, reserved};

use crate::codec::table::{put_short, put_value as put_field};
use crate::codec::{FieldTable, FieldValue};
use crate::message::{
    CONTENT_ENCODING, EXPIRATION, HEADERS, MESSAGE_ID, OwnedTags, PRIORITY, TIMESTAMP, TYPE,
    USER_ID,
};

use super::address::{reply_address, topic_of_reply_address};
use super::encode::{ListWriter, put_described, put_value};
use super::fault::{self, V1Fault};
use super::json;
use super::properties::{V1Properties, identifier_bytes, identifier_text, read_identifier};
use super::value::{TypedItems, TypedReader, TypedValue};

/// Tag: `string`, `binary` or `null` for a body that is an amqp-value with such a value, else the sections of the body, in
/// base64.
pub const BODY: &str = "$amqp-body";
/// Tag: the message annotations, an encoded map in base64.
pub const ANNOTATIONS: &str = "$amqp-annotations";
/// Tag: `to`.
pub const TO: &str = "$to";
/// Tag: `group-id`.
pub const GROUP_ID: &str = "$group-id";
/// Tag: `group-sequence`.
pub const GROUP_SEQUENCE: &str = "$group-sequence";
/// Tag: `reply-to-group-id`.
pub const REPLY_TO_GROUP_ID: &str = "$reply-to-group-id";
/// The priority of a message that says none.
const PRIORITY_DEFAULT: u8 = 4;
const BODY_STRING: &str = "string";
const BODY_BINARY: &str = "binary";
const BODY_NULL: &str = "null";

/// A message of a client.
#[derive(Clone, Debug, Default)]
pub struct V1Message<'a> {
    /// Whether it is kept on disk. (Every message is; 0-9-1 calls it the delivery mode.)
    pub durable: bool,
    priority: Option<u8>,
    ttl_ms: Option<u32>,
    annotations: Option<TypedItems<'a>>,
    /// Its properties.
    pub properties: V1Properties<'a>,
    application: Option<TypedItems<'a>>,
    payload: Cow<'a, [u8]>,
    body: BodyKind<'a>,
}

#[derive(Clone, Copy, Debug, Default)]
enum BodyKind<'a> {
    #[default]
    Data,
    Text,
    Binary,
    Null,
    /// The sections as they are.
    Typed(&'a [u8]),
}

impl<'a> V1Message<'a> {
    /// Reads the sections of a message.
    ///
    /// # Errors
    /// `amqp:decode-error` when they are not well formed, or not in order.
    pub fn read(bytes: &'a [u8]) -> Result<V1Message<'a>, V1Fault> {
        let mut message = V1Message::default();
        let mut r = TypedReader::new(bytes);
        let (mut last, mut has_body) = (0, false);
        let mut items_of = None;
        while !r.is_empty() {
            let before = r.rest();
            let (code, value) = r.described()?;
            let repeats = matches!(code, 0x75 | 0x76) && code == last;
            if !(0x70..=0x78).contains(&code) || (code <= last && !repeats) {
                return Err(V1Fault::decode(
                    "the sections of the message are not in order",
                ));
            }
            if has_body && matches!(code, 0x75..=0x77) && code != last {
                return Err(V1Fault::decode("the message has bodies of two kinds"));
            }
            last = code;
            match (code, value) {
                (0x70, TypedValue::List(items)) => {
                    let mut f = items.reader();
                    message.durable = f.flag()?;
                    message.priority = f.uint()?.map(|n| n.min(255) as u8);
                    message.ttl_ms = f.uint()?;
                }
                (0x71 | 0x78, TypedValue::Map(_)) => value.check()?,
                (0x72, TypedValue::Map(items)) => {
                    value.check()?;
                    message.annotations = (!items.is_empty()).then_some(items);
                }
                (0x73, TypedValue::List(items)) => {
                    message.properties = V1Properties::read(items)?;
                }
                (0x74, TypedValue::Map(items)) => {
                    value.check()?;
                    message.application = Some(items);
                }
                (0x75, TypedValue::Binary(bytes)) => {
                    match has_body {
                        false => message.payload = Cow::Borrowed(bytes),
                        true => message.payload.to_mut().extend_from_slice(bytes),
                    }
                    has_body = true;
                }
                (0x76, TypedValue::List(_)) => {
                    value.check()?;
                    let (first, text) = items_of.get_or_insert_with(|| (before, String::new()));
                    json::write(&value, text);
                    let len = first.len() - r.rest().len();
                    message.body = BodyKind::Typed(&first[..len]);
                    has_body = true;
                }
                (0x77, TypedValue::Text(text)) => {
                    message.payload = Cow::Borrowed(text.as_bytes());
                    message.body = BodyKind::Text;
                    has_body = true;
                }
                (0x77, TypedValue::Binary(bytes)) => {
                    message.payload = Cow::Borrowed(bytes);
                    message.body = BodyKind::Binary;
                    has_body = true;
                }
                (0x77, TypedValue::Null) => {
                    message.body = BodyKind::Null;
                    has_body = true;
                }
                (0x77, value) => {
                    value.check()?;
                    message.body = BodyKind::Typed(&before[..before.len() - r.rest().len()]);
                    message.payload = json::payload(&value);
                    has_body = true;
                }
                _ => return Err(V1Fault::decode("a section of the message has a wrong type")),
            }
        }
        if let Some((_, text)) = items_of {
            message.payload = Cow::Owned(text.into_bytes());
        }
        if bytes.is_empty() {
            return Err(V1Fault::decode("the message has no sections"));
        }
        // JMS has messages without a body.
        if !has_body {
            message.body = BodyKind::Null;
        }
        Ok(message)
    }

    /// The payload of its event.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// A property of the application, as text.
    pub fn application_text(&self, name: &str) -> Option<String> {
        let mut found = None;
        let _ = self.each_application(|key, value| {
            if key == name {
                found = field_of(&value).and_then(|field| field.to_tag());
            }
            Ok(())
        });
        found
    }

    fn each_application(
        &self,
        mut each: impl FnMut(&'a str, TypedValue<'a>) -> Result<(), V1Fault>,
    ) -> Result<(), V1Fault> {
        let Some(items) = self.application else {
            return Ok(());
        };
        let mut r = items.reader();
        while !r.is_empty() {
            let name = r
                .text()?
                .ok_or_else(|| V1Fault::decode("a property of the application has no name"))?;
            each(name, r.value()?)?;
        }
        Ok(())
    }

    /// What its annotations, which JMS clients set, say of its address: whether it is that of a topic.
    pub fn is_to_topic(&self) -> Option<bool> {
        let mut r = self.annotations?.reader();
        while !r.is_empty() {
            let (name, value) = (r.value().ok()?, r.value().ok()?);
            if name.as_text() == Some("x-opt-jms-dest") {
                return match value {
                    TypedValue::Byte(kind) => Some(kind & 1 == 1),
                    _ => None,
                };
            }
        }
        None
    }

    /// Whether it is to be kept as the last value of its topic.
    pub fn is_retained(&self) -> bool {
        self.application.is_some() && self.application_text("x-retain").as_deref() == Some("true")
    }

    /// Appends the tags of its event. True when one of them has a reserved name.
    ///
    /// # Errors
    /// `amqp:invalid-field` for a value that no tag can have.
    pub fn write_tags(
        &self,
        prefix: &str,
        now: Micros,
        tags: &mut OwnedTags,
    ) -> Result<bool, V1Fault> {
        let invalid = |text: String| V1Fault::session(fault::INVALID_FIELD, text);
        let p = &self.properties;
        let mut add = |name: &str, value: &str| tags.push((name.to_owned(), value.to_owned()));
        for (name, value) in [
            (reserved::CONTENT_TYPE, p.content_type),
            (CONTENT_ENCODING, p.content_encoding),
            (TO, p.to),
            (TYPE, p.subject),
            (GROUP_ID, p.group_id),
            (REPLY_TO_GROUP_ID, p.reply_to_group_id),
        ] {
            if let Some(value) = value {
                add(name, value);
            }
        }
        if let Some(id) = &p.message_id {
            add(MESSAGE_ID, &identifier_text(id));
        }
        if let Some(id) = &p.correlation_id {
            add(
                reserved::CORRELATION_DATA,
                &BASE64.encode(identifier_bytes(id)),
            );
        }
        if let Some(user) = p.user_id {
            let user = std::str::from_utf8(user);
            add(
                USER_ID,
                user.map_err(|_| invalid("user-id is not UTF-8".to_owned()))?,
            );
        }
        if let Some(address) = p.reply_to {
            let topic = topic_of_reply_address(prefix, address)
                .ok_or_else(|| invalid(format!("reply-to '{address}' is no address")))?;
            add(reserved::REPLY_TO, &topic);
        }
        if let Some(n) = p.group_sequence {
            add(GROUP_SEQUENCE, &n.to_string());
        }
        if let Some(ms) = p.created_ms {
            let (seconds, part) = (ms.div_euclid(1000), ms.rem_euclid(1000));
            match part {
                0 => add(TIMESTAMP, &seconds.to_string()),
                part => add(TIMESTAMP, &format!("{seconds}.{part:03}")),
            }
        }
        if let Some(n) = self.priority.filter(|n| *n != PRIORITY_DEFAULT) {
            add(PRIORITY, &n.to_string());
        }
        if let Some(ms) = self.ttl_ms {
            add(EXPIRATION, &ms.to_string());
        }
        let by_ttl = self
            .ttl_ms
            .map(|ms| now.saturating_add(i64::from(ms) * 1000));
        // A time of zero is what some clients write for none.
        let at = p
            .expires_ms
            .filter(|ms| *ms > 0)
            .map(|ms| ms.saturating_mul(1000));
        if let Some(at) = [by_ttl, at].into_iter().flatten().min() {
            add(reserved::EXPIRES_AT, &at.to_string());
        }
        if let Some(items) = self.annotations {
            let mut map = Vec::new();
            put_value(&TypedValue::Map(items), &mut map);
            add(ANNOTATIONS, &BASE64.encode(map));
        }
        match self.body {
            BodyKind::Data => {}
            BodyKind::Text => add(BODY, BODY_STRING),
            BodyKind::Binary => add(BODY, BODY_BINARY),
            BodyKind::Null => add(BODY, BODY_NULL),
            BodyKind::Typed(sections) => add(BODY, &BASE64.encode(sections)),
        }
        let mut has_reserved = !tags.is_empty();
        let mut typed = Vec::new();
        self.each_application(|name, value| {
            if name.len() > usize::from(u8::MAX) {
                return Err(invalid(
                    "the name of an application property has more than 255 bytes".to_owned(),
                ));
            }
            let text = match value {
                TypedValue::Text(text) => Some(text.to_owned()),
                value => match field_of(&value) {
                    Some(field) => {
                        put_short(&mut typed, name);
                        put_field(&mut typed, &field);
                        field.to_tag()
                    }
                    None => other_text(&value),
                },
            };
            tags.extend(text.map(|text| (escape(name).into_owned(), text)));
            Ok(())
        })?;
        if !typed.is_empty() {
            has_reserved = true;
            tags.push((HEADERS.to_owned(), BASE64.encode(typed)));
        }
        match tags
            .iter()
            .find(|(_, value)| value.len() > crate::limits::TAG_BYTES_MAX)
        {
            None => Ok(has_reserved),
            Some((name, value)) => Err(invalid(match &**name {
                BODY => format!(
                    "the body takes {} bytes and is not a binary or a string: {} are possible",
                    value.len() / 4 * 3,
                    crate::limits::TAG_BYTES_MAX / 4 * 3
                ),
                name => format!(
                    "{name} is longer than {} bytes",
                    crate::limits::TAG_BYTES_MAX
                ),
            })),
        }
    }
}

/// The field of 0-9-1 that a property of the application becomes; `None` where there is none, or the value would
/// change.
fn field_of<'a>(value: &TypedValue<'a>) -> Option<FieldValue<'a>> {
    Some(match *value {
        TypedValue::Null => FieldValue::Void,
        TypedValue::Bool(on) => FieldValue::Bool(on),
        TypedValue::Ubyte(n) => FieldValue::Unsigned(b'B', n.into()),
        TypedValue::Ushort(n) => FieldValue::Unsigned(b'u', n.into()),
        TypedValue::Uint(n) => FieldValue::Unsigned(b'i', n.into()),
        TypedValue::Ulong(n) => FieldValue::Signed(b'l', i64::try_from(n).ok()?),
        TypedValue::Byte(n) => FieldValue::Signed(b'b', n.into()),
        TypedValue::Short(n) => FieldValue::Signed(b's', n.into()),
        TypedValue::Int(n) => FieldValue::Signed(b'I', n.into()),
        TypedValue::Long(n) => FieldValue::Signed(b'l', n),
        TypedValue::Float(n) => FieldValue::Float(n),
        TypedValue::Double(n) => FieldValue::Double(n),
        TypedValue::Timestamp(ms) => FieldValue::Timestamp(u64::try_from(ms).ok()? / 1000),
        TypedValue::Binary(bytes) => FieldValue::Binary(bytes),
        TypedValue::Symbol(text) | TypedValue::Text(text) => FieldValue::Text(text.as_bytes()),
        _ => return None,
    })
}

/// The text of a property that 0-9-1 has no type for.
fn other_text(value: &TypedValue<'_>) -> Option<String> {
    match *value {
        TypedValue::Ulong(n) => Some(n.to_string()),
        TypedValue::Char(c) => char::from_u32(c).map(String::from),
        TypedValue::Uuid(bytes) => Some(json::uuid(bytes)),
        _ => None,
    }
}

fn value_of<'a>(field: &FieldValue<'a>) -> Option<TypedValue<'a>> {
    Some(match *field {
        FieldValue::Void => TypedValue::Null,
        FieldValue::Bool(on) => TypedValue::Bool(on),
        FieldValue::Unsigned(b'B', n) => TypedValue::Ubyte(n as u8),
        FieldValue::Unsigned(b'u', n) => TypedValue::Ushort(n as u16),
        FieldValue::Unsigned(_, n) => TypedValue::Uint(n as u32),
        FieldValue::Signed(b'b', n) => TypedValue::Byte(n as i8),
        FieldValue::Signed(b's', n) => TypedValue::Short(n as i16),
        FieldValue::Signed(b'I', n) => TypedValue::Int(n as i32),
        FieldValue::Signed(_, n) => TypedValue::Long(n),
        FieldValue::Float(n) => TypedValue::Float(n),
        FieldValue::Double(n) => TypedValue::Double(n),
        FieldValue::Decimal(scale, n) => {
            TypedValue::Double(f64::from(n) / 10f64.powi(i32::from(scale)))
        }
        FieldValue::Timestamp(seconds) => {
            TypedValue::Timestamp(i64::try_from(seconds).ok()?.checked_mul(1000)?)
        }
        FieldValue::Binary(bytes) => TypedValue::Binary(bytes),
        FieldValue::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => TypedValue::Text(text),
            Err(_) => TypedValue::Binary(bytes),
        },
        // The properties of an application are simple values.
        FieldValue::Table(_) | FieldValue::Array(_) => return None,
    })
}

/// How often a delivery was tried.
#[derive(Clone, Copy, Debug)]
pub struct TriedBefore {
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// TriedBefore that failed.
    pub failed: u32,
}

/// Appends the sections of the message that a row is, as a receiver in the virtual host of `prefix` sees it.
pub fn write_message(
    (batch, row): (&Batch, usize),
    payload: &[u8],
    prefix: &str,
    attempts: TriedBefore,
    now: Micros,
    out: &mut Vec<u8>,
) {
    let flags = Flags(batch.flags()[row]);
    let mut p = V1Properties::default();
    let (mut texts, mut typed) = (Vec::new(), Vec::new());
    let (mut priority, mut ttl_ms) = (None, None);
    let (mut annotations, mut body, mut reply_to) = (None, None, None);
    let (mut message_id, mut correlation) = (None, None);
    let tags = batch.has_tags().then(|| batch.tags(row));
    for (name, value) in tags.into_iter().flatten() {
        if let Some(name) = unescape(name) {
            texts.push((name, value));
            continue;
        }
        match name {
            reserved::CONTENT_TYPE => p.content_type = value.is_ascii().then_some(value),
            CONTENT_ENCODING => p.content_encoding = value.is_ascii().then_some(value),
            reserved::REPLY_TO => reply_to = Some(reply_address(prefix, value)),
            reserved::CORRELATION_DATA => correlation = BASE64.decode(value).ok(),
            reserved::EXPIRES_AT => {
                if let Ok(at) = value.parse::<Micros>() {
                    p.expires_ms = Some(at.div_euclid(1000));
                    let left = at.saturating_sub(now).max(0) / 1000;
                    ttl_ms = Some(u32::try_from(left).unwrap_or(u32::MAX));
                }
            }
            MESSAGE_ID => message_id = Some(value),
            USER_ID => p.user_id = Some(value.as_bytes()),
            TO => p.to = Some(value),
            TYPE => p.subject = Some(value),
            GROUP_ID => p.group_id = Some(value),
            GROUP_SEQUENCE => p.group_sequence = value.parse().ok(),
            REPLY_TO_GROUP_ID => p.reply_to_group_id = Some(value),
            PRIORITY => priority = value.parse::<u8>().ok(),
            TIMESTAMP => p.created_ms = milliseconds(value),
            HEADERS => typed = crate::message::decode_headers(value),
            ANNOTATIONS => annotations = BASE64.decode(value).ok(),
            BODY => body = Some(value),
            _ => {}
        }
    }
    let (mut of_message, mut of_correlation) = (Vec::new(), Vec::new());
    p.message_id = message_id.map(|id| read_identifier(id.as_bytes(), &mut of_message));
    p.correlation_id = correlation
        .as_deref()
        .map(|id| read_identifier(id, &mut of_correlation));
    p.reply_to = reply_to.as_deref();
    put_described(0x70, out, |l| {
        l.flag(flags.qos() > 0);
        match priority {
            Some(n) => l.value(&TypedValue::Ubyte(n)),
            None => l.null(),
        };
        match ttl_ms {
            Some(ms) => l.uint(ms),
            None => l.null(),
        };
        l.flag(!attempts.redelivered);
        if attempts.failed > 0 {
            l.uint(attempts.failed);
        }
    });
    if let Some(map) = annotations.filter(|map| is_map(map)) {
        out.extend_from_slice(&[0, 0x53, 0x72]);
        out.extend_from_slice(&map);
    }
    p.write(out);
    let typed = FieldTable::check(&typed).unwrap_or_default();
    if !texts.is_empty() || !typed.is_empty() {
        out.extend_from_slice(&[0, 0x53, 0x74]);
        let mut map = ListWriter::begin_map(out);
        for (name, value) in texts {
            if typed.get(name).is_none() {
                map.text(name).text(value);
            }
        }
        for (name, field) in typed.iter() {
            if let Some(value) = value_of(&field) {
                map.text(name).value(&value);
            }
        }
        map.end();
    }
    let (section, value) = match (body, std::str::from_utf8(payload)) {
        (Some(BODY_STRING), Ok(text)) => (0x77, TypedValue::Text(text)),
        (Some(BODY_BINARY), _) => (0x77, TypedValue::Binary(payload)),
        (Some(BODY_NULL), _) if payload.is_empty() => (0x77, TypedValue::Null),
        (Some(sections), _) => match BASE64.decode(sections) {
            Ok(sections) if is_body(&sections) => return out.extend_from_slice(&sections),
            _ => (0x75, TypedValue::Binary(payload)),
        },
        (None, _) => (0x75, TypedValue::Binary(payload)),
    };
    out.extend_from_slice(&[0, 0x53, section]);
    put_value(&value, out);
}

/// Whether these are whole sections of a body: a tag may hold what another protocol put into it.
fn is_body(bytes: &[u8]) -> bool {
    let mut r = TypedReader::new(bytes);
    let is_section = |section: Result<(u64, TypedValue<'_>), V1Fault>| matches!(section, Ok((0x76 | 0x77, value)) if value.check().is_ok());
    while is_section(r.described()) {
        if r.is_empty() {
            return true;
        }
    }
    false
}

fn is_map(bytes: &[u8]) -> bool {
    let mut r = TypedReader::new(bytes);
    matches!(r.value(), Ok(value @ TypedValue::Map(_)) if value.check().is_ok()) && r.is_empty()
}

/// Milliseconds from seconds with up to three decimals.
fn milliseconds(text: &str) -> Option<i64> {
    let (seconds, part) = text.split_once('.').unwrap_or((text, "0"));
    let part = format!("{part:0<3}");
    let ms: i64 = part.get(..3)?.parse().ok()?;
    seconds
        .parse::<i64>()
        .ok()?
        .checked_mul(1000)?
        .checked_add(ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use busbar_event::{BatchBuilder, Row};

    const NOW: Micros = 1_700_000_000_000_000;

    fn batch(message: &V1Message<'_>) -> (Batch, bool) {
        let mut tags = Vec::new();
        let has_reserved = message.write_tags("", NOW, &mut tags).expect("tags");
        let borrowed: Vec<(&str, &str)> =
            tags.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let mut builder = BatchBuilder::new();
        let topic = builder.topic_id("amqp/q/q");
        builder.push(Row {
            topic,
            key: None,
            time: NOW,
            client: None,
            flags: Flags::default()
                .with_qos(u8::from(message.durable))
                .with_reserved_tags(has_reserved),
            tags: &borrowed,
            payload: message.payload(),
        });
        (builder.finish(), has_reserved)
    }

    /// A message with every section that is kept.
    fn full(body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        put_described(0x70, &mut out, |l| {
            l.flag(true).value(&TypedValue::Ubyte(7)).uint(60_000);
        });
        out.extend_from_slice(&[0, 0x53, 0x72]);
        let mut map = ListWriter::begin_map(&mut out);
        map.symbol("x-opt-jms-msg-type").value(&TypedValue::Byte(5));
        map.end();
        V1Properties {
            message_id: Some(TypedValue::Uuid([9; 16])),
            to: Some("q"),
            subject: Some("about"),
            reply_to: Some("/topics/answers/1"),
            correlation_id: Some(TypedValue::Ulong(77)),
            content_type: Some("text/plain"),
            created_ms: Some(1_699_999_999_123),
            group_id: Some("g"),
            group_sequence: Some(3),
            expires_ms: Some(NOW / 1000 + 60_000),
            ..Default::default()
        }
        .write(&mut out);
        out.extend_from_slice(&[0, 0x53, 0x74]);
        let mut map = ListWriter::begin_map(&mut out);
        map.text("site").text("north");
        map.text("count").value(&TypedValue::Int(5));
        map.text("ratio").value(&TypedValue::Double(0.5));
        map.end();
        body(&mut out);
        out
    }

    #[test]
    fn a_message_comes_out_as_it_went_in() {
        type BodyCase<'a> = (&'a dyn Fn(&mut Vec<u8>), &'a str);
        let bodies: [BodyCase<'_>; 6] = [
            (&|_| {}, ""),
            (
                &|out| {
                    out.extend_from_slice(&[0, 0x53, 0x77]);
                    put_value(&TypedValue::Binary(b"bytes"), out);
                },
                "bytes",
            ),
            (
                &|out| {
                    out.extend_from_slice(&[0, 0x53, 0x75]);
                    put_value(&TypedValue::Binary(b"data"), out);
                },
                "data",
            ),
            (
                &|out| {
                    out.extend_from_slice(&[0, 0x53, 0x77]);
                    put_value(&TypedValue::Text("text"), out);
                },
                "text",
            ),
            (
                &|out| {
                    out.extend_from_slice(&[0, 0x53, 0x77]);
                    let mut map = ListWriter::begin_map(out);
                    map.text("a\"b").value(&TypedValue::Int(1));
                    map.text("c").value(&TypedValue::Binary(b"\xff"));
                    map.end();
                },
                r#"{"a\"b":1,"c":"/w=="}"#,
            ),
            (
                &|out| {
                    for n in [1, 2] {
                        put_described(0x76, out, |l| {
                            l.value(&TypedValue::Long(n));
                        });
                    }
                },
                "[1][2]",
            ),
        ];
        for (body, payload) in bodies {
            let bytes = full(body);
            let message = V1Message::read(&bytes).expect("a message");
            assert_eq!(String::from_utf8_lossy(message.payload()), payload);
            let (batch, has_reserved) = batch(&message);
            assert!(has_reserved);
            let mut out = Vec::new();
            let attempts = TriedBefore {
                redelivered: false,
                failed: 0,
            };
            write_message((&batch, 0), message.payload(), "", attempts, NOW, &mut out);
            let again = V1Message::read(&out).expect("a message");
            assert_eq!(again.properties, message.properties);
            assert_eq!((again.priority, again.ttl_ms), (Some(7), Some(60_000)));
            assert_eq!(again.annotations, message.annotations);
            assert_eq!(again.application_text("count").as_deref(), Some("5"));
            assert_eq!(again.payload(), message.payload());
            let section = |m: &V1Message<'_>| match m.body {
                BodyKind::Typed(bytes) => bytes.to_vec(),
                BodyKind::Text => b"text".to_vec(),
                BodyKind::Binary => b"binary".to_vec(),
                BodyKind::Null => b"null".to_vec(),
                BodyKind::Data => Vec::new(),
            };
            assert_eq!(section(&again), section(&message));
        }
    }

    #[test]
    fn messages_that_are_not_in_order_are_refused() {
        for bytes in [
            &b""[..],
            b"\x00\x53\x75\xa0\x00\x00\x53\x70\x45",
            b"\x00\x53\x75\xa0\x00\x00\x53\x77\x40",
            b"\x00\x53\x77\x40\x00\x53\x77\x40",
            b"\x00\x53\x75\xa1\x00",
            b"\x00\x53\x79\x40",
        ] {
            assert!(V1Message::read(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn times_have_up_to_three_decimals() {
        assert_eq!(milliseconds("17"), Some(17_000));
        assert_eq!(milliseconds("17.050"), Some(17_050));
        assert_eq!(milliseconds("17.5"), Some(17_500));
        assert_eq!(milliseconds("x"), None);
    }
}
