//! Event time from a column of the payload, read once a batch before it is written.

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType},
};
use busbar_event::{
    Batch, Body, Class, Error, Result,
    format::{Decoder, FormatSpec},
};

use crate::spec::StreamSpec;

/// Which column holds the time, and how payloads are read.
#[derive(Debug)]
pub(crate) struct TimeRule {
    format: FormatSpec,
    schema: SchemaRef,
    column: usize,
}

impl TimeRule {
    /// The rule of a stream, if its file names a column.
    pub fn of(stream: &str, spec: &StreamSpec) -> Result<Option<Arc<TimeRule>>> {
        let (Some(name), Some(schema)) = (&spec.time, &spec.schema) else {
            return Ok(None);
        };
        let schema = schema.schema()?;
        let refuse = |code| {
            Error::new(Class::Configuration, code)
                .with("stream", stream)
                .with("column", name)
        };
        let column = schema
            .index_of(name)
            .map_err(|_| refuse("bus.time-unknown"))?;
        match schema.field(column).data_type() {
            DataType::Timestamp(TimeUnit::Microsecond, _) => {}
            _ => return Err(refuse("bus.time-type")),
        }
        Ok(Some(Arc::new(TimeRule {
            format: spec.format.clone(),
            schema,
            column,
        })))
    }
}

/// Reads the event times of a stream's events outside of the stream, as for the tests of a flow.
#[derive(Clone, Debug)]
pub struct EventTimes(Arc<TimeRule>);

impl EventTimes {
    /// Those of a stream whose file names a column; none when the time of arrival counts.
    ///
    /// # Errors
    /// `bus.time-unknown` or `bus.time-type` when there is no such column, or it holds no times.
    pub fn of(stream: &str, spec: &StreamSpec) -> Result<Option<Self>> {
        Ok(TimeRule::of(stream, spec)?.map(Self))
    }

    /// The batch with event times in place of its own, where payloads hold one.
    pub fn apply(&self, batch: Batch) -> Batch {
        TimeReader::default().apply(Some(Arc::clone(&self.0)), batch)
    }
}

/// Reads the time of batch after batch; keeps its decoder while the rule stays the same.
#[derive(Default)]
pub(crate) struct TimeReader {
    decoder: Option<(Arc<TimeRule>, Decoder)>,
}

impl TimeReader {
    /// The batch with event times in place of times of arrival, where payloads hold one.
    pub fn apply(&mut self, rule: Option<Arc<TimeRule>>, batch: Batch) -> Batch {
        let Some(rule) = rule else {
            self.decoder = None;
            return batch;
        };
        let Body::Payload(payloads) = batch.body() else {
            return batch;
        };
        if self
            .decoder
            .as_ref()
            .is_none_or(|(known, _)| !Arc::ptr_eq(known, &rule))
        {
            // The rule was checked when the stream was applied.
            self.decoder = Decoder::new(&rule.format, &rule.schema, &[rule.column])
                .ok()
                .map(|decoder| (Arc::clone(&rule), decoder));
        }
        let Some((_, decoder)) = &mut self.decoder else {
            return batch;
        };
        let decoded = decoder.decode(payloads);
        match with_times(
            &batch,
            &decoded.columns,
            decoded.rows.as_ref().map(|rows| &rows.values()[..]),
        ) {
            Some(timed) => timed,
            None => batch,
        }
    }
}

/// Replaces the times of the good rows whose column is not null.
fn with_times(batch: &Batch, columns: &RecordBatch, rows: Option<&[u32]>) -> Option<Batch> {
    let decoded = columns
        .columns()
        .first()?
        .as_primitive_opt::<TimestampMicrosecondType>()?;
    let mut times = batch.times().to_vec();
    for at in 0..decoded.len() {
        let row = rows.map_or(at, |rows| rows[at] as usize);
        if decoded.is_valid(at)
            && let Some(time) = times.get_mut(row)
        {
            *time = decoded.value(at);
        }
    }
    let mut envelope = batch.envelope();
    envelope.time = arrow::array::TimestampMicrosecondArray::from(times).with_timezone("UTC");
    Batch::from_columns(envelope, batch.body().clone()).ok()
}
