//! The state of windows of one length: partial aggregates of each pane.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use busbar_event::{Class, Error};
use busbar_sql::{Aggregation, Groups, Inputs};

use super::closed::Closed;
use super::shape::{PaneKey, Shape};
use crate::limits::WINDOW_PARTS_MAX;
use crate::operator::{Changes, StateReader, ipc};

/// Open panes and what their rows add up to.
///
/// The rows of a pane since the last snapshot are in `active` accumulators. A snapshot turns them into a *part*, an
/// immutable record batch of aggregate states that is written once: so a snapshot costs what has changed. A
/// window merges the parts of its panes when it closes.
pub(super) struct Panes {
    shape: Shape,
    aggregation: Arc<Aggregation>,
    panes: BTreeMap<PaneKey, Pane>,
    /// Windows before this one are closed.
    next_window: i64,
    next_part: u64,
    /// Parts that are stored and not needed any more.
    obsolete: Vec<PartKey>,
    state: Option<Arc<dyn StateReader>>,
    changed: bool,
}

#[derive(Default)]
struct Pane {
    active: Option<Groups>,
    parts: Vec<Part>,
}

struct Part {
    number: u64,
    rows: usize,
    /// None when it is on disk only.
    state: Option<RecordBatch>,
    stored: bool,
}

type PartKey = (PaneKey, u64);

impl Panes {
    pub fn new(shape: Shape, aggregation: Arc<Aggregation>) -> Self {
        Self {
            shape,
            aggregation,
            panes: BTreeMap::new(),
            next_window: i64::MIN,
            next_part: 0,
            obsolete: Vec::new(),
            state: None,
            changed: false,
        }
    }

    /// Counts rows in; returns those that are late for all their windows.
    pub fn add(
        &mut self,
        inputs: &Inputs,
        times: &[i64],
        marks: &[i64],
    ) -> Result<Vec<u32>, Error> {
        let (panes, late) = by_pane(&self.shape, times, marks);
        for (key, rows) in panes {
            rows.update(self.active(key)?, inputs)?;
        }
        Ok(late)
    }

    /// Merges partial aggregates of one pane, which another stage made.
    pub fn merge(&mut self, key: PaneKey, state: &RecordBatch) -> Result<(), Error> {
        self.active(key)?.merge(state)
    }

    fn active(&mut self, key: PaneKey) -> Result<&mut Groups, Error> {
        let pane = self.panes.entry(key).or_default();
        Ok(match &mut pane.active {
            Some(groups) => groups,
            active => active.insert(self.aggregation.groups()?),
        })
    }

    /// Closes the windows that end at the watermark or before, in the order of their ends.
    pub fn close(&mut self, watermark: i64) -> Result<Vec<Closed>, Error> {
        let mut closed = Vec::new();
        while let Some(start) = self.earliest() {
            let end = self.shape.end(start);
            if end > watermark {
                break;
            }
            let result = self.result(start, true)?;
            closed.push(Closed::at(end, result));
            self.next_window = self.shape.next(start);
            self.changed = true;
            self.drop_closed();
        }
        Ok(closed)
    }

    /// The results of the windows that are open at a watermark, as they stand.
    pub fn early(&mut self, watermark: i64) -> Result<Vec<Closed>, Error> {
        let mut starts: Vec<i64> = Vec::new();
        for key in self.panes.keys() {
            let mut start = key.first_window.max(self.next_window);
            while start <= self.shape.last_window(key.start) {
                starts.push(start);
                start = self.shape.next(start);
            }
        }
        starts.retain(|start| self.shape.end(*start) > watermark);
        starts.sort_unstable();
        starts.dedup();
        let mut results = Vec::with_capacity(starts.len());
        for start in starts {
            let result = self.result(start, false)?;
            results.push(Closed::at(self.shape.end(start), result));
        }
        Ok(results)
    }

    /// When the next window ends; none when nothing is open.
    pub fn next_end(&self) -> Option<i64> {
        self.earliest().map(|start| self.shape.end(start))
    }

    /// What has changed since the last snapshot.
    pub fn snapshot(&mut self, changes: &mut Changes) -> Result<(), Error> {
        let keys: Vec<PaneKey> = self.panes.keys().copied().collect();
        for key in keys {
            self.freeze(key)?;
            self.compact(key)?;
            let Some(pane) = self.panes.get_mut(&key) else {
                continue;
            };
            for part in pane.parts.iter_mut().filter(|part| !part.stored) {
                if let Some(state) = &part.state {
                    changes.put(part_key((key, part.number)), ipc::encode(state)?);
                    part.stored = true;
                }
            }
        }
        for part in self.obsolete.drain(..) {
            changes.delete(part_key(part));
        }
        if std::mem::take(&mut self.changed) {
            changes.put(NEXT_WINDOW, self.next_window.to_be_bytes().to_vec());
        }
        Ok(())
    }

    /// Takes up what snapshots wrote.
    pub fn restore(&mut self, state: Arc<dyn StateReader>) -> Result<(), Error> {
        let schema = self.aggregation.state_schema();
        let mut panes: BTreeMap<PaneKey, Pane> = BTreeMap::new();
        let mut next_part = 0;
        state.scan(PART_PREFIX, &mut |key, value| {
            let (pane, number) = parse_part_key(key)?;
            let state = ipc::decode(&value, &schema)?;
            next_part = next_part.max(number + 1);
            panes.entry(pane).or_default().parts.push(Part {
                number,
                rows: state.num_rows(),
                state: Some(state),
                stored: true,
            });
            Ok(())
        })?;
        if let Some(value) = state.get(NEXT_WINDOW)? {
            self.next_window = micros(&value)?;
        }
        self.panes = panes;
        self.next_part = next_part;
        self.state = Some(state);
        Ok(())
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> usize {
        let of_pane = |pane: &Pane| {
            let active = pane.active.as_ref().map_or(0, Groups::bytes);
            let parts = pane.parts.iter().filter_map(|part| part.state.as_ref());
            active + parts.map(RecordBatch::get_array_memory_size).sum::<usize>()
        };
        self.panes.values().map(of_pane).sum()
    }

    /// Drops about so many bytes of parts from memory that the last snapshot holds, those of the last windows first.
    pub fn shrink(&mut self, bytes: usize) {
        if self.state.is_none() {
            return;
        }
        let mut freed = 0;
        let panes = self.panes.values_mut().rev();
        for part in panes
            .flat_map(|pane| &mut pane.parts)
            .filter(|part| part.stored)
        {
            if freed >= bytes {
                return;
            }
            freed += part
                .state
                .take()
                .map_or(0, |state| state.get_array_memory_size());
        }
    }

    /// The beginning of the first window that is not closed and has rows.
    fn earliest(&self) -> Option<i64> {
        self.panes
            .keys()
            .map(|key| key.first_window.max(self.next_window))
            .min()
    }

    /// What a window's panes add up to. `last`: the window is closed by it.
    fn result(&mut self, start: i64, last: bool) -> Result<RecordBatch, Error> {
        let keys: Vec<PaneKey> = self
            .panes
            .keys()
            .filter(|key| self.shape.counts(start, **key))
            .copied()
            .collect();
        let early: ArrayRef = Arc::new(BooleanArray::from(vec![!last]));
        let group_columns = [time_array(start), time_array(self.shape.end(start)), early];
        let group_columns = &group_columns[..self.aggregation.group_column_count()];
        // The common case: one pane that no snapshot has seen.
        if last
            && let [key] = keys[..]
            && self.shape.last_window(key.start) == start
            && let Some(pane) = self.panes.get_mut(&key)
            && pane.parts.is_empty()
            && let Some(groups) = pane.active.take()
        {
            return Ok(groups.finish(group_columns)?.0);
        }
        let mut merged = self.aggregation.groups()?;
        for key in keys {
            self.freeze(key)?;
            let Some(pane) = self.panes.get(&key) else {
                continue;
            };
            for part in &pane.parts {
                merged.merge(&self.part(key, part)?)?;
            }
        }
        Ok(merged.finish(group_columns)?.0)
    }

    fn part(&self, key: PaneKey, part: &Part) -> Result<RecordBatch, Error> {
        if let Some(state) = &part.state {
            return Ok(state.clone());
        }
        let stored = match &self.state {
            Some(state) => state.get(&part_key((key, part.number)))?,
            None => None,
        };
        let value = stored.ok_or_else(|| Error::new(Class::Permanent, "flow.state-missing"))?;
        ipc::decode(&value, &self.aggregation.state_schema())
    }

    /// Turns the active accumulators of a pane into a part.
    fn freeze(&mut self, key: PaneKey) -> Result<(), Error> {
        let Some(pane) = self.panes.get_mut(&key) else {
            return Ok(());
        };
        let Some(mut groups) = pane.active.take() else {
            return Ok(());
        };
        let state = groups.take_state()?;
        pane.parts.push(Part {
            number: self.next_part,
            rows: state.num_rows(),
            state: Some(state),
            stored: false,
        });
        self.next_part += 1;
        Ok(())
    }

    /// Merges the newest parts while one is at least half as large as the one before it, so that their number
    /// grows with the logarithm of the rows and each row is written again that often.
    fn compact(&mut self, key: PaneKey) -> Result<(), Error> {
        loop {
            let Some(pane) = self.panes.get(&key) else {
                return Ok(());
            };
            let [.., before, newest] = &pane.parts[..] else {
                return Ok(());
            };
            if newest.rows * 2 < before.rows && pane.parts.len() <= WINDOW_PARTS_MAX {
                return Ok(());
            }
            let mut merged = self.aggregation.groups()?;
            merged.merge(&self.part(key, before)?)?;
            merged.merge(&self.part(key, newest)?)?;
            let state = merged.take_state()?;
            let merged = Part {
                number: self.next_part,
                rows: state.num_rows(),
                state: Some(state),
                stored: false,
            };
            self.next_part += 1;
            if let Some(pane) = self.panes.get_mut(&key) {
                for part in pane.parts.drain(pane.parts.len() - 2..) {
                    if part.stored {
                        self.obsolete.push((key, part.number));
                    }
                }
                pane.parts.push(merged);
            }
        }
    }

    /// Drops the panes that no open window counts.
    fn drop_closed(&mut self) {
        let (shape, next) = (self.shape, self.next_window);
        let obsolete = &mut self.obsolete;
        self.panes.retain(|key, pane| {
            let keep = shape.last_window(key.start) >= next;
            if !keep {
                let stored = pane.parts.iter().filter(|part| part.stored);
                obsolete.extend(stored.map(|part| (*key, part.number)));
            }
            keep
        });
    }
}

/// Rows of one pane.
pub(super) enum PaneRows {
    /// Rows in a row.
    Range(std::ops::Range<usize>),
    Some(Vec<u32>),
}

impl PaneRows {
    /// Counts the rows into groups.
    pub fn update(self, groups: &mut Groups, inputs: &Inputs) -> Result<(), Error> {
        match self {
            PaneRows::Range(range) if range.len() == inputs.rows() => groups.update(inputs),
            PaneRows::Range(range) => groups.update(&inputs.slice(range)),
            PaneRows::Some(rows) => groups.update(&inputs.take(&UInt32Array::from(rows))?),
        }
    }
}

/// The rows of each pane, and those that are late for all their windows.
pub(super) fn by_pane(
    shape: &Shape,
    times: &[i64],
    marks: &[i64],
) -> (Vec<(PaneKey, PaneRows)>, Vec<u32>) {
    let mut late = Vec::new();
    let mut panes: Vec<(PaneKey, PaneRows)> = Vec::new();
    let mut current = 0;
    for (row, (time, mark)) in times.iter().zip(marks).enumerate() {
        let Some(key) = shape.pane(*time, *mark) else {
            late.push(row as u32);
            continue;
        };
        if panes.get(current).is_none_or(|(known, _)| *known != key) {
            current = match panes.iter().position(|(known, _)| *known == key) {
                Some(place) => place,
                None => {
                    panes.push((key, PaneRows::Range(row..row)));
                    panes.len() - 1
                }
            };
        }
        let rows = &mut panes[current].1;
        match rows {
            PaneRows::Range(range) if range.end == row => range.end += 1,
            PaneRows::Range(range) => {
                let mut some: Vec<u32> = range.clone().map(|row| row as u32).collect();
                some.push(row as u32);
                *rows = PaneRows::Some(some);
            }
            PaneRows::Some(some) => some.push(row as u32),
        }
    }
    (panes, late)
}

const PART_PREFIX: &[u8] = b"p";
const NEXT_WINDOW: &[u8] = b"next";

/// `p`, pane, first window and number, so that the parts of a pane are read in their order.
fn part_key((pane, number): PartKey) -> Vec<u8> {
    let mut key = Vec::with_capacity(25);
    key.extend_from_slice(PART_PREFIX);
    key.extend_from_slice(&ordered(pane.start));
    key.extend_from_slice(&ordered(pane.first_window));
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn parse_part_key(key: &[u8]) -> Result<PartKey, Error> {
    let number = |at: usize| -> Result<u64, Error> {
        let bytes = key.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_be_bytes).ok_or_else(damaged)
    };
    let pane = PaneKey {
        start: unordered(number(1)?),
        first_window: unordered(number(9)?),
    };
    Ok((pane, number(17)?))
}

fn micros(value: &[u8]) -> Result<i64, Error> {
    value
        .try_into()
        .map(i64::from_be_bytes)
        .map_err(|_| damaged())
}

/// Bytes in the order of the number.
fn ordered(number: i64) -> [u8; 8] {
    ((number as u64) ^ (1 << 63)).to_be_bytes()
}

fn unordered(number: u64) -> i64 {
    (number ^ (1 << 63)) as i64
}

fn damaged() -> Error {
    Error::new(Class::Permanent, "flow.state-damaged")
}

fn time_array(micros: i64) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(vec![micros]).with_timezone("UTC"))
}
