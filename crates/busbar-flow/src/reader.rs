//! Events as the rows that a flow's steps see: only the columns they need are decoded.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StructArray, UInt32Array,
    new_null_array,
};
use arrow::compute::{CastOptions, cast_with_options, take};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use busbar_event::format::{Decoder, FormatSpec, PayloadTags, Tagged, source_name};
use busbar_event::{Batch, Body, Class, Error, payload_schema};

/// What is known of a stream's events.
#[derive(Clone, Debug)]
pub struct Input {
    /// How payloads are written.
    pub format: FormatSpec,
    /// What is in them; none for raw payloads.
    pub columns: Option<SchemaRef>,
    /// Where in them more tags are.
    pub tags: Option<String>,
}

/// The column of an event's own payload, for steps that read it beside, or in place of, its columns. It is no part of
/// the relation that SQL sees; its place is behind the last one of that.
pub(crate) const PAYLOAD: &str = "$payload";

/// In the metadata of columns that a plug-in has made: what the payload is. These columns are not a table's unless it names
/// them.
pub(crate) const BODY: &str = "busbar.body";
/// The payload is the column `payload`, as it is.
pub(crate) const BODY_PAYLOAD: &str = "payload";
/// The payload is made of the columns.
pub(crate) const BODY_COLUMNS: &str = "columns";

/// The parts of the envelope that steps see, in their order.
pub(crate) const ENVELOPE: [&str; 4] = ["topic", "key", "time", "tags"];

impl Input {
    /// The columns that steps see: `topic`, `key`, `time`, `tags`, then those of the payload or `payload`.
    pub fn relation(&self) -> SchemaRef {
        let envelope = payload_schema();
        let find = |name: &str| envelope.fields().iter().find(|f| f.name() == name).cloned();
        let mut fields: Vec<FieldRef> = ENVELOPE.iter().filter_map(|name| find(name)).collect();
        match &self.columns {
            Some(columns) => {
                let own = |f: &&FieldRef| !ENVELOPE.contains(&f.name().as_str());
                fields.extend(columns.fields().iter().filter(own).cloned());
            }
            None => fields.extend(find("payload")),
        }
        Arc::new(Schema::new(fields))
    }
}

/// Reads some columns of a stream's events.
pub(crate) struct Reader {
    schema: SchemaRef,
    /// Where each column comes from.
    from: Vec<From>,
    /// The payload's columns that are read, for payloads and for typed bodies.
    columns: SchemaRef,
    decoder: Option<Decoder>,
    tags: Option<PayloadTags>,
}

#[derive(Clone, Copy, Debug)]
enum From {
    Envelope(&'static str),
    Payload,
    Column(usize),
}

/// Rows, and the events they stand for.
pub(crate) struct ReadRows {
    pub rows: RecordBatch,
    /// The event of each row; none if row `i` is event `i`.
    pub events: Option<UInt32Array>,
    /// Events that could not be read.
    pub rejected: Vec<(usize, Error)>,
}

impl Reader {
    /// A reader of the columns at these places of the relation; the place behind its last is [`PAYLOAD`].
    pub fn new(input: &Input, places: &[usize]) -> Result<Reader, Error> {
        let relation = input.relation();
        let mut from = Vec::new();
        let mut projection = Vec::new();
        let mut fields: Vec<FieldRef> = Vec::with_capacity(places.len());
        for place in places {
            let Some(field) = relation.fields().get(*place) else {
                fields.push(Arc::new(Field::new(PAYLOAD, DataType::Binary, false)));
                from.push(From::Payload);
                continue;
            };
            let name = field.name();
            fields.push(Arc::clone(field));
            from.push(match ENVELOPE.iter().find(|e| *e == name) {
                Some(envelope) => From::Envelope(envelope),
                None => match input.columns.as_ref().map(|c| c.index_of(name)) {
                    Some(Ok(index)) => {
                        projection.push(index);
                        From::Column(projection.len() - 1)
                    }
                    _ => From::Payload,
                },
            });
        }
        let schema = Arc::new(Schema::new(fields));
        let (columns, decoder) = match &input.columns {
            Some(columns) if !projection.is_empty() => (
                Arc::new(columns.project(&projection).map_err(misfit)?),
                Some(Decoder::new(&input.format, columns, &projection)?),
            ),
            _ => (Arc::new(Schema::empty()), None),
        };
        Ok(Reader {
            schema,
            from,
            columns,
            decoder,
            tags: match &input.tags {
                Some(path) => Some(PayloadTags::new(&input.format, path)?),
                None => None,
            },
        })
    }

    /// Events with the tags of their payloads, and those whose tags cannot be read.
    pub fn tag(&mut self, events: Batch) -> Tagged {
        match &mut self.tags {
            Some(tags) => tags.apply(&events),
            None => Tagged {
                events,
                rejected: Vec::new(),
            },
        }
    }

    /// The columns that are read.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// What came of a single event that cannot be read.
    pub fn rejected(&self, cause: Error) -> ReadRows {
        ReadRows {
            rows: RecordBatch::new_empty(Arc::clone(&self.schema)),
            events: Some(UInt32Array::from(Vec::<u32>::new())),
            rejected: vec![(0, cause)],
        }
    }

    /// Reads a batch.
    pub fn read(&mut self, events: &Batch) -> Result<ReadRows, Error> {
        let (columns, good, rejected) = match (&mut self.decoder, events.body()) {
            (None, _) => (None, None, Vec::new()),
            (Some(decoder), Body::Payload(payloads)) => {
                let decoded = decoder.decode(payloads);
                let rejected = decoded
                    .rejected
                    .into_iter()
                    .map(|r| (r.row, r.cause))
                    .collect();
                (Some(decoded.columns), decoded.rows, rejected)
            }
            (Some(_), Body::Columns(body)) => typed(&self.columns, body)?,
        };
        let rows = good.as_ref().map_or(events.rows(), UInt32Array::len);
        let record = events.record();
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.from.len());
        for from in &self.from {
            let whole: ArrayRef = match from {
                From::Column(index) => {
                    if let Some(columns) = &columns {
                        arrays.push(Arc::clone(columns.column(*index)));
                    }
                    continue;
                }
                From::Envelope(name) => record.column_by_name(name).cloned().ok_or_else(|| {
                    Error::new(Class::Permanent, "flow.misfit").with("column", name)
                })?,
                From::Payload => Arc::new(events.payloads().into_owned()),
            };
            arrays.push(match &good {
                None => whole,
                Some(good) => take(&whole, good, None).map_err(misfit)?,
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(misfit)?;
        Ok(ReadRows {
            rows,
            events: good,
            rejected,
        })
    }
}

fn misfit(e: arrow::error::ArrowError) -> Error {
    Error::new(Class::Permanent, "flow.misfit")
        .with("column", "")
        .caused_by(e)
}

type Typed = (
    Option<RecordBatch>,
    Option<UInt32Array>,
    Vec<(usize, Error)>,
);

/// Columns of a typed body: by name, cast where the stream's file says another type than the flow that wrote
/// them. A value that does not fit rejects its row.
fn typed(columns: &SchemaRef, body: &StructArray) -> Result<Typed, Error> {
    let mut arrays = Vec::with_capacity(columns.fields().len());
    let mut bad: Vec<(usize, Error)> = Vec::new();
    for field in columns.fields() {
        let array = match body.column_by_name(source_name(field)) {
            None => new_null_array(field.data_type(), body.len()),
            Some(array) if array.data_type() == field.data_type() => Arc::clone(array),
            Some(array) => {
                let cast = cast_safely(array, field.data_type()).map_err(misfit)?;
                for row in 0..cast.len() {
                    if cast.is_null(row) && array.is_valid(row) {
                        let error = Error::new(Class::Permanent, "flow.cast")
                            .with("column", field.name())
                            .with("from", array.data_type())
                            .with("to", field.data_type());
                        bad.push((row, error));
                    }
                }
                cast
            }
        };
        if !field.is_nullable() && array.null_count() > 0 {
            for row in (0..array.len()).filter(|row| array.is_null(*row)) {
                let error = Error::new(Class::Permanent, "flow.null").with("column", field.name());
                bad.push((row, error));
            }
        }
        arrays.push(array);
    }
    bad.sort_by_key(|(row, _)| *row);
    bad.dedup_by_key(|(row, _)| *row);
    let good = (!bad.is_empty()).then(|| {
        let mut skip = bad.iter().map(|(row, _)| *row).peekable();
        (0..body.len())
            .filter(|row| skip.next_if_eq(row).is_none())
            .map(|row| row as u32)
            .collect()
    });
    if let Some(good) = &good {
        for array in &mut arrays {
            *array = take(array, good, None).map_err(misfit)?;
        }
    }
    let rows = good.as_ref().map_or(body.len(), UInt32Array::len);
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let record =
        RecordBatch::try_new_with_options(Arc::clone(columns), arrays, &options).map_err(misfit)?;
    Ok((Some(record), good, bad))
}

fn cast_safely(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, arrow::error::ArrowError> {
    cast_with_options(
        array,
        to,
        &CastOptions {
            safe: true,
            ..Default::default()
        },
    )
}

/// An array in place of one with dictionary or view encoding, for those who want plain text.
pub(crate) fn plain(array: &ArrayRef) -> Result<ArrayRef, Error> {
    let to = match array.data_type() {
        DataType::Dictionary(_, value) => match value.as_ref() {
            DataType::Utf8View => DataType::Utf8,
            other => other.clone(),
        },
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        _ => return Ok(Arc::clone(array)),
    };
    cast_with_options(array, &to, &CastOptions::default()).map_err(misfit)
}

/// Whether a column is of the type its name means in the envelope.
pub(crate) fn is_envelope(name: &str, data_type: &DataType) -> bool {
    match name {
        "topic" | "key" => match data_type {
            DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => true,
            DataType::Dictionary(_, value) => is_envelope(name, value),
            _ => false,
        },
        "time" => matches!(data_type, DataType::Timestamp(..)),
        "tags" => matches!(data_type, DataType::Map(..)),
        _ => false,
    }
}

/// The text of a column that is some kind of text.
pub(crate) fn text(array: &ArrayRef) -> Result<arrow::array::StringArray, Error> {
    let array = plain(array)?;
    match array.as_string_opt::<i32>() {
        Some(text) => Ok(text.clone()),
        None => {
            let array = cast_with_options(&array, &DataType::Utf8, &CastOptions::default())
                .map_err(misfit)?;
            Ok(array.as_string::<i32>().clone())
        }
    }
}
