//! Nodes and other consumers as members of one group.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;

use crate::kafka_server::{KafkaPeer, kafka};
use crate::world::{World, eventually, rest};

const PARTITIONS: u32 = 4;
const STREAM: (&str, &str) = ("streams/in.yaml", "topics: in/#\n");

fn world() -> World {
    World::new(Arc::new(tempfile::tempdir().expect("a folder")))
}

/// A node that is a member of the group, which is named like the topic.
fn member(topic: &str) -> World {
    let world = world();
    join(&world, topic, &kafka().address());
    world
}

fn join(world: &World, topic: &str, address: &str) {
    let text = format!(
        "kafka: {{ brokers: ['{address}'], timeout: 20s, read: {{ topics: ['{topic}'], group: {topic}, join: true, session: 6s }} }}\ntopic: in/rows\n"
    );
    world.apply(&[STREAM, ("connections/c.yaml", &text)]);
}

fn produce(peer: &KafkaPeer, topic: &str, numbers: std::ops::Range<u64>) {
    let rows: Vec<_> = numbers
        .map(|n| json!([n.to_string(), null, n % u64::from(PARTITIONS)]))
        .collect();
    peer.ask(json!({"do": "produce", "topic": topic, "rows": rows}));
}

fn taken(world: &World) -> Vec<u64> {
    let events = world.events("in").into_iter();
    events
        .map(|event| event.text().parse().expect("a number"))
        .collect()
}

/// Partitions that a node reads now.
fn read_by(world: &World) -> BTreeSet<String> {
    world.source("c").lag_events.into_keys().collect()
}

/// Waits until these nodes read all partitions, each one at least so many, and none the same.
fn share(nodes: &[&World], each: usize, all: usize) {
    eventually("the partitions to be shared out", || {
        let read: Vec<_> = nodes.iter().map(|node| read_by(node)).collect();
        let together: BTreeSet<_> = read.iter().flatten().collect();
        let count: usize = read.iter().map(BTreeSet::len).sum();
        match together.len() == all && count == all && read.iter().all(|one| one.len() >= each) {
            true => Ok(()),
            false => Err(format!("{read:?} {:?}", nodes[0].source("c").error)),
        }
    });
}

/// Waits until all numbers have come, and a moment longer; sorted.
fn all(mut taken: impl FnMut() -> Vec<u64>, count: u64) -> Vec<u64> {
    eventually("all records", || {
        let there: BTreeSet<u64> = taken().into_iter().collect();
        match there.len() as u64 {
            whole if whole >= count => Ok(()),
            part => Err(format!("{part} of {count}")),
        }
    });
    rest(300);
    let mut all = taken();
    all.sort_unstable();
    all
}

/// Members come and go in good order while records are produced: each one comes to one of them, once.
#[test]
fn members_share_partitions_and_hand_them_over() {
    let peer = kafka().peer();
    let topic = kafka().topic(&peer, PARTITIONS, &json!({}));
    produce(&peer, &topic, 0..1_000);
    let first = member(&topic);
    share(&[&first], 4, 4);
    let second = member(&topic);
    produce(&peer, &topic, 1_000..2_000);
    share(&[&first, &second], 2, 4);
    // One that knows nothing of Busbar is a member as any other.
    let other = kafka().peer();
    other.ask(json!({"do": "join", "topic": topic, "group": topic}));
    produce(&peer, &topic, 2_000..3_000);
    let joined = || other.ask(json!({"do": "joined"}));
    eventually("its partitions", || {
        let partitions = joined()["partitions"].as_array().map_or(0, Vec::len);
        match partitions + read_by(&first).len() + read_by(&second).len() {
            4 if partitions > 0 => Ok(()),
            _ => Err(format!("{}", joined())),
        }
    });
    assert_eq!(peer.ask(json!({"do": "members", "group": topic})), 3);
    produce(&peer, &topic, 3_000..4_000);
    let by_other = || -> Vec<u64> {
        let joined = joined();
        let taken = joined["taken"].as_array().expect("a list").iter();
        let taken = taken.map(|value| value.as_str().expect("a text").parse().expect("a number"));
        taken.collect()
    };
    let everything = || [taken(&first), taken(&second), by_other()].concat();
    assert_eq!(all(everything, 4_000), (0..4_000).collect::<Vec<_>>());
    // A node is stopped in good order: its partitions are read on at once, from where it was.
    second.apply(&[STREAM]);
    let members = || peer.ask(json!({"do": "members", "group": topic}));
    assert_eq!(members(), 2, "it has left the group");
    other.ask(json!({"do": "leave"}));
    produce(&peer, &topic, 4_000..5_000);
    share(&[&first], 4, 4);
    assert_eq!(all(everything, 5_000), (0..5_000).collect::<Vec<_>>());
    assert!(taken(&first).len() > 2_000 && !taken(&second).is_empty() && !by_other().is_empty());
    // The group knows it, for whoever looks at it.
    eventually("the group's offsets", || {
        let offset =
            peer.ask(json!({"do": "group", "group": topic, "topic": topic, "partition": 3}));
        match offset.as_u64() {
            Some(1_250) => Ok(()),
            _ => Err(offset.to_string()),
        }
    });
}

/// A node that dies leaves its partitions to the other, which begins where the group was told: nothing is lost. A node that
/// was told more than the group goes on behind what it has itself.
#[test]
fn partitions_of_a_node_that_dies_are_taken_over() {
    let peer = kafka().peer();
    let topic = kafka().topic(&peer, PARTITIONS, &json!({}));
    let cut = kafka().cut();
    let address = format!("127.0.0.1:{}", cut.port);
    let (first, second) = (member(&topic), world());
    join(&second, &topic, &address);
    share(&[&first, &second], 2, 4);
    produce(&peer, &topic, 0..1_000);
    let both = || [taken(&first), taken(&second)].concat();
    assert_eq!(all(both, 1_000), (0..1_000).collect::<Vec<_>>());
    // What it has read is what the group knows, so that what comes twice does not depend on when it dies.
    eventually("the group to be told", || {
        let told = |partition: u32| {
            peer.ask(json!({"do": "group", "group": topic, "topic": topic, "partition": partition}))
        };
        let told: Vec<_> = (0..PARTITIONS).map(told).collect();
        match told.iter().all(|offset| offset.as_u64() == Some(250)) {
            true => Ok(()),
            false => Err(format!("{told:?}")),
        }
    });
    let before = taken(&second);
    assert!(!before.is_empty());
    // It dies without a word.
    cut.cut();
    let (disk, folder) = second.kill();
    produce(&peer, &topic, 1_000..2_000);
    share(&[&first], 4, 4);
    let found = all(|| [taken(&first), before.clone()].concat(), 2_000);
    assert_eq!(found, (0..2_000).collect::<Vec<_>>());
    // Back again, it reads none of what the other has read meanwhile.
    cut.join();
    let second = World::open(disk, folder);
    join(&second, &topic, &address);
    share(&[&first, &second], 2, 4);
    produce(&peer, &topic, 2_000..3_000);
    let late = || {
        let both = [taken(&first), taken(&second)].concat();
        both.into_iter().filter(|n| *n >= 1_000).collect::<Vec<_>>()
    };
    assert_eq!(all(late, 2_000), (1_000..3_000).collect::<Vec<_>>());
    // So it does where it has been before, whichever partitions it was given just now.
    first.apply(&[STREAM]);
    share(&[&second], 4, 4);
    produce(&peer, &topic, 3_000..4_000);
    assert_eq!(all(late, 3_000), (1_000..4_000).collect::<Vec<_>>());
}

/// The group is told of what is on the disk and of nothing else: whoever takes over from a node that had no room for what it had
/// read begins before it.
#[test]
fn records_that_found_no_room_are_left_to_the_next_member() {
    let peer = kafka().peer();
    let topic = kafka().topic(&peer, PARTITIONS, &json!({}));
    let first = member(&topic);
    produce(&peer, &topic, 0..100);
    assert_eq!(all(|| taken(&first), 100), (0..100).collect::<Vec<_>>());
    first.disk.set_capacity(Some(0));
    produce(&peer, &topic, 100..5_000);
    eventually("no room", || match first.source("c") {
        status if status.state == "retrying" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // It leaves the group in good order, and tells it what there is to tell.
    first.apply(&[STREAM]);
    assert_eq!(peer.ask(json!({"do": "members", "group": topic})), 0);
    let kept = taken(&first);
    assert!(kept.len() < 5_000);
    let second = member(&topic);
    assert_eq!(
        all(|| [kept.clone(), taken(&second)].concat(), 5_000),
        (0..5_000).collect::<Vec<_>>()
    );
}

/// More partitions, and a topic that a pattern finds, are shared out, too.
#[test]
fn new_partitions_and_topics_are_shared_out() {
    let peer = kafka().peer();
    let name = kafka().topic(&peer, 1, &json!({}));
    let (a, b) = (format!("{name}-a"), format!("{name}-b"));
    peer.ask(json!({"do": "create", "topic": a, "partitions": 1}));
    let node = || {
        let world = world();
        let text = format!(
            "kafka: {{ brokers: ['{}'], read: {{ topics: ['{name}-*'], group: {name}, join: true, session: 6s }} }}\ntopic: in/rows\n",
            kafka().address()
        );
        world.apply(&[STREAM, ("connections/c.yaml", &text)]);
        world
    };
    let (first, second) = (node(), node());
    share(&[&first, &second], 0, 1);
    peer.ask(json!({"do": "grow", "topic": a, "partitions": 2}));
    share(&[&first, &second], 1, 2);
    peer.ask(json!({"do": "create", "topic": b, "partitions": 2}));
    share(&[&first, &second], 2, 4);
    let both = || [taken(&first), taken(&second)].concat();
    for (topic, n) in [(&a, 0), (&b, 2)] {
        let rows = json!([[n.to_string(), null, 0], [(n + 1).to_string(), null, 1]]);
        peer.ask(json!({"do": "produce", "topic": topic, "rows": rows}));
    }
    assert_eq!(all(both, 4), [0, 1, 2, 3]);
}
