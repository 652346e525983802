//! Each event that arrives gets a time of its own, in the order of the log.

mod common;

use std::sync::Arc;

use busbar_bus::{Bus, Event, limits::ARRIVAL_AHEAD_MICROS_MAX};
use busbar_event::{ARRIVAL, BatchBuilder, Flags, Row};
use busbar_log::Clock;
use common::{NOON, World, event, publish, publisher, settle, streams};

const SECOND: i64 = 1_000_000;

fn arriving<'a>(topic: &'a str, payload: &'a [u8]) -> Event<'a> {
    Event {
        time: ARRIVAL,
        ..event(topic, payload)
    }
}

/// The times of all events of a stream's first partition, in the order of offsets.
fn times(bus: &Bus, stream: &str) -> Vec<i64> {
    let partition = Arc::clone(&bus.stream(stream).unwrap().partitions()[0]);
    let mut times = Vec::new();
    let mut at = partition.start();
    while at < partition.end() {
        for chunk in partition.read(at, 1 << 20).unwrap() {
            at = chunk.end();
            times.extend_from_slice(chunk.batch.times());
        }
    }
    times
}

fn grow(times: &[i64]) -> bool {
    times.windows(2).all(|pair| pair[0] < pair[1])
}

fn burst(world: &World, events: usize) {
    publish(&world.bus, &vec![arriving("m", b"1"); events]);
}

#[test]
fn a_burst_of_one_topic_has_as_many_times_as_events() {
    let world = World::new(1);
    burst(&world, 1_000);
    let found = times(&world.bus, "inbox");
    assert_eq!(found.len(), 1_000);
    assert!(grow(&found));
    assert_eq!((found[0], found[999]), (NOON, NOON + 999));
    // Where the clock has moved on, times are the clock's again.
    world.clock.advance(SECOND);
    burst(&world, 2);
    assert_eq!(
        times(&world.bus, "inbox")[1_000..],
        [NOON + SECOND, NOON + SECOND + 1]
    );
}

#[test]
fn times_grow_with_offsets_however_many_publish_at_once() {
    let world = World::new(2);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (bus, clock) = (world.bus.clone(), Arc::clone(&world.clock));
            scope.spawn(move || {
                let mut publisher = publisher(&bus);
                for _ in 0..50 {
                    let events = vec![arriving("m", b"1"); 100];
                    let tickets: Vec<_> = events
                        .iter()
                        .map(|event| publisher.push(event).unwrap())
                        .collect();
                    publisher.flush();
                    clock.advance(7);
                    settle(&mut publisher, &tickets);
                }
            });
        }
    });
    let found = times(&world.bus, "inbox");
    assert_eq!(found.len(), 20_000);
    assert!(grow(&found));
    let ahead = found[found.len() - 1] - world.clock.now_micros();
    assert!(
        ahead < 20_000,
        "{ahead} us ahead of the clock after 20,000 events"
    );
}

#[test]
fn a_restart_goes_on_behind_the_last_time_though_the_clock_was_set_back() {
    let world = World::new(3);
    world.clock.set(NOON + 10 * SECOND);
    burst(&world, 3);
    let world = world.restart(true);
    world.clock.set(NOON);
    burst(&world, 2);
    let noon_10 = NOON + 10 * SECOND;
    let expected: Vec<i64> = (noon_10..noon_10 + 5).collect();
    assert_eq!(times(&world.bus, "inbox"), expected);
}

#[test]
fn times_never_stay_far_from_the_clock() {
    let world = World::new(4);
    // Somebody set the clock a day ahead and back again.
    world.clock.set(NOON + 86_400 * SECOND);
    burst(&world, 2);
    world.clock.set(NOON);
    burst(&world, 3);
    let found = times(&world.bus, "inbox");
    assert_eq!(found[2..], [NOON, NOON + 1, NOON + 2]);
    // Within the bound they go on growing.
    world.clock.set(NOON - ARRIVAL_AHEAD_MICROS_MAX + 10);
    burst(&world, 1);
    assert_eq!(times(&world.bus, "inbox")[5], NOON + 3);
    let world = world.restart(false);
    world.clock.set(NOON - 86_400 * SECOND);
    burst(&world, 1);
    assert_eq!(times(&world.bus, "inbox")[6], NOON - 86_400 * SECOND);
}

#[test]
fn times_that_senders_give_stay_and_move_nothing() {
    let world = World::new(5);
    let specs = streams(&[(
        "t",
        r#"{"topics":"t","format":"json","time":"at","schema":{"at":"time"}}"#,
    )]);
    world.bus.apply_streams(&specs).unwrap();
    let given = Event {
        time: NOON + 250 * SECOND,
        ..event("t", b"{}")
    };
    publish(
        &world.bus,
        &[
            arriving("t", b"{}"),
            arriving("t", br#"{"at":"2001-02-03T04:05:06Z"}"#),
            given,
            arriving("t", b"{}"),
        ],
    );
    let long_ago = 981_173_106_000_000;
    let expected = [NOON, long_ago, NOON + 250 * SECOND, NOON + 1];
    assert_eq!(times(&world.bus, "t"), expected);
    let world = world.restart(false);
    world.bus.apply_streams(&specs).unwrap();
    publish(&world.bus, &[arriving("t", b"{}")]);
    // The log ends with a time that a sender gave, far from the clock: it does not count.
    assert_eq!(times(&world.bus, "t")[4], NOON);
}

#[test]
fn whole_batches_get_times_too() {
    let world = World::new(6);
    let mut builder = BatchBuilder::new();
    for time in [ARRIVAL, NOON - SECOND, ARRIVAL] {
        let topic = builder.topic_id("m");
        builder.push(Row {
            topic,
            key: None,
            time,
            client: None,
            flags: Flags::default(),
            tags: &[],
            payload: b"1",
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let batch = builder.finish();
    runtime
        .block_on(world.bus.append(batch.clone(), None))
        .unwrap();
    runtime.block_on(world.bus.append(batch, None)).unwrap();
    let expected = [
        NOON,
        NOON - SECOND,
        NOON + 1,
        NOON + 2,
        NOON - SECOND,
        NOON + 3,
    ];
    assert_eq!(times(&world.bus, "inbox"), expected);
}

/// The flags of all events of a stream's first partition.
fn untimed(bus: &Bus, stream: &str) -> Vec<bool> {
    let partition = Arc::clone(&bus.stream(stream).unwrap().partitions()[0]);
    let chunks = partition.read(0, 1 << 20).unwrap();
    let flags = chunks.iter().flat_map(|chunk| chunk.batch.flags().to_vec());
    flags.map(|flags| flags & Flags::UNTIMED != 0).collect()
}

#[test]
fn a_time_that_is_too_far_ahead_is_told_in_the_log() {
    let world = World::new(5);
    let minute = 60 * SECOND;
    world
        .bus
        .apply_streams(&streams(&[
            (
                "dead",
                r#"{"topics":"d","time":"at","schema":{"at":"time"},"format":"json"}"#,
            ),
            (
                "arrival",
                r#"{"topics":"a","time":{"column":"at","ahead":"arrival","max_ahead":"1m"},"schema":{"at":"time"},"format":"json"}"#,
            ),
        ]))
        .unwrap();
    let payload =
        |time: i64| format!(r#"{{"at":"{}"}}"#, busbar_event::time::text(time)).into_bytes();
    let (near, far) = (payload(NOON + 4 * minute), payload(NOON + 6 * minute));
    publish(
        &world.bus,
        &[
            arriving("d", &near),
            arriving("d", &far),
            arriving("d", b"{}"),
        ],
    );
    assert_eq!(times(&world.bus, "dead")[0], NOON + 4 * minute);
    assert!(
        times(&world.bus, "dead")[1..]
            .iter()
            .all(|time| (NOON..NOON + SECOND).contains(time))
    );
    assert_eq!(untimed(&world.bus, "dead"), [false, true, false]);
    publish(&world.bus, &[arriving("a", &near), arriving("a", &far)]);
    assert!(
        times(&world.bus, "arrival")
            .iter()
            .all(|time| (NOON..NOON + SECOND).contains(time))
    );
    assert_eq!(untimed(&world.bus, "arrival"), [false, false]);
    // Times that senders give are checked as well.
    let sent = |time: i64| Event {
        time,
        ..event("m", b"1")
    };
    publish(
        &world.bus,
        &[sent(NOON + 4 * minute), sent(NOON + 6 * minute)],
    );
    assert_eq!(untimed(&world.bus, "inbox"), [false, true]);
    // The clock is set back by a day: events with right times are taken all the same.
    world.clock.set(NOON - 24 * 3600 * SECOND);
    publish(&world.bus, &[arriving("d", &near)]);
    assert_eq!(untimed(&world.bus, "dead")[3..], [false]);
    assert_eq!(times(&world.bus, "dead")[3], NOON + 4 * minute);
}
