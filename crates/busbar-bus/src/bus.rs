//! The bus: all streams of a node, and what publishers, flows and readers need of them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc::Sender,
    },
};

use arrow::datatypes::SchemaRef;
use busbar_event::{Class, Error, Result, format::FormatSpec, limits as event};
use busbar_log::{Change, Clock, Frame, Log, PartitionOptions, Rewritten, Store, SystemClock};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::{
    board::Board,
    budget::ByteBudget,
    error::from_log,
    ingest::TimeRule,
    limits::{
        CACHE_BYTES_DEFAULT, CACHE_PARTITION_BYTES_MAX, CACHE_PARTITION_BYTES_MIN,
        IN_FLIGHT_BYTES_MAX_DEFAULT, PAYLOAD_BYTES_MAX, RETAINED_BYTES_MAX_DEFAULT,
        RETAINED_TOPICS_MAX_DEFAULT, SEGMENTS_PER_RETENTION, STREAMS_MAX,
    },
    merge,
    publisher::Publisher,
    retained::Retained,
    routes::{Routes, check_patterns},
    schema::Schema,
    spec::{Durability, Retention, StreamSpec, check_derived_name, is_derived},
    stream::{PartitionId, Stream, StreamPartition},
};

/// The stream that takes what no other captures.
pub const INBOX: &str = "inbox";

/// How a bus works.
#[derive(Clone)]
pub struct BusOptions {
    /// Bytes all publishers together may hold uncommitted.
    pub in_flight_bytes_max: u64,
    /// Largest payload of an event; never more than
    /// [`PAYLOAD_BYTES_MAX`](crate::limits::PAYLOAD_BYTES_MAX).
    pub payload_bytes_max: usize,
    /// Size at which a segment of a stream is sealed.
    pub segment_bytes: u64,
    /// Memory for recent events of all partitions together.
    pub cache_bytes: usize,
    /// Topics that may have a retained value.
    pub retained_topics_max: usize,
    /// Bytes of all retained values.
    pub retained_bytes_max: usize,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

impl Default for BusOptions {
    fn default() -> Self {
        let partition = PartitionOptions::default();
        BusOptions {
            in_flight_bytes_max: IN_FLIGHT_BYTES_MAX_DEFAULT,
            payload_bytes_max: event::PAYLOAD_BYTES_MAX_DEFAULT,
            segment_bytes: partition.segment_bytes,
            cache_bytes: CACHE_BYTES_DEFAULT,
            retained_topics_max: RETAINED_TOPICS_MAX_DEFAULT,
            retained_bytes_max: RETAINED_BYTES_MAX_DEFAULT,
            clock: Arc::new(SystemClock),
        }
    }
}

/// All streams of a node. Cheap to clone.
#[derive(Clone)]
pub struct Bus {
    pub(crate) shared: Arc<Shared>,
}

/// What publishers share.
pub(crate) struct Shared {
    ground: Ground,
    routes: RwLock<Arc<Routes>>,
    route_epoch: AtomicU64,
    streams: RwLock<BTreeMap<String, Arc<Stream>>>,
    /// One change of streams at a time.
    changing: Mutex<()>,
    registry: Store,
    pub(crate) board: Board,
    /// Ends the thread that merges small frames when this is dropped.
    _merging: Sender<()>,
}

/// What streams stand on.
struct Ground {
    log: Log,
    options: BusOptions,
    budget: Arc<ByteBudget>,
    retained: Retained,
    schemas: Store,
    /// The next partition's number.
    next: AtomicU32,
}

/// What the registry remembers of a stream, so that one without a file is still found.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Registered {
    partitions: u16,
    format: FormatSpec,
}

impl Bus {
    /// Opens the streams that a data folder holds. Until [`apply_streams`](Bus::apply_streams)
    /// they are detached, and all goes to the inbox.
    pub fn open(log: Log, mut options: BusOptions) -> Result<Bus> {
        options.payload_bytes_max = options.payload_bytes_max.min(PAYLOAD_BYTES_MAX);
        let registry = log.store("streams").map_err(from_log)?;
        let retained = Retained::open(log.store("retained").map_err(from_log)?, &options)?;
        let mut ground = Ground {
            budget: Arc::new(ByteBudget::new(options.in_flight_bytes_max)),
            retained,
            schemas: log.store("schemas").map_err(from_log)?,
            next: AtomicU32::new(0),
            log,
            options,
        };
        let mut streams = BTreeMap::new();
        let mut known = registered(&registry)?;
        known.entry(INBOX.to_owned()).or_insert_with(|| Registered {
            partitions: 1,
            format: FormatSpec::Raw,
        });
        for (name, was) in &known {
            let spec = StreamSpec {
                partitions: was.partitions,
                format: was.format.clone(),
                ..StreamSpec::default()
            };
            let stream = ground.stream(name, spec)?;
            stream.set_detached(name != INBOX && !stream.is_internal());
            streams.insert(name.clone(), stream);
        }
        ground.recover(streams.values())?;
        let inbox = Arc::clone(&streams[INBOX]);
        let (merging, stop) = std::sync::mpsc::channel();
        let merged = ground.log.store("merged").map_err(from_log)?;
        let shared = Arc::new(Shared {
            ground,
            routes: RwLock::new(Arc::new(Routes::new(&[], inbox))),
            route_epoch: AtomicU64::new(1),
            streams: RwLock::new(streams),
            changing: Mutex::new(()),
            registry,
            board: Board::default(),
            _merging: merging,
        });
        let watched = shared.ground.log.supervisor().watch("busbar-merge");
        merge::start(Arc::downgrade(&shared), merged, stop, watched)?;
        Ok(Bus { shared })
    }

    /// Makes the streams be as their files say: new ones are made, others changed while events
    /// flow, and those that are not named any more are detached: what they hold can be read, their
    /// topics go elsewhere. On an error nothing has changed but for streams newly made and empty.
    pub fn apply_streams(&self, specs: &BTreeMap<String, StreamSpec>) -> Result<()> {
        let shared = &*self.shared;
        let _one = shared.changing.lock();
        let rules = check_streams(specs)?;
        let mut next = shared.streams.read().clone();
        for (name, spec) in specs {
            let has = next.get(name).map_or(0, |stream| stream.partitions().len());
            if usize::from(spec.partitions) < has {
                return Err(Error::new(Class::Configuration, "bus.partitions-fewer")
                    .with("stream", name)
                    .with("partitions", spec.partitions)
                    .with("has", has));
            }
        }
        shared.register(specs)?;
        let mut changes = Vec::with_capacity(specs.len());
        for (name, spec) in specs {
            let stream = match next.get(name) {
                Some(stream) => Arc::clone(stream),
                None => shared.ground.stream(name, spec.clone())?,
            };
            let mut partitions = stream.partitions().to_vec();
            for number in partitions.len() as u16..spec.partitions {
                partitions.push(shared.ground.partition(name, number, spec)?);
            }
            next.insert(name.clone(), Arc::clone(&stream));
            changes.push((stream, spec, partitions));
        }
        for (stream, spec, _) in &changes {
            if stream.spec().format != spec.format {
                stream.schema.forget(stream.name())?;
            }
        }
        // Nothing fails from here on.
        for ((stream, spec, partitions), rule) in changes.into_iter().zip(rules) {
            for partition in &partitions {
                partition.set_time_rule(rule.clone());
            }
            stream.replace(spec.clone(), partitions)?;
        }
        for stream in next.values() {
            let options = shared.ground.partition_options(&stream.spec());
            for partition in stream.partitions().iter() {
                partition.log().set_options(options.clone());
            }
        }
        for (name, stream) in &next {
            let named = specs.contains_key(name) || name == INBOX || stream.is_internal();
            stream.set_detached(!named);
        }
        let live: Vec<_> = next
            .values()
            .filter(|stream| stream.name() != INBOX && !stream.is_detached())
            .cloned()
            .collect();
        let routes = Arc::new(Routes::new(&live, Arc::clone(&next[INBOX])));
        *shared.streams.write() = next;
        *shared.routes.write() = routes;
        shared.route_epoch.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// All streams, in order of their names; detached and internal ones too.
    pub fn streams(&self) -> Vec<Arc<Stream>> {
        self.shared.streams()
    }

    /// The stream of that name.
    pub fn stream(&self, name: &str) -> Option<Arc<Stream>> {
        self.shared.streams.read().get(name).cloned()
    }

    /// The stream that takes events of `topic`.
    pub fn home(&self, topic: &str) -> Arc<Stream> {
        Arc::clone(self.shared.routes.read().home(topic))
    }

    /// Changes whenever topics may have got another home.
    pub fn route_epoch(&self) -> u64 {
        self.shared.route_epoch()
    }

    /// A stream that only Busbar itself or a flow writes, created if it does not exist. Its name begins with `_`, which
    /// hides it, or is `<flow>.<part>`. It captures no topics. A stream that exists keeps its number of partitions;
    /// `retention` applies from now on.
    pub fn derived_stream(
        &self,
        name: &str,
        partitions: u16,
        retention: Retention,
    ) -> Result<Arc<Stream>> {
        check_derived_name(name)?;
        let shared = &*self.shared;
        let _one = shared.changing.lock();
        if let Some(stream) = self.stream(name) {
            let was = stream.spec();
            if was.retention != retention {
                // What is remembered of a stream across restarts does not include its retention.
                let spec = StreamSpec {
                    retention,
                    ..StreamSpec::clone(&was)
                };
                let options = shared.ground.partition_options(&spec);
                for partition in stream.partitions().iter() {
                    partition.log().set_options(options.clone());
                }
                stream.replace(spec, stream.partitions().to_vec())?;
            }
            return Ok(stream);
        }
        let spec = StreamSpec {
            partitions,
            retention,
            ..StreamSpec::default()
        };
        shared.register(&BTreeMap::from([(name.to_owned(), spec.clone())]))?;
        let stream = shared.ground.stream(name, spec)?;
        shared
            .streams
            .write()
            .insert(name.to_owned(), Arc::clone(&stream));
        Ok(stream)
    }

    /// A way in for one thread; `wake` is called on the commit thread when tickets have settled.
    pub fn publisher(&self, wake: Arc<dyn Fn() + Send + Sync>) -> Publisher {
        Publisher::new(Arc::clone(&self.shared), wake)
    }

    /// The retained values.
    pub fn retained(&self) -> &Retained {
        &self.shared.ground.retained
    }

    /// The log below.
    pub fn log(&self) -> &Log {
        &self.shared.ground.log
    }

    /// A durable map beside the streams.
    pub fn store(&self, name: &str) -> Result<Store> {
        self.shared.ground.log.store(name).map_err(from_log)
    }

    /// The bytes that all publishers together may hold.
    pub fn budget(&self) -> Arc<ByteBudget> {
        Arc::clone(&self.shared.ground.budget)
    }

    /// What time it is here.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.ground.options.clock
    }

    /// The largest payload that is taken.
    pub fn payload_bytes_max(&self) -> usize {
        self.shared.payload_bytes_max()
    }

    /// Writes sealed segments of small frames anew with large ones; a thread does so by itself every
    /// [`MERGE_EVERY_MILLIS`](crate::limits::MERGE_EVERY_MILLIS). Blocks on the disk.
    pub fn merge_small_frames(&self) -> Result<Rewritten> {
        let merged = self.store("merged")?;
        let mut all = Rewritten::default();
        for stream in self.streams() {
            for partition in stream.partitions().iter() {
                let done = merge::sweep(partition.log(), &merged)?;
                all.frames.0 += done.frames.0;
                all.frames.1 += done.frames.1;
                all.bytes.0 += done.bytes.0;
                all.bytes.1 += done.bytes.1;
            }
        }
        Ok(all)
    }

    /// Writes what is still in memory and ends the log. To be called when publishers are gone.
    pub fn shutdown(&self) -> Result<()> {
        let written = self.retained().flush();
        self.log().shutdown();
        written
    }

    /// The columns of a stream, see [`Stream::schema`].
    pub fn stream_schema(&self, name: &str) -> Result<Option<SchemaRef>> {
        match self.stream(name) {
            Some(stream) => stream.schema(),
            None => {
                Err(Error::new(Class::Configuration, "bus.stream-unknown").with("stream", name))
            }
        }
    }
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
    fn register(&self, specs: &BTreeMap<String, StreamSpec>) -> Result<()> {
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
    fn stream(&self, name: &str, spec: StreamSpec) -> Result<Arc<Stream>> {
        let mut partitions = Vec::with_capacity(usize::from(spec.partitions));
        for number in 0..spec.partitions {
            partitions.push(self.partition(name, number, &spec)?);
        }
        let schema = Schema::new(self.schemas.clone());
        let clock = Arc::clone(&self.options.clock);
        let internal = is_derived(name);
        Stream::new(name, spec, partitions, internal, schema, clock).map(Arc::new)
    }

    fn partition(
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
        let partition = Arc::new(StreamPartition::new(id, stream.into(), number, log));
        let meter = Arc::clone(&partition.meter);
        let clock = Arc::clone(&self.options.clock);
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

    fn partition_options(&self, spec: &StreamSpec) -> PartitionOptions {
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
    fn partitions(&self) -> usize {
        self.next.load(Ordering::Relaxed) as usize
    }

    /// Reads what was retained after the journal was last written.
    fn recover<'a>(&mut self, streams: impl Iterator<Item = &'a Arc<Stream>>) -> Result<()> {
        let partitions: Vec<_> = streams
            .flat_map(|stream| stream.partitions().to_vec())
            .collect();
        self.retained.recover(&partitions)
    }
}

/// Checks all streams of a project against each other; answers their time rules in order.
fn check_streams(specs: &BTreeMap<String, StreamSpec>) -> Result<Vec<Option<Arc<TimeRule>>>> {
    if specs.len() > STREAMS_MAX {
        return Err(Error::new(Class::Configuration, "bus.streams-many").with("max", STREAMS_MAX));
    }
    let mut rules = Vec::with_capacity(specs.len());
    for (name, spec) in specs {
        spec.check(name)?;
        if name == INBOX && spec.topics.iter().any(|topic| topic.as_str() != "#") {
            return Err(Error::new(Class::Configuration, "bus.inbox-topics"));
        }
        if let Some(schema) = &spec.schema {
            schema.schema()?;
        }
        rules.push(TimeRule::of(name, spec)?);
    }
    check_patterns(
        specs
            .iter()
            .filter(|(name, _)| *name != INBOX)
            .map(|(name, spec)| (name.as_str(), &spec.topics[..])),
    )?;
    Ok(rules)
}

fn registered(registry: &Store) -> Result<BTreeMap<String, Registered>> {
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
