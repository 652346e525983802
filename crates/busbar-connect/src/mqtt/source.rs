//! Messages of another broker, acknowledged there once they are in a stream here.

use std::collections::VecDeque;

use busbar_event::{BatchBuilder, Error, Flags, Row};
use busbar_flow::{Polled, Polling, Position, Source, SourceContext, Work};
use busbar_mqtt::AckKind;

use super::Options;
use super::link::{Incoming, Link, Message};
use crate::limits::MQTT_ROWS_MAX;
use crate::topic::TopicTemplate;

/// Subscribes and publishes what comes.
pub struct MqttSource {
    options: Options,
    topic: TopicTemplate,
    context: SourceContext,
    builder: BatchBuilder,
    link: Option<Link>,
    /// Numbers messages for [`Source::committed`]; the other broker has no numbers of its own.
    position: u64,
    /// Position, acknowledgement and packet id of what came with QoS 1 or 2, oldest first.
    open: VecDeque<(u64, AckKind, u16)>,
    unsent: Vec<u8>,
}

impl MqttSource {
    pub(super) fn new(
        options: Options,
        topic: TopicTemplate,
        context: SourceContext,
    ) -> MqttSource {
        let position = context.resume.position("");
        MqttSource {
            options,
            topic,
            context,
            builder: BatchBuilder::new(),
            link: None,
            position,
            open: VecDeque::new(),
            unsent: Vec::new(),
        }
    }

    async fn next(&mut self) -> Result<Polled, Error> {
        if self.link.is_none() {
            // The other broker sends again what was not acknowledged on the old connection.
            self.open.clear();
            self.unsent.clear();
            self.link = Some(
                Link::open(&self.options, &self.context.name, &self.context.project_dir).await?,
            );
        }
        let Some(link) = &mut self.link else {
            return Ok(Polled::End);
        };
        if !self.unsent.is_empty() {
            self.unsent = link
                .try_send(std::mem::take(&mut self.unsent))
                .err()
                .unwrap_or_default();
        }
        // Only this wait may be dropped, and a queue loses nothing by that.
        let mut next = link.incoming.recv().await;
        let mut messages = Vec::new();
        let mut ended = None;
        loop {
            match next {
                Some(Incoming::Message(message)) => messages.push(message),
                Some(Incoming::Acknowledged(..)) => {}
                Some(Incoming::Ended(error)) => {
                    ended = Some(error);
                    break;
                }
                None => break,
            }
            if messages.len() >= MQTT_ROWS_MAX {
                break;
            }
            match link.incoming.try_recv() {
                Ok(more) => next = Some(more),
                Err(_) => break,
            }
        }
        if let Some(error) = ended {
            self.link = None;
            // What came before the end is not acknowledged, so it will come again.
            return Err(error);
        }
        if messages.is_empty() {
            self.link = None;
            return Ok(Polled::Idle(std::time::Duration::ZERO));
        }
        Ok(Polled::Batch(self.publish(&messages)))
    }

    fn publish(&mut self, messages: &[Message]) -> Polling {
        let time = self.context.clock.now_micros();
        let mut positions = Vec::with_capacity(messages.len());
        let mut topic = String::new();
        for message in messages {
            self.position += 1;
            positions.push(self.position);
            match message.qos {
                1 => self
                    .open
                    .push_back((self.position, AckKind::Puback, message.packet_id)),
                2 => self
                    .open
                    .push_back((self.position, AckKind::Pubrec, message.packet_id)),
                _ => {}
            }
            self.topic
                .write(|_| Some(message.topic.clone()), &mut topic);
            let tags: Vec<_> = message
                .tags
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            let topic = self.builder.topic_id(&topic);
            let flags = Flags::default()
                .with_qos(message.qos)
                .with_retain(message.retain);
            self.builder.push(Row {
                topic,
                key: None,
                time,
                client: None,
                flags,
                tags: &tags,
                payload: &message.payload,
            });
        }
        Polling {
            batch: self.builder.finish(),
            part: "".into(),
            position: Position::Rows(positions),
        }
    }
}

impl Source for MqttSource {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(self.next())
    }

    fn committed(&mut self, _: &str, position: u64) {
        while let Some((at, kind, id)) = self.open.front().copied() {
            if at > position {
                break;
            }
            busbar_mqtt::ack::encode_run(kind, id, 1, &mut self.unsent);
            self.open.pop_front();
        }
        if let Some(link) = &self.link
            && !self.unsent.is_empty()
        {
            self.unsent = link
                .try_send(std::mem::take(&mut self.unsent))
                .err()
                .unwrap_or_default();
        }
    }
}
