//! Small frames become large ones, and nobody can tell but by their number.

mod common;

use std::sync::Arc;

use busbar_bus::Event;
use common::{NOON, World, contents, event, publisher, retain, settle};

#[test]
fn merged_frames_hold_the_same_events_at_the_same_offsets() {
    let world = World::new(1);
    let partition = Arc::clone(&world.bus.stream("inbox").unwrap().partitions()[0]);
    let mut publisher = publisher(&world.bus);
    for n in 0..500i64 {
        let (topic, payload) = (format!("t/{}", n % 7), n.to_string());
        let plain = match n % 50 {
            0 => retain(&topic, payload.as_bytes()),
            _ => event(&topic, payload.as_bytes()),
        };
        let ticket = publisher
            .push(&Event {
                time: NOON + n,
                ..plain
            })
            .unwrap();
        settle(&mut publisher, &[ticket]);
    }
    drop(publisher);
    let before = contents(&world.bus, "inbox");
    let retained = world.bus.retained().count();
    assert_eq!(
        world.bus.merge_small_frames().unwrap().frames,
        (0, 0),
        "nothing is sealed"
    );
    partition.log().roll();
    common::wait_for("the seal", || partition.log().segments()[0].sealed);
    let merged = world.bus.merge_small_frames().unwrap();
    assert_eq!(merged.frames.0, 500);
    assert!(
        merged.frames.1 < 5 && merged.bytes.1 < merged.bytes.0 / 3,
        "{merged:?}"
    );
    assert_eq!(
        world.bus.merge_small_frames().unwrap().frames,
        (0, 0),
        "once is enough"
    );
    assert_eq!(contents(&world.bus, "inbox"), before);
    drop(partition);
    let world = world.restart(true);
    assert_eq!(contents(&world.bus, "inbox"), before);
    assert_eq!(world.bus.retained().count(), retained);
    let partition = Arc::clone(&world.bus.stream("inbox").unwrap().partitions()[0]);
    let chunk = partition.read(123, 1).unwrap().remove(0);
    assert_eq!((chunk.base, chunk.batch.times()[0]), (123, NOON + 123));
}

#[test]
fn a_damaged_segment_does_not_keep_those_behind_it_from_being_merged() {
    let world = World::new(2);
    let partition = Arc::clone(&world.bus.stream("inbox").unwrap().partitions()[0]);
    let mut publisher = publisher(&world.bus);
    for part in 0..2u64 {
        for n in 0..100 {
            let payload = n.to_string();
            let ticket = publisher.push(&event("t", payload.as_bytes())).unwrap();
            settle(&mut publisher, &[ticket]);
        }
        partition.log().roll();
        common::wait_for("the seal", || {
            partition.log().segments().len() as u64 == part + 2
        });
    }
    let first = std::path::Path::new("/data/streams/inbox/0/00000000000000000000.log");
    // Behind the frames that are looked at first, so that it seems worth merging.
    let len = world.disk.contents(first).unwrap().len() as u64;
    world.disk.corrupt(first, len - 100, b"damage").unwrap();
    let merged = world.bus.merge_small_frames().unwrap();
    assert_eq!(merged.frames, (100, 1));
    let again = world.bus.merge_small_frames().unwrap();
    assert_eq!(again.frames, (0, 0), "it is looked at for ever");
    // What can be read of the damaged one still can.
    assert_eq!(partition.read(98, 1).unwrap()[0].base, 98);
    assert_eq!(partition.read(100, 1 << 20).unwrap()[0].base, 100);
}
