//! A stream that is joined with itself: what is refused, how the flow runs, and events that are sent again.

use std::time::Instant;

use arrow::array::{BinaryArray, StringArray};
use busbar_connector::Connectors;
use busbar_event::{Batch, Body, Envelope};
use busbar_flow::{DeadFilter, check};

use crate::common::{PATIENCE, World, project, rest};

const SECOND: i64 = 1_000_000;
/// Ahead of the clock, so that no partition ticks.
const AHEAD: i64 = 4_000_000_000 * SECOND;
const IN: (&str, &str) = (
    "streams/in.yaml",
    "topics: in/#\nformat: json\npartitions: 2\nlateness: 10s\nschema: { id: int, v: int, site: text }\n",
);
const OUT: (&str, &str) = ("streams/out.yaml", "topics: out/x\nformat: json\n");
const JOIN: &str = "  - join: { stream: in, on: site, within: 5s, columns: [id as other] }\n";

fn flow(steps: &str) -> String {
    format!("from: in\nsteps:\n{steps}to:\n  - stream: out\n")
}

#[test]
fn what_cannot_be_joined_with_itself_is_refused() {
    let window = "  - window: { tumble: 10s, by: [site], select: 'site, count(*) as n' }\n";
    let as_of = JOIN.replace("within: 5s", "as_of: true");
    for (steps, code, word) in [
        (as_of, "flow.join-itself-as-of", "true"),
        (format!("{window}{JOIN}"), "flow.join-itself-state", "in"),
        (
            JOIN.replace("id as other", "id"),
            "flow.join-column-twice",
            "id",
        ),
    ] {
        let bad = check(
            &project(&[IN, OUT, ("flows/f.yaml", &flow(&steps))]),
            &Connectors::default(),
        );
        let found: Vec<_> = bad.iter().map(|b| (b.error().code(), b.word())).collect();
        assert_eq!(found, [(code, word)], "{steps}");
    }
}

#[test]
fn the_stream_is_read_once_and_both_sides_are_shown() {
    let world = World::new(21);
    let steps = format!("  - where: v >= 0\n{JOIN}");
    world.apply(&[IN, OUT, ("flows/f.yaml", &flow(&steps))]);
    let plan = world.tokio.block_on(world.flows.explain("f")).unwrap();
    let stages: Vec<_> = plan
        .stages
        .iter()
        .map(|stage| {
            let steps = stage.steps.iter().map(|step| (step.kind, step.part));
            (stage.stage, stage.tasks, steps.collect::<Vec<_>>())
        })
        .collect();
    assert_eq!(plan.stages[0].reads, "in");
    assert_eq!(
        stages,
        [
            (
                0,
                2,
                vec![
                    ("where", None),
                    ("join", Some("before")),
                    ("join", Some("other"))
                ]
            ),
            (1, 2, vec![("join", Some("after"))]),
        ]
    );
    let status = world.flow("f");
    let edges = status.edges.iter();
    let edges: Vec<_> = edges.map(|e| (e.from.as_str(), e.to.as_str())).collect();
    assert_eq!(
        edges,
        [
            ("from:in", "step:0"),
            ("from:in", "step:1"),
            ("step:0", "step:1"),
            ("step:1", "to:0")
        ]
    );
}

/// One event a second, in the order of their numbers.
fn publish(world: &World, events: &[(i64, i64)]) {
    let topics = vec!["in/c1/x"; events.len()];
    let times = events.iter().map(|(id, _)| AHEAD + id * SECOND).collect();
    let payloads = events
        .iter()
        .map(|(id, v)| format!(r#"{{"id":{id},"v":{v},"site":"a"}}"#).into_bytes());
    let body = BinaryArray::from_iter_values(payloads);
    let envelope = Envelope::new(&StringArray::from(topics), times);
    let batch = Batch::from_columns(envelope, Body::Payload(body)).unwrap();
    world.tokio.block_on(world.bus.append(batch, None)).unwrap();
}

fn pairs(world: &World, count: usize) -> Vec<(i64, i64)> {
    let until = Instant::now() + PATIENCE;
    while world.contents("out").len() < count {
        assert!(Instant::now() < until, "{:#?}", world.flow("f"));
        rest(10);
    }
    let status = world.settle("f");
    assert_eq!(status.conservation.difference, 0, "{status:#?}");
    let int = |row: &serde_json::Value, name: &str| row[name].as_i64().unwrap();
    let rows = world.contents("out");
    let rows = rows.iter();
    let mut rows: Vec<_> = rows
        .map(|(_, row)| (int(row, "id"), int(row, "other")))
        .collect();
    rows.sort_unstable();
    rows
}

/// An event that dies on the way to the join is the other side all the same; sent again, it is not there twice.
#[test]
fn an_event_that_is_sent_again_is_the_other_side_once() {
    for power_cut in [false, true] {
        let mut world = World::new(22);
        let steps = |condition: &str| {
            let steps = format!("  - where: {condition}\n{JOIN}  - select: id, other\n");
            flow(&steps)
        };
        let (bad, good) = (steps("100 / v > 0"), steps("v >= 0"));
        world.apply(&[IN, OUT, ("flows/f.yaml", &bad)]);
        publish(&world, &[(1, 1), (2, 0), (3, 1)]);
        let before = [(1, 1), (1, 2), (1, 3), (3, 1), (3, 2), (3, 3)];
        assert_eq!(pairs(&world, before.len()), before);
        world.apply(&[IN, OUT, ("flows/f.yaml", &good)]);
        let sent = world.flows.redrive(DeadFilter::default(), "test");
        let sent = world.tokio.block_on(sent).unwrap();
        assert_eq!((sent.sent, sent.died, sent.refused), (1, 0, 0), "{sent:?}");
        world = world.restart(power_cut);
        world.apply(&[IN, OUT, ("flows/f.yaml", &good)]);
        let all = [
            (1, 1),
            (1, 2),
            (1, 3),
            (2, 1),
            (2, 2),
            (2, 3),
            (3, 1),
            (3, 2),
            (3, 3),
        ];
        assert_eq!(pairs(&world, all.len()), all);
    }
}
