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

/// What was at the time of a row is known to wide tables that keep versions, to relational tables whose key ends in a time, and
/// to the stream that feeds a table. Others say so.
#[test]
fn a_table_without_a_past_is_not_asked_as_of_event_time() {
    let flow = |join: &str| {
        format!(
            "from: in\nsteps:\n  - join: {{ {join}, as_of: true, columns: [height] }}\nto:\n  - topic: out/x\n"
        )
    };
    let columns = "columns: [{ name: site, type: text }, { name: since, type: time }, { name: height, type: int }]";
    let told = |table: &str, join: &str| {
        let table = format!("{table}\n{columns}\n");
        let flow = flow(join);
        let files = [
            IN,
            OUT,
            ("tables/sites.yaml", &table),
            ("flows/f.yaml", &flow),
        ];
        let bad = check(&project(&files), &Connectors::default());
        let texts = bad.iter().map(|b| b.error().message(Language::En));
        let texts: Vec<_> = texts.collect();
        let codes = bad.iter().map(|b| (b.error().code(), b.word().to_owned()));
        (codes.collect::<Vec<_>>(), texts.join("; "))
    };
    let join = "table: sites, on: site";
    for table in ["hot: {}\nkey: [site]", "relational: {}\nkey: [site]"] {
        let (found, message) = told(table, join);
        let expected = ("flow.join-table-as-of", "true".to_owned());
        assert_eq!(found, [expected], "{table}");
        for way_out in ["stream: NAME, as_of: true", "wide", "valid_from"] {
            assert!(message.contains(way_out), "{message}");
        }
    }
    let wide = |versions: u32| {
        format!("wide: {{ families: [{{ name: d, versions: {versions} }}] }}\nkey: [site]")
    };
    let dated = "relational: {}\nkey: [site, since]";
    for (table, join, code, word) in [
        (&*wide(1), join, "flow.join-as-of-versions", "true"),
        (
            &wide(9),
            "table: sites, on: site, cache: 1s",
            "flow.join-cache-as-of",
            "1s",
        ),
        (
            dated,
            "table: sites, on: [site, time = since]",
            "flow.join-key-as-of",
            "[site, time = since",
        ),
    ] {
        let (found, message) = told(table, join);
        assert_eq!(
            found,
            [(code, word.to_owned())],
            "{table}, {join}: {message}"
        );
    }
    for table in [&*wide(2), dated] {
        assert_eq!(told(table, join), (vec![], String::new()));
    }
    let flow = flow("stream: site, on: site");
    let files = [IN, SITES_IN, OUT, ("flows/f.yaml", &flow)];
    assert!(check(&project(&files), &Connectors::default()).is_empty());
}

/// The rows of a query have no time of their own.
#[test]
fn a_join_as_of_event_time_does_not_stand_behind_a_query() {
    let table = "wide: { families: [{ name: d, versions: 9 }] }\nkey: [site]\ncolumns: [{ name: site, type: text }, { name: height, type: int }]\n";
    let flow = "from: in\nsteps:\n  - sql: select site, id + 1 as n from input\n  - join: { table: sites, on: site, as_of: true }\nto:\n  - topic: out/x\n";
    let files = [
        IN,
        OUT,
        ("tables/sites.yaml", table),
        ("flows/f.yaml", flow),
    ];
    let bad = check(&project(&files), &Connectors::default());
    let codes: Vec<_> = bad.iter().map(|b| b.error().code()).collect();
    assert_eq!(codes, ["flow.sql-before-state"]);
}

#[test]
fn the_plan_of_a_join_as_of_event_time_says_that_it_can_be_repeated() {
    let world = World::new(10);
    let table = "wide: { families: [{ name: d, versions: 9 }] }\nkey: [site]\ncolumns: [{ name: site, type: text }, { name: height, type: int }]\n";
    let flow = LOOK.1.replace(", cache: 0s", ", as_of: true");
    let files = [
        IN,
        OUT,
        ("tables/sites.yaml", table),
        ("flows/look.yaml", &flow),
    ];
    let applied = world.apply(&files);
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    let plan = world.tokio.block_on(world.flows.explain("look")).unwrap();
    let step = &plan.stages[0].steps[0];
    assert!(plan.stages[0].event_time && step.as_of);
    assert_eq!(
        (step.table.as_deref(), step.state.as_deref()),
        (Some("sites"), None)
    );
    let why = &plan.outputs[0].why;
    assert!(why.contains("takes the same versions from sites"), "{why}");
}
