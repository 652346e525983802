//! Starting a version of a flow, beside the one that runs, and handing over at an exact offset.

use std::sync::Arc;

use busbar_bus::{Bus, Cursor, Item, Retention, Size, Span, StreamPartition};
use busbar_catalog::{FlowSpec, Parsed, Project, Start};
use busbar_event::{Class, Error};
use futures::executor::block_on;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::apply::flow_hash;
use super::kept_state::{BegunVersion, states};
use super::{Flow, Running, Runtime};
use crate::blocking::blocking;
use crate::chain::Chain;
use crate::checkpoint::{Kept, Mark, TaskKey};
use crate::compile::{NoPlan, Plan, Target, World, compile, table_schema};
use crate::counters::Tally;
use crate::dead::Earlier;
use crate::limits::{LATE_BYTES_MAX, LATE_KEPT, START_TIMEOUT, TRIAL_ROWS_MAX};
use crate::output::{OpenSink, Writer};
use crate::state::{Checkpoint, MemoryStore, States};
use crate::status::FlowState;
use crate::task::{FlowShared, Keeps, Lane, Surroundings, Task, Writers, lanes, prepare_outputs};

/// Who a task is.
#[derive(Clone)]
pub(super) struct Seat {
    /// The input's index in the plan.
    pub(super) input: usize,
    /// It has event time and perhaps state.
    pub(super) keeps: bool,
    /// Where its state is, if there is state of this generation.
    pub(super) checkpoint: Option<Checkpoint>,
    /// Why its state is that of the copy, if it is.
    pub(super) copy: Option<Error>,
    /// Ticks that its outputs may know.
    pub(super) ticks: u64,
    pub(super) key: TaskKey,
    pub(super) lane: Lane,
    pub(super) generation: u64,
    pub(super) partition: Arc<StreamPartition>,
    /// The flow's name as outputs know it.
    pub(super) known_as: Arc<str>,
    /// It has been here before.
    pub(super) known: bool,
}

/// A task that is ready but for its position.
struct Ready {
    seat: Seat,
    writers: Writers,
}

impl Ready {
    /// Gives the writers the names that belong to a generation.
    fn name(&mut self, plan: &Plan, generation: u64) {
        let seat = &mut self.seat;
        let prefix = producer(&seat.known_as, &seat.key, generation);
        for (writer, output) in self.writers.outputs.iter_mut().zip(&seat.lane.outputs) {
            let name = plan.inputs[seat.input].output_name(&plan.outputs[*output]);
            writer.producer = format!("{prefix}:{name}").into();
        }
        self.writers.dead.producer = format!("{prefix}:dead:{}", seat.lane.id).into();
        if let Some(late) = &mut self.writers.late {
            late.producer = format!("{prefix}:late").into();
        }
        seat.generation = generation;
    }

    /// Takes names that nobody knows where those it has stand for something else: outputs would take what it
    /// writes for known. A stream that is kept in memory can lose its tail when the power fails, and give
    /// the offsets out anew; a new flow can have the name of one that is gone.
    async fn renew(&mut self, plan: &Plan, runtime: &Runtime) -> Result<(), Error> {
        loop {
            let mut furthest = None;
            for writer in self.writers.all() {
                furthest = furthest.max(writer.furthest().await?);
            }
            if self.seat.keeps {
                // Behind what outputs know: the version that runs may be writing.
                runtime.look_up_state(&mut self.seat).await?;
            }
            let seat = &self.seat;
            let other = match furthest {
                Some(known) => !seat.known || known > seat.partition.end() + seat.ticks,
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
    /// Brings a version of a flow up; what people should know of how it has begun, if anything. On an error the old one goes on
    /// as it was. `strict`: a sink that cannot be opened now is an error, because a version that works is running.
    #[allow(clippy::too_many_arguments, reason = "what a version consists of")]
    pub(super) async fn deploy(
        &self,
        project: &Project,
        name: &str,
        parsed: &Parsed<FlowSpec>,
        version: u64,
        old: Option<Arc<Flow>>,
        meaning: serde_json::Value,
        (strict, replay): (bool, bool),
    ) -> Result<Option<Error>, Error> {
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
                self.keep_marks(name, &ended).await;
            }
            self.put(flow(None, idle.map(|state| (state, None))));
            return Ok(None);
        };
        // The new version: everything open, and its first batch computed, before the old one stops.
        let ready = self.ready(project, &plan, &kept, strict).await?;
        let seats: Vec<Seat> = ready.iter().map(|task| task.seat.clone()).collect();
        self.check_state(&plan, &seats, replay).await?;
        let dropped = match replay {
            true => None,
            false => self.dropped_state(&plan, &kept, old.as_ref()).await?,
        };
        self.trial(&plan, seats.clone(), old.as_ref()).await?;
        let ended = match &old {
            Some(old) => self.halt(old).await,
            None => Vec::new(),
        };
        let begun = self.begin(&plan, &seats, &ended).await;
        let begun = match (begun, &old) {
            (Err(error), Some(old)) => {
                // It has ended; it must not seem to run.
                self.put(self.idle(old, stands(&error), Some(error.clone())));
                return Err(error);
            }
            (begun, _) => begun?,
        };
        let keys = seats.into_iter().map(|seat| seat.key);
        let marks: Vec<(TaskKey, Mark)> = keys.zip(begun.iter().map(|b| b.mark)).collect();
        let notice = notice(&begun).or(dropped);
        let begun_version = BegunVersion {
            meaning: flow_hash(parsed),
            states: states(&plan),
        };
        let known_as = kept.known_as.as_deref().unwrap_or(name);
        let done_with = self.done_with(&plan, known_as)?;
        let kept_marks = [&marks[..], &done_with].concat();
        self.begin_marks(name, &kept_marks, self.retired(&plan), Some(begun_version))
            .await;
        let before = old.as_ref().and_then(|old| old.shared.as_ref());
        let shared = Arc::new(FlowShared {
            tally: tally(&plan, before),
            state: Mutex::new((FlowState::Running, None)),
            notice: Mutex::new(notice.clone()),
            marks: Mutex::new(marks.into_iter().collect()),
            clocks: Mutex::default(),
            costs: Mutex::default(),
            state_bytes_max: self.inner.options.state_bytes_max,
            plan: Arc::clone(&plan),
        });
        let flow = flow(Some(Arc::clone(&shared)), None);
        for (ready, begun) in ready.into_iter().zip(begun) {
            let (stop, told) = watch::channel(false);
            let (inserts, handed) = mpsc::channel(1);
            let Seat {
                key,
                lane,
                partition,
                input,
                ..
            } = ready.seat;
            let task = Task {
                key: key.clone(),
                lane,
                shared: Arc::clone(&shared),
                surroundings: self.surroundings(),
                partition,
                input,
                chain: begun.chain,
                writers: Some(ready.writers),
                mark: begun.mark,
                earlier: begun.earlier,
                keeps: begun.keeps,
                inserts: handed,
                stop: told,
            };
            let task = self.inner.compute.spawn(task.run());
            flow.tasks.lock().push(Running {
                key,
                stop,
                inserts,
                task,
            });
        }
        self.put(flow);
        Ok(notice)
    }

    /// What each task begins with: its place in the input, its state, and the open letters of events that it reads again.
    async fn begin(
        &self,
        plan: &Arc<Plan>,
        seats: &[Seat],
        ended: &[(TaskKey, Mark)],
    ) -> Result<Vec<Begun>, Error> {
        let mut begun = Vec::with_capacity(seats.len());
        for seat in seats {
            let mut mark = self.mark(plan, seat, ended)?;
            let (mut chain, keeps) = match seat.keeps {
                false => (plan.inputs[seat.input].chain(&[])?, None),
                true => {
                    let before = before(plan, seats, seat.input);
                    let (chain, keeps) = self.take_up(plan, seat, before, mark).await?;
                    (mark.position, mark.seen) = (keeps.checkpoint.position, keeps.checkpoint.seen);
                    (chain, Some(keeps))
                }
            };
            let (stream, partition) = (seat.key.stream.clone(), seat.key.partition);
            chain.place = format!("{}-{stream}-{partition}", plan.name).into();
            let checkpoints = &self.inner.checkpoints;
            let reached = checkpoints.reached(&plan.name, &stream, partition)?;
            let mut earlier = Earlier::default();
            if mark.position < reached {
                let dead = Arc::clone(&self.inner.dead);
                let (name, main) = (Arc::clone(&plan.name), seat.lane.main);
                let outputs = seat.lane.outputs.iter();
                let outputs: Vec<Arc<str>> =
                    outputs.map(|o| Arc::clone(&plan.outputs[*o].id)).collect();
                let offsets = mark.position..reached;
                earlier = blocking(move || {
                    dead.earlier(&name, (&stream, partition), offsets, &outputs, main)
                })
                .await?;
            }
            begun.push(Begun {
                mark,
                earlier,
                chain,
                keeps,
            });
        }
        Ok(begun)
    }

    pub(super) fn surroundings(&self) -> Surroundings {
        Surroundings {
            bus: self.inner.options.bus.clone(),
            checkpoints: self.inner.checkpoints.clone(),
            dead: Arc::clone(&self.inner.dead),
            snapshot_every: self.inner.options.snapshot_every,
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
        let plugins = self.inner.plugins.read().clone();
        let lines = self.lines(project);
        let known_as = self.inner.checkpoints.flow(name)?.known_as;
        let delivers = self.is_delivering(name, known_as.as_deref().unwrap_or(name))?;
        let (project, parsed, name) = (project.clone(), parsed.clone(), name.to_owned());
        blocking(move || {
            let (bus, tables) = (&options.bus, &options.tables);
            let mut world = World::of_bus(bus, tables, &project, &options.connectors)?;
            world.plugins = plugins;
            // Their columns are asked for now: with them the flow's types are checked.
            for name in parsed.spec.read_tables() {
                if !world.tables.contains_key(name)
                    && let Some(table) = options.databases.table(name)?
                {
                    world.tables.insert(name.clone(), table);
                }
            }
            for (name, line) in lines {
                if let Some(service) = world.services.get_mut(&name) {
                    service.line = Some(line);
                }
            }
            world
                .known_as
                .extend(known_as.map(|known_as| (name.clone(), known_as)));
            world.delivering.extend(delivers.then(|| name.clone()));
            match compile(&name, &parsed.spec, &parsed.source, &world) {
                Ok(mut plan) => {
                    make_streams(bus, &mut plan)?;
                    for output in 0..plan.outputs.len() {
                        let Target::Table(table) = &plan.outputs[output].target else {
                            continue;
                        };
                        let Some(table) = tables.table(table) else {
                            continue;
                        };
                        for input in &plan.inputs {
                            let output = &plan.outputs[output];
                            if let Some(shape) = input.shape(output) {
                                let schema = input.schema(output);
                                table.evolve(&output.table_schema(schema, &shape.columns))?;
                            }
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
                for lane in lanes(plan, i) {
                    let key = TaskKey {
                        stream: input.stream.clone(),
                        partition: partition.number(),
                        lane: lane.id.clone(),
                    };
                    let mut outputs = Vec::with_capacity(lane.outputs.len());
                    for output in &lane.outputs {
                        let writer = match &plan.outputs[*output].target {
                            Target::Results(stream) => results_writer(bus, stream, partition)?,
                            _ => self.writer(project, plan, i, *output, "", strict).await?,
                        };
                        outputs.push(writer);
                    }
                    let known = self.inner.checkpoints.task(&plan.name, &key)?;
                    let generation = known.map_or(0, |mark| mark.generation);
                    let generation = generation.max(kept.generation);
                    let seat = Seat {
                        input: i,
                        keeps: input.timed,
                        checkpoint: None,
                        copy: None,
                        ticks: 0,
                        key,
                        lane,
                        generation,
                        partition: Arc::clone(partition),
                        known_as: Arc::clone(&known_as),
                        known: known.is_some(),
                    };
                    let mut late = None;
                    if input.timed {
                        late = Some(self.late_writer(&known_as)?);
                    }
                    let mut task = Ready {
                        seat,
                        writers: Writers {
                            outputs,
                            dead: self.dead_writer(""),
                            late,
                        },
                    };
                    for writer in task.writers.all() {
                        writer.in_pieces = input.timed;
                    }
                    task.name(plan, generation);
                    task.renew(plan, self).await?;
                    ready.push(task);
                }
            }
        }
        Ok(ready)
    }

    fn late_writer(&self, known_as: &str) -> Result<Writer, Error> {
        let retention = Retention {
            age: Some(Span::from_micros(
                i64::try_from(LATE_KEPT.as_micros()).unwrap_or(i64::MAX),
            )),
            bytes: Some(Size::from_bytes(LATE_BYTES_MAX)),
        };
        let bus = &self.inner.options.bus;
        let stream = bus.derived_stream(&format!("{known_as}.late"), 1, retention)?;
        Ok(Writer::partition(
            Arc::clone(&stream.partitions()[0]),
            "".into(),
        ))
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
        let name = plan.inputs[input].output_name(&plan.outputs[output]);
        let producer: Arc<str> = format!("{prefix}:{name}").into();
        let gone = |code: &'static str, name: &str| {
            Error::new(Class::Configuration, code).with("name", name)
        };
        Ok(match &plan.outputs[output].target {
            Target::Topic | Target::Relay => Writer::topic(bus, producer),
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
                    plan.outputs[output].change.clone(),
                    producer,
                )
            }
            Target::Stage(name) | Target::Results(name) => {
                let stream = bus
                    .stream(name)
                    .ok_or_else(|| gone("catalog.unknown-stream", name))?;
                Writer::parts(stream, producer)
            }
            Target::Connection(name) => {
                let unknown = || gone("catalog.unknown-connection", name);
                let spec = &project.connections.get(name).ok_or_else(unknown)?.spec;
                let connector = options.connectors.get(&spec.kind).ok_or_else(unknown)?;
                let schema = plan.inputs[input].schema(&plan.outputs[output]);
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

    /// Computes a first batch with chains of its own, without state and without writing anything.
    async fn trial(
        &self,
        plan: &Arc<Plan>,
        seats: Vec<Seat>,
        old: Option<&Arc<Flow>>,
    ) -> Result<(), Error> {
        let known = old
            .and_then(|old| old.shared.as_ref())
            .map(|shared| shared.marks.lock().clone())
            .unwrap_or_default();
        let plan = Arc::clone(plan);
        blocking(move || {
            let states = States::new(Arc::new(MemoryStore::default()));
            for seat in seats {
                let at = known
                    .get(&seat.key)
                    .map_or_else(|| seat.partition.start(), |mark| mark.position);
                let mut cursor =
                    Cursor::new(Arc::clone(&seat.partition), at.min(seat.partition.end()));
                // At the end there is nothing to try; what has just gone by will do.
                if cursor.lag() == 0 {
                    let back = at.saturating_sub(TRIAL_ROWS_MAX as u64);
                    cursor.seek(back.max(seat.partition.start()));
                }
                let chunk = loop {
                    match cursor.try_next()? {
                        Some(Item::Chunk(chunk)) => break Some(chunk),
                        Some(Item::Gap(_)) => {}
                        None => break None,
                    }
                };
                let mut chain = plan.inputs[seat.input].chain(&[])?;
                chain.restore(&states.task(&seat.key.stream))?;
                chain.on_trial();
                let Some(chunk) = chunk else { continue };
                // A service would be asked about events that it is asked about again.
                if plan.inputs[seat.input].calls_out() {
                    continue;
                }
                let rows = chunk.batch.rows().min(TRIAL_ROWS_MAX);
                let computed = block_on(chain.run(chunk.batch.slice(0, rows)));
                let tried = computed.and_then(|computed| {
                    prepare_outputs(&plan, seat.input, &seat.lane.outputs, &computed)
                });
                match tried {
                    // What is wrong with some events does not keep the others waiting.
                    Err(error) if error.class() != Class::Permanent => return Err(error),
                    _ => {}
                }
            }
            Ok(())
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
        let checkpoints = &self.inner.checkpoints;
        if let Some(mark) = self.furthest_behind(plan, task, ended)? {
            return Ok(at(mark));
        }
        if let Some((_, mark)) = ended.iter().find(|(known, _)| known == key) {
            return Ok(at(*mark));
        }
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
        let present = lanes(plan, task.input);
        let present = |lane: &str| present.iter().any(|known| known.id == *lane);
        let least = |marks: &mut dyn Iterator<Item = Mark>| marks.min_by_key(|mark| mark.position);
        let beside = beside
            .or_else(|| least(&mut kept.iter().filter(|(l, _)| present(l)).map(|(_, m)| *m)))
            .or_else(|| least(&mut kept.iter().map(|(_, m)| *m)));
        Ok(match (beside, plan.spec.start) {
            (Some(mark), _) => at(mark),
            // A stream between stages is read from its beginning.
            (None, _) if plan.inputs[task.input].stage > 0 => at(Mark {
                generation,
                position: start,
                seen: None,
            }),
            (None, start_at) => at(Mark {
                generation,
                position: match start_at {
                    Start::Earliest => start,
                    Start::Latest => end,
                    Start::At(micros) => task.partition.first_at_time(micros)?,
                },
                seen: None,
            }),
        })
    }
}

/// What a task begins with.
struct Begun {
    mark: Mark,
    earlier: Earlier,
    chain: Chain,
    keeps: Option<Keeps>,
}

/// What people should know of how the tasks begin.
fn notice(begun: &[Begun]) -> Option<Error> {
    let mut keeps = begun.iter().filter_map(|begun| begun.keeps.as_ref());
    keeps.find_map(|keeps| keeps.notice.clone())
}

/// The counters of a version: they go on where those of the version before are.
fn tally(plan: &Plan, before: Option<&Arc<FlowShared>>) -> Arc<Tally> {
    let nodes = plan.first_output + plan.outputs.len();
    let Some(before) = before else {
        return Arc::new(Tally::new(nodes));
    };
    let (now, was) = (&plan.spec, &before.plan.spec);
    let (steps, steps_before) = (now.all_steps(), was.all_steps());
    let same = |node: usize| -> Option<usize> {
        let streams = now.streams().count();
        if let Some(stream) = now.streams().nth(node) {
            return was.streams().position(|known| known == stream);
        }
        let step = node - streams;
        if let Some(at) = steps.get(step) {
            let kind = at.spec.kind();
            let before_it = steps_before.get(step);
            let same = before_it.is_some_and(|was| was.spec.kind() == kind && was.case == at.case);
            return same.then(|| before.step_node(step));
        }
        let id = &plan.outputs[step - steps.len()].id;
        let at = before.plan.outputs.iter().position(|was| was.id == *id);
        at.map(|output| before.output_node(output))
    };
    let same: Vec<Option<usize>> = (0..nodes).map(same).collect();
    Arc::new(Tally::after(&before.tally, &same))
}

/// The streams between the stages of a flow.
fn make_streams(bus: &Bus, plan: &mut Plan) -> Result<(), Error> {
    let mut partitions = 1;
    for input in &mut plan.inputs {
        if let Some((_, exchange)) = &mut input.exchange {
            let wanted = exchange.partitions;
            let stream = bus.derived_stream(&exchange.stream, wanted, Retention::default())?;
            // Rows with equal keys must go on meeting where they have met.
            exchange.partitions = stream.partitions().len() as u16;
        }
    }
    for input in plan.inputs.iter().filter(|input| !input.delivers()) {
        if input.exchange.is_none()
            && let Some(stream) = bus.stream(&input.stream)
        {
            partitions = partitions.max(stream.partitions().len() as u16);
        }
    }
    for output in &plan.outputs {
        if let Target::Results(name) = &output.target {
            bus.derived_stream(name, partitions, Retention::default())?;
        }
    }
    Ok(())
}

/// Each task of the last stage writes its results to the partition of its own number.
fn results_writer(
    bus: &Bus,
    stream: &str,
    partition: &Arc<StreamPartition>,
) -> Result<Writer, Error> {
    let unknown =
        || Error::new(Class::Configuration, "catalog.unknown-stream").with("name", stream);
    let stream = bus.stream(stream).ok_or_else(unknown)?;
    let partitions = stream.partitions();
    let number = usize::from(partition.number()) % partitions.len();
    Ok(Writer::partition(
        Arc::clone(&partitions[number]),
        "".into(),
    ))
}

/// The names of the tasks that write what an input reads.
fn before(plan: &Plan, seats: &[Seat], input: usize) -> Vec<Arc<str>> {
    let stream = &plan.inputs[input].stream;
    let writes = |seat: &&Seat| {
        let exchange = plan.inputs[seat.input].exchange.as_ref();
        exchange.is_some_and(|(_, exchange)| *exchange.stream == **stream)
    };
    let writers = seats.iter().filter(writes);
    writers.map(|seat| producer_name(&seat.key)).collect()
}

pub(super) fn producer_name(key: &TaskKey) -> Arc<str> {
    format!("{}/{}", key.stream, key.partition).into()
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
