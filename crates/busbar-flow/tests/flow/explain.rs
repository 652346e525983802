//! What `explain` says of a flow: stages, regroupings, state, and what each output promises.

use busbar_flow::ReplayFrom;
use serde_json::{Value, json};

use crate::common::World;

const IN: &str =
    "topics: in/#\nformat: json\nlateness: 1s\nschema: { id: int, v: int, site: text }\n";
const WINDOW: &str =
    "  - window: { name: tens, tumble: 10s, by: [site], select: 'site, count(*) as n' }\n";

/// A world with the stream `in` of so many partitions and a flow of these steps and outputs.
fn world(partitions: u16, steps: &str, outputs: &str) -> World {
    let world = World::new(1);
    let stream = format!("{IN}partitions: {partitions}\n");
    let flow = format!("from: in\nsteps:\n{steps}to:\n{outputs}");
    world.apply(&[
        ("streams/in.yaml", &stream),
        ("streams/out.yaml", "topics: out/x\nformat: json\n"),
        ("tables/all.yaml", "relational: {}\n"),
        (
            "tables/sites.yaml",
            "hot: {}\nkey: [site]\ncolumns: [{ name: site, type: text }, { name: height, type: int }]\n",
        ),
        ("flows/f.yaml", &flow),
    ]);
    world
}

fn explained(world: &World) -> Value {
    let explained = world.tokio.block_on(world.flows.explain("f")).unwrap();
    serde_json::to_value(explained).unwrap()
}

/// Of each stage its number, its tasks, and its steps with their parts and state.
fn stages(explained: &Value) -> Vec<Value> {
    let stages = explained["stages"].as_array().unwrap().iter();
    stages
        .map(|stage| {
            let steps = stage["steps"].as_array().unwrap().iter();
            let steps: Vec<String> = steps
                .map(|step| {
                    let words = ["kind", "part", "state"].map(|word| step[word].as_str());
                    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
                })
                .collect();
            json!([stage["stage"], stage["tasks"], steps])
        })
        .collect()
}

#[test]
fn steps_of_a_case_say_its_name() {
    let world = world(
        1,
        "  - route:\n      cases:\n        - name: big\n          when: v > 5\n          steps:\n            - where: id > 0\n          to: [out]\n      default: { to: [out] }\n",
        "  - stream: out\n",
    );
    let explained = explained(&world);
    let steps = explained["stages"][0]["steps"].as_array().unwrap().iter();
    let cases: Vec<_> = steps
        .map(|step| (step["kind"].as_str().unwrap(), step["case"].as_str()))
        .collect();
    assert_eq!(cases, [("route", None), ("where", Some("big"))]);
}

#[test]
fn a_flow_without_state_is_one_stage() {
    let world = world(
        3,
        "  - where: v > 1\n  - select: id, v\n",
        "  - stream: out\n",
    );
    let explained = explained(&world);
    assert_eq!(stages(&explained), [json!([0, 3, ["where", "select"]])]);
    assert_eq!(explained["state_bytes_max"], 0);
    let stage = &explained["stages"][0];
    assert_eq!(
        (&stage["event_time"], &stage["delivers"]),
        (&json!(false), &json!(false))
    );
    let output = &explained["outputs"][0];
    assert_eq!(output["guarantee"], "exactly-once");
    assert!(!output["why"].as_str().unwrap().is_empty());
    assert!(!output["why_zh"].as_str().unwrap().is_ascii());
}

#[test]
fn one_partition_needs_no_regrouping_and_several_do() {
    let one = explained(&world(1, WINDOW, "  - stream: out\n"));
    assert_eq!(stages(&one), [json!([0, 1, ["window tens"]])]);
    assert_eq!(one["stages"][0]["regroup"], Value::Null);

    let several = explained(&world(3, WINDOW, "  - stream: out\n"));
    assert_eq!(
        stages(&several),
        [
            json!([0, 3, ["window before"]]),
            json!([1, 3, ["window after tens"]]),
        ]
    );
    let regroup = &several["stages"][0]["regroup"];
    assert_eq!(
        (&regroup["keys"], &regroup["partitions"]),
        (&json!(["k0"]), &json!(3))
    );
    assert_eq!(regroup["stream"], several["stages"][1]["reads"]);
    assert!(several["state_bytes_max"].as_u64().unwrap() > 0);
    assert_eq!(several["stages"][1]["event_time"], true);

    // Without keys all rows meet in one task.
    let all = "  - sql: select count(*) as n from input group by tumble(interval '10 seconds')\n";
    let all = explained(&world(3, all, "  - stream: out\n"));
    assert_eq!(
        stages(&all),
        [
            json!([0, 3, ["sql before"]]),
            json!([1, 1, ["sql after sql-1"]]),
        ]
    );
    assert_eq!(all["stages"][0]["regroup"]["keys"], json!([]));
}

#[test]
fn an_output_that_may_be_held_up_reads_results_by_itself() {
    let world = world(1, WINDOW, "  - stream: out\n  - table: all\n");
    let explained = explained(&world);
    assert_eq!(
        stages(&explained),
        [json!([0, 1, ["window tens"]]), json!([1, 1, []])]
    );
    assert_eq!(explained["stages"][1]["delivers"], true);
    let outputs = explained["outputs"].as_array().unwrap();
    let own: Vec<&Value> = outputs.iter().map(|output| &output["own_cursor"]).collect();
    assert_eq!(own, [&json!(false), &json!(true)]);
}

#[test]
fn a_look_up_is_named_where_results_depend_on_the_moment() {
    let steps = "  - join: { table: sites, on: site, columns: [height] }\n  - select: id, height\n";
    let explained = explained(&world(1, steps, "  - stream: out\n"));
    assert_eq!(explained["stages"][0]["steps"][0]["table"], "sites");
    let why = explained["outputs"][0]["why"].as_str().unwrap();
    assert!(why.contains("sites"), "{why}");
}

#[test]
fn state_is_measured_while_the_flow_runs() {
    let world = world(1, WINDOW, "  - stream: out\n");
    let before = explained(&world)["stages"][0]["steps"][0]["state_memory_bytes"].as_u64();
    world.publish("in/a", &[r#"{"id":1,"v":1,"site":"a"}"#.to_owned()]);
    world.settle("f");
    let until = std::time::Instant::now() + crate::common::PATIENCE;
    loop {
        let now = explained(&world)["stages"][0]["steps"][0]["state_memory_bytes"].as_u64();
        if now > before.max(Some(0)) {
            break;
        }
        assert!(
            std::time::Instant::now() < until,
            "{now:?}, before {before:?}"
        );
        // The window may have closed: the next event opens another one.
        world.publish("in/a", &[r#"{"id":1,"v":1,"site":"a"}"#.to_owned()]);
        crate::common::rest(50);
    }
    // A replay begins with empty state and says the same of the plan.
    let again = world.flows.replay("f", ReplayFrom::Earliest);
    world.tokio.block_on(again).unwrap();
    assert_eq!(stages(&explained(&world)), [json!([0, 1, ["window tens"]])]);
}

#[test]
fn checkpoints_are_measured_while_the_flow_runs() {
    let world = world(1, WINDOW, "  - stream: out\n");
    let until = std::time::Instant::now() + crate::common::PATIENCE;
    let measured = loop {
        world.publish("in/a", &[r#"{"id":1,"v":1,"site":"a"}"#.to_owned()]);
        let measured = explained(&world)["stages"][0]["checkpoints"].clone();
        if measured["commits"].as_u64() > Some(0) {
            break measured;
        }
        assert!(std::time::Instant::now() < until, "{measured}");
        crate::common::rest(50);
    };
    let figure = |name: &str| measured[name].as_f64().unwrap();
    assert!(figure("changes") >= 1.0, "{measured}");
    assert!(figure("commit_ms") > 0.0, "it is synced: {measured}");
    assert!(figure("restored_ms") > 0.0, "{measured}");
    assert!(figure("longest_stall_ms") > 0.0, "{measured}");
    // A stage without state has no checkpoints.
    let stateless = explained(&self::world(1, "  - where: v > 1\n", "  - stream: out\n"));
    assert_eq!(stateless["stages"][0]["checkpoints"], Value::Null);
}

#[test]
fn what_cannot_be_explained_is_told() {
    let world = World::new(2);
    world.apply(&[
        ("streams/in.yaml", "topics: in/#\nformat: json\n"),
        (
            "flows/f.yaml",
            "from: in\nsteps:\n  - where: v > 1\nto:\n  - topic: out/x\n",
        ),
    ]);
    let code = |name: &str| {
        let explained = world.tokio.block_on(world.flows.explain(name));
        explained.unwrap_err().code()
    };
    // The columns of the stream are known with its first event.
    assert_eq!(code("f"), "flow.waiting");
    assert_eq!(code("g"), "flow.unknown");
}
