//! The task that keeps a connection: it reads, writes and shows that it is alive. Neither a reader that
//! is slow nor a socket that takes nothing keeps it from the other two.

use std::sync::Arc;
use std::time::Duration;

use busbar_event::{Class, Error, Micros, quote};
use busbar_log::Clock;
use busbar_mqtt::client::{self, ConnAckIn, ServerPacket};
use busbar_mqtt::{AckKind, Reason, Split, Version, split};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::link::Incoming;
use super::message::Message;
use crate::limits::{
    MQTT_ANSWER_MAX, MQTT_GOODBYE_MAX, MQTT_INCOMING_BYTES, MQTT_OUTGOING_BYTES,
    MQTT_PACKET_BYTES_MAX, MQTT_READ_BYTES,
};

/// A socket, encrypted or not.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection whose CONNECT was accepted.
pub struct Task {
    pub version: Version,
    pub stream: Box<dyn Stream>,
    /// What was read and not yet decoded.
    pub buffer: BytesMut,
    pub incoming: mpsc::Sender<Incoming>,
    pub outgoing: mpsc::Receiver<Vec<u8>>,
    /// Bytes of messages that may still wait.
    pub room: Arc<Semaphore>,
    pub keep_alive: Duration,
    /// The quality of service that was asked for.
    pub qos: u8,
    pub address: String,
    pub clock: Arc<dyn Clock>,
}

impl Task {
    pub async fn run(mut self) {
        if let Err(error) = self.work().await {
            // Nobody may be listening any more, which is how a link is ended.
            let _ = self.incoming.send(Incoming::Ended(error)).await;
        }
    }

    /// Until the connection breaks (an error) or the link is dropped.
    async fn work(&mut self) -> Result<(), Error> {
        let address = self.address.clone();
        let broken = |why: std::io::Error| lost(&address).caused_by(why);
        let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
        let mut out = BytesMut::new();
        let mut unflushed = false;
        // What there is no room for; nothing is read meanwhile.
        let mut held: Option<Incoming> = None;
        let mut heard = Instant::now();
        let mut ping = interval(self.keep_alive / 2);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                packet = next_packet(
                    &mut reader, &mut self.buffer, self.version, &address, self.clock.now_micros(),
                ), if held.is_none() => {
                    heard = Instant::now();
                    held = match packet? {
                        Owned::Message(message) => Some(Incoming::Message(*message)),
                        Owned::Ack(AckKind::Puback, id, reason) => Some(Incoming::Acknowledged(id, reason)),
                        // The other half of QoS 2: what was received is in a stream by then.
                        Owned::Ack(AckKind::Pubrel, id, _) => {
                            let mut bytes = Vec::new();
                            busbar_mqtt::ack::encode_run(AckKind::Pubcomp, id, 1, &mut bytes);
                            out.extend_from_slice(&bytes);
                            None
                        }
                        Owned::SubAck(reasons) => Some(subscribed(&address, self.qos, &reasons)?),
                        Owned::Disconnect(reason, text) => {
                            return Err(refused(&address, reason, text.as_deref()));
                        }
                        Owned::ConnAck(_) | Owned::Ack(..) | Owned::Other => None,
                    };
                }
                handed = hand(&self.incoming, &self.room, &mut held), if held.is_some() => match handed {
                    true => heard = Instant::now(),
                    false => break,
                },
                pushed = push(&mut writer, &out), if unflushed || !out.is_empty() => {
                    unflushed = !out.is_empty();
                    out.advance(pushed.map_err(broken)?);
                }
                bytes = self.outgoing.recv(), if out.len() < MQTT_OUTGOING_BYTES => match bytes {
                    Some(bytes) => out.extend_from_slice(&bytes),
                    None => break,
                },
                _ = ping.tick() => {
                    if held.is_none() && heard.elapsed() > self.keep_alive.max(MQTT_ANSWER_MAX) * 2 {
                        return Err(silent(&address));
                    }
                    // What waits to be written shows as much.
                    if out.is_empty() {
                        let mut bytes = Vec::new();
                        client::encode_pingreq(&mut bytes);
                        out.extend_from_slice(&bytes);
                    }
                }
            }
        }
        let mut bytes = Vec::new();
        client::encode_disconnect(self.version, Reason::SUCCESS, None, &mut bytes);
        out.extend_from_slice(&bytes);
        let goodbye = async {
            writer.write_all(&out).await?;
            writer.shutdown().await
        };
        let _ = timeout(MQTT_GOODBYE_MAX, goodbye).await;
        Ok(())
    }
}

fn subscribed(address: &str, qos: u8, reasons: &[Reason]) -> Result<Incoming, Error> {
    if let Some(reason) = reasons.iter().find(|reason| reason.is_failure()) {
        return Err(refused(address, *reason, None));
    }
    if reasons.iter().any(|granted| granted.0 < qos) {
        tracing::warn!(
            address,
            asked = qos,
            "the other broker grants a lower QoS than asked for"
        );
    }
    Ok(Incoming::Subscribed)
}

/// Writes some of what waits, or flushes when nothing does; answers how much was written. Dropped while it
/// waits, it has done nothing.
async fn push(writer: &mut (impl AsyncWrite + Unpin), out: &[u8]) -> std::io::Result<usize> {
    if out.is_empty() {
        return writer.flush().await.map(|()| 0);
    }
    match writer.write(out).await? {
        0 => Err(std::io::ErrorKind::WriteZero.into()),
        written => Ok(written),
    }
}

/// Hands on what is held as soon as there is room; false when nobody is there to take it. Dropped while it
/// waits, it still holds.
async fn hand(
    incoming: &mpsc::Sender<Incoming>,
    room: &Arc<Semaphore>,
    held: &mut Option<Incoming>,
) -> bool {
    if let Some(Incoming::Message(message)) = held
        && message.room.is_none()
    {
        // One message may be larger than all room: then it waits until it is alone.
        let bytes = message.bytes().min(MQTT_INCOMING_BYTES) as u32;
        let share = tokio::select! {
            share = Arc::clone(room).acquire_many_owned(bytes) => share,
            () = incoming.closed() => return false,
        };
        message.room = share.ok();
    }
    match (incoming.reserve().await, held.take()) {
        (Ok(permit), Some(taken)) => {
            permit.send(taken);
            true
        }
        _ => false,
    }
}

/// A packet that no longer borrows the read buffer.
pub enum Owned {
    ConnAck(ConnAckIn),
    Message(Box<Message>),
    Ack(AckKind, u16, Reason),
    SubAck(Vec<Reason>),
    Disconnect(Reason, Option<String>),
    Other,
}

/// Reads until a whole packet is there. Dropped while it waits, it has lost nothing.
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

/// What [`lost`] says.
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

/// A refusal by the other broker: some pass by themselves, others need a change of the options, and some
/// are about what was sent.
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
    let said = text.map_or_else(|| reason.name().to_owned(), quote);
    Error::new(class, "connect.mqtt-refused")
        .with("address", address)
        .with("said", said)
}
