//! What each output takes of a flow's results.

use std::sync::Arc;

use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use busbar_catalog::{OutputSpec, OutputTarget, PathItem, Template, suggest};
use busbar_event::{Class, Error};

use super::branch::{BranchColumns, BranchEnd};
use super::{Compiler, Shape, TopicShape, change_columns, written};
use crate::reader::{BODY, ENVELOPE, is_envelope};
use crate::render::Renderer;

impl Compiler<'_> {
    /// For each output of the file what it takes of the rows of an end, whose columns are `schema`.
    pub(super) fn shapes(
        &mut self,
        schema: &SchemaRef,
        end: &BranchEnd,
    ) -> Option<Vec<Option<Shape>>> {
        let before = self.bad.len();
        let mut shapes = Vec::new();
        let BranchColumns {
            projected, derived, ..
        } = end.columns;
        for (i, output) in self.spec.to.iter().enumerate() {
            let takes = end.outputs() & (1 << i) != 0;
            shapes.push(takes.then(|| self.shape(i, output, schema, projected, derived)));
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
        let has_topic = schema
            .field_with_name("topic")
            .is_ok_and(|f| is_envelope("topic", f.data_type()));
        let own_topic = |this: &mut Self, key: &'static str| {
            if derived && !has_topic {
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
                columns = self.table(i, name, output, schema, projected);
                TopicShape::Own
            }
            OutputTarget::Relay(_) => {
                if derived {
                    let path = [
                        PathItem::Key("to"),
                        PathItem::Index(i),
                        PathItem::Key("relay"),
                    ];
                    let error = Error::new(Class::Configuration, "flow.relay-no-tags");
                    self.bad.push(self.source.diagnostic(&path, None, error));
                }
                TopicShape::Own
            }
            OutputTarget::Connection(connection) => {
                self.connection_takes(i, connection, schema);
                // What was made of several events is from no topic; a connection that asks for one gets the flow's name.
                match derived && !has_topic {
                    true => {
                        let name = self.known_as.replace('$', "$$");
                        template(self, "connection", &name, true)
                            .map_or(TopicShape::Own, TopicShape::Made)
                    }
                    false => TopicShape::Own,
                }
            }
        };
        Shape {
            topic,
            key,
            columns,
        }
    }

    /// Whether a connection can take these columns.
    fn connection_takes(&mut self, i: usize, name: &str, schema: &Schema) {
        let Some(known) = self.world.services.get(name) else {
            return;
        };
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let columns = table_schema(schema, &all);
        if let Err(error) = known.connector.check_rows(&known.spec, &columns) {
            let path = [
                PathItem::Key("to"),
                PathItem::Index(i),
                PathItem::Key("connection"),
            ];
            self.bad.push(self.source.diagnostic(&path, None, error));
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
    fn table(
        &mut self,
        i: usize,
        name: &str,
        output: &OutputSpec,
        schema: &Schema,
        projected: bool,
    ) -> Vec<usize> {
        let change = output.change.as_ref().map(change_columns);
        let Some(table) = self.world.tables.get(name) else {
            return Vec::new();
        };
        let declared = table.schema();
        let wanted = |field: &Field| {
            if change
                .as_ref()
                .is_some_and(|change| change.has(field.name()))
            {
                return true;
            }
            if matches!(field.data_type(), DataType::Map(..)) {
                return false;
            }
            let envelope = ENVELOPE.contains(&field.name().as_str());
            let made_by_plugin = schema.metadata().contains_key(BODY);
            (projected && !(made_by_plugin && envelope))
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
        if let Some(change) = &change {
            let missing = |column: &&Arc<str>| {
                let found = schema.field_with_name(column);
                !found.is_ok_and(|field| can_cast_types(field.data_type(), &DataType::Utf8))
            };
            let mut says = [Some(&change.change), change.unchanged.as_ref()]
                .into_iter()
                .flatten();
            let refuse = |code| Error::new(Class::Configuration, code).with("table", name);
            let error = match (table.key().is_empty(), says.find(missing)) {
                (true, _) => Some(refuse("flow.table-change-key")),
                (_, column) => {
                    column.map(|column| refuse("flow.table-change").with("column", column))
                }
            };
            if let Some(error) = error {
                self.bad.push(self.source.diagnostic(&path, None, error));
                return columns;
            }
        }
        let given = written(change.as_ref(), schema, &columns);
        let newer = change.as_ref().and_then(|change| change.newer.as_ref());
        let checked = table.check(&given).and_then(|()| match newer {
            Some(_) if !table.compares() => {
                let error = Error::new(Class::Configuration, "table.no-newer");
                Err(error.with("table", name))
            }
            Some(newer) => newer.check(name, &given, table.key()).map(drop),
            None => Ok(()),
        });
        if let Err(error) = checked {
            self.bad.push(self.source.diagnostic(&path, None, error));
        }
        columns
    }
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
