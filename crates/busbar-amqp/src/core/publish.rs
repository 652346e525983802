//! From a content to an event.

use busbar_bus::{Event, Refused};
use busbar_event::{ARRIVAL, Micros};
use busbar_gateway::reserved::is_reserved;
use busbar_gateway::{ConnId, EventLog};

use crate::codec::{BasicProperties, FieldValue, WireReader, encode};
use crate::fault::AmqpFault;
use crate::graph::{QueueIndex, Routed};
use crate::mapping::{TOPIC_ADDRESS, write_topic};
use crate::message;
use crate::queue::DeathReason;

use super::Broker;
use super::channel::{Content, ContentStage, DIRECT_REPLY_TO, PendingPublish};

impl<S: EventLog> Broker<S> {
    pub(super) fn content_header(
        &mut self,
        id: ConnId,
        number: u16,
        payload: &[u8],
        now: Micros,
    ) -> Result<(), AmqpFault> {
        let bytes_max = self.limits.payload_bytes_max;
        let Some(channel) = self.channel(id, number) else {
            return Err(AmqpFault::channel_error(
                "expected 'channel.open', got a content header",
            ));
        };
        if channel.content.stage != ContentStage::Header {
            return Err(AmqpFault::unexpected_frame(
                "expected method frame, got non method frame instead",
            ));
        }
        let (len, _, raw) = message::read_header(payload)?;
        if len > bytes_max as u64 {
            return Err(AmqpFault::precondition(format!(
                "message size {len} is larger than configured max size {bytes_max}"
            )));
        }
        let content = &mut channel.content;
        content.properties.clear();
        content.properties.extend_from_slice(raw);
        content.len = len as usize;
        content.body.clear();
        content.stage = ContentStage::Body;
        match len {
            0 => self.content_done(id, number, &[], now),
            _ => Ok(()),
        }
    }

    pub(super) fn content_body(
        &mut self,
        id: ConnId,
        number: u16,
        payload: &[u8],
        now: Micros,
    ) -> Result<(), AmqpFault> {
        let Some(channel) = self.channel(id, number) else {
            return Err(AmqpFault::channel_error(
                "expected 'channel.open', got a content body",
            ));
        };
        let content = &mut channel.content;
        if content.stage != ContentStage::Body {
            return Err(AmqpFault::unexpected_frame(
                "expected method frame, got non method frame instead",
            ));
        }
        let len = content.body.len() + payload.len();
        if len > content.len {
            return Err(AmqpFault::frame("a content is longer than its header says"));
        }
        if payload.len() == content.len {
            // The body came in one frame: it goes from the input to the log.
            return self.content_done(id, number, payload, now);
        }
        content.body.extend_from_slice(payload);
        if len < content.len {
            return Ok(());
        }
        let body = std::mem::take(&mut content.body);
        self.content_done(id, number, &body, now)
    }

    fn content_done(
        &mut self,
        id: ConnId,
        number: u16,
        body: &[u8],
        now: Micros,
    ) -> Result<(), AmqpFault> {
        let Some(channel) = self.channel(id, number) else {
            return Ok(());
        };
        let mut content = std::mem::take(&mut channel.content);
        let done = match channel.transaction {
            Some(_) => self.keep_publish(id, number, &content, body),
            None => self.publish(id, number, &content, body, now),
        };
        if let Some(channel) = self.channel(id, number) {
            content.stage = ContentStage::Method;
            channel.content = content;
        }
        done.map_err(|fault| fault.of(crate::codec::method::id::BASIC_PUBLISH))
    }

    /// Publishes a message, or says why not.
    pub(super) fn publish(
        &mut self,
        id: ConnId,
        number: u16,
        content: &Content,
        body: &[u8],
        now: Micros,
    ) -> Result<(), AmqpFault> {
        let Some(Some(conn)) = self.conns.get_mut(id.slot as usize) else {
            return Ok(());
        };
        let (host, frame_bytes_max) = (conn.host, conn.frame_bytes_max);
        let (exchange, key) = (&*content.exchange, &*content.key);
        let vhost = &self.hosts[host];
        let Some(declared) = vhost.exchanges.get(exchange) else {
            return Err(AmqpFault::no_exchange(exchange, &vhost.name));
        };
        if declared.internal {
            return Err(AmqpFault::access_refused(format!(
                "cannot publish to internal exchange '{exchange}' in vhost '{}'",
                vhost.name
            )));
        }
        let direct_reply = conn
            .channels
            .get(&number)
            .and_then(|c| c.direct_reply.clone());
        let mut properties = match content.properties.first_chunk::<2>() {
            // Nothing but a delivery mode, as most messages.
            Some(&[0x10, 0]) => BasicProperties {
                delivery_mode: content.properties.get(2).copied(),
                ..Default::default()
            },
            _ => BasicProperties::read(&mut WireReader::new(&content.properties))?,
        };
        if properties.reply_to == Some(DIRECT_REPLY_TO) {
            let queue = direct_reply.as_deref();
            properties.reply_to = queue.filter(|name| vhost.queues.contains_key(*name));
            if properties.reply_to.is_none() {
                return Err(AmqpFault::precondition(
                    "fast reply consumer does not exist",
                ));
            }
        }
        if let Some(user) = properties.user_id
            && user != conn.user()
            && !conn.user().is_empty()
        {
            return Err(AmqpFault::precondition(format!(
                "user_id property set to '{user}' but authenticated user was '{}'",
                conn.user()
            )));
        }
        let Some(channel) = conn.channels.get_mut(&number) else {
            return Ok(());
        };
        channel.published += u64::from(channel.confirms);
        let to_queue = exchange.is_empty() && !key.starts_with(TOPIC_ADDRESS);
        let mut rejecting: Vec<QueueIndex> = Vec::new();
        if to_queue || content.mandatory || self.rejecting > 0 {
            let header = |name: &str| properties.headers?.get(name)?.to_tag();
            let routed = Routed {
                exchange,
                key,
                header: &header,
            };
            let queues = match to_queue {
                true => vhost
                    .queues
                    .get(key)
                    .map(|(queue, _)| *queue)
                    .into_iter()
                    .collect(),
                false => vhost.route(&routed, None).0,
            };
            if queues.is_empty() && (content.mandatory || to_queue) {
                if content.mandatory {
                    conn.out.append(None, |out| {
                        encode::returned(number, exchange, key, out);
                        encode::content(number, &content.properties, body, frame_bytes_max, out);
                    });
                    self.wake(id);
                }
                self.confirm_now(id, number, true);
                return Ok(());
            }
            rejecting.extend(queues.into_iter().filter(|queue| self.refuses(*queue)));
        }
        if !rejecting.is_empty()
            && self.refuse_for_room(&rejecting, content, &properties, body, host, now)?
        {
            self.counters.publishes_refused.add(1);
            self.confirm_now(id, number, false);
            return Ok(());
        }
        let mut topic = std::mem::take(&mut self.topic);
        topic.clear();
        let exact = write_topic(&self.hosts[host].prefix, exchange, key, &mut topic);
        let stored = self.store(
            id,
            &topic,
            (!exact).then_some(key),
            &properties,
            body,
            host,
            now,
        );
        self.topic = topic;
        match stored? {
            Ok(ticket) => {
                self.on_the_way_to(ticket, &rejecting);
                self.pending(id, number, ticket);
                Ok(())
            }
            Err(refused) => {
                self.counters.publishes_refused.add(1);
                let confirms = self.channel(id, number).is_some_and(|c| c.confirms);
                match refused {
                    Refused::Topic => Err(AmqpFault::precondition(format!(
                        "the routing key '{key}' makes no topic: it is empty, too long, or has a wildcard"
                    ))),
                    Refused::Tags => {
                        Err(AmqpFault::precondition("the message has too many headers"))
                    }
                    Refused::PayloadTooLarge => Err(AmqpFault::precondition(format!(
                        "message size {} is larger than configured max size {}",
                        body.len(),
                        self.limits.payload_bytes_max
                    ))),
                    _ if confirms => {
                        self.confirm_now(id, number, false);
                        Ok(())
                    }
                    _ => Err(AmqpFault::resource("the node takes no messages now")),
                }
            }
        }
    }

    /// Hands an event to the log.
    #[allow(clippy::too_many_arguments)]
    fn store(
        &mut self,
        id: ConnId,
        topic: &str,
        key: Option<&str>,
        properties: &BasicProperties<'_>,
        body: &[u8],
        host: usize,
        now: Micros,
    ) -> Result<Result<S::Ticket, Refused>, AmqpFault> {
        if is_reserved(topic) || topic.starts_with('$') || !self.may_publish(id, topic) {
            let (user, vhost) = (
                self.conn(id)
                    .map_or_else(String::new, |c| c.user().to_owned()),
                &self.hosts[host].name,
            );
            return Err(AmqpFault::access_refused(format!(
                "access to topic '{topic}' in vhost '{vhost}' refused for user '{user}'"
            )));
        }
        let mut tags = std::mem::take(&mut self.tags);
        tags.clear();
        let mut reserved =
            message::write_tags(properties, &self.hosts[host].prefix, now, &mut tags)?;
        if let Some(key) = key {
            reserved = true;
            tags.push((message::ROUTING_KEY.to_owned(), key.to_owned()));
        }
        let retain =
            properties.headers.and_then(|h| h.get("x-retain")) == Some(FieldValue::Bool(true));
        let flags = message::flags(properties, reserved).with_retain(retain);
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
        if pushed.is_ok() {
            self.unflushed = true;
            self.counters.published.add(1);
            self.counters.published_bytes.add(body.len() as u64);
        }
        Ok(pushed)
    }

    /// Whether a queue refuses what it has no room for.
    pub(super) fn refuses(&self, queue: QueueIndex) -> bool {
        let queue = self.queues.get(queue as usize).and_then(|q| q.as_deref());
        queue.is_some_and(|q| q.rules.rejects())
    }

    /// Which of these queues has no room for one message more with a body of `len` bytes.
    pub(super) fn full_queue(&self, queues: &[QueueIndex], len: usize) -> Option<QueueIndex> {
        queues.iter().copied().find(|index| {
            let queue = self.queues.get(*index as usize).and_then(|q| q.as_deref());
            queue.is_some_and(|q| {
                let messages = q.messages() + q.on_the_way + 1;
                q.rules.is_over(messages, q.ready_bytes + len as u64)
            })
        })
    }

    /// Whether one of these queues has no room for one message more. It is dead-lettered where the queue
    /// says so.
    fn refuse_for_room(
        &mut self,
        queues: &[QueueIndex],
        content: &Content,
        properties: &BasicProperties<'_>,
        body: &[u8],
        host: usize,
        now: Micros,
    ) -> Result<bool, AmqpFault> {
        let Some(index) = self.full_queue(queues, body.len()) else {
            return Ok(false);
        };
        let dead_letters = self
            .queue(index)
            .is_some_and(|q| q.rules.overflow == crate::args::Overflow::RejectPublishDlx);
        if dead_letters {
            let mut tags = Vec::new();
            message::write_tags(properties, &self.hosts[host].prefix, now, &mut tags)?;
            let flags = message::flags(properties, true);
            let from = (content.exchange.as_str(), content.key.as_str());
            self.dead_letter_event(index, from, tags, flags, body, DeathReason::MaxLength, now);
        }
        Ok(true)
    }

    /// Notes a publish that was handed to the log.
    fn pending(&mut self, id: ConnId, number: u16, ticket: S::Ticket) {
        let Some(channel) = self.channel(id, number) else {
            return;
        };
        let tag = channel.published;
        if channel.pending.is_empty() {
            channel.pending.push_back(PendingPublish { ticket, tag });
            self.publishing.push((id, number));
            return;
        }
        match channel.pending.back_mut() {
            Some(last) if last.ticket == ticket => last.tag = tag,
            _ => channel.pending.push_back(PendingPublish { ticket, tag }),
        }
    }

    /// Confirms, or refuses, the last publish, which is not on its way to the log.
    fn confirm_now(&mut self, id: ConnId, number: u16, taken: bool) {
        let Some(channel) = self.channel(id, number) else {
            return;
        };
        if !channel.confirms {
            return;
        }
        let tag = channel.published;
        match (taken, channel.pending.back_mut()) {
            // With those before it.
            (true, Some(last)) => last.tag = tag,
            (true, None) => {
                channel.confirmed = tag;
                self.send(id, |out| encode::ack(number, tag, false, out));
            }
            (false, _) => self.send(id, |out| encode::nack(number, tag, false, out)),
        }
    }
}
