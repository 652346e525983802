//! From a message of a client to an event.

use busbar_bus::{Event, Refused};
use busbar_event::{ARRIVAL, Flags, Micros};
use busbar_gateway::reserved::is_reserved;
use busbar_gateway::{ConnId, EventLog};

use crate::args::Overflow;
use crate::graph::{QueueIndex, Routed};
use crate::limits::V1_SECTION_BYTES_MAX;
use crate::mapping::address_of;
use crate::message::ROUTING_KEY;
use crate::queue::DeathReason;
use crate::v1::address::NodeAddress;
use crate::v1::encode::{self, SentState};
use crate::v1::fault::{self, V1Fault};
use crate::v1::message::V1Message;
use crate::v1::performative::TransferFields;

use super::super::Broker;
use super::super::channel::PendingPublish;
use super::link::{PartialMessage, V1Link, unattached};
use super::session::V1Pending;

/// Messages of the largest size that may be in parts on one connection.
const PARTIAL_MESSAGES_MAX: usize = 4;

impl<S: EventLog> Broker<S> {
    pub(super) fn v1_transfer(
        &mut self,
        id: ConnId,
        channel: u16,
        transfer: &TransferFields,
        payload: &[u8],
        now: Micros,
    ) -> Result<(), V1Fault> {
        let bytes_max = self.limits.payload_bytes_max + V1_SECTION_BYTES_MAX;
        let Some(v1) = self.v1(id) else {
            return Ok(());
        };
        let Some(session) = v1.sessions.get_mut(&channel) else {
            return Ok(());
        };
        if session.incoming_window == 0 {
            return Err(V1Fault::session(
                fault::WINDOW_VIOLATION,
                "there are more transfers than the window of the session has room for",
            ));
        }
        session.incoming_window -= 1;
        session.next_incoming_id = session.next_incoming_id.wrapping_add(1);
        let handle = transfer.handle;
        let link = match session.links.get_mut(&handle) {
            None => return Err(unattached(handle)),
            Some(V1Link::Closing) => return Ok(()),
            Some(V1Link::Consume(_)) => {
                return Err(V1Fault::session(
                    fault::NOT_ALLOWED,
                    "the client sends on a link on which it receives",
                ));
            }
            Some(V1Link::Publish(link)) => link,
        };
        let mut partial = link.partial.take();
        v1.partial_bytes -= partial.as_ref().map_or(0, |p| p.bytes.len());
        if partial.is_none() {
            if link.credit.credit == 0 {
                return Err(V1Fault::link(
                    handle,
                    fault::TRANSFER_LIMIT,
                    "there are more messages than there was credit for",
                ));
            }
            link.credit.credit -= 1;
            link.credit.delivery_count = link.credit.delivery_count.wrapping_add(1);
        }
        let delivery = match (transfer.delivery_id, &partial) {
            (Some(delivery), None) => delivery,
            (None, Some(partial)) => partial.delivery,
            (Some(delivery), Some(partial)) if delivery == partial.delivery => delivery,
            _ => {
                return Err(V1Fault::session(
                    fault::INVALID_FIELD,
                    "delivery-id is not there, or not that of the message that has begun",
                ));
            }
        };
        if transfer.aborted {
            self.v1_renew_credit(id, channel, handle);
            return Ok(());
        }
        let settled = transfer.settled || partial.as_ref().is_some_and(|p| p.settled);
        let begun = partial.as_ref().map_or(0, |p| p.bytes.len());
        if begun + payload.len() > bytes_max {
            return Err(V1Fault::link(
                handle,
                fault::MESSAGE_SIZE,
                format!("the message is longer than {bytes_max} bytes"),
            ));
        }
        if transfer.more {
            let mut partial = partial.take().unwrap_or_else(|| PartialMessage {
                delivery,
                settled,
                bytes: Vec::new(),
            });
            partial.settled = settled;
            partial.bytes.extend_from_slice(payload);
            v1.partial_bytes += partial.bytes.len();
            link.partial = Some(partial);
            if v1.partial_bytes > PARTIAL_MESSAGES_MAX * bytes_max {
                return Err(V1Fault::connection(
                    fault::RESOURCE_LIMIT,
                    "too many messages are in parts",
                ));
            }
            self.v1_renew_credit(id, channel, handle);
            return Ok(());
        }
        let sent = match partial {
            // The message came in one frame: it goes from the input to the log.
            None => self.v1_publish(id, channel, handle, payload, now),
            Some(mut partial) => {
                partial.bytes.extend_from_slice(payload);
                self.v1_publish(id, channel, handle, &partial.bytes, now)
            }
        };
        match sent {
            Ok(ticket) => self.v1_pending(id, channel, handle, delivery, settled, ticket),
            Err(fault) => {
                self.counters.publishes_refused.add(1);
                if !settled {
                    self.send(id, |out| {
                        let state = SentState::Rejected(&fault);
                        encode::disposition(channel, delivery, delivery, state, out);
                    });
                }
            }
        }
        self.v1_renew_credit(id, channel, handle);
        Ok(())
    }

    /// Notes a message that was handed to the log.
    fn v1_pending(
        &mut self,
        id: ConnId,
        channel: u16,
        handle: u32,
        delivery: u32,
        settled: bool,
        ticket: S::Ticket,
    ) {
        let Some(session) = self.v1_session(id, channel) else {
            return;
        };
        let is_first = session.pending.is_empty();
        if let Some(last) = session.pending.back_mut()
            && last.publish.ticket == ticket
            && last.handle == handle
            && last.settled == settled
            && last.last.wrapping_add(1) == delivery
        {
            last.last = delivery;
            return;
        }
        session.pending.push_back(V1Pending {
            publish: PendingPublish { ticket, tag: 0 },
            handle,
            first: delivery,
            last: delivery,
            settled,
        });
        if is_first {
            self.publishing.push((id, channel));
        }
    }

    /// Publishes a message, or says why it is rejected.
    fn v1_publish(
        &mut self,
        id: ConnId,
        channel: u16,
        handle: u32,
        bytes: &[u8],
        now: Micros,
    ) -> Result<S::Ticket, V1Fault> {
        let message = V1Message::read(bytes)?;
        let Some(conn) = self.conn(id) else {
            return Err(V1Fault::session(fault::INTERNAL, "the connection is gone"));
        };
        let (host, user) = (conn.host, conn.user());
        if let Some(named) = message.properties.user_id
            && !user.is_empty()
            && named != user.as_bytes()
        {
            let text = format!("user-id is not the user who logged in, '{user}'");
            return Err(V1Fault::session(fault::UNAUTHORIZED, text));
        }
        let mut topic = std::mem::take(&mut self.topic);
        topic.clear();
        let stored = match self.v1_place(id, channel, handle, &message, &mut topic, now) {
            Ok(key) => self.v1_store(id, host, &topic, key.as_deref(), &message, now),
            Err(fault) => Err(fault),
        };
        self.topic = topic;
        stored
    }

    /// Appends the topic of a message. Returns its routing key where the topic does not say it.
    fn v1_place(
        &mut self,
        id: ConnId,
        channel: u16,
        handle: u32,
        message: &V1Message<'_>,
        topic: &mut String,
        now: Micros,
    ) -> Result<Option<String>, V1Fault> {
        let subject = message.properties.subject;
        let Some(Some(conn)) = self.conns.get(id.slot as usize) else {
            return Ok(None);
        };
        let host = &self.hosts[conn.host];
        let session = conn.v1.as_deref().and_then(|v1| v1.sessions.get(&channel));
        let target = match session.and_then(|session| session.links.get(&handle)) {
            Some(V1Link::Publish(link)) => link.target.as_ref(),
            _ => None,
        };
        let is_there = match target {
            None => false,
            Some(NodeAddress::Topic(_)) => true,
            Some(NodeAddress::Queue(name, _)) => host.queues.contains_key(&**name),
            Some(NodeAddress::Exchange(name, _)) => {
                let exchange = host.exchanges.get(&**name);
                exchange.is_some_and(|exchange| !exchange.internal)
            }
        };
        if let Some(target) = target.filter(|_| is_there) {
            let exact = target.write_topic(&host.prefix, subject, topic);
            return Ok(lost_key(target, subject, exact));
        }
        // Each message says itself where it goes, or what the link goes to was deleted.
        let node = match (target, message.properties.to) {
            (Some(target), _) => target.clone(),
            (None, Some(to)) => NodeAddress::parse(to, message.is_to_topic()).ok_or_else(|| {
                V1Fault::session(fault::INVALID_FIELD, format!("'{to}' is no address"))
            })?,
            (None, None) => {
                let text = "neither the link nor the message says where it goes";
                return Err(V1Fault::session(fault::INVALID_FIELD, text));
            }
        };
        let host = conn.host;
        self.v1_check_target(id, &node, now)?;
        let exact = node.write_topic(&self.hosts[host].prefix, subject, topic);
        Ok(lost_key(&node, subject, exact))
    }

    fn v1_store(
        &mut self,
        id: ConnId,
        host: usize,
        topic: &str,
        key: Option<&str>,
        message: &V1Message<'_>,
        now: Micros,
    ) -> Result<S::Ticket, V1Fault> {
        if is_reserved(topic) || topic.starts_with('$') || !self.may_publish(id, topic) {
            let text = format!("the user may not publish to the topic '{topic}'");
            return Err(V1Fault::session(fault::UNAUTHORIZED, text));
        }
        let mut tags = std::mem::take(&mut self.tags);
        tags.clear();
        let prefix = &self.hosts[host].prefix;
        let mut reserved = message.write_tags(prefix, now, &mut tags)?;
        if let Some(key) = key {
            reserved = true;
            tags.push((ROUTING_KEY.to_owned(), key.to_owned()));
        }
        let flags = Flags::default()
            .with_qos(u8::from(message.durable))
            .with_reserved_tags(reserved)
            .with_retain(message.is_retained());
        let body = message.payload();
        let rejecting = match self.rejecting {
            0 => Vec::new(),
            _ => {
                let address = address_of(topic.strip_prefix(&**prefix).unwrap_or(topic));
                let key = key.unwrap_or(&address.key);
                let routed = Routed {
                    exchange: &address.exchange,
                    key,
                    header: &|name| message.application_text(name),
                };
                let mut queues = self.hosts[host].route(&routed, None).0;
                queues.retain(|queue| self.refuses(*queue));
                if let Some(index) = self.full_queue(&queues, body.len()) {
                    if self
                        .queue(index)
                        .is_some_and(|q| q.rules.overflow == Overflow::RejectPublishDlx)
                    {
                        let from = (&*address.exchange, key);
                        self.dead_letter_event(
                            index,
                            from,
                            tags,
                            flags,
                            body,
                            DeathReason::MaxLength,
                            now,
                        );
                    }
                    return Err(V1Fault::session(fault::RESOURCE_LIMIT, "the queue is full"));
                }
                queues
            }
        };
        let client = self.conn(id).and_then(|c| c.client.clone());
        let borrowed: Vec<(&str, &str)> = match tags.is_empty() {
            true => Vec::new(),
            false => tags.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect(),
        };
        let event = Event {
            topic,
            key: None,
            time: ARRIVAL,
            client: client.as_deref(),
            flags,
            tags: &borrowed,
            payload: body,
        };
        let pushed = self.log.publish(&event, None);
        drop(borrowed);
        self.tags = tags;
        let ticket = pushed.map_err(|refused| match refused {
            Refused::Topic => V1Fault::session(
                fault::INVALID_FIELD,
                format!("'{topic}' is no topic: it is empty, too long, or has a wildcard"),
            ),
            Refused::Tags => {
                V1Fault::session(fault::INVALID_FIELD, "the message has too many properties")
            }
            Refused::PayloadTooLarge => V1Fault::session(
                fault::MESSAGE_SIZE,
                format!(
                    "the body has {} bytes, {} are possible",
                    body.len(),
                    self.limits.payload_bytes_max
                ),
            ),
            _ => V1Fault::session(fault::RESOURCE_LIMIT, "the node takes no messages now"),
        })?;
        self.unflushed = true;
        self.counters.published.add(1);
        self.counters.published_bytes.add(body.len() as u64);
        self.on_the_way_to(ticket, &rejecting);
        Ok(ticket)
    }

    /// Counts a publish for queues that refuse what they have no room for.
    pub(in super::super) fn on_the_way_to(&mut self, ticket: S::Ticket, queues: &[QueueIndex]) {
        for queue in queues {
            if let Some(q) = self.queue(*queue) {
                q.on_the_way += 1;
                let number = q.number;
                self.on_the_way.push((ticket, *queue, number));
            }
        }
    }
}

/// The routing key of an address whose topic does not say it.
fn lost_key(node: &NodeAddress, subject: Option<&str>, exact: bool) -> Option<String> {
    match node {
        NodeAddress::Exchange(_, key) if !exact => key.as_deref().or(subject).map(str::to_owned),
        _ => None,
    }
}
