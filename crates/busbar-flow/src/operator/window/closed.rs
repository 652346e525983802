use arrow::array::RecordBatch;

/// Results of windows that closed, or early results of windows that are open.
pub(super) struct Closed {
    pub result: RecordBatch,
    /// The end of each row's window, microseconds.
    pub ends: Vec<i64>,
}

impl Closed {
    /// Results of windows with one end.
    pub fn at(end: i64, result: RecordBatch) -> Self {
        Self {
            ends: vec![end; result.num_rows()],
            result,
        }
    }
}
