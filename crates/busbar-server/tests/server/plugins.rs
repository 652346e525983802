//! The files, versions and trials of plug-ins.

use serde_json::{Value, json};

use crate::support::{PATIENCE, World};

const DOUBLE: &str =
    "export default (event) => { event.payload.n *= 2; busbar.log('seen'); return event; };\n";
const SPEC: &str = "language: javascript\ntests:\n  - given: [{ topic: in/a, payload: { n: 2 } }]\n    expect: [{ payload: { n: 4 } }]\n";

const FILES: &[(&str, &str)] = &[
    (
        "streams/in.yaml",
        "topics: in/#\nformat: json\nschema: { n: int }\n",
    ),
    ("streams/out.yaml", "topics: out/#\n"),
    ("plugins/double/plugin.yaml", SPEC),
    ("plugins/double/main.js", DOUBLE),
    (
        "flows/double.yaml",
        "from: in\nsteps:\n  - script: double\nto:\n  - topic: out/all\n",
    ),
];

fn put(world: &World, path: &str, body: &Value) -> crate::support::Answer {
    let json = ("content-type", "application/json");
    world.request("PUT", path, &[json], body.to_string().as_bytes())
}

#[test]
fn a_plugin_is_tried_on_the_last_events_and_nothing_is_published() {
    let world = World::new(FILES);
    for n in 1..=5 {
        world.publish("in/a", json!({ "n": n }));
    }
    world.until("/api/v1/plugins", |answer| {
        answer["plugins"][0]["given"] == 5
    });
    let try_it = |main: &str, events: usize| {
        let files = json!({ "plugin.yaml": "language: javascript\n", "main.js": main });
        let body = json!({ "files": files, "stream": "in", "events": events });
        world.post("/api/v1/plugins/double/try", &body)
    };
    let tried = try_it(
        "export default (event) => { if (event.payload.n === 4) throw new Error('four'); busbar.log('tried'); return [{ topic: 'x/y', key: 'k', tags: { t: 1 }, payload: [event.payload.n] }, true]; };",
        3,
    );
    assert_eq!(tried.status, 200, "{tried:?}");
    let tried = tried.json();
    let events = tried["events"].as_array().unwrap();
    assert_eq!(events.len(), 3, "{tried}");
    assert_eq!(events[0]["given"]["payload"], json!({ "n": 3 }));
    let made = json!({ "topic": "x/y", "key": "k", "tags": { "t": "1" }, "payload": [3] });
    assert_eq!(events[0]["made"][0], made);
    assert_eq!(events[0]["made"][1]["payload"], json!({ "n": 3 }));
    assert_eq!(events[1]["made"], json!([]));
    assert_eq!(events[1]["error"]["code"], "plugin.script-at");
    assert_eq!(tried["log"].as_array().unwrap().len(), 2, "{tried}");
    // The version that runs has neither worked nor logged, and nothing came out of the trial.
    let running = world.get_json("/api/v1/plugins/double");
    assert_eq!(
        (&running["given"], &running["files"]["main.js"]),
        (&json!(5), &json!(DOUBLE))
    );
    let log = world.get_json("/api/v1/plugins/double/log");
    let lines = log["lines"].as_array().unwrap();
    assert!(lines.iter().all(|line| line["text"] == "seen"), "{log}");
    let out = world.get_json("/api/v1/streams/out/events");
    assert_eq!(out["events"].as_array().unwrap().len(), 5, "{out}");

    // One that cannot start is refused at its place, one for a stream that is not there too.
    let wrong = try_it("export default (event) => {\n  return event.;\n};", 1);
    assert_eq!(wrong.status, 422, "{wrong:?}");
    let wrong = wrong.json();
    let place = &wrong["diagnostics"][0];
    assert_eq!(
        (&place["file"], &place["line"]),
        (&json!("plugins/double/main.js"), &json!(2))
    );
    let body = json!({ "files": {}, "stream": "none" });
    assert_eq!(world.post("/api/v1/plugins/double/try", &body).status, 404);
    // A program without end ends.
    let began = std::time::Instant::now();
    let endless = json!({ "plugin.yaml": "language: javascript\ntimeout: 100ms\n", "main.js": "export default () => { for (;;) {} };" });
    let body = json!({ "files": endless, "stream": "in", "events": 1 });
    let endless = world.post("/api/v1/plugins/double/try", &body);
    assert_eq!(
        endless.json()["events"][0]["error"]["code"],
        "plugin.timeout",
        "{endless:?}"
    );
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn a_plugin_is_deployed_by_its_files_compared_and_rolled_back() {
    let world = World::new(FILES);
    let deploy = |main: &str| {
        let files = json!({ "plugin.yaml": SPEC, "main.js": main });
        put(&world, "/api/v1/plugins/double", &json!({ "files": files }))
    };
    let changed =
        "export default (event) => { event.payload.n += event.payload.n; return event; };\n";
    assert_eq!(deploy(changed).status, 200);
    // A version that does not pass its tests is refused, and the one before goes on.
    let refused = deploy("export default (event) => event;\n");
    assert_eq!(refused.status, 422, "{refused:?}");
    assert_eq!(
        refused.json()["diagnostics"][0]["code"],
        "plugin.test-failed"
    );
    let running = world.get_json("/api/v1/plugins/double");
    assert_eq!(
        (&running["state"], &running["files"]["main.js"]),
        (&json!("running"), &json!(changed))
    );

    let versions = world.get_json("/api/v1/plugins/double/versions");
    let versions = versions["versions"].as_array().unwrap();
    assert_eq!(versions.len(), 2, "{versions:?}");
    assert_eq!(
        versions[0]["changes"],
        json!([{ "path": "main.js", "kind": "changed" }])
    );
    let number = |at: usize| versions[at]["version"].as_u64().unwrap();
    let path = format!(
        "/api/v1/plugins/double/diff?from={}&to={}",
        number(1),
        number(0)
    );
    let difference = world.get_json(&path);
    assert_eq!(difference["files"]["main.js"]["before"], DOUBLE);
    assert_eq!(difference["files"]["main.js"]["after"], changed);
    assert_eq!(difference["files"].as_object().unwrap().len(), 1);
    let back = json!({ "version": number(1) });
    assert_eq!(
        world.post("/api/v1/plugins/double/rollback", &back).status,
        200
    );
    let running = world.get_json("/api/v1/plugins/double");
    assert_eq!(running["files"]["main.js"], DOUBLE);
    assert_eq!(world.get("/api/v1/plugins/none").status, 404);
    assert_eq!(world.get("/api/v1/plugins/none/versions").status, 404);
}
