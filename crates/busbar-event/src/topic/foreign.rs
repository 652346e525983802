//! Topics as others write them: with another character between levels, or as bytes.

use std::borrow::Cow;

use super::check;
use crate::limits::TOPIC_BYTES_MAX;
use crate::{Class, Error, Result};

/// What stands between the levels of a topic outside; inside it is always `/`.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Default,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
pub enum Separator {
    /// `gateway/dsd2348/relay`
    #[default]
    #[serde(rename = "/")]
    Slash,
    /// `gateway_dsd2348_relay`
    #[serde(rename = "_")]
    Underscore,
    /// `gateway*dsd2348*relay`
    #[serde(rename = "*")]
    Star,
    /// `gateway#dsd2348#relay`
    #[serde(rename = "#")]
    Hash,
}

impl Separator {
    /// The character itself.
    pub fn as_char(self) -> char {
        match self {
            Separator::Slash => '/',
            Separator::Underscore => '_',
            Separator::Star => '*',
            Separator::Hash => '#',
        }
    }

    /// A topic from outside as it is inside. One that has a `/` within a level is refused, since
    /// it could not be told from two levels.
    pub fn inward(self, topic: &str) -> Result<Cow<'_, str>> {
        let inside = swap(topic, self.as_char(), '/')?;
        check(&inside)?;
        Ok(inside)
    }

    /// A topic from inside as it is outside. One that has the outer separator within a level is
    /// refused.
    pub fn outward(self, topic: &str) -> Result<Cow<'_, str>> {
        swap(topic, '/', self.as_char())
    }
}

fn swap(topic: &str, from: char, to: char) -> Result<Cow<'_, str>> {
    if from == to {
        return Ok(Cow::Borrowed(topic));
    }
    if topic.contains(to) {
        return Err(Error::new(Class::Permanent, "event.topic-separator")
            .with("topic", crate::quote(topic))
            .with("character", to));
    }
    Ok(Cow::Owned(topic.replace(from, to.encode_utf8(&mut [0; 4]))))
}

/// A topic as bytes, for those who count each: before each level its length, as a number of seven
/// bits a byte, the lowest first, the high bit meaning that more follow.
pub fn to_binary(topic: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(topic.len() + 1);
    for level in topic.split('/') {
        let mut length = level.len();
        while length > 0x7f {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(level.as_bytes());
    }
    out
}

/// The topic that [`to_binary`] wrote.
pub fn from_binary(bytes: &[u8]) -> Result<String> {
    let damaged = |position: usize| {
        Error::new(Class::Permanent, "event.topic-binary").with("position", position)
    };
    let mut topic = String::new();
    let mut at = 0;
    while at < bytes.len() {
        let begin = at;
        let (mut length, mut shift) = (0usize, 0);
        loop {
            let byte = *bytes.get(at).ok_or_else(|| damaged(begin))?;
            at += 1;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if length > TOPIC_BYTES_MAX || shift > 14 {
                return Err(damaged(begin));
            }
        }
        let level = bytes
            .get(at..)
            .and_then(|rest| rest.get(..length))
            .ok_or_else(|| damaged(begin))?;
        let level = std::str::from_utf8(level).map_err(|_| damaged(at))?;
        if level.contains('/') || topic.len() + length > TOPIC_BYTES_MAX {
            return Err(damaged(at));
        }
        if begin > 0 {
            topic.push('/');
        }
        topic.push_str(level);
        at += length;
    }
    check(&topic)?;
    Ok(topic)
}
