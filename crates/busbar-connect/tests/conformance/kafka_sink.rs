//! What the sink of `kafka` does beside what all sinks do.

use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use busbar_connector::{Delivery, Sink, SinkContext, Written};
use busbar_event::{BatchBuilder, Class, Error, Flags, Row};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::kafka_server::kafka;
use crate::subjects::numbered;
use crate::world::spec;

fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    Arc::new(Schema::new(vec![text("id"), text("change")]))
}

/// Rows of id, change and payload, with topic `a/b`, a tag and a time.
fn delivery(rows: &[(&str, &str, &str)], producer: &str, position: u64) -> Delivery {
    let mut builder = BatchBuilder::new();
    for (id, _, payload) in rows {
        let topic = builder.topic_id(&format!("a/{id}"));
        builder.push(Row {
            topic,
            key: None,
            time: 1_700_000_000_123_456,
            client: None,
            flags: Flags::default(),
            tags: &[
                ("unit", "mm"),
                ("$content-type", "text/plain"),
                ("$expires-at", "1"),
            ],
            payload: payload.as_bytes(),
        });
    }
    let column = |of: fn(&(&str, &str, &str)) -> String| -> StringArray {
        rows.iter().map(|row| Some(of(row))).collect()
    };
    let columns: Vec<Arc<dyn arrow::array::Array>> = vec![
        Arc::new(column(|row| row.0.to_owned())),
        Arc::new(column(|row| row.1.to_owned())),
    ];
    Delivery {
        events: builder.finish(),
        rows: RecordBatch::try_new(schema(), columns).expect("rows"),
        producer: producer.into(),
        position,
        first: 0,
        sources: None,
    }
}

struct Opened {
    runtime: Runtime,
    sink: Box<dyn Sink>,
}

impl Opened {
    fn new(write: &str) -> Opened {
        let text = format!(
            "kafka: {{ brokers: ['{}'], write: {{ {write} }} }}\n",
            kafka().address()
        );
        let runtime = Runtime::new().expect("a runtime");
        let context = SinkContext {
            name: "c".into(),
            project_dir: std::path::Path::new("/").into(),
            clock: Arc::new(busbar_log::SystemClock),
            schema: schema(),
        };
        let registry = busbar_connect::registry();
        let connector = registry.get("kafka").expect("registered");
        let spec = spec(&text);
        let sink = runtime
            .block_on(connector.sink(&spec, context))
            .expect("it opens");
        Opened { runtime, sink }
    }

    fn write(&mut self, delivery: &Delivery) -> Result<Written, Error> {
        self.runtime.block_on(self.sink.write(delivery))
    }
}

fn rows(numbers: std::ops::Range<u64>) -> Vec<String> {
    numbered(numbers)
}

fn of(rows: &[String], producer: &str, position: u64) -> Delivery {
    let rows: Vec<_> = rows.iter().map(|row| ("x", "", row.as_str())).collect();
    delivery(&rows, producer, position)
}

#[test]
fn keys_headers_times_and_deletions_arrive_with_each_codec() {
    let peer = kafka().peer();
    for codec in ["none", "gzip", "lz4", "zstd"] {
        let topic = kafka().topic(&peer, 3, &json!({}));
        let mut sink = Opened::new(&format!(
            "topic: {topic}, key: 'p-${{id}}', change: change, compression: {codec}, producer: {topic}"
        ));
        let written = sink.write(&delivery(
            &[
                ("1", "insert", "one"),
                ("2", "update", "two"),
                ("1", "delete", "gone"),
                ("3", "schema", "left out"),
            ],
            "f",
            4,
        ));
        assert!(written.expect("written").rejected.is_empty());
        let found = peer.ask(json!({"do": "rows", "topic": topic}));
        let mut found: Vec<Value> = found.as_array().expect("rows").clone();
        found.sort_by_key(|row| (row[2].to_string(), row[1].as_u64()));
        let headers = json!([["unit", "mm"], ["content-type", "text/plain"]]);
        let told: Vec<_> = found
            .iter()
            .map(|row| json!([row[2], row[3], row[4], row[5]]))
            .collect();
        let row =
            |key: &str, value: Option<&str>| json!([key, value, headers, 1_700_000_000_123_i64]);
        let wanted = [
            row("p-1", Some("one")),
            row("p-1", None),
            row("p-2", Some("two")),
        ];
        assert_eq!(told, wanted, "{codec}");
        assert_eq!(found[0][0], found[1][0], "one key, one partition");
    }
}

/// Where the key goes is where Kafka's own clients put it: a table is joined with what others write.
#[test]
fn keys_go_where_other_clients_put_them() {
    let peer = kafka().peer();
    let topic = kafka().topic(&peer, 7, &json!({}));
    let mut sink = Opened::new(&format!(
        "topic: {topic}, key: '${{id}}', producer: {topic}"
    ));
    let ids: Vec<_> = (0..50).map(|n| format!("key-{n}")).collect();
    let mine: Vec<_> = ids.iter().map(|id| (id.as_str(), "", "mine")).collect();
    sink.write(&delivery(&mine, "f", 50)).expect("written");
    // As Java does it; librdkafka's default is another one.
    let other: Vec<_> = ids.iter().map(|id| json!(["theirs", id])).collect();
    peer.ask(json!({"do": "produce", "topic": topic, "rows": other, "partitioner": "murmur2"}));
    let found = peer.ask(json!({"do": "rows", "topic": topic}));
    for id in &ids {
        let of = found.as_array().expect("rows").iter();
        let places: Vec<_> = of.filter(|row| row[2] == **id).map(|row| &row[0]).collect();
        assert_eq!(places.len(), 2);
        assert_eq!(places[0], places[1], "{id}");
    }
}

#[test]
fn the_topic_may_depend_on_the_row() {
    let peer = kafka().peer();
    let topic = kafka().topic(&peer, 1, &json!({}));
    peer.ask(json!({"do": "create", "topic": format!("{topic}.a.x")}));
    let mut sink = Opened::new(&format!(
        "topic: '{topic}.${{topic}}', positions: {topic}, producer: {topic}"
    ));
    let written = sink
        .write(&delivery(
            &[("x", "", "1"), ("y", "", "2"), ("x", "", "3")],
            "f",
            3,
        ))
        .expect("written");
    assert_eq!(peer.values(&format!("{topic}.a.x")), ["1", "3"]);
    let [(1, why)] = &written.rejected[..] else {
        panic!("{written:?}");
    };
    assert_eq!(
        (why.class(), why.code()),
        (Class::Permanent, "kafka.no-topic")
    );
    // The same again is known, and so is what was refused.
    drop(sink);
    let mut sink = Opened::new(&format!(
        "topic: '{topic}.${{topic}}', positions: {topic}, producer: {topic}"
    ));
    let again = sink.write(&delivery(
        &[("x", "", "1"), ("y", "", "2"), ("x", "", "3")],
        "f",
        3,
    ));
    assert!(
        again.expect("known").rejected.is_empty()
            || peer.values(&format!("{topic}.a.x")).len() == 2
    );
    let missing = kafka().server.name();
    let mut sink = Opened::new(&format!("topic: {missing}"));
    let why = sink.write(&of(&rows(0..1), "f", 1)).expect_err("no topic");
    assert_eq!(
        (why.class(), why.code()),
        (Class::Configuration, "kafka.no-topic")
    );
}

/// What was refused before a crash is told again, though nothing is written again.
#[test]
fn refused_rows_are_known_after_a_crash() {
    let peer = kafka().peer();
    let topic = kafka().topic(&peer, 1, &json!({"max.message.bytes": "5000"}));
    let large = "x".repeat(9_000);
    let rows = [
        ("1", "", "one"),
        ("2", "", large.as_str()),
        ("3", "", "three"),
    ];
    let write = format!("topic: {topic}, producer: {topic}");
    for round in 0..2 {
        let mut sink = Opened::new(&write);
        let written = sink.write(&delivery(&rows, "f", 3)).expect("written");
        let at: Vec<_> = written.rejected.iter().map(|(row, _)| *row).collect();
        assert_eq!(at, [1], "round {round}");
        assert_eq!(written.rejected[0].1.class(), Class::Permanent);
        assert_eq!(peer.values(&topic), ["one", "three"]);
    }
}

/// A part of a delivery is not taken for another part of it.
#[test]
fn parts_of_a_delivery_are_told_apart() {
    let peer = kafka().peer();
    let topic = kafka().topic(&peer, 1, &json!({}));
    let write = format!("topic: {topic}, producer: {topic}");
    let all = rows(0..10);
    let whole = of(&all, "f", 10);
    let mut sink = Opened::new(&write);
    sink.write(&whole.slice(0..4)).expect("written");
    drop(sink);
    let mut sink = Opened::new(&write);
    sink.write(&whole.slice(4..10)).expect("written");
    assert_eq!(peer.values(&topic), all);
    drop(sink);
    let mut sink = Opened::new(&write);
    sink.write(&whole).expect("known");
    assert_eq!(peer.values(&topic), all);
}

/// Another writer of the same name takes over; the first one notices and neither writes twice.
#[test]
fn a_writer_that_was_taken_over_writes_nothing_twice() {
    let peer = kafka().peer();
    let topic = kafka().topic(&peer, 1, &json!({}));
    let write = format!("topic: {topic}, producer: {topic}");
    let (mut old, mut new) = (Opened::new(&write), Opened::new(&write));
    old.write(&of(&rows(0..5), "f", 5)).expect("written");
    new.write(&of(&rows(0..5), "f", 5)).expect("known");
    new.write(&of(&rows(5..10), "f", 10)).expect("written");
    let why = old.write(&of(&rows(5..10), "f", 10)).expect_err("fenced");
    assert_eq!(
        (why.class(), why.code()),
        (Class::Transient, "kafka.fenced")
    );
    old.write(&of(&rows(5..10), "f", 10)).expect("known");
    assert_eq!(peer.values(&topic), rows(0..10));
}
