//! A `route` of a plan: the ways that it opens, the steps on them, and where they lead.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use busbar_catalog::{RouteSpec, StepAt, StepSpec, suggest};
use busbar_event::{Class, Error};

use super::Compiler;
use super::branch::{Branch, BranchColumns};
use super::stages::StagePlans;
use crate::chain::StepPart;
use crate::operator::Wrong;
use crate::operator::route::{RouteCases, RouteStep, RouteTarget};

/// The steps of a flow with cases: those of each case, by the numbers of the route and the case.
struct Cases<'a> {
    all: &'a [StepAt<'a>],
    steps: HashMap<(usize, usize), Vec<usize>>,
}

/// Where a way leads.
#[derive(Clone, Copy)]
struct Leads {
    /// Nothing comes behind its last step but outputs.
    is_last: bool,
    /// These outputs, a bit for each.
    outputs: u32,
}

impl Compiler<'_> {
    /// Compiles a route among the steps of the flow itself. None where something is wrong.
    pub(super) fn top_route(
        &mut self,
        all: &[StepAt<'_>],
        number: usize,
        route: &RouteSpec,
        is_last: bool,
        stages: &mut StagePlans<'_>,
    ) -> Option<()> {
        let mut cases = Cases {
            all,
            steps: HashMap::new(),
        };
        for (step, at) in all.iter().enumerate() {
            if let Some(case) = at.case {
                cases.steps.entry(case).or_default().push(step);
            }
        }
        let schema = Arc::clone(&stages.branches.first()?.columns.schema);
        let mut keys = None;
        self.keys_below(&cases, number, &schema, &mut keys);
        if let Some(mut keys) = keys {
            self.fit_for_state(&all[number], &stages.branches)?;
            // Columns that are made on the way are not there yet: then all rows must meet.
            if keys
                .iter()
                .any(|key: &String| schema.index_of(key).is_err())
            {
                keys.clear();
            }
            if !stages.meets(&keys) {
                self.regroup(number, None, &keys, None, stages);
            }
            stages
                .branches
                .iter_mut()
                .for_each(|branch| branch.timed = true);
        }
        let name = match &route.name {
            Some(name) => name.clone(),
            None => {
                let before = all[..number].iter();
                let before = before.filter(|at| matches!(at.spec, StepSpec::Route(_)));
                format!("route-{}", before.count() + 1)
            }
        };
        for at in 0..stages.branches.len() {
            let branch = &mut stages.branches[at];
            let leads = Leads {
                is_last,
                outputs: u32::MAX,
            };
            self.route(&cases, number, route, &name, leads, branch)?;
        }
        Some(())
    }

    /// The columns whose equal values must meet for the steps with state on the ways of a route; none without state. Empty
    /// where they differ.
    fn keys_below(
        &mut self,
        cases: &Cases<'_>,
        number: usize,
        schema: &arrow::datatypes::SchemaRef,
        keys: &mut Option<Vec<String>>,
    ) {
        let StepSpec::Route(route) = cases.all[number].spec else {
            return;
        };
        for case in 0..=route.cases.len() {
            let mut schema = Arc::clone(schema);
            for step in cases.steps.get(&(number, case)).into_iter().flatten() {
                let at = &cases.all[*step];
                if let StepSpec::Route(_) = at.spec {
                    self.keys_below(cases, *step, &schema, keys);
                    continue;
                }
                // What is wrong is told when the ways are compiled.
                let compiled = self.with_context(&schema, false, |context| {
                    crate::operator::registry::compile(at.spec, context)
                });
                let Ok(compiled) = compiled else { break };
                if let Some(stateful) = compiled.stateful() {
                    let others = keys.get_or_insert_with(|| stateful.keys.clone());
                    if *others != stateful.keys {
                        others.clear();
                    }
                }
                if let Some(columns) = compiled.schema() {
                    schema = columns;
                }
            }
        }
    }

    /// Compiles a route on one branch.
    fn route(
        &mut self,
        cases: &Cases<'_>,
        number: usize,
        route: &RouteSpec,
        name: &str,
        leads: Leads,
        branch: &mut Branch,
    ) -> Option<()> {
        let is_last = leads.is_last;
        let at = &cases.all[number];
        let schema = Arc::clone(&branch.columns.schema);
        let compiled = self.with_context(&schema, false, |context| {
            RouteCases::compile(route, context)
        });
        let compiled = compiled.map_err(|wrong| self.wrong(at, wrong)).ok()?;
        self.warn_unreachable(at, route, &compiled);
        let begin = branch.columns.clone();
        let delay = branch.delays.1;
        let plain = branch.new_way();
        let mut targets = Vec::new();
        let mut outputs_of = Vec::new();
        let mut opens = vec![plain];
        let mut seen = HashSet::new();
        let mut bad = false;
        for (case, way) in route.ways().enumerate() {
            let wrong = |code: &'static str| {
                let error = Error::new(Class::Configuration, code);
                let error = error.with("case", route.case_name(case));
                way.path
                    .iter()
                    .rev()
                    .fold(Wrong::new(error), |w, item| w.at(*item))
            };
            if !seen.insert(route.case_name(case)) {
                self.wrong(at, wrong("flow.route-case-twice"));
                bad = true;
            }
            if way.to.is_some() && !is_last {
                self.wrong(at, wrong("flow.route-to-last"));
                bad = true;
            }
            let outputs = match way.to {
                None => leads.outputs,
                Some(names) => {
                    let mut outputs = 0;
                    for (i, name) in names.iter().enumerate() {
                        match self.spec.output_named(name) {
                            Some(output) => outputs |= 1 << output,
                            None => {
                                self.unknown_output(at, &way.path, i, name);
                                bad = true;
                            }
                        }
                    }
                    outputs
                }
            };
            targets.push(match (outputs, way.steps.is_empty()) {
                (0, _) => RouteTarget::Drop,
                (_, true) => RouteTarget::Plain(outputs),
                (_, false) => {
                    let way = branch.new_way();
                    opens.push(way);
                    RouteTarget::Way(way)
                }
            });
            outputs_of.push(outputs);
        }
        if bad {
            return None;
        }
        let plain_outputs = targets.iter().fold(0, |all, target| match target {
            RouteTarget::Plain(outputs) => all | outputs,
            _ => all,
        });
        let step = RouteStep {
            cases: Arc::new(compiled),
            targets: targets.as_slice().into(),
            plain,
            ends: is_last,
        };
        branch.push(number, Arc::new(step), StepPart::Whole);
        if let Some(last) = branch.steps.last_mut() {
            last.opens = opens;
        }
        let mut delays = vec![delay];
        let mut plain_ended = false;
        // What leaves the ways, where rows go on behind the route.
        let mut left: Vec<(String, BranchColumns, Vec<usize>)> = Vec::new();
        if plain_outputs != 0 && !is_last {
            left.push(("plain".to_owned(), begin.clone(), vec![plain]));
        }
        for (case, target) in targets.iter().enumerate() {
            let way = match target {
                RouteTarget::Way(way) => way,
                RouteTarget::Plain(_) if is_last && !plain_ended => {
                    plain_ended = true;
                    (branch.current, branch.columns) = (vec![plain], begin.clone());
                    branch.end("plain", plain_outputs, true);
                    continue;
                }
                _ => continue,
            };
            (branch.current, branch.columns) = (vec![*way], begin.clone());
            branch.delays.1 = delay;
            let of_case = route.case_name(case);
            let path = format!("{name}:{of_case}");
            let steps = cases
                .steps
                .get(&(number, case))
                .map_or(&[][..], |steps| steps);
            let outputs = outputs_of[case];
            let leads = Leads { is_last, outputs };
            self.way(cases, steps, &path, leads, branch)?;
            delays.push(branch.delays.1);
            match (is_last, branch.current.is_empty()) {
                // A route on the way has led its rows to outputs.
                (_, true) => {}
                (true, false) => branch.end(&path, outputs, false),
                (false, false) => {
                    let current = std::mem::take(&mut branch.current);
                    left.push((of_case, branch.columns.clone(), current));
                }
            }
        }
        branch.delays.1 = delays.into_iter().max().unwrap_or(delay);
        if is_last {
            branch.current.clear();
            return Some(());
        }
        self.gather(at, left, branch)
    }

    /// Puts the rows of a route's ways together again: they must have the same columns.
    fn gather(
        &mut self,
        at: &StepAt<'_>,
        left: Vec<(String, BranchColumns, Vec<usize>)>,
        branch: &mut Branch,
    ) -> Option<()> {
        let Some((first, columns, _)) = left.first() else {
            let error = Error::new(Class::Configuration, "flow.route-drops-all");
            self.wrong(at, Wrong::new(error));
            return None;
        };
        if let Some((other, ..)) = left.iter().find(|(_, other, _)| !other.same(columns)) {
            let error = Error::new(Class::Configuration, "flow.route-columns")
                .with("case", first)
                .with("other", other);
            self.wrong(at, Wrong::new(error));
            return None;
        }
        let state = branch.steps.iter().filter(|step| step.state.is_some());
        branch.mixed |= left.len() > 1 && state.count() > 0 && columns.derived;
        branch.columns = columns.clone();
        branch.current = left.iter().flat_map(|(_, _, ways)| ways).copied().collect();
        Some(())
    }

    /// Compiles the steps on one way.
    fn way(
        &mut self,
        cases: &Cases<'_>,
        steps: &[usize],
        path: &str,
        leads: Leads,
        branch: &mut Branch,
    ) -> Option<()> {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for (i, number) in steps.iter().enumerate() {
            let at = &cases.all[*number];
            let count = counts.entry(at.spec.kind()).or_default();
            *count += 1;
            let own = format!("{}-{count}", at.spec.kind());
            if let StepSpec::Route(route) = at.spec {
                let own = route.name.clone().unwrap_or(own);
                let leads = Leads {
                    is_last: leads.is_last && i + 1 == steps.len(),
                    ..leads
                };
                let path = format!("{path}:{own}");
                self.route(cases, *number, route, &path, leads, branch)?;
                continue;
            }
            let step = self.compile_step(at, branch, None)?;
            if step.joined().is_some() {
                let error = Error::new(Class::Configuration, "flow.route-join");
                self.wrong(at, Wrong::new(error));
                return None;
            }
            if step.event_time() {
                self.give_times(at, std::slice::from_mut(branch))?;
            }
            match step.stateful() {
                None => branch.push(*number, step, StepPart::Whole),
                Some(stateful) => {
                    self.fit_for_state(at, std::slice::from_ref(branch))?;
                    let name = format!("{path}:{}", stateful.name.unwrap_or(own));
                    branch.push_stateful(*number, step, StepPart::Whole, &name, &stateful.meaning);
                }
            }
        }
        Some(())
    }

    fn unknown_output(
        &mut self,
        at: &StepAt<'_>,
        path: &[busbar_catalog::PathItem<'static>],
        place: usize,
        name: &str,
    ) {
        let known = self.spec.to.iter().map(|output| {
            let target = output.target_name();
            output.name.as_deref().unwrap_or(target)
        });
        let help = suggest(name, known.clone()).unwrap_or_else(|| {
            let names = known.take(10).collect::<Vec<_>>().join(", ");
            Error::new(Class::Configuration, "catalog.known-names").with("names", names)
        });
        let error = Error::new(Class::Configuration, "flow.route-output").with("name", name);
        let wrong = Wrong {
            help: Some(help),
            ..Wrong::new(error)
        };
        let wrong = wrong.at(place).at("to");
        let wrong = path.iter().rev().fold(wrong, |wrong, item| wrong.at(*item));
        self.wrong(at, wrong);
    }

    /// Warns of cases that no event takes.
    fn warn_unreachable(&mut self, at: &StepAt<'_>, route: &RouteSpec, compiled: &RouteCases) {
        for (case, earlier) in compiled.unreachable() {
            let name = route.case_name(case);
            let error = match earlier {
                Some(earlier) => Error::new(Class::Configuration, "flow.route-unreachable")
                    .with("case", name)
                    .with("earlier", route.case_name(earlier)),
                None => Error::new(Class::Configuration, "flow.route-never").with("case", name),
            };
            let below = ["cases".into(), case.into(), "when".into()];
            let path = [&at.path[..], &below[..]].concat();
            let diagnostic = self.source.diagnostic(&path, None, error);
            let known = |d: &busbar_catalog::Diagnostic| d.span() == diagnostic.span();
            if !self.warnings.iter().any(known) {
                self.warnings.push(diagnostic.warning());
            }
        }
    }
}
