//! Exactly once, whatever happens: the process is killed, or the power fails, after any number of disk
//! operations, again and again, while the flow is changed, paused, taken out and put in again, and the disk is
//! full for a while; and in the end every output holds every result once.
//!
//! `BUSBAR_SIM_SEED=17` runs one history, `BUSBAR_SIM_RUNS=500` many.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::common::{PATIENCE, World, batch, ids};
use busbar_log::sim::Random;

const FILES: [(&str, &str); 5] = [
    (
        "streams/in.yaml",
        "topics: in/#\nformat: json\npartitions: 2\nschema: { id: int, v: int, site: text }\n",
    ),
    (
        "streams/out.yaml",
        "topics: out/#\nformat: json\nschema: { id: int, w: int }\n",
    ),
    (
        "streams/alarm.yaml",
        "topics: alarm/#\nformat: json\npartitions: 3\nkey: '${client}'\n",
    ),
    ("tables/all.yaml", "relational: {}\n"),
    ("flows/f.yaml", FLOW),
];

const FLOW: &str = "from: in\nsteps:\n  - where: v >= 0\n  - select: id, site, 1000 / v as w\n\
                    to:\n  - stream: out\n  - topic: 'alarm/${site}'\n  - table: all\n";

/// Something that people do to a flow that runs. None of it changes what comes of an event.
fn meddle(world: &World, random: &mut Random) {
    let flows = &world.flows;
    match random.below(12) {
        0 | 1 => {
            let version = FLOW.replace("1000 / v", &format!("{} / v", random.below(1000)));
            let mut files = FILES;
            files[4].1 = &version;
            // On a full disk it may be refused; then the old version goes on.
            let _ = world.try_apply(&files);
        }
        2 => {
            let _ = world.tokio.block_on(flows.pause("f"));
            let _ = world.tokio.block_on(flows.resume("f"));
        }
        3 => {
            let _ = world.try_apply(&FILES[..4]);
            let _ = world.try_apply(&FILES);
        }
        4 => {
            world.disk.set_capacity(Some(1));
            world.disk.fail_writes(3);
        }
        _ => world.disk.set_capacity(None),
    }
}

const EVENTS: i64 = 3000;

/// `v` is negative: filtered. It is 0: dead.
fn v(id: i64) -> i64 {
    id % 7 - 1
}

fn history(seed: u64) {
    let mut random = Random::new(seed);
    let mut world = World::new(seed);
    world.apply(&FILES);
    let mut next: i64 = 0;
    let mut crashes = 0;
    while next < EVENTS {
        let doom = world.disk.stats();
        let doom = doom.writes + doom.syncs + random.below(120);
        // Publishes until the disk has done so much, wherever the flow is then.
        let until = Instant::now() + PATIENCE;
        loop {
            let stats = world.disk.stats();
            if stats.writes + stats.syncs >= doom || next >= EVENTS || Instant::now() > until {
                break;
            }
            let to = (next + 1 + random.below(60) as i64).min(EVENTS);
            let events: Vec<String> = (next..to)
                .map(|id| format!(r#"{{"id":{id},"v":{},"site":"s{}"}}"#, v(id), id % 5))
                .collect();
            let topic = format!("in/c{}/x", random.below(4));
            // The position makes a repetition after a crash harmless, as a source's does.
            let producer = Some(("test".into(), to as u64));
            let appended = world.bus.append(batch(&topic, &events), producer);
            match world.tokio.block_on(appended) {
                Ok(_) => next = to,
                Err(_) => break,
            }
            meddle(&world, &mut random);
        }
        world.disk.set_capacity(None);
        if next < EVENTS {
            world = world.restart(random.below(2) == 0);
            crashes += 1;
            // What was appended without an answer is known by its position.
            let known = world.bus.stream("in").map_or(0, |stream| {
                let partitions = stream.partitions();
                partitions
                    .iter()
                    .filter_map(|p| p.producer_position("test"))
                    .max()
                    .unwrap_or(0)
            });
            next = next.max(known as i64);
            world.apply(&FILES);
        }
    }
    // Somebody may have been in the middle of something.
    world.apply(&FILES);
    // A segment that the last error closed rests a moment before a new one is begun; nobody starts anew.
    let until = Instant::now() + PATIENCE;
    while let Err(error) = world.tokio.block_on(world.flows.resume("f")) {
        assert!(Instant::now() < until, "seed {seed}: {error}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let status = world.settle("f");
    assert_eq!(status.conservation.difference, 0, "seed {seed}");
    let came = ids(&world.contents("in"));
    let once = |what: &str, found: Vec<i64>, wanted: &dyn Fn(i64) -> bool| {
        let mut counts: BTreeMap<i64, i64> = BTreeMap::new();
        for id in found {
            *counts.entry(id).or_default() += 1;
        }
        for id in came.iter().filter(|id| wanted(v(**id))) {
            let count = counts.remove(id).unwrap_or(0);
            assert_eq!(
                count, 1,
                "seed {seed}, {crashes} crashes: {what} has {id} {count} times"
            );
        }
        assert!(
            counts.is_empty(),
            "seed {seed}: {what} has more: {counts:?}"
        );
    };
    once("out", ids(&world.contents("out")), &|v| v > 0);
    once("alarm", ids(&world.contents("alarm")), &|v| v > 0);
    once("all", world.table_ints("all", "id"), &|v| v > 0);
    once(
        "dead letters",
        ids(&world.contents(busbar_flow::DEAD_LETTERS)),
        &|v| v == 0,
    );
}

#[test]
fn every_result_is_there_once_after_any_crash() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    match number("BUSBAR_SIM_SEED") {
        Some(seed) => history(seed),
        None => (1..=number("BUSBAR_SIM_RUNS").unwrap_or(6)).for_each(history),
    }
}
