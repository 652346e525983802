//! The columns of a stream: declared, or inferred from its first events and then fixed.

use std::sync::Arc;

use arrow::{
    array::{BinaryArray, BinaryBuilder},
    datatypes::{Schema as ArrowSchema, SchemaRef},
};
use busbar_event::{
    Batch, Body, Result,
    format::{self, FormatSpec, SchemaSpec},
    is_relation_column, relation_schema,
};

use crate::{
    cursor::{Cursor, Item},
    limits::{SCHEMA_SAMPLE_BYTES_MAX, SCHEMA_SAMPLES},
    spec::StreamSpec,
    stream::Stream,
};

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

    /// The relation that queries see, see [`relation_schema`]. May block on the disk.
    pub fn relation_schema(&self) -> Result<SchemaRef> {
        Ok(relation_schema(self.schema()?.as_ref()))
    }

    fn inferred(&self, spec: &StreamSpec, fix: bool) -> Result<Option<SchemaRef>> {
        let mut known = self.columns.lock();
        if let Some(fixed) = &known.fixed {
            return Ok(Some(Arc::clone(fixed)));
        }
        if let Some(stored) = self.columns.stored(self.name())? {
            let schema = usable(stored)?;
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
        let read = format::infer(&spec.format, &sample.payloads.finish()).ok();
        let schema = match (read, sample.typed) {
            (Some(read), Some(typed)) => format::widen(&typed, &read)?,
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return Ok(None),
        };
        let schema = usable(SchemaSpec::of(&schema))?;
        if fix || enough {
            self.columns.store(self.name(), &schema)?;
            known.fixed = Some(Arc::clone(&schema));
        } else {
            known.provisional = Some((sample.rows, Arc::clone(&schema)));
        }
        Ok(Some(schema))
    }

    /// Widens the inferred columns to hold these payloads too; whether that changed them. For payloads that
    /// turned out not to fit. Declared columns stay as they are. May block on the disk.
    pub fn widen_schema(&self, payloads: &BinaryArray) -> Result<bool> {
        let spec = self.spec();
        if spec.schema.is_some() || spec.format == FormatSpec::Raw {
            return Ok(false);
        }
        let Some(before) = self.inferred(&spec, true)? else {
            return Ok(false);
        };
        let mut known = self.columns.lock();
        // Somebody else may have widened them meanwhile.
        let before = known.fixed.clone().unwrap_or(before);
        let wider = format::widen_for(&before, &spec.format, payloads)?;
        let wider = usable(SchemaSpec::of(&wider))?;
        if wider == before {
            return Ok(false);
        }
        self.columns.store(self.name(), &wider)?;
        known.fixed = Some(wider);
        Ok(true)
    }

    /// The first events there are.
    fn sample(&self) -> Result<Sample> {
        let mut sample = Sample::default();
        for partition in self.partitions().iter() {
            let mut cursor = Cursor::new(Arc::clone(partition), partition.start());
            while sample.wants_more() {
                let chunk = match cursor.try_next()? {
                    Some(Item::Chunk(chunk)) => chunk,
                    Some(Item::Gap(_)) => continue,
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

/// Inferred columns as they are used: none has the name of a column that every stream has, and none takes a
/// value that it would not print as it came.
fn usable(mut spec: SchemaSpec) -> Result<SchemaRef> {
    for at in 0..spec.0.len() {
        if !is_relation_column(&spec.0[at].name) {
            continue;
        }
        let given = spec.0[at].name.clone();
        let mut name = format!("payload_{given}");
        while spec.0.iter().any(|field| field.name == name) {
            name.push('_');
        }
        let field = &mut spec.0[at];
        field.path.get_or_insert(given);
        field.name = name;
    }
    let schema = spec.schema()?;
    Ok(format::exact(&schema))
}
