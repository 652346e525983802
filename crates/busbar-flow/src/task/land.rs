//! A computed batch of a task: counted, sent on its way, and taken in when it has landed.

use std::sync::Arc;

use arrow::array::UInt32Array;
use busbar_event::Error;

use super::compute::Batched;
use super::flight::{Air, Commit, Flight, LandedFlight};
use super::input::InputReader;
use super::machine::{Ending, FlightSpan, Machine, TaskEffect};
use super::write::{Leaving, LostLetters, NotLanded, Writers};
use super::{STOPPED, Task};
use crate::blocking::blocking;
use crate::chain::Computed;
use crate::counters::{Counters, Delta};
use crate::dead::Earlier;
use crate::shape::{LooseResults, Prepared};

/// A batch that is to be read again, in parts.
pub(super) struct Again {
    base: u64,
    end: u64,
    skipped: u64,
    earlier: Earlier,
}

/// What came of a batch.
pub(super) enum Landed {
    /// It is done with: the next one may go out.
    Back(Writers),
    /// An output did not take it whole; these events come again in parts.
    TooMuch(Writers, Again),
    /// The task was told to stop before it arrived.
    Stopped,
}

impl Task {
    /// What a batch does to the counters.
    pub(super) fn delta(&self, computed: &Computed, prepared: &[Prepared]) -> Delta {
        let mut delta = Delta {
            events: computed.events.rows() as u64,
            ..Delta::default()
        };
        let rows = computed.rows_all() as u64;
        if self.lane.main {
            match self.shared.plan.inputs[self.input].node {
                Some(node) => {
                    delta.flow.input = computed.input as u64;
                    delta.nodes.push((node, computed.read));
                }
                // They come out of the stream between two stages.
                None => delta.flow.added = computed.input as u64,
            }
            delta.flow.dead = computed.read.dead;
            delta.flow.held = rows;
            for count in &computed.counts {
                delta.flow.dead += count.flow.dead;
                delta.flow.filtered += count.flow.filtered;
                delta.flow.added += count.flow.added;
                delta.flow.taken += count.flow.taken;
                delta.flow.late += count.flow.late;
                delta
                    .nodes
                    .push((self.shared.step_node(count.step), count.node));
            }
        }
        for (output, prepared) in self.lane.outputs.iter().zip(prepared) {
            let dead = prepared.dead.len() as u64;
            let counts = Counters {
                input: prepared.rows as u64,
                dead,
                held: prepared.rows as u64 - dead,
                ..Counters::default()
            };
            delta.nodes.push((self.shared.output_node(*output), counts));
        }
        delta
    }

    /// Sends a computed batch out.
    pub(super) fn launch(
        &mut self,
        batched: Batched,
        writers: Writers,
        delta: Delta,
        skipped: u64,
        machine: &mut Machine,
        air: &mut Air,
    ) -> Result<(), Error> {
        let Batched {
            computed,
            prepared,
            base,
            end,
            latest,
            snapshot,
            since,
            position,
        } = batched;
        let (snapshot, checkpoint) = snapshot.unzip();
        machine.fly(FlightSpan {
            base,
            end,
            skipped,
            // An event that is sent again moves the cursor over nothing.
            events: if base == end { 0 } else { delta.events },
            latest,
            checkpoint,
        });
        let late = match computed.late.is_empty() {
            true => None,
            false => {
                let places = computed.late.iter().map(|(event, _)| *event as u32);
                Some(computed.events.take(&places.collect::<UInt32Array>()))
            }
        };
        let rows = computed.rows_all();
        let leaving = Leaving {
            shared: Arc::clone(&self.shared),
            surroundings: self.surroundings.clone(),
            stop: self.stop.clone(),
            lane: self.lane.clone(),
            key: self.key.clone(),
            base,
            end,
            since,
            position,
            state: self.keeps.as_ref().map(|keeps| Arc::clone(&keeps.state)),
            results: LooseResults::of(&computed)?,
            late,
            lost: match self.lane.main {
                true => {
                    let letters = computed.lost.iter().map(|lost| {
                        Ok(LostLetters {
                            of: lost.of,
                            results: LooseResults::lost(lost)?,
                            dead: lost.dead().collect(),
                        })
                    });
                    letters.collect::<Result<_, Error>>()?
                }
                false => Vec::new(),
            },
            dead: match self.lane.main {
                true => computed.dead,
                false => Vec::new(),
            },
            earlier: self.earlier.within(base, end),
            rows,
            events: computed.events,
            sources: computed.sources,
            prepared,
        };
        air.flight = Some(Flight::new(leaving, writers, delta, snapshot));
        Ok(())
    }

    /// Takes a landed batch in. `last`: no other one was computed meanwhile.
    pub(super) fn land(
        &mut self,
        (flight, landing): LandedFlight,
        last: bool,
        machine: &mut Machine,
        air: &mut Air,
    ) -> Result<Landed, Error> {
        let tally = &self.shared.tally;
        let landing = match landing {
            Ok(landing) => landing,
            Err(error) => {
                machine.landed(Ending::Lost, last);
                tally.take_back(&flight.delta);
                return Err(error);
            }
        };
        let outcome = match &landing.result {
            Ok(()) => Ending::Arrived,
            Err(NotLanded::TooMuch) => Ending::TooMuch,
            Err(NotLanded::Stopped(_)) => Ending::Lost,
        };
        let mut again = None;
        let mut snapshot = flight.snapshot;
        for effect in machine.landed(outcome, last) {
            match effect {
                TaskEffect::Moved { offsets, events } => {
                    // Every offset the cursor moves over is an event that was counted, or one that was gone.
                    tally.moved(offsets, events);
                    let mut marks = self.shared.marks.lock();
                    marks.insert(self.key.clone(), machine.mark());
                }
                TaskEffect::Commit(checkpoint) => {
                    if let (Some(snapshot), Some(keeps)) = (snapshot.take(), &self.keeps) {
                        let state = Arc::clone(&keeps.state);
                        air.commit = Some(Commit::start(self, state, snapshot, checkpoint));
                    }
                }
                TaskEffect::ReadAgain { base, end, skipped } => again = Some((base, end, skipped)),
            }
        }
        match landing.result {
            Ok(()) => Ok(Landed::Back(landing.writers)),
            // It comes again, in parts or from the checkpoint.
            Err(NotLanded::TooMuch) => {
                tally.take_back(&flight.delta);
                let (base, end, skipped) = again.unwrap_or_default();
                let again = Again {
                    base,
                    end,
                    skipped,
                    earlier: landing.earlier,
                };
                Ok(Landed::TooMuch(landing.writers, again))
            }
            Err(NotLanded::Stopped(error)) => {
                tally.take_back(&flight.delta);
                if error.code() == STOPPED {
                    air.held = Some(landing.writers);
                    return Ok(Landed::Stopped);
                }
                Err(error)
            }
        }
    }

    /// Reads the events of a batch again that an output did not take as a whole, in two halves.
    pub(super) fn read_again(&mut self, input: &mut InputReader, batch: Again, skipped: &mut u64) {
        input.seek(batch.base);
        input.halve(batch.base, batch.end);
        self.earlier.put_back(batch.earlier);
        // What was missed behind it is found missing again.
        self.shared
            .tally
            .found(std::mem::replace(skipped, batch.skipped));
    }

    pub(super) fn note(&self, machine: &Machine) {
        let (flow, mark) = (&self.shared.plan.name, machine.mark());
        self.surroundings.checkpoints.note(flow, &self.key, mark);
    }

    /// Commits the state at the end, where it is that behind the position.
    pub(super) async fn last_commit(&mut self, machine: &Machine) -> Result<(), Error> {
        let Some(keeps) = self.keeps.as_mut().filter(|_| machine.ends_clean()) else {
            return Ok(());
        };
        let snapshot = self.chain.snapshot(&keeps.state)?;
        if let Some(time) = &self.chain.time {
            keeps.checkpoint.producers = time.producers();
        }
        let (state, checkpoint) = (Arc::clone(&keeps.state), keeps.checkpoint.clone());
        blocking(move || state.commit(&snapshot, &checkpoint)).await
    }
}
