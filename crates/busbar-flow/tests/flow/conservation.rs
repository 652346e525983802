//! Whatever comes in, every event is accounted for: at each node, from node to node, and in what is there.

use crate::common::World;
use busbar_flow::{DEAD_LETTERS, FlowStatus};
use proptest::prelude::*;

/// An event that may be anything.
fn payload() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (0i64..1000, -3i64..6, 0u8..4).prop_map(|(id, v, site)| {
            format!(r#"{{"id":{id},"v":{v},"site":"s{site}"}}"#)
        }),
        // A topic cannot be made of it; a key of a table cannot be null.
        1 => (0i64..1000, 1i64..6).prop_map(|(id, v)| format!(r#"{{"id":{id},"v":{v},"site":"a/b"}}"#)),
        1 => (0i64..1000, 1i64..6).prop_map(|(id, v)| format!(r#"{{"id":{id},"v":{v}}}"#)),
        1 => (1i64..6).prop_map(|v| format!(r#"{{"v":{v},"site":"s"}}"#)),
        1 => "[ -~]{0,20}",
        1 => Just(r#"{"id":"x","v":1}"#.to_owned()),
    ]
}

const FLOWS: [&str; 3] = [
    "from: in\nsteps:\n  - where: v >= 0\n  - select: id, site, 10 / v as w\n  - where: w > 2\n\
     to:\n  - stream: out\n",
    "from: in\nsteps:\n  - select: id, site, v\nto:\n  - topic: 'out/${site}'\n  - table: last\n",
    "from: in\nsteps:\n  - where: 10 / v > 1\nto:\n  - stream: out\n  - table: last\n",
];

fn check(status: &FlowStatus, events: u64, world: &World) {
    assert_eq!(status.conservation.difference, 0, "{status:#?}");
    assert_eq!(status.conservation.counters.input, events);
    for node in &status.nodes {
        assert_eq!(node.counters.difference(), 0, "{node:#?}");
    }
    for edge in &status.edges {
        let node = |id: &str| status.nodes.iter().find(|n| n.id == id).unwrap();
        let (from, to) = (node(&edge.from), node(&edge.to));
        assert_eq!(from.counters.out, to.counters.input, "{edge:?} {status:#?}");
    }
    let out = status.nodes.iter().find(|n| n.id == "to:0").unwrap();
    assert_eq!(world.contents("out").len() as u64, out.counters.out);
    let dead: u64 = status.nodes.iter().map(|n| n.counters.dead).sum();
    assert_eq!(world.contents(DEAD_LETTERS).len() as u64, dead);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_event_is_accounted_for(
        batches in prop::collection::vec(prop::collection::vec(payload(), 1..40), 1..6),
        flow in 0..FLOWS.len(),
        seed in any::<u64>(),
    ) {
        let world = World::new(seed);
        world.apply(&[
            ("streams/in.yaml", "topics: in/#\nformat: json\nschema: { id: int, v: int, site: text }\n"),
            ("streams/out.yaml", "topics: out/#\n"),
            ("tables/last.yaml", "hot: {}\nkey: [id]\n"),
            ("flows/f.yaml", FLOWS[flow]),
        ]);
        let mut events = 0;
        for batch in &batches {
            world.publish("in/a/b", batch);
            events += batch.len() as u64;
        }
        let status = world.settle("f");
        check(&status, events, &world);
    }
}
