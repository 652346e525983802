//! What the tasks of a flow's version know of each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use busbar_event::Error;
use parking_lot::Mutex;

use super::COLUMNS_WIDER;
use crate::checkpoint::{Mark, TaskKey};
use crate::compile::Plan;
use crate::counters::Tally;
use crate::status::FlowState;

/// What the tasks of a flow's version share.
pub(crate) struct FlowShared {
    pub plan: Arc<Plan>,
    pub tally: Arc<Tally>,
    pub state: Mutex<(FlowState, Option<Error>)>,
    /// Bytes of memory that the state of all its tasks may take.
    pub state_bytes_max: usize,
    /// How far each task is.
    pub marks: Mutex<BTreeMap<TaskKey, Mark>>,
    /// What people should know although the flow runs.
    pub notice: Mutex<Option<Error>>,
    /// What is known of tasks with event time.
    pub clocks: Mutex<BTreeMap<TaskKey, TaskClock>>,
    /// What the state of tasks costs.
    pub costs: Mutex<BTreeMap<TaskKey, StateCost>>,
}

/// What the state of a task costs, since the task began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StateCost {
    /// How long reading the state took when the task began.
    pub restored: Duration,
    /// Keys that the last snapshot has changed.
    pub changes: usize,
    /// The longest time for which a snapshot has held the task up.
    pub longest_stall: Duration,
    /// How long the last commit took, with all tries.
    pub commit: Duration,
    /// Commits that have ended.
    pub commits: u64,
}

/// Event time and state of a task at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct TaskClock {
    /// In microseconds since 1970.
    pub watermark: Option<i64>,
    /// The task of the stage before that is furthest behind.
    pub held_back_by: Option<Arc<str>>,
    /// The least watermark of the streams of the file at which an operator has something to do.
    pub wanted: Option<i64>,
    /// Bytes of state in memory, by operator.
    pub memory: Vec<(Arc<str>, usize)>,
    /// Rows that are held and come out later, by operator.
    pub rows_held: Vec<(Arc<str>, u64)>,
}

impl FlowShared {
    /// The node of a step.
    pub fn step_node(&self, step: usize) -> usize {
        self.plan.first_step + step
    }

    /// The node of an output.
    pub fn output_node(&self, output: usize) -> usize {
        self.plan.first_output + self.plan.outputs[output].of
    }

    /// Notes what the state of a task has cost.
    pub(super) fn cost(&self, task: &TaskKey, note: impl FnOnce(&mut StateCost)) {
        note(self.costs.lock().entry(task.clone()).or_default());
    }

    /// The least watermark that some operator of the flow waits for.
    pub(super) fn wanted(&self) -> Option<i64> {
        let clocks = self.clocks.lock();
        clocks.values().filter_map(|clock| clock.wanted).min()
    }

    pub(super) fn stop(&self, error: Error) {
        let state = match error.code() {
            // The runtime starts it anew: from the copy, where state is damaged.
            COLUMNS_WIDER | "flow.state-damaged" | "flow.state-missing" => FlowState::Retrying,
            _ => FlowState::Stopped,
        };
        *self.state.lock() = (state, Some(error));
    }

    /// Whether it ended to be started anew.
    pub fn is_over(&self) -> bool {
        self.state.lock().0 == FlowState::Retrying
    }
}
