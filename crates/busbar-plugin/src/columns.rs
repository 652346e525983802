//! Batches of events as Arrow columns, for workers that take them in this form.
//!
//! A frame is an Arrow IPC stream with one record batch: topic, key, time and tags of each event, the columns of the payloads
//! that the plug-in's file names, and `_row`, by which [`crate::columns_answer`] knows of which event a row was made.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryBuilder, MapBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray, UInt32Array,
};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit};
use arrow::ipc::writer::StreamWriter;
use busbar_event::format::{Decoder, FieldType, FormatSpec, SchemaSpec};
use busbar_event::{Class, Error};

use crate::events::GivenEvents;
use crate::limits::BATCH_BYTES;

/// The column that names the event of each row, by its place in the batch of the frame.
pub(crate) const ROW: &str = "_row";
/// The column by which a program says that the event of a row has failed. The kit of a language reads it.
pub(crate) const ERROR: &str = "_error";
/// Columns of every batch. The other columns are those of the payloads.
pub(crate) const ENVELOPE: [&str; 4] = ["topic", "key", "time", "tags"];

/// Whether a column of payloads may not have this name.
pub(crate) fn is_reserved(name: &str) -> bool {
    name == ROW || name == ERROR || ENVELOPE.contains(&name)
}

/// Makes columns of events.
#[derive(Debug)]
pub(crate) struct EventColumns {
    /// Reads the payloads; none where no column of them is asked for.
    payloads: Option<Decoder>,
    /// Names of the columns whose text is JSON.
    json: Vec<String>,
}

/// The events of a job as columns.
#[derive(Debug)]
pub(crate) struct JobColumns {
    batch: RecordBatch,
    /// The event of each row, ascending. Events whose payloads do not fit are left out.
    events: Vec<u32>,
}

impl EventColumns {
    /// For a plug-in that reads these columns of the payloads.
    pub fn new(columns: &SchemaSpec) -> Result<EventColumns, Error> {
        let json = columns.0.iter();
        let json = json.filter(|column| column.field_type == FieldType::Json);
        let json = json.map(|column| column.name.clone()).collect();
        if columns.0.is_empty() {
            return Ok(EventColumns {
                payloads: None,
                json,
            });
        }
        let schema = columns.schema()?;
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let decoder = Decoder::new(&FormatSpec::Json(Default::default()), &schema, &all)?;
        Ok(EventColumns {
            payloads: Some(decoder),
            json,
        })
    }

    /// Names of the columns whose text is JSON.
    pub fn json(&self) -> &[String] {
        &self.json
    }

    /// The events as columns, and those whose payloads do not fit, with the cause.
    pub fn of(&mut self, events: &GivenEvents) -> Result<(JobColumns, Vec<(usize, Error)>), Error> {
        let mut rejected = Vec::new();
        let mut rows: Vec<u32> = (0..events.len() as u32).collect();
        let mut payloads = None;
        if let Some(decoder) = &mut self.payloads {
            let mut values = BinaryBuilder::with_capacity(events.len(), BATCH_BYTES);
            for event in 0..events.len() {
                values.append_value(events.parts_of(event).payload);
            }
            let decoded = decoder.decode(&values.finish());
            if let Some(good) = decoded.rows {
                rows = good.values().to_vec();
            }
            let bad = decoded.rejected.into_iter();
            rejected.extend(bad.map(|rejected| (rejected.row, rejected.cause)));
            payloads = Some(decoded.columns);
        }
        let parts = || rows.iter().map(|row| events.parts_of(*row as usize));
        let topics: StringArray = parts().map(|event| Some(event.topic)).collect();
        let keys: StringArray = parts().map(|event| event.key).collect();
        let times = parts().map(|event| event.time);
        let times = TimestampMicrosecondArray::from_iter_values(times);
        let mut tags = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        for event in &rows {
            for (name, value) in events.tags_of(*event as usize) {
                tags.keys().append_value(name);
                tags.values().append_value(value);
            }
            tags.append(true).map_err(internal)?;
        }
        let tags = tags.finish();
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let mut fields: Vec<FieldRef> = vec![
            Arc::new(Field::new("topic", DataType::Utf8, false)),
            Arc::new(Field::new("key", DataType::Utf8, true)),
            Arc::new(Field::new("time", time, false)),
            Arc::new(Field::new("tags", tags.data_type().clone(), false)),
        ];
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(topics),
            Arc::new(keys),
            Arc::new(times.with_timezone("UTC")),
            Arc::new(tags),
        ];
        if let Some(payloads) = payloads {
            let own = payloads.schema_ref().fields().iter();
            // What else is known of a column is of no use to a program.
            fields.extend(own.map(|field| {
                let plain = Field::clone(field).with_metadata(Default::default());
                Arc::new(plain)
            }));
            columns.extend(payloads.columns().iter().cloned());
        }
        fields.push(Arc::new(Field::new(ROW, DataType::UInt32, false)));
        columns.push(Arc::new(UInt32Array::from(rows.clone())));
        let schema = Arc::new(Schema::new(fields));
        let batch = RecordBatch::try_new(schema, columns).map_err(internal)?;
        Ok((
            JobColumns {
                batch,
                events: rows,
            },
            rejected,
        ))
    }
}

impl JobColumns {
    /// Some of the events as an IPC stream, in which `_row` counts from the first of them.
    pub fn ipc(&self, first: usize, count: usize) -> Result<Vec<u8>, Error> {
        let place = |event: usize| self.events.partition_point(|row| (*row as usize) < event);
        let (start, end) = (place(first), place(first + count));
        let mut batch = self.batch.slice(start, end - start);
        if first > 0 {
            let rows = self.events[start..end].iter();
            let rows: UInt32Array = rows
                .map(|row| row - first as u32)
                .collect::<Vec<_>>()
                .into();
            let mut columns = batch.columns().to_vec();
            columns.pop();
            columns.push(Arc::new(rows));
            batch = RecordBatch::try_new(batch.schema(), columns).map_err(internal)?;
        }
        let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref()).map_err(internal)?;
        writer.write(&batch).map_err(internal)?;
        writer.into_inner().map_err(internal)
    }
}

fn internal(cause: arrow::error::ArrowError) -> Error {
    Error::new(Class::Permanent, "plugin.columns").caused_by(cause)
}
