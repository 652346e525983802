//! Reading packets, the messages from a connection's task to its user, and the errors of both.

use busbar_event::{Class, Error, Micros};
use busbar_mqtt::client::{self, ConnAckIn, ServerPacket};
use busbar_mqtt::{AckKind, Reason, Split, Version, split};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::message::Message;
use crate::limits::{MQTT_PACKET_BYTES_MAX, MQTT_READ_BYTES};

/// What the other broker sends.
pub enum Incoming {
    /// The subscriptions were accepted.
    Subscribed,
    /// A message.
    Message(Message),
    /// The other broker acknowledged or refused a PUBLISH.
    Acknowledged(u16, Reason),
    /// The connection ended.
    Ended(Error),
}

/// A socket, encrypted or not.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A packet that no longer borrows the read buffer.
pub enum Owned {
    ConnAck(ConnAckIn),
    Message(Box<Message>),
    Ack(AckKind, u16, Reason),
    SubAck(Vec<Reason>),
    Disconnect(Reason, Option<String>),
    Other,
}

/// Reads the next packet. Cancel-safe.
pub async fn next_packet(
    stream: &mut (impl AsyncRead + Unpin + ?Sized),
    buffer: &mut BytesMut,
    version: Version,
    address: &str,
    now: Micros,
) -> Result<Owned, Error> {
    loop {
        let malformed = |refusal: busbar_mqtt::Refusal| strange(address, refusal.detail);
        if let Split::Whole(frame) = split(buffer, MQTT_PACKET_BYTES_MAX).map_err(malformed)? {
            let length = frame.len;
            let owned = client::decode(frame, version)
                .and_then(|packet| owned(packet, version, now))
                .map_err(malformed)?;
            let _ = buffer.split_to(length);
            return Ok(owned);
        }
        buffer.reserve(MQTT_READ_BYTES);
        let read = stream
            .read_buf(buffer)
            .await
            .map_err(|why| lost(address).caused_by(why))?;
        if read == 0 {
            return Err(lost(address));
        }
    }
}

fn owned(packet: ServerPacket<'_>, version: Version, now: Micros) -> busbar_mqtt::Result<Owned> {
    Ok(match packet {
        ServerPacket::ConnAck(connack) => Owned::ConnAck(connack),
        ServerPacket::Publish(publish) => {
            Owned::Message(Box::new(Message::read(&publish, version, now)?))
        }
        ServerPacket::Ack(ack) => Owned::Ack(ack.kind, ack.packet_id, ack.reason),
        ServerPacket::SubAck(_, reasons) => Owned::SubAck(reasons),
        ServerPacket::Disconnect(reason, text) => Owned::Disconnect(reason, text),
        ServerPacket::UnsubAck(..) | ServerPacket::PingResponse | ServerPacket::Auth(_) => {
            Owned::Other
        }
    })
}

/// The code of [`lost`].
pub const LOST: &str = "connect.mqtt-lost";

pub fn lost(address: &str) -> Error {
    Error::new(Class::Transient, LOST).with("address", address)
}

pub fn silent(address: &str) -> Error {
    Error::new(Class::Transient, "connect.mqtt-silent").with("address", address)
}

pub fn strange(address: &str, what: &str) -> Error {
    Error::new(Class::Transient, "connect.mqtt-strange")
        .with("address", address)
        .with("what", what)
}

/// The error for a reason code of the other broker: transient, configuration (the options must change), or permanent
/// (the message is at fault).
pub fn refused(address: &str, reason: Reason, text: Option<&str>) -> Error {
    let class = match reason {
        Reason::BAD_USER_NAME_OR_PASSWORD
        | Reason::NOT_AUTHORIZED
        | Reason::BANNED
        | Reason::BAD_AUTHENTICATION_METHOD
        | Reason::CLIENT_IDENTIFIER_NOT_VALID
        | Reason::UNSUPPORTED_PROTOCOL_VERSION
        | Reason::TOPIC_FILTER_INVALID
        | Reason::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED
        | Reason::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED
        | Reason::USE_ANOTHER_SERVER
        | Reason::SERVER_MOVED => Class::Configuration,
        Reason::PACKET_TOO_LARGE
        | Reason::TOPIC_NAME_INVALID
        | Reason::PAYLOAD_FORMAT_INVALID
        | Reason::MALFORMED_PACKET
        | Reason::PROTOCOL_ERROR
        | Reason::QOS_NOT_SUPPORTED
        | Reason::RETAIN_NOT_SUPPORTED => Class::Permanent,
        _ => Class::Transient,
    };
    let said = text.map_or_else(|| reason.name().to_owned(), crate::reason::reason);
    Error::new(class, "connect.mqtt-refused")
        .with("address", address)
        .with("said", said)
}
