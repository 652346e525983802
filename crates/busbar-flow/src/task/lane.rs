//! The cursors of a flow on its inputs.

use crate::compile::{Plan, Target};

/// A cursor of a flow: that of a stage, or of an output that must not hold others up.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    pub id: String,
    /// The outputs it writes to, by index.
    pub outputs: Vec<usize>,
    /// It counts for the flow and keeps its dead letters.
    pub main: bool,
    /// Its rows go to the next stage.
    pub to_stage: bool,
}

/// The name of the lane for streams and hot tables.
pub(crate) const MAIN: &str = "main";

/// The cursors of a flow on one of its inputs. A stage that hands its rows on has one. Else there is one for all streams and
/// hot tables together, whose writes are as fast as the log, and one for each relational table and connection, so that a slow
/// or locked one holds nobody else up; these compute for themselves, or, where rows must be computed once only, read what was
/// computed.
pub(crate) fn lanes(plan: &Plan, input: usize) -> Vec<Lane> {
    let input = &plan.inputs[input];
    let main = |outputs: Vec<usize>, to_stage: bool| Lane {
        id: MAIN.into(),
        outputs,
        main: true,
        to_stage,
    };
    if let Some((output, _)) = &input.exchange {
        return vec![main(vec![*output], true)];
    }
    let takes = |o: &usize| {
        let output = &plan.outputs[*o];
        match output.target {
            Target::Stage(_) => false,
            Target::Results(_) => input.results_to.contains(o),
            _ => input.shape(output).is_some(),
        }
    };
    let apart = |o: &usize| plan.outputs[*o].apart;
    let all = (0..plan.outputs.len()).filter(takes);
    let (sinks, own): (Vec<usize>, Vec<usize>) = all.partition(apart);
    let mut lanes: Vec<Lane> = Vec::new();
    if input.timed || !input.results_to.is_empty() {
        return vec![main(own, false)];
    }
    if !own.is_empty() && !input.delivers() {
        lanes.push(main(own, false));
    }
    for output in sinks {
        let id = format!("to-{}", plan.outputs[output].id);
        if let Some(lane) = lanes.iter_mut().find(|lane| lane.id == id) {
            lane.outputs.push(output);
            continue;
        }
        lanes.push(Lane {
            id,
            outputs: vec![output],
            main: lanes.is_empty() && !input.delivers(),
            to_stage: false,
        });
    }
    lanes
}
