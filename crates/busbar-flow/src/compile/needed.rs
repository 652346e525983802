//! Which columns are read behind a join: the others need not go through it.

use std::collections::{BTreeMap, BTreeSet};

use busbar_catalog::{JoinSpec, StepSpec};

use super::{Plan, StepPlan};
use crate::chain::StepPart;
use crate::operator::column_place;

/// For each join of a flow whose result is not all that comes out, by the number of its step: the names of the columns that
/// steps behind it read.
pub(super) type NeededColumns = BTreeMap<usize, BTreeSet<String>>;

/// The columns needed behind each join of a plan in which joins pass all columns on.
pub(super) fn needed_columns(plan: &Plan) -> NeededColumns {
    let all = plan.spec.all_steps();
    let top = (0..all.len())
        .rev()
        .filter(|step| all[*step].case.is_none());
    let mut found = NeededColumns::new();
    // None: all columns, as at the end, where outputs take them.
    let mut needed: Option<BTreeSet<String>> = None;
    for step in top {
        let plans: Vec<&StepPlan> = plan
            .inputs
            .iter()
            .flat_map(|input| &input.steps)
            .filter(|planned| planned.index == step)
            .filter(|planned| matches!(planned.part, StepPart::Whole | StepPart::Before))
            .collect();
        match all[step].spec {
            StepSpec::Join(join) => {
                if let Some(needed) = &mut needed {
                    found.insert(step, needed.clone());
                    plans
                        .iter()
                        .for_each(|planned| equal_columns(join, planned, needed));
                }
            }
            // What its cases read is not looked into.
            StepSpec::Route(_) => needed = None,
            _ => {
                let reads = plans.iter().flat_map(|planned| {
                    let columns = planned.step.columns().into_iter();
                    columns
                        .filter_map(|place| Some(planned.sees.fields().get(place)?.name().clone()))
                });
                // A step without columns of its own passes on what it does not read.
                let passes = plans.iter().any(|planned| planned.step.schema().is_none());
                match (&mut needed, passes) {
                    (Some(needed), true) => needed.extend(reads),
                    (None, true) => {}
                    (_, false) => needed = Some(reads.collect()),
                }
            }
        }
    }
    found
}

/// Adds the columns of the rows that a join compares.
fn equal_columns(join: &JoinSpec, planned: &StepPlan, needed: &mut BTreeSet<String>) {
    for pair in join.on() {
        if let Ok(place) = column_place(&planned.sees, pair.first) {
            needed.insert(planned.sees.field(place).name().clone());
        }
    }
}
