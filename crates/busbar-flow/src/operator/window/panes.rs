//! The state of windows of one length: partial aggregates of each pane.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use busbar_event::{Class, Error};
use busbar_sql::{Aggregation, GroupResults, Groups, Inputs};

use super::closed::Closed;
use super::shape::{PaneKey, Shape};
use crate::limits::WINDOW_MERGE_ROWS;
use crate::operator::aside::Aside;
use crate::operator::{Changes, StateReader, ipc};

/// Open panes and what their rows add up to.
///
/// The rows of a pane since the last snapshot are in `active` accumulators. A snapshot turns them into a *part*, an
/// immutable record batch of aggregate states: so a snapshot costs what has changed. Parts are merged now and then, large
/// ones on another thread, and a window merges those of its panes when it closes.
pub(super) struct Panes {
    shape: Shape,
    aggregation: Arc<Aggregation>,
    panes: BTreeMap<PaneKey, Pane>,
    /// Windows before this one are closed.
    next_window: i64,
    next_part: u64,
    /// Parts that are stored and not needed any more.
    obsolete: Vec<PartKey>,
    merging: Option<Merging>,
    state: Option<Arc<dyn StateReader>>,
    changed: bool,
}

#[derive(Default)]
struct Pane {
    active: Option<Groups>,
    parts: Vec<Part>,
}

/// Partial aggregates, one row for each combination of keys.
struct Part {
    /// Parts of a pane stand in the order of their numbers, which is that in which their rows came.
    number: u64,
    rows: usize,
    /// None when it is on disk only.
    state: Option<RecordBatch>,
    /// The last snapshot has its state.
    stored: bool,
    /// The last snapshot has a part of this number, perhaps one that this part has replaced.
    kept: bool,
}

type PartKey = (PaneKey, u64);

/// Parts of a pane that are being merged on another thread.
struct Merging {
    pane: PaneKey,
    /// The numbers of the first and the last of them.
    first: u64,
    last: u64,
    merged: Aside<Result<RecordBatch, Error>>,
}

/// Where the state of a part is.
enum PartSource {
    Memory(RecordBatch),
    Disk(Option<Arc<dyn StateReader>>, Vec<u8>),
}

impl PartSource {
    fn read(self, aggregation: &Aggregation) -> Result<RecordBatch, Error> {
        let (state, key) = match self {
            PartSource::Memory(state) => return Ok(state),
            PartSource::Disk(state, key) => (state, key),
        };
        let stored = match state {
            Some(state) => state.get(&key)?,
            None => None,
        };
        let value = stored.ok_or_else(|| Error::new(Class::Permanent, "flow.state-missing"))?;
        ipc::decode(&value, &aggregation.state_schema())
    }
}

/// Parts as one, in their order.
fn merged(aggregation: &Aggregation, parts: Vec<PartSource>) -> Result<RecordBatch, Error> {
    let mut groups = aggregation.groups()?;
    for part in parts {
        groups.merge(&part.read(aggregation)?)?;
    }
    groups.take_state()
}

/// How many of the last parts are to be merged: each that is at most twice as large as those behind it together.
fn to_merge(parts: &[Part]) -> usize {
    let (mut count, mut rows) = (0, 0);
    for part in parts.iter().rev() {
        if count > 0 && rows * 2 < part.rows {
            break;
        }
        count += 1;
        rows += part.rows;
    }
    count
}

impl Panes {
    pub fn new(shape: Shape, aggregation: Arc<Aggregation>) -> Self {
        Self {
            shape,
            aggregation,
            panes: BTreeMap::new(),
            next_window: i64::MIN,
            next_part: 0,
            obsolete: Vec::new(),
            merging: None,
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
        self.take_merged()?;
        let keys: Vec<PaneKey> = self.panes.keys().copied().collect();
        for key in &keys {
            self.freeze(*key)?;
            self.compact(*key)?;
        }
        for (key, pane) in &mut self.panes {
            for part in pane.parts.iter_mut().filter(|part| !part.stored) {
                if let Some(state) = part.state.clone() {
                    changes.put_made(&part_key((*key, part.number)), move || ipc::encode(&state));
                    (part.stored, part.kept) = (true, true);
                }
            }
        }
        for part in self.obsolete.drain(..) {
            changes.delete(&[&part_key(part)]);
        }
        if std::mem::take(&mut self.changed) {
            changes.put(NEXT_WINDOW, &self.next_window.to_be_bytes());
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
                kept: true,
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
    fn result(&mut self, start: i64, last: bool) -> Result<GroupResults, Error> {
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
            return groups.finish(group_columns);
        }
        let mut merged = self.aggregation.groups()?;
        for key in keys {
            self.freeze(key)?;
            let Some(pane) = self.panes.get(&key) else {
                continue;
            };
            for part in &pane.parts {
                merged.merge(&self.source(key, part).read(&self.aggregation)?)?;
            }
        }
        merged.finish(group_columns)
    }

    fn source(&self, key: PaneKey, part: &Part) -> PartSource {
        match &part.state {
            Some(state) => PartSource::Memory(state.clone()),
            None => PartSource::Disk(self.state.clone(), part_key((key, part.number))),
        }
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
            kept: false,
        });
        self.next_part += 1;
        Ok(())
    }

    /// Merges the newest parts of a pane while one is at least half as large as the one before it, so that their number grows
    /// with the logarithm of the rows and each row is written again that often. Many rows are merged on another thread,
    /// and take the place of their parts by a later snapshot.
    fn compact(&mut self, key: PaneKey) -> Result<(), Error> {
        let Some(pane) = self.panes.get(&key) else {
            return Ok(());
        };
        let under_way = self.merging.as_ref().filter(|merging| merging.pane == key);
        let from = under_way.map_or(0, |merging| {
            pane.parts.partition_point(|p| p.number <= merging.last)
        });
        let parts = &pane.parts[from..];
        let parts = &parts[parts.len() - to_merge(parts)..];
        let [first, .., last] = parts else {
            return Ok(());
        };
        let (first, last) = (first.number, last.number);
        let rows: usize = parts.iter().map(|part| part.rows).sum();
        let is_small = rows <= WINDOW_MERGE_ROWS && parts.iter().all(|part| part.state.is_some());
        if !is_small && self.merging.is_some() {
            return Ok(());
        }
        let sources: Vec<PartSource> = parts.iter().map(|part| self.source(key, part)).collect();
        let aggregation = Arc::clone(&self.aggregation);
        if is_small {
            let merged = merged(&aggregation, sources)?;
            self.replace(key, first..=last, merged);
            return Ok(());
        }
        self.merging = Some(Merging {
            pane: key,
            first,
            last,
            merged: Aside::start(move || merged(&aggregation, sources)),
        });
        Ok(())
    }

    /// Puts what was merged on another thread in the place of its parts, if it is ready.
    fn take_merged(&mut self) -> Result<(), Error> {
        let Some(merging) = &mut self.merging else {
            return Ok(());
        };
        let Some(merged) = merging.merged.ready() else {
            return Ok(());
        };
        let (key, parts) = (merging.pane, merging.first..=merging.last);
        self.merging = None;
        // Its window may have closed meanwhile, and its parts may be gone from the disk.
        if self.panes.contains_key(&key) {
            self.replace(key, parts, merged??);
        }
        Ok(())
    }

    /// Puts a part in the place of those with these numbers, which stand one behind the other.
    fn replace(&mut self, key: PaneKey, parts: RangeInclusive<u64>, state: RecordBatch) {
        let Some(pane) = self.panes.get_mut(&key) else {
            return;
        };
        let from = pane
            .parts
            .partition_point(|part| part.number < *parts.start());
        let to = pane
            .parts
            .partition_point(|part| part.number <= *parts.end());
        // It has the number of the last of them, so that it stands before the parts that have come since.
        let number = *parts.end();
        let merged = Part {
            number,
            rows: state.num_rows(),
            state: Some(state),
            stored: false,
            kept: pane.parts[to - 1].kept,
        };
        for part in pane.parts.splice(from..to, [merged]) {
            if part.kept && part.number != number {
                self.obsolete.push((key, part.number));
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
                let kept = pane.parts.iter().filter(|part| part.kept);
                obsolete.extend(kept.map(|part| (*key, part.number)));
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
