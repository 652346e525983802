//! What the source of `kafka` does beside what all sources do.

use std::sync::Arc;

use busbar_event::Class;
use serde_json::{Value, json};

use crate::kafka_server::{KafkaPeer, kafka};
use crate::world::{Event, World, eventually, rest};

const STREAM: (&str, &str) = ("streams/in.yaml", "topics: in/#\n");

fn world() -> World {
    World::new(Arc::new(tempfile::tempdir().expect("a folder")))
}

fn connection(read: &str) -> String {
    format!(
        "kafka: {{ brokers: ['{}'], read: {{ {read} }} }}\ntopic: in/${{topic}}\n",
        kafka().address()
    )
}

fn apply(world: &World, text: &str) {
    world.apply(&[STREAM, ("connections/c.yaml", text)]);
}

/// The events, as soon as there are so many; and no more a moment later.
fn wait(world: &World, count: usize) -> Vec<Event> {
    eventually("the records", || match world.events("in").len() {
        there if there >= count => Ok(()),
        there => Err(format!("{there} of {count}, {:?}", world.source("c"))),
    });
    rest(200);
    let events = world.events("in");
    assert_eq!(events.len(), count, "{events:?}");
    events
}

fn texts(events: &[Event]) -> Vec<String> {
    events.iter().map(Event::text).collect()
}

/// Waits until the connection has stopped; why.
fn stopped(world: &World) -> busbar_event::Error {
    eventually("the end", || match world.source("c") {
        status if status.state == "stopped" => status.error.ok_or_else(|| "no error".to_owned()),
        status => Err(format!("{status:?}")),
    })
}

fn produce(peer: &KafkaPeer, topic: &str, rows: Value) {
    peer.ask(json!({"do": "produce", "topic": topic, "rows": rows}));
}

/// What librdkafka writes with each codec is read as it was, with key, time and headers.
#[test]
fn every_codec_is_read_and_headers_are_tags() {
    let (world, peer) = (world(), kafka().peer());
    let topic = kafka().topic(&peer, 1, &json!({}));
    let mut wanted = Vec::new();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let rows: Vec<_> = (0..2_000)
            .map(|n| {
                let value = format!("{codec} {n} {}", "雨".repeat(n % 50));
                let time = 1_700_000_000_000_i64 + n as i64;
                wanted.push((value.clone(), time * 1_000));
                json!([
                    value,
                    format!("k{n}"),
                    0,
                    [["unit", "mm"], ["n", n.to_string()]],
                    time
                ])
            })
            .collect();
        peer.ask(json!({"do": "produce", "topic": topic, "rows": rows, "codec": codec}));
    }
    apply(
        &world,
        &connection(&format!("topics: [{topic}], offset_tags: true")),
    );
    let events = wait(&world, wanted.len());
    for (at, (event, (value, time))) in events.iter().zip(wanted).enumerate() {
        assert_eq!((event.text(), event.time), (value, time));
        assert_eq!(event.topic, format!("in/{topic}"));
        let tag = |name: &str, value: String| (name.to_owned(), value);
        assert_eq!(
            event.tags,
            [
                tag("unit", "mm".into()),
                tag("n", (at % 2_000).to_string()),
                tag("kafka-partition", "0".into()),
                tag("kafka-offset", at.to_string()),
            ]
        );
    }
    let lag = eventually("no lag", || match world.source("c").lag_events {
        lag if lag.values().sum::<u64>() == 0 => Ok(lag),
        lag => Err(format!("{lag:?}")),
    });
    assert_eq!(lag.keys().collect::<Vec<_>>(), [&format!("{topic}/0")]);
}

#[test]
fn transactions_come_when_they_are_committed_and_not_when_given_up() {
    let (world, peer, other) = (world(), kafka().peer(), kafka().peer());
    let topic = kafka().topic(&peer, 1, &json!({}));
    let rows = |from: u64| -> Vec<_> { (from..from + 50).map(|n| [n.to_string()]).collect() };
    let transact = |id: &str, from: u64, end: &str| {
        let id = format!("{topic}-{id}");
        other.ask(json!({"do": "produce", "topic": topic, "rows": rows(from), "transaction": id, "end": end}));
    };
    transact("a", 0, "abort");
    transact("a", 100, "commit");
    produce(&peer, &topic, json!(rows(200)));
    transact("b", 300, "open");
    produce(&peer, &topic, json!(rows(400)));
    apply(&world, &connection(&format!("topics: [{topic}]")));
    // What comes after an open transaction waits for it.
    let before = texts(&wait(&world, 100));
    let numbers = |ranges: &[u64]| -> Vec<String> {
        let all = ranges.iter().flat_map(|from| *from..from + 50);
        all.map(|n| n.to_string()).collect()
    };
    assert_eq!(before, numbers(&[100, 200]));
    // Fenced, it is given up.
    transact("b", 500, "commit");
    assert_eq!(texts(&wait(&world, 200)), numbers(&[100, 200, 400, 500]));
    // The position stands behind the last transaction's end, which nobody sees.
    let end = peer.ask(json!({"do": "end", "topic": topic}));
    eventually("the end", || {
        match world.source("c").positions.get(&format!("{topic}/0")) {
            Some(position) if Some(*position) == end[1].as_u64() => Ok(()),
            position => Err(format!("{position:?}, not {end}")),
        }
    });
}

#[test]
fn patterns_find_new_topics_and_new_partitions_are_read() {
    let (world, peer) = (world(), kafka().peer());
    let topic = kafka().topic(&peer, 1, &json!({}));
    let (first, second) = (format!("{topic}-a"), format!("{topic}-b"));
    peer.ask(json!({"do": "create", "topic": first}));
    produce(&peer, &first, json!([["1"]]));
    produce(&peer, &topic, json!([["not meant"]]));
    apply(&world, &connection(&format!("topics: ['{topic}-*']")));
    wait(&world, 1);
    peer.ask(json!({"do": "create", "topic": second}));
    produce(&peer, &second, json!([["2"]]));
    wait(&world, 2);
    peer.ask(json!({"do": "grow", "topic": second, "partitions": 3}));
    produce(&peer, &second, json!([["3", null, 1], ["4", null, 2]]));
    let mut all = texts(&wait(&world, 4));
    all.sort();
    assert_eq!(all, ["1", "2", "3", "4"]);
}

#[test]
fn it_begins_where_it_is_told() {
    let peer = kafka().peer();
    let topic = kafka().topic(&peer, 2, &json!({}));
    let times = [1_500_000_000_000_i64, 1_600_000_000_000, 1_700_000_000_000];
    for (n, time) in times.iter().enumerate() {
        produce(&peer, &topic, json!([[n.to_string(), null, 0, null, time]]));
    }
    produce(&peer, &topic, json!([["other", null, 1, null, times[0]]]));
    for (start, wanted) in [
        ("earliest", &["0", "1", "2", "other"][..]),
        ("'2020-09-13T12:26:40Z'", &["1", "2"]),
        ("'2020-09-13T12:26:41Z'", &["2"]),
    ] {
        let world = world();
        apply(
            &world,
            &connection(&format!("topics: [{topic}], start: {start}")),
        );
        let mut all = texts(&wait(&world, wanted.len()));
        all.sort();
        assert_eq!(all, wanted, "{start}");
    }
    let mut world = world();
    let read = format!("topics: [{topic}], start: latest, partitions: [0]");
    apply(&world, &connection(&read));
    // As soon as the place is kept.
    let part = format!("{topic}/0");
    eventually("the place", || {
        match world.source("c").positions.get(&part) {
            Some(3) => Ok(()),
            _ => Err(format!("{:?}", world.source("c"))),
        }
    });
    assert_eq!(
        world.source("c").positions.len(),
        1,
        "the other is not read"
    );
    world.apply(&[STREAM]);
    produce(
        &peer,
        &topic,
        json!([["3", null, 0], ["not read", null, 1]]),
    );
    world = world.restart();
    apply(&world, &connection(&read));
    assert_eq!(texts(&wait(&world, 1)), ["3"]);
}

#[test]
fn records_that_were_removed_unread_are_an_alarm_with_a_way_out() {
    let (world, peer) = (world(), kafka().peer());
    let topic = kafka().topic(&peer, 1, &json!({}));
    produce(&peer, &topic, json!([["0"], ["1"]]));
    let text = connection(&format!("topics: [{topic}]"));
    apply(&world, &text);
    wait(&world, 2);
    world.apply(&[STREAM]);
    produce(&peer, &topic, json!([["2"], ["3"], ["4"]]));
    peer.ask(json!({"do": "trim", "topic": topic, "before": 4}));
    apply(&world, &text);
    let why = stopped(&world);
    assert_eq!(
        (why.class(), why.code()),
        (Class::Configuration, "kafka.lost")
    );
    let count = why.args().iter().find(|(name, _)| *name == "count");
    assert_eq!(count.map(|(_, count)| count.as_str()), Some("2"));
    assert_eq!(world.events("in").len(), 2);
    apply(
        &world,
        &connection(&format!("topics: [{topic}], lost: earliest")),
    );
    assert_eq!(texts(&wait(&world, 3)), ["0", "1", "4"]);
    let told = world.source("c").error.expect("it is told");
    assert_eq!(
        (told.class(), told.code()),
        (Class::Permanent, "kafka.skipped")
    );
}

#[test]
fn a_topic_that_was_made_anew_is_not_taken_for_the_old_one() {
    let (world, peer) = (world(), kafka().peer());
    let topic = kafka().topic(&peer, 1, &json!({}));
    produce(&peer, &topic, json!([["0"]]));
    let text = connection(&format!("topics: [{topic}]"));
    apply(&world, &text);
    wait(&world, 1);
    world.apply(&[STREAM]);
    peer.ask(json!({"do": "delete", "topic": topic}));
    // The same name is free when the old records are gone.
    eventually("the topic", || {
        peer.try_ask(json!({"do": "create", "topic": topic}))
    });
    produce(&peer, &topic, json!([["new 0"], ["new 1"]]));
    apply(&world, &text);
    assert_eq!(stopped(&world).code(), "kafka.made-anew");
    apply(
        &world,
        &connection(&format!("topics: [{topic}], generation: 1")),
    );
    assert_eq!(texts(&wait(&world, 3)), ["0", "new 0", "new 1"]);
}

#[test]
fn a_group_is_told_how_far_it_is() {
    let (world, peer) = (world(), kafka().peer());
    let topic = kafka().topic(&peer, 1, &json!({}));
    produce(&peer, &topic, json!([["0"], ["1"]]));
    apply(
        &world,
        &connection(&format!("topics: [{topic}], group: {topic}")),
    );
    wait(&world, 2);
    eventually("the offset", || {
        match peer.ask(json!({"do": "group", "group": topic, "topic": topic})) {
            offset if offset == 2 => Ok(()),
            offset => Err(offset.to_string()),
        }
    });
    produce(&peer, &topic, json!([["2"]]));
    wait(&world, 3);
    // Told at the latest when it is stopped.
    world.apply(&[STREAM]);
    let offset = peer.ask(json!({"do": "group", "group": topic, "topic": topic}));
    assert_eq!(offset, 3);
}

#[test]
fn a_topic_that_does_not_exist_is_told_and_waited_for() {
    let (world, peer) = (world(), kafka().peer());
    let topic = kafka().server.name();
    apply(&world, &connection(&format!("topics: [{topic}]")));
    let told = eventually("the error", || {
        let status = world.source("c");
        status.error.clone().ok_or_else(|| format!("{status:?}"))
    });
    assert_eq!(
        (told.class(), told.code()),
        (Class::Transient, "kafka.no-topic")
    );
    // Beside another one that is read it is told, too.
    let other = kafka().topic(&peer, 1, &json!({}));
    produce(&peer, &other, json!([["other"]]));
    let both = World::new(Arc::new(tempfile::tempdir().expect("a folder")));
    apply(&both, &connection(&format!("topics: [{topic}, {other}]")));
    wait(&both, 1);
    eventually("the error", || match both.source("c") {
        status
            if status
                .error
                .as_ref()
                .is_some_and(|e| e.class() == Class::Permanent) =>
        {
            Ok(())
        }
        status => Err(format!("{status:?}")),
    });
    peer.ask(json!({"do": "create", "topic": topic}));
    produce(&peer, &topic, json!([["0"]]));
    wait(&world, 1);
}

/// Keys that are no text, values that are not there, names that Busbar has for itself.
#[test]
fn odd_records_come_as_they_are() {
    let (world, peer) = (world(), kafka().peer());
    let topic = kafka().topic(&peer, 1, &json!({}));
    produce(
        &peer,
        &topic,
        json!([
            [null, "k", 0, [["$own", "x"], ["null", null]]],
            ["", null, 0],
        ]),
    );
    let text = format!(
        "kafka: {{ brokers: ['{}'], read: {{ topics: [{topic}] }} }}\ntopic: in/${{key}}/${{partition}}\n",
        kafka().address()
    );
    apply(&world, &text);
    let events = wait(&world, 2);
    let tag = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        events[0].tags,
        [
            tag("$$own", "x"),
            tag("null", ""),
            tag("kafka-deleted", "true")
        ]
    );
    let topics: Vec<_> = events.iter().map(|event| event.topic.as_str()).collect();
    assert_eq!(topics, ["in/k/0", "in/_/0"]);
    assert!(events.iter().all(|event| event.payload.is_empty()));
}

#[test]
fn users_are_proved_by_each_mechanism_and_wrong_ones_are_told() {
    let peer = kafka().peer();
    let topic = kafka().topic(&peer, 1, &json!({}));
    produce(&peer, &topic, json!([["0"]]));
    let text = |mechanism: &str, user: &str, password: &str| {
        format!(
            "kafka: {{ brokers: ['127.0.0.1:{}'], sasl: {{ mechanism: {mechanism}, user: {user}, password: {password} }}, read: {{ topics: [{topic}] }} }}\ntopic: in/a\n",
            kafka().sasl
        )
    };
    for (mechanism, user) in [
        ("plain", "plain"),
        ("scram-sha-256", "scram"),
        ("scram-sha-512", "scram"),
    ] {
        let world = world();
        apply(&world, &text(mechanism, user, "secret"));
        wait(&world, 1);
        apply(&world, &text(mechanism, user, "wrong"));
        let why = stopped(&world);
        assert_eq!(
            (why.class(), why.code()),
            (Class::Configuration, "kafka.credentials")
        );
        assert!(!format!("{why:?}").contains("wrong\""), "{why:?}");
    }
    // No user where one is wanted.
    let world = world();
    let text = text("plain", "plain", "secret");
    let without = text.replace(
        "sasl: { mechanism: plain, user: plain, password: secret }, ",
        "",
    );
    assert_ne!(text, without);
    apply(&world, &without);
    let status = eventually("the error", || {
        let status = world.source("c");
        status.error.clone().ok_or_else(|| format!("{status:?}"))
    });
    assert!(
        ["kafka.wants-sasl", "kafka.closed"].contains(&status.code()),
        "{status:?}"
    );
}
