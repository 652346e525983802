//! Reading again: what is written again, what is recognised, and what time it is in the input.

use crate::common::{World, ids, rest};
use arrow::array::{BinaryArray, StringArray};
use busbar_event::{Batch, Body, Envelope};
use busbar_flow::{DEAD_LETTERS, DeadFilter, DeadLetter, FlowState, ReplayFrom};
use busbar_log::sim::Random;

const IN: (&str, &str) = (
    "streams/in.yaml",
    "topics: in/#\nformat: json\nlateness: 10s\nschema: { id: int, v: int, site: text }\n",
);
const OUT: (&str, &str) = (
    "streams/out.yaml",
    "topics: out/#\nformat: json\nschema: { id: int, w: int }\n",
);

fn reading(id: i64, v: i64) -> String {
    format!(r#"{{"id":{id},"v":{v},"site":"s{}"}}"#, id % 3)
}

fn flow(select: &str) -> String {
    format!("from: in\nsteps:\n  - select: {select}\nto:\n  - stream: out\n")
}

fn letters(world: &World, closed_too: bool) -> Vec<DeadLetter> {
    let filter = DeadFilter {
        closed: closed_too,
        ..DeadFilter::default()
    };
    let letters = world.flows.dead_letters(filter, 100_000);
    world.tokio.block_on(letters).unwrap()
}

/// Offset and place of each letter that is open, by offset.
fn open(world: &World) -> Vec<(u64, String)> {
    let mut open: Vec<(u64, String)> = letters(world, false)
        .into_iter()
        .map(|letter| (letter.offset, letter.place))
        .collect();
    open.sort();
    open
}

fn replay(world: &World, from: ReplayFrom) {
    world.tokio.block_on(world.flows.replay("f", from)).unwrap();
    world.settle("f");
}

#[test]
fn a_replay_knows_the_letters_there_are() {
    let world = World::new(21);
    world.apply(&[IN, OUT, ("flows/f.yaml", &flow("id, 100 / v as w"))]);
    let mut events: Vec<String> = (0..200).map(|id| reading(id, id + 1)).collect();
    events[50] = reading(50, 0);
    events[100] = "{\"id\": \"what".into();
    events[150] = r#"{"id":150,"v":"text"}"#.into();
    world.publish("in/a/b", &events);
    world.settle("f");
    let at = |offset: u64, place: &str| (offset, place.to_owned());
    let first = [at(50, "step:0"), at(100, "decode"), at(150, "decode")];
    assert_eq!(open(&world), first);
    // The same deaths: the same letters, whatever part is read again and however often.
    for from in [
        ReplayFrom::Earliest,
        ReplayFrom::Earliest,
        ReplayFrom::Latest,
    ] {
        replay(&world, from);
        assert_eq!(open(&world), first);
        assert_eq!(world.contents(DEAD_LETTERS).len(), 3, "{from:?}");
    }
    assert_eq!(ids(&world.contents("out")).len(), 3 * 197);
    // Put right and read again: the letter of what went through is closed, and cannot be sent a second time.
    world.apply(&[IN, OUT, ("flows/f.yaml", &flow("id, v as w"))]);
    replay(&world, ReplayFrom::Earliest);
    assert_eq!(open(&world), first[1..]);
    assert_eq!(letters(&world, true).len(), 3);
    let groups = world.tokio.block_on(world.flows.dead_groups()).unwrap();
    assert_eq!(
        groups
            .iter()
            .map(|g| (g.count, g.open))
            .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1)),
        (3, 2)
    );
    // Dead of something else, in another place: a new letter, and no other is open for its event.
    world.apply(&[IN, OUT, ("flows/f.yaml", &flow("id, 100 / (v - 8) as w"))]);
    replay(&world, ReplayFrom::Earliest);
    let other = [at(7, "step:0"), at(100, "decode"), at(150, "decode")];
    assert_eq!(open(&world), other);
    // A closed letter does not hide a death.
    let before = world.flow("f").conservation.counters.dead;
    world.apply(&[IN, OUT, ("flows/f.yaml", &flow("id, 100 / v as w"))]);
    replay(&world, ReplayFrom::Earliest);
    assert_eq!(open(&world), first);
    let died = world.flow("f").conservation.counters.dead - before;
    assert_eq!(died, 3);
    assert_eq!(world.flow("f").conservation.difference, 0);
}

#[test]
fn a_replay_that_is_cut_off_again_and_again_still_knows_them() {
    for seed in 0..4 {
        let mut random = Random::new(seed);
        let mut world = World::new(seed);
        let files = [IN, OUT, ("flows/f.yaml", &*flow("id, 100 / v as w"))];
        world.apply(&files);
        for batch in 0..20 {
            let events: Vec<String> = (batch * 100..batch * 100 + 100)
                .map(|id| reading(id, id % 7))
                .collect();
            world.publish("in/a/b", &events);
        }
        world.settle("f");
        let dead: Vec<i64> = (0..2000).filter(|id| id % 7 == 0).collect();
        assert_eq!(ids(&world.contents(DEAD_LETTERS)), dead);
        let again = world.flows.replay("f", ReplayFrom::Earliest);
        world.tokio.block_on(again).unwrap();
        for _ in 0..3 {
            rest(random.below(8));
            world = world.restart(random.below(2) == 0);
            world.apply(&files);
        }
        world.settle("f");
        let open: Vec<i64> = open(&world).into_iter().map(|(at, _)| at as i64).collect();
        assert_eq!(open, dead, "seed {seed}");
        assert_eq!(ids(&world.contents(DEAD_LETTERS)), dead, "seed {seed}");
        // Everything that lives is there once for each time it was asked for.
        let mut out = ids(&world.contents("out"));
        out.sort_unstable();
        let twice: Vec<i64> = (0..2000)
            .filter(|id| id % 7 != 0)
            .flat_map(|id| [id, id])
            .collect();
        assert_eq!(out, twice, "seed {seed}");
    }
}

#[test]
fn a_flow_that_is_paused_is_replayed_when_it_goes_on() {
    let mut world = World::new(22);
    let files = [IN, OUT, ("flows/f.yaml", &*flow("id, v as w"))];
    world.apply(&files);
    world.publish("in/a/b", &[reading(1, 1), reading(2, 2)]);
    world.settle("f");
    for round in 2..4 {
        world.tokio.block_on(world.flows.pause("f")).unwrap();
        if round == 3 {
            world = world.restart(true);
            world.apply(&files);
        }
        let again = world.flows.replay("f", ReplayFrom::Earliest);
        world.tokio.block_on(again).unwrap();
        assert_eq!(world.flow("f").state, FlowState::Paused);
        world.tokio.block_on(world.flows.resume("f")).unwrap();
        world.settle("f");
        assert_eq!(ids(&world.contents("out")), [1, 2].repeat(round));
    }
}

fn at(times: &[i64]) -> Batch {
    let topics = StringArray::from(vec!["in/a/b"; times.len()]);
    let payloads: Vec<String> = times.iter().map(|t| reading(*t, 1)).collect();
    let body = BinaryArray::from_iter_values(payloads.iter().map(|p| p.as_bytes()));
    let envelope = Envelope::new(&topics, times.to_vec());
    Batch::from_columns(envelope, Body::Payload(body)).unwrap()
}

#[test]
fn a_watermark_is_the_greatest_time_less_the_lateness_and_outlives_a_crash() {
    const SECOND: i64 = 1_000_000;
    let mut world = World::new(23);
    let files = [IN, OUT, ("flows/f.yaml", &*flow("id, v as w"))];
    world.apply(&files);
    let watermark = |world: &World| {
        let status = world.settle("f");
        assert_eq!(status.watermark_micros, status.tasks[0].watermark_micros);
        let from = status.nodes.iter().find(|n| n.id == "from:in").unwrap();
        let to = status.nodes.iter().find(|n| n.id == "to:0").unwrap();
        assert_eq!(from.watermark_micros, status.watermark_micros);
        assert_eq!(to.watermark_micros, status.watermark_micros);
        status.watermark_micros
    };
    assert_eq!(watermark(&world), None);
    let publish = |world: &World, times: &[i64]| {
        world
            .tokio
            .block_on(world.bus.append(at(times), None))
            .unwrap();
    };
    publish(&world, &[100 * SECOND, 300 * SECOND, 200 * SECOND]);
    assert_eq!(watermark(&world), Some(290 * SECOND));
    // What comes late turns nothing back.
    publish(&world, &[150 * SECOND]);
    assert_eq!(watermark(&world), Some(290 * SECOND));
    // It is part of the checkpoint, of a new version and of a restart.
    world.apply(&[IN, OUT, ("flows/f.yaml", &flow("id, v + 1 as w"))]);
    assert_eq!(watermark(&world), Some(290 * SECOND));
    rest(500);
    for power_cut in [false, true] {
        world = world.restart(power_cut);
        world.apply(&files);
        assert_eq!(watermark(&world), Some(290 * SECOND));
    }
    publish(&world, &[400 * SECOND]);
    assert_eq!(watermark(&world), Some(390 * SECOND));
    // A replay begins anew.
    replay(&world, ReplayFrom::Latest);
    assert_eq!(watermark(&world), None);
    replay(&world, ReplayFrom::Time(350 * SECOND));
    assert_eq!(watermark(&world), Some(390 * SECOND));
}
