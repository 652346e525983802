//! Streams of results: a flow begins to use them, and ceases to, without losing what is on its way.
//!
//! Without them each output with a cursor of its own reads the input; with them one task reads it for all. A flow that begins
//! to use them reads its input from where the output was that is furthest behind; other outputs with cursors of their own
//! then get again what is between that and their own position. A flow ceases to use them when it starts anew and all
//! results have been taken.

use busbar_event::Error;

use super::Runtime;
use super::deploy::Seat;
use super::kept_state::BegunVersion;
use super::trim::is_of_results;
use crate::blocking::blocking;
use crate::checkpoint::{Mark, TaskKey};
use crate::compile::Plan;
use crate::task::MAIN;

impl Runtime {
    /// Whether outputs of a flow have still to take results from streams of its own, or may have to when the version
    /// that runs has ended.
    pub(super) fn is_delivering(&self, flow: &str, known_as: &str) -> Result<bool, Error> {
        let running = self.inner.flows.read().get(flow).cloned();
        let shared = running.as_ref().and_then(|flow| flow.shared.as_ref());
        if shared.is_some_and(|shared| shared.plan.inputs.iter().any(|i| !i.results_to.is_empty()))
        {
            return Ok(true);
        }
        for (key, mark, end) in self.result_marks(flow, known_as)? {
            if mark.position < end {
                tracing::debug!(flow, stream = %key.stream, lane = %key.lane, "results are not taken yet");
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The marks of outputs on streams of results of a flow, each with the end of its partition.
    fn result_marks(&self, flow: &str, known_as: &str) -> Result<Vec<(TaskKey, Mark, u64)>, Error> {
        let mut marks = Vec::new();
        for stream in self.inner.options.bus.streams() {
            if !is_of_results(stream.name(), known_as) {
                continue;
            }
            for partition in stream.partitions().iter() {
                let (name, number) = (stream.name(), partition.number());
                for (lane, mark) in self.inner.checkpoints.lanes(flow, name, number)? {
                    let key = TaskKey {
                        stream: name.to_owned(),
                        partition: number,
                        lane,
                    };
                    marks.push((key, mark, partition.end()));
                }
            }
        }
        Ok(marks)
    }

    /// For a task that computes for outputs with cursors of their own which have read the input themselves until now: the
    /// position of the one that is furthest behind.
    pub(super) fn furthest_behind(
        &self,
        plan: &Plan,
        task: &Seat,
        ended: &[(TaskKey, Mark)],
    ) -> Result<Option<Mark>, Error> {
        let key = &task.key;
        let lanes = own_lanes(plan, task.input);
        if lanes.is_empty() {
            return Ok(None);
        }
        let kept = self
            .inner
            .checkpoints
            .lanes(&plan.name, &key.stream, key.partition)?;
        let position = |lane: &str| {
            let is_it = |known: &TaskKey| {
                known.lane == *lane
                    && (&known.stream, known.partition) == (&key.stream, key.partition)
            };
            let ended = ended.iter().find(|(known, _)| is_it(known));
            let kept = || kept.iter().find(|(known, _)| known == lane);
            ended
                .map(|(_, mark)| *mark)
                .or_else(|| kept().map(|(_, mark)| *mark))
        };
        let behind = lanes.iter().filter_map(|lane| position(lane));
        let behind = behind.min_by_key(|mark| mark.position);
        let all = behind
            .into_iter()
            .chain(behind.and_then(|_| position(MAIN)));
        Ok(all.min_by_key(|mark| mark.position))
    }

    /// The tasks whose positions mean nothing any more once this plan has begun: of outputs that read results from streams
    /// now.
    pub(super) fn retired(&self, plan: &Plan) -> Vec<TaskKey> {
        let mut retired = Vec::new();
        for (at, input) in plan.inputs.iter().enumerate() {
            let lanes = own_lanes(plan, at);
            let Some(stream) = self.inner.options.bus.stream(&input.stream) else {
                continue;
            };
            for partition in stream.partitions().iter() {
                retired.extend(lanes.iter().map(|lane| TaskKey {
                    stream: input.stream.clone(),
                    partition: partition.number(),
                    lane: lane.clone(),
                }));
            }
        }
        retired
    }

    /// Marks behind all results in streams that this plan does not read: should they be used again, what is in them now is
    /// not delivered once more.
    pub(super) fn done_with(
        &self,
        plan: &Plan,
        known_as: &str,
    ) -> Result<Vec<(TaskKey, Mark)>, Error> {
        let reads = |stream: &str| plan.inputs.iter().any(|input| input.stream == stream);
        let marks = self.result_marks(&plan.name, known_as)?.into_iter();
        let unread = marks.filter(|(key, ..)| !reads(&key.stream));
        let behind = unread.map(|(key, mark, end)| {
            let position = end;
            (key, Mark { position, ..mark })
        });
        Ok(behind.collect())
    }

    /// Keeps where tasks are, and what has begun where a version has; forgets the tasks that are no more.
    pub(super) async fn begin_marks(
        &self,
        name: &str,
        marks: &[(TaskKey, Mark)],
        retired: Vec<TaskKey>,
        begun: Option<BegunVersion>,
    ) {
        let checkpoints = self.inner.checkpoints.clone();
        let (flow, marks) = (name.to_owned(), marks.to_vec());
        let kept = blocking(move || {
            let mut kept = checkpoints.flow(&flow)?;
            if let Some(begun) = begun {
                kept.meaning = Some(begun.meaning);
                kept.states = begun.states;
                kept.removed = None;
            }
            checkpoints.write_begun(&flow, &kept, &marks, &retired)
        });
        if let Err(error) = kept.await {
            tracing::warn!(flow = %name, %error, "the checkpoint was not kept");
        }
    }
}

/// The cursors on an input that its outputs would have, did they not read results from streams; none where they have them, or
/// the input keeps state.
fn own_lanes(plan: &Plan, input: usize) -> Vec<String> {
    let input = &plan.inputs[input];
    if input.timed || input.results_to.is_empty() {
        return Vec::new();
    }
    let apart = plan.outputs.iter().filter(|output| output.apart);
    apart.map(|output| format!("to-{}", output.id)).collect()
}
