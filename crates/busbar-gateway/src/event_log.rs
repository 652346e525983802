//! The log as sessions use it.

use std::sync::Arc;

use busbar_bus::{Chunk, Event, Refused, Status};
use busbar_event::topic::Filter;

/// A partition of a stream, as sessions see it.
#[derive(Clone, Debug)]
pub struct PartitionInfo {
    /// Its number: dense, the same on all threads, not stable over restarts.
    pub number: u32,
    /// Its stable name, `stream/0`.
    pub name: Arc<str>,
    /// Its stream.
    pub stream: Arc<str>,
    /// What its stream captures; empty for the stream that takes what no other does.
    pub captures: Vec<Filter>,
}

impl PartitionInfo {
    /// Whether anything here may match `filter`.
    pub fn may_match(&self, filter: &Filter) -> bool {
        self.captures.is_empty() || self.captures.iter().any(|c| c.overlaps(filter))
    }
}

/// A retained message.
#[derive(Clone, Debug)]
pub struct RetainedRow {
    /// One row.
    pub batch: busbar_event::Batch,
    /// Which row of the batch.
    pub row: usize,
    /// Its stream.
    pub stream: Arc<str>,
}

/// Some retained messages.
#[derive(Clone, Debug, Default)]
pub struct RetainedPage {
    /// The messages, in topic order.
    pub rows: Vec<RetainedRow>,
    /// Where to go on; `None` when there are no more.
    pub next: Option<Arc<str>>,
}

/// The log that the sessions of one thread publish to and read from. The implementation over the bus is
/// [`crate::BusLog`]; tests have their own.
pub trait EventLog {
    /// Identifies a publish until it is committed.
    type Ticket: Copy + PartialEq;

    /// Takes an event. With `producer` the frame remembers that producer's position.
    fn publish(
        &mut self,
        event: &Event<'_>,
        producer: Option<(&Arc<str>, u64)>,
    ) -> Result<Self::Ticket, Refused>;
    /// Passes the events taken so far to the commit thread.
    fn flush(&mut self);
    /// The status of a publish.
    fn status(&self, ticket: Self::Ticket) -> Status;
    /// Whether publishes are taken; if not, sockets are not read.
    fn writable(&mut self) -> bool;
    /// Changes whenever [`EventLog::partitions`] does.
    fn topology(&self) -> u64;
    /// All partitions that subscribers may read, by number.
    fn partitions(&self) -> Vec<PartitionInfo>;
    /// First offset that is still there.
    fn start(&self, partition: u32) -> u64;
    /// Offset after the last committed row.
    fn end(&self, partition: u32) -> u64;
    /// Rows from `offset` on, if they are in memory.
    fn read_cached(&self, partition: u32, offset: u64, bytes_max: usize) -> Option<Vec<Chunk>>;
    /// The name of the partition that an event would land in.
    fn place(&self, event: &Event<'_>) -> Arc<str>;
    /// The committed position of a producer in a partition, by the partition's name.
    fn producer_position(&self, partition: &str, producer: &str) -> Option<u64>;
    /// The name of the stream that captures `topic`.
    fn stream_of(&self, topic: &str) -> Arc<str>;
    /// Topics with a retained message.
    fn retained_count(&self) -> usize;
    /// Up to `limit` retained messages whose topics match `filter`, in topic order after `after`.
    fn retained(&self, filter: &Filter, after: Option<&str>, limit: usize) -> RetainedPage;
}
