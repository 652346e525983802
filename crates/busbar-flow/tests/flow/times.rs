//! Events without a time, and with one that cannot be right.

use busbar_event::time;
use busbar_flow::{DEAD_LETTERS, DeadFilter, DeadLetter, ReplayFrom};
use busbar_log::{Clock, SystemClock};

use crate::common::{World, ids, rest};

const SECOND: i64 = 1_000_000;

fn files(time: &str) -> Vec<(&'static str, String)> {
    vec![
        (
            "streams/in.yaml",
            format!(
                "topics: in/#\nformat: json\nschema: {{ id: int, at: time }}\n{time}\n"
            ),
        ),
        ("streams/out.yaml", "topics: out/w\nformat: json\n".into()),
        ("streams/all.yaml", "topics: all/w\nformat: json\nschema: { id: int }\n".into()),
        (
            "flows/f.yaml",
            "from: in\nsteps:\n  - window:\n      tumble: 10s\n      select: count(*) as n, min(id) as id, window_start\n\
             to:\n  - stream: out\n"
                .into(),
        ),
        ("flows/g.yaml", "from: in\nsteps:\n  - select: id\nto:\n  - stream: all\n".into()),
    ]
}

fn apply(world: &World, files: &[(&'static str, String)]) {
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, &**text)).collect();
    let applied = world.apply(&files);
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
}

fn at(id: i64, micros: i64) -> String {
    format!(r#"{{"id":{id},"at":"{}"}}"#, time::text(micros))
}

/// A time in the past at which a window of ten seconds begins.
fn past() -> i64 {
    (SystemClock.now_micros() / (10 * SECOND) - 1000) * 10 * SECOND
}

fn letters(world: &World, flow: &str) -> Vec<DeadLetter> {
    let filter = DeadFilter {
        flow: Some(flow.to_owned()),
        ..DeadFilter::default()
    };
    let letters = world.flows.dead_letters(filter, 100);
    world.tokio.block_on(letters).unwrap()
}

fn windows(world: &World) -> Vec<(i64, i64)> {
    let rows = world.contents("out");
    let int = |row: &serde_json::Value, name: &str| row[name].as_i64().unwrap();
    let mut rows: Vec<_> = rows
        .iter()
        .map(|(_, r)| (int(r, "id"), int(r, "n")))
        .collect();
    rows.sort_unstable();
    rows
}

/// Events of three windows, among them one from the next year and one without a time.
fn publish(world: &World, past: i64) {
    let year = 365 * 24 * 3600 * SECOND;
    let mut events: Vec<String> = (0..30).map(|id| at(id, past + id * SECOND)).collect();
    events.insert(5, at(100, SystemClock.now_micros() + year));
    events.insert(20, r#"{"id":200}"#.into());
    world.publish("in/a/b", &events);
}

fn wait_for(world: &World, windows: usize) {
    let until = std::time::Instant::now() + crate::common::PATIENCE;
    while world.contents("out").len() < windows {
        assert!(std::time::Instant::now() < until, "{:#?}", world.flow("f"));
        rest(20);
    }
    world.settle("f");
    world.settle("g");
}

#[test]
fn an_event_from_the_future_is_a_dead_letter_and_closes_no_window() {
    let mut world = World::new(31);
    let files = files("time: { column: at, missing: dead }");
    apply(&world, &files);
    publish(&world, past());
    let watermark = world.settle("f").watermark_micros.unwrap();
    assert!(watermark < SystemClock.now_micros(), "{watermark}");
    wait_for(&world, 3);
    let expected = vec![(0, 10), (10, 10), (20, 10)];
    assert_eq!(windows(&world), expected);
    for flow in ["f", "g"] {
        let letters = letters(&world, flow);
        let mut codes: Vec<&str> = letters.iter().map(|letter| &*letter.code).collect();
        codes.sort_unstable();
        assert_eq!(codes, ["bus.time-ahead", "bus.time-missing"], "{flow}");
        let ahead = letters
            .iter()
            .find(|letter| letter.code == "bus.time-ahead")
            .unwrap();
        assert!(
            ahead.message.contains("more than 5m ahead"),
            "{}",
            ahead.message
        );
        assert_eq!(world.flow(flow).conservation.difference, 0);
    }
    assert_eq!(ids(&world.contents("all")), (0..30).collect::<Vec<i64>>());
    assert!(world.contents("f.late").is_empty());
    // The log says the same whenever it is read.
    world = world.restart(true);
    apply(&world, &files);
    for flow in ["f", "g"] {
        let again = world.flows.replay(flow, ReplayFrom::Earliest);
        world.tokio.block_on(again).unwrap();
    }
    wait_for(&world, 6);
    let twice: Vec<(i64, i64)> = expected.iter().flat_map(|row| [*row, *row]).collect();
    assert_eq!(windows(&world), twice);
    assert_eq!(world.contents(DEAD_LETTERS).len(), 4);
}

#[test]
fn a_stream_can_say_that_the_time_of_arrival_counts() {
    let world = World::new(32);
    apply(&world, &files("time: { column: at, ahead: arrival }"));
    let before = SystemClock.now_micros();
    publish(&world, SystemClock.now_micros() - 60 * SECOND);
    let status = world.settle("g");
    assert!(letters(&world, "g").is_empty());
    assert_eq!(world.contents("all").len(), 32);
    // The two whose time of arrival counts are the latest.
    let watermark = status.watermark_micros.unwrap();
    assert!(watermark >= before && watermark <= SystemClock.now_micros() + SECOND);
}

#[test]
fn max_ahead_is_what_the_stream_says() {
    let world = World::new(33);
    apply(&world, &files("time: { column: at, max_ahead: 2h }"));
    let now = SystemClock.now_micros() / SECOND * SECOND;
    let hour = 3600 * SECOND;
    world.publish("in/a/b", &[at(1, now + hour), at(2, now + 3 * hour)]);
    world.settle("g");
    assert_eq!(ids(&world.contents("all")), [1]);
    let [letter] = &letters(&world, "g")[..] else {
        panic!("one letter");
    };
    // Put right it goes on, with the time that it has then.
    let payload = at(2, now);
    let sent = world
        .flows
        .redrive_edited(letter.id, payload.as_bytes(), "test");
    let sent = world.tokio.block_on(sent).unwrap();
    assert_eq!((sent.sent, sent.died), (1, 0));
    assert_eq!(ids(&world.contents("all")), [1, 2]);
    let stream = world.bus.stream("all").unwrap();
    let chunks = stream.partitions()[0].read(1, 1 << 20).unwrap();
    let last = chunks.last().unwrap();
    assert_eq!(last.batch.times().last(), Some(&now));
}

#[test]
fn what_becomes_of_events_without_a_time_needs_a_column() {
    let world = World::new(34);
    let files = files("time: { missing: dead }");
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, &**text)).collect();
    let wrong = world.try_apply(&files).unwrap_err();
    assert!(wrong[0].contains("names no column"), "{wrong:?}");
}
