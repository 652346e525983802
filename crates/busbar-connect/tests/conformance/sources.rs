//! What every source must do.

use std::sync::Arc;
use std::time::Instant;

use busbar_event::Class;

use crate::subjects::{Subject, Supply, subjects};
use crate::world::{Event, PATIENCE, World, eventually, now, rest};

const STREAM: (&str, &str) = ("streams/in.yaml", "topics: in/#\n");

/// Each source of the registry with a supply of its own.
fn each(test: impl Fn(&Subject, Box<dyn Supply>, World)) {
    let mut tested = 0;
    for row in subjects() {
        let Some(supply) = row.supply else { continue };
        eprintln!("-- {}", row.kind);
        let folder = Arc::new(tempfile::tempdir().expect("a folder"));
        test(&row, supply(), World::new(folder));
        tested += 1;
    }
    assert!(tested >= 2);
}

/// Starts the source and waits until it sees what happens.
fn apply(world: &World, supply: &dyn Supply) {
    restart(world, supply);
    eventually("running", || match world.source("c").state {
        "running" => Ok(()),
        state => Err(state.to_owned()),
    });
    rest(400);
}

fn restart(world: &World, supply: &dyn Supply) {
    let connection = supply.connection(world.folder.path());
    world.apply(&[STREAM, ("connections/c.yaml", &connection)]);
}

fn numbers(events: &[Event]) -> Vec<u64> {
    events
        .iter()
        .map(|event| event.json()["n"].as_u64().expect("n"))
        .collect()
}

/// Waits until all are there, and checks that they are there as often as promised, in order.
fn all(world: &World, supply: &dyn Supply, until: u64) -> Vec<Event> {
    let wanted: Vec<u64> = (0..until).collect();
    let distinct = |numbers: &[u64]| {
        let mut seen = std::collections::BTreeSet::new();
        numbers
            .iter()
            .copied()
            .filter(|n| seen.insert(*n))
            .collect::<Vec<_>>()
    };
    // However long it takes, as long as there are more each time.
    let mut before = 0;
    loop {
        let count = eventually("more of what was produced", || {
            let there = distinct(&numbers(&world.events("in")));
            match there.len() {
                count if count > before || count == wanted.len() => Ok(count),
                _ => Err(format!("{:?} {there:?}", world.source("c"))),
            }
        });
        if count >= wanted.len() {
            break;
        }
        before = count;
        rest(10);
    }
    rest(100);
    let events = world.events("in");
    let there = numbers(&events);
    assert_eq!(distinct(&there), wanted, "out of order");
    if supply.exactly_once() {
        assert_eq!(there.len(), wanted.len(), "repeated");
    }
    events
}

#[test]
fn events_come_with_topic_time_and_payload() {
    each(|row, mut supply, world| {
        let begun = now();
        apply(&world, supply.as_ref());
        supply.produce(0..50);
        for event in all(&world, supply.as_ref(), 50) {
            assert_eq!(event.topic, supply.topic(), "{}", row.kind);
            // Some know the second only.
            assert!(
                (begun - 1_000_000..=now()).contains(&event.time),
                "{event:?}"
            );
        }
        assert_eq!(
            numbers(&world.events("in")).len(),
            50,
            "nothing went wrong, so each once"
        );
        let status = world.source("c");
        assert_eq!(
            (status.events, status.error.is_none()),
            (50, true),
            "{status:?}"
        );
    });
}

#[test]
fn it_goes_on_where_it_was_when_the_process_was_killed() {
    each(|_, mut supply, mut world| {
        apply(&world, supply.as_ref());
        let mut until = 0;
        for round in 1..=4u64 {
            let more = until + 300;
            supply.produce(until..more);
            until = more;
            // In the middle of it, most often.
            rest(3 * round);
            world = world.restart();
            restart(&world, supply.as_ref());
        }
        all(&world, supply.as_ref(), until);
    });
}

#[test]
fn it_goes_on_where_it_was_when_it_was_stopped() {
    each(|row, mut supply, world| {
        apply(&world, supply.as_ref());
        supply.produce(0..20);
        all(&world, supply.as_ref(), 20);
        let begun = Instant::now();
        world.apply(&[STREAM]);
        assert!(begun.elapsed() < PATIENCE, "{} stops slowly", row.kind);
        assert!(world.flows.connections().is_empty());
        supply.produce(20..40);
        rest(300);
        assert_eq!(world.events("in").len(), 20, "it was stopped");
        apply(&world, supply.as_ref());
        all(&world, supply.as_ref(), 40);
        assert_eq!(
            world.events("in").len(),
            40,
            "stopped in good order, so each once"
        );
    });
}

#[test]
fn it_waits_while_there_is_no_room_and_then_brings_everything() {
    each(|row, mut supply, world| {
        apply(&world, supply.as_ref());
        supply.produce(0..10);
        all(&world, supply.as_ref(), 10);
        world.disk.set_capacity(Some(0));
        supply.produce(10..3000);
        let status = eventually("retrying", || match world.source("c") {
            status if status.state == "retrying" => Ok(status),
            other => Err(format!("{other:?}")),
        });
        let why = status.error.expect("it says why");
        assert_eq!(why.class(), Class::Transient, "{} {why}", row.kind);
        let held = world.events("in").len();
        rest(300);
        assert_eq!(world.events("in").len(), held);
        world.disk.set_capacity(None);
        all(&world, supply.as_ref(), 3000);
        eventually("running", || match world.source("c").state {
            "running" => Ok(()),
            state => Err(state.to_owned()),
        });
    });
}

#[test]
fn it_heals_when_the_other_side_comes_back() {
    each(|row, mut supply, world| {
        apply(&world, supply.as_ref());
        supply.produce(0..10);
        all(&world, supply.as_ref(), 10);
        supply.go_away();
        let status = eventually("retrying", || match world.source("c") {
            status if status.state == "retrying" && status.tries > 1 => Ok(status),
            other => Err(format!("{other:?}")),
        });
        let why = status.error.expect("it says why");
        assert_eq!(why.class(), Class::Transient, "{} {why}", row.kind);
        supply.come_back();
        supply.produce(10..20);
        all(&world, supply.as_ref(), 20);
        let status = world.source("c");
        assert_eq!((status.state, status.tries), ("running", 0), "{status:?}");
    });
}

/// Readings of the machine come by themselves.
#[test]
fn the_host_is_read() {
    let world = World::new(Arc::new(tempfile::tempdir().expect("a folder")));
    let connection = "host: { every: 200ms }\ntopic: in/${host}/${kind}\n";
    world.apply(&[STREAM, ("connections/c.yaml", connection)]);
    eventually("readings of each kind", || {
        let events = world.events("in");
        let of = |kind: &str| {
            let suffix = format!("/{kind}");
            events.iter().filter(|e| e.topic.ends_with(&suffix)).count()
        };
        match of("cpu") > 2 && of("memory") > 2 && of("network") > 2 {
            true => Ok(()),
            false => Err(format!("{} events", events.len())),
        }
    });
    for event in world.events("in") {
        let json = event.json();
        assert!(json["host"].is_string(), "{json}");
        if event.topic.ends_with("/memory") {
            assert!(
                json["total_bytes"].as_u64().expect("bytes") > 1 << 20,
                "{json}"
            );
        }
        if event.topic.ends_with("/cpu") {
            assert!((0.0..=100.0).contains(&json["used_percent"].as_f64().expect("a number")));
        }
    }
    // Ends without waiting for the next reading.
    world.apply(&[STREAM]);
}
