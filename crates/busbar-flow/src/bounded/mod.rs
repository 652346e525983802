//! A flow over a range of time of what its streams keep, beside the flow that runs: the same operators, with state of their
//! own, in one thread, with nothing between the stages but memory.
//!
//! The batch that is read next is always of the partition whose watermark is the least, so that a stage behind others
//! closes its windows as early as it would live, and keeps as little. Lateness is that of the log: an event is late by
//! all events before it in its partition, also by those outside of the range. Ticks that the flow has recorded are
//! applied where they were. At the end everything that is open is closed.

mod kept;
mod space;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use busbar_bus::{Cursor, Item, StreamPartition};
use busbar_connector::Backoff;
use busbar_event::{Batch, Class, Error};

use crate::chain::{Chain, ChainWork, Computed, EventRows};
use crate::compile::Plan;
use crate::exchange;
use crate::limits::{BOUNDED_TRIES_MAX, PIECE_ROWS_MAX, READ_BYTES, STATE_BYTES_MAX};
use crate::outgoing::Outgoing;
use crate::shape::Prepared;
use crate::state::{Checkpoint, States, TaskState};
use crate::task::{Tick, prepare_outputs};
pub(crate) use kept::{KeptEvents, KeptRows};
use space::OverflowStore;

/// What a run reads: the partitions of the streams of the flow's file.
#[derive(Clone)]
pub(crate) struct BoundedInput {
    /// The input's index in the plan.
    pub input: usize,
    pub partition: Arc<StreamPartition>,
    /// Offsets.
    pub offsets: Range<u64>,
    /// Ticks that the flow has recorded for it, in order.
    pub ticks: VecDeque<Tick>,
}

/// What a run has come to.
#[derive(Clone, Debug, Default)]
pub(crate) struct BoundedCounts {
    /// Offsets that were read, of all partitions.
    pub read: u64,
    /// Events of the range.
    pub events: u64,
    /// Rows that were written.
    pub rows: u64,
    pub late: u64,
    pub dead: u64,
    /// Why the first of them died.
    pub cause: Option<Error>,
    /// Events that were gone when they were read.
    pub missed: u64,
}

/// Takes the rows of a run, in order.
pub(crate) trait BoundedSink {
    /// Writes rows; answers which of them were refused.
    ///
    /// # Errors
    /// A transient one is tried again.
    fn write(&mut self, rows: &RecordBatch) -> Result<Vec<Error>, Error>;

    /// Shows how far the run has come.
    ///
    /// # Errors
    /// The run is to end.
    fn progress(&mut self, counts: &BoundedCounts) -> Result<(), Error>;

    /// Takes all that comes to an output, by its number in the plan, at once; answers whether it does. If not, rows of tables
    /// are written.
    ///
    /// # Errors
    /// The run is to end.
    fn takes(&mut self, _output: usize, _outgoing: &Outgoing) -> Result<bool, Error> {
        Ok(false)
    }

    /// All events have been read: what comes from now on was still open.
    fn ending(&mut self) {}
}

/// Events of a run: for each input of the plan and partition their offsets.
pub(crate) type RunEvents = BTreeMap<(usize, u16), BTreeSet<u64>>;

/// A run under way.
pub(crate) struct Bounded<'a, S> {
    plan: Arc<Plan>,
    within: Range<i64>,
    feeds: Vec<BoundedFeed>,
    nodes: Vec<Node>,
    /// The node of each input of the plan and partition.
    places: BTreeMap<(usize, u16), usize>,
    counts: BoundedCounts,
    sink: &'a mut S,
    /// Bytes of state in memory from which on state goes to disk.
    room: usize,
}

/// A partition that is read.
struct BoundedFeed {
    node: usize,
    source: FeedSource,
    end: u64,
    ticks: VecDeque<Tick>,
    over: bool,
}

/// Where the events of a partition come from.
enum FeedSource {
    Log {
        cursor: Cursor,
        /// Events that were read and have not gone on.
        rest: Option<(u64, Batch)>,
    },
    Kept {
        rows: VecDeque<Arc<KeptRows>>,
        /// Offsets of the events that alone become rows; none: all do.
        picked: Option<BTreeSet<u64>>,
    },
}

/// A stage on one partition.
struct Node {
    input: usize,
    chain: Chain,
    state: Arc<TaskState>,
    /// The name under which the next stage knows it.
    producer: Arc<str>,
    /// The watermark that the next stage was told.
    told: Option<i64>,
}

impl<'a, S: BoundedSink> Bounded<'a, S> {
    /// A run of a flow whose one output is a table. State that does not fit into memory goes to `folder`, which is made
    /// then.
    ///
    /// # Errors
    /// When the operators cannot be made.
    pub fn new(
        plan: Arc<Plan>,
        within: Range<i64>,
        inputs: Vec<BoundedInput>,
        folder: &Path,
        sink: &'a mut S,
    ) -> Result<Self, Error> {
        let states = States::new(Arc::new(OverflowStore::new(folder)));
        let mut run = Bounded {
            plan: Arc::clone(&plan),
            within,
            feeds: Vec::new(),
            nodes: Vec::new(),
            places: BTreeMap::new(),
            counts: BoundedCounts::default(),
            sink,
            room: STATE_BYTES_MAX,
        };
        // The names of the tasks that write to each stream between stages.
        let mut before: BTreeMap<Arc<str>, Vec<Arc<str>>> = BTreeMap::new();
        let mut partitions: BTreeMap<Arc<str>, u16> = BTreeMap::new();
        for (i, input) in plan.inputs.iter().enumerate() {
            if input.delivers() {
                continue;
            }
            let numbers: Vec<u16> = match input.stage {
                0 => {
                    let read = inputs.iter().filter(|read| read.input == i);
                    read.map(|read| read.partition.number()).collect()
                }
                _ => (0..partitions.get(&*input.stream).copied().unwrap_or(1)).collect(),
            };
            let behind = before.get(&*input.stream).cloned().unwrap_or_default();
            for number in numbers {
                let producer: Arc<str> = format!("{}/{number}", input.stream).into();
                if let Some((_, exchange)) = &input.exchange {
                    let stream = Arc::clone(&exchange.stream);
                    partitions.insert(Arc::clone(&stream), exchange.partitions);
                    before
                        .entry(stream)
                        .or_default()
                        .push(Arc::clone(&producer));
                }
                let mut chain = input.chain(&behind)?;
                let state = states.task(&format!("{i}/{number}"));
                chain.restore(&state)?;
                run.places.insert((i, number), run.nodes.len());
                run.nodes.push(Node {
                    input: i,
                    chain,
                    state,
                    producer,
                    told: None,
                });
            }
        }
        for read in inputs {
            let number = read.partition.number();
            let Some(node) = run.places.get(&(read.input, number)) else {
                continue;
            };
            let cursor = Cursor::new(read.partition, read.offsets.start);
            run.feeds.push(BoundedFeed {
                node: *node,
                source: FeedSource::Log {
                    cursor: cursor.with_read_bytes(READ_BYTES),
                    rest: None,
                },
                end: read.offsets.end,
                ticks: read.ticks,
                over: false,
            });
        }
        Ok(run)
    }

    /// The same run as a trial over events that are kept, of which these alone become rows, or all of them: plug-ins keep nothing
    /// of it. The others move event time all the same.
    pub fn trial_of(mut self, kept: &KeptEvents, picked: Option<&RunEvents>) -> Self {
        for (place, node) in &self.places {
            let mut feeds = self.feeds.iter_mut();
            if let Some(feed) = feeds.find(|feed| feed.node == *node) {
                let its = |picked: &RunEvents| picked.get(place).cloned().unwrap_or_default();
                feed.source = FeedSource::Kept {
                    rows: kept.of(*place),
                    picked: picked.map(its),
                };
            }
        }
        let nodes = self.nodes.iter_mut();
        nodes.for_each(|node| node.chain.on_trial());
        self
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// What the sink or the disk says, or a step that cannot go on.
    pub async fn run(mut self) -> Result<BoundedCounts, Error> {
        while let Some(feed) = self.next_feed() {
            self.step(feed).await?;
            self.keep_small()?;
            self.sink.progress(&self.counts)?;
        }
        self.sink.ending();
        // Nodes are in the order of the stages.
        for node in 0..self.nodes.len() {
            let work = self.nodes[node].chain.end();
            self.take(node, work).await?;
            self.sink.progress(&self.counts)?;
        }
        Ok(self.counts)
    }

    /// The partition that is furthest behind in event time.
    fn next_feed(&self) -> Option<usize> {
        let open = (0..self.feeds.len()).filter(|feed| !self.feeds[*feed].over);
        open.min_by_key(|feed| {
            let time = &self.nodes[self.feeds[*feed].node].chain.time;
            time.as_ref().and_then(|time| time.watermark())
        })
    }

    /// Takes the next events, or the next tick, of a partition through the flow.
    async fn step(&mut self, at: usize) -> Result<(), Error> {
        let feed = &mut self.feeds[at];
        let node = feed.node;
        let read = feed.next(&mut self.counts)?;
        match read {
            None => self.feeds[at].over = true,
            Some(Read::Tick(watermark)) => {
                let work = self.nodes[node].chain.tick(watermark);
                self.take(node, work).await?;
            }
            Some(Read::Rows(read, rows)) => {
                self.counts.read += read;
                self.counts.events += rows.input() as u64;
                let work = self.nodes[node].chain.take_rows(rows)?;
                self.take(node, work).await?;
            }
            Some(Read::Events(events)) => {
                self.counts.read += events.rows() as u64;
                let times = events.times().iter();
                let inside = times.filter(|time| self.within.contains(time)).count();
                let from = match self.plan.inputs[self.nodes[node].input].versions {
                    true => i64::MIN,
                    false => self.within.start,
                };
                let within = from..self.within.end;
                self.counts.events += inside as u64;
                // Events that cannot be read together are read in halves; the first half comes first.
                let mut open = vec![events];
                while let Some(events) = open.pop() {
                    let chain = &mut self.nodes[node].chain;
                    match chain.read_within(events.clone(), Some(&within)) {
                        Ok(work) => self.take(node, work).await?,
                        Err(e) if e.class() == Class::Permanent && events.rows() > 1 => {
                            let middle = events.rows() / 2;
                            open.push(events.slice(middle, events.rows() - middle));
                            open.push(events.slice(0, middle));
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes events of one node through the rest of the flow.
    async fn take(&mut self, node: usize, work: ChainWork) -> Result<(), Error> {
        // The first is taken on first; what it leads to comes before the others.
        let mut open = vec![(node, work)];
        while let Some((node, work)) = open.pop() {
            let computed = self.compute(node, work).await?;
            let next = self.pass_on(node, &computed)?;
            for (node, events) in next.into_iter().rev() {
                let work = self.nodes[node].chain.read(events)?;
                open.push((node, work));
            }
        }
        Ok(())
    }

    async fn compute(&mut self, node: usize, mut work: ChainWork) -> Result<Computed, Error> {
        let chain = &mut self.nodes[node].chain;
        let mut backoff = Backoff::new(node as u64);
        while let Err(error) = chain.go_on(&mut work).await {
            if error.class() != Class::Transient || backoff.tries() >= BOUNDED_TRIES_MAX {
                return Err(error);
            }
            self.sink.progress(&self.counts)?;
            tokio::time::sleep(backoff.pause()).await;
        }
        let computed = chain.finish(work)?;
        let counts = &mut self.counts;
        counts.late += computed.late.len() as u64;
        counts.dead += computed.failed().count() as u64;
        if counts.cause.is_none() {
            counts.cause = computed.failed().next().map(|dead| dead.cause);
        }
        Ok(computed)
    }

    /// Writes results, or answers what they are to the nodes of the next stage.
    fn pass_on(&mut self, at: usize, computed: &Computed) -> Result<Vec<(usize, Batch)>, Error> {
        let node = &mut self.nodes[at];
        let plan = Arc::clone(&self.plan);
        let Some((_, exchange)) = &plan.inputs[node.input].exchange else {
            self.write(at, computed)?;
            return Ok(Vec::new());
        };
        let moved = computed.watermark.filter(|mark| Some(*mark) > node.told);
        node.told = node.told.max(moved);
        let parts = exchange::parts(exchange, computed, &node.producer, moved)?;
        let reads = |next: &crate::compile::InputPlan| *next.stream == *exchange.stream;
        let mut next = Vec::with_capacity(parts.len());
        for (number, events) in parts {
            for (input, _) in plan.inputs.iter().enumerate().filter(|(_, i)| reads(i)) {
                if let Some(node) = self.places.get(&(input, number)) {
                    next.push((*node, events.clone()));
                }
            }
        }
        Ok(next)
    }

    fn write(&mut self, node: usize, computed: &Computed) -> Result<(), Error> {
        let input = self.nodes[node].input;
        let plan = Arc::clone(&self.plan);
        let takes = |o: &usize| {
            let output = &plan.outputs[*o];
            output.takes == Some(output.of) && plan.inputs[input].shape(output).is_some()
        };
        let outputs: Vec<usize> = (0..plan.outputs.len()).filter(takes).collect();
        let prepared = match prepare_outputs(&plan, input, &outputs, computed) {
            Err(cause) if cause.class() == Class::Permanent => {
                let refused = outputs.first().map(|o| &plan.outputs[*o]);
                let refused = refused.map(|o| Prepared::refused(computed, o, &cause));
                refused.into_iter().collect()
            }
            prepared => prepared?,
        };
        for (prepared, output) in prepared.into_iter().zip(&outputs) {
            let dead = prepared.dead.iter().map(|dead| dead.cause.clone());
            self.die(dead.collect());
            if self.sink.takes(*output, &prepared.outgoing)? {
                continue;
            }
            let Outgoing::Rows(rows) = prepared.outgoing else {
                continue;
            };
            for from in (0..rows.num_rows()).step_by(PIECE_ROWS_MAX) {
                let piece = rows.slice(from, PIECE_ROWS_MAX.min(rows.num_rows() - from));
                let refused = self.write_piece(&piece)?;
                self.counts.rows += (piece.num_rows() - refused.len()) as u64;
                self.die(refused);
            }
        }
        Ok(())
    }

    fn die(&mut self, causes: Vec<Error>) {
        self.counts.dead += causes.len() as u64;
        self.counts.cause = self.counts.cause.take().or(causes.into_iter().next());
    }

    fn write_piece(&mut self, rows: &RecordBatch) -> Result<Vec<Error>, Error> {
        let mut backoff = Backoff::new(self.counts.rows);
        loop {
            match self.sink.write(rows) {
                Err(error)
                    if error.class() == Class::Transient && backoff.tries() < BOUNDED_TRIES_MAX =>
                {
                    self.sink.progress(&self.counts)?;
                    // The thread is the run's own.
                    std::thread::park_timeout(backoff.pause());
                }
                Err(error) if error.class() == Class::Permanent => {
                    return Ok(vec![error; rows.num_rows()]);
                }
                written => return written,
            }
        }
    }

    /// Puts state on disk when there is much of it, and ends the run where that does not help.
    fn keep_small(&mut self) -> Result<(), Error> {
        let bytes = self.memory();
        if bytes <= self.room {
            return Ok(());
        }
        for node in &mut self.nodes {
            let snapshot = node.chain.snapshot(&node.state)?;
            node.state.commit(&snapshot, &Checkpoint::default())?;
            let own: usize = node.chain.memory().iter().map(|(_, bytes)| bytes).sum();
            node.chain.shrink(own);
        }
        let left = self.memory();
        if left > 2 * STATE_BYTES_MAX {
            let mebibytes = STATE_BYTES_MAX >> 20;
            return Err(Error::new(Class::Configuration, "flow.bounded-memory")
                .with("max_mib", 2 * mebibytes)
                .with("flow", &self.plan.name));
        }
        // Not again for every batch where little could be given up.
        self.room = STATE_BYTES_MAX.max(left + left / 4);
        Ok(())
    }

    fn memory(&self) -> usize {
        let memory = self.nodes.iter().flat_map(|node| node.chain.memory());
        memory.map(|(_, bytes)| bytes).sum()
    }
}

enum Read {
    Events(Batch),
    /// Events that were read before, and how many they were with those that become no rows.
    Rows(u64, EventRows),
    Tick(i64),
}

impl BoundedFeed {
    /// What comes next; none at the end.
    fn next(&mut self, counts: &mut BoundedCounts) -> Result<Option<Read>, Error> {
        loop {
            let position = match &self.source {
                FeedSource::Log {
                    rest: Some((base, _)),
                    ..
                } => *base,
                FeedSource::Log { cursor, .. } => cursor.position().min(self.end),
                FeedSource::Kept { rows, .. } => rows.front().map_or(self.end, |rows| rows.base),
            };
            if let Some(tick) = self.ticks.pop_front_if(|tick| tick.offset <= position) {
                return Ok(Some(Read::Tick(tick.watermark)));
            }
            let (cursor, rest) = match &mut self.source {
                FeedSource::Log { cursor, rest } => (cursor, rest),
                FeedSource::Kept { rows, picked } => {
                    let next = rows.pop_front().map(|rows| rows.read(picked.as_ref()));
                    return next.transpose();
                }
            };
            if let Some((base, events)) = rest.take() {
                let cut = self.ticks.front().map_or(self.end, |tick| tick.offset);
                let rows = (cut.min(self.end) - base).min(events.rows() as u64) as usize;
                let left = events.rows() - rows;
                if base + (rows as u64) < self.end && left > 0 {
                    *rest = Some((base + rows as u64, events.slice(rows, left)));
                }
                return Ok(Some(Read::Events(events.slice(0, rows))));
            }
            if position >= self.end {
                return Ok(None);
            }
            match cursor.try_next()? {
                Some(Item::Chunk(chunk)) if chunk.base < self.end => {
                    *rest = Some((chunk.base, chunk.batch));
                }
                Some(Item::Gap(gap)) => {
                    let gone = gap.resume.min(self.end).saturating_sub(gap.from);
                    counts.missed += gone;
                    counts.read += gone;
                }
                _ => return Ok(None),
            }
        }
    }
}
