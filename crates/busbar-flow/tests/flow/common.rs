//! A node without servers: bus on a simulated disk, tables in a temporary folder, flows.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, BinaryArray, StringArray};
use busbar_bus::{Bus, BusOptions, Retention};
use busbar_catalog::{Bundle, Diagnostic, Project};
use busbar_connector::{Connectors, Databases};
use busbar_event::{Batch, Body, Envelope, Error};
use busbar_flow::limits::{SNAPSHOT_EVERY, STATE_BYTES_MAX};
use busbar_flow::{FlowStatus, Runtime, RuntimeOptions};
use busbar_log::sim::SimDisk;
use busbar_log::{Clock, Log, LogOptions, SystemClock};
use busbar_sql::{Relation, Relations, StreamRelation};
use busbar_table::{Scan, Tables};

/// How long a test waits for what has to come. Nothing takes as long; a machine may be slow or busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The streams of a bus, for queries.
pub struct Streams(pub Bus);

impl Relations for Streams {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn relation(&self, name: &str) -> Result<Option<Relation>, Error> {
        let stream = self.0.stream(name);
        let stream = stream.map(|stream| StreamRelation::of(&stream).map(Relation::Stream));
        stream.transpose()
    }
}

/// The clock of the system, and so many microseconds.
struct Ahead(Arc<AtomicI64>);

impl Clock for Ahead {
    fn now_micros(&self) -> i64 {
        SystemClock.now_micros() + self.0.load(Ordering::Relaxed)
    }
}

pub struct World {
    /// How far the node's clock is ahead of that of the system, in microseconds.
    pub ahead: Arc<AtomicI64>,
    pub disk: SimDisk,
    pub folder: Arc<tempfile::TempDir>,
    pub tokio: tokio::runtime::Runtime,
    pub bus: Bus,
    pub tables: Arc<Tables>,
    pub flows: Runtime,
    pub connectors: Connectors,
    pub dead_letters: Retention,
    pub state: State,
}

/// How often the state of flows is committed, and how much memory that of one may take.
#[derive(Clone, Copy)]
pub struct State {
    pub snapshot_every: Duration,
    pub bytes_max: usize,
}

impl Default for State {
    fn default() -> State {
        State {
            snapshot_every: SNAPSHOT_EVERY,
            bytes_max: STATE_BYTES_MAX,
        }
    }
}

impl World {
    pub fn new(seed: u64) -> World {
        World::with(seed, Connectors::default())
    }

    pub fn with(seed: u64, connectors: Connectors) -> World {
        World::made(seed, connectors, Retention::default(), State::default())
    }

    /// Keeps dead letters only as long as `retention` says.
    pub fn with_dead_letters(seed: u64, retention: Retention) -> World {
        World::made(seed, Connectors::default(), retention, State::default())
    }

    /// Keeps the state of flows like this.
    pub fn with_state(seed: u64, state: State) -> World {
        World::made(seed, Connectors::default(), Retention::default(), state)
    }

    fn made(seed: u64, connectors: Connectors, dead: Retention, state: State) -> World {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        World::open(SimDisk::new(seed), folder, connectors, dead, state)
    }

    fn open(
        disk: SimDisk,
        folder: Arc<tempfile::TempDir>,
        connectors: Connectors,
        dead_letters: Retention,
        state: State,
    ) -> World {
        let ahead: Arc<AtomicI64> = Arc::default();
        let clock: Arc<dyn Clock> = Arc::new(Ahead(Arc::clone(&ahead)));
        let options = LogOptions::default();
        let log = Log::open(
            Arc::new(disk.clone()),
            Path::new("/data"),
            options,
            clock.clone(),
        );
        let log = log.expect("the log opens");
        let bus = Bus::open(
            log.clone(),
            BusOptions {
                clock: clock.clone(),
                ..BusOptions::default()
            },
        );
        let bus = bus.expect("the bus opens");
        let tables = Tables::open(folder.path(), clock).unwrap();
        let tables = Arc::new(tables.with_journals(log).unwrap());
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let flows = tokio.block_on(async {
            Runtime::open(RuntimeOptions {
                snapshot_every: state.snapshot_every,
                state_bytes_max: state.bytes_max,
                bus: bus.clone(),
                tables: Arc::clone(&tables),
                databases: Databases::new(
                    connectors.clone(),
                    folder.path().into(),
                    bus.clock().clone(),
                )
                .expect("a thread"),
                connectors: connectors.clone(),
                project_dir: folder.path().into(),
                state_dir: folder.path().join("state").into(),
                dead_letters,
            })
            .expect("the runtime opens")
        });
        World {
            ahead,
            disk,
            folder,
            tokio,
            bus,
            tables,
            flows,
            connectors,
            dead_letters,
            state,
        }
    }

    /// The process is killed, or the power fails, and it starts again.
    pub fn restart(self, power_cut: bool) -> World {
        self.restart_after(power_cut, |_| {})
    }

    /// The same; meanwhile something happens to the folder of tables and state.
    pub fn restart_after(self, power_cut: bool, meanwhile: impl FnOnce(&Path)) -> World {
        let World {
            ahead: _,
            disk,
            folder,
            tokio,
            bus,
            tables,
            flows,
            connectors,
            dead_letters,
            state,
        } = self;
        match power_cut {
            true => disk.crash(),
            false => disk.kill(),
        }
        drop((flows, bus, tables));
        tokio.shutdown_timeout(PATIENCE);
        meanwhile(folder.path());
        World::open(disk, folder, connectors, dead_letters, state)
    }

    /// Applies a project's files; panics with what is wrong.
    pub fn apply(&self, files: &[(&str, &str)]) -> busbar_flow::Applied {
        self.try_apply(files)
            .unwrap_or_else(|bad| panic!("{bad:?}"))
    }

    pub fn try_apply(&self, files: &[(&str, &str)]) -> Result<busbar_flow::Applied, Vec<String>> {
        let (project, bad) = parse(files);
        if !bad.is_empty() {
            return Err(bad.iter().map(ToString::to_string).collect());
        }
        let applied = self.tokio.block_on(self.flows.apply(&project, 1));
        applied.map_err(|bad| bad.iter().map(ToString::to_string).collect())
    }

    /// Appends JSON payloads, as a source that remembers its position.
    pub fn publish(&self, topic: &str, payloads: &[String]) {
        self.tokio
            .block_on(self.bus.append(batch(topic, payloads), None))
            .unwrap();
    }

    pub fn flow(&self, name: &str) -> FlowStatus {
        self.flows.status_of(name).expect("the flow is there")
    }

    /// Waits until a flow has read everything and nothing is on its way.
    pub fn settle(&self, name: &str) -> FlowStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self.flow(name);
            if status.lag == 0 && status.conservation.counters.held == 0 {
                return status;
            }
            assert!(
                Instant::now() < until,
                "the flow does not settle: {status:#?}"
            );
            rest(5);
        }
    }

    /// Every event of a stream: topic and payload.
    pub fn contents(&self, stream: &str) -> Vec<(String, serde_json::Value)> {
        let Some(stream) = self.bus.stream(stream) else {
            return Vec::new();
        };
        let mut all = Vec::new();
        for partition in stream.partitions().iter() {
            let mut at = partition.start();
            while at < partition.end() {
                for chunk in partition.read(at, 1 << 20).unwrap() {
                    let payloads = chunk.batch.payloads();
                    for row in 0..chunk.batch.rows() {
                        let payload = serde_json::from_slice(payloads.value(row));
                        let text = || String::from_utf8_lossy(payloads.value(row)).into_owned();
                        let payload = payload.unwrap_or_else(|_| text().into());
                        all.push((chunk.batch.topic(row).to_owned(), payload));
                    }
                    at = chunk.end();
                }
            }
        }
        all
    }

    /// The values of a whole-number column of a table.
    pub fn table_ints(&self, table: &str, column: &str) -> Vec<i64> {
        let table = self.tables.table(table).expect("the table is there");
        let mut values = Vec::new();
        for batch in table.scan(&Scan::default()).unwrap() {
            let batch = batch.unwrap();
            let column = batch
                .column_by_name(column)
                .expect("the column is there")
                .clone();
            let column = column.as_primitive::<arrow::datatypes::Int64Type>();
            values.extend((0..column.len()).map(|row| column.value(row)));
        }
        values
    }

    /// The values of a column of a table, as texts.
    pub fn table_texts(&self, table: &str, column: &str) -> Vec<String> {
        let table = self.tables.table(table).expect("the table is there");
        let mut values = Vec::new();
        for batch in table.scan(&Scan::default()).unwrap() {
            let batch = batch.unwrap();
            let column = batch.column_by_name(column).expect("the column is there");
            let column = arrow::compute::cast(column, &arrow::datatypes::DataType::Utf8).unwrap();
            let column = column.as_string::<i32>();
            values.extend(column.iter().map(|value| value.unwrap_or("").to_owned()));
        }
        values
    }
}

/// Lets so many milliseconds go by.
#[allow(
    clippy::disallowed_methods,
    reason = "the test's own thread, not an async worker"
)]
pub fn rest(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

pub fn project(files: &[(&str, &str)]) -> Project {
    let (project, bad) = parse(files);
    assert!(bad.is_empty(), "{bad:?}");
    project
}

fn parse(files: &[(&str, &str)]) -> (Project, Vec<Diagnostic>) {
    let files: BTreeMap<String, String> = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
        .collect();
    Project::parse(Bundle { files })
}

pub fn batch(topic: &str, payloads: &[String]) -> Batch {
    let now = SystemClock.now_micros();
    let topics = StringArray::from(vec![topic; payloads.len()]);
    let envelope = Envelope::new(&topics, vec![now; payloads.len()]);
    let body = BinaryArray::from_iter_values(payloads.iter().map(|p| p.as_bytes()));
    Batch::from_columns(envelope, Body::Payload(body)).unwrap()
}

pub fn ids(contents: &[(String, serde_json::Value)]) -> Vec<i64> {
    contents
        .iter()
        .filter_map(|(_, payload)| payload["id"].as_i64())
        .collect()
}
