//! How a source is while it runs, beyond what it brings.

use serde::Serialize;

/// How far a source has read what was in a table before its changes came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotStatus {
    /// The table, as the source's options name it in full.
    pub table: String,
    /// What it is doing.
    pub state: SnapshotState,
    /// Rows that were read and sent.
    pub rows: u64,
    /// How many rows are in the table by what was sent: those that were read and those that changes have added since,
    /// without those that they have removed.
    pub expected: Option<i64>,
    /// How many rows the other side has counted at the end.
    pub counted: Option<u64>,
}

/// What is known of a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotState {
    /// It is being read.
    #[default]
    Reading,
    /// All of it has been read, and the other side counts its rows.
    Counting,
    /// The other side has as many rows as were sent.
    Equal,
    /// The other side has counted another number of rows than were sent.
    Different,
    /// All of it has been read, and its rows could not be compared: it was interrupted and went on, changes came for rows
    /// whose place in the order of reading is not known, or the other side did not count.
    Uncompared,
}
