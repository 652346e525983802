//! Rows as QoS 1 publishes to another broker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use busbar_connector::{Delivery, Sink, SinkContext, Work, Written};
use busbar_event::{Class, Error, Flags};
use busbar_mqtt::{PublishOut, Reason, Version};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::Options;
use super::link::Link;
use super::message::{hops, is_expired, write_properties};
use super::wire::{Incoming, LOST, lost, silent};
use crate::limits::{MQTT_ANSWER_MAX, MQTT_HOPS_MAX, MQTT_LOST_MAX, MQTT_OUTGOING_BYTES};
use crate::places::Places;
use crate::topic::TopicTemplate;

/// Publishes rows and waits for the acknowledgements of the other broker.
pub struct MqttSink {
    options: Options,
    topic: TopicTemplate,
    context: SinkContext,
    places: Places,
    client_id: ClientId,
    link: Option<Link>,
    packet_id: u16,
    progress: Progress,
}

/// Progress of the current delivery. It is kept across connections, so that each attempt continues where the last ended.
#[derive(Default)]
struct Progress {
    /// Producer, position, first row and number of rows.
    delivery: (Arc<str>, u64, usize, usize),
    /// Rows that were sent, and acknowledged or refused, with all rows before them.
    done: usize,
    rejected: Vec<(usize, Error)>,
    /// Connections lost since `done` advanced. After the first, rows are sent one at a time, and a row on which the
    /// connection is lost repeatedly is rejected: not every broker names the fault before it closes the connection.
    lost: u32,
}

/// Client identifiers in use, by address: a broker closes a connection when another one uses its identifier.
static CLIENT_IDS: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());

struct ClientId {
    address: String,
    id: String,
}

impl ClientId {
    /// The identifier itself for the first sink of a connection, and a numbered one for each further sink: there is one
    /// for each flow and partition.
    fn new(address: &str, id: &str) -> ClientId {
        let mut taken = CLIENT_IDS.lock();
        let mut number = 1;
        loop {
            let id = match number {
                1 => id.to_owned(),
                n => format!("{id}-{n}"),
            };
            let address = address.to_owned();
            if taken.insert((address.clone(), id.clone())) {
                return ClientId { address, id };
            }
            number += 1;
        }
    }
}

impl Drop for ClientId {
    fn drop(&mut self) {
        let mine = (
            std::mem::take(&mut self.address),
            std::mem::take(&mut self.id),
        );
        CLIENT_IDS.lock().remove(&mine);
    }
}

impl MqttSink {
    pub(super) fn new(
        options: Options,
        topic: TopicTemplate,
        context: SinkContext,
        places: Places,
    ) -> MqttSink {
        let id = options.client_id.clone();
        let id = id.unwrap_or_else(|| format!("busbar-{}", context.name));
        MqttSink {
            client_id: ClientId::new(&options.address, &id),
            options,
            topic,
            context,
            places,
            link: None,
            packet_id: 0,
            progress: Progress::default(),
        }
    }

    async fn publish(&mut self, delivery: &Delivery) -> Result<Written, Error> {
        // After a call that failed or was dropped, late acknowledgements may arrive; a new connection gets none of them.
        let link = match self.link.take() {
            Some(link) => link,
            None => {
                let (project, clock) = (&self.context.project_dir, &self.context.clock);
                Link::open(
                    &self.options,
                    &self.client_id.id,
                    project,
                    &self.places,
                    clock,
                )
                .await?
            }
        };
        let this = (
            Arc::clone(&delivery.producer),
            delivery.position,
            delivery.first,
            delivery.events.rows(),
        );
        if self.progress.delivery != this {
            self.progress = Progress {
                delivery: this,
                ..Progress::default()
            };
        }
        let before = self.progress.done;
        let sent = self.send(link, delivery).await;
        if let Err(error) = &sent
            && error.code() == LOST
        {
            let progress = &mut self.progress;
            if progress.done > before {
                progress.lost = 0;
            }
            progress.lost += 1;
            if progress.lost > MQTT_LOST_MAX {
                let error = Error::new(Class::Permanent, "connect.mqtt-ends");
                let error = error.with("address", &self.options.address);
                progress.rejected.push((progress.done, error));
                progress.done += 1;
                progress.lost = 0;
            }
        }
        sent
    }

    async fn send(&mut self, mut link: Link, delivery: &Delivery) -> Result<Written, Error> {
        let rows = delivery.events.rows();
        let window = match self.progress.lost {
            0 => link.window,
            // Send one row at a time to find the one at fault.
            _ => 1,
        };
        let mut open: BTreeMap<u16, usize> = BTreeMap::new();
        // Rows after `done` that are not open are done too.
        let mut next = self.progress.done;
        while next < rows || !open.is_empty() {
            let mut bytes = Vec::new();
            while next < rows && open.len() < window && bytes.len() < MQTT_OUTGOING_BYTES {
                let row = next;
                next += 1;
                match self.encode(&link, delivery, row, &mut bytes) {
                    Ok(Some(id)) => {
                        open.insert(id, row);
                    }
                    Ok(None) => {}
                    Err(error) => self.progress.rejected.push((row, error)),
                }
            }
            if !bytes.is_empty() {
                link.send(bytes).await?;
            }
            let silent = || silent(&self.options.address);
            while !open.is_empty() {
                let answer = timeout(MQTT_ANSWER_MAX, link.incoming.recv()).await;
                match answer.map_err(|_| silent())? {
                    Some(Incoming::Acknowledged(id, reason)) => {
                        let Some(row) = open.remove(&id) else {
                            continue;
                        };
                        if reason.is_failure() {
                            let error = self.refused(reason);
                            match error.class() {
                                Class::Permanent => self.progress.rejected.push((row, error)),
                                _ => return Err(error),
                            }
                        }
                    }
                    Some(Incoming::Message(_) | Incoming::Subscribed) => {}
                    Some(Incoming::Ended(error)) => return Err(error),
                    None => return Err(lost(&self.options.address)),
                }
                self.progress.done = open.values().min().copied().unwrap_or(next);
                // Half a window at a time, so that both sides always have work.
                if next < rows && open.len() <= window / 2 {
                    break;
                }
            }
        }
        self.link = Some(link);
        let mut rejected = std::mem::take(&mut self.progress).rejected;
        rejected.sort_by_key(|(row, _)| *row);
        rejected.dedup_by_key(|(row, _)| *row);
        Ok(Written::of(rejected))
    }

    /// Appends the PUBLISH of a row and returns its packet id; `None` when the row has expired.
    fn encode(
        &mut self,
        link: &Link,
        delivery: &Delivery,
        row: usize,
        bytes: &mut Vec<u8>,
    ) -> Result<Option<u16>, Error> {
        let version: Version = self.options.version.into();
        let now = self.context.clock.now_micros();
        if is_expired(&delivery.events, row, now) {
            return Ok(None);
        }
        let mut topic = String::new();
        let own = || Some(delivery.events.topic(row).to_owned());
        self.topic.write(|_| own(), &mut topic);
        busbar_event::topic::check(&topic)?;
        let payloads = delivery.events.payloads();
        let mut properties = Vec::new();
        if version == Version::V5 {
            let hops = hops(&delivery.events, row);
            if hops >= MQTT_HOPS_MAX {
                let error = Error::new(Class::Permanent, "connect.mqtt-circle");
                return Err(error.with("hops", hops));
            }
            write_properties(&delivery.events, row, now, hops + 1, &mut properties);
        }
        let id = busbar_mqtt::ack::next_packet_id(self.packet_id);
        let packet = PublishOut {
            dup: false,
            qos: 1,
            retain: link.retain_available && Flags(delivery.events.flags()[row]).retain(),
            topic: topic.as_bytes(),
            packet_id: id,
            properties: &properties,
            payload: payloads.value(row),
        };
        let length = packet.packet_len(version);
        if length > link.packet_bytes_max {
            let error = Error::new(Class::Permanent, "connect.mqtt-too-large");
            return Err(error
                .with("bytes", length)
                .with("most", link.packet_bytes_max));
        }
        packet.encode(version, bytes);
        self.packet_id = id;
        Ok(Some(id))
    }

    fn refused(&self, reason: Reason) -> Error {
        let class = match reason {
            Reason::NOT_AUTHORIZED => Class::Configuration,
            Reason::TOPIC_NAME_INVALID
            | Reason::PAYLOAD_FORMAT_INVALID
            | Reason::PACKET_TOO_LARGE => Class::Permanent,
            _ => Class::Transient,
        };
        Error::new(class, "connect.mqtt-refused")
            .with("address", &self.options.address)
            .with("said", reason.name())
    }
}

impl Sink for MqttSink {
    fn write<'a>(&'a mut self, delivery: &'a Delivery) -> Work<'a, Result<Written, Error>> {
        Box::pin(self.publish(delivery))
    }

    fn close(&mut self) -> Work<'_, Result<(), Error>> {
        Box::pin(async move {
            if let Some(link) = self.link.take() {
                link.close().await;
            }
            Ok(())
        })
    }
}
