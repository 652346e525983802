//! Plug-ins in flows: what they make arrives once, whatever is deployed, killed or restarted in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Instant;

use serde_json::json;

use crate::common::{PATIENCE, World, batch, project, rest};

const IN: (&str, &str) = (
    "streams/in.yaml",
    "topics: in/#\nformat: json\npartitions: 2\nschema: { id: int }\n",
);
const OUT: (&str, &str) = (
    "streams/out.yaml",
    "topics: [out/#, in-made/#]\nformat: json\n",
);
const STATIONS: (&str, &str) = (
    "tables/stations.yaml",
    "hot: {}\nkey: [id]\ncolumns: [{ name: id, type: text }, { name: region, type: text }]\n",
);

#[test]
fn scripts_make_events_with_topics_tags_and_payloads() {
    let world = World::new(1);
    let main = r#"
import busbar
def process(event):
    payload = event["payload"]
    if payload["id"] == 1: return None
    if payload["id"] == 2: raise ValueError("two")
    if payload["id"] == 3: return [{"topic": "out/three/a", "payload": [1]}, {"topic": "out/three/b", "tags": {"x": "y"}}]
    payload["topic"] = event["topic"]
    payload["extra"] = payload.get("only_here")
    return {"topic": "out/rest", "payload": payload}
"#;
    world.apply(&[
        IN,
        OUT,
        ("plugins/rain/plugin.yaml", "language: python\n"),
        ("plugins/rain/main.py", main),
        (
            "flows/f.yaml",
            "from: in\nsteps:\n  - where: id < 100\n  - script: rain\nto:\n  - stream: out\n",
        ),
    ]);
    // A plug-in sees all that is in a payload, whatever columns the stream has.
    world.publish("in/a", &[r#"{"id": 1}"#.into()]);
    world.settle("f");
    let events = [
        r#"{"id": 2}"#,
        r#"{"id": 3}"#,
        "{\"id\": 4,\n \"only_here\": [1, 2]}",
        r#"{"id": 100}"#,
    ];
    world.publish("in/a", &events.map(String::from));
    let status = world.settle("f");
    assert_eq!(
        world.contents("out"),
        [
            ("out/three/a".into(), json!([1])),
            ("out/three/b".into(), json!({ "id": 3 })),
            (
                "out/rest".into(),
                json!({ "id": 4, "only_here": [1, 2], "topic": "in/a", "extra": [1, 2] })
            ),
        ]
    );
    assert_eq!(status.conservation.counters.dead, 1);
    assert_eq!(status.conservation.difference, 0, "{status:#?}");
    let letters = world.flows.dead_letters(Default::default(), 10);
    let letters = world.tokio.block_on(letters).unwrap();
    let letter = serde_json::to_value(&letters[0]).unwrap().to_string();
    assert!(
        letter.contains("main.py") && letter.contains("ValueError: two"),
        "{letter}"
    );
}

#[test]
fn columns_of_a_plugin_go_on_to_steps_and_tables() {
    let world = World::new(2);
    let main = "export default ({ payload }) => [{ payload: { id: payload.id, mm: payload.id / 2 } }, { payload: { id: payload.id + 1000, mm: payload.bad ? 'x' : 1 } }];";
    world.apply(&[
        IN,
        ("tables/all.yaml", "relational: {}\n"),
        (
            "plugins/rain/plugin.yaml",
            "language: javascript\ncolumns: [{ name: id, type: int }, { name: mm, type: float }]\n",
        ),
        ("plugins/rain/main.js", main),
        (
            "flows/f.yaml",
            "from: in\nsteps:\n  - script: rain\n  - where: mm >= 1\nto:\n  - table: all\n",
        ),
    ]);
    let events = [r#"{"id": 1}"#, r#"{"id": 2}"#, r#"{"id": 3, "bad": true}"#];
    world.publish("in/a", &events.map(String::from));
    let status = world.settle("f");
    let mut found = world.table_ints("all", "id");
    found.sort_unstable();
    // Of an event of which anything cannot be read, nothing comes.
    assert_eq!(found, [2, 1001, 1002]);
    assert_eq!(status.conservation.counters.dead, 1);
    assert_eq!(status.conservation.difference, 0, "{status:#?}");
    let columns = world.tables.table("all").unwrap().schema();
    let names: Vec<_> = columns.fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["id", "mm"]);
}

#[test]
fn a_wrong_version_is_refused_with_file_and_line_and_the_old_one_goes_on() {
    let world = World::new(3);
    let files = |main: &'static str, yaml: &'static str| {
        [
            IN,
            OUT,
            ("plugins/rain/plugin.yaml", yaml),
            ("plugins/rain/main.py", main),
            (
                "flows/f.yaml",
                "from: in\nsteps:\n  - script: rain\nto:\n  - topic: out/all\n",
            ),
        ]
    };
    let good = "def process(event):\n    return event\n";
    let yaml = "language: python\ntests:\n  - given: [{ payload: { id: 1 } }]\n    expect: [{ payload: { id: 1 } }]\n";
    world.apply(&files(good, yaml));
    for (main, yaml, place) in [
        (
            "def process(event):\n    return (\n",
            yaml,
            "plugins/rain/main.py:2:1: ",
        ),
        (
            "def process(event):\n    return None\n",
            yaml,
            "plugins/rain/plugin.yaml:3:3: ",
        ),
        (
            good,
            "language: python\nmain: other.py\n",
            "plugins/rain/plugin.yaml:1:11: ",
        ),
        (
            good,
            "language: command\ncommand: [no-such-program]\n",
            "plugins/rain/plugin.yaml:1:11: ",
        ),
    ] {
        let bad = world.try_apply(&files(main, yaml)).unwrap_err();
        assert!(bad[0].contains(place), "{bad:?}");
        world.publish("in/a", &[r#"{"id": 7}"#.into()]);
        world.settle("f");
    }
    assert_eq!(world.contents("out").len(), 4);
    let without: Vec<_> = files(good, yaml)
        .into_iter()
        .filter(|(p, _)| !p.ends_with(".yaml") || !p.starts_with("plugins"))
        .collect();
    let bad = world.try_apply(&without).unwrap_err();
    assert!(bad[0].contains("plugins/rain/plugin.yaml"), "{bad:?}");
}

#[test]
fn rows_of_tables_are_read_by_scripts() {
    let world = World::new(4);
    let main = "export default (event) => ({ payload: { id: event.payload.id, region: busbar.get('stations', { id: event.payload.site })?.region ?? null, all: busbar.scan('stations').length } });";
    world.apply(&[
        IN,
        OUT,
        STATIONS,
        (
            "plugins/rain/plugin.yaml",
            "language: javascript\ntables: [stations]\n",
        ),
        ("plugins/rain/main.js", main),
        (
            "flows/f.yaml",
            "from: in\nsteps:\n  - script: rain\nto:\n  - topic: out/all\n",
        ),
        (
            "flows/s.yaml",
            "from: reg\nsteps:\n  - select: id, region\nto:\n  - table: stations\n",
        ),
        (
            "streams/reg.yaml",
            "topics: reg/#\nformat: json\nschema: { id: text, region: text }\n",
        ),
    ]);
    let rows = [
        r#"{"id": "a", "region": "north"}"#,
        r#"{"id": "b", "region": "south"}"#,
    ];
    world.publish("reg/x", &rows.map(String::from));
    world.settle("s");
    let events = [r#"{"id": 1, "site": "b"}"#, r#"{"id": 2, "site": "c"}"#];
    world.publish("in/a", &events.map(String::from));
    world.settle("f");
    let payloads: Vec<_> = world
        .contents("out")
        .into_iter()
        .map(|(_, payload)| payload)
        .collect();
    assert_eq!(
        payloads,
        [
            json!({ "id": 1, "region": "south", "all": 2 }),
            json!({ "id": 2, "region": null, "all": 2 })
        ]
    );
}

#[test]
fn relational_tables_are_queried_by_scripts() {
    let world = World::new(8);
    let main = r#"
import busbar
def process(event):
    ask = event["payload"]
    return {"payload": {"id": ask["id"], "rows": busbar.query(ask["table"], ask["sql"], *ask["with"])}}
"#;
    world.apply(&[
        IN,
        OUT,
        STATIONS,
        ("tables/kept.yaml", "relational: {}\nkey: [id]\ncolumns: [{ name: id, type: text }, { name: mm, type: int }]\n"),
        ("streams/reg.yaml", "topics: reg/#\nformat: json\nschema: { id: text, mm: int }\n"),
        ("flows/k.yaml", "from: reg\nsteps:\n  - select: id, mm\nto:\n  - table: kept\n"),
        ("plugins/rain/plugin.yaml", "language: python\ntables: [kept, stations]\n"),
        ("plugins/rain/main.py", main),
        ("flows/f.yaml", "from: in\nsteps:\n  - script: rain\nto:\n  - topic: out/all\n"),
    ]);
    let rows = [r#"{"id": "a", "mm": 1}"#, r#"{"id": "b' or 1", "mm": 2}"#];
    world.publish("reg/x", &rows.map(String::from));
    world.settle("k");
    let ask = |id: i64, table: &str, sql: &str, with: serde_json::Value| {
        json!({ "id": id, "table": table, "sql": sql, "with": with }).to_string()
    };
    let events = [
        ask(
            1,
            "kept",
            "select mm, id from kept where id = ? and mm > ?",
            json!(["b' or 1", 1.5]),
        ),
        ask(2, "kept", "select count(*) as n from kept", json!([])),
        ask(3, "kept", "delete from kept", json!([])),
        ask(4, "kept", "attach database '/tmp/x' as y", json!([])),
        ask(
            5,
            "kept",
            "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n",
            json!([]),
        ),
        ask(6, "kept", "select nothing from kept", json!([])),
        ask(7, "kept", "select ?", json!([])),
        ask(8, "stations", "select 1", json!([])),
        ask(9, "kept", "select count(*) as n from kept", json!([])),
    ];
    world.publish("in/a", &events);
    let status = world.settle("f");
    let payloads: Vec<_> = world
        .contents("out")
        .into_iter()
        .map(|(_, payload)| payload)
        .collect();
    assert_eq!(
        payloads,
        [
            json!({ "id": 1, "rows": [{ "mm": 2, "id": "b' or 1" }] }),
            json!({ "id": 2, "rows": [{ "n": 2 }] }),
            json!({ "id": 9, "rows": [{ "n": 2 }] }),
        ]
    );
    assert_eq!(status.conservation.counters.dead, 6);
}

#[test]
fn tests_of_flows_and_of_plugins_run_plugins() {
    let flow = |expected: i64| {
        format!(
            "from: in\nsteps:\n  - script: rain\nto:\n  - topic: out/all\ntests:\n  - given: [{{ topic: in/a, payload: {{ id: 1 }} }}]\n    expect: [{{ id: {expected} }}]\n"
        )
    };
    let plugin = |expected: i64| {
        format!(
            "language: javascript\ntests:\n  - given: [{{ payload: {{ id: 1 }} }}]\n    expect: [{{ payload: {{ id: {expected} }} }}]\n"
        )
    };
    let main = "export default (event) => { event.payload.id += 1; return event; }";
    for (expected, passes) in [(2, true), (3, false)] {
        let (flow, plugin) = (flow(expected), plugin(expected));
        let project = project(&[
            IN,
            OUT,
            ("plugins/rain/plugin.yaml", plugin.as_str()),
            ("plugins/rain/main.js", main),
            ("flows/f.yaml", flow.as_str()),
        ]);
        let report = busbar_flow::run_tests(&project, &Default::default(), None);
        assert_eq!(report.passed(), passes, "{report:#?}");
        let reports = busbar_flow::test_plugins(&project, None);
        assert_eq!(
            (reports.len(), reports[0].passed),
            (1, passes),
            "{reports:#?}"
        );
    }
}

#[test]
fn cases_of_a_route_lead_to_plugins() {
    let world = World::new(7);
    let flow = "from: in\nsteps:\n  - route:\n      cases:\n        - name: low\n          when: id < 10\n          steps:\n            - script: rain\n      default: { steps: [{ where: id > 11 }] }\nto:\n  - topic: out/all\n";
    world.apply(&[
        IN,
        OUT,
        ("plugins/rain/plugin.yaml", "language: javascript\n"),
        (
            "plugins/rain/main.js",
            "export default (event) => ({ payload: { id: event.payload.id, seen: event.payload.more } });",
        ),
        ("flows/f.yaml", flow),
    ]);
    let events = [
        r#"{"id": 1, "more": "x"}"#,
        r#"{"id": 11}"#,
        r#"{"id": 12}"#,
    ];
    world.publish("in/a", &events.map(String::from));
    world.settle("f");
    let mut payloads: Vec<_> = world.contents("out").into_iter().map(|(_, p)| p).collect();
    payloads.sort_by_key(|payload| payload["id"].as_i64());
    assert_eq!(
        payloads,
        [json!({ "id": 1, "seen": "x" }), json!({ "id": 12 })]
    );
}

#[test]
fn events_of_a_key_stay_in_order_whatever_worker_takes_them() {
    let world = World::new(8);
    // A worker that is given the topic c0 is slow, so that the others are ahead of it.
    let text = r#"
import os, time
def process(event):
    if event["topic"] == "in/c0" and event["payload"]["id"] % 100 == 0: time.sleep(0.02)
    return {"topic": "out/x", "payload": [event["topic"], event["payload"]["id"], os.getpid()]}
"#;
    world.apply(&[
        IN,
        OUT,
        ("plugins/rain/plugin.yaml", "language: python\nworkers: 4\n"),
        ("plugins/rain/main.py", text),
        (
            "flows/f.yaml",
            "from: in\nsteps:\n  - script: rain\nto:\n  - stream: out\n",
        ),
    ]);
    const TOPICS: usize = 8;
    let count = 4000;
    for id in (0..count).step_by(20) {
        let events: Vec<String> = (id..id + 20)
            .map(|id| format!(r#"{{"id":{id}}}"#))
            .collect();
        world.publish(&format!("in/c{}", id / 20 % TOPICS), &events);
    }
    world.settle("f");
    let (mut last, mut worker) = (BTreeMap::new(), BTreeMap::new());
    let made = world.contents("out");
    assert_eq!(made.len(), count);
    for (_, payload) in made {
        let topic = payload[0].as_str().unwrap().to_owned();
        let (id, process) = (payload[1].as_u64().unwrap(), payload[2].as_u64().unwrap());
        let before = last.insert(topic.clone(), id);
        assert!(before < Some(id), "{topic}: {id} behind {before:?}");
        assert_eq!(*worker.entry(topic).or_insert(process), process);
    }
    let workers: BTreeSet<u64> = worker.into_values().collect();
    assert!(workers.len() > 1, "more than one worker had events");
}

/// Publishes numbered events until it is told to stop.
struct Publisher {
    stop: Arc<AtomicBool>,
    published: Arc<AtomicI64>,
    thread: std::thread::JoinHandle<()>,
}

impl Publisher {
    fn on(world: &World, from: i64) -> Publisher {
        let stop = Arc::new(AtomicBool::new(false));
        let published = Arc::new(AtomicI64::new(from));
        let (bus, handle) = (world.bus.clone(), world.tokio.handle().clone());
        let (told, counted) = (Arc::clone(&stop), Arc::clone(&published));
        let thread = std::thread::spawn(move || {
            let mut id = from;
            while !told.load(Ordering::SeqCst) {
                let events: Vec<String> = (id..id + 20)
                    .map(|id| format!(r#"{{"id":{id},"k":"k{}"}}"#, id % 7))
                    .collect();
                let topic = format!("in/c{}", id / 20 % 5);
                if handle
                    .block_on(bus.append(batch(&topic, &events), None))
                    .is_ok()
                {
                    id += 20;
                }
                counted.store(id, Ordering::SeqCst);
                rest(1);
            }
        });
        Publisher {
            stop,
            published,
            thread,
        }
    }

    fn end(self) -> i64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        self.published.load(Ordering::SeqCst)
    }
}

fn once(mut found: Vec<i64>, count: i64) {
    found.sort_unstable();
    let twice: Vec<_> = found
        .windows(2)
        .filter(|p| p[0] == p[1])
        .map(|p| p[0])
        .collect();
    let some = &twice[..twice.len().min(10)];
    assert!(twice.is_empty(), "{} twice: {some:?}", twice.len());
    assert_eq!(found.len() as i64, count, "{} of {count} came", found.len());
}

const TABLE: (&str, &str) = ("tables/all.yaml", "relational: {}\n");
const COLUMNS: &str = "columns: [{ name: id, type: int }, { name: v, type: int }]\n";

fn versions(language: &str, main: &str, text: &str, world: &World) -> busbar_flow::Applied {
    version_with("", language, main, text, world)
}

/// A version of the plug-in with these further keys.
fn version_with(
    keys: &str,
    language: &str,
    main: &str,
    text: &str,
    world: &World,
) -> busbar_flow::Applied {
    let yaml = format!("language: {language}\nworkers: 2\n{COLUMNS}{keys}");
    let main = format!("plugins/rain/{main}");
    world.apply(&[
        IN,
        TABLE,
        ("plugins/rain/plugin.yaml", yaml.as_str()),
        (main.as_str(), text),
        (
            "flows/f.yaml",
            "from: in\nsteps:\n  - script: rain\nto:\n  - table: all\n",
        ),
    ])
}

#[test]
fn new_versions_take_over_while_events_flow_and_none_is_lost_or_doubled() {
    let world = World::new(5);
    let text =
        "def process(event):\n    return {'payload': {'id': event['payload']['id'], 'v': 0}}\n";
    versions("python", "main.py", text, &world);
    let publisher = Publisher::on(&world, 0);
    for version in 1..4 {
        let text = format!(
            "def process(event):\n    return {{'payload': {{'id': event['payload']['id'], 'v': {version}}}}}\n"
        );
        let applied = versions("python", "main.py", &text, &world);
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        rest(200);
        let text = format!(
            "export default ({{ payload }}) => ({{ payload: {{ id: payload.id, v: {version} }} }});"
        );
        let applied = versions("javascript", "main.js", &text, &world);
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        rest(200);
    }
    let count = publisher.end();
    let status = world.settle("f");
    assert_eq!(status.conservation.difference, 0, "{status:#?}");
    once(world.table_ints("all", "id"), count);
    let workers = || {
        let plugins = world.tokio.block_on(world.flows.plugins());
        plugins[0].status.clone().unwrap()
    };
    assert_eq!(workers().workers.len(), 2);
}

#[test]
fn workers_and_node_are_killed_and_each_event_is_in_the_table_once() {
    let text =
        "def process(event):\n    return {'payload': {'id': event['payload']['id'], 'v': 1}}\n";
    killed_and_once("", text);
}

#[test]
fn workers_of_arrow_columns_and_node_are_killed_and_each_event_is_in_the_table_once() {
    let import = std::process::Command::new("python3")
        .args(["-c", "import pyarrow"])
        .output();
    // The full proof installs it.
    if !import.is_ok_and(|import| import.status.success())
        && std::env::var_os("BUSBAR_ALL_LANGUAGES").is_none()
    {
        eprintln!("left out: pyarrow is not installed");
        return;
    }
    let text = "def on_batch(batch):\n    return batch.append_column('v', batch['id'])\n";
    killed_and_once("arrow: { id: int }\n", text);
}

/// Kills the workers of a plug-in and the node again and again.
fn killed_and_once(keys: &str, text: &str) {
    let mut world = World::new(6);
    version_with(keys, "python", "main.py", text, &world);
    let mut published = 0;
    for round in 0..4 {
        let publisher = Publisher::on(&world, published);
        let mut killed = 0;
        let until = Instant::now() + PATIENCE;
        while killed < 4 {
            assert!(Instant::now() < until);
            rest(30);
            let plugins = world.tokio.block_on(world.flows.plugins());
            let workers = plugins[0].status.clone().unwrap().workers;
            for worker in &workers[..1 + round % 2] {
                if let Some(process) = worker.process {
                    let kill = std::process::Command::new("kill")
                        .args(["-9", &process.to_string()])
                        .output();
                    killed += i32::from(kill.unwrap().status.success());
                }
            }
        }
        published = publisher.end();
        // What was on its way is lost with the process, not with the power, and comes again.
        world = world.restart(false);
        version_with(keys, "python", "main.py", text, &world);
    }
    let status = world.settle("f");
    // An event on which the worker was killed twice is a dead letter.
    let dead = status.conservation.counters.dead as i64;
    assert!(dead < published / 2, "{dead} of {published}");
    let letters = world.flows.dead_letters(Default::default(), 100_000);
    let letters = world.tokio.block_on(letters).unwrap();
    let letters = serde_json::to_value(&letters).unwrap();
    let letters = letters.as_array().unwrap().iter().map(|letter| {
        let payload = letter["payload"].as_str().unwrap_or_default();
        let payload: serde_json::Value =
            serde_json::from_str(payload).unwrap_or_else(|_| letter["payload"].clone());
        payload["id"].as_i64().unwrap_or_else(|| panic!("{letter}"))
    });
    let mut found = world.table_ints("all", "id");
    found.extend(letters);
    once(found, published);
}

/// A new version of a flow is tried on events that have gone by; the plug-in neither counts them nor keeps what it says of them.
#[test]
fn events_of_a_trial_are_neither_counted_nor_logged() {
    for (language, file, text) in [
        (
            "python",
            "plugins/rain/main.py",
            "import busbar\ndef process(event):\n    print('printed')\n    busbar.log('seen %d' % event['payload']['id'])\n    return event\n",
        ),
        (
            "javascript",
            "plugins/rain/main.js",
            "export default (event) => { console.log(`seen ${event.payload.id}`); return event; };",
        ),
    ] {
        let world = World::new(8);
        let yaml = format!("language: {language}\n");
        let flow = |id: i64| {
            format!(
                "from: in\nsteps:\n  - where: id > {id}\n  - script: rain\nto:\n  - topic: out/x\n"
            )
        };
        let apply = |id: i64| {
            world.apply(&[
                IN,
                OUT,
                ("plugins/rain/plugin.yaml", &yaml),
                (file, text),
                ("flows/f.yaml", &flow(id)),
            ]);
        };
        let status = || {
            world.tokio.block_on(world.flows.plugins())[0]
                .status
                .clone()
                .unwrap()
        };
        let seen = || {
            let lines = world.flows.plugin_log("rain", 0).unwrap();
            let seen = lines.iter().filter(|line| line.text.starts_with("seen"));
            seen.count()
        };
        apply(0);
        let events: Vec<String> = (1..=10).map(|id| format!(r#"{{"id":{id}}}"#)).collect();
        world.publish("in/a", &events);
        world.settle("f");
        assert_eq!(
            (status().given, status().made, seen()),
            (10, 10, 10),
            "{language}"
        );
        // The same plug-in in a new version of the flow.
        apply(-1);
        apply(-2);
        assert_eq!(
            (status().given, status().made, seen()),
            (10, 10, 10),
            "{language}"
        );
        world.publish("in/a", &events);
        world.settle("f");
        assert_eq!(
            (status().given, status().made, seen()),
            (20, 20, 20),
            "{language}"
        );
    }
}
