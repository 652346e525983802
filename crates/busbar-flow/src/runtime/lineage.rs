//! Which events a result of a flow with state was made of.
//!
//! Nothing is recorded for it, so that it costs nothing while nobody asks. What comes out of a flow depends on its input alone,
//! so the flow is run again in memory over the events around the one that is traced, with state of its own, and then without
//! that event: the results that are not there without it may be made of it. Then other events are left out, many at a time and
//! those in halves that make a difference, the nearest first. Of the events that make a difference for a result, the last ones
//! that alone give it are those that it was made of: an event can change the groups of all that come later, and then makes a
//! difference for results that it is no part of. Events that are left out move event time all the same, so that windows close
//! where they did.
//!
//! It holds for every step and needs to know none. An event that a result is the same without, such as one below a window's
//! maximum, is no part of it.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use busbar_bus::{Bus, StreamPartition};
use busbar_catalog::Project;
use busbar_event::{Batch, Class, Error};
use futures::executor::block_on;
use serde_json::Value as Json;

use super::Runtime;
use super::trace::{EventAt, Retraced, Sought};
use crate::blocking::blocking;
use crate::bounded::{Bounded, BoundedCounts, BoundedInput, BoundedSink, RunEvents};
use crate::checkpoint::TaskKey;
use crate::compile::{Plan, Target};
use crate::limits::{
    LINEAGE_EVENTS_MAX, LINEAGE_INPUTS_MAX, LINEAGE_RESULTS_MAX, LINEAGE_RUN_RESULTS_MAX,
    LINEAGE_RUNS_MAX, TRACE_READ_BYTES,
};
use crate::outgoing::Outgoing;
use crate::shown::objects;
use crate::task::{MAIN, recorded_ticks, ticks_stream_name};

/// The results that an event is part of, in a flow with state.
#[derive(Default)]
pub struct Lineage {
    /// The results, in the order in which they came, [`LINEAGE_RESULTS_MAX`] at most.
    pub results: Vec<LineageResult>,
    /// How many more there may be.
    pub more: usize,
    /// Events that the flow was run over again.
    pub events: u64,
    /// Whether these were all events before it: else what was kept of older ones is missing.
    pub whole: bool,
    /// Events of other streams that were read to find results.
    pub searched: u64,
}

/// A result, and the events that it was made of.
pub struct LineageResult {
    /// The id of the output in the flow's graph: `to:0`.
    pub output: String,
    /// The event that the output takes, for a stream, a topic or a connection, and the place where the log has it.
    pub event: Option<(Batch, Option<EventAt>)>,
    /// The row that it takes, for a table.
    pub row: Option<Json>,
    /// Behind the last event that was read it was still in the flow's state.
    pub open: bool,
    /// The events that it was made of, in the order of their times: they alone give it, unless there are more.
    pub inputs: Vec<EventAt>,
    /// Further events that may be part of it: there are too many to look at each.
    pub more: u64,
}

/// An event that a run reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RunEvent {
    /// In microseconds since 1970.
    time: i64,
    /// The input of the plan.
    input: usize,
    partition: u16,
    offset: u64,
}

impl Runtime {
    /// The results that an event is part of, of a flow of a version of the project; none for a flow without state, and for one
    /// that cannot be run again: it asks a service, or a plug-in has changed.
    ///
    /// # Errors
    /// As [`Runtime::trace`]; `flow.lineage-large` where there are too many results.
    pub async fn lineage(
        &self,
        project: &Project,
        flow: &str,
        event: &EventAt,
    ) -> Result<Option<Lineage>, Error> {
        let retraced = self.retrace(project, flow, event).await?;
        if !retraced.plan.timed || !retraced.is_repeatable {
            return Ok(None);
        }
        let known_as = self.inner.checkpoints.flow(flow)?.known_as;
        let known_as = known_as.unwrap_or_else(|| flow.to_owned());
        let (bus, event) = (self.inner.options.bus.clone(), event.clone());
        let run = self.inner.runs.fetch_add(1, Ordering::Relaxed);
        let folder = self.inner.options.state_dir.join(format!("lineage-{run}"));
        blocking(move || retraced.lineage(&bus, &known_as, &event, folder).map(Some)).await
    }
}

impl Retraced {
    fn lineage(
        &self,
        bus: &Bus,
        known_as: &str,
        event: &EventAt,
        folder: PathBuf,
    ) -> Result<Lineage, Error> {
        let (inputs, whole) = inputs(bus, &self.plan, known_as, event)?;
        let read = inputs.iter().map(|read| &read.offsets);
        let mut lineage = Lineage {
            events: read.map(|offsets| offsets.end - offsets.start).sum(),
            whole,
            ..Lineage::default()
        };
        let traced = RunEvent {
            time: event.event.times()[0],
            input: self.input,
            partition: event.partition,
            offset: event.offset,
        };
        let mut again = Rerun {
            plan: Arc::clone(&self.plan),
            inputs,
            folder,
            left: LINEAGE_RUNS_MAX,
        };
        let all = again.run(&[], false)?;
        let without = again.run(&[traced], false)?;
        let mut wanted = all.missing_in(&without);
        let beyond = wanted.len().saturating_sub(LINEAGE_RESULTS_MAX);
        wanted.truncate(LINEAGE_RESULTS_MAX);
        if wanted.is_empty() {
            return Ok(lineage);
        }
        let found = again.search(traced, &all, &wanted)?;
        let (mut its, mut perhaps) = (Vec::new(), Vec::new());
        for (at, (mut events, more)) in wanted.into_iter().zip(found) {
            let made = &all.results[at];
            events.push(traced);
            events.sort_unstable();
            match again.enough(&events, made)? {
                Some(enough) if enough.contains(&traced) => its.push((made, enough, 0)),
                // It only changed which events come together.
                Some(_) => {}
                None => perhaps.push((made, events, more)),
            }
        }
        lineage.more = beyond + perhaps.len();
        if its.is_empty() {
            // Its group is too large to look at each event.
            lineage.more = beyond;
            its = perhaps;
        }
        for (made, events, more) in its {
            let mut result = LineageResult {
                output: format!("to:{}", self.plan.outputs[made.output].of),
                event: made.event.clone().map(|event| (event, None)),
                row: made.row.clone(),
                open: made.open,
                inputs: Vec::with_capacity(events.len()),
                more,
            };
            for place in events {
                result.inputs.extend(again.event(place)?);
            }
            if !made.open
                && let Some((made_event, place)) = &mut result.event
            {
                let sought = self.sought(bus, made.output, made_event, event, known_as);
                if let Some(sought) = sought {
                    *place = sought.find(&mut lineage.searched)?;
                }
            }
            lineage.results.push(result);
        }
        Ok(lineage)
    }

    /// What to look for in the log for an event that an output was given.
    fn sought<'a>(
        &self,
        bus: &Bus,
        output: usize,
        made: &'a Batch,
        event: &EventAt,
        known_as: &str,
    ) -> Option<Sought<'a>> {
        let plan = &self.plan.outputs[output];
        if matches!(plan.target, Target::Connection(_)) {
            return None;
        }
        let input = self.plan.inputs.iter().find(|input| {
            input.exchange.is_none() && !input.delivers() && input.shape(plan).is_some()
        })?;
        let name = input.output_name(plan);
        let sought = Sought::of(bus, plan, made, event, known_as, &name);
        Some(match input.stage {
            0 => sought,
            _ => sought.of_any_task(),
        })
    }
}

/// What a run reads of the partitions that the flow reads: as many events before the traced one as behind it. Whether it begins
/// where the streams begin.
fn inputs(
    bus: &Bus,
    plan: &Plan,
    known_as: &str,
    event: &EventAt,
) -> Result<(Vec<BoundedInput>, bool), Error> {
    let mut partitions: Vec<(usize, Arc<StreamPartition>)> = Vec::new();
    for (at, input) in plan.inputs.iter().enumerate() {
        let Some(stream) = bus.stream(&input.stream).filter(|_| input.stage == 0) else {
            continue;
        };
        let all = stream.partitions();
        partitions.extend(all.iter().map(|partition| (at, Arc::clone(partition))));
    }
    let half = (LINEAGE_EVENTS_MAX / 2 / partitions.len().max(1) as u64).max(1);
    let ticks = bus.stream(&ticks_stream_name(known_as));
    let mut whole = true;
    let mut inputs = Vec::with_capacity(partitions.len());
    for (input, partition) in partitions {
        let own = partition.stream() == event.stream && partition.number() == event.partition;
        let middle = match own {
            true => event.offset,
            false => partition.offset_at_time(event.event.times()[0])?,
        };
        let start = middle.saturating_sub(half).max(partition.start());
        let end = (middle + half).min(partition.end()).max(start);
        whole &= start == 0;
        let mut recorded = VecDeque::new();
        if let Some(ticks) = ticks.as_ref().filter(|_| plan.inputs[input].timed) {
            let key = TaskKey {
                stream: partition.stream().to_owned(),
                partition: partition.number(),
                lane: MAIN.into(),
            };
            recorded = recorded_ticks(&ticks.partitions()[0], &key, start, 0, None)?;
        }
        inputs.push(BoundedInput {
            input,
            partition,
            offsets: start..end,
            ticks: recorded,
        });
    }
    Ok((inputs, whole))
}

/// Runs a flow over the same events again and again.
struct Rerun {
    plan: Arc<Plan>,
    inputs: Vec<BoundedInput>,
    /// Where state goes that does not fit into memory.
    folder: PathBuf,
    /// How often it may run.
    left: usize,
}

impl Rerun {
    /// The results of some events alone, or with `false` of all others.
    fn run(&mut self, events: &[RunEvent], chosen: bool) -> Result<RunResults, Error> {
        self.left = self.left.saturating_sub(1);
        let mut picked = RunEvents::new();
        for event in events {
            let its = picked.entry((event.input, event.partition)).or_default();
            its.insert(event.offset);
        }
        let mut results = RunResults::default();
        let plan = Arc::clone(&self.plan);
        let all = i64::MIN..i64::MAX;
        let run = Bounded::new(plan, all, self.inputs.clone(), &self.folder, &mut results)?;
        block_on(run.trial_of(picked, chosen).run())?;
        Ok(results)
    }

    /// For each of the results, those of the other events that it is not there without, and how many were not looked at.
    fn search(
        &mut self,
        traced: RunEvent,
        all: &RunResults,
        wanted: &[usize],
    ) -> Result<Vec<(Vec<RunEvent>, u64)>, Error> {
        let mut found = vec![(Vec::new(), 0); wanted.len()];
        let others = self.others(traced)?;
        let mut open = vec![&others[..]];
        while let Some(part) = open.pop() {
            let is_full = |(events, _): &(Vec<_>, u64)| events.len() + 1 >= LINEAGE_INPUTS_MAX;
            // The other half is for knowing which of them are enough.
            if part.is_empty() || self.left <= LINEAGE_RUNS_MAX / 2 || found.iter().all(is_full) {
                let more = part.len() as u64;
                found.iter_mut().for_each(|found| found.1 += more);
                continue;
            }
            let without = self.run(part, false)?;
            let lacks = |at: &usize| {
                let wanted = &all.results[*at];
                without.count(wanted) < all.count(wanted)
            };
            let lacks: Vec<bool> = wanted.iter().map(lacks).collect();
            match part {
                _ if !lacks.contains(&true) => {}
                [event] => {
                    let its = found.iter_mut().zip(lacks);
                    for (found, _) in its.filter(|(_, lacks)| *lacks) {
                        match is_full(found) {
                            true => found.1 += 1,
                            false => found.0.push(*event),
                        }
                    }
                }
                _ => {
                    // The first half has the nearer ones and comes first.
                    let (near, far) = part.split_at(part.len() / 2);
                    open.extend([far, near]);
                }
            }
        }
        Ok(found)
    }

    /// The last of some events, in the order of their times, that alone give a result; none where all of them do not, or where
    /// that would take too many runs.
    fn enough(
        &mut self,
        events: &[RunEvent],
        result: &RunResult,
    ) -> Result<Option<Vec<RunEvent>>, Error> {
        for from in (0..events.len()).rev() {
            if self.left == 0 {
                return Ok(None);
            }
            let last = &events[from..];
            if self.run(last, true)?.count(result) > 0 {
                return Ok(Some(last.to_vec()));
            }
        }
        Ok(None)
    }

    /// All events but the traced one, the nearest in time first.
    fn others(&self, traced: RunEvent) -> Result<Vec<RunEvent>, Error> {
        let mut others: Vec<RunEvent> = Vec::new();
        for read in &self.inputs {
            let mut at = read.offsets.start;
            while at < read.offsets.end {
                let chunks = read.partition.read(at, TRACE_READ_BYTES)?;
                if chunks.is_empty() {
                    break;
                }
                for chunk in chunks {
                    let offsets = chunk.base.max(at)..chunk.end().min(read.offsets.end);
                    let events = offsets.map(|offset| RunEvent {
                        time: chunk.batch.times()[(offset - chunk.base) as usize],
                        input: read.input,
                        partition: read.partition.number(),
                        offset,
                    });
                    others.extend(events.filter(|event| *event != traced));
                    at = at.max(chunk.end());
                }
            }
        }
        let far = |event: &RunEvent| {
            let offsets = event.offset.abs_diff(traced.offset);
            (event.time.abs_diff(traced.time), offsets)
        };
        others.sort_unstable_by_key(|event| (far(event), *event));
        Ok(others)
    }

    fn event(&self, event: RunEvent) -> Result<Option<EventAt>, Error> {
        let (offset, partition) = (event.offset, event.partition);
        let is_its = |read: &&BoundedInput| {
            read.input == event.input && read.partition.number() == partition
        };
        let Some(read) = self.inputs.iter().find(is_its) else {
            return Ok(None);
        };
        let chunks = read.partition.read(offset, TRACE_READ_BYTES)?;
        let mut chunks = chunks.into_iter();
        let chunk = chunks.find(|chunk| (chunk.base..chunk.end()).contains(&offset));
        Ok(chunk.map(|chunk| EventAt {
            stream: read.partition.stream().to_owned(),
            partition,
            offset,
            event: chunk.batch.slice((offset - chunk.base) as usize, 1),
        }))
    }
}

/// What outputs were given in a run.
#[derive(Default)]
struct RunResults {
    results: Vec<RunResult>,
    /// How often each is there, by output, content and whether it was open.
    counts: BTreeMap<ResultKey, usize>,
    is_ending: bool,
}

type ResultKey = (usize, bool, Vec<u8>);

struct RunResult {
    /// Its output, by its number in the plan.
    output: usize,
    content: Vec<u8>,
    event: Option<Batch>,
    row: Option<Json>,
    open: bool,
}

impl RunResults {
    fn count(&self, result: &RunResult) -> usize {
        let key = (result.output, result.open, result.content.clone());
        self.counts.get(&key).copied().unwrap_or(0)
    }

    /// The results that are not there in another run, by their places; of equal ones the last.
    fn missing_in(&self, other: &RunResults) -> Vec<usize> {
        let mut gone: BTreeMap<(usize, bool, &[u8]), usize> = BTreeMap::new();
        let mut missing = Vec::new();
        for (at, result) in self.results.iter().enumerate().rev() {
            let lacks = self.count(result).saturating_sub(other.count(result));
            let key = (result.output, result.open, &result.content[..]);
            let gone = gone.entry(key).or_default();
            if *gone < lacks {
                *gone += 1;
                missing.push(at);
            }
        }
        missing.reverse();
        missing
    }

    fn add(&mut self, output: usize, content: Vec<u8>, event: Option<Batch>, row: Option<Json>) {
        let key = (output, self.is_ending, content.clone());
        *self.counts.entry(key).or_default() += 1;
        self.results.push(RunResult {
            output,
            content,
            event,
            row,
            open: self.is_ending,
        });
    }

    fn add_events(&mut self, output: usize, events: &Batch) {
        let payloads = events.payloads();
        for row in 0..events.rows() {
            let key = events.key(row).unwrap_or_default();
            let envelope = (events.times()[row], events.topic(row), key);
            let mut content = format!("{envelope:?}").into_bytes();
            content.extend_from_slice(payloads.value(row));
            self.add(output, content, Some(events.slice(row, 1)), None);
        }
    }

    fn add_rows(&mut self, output: usize, rows: &RecordBatch) -> Result<(), Error> {
        for row in objects(rows)? {
            let content = row.to_string().into_bytes();
            self.add(output, content, None, Some(row));
        }
        Ok(())
    }
}

impl BoundedSink for RunResults {
    fn write(&mut self, _rows: &RecordBatch) -> Result<Vec<Error>, Error> {
        Ok(Vec::new())
    }

    fn progress(&mut self, _counts: &BoundedCounts) -> Result<(), Error> {
        Ok(())
    }

    fn takes(&mut self, output: usize, outgoing: &Outgoing) -> Result<bool, Error> {
        match outgoing {
            Outgoing::Events(events) | Outgoing::Delivery { events, .. } => {
                self.add_events(output, events);
            }
            Outgoing::Rows(rows) => self.add_rows(output, rows)?,
            Outgoing::Parts(_) => {}
        }
        match self.results.len() > LINEAGE_RUN_RESULTS_MAX {
            true => Err(Error::new(Class::Permanent, "flow.lineage-large")
                .with("max", LINEAGE_RUN_RESULTS_MAX)),
            false => Ok(true),
        }
    }

    fn ending(&mut self) {
        self.is_ending = true;
    }
}
