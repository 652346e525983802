//! Events and batches for property tests.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Fields, Int32Type};
use proptest::prelude::*;

use crate::{Batch, BatchBuilder, Body, Flags, Row};

/// An event that owns what it says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Owned {
    pub topic: String,
    pub key: Option<String>,
    pub time: i64,
    pub client: Option<String>,
    pub flags: u8,
    pub tags: Vec<(String, String)>,
    pub payload: Vec<u8>,
}

pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{0,6}",
        "\\PC{0,8}",
        Just("电表/读数".to_string()),
        Just("\u{1F600}\0\n\"\\".into())
    ]
}

pub(crate) fn topic() -> impl Strategy<Value = String> {
    prop_oneof![
        (0..12u8).prop_map(|id| format!("meter/m{id}/reading")),
        "[a-c$]{1,2}(/[a-c]{0,2}){0,3}",
        "[^\\x00+#]{1,12}",
    ]
}

pub(crate) fn event() -> impl Strategy<Value = Owned> {
    (
        topic(),
        proptest::option::weighted(0.3, text()),
        any::<i64>(),
        proptest::option::weighted(0.3, "[a-d]{1,2}"),
        any::<u8>(),
        prop_oneof![
            4 => Just(Vec::new()),
            1 => proptest::collection::vec((text(), text()), 0..4),
        ],
        proptest::collection::vec(any::<u8>(), 0..40),
    )
        .prop_map(|(topic, key, time, client, flags, tags, payload)| Owned {
            topic,
            key,
            time,
            client,
            flags,
            tags,
            payload,
        })
}

pub(crate) fn events(max: usize) -> impl Strategy<Value = Vec<Owned>> {
    proptest::collection::vec(event(), 0..max)
}

pub(crate) fn build(builder: &mut BatchBuilder, events: &[Owned]) -> Batch {
    for event in events {
        let tags: Vec<_> = event
            .tags
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        let row = Row {
            topic: builder.topic_id(&event.topic),
            key: event.key.as_deref(),
            time: event.time,
            client: event
                .client
                .as_deref()
                .map(|client| builder.client_id(client)),
            flags: Flags(event.flags),
            tags: &tags,
            payload: &event.payload,
        };
        builder.push(row);
    }
    builder.finish()
}

pub(crate) fn batch(events: &[Owned]) -> Batch {
    build(&mut BatchBuilder::new(), events)
}

/// The events of a batch of payloads.
pub(crate) fn owned(batch: &Batch) -> Vec<Owned> {
    (0..batch.rows())
        .map(|row| {
            let event = batch.event(row);
            Owned {
                topic: event.topic.to_string(),
                key: event.key.map(str::to_string),
                time: event.time,
                client: event.client.map(str::to_string),
                flags: event.flags.0,
                tags: event
                    .tags()
                    .map(|(n, v)| (n.to_string(), v.to_string()))
                    .collect(),
                payload: event.payload.to_vec(),
            }
        })
        .collect()
}

/// A batch of typed columns of every stored type, with nulls here and there.
pub(crate) fn typed(events: &[Owned]) -> Batch {
    let envelope = batch(events).envelope();
    let rows = events.len();
    let some = |row: usize, step: usize| (!row.is_multiple_of(step)).then_some(row);
    let text: StringArray = events.iter().map(|event| event.key.as_deref()).collect();
    let bytes: BinaryArray = events
        .iter()
        .map(|event| Some(event.payload.as_slice()))
        .collect();
    let mut list = ListBuilder::new(Int32Builder::new());
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    for (row, event) in events.iter().enumerate() {
        list.append_value(
            event
                .payload
                .iter()
                .map(|byte| some(*byte as usize, 3).map(|b| b as i32)),
        );
        for (name, _) in &event.tags {
            map.keys().append_value(name);
            map.values()
                .append_option(some(row, 2).map(|row| row as i64));
        }
        map.append(row % 3 != 0).expect("as many names as values");
    }
    let time: Int64Array = events.iter().map(|event| Some(event.time)).collect();
    let inner = StructArray::new(
        Fields::from(vec![
            Field::new("a", DataType::Utf8, true),
            Field::new("n", DataType::Null, true),
        ]),
        vec![Arc::new(text.clone()), Arc::new(NullArray::new(rows))],
        Some((0..rows).map(|row| row % 4 != 1).collect()),
    );
    let dictionary: DictionaryArray<Int32Type> =
        events.iter().map(|event| event.client.as_deref()).collect();
    let decimals: Decimal128Array = (0..rows)
        .map(|row| some(row, 5).map(|row| row as i128))
        .collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "bool",
            Arc::new(
                (0..rows)
                    .map(|row| some(row, 3).map(|row| row % 2 == 0))
                    .collect::<BooleanArray>(),
            ),
        ),
        (
            "i8",
            Arc::new(
                (0..rows)
                    .map(|row| some(row, 2).map(|row| row as i8))
                    .collect::<Int8Array>(),
            ),
        ),
        (
            "u16",
            Arc::new(
                (0..rows)
                    .map(|row| some(row, 7).map(|row| row as u16))
                    .collect::<UInt16Array>(),
            ),
        ),
        (
            "f32",
            Arc::new(
                (0..rows)
                    .map(|row| some(row, 4).map(|row| row as f32))
                    .collect::<Float32Array>(),
            ),
        ),
        (
            "f64",
            Arc::new(
                (0..rows)
                    .map(|row| some(row, 4).map(|row| row as f64 / 3.0))
                    .collect::<Float64Array>(),
            ),
        ),
        (
            "time",
            Arc::new(time.reinterpret_cast::<arrow::datatypes::TimestampMicrosecondType>()),
        ),
        (
            "decimal",
            Arc::new(decimals.with_precision_and_scale(20, 3).expect("fits")),
        ),
        ("text", Arc::new(text)),
        ("bytes", Arc::new(bytes)),
        ("list", Arc::new(list.finish())),
        ("map", Arc::new(map.finish())),
        ("inner", Arc::new(inner)),
        ("nothing", Arc::new(NullArray::new(rows))),
        ("dictionary", Arc::new(dictionary)),
    ];
    let fields: Fields = columns
        .iter()
        .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
        .collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let body = StructArray::try_new_with_length(fields, arrays, None, rows).expect("columns fit");
    Batch::from_columns(envelope, Body::Columns(body)).expect("columns fit")
}
