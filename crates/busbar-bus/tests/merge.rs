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
