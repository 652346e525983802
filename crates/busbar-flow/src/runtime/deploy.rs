//! Starting a version of a flow, beside the one that runs, and handing over at an exact offset.

use std::sync::Arc;

use busbar_bus::{Cursor, Item, StreamPartition};
use busbar_catalog::{FlowSpec, Kind, Parsed, Project, Start, canonical};
use busbar_event::{Class, Error};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Connected, Flow, Running, Runtime};
use crate::checkpoint::{Mark, TaskKey};
use crate::compile::{NoPlan, Plan, Target, World, compile, table_schema};
use crate::connector::SourceDriver;
use crate::counters::Tally;
use crate::limits::{START_TIMEOUT, TRIAL_ROWS_MAX};
use crate::output::{OpenSink, Writer, blocking};
use crate::status::FlowState;
use crate::task::{FlowShared, Lane, Surroundings, Task, lanes, prepare_outputs};

/// A task that is ready but for its position.
struct Ready {
    key: TaskKey,
    lane: Lane,
    input: usize,
    partition: Arc<StreamPartition>,
    chain: crate::chain::Chain,
    writers: Vec<Writer>,
    dead_writer: Writer,
}

impl Runtime {
    /// Brings a version of a flow up. On an error the old one goes on as it was.
    pub(super) async fn deploy(
        &self,
        project: &Project,
        name: &str,
        parsed: &Parsed<FlowSpec>,
        version: u64,
        old: Option<Arc<Flow>>,
        meaning: serde_json::Value,
    ) -> Result<(), Error> {
        let flow = |shared, idle| Flow {
            name: name.to_owned(),
            parsed: parsed.clone(),
            version,
            meaning: meaning.clone(),
            started_micros: self.inner.options.bus.clock().now_micros(),
            shared,
            idle,
            tasks: Mutex::default(),
        };
        let kept = self.inner.checkpoints.flow(name)?;
        let plan = if parsed.spec.enabled {
            self.plan(project, name, parsed).await?
        } else {
            None
        };
        let idle = match (&plan, parsed.spec.enabled, kept.paused) {
            (_, false, _) => Some(FlowState::Disabled),
            (None, ..) => Some(FlowState::Waiting),
            (_, _, true) => Some(FlowState::Paused),
            _ => None,
        };
        let (Some(plan), None) = (plan, idle) else {
            if let Some(old) = &old {
                let ended = self.halt(old).await;
                self.keep(name, &ended, |_| {}).await?;
            }
            self.put(flow(None, idle.map(|state| (state, None))));
            return Ok(());
        };
        // The new version: everything open, and its first batch computed, before the old one stops.
        let replaces = old
            .as_ref()
            .is_some_and(|o| o.state() == FlowState::Running);
        let ready = self
            .ready(project, &plan, kept.generation, replaces)
            .await?;
        let ready = self.trial(&plan, ready, old.as_ref()).await?;
        let ended = match &old {
            Some(old) => self.halt(old).await,
            None => Vec::new(),
        };
        let mut marks = Vec::with_capacity(ready.len());
        for task in &ready {
            let position = self.position(&plan, &task.key, &task.partition, &ended)?;
            marks.push((
                task.key.clone(),
                Mark {
                    generation: kept.generation,
                    position,
                },
            ));
        }
        self.keep(name, &marks, |_| {}).await?;
        let shared = Arc::new(FlowShared {
            tally: Tally::new(plan.spec.from.len() + plan.spec.steps.len() + plan.outputs.len()),
            state: Mutex::new((FlowState::Running, None)),
            positions: Mutex::new(marks.iter().map(|(k, m)| (k.clone(), m.position)).collect()),
            plan: Arc::clone(&plan),
        });
        let flow = flow(Some(Arc::clone(&shared)), None);
        for (ready, (key, mark)) in ready.into_iter().zip(marks) {
            let (stop, told) = watch::channel(false);
            let task = Task {
                key: key.clone(),
                lane: ready.lane,
                shared: Arc::clone(&shared),
                surroundings: self.surroundings(),
                partition: ready.partition,
                input: ready.input,
                chain: ready.chain,
                writers: ready.writers,
                dead_writer: ready.dead_writer,
                generation: mark.generation,
                position: mark.position,
                stop: told,
            };
            let task = tokio::spawn(task.run());
            let generation = mark.generation;
            flow.tasks.lock().push(Running {
                key,
                generation,
                stop,
                task,
            });
        }
        self.put(flow);
        Ok(())
    }

    pub(super) fn surroundings(&self) -> Surroundings {
        Surroundings {
            bus: self.inner.options.bus.clone(),
            checkpoints: self.inner.checkpoints.clone(),
            dead: Arc::clone(&self.inner.dead),
        }
    }

    /// The flow against the world as it is; none while a stream's columns are not known.
    pub(super) async fn plan(
        &self,
        project: &Project,
        name: &str,
        parsed: &Parsed<FlowSpec>,
    ) -> Result<Option<Arc<Plan>>, Error> {
        let options = self.inner.options.clone();
        let (project, parsed, name) = (project.clone(), parsed.clone(), name.to_owned());
        blocking(move || {
            let (bus, tables) = (&options.bus, &options.tables);
            let world = World::of_bus(bus, tables, &project, &options.connectors)?;
            match compile(&name, &parsed.spec, &parsed.source, &world) {
                Ok(plan) => {
                    for output in 0..plan.outputs.len() {
                        let Target::Table(table) = &plan.outputs[output].target else {
                            continue;
                        };
                        let Some(table) = tables.table(table) else {
                            continue;
                        };
                        for input in &plan.inputs {
                            let columns = &input.shapes[output].columns;
                            table.evolve(&table_schema(&input.schema, columns))?;
                        }
                    }
                    Ok(Some(Arc::new(plan)))
                }
                Err(NoPlan::Waiting(_)) => Ok(None),
                Err(NoPlan::Wrong(wrong)) => match wrong.into_iter().next() {
                    Some(first) => Err(first.error().clone().with("place", &first)),
                    None => Err(Error::new(Class::Configuration, "flow.worker")),
                },
            }
        })
        .await
    }

    /// Chains and writers for every task. `strict`: a sink that cannot be opened now is an error, because a
    /// version that works is running.
    async fn ready(
        &self,
        project: &Project,
        plan: &Arc<Plan>,
        generation: u64,
        strict: bool,
    ) -> Result<Vec<Ready>, Error> {
        let bus = &self.inner.options.bus;
        let mut ready = Vec::new();
        for (i, input) in plan.inputs.iter().enumerate() {
            let stream = bus.stream(&input.stream).ok_or_else(|| {
                Error::new(Class::Configuration, "catalog.unknown-stream")
                    .with("name", &input.stream)
            })?;
            for partition in stream.partitions().iter() {
                for lane in lanes(plan) {
                    let key = TaskKey {
                        stream: input.stream.clone(),
                        partition: partition.number(),
                        lane: lane.id.clone(),
                    };
                    let prefix = producer(&plan.name, &key, generation);
                    let mut writers = Vec::with_capacity(lane.outputs.len());
                    for output in &lane.outputs {
                        writers.push(
                            self.writer(project, plan, i, *output, &prefix, strict)
                                .await?,
                        );
                    }
                    let dead_writer = self.dead_writer(&format!("{prefix}:dead:{}", lane.id));
                    ready.push(Ready {
                        key,
                        lane,
                        input: i,
                        partition: Arc::clone(partition),
                        chain: input.chain()?,
                        writers,
                        dead_writer,
                    });
                }
            }
        }
        Ok(ready)
    }

    pub(super) fn dead_writer(&self, producer: &str) -> Writer {
        let bus = self.inner.options.bus.clone();
        Writer::stream(bus, Arc::clone(self.inner.dead.stream()), producer.into())
    }

    pub(super) async fn writer(
        &self,
        project: &Project,
        plan: &Plan,
        input: usize,
        output: usize,
        prefix: &str,
        strict: bool,
    ) -> Result<Writer, Error> {
        let options = &self.inner.options;
        let bus = options.bus.clone();
        let producer: Arc<str> = format!("{prefix}:{}", plan.outputs[output].id).into();
        let gone = |code: &'static str, name: &str| {
            Error::new(Class::Configuration, code).with("name", name)
        };
        Ok(match &plan.outputs[output].target {
            Target::Topic => Writer::topic(bus, producer),
            Target::Stream(name) => {
                let stream = bus
                    .stream(name)
                    .ok_or_else(|| gone("catalog.unknown-stream", name))?;
                Writer::stream(bus, stream, producer)
            }
            Target::Table(name) => {
                let table = options.tables.table(name);
                Writer::table(
                    table.ok_or_else(|| gone("catalog.unknown-table", name))?,
                    producer,
                )
            }
            Target::Connection(name) => {
                let unknown = || gone("catalog.unknown-connection", name);
                let spec = &project.connections.get(name).ok_or_else(unknown)?.spec;
                let connector = options.connectors.get(&spec.kind).ok_or_else(unknown)?;
                let schema = &plan.inputs[input].schema;
                let all: Vec<usize> = (0..schema.fields().len()).collect();
                let mut sink = OpenSink {
                    connector: Arc::clone(connector),
                    spec: spec.clone(),
                    name: name.as_str().into(),
                    project_dir: Arc::clone(&options.project_dir),
                    clock: Arc::clone(options.bus.clock()),
                    schema: Arc::new(table_schema(schema, &all)),
                    sink: None,
                };
                let opened = tokio::time::timeout(START_TIMEOUT, sink.open()).await;
                let failed = match opened {
                    Ok(Ok(_)) => None,
                    Ok(Err(error)) => Some(error),
                    Err(e) => Some(
                        Error::new(Class::Transient, "flow.start-timeout")
                            .with("connection", name)
                            .caused_by(e),
                    ),
                };
                match failed {
                    // The other side may be down just now; the task goes on trying.
                    Some(error) if strict || error.class() != Class::Transient => {
                        return Err(error);
                    }
                    _ => {}
                }
                Writer::sink(sink, producer)
            }
        })
    }

    /// Computes a first batch with every chain, without writing anything.
    async fn trial(
        &self,
        plan: &Arc<Plan>,
        ready: Vec<Ready>,
        old: Option<&Arc<Flow>>,
    ) -> Result<Vec<Ready>, Error> {
        let known = old
            .and_then(|old| old.shared.as_ref())
            .map(|shared| shared.positions.lock().clone())
            .unwrap_or_default();
        let plan = Arc::clone(plan);
        blocking(move || {
            let mut ready = ready;
            for task in &mut ready {
                let at = known
                    .get(&task.key)
                    .copied()
                    .unwrap_or_else(|| task.partition.start());
                let mut cursor =
                    Cursor::new(Arc::clone(&task.partition), at.min(task.partition.end()));
                // At the end there is nothing to try; what has just gone by will do.
                if cursor.lag() == 0 {
                    let back = at.saturating_sub(TRIAL_ROWS_MAX as u64);
                    cursor.seek(back.max(task.partition.start()));
                }
                let chunk = loop {
                    match cursor.try_next()? {
                        Some(Item::Chunk(chunk)) => break Some(chunk),
                        Some(Item::Gap(_)) => {}
                        None => break None,
                    }
                };
                let Some(chunk) = chunk else { continue };
                let rows = chunk.batch.rows().min(TRIAL_ROWS_MAX);
                let computed = task.chain.run(chunk.batch.slice(0, rows))?;
                prepare_outputs(&plan, task.input, &task.lane.outputs, &computed)?;
            }
            Ok(ready)
        })
        .await
    }

    /// Where a task begins: where the version before ended, or its checkpoint, or where another cursor of the
    /// same flow is, or as `start` says.
    fn position(
        &self,
        plan: &Plan,
        key: &TaskKey,
        partition: &StreamPartition,
        ended: &[(TaskKey, Mark)],
    ) -> Result<u64, Error> {
        let (start, end) = (partition.start(), partition.end());
        if let Some((_, mark)) = ended.iter().find(|(known, _)| known == key) {
            return Ok(mark.position);
        }
        let checkpoints = &self.inner.checkpoints;
        if let Some(mark) = checkpoints.task(&plan.name, key)? {
            return Ok(mark.position.min(end));
        }
        let beside = ended
            .iter()
            .filter(|(known, _)| known.stream == key.stream && known.partition == key.partition)
            .map(|(_, mark)| mark.position)
            .min();
        let lanes = checkpoints.lanes(&plan.name, &key.stream, key.partition)?;
        let beside = beside.or_else(|| lanes.iter().map(|mark| mark.position).min());
        Ok(match (beside, plan.spec.start) {
            (Some(position), _) => position.min(end),
            (None, Start::Earliest) => start,
            (None, Start::Latest) => end,
        })
    }

    /// Ends the sources of connections that are gone or mean something else.
    pub(super) async fn stop_sources(&self, project: &Project) {
        let gone: Vec<SourceDriver> = {
            let mut sources = self.inner.sources.lock();
            let names: Vec<String> = sources
                .iter()
                .filter(|(name, connected)| {
                    project
                        .connections
                        .get(*name)
                        .is_none_or(|c| canonical(Kind::Connection, &c.spec) != connected.meaning)
                })
                .map(|(name, _)| name.clone())
                .collect();
            names
                .iter()
                .filter_map(|n| sources.remove(n))
                .filter_map(|c| c.driver)
                .collect()
        };
        for driver in gone {
            driver.stop().await;
        }
    }

    /// Starts the sources that do not run yet; answers their names.
    pub(super) fn start_sources(&self, project: &Project) -> Vec<String> {
        let options = &self.inner.options;
        let mut started = Vec::new();
        let mut sources = self.inner.sources.lock();
        for (name, connection) in &project.connections {
            if sources.contains_key(name) {
                continue;
            }
            let spec = &connection.spec;
            let (Ok(roles), Some(connector)) = (
                options.connectors.check(spec),
                options.connectors.get(&spec.kind),
            ) else {
                continue;
            };
            let driver = (roles.source && spec.enabled).then(|| {
                SourceDriver::start(
                    name,
                    spec.clone(),
                    Arc::clone(connector),
                    options.bus.clone(),
                    self.inner.positions.clone(),
                    Arc::clone(&options.project_dir),
                )
            });
            let connected = Connected {
                meaning: canonical(Kind::Connection, spec),
                kind: spec.kind.clone(),
                enabled: spec.enabled,
                roles,
                driver,
            };
            sources.insert(name.clone(), connected);
            started.push(name.clone());
        }
        started
    }
}

/// The name under which logs, tables and sinks know a task, without the output.
fn producer(flow: &str, key: &TaskKey, generation: u64) -> String {
    format!("flow:{flow}:{}:{}:{generation}", key.stream, key.partition)
}
