//! Rows as QoS 1 publishes to another broker.

use std::collections::BTreeMap;

use busbar_event::{Class, Error};
use busbar_flow::{Delivery, Sink, SinkContext, Work, Written};
use busbar_mqtt::property::Writer;
use busbar_mqtt::{PublishOut, Reason, Version};
use tokio::time::timeout;

use super::Options;
use super::link::{Incoming, Link};
use crate::limits::MQTT_ANSWER_MAX;
use crate::topic::TopicTemplate;

/// Publishes and waits until the other broker has acknowledged.
pub struct MqttSink {
    options: Options,
    topic: TopicTemplate,
    context: SinkContext,
    link: Option<Link>,
    packet_id: u16,
}

impl MqttSink {
    pub(super) fn new(options: Options, topic: TopicTemplate, context: SinkContext) -> MqttSink {
        MqttSink {
            options,
            topic,
            context,
            link: None,
            packet_id: 0,
        }
    }

    async fn publish(&mut self, delivery: &Delivery) -> Result<Written, Error> {
        // A call that failed or was dropped leaves acknowledgements under way; a fresh connection
        // cannot mistake them.
        let mut link = match self.link.take() {
            Some(link) => link,
            None => {
                Link::open(&self.options, &self.context.name, &self.context.project_dir).await?
            }
        };
        let version: Version = self.options.version.into();
        let mut written = Written::default();
        let mut open: BTreeMap<u16, usize> = BTreeMap::new();
        let (mut next, rows) = (0, delivery.events.rows());
        let payloads = delivery.events.payloads();
        let (mut topic, mut properties) = (String::new(), Vec::new());
        while next < rows || !open.is_empty() {
            let mut bytes = Vec::new();
            while next < rows && open.len() < link.window {
                let row = next;
                next += 1;
                self.topic
                    .write(|_| Some(delivery.events.topic(row).to_owned()), &mut topic);
                properties.clear();
                if version == Version::V5 {
                    for (name, value) in delivery.events.tags(row) {
                        if let Some(name) = busbar_event::tags::unescape(name) {
                            Writer(&mut properties).pair(name, value);
                        }
                    }
                }
                self.packet_id = busbar_mqtt::ack::next_packet_id(self.packet_id);
                let packet = PublishOut {
                    dup: false,
                    qos: 1,
                    retain: busbar_event::Flags(delivery.events.flags()[row]).retain(),
                    topic: topic.as_bytes(),
                    packet_id: self.packet_id,
                    properties: &properties,
                    payload: payloads.value(row),
                };
                if let Err(error) = fits(&link, &packet, version, &topic) {
                    written.rejected.push((row, error));
                    continue;
                }
                packet.encode(version, &mut bytes);
                open.insert(self.packet_id, row);
            }
            if !bytes.is_empty() {
                link.send(bytes).await?;
            }
            if open.is_empty() {
                continue;
            }
            let silent = || {
                Error::new(Class::Transient, "connect.mqtt-silent")
                    .with("address", &self.options.address)
            };
            match timeout(MQTT_ANSWER_MAX, link.incoming.recv())
                .await
                .map_err(|_| silent())?
            {
                Some(Incoming::Acknowledged(id, reason)) => {
                    let Some(row) = open.remove(&id) else {
                        continue;
                    };
                    if reason.is_failure() {
                        let error = self.refused(reason);
                        match error.class() {
                            Class::Permanent => written.rejected.push((row, error)),
                            _ => return Err(error),
                        }
                    }
                }
                Some(Incoming::Message(_)) => {}
                Some(Incoming::Ended(error)) => return Err(error),
                None => return Err(silent()),
            }
        }
        self.link = Some(link);
        written.rejected.sort_by_key(|(row, _)| *row);
        Ok(written)
    }

    fn refused(&self, reason: Reason) -> Error {
        let class = match reason {
            Reason::NOT_AUTHORIZED => Class::Configuration,
            Reason::TOPIC_NAME_INVALID | Reason::PAYLOAD_FORMAT_INVALID => Class::Permanent,
            _ => Class::Transient,
        };
        Error::new(class, "connect.mqtt-refused")
            .with("address", &self.options.address)
            .with("said", reason.name())
    }
}

/// Whether the other broker takes such a packet at all.
fn fits(link: &Link, packet: &PublishOut<'_>, version: Version, topic: &str) -> Result<(), Error> {
    let bytes = packet.packet_len(version);
    if bytes > link.packet_bytes_max {
        let error = Error::new(Class::Permanent, "connect.mqtt-too-large");
        return Err(error
            .with("bytes", bytes)
            .with("most", link.packet_bytes_max));
    }
    busbar_event::topic::check(topic)
}

impl Sink for MqttSink {
    fn write<'a>(&'a mut self, delivery: &'a Delivery) -> Work<'a, Result<Written, Error>> {
        Box::pin(self.publish(delivery))
    }
}
