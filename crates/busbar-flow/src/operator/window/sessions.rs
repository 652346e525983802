//! Windows that last as long as rows of a key follow each other within a gap.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use busbar_event::{Class, Error};
use busbar_sql::{Aggregation, Groups, Inputs};

use super::closed::Closed;
use crate::limits::WINDOW_PARTS_MAX;
use crate::operator::{Changes, StateReader, ipc};

/// Open sessions and what their rows add up to.
///
/// A row is late when it is older than its mark. So a session that the watermark has passed by the gap cannot
/// change any more, whatever order the rows that are not late came in.
///
/// A session consists of *fragments*, each a group of the accumulators under a number of its own; sessions that
/// turn out to be one put their fragments together. A snapshot, or a session that closes, turns the fragments in the
/// accumulators into a part, an immutable record batch.
pub(super) struct Sessions {
    gap: i64,
    aggregation: Arc<Aggregation>,
    /// None without keys: all rows have the same.
    converter: Option<RowConverter>,
    sessions: HashMap<Box<[u8]>, Vec<Session>>,
    /// End and key of every open session.
    ends: BTreeSet<(i64, Box<[u8]>)>,
    active: Option<Groups>,
    /// Fragments in `active`, in the order of their groups, with the times of their first and last rows.
    active_fragments: BTreeMap<i64, (i64, i64)>,
    parts: BTreeMap<u64, Part>,
    /// Part and row of every fragment that is not in `active`.
    places: HashMap<i64, (u64, u32)>,
    next_fragment: i64,
    next_part: u64,
    obsolete: Vec<u64>,
    /// Sessions that end here or before are closed.
    closed_to: i64,
    changed: bool,
}

struct Session {
    first: i64,
    last: i64,
    fragments: Vec<i64>,
}

struct Part {
    /// State, then the times of each fragment's first and last row.
    rows: RecordBatch,
    /// Rows that open sessions still need.
    live: usize,
    stored: bool,
}

impl Sessions {
    /// # Errors
    /// `flow.window-size` when the gap is not positive; a key of a type that cannot be compared.
    pub fn new(gap: i64, aggregation: Aggregation) -> Result<Self, Error> {
        if gap <= 0 {
            return Err(Error::new(Class::Configuration, "flow.window-size"));
        }
        let aggregation = aggregation.by_fragment();
        let keys = aggregation.key_count();
        let fields = aggregation.state_schema().fields()[..keys]
            .iter()
            .map(|field| SortField::new(field.data_type().clone()))
            .collect();
        let converter = match keys {
            0 => None,
            _ => Some(RowConverter::new(fields).map_err(misfit)?),
        };
        Ok(Self {
            gap,
            aggregation: Arc::new(aggregation),
            converter,
            sessions: HashMap::new(),
            ends: BTreeSet::new(),
            active: None,
            active_fragments: BTreeMap::new(),
            parts: BTreeMap::new(),
            places: HashMap::new(),
            next_fragment: 0,
            next_part: 0,
            obsolete: Vec::new(),
            closed_to: i64::MIN,
            changed: false,
        })
    }

    /// Counts rows in; returns those that are late.
    pub fn add(
        &mut self,
        inputs: &Inputs,
        times: &[i64],
        marks: &[i64],
    ) -> Result<Vec<u32>, Error> {
        let mut late = Vec::new();
        let mut kept: Vec<u32> = Vec::with_capacity(times.len());
        for (row, (time, mark)) in times.iter().zip(marks).enumerate() {
            match time < mark {
                true => late.push(row as u32),
                false => kept.push(row as u32),
            }
        }
        if kept.is_empty() {
            return Ok(late);
        }
        let keys = self.key_rows(inputs.keys())?;
        let mut fragments = Vec::with_capacity(kept.len());
        for row in &kept {
            let row = *row as usize;
            fragments.push(self.fragment(key_at(&keys, row), times[row]));
        }
        let inputs = match late.is_empty() {
            true => inputs.clone(),
            false => inputs.take(&kept.into())?,
        };
        let groups = match &mut self.active {
            Some(groups) => groups,
            active => active.insert(self.aggregation.groups()?),
        };
        groups.update(&inputs.with_fragments(Int64Array::from(fragments)))?;
        Ok(late)
    }

    /// Closes the sessions that the watermark has passed by the gap, in the order of their ends.
    pub fn close(&mut self, watermark: i64) -> Result<Vec<Closed>, Error> {
        let mut due: Vec<(i64, Box<[u8]>)> = Vec::new();
        while self.ends.first().is_some_and(|(end, _)| *end <= watermark) {
            due.extend(self.ends.pop_first());
        }
        if due.is_empty() {
            return Ok(Vec::new());
        }
        self.closed_to = self.closed_to.max(watermark);
        self.changed = true;
        self.freeze()?;
        let mut closing = Vec::with_capacity(due.len());
        for (end, key) in due {
            let Some(open) = self.sessions.get_mut(&key) else {
                continue;
            };
            let gap = self.gap;
            let Some(place) = open.iter().position(|s| s.last.saturating_add(gap) == end) else {
                continue;
            };
            closing.push(open.swap_remove(place));
            if open.is_empty() {
                self.sessions.remove(&key);
            }
        }
        let result = self.results(&closing, false)?;
        for fragment in closing.iter().flat_map(|session| &session.fragments) {
            if let Some((part, _)) = self.places.remove(fragment)
                && let Some(known) = self.parts.get_mut(&part)
            {
                known.live -= 1;
                if known.live == 0 {
                    if known.stored {
                        self.obsolete.push(part);
                    }
                    self.parts.remove(&part);
                }
            }
        }
        Ok(result)
    }

    /// The results of the sessions that are open at a watermark, as they stand.
    pub fn early(&mut self, watermark: i64) -> Result<Vec<Closed>, Error> {
        self.freeze()?;
        let mut open: Vec<(&Box<[u8]>, &Session)> = self
            .sessions
            .iter()
            .flat_map(|(key, of)| of.iter().map(move |session| (key, session)))
            .filter(|(_, session)| session.last.saturating_add(self.gap) > watermark)
            .collect();
        open.sort_unstable_by_key(|(key, session)| (session.last, *key));
        let open: Vec<&Session> = open.into_iter().map(|(_, session)| session).collect();
        self.results(&open, true)
    }

    /// When the next session ends; none when nothing is open.
    pub fn next_end(&self) -> Option<i64> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// What has changed since the last snapshot.
    pub fn snapshot(&mut self, changes: &mut Changes) -> Result<(), Error> {
        self.freeze()?;
        if self.parts.len() > WINDOW_PARTS_MAX {
            self.compact()?;
        }
        for (number, part) in &mut self.parts {
            if !part.stored {
                changes.put(part_key(*number), ipc::encode(&part.rows)?);
                part.stored = true;
            }
        }
        for number in self.obsolete.drain(..) {
            changes.delete(part_key(number));
        }
        if std::mem::take(&mut self.changed) {
            changes.put(CLOSED_TO, self.closed_to.to_be_bytes().to_vec());
        }
        Ok(())
    }

    /// Takes up what snapshots wrote.
    pub fn restore(&mut self, state: &dyn StateReader) -> Result<(), Error> {
        let schema = self.part_schema();
        let mut parts: BTreeMap<u64, Part> = BTreeMap::new();
        state.scan(PART_PREFIX, &mut |key, value| {
            let number = key.get(1..9).and_then(|bytes| bytes.try_into().ok());
            let number = number.map(u64::from_be_bytes).ok_or_else(damaged)?;
            let rows = ipc::decode(&value, &schema)?;
            let part = Part {
                live: 0,
                rows,
                stored: true,
            };
            parts.insert(number, part);
            Ok(())
        })?;
        if let Some(value) = state.get(CLOSED_TO)? {
            let value: [u8; 8] = value.as_ref().try_into().map_err(|_| damaged())?;
            self.closed_to = i64::from_be_bytes(value);
        }
        self.next_part = parts.keys().next_back().map_or(0, |number| number + 1);
        let keys = self.aggregation.key_count();
        for (number, part) in &parts {
            let columns = part.rows.columns();
            let rows = self.key_rows(&columns[..keys])?;
            let numbers = columns[keys].as_primitive::<Int64Type>();
            let firsts = columns[columns.len() - 2].as_primitive::<Int64Type>();
            let lasts = columns[columns.len() - 1].as_primitive::<Int64Type>();
            for row in 0..part.rows.num_rows() {
                let fragment = numbers.value(row);
                self.next_fragment = self.next_fragment.max(fragment + 1);
                self.places.insert(fragment, (*number, row as u32));
                let found = Session {
                    first: firsts.value(row),
                    last: lasts.value(row),
                    fragments: vec![fragment],
                };
                self.join(key_at(&rows, row), found);
            }
        }
        // Sessions that were closed already; their parts were kept for others.
        while self
            .ends
            .first()
            .is_some_and(|(end, _)| *end <= self.closed_to)
        {
            let Some((end, key)) = self.ends.pop_first() else {
                break;
            };
            let gap = self.gap;
            if let Some(open) = self.sessions.get_mut(&key) {
                for session in open.extract_if(.., |s| s.last.saturating_add(gap) == end) {
                    for fragment in session.fragments {
                        self.places.remove(&fragment);
                    }
                }
                if open.is_empty() {
                    self.sessions.remove(&key);
                }
            }
        }
        for (number, _) in self.places.values() {
            if let Some(part) = parts.get_mut(number) {
                part.live += 1;
            }
        }
        let obsolete = &mut self.obsolete;
        parts.retain(|number, part| {
            if part.live == 0 {
                obsolete.push(*number);
            }
            part.live > 0
        });
        self.parts = parts;
        Ok(())
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> usize {
        let active = self.active.as_ref().map_or(0, Groups::bytes);
        let parts = self
            .parts
            .values()
            .map(|part| part.rows.get_array_memory_size());
        let table = self.sessions.len() * (size_of::<Session>() + 2 * size_of::<Box<[u8]>>())
            + self.places.len() * size_of::<(i64, (u64, u32))>();
        active + parts.sum::<usize>() + table
    }

    fn key_rows(&self, keys: &[ArrayRef]) -> Result<Option<Rows>, Error> {
        let converter = self.converter.as_ref();
        converter
            .map(|c| c.convert_columns(keys).map_err(misfit))
            .transpose()
    }

    /// The fragment that counts a row.
    fn fragment(&mut self, key: &[u8], time: i64) -> i64 {
        let gap = self.gap;
        // Most rows extend the one session that their key has.
        if let Some(open) = self.sessions.get_mut(key)
            && let [session] = &mut open[..]
            && let Some(fragment) = session.fragments.last().copied()
            && session.first <= time
            && time < session.last.saturating_add(gap)
            && let Some((first, last)) = self.active_fragments.get_mut(&fragment)
        {
            (*first, *last) = ((*first).min(time), (*last).max(time));
            if time > session.last {
                let end = session.last.saturating_add(gap);
                session.last = time;
                let mut entry = (end, Box::from(key));
                self.ends.remove(&entry);
                entry.0 = time.saturating_add(gap);
                self.ends.insert(entry);
            }
            return fragment;
        }
        let fragment = self.next_fragment;
        self.next_fragment += 1;
        self.active_fragments.insert(fragment, (time, time));
        let found = Session {
            first: time,
            last: time,
            fragments: vec![fragment],
        };
        self.join(key, found);
        fragment
    }

    /// Adds a session to those of its key, and makes one of those that are within the gap of each other.
    fn join(&mut self, key: &[u8], mut new: Session) {
        let gap = self.gap;
        let open = match self.sessions.get_mut(key) {
            Some(open) => open,
            None => self.sessions.entry(Box::from(key)).or_default(),
        };
        let (first, last) = (new.first, new.last);
        let near = |other: &mut Session| {
            other.first < last.saturating_add(gap) && first < other.last.saturating_add(gap)
        };
        for session in open.extract_if(.., near) {
            self.ends
                .remove(&(session.last.saturating_add(gap), Box::from(key)));
            new.first = new.first.min(session.first);
            new.last = new.last.max(session.last);
            // Older fragments first, for aggregates to which order matters.
            let mut fragments = session.fragments;
            fragments.append(&mut new.fragments);
            new.fragments = fragments;
        }
        self.ends
            .insert((new.last.saturating_add(gap), Box::from(key)));
        open.push(new);
    }

    /// Turns the fragments in the accumulators into a part.
    fn freeze(&mut self) -> Result<(), Error> {
        let Some(mut groups) = self.active.take() else {
            return Ok(());
        };
        let state = groups.take_state()?;
        let numbers = fragment_numbers(&state, self.aggregation.key_count())?;
        let times = std::mem::take(&mut self.active_fragments);
        let of = |fragment: &i64| times.get(fragment).copied().unwrap_or_default();
        let firsts: Int64Array = numbers.values().iter().map(|n| Some(of(n).0)).collect();
        let lasts: Int64Array = numbers.values().iter().map(|n| Some(of(n).1)).collect();
        let numbers = numbers.clone();
        let mut columns = state.columns().to_vec();
        columns.extend([Arc::new(firsts) as ArrayRef, Arc::new(lasts)]);
        let rows = RecordBatch::try_new(self.part_schema(), columns).map_err(misfit)?;
        self.put_part(rows, &numbers);
        Ok(())
    }

    fn put_part(&mut self, rows: RecordBatch, numbers: &Int64Array) {
        for (row, fragment) in numbers.values().iter().enumerate() {
            self.places.insert(*fragment, (self.next_part, row as u32));
        }
        let part = Part {
            live: rows.num_rows(),
            rows,
            stored: false,
        };
        self.parts.insert(self.next_part, part);
        self.next_part += 1;
    }

    /// Merges the fragments of each open session into one, in one part.
    fn compact(&mut self) -> Result<(), Error> {
        let open: Vec<&Session> = self.sessions.values().flatten().collect();
        let mut merged = self.merged(&open)?;
        let state = merged.take_state()?;
        let bounds: Vec<(i64, i64)> = open.iter().map(|s| (s.first, s.last)).collect();
        let keys = self.aggregation.key_count();
        let base = self.next_fragment;
        let numbers = fragment_numbers(&state, keys)?;
        let places: Vec<usize> = numbers.values().iter().map(|n| *n as usize).collect();
        let firsts: Int64Array = places.iter().map(|i| Some(bounds[*i].0)).collect();
        let lasts: Int64Array = places.iter().map(|i| Some(bounds[*i].1)).collect();
        let numbers: Int64Array = numbers.values().iter().map(|n| Some(base + n)).collect();
        let mut columns = state.columns().to_vec();
        columns[keys] = Arc::new(numbers.clone());
        columns.extend([Arc::new(firsts) as ArrayRef, Arc::new(lasts)]);
        let rows = RecordBatch::try_new(self.part_schema(), columns).map_err(misfit)?;
        for (i, session) in self.sessions.values_mut().flatten().enumerate() {
            session.fragments = vec![base + i as i64];
        }
        self.next_fragment += bounds.len() as i64;
        self.places.clear();
        for (number, part) in std::mem::take(&mut self.parts) {
            if part.stored {
                self.obsolete.push(number);
            }
        }
        self.put_part(rows, &numbers);
        Ok(())
    }

    /// One result batch for sessions, in their order; every row has its own bounds.
    fn results<S: std::borrow::Borrow<Session>>(
        &self,
        sessions: &[S],
        early: bool,
    ) -> Result<Vec<Closed>, Error> {
        let merged = self.merged(sessions)?;
        let time = |of: &dyn Fn(&Session) -> i64| -> ArrayRef {
            let times: Vec<i64> = sessions.iter().map(|s| of(s.borrow())).collect();
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))
        };
        let gap = self.gap;
        let (starts, ends) = (time(&|s| s.first), time(&|s| s.last.saturating_add(gap)));
        // A condition on results drops rows; their times must follow.
        let early: ArrayRef = Arc::new(BooleanArray::from(vec![early; sessions.len()]));
        let group_columns = [starts, ends, early];
        let group_columns = &group_columns[..self.aggregation.group_column_count()];
        let (result, kept) = merged.finish(group_columns)?;
        let ends = kept
            .iter()
            .map(|row| sessions[*row as usize].borrow().last.saturating_add(gap))
            .collect();
        Ok(vec![Closed { ends, result }])
    }

    /// Groups of one session each, in their order, numbered from 0.
    fn merged<S: std::borrow::Borrow<Session>>(&self, sessions: &[S]) -> Result<Groups, Error> {
        let mut groups = self.aggregation.groups()?;
        let keys = self.aggregation.key_count();
        let width = self.aggregation.state_schema().fields().len();
        let mut batches: Vec<&RecordBatch> = Vec::new();
        let mut place_of: HashMap<u64, usize> = HashMap::new();
        let (mut rows, mut ordinals) = (Vec::new(), Vec::new());
        for (ordinal, session) in sessions.iter().enumerate() {
            for fragment in &session.borrow().fragments {
                let (number, row) = *self.places.get(fragment).ok_or_else(damaged)?;
                let part = self.parts.get(&number).ok_or_else(damaged)?;
                let place = *place_of.entry(number).or_insert_with(|| {
                    batches.push(&part.rows);
                    batches.len() - 1
                });
                rows.push((place, row as usize));
                ordinals.push(ordinal as i64);
            }
        }
        if rows.is_empty() {
            return Ok(groups);
        }
        let gathered = interleave_record_batch(&batches, &rows).map_err(misfit)?;
        let mut columns = gathered.columns()[..width].to_vec();
        columns[keys] = Arc::new(Int64Array::from(ordinals));
        let state =
            RecordBatch::try_new(self.aggregation.state_schema(), columns).map_err(misfit)?;
        groups.merge(&state)?;
        Ok(groups)
    }

    fn part_schema(&self) -> SchemaRef {
        let mut fields: Vec<_> = self
            .aggregation
            .state_schema()
            .fields()
            .iter()
            .cloned()
            .collect();
        fields.push(Arc::new(Field::new("first", DataType::Int64, false)));
        fields.push(Arc::new(Field::new("last", DataType::Int64, false)));
        Arc::new(Schema::new(fields))
    }
}

/// The bytes of a row's key.
fn key_at(keys: &Option<Rows>, row: usize) -> &[u8] {
    keys.as_ref().map_or(&[], |rows| rows.row(row).data())
}

const PART_PREFIX: &[u8] = b"s";
const CLOSED_TO: &[u8] = b"closed";

fn part_key(number: u64) -> Vec<u8> {
    [PART_PREFIX, &number.to_be_bytes()].concat()
}

/// The column of fragments' numbers, which follows the keys.
fn fragment_numbers(state: &RecordBatch, keys: usize) -> Result<&Int64Array, Error> {
    state
        .columns()
        .get(keys)
        .and_then(|column| column.as_primitive_opt::<Int64Type>())
        .ok_or_else(damaged)
}

fn damaged() -> Error {
    Error::new(Class::Permanent, "flow.state-damaged")
}

fn misfit(cause: arrow::error::ArrowError) -> Error {
    Error::new(Class::Permanent, "flow.misfit")
        .with("column", "")
        .caused_by(cause)
}
