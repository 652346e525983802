//! [`ControlCodec`] by `rmqtt-codec`.

use bytes::{BufMut, BytesMut};
use rmqtt_codec::{v3, v5};
use tokio_util::codec::Decoder as _;

use crate::check::{self, ConnectFacts};
use crate::control::{
    Auth, Connect, Control, ControlCodec, Disconnect, RetainHandling, Subscribe, SubscribeOptions,
    Unsubscribe, Will,
};
use crate::reason::{Reason, Refusal, Result};
use crate::wire::put_varint;
use crate::{Version, packet_type};

/// Control packets by `rmqtt-codec`, behind the strict grammar of [`check`].
#[derive(Clone, Copy, Debug, Default)]
pub struct RmqttCodec;

const REFUSED: Refusal = Refusal::malformed("packet does not parse");

impl ControlCodec for RmqttCodec {
    fn decode(&self, header: u8, body: &[u8], version: Version) -> Result<Control> {
        if header >> 4 == packet_type::CONNECT {
            let facts = check::connect(body)?;
            return connect(header, body, facts);
        }
        check::control(header, body, version)?;
        // 3.1.1's DISCONNECT and the two-byte forms of 5.0 carry nothing to decode.
        match (header >> 4, version) {
            (packet_type::PINGREQ, _) => return Ok(Control::PingRequest),
            (packet_type::DISCONNECT, _) if body.is_empty() => {
                return Ok(Control::Disconnect(Disconnect {
                    reason: Reason::SUCCESS,
                    session_expiry_s: None,
                }));
            }
            (packet_type::AUTH, _) if body.is_empty() => {
                return Ok(Control::Auth(Auth {
                    reason: Reason::SUCCESS,
                    method: None,
                }));
            }
            _ => {}
        }
        let mut buffer = frame(header, body);
        match version {
            Version::V5 => {
                let mut codec = v5::Codec::new(0, 0);
                match codec.decode(&mut buffer) {
                    Ok(Some((packet, _))) => from_v5(packet),
                    _ => Err(REFUSED),
                }
            }
            Version::V311 => {
                let mut codec = v3::Codec::new(0);
                match codec.decode(&mut buffer) {
                    Ok(Some((packet, _))) => from_v3(packet),
                    _ => Err(REFUSED),
                }
            }
        }
    }
}

fn frame(header: u8, body: &[u8]) -> BytesMut {
    let mut head = vec![header];
    put_varint(&mut head, body.len());
    let mut buffer = BytesMut::with_capacity(head.len() + body.len());
    buffer.put_slice(&head);
    buffer.put_slice(body);
    buffer
}

fn connect(header: u8, body: &[u8], facts: ConnectFacts) -> Result<Control> {
    let mut buffer = frame(header, body);
    let body_at = buffer.len() - body.len();
    if facts.empty_client_id && !facts.clean_start {
        // 5.0 lets the server choose an identifier for a session that is to stay; the codec does
        // not. The true flag is put back below.
        buffer[body_at + facts.flags_at] |= 0x02;
    }
    if let Some(at) = facts.zero_will_expiry_at {
        // The codec refuses an expiry of zero, which the standard allows.
        buffer[body_at + at + 3] = 1;
    }
    let mut connect = match facts.version {
        Version::V5 => match v5::Codec::new(0, 0).decode(&mut buffer) {
            Ok(Some((v5::Packet::Connect(c), _))) => connect_v5(*c),
            _ => return Err(REFUSED),
        },
        Version::V311 => match v3::Codec::new(0).decode(&mut buffer) {
            Ok(Some((v3::Packet::Connect(c), _))) => connect_v3(*c),
            _ => return Err(REFUSED),
        },
    };
    connect.clean_start = facts.clean_start;
    if let (Some(_), Some(will)) = (facts.zero_will_expiry_at, &mut connect.will) {
        will.expiry_s = Some(0);
    }
    if let Some(will) = &connect.will
        && will.text_payload
        && text_payload(&will.payload).is_err()
    {
        return Err(Refusal::new(
            Reason::PAYLOAD_FORMAT_INVALID,
            "will payload is not UTF-8",
        ));
    }
    Ok(Control::Connect(Box::new(connect)))
}

fn text_payload(payload: &[u8]) -> Result<()> {
    // A payload may hold U+0000, so this is not `wire::text`.
    std::str::from_utf8(payload)
        .map(|_| ())
        .map_err(|_| REFUSED)
}

fn connect_v5(c: v5::Connect) -> Connect {
    Connect {
        version: Version::V5,
        clean_start: c.clean_start,
        keep_alive_s: c.keep_alive,
        client_id: c.client_id.to_string(),
        username: c.username.map(|u| u.to_string()),
        password: c.password.map(|p| p.to_vec()),
        will: c.last_will.map(|w| Will {
            topic: w.topic.to_string(),
            payload: w.message.to_vec(),
            qos: w.qos.into(),
            retain: w.retain,
            delay_s: w.will_delay_interval_sec.unwrap_or(0),
            text_payload: w.is_utf8_payload.unwrap_or(false),
            expiry_s: w.message_expiry_interval.map(|s| s.get()),
            content_type: w.content_type.map(|t| t.to_string()),
            response_topic: w.response_topic.map(|t| t.to_string()),
            correlation: w.correlation_data.map(|d| d.to_vec()),
            user: w
                .user_properties
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect(),
        }),
        session_expiry_s: c.session_expiry_interval_secs,
        receive_maximum: c.receive_max.map_or(u16::MAX, |n| n.get()),
        maximum_packet_size: c.max_packet_size.map(|n| n.get()),
        topic_alias_maximum: c.topic_alias_max,
        request_response_info: c.request_response_info,
        request_problem_info: c.request_problem_info,
        auth_method: c.auth_method.map(|m| m.to_string()),
    }
}

fn connect_v3(c: v3::Connect) -> Connect {
    Connect {
        version: Version::V311,
        clean_start: c.clean_session,
        keep_alive_s: c.keep_alive,
        client_id: c.client_id.to_string(),
        username: c.username.map(|u| u.to_string()),
        password: c.password.map(|p| p.to_vec()),
        will: c.last_will.map(|w| Will {
            topic: w.topic.to_string(),
            payload: w.message.to_vec(),
            qos: w.qos.into(),
            retain: w.retain,
            delay_s: 0,
            text_payload: false,
            expiry_s: None,
            content_type: None,
            response_topic: None,
            correlation: None,
            user: Vec::new(),
        }),
        session_expiry_s: if c.clean_session { 0 } else { u32::MAX },
        receive_maximum: u16::MAX,
        maximum_packet_size: None,
        topic_alias_maximum: 0,
        request_response_info: false,
        request_problem_info: false,
        auth_method: None,
    }
}

fn from_v5(packet: v5::Packet) -> Result<Control> {
    Ok(match packet {
        v5::Packet::Subscribe(s) => Control::Subscribe(Subscribe {
            packet_id: s.packet_id.get(),
            subscription_id: s.id.map(|n| n.get()),
            filters: s
                .topic_filters
                .into_iter()
                .map(|(filter, o)| {
                    let options = SubscribeOptions {
                        qos: o.qos.into(),
                        no_local: o.no_local,
                        retain_as_published: o.retain_as_published,
                        retain_handling: match u8::from(o.retain_handling) {
                            0 => RetainHandling::Send,
                            1 => RetainHandling::SendIfNew,
                            _ => RetainHandling::DoNotSend,
                        },
                    };
                    (filter.to_string(), options)
                })
                .collect(),
        }),
        v5::Packet::Unsubscribe(u) => Control::Unsubscribe(Unsubscribe {
            packet_id: u.packet_id.get(),
            filters: u.topic_filters.into_iter().map(|f| f.to_string()).collect(),
        }),
        v5::Packet::Disconnect(d) => Control::Disconnect(Disconnect {
            reason: Reason(d.reason_code.into()),
            session_expiry_s: d.session_expiry_interval_secs,
        }),
        v5::Packet::Auth(a) => Control::Auth(Auth {
            reason: Reason(a.reason_code.into()),
            method: a.auth_method.map(|m| m.to_string()),
        }),
        _ => return Err(REFUSED),
    })
}

fn from_v3(packet: v3::Packet) -> Result<Control> {
    Ok(match packet {
        v3::Packet::Subscribe {
            packet_id,
            topic_filters,
        } => Control::Subscribe(Subscribe {
            packet_id: packet_id.get(),
            subscription_id: None,
            filters: topic_filters
                .into_iter()
                .map(|(filter, qos)| {
                    let options = SubscribeOptions {
                        qos: qos.into(),
                        ..Default::default()
                    };
                    (filter.to_string(), options)
                })
                .collect(),
        }),
        v3::Packet::Unsubscribe {
            packet_id,
            topic_filters,
        } => Control::Unsubscribe(Unsubscribe {
            packet_id: packet_id.get(),
            filters: topic_filters.into_iter().map(|f| f.to_string()).collect(),
        }),
        v3::Packet::Disconnect => Control::Disconnect(Disconnect {
            reason: Reason::SUCCESS,
            session_expiry_s: None,
        }),
        _ => return Err(REFUSED),
    })
}
