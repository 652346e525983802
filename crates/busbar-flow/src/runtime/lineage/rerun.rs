//! A flow that is run over the same events again and again, with ever fewer of them.

use std::path::PathBuf;
use std::sync::Arc;

use busbar_event::Error;
use futures::executor::block_on;

use super::results::{RunResult, RunResults};
use crate::bounded::{Bounded, BoundedInput, KeptEvents, RunEvents};
use crate::compile::Plan;
use crate::limits::{LINEAGE_INPUTS_MAX, LINEAGE_NEAREST, LINEAGE_RUNS_MAX};
use crate::runtime::trace::EventAt;

/// An event that a run reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RunEvent {
    /// In microseconds since 1970.
    pub time: i64,
    /// The input of the plan.
    pub input: usize,
    pub partition: u16,
    pub offset: u64,
}

impl RunEvent {
    fn place(&self) -> (usize, u16) {
        (self.input, self.partition)
    }
}

/// Runs a flow over events that were read once.
pub(super) struct Rerun {
    pub plan: Arc<Plan>,
    pub inputs: Vec<BoundedInput>,
    pub kept: KeptEvents,
    /// Where state goes that does not fit into memory.
    pub folder: PathBuf,
    /// How often it has run.
    pub runs: usize,
    /// Events that became rows, in all runs together.
    pub computed: u64,
}

/// What is looked for, and what is known of it.
struct Search<'a> {
    all: &'a RunResults,
    /// Results, by their places in `all`.
    wanted: &'a [usize],
    /// The events that are not left out.
    events: RunEvents,
    /// For each result those that it is not there without, and how many were not looked at.
    found: Vec<(Vec<RunEvent>, u64)>,
}

impl Rerun {
    /// The results of these events alone, or of all. The others move event time all the same.
    pub fn run(&mut self, events: Option<&RunEvents>) -> Result<RunResults, Error> {
        self.runs += 1;
        let mut results = RunResults::default();
        let (plan, inputs) = (Arc::clone(&self.plan), self.inputs.clone());
        let all = i64::MIN..i64::MAX;
        let run = Bounded::new(plan, all, inputs, &self.folder, &mut results)?;
        let counts = block_on(run.trial_of(&self.kept, events).run())?;
        self.computed += counts.events;
        Ok(results)
    }

    /// How often it may still run.
    fn left(&self) -> usize {
        LINEAGE_RUNS_MAX.saturating_sub(self.runs)
    }

    /// The results of all events but one.
    pub fn run_without(&mut self, event: RunEvent) -> Result<RunResults, Error> {
        let mut events = self.events();
        leave_out(&mut events, &[event]);
        self.run(Some(&events))
    }

    /// For each of the results, those of the other events that it is not there without, and how many were not looked at. Events
    /// that make no difference are left out from then on, so that each run has less to do, and of events that stand in for one
    /// another the nearest stay.
    pub fn search(
        &mut self,
        traced: RunEvent,
        all: &RunResults,
        wanted: &[usize],
    ) -> Result<Vec<(Vec<RunEvent>, u64)>, Error> {
        let others = self.others(traced);
        let mut search = Search {
            all,
            wanted,
            events: chosen(&[traced]),
            found: vec![(Vec::new(), 0); wanted.len()],
        };
        let nearest = self.nearest(&others, &search)?;
        let nearest = &others[..nearest];
        add(&mut search.events, nearest);
        self.narrow(nearest, None, &mut search)?;
        Ok(search.found)
    }

    /// How many of the others, which are the nearest first, are enough for all of the results.
    fn nearest(&mut self, others: &[RunEvent], search: &Search<'_>) -> Result<usize, Error> {
        let (mut least, mut enough) = (0, 0);
        while enough < others.len() && !self.is_enough(&others[..enough], search)? {
            least = enough + 1;
            enough = (2 * enough).max(LINEAGE_NEAREST).min(others.len());
        }
        while least < enough {
            let middle = least + (enough - least) / 2;
            match self.is_enough(&others[..middle], search)? {
                true => enough = middle,
                false => least = middle + 1,
            }
        }
        Ok(enough)
    }

    /// Whether all results are there with these of the others alone.
    fn is_enough(&mut self, others: &[RunEvent], search: &Search<'_>) -> Result<bool, Error> {
        let mut events = search.events.clone();
        add(&mut events, others);
        let results = self.run(Some(&events))?;
        Ok(!search.lacking(&results).contains(&true))
    }

    /// Looks which of some events, the nearest first, the results are not there without; `lacking` where it is known which
    /// are missing without all of them. Whether all of them make no difference.
    fn narrow(
        &mut self,
        part: &[RunEvent],
        lacking: Option<Vec<bool>>,
        search: &mut Search<'_>,
    ) -> Result<bool, Error> {
        if part.is_empty() {
            return Ok(true);
        }
        let lacking = match lacking {
            Some(lacking) => lacking,
            // The other half of the runs is for knowing which of them are enough.
            None if search.is_full() || self.left() <= LINEAGE_RUNS_MAX / 2 => {
                let more = part.len() as u64;
                search.found.iter_mut().for_each(|found| found.1 += more);
                return Ok(false);
            }
            None => {
                let mut events = search.events.clone();
                leave_out(&mut events, part);
                search.lacking(&self.run(Some(&events))?)
            }
        };
        if !lacking.contains(&true) {
            leave_out(&mut search.events, part);
            return Ok(true);
        }
        if let [event] = part {
            search.add(*event, &lacking);
            return Ok(false);
        }
        let (near, far) = part.split_at(part.len() / 2);
        let is_without = self.narrow(near, None, search)?;
        // Without the nearer half, the other half is all that makes the difference.
        self.narrow(far, is_without.then_some(lacking), search)?;
        Ok(false)
    }

    /// The last of some events, in the order of their times, that alone give a result; none where all of them do not, or where
    /// that would take too many runs.
    pub fn enough(
        &mut self,
        events: &[RunEvent],
        result: &RunResult,
    ) -> Result<Option<Vec<RunEvent>>, Error> {
        for from in (0..events.len()).rev() {
            if self.left() == 0 {
                return Ok(None);
            }
            let last = &events[from..];
            if self.run(Some(&chosen(last)))?.count(result) > 0 {
                return Ok(Some(last.to_vec()));
            }
        }
        Ok(None)
    }

    /// All events.
    fn events(&self) -> RunEvents {
        let mut events = RunEvents::new();
        for (place, rows) in self.kept.iter() {
            let offsets = rows.base..rows.base + rows.events.rows() as u64;
            events.entry(place).or_default().extend(offsets);
        }
        events
    }

    /// All events but the traced one, the nearest in time first.
    fn others(&self, traced: RunEvent) -> Vec<RunEvent> {
        let mut others: Vec<RunEvent> = Vec::new();
        for ((input, partition), rows) in self.kept.iter() {
            let times = rows.events.times().iter();
            let events = (rows.base..).zip(times).map(|(offset, time)| RunEvent {
                time: *time,
                input,
                partition,
                offset,
            });
            others.extend(events.filter(|event| *event != traced));
        }
        let far = |event: &RunEvent| {
            let offsets = event.offset.abs_diff(traced.offset);
            (event.time.abs_diff(traced.time), offsets)
        };
        others.sort_unstable_by_key(|event| (far(event), *event));
        others
    }

    /// The event itself.
    pub fn event(&self, event: RunEvent) -> Option<EventAt> {
        let input = self.plan.inputs.get(event.input)?;
        Some(EventAt {
            stream: input.stream.to_string(),
            partition: event.partition,
            offset: event.offset,
            event: self.kept.event(event.place(), event.offset)?,
        })
    }
}

impl Search<'_> {
    /// Which of the results a run lacks.
    fn lacking(&self, without: &RunResults) -> Vec<bool> {
        let lacks = |at: &usize| {
            let wanted = &self.all.results[*at];
            without.count(wanted) < self.all.count(wanted)
        };
        self.wanted.iter().map(lacks).collect()
    }

    /// Adds an event to the results that are not there without it.
    fn add(&mut self, event: RunEvent, lacking: &[bool]) {
        let its = self.found.iter_mut().zip(lacking);
        for (found, _) in its.filter(|(_, lacks)| **lacks) {
            match found.0.len() + 1 >= LINEAGE_INPUTS_MAX {
                true => found.1 += 1,
                false => found.0.push(event),
            }
        }
    }

    /// Whether no more events of any result are shown.
    fn is_full(&self) -> bool {
        let mut found = self.found.iter();
        found.all(|(events, _)| events.len() + 1 >= LINEAGE_INPUTS_MAX)
    }
}

fn chosen(events: &[RunEvent]) -> RunEvents {
    let mut chosen = RunEvents::new();
    add(&mut chosen, events);
    chosen
}

fn add(to: &mut RunEvents, events: &[RunEvent]) {
    for event in events {
        to.entry(event.place()).or_default().insert(event.offset);
    }
}

fn leave_out(of: &mut RunEvents, events: &[RunEvent]) {
    for event in events {
        if let Some(its) = of.get_mut(&event.place()) {
            its.remove(&event.offset);
        }
    }
}
