//! Flows that look rows of tables up: which tables they need, and what they do when these change.

use busbar_connector::Connectors;
use busbar_event::Language;
use busbar_flow::{FlowState, check};

use crate::common::{PATIENCE, World, ids, project, rest};

const IN: (&str, &str) = (
    "streams/in.yaml",
    "topics: in/#\nformat: json\nschema: { id: int, site: text }\n",
);
const SITES_IN: (&str, &str) = (
    "streams/site.yaml",
    "topics: site/#\nformat: json\nschema: { site: text, height: int }\n",
);
const OUT: (&str, &str) = ("streams/out.yaml", "topics: out/#\nformat: json\n");
const KEEP: (&str, &str) = ("flows/keep.yaml", "from: site\nto:\n  - table: sites\n");
const LOOK: (&str, &str) = (
    "flows/look.yaml",
    "from: in\nsteps:\n  - join: { table: sites, on: site, columns: [height], cache: 0s }\nto:\n  - topic: out/x\n",
);

fn publish(world: &World, topic: &str, payload: &str) {
    world.publish(topic, &[payload.to_owned()]);
}

#[test]
fn rows_are_looked_up_in_every_engine_and_columns_are_waited_for() {
    for engine in ["hot: {}", "relational: {}"] {
        let world = World::new(7);
        // The columns come with the flow that writes the table, whichever of the two flows is deployed first.
        let table = format!("key: [site]\n{engine}\n");
        let files = [IN, SITES_IN, OUT, KEEP, LOOK, ("tables/sites.yaml", &table)];
        let without: Vec<_> = files.iter().copied().filter(|file| *file != KEEP).collect();
        world.apply(&without);
        let waiting = world.flow("look");
        assert_eq!(waiting.state, FlowState::Waiting);
        let error = waiting.error.unwrap().to_string();
        assert!(error.contains("sites"), "{error}");
        world.apply(&files);
        let until = std::time::Instant::now() + PATIENCE;
        while world.flow("look").state != FlowState::Running {
            assert!(
                std::time::Instant::now() < until,
                "{:?}",
                world.flow("look")
            );
            rest(50);
        }
        publish(&world, "site/x", r#"{"site":"a","height":10}"#);
        world.settle("keep");
        publish(&world, "in/x", r#"{"id":1,"site":"a"}"#);
        publish(&world, "in/x", r#"{"id":2,"site":"nowhere"}"#);
        let status = world.settle("look");
        assert_eq!(status.tables, ["sites"]);
        assert_eq!(status.conservation.counters.filtered, 1);
        publish(&world, "site/x", r#"{"site":"a","height":11}"#);
        world.settle("keep");
        publish(&world, "in/x", r#"{"id":3,"site":"a"}"#);
        world.settle("look");
        let out = world.contents("out");
        assert_eq!(ids(&out), [1, 3], "{engine}");
        let heights: Vec<i64> = out
            .iter()
            .map(|(_, row)| row["height"].as_i64().unwrap())
            .collect();
        assert_eq!(heights, [10, 11], "{engine}");
        let plan = world.tokio.block_on(world.flows.explain("look")).unwrap();
        assert_eq!(plan.stages[0].steps[0].table.as_deref(), Some("sites"));
        assert!(
            plan.outputs[0].why.contains("sites"),
            "{}",
            plan.outputs[0].why
        );
    }
}

#[test]
fn a_table_that_a_flow_looks_up_in_cannot_be_taken_away_and_its_change_starts_the_flow_anew() {
    let world = World::new(8);
    let table = "key: [site]\nhot: {}\ncolumns: [{ name: site, type: text }, { name: height, type: int }]\n";
    let files = [IN, OUT, LOOK, ("tables/sites.yaml", table)];
    let applied = world.apply(&files);
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    let bad = world.try_apply(&files[..3]).unwrap_err();
    assert!(bad[0].contains("sites"), "{bad:?}");
    assert_eq!(world.flow("look").state, FlowState::Running);
    let started = world.flow("look").started_micros;
    let wider = table.replace("int }]", "int }, { name: city, type: text }]");
    let files = [IN, OUT, LOOK, ("tables/sites.yaml", wider.as_str())];
    world.apply(&files);
    assert!(world.flow("look").started_micros > started);
}

#[test]
fn the_plan_of_a_join_of_streams_says_what_is_regrouped_and_kept() {
    let world = World::new(9);
    let flow = "from: in\nsteps:\n  - join: { name: near, stream: site, on: site, within: 1m }\nto:\n  - topic: out/x\n";
    world.apply(&[IN, SITES_IN, OUT, ("flows/f.yaml", flow)]);
    let plan = world.tokio.block_on(world.flows.explain("f")).unwrap();
    let stages: Vec<_> = plan
        .stages
        .iter()
        .map(|stage| (stage.stage, stage.reads.as_str()))
        .collect();
    assert_eq!(stages[..2], [(0, "in"), (0, "site")]);
    assert_eq!(stages[2].0, 1);
    for stage in &plan.stages[..2] {
        assert_eq!(stage.regroup.as_ref().unwrap().keys, ["site"]);
        assert_eq!(stage.steps[0].part, Some("before"));
    }
    let step = &plan.stages[2].steps[0];
    assert_eq!(
        (step.kind, step.part, step.state.as_deref()),
        ("join", Some("after"), Some("near"))
    );
    let status = world.flow("f");
    let mut edges: Vec<_> = status
        .edges
        .iter()
        .map(|e| (e.from.as_str(), e.to.as_str()))
        .collect();
    edges.sort_unstable();
    assert_eq!(
        edges,
        [
            ("from:in", "step:0"),
            ("from:site", "step:0"),
            ("step:0", "to:0")
        ]
    );
}

/// A table says what is there now, whichever engine keeps it. What was there at the time of a row is found in the stream that
/// feeds the table, and the refusal says so.
#[test]
fn a_table_is_not_asked_as_of_event_time_and_the_stream_that_feeds_it_is() {
    let flow = |join: &str| {
        format!(
            "from: in\nsteps:\n  - join: {{ {join}, on: site, as_of: true, columns: [height] }}\nto:\n  - topic: out/x\n"
        )
    };
    let columns = "columns: [{ name: site, type: text }, { name: height, type: int }]";
    for engine in [
        "hot: {}",
        "relational: {}",
        "wide: { families: [{ name: now, versions: 3 }] }",
    ] {
        let columns = match engine.starts_with("wide") {
            true => columns.replace("name: height", "name: now.height"),
            false => columns.to_owned(),
        };
        let table = format!("key: [site]\n{engine}\n{columns}\n");
        let flow = flow("table: sites");
        let files = [
            IN,
            OUT,
            ("tables/sites.yaml", &table),
            ("flows/f.yaml", &flow),
        ];
        let bad = check(&project(&files), &Connectors::default());
        let found: Vec<_> = bad.iter().map(|b| (b.error().code(), b.word())).collect();
        assert_eq!(found, [("flow.join-table-as-of", "true")], "{engine}");
        let message = bad[0].error().message(Language::En);
        assert!(message.contains("stream: NAME, as_of: true"), "{message}");
    }
    let flow = flow("stream: site");
    let files = [IN, SITES_IN, OUT, ("flows/f.yaml", &flow)];
    assert!(check(&project(&files), &Connectors::default()).is_empty());
}
