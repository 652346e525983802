//! Steps into stages: where rows are regrouped, and where results go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use busbar_catalog::{OutputTarget, StepAt, StepSpec};
use busbar_event::{Class, Error, hash::fnv1a};

use super::branch::{Branch, BranchEnd, BranchFrom, Located};
use super::{Compiler, InputPlan, OutputPlan, Shape, Target, TopicShape};
use crate::chain::StepPart;
use crate::exchange::ExchangePlan;
use crate::operator::{Divided, Joined, Step, StepContext, Wrong, registry};
use crate::render::Renderer;

/// The stages of a flow, as far as they are compiled.
pub(super) struct StagePlans<'a> {
    pub branches: Vec<Branch>,
    pub outputs: &'a mut Vec<OutputPlan>,
    located: Located,
    /// Steps with state, by kind.
    names: BTreeMap<String, usize>,
    done: Vec<InputPlan>,
}

/// A stream of the flow that a step joins with itself.
pub(super) struct ItselfJoined {
    branch: usize,
    /// The columns as which the stream is read.
    columns: SchemaRef,
    /// What its events go through as the other side, and as the rows of the flow.
    before: Arc<dyn Step>,
    before_own: Arc<dyn Step>,
}

impl Compiler<'_> {
    /// Compiles the steps, stage by stage. As far as possible where something is wrong.
    pub(super) fn stages(
        &mut self,
        branches: Vec<Branch>,
        outputs: &mut Vec<OutputPlan>,
    ) -> Vec<InputPlan> {
        let located = match &branches[..] {
            [one] if one.partitions == 1 => Located::One,
            _ => Located::Anyhow,
        };
        let mut stages = StagePlans {
            branches,
            outputs,
            located,
            names: BTreeMap::new(),
            done: Vec::new(),
        };
        let spec = self.spec;
        let all = spec.all_steps();
        let top: Vec<usize> = (0..all.len()).filter(|i| all[*i].case.is_none()).collect();
        for number in &top {
            let is_last = top.last() == Some(number);
            if self
                .stage_step(&all, *number, is_last, &mut stages)
                .is_none()
            {
                return stages.done;
            }
        }
        self.deliver(&mut stages);
        stages.done
    }

    /// Compiles one step for all branches. None where something is wrong.
    fn stage_step(
        &mut self,
        all: &[StepAt<'_>],
        number: usize,
        is_last: bool,
        stages: &mut StagePlans<'_>,
    ) -> Option<()> {
        let at = &all[number];
        if let StepSpec::Route(route) = at.spec {
            return self.top_route(all, number, route, is_last, stages);
        }
        let needed = self.needed.get(&number).cloned();
        let mut compiled = Vec::with_capacity(stages.branches.len());
        for branch in &stages.branches {
            compiled.extend(self.compile_step(at, branch, needed.as_ref()));
        }
        if compiled.len() < stages.branches.len() || stages.branches.is_empty() {
            return None;
        }
        let Some(stateful) = compiled[0].stateful() else {
            if compiled.iter().any(|step| step.event_time()) {
                self.give_times(at, &mut stages.branches)?;
            }
            for (branch, step) in stages.branches.iter_mut().zip(compiled) {
                branch.push(number, step, StepPart::Whole);
            }
            return Some(());
        };
        let kind = at.spec.kind();
        let count = stages.names.entry(kind.to_owned()).or_default();
        *count += 1;
        let name = match &stateful.name {
            Some(name) => name.clone(),
            None => format!("{kind}-{count}"),
        };
        self.fit_for_state(at, &stages.branches)?;
        let joined = compiled[0].joined();
        let itself = self.with_itself(at, joined.as_ref(), &stages.branches)?;
        let (step, part) = if joined.is_none() && stages.meets(&stateful.keys) {
            (Arc::clone(&compiled[0]), StepPart::Whole)
        } else {
            let whole = Arc::clone(&compiled[0]);
            let divided = compiled.iter().map(|step| step.stateful()?.divided);
            let mut divided: Option<Vec<Divided>> = divided.collect();
            if let (Some(joined), Some(divided), None) = (joined, &mut divided, &itself) {
                let other = self.join(joined, divided.first(), &mut stages.branches);
                divided.extend(other);
            }
            self.regroup(number, divided.as_deref(), &stateful.keys, itself, stages);
            match divided.and_then(|mut divided| divided.pop()) {
                Some(divided) => (divided.after, StepPart::After),
                None => (whole, StepPart::Whole),
            }
        };
        stages.branches[0].push_stateful(number, step, part, &name, &stateful.meaning);
        Some(())
    }

    /// Compiles a step against the columns that it sees on a branch. `needed`: see [`StepContext`].
    pub(super) fn compile_step(
        &mut self,
        at: &StepAt<'_>,
        branch: &Branch,
        needed: Option<&BTreeSet<String>>,
    ) -> Option<Arc<dyn Step>> {
        let (schema, has_payloads) = (&branch.columns.schema, branch.has_payloads());
        let compiled = self.with_context(schema, has_payloads, |context| {
            let context = StepContext { needed, ..*context };
            registry::compile(at.spec, &context)
        });
        compiled.map_err(|wrong| self.wrong(at, wrong)).ok()
    }

    /// Calls `compile` with what steps are compiled against. `has_payloads`: see [`StepContext`].
    pub(super) fn with_context<T>(
        &self,
        schema: &SchemaRef,
        has_payloads: bool,
        compile: impl FnOnce(&StepContext<'_>) -> T,
    ) -> T {
        let streams = |name: &str| {
            let input = self.world.streams.get(name)?.input.as_ref()?;
            Some(input.relation())
        };
        compile(&StepContext {
            schema,
            tables: &self.world.tables,
            streams: &streams,
            plugins: &self.world.plugins,
            services: &self.world.services,
            has_payloads,
            needed: None,
        })
    }

    /// Notes what is wrong with a step.
    pub(super) fn wrong(&mut self, at: &StepAt<'_>, wrong: Wrong) {
        let path = [&at.path[..], &wrong.path[..]].concat();
        let diagnostic = self.source.diagnostic(&path, wrong.span, wrong.error);
        self.bad.push(diagnostic.with_help(wrong.help));
    }

    /// Where a step joins a stream of the flow with itself: the branch of that stream, the columns as which it is read, and
    /// the join. None where something is wrong.
    #[allow(clippy::option_option, reason = "wrong, or not so")]
    fn with_itself(
        &mut self,
        at: &StepAt<'_>,
        joined: Option<&Joined>,
        branches: &[Branch],
    ) -> Option<Option<ItselfJoined>> {
        let Some(joined) = joined.filter(|joined| self.spec.from.contains(&joined.stream)) else {
            return Some(None);
        };
        let wrong = |code: &'static str| {
            let error = Error::new(Class::Configuration, code).with("stream", &joined.stream);
            Wrong::new(error)
        };
        if joined.versions {
            self.wrong(at, wrong("flow.join-itself-as-of").at("as_of"));
            return None;
        }
        let read = |branch: &Branch| branch.stage == 0 && branch.stream == joined.stream;
        let branch = branches.iter().position(|b| read(b) && !b.keeps_state());
        let Some(branch) = branch else {
            self.wrong(at, wrong("flow.join-itself-state").at("stream"));
            return None;
        };
        let BranchFrom::Stream(input) = &branches[branch].from else {
            return None;
        };
        Some(Some(ItselfJoined {
            branch,
            columns: input.relation(),
            before: Arc::clone(&joined.before),
            before_own: Arc::clone(&joined.before_own),
        }))
    }

    /// Adds the branch of the other stream that a step reads; how the step is divided there.
    fn join(
        &self,
        joined: Joined,
        own: Option<&Divided>,
        branches: &mut Vec<Branch>,
    ) -> Option<Divided> {
        let info = self.world.streams.get(&joined.stream)?;
        let mut streams = self.spec.streams();
        let node = streams.position(|name| *name == joined.stream)?;
        let input = info.input.as_ref()?;
        branches.push(Branch {
            versions: joined.versions,
            ..Branch::of_stream(node, &joined.stream, input, info)
        });
        let own = own?;
        Some(Divided {
            before: joined.before,
            keys: own.keys.clone(),
            after: Arc::clone(&own.after),
        })
    }

    /// Something that a join names and whose columns are not known yet.
    pub(super) fn unknown_columns(&self) -> Option<String> {
        let stream = |name: &&String| {
            let info = self.world.streams.get(*name);
            info.is_some_and(|info| info.input.is_none())
        };
        let table = |name: &&String| {
            let table = self.world.tables.get(*name);
            table.is_some_and(|table| table.schema().fields().is_empty())
        };
        let mut streams = self.spec.streams().skip(self.spec.from.len());
        let unknown = streams.find(stream);
        unknown
            .or_else(|| self.spec.read_tables().find(table))
            .cloned()
    }

    /// Lets the rows of these branches carry their event times; none, with what is wrong told, where they have none.
    pub(super) fn give_times(&mut self, at: &StepAt<'_>, branches: &mut [Branch]) -> Option<()> {
        for branch in branches {
            if branch.columns.derived && !branch.timed {
                let error = Error::new(Class::Configuration, "flow.sql-before-state");
                self.wrong(at, Wrong::new(error.with("step", at.spec.kind())));
                return None;
            }
            branch.timed = true;
        }
        Some(())
    }

    /// Whether rows of these branches can go into a step with state; else says why not.
    pub(super) fn fit_for_state(&mut self, at: &StepAt<'_>, branches: &[Branch]) -> Option<()> {
        let timed = branches.iter().any(|branch| branch.timed);
        let first = &branches[0].columns;
        let same = |branch: &Branch| branch.columns.projected && branch.columns.same(first);
        let code = if !timed && branches.iter().any(|branch| branch.columns.derived) {
            "flow.sql-before-state"
        } else if branches.len() > 1 && !branches.iter().all(same) {
            "flow.inputs-differ"
        } else if branches.iter().any(|branch| branch.mixed) {
            "flow.route-before-state"
        } else {
            return Some(());
        };
        let error = Error::new(Class::Configuration, code).with("step", at.spec.kind());
        self.wrong(at, Wrong::new(error));
        None
    }

    /// Ends the present stage, and begins the next one with its rows regrouped by `keys`.
    pub(super) fn regroup(
        &mut self,
        index: usize,
        divided: Option<&[Divided]>,
        keys: &[String],
        itself: Option<ItselfJoined>,
        stages: &mut StagePlans<'_>,
    ) {
        let branches = std::mem::take(&mut stages.branches);
        stages.located = match keys.is_empty() {
            true => Located::One,
            false => Located::By(keys.to_vec()),
        };
        let stage = branches[0].stage + 1;
        let partitions = match keys.is_empty() {
            true => 1,
            false => branches.iter().map(|b| b.partitions).max().unwrap_or(1),
        };
        // The slowest decides.
        let delays = branches
            .iter()
            .map(|branch| branch.delays.0 + branch.delays.1);
        let delay = delays.max().unwrap_or(0);
        let mut streams = String::new();
        for (at, mut branch) in branches.into_iter().enumerate() {
            let mut keys = keys.to_vec();
            if let Some(divided) = divided.and_then(|divided| divided.get(at)) {
                keys.clone_from(&divided.keys);
                match itself.as_ref().filter(|itself| itself.branch == at) {
                    None => branch.push(index, Arc::clone(&divided.before), StepPart::Before),
                    Some(itself) => {
                        branch.push(index, Arc::clone(&itself.before_own), StepPart::Before);
                        let other = Arc::clone(&itself.before);
                        branch.push_itself(index, other, Arc::clone(&itself.columns));
                    }
                }
            } else if !branch.columns.projected {
                let schema = &branch.columns.schema;
                let places = keys.iter().filter_map(|key| schema.index_of(key).ok());
                branch.needed.extend(places);
            }
            branch.timed = true;
            let results = branch.results();
            let projected = branch.columns.projected;
            if streams.is_empty() {
                // Another layout is another stream: what is left in the old one does not fit.
                let layout = format!("{keys:?} {results}{projected}");
                let hash = fnv1a(layout.as_bytes()) & 0xffff_ffff;
                streams = format!("_x-{}-{stage}-{hash:08x}", self.known_as);
                stages.add_own(
                    format!("stage-{stage}"),
                    Target::Stage(streams.as_str().into()),
                    0,
                    None,
                );
            }
            let exchange = ExchangePlan {
                stream: streams.as_str().into(),
                partitions,
                keys: keys
                    .iter()
                    .filter_map(|k| results.index_of(k).ok())
                    .collect(),
                projected,
            };
            if stages.branches.is_empty() {
                let mut next = branch.behind(streams.clone(), branch.columns.clone());
                (next.delays, next.partitions) = ((delay, 0), partitions);
                stages.branches.push(next);
            }
            let output = stages.outputs.len() - 1;
            let plan = branch.plan(Some((output, exchange)), Vec::new());
            stages.done.push(plan);
        }
    }

    /// Leads the last rows to the outputs. Where rows must be computed once only, in a flow with state or with programs
    /// and services of others, the outputs that must not hold the others up read them from streams.
    fn deliver(&mut self, stages: &mut StagePlans<'_>) {
        let branches = std::mem::take(&mut stages.branches);
        let is_only = branches.len() == 1;
        for mut branch in branches {
            if branch.ends.is_empty() {
                branch.end("", u32::MAX, false);
            }
            let Some(shapes) = self.final_shapes(&mut branch) else {
                return;
            };
            let streamed = self.results_are_streamed(&branch, &shapes, stages.outputs);
            let (mut deliveries, mut results_to) = (Vec::new(), Vec::new());
            for (number, end) in branch.ends.iter().enumerate() {
                stages.add_end(number, end);
                let mut apart: Vec<usize> = (0..self.spec.to.len())
                    .filter(|o| stages.outputs[*o].apart && shapes[number][*o].is_some())
                    .collect();
                if !streamed || apart.is_empty() {
                    continue;
                }
                let shared = branch.ends.len() == 1 && end.is_even();
                if shared {
                    apart.truncate(1);
                }
                for output in apart {
                    let mut which = Vec::new();
                    if !is_only {
                        which.push(branch.stream.as_str());
                    }
                    if !shared {
                        which.extend([&*stages.outputs[output].id, &end.name]);
                    }
                    let takes = (!shared).then_some(output);
                    let id = match which.is_empty() {
                        true => String::new(),
                        false => {
                            let hash = fnv1a(which.join(" ").as_bytes()) & 0xffff_ffff;
                            format!(".{hash:08x}")
                        }
                    };
                    let stream = format!("_r-{}{id}", self.known_as);
                    stages.add_own(
                        format!("results{id}"),
                        Target::Results(stream.as_str().into()),
                        number,
                        takes,
                    );
                    results_to.push(stages.outputs.len() - 1);
                    let mut delivery = branch.behind(stream, end.columns.clone());
                    delivery.needed.clone_from(&branch.needed);
                    delivery.timed = false;
                    let mut its = shapes[number].clone();
                    if takes.is_some() {
                        let others = its.iter_mut().enumerate();
                        let others = others.filter(|(o, _)| *o != output);
                        others.for_each(|(_, shape)| *shape = None);
                    }
                    deliveries.push(delivery.plan(None, vec![its]));
                }
            }
            branch.results_to = results_to;
            stages.done.push(branch.plan(None, shapes));
            stages.done.extend(deliveries);
        }
    }

    /// Whether outputs with cursors of their own read the results of a branch from streams. Without state they do where more
    /// than one cursor would have to run a step that works once.
    fn results_are_streamed(
        &self,
        branch: &Branch,
        shapes: &[Vec<Option<Shape>>],
        outputs: &[OutputPlan],
    ) -> bool {
        let taken = (0..self.spec.to.len()).filter(|o| shapes.iter().any(|its| its[*o].is_some()));
        let (apart, together): (Vec<usize>, Vec<usize>) = taken.partition(|o| outputs[*o].apart);
        let cursors = apart.len() + usize::from(!together.is_empty());
        branch.timed || self.is_delivering || (branch.once && cursors > 1)
    }

    /// For each end of a branch, and each output of the file, what it takes from there.
    fn final_shapes(&mut self, branch: &mut Branch) -> Option<Vec<Vec<Option<Shape>>>> {
        let mut all = Vec::with_capacity(branch.ends.len());
        for end in branch.ends.clone() {
            let shapes = self.shapes(&end.columns.schema, &end)?;
            if !end.columns.projected {
                // What outputs need of rows that no step has made anew.
                for (shape, output) in shapes.iter().zip(&self.spec.to) {
                    let Some(shape) = shape else { continue };
                    if let TopicShape::Made(renderer) = &shape.topic {
                        branch.needed.extend(renderer.columns());
                    }
                    let key = shape.key.iter().flat_map(Renderer::columns);
                    branch.needed.extend(key);
                    branch.needed.extend(&shape.columns);
                    if matches!(output.target, OutputTarget::Connection(_)) {
                        let columns = 0..end.columns.schema.fields().len();
                        branch.needed.extend(columns);
                    }
                }
            }
            all.push(shapes);
        }
        for (shapes, end) in all.iter_mut().zip(branch.ends.clone()) {
            if !end.columns.projected {
                *shapes = self.shapes(&branch.read_of(&end.columns), &end)?;
            }
        }
        Some(all)
    }
}

impl StagePlans<'_> {
    /// Whether rows with equal values of these columns meet in one task.
    pub fn meets(&self, keys: &[String]) -> bool {
        match &self.located {
            Located::One => true,
            Located::By(known) => known.iter().all(|key| keys.contains(key)),
            Located::Anyhow => false,
        }
    }

    /// An output to a stream of the flow's own.
    fn add_own(&mut self, id: String, target: Target, end: usize, takes: Option<usize>) {
        self.outputs.push(OutputPlan {
            id: id.into(),
            of: self.outputs.len(),
            end,
            takes,
            target,
            retain: false,
            change: None,
            apart: false,
        });
    }

    /// The outputs of the file, as outputs of one of several ends.
    fn add_end(&mut self, number: usize, end: &BranchEnd) {
        let known = |output: &OutputPlan, of: usize| output.of == of && output.end == number;
        let files = self
            .outputs
            .iter()
            .filter(|output| output.takes == Some(output.of));
        let files = files
            .map(|output| output.of)
            .max()
            .map_or(0, |last| last + 1);
        for of in (0..files).filter(|of| end.outputs() & (1 << of) != 0) {
            if !self.outputs.iter().any(|output| known(output, of)) {
                let output = OutputPlan {
                    end: number,
                    ..self.outputs[of].clone()
                };
                self.outputs.push(output);
            }
        }
    }
}

impl Branch {
    /// Adds a step with state.
    pub fn push_stateful(
        &mut self,
        number: usize,
        step: Arc<dyn Step>,
        part: StepPart,
        name: &str,
        own: &str,
    ) {
        self.timed = true;
        let meaning = meaning(&step, &self.columns.schema, own);
        self.push(number, step, part);
        if let Some(last) = self.steps.last_mut() {
            last.state = Some((name.into(), meaning));
        }
    }
}

/// What the state of a step means: the step, and the columns it reads.
fn meaning(step: &Arc<dyn Step>, sees: &SchemaRef, own: &str) -> String {
    let columns = step.columns();
    let read = columns.iter().map(|column| {
        let field = sees.field(*column);
        format!("{} {}", field.name(), field.data_type())
    });
    format!("{own} ({})", read.collect::<Vec<_>>().join(", "))
}
