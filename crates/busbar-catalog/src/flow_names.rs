//! The names that a flow's parts have as endpoints and mediations of a process.

use std::collections::{BTreeMap, BTreeSet};

use busbar_event::{Class, Error};

use crate::diagnostic::Diagnostic;
use crate::flow::{FlowSpec, ProcessNames};
use crate::limits::ENDPOINT_NAME_BYTES_MAX;
use crate::step::{RouteSpec, StepSpec, collect_steps};
use crate::tree::Source;

impl ProcessNames {
    /// The names that a flow gives, or else those that number its parts by their kind.
    pub(crate) fn of(flow: &FlowSpec) -> ProcessNames {
        flow.process
            .clone()
            .unwrap_or_else(|| ProcessNames::numbered(flow))
    }

    /// `in-1`, `where-1`, `where-2`, `out-1`.
    pub(crate) fn numbered(flow: &FlowSpec) -> ProcessNames {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mediations = mediations(flow).into_iter().map(|(_, kind)| {
            let count = counts.entry(kind).or_default();
            *count += 1;
            format!("{kind}-{count}")
        });
        ProcessNames {
            mediations: mediations.collect(),
            ins: (1..=flow.from.len()).map(|n| format!("in-{n}")).collect(),
            outs: (1..=flow.to.len()).map(|n| format!("out-{n}")).collect(),
        }
    }
}

/// The names that a flow gives to the nodes of its graph, by their ids: `from:rain`, `step:0`, `to:0`.
pub fn node_names(flow: &FlowSpec) -> BTreeMap<String, String> {
    let Some(names) = &flow.process else {
        return BTreeMap::new();
    };
    let ins = flow.from.iter().zip(&names.ins);
    let ins = ins.map(|(stream, name)| (format!("from:{stream}"), name));
    let steps = mediations(flow).into_iter().zip(&names.mediations);
    let steps = steps.map(|((step, _), name)| (format!("step:{step}"), name));
    let outs = names.outs.iter().enumerate();
    let outs = outs.map(|(out, name)| (format!("to:{out}"), name));
    let all = ins.chain(steps).chain(outs);
    all.map(|(id, name)| (id, name.clone())).collect()
}

/// The steps that are mediations of their own, each by its number among all steps and its kind, in the order of the file. The
/// steps of a `route` that is written as a whole are part of it.
pub(crate) fn mediations(flow: &FlowSpec) -> Vec<(usize, &'static str)> {
    let mut found = Vec::new();
    let mut number = 0;
    walk(flow, &flow.steps, true, &mut number, &mut found);
    found
}

/// `ends_everywhere`: what comes out of the steps goes to every output.
fn walk(
    flow: &FlowSpec,
    steps: &[StepSpec],
    ends_everywhere: bool,
    number: &mut usize,
    found: &mut Vec<(usize, &'static str)>,
) {
    for (at, step) in steps.iter().enumerate() {
        found.push((*number, step.kind()));
        *number += 1;
        let StepSpec::Route(route) = step else {
            continue;
        };
        let is_last = at + 1 == steps.len() && ends_everywhere;
        if is_last && is_choice(flow, route) {
            for way in route.ways() {
                walk(flow, way.steps, way.to.is_none(), number, found);
            }
        } else {
            *number += steps_below(step);
        }
    }
}

/// How many steps the cases of a step hold, at any depth.
pub(crate) fn steps_below(step: &StepSpec) -> usize {
    let mut all = Vec::new();
    collect_steps(std::slice::from_ref(step), &[], None, &mut all);
    all.len() - 1
}

/// Whether a route at the end of its way is written as a choice: every output that its cases name is one that the name leads
/// to again.
pub(crate) fn is_choice(flow: &FlowSpec, route: &RouteSpec) -> bool {
    let mut all = Vec::new();
    let steps = [StepSpec::Route(route.clone())];
    collect_steps(&steps, &[], None, &mut all);
    all.iter().all(|at| match at.spec {
        StepSpec::Route(route) => route.ways().all(|way| {
            way.to.into_iter().flatten().all(|name| {
                let place = flow.output_named(name);
                place.is_some_and(|at| flow.to[at].reference() == name)
            })
        }),
        _ => true,
    })
}

/// Checks that a flow names its parts once each, if it names them.
pub(crate) fn check_names(flow: &FlowSpec, source: &Source) -> Result<(), Diagnostic> {
    let Some(names) = &flow.process else {
        return Ok(());
    };
    let lists = [
        ("in", &names.ins, flow.from.len()),
        ("mediations", &names.mediations, mediations(flow).len()),
        ("out", &names.outs, flow.to.len()),
    ];
    let mut known: BTreeSet<&str> = BTreeSet::new();
    for (key, list, wanted) in lists {
        if list.len() != wanted {
            let error = Error::new(Class::Configuration, "process.names")
                .with("key", key)
                .with("found", list.len())
                .with("wanted", wanted);
            return Err(source.diagnostic(&["process".into(), key.into()], None, error));
        }
        for (at, name) in list.iter().enumerate() {
            let is_written = |letter: char| !letter.is_control();
            let code = match name {
                _ if !known.insert(name) => "process.name-twice",
                _ if name.is_empty()
                    || name.trim() != name
                    || name.len() > ENDPOINT_NAME_BYTES_MAX
                    || !name.chars().all(is_written) =>
                {
                    "process.name"
                }
                _ => continue,
            };
            let error = Error::new(Class::Configuration, code)
                .with("name", name)
                .with("most", ENDPOINT_NAME_BYTES_MAX);
            let path = ["process".into(), key.into(), at.into()];
            return Err(source.diagnostic(&path, None, error));
        }
    }
    Ok(())
}
