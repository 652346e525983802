//! Events of streams between the stages of a flow, as the stage behind reads them; [`crate::exchange`] writes them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, RecordBatch, RecordBatchOptions, StructArray,
    UInt16Array, UInt32Array, UInt64Array, new_null_array,
};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Int64Type, SchemaRef, UInt16Type, UInt64Type};
use busbar_event::{Batch, Body, Class, Error};

use crate::event_time::EventTime;
use crate::operator::Times;

/// The columns of an event of such a stream.
pub(crate) const ROW: &str = "row";
pub(crate) const MARK: &str = "mark";
pub(crate) const PARTITION: &str = "partition";
pub(crate) const OFFSET: &str = "offset";

/// Events of such a stream, taken apart.
pub(crate) struct ReceivedRows {
    /// The events as they were, with the rows as bodies; control events have empty ones.
    pub events: Batch,
    /// Places of those that are no control events; none if all are.
    pub places: Option<UInt32Array>,
    pub times: Times,
    /// Where the events lie that they were made from, if that is known of all.
    pub sources: Option<SourceOffsets>,
}

/// Where the events lie that rows were made from: for each its partition and its offset, in the stream that the flow reads.
#[derive(Clone, Debug)]
pub(crate) struct SourceOffsets {
    partitions: UInt16Array,
    offsets: UInt64Array,
}

impl SourceOffsets {
    /// Partition and offset of the event of a row.
    pub fn of(&self, row: usize) -> (u16, u64) {
        (self.partitions.value(row), self.offsets.value(row))
    }

    fn read(body: &StructArray) -> Option<SourceOffsets> {
        let partitions = body.column_by_name(PARTITION)?;
        let offsets = body.column_by_name(OFFSET)?;
        let read = SourceOffsets {
            partitions: partitions.as_primitive_opt::<UInt16Type>()?.clone(),
            offsets: offsets.as_primitive_opt::<UInt64Type>()?.clone(),
        };
        (read.partitions.null_count() + read.offsets.null_count() == 0).then_some(read)
    }
}

impl ReceivedRows {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.times.times.len()
    }
}

/// Takes events of such a stream apart; control events move `time` on.
pub(crate) fn receive(batch: &Batch, time: &mut EventTime) -> Result<ReceivedRows, Error> {
    let wrong = || Error::new(Class::Permanent, "flow.misfit").with("column", "row");
    let Body::Columns(body) = batch.body() else {
        return Err(wrong());
    };
    let row = body.column_by_name(ROW).ok_or_else(wrong)?;
    let marks = body.column_by_name(MARK).ok_or_else(wrong)?;
    let marks = marks.as_primitive_opt::<Int64Type>().ok_or_else(wrong)?;
    let times = batch.times();
    let (places, times) = if marks.null_count() == 0 {
        let times = Times {
            times: times.to_vec().into(),
            marks: marks.values().clone(),
        };
        (None, times)
    } else {
        let mut places: Vec<u32> = Vec::with_capacity(times.len());
        for (at, time_of) in times.iter().enumerate() {
            if marks.is_null(at) {
                time.produced(batch.key(at).unwrap_or_default(), *time_of);
            } else {
                places.push(at as u32);
            }
        }
        let at = || places.iter().map(|place| *place as usize);
        let times = Times {
            times: at().map(|at| times[at]).collect(),
            marks: at().map(|at| marks.value(at)).collect(),
        };
        (Some(UInt32Array::from(places)), times)
    };
    let sources = SourceOffsets::read(body);
    let body = match row.data_type() {
        DataType::Binary => {
            let payload = row.as_binary::<i32>();
            Body::Payload(BinaryArray::new(
                payload.offsets().clone(),
                payload.values().clone(),
                None,
            ))
        }
        DataType::Struct(fields) => {
            let columns = row.as_struct();
            let arrays = columns.columns().to_vec();
            let whole = StructArray::try_new_with_length(fields.clone(), arrays, None, row.len());
            Body::Columns(whole.map_err(misfit)?)
        }
        _ => return Err(wrong()),
    };
    Ok(ReceivedRows {
        events: batch.with_body(body)?,
        places,
        times,
        sources,
    })
}

/// The rows of received events as columns of `schema`.
pub(crate) fn columns(received: &ReceivedRows, schema: &SchemaRef) -> Result<RecordBatch, Error> {
    let rows = received.rows();
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let whole = match received.events.body() {
            Body::Columns(body) => body.column_by_name(field.name()).cloned(),
            Body::Payload(_) => None,
        };
        let array = match (whole, &received.places) {
            (None, _) => new_null_array(field.data_type(), rows),
            (Some(array), None) => array,
            (Some(array), Some(places)) => take(&array, places, None).map_err(misfit)?,
        };
        arrays.push(match array.data_type() == field.data_type() {
            true => array,
            false => cast(&array, field.data_type()).map_err(misfit)?,
        });
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options).map_err(misfit)
}

fn misfit(e: arrow::error::ArrowError) -> Error {
    Error::new(Class::Permanent, "flow.misfit")
        .with("column", "")
        .caused_by(e)
}
