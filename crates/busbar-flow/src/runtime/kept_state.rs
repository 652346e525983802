//! What becomes of the state of a flow when another version of it begins.

use std::collections::BTreeSet;
use std::sync::Arc;

use busbar_event::{Class, Error};

use super::Runtime;
use crate::blocking::blocking;
use crate::checkpoint::{Kept, StateOf, TaskKey};
use crate::compile::Plan;
use crate::task::MAIN;

/// What is kept of a version that has begun.
pub(super) struct BegunVersion {
    /// A hash of what its file means.
    pub meaning: u64,
    pub states: BTreeSet<StateOf>,
}

/// The operators of a plan that keep state.
pub(super) fn states(plan: &Plan) -> BTreeSet<StateOf> {
    let inputs = plan.inputs.iter();
    let states = inputs.flat_map(|input| {
        let operators = input.meanings().into_keys();
        operators.map(|operator| StateOf {
            operator,
            stream: input.stream.clone(),
        })
    });
    states.collect()
}

/// The name of a task's state.
pub(super) fn state_name(known_as: &str, key: &TaskKey) -> String {
    format!("{known_as}/{}/{}", key.stream, key.partition)
}

impl Runtime {
    /// A notice of the operators of the version before whose state is dropped, because this one has none of their names; none
    /// where it takes up all.
    ///
    /// # Errors
    /// `flow.state-changed` where an operator of the same name reads rows that are regrouped otherwise, so that it cannot take
    /// up its state.
    pub(super) async fn dropped_state(
        &self,
        plan: &Arc<Plan>,
        kept: &Kept,
    ) -> Result<Option<Error>, Error> {
        let now = states(plan);
        let gone: Vec<StateOf> = kept.states.difference(&now).cloned().collect();
        if gone.is_empty() {
            return Ok(None);
        }
        let (runtime, name) = (self.clone(), Arc::clone(&plan.name));
        let kept = kept.clone();
        let gone = blocking(move || {
            let mut with_state = BTreeSet::new();
            for state in gone {
                if runtime.has_state(&name, &kept, &state.stream)? {
                    with_state.insert(state.operator);
                }
            }
            Ok(with_state)
        })
        .await?;
        if let Some(same) = now.iter().find(|state| gone.contains(&state.operator)) {
            return Err(Error::new(Class::Configuration, "flow.state-changed")
                .with("flow", &plan.name)
                .with("operator", &same.operator));
        }
        let names: Vec<&str> = gone.iter().map(String::as_str).collect();
        Ok((!names.is_empty()).then(|| {
            Error::new(Class::Configuration, "flow.state-dropped")
                .with("flow", &plan.name)
                .with("operators", names.join(", "))
        }))
    }

    /// Whether there is state of the tasks that read a stream. Blocks on the disk.
    fn has_state(&self, name: &str, kept: &Kept, stream: &str) -> Result<bool, Error> {
        let Some(read) = self.inner.options.bus.stream(stream) else {
            return Ok(false);
        };
        let known_as = kept.known_as.as_deref().unwrap_or(name);
        for partition in read.partitions().iter() {
            let key = TaskKey {
                stream: stream.to_owned(),
                partition: partition.number(),
                lane: MAIN.into(),
            };
            let mark = self.inner.checkpoints.task(name, &key)?;
            let generation = mark.map_or(0, |mark| mark.generation).max(kept.generation);
            let found = self.inner.states.find(&state_name(known_as, &key))?;
            // State of an earlier generation was left behind by a replay.
            if found
                .checkpoint
                .is_some_and(|found| found.generation == generation)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
