//! Dead letters of orchestrations: events that do not fit what reads them, and their way back.

use std::collections::BTreeMap;
use std::sync::Arc;

use busbar_event::{Batch, BatchBuilder, Class, Error};
use futures::future::{BoxFuture, try_join_all};

use super::Runtime;
use crate::dead::{EventDeath, Letter, Run, Spot, originals};
use crate::limits::{UNFIT_PIECE_BYTES, UNFIT_PIECE_EVENTS};
use crate::orchestration::ReadFor;
use crate::status::Redriven;

/// In the place of a flow's name, before that of an orchestration. No flow's name has a slash.
const ORCHESTRATIONS: &str = "orchestrations/";

/// An event that does not fit an orchestration.
#[derive(Debug)]
pub struct UnfitEvent {
    /// The orchestration.
    pub orchestration: String,
    /// What the event was read for.
    pub read_for: ReadFor,
    /// Its row in the batch.
    pub row: usize,
    /// Why it does not fit.
    pub cause: Error,
    /// It was read, and refused when it was carried out.
    pub was_refused: bool,
}

impl UnfitEvent {
    /// What its letter has in the places of a flow's name and of a step.
    fn marks(&self) -> (String, String) {
        let flow = format!("{ORCHESTRATIONS}{}", self.orchestration);
        (flow, self.read_for.to_string())
    }
}

/// A dead letter that is to be handed to its orchestration again.
#[derive(Debug)]
pub struct UnfitLetter {
    /// The orchestration.
    pub orchestration: String,
    /// What the event was read for.
    pub read_for: ReadFor,
    /// The stream it was read from.
    pub stream: String,
    /// The event.
    pub event: Batch,
    /// The re-drive and the letter: what is handed over twice has the same.
    pub number: (u64, u64),
}

/// Takes events of dead letters into orchestrations again.
pub trait LetterTaker: Send + Sync {
    /// Takes an event; false when there is no such orchestration, or it does not read the stream any more.
    ///
    /// # Errors
    /// Why the event does not fit.
    fn take(&self, letter: UnfitLetter) -> BoxFuture<'_, Result<bool, Error>>;
}

impl Runtime {
    /// Says who takes dead letters of orchestrations again. Only the first call counts.
    pub fn set_letter_taker(&self, taker: Arc<dyn LetterTaker>) {
        let _ = self.inner.letter_taker.set(taker);
    }

    /// Keeps events that do not fit orchestrations as dead letters. `base` is the offset of the batch's first row. An event
    /// that comes again is recognised: letters of one orchestration and place are written in the order of their offsets, each
    /// piece once the one before it is on the disk.
    ///
    /// # Errors
    /// What the disk says; nothing of the batch may be passed over then.
    pub async fn bury(
        &self,
        events: &Batch,
        (stream, partition, base): (&str, u16, u64),
        unfit: &[UnfitEvent],
    ) -> Result<(), Error> {
        let mut producers: BTreeMap<String, Vec<&UnfitEvent>> = BTreeMap::new();
        for event in unfit {
            let (flow, place) = event.marks();
            let stage = if event.was_refused { "refused" } else { "dead" };
            let producer = format!("{flow}:{place}:{stream}/{partition}:{stage}");
            producers.entry(producer).or_default().push(event);
        }
        let buried = producers
            .into_iter()
            .map(|(producer, mut letters)| async move {
                letters.sort_by_key(|event| event.row);
                let dead = self.inner.dead.stream();
                let known = dead
                    .partitions()
                    .first()
                    .and_then(|p| p.producer_position(&producer));
                let known = known.unwrap_or(0);
                letters.retain(|event| base + event.row as u64 >= known);
                let producer: Arc<str> = producer.into();
                for piece in in_pieces(events, &letters) {
                    let Some(last) = piece.last() else { continue };
                    let batch = self.letters_of(events, (stream, partition, base), piece);
                    let position = base + last.row as u64 + 1;
                    let producer = Some((Arc::clone(&producer), position));
                    self.inner
                        .options
                        .bus
                        .append_to(dead, batch, producer)
                        .await?;
                }
                Ok(())
            });
        try_join_all(buried).await.map(drop)
    }

    fn letters_of(
        &self,
        events: &Batch,
        (stream, partition, base): (&str, u16, u64),
        unfit: &[&UnfitEvent],
    ) -> Batch {
        let now_micros = self.inner.options.bus.clock().now_micros();
        let mut builder = BatchBuilder::new();
        for event in unfit {
            let (flow, place) = event.marks();
            let spot = Spot {
                stream: stream.into(),
                partition,
                offset: base + event.row as u64,
                is_result: false,
            };
            let death = EventDeath {
                flow: &flow,
                place: &place,
                output: "",
                cause: &event.cause,
                spot,
                now_micros,
            };
            death.push(&mut builder, events, event.row);
        }
        builder.finish()
    }

    /// Hands letters to an orchestration again; answers the numbers of those that are done with. None if they are of no
    /// orchestration.
    ///
    /// # Errors
    /// What keeps the run from being finished.
    pub(super) async fn take_again(
        &self,
        flow: &str,
        ids: &[u64],
        run: &Run,
        result: &mut Redriven,
    ) -> Result<Option<Vec<u64>>, Error> {
        let Some(name) = flow.strip_prefix(ORCHESTRATIONS) else {
            return Ok(None);
        };
        let stopped = || Error::new(Class::Transient, "orchestrate.stopped");
        let taker = self.inner.letter_taker.get().ok_or_else(stopped)?;
        let mut done = Vec::new();
        let mut rest = ids;
        while !rest.is_empty() {
            let (mut letters, read) = self.some_letters(rest.to_vec()).await?;
            run.edit(&mut letters)?;
            rest = &rest[read..];
            for letter in letters {
                let id = letter.shown.id;
                match taker.take(unfit_letter(name, letter, run)).await {
                    Ok(true) => {
                        result.sent += 1;
                        done.push(id);
                    }
                    Ok(false) => result.orphaned += 1,
                    Err(error) if error.class() == Class::Transient => return Err(error),
                    Err(refused) => {
                        result.refused += 1;
                        result.cause.get_or_insert(refused);
                    }
                }
            }
        }
        Ok(Some(done))
    }
}

fn unfit_letter(name: &str, letter: Letter, run: &Run) -> UnfitLetter {
    let part = letter.shown.place.strip_prefix("part:");
    UnfitLetter {
        orchestration: name.to_owned(),
        read_for: part.map_or(ReadFor::Start, |part| ReadFor::Part(part.to_owned())),
        stream: letter.shown.stream.clone(),
        number: (run.run, letter.shown.id),
        event: originals(&[letter]),
    }
}

/// Parts of some events that one append takes.
fn in_pieces<'a, 'b>(events: &Batch, all: &'a [&'b UnfitEvent]) -> Vec<&'a [&'b UnfitEvent]> {
    let mut pieces = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (at, event) in all.iter().enumerate() {
        let size = events.event(event.row).payload.len();
        if at - from == UNFIT_PIECE_EVENTS || (at > from && bytes + size > UNFIT_PIECE_BYTES) {
            pieces.push(&all[from..at]);
            (from, bytes) = (at, 0);
        }
        bytes += size;
    }
    pieces.push(&all[from..]);
    pieces
}
