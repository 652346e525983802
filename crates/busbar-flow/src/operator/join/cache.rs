//! CachedRows of a table whose look-ups take long, kept for a while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, interleave_record_batch};
use arrow::row::Row;
use busbar_event::Error;
use busbar_table::Found;

use crate::limits::{JOIN_CACHE_BATCHES_MAX, JOIN_CACHE_ROWS_MAX};
use crate::operator::rows::misfit;

/// CachedRows by key, bounded in number. The newer half replaces the older one when it is full, so that what is asked for often
/// stays without an order being kept.
pub(super) struct Cache {
    /// How long an answer holds.
    ttl: Duration,
    now: Instant,
    newer: CachedRows,
    older: CachedRows,
}

#[derive(Default)]
struct CachedRows {
    by_key: HashMap<Box<[u8]>, CachedRow, foldhash::fast::RandomState>,
    /// The rows of the answers, numbered through.
    batches: Vec<RecordBatch>,
    rows: u32,
}

#[derive(Clone, Copy)]
struct CachedRow {
    asked: Instant,
    /// The number of the row; none if there is no row.
    row: Option<u32>,
}

impl Cache {
    pub fn new(ttl: Duration) -> Cache {
        Cache {
            ttl,
            now: Instant::now(),
            newer: CachedRows::default(),
            older: CachedRows::default(),
        }
    }

    /// Begins with the keys of a batch: what is known now stays so until they are answered.
    pub fn begin(&mut self) {
        self.now = Instant::now();
        if self.newer.by_key.len() >= JOIN_CACHE_ROWS_MAX / 2 {
            self.older = std::mem::take(&mut self.newer);
        }
    }

    /// Whether there is an answer for a key.
    pub fn knows(&self, key: &[u8]) -> bool {
        self.find(key).is_some()
    }

    /// Takes answers in.
    pub fn learn<'a>(
        &mut self,
        keys: impl Iterator<Item = Row<'a>>,
        found: Found,
    ) -> Result<(), Error> {
        let first = self.newer.rows;
        for (key, place) in keys.zip(found.places.iter()) {
            let answer = CachedRow {
                asked: self.now,
                row: place.map(|place| first + place),
            };
            self.newer.by_key.insert(key.data().into(), answer);
        }
        self.newer.rows += found.rows.num_rows() as u32;
        self.newer.batches.push(found.rows);
        if self.newer.batches.len() > JOIN_CACHE_BATCHES_MAX {
            let schema = self.newer.batches[0].schema();
            let one = concat_batches(&schema, &self.newer.batches).map_err(misfit)?;
            self.newer.batches = vec![one];
        }
        Ok(())
    }

    /// The answers for keys that are all known.
    pub fn answer<'a>(&self, keys: impl Iterator<Item = Row<'a>>) -> Result<Found, Error> {
        let mut batches: Vec<&RecordBatch> = Vec::new();
        let mut begins: Vec<[u32; 2]> = Vec::new();
        let halves = [&self.newer, &self.older];
        let mut first = [0, 0];
        for (half, answers) in halves.iter().enumerate() {
            first[half] = batches.len();
            let mut begin = 0;
            for batch in &answers.batches {
                begins.push([begin, begin + batch.num_rows() as u32]);
                begin += batch.num_rows() as u32;
                batches.push(batch);
            }
        }
        let (mut places, mut rows) = (Vec::new(), Vec::new());
        for key in keys {
            let found = self.find(key.data());
            let row = found.and_then(|(half, answer)| Some((half, answer.row?)));
            places.push(row.map(|_| rows.len() as u32));
            let Some((half, row)) = row else { continue };
            let end = first[half] + halves[half].batches.len();
            let own = &begins[first[half]..end];
            let batch = first[half] + own.partition_point(|[_, end]| *end <= row);
            rows.push((batch, (row - begins[batch][0]) as usize));
        }
        let rows = match batches.iter().all(|batch| batch.num_columns() > 0) {
            true => interleave_record_batch(&batches, &rows).map_err(misfit)?,
            // Only the places are of interest.
            false => batches[0].slice(0, 0),
        };
        Ok(Found {
            rows,
            places: UInt32Array::from(places),
        })
    }

    /// Bytes of memory held, about.
    pub fn bytes(&self) -> usize {
        let half = |answers: &CachedRows| {
            let rows = answers.batches.iter();
            let rows: usize = rows.map(RecordBatch::get_array_memory_size).sum();
            rows + answers.by_key.len() * size_of::<(Box<[u8]>, CachedRow)>() * 2
        };
        half(&self.newer) + half(&self.older)
    }

    fn find(&self, key: &[u8]) -> Option<(usize, CachedRow)> {
        let fresh = |answer: &&CachedRow| self.now.duration_since(answer.asked) < self.ttl;
        let newer = self.newer.by_key.get(key).filter(fresh);
        let older = || self.older.by_key.get(key).filter(fresh);
        match newer {
            Some(answer) => Some((0, *answer)),
            None => older().map(|answer| (1, *answer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::{DataType, Int64Type};
    use arrow::row::{RowConverter, SortField};

    use super::*;

    fn keys(numbers: &[i64]) -> arrow::row::Rows {
        let converter = RowConverter::new(vec![SortField::new(DataType::Int64)]).unwrap();
        let numbers: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
        converter.convert_columns(&[numbers]).unwrap()
    }

    /// CachedRows each key with ten times its number, but odd ones with nothing.
    fn found(numbers: &[i64]) -> Found {
        let even = |number: &&i64| **number % 2 == 0;
        let rows: Vec<i64> = numbers.iter().filter(even).map(|n| n * 10).collect();
        let mut next = 0..;
        let places = numbers
            .iter()
            .map(|n| even(&n).then(|| next.next().unwrap()));
        let rows: ArrayRef = Arc::new(Int64Array::from(rows));
        Found {
            places: places.collect(),
            rows: RecordBatch::try_from_iter([("v", rows)]).unwrap(),
        }
    }

    #[test]
    fn answers_are_kept_for_their_time_and_within_the_bound() {
        let mut cache = Cache::new(Duration::from_secs(3600));
        let mut number = 0;
        while number < JOIN_CACHE_ROWS_MAX as i64 * 2 {
            cache.begin();
            let some: Vec<i64> = (number..number + 1000).collect();
            let encoded = keys(&some);
            cache.learn(encoded.iter(), found(&some)).unwrap();
            let answer = cache.answer(encoded.iter()).unwrap();
            assert_eq!(answer.places.null_count(), 500);
            let place = answer.places.value(400) as usize;
            let value = answer
                .rows
                .column(0)
                .as_primitive::<Int64Type>()
                .value(place);
            assert_eq!(value, (number + 400) * 10);
            number += 1000;
        }
        let kept = cache.newer.by_key.len() + cache.older.by_key.len();
        assert!(kept <= JOIN_CACHE_ROWS_MAX + 1000, "{kept}");
        let last = keys(&[number - 1]);
        assert!(cache.knows(last.row(0).data()));
        let first = keys(&[0]);
        assert!(!cache.knows(first.row(0).data()));
        cache.ttl = Duration::ZERO;
        assert!(!cache.knows(last.row(0).data()));
    }
}
