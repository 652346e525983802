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
        let whole = self.whole();
        self.fetch(whole).await;
        let gathered = self.gather(whole)?;
        Ok(Next::Stretch(self.cut(gathered)))
    }

    /// Up to which offset rows come in one stretch where the log holds them: an output that knows a batch without keeping its
    /// position with the rows recognises it only as a whole.
    fn whole(&self) -> u64 {
        let base = self.position();
        let mut cuts = self.cuts.range(base + self.ticked + 1..);
        let cut = cuts.next().map_or(base, |cut| *cut - self.ticked);
        let tick = self.ticks.front().map_or(u64::MAX, |tick| tick.offset);
        let most = base + BATCH_ROWS_MAX as u64;
        Some(cut.min(tick))
            .filter(|end| *end <= most)
            .unwrap_or(base)
    }

    /// Reads what is missing up to an offset, as far as it can be read now. What went wrong is found again when this is all
    /// there is to do.
    async fn fetch(&mut self, end: u64) {
        let mut bytes: usize = self.rest.iter().map(|part| part.batch.bytes()).sum();
        while self.cursor.position() < end
            && self.cursor.lag() > 0
            && bytes <= BATCH_BYTES_MAX
            && self.gap.is_none()
        {
            match self.cursor.next().await {
                Ok(Item::Chunk(chunk)) => {
                    bytes += chunk.batch.bytes();
                    self.rest.push_back(Stretch {
                        base: chunk.base,
                        batch: chunk.batch,
                    });
                }
                Ok(Item::Gap(gap)) => self.gap = Some((gap.resume - gap.from, gap.cause)),
                Err(_) => break,
            }
        }
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

    /// Puts together what is there already, up to a full batch, and at least up to `whole`.
    fn gather(&mut self, whole: u64) -> Result<Stretch, Error> {
        let Some(first) = self.rest.pop_front() else {
            return Err(stopped());
        };
        let (mut rows, mut bytes) = (first.batch.rows(), first.batch.bytes());
        let mut end = first.end();
        let mut all = vec![first];
        while (rows < GATHER_ROWS || end < whole) && bytes < BATCH_BYTES_MAX {
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
            // The rows behind `whole` are cut off again.
            let rows_most = match end < whole {
                true => 2 * BATCH_ROWS_MAX,
                false => BATCH_ROWS_MAX,
            };
            let bytes_most = match end < whole {
                true => 2 * BATCH_BYTES_MAX,
                false => BATCH_BYTES_MAX,
            };
            let fits = rows + next.batch.rows() <= rows_most
                && bytes + next.batch.bytes() <= bytes_most
                && end == next.base
                && same_body(&all[0].batch, &next.batch);
            if !fits {
                self.rest.push_front(next);
                break;
            }
            rows += next.batch.rows();
            bytes += next.batch.bytes();
            end = next.end();
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use busbar_bus::{Bus, BusOptions, INBOX};
    use busbar_event::{BatchBuilder, Flags, Row};
    use busbar_log::{Log, LogOptions, SystemClock, sim::SimDisk};

    use super::*;

    fn rows(count: usize) -> Batch {
        let mut builder = BatchBuilder::new();
        let topic = builder.topic_id("t");
        for _ in 0..count {
            builder.push(Row {
                topic,
                key: None,
                time: 1,
                client: None,
                flags: Flags::default(),
                tags: &[],
                payload: b"x",
            });
        }
        builder.finish()
    }

    /// The log merges what was appended, so that it comes in other chunks after a restart.
    #[tokio::test]
    async fn what_an_output_may_know_comes_as_a_whole_whatever_the_chunks() {
        let clock = Arc::new(SystemClock);
        let disk = Arc::new(SimDisk::new(0));
        let log = Log::open(disk, Path::new("/test"), LogOptions::default(), clock);
        let bus = Bus::open(log.expect("a log"), BusOptions::default()).expect("a bus");
        let partition = Arc::clone(&bus.stream(INBOX).expect("a stream").partitions()[0]);
        for count in [GATHER_ROWS, 100, 100, BATCH_ROWS_MAX] {
            let appended = partition.append_rows(rows(count), None);
            appended.await.expect("appended");
        }
        let first = GATHER_ROWS as u64;
        let most = BATCH_ROWS_MAX as u64;
        for (position, cuts, expected) in [
            (0, vec![], first),
            (0, vec![first + 60], first + 60),
            (0, vec![first + 60, first + 90], first + 60),
            (0, vec![most], most),
            (1, vec![first + 200], first + 200),
            // No batch had so many rows.
            (0, vec![most + 1], first),
            // Behind the end of the log.
            (
                first + 200 + most - 5,
                vec![first + 200 + most + 5],
                first + 200 + most,
            ),
        ] {
            let cuts: BTreeSet<u64> = cuts.into_iter().collect();
            let shown = format!("{position} {cuts:?}");
            let mut input = InputReader::new(&partition, position, cuts, VecDeque::new(), 0);
            let Next::Stretch(stretch) = input.next().await.expect("rows") else {
                panic!("no rows: {shown}");
            };
            assert_eq!(
                (stretch.base, stretch.end()),
                (position, expected),
                "{shown}"
            );
            assert_eq!(input.position(), expected, "{shown}");
        }
    }
}
