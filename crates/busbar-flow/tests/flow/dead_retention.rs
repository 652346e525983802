//! Dead letters are bounded by age and size, and so is what is remembered of them.

use std::time::{Duration, Instant};

use busbar_bus::{Retention, Size, Span};
use busbar_flow::{DEAD_LETTERS, DeadFilter};

use crate::common::{World, rest};

const IN: (&str, &str) = (
    "streams/in.yaml",
    "topics: in/#\nformat: json\nschema: { id: int }\n",
);
const FLOW: (&str, &str) = (
    "flows/f.yaml",
    "from: in\nsteps:\n  - select: id\nto:\n  - topic: out/x\n",
);
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until the stream of dead letters begins at `start` or later.
fn wait_for_start(world: &World, start: u64) {
    let begun = Instant::now();
    let partition = world.bus.stream(DEAD_LETTERS).unwrap().partitions()[0].clone();
    while partition.start() < start {
        assert!(begun.elapsed() < PATIENCE, "retention deletes nothing");
        rest(50);
    }
}

fn marks(world: &World) -> usize {
    let store = world.bus.store("dead-letters").unwrap();
    store.scan(b"done/", None, 1000).len()
}

#[test]
fn dead_letters_are_bounded_by_size() {
    const BYTES_MAX: u64 = 512 << 10;
    let retention = Retention {
        bytes: Some(Size::from_bytes(BYTES_MAX)),
        age: None,
    };
    let mut world = World::with_dead_letters(51, retention);
    world.apply(&[IN, FLOW]);
    let unreadable = |count: usize| vec!["x".repeat(10_000); count];
    world.publish("in/a", &unreadable(5));
    world.settle("f");
    // They die again, so there are five letters more, and five that were sent again.
    let redriven = world
        .tokio
        .block_on(world.flows.redrive(DeadFilter::default(), "ann"));
    assert_eq!(redriven.unwrap().died, 5);
    let groups = world.tokio.block_on(world.flows.dead_groups()).unwrap();
    assert_eq!((groups[0].count, groups[0].open), (10, 5));
    assert_eq!(marks(&world), 5);
    let room = world.tokio.block_on(world.flows.dead_retention()).unwrap();
    assert!(!room.expires_soon && room.expired == 0, "{room:?}");

    let mut published = 10;
    for _ in 0..20 {
        world.publish("in/a", &unreadable(10));
        world.settle("f");
        published += 10;
    }
    wait_for_start(&world, 10);
    let partition = world.bus.stream(DEAD_LETTERS).unwrap().partitions()[0].clone();
    let begun = Instant::now();
    while partition.bytes() > BYTES_MAX + BYTES_MAX / 4 {
        assert!(begun.elapsed() < PATIENCE, "{} bytes", partition.bytes());
        rest(50);
    }
    for restarted in [false, true] {
        if restarted {
            world = world.restart(false);
        }
        let room = world.tokio.block_on(world.flows.dead_retention()).unwrap();
        let groups = world.tokio.block_on(world.flows.dead_groups()).unwrap();
        let partition = world.bus.stream(DEAD_LETTERS).unwrap().partitions()[0].clone();
        assert_eq!(partition.end(), published);
        let kept = partition.end() - partition.start();
        assert_eq!((groups[0].count, groups[0].open), (kept, kept));
        // They are deleted beside, which nobody waits for.
        let begun = Instant::now();
        while marks(&world) > 0 {
            assert!(begun.elapsed() < PATIENCE, "{} marks", marks(&world));
            rest(10);
        }
        assert!(room.expires_soon, "{room:?}");
        // Five of the deleted ones had been sent again.
        let expired = if restarted { 0 } else { partition.start() - 5 };
        assert_eq!(room.expired, expired);
    }
}

#[test]
fn dead_letters_are_bounded_by_age() {
    let retention = Retention {
        age: Some(Span::from_micros(2_000_000)),
        bytes: None,
    };
    let world = World::with_dead_letters(52, retention);
    world.apply(&[IN, FLOW]);
    world.publish("in/a", &vec!["x".to_owned(); 3]);
    world.settle("f");
    wait_for_start(&world, 3);
    assert!(
        world
            .tokio
            .block_on(world.flows.dead_groups())
            .unwrap()
            .is_empty()
    );
    let filter = DeadFilter {
        closed: true,
        ..DeadFilter::default()
    };
    let letters = world.tokio.block_on(world.flows.dead_letters(filter, 10));
    assert!(letters.unwrap().is_empty());
    // A cause that had letters before is counted anew.
    world.publish("in/a", &["x".to_owned()]);
    world.settle("f");
    let groups = world.tokio.block_on(world.flows.dead_groups()).unwrap();
    assert!(groups.len() <= 1 && groups.iter().all(|group| group.count == 1));
}
