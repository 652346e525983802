//! Streams between the stages of a flow.
//!
//! An event of such a stream has the envelope of the event that its row was made from, the row's event time, and these
//! columns:
//!
//! | column | type | meaning |
//! | --- | --- | --- |
//! | `row` | binary or struct | the payload, or the columns that steps have made |
//! | `mark` | int64, nullable | the watermark before the row, in microseconds since 1970; null in a control event |
//! | `partition` | uint16 | only in results of a flow without state: where the event of the row lies in the stream that the flow reads |
//! | `offset` | uint64 | with it: its offset there |
//!
//! [`crate::received`] takes them apart again.
//!
//! A control event says that a task of the stage before (`key`) has reached a watermark (`time`). Each task sends one to
//! every partition when its watermark has moved, behind the rows of the same batch.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, Int32Array, Int64Array, RecordBatch, StringArray,
    StructArray, TimestampMicrosecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::compute::{concat, take};
use arrow::datatypes::{Field, Fields, Int32Type, TimestampMicrosecondType};
use arrow::row::{RowConverter, SortField};
use busbar_event::hash::fnv1a;
use busbar_event::{Batch, Body, Class, Envelope, Error, Flags};

use crate::chain::Computed;
use crate::operator::Made;
use crate::reader::plain;
use crate::received::{MARK, OFFSET, PARTITION, ROW};

/// How a stage hands its rows to the next one.
#[derive(Clone, Debug)]
pub(crate) struct ExchangePlan {
    /// The name of the stream in between.
    pub stream: Arc<str>,
    pub partitions: u16,
    /// Places of the columns whose equal values must meet.
    pub keys: Vec<usize>,
    /// Steps have made columns of their own: these are sent, and not the events.
    pub projected: bool,
}

/// The topic of what has none of its own.
pub(crate) const TOPIC: &str = "$flow";

/// Envelopes of results that stand for no event, with these times.
pub(crate) fn envelope(times: Vec<i64>) -> Envelope {
    let topic = StringArray::from(vec![TOPIC; times.len().min(1)]);
    let mut envelope = Envelope::new(&topic, Vec::new());
    let keys = Int32Array::from(vec![0; times.len()]);
    envelope.topic = DictionaryArray::new(keys, Arc::clone(envelope.topic.values()));
    envelope.flags = vec![0; times.len()].into();
    envelope.time = TimestampMicrosecondArray::from(times).with_timezone("UTC");
    envelope
}

fn misfit(e: arrow::error::ArrowError) -> Error {
    Error::new(Class::Permanent, "flow.misfit")
        .with("column", "")
        .caused_by(e)
}

/// Results as events of a stream of the flow's own, all of them.
pub(crate) fn results(computed: &Computed, projected: bool) -> Result<Batch, Error> {
    let (envelope, row) = rows(computed, projected)?;
    let mut columns = vec![(ROW, row), (MARK, Arc::new(marks(computed)) as ArrayRef)];
    if let (None, Some((partition, base))) = (&computed.times, computed.place)
        && !matches!(computed.origin, Made::Many)
    {
        let rows = 0..computed.rows.num_rows();
        let offsets = rows.map(|row| base + computed.origin.event(row) as u64);
        let offsets: UInt64Array = offsets.collect::<Vec<u64>>().into();
        let partitions = UInt16Array::from(vec![partition; offsets.len()]);
        columns.push((PARTITION, Arc::new(partitions)));
        columns.push((OFFSET, Arc::new(offsets)));
    }
    build(envelope, columns)
}

/// Results for each partition of the next stage, with a control event where `watermark` is given.
pub(crate) fn parts(
    plan: &ExchangePlan,
    computed: &Computed,
    producer: &str,
    watermark: Option<i64>,
) -> Result<Vec<(u16, Batch)>, Error> {
    let count = computed.rows.num_rows();
    let mut split: Vec<Vec<Option<u32>>> = vec![Vec::new(); usize::from(plan.partitions)];
    if plan.partitions == 1 {
        split[0] = (0..count as u32).map(Some).collect();
    } else if count > 0 {
        for (row, partition) in homes(plan, &computed.rows)?.into_iter().enumerate() {
            split[partition].push(Some(row as u32));
        }
    }
    let (envelope, row) = rows(computed, plan.projected)?;
    let marks = marks(computed);
    let mut parts = Vec::new();
    for (partition, mut places) in split.into_iter().enumerate() {
        if watermark.is_some() {
            places.push(None);
        }
        if places.is_empty() {
            continue;
        }
        let places = UInt32Array::from(places);
        let pick = |array: &dyn Array| take(array, &places, None).map_err(misfit);
        let picked = pick_envelope(&envelope, &places, producer, watermark)?;
        let columns = vec![(ROW, pick(&row)?), (MARK, pick(&marks)?)];
        parts.push((partition as u16, build(picked, columns)?));
    }
    Ok(parts)
}

/// The partition of each row: the same for equal keys in every version of the program.
fn homes(plan: &ExchangePlan, rows: &RecordBatch) -> Result<Vec<usize>, Error> {
    if plan.keys.is_empty() {
        return Ok(vec![0; rows.num_rows()]);
    }
    let mut columns = Vec::with_capacity(plan.keys.len());
    for key in &plan.keys {
        columns.push(plain(rows.column(*key))?);
    }
    let fields = columns
        .iter()
        .map(|column| SortField::new(column.data_type().clone()));
    let converter = RowConverter::new(fields.collect()).map_err(misfit)?;
    let encoded = converter.convert_columns(&columns).map_err(misfit)?;
    let partitions = u64::from(plan.partitions);
    let home = |row: arrow::row::Row<'_>| (spread(fnv1a(row.as_ref())) % partitions) as usize;
    Ok(encoded.iter().map(home).collect())
}

/// FNV leaves the low bits of short keys alike; this mixes the high ones in.
fn spread(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

fn marks(computed: &Computed) -> Int64Array {
    match &computed.times {
        Some(times) => Int64Array::new(times.marks.clone(), None),
        None => Int64Array::from(vec![i64::MIN; computed.rows.num_rows()]),
    }
}

/// Envelopes and the column `row` of all results.
fn rows(computed: &Computed, projected: bool) -> Result<(Envelope, ArrayRef), Error> {
    let count = computed.rows.num_rows();
    let events = &computed.events;
    let places: Option<UInt32Array> = match &computed.origin {
        Made::Same | Made::Many => None,
        Made::From(rows) => Some(rows.clone()),
    };
    let mut envelope = match (&computed.origin, &places) {
        // A query's rows are as late as the latest event they can be made of.
        (Made::Many, _) => envelope(vec![events.time_range().1; count]),
        (_, None) => events.envelope(),
        (_, Some(places)) => events.take(places).envelope(),
    };
    if let Some(times) = &computed.times {
        let times = TimestampMicrosecondArray::new(times.times.clone(), None);
        envelope.time = times.with_timezone("UTC");
    }
    envelope.client = None;
    let row: ArrayRef = if projected {
        let mut fields: Vec<Field> = Vec::new();
        let mut arrays: Vec<ArrayRef> = Vec::new();
        let columns = computed.rows.schema_ref().fields().iter();
        for (field, array) in columns.zip(computed.rows.columns()) {
            let array = plain(array)?;
            let field = field.as_ref().clone();
            // A control event has no values.
            fields.push(
                field
                    .with_data_type(array.data_type().clone())
                    .with_nullable(true),
            );
            arrays.push(array);
        }
        let fields = Fields::from(fields);
        Arc::new(StructArray::try_new_with_length(fields, arrays, None, count).map_err(misfit)?)
    } else {
        let body: ArrayRef = match events.body() {
            Body::Payload(payload) => Arc::new(payload.clone()),
            Body::Columns(columns) => Arc::new(columns.clone()),
        };
        match &places {
            None => body,
            Some(places) => take(&body, places, None).map_err(misfit)?,
        }
    };
    Ok((envelope, row))
}

/// The envelopes at these places; a place that is null is a control event.
fn pick_envelope(
    envelope: &Envelope,
    places: &UInt32Array,
    producer: &str,
    watermark: Option<i64>,
) -> Result<Envelope, Error> {
    let pick = |array: &dyn Array| take(array, places, None).map_err(misfit);
    let topics = envelope.topic.values();
    let own: ArrayRef = Arc::new(StringArray::from(vec![TOPIC]));
    let values = concat(&[topics.as_ref(), own.as_ref()]).map_err(misfit)?;
    let last = values.len() as i32 - 1;
    let keys = pick(envelope.topic.keys())?;
    let keys = keys.as_primitive::<Int32Type>().iter();
    let keys: Int32Array = keys.map(|key| Some(key.unwrap_or(last))).collect();
    let names: StringArray = match &envelope.key {
        Some(key) => {
            let picked = pick(key)?;
            let picked = picked.as_string::<i32>();
            let named = places.iter().zip(picked.iter());
            named
                .map(|(place, key)| if place.is_some() { key } else { Some(producer) })
                .collect()
        }
        None => places
            .iter()
            .map(|place| place.is_none().then_some(producer))
            .collect(),
    };
    let times = pick(&envelope.time)?;
    let times = times.as_primitive::<TimestampMicrosecondType>().iter();
    let times: Vec<i64> = times
        .map(|time| time.or(watermark).unwrap_or_default())
        .collect();
    let flags = pick(&envelope.flags)?;
    let flags = flags.as_primitive::<arrow::datatypes::UInt8Type>().iter();
    let flags: UInt8Array = flags
        .map(|flags| flags.unwrap_or_default() & !Flags::RETAIN)
        .collect::<Vec<u8>>()
        .into();
    Ok(Envelope {
        topic: DictionaryArray::new(keys, values),
        key: Some(names),
        time: TimestampMicrosecondArray::from(times).with_timezone("UTC"),
        tags: match &envelope.tags {
            Some(tags) => pick(tags)?.as_map_opt().cloned(),
            None => None,
        },
        client: None,
        flags,
    })
}

fn build(mut envelope: Envelope, columns: Vec<(&'static str, ArrayRef)>) -> Result<Batch, Error> {
    let flags: Vec<u8> = envelope
        .flags
        .values()
        .iter()
        .map(|flags| flags & !Flags::RETAIN)
        .collect();
    envelope.flags = flags.into();
    let field =
        |(name, array): &(&str, ArrayRef)| Field::new(*name, array.data_type().clone(), true);
    let fields: Fields = columns.iter().map(field).collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let columns = StructArray::try_new(fields, arrays, None).map_err(misfit)?;
    Batch::from_columns(envelope, Body::Columns(columns))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::BinaryArray;
    use arrow::datatypes::{DataType, Int64Type, Schema};

    use super::*;
    use crate::counters::Counters;
    use crate::event_time::EventTime;
    use crate::operator::Times;
    use crate::received::{columns, receive};

    fn computed(rows: i64) -> Computed {
        let topics = StringArray::from_iter_values((0..rows).map(|row| format!("t/{}", row % 3)));
        let envelope = Envelope::new(&topics, (0..rows).collect());
        let payloads = (0..rows).map(|row| row.to_string().into_bytes());
        let body = Body::Payload(BinaryArray::from_iter_values(payloads));
        let schema = Schema::new(vec![Field::new("site", DataType::Int64, true)]);
        let sites = Int64Array::from_iter_values((0..rows).map(|row| row % 7));
        let times = Times {
            times: (0..rows).collect(),
            marks: (0..rows).map(|row| row - 5).collect(),
        };
        Computed {
            to: None,
            picked: None,
            others: Vec::new(),
            events: Batch::from_columns(envelope, body).unwrap(),
            rows: RecordBatch::try_new(Arc::new(schema), vec![Arc::new(sites)]).unwrap(),
            origin: Made::Same,
            times: Some(times),
            dead: Vec::new(),
            lost: Vec::new(),
            late: Vec::new(),
            input: rows as usize,
            read: Counters::default(),
            counts: Vec::new(),
            place: None,
            sources: None,
            watermark: Some(rows),
        }
    }

    fn plan(projected: bool, partitions: u16) -> ExchangePlan {
        ExchangePlan {
            stream: "_x-f-1".into(),
            partitions,
            keys: vec![0],
            projected,
        }
    }

    #[test]
    fn equal_keys_meet_and_nothing_is_lost_on_the_way() {
        for projected in [false, true] {
            let computed = computed(100);
            let sent = parts(&plan(projected, 4), &computed, "in/0", Some(77)).unwrap();
            assert_eq!(sent.len(), 4, "the watermark goes to every partition");
            let (mut homes, mut rows) = (BTreeMap::new(), Vec::new());
            for (partition, batch) in &sent {
                let mut time = EventTime::of_stage(vec!["in/0".into()]);
                let received = receive(batch, &mut time).unwrap();
                assert_eq!(time.watermark(), Some(77));
                let places = received.places.as_ref().unwrap();
                assert_eq!(places.len(), batch.rows() - 1);
                for (row, place) in places.values().iter().enumerate() {
                    let event = received.events.event(*place as usize);
                    let number = received.times.times[row];
                    assert_eq!(received.times.marks[row], number - 5);
                    assert_eq!(event.time, number);
                    assert_eq!(event.topic, format!("t/{}", number % 3));
                    if !projected {
                        assert_eq!(&*event.payload, number.to_string().as_bytes());
                    }
                    let home = homes.entry(number % 7).or_insert(*partition);
                    assert_eq!(home, partition);
                    rows.push(number);
                }
                if projected {
                    let columns = columns(&received, &computed.rows.schema()).unwrap();
                    let sites = columns.column(0).as_primitive::<Int64Type>();
                    let times = received.times.times.iter();
                    assert!(
                        sites
                            .values()
                            .iter()
                            .eq(times.map(|t| t % 7).collect::<Vec<_>>().iter())
                    );
                }
            }
            rows.sort_unstable();
            assert_eq!(rows, (0..100).collect::<Vec<i64>>());
        }
    }

    #[test]
    fn a_watermark_can_go_without_rows_and_rows_without_one() {
        let none = computed(0);
        assert_eq!(parts(&plan(true, 3), &none, "in/0", None).unwrap().len(), 0);
        let sent = parts(&plan(true, 3), &none, "in/0", Some(5)).unwrap();
        assert_eq!(sent.len(), 3);
        let mut time = EventTime::of_stage(vec!["in/0".into()]);
        let received = receive(&sent[0].1, &mut time).unwrap();
        assert_eq!((received.rows(), time.watermark()), (0, Some(5)));
        let one = parts(&plan(false, 1), &computed(10), "in/0", None).unwrap();
        let received = receive(&one[0].1, &mut time).unwrap();
        assert!(received.places.is_none());
        assert_eq!(received.rows(), 10);
    }
}
