//! Programs of users and services work on each event once, however many outputs have cursors of their own.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use crate::common::{World, ids};
use crate::connections::{Fake, eventually, readings, world};
use busbar_flow::DeadFilter;

const IN: (&str, &str) = (
    "streams/in.yaml",
    "topics: in/#\nformat: json\nschema: { id: int, v: int, site: text }\n",
);
const OUT: (&str, &str) = ("streams/out.yaml", "topics: out/#\nformat: json\n");
const TABLE: (&str, &str) = ("tables/all.yaml", "relational: {}\n");
const FAKE: (&str, &str) = ("connections/fake.yaml", "fake: {}\n");
const SCRIPT: &str = "steps:\n  - script: count\n";
const PLAIN: &str = "steps:\n  - select: id, v\n";

/// Notes each event in a file, and doubles `v`.
const COUNT: &str = r#"
import busbar

seen = open(busbar.settings["file"], "a")

def process(event):
    seen.write("%d\n" % event["payload"]["id"])
    seen.flush()
    return {"payload": {"id": event["payload"]["id"], "v": 2 * event["payload"]["v"]}}
"#;

fn flow(steps: &str) -> String {
    format!("from: in\n{steps}to:\n  - stream: out\n  - table: all\n  - connection: fake\n")
}

fn apply(world: &World, flow: &str) {
    let file = world.folder.path().join("seen.txt");
    let columns = "columns: [{ name: id, type: int }, { name: v, type: int }]\n";
    let yaml = format!("language: python\n{columns}settings: {{ file: {file:?} }}\n");
    let applied = world.apply(&[
        IN,
        OUT,
        TABLE,
        FAKE,
        ("plugins/count/plugin.yaml", &yaml),
        ("plugins/count/main.py", COUNT),
        ("flows/f.yaml", flow),
    ]);
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
}

/// The events that the plug-in has seen, in order.
fn seen(world: &World) -> Vec<i64> {
    let text = std::fs::read_to_string(world.folder.path().join("seen.txt"));
    let text = text.unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

fn all(ids: std::ops::Range<i64>) -> Vec<i64> {
    ids.collect()
}

fn sorted(mut ids: Vec<i64>) -> Vec<i64> {
    ids.sort_unstable();
    ids
}

fn letters(world: &World) -> Vec<busbar_flow::DeadLetter> {
    let letters = world.flows.dead_letters(DeadFilter::default(), 1000);
    world.tokio.block_on(letters).unwrap()
}

#[test]
fn a_plugin_sees_each_event_once_while_an_output_is_down() {
    let (fake, world) = world(41);
    fake.down.store(usize::MAX, Ordering::SeqCst);
    *fake.refused.lock() = vec![5, 6];
    apply(&world, &flow(SCRIPT));
    world.publish("in/a/b", &readings(0..200));
    eventually("the stream's part", || world.contents("out").len() == 200);
    eventually("the table's part", || {
        world.table_ints("all", "id").len() == 200
    });
    assert!(fake.written.lock().is_empty());
    let explained = world.tokio.block_on(world.flows.explain("f")).unwrap();
    let stages = explained.stages.iter();
    let stages: Vec<_> = stages
        .map(|stage| {
            (
                stage.reads.as_str(),
                stage.tasks,
                stage.delivers,
                stage.results_to.len(),
            )
        })
        .collect();
    assert_eq!(stages, [("in", 1, false, 1), ("_r-f", 2, true, 0)]);
    fake.down.store(0, Ordering::SeqCst);
    let status = world.settle("f");
    assert_eq!(status.conservation.difference, 0, "{status:#?}");
    let good: Vec<i64> = (0..200).filter(|id| ![5, 6].contains(id)).collect();
    assert_eq!(*fake.written.lock(), good);
    assert_eq!(seen(&world), all(0..200));
    assert_eq!(ids(&world.contents("out")), all(0..200));
    assert_eq!(
        sorted(world.table_ints("all", "v")),
        (0..200).map(|v| 2 * v).collect::<Vec<_>>()
    );
    // A letter tells of the event that came in, and this goes to its output alone when it is sent again.
    let open = letters(&world);
    let told: Vec<_> = open
        .iter()
        .map(|letter| (letter.stream.as_str(), letter.offset, letter.place.as_str()))
        .collect();
    assert_eq!(told, [("in", 6, "to:2"), ("in", 5, "to:2")]);
    let payload = serde_json::to_value(&open[0]).unwrap()["payload"].to_string();
    assert!(payload.contains("site"), "{payload}");
    fake.refused.lock().clear();
    let sent = world.flows.redrive(DeadFilter::default(), "test");
    let sent = world.tokio.block_on(sent).unwrap();
    assert_eq!((sent.sent, sent.died, sent.refused), (2, 0, 0), "{sent:?}");
    assert_eq!(fake.written.lock()[198..], [5, 6]);
    assert_eq!(world.contents("out").len(), 200);
}

#[test]
fn outputs_get_all_results_in_order_although_node_and_power_fail() {
    let (fake, mut world) = world(42);
    apply(&world, &flow(SCRIPT));
    for round in 0..5 {
        // The connection fails now and then, and is behind when the node dies.
        fake.down.store(3, Ordering::SeqCst);
        world.publish("in/a/b", &readings(round * 100..round * 100 + 100));
        let least = round as usize * 100 + 50;
        eventually("half of it", || world.contents("out").len() >= least);
        world = world.restart(round % 2 == 0);
        apply(&world, &flow(SCRIPT));
    }
    fake.down.store(0, Ordering::SeqCst);
    let status = world.settle("f");
    assert_eq!(status.conservation.difference, 0, "{status:#?}");
    assert_eq!(ids(&world.contents("out")), all(0..500));
    assert_eq!(sorted(world.table_ints("all", "id")), all(0..500));
    // The connection does not remember what it has: some may come twice, none is missing, and first comes are in order.
    let mut first = BTreeMap::new();
    for (at, id) in fake.written.lock().iter().enumerate() {
        first.entry(*id).or_insert(at);
    }
    assert_eq!(first.keys().copied().collect::<Vec<_>>(), all(0..500));
    assert!(first.values().is_sorted(), "{first:?}");
}

/// What an output has still to get is not lost when the outputs begin or cease to read results from a stream.
#[test]
fn a_script_is_added_and_taken_out_while_an_output_is_behind() {
    let (fake, mut world) = world(43);
    fake.down.store(usize::MAX, Ordering::SeqCst);
    apply(&world, &flow(PLAIN));
    world.publish("in/a/b", &readings(0..100));
    eventually("the stream's part", || world.contents("out").len() == 100);
    eventually("the table's part", || {
        world.table_ints("all", "id").len() == 100
    });
    apply(&world, &flow(SCRIPT));
    world.publish("in/a/b", &readings(100..200));
    eventually("the stream's part", || world.contents("out").len() == 200);
    apply(&world, &flow(PLAIN));
    world.publish("in/a/b", &readings(200..300));
    eventually("the stream's part", || world.contents("out").len() == 300);
    world = world.restart(true);
    apply(&world, &flow(PLAIN));
    fake.down.store(0, Ordering::SeqCst);
    world.settle("f");
    assert_eq!(ids(&world.contents("out")), all(0..300));
    assert_eq!(*fake.written.lock(), all(0..300));
    // All is taken: after the next start the outputs read the stream themselves, from where they were.
    for from in [300, 400] {
        world.tokio.block_on(world.flows.pause("f")).unwrap();
        world = world.restart(true);
        apply(&world, &flow(PLAIN));
        world.tokio.block_on(world.flows.resume("f")).unwrap();
        world.publish("in/a/b", &readings(from..from + 100));
        world.settle("f");
    }
    let explained = world.tokio.block_on(world.flows.explain("f")).unwrap();
    assert_eq!(explained.stages.len(), 1);
    assert_eq!(ids(&world.contents("out")), all(0..500));
    assert_eq!(*fake.written.lock(), all(0..500));
    // And once more with results in a stream.
    apply(&world, &flow(SCRIPT));
    world.publish("in/a/b", &readings(500..600));
    world.settle("f");
    assert_eq!(ids(&world.contents("out")), all(0..600));
    assert_eq!(*fake.written.lock(), all(0..600));
}

/// Each way of a route, and each of several streams, has results of its own.
#[test]
fn routes_and_several_streams_are_delivered_too() {
    let (fake, world): (std::sync::Arc<Fake>, World) = world(44);
    let route = "from: [in, more]\nsteps:\n  - route:\n      cases:\n        - name: even\n          when: id % 2 = 0\n          steps:\n            - script: count\n          to: [all, fake]\n        - name: odd\n          when: id % 2 = 1\n          to: [out, fake]\nto:\n  - { stream: out, name: out }\n  - { table: all, name: all }\n  - { connection: fake, name: fake }\n";
    let more = (
        "streams/more.yaml",
        "topics: more/#\nformat: json\nschema: { id: int, v: int, level: float }\n",
    );
    let file = world.folder.path().join("seen.txt");
    let yaml = format!(
        "language: python\ncolumns: [{{ name: id, type: int }}, {{ name: v, type: int }}]\nsettings: {{ file: {file:?} }}\n"
    );
    world.apply(&[
        IN,
        more,
        OUT,
        TABLE,
        FAKE,
        ("plugins/count/plugin.yaml", &yaml),
        ("plugins/count/main.py", COUNT),
        ("flows/f.yaml", route),
    ]);
    world.publish("in/a/b", &readings(0..100));
    world.publish("more/a/b", &readings(100..200));
    let status = world.settle("f");
    assert_eq!(status.conservation.difference, 0, "{status:#?}");
    let even = |range: std::ops::Range<i64>| range.filter(|id| id % 2 == 0).collect::<Vec<_>>();
    assert_eq!(sorted(seen(&world)), even(0..200));
    assert_eq!(sorted(world.table_ints("all", "id")), even(0..200));
    assert_eq!(sorted(fake.written.lock().clone()), all(0..200));
    let odd: Vec<i64> = (0..200).filter(|id| id % 2 == 1).collect();
    assert_eq!(sorted(ids(&world.contents("out"))), odd);
}
