//! A retained value and its bytes.
//!
//! | size | what |
//! | ---: | --- |
//! | 1 | version, 1 |
//! | 1 | flags |
//! | 8 | time, microseconds |
//! | 8 | when it expires, microseconds; `i64::MAX` for never |
//! | 4 + n | key: length + 1, or 0 for none |
//! | 4 + n | client: likewise |
//! | 2 | number of tags |
//! | 4 + n, 4 + n | for each tag its name and its value |
//! | n | payload, to the end |

use std::sync::Arc;

use busbar_event::{EventRef, Flags, Micros, reserved};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// What a value costs beside its bytes: nodes of maps, reference counts.
pub(super) const OVERHEAD_BYTES: usize = 96;
/// The largest payload that is retained: with the rest it must fit a store's value.
pub(super) const PAYLOAD_BYTES_MAX: usize = busbar_log::limits::STORE_VALUE_BYTES_MAX / 2;

const VERSION: u8 = 1;
const EXPIRES_AT: std::ops::Range<usize> = 10..18;

/// The last retained event of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedValue {
    /// The topic.
    pub topic: Arc<str>,
    /// Its key.
    pub key: Option<String>,
    /// When it happened.
    pub time: Micros,
    /// Who published it.
    pub client: Option<String>,
    /// Quality of service and so on.
    pub flags: Flags,
    /// Names and values.
    pub tags: Vec<(String, String)>,
    /// What it says.
    pub payload: Bytes,
    /// When it is no longer to be delivered.
    pub expires_at: Option<Micros>,
}

impl RetainedValue {
    /// Whether it is no longer to be delivered at `now`.
    pub fn is_expired(&self, now: Micros) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

pub(super) fn encode(event: &EventRef<'_>) -> Bytes {
    let mut bytes = BytesMut::with_capacity(64 + event.payload.len());
    bytes.put_u8(VERSION);
    bytes.put_u8(event.flags.0);
    bytes.put_i64_le(event.time);
    // A tag that is no number means nothing; the gateways write numbers.
    let expires_at = event
        .tags()
        .find(|(name, _)| *name == reserved::EXPIRES_AT)
        .and_then(|(_, at)| at.parse().ok());
    bytes.put_i64_le(expires_at.unwrap_or(i64::MAX));
    put_optional(&mut bytes, event.key);
    put_optional(&mut bytes, event.client);
    let tags = event.tags();
    bytes.put_u16_le(tags.len().min(usize::from(u16::MAX)) as u16);
    for (name, value) in tags.take(usize::from(u16::MAX)) {
        put(&mut bytes, name);
        put(&mut bytes, value);
    }
    bytes.put_slice(&event.payload);
    bytes.freeze()
}

/// The value of stored bytes; `None` if they are none that this version writes.
pub(super) fn decode(topic: &Arc<str>, encoded: &Bytes) -> Option<RetainedValue> {
    let mut bytes = encoded.clone();
    if bytes.try_get_u8().ok()? != VERSION {
        return None;
    }
    let flags = Flags(bytes.try_get_u8().ok()?);
    let time = bytes.try_get_i64_le().ok()?;
    let expires_at = bytes.try_get_i64_le().ok()?;
    let key = get_optional(&mut bytes)?;
    let client = get_optional(&mut bytes)?;
    let count = bytes.try_get_u16_le().ok()?;
    let mut tags = Vec::with_capacity(usize::from(count).min(busbar_event::limits::TAGS_MAX));
    for _ in 0..count {
        tags.push((get(&mut bytes)?, get(&mut bytes)?));
    }
    Some(RetainedValue {
        topic: Arc::clone(topic),
        key,
        time,
        client,
        flags,
        tags,
        payload: bytes,
        expires_at: (expires_at != i64::MAX).then_some(expires_at),
    })
}

/// When an encoded value expires.
pub(super) fn expires_at(encoded: &Bytes) -> Option<Micros> {
    let at = i64::from_le_bytes(encoded.get(EXPIRES_AT)?.try_into().ok()?);
    (at != i64::MAX).then_some(at)
}

fn put(bytes: &mut BytesMut, text: &str) {
    bytes.put_u32_le(text.len() as u32);
    bytes.put_slice(text.as_bytes());
}

fn put_optional(bytes: &mut BytesMut, text: Option<&str>) {
    match text {
        None => bytes.put_u32_le(0),
        Some(text) => {
            bytes.put_u32_le(text.len() as u32 + 1);
            bytes.put_slice(text.as_bytes());
        }
    }
}

fn get(bytes: &mut Bytes) -> Option<String> {
    let length = bytes.try_get_u32_le().ok()? as usize;
    text(bytes, length)
}

fn get_optional(bytes: &mut Bytes) -> Option<Option<String>> {
    match bytes.try_get_u32_le().ok()? as usize {
        0 => Some(None),
        length => text(bytes, length - 1).map(Some),
    }
}

fn text(bytes: &mut Bytes, length: usize) -> Option<String> {
    if bytes.remaining() < length {
        return None;
    }
    String::from_utf8(bytes.split_to(length).to_vec()).ok()
}
