//! From a batch to its bytes.

use std::cell::RefCell;

use arrow::array::{Array, AsArray, StructArray};
use arrow::buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowNativeType, DataType, Fields};
use arrow::ipc;
use bytes::Bytes;
use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::{
    CLIENT_DICTIONARY, CONTINUATION, HAS_CLIENT, HAS_KEY, HAS_TAGS, HEADER_BYTES, KIND_COLUMNS,
    KIND_PAYLOAD, TOPIC_DICTIONARY, VERSION, schema,
};
use crate::envelope::Names;
use crate::reshape::compact;
use crate::{Batch, Body};

/// Rows from which on buffers are aligned to cache lines; below, the padding would outweigh them.
const WIDE_ALIGN_ROWS: usize = 256;

/// The bytes of a batch, in memory aligned to 64 bytes. Copies each column once.
pub fn encode(batch: &Batch) -> Bytes {
    let inner = &*batch.0;
    let mut present = 0;
    for (there, bit) in [
        (inner.key.is_some(), HAS_KEY),
        (inner.tags.is_some(), HAS_TAGS),
        (inner.client.is_some(), HAS_CLIENT),
    ] {
        present |= if there { bit } else { 0 };
    }
    let align = if batch.rows() < WIDE_ALIGN_ROWS {
        16
    } else {
        64
    };
    let mut out = MutableBuffer::with_capacity(1024 + batch.bytes() + batch.bytes() / 32);
    let kind = match &inner.body {
        Body::Payload(_) => KIND_PAYLOAD,
        Body::Columns(_) => KIND_COLUMNS,
    };
    out.extend_from_slice(&[VERSION, kind, present, 0, 0, 0, 0, 0]);
    debug_assert_eq!(out.len(), HEADER_BYTES);
    if let Body::Columns(columns) = &inner.body {
        write_schema(&mut out, columns.fields(), present, align);
    }

    let (topic_keys, topic_values) = if inner.topic_values.len() > batch.rows() {
        compact(inner.topic_keys.to_vec(), &inner.topic_values)
    } else {
        (inner.topic_keys.clone(), inner.topic_values.clone())
    };
    let mut parts = Parts::new(align);
    parts.column(&topic_values);
    parts.write(&mut out, topic_values.len(), Some(TOPIC_DICTIONARY));
    let client = inner
        .client
        .as_ref()
        .map(|names| compact_names(names, batch.rows()));
    if let Some(names) = &client {
        parts.clear();
        parts.column(&names.values);
        parts.write(&mut out, names.values.len(), Some(CLIENT_DICTIONARY));
    }

    parts.clear();
    parts.scalars(topic_keys, None);
    if let Some(key) = &inner.key {
        parts.column(key);
    }
    parts.scalars(inner.time.clone(), None);
    if let Some(tags) = &inner.tags {
        parts.column(&tags.to_map());
    }
    if let Some(names) = &client {
        parts.scalars(names.keys.values().clone(), names.keys.nulls());
    }
    parts.scalars(inner.flags.clone(), None);
    match &inner.body {
        Body::Payload(payload) => parts.column(payload),
        Body::Columns(columns) => parts.column(columns),
    }
    parts.write(&mut out, batch.rows(), None);
    Bytes::from_owner(Aligned(out))
}

fn compact_names(names: &Names, rows: usize) -> Names {
    if names.values.len() <= rows {
        return names.clone();
    }
    // A null row's key may be any number: it is made one that is there.
    let keys: Vec<i32> = (0..rows)
        .map(|row| {
            if names.keys.is_valid(row) {
                names.keys.value(row)
            } else {
                0
            }
        })
        .collect();
    let (keys, values) = compact(keys, &names.values);
    Names {
        keys: arrow::array::Int32Array::new(keys, names.keys.nulls().cloned()),
        values,
    }
}

thread_local! {
    /// Building metadata would otherwise allocate for each message.
    static BUILDER: RefCell<FlatBufferBuilder<'static>> = RefCell::new(FlatBufferBuilder::new());
    /// The last schema written: batches of one flow have the same columns.
    static SCHEMA: RefCell<Option<(Fields, u8, Vec<u8>)>> = const { RefCell::new(None) };
}

fn write_schema(out: &mut MutableBuffer, columns: &Fields, present: u8, align: usize) {
    SCHEMA.with_borrow_mut(|last| {
        let metadata = match last {
            Some((fields, bits, bytes)) if *bits == present && fields == columns => bytes,
            _ => {
                let bytes = schema::to_message(columns, present);
                &mut last.insert((columns.clone(), present, bytes)).2
            }
        };
        write_metadata(out, metadata, align);
    });
}

fn write_metadata(out: &mut MutableBuffer, metadata: &[u8], align: usize) {
    let end = (out.len() + 8 + metadata.len()).next_multiple_of(align);
    let padded = end - out.len() - 8;
    out.extend_from_slice(&CONTINUATION);
    out.extend_from_slice(&(padded as u32).to_le_bytes());
    out.extend_from_slice(metadata);
    out.extend_zeros(padded - metadata.len());
}

/// The nodes and buffers of one message, collected before they are written.
struct Parts {
    align: usize,
    nodes: Vec<ipc::FieldNode>,
    places: Vec<ipc::Buffer>,
    buffers: Vec<Buffer>,
    bytes: usize,
}

impl Parts {
    fn new(align: usize) -> Parts {
        Parts {
            align,
            nodes: Vec::with_capacity(16),
            places: Vec::with_capacity(32),
            buffers: Vec::with_capacity(32),
            bytes: 0,
        }
    }

    fn clear(&mut self) {
        self.nodes.clear();
        self.places.clear();
        self.buffers.clear();
        self.bytes = 0;
    }

    fn buffer(&mut self, buffer: Buffer) {
        self.places
            .push(ipc::Buffer::new(self.bytes as i64, buffer.len() as i64));
        self.bytes = (self.bytes + buffer.len()).next_multiple_of(self.align);
        self.buffers.push(buffer);
    }

    fn no_buffer(&mut self) {
        self.places.push(ipc::Buffer::new(self.bytes as i64, 0));
    }

    fn node(&mut self, rows: usize, nulls: Option<&NullBuffer>) {
        let null_count = nulls.map_or(0, NullBuffer::null_count);
        self.nodes
            .push(ipc::FieldNode::new(rows as i64, null_count as i64));
        match nulls {
            Some(nulls) if null_count > 0 => self.buffer(bits(nulls.inner())),
            _ => self.no_buffer(),
        }
    }

    fn scalars<T: ArrowNativeType>(&mut self, values: ScalarBuffer<T>, nulls: Option<&NullBuffer>) {
        self.node(values.len(), nulls);
        self.buffer(values.into_inner());
    }

    /// Offsets that begin with 0, and the range of the values that they are of.
    fn offsets(&mut self, offsets: &ScalarBuffer<i32>) -> (usize, usize) {
        let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
        if first == 0 {
            self.buffer(offsets.inner().clone());
        } else {
            let moved: Vec<i32> = offsets.iter().map(|offset| offset - first).collect();
            self.buffer(Buffer::from_vec(moved));
        }
        (first as usize, (last - first) as usize)
    }

    fn column(&mut self, array: &dyn Array) {
        let nulls = array.nulls();
        match array.data_type() {
            DataType::Null => {
                // Arrow gives such a column a node and no buffer.
                self.nodes
                    .push(ipc::FieldNode::new(array.len() as i64, array.len() as i64));
            }
            DataType::Boolean => {
                self.node(array.len(), nulls);
                self.buffer(bits(array.as_boolean().values()));
            }
            DataType::Utf8 => {
                let text = array.as_string::<i32>();
                self.node(text.len(), nulls);
                let (from, bytes) = self.offsets(text.offsets().inner());
                self.buffer(text.values().slice_with_length(from, bytes));
            }
            DataType::Binary => {
                let binary = array.as_binary::<i32>();
                self.node(binary.len(), nulls);
                let (from, bytes) = self.offsets(binary.offsets().inner());
                self.buffer(binary.values().slice_with_length(from, bytes));
            }
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                self.node(list.len(), nulls);
                let (from, rows) = self.offsets(list.offsets().inner());
                self.column(&list.values().slice(from, rows));
            }
            DataType::Map(..) => {
                let map = array.as_map();
                self.node(map.len(), nulls);
                let (from, rows) = self.offsets(map.offsets().inner());
                self.structure(&map.entries().slice(from, rows));
            }
            DataType::Struct(_) => self.structure(array.as_struct()),
            fixed => {
                // All other types that `columns::plain` lets into a batch have values of one width.
                let width = fixed.primitive_width().unwrap_or(0);
                let data = array.to_data();
                self.node(array.len(), nulls);
                let values =
                    data.buffers()[0].slice_with_length(data.offset() * width, data.len() * width);
                self.buffer(values);
            }
        }
    }

    fn structure(&mut self, columns: &StructArray) {
        self.node(columns.len(), columns.nulls());
        for column in columns.columns() {
            self.column(column);
        }
    }

    /// Writes the message: metadata, then the buffers. With a dictionary's id it is that
    /// dictionary's message, else a record batch's.
    fn write(&self, out: &mut MutableBuffer, rows: usize, dictionary: Option<i64>) {
        BUILDER.with_borrow_mut(|builder| {
            builder.reset();
            let nodes = builder.create_vector(&self.nodes);
            let places = builder.create_vector(&self.places);
            let batch = ipc::RecordBatch::create(
                builder,
                &ipc::RecordBatchArgs {
                    length: rows as i64,
                    nodes: Some(nodes),
                    buffers: Some(places),
                    compression: None,
                    variadicBufferCounts: None,
                },
            );
            let (header_type, header) = match dictionary {
                None => (ipc::MessageHeader::RecordBatch, batch.as_union_value()),
                Some(id) => {
                    let args = ipc::DictionaryBatchArgs {
                        id,
                        data: Some(batch),
                        isDelta: false,
                    };
                    let dictionary: WIPOffset<_> = ipc::DictionaryBatch::create(builder, &args);
                    (
                        ipc::MessageHeader::DictionaryBatch,
                        dictionary.as_union_value(),
                    )
                }
            };
            let message = ipc::Message::create(
                builder,
                &ipc::MessageArgs {
                    version: ipc::MetadataVersion::V5,
                    header_type,
                    header: Some(header),
                    bodyLength: self.bytes as i64,
                    custom_metadata: None,
                },
            );
            builder.finish(message, None);
            write_metadata(out, builder.finished_data(), self.align);
        });
        let begin = out.len();
        let present = self.places.iter().filter(|place| place.length() > 0);
        let buffers = self.buffers.iter().filter(|buffer| !buffer.is_empty());
        for (place, buffer) in present.zip(buffers) {
            out.extend_zeros(begin + place.offset() as usize - out.len());
            out.extend_from_slice(buffer.as_slice());
        }
        out.extend_zeros(begin + self.bytes - out.len());
    }
}

/// Memory aligned as Arrow likes it, shared as bytes.
struct Aligned(MutableBuffer);

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

/// A bitmap that begins at a byte.
fn bits(bits: &BooleanBuffer) -> Buffer {
    if bits.offset().is_multiple_of(8) {
        bits.inner()
            .slice_with_length(bits.offset() / 8, bits.len().div_ceil(8))
    } else {
        bits.sliced()
    }
}
