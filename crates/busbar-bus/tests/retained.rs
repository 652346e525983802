//! Retained values: there as soon as the event is acknowledged, and after any crash.

mod common;

use busbar_bus::{BusOptions, Event, Refused, RetainedValue};
use busbar_event::Flags;
use busbar_log::sim::Random;
use common::{NOON, World, filter, publish, publisher, retain, settle};

fn all(world: &World, pattern: &str) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut after: Option<std::sync::Arc<str>> = None;
    loop {
        let page = world
            .bus
            .retained()
            .matching(&filter(pattern), after.as_deref(), 3);
        found.extend(page.values.iter().map(pair));
        match page.next {
            Some(next) => after = Some(next),
            None => return found,
        }
    }
}

fn pair(value: &RetainedValue) -> (String, Vec<u8>) {
    (value.topic.to_string(), value.payload.to_vec())
}

#[test]
fn a_value_is_there_when_its_event_is_acknowledged() {
    let world = World::new(1);
    let mut publisher = publisher(&world.bus);
    for n in 0..200 {
        let payload = format!("{n}").into_bytes();
        let ticket = publisher.push(&retain("a/b", &payload)).unwrap();
        settle(&mut publisher, &[ticket]);
        assert_eq!(world.bus.retained().get("a/b").unwrap().payload, payload);
    }
    assert_eq!(world.bus.retained().count(), 1);
    publish(&world.bus, &[retain("a/b", b"")]);
    assert_eq!(world.bus.retained().get("a/b"), None);
    assert_eq!(world.bus.retained().count(), 0);
    assert_eq!(world.bus.retained().bytes(), 0);
}

#[test]
fn values_keep_all_of_their_event_and_come_in_pages() {
    let world = World::new(2);
    let tags = [("site", "a"), ("$reply-to", "r")];
    publish(
        &world.bus,
        &[Event {
            key: Some("k"),
            client: Some("c"),
            tags: &tags,
            flags: Flags::default()
                .with_retain(true)
                .with_qos(1)
                .with_reserved_tags(true),
            ..retain("x/1", b"v")
        }],
    );
    let value = world.bus.retained().get("x/1").unwrap();
    assert_eq!(
        (value.key.as_deref(), value.client.as_deref()),
        (Some("k"), Some("c"))
    );
    assert_eq!(value.tags.len(), 2);
    assert_eq!(
        (value.flags.qos(), value.flags.retain(), value.time),
        (1, true, NOON)
    );
    for n in 0..20 {
        publish(
            &world.bus,
            &[
                retain(&format!("p/{n:02}/x"), b"1"),
                retain(&format!("p/{n:02}/y"), b"2"),
            ],
        );
    }
    publish(&world.bus, &[retain("$sys/x", b"s")]);
    assert_eq!(all(&world, "p/+/y").len(), 20);
    assert_eq!(all(&world, "#").len(), 41);
    assert_eq!(
        all(&world, "$sys/#"),
        [("$sys/x".to_owned(), b"s".to_vec())]
    );
}

#[test]
fn what_expires_is_not_answered_and_then_removed() {
    let world = World::new(3);
    let at = (NOON + 5_000_000).to_string();
    let tags = [("$expires-at", at.as_str())];
    publish(
        &world.bus,
        &[
            Event {
                tags: &tags,
                ..retain("e", b"1")
            },
            retain("f", b"2"),
        ],
    );
    assert!(world.bus.retained().get("e").is_some());
    world.clock.advance(6_000_000);
    assert!(world.bus.retained().get("e").is_none());
    assert_eq!(all(&world, "#").len(), 1);
    common::wait_for("the removal", || world.bus.retained().count() == 1);
}

#[test]
fn a_full_house_takes_no_new_topics() {
    let options = BusOptions {
        retained_topics_max: 2,
        ..BusOptions::default()
    };
    let world = World::with(4, options);
    publish(&world.bus, &[retain("a", b"1"), retain("b", b"1")]);
    let mut publisher = publisher(&world.bus);
    assert_eq!(
        publisher.push(&retain("c", b"1")),
        Err(Refused::RetainedFull)
    );
    publish(&world.bus, &[retain("a", b"2"), retain("b", b"")]);
    publish(&world.bus, &[retain("c", b"1")]);
    assert_eq!(all(&world, "#").len(), 2);
}

/// Values, deletions and streams that change, through crashes at any moment: what is retained is
/// what the acknowledged events say.
#[test]
fn survives_crashes() {
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let mut world = World::new(seed);
        let mut model = std::collections::BTreeMap::new();
        for round in 0..4 {
            if random.below(2) == 0 {
                let spec = match random.below(2) {
                    0 => common::streams(&[("s", r#"{"topics":"t/#"}"#)]),
                    _ => common::streams(&[("s", r#"{"topics":"t/1","partitions":1}"#)]),
                };
                world.bus.apply_streams(&spec).unwrap();
            }
            for n in 0..random.below(40) {
                let topic = format!("t/{}", random.below(6));
                let payload = match random.below(4) {
                    0 => String::new(),
                    _ => format!("{seed} {round} {n}"),
                };
                world.clock.advance(1);
                let time = busbar_log::Clock::now_micros(&*world.clock);
                publish(
                    &world.bus,
                    &[Event {
                        time,
                        ..retain(&topic, payload.as_bytes())
                    }],
                );
                match payload.is_empty() {
                    true => model.remove(&topic),
                    false => model.insert(topic, payload.into_bytes()),
                };
                if random.below(10) == 0 {
                    world.bus.retained().flush().unwrap();
                }
            }
            world = world.restart(random.below(2) == 0);
            let expected: Vec<_> = model.clone().into_iter().collect();
            assert_eq!(all(&world, "#"), expected, "seed {seed}, round {round}");
        }
    }
}

/// A sender's clock may go back, or the time may come from what it says: the last event counts.
#[test]
fn the_last_event_counts_after_a_crash_whatever_its_time() {
    for flushed in [false, true] {
        let world = World::new(7);
        let at = |time, payload: &'static [u8]| Event {
            time,
            ..retain("t", payload)
        };
        publish(&world.bus, &[at(NOON, b"first")]);
        if flushed {
            world.bus.retained().flush().unwrap();
        }
        publish(&world.bus, &[at(NOON - 1_000, b"second")]);
        publish(&world.bus, &[at(NOON - 2_000, b"third")]);
        let before = all(&world, "#");
        assert_eq!(before, [("t".to_owned(), b"third".to_vec())]);
        let world = world.restart(false);
        assert_eq!(all(&world, "#"), before);
    }
}
