//! How much is computed to find what a result was made of.

use busbar_event::time;
use busbar_flow::{EventAt, Lineage};
use busbar_log::{Clock, SystemClock};

use crate::common::World;

const SECOND: i64 = 1_000_000;
const EVENTS: i64 = 3_000;
const SITES: i64 = 50;

/// Publishes readings of [`SITES`] sites in turn, fifty a second, in frames of a few, and traces one of them.
fn traced(offset: u64) -> Lineage {
    let world = World::new(11);
    world.apply(&[
        (
            "streams/in.yaml",
            "topics: in/#\nformat: json\ntime: at\nlateness: 0s\nschema: { id: int, at: time, site: int }\n",
        ),
        ("streams/out.yaml", "topics: out/#\nformat: json\n"),
        (
            "flows/f.yaml",
            "from: in\nsteps:\n  - where: id >= 0\n  - window: { tumble: 20s, by: [site], select: 'site, sum(id) as ids' }\nto:\n  - topic: out/${site}\n",
        ),
    ]);
    let begin = (SystemClock.now_micros() / (20 * SECOND) - 1_000) * 20 * SECOND;
    let readings: Vec<String> = (0..EVENTS)
        .map(|id| {
            let (site, at) = (id % SITES, time::text(begin + id * SECOND / 50));
            format!(r#"{{"id":{id},"at":"{at}","site":{site}}}"#)
        })
        .collect();
    for frame in readings.chunks(7) {
        world.publish("in/a", frame);
    }
    world.settle("f");

    let stream = world.bus.stream("in").unwrap();
    let chunks = stream.partitions()[0].read(offset, 1 << 20).unwrap();
    let chunk = &chunks[0];
    let event = EventAt {
        stream: "in".into(),
        partition: 0,
        offset,
        event: chunk.batch.slice((offset - chunk.base) as usize, 1),
    };
    let lineage = async {
        let project = world.flows.project().await;
        world.flows.lineage(&project, "f", &event).await
    };
    world.tokio.block_on(lineage).unwrap().unwrap()
}

#[test]
fn what_is_computed_follows_from_the_group_and_not_from_all_events_for_each_of_it() {
    let lineage = traced(1_500);
    assert!(lineage.whole);
    assert_eq!(lineage.events, EVENTS as u64);
    assert_eq!((lineage.results.len(), lineage.more), (1, 0));
    let result = &lineage.results[0];
    let inputs: Vec<u64> = result.inputs.iter().map(|event| event.offset).collect();
    let group: Vec<u64> = (1_000..2_000).step_by(SITES as usize).collect();
    assert_eq!((inputs, result.more), (group, 0));
    // Twenty events of a thousand in the window, each found by halving.
    assert!(lineage.runs < 250, "{} runs", lineage.runs);
    // Were all events computed in each run, it would be the product of both.
    let computed = lineage.computed;
    assert!(computed < 40 * EVENTS as u64, "{computed} events computed");
}
