//! From a flow's file to a plan: names looked up, expressions typed, and what must be decoded found out.

mod branch;
mod names;
mod needed;
mod route;
mod shapes;
mod stages;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use busbar_bus::EventTimes;
use busbar_catalog::{ConnectionSpec, Diagnostic, FlowSpec, OutputChange, OutputTarget, Source};
use busbar_event::topic::Filter;
use busbar_event::{Error, hash::fnv1a};
use busbar_table::{ChangeColumns, Newer, Table};

use crate::chain::{Chain, ChainEnd, ChainSource, Itself, Station, StepFate, StepPart};
use crate::event_time::EventTime;
use crate::exchange::ExchangePlan;
use crate::operator::{KnownPlugin, Step, registry};
use crate::reader::{Input, Reader};
use crate::render::Renderer;
use crate::services::KnownService;
use branch::Branch;
use needed::{NeededColumns, needed_columns};
pub(crate) use shapes::table_schema;

/// What a flow can name.
#[derive(Clone, Default)]
pub struct World {
    /// Streams by name.
    pub streams: BTreeMap<String, StreamInfo>,
    /// Tables by name.
    pub tables: BTreeMap<String, Arc<dyn Table>>,
    /// Plug-ins by name.
    pub(crate) plugins: BTreeMap<String, KnownPlugin>,
    /// Connections that `call` steps can name.
    pub(crate) services: BTreeMap<String, KnownService>,
    /// Connections by name, and whether they take rows.
    pub connections: BTreeMap<String, (ConnectionSpec, bool)>,
    /// Flows that outputs and state know by another name than their own.
    pub(crate) known_as: BTreeMap<String, String>,
    /// Flows whose outputs with cursors of their own have not taken all results from streams of the flow's own. A new
    /// version writes and reads the same streams.
    pub(crate) delivering: BTreeSet<String>,
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
    /// The node of the first step, and that of the first output.
    pub first_step: usize,
    pub first_output: usize,
    /// What is allowed but hardly meant.
    pub warnings: Vec<Diagnostic>,
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
    /// Number of ways that rows can take.
    ways: usize,
    /// See [`Chain::itself`].
    pub itself: Option<Itself>,
    /// The results: one, or with a `route` one for each form that they have.
    pub ends: Vec<EndPlan>,
    /// The next stage: the output that leads to it, and how rows are spread.
    pub exchange: Option<(usize, ExchangePlan)>,
    /// The outputs to streams of its results, which outputs with cursors of their own read.
    pub results_to: Vec<usize>,
    /// Its tasks keep state, or event time.
    pub timed: bool,
    /// In microseconds.
    pub lateness: i64,
    /// Events before a range of time count for rows within it.
    pub versions: bool,
    /// By how much its watermark is behind that of the streams of the file, in microseconds: the delays of the steps before.
    pub delay: i64,
    /// How the stream decides on the times of its events.
    pub times: Option<EventTimes>,
}

/// Results with the same columns.
pub(crate) struct EndPlan {
    /// Of several: the name by which outputs know what comes from here.
    pub name: Option<Arc<str>>,
    /// The ways that end here, each with the outputs that its rows go to: a bit for each.
    ways: Vec<(usize, u32)>,
    /// Those of them whose rows are as they came.
    plain: Vec<usize>,
    pub schema: SchemaRef,
    /// For each output of the file what it takes of these results; none where it takes nothing.
    pub shapes: Vec<Option<Shape>>,
    /// Whether a step made columns of its own, so that the payload is made anew.
    pub projected: bool,
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
    /// Whether a step before it made columns of its own.
    own: bool,
    /// The way whose rows it takes, others that end here, and those that begin behind it.
    way: usize,
    gather: Vec<usize>,
    opens: Vec<usize>,
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
    /// The output of the file; its own number for others.
    pub of: usize,
    /// Which end of an input it takes.
    pub end: usize,
    /// The output of the file whose rows it takes; none: all rows.
    pub takes: Option<usize>,
    pub target: Target,
    pub retain: bool,
    /// For tables: what says what is done with each row.
    pub change: Option<ChangeColumns>,
    /// It has a cursor of its own: another system, or a file that other programs can hold.
    pub apart: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// One stream, whatever the topic is.
    Stream(String),
    /// The stream that captures the topic.
    Topic,
    /// The streams that capture the topics that tags name.
    Relay,
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
            StepPart::BeforeOther => Some("other"),
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
        for planned in &self.steps {
            // Until a step makes columns of its own, steps see the columns that are read.
            let sees = match &seen {
                Some(read) if !planned.own => read,
                _ => &planned.sees,
            };
            stations.push(Station {
                step: planned.index,
                way: planned.way,
                gather: planned.gather.clone(),
                opens: planned.opens.clone(),
                part: planned.part,
                name: planned.state.as_ref().map(|(name, _)| Arc::clone(name)),
                delay: planned.step.delay(),
                operator: planned.step.operator(sees)?,
            });
        }
        let ends = self.ends.iter().map(|end| ChainEnd {
            schema: Arc::clone(&end.schema),
            ways: end.ways.clone(),
            plain: end.plain.clone(),
        });
        let time = self.timed.then(|| match self.stage {
            0 => EventTime::of_stream(self.lateness),
            _ => EventTime::of_stage(before.to_vec()),
        });
        Ok(Chain {
            place: Arc::from(""),
            source,
            stations,
            ways: self.ways,
            itself: self.itself,
            ends: ends.collect(),
            time,
        })
    }

    /// For each part of a step, in the order of a chain, the step's number, and why it cannot be computed for one event alone.
    pub fn not_repeatable(&self) -> Vec<(usize, Option<StepFate>)> {
        let steps = self.steps.iter();
        let of = |planned: &StepPlan| match planned {
            StepPlan { state: Some(_), .. } => Some(StepFate::State),
            planned if planned.part != StepPart::Whole => Some(StepFate::State),
            planned => planned.step.calls_out().then_some(StepFate::Service),
        };
        steps.map(|planned| (planned.index, of(planned))).collect()
    }

    /// The columns that a step sees in a chain, by its number; none where it is not computed here.
    ///
    /// # Errors
    /// As of [`Reader::new`].
    pub fn sees(&self, step: usize) -> Result<Option<SchemaRef>, Error> {
        let Some(planned) = self.steps.iter().find(|planned| planned.index == step) else {
            return Ok(None);
        };
        match &self.source {
            SourcePlan::Stream { input, places } | SourcePlan::Events { input, places }
                if !planned.own =>
            {
                let reader = Reader::new(input, places)?;
                Ok(Some(Arc::clone(reader.schema())))
            }
            _ => Ok(Some(Arc::clone(&planned.sees))),
        }
    }

    /// Whether a step asks a service.
    pub fn calls_out(&self) -> bool {
        self.steps.iter().any(|step| step.step.calls_out())
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

    /// What an output takes of the results, if it takes any.
    pub fn shape(&self, output: &OutputPlan) -> Option<&Shape> {
        self.ends.get(output.end)?.shapes.get(output.of)?.as_ref()
    }

    /// The name by which an output knows what comes from here: its own, with that of the end where there are several.
    pub fn output_name(&self, output: &OutputPlan) -> String {
        match self.ends.get(output.end).and_then(|end| end.name.as_ref()) {
            Some(end) => format!("{}:{end}", output.id),
            None => output.id.to_string(),
        }
    }

    /// The columns of the results that an output takes.
    pub fn schema(&self, output: &OutputPlan) -> &SchemaRef {
        &self.ends[output.end.min(self.ends.len() - 1)].schema
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
    let whole = compile_with(name, spec, source, world, NeededColumns::new())?;
    let needed = needed_columns(&whole);
    match needed.is_empty() {
        true => Ok(whole),
        // Now it is known what is read behind the joins.
        false => compile_with(name, spec, source, world, needed),
    }
}

fn compile_with(
    name: &str,
    spec: &FlowSpec,
    source: &Source,
    world: &World,
    needed: NeededColumns,
) -> Result<Plan, NoPlan> {
    let known_as = world.known_as.get(name).map_or(name, String::as_str);
    let mut compiler = Compiler {
        known_as,
        is_delivering: world.delivering.contains(name),
        spec,
        source,
        world,
        needed,
        bad: Vec::new(),
        warnings: Vec::new(),
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
        first_step: spec.streams().count(),
        first_output: spec.streams().count() + spec.all_steps().len(),
        warnings: compiler.warnings,
        inputs,
        outputs,
        timed,
    })
}

struct Compiler<'a> {
    /// The name under which outputs and streams know the flow.
    known_as: &'a str,
    /// See [`World::delivering`].
    is_delivering: bool,
    spec: &'a FlowSpec,
    source: &'a Source,
    world: &'a World,
    needed: NeededColumns,
    bad: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

fn change_columns(of: &OutputChange) -> ChangeColumns {
    ChangeColumns {
        change: of.change.as_str().into(),
        unchanged: of.unchanged.as_deref().map(Arc::from),
        newer: of.newer.as_ref().map(|(column, or_equal)| Newer {
            column: column.as_str().into(),
            or_equal: *or_equal,
        }),
    }
}

impl OutputPlan {
    /// The columns that are written to the table, of those that the output takes.
    pub fn table_schema(&self, schema: &Schema, columns: &[usize]) -> Schema {
        written(self.change.as_ref(), schema, columns)
    }
}

/// The columns that are written to a table, of those that an output takes.
fn written(change: Option<&ChangeColumns>, schema: &Schema, columns: &[usize]) -> Schema {
    let is_written =
        |column: &&usize| change.is_none_or(|change| !change.has(schema.field(**column).name()));
    let columns: Vec<usize> = columns.iter().filter(is_written).copied().collect();
    table_schema(schema, &columns)
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
                OutputTarget::Relay(_) => Target::Relay,
                OutputTarget::Table(table) => Target::Table(table.clone()),
                OutputTarget::Connection(name) => Target::Connection(name.clone()),
            };
            self.known(i, output, &target);
            let held_up = |table: &Arc<dyn Table>| table.capabilities().can_be_held_up;
            let apart = match &target {
                Target::Stream(_)
                | Target::Topic
                | Target::Relay
                | Target::Stage(_)
                | Target::Results(_) => false,
                Target::Table(name) => self.world.tables.get(name).is_some_and(held_up),
                Target::Connection(_) => true,
            };
            outputs.push(OutputPlan {
                id: id.into(),
                of: i,
                end: 0,
                takes: Some(i),
                target,
                retain: output.retain,
                change: output.change.as_ref().map(change_columns),
                apart,
            });
        }
        outputs
    }

    /// Checks the steps as far as that is possible before the columns are known: syntax and names of functions.
    fn check_texts(&mut self) {
        for at in self.spec.all_steps() {
            if let Err(wrong) = registry::check_text(at.spec) {
                let path = [at.path, wrong.path].concat();
                let diagnostic = self.source.diagnostic(&path, wrong.span, wrong.error);
                self.bad.push(diagnostic.with_help(wrong.help));
            }
        }
    }
}
