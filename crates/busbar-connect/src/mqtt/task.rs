//! The task of a connection: reads, writes and sends keep-alives, independently of each other. Neither a slow consumer nor
//! a blocked socket stops the other two.

use std::sync::Arc;
use std::time::Duration;

use busbar_event::Error;
use busbar_log::Clock;
use busbar_mqtt::client;
use busbar_mqtt::{AckKind, Reason, Version};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::wire::{Incoming, Owned, Stream, lost, next_packet, refused, silent};
use crate::limits::{
    MQTT_ANSWER_MAX, MQTT_GOODBYE_MAX, MQTT_INCOMING_BYTES, MQTT_OUTGOING_BYTES, MQTT_REST_BYTES,
};

/// A connection whose CONNECT was accepted.
pub struct Task {
    pub version: Version,
    pub stream: Box<dyn Stream>,
    /// Bytes read and not yet decoded.
    pub buffer: BytesMut,
    pub incoming: mpsc::Sender<Incoming>,
    pub outgoing: mpsc::Receiver<Vec<u8>>,
    /// Permits for bytes of messages that wait for the consumer.
    pub room: Arc<Semaphore>,
    pub keep_alive: Duration,
    /// The requested QoS.
    pub qos: u8,
    pub address: String,
    pub clock: Arc<dyn Clock>,
}

impl Task {
    pub async fn run(mut self) {
        if let Err(error) = self.work().await {
            // Fails when the link was dropped, which ends the task.
            let _ = self.incoming.send(Incoming::Ended(error)).await;
        }
    }

    /// Runs until the connection breaks (an error) or the link is dropped.
    async fn work(&mut self) -> Result<(), Error> {
        let address = self.address.clone();
        let broken = |why: std::io::Error| lost(&address).caused_by(why);
        let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
        let mut out = BytesMut::new();
        let mut unflushed = false;
        // A message that waits for room; nothing is read meanwhile.
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
                        // Second half of QoS 2: the message is in a stream by now.
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
                    // Pending output serves as keep-alive.
                    if out.is_empty() {
                        let mut bytes = Vec::new();
                        client::encode_pingreq(&mut bytes);
                        out.extend_from_slice(&bytes);
                    }
                }
            }
        }
        // Acknowledgements may wait there where a message that nobody takes any more has ended the loop.
        while let Ok(bytes) = self.outgoing.try_recv() {
            out.extend_from_slice(&bytes);
        }
        let mut bytes = Vec::new();
        client::encode_disconnect(self.version, Reason::SUCCESS, None, &mut bytes);
        out.extend_from_slice(&bytes);
        let goodbye = async {
            writer.write_all(&out).await?;
            writer.shutdown().await?;
            // The other broker closes the connection when it has read all of it.
            let mut rest = [0; MQTT_REST_BYTES];
            while reader.read(&mut rest).await? > 0 {}
            Ok::<(), std::io::Error>(())
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

/// Writes part of the pending output, or flushes when there is none. Returns the number of bytes written. Cancel-safe.
async fn push(writer: &mut (impl AsyncWrite + Unpin), out: &[u8]) -> std::io::Result<usize> {
    if out.is_empty() {
        return writer.flush().await.map(|()| 0);
    }
    match writer.write(out).await? {
        0 => Err(std::io::ErrorKind::WriteZero.into()),
        written => Ok(written),
    }
}

/// Sends the held message to the consumer as soon as there is room; returns false when the consumer is gone.
/// Cancel-safe: dropped while it waits, the message is still held.
async fn hand(
    incoming: &mpsc::Sender<Incoming>,
    room: &Arc<Semaphore>,
    held: &mut Option<Incoming>,
) -> bool {
    if let Some(Incoming::Message(message)) = held
        && message.room.is_none()
    {
        // A message larger than the whole budget waits until it has all of it.
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
