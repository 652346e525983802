//! What comes out of an operator.

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
    /// Results that stand for no event and failed, each with why.
    pub lost: Vec<(Rows, Error)>,
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

    /// Notes that a row failed. What dead letters tell of is the event that it was made from; a result that stands for none is
    /// told of itself.
    pub fn fail(&mut self, rows: &Rows, row: usize, cause: Error) {
        match (&rows.made, &rows.times) {
            (Made::Many, Some(_)) => self.lost.push((rows.slice(row, 1), cause)),
            (made, _) => self.dead.push((made.event(row), cause)),
        }
    }

    /// Number of rows that failed.
    pub fn failed(&self) -> usize {
        self.dead.len() + self.lost.len()
    }
}
