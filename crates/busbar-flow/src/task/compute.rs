//! How a task computes a batch: it runs the steps, prepares the results for the outputs, and takes snapshots.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::BinaryArray;
use busbar_connector::Backoff;
use busbar_event::{Class, Error};
use tokio::time::Instant;

use super::input::{InputReader, Next, Stretch};
use super::machine::Machine;
use super::prepare::prepare_for_stage;
use super::{Task, stopped, told};
use crate::blocking::blocking;
use crate::chain::{Computed, Place};
use crate::panicked::panicked;
use crate::shape::Prepared;
use crate::state::{Checkpoint, Snapshot};

/// A computed batch.
pub(super) struct Batched {
    pub computed: Computed,
    pub prepared: Vec<Prepared>,
    pub base: u64,
    pub end: u64,
    pub latest: Option<i64>,
    /// Taken behind it, if one is due.
    pub snapshot: Option<(Snapshot, Box<Checkpoint>)>,
    /// Sequence numbers before and behind it.
    pub since: u64,
    pub position: u64,
}

impl Task {
    /// Payloads that the inferred columns of the stream do not fit.
    pub(super) fn misfits(&self, computed: &Computed) -> Option<BinaryArray> {
        self.shared.plan.inputs[self.input].stream_columns()?;
        let misfits = computed
            .dead
            .iter()
            .filter(|dead| dead.place == Place::Decode);
        let misfits: Vec<u32> = misfits.map(|dead| dead.event as u32).collect();
        if misfits.is_empty() {
            return None;
        }
        let events = computed.events.take(&misfits.into());
        Some(events.payloads().into_owned())
    }

    /// Whether the inferred columns of the stream have become others than those that the flow reads, after they
    /// were widened for these payloads.
    pub(super) async fn columns_are_wider(&mut self, misfits: BinaryArray) -> Result<bool, Error> {
        let Some(stream) = self.surroundings.bus.stream(&self.key.stream) else {
            return Ok(false);
        };
        if stream.spec().schema.is_some() {
            return Ok(false);
        }
        let now = blocking(move || {
            stream.widen_schema(&misfits)?;
            stream.schema()
        });
        let now = now.await?;
        let read = self.shared.plan.inputs[self.input].stream_columns();
        Ok(read.is_some_and(|read| now.as_ref() != Some(read)))
    }

    /// Runs the steps and prepares the results. None: the input was given back and comes again.
    pub(super) async fn compute(
        &mut self,
        next: Next,
        input: &mut InputReader,
        backoff: &mut Backoff,
    ) -> Result<Option<Batched>, Error> {
        // The time of an event that is sent again.
        let mut inserted = None;
        let (mut work, stretch, base, end) = match next {
            Next::Gap(..) => return Ok(None),
            Next::Tick(tick) => {
                if let Some(keeps) = &mut self.keeps {
                    keeps.checkpoint.ticks_read = tick.read;
                }
                let at = input.position();
                match tick.event {
                    None => (self.chain.tick(tick.watermark), None, at, at),
                    Some(event) => {
                        inserted = Some(tick.watermark);
                        (event.read(&mut self.chain)?, None, at, at)
                    }
                }
            }
            Next::Stretch(stretch) => {
                let (base, end) = (stretch.base, stretch.end());
                match self.chain.read(stretch.batch.clone()) {
                    Ok(work) => (work.at(base), Some(stretch), base, end),
                    Err(error) => return self.not_read(error, stretch, input, backoff).await,
                }
            }
        };
        let tick = u64::from(stretch.is_none());
        while let Err(error) = self.chain.go_on(&mut work).await {
            if self.keeps.is_none() {
                return match stretch {
                    Some(stretch) => self.not_read(error, stretch, input, backoff).await,
                    None => Err(error),
                };
            }
            match error.class() {
                Class::Transient => self.pause(error, backoff).await?,
                _ => return Err(error),
            }
        }
        let mut computed = self.chain.finish(work)?;
        computed.place = stretch.is_some().then_some((self.key.partition, base));
        let prepared = match self.prepare(&computed) {
            Ok(prepared) => prepared,
            Err(error) if error.class() != Class::Permanent => return Err(error),
            Err(cause) if self.keeps.is_some() || end - base <= 1 => {
                let plan = &self.shared.plan;
                let outputs = self.lane.outputs.iter();
                outputs
                    .map(|o| Prepared::refused(&computed, &plan.outputs[*o], &cause))
                    .collect()
            }
            Err(error) => match stretch {
                Some(stretch) => return self.not_read(error, stretch, input, backoff).await,
                None => return Err(error),
            },
        };
        let latest = stretch
            .map(|stretch| stretch.batch.time_range().1)
            .or(inserted);
        let (since, position) = match &mut self.keeps {
            Some(keeps) => {
                let since = keeps.checkpoint.sequence();
                let time = self.chain.time.as_ref();
                let at = &mut keeps.checkpoint;
                // Events that are gone count as if they had come.
                let since = since.max(base + at.ticks);
                at.position = end;
                at.ticks += tick;
                at.seen = at.seen.max(latest);
                at.watermark = time.and_then(|time| time.watermark());
                (since, at.sequence())
            }
            None => (base, end),
        };
        Ok(Some(Batched {
            computed,
            prepared,
            base,
            end,
            latest,
            snapshot: None,
            since,
            position,
        }))
    }

    /// What a task does with events that could not be read or computed and have changed nothing.
    async fn not_read(
        &mut self,
        error: Error,
        stretch: Stretch,
        input: &mut InputReader,
        backoff: &mut Backoff,
    ) -> Result<Option<Batched>, Error> {
        let (from, to) = (stretch.base, stretch.end());
        match error.class() {
            Class::Transient => {
                input.give_back(stretch);
                self.pause(error, backoff).await?;
                Ok(None)
            }
            // The events at fault are found by halves.
            Class::Permanent if to - from > 1 => {
                input.give_back(stretch);
                let ticked = self
                    .keeps
                    .as_ref()
                    .map_or(0, |keeps| keeps.checkpoint.ticks);
                input.halve(from + ticked, to + ticked);
                Ok(None)
            }
            _ => Err(error),
        }
    }

    async fn pause(&mut self, error: Error, backoff: &mut Backoff) -> Result<(), Error> {
        self.input_error(Some(error.clone()), backoff.tries() + 1);
        tokio::select! {
            () = told(self.stop.clone()) => Err(stopped()),
            () = tokio::time::sleep(backoff.pause_after(&error)) => Ok(()),
        }
    }

    fn prepare(&mut self, computed: &Computed) -> Result<Vec<Prepared>, Error> {
        let plan = Arc::clone(&self.shared.plan);
        let moved = match &mut self.keeps {
            Some(keeps) if self.lane.to_stage => {
                let moved = computed.watermark.filter(|mark| Some(*mark) > keeps.told);
                keeps.told = keeps.told.max(moved);
                moved.map(|mark| (Arc::clone(&keeps.producer), mark))
            }
            _ => None,
        };
        let (input, outputs) = (self.input, &self.lane.outputs);
        let prepared = std::panic::catch_unwind(AssertUnwindSafe(|| {
            prepare_for_stage(&plan, input, outputs, computed, moved)
        }));
        prepared.unwrap_or_else(|panic| Err(panicked(&*panic)))
    }

    /// Takes a snapshot behind a batch, if one is due.
    pub(super) fn snapshot(
        &mut self,
        mut batched: Batched,
        machine: &mut Machine,
        began: Instant,
    ) -> Result<Batched, Error> {
        let due = machine.computed(began.elapsed());
        if due && let Some(keeps) = &mut self.keeps {
            let stands = Instant::now();
            let snapshot = self.chain.snapshot(&keeps.state)?;
            keeps.checkpoint.producers = match &self.chain.time {
                Some(time) => time.producers(),
                None => BTreeMap::new(),
            };
            let changes = snapshot.changes;
            batched.snapshot = Some((snapshot, Box::new(keeps.checkpoint.clone())));
            self.keep_small();
            self.shared.cost(&self.key, |cost| {
                cost.changes = changes;
                cost.longest_stall = cost.longest_stall.max(stands.elapsed());
            });
        }
        self.publish_clock();
        Ok(batched)
    }

    /// Lets operators give memory back when the flow holds more than it may.
    fn keep_small(&mut self) {
        let own: usize = self.chain.memory().iter().map(|(_, bytes)| bytes).sum();
        let all: usize = {
            let clocks = self.shared.clocks.lock();
            let others = clocks.iter().filter(|(key, _)| **key != self.key);
            others
                .flat_map(|(_, clock)| clock.memory.iter())
                .map(|(_, bytes)| bytes)
                .sum::<usize>()
                + own
        };
        let over = all.saturating_sub(self.shared.state_bytes_max);
        if over > 0 {
            let share = own as f64 / all as f64;
            self.chain.shrink((over as f64 * share) as usize + 1);
        }
    }
}
