//! Messages of another broker, acknowledged there once they are in a stream here.

use std::collections::VecDeque;
use std::time::Duration;

use busbar_connector::{Polled, Polling, Position, Source, SourceContext, Work};
use busbar_event::limits::BATCH_BYTES_MAX;
use busbar_event::{ARRIVAL, Batch, BatchBuilder, Error, Row};
use busbar_mqtt::AckKind;

use super::Options;
use super::link::Link;
use super::message::Message;
use super::wire::{Incoming, lost};
use crate::limits::MQTT_ROWS_MAX;
use crate::places::Places;
use crate::topic::{TopicTemplate, fitting};

/// Subscribes at the other broker and publishes what it sends.
pub struct MqttSource {
    options: Options,
    topic: TopicTemplate,
    context: SourceContext,
    places: Places,
    builder: BatchBuilder,
    link: Option<Link>,
    /// Why the link ended; reported after the messages received before are published.
    ended: Option<Error>,
    /// Number of the last batch, for [`Source::committed`].
    batch: u64,
    /// Batch, acknowledgement and packet id of QoS 1 and 2 messages, oldest first.
    open: VecDeque<(u64, AckKind, u16)>,
    /// Encoded acknowledgements that wait for the socket.
    unsent: Vec<u8>,
}

impl MqttSource {
    pub(super) fn new(
        options: Options,
        topic: TopicTemplate,
        context: SourceContext,
        places: Places,
    ) -> MqttSource {
        MqttSource {
            options,
            topic,
            context,
            places,
            builder: BatchBuilder::new(),
            link: None,
            ended: None,
            batch: 0,
            open: VecDeque::new(),
            unsent: Vec::new(),
        }
    }

    async fn next(&mut self) -> Result<Polled, Error> {
        if let Some(error) = self.ended.take() {
            return Err(error);
        }
        if self.link.is_none() {
            // The other broker resends what was not acknowledged on the old connection.
            self.open.clear();
            self.unsent.clear();
            let name = &self.context.name;
            let id = self.options.client_id.clone();
            let id = id.unwrap_or_else(|| format!("busbar-{name}"));
            let (project, clock) = (&self.context.project_dir, &self.context.clock);
            self.link = Some(Link::open(&self.options, &id, project, &self.places, clock).await?);
        }
        loop {
            let Some(Link {
                incoming, outgoing, ..
            }) = &mut self.link
            else {
                return Err(lost(&self.options.address));
            };
            // Both waits are cancel-safe: a dropped wait has taken nothing.
            let next = if self.unsent.is_empty() {
                incoming.recv().await
            } else {
                tokio::select! {
                    biased;
                    room = outgoing.reserve() => {
                        let due = std::mem::take(&mut self.unsent);
                        if let Ok(room) = room {
                            room.send(due);
                        }
                        continue;
                    }
                    next = incoming.recv() => next,
                }
            };
            let mut messages = Vec::new();
            let mut bytes = 0;
            let mut next = next;
            loop {
                match next {
                    Some(Incoming::Message(message)) => {
                        bytes += message.bytes();
                        messages.push(message);
                    }
                    Some(Incoming::Subscribed) if messages.is_empty() => {
                        return Ok(Polled::Idle(Duration::ZERO));
                    }
                    Some(Incoming::Subscribed | Incoming::Acknowledged(..)) => {}
                    Some(Incoming::Ended(error)) => {
                        self.ended = Some(error);
                        break;
                    }
                    None => {
                        self.ended = Some(lost(&self.options.address));
                        break;
                    }
                }
                if messages.len() >= MQTT_ROWS_MAX || bytes >= BATCH_BYTES_MAX {
                    break;
                }
                match incoming.try_recv() {
                    Ok(more) => next = Some(more),
                    Err(_) => break,
                }
            }
            if self.ended.is_some() {
                self.link = None;
                // QoS 1 and 2 messages cannot be acknowledged any more and are sent again; QoS 0 messages are not.
                messages.retain(|message| message.flags.qos() == 0);
            }
            match self.publish(&messages) {
                Some(batch) => {
                    return Ok(Polled::Batch(Polling {
                        batch,
                        part: "".into(),
                        position: Position::Receipt(self.batch),
                        note: Vec::new(),
                    }));
                }
                None => self.due(self.batch),
            }
            if let Some(error) = self.ended.take() {
                return Err(error);
            }
        }
    }

    /// The messages that are subscribed to, as one batch.
    fn publish(&mut self, messages: &[Message]) -> Option<Batch> {
        self.batch += 1;
        let mut topic = String::new();
        for message in messages {
            let kind = match message.flags.qos() {
                1 => Some(AckKind::Puback),
                2 => Some(AckKind::Pubrec),
                _ => None,
            };
            let open = kind.map(|kind| (self.batch, kind, message.packet_id));
            self.open.extend(open);
            if !self.options.selects(&message.topic) {
                // The session of the other broker may hold subscriptions of an earlier version of this connection.
                continue;
            }
            self.topic
                .write(|_| Some(message.topic.clone()), &mut topic);
            if busbar_event::topic::check(&topic).is_err() {
                topic = fitting(&topic);
            }
            let tags: Vec<_> = message
                .tags
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            let topic = self.builder.topic_id(&topic);
            self.builder.push(Row {
                topic,
                key: None,
                time: ARRIVAL,
                client: None,
                flags: message.flags,
                tags: &tags,
                payload: &message.payload,
            });
        }
        (!self.builder.is_empty()).then(|| self.builder.finish())
    }

    /// Encodes the acknowledgements of all messages up to a batch.
    fn due(&mut self, batch: u64) {
        while let Some((_, kind, id)) = self.open.pop_front_if(|(at, ..)| *at <= batch) {
            busbar_mqtt::ack::encode_run(kind, id, 1, &mut self.unsent);
        }
    }
}

impl Source for MqttSource {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(self.next())
    }

    fn committed(&mut self, _: &str, batch: u64) {
        self.due(batch);
        if let Some(link) = &self.link
            && !self.unsent.is_empty()
            && let Ok(room) = link.outgoing.try_reserve()
        {
            room.send(std::mem::take(&mut self.unsent));
        }
    }

    fn close(&mut self) -> Work<'_, Result<(), Error>> {
        Box::pin(async move {
            // Messages that are not acknowledged are sent again after the next connect.
            if let Some(link) = self.link.take() {
                if !self.unsent.is_empty()
                    && let Ok(room) = link.outgoing.reserve().await
                {
                    room.send(std::mem::take(&mut self.unsent));
                }
                link.close().await;
            }
            Ok(())
        })
    }
}
