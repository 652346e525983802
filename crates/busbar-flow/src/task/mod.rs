//! A task: one stage of a flow on one partition. It reads, computes, writes, and notes how far it has come.
//!
//! [`machine`] decides, this file does: while a batch is being written the next one is computed; it is handed over when the
//! first is durable, so positions reach each output in order and a failed write can be tried again without overtaking.

mod compute;
mod flight;
mod input;
mod insert;
mod land;
mod lane;
mod machine;
mod prepare;
mod shared;
mod sources;
mod ticks;
mod write;

use std::collections::{BTreeSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use busbar_bus::{Bus, StreamPartition};
use busbar_connector::Backoff;
use busbar_event::{Class, Error};
use futures::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::blocking::blocking;
use crate::chain::Chain;
use crate::checkpoint::{Checkpoints, Mark, TaskKey};
use crate::dead::{DeadLetters, Earlier};
use crate::limits::IDLE_CHECK;
use crate::panicked::panicked;
use crate::state::{Checkpoint, TaskState};
use flight::{Air, committed, landed};
use input::{InputReader, Next};
use land::Landed;
use machine::Machine;
use write::{Waiter, result_letters};

pub(crate) use input::Tick;
pub(crate) use insert::{EventAgain, Insert, Inserts};
pub(crate) use lane::{Lane, MAIN, lanes};
pub(crate) use prepare::prepare_outputs;
pub(crate) use shared::{FlowShared, StateCost, TaskClock};
pub(crate) use ticks::{recorded_ticks, ticks_stream, ticks_stream_name};
pub(crate) use write::{Writers, parcels};

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
    /// How long reading the state took.
    pub restored: std::time::Duration,
}

/// Why reading or writing ended although nothing is wrong.
const STOPPED: &str = "flow.stopped";

/// Why a flow starts anew: the inferred columns of its stream are others than those it was compiled for.
const COLUMNS_WIDER: &str = "flow.columns-wider";

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
        if let Some(keeps) = &self.keeps {
            let restored = keeps.restored;
            self.shared.cost(&self.key, |cost| cost.restored = restored);
        }
        if let Err(error) = self.work(&mut machine, &mut air).await
            && error.code() != STOPPED
        {
            tracing::warn!(
                flow = %self.shared.plan.name, stream = %self.key.stream,
                partition = self.key.partition, %error, "the flow stops"
            );
            self.shared.stop(error);
        }
        // What could not be committed is part of the last commit.
        let _ = committed(&mut air.commit).await;
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
                ended = committed(&mut air.commit), if air.commit.is_some() => {
                    machine.committed();
                    match ended {
                        Ok(()) => continue,
                        Err(error) => break Err(error),
                    }
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
        // Their letters may be all that came of a batch.
        for name in result_letters(&writers.dead.producer, &self.chain) {
            cuts.extend(writers.dead.known_as(&name, position));
        }
        if let Some(late) = &mut writers.late {
            cuts.extend(late.known(position).await?);
        }
        Ok(cuts)
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
            rows_held: self.chain.rows_held(),
        };
        self.shared.clocks.lock().insert(self.key.clone(), clock);
    }
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
