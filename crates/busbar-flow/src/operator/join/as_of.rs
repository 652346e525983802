//! A join of rows with the latest event of another stream that is not later than they are.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::SchemaRef;
use busbar_catalog::JoinSpec;
use busbar_event::Error;
use futures::future::{BoxFuture, FutureExt, ready};

use super::buffer::{Buffer, KeyBytes};
use super::interval::picked;
use super::sides::{Sides, null_in};
use crate::operator::keyed::{KeyedState, RowBytes, StateBytes, Stored, write_bytes};
use crate::operator::{
    Changes, Joined, Operator, Output, Rows, StateReader, Stateful, Step, StepContext, Wrong,
};

/// Compiles a join as of event time.
pub(super) fn compile(
    spec: &JoinSpec,
    stream: &str,
    context: &StepContext<'_>,
) -> Result<Arc<dyn Step>, Wrong> {
    let sides = Arc::new(Sides::compile(spec, stream, context)?);
    // A type that cannot be kept is found now.
    RowBytes::new(&sides.right_kept()).map_err(Wrong::new)?;
    Ok(Arc::new(AsOf {
        spec: spec.clone(),
        sides,
    }))
}

#[derive(Clone)]
struct AsOf {
    spec: JoinSpec,
    sides: Arc<Sides>,
}

impl Step for AsOf {
    fn schema(&self) -> Option<SchemaRef> {
        Some(Arc::clone(&self.sides.result))
    }

    fn columns(&self) -> Vec<usize> {
        (0..self.sides.both.fields().len()).collect()
    }

    fn row_by_row(&self) -> bool {
        false
    }

    fn stateful(&self) -> Option<Stateful> {
        Some(
            self.sides
                .stateful(&self.spec, "as of", Arc::new(self.clone())),
        )
    }

    fn joined(&self) -> Option<Joined> {
        Some(self.sides.joined(true))
    }

    fn operator(&self, _schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let keys = self.sides.keys();
        let right = self.sides.right_kept();
        let right_keys: Vec<usize> = (0..keys.len()).collect();
        Ok(Box::new(Enriching {
            waiting: Buffer::new(b'l', &self.sides.own, &keys)?,
            right: Buffer::new(b'r', &right, &right_keys)?,
            bytes: RowBytes::new(&right)?,
            keys,
            sides: Arc::clone(&self.sides),
            versions: KeyedState::new(),
        }))
    }
}

struct Enriching {
    sides: Arc<Sides>,
    keys: Vec<usize>,
    /// Left rows whose time the watermark has not passed.
    waiting: Buffer,
    /// Encodes the keys of right rows, and keeps none.
    right: Buffer,
    bytes: RowBytes,
    versions: KeyedState<KeyVersions>,
}

/// The events of a key that rows may still be joined with, by time.
#[derive(Default)]
struct KeyVersions(Vec<(i64, Box<[u8]>)>);

impl KeyVersions {
    /// The latest that is not later than `time`.
    fn at(&self, time: i64) -> Option<&[u8]> {
        let behind = self.0.partition_point(|(from, _)| *from <= time);
        Some(&self.0[behind.checked_sub(1)?].1)
    }

    /// Of several with the same time the last one counts.
    fn add(&mut self, time: i64, row: &[u8]) {
        let behind = self.0.partition_point(|(from, _)| *from <= time);
        match behind.checked_sub(1).map(|at| &mut self.0[at]) {
            Some((from, known)) if *from == time => *known = row.into(),
            _ => self.0.insert(behind, (time, row.into())),
        }
    }

    /// Forgets those that no row from `watermark` on is joined with.
    fn forget(&mut self, watermark: i64) {
        let behind = self.0.partition_point(|(from, _)| *from <= watermark);
        self.0.drain(..behind.saturating_sub(1));
    }
}

impl Stored for KeyVersions {
    fn write(&self, out: &mut Vec<u8>) {
        for (time, row) in &self.0 {
            out.extend_from_slice(&time.to_le_bytes());
            write_bytes(out, row);
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = StateBytes(bytes);
        let mut versions = Vec::new();
        while !reader.0.is_empty() {
            versions.push((reader.i64()?, reader.bytes()?.into()));
        }
        Some(KeyVersions(versions))
    }

    fn heap_bytes(&self) -> usize {
        let row = |(_, row): &(i64, Box<[u8]>)| row.len() + size_of::<(i64, Box<[u8]>)>();
        self.0.iter().map(row).sum()
    }

    /// The first is of no use when the watermark has reached the second.
    fn due(&self) -> Option<i64> {
        self.0.get(1).map(|(time, _)| *time)
    }
}

impl Enriching {
    fn take_in(&mut self, rows: &Rows, out: &mut Output) -> Result<(), Error> {
        let split = self.sides.split(rows)?;
        let (left, left_times) = split.left;
        let (right, right_times) = split.right;
        let left_keys = self.waiting.keys(&left)?;
        self.learn(&right, &self.right.keys(&right)?, &right_times)?;
        self.waiting.add(left, left_keys, left_times, false);
        out.taken += rows.len();
        Ok(())
    }

    fn learn(&mut self, right: &RecordBatch, keys: &KeyBytes, times: &[i64]) -> Result<(), Error> {
        let encoded = self.bytes.encode(right)?;
        // What cannot be read is found before anything changes.
        for row in 0..times.len() {
            self.versions.get(keys.at(row))?;
        }
        for (row, time) in times.iter().enumerate() {
            self.versions.visit(keys.at(row), |slot| {
                let versions = slot.change().get_or_insert_with(KeyVersions::default);
                versions.add(*time, encoded.row(row).data());
            })?;
        }
        Ok(())
    }

    fn go_on(&mut self, watermark: i64, out: &mut Output) -> Result<(), Error> {
        let due = self.waiting.due(watermark);
        let mut results = Vec::new();
        let mut from = 0;
        while from < due.len() {
            let rows = self.waiting.piece(due[from..].iter().copied());
            results.push(self.enriched(&due[from..from + rows])?);
            from += rows;
        }
        for key in self.versions.due(watermark)? {
            self.versions.visit(&key, |slot| {
                if let Some(versions) = slot.change() {
                    versions.forget(watermark);
                }
            })?;
        }
        self.waiting.pass(watermark);
        results.into_iter().for_each(|rows| out.push(rows));
        Ok(())
    }

    /// Left rows with their versions.
    fn enriched(&mut self, numbers: &[u64]) -> Result<Rows, Error> {
        let columns = self.waiting.columns(numbers)?;
        let keys: Vec<&ArrayRef> = self.keys.iter().map(|key| &columns[*key]).collect();
        let keeps_unmatched = self.sides.keeps_unmatched();
        let (mut rows, mut kept, mut times) = (Vec::new(), Vec::new(), Vec::new());
        for (row, number) in numbers.iter().enumerate() {
            let time = self.waiting.time(*number);
            let versions = match null_in(&keys, row) {
                true => None,
                false => self.versions.get(self.waiting.key(*number))?,
            };
            let version = versions.and_then(|versions| versions.at(time));
            if version.is_some() || keeps_unmatched {
                kept.push(row as u32);
                times.push(time);
                rows.push(version.map(Box::<[u8]>::from));
            }
        }
        let found: Vec<&[u8]> = rows.iter().flatten().map(|row| &**row).collect();
        let mut place = 0..;
        let places = rows
            .iter()
            .map(|row| row.as_ref().and_then(|_| place.next()));
        let places: UInt32Array = places.collect();
        let decoded = self.bytes.decode(&found)?.split_off(self.keys.len());
        let added = picked(&decoded, &places)?;
        self.sides
            .results(picked(&columns, &kept.into())?, added, times)
    }
}

impl Operator for Enriching {
    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        ready(self.take_in(&rows, out)).boxed()
    }

    fn on_time(&mut self, watermark: i64, out: &mut Output) -> Result<(), Error> {
        self.go_on(watermark, out)
    }

    fn next_time(&self) -> Option<i64> {
        Some(self.waiting.next_due()?.saturating_add(1))
    }

    fn flush(&mut self, out: &mut Output) -> Result<(), Error> {
        self.go_on(i64::MAX, out)
    }

    fn snapshot(&mut self, changes: &mut Changes) -> Result<(), Error> {
        self.versions.snapshot(changes);
        self.waiting.snapshot(changes)
    }

    fn restore(&mut self, state: Arc<dyn StateReader>) -> Result<(), Error> {
        self.versions.restore(Arc::clone(&state))?;
        self.waiting.restore(state)
    }

    fn memory(&self) -> usize {
        self.waiting.bytes() + self.versions.bytes()
    }

    fn shrink(&mut self, bytes: usize) {
        let (waiting, versions) = (self.waiting.bytes(), self.versions.bytes());
        let share = waiting as f64 / (waiting + versions).max(1) as f64;
        let waiting = (bytes as f64 * share) as usize;
        self.waiting.shrink(waiting);
        self.versions.shrink(bytes - waiting);
    }
}
