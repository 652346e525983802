//! Which events a result of a flow with state was made of.
//!
//! Nothing is recorded for it, so that it costs nothing while nobody asks. What comes out of a flow depends on its input alone,
//! so the flow is run again in memory over the events around the one that is traced, with state of its own, and then without
//! that event: the results that are not there without it may be made of it. Then as many of the nearest events are taken as these
//! results need, and of them, in halves, those are left out that make no difference. Of the events that make a difference for a
//! result, the last ones that alone give it are those that it was made of: an event can change the groups of all that come later,
//! and then makes a difference for results that it is no part of. Events that are left out move event time all the same, so that
//! windows close where they did. The events are read from the log, and into rows, once for all runs.
//!
//! It holds for every step and needs to know none. An event that a result is the same without, such as one below a window's
//! maximum, is no part of it.

mod rerun;
mod results;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use busbar_bus::{Bus, StreamPartition};
use busbar_catalog::Project;
use busbar_event::{Batch, Class, Error};
use serde_json::Value as Json;

use self::rerun::{Rerun, RunEvent};
use super::Runtime;
use super::trace::{EventAt, Retraced, Sought};
use crate::blocking::blocking;
use crate::bounded::{BoundedInput, KeptEvents};
use crate::checkpoint::TaskKey;
use crate::compile::{Plan, Target};
use crate::limits::{LINEAGE_BYTES_MAX, LINEAGE_EVENTS_MAX, LINEAGE_RESULTS_MAX};
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
    /// How often the flow was run.
    pub runs: usize,
    /// Events that it computed, in all runs together.
    pub computed: u64,
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

impl Runtime {
    /// The results that an event is part of, of a flow of a version of the project; none for a flow without state, and for one
    /// that cannot be run again: it asks a service, or a plug-in has changed.
    ///
    /// # Errors
    /// As [`Runtime::trace`]; `flow.lineage-large` where there are too many results, `flow.lineage-bytes` where the events are
    /// too large.
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
        let (inputs, whole, kept) = self.kept(bus, known_as, event)?;
        let mut lineage = Lineage {
            events: kept.events,
            whole: whole && !kept.has_gap,
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
            kept,
            folder,
            runs: 0,
            computed: 0,
        };
        let all = again.run(None)?;
        let without = again.run_without(traced)?;
        let mut wanted = all.missing_in(&without);
        let beyond = wanted.len().saturating_sub(LINEAGE_RESULTS_MAX);
        wanted.truncate(LINEAGE_RESULTS_MAX);
        let found = match wanted.is_empty() {
            true => Vec::new(),
            false => again.search(traced, &all, &wanted)?,
        };
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
                result.inputs.extend(again.event(place));
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
        (lineage.runs, lineage.computed) = (again.runs, again.computed);
        Ok(lineage)
    }

    /// What runs read, whether it begins where the streams begin, and the events: fewer where all would be too large.
    fn kept(
        &self,
        bus: &Bus,
        known_as: &str,
        event: &EventAt,
    ) -> Result<(Vec<BoundedInput>, bool, KeptEvents), Error> {
        let mut events_max = LINEAGE_EVENTS_MAX;
        while events_max > 0 {
            let (inputs, whole) = inputs(bus, &self.plan, known_as, event, events_max)?;
            if let Some(kept) = KeptEvents::read(&self.plan, &inputs)? {
                return Ok((inputs, whole, kept));
            }
            events_max /= 2;
        }
        Err(Error::new(Class::Permanent, "flow.lineage-bytes")
            .with("max_mib", LINEAGE_BYTES_MAX >> 20))
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

/// What a run reads of the partitions that the flow reads: about so many events at most, as many before the traced one as behind
/// it. Whether it begins where the streams begin.
fn inputs(
    bus: &Bus,
    plan: &Plan,
    known_as: &str,
    event: &EventAt,
    events_max: u64,
) -> Result<(Vec<BoundedInput>, bool), Error> {
    let mut partitions: Vec<(usize, Arc<StreamPartition>)> = Vec::new();
    for (at, input) in plan.inputs.iter().enumerate() {
        let Some(stream) = bus.stream(&input.stream).filter(|_| input.stage == 0) else {
            continue;
        };
        let all = stream.partitions();
        partitions.extend(all.iter().map(|partition| (at, Arc::clone(partition))));
    }
    let half = (events_max / 2 / partitions.len().max(1) as u64).max(1);
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
