//! `script`: a plug-in works on each event and makes none, one or many of it.
//!
//! A batch is divided among the plug-in's workers by key, so that events of one key stay in order, and what they make
//! is put together in the order of the events. The plug-in keeps nothing for Busbar: after a restart the events
//! that were not written come again, and outputs recognise those that were.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, MapArray, MapBuilder, RecordBatch,
    StringArray, StringBuilder, StructArray, UInt32Array,
};
use arrow::compute::{cast, take};
use arrow::datatypes::{
    DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use busbar_event::format::{Decoder, FormatSpec, encode_json};
use busbar_event::{Class, Error, dictionary, hash::fnv1a, payload_schema, tags};
use busbar_plugin::{AnswerRow, GivenEvent, GivenEvents, Package, PendingWork, Plugin, Worked};
use futures::future::{BoxFuture, FutureExt};

use super::rows::misfit;
use super::{Made, Operator, Output, Rows, Step, StepContext, Wrong};
use crate::reader::{
    BODY, BODY_COLUMNS, BODY_PAYLOAD, ENVELOPE, PAYLOAD, is_envelope, plain, text,
};

/// A plug-in that flows can name.
#[derive(Clone, Debug)]
pub(crate) struct KnownPlugin {
    pub package: Arc<Package>,
    /// Where it runs; none where a project is only checked.
    pub running: Option<Arc<Plugin>>,
    /// Why it does not run.
    pub failed: Option<Error>,
}

/// A plug-in by its name.
pub(super) fn known<'c>(name: &str, context: &StepContext<'c>) -> Result<&'c KnownPlugin, Wrong> {
    context.plugins.get(name).ok_or_else(|| {
        let error = Error::new(Class::Configuration, "catalog.unknown-plugin").with("name", name);
        Wrong {
            help: busbar_catalog::suggest(name, context.plugins.keys().map(String::as_str)),
            ..Wrong::new(error)
        }
    })
}

/// Looks the plug-in up.
pub(super) fn compile(name: &str, context: &StepContext<'_>) -> Result<Arc<dyn Step>, Wrong> {
    let known = known(name, context)?;
    let columns = known.package.spec.columns.as_ref();
    let columns = columns.map(|columns| columns.schema()).transpose();
    let columns = columns.map_err(Wrong::new)?;
    let result = result_schema(context.schema, columns.as_ref());
    let own: Vec<usize> = (0..context.schema.fields().len())
        .filter(|place| {
            let field = context.schema.field(*place);
            !context.has_payloads || is_envelope(field.name(), field.data_type())
        })
        .collect();
    Ok(Arc::new(ScriptStep {
        name: name.to_owned(),
        plugin: known.running.clone(),
        failed: known.failed.clone(),
        columns,
        schema: Arc::new(result),
        own,
        reads_payloads: context.has_payloads,
    }))
}

/// The parts of the envelope that come in, and the columns of the payload or the payload itself.
fn result_schema(sees: &Schema, columns: Option<&SchemaRef>) -> Schema {
    let envelope = payload_schema();
    let came_in = |name: &&&str| {
        let field = sees.field_with_name(name);
        field.is_ok_and(|field| is_envelope(name, field.data_type()))
    };
    let mut fields: Vec<FieldRef> = ENVELOPE
        .iter()
        .filter(came_in)
        .filter_map(|name| envelope.fields().iter().find(|field| field.name() == *name))
        // Which parts there are is known; what is in them is the plug-in's.
        .map(|field| Arc::new(field.as_ref().clone().with_nullable(true)))
        .collect();
    let body = match columns {
        Some(columns) => {
            let own = |field: &&FieldRef| !ENVELOPE.contains(&field.name().as_str());
            fields.extend(columns.fields().iter().filter(own).cloned());
            BODY_COLUMNS
        }
        None => {
            fields.push(Arc::new(Field::new("payload", DataType::Binary, false)));
            BODY_PAYLOAD
        }
    };
    Schema::new_with_metadata(fields, [(BODY.to_owned(), body.to_owned())].into())
}

/// A plug-in that runs.
///
/// # Errors
/// Why it does not run.
pub(super) fn running(
    name: &str,
    plugin: Option<&Arc<Plugin>>,
    failed: Option<&Error>,
) -> Result<Arc<Plugin>, Error> {
    plugin.cloned().ok_or_else(|| {
        failed
            .cloned()
            .unwrap_or_else(|| Error::new(Class::Transient, "plugin.stopped").with("plugin", name))
    })
}

struct ScriptStep {
    name: String,
    plugin: Option<Arc<Plugin>>,
    failed: Option<Error>,
    columns: Option<SchemaRef>,
    schema: SchemaRef,
    /// Places of the columns that it reads.
    own: Vec<usize>,
    /// The events' own payloads are there, so that their columns need not be read.
    reads_payloads: bool,
}

impl Step for ScriptStep {
    fn schema(&self) -> Option<SchemaRef> {
        Some(Arc::clone(&self.schema))
    }

    fn columns(&self) -> Vec<usize> {
        self.own.clone()
    }

    fn payloads(&self) -> bool {
        self.reads_payloads
    }

    fn computes_once(&self) -> bool {
        true
    }

    fn operator(&self, _schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let plugin = running(&self.name, self.plugin.as_ref(), self.failed.as_ref())?;
        let decoder = self.columns.as_ref().map(|columns| {
            let fields = columns.fields().iter().enumerate();
            let own = fields.filter(|(_, field)| !ENVELOPE.contains(&field.name().as_str()));
            let own: Vec<usize> = own.map(|(place, _)| place).collect();
            let format = FormatSpec::Json(Default::default());
            Decoder::new(&format, columns, &own)
        });
        Ok(Box::new(Script {
            plugin,
            decoder: decoder.transpose()?,
            schema: Arc::clone(&self.schema),
            is_on_trial: false,
        }))
    }
}

struct Script {
    plugin: Arc<Plugin>,
    /// Reads the payloads that come out, where the plug-in names their columns.
    decoder: Option<Decoder>,
    schema: SchemaRef,
    is_on_trial: bool,
}

impl Operator for Script {
    fn on_trial(&mut self) {
        self.is_on_trial = true;
    }

    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            if rows.len() == 0 {
                return Ok(());
            }
            let given = GivenRows::new(&rows.batch, payloads(&rows.batch)?)?;
            let (pending, places) = given.give(&self.plugin, self.is_on_trial);
            let mut worked: Vec<Worked> = Vec::with_capacity(pending.len());
            for pending in pending {
                worked.push(pending.worked().await?);
            }
            self.gather(&rows, &given, &worked, &places, out)
        }
        .boxed()
    }
}

/// The columns of a batch as a plug-in sees them.
pub(super) struct GivenRows {
    topics: Option<StringArray>,
    keys: Option<StringArray>,
    times: Option<Vec<i64>>,
    tags: Option<(MapArray, StringArray, StringArray)>,
    payloads: BinaryArray,
}

impl GivenRows {
    pub fn new(batch: &RecordBatch, payloads: BinaryArray) -> Result<GivenRows, Error> {
        let envelope = |name: &str| -> Option<&ArrayRef> {
            let field = batch.schema_ref().field_with_name(name).ok()?;
            is_envelope(name, field.data_type())
                .then(|| batch.column_by_name(name))
                .flatten()
        };
        let tags = match envelope("tags").and_then(|tags| tags.as_map_opt()) {
            Some(tags) => {
                let entries = tags.entries();
                let (names, values) = (text(entries.column(0))?, text(entries.column(1))?);
                Some((tags.clone(), names, values))
            }
            None => None,
        };
        let times = match envelope("time") {
            Some(times) => {
                let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
                let times = cast(times, &micros).map_err(misfit)?;
                Some(
                    times
                        .as_primitive::<TimestampMicrosecondType>()
                        .values()
                        .to_vec(),
                )
            }
            None => None,
        };
        Ok(GivenRows {
            topics: envelope("topic").map(text).transpose()?,
            keys: envelope("key").map(text).transpose()?,
            times,
            tags,
            payloads,
        })
    }

    /// Gives the events to the plug-in's workers, in parts, each as soon as it is full, so that the workers work while the
    /// rest is written. Answers the parts, and the places of their events in the batch.
    pub fn give<'a>(
        &self,
        plugin: &'a Plugin,
        is_trial: bool,
    ) -> (Vec<PendingWork<'a>>, Vec<Vec<usize>>) {
        let workers = plugin.workers();
        let empty = || (plugin.events(), Vec::new());
        let mut filling: Vec<(GivenEvents, Vec<usize>)> = Vec::new();
        filling.resize_with(workers, empty);
        let (mut pending, mut places) = (Vec::new(), Vec::new());
        let mut give = |worker: usize, (mut events, its): (GivenEvents, Vec<usize>)| {
            if is_trial {
                events.mark_trial();
            }
            pending.push(plugin.give(worker, events));
            places.push(its);
        };
        for row in 0..self.payloads.len() {
            let (topic, key) = (self.topic(row), self.key(row));
            let worker = match workers {
                1 => 0,
                _ => (fnv1a(key.unwrap_or(topic).as_bytes()) % workers as u64) as usize,
            };
            let event = GivenEvent {
                topic,
                key,
                time: self.times.as_ref().map_or(0, |times| times[row]),
                payload: self.payloads.value(row),
            };
            let (events, its) = &mut filling[worker];
            events.push(&event, self.tags(row));
            its.push(row);
            if events.is_full() {
                give(worker, std::mem::replace(&mut filling[worker], empty()));
            }
        }
        for (worker, rest) in filling.into_iter().enumerate() {
            if !rest.1.is_empty() {
                give(worker, rest);
            }
        }
        (pending, places)
    }

    fn topic(&self, row: usize) -> &str {
        self.topics.as_ref().map_or("", |topics| topics.value(row))
    }

    fn key(&self, row: usize) -> Option<&str> {
        let keys = self.keys.as_ref().filter(|keys| keys.is_valid(row))?;
        Some(keys.value(row))
    }

    /// The tags of a row, without those that describe the payload it came with.
    fn tags(&self, row: usize) -> impl Iterator<Item = (&str, &str)> {
        let tags = self
            .tags
            .iter()
            .filter(move |(tags, ..)| tags.is_valid(row));
        tags.flat_map(move |(tags, names, values)| {
            let offsets = tags.value_offsets();
            let range = offsets[row] as usize..offsets[row + 1] as usize;
            range.map(|at| (names.value(at), values.value(at)))
        })
        .filter_map(|(name, value)| Some((tags::unescape(name)?, value)))
    }
}

/// The payload of each row: that of its event, or its columns as JSON.
pub(super) fn payloads(batch: &RecordBatch) -> Result<BinaryArray, Error> {
    if let Some(payloads) = batch.column_by_name(PAYLOAD) {
        let payloads = cast(payloads, &DataType::Binary).map_err(misfit)?;
        return Ok(payloads.as_binary::<i32>().clone());
    }
    let schema = batch.schema_ref();
    if schema
        .metadata()
        .get(BODY)
        .is_some_and(|body| body == BODY_PAYLOAD)
        && let Some(payloads) = batch.column_by_name("payload")
    {
        return Ok(payloads.as_binary::<i32>().clone());
    }
    let mut fields: Vec<FieldRef> = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for (field, array) in schema.fields().iter().zip(batch.columns()) {
        if !is_envelope(field.name(), field.data_type()) {
            let array = plain(array)?;
            let field = field.as_ref().clone();
            fields.push(Arc::new(field.with_data_type(array.data_type().clone())));
            arrays.push(array);
        }
    }
    let columns = match arrays.is_empty() {
        true => StructArray::new_empty_fields(batch.num_rows(), None),
        false => StructArray::try_new(Fields::from(fields), arrays, None).map_err(misfit)?,
    };
    Ok(encode_json(&columns))
}

/// An event that was made: its row in the batch, the part that it was in and its place in there.
struct ScriptRow<'a> {
    row: usize,
    part: usize,
    at: usize,
    answer: AnswerRow<'a>,
}

impl Script {
    /// Puts together what came of all parts, in the order of the events.
    fn gather(
        &mut self,
        rows: &Rows,
        given: &GivenRows,
        worked: &[Worked],
        places: &[Vec<usize>],
        out: &mut Output,
    ) -> Result<(), Error> {
        let mut dead: Vec<(usize, Error)> = Vec::new();
        let mut made: Vec<ScriptRow<'_>> = Vec::new();
        for (part, worked) in worked.iter().enumerate() {
            let place = |event: usize| places[part][event];
            for (at, mut answer) in worked.answers.rows().enumerate() {
                let row = place(answer.event);
                // A topic or key that was written anew need not be another one.
                answer.topic = answer.topic.filter(|topic| *topic != given.topic(row));
                answer.key = answer.key.filter(|key| *key != given.key(row));
                made.push(ScriptRow {
                    row,
                    part,
                    at,
                    answer,
                });
                if answer.topic.is_some() && given.topics.is_none() {
                    let error = Error::new(Class::Permanent, "flow.script-topic");
                    dead.push((row, error.with("plugin", self.plugin.name())));
                }
            }
            for (event, failure) in worked.answers.failed() {
                dead.push((
                    place(event),
                    failure.error(Class::Permanent, self.plugin.name()),
                ));
            }
            for (first, count, error) in &worked.lost {
                dead.extend((*first..first + count).map(|event| (place(event), error.clone())));
            }
        }
        if self.plugin.workers() > 1 {
            made.sort_by_key(|made| made.row);
        }
        let mut columns = None;
        if let Some(decoder) = &mut self.decoder {
            // An event of which anything cannot be read makes nothing.
            let decoded = decoder.decode(&made_payloads(&made, given));
            for rejected in decoded.rejected {
                dead.push((made[rejected.row].row, rejected.cause));
            }
            columns = Some(decoded.columns);
        }
        dead.sort_by_key(|(row, _)| *row);
        dead.dedup_by_key(|(row, _)| *row);
        if !dead.is_empty() {
            let failed: BTreeSet<usize> = dead.iter().map(|(row, _)| *row).collect();
            made.retain(|made| !failed.contains(&made.row));
            if let Some(decoder) = &mut self.decoder {
                columns = Some(decoder.decode(&made_payloads(&made, given)).columns);
            }
        }
        let result = self.result(rows, given, worked, &made, columns)?;
        out.push(result);
        for (row, error) in dead {
            out.fail(rows, row, error);
        }
        Ok(())
    }

    fn result(
        &self,
        rows: &Rows,
        given: &GivenRows,
        worked: &[Worked],
        made: &[ScriptRow<'_>],
        columns: Option<RecordBatch>,
    ) -> Result<Rows, Error> {
        let from: UInt32Array = made
            .iter()
            .map(|made| made.row as u32)
            .collect::<Vec<_>>()
            .into();
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for name in ENVELOPE {
            let field = self.schema.field_with_name(name);
            if !field.is_ok_and(|field| is_envelope(name, field.data_type())) {
                continue;
            }
            let own = || -> Result<ArrayRef, Error> {
                let column = rows.batch.column_by_name(name);
                let column = column.ok_or_else(|| {
                    Error::new(Class::Permanent, "flow.misfit").with("column", name)
                })?;
                take(column, &from, None).map_err(misfit)
            };
            let array: ArrayRef = match (name, &given.topics) {
                ("topic", Some(topics)) if made.iter().any(|made| made.answer.topic.is_some()) => {
                    let topics = made
                        .iter()
                        .map(|made| Some(made.answer.topic.unwrap_or(topics.value(made.row))));
                    Arc::new(dictionary(&topics.collect::<StringArray>()))
                }
                ("topic", Some(topics)) => {
                    let topics = take(topics, &from, None).map_err(misfit)?;
                    Arc::new(dictionary(topics.as_string::<i32>()))
                }
                ("key", _) if made.iter().any(|made| made.answer.key.is_some()) => {
                    let keys = made
                        .iter()
                        .map(|made| made.answer.key.unwrap_or_else(|| given.key(made.row)));
                    Arc::new(keys.collect::<StringArray>())
                }
                ("tags", _) if made.iter().any(|made| made.answer.own_tags) => {
                    Arc::new(self.tags(given, worked, made)?)
                }
                _ => own()?,
            };
            arrays.push(array);
        }
        match columns {
            Some(columns) => arrays.extend(columns.columns().iter().cloned()),
            None => arrays.push(Arc::new(made_payloads(made, given))),
        }
        let arrays = arrays.iter().zip(self.schema.fields());
        let arrays = arrays
            .map(|(array, field)| cast(array, field.data_type()).map_err(misfit))
            .collect::<Result<Vec<_>, _>>()?;
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), arrays).map_err(misfit)?;
        let origin = match &rows.made {
            Made::Many => Made::Many,
            events => Made::From(
                made.iter()
                    .map(|made| events.event(made.row) as u32)
                    .collect(),
            ),
        };
        let times = rows.times.as_ref().map(|times| times.take(&from));
        Ok(Rows {
            batch,
            made: origin,
            times: times.transpose()?,
        })
    }

    fn tags(
        &self,
        given: &GivenRows,
        worked: &[Worked],
        made: &[ScriptRow<'_>],
    ) -> Result<MapArray, Error> {
        let field = self.schema.field_with_name("tags").map_err(misfit)?;
        let (key, value) = match field.data_type() {
            DataType::Map(entry, _) => match entry.data_type() {
                DataType::Struct(fields) => (Arc::clone(&fields[0]), Arc::clone(&fields[1])),
                _ => return Err(Error::new(Class::Permanent, "flow.misfit").with("column", "tags")),
            },
            _ => return Err(Error::new(Class::Permanent, "flow.misfit").with("column", "tags")),
        };
        let mut builder = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new())
            .with_keys_field(key)
            .with_values_field(value);
        for made in made {
            let mut add = |(name, value): (&str, &str)| {
                builder.keys().append_value(tags::escape(name));
                builder.values().append_value(value);
            };
            match made.answer.own_tags {
                true => {
                    worked[made.part].answers.tags(made.at).for_each(&mut add);
                }
                false => given.tags(made.row).for_each(&mut add),
            }
            builder.append(true).map_err(misfit)?;
        }
        Ok(builder.finish())
    }
}

fn made_payloads(made: &[ScriptRow<'_>], given: &GivenRows) -> BinaryArray {
    let mut payloads = BinaryBuilder::with_capacity(made.len(), 0);
    for made in made {
        payloads.append_value(
            made.answer
                .payload
                .unwrap_or_else(|| given.payloads.value(made.row)),
        );
    }
    payloads.finish()
}
