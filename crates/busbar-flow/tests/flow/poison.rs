//! Events that cannot be processed however often one tries: they die, and nobody else.

use crate::common::{World, ids};
use busbar_flow::{DeadFilter, FlowState};

const IN: (&str, &str) = (
    "streams/in.yaml",
    "topics: in/#\nformat: json\nschema: { id: int, v: int, site: text }\n",
);
const OUT: (&str, &str) = ("streams/out.yaml", "topics: out/#\nformat: json\n");
const ALL: (&str, &str) = ("tables/all.yaml", "relational: {}\n");

fn reading(id: i64, v: i64) -> String {
    format!(r#"{{"id":{id},"v":{v},"site":"s"}}"#)
}

#[test]
fn an_event_that_grows_too_large_dies_alone() {
    let world = World::new(41);
    // Twelve columns that are fine each, and together more than an append takes.
    let columns: String = (0..12)
        .map(|n| format!(", repeat(site, v) as c{n}"))
        .collect();
    let flow = format!(
        "from: in\nsteps:\n  - select: id{columns}\nto:\n  - stream: out\n  - topic: 'out/x'\n"
    );
    world.apply(&[IN, OUT, ("flows/f.yaml", &flow)]);
    let mut events: Vec<String> = (0..100).map(|id| reading(id, 3)).collect();
    // More than one append takes, and more than the function makes.
    events[30] = reading(30, 3_500_000);
    events[60] = reading(60, 2_000_000_000);
    world.publish("in/a/b", &events);
    let status = world.settle("f");
    assert_eq!(status.state, FlowState::Running, "{:?}", status.error);
    let counts = status.conservation.counters;
    assert_eq!((counts.input, counts.out, counts.dead), (100, 98, 2));
    assert_eq!(status.conservation.difference, 0);
    let mut out = ids(&world.contents("out"));
    out.sort_unstable();
    let twice: Vec<i64> = (0..100)
        .filter(|id| ![30, 60].contains(id))
        .flat_map(|id| [id, id])
        .collect();
    assert_eq!(out, twice);
    let letters = world.flows.dead_letters(DeadFilter::default(), 10);
    let letters = world.tokio.block_on(letters).unwrap();
    let mut told: Vec<(u64, &str, &str)> = letters
        .iter()
        .map(|l| (l.offset, l.place.as_str(), l.code.as_str()))
        .collect();
    told.sort_unstable();
    assert_eq!(
        told.iter()
            .map(|(at, place, _)| (*at, *place))
            .collect::<Vec<_>>(),
        [(30, "to:0"), (30, "to:1"), (60, "step:0")]
    );
    assert_eq!(told[0].2, "bus.append-large");
    // Sent again they die again, and nothing hangs.
    let redriven = world.flows.redrive(DeadFilter::default(), "");
    let redriven = world.tokio.block_on(redriven).unwrap();
    assert_eq!((redriven.sent, redriven.died), (3, 3));
    // One that is put right goes through.
    let mild = flow.replace("repeat(site, v)", "repeat(site, 2)");
    world.apply(&[IN, OUT, ("flows/f.yaml", &mild)]);
    let redriven = world.flows.redrive(DeadFilter::default(), "");
    let redriven = world.tokio.block_on(redriven).unwrap();
    assert_eq!((redriven.sent, redriven.died), (3, 0));
}

#[test]
fn a_batch_that_grows_too_large_goes_in_parts() {
    let mut world = World::new(42);
    let flow = "from: in\nsteps:\n  - select: id, repeat(site, v) as long\n  - select: id, length(long) as n\n\
                to:\n  - table: all\n";
    let wide =
        "from: in\nsteps:\n  - select: id, repeat(site, v / 4) as long\nto:\n  - stream: out\n";
    let files = [IN, OUT, ALL, ("flows/f.yaml", flow), ("flows/g.yaml", wide)];
    // Together 80 MB of text: more than a function makes, more than an append takes. Alone they are fine.
    let events: Vec<String> = (0..400).map(|id| reading(id, 200_000)).collect();
    world.apply(&[IN, OUT, ALL]);
    world.publish("in/a/b", &events);
    world.apply(&files);
    for round in 0..2 {
        for name in ["f", "g"] {
            let status = world.settle(name);
            assert_eq!(status.state, FlowState::Running, "{:?}", status.error);
            assert_eq!(status.conservation.difference, 0);
            assert_eq!(status.conservation.counters.dead, 0);
        }
        let mut rows = world.table_ints("all", "id");
        rows.sort_unstable();
        assert_eq!(rows, (0..400).collect::<Vec<_>>(), "{round}");
        assert_eq!(ids(&world.contents("out")), rows, "{round}");
        // Wherever it was cut, it is known when it comes again.
        world = world.restart(true);
        world.apply(&files);
    }
}

#[test]
fn many_dead_letters_of_a_batch_are_put_down_in_parcels() {
    let world = World::new(43);
    let outputs: String = (0..12)
        .map(|n| format!("  - topic: 'out/${{key}}/{n}'\n"))
        .collect();
    let flow = format!("from: in\nto:\n{outputs}");
    world.apply(&[IN, OUT, ("flows/f.yaml", &flow)]);
    // Each event dies at each of twelve outputs: 48 MB of letters for a batch of 4 MB.
    let long = "x".repeat(4000);
    let events: Vec<String> = (0..1000)
        .map(|id| format!(r#"{{"id":{id},"v":1,"site":"{long}"}}"#))
        .collect();
    world.publish("in/a/b", &events);
    let status = world.settle("f");
    assert_eq!(status.state, FlowState::Running, "{:?}", status.error);
    assert_eq!(status.conservation.counters.dead, 1000);
    assert_eq!(status.conservation.difference, 0);
    let dead = ids(&world.contents(busbar_flow::DEAD_LETTERS));
    assert_eq!(dead.len(), 12_000);
}
