//! A flow with a window and regrouping, whatever happens: the process is killed, or the power fails, after any number of disk
//! operations, again and again, and the flow is paused, deployed anew and taken out meanwhile. In the end every output holds
//! every window once, with the values that a plain computation over the log gives, and every late event is kept.
//!
//! `BUSBAR_SIM_SEED=17` runs one history, `BUSBAR_SIM_RUNS=500` many.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{BinaryArray, StringArray};
use busbar_event::{Batch, Body, Envelope};
use busbar_flow::ReplayFrom;
use busbar_log::sim::Random;
use serde_json::Value;

use crate::common::{State, World, rest};

const SECOND: i64 = 1_000_000;
const SIZE: i64 = 10 * SECOND;
const LATENESS: i64 = 3 * SECOND;
/// Times of events lie ahead of the clock, so that no partition ticks: a slow machine gives the same rows as a fast one.
const AHEAD: i64 = 4_000_000_000 * SECOND;

const FLOW: &str = "from: in\nsteps:\n  - where: v >= 0\n  - window:\n      tumble: 10s\n      by: [site]\n      \
                    select: site, count(*) as n, sum(v) as s, min(id) as first, window_start\n\
                    to:\n  - { stream: out, key: '${site}' }\n  - table: all\n";

pub fn files(partitions: u16) -> [(&'static str, String); 4] {
    [
        (
            "streams/in.yaml",
            format!(
                "topics: in/#\nformat: json\npartitions: {partitions}\nlateness: 3s\nschema: {{ id: int, v: int, site: text }}\n"
            ),
        ),
        (
            "streams/out.yaml",
            "topics: out/w\nformat: json\npartitions: 2\n".into(),
        ),
        ("tables/all.yaml", "relational: {}\n".into()),
        ("flows/f.yaml", FLOW.into()),
    ]
}

pub fn apply(world: &World, files: &[(&'static str, String)]) {
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, &**text)).collect();
    let applied = world.apply(&files);
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
}

pub struct Event {
    id: i64,
    time: i64,
    site: u64,
    v: i64,
}

fn batch(events: &[Event]) -> Batch {
    let topics: Vec<String> = events
        .iter()
        .map(|e| format!("in/c{}/x", e.id % 16))
        .collect();
    let times = events.iter().map(|e| e.time).collect();
    let payloads = events.iter().map(|e| {
        let Event { id, v, site, .. } = e;
        format!(r#"{{"id":{id},"v":{v},"site":"s{site}"}}"#)
    });
    let body = BinaryArray::from_iter_values(payloads.map(String::into_bytes));
    let envelope = Envelope::new(&StringArray::from(topics), times);
    Batch::from_columns(envelope, Body::Payload(body)).unwrap()
}

/// One window of one site: number, sum, first.
pub type Windows = BTreeMap<(i64, String), (i64, i64, i64)>;

/// What a plain computation over the log says: the windows that every partition has passed, and the events that are late.
pub fn plain(world: &World) -> (Windows, Vec<i64>) {
    let stream = world.bus.stream("in").unwrap();
    let (mut windows, mut late) = (Windows::new(), Vec::new());
    let mut passed = i64::MAX;
    for partition in stream.partitions().iter() {
        let mut watermark = i64::MIN;
        let mut at = partition.start();
        while at < partition.end() {
            for chunk in partition.read(at, 1 << 20).unwrap() {
                for row in 0..chunk.batch.rows() {
                    let event = chunk.batch.event(row);
                    let payload: Value = serde_json::from_slice(&event.payload).unwrap();
                    let int = |name: &str| payload[name].as_i64().unwrap();
                    let start = event.time.div_euclid(SIZE) * SIZE;
                    if int("v") >= 0 {
                        if start + SIZE <= watermark {
                            late.push(int("id"));
                        } else {
                            let site = payload["site"].as_str().unwrap().to_owned();
                            let known = windows.entry((start, site)).or_insert((0, 0, i64::MAX));
                            *known = (known.0 + 1, known.1 + int("v"), known.2.min(int("id")));
                        }
                    }
                    watermark = watermark.max(event.time - LATENESS);
                }
                at = chunk.end();
            }
        }
        passed = passed.min(watermark);
    }
    windows.retain(|(start, _), _| start + SIZE <= passed);
    late.sort_unstable();
    (windows, late)
}

/// What the output stream says; panics where a window is there twice.
fn found(world: &World) -> Windows {
    let mut windows = Windows::new();
    for (_, row) in world.contents("out") {
        let int = |name: &str| {
            row[name]
                .as_i64()
                .unwrap_or_else(|| panic!("{name}: {row}"))
        };
        let start = row["window_start"].as_str().unwrap();
        let start = busbar_event::time::parse(start).unwrap();
        let site = row["site"].as_str().unwrap().to_owned();
        let before = windows.insert((start, site), (int("n"), int("s"), int("first")));
        assert_eq!(before, None, "twice: {row}");
    }
    windows
}

fn settle(world: &World, seed: u64) {
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        let status = world.settle("f");
        assert_eq!(
            status.conservation.difference, 0,
            "seed {seed}: {status:#?}"
        );
        // Between two stages everything is done with for a moment; the windows must be there as well.
        let (expected, late) = plain(world);
        let table = world.table_ints("all", "n").len();
        let kept = world.contents("f.late").len();
        if found(world).len() >= expected.len() && table >= expected.len() && kept >= late.len() {
            return;
        }
        assert!(Instant::now() < until, "seed {seed}: {status:#?}");
        rest(20);
    }
}

pub fn check(world: &World, seed: u64) {
    settle(world, seed);
    let (expected, late) = plain(world);
    assert!(expected.len() > 20, "seed {seed}: {}", expected.len());
    assert!(!late.is_empty(), "seed {seed}");
    assert_eq!(found(world), expected, "seed {seed}");
    let mut sums = world.table_ints("all", "s");
    let mut wanted: Vec<i64> = expected.values().map(|(_, s, _)| *s).collect();
    sums.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(sums, wanted, "seed {seed}");
    let kept = world.contents("f.late");
    let mut kept: Vec<i64> = kept
        .iter()
        .map(|(_, p)| p["id"].as_i64().unwrap())
        .collect();
    kept.sort_unstable();
    assert_eq!(kept, late, "seed {seed}");
}

/// Events in some disorder, every now and then one that is too late.
pub fn events(random: &mut Random, from: i64, to: i64) -> Vec<Event> {
    (from..to)
        .map(|id| {
            let back = match random.below(40) {
                0 => 30 * SECOND,
                _ => random.below(LATENESS as u64) as i64,
            };
            Event {
                id,
                time: AHEAD + id * SECOND / 20 - back,
                site: random.below(5),
                v: random.below(100) as i64 - 5,
            }
        })
        .collect()
}

/// Events behind all others, for every partition: what was open is closed.
pub fn closing() -> Vec<Event> {
    (0..16)
        .map(|n| Event {
            id: 1_000_000 + n,
            time: AHEAD + 100_000 * SECOND,
            site: 9,
            v: 1,
        })
        .collect()
}

pub fn append(world: &World, events: &[Event], position: u64) -> bool {
    let appended = world
        .bus
        .append(batch(events), Some(("test".into(), position)));
    world.tokio.block_on(appended).is_ok()
}

/// How far the source has come.
fn published(world: &World) -> i64 {
    let partitions = world
        .bus
        .stream("in")
        .map(|stream| stream.partitions().to_vec());
    let known = partitions.into_iter().flatten();
    let known = known.filter_map(|p| p.producer_position("test")).max();
    known.unwrap_or(0) as i64
}

fn meddle(world: &World, files: &[(&'static str, String)], random: &mut Random) {
    let flows = &world.flows;
    match random.below(10) {
        0 => {
            let _ = world.tokio.block_on(flows.pause("f"));
            let _ = world.tokio.block_on(flows.resume("f"));
        }
        // Another version that means the same to the window: its state stays.
        1 => {
            let mut files = files.to_vec();
            files[3].1 = files[3]
                .1
                .replace("v >= 0", &format!("v >= 0 and {0} = {0}", random.below(9)));
            apply(world, &files);
        }
        2 => {
            apply(world, &files[..3]);
            apply(world, files);
        }
        _ => {}
    }
}

const EVENTS: i64 = 1200;
/// Crashes of one history.
const CRASHES: usize = 10;

fn history(seed: u64) -> usize {
    let mut random = Random::new(seed);
    let partitions = 1 + random.below(3) as u16;
    let files = files(partitions);
    // State is committed so often that crashes come before, within and behind commits. In every other history none of it may
    // stay in memory behind a commit.
    let state = State {
        snapshot_every: Duration::from_millis(random.below(30)),
        bytes_max: match seed % 2 {
            0 => State::default().bytes_max,
            _ => 0,
        },
    };
    let mut world = World::with_state(seed, state);
    apply(&world, &files);
    let (mut next, mut crashes) = (0, 0);
    while next < EVENTS {
        let stats = world.disk.stats();
        let doom = stats.writes + stats.syncs + random.below(60);
        // Each crash has its share of the events before it.
        let share = (EVENTS * (crashes as i64 + 1) / (CRASHES as i64 + 1)).max(next + 1);
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let stats = world.disk.stats();
            let doomed = stats.writes + stats.syncs >= doom && next >= share.min(EVENTS);
            if doomed || next >= EVENTS || Instant::now() > until {
                break;
            }
            let to = (next + 1 + random.below(60) as i64).min(EVENTS);
            if !append(&world, &events(&mut random, next, to), to as u64) {
                break;
            }
            next = to;
            meddle(&world, &files, &mut random);
            // Long enough now and then for a state to be committed in between.
            if random.below(5) == 0 {
                rest(random.below(40));
            }
        }
        if next < EVENTS {
            world = world.restart(random.below(2) == 0);
            crashes += 1;
            next = next.max(published(&world));
            apply(&world, &files);
        }
    }
    apply(&world, &files);
    assert!(append(&world, &closing(), EVENTS as u64 + 1));
    check(&world, seed);
    // And again behind a crash: nothing is missing, nothing comes twice.
    world = world.restart(true);
    apply(&world, &files);
    check(&world, seed);
    crashes + 1
}

/// A hundred crashes; histories run side by side, since most of the time they wait.
#[test]
fn windows_are_there_once_whatever_happens() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    if let Some(seed) = number("BUSBAR_SIM_SEED") {
        history(seed);
        return;
    }
    let runs = number("BUSBAR_SIM_RUNS").unwrap_or(15);
    let next = AtomicU64::new(0);
    let worker = || {
        let mut crashes = 0;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= runs {
                return crashes;
            }
            crashes += history(seed);
        }
    };
    let crashes: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
        let crashes = workers.into_iter().map(|worker| worker.join().unwrap());
        crashes.sum()
    });
    assert!(
        crashes >= 7 * runs as usize,
        "{crashes} crashes in {runs} histories"
    );
}

/// Bytes of state that the flow has in memory.
fn held(world: &World) -> usize {
    let status = world.settle("f");
    let operators = status.tasks.iter().flat_map(|task| &task.operators);
    operators.map(|operator| operator.memory_bytes).sum()
}

#[test]
fn state_beyond_its_memory_stays_on_the_disk() {
    const SITES: i64 = 20_000;
    const BYTES: usize = 64 << 10;
    for bytes_max in [usize::MAX, BYTES] {
        let state = State {
            snapshot_every: Duration::from_millis(10),
            bytes_max,
        };
        let world = World::with_state(9, state);
        apply(&world, &files(1));
        for from in (0..SITES).step_by(1000) {
            let events: Vec<Event> = (from..from + 1000)
                .map(|id| Event {
                    id,
                    time: AHEAD + id,
                    site: id as u64,
                    v: 1,
                })
                .collect();
            assert!(append(&world, &events, (from + 1000) as u64));
        }
        match bytes_max {
            // All of it is there, or the other case shows nothing.
            usize::MAX => assert!(held(&world) > 8 * BYTES),
            _ => {
                // Memory is given back while events come.
                let until = Instant::now() + Duration::from_secs(120);
                let mut more = SITES;
                while held(&world) > 2 * BYTES {
                    assert!(Instant::now() < until, "{}", held(&world));
                    let event = Event {
                        id: more,
                        time: AHEAD + more,
                        site: 0,
                        v: 1,
                    };
                    more += 1;
                    assert!(append(&world, &[event], more as u64));
                    rest(20);
                }
            }
        }
        assert!(append(&world, &closing(), u64::MAX >> 1));
        settle(&world, 9);
        assert_eq!(found(&world), plain(&world).0);
        assert_eq!(found(&world).len(), SITES as usize);
    }
}

#[test]
fn idle_partitions_tick_and_a_replay_gives_the_same() {
    // Times behind the clock: when nothing more comes, the clock closes the windows.
    let mut world = World::new(7);
    let files = files(3);
    apply(&world, &files);
    let events: Vec<Event> = (0..200)
        .map(|id| Event {
            id,
            time: 1_600_000_000 * SECOND + id * SECOND,
            site: id as u64 % 4,
            v: id,
        })
        .collect();
    assert!(append(&world, &events, 1));
    let all = |world: &World, count: usize| {
        let until = Instant::now() + Duration::from_secs(120);
        while world.contents("out").len() < count {
            assert!(Instant::now() < until, "{:#?}", world.flow("f"));
            rest(20);
        }
        world.settle("f");
    };
    // 200 seconds are 20 windows of 4 sites each.
    all(&world, 80);
    let once = found(&world);
    assert_eq!(once.len(), 80);
    assert_eq!(once.values().map(|(n, _, _)| n).sum::<i64>(), 200);
    let status = world.flow("f");
    assert!(status.tasks.iter().any(|task| task.stage == 1));
    assert_eq!(status.conservation.difference, 0, "{status:#?}");
    world = world.restart(true);
    apply(&world, &files);
    world.settle("f");
    rest(1500);
    assert_eq!(found(&world), once);
    // Once more from the beginning, with the ticks where they were.
    let again = world.flows.replay("f", ReplayFrom::Earliest);
    world.tokio.block_on(again).unwrap();
    all(&world, 160);
    let rows = world.contents("out");
    assert_eq!(rows.len(), 160);
    let mut rows: Vec<String> = rows.into_iter().map(|(_, row)| row.to_string()).collect();
    rows.sort();
    assert!(rows.chunks(2).all(|pair| pair[0] == pair[1]), "{rows:#?}");
}
