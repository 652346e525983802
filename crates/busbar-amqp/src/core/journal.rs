//! What is kept of exchanges, bindings and queues, and what of it must be durable before an answer leaves.
//!
//! Declarations gate their answers. What happened to a queue (deliveries, acknowledgements) goes out with the
//! next batch; one such batch is on its way at a time, so that the disk sets the pace. After a crash a message
//! may come again whose acknowledgement was on its way, as redelivered; none is lost.

use std::collections::VecDeque;
use std::sync::Arc;

use busbar_event::Micros;
use busbar_gateway::{ConnId, Effect, EventLog};
use busbar_log::Change;
use bytes::Bytes;

use crate::args::QueueRules;
use crate::codec::FieldTable;
use crate::fault::AmqpFault;
use crate::graph::{Binding, Destination, QueueIndex};
use crate::limits::{JOURNAL_RECORDS_MAX, LAZY_JOURNAL_US};
use crate::marks::Marks;
use crate::record::{self, RecordKey};

use super::Broker;

/// Changes that wait for the end of the turn.
#[derive(Debug)]
pub struct BrokerJournal {
    next: u64,
    changes: Vec<Change>,
    /// Queues whose records have changed.
    dirty: Vec<QueueIndex>,
    /// Connections whose answers wait for a batch.
    gated: VecDeque<(u64, Vec<ConnId>)>,
    waiting: Vec<ConnId>,
    /// The batch with queues that is on its way.
    on_its_way: Option<u64>,
    lazy_at: Micros,
}

impl Default for BrokerJournal {
    fn default() -> BrokerJournal {
        BrokerJournal {
            next: 1,
            changes: Vec::new(),
            dirty: Vec::new(),
            gated: VecDeque::new(),
            waiting: Vec::new(),
            on_its_way: None,
            lazy_at: 0,
        }
    }
}

impl BrokerJournal {
    pub fn is_due(&self) -> bool {
        !self.changes.is_empty()
            || !self.waiting.is_empty()
            || (!self.dirty.is_empty() && self.on_its_way.is_none())
    }

    /// The answer of a connection waits for the next batch; its number.
    pub fn gate_on_next(&mut self, id: ConnId) -> u64 {
        if self.waiting.last() != Some(&id) {
            self.waiting.push(id);
        }
        self.next
    }

    pub fn put(&mut self, key: &RecordKey, value: Bytes) {
        self.changes.push(Change::Put(key.to_bytes(), value));
    }

    pub fn delete(&mut self, key: &RecordKey) {
        self.changes.push(Change::Delete(key.to_bytes()));
    }

    /// A queue, which is marked, has changed.
    #[inline]
    pub fn note(&mut self, index: QueueIndex) {
        if self.dirty.last() != Some(&index) {
            self.dirty.push(index);
        }
    }

    /// A queue is deleted.
    pub fn forget(&mut self, index: QueueIndex) {
        self.dirty.retain(|dirty| *dirty != index);
    }
}

impl<S: EventLog> Broker<S> {
    pub(super) fn journal_binding(&mut self, host: usize, source: &str, binding: &Binding) {
        let queue = match &binding.to {
            Destination::Queue(index) => self.queue(*index).map(|q| Arc::clone(&q.name)),
            Destination::Exchange(_) => None,
        };
        let record = record::encode_binding(source, queue.as_deref(), binding, &self.names);
        let vhost = self.hosts[host].name.to_string();
        self.journal
            .put(&RecordKey::Binding(vhost, binding.number), record);
    }

    /// The record of a queue goes with the next batch.
    pub(super) fn journal_queue(&mut self, index: QueueIndex) {
        let Some(Some(queue)) = self.queues.get_mut(index as usize) else {
            return;
        };
        queue.dirty = false;
        if !queue.durable {
            return;
        }
        let host = &self.hosts[queue.vhost];
        let Some((_, born)) = host.queues.get(&queue.name) else {
            return;
        };
        let record = record::encode_queue(queue, born, &self.live, &self.names);
        let key = RecordKey::Queue(host.name.to_string(), queue.name.to_string());
        self.journal.put(&key, record);
    }

    pub(super) fn journal_due(&mut self, _: Micros) {
        if self.journal.on_its_way.is_none() && !self.journal.dirty.is_empty() {
            let mut dirty = std::mem::take(&mut self.journal.dirty);
            if dirty.len() > JOURNAL_RECORDS_MAX {
                self.journal.dirty = dirty.split_off(JOURNAL_RECORDS_MAX);
            }
            let before = self.journal.changes.len();
            for index in dirty {
                if self.queue(index).is_some_and(|q| q.dirty) {
                    self.journal_queue(index);
                }
            }
            if self.journal.changes.len() > before {
                self.journal.on_its_way = Some(self.journal.next);
            }
        }
        if self.journal.changes.is_empty() && self.journal.waiting.is_empty() {
            return;
        }
        let seq = self.journal.next;
        self.journal.next += 1;
        let waiting = std::mem::take(&mut self.journal.waiting);
        if !waiting.is_empty() {
            self.journal.gated.push_back((seq, waiting));
        }
        let changes = std::mem::take(&mut self.journal.changes);
        self.effects.push(Effect::Journal(seq, changes));
    }

    /// A batch is durable, or has failed.
    pub fn journalled(&mut self, seq: u64, durable: bool, now: Micros) {
        if self.journal.on_its_way.is_some_and(|way| way <= seq) {
            self.journal.on_its_way = None;
        }
        while let Some((_, ids)) = self.journal.gated.pop_front_if(|(batch, _)| *batch <= seq) {
            for id in ids {
                if !durable {
                    if let Some(conn) = self.conn(id) {
                        conn.out.drop_staged();
                    }
                    let fault = AmqpFault::internal("the declaration could not be stored");
                    self.close_connection(id, &fault, now);
                    continue;
                }
                if let Some(conn) = self.conn(id) {
                    conn.out.release(seq);
                    self.wake(id);
                }
            }
        }
    }

    /// Journals positions and counts of queues that have no other news, now and then: a restart goes on from
    /// there.
    pub(super) fn journal_lazily(&mut self, now: Micros) {
        if now - self.journal.lazy_at < LAZY_JOURNAL_US || self.live == self.journalled_live {
            return;
        }
        self.journal.lazy_at = now;
        self.journalled_live = self.live.clone();
        for index in 0..self.queues.len() as QueueIndex {
            if let Some(queue) = self.queue(index)
                && queue.durable
                && !queue.dirty
            {
                queue.dirty = true;
                self.journal.note(index);
            }
        }
    }

    pub(super) fn journal_all(&mut self, now: Micros) {
        for index in 0..self.queues.len() as QueueIndex {
            self.journal_queue(index);
        }
        self.journal_due(now);
    }

    /// Forgets bindings that ended and that no queue has messages from any more.
    pub(super) fn forget_bindings(&mut self, _: Micros) {
        for host in 0..self.hosts.len() {
            let (live, queues) = (&self.live, &self.queues);
            let oldest = |partition: u32| {
                let of = queues.iter().flatten().filter(|q| q.vhost == host);
                let all = of.map(|q| q.cursor(partition, live.get(partition)));
                all.min().unwrap_or(u64::MAX)
            };
            let gone = self.hosts[host].forget_ended(oldest);
            let vhost = self.hosts[host].name.to_string();
            for number in gone {
                self.journal
                    .delete(&RecordKey::Binding(vhost.clone(), number));
            }
        }
    }

    /// Brings back what was kept.
    pub(super) fn restore(
        &mut self,
        records: impl IntoIterator<Item = (Bytes, Bytes)>,
        now: Micros,
    ) {
        let mut bindings = Vec::new();
        let mut first = Marks::default();
        for partition in self.names.numbers() {
            self.live.set(partition, self.log.end(partition));
        }
        let mut counted_all: Option<Marks> = None;
        for (key, value) in records {
            match RecordKey::parse(&key) {
                Some(RecordKey::Exchange(vhost, name)) => {
                    if let (Ok(host), Some(exchange)) = (
                        self.host_named(&vhost),
                        record::decode_exchange(&name, &value),
                    ) {
                        self.hosts[host]
                            .exchanges
                            .insert(Arc::clone(&exchange.name), exchange);
                    }
                }
                Some(RecordKey::Binding(vhost, number)) => {
                    if let Some(binding) = record::decode_binding(&value, &self.names) {
                        bindings.push((vhost, number, binding));
                    }
                }
                Some(RecordKey::Queue(vhost, name)) => {
                    if let Some(counted) = self.restore_queue(&vhost, &name, &value, now) {
                        let mut all = counted_all.take().unwrap_or_else(|| self.live.clone());
                        for partition in self.names.numbers() {
                            all.set(partition, all.get(partition).min(counted.get(partition)));
                        }
                        counted_all = Some(all);
                    }
                }
                None => {}
            }
        }
        if let Some(all) = counted_all {
            first.raise(&all);
            for partition in self.names.numbers() {
                let at = first.get(partition).max(self.log.start(partition));
                self.live.set(partition, at.min(self.log.end(partition)));
            }
        }
        for (vhost, number, kept) in bindings {
            self.next_binding = self.next_binding.max(number);
            let Ok(host) = self.host_named(&vhost) else {
                continue;
            };
            let to = match kept.to_queue {
                true => match self.hosts[host].queues.get(&*kept.to) {
                    Some((index, _)) => Destination::Queue(*index),
                    None => continue,
                },
                false => Destination::Exchange(kept.to.into()),
            };
            let Some(kind) = self.hosts[host].exchanges.get(&kept.source).map(|e| e.kind) else {
                continue;
            };
            let mut binding = Binding::new(number, kind, to, &kept.key, &kept.arguments, kept.from);
            binding.durable = true;
            binding.until = kept.until;
            self.hosts[host].add_binding(&kept.source, binding);
        }
    }

    fn restore_queue(
        &mut self,
        vhost: &str,
        name: &str,
        value: &[u8],
        now: Micros,
    ) -> Option<Marks> {
        let host = self.host_named(vhost).ok()?;
        let kept = record::decode_queue(value, &self.names)?;
        let arguments = FieldTable::check(&kept.arguments).ok()?;
        let rules = QueueRules::read(arguments, name, vhost).ok()?;
        let mut queue = self.new_queue(host, name, rules, now);
        queue.durable = true;
        queue.declared_durable = true;
        queue.auto_delete = kept.auto_delete;
        queue.arguments = kept.arguments;
        queue.ready = kept.ready;
        queue.ready_bytes = kept.ready_bytes;
        queue.requeued.extend(kept.open);
        for partition in self.names.numbers() {
            let at = kept.cursors.get(partition).max(self.log.start(partition));
            if at < self.log.end(partition) {
                queue.lag.push((partition, at));
            }
        }
        let counted = kept.counted.clone();
        queue.counted = kept.counted;
        self.add_queue(queue, kept.born);
        Some(counted)
    }
}
