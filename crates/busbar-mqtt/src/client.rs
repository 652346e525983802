//! The client's side: what a bridge or a load generator sends and receives.

use crate::ack::{Ack, AckKind};
use crate::control::{Connect, RetainHandling, SubscribeOptions};
use crate::encode::packet;
use crate::packet::Frame;
use crate::property::{Allowed, Writer, id, read_section};
use crate::publish::Publish;
use crate::reason::{Reason, Refusal, Result};
use crate::wire::{Reader, put_binary};
use crate::{Version, packet_type};

/// A packet from a server.
#[derive(Clone, Debug)]
pub enum ServerPacket<'a> {
    /// CONNACK.
    ConnAck(ConnAckIn),
    /// PUBLISH.
    Publish(Publish<'a>),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack(Ack),
    /// SUBACK: packet identifier and one reason a filter.
    SubAck(u16, Vec<Reason>),
    /// UNSUBACK: packet identifier and, in 5.0, one reason a filter.
    UnsubAck(u16, Vec<Reason>),
    /// PINGRESP.
    PingResponse,
    /// DISCONNECT with its reason and reason string.
    Disconnect(Reason, Option<String>),
    /// AUTH.
    Auth(Reason),
}

/// CONNACK as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAckIn {
    /// The session was there before.
    pub session_present: bool,
    /// Success or why not; 3.1.1 return codes are mapped to the reasons of 5.0.
    pub reason: Reason,
    /// QoS 1 and 2 publishes the server takes at a time.
    pub receive_maximum: u16,
    /// Largest packet the server takes.
    pub maximum_packet_size: Option<u32>,
    /// Topic aliases the server takes.
    pub topic_alias_maximum: u16,
    /// The identifier the server chose.
    pub assigned_client_id: Option<String>,
    /// The keep-alive that holds.
    pub server_keep_alive_s: Option<u16>,
    /// The session expiry that holds.
    pub session_expiry_s: Option<u32>,
    /// Highest QoS the server takes.
    pub maximum_qos: u8,
    /// Whether the server keeps retained messages.
    pub retain_available: bool,
    /// In words.
    pub reason_string: Option<String>,
}

/// Decodes a frame (see [`crate::split`]) that came from a server.
pub fn decode<'a>(frame: Frame<'a>, version: Version) -> Result<ServerPacket<'a>> {
    let mut r = Reader::new(frame.body);
    let ack = |kind| {
        let read = Ack::decode(kind, frame.body, version);
        read.or_else(|refusal| refused(kind, frame.body, version).ok_or(refusal))
            .map(ServerPacket::Ack)
    };
    match frame.header >> 4 {
        packet_type::CONNACK => connack(&mut r, version),
        packet_type::PUBLISH => {
            Publish::decode(frame.header, frame.body, version).map(ServerPacket::Publish)
        }
        packet_type::PUBACK => ack(AckKind::Puback),
        packet_type::PUBREC => ack(AckKind::Pubrec),
        packet_type::PUBREL => ack(AckKind::Pubrel),
        packet_type::PUBCOMP => ack(AckKind::Pubcomp),
        packet_type::SUBACK => {
            let packet_id = r.packet_id()?;
            if version == Version::V5 {
                read_section(&mut r, Allowed::ACK, |_, _| Ok(()))?;
            }
            Ok(ServerPacket::SubAck(
                packet_id,
                r.rest().iter().map(|c| Reason(*c)).collect(),
            ))
        }
        packet_type::UNSUBACK => {
            let packet_id = r.packet_id()?;
            if version == Version::V5 {
                read_section(&mut r, Allowed::ACK, |_, _| Ok(()))?;
            }
            Ok(ServerPacket::UnsubAck(
                packet_id,
                r.rest().iter().map(|c| Reason(*c)).collect(),
            ))
        }
        packet_type::PINGRESP => r.finish().map(|()| ServerPacket::PingResponse),
        packet_type::DISCONNECT => {
            let mut text = None;
            let reason = if r.is_empty() {
                Reason::SUCCESS
            } else {
                Reason(r.u8()?)
            };
            if !r.is_empty() {
                read_section(&mut r, Allowed::DISCONNECT, |key, value| {
                    if key == id::REASON_STRING {
                        text = Some(value.text().to_owned());
                    }
                    Ok(())
                })?;
            }
            r.finish()?;
            Ok(ServerPacket::Disconnect(reason, text))
        }
        packet_type::AUTH => Ok(ServerPacket::Auth(if r.is_empty() {
            Reason::SUCCESS
        } else {
            Reason(r.u8()?)
        })),
        _ => Err(Refusal::protocol("a packet that only clients send")),
    }
}

/// An acknowledgement with a failure that the standard does not list for it: servers in use say
/// "packet too large" in a PUBACK, and what they mean is clear.
fn refused(kind: AckKind, body: &[u8], version: Version) -> Option<Ack> {
    let mut r = Reader::new(body);
    let packet_id = r.packet_id().ok()?;
    let reason = Reason(r.u8().ok()?);
    let failed = version == Version::V5 && reason.is_failure() && reason.is_known();
    failed.then_some(Ack {
        kind,
        packet_id,
        reason,
    })
}

fn connack<'a>(r: &mut Reader<'a>, version: Version) -> Result<ServerPacket<'a>> {
    let flags = r.u8()?;
    if flags > 1 {
        return Err(Refusal::malformed("reserved flags of CONNACK"));
    }
    let code = r.u8()?;
    let mut c = ConnAckIn {
        session_present: flags == 1,
        reason: Reason(code),
        receive_maximum: u16::MAX,
        maximum_packet_size: None,
        topic_alias_maximum: 0,
        assigned_client_id: None,
        server_keep_alive_s: None,
        session_expiry_s: None,
        maximum_qos: 2,
        retain_available: true,
        reason_string: None,
    };
    if version == Version::V311 {
        c.reason = match code {
            0 => Reason::SUCCESS,
            1 => Reason::UNSUPPORTED_PROTOCOL_VERSION,
            2 => Reason::CLIENT_IDENTIFIER_NOT_VALID,
            3 => Reason::SERVER_UNAVAILABLE,
            4 => Reason::BAD_USER_NAME_OR_PASSWORD,
            5 => Reason::NOT_AUTHORIZED,
            _ => return Err(Refusal::malformed("unknown return code")),
        };
    } else {
        read_section(r, Allowed::CONNACK, |key, value| {
            match key {
                id::RECEIVE_MAXIMUM => c.receive_maximum = value.number() as u16,
                id::MAXIMUM_PACKET_SIZE => c.maximum_packet_size = Some(value.number()),
                id::TOPIC_ALIAS_MAXIMUM => c.topic_alias_maximum = value.number() as u16,
                id::ASSIGNED_CLIENT_ID => c.assigned_client_id = Some(value.text().to_owned()),
                id::SERVER_KEEP_ALIVE => c.server_keep_alive_s = Some(value.number() as u16),
                id::SESSION_EXPIRY => c.session_expiry_s = Some(value.number()),
                id::MAXIMUM_QOS => c.maximum_qos = value.number() as u8,
                id::RETAIN_AVAILABLE => c.retain_available = value.number() == 1,
                id::REASON_STRING => c.reason_string = Some(value.text().to_owned()),
                _ => {}
            }
            Ok(())
        })?;
    }
    r.finish()?;
    Ok(ServerPacket::ConnAck(c))
}

/// Appends CONNECT.
pub fn encode_connect(c: &Connect, out: &mut Vec<u8>) {
    let v5 = c.version == Version::V5;
    let mut flags = u8::from(c.clean_start) << 1;
    if let Some(will) = &c.will {
        flags |= 0x04 | (will.qos & 3) << 3 | u8::from(will.retain) << 5;
    }
    flags |= u8::from(c.username.is_some()) << 7 | u8::from(c.password.is_some()) << 6;
    let mut head = Vec::new();
    put_binary(&mut head, b"MQTT");
    head.push(if v5 { 5 } else { 4 });
    head.push(flags);
    head.extend_from_slice(&c.keep_alive_s.to_be_bytes());
    let mut p = Vec::new();
    let mut w = Writer(&mut p);
    if c.session_expiry_s > 0 {
        w.four(id::SESSION_EXPIRY, c.session_expiry_s);
    }
    if c.receive_maximum != u16::MAX {
        w.two(id::RECEIVE_MAXIMUM, c.receive_maximum.max(1));
    }
    if let Some(n) = c.maximum_packet_size {
        w.four(id::MAXIMUM_PACKET_SIZE, n.max(1));
    }
    if c.topic_alias_maximum > 0 {
        w.two(id::TOPIC_ALIAS_MAXIMUM, c.topic_alias_maximum);
    }
    if c.request_response_info {
        w.byte(id::REQUEST_RESPONSE_INFO, 1);
    }
    if !c.request_problem_info {
        w.byte(id::REQUEST_PROBLEM_INFO, 0);
    }
    if let Some(method) = &c.auth_method {
        w.binary(id::AUTH_METHOD, method.as_bytes());
    }
    let mut tail = Vec::new();
    put_binary(&mut tail, c.client_id.as_bytes());
    if let Some(will) = &c.will {
        if v5 {
            let mut p = Vec::new();
            let mut w = Writer(&mut p);
            if will.delay_s > 0 {
                w.four(id::WILL_DELAY, will.delay_s);
            }
            write_message_properties(
                &mut w,
                &MessageProperties {
                    text_payload: will.text_payload,
                    expiry_s: will.expiry_s,
                    content_type: will.content_type.as_deref(),
                    response_topic: will.response_topic.as_deref(),
                    correlation: will.correlation.as_deref(),
                },
            );
            for (name, value) in &will.user {
                w.pair(name, value);
            }
            crate::wire::put_varint(&mut tail, p.len());
            tail.extend_from_slice(&p);
        }
        put_binary(&mut tail, will.topic.as_bytes());
        put_binary(&mut tail, &will.payload);
    }
    if let Some(user) = &c.username {
        put_binary(&mut tail, user.as_bytes());
    }
    if let Some(password) = &c.password {
        put_binary(&mut tail, password);
    }
    packet(0x10, &[&head], v5.then_some(&p), &tail, out);
}

/// The properties that describe a message.
#[derive(Clone, Copy, Debug, Default)]
pub struct MessageProperties<'a> {
    /// The payload is UTF-8.
    pub text_payload: bool,
    /// Message expiry in seconds.
    pub expiry_s: Option<u32>,
    /// Content type.
    pub content_type: Option<&'a str>,
    /// Where to answer.
    pub response_topic: Option<&'a str>,
    /// What the answer should repeat.
    pub correlation: Option<&'a [u8]>,
}

/// Writes the properties that describe a message.
pub fn write_message_properties(w: &mut Writer<'_>, m: &MessageProperties<'_>) {
    if m.text_payload {
        w.byte(id::PAYLOAD_FORMAT, 1);
    }
    if let Some(s) = m.expiry_s {
        w.four(id::MESSAGE_EXPIRY, s);
    }
    if let Some(text) = m.content_type {
        w.binary(id::CONTENT_TYPE, text.as_bytes());
    }
    if let Some(text) = m.response_topic {
        w.binary(id::RESPONSE_TOPIC, text.as_bytes());
    }
    if let Some(data) = m.correlation {
        w.binary(id::CORRELATION_DATA, data);
    }
}

/// Appends SUBSCRIBE.
pub fn encode_subscribe(
    version: Version,
    packet_id: u16,
    subscription_id: Option<u32>,
    filters: &[(&str, SubscribeOptions)],
    out: &mut Vec<u8>,
) {
    let mut p = Vec::new();
    if let Some(n) = subscription_id {
        Writer(&mut p).variable(id::SUBSCRIPTION_ID, n);
    }
    let mut tail = Vec::new();
    for (filter, o) in filters {
        put_binary(&mut tail, filter.as_bytes());
        let mut bits = o.qos & 3;
        if version == Version::V5 {
            let handling = match o.retain_handling {
                RetainHandling::Send => 0,
                RetainHandling::SendIfNew => 1,
                RetainHandling::DoNotSend => 2,
            };
            bits |=
                u8::from(o.no_local) << 2 | u8::from(o.retain_as_published) << 3 | handling << 4;
        }
        tail.push(bits);
    }
    let properties = (version == Version::V5).then_some(p.as_slice());
    packet(0x82, &[&packet_id.to_be_bytes()], properties, &tail, out);
}

/// Appends UNSUBSCRIBE.
pub fn encode_unsubscribe(version: Version, packet_id: u16, filters: &[&str], out: &mut Vec<u8>) {
    let mut tail = Vec::new();
    for filter in filters {
        put_binary(&mut tail, filter.as_bytes());
    }
    let properties: Option<&[u8]> = (version == Version::V5).then_some(&[]);
    packet(0xa2, &[&packet_id.to_be_bytes()], properties, &tail, out);
}

/// Appends PINGREQ.
pub fn encode_pingreq(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xc0, 0]);
}

/// Appends the client's DISCONNECT.
pub fn encode_disconnect(
    version: Version,
    reason: Reason,
    session_expiry_s: Option<u32>,
    out: &mut Vec<u8>,
) {
    match (version, session_expiry_s) {
        (Version::V5, Some(s)) => {
            let mut p = Vec::new();
            Writer(&mut p).four(id::SESSION_EXPIRY, s);
            packet(0xe0, &[&[reason.0]], Some(&p), &[], out);
        }
        (Version::V5, None) if reason != Reason::SUCCESS => {
            out.extend_from_slice(&[0xe0, 1, reason.0]);
        }
        _ => out.extend_from_slice(&[0xe0, 0]),
    }
}
