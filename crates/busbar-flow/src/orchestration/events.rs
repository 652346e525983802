//! What orchestrations read of streams: events that start instances, and those that instances wait for.

use std::sync::Arc;

use arrow::array::Array as _;
use busbar_catalog::{AwaitSpec, OrchestrationStart, suggest};
use busbar_event::format::{FieldType, SchemaSpec};
use busbar_event::{Batch, Class, Error};
use busbar_orchestrate::{PartRules as _, ValueMap, check_key};
use busbar_sql::{Predicate, Projection};

use super::OrchestrationPlan;
use super::compile::{projection, value_types};
use super::row::object_at;
use crate::compile::World;
use crate::operator::Wrong;
use crate::reader::{Input, Reader, text};

/// What events are read for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReadFor {
    /// They start instances.
    Start,
    /// Instances wait for them in the part of this name.
    Part(String),
}

/// `start`, or `part:` and the part's name: the place of a dead letter.
impl std::fmt::Display for ReadFor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReadFor::Start => f.write_str("start"),
            ReadFor::Part(part) => write!(f, "part:{part}"),
        }
    }
}

/// What an orchestration makes of a batch of events.
#[derive(Debug, Default)]
pub struct ReadEvents {
    /// Those that it takes, in order.
    pub taken: Vec<ReadEvent>,
    /// The rows of those that do not fit, each with the cause.
    pub unfit: Vec<(usize, Error)>,
}

/// An event that an orchestration takes.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadEvent {
    /// Its row in the batch.
    pub row: usize,
    /// What `by` is; empty for a start.
    pub by: String,
    /// What is taken from it.
    pub values: ValueMap,
}

pub(super) struct EventPlan {
    pub stream: String,
    read_for: ReadFor,
    /// What the file says of it.
    meaning: String,
    input: Input,
    condition: Option<Predicate>,
    by: Option<Projection>,
    select: Option<Projection>,
    /// The values that are taken.
    pub values: Vec<(String, FieldType)>,
}

impl EventPlan {
    /// What starts instances.
    pub fn start(
        spec: &OrchestrationStart,
        input: &SchemaSpec,
        world: &World,
    ) -> Result<EventPlan, Wrong> {
        let name = spec.stream.as_deref().unwrap_or_default();
        let mut plan = EventPlan::of(name, ReadFor::Start, spec.condition.as_deref(), world)?;
        let relation = plan.input.relation();
        let select = match &spec.select {
            Some(select) => select.clone(),
            None => {
                let fields = input.0.iter().map(|field| field.name.as_str());
                let there = fields.filter(|name| relation.index_of(name).is_ok());
                let there: Vec<String> = there
                    .map(|name| format!("\"{}\"", name.replace('"', "\"\"")))
                    .collect();
                there.join(", ")
            }
        };
        if !select.is_empty() {
            let select = projection(&relation, &select).map_err(|wrong| wrong.at("select"))?;
            plan.values = value_types(&select.schema()).map_err(|wrong| wrong.at("select"))?;
            let is_input = |name: &str| input.0.iter().any(|field| field.name == name);
            if let Some((name, _)) = plan.values.iter().find(|(name, _)| !is_input(name)) {
                let known: Vec<&str> = input.0.iter().map(|field| field.name.as_str()).collect();
                let error = Error::new(Class::Configuration, "orchestrate.value-unknown")
                    .with("name", name)
                    .with("known", known.join(", "));
                return Err(Wrong::new(error).at("select"));
            }
            plan.select = Some(select);
        }
        Ok(plan)
    }

    /// What instances wait for in a part.
    pub fn wait(part: &str, spec: &AwaitSpec, world: &World) -> Result<EventPlan, Wrong> {
        let read_for = ReadFor::Part(part.to_owned());
        let mut plan = EventPlan::of(&spec.stream, read_for, spec.condition.as_deref(), world)?;
        plan.meaning = format!("{spec:?}");
        let relation = plan.input.relation();
        let by = projection(&relation, &spec.by).map_err(|wrong| wrong.at("by"))?;
        if by.schema().fields().len() != 1 {
            let error = Error::new(Class::Configuration, "orchestrate.one-column");
            return Err(Wrong::new(error).at("by"));
        }
        plan.by = Some(by);
        if let Some(select) = &spec.select {
            let select = projection(&relation, select).map_err(|wrong| wrong.at("select"))?;
            plan.values = value_types(&select.schema()).map_err(|wrong| wrong.at("select"))?;
            plan.select = Some(select);
        }
        Ok(plan)
    }

    fn of(
        stream: &str,
        read_for: ReadFor,
        condition: Option<&str>,
        world: &World,
    ) -> Result<EventPlan, Wrong> {
        let Some(info) = world.streams.get(stream) else {
            let error = Error::new(Class::Configuration, "catalog.unknown-stream");
            return Err(Wrong {
                help: suggest(stream, world.streams.keys().map(String::as_str)),
                ..Wrong::new(error.with("name", stream)).at("stream")
            });
        };
        let Some(input) = info.input.clone() else {
            let error = Error::new(Class::Configuration, "orchestrate.event-columns");
            return Err(Wrong::new(error.with("stream", stream)).at("stream"));
        };
        let relation = input.relation();
        let condition = condition.map(|text| Predicate::compile(&relation, text));
        Ok(EventPlan {
            stream: stream.to_owned(),
            read_for,
            meaning: String::new(),
            condition: condition
                .transpose()
                .map_err(|bad| Wrong::from(bad).at("where"))?,
            input,
            by: None,
            select: None,
            values: Vec::new(),
        })
    }
}

/// Reads the events of one stream for one purpose.
pub struct OrchestrationReader {
    /// The stream.
    pub stream: String,
    /// What for.
    pub read_for: ReadFor,
    reader: Reader,
    condition: Option<Predicate>,
    by: Option<Projection>,
    select: Option<Projection>,
    plan: Arc<OrchestrationPlan>,
}

impl OrchestrationPlan {
    /// What it reads of streams, each with its meaning: two with the same read the same.
    ///
    /// # Errors
    /// Columns that cannot be read.
    pub fn readers(self: &Arc<Self>) -> Result<Vec<(String, OrchestrationReader)>, Error> {
        let readers = self.readers.iter().map(|plan| {
            let parts = [
                plan.condition.as_ref().map(Predicate::columns),
                plan.by.as_ref().map(Projection::columns),
                plan.select.as_ref().map(Projection::columns),
            ];
            let mut places: Vec<usize> = parts.into_iter().flatten().flatten().collect();
            places.sort_unstable();
            places.dedup();
            let reader = Reader::new(&plan.input, &places)?;
            let schema = Arc::clone(reader.schema());
            let bind = |projection: &Option<Projection>| {
                projection.as_ref().map(|p| p.bind(&schema)).transpose()
            };
            let reader = OrchestrationReader {
                stream: plan.stream.clone(),
                read_for: plan.read_for.clone(),
                condition: plan
                    .condition
                    .as_ref()
                    .map(|p| p.bind(&schema))
                    .transpose()?,
                by: bind(&plan.by)?,
                select: bind(&plan.select)?,
                reader,
                plan: Arc::clone(self),
            };
            Ok((plan.meaning.clone(), reader))
        });
        readers.collect()
    }
}

impl OrchestrationReader {
    /// The business key of the instance that an event starts, by the values that were taken from it.
    ///
    /// # Errors
    /// Values that make no key.
    pub fn key(&self, values: &ValueMap) -> Result<String, Error> {
        self.plan.start(values).map(|(key, _)| key)
    }

    /// What is made of a batch: an event that cannot be read, for which an expression fails, or that starts no instance as it
    /// is, does not fit. A batch that cannot be read at all is read event by event.
    ///
    /// # Errors
    /// What may be otherwise the next time; nothing is to be left out then.
    pub fn read(&mut self, events: &Batch) -> Result<ReadEvents, Error> {
        let mut all = ReadEvents::default();
        match self.read_into(&mut all, events, 0) {
            Err(error) if error.class() != Class::Transient => {
                all = ReadEvents::default();
                for row in 0..events.rows() {
                    match self.read_into(&mut all, &events.slice(row, 1), row) {
                        Err(error) if error.class() == Class::Transient => return Err(error),
                        Err(error) => all.unfit.push((row, error)),
                        Ok(()) => {}
                    }
                }
            }
            read => read?,
        }
        all.unfit.sort_by_key(|(row, _)| *row);
        Ok(all)
    }

    fn read_into(
        &mut self,
        all: &mut ReadEvents,
        events: &Batch,
        first: usize,
    ) -> Result<(), Error> {
        let read = self.reader.read(events)?;
        let rejected = read.rejected.into_iter();
        all.unfit
            .extend(rejected.map(|(row, error)| (first + row, error)));
        let rows = read.rows;
        for row in 0..rows.num_rows() {
            let one = rows.slice(row, 1);
            let event = read
                .events
                .as_ref()
                .map_or(row, |events| events.value(row) as usize);
            match self.take(&one) {
                Ok(Some((by, values))) => all.taken.push(ReadEvent {
                    row: first + event,
                    by,
                    values,
                }),
                Ok(None) => {}
                Err(error) if error.class() == Class::Transient => return Err(error),
                Err(error) => all.unfit.push((first + event, error)),
            }
        }
        Ok(())
    }

    fn take(&self, one: &arrow::array::RecordBatch) -> Result<Option<(String, ValueMap)>, Error> {
        if let Some(condition) = &self.condition {
            let holds = condition.evaluate(one)?;
            if holds.is_null(0) || !holds.value(0) {
                return Ok(None);
            }
        }
        let by = match &self.by {
            None => String::new(),
            Some(by) => {
                let column = text(by.evaluate(one)?.column(0))?;
                if column.is_null(0) {
                    return Ok(None);
                }
                column.value(0).to_owned()
            }
        };
        let values = match &self.select {
            None => ValueMap::new(),
            Some(select) => object_at(&select.evaluate(one)?, 0)?,
        };
        if self.read_for == ReadFor::Start {
            let (key, _) = self.plan.start(&values)?;
            check_key(&key)?;
        }
        Ok(Some((by, values)))
    }
}
