//! Where a flow that has never run begins, how it catches up with events that go on coming, and clocks that jump.

use std::sync::atomic::Ordering;
use std::time::Instant;

use arrow::array::{BinaryArray, StringArray};
use busbar_event::{Batch, Body, Envelope, time};
use busbar_flow::ReplayFrom;
use busbar_log::{Clock, SystemClock};

use crate::common::{PATIENCE, World, ids, rest};

const SECOND: i64 = 1_000_000;
/// Ahead of the clock, so that no partition ticks.
const AHEAD: i64 = 4_000_000_000 * SECOND;
const IN: (&str, &str) = (
    "streams/in.yaml",
    "topics: in/#\nformat: json\npartitions: 2\nschema: { id: int }\n",
);

/// Events of these numbers, one a second from `begin` on, of sixteen clients.
fn publish(world: &World, begin: i64, numbers: std::ops::Range<i64>) {
    let numbers: Vec<i64> = numbers.collect();
    let topics: Vec<String> = numbers
        .iter()
        .map(|id| format!("in/c{}/x", id % 16))
        .collect();
    let times = numbers.iter().map(|id| begin + id * SECOND).collect();
    let payloads = numbers
        .iter()
        .map(|id| format!(r#"{{"id":{id}}}"#).into_bytes());
    let body = BinaryArray::from_iter_values(payloads);
    let envelope = Envelope::new(&StringArray::from(topics), times);
    let batch = Batch::from_columns(envelope, Body::Payload(body)).unwrap();
    world.tokio.block_on(world.bus.append(batch, None)).unwrap();
}

fn sorted(world: &World, stream: &str, count: usize) -> Vec<i64> {
    let until = Instant::now() + PATIENCE;
    while world.contents(stream).len() < count {
        assert!(
            Instant::now() < until,
            "{stream}: {}",
            world.contents(stream).len()
        );
        rest(10);
    }
    let mut ids = ids(&world.contents(stream));
    ids.sort_unstable();
    ids
}

/// Flows that begin at the first event, behind the last one, and at a time; a stream of results for each.
fn project(names: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut files = vec![(IN.0.to_owned(), IN.1.to_owned())];
    for (name, start) in names {
        files.push((
            format!("streams/{name}.yaml"),
            format!("topics: {name}/x\nformat: json\n"),
        ));
        files.push((
            format!("flows/f{name}.yaml"),
            format!("from: in\nstart: {start}\nsteps:\n  - select: id\nto:\n  - stream: {name}\n"),
        ));
    }
    files
}

fn apply(world: &World, files: &[(String, String)]) {
    let files: Vec<(&str, &str)> = files.iter().map(|(p, t)| (&**p, &**t)).collect();
    let applied = world.apply(&files);
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
}

#[test]
fn a_flow_begins_where_its_file_says() {
    let mut world = World::new(81);
    world.apply(&[IN]);
    // The time it begins at is in the middle of what the log holds as one.
    publish(&world, AHEAD, 0..100);
    let at = format!("'{}'", time::text(AHEAD + 40 * SECOND));
    let files = project(&[("all", "earliest"), ("new", "latest"), ("since", &at)]);
    apply(&world, &files);
    publish(&world, AHEAD, 100..120);
    assert_eq!(sorted(&world, "all", 120), (0..120).collect::<Vec<_>>());
    assert_eq!(sorted(&world, "new", 20), (100..120).collect::<Vec<_>>());
    assert_eq!(sorted(&world, "since", 80), (40..120).collect::<Vec<_>>());
    // One that has run goes on where it was, whatever `start` says.
    world = world.restart(true);
    apply(&world, &files);
    publish(&world, AHEAD, 120..130);
    assert_eq!(sorted(&world, "all", 130), (0..130).collect::<Vec<_>>());
    assert_eq!(sorted(&world, "new", 30), (100..130).collect::<Vec<_>>());
    assert_eq!(sorted(&world, "since", 90), (40..130).collect::<Vec<_>>());
}

/// A flow that is added computes what there is while more comes, and goes over to it: none is missing, none is there twice.
#[test]
fn catching_up_changes_over_without_a_gap() {
    for power_cut in [None, Some(false), Some(true)] {
        let mut world = World::new(82);
        world.apply(&[IN]);
        publish(&world, AHEAD, 0..20_000);
        let files = project(&[("all", "earliest")]);
        apply(&world, &files);
        for piece in 0..50 {
            publish(&world, AHEAD, 20_000 + piece * 20..20_020 + piece * 20);
            if piece == 10
                && let Some(power_cut) = power_cut
            {
                world = world.restart(power_cut);
                apply(&world, &files);
            }
        }
        let expected: Vec<i64> = (0..21_000).collect();
        assert_eq!(sorted(&world, "all", 21_000), expected, "{power_cut:?}");
        let status = world.settle("fall");
        assert_eq!(status.conservation.difference, 0, "{status:#?}");
    }
}

/// The clock of the node is put forward by a day and back again: windows close once, nothing that was closed opens, and a
/// replay gives the same.
#[test]
fn a_clock_that_jumps_closes_windows_once() {
    let world = World::new(83);
    let window = "from: in\nsteps:\n  - window: { tumble: 10s, select: 'count(*) as n, min(id) as id' }\nto:\n  - stream: out\n";
    world.apply(&[
        IN,
        ("streams/out.yaml", "topics: out/w\nformat: json\n"),
        ("flows/w.yaml", window),
    ]);
    // A window that the clock has not reached yet.
    let hour = 3600 * SECOND;
    let begin = (SystemClock.now_micros() + hour) / (100 * SECOND) * 100 * SECOND;
    publish(&world, begin, 0..16);
    world.settle("w");
    let windows = |count: usize| {
        let until = Instant::now() + PATIENCE;
        while world.contents("out").len() < count {
            assert!(Instant::now() < until, "{:#?}", world.flow("w"));
            rest(10);
        }
        let rows = world.contents("out");
        let int = |row: &serde_json::Value, name: &str| row[name].as_i64().unwrap();
        let rows = rows.iter();
        let mut rows: Vec<_> = rows.map(|(_, r)| (int(r, "id"), int(r, "n"))).collect();
        rows.sort_unstable();
        rows
    };
    world.ahead.store(24 * hour, Ordering::Relaxed);
    assert_eq!(windows(2), [(0, 10), (10, 6)]);
    let passed = world.flow("w").watermark_micros.unwrap();
    world.ahead.store(0, Ordering::Relaxed);
    // They come when their windows are closed: late, and kept.
    publish(&world, begin, 5..9);
    let until = Instant::now() + PATIENCE;
    while world.contents("w.late").len() < 4 {
        assert!(Instant::now() < until, "{:#?}", world.flow("w"));
        rest(10);
    }
    let status = world.settle("w");
    assert_eq!(status.conservation.difference, 0, "{status:#?}");
    assert!(status.watermark_micros.unwrap() >= passed);
    assert_eq!(windows(2), [(0, 10), (10, 6)]);
    let again = world.flows.replay("w", ReplayFrom::Earliest);
    world.tokio.block_on(again).unwrap();
    assert_eq!(windows(4), [(0, 10), (0, 10), (10, 6), (10, 6)]);
}
