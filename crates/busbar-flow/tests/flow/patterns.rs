//! Steps that gather, order and hold events, whatever happens: the process is killed, or the power fails, after any number of
//! disk operations, again and again. In the end their results are those of a run that nothing disturbed: groups are equal, and
//! no held event is lost or comes twice.
//!
//! `BUSBAR_SIM_SEED=17` runs one history, `BUSBAR_SIM_RUNS=500` many.

use std::time::{Duration, Instant};

use arrow::array::{BinaryArray, StringArray};
use busbar_event::{Batch, Body, Envelope};
use busbar_log::sim::Random;

use crate::common::{PATIENCE, State, World, rest};

const SECOND: i64 = 1_000_000;
/// Times of events lie ahead of the clock, so that no partition ticks: a slow machine gives the same rows as a fast one.
const AHEAD: i64 = 4_000_000_000 * SECOND;
const EVENTS: i64 = 900;
/// Crashes of one history.
const CRASHES: usize = 6;

const FILES: [(&str, &str); 9] = [
    (
        "streams/in.yaml",
        "topics: in/#\nformat: json\nlateness: 3s\nschema: { id: int, g: text, site: text, seq: int }\n",
    ),
    ("streams/g.yaml", "topics: g\nformat: json\n"),
    ("streams/d.yaml", "topics: d\nformat: json\n"),
    ("streams/o.yaml", "topics: o\nformat: json\n"),
    ("streams/t.yaml", "topics: t\nformat: json\n"),
    (
        "flows/groups.yaml",
        "from: in\nsteps:\n  - aggregate:\n      by: [g]\n      count: 3\n      within: 5s\n      \
         select: g, sum(id) as s, count(*) as n, complete\nto: [{ stream: g }]\n",
    ),
    (
        "flows/delayed.yaml",
        "from: in\nsteps: [{ delay: { for: 4s } }, { select: id }]\nto: [{ stream: d }]\n",
    ),
    (
        "flows/ordered.yaml",
        "from: in\nsteps:\n  - resequence: { by: [site], order: seq, within: 5s, first: 0 }\n  \
         - select: site, seq, missing\nto: [{ stream: o }]\n",
    ),
    (
        "flows/slowed.yaml",
        "from: in\nsteps:\n  - throttle: { by: [site], events: 2, every: 1s }\n  - select: id, site\nto: [{ stream: t }]\n",
    ),
];
const FLOWS: [&str; 4] = ["groups", "delayed", "ordered", "slowed"];

struct Event {
    id: i64,
    time: i64,
}

/// Events in some disorder; some do not come, and some come again, too late.
fn events() -> Vec<Event> {
    let mut random = Random::new(7);
    let mut events: Vec<(i64, Event)> = Vec::new();
    for id in 0..EVENTS {
        let place = id + random.below(20) as i64;
        let time = AHEAD + id * SECOND / 20;
        if id % 11 != 0 {
            events.push((place, Event { id, time }));
        }
        if id % 37 == 1 {
            events.push((place + 120, Event { id, time }));
        }
    }
    events.sort_by_key(|(place, event)| (*place, event.id));
    let mut events: Vec<Event> = events.into_iter().map(|(_, event)| event).collect();
    // Behind all others: what was open is closed.
    events.push(Event {
        id: 1_000_000,
        time: AHEAD + 100_000 * SECOND,
    });
    events
}

fn batch(events: &[Event]) -> Batch {
    let topics = StringArray::from(vec!["in/x"; events.len()]);
    let times = events.iter().map(|event| event.time).collect();
    let payloads = events.iter().map(|event| {
        let (id, group, site, seq) = (event.id, event.id / 3, event.id % 5, event.id / 5);
        format!(r#"{{"id":{id},"g":"g{group}","site":"s{site}","seq":{seq}}}"#)
    });
    let body = BinaryArray::from_iter_values(payloads.map(String::into_bytes));
    Batch::from_columns(Envelope::new(&topics, times), Body::Payload(body)).unwrap()
}

fn append(world: &World, events: &[Event], position: usize) -> bool {
    let producer = Some(("test".into(), position as u64));
    let appended = world.bus.append(batch(events), producer);
    world.tokio.block_on(appended).is_ok()
}

fn published(world: &World) -> usize {
    let stream = world.bus.stream("in").unwrap();
    let partitions = stream.partitions();
    let known = partitions
        .iter()
        .filter_map(|p| p.producer_position("test"));
    known.max().unwrap_or(0) as usize
}

/// What the outputs and the streams of late events hold.
fn results(world: &World) -> Vec<Vec<String>> {
    for flow in FLOWS {
        let status = world.settle(flow);
        assert_eq!(status.conservation.difference, 0, "{flow}: {status:#?}");
    }
    let texts = |stream: &str| -> Vec<String> {
        let contents = world.contents(stream).into_iter();
        contents.map(|(_, payload)| payload.to_string()).collect()
    };
    let mut groups = texts("g");
    let mut ordered = texts("o");
    // Groups of different keys may close in another order, and so may keys go on.
    groups.sort_unstable();
    ordered.sort_by_key(|row| {
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        row["site"].as_str().unwrap().to_owned()
    });
    let late = FLOWS.map(|flow| texts(&format!("{flow}.late")));
    let mut all = vec![groups, ordered, texts("d"), texts("t")];
    all.extend(late);
    all
}

fn undisturbed() -> Vec<Vec<String>> {
    let world = World::new(1);
    world.apply(&FILES);
    let events = events();
    assert!(append(&world, &events, events.len()));
    let results = results(&world);
    let complete = |row: &&String| row.contains(r#""complete":true"#);
    let whole = results[0].iter().filter(complete).count();
    assert!(whole > 100 && results[0].len() > whole + 20, "{results:#?}");
    assert!(results[1].iter().any(|row| row.contains(r#""missing":1"#)));
    // All but the last, which is held for ever.
    assert_eq!(results[2].len(), events.len() - 1);
    assert!(
        results[4].len() > 10 && results[6].len() > 10,
        "{results:#?}"
    );
    results
}

fn history(seed: u64, expected: &[Vec<String>]) -> usize {
    let mut random = Random::new(seed);
    let state = State {
        snapshot_every: Duration::from_millis(random.below(30)),
        bytes_max: match seed % 2 {
            0 => State::default().bytes_max,
            _ => 0,
        },
    };
    let mut world = World::with_state(seed, state);
    world.apply(&FILES);
    let events = events();
    let (mut next, mut crashes) = (0, 0);
    while next < events.len() {
        let stats = world.disk.stats();
        let doom = stats.writes + stats.syncs + random.below(60);
        // Each crash has its share of the events before it.
        let share = (events.len() * (crashes + 1) / (CRASHES + 1)).max(next + 1);
        let until = Instant::now() + PATIENCE;
        loop {
            let stats = world.disk.stats();
            let doomed = stats.writes + stats.syncs >= doom && next >= share.min(events.len());
            if doomed || next >= events.len() || Instant::now() > until {
                break;
            }
            let to = (next + 1 + random.below(60) as usize).min(events.len());
            if !append(&world, &events[next..to], to) {
                break;
            }
            next = to;
            if random.below(4) == 0 {
                rest(random.below(40));
            }
        }
        if next < events.len() {
            world = world.restart(random.below(2) == 0);
            crashes += 1;
            next = next.max(published(&world));
            world.apply(&FILES);
        }
    }
    assert_eq!(results(&world), expected, "seed {seed}, {crashes} crashes");
    // And again behind a crash: nothing is missing, nothing comes twice.
    world = world.restart(true);
    world.apply(&FILES);
    assert_eq!(results(&world), expected, "seed {seed}, restarted");
    crashes + 1
}

#[test]
fn groups_and_held_events_are_those_of_an_undisturbed_run() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let expected = undisturbed();
    if let Some(seed) = number("BUSBAR_SIM_SEED") {
        history(seed, &expected);
        return;
    }
    let runs = number("BUSBAR_SIM_RUNS").unwrap_or(6);
    let crashes: usize = (0..runs).map(|seed| history(seed, &expected)).sum();
    assert!(
        crashes >= 2 * runs as usize,
        "{crashes} crashes in {runs} histories"
    );
}
