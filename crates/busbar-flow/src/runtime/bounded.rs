//! Runs of flows over a range of time, into a table: started, watched, cancelled.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use busbar_bus::{Cursor, Item, StreamPartition};
use busbar_catalog::{FlowSpec, OutputSpec, OutputTarget, Parsed, Project};
use busbar_event::{Class, Error, time};
use busbar_table::Table;
use parking_lot::Mutex;

use super::Runtime;
use crate::blocking::blocking;
use crate::bounded::{Bounded, BoundedCounts, BoundedInput, BoundedSink};
use crate::checkpoint::TaskKey;
use crate::compile::{NoPlan, Plan, World, compile, table_schema};
use crate::limits::{BOUNDED_AT_ONCE_MAX, BOUNDED_KEPT_MAX, BOUNDED_NICE};
use crate::status::{BoundedRange, BoundedState, BoundedStatus};
use crate::task::{MAIN, recorded_ticks, ticks_stream};

/// The runs of a node, the oldest first.
#[derive(Default)]
pub(super) struct BoundedRuns(Mutex<VecDeque<Arc<BoundedRun>>>);

/// One run.
struct BoundedRun {
    status: Mutex<BoundedStatus>,
    cancel: AtomicBool,
}

impl BoundedRuns {
    /// Ends all runs.
    pub fn cancel_all(&self) {
        for run in self.0.lock().iter() {
            run.cancel.store(true, Ordering::Relaxed);
        }
    }

    fn find(&self, id: u64) -> Result<Arc<BoundedRun>, Error> {
        let runs = self.0.lock();
        let run = runs.iter().find(|run| run.status.lock().id == id).cloned();
        run.ok_or_else(|| Error::new(Class::Permanent, "flow.bounded-unknown").with("run", id))
    }

    /// Adds a run, if not too many are under way, and forgets the oldest of those that have ended.
    fn add(&self, status: BoundedStatus) -> Result<Arc<BoundedRun>, Error> {
        let mut runs = self.0.lock();
        let running = |run: &Arc<BoundedRun>| run.status.lock().state == BoundedState::Running;
        if runs.iter().filter(|run| running(run)).count() >= BOUNDED_AT_ONCE_MAX {
            return Err(
                Error::new(Class::Transient, "flow.bounded-many").with("max", BOUNDED_AT_ONCE_MAX)
            );
        }
        while runs.len() >= BOUNDED_KEPT_MAX {
            let Some(ended) = runs.iter().position(|run| !running(run)) else {
                break;
            };
            runs.remove(ended);
        }
        let run = Arc::new(BoundedRun {
            status: Mutex::new(status),
            cancel: AtomicBool::new(false),
        });
        runs.push_back(Arc::clone(&run));
        Ok(run)
    }
}

impl Runtime {
    /// Runs a flow over the events of a range of time that its streams keep, and writes its results to a table. The flow
    /// that runs, its state, its outputs and its counters stay as they are. Returns when the run has begun.
    ///
    /// # Errors
    /// `flow.unknown`; `flow.bounded-own-output` when the flow itself writes to the table; `flow.bounded-gone` when the
    /// range begins before what is kept; `flow.bounded-many`; what the compiler says when the results do not fit the
    /// table.
    pub async fn run_bounded(
        &self,
        flow: &str,
        range: BoundedRange,
        into: &str,
        by: &str,
    ) -> Result<BoundedStatus, Error> {
        let project = self.project().await;
        let Some(parsed) = project.flows.get(flow) else {
            return Err(Error::new(Class::Permanent, "flow.unknown")
                .with("flow", busbar_event::quote(flow)));
        };
        let within = range.from.unwrap_or(i64::MIN)..range.to.unwrap_or(i64::MAX);
        if within.is_empty() {
            return Err(Error::new(Class::Permanent, "flow.bounded-empty"));
        }
        let (runtime, parsed, into) = (self.clone(), parsed.clone(), into.to_owned());
        let name = flow.to_owned();
        let prepared =
            blocking(move || runtime.prepare_bounded(&project, &name, &parsed, within, into));
        let prepared = prepared.await?;
        let clock = Arc::clone(self.inner.options.bus.clock());
        let offsets = prepared.inputs.iter().map(|read| &read.offsets);
        let status = BoundedStatus {
            id: self.inner.runs.fetch_add(1, Ordering::Relaxed),
            flow: flow.to_owned(),
            into: prepared.table.name().to_owned(),
            range,
            by: by.to_owned(),
            state: BoundedState::Running,
            error: None,
            offsets: offsets.map(|offsets| offsets.end - offsets.start).sum(),
            read: 0,
            events: 0,
            rows: 0,
            late: 0,
            dead: 0,
            cause: None,
            missed: 0,
            started_micros: clock.now_micros(),
            ended_micros: None,
        };
        let run = self.inner.bounded.add(status.clone())?;
        let folder = self
            .inner
            .options
            .state_dir
            .join(format!("bounded-{}", status.id));
        let started = Arc::clone(&run);
        // A thread of its own: it computes and waits for the disk all the time.
        let thread = std::thread::Builder::new().name("bounded".into());
        let spawned = thread.spawn(move || {
            give_way();
            let ended = prepared.run(&started, folder);
            let mut status = started.status.lock();
            status.ended_micros = Some(clock.now_micros());
            (status.state, status.error) = match ended {
                Ok(()) => (BoundedState::Done, None),
                Err(error) if error.code() == CANCELLED => (BoundedState::Cancelled, None),
                Err(error) => (BoundedState::Failed, Some(error)),
            };
        });
        if let Err(error) = spawned {
            let error = Error::new(Class::Transient, "flow.worker").caused_by(error);
            let mut status = run.status.lock();
            (status.state, status.error) = (BoundedState::Failed, Some(error.clone()));
            return Err(error);
        }
        Ok(status)
    }

    /// The runs over ranges of time that are under way, and the last that have ended, the newest first.
    pub fn bounded_runs(&self) -> Vec<BoundedStatus> {
        let runs = self.inner.bounded.0.lock();
        let runs = runs.iter().rev();
        runs.map(|run| run.status.lock().clone()).collect()
    }

    /// One of them.
    ///
    /// # Errors
    /// `flow.bounded-unknown`
    pub fn bounded_run(&self, id: u64) -> Result<BoundedStatus, Error> {
        let run = self.inner.bounded.find(id)?;
        let status = run.status.lock().clone();
        Ok(status)
    }

    /// Ends a run. The rows that it has written stay in the table.
    ///
    /// # Errors
    /// `flow.bounded-unknown`
    pub fn cancel_bounded(&self, id: u64) -> Result<BoundedStatus, Error> {
        let run = self.inner.bounded.find(id)?;
        run.cancel.store(true, Ordering::Relaxed);
        let status = run.status.lock().clone();
        Ok(status)
    }

    /// Everything that a run needs. May block on the disk.
    fn prepare_bounded(
        &self,
        project: &Project,
        name: &str,
        parsed: &Parsed<FlowSpec>,
        within: Range<i64>,
        into: String,
    ) -> Result<PreparedRun, Error> {
        let options = &self.inner.options;
        let own = |output: &OutputSpec| output.target == OutputTarget::Table(into.clone());
        if parsed.spec.to.iter().any(own) {
            return Err(Error::new(Class::Permanent, "flow.bounded-own-output")
                .with("flow", name)
                .with("table", &into));
        }
        let table = options.tables.table(&into).ok_or_else(|| {
            Error::new(Class::Permanent, "catalog.unknown-table")
                .with("name", busbar_event::quote(&into))
        })?;
        let mut spec = parsed.spec.clone();
        spec.lead_everywhere();
        spec.to = vec![OutputSpec {
            name: None,
            target: OutputTarget::Table(into),
            key: None,
            retain: false,
            change: None,
        }];
        let world = World::of_bus(&options.bus, &options.tables, project, &options.connectors)?;
        let plan = match compile(name, &spec, &parsed.source, &world) {
            Ok(plan) => Arc::new(plan),
            Err(NoPlan::Waiting(stream)) => {
                return Err(Error::new(Class::Transient, "flow.waiting").with("streams", stream));
            }
            Err(NoPlan::Wrong(wrong)) => {
                let first = wrong.into_iter().next();
                let error = first.map(|first| first.error().clone());
                return Err(error.unwrap_or_else(|| Error::new(Class::Permanent, "flow.worker")));
            }
        };
        let inputs = self.bounded_inputs(name, &plan, &within)?;
        for input in plan.inputs.iter().filter(|input| !input.delivers()) {
            for output in &plan.outputs {
                if let Some(shape) = input.shape(output) {
                    table.evolve(&table_schema(input.schema(output), &shape.columns))?;
                }
            }
        }
        Ok(PreparedRun {
            plan,
            within,
            inputs,
            table,
        })
    }

    fn bounded_inputs(
        &self,
        name: &str,
        plan: &Plan,
        within: &Range<i64>,
    ) -> Result<Vec<BoundedInput>, Error> {
        let bus = &self.inner.options.bus;
        let known_as = self.inner.checkpoints.flow(name)?.known_as;
        let known_as = known_as.as_deref().unwrap_or(name);
        let mut inputs = Vec::new();
        for (at, input) in plan.inputs.iter().enumerate() {
            let Some(stream) = bus.stream(&input.stream).filter(|_| input.stage == 0) else {
                continue;
            };
            for partition in stream.partitions().iter() {
                let from = match input.versions {
                    true => i64::MIN,
                    false => within.start,
                };
                let start = partition.offset_at_time(from)?;
                check_kept(partition, start, from)?;
                let mut ticks = VecDeque::new();
                if input.timed {
                    let key = TaskKey {
                        stream: input.stream.clone(),
                        partition: partition.number(),
                        lane: MAIN.into(),
                    };
                    let recorded = ticks_stream(bus, known_as)?;
                    ticks = recorded_ticks(&recorded.partitions()[0], &key, start, 0, None)?;
                }
                inputs.push(BoundedInput {
                    input: at,
                    offsets: start..partition.end().max(start),
                    partition: Arc::clone(partition),
                    ticks,
                });
            }
        }
        Ok(inputs)
    }
}

/// Refuses a range that begins before the oldest event that is kept, where older ones are gone.
fn check_kept(partition: &Arc<StreamPartition>, start: u64, from: i64) -> Result<(), Error> {
    if from == i64::MIN || partition.start() == 0 || start > partition.start() {
        return Ok(());
    }
    let mut cursor = Cursor::new(Arc::clone(partition), partition.start());
    let oldest = loop {
        match cursor.try_next()? {
            Some(Item::Chunk(chunk)) => break chunk.batch.times().first().copied(),
            Some(Item::Gap(_)) => {}
            None => break None,
        }
    };
    match oldest {
        Some(oldest) if oldest <= from => Ok(()),
        oldest => {
            let oldest = oldest.map_or_else(String::new, time::text);
            Err(Error::new(Class::Permanent, "flow.bounded-gone")
                .with("stream", partition.stream())
                .with("from", time::text(from))
                .with("oldest", oldest))
        }
    }
}

/// A run that can begin.
struct PreparedRun {
    plan: Arc<Plan>,
    within: Range<i64>,
    inputs: Vec<BoundedInput>,
    table: Arc<dyn Table>,
}

impl PreparedRun {
    fn run(self, run: &BoundedRun, folder: PathBuf) -> Result<(), Error> {
        // Steps may wait for timers and for threads that block.
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::new(Class::Transient, "flow.worker").caused_by(e))?;
        let mut sink = TableSink {
            table: self.table,
            run,
        };
        let bounded = Bounded::new(self.plan, self.within, self.inputs, &folder, &mut sink)?;
        let counts = tokio.block_on(bounded.run())?;
        run.show(&counts);
        Ok(())
    }
}

impl BoundedRun {
    fn show(&self, counts: &BoundedCounts) {
        let mut status = self.status.lock();
        status.read = counts.read;
        status.events = counts.events;
        status.rows = counts.rows;
        status.late = counts.late;
        status.dead = counts.dead;
        status.missed = counts.missed;
        if status.cause.is_none() {
            status.cause.clone_from(&counts.cause);
        }
    }
}

/// Why a run ended that was cancelled.
const CANCELLED: &str = "flow.bounded-cancelled";

struct TableSink<'a> {
    table: Arc<dyn Table>,
    run: &'a BoundedRun,
}

impl BoundedSink for TableSink<'_> {
    fn write(&mut self, rows: &RecordBatch) -> Result<Vec<Error>, Error> {
        let applied = self.table.apply(rows, None)?;
        let rejected = applied.rejected.into_iter();
        Ok(rejected.map(|rejected| rejected.cause).collect())
    }

    fn progress(&mut self, counts: &BoundedCounts) -> Result<(), Error> {
        self.run.show(counts);
        match self.run.cancel.load(Ordering::Relaxed) {
            true => Err(Error::new(Class::Permanent, CANCELLED)),
            false => Ok(()),
        }
    }
}

/// Lets every other thread of the node go first.
fn give_way() {
    // Of the calling thread alone; the threads that it starts have the same.
    // SAFETY: it takes numbers and touches no memory.
    let refused = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, BOUNDED_NICE) } != 0;
    if refused {
        let error = std::io::Error::last_os_error();
        tracing::debug!(%error, "a run over a range of time has the priority of other threads");
    }
}
