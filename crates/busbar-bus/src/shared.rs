//! What the bus and its publishers share: the streams there are, and what they stand on.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc::Sender,
    },
};

use busbar_event::{Class, Error, Result, format::FormatSpec};
use busbar_log::{Change, Frame, Log, PartitionOptions, Store};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::{
    board::Board,
    budget::ByteBudget,
    error::from_log,
    known_columns::KnownColumns,
    limits::{CACHE_PARTITION_BYTES_MAX, CACHE_PARTITION_BYTES_MIN, SEGMENTS_PER_RETENTION},
    options::BusOptions,
    retained::Retained,
    routes::Routes,
    spec::{Durability, StreamSpec, is_derived},
    stream::{PartitionId, Stream, StreamPartition},
};

/// What publishers share.
pub(crate) struct Shared {
    pub ground: Ground,
    pub routes: RwLock<Arc<Routes>>,
    pub route_epoch: AtomicU64,
    pub streams: RwLock<BTreeMap<String, Arc<Stream>>>,
    /// One change of streams at a time.
    pub changing: Mutex<()>,
    pub registry: Store,
    pub board: Board,
    /// Ends the thread that merges small frames when this is dropped.
    pub _merging: Sender<()>,
}

/// What streams stand on.
pub(crate) struct Ground {
    pub log: Log,
    pub options: BusOptions,
    pub budget: Arc<ByteBudget>,
    pub retained: Retained,
    pub schemas: Store,
    /// The next partition's number.
    pub next: AtomicU32,
}

/// What the registry remembers of a stream, so that one without a file is still found.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Registered {
    pub partitions: u16,
    pub format: FormatSpec,
}

impl Shared {
    pub fn streams(&self) -> Vec<Arc<Stream>> {
        self.streams.read().values().cloned().collect()
    }

    #[inline]
    pub fn route_epoch(&self) -> u64 {
        self.route_epoch.load(Ordering::Acquire)
    }

    /// The routes and an epoch that is not newer than they are.
    pub fn routes(&self) -> (Arc<Routes>, u64) {
        let epoch = self.route_epoch();
        (Arc::clone(&self.routes.read()), epoch)
    }

    #[inline]
    pub fn payload_bytes_max(&self) -> usize {
        self.ground.options.payload_bytes_max
    }

    #[inline]
    pub fn budget(&self) -> &ByteBudget {
        &self.ground.budget
    }

    pub fn budget_handle(&self) -> Arc<ByteBudget> {
        Arc::clone(&self.ground.budget)
    }

    #[inline]
    pub fn retained(&self) -> &Retained {
        &self.ground.retained
    }

    /// Notes streams before they are made: one that is noted and empty does no harm.
    pub fn register(&self, specs: &BTreeMap<String, StreamSpec>) -> Result<()> {
        let mut changes = Vec::new();
        let known = registered(&self.registry)?;
        for (name, spec) in specs {
            let now = Registered {
                partitions: spec.partitions,
                format: spec.format.clone(),
            };
            if known.get(name) != Some(&now) {
                let text = serde_json::to_vec(&now).map_err(|cause| bad_registry(name, cause))?;
                changes.push(Change::Put(name.as_bytes().to_vec().into(), text.into()));
            }
        }
        match changes.is_empty() {
            true => Ok(()),
            false => self.registry.apply_sync(changes).map_err(from_log),
        }
    }
}

impl Ground {
    pub fn stream(&self, name: &str, spec: StreamSpec) -> Result<Arc<Stream>> {
        let mut partitions = Vec::with_capacity(usize::from(spec.partitions));
        for number in 0..spec.partitions {
            partitions.push(self.partition(name, number, &spec)?);
        }
        let columns = KnownColumns::new(self.schemas.clone());
        let clock = Arc::clone(&self.options.clock);
        let internal = is_derived(name);
        Stream::new(name, spec, partitions, internal, columns, clock).map(Arc::new)
    }

    pub fn partition(
        &self,
        stream: &str,
        number: u16,
        spec: &StreamSpec,
    ) -> Result<Arc<StreamPartition>> {
        let name = format!("streams/{stream}/{number}");
        let log = self
            .log
            .partition(&name, self.partition_options(spec))
            .map_err(from_log)?;
        let id = PartitionId(self.next.fetch_add(1, Ordering::Relaxed));
        let clock = Arc::clone(&self.options.clock);
        let partition = StreamPartition::new(id, stream.into(), number, log, Arc::clone(&clock));
        let partition = Arc::new(partition);
        let meter = Arc::clone(&partition.meter);
        partition.log().observe(Arc::new(move |frame: &Frame| {
            meter.count(
                u64::from(frame.count),
                frame.body.len() as u64,
                clock.now_micros(),
            );
        }));
        self.retained.observe(&partition);
        Ok(partition)
    }

    pub fn partition_options(&self, spec: &StreamSpec) -> PartitionOptions {
        let bytes_max = spec
            .retention
            .bytes
            .map_or(u64::MAX, |size| size.as_bytes());
        PartitionOptions {
            // Only whole segments are deleted, so a small bound needs small segments.
            segment_bytes: self
                .options
                .segment_bytes
                .min(bytes_max / SEGMENTS_PER_RETENTION),
            retention_age: spec.retention.age.map(|age| age.as_duration()),
            retention_bytes: spec.retention.bytes.map(|size| size.as_bytes()),
            durability: match spec.durability {
                Durability::Memory => busbar_log::Durability::Memory,
                Durability::Fsync => busbar_log::Durability::Fsync,
            },
            // A frame is kept twice: as bytes and as what they decode to.
            cache_bytes: (self.options.cache_bytes / 2 / self.partitions().max(1))
                .clamp(CACHE_PARTITION_BYTES_MIN, CACHE_PARTITION_BYTES_MAX),
        }
    }

    /// Partitions opened so far.
    pub fn partitions(&self) -> usize {
        self.next.load(Ordering::Relaxed) as usize
    }

    /// Reads what was retained after the journal was last written.
    pub fn recover<'a>(&mut self, streams: impl Iterator<Item = &'a Arc<Stream>>) -> Result<()> {
        let partitions: Vec<_> = streams
            .flat_map(|stream| stream.partitions().to_vec())
            .collect();
        self.retained.recover(&partitions)
    }
}

pub(crate) fn registered(registry: &Store) -> Result<BTreeMap<String, Registered>> {
    registry
        .scan(b"", None, usize::MAX)
        .into_iter()
        .map(|(name, text)| {
            let name = String::from_utf8_lossy(&name).into_owned();
            match serde_json::from_slice(&text) {
                Ok(was) => Ok((name, was)),
                Err(cause) => Err(bad_registry(&name, cause)),
            }
        })
        .collect()
}

fn bad_registry(name: &str, cause: serde_json::Error) -> Error {
    Error::new(Class::Permanent, "bus.registry")
        .with("stream", name)
        .caused_by(cause)
}
