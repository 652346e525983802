//! What orchestrations read of streams: events that start instances, and those that instances wait for.

use std::sync::Arc;

use arrow::array::Array as _;
use busbar_catalog::{AwaitSpec, OrchestrationStart, suggest};
use busbar_event::format::{FieldType, SchemaSpec};
use busbar_event::{Batch, Class, Error};
use busbar_orchestrate::ValueMap;
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
}

impl OrchestrationPlan {
    /// What it reads of streams, each with its meaning: two with the same read the same.
    ///
    /// # Errors
    /// Columns that cannot be read.
    pub fn readers(&self) -> Result<Vec<(String, OrchestrationReader)>, Error> {
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
            };
            Ok((plan.meaning.clone(), reader))
        });
        readers.collect()
    }
}

impl OrchestrationReader {
    /// The events of a batch that are taken, in order. Those that cannot be read, or for which an expression fails, are left
    /// out and said in the log.
    ///
    /// # Errors
    /// A batch that does not fit at all.
    pub fn read(&mut self, events: &Batch) -> Result<Vec<ReadEvent>, Error> {
        let read = self.reader.read(events)?;
        for (row, error) in &read.rejected {
            tracing::warn!(stream = self.stream, row, %error, "an event cannot be read for an orchestration");
        }
        let rows = read.rows;
        let mut taken = Vec::new();
        for row in 0..rows.num_rows() {
            let one = rows.slice(row, 1);
            let event = read
                .events
                .as_ref()
                .map_or(row, |events| events.value(row) as usize);
            match self.take(&one) {
                Ok(Some((by, values))) => taken.push(ReadEvent {
                    row: event,
                    by,
                    values,
                }),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(stream = self.stream, %error, "an event does not fit an orchestration");
                }
            }
        }
        Ok(taken)
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
        Ok(Some((by, values)))
    }
}
