//! What runs, after deployments, restarts and crashes.

use std::path::Path;
use std::sync::Arc;

use busbar_catalog::{FailingTests, History};
use busbar_log::{Log, LogOptions, OsDisk, SystemClock};
use busbar_server::{Node, NodeOptions};
use serde_json::{Value, json};

use crate::support::{World, bundle, config, project, runtime};

const STREAM: (&str, &str) = (
    "streams/rain.yaml",
    "topics: rain/#\nformat: json\nschema:\n  mm: int\n",
);

fn flow(least: u32) -> String {
    format!("from: rain\nsteps:\n  - where: mm > {least}\nto:\n  - topic: alarm/rain\n")
}

fn files(world: &World) -> Value {
    world.get_json("/api/v1/project")["files"].clone()
}

fn differs(answer: &Value) -> Vec<(&str, &str)> {
    let list = answer["differs"].as_array().map_or(&[][..], Vec::as_slice);
    list.iter()
        .map(|file| {
            (
                file["path"].as_str().unwrap(),
                file["kind"].as_str().unwrap(),
            )
        })
        .collect()
}

fn apply(world: &World, files: &[(&str, &str)]) -> Value {
    let files: serde_json::Map<_, _> = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), Value::from(*text)))
        .collect();
    let answer = world.post("/api/v1/apply", &json!({ "files": files }));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[test]
fn files_are_added_to_those_that_run_and_replace_none() {
    let (one, two) = (flow(1), flow(2));
    let world = World::new(&[STREAM, ("flows/a.yaml", &one)]);
    let add = |path: &str, text: &str, dry_run: bool| {
        let files = serde_json::Map::from_iter([(path.to_owned(), Value::from(text))]);
        let body = json!({ "files": files, "add": true, "dry_run": dry_run });
        world.post("/api/v1/apply", &body)
    };
    assert_eq!(add("flows/b.yaml", &two, true).status, 200);
    assert_eq!(files(&world)["flows/b.yaml"], Value::Null);
    assert_eq!(add("flows/b.yaml", &two, false).status, 200);
    let running = files(&world);
    assert_eq!(
        (&running["flows/a.yaml"], &running["flows/b.yaml"]),
        (&Value::from(one.as_str()), &Value::from(two.as_str()))
    );
    // What somebody else has added meanwhile stays as it is.
    let refused = add("flows/b.yaml", &one, false);
    assert_eq!(refused.json()["error"]["code"], "server.apply-exists");
    assert_eq!(files(&world), running);
}

#[test]
fn what_was_applied_outlives_a_restart_until_the_folder_changes() {
    let (one, two, three) = (flow(1), flow(2), flow(3));
    let first = [STREAM, ("flows/a.yaml", &one), ("flows/b.yaml", &one)];
    let mut world = World::new(&first);
    assert_eq!(differs(&world.get_json("/api/v1/project")), []);
    let applied = apply(
        &world,
        &[STREAM, ("flows/a.yaml", &two), ("flows/c.yaml", &two)],
    );
    let expected = [
        ("flows/a.yaml", "changed"),
        ("flows/b.yaml", "removed"),
        ("flows/c.yaml", "added"),
    ];
    assert_eq!(differs(&applied), expected);
    let running = files(&world);

    // With the folder as it was, and without it.
    world.restart_with(&first).unwrap();
    assert_eq!(files(&world), running);
    assert_eq!(differs(&world.get_json("/api/v1/project")), expected);
    assert_eq!(world.node().started().differs.len(), 3);
    world.restart();
    assert_eq!(files(&world), running);

    // A file that was changed while the node was down takes effect, the others stay.
    let second = [STREAM, ("flows/a.yaml", &three), ("flows/b.yaml", &one)];
    world.restart_with(&second).unwrap();
    assert_eq!(files(&world)["flows/a.yaml"], three);
    assert_eq!(
        differs(&world.get_json("/api/v1/project")),
        [("flows/b.yaml", "removed"), ("flows/c.yaml", "added")]
    );

    // Applied, the whole folder takes effect.
    assert_eq!(differs(&apply(&world, &second)), []);
    world.restart_with(&second).unwrap();
    assert_eq!(differs(&world.get_json("/api/v1/project")), []);
    assert_eq!(files(&world)["flows/b.yaml"], one);
}

#[test]
fn a_rollback_stands_until_its_file_changes() {
    let (one, two, three) = (flow(1), flow(2), flow(3));
    let mut world = World::new(&[STREAM, ("flows/a.yaml", &one)]);
    world.save(&[STREAM, ("flows/a.yaml", &two)]).unwrap();
    let answer = world.post("/api/v1/flows/a/rollback", &json!({ "version": 1 }));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(differs(&answer.json()), [("flows/a.yaml", "changed")]);
    // Another file is saved.
    let others = [STREAM, ("flows/a.yaml", &two), ("flows/b.yaml", &one)];
    let saved = world.save(&others).unwrap();
    assert_eq!(saved.differs.len(), 1);
    assert_eq!(files(&world)["flows/a.yaml"], one);
    assert_eq!(files(&world)["flows/b.yaml"], one);
    world.restart_with(&others).unwrap();
    assert_eq!(files(&world)["flows/a.yaml"], one);
    let third = [STREAM, ("flows/a.yaml", &three), ("flows/b.yaml", &one)];
    assert_eq!(world.save(&third).unwrap().differs.len(), 0);
    assert_eq!(files(&world)["flows/a.yaml"], three);
    let unknown = world.post("/api/v1/flows/nosuch/rollback", &json!({ "version": 1 }));
    assert_eq!(
        (unknown.status, unknown.code()),
        (404, "server.unknown-flow".into())
    );
}

#[test]
fn a_folder_that_does_not_check_does_not_keep_what_was_accepted_from_running() {
    let one = flow(1);
    let mut world = World::new(&[STREAM, ("flows/a.yaml", &one)]);
    let broken = [
        STREAM,
        ("flows/a.yaml", "from: nowhere\nto:\n  - topic: x/y\n"),
    ];
    world.restart_with(&broken).unwrap();
    assert_eq!(files(&world)["flows/a.yaml"], one);
    let refused = world.get_json("/api/v1/project")["refused"].clone();
    assert_eq!(refused["diagnostics"][0]["code"], "catalog.unknown-stream");
    assert_eq!(world.node().refused().len(), 1);
    // Corrected, it takes effect.
    let two = flow(2);
    world.save(&[STREAM, ("flows/a.yaml", &two)]).unwrap();
    assert_eq!(files(&world)["flows/a.yaml"], two);
    assert!(world.node().refused().is_empty());
    // Where nothing was accepted before, there is nothing to run.
    let folder = tempfile::tempdir().unwrap();
    let refused = start(folder.path(), &broken);
    assert!(matches!(refused, Err(78)), "{refused:?}");
}

/// The exit code of a node that does not start on these files.
fn start(folder: &Path, files: &[(&str, &str)]) -> Result<(), u8> {
    let runtime = runtime();
    let options = NodeOptions {
        config: config(),
        folder: folder.to_owned(),
        project: Some(Ok(bundle(files))),
        password_cost: busbar_access::Cost::Least,
    };
    match runtime.block_on(Node::start(options)) {
        Ok(node) => {
            runtime.block_on(node.shutdown());
            Ok(())
        }
        Err(error) => Err(error.exit_code()),
    }
}

/// Records a version as a deployment does before it applies it, in a data folder that nobody uses.
fn record(world: &World, files: &[(&str, &str)]) {
    let log = Log::open(
        Arc::new(OsDisk),
        &world.folder.path().join("data"),
        LogOptions::default(),
        Arc::new(SystemClock),
    )
    .unwrap();
    let history = History::new(log.store("catalog").unwrap());
    assert!(history.add(&bundle(files), "eva", "", 1).unwrap().pending);
    drop(history);
    log.shutdown();
}

#[test]
fn a_crash_between_recording_and_applying_leaves_one_truth() {
    let (one, two) = (flow(1), flow(2));
    let folder = [STREAM, ("flows/a.yaml", one.as_str())];
    let mut world = World::new(&folder);
    // It can be applied: it runs, with and without the folder.
    world.stop();
    record(&world, &[STREAM, ("flows/a.yaml", &two)]);
    world.restart_with(&folder).unwrap();
    assert_eq!(files(&world)["flows/a.yaml"], two);
    let versions = world.get_json("/api/v1/history")["versions"].clone();
    assert_eq!(versions[0]["version"], 2);
    // It cannot be applied: what ran before runs, and the version is gone.
    for with_folder in [true, false] {
        world.stop();
        record(
            &world,
            &[STREAM, ("flows/a.yaml", "from: nowhere\nto: []\n")],
        );
        match with_folder {
            true => world.restart_with(&folder).unwrap(),
            false => world.restart(),
        }
        assert_eq!(files(&world)["flows/a.yaml"], two, "{with_folder}");
        let versions = world.get_json("/api/v1/history")["versions"].clone();
        assert_eq!(versions[0]["version"], 2, "{with_folder}");
    }
}

#[test]
fn flow_tests_that_fail_are_warnings_or_refuse_by_setting() {
    let failing = format!(
        "{}tests:\n  - name: much rain\n    given:\n      - payload: {{ mm: 5 }}\n    expect: []\n",
        flow(1)
    );
    let project_files = [STREAM, ("flows/a.yaml", failing.as_str())];
    let world = World::new(&[STREAM]);
    let answer = apply(&world, &project_files);
    let warning = &answer["diagnostics"][0];
    assert_eq!(warning["code"], "server.test-failed", "{answer}");
    assert_eq!(warning["severity"], "warning");
    assert_eq!(warning["args"]["test"], "much rain");
    assert_eq!(warning["file"], "flows/a.yaml");

    let mut config = config();
    config.deploy.failing_tests = FailingTests::Refuse;
    let world = World::with(config, &[STREAM]);
    let body = json!({ "files": project(&project_files).bundle.files });
    let refused = world.post("/api/v1/apply", &body);
    assert_eq!(
        (refused.status, refused.code()),
        (422, "server.project-wrong".into())
    );
    assert_eq!(files(&world).as_object().unwrap().len(), 1);
}

#[test]
fn secrets_in_files_are_shown_to_nobody() {
    let connection =
        "mqtt:\n  address: localhost:1\n  user: u\n  password: hunter2\n  subscribe: [x]\n";
    let world = World::new(&[]);
    let answer = apply(&world, &[("connections/m.yaml", connection)]);
    assert_eq!(answer["diagnostics"][0]["code"], "connect.literal-secret");
    for path in [
        "/api/v1/project",
        "/api/v1/history",
        "/api/v1/connections",
        "/api/v1/overview",
    ] {
        let answer = world.get(path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.body.contains("hunter2"), "{path}: {}", answer.body);
    }
    // What was shown can be applied again, and changes nothing.
    let shown = files(&world);
    let again = world.post("/api/v1/apply", &json!({ "files": shown }));
    assert_eq!(again.json()["applied"]["unchanged"], json!([]), "{again:?}");
    assert_eq!(files(&world), shown);
    assert_eq!(
        world.get_json("/api/v1/history")["versions"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

/// A rollback, and a process, without a step that holds events is refused; with `replay` the flow computes everything again.
#[test]
fn a_rollback_that_would_lose_held_events_is_refused_and_can_be_replayed() {
    let flow = |step: &str| format!("from: rain\nsteps:\n  - {step}\nto:\n  - topic: late/all\n");
    let out = ("streams/late.yaml", "topics: late/#\nformat: json\n");
    let (passes, holds) = (flow("where: mm >= 0"), flow("delay: { for: 1h }"));
    let world = World::new(&[STREAM, out, ("flows/w.yaml", &passes)]);
    let process = world.get_json("/api/v1/flows/w/process")["xml"].clone();
    let rollback = ("/api/v1/flows/w/rollback", json!({ "version": 1 }));
    let import = (
        "/api/v1/processes",
        json!({ "xml": process, "replace": true }),
    );
    for (path, mut body) in [rollback, import] {
        world
            .save(&[STREAM, out, ("flows/w.yaml", &holds)])
            .unwrap();
        world.publish("rain/a", json!({ "mm": 1 }));
        world.until("/api/v1/flows/w", |flow| {
            flow["conservation"]["taken"].as_u64() > Some(0)
        });
        let refused = world.post(path, &body);
        assert_eq!(refused.status, 200, "{refused:?}");
        let failed = &refused.json()["applied"]["failed"]["w"];
        assert_eq!(failed["code"], "flow.state-holds", "{refused:?}");
        assert_eq!(world.get_json("/api/v1/flows/w")["state"], "running");
        body["replay"] = json!(true);
        let replayed = world.post(path, &body);
        assert_eq!(replayed.status, 200, "{replayed:?}");
        let applied = &replayed.json()["applied"];
        assert_eq!(applied["failed"], json!({}), "{replayed:?}");
        assert_eq!(applied["deployed"], json!(["w"]), "{replayed:?}");
        // A file that is saved as it was says nothing new.
        world
            .save(&[STREAM, out, ("flows/w.yaml", &passes)])
            .unwrap();
    }
}

/// An edit that a flow's state does not outlive is refused for that flow, with what helps; with `replay` the flow computes
/// everything again.
#[test]
fn an_edit_that_cannot_keep_state_is_refused_and_can_be_replayed() {
    let flow = |length: &str| {
        format!(
            "from: rain\nsteps:\n  - window: {{ tumble: {length}, select: 'count(*) as n, window_start' }}\n\
             to:\n  - topic: windows/all\n"
        )
    };
    let out = ("streams/windows.yaml", "topics: windows/#\nformat: json\n");
    let (before, after) = (flow("1h"), flow("2h"));
    let world = World::new(&[STREAM, out, ("flows/w.yaml", &before)]);
    world.publish("rain/a", json!({ "mm": 1 }));
    world.until("/api/v1/flows/w", |flow| {
        flow["conservation"]["in"].as_u64() == Some(1)
    });
    let files = json!({ STREAM.0: STREAM.1, out.0: out.1, "flows/w.yaml": after });
    let refused = world.post("/api/v1/apply", &json!({ "files": files }));
    assert_eq!(refused.status, 200, "{refused:?}");
    let failed = &refused.json()["applied"]["failed"]["w"];
    assert_eq!(failed["code"], "flow.state-changed", "{refused:?}");
    let message = failed["message"].as_str().unwrap();
    assert!(message.contains("--replay"), "{message}");
    let running = world.get_json("/api/v1/flows/w");
    assert_eq!(running["state"], "running", "{running}");
    let replayed = world.post("/api/v1/apply", &json!({ "files": files, "replay": true }));
    assert_eq!(replayed.status, 200, "{replayed:?}");
    assert_eq!(
        replayed.json()["applied"]["failed"],
        json!({}),
        "{replayed:?}"
    );
    let flow = world.get_json("/api/v1/flows/w");
    assert_eq!(flow["state"], "running", "{flow}");
    // A step under another name begins with empty state, which is told of with the way back.
    let renamed = after.replace("{ tumble", "{ name: slow, tumble");
    let files = json!({ STREAM.0: STREAM.1, out.0: out.1, "flows/w.yaml": renamed });
    let notice = &world
        .post("/api/v1/apply", &json!({ "files": files }))
        .json()["applied"]["notices"]["w"];
    assert_eq!(notice["code"], "flow.state-dropped", "{notice}");
    let message = notice["message"].as_str().unwrap();
    assert!(
        message.contains("window-1") && message.contains("busbar replay w"),
        "{message}"
    );
    let flow = world.get_json("/api/v1/flows/w");
    assert_eq!(flow["notice"]["code"], "flow.state-dropped", "{flow}");
    let back = json!({ "files": { STREAM.0: STREAM.1, out.0: out.1, "flows/w.yaml": after }, "replay": true });
    let back = world.post("/api/v1/apply", &back);
    assert_eq!(back.json()["applied"]["failed"], json!({}), "{back:?}");
    let replayed = world.post("/api/v1/flows/w/replay", &json!({ "from": "earliest" }));
    assert_eq!(replayed.status, 200, "{replayed:?}");
    // It has read the event again.
    world.until("/api/v1/flows/w/plan", |plan| {
        let steps = &plan["stages"][0]["steps"];
        steps[0]["state_memory_bytes"].as_u64() > Some(0)
    });
}
