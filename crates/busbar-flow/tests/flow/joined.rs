//! Joins of two streams whatever happens: the process is killed, or the power fails, after any number of disk operations, again
//! and again. One flow joins within an interval and counts in windows behind that, so that rows are regrouped; one joins a stream
//! with itself in the same way; the third joins as of event time. In the end every result is there once, with the values that a plain computation over the logs gives, and
//! every late event is kept.
//!
//! `BUSBAR_SIM_SEED=17` runs one history, `BUSBAR_SIM_RUNS=500` many.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use arrow::array::{BinaryArray, StringArray};
use busbar_event::{Batch, Body, Envelope};
use busbar_flow::{BoundedRange, BoundedState};
use busbar_log::sim::Random;
use serde_json::Value;

use crate::common::{PATIENCE, State, World, rest};

const SECOND: i64 = 1_000_000;
const SIZE: i64 = 10 * SECOND;
const WITHIN: i64 = 2 * SECOND;
const LATENESS: i64 = 3 * SECOND;
/// Times of events lie ahead of the clock, so that no partition ticks.
const AHEAD: i64 = 4_000_000_000 * SECOND;
const EVENTS: i64 = 4000;

const NEAR: &str = "from: left\nsteps:\n  - where: v >= 0\n  \
    - join: { stream: right, on: meter, within: 2s, type: left, columns: [v as w] }\n  \
    - window: { tumble: 10s, by: [meter], select: 'meter, window_start, count(*) as n, count(w) as m, sum(w) as s' }\n\
    to:\n  - { stream: near, key: '${meter}' }\n  - table: all\n";
const ITSELF: &str = "from: left\nsteps:\n  - where: v >= 0\n  \
    - join: { stream: left, on: meter, within: 2s, type: left, columns: [v as w] }\n  \
    - window: { tumble: 10s, by: [meter], select: 'meter, window_start, count(*) as n, count(w) as m, sum(w) as s' }\n\
    to:\n  - { stream: itself, key: '${meter}' }\n  - table: all_itself\n";
const AS_OF: &str = "from: left\nsteps:\n  - join: { stream: right, on: meter, as_of: true, columns: [id as version] }\n  \
    - select: id, version\nto:\n  - stream: latest\n";

fn files(partitions: (u16, u16)) -> Vec<(&'static str, String)> {
    let stream = |topic: &str, partitions: u16| {
        format!(
            "topics: {topic}/#\nformat: json\npartitions: {partitions}\nlateness: 3s\n\
             schema: {{ id: int, v: int, meter: text }}\n"
        )
    };
    vec![
        ("streams/left.yaml", stream("left", partitions.0)),
        ("streams/right.yaml", stream("right", partitions.1)),
        (
            "streams/near.yaml",
            "topics: out/near\nformat: json\npartitions: 2\n".into(),
        ),
        (
            "streams/itself.yaml",
            "topics: out/itself\nformat: json\npartitions: 2\n".into(),
        ),
        ("tables/all_itself.yaml", "relational: {}\n".into()),
        ("tables/itself_again.yaml", "relational: {}\n".into()),
        ("flows/itself.yaml", ITSELF.into()),
        (
            "streams/latest.yaml",
            "topics: out/latest\nformat: json\n".into(),
        ),
        ("tables/all.yaml", "relational: {}\n".into()),
        ("tables/again.yaml", "relational: {}\n".into()),
        ("tables/versions.yaml", "relational: {}\n".into()),
        ("tables/later.yaml", "relational: {}\n".into()),
        ("flows/near.yaml", NEAR.into()),
        ("flows/as-of.yaml", AS_OF.into()),
    ]
}

fn apply(world: &World, files: &[(&'static str, String)]) {
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, &**text)).collect();
    let applied = world.apply(&files);
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
}

#[derive(Clone)]
struct Event {
    is_right: bool,
    id: i64,
    time: i64,
    meter: u64,
    v: i64,
}

fn batch(events: &[Event]) -> Batch {
    let topics = events.iter().map(|e| {
        let stream = if e.is_right { "right" } else { "left" };
        format!("{stream}/c{}/x", e.id % 16)
    });
    let topics: Vec<String> = topics.collect();
    let times = events.iter().map(|e| e.time).collect();
    let payloads = events.iter().map(|e| {
        let Event { id, v, meter, .. } = e;
        format!(r#"{{"id":{id},"v":{v},"meter":"m{meter}"}}"#)
    });
    let body = BinaryArray::from_iter_values(payloads.map(String::into_bytes));
    let envelope = Envelope::new(&StringArray::from(topics), times);
    Batch::from_columns(envelope, Body::Payload(body)).unwrap()
}

/// One row of an event that is not late.
struct Row {
    id: i64,
    time: i64,
    meter: String,
    v: i64,
}

/// Events of a stream: those in time, the ids of those that are late, and the least watermark.
fn read(world: &World, stream: &str) -> (Vec<Row>, Vec<i64>, i64) {
    let stream = world.bus.stream(stream).unwrap();
    let (mut rows, mut late, mut passed) = (Vec::new(), Vec::new(), i64::MAX);
    for partition in stream.partitions().iter() {
        let mut watermark = i64::MIN;
        let mut at = partition.start();
        while at < partition.end() {
            for chunk in partition.read(at, 1 << 20).unwrap() {
                for row in 0..chunk.batch.rows() {
                    let event = chunk.batch.event(row);
                    let payload: Value = serde_json::from_slice(&event.payload).unwrap();
                    let int = |name: &str| payload[name].as_i64().unwrap();
                    match event.time < watermark {
                        true => late.push(int("id")),
                        false => rows.push(Row {
                            id: int("id"),
                            time: event.time,
                            meter: payload["meter"].as_str().unwrap().to_owned(),
                            v: int("v"),
                        }),
                    }
                    watermark = watermark.max(event.time - LATENESS);
                }
                at = chunk.end();
            }
        }
        passed = passed.min(watermark);
    }
    (rows, late, passed)
}

/// One window of one meter: rows, matched rows, sum.
type Windows = BTreeMap<(i64, String), (i64, i64, i64)>;

#[derive(Debug, PartialEq)]
struct Expected {
    windows: Windows,
    itself: Windows,
    /// Row and version.
    versions: BTreeMap<i64, i64>,
    /// Late events: for the flow that leaves rows out before the join, for the one that joins as of event time, and for the
    /// one whose stream is both sides.
    late: [Vec<i64>; 3],
}

/// Windows over left rows with those near to them, up to a watermark.
fn windows(left: &[Row], right: &[Row], passed: i64) -> Windows {
    let mut windows = Windows::new();
    for row in left {
        let start = row.time.div_euclid(SIZE) * SIZE;
        if row.v < 0 || start + SIZE > passed - WITHIN {
            continue;
        }
        let near = right
            .iter()
            .filter(|other| other.meter == row.meter && (other.time - row.time).abs() <= WITHIN);
        let near: Vec<i64> = near.map(|other| other.v).collect();
        let window = windows.entry((start, row.meter.clone())).or_default();
        window.0 += near.len().max(1) as i64;
        window.1 += near.len() as i64;
        window.2 += near.iter().sum::<i64>();
    }
    windows
}

/// What a plain computation over the logs says.
fn plain(world: &World) -> Expected {
    let (left, late_left, passed_left) = read(world, "left");
    let (right, late_right, passed_right) = read(world, "right");
    let passed = passed_left.min(passed_right);
    let mut versions = BTreeMap::new();
    for row in &left {
        let same = right.iter().filter(|other| other.meter == row.meter);
        let latest = same.filter(|other| other.time <= row.time);
        if let Some(latest) = latest.max_by_key(|other| other.time)
            && row.time < passed
        {
            versions.insert(row.id, latest.id);
        }
    }
    let sorted = |mut ids: Vec<i64>| {
        ids.sort_unstable();
        ids
    };
    let of_left = sorted(late_left.clone());
    let all = sorted(late_left.into_iter().chain(late_right).collect());
    let kept = all.iter().copied().filter(|id| id % 10 != 0 || id % 2 == 1);
    Expected {
        windows: windows(&left, &right, passed),
        itself: windows(&left, &left, passed_left),
        versions,
        late: [kept.collect(), all, of_left],
    }
}

/// The windows in a stream; panics where one is there twice.
fn found_windows(world: &World, stream: &str) -> Windows {
    let mut windows = Windows::new();
    for (_, row) in world.contents(stream) {
        let int = |name: &str| row[name].as_i64().unwrap_or_default();
        let start = busbar_event::time::parse(row["window_start"].as_str().unwrap()).unwrap();
        let meter = row["meter"].as_str().unwrap().to_owned();
        let before = windows.insert((start, meter), (int("n"), int("m"), int("s")));
        assert_eq!(before, None, "twice: {row}");
    }
    windows
}

/// What the outputs say; panics where a result is there twice.
fn found(world: &World) -> Expected {
    let mut versions = BTreeMap::new();
    for (_, row) in world.contents("latest") {
        let int = |name: &str| row[name].as_i64().unwrap();
        let before = versions.insert(int("id"), int("version"));
        assert_eq!(before, None, "twice: {row}");
    }
    let late = ["near.late", "as-of.late", "itself.late"].map(|stream| {
        let kept = world.contents(stream);
        let mut late: Vec<i64> = kept
            .iter()
            .map(|(_, p)| p["id"].as_i64().unwrap())
            .collect();
        late.sort_unstable();
        late
    });
    Expected {
        windows: found_windows(world, "near"),
        itself: found_windows(world, "itself"),
        versions,
        late,
    }
}

fn check(world: &World, seed: u64) {
    let until = Instant::now() + Duration::from_secs(120);
    let expected = plain(world);
    assert!(
        expected.windows.len() > 20,
        "seed {seed}: {}",
        expected.windows.len()
    );
    assert!(
        expected.versions.len() > 500,
        "seed {seed}: {}",
        expected.versions.len()
    );
    assert!(!expected.late[0].is_empty(), "seed {seed}");
    loop {
        for flow in ["near", "as-of", "itself"] {
            let status = world.settle(flow);
            assert_eq!(
                status.conservation.difference, 0,
                "seed {seed}: {status:#?}"
            );
        }
        let found = found(world);
        let table = world.table_ints("all", "n").len();
        let itself = world.table_ints("all_itself", "n").len();
        let tables = (table, itself);
        let wanted = (expected.windows.len(), expected.itself.len());
        if found == expected && tables == wanted {
            return;
        }
        // Between two stages everything is done with for a moment.
        if Instant::now() >= until {
            assert_eq!(found, expected, "seed {seed}");
            assert_eq!(tables, wanted, "seed {seed}");
        }
        rest(50);
    }
}

/// The flows over the time of the events, beside those that run, give the same.
fn check_bounded(world: &World, seed: u64) {
    // Rows behind this have the versions from before it, too.
    let later = AHEAD + EVENTS / 2 * SECOND / 20;
    for (flow, table, from) in [
        ("near", "again", None),
        ("itself", "itself_again", None),
        ("as-of", "versions", None),
        ("as-of", "later", Some(later)),
    ] {
        let to = Some(AHEAD + 50_000 * SECOND);
        let range = BoundedRange { from, to };
        let run = world.flows.run_bounded(flow, range, table, "test");
        let run = world.tokio.block_on(run).unwrap_or_else(|e| panic!("{e}"));
        let until = Instant::now() + PATIENCE;
        while world.flows.bounded_run(run.id).unwrap().state == BoundedState::Running {
            assert!(Instant::now() < until, "seed {seed}");
            rest(5);
        }
        let run = world.flows.bounded_run(run.id).unwrap();
        assert_eq!(run.state, BoundedState::Done, "seed {seed}: {run:?}");
    }
    let expected = plain(world);
    let sorted = |mut numbers: Vec<i64>| {
        numbers.sort_unstable();
        numbers
    };
    for (table, wanted) in [
        ("again", &expected.windows),
        ("itself_again", &expected.itself),
    ] {
        let wanted = wanted.values();
        let wanted = wanted.map(|(n, m, s)| n * 1_000_000 + m * 1000 + s);
        let column = |column| world.table_ints(table, column).into_iter();
        let found = column("n").zip(column("m")).zip(column("s"));
        let found = found.map(|((n, m), s)| n * 1_000_000 + m * 1000 + s);
        assert_eq!(
            sorted(found.collect()),
            sorted(wanted.collect()),
            "seed {seed}, {table}"
        );
    }
    let (rows, _, _) = read(world, "left");
    let late: BTreeSet<i64> = rows
        .iter()
        .filter(|r| r.time >= later)
        .map(|r| r.id)
        .collect();
    for (table, of_table) in [("versions", false), ("later", true)] {
        let wanted = expected.versions.iter();
        let wanted = wanted.filter(|(id, _)| !of_table || late.contains(id));
        let wanted = wanted.map(|(id, version)| id * EVENTS + version);
        let column = |column| world.table_ints(table, column).into_iter();
        let found = column("id").zip(column("version"));
        let found = found.map(|(id, version)| id * EVENTS + version);
        assert_eq!(
            sorted(found.collect()),
            sorted(wanted.collect()),
            "seed {seed}, {table}"
        );
    }
}

/// Events in some disorder, every now and then one that is too late. The times of no two are the same.
fn events(random: &mut Random, from: i64, to: i64) -> Vec<Event> {
    (from..to)
        .map(|id| {
            let back = match random.below(40) {
                0 => 30 * SECOND,
                _ => random.below(LATENESS as u64) as i64,
            };
            Event {
                is_right: id % 2 == 1,
                id,
                time: (AHEAD + id * SECOND / 20 - back).div_euclid(EVENTS * 2) * EVENTS * 2 + id,
                meter: random.below(5),
                v: match id % 20 {
                    0 | 10 => -1,
                    _ => random.below(100) as i64,
                },
            }
        })
        .collect()
}

/// Events behind all others, for every partition: what was open is closed.
fn closing() -> Vec<Event> {
    (0..32)
        .map(|n| Event {
            is_right: n % 2 == 1,
            // Sixteen topics of each stream.
            id: 1_000_000 + n / 2,
            time: AHEAD + 100_000 * SECOND,
            meter: 9,
            v: 1,
        })
        .collect()
}

fn append(world: &World, events: &[Event], position: u64) -> bool {
    let appended = world
        .bus
        .append(batch(events), Some(("test".into(), position)));
    world.tokio.block_on(appended).is_ok()
}

/// How far the source has come.
fn published(world: &World) -> i64 {
    let streams = ["left", "right"].map(|stream| world.bus.stream(stream));
    let partitions = streams
        .into_iter()
        .flatten()
        .map(|s| s.partitions().to_vec());
    let known = partitions
        .flatten()
        .filter_map(|p| p.producer_position("test"));
    known.max().unwrap_or(0) as i64
}

fn history(seed: u64) -> usize {
    let mut random = Random::new(seed);
    let partitions = (1 + random.below(3) as u16, 1 + random.below(2) as u16);
    let files = files(partitions);
    // In every other history no state may stay in memory behind a commit.
    let bytes_max = match seed % 2 {
        0 => State::default().bytes_max,
        _ => 0,
    };
    let state = State {
        bytes_max,
        ..State::default()
    };
    let mut world = World::with_state(seed, state);
    apply(&world, &files);
    let (mut next, mut crashes) = (0, 0);
    while next < EVENTS {
        let stats = world.disk.stats();
        let doom = stats.writes + stats.syncs + random.below(300);
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let stats = world.disk.stats();
            if stats.writes + stats.syncs >= doom || next >= EVENTS || Instant::now() > until {
                break;
            }
            let to = (next + 1 + random.below(120) as i64).min(EVENTS);
            if !append(&world, &events(&mut random, next, to), to as u64) {
                break;
            }
            next = to;
            // Long enough now and then for a state to be committed in between.
            if random.below(20) == 0 {
                rest(random.below(1500));
            }
        }
        if next < EVENTS {
            world = world.restart(random.below(2) == 0);
            crashes += 1;
            next = next.max(published(&world));
            apply(&world, &files);
        }
    }
    assert!(append(&world, &closing(), EVENTS as u64 + 1));
    check(&world, seed);
    // And again behind a crash: nothing is missing, nothing comes twice.
    world = world.restart(true);
    apply(&world, &files);
    check(&world, seed);
    check_bounded(&world, seed);
    crashes
}

#[test]
fn joined_rows_are_there_once_whatever_happens() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    if let Some(seed) = number("BUSBAR_SIM_SEED") {
        history(seed);
        return;
    }
    let mut crashes = 0;
    for seed in 0..number("BUSBAR_SIM_RUNS").unwrap_or(4) {
        crashes += history(seed);
    }
    assert!(crashes > 10, "{crashes} crashes");
}
