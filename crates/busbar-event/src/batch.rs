//! [`Batch`]: many events as Arrow columns, the only thing that moves inside Busbar.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, DictionaryArray, Int32Array, RecordBatch, StringArray,
    StructArray, TimestampMicrosecondArray, UInt8Array,
};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{Int32Type, TimestampMicrosecondType, UInt8Type};

use crate::envelope::{self, Envelope, Names, Tags};
use crate::{ARRIVAL, Class, Error, Flags, Micros, Result, format, topic};

/// Many events as columns. Cloning and slicing share the memory.
#[derive(Debug, Clone)]
pub struct Batch(pub(crate) Arc<Inner>);

/// What the events of a batch say.
#[derive(Debug, Clone)]
pub enum Body {
    /// As it came.
    Payload(BinaryArray),
    /// Typed, one column a field.
    Columns(StructArray),
}

impl Body {
    /// The number of events.
    pub fn rows(&self) -> usize {
        match self {
            Body::Payload(payload) => payload.len(),
            Body::Columns(columns) => columns.len(),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Inner {
    pub topic_keys: ScalarBuffer<i32>,
    pub topic_values: StringArray,
    pub key: Option<StringArray>,
    pub time: ScalarBuffer<i64>,
    pub tags: Option<Tags>,
    pub client: Option<Names>,
    pub flags: ScalarBuffer<u8>,
    pub body: Body,
    pub record: OnceLock<RecordBatch>,
}

/// One event of a batch, borrowed.
#[derive(Debug, Clone)]
pub struct EventRef<'a> {
    /// Where it was published.
    pub topic: &'a str,
    /// What it is ordered and partitioned by.
    pub key: Option<&'a str>,
    /// When it happened.
    pub time: Micros,
    /// Who published it.
    pub client: Option<&'a str>,
    /// Quality of service, retain and the like.
    pub flags: Flags,
    /// What it says; typed columns as a JSON object.
    pub payload: Cow<'a, [u8]>,
    batch: &'a Batch,
    row: usize,
}

impl<'a> EventRef<'a> {
    /// Names and values beside the event.
    pub fn tags(&self) -> impl ExactSizeIterator<Item = (&'a str, &'a str)> + use<'a> {
        self.batch.tags(self.row)
    }
}

impl Batch {
    /// How many events there are.
    pub fn rows(&self) -> usize {
        self.0.time.len()
    }

    /// Whether there is no event.
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// How much memory the events of this batch take, in bytes, without what is shared with
    /// events sliced away.
    pub fn bytes(&self) -> usize {
        let batch = &self.0;
        let text = |column: &StringArray| {
            let offsets = column.value_offsets();
            (offsets[offsets.len() - 1] - offsets[0]) as usize + 4 * offsets.len()
        };
        let fixed = self.rows() * (4 + 8 + 1);
        let key = batch.key.as_ref().map_or(0, text);
        let tags = batch.tags.as_ref().map_or(0, Tags::bytes);
        let client = batch
            .client
            .as_ref()
            .map_or(0, |names| 4 * names.keys.len() + text(&names.values));
        let body = match &batch.body {
            Body::Payload(payload) => {
                let offsets = payload.value_offsets();
                (offsets[offsets.len() - 1] - offsets[0]) as usize + 4 * offsets.len()
            }
            Body::Columns(columns) => crate::columns::bytes(columns),
        };
        fixed + text(&batch.topic_values) + key + tags + client + body
    }

    /// For each event the index of its topic in [`Batch::topic_values`].
    pub fn topic_keys(&self) -> &[i32] {
        &self.0.topic_keys
    }

    /// The topics that occur; a test on the topic is done once for each of these. Some may belong
    /// to no event of this batch if it was sliced.
    pub fn topic_values(&self) -> &StringArray {
        &self.0.topic_values
    }

    /// The topic of an event.
    ///
    /// # Panics
    /// If there is no such row, as all accessors by row do.
    pub fn topic(&self, row: usize) -> &str {
        self.0.topic_values.value(self.0.topic_keys[row] as usize)
    }

    /// The key of an event.
    pub fn key(&self, row: usize) -> Option<&str> {
        let column = self.0.key.as_ref()?;
        column.is_valid(row).then(|| column.value(row))
    }

    /// The column of keys, if any event has one.
    pub fn keys(&self) -> Option<&StringArray> {
        self.0.key.as_ref()
    }

    /// When the events happened, in microseconds since 1970.
    pub fn times(&self) -> &[Micros] {
        &self.0.time
    }

    /// For each event the index of its publisher in [`Batch::client_values`], if any is known.
    pub fn client_keys(&self) -> Option<&Int32Array> {
        self.0.client.as_ref().map(|names| &names.keys)
    }

    /// The publishers that occur, if any is known.
    pub fn client_values(&self) -> Option<&StringArray> {
        self.0.client.as_ref().map(|names| &names.values)
    }

    /// Who published an event.
    pub fn client(&self, row: usize) -> Option<&str> {
        let names = self.0.client.as_ref()?;
        names
            .keys
            .is_valid(row)
            .then(|| names.values.value(names.keys.value(row) as usize))
    }

    /// The [`Flags`] of each event.
    pub fn flags(&self) -> &[u8] {
        &self.0.flags
    }

    /// Whether any event may have tags.
    pub fn has_tags(&self) -> bool {
        self.0.tags.is_some()
    }

    /// Names and values beside an event, in the order in which they were given.
    pub fn tags(&self, row: usize) -> impl ExactSizeIterator<Item = (&str, &str)> {
        let tags = self.0.tags.as_ref();
        tags.map_or(0..0, |tags| tags.range(row))
            .map(move |index| match tags {
                Some(tags) if tags.values.is_valid(index) => {
                    (tags.names.value(index), tags.values.value(index))
                }
                Some(tags) => (tags.names.value(index), ""),
                None => ("", ""),
            })
    }

    /// What the events say.
    pub fn body(&self) -> &Body {
        &self.0.body
    }

    /// The payloads; typed columns become JSON objects.
    pub fn payloads(&self) -> Cow<'_, BinaryArray> {
        match &self.0.body {
            Body::Payload(payload) => Cow::Borrowed(payload),
            Body::Columns(columns) => Cow::Owned(format::encode_json(columns)),
        }
    }

    /// One event. With typed columns each call encodes one row; to walk a whole batch take
    /// [`Batch::payloads`] once.
    pub fn event(&self, row: usize) -> EventRef<'_> {
        let payload = match &self.0.body {
            Body::Payload(payload) => Cow::Borrowed(payload.value(row)),
            Body::Columns(columns) => Cow::Owned(
                format::encode_json(&columns.slice(row, 1))
                    .value(0)
                    .to_vec(),
            ),
        };
        EventRef {
            topic: self.topic(row),
            key: self.key(row),
            time: self.0.time[row],
            client: self.client(row),
            flags: Flags(self.0.flags[row]),
            payload,
            batch: self,
            row,
        }
    }

    /// The earliest and the latest time; `(i64::MAX, i64::MIN)` of no events.
    pub fn time_range(&self) -> (Micros, Micros) {
        self.0
            .time
            .iter()
            .fold((i64::MAX, i64::MIN), |(min, max), time| {
                (min.min(*time), max.max(*time))
            })
    }

    /// How many events have [`ARRIVAL`] in place of a time.
    pub fn arrivals(&self) -> usize {
        self.0.time.iter().filter(|time| **time == ARRIVAL).count()
    }

    /// Gives the events that have [`ARRIVAL`] in place of a time the times `first`, `first + 1` and so
    /// on, in the order of rows.
    #[must_use]
    pub fn with_arrivals_from(mut self, first: Micros) -> Batch {
        let mut next = first;
        let times = self.0.time.iter().map(|time| {
            if *time != ARRIVAL {
                return *time;
            }
            next += 1;
            next - 1
        });
        let times: Vec<Micros> = times.collect();
        let inner = Arc::make_mut(&mut self.0);
        inner.time = ScalarBuffer::from(times);
        // The record was made with the times before, if it was made.
        inner.record = OnceLock::new();
        self
    }

    /// Whether any event is to be retained.
    pub fn any_retain(&self) -> bool {
        self.0.flags.iter().fold(0, |all, flags| all | flags) & Flags::RETAIN != 0
    }

    /// The batch as Arrow sees it: `topic`, `key`, `time`, `tags`, `client`, `flags` and `payload`
    /// or `value`. Made at the first call.
    pub fn record(&self) -> &RecordBatch {
        self.0.record.get_or_init(|| {
            let (batch, rows) = (&*self.0, self.rows());
            let topic_keys = Int32Array::new(batch.topic_keys.clone(), None);
            let topic = DictionaryArray::new(topic_keys, Arc::new(batch.topic_values.clone()));
            let key = batch.key.clone().unwrap_or_else(|| envelope::no_text(rows));
            let time =
                TimestampMicrosecondArray::new(batch.time.clone(), None).with_timezone("UTC");
            let tags = batch
                .tags
                .as_ref()
                .map_or_else(|| envelope::no_tags(rows), Tags::to_map);
            let client = match &batch.client {
                Some(names) => {
                    DictionaryArray::new(names.keys.clone(), Arc::new(names.values.clone()))
                }
                None => envelope::no_names(rows),
            };
            let flags = UInt8Array::new(batch.flags.clone(), None);
            let (schema, body): (_, ArrayRef) = match &batch.body {
                Body::Payload(payload) => (envelope::payload_schema(), Arc::new(payload.clone())),
                Body::Columns(columns) => (
                    envelope::columns_schema(columns.fields()),
                    Arc::new(columns.clone()),
                ),
            };
            let columns: Vec<ArrayRef> = vec![
                Arc::new(topic),
                Arc::new(key),
                Arc::new(time),
                Arc::new(tags),
                Arc::new(client),
                Arc::new(flags),
                body,
            ];
            RecordBatch::try_new(schema, columns).expect("the columns are of the schema's types")
        })
    }

    /// A batch from columns as [`Batch::record`] gives them. `key`, `tags`, `client` and `flags`
    /// may be missing, and `topic` may be plain text.
    pub fn from_record(record: RecordBatch) -> Result<Batch> {
        let column = |name: &'static str| record.column_by_name(name);
        let wrong = |name: &'static str, array: &ArrayRef| {
            Error::new(Class::Permanent, "event.batch-column")
                .with("column", name)
                .with("type", array.data_type())
        };
        let missing = |name: &'static str| {
            Error::new(Class::Permanent, "event.batch-missing").with("column", name)
        };
        let names = |name: &'static str| -> Result<Option<DictionaryArray<Int32Type>>> {
            let Some(array) = column(name) else {
                return Ok(None);
            };
            if let Some(text) = array.as_string_opt::<i32>() {
                return Ok(Some(envelope::dictionary(text)));
            }
            match array.as_dictionary_opt::<Int32Type>() {
                Some(dictionary) => Ok(Some(dictionary.clone())),
                None => Err(wrong(name, array)),
            }
        };
        let time = column("time").ok_or_else(|| missing("time"))?;
        let time = time
            .as_primitive_opt::<TimestampMicrosecondType>()
            .ok_or_else(|| wrong("time", time))?;
        let key = match column("key") {
            Some(array) => Some(
                array
                    .as_string_opt::<i32>()
                    .ok_or_else(|| wrong("key", array))?
                    .clone(),
            ),
            None => None,
        };
        let tags = match column("tags") {
            Some(array) => Some(
                array
                    .as_map_opt()
                    .ok_or_else(|| wrong("tags", array))?
                    .clone(),
            ),
            None => None,
        };
        let flags = match column("flags") {
            Some(array) => array
                .as_primitive_opt::<UInt8Type>()
                .ok_or_else(|| wrong("flags", array))?
                .clone(),
            None => UInt8Array::from(vec![0; record.num_rows()]),
        };
        let body = match (column("payload"), column("value")) {
            (Some(array), None) => Body::Payload(
                array
                    .as_binary_opt::<i32>()
                    .ok_or_else(|| wrong("payload", array))?
                    .clone(),
            ),
            (None, Some(array)) => Body::Columns(
                array
                    .as_struct_opt()
                    .ok_or_else(|| wrong("value", array))?
                    .clone(),
            ),
            _ => return Err(missing("payload")),
        };
        let envelope = Envelope {
            topic: names("topic")?.ok_or_else(|| missing("topic"))?,
            key,
            time: time.clone(),
            tags,
            client: names("client")?,
            flags,
        };
        Batch::from_columns(envelope, body)
    }

    /// A batch from its columns. Checks that they fit together and that the topics may name
    /// events; columns of views or dictionaries in a typed body are made plain.
    pub fn from_columns(envelope: Envelope, body: Body) -> Result<Batch> {
        let Envelope {
            topic,
            key,
            time,
            tags,
            client,
            flags,
        } = envelope;
        let rows = time.len();
        let lengths = [
            ("topic", Some(topic.len())),
            ("key", key.as_ref().map(Array::len)),
            ("tags", tags.as_ref().map(Array::len)),
            ("client", client.as_ref().map(|client| client.len())),
            ("flags", Some(flags.len())),
            ("payload", Some(body.rows())),
        ];
        for (column, length) in lengths {
            if length.is_some_and(|length| length != rows) {
                return Err(Error::new(Class::Permanent, "event.batch-rows")
                    .with("column", column)
                    .with("rows", length.unwrap_or_default())
                    .with("expected", rows));
            }
        }
        let body = match body {
            Body::Payload(payload) => Body::Payload(payload),
            Body::Columns(columns) => Body::Columns(crate::columns::plain(&columns)?),
        };
        let nulls = [
            ("topic", topic.keys().null_count()),
            ("time", time.null_count()),
            ("flags", flags.null_count()),
            (
                "payload",
                match &body {
                    Body::Payload(payload) => payload.null_count(),
                    Body::Columns(columns) => columns.null_count(),
                },
            ),
        ];
        for (column, nulls) in nulls {
            if nulls > 0 {
                return Err(Error::new(Class::Permanent, "event.batch-null").with("column", column));
            }
        }
        let text = |column: &'static str, values: &ArrayRef| {
            values.as_string_opt::<i32>().cloned().ok_or_else(|| {
                Error::new(Class::Permanent, "event.batch-column")
                    .with("column", column)
                    .with("type", values.data_type())
            })
        };
        let topic_values = text("topic", topic.values())?;
        // Each distinct topic once; a null or bad one that no event uses does no harm.
        let mut checked = vec![false; topic_values.len()];
        for key in topic.keys().values() {
            let key = *key as usize;
            if !checked[key] {
                checked[key] = true;
                topic::check(if topic_values.is_valid(key) {
                    topic_values.value(key)
                } else {
                    ""
                })?;
            }
        }
        let client = match client {
            Some(client) if client.keys().null_count() < rows => Some(Names {
                keys: client.keys().clone(),
                values: text("client", client.values())?,
            }),
            _ => None,
        };
        Ok(Batch(Arc::new(Inner {
            topic_keys: topic.keys().values().clone(),
            topic_values,
            key: key.filter(|key| key.null_count() < rows),
            time: time.values().clone(),
            tags: match tags.filter(|tags| tags.null_count() < rows) {
                Some(tags) => Some(Tags::from_map(&tags)?),
                None => None,
            },
            client,
            flags: flags.values().clone(),
            body,
            record: OnceLock::new(),
        })))
    }

    /// The envelope of this batch, to make another from: with other topics, or another body.
    pub fn envelope(&self) -> Envelope {
        let batch = &*self.0;
        let topic_keys = Int32Array::new(batch.topic_keys.clone(), None);
        Envelope {
            topic: DictionaryArray::new(topic_keys, Arc::new(batch.topic_values.clone())),
            key: batch.key.clone(),
            time: TimestampMicrosecondArray::new(batch.time.clone(), None).with_timezone("UTC"),
            tags: batch.tags.as_ref().map(Tags::to_map),
            client: batch.client.as_ref().map(|names| {
                DictionaryArray::new(names.keys.clone(), Arc::new(names.values.clone()))
            }),
            flags: UInt8Array::new(batch.flags.clone(), None),
        }
    }

    /// The same events with other tags.
    pub(crate) fn with_tags(&self, tags: Tags) -> Batch {
        let inner = &*self.0;
        Batch(Arc::new(Inner {
            tags: Some(tags),
            record: OnceLock::new(),
            ..inner.clone()
        }))
    }

    /// The same events with another body of as many rows.
    pub fn with_body(&self, body: Body) -> Result<Batch> {
        Batch::from_columns(self.envelope(), body)
    }
}
