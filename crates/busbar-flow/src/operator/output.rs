//! What comes out of an operator.

use arrow::array::RecordBatch;
use busbar_event::Error;

use super::route::RoutedRows;
use super::{Made, Rows};

/// What an operator made of the rows it was given.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Rows for the next operator, in order.
    pub rows: Vec<Rows>,
    /// Rows that a route sends on another way.
    pub routed: Vec<RoutedRows>,
    /// Rows that came after the watermark had passed what they belong to.
    pub late: Vec<Rows>,
    /// Rows that failed: the event each was made from, and why.
    pub dead: Vec<(usize, Error)>,
    /// Rows that stand for no event and failed.
    pub lost: Vec<LostRows>,
    /// Results of the operator's own that cannot be computed: what is known of each.
    pub unmade: Vec<LostRows>,
    /// Number of rows that went into the operator's state and do not come out themselves.
    pub taken: usize,
}

impl Output {
    /// Adds rows, unless there are none.
    pub fn push(&mut self, rows: Rows) {
        if rows.len() > 0 {
            self.rows.push(rows);
        }
    }

    /// Notes that a row that was given failed. Its dead letter is the event that it was made from, or, for a result that
    /// stands for no event, the result.
    pub fn fail(&mut self, rows: &Rows, row: usize, cause: Error) {
        match (&rows.made, &rows.times) {
            (Made::Many, Some(_)) => self.lost.push(LostRows {
                rows: rows.slice(row, 1),
                causes: vec![cause],
            }),
            (made, _) => self.dead.push((made.event(row), cause)),
        }
    }

    /// Notes that results of the operator's own cannot be computed: what is known of each, its event time, and why. All of
    /// an operator have the same columns.
    pub fn fail_results(&mut self, batch: RecordBatch, times: Vec<i64>, causes: Vec<Error>) {
        let rows = Rows::results(batch, times);
        self.unmade.push(LostRows { rows, causes });
    }

    /// Why rows that were given failed.
    pub fn causes(&self) -> impl Iterator<Item = &Error> {
        let dead = self.dead.iter().map(|(_, cause)| cause);
        dead.chain(self.lost.iter().flat_map(|lost| &lost.causes))
    }

    /// Number of rows that were given and failed.
    pub fn failed(&self) -> usize {
        self.dead.len() + LostRows::count(&self.lost)
    }
}

/// Rows that stand for no event and came to no end.
#[derive(Debug)]
pub(crate) struct LostRows {
    pub rows: Rows,
    /// Why, for each row.
    pub causes: Vec<Error>,
}

impl LostRows {
    /// Number of rows.
    pub fn count(all: &[LostRows]) -> usize {
        all.iter().map(|lost| lost.rows.len()).sum()
    }
}
