//! Flows end to end: streams in, streams and tables out, what dies, what is counted.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::common::{PATIENCE, World, ids, rest};
use busbar_flow::{DeadFilter, FlowState, ReplayFrom};

const IN: (&str, &str) = (
    "streams/in.yaml",
    "topics: in/#\nformat: json\nschema: { id: int, v: int, site: text }\n",
);
const OUT: (&str, &str) = (
    "streams/out.yaml",
    "topics: out/#\nformat: json\nschema: { id: int, w: int }\n",
);

fn reading(id: i64, v: i64) -> String {
    format!(r#"{{"id":{id},"v":{v},"site":"s{}"}}"#, id % 3)
}

#[test]
fn rows_go_to_every_output_and_every_event_is_accounted_for() {
    let world = World::new(1);
    world.apply(&[
        IN,
        OUT,
        ("streams/alarm.yaml", "topics: alarm/#\nformat: json\n"),
        ("tables/last.yaml", "hot: {}\nkey: [id]\n"),
        ("tables/all.yaml", "relational: {}\nkey: [id]\n"),
        (
            "flows/f.yaml",
            "from: in\nsteps:\n  - where: v >= 50\n  - select: id, site, v * 2 as w\n\
             to:\n  - stream: out\n  - { topic: 'alarm/${site}', retain: true }\n  - table: last\n  - table: all\n",
        ),
    ]);
    let events: Vec<String> = (0..1000).map(|id| reading(id, id % 100)).collect();
    world.publish("in/a/b", &events);
    let status = world.settle("f");
    let counts = status.conservation.counters;
    assert_eq!(
        (counts.input, counts.out, counts.filtered, counts.dead),
        (1000, 500, 500, 0)
    );
    assert_eq!(status.conservation.difference, 0);
    let expected: Vec<i64> = (0..1000).filter(|id| id % 100 >= 50).collect();
    let out = world.contents("out");
    assert_eq!(ids(&out), expected);
    assert_eq!(out[0].0, "out/a/b");
    assert_eq!(out[0].1["w"], 100);
    let alarms = world.contents("alarm");
    assert_eq!(alarms.len(), 500);
    assert_eq!(alarms[0].0, "alarm/s2");
    assert_eq!(world.bus.retained().count(), 3);
    for table in ["last", "all"] {
        let mut rows = world.table_ints(table, "id");
        rows.sort_unstable();
        assert_eq!(rows, expected, "{table}");
    }
}

#[test]
fn a_row_that_fails_dies_alone_and_can_be_sent_again() {
    let world = World::new(2);
    let flow =
        |select: &str| format!("from: in\nsteps:\n  - select: {select}\nto:\n  - stream: out\n");
    let first = flow("id, 100 / v as w");
    world.apply(&[IN, OUT, ("flows/f.yaml", &first)]);
    let mut events: Vec<String> = (1..=200).map(|id| reading(id, id)).collect();
    events[49] = reading(50, 0);
    events[99] = "{\"id\": \"what".into();
    events[149] = r#"{"id":150,"v":"text"}"#.into();
    world.publish("in/a/b", &events);
    let status = world.settle("f");
    let counts = status.conservation.counters;
    assert_eq!((counts.input, counts.out, counts.dead), (200, 197, 3));
    assert_eq!(status.conservation.difference, 0);
    let good: Vec<i64> = (1..=200)
        .filter(|id| ![50, 100, 150].contains(id))
        .collect();
    assert_eq!(ids(&world.contents("out")), good);

    let letters = world
        .tokio
        .block_on(world.flows.dead_letters(DeadFilter::default(), 10))
        .unwrap();
    assert_eq!(letters.len(), 3);
    let division = letters
        .iter()
        .find(|l| l.place == "step:0")
        .expect("the division died");
    assert_eq!((division.offset, division.topic.as_str()), (49, "in/a/b"));
    assert_eq!(division.payload, reading(50, 0).as_bytes());
    assert_eq!(letters.iter().filter(|l| l.place == "decode").count(), 2);
    let groups = world.tokio.block_on(world.flows.dead_groups()).unwrap();
    assert_eq!(groups.iter().map(|g| g.open).sum::<u64>(), 3);

    // The flow is put right; what died of the division goes through, what is no JSON dies again.
    let second = flow("id, v as w");
    world.apply(&[IN, OUT, ("flows/f.yaml", &second)]);
    let redriven = world
        .tokio
        .block_on(world.flows.redrive(DeadFilter::default(), ""))
        .unwrap();
    assert_eq!((redriven.sent, redriven.died, redriven.orphaned), (3, 2, 0));
    let mut all = ids(&world.contents("out"));
    assert_eq!(all.pop(), Some(50));
    assert_eq!(all, good);
    // Each is sent once; the two that died again are new letters.
    let redriven = world
        .tokio
        .block_on(world.flows.redrive(DeadFilter::default(), ""))
        .unwrap();
    assert_eq!((redriven.sent, redriven.died), (2, 2));
    let by_code = DeadFilter {
        code: Some("none".into()),
        ..DeadFilter::default()
    };
    let redriven = world
        .tokio
        .block_on(world.flows.redrive(by_code, ""))
        .unwrap();
    assert_eq!(redriven.sent, 0);
}

#[test]
fn a_bad_flow_is_refused_and_the_old_one_goes_on() {
    let world = World::new(3);
    let good =
        "from: in\nsteps:\n  - where: v >= 50\n  - select: id, v as w\nto:\n  - stream: out\n";
    world.apply(&[IN, OUT, ("flows/f.yaml", good)]);
    for (bad, place) in [
        (good.replace("v >= 50", "vv >= 50"), "flows/f.yaml:3:12"),
        (good.replace("v >= 50", "v + 50"), "flows/f.yaml:3:12"),
        (
            good.replace("stream: out", "topic: 'out/${idd}'"),
            "flows/f.yaml:6:17",
        ),
    ] {
        let refused = world
            .try_apply(&[IN, OUT, ("flows/f.yaml", &bad)])
            .unwrap_err();
        assert!(refused[0].starts_with(place), "{refused:?}");
    }
    world.publish("in/a/b", &[reading(1, 99)]);
    world.settle("f");
    assert_eq!(ids(&world.contents("out")), [1]);
    // Only a comment: the flow is left alone.
    let commented = format!("# hello\n{good}");
    let applied = world.apply(&[IN, OUT, ("flows/f.yaml", &commented)]);
    assert_eq!(
        (applied.unchanged, applied.deployed),
        (vec!["f".to_owned()], vec![])
    );
}

#[test]
fn a_new_version_takes_over_under_load_and_none_is_lost_or_doubled() {
    let world = World::new(4);
    let version =
        |n: i64| format!("from: in\nsteps:\n  - select: id, v + {n} as w\nto:\n  - stream: out\n");
    world.apply(&[IN, OUT, ("flows/f.yaml", &version(0))]);
    let bus = world.bus.clone();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let handle = world.tokio.handle().clone();
    let publisher = std::thread::spawn(move || {
        let mut id = 0;
        while stopped.try_recv().is_err() {
            let events: Vec<String> = (id..id + 50).map(|id| reading(id, 0)).collect();
            handle
                .block_on(bus.append(crate::common::batch("in/a/b", &events), None))
                .unwrap();
            id += 50;
        }
        id
    });
    for n in 1..=8 {
        rest(60);
        let applied = world.apply(&[IN, OUT, ("flows/f.yaml", &version(n))]);
        assert_eq!(applied.deployed, ["f"]);
    }
    rest(60);
    stop.send(()).unwrap();
    let count = publisher.join().unwrap();
    world.settle("f");
    let out = world.contents("out");
    assert_eq!(ids(&out), (0..count).collect::<Vec<_>>());
    // Each version came after the one before it: the hand-over is at one offset.
    let versions: Vec<i64> = out.iter().filter_map(|(_, p)| p["w"].as_i64()).collect();
    assert!(versions.is_sorted());
    assert_eq!(versions.last(), Some(&8));
}

#[test]
fn pause_resume_and_replay() {
    let world = World::new(5);
    let flow = "from: in\nsteps:\n  - select: id, v as w\nto:\n  - stream: out\n";
    world.apply(&[IN, OUT, ("flows/f.yaml", flow)]);
    world.publish("in/a/b", &[reading(1, 1), reading(2, 2)]);
    world.settle("f");
    world.tokio.block_on(world.flows.pause("f")).unwrap();
    world.publish("in/a/b", &[reading(3, 3)]);
    rest(50);
    assert_eq!(world.flow("f").state, FlowState::Paused);
    assert_eq!(ids(&world.contents("out")), [1, 2]);
    let world = world.restart(false);
    world.apply(&[IN, OUT, ("flows/f.yaml", flow)]);
    assert_eq!(world.flow("f").state, FlowState::Paused);
    world.tokio.block_on(world.flows.resume("f")).unwrap();
    world.settle("f");
    assert_eq!(ids(&world.contents("out")), [1, 2, 3]);
    world
        .tokio
        .block_on(world.flows.replay("f", ReplayFrom::Earliest))
        .unwrap();
    world.settle("f");
    assert_eq!(ids(&world.contents("out")), [1, 2, 3, 1, 2, 3]);
    assert!(world.tokio.block_on(world.flows.pause("none")).is_err());
}

#[test]
fn a_flow_waits_for_the_first_event_to_know_its_columns() {
    let world = World::new(6);
    let raw = ("streams/in.yaml", "topics: in/#\nformat: json\n");
    let flow =
        "from: in\nsteps:\n  - where: v >= 50\n  - select: id, v as w\nto:\n  - stream: out\n";
    world.apply(&[raw, OUT, ("flows/f.yaml", flow)]);
    assert_eq!(world.flow("f").state, FlowState::Waiting);
    world.publish("in/a/b", &[reading(1, 99), reading(2, 1)]);
    let until = Instant::now() + PATIENCE;
    while world.flow("f").state == FlowState::Waiting {
        assert!(Instant::now() < until, "still waiting");
        rest(20);
    }
    world.settle("f");
    // Whole numbers are read as such; a column that a fraction follows becomes wider then.
    let found = world.contents("out");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].1, serde_json::json!({ "id": 1, "w": 99 }));
}

#[test]
fn events_pass_through_where_as_they_came() {
    let world = World::new(7);
    world.apply(&[
        IN,
        ("streams/copy.yaml", "topics: copy/#\n"),
        (
            "flows/f.yaml",
            "from: in\nsteps:\n  - where: v >= 50\nto:\n  - { topic: 'copy/${topic}' }\n",
        ),
    ]);
    world.publish(
        "in/a/b",
        &[r#"{"id": 1,  "v": 60, "other": [1]}"#.into(), reading(2, 1)],
    );
    world.settle("f");
    let stream = world.bus.stream("copy").unwrap();
    let chunk = &stream.partitions()[0].read(0, 1 << 20).unwrap()[0];
    assert_eq!(chunk.batch.rows(), 1);
    assert_eq!(chunk.batch.topic(0), "copy/in/a/b");
    assert_eq!(
        &*chunk.batch.event(0).payload,
        br#"{"id": 1,  "v": 60, "other": [1]}"#
    );
}

#[test]
fn a_flow_reads_what_another_wrote() {
    let world = World::new(8);
    world.apply(&[
        IN,
        OUT,
        (
            "streams/end.yaml",
            "topics: end/#\nformat: json\nschema: { id: int }\n",
        ),
        (
            "flows/a.yaml",
            "from: in\nsteps:\n  - select: id, v as w\nto:\n  - stream: out\n",
        ),
        (
            "flows/b.yaml",
            "from: out\nsteps:\n  - where: w >= 5\n  - select: id\nto:\n  - stream: end\n",
        ),
    ]);
    world.publish(
        "in/a/b",
        &(0..10).map(|id| reading(id, id)).collect::<Vec<_>>(),
    );
    world.settle("a");
    world.settle("b");
    let all: BTreeSet<i64> = ids(&world.contents("end")).into_iter().collect();
    assert_eq!(all, (5..10).collect());
}
