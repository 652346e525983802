//! Following an event through the flows that took it, and sending it again from a step.

use crate::access::{as_user, basic, with_admin};
use crate::support::World;
use serde_json::{Value, json};

const ALARM: &str = "from: meter\nsteps:\n  - where: kw >= 3\n  - select: topic_part(topic, 2) as meter, kw * 1000 as watts\nto:\n  - topic: alarm/${meter}\n";

const PROJECT: &[(&str, &str)] = &[
    (
        "streams/meter.yaml",
        "topics: meter/+/reading\nformat: json\nschema: { kw: float }\n",
    ),
    (
        "streams/alarms.yaml",
        "topics: alarm/+\nformat: json\nschema: { meter: text, watts: float }\n",
    ),
    (
        "streams/urgent.yaml",
        "topics: urgent/+\nformat: json\nschema: { meter: text }\n",
    ),
    ("flows/alarm.yaml", ALARM),
    (
        "flows/escalate.yaml",
        "from: alarms\nsteps:\n  - where: watts > 4000\n  - select: meter\nto:\n  - topic: urgent/${meter}\n",
    ),
];

fn files(changes: &[(&str, &str)]) -> Value {
    let all = PROJECT.iter().chain(changes);
    all.map(|(path, text)| ((*path).to_owned(), json!(text)))
        .collect::<serde_json::Map<String, Value>>()
        .into()
}

fn trace(world: &World, stream: &str, offset: u64) -> Value {
    world.get_json(&format!(
        "/api/v1/trace?stream={stream}&partition=0&offset={offset}"
    ))
}

fn fates(flow: &Value) -> Vec<&str> {
    let steps = flow["steps"].as_array().unwrap().iter();
    steps.map(|step| step["fate"].as_str().unwrap()).collect()
}

fn wait_for(world: &World, stream: &str, events: u64) {
    world.until(&format!("/api/v1/streams/{stream}"), |stream| {
        stream["end"] == events
    });
}

#[test]
fn a_message_is_found_and_followed_from_stream_to_stream() {
    let world = World::new(PROJECT);
    for kw in [1.0, 5.0] {
        world.publish("meter/m7/reading", json!({ "kw": kw }));
    }
    wait_for(&world, "urgent", 1);
    let counts = world.get_json("/api/v1/flows/alarm")["conservation"].clone();
    // By its content, in every stream at once.
    let found = world.get_json("/api/v1/search?text=m7&order=oldest");
    let events = found["events"].as_array().unwrap();
    let streams: Vec<&str> = events
        .iter()
        .map(|event| event["stream"].as_str().unwrap())
        .collect();
    assert!(
        ["meter", "alarms", "urgent"]
            .iter()
            .all(|stream| streams.contains(stream)),
        "{found}"
    );

    // What a condition leaves out ends there.
    let small = trace(&world, "meter", 0);
    let alarm = &small["flows"][0];
    assert_eq!(fates(alarm), ["filtered", "not-reached"]);
    assert_eq!(alarm["outputs"][0]["events"], json!([]));
    assert_eq!(alarm["outputs"][0]["computed"], true);

    let large = trace(&world, "meter", 1);
    assert_eq!(large["event"]["payload"]["kw"], 5.0);
    let alarm = &large["flows"][0];
    assert_eq!(
        (&alarm["flow"], &alarm["version"], fates(alarm)),
        (&json!("alarm"), &json!(1), vec!["passed", "passed"])
    );
    let select = &alarm["steps"][1];
    assert_eq!(select["before"][0]["kw"], 5.0);
    assert_eq!(select["after"], json!([{ "meter": "m7", "watts": 5000.0 }]));
    let made = &alarm["outputs"][0]["events"][0];
    assert_eq!(
        (
            &made["found"],
            &made["event"]["stream"],
            &made["event"]["offset"]
        ),
        (&json!(true), &json!("alarms"), &json!(0)),
        "{alarm:#}"
    );
    // And from there.
    let next = trace(&world, "alarms", 0);
    let made = &next["flows"][0]["outputs"][0]["events"][0];
    assert_eq!(
        (
            &next["flows"][0]["flow"],
            &made["event"]["stream"],
            &made["found"]
        ),
        (&json!("escalate"), &json!("urgent"), &json!(true)),
        "{next:#}"
    );
    assert_eq!(trace(&world, "urgent", 0)["flows"], json!([]));
    // Nothing was written or counted for it.
    assert_eq!(
        world.get_json("/api/v1/flows/alarm")["conservation"],
        counts
    );
    for stream in ["alarms", "urgent"] {
        let path = format!("/api/v1/streams/{stream}");
        assert_eq!(world.get_json(&path)["end"], 1);
    }
    let beyond = world.get("/api/v1/trace?stream=meter&partition=0&offset=9");
    assert_eq!(
        (beyond.status, beyond.code()),
        (404, "server.unknown-event".into())
    );
}

#[test]
fn the_result_of_an_event_is_not_taken_for_that_of_an_equal_one() {
    let world = World::new(PROJECT);
    for offset in 0..3 {
        let event = json!({
            "topic": "meter/m7/reading", "time": "2026-11-29T08:00:00Z", "payload": { "kw": 5 }
        });
        assert_eq!(world.post("/api/v1/events", &event).status, 200);
        wait_for(&world, "alarms", offset + 1);
    }
    for offset in 0..3 {
        let traced = trace(&world, "meter", offset);
        let made = &traced["flows"][0]["outputs"][0]["events"][0];
        assert_eq!(
            (&made["found"], &made["event"]["offset"]),
            (&json!(true), &json!(offset)),
            "{traced:#}"
        );
    }
}

#[test]
fn a_trace_is_of_the_version_that_ran_then_and_a_resend_goes_through_what_runs_now() {
    let world = World::new(PROJECT);
    world.publish("meter/m7/reading", json!({ "kw": 5 }));
    wait_for(&world, "alarms", 1);
    let higher = ALARM.replace("kw >= 3", "kw >= 9");
    let changed = json!({ "files": files(&[("flows/alarm.yaml", &higher)]) });
    assert_eq!(world.post("/api/v1/apply", &changed).status, 200);

    let then = trace(&world, "meter", 0);
    assert_eq!(then["flows"][0]["version"], 1);
    assert_eq!(fates(&then["flows"][0]), ["passed", "passed"]);
    let now = world.get_json("/api/v1/trace?stream=meter&partition=0&offset=0&version=2");
    assert_eq!(fates(&now["flows"][0]), ["filtered", "not-reached"]);

    let resend = |from: &str| {
        let body = json!({
            "stream": "meter", "partition": 0, "offset": 0, "flow": "alarm", "from": from
        });
        let answer = world.post("/api/v1/trace/resend", &body);
        (answer.status, answer.json())
    };
    // The flow that runs leaves the event out now.
    assert_eq!(resend("event"), (200, json!({ "sent": 0, "died": 0 })));
    // Behind its condition it goes on, and so does what came to the output.
    assert_eq!(resend("step:1"), (200, json!({ "sent": 1, "died": 0 })));
    assert_eq!(resend("to:0"), (200, json!({ "sent": 1, "died": 0 })));
    wait_for(&world, "alarms", 3);
    let alarms = world.get_json("/api/v1/streams/alarms/events");
    for event in alarms["events"].as_array().unwrap() {
        assert_eq!(
            event["payload"],
            json!({ "meter": "m7", "watts": 5000.0 }),
            "{alarms}"
        );
    }
    let (status, refused) = resend("step:7");
    assert_eq!(
        (status, &refused["error"]["code"]),
        (400, &json!("flow.resend-unknown")),
        "{refused}"
    );
    assert_eq!(resend("nowhere").0, 400);

    // A step of another kind takes no rows of the one that was there.
    let other = "from: meter\nsteps:\n  - where: kw >= 3\n  - map: { fields: { watts: kw } }\nto:\n  - topic: alarm/x\n";
    let other = json!({ "files": files(&[("flows/alarm.yaml", other)]) });
    let applied = world.post("/api/v1/apply", &other);
    assert_eq!(applied.status, 200, "{applied:?}");
    let (status, refused) = resend("step:1");
    assert_eq!(
        (status, &refused["error"]["code"]),
        (400, &json!("flow.resend-changed")),
        "{refused}"
    );
}

#[test]
fn an_event_is_sent_again_with_another_payload() {
    let world = World::new(PROJECT);
    world.publish("meter/m7/reading", json!({ "kw": 1 }));
    world.until("/api/v1/flows/alarm", |flow| flow["in"] == 1);
    let resend = |from: &str, payload: &str| {
        let body = json!({
            "stream": "meter", "partition": 0, "offset": 0, "flow": "alarm", "from": from, "payload_text": payload
        });
        world.post("/api/v1/trace/resend", &body)
    };
    assert_eq!(resend("step:0", "{}").code(), "server.resend-payload");
    // What cannot be read dies, and the sender is told.
    let broken = resend("event", "{");
    assert_eq!(broken.json(), json!({ "sent": 0, "died": 1 }), "{broken:?}");
    let sent = resend("event", "{\"kw\":7}");
    assert_eq!(sent.json(), json!({ "sent": 1, "died": 0 }), "{sent:?}");
    wait_for(&world, "alarms", 1);
    let rows = world.sql("select topic, watts from alarms");
    assert_eq!(json!(rows), json!([["alarm/m7", 7000.0]]));
    // The stream keeps what came.
    assert_eq!(trace(&world, "meter", 0)["event"]["payload"]["kw"], 1);
}

#[test]
fn what_depends_on_other_events_is_told_from_the_log() {
    let once = "from: meter\nsteps:\n  - where: kw > 0\n  - dedupe: { by: [kw], within: 1h }\n  - select: kw\nto:\n  - stream: alarms\n    topic: alarm/x\n";
    let files: Vec<(&str, &str)> = PROJECT
        .iter()
        .copied()
        .filter(|(path, _)| *path != "flows/alarm.yaml")
        .chain([("flows/once.yaml", once)])
        .collect();
    let world = World::new(&files);
    world.publish("meter/m7/reading", json!({ "kw": 5 }));
    wait_for(&world, "alarms", 1);
    let traced = trace(&world, "meter", 0);
    let flow = &traced["flows"][0];
    assert_eq!(fates(flow), ["passed", "state", "unknown"], "{flow:#}");
    let output = &flow["outputs"][0];
    assert_eq!(output["computed"], false);
    assert_eq!(output["recorded"][0]["payload"]["kw"], 5.0, "{flow:#}");
    let resend = |from: &str| {
        let body = json!({
            "stream": "meter", "partition": 0, "offset": 0, "flow": "once", "from": from
        });
        world.post("/api/v1/trace/resend", &body)
    };
    assert_eq!(resend("step:1").code(), "flow.resend-state");
    // As a whole event it is taken, and recognised as one that was there.
    let whole = resend("event");
    assert_eq!(whole.json(), json!({ "sent": 1, "died": 0 }), "{whole:?}");
    world.until("/api/v1/flows/once", |flow| {
        flow["in"] == 2 && flow["filtered"] == 1
    });
    assert_eq!(world.get_json("/api/v1/streams/alarms")["end"], 1);
}

#[test]
fn a_trace_shows_dead_letters_and_what_it_takes_to_resend() {
    let (world, admin) = with_admin(PROJECT);
    for (name, role) in [("olga", "operator"), ("victor", "viewer")] {
        let new = json!({ "name": name, "password": "a-good-password", "role": role });
        let made = as_user(&world, "POST", "/api/v1/users", &admin, &new);
        assert_eq!(made.status, 201, "{made:?}");
    }
    let (olga, victor) = (
        basic("olga", "a-good-password"),
        basic("victor", "a-good-password"),
    );
    for payload in [json!("{"), json!({ "kw": 5 })] {
        let event = json!({ "topic": "meter/m7/reading", "payload": payload });
        let sent = as_user(&world, "POST", "/api/v1/events", &admin, &event);
        assert_eq!(sent.status, 200, "{sent:?}");
    }
    let get = |path: &str| as_user(&world, "GET", path, &victor, &Value::Null).json();
    let begun = std::time::Instant::now();
    while get("/api/v1/streams/urgent")["end"] != 1 {
        assert!(begun.elapsed() < crate::support::PATIENCE);
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    let broken = get("/api/v1/trace?stream=meter&partition=0&offset=0");
    let flow = &broken["flows"][0];
    assert!(flow["unread"]["code"].is_string(), "{flow:#}");
    assert_eq!(
        (&flow["letters"][0]["step"], &flow["letters"][0]["open"]),
        (&json!("decode"), &json!(true)),
        "{flow:#}"
    );

    let body = json!({
        "stream": "meter", "partition": 0, "offset": 1, "flow": "alarm", "from": "event"
    });
    let refused = as_user(&world, "POST", "/api/v1/trace/resend", &victor, &body);
    assert_eq!(refused.status, 403, "{refused:?}");
    let sent = as_user(&world, "POST", "/api/v1/trace/resend", &olga, &body);
    assert_eq!(
        (sent.status, sent.json()),
        (200, json!({ "sent": 1, "died": 0 })),
        "{sent:?}"
    );
    let audit = as_user(&world, "GET", "/api/v1/audit", &admin, &Value::Null).json();
    let entry = &audit["entries"][0];
    assert_eq!(
        (&entry["action"], &entry["user"], &entry["target"]),
        (&json!("event.resend"), &json!("olga"), &json!("alarm")),
        "{entry}"
    );
    assert_eq!(
        (&entry["detail"]["offset"], &entry["detail"]["from"]),
        (&json!("1"), &json!("event"))
    );
}
