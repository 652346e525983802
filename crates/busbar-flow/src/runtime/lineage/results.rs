//! What came out of a run, compared with what came out of another.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use busbar_event::{Batch, Class, Error};
use serde_json::Value as Json;

use crate::bounded::{BoundedCounts, BoundedSink};
use crate::limits::LINEAGE_RUN_RESULTS_MAX;
use crate::outgoing::Outgoing;
use crate::shown::objects;

/// What outputs were given in a run.
#[derive(Default)]
pub(super) struct RunResults {
    pub results: Vec<RunResult>,
    /// How often each is there, by output, content and whether it was open.
    counts: BTreeMap<ResultKey, usize>,
    is_ending: bool,
}

type ResultKey = (usize, bool, Vec<u8>);

pub(super) struct RunResult {
    /// Its output, by its number in the plan.
    pub output: usize,
    content: Vec<u8>,
    pub event: Option<Batch>,
    pub row: Option<Json>,
    /// It came out at the end only.
    pub open: bool,
}

impl RunResults {
    /// How often it has a result.
    pub fn count(&self, result: &RunResult) -> usize {
        let key = (result.output, result.open, result.content.clone());
        self.counts.get(&key).copied().unwrap_or(0)
    }

    /// The results that are not there in another run, by their places; of equal ones the last.
    pub fn missing_in(&self, other: &RunResults) -> Vec<usize> {
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
