//! What goes to one output of a flow, and in which pieces.

use std::sync::Arc;

use arrow::array::RecordBatch;
use busbar_connector::RowSource;
use busbar_event::Batch;

use crate::limits::{PIECE_BYTES_MAX, PIECE_ROWS_MAX};

/// What goes to one output.
#[derive(Clone, Debug)]
pub(crate) enum Outgoing {
    /// Events for a stream or for whoever captures them.
    Events(Batch),
    /// Rows of a table.
    Rows(RecordBatch),
    /// Both, for a connection.
    Delivery {
        events: Batch,
        rows: RecordBatch,
        /// The event that each row was made from, where that is one that lies in the log.
        sources: Option<Arc<[RowSource]>>,
    },
    /// Events for partitions of the next stage.
    Parts(Vec<(u16, Batch)>),
}

impl Outgoing {
    /// Whether it is written by more than one append to a partition.
    pub fn in_pieces(&self) -> bool {
        let more = |events: &Batch| pieces(events, true).nth(1).is_some();
        match self {
            Outgoing::Events(events) => more(events),
            Outgoing::Parts(parts) => parts.iter().any(|(_, events)| more(events)),
            Outgoing::Rows(_) | Outgoing::Delivery { .. } => false,
        }
    }
}

/// Events in pieces that one append takes, or as they are; none of none.
pub(crate) fn pieces(events: &Batch, cut: bool) -> impl Iterator<Item = Batch> + '_ {
    let rows = events.rows();
    let bytes = events.bytes() / rows.max(1);
    let each = match cut {
        true => (PIECE_BYTES_MAX / bytes.max(1)).clamp(1, PIECE_ROWS_MAX),
        false => rows.max(1),
    };
    let piece = move |from: usize| events.slice(from, each.min(rows - from));
    (0..rows).step_by(each).map(piece)
}
