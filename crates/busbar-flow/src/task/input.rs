//! The input of a task: many small chunks become one batch, ticks come where they were recorded, and batches are cut
//! where outputs demand it.
//!
//! Outputs know a task's writes by the *sequence number* of its input: the number of events and ticks before. Without
//! ticks it is the offset.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use arrow::array::Array;
use busbar_bus::{Cursor, Item, StreamPartition};
use busbar_event::{Batch, Body, Error};

use super::insert::EventAgain;
use super::stopped;
use crate::limits::{BATCH_BYTES_MAX, BATCH_ROWS_MAX, GATHER_ROWS, READ_BYTES};

/// Input rows in a row.
pub(super) struct Stretch {
    pub base: u64,
    pub batch: Batch,
}

impl Stretch {
    pub fn end(&self) -> u64 {
        self.base + self.batch.rows() as u64
    }
}

/// Gathers input.
pub(super) struct InputReader {
    cursor: Cursor,
    rest: VecDeque<Stretch>,
    /// Found behind the rows in `rest`.
    gap: Option<(u64, Error)>,
    /// Sequence numbers at which input must be cut: those that an output knows already, and the middles of batches that
    /// could not be taken whole.
    cuts: BTreeSet<u64>,
    /// Ticks that are still to come, in order.
    ticks: VecDeque<Tick>,
    /// Number of ticks that have come.
    ticked: u64,
}

/// A tick: behind the event before `offset`, event time has reached `watermark` although no event had come.
#[derive(Clone, Debug)]
pub(crate) struct Tick {
    pub offset: u64,
    /// In microseconds since 1970.
    pub watermark: i64,
    /// Offset behind it in the flow's stream of ticks.
    pub read: u64,
    /// An event that was sent through the flow again, in place of time alone.
    pub event: Option<EventAgain>,
}

pub(super) enum Next {
    Stretch(Stretch),
    Tick(Tick),
    /// So many events are gone, and why.
    Gap(u64, Error),
}

impl InputReader {
    pub fn new(
        partition: &Arc<StreamPartition>,
        position: u64,
        cuts: BTreeSet<u64>,
        ticks: VecDeque<Tick>,
        ticked: u64,
    ) -> Self {
        InputReader {
            cursor: Cursor::new(Arc::clone(partition), position).with_read_bytes(READ_BYTES),
            rest: VecDeque::new(),
            gap: None,
            cuts,
            ticks,
            ticked,
        }
    }

    /// Whether everything that was committed has come.
    pub fn at_end(&self) -> bool {
        self.rest.is_empty() && self.gap.is_none() && self.cursor.lag() == 0
    }

    /// A tick that was just recorded.
    pub fn tick(&mut self, tick: Tick) {
        self.ticks.push_back(tick);
    }

    /// The offset of what comes next.
    pub fn position(&self) -> u64 {
        self.rest
            .front()
            .map_or_else(|| self.cursor.position(), |stretch| stretch.base)
    }

    /// The next rows; waits for them. Cancelling loses nothing: what was read is kept in `rest`.
    pub async fn next(&mut self) -> Result<Next, Error> {
        let at = self.position();
        if let Some(tick) = self.ticks.pop_front_if(|tick| tick.offset <= at) {
            self.ticked += 1;
            return Ok(Next::Tick(tick));
        }
        if self.rest.is_empty() {
            if let Some((missed, cause)) = self.gap.take() {
                return Ok(Next::Gap(missed, cause));
            }
            match self.cursor.next().await? {
                Item::Gap(gap) => return Ok(Next::Gap(gap.resume - gap.from, gap.cause)),
                Item::Chunk(chunk) => {
                    self.rest.push_back(Stretch {
                        base: chunk.base,
                        batch: chunk.batch,
                    });
                }
            }
        }
        let gathered = self.gather()?;
        Ok(Next::Stretch(self.cut(gathered)))
    }

    /// Gives rows back, to be read again.
    pub fn give_back(&mut self, stretch: Stretch) {
        self.rest.push_front(stretch);
    }

    /// The events from `base` to `end` cannot be taken together; they come again in two halves.
    pub fn halve(&mut self, base: u64, end: u64) {
        self.cuts.insert(base + (end - base) / 2);
        self.cuts.insert(end);
    }

    /// Goes back to `position`; cuts stay.
    pub fn seek(&mut self, position: u64) {
        self.rest.clear();
        self.gap = None;
        self.cursor.seek(position);
    }

    /// Puts together what is there already, up to a full batch.
    fn gather(&mut self) -> Result<Stretch, Error> {
        let Some(first) = self.rest.pop_front() else {
            return Err(stopped());
        };
        let (mut rows, mut bytes) = (first.batch.rows(), first.batch.bytes());
        let mut all = vec![first];
        while rows < GATHER_ROWS && bytes < BATCH_BYTES_MAX {
            let next = match self.rest.pop_front() {
                Some(next) => next,
                None if self.gap.is_some() => break,
                // What went wrong is found again when this is all there is to do.
                None => match self.cursor.poll_memory() {
                    Ok(Some(Item::Chunk(chunk))) => Stretch {
                        base: chunk.base,
                        batch: chunk.batch,
                    },
                    Ok(Some(Item::Gap(gap))) => {
                        self.gap = Some((gap.resume - gap.from, gap.cause));
                        break;
                    }
                    Ok(None) | Err(_) => break,
                },
            };
            let fits = rows + next.batch.rows() <= BATCH_ROWS_MAX
                && bytes + next.batch.bytes() <= BATCH_BYTES_MAX
                && all.last().is_some_and(|last| last.end() == next.base)
                && same_body(&all[0].batch, &next.batch);
            if !fits {
                self.rest.push_front(next);
                break;
            }
            rows += next.batch.rows();
            bytes += next.batch.bytes();
            all.push(next);
        }
        let base = all[0].base;
        let mut batch = match all.len() {
            1 => all.swap_remove(0).batch,
            _ => Batch::concat(&all.into_iter().map(|s| s.batch).collect::<Vec<_>>())?,
        };
        if batch.rows() > BATCH_ROWS_MAX {
            let rest = batch.slice(BATCH_ROWS_MAX, batch.rows() - BATCH_ROWS_MAX);
            self.rest.push_front(Stretch {
                base: base + BATCH_ROWS_MAX as u64,
                batch: rest,
            });
            batch = batch.slice(0, BATCH_ROWS_MAX);
        }
        Ok(Stretch { base, batch })
    }

    /// Cuts a stretch at the first place where it must be.
    fn cut(&mut self, stretch: Stretch) -> Stretch {
        let tick = self.ticks.front().map(|tick| tick.offset);
        if self.cuts.is_empty() && tick.is_none() {
            return stretch;
        }
        let (base, ticked) = (stretch.base, self.ticked);
        self.cuts.retain(|cut| *cut > base + ticked);
        let cut = self.cuts.first().map(|cut| *cut - ticked);
        let cut = cut.into_iter().chain(tick).min();
        let Some(cut) = cut.filter(|cut| *cut > base && *cut < stretch.end()) else {
            return stretch;
        };
        let rows = (cut - stretch.base) as usize;
        let rest = stretch.batch.slice(rows, stretch.batch.rows() - rows);
        self.rest.push_front(Stretch {
            base: cut,
            batch: rest,
        });
        Stretch {
            base: stretch.base,
            batch: stretch.batch.slice(0, rows),
        }
    }
}

fn same_body(a: &Batch, b: &Batch) -> bool {
    match (a.body(), b.body()) {
        (Body::Payload(_), Body::Payload(_)) => true,
        (Body::Columns(a), Body::Columns(b)) => a.data_type() == b.data_type(),
        _ => false,
    }
}
