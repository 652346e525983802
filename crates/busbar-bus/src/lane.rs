//! One publisher's batches for one partition, and how their tickets settle.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use busbar_event::{BatchBuilder, Class, Error};
use busbar_log::LogError;
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::{
    ingest::TimeReader,
    limits::{LANE_BYTES_MAX, LANE_FAILURES_MAX, LANE_ROWS_MAX},
    stream::StreamPartition,
};

/// What an event waits for: the batch it was pushed into. Events of one batch have equal tickets,
/// and the batches of a lane settle in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub(crate) lane: u32,
    pub(crate) seq: u64,
}

/// What became of a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not yet as durable as the stream says.
    Pending,
    /// As durable as the stream says; may be acknowledged.
    Committed,
    /// Not stored; must not be acknowledged.
    Failed(Failure),
}

/// Why a batch was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No room on the disk.
    DiskFull,
    /// More waits for the disk than the log holds.
    Busy,
    /// The disk refused a write or a sync; the segment was closed.
    DiskFailed,
    /// The log refused the batch by a rule.
    Refused,
    /// The node is shutting down.
    Closed,
    /// It settled so long ago, among so many failures, that the outcome is no longer known.
    Forgotten,
}

impl Failure {
    /// What to do about it.
    pub fn class(self) -> Class {
        match self {
            Failure::Refused => Class::Permanent,
            _ => Class::Transient,
        }
    }

    /// The name for programs.
    pub fn code(self) -> &'static str {
        match self {
            Failure::DiskFull => "bus.disk-full",
            Failure::Busy => "bus.busy",
            Failure::DiskFailed => "bus.disk-failed",
            Failure::Refused => "bus.refused",
            Failure::Closed => "bus.closed",
            Failure::Forgotten => "bus.forgotten",
        }
    }

    /// The error people see.
    pub fn error(self) -> Error {
        Error::new(self.class(), self.code())
    }

    pub(crate) fn of(error: &LogError) -> Failure {
        match error {
            LogError::Full { .. } => Failure::DiskFull,
            LogError::Busy { .. } => Failure::Busy,
            LogError::Closed => Failure::Closed,
            LogError::Refused { .. } => Failure::Refused,
            _ => Failure::DiskFailed,
        }
    }
}

/// The builder of one partition's batches, and the batches that are being committed.
pub(crate) struct Lane {
    pub partition: Arc<StreamPartition>,
    pub builder: BatchBuilder,
    /// Number of the batch that gathers now.
    pub next: u64,
    /// Bytes gathered in the builder, as the budget counts them.
    pub gathered: u64,
    pub outcome: Arc<Outcome>,
    pub time: TimeReader,
    /// Producers of the events in the builder, with the last position of each.
    producers: Vec<(Arc<str>, u64)>,
    producer_at: HashMap<Arc<str>, usize>,
    client: String,
    client_id: u32,
    /// Epoch of the builder in which `client_id` is valid; `None` before the first client.
    client_epoch: Option<u64>,
}

impl Lane {
    pub fn new(partition: Arc<StreamPartition>) -> Lane {
        Lane {
            partition,
            builder: BatchBuilder::new(),
            next: 0,
            gathered: 0,
            outcome: Arc::default(),
            time: TimeReader::default(),
            producers: Vec::new(),
            producer_at: HashMap::new(),
            client: String::new(),
            client_id: 0,
            client_epoch: None,
        }
    }

    /// The client's number in the builder; the last one asked for costs a comparison.
    #[inline]
    pub fn client_id(&mut self, client: &str) -> u32 {
        let epoch = self.builder.epoch();
        if self.client_epoch == Some(epoch) && self.client == client {
            return self.client_id;
        }
        self.client_id = self.builder.client_id(client);
        self.client_epoch = Some(epoch);
        self.client.clear();
        self.client.push_str(client);
        self.client_id
    }

    /// Whether one frame cannot name more producers.
    #[inline]
    pub fn is_crowded(&self) -> bool {
        self.producers.len() >= busbar_log::limits::PRODUCERS_PER_FRAME_MAX
    }

    /// Notes the position of a producer that has an event in the builder.
    pub fn remember(&mut self, producer: &Arc<str>, position: u64) {
        let at = match self.producer_at.get(producer) {
            Some(at) => *at,
            None => {
                let at = self.producers.len();
                self.producer_at.insert(Arc::clone(producer), at);
                self.producers.push((Arc::clone(producer), position));
                at
            }
        };
        let last = &mut self.producers[at].1;
        *last = position.max(*last);
    }

    /// The producers of the batch that is sealed.
    pub fn take_producers(&mut self) -> Vec<(Arc<str>, u64)> {
        self.producer_at.clear();
        std::mem::take(&mut self.producers)
    }

    /// Sealed batches that have not settled.
    #[inline]
    pub fn in_flight(&self) -> u64 {
        self.next - self.outcome.settled()
    }

    /// Whether the batch that gathers need not wait for the one before it.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.builder.rows() >= LANE_ROWS_MAX
            || self.gathered >= LANE_BYTES_MAX as u64
            || self.is_crowded()
    }
}

/// How the batches of a lane ended; written by the commit thread, read by the publisher.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Batches below this number have settled.
    settled: AtomicU64,
    /// How many of them failed; while it is zero, `rest` need not be locked.
    failed: AtomicU64,
    rest: Mutex<Rest>,
}

#[derive(Debug, Default)]
struct Rest {
    /// Batches that settled before one sealed earlier did: an append may be refused at once while
    /// others wait for the disk.
    early: Vec<u64>,
    /// Failed batches, as ranges in order.
    failures: Vec<(std::ops::Range<u64>, Failure)>,
    /// Batches below this number read as forgotten.
    forgotten: u64,
}

impl Outcome {
    #[inline]
    pub fn settled(&self) -> u64 {
        self.settled.load(Ordering::Acquire)
    }

    /// Notes the outcome of batch `seq`.
    pub fn settle(&self, seq: u64, result: Result<(), Failure>) {
        let mut rest = self.rest.lock();
        if let Err(failure) = result {
            rest.fail(seq, failure);
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        let mut settled = self.settled.load(Ordering::Relaxed);
        if seq != settled {
            rest.early.push(seq);
            return;
        }
        settled += 1;
        while let Some(at) = rest.early.iter().position(|early| *early == settled) {
            rest.early.swap_remove(at);
            settled += 1;
        }
        self.settled.store(settled, Ordering::Release);
    }

    #[inline]
    pub fn status(&self, seq: u64) -> Status {
        if seq >= self.settled() {
            Status::Pending
        } else if self.failed.load(Ordering::Relaxed) == 0 {
            Status::Committed
        } else {
            self.rest.lock().status(seq)
        }
    }
}

impl Rest {
    fn fail(&mut self, seq: u64, failure: Failure) {
        let at = self.failures.partition_point(|(range, _)| range.end < seq);
        match self.failures.get_mut(at) {
            Some((range, why)) if range.end == seq && *why == failure => range.end += 1,
            _ => {
                let at = self
                    .failures
                    .partition_point(|(range, _)| range.start <= seq);
                self.failures.insert(at, (seq..seq + 1, failure));
            }
        }
        // What is forgotten reads as failed: the sender repeats it, which at-least-once allows.
        if self.failures.len() > LANE_FAILURES_MAX {
            let (range, _) = self.failures.remove(0);
            self.forgotten = self.forgotten.max(range.end);
        }
    }

    fn status(&self, seq: u64) -> Status {
        if seq < self.forgotten {
            return Status::Failed(Failure::Forgotten);
        }
        let at = self.failures.partition_point(|(range, _)| range.end <= seq);
        match self.failures.get(at) {
            Some((range, failure)) if range.contains(&seq) => Status::Failed(*failure),
            _ => Status::Committed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_settle_in_order_even_if_they_end_out_of_order() {
        let outcome = Outcome::default();
        outcome.settle(1, Err(Failure::Busy));
        assert_eq!(outcome.status(0), Status::Pending);
        assert_eq!(outcome.status(1), Status::Pending);
        outcome.settle(0, Ok(()));
        assert_eq!(outcome.status(0), Status::Committed);
        assert_eq!(outcome.status(1), Status::Failed(Failure::Busy));
        assert_eq!(outcome.status(2), Status::Pending);
    }

    #[test]
    fn failures_are_remembered_as_ranges_and_then_forgotten() {
        let outcome = Outcome::default();
        for seq in 0..10 {
            outcome.settle(seq, Err(Failure::DiskFull));
        }
        assert_eq!(outcome.rest.lock().failures.len(), 1);
        let last = 10 + 4 * LANE_FAILURES_MAX as u64;
        for seq in 10..last {
            outcome.settle(
                seq,
                if seq % 2 == 0 {
                    Err(Failure::DiskFull)
                } else {
                    Ok(())
                },
            );
        }
        assert!(outcome.rest.lock().failures.len() <= LANE_FAILURES_MAX);
        assert_eq!(outcome.status(0), Status::Failed(Failure::Forgotten));
        assert_eq!(outcome.status(last - 1), Status::Committed);
        assert_eq!(outcome.status(last - 2), Status::Failed(Failure::DiskFull));
    }
}
