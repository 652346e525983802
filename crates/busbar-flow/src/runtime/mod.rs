//! The flows of a node: deployed, watched, paused, replayed.

mod apply;
mod bounded;
mod compute;
mod delivery;
mod deploy;
mod edges;
pub mod explain;
mod kept_state;
mod lineage;
mod meaning;
mod plugin_trial;
mod plugins;
mod redrive;
mod report;
mod resend;
mod services;
mod sources;
mod take_up;
mod tick;
mod trace;
mod trim;
mod unfit;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use busbar_bus::Bus;
use busbar_catalog::{FlowSpec, Parsed, Project};
use busbar_event::{Class, Error};
use busbar_log::Store;
use busbar_table::Tables;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::blocking::blocking;
use crate::checkpoint::{Checkpoints, Kept, Mark, TaskKey};
use crate::dead::DeadLetters;
use crate::drive::SourceDriver;
use crate::limits::DRAIN_TIMEOUT;
use crate::operator::KnownPlugin;
use crate::services::ServiceLine;
use crate::state::States;
use crate::status::{DeadFilter, DeadGroup, DeadLetter, DeadRetention, FlowState, ReplayFrom};
use crate::task::{FlowShared, Inserts, MAIN};
use busbar_connector::{Connectors, Databases};
use compute::Compute;
use deploy::stands;
pub use lineage::{Lineage, LineageResult};
pub use plugin_trial::{PluginTrial, TrialRow, TriedEvent, TriedResult};
pub use plugins::PluginReport;
pub(crate) use plugins::TableHost;
pub use resend::{ResendFrom, Resent};
pub use trace::{EventAt, FlowTrace, TracedOutput, TracedStep};
pub use unfit::{LetterTaker, UnfitEvent, UnfitLetter};

/// What a runtime stands on.
#[derive(Clone)]
pub struct RuntimeOptions {
    /// The streams.
    pub bus: Bus,
    /// The tables.
    pub tables: Arc<Tables>,
    /// The connectors.
    pub connectors: Connectors,
    /// The databases among the connections; [`Runtime::apply`] says which there are.
    pub databases: Databases,
    /// The folder that relative paths of connections start at.
    pub project_dir: Arc<Path>,
    /// The folder for the state of flows; made if needed.
    pub state_dir: Arc<Path>,
    /// How long dead letters are kept.
    pub dead_letters: busbar_bus::Retention,
    /// How often a task with state commits what has changed in it: [`SNAPSHOT_EVERY`](crate::limits::SNAPSHOT_EVERY), or
    /// less where many crashes are tried in little time.
    pub snapshot_every: std::time::Duration,
    /// Bytes of memory that the state of one flow may take:
    /// [`STATE_BYTES_MAX`](crate::limits::STATE_BYTES_MAX), unless settings say otherwise. Beyond it, state is
    /// read from the disk when it is needed.
    pub state_bytes_max: usize,
}

/// The flows and sources of a node. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

struct Inner {
    options: RuntimeOptions,
    checkpoints: Checkpoints,
    dead: Arc<DeadLetters>,
    positions: Store,
    states: States,
    compute: Compute,
    plugins: RwLock<BTreeMap<String, KnownPlugin>>,
    lines: Mutex<BTreeMap<String, Arc<ServiceLine>>>,
    /// The project that runs. Held while anything is changed, so that changes come one after the other.
    project: tokio::sync::Mutex<Project>,
    flows: RwLock<BTreeMap<String, Arc<Flow>>>,
    sources: Mutex<BTreeMap<String, Connected>>,
    runs: std::sync::atomic::AtomicU64,
    bounded: bounded::BoundedRuns,
    letter_taker: std::sync::OnceLock<Arc<dyn LetterTaker>>,
}

/// A connection that is there.
struct Connected {
    meaning: serde_json::Value,
    spec: busbar_catalog::ConnectionSpec,
    roles: busbar_connector::Roles,
    driver: Option<SourceDriver>,
}

/// A deployed flow.
pub(crate) struct Flow {
    pub name: String,
    pub parsed: Parsed<FlowSpec>,
    pub version: u64,
    /// What it means, with everything it names: unchanged means no redeploy.
    pub meaning: serde_json::Value,
    pub started_micros: i64,
    /// Since when it runs, or stands, as it does.
    since_micros: i64,
    /// None while it does not run.
    pub shared: Option<Arc<FlowShared>>,
    /// Why it does not run.
    pub idle: Option<(FlowState, Option<Error>)>,
    tasks: Mutex<Vec<Running>>,
}

struct Running {
    key: TaskKey,
    stop: watch::Sender<bool>,
    inserts: Inserts,
    task: JoinHandle<Mark>,
}

impl Runtime {
    /// A runtime without flows; [`Runtime::apply`] brings them. Call it within tokio.
    ///
    /// # Errors
    /// When the stores of checkpoints and dead letters cannot be opened.
    pub fn open(options: RuntimeOptions) -> Result<Runtime, Error> {
        let bus = &options.bus;
        let checkpoints = Checkpoints(bus.store("checkpoints")?);
        let dead = Arc::new(DeadLetters::open(bus, options.dead_letters)?);
        let positions = bus.store("sources")?;
        let runs = bus.clock().now_micros().unsigned_abs();
        let states = States::open(&options.state_dir)?;
        let inner = Arc::new(Inner {
            states,
            compute: Compute::start()?,
            options,
            checkpoints,
            dead,
            positions,
            plugins: RwLock::default(),
            lines: Mutex::default(),
            project: tokio::sync::Mutex::default(),
            flows: RwLock::default(),
            sources: Mutex::default(),
            runs: runs.into(),
            bounded: bounded::BoundedRuns::default(),
            letter_taker: std::sync::OnceLock::new(),
        });
        plugins::clear(&inner);
        tokio::spawn(tick::tick(Arc::downgrade(&inner)));
        Ok(Runtime { inner })
    }

    /// Lets a flow finish what it has begun, and keeps it from going on until it is resumed.
    ///
    /// # Errors
    /// `flow.unknown`, or what the store says; the flow goes on then.
    pub async fn pause(&self, name: &str) -> Result<(), Error> {
        let _one = self.inner.project.lock().await;
        let flow = self.flow(name)?;
        self.keep(name, |kept| kept.paused = true).await?;
        let ended = self.halt(&flow).await;
        self.keep_marks(name, &ended).await;
        self.put(self.idle(&flow, FlowState::Paused, None));
        Ok(())
    }

    /// Lets a paused, or stopped, flow go on where it was.
    ///
    /// # Errors
    /// `flow.unknown`, or why it cannot start.
    pub async fn resume(&self, name: &str) -> Result<(), Error> {
        let project = self.inner.project.lock().await;
        let flow = self.flow(name)?;
        self.keep(name, |kept| kept.paused = false).await?;
        self.again(&project, flow).await
    }

    /// Sets a flow's cursors and lets it go on from there; a flow that is paused stays so and begins there when
    /// it is resumed. What it writes again is written again, not recognised as known; an event that dies
    /// again of what it died of before keeps the dead letter it has.
    ///
    /// # Errors
    /// `flow.unknown`, what the store says (the flow goes on as it was then), or why it cannot start.
    pub async fn replay(&self, name: &str, from: ReplayFrom) -> Result<(), Error> {
        let project = self.inner.project.lock().await;
        let flow = self.flow(name)?;
        let mut targets = Vec::new();
        for stream in flow.parsed.spec.streams() {
            let Some(known) = self.inner.options.bus.stream(stream) else {
                continue;
            };
            for partition in known.partitions().iter() {
                let number = partition.number();
                let position = match from {
                    ReplayFrom::Earliest => partition.start(),
                    ReplayFrom::Latest => partition.end(),
                    ReplayFrom::Time(micros) => {
                        let partition = partition.clone();
                        blocking(move || partition.first_at_time(micros)).await?
                    }
                };
                targets.push((stream.clone(), number, position));
            }
        }
        let ended = self.halt(&flow).await;
        self.add_stages(&flow, &mut targets);
        let rewound = self.rewind(name, &targets, &ended).await;
        let again = self.again(&project, flow).await;
        rewound.and(again)
    }

    /// What is still between the stages of a flow is not computed again: its next generation begins behind it.
    fn add_stages(&self, flow: &Flow, targets: &mut Vec<(String, u16, u64)>) {
        let Some(shared) = &flow.shared else { return };
        let inputs = shared.plan.inputs.iter().filter(|input| input.stage > 0);
        for input in inputs {
            if let Some(stream) = self.inner.options.bus.stream(&input.stream) {
                let partitions = stream.partitions();
                let ends = partitions.iter();
                targets.extend(ends.map(|p| (input.stream.clone(), p.number(), p.end())));
            }
        }
    }

    /// Puts every cursor of a flow, and those it will have, to these offsets.
    async fn rewind(
        &self,
        name: &str,
        targets: &[(String, u16, u64)],
        ended: &[(TaskKey, Mark)],
    ) -> Result<(), Error> {
        let checkpoints = &self.inner.checkpoints;
        let mut kept = checkpoints.flow(name)?;
        let known_as = kept.known_as.as_deref().unwrap_or(name);
        self.inner.states.forgive(&format!("{known_as}/"));
        let mut marks: BTreeMap<TaskKey, Mark> = BTreeMap::new();
        let mut reached = Vec::new();
        for (stream, partition, position) in targets {
            let key = |lane: String| TaskKey {
                stream: stream.clone(),
                partition: *partition,
                lane,
            };
            let mut before: BTreeMap<TaskKey, Mark> = checkpoints
                .lanes(name, stream, *partition)?
                .into_iter()
                .map(|(lane, mark)| (key(lane), mark))
                .collect();
            let of_it = |(known, _): &&(TaskKey, Mark)| {
                known.stream == *stream && known.partition == *partition
            };
            before.extend(ended.iter().filter(of_it).cloned());
            // What a flow that has never run begins with.
            before.entry(key(MAIN.into())).or_default();
            let furthest = before.values().map(|mark| mark.position).max().unwrap_or(0);
            let furthest = furthest.max(checkpoints.reached(name, stream, *partition)?);
            reached.push((stream.clone(), *partition, furthest));
            for (key, mark) in before {
                kept.generation = kept.generation.max(mark.generation);
                marks.insert(
                    key,
                    Mark {
                        position: *position,
                        ..Mark::default()
                    },
                );
            }
        }
        kept.generation += 1;
        let marks: Vec<(TaskKey, Mark)> = marks
            .into_iter()
            .map(|(key, mark)| {
                let generation = kept.generation;
                (key, Mark { generation, ..mark })
            })
            .collect();
        let (checkpoints, name) = (checkpoints.clone(), name.to_owned());
        blocking(move || checkpoints.write_replay(&name, kept, &marks, &reached)).await
    }

    /// Ends all flows and sources in good order.
    pub async fn shutdown(&self) {
        let project = self.inner.project.lock().await;
        self.inner.bounded.cancel_all();
        self.stop_sources(&Project::default()).await;
        let flows: Vec<Arc<Flow>> = self.inner.flows.read().values().cloned().collect();
        for flow in &flows {
            flow.tell_stop();
        }
        for flow in flows {
            let ended = self.halt(&flow).await;
            self.keep_marks(&flow.name, &ended).await;
        }
        self.inner.options.databases.stop();
        drop(project);
    }

    /// The causes of dead letters, the one with the newest letter first.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn dead_groups(&self) -> Result<Vec<DeadGroup>, Error> {
        let dead = Arc::clone(&self.inner.dead);
        blocking(move || dead.groups()).await
    }

    /// How long dead letters are kept, and whether open ones will be deleted soon.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn dead_retention(&self) -> Result<DeadRetention, Error> {
        let dead = Arc::clone(&self.inner.dead);
        let now = self.inner.options.bus.clock().now_micros();
        blocking(move || dead.retention(now)).await
    }

    /// Dead letters, newest first.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn dead_letters(
        &self,
        filter: DeadFilter,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, Error> {
        let dead = Arc::clone(&self.inner.dead);
        blocking(move || {
            let ids = dead.find(&filter, limit)?;
            let letters = dead.read(&ids)?;
            let mut shown: Vec<DeadLetter> =
                letters.into_iter().map(|letter| letter.shown).collect();
            dead.add_also_in(&mut shown);
            Ok(shown)
        })
        .await
    }

    /// The first of these numbers that no dead letter has, of these streams if some are given.
    ///
    /// # Errors
    /// What the disk reports.
    pub async fn unknown_dead_letter(
        &self,
        ids: &[u64],
        streams: Option<BTreeSet<String>>,
    ) -> Result<Option<u64>, Error> {
        let (dead, ids) = (Arc::clone(&self.inner.dead), ids.to_vec());
        blocking(move || dead.unknown(&ids, streams.as_ref())).await
    }

    /// The project that runs.
    pub async fn project(&self) -> Project {
        self.inner.project.lock().await.clone()
    }

    fn flow(&self, name: &str) -> Result<Arc<Flow>, Error> {
        self.inner.flows.read().get(name).cloned().ok_or_else(|| {
            Error::new(Class::Permanent, "flow.unknown").with("flow", busbar_event::quote(name))
        })
    }

    fn put(&self, flow: Flow) {
        self.inner
            .flows
            .write()
            .insert(flow.name.clone(), Arc::new(flow));
    }

    /// Starts a flow that was halted, as it is. One that cannot start says so.
    async fn again(&self, project: &Project, flow: Arc<Flow>) -> Result<(), Error> {
        let parsed = flow.parsed.clone();
        let meaning = flow.meaning.clone();
        let (name, version) = (flow.name.clone(), flow.version);
        let old = Some(Arc::clone(&flow));
        let started = self
            .deploy(
                project,
                &name,
                &parsed,
                version,
                old,
                meaning,
                (false, false),
            )
            .await;
        if let Err(error) = &started {
            self.put(self.idle(&flow, stands(error), Some(error.clone())));
        }
        started.map(drop)
    }

    /// The same flow, not running.
    fn idle(&self, flow: &Flow, state: FlowState, error: Option<Error>) -> Flow {
        Flow {
            name: flow.name.clone(),
            parsed: flow.parsed.clone(),
            version: flow.version,
            meaning: flow.meaning.clone(),
            started_micros: flow.started_micros,
            since_micros: self.inner.options.bus.clock().now_micros(),
            shared: flow.shared.clone(),
            idle: Some((state, error)),
            tasks: Mutex::default(),
        }
    }

    /// Ends a flow's tasks; answers how far they have come.
    async fn halt(&self, flow: &Arc<Flow>) -> Vec<(TaskKey, Mark)> {
        flow.tell_stop();
        let tasks = std::mem::take(&mut *flow.tasks.lock());
        let until = tokio::time::Instant::now() + DRAIN_TIMEOUT;
        let mut ended = Vec::new();
        for mut running in tasks {
            let known = || {
                let shared = flow.shared.as_ref()?;
                shared.marks.lock().get(&running.key).copied()
            };
            let mark = match tokio::time::timeout_at(until, &mut running.task).await {
                Ok(Ok(mark)) => Some(mark),
                Ok(Err(_)) => known(),
                Err(_) => {
                    // What is on its way comes again, and is recognised where it arrived.
                    running.task.abort();
                    known()
                }
            };
            ended.extend(mark.map(|mark| (running.key, mark)));
        }
        ended
    }

    /// Changes what is kept of a flow as a whole.
    async fn keep(&self, name: &str, change: impl FnOnce(&mut Kept)) -> Result<(), Error> {
        let mut kept = self.inner.checkpoints.flow(name)?;
        change(&mut kept);
        let (checkpoints, name) = (self.inner.checkpoints.clone(), name.to_owned());
        blocking(move || checkpoints.write(&name, kept, &[])).await
    }

    /// Keeps where a flow's tasks are. Where the disk does not take it they go on all the same: what they
    /// would write again after a crash is recognised.
    async fn keep_marks(&self, name: &str, marks: &[(TaskKey, Mark)]) {
        self.begin_marks(name, marks, Vec::new(), None).await;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.bounded.cancel_all();
    }
}

impl Flow {
    fn tell_stop(&self) {
        for running in self.tasks.lock().iter() {
            running.stop.send_replace(true);
        }
    }

    fn state(&self) -> FlowState {
        match (&self.idle, &self.shared) {
            (Some((state, _)), _) => *state,
            (None, Some(shared)) => shared.state.lock().0,
            (None, None) => FlowState::Stopped,
        }
    }
}
