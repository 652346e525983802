//! What comes out of an operator.

use busbar_event::Error;

use super::Rows;
use super::route::RoutedRows;

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
}
