//! A computed batch on its way out: written to every output of a lane, its dead letters kept, its counts
//! settled.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use busbar_event::{Batch, Class, Error};
use tokio::sync::watch;

use super::sources::{SourceLetters, source_letters};
use super::{FlowShared, Lane, STOPPED, Surroundings, stopped, told};
use crate::blocking::blocking;
use crate::chain::{Chain, Dead, Place, ResultsOf};
use crate::checkpoint::TaskKey;
use crate::counters::Settled;
use crate::dead::{Earlier, Spot, letters};
use crate::limits::DEAD_BATCH_BYTES;
use crate::outgoing::Outgoing;
use crate::output::{Refusals, Writer, Written};
use crate::received::SourceOffsets;
use crate::shape::{LooseResults, Prepared, event_of};
use crate::state::TaskState;
use busbar_connector::Backoff;

/// A computed batch with all it needs to be written.
pub(super) struct Leaving {
    pub shared: Arc<FlowShared>,
    pub surroundings: Surroundings,
    pub stop: watch::Receiver<bool>,
    pub lane: Lane,
    pub key: TaskKey,
    pub base: u64,
    pub end: u64,
    /// Sequence numbers before and behind the batch; the latter is what outputs know it by.
    pub since: u64,
    pub position: u64,
    /// The task's state, if it has any: then input is not read again.
    pub state: Option<Arc<TaskState>>,
    pub events: Batch,
    /// Where the events lie that these were made from, where another task has made them.
    pub sources: Option<SourceOffsets>,
    /// For each end the results that stand for no event.
    pub results: Vec<Option<LooseResults>>,
    /// Events that came too late.
    pub late: Option<Batch>,
    /// Events that died before they reached an output; none but for the lane that counts for the flow.
    pub dead: Vec<Dead>,
    /// Results that stand for no event and that a step could not take or not compute, with their letters; none but for the
    /// same lane.
    pub lost: Vec<LostLetters>,
    /// Letters of these events that an earlier run left open.
    pub earlier: Earlier,
    pub rows: usize,
    pub prepared: Vec<Prepared>,
}

/// Letters of results that stand for no event.
pub(super) struct LostLetters {
    pub of: ResultsOf,
    pub results: LooseResults,
    pub dead: Vec<Dead>,
}

/// Everything that a task writes to.
pub(crate) struct Writers {
    /// For each output of the lane.
    pub outputs: Vec<Writer>,
    pub dead: Writer,
    /// In a flow with event time.
    pub late: Option<Writer>,
}

impl Writers {
    /// All of them.
    pub fn all(&mut self) -> impl Iterator<Item = &mut Writer> {
        let own = [&mut self.dead].into_iter().chain(&mut self.late);
        self.outputs.iter_mut().chain(own)
    }
}

/// What comes back.
pub(super) struct Landing {
    pub writers: Writers,
    /// Letters of the batch that are still open, where it did not arrive.
    pub earlier: Earlier,
    pub result: Result<(), NotLanded>,
}

/// Why a batch did not arrive.
pub(super) enum NotLanded {
    /// The flow stops: it was told to, or cannot go on.
    Stopped(Error),
    /// An output refuses the batch as a whole. It may take it in parts.
    TooMuch,
}

/// What one output said to its rows.
struct Answer {
    refused: Refusals,
    /// Rows that a later row of the same batch replaced.
    overwritten: u64,
    /// Rows that gave way to those on the other side.
    conflicts: u64,
    /// It took none of them, and this is why.
    none: Option<Error>,
}

impl Leaving {
    pub async fn write(mut self, mut writers: Writers) -> Landing {
        let result = self.write_all(&mut writers).await;
        Landing {
            writers,
            earlier: self.earlier,
            result,
        }
    }

    async fn write_all(&mut self, writers: &mut Writers) -> Result<(), NotLanded> {
        self.note_cuts().await.map_err(NotLanded::Stopped)?;
        self.write_late(writers).await.map_err(NotLanded::Stopped)?;
        let this = &*self;
        let writes = writers
            .outputs
            .iter_mut()
            .zip(&this.prepared)
            .zip(&this.lane.outputs)
            .map(|((writer, prepared), output)| async move {
                let node = this.shared.output_node(*output);
                let mut waiter = Waiter::new(&this.shared, node, this.stop.clone(), this.position);
                let wait = |error| waiter.wait(error);
                let written = writer.write(&prepared.outgoing, this.position, wait).await;
                if waiter.tried() {
                    this.shared
                        .tally
                        .error(node, written.as_ref().err().cloned(), 0);
                }
                written
            });
        let written = futures::future::join_all(writes).await;
        let answers = self.answers(written)?;
        // Every event that some output did not get; of a query's rows, which stand for no single event,
        // as many as the output that lost most.
        let mut lost: BTreeSet<usize> = BTreeSet::new();
        let mut lost_most = 0;
        let mut dead = std::mem::take(&mut self.dead);
        let mut of_ends: Vec<Vec<Dead>> = vec![Vec::new(); self.results.len()];
        let mut settled = Vec::with_capacity(answers.len());
        for ((answer, prepared), output) in answers
            .into_iter()
            .zip(&self.prepared)
            .zip(&self.lane.outputs)
        {
            let sent = prepared.rows - prepared.dead.len();
            let refused = match &answer.none {
                Some(_) => sent,
                None => answer.refused.len(),
            };
            let done = Settled {
                rows: sent as u64,
                dead: refused as u64,
                overwritten: answer.overwritten,
                conflicts: answer.conflicts,
            };
            settled.push((self.shared.output_node(*output), done));
            lost_most = lost_most.max(refused + prepared.dead.len());
            let output = &self.shared.plan.outputs[*output];
            let place = Place::Output(output.of);
            // Letters of results are about those of their end.
            let of_results = matches!(self.results.get(output.end), Some(Some(_)));
            let dead = match of_results {
                true => &mut of_ends[output.end],
                false => &mut dead,
            };
            // One letter says it of all rows of a single event.
            let said = if self.state.is_some() {
                sent
            } else {
                sent.min(1)
            };
            let none = answer.none.into_iter();
            let none = none.flat_map(|cause| (0..said).map(move |row| (row, cause.clone())));
            for (row, cause) in none.chain(answer.refused) {
                let event = event_of(&prepared.made, row);
                lost.insert(event);
                dead.push(Dead {
                    event,
                    place,
                    cause,
                });
            }
            for letter in &prepared.dead {
                lost.insert(letter.event);
                dead.push(letter.clone());
            }
        }
        let closed = self.recognise(&mut dead);
        let mut read_anew = Vec::new();
        if let Some(sources) = &self.sources {
            let of = (
                &*self.shared.plan,
                &self.surroundings.bus,
                self.key.stream.as_str(),
            );
            let read = source_letters(of, sources, &mut dead).await;
            read_anew = read.map_err(NotLanded::Stopped)?;
        }
        for (number, of_sources) in read_anew.iter().enumerate() {
            let SourceLetters {
                events,
                dead,
                spots,
            } = of_sources;
            let kind = format!("~source{number}");
            let spot = |event: usize| spots[event].clone();
            self.bury(events, dead, &kind, spot, &mut writers.dead)
                .await
                .map_err(NotLanded::Stopped)?;
        }
        self.bury(&self.events, &dead, "", self.spot(), &mut writers.dead)
            .await
            .map_err(NotLanded::Stopped)?;
        for (end, (results, dead)) in self.results.iter().zip(&of_ends).enumerate() {
            let Some(results) = results.as_ref().filter(|_| !dead.is_empty()) else {
                continue;
            };
            let results = results.events().map_err(NotLanded::Stopped)?;
            let (kind, spot) = (results_kind(end), self.results_spot());
            self.bury(&results, dead, &kind, spot, &mut writers.dead)
                .await
                .map_err(NotLanded::Stopped)?;
        }
        for lost in &self.lost {
            let results = lost.results.events_whole().map_err(NotLanded::Stopped)?;
            let (kind, spot) = (lost_kind(lost.of), self.results_spot());
            self.bury(&results, &lost.dead, &kind, spot, &mut writers.dead)
                .await
                .map_err(NotLanded::Stopped)?;
        }
        self.surroundings.dead.close(&closed);
        // What every output overwrote, or left as it was there, is kept nowhere; of what only some did, nothing is said.
        let overwritten = settled.iter().map(|(_, done)| done.overwritten).min();
        let conflicts = settled.iter().map(|(_, done)| done.conflicts).min();
        for (node, done) in settled {
            self.shared.tally.settle(node, done);
        }
        if self.lane.main {
            let lost = lost.len().max(lost_most).min(self.rows) as u64;
            match self.lane.to_stage {
                true => self.shared.tally.settle_taken(self.rows as u64, lost),
                false => self.shared.tally.settle_flow(Settled {
                    rows: self.rows as u64,
                    dead: lost,
                    overwritten: overwritten.unwrap_or(0),
                    conflicts: conflicts.unwrap_or(0),
                }),
            }
        }
        Ok(())
    }

    /// Notes where the batch begins and ends before it is written in several pieces: it is cut the same way when it
    /// comes again, so that each piece is recognised.
    async fn note_cuts(&self) -> Result<(), Error> {
        let Some(state) = &self.state else {
            return Ok(());
        };
        if !self.prepared.iter().any(|p| p.outgoing.in_pieces()) {
            return Ok(());
        }
        let node = self
            .shared
            .output_node(self.lane.outputs.first().copied().unwrap_or(0));
        let mut waiter = Waiter::new(&self.shared, node, self.stop.clone(), self.position);
        loop {
            let (state, cuts) = (Arc::clone(state), [self.since, self.position]);
            match blocking(move || state.cut(&cuts)).await {
                Err(error) if error.class() == Class::Transient => waiter.wait(error).await?,
                noted => break noted?,
            }
        }
        if waiter.tried() {
            self.shared.tally.error(node, None, 0);
        }
        Ok(())
    }

    /// Keeps events that came too late.
    async fn write_late(&mut self, writers: &mut Writers) -> Result<(), Error> {
        let (Some(late), Some(writer)) = (self.late.take(), &mut writers.late) else {
            return Ok(());
        };
        let node = self
            .shared
            .output_node(self.lane.outputs.first().copied().unwrap_or(0));
        let mut waiter = Waiter::new(&self.shared, node, self.stop.clone(), self.position);
        let outgoing = Outgoing::Events(late);
        let written = writer.write(&outgoing, self.position, |error| waiter.wait(error));
        written.await?;
        if waiter.tried() {
            self.shared.tally.error(node, None, 0);
        }
        Ok(())
    }

    /// What the outputs said, if all of them said something about the rows. Whoever can never take a batch
    /// may take its halves; whoever can never take a single event refuses that event and no other.
    fn answers(&self, written: Vec<Result<Written, Error>>) -> Result<Vec<Answer>, NotLanded> {
        let mut answers = Vec::with_capacity(written.len());
        let mut too_much = false;
        for result in written {
            match result {
                Ok(written) => answers.push(Answer {
                    refused: written.refused,
                    overwritten: written.overwritten,
                    conflicts: written.conflicts,
                    none: None,
                }),
                Err(error) if error.class() != Class::Permanent || error.code() == STOPPED => {
                    return Err(NotLanded::Stopped(error));
                }
                Err(error) => {
                    // With state the rows are computed already: those that are refused are dead.
                    too_much |= self.state.is_none() && self.end - self.base > 1;
                    answers.push(Answer {
                        refused: Refusals::new(),
                        overwritten: 0,
                        conflicts: 0,
                        none: Some(error),
                    });
                }
            }
        }
        match too_much {
            true => Err(NotLanded::TooMuch),
            false => Ok(answers),
        }
    }

    /// Takes those out of `dead` of which an open letter tells already, and answers the open letters whose
    /// events are done with, or died of something else.
    fn recognise(&mut self, dead: &mut Vec<Dead>) -> Vec<u64> {
        if self.earlier.is_empty() {
            return Vec::new();
        }
        let outputs = &self.shared.plan.outputs;
        dead.retain(|letter| {
            let offset = self.base + letter.event as u64;
            !self.earlier.knows(offset, letter, outputs)
        });
        self.earlier.ids()
    }

    /// Where the events of the batch lie.
    fn spot(&self) -> impl Fn(usize) -> Spot + use<> {
        let stream: Arc<str> = self.key.stream.as_str().into();
        let (partition, base) = (self.key.partition, self.base);
        move |event| Spot {
            stream: Arc::clone(&stream),
            partition,
            offset: base + event as u64,
            is_result: false,
        }
    }

    /// Where results were made: behind the last event of the batch, or behind the last one before a tick.
    fn results_spot(&self) -> impl Fn(usize) -> Spot + use<> {
        let stream: Arc<str> = self.key.stream.as_str().into();
        let (partition, offset) = (self.key.partition, self.end.saturating_sub(1));
        move |_| Spot {
            stream: Arc::clone(&stream),
            partition,
            offset,
            is_result: true,
        }
    }

    /// Keeps dead letters. So many that they would not fit one append go as several, each under a name
    /// of its own, so that each is recognised when it comes again.
    async fn bury(
        &self,
        events: &Batch,
        dead: &[Dead],
        kind: &str,
        spot: impl Fn(usize) -> Spot,
        writer: &mut Writer,
    ) -> Result<(), Error> {
        let plan = &self.shared.plan;
        let ids: Vec<Arc<str>> = plan.outputs.iter().map(|o| Arc::clone(&o.id)).collect();
        let now = self.surroundings.bus.clock().now_micros();
        let first = self.lane.outputs.first().copied().unwrap_or(0);
        let node = self.shared.output_node(first);
        let name = Arc::clone(&writer.producer);
        for (number, dead) in parcels(events, dead).enumerate() {
            let batch = letters(&plan.name, events, dead, &ids, now, &spot);
            if number > 0 || !kind.is_empty() {
                writer.producer = parcel_name(&name, kind, number);
            }
            let mut waiter = Waiter::new(&self.shared, node, self.stop.clone(), self.position);
            let written = writer
                .write(&Outgoing::Events(batch), self.position, |error| {
                    waiter.wait(error)
                })
                .await;
            writer.producer = Arc::clone(&name);
            let tried = waiter.tried();
            if tried {
                let error = written.as_ref().err().cloned();
                self.shared.tally.error(node, error, 0);
            }
            written?;
        }
        Ok(())
    }
}

/// What the letters of an end's results are written under, behind the name for letters of events.
fn results_kind(end: usize) -> String {
    match end {
        0 => "~results".to_owned(),
        _ => format!("~results{end}"),
    }
}

/// As [`results_kind`], for results that came to no end. It does not depend on which others did not.
fn lost_kind(of: ResultsOf) -> String {
    match of {
        ResultsOf::Given(station) => format!("~lost{station}"),
        ResultsOf::Made(station) => format!("~unmade{station}"),
    }
}

fn parcel_name(name: &str, kind: &str, number: usize) -> Arc<str> {
    format!("{name}{kind}~{number}").into()
}

/// The names under which the letters of a chain's results are written; `name` is the one for letters of events. Each has
/// the first parcel of every batch that has such letters.
pub(super) fn result_letters(name: &str, chain: &Chain) -> Vec<Arc<str>> {
    let stations = 0..chain.stations.len();
    let lost = stations.flat_map(|at| [ResultsOf::Given(at), ResultsOf::Made(at)].map(lost_kind));
    let ends = (0..chain.ends.len()).map(results_kind);
    let kinds = lost.chain(ends);
    kinds.map(|kind| parcel_name(name, &kind, 0)).collect()
}

/// Dead letters in parcels of about [`DEAD_BATCH_BYTES`].
pub(crate) fn parcels<'a>(events: &'a Batch, dead: &'a [Dead]) -> impl Iterator<Item = &'a [Dead]> {
    let each = events.bytes() / events.rows().max(1);
    let mut rest = dead;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let mut count = 0;
        while count < rest.len() && (count == 0 || bytes < DEAD_BATCH_BYTES) {
            bytes += match events.body() {
                busbar_event::Body::Payload(payloads) => {
                    payloads.value_length(rest[count].event) as usize
                }
                busbar_event::Body::Columns(_) => each,
            };
            bytes += crate::limits::DEAD_MARKS_BYTES;
            count += 1;
        }
        let (parcel, left) = rest.split_at(count);
        rest = left;
        (!parcel.is_empty()).then_some(parcel)
    })
}

/// Waits between tries and says so.
pub(super) struct Waiter<'a> {
    shared: &'a Arc<FlowShared>,
    node: usize,
    stop: watch::Receiver<bool>,
    backoff: Backoff,
}

impl<'a> Waiter<'a> {
    pub fn new(
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

    pub fn tried(&self) -> bool {
        self.backoff.tries() > 0
    }

    /// Waits for the next try. An error: the flow is to stop.
    pub fn wait(&mut self, error: Error) -> impl Future<Output = Result<(), Error>> + use<> {
        let pause = self
            .backoff
            .pause()
            .max(error.retry_after().unwrap_or_default());
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
