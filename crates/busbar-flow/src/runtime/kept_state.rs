//! What becomes of the state of a flow when another version of it begins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use busbar_event::{Class, Error};

use super::{Flow, Runtime};
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
    /// where it takes up all. `old` is the version before, where it runs.
    ///
    /// # Errors
    /// `flow.state-changed` where an operator of the same name reads rows that are regrouped otherwise, so that it cannot take
    /// up its state; `flow.state-holds` where rows that have not come out are in the state.
    pub(super) async fn dropped_state(
        &self,
        plan: &Arc<Plan>,
        kept: &Kept,
        old: Option<&Arc<Flow>>,
    ) -> Result<Option<Error>, Error> {
        let now = states(plan);
        let gone: Vec<StateOf> = kept.states.difference(&now).cloned().collect();
        if gone.is_empty() {
            return Ok(None);
        }
        let (runtime, name) = (self.clone(), Arc::clone(&plan.name));
        let kept = kept.clone();
        let gone = blocking(move || {
            let mut with_state: BTreeMap<String, u64> = BTreeMap::new();
            for state in gone {
                if let Some(held) = runtime.rows_held(&name, &kept, &state)? {
                    *with_state.entry(state.operator).or_default() += held;
                }
            }
            Ok(with_state)
        })
        .await?;
        if let Some(same) = now.iter().find(|state| gone.contains_key(&state.operator)) {
            return Err(Error::new(Class::Configuration, "flow.state-changed")
                .with("flow", &plan.name)
                .with("operator", &same.operator));
        }
        let running = running_holds(old);
        let holds: Vec<String> = gone
            .iter()
            .map(|(operator, committed)| {
                // What has come since the last commit counts, and what has gone does not.
                let held = running.get(operator.as_str()).unwrap_or(committed);
                (operator, *held)
            })
            .filter(|(_, held)| *held > 0)
            .map(|(operator, held)| format!("{operator}: {held}"))
            .collect();
        if !holds.is_empty() {
            return Err(Error::new(Class::Configuration, "flow.state-holds")
                .with("flow", &plan.name)
                .with("held", holds.join(", ")));
        }
        let names: Vec<&str> = gone.keys().map(String::as_str).collect();
        Ok((!names.is_empty()).then(|| {
            Error::new(Class::Configuration, "flow.state-dropped")
                .with("flow", &plan.name)
                .with("operators", names.join(", "))
        }))
    }

    /// How many rows the state of an operator holds that would come out later; none if the tasks that read its stream have no
    /// state. Blocks on the disk.
    fn rows_held(&self, name: &str, kept: &Kept, of: &StateOf) -> Result<Option<u64>, Error> {
        let (stream, mut held) = (&of.stream, None);
        let Some(read) = self.inner.options.bus.stream(stream) else {
            return Ok(None);
        };
        let known_as = kept.known_as.as_deref().unwrap_or(name);
        for partition in read.partitions().iter() {
            let key = TaskKey {
                stream: stream.clone(),
                partition: partition.number(),
                lane: MAIN.into(),
            };
            let mark = self.inner.checkpoints.task(name, &key)?;
            let generation = mark.map_or(0, |mark| mark.generation).max(kept.generation);
            let task = state_name(known_as, &key);
            let found = self.inner.states.find(&task)?;
            // State of an earlier generation was left behind by a replay.
            if found
                .checkpoint
                .is_some_and(|found| found.generation == generation)
            {
                let copy = found.copy.is_some();
                let rows = self.inner.states.rows_held(&task, &of.operator, copy)?;
                *held.get_or_insert(0) += rows;
            }
        }
        Ok(held)
    }
}

/// The rows that operators of a running flow hold, of all tasks.
fn running_holds(flow: Option<&Arc<Flow>>) -> BTreeMap<String, u64> {
    let mut held = BTreeMap::new();
    if let Some(shared) = flow.and_then(|flow| flow.shared.as_ref()) {
        let clocks = shared.clocks.lock();
        for (operator, rows) in clocks.values().flat_map(|clock| &clock.rows_held) {
            *held.entry(operator.to_string()).or_default() += rows;
        }
    }
    held
}
