//! Results as what the outputs of a task take.

use std::sync::Arc;

use busbar_event::Error;

use crate::chain::Computed;
use crate::compile::{Plan, Target};
use crate::exchange;
use crate::outgoing::Outgoing;
use crate::shape::{Prepared, Shaped, prepare};

/// Prepares results for some outputs of a plan.
pub(crate) fn prepare_outputs(
    plan: &Plan,
    input: usize,
    outputs: &[usize],
    computed: &Computed,
) -> Result<Vec<Prepared>, Error> {
    prepare_for_stage(plan, input, outputs, computed, None)
}

/// As [`prepare_outputs`], with the watermark that the next stage is told of a task.
pub(super) fn prepare_for_stage(
    plan: &Plan,
    input: usize,
    outputs: &[usize],
    computed: &Computed,
    moved: Option<(Arc<str>, i64)>,
) -> Result<Vec<Prepared>, Error> {
    let input = &plan.inputs[input];
    if let Some((_, exchange)) = &input.exchange {
        let (producer, watermark) = moved.unzip();
        let producer = producer.unwrap_or_default();
        let parts = exchange::parts(exchange, computed, &producer, watermark)?;
        return Ok(vec![Prepared {
            outgoing: Outgoing::Parts(parts),
            made: computed.letters_origin(),
            rows: computed.rows.num_rows(),
            dead: Vec::new(),
        }]);
    }
    // Outputs that take the same rows share the work.
    let mut shared: Vec<(_, Computed, Option<Shaped>)> = Vec::new();
    let mut all = Vec::with_capacity(outputs.len());
    for o in outputs {
        let output = &plan.outputs[*o];
        let end = input.ends.get(output.end).unwrap_or(&input.ends[0]);
        let takes = output.takes.filter(|_| computed.divided(output.end));
        let place = match shared
            .iter()
            .position(|(key, ..)| *key == (output.end, takes))
        {
            Some(place) => place,
            None => {
                let its = computed.of_output(output.end, takes)?;
                shared.push(((output.end, takes), its, None));
                shared.len() - 1
            }
        };
        let (_, its, shaped) = &mut shared[place];
        if shaped.is_none() && !matches!(output.target, Target::Table(_) | Target::Results(_)) {
            *shaped = Some(Shaped::new(its, end.projected)?);
        }
        let shape = end.shapes.get(output.of).and_then(Option::as_ref);
        let prepared = prepare(its, shaped.as_ref(), output, shape, end.projected)?;
        all.push(prepared);
    }
    Ok(all)
}
