//! A queue: a cursor on the log for each partition, and the rows that were taken from the log and are not
//! done.
//!
//! Rows wait in the log, not here. A queue with consumers holds a window of rows ready for them; a queue
//! without holds nothing but its positions and counts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::BinaryArray;
use busbar_bus::Chunk;
use busbar_event::{Batch, Micros};
use busbar_gateway::ConnId;

use crate::args::QueueRules;
use crate::limits::{WINDOW_BYTES_MAX, WINDOW_ROWS_MAX};
use crate::marks::Marks;

/// Rows of a chunk and their payloads, which are rendered once.
#[derive(Debug)]
pub struct SharedRows {
    /// The rows.
    pub batch: Batch,
    /// Their payloads.
    pub payloads: BinaryArray,
}

impl SharedRows {
    /// Of a chunk.
    pub fn of(chunk: &Chunk) -> Rc<SharedRows> {
        Rc::new(SharedRows {
            payloads: chunk.batch.payloads().into_owned(),
            batch: chunk.batch.clone(),
        })
    }
}

/// Which row of the log.
pub type RowId = (u32, u64);

/// A row that is ready for a consumer.
#[derive(Clone, Debug)]
pub struct ReadyRow {
    /// Partition and offset.
    pub id: RowId,
    /// The rows it is one of.
    pub rows: Rc<SharedRows>,
    /// Which one.
    pub row: usize,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
}

impl ReadyRow {
    /// Its payload.
    pub fn payload(&self) -> &[u8] {
        self.rows.payloads.value(self.row)
    }

    /// When it was stored.
    pub fn time(&self) -> Micros {
        self.rows.batch.times()[self.row]
    }
}

/// Why a message leaves a queue without a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeathReason {
    /// A consumer refused it.
    Rejected,
    /// It waited too long.
    Expired,
    /// The queue was full.
    MaxLength,
    /// It went back to the queue too often.
    DeliveryLimit,
}

impl DeathReason {
    /// As the `x-death` header says it.
    pub fn as_str(self) -> &'static str {
        match self {
            DeathReason::Rejected => "rejected",
            DeathReason::Expired => "expired",
            DeathReason::MaxLength => "maxlen",
            DeathReason::DeliveryLimit => "delivery_limit",
        }
    }
}

/// A consumer, by its connection and channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerRef {
    /// Its connection.
    pub conn: ConnId,
    /// Its channel.
    pub channel: u16,
    /// Its number on the channel.
    pub number: u32,
}

/// A queue.
#[derive(Debug)]
pub struct AmqpQueue {
    /// Tells it from others that had or will have its index.
    pub number: u64,
    /// Its virtual host, by index.
    pub vhost: usize,
    /// Its name.
    pub name: Arc<str>,
    /// Whether it outlives the node.
    pub durable: bool,
    /// Whether it was declared so; an exclusive one does not.
    pub declared_durable: bool,
    /// Whose connection it belongs to, if it is exclusive.
    pub owner: Option<ConnId>,
    /// Whether it goes with its last consumer.
    pub auto_delete: bool,
    /// Its arguments, a field table.
    pub arguments: Box<[u8]>,
    /// What they mean.
    pub rules: QueueRules,
    /// Who consumes.
    pub consumers: Vec<ConsumerRef>,
    /// Whether one of them wants to be alone.
    pub exclusive_consumer: bool,
    /// Which consumer is asked first.
    pub next_consumer: usize,
    /// Whether anybody ever consumed.
    pub had_consumers: bool,
    /// When it was used last.
    pub used: Micros,
    /// Partitions in which it is behind the live position, and where it goes on there.
    pub lag: Vec<RowId>,
    /// Rows that are ready.
    pub window: VecDeque<ReadyRow>,
    window_bytes: usize,
    /// Rows to be delivered once more.
    pub requeued: BTreeSet<RowId>,
    /// Rows that wait to be dead-lettered, and why.
    pub rejected: BTreeMap<RowId, DeathReason>,
    /// The row of `requeued` or `rejected` that was read last.
    pub reread: Option<ReadyRow>,
    /// Rows that were taken out and are not done.
    pub taken: BTreeMap<RowId, ()>,
    /// How often rows were tried in vain, since the node started.
    pub failures: BTreeMap<RowId, u32>,
    /// Rows that wait and were never taken out.
    pub ready: u64,
    /// Their payload bytes.
    pub ready_bytes: u64,
    /// Publishes on their way to the disk, counted for queues that refuse publishes.
    pub on_the_way: u64,
    /// Rows before these positions were counted, and found by the cursors.
    pub counted: Marks,
    /// A read from the disk is under way.
    pub reading: bool,
    /// Whether its record has to be journalled.
    pub dirty: bool,
    /// Whether it waits for a turn.
    pub active: bool,
}

impl AmqpQueue {
    /// A queue without messages.
    pub fn new(
        number: u64,
        vhost: usize,
        name: Arc<str>,
        rules: QueueRules,
        now: Micros,
    ) -> AmqpQueue {
        AmqpQueue {
            number,
            vhost,
            name,
            durable: false,
            declared_durable: false,
            owner: None,
            auto_delete: false,
            arguments: Box::default(),
            rules,
            consumers: Vec::new(),
            exclusive_consumer: false,
            next_consumer: 0,
            had_consumers: false,
            used: now,
            lag: Vec::new(),
            window: VecDeque::new(),
            window_bytes: 0,
            requeued: BTreeSet::new(),
            rejected: BTreeMap::new(),
            reread: None,
            taken: BTreeMap::new(),
            failures: BTreeMap::new(),
            ready: 0,
            ready_bytes: 0,
            on_the_way: 0,
            counted: Marks::default(),
            reading: false,
            dirty: false,
            active: false,
        }
    }

    /// Messages that wait.
    pub fn messages(&self) -> u64 {
        self.ready + self.requeued.len() as u64
    }

    /// Whether rows have to be looked at although nobody consumes.
    pub fn needs_head(&self) -> bool {
        self.rules.message_ttl_us.is_some()
            || (!self.rules.rejects() && self.rules.is_over(self.messages(), self.ready_bytes))
    }

    /// Whether rows are to be held ready.
    pub fn wants_rows(&self) -> bool {
        !self.consumers.is_empty() || self.needs_head()
    }

    /// Whether more rows are held ready.
    pub fn has_room(&self) -> bool {
        self.window.len() < WINDOW_ROWS_MAX && self.window_bytes < WINDOW_BYTES_MAX
    }

    /// Whether it is behind the live position in a partition.
    #[inline]
    pub fn is_behind(&self, partition: u32) -> bool {
        self.lag.iter().any(|(p, _)| *p == partition)
    }

    /// A new row, at the live position. It stays in the log unless it is wanted now.
    #[inline]
    pub fn arrive(&mut self, row: ReadyRow) {
        let (partition, offset) = row.id;
        if offset < self.counted.get(partition) {
            return;
        }
        self.ready += 1;
        self.ready_bytes += row.payload().len() as u64;
        if self.is_behind(partition) {
            return;
        }
        match self.wants_rows() && self.has_room() {
            true => self.hold(row),
            false => self.lag.push(row.id),
        }
    }

    /// Holds a row ready.
    #[inline]
    pub fn hold(&mut self, row: ReadyRow) {
        self.window_bytes += row.payload().len();
        self.window.push_back(row);
    }

    /// Takes the first row that is held ready out of the queue.
    #[inline]
    pub fn take(&mut self) -> Option<ReadyRow> {
        let row = self.window.pop_front()?;
        let len = row.payload().len();
        self.window_bytes -= len;
        self.ready = self.ready.saturating_sub(1);
        self.ready_bytes = self.ready_bytes.saturating_sub(len as u64);
        self.correct();
        Some(row)
    }

    /// When all rows that wait are held, their number is known, whatever was counted.
    pub fn correct(&mut self) {
        if self.lag.is_empty() {
            self.ready = self.window.len() as u64;
            self.ready_bytes = self.window_bytes as u64;
        }
    }

    /// Gives held rows back to the log: the cursors go to the first of them.
    pub fn let_go(&mut self) {
        for row in std::mem::take(&mut self.window) {
            let (partition, offset) = row.id;
            match self.lag.iter_mut().find(|(p, _)| *p == partition) {
                Some((_, at)) => *at = (*at).min(offset),
                None => self.lag.push(row.id),
            }
        }
        self.window_bytes = 0;
        self.reread = None;
    }

    /// A row is not for the consumers of this queue. Without an exchange for it, it is done.
    pub fn reject(&mut self, row: RowId, reason: DeathReason) {
        self.failures.remove(&row);
        if self.rules.dead_letter_exchange.is_some() {
            self.rejected.insert(row, reason);
        }
    }

    /// A row that was to come once more is no longer there.
    pub fn forget_row(&mut self, row: RowId) {
        self.requeued.remove(&row);
        self.rejected.remove(&row);
        self.failures.remove(&row);
        self.dirty = true;
    }

    /// Forgets all messages that wait; how many there were. The positions go to the live ones.
    pub fn purge(&mut self) -> u64 {
        let count = self.messages();
        self.window.clear();
        self.window_bytes = 0;
        self.lag.clear();
        for row in std::mem::take(&mut self.requeued) {
            self.failures.remove(&row);
        }
        self.reread = None;
        (self.ready, self.ready_bytes) = (0, 0);
        self.dirty = true;
        count
    }

    /// Where it goes on in a partition after a restart, whose live position is `live`.
    pub fn cursor(&self, partition: u32, live: u64) -> u64 {
        let behind = self
            .lag
            .iter()
            .find(|(p, _)| *p == partition)
            .map(|(_, at)| *at);
        let at = behind.unwrap_or(live);
        let held = self.window.iter().find(|row| row.id.0 == partition);
        held.map_or(at, |row| row.id.1.min(at))
    }
}
