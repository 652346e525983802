//! The flows of a node: deployed, watched, paused, replayed.

mod deploy;
mod redrive;
mod report;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Weak};

use busbar_bus::Bus;
use busbar_catalog::{Diagnostic, FlowSpec, Kind, Parsed, Project, canonical, has_errors};
use busbar_event::{Class, Error};
use busbar_log::Store;
use busbar_table::Tables;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::checkpoint::{Checkpoints, Kept, Mark, TaskKey};
use crate::connector::{Connectors, SourceDriver};
use crate::dead::DeadLetters;
use crate::limits::{DRAIN_TIMEOUT, RATE_EVERY};
use crate::output::blocking;
use crate::status::{Applied, DeadFilter, DeadGroup, DeadLetter, FlowState, ReplayFrom};
use crate::task::FlowShared;
use crate::world::check;

/// What a runtime stands on.
#[derive(Clone)]
pub struct RuntimeOptions {
    /// The streams.
    pub bus: Bus,
    /// The tables.
    pub tables: Arc<Tables>,
    /// The connectors.
    pub connectors: Connectors,
    /// The folder that relative paths of connections start at.
    pub project_dir: Arc<Path>,
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
    /// The project that runs. Held while anything is changed, so that changes come one after the other.
    project: tokio::sync::Mutex<Project>,
    flows: RwLock<BTreeMap<String, Arc<Flow>>>,
    sources: Mutex<BTreeMap<String, Connected>>,
    runs: std::sync::atomic::AtomicU64,
}

/// A connection that is there.
struct Connected {
    meaning: serde_json::Value,
    kind: String,
    enabled: bool,
    roles: crate::connector::Roles,
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
    /// None while it does not run.
    pub shared: Option<Arc<FlowShared>>,
    /// Why it does not run.
    pub idle: Option<(FlowState, Option<Error>)>,
    tasks: Mutex<Vec<Running>>,
}

struct Running {
    key: TaskKey,
    generation: u64,
    stop: watch::Sender<bool>,
    task: JoinHandle<u64>,
}

impl Runtime {
    /// A runtime without flows; [`Runtime::apply`] brings them. Call it within tokio.
    ///
    /// # Errors
    /// When the stores of checkpoints and dead letters cannot be opened.
    pub fn open(options: RuntimeOptions) -> Result<Runtime, Error> {
        let bus = &options.bus;
        let checkpoints = Checkpoints(bus.store("checkpoints")?);
        let dead = Arc::new(DeadLetters::open(bus)?);
        let positions = bus.store("sources")?;
        let runs = bus.clock().now_micros().unsigned_abs();
        let inner = Arc::new(Inner {
            options,
            checkpoints,
            dead,
            positions,
            project: tokio::sync::Mutex::default(),
            flows: RwLock::default(),
            sources: Mutex::default(),
            runs: runs.into(),
        });
        tokio::spawn(tick(Arc::downgrade(&inner)));
        Ok(Runtime { inner })
    }

    /// Makes the node be as the project says. Everything is checked before anything is changed; then only what
    /// means something else is started anew. A flow that checks but cannot start is named in
    /// [`Applied::failed`], and its version before goes on.
    ///
    /// # Errors
    /// What is wrong with the project; nothing has changed then.
    pub async fn apply(&self, project: &Project, version: u64) -> Result<Applied, Vec<Diagnostic>> {
        let mut current = self.inner.project.lock().await;
        let diagnostics = check(project, &self.inner.options.connectors);
        if has_errors(&diagnostics) {
            return Err(diagnostics);
        }
        let whole = |error: Error| vec![Diagnostic::new("", "", 0..0, error)];
        let (bus, tables) = (
            self.inner.options.bus.clone(),
            Arc::clone(&self.inner.options.tables),
        );
        let (streams, specs) = (project.stream_specs(), project.table_specs());
        blocking(move || {
            bus.apply_streams(&streams)?;
            tables.apply(&specs)
        })
        .await
        .map_err(whole)?;
        let mut applied = Applied::default();
        // A source that is gone must not publish into streams that mean something else now.
        self.stop_sources(project).await;
        let gone: Vec<Arc<Flow>> = {
            let flows = self.inner.flows.read();
            flows
                .values()
                .filter(|f| !project.flows.contains_key(&f.name))
                .cloned()
                .collect()
        };
        for flow in gone {
            let ended = self.halt(&flow).await;
            self.keep(&flow.name, &ended, |_| {}).await.map_err(whole)?;
            self.inner.flows.write().remove(&flow.name);
            applied.removed.push(flow.name.clone());
        }
        for (name, parsed) in &project.flows {
            let old = self.inner.flows.read().get(name).cloned();
            let meaning = meaning(project, parsed);
            let runs = |f: &Arc<Flow>| {
                f.meaning == meaning
                    && f.state() != FlowState::Stopped
                    && f.state() != FlowState::Waiting
            };
            if old.as_ref().is_some_and(runs) {
                applied.unchanged.push(name.clone());
                continue;
            }
            match self
                .deploy(project, name, parsed, version, old, meaning)
                .await
            {
                Ok(()) => applied.deployed.push(name.clone()),
                Err(error) => {
                    tracing::warn!(flow = %name, %error, "the flow's new version does not start");
                    applied.failed.insert(name.clone(), error);
                }
            }
        }
        applied.connections = self.start_sources(project);
        *current = project.clone();
        drop(current);
        self.finish_redrives().await;
        Ok(applied)
    }

    /// Lets a flow finish what it has begun, and keeps it from going on until it is resumed.
    ///
    /// # Errors
    /// `flow.unknown`, or what the store says.
    pub async fn pause(&self, name: &str) -> Result<(), Error> {
        let _one = self.inner.project.lock().await;
        let flow = self.flow(name)?;
        let ended = self.halt(&flow).await;
        self.keep(name, &ended, |kept| kept.paused = true).await?;
        self.put(flow.idle(FlowState::Paused, None));
        Ok(())
    }

    /// Lets a paused, or stopped, flow go on where it was.
    ///
    /// # Errors
    /// `flow.unknown`, or why it cannot start.
    pub async fn resume(&self, name: &str) -> Result<(), Error> {
        let project = self.inner.project.lock().await;
        let flow = self.flow(name)?;
        self.keep(name, &[], |kept| kept.paused = false).await?;
        self.again(&project, flow).await
    }

    /// Sets a flow's cursors and lets it go on from there. What it writes again is written again, not
    /// recognised as known.
    ///
    /// # Errors
    /// `flow.unknown`, or why it cannot start.
    pub async fn replay(&self, name: &str, from: ReplayFrom) -> Result<(), Error> {
        let project = self.inner.project.lock().await;
        let flow = self.flow(name)?;
        let mut ended = self.halt(&flow).await;
        for (key, mark) in &mut ended {
            let stream = self.inner.options.bus.stream(&key.stream);
            let partition = stream.and_then(|s| {
                s.partitions()
                    .iter()
                    .find(|p| p.number() == key.partition)
                    .cloned()
            });
            let Some(partition) = partition else { continue };
            mark.position = match from {
                ReplayFrom::Earliest => partition.start(),
                ReplayFrom::Latest => partition.end(),
                ReplayFrom::Time(micros) => {
                    blocking(move || partition.offset_at_time(micros)).await?
                }
            };
        }
        self.keep(name, &ended, |kept| kept.generation += 1).await?;
        self.again(&project, flow).await
    }

    /// Ends all flows and sources in good order.
    pub async fn shutdown(&self) {
        let project = self.inner.project.lock().await;
        self.stop_sources(&Project::default()).await;
        let flows: Vec<Arc<Flow>> = self.inner.flows.read().values().cloned().collect();
        for flow in &flows {
            flow.tell_stop();
        }
        for flow in flows {
            let ended = self.halt(&flow).await;
            if let Err(error) = self.keep(&flow.name, &ended, |_| {}).await {
                tracing::warn!(flow = %flow.name, %error, "the checkpoint was not kept");
            }
        }
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
            Ok(dead
                .read(&ids)?
                .into_iter()
                .map(|letter| letter.shown)
                .collect())
        })
        .await
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

    /// Starts a flow that was halted, as it is.
    async fn again(&self, project: &Project, flow: Arc<Flow>) -> Result<(), Error> {
        let parsed = flow.parsed.clone();
        let meaning = flow.meaning.clone();
        let (name, version) = (flow.name.clone(), flow.version);
        self.deploy(project, &name, &parsed, version, Some(flow), meaning)
            .await
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
                shared.positions.lock().get(&running.key).copied()
            };
            let position = match tokio::time::timeout_at(until, &mut running.task).await {
                Ok(Ok(position)) => Some(position),
                Ok(Err(_)) => known(),
                Err(_) => {
                    // What is on its way comes again, and is recognised where it arrived.
                    running.task.abort();
                    known()
                }
            };
            if let Some(position) = position {
                ended.push((
                    running.key,
                    Mark {
                        generation: running.generation,
                        position,
                    },
                ));
            }
        }
        ended
    }

    /// Keeps where a flow's tasks are, and what `change` does to what is kept of the flow.
    async fn keep(
        &self,
        name: &str,
        ended: &[(TaskKey, Mark)],
        change: impl FnOnce(&mut Kept),
    ) -> Result<(), Error> {
        let mut kept = self.inner.checkpoints.flow(name)?;
        change(&mut kept);
        let marks: Vec<(TaskKey, Mark)> = ended
            .iter()
            .map(|(key, mark)| {
                (
                    key.clone(),
                    Mark {
                        generation: kept.generation,
                        position: mark.position,
                    },
                )
            })
            .collect();
        let (checkpoints, name) = (self.inner.checkpoints.clone(), name.to_owned());
        blocking(move || checkpoints.write(&name, kept, &marks)).await
    }
}

impl Flow {
    fn tell_stop(&self) {
        for running in self.tasks.lock().iter() {
            running.stop.send_replace(true);
        }
    }

    /// The same flow, not running.
    fn idle(&self, state: FlowState, error: Option<Error>) -> Flow {
        Flow {
            name: self.name.clone(),
            parsed: self.parsed.clone(),
            version: self.version,
            meaning: self.meaning.clone(),
            started_micros: self.started_micros,
            shared: self.shared.clone(),
            idle: Some((state, error)),
            tasks: Mutex::default(),
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

/// What a flow means, with everything it names.
fn meaning(project: &Project, parsed: &Parsed<FlowSpec>) -> serde_json::Value {
    use busbar_catalog::OutputTarget;
    let spec = &parsed.spec;
    let mut named = BTreeMap::new();
    let stream = |name: &String| {
        project.streams.get(name).map(|s| {
            let mut json = canonical(Kind::Stream, &s.spec);
            if let Some(map) = json.as_object_mut() {
                // How long events are kept changes nothing for those who read them.
                map.remove("retention");
            }
            json
        })
    };
    for name in &spec.from {
        named.insert(format!("stream/{name}"), stream(name));
    }
    for output in &spec.to {
        let (key, json) = match &output.target {
            OutputTarget::Stream { stream: name, .. } => (format!("stream/{name}"), stream(name)),
            OutputTarget::Topic(_) => continue,
            OutputTarget::Table(name) => {
                let table = project.tables.get(name);
                (
                    format!("table/{name}"),
                    table.map(|t| canonical(Kind::Table, &t.spec)),
                )
            }
            OutputTarget::Connection(name) => {
                let connection = project.connections.get(name);
                let json = connection.map(|c| canonical(Kind::Connection, &c.spec));
                (format!("connection/{name}"), json)
            }
        };
        named.insert(key, json);
    }
    serde_json::json!({ "flow": canonical(Kind::Flow, spec), "names": named })
}

/// Once a second: rates, and flows that wait for their first event.
async fn tick(inner: Weak<Inner>) {
    let mut every = tokio::time::interval(RATE_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        let runtime = Runtime { inner };
        let now = runtime.inner.options.bus.clock().now_micros();
        let flows: Vec<Arc<Flow>> = runtime.inner.flows.read().values().cloned().collect();
        for flow in flows {
            if let Some(shared) = &flow.shared {
                shared.tally.tick(now);
            }
            if flow.state() == FlowState::Waiting
                && let Ok(project) = runtime.inner.project.try_lock()
            {
                // Still waiting is no error; anything else shows in its status.
                if let Err(error) = runtime.again(&project, Arc::clone(&flow)).await {
                    runtime.put(flow.idle(FlowState::Stopped, Some(error)));
                }
            }
        }
    }
}
