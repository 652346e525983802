//! From queues to consumers.

use std::rc::Rc;

use busbar_bus::Chunk;
use busbar_event::Micros;
use busbar_gateway::{ConnId, Effect, EventLog};

use crate::codec::encode::{self, DeliveryInfo};
use crate::graph::QueueIndex;
use crate::limits::{CATCH_UP_READ_BYTES, DELIVERIES_PER_TURN};
use crate::mapping::address_of;
use crate::message;
use crate::queue::{DeathReason, ReadyRow, RowId, SharedRows};

use super::channel::{LastAddress, Unacked};
use super::{Broker, BrokerRead};

/// What stands at the front of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueHead {
    /// A row that may be taken.
    Row,
    /// Nothing.
    Empty,
    /// A row that has to be read first.
    Later,
}

/// What became of a look into the log.
enum Refill {
    Progress,
    Later,
}

impl<S: EventLog> Broker<S> {
    /// Serves the queues that have something to do.
    pub(super) fn pump_active(&mut self, now: Micros) {
        for index in std::mem::take(&mut self.active) {
            if let Some(queue) = self.queue(index) {
                queue.active = false;
                self.pump(index, now);
            }
        }
    }

    fn pump(&mut self, index: QueueIndex, now: Micros) {
        let mut left = DELIVERIES_PER_TURN;
        loop {
            let Some(queue) = self.queue(index) else {
                return;
            };
            let looks = queue.needs_head() || !queue.rejected.is_empty();
            let consumer = match queue.consumers.is_empty() {
                true => None,
                false => self.next_consumer(index),
            };
            if consumer.is_none() && !looks {
                return;
            }
            if left == 0 {
                return self.activate(index);
            }
            match self.head(index, now) {
                QueueHead::Row => {}
                QueueHead::Empty => return self.v1_drained(index),
                QueueHead::Later => return,
            }
            let Some(consumer) = consumer else { return };
            let Some(row) = self.take_head(index) else {
                return;
            };
            left -= 1;
            if self.v1(consumer.conn).is_some() {
                self.v1_send_row(consumer, index, &row, now);
                continue;
            }
            self.send_row(
                consumer.conn,
                consumer.channel,
                index,
                &row,
                Some(consumer.number),
                false,
                0,
            );
        }
    }

    /// What stands at the front of a queue, when what is over, too much or refused has gone.
    pub(super) fn head(&mut self, index: QueueIndex, now: Micros) -> QueueHead {
        loop {
            let Some(queue) = self.queue(index) else {
                return QueueHead::Empty;
            };
            let again = match queue.rejected.first_key_value() {
                Some((row, reason)) => Some((*row, Some(*reason))),
                None => queue.requeued.first().map(|row| (*row, None)),
            };
            if let Some((row, dies)) = again {
                if queue.reread.as_ref().is_none_or(|read| read.id != row) {
                    match self.reread(index, row) {
                        Refill::Progress => continue,
                        Refill::Later => return QueueHead::Later,
                    }
                }
                if let Some(reason) = dies {
                    self.kill(index, reason, now);
                    continue;
                }
            }
            let Some(queue) = self.queue(index) else {
                return QueueHead::Empty;
            };
            let front = match again {
                Some(_) => queue.reread.as_ref(),
                None => queue.window.front(),
            };
            let Some(front) = front else {
                if queue.lag.is_empty() {
                    queue.correct();
                    return QueueHead::Empty;
                }
                match self.refill(index) {
                    Refill::Progress => continue,
                    Refill::Later => return QueueHead::Later,
                }
            };
            let over = front.is_over(queue.rules.message_ttl_us, now);
            if !queue.rules.rejects() && queue.rules.is_over(queue.messages(), queue.ready_bytes) {
                self.kill(index, DeathReason::MaxLength, now);
            } else if over {
                self.kill(index, DeathReason::Expired, now);
            } else {
                return QueueHead::Row;
            }
        }
    }

    /// Takes the row at the front out of a queue.
    pub(super) fn take_head(&mut self, index: QueueIndex) -> Option<ReadyRow> {
        let queue = self.queue(index)?;
        let rejected = queue.rejected.first_key_value().map(|(id, _)| *id);
        let first = rejected.or_else(|| queue.requeued.first().copied());
        let row = match first {
            Some(id) => {
                let row = queue.reread.take_if(|row| row.id == id)?;
                if queue.rejected.remove(&id).is_none() {
                    queue.requeued.remove(&id);
                }
                row
            }
            None => queue.take()?,
        };
        queue.taken.insert(row.id, ());
        queue.dirty = true;
        self.journal.note(index);
        Some(row)
    }

    /// Reads the row of a queue that comes once more.
    fn reread(&mut self, index: QueueIndex, row: RowId) -> Refill {
        let cached = self.log.read_cached(row.0, row.1, 1);
        let start = self.log.start(row.0);
        let Some(queue) = self.queue(index) else {
            return Refill::Later;
        };
        let number = queue.number;
        if row.1 < start {
            // The stream no longer has it.
            queue.forget_row(row);
            self.journal.note(index);
            return Refill::Progress;
        }
        match cached {
            Some(chunks) if !chunks.is_empty() => {
                self.again_read(index, number, row, Ok(chunks));
                Refill::Progress
            }
            _ => {
                if !std::mem::replace(&mut queue.reading, true) {
                    let reader = BrokerRead::Again(index, number, row);
                    self.effects.push(Effect::ReadDisk(reader, row.0, row.1));
                }
                Refill::Later
            }
        }
    }

    pub(super) fn again_read(
        &mut self,
        index: QueueIndex,
        number: u64,
        row: RowId,
        result: Result<Vec<Chunk>, u64>,
    ) {
        let Some(queue) = self.queue(index).filter(|q| q.number == number) else {
            return;
        };
        queue.reading = false;
        let found = result.ok().and_then(|chunks| {
            chunks
                .into_iter()
                .find(|chunk| chunk.base <= row.1 && row.1 < chunk.end())
        });
        match found {
            Some(chunk) => {
                queue.reread = Some(ReadyRow {
                    id: row,
                    rows: SharedRows::of(&chunk),
                    row: (row.1 - chunk.base) as usize,
                    redelivered: true,
                });
            }
            None => {
                queue.forget_row(row);
                self.journal.note(index);
            }
        }
        self.activate(index);
    }

    /// Looks for rows of a queue that is behind.
    fn refill(&mut self, index: QueueIndex) -> Refill {
        if self.reads_left == 0 {
            self.activate(index);
            return Refill::Later;
        }
        let Some(queue) = self.queue(index) else {
            return Refill::Later;
        };
        let Some(&(partition, at)) = queue.lag.first() else {
            return Refill::Progress;
        };
        let (number, counted) = (queue.number, queue.counted.get(partition));
        let target = self.live.get(partition).max(counted);
        if at >= target {
            if let Some(queue) = self.queue(index) {
                queue.lag.remove(0);
                queue.correct();
            }
            return Refill::Progress;
        }
        self.reads_left -= 1;
        match self.log.read_cached(partition, at, CATCH_UP_READ_BYTES) {
            Some(chunks) if !chunks.is_empty() => {
                self.behind_read(index, number, partition, at, Ok(chunks));
                Refill::Progress
            }
            _ => {
                let Some(queue) = self.queue(index) else {
                    return Refill::Later;
                };
                if !std::mem::replace(&mut queue.reading, true) {
                    let reader = BrokerRead::Behind(index, number);
                    self.effects.push(Effect::ReadDisk(reader, partition, at));
                }
                Refill::Later
            }
        }
    }

    pub(super) fn behind_read(
        &mut self,
        index: QueueIndex,
        number: u64,
        partition: u32,
        offset: u64,
        result: Result<Vec<Chunk>, u64>,
    ) {
        let Some(queue) = self.queue(index).filter(|q| q.number == number) else {
            return;
        };
        queue.reading = false;
        let (host, counted) = (queue.vhost, queue.counted.get(partition));
        let Some(place) = queue.lag.iter().position(|lag| *lag == (partition, offset)) else {
            return;
        };
        let target = self.live.get(partition).max(counted);
        let mut at = offset;
        match result {
            Err(resume) => at = resume,
            Ok(chunks) => {
                'chunks: for chunk in &chunks {
                    let mut rows: Option<Rc<SharedRows>> = None;
                    for row in 0..chunk.batch.rows() {
                        let id = (partition, chunk.base + row as u64);
                        if id.1 < at {
                            continue;
                        }
                        if id.1 >= target {
                            break 'chunks;
                        }
                        let reaches = self.queues_of(host, id, &chunk.batch, row).contains(&index);
                        if reaches {
                            let Some(queue) = self.queue(index) else {
                                return;
                            };
                            if !queue.has_room() {
                                break 'chunks;
                            }
                            let rows = rows.get_or_insert_with(|| SharedRows::of(chunk));
                            queue.hold(ReadyRow {
                                id,
                                rows: Rc::clone(rows),
                                row,
                                redelivered: false,
                            });
                        }
                        at = id.1 + 1;
                    }
                }
            }
        }
        let Some(queue) = self.queue(index) else {
            return;
        };
        queue.lag[place].1 = at;
        if at >= target {
            queue.lag.remove(place);
            queue.correct();
        } else {
            // The partitions that are behind take turns.
            let lag = queue.lag.remove(place);
            queue.lag.push(lag);
        }
        self.activate(index);
    }

    /// Sends a row to a consumer, or as the answer to a `get`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn send_row(
        &mut self,
        id: ConnId,
        number: u16,
        index: QueueIndex,
        row: &ReadyRow,
        consumer: Option<u32>,
        no_ack: bool,
        left: u64,
    ) {
        let Some(Some(queue)) = self.queues.get(index as usize) else {
            return;
        };
        let (queue_number, prefix) = (queue.number, &*self.hosts[queue.vhost].prefix);
        let Some(Some(conn)) = self.conns.get_mut(id.slot as usize) else {
            return;
        };
        let frame_bytes_max = conn.frame_bytes_max;
        let Some(channel) = conn.channels.get_mut(&number) else {
            return;
        };
        channel.last_tag += 1;
        let tag = channel.last_tag;
        let mut of_get = LastAddress::default();
        let mut of_consumer = consumer.and_then(|n| channel.consumers.get_mut(n));
        let no_ack = of_consumer.as_ref().map_or(no_ack, |c| c.no_ack);
        let (address, consumer_tag) = match &mut of_consumer {
            Some(consumer) => {
                consumer.unacked += usize::from(!no_ack);
                (&mut consumer.last, &*consumer.tag)
            }
            None => (&mut of_get, ""),
        };
        address.read(&row.rows.batch, row.row, prefix);
        let info = DeliveryInfo {
            tag,
            redelivered: row.redelivered,
            exchange: &address.exchange,
            key: &address.key,
        };
        self.properties.clear();
        message::write_properties(&row.rows.batch, row.row, prefix, &mut self.properties);
        let properties = &self.properties;
        let before = conn.out.len();
        conn.out.append(None, |out| {
            match consumer {
                Some(_) => encode::deliver(number, consumer_tag, &info, out),
                None => encode::get_ok(number, &info, left, out),
            }
            encode::content(number, properties, row.payload(), frame_bytes_max, out);
        });
        self.output_budget.add(conn.out.len() - before);
        if !no_ack {
            channel.unacked.push_back(Unacked {
                tag,
                queue: index,
                queue_number,
                row: row.id,
                consumer,
            });
        } else if let Some(Some(queue)) = self.queues.get_mut(index as usize) {
            queue.taken.remove(&row.id);
            queue.failures.remove(&row.id);
        }
        self.counters.delivered.add(1);
        self.wake(id);
    }

    /// What time alone brings about: messages that are over, queues that nobody uses.
    pub(super) fn tick_queues(&mut self, now: Micros) {
        let timed = self.timed.clone();
        for index in timed {
            let Some(queue) = self.queue(index) else {
                continue;
            };
            let unused = queue.consumers.is_empty()
                && queue
                    .rules
                    .expires_us
                    .is_some_and(|us| now - queue.used >= us);
            if unused {
                self.delete_queue(index, now);
            } else if queue.rules.message_ttl_us.is_some() && queue.messages() > 0 {
                self.activate(index);
            }
        }
        self.forget_bindings(now);
        self.journal_lazily(now);
    }
}

impl LastAddress {
    fn read(&mut self, batch: &busbar_event::Batch, row: usize, prefix: &str) {
        let topic = batch.topic(row);
        let key = message::reserved_tag(batch, row, message::ROUTING_KEY);
        if self.topic == topic && key.is_none() && !self.topic.is_empty() {
            return;
        }
        self.topic.clear();
        self.topic.push_str(topic);
        let address = address_of(topic.strip_prefix(prefix).unwrap_or(topic));
        self.exchange.clear();
        self.exchange.push_str(&address.exchange);
        self.key.clear();
        self.key.push_str(key.unwrap_or(&address.key));
        if key.is_some() {
            // The next row of this topic may have another one.
            self.topic.clear();
        }
    }
}

impl ReadyRow {
    fn is_over(&self, ttl_us: Option<Micros>, now: Micros) -> bool {
        ttl_us.is_some_and(|ttl| now.saturating_sub(self.time()) >= ttl)
            || message::expires_at(&self.rows.batch, self.row).is_some_and(|at| at <= now)
    }
}
