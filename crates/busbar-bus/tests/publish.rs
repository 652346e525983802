//! What a publisher is told is what the log holds, whatever the disk does in between.

mod common;

use std::collections::BTreeMap;

use busbar_bus::{BusOptions, Event, Failure, Refused, Status, Ticket};
use busbar_event::Flags;
use common::{World, contents, event, publisher, settle, streams};
use proptest::prelude::*;

/// What may happen while events come in.
#[derive(Clone, Debug)]
enum Step {
    /// So many events to one of the streams.
    Push(usize, u8),
    Flush,
    /// Everything so far settles.
    Settle,
    /// The next syncs fail.
    FailSyncs(u32),
    FailWrites(u32),
    /// The disk is full from now on, or not any more.
    Full(bool),
    /// Time passes, so that a failed segment may be tried again.
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..4usize, 1..40u8).prop_map(|(stream, count)| Step::Push(stream, count)),
        4 => Just(Step::Flush),
        2 => Just(Step::Settle),
        1 => (1..3u32).prop_map(Step::FailSyncs),
        1 => (1..3u32).prop_map(Step::FailWrites),
        1 => any::<bool>().prop_map(Step::Full),
        3 => Just(Step::Wait),
    ]
}

fn run(seed: u64, steps: &[Step]) {
    let world = World::new(seed);
    world
        .bus
        .apply_streams(&streams(&[
            ("s0", r#"{"topics":"s0/#"}"#),
            ("s1", r#"{"topics":"s1/#"}"#),
            ("s2", r#"{"topics":"s2/#","partitions":3}"#),
        ]))
        .unwrap();
    let mut publisher = publisher(&world.bus);
    let mut pushed: Vec<(Ticket, usize, Vec<u8>)> = Vec::new();
    for step in steps {
        match step {
            Step::Push(stream, count) => {
                for _ in 0..*count {
                    let id = pushed.len();
                    let topic = format!("s{stream}/c{}/x", id % 5);
                    let payload = format!("{topic} {id}").into_bytes();
                    let ticket = publisher.push(&event(&topic, &payload)).unwrap();
                    pushed.push((ticket, *stream, payload));
                }
            }
            Step::Flush => publisher.flush(),
            Step::Settle => {
                let tickets: Vec<_> = pushed.iter().map(|(ticket, ..)| *ticket).collect();
                settle(&mut publisher, &tickets);
            }
            Step::FailSyncs(count) => world.disk.fail_syncs(*count),
            Step::FailWrites(count) => world.disk.fail_writes(*count),
            Step::Full(full) => world.disk.set_capacity(full.then_some(1)),
            Step::Wait => world.clock.advance(1_000_000),
        }
        // Lanes settle in order: nothing settled stands behind something pending. The later ones
        // are asked first, since the disk goes on while we look.
        let mut settled: BTreeMap<String, bool> = BTreeMap::new();
        for (ticket, ..) in pushed.iter().rev() {
            let lane = format!("{ticket:?}")
                .split(',')
                .next()
                .unwrap_or_default()
                .to_owned();
            let pending = publisher.status(*ticket) == Status::Pending;
            let later = settled.entry(lane).or_insert(false);
            assert!(!pending || !*later, "settled out of order");
            *later |= !pending;
        }
    }
    let tickets: Vec<_> = pushed.iter().map(|(ticket, ..)| *ticket).collect();
    let statuses = settle(&mut publisher, &tickets);
    assert_eq!(publisher.in_flight_bytes(), 0);
    assert_eq!(world.bus.budget().used(), 0);

    let names = ["s0", "s1", "s2", "inbox"];
    let check = |bus: &busbar_bus::Bus, when: &str| {
        for (at, name) in names.iter().enumerate() {
            let found = contents(bus, name);
            let mut all: Vec<Vec<u8>> = found
                .iter()
                .flatten()
                .map(|(_, payload)| payload.clone())
                .collect();
            let mut committed: Vec<Vec<u8>> = pushed
                .iter()
                .zip(&statuses)
                .filter(|((_, stream, _), status)| *stream == at && **status == Status::Committed)
                .map(|((.., payload), _)| payload.clone())
                .collect();
            // In each partition in the order of pushes.
            let number = |payload: &[u8]| -> usize {
                let text = std::str::from_utf8(payload).unwrap();
                text.rsplit(' ').next().unwrap().parse().unwrap()
            };
            for rows in &found {
                let order: Vec<usize> = rows.iter().map(|(_, payload)| number(payload)).collect();
                assert!(
                    order.windows(2).all(|pair| pair[0] < pair[1]),
                    "{when}: {name}: order"
                );
            }
            all.sort();
            committed.sort();
            assert_eq!(
                all, committed,
                "{when}: {name}: stored and acknowledged differ"
            );
        }
    };
    check(&world.bus, "before the crash");
    world.disk.set_capacity(None);
    drop(publisher);
    let world = world.restart(true);
    // What was acknowledged is there after a power cut, and nothing is there twice.
    for (at, name) in names.iter().enumerate() {
        let found: Vec<Vec<u8>> = contents(&world.bus, name)
            .into_iter()
            .flatten()
            .map(|(_, payload)| payload)
            .collect();
        for ((_, stream, payload), status) in pushed.iter().zip(&statuses) {
            if *stream == at {
                let times = found.iter().filter(|row| *row == payload).count();
                assert!(times <= 1, "{name}: twice after the crash");
                assert!(
                    *status != Status::Committed || times == 1,
                    "{name}: lost in the crash"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn acknowledges_exactly_what_is_stored(
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        run(seed, &steps);
    }
}

#[test]
fn a_full_disk_fails_tickets_and_heals() {
    let world = World::new(1);
    let mut publisher = publisher(&world.bus);
    let first = publisher.push(&event("a", b"1")).unwrap();
    assert_eq!(settle(&mut publisher, &[first]), [Status::Committed]);
    world.disk.set_capacity(Some(1));
    world.clock.advance(1_000_000);
    let second = publisher.push(&event("a", b"2")).unwrap();
    assert_eq!(
        settle(&mut publisher, &[second]),
        [Status::Failed(Failure::DiskFull)]
    );
    assert_eq!(contents(&world.bus, "inbox")[0].len(), 1);
    world.disk.set_capacity(None);
    world.clock.advance(1_000_000);
    let third = publisher.push(&event("a", b"3")).unwrap();
    assert_eq!(
        settle(&mut publisher, &[third, second]),
        [Status::Committed, Status::Failed(Failure::DiskFull)]
    );
    assert_eq!(contents(&world.bus, "inbox")[0].len(), 2);
}

#[test]
fn a_publisher_may_take_larger_payloads_than_others() {
    let world = World::with(
        2,
        BusOptions {
            payload_bytes_max: 10,
            ..BusOptions::default()
        },
    );
    let (mut plain, mut wide) = (publisher(&world.bus), publisher(&world.bus));
    wide.take_payloads_up_to(12);
    let refused = Refused::PayloadTooLarge;
    assert_eq!(
        plain.push(&event("a", b"12345678901")).unwrap_err(),
        refused
    );
    let ticket = wide.push(&event("a", b"123456789012")).unwrap();
    assert_eq!(settle(&mut wide, &[ticket]), [Status::Committed]);
    assert_eq!(
        wide.push(&event("a", b"1234567890123")).unwrap_err(),
        refused
    );
}

#[test]
fn refuses_what_no_stream_could_take() {
    let world = World::with(
        2,
        BusOptions {
            payload_bytes_max: 10,
            ..BusOptions::default()
        },
    );
    let mut publisher = publisher(&world.bus);
    let long = "x".repeat(65_536);
    for (refused, event) in [
        (Refused::Topic, event("", b"")),
        (Refused::Topic, event("a/+", b"")),
        (Refused::Topic, event(&long, b"")),
        (Refused::PayloadTooLarge, event("a", b"12345678901")),
        (
            Refused::KeyTooLong,
            Event {
                key: Some(&long),
                ..event("a", b"")
            },
        ),
        (
            Refused::Tags,
            Event {
                tags: &[("a", "b"); 65],
                ..event("a", b"")
            },
        ),
        (
            Refused::Tags,
            Event {
                tags: &[(&long, "b")],
                ..event("a", b"")
            },
        ),
    ] {
        assert_eq!(publisher.push(&event), Err(refused));
        assert!(
            !refused.to_string().contains("bus."),
            "{refused} has a text"
        );
    }
    assert!(!publisher.has_gathered());
}

#[test]
fn what_was_pushed_and_never_flushed_is_written_when_the_publisher_goes() {
    let world = World::new(3);
    let mut publisher = publisher(&world.bus);
    publisher.push(&event("a", b"1")).unwrap();
    publisher.push(&event("b", b"2")).unwrap();
    drop(publisher);
    let stream = world.bus.stream("inbox").unwrap();
    common::wait_for("the events", || stream.partitions()[0].end() == 2);
}

#[test]
fn a_used_up_budget_stops_reading_and_then_refuses() {
    let options = BusOptions {
        in_flight_bytes_max: 1 << 20,
        ..BusOptions::default()
    };
    let world = World::with(4, options);
    let mut publisher = publisher(&world.bus);
    let payload = vec![b'x'; 100_000];
    let mut tickets = Vec::new();
    let mut refused = 0;
    // Without a flush nothing goes to the disk before a lane is full.
    for n in 0..40 {
        let topic = format!("t/{}", n % 4);
        match publisher.push(&event(&topic, &payload)) {
            Ok(ticket) => tickets.push(ticket),
            Err(Refused::Overloaded) => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
        assert!(world.bus.budget().used() <= 2 * world.bus.budget().max() + 200_000);
    }
    let _ = refused;
    let statuses = settle(&mut publisher, &tickets);
    assert!(statuses.iter().all(|status| *status == Status::Committed));
    assert_eq!(world.bus.budget().used(), 0);
    assert!(publisher.writable());
}

#[test]
fn keys_tags_and_topics_count_as_much_as_payloads() {
    let world = World::new(8);
    let specs = streams(&[("k", r#"{"topics":"k/#","key":"${topic}"}"#)]);
    world.bus.apply_streams(&specs).unwrap();
    let mut publisher = publisher(&world.bus);
    let long = "x".repeat(50_000);
    let (plain, keyed) = (format!("t/{long}"), format!("k/{long}"));
    let tags = [("a", long.as_str()); 4];
    let mut tickets = Vec::new();
    for n in 0..300 {
        let topic = format!("t/{long}/{n}");
        for event in [
            event(&topic, b""),
            event(&keyed, b""),
            Event {
                tags: &tags,
                ..event(&plain, b"")
            },
            Event {
                key: Some(&long),
                ..event(&plain, b"")
            },
        ] {
            match publisher.push(&event) {
                Ok(ticket) => tickets.push(ticket),
                Err(Refused::Overloaded) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(publisher.in_flight_bytes() <= 3 * world.bus.budget().max());
    }
    // Although nobody stopped when the publisher was not writable, no batch has grown beyond the
    // bound of batches and one event.
    for name in ["k", "inbox"] {
        settle(&mut publisher, &tickets);
        let partition = &world.bus.stream(name).unwrap().partitions()[0];
        for frame in partition.log().read(partition.start(), 1 << 30).unwrap() {
            let most = busbar_event::limits::BATCH_BYTES_MAX + (1 << 20);
            assert!(frame.body.len() < most, "{}", frame.body.len());
        }
    }
}

#[test]
fn the_position_of_one_sender_takes_no_rows_of_others_away() {
    let world = World::new(6);
    let mut publisher = publisher(&world.bus);
    let (a, b) = ("session:a".into(), "session:b".into());
    for (a_at, b_at) in [(3, 1), (3, 2), (1, 1)] {
        let tickets = [
            publisher.push(&event("t", b"plain")).unwrap(),
            publisher.push_from(&event("t", b"a"), &a, a_at).unwrap(),
            publisher.push_from(&event("t", b"b"), &b, b_at).unwrap(),
        ];
        let statuses = settle(&mut publisher, &tickets);
        assert_eq!(statuses, [Status::Committed; 3]);
    }
    assert_eq!(contents(&world.bus, "inbox")[0].len(), 9);
    let partition = &world.bus.stream("inbox").unwrap().partitions()[0];
    assert_eq!(partition.producer_position("session:a"), Some(3));
    assert_eq!(partition.producer_position("session:b"), Some(2));
}

#[test]
fn keys_and_clients_and_tags_arrive_as_they_were_sent() {
    let world = World::new(5);
    world
        .bus
        .apply_streams(&streams(&[(
            "m",
            r#"{"topics":"meter/#","key":"${client}","partitions":4}"#,
        )]))
        .unwrap();
    let tags = [("site", "a"), ("$content-type", "text/plain")];
    let events = [
        Event {
            client: Some("c1"),
            tags: &tags,
            ..event("meter/m1/x", b"1")
        },
        Event {
            key: Some("own"),
            client: Some("c2"),
            ..event("meter/m1/x", b"2")
        },
        Event {
            flags: Flags::default().with_qos(1),
            ..event("meter/m2/x", b"3")
        },
    ];
    common::publish(&world.bus, &events);
    let stream = world.bus.stream("m").unwrap();
    let mut rows = Vec::new();
    for partition in stream.partitions().iter() {
        for chunk in partition
            .read(partition.start(), 1 << 20)
            .unwrap_or_default()
        {
            for row in 0..chunk.batch.rows() {
                let event = chunk.batch.event(row);
                rows.push((
                    event.payload.to_vec(),
                    event.key.map(str::to_owned),
                    event.client.map(str::to_owned),
                    event.tags().count(),
                    event.flags.qos(),
                ));
            }
        }
    }
    rows.sort();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        rows,
        [
            (b"1".to_vec(), text("m1"), text("c1"), 2, 0),
            (b"2".to_vec(), text("own"), text("c2"), 0, 0),
            (b"3".to_vec(), text("m2"), None, 0, 1),
        ]
    );
}
