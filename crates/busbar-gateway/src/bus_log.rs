//! [`EventLog`] over the bus.

use std::sync::Arc;

use busbar_bus::{Bus, Chunk, Event, INBOX, Publisher, Refused, Status, StreamPartition, Ticket};
use busbar_event::topic::Filter;
use busbar_event::{BatchBuilder, Error, Row};
use busbar_log::WakerGuard;

use crate::event_log::{EventLog, PartitionInfo, RetainedPage, RetainedRow};
use crate::limits::RETAINED_PAGE_BYTES;

/// The log of one worker thread: a publisher of its own, and every partition.
pub struct BusLog {
    bus: Bus,
    publisher: Publisher,
    on_commit: Arc<dyn Fn() + Send + Sync>,
    epoch: u64,
    partitions: Vec<Option<WatchedPartition>>,
}

struct WatchedPartition {
    partition: Arc<StreamPartition>,
    info: PartitionInfo,
    _guard: WakerGuard,
}

impl BusLog {
    /// `settled` is called when publishes were committed, `committed` when any partition grew.
    /// Payloads are taken up to `payload_bytes_max`.
    pub fn new(
        bus: Bus,
        payload_bytes_max: usize,
        settled: Arc<dyn Fn() + Send + Sync>,
        committed: Arc<dyn Fn() + Send + Sync>,
    ) -> BusLog {
        let mut publisher = bus.publisher(settled);
        publisher.take_payloads_up_to(payload_bytes_max);
        let mut log = BusLog {
            bus,
            publisher,
            on_commit: committed,
            epoch: u64::MAX,
            partitions: Vec::new(),
        };
        log.refresh();
        log
    }

    /// Looks which partitions there are, when the bus says that they changed.
    pub fn refresh(&mut self) {
        let epoch = self.bus.route_epoch();
        if epoch == self.epoch {
            return;
        }
        for stream in self.bus.streams() {
            if stream.is_internal() {
                continue;
            }
            let captures = match stream.name() {
                INBOX => Vec::new(),
                _ => stream.spec().topics.clone(),
            };
            for partition in stream.partitions().iter() {
                let slot = partition.id().index();
                if self.partitions.len() <= slot {
                    self.partitions.resize_with(slot + 1, || None);
                }
                let info = PartitionInfo {
                    number: partition.id().0,
                    name: partition_name(partition),
                    stream: stream.name().into(),
                    captures: captures.clone(),
                };
                match &mut self.partitions[slot] {
                    Some(watched) => watched.info = info,
                    None => {
                        self.partitions[slot] = Some(WatchedPartition {
                            info,
                            _guard: partition.on_commit(Arc::clone(&self.on_commit)),
                            partition: Arc::clone(partition),
                        });
                    }
                }
            }
        }
        self.epoch = epoch;
    }

    /// A partition by its number.
    pub fn partition(&self, number: u32) -> Option<&Arc<StreamPartition>> {
        Some(&self.partitions.get(number as usize)?.as_ref()?.partition)
    }

    /// Tells the publisher that what settled was seen.
    pub fn settle(&mut self) {
        self.publisher.settle();
    }

    fn named(&self, name: &str) -> Option<&WatchedPartition> {
        self.partitions
            .iter()
            .flatten()
            .find(|w| *w.info.name == *name)
    }
}

impl EventLog for BusLog {
    type Ticket = Ticket;

    #[inline]
    fn publish(
        &mut self,
        event: &Event<'_>,
        producer: Option<(&Arc<str>, u64)>,
    ) -> Result<Ticket, Refused> {
        match producer {
            None => self.publisher.push(event),
            Some((producer, position)) => self.publisher.push_from(event, producer, position),
        }
    }

    fn flush(&mut self) {
        self.publisher.flush();
    }

    #[inline]
    fn status(&self, ticket: Ticket) -> Status {
        self.publisher.status(ticket)
    }

    fn writable(&mut self) -> bool {
        self.publisher.writable()
    }

    fn topology(&self) -> u64 {
        self.epoch
    }

    fn partitions(&self) -> Vec<PartitionInfo> {
        self.partitions
            .iter()
            .flatten()
            .map(|w| w.info.clone())
            .collect()
    }

    fn start(&self, partition: u32) -> u64 {
        self.partition(partition).map_or(0, |p| p.start())
    }

    fn end(&self, partition: u32) -> u64 {
        self.partition(partition).map_or(0, |p| p.end())
    }

    fn read_cached(&self, partition: u32, offset: u64, bytes_max: usize) -> Option<Vec<Chunk>> {
        // What cannot be decoded is reported by the read from disk, with where to go on.
        self.partition(partition)?
            .read_cached(offset, bytes_max)?
            .ok()
    }

    fn place(&self, event: &Event<'_>) -> Arc<str> {
        let partition = self.publisher.place(event);
        match self.partitions.get(partition.index()) {
            Some(Some(watched)) => Arc::clone(&watched.info.name),
            _ => "".into(),
        }
    }

    fn producer_position(&self, partition: &str, producer: &str) -> Option<u64> {
        self.named(partition)?.partition.producer_position(producer)
    }

    fn stream_of(&self, topic: &str) -> Arc<str> {
        self.bus.home(topic).name().into()
    }

    fn retained_count(&self) -> usize {
        self.bus.retained().count()
    }

    fn retained(&self, filter: &Filter, after: Option<&str>, limit: usize) -> RetainedPage {
        let mut page = self.bus.retained().matching(filter, after, limit);
        let mut bytes = 0;
        let small = page
            .values
            .iter()
            .take_while(|value| {
                let fits = bytes < RETAINED_PAGE_BYTES;
                bytes += value.payload.len();
                fits
            })
            .count();
        if small < page.values.len() {
            page.values.truncate(small);
            page.next = page.values.last().map(|value| Arc::clone(&value.topic));
        }
        let mut builder = BatchBuilder::new();
        for value in &page.values {
            let tags: Vec<(&str, &str)> = value
                .tags
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .collect();
            let topic = builder.topic_id(&value.topic);
            let client = value.client.as_deref().map(|c| builder.client_id(c));
            builder.push(Row {
                topic,
                key: value.key.as_deref(),
                time: value.time,
                client,
                flags: value.flags,
                tags: &tags,
                payload: &value.payload,
            });
        }
        let batch = builder.finish();
        let rows = page
            .values
            .iter()
            .enumerate()
            .map(|(row, value)| RetainedRow {
                batch: batch.clone(),
                row,
                stream: self.stream_of(&value.topic),
            })
            .collect();
        RetainedPage {
            rows,
            next: page.next,
        }
    }
}

/// The name by which sessions remember a partition.
pub fn partition_name(partition: &StreamPartition) -> Arc<str> {
    format!("{}/{}", partition.stream(), partition.number()).into()
}

/// Where to go on after a read from disk failed for good; `None` when it is worth trying again.
pub fn resume_after(error: &Error, offset: u64) -> Option<u64> {
    error
        .args()
        .iter()
        .filter(|(name, _)| matches!(*name, "resume" | "start"))
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .find(|at| *at > offset)
}
