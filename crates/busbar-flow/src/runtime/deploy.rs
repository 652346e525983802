//! Starting a version of a flow, beside the one that runs, and handing over at an exact offset.

use std::sync::Arc;

use busbar_bus::{Cursor, Item, StreamPartition};
use busbar_catalog::{FlowSpec, Kind, Parsed, Project, Start, canonical};
use busbar_event::{Class, Error};
use futures::executor::block_on;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Connected, Flow, Running, Runtime, flow_hash};
use crate::checkpoint::{Kept, Mark, TaskKey};
use crate::compile::{NoPlan, Plan, Target, World, compile, table_schema};
use crate::connector::SourceDriver;
use crate::counters::Tally;
use crate::dead::Earlier;
use crate::limits::{START_TIMEOUT, TRIAL_ROWS_MAX};
use crate::output::{OpenSink, Writer, blocking};
use crate::status::FlowState;
use crate::task::{FlowShared, Lane, Surroundings, Task, lanes, prepare_outputs};

/// Who a task is.
#[derive(Clone)]
struct Seat {
    key: TaskKey,
    lane: Lane,
    generation: u64,
    partition: Arc<StreamPartition>,
    /// The flow's name as outputs know it.
    known_as: Arc<str>,
    /// It has been here before.
    known: bool,
}

/// A task that is ready but for its position.
struct Ready {
    seat: Seat,
    input: usize,
    chain: crate::chain::Chain,
    writers: Vec<Writer>,
    dead_writer: Writer,
}

impl Ready {
    /// Gives the writers the names that belong to a generation.
    fn name(&mut self, plan: &Plan, generation: u64) {
        let seat = &mut self.seat;
        let prefix = producer(&seat.known_as, &seat.key, generation);
        for (writer, output) in self.writers.iter_mut().zip(&seat.lane.outputs) {
            writer.producer = format!("{prefix}:{}", plan.outputs[*output].id).into();
        }
        self.dead_writer.producer = format!("{prefix}:dead:{}", seat.lane.id).into();
        seat.generation = generation;
    }

    /// Takes names that nobody knows where those it has stand for something else: outputs would take what it
    /// writes for known. A stream that is kept in memory can lose its tail when the power fails, and give
    /// the offsets out anew; a new flow can have the name of one that is gone.
    async fn renew(&mut self, plan: &Plan) -> Result<(), Error> {
        loop {
            let mut furthest = None;
            for writer in self.writers.iter_mut().chain([&mut self.dead_writer]) {
                furthest = furthest.max(writer.furthest().await?);
            }
            let seat = &self.seat;
            let other = match furthest {
                Some(known) => !seat.known || known > seat.partition.end(),
                None => false,
            };
            if !other {
                return Ok(());
            }
            if seat.known {
                tracing::warn!(
                    flow = %plan.name, stream = %seat.key.stream, partition = seat.key.partition,
                    "the stream has lost events that were processed; some before them may come again"
                );
            }
            let next = seat.generation + 1;
            self.name(plan, next);
        }
    }
}

impl Runtime {
    /// Brings a version of a flow up. On an error the old one goes on as it was. `strict`: a sink that cannot
    /// be opened now is an error, because a version that works is running.
    #[allow(clippy::too_many_arguments, reason = "what a version consists of")]
    pub(super) async fn deploy(
        &self,
        project: &Project,
        name: &str,
        parsed: &Parsed<FlowSpec>,
        version: u64,
        old: Option<Arc<Flow>>,
        meaning: serde_json::Value,
        strict: bool,
    ) -> Result<(), Error> {
        let now = self.inner.options.bus.clock().now_micros();
        let flow = |shared, idle| Flow {
            name: name.to_owned(),
            parsed: parsed.clone(),
            version,
            meaning: meaning.clone(),
            started_micros: now,
            since_micros: now,
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
                self.keep_marks(name, &ended, None).await;
            }
            self.put(flow(None, idle.map(|state| (state, None))));
            return Ok(());
        };
        // The new version: everything open, and its first batch computed, before the old one stops.
        let ready = self.ready(project, &plan, &kept, strict).await?;
        let ready = self.trial(&plan, ready, old.as_ref()).await?;
        let ended = match &old {
            Some(old) => self.halt(old).await,
            None => Vec::new(),
        };
        let seats: Vec<Seat> = ready.iter().map(|task| task.seat.clone()).collect();
        let handed = self.hand_over(&plan, &seats, &ended).await;
        let handed = match (handed, &old) {
            (Err(error), Some(old)) => {
                // It has ended; it must not seem to run.
                self.put(self.idle(old, stands(&error), Some(error.clone())));
                return Err(error);
            }
            (handed, _) => handed?,
        };
        let marks: Vec<(TaskKey, Mark)> = seats
            .into_iter()
            .zip(&handed)
            .map(|(seat, (mark, _))| (seat.key, *mark))
            .collect();
        let meaning = flow_hash(parsed);
        self.keep_marks(name, &marks, Some(meaning)).await;
        let shared = Arc::new(FlowShared {
            tally: Tally::new(plan.spec.from.len() + plan.spec.steps.len() + plan.outputs.len()),
            state: Mutex::new((FlowState::Running, None)),
            marks: Mutex::new(marks.into_iter().collect()),
            plan: Arc::clone(&plan),
        });
        let flow = flow(Some(Arc::clone(&shared)), None);
        for (ready, (mark, earlier)) in ready.into_iter().zip(handed) {
            let (stop, told) = watch::channel(false);
            let Seat {
                key,
                lane,
                partition,
                ..
            } = ready.seat;
            let task = Task {
                key: key.clone(),
                lane,
                shared: Arc::clone(&shared),
                surroundings: self.surroundings(),
                partition,
                input: ready.input,
                chain: ready.chain,
                writers: ready.writers,
                dead_writer: ready.dead_writer,
                mark,
                earlier,
                stop: told,
            };
            let task = tokio::spawn(task.run());
            flow.tasks.lock().push(Running { key, stop, task });
        }
        self.put(flow);
        Ok(())
    }

    /// Where each task begins, and which open letters tell of events that it reads again.
    async fn hand_over(
        &self,
        plan: &Arc<Plan>,
        seats: &[Seat],
        ended: &[(TaskKey, Mark)],
    ) -> Result<Vec<(Mark, Earlier)>, Error> {
        let mut handed = Vec::with_capacity(seats.len());
        for task in seats {
            let mark = self.mark(plan, task, ended)?;
            let (stream, partition) = (task.key.stream.clone(), task.key.partition);
            let reached = self
                .inner
                .checkpoints
                .reached(&plan.name, &stream, partition)?;
            let mut earlier = Earlier::default();
            if mark.position < reached {
                let dead = Arc::clone(&self.inner.dead);
                let (name, main) = (Arc::clone(&plan.name), task.lane.main);
                let outputs = task.lane.outputs.iter();
                let outputs: Vec<Arc<str>> =
                    outputs.map(|o| Arc::clone(&plan.outputs[*o].id)).collect();
                let offsets = mark.position..reached;
                earlier = blocking(move || {
                    dead.earlier(&name, (&stream, partition), offsets, &outputs, main)
                })
                .await?;
            }
            handed.push((mark, earlier));
        }
        Ok(handed)
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

    /// Chains and writers for every task.
    async fn ready(
        &self,
        project: &Project,
        plan: &Arc<Plan>,
        kept: &Kept,
        strict: bool,
    ) -> Result<Vec<Ready>, Error> {
        let bus = &self.inner.options.bus;
        let known_as: Arc<str> = kept.known_as.as_deref().unwrap_or(&plan.name).into();
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
                    let mut writers = Vec::with_capacity(lane.outputs.len());
                    for output in &lane.outputs {
                        writers.push(self.writer(project, plan, i, *output, "", strict).await?);
                    }
                    let known = self.inner.checkpoints.task(&plan.name, &key)?;
                    let generation = known.map_or(0, |mark| mark.generation);
                    let generation = generation.max(kept.generation);
                    let seat = Seat {
                        key,
                        lane,
                        generation,
                        partition: Arc::clone(partition),
                        known_as: Arc::clone(&known_as),
                        known: known.is_some(),
                    };
                    let mut task = Ready {
                        seat,
                        input: i,
                        chain: input.chain()?,
                        writers,
                        dead_writer: self.dead_writer(""),
                    };
                    task.name(plan, generation);
                    task.renew(plan).await?;
                    ready.push(task);
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
            .map(|shared| shared.marks.lock().clone())
            .unwrap_or_default();
        let plan = Arc::clone(plan);
        blocking(move || {
            let mut ready = ready;
            for task in &mut ready {
                let at = known
                    .get(&task.seat.key)
                    .map_or_else(|| task.seat.partition.start(), |mark| mark.position);
                let mut cursor = Cursor::new(
                    Arc::clone(&task.seat.partition),
                    at.min(task.seat.partition.end()),
                );
                // At the end there is nothing to try; what has just gone by will do.
                if cursor.lag() == 0 {
                    let back = at.saturating_sub(TRIAL_ROWS_MAX as u64);
                    cursor.seek(back.max(task.seat.partition.start()));
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
                let computed = block_on(task.chain.run(chunk.batch.slice(0, rows)));
                let tried = computed.and_then(|computed| {
                    prepare_outputs(&plan, task.input, &task.seat.lane.outputs, &computed)
                });
                match tried {
                    // What is wrong with some events does not keep the others waiting.
                    Err(error) if error.class() != Class::Permanent => return Err(error),
                    _ => {}
                }
            }
            Ok(ready)
        })
        .await
    }

    /// Where a task begins: where the version before ended, or its checkpoint, or where another cursor of the
    /// same flow is, or as `start` says.
    fn mark(&self, plan: &Plan, task: &Seat, ended: &[(TaskKey, Mark)]) -> Result<Mark, Error> {
        let (key, generation) = (&task.key, task.generation);
        let (start, end) = (task.partition.start(), task.partition.end());
        let at = |mark: Mark| Mark {
            generation,
            position: mark.position.min(end),
            seen: mark.seen,
        };
        if let Some((_, mark)) = ended.iter().find(|(known, _)| known == key) {
            return Ok(at(*mark));
        }
        let checkpoints = &self.inner.checkpoints;
        if let Some(mark) = checkpoints.task(&plan.name, key)? {
            return Ok(at(mark));
        }
        let beside = ended
            .iter()
            .filter(|(known, _)| known.stream == key.stream && known.partition == key.partition)
            .map(|(_, mark)| *mark)
            .min_by_key(|mark| mark.position);
        // A cursor that has been taken out of the flow says nothing about where the flow is.
        let kept = checkpoints.lanes(&plan.name, &key.stream, key.partition)?;
        let present = lanes(plan);
        let present = |lane: &str| present.iter().any(|known| known.id == *lane);
        let least = |marks: &mut dyn Iterator<Item = Mark>| marks.min_by_key(|mark| mark.position);
        let beside = beside
            .or_else(|| least(&mut kept.iter().filter(|(l, _)| present(l)).map(|(_, m)| *m)))
            .or_else(|| least(&mut kept.iter().map(|(_, m)| *m)));
        Ok(match (beside, plan.spec.start) {
            (Some(mark), _) => at(mark),
            (None, start_at) => at(Mark {
                generation,
                position: match start_at {
                    Start::Earliest => start,
                    Start::Latest => end,
                },
                seen: None,
            }),
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

/// What a flow that could not start does: it tries again, or somebody must do something.
pub(super) fn stands(error: &Error) -> FlowState {
    match error.class() {
        Class::Transient => FlowState::Retrying,
        Class::Permanent | Class::Configuration => FlowState::Stopped,
    }
}

/// The name under which logs, tables and sinks know a task, without the output.
fn producer(flow: &str, key: &TaskKey, generation: u64) -> String {
    format!("flow:{flow}:{}:{}:{generation}", key.stream, key.partition)
}
