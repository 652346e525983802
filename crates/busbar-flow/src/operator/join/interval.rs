//! A join of two streams: pairs of events with equal keys whose times are near to each other.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{take, take_record_batch};
use arrow::datatypes::SchemaRef;
use busbar_catalog::JoinSpec;
use busbar_event::{Class, Error};
use futures::future::{BoxFuture, FutureExt, ready};

use super::buffer::{Buffer, KeyBytes};
use super::sides::{Sides, null_in};
use crate::limits::JOIN_RESULTS_MAX;
use crate::operator::rows::misfit;
use crate::operator::{
    Changes, Joined, Operator, Output, Rows, StateReader, Stateful, Step, StepContext, Wrong,
};

/// Compiles a join of events whose times are at most `within` microseconds apart.
pub(super) fn compile(
    spec: &JoinSpec,
    stream: &str,
    within: i64,
    context: &StepContext<'_>,
) -> Result<Arc<dyn Step>, Wrong> {
    let sides = Arc::new(Sides::compile(spec, stream, context)?);
    Ok(Arc::new(Interval {
        spec: spec.clone(),
        sides,
        within,
    }))
}

#[derive(Clone)]
struct Interval {
    spec: JoinSpec,
    sides: Arc<Sides>,
    within: i64,
}

impl Step for Interval {
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
        let how = format!("within {}", self.within);
        Some(
            self.sides
                .stateful(&self.spec, &how, Arc::new(self.clone())),
        )
    }

    fn joined(&self) -> Option<Joined> {
        Some(self.sides.joined(false))
    }

    fn delay(&self) -> i64 {
        self.within
    }

    fn operator(&self, _schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let keys = self.sides.keys();
        let right = self.sides.right_kept();
        let right_keys: Vec<usize> = (0..keys.len()).collect();
        Ok(Box::new(Pairing {
            left: Buffer::new(b'l', &self.sides.own, &keys)?,
            right: Buffer::new(b'r', &right, &right_keys)?,
            keys,
            sides: Arc::clone(&self.sides),
            within: self.within,
        }))
    }
}

struct Pairing {
    sides: Arc<Sides>,
    within: i64,
    /// Places of the keys among the left columns.
    keys: Vec<usize>,
    /// A left row is settled when it has been part of a result.
    left: Buffer,
    right: Buffer,
}

/// A row of a batch, and the number of a kept row of the other side.
type Pair = (u32, u64);

impl Pairing {
    fn pair(&mut self, rows: &Rows, out: &mut Output) -> Result<(), Error> {
        let split = self.sides.split(rows)?;
        let (left, left_times) = split.left;
        let (right, right_times) = split.right;
        let (left, left_times, alone) = self.without_nulls(left, left_times)?;
        let (left_keys, right_keys) = (self.left.keys(&left)?, self.right.keys(&right)?);
        let before = pairs(&self.right, &left_keys, &left_times, self.within)?;
        let unsettled = self.sides.keeps_unmatched();
        let first = self
            .left
            .add(left.clone(), left_keys, left_times.clone(), !unsettled);
        let made = self.results(
            &before,
            (&left, &left_times),
            (&right, &right_keys, &right_times),
        );
        let (results, behind) = match made {
            Ok(made) => made,
            Err(error) => {
                self.left.take_back(first);
                return Err(error);
            }
        };
        self.right.add(right, right_keys, right_times, true);
        if unsettled {
            before
                .iter()
                .for_each(|(row, _)| self.left.settle(first + u64::from(*row)));
            behind.iter().for_each(|(_, left)| self.left.settle(*left));
        }
        out.taken += rows.len();
        results
            .into_iter()
            .chain(alone)
            .for_each(|rows| out.push(rows));
        Ok(())
    }

    /// Left rows without those that have null in a key; where these come out, they do so at once.
    fn without_nulls(
        &self,
        left: RecordBatch,
        times: Vec<i64>,
    ) -> Result<(RecordBatch, Vec<i64>, Option<Rows>), Error> {
        let keys: Vec<&ArrayRef> = self.keys.iter().map(|key| left.column(*key)).collect();
        if keys.iter().all(|key| key.null_count() == 0) {
            return Ok((left, times, None));
        }
        let rows = 0..left.num_rows() as u32;
        let (alone, keyed): (Vec<u32>, Vec<u32>) =
            rows.partition(|row| null_in(&keys, *row as usize));
        let pick = |places: Vec<u32>| {
            let picked: Vec<i64> = places.iter().map(|row| times[*row as usize]).collect();
            let places = UInt32Array::from(places);
            let batch = take_record_batch(&left, &places).map_err(misfit)?;
            Ok::<_, Error>((batch, picked))
        };
        let (alone, alone_times) = pick(alone)?;
        let alone = self
            .sides
            .unmatched(alone.columns().to_vec(), alone_times)?;
        let (left, times) = pick(keyed)?;
        Ok((left, times, Some(alone)))
    }

    /// The results of the left rows of a batch with kept right ones, which are found already, and of its right rows with all
    /// left ones.
    fn results(
        &self,
        before: &[Pair],
        (left, left_times): (&RecordBatch, &[i64]),
        (right, right_keys, right_times): (&RecordBatch, &KeyBytes, &[i64]),
    ) -> Result<(Vec<Rows>, Vec<Pair>), Error> {
        let behind = pairs(&self.left, right_keys, right_times, self.within)?;
        if before.len() + behind.len() > JOIN_RESULTS_MAX {
            return Err(
                Error::new(Class::Permanent, "flow.join-too-many").with("most", JOIN_RESULTS_MAX)
            );
        }
        let keys = self.keys.len();
        let mut results = Vec::new();
        for (rows, numbers) in pieces(&self.right, before.to_vec()) {
            let times = rows.values().iter().map(|row| left_times[*row as usize]);
            let times = times.collect();
            let kept = self.right.columns(&numbers)?.split_off(keys);
            results.push(
                self.sides
                    .results(picked(left.columns(), &rows)?, kept, times)?,
            );
        }
        for (rows, numbers) in pieces(&self.left, behind.clone()) {
            let times = numbers
                .iter()
                .map(|number| self.left.time(*number))
                .collect();
            let added = picked(&right.columns()[keys..], &rows)?;
            results.push(
                self.sides
                    .results(self.left.columns(&numbers)?, added, times)?,
            );
        }
        Ok((results, behind))
    }

    fn go_on(&mut self, watermark: i64, out: &mut Output) -> Result<(), Error> {
        // What is still to come has no time before the watermark.
        let past = watermark.saturating_sub(self.within);
        let due = self
            .left
            .due(past)
            .into_iter()
            .map(|number| (0, number))
            .collect();
        let mut alone = Vec::new();
        for (_, numbers) in pieces(&self.left, due) {
            let times = numbers
                .iter()
                .map(|number| self.left.time(*number))
                .collect();
            let columns = self.left.columns(&numbers)?;
            alone.push(self.sides.unmatched(columns, times)?);
        }
        self.left.pass(past);
        self.right.pass(past);
        alone.into_iter().for_each(|rows| out.push(rows));
        Ok(())
    }
}

/// The pairs of rows with kept ones.
fn pairs(kept: &Buffer, keys: &KeyBytes, times: &[i64], within: i64) -> Result<Vec<Pair>, Error> {
    let mut pairs = Vec::new();
    for (row, time) in times.iter().enumerate() {
        kept.find(keys, row, |number, other| {
            if time.abs_diff(other) <= within.unsigned_abs() && pairs.len() <= JOIN_RESULTS_MAX {
                pairs.push((row as u32, number));
            }
        });
    }
    Ok(pairs)
}

/// Pairs in pieces whose kept rows are read together.
fn pieces(kept: &Buffer, mut pairs: Vec<Pair>) -> impl Iterator<Item = (UInt32Array, Vec<u64>)> {
    if kept.is_on_disk() {
        pairs.sort_unstable_by_key(|(_, number)| *number);
    }
    let mut from = 0;
    std::iter::from_fn(move || {
        let rest = &pairs[from..];
        let rows = kept.piece(rest.iter().map(|(_, number)| *number));
        let (piece, _) = rest
            .split_at_checked(rows)
            .filter(|(piece, _)| !piece.is_empty())?;
        from += rows;
        Some((
            piece.iter().map(|(row, _)| *row).collect(),
            piece.iter().map(|(_, number)| *number).collect(),
        ))
    })
}

/// The rows at these places.
pub(super) fn picked(columns: &[ArrayRef], rows: &UInt32Array) -> Result<Vec<ArrayRef>, Error> {
    let columns = columns.iter();
    columns
        .map(|column| take(column, rows, None).map_err(misfit))
        .collect()
}

impl Operator for Pairing {
    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        ready(self.pair(&rows, out)).boxed()
    }

    fn on_time(&mut self, watermark: i64, out: &mut Output) -> Result<(), Error> {
        self.go_on(watermark, out)
    }

    fn next_time(&self) -> Option<i64> {
        let due = self.left.next_due()?;
        Some(due.saturating_add(self.within).saturating_add(1))
    }

    fn flush(&mut self, out: &mut Output) -> Result<(), Error> {
        self.go_on(i64::MAX, out)
    }

    fn snapshot(&mut self, changes: &mut Changes) -> Result<(), Error> {
        self.left.snapshot(changes)?;
        self.right.snapshot(changes)
    }

    fn restore(&mut self, state: Arc<dyn StateReader>) -> Result<(), Error> {
        self.left.restore(Arc::clone(&state))?;
        self.right.restore(state)
    }

    fn memory(&self) -> usize {
        self.left.bytes() + self.right.bytes()
    }

    fn shrink(&mut self, bytes: usize) {
        let (left, right) = (self.left.bytes(), self.right.bytes());
        let share = left as f64 / (left + right).max(1) as f64;
        let left = (bytes as f64 * share) as usize;
        self.left.shrink(left);
        self.right.shrink(bytes - left);
    }
}
