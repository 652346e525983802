//! Events that are sent through a flow with state again: they go into the input of a task at the place where it is, as new
//! events. Each is recorded beside the ticks before it is applied, so that it is applied there again after a crash.

use busbar_event::{Batch, BatchBuilder, Class, Error, EventRef, Row};
use tokio::sync::{mpsc, oneshot};

use super::Task;
use super::input::{InputReader, Tick};
use super::ticks::{self, name};
use crate::chain::{Chain, ChainWork};

/// The tags of a recorded event: its offset in the input, the generation it belongs to, its key, and whether it is the other
/// side of a join with itself already.
pub(super) const OFFSET: &str = "$in-offset";
pub(super) const GENERATION: &str = "$in-generation";
pub(super) const KEY: &str = "$in-key";
pub(super) const OWN_SIDE: &str = "$in-own-side";

/// Events for a task, of one batch each.
pub(crate) struct Insert {
    pub event: EventAgain,
    /// Under this name and position it is recognised when it comes again.
    pub producer: (std::sync::Arc<str>, u64),
    /// Told when it is recorded.
    pub done: oneshot::Sender<Result<(), Error>>,
}

/// An event that comes again.
#[derive(Clone, Debug)]
pub(crate) struct EventAgain {
    /// A batch of one.
    pub event: Batch,
    /// It is the other side of a join with itself already: it died on the way to the join.
    pub own_side: bool,
}

impl EventAgain {
    /// Reads it as a batch of its own.
    pub fn read(self, chain: &mut Chain) -> Result<ChainWork, Error> {
        match self.own_side {
            true => chain.read_own_side(self.event),
            false => chain.read(self.event),
        }
    }
}

/// Hands events to a task.
pub(crate) type Inserts = mpsc::Sender<Insert>;

/// The next event that is handed over; for ever nothing when nobody is left to do so.
pub(super) async fn handed(inserts: &mut mpsc::Receiver<Insert>) -> Insert {
    match inserts.recv().await {
        Some(insert) => insert,
        None => std::future::pending().await,
    }
}

impl Task {
    /// Records an event, and puts it before what comes next.
    pub(super) async fn insert(&mut self, insert: Insert, input: &mut InputReader) {
        let Insert {
            event,
            producer,
            done,
        } = insert;
        let recorded = match &self.keeps {
            Some(keeps) => {
                let (offset, generation) = (input.position(), self.mark.generation);
                let record = recorded(&event, &name(&self.key), offset, generation);
                let stream = &keeps.ticks_stream;
                ticks::append(stream, record, Some(producer))
                    .await
                    .map(|read| {
                        read.map(|read| Tick {
                            offset,
                            watermark: event.event.times()[0],
                            read,
                            event: Some(event),
                        })
                    })
            }
            None => Err(Error::new(Class::Permanent, "flow.worker")),
        };
        let told = recorded.map(|tick| {
            // One that had been recorded before is among those that were read at the start.
            if let Some(tick) = tick {
                input.tick(tick);
            }
        });
        // Whoever asked may be gone.
        let _ = done.send(told);
    }
}

/// An event as it is recorded.
fn recorded(again: &EventAgain, task: &str, offset: u64, generation: u64) -> Batch {
    let event = again.event.event(0);
    let (offset, generation) = (offset.to_string(), generation.to_string());
    let mut tags: Vec<(&str, &str)> = event.tags().collect();
    tags.extend([(OFFSET, offset.as_str()), (GENERATION, generation.as_str())]);
    tags.extend(event.key.map(|key| (KEY, key)));
    tags.extend(again.own_side.then_some((OWN_SIDE, "")));
    single(
        &event,
        Some(task),
        event.flags.with_reserved_tags(true),
        &tags,
    )
}

/// The event that was recorded, and its offset; none if it is of another generation, or no event.
pub(super) fn unrecorded(record: &EventRef<'_>, generation: u64) -> Option<(u64, EventAgain)> {
    let tag = |name: &str| {
        record
            .tags()
            .find(|(tag, _)| *tag == name)
            .map(|(_, value)| value)
    };
    let offset = tag(OFFSET)?.parse().ok()?;
    if tag(GENERATION)?.parse() != Ok(generation) {
        return None;
    }
    let own = [OFFSET, GENERATION, KEY, OWN_SIDE];
    let tags: Vec<(&str, &str)> = record
        .tags()
        .filter(|(tag, _)| !own.contains(tag))
        .collect();
    let reserved = tags
        .iter()
        .any(|(tag, _)| tag.starts_with('$') && !tag.starts_with("$$"));
    let flags = record.flags.with_reserved_tags(reserved);
    let again = EventAgain {
        event: single(record, tag(KEY), flags, &tags),
        own_side: tag(OWN_SIDE).is_some(),
    };
    Some((offset, again))
}

/// Whether a record is an event, and no tick.
pub(super) fn is_event(record: &EventRef<'_>) -> bool {
    record.tags().any(|(tag, _)| tag == OFFSET)
}

fn single(
    event: &EventRef<'_>,
    key: Option<&str>,
    flags: busbar_event::Flags,
    tags: &[(&str, &str)],
) -> Batch {
    let mut builder = BatchBuilder::new();
    let topic = builder.topic_id(event.topic);
    builder.push(Row {
        topic,
        key,
        time: event.time,
        client: None,
        flags,
        tags,
        payload: &event.payload,
    });
    builder.finish()
}
