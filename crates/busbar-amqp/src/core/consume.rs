//! Consumers, `get`, and what clients say of their deliveries.

use std::sync::Arc;

use busbar_event::Micros;
use busbar_gateway::{ConnId, EventLog};

use crate::args::QueueRules;
use crate::codec::encode;
use crate::codec::method::{Consume, id};
use crate::fault::AmqpFault;
use crate::graph::QueueIndex;
use crate::limits::{CONSUMERS_PER_CHANNEL_MAX, QUEUES_MAX, UNACKED_PER_CHANNEL_MAX};
use crate::queue::{ConsumerRef, DeathReason, RowId};

use super::Broker;
use super::channel::{Consumer, DIRECT_REPLY_TO, Disposition, LastAddress, Settlement, Unacked};
use super::deliver::QueueHead;

impl<S: EventLog> Broker<S> {
    pub(super) fn consume(
        &mut self,
        id: ConnId,
        number: u16,
        consume: &Consume<'_>,
        now: Micros,
    ) -> Result<(), AmqpFault> {
        let index = match consume.queue {
            DIRECT_REPLY_TO => self.direct_reply_queue(id, number, consume.no_ack, now)?,
            name => {
                let index = self.queue_named(id, number, name)?;
                self.check_consume(id, index)?;
                index
            }
        };
        if let Some(value) = consume.arguments.get("x-priority")
            && value.as_integer() != Some(0)
        {
            return Err(AmqpFault::precondition(format!(
                "invalid arg 'x-priority' for consumer '{}': consumer priorities are not supported",
                consume.tag
            )));
        }
        let Some(channel) = self.channel(id, number) else {
            return Ok(());
        };
        if channel.consumers.len() >= CONSUMERS_PER_CHANNEL_MAX {
            return Err(AmqpFault::resource("the channel has too many consumers"));
        }
        if channel.consumers.iter().any(|c| *c.tag == *consume.tag) && !consume.tag.is_empty() {
            return Err(AmqpFault::not_allowed(format!(
                "attempt to reuse consumer tag '{}'",
                consume.tag
            )));
        }
        let consumer_number = channel.next_consumer;
        channel.next_consumer += 1;
        let prefetch = channel.consumer_prefetch;
        let tag: Arc<str> = match consume.tag {
            "" => format!("amq.ctag-{}", self.made_up_name(now)).into(),
            tag => tag.into(),
        };
        let Some(queue) = self.queue(index) else {
            return Ok(());
        };
        if queue.exclusive_consumer || (consume.exclusive && !queue.consumers.is_empty()) {
            let (name, host) = (Arc::clone(&queue.name), queue.vhost);
            return Err(AmqpFault::access_refused(format!(
                "queue '{name}' in vhost '{}' in exclusive use",
                self.hosts[host].name
            )));
        }
        queue.exclusive_consumer = consume.exclusive;
        queue.had_consumers = true;
        queue.used = now;
        queue.consumers.push(ConsumerRef {
            conn: id,
            channel: number,
            number: consumer_number,
        });
        if let Some(channel) = self.channel(id, number) {
            channel.consumers.add(Consumer {
                number: consumer_number,
                tag: Arc::clone(&tag),
                queue: index,
                no_ack: consume.no_ack,
                exclusive: consume.exclusive,
                prefetch,
                unacked: 0,
                last: LastAddress::default(),
            });
        }
        if !consume.no_wait {
            self.send(id, |out| {
                encode::named(id::BASIC_CONSUME_OK, number, &tag, out)
            });
        }
        self.activate(index);
        Ok(())
    }

    /// Makes the queue for the answers to the requests of a channel. It ends with its consumer.
    fn direct_reply_queue(
        &mut self,
        id: ConnId,
        number: u16,
        no_ack: bool,
        now: Micros,
    ) -> Result<QueueIndex, AmqpFault> {
        let host = self.conn(id).map_or(0, |conn| conn.host);
        if !no_ack {
            return Err(AmqpFault::precondition("reply consumer cannot acknowledge"));
        }
        let before = self
            .channel(id, number)
            .and_then(|c| c.direct_reply.clone());
        if before.is_some_and(|name| self.hosts[host].queues.contains_key(&name)) {
            return Err(AmqpFault::precondition("reply consumer already set"));
        }
        if self.queue_count >= QUEUES_MAX {
            return Err(AmqpFault::resource("the node has too many queues"));
        }
        let name: Arc<str> = format!("{DIRECT_REPLY_TO}.{}", self.made_up_name(now)).into();
        let mut queue = self.new_queue(host, &name, QueueRules::default(), now);
        queue.owner = Some(id);
        queue.auto_delete = true;
        if let Some(channel) = self.channel(id, number) {
            channel.direct_reply = Some(name);
        }
        Ok(self.create_queue(queue))
    }

    pub(super) fn cancel(
        &mut self,
        id: ConnId,
        number: u16,
        tag: &str,
        no_wait: bool,
        now: Micros,
    ) -> Result<(), AmqpFault> {
        if let Some(channel) = self.channel(id, number)
            && let Some(found) =
                (channel.consumers.iter()).find_map(|c| (*c.tag == *tag).then_some(c.number))
            && let Some(consumer) = channel.consumers.remove(found)
        {
            self.forget_consumer(id, number, &consumer, now);
        }
        if !no_wait {
            self.send(id, |out| {
                encode::named(id::BASIC_CANCEL_OK, number, tag, out)
            });
        }
        Ok(())
    }

    /// A consumer has ended: its queue forgets it, and goes with its last one if it was declared so.
    pub(super) fn forget_consumer(
        &mut self,
        id: ConnId,
        number: u16,
        consumer: &Consumer,
        now: Micros,
    ) {
        let reference = ConsumerRef {
            conn: id,
            channel: number,
            number: consumer.number,
        };
        self.forget_reference(reference, consumer.queue, consumer.exclusive, now);
    }

    /// The same, by the consumer's place.
    pub(super) fn forget_reference(
        &mut self,
        reference: ConsumerRef,
        index: QueueIndex,
        exclusive: bool,
        now: Micros,
    ) {
        let Some(queue) = self.queue(index) else {
            return;
        };
        let before = queue.consumers.len();
        queue.consumers.retain(|c| *c != reference);
        if queue.consumers.len() == before {
            return;
        }
        queue.exclusive_consumer &= !exclusive;
        queue.used = now;
        if queue.consumers.is_empty() {
            if queue.auto_delete {
                return self.delete_queue(index, now);
            }
            queue.let_go();
        }
        self.activate(index);
    }

    pub(super) fn get(
        &mut self,
        id: ConnId,
        number: u16,
        queue: &str,
        no_ack: bool,
        now: Micros,
    ) -> Result<(), AmqpFault> {
        let index = self.queue_named(id, number, queue)?;
        self.check_consume(id, index)?;
        self.run_live();
        let Some(queue) = self.queue(index) else {
            return Ok(());
        };
        queue.used = now;
        let queue_number = queue.number;
        self.get_row(id, number, index, queue_number, no_ack, now);
        Ok(())
    }

    /// Answers a `get`; false when it has to wait for a row to be read.
    pub(super) fn get_row(
        &mut self,
        id: ConnId,
        number: u16,
        index: QueueIndex,
        queue_number: u64,
        no_ack: bool,
        now: Micros,
    ) -> bool {
        let head = match self.queue(index) {
            Some(queue) if queue.number == queue_number => self.head(index, now),
            _ => QueueHead::Empty,
        };
        let row = match head {
            QueueHead::Row => self.take_head(index),
            QueueHead::Empty => None,
            QueueHead::Later => {
                if let Some(channel) = self.channel(id, number) {
                    channel.getting = Some((index, queue_number, no_ack));
                }
                if let Some(conn) = self.conn(id) {
                    conn.waits = true;
                    self.waiting.push(id);
                }
                return false;
            }
        };
        let Some(row) = row else {
            self.send(id, |out| {
                encode::named(id::BASIC_GET_EMPTY, number, "", out)
            });
            return true;
        };
        let left = self.queue(index).map_or(0, |q| q.messages());
        self.send_row(id, number, index, &row, None, no_ack, left);
        true
    }

    /// Applies what a client says of its deliveries.
    pub(super) fn settle_deliveries(
        &mut self,
        id: ConnId,
        number: u16,
        settlement: Settlement,
        now: Micros,
    ) -> Result<(), AmqpFault> {
        let Settlement {
            tag,
            multiple,
            outcome,
        } = settlement;
        let Some(channel) = self.channel(id, number) else {
            return Ok(());
        };
        let unknown = || AmqpFault::precondition(format!("unknown delivery tag {tag}"));
        let at = channel.unacked.partition_point(|u| u.tag < tag);
        if multiple {
            let count = match tag {
                0 => channel.unacked.len(),
                tag if tag > channel.last_tag => return Err(unknown()),
                tag => at + usize::from(channel.unacked.get(at).is_some_and(|u| u.tag == tag)),
            };
            if count == 0 && tag != 0 {
                return Err(unknown());
            }
            let settled: Vec<Unacked> = channel.unacked.drain(..count).collect();
            for delivery in settled {
                self.settle_delivery(id, number, &delivery, outcome, now);
            }
        } else {
            if channel.unacked.get(at).is_none_or(|u| u.tag != tag) {
                return Err(unknown());
            }
            let Some(delivery) = channel.unacked.remove(at) else {
                return Ok(());
            };
            self.settle_delivery(id, number, &delivery, outcome, now);
        }
        Ok(())
    }

    fn settle_delivery(
        &mut self,
        id: ConnId,
        number: u16,
        delivery: &Unacked,
        outcome: Disposition,
        now: Micros,
    ) {
        if let Some(channel) = self.channel(id, number) {
            let of = delivery.consumer;
            if let Some(consumer) = of.and_then(|n| channel.consumers.get_mut(n)) {
                consumer.unacked = consumer.unacked.saturating_sub(1);
            }
            if channel.channel_prefetch > 0 && channel.consumers.len() > 1 {
                let queues: Vec<QueueIndex> = channel.consumers.iter().map(|c| c.queue).collect();
                queues.into_iter().for_each(|queue| self.activate(queue));
            }
        }
        self.settle_row(delivery, outcome, now);
    }

    pub(super) fn settle_row(&mut self, delivery: &Unacked, outcome: Disposition, _: Micros) {
        self.row_done(delivery.queue, delivery.queue_number, delivery.row, outcome);
    }

    /// A row that was taken out of a queue is done, or goes back.
    pub(super) fn row_done(
        &mut self,
        index: QueueIndex,
        queue_number: u64,
        row: RowId,
        outcome: Disposition,
    ) {
        let Some(queue) = self.queue(index) else {
            return;
        };
        if queue.number != queue_number || queue.taken.remove(&row).is_none() {
            return;
        }
        match outcome {
            Disposition::Done => drop(queue.failures.remove(&row)),
            Disposition::Requeue => {
                let failed = queue.failures.entry(row).or_default();
                *failed = failed.saturating_add(1);
                let over = queue
                    .rules
                    .delivery_limit
                    .is_some_and(|limit| *failed > limit);
                match over {
                    false => drop(queue.requeued.insert(row)),
                    true => queue.reject(row, DeathReason::DeliveryLimit),
                }
            }
            Disposition::Release => {
                queue.requeued.insert(row);
            }
            Disposition::Reject => {
                queue.reject(row, DeathReason::Rejected);
            }
        }
        queue.dirty = true;
        self.journal.note(index);
        self.activate(index);
    }

    /// Has the queues that a connection consumes looked at.
    pub(super) fn activate_consumed(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        let channels = conn.channels.values();
        let mut queues: Vec<QueueIndex> = channels
            .flat_map(|c| c.consumers.iter().map(|c| c.queue))
            .collect();
        let sessions = conn.v1.iter().flat_map(|v1| v1.sessions.values());
        queues.extend(sessions.flat_map(|s| s.links.values().filter_map(|link| link.queue())));
        queues.into_iter().for_each(|queue| self.activate(queue));
    }

    /// The consumer of a queue that gets its next message.
    pub(super) fn next_consumer(&mut self, index: QueueIndex) -> Option<ConsumerRef> {
        let out_bytes_max = self.output_budget.each_max();
        let queue = self.queues.get(index as usize)?.as_deref()?;
        let count = queue.consumers.len();
        let tried = match queue.rules.single_active_consumer {
            true => count.min(1),
            false => count,
        };
        let first = match queue.rules.single_active_consumer {
            true => 0,
            false => queue.next_consumer,
        };
        for n in 0..tried {
            let at = (first + n) % count;
            let consumer = queue.consumers[at];
            if takes_more(&mut self.conns, consumer, out_bytes_max) {
                if let Some(queue) = self.queue(index) {
                    queue.next_consumer = at + 1;
                }
                return Some(consumer);
            }
        }
        None
    }
}

fn takes_more<T>(
    conns: &mut [Option<Box<super::connection::AmqpConn<T>>>],
    of: ConsumerRef,
    out_bytes_max: usize,
) -> bool {
    let Some(Some(conn)) = conns.get_mut(of.conn.slot as usize) else {
        return false;
    };
    if conn.id != of.conn {
        return false;
    }
    if conn.v1.is_some() {
        return super::v1::takes_more(conn, of, out_bytes_max);
    }
    let Some(channel) = conn.channels.get(&of.channel) else {
        return false;
    };
    let Some(consumer) = channel.consumers.get(of.number) else {
        return false;
    };
    if !channel.flows || channel.closing {
        return false;
    }
    if !consumer.no_ack {
        let is_below = |unacked: usize, max: u16| max == 0 || unacked < usize::from(max);
        if !is_below(consumer.unacked, consumer.prefetch)
            || !is_below(channel.unacked.len(), channel.channel_prefetch)
            || channel.unacked.len() >= UNACKED_PER_CHANNEL_MAX
        {
            return false;
        }
    }
    if conn.out.len() >= out_bytes_max {
        conn.throttled = true;
        return false;
    }
    true
}
