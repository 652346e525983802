//! The columns that every batch has whatever its payloads are, as Arrow sees them.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, DictionaryArray, Int32Array, MapArray, StringArray, StructArray,
    TimestampMicrosecondArray, UInt8Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Int32Type, Schema, SchemaRef, TimeUnit};

use crate::{Class, Error, Result};

/// The envelope of a batch: all that is known of its events but what they say.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// The topic of each event.
    pub topic: DictionaryArray<Int32Type>,
    /// The key of each event, if any has one.
    pub key: Option<StringArray>,
    /// When each event happened, in microseconds since 1970, UTC.
    pub time: TimestampMicrosecondArray,
    /// Names and values beside each event, if any has some.
    pub tags: Option<MapArray>,
    /// Who published each event, if that is known.
    pub client: Option<DictionaryArray<Int32Type>>,
    /// The [`Flags`](crate::Flags) of each event.
    pub flags: UInt8Array,
}

impl Envelope {
    /// An envelope of topics and times only.
    pub fn new(topics: &StringArray, times: Vec<i64>) -> Envelope {
        let flags = UInt8Array::from(vec![0; times.len()]);
        Envelope {
            topic: dictionary(topics),
            key: None,
            time: TimestampMicrosecondArray::from(times).with_timezone("UTC"),
            tags: None,
            client: None,
            flags,
        }
    }
}

/// Numbers the distinct values of a column in order of their first appearance. Nulls stay null.
pub fn dictionary(values: &StringArray) -> DictionaryArray<Int32Type> {
    let mut ids: HashMap<&str, i32, foldhash::fast::RandomState> = HashMap::default();
    let mut distinct = Vec::new();
    let keys: Int32Array = values
        .iter()
        .map(|value| {
            value.map(|value| {
                *ids.entry(value).or_insert_with(|| {
                    distinct.push(value);
                    distinct.len() as i32 - 1
                })
            })
        })
        .collect();
    DictionaryArray::new(keys, Arc::new(StringArray::from(distinct)))
}

/// Tags as plain buffers, quicker to walk than an Arrow map.
#[derive(Debug, Clone)]
pub(crate) struct Tags {
    pub offsets: OffsetBuffer<i32>,
    pub nulls: Option<NullBuffer>,
    pub names: StringArray,
    pub values: StringArray,
}

impl Tags {
    pub fn from_map(map: &MapArray) -> Result<Tags> {
        let entries = map.entries();
        let column = |index: usize| {
            entries
                .column(index)
                .as_any()
                .downcast_ref::<StringArray>()
                .cloned()
                .ok_or_else(|| {
                    Error::new(Class::Permanent, "event.batch-column")
                        .with("column", "tags")
                        .with("type", map.data_type())
                })
        };
        Ok(Tags {
            offsets: map.offsets().clone(),
            nulls: map.nulls().cloned(),
            names: column(0)?,
            values: column(1)?,
        })
    }

    pub fn to_map(&self) -> MapArray {
        let DataType::Map(entries, sorted) = TAGS.data_type() else {
            unreachable!("tags are a map")
        };
        let DataType::Struct(fields) = entries.data_type() else {
            unreachable!("of a struct")
        };
        let columns: Vec<Arc<dyn Array>> =
            vec![Arc::new(self.names.clone()), Arc::new(self.values.clone())];
        // No tags are null, whether the others of a batch have some or not.
        let some = self.offsets.windows(2).map(|ends| ends[0] < ends[1]);
        let nulls = NullBuffer::union(self.nulls.as_ref(), Some(&NullBuffer::from_iter(some)));
        let pairs = StructArray::new(fields.clone(), columns, None);
        MapArray::new(entries.clone(), self.offsets.clone(), pairs, nulls, *sorted)
    }

    pub fn slice(&self, offset: usize, rows: usize) -> Tags {
        Tags {
            offsets: self.offsets.slice(offset, rows),
            nulls: self.nulls.as_ref().map(|nulls| nulls.slice(offset, rows)),
            names: self.names.clone(),
            values: self.values.clone(),
        }
    }

    pub fn range(&self, row: usize) -> std::ops::Range<usize> {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return 0..0;
        }
        self.offsets[row] as usize..self.offsets[row + 1] as usize
    }

    pub fn bytes(&self) -> usize {
        let (from, to) = (
            self.offsets[0] as usize,
            self.offsets[self.offsets.len() - 1] as usize,
        );
        let text = |column: &StringArray| {
            (column.value_offsets()[to] - column.value_offsets()[from]) as usize + 4 * (to - from)
        };
        text(&self.names) + text(&self.values) + 4 * self.offsets.len()
    }
}

/// A dictionary column whose rows may be null.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub keys: Int32Array,
    pub values: StringArray,
}

fn dictionary_type() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

pub(crate) static TOPIC: LazyLock<FieldRef> =
    LazyLock::new(|| Arc::new(Field::new("topic", dictionary_type(), false)));
pub(crate) static KEY: LazyLock<FieldRef> =
    LazyLock::new(|| Arc::new(Field::new("key", DataType::Utf8, true)));
pub(crate) static TIME: LazyLock<FieldRef> = LazyLock::new(|| {
    Arc::new(Field::new(
        "time",
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        false,
    ))
});
pub(crate) static TAGS: LazyLock<FieldRef> = LazyLock::new(|| {
    let pair = Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Utf8, true),
    ]);
    let entries = Field::new("entries", DataType::Struct(pair), false);
    Arc::new(Field::new(
        "tags",
        DataType::Map(Arc::new(entries), false),
        true,
    ))
});
pub(crate) static CLIENT: LazyLock<FieldRef> =
    LazyLock::new(|| Arc::new(Field::new("client", dictionary_type(), true)));
pub(crate) static FLAGS: LazyLock<FieldRef> =
    LazyLock::new(|| Arc::new(Field::new("flags", DataType::UInt8, false)));
pub(crate) static PAYLOAD: LazyLock<FieldRef> =
    LazyLock::new(|| Arc::new(Field::new("payload", DataType::Binary, false)));

/// The schema of a batch whose body is this field, `payload` or `value`.
fn schema_with(body: FieldRef) -> SchemaRef {
    let fields: Vec<FieldRef> = [&TOPIC, &KEY, &TIME, &TAGS, &CLIENT, &FLAGS]
        .into_iter()
        .map(|field| FieldRef::clone(field))
        .chain([body])
        .collect();
    Arc::new(Schema::new(fields))
}

/// The schema of a batch whose payloads are as they came.
pub fn payload_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| schema_with(PAYLOAD.clone()));
    SCHEMA.clone()
}

/// The schema of a batch with typed columns.
pub fn columns_schema(columns: &Fields) -> SchemaRef {
    let value = Field::new("value", DataType::Struct(columns.clone()), false);
    schema_with(Arc::new(value))
}

/// A column of text that has no value in any row.
pub(crate) fn no_text(rows: usize) -> StringArray {
    StringArray::new_null(rows)
}

/// A map column without a value in any row.
pub(crate) fn no_tags(rows: usize) -> MapArray {
    Tags {
        offsets: OffsetBuffer::new_zeroed(rows),
        nulls: Some(NullBuffer::new_null(rows)),
        names: no_text(0),
        values: no_text(0),
    }
    .to_map()
}

/// A dictionary column without a value in any row.
pub(crate) fn no_names(rows: usize) -> DictionaryArray<Int32Type> {
    let keys = Int32Array::new(
        ScalarBuffer::from(vec![0; rows]),
        Some(NullBuffer::new_null(rows)),
    );
    DictionaryArray::new(keys, Arc::new(no_text(0)))
}
