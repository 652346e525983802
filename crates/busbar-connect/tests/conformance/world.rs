//! A node without servers: a bus on a simulated disk, tables in a temporary folder, the registry's
//! connectors.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{BinaryArray, StringArray};
use busbar_bus::{Bus, BusOptions};
use busbar_catalog::{Bundle, ConnectionSpec, Project};
use busbar_connector::{Databases, Polled, Polling, Resume, SnapshotStatus, Source, SourceContext};
use busbar_event::{Batch, Body, Envelope, Error};
use busbar_flow::SourceStatus;
use busbar_flow::{Runtime, RuntimeOptions};
use busbar_log::sim::SimDisk;
use busbar_log::{Clock, Log, LogOptions, SystemClock};
use busbar_table::Tables;

/// Does something when it is dropped: ends what another thread of a scope waits for, also where the test fails before it would
/// say so, for the scope waits for its threads.
pub struct AtEnd<F: FnMut()>(pub F);

impl<F: FnMut()> Drop for AtEnd<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// How long a test waits for what has to come. Nothing takes as long; a machine may be slow or busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct World {
    pub disk: SimDisk,
    /// The project's folder.
    pub folder: Arc<tempfile::TempDir>,
    pub tokio: tokio::runtime::Runtime,
    pub bus: Bus,
    pub flows: Runtime,
    pub tables: Arc<Tables>,
    pub databases: Databases,
}

/// An event, as much of it as the suite looks at.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub topic: String,
    pub time: i64,
    pub payload: Vec<u8>,
    pub tags: Vec<(String, String)>,
}

impl Event {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).unwrap_or_else(|why| panic!("{why}: {self:?}"))
    }
}

impl World {
    pub fn new(folder: Arc<tempfile::TempDir>) -> World {
        World::open(SimDisk::new(7), folder)
    }

    pub fn open(disk: SimDisk, folder: Arc<tempfile::TempDir>) -> World {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let log = Log::open(
            Arc::new(disk.clone()),
            Path::new("/data"),
            LogOptions::default(),
            clock.clone(),
        );
        let bus = Bus::open(log.expect("the log opens"), BusOptions::default());
        let bus = bus.expect("the bus opens");
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let databases = Databases::new(
            busbar_connect::registry(),
            folder.path().into(),
            Arc::new(SystemClock),
        );
        let databases = databases.expect("a thread");
        let tables = Tables::open(folder.path(), clock).unwrap();
        let tables = tables.with_journals(bus.log().clone()).unwrap();
        let tables = Arc::new(tables.with_databases(Arc::new(databases.clone())));
        let flows = tokio.block_on(async {
            Runtime::open(RuntimeOptions {
                snapshot_every: busbar_flow::limits::SNAPSHOT_EVERY,
                state_bytes_max: busbar_flow::limits::STATE_BYTES_MAX,
                bus: bus.clone(),
                tables: Arc::clone(&tables),
                databases: databases.clone(),
                connectors: busbar_connect::registry(),
                project_dir: folder.path().into(),
                state_dir: folder.path().join("state").into(),
                dead_letters: busbar_bus::Retention::default(),
            })
            .expect("the runtime opens")
        });
        World {
            disk,
            folder,
            tokio,
            bus,
            flows,
            tables,
            databases,
        }
    }

    /// The process is killed and starts again.
    pub fn restart(self) -> World {
        let (disk, folder) = self.kill();
        World::open(disk, folder)
    }

    /// The process is killed; what it leaves.
    pub fn kill(self) -> (SimDisk, Arc<tempfile::TempDir>) {
        let World {
            disk,
            folder,
            tokio,
            bus,
            flows,
            tables,
            databases,
        } = self;
        drop(tables);
        disk.kill();
        drop((flows, bus, databases));
        tokio.shutdown_timeout(PATIENCE);
        (disk, folder)
    }

    /// Applies a project's files; panics with what is wrong.
    pub fn apply(&self, files: &[(&str, &str)]) {
        let applied = self.tokio.block_on(self.flows.apply(&project(files), 1));
        applied.unwrap_or_else(|bad| panic!("{bad:?}"));
    }

    /// Publishes events; they are durable when this returns.
    pub fn publish(&self, topic: &str, payloads: &[String]) {
        self.publish_as(None, topic, payloads);
    }

    /// The same, as a producer that comes to a position with them.
    pub fn publish_as(&self, producer: Option<(Arc<str>, u64)>, topic: &str, payloads: &[String]) {
        let topics = StringArray::from(vec![topic; payloads.len()]);
        let envelope = Envelope::new(&topics, vec![now(); payloads.len()]);
        let payloads = payloads.iter().map(String::as_bytes);
        let body = Body::Payload(BinaryArray::from_iter_values(payloads));
        let batch = Batch::from_columns(envelope, body).expect("a batch");
        let appended = self.tokio.block_on(self.bus.append(batch, producer));
        appended.expect("appended");
    }

    pub fn source(&self, name: &str) -> SourceStatus {
        let all = self.flows.connections();
        let connection = all.into_iter().find(|c| c.name == name);
        connection.and_then(|c| c.source).expect("a source")
    }

    /// The snapshot of a table of a source, once the source runs.
    pub fn snapshot(&self, name: &str, table: &str) -> Option<SnapshotStatus> {
        let mut all = self.source(name).snapshots.into_iter();
        all.find(|one| one.table == table)
    }

    /// Asks for the snapshot of a table anew.
    pub fn take_anew(&self, name: &str, table: &str) {
        let asked = self.tokio.block_on(self.flows.snapshot(name, table));
        asked.unwrap_or_else(|why| panic!("{why}"));
    }

    /// The codes of a source's alarms.
    pub fn alarms(&self, name: &str) -> Vec<&'static str> {
        let alarms = self.source(name).alarms;
        alarms.iter().map(busbar_event::Error::code).collect()
    }

    /// Rows of a flow that gave way to those on the other side.
    pub fn conflicts(&self, flow: &str) -> u64 {
        let all = self.flows.status();
        let flow = all.iter().find(|one| one.name == flow).expect("the flow");
        flow.conservation.counters.conflicts
    }

    /// Every event of a stream, in order.
    pub fn events(&self, stream: &str) -> Vec<Event> {
        let stream = self.bus.stream(stream).expect("the stream");
        let mut all = Vec::new();
        for partition in stream.partitions().iter() {
            let mut at = partition.start();
            while at < partition.end() {
                for chunk in partition.read(at, 1 << 20).unwrap() {
                    let payloads = chunk.batch.payloads();
                    for row in 0..chunk.batch.rows() {
                        let tags = chunk.batch.tags(row);
                        all.push(Event {
                            topic: chunk.batch.topic(row).to_owned(),
                            time: chunk.batch.times()[row],
                            payload: payloads.value(row).to_vec(),
                            tags: tags.map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
                        });
                    }
                    at = chunk.end();
                }
            }
        }
        all
    }
}

/// The tables of a node that has none.
pub fn no_tables() -> Arc<Tables> {
    Arc::new(Tables::open("", Arc::new(SystemClock)).expect("tables"))
}

pub fn project(files: &[(&str, &str)]) -> Project {
    let files: BTreeMap<String, String> = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
        .collect();
    let (project, bad) = Project::parse(Bundle { files });
    assert!(bad.is_empty(), "{bad:?}");
    project
}

pub fn spec(text: &str) -> ConnectionSpec {
    let source = busbar_catalog::Source::parse("connections/x.yaml", text);
    let source = source.unwrap_or_else(|bad| panic!("{bad}: {text}"));
    let mut spec = ConnectionSpec::read(&source).unwrap_or_else(|bad| panic!("{bad}: {text}"));
    let files = crate::soap_subject::FILES;
    let files = files.map(|(path, text)| (path.to_owned(), text.to_owned()));
    spec.files = std::sync::Arc::new(files.into());
    spec
}

/// The source of a connection, without a node.
pub async fn source_of(text: &str, resume: Resume) -> Box<dyn Source> {
    let spec = spec(text);
    let registry = busbar_connect::registry();
    let connector = registry.get(&spec.kind).expect("registered");
    let context = SourceContext {
        resume,
        ..crate::source_context(Path::new("/"))
    };
    connector.source(&spec, context).await.expect("it opens")
}

/// The next batch of a source, or none where there is nothing new.
pub async fn next_batch(source: &mut dyn Source) -> Result<Option<Polling>, Error> {
    loop {
        match source.poll().await? {
            Polled::Batch(polling) => return Ok(Some(polling)),
            Polled::Idle(wait) if wait.is_zero() => {}
            _ => return Ok(None),
        }
    }
}

pub fn now() -> i64 {
    SystemClock.now_micros()
}

/// Lets so many milliseconds go by.
#[allow(
    clippy::disallowed_methods,
    reason = "the test's own thread, not an async worker"
)]
pub fn rest(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

/// Waits until something is so; panics with what is there instead.
pub fn eventually<T: std::fmt::Debug>(
    what: &str,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(instead) if Instant::now() > until => {
                panic!("{what} does not come: {instead:.2000}")
            }
            Err(_) => rest(10),
        }
    }
}
