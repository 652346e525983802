//! Rows that were committed: each is looked at once, and told to the queues that it reaches.

use std::borrow::Cow;
use std::rc::Rc;

use busbar_bus::Chunk;
use busbar_event::{Batch, Flags};
use busbar_gateway::{Effect, EventLog};

use crate::graph::{QueueIndex, Routed, VirtualHost};
use crate::limits::{LIVE_READ_BYTES, LIVE_ROWS_PER_TURN};
use crate::mapping::address_of;
use crate::message;
use crate::queue::{ReadyRow, RowId, SharedRows};
use crate::record::PartitionNames;

use super::{Broker, BrokerRead};

impl<S: EventLog> Broker<S> {
    /// Looks which partitions there are, when the log says that they changed.
    pub(super) fn refresh_partitions(&mut self) {
        let topology = self.log.topology();
        if self.topology == Some(topology) {
            return;
        }
        self.topology = Some(topology);
        let names = self
            .log
            .partitions()
            .into_iter()
            .map(|p| (p.number, p.name))
            .collect();
        self.names = PartitionNames::new(names);
    }

    /// Looks at what was committed, up to a bound for each turn.
    pub(super) fn run_live(&mut self) {
        self.refresh_partitions();
        let numbers: Vec<u32> = self.names.numbers().collect();
        let mut left = LIVE_ROWS_PER_TURN;
        for partition in numbers {
            let end = self.log.end(partition);
            if self.queue_count == 0 {
                self.live.set(partition, end);
                continue;
            }
            while self.live.get(partition) < end && !self.live_reads.contains(&partition) {
                if left == 0 {
                    self.more = true;
                    return;
                }
                let at = self.live.get(partition);
                let Some(chunks) = self.log.read_cached(partition, at, LIVE_READ_BYTES) else {
                    self.live_reads.push(partition);
                    self.effects
                        .push(Effect::ReadDisk(BrokerRead::Live, partition, at));
                    break;
                };
                if chunks.is_empty() {
                    break;
                }
                for chunk in &chunks {
                    self.look_at(partition, chunk);
                    left = left.saturating_sub(chunk.batch.rows());
                }
            }
        }
    }

    pub(super) fn live_read(
        &mut self,
        partition: u32,
        offset: u64,
        result: Result<Vec<Chunk>, u64>,
    ) {
        self.live_reads.retain(|p| *p != partition);
        if self.live.get(partition) != offset {
            return;
        }
        match result {
            Ok(chunks) => chunks
                .iter()
                .for_each(|chunk| self.look_at(partition, chunk)),
            Err(resume) => self
                .live
                .set(partition, resume.min(self.log.end(partition))),
        }
        self.more = true;
    }

    fn look_at(&mut self, partition: u32, chunk: &Chunk) {
        let live = self.live.get(partition);
        let mut rows: Option<Rc<SharedRows>> = None;
        for host in 0..self.hosts.len() {
            if self.hosts[host].queues.is_empty() {
                continue;
            }
            for row in 0..chunk.batch.rows() {
                let id = (partition, chunk.base + row as u64);
                if id.1 < live {
                    continue;
                }
                let queues = self.queues_of(host, id, &chunk.batch, row);
                for index in &*queues {
                    let rows = rows.get_or_insert_with(|| SharedRows::of(chunk));
                    let ready = ReadyRow {
                        id,
                        rows: Rc::clone(rows),
                        row,
                        redelivered: false,
                    };
                    if let Some(Some(queue)) = self.queues.get_mut(*index as usize) {
                        queue.arrive(ready);
                    }
                    self.activate(*index);
                }
            }
        }
        self.live.set(partition, live.max(chunk.end()));
    }
}

/// The queues that a row reaches in a virtual host.
pub(super) fn queues_of(
    host: &mut VirtualHost,
    (partition, offset): RowId,
    batch: &Batch,
    row: usize,
) -> Rc<[QueueIndex]> {
    let topic = batch.topic(row);
    let Some(rest) = topic.strip_prefix(&*host.prefix) else {
        return Rc::new([]);
    };
    let settled = host.is_settled(partition, offset);
    let key = match Flags(batch.flags()[row]).reserved_tags() {
        true => message::reserved_tag(batch, row, message::ROUTING_KEY),
        false => None,
    };
    if settled
        && key.is_none()
        && let Some(queues) = host.cached(topic)
    {
        return Rc::clone(queues);
    }
    let mut address = address_of(rest);
    if let Some(key) = key {
        address.key = Cow::Borrowed(key);
    }
    let header = |name: &str| message::header_of(batch, row, name).map(str::to_owned);
    let routed = Routed {
        exchange: &address.exchange,
        key: &address.key,
        header: &header,
    };
    let at = (!settled).then_some((partition, offset));
    let (queues, pure) = host.route(&routed, at);
    let queues: Rc<[QueueIndex]> = queues.into();
    if settled && pure && key.is_none() {
        host.remember(topic, Rc::clone(&queues));
    }
    queues
}
