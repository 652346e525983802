//! What each operator is given of a batch, and what it makes of it.

use busbar_event::{Batch, Error};

use super::{Chain, Computed, attempt};
use crate::operator::Rows;

/// What an operator was given, and what came of it.
pub(crate) struct StationTrace {
    /// The step, by its index.
    pub step: usize,
    pub given: Vec<Rows>,
    /// What came out, on whatever way it goes on.
    pub made: Vec<Rows>,
    /// Why rows failed.
    pub dead: Vec<Error>,
    /// Why it did not work: what it makes cannot be computed again.
    pub left_out: Option<StepFate>,
}

/// What became of an event at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepFate {
    /// Rows came out.
    Passed,
    /// The step left the event out.
    Filtered,
    /// It failed.
    Dead,
    /// The event did not come here.
    NotReached,
    /// The step keeps state: what comes out depends on other events.
    State,
    /// The step asks a service, which is not asked again.
    Service,
    /// The plug-in that worked then is not the one that runs.
    Plugin,
    /// A step before it was not computed again.
    Unknown,
}

impl StepFate {
    /// The fate as the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            StepFate::Passed => "passed",
            StepFate::Filtered => "filtered",
            StepFate::Dead => "dead",
            StepFate::NotReached => "not-reached",
            StepFate::State => "state",
            StepFate::Service => "service",
            StepFate::Plugin => "plugin",
            StepFate::Unknown => "unknown",
        }
    }
}

/// Where a trace begins behind the source: rows for a step, by its index.
pub(crate) type TraceFrom = (usize, Vec<Rows>);

impl Chain {
    /// Takes a batch through the operators and tells of each one. Operators that are `left_out`, by their places in the
    /// chain, pass nothing on. With `from` the steps before it are left out, and its rows stand in for theirs.
    ///
    /// # Errors
    /// As of [`Chain::run`].
    pub async fn trace(
        &mut self,
        events: Batch,
        left_out: &[Option<StepFate>],
        from: Option<TraceFrom>,
    ) -> Result<(Vec<StationTrace>, Computed), Error> {
        let mut work = self.read(events)?;
        if let Some((step, rows)) = from {
            work.queues.iter_mut().for_each(|rows| rows.clear());
            work.dead.clear();
            let place = self
                .stations
                .iter()
                .position(|station| station.step == step);
            work.at = place.unwrap_or(self.stations.len());
            if let Some(station) = self.stations.get(work.at) {
                work.queues[station.way] = rows.into();
            }
        }
        let mut traces = Vec::with_capacity(self.stations.len());
        while let Some(station) = self.stations.get_mut(work.at) {
            let left_out = left_out.get(work.at).copied().flatten();
            station.operator.begin("trace", None);
            work.enter(station)?;
            let way = station.way;
            let operator = station.operator.as_mut();
            let given: Vec<Rows> = work.queues[way].iter().cloned().collect();
            if left_out.is_some() {
                work.queues[way].clear();
            }
            while let Some(rows) = work.queues[way].pop_front() {
                if let Err(error) = attempt(operator, rows.clone(), &mut work.out).await {
                    work.refused(operator, rows, error, way)?;
                }
            }
            let routed = work.out.routed.iter().map(|routed| routed.rows.clone());
            traces.push(StationTrace {
                step: station.step,
                given,
                made: work.out.rows.iter().cloned().chain(routed).collect(),
                dead: work.out.causes().cloned().collect(),
                left_out,
            });
            work.next(station);
        }
        Ok((traces, self.finish(work)?))
    }
}
