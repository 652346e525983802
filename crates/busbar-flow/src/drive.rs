//! Drives a [`Source`]: polls it, appends what it brings, keeps its place.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use busbar_bus::Bus;
use busbar_catalog::ConnectionSpec;
use busbar_event::{Batch, Class, Error};
use busbar_log::{Change, Store};
use busbar_table::Tables;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::limits::{BATCH_ROWS_MAX, DRAIN_TIMEOUT, LAG_EVERY, SNAPSHOT_ASKED_MAX};
use busbar_connector::{
    Backoff, Connector, Polled, Polling, Position, ReachedPositions, Resume, SnapshotStatus,
    Source, SourceContext,
};

/// A source that runs.
pub struct SourceDriver {
    stop: watch::Sender<bool>,
    asks: mpsc::Sender<AskedSnapshot>,
    task: Option<JoinHandle<()>>,
    status: Arc<Mutex<SourceStatus>>,
}

/// How a source is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SourceStatus {
    /// `starting`, `running`, `retrying`, `ended` or `stopped`.
    pub state: &'static str,
    /// Events brought since the start.
    pub events: u64,
    /// Why it waits or has stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
    /// Tries since it last worked.
    pub tries: u32,
    /// How far each part was committed.
    pub positions: BTreeMap<String, u64>,
    /// How much there is on the other side that has not come, in bytes, if the other side says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,
    /// How many events of each part there are on the other side that have not come, if the other side counts them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub lag_events: BTreeMap<String, u64>,
    /// What somebody should look at although it runs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<Error>,
    /// How far snapshots of tables have come, by table.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<SnapshotStatus>,
}

/// A table whose snapshot is to be taken anew, and where the answer goes.
type AskedSnapshot = (String, oneshot::Sender<Result<(), Error>>);

impl SourceDriver {
    /// Begins to drive the source of a connection. Its committed positions are kept in `store`.
    pub fn start(
        name: &str,
        spec: ConnectionSpec,
        connector: Arc<dyn Connector>,
        bus: Bus,
        store: Store,
        project_dir: Arc<Path>,
        tables: Arc<Tables>,
    ) -> SourceDriver {
        let (stop, stopped) = watch::channel(false);
        let (asks, asked) = mpsc::channel(SNAPSHOT_ASKED_MAX);
        let status = Arc::new(Mutex::new(SourceStatus {
            state: "starting",
            ..Default::default()
        }));
        let driving = Driving {
            name: name.into(),
            spec,
            connector,
            bus,
            store,
            project_dir,
            tables,
            stopped,
            asked,
            status: Arc::clone(&status),
            kept: Arc::default(),
        };
        let task = tokio::spawn(driving.run());
        SourceDriver {
            stop,
            asks,
            task: Some(task),
            status,
        }
    }

    /// How it is.
    pub fn status(&self) -> SourceStatus {
        self.status.lock().clone()
    }

    /// A way to ask for the snapshot of a table anew: the answer says whether it is begun soon, or why not.
    pub fn asks(&self) -> mpsc::Sender<AskedSnapshot> {
        self.asks.clone()
    }

    /// Lets it finish what it has begun, and ends it.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if let Some(mut task) = self.task.take()
            && tokio::time::timeout(DRAIN_TIMEOUT, &mut task)
                .await
                .is_err()
        {
            // What was appended is known by its position when the source runs again.
            task.abort();
        }
    }
}

impl Drop for SourceDriver {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

struct Driving {
    name: Arc<str>,
    spec: ConnectionSpec,
    connector: Arc<dyn Connector>,
    bus: Bus,
    store: Store,
    project_dir: Arc<Path>,
    tables: Arc<Tables>,
    stopped: watch::Receiver<bool>,
    asked: mpsc::Receiver<AskedSnapshot>,
    status: Arc<Mutex<SourceStatus>>,
    kept: Arc<Mutex<KeptPositions>>,
}

/// Positions that have come to the disk, and that the source has not been told of, by part.
type KeptPositions = BTreeMap<Arc<str>, u64>;

/// Why driving ended.
enum Ended {
    Stopped,
    Over,
}

impl Driving {
    async fn run(mut self) {
        let mut backoff = Backoff::new(self.bus.clock().now_micros() as u64);
        loop {
            match self.drive(&mut backoff).await {
                Ok(Ended::Stopped) => return self.tell("stopped", None),
                Ok(Ended::Over) => return self.tell("ended", None),
                Err(error) if error.class() == Class::Configuration => {
                    tracing::warn!(connection = %self.name, %error, "the connection stops");
                    return self.tell("stopped", Some(error));
                }
                Err(error) => {
                    let pause = backoff.pause();
                    self.status.lock().tries = backoff.tries();
                    self.tell("retrying", Some(error));
                    if self.sleep(pause).await {
                        return self.tell("stopped", None);
                    }
                }
            }
        }
    }

    /// Opens the source and takes what it brings, until it fails or is over; closes it in good order if it has not failed.
    async fn drive(&mut self, backoff: &mut Backoff) -> Result<Ended, Error> {
        let resume = self.resume();
        // What another source has brought says nothing to this one.
        self.kept = Arc::default();
        self.status.lock().positions = resume.positions.clone();
        let context = SourceContext {
            name: Arc::clone(&self.name),
            project_dir: Arc::clone(&self.project_dir),
            clock: Arc::clone(self.bus.clock()),
            resume: resume.clone(),
            tables: Arc::clone(&self.tables),
        };
        let mut source = self.connector.source(&self.spec, context).await?;
        let ended = self.bring(source.as_mut(), &resume, backoff).await?;
        source.close().await?;
        Ok(ended)
    }

    /// Takes what a source brings, until it fails or is over.
    async fn bring(
        &mut self,
        source: &mut dyn Source,
        resume: &Resume,
        backoff: &mut Backoff,
    ) -> Result<Ended, Error> {
        let mut parts: BTreeMap<Arc<str>, Part> = BTreeMap::new();
        if backoff.tries() == 0 {
            self.tell("running", None);
        }
        let mut counted: Option<Instant> = None;
        loop {
            let kept = std::mem::take(&mut *self.kept.lock());
            for (part, position) in kept {
                source.kept(&part, position);
            }
            let polled = tokio::select! {
                biased;
                () = told(self.stopped.clone()) => return Ok(Ended::Stopped),
                Some((table, answer)) = self.asked.recv() => {
                    // Whoever asked may have gone.
                    let _ = answer.send(source.take_anew(&table));
                    counted = None;
                    continue;
                }
                polled = source.poll() => polled,
            };
            self.status.lock().lag_bytes = source.lag_bytes();
            if counted.is_none_or(|at| at.elapsed() >= LAG_EVERY) {
                self.look(source);
                counted = Some(Instant::now());
            }
            match polled {
                Ok(Polled::Batch(polling)) => {
                    let part = parts
                        .entry(Arc::clone(&polling.part))
                        .or_insert_with(|| Part::new(&self.bus, &self.name, &polling.part, resume));
                    if !self.take(source, part, polling, backoff).await? {
                        return Ok(Ended::Stopped);
                    }
                    self.works(backoff);
                }
                Ok(Polled::Idle(pause)) => {
                    self.works(backoff);
                    for part in source.forgotten() {
                        parts.remove(&part);
                        self.forget(&part);
                    }
                    if self.sleep(pause).await {
                        return Ok(Ended::Stopped);
                    }
                }
                Ok(Polled::End) => return Ok(Ended::Over),
                Err(error) if error.class() == Class::Permanent => {
                    // What it could not read is gone by; it says what it was and goes on.
                    tracing::warn!(connection = %self.name, %error, "the source skipped something");
                    self.tell("running", Some(error));
                    if self.sleep(backoff.pause()).await {
                        return Ok(Ended::Stopped);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Notes how the source is beyond what it brings.
    fn look(&self, source: &dyn Source) {
        let events = source.lag_events().into_iter();
        let events = events.map(|(part, events)| (part.to_string(), events));
        let (events, alarms, snapshots) = (events.collect(), source.alarms(), source.snapshots());
        let mut status = self.status.lock();
        let codes: Vec<_> = status.alarms.iter().map(Error::code).collect();
        for alarm in alarms.iter().filter(|alarm| !codes.contains(&alarm.code())) {
            tracing::warn!(connection = %self.name, %alarm, "an alarm of a connection");
        }
        status.lag_events = events;
        status.alarms = alarms;
        status.snapshots = snapshots;
    }

    /// Appends a batch, for as long as it takes; false when it was told to stop before it could.
    async fn take(
        &mut self,
        source: &mut dyn Source,
        part: &mut Part,
        polling: Polling,
        backoff: &mut Backoff,
    ) -> Result<bool, Error> {
        let rows = polling.batch.rows();
        if let Position::Rows(positions) = &polling.position
            && positions.len() != rows
        {
            return Err(Error::new(Class::Configuration, "flow.source-positions")
                .with("connection", &self.name));
        }
        for (batch, position) in part.cut(&polling) {
            // Only a position.
            if batch.is_empty() {
                continue;
            }
            loop {
                let producer = position.map(|p| (Arc::clone(&part.producer), p));
                match self.bus.append(batch.clone(), producer).await {
                    Ok(_) => break,
                    Err(error) if error.class() == Class::Transient => {
                        let pause = backoff.pause();
                        self.status.lock().tries = backoff.tries();
                        self.tell("retrying", Some(error));
                        if self.sleep(pause).await {
                            return Ok(false);
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        self.status.lock().events += rows as u64;
        if let Some(position) = polling.position.last() {
            let (done, kept) = oneshot::channel();
            self.keep(&polling.part, position, &polling.note, done);
            if rows == 0 {
                // What comes next may be right only behind it: a snapshot behind the place where its changes begin.
                tokio::select! {
                    () = told(self.stopped.clone()) => return Ok(false),
                    kept = kept => {
                        let kept = kept.unwrap_or(Err(busbar_log::LogError::Closed));
                        kept.map_err(busbar_bus::from_log)?;
                    }
                }
            }
            source.committed(&polling.part, position);
        } else if let Position::Receipt(number) = polling.position {
            source.committed(&polling.part, number);
        }
        Ok(true)
    }

    /// The source works again. What it said it had to skip stays to be seen.
    fn works(&self, backoff: &mut Backoff) {
        if backoff.tries() > 0 {
            backoff.reset();
            let mut status = self.status.lock();
            status.tries = 0;
            if status.state == "retrying" {
                status.state = "running";
                status.error = None;
            }
        }
    }

    /// Notes how far a part is committed; `done` hears when that is on the disk. Behind rows it is not waited for: those that
    /// come again are recognised.
    fn keep(
        &self,
        part: &Arc<str>,
        position: u64,
        note: &[u8],
        done: oneshot::Sender<busbar_log::Result<()>>,
    ) {
        let value = [&position.to_be_bytes(), note].concat();
        let put = Change::Put(self.key(part).into(), value.into());
        let (kept, of) = (Arc::clone(&self.kept), Arc::clone(part));
        let applied = move |result: busbar_log::Result<()>| {
            if result.is_ok() {
                kept.lock().insert(of, position);
            }
            // Nobody waits for most of them.
            let _ = done.send(result);
        };
        self.store.apply(vec![put], Some(Box::new(applied)));
        self.status
            .lock()
            .positions
            .insert(part.to_string(), position);
    }

    /// Keeps the position of a part no longer. After a crash the source may name the part again.
    fn forget(&self, part: &str) {
        self.store
            .apply(vec![Change::Delete(self.key(part).into())], None);
        self.status.lock().positions.remove(part);
    }

    fn key(&self, part: &str) -> Vec<u8> {
        format!("source/{}/{part}", self.name).into_bytes()
    }

    fn resume(&self) -> Resume {
        let prefix = self.key("");
        let (bus, name) = (self.bus.clone(), Arc::clone(&self.name));
        let mut resume = Resume {
            farthest: ReachedPositions::new(move |part| {
                let positions = appended(&bus, &producer(&name, part));
                positions.into_iter().max().unwrap_or(0)
            }),
            ..Resume::default()
        };
        let mut after: Option<Bytes> = None;
        loop {
            let page = self.store.scan(&prefix, after.as_deref(), BATCH_ROWS_MAX);
            let Some((last, _)) = page.last() else {
                return resume;
            };
            after = Some(last.clone());
            for (key, value) in &page {
                let part = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
                if let Some((position, note)) = value.split_first_chunk() {
                    if !note.is_empty() {
                        resume.notes.insert(part.clone(), note.to_vec());
                    }
                    resume.positions.insert(part, u64::from_be_bytes(*position));
                }
            }
        }
    }

    fn tell(&self, state: &'static str, error: Option<Error>) {
        let mut status = self.status.lock();
        status.state = state;
        status.error = error;
    }

    /// Waits; true when it was told to stop meanwhile.
    async fn sleep(&self, pause: Duration) -> bool {
        tokio::select! {
            () = told(self.stopped.clone()) => true,
            () = tokio::time::sleep(pause) => false,
        }
    }
}

/// Waits until it is said, or until nobody is left to say it.
async fn told(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// The producer of a part's rows.
fn producer(connection: &str, part: &str) -> Arc<str> {
    if part.is_empty() {
        format!("connection:{connection}").into()
    } else {
        format!("connection:{connection}:{part}").into()
    }
}

/// How far each partition holds rows of a producer.
fn appended(bus: &Bus, producer: &str) -> Vec<u64> {
    let streams = bus.streams();
    let partitions = streams
        .iter()
        .flat_map(|stream| stream.partitions().to_vec());
    partitions
        .filter_map(|partition| partition.producer_position(producer))
        .collect()
}

/// One of the things a source reads.
struct Part {
    producer: Arc<str>,
    /// Positions that some partitions know already, above the committed one: a crash came between appends.
    /// Batches are cut there, so that each piece is either known to a partition or not.
    cuts: Vec<u64>,
}

impl Part {
    fn new(bus: &Bus, connection: &str, part: &str, resume: &Resume) -> Part {
        let producer = producer(connection, part);
        let committed = resume.position(part);
        let mut cuts = appended(bus, &producer);
        cuts.retain(|position| *position > committed);
        cuts.sort_unstable();
        cuts.dedup();
        Part { producer, cuts }
    }

    /// The pieces of a batch between known positions, each with the position behind it.
    fn cut(&mut self, polling: &Polling) -> Vec<(Batch, Option<u64>)> {
        let batch = &polling.batch;
        let (Position::Rows(positions), false) = (&polling.position, self.cuts.is_empty()) else {
            return vec![(batch.clone(), polling.position.last())];
        };
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in &self.cuts {
            let to = positions.partition_point(|position| position <= cut);
            if to > from {
                pieces.push((batch.slice(from, to - from), Some(positions[to - 1])));
                from = to;
            }
        }
        if from < batch.rows() {
            let rest = batch.slice(from, batch.rows() - from);
            pieces.push((rest, positions.last().copied()));
        }
        if let Some(last) = positions.last() {
            self.cuts.retain(|cut| cut > last);
        }
        pieces
    }
}
