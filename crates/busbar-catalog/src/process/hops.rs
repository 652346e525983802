//! From hop to hop: the ways through a process become the steps of a flow.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::element::ProcessDocument;
use super::{EsbProcess, Label, MediationWork, Onward};
use crate::diagnostic::Diagnostic;
use crate::flow::{FlowSpec, OutputSpec, ProcessNames};
use crate::flow_names::{mediations, steps_below};
use crate::limits::{FLOW_STEPS_ALL_MAX, ROUTE_DEPTH_MAX};
use crate::parse::check_flow;
use crate::step::{RouteCase, RouteDefault, RouteSpec, StepSpec};
use crate::tree::Source;

/// What the names of a process stand for.
pub(super) struct Hops<'a> {
    document: ProcessDocument<'a>,
    nodes: BTreeMap<&'a str, HopTarget>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum HopTarget {
    In,
    Mediation(usize),
    Out(usize),
}

/// Steps, and the out-endpoints behind them; none: each step leads on itself, or to all.
type ProcessWay = (Vec<StepSpec>, Option<Vec<usize>>);

/// What a walk through the process has seen.
struct HopWalk {
    /// Mediations that some way has come to.
    seen: BTreeSet<usize>,
    /// Those between the beginning and the present place.
    stack: Vec<usize>,
    /// The names of the steps so far, by their numbers in the flow.
    names: Vec<String>,
}

impl<'a> Hops<'a> {
    /// Checks that names are there, once each, and that inbounds are what they say.
    pub fn new(
        process: &'a EsbProcess,
        document: ProcessDocument<'a>,
    ) -> Result<Hops<'a>, Diagnostic> {
        let mut hops = Hops {
            document,
            nodes: BTreeMap::new(),
        };
        let ins = process.ins.iter().map(|one| (&one.label, HopTarget::In));
        let mediations = process.mediations.iter().enumerate();
        let mediations = mediations.map(|(i, one)| (&one.label, HopTarget::Mediation(i)));
        let outs = process.outs.iter().enumerate();
        let outs = outs.map(|(i, one)| (&one.label, HopTarget::Out(i)));
        for (label, target) in ins.chain(mediations).chain(outs) {
            if hops.nodes.insert(&label.name, target).is_some() {
                return Err(hops.wrong(label, "process.name-twice"));
            }
        }
        if process.mediations.len() > FLOW_STEPS_ALL_MAX {
            let label = &process.mediations[FLOW_STEPS_ALL_MAX].label;
            return Err(hops.wrong(label, "process.many"));
        }
        hops.check_inbounds(process)?;
        Ok(hops)
    }

    fn wrong(&self, label: &Label, code: &'static str) -> Diagnostic {
        let place = self.place(label);
        self.document.wrong(place, code, &[("name", &label.name)])
    }

    /// The start tag at which a name stands.
    fn place(&self, label: &Label) -> Range<usize> {
        let rest = self.document.text.get(label.at..).unwrap_or("");
        label.at..label.at + rest.find('>').map_or(1, |end| end + 1)
    }

    fn target(&self, label: &Label) -> Result<HopTarget, Diagnostic> {
        match self.nodes.get(label.name.as_str()) {
            None => {
                let known = self.nodes.keys().copied();
                let help = crate::suggest(&label.name, known);
                Err(self.wrong(label, "process.no-endpoint").with_help(help))
            }
            Some(HopTarget::In) => Err(self.wrong(label, "process.hop-to-in")),
            Some(target) => Ok(*target),
        }
    }

    fn check_inbounds(&self, process: &'a EsbProcess) -> Result<(), Diagnostic> {
        let mut before: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut everywhere: BTreeSet<&str> = BTreeSet::new();
        for mediation in &process.mediations {
            let name = mediation.label.name.as_str();
            let onwards: Vec<&Onward> = match &mediation.work {
                MediationWork::Step(_, onward) => vec![onward],
                MediationWork::Choice { ways, .. } => ways.iter().map(|way| &way.onward).collect(),
            };
            for onward in onwards {
                if matches!(onward, Onward::Everywhere) {
                    everywhere.insert(name);
                }
                note_onward(&mut before, name, onward);
            }
        }
        for one in &process.ins {
            for label in &one.next {
                before
                    .entry(&label.name)
                    .or_default()
                    .insert(&one.label.name);
            }
        }
        let mediations = process
            .mediations
            .iter()
            .map(|one| (&one.label, &one.inbounds, false));
        let outs = process
            .outs
            .iter()
            .map(|one| (&one.label, &one.inbounds, true));
        for (label, said, is_out) in mediations.chain(outs) {
            let Some(said) = said else {
                continue;
            };
            let mut found = before.get(label.name.as_str()).cloned().unwrap_or_default();
            if is_out {
                found.extend(&everywhere);
            }
            for inbound in said {
                if !found.contains(inbound.name.as_str()) {
                    return Err(self.wrong(inbound, "process.inbound"));
                }
            }
            if said.len() != found.len() {
                return Err(self.wrong(label, "process.inbounds"));
            }
        }
        Ok(())
    }

    /// The flow. `root` is the place of the process as a whole.
    pub fn flow(
        &self,
        process: &'a EsbProcess,
        root: Range<usize>,
    ) -> Result<FlowSpec, Diagnostic> {
        let wrong = |code| self.document.wrong(root.clone(), code, &[]);
        let Some(first) = process.ins.first() else {
            return Err(wrong("process.no-in"));
        };
        if process.outs.is_empty() {
            return Err(wrong("process.no-out"));
        }
        let names = |next: &[Label]| -> Vec<String> {
            next.iter().map(|label| label.name.clone()).collect()
        };
        for one in &process.ins {
            if one.next.is_empty() {
                return Err(self.wrong(&one.label, "process.nowhere"));
            }
            if names(&one.next) != names(&first.next) {
                return Err(self.wrong(&one.label, "process.ways-in"));
            }
        }
        let mut walk = HopWalk {
            seen: BTreeSet::new(),
            stack: Vec::new(),
            names: Vec::new(),
        };
        let mut outputs: Vec<OutputSpec> =
            process.outs.iter().map(|out| out.output.clone()).collect();
        self.name_outputs(process, &mut outputs);
        let (steps, to) = self.next(process, &outputs, &first.next, &mut walk)?;
        // Without a choice each result goes to every output, so each out-endpoint must be among the last hops.
        if let Some(reached) = to {
            let missing = (0..outputs.len()).find(|out| !reached.contains(out));
            if let Some(out) = missing {
                return Err(self.wrong(&process.outs[out].label, "process.unreached"));
            }
        }
        let unseen = (0..process.mediations.len()).find(|i| !walk.seen.contains(i));
        if let Some(unseen) = unseen {
            return Err(self.wrong(&process.mediations[unseen].label, "process.unreached"));
        }
        let mut flow = FlowSpec {
            description: process.description.clone(),
            from: process.ins.iter().map(|one| one.stream.clone()).collect(),
            start: process.start,
            steps,
            to: outputs,
            tests: process.tests.clone(),
            process: None,
            enabled: process.enabled,
        };
        let names = ProcessNames {
            ins: process
                .ins
                .iter()
                .map(|one| one.label.name.clone())
                .collect(),
            mediations: mediations(&flow)
                .into_iter()
                .filter_map(|(step, _)| walk.names.get(step).cloned())
                .collect(),
            outs: process
                .outs
                .iter()
                .map(|one| one.label.name.clone())
                .collect(),
        };
        flow.process = (names != ProcessNames::numbered(&flow)).then_some(names);
        self.check(&flow, root)?;
        Ok(flow)
    }

    /// What holds for the file of a flow holds for a process.
    fn check(&self, flow: &FlowSpec, root: Range<usize>) -> Result<(), Diagnostic> {
        let text = serde_json::to_string(flow).unwrap_or_default();
        let checked = Source::parse(self.document.file, &text).and_then(|source| {
            let spec: FlowSpec = source.read()?;
            check_flow(&spec, &source)
        });
        checked.map_err(|wrong| {
            Diagnostic::new(
                self.document.file,
                self.document.text,
                root,
                wrong.error().clone(),
            )
        })
    }

    /// Cases name outputs by their names or targets: one that neither tells apart gets its label for a name.
    fn name_outputs(&self, process: &EsbProcess, outputs: &mut [OutputSpec]) {
        for at in 0..outputs.len() {
            let reference = outputs[at].reference().to_owned();
            let first = outputs
                .iter()
                .position(|output| output.reference() == reference);
            if first != Some(at) && outputs[at].name.is_none() && self.is_chosen(process, at) {
                outputs[at].name = Some(process.outs[at].label.name.clone());
            }
        }
    }

    /// Whether a way of a choice leads to this out-endpoint, perhaps by mediations.
    fn is_chosen(&self, process: &EsbProcess, out: usize) -> bool {
        let is_choice = |one: &super::Mediation| matches!(one.work, MediationWork::Choice { .. });
        let name = &process.outs[out].label.name;
        let leads = |onward: &Onward| match onward {
            Onward::To(next) => next.iter().any(|label| label.name == *name),
            Onward::Everywhere => false,
        };
        process.mediations.iter().any(is_choice)
            && process.mediations.iter().any(|one| match &one.work {
                MediationWork::Step(_, onward) => leads(onward),
                MediationWork::Choice { ways, .. } => ways.iter().any(|way| leads(&way.onward)),
            })
    }

    fn onward(
        &self,
        process: &EsbProcess,
        outputs: &[OutputSpec],
        onward: &Onward,
        walk: &mut HopWalk,
    ) -> Result<ProcessWay, Diagnostic> {
        match onward {
            Onward::Everywhere => Ok((Vec::new(), None)),
            Onward::To(next) => self.next(process, outputs, next, walk),
        }
    }

    /// The steps from these hops on.
    fn next(
        &self,
        process: &EsbProcess,
        outputs: &[OutputSpec],
        next: &[Label],
        walk: &mut HopWalk,
    ) -> Result<ProcessWay, Diagnostic> {
        let mut steps = Vec::new();
        let depth = walk.stack.len();
        let mut next = next;
        loop {
            let mut outs = Vec::with_capacity(next.len());
            let mut mediation = None;
            for label in next {
                match self.target(label)? {
                    HopTarget::Out(out) => outs.push(out),
                    HopTarget::Mediation(at) if next.len() == 1 => mediation = Some((at, label)),
                    HopTarget::Mediation(_) | HopTarget::In => {
                        return Err(self.wrong(label, "process.several"));
                    }
                }
            }
            let Some((at, label)) = mediation else {
                walk.stack.truncate(depth);
                return Ok((steps, Some(outs)));
            };
            if walk.stack.contains(&at) {
                return Err(self.wrong(label, "process.loop"));
            }
            if !walk.seen.insert(at) {
                return Err(self.wrong(label, "process.two-ways"));
            }
            walk.stack.push(at);
            walk.names.push(label.name.clone());
            match &process.mediations[at].work {
                MediationWork::Step(step, onward) => {
                    // The steps within its text have no names of their own.
                    let below = 1..=steps_below(step);
                    walk.names
                        .extend(below.map(|n| format!("{}.{n}", label.name)));
                    steps.push(step.clone());
                    match onward {
                        Onward::To(following) => next = following,
                        Onward::Everywhere => {
                            walk.stack.truncate(depth);
                            return Ok((steps, None));
                        }
                    }
                }
                MediationWork::Choice {
                    name,
                    matching,
                    ways,
                } => {
                    let choices = walk.stack.iter();
                    let choices = choices.filter(|at| {
                        matches!(process.mediations[**at].work, MediationWork::Choice { .. })
                    });
                    if choices.count() > ROUTE_DEPTH_MAX {
                        return Err(self.wrong(label, "process.deep"));
                    }
                    let mut route = RouteSpec {
                        name: name.clone(),
                        matching: *matching,
                        cases: Vec::with_capacity(ways.len()),
                        default: None,
                    };
                    for way in ways {
                        let (own, to) = self.onward(process, outputs, &way.onward, walk)?;
                        let to = to.map(|outs| {
                            outs.iter()
                                .map(|out| outputs[*out].reference().to_owned())
                                .collect()
                        });
                        match &way.rule {
                            Some(_) if route.default.is_some() => {
                                return Err(
                                    self.wrong(&process.mediations[at].label, "process.default")
                                );
                            }
                            Some(rule) => route.cases.push(RouteCase {
                                name: way.name.clone(),
                                when: rule.clone(),
                                steps: own,
                                to,
                            }),
                            None if route.default.is_some() => {
                                return Err(
                                    self.wrong(&process.mediations[at].label, "process.default")
                                );
                            }
                            None => route.default = Some(RouteDefault { steps: own, to }),
                        }
                    }
                    steps.push(StepSpec::Route(route));
                    walk.stack.truncate(depth);
                    return Ok((steps, None));
                }
            }
        }
    }
}

fn note_onward<'a>(
    before: &mut BTreeMap<&'a str, BTreeSet<&'a str>>,
    from: &'a str,
    onward: &'a Onward,
) {
    if let Onward::To(next) = onward {
        for label in next {
            before.entry(&label.name).or_default().insert(from);
        }
    }
}
