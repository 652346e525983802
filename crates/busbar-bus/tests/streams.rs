//! Streams as their files say, changed while events flow.

mod common;

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, StringArray, StructArray};
use arrow::datatypes::{DataType, Field};
use busbar_bus::{Event, INBOX};
use busbar_event::{Batch, Body, Envelope, RELATION_COLUMNS};
use common::{NOON, World, contents, event, filter, publish, publisher, settle, streams};

fn count(world: &World, stream: &str) -> usize {
    contents(&world.bus, stream).iter().map(Vec::len).sum()
}

fn payloads(topics: &[&str]) -> Batch {
    let envelope = Envelope::new(
        &StringArray::from(topics.to_vec()),
        vec![NOON; topics.len()],
    );
    let body =
        arrow::array::BinaryArray::from_iter_values(topics.iter().map(|topic| topic.as_bytes()));
    Batch::from_columns(envelope, Body::Payload(body)).unwrap()
}

#[test]
fn the_most_specific_pattern_takes_an_event() {
    let world = World::new(1);
    world
        .bus
        .apply_streams(&streams(&[
            ("all", r#"{"topics":"meter/#"}"#),
            ("one", r#"{"topics":["meter/+/reading","x"]}"#),
            ("this", r#"{"topics":"meter/m1/reading"}"#),
        ]))
        .unwrap();
    for (topic, home) in [
        ("meter/m1/reading", "this"),
        ("meter/m2/reading", "one"),
        ("meter/m2/state", "all"),
        ("meter", "all"),
        ("x", "one"),
        ("y", INBOX),
        ("$x/y", INBOX),
    ] {
        assert_eq!(world.bus.home(topic).name(), home, "{topic}");
        publish(&world.bus, &[event(topic, b"1")]);
    }
    assert_eq!(
        (
            count(&world, "all"),
            count(&world, "one"),
            count(&world, "this")
        ),
        (2, 2, 1)
    );
    assert_eq!(count(&world, INBOX), 2);
    let counters = world.bus.stream("all").unwrap().counters();
    assert_eq!((counters.events, counters.frames), (2, 2));
}

#[test]
fn streams_change_while_events_flow() {
    let world = World::new(2);
    let mut publisher = publisher(&world.bus);
    let push = |publisher: &mut busbar_bus::Publisher| {
        let ticket = publisher.push(&event("a/b", b"1")).unwrap();
        settle(publisher, &[ticket]);
    };
    push(&mut publisher);
    assert_eq!(count(&world, INBOX), 1);
    let epoch = world.bus.route_epoch();
    world
        .bus
        .apply_streams(&streams(&[("a", r#"{"topics":"a/#"}"#)]))
        .unwrap();
    assert!(world.bus.route_epoch() > epoch);
    push(&mut publisher);
    assert_eq!((count(&world, INBOX), count(&world, "a")), (1, 1));
    world
        .bus
        .apply_streams(&streams(&[("b", r#"{"topics":"a/#"}"#)]))
        .unwrap();
    push(&mut publisher);
    assert_eq!((count(&world, "a"), count(&world, "b")), (1, 1));
    let a = world.bus.stream("a").unwrap();
    assert!(a.is_detached());
    // What lay in a lane when its stream was detached is still written there.
    let held = publisher.push(&event("a/b", b"2")).unwrap();
    world
        .bus
        .apply_streams(&streams(&[("a", r#"{"topics":"a/#","partitions":2}"#)]))
        .unwrap();
    settle(&mut publisher, &[held]);
    assert_eq!(count(&world, "b"), 2);
    assert!(!world.bus.stream("a").unwrap().is_detached());
    assert_eq!(world.bus.stream("a").unwrap().partitions().len(), 2);
    drop(publisher);
    let world = world.restart(false);
    assert_eq!(
        (count(&world, "a"), count(&world, "b"), count(&world, INBOX)),
        (1, 2, 1)
    );
    assert!(world.bus.stream("b").unwrap().is_detached());
    assert_eq!(world.bus.stream("a").unwrap().partitions().len(), 2);
}

#[test]
fn refuses_what_does_not_go_together_and_changes_nothing() {
    let world = World::new(3);
    let good = streams(&[("a", r#"{"topics":"a/#","partitions":2}"#)]);
    world.bus.apply_streams(&good).unwrap();
    let epoch = world.bus.route_epoch();
    for (code, specs) in [
        (
            "bus.pattern-twice",
            streams(&[("a", r#"{"topics":"x"}"#), ("b", r#"{"topics":["y","x"]}"#)]),
        ),
        (
            "bus.partitions-fewer",
            streams(&[("a", r#"{"topics":"a/#"}"#)]),
        ),
        (
            "bus.partitions-range",
            streams(&[("c", r#"{"partitions":0}"#)]),
        ),
        ("bus.stream-name", streams(&[("../c", "{}")])),
        ("bus.inbox-topics", streams(&[(INBOX, r#"{"topics":"a"}"#)])),
        (
            "bus.key-template",
            streams(&[("c", r#"{"key":"${nothing}"}"#)]),
        ),
        ("bus.time-raw", streams(&[("c", r#"{"time":"at"}"#)])),
        (
            "bus.time-schema",
            streams(&[("c", r#"{"time":"at","format":"json"}"#)]),
        ),
        (
            "bus.time-unknown",
            streams(&[("c", r#"{"time":"at","format":"json","schema":{"a":"int"}}"#)]),
        ),
        (
            "bus.time-type",
            streams(&[(
                "c",
                r#"{"time":"at","format":"json","schema":{"at":"int"}}"#,
            )]),
        ),
    ] {
        let error = world.bus.apply_streams(&specs).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(!error.to_string().contains(" {"), "{error}");
    }
    assert_eq!(world.bus.route_epoch(), epoch);
    assert_eq!(world.bus.home("a/b").name(), "a");
    assert!(world.bus.stream("c").is_none());
}

#[tokio::test]
async fn a_batch_goes_to_its_streams_in_one_frame_each_and_once() {
    let world = World::new(4);
    world
        .bus
        .apply_streams(&streams(&[
            ("a", r#"{"topics":"a/#","key":"${client}","partitions":3}"#),
            ("b", r#"{"topics":"b/#"}"#),
        ]))
        .unwrap();
    let topics: Vec<String> = (0..100)
        .map(|n| format!("{}/c{}/x", ["a", "b", "c"][n % 3], n % 10))
        .collect();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let batch = payloads(&topics);
    let producer: Arc<str> = "flow:test".into();
    let done = world
        .bus
        .append(batch.clone(), Some((Arc::clone(&producer), 7)))
        .await
        .unwrap();
    assert_eq!(done.rows(), 100);
    assert!(!done.duplicate());
    assert_eq!(
        (count(&world, "a"), count(&world, "b"), count(&world, INBOX)),
        (34, 33, 33)
    );
    let again = world
        .bus
        .append(batch.clone(), Some((Arc::clone(&producer), 7)))
        .await
        .unwrap();
    assert!(again.duplicate());
    assert_eq!(count(&world, "a"), 34);
    for partition in world.bus.stream("a").unwrap().partitions().iter() {
        let frames = partition
            .log()
            .read(partition.start(), 1 << 20)
            .unwrap_or_default();
        assert!(frames.len() <= 1);
        if !frames.is_empty() {
            assert_eq!(partition.producer_position("flow:test"), Some(7));
        }
        for chunk in partition
            .read(partition.start(), 1 << 20)
            .unwrap_or_default()
        {
            for row in 0..chunk.batch.rows() {
                let client = chunk.batch.topic(row).split('/').nth(1);
                assert_eq!(chunk.batch.key(row), client);
            }
        }
    }
    let world = world.restart(true);
    let again = world
        .bus
        .append(batch.clone(), Some((producer, 7)))
        .await
        .unwrap();
    assert!(again.duplicate(), "a restart forgets no producer");
    // A key goes to one partition whether by a publisher or by a batch.
    world
        .bus
        .apply_streams(&streams(&[(
            "a",
            r#"{"topics":"a/#","key":"${client}","partitions":3}"#,
        )]))
        .unwrap();
    let before: Vec<u64> = world
        .bus
        .stream("a")
        .unwrap()
        .partitions()
        .iter()
        .map(|p| p.end())
        .collect();
    for client in 0..10 {
        let topic = format!("a/c{client}/x");
        publish(&world.bus, &[event(&topic, b"")]);
        world.bus.append(payloads(&[&topic]), None).await.unwrap();
    }
    for (partition, before) in world
        .bus
        .stream("a")
        .unwrap()
        .partitions()
        .iter()
        .zip(before)
    {
        assert_eq!((partition.end() - before) % 2, 0);
    }
}

#[tokio::test]
async fn internal_streams_take_what_they_are_given_only() {
    let world = World::new(5);
    let dead = world
        .bus
        .derived_stream("_dead", 1, busbar_bus::Retention::default())
        .unwrap();
    assert!(dead.is_internal());
    world
        .bus
        .append_to(&dead, payloads(&["a", "b"]), None)
        .await
        .unwrap();
    assert_eq!((count(&world, "_dead"), count(&world, INBOX)), (2, 0));
    let world = world.restart(false);
    assert_eq!(count(&world, "_dead"), 2);
    assert!(!world.bus.stream("_dead").unwrap().is_detached());
    assert_eq!(world.bus.home("_dead").name(), INBOX);
}

#[test]
fn columns_are_inferred_and_then_fixed() {
    let world = World::new(6);
    let specs = streams(&[
        ("j", r#"{"topics":"j","format":"json"}"#),
        (
            "d",
            r#"{"topics":"d","format":"json","schema":{"kw":"float"}}"#,
        ),
    ]);
    world.bus.apply_streams(&specs).unwrap();
    let names = |world: &World, stream: &str| -> Vec<String> {
        let schema = world.bus.stream(stream).unwrap().relation_schema().unwrap();
        schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect()
    };
    assert_eq!(
        names(&world, "d"),
        [&RELATION_COLUMNS[..], &["kw"]].concat()
    );
    assert_eq!(
        names(&world, INBOX),
        [&RELATION_COLUMNS[..], &["payload"]].concat()
    );
    assert!(world.bus.stream_schema("j").unwrap().is_none());
    publish(&world.bus, &[event("j", br#"{"kw":3.2}"#)]);
    assert_eq!(
        names(&world, "j"),
        [&RELATION_COLUMNS[..], &["kw"]].concat()
    );
    publish(
        &world.bus,
        &[event("j", br#"{"kw":3.2,"site":"a","time":"x"}"#)],
    );
    let all = [&RELATION_COLUMNS[..], &["kw", "site", "payload_time"]].concat();
    assert_eq!(names(&world, "j"), all);
    for _ in 0..120 {
        publish(&world.bus, &[event("j", br#"{"kw":3.2,"site":"a"}"#)]);
    }
    assert_eq!(names(&world, "j"), all);
    publish(&world.bus, &[event("j", br#"{"kw":3.2,"late":1}"#)]);
    let world = world.restart(false);
    world.bus.apply_streams(&specs).unwrap();
    assert_eq!(names(&world, "j"), all);
}

/// Columns of a stream without a schema are those that print every value as it came, however few events
/// there are.
#[test]
fn inferred_columns_keep_every_value_and_widen_for_those_they_do_not_fit() {
    let world = World::new(8);
    let specs = streams(&[("j", r#"{"topics":"j","format":"json"}"#)]);
    world.bus.apply_streams(&specs).unwrap();
    let stream = world.bus.stream("j").unwrap();
    let kinds = || -> Vec<(String, DataType)> {
        let schema = stream.schema().unwrap().unwrap();
        let fields = schema.fields().iter();
        fields
            .map(|field| (field.name().clone(), field.data_type().clone()))
            .collect()
    };
    let first =
        br#"{"id":9007199254740993,"big":18446744073709551615,"zip":"00501","kw":3,"key":"k"}"#;
    publish(&world.bus, &[event("j", first)]);
    let named = |name: &str, data_type| (name.to_owned(), data_type);
    let mut expected = vec![
        named("id", DataType::Int64),
        named("big", DataType::Utf8),
        named("zip", DataType::Utf8),
        named("kw", DataType::Int64),
        named("payload_key", DataType::Utf8),
    ];
    assert_eq!(kinds(), expected);
    stream.fix_schema().unwrap();
    // What fits changes nothing; what does not is found when it is decoded, and widens the column.
    let fits = BinaryArray::from_vec(vec![br#"{"id":1,"kw":4}"#]);
    assert!(!stream.widen_schema(&fits).unwrap());
    let fraction = BinaryArray::from_vec(vec![br#"{"kw":3.5}"#]);
    assert!(stream.widen_schema(&fraction).unwrap());
    expected[3].1 = DataType::Float64;
    assert_eq!(kinds(), expected);
    let beyond = BinaryArray::from_vec(vec![br#"{"id":1e400,"kw":9007199254740993}"#]);
    assert!(stream.widen_schema(&beyond).unwrap());
    (expected[0].1, expected[3].1) = (DataType::Utf8, DataType::Utf8);
    assert_eq!(kinds(), expected);
    drop(stream);
    let world = world.restart(false);
    world.bus.apply_streams(&specs).unwrap();
    let schema = world.bus.stream("j").unwrap().schema().unwrap().unwrap();
    let kept: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| field.data_type().clone())
        .collect();
    assert_eq!(
        kept,
        expected
            .into_iter()
            .map(|(_, kind)| kind)
            .collect::<Vec<_>>()
    );
}

#[test]
fn a_column_that_would_be_hidden_is_refused() {
    let check = |schema: &str, rest: &str| {
        let spec = format!(r#"{{"topics":"row/+/in","format":"json","schema":{schema}{rest}}}"#);
        streams(&[("s", &spec)])["s"]
            .check("s")
            .map_err(|error| error.code())
    };
    for name in ["topic", "key", "time", "tags", "partition", "offset"] {
        let hidden = format!(r#"{{"v":"int","{name}":"text"}}"#);
        assert_eq!(check(&hidden, ""), Err("bus.column-reserved"), "{name}");
    }
    assert_eq!(
        check(r#"{"payload_key":{"type":"text","path":"key"}}"#, ""),
        Ok(())
    );
    assert_eq!(
        check(r#"{"client":"text","flags":"int","payload":"json"}"#, ""),
        Ok(())
    );
    // The event's own time may be called so.
    assert_eq!(check(r#"{"time":"time"}"#, r#","time":"time""#), Ok(()));
    assert_eq!(check(r#"{"time":"time"}"#, ""), Err("bus.column-reserved"));
}

#[test]
fn rows_that_flows_wrote_say_themselves_what_they_are() {
    let world = World::new(9);
    let specs = streams(&[("j", r#"{"topics":"j","format":"json"}"#)]);
    world.bus.apply_streams(&specs).unwrap();
    let columns = StructArray::from(vec![(
        Arc::new(Field::new("n", DataType::Int64, true)),
        Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef,
    )]);
    let envelope = Envelope::new(&StringArray::from(vec!["j"; 2]), vec![NOON; 2]);
    let batch = Batch::from_columns(envelope, Body::Columns(columns)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(world.bus.append(batch, None)).unwrap();
    let schema = world.bus.stream("j").unwrap().relation_schema().unwrap();
    let n = schema.field_with_name("n").unwrap();
    assert_eq!(n.data_type(), &DataType::Int64);
}

#[test]
fn time_comes_from_the_payload_where_it_has_one() {
    let world = World::new(7);
    let specs = streams(&[(
        "t",
        r#"{"topics":"t","format":"json","time":"at","schema":{"at":"time","v":"int"}}"#,
    )]);
    world.bus.apply_streams(&specs).unwrap();
    publish(
        &world.bus,
        &[
            event("t", br#"{"at":"2023-01-02T03:04:05Z","v":1}"#),
            event("t", br#"{"v":2}"#),
            event("t", b"no json"),
        ],
    );
    let stream = world.bus.stream("t").unwrap();
    let chunks = stream.partitions()[0].read(0, 1 << 20).unwrap();
    let times: Vec<i64> = chunks
        .iter()
        .flat_map(|chunk| chunk.batch.times().to_vec())
        .collect();
    assert_eq!(times, [1_672_628_645_000_000, NOON, NOON]);
}

#[test]
fn the_board_shows_the_last_event_of_each_topic() {
    let world = World::new(8);
    for n in 0..50 {
        let (a, b) = (format!("b/{}", n % 5), format!("{n}"));
        publish(&world.bus, &[event(&a, b.as_bytes())]);
    }
    let page = world.bus.last_values(&filter("b/+"), None, 100).unwrap();
    let found: Vec<_> = page
        .values
        .iter()
        .map(|value| (value.topic.to_string(), value.payload.to_vec()))
        .collect();
    let expected: Vec<_> = (0..5)
        .map(|n| (format!("b/{n}"), format!("{}", 45 + n).into_bytes()))
        .collect();
    assert_eq!(found, expected);
    // Of several in one batch it is the last too.
    publish(
        &world.bus,
        &[
            event("b/3", b"old"),
            Event {
                client: Some("c"),
                ..event("b/3", b"new")
            },
        ],
    );
    let page = world.bus.last_values(&filter("b/3"), None, 100).unwrap();
    assert_eq!(page.values[0].payload, &b"new"[..]);
}
