//! Reads the events that match a filter, from a position on, over one stream or all of them.
//!
//! A subscription holds one cursor per partition. A slow reader lags behind on the log: no event is
//! buffered for it and none is dropped.

use std::sync::Arc;

use arrow::array::Array as _;
use busbar_access::Principal;
use busbar_bus::{Bus, Cursor, Gap, Item, Stream, StreamPartition};
use busbar_event::topic::Filter;
use busbar_event::{Batch, Class, Error};
use busbar_log::WakerGuard;
use tokio::sync::Notify;

use crate::events::condition::Condition;
use crate::events::position::{self, Start};
use crate::limits::{LAST_SCAN_EVENTS_MAX, SUBSCRIPTION_READ_BYTES, SUBSCRIPTION_SCAN_EVENTS_MAX};

/// Which events a reader asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Topic filter; all topics when absent.
    pub(crate) filter: Option<Filter>,
    /// Name of the only stream to read; all streams but internal ones when absent.
    pub(crate) stream: Option<String>,
    /// What else an event must have.
    pub(crate) condition: Condition,
}

/// What one poll returns.
pub(crate) enum Found {
    /// Matching rows of a batch, in order; none after a long stretch without a match.
    Events {
        stream: Arc<Stream>,
        partition: u16,
        base: u64,
        batch: Batch,
        rows: Vec<u32>,
    },
    /// Events that retention or damage took.
    Gap {
        stream: Arc<Stream>,
        partition: u16,
        gap: Gap,
    },
}

/// Cursors on the partitions that are read; see the module.
pub(crate) struct Subscription {
    bus: Bus,
    wanted: Wanted,
    principal: Principal,
    readers: Vec<Reader>,
    epoch: u64,
    turn: usize,
    wake: Arc<Notify>,
}

struct Reader {
    stream: Arc<Stream>,
    cursor: Cursor,
    _wake: WakerGuard,
}

impl Subscription {
    /// Opens the cursors. `wake` is notified after each commit to a partition that is read.
    ///
    /// # Errors
    /// When the stream does not exist or the start cannot be found on the disk.
    pub(crate) async fn open(
        bus: &Bus,
        principal: Principal,
        wanted: Wanted,
        start: Start,
        wake: Arc<Notify>,
    ) -> Result<Subscription, Error> {
        if let Some(name) = &wanted.stream
            && bus.stream(name).is_none()
        {
            return Err(Error::new(Class::Permanent, "server.unknown-stream")
                .with("name", busbar_event::quote(name)));
        }
        let mut subscription = Subscription {
            bus: bus.clone(),
            wanted,
            principal,
            readers: Vec::new(),
            epoch: 0,
            turn: 0,
            wake,
        };
        // Finding positions may read the disk.
        let subscription = tokio::task::spawn_blocking(move || {
            subscription.refresh(&start)?;
            if let Start::Last(count) = start {
                subscription.seek_last(count)?;
            }
            Ok::<_, Error>(subscription)
        })
        .await
        .map_err(|_| Error::new(Class::Transient, "server.stopping"))??;
        Ok(subscription)
    }

    /// The next matching events; `None` at the end of every partition, where the caller waits for
    /// the [`Notify`] given to [`open`](Self::open).
    ///
    /// # Errors
    /// When the log is closed or the disk cannot be read; polling again tries again.
    pub(crate) async fn poll(&mut self) -> Result<Option<Found>, Error> {
        if self.epoch != self.bus.route_epoch() {
            // Streams created since the last poll are read from their first event.
            self.refresh(&Start::Earliest)?;
        }
        let mut idle = 0;
        let mut scanned = 0;
        while idle < self.readers.len() {
            self.turn %= self.readers.len();
            let reader = &mut self.readers[self.turn];
            let item = match reader.cursor.poll_memory()? {
                Some(item) => Some(item),
                // The cursor is not at the end, so this does not wait for a commit.
                None if reader.cursor.lag() > 0 => Some(reader.cursor.next().await?),
                None => None,
            };
            let partition = reader.cursor.partition().number();
            match item {
                None => {
                    idle += 1;
                    self.turn += 1;
                }
                Some(Item::Gap(gap)) => {
                    return Ok(Some(Found::Gap {
                        stream: reader.stream.clone(),
                        partition,
                        gap,
                    }));
                }
                Some(Item::Chunk(chunk)) => {
                    idle = 0;
                    scanned += chunk.batch.rows();
                    let stream = reader.stream.clone();
                    self.turn += 1;
                    let rows = matching(&chunk.batch, &self.wanted, &self.principal, stream.name());
                    // The caller must get a turn to check rights and to send a keep-alive.
                    if !rows.is_empty() || scanned >= SUBSCRIPTION_SCAN_EVENTS_MAX {
                        return Ok(Some(Found::Events {
                            stream,
                            partition,
                            base: chunk.base,
                            batch: chunk.batch,
                            rows,
                        }));
                    }
                    // A long stretch without a match must not block other tasks of this thread.
                    tokio::task::yield_now().await;
                }
            }
        }
        Ok(None)
    }

    /// The positions of all cursors as text, from which another subscription can resume.
    pub(crate) fn position(&self) -> String {
        position::write(self.readers.iter().map(|reader| {
            let partition = reader.cursor.partition();
            (
                partition.stream(),
                partition.number(),
                reader.cursor.position(),
            )
        }))
    }

    /// Number of partitions that are read.
    pub(crate) fn partitions(&self) -> usize {
        self.readers.len()
    }

    /// Committed events that have not been read, over all partitions.
    pub(crate) fn lag(&self) -> u64 {
        self.readers.iter().map(|reader| reader.cursor.lag()).sum()
    }

    /// Replaces the principal whose rights decide what is delivered.
    pub(crate) fn set_principal(&mut self, principal: Principal) {
        self.principal = principal;
    }

    fn refresh(&mut self, start: &Start) -> Result<(), Error> {
        self.epoch = self.bus.route_epoch();
        for stream in self.bus.streams() {
            let named = self.wanted.stream.as_deref();
            let read = match named {
                Some(name) => stream.name() == name,
                None => !stream.is_internal() && !stream.is_detached(),
            };
            if !read {
                continue;
            }
            for partition in stream.partitions().iter() {
                if self
                    .readers
                    .iter()
                    .any(|reader| reader.cursor.partition().id() == partition.id())
                {
                    continue;
                }
                let at = offset(partition, start)?;
                let wake = self.wake.clone();
                self.readers.push(Reader {
                    stream: stream.clone(),
                    _wake: partition.on_commit(Arc::new(move || wake.notify_one())),
                    cursor: Cursor::new(partition.clone(), at)
                        .with_read_bytes(SUBSCRIPTION_READ_BYTES),
                });
            }
        }
        Ok(())
    }

    /// Sets the cursors so that the last `count` matching events come first.
    fn seek_last(&mut self, count: usize) -> Result<(), Error> {
        let mut found = Vec::new();
        for (at, reader) in self.readers.iter().enumerate() {
            let partition = reader.cursor.partition();
            let name = reader.stream.name();
            let last = last(partition, count, |batch| {
                matching(batch, &self.wanted, &self.principal, name)
            })?;
            found.extend(last.into_iter().map(|(time, offset)| (time, offset, at)));
        }
        // Newest first. The oldest event kept of a partition is where its cursor starts.
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.truncate(count);
        let mut first: Vec<Option<u64>> = vec![None; self.readers.len()];
        for (_, offset, at) in found {
            first[at] = Some(first[at].map_or(offset, |first| first.min(offset)));
        }
        for (reader, first) in self.readers.iter_mut().zip(first) {
            if let Some(offset) = first {
                reader.cursor.seek(offset);
            }
        }
        Ok(())
    }
}

/// The rows of a batch that match and that the principal may read. Topic and rights are checked once
/// per distinct topic.
pub(crate) fn matching(
    batch: &Batch,
    wanted: &Wanted,
    principal: &Principal,
    stream: &str,
) -> Vec<u32> {
    let open = principal.is_unrestricted();
    let topics = batch.topic_values();
    let good: Vec<bool> = (0..topics.len())
        .map(|at| {
            let topic = topics.value(at);
            wanted
                .filter
                .as_ref()
                .is_none_or(|filter| filter.matches(topic))
                && (open || principal.may_receive(topic, stream))
        })
        .collect();
    let mut rows: Vec<u32> = if good.iter().all(|good| *good) {
        (0..batch.rows() as u32).collect()
    } else {
        batch
            .topic_keys()
            .iter()
            .zip(0..)
            .filter(|(key, _)| good[**key as usize])
            .map(|(_, row)| row)
            .collect()
    };
    wanted.condition.retain(batch, &mut rows);
    rows
}

fn offset(partition: &StreamPartition, start: &Start) -> Result<u64, Error> {
    Ok(match start {
        Start::Now | Start::Last(_) => partition.end(),
        Start::Earliest => partition.start(),
        Start::Time(micros) => partition.first_at_time(*micros)?,
        Start::Offset(offset) => (*offset).max(partition.start()),
        Start::Positions(positions) => positions
            .iter()
            .find(|(stream, number, _)| {
                stream == partition.stream() && *number == partition.number()
            })
            .map_or(partition.start(), |(_, _, offset)| *offset),
    })
}

/// Time and offset of the last `count` matching events of a partition, oldest first. Searches
/// backwards from the end in growing windows, over [`LAST_SCAN_EVENTS_MAX`] events at most.
pub(crate) fn last(
    partition: &StreamPartition,
    count: usize,
    matching: impl Fn(&Batch) -> Vec<u32>,
) -> Result<Vec<(i64, u64)>, Error> {
    let (start, end) = (partition.start(), partition.end());
    let mut found: Vec<(i64, u64)> = Vec::new();
    let mut window_end = end;
    let mut window = (count as u64).max(256);
    while found.len() < count && window_end > start && end - window_end < LAST_SCAN_EVENTS_MAX {
        let window_start = window_end.saturating_sub(window).max(start);
        let mut here = Vec::new();
        let mut at = window_start;
        while at < window_end {
            // The cursor reports damage when it reaches it.
            let Ok(chunks) = partition.read(at, SUBSCRIPTION_READ_BYTES) else {
                break;
            };
            let Some(next) = chunks.last().map(busbar_bus::Chunk::end) else {
                break;
            };
            for chunk in chunks {
                for row in matching(&chunk.batch) {
                    let offset = chunk.base + u64::from(row);
                    if (at..window_end).contains(&offset) {
                        here.push((chunk.batch.times()[row as usize], offset));
                    }
                }
            }
            at = next;
        }
        here.append(&mut found);
        found = here;
        window_end = window_start;
        window *= 2;
    }
    let surplus = found.len().saturating_sub(count);
    found.drain(..surplus);
    Ok(found)
}
