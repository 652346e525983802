//! Streams and their partitions.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use busbar_event::{Batch, Error, Result, encode};
use busbar_log::{
    Append, Appended, Clock, Companion, Damage, Done, Frame, LogError, Partition, RECORDS_ONLY,
    WakerGuard,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::{
    arrival::Arrivals,
    error::from_log,
    ingest::{SteadyClock, TimeRule},
    key::KeyRule,
    known_columns::KnownColumns,
    limits::TIME_SEARCH_READ_BYTES,
    meter::{Counters, Meter},
    spec::StreamSpec,
};

/// A durable, ordered, partitioned log of events.
pub struct Stream {
    name: Arc<str>,
    current: RwLock<Current>,
    /// Its file is gone: what it holds can be read, nothing new is routed to it.
    detached: AtomicBool,
    internal: bool,
    pub(crate) columns: KnownColumns,
    clock: Arc<dyn Clock>,
}

/// What a change of the stream's file replaces.
struct Current {
    spec: Arc<StreamSpec>,
    key: Option<Arc<KeyRule>>,
    partitions: Arc<[Arc<StreamPartition>]>,
}

impl Stream {
    pub(crate) fn new(
        name: &str,
        spec: StreamSpec,
        partitions: Vec<Arc<StreamPartition>>,
        internal: bool,
        columns: KnownColumns,
        clock: Arc<dyn Clock>,
    ) -> Result<Stream> {
        let key = key_rule(&spec)?;
        Ok(Stream {
            name: name.into(),
            current: RwLock::new(Current {
                spec: Arc::new(spec),
                key,
                partitions: partitions.into(),
            }),
            detached: AtomicBool::new(false),
            internal,
            columns,
            clock,
        })
    }

    /// The stream's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its file says now.
    pub fn spec(&self) -> Arc<StreamSpec> {
        Arc::clone(&self.current.read().spec)
    }

    /// Its partitions, in order of their numbers.
    pub fn partitions(&self) -> Arc<[Arc<StreamPartition>]> {
        Arc::clone(&self.current.read().partitions)
    }

    /// Whether its file is gone: it can be read, but takes no new events from topics.
    pub fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Acquire)
    }

    /// Whether it belongs to Busbar itself (dead letters and the like) and captures no topics.
    pub fn is_internal(&self) -> bool {
        self.internal
    }

    /// What was committed to all its partitions since the process started, and how fast.
    pub fn counters(&self) -> Counters {
        let now = self.clock.now_micros();
        let mut all = Counters::default();
        for partition in self.partitions().iter() {
            all += partition.meter.read(now);
        }
        all
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.partitions()
            .iter()
            .map(|partition| partition.bytes())
            .sum()
    }

    pub(crate) fn key_rule(&self) -> Option<Arc<KeyRule>> {
        self.current.read().key.clone()
    }

    /// Forgets inferred columns.
    pub(crate) fn forget_columns(&self) -> Result<()> {
        self.columns.forget(&self.name)
    }

    pub(crate) fn set_detached(&self, detached: bool) {
        self.detached.store(detached, Ordering::Release);
    }

    pub(crate) fn replace(
        &self,
        spec: StreamSpec,
        partitions: Vec<Arc<StreamPartition>>,
    ) -> Result<()> {
        let key = key_rule(&spec)?;
        *self.current.write() = Current {
            spec: Arc::new(spec),
            key,
            partitions: partitions.into(),
        };
        Ok(())
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn key_rule(spec: &StreamSpec) -> Result<Option<Arc<KeyRule>>> {
    Ok(match &spec.key {
        Some(key) => Some(Arc::new(KeyRule::parse(key)?)),
        None => None,
    })
}

/// Number of a partition in this process: dense, so that tables can be indexed by it, never used
/// again for another one, and not the same after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionId(pub u32);

impl PartitionId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Rows with consecutive offsets.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Offset of the first row.
    pub base: u64,
    /// The rows.
    pub batch: Batch,
    /// Producers that have rows in the frame these come from, with the positions they had reached
    /// at its end.
    pub producers: Arc<[(Arc<str>, u64)]>,
}

impl Chunk {
    /// First offset after these rows.
    pub fn end(&self) -> u64 {
        self.base + self.batch.rows() as u64
    }
}

/// Frames that hold a retained event carry this attribute, so that others need not be opened.
pub(crate) const ATTRIBUTE_RETAIN: u16 = 1;

/// Who made the rows of an append.
pub(crate) enum Origin {
    /// One producer, whose position decides whether the rows have been written before; none if the rows are
    /// new in any case.
    One(Option<(Arc<str>, u64)>),
    /// Many senders, some of whom leave a position; the rows are new in any case.
    Many(Vec<(Arc<str>, u64)>),
}

/// One ordered part of a stream.
pub struct StreamPartition {
    id: PartitionId,
    stream: Arc<str>,
    number: u16,
    log: Partition,
    pub(crate) meter: Arc<Meter>,
    commits: Arc<Notify>,
    _wake: WakerGuard,
    time: RwLock<Arc<TimeRule>>,
    /// What event times are compared with.
    pub(crate) steady: SteadyClock,
    /// Held from when times are assigned to a batch until the batch is in the log's queue, so that times
    /// and offsets grow together.
    arrivals: Mutex<Arrivals>,
}

impl StreamPartition {
    pub(crate) fn new(
        id: PartitionId,
        stream: Arc<str>,
        number: u16,
        log: Partition,
        clock: Arc<dyn Clock>,
    ) -> StreamPartition {
        let commits = Arc::new(Notify::new());
        let wake = {
            let commits = Arc::clone(&commits);
            log.on_commit(Arc::new(move || commits.notify_waiters()))
        };
        StreamPartition {
            id,
            stream,
            number,
            log,
            meter: Arc::default(),
            commits,
            _wake: wake,
            time: RwLock::default(),
            steady: SteadyClock::new(Arc::clone(&clock)),
            arrivals: Mutex::new(Arrivals::new(clock)),
        }
    }

    /// Its number in this process.
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// The name of its stream.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// Its number within the stream.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// First offset that is kept.
    pub fn start(&self) -> u64 {
        self.log.start()
    }

    /// First offset that is not committed yet.
    pub fn end(&self) -> u64 {
        self.log.end()
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.log.bytes()
    }

    /// Places that cannot be read.
    pub fn damage(&self) -> Vec<Damage> {
        self.log.damage()
    }

    /// An offset before which every event is older than `micros`.
    pub fn offset_at_time(&self, micros: i64) -> Result<u64> {
        self.log.offset_at_time(micros).map_err(from_log)
    }

    /// Offset of the first event at or after `micros`, the end when there is none; where a damaged place comes before it, that
    /// place, which a [`Cursor`](crate::Cursor) tells of. May block on the disk.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn first_at_time(&self, micros: i64) -> Result<u64> {
        let end = self.end();
        // The log knows times of frames; the frame that is found may begin with older events.
        let mut at = self.offset_at_time(micros)?;
        while at < end {
            let Ok(chunks) = self.read(at, TIME_SEARCH_READ_BYTES) else {
                break;
            };
            let Some(next) = chunks.last().map(Chunk::end) else {
                break;
            };
            for chunk in chunks {
                for (offset, time) in (chunk.base..).zip(chunk.batch.times()) {
                    if offset >= at && *time >= micros {
                        return Ok(offset);
                    }
                }
            }
            at = next;
        }
        Ok(at)
    }

    /// The last committed position of a producer.
    pub fn producer_position(&self, producer: &str) -> Option<u64> {
        self.log.producer_position(producer)
    }

    /// Committed rows from `offset` on, from memory or disk: at least one unless `offset` is the
    /// end. May block on the disk.
    ///
    /// # Errors
    /// Where `offset` is trimmed, damaged or beyond the end; a [`Cursor`](crate::Cursor) goes on
    /// behind such places and says what was missed.
    pub fn read(&self, offset: u64, bytes_max: usize) -> Result<Vec<Chunk>> {
        self.read_raw(offset, bytes_max)
            .map_err(ReadError::into_error)
    }

    /// As [`read`](StreamPartition::read), if memory has the rows; never blocks.
    pub fn read_cached(&self, offset: u64, bytes_max: usize) -> Option<Result<Vec<Chunk>>> {
        let frames = self.log.read_cached(offset, bytes_max)?;
        Some(chunks(offset, &frames).map_err(ReadError::into_error))
    }

    /// Calls `waker` on the commit thread when the end has moved, until the guard is dropped.
    pub fn on_commit(&self, waker: Arc<dyn Fn() + Send + Sync>) -> WakerGuard {
        self.log.on_commit(waker)
    }

    /// The partition of the log below.
    pub fn log(&self) -> &Partition {
        &self.log
    }

    pub(crate) fn commits(&self) -> &Notify {
        &self.commits
    }

    pub(crate) fn read_raw(&self, offset: u64, bytes_max: usize) -> Result<Vec<Chunk>, ReadError> {
        let frames = self.log.read(offset, bytes_max).map_err(ReadError::Log)?;
        chunks(offset, &frames)
    }

    pub(crate) fn read_cached_raw(
        &self,
        offset: u64,
        bytes_max: usize,
    ) -> Option<Result<Vec<Chunk>, ReadError>> {
        let frames = self.log.read_cached(offset, bytes_max)?;
        Some(chunks(offset, &frames))
    }

    /// Gives the rows that need one a time of arrival, encodes the batch on this thread and hands it to
    /// the commit thread.
    pub(crate) fn append(&self, batch: Batch, from: Origin, done: Done) {
        match batch.arrivals() {
            0 => self.send(batch, from, done),
            rows => {
                let mut arrivals = self.arrivals.lock();
                let first = arrivals.reserve(rows, &self.log);
                self.send(batch.with_arrivals_from(first), from, done);
            }
        }
    }

    fn send(&self, batch: Batch, from: Origin, done: Done) {
        let (min_time, max_time) = batch.time_range();
        let mut attributes = 0;
        if batch.any_retain() {
            attributes |= ATTRIBUTE_RETAIN;
        }
        let producers = match from {
            Origin::One(producer) => producer.into_iter().collect(),
            Origin::Many(producers) => {
                attributes |= RECORDS_ONLY;
                producers
            }
        };
        self.log.append(Append {
            body: encode(&batch),
            count: batch.rows() as u32,
            min_time,
            max_time,
            producers,
            attributes,
            companion: Some(Arc::new(batch)),
            done: Some(done),
        });
    }

    pub(crate) fn time_rule(&self) -> Arc<TimeRule> {
        Arc::clone(&self.time.read())
    }

    pub(crate) fn set_time_rule(&self, rule: Arc<TimeRule>) {
        *self.time.write() = rule;
    }
}

impl std::fmt::Debug for StreamPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.stream, self.number)
    }
}

/// Why rows could not be read, with what is needed to go on behind them.
#[derive(Debug)]
pub(crate) enum ReadError {
    Log(LogError),
    /// A frame whose bytes are as written but which is no batch.
    Body {
        from: u64,
        resume: u64,
        cause: Error,
    },
}

impl ReadError {
    pub fn into_error(self) -> Error {
        match self {
            ReadError::Log(error) => from_log(error),
            ReadError::Body {
                from,
                resume,
                cause,
            } => cause.with("from", from).with("resume", resume),
        }
    }
}

/// The batch of a frame: decoded once, then kept beside it.
pub(crate) fn batch_of(frame: &Frame) -> Result<Batch> {
    let companion = frame.companion_or_init(|frame| {
        let batch = busbar_event::decode(frame.body.clone())?;
        if batch.rows() != frame.count as usize {
            return Err(Error::new(busbar_event::Class::Permanent, "bus.frame-rows")
                .with("rows", batch.rows())
                .with("count", frame.count));
        }
        Ok(Arc::new(batch) as Companion)
    })?;
    match companion.downcast_ref::<Batch>() {
        Some(batch) => Ok(batch.clone()),
        None => busbar_event::decode(frame.body.clone()),
    }
}

/// The rows of `frames` from `offset` on. What is unreadable after good rows is left for the next
/// call, which then begins with it.
fn chunks(offset: u64, frames: &[Frame]) -> Result<Vec<Chunk>, ReadError> {
    let mut chunks = Vec::with_capacity(frames.len());
    for frame in frames {
        if frame.end() <= offset {
            continue;
        }
        let batch = match batch_of(frame) {
            Ok(batch) => batch,
            Err(_) if !chunks.is_empty() => break,
            Err(cause) => {
                return Err(ReadError::Body {
                    from: frame.base.max(offset),
                    resume: frame.end(),
                    cause,
                });
            }
        };
        let skip = offset.saturating_sub(frame.base) as usize;
        chunks.push(Chunk {
            base: frame.base + skip as u64,
            batch: if skip == 0 {
                batch
            } else {
                batch.slice(skip, batch.rows() - skip)
            },
            producers: Arc::clone(&frame.producers),
        });
    }
    Ok(chunks)
}

/// How an append through the bus ended, for one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Landed {
    /// The partition.
    pub partition: PartitionId,
    /// Where in it.
    pub appended: Appended,
}
