//! From a flow's file to a plan: names looked up, expressions typed, and what must be decoded found out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use busbar_catalog::{
    ConnectionSpec, Diagnostic, FlowSpec, OutputSpec, OutputTarget, PathItem, Source, Template,
    suggest,
};
use busbar_event::topic::Filter;
use busbar_event::{Class, Error};
use busbar_table::Table;

use crate::chain::Chain;
use crate::operator::{Step, StepContext, registry};
use crate::reader::{ENVELOPE, Input, Reader, is_envelope};
use crate::render::Renderer;

/// What a flow can name.
#[derive(Clone, Default)]
pub struct World {
    /// Streams by name.
    pub streams: BTreeMap<String, StreamInfo>,
    /// Tables by name.
    pub tables: BTreeMap<String, Arc<dyn Table>>,
    /// Connections by name, and whether they take rows.
    pub connections: BTreeMap<String, (ConnectionSpec, bool)>,
}

/// What a flow needs to know of a stream.
#[derive(Clone, Debug)]
pub struct StreamInfo {
    /// How its events are read; none as long as its columns are neither declared nor inferred.
    pub input: Option<Input>,
    /// Its topic patterns.
    pub topics: Vec<Filter>,
}

/// A flow that was checked and can be run.
pub(crate) struct Plan {
    pub name: Arc<str>,
    pub spec: FlowSpec,
    pub inputs: Vec<InputPlan>,
    pub outputs: Vec<OutputPlan>,
}

/// The flow as seen from one of its input streams.
pub(crate) struct InputPlan {
    pub stream: String,
    input: Input,
    places: Vec<usize>,
    /// Each step and the columns it sees; the first ones see what is read.
    steps: Vec<(Arc<dyn Step>, SchemaRef)>,
    /// The columns of the results.
    pub schema: SchemaRef,
    /// For each output what it takes from these results.
    pub shapes: Vec<Shape>,
    /// Whether a step made columns of its own, so that the payload is made anew.
    pub projected: bool,
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

impl InputPlan {
    /// A chain for one task: it keeps a decoder of its own.
    pub fn chain(&self) -> Result<Chain, Error> {
        let reader = Reader::new(&self.input, &self.places)?;
        let mut operators = Vec::with_capacity(self.steps.len());
        // Until a step makes columns of its own, steps see the columns that are read.
        let mut own = false;
        for (step, sees) in &self.steps {
            operators.push(step.operator(if own { sees } else { reader.schema() })?);
            own |= step.schema().is_some();
        }
        Ok(Chain {
            reader,
            operators,
            schema: Arc::clone(&self.schema),
        })
    }
}

/// Compiles a flow.
pub(crate) fn compile(
    name: &str,
    spec: &FlowSpec,
    source: &Source,
    world: &World,
) -> Result<Plan, NoPlan> {
    let mut compiler = Compiler {
        spec,
        source,
        world,
        bad: Vec::new(),
    };
    let outputs = compiler.outputs();
    let mut inputs = Vec::new();
    let mut waiting = None;
    for (i, stream) in spec.from.iter().enumerate() {
        match world.streams.get(stream) {
            Some(StreamInfo {
                input: Some(input), ..
            }) => {
                if let Some(plan) = compiler.input(stream, input) {
                    inputs.push(plan);
                }
            }
            Some(_) => waiting = Some(stream.clone()),
            None => {
                let known = world.streams.keys().map(String::as_str);
                let help = suggest(stream, known);
                let error =
                    Error::new(Class::Configuration, "catalog.unknown-stream").with("name", stream);
                let path = [PathItem::Key("from"), PathItem::Index(i)];
                compiler
                    .bad
                    .push(source.diagnostic(&path, None, error).with_help(help));
            }
        }
    }
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
    if let Some(stream) = waiting {
        return Err(NoPlan::Waiting(stream));
    }
    Ok(Plan {
        name: name.into(),
        spec: spec.clone(),
        inputs,
        outputs,
    })
}

struct Compiler<'a> {
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
            let identity = serde_json::to_string(output).unwrap_or_default();
            let count = seen.entry(identity.clone()).or_default();
            let id = format!("{:016x}", fnv1a(&format!("{identity}#{count}")));
            *count += 1;
            let target = match &output.target {
                OutputTarget::Stream { stream, .. } => Target::Stream(stream.clone()),
                OutputTarget::Topic(_) => Target::Topic,
                OutputTarget::Table(table) => Target::Table(table.clone()),
                OutputTarget::Connection(name) => Target::Connection(name.clone()),
            };
            self.known(i, output, &target);
            let relational = |table: &Arc<dyn Table>| table.engine() == "relational";
            let apart = match &target {
                Target::Stream(_) | Target::Topic => false,
                Target::Table(name) => self.world.tables.get(name).is_some_and(relational),
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

    /// Whether there is what an output names.
    fn known(&mut self, i: usize, output: &OutputSpec, target: &Target) {
        let (name, code, known): (&str, &'static str, Vec<&String>) = match target {
            Target::Topic => return,
            Target::Stream(n) => (
                n,
                "catalog.unknown-stream",
                self.world.streams.keys().collect(),
            ),
            Target::Table(n) => (
                n,
                "catalog.unknown-table",
                self.world.tables.keys().collect(),
            ),
            Target::Connection(n) => (
                n,
                "catalog.unknown-connection",
                self.world.connections.keys().collect(),
            ),
        };
        let path = [
            PathItem::Key("to"),
            PathItem::Index(i),
            PathItem::Key(output.kind()),
        ];
        if !known.iter().any(|k| *k == name) {
            let help = suggest(name, known.iter().map(|k| k.as_str()));
            let error = Error::new(Class::Configuration, code).with("name", name);
            self.bad
                .push(self.source.diagnostic(&path, None, error).with_help(help));
        } else if let Target::Connection(n) = target
            && self.world.connections.get(n).is_some_and(|(_, sink)| !sink)
        {
            let error = Error::new(Class::Configuration, "flow.not-a-sink").with("connection", n);
            self.bad.push(self.source.diagnostic(&path, None, error));
        }
    }

    fn input(&mut self, stream: &str, input: &Input) -> Option<InputPlan> {
        let relation = input.relation();
        let mut steps = Vec::new();
        let mut schema = Arc::clone(&relation);
        let mut needed: BTreeSet<usize> = BTreeSet::new();
        let (mut projected, mut derived) = (false, false);
        for (i, step) in self.spec.steps.iter().enumerate() {
            let sees = Arc::clone(&schema);
            let context = StepContext {
                schema: &schema,
                world: self.world,
            };
            match registry::compile(step, &context) {
                Ok(step) => {
                    if !projected {
                        needed.extend(step.columns());
                    }
                    derived |= !step.row_by_row();
                    if let Some(columns) = step.schema() {
                        (projected, schema) = (true, columns);
                    }
                    steps.push((step, sees));
                }
                Err(wrong) => {
                    let mut path = vec!["steps".into(), i.into(), PathItem::Key(step.kind())];
                    path.extend(wrong.path);
                    let diagnostic = self.source.diagnostic(&path, wrong.span, wrong.error);
                    self.bad.push(diagnostic.with_help(wrong.help));
                    return None;
                }
            }
        }
        // What outputs need of rows that no step has made anew.
        let shapes = self.shapes(&schema, projected, derived)?;
        if projected {
            return Some(InputPlan {
                stream: stream.to_owned(),
                input: input.clone(),
                places: needed.into_iter().collect(),
                steps,
                schema,
                shapes,
                projected,
            });
        }
        for (shape, output) in shapes.iter().zip(&self.spec.to) {
            if let TopicShape::Made(renderer) = &shape.topic {
                needed.extend(renderer.columns());
            }
            needed.extend(shape.key.iter().flat_map(Renderer::columns));
            needed.extend(&shape.columns);
            if matches!(output.target, OutputTarget::Connection(_)) {
                needed.extend(0..relation.fields().len());
            }
        }
        let pruned = prune(&relation, &needed)?;
        let shapes = self.shapes(&pruned, projected, derived)?;
        Some(InputPlan {
            stream: stream.to_owned(),
            input: input.clone(),
            places: needed.into_iter().collect(),
            steps,
            schema: pruned,
            shapes,
            projected,
        })
    }

    fn shapes(&mut self, schema: &SchemaRef, projected: bool, derived: bool) -> Option<Vec<Shape>> {
        let before = self.bad.len();
        let mut shapes = Vec::new();
        for (i, output) in self.spec.to.iter().enumerate() {
            shapes.push(self.shape(i, output, schema, projected, derived));
        }
        (self.bad.len() == before).then_some(shapes)
    }

    fn shape(
        &mut self,
        i: usize,
        output: &OutputSpec,
        schema: &SchemaRef,
        projected: bool,
        derived: bool,
    ) -> Shape {
        let template = |this: &mut Self, key: &'static str, text: &str, topic: bool| {
            let path = [PathItem::Key("to"), PathItem::Index(i), PathItem::Key(key)];
            let compiled = Template::parse(text)
                .map_err(|(span, error)| (span, error, None))
                .and_then(|t| Renderer::compile(&t, schema, projected, derived, topic));
            compiled
                .map_err(|(span, error, help)| {
                    let diagnostic = this.source.diagnostic(&path, Some(span), error);
                    this.bad.push(diagnostic.with_help(help));
                })
                .ok()
        };
        let key = output
            .key
            .as_ref()
            .and_then(|text| template(self, "key", text, false));
        let own_topic = |this: &mut Self, key: &'static str| {
            let has = schema
                .field_with_name("topic")
                .is_ok_and(|f| is_envelope("topic", f.data_type()));
            if derived && !has {
                let path = [PathItem::Key("to"), PathItem::Index(i), PathItem::Key(key)];
                let error = Error::new(Class::Configuration, "flow.sql-topic");
                this.bad.push(this.source.diagnostic(&path, None, error));
            }
            TopicShape::Own
        };
        let mut columns = Vec::new();
        let topic = match &output.target {
            OutputTarget::Topic(text) => {
                template(self, "topic", text, true).map_or(TopicShape::Own, TopicShape::Made)
            }
            OutputTarget::Stream { stream, topic } => {
                self.stream_types(i, stream, schema, projected);
                let topics = self.world.streams.get(stream).map(|s| s.topics.clone());
                match (topic, topics.as_deref()) {
                    (Some(text), _) => template(self, "topic", text, true)
                        .map_or(TopicShape::Own, TopicShape::Made),
                    // One topic, whatever came in.
                    (None, Some([only])) if only.is_literal() => {
                        template(self, "stream", &only.as_str().replace('$', "$$"), true)
                            .map_or(TopicShape::Own, TopicShape::Made)
                    }
                    (None, Some(topics)) if !topics.is_empty() => {
                        own_topic(self, "stream");
                        TopicShape::Fit(topics.to_vec())
                    }
                    _ => own_topic(self, "stream"),
                }
            }
            OutputTarget::Table(name) => {
                columns = self.table(i, name, schema, projected);
                TopicShape::Own
            }
            OutputTarget::Connection(_) => TopicShape::Own,
        };
        Shape {
            topic,
            key,
            columns,
        }
    }

    /// Whether a stream with declared columns can take these.
    fn stream_types(&mut self, i: usize, stream: &str, schema: &Schema, projected: bool) {
        let info = self.world.streams.get(stream);
        let Some(declared) = info.and_then(|s| s.input.as_ref()?.columns.as_ref()) else {
            return;
        };
        for field in schema.fields() {
            if !projected || is_envelope(field.name(), field.data_type()) {
                continue;
            }
            if let Ok(wanted) = declared.field_with_name(field.name())
                && !can_cast_types(field.data_type(), wanted.data_type())
            {
                let error = Error::new(Class::Configuration, "flow.stream-type")
                    .with("column", field.name())
                    .with("stream", stream)
                    .with("found", field.data_type())
                    .with("expected", wanted.data_type());
                let path = [
                    PathItem::Key("to"),
                    PathItem::Index(i),
                    PathItem::Key("stream"),
                ];
                self.bad.push(self.source.diagnostic(&path, None, error));
            }
        }
    }

    /// The columns a table takes of the results.
    fn table(&mut self, i: usize, name: &str, schema: &Schema, projected: bool) -> Vec<usize> {
        let Some(table) = self.world.tables.get(name) else {
            return Vec::new();
        };
        let declared = table.schema();
        let wanted = |field: &Field| {
            if matches!(field.data_type(), DataType::Map(..)) {
                return false;
            }
            let envelope = ENVELOPE.contains(&field.name().as_str());
            projected
                || table.key().contains(field.name())
                || declared.field_with_name(field.name()).is_ok()
                || (declared.fields().is_empty() && !envelope)
        };
        let columns: Vec<usize> = (0..schema.fields().len())
            .filter(|column| wanted(schema.field(*column)))
            .collect();
        let path = [
            PathItem::Key("to"),
            PathItem::Index(i),
            PathItem::Key("table"),
        ];
        for key in table.key() {
            if !columns
                .iter()
                .any(|column| schema.field(*column).name() == key)
            {
                let names = columns
                    .iter()
                    .map(|column| schema.field(*column).name().as_str());
                let help = suggest(key, names);
                let error = Error::new(Class::Configuration, "flow.table-key")
                    .with("table", name)
                    .with("column", key);
                self.bad
                    .push(self.source.diagnostic(&path, None, error).with_help(help));
                return columns;
            }
        }
        if let Err(error) = table.check(&table_schema(schema, &columns)) {
            self.bad.push(self.source.diagnostic(&path, None, error));
        }
        columns
    }
}

fn prune(relation: &SchemaRef, needed: &BTreeSet<usize>) -> Option<SchemaRef> {
    let places: Vec<usize> = needed.iter().copied().collect();
    relation.project(&places).map(Arc::new).ok()
}

/// The columns as a table gets them: plain types in place of encodings.
pub(crate) fn table_schema(schema: &Schema, columns: &[usize]) -> Schema {
    let fields = columns.iter().map(|column| {
        let field = schema.field(*column);
        let plain = match field.data_type() {
            DataType::Dictionary(_, value) => value.as_ref().clone(),
            other => other.clone(),
        };
        let plain = match plain {
            DataType::Utf8View => DataType::Utf8,
            DataType::BinaryView => DataType::Binary,
            other => other,
        };
        field.clone().with_data_type(plain)
    });
    Schema::new(fields.collect::<Vec<_>>())
}

/// A hash that is the same in every version of the program.
pub(crate) fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
