//! Events that are read from the log and into rows once, for many runs over them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use arrow::array::Array;
use busbar_bus::{Cursor, Item};
use busbar_event::{Batch, Body, Class, Error};

use super::{BoundedInput, Read};
use crate::chain::{Chain, EventRows};
use crate::compile::Plan;
use crate::limits::{LINEAGE_BATCH_EVENTS_MAX, LINEAGE_BYTES_MAX, TRACE_READ_BYTES};

/// The events that runs read, for each input of the plan and partition in the order of the log.
#[derive(Default)]
pub(crate) struct KeptEvents {
    rows: BTreeMap<(usize, u16), Vec<Arc<KeptRows>>>,
    /// How many there are.
    pub events: u64,
    /// Whether some could not be read any more.
    pub has_gap: bool,
}

/// Events of a partition that follow one another, with no tick between them.
pub(crate) struct KeptRows {
    /// The offset of the first.
    pub base: u64,
    /// The events as the log has them.
    pub events: Batch,
    rows: EventRows,
}

impl KeptEvents {
    /// Reads the events of these inputs; none where they are more than [`LINEAGE_BYTES_MAX`].
    ///
    /// # Errors
    /// Those of the disk, and of a batch that cannot be read into rows.
    pub fn read(plan: &Plan, inputs: &[BoundedInput]) -> Result<Option<KeptEvents>, Error> {
        // Partitions are read side by side, so that in small batches none is far ahead of the others.
        let rows_max = (LINEAGE_BATCH_EVENTS_MAX / inputs.len().max(1)).max(1);
        let mut kept = KeptEvents::default();
        let mut bytes = 0;
        for input in inputs {
            let mut chain = plan.inputs[input.input].chain(&[])?;
            let place = (input.input, input.partition.number());
            let its = kept.rows.entry(place).or_default();
            let cursor = Cursor::new(Arc::clone(&input.partition), input.offsets.start);
            let mut cursor = cursor.with_read_bytes(TRACE_READ_BYTES);
            let mut gathered = GatheredFrames::default();
            while cursor.position() < input.offsets.end {
                let (mut base, mut events) = match cursor.try_next()? {
                    Some(Item::Chunk(chunk)) => (chunk.base, chunk.batch),
                    Some(Item::Gap(_)) => {
                        kept.has_gap = true;
                        continue;
                    }
                    None => break,
                };
                let end = input.offsets.end.saturating_sub(base);
                events = events.slice(0, (events.rows() as u64).min(end) as usize);
                bytes += events.bytes();
                if bytes > LINEAGE_BYTES_MAX {
                    return Ok(None);
                }
                kept.events += events.rows() as u64;
                while !events.is_empty() {
                    let ticks = &input.ticks;
                    let next = ticks.partition_point(|tick| tick.offset <= base);
                    let cut = ticks.get(next).map_or(u64::MAX, |tick| tick.offset - base);
                    let rows = cut.min(events.rows() as u64) as usize;
                    let part = events.slice(0, rows);
                    let last = next.checked_sub(1).and_then(|last| ticks.get(last));
                    let is_ticked = last.is_some_and(|tick| tick.offset == base);
                    if is_ticked || !gathered.has_room(base, &part, rows_max) {
                        gathered.end(&mut chain, its)?;
                    }
                    gathered.add(base, part);
                    events = events.slice(rows, events.rows() - rows);
                    base += rows as u64;
                }
            }
            gathered.end(&mut chain, its)?;
        }
        Ok(Some(kept))
    }

    /// Those of an input and partition.
    pub(super) fn of(&self, place: (usize, u16)) -> VecDeque<Arc<KeptRows>> {
        let its = self.rows.get(&place).into_iter().flatten();
        its.cloned().collect()
    }

    /// All of them, with their inputs and partitions.
    pub fn iter(&self) -> impl Iterator<Item = ((usize, u16), &KeptRows)> {
        let all = self.rows.iter();
        all.flat_map(|(place, rows)| rows.iter().map(move |rows| (*place, &**rows)))
    }

    /// The event at an offset: a batch of one.
    pub fn event(&self, place: (usize, u16), offset: u64) -> Option<Batch> {
        let its = self.rows.get(&place)?;
        let behind = its.partition_point(|rows| rows.base <= offset);
        let rows = its.get(behind.checked_sub(1)?)?;
        let at = (offset - rows.base) as usize;
        (at < rows.events.rows()).then(|| rows.events.slice(at, 1))
    }
}

impl KeptRows {
    /// The events with those of these offsets alone as rows, or with all.
    pub(super) fn read(&self, picked: Option<&BTreeSet<u64>>) -> Result<Read, Error> {
        let events = self.events.rows() as u64;
        let rows = match picked {
            None => self.rows.clone(),
            Some(picked) => {
                let its = picked.range(self.base..self.base + events);
                let places: Vec<u32> = its.map(|offset| (offset - self.base) as u32).collect();
                self.rows.pick(&places)?
            }
        };
        Ok(Read::Rows(events, rows))
    }
}

/// Batches that follow one another and become one.
#[derive(Default)]
struct GatheredFrames {
    base: u64,
    batches: Vec<Batch>,
    rows: usize,
}

impl GatheredFrames {
    /// Whether a batch fits behind the others, or there are none.
    fn has_room(&self, base: u64, batch: &Batch, rows_max: usize) -> bool {
        let Some(last) = self.batches.last() else {
            return true;
        };
        let is_alike = match (last.body(), batch.body()) {
            (Body::Payload(_), Body::Payload(_)) => true,
            (Body::Columns(one), Body::Columns(other)) => one.data_type() == other.data_type(),
            _ => false,
        };
        is_alike && self.base + self.rows as u64 == base && self.rows + batch.rows() <= rows_max
    }

    fn add(&mut self, base: u64, batch: Batch) {
        if self.batches.is_empty() {
            self.base = base;
        }
        self.rows += batch.rows();
        self.batches.push(batch);
    }

    /// Reads what was gathered into rows.
    fn end(&mut self, chain: &mut Chain, into: &mut Vec<Arc<KeptRows>>) -> Result<(), Error> {
        let gathered = std::mem::take(self);
        if gathered.batches.is_empty() {
            return Ok(());
        }
        // Events that cannot be read together are read in halves; the first half comes first.
        let mut open = vec![(gathered.base, Batch::concat(&gathered.batches)?)];
        while let Some((base, events)) = open.pop() {
            match chain.stream_rows(events.clone()) {
                Ok(Some(rows)) => into.push(Arc::new(KeptRows { base, events, rows })),
                Ok(None) => {}
                Err(e) if e.class() == Class::Permanent && events.rows() > 1 => {
                    let middle = events.rows() / 2;
                    let rest = events.slice(middle, events.rows() - middle);
                    open.push((base + middle as u64, rest));
                    open.push((base, events.slice(0, middle)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
