//! One event's way through a flow, computed again from the log.
//!
//! Nothing is written and nothing is kept for it: a chain of the flow's version works on the one event, beside the tasks that
//! run. What depends on other events (steps with state) and what asks services is not computed again; for those the log itself
//! says what came out, since each frame names the task that wrote it and how far that had read.

use std::sync::Arc;

use arrow::array::{BinaryArray, RecordBatch};
use busbar_bus::{Bus, StreamPartition, from_log};
use busbar_catalog::{Project, StepSpec, node_names};
use busbar_event::{Batch, Body, Class, Error};
use futures::executor::block_on;
use serde_json::Value as Json;

use super::Runtime;
use super::redrive::check_edited;
use super::trim::is_of_results;
use crate::blocking::blocking;
use crate::chain::{Computed, Place, StationTrace, StepFate};
use crate::compile::{NoPlan, Plan, Target, World, compile};
use crate::limits::{TRACE_READ_BYTES, TRACE_ROWS_MAX, TRACE_SCAN_EVENTS_MAX};
use crate::operator::Rows;
use crate::outgoing::Outgoing;
use crate::reader::PAYLOAD;
use crate::shown::objects;
use crate::status::DeadLetter;
use crate::task::prepare_outputs;

/// An event of a stream.
#[derive(Clone)]
pub struct EventAt {
    /// The stream.
    pub stream: String,
    /// The partition.
    pub partition: u16,
    /// The offset.
    pub offset: u64,
    /// The event: a batch of one.
    pub event: Batch,
}

impl EventAt {
    /// The event with another payload.
    ///
    /// # Errors
    /// `flow.edit-large`.
    pub fn with_payload(self, payload: &[u8]) -> Result<EventAt, Error> {
        check_edited(payload)?;
        let body = Body::Payload(BinaryArray::from_vec(vec![payload]));
        Ok(EventAt {
            event: self.event.with_body(body)?,
            ..self
        })
    }
}

/// What a flow makes of an event.
#[derive(Default)]
pub struct FlowTrace {
    /// Why the event could not be read.
    pub unread: Option<Error>,
    /// The steps, in their order in the flow.
    pub steps: Vec<TracedStep>,
    /// The outputs, in their order in the flow.
    pub outputs: Vec<TracedOutput>,
    /// Events of other streams that were read to find results.
    pub searched: u64,
}

/// A step, and what it did with the event.
pub struct TracedStep {
    /// Its id in the flow's graph: `step:0`.
    pub id: String,
    /// Its name as a mediation, where the flow gives one.
    pub name: Option<String>,
    /// Its kind.
    pub kind: &'static str,
    /// What it does, in short.
    pub label: String,
    /// What became of the event here.
    pub fate: StepFate,
    /// The rows it was given, the first [`TRACE_ROWS_MAX`] of them.
    pub before: Vec<Json>,
    /// How many it was given.
    pub before_rows: usize,
    /// The rows that came out, the first [`TRACE_ROWS_MAX`] of them.
    pub after: Vec<Json>,
    /// How many came out.
    pub after_rows: usize,
    /// Why rows failed.
    pub cause: Option<Error>,
}

/// An output, and what it takes.
pub struct TracedOutput {
    /// Its id in the flow's graph: `to:0`.
    pub id: String,
    /// Its name as an out-endpoint, where the flow gives one.
    pub name: Option<String>,
    /// Its kind.
    pub kind: &'static str,
    /// Its target.
    pub label: String,
    /// Whether what it takes was computed; else only `recorded` is known.
    pub computed: bool,
    /// Events that it takes, each with the place where the log has it.
    pub events: Vec<(Batch, Option<EventAt>)>,
    /// Rows that it takes, for a table or a connection.
    pub rows: Vec<Json>,
    /// What the log has of the batch that the event was in, where nothing could be computed.
    pub recorded: Vec<EventAt>,
    /// Why something could not be made into what it takes.
    pub cause: Option<Error>,
}

/// What a chain did with an event: what was given and made at each station, and the results.
pub(super) struct Retraced {
    pub plan: Arc<Plan>,
    /// The input that the event came in by.
    pub input: usize,
    pub stations: Vec<StationTrace>,
    pub computed: Computed,
    /// Every step works as it did then, and none asks a service.
    pub is_repeatable: bool,
}

impl Runtime {
    /// What a flow of a version of the project makes of an event.
    ///
    /// # Errors
    /// `flow.unknown` and `flow.trace-stream` where the flow did not read the event; why the flow cannot be compiled any more;
    /// transient errors of plug-ins and disks.
    pub async fn trace(
        &self,
        project: &Project,
        flow: &str,
        event: &EventAt,
    ) -> Result<FlowTrace, Error> {
        let retraced = self.retrace(project, flow, event).await?;
        let known_as = self.inner.checkpoints.flow(flow)?.known_as;
        let known_as = known_as.unwrap_or_else(|| flow.to_owned());
        let (bus, event) = (self.inner.options.bus.clone(), event.clone());
        blocking(move || retraced.told(&bus, &known_as, &event)).await
    }

    /// The dead letters of an event, closed ones too.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn dead_letters_of(&self, event: &EventAt) -> Result<Vec<DeadLetter>, Error> {
        let dead = Arc::clone(&self.inner.dead);
        let event = event.clone();
        blocking(move || {
            let place = (event.partition, event.offset);
            let ids = dead.find_of(&event.stream, place, TRACE_ROWS_MAX)?;
            let letters = dead.read(&ids)?.into_iter().map(|letter| letter.shown);
            let is_it = |letter: &DeadLetter| {
                letter.stream == event.stream && (letter.partition, letter.offset) == place
            };
            Ok(letters.filter(is_it).collect())
        })
        .await
    }

    /// Computes an event again.
    pub(super) async fn retrace(
        &self,
        project: &Project,
        flow: &str,
        event: &EventAt,
    ) -> Result<Retraced, Error> {
        let parsed = project.flows.get(flow).ok_or_else(|| {
            Error::new(Class::Permanent, "flow.unknown").with("flow", busbar_event::quote(flow))
        })?;
        let options = self.inner.options.clone();
        let plugins = self.inner.plugins.read().clone();
        let known_as = self.inner.checkpoints.flow(flow)?.known_as;
        let (project, parsed, flow) = (project.clone(), parsed.clone(), flow.to_owned());
        let event = event.clone();
        blocking(move || {
            let mut world =
                World::of_bus(&options.bus, &options.tables, &project, &options.connectors)?;
            world.take_declared(&project);
            world.plugins = plugins;
            for name in parsed.spec.read_tables() {
                if !world.tables.contains_key(name)
                    && let Some(table) = options.databases.table(name)?
                {
                    world.tables.insert(name.clone(), table);
                }
            }
            world
                .known_as
                .extend(known_as.map(|known_as| (flow.clone(), known_as)));
            let changed = |step: &StepSpec| {
                step.plugin().is_some_and(|name| {
                    let then = project.plugins.get(name).map(|plugin| plugin.spec.hash());
                    let now = world.plugins.get(name);
                    let now = now.filter(|plugin| plugin.running.is_some());
                    now.map(|plugin| plugin.package.hash()) != then
                })
            };
            let plan = match compile(&flow, &parsed.spec, &parsed.source, &world) {
                Ok(plan) => plan,
                Err(NoPlan::Waiting(stream)) => {
                    return Err(
                        Error::new(Class::Transient, "flow.waiting").with("streams", stream)
                    );
                }
                Err(NoPlan::Wrong(wrong)) => {
                    let error = Error::new(Class::Configuration, "flow.trace-compile");
                    let error = error.with("flow", &flow);
                    return Err(match wrong.first() {
                        Some(first) => error.with_error("cause", first.error()),
                        None => error.with("cause", ""),
                    });
                }
            };
            let is_it = |input: &crate::compile::InputPlan| {
                input.stage == 0 && input.stream == event.stream
            };
            let input = plan.inputs.iter().position(is_it).ok_or_else(|| {
                Error::new(Class::Permanent, "flow.trace-stream")
                    .with("flow", &flow)
                    .with("stream", &event.stream)
            })?;
            let steps = parsed.spec.all_steps();
            let left_out: Vec<Option<StepFate>> = plan.inputs[input]
                .not_repeatable()
                .into_iter()
                .map(|(step, fate)| {
                    let is_changed = steps.get(step).is_some_and(|at| changed(at.spec));
                    fate.or(is_changed.then_some(StepFate::Plugin))
                })
                .collect();
            let is_repeatable = !plan.inputs.iter().any(|input| input.calls_out())
                && !steps.iter().any(|at| changed(at.spec));
            let mut chain = plan.inputs[input].chain(&[])?;
            chain.on_trial();
            let (stations, computed) = block_on(chain.trace(event.event, &left_out, None))?;
            Ok(Retraced {
                plan: Arc::new(plan),
                input,
                stations,
                computed,
                is_repeatable,
            })
        })
        .await
    }
}

impl Retraced {
    /// The rows that a step was given, by its number.
    pub(super) fn given(&self, step: usize) -> Vec<Rows> {
        let its = self.stations.iter().filter(|station| station.step == step);
        its.flat_map(|station| station.given.iter().cloned())
            .collect()
    }

    /// Whether something on the event's way was not computed.
    pub(super) fn is_cut(&self) -> bool {
        self.stations
            .iter()
            .any(|station| station.left_out.is_some() && !station.given.is_empty())
    }

    fn told(&self, bus: &Bus, known_as: &str, event: &EventAt) -> Result<FlowTrace, Error> {
        let spec = &self.plan.spec;
        let mut names = node_names(spec);
        let mut trace = FlowTrace::default();
        let unread = self.computed.dead.iter();
        let mut unread = unread.filter(|dead| dead.place == Place::Decode);
        trace.unread = unread.next().map(|dead| dead.cause.clone());
        let mut is_cut = false;
        for (number, at) in spec.all_steps().into_iter().enumerate() {
            let its = self
                .stations
                .iter()
                .filter(|station| station.step == number);
            let mut step = TracedStep {
                id: format!("step:{number}"),
                name: None,
                kind: at.spec.kind(),
                label: at.spec.summary(),
                fate: match is_cut {
                    true => StepFate::Unknown,
                    false => StepFate::NotReached,
                },
                before: Vec::new(),
                before_rows: 0,
                after: Vec::new(),
                after_rows: 0,
                cause: None,
            };
            step.name = names.remove(&step.id);
            for station in its.filter(|station| !station.given.is_empty()) {
                for rows in &station.given {
                    step.before_rows += rows.len();
                    shown(&rows.batch, &mut step.before)?;
                }
                for rows in &station.made {
                    step.after_rows += rows.len();
                    shown(&rows.batch, &mut step.after)?;
                }
                step.cause = station.dead.first().cloned();
                step.fate = match station.left_out {
                    Some(why) => why,
                    None if step.cause.is_some() => StepFate::Dead,
                    None if step.after_rows > 0 => StepFate::Passed,
                    None => StepFate::Filtered,
                };
                is_cut |= station.left_out.is_some();
            }
            trace.steps.push(step);
        }
        let input = &self.plan.inputs[self.input];
        for (number, output) in spec.to.iter().enumerate() {
            let id = format!("to:{number}");
            let mut told = TracedOutput {
                name: names.remove(&id),
                id,
                kind: output.kind(),
                label: output.target_name().to_owned(),
                computed: input.exchange.is_none(),
                events: Vec::new(),
                rows: Vec::new(),
                recorded: Vec::new(),
                cause: None,
            };
            let outputs = self.plan.outputs.iter().enumerate();
            let mut its = outputs.filter(|(_, plan)| {
                plan.of == number
                    && plan.takes.is_none_or(|takes| takes == number)
                    && !matches!(plan.target, Target::Stage(_) | Target::Results(_))
                    && input.shape(plan).is_some()
            });
            // Of an output that takes results of several forms there is one plan for each form.
            for (place, plan) in its.by_ref().filter(|_| input.exchange.is_none()) {
                let name = input.output_name(plan);
                self.take(place, &mut told)?;
                for (made, found) in &mut told.events {
                    if found.is_none() && !matches!(plan.target, Target::Connection(_)) {
                        let wanted = Sought::of(bus, plan, made, event, known_as, &name);
                        *found = wanted.find(&mut trace.searched)?;
                    }
                }
                if is_cut && told.events.is_empty() && told.rows.is_empty() {
                    told.computed = false;
                    if let Target::Stream(stream) = &plan.target {
                        let sought = Sought::written(bus, stream, event, known_as, &name);
                        told.recorded = sought.frame(&mut trace.searched)?;
                    }
                }
            }
            trace.outputs.push(told);
        }
        Ok(trace)
    }

    /// What an output takes of the results.
    fn take(&self, place: usize, told: &mut TracedOutput) -> Result<(), Error> {
        let prepared = prepare_outputs(&self.plan, self.input, &[place], &self.computed)?;
        for prepared in prepared {
            let cause = prepared.dead.first().map(|dead| dead.cause.clone());
            told.cause = told.cause.take().or(cause);
            match prepared.outgoing {
                Outgoing::Events(events) => told.add(&events),
                Outgoing::Rows(rows) => shown(&rows, &mut told.rows)?,
                Outgoing::Delivery { events, rows, .. } => {
                    told.add(&events);
                    shown(&rows, &mut told.rows)?;
                }
                Outgoing::Parts(_) => {}
            }
        }
        Ok(())
    }
}

impl TracedOutput {
    fn add(&mut self, events: &Batch) {
        let left = TRACE_ROWS_MAX.saturating_sub(self.events.len());
        let rows = 0..events.rows().min(left);
        self.events
            .extend(rows.map(|row| (events.slice(row, 1), None)));
    }
}

/// Adds rows as objects, as many as are shown.
fn shown(rows: &RecordBatch, all: &mut Vec<Json>) -> Result<(), Error> {
    let left = TRACE_ROWS_MAX.saturating_sub(all.len());
    let rows = rows.slice(0, rows.num_rows().min(left));
    let mut objects = objects(&rows)?;
    for object in objects.iter_mut().filter_map(Json::as_object_mut) {
        object.remove(PAYLOAD);
    }
    all.extend(objects);
    Ok(())
}

/// What is looked for in the log.
pub(super) struct Sought<'a> {
    partitions: Vec<Arc<StreamPartition>>,
    /// How the names of the flow's tasks begin and end that write it, and of the one that read the event.
    known_as: String,
    flow: String,
    begins: String,
    ends: String,
    /// Frames before this offset of the task's input do not have it.
    behind: u64,
    /// Events before this time are not it, in microseconds since 1970.
    since: i64,
    made: Option<&'a Batch>,
}

impl<'a> Sought<'a> {
    pub(super) fn of(
        bus: &Bus,
        plan: &crate::compile::OutputPlan,
        made: &'a Batch,
        event: &EventAt,
        known_as: &str,
        output: &str,
    ) -> Sought<'a> {
        let stream = match &plan.target {
            Target::Stream(name) => bus.stream(name),
            _ => Some(bus.home(made.topic(0))),
        };
        let partitions = stream.map(|stream| stream.partitions().to_vec());
        Sought {
            partitions: partitions.unwrap_or_default(),
            known_as: known_as.to_owned(),
            flow: format!("flow:{known_as}:"),
            begins: format!("flow:{known_as}:{}:{}:", event.stream, event.partition),
            ends: format!(":{output}"),
            behind: event.offset,
            since: made.times()[0],
            made: Some(made),
        }
    }

    fn written(
        bus: &Bus,
        stream: &str,
        event: &EventAt,
        known_as: &str,
        output: &str,
    ) -> Sought<'a> {
        let stream = bus.stream(stream);
        let partitions = stream.map(|stream| stream.partitions().to_vec());
        Sought {
            partitions: partitions.unwrap_or_default(),
            known_as: known_as.to_owned(),
            flow: format!("flow:{known_as}:"),
            begins: format!("flow:{known_as}:{}:{}:", event.stream, event.partition),
            ends: format!(":{output}"),
            behind: event.offset,
            since: i64::MIN,
            made: None,
        }
    }

    /// The same, written by whatever task of the flow: results of regrouped rows are not written by the one that read the event.
    pub(super) fn of_any_task(self) -> Sought<'a> {
        Sought {
            begins: self.flow.clone(),
            behind: 0,
            ..self
        }
    }

    /// Whether a task has this name that reads a stream of results of the flow.
    fn delivers(&self, task: &str) -> bool {
        let stream = task.strip_prefix(&self.flow);
        let stream = stream.and_then(|rest| rest.split(':').next());
        stream.is_some_and(|stream| is_of_results(stream, &self.known_as))
    }

    /// Whether a task of the flow has written a frame, and has read beyond the event before if it is the one that read it.
    /// A task that delivers results reads those of another; what it wrote is known by what was made.
    fn is_behind(&self, producers: &[(Arc<str>, u64)]) -> bool {
        producers.iter().any(|(name, position)| {
            let is_behind = match name.starts_with(&self.begins) {
                true => *position > self.behind,
                false => self.made.is_some() && self.delivers(name),
            };
            is_behind && name.ends_with(&self.ends)
        })
    }

    fn is_made(&self, batch: &Batch, row: usize) -> bool {
        let Some(made) = self.made else { return true };
        // The stream may have given a key to an event without one.
        let key = made.key(0);
        batch.topic(row) == made.topic(0)
            && (key.is_none() || batch.key(row) == key)
            && batch.payloads().value(row) == made.payloads().value(0)
    }

    /// The first event that is what was made, in a frame that its task wrote.
    pub(super) fn find(&self, searched: &mut u64) -> Result<Option<EventAt>, Error> {
        Ok(self.frame(searched)?.into_iter().next())
    }

    /// The events of the first frame of the task that has read beyond the event.
    fn frame(&self, searched: &mut u64) -> Result<Vec<EventAt>, Error> {
        for partition in &self.partitions {
            let mut at = match self.since {
                i64::MIN => partition.start(),
                since => partition.offset_at_time(since)?.max(partition.start()),
            };
            let end = partition.end();
            'partition: while at < end && *searched < TRACE_SCAN_EVENTS_MAX {
                let frames = partition.log().read(at, TRACE_READ_BYTES);
                let mut frames = frames.map_err(from_log)?;
                frames.retain(|frame| frame.end() > at);
                if frames.is_empty() {
                    break;
                }
                for frame in frames {
                    let from = frame.base.max(at);
                    *searched += frame.end() - from;
                    at = frame.end();
                    // What is in a frame is of no concern unless the task has written it.
                    if !self.is_behind(&frame.producers) {
                        continue;
                    }
                    let Some(chunk) = partition.read(from, 1)?.into_iter().next() else {
                        continue;
                    };
                    let rows = 0..chunk.batch.rows();
                    let its = rows.filter(|row| self.is_made(&chunk.batch, *row));
                    let found: Vec<EventAt> = its
                        .take(TRACE_ROWS_MAX)
                        .map(|row| EventAt {
                            stream: partition.stream().to_owned(),
                            partition: partition.number(),
                            offset: chunk.base + row as u64,
                            event: chunk.batch.slice(row, 1),
                        })
                        .collect();
                    if !found.is_empty() {
                        return Ok(found);
                    }
                    // What was made of the event is in the first such frame or not there, unless results went in pieces.
                    if self.made.is_none() {
                        break 'partition;
                    }
                }
            }
        }
        Ok(Vec::new())
    }
}
