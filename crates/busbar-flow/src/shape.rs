//! Result rows as what an output takes: events, table rows, deliveries.

mod relay;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, DictionaryArray, Int32Array, MapArray,
    RecordBatch, RecordBatchOptions, StringArray, StructArray, TimestampMicrosecondArray,
    UInt8Array, UInt32Array,
};
use arrow::compute::{cast, concat_batches, filter, filter_record_batch, take};
use arrow::datatypes::{
    DataType, Field, Fields, Int32Type, Schema, TimeUnit, TimestampMicrosecondType,
};
use busbar_connector::RowSource;
use busbar_event::{Batch, BatchBuilder, Body, Class, Envelope, Error, Flags, dictionary};

use crate::chain::{Computed, Dead, LostResults, Place};
use crate::compile::{OutputPlan, Shape, TopicShape, table_schema};
use crate::exchange;
use crate::operator::{Made, Times};
use crate::outgoing::Outgoing;
use crate::reader::{BODY, BODY_PAYLOAD, PAYLOAD, is_envelope, plain, text};
use crate::render::fit;

/// What is common to all outputs of a batch of results.
pub(crate) struct Shaped {
    key: Option<StringArray>,
    time: TimestampMicrosecondArray,
    tags: Option<MapArray>,
    flags: Vec<u8>,
    body: Body,
    /// The topics of the events behind the rows, or those a step named.
    topic: Option<DictionaryArray<Int32Type>>,
}

/// An [`Outgoing`] with the events its rows came from, to name them when they are rejected.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub outgoing: Outgoing,
    pub made: Made,
    /// How many rows had come for this output.
    pub rows: usize,
    /// Rows that could not even be prepared.
    pub dead: Vec<Dead>,
}

impl Prepared {
    /// Nothing for an output, because the results of the one event there is cannot be made into what it takes.
    pub fn refused(computed: &Computed, plan: &OutputPlan, cause: &Error) -> Prepared {
        use crate::compile::Target;
        let rows = computed.rows.num_rows();
        let (none, nothing) = (computed.rows.slice(0, 0), BatchBuilder::new().finish());
        let origin = computed.letters_origin();
        let dead = (0..rows).map(|row| Dead {
            event: event_of(&origin, row),
            place: Place::Output(plan.of),
            cause: cause.clone(),
        });
        let dead = dead.collect();
        Prepared {
            outgoing: match plan.target {
                Target::Table(_) => Outgoing::Rows(none),
                Target::Stream(_) | Target::Topic | Target::Relay | Target::Results(_) => {
                    Outgoing::Events(nothing)
                }
                Target::Stage(_) => Outgoing::Parts(Vec::new()),
                Target::Connection(_) => Outgoing::Delivery {
                    events: nothing,
                    rows: none,
                    sources: None,
                },
            },
            made: Made::Many,
            rows,
            dead,
        }
    }
}

fn misfit(e: arrow::error::ArrowError) -> Error {
    Error::new(Class::Permanent, "flow.misfit")
        .with("column", "")
        .caused_by(e)
}

impl Shaped {
    /// Works out envelope and body of result rows. `projected`: a step made columns of its own.
    pub fn new(computed: &Computed, projected: bool) -> Result<Shaped, Error> {
        let rows = computed.rows.num_rows();
        let events = &computed.events;
        // The envelope of the events behind the rows, without touching payloads.
        let own = match &computed.origin {
            Made::Same => Some(events.envelope()),
            Made::From(indices) => Some(taken(&events.envelope(), indices)?),
            Made::Many => None,
        };
        let named = |name: &str| {
            let field = computed.rows.schema_ref().field_with_name(name).ok()?;
            (projected && is_envelope(name, field.data_type()))
                .then(|| computed.rows.column_by_name(name).cloned())?
        };
        let topic = match named("topic") {
            Some(array) => Some(dictionary(&text(&array)?)),
            None => own.as_ref().map(|own| own.topic.clone()),
        };
        let key = match named("key") {
            Some(array) => Some(text(&array)?),
            None => own.as_ref().and_then(|own| own.key.clone()),
        };
        let made = match (&own, &computed.times) {
            (Some(own), _) => own.time.clone(),
            (None, Some(times)) => {
                TimestampMicrosecondArray::new(times.times.clone(), None).with_timezone("UTC")
            }
            // A query's rows are as late as the latest event they can be made of.
            (None, None) => {
                let latest = events.time_range().1;
                TimestampMicrosecondArray::from(vec![latest; rows]).with_timezone("UTC")
            }
        };
        let time = match named("time") {
            Some(array) => times(&array, &made)?,
            None => made,
        };
        let tags = match named("tags") {
            Some(array) => array.as_map_opt().cloned(),
            None => own.as_ref().and_then(|own| own.tags.clone()),
        };
        let mut flags = vec![Flags(0).with_qos(1).0; rows];
        let (body, tags) = if projected {
            mark_text(&computed.rows, &mut flags);
            // What was said about the old payload does not hold for the new one.
            let reserved = own.as_ref().is_some_and(|own| {
                own.flags
                    .values()
                    .iter()
                    .any(|f| f & Flags::RESERVED_TAGS != 0)
            });
            let tags = if reserved {
                tags.map(|t| without_reserved(&t)).transpose()?
            } else {
                tags
            };
            (made_body(&computed.rows)?, tags)
        } else {
            if let Some(own) = &own {
                for (flag, was) in flags.iter_mut().zip(own.flags.values()) {
                    *flag |= was & (Flags::UTF8 | Flags::RESERVED_TAGS);
                }
            }
            (taken_body(events.body(), &computed.origin)?, tags)
        };
        Ok(Shaped {
            key,
            time,
            tags,
            flags,
            body,
            topic,
        })
    }

    fn batch(
        &self,
        topic: DictionaryArray<Int32Type>,
        key: Option<StringArray>,
        retain: bool,
    ) -> Result<Batch, Error> {
        let flags: UInt8Array = match retain {
            true => self
                .flags
                .iter()
                .map(|f| f | Flags::RETAIN)
                .collect::<Vec<u8>>()
                .into(),
            false => self.flags.clone().into(),
        };
        let envelope = Envelope {
            topic,
            key: key.or_else(|| self.key.clone()),
            time: self.time.clone(),
            tags: self.tags.clone(),
            client: None,
            flags,
        };
        Batch::from_columns(envelope, self.body.clone())
    }
}

/// Notes which payloads are text: those that are made of columns, and those of plug-ins that are.
fn mark_text(rows: &RecordBatch, flags: &mut [u8]) {
    let payloads = own_payloads(rows);
    for (row, flag) in flags.iter_mut().enumerate() {
        let is_text = |payloads: &BinaryArray| std::str::from_utf8(payloads.value(row)).is_ok();
        if payloads.is_none_or(is_text) {
            *flag |= Flags::UTF8;
        }
    }
}

fn made_body(rows: &RecordBatch) -> Result<Body, Error> {
    match own_payloads(rows) {
        Some(payloads) => Ok(Body::Payload(payloads.clone())),
        None => columns(rows).map(Body::Columns),
    }
}

/// The payloads as a plug-in has made them, where nothing has been made of them since.
pub(crate) fn own_payloads(rows: &RecordBatch) -> Option<&BinaryArray> {
    let body = rows.schema_ref().metadata().get(BODY)?;
    let payloads = rows.column_by_name("payload")?;
    (body == BODY_PAYLOAD).then(|| payloads.as_binary_opt::<i32>())?
}

/// Results that stand for no event. They are made events of only where dead letters tell of them.
pub(crate) struct LooseResults {
    rows: RecordBatch,
    times: Times,
}

impl LooseResults {
    /// For each end its results, where they stand for no event.
    ///
    /// # Errors
    /// `flow.misfit` when the columns do not fit.
    pub fn of(computed: &Computed) -> Result<Vec<Option<LooseResults>>, Error> {
        let of_end = |end| {
            let its = computed.of_output(end, None)?;
            Ok(match (its.origin, its.times) {
                (Made::Many, Some(times)) => Some(LooseResults {
                    rows: its.rows,
                    times,
                }),
                _ => None,
            })
        };
        (0..=computed.others.len()).map(of_end).collect()
    }

    /// Results that a step could not take, as they came to it, or what is known of those that it could not compute.
    ///
    /// # Errors
    /// `flow.misfit` when the columns do not fit.
    pub fn lost(lost: &LostResults) -> Result<LooseResults, Error> {
        let batches = lost.rows.iter().map(|lost| &lost.rows.batch);
        let schema = batches.clone().next().map(RecordBatch::schema);
        let rows = concat_batches(&schema.unwrap_or_else(|| Schema::empty().into()), batches);
        let times = lost.rows.iter().filter_map(|lost| lost.rows.times.as_ref());
        Ok(LooseResults {
            rows: rows.map_err(misfit)?,
            times: Times::concat(&times.collect::<Vec<_>>()),
        })
    }

    /// The results as events.
    ///
    /// # Errors
    /// `flow.misfit` when a column cannot be one of an event.
    pub fn events(&self) -> Result<Batch, Error> {
        self.events_of(columns(&self.rows)?)
    }

    /// As [`LooseResults::events`], with the columns that are part of the envelope in the payload, too.
    pub fn events_whole(&self) -> Result<Batch, Error> {
        self.events_of(picked_columns(&self.rows, |field| {
            !matches!(field.data_type(), DataType::Map(..))
        })?)
    }

    fn events_of(&self, columns: StructArray) -> Result<Batch, Error> {
        let envelope = exchange::envelope(self.times.times.to_vec());
        Batch::from_columns(envelope, Body::Columns(columns))
    }
}

/// Prepares result rows for one output.
pub(crate) fn prepare(
    computed: &Computed,
    shaped: Option<&Shaped>,
    plan: &OutputPlan,
    shape: Option<&Shape>,
    projected: bool,
) -> Result<Prepared, Error> {
    use crate::compile::Target;
    let rows = computed.rows.num_rows();
    if let Target::Results(_) = plan.target {
        return Ok(Prepared {
            outgoing: Outgoing::Events(exchange::results(computed, projected)?),
            made: computed.origin.clone(),
            rows,
            dead: Vec::new(),
        });
    }
    let Some(shape) = shape else {
        return Err(Error::new(Class::Permanent, "flow.misfit").with("column", "topic"));
    };
    if let Target::Table(_) = plan.target {
        let record = table_rows(&computed.rows, &shape.columns)?;
        return Ok(Prepared {
            outgoing: Outgoing::Rows(record),
            made: computed.letters_origin(),
            rows,
            dead: Vec::new(),
        });
    }
    let Some(shaped) = shaped else {
        return Err(Error::new(Class::Permanent, "flow.misfit").with("column", "topic"));
    };
    if let Target::Relay = plan.target {
        return relay::relay(computed, shaped, plan);
    }
    let mut failed: Vec<(usize, Error)> = Vec::new();
    let own = || {
        shaped
            .topic
            .clone()
            .unwrap_or_else(|| dictionary(&StringArray::new_null(rows)))
    };
    let topic = match &shape.topic {
        TopicShape::Own => own(),
        TopicShape::Made(renderer) => {
            let rendered = renderer.render(&computed.rows, computed.origin())?;
            failed.extend(rendered.failed);
            rendered.values
        }
        TopicShape::Fit(patterns) => {
            let own = own();
            let values = text(own.values())?;
            let fitted: StringArray = values
                .iter()
                .map(|topic| topic.and_then(|topic| fit(patterns, topic)))
                .collect();
            DictionaryArray::new(own.keys().clone(), Arc::new(fitted))
        }
    };
    let key = match &shape.key {
        Some(renderer) => {
            let rendered = renderer.render(&computed.rows, computed.origin())?;
            failed.extend(rendered.failed);
            Some(text(&(Arc::new(rendered.values) as ArrayRef))?)
        }
        None => None,
    };
    // Topics that are null or no topics: their rows go, the others stay.
    let bad_topics = bad_topics(&topic);
    if !bad_topics.is_empty() {
        for row in 0..rows {
            let bad = if topic.keys().is_null(row) {
                None
            } else {
                bad_topics
                    .iter()
                    .find(|(at, _)| *at == topic.keys().value(row) as usize)
            };
            if let Some((_, error)) = bad {
                failed.push((row, error.clone()));
            }
        }
    }
    for row in (0..rows).filter(|row| topic.keys().is_null(*row)) {
        failed.push((
            row,
            Error::new(Class::Permanent, "flow.template-null").with("column", "topic"),
        ));
    }
    // The first reason of each row.
    failed.sort_by_key(|(row, _)| *row);
    failed.dedup_by_key(|(row, _)| *row);
    let origin = computed.letters_origin();
    let mut made = origin.clone();
    let (events, records) = if failed.is_empty() {
        (
            shaped.batch(topic, key, plan.retain)?,
            computed.rows.clone(),
        )
    } else {
        let mut keep = vec![true; rows];
        for (row, _) in &failed {
            keep[*row] = false;
        }
        let mask = BooleanArray::from(keep);
        let events = masked(shaped, &topic, key.as_ref(), &mask, plan.retain)?;
        made = match &origin {
            Made::Many => Made::Many,
            _ => Made::From(
                (0..rows)
                    .filter(|row| mask.value(*row))
                    .map(|row| event_of(&origin, row) as u32)
                    .collect::<Vec<u32>>()
                    .into(),
            ),
        };
        (
            events,
            filter_record_batch(&computed.rows, &mask).map_err(misfit)?,
        )
    };
    let dead = failed
        .into_iter()
        .map(|(row, cause)| Dead {
            event: event_of(&origin, row),
            place: Place::Output(plan.of),
            cause,
        })
        .collect();
    let outgoing = match plan.target {
        Target::Connection(_) => {
            let schema = records.schema_ref();
            let own = |column: &usize| schema.field(*column).name() != PAYLOAD;
            let all: Vec<usize> = (0..records.num_columns()).filter(own).collect();
            Outgoing::Delivery {
                events,
                rows: table_rows(&records, &all)?,
                sources: row_sources(computed, &made, records.num_rows()),
            }
        }
        _ => Outgoing::Events(events),
    };
    Ok(Prepared {
        outgoing,
        made,
        rows,
        dead,
    })
}

/// The event behind a row; for a query's rows the first one of the batch.
pub(crate) fn event_of(made: &Made, row: usize) -> usize {
    made.event(row)
}

/// The event that each of so many rows was made from; none where they were made from several, or from what lies in no log, and
/// where they do not come in the order of the events.
fn row_sources(computed: &Computed, made: &Made, rows: usize) -> Option<Arc<[RowSource]>> {
    let (_, base) = computed.place?;
    if matches!(computed.origin, Made::Many) {
        return None;
    }
    let mut sources: Vec<RowSource> = Vec::with_capacity(rows);
    for row in 0..rows {
        let offset = base + made.event(row) as u64;
        let before = match sources.last() {
            Some(last) if last.offset == offset => last.before + 1,
            Some(last) if last.offset > offset => return None,
            _ => 0,
        };
        sources.push(RowSource { offset, before });
    }
    Some(sources.into())
}

fn bad_topics(topic: &DictionaryArray<Int32Type>) -> Vec<(usize, Error)> {
    let Some(values) = topic.values().as_string_opt::<i32>() else {
        return Vec::new();
    };
    let mut used = vec![false; values.len()];
    for key in topic.keys().iter().flatten() {
        used[key as usize] = true;
    }
    (0..values.len())
        .filter(|at| used[*at])
        .filter_map(|at| {
            if values.is_null(at) {
                let error = Error::new(Class::Permanent, "flow.topic-fit");
                return Some((at, error));
            }
            busbar_event::topic::check(values.value(at))
                .err()
                .map(|e| (at, e))
        })
        .collect()
}

fn masked(
    shaped: &Shaped,
    topic: &DictionaryArray<Int32Type>,
    key: Option<&StringArray>,
    mask: &BooleanArray,
    retain: bool,
) -> Result<Batch, Error> {
    let keep = |array: &dyn Array| filter(array, mask).map_err(misfit);
    let text = |array: &StringArray| keep(array).map(|a| a.as_string::<i32>().clone());
    let kept = Shaped {
        key: shaped.key.as_ref().map(text).transpose()?,
        time: keep(&shaped.time)?
            .as_primitive::<TimestampMicrosecondType>()
            .clone(),
        tags: match &shaped.tags {
            Some(tags) => keep(tags)?.as_map_opt().cloned(),
            None => None,
        },
        flags: keep(&UInt8Array::from(shaped.flags.clone()))?
            .as_primitive::<arrow::datatypes::UInt8Type>()
            .values()
            .to_vec(),
        body: match &shaped.body {
            Body::Payload(array) => Body::Payload(keep(array)?.as_binary::<i32>().clone()),
            Body::Columns(array) => Body::Columns(keep(array)?.as_struct().clone()),
        },
        topic: None,
    };
    let keys = keep(topic.keys())?.as_primitive::<Int32Type>().clone();
    let topic = DictionaryArray::new(keys, Arc::clone(topic.values()));
    kept.batch(topic, key.map(text).transpose()?, retain)
}

fn taken(envelope: &Envelope, rows: &UInt32Array) -> Result<Envelope, Error> {
    let pick = |array: &dyn Array| take(array, rows, None).map_err(misfit);
    let names = |array: &DictionaryArray<Int32Type>| -> Result<DictionaryArray<Int32Type>, Error> {
        let keys: Int32Array = pick(array.keys())?.as_primitive::<Int32Type>().clone();
        Ok(DictionaryArray::new(keys, Arc::clone(array.values())))
    };
    Ok(Envelope {
        topic: names(&envelope.topic)?,
        key: match &envelope.key {
            Some(key) => Some(pick(key)?.as_string::<i32>().clone()),
            None => None,
        },
        time: pick(&envelope.time)?
            .as_primitive::<TimestampMicrosecondType>()
            .clone(),
        tags: match &envelope.tags {
            Some(tags) => pick(tags)?.as_map_opt().cloned(),
            None => None,
        },
        client: None,
        flags: pick(&envelope.flags)?
            .as_primitive::<arrow::datatypes::UInt8Type>()
            .clone(),
    })
}

fn taken_body(body: &Body, made: &Made) -> Result<Body, Error> {
    let Made::From(rows) = made else {
        return Ok(body.clone());
    };
    Ok(match body {
        Body::Payload(array) => Body::Payload(
            take(array, rows, None)
                .map_err(misfit)?
                .as_binary::<i32>()
                .clone(),
        ),
        Body::Columns(array) => {
            Body::Columns(take(array, rows, None).map_err(misfit)?.as_struct().clone())
        }
    })
}

/// The columns of a result that are not part of the envelope, as an event's body.
fn columns(rows: &RecordBatch) -> Result<StructArray, Error> {
    picked_columns(rows, |field| !is_envelope(field.name(), field.data_type()))
}

/// The columns that are picked, as an event's body.
fn picked_columns(
    rows: &RecordBatch,
    is_picked: impl Fn(&Field) -> bool,
) -> Result<StructArray, Error> {
    let mut fields: Vec<Field> = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for (field, array) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        if is_picked(field) {
            let array = plain(array)?;
            fields.push(
                field
                    .as_ref()
                    .clone()
                    .with_data_type(array.data_type().clone()),
            );
            arrays.push(array);
        }
    }
    if arrays.is_empty() {
        return Ok(StructArray::new_empty_fields(rows.num_rows(), None));
    }
    StructArray::try_new(Fields::from(fields), arrays, None).map_err(misfit)
}

fn table_rows(rows: &RecordBatch, columns: &[usize]) -> Result<RecordBatch, Error> {
    let schema: Schema = table_schema(rows.schema_ref(), columns);
    let arrays: Vec<ArrayRef> = columns
        .iter()
        .map(|c| plain(rows.column(*c)))
        .collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(schema), arrays, &options).map_err(misfit)
}

fn times(
    array: &ArrayRef,
    own: &TimestampMicrosecondArray,
) -> Result<TimestampMicrosecondArray, Error> {
    let micros = cast(array, &DataType::Timestamp(TimeUnit::Microsecond, None)).map_err(misfit)?;
    let micros = micros.as_primitive::<TimestampMicrosecondType>();
    let values: Vec<i64> = (0..micros.len())
        .map(|row| match micros.is_valid(row) {
            true => micros.value(row),
            // An event has a time: its own where the column has none.
            false => own.value(row),
        })
        .collect();
    Ok(TimestampMicrosecondArray::from(values).with_timezone("UTC"))
}

/// Tags without those that describe the payload; a tag of the user's own that begins with `$` has two.
fn without_reserved(tags: &MapArray) -> Result<MapArray, Error> {
    use arrow::array::{MapBuilder, StringBuilder};
    let entries = tags.entries();
    let names = text(entries.column(0))?;
    let values = text(entries.column(1))?;
    let (key, value) = match tags.data_type() {
        DataType::Map(entry, _) => match entry.data_type() {
            DataType::Struct(fields) => (Arc::clone(&fields[0]), Arc::clone(&fields[1])),
            _ => return Ok(tags.clone()),
        },
        _ => return Ok(tags.clone()),
    };
    let mut builder = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new())
        .with_keys_field(key)
        .with_values_field(value);
    for row in 0..tags.len() {
        let range = tags.value_offsets()[row] as usize..tags.value_offsets()[row + 1] as usize;
        for at in range {
            let name = names.value(at);
            if name.starts_with('$') && !name.starts_with("$$") {
                continue;
            }
            builder.keys().append_value(name);
            builder
                .values()
                .append_option(values.is_valid(at).then(|| values.value(at)));
        }
        builder.append(tags.is_valid(row)).map_err(misfit)?;
    }
    Ok(builder.finish())
}
