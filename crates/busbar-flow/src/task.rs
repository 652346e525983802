//! A task: one flow on one partition. It reads, computes, writes, and notes how far it has come.
//!
//! While a batch is being written the next one is computed; it is handed over when the first is durable, so
//! positions reach each output in order and a failed write can be tried again without overtaking.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use arrow::array::Array;
use busbar_bus::{Bus, Cursor, Item, StreamPartition};
use busbar_event::{Batch, Body, Class, Error};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::chain::{Chain, Computed, Dead};
use crate::checkpoint::{Checkpoints, Mark, TaskKey};
use crate::compile::Plan;
use crate::connector::Backoff;
use crate::counters::{Counters, Delta, Tally};
use crate::dead::{DeadLetters, Spot, letters};
use crate::limits::{BATCH_BYTES_MAX, BATCH_ROWS_MAX, CHECKPOINT_EVERY, GATHER_ROWS, READ_BYTES};
use crate::output::{Refusals, Writer};
use crate::shape::{Prepared, Shaped, event_of, prepare};
use crate::status::FlowState;

/// What the tasks of a flow's version share.
pub(crate) struct FlowShared {
    pub plan: Arc<Plan>,
    pub tally: Tally,
    pub state: Mutex<(FlowState, Option<Error>)>,
    /// Every event before it is done with.
    pub positions: Mutex<BTreeMap<TaskKey, u64>>,
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

/// The cursors of a flow: one for all streams and tables together, whose writes are as fast as the disk, and
/// one for each connection, so that a slow one holds nobody else up.
pub(crate) fn lanes(plan: &Plan) -> Vec<Lane> {
    use crate::compile::Target;
    let is_connection = |o: &usize| matches!(plan.outputs[*o].target, Target::Connection(_));
    let (sinks, own): (Vec<usize>, Vec<usize>) = (0..plan.outputs.len()).partition(is_connection);
    let mut lanes = Vec::new();
    if !own.is_empty() {
        lanes.push(Lane {
            id: "main".into(),
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
    pub generation: u64,
    pub position: u64,
    pub stop: watch::Receiver<bool>,
}

/// Input rows in a row.
struct Stretch {
    base: u64,
    batch: Batch,
}

impl Stretch {
    fn end(&self) -> u64 {
        self.base + self.batch.rows() as u64
    }
}

/// A batch on its way out.
struct Flight {
    writing: JoinHandle<Landing>,
    end: u64,
    delta: Delta,
}

/// What comes back.
struct Landing {
    writers: Vec<Writer>,
    dead_writer: Writer,
    result: Result<(), Error>,
}

/// Why reading or writing ended although nothing is wrong.
const STOPPED: &str = "flow.stopped";

pub(crate) fn stopped() -> Error {
    Error::new(Class::Transient, STOPPED)
}

impl Task {
    /// Runs until it is told to stop or cannot go on; answers how far it has come.
    pub async fn run(mut self) -> u64 {
        let mut end = Ended {
            position: self.position,
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
        let mark = Mark {
            generation: self.generation,
            position: end.position,
        };
        self.surroundings
            .checkpoints
            .note(&self.shared.plan.name, &self.key, mark);
        end.position
    }

    async fn work(&mut self, end: &mut Ended) -> Result<(), Error> {
        let mut writers = std::mem::take(&mut self.writers);
        let mut cuts = self.cuts(&mut writers).await?;
        let mut held = Some((writers, self.dead_writer_take()));
        let mut input = InputReader {
            cursor: Cursor::new(Arc::clone(&self.partition), self.position)
                .with_read_bytes(READ_BYTES),
            rest: VecDeque::new(),
            gap: None,
        };
        let mut flight: Option<Flight> = None;
        let mut saved = (self.position, Instant::now());
        let mut backoff = Backoff::new(self.position ^ 0x9e37_79b9);
        let outcome = loop {
            let wake = saved.1 + CHECKPOINT_EVERY;
            let unsaved = end.position != saved.0;
            let next = tokio::select! {
                biased;
                () = told(self.stop.clone()) => break Ok(()),
                landing = landed(&mut flight), if flight.is_some() => {
                    match self.land(landing, end)? {
                        Some(back) => held = Some(back),
                        None => break Err(stopped()),
                    }
                    continue;
                }
                () = tokio::time::sleep_until(wake), if unsaved => {
                    self.save(end.position, &mut saved);
                    continue;
                }
                next = input.next() => next,
            };
            let stretch = match next {
                Ok(Next::Stretch(stretch)) => stretch,
                Ok(Next::Gap(missed, cause)) => {
                    self.shared.tally.miss(missed);
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
            let stretch = input.cut(stretch, &mut cuts);
            let from = stretch.base;
            let to = stretch.end();
            let computed = match self.chain.run(stretch.batch.clone()) {
                Ok(computed) => computed,
                Err(error) if error.class() == Class::Transient => {
                    self.shared
                        .tally
                        .error(self.input, Some(error), backoff.tries() + 1);
                    input.rest.push_front(stretch);
                    tokio::time::sleep(backoff.pause()).await;
                    continue;
                }
                Err(error) => break Err(error),
            };
            if backoff.tries() > 0 {
                backoff.reset();
                self.shared.tally.error(self.input, None, 0);
            }
            let (prepared, delta) = match self.prepare(&computed) {
                Ok(done) => done,
                Err(error) => break Err(error),
            };
            if flight.is_some() {
                let landing = landed(&mut flight).await;
                match self.land(landing, end)? {
                    Some(back) => held = Some(back),
                    None => break Err(stopped()),
                }
                if saved.1.elapsed() >= CHECKPOINT_EVERY {
                    self.save(end.position, &mut saved);
                }
            }
            let Some((writers, dead_writer)) = held.take() else {
                break Err(stopped());
            };
            self.shared.tally.add(&delta);
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
                rows: computed.rows.num_rows(),
                prepared,
            };
            let writing = tokio::spawn(leaving.write(writers, dead_writer));
            flight = Some(Flight {
                writing,
                end: to,
                delta,
            });
            // Computing is not waiting: others on this thread get their turn.
            tokio::task::yield_now().await;
        };
        // What is on its way is finished, or given up where it cannot be.
        if flight.is_some() {
            let landing = landed(&mut flight).await;
            if let Some(back) = self.land(landing, end)? {
                held = Some(back);
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
        let mut cuts = BTreeSet::new();
        for (writer, output) in writers.iter_mut().zip(&self.lane.outputs) {
            let node = self.shared.output_node(*output);
            let mut waiter = Waiter::new(&self.shared, node, self.stop.clone(), self.position);
            // Writing before it is known what is written already could write it twice.
            let known = loop {
                match writer.known(self.position).await {
                    Err(error) if error.class() == Class::Transient => waiter.wait(error).await?,
                    known => break known?,
                }
            };
            if waiter.tried() {
                self.shared.tally.error(node, None, 0);
            }
            cuts.extend(known);
        }
        cuts.extend(self.dead_writer.known(self.position).await?);
        Ok(cuts)
    }

    /// What each output gets, and what it does to the counters.
    fn prepare(&self, computed: &Computed) -> Result<(Vec<Prepared>, Delta), Error> {
        let plan = &self.shared.plan;
        let input = &plan.inputs[self.input];
        let prepared = prepare_outputs(plan, self.input, &self.lane.outputs, computed)?;
        let mut delta = Delta::default();
        let rows = computed.rows.num_rows() as u64;
        if self.lane.main {
            delta.flow.input = computed.events.rows() as u64;
            delta.flow.dead = computed.dead.len() as u64;
            delta.flow.held = rows;
            for (i, counts) in computed.counts.iter().enumerate() {
                let node = if i == 0 {
                    self.input
                } else {
                    self.shared.step_node(i - 1)
                };
                delta.flow.filtered += counts.filtered;
                delta.flow.added += counts.added;
                delta.nodes.push((node, *counts));
            }
        }
        for (output, prepared) in self.lane.outputs.iter().zip(&prepared) {
            let dead = prepared.dead.len() as u64;
            let counts = Counters {
                input: rows,
                dead,
                held: rows - dead,
                ..Counters::default()
            };
            delta.nodes.push((self.shared.output_node(*output), counts));
        }
        debug_assert_eq!(input.stream, self.key.stream);
        Ok((prepared, delta))
    }

    /// Takes a landed batch in: the position moves on. None: it was cut off.
    fn land(
        &self,
        (flight, landing): (Flight, Result<Landing, Error>),
        end: &mut Ended,
    ) -> Result<Option<(Vec<Writer>, Writer)>, Error> {
        let landing = match landing {
            Ok(landing) => landing,
            Err(error) => {
                self.shared.tally.take_back(&flight.delta);
                return Err(error);
            }
        };
        match landing.result {
            Ok(()) => {
                end.position = flight.end;
                self.shared
                    .positions
                    .lock()
                    .insert(self.key.clone(), flight.end);
                Ok(Some((landing.writers, landing.dead_writer)))
            }
            Err(error) => {
                // It comes again from the checkpoint.
                self.shared.tally.take_back(&flight.delta);
                if error.code() == STOPPED {
                    end.writers = landing.writers;
                    return Ok(None);
                }
                Err(error)
            }
        }
    }

    fn save(&self, position: u64, saved: &mut (u64, Instant)) {
        let mark = Mark {
            generation: self.generation,
            position,
        };
        self.surroundings
            .checkpoints
            .note(&self.shared.plan.name, &self.key, mark);
        *saved = (position, Instant::now());
    }
}

/// How a task ended.
struct Ended {
    position: u64,
    writers: Vec<Writer>,
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
        Some(flight) => (&mut flight.writing).await,
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

/// A computed batch with all it needs to be written.
struct Leaving {
    shared: Arc<FlowShared>,
    surroundings: Surroundings,
    stop: watch::Receiver<bool>,
    lane: Lane,
    key: TaskKey,
    base: u64,
    end: u64,
    events: Batch,
    dead: Vec<Dead>,
    rows: usize,
    prepared: Vec<Prepared>,
}

impl Leaving {
    async fn write(mut self, mut writers: Vec<Writer>, mut dead_writer: Writer) -> Landing {
        let result = self.write_all(&mut writers, &mut dead_writer).await;
        Landing {
            writers,
            dead_writer,
            result,
        }
    }

    async fn write_all(
        &mut self,
        writers: &mut [Writer],
        dead_writer: &mut Writer,
    ) -> Result<(), Error> {
        let this = &*self;
        let writes = writers
            .iter_mut()
            .zip(&this.prepared)
            .zip(&this.lane.outputs)
            .map(|((writer, prepared), output)| async move {
                let node = this.shared.output_node(*output);
                let mut waiter = Waiter::new(&this.shared, node, this.stop.clone(), this.end);
                let wait = |error| waiter.wait(error);
                let written = writer.write(&prepared.outgoing, this.end, wait).await;
                if waiter.tried() {
                    this.shared
                        .tally
                        .error(node, written.as_ref().err().cloned(), 0);
                }
                written
            });
        let written = futures::future::join_all(writes).await;
        let mut refusals: Vec<Refusals> = Vec::with_capacity(written.len());
        for result in written {
            refusals.push(result?);
        }
        // Every event that some output did not get; of a query's rows, which stand for no single event,
        // as many as the output that lost most.
        let mut lost: BTreeSet<usize> = BTreeSet::new();
        let mut lost_most = 0;
        let mut dead = std::mem::take(&mut self.dead);
        let mut settled = Vec::with_capacity(refusals.len());
        for ((refused, prepared), output) in refusals
            .into_iter()
            .zip(&self.prepared)
            .zip(&self.lane.outputs)
        {
            let sent = prepared.rows - prepared.dead.len();
            settled.push((
                self.shared.output_node(*output),
                sent as u64,
                refused.len() as u64,
            ));
            lost_most = lost_most.max(refused.len() + prepared.dead.len());
            for (row, cause) in refused {
                let event = event_of(&prepared.made, row);
                lost.insert(event);
                dead.push(Dead {
                    event,
                    place: crate::chain::Place::Output(*output),
                    cause,
                });
            }
            for letter in &prepared.dead {
                lost.insert(letter.event);
                dead.push(letter.clone());
            }
        }
        if !dead.is_empty() {
            self.bury(&dead, dead_writer).await?;
        }
        for (node, sent, refused) in settled {
            self.shared.tally.settle(node, sent, refused);
        }
        if self.lane.main {
            let lost = lost.len().max(lost_most).min(self.rows);
            self.shared.tally.settle_flow(self.rows as u64, lost as u64);
        }
        Ok(())
    }

    async fn bury(&self, dead: &[Dead], writer: &mut Writer) -> Result<(), Error> {
        let plan = &self.shared.plan;
        let ids: Vec<Arc<str>> = plan.outputs.iter().map(|o| Arc::clone(&o.id)).collect();
        let stream: Arc<str> = self.key.stream.as_str().into();
        let now = self.surroundings.bus.clock().now_micros();
        let batch = letters(&plan.name, &self.events, dead, &ids, now, |event| Spot {
            stream: Arc::clone(&stream),
            partition: self.key.partition,
            offset: self.base + event as u64,
        });
        let first = self.lane.outputs.first().copied().unwrap_or(0);
        let node = self.shared.output_node(first);
        let mut waiter = Waiter::new(&self.shared, node, self.stop.clone(), self.end);
        let outgoing = crate::shape::Outgoing::Events(batch);
        writer
            .write(&outgoing, self.end, |error| waiter.wait(error))
            .await
            .map(drop)
    }
}

/// Waits between tries and says so.
struct Waiter<'a> {
    shared: &'a Arc<FlowShared>,
    node: usize,
    stop: watch::Receiver<bool>,
    backoff: Backoff,
}

impl<'a> Waiter<'a> {
    fn new(
        shared: &'a Arc<FlowShared>,
        node: usize,
        stop: watch::Receiver<bool>,
        seed: u64,
    ) -> Waiter<'a> {
        Waiter {
            shared,
            node,
            stop,
            backoff: Backoff::new(seed.wrapping_mul(0x9e37_79b9)),
        }
    }

    fn tried(&self) -> bool {
        self.backoff.tries() > 0
    }

    /// Waits for the next try. An error: the flow is to stop.
    fn wait(&mut self, error: Error) -> impl Future<Output = Result<(), Error>> + use<> {
        let pause = self.backoff.pause();
        self.shared
            .tally
            .error(self.node, Some(error), self.backoff.tries());
        let stop = self.stop.clone();
        async move {
            tokio::select! {
                () = told(stop) => Err(stopped()),
                () = tokio::time::sleep(pause) => Ok(()),
            }
        }
    }
}

/// Gathers input: many small chunks become one batch.
struct InputReader {
    cursor: Cursor,
    rest: VecDeque<Stretch>,
    /// Found behind the rows in `rest`.
    gap: Option<(u64, Error)>,
}

enum Next {
    Stretch(Stretch),
    Gap(u64, Error),
}

impl InputReader {
    /// The next rows; waits for them. Cancelling loses nothing: what was read is kept in `rest`.
    async fn next(&mut self) -> Result<Next, Error> {
        if self.rest.is_empty() {
            if let Some((missed, cause)) = self.gap.take() {
                return Ok(Next::Gap(missed, cause));
            }
            match self.cursor.next().await? {
                Item::Gap(gap) => return Ok(Next::Gap(gap.resume - gap.from, gap.cause)),
                Item::Chunk(chunk) => {
                    self.rest.push_back(Stretch {
                        base: chunk.base,
                        batch: chunk.batch,
                    });
                }
            }
        }
        self.gather()
    }

    /// Puts together what is there already, up to a full batch.
    fn gather(&mut self) -> Result<Next, Error> {
        let Some(first) = self.rest.pop_front() else {
            return Err(stopped());
        };
        let (mut rows, mut bytes) = (first.batch.rows(), first.batch.bytes());
        let mut all = vec![first];
        while rows < GATHER_ROWS && bytes < BATCH_BYTES_MAX {
            let next = match self.rest.pop_front() {
                Some(next) => next,
                None if self.gap.is_some() => break,
                // What went wrong is found again when this is all there is to do.
                None => match self.cursor.poll_memory() {
                    Ok(Some(Item::Chunk(chunk))) => Stretch {
                        base: chunk.base,
                        batch: chunk.batch,
                    },
                    Ok(Some(Item::Gap(gap))) => {
                        self.gap = Some((gap.resume - gap.from, gap.cause));
                        break;
                    }
                    Ok(None) | Err(_) => break,
                },
            };
            let fits = rows + next.batch.rows() <= BATCH_ROWS_MAX
                && bytes + next.batch.bytes() <= BATCH_BYTES_MAX
                && all.last().is_some_and(|last| last.end() == next.base)
                && same_body(&all[0].batch, &next.batch);
            if !fits {
                self.rest.push_front(next);
                break;
            }
            rows += next.batch.rows();
            bytes += next.batch.bytes();
            all.push(next);
        }
        let base = all[0].base;
        let mut batch = match all.len() {
            1 => all.swap_remove(0).batch,
            _ => Batch::concat(&all.into_iter().map(|s| s.batch).collect::<Vec<_>>())?,
        };
        if batch.rows() > BATCH_ROWS_MAX {
            let rest = batch.slice(BATCH_ROWS_MAX, batch.rows() - BATCH_ROWS_MAX);
            self.rest.push_front(Stretch {
                base: base + BATCH_ROWS_MAX as u64,
                batch: rest,
            });
            batch = batch.slice(0, BATCH_ROWS_MAX);
        }
        Ok(Next::Stretch(Stretch { base, batch }))
    }

    /// Cuts a stretch at the first position that some output knows.
    fn cut(&mut self, stretch: Stretch, cuts: &mut BTreeSet<u64>) -> Stretch {
        cuts.retain(|cut| *cut > stretch.base);
        let Some(cut) = cuts.first().copied().filter(|cut| *cut < stretch.end()) else {
            return stretch;
        };
        let rows = (cut - stretch.base) as usize;
        let rest = stretch.batch.slice(rows, stretch.batch.rows() - rows);
        self.rest.push_front(Stretch {
            base: cut,
            batch: rest,
        });
        Stretch {
            base: stretch.base,
            batch: stretch.batch.slice(0, rows),
        }
    }
}

fn same_body(a: &Batch, b: &Batch) -> bool {
    match (a.body(), b.body()) {
        (Body::Payload(_), Body::Payload(_)) => true,
        (Body::Columns(a), Body::Columns(b)) => a.data_type() == b.data_type(),
        _ => false,
    }
}
