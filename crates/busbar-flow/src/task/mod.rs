//! A task: one stage of a flow on one partition. It reads, computes, writes, and notes how far it has come.
//!
//! [`machine`] decides, this file does: while a batch is being written the next one is computed; it is handed over when the
//! first is durable, so positions reach each output in order and a failed write can be tried again without overtaking.

mod flight;
mod input;
mod insert;
mod land;
mod machine;
mod ticks;
mod write;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::{BinaryArray, UInt32Array};
use busbar_bus::{Bus, StreamPartition};
use busbar_event::{Class, Error};
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::blocking::blocking;
use crate::chain::{Chain, Computed, Place};
use crate::checkpoint::{Checkpoints, Mark, TaskKey};
use crate::compile::{Plan, Target};
use crate::counters::{Counters, Delta, Tally};
use crate::dead::{DeadLetters, Earlier};
use crate::exchange;
use crate::limits::{IDLE_CHECK, STATE_BYTES_MAX};
use crate::shape::{Outgoing, Prepared, Shaped, prepare, result_events};
use crate::state::{Checkpoint, Snapshot, TaskState};
use crate::status::FlowState;
use busbar_connector::Backoff;
use flight::{Air, Commit, Flight, committed, landed};
pub(crate) use input::Tick;
use input::{InputReader, Next, Stretch};
pub(crate) use insert::{EventAgain, Insert, Inserts};
use machine::{Ending, FlightSpan, Machine, TaskEffect};
pub(crate) use ticks::{recorded_ticks, ticks_stream};
use write::{Leaving, NotLanded, Waiter};
pub(crate) use write::{Writers, parcels};

/// What the tasks of a flow's version share.
pub(crate) struct FlowShared {
    pub plan: Arc<Plan>,
    pub tally: Arc<Tally>,
    pub state: Mutex<(FlowState, Option<Error>)>,
    /// How far each task is.
    pub marks: Mutex<BTreeMap<TaskKey, Mark>>,
    /// What people should know although the flow runs.
    pub notice: Mutex<Option<Error>>,
    /// What is known of tasks with event time.
    pub clocks: Mutex<BTreeMap<TaskKey, TaskClock>>,
}

/// Event time and state of a task at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct TaskClock {
    /// In microseconds since 1970.
    pub watermark: Option<i64>,
    /// The task of the stage before that is furthest behind.
    pub held_back_by: Option<Arc<str>>,
    /// The least watermark of the streams of the file at which an operator has something to do.
    pub wanted: Option<i64>,
    /// Bytes of state in memory, by operator.
    pub memory: Vec<(Arc<str>, usize)>,
}

impl FlowShared {
    /// The node of a step.
    pub fn step_node(&self, step: usize) -> usize {
        self.plan.first_step + step
    }

    /// The node of an output.
    pub fn output_node(&self, output: usize) -> usize {
        self.plan.first_output + self.plan.outputs[output].of
    }

    /// The least watermark that some operator of the flow waits for.
    fn wanted(&self) -> Option<i64> {
        let clocks = self.clocks.lock();
        clocks.values().filter_map(|clock| clock.wanted).min()
    }

    fn stop(&self, error: Error) {
        let state = match error.code() {
            // The runtime starts it anew: from the copy, where state is damaged.
            COLUMNS_WIDER | "flow.state-damaged" | "flow.state-missing" => FlowState::Retrying,
            _ => FlowState::Stopped,
        };
        *self.state.lock() = (state, Some(error));
    }

    /// Whether it ended to be started anew.
    pub fn is_over(&self) -> bool {
        self.state.lock().0 == FlowState::Retrying
    }
}

/// A cursor of a flow: that of a stage, or of an output that must not hold others up.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    pub id: String,
    /// The outputs it writes to, by index.
    pub outputs: Vec<usize>,
    /// It counts for the flow and keeps its dead letters.
    pub main: bool,
    /// Its rows go to the next stage.
    pub to_stage: bool,
}

/// The name of the lane for streams and hot tables.
pub(crate) const MAIN: &str = "main";

/// The cursors of a flow on one of its inputs. A stage that hands its rows on has one. Else there is one for all streams and
/// hot tables together, whose writes are as fast as the log, and one for each relational table and connection, so that a slow
/// or locked one holds nobody else up; these compute for themselves, or, where the flow keeps state, read what was computed.
pub(crate) fn lanes(plan: &Plan, input: usize) -> Vec<Lane> {
    let input = &plan.inputs[input];
    let main = |outputs: Vec<usize>, to_stage: bool| Lane {
        id: MAIN.into(),
        outputs,
        main: true,
        to_stage,
    };
    if let Some((output, _)) = &input.exchange {
        return vec![main(vec![*output], true)];
    }
    let takes = |o: &usize| {
        let output = &plan.outputs[*o];
        match output.target {
            Target::Stage(_) => false,
            Target::Results(_) => input.timed,
            _ => input.shape(output).is_some(),
        }
    };
    let apart = |o: &usize| plan.outputs[*o].apart;
    let all = (0..plan.outputs.len()).filter(takes);
    let (sinks, own): (Vec<usize>, Vec<usize>) = all.partition(apart);
    let mut lanes: Vec<Lane> = Vec::new();
    if input.timed {
        return vec![main(own, false)];
    }
    if !own.is_empty() && !input.delivers() {
        lanes.push(main(own, false));
    }
    for output in sinks {
        let id = format!("to-{}", plan.outputs[output].id);
        if let Some(lane) = lanes.iter_mut().find(|lane| lane.id == id) {
            lane.outputs.push(output);
            continue;
        }
        lanes.push(Lane {
            id,
            outputs: vec![output],
            main: lanes.is_empty() && !input.delivers(),
            to_stage: false,
        });
    }
    lanes
}

/// What all tasks need.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub bus: Bus,
    pub checkpoints: Checkpoints,
    pub dead: Arc<DeadLetters>,
    /// How often a task with state commits what has changed in it.
    pub snapshot_every: std::time::Duration,
}

/// A task that has not been started.
pub(crate) struct Task {
    pub key: TaskKey,
    pub lane: Lane,
    pub shared: Arc<FlowShared>,
    pub surroundings: Surroundings,
    pub partition: Arc<StreamPartition>,
    /// The input's index in the plan.
    pub input: usize,
    pub chain: Chain,
    /// None once it runs.
    pub writers: Option<Writers>,
    pub mark: Mark,
    /// Open letters of events that it reads again.
    pub earlier: Earlier,
    pub keeps: Option<Keeps>,
    /// Events that are sent through the flow again, in a task with state that reads a stream of the file.
    pub inserts: mpsc::Receiver<Insert>,
    pub stop: watch::Receiver<bool>,
}

/// What a task with event time has besides.
pub(crate) struct Keeps {
    pub state: Arc<TaskState>,
    /// Where it begins.
    pub checkpoint: Checkpoint,
    /// Ticks that were recorded and are to be applied again.
    pub ticks: VecDeque<Tick>,
    /// Where ticks are recorded.
    pub ticks_stream: Arc<StreamPartition>,
    /// The name under which the next stage knows it.
    pub producer: Arc<str>,
    /// The watermark that the next stage was told.
    pub told: Option<i64>,
    /// What people should know of how it began.
    pub notice: Option<Error>,
}

/// A batch that is to be read again, in parts.
struct Again {
    base: u64,
    end: u64,
    skipped: u64,
    earlier: Earlier,
}

/// What came of a batch.
enum Landed {
    /// It is done with: the next one may go out.
    Back(Writers),
    /// An output did not take it whole; these events come again in parts.
    TooMuch(Writers, Again),
    /// The task was told to stop before it arrived.
    Stopped,
}

/// Why reading or writing ended although nothing is wrong.
const STOPPED: &str = "flow.stopped";

/// Why a flow starts anew: the inferred columns of its stream are others than those it was compiled for.
const COLUMNS_WIDER: &str = "flow.columns-wider";

pub(crate) fn stopped() -> Error {
    Error::new(Class::Transient, STOPPED)
}

/// A computed batch.
struct Batched {
    computed: Computed,
    prepared: Vec<Prepared>,
    base: u64,
    end: u64,
    latest: Option<i64>,
    /// Taken behind it, if one is due.
    snapshot: Option<(Snapshot, Box<Checkpoint>)>,
    /// Sequence numbers before and behind it.
    since: u64,
    position: u64,
}

impl Task {
    /// Runs until it is told to stop or cannot go on; answers how far it has come.
    pub async fn run(self) -> Mark {
        let (shared, key) = (Arc::clone(&self.shared), self.key.clone());
        let begun = self.mark;
        match AssertUnwindSafe(self.run_on()).catch_unwind().await {
            Ok(mark) => mark,
            // Nobody else would notice, and the flow would seem to run.
            Err(panic) => {
                let error = panicked(&*panic);
                tracing::error!(flow = %shared.plan.name, %error, "the flow stops");
                shared.stop(error);
                shared.marks.lock().get(&key).copied().unwrap_or(begun)
            }
        }
    }

    async fn run_on(mut self) -> Mark {
        let mut machine = Machine::new(
            self.mark,
            self.keeps.is_some(),
            self.surroundings.snapshot_every,
        );
        let mut air = Air::new(self.writers.take());
        if let Err(error) = self.work(&mut machine, &mut air).await
            && error.code() != STOPPED
        {
            tracing::warn!(
                flow = %self.shared.plan.name, stream = %self.key.stream,
                partition = self.key.partition, %error, "the flow stops"
            );
            self.shared.stop(error);
        }
        committed(&mut air.commit).await;
        if let Err(error) = self.last_commit(&machine).await {
            tracing::warn!(
                flow = %self.shared.plan.name, stream = %self.key.stream,
                partition = self.key.partition, %error,
                "the last state was not kept; the flow goes on from the one before"
            );
        }
        if let Some(writers) = &mut air.held {
            for writer in writers.all() {
                writer.close().await;
            }
        }
        let mark = machine.mark();
        self.surroundings
            .checkpoints
            .note(&self.shared.plan.name, &self.key, mark);
        mark
    }

    async fn work(&mut self, machine: &mut Machine, air: &mut Air) -> Result<(), Error> {
        let began = Instant::now();
        let cuts = self.cuts(air).await?;
        let (ticks, ticked) = match &mut self.keeps {
            Some(keeps) => (std::mem::take(&mut keeps.ticks), keeps.checkpoint.ticks),
            None => (VecDeque::new(), 0),
        };
        let position = self.mark.position;
        let mut input = InputReader::new(&self.partition, position, cuts, ticks, ticked);
        // Events that were gone when they were read, since the batch before.
        let mut skipped = 0;
        let mut backoff = Backoff::new(position ^ 0x9e37_79b9);
        self.publish_clock();
        let outcome = loop {
            let note = machine.note_at().map(|at| began + at);
            let idle = self.keeps.is_some() && air.flight.is_none();
            let next = tokio::select! {
                biased;
                () = told(self.stop.clone()) => break Ok(()),
                landing = landed(&mut air.flight), if air.flight.is_some() => {
                    match self.land(landing, true, machine, air)? {
                        Landed::Back(writers) => air.held = Some(writers),
                        Landed::TooMuch(writers, batch) => {
                            air.held = Some(writers);
                            self.read_again(&mut input, batch, &mut skipped);
                        }
                        Landed::Stopped => break Err(stopped()),
                    }
                    continue;
                }
                () = committed(&mut air.commit), if air.commit.is_some() => {
                    machine.committed();
                    continue;
                }
                () = sleep_until(note), if note.is_some() => {
                    self.note(machine);
                    machine.noted(began.elapsed());
                    continue;
                }
                insert = insert::handed(&mut self.inserts), if self.keeps.is_some() => {
                    self.insert(insert, &mut input).await;
                    continue;
                }
                () = tokio::time::sleep(IDLE_CHECK), if idle => {
                    self.tick_if_due(machine, &mut input, began).await;
                    continue;
                }
                next = input.next() => next,
            };
            let reading = match next {
                Ok(Next::Gap(missed, cause)) => {
                    self.shared.tally.miss(missed);
                    skipped += missed;
                    tracing::warn!(flow = %self.shared.plan.name, missed, %cause, "events are gone");
                    self.input_error(Some(cause), 0);
                    continue;
                }
                Ok(next) => next,
                Err(error) if error.class() == Class::Transient => {
                    self.input_error(Some(error), backoff.tries() + 1);
                    tokio::select! {
                        () = told(self.stop.clone()) => {}
                        () = tokio::time::sleep(backoff.pause()) => {}
                    }
                    continue;
                }
                Err(error) => break Err(error),
            };
            machine.input(began.elapsed());
            let batched = match self.compute(reading, &mut input, &mut backoff).await {
                Ok(Some(batched)) => batched,
                // It comes again.
                Ok(None) => continue,
                Err(error) => break Err(error),
            };
            if backoff.tries() > 0 {
                backoff.reset();
                self.input_error(None, 0);
            }
            if let Some(misfits) = self.misfits(&batched.computed)
                && self.columns_are_wider(misfits).await?
            {
                let stream = &self.key.stream;
                let error = Error::new(Class::Transient, COLUMNS_WIDER).with("stream", stream);
                break Err(error);
            }
            let batched = self.snapshot(batched, machine, began)?;
            let delta = self.delta(&batched.computed, &batched.prepared);
            if air.flight.is_some() {
                let landing = landed(&mut air.flight).await;
                match self.land(landing, false, machine, air)? {
                    Landed::Back(writers) => air.held = Some(writers),
                    Landed::TooMuch(writers, batch) => {
                        air.held = Some(writers);
                        self.read_again(&mut input, batch, &mut skipped);
                        continue;
                    }
                    Landed::Stopped => break Err(stopped()),
                }
                if machine.note_at().is_some_and(|at| began.elapsed() >= at) {
                    self.note(machine);
                    machine.noted(began.elapsed());
                }
            }
            let Some(writers) = air.held.take() else {
                break Err(stopped());
            };
            self.shared.tally.add(&delta);
            self.launch(
                batched,
                writers,
                delta,
                std::mem::take(&mut skipped),
                machine,
                air,
            )?;
            // Computing is not waiting: others on this thread get their turn.
            tokio::task::yield_now().await;
        };
        // What is on its way is finished, or given up where it cannot be.
        if air.flight.is_some() {
            let landing = landed(&mut air.flight).await;
            match self.land(landing, true, machine, air)? {
                Landed::Back(writers) | Landed::TooMuch(writers, _) => air.held = Some(writers),
                Landed::Stopped => {}
            }
        }
        outcome
    }

    fn input_error(&self, error: Option<Error>, tries: u32) {
        let input = &self.shared.plan.inputs[self.input];
        let node = input.node.unwrap_or_else(|| {
            let output = self.lane.outputs.first().copied().unwrap_or(0);
            self.shared.output_node(output)
        });
        self.shared.tally.error(node, error, tries);
    }

    /// Payloads that the inferred columns of the stream do not fit.
    fn misfits(&self, computed: &Computed) -> Option<BinaryArray> {
        self.shared.plan.inputs[self.input].stream_columns()?;
        let misfits = computed
            .dead
            .iter()
            .filter(|dead| dead.place == Place::Decode);
        let misfits: Vec<u32> = misfits.map(|dead| dead.event as u32).collect();
        if misfits.is_empty() {
            return None;
        }
        let events = computed.events.take(&misfits.into());
        Some(events.payloads().into_owned())
    }

    /// Whether the inferred columns of the stream have become others than those that the flow reads, after they
    /// were widened for these payloads.
    async fn columns_are_wider(&mut self, misfits: BinaryArray) -> Result<bool, Error> {
        let Some(stream) = self.surroundings.bus.stream(&self.key.stream) else {
            return Ok(false);
        };
        if stream.spec().schema.is_some() {
            return Ok(false);
        }
        let now = blocking(move || {
            stream.widen_schema(&misfits)?;
            stream.schema()
        });
        let now = now.await?;
        let read = self.shared.plan.inputs[self.input].stream_columns();
        Ok(read.is_some_and(|read| now.as_ref() != Some(read)))
    }

    /// Where input must be cut, for outputs that know more than the checkpoint does.
    async fn cuts(&mut self, air: &mut Air) -> Result<BTreeSet<u64>, Error> {
        let mut cuts = BTreeSet::new();
        let mut position = self.mark.position;
        if let Some(keeps) = &self.keeps {
            position = keeps.checkpoint.sequence();
            let state = Arc::clone(&keeps.state);
            cuts.extend(blocking(move || state.cuts()).await?);
        }
        let Some(writers) = &mut air.held else {
            return Err(stopped());
        };
        for (writer, output) in writers.outputs.iter_mut().zip(&self.lane.outputs) {
            let node = self.shared.output_node(*output);
            let mut waiter = Waiter::new(&self.shared, node, self.stop.clone(), position);
            // Writing before it is known what is written already could write it twice.
            let known = loop {
                match writer.known(position).await {
                    Err(error) if error.class() == Class::Transient => waiter.wait(error).await?,
                    known => break known?,
                }
            };
            if waiter.tried() {
                self.shared.tally.error(node, None, 0);
            }
            cuts.extend(known);
        }
        cuts.extend(writers.dead.known(position).await?);
        if let Some(late) = &mut writers.late {
            cuts.extend(late.known(position).await?);
        }
        Ok(cuts)
    }

    /// Runs the steps and prepares the results. None: the input was given back and comes again.
    async fn compute(
        &mut self,
        next: Next,
        input: &mut InputReader,
        backoff: &mut Backoff,
    ) -> Result<Option<Batched>, Error> {
        // The time of an event that is sent again.
        let mut inserted = None;
        let (mut work, stretch, base, end) = match next {
            Next::Gap(..) => return Ok(None),
            Next::Tick(tick) => {
                if let Some(keeps) = &mut self.keeps {
                    keeps.checkpoint.ticks_read = tick.read;
                }
                let at = input.position();
                match tick.event {
                    None => (self.chain.tick(tick.watermark), None, at, at),
                    Some(event) => {
                        inserted = Some(tick.watermark);
                        (event.read(&mut self.chain)?, None, at, at)
                    }
                }
            }
            Next::Stretch(stretch) => {
                let (base, end) = (stretch.base, stretch.end());
                match self.chain.read(stretch.batch.clone()) {
                    Ok(work) => (work.at(base), Some(stretch), base, end),
                    Err(error) => return self.not_read(error, stretch, input, backoff).await,
                }
            }
        };
        let tick = u64::from(stretch.is_none());
        while let Err(error) = self.chain.go_on(&mut work).await {
            if self.keeps.is_none() {
                return match stretch {
                    Some(stretch) => self.not_read(error, stretch, input, backoff).await,
                    None => Err(error),
                };
            }
            match error.class() {
                Class::Transient => self.pause(error, backoff).await?,
                _ => return Err(error),
            }
        }
        let computed = self.chain.finish(work)?;
        let prepared = match self.prepare(&computed) {
            Ok(prepared) => prepared,
            Err(error) if error.class() != Class::Permanent => return Err(error),
            Err(cause) if self.keeps.is_some() || end - base <= 1 => {
                let plan = &self.shared.plan;
                let outputs = self.lane.outputs.iter();
                outputs
                    .map(|o| Prepared::refused(&computed, &plan.outputs[*o], &cause))
                    .collect()
            }
            Err(error) => match stretch {
                Some(stretch) => return self.not_read(error, stretch, input, backoff).await,
                None => return Err(error),
            },
        };
        let latest = stretch
            .map(|stretch| stretch.batch.time_range().1)
            .or(inserted);
        let (since, position) = match &mut self.keeps {
            Some(keeps) => {
                let since = keeps.checkpoint.sequence();
                let time = self.chain.time.as_ref();
                let at = &mut keeps.checkpoint;
                // Events that are gone count as if they had come.
                let since = since.max(base + at.ticks);
                at.position = end;
                at.ticks += tick;
                at.seen = at.seen.max(latest);
                at.watermark = time.and_then(|time| time.watermark());
                (since, at.sequence())
            }
            None => (base, end),
        };
        Ok(Some(Batched {
            computed,
            prepared,
            base,
            end,
            latest,
            snapshot: None,
            since,
            position,
        }))
    }

    /// What a task does with events that could not be read or computed and have changed nothing.
    async fn not_read(
        &mut self,
        error: Error,
        stretch: Stretch,
        input: &mut InputReader,
        backoff: &mut Backoff,
    ) -> Result<Option<Batched>, Error> {
        let (from, to) = (stretch.base, stretch.end());
        match error.class() {
            Class::Transient => {
                input.give_back(stretch);
                self.pause(error, backoff).await?;
                Ok(None)
            }
            // The events at fault are found by halves.
            Class::Permanent if to - from > 1 => {
                input.give_back(stretch);
                let ticked = self
                    .keeps
                    .as_ref()
                    .map_or(0, |keeps| keeps.checkpoint.ticks);
                input.halve(from + ticked, to + ticked);
                Ok(None)
            }
            _ => Err(error),
        }
    }

    async fn pause(&mut self, error: Error, backoff: &mut Backoff) -> Result<(), Error> {
        self.input_error(Some(error.clone()), backoff.tries() + 1);
        tokio::select! {
            () = told(self.stop.clone()) => Err(stopped()),
            () = tokio::time::sleep(backoff.pause_after(&error)) => Ok(()),
        }
    }

    fn prepare(&mut self, computed: &Computed) -> Result<Vec<Prepared>, Error> {
        let plan = Arc::clone(&self.shared.plan);
        let moved = match &mut self.keeps {
            Some(keeps) if self.lane.to_stage => {
                let moved = computed.watermark.filter(|mark| Some(*mark) > keeps.told);
                keeps.told = keeps.told.max(moved);
                moved.map(|mark| (Arc::clone(&keeps.producer), mark))
            }
            _ => None,
        };
        let (input, outputs) = (self.input, &self.lane.outputs);
        let prepared = std::panic::catch_unwind(AssertUnwindSafe(|| {
            prepare_for_stage(&plan, input, outputs, computed, moved)
        }));
        prepared.unwrap_or_else(|panic| Err(panicked(&*panic)))
    }

    /// Takes a snapshot behind a batch, if one is due.
    fn snapshot(
        &mut self,
        mut batched: Batched,
        machine: &mut Machine,
        began: Instant,
    ) -> Result<Batched, Error> {
        let due = machine.computed(began.elapsed());
        if due && let Some(keeps) = &mut self.keeps {
            let snapshot = self.chain.snapshot(&keeps.state)?;
            keeps.checkpoint.producers = match &self.chain.time {
                Some(time) => time.producers(),
                None => BTreeMap::new(),
            };
            batched.snapshot = Some((snapshot, Box::new(keeps.checkpoint.clone())));
            self.keep_small();
        }
        self.publish_clock();
        Ok(batched)
    }

    /// Lets operators give memory back when the flow holds more than it may.
    fn keep_small(&mut self) {
        let own: usize = self.chain.memory().iter().map(|(_, bytes)| bytes).sum();
        let all: usize = {
            let clocks = self.shared.clocks.lock();
            let others = clocks.iter().filter(|(key, _)| **key != self.key);
            others
                .flat_map(|(_, clock)| clock.memory.iter())
                .map(|(_, bytes)| bytes)
                .sum::<usize>()
                + own
        };
        let over = all.saturating_sub(STATE_BYTES_MAX);
        if over > 0 {
            let share = own as f64 / all as f64;
            self.chain.shrink((over as f64 * share) as usize + 1);
        }
    }

    /// Shows the flow's other tasks, and people, how far event time is here.
    fn publish_clock(&self) {
        let (Some(_), Some(time)) = (&self.keeps, &self.chain.time) else {
            return;
        };
        let delay = self.shared.plan.inputs[self.input].delay;
        let clock = TaskClock {
            watermark: time.watermark(),
            held_back_by: time.held_back_by(),
            wanted: self
                .chain
                .next_time()
                .map(|time| time.saturating_add(delay)),
            memory: self.chain.memory(),
        };
        self.shared.clocks.lock().insert(self.key.clone(), clock);
    }
}

/// What a panic said, as an error of the event or of the task it happened in.
pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    let said = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or_default();
    Error::new(Class::Permanent, "flow.panic").with("detail", busbar_event::quote(said))
}

/// Prepares results for some outputs of a plan.
pub(crate) fn prepare_outputs(
    plan: &Plan,
    input: usize,
    outputs: &[usize],
    computed: &Computed,
) -> Result<Vec<Prepared>, Error> {
    prepare_for_stage(plan, input, outputs, computed, None)
}

/// As [`prepare_outputs`], with the watermark that the next stage is told of a task.
fn prepare_for_stage(
    plan: &Plan,
    input: usize,
    outputs: &[usize],
    computed: &Computed,
    moved: Option<(Arc<str>, i64)>,
) -> Result<Vec<Prepared>, Error> {
    let input = &plan.inputs[input];
    if let Some((_, exchange)) = &input.exchange {
        let (producer, watermark) = moved.unzip();
        let producer = producer.unwrap_or_default();
        let parts = exchange::parts(exchange, computed, &producer, watermark)?;
        return Ok(vec![Prepared {
            outgoing: Outgoing::Parts(parts),
            made: computed.letters_origin(),
            rows: computed.rows.num_rows(),
            dead: Vec::new(),
        }]);
    }
    // Outputs that take the same rows share the work.
    let mut shared: Vec<(_, Computed, Option<Shaped>)> = Vec::new();
    let mut all = Vec::with_capacity(outputs.len());
    for o in outputs {
        let output = &plan.outputs[*o];
        let end = input.ends.get(output.end).unwrap_or(&input.ends[0]);
        let takes = output.takes.filter(|_| computed.divided(output.end));
        let place = match shared
            .iter()
            .position(|(key, ..)| *key == (output.end, takes))
        {
            Some(place) => place,
            None => {
                let its = computed.of_output(output.end, takes)?;
                shared.push(((output.end, takes), its, None));
                shared.len() - 1
            }
        };
        let (_, its, shaped) = &mut shared[place];
        if shaped.is_none() && !matches!(output.target, Target::Table(_) | Target::Results(_)) {
            *shaped = Some(Shaped::new(its, end.projected)?);
        }
        let shape = end.shapes.get(output.of).and_then(Option::as_ref);
        let prepared = prepare(its, shaped.as_ref(), output, shape, end.projected)?;
        all.push(prepared);
    }
    Ok(all)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Waits until it is said, or until nobody is left to say it.
pub(crate) async fn told(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
