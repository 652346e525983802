use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Fields};
use proptest::prelude::*;

use crate::testing::{batch, build, event, events, owned, typed};
use crate::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_builder_gives_back_what_it_was_given(all in prop::collection::vec(events(30), 0..4)) {
        let mut builder = BatchBuilder::new();
        for events in &all {
            let epoch = builder.epoch();
            let batch = build(&mut builder, events);
            prop_assert_eq!(&owned(&batch), events);
            prop_assert!(builder.is_empty() && builder.epoch() > epoch);
            let range = (
                events.iter().map(|event| event.time).min().unwrap_or(i64::MAX),
                events.iter().map(|event| event.time).max().unwrap_or(i64::MIN),
            );
            prop_assert_eq!(batch.time_range(), range);
            prop_assert_eq!(batch.any_retain(), events.iter().any(|event| event.flags & Flags::RETAIN != 0));
            // Each topic once.
            let topics: std::collections::HashSet<_> = batch.topic_values().iter().collect();
            prop_assert_eq!(topics.len(), batch.topic_values().len());
        }
    }

    #[test]
    fn arrow_sees_the_same_events(events in events(30)) {
        let batch = batch(&events);
        prop_assert_eq!(batch.record().num_rows(), events.len());
        let again = Batch::from_record(batch.record().clone()).unwrap();
        prop_assert_eq!(owned(&again), &events[..]);
        let again = batch.with_body(batch.body().clone()).unwrap();
        prop_assert_eq!(owned(&again), events);
    }

    #[test]
    fn batches_join(all in prop::collection::vec(events(20), 1..5)) {
        let batches: Vec<Batch> = all.iter().map(|events| batch(events)).collect();
        let whole: Vec<_> = all.concat();
        let joined = Batch::concat(&batches).unwrap();
        prop_assert_eq!(owned(&joined), &whole[..]);
        let typed_batches: Vec<Batch> = all.iter().map(|events| typed(events)).collect();
        let joined = Batch::concat(&typed_batches).unwrap();
        prop_assert_eq!(joined.rows(), whole.len());
        let mut offset = 0;
        for part in &typed_batches {
            let again = joined.slice(offset, part.rows());
            prop_assert_eq!(again.record()["value"].to_data(), part.record()["value"].to_data());
            prop_assert_eq!(again.payloads(), part.payloads());
            offset += part.rows();
        }
    }

    #[test]
    fn slices_of_slices_are_slices(
        events in events(30),
        cuts in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 1..4),
    ) {
        let mut batch = batch(&events);
        let mut expected = &events[..];
        for (a, b) in cuts {
            let (a, b) = (a.index(expected.len() + 1), b.index(expected.len() + 1));
            let (from, to) = (a.min(b), a.max(b));
            batch = batch.slice(from, to - from);
            expected = &expected[from..to];
        }
        prop_assert_eq!(&owned(&batch)[..], expected);
        let picked = batch.take(&(0..expected.len() as u32).rev().collect());
        let reversed: Vec<_> = expected.iter().rev().cloned().collect();
        prop_assert_eq!(owned(&picked), reversed);
        prop_assert!(picked.topic_values().len() <= events.len().max(1));
    }

    #[test]
    fn a_key_long_after_the_first_event(before in 0usize..70, mut late in event()) {
        let mut plain = late.clone();
        (plain.key, plain.client, plain.tags) = (None, None, vec![]);
        late.key = Some("k".into());
        late.client = Some("c".into());
        late.tags = vec![("a".into(), "b".into())];
        let mut events = vec![plain.clone(); before];
        events.extend([late, plain]);
        prop_assert_eq!(owned(&batch(&events)), events);
    }
}

#[test]
fn a_full_builder_says_so() {
    let mut builder = BatchBuilder::new();
    let payload = vec![0; limits::BATCH_BYTES_MAX / 4];
    for pushed in 0.. {
        if builder.is_full() {
            assert_eq!(pushed, 4);
            break;
        }
        let topic = builder.topic_id("a");
        let (flags, tags) = (Flags::default(), &[][..]);
        builder.push(Row {
            topic,
            key: None,
            time: 0,
            client: None,
            flags,
            tags,
            payload: &payload,
        });
    }
}

#[test]
#[should_panic(expected = "another epoch")]
fn an_id_of_the_batch_before_is_refused() {
    let mut builder = BatchBuilder::new();
    let topic = builder.topic_id("a");
    builder.finish();
    let (flags, tags, payload) = (Flags::default(), &[][..], &[][..]);
    builder.push(Row {
        topic,
        key: None,
        time: 0,
        client: None,
        flags,
        tags,
        payload,
    });
}

#[test]
fn memory_is_counted_by_what_a_slice_shows() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let event = proptest::strategy::ValueTree::current(&event().new_tree(&mut runner).unwrap());
    let events = vec![
        testing::Owned {
            payload: vec![1; 1000],
            ..event
        };
        100
    ];
    let whole = batch(&events);
    assert!(
        (100_000..110_000).contains(&whole.bytes()),
        "{}",
        whole.bytes()
    );
    assert!(whole.slice(10, 10).bytes() < 12_000);
    let typed = typed(&events);
    assert!(typed.slice(10, 10).bytes() < typed.bytes() / 8);
}

fn columns(name: &str, column: ArrayRef) -> StructArray {
    let fields = Fields::from(vec![Field::new(name, column.data_type().clone(), true)]);
    StructArray::new(fields, vec![column], None)
}

fn envelope(topics: &[&str]) -> Envelope {
    Envelope::new(&StringArray::from(topics.to_vec()), vec![5; topics.len()])
}

#[test]
fn columns_that_do_not_fit_are_refused() {
    let payload = |rows: usize| Body::Payload(BinaryArray::from(vec![&b"x"[..]; rows]));
    let code = |envelope: Envelope, body| Batch::from_columns(envelope, body).unwrap_err().code();
    let good = Batch::from_columns(envelope(&["a", "b", "a"]), payload(3)).unwrap();
    assert_eq!(
        (good.topic(2), good.topic_values().len(), good.times()),
        ("a", 2, &[5, 5, 5][..])
    );

    assert_eq!(code(envelope(&["a"]), payload(2)), "event.batch-rows");
    assert_eq!(code(envelope(&["a/#"]), payload(1)), "event.topic-wildcard");
    let null = Body::Payload(BinaryArray::from(vec![None::<&[u8]>]));
    assert_eq!(code(envelope(&["a"]), null), "event.batch-null");
    let topic = dictionary(&StringArray::from(vec![None::<&str>]));
    assert_eq!(
        code(
            Envelope {
                topic,
                ..envelope(&["a"])
            },
            payload(1)
        ),
        "event.batch-null"
    );
    let interval = columns("i", Arc::new(IntervalYearMonthArray::from(vec![1])));
    assert_eq!(
        code(envelope(&["a"]), Body::Columns(interval)),
        "event.batch-column"
    );
    let mut deep: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    for _ in 0..limits::COLUMN_DEPTH_MAX + 1 {
        deep = Arc::new(columns("a", deep));
    }
    assert_eq!(
        code(envelope(&["a"]), Body::Columns(columns("a", deep))),
        "event.columns-many"
    );

    let record = |fields: Vec<(&str, ArrayRef)>| RecordBatch::try_from_iter(fields).unwrap();
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let time: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1]).with_timezone("UTC"));
    let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![&b"x"[..]]));
    let least = vec![
        ("topic", text.clone()),
        ("time", time.clone()),
        ("payload", bytes.clone()),
    ];
    assert_eq!(
        Batch::from_record(record(least)).unwrap().event(0).topic,
        "a"
    );
    for (fields, code) in [
        (
            vec![("topic", text.clone()), ("time", time.clone())],
            "event.batch-missing",
        ),
        (
            vec![("time", time.clone()), ("payload", bytes.clone())],
            "event.batch-missing",
        ),
        (
            vec![
                ("topic", text.clone()),
                ("time", text.clone()),
                ("payload", bytes.clone()),
            ],
            "event.batch-column",
        ),
        (
            vec![
                ("topic", time.clone()),
                ("time", time.clone()),
                ("payload", bytes.clone()),
            ],
            "event.batch-column",
        ),
        (
            vec![
                ("topic", text.clone()),
                ("time", time.clone()),
                ("value", bytes.clone()),
            ],
            "event.batch-column",
        ),
    ] {
        assert_eq!(Batch::from_record(record(fields)).unwrap_err().code(), code);
    }
    let mixed = [good.clone(), typed(&[])];
    assert_eq!(
        Batch::concat(&mixed).unwrap_err().code(),
        "event.batch-mixed"
    );
    assert_eq!(Batch::concat(&[]).unwrap().rows(), 0);
}

#[test]
fn views_and_dictionaries_become_plain() {
    let views: ArrayRef = Arc::new(StringViewArray::from(vec![
        Some("a text longer than a view's own"),
        None,
    ]));
    let list: ArrayRef = Arc::new(LargeListArray::from_iter_primitive::<
        arrow::datatypes::Int16Type,
        _,
        _,
    >(vec![Some(vec![Some(1)]), None]));
    for (column, plain) in [
        (views, DataType::Utf8),
        (
            list,
            DataType::List(Arc::new(Field::new_list_field(DataType::Int16, true))),
        ),
    ] {
        let batch = Batch::from_columns(envelope(&["a", "b"]), Body::Columns(columns("c", column)))
            .unwrap();
        let Body::Columns(stored) = batch.body() else {
            panic!("typed")
        };
        assert_eq!(stored.column(0).data_type(), &plain);
        let read = decode(encode(&batch)).unwrap();
        assert_eq!(read.record(), batch.record());
    }
}
