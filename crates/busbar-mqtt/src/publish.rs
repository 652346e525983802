//! PUBLISH, decoded in place and encoded straight into the output buffer.

use crate::Version;
use crate::property::{Allowed, UserProperties, id, read_unframed};
use crate::reason::{Refusal, Result};
use crate::wire::{Reader, put_binary, put_varint, varint_len};

/// A PUBLISH as it lies in the read buffer.
#[derive(Clone, Copy, Debug)]
pub struct Publish<'a> {
    /// Sent before, perhaps.
    pub dup: bool,
    /// 0, 1 or 2.
    pub qos: u8,
    /// To be kept as the topic's last value.
    pub retain: bool,
    /// The topic's bytes, not yet checked: see [`Publish::topic_text`].
    pub topic: &'a [u8],
    /// Zero for QoS 0.
    pub packet_id: u16,
    /// The raw property section; empty in 3.1.1.
    pub properties: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
}

/// What the properties of a PUBLISH (or a will) say.
#[derive(Clone, Copy, Debug, Default)]
pub struct PublishProperties<'a> {
    /// The payload is UTF-8 by the sender's word.
    pub text_payload: bool,
    /// Seconds until the message is worth nothing.
    pub expiry_s: Option<u32>,
    /// Alias of the topic.
    pub alias: Option<u16>,
    /// Content type.
    pub content_type: Option<&'a str>,
    /// Where to answer.
    pub response_topic: Option<&'a str>,
    /// What the answer should repeat.
    pub correlation: Option<&'a [u8]>,
    /// Subscription identifiers: only servers send them. The first is kept here.
    pub subscription_id: Option<u32>,
    /// Whether user properties follow.
    pub has_user: bool,
}

impl<'a> Publish<'a> {
    /// Decodes the body of a frame whose first byte is `header`. Nothing is copied; properties are
    /// only measured, and checked by [`Publish::parse_properties`].
    #[inline]
    pub fn decode(header: u8, body: &'a [u8], version: Version) -> Result<Publish<'a>> {
        let qos = (header >> 1) & 3;
        let dup = header & 0x08 != 0;
        if qos == 3 {
            return Err(Refusal::malformed("QoS is 3"));
        }
        if dup && qos == 0 {
            return Err(Refusal::malformed("DUP is set on QoS 0"));
        }
        let mut r = Reader::new(body);
        let topic = r.binary()?;
        let packet_id = if qos > 0 { r.packet_id()? } else { 0 };
        let properties = match version {
            Version::V5 => {
                let n = r.varint()? as usize;
                r.take(n)?
            }
            Version::V311 => &[],
        };
        Ok(Publish {
            dup,
            qos,
            retain: header & 1 != 0,
            topic,
            packet_id,
            properties,
            payload: r.rest(),
        })
    }

    /// The topic as text; refuses what is not UTF-8 or holds U+0000. Levels and wildcards are the
    /// business of `busbar_event::topic`.
    pub fn topic_text(&self) -> Result<&'a str> {
        crate::wire::text(self.topic)
    }

    /// Parses and checks the properties.
    pub fn parse_properties(&self) -> Result<PublishProperties<'a>> {
        let mut p = PublishProperties::default();
        if self.properties.is_empty() {
            return Ok(p);
        }
        read_unframed(self.properties, Allowed::PUBLISH, |key, value| {
            match key {
                id::PAYLOAD_FORMAT => p.text_payload = value.number() == 1,
                id::MESSAGE_EXPIRY => p.expiry_s = Some(value.number()),
                id::TOPIC_ALIAS => p.alias = Some(value.number() as u16),
                id::CONTENT_TYPE => p.content_type = Some(value.text()),
                id::RESPONSE_TOPIC => p.response_topic = Some(value.text()),
                id::CORRELATION_DATA => p.correlation = Some(value.binary()),
                id::SUBSCRIPTION_ID if p.subscription_id.is_none() => {
                    p.subscription_id = Some(value.number());
                }
                id::USER_PROPERTY => p.has_user = true,
                _ => {}
            }
            Ok(())
        })?;
        Ok(p)
    }

    /// The user properties, in order; only after [`Publish::parse_properties`] accepted them.
    pub fn user_properties(&self) -> UserProperties<'a> {
        UserProperties::new(self.properties)
    }
}

/// A PUBLISH to send.
#[derive(Clone, Copy, Debug)]
pub struct PublishOut<'a> {
    /// Sent before.
    pub dup: bool,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Retain flag.
    pub retain: bool,
    /// Topic; empty when an alias stands for it.
    pub topic: &'a [u8],
    /// Not written for QoS 0.
    pub packet_id: u16,
    /// Encoded properties without their length; not written in 3.1.1.
    pub properties: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
}

impl PublishOut<'_> {
    /// Bytes of the whole packet.
    #[inline]
    pub fn packet_len(&self, version: Version) -> usize {
        let remaining = self.remaining(version);
        1 + varint_len(remaining) + remaining
    }

    #[inline]
    fn remaining(&self, version: Version) -> usize {
        let mut n = 2 + self.topic.len() + self.payload.len();
        if self.qos > 0 {
            n += 2;
        }
        if version == Version::V5 {
            n += varint_len(self.properties.len()) + self.properties.len();
        }
        n
    }

    /// Appends the packet.
    #[inline]
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        let remaining = self.remaining(version);
        out.reserve(remaining + 5);
        out.push(0x30 | u8::from(self.dup) << 3 | (self.qos & 3) << 1 | u8::from(self.retain));
        put_varint(out, remaining);
        put_binary(out, self.topic);
        if self.qos > 0 {
            out.extend_from_slice(&self.packet_id.to_be_bytes());
        }
        if version == Version::V5 {
            put_varint(out, self.properties.len());
            out.extend_from_slice(self.properties);
        }
        out.extend_from_slice(self.payload);
    }
}
