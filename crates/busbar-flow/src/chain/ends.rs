//! Where rows leave a chain: those with the same columns together, each for the outputs that it goes to.

use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use busbar_event::{Class, Error};

use super::{ChainWork, Computed};
use crate::counters::Counters;
use crate::operator::{Made, Rows, Times};

/// Rows that come out with the same columns.
pub(crate) struct ChainEnd {
    pub schema: SchemaRef,
    /// The ways that end here, each with the outputs that its rows go to: a bit for each.
    pub ways: Vec<(usize, u32)>,
    /// Ways whose rows are events as they came. One that takes several of them comes out once for each output.
    pub plain: Vec<usize>,
}

/// The rows of one end; the fields are those of [`Computed`].
pub(crate) struct EndRows {
    pub rows: RecordBatch,
    pub origin: Made,
    pub times: Option<Times>,
    pub to: Option<UInt32Array>,
}

impl Computed {
    /// Rows of all ends together.
    pub fn rows_all(&self) -> usize {
        let others = self.others.iter().map(|end| end.rows.num_rows());
        self.rows.num_rows() + others.sum::<usize>()
    }

    fn end(&self, end: usize) -> (&RecordBatch, &Made, &Option<Times>, &Option<UInt32Array>) {
        match end.checked_sub(1).and_then(|other| self.others.get(other)) {
            None => (&self.rows, &self.origin, &self.times, &self.to),
            Some(end) => (&end.rows, &end.origin, &end.times, &end.to),
        }
    }

    /// Whether rows of an end go to outputs of their own.
    pub fn divided(&self, end: usize) -> bool {
        self.end(end).3.is_some()
    }

    /// The results of one end, or those of them that go to an output of the file.
    pub fn of_output(&self, end: usize, output: Option<usize>) -> Result<Computed, Error> {
        let (batch, made, times, to) = self.end(end);
        let mut rows = Rows {
            batch: batch.clone(),
            made: made.clone(),
            times: times.clone(),
        };
        let mut picked = None;
        if let (Some(to), Some(output)) = (to, output) {
            let bit = 1u32 << output.min(31);
            let its = to
                .values()
                .iter()
                .enumerate()
                .filter(|(_, to)| **to & bit != 0);
            let its: UInt32Array = its.map(|(row, _)| row as u32).collect();
            if its.len() < rows.len() {
                rows = rows.take(&its)?;
                picked = Some(its);
            }
        }
        Ok(Computed {
            events: self.events.clone(),
            rows: rows.batch,
            origin: rows.made,
            times: rows.times,
            to: None,
            picked,
            others: Vec::new(),
            dead: Vec::new(),
            lost: Vec::new(),
            late: Vec::new(),
            input: 0,
            read: Counters::default(),
            counts: Vec::new(),
            watermark: self.watermark,
            place: self.place,
            sources: self.sources.clone(),
        })
    }
}

impl ChainEnd {
    /// The rows that have come to this end.
    pub fn rows(&self, work: &mut ChainWork) -> Result<EndRows, Error> {
        let mut rows: Vec<Rows> = Vec::new();
        let mut to: Vec<u32> = Vec::new();
        let mut plain: Vec<bool> = Vec::new();
        let mut add = |way: usize, piece: Rows, masks: &mut dyn Iterator<Item = u32>| {
            to.extend(masks.take(piece.len()));
            plain.extend(std::iter::repeat_n(self.plain.contains(&way), piece.len()));
            rows.push(piece);
        };
        for (way, mask) in &self.ways {
            for piece in std::mem::take(&mut work.queues[*way]) {
                add(*way, piece, &mut std::iter::repeat(*mask));
            }
            for (of, piece, masks) in work.done.extract_if(.., |(of, ..)| of == way) {
                add(of, piece, &mut masks.values().iter().copied());
            }
        }
        let one = self.ways.len() == 1 && !self.plain.contains(&self.ways[0].0);
        let several = self.ways.len() > 1 && rows.len() > 1;
        let (mut batch, mut origin, mut times) = together(&self.schema, rows)?;
        if several && let Some(order) = in_order(&origin) {
            let sorted = Rows {
                batch,
                made: origin,
                times,
            };
            let sorted = sorted.take(&order)?;
            (batch, origin, times) = (sorted.batch, sorted.made, sorted.times);
            to = order.values().iter().map(|row| to[*row as usize]).collect();
            plain = order
                .values()
                .iter()
                .map(|row| plain[*row as usize])
                .collect();
        }
        // An event that took several ways as it is goes to each output once.
        for row in 1..plain.len() {
            let same = plain[row - 1] && plain[row] && !matches!(origin, Made::Many);
            if same && origin.event(row - 1) == origin.event(row) {
                to[row] &= !to[row - 1];
            }
        }
        Ok(EndRows {
            rows: batch,
            origin,
            times,
            to: (!one).then(|| to.into()),
        })
    }
}

/// The order of rows by the events that they stand for, where each stands for one and they are not in order yet.
pub(super) fn in_order(origin: &Made) -> Option<UInt32Array> {
    let Made::From(events) = origin else {
        return None;
    };
    if events.values().is_sorted() {
        return None;
    }
    let mut order: Vec<u32> = (0..events.len() as u32).collect();
    order.sort_by_key(|row| events.value(*row as usize));
    Some(order.into())
}

pub(super) type Together = (RecordBatch, Made, Option<Times>);

/// The last operator's rows as one batch.
pub(super) fn together(schema: &SchemaRef, mut rows: Vec<Rows>) -> Result<Together, Error> {
    if rows.len() < 2 {
        return Ok(match rows.pop() {
            Some(rows) => (rows.batch, rows.made, rows.times),
            None => {
                let none = UInt32Array::from(Vec::<u32>::new());
                let empty = RecordBatch::new_empty(Arc::clone(schema));
                (empty, Made::From(none), None)
            }
        });
    }
    let many = rows.iter().any(|rows| matches!(rows.made, Made::Many));
    let made = match many {
        true => Made::Many,
        false => Made::From(
            rows.iter()
                .flat_map(|rows| (0..rows.len()).map(|row| rows.made.event(row) as u32))
                .collect(),
        ),
    };
    let times: Option<Vec<&Times>> = rows.iter().map(|rows| rows.times.as_ref()).collect();
    let times = times.map(|times| Times::concat(&times));
    let batch = concat_batches(rows[0].batch.schema_ref(), rows.iter().map(|r| &r.batch));
    let batch = batch.map_err(|e| {
        Error::new(Class::Permanent, "flow.misfit")
            .with("column", "")
            .caused_by(e)
    })?;
    Ok((batch, made, times))
}
