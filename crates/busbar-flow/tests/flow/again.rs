//! Dead letters of a flow with state, sent again: they count once, in the windows that are open, whatever happens.

use std::time::Instant;

use arrow::array::{BinaryArray, StringArray};
use busbar_event::{Batch, Body, Envelope};
use busbar_flow::{DeadFilter, Redriven, ReplayFrom};
use busbar_log::sim::Random;

use crate::common::{PATIENCE, State, World, ids, rest};

const SECOND: i64 = 1_000_000;
/// Ahead of the clock, so that no partition ticks.
const AHEAD: i64 = 4_000_000_000 * SECOND;

fn files(condition: &str) -> Vec<(&'static str, String)> {
    vec![
        (
            "streams/in.yaml",
            "topics: in/#\nformat: json\npartitions: 2\nschema: { id: int, v: int, site: text }\n"
                .into(),
        ),
        ("streams/out.yaml", "topics: out/w\nformat: json\n".into()),
        (
            "flows/f.yaml",
            format!(
                "from: in\nsteps:\n  - where: {condition}\n  - window:\n      tumble: 10s\n      by: [site]\n      \
                 select: site, count(*) as n, sum(id) as s, window_start\nto:\n  - stream: out\n"
            ),
        ),
    ]
}

fn apply(world: &World, condition: &str) {
    let files = files(condition);
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, &**text)).collect();
    let applied = world.apply(&files);
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
}

/// Events of so many seconds, one a second and site, of which those with these numbers die of a division by zero.
fn publish(world: &World, from: i64, to: i64, dead: &[i64]) {
    let events: Vec<i64> = (from..to).collect();
    let topics: Vec<String> = events
        .iter()
        .map(|id| format!("in/c{}/x", id % 8))
        .collect();
    let times = events.iter().map(|id| AHEAD + id * SECOND).collect();
    let payloads = events.iter().map(|id| {
        let v = i64::from(!dead.contains(id));
        format!(r#"{{"id":{id},"v":{v},"site":"s{}"}}"#, id % 2).into_bytes()
    });
    let body = BinaryArray::from_iter_values(payloads);
    let envelope = Envelope::new(&StringArray::from(topics), times);
    let batch = Batch::from_columns(envelope, Body::Payload(body)).unwrap();
    world.tokio.block_on(world.bus.append(batch, None)).unwrap();
}

fn redrive(world: &World) -> Redriven {
    let sent = world.flows.redrive(DeadFilter::default(), "test");
    world.tokio.block_on(sent).unwrap()
}

fn windows(world: &World, count: usize) -> Vec<(i64, i64)> {
    let until = Instant::now() + PATIENCE;
    while world.contents("out").len() < count {
        assert!(Instant::now() < until, "{:#?}", world.flow("f"));
        rest(10);
    }
    assert_eq!(world.settle("f").conservation.difference, 0);
    let int = |row: &serde_json::Value, name: &str| row[name].as_i64().unwrap();
    let rows = world.contents("out");
    let mut rows: Vec<_> = rows
        .iter()
        .map(|(_, row)| (int(row, "n"), int(row, "s")))
        .collect();
    rows.sort_unstable();
    rows
}

const BAD: &str = "100 / v > 0";
const GOOD: &str = "v >= 0";

#[test]
fn an_event_that_is_sent_again_counts_once_in_the_window_that_is_open() {
    for seed in 0..8 {
        let mut random = Random::new(seed);
        let mut world = World::with_state(
            seed,
            State {
                snapshot_every: std::time::Duration::from_millis(10),
                ..State::default()
            },
        );
        apply(&world, BAD);
        // 3 dies in a window that is closed, 38 in one that is open.
        publish(&world, 0, 40, &[3, 38]);
        let closed = windows(&world, 4).len();
        assert_eq!(
            world.contents(busbar_flow::DEAD_LETTERS).len(),
            2,
            "seed {seed}"
        );
        apply(&world, GOOD);
        let sent = redrive(&world);
        assert_eq!(
            (sent.sent, sent.died, sent.refused),
            (2, 0, 0),
            "seed {seed}: {sent:?}"
        );
        for _ in 0..random.below(3) {
            rest(random.below(30));
            world = world.restart(random.below(2) == 0);
            apply(&world, GOOD);
        }
        // They are sent once.
        assert_eq!(redrive(&world).sent, 0, "seed {seed}");
        let until = Instant::now() + PATIENCE;
        while ids(&world.contents("f.late")) != [3] {
            assert!(
                Instant::now() < until,
                "seed {seed}: {:#?}",
                world.flow("f")
            );
            rest(10);
        }
        // What closes the last windows: of every client, so in every partition.
        publish(&world, 1000, 1008, &[]);
        let mut expected: Vec<(i64, i64)> = (0..8)
            .map(|w| {
                let (from, site) = (w / 2 * 10, w % 2);
                let own = (from..from + 10).filter(|id| id % 2 == site && *id != 3);
                own.fold((0, 0), |(n, s), id| (n + 1, s + id))
            })
            .collect();
        expected.sort_unstable();
        assert!(closed < expected.len());
        assert_eq!(windows(&world, 8), expected, "seed {seed}");
        assert_eq!(ids(&world.contents("f.late")), [3], "seed {seed}");
        // A replay reads the events themselves, and what was sent again belongs to the time before.
        let again = world.flows.replay("f", ReplayFrom::Earliest);
        world.tokio.block_on(again).unwrap();
        let all = windows(&world, 16);
        assert_eq!(
            all.iter().map(|(n, _)| n).sum::<i64>(),
            39 + 40,
            "seed {seed}"
        );
    }
}

#[test]
fn a_flow_that_stands_keeps_its_letters() {
    let world = World::new(9);
    apply(&world, BAD);
    publish(&world, 0, 20, &[3]);
    windows(&world, 2);
    world.tokio.block_on(world.flows.pause("f")).unwrap();
    let sent = redrive(&world);
    assert_eq!((sent.sent, sent.refused), (0, 1));
    assert_eq!(
        sent.cause.map(|cause| cause.code()),
        Some("flow.redrive-stands")
    );
    world.tokio.block_on(world.flows.resume("f")).unwrap();
    // Not put right, it dies again: a new letter, and the old one is closed.
    assert_eq!(redrive(&world).sent, 1);
    let until = Instant::now() + PATIENCE;
    while world.contents(busbar_flow::DEAD_LETTERS).len() < 2 {
        assert!(Instant::now() < until);
        rest(10);
    }
    let open = world.flows.dead_letters(DeadFilter::default(), 10);
    assert_eq!(world.tokio.block_on(open).unwrap().len(), 1);
    assert_eq!(world.settle("f").conservation.difference, 0);
}
