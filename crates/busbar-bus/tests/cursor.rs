//! A cursor neither loses nor repeats a row, and says what it cannot read.

mod common;

use std::sync::Arc;

use busbar_bus::{Bus, BusOptions, Cursor, Item};
use busbar_log::Disk;
use common::{NOON, PATIENCE, World, event, publish, publisher, settle, streams};

fn numbers(chunk: &busbar_bus::Chunk) -> Vec<u64> {
    (0..chunk.batch.rows())
        .map(|row| {
            String::from_utf8_lossy(&chunk.batch.event(row).payload)
                .parse()
                .unwrap()
        })
        .collect()
}

fn put(bus: &Bus, from: u64, to: u64) {
    let texts: Vec<String> = (from..to).map(|n| n.to_string()).collect();
    let events: Vec<_> = texts
        .iter()
        .map(|text| event("t", text.as_bytes()))
        .collect();
    publish(bus, &events);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_every_row_once_while_others_write() {
    let world = World::new(1);
    let partition = Arc::clone(&world.bus.stream("inbox").unwrap().partitions()[0]);
    const ALL: u64 = 3_000;
    let readers: Vec<_> = (0..4)
        .map(|n| {
            let mut cursor =
                Cursor::new(Arc::clone(&partition), 0).with_read_bytes(1 << (8 + 3 * n));
            tokio::spawn(async move {
                let mut next = 0;
                while next < ALL {
                    match cursor.next().await.unwrap() {
                        Item::Chunk(chunk) => {
                            assert_eq!(chunk.base, next);
                            let found = numbers(&chunk);
                            assert_eq!(
                                found,
                                (next..next + found.len() as u64).collect::<Vec<_>>()
                            );
                            next = chunk.end();
                            assert_eq!(cursor.position(), next);
                        }
                        Item::Gap(gap) => panic!("{gap:?}"),
                    }
                }
                assert_eq!(cursor.lag(), 0);
            })
        })
        .collect();
    let bus = world.bus.clone();
    let writer = std::thread::spawn(move || {
        let mut publisher = publisher(&bus);
        let mut tickets = Vec::new();
        for n in 0..ALL {
            let payload = n.to_string();
            tickets.push(publisher.push(&event("t", payload.as_bytes())).unwrap());
            if n % 7 == 0 {
                publisher.flush();
            }
            if n % 100 == 0 {
                settle(&mut publisher, &tickets);
                tickets.clear();
            }
        }
        settle(&mut publisher, &tickets);
    });
    for reader in readers {
        tokio::time::timeout(PATIENCE, reader)
            .await
            .unwrap()
            .unwrap();
    }
    writer.join().unwrap();
}

#[tokio::test]
async fn a_commit_between_looking_and_waiting_wakes() {
    let world = World::new(2);
    let partition = Arc::clone(&world.bus.stream("inbox").unwrap().partitions()[0]);
    for round in 0..200u64 {
        let mut cursor = Cursor::new(Arc::clone(&partition), round);
        let bus = world.bus.clone();
        let writer = std::thread::spawn(move || put(&bus, round, round + 1));
        let item = tokio::time::timeout(PATIENCE, cursor.next());
        assert!(matches!(item.await.unwrap().unwrap(), Item::Chunk(chunk) if chunk.base == round));
        writer.join().unwrap();
    }
}

#[tokio::test]
async fn a_cancelled_wait_loses_nothing() {
    let world = World::new(3);
    let partition = Arc::clone(&world.bus.stream("inbox").unwrap().partitions()[0]);
    let mut cursor = Cursor::new(partition, 0);
    let wait = std::time::Duration::from_millis(5);
    assert!(tokio::time::timeout(wait, cursor.next()).await.is_err());
    let bus = world.bus.clone();
    tokio::task::spawn_blocking(move || put(&bus, 0, 5))
        .await
        .unwrap();
    assert!(
        matches!(cursor.next().await.unwrap(), Item::Chunk(chunk) if numbers(&chunk) == [0, 1, 2, 3, 4])
    );
    cursor.seek(3);
    assert!(
        matches!(cursor.next().await.unwrap(), Item::Chunk(chunk) if numbers(&chunk) == [3, 4])
    );
    cursor.seek(99);
    assert_eq!((cursor.position(), cursor.lag()), (5, 0));
}

#[test]
fn damage_is_a_gap_and_the_rest_is_read() {
    let options = BusOptions {
        segment_bytes: 64 << 10,
        ..BusOptions::default()
    };
    let world = World::with(4, options);
    for n in 0..300 {
        put(&world.bus, n * 10, n * 10 + 10);
    }
    let dir = std::path::Path::new("/data/streams/inbox/0");
    let file = world
        .disk
        .list(dir)
        .unwrap()
        .into_iter()
        .map(|entry| dir.join(&entry.name))
        .find(|path| path.extension().is_some_and(|e| e == "log"))
        .expect("a segment");
    world.disk.corrupt(&file, 9_000, b"damage").unwrap();
    let world = world.restart(false);
    let partition = Arc::clone(&world.bus.stream("inbox").unwrap().partitions()[0]);
    let mut cursor = Cursor::new(partition, 0);
    let (mut found, mut gaps) = (Vec::new(), Vec::new());
    while let Some(item) = cursor.try_next().unwrap() {
        match item {
            Item::Chunk(chunk) => found.extend(numbers(&chunk)),
            Item::Gap(gap) => gaps.push(gap.from..gap.resume),
        }
    }
    assert!(!gaps.is_empty(), "the damage is not told");
    let expected: Vec<u64> = (0..3_000)
        .filter(|n| !gaps.iter().any(|gap| gap.contains(n)))
        .collect();
    assert_eq!(found, expected);
    assert!(found.len() > 2_500, "{gaps:?}");
}

#[test]
fn what_retention_took_is_a_gap() {
    let options = BusOptions {
        segment_bytes: 64 << 10,
        ..BusOptions::default()
    };
    let world = World::with(5, options);
    let spec = streams(&[("inbox", r#"{"retention":{"age":"1h"}}"#)]);
    world.bus.apply_streams(&spec).unwrap();
    let partition = Arc::clone(&world.bus.stream("inbox").unwrap().partitions()[0]);
    let mut cursor = Cursor::new(Arc::clone(&partition), 0);
    for n in 0..300 {
        put(&world.bus, n * 10, n * 10 + 10);
    }
    world.clock.advance(2 * 3_600_000_000);
    for n in 300..600 {
        put(&world.bus, n * 10, n * 10 + 10);
    }
    common::wait_for("retention", || partition.start() > 0);
    // Retention may still be at it, and take more behind the first gap.
    let mut missed = 0;
    loop {
        match cursor.try_next().unwrap() {
            Some(Item::Gap(gap)) => {
                assert_eq!(gap.from, missed);
                missed = gap.resume;
            }
            Some(Item::Chunk(chunk)) => {
                assert_eq!(numbers(&chunk)[0], missed);
                break;
            }
            None => panic!("all is gone"),
        }
    }
    assert!(missed > 0, "the gap is not told");
}

#[test]
fn seeks_by_time() {
    let world = World::new(6);
    let mut publisher = publisher(&world.bus);
    for n in 0..100i64 {
        let payload = n.to_string();
        let event = busbar_bus::Event {
            time: NOON + n * 1_000_000,
            ..event("t", payload.as_bytes())
        };
        let ticket = publisher.push(&event).unwrap();
        settle(&mut publisher, &[ticket]);
    }
    let partition = Arc::clone(&world.bus.stream("inbox").unwrap().partitions()[0]);
    let mut cursor = Cursor::new(partition, 0);
    cursor.seek_time(NOON + 50_000_000).unwrap();
    assert!(cursor.position() <= 50);
    cursor.seek_time(NOON - 1).unwrap();
    assert_eq!(cursor.position(), 0);
}
