//! The columns of a stream: declared, or inferred from its first events and then fixed.

use std::sync::Arc;

use arrow::{
    array::BinaryBuilder,
    datatypes::{FieldRef, Schema as ArrowSchema, SchemaRef},
};
use busbar_event::{
    Batch, Body, Class, Error, Result,
    format::{self, FieldType, FormatSpec, SchemaSpec},
    payload_schema,
};
use busbar_log::{Change, Store};
use parking_lot::Mutex;

use crate::{
    limits::{SCHEMA_SAMPLE_BYTES_MAX, SCHEMA_SAMPLES},
    spec::StreamSpec,
    stream::Stream,
};

/// What is known of a stream's inferred columns.
pub(crate) struct Schema {
    store: Store,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Fixed: read from the store, or written to it.
    fixed: Option<SchemaRef>,
    /// Inferred from fewer events than it takes to fix it, and from how many.
    provisional: Option<(usize, SchemaRef)>,
}

impl Schema {
    pub fn new(store: Store) -> Schema {
        Schema {
            store,
            known: Mutex::default(),
        }
    }

    /// What was inferred holds for one format only.
    pub fn forget(&self, stream: &str) -> Result<()> {
        *self.known.lock() = Known::default();
        let key = stream.as_bytes().to_vec().into();
        self.store
            .apply_sync(vec![Change::Delete(key)])
            .map_err(crate::error::from_log)
    }
}

impl Stream {
    /// The columns of its payloads: as declared, or as inferred from its first events. `None` for
    /// raw payloads, and as long as there is no event to infer from. Inferred columns are fixed,
    /// and kept over restarts, once [`SCHEMA_SAMPLES`] events are there. May block on the disk.
    pub fn schema(&self) -> Result<Option<SchemaRef>> {
        let spec = self.spec();
        if let Some(declared) = &spec.schema {
            return declared.schema().map(Some);
        }
        if spec.format == FormatSpec::Raw {
            return Ok(None);
        }
        self.inferred(&spec, false)
    }

    /// As [`schema`](Stream::schema), and fixes what is inferred now even if from few events.
    pub fn fix_schema(&self) -> Result<Option<SchemaRef>> {
        let spec = self.spec();
        match spec.schema.is_none() && spec.format != FormatSpec::Raw {
            true => self.inferred(&spec, true),
            false => self.schema(),
        }
    }

    /// The relation that queries see: `topic`, `key`, `time`, `tags`, then the columns, or
    /// `payload` where there are none.
    pub fn relation_schema(&self) -> Result<SchemaRef> {
        let envelope = payload_schema();
        let mut fields: Vec<FieldRef> = Vec::new();
        for name in ["topic", "key", "time", "tags"] {
            fields.extend(
                envelope
                    .fields()
                    .iter()
                    .find(|field| field.name() == name)
                    .cloned(),
            );
        }
        match self.schema()? {
            Some(columns) => {
                // A column that is called as a part of the envelope is reached through the payload only.
                let taken = fields.len();
                for field in columns.fields() {
                    if fields[..taken]
                        .iter()
                        .all(|known| known.name() != field.name())
                    {
                        fields.push(Arc::clone(field));
                    }
                }
            }
            None => fields.extend(
                envelope
                    .fields()
                    .iter()
                    .find(|field| field.name() == "payload")
                    .cloned(),
            ),
        }
        Ok(Arc::new(ArrowSchema::new(fields)))
    }

    fn inferred(&self, spec: &StreamSpec, fix: bool) -> Result<Option<SchemaRef>> {
        let mut known = self.schema.known.lock();
        if let Some(fixed) = &known.fixed {
            return Ok(Some(Arc::clone(fixed)));
        }
        if let Some(stored) = self.schema.store.get(self.name().as_bytes()) {
            let stored: SchemaSpec = serde_json::from_slice(&stored).map_err(|cause| {
                Error::new(Class::Permanent, "bus.schema-stored")
                    .with("stream", self.name())
                    .caused_by(cause)
            })?;
            let schema = stored.schema()?;
            known.fixed = Some(Arc::clone(&schema));
            return Ok(Some(schema));
        }
        let available: u64 = self
            .partitions()
            .iter()
            .map(|p| p.end() - p.start().min(p.end()))
            .sum();
        if !fix
            && let Some((samples, schema)) = &known.provisional
            && available as usize <= *samples
        {
            return Ok(Some(Arc::clone(schema)));
        }
        let mut sample = self.sample()?;
        let enough = sample.rows >= SCHEMA_SAMPLES;
        // Samples that do not decode do not make the stream unreadable: its payloads stay.
        let read = match format::infer(&spec.format, &sample.payloads.finish()).ok() {
            Some(read) if !enough => Some(loosen(&read)?),
            read => read,
        };
        let schema = match (read, sample.typed) {
            (Some(read), Some(typed)) => format::widen(&typed, &read)?,
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return Ok(None),
        };
        if fix || enough {
            let text = serde_json::to_vec(&SchemaSpec::of(&schema)).map_err(|cause| {
                Error::new(Class::Permanent, "bus.schema-stored")
                    .with("stream", self.name())
                    .caused_by(cause)
            })?;
            let key = self.name().as_bytes().to_vec().into();
            self.schema
                .store
                .apply_sync(vec![Change::Put(key, text.into())])
                .map_err(crate::error::from_log)?;
            known.fixed = Some(Arc::clone(&schema));
        } else {
            known.provisional = Some((sample.rows, Arc::clone(&schema)));
        }
        Ok(Some(schema))
    }

    /// The first events there are.
    fn sample(&self) -> Result<Sample> {
        let mut sample = Sample::default();
        for partition in self.partitions().iter() {
            let mut cursor = crate::cursor::Cursor::new(Arc::clone(partition), partition.start());
            while sample.wants_more() {
                let chunk = match cursor.try_next()? {
                    Some(crate::cursor::Item::Chunk(chunk)) => chunk,
                    Some(crate::cursor::Item::Gap(_)) => continue,
                    None => break,
                };
                sample.add(&chunk.batch)?;
            }
        }
        Ok(sample)
    }
}

/// What columns are inferred from.
#[derive(Default)]
struct Sample {
    payloads: BinaryBuilder,
    /// The columns of rows that flows wrote: they say what they are themselves.
    typed: Option<SchemaRef>,
    rows: usize,
    bytes: usize,
}

impl Sample {
    fn wants_more(&self) -> bool {
        self.rows < SCHEMA_SAMPLES && self.bytes < SCHEMA_SAMPLE_BYTES_MAX
    }

    fn add(&mut self, batch: &Batch) -> Result<()> {
        match batch.body() {
            Body::Payload(payloads) => {
                for payload in payloads.iter().flatten() {
                    if !self.wants_more() {
                        return Ok(());
                    }
                    self.rows += 1;
                    self.bytes += payload.len();
                    self.payloads.append_value(payload);
                }
            }
            Body::Columns(columns) => {
                let found = Arc::new(ArrowSchema::new(columns.fields().clone()));
                self.typed = Some(match self.typed.take() {
                    Some(typed) => format::widen(&typed, &found)?,
                    None => found,
                });
                self.rows += batch.rows();
                self.bytes += batch.bytes();
            }
        }
        Ok(())
    }
}

/// As long as there are few events, a number without a fraction may be followed by one that has
/// one: whole numbers count as floats until there is reason to think otherwise.
fn loosen(schema: &SchemaRef) -> Result<SchemaRef> {
    let mut fields = SchemaSpec::of(schema).0;
    for field in &mut fields {
        if field.field_type == FieldType::Int {
            field.field_type = FieldType::Float;
        }
    }
    SchemaSpec(fields).schema()
}
