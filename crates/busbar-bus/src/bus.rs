//! The bus: all streams of a node, and what publishers, flows and readers need of them.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use arrow::datatypes::SchemaRef;
use busbar_event::{Batch, Class, Error, Result, format::FormatSpec, topic::Filter};
use busbar_log::{Change, Clock, Log, Rewritten, Store};
use parking_lot::{Mutex, RwLock};

use crate::{
    append::{self, Appended, Producer},
    board::Board,
    budget::ByteBudget,
    error::from_log,
    ingest::TimeRule,
    limits::{PAYLOAD_BYTES_MAX, STREAMS_MAX},
    merge,
    options::BusOptions,
    publisher::Publisher,
    retained::{Page, Retained},
    routes::{Routes, check_patterns},
    shared::{Ground, Registered, Shared, registered},
    spec::{Retention, StreamSpec, check_derived_name},
    stream::Stream,
};

/// The stream that takes what no other captures.
pub const INBOX: &str = "inbox";

/// All streams of a node. Cheap to clone.
#[derive(Clone)]
pub struct Bus {
    pub(crate) shared: Arc<Shared>,
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

    /// Applies the streams of a project: creates new ones, changes others while events flow, and detaches those
    /// that are no longer named: what they hold can still be read, but their topics are captured by other
    /// streams. On an error nothing has changed, except that new empty streams may exist.
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
                stream.forget_columns()?;
            }
        }
        // Nothing fails from here on.
        for ((stream, spec, partitions), rule) in changes.into_iter().zip(rules) {
            for partition in &partitions {
                partition.set_time_rule(Arc::clone(&rule));
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

    /// Removes a stream that only Busbar itself or a flow writes, with all it holds. There may be none.
    ///
    /// # Errors
    /// `bus.stream-name` for another stream; what the disk says.
    pub fn remove_derived_stream(&self, name: &str) -> Result<()> {
        check_derived_name(name)?;
        let shared = &*self.shared;
        let _one = shared.changing.lock();
        let Some(stream) = shared.streams.write().remove(name) else {
            return Ok(());
        };
        for partition in stream.partitions().iter() {
            let partition = partition.log().name();
            shared
                .ground
                .log
                .remove_partition(partition)
                .map_err(from_log)?;
        }
        let gone = Change::Delete(name.as_bytes().to_vec().into());
        shared.registry.apply_sync(vec![gone]).map_err(from_log)
    }

    /// A publisher for one thread; `wake` is called on the commit thread when tickets have settled.
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

    /// Routes the rows of a batch by their topics and appends them, one frame for each partition
    /// touched. The rows are handed to the commit thread before this returns, in the order of
    /// calls; the future waits until they are as durable as their streams say.
    pub fn append(
        &self,
        batch: Batch,
        producer: Option<Producer>,
    ) -> impl Future<Output = Result<Appended>> + Send + 'static {
        append::settle(append::by_topic(&self.shared.routes().0, batch, producer))
    }

    /// As [`append`](Bus::append), to one stream whatever the topics are.
    pub fn append_to(
        &self,
        stream: &Stream,
        batch: Batch,
        producer: Option<Producer>,
    ) -> impl Future<Output = Result<Appended>> + Send + 'static {
        append::settle(append::to_stream(stream, batch, producer))
    }

    /// The last events of topics that `filter` selects, in order of topics, behind topic `after`:
    /// whether retained or not, but bounded in number, and after a start only as far back as is
    /// quickly read. May block on the disk.
    pub fn last_values(&self, filter: &Filter, after: Option<&str>, limit: usize) -> Result<Page> {
        self.shared
            .board
            .last_values(&self.streams(), filter, after, limit)
    }

    /// Rewrites sealed segments of small frames with large ones; a thread does so every
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

/// Checks all streams of a project against each other; answers their time rules in order.
fn check_streams(specs: &BTreeMap<String, StreamSpec>) -> Result<Vec<Arc<TimeRule>>> {
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
