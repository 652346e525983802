//! How far a task with state has come.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is committed with the state of a task's operators: with it, the state is that after the input before
/// `position`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// The generation of the flow: state of an earlier one was left behind by a replay.
    pub generation: u64,
    /// The offset behind the last input event that is done with.
    pub position: u64,
    /// Number of ticks that were applied. With `position`, what outputs know the task's writes by.
    pub ticks: u64,
    /// Where to look for the next ticks in the flow's stream of ticks.
    pub ticks_read: u64,
    /// The greatest event time before `position`, in microseconds since 1970.
    pub seen: Option<i64>,
    /// Event time, in microseconds since 1970: everything before it is late.
    pub watermark: Option<i64>,
    /// In a stage behind another: the watermark of each of its tasks.
    pub producers: BTreeMap<String, i64>,
}

impl Checkpoint {
    /// Number of events and ticks that are done with.
    pub fn sequence(&self) -> u64 {
        self.position + self.ticks
    }
}
