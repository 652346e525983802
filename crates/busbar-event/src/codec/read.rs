//! From bytes to a batch, trusting nothing.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayData};
use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, Decimal128Array, Int32Array,
    ListArray, MapArray, NullArray, PrimitiveArray, StringArray, StructArray, make_array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowNativeType, DataType, Decimal128Type, Field, Fields};
use arrow::error::ArrowError;
use arrow::ipc;
use bytes::Bytes;

use super::{
    CLIENT_DICTIONARY, CONTINUATION, HAS_CLIENT, HAS_KEY, HAS_TAGS, HEADER_BYTES, KIND_COLUMNS,
    KIND_PAYLOAD, TOPIC_DICTIONARY, VERSION, damaged, schema,
};
use crate::batch::Inner;
use crate::envelope::{Names, TAGS, Tags};
use crate::limits::{BODY_BYTES_MAX, BODY_ROWS_MAX, COLUMN_DEPTH_MAX};
use crate::{Batch, Body, Class, Error, Result, reshape, topic};

/// The batch of a body that [`encode`](super::encode) made. Shares the body's memory where that
/// is aligned.
///
/// Refuses what is not such a body, and says why; no input makes it panic.
pub fn decode(body: Bytes) -> Result<Batch> {
    if body.len() > BODY_BYTES_MAX {
        return Err(Error::new(Class::Permanent, "event.body-bytes")
            .with("bytes", body.len())
            .with("max", BODY_BYTES_MAX));
    }
    let [version, kind, present, 0, 0, 0, 0, 0, ..] = *body else {
        return Err(damaged("header"));
    };
    if version != VERSION {
        return Err(Error::new(Class::Permanent, "event.body-version")
            .with("version", version)
            .with("max", VERSION));
    }
    if present & !(HAS_KEY | HAS_TAGS | HAS_CLIENT) != 0 {
        return Err(damaged("header"));
    }
    let mut messages = Messages {
        body: Buffer::from(body),
        at: HEADER_BYTES,
    };
    let columns = match kind {
        KIND_PAYLOAD => None,
        KIND_COLUMNS => Some(messages.schema()?),
        _ => return Err(damaged("header")),
    };
    let topic_values = messages.dictionary(TOPIC_DICTIONARY)?;
    let client_values = match present & HAS_CLIENT != 0 {
        true => Some(messages.dictionary(CLIENT_DICTIONARY)?),
        false => None,
    };
    let metadata = messages.metadata()?;
    let message = ipc::root_as_message(&metadata)
        .map_err(|error| damaged("record batch metadata").caused_by(error))?;
    let data = messages.data(&message)?;
    let record = message
        .header_as_record_batch()
        .ok_or_else(|| damaged("no record batch"))?;
    let mut parts = Parts::new(&record, data)?;
    let rows = parts.rows;
    if rows > BODY_ROWS_MAX {
        return Err(reshape::too_large(rows));
    }
    messages.end()?;

    let topic_keys = parts.required::<i32>()?;
    let key = match present & HAS_KEY != 0 {
        true => Some(parts.text(rows)?),
        false => None,
    };
    let time = parts.required::<i64>()?;
    let tags = match present & HAS_TAGS != 0 {
        true => Some(Tags::from_map(&parts.map(TAGS.data_type(), rows, 0)?)?),
        false => None,
    };
    let client = match client_values {
        Some(values) => {
            let (keys, nulls) = parts.scalars::<i32>(rows)?;
            Some(Names {
                keys: Int32Array::try_new(keys, nulls).map_err(refuse)?,
                values,
            })
        }
        None => None,
    };
    let flags = parts.required::<u8>()?;
    let body = match &columns {
        None => Body::Payload(parts.payload()?),
        Some(fields) => Body::Columns(parts.columns(fields)?),
    };
    parts.end()?;

    let topics = topic_values.len() as i32;
    if topic_keys.iter().any(|key| !(0..topics).contains(key)) {
        return Err(damaged("topic keys"));
    }
    for value in topic_values.iter().flatten() {
        topic::check(value)?;
    }
    if let Some(names) = &client {
        let clients = names.values.len() as i32;
        if names
            .keys
            .iter()
            .flatten()
            .any(|key| !(0..clients).contains(&key))
        {
            return Err(damaged("client keys"));
        }
    }
    let record = OnceLock::new();
    Ok(Batch(Arc::new(Inner {
        topic_keys,
        topic_values,
        key,
        time,
        tags,
        client,
        flags,
        body,
        record,
    })))
}

fn refuse(error: ArrowError) -> Error {
    damaged("column").caused_by(error)
}

/// The encapsulated messages of a body, one after another.
struct Messages {
    body: Buffer,
    at: usize,
}

impl Messages {
    /// The metadata of the next message, which has not been looked at.
    fn metadata(&mut self) -> Result<Buffer> {
        let rest = &self.body[self.at..];
        let Some((prefix, rest)) = rest.split_first_chunk::<8>() else {
            return Err(damaged("message prefix"));
        };
        let [c0, c1, c2, c3, l0, l1, l2, l3] = *prefix;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if [c0, c1, c2, c3] != CONTINUATION || length > rest.len() {
            return Err(damaged("message prefix"));
        }
        let metadata = self.body.slice_with_length(self.at + 8, length);
        self.at += 8 + length;
        Ok(metadata)
    }

    /// The data of a message whose metadata was the last thing read.
    fn data(&mut self, message: &ipc::Message<'_>) -> Result<Buffer> {
        let length = usize::try_from(message.bodyLength()).unwrap_or(usize::MAX);
        if length > self.body.len() - self.at {
            return Err(damaged("message length"));
        }
        self.at += length;
        Ok(self.body.slice_with_length(self.at - length, length))
    }

    fn end(&self) -> Result<()> {
        if self.at == self.body.len() {
            Ok(())
        } else {
            Err(damaged("bytes after the end"))
        }
    }

    /// The typed columns of a schema message.
    fn schema(&mut self) -> Result<Fields> {
        thread_local! {
            /// The last schema read: the batches of one stream have the same columns.
            static LAST: RefCell<Option<(Vec<u8>, Fields)>> = const { RefCell::new(None) };
        }
        let metadata = self.metadata()?;
        LAST.with_borrow_mut(|last| {
            if let Some((bytes, fields)) = last
                && bytes[..] == metadata[..]
            {
                return Ok(fields.clone());
            }
            let message = ipc::root_as_message(&metadata)
                .map_err(|error| damaged("schema").caused_by(error))?;
            let schema = message
                .header_as_schema()
                .ok_or_else(|| damaged("no schema"))?;
            let fields = schema::columns(schema)?;
            *last = Some((metadata.to_vec(), fields.clone()));
            Ok(fields)
        })
    }

    /// The values of the dictionary with this id.
    fn dictionary(&mut self, id: i64) -> Result<StringArray> {
        let metadata = self.metadata()?;
        let message = ipc::root_as_message(&metadata)
            .map_err(|error| damaged("dictionary metadata").caused_by(error))?;
        let data = self.data(&message)?;
        let dictionary = message
            .header_as_dictionary_batch()
            .ok_or_else(|| damaged("no dictionary"))?;
        let batch = dictionary.data().ok_or_else(|| damaged("no dictionary"))?;
        if dictionary.id() != id || dictionary.isDelta() {
            return Err(damaged("dictionary"));
        }
        let mut parts = Parts::new(&batch, data)?;
        if parts.rows > BODY_ROWS_MAX {
            return Err(reshape::too_large(parts.rows));
        }
        let values = parts.text(parts.rows)?;
        parts.end()?;
        if values.null_count() > 0 {
            return Err(damaged("dictionary"));
        }
        Ok(values)
    }
}

/// The nodes and buffers of one message, taken in order.
struct Parts<'a> {
    rows: usize,
    nodes: flatbuffers::VectorIter<'a, ipc::FieldNode>,
    places: flatbuffers::VectorIter<'a, ipc::Buffer>,
    data: Buffer,
}

impl<'a> Parts<'a> {
    fn new(batch: &ipc::RecordBatch<'a>, data: Buffer) -> Result<Parts<'a>> {
        if batch.compression().is_some() {
            return Err(damaged("compression"));
        }
        Ok(Parts {
            rows: usize::try_from(batch.length()).map_err(|_| damaged("row count"))?,
            nodes: batch.nodes().ok_or_else(|| damaged("nodes"))?.iter(),
            places: batch.buffers().ok_or_else(|| damaged("buffers"))?.iter(),
            data,
        })
    }

    fn end(&mut self) -> Result<()> {
        match (self.nodes.next(), self.places.next()) {
            (None, None) => Ok(()),
            _ => Err(damaged("columns after the last")),
        }
    }

    /// The next buffer, which must have at least this many bytes.
    fn buffer(&mut self, bytes_min: usize) -> Result<Buffer> {
        let place = self.places.next().ok_or_else(|| damaged("buffers"))?;
        let from = usize::try_from(place.offset()).map_err(|_| damaged("buffer place"))?;
        let bytes = usize::try_from(place.length()).map_err(|_| damaged("buffer place"))?;
        if from > self.data.len() || bytes > self.data.len() - from || bytes < bytes_min {
            return Err(damaged("buffer place"));
        }
        Ok(self.data.slice_with_length(from, bytes))
    }

    /// The next node, which must have this many rows; whether it says that some are null.
    fn node(&mut self, rows: usize) -> Result<bool> {
        let node = self.nodes.next().ok_or_else(|| damaged("nodes"))?;
        if usize::try_from(node.length()) != Ok(rows) {
            return Err(damaged("column length"));
        }
        Ok(node.null_count() != 0)
    }

    /// The next node and its validity. The nulls are counted, not believed.
    fn validity(&mut self, rows: usize) -> Result<Option<NullBuffer>> {
        if !self.node(rows)? {
            self.buffer(0)?;
            return Ok(None);
        }
        let nulls = NullBuffer::new(BooleanBuffer::new(self.buffer(rows.div_ceil(8))?, 0, rows));
        Ok((nulls.null_count() > 0).then_some(nulls))
    }

    fn values<T: ArrowNativeType>(&mut self, rows: usize) -> Result<ScalarBuffer<T>> {
        let bytes = rows
            .checked_mul(size_of::<T>())
            .ok_or_else(|| damaged("column length"))?;
        let mut buffer = self.buffer(bytes)?;
        if buffer.as_ptr().align_offset(align_of::<T>()) != 0 {
            buffer = Buffer::from_slice_ref(&buffer[..bytes]);
        }
        Ok(ScalarBuffer::new(buffer, 0, rows))
    }

    fn scalars<T: ArrowNativeType>(
        &mut self,
        rows: usize,
    ) -> Result<(ScalarBuffer<T>, Option<NullBuffer>)> {
        let nulls = self.validity(rows)?;
        Ok((self.values(rows)?, nulls))
    }

    /// A column in which every row has a value.
    fn required<T: ArrowNativeType>(&mut self) -> Result<ScalarBuffer<T>> {
        match self.scalars(self.rows)? {
            (values, None) => Ok(values),
            _ => Err(damaged("nulls")),
        }
    }

    /// Offsets that do not decrease, and the last of them.
    fn offsets(&mut self, rows: usize) -> Result<(OffsetBuffer<i32>, usize)> {
        let offsets = if rows == 0 {
            self.buffer(0)?;
            return Ok((OffsetBuffer::new_empty(), 0));
        } else {
            self.values::<i32>(
                rows.checked_add(1)
                    .ok_or_else(|| damaged("column length"))?,
            )?
        };
        let mut last = 0;
        let mut rising = true;
        for offset in offsets.iter() {
            rising &= *offset >= last;
            last = *offset;
        }
        if !rising {
            return Err(damaged("offsets"));
        }
        // SAFETY: there is at least one offset, all were just seen to be at least 0 and at least
        // the one before.
        Ok((
            unsafe { OffsetBuffer::new_unchecked(offsets) },
            last as usize,
        ))
    }

    fn text(&mut self, rows: usize) -> Result<StringArray> {
        let nulls = self.validity(rows)?;
        let (offsets, bytes) = self.offsets(rows)?;
        StringArray::try_new(offsets, self.buffer(bytes)?, nulls).map_err(refuse)
    }

    fn binary(&mut self, rows: usize) -> Result<BinaryArray> {
        let nulls = self.validity(rows)?;
        let (offsets, bytes) = self.offsets(rows)?;
        BinaryArray::try_new(offsets, self.buffer(bytes)?, nulls).map_err(refuse)
    }

    fn payload(&mut self) -> Result<BinaryArray> {
        let payload = self.binary(self.rows)?;
        if payload.null_count() > 0 {
            Err(damaged("nulls"))
        } else {
            Ok(payload)
        }
    }

    fn columns(&mut self, fields: &Fields) -> Result<StructArray> {
        let columns = self.structure(fields, self.rows, 0)?;
        if columns.null_count() > 0 {
            Err(damaged("nulls"))
        } else {
            Ok(columns)
        }
    }

    fn structure(&mut self, fields: &Fields, rows: usize, depth: usize) -> Result<StructArray> {
        let nulls = self.validity(rows)?;
        let columns = fields
            .iter()
            .map(|field| self.column(field.data_type(), rows, depth + 1))
            .collect::<Result<Vec<_>>>()?;
        StructArray::try_new_with_length(fields.clone(), columns, nulls, rows).map_err(refuse)
    }

    fn map(&mut self, data_type: &DataType, rows: usize, depth: usize) -> Result<MapArray> {
        let DataType::Map(entries, sorted) = data_type else {
            return Err(damaged("map"));
        };
        let DataType::Struct(fields) = entries.data_type() else {
            return Err(damaged("map"));
        };
        let nulls = self.validity(rows)?;
        let (offsets, pairs) = self.offsets(rows)?;
        let pairs = self.structure(fields, pairs, depth + 1)?;
        MapArray::try_new(entries.clone(), offsets, pairs, nulls, *sorted).map_err(refuse)
    }

    fn list(&mut self, item: &Arc<Field>, rows: usize, depth: usize) -> Result<ListArray> {
        let nulls = self.validity(rows)?;
        let (offsets, items) = self.offsets(rows)?;
        let items = self.column(item.data_type(), items, depth + 1)?;
        ListArray::try_new(item.clone(), offsets, items, nulls).map_err(refuse)
    }

    fn column(&mut self, data_type: &DataType, rows: usize, depth: usize) -> Result<ArrayRef> {
        if depth > 2 * COLUMN_DEPTH_MAX {
            return Err(damaged("nesting"));
        }
        Ok(match data_type {
            DataType::Null => {
                self.node(rows)?;
                Arc::new(NullArray::new(rows))
            }
            DataType::Boolean => {
                let nulls = self.validity(rows)?;
                let bits = BooleanBuffer::new(self.buffer(rows.div_ceil(8))?, 0, rows);
                Arc::new(BooleanArray::new(bits, nulls))
            }
            DataType::Utf8 => Arc::new(self.text(rows)?),
            DataType::Binary => Arc::new(self.binary(rows)?),
            DataType::Struct(fields) => Arc::new(self.structure(fields, rows, depth)?),
            DataType::List(item) => Arc::new(self.list(item, rows, depth)?),
            DataType::Map(..) => Arc::new(self.map(data_type, rows, depth)?),
            DataType::Decimal128(precision, scale) => {
                let decimals: PrimitiveArray<Decimal128Type> = self.primitive(rows)?;
                let decimals: Decimal128Array = decimals
                    .with_precision_and_scale(*precision, *scale)
                    .map_err(refuse)?;
                Arc::new(decimals)
            }
            fixed => self.fixed(fixed, rows)?,
        })
    }

    fn primitive<T: ArrowPrimitiveType>(&mut self, rows: usize) -> Result<PrimitiveArray<T>> {
        let (values, nulls) = self.scalars::<T::Native>(rows)?;
        PrimitiveArray::try_new(values, nulls).map_err(refuse)
    }

    /// A column of values of 1, 2, 4 or 8 bytes, any bits of which are a value.
    fn fixed(&mut self, data_type: &DataType, rows: usize) -> Result<ArrayRef> {
        let nulls = self.validity(rows)?;
        let values = match data_type.primitive_width() {
            Some(1) => self.values::<u8>(rows)?.into_inner(),
            Some(2) => self.values::<u16>(rows)?.into_inner(),
            Some(4) => self.values::<u32>(rows)?.into_inner(),
            Some(8) => self.values::<u64>(rows)?.into_inner(),
            _ => return Err(damaged("column type")),
        };
        let data = ArrayData::builder(data_type.clone())
            .len(rows)
            .nulls(nulls)
            .add_buffer(values)
            .build()
            .map_err(refuse)?;
        Ok(make_array(data))
    }
}
