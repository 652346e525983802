//! What a flow test gives: events of streams, and rows of tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, BinaryArray};
use arrow::datatypes::FieldRef;
use busbar_catalog::{FlowSpec, Given, TestSpec};
use busbar_event::format::{Decoder, FormatSpec, infer};
use busbar_event::topic::Filter;
use busbar_event::{BatchBuilder, Class, Error, Flags, Row};
use busbar_log::{Clock, ManualClock, SystemClock};
use busbar_table::{Table, TableSpec, Tables};
use serde_json::Value as Json;

use crate::compile::{Plan, World};

/// Which input an event is for, and its topic.
pub(super) fn place(plan: &Plan, world: &World, given: &Given) -> Result<(usize, String), Error> {
    let patterns = |stream: &str| -> Vec<Filter> {
        world
            .streams
            .get(stream)
            .map(|s| s.topics.clone())
            .unwrap_or_default()
    };
    let inputs = plan.inputs.iter().enumerate();
    let inputs = inputs.filter(|(_, input)| input.stage == 0);
    let named = match &given.stream {
        Some(name) => {
            let input = inputs.clone().find(|(_, input)| input.stream == *name);
            Some(input.map(|(i, _)| i).ok_or_else(|| {
                Error::new(Class::Configuration, "flow.test-stream").with("stream", name)
            })?)
        }
        None => None,
    };
    let topic = match &given.topic {
        Some(topic) => topic.clone(),
        None => {
            let first = plan
                .inputs
                .get(named.unwrap_or(0))
                .map(|i| patterns(&i.stream))
                .unwrap_or_default();
            match first.first() {
                Some(pattern) => pattern.as_str().replace(['+', '#'], "x"),
                None => "test/x/x".to_owned(),
            }
        }
    };
    busbar_event::topic::check(&topic)?;
    if let Some(input) = named {
        return Ok((input, topic));
    }
    let count = inputs.clone().count();
    let best = inputs
        .filter_map(|(i, input)| {
            patterns(&input.stream)
                .into_iter()
                .filter(|p| p.matches(&topic))
                .map(|p| p.specificity())
                .max()
                .map(|specificity| (specificity, i))
        })
        .max();
    match (best, count) {
        (Some((_, input)), _) => Ok((input, topic)),
        // A stream without patterns, or the inbox.
        (None, 1) if patterns(&plan.inputs[0].stream).is_empty() => Ok((0, topic)),
        _ => Err(Error::new(Class::Configuration, "flow.test-topic").with("topic", topic)),
    }
}

pub(super) fn payload(value: &Json) -> Vec<u8> {
    match value {
        Json::String(text) => text.clone().into_bytes(),
        other => other.to_string().into_bytes(),
    }
}

pub(super) fn push(
    builder: &mut BatchBuilder,
    given: &Given,
    topic: &str,
    clock: &ManualClock,
) -> Result<(), Error> {
    let time = match &given.time {
        Some(text) => time_micros(text)?,
        None => clock.now_micros(),
    };
    let tags: Vec<(&str, &str)> = given
        .tags
        .iter()
        .flatten()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let payload = given.payload.as_ref().map(payload).unwrap_or_default();
    let topic = builder.topic_id(topic);
    builder.push(Row {
        topic,
        key: given.key.as_deref(),
        time,
        client: None,
        flags: Flags(0),
        tags: &tags,
        payload: &payload,
    });
    Ok(())
}

pub(super) fn time_micros(text: &str) -> Result<i64, Error> {
    arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(text)
        .map(|nanos| nanos.div_euclid(1000))
        .map_err(|e| {
            Error::new(Class::Configuration, "flow.test-time")
                .with("text", busbar_event::quote(text))
                .caused_by(e)
        })
}

/// The rows that a test puts into a table, in order.
pub(super) fn table_rows<'a>(test: &'a TestSpec, table: &'a str) -> impl Iterator<Item = &'a Json> {
    let given = test.given.iter();
    let rows = given.filter(move |given| given.table.as_deref() == Some(table));
    rows.filter_map(|given| given.payload.as_ref())
}

/// In the place of each table of a database that a flow looks rows up in: one in memory with the columns under `on` as its key.
pub(super) fn add_remote(world: &mut World, spec: &FlowSpec) -> Result<(), Error> {
    for (.., join) in spec.joins() {
        let Some(name) = join.table.as_ref().filter(|name| name.contains('.')) else {
            continue;
        };
        let key: Vec<&str> = join.on().map(|pair| pair.second).collect();
        let spec = serde_json::json!({ "key": key, "hot": {} });
        let spec: TableSpec = serde_json::from_value(spec)
            .map_err(|cause| Error::new(Class::Configuration, "flow.worker").caused_by(cause))?;
        let tables = Tables::open("", Arc::new(SystemClock))?;
        // A table of a project has no dots in its name, and no capital letters.
        let own = "remote";
        tables.apply(&BTreeMap::from([(own.to_owned(), spec)]))?;
        if let Some(table) = tables.table(own) {
            world.tables.insert(name.clone(), table);
        }
    }
    Ok(())
}

/// Gives a table whose columns are not declared those of the rows that a test puts into it.
pub(super) fn evolve(table: &dyn Table, name: &str, test: &TestSpec) -> Result<(), Error> {
    if !table.schema().fields().is_empty() {
        return Ok(());
    }
    let sample = BinaryArray::from_iter_values(table_rows(test, name).map(payload));
    if sample.is_empty() {
        return Ok(());
    }
    table.evolve(infer(&json(), &sample)?.as_ref())
}

/// Puts a row into a table.
pub(super) fn put(world: &World, table: &str, row: &Json) -> Result<(), Error> {
    let unknown = || Error::new(Class::Configuration, "catalog.unknown-table").with("name", table);
    let table = world.tables.get(table).ok_or_else(unknown)?;
    let schema = table.schema();
    let named = |(place, field): (usize, &FieldRef)| row.get(field.name()).map(|_| place);
    let columns = schema.fields().iter().enumerate().filter_map(named);
    let mut decoder = Decoder::new(&json(), &schema, &columns.collect::<Vec<_>>())?;
    let decoded = decoder.decode(&BinaryArray::from_iter_values([payload(row)]));
    let rejected = decoded.rejected.into_iter().map(|rejected| rejected.cause);
    let applied = table.apply(&decoded.columns, None)?.rejected.into_iter();
    match rejected
        .chain(applied.map(|rejected| rejected.cause))
        .next()
    {
        Some(cause) => Err(cause),
        None => Ok(()),
    }
}

fn json() -> FormatSpec {
    FormatSpec::Json(Default::default())
}
