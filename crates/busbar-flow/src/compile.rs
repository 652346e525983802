//! From a flow's file to a plan: names looked up, expressions typed, and what must be decoded found out.

mod names;
mod shapes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use busbar_bus::EventTimes;
use busbar_catalog::{ConnectionSpec, Diagnostic, FlowSpec, OutputTarget, PathItem, Source};
use busbar_event::topic::Filter;
use busbar_event::{Class, Error, hash::fnv1a};
use busbar_table::Table;

use crate::chain::{Chain, ChainSource, Station, StepPart};
use crate::event_time::EventTime;
use crate::exchange::ExchangePlan;
use crate::operator::{Divided, Joined, Step, StepContext, registry};
use crate::reader::{Input, Reader};
use crate::render::Renderer;
pub(crate) use shapes::table_schema;

/// What a flow can name.
#[derive(Clone, Default)]
pub struct World {
    /// Streams by name.
    pub streams: BTreeMap<String, StreamInfo>,
    /// Tables by name.
    pub tables: BTreeMap<String, Arc<dyn Table>>,
    /// Connections by name, and whether they take rows.
    pub connections: BTreeMap<String, (ConnectionSpec, bool)>,
    /// Flows that outputs and state know by another name than their own.
    pub(crate) known_as: BTreeMap<String, String>,
}

/// What a flow needs to know of a stream.
#[derive(Clone, Debug)]
pub struct StreamInfo {
    /// How its events are read; none as long as its columns are neither declared nor inferred.
    pub input: Option<Input>,
    /// Its topic patterns.
    pub topics: Vec<Filter>,
    /// How the times of its events are decided on; none for a stream that does not check them.
    pub times: Option<EventTimes>,
    /// Number of its partitions.
    pub partitions: u16,
    /// How much later than others an event may come, in microseconds.
    pub lateness_micros: i64,
}

/// A flow that was checked and can be run.
pub(crate) struct Plan {
    pub name: Arc<str>,
    pub spec: FlowSpec,
    /// What its tasks read: the streams of the file, then those between its stages.
    pub inputs: Vec<InputPlan>,
    /// Those of the file, then those to streams between its stages.
    pub outputs: Vec<OutputPlan>,
    /// Steps keep state, so that time in the events matters.
    pub timed: bool,
}

/// The flow as seen from one of the streams that its tasks read.
pub(crate) struct InputPlan {
    pub stream: String,
    /// 0 for the streams of the file.
    pub stage: usize,
    /// Which stream of the file it is; none behind the first stage.
    pub node: Option<usize>,
    source: SourcePlan,
    pub steps: Vec<StepPlan>,
    /// The columns of the results.
    pub schema: SchemaRef,
    /// For each output of the file what it takes from these results; none where results go to the next stage.
    pub shapes: Vec<Shape>,
    /// Whether a step made columns of its own, so that the payload is made anew.
    pub projected: bool,
    /// The next stage: the output that leads to it, and how rows are spread.
    pub exchange: Option<(usize, ExchangePlan)>,
    /// Its tasks keep state, or event time.
    pub timed: bool,
    /// In microseconds.
    pub lateness: i64,
    /// By how much its watermark is behind that of the streams of the file, in microseconds: the delays of the steps before.
    pub delay: i64,
    /// How the stream decides on the times of its events.
    pub times: Option<EventTimes>,
}

enum SourcePlan {
    Stream {
        input: Input,
        places: Vec<usize>,
    },
    /// Columns that the stage before has made.
    Rows(SchemaRef),
    /// Events that the stage before has passed on.
    Events {
        input: Input,
        places: Vec<usize>,
    },
}

/// A step at its place in a stage.
#[derive(Clone)]
pub(crate) struct StepPlan {
    step: Arc<dyn Step>,
    /// The columns it sees. Until a step makes columns of its own, more than are read.
    sees: SchemaRef,
    /// Which step of the flow it is.
    pub index: usize,
    part: StepPart,
    /// For a step with state: its name and what the state means.
    pub state: Option<(Arc<str>, String)>,
}

/// An output of the flow.
#[derive(Clone, Debug)]
pub(crate) struct OutputPlan {
    /// The same for the same target in every version of the flow.
    pub id: Arc<str>,
    pub target: Target,
    pub retain: bool,
    /// It has a cursor of its own: another system, or a file that other programs can hold.
    pub apart: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// One stream, whatever the topic is.
    Stream(String),
    /// The stream that captures the topic.
    Topic,
    Table(String),
    Connection(String),
    /// The next stage, by the name of the stream in between.
    Stage(Arc<str>),
    /// The flow's own stream of results, which outputs with cursors of their own read.
    Results(Arc<str>),
}

/// How an output is made of result rows.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub topic: TopicShape,
    pub key: Option<Renderer>,
    /// For tables: the columns that are written.
    pub columns: Vec<usize>,
}

#[derive(Clone, Debug)]
pub(crate) enum TopicShape {
    /// The event's own.
    Own,
    /// Made from a template.
    Made(Renderer),
    /// The event's own, fitted to a stream's patterns.
    Fit(Vec<Filter>),
}

/// Why there is no plan.
pub(crate) enum NoPlan {
    /// The file is wrong.
    Wrong(Vec<Diagnostic>),
    /// A stream's columns are not known before its first event.
    Waiting(String),
}

impl StepPlan {
    /// For a step in two parts: which one it is.
    pub fn part_name(&self) -> Option<&'static str> {
        match self.part {
            StepPart::Whole => None,
            StepPart::Before => Some("before"),
            StepPart::After => Some("after"),
        }
    }
}

impl InputPlan {
    /// A chain for one task, without state. `before` are the names of the tasks of the stage before.
    pub fn chain(&self, before: &[Arc<str>]) -> Result<Chain, Error> {
        let (source, seen) = match &self.source {
            SourcePlan::Stream { input, places } => {
                let reader = Reader::new(input, places)?;
                let schema = Arc::clone(reader.schema());
                let times = self.times.clone();
                (ChainSource::Stream { reader, times }, Some(schema))
            }
            SourcePlan::Events { input, places } => {
                let reader = Reader::new(input, places)?;
                let schema = Arc::clone(reader.schema());
                (ChainSource::Events(reader), Some(schema))
            }
            SourcePlan::Rows(schema) => (ChainSource::Rows(Arc::clone(schema)), None),
        };
        let mut stations = Vec::with_capacity(self.steps.len());
        // Until a step makes columns of its own, steps see the columns that are read.
        let mut own = seen.is_none();
        for planned in &self.steps {
            let sees = match &seen {
                Some(read) if !own => read,
                _ => &planned.sees,
            };
            stations.push(Station {
                step: planned.index,
                part: planned.part,
                name: planned.state.as_ref().map(|(name, _)| Arc::clone(name)),
                delay: planned.step.delay(),
                operator: planned.step.operator(sees)?,
            });
            own |= planned.step.schema().is_some();
        }
        let time = self.timed.then(|| match self.stage {
            0 => EventTime::of_stream(self.lateness),
            _ => EventTime::of_stage(before.to_vec()),
        });
        Ok(Chain {
            source,
            stations,
            schema: Arc::clone(&self.schema),
            time,
        })
    }

    /// The operators with state, and what it means.
    pub fn meanings(&self) -> BTreeMap<String, String> {
        let states = self.steps.iter().filter_map(|step| step.state.as_ref());
        states
            .map(|(name, meaning)| (name.to_string(), meaning.clone()))
            .collect()
    }

    /// The columns as which a stream of the file is read; none behind the first stage, and for payloads without columns.
    pub fn stream_columns(&self) -> Option<&SchemaRef> {
        match &self.source {
            SourcePlan::Stream { input, .. } => input.columns.as_ref(),
            _ => None,
        }
    }

    /// Whether its tasks only deliver what the stage before has computed.
    pub fn delivers(&self) -> bool {
        self.stage > 0 && self.steps.is_empty() && !self.timed
    }
}

/// Compiles a flow.
pub(crate) fn compile(
    name: &str,
    spec: &FlowSpec,
    source: &Source,
    world: &World,
) -> Result<Plan, NoPlan> {
    let known_as = world.known_as.get(name).map_or(name, String::as_str);
    let mut compiler = Compiler {
        known_as,
        spec,
        source,
        world,
        bad: Vec::new(),
    };
    let mut outputs = compiler.outputs();
    let mut sources = Vec::new();
    let mut waiting = None;
    for (i, stream) in spec.from.iter().enumerate() {
        match world.streams.get(stream) {
            Some(
                info @ StreamInfo {
                    input: Some(input), ..
                },
            ) => sources.push(Branch::of_stream(i, stream, input, info)),
            Some(_) => {
                waiting = Some(stream.clone());
                compiler.check_texts();
            }
            None => compiler.unknown_input(i, stream),
        }
    }
    let unknown = compiler.unknown_columns();
    let inputs = match unknown {
        None => compiler.stages(sources, &mut outputs),
        Some(_) => {
            compiler.check_texts();
            Vec::new()
        }
    };
    if !compiler.bad.is_empty() {
        // The same word may be wrong for each of several inputs.
        compiler
            .bad
            .sort_by_key(|d| (d.span().start, d.error().code()));
        compiler
            .bad
            .dedup_by(|a, b| a.span() == b.span() && a.error().code() == b.error().code());
        return Err(NoPlan::Wrong(compiler.bad));
    }
    if let Some(stream) = waiting.or(unknown) {
        return Err(NoPlan::Waiting(stream));
    }
    let timed = inputs.iter().any(|input| input.timed);
    Ok(Plan {
        name: name.into(),
        spec: spec.clone(),
        inputs,
        outputs,
        timed,
    })
}

/// Steps on the way from one stream, as far as they are compiled.
struct Branch {
    stream: String,
    stage: usize,
    node: Option<usize>,
    from: BranchFrom,
    /// The columns that the next step sees.
    schema: SchemaRef,
    /// Places of the columns that must be read.
    needed: BTreeSet<usize>,
    steps: Vec<StepPlan>,
    projected: bool,
    derived: bool,
    timed: bool,
    lateness: i64,
    /// The delays of the steps of the stages before, and of its own.
    delays: (i64, i64),
    times: Option<EventTimes>,
    partitions: u16,
}

#[derive(Clone)]
enum BranchFrom {
    Stream(Input),
    Rows(SchemaRef),
    Events(Input),
}

impl Branch {
    fn of_stream(node: usize, stream: &str, input: &Input, info: &StreamInfo) -> Branch {
        Branch {
            stream: stream.to_owned(),
            stage: 0,
            node: Some(node),
            from: BranchFrom::Stream(input.clone()),
            schema: input.relation(),
            needed: BTreeSet::new(),
            steps: Vec::new(),
            projected: false,
            derived: false,
            timed: false,
            lateness: info.lateness_micros,
            delays: (0, 0),
            times: info.times.clone(),
            partitions: info.partitions,
        }
    }

    fn push(&mut self, index: usize, step: Arc<dyn Step>, part: StepPart) {
        if !self.projected {
            self.needed.extend(step.columns());
        }
        self.derived |= !step.row_by_row();
        self.delays.1 += step.delay();
        let sees = Arc::clone(&self.schema);
        if let Some(columns) = step.schema() {
            (self.projected, self.schema) = (true, columns);
        }
        self.steps.push(StepPlan {
            step,
            sees,
            index,
            part,
            state: None,
        });
    }

    /// The columns of the results: all that steps have made, or those that are read.
    fn results(&self) -> SchemaRef {
        match self.projected {
            true => Arc::clone(&self.schema),
            false => {
                let places: Vec<usize> = self.needed.iter().copied().collect();
                // They are places of this schema.
                let read = self.schema.project(&places).map(Arc::new);
                read.unwrap_or_else(|_| Arc::clone(&self.schema))
            }
        }
    }

    fn plan(self, exchange: Option<(usize, ExchangePlan)>, shapes: Vec<Shape>) -> InputPlan {
        let schema = self.results();
        let places = self.needed.into_iter().collect();
        InputPlan {
            stream: self.stream,
            stage: self.stage,
            node: self.node,
            source: match self.from {
                BranchFrom::Stream(input) => SourcePlan::Stream { input, places },
                BranchFrom::Events(input) => SourcePlan::Events { input, places },
                BranchFrom::Rows(schema) => SourcePlan::Rows(schema),
            },
            steps: self.steps,
            schema,
            shapes,
            projected: self.projected,
            exchange,
            timed: self.timed,
            lateness: self.lateness,
            delay: self.delays.0,
            times: self.times,
        }
    }
}

/// Which rows meet in one task.
enum Located {
    /// All.
    One,
    /// Those with equal values of these columns.
    By(Vec<String>),
    /// Nobody knows which.
    Anyhow,
}

struct Compiler<'a> {
    /// The name under which outputs and streams know the flow.
    known_as: &'a str,
    spec: &'a FlowSpec,
    source: &'a Source,
    world: &'a World,
    bad: Vec<Diagnostic>,
}

impl Compiler<'_> {
    fn outputs(&mut self) -> Vec<OutputPlan> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut outputs = Vec::new();
        for (i, output) in self.spec.to.iter().enumerate() {
            // What is written there, and how, may change; what it is stays.
            let identity = match &output.name {
                Some(name) => format!("name {name}"),
                None => format!("{} {}", output.kind(), output.target_name()),
            };
            let count = seen.entry(identity.clone()).or_default();
            let id = format!("{:016x}", fnv1a(format!("{identity}#{count}").as_bytes()));
            *count += 1;
            let target = match &output.target {
                OutputTarget::Stream { stream, .. } => Target::Stream(stream.clone()),
                OutputTarget::Topic(_) => Target::Topic,
                OutputTarget::Table(table) => Target::Table(table.clone()),
                OutputTarget::Connection(name) => Target::Connection(name.clone()),
            };
            self.known(i, output, &target);
            let held_up = |table: &Arc<dyn Table>| table.capabilities().can_be_held_up;
            let apart = match &target {
                Target::Stream(_) | Target::Topic | Target::Stage(_) | Target::Results(_) => false,
                Target::Table(name) => self.world.tables.get(name).is_some_and(held_up),
                Target::Connection(_) => true,
            };
            outputs.push(OutputPlan {
                id: id.into(),
                target,
                retain: output.retain,
                apart,
            });
        }
        outputs
    }

    /// Compiles the steps, stage by stage. None where something is wrong.
    fn stages(
        &mut self,
        mut branches: Vec<Branch>,
        outputs: &mut Vec<OutputPlan>,
    ) -> Vec<InputPlan> {
        let mut done = Vec::new();
        let mut located = match &branches[..] {
            [one] if one.partitions == 1 => Located::One,
            _ => Located::Anyhow,
        };
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        for (i, spec) in self.spec.steps.iter().enumerate() {
            let mut compiled = Vec::with_capacity(branches.len());
            for branch in &branches {
                let streams = |name: &str| {
                    let input = self.world.streams.get(name)?.input.as_ref()?;
                    Some(input.relation())
                };
                let context = StepContext {
                    schema: &branch.schema,
                    tables: &self.world.tables,
                    streams: &streams,
                };
                match registry::compile(spec, &context) {
                    Ok(step) => compiled.push(step),
                    Err(wrong) => {
                        let mut path = vec!["steps".into(), i.into(), PathItem::Key(spec.kind())];
                        path.extend(wrong.path);
                        let diagnostic = self.source.diagnostic(&path, wrong.span, wrong.error);
                        self.bad.push(diagnostic.with_help(wrong.help));
                    }
                }
            }
            if compiled.len() < branches.len() || branches.is_empty() {
                return done;
            }
            let Some(stateful) = compiled[0].stateful() else {
                for (branch, step) in branches.iter_mut().zip(compiled) {
                    branch.push(i, step, StepPart::Whole);
                }
                continue;
            };
            let count = names.entry(spec.kind().to_owned()).or_default();
            *count += 1;
            let name = match &stateful.name {
                Some(name) => name.clone(),
                None => format!("{}-{count}", spec.kind()),
            };
            if let Some(code) = self.unfit_for_state(&branches) {
                let error = Error::new(Class::Configuration, code).with("step", spec.kind());
                let path = ["steps".into(), i.into(), PathItem::Key(spec.kind())];
                self.bad.push(self.source.diagnostic(&path, None, error));
                return done;
            }
            let meets = match &located {
                Located::One => true,
                Located::By(keys) => keys.iter().all(|key| stateful.keys.contains(key)),
                Located::Anyhow => false,
            };
            let joined = compiled[0].joined();
            let (step, part) = if meets && joined.is_none() {
                (Arc::clone(&compiled[0]), StepPart::Whole)
            } else {
                let whole = Arc::clone(&compiled[0]);
                let keys = &stateful.keys;
                located = match keys.is_empty() {
                    true => Located::One,
                    false => Located::By(keys.clone()),
                };
                let divided = compiled.iter().map(|step| step.stateful()?.divided);
                let mut divided: Option<Vec<Divided>> = divided.collect();
                if let (Some(joined), Some(divided)) = (joined, &mut divided) {
                    divided.extend(self.join(joined, divided.first(), &mut branches));
                }
                let next = self.regroup(i, branches, divided.as_deref(), keys, outputs, &mut done);
                branches = vec![next];
                match divided.and_then(|mut divided| divided.pop()) {
                    Some(divided) => (divided.after, StepPart::After),
                    None => (whole, StepPart::Whole),
                }
            };
            let branch = &mut branches[0];
            branch.timed = true;
            let meaning = meaning(&step, &branch.schema, &stateful.meaning);
            branch.push(i, step, part);
            if let Some(last) = branch.steps.last_mut() {
                last.state = Some((name.into(), meaning));
            }
        }
        self.deliver(branches, outputs, &mut done);
        done
    }

    /// Adds the branch of the other stream that a step reads; how the step is divided there.
    fn join(
        &self,
        joined: Joined,
        own: Option<&Divided>,
        branches: &mut Vec<Branch>,
    ) -> Option<Divided> {
        let info = self.world.streams.get(&joined.stream)?;
        let node = self
            .spec
            .streams()
            .position(|name| *name == joined.stream)?;
        let input = info.input.as_ref()?;
        branches.push(Branch::of_stream(node, &joined.stream, input, info));
        let own = own?;
        Some(Divided {
            before: joined.before,
            keys: own.keys.clone(),
            after: Arc::clone(&own.after),
        })
    }

    /// Something that a join names and whose columns are not known yet.
    fn unknown_columns(&self) -> Option<String> {
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

    /// Why rows of these branches cannot go into a step with state.
    fn unfit_for_state(&self, branches: &[Branch]) -> Option<&'static str> {
        let timed = branches.iter().any(|branch| branch.timed);
        if !timed && branches.iter().any(|branch| branch.derived) {
            return Some("flow.sql-before-state");
        }
        let first = &branches[0];
        let same = |branch: &Branch| {
            let fields = branch.schema.fields().iter().zip(first.schema.fields());
            branch.projected
                && branch.schema.fields().len() == first.schema.fields().len()
                && fields
                    .into_iter()
                    .all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type())
        };
        (branches.len() > 1 && !branches.iter().all(same)).then_some("flow.inputs-differ")
    }

    /// Ends the stage of some branches, and begins the next one with their rows regrouped by `keys`.
    fn regroup(
        &mut self,
        index: usize,
        branches: Vec<Branch>,
        divided: Option<&[Divided]>,
        keys: &[String],
        outputs: &mut Vec<OutputPlan>,
        done: &mut Vec<InputPlan>,
    ) -> Branch {
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
        let mut next = None;
        for (at, mut branch) in branches.into_iter().enumerate() {
            let mut keys = keys.to_vec();
            if let Some(divided) = divided.and_then(|divided| divided.get(at)) {
                keys.clone_from(&divided.keys);
                branch.push(index, Arc::clone(&divided.before), StepPart::Before);
            } else if !branch.projected {
                let places = keys
                    .iter()
                    .filter_map(|key| branch.schema.index_of(key).ok());
                branch.needed.extend(places);
            }
            branch.timed = true;
            let results = branch.results();
            if streams.is_empty() {
                // Another layout is another stream: what is left in the old one does not fit.
                let layout = format!("{keys:?} {results}{}", branch.projected);
                let hash = fnv1a(layout.as_bytes()) & 0xffff_ffff;
                streams = format!("_x-{}-{stage}-{hash:08x}", self.known_as);
                outputs.push(OutputPlan {
                    id: format!("stage-{stage}").into(),
                    target: Target::Stage(streams.as_str().into()),
                    retain: false,
                    apart: false,
                });
            }
            let exchange = ExchangePlan {
                stream: streams.as_str().into(),
                partitions,
                keys: keys
                    .iter()
                    .filter_map(|k| results.index_of(k).ok())
                    .collect(),
                projected: branch.projected,
            };
            let from = match (&branch.from, branch.projected) {
                (BranchFrom::Stream(input) | BranchFrom::Events(input), false) => {
                    BranchFrom::Events(input.clone())
                }
                _ => BranchFrom::Rows(Arc::clone(&results)),
            };
            next.get_or_insert_with(|| Branch {
                stream: streams.clone(),
                stage,
                node: None,
                from,
                schema: Arc::clone(&branch.schema),
                needed: BTreeSet::new(),
                steps: Vec::new(),
                projected: branch.projected,
                derived: branch.derived,
                timed: true,
                lateness: 0,
                delays: (delay, 0),
                times: None,
                partitions,
            });
            done.push(branch.plan(Some((outputs.len() - 1, exchange)), Vec::new()));
        }
        // There is a branch at least.
        next.unwrap_or_else(|| unreachable!("a flow reads something"))
    }

    /// Leads the last rows to the outputs. Those of a flow with state that must not hold the others up read them
    /// from a stream, so that they are computed once.
    fn deliver(
        &mut self,
        branches: Vec<Branch>,
        outputs: &mut Vec<OutputPlan>,
        done: &mut Vec<InputPlan>,
    ) {
        for mut branch in branches {
            let Some(shapes) = self.final_shapes(&mut branch) else {
                return;
            };
            let apart = outputs.iter().any(|output| output.apart);
            let delivery = (branch.timed && apart).then(|| {
                let stream = format!("_r-{}", self.known_as);
                outputs.push(OutputPlan {
                    id: "results".into(),
                    target: Target::Results(stream.as_str().into()),
                    retain: false,
                    apart: false,
                });
                let from = match (&branch.from, branch.projected) {
                    (BranchFrom::Stream(input) | BranchFrom::Events(input), false) => {
                        BranchFrom::Events(input.clone())
                    }
                    _ => BranchFrom::Rows(branch.results()),
                };
                Branch {
                    stream,
                    stage: branch.stage + 1,
                    node: None,
                    from,
                    schema: Arc::clone(&branch.schema),
                    needed: branch.needed.clone(),
                    steps: Vec::new(),
                    projected: branch.projected,
                    derived: branch.derived,
                    timed: false,
                    lateness: 0,
                    delays: (branch.delays.0 + branch.delays.1, 0),
                    times: None,
                    partitions: branch.partitions,
                }
            });
            done.push(branch.plan(None, shapes.clone()));
            done.extend(delivery.map(|branch| branch.plan(None, shapes)));
        }
    }

    /// For each output of the file what it takes from a branch.
    fn final_shapes(&mut self, branch: &mut Branch) -> Option<Vec<Shape>> {
        let (projected, derived) = (branch.projected, branch.derived);
        let shapes = self.shapes(&branch.schema, projected, derived)?;
        if projected {
            return Some(shapes);
        }
        // What outputs need of rows that no step has made anew.
        for (shape, output) in shapes.iter().zip(&self.spec.to) {
            if let TopicShape::Made(renderer) = &shape.topic {
                branch.needed.extend(renderer.columns());
            }
            branch
                .needed
                .extend(shape.key.iter().flat_map(Renderer::columns));
            branch.needed.extend(&shape.columns);
            if matches!(output.target, OutputTarget::Connection(_)) {
                branch.needed.extend(0..branch.schema.fields().len());
            }
        }
        self.shapes(&branch.results(), projected, derived)
    }

    /// Checks the steps as far as that is possible before the columns are known: syntax and names of functions.
    fn check_texts(&mut self) {
        for (i, step) in self.spec.steps.iter().enumerate() {
            if let Err(wrong) = registry::check_text(step) {
                let mut path = vec!["steps".into(), i.into(), PathItem::Key(step.kind())];
                path.extend(wrong.path);
                let diagnostic = self.source.diagnostic(&path, wrong.span, wrong.error);
                self.bad.push(diagnostic.with_help(wrong.help));
            }
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
