//! A task: one flow on one partition. It reads, computes, writes, and notes how far it has come.
//!
//! While a batch is being written the next one is computed; it is handed over when the first is durable, so
//! positions reach each output in order and a failed write can be tried again without overtaking.

mod input;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use busbar_bus::{Bus, StreamPartition};
use busbar_event::{Class, Error};
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::chain::{Chain, Computed};
use crate::checkpoint::{Checkpoints, Mark, TaskKey};
use crate::compile::Plan;
use crate::connector::Backoff;
use crate::counters::{Counters, Delta, Tally};
use crate::dead::{DeadLetters, Earlier};
use crate::limits::CHECKPOINT_EVERY;
use crate::output::Writer;
use crate::shape::{Prepared, Shaped, prepare};
use crate::status::FlowState;
use input::{InputReader, Next};
pub(crate) use write::parcels;
use write::{Landing, Leaving, NotLanded, Waiter};

/// What the tasks of a flow's version share.
pub(crate) struct FlowShared {
    pub plan: Arc<Plan>,
    pub tally: Tally,
    pub state: Mutex<(FlowState, Option<Error>)>,
    /// How far each task is.
    pub marks: Mutex<BTreeMap<TaskKey, Mark>>,
}

impl FlowShared {
    /// The node of an input, a step, an output.
    pub fn step_node(&self, step: usize) -> usize {
        self.plan.spec.from.len() + step
    }

    pub fn output_node(&self, output: usize) -> usize {
        self.plan.spec.from.len() + self.plan.spec.steps.len() + output
    }

    fn stop(&self, error: Error) {
        *self.state.lock() = (FlowState::Stopped, Some(error));
    }
}

/// A cursor of a flow: the flow's own, or that of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    pub id: String,
    /// The outputs it writes to, by index.
    pub outputs: Vec<usize>,
    /// It counts for the flow and keeps its dead letters.
    pub main: bool,
}

/// The name of the lane for streams and hot tables.
pub(crate) const MAIN: &str = "main";

/// The cursors of a flow: one for all streams and hot tables together, whose writes are as fast as the log, and
/// one for each relational table and connection, so that a slow or locked one holds nobody else up.
pub(crate) fn lanes(plan: &Plan) -> Vec<Lane> {
    let apart = |o: &usize| plan.outputs[*o].apart;
    let (sinks, own): (Vec<usize>, Vec<usize>) = (0..plan.outputs.len()).partition(apart);
    let mut lanes = Vec::new();
    if !own.is_empty() {
        lanes.push(Lane {
            id: MAIN.into(),
            outputs: own,
            main: true,
        });
    }
    for output in sinks {
        let id = format!("to-{}", plan.outputs[output].id);
        lanes.push(Lane {
            id,
            outputs: vec![output],
            main: lanes.is_empty(),
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
    pub writers: Vec<Writer>,
    pub dead_writer: Writer,
    pub mark: Mark,
    /// Open letters of events that it reads again.
    pub earlier: Earlier,
    pub stop: watch::Receiver<bool>,
}

/// A batch on its way out.
struct Flight {
    writing: AbortOnDrop<Landing>,
    base: u64,
    end: u64,
    /// Events between the batch before and this one that were gone when they were read.
    skipped: u64,
    /// The greatest time of its events.
    latest: i64,
    delta: Delta,
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
    /// It arrived.
    Back(Vec<Writer>, Writer),
    /// An output did not take it whole; these events come again in parts.
    TooMuch(Vec<Writer>, Writer, Again),
    /// The task was told to stop before it arrived.
    Stopped,
}

/// Why reading or writing ended although nothing is wrong.
const STOPPED: &str = "flow.stopped";

pub(crate) fn stopped() -> Error {
    Error::new(Class::Transient, STOPPED)
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
                shared.stop(panicked(&*panic));
                shared.marks.lock().get(&key).copied().unwrap_or(begun)
            }
        }
    }

    async fn run_on(mut self) -> Mark {
        let mut end = Ended {
            mark: self.mark,
            writers: Vec::new(),
        };
        if let Err(error) = self.work(&mut end).await
            && error.code() != STOPPED
        {
            tracing::warn!(
                flow = %self.shared.plan.name, stream = %self.key.stream,
                partition = self.key.partition, %error, "the flow stops"
            );
            self.shared.stop(error);
        }
        for writer in &mut end.writers {
            writer.close().await;
        }
        self.surroundings
            .checkpoints
            .note(&self.shared.plan.name, &self.key, end.mark);
        end.mark
    }

    async fn work(&mut self, end: &mut Ended) -> Result<(), Error> {
        let mut writers = std::mem::take(&mut self.writers);
        let cuts = self.cuts(&mut writers).await?;
        let mut held = Some((writers, self.dead_writer_take()));
        let mut input = InputReader::new(&self.partition, self.mark.position, cuts);
        let mut flight: Option<Flight> = None;
        // Events that were gone when they were read, since the batch before.
        let mut skipped = 0;
        let mut saved = (self.mark.position, Instant::now());
        let mut backoff = Backoff::new(self.mark.position ^ 0x9e37_79b9);
        let outcome = loop {
            let wake = saved.1 + CHECKPOINT_EVERY;
            let unsaved = end.mark.position != saved.0;
            let next = tokio::select! {
                biased;
                () = told(self.stop.clone()) => break Ok(()),
                landing = landed(&mut flight), if flight.is_some() => {
                    match self.land(landing, end)? {
                        Landed::Back(writers, dead) => held = Some((writers, dead)),
                        Landed::TooMuch(writers, dead, batch) => {
                            held = Some((writers, dead));
                            self.read_again(&mut input, batch, &mut skipped);
                        }
                        Landed::Stopped => break Err(stopped()),
                    }
                    continue;
                }
                () = tokio::time::sleep_until(wake), if unsaved => {
                    self.save(end.mark, &mut saved);
                    continue;
                }
                next = input.next() => next,
            };
            let stretch = match next {
                Ok(Next::Stretch(stretch)) => stretch,
                Ok(Next::Gap(missed, cause)) => {
                    self.shared.tally.miss(missed);
                    skipped += missed;
                    tracing::warn!(flow = %self.shared.plan.name, missed, %cause, "events are gone");
                    self.shared.tally.error(self.input, Some(cause), 0);
                    continue;
                }
                Err(error) if error.class() == Class::Transient => {
                    self.shared
                        .tally
                        .error(self.input, Some(error), backoff.tries() + 1);
                    tokio::select! {
                        () = told(self.stop.clone()) => {}
                        () = tokio::time::sleep(backoff.pause()) => {}
                    }
                    continue;
                }
                Err(error) => break Err(error),
            };
            let (from, to) = (stretch.base, stretch.end());
            let computed = match self.compute(&stretch.batch).await {
                Ok(computed) => computed,
                Err(error) if error.class() == Class::Transient => {
                    self.shared
                        .tally
                        .error(self.input, Some(error), backoff.tries() + 1);
                    input.give_back(stretch);
                    tokio::select! {
                        () = told(self.stop.clone()) => {}
                        () = tokio::time::sleep(backoff.pause()) => {}
                    }
                    continue;
                }
                // The events at fault are found by halves.
                Err(error) if error.class() == Class::Permanent && to - from > 1 => {
                    input.give_back(stretch);
                    input.halve(from, to);
                    continue;
                }
                Err(error) => break Err(error),
            };
            if backoff.tries() > 0 {
                backoff.reset();
                self.shared.tally.error(self.input, None, 0);
            }
            let (computed, prepared) = computed;
            let delta = self.delta(&computed, &prepared);
            if flight.is_some() {
                let landing = landed(&mut flight).await;
                match self.land(landing, end)? {
                    Landed::Back(writers, dead) => held = Some((writers, dead)),
                    Landed::TooMuch(writers, dead, batch) => {
                        held = Some((writers, dead));
                        self.read_again(&mut input, batch, &mut skipped);
                        continue;
                    }
                    Landed::Stopped => break Err(stopped()),
                }
                if saved.1.elapsed() >= CHECKPOINT_EVERY {
                    self.save(end.mark, &mut saved);
                }
            }
            let Some((writers, dead_writer)) = held.take() else {
                break Err(stopped());
            };
            self.shared.tally.add(&delta);
            let latest = stretch.batch.time_range().1;
            let leaving = Leaving {
                shared: Arc::clone(&self.shared),
                surroundings: self.surroundings.clone(),
                stop: self.stop.clone(),
                lane: self.lane.clone(),
                key: self.key.clone(),
                base: from,
                end: to,
                events: computed.events,
                dead: if self.lane.main {
                    computed.dead
                } else {
                    Vec::new()
                },
                earlier: self.earlier.within(from, to),
                rows: computed.rows.num_rows(),
                prepared,
            };
            let writing = tokio::spawn(leaving.write(writers, dead_writer));
            flight = Some(Flight {
                writing: AbortOnDrop(writing),
                base: from,
                end: to,
                skipped: std::mem::take(&mut skipped),
                latest,
                delta,
            });
            // Computing is not waiting: others on this thread get their turn.
            tokio::task::yield_now().await;
        };
        // What is on its way is finished, or given up where it cannot be.
        if flight.is_some() {
            let landing = landed(&mut flight).await;
            match self.land(landing, end)? {
                Landed::Back(writers, dead) | Landed::TooMuch(writers, dead, _) => {
                    held = Some((writers, dead));
                }
                Landed::Stopped => {}
            }
        }
        if let Some((writers, dead_writer)) = held {
            end.writers = writers;
            end.writers.push(dead_writer);
        }
        outcome
    }

    fn dead_writer_take(&mut self) -> Writer {
        let stream = Arc::clone(self.surroundings.dead.stream());
        let empty = Writer::stream(self.surroundings.bus.clone(), stream, "".into());
        std::mem::replace(&mut self.dead_writer, empty)
    }

    /// Where input must be cut, for outputs that know more than the checkpoint does.
    async fn cuts(&mut self, writers: &mut [Writer]) -> Result<BTreeSet<u64>, Error> {
        let position = self.mark.position;
        let mut cuts = BTreeSet::new();
        for (writer, output) in writers.iter_mut().zip(&self.lane.outputs) {
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
        cuts.extend(self.dead_writer.known(position).await?);
        Ok(cuts)
    }

    /// Runs the steps and prepares the results. An error is one of the whole; of a single event it is none:
    /// the event is dead.
    async fn compute(
        &mut self,
        events: &busbar_event::Batch,
    ) -> Result<(Computed, Vec<Prepared>), Error> {
        let plan = Arc::clone(&self.shared.plan);
        let (input, outputs) = (self.input, &self.lane.outputs);
        let computed = self.chain.run(events.clone()).await?;
        let prepared = std::panic::catch_unwind(AssertUnwindSafe(|| {
            prepare_outputs(&plan, input, outputs, &computed)
        }));
        match prepared.unwrap_or_else(|panic| Err(panicked(&*panic))) {
            Ok(prepared) => Ok((computed, prepared)),
            Err(cause) if cause.class() == Class::Permanent && events.rows() == 1 => {
                let refused = outputs
                    .iter()
                    .map(|o| Prepared::refused(&computed, &plan.outputs[*o], *o, &cause));
                let prepared = refused.collect();
                Ok((computed, prepared))
            }
            Err(error) => Err(error),
        }
    }

    /// What a batch does to the counters.
    fn delta(&self, computed: &Computed, prepared: &[Prepared]) -> Delta {
        let mut delta = Delta {
            events: computed.events.rows() as u64,
            ..Delta::default()
        };
        let rows = computed.rows.num_rows() as u64;
        if self.lane.main {
            delta.flow.input = computed.events.rows() as u64;
            delta.flow.held = rows;
            for (i, counts) in computed.counts.iter().enumerate() {
                let node = if i == 0 {
                    self.input
                } else {
                    self.shared.step_node(i - 1)
                };
                delta.flow.dead += counts.dead;
                delta.flow.filtered += counts.filtered;
                delta.flow.added += counts.added;
                delta.nodes.push((node, *counts));
            }
        }
        for (output, prepared) in self.lane.outputs.iter().zip(prepared) {
            let dead = prepared.dead.len() as u64;
            let counts = Counters {
                input: rows,
                dead,
                held: rows - dead,
                ..Counters::default()
            };
            delta.nodes.push((self.shared.output_node(*output), counts));
        }
        delta
    }

    /// Takes a landed batch in: the position moves on.
    fn land(
        &self,
        (flight, landing): (Flight, Result<Landing, Error>),
        end: &mut Ended,
    ) -> Result<Landed, Error> {
        let tally = &self.shared.tally;
        let landing = match landing {
            Ok(landing) => landing,
            Err(error) => {
                tally.take_back(&flight.delta);
                return Err(error);
            }
        };
        match landing.result {
            Ok(()) => {
                // Every offset the cursor moves over is an event that was counted, or one that was gone.
                let moved = flight.end.saturating_sub(end.mark.position);
                tally.moved(moved, flight.delta.events + flight.skipped);
                end.mark.position = flight.end;
                end.mark.seen = end.mark.seen.max(Some(flight.latest));
                self.shared.marks.lock().insert(self.key.clone(), end.mark);
                Ok(Landed::Back(landing.writers, landing.dead_writer))
            }
            // It comes again, in parts or from the checkpoint.
            Err(NotLanded::TooMuch) => {
                tally.take_back(&flight.delta);
                let again = Again {
                    base: flight.base,
                    end: flight.end,
                    skipped: flight.skipped,
                    earlier: landing.earlier,
                };
                Ok(Landed::TooMuch(landing.writers, landing.dead_writer, again))
            }
            Err(NotLanded::Stopped(error)) => {
                tally.take_back(&flight.delta);
                if error.code() == STOPPED {
                    end.writers = landing.writers;
                    return Ok(Landed::Stopped);
                }
                Err(error)
            }
        }
    }

    /// Reads the events of a batch again that an output did not take as a whole, in two halves.
    fn read_again(&mut self, input: &mut InputReader, batch: Again, skipped: &mut u64) {
        input.seek(batch.base);
        input.halve(batch.base, batch.end);
        self.earlier.put_back(batch.earlier);
        // What was missed behind it is found missing again.
        self.shared
            .tally
            .found(std::mem::replace(skipped, batch.skipped));
    }

    fn save(&self, mark: Mark, saved: &mut (u64, Instant)) {
        self.surroundings
            .checkpoints
            .note(&self.shared.plan.name, &self.key, mark);
        *saved = (mark.position, Instant::now());
    }
}

/// How a task ended.
struct Ended {
    mark: Mark,
    writers: Vec<Writer>,
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
    use crate::compile::Target;
    let input = &plan.inputs[input];
    let events = |o: &usize| !matches!(plan.outputs[*o].target, Target::Table(_));
    let shaped = match outputs.iter().any(events) {
        true => Some(Shaped::new(computed, input.projected)?),
        false => None,
    };
    outputs
        .iter()
        .map(|o| {
            prepare(
                computed,
                shaped.as_ref(),
                &plan.outputs[*o],
                &input.shapes[*o],
                *o,
            )
        })
        .collect()
}

async fn landed(flight: &mut Option<Flight>) -> (Flight, Result<Landing, Error>) {
    let landing = match flight {
        Some(flight) => (&mut flight.writing.0).await,
        None => std::future::pending().await,
    };
    let landing = landing.map_err(|e| Error::new(Class::Permanent, "flow.worker").caused_by(e));
    match flight.take() {
        Some(flight) => (flight, landing),
        None => std::future::pending().await,
    }
}

/// Waits until it is said, or until nobody is left to say it.
pub(crate) async fn told(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A worker that goes with whoever waits for it: a task that is cut off leaves nobody behind who writes on.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
