//! Windows that last as long as rows of a key follow each other within a gap.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray,
    UInt32Array,
};
use arrow::compute::{interleave_record_batch, take};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use busbar_event::{Class, Error};
use busbar_sql::{Aggregation, Groups, Inputs};

use super::closed::Closed;
use crate::limits::{SESSION_FRAGMENTS_MAX, SESSION_MOVED_ROWS, SESSION_PARTS_MAX};
use crate::operator::{Changes, StateReader, ipc};

/// Open sessions and what their rows add up to.
///
/// A row is late when it is older than its mark. So a session that the watermark has passed by the gap cannot
/// change any more, whatever order the rows that are not late came in.
///
/// A session consists of *fragments*, each a group of the accumulators under a number of its own; sessions that
/// turn out to be one put their fragments together. A snapshot, or a session that closes, turns the fragments in the
/// accumulators into a part, an immutable record batch. A snapshot puts the parts together that have come since the last
/// one, merges the fragments of sessions that have many, and moves some rows out of the emptiest parts: all of that costs
/// what has changed, however many sessions are open.
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
    /// Rows before this one have been moved elsewhere, or no session needs them.
    moved: usize,
    /// A bit for each row that has become part of another fragment; none if no row has. Rows of sessions that have closed
    /// are not among them: they are known by their times.
    gone: Option<Vec<u8>>,
    gone_changed: bool,
    stored: bool,
}

impl Part {
    fn new(rows: RecordBatch) -> Part {
        Part {
            live: rows.num_rows(),
            rows,
            moved: 0,
            gone: None,
            gone_changed: false,
            stored: false,
        }
    }

    fn set_gone(&mut self, row: u32) {
        let bytes = self.rows.num_rows().div_ceil(8);
        let gone = self.gone.get_or_insert_with(|| vec![0; bytes]);
        gone[row as usize / 8] |= 1 << (row % 8);
        self.gone_changed = true;
    }

    fn is_gone(&self, row: usize) -> bool {
        let gone = self.gone.as_ref();
        gone.is_some_and(|gone| gone[row / 8] & (1 << (row % 8)) != 0)
    }
}

/// Neighbouring fragments of a session that become one.
struct SessionRewrite {
    /// The session's key, as a row of a part.
    key: (u64, u32),
    /// Its fragments from the first to the last.
    fragments: Vec<i64>,
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
        for session in &closing {
            self.release(&session.fragments, false);
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
        self.gather()?;
        for (number, part) in &mut self.parts {
            if !part.stored {
                let rows = part.rows.clone();
                changes.put_made(&part_key(PART_PREFIX, *number), move || ipc::encode(&rows));
                part.stored = true;
            }
            if let (true, Some(gone)) = (part.gone_changed, &part.gone) {
                changes.put(&part_key(GONE_PREFIX, *number), gone);
                part.gone_changed = false;
            }
        }
        for number in self.obsolete.drain(..) {
            changes.delete(&[&part_key(PART_PREFIX, number)]);
            changes.delete(&[&part_key(GONE_PREFIX, number)]);
        }
        if std::mem::take(&mut self.changed) {
            changes.put(CLOSED_TO, &self.closed_to.to_be_bytes());
        }
        Ok(())
    }

    /// Takes up what snapshots wrote.
    pub fn restore(&mut self, state: &dyn StateReader) -> Result<(), Error> {
        let schema = self.part_schema();
        let mut parts: BTreeMap<u64, Part> = BTreeMap::new();
        state.scan(PART_PREFIX, &mut |key, value| {
            let part = Part {
                live: 0,
                stored: true,
                ..Part::new(ipc::decode(&value, &schema)?)
            };
            parts.insert(part_number(key)?, part);
            Ok(())
        })?;
        state.scan(GONE_PREFIX, &mut |key, value| {
            let part = parts.get_mut(&part_number(key)?).ok_or_else(damaged)?;
            if value.len() != part.rows.num_rows().div_ceil(8) {
                return Err(damaged());
            }
            part.gone = Some(value.to_vec());
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
                if part.is_gone(row) {
                    continue;
                }
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
        self.parts.insert(self.next_part, Part::new(rows));
        self.next_part += 1;
    }

    /// Fragments that no session needs any more, and with them the parts that have no others. `merged`: they have become part
    /// of another one.
    fn release(&mut self, fragments: &[i64], merged: bool) {
        for fragment in fragments {
            if let Some((part, row)) = self.places.remove(fragment)
                && let Some(known) = self.parts.get_mut(&part)
            {
                known.live -= 1;
                if merged && known.stored {
                    known.set_gone(row);
                }
                if known.live == 0 {
                    if known.stored {
                        self.obsolete.push(part);
                    }
                    self.parts.remove(&part);
                }
            }
        }
    }

    /// Makes one part of those that are not stored, and of some rows of the emptiest ones that are.
    fn gather(&mut self) -> Result<(), Error> {
        let mut rows: Vec<(u64, u32)> = Vec::new();
        let fresh: Vec<u64> = self.parts_that(|part| !part.stored);
        for number in &fresh {
            let all = self.parts[number].rows.num_rows() as u32;
            rows.extend((0..all).map(|row| (*number, row)));
        }
        let changed = rows.len();
        self.add_sparse(&mut rows, 2 * changed + SESSION_MOVED_ROWS);
        let mut rewrites: Vec<SessionRewrite> = Vec::new();
        // By the first fragment of the session: each session is changed in one place.
        let mut known: HashMap<i64, usize> = HashMap::new();
        for (number, of_part) in by_part(&rows) {
            let part = &self.parts[&number];
            let picked: UInt32Array = of_part.iter().map(|(_, row)| *row).collect();
            let keys = self.aggregation.key_count();
            let columns: Vec<ArrayRef> = part.rows.columns()[..=keys]
                .iter()
                .map(|column| take(column, &picked, None).map_err(misfit))
                .collect::<Result<_, _>>()?;
            let key_rows = self.key_rows(&columns[..keys])?;
            let fragments = columns[keys].as_primitive::<Int64Type>();
            for (at, place) in of_part.iter().enumerate() {
                let fragment = fragments.value(at);
                if self.places.get(&fragment) != Some(place) {
                    continue;
                }
                let open = self.sessions.get(key_at(&key_rows, at));
                let of_key = open.into_iter().flatten();
                let mut session = of_key.filter(|session| session.fragments.contains(&fragment));
                let session = session.next().ok_or_else(damaged)?;
                let number = *known.entry(session.fragments[0]).or_insert_with(|| {
                    rewrites.push(SessionRewrite {
                        key: *place,
                        fragments: Vec::new(),
                    });
                    rewrites.len() - 1
                });
                let rewrite = &mut rewrites[number];
                if !rewrite.fragments.contains(&fragment) {
                    rewrite.fragments = self.to_merge(session, fragment);
                }
            }
        }
        // A single part that is as it should be stays.
        let merges = rewrites.iter().any(|rewrite| rewrite.fragments.len() > 1);
        match merges || fresh.len() > 1 || rows.len() > changed {
            true => self.rewrite(&rewrites),
            false => Ok(()),
        }
    }

    fn parts_that(&self, are: impl Fn(&Part) -> bool) -> Vec<u64> {
        let parts = self.parts.iter().filter(|(_, part)| are(part));
        parts.map(|(number, _)| *number).collect()
    }

    /// Adds rows of the stored parts in which the fewest are needed, as many as `most`, where there are many parts or most of
    /// their rows are not needed.
    fn add_sparse(&mut self, rows: &mut Vec<(u64, u32)>, most: usize) {
        let held: usize = self.parts.values().map(|part| part.rows.num_rows()).sum();
        if self.parts.len() <= SESSION_PARTS_MAX && held <= 2 * self.places.len() + most {
            return;
        }
        let mut stored = self.parts_that(|part| part.stored);
        stored.sort_by_key(|number| self.parts[number].live);
        let mut left = most;
        for number in stored {
            let Some(part) = self.parts.get_mut(&number).filter(|_| left > 0) else {
                return;
            };
            let end = part.rows.num_rows().min(part.moved + left);
            left -= end - part.moved;
            rows.extend((part.moved as u32..end as u32).map(|row| (number, row)));
            part.moved = end;
        }
    }

    /// The fragments of a session that become one with this one: those at the end that are not stored, if it is among them and
    /// there are not many, else all. So the fragments of a session are always in the order of their parts, in which they are
    /// found again when state is restored.
    fn to_merge(&self, session: &Session, fragment: i64) -> Vec<i64> {
        let fragments = &session.fragments;
        if fragments.len() > SESSION_FRAGMENTS_MAX {
            return fragments.clone();
        }
        let is_fresh = |fragment: &i64| {
            let place = self.places.get(fragment);
            place.is_some_and(|(part, _)| self.parts.get(part).is_some_and(|part| !part.stored))
        };
        let fresh = fragments.iter().rev().take_while(|of| is_fresh(of)).count();
        let fresh = &fragments[fragments.len() - fresh..];
        match fresh.contains(&fragment) {
            true => fresh.to_vec(),
            false => fragments.clone(),
        }
    }

    /// Puts fragments that become one into a new part, each under a new number.
    fn rewrite(&mut self, rewrites: &[SessionRewrite]) -> Result<(), Error> {
        if rewrites.is_empty() {
            return Ok(());
        }
        let lists: Vec<&[i64]> = rewrites
            .iter()
            .map(|rewrite| &rewrite.fragments[..])
            .collect();
        let state = self.merged(&lists)?.take_state()?;
        let keys = self.aggregation.key_count();
        let base = self.next_fragment;
        let numbers = fragment_numbers(&state, keys)?;
        let places: Vec<usize> = numbers.values().iter().map(|n| *n as usize).collect();
        let bounds: Vec<(i64, i64)> = lists
            .iter()
            .map(|fragments| self.bounds(fragments))
            .collect::<Result<_, _>>()?;
        let firsts: Int64Array = places.iter().map(|i| Some(bounds[*i].0)).collect();
        let lasts: Int64Array = places.iter().map(|i| Some(bounds[*i].1)).collect();
        let numbers: Int64Array = numbers.values().iter().map(|n| Some(base + n)).collect();
        let mut columns = state.columns().to_vec();
        columns[keys] = Arc::new(numbers.clone());
        columns.extend([Arc::new(firsts) as ArrayRef, Arc::new(lasts)]);
        let rows = RecordBatch::try_new(self.part_schema(), columns).map_err(misfit)?;
        self.rename(rewrites, base)?;
        self.next_fragment += rewrites.len() as i64;
        for rewrite in rewrites {
            self.release(&rewrite.fragments, true);
        }
        self.put_part(rows, &numbers);
        Ok(())
    }

    /// Gives the fragments that have become one their new numbers in the sessions, from `base` on.
    fn rename(&mut self, rewrites: &[SessionRewrite], base: i64) -> Result<(), Error> {
        let keys: Vec<(u64, u32)> = rewrites.iter().map(|rewrite| rewrite.key).collect();
        let mut number = base;
        let mut done = 0;
        for (part, of_part) in by_part(&keys) {
            let picked: UInt32Array = of_part.iter().map(|(_, row)| *row).collect();
            let part = self.parts.get(&part).ok_or_else(damaged)?;
            let columns: Vec<ArrayRef> = part.rows.columns()[..self.aggregation.key_count()]
                .iter()
                .map(|column| take(column, &picked, None).map_err(misfit))
                .collect::<Result<_, _>>()?;
            let key_rows = self.key_rows(&columns)?;
            for at in 0..of_part.len() {
                let fragments = &rewrites[done].fragments;
                let open = self.sessions.get_mut(key_at(&key_rows, at));
                for session in open.into_iter().flatten() {
                    let known = &mut session.fragments;
                    if let Some(from) = known.iter().position(|of| Some(of) == fragments.first()) {
                        known.splice(from..from + fragments.len(), [number]);
                    }
                }
                (number, done) = (number + 1, done + 1);
            }
        }
        Ok(())
    }

    /// The times of the first and the last row of fragments.
    fn bounds(&self, fragments: &[i64]) -> Result<(i64, i64), Error> {
        let (mut first, mut last) = (i64::MAX, i64::MIN);
        for fragment in fragments {
            let (part, row) = self.places.get(fragment).ok_or_else(damaged)?;
            let part = self.parts.get(part).ok_or_else(damaged)?;
            let [.., firsts, lasts] = part.rows.columns() else {
                return Err(damaged());
            };
            let at = |column: &ArrayRef| column.as_primitive::<Int64Type>().value(*row as usize);
            (first, last) = (first.min(at(firsts)), last.max(at(lasts)));
        }
        Ok((first, last))
    }

    /// One result batch for sessions, in their order; every row has its own bounds.
    fn results<S: std::borrow::Borrow<Session>>(
        &self,
        sessions: &[S],
        early: bool,
    ) -> Result<Vec<Closed>, Error> {
        let lists = sessions
            .iter()
            .map(|session| &session.borrow().fragments[..]);
        let lists: Vec<&[i64]> = lists.collect();
        let merged = self.merged(&lists)?;
        let time = |of: &dyn Fn(&Session) -> i64| -> ArrayRef {
            let times: Vec<i64> = sessions.iter().map(|s| of(s.borrow())).collect();
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))
        };
        let gap = self.gap;
        let (starts, ends) = (time(&|s| s.first), time(&|s| s.last.saturating_add(gap)));
        let early: ArrayRef = Arc::new(BooleanArray::from(vec![early; sessions.len()]));
        let group_columns = [starts, ends, early];
        let group_columns = &group_columns[..self.aggregation.group_column_count()];
        let results = merged.finish(group_columns)?;
        let ends = sessions.iter().map(|s| s.borrow().last.saturating_add(gap));
        Ok(vec![Closed::each(ends.collect(), results)])
    }

    /// Groups of some fragments each, in their order, numbered from 0.
    fn merged(&self, lists: &[&[i64]]) -> Result<Groups, Error> {
        let mut groups = self.aggregation.groups()?;
        let keys = self.aggregation.key_count();
        let width = self.aggregation.state_schema().fields().len();
        let mut batches: Vec<&RecordBatch> = Vec::new();
        let mut place_of: HashMap<u64, usize> = HashMap::new();
        let (mut rows, mut ordinals) = (Vec::new(), Vec::new());
        for (ordinal, fragments) in lists.iter().enumerate() {
            for fragment in *fragments {
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

/// Rows that stand one behind the other by the part they are of.
fn by_part(rows: &[(u64, u32)]) -> impl Iterator<Item = (u64, &[(u64, u32)])> {
    rows.chunk_by(|a, b| a.0 == b.0)
        .map(|rows| (rows[0].0, rows))
}

/// The bytes of a row's key.
fn key_at(keys: &Option<Rows>, row: usize) -> &[u8] {
    keys.as_ref().map_or(&[], |rows| rows.row(row).data())
}

const PART_PREFIX: &[u8] = b"s";
const GONE_PREFIX: &[u8] = b"g";
const CLOSED_TO: &[u8] = b"closed";

fn part_key(prefix: &[u8], number: u64) -> Vec<u8> {
    [prefix, &number.to_be_bytes()].concat()
}

fn part_number(key: &[u8]) -> Result<u64, Error> {
    let number = key.get(1..9).and_then(|bytes| bytes.try_into().ok());
    number.map(u64::from_be_bytes).ok_or_else(damaged)
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
