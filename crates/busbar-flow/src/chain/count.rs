//! What an operator did with the rows of a batch, in numbers.

use super::StepPart;
use crate::counters::Counters;
use crate::operator::{LostRows, Output, Rows};

/// What an operator did with the rows of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count {
    /// The index of its step.
    pub step: usize,
    /// As the step is seen: the two parts of a divided step together.
    pub node: Counters,
    /// As the flow is seen: what each part did.
    pub flow: Counters,
}

/// Counts what an operator made of the rows that it was given.
pub(super) fn count(step: usize, given: usize, out: &Output, part: StepPart) -> Count {
    let rows = |rows: &[Rows]| rows.iter().map(Rows::len).sum::<usize>() as u64;
    let routed: usize = out.routed.iter().map(|routed| routed.rows.len()).sum();
    let made = rows(&out.rows) + routed as u64;
    let (given, late) = (given as u64, rows(&out.late));
    let (failed, taken) = (out.failed() as u64, out.taken as u64);
    // Results that cannot be computed were added all the same, and died.
    let unmade = LostRows::count(&out.unmade) as u64;
    let dead = failed + unmade;
    let whole = Counters {
        input: given,
        out: made,
        dead,
        late,
        ..Counters::default()
    };
    if part == StepPart::Whole {
        let left = given.saturating_sub(failed + late + taken);
        let node = Counters {
            taken,
            filtered: left.saturating_sub(made + unmade),
            added: (made + unmade).saturating_sub(left),
            ..whole
        };
        return Count {
            step,
            node,
            flow: node,
        };
    }
    let left = given.saturating_sub(failed + late);
    let flow = Counters {
        taken,
        filtered: left.saturating_sub(taken),
        added: made + unmade,
        ..whole
    };
    // What goes from one part of a step to the other is neither in nor out.
    let node = match part {
        StepPart::Before | StepPart::BeforeOther => Counters {
            out: 0,
            added: 0,
            ..flow
        },
        _ => Counters {
            out: made,
            dead,
            added: made + dead,
            ..Counters::default()
        },
    };
    Count { step, node, flow }
}
