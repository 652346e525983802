//! Which events a result of a flow with state was made of. Times are ahead of the clock, so that no window closes because a
//! partition is idle, but for the one test of that.

use std::collections::BTreeSet;

use crate::access::{as_user, basic, with_admin};
use crate::support::World;
use serde_json::{Value, json};

const READINGS: (&str, &str) = (
    "streams/meter.yaml",
    "topics: meter/+\nformat: json\nschema: { site: text, kw: float }\nlateness: 0s\ntime: { max_ahead: 30000d }\n",
);
const SUMS: (&str, &str) = (
    "streams/sums.yaml",
    "topics: sum/+\nformat: json\nschema: { site: text, kw: float }\ntime: { max_ahead: 30000d }\n",
);
const LIMITS: (&str, &str) = (
    "streams/limits.yaml",
    "topics: limit/+\nformat: json\nschema: { site: text, most: float }\nlateness: 0s\ntime: { max_ahead: 30000d }\n",
);
const BEYOND: (&str, &str) = (
    "flows/beyond.yaml",
    "from: limits\nsteps:\n  - join: { stream: meter, on: site, within: 30s, columns: [kw] }\n  - select: site, kw - most as kw\nto:\n  - topic: sum/beyond\n",
);
const WINDOW: (&str, &str) = (
    "flows/sum.yaml",
    "from: meter\nsteps:\n  - where: kw > 0\n  - window: { tumble: 1m, by: [site], select: 'site, sum(kw) as kw' }\nto:\n  - topic: sum/${site}\n",
);

/// Publishes readings, one after the other: a site, a second of the hour and a power.
fn readings(world: &World, readings: &[(&str, u32, f64)]) {
    for (site, second, kw) in readings {
        let time = format!("2090-11-29T08:{:02}:{:02}Z", second / 60, second % 60);
        let event = json!({
            "topic": format!("meter/{site}"), "time": time, "payload": { "site": site, "kw": kw }
        });
        let sent = world.post("/api/v1/events", &event);
        assert_eq!(sent.status, 200, "{sent:?}");
    }
}

fn wait_for(world: &World, stream: &str, events: u64) {
    world.until(&format!("/api/v1/streams/{stream}"), |stream| {
        stream["end"] == events
    });
}

/// The lineage of an event in the first flow that reads its stream.
fn lineage(world: &World, stream: &str, offset: u64) -> Value {
    let path = format!("/api/v1/trace?stream={stream}&partition=0&offset={offset}");
    let mut trace = world.get_json(&path);
    let flow = &mut trace["flows"][0];
    assert_eq!(flow["lineage_error"], Value::Null, "{flow:#}");
    flow["lineage"].take()
}

/// Stream, partition and offset of each event that a result was made of, in their order in the log.
fn inputs(result: &Value) -> Vec<(String, u64, u64)> {
    let inputs = result["inputs"].as_array().unwrap().iter();
    let number = |event: &Value, name: &str| event[name].as_u64().unwrap();
    let mut inputs: Vec<_> = inputs
        .map(|event| {
            let stream = event["stream"].as_str().unwrap().to_owned();
            (stream, number(event, "partition"), number(event, "offset"))
        })
        .collect();
    inputs.sort();
    inputs
}

/// Events of partition 0 of a stream.
fn of(stream: &str, offsets: &[u64]) -> Vec<(String, u64, u64)> {
    let offsets = offsets.iter();
    offsets
        .map(|offset| (stream.to_owned(), 0, *offset))
        .collect()
}

#[test]
fn a_result_of_a_window_names_the_events_in_it_and_is_found_in_the_log() {
    let world = World::new(&[READINGS, SUMS, WINDOW]);
    readings(
        &world,
        &[
            ("a", 10, 1.0),
            ("b", 20, 2.0),
            ("a", 30, 3.0),
            ("a", 40, 0.0),
            ("a", 90, 5.0),
        ],
    );
    wait_for(&world, "sums", 2);
    let counts = world.get_json("/api/v1/flows/sum")["conservation"].clone();

    let first = lineage(&world, "meter", 0);
    assert_eq!(
        (&first["whole"], &first["events"]),
        (&json!(true), &json!(5))
    );
    let result = &first["results"][0];
    assert_eq!(
        (
            &result["output"],
            &result["event"]["payload"],
            &result["found"],
            &result["open"]
        ),
        (
            &json!("to:0"),
            &json!({ "site": "a", "kw": 4.0 }),
            &json!(true),
            &json!(false)
        ),
        "{first:#}"
    );
    assert_eq!(result["event"]["stream"], "sums");
    assert_eq!(inputs(result), of("meter", &[0, 2]), "{first:#}");
    let payloads = [
        &result["inputs"][0]["payload"],
        &result["inputs"][1]["payload"],
    ];
    let sent = [
        json!({ "site": "a", "kw": 1.0 }),
        json!({ "site": "a", "kw": 3.0 }),
    ];
    assert_eq!(payloads, [&sent[0], &sent[1]], "{first:#}");
    assert_eq!(
        (&result["more"], first["results"][1].clone()),
        (&json!(0), Value::Null)
    );

    let other = lineage(&world, "meter", 1);
    assert_eq!(inputs(&other["results"][0]), of("meter", &[1]), "{other:#}");
    // What a condition leaves out is in no result.
    assert_eq!(lineage(&world, "meter", 3)["results"], json!([]));
    // A window that is open is told as such.
    let open = lineage(&world, "meter", 4);
    assert_eq!(
        (&open["results"][0]["open"], &open["results"][0]["found"]),
        (&json!(true), &json!(false)),
        "{open:#}"
    );
    // Nothing was written or counted for it.
    assert_eq!(world.get_json("/api/v1/flows/sum")["conservation"], counts);
    assert_eq!(world.get_json("/api/v1/streams/sums")["end"], 2);
}

#[test]
fn a_window_that_closed_because_its_partition_was_idle_closes_again() {
    let world = World::new(&[READINGS, SUMS, WINDOW]);
    let event = json!({
        "topic": "meter/a", "time": "2020-11-29T08:00:10Z", "payload": { "site": "a", "kw": 1 }
    });
    assert_eq!(world.post("/api/v1/events", &event).status, 200);
    wait_for(&world, "sums", 1);
    let found = lineage(&world, "meter", 0);
    let result = &found["results"][0];
    assert_eq!(
        (&result["open"], &result["found"]),
        (&json!(false), &json!(true)),
        "{found:#}"
    );
    assert_eq!(inputs(result), of("meter", &[0]), "{found:#}");

    // What comes when it has closed is in no result, although no other event has moved time on.
    let late = json!({
        "topic": "meter/a", "time": "2020-11-29T08:00:20Z", "payload": { "site": "a", "kw": 2 }
    });
    assert_eq!(world.post("/api/v1/events", &late).status, 200);
    wait_for(&world, "meter", 2);
    assert_eq!(lineage(&world, "meter", 1)["results"], json!([]));
    let found = lineage(&world, "meter", 0);
    assert_eq!(found["results"][0]["event"]["payload"]["kw"], 1.0);
    assert_eq!(inputs(&found["results"][0]), of("meter", &[0]), "{found:#}");
}

#[test]
fn an_event_that_was_late_is_in_no_result_although_others_are_left_out() {
    let world = World::new(&[READINGS, SUMS, WINDOW]);
    // The second of the next minute closes the first, and the third comes too late for it.
    readings(
        &world,
        &[
            ("a", 10, 1.0),
            ("b", 70, 2.0),
            ("a", 20, 4.0),
            ("b", 130, 1.0),
        ],
    );
    wait_for(&world, "sums", 2);
    assert_eq!(lineage(&world, "meter", 2)["results"], json!([]));
    let first = lineage(&world, "meter", 0);
    assert_eq!(inputs(&first["results"][0]), of("meter", &[0]), "{first:#}");
    assert_eq!(first["results"][0]["event"]["payload"]["kw"], 1.0);
    // What closed a window is not in it.
    let second = lineage(&world, "meter", 1);
    assert_eq!(
        inputs(&second["results"][0]),
        of("meter", &[1]),
        "{second:#}"
    );
}

#[test]
fn a_result_of_the_aggregator_and_of_a_join_names_the_events_of_its_group() {
    let world = World::new(&[
        READINGS,
        SUMS,
        LIMITS,
        (
            "flows/pairs.yaml",
            "from: meter\nsteps:\n  - aggregate: { by: [site], count: 2, within: 1h, reopen: true, select: 'site, sum(kw) as kw' }\nto:\n  - topic: sum/${site}\n",
        ),
        BEYOND,
    ]);
    readings(
        &world,
        &[
            ("a", 10, 1.0),
            ("b", 11, 2.0),
            ("a", 12, 3.0),
            ("a", 13, 4.0),
            ("b", 14, 5.0),
        ],
    );
    wait_for(&world, "sums", 2);
    // Without the first of a site others would be pairs; it is part of its own alone.
    for (offset, expected) in [(0, &[0, 2][..]), (4, &[1, 4]), (2, &[0, 2])] {
        let found = lineage(&world, "meter", offset);
        let result = &found["results"][0];
        assert_eq!(inputs(result), of("meter", expected), "{found:#}");
        assert_eq!(
            (&result["found"], &found["results"][1]),
            (&json!(true), &Value::Null),
            "{found:#}"
        );
    }
    // The third of its site waits for a fourth.
    let third = lineage(&world, "meter", 3);
    let result = &third["results"][0];
    assert_eq!(inputs(result), of("meter", &[3]), "{third:#}");
    assert_eq!(result["open"], true, "{third:#}");

    let limit = json!({
        "topic": "limit/b", "time": "2090-11-29T08:00:15Z", "payload": { "site": "b", "most": 1.5 }
    });
    assert_eq!(world.post("/api/v1/events", &limit).status, 200);
    wait_for(&world, "sums", 4);
    let joined = lineage(&world, "limits", 0);
    let results = joined["results"].as_array().unwrap();
    assert_eq!(results.len(), 2, "{joined:#}");
    let mut made: Vec<_> = results.iter().map(inputs).collect();
    made.sort();
    let pair = |reading| [of("limits", &[0]), of("meter", &[reading])].concat();
    assert_eq!(made, [pair(1), pair(4)], "{joined:#}");
    assert!(
        results.iter().all(|result| result["found"] == true),
        "{joined:#}"
    );
}

#[test]
fn events_of_other_partitions_are_found_where_rows_are_regrouped() {
    let world = World::new(&[
        (
            "streams/meter.yaml",
            "topics: meter/+\npartitions: 4\nformat: json\nschema: { site: text, kw: float }\nlateness: 0s\ntime: { max_ahead: 30000d }\n",
        ),
        SUMS,
        WINDOW,
    ]);
    // Topics spread over the partitions; the last events close the window in each of them.
    let send = |meter: u32, second: &str, site: &str| {
        let event = json!({
            "topic": format!("meter/{meter}"), "time": format!("2090-11-29T08:{second}Z"),
            "payload": { "site": site, "kw": 1 }
        });
        assert_eq!(world.post("/api/v1/events", &event).status, 200);
    };
    (0..16).for_each(|meter| send(meter, "00:10", "a"));
    (0..16).for_each(|meter| send(meter, "01:10", "b"));
    wait_for(&world, "sums", 1);
    let stream = world.get_json("/api/v1/streams/meter/events?limit=100");
    let first = stream["events"].as_array().unwrap().iter();
    let mut first = first.filter(|event| event["payload"]["site"] == "a");
    let event = first.next().unwrap();
    let trace = world.get_json(&format!(
        "/api/v1/trace?stream=meter&partition={}&offset={}",
        event["partition"], event["offset"]
    ));
    let found = &trace["flows"][0]["lineage"];
    let result = &found["results"][0];
    assert_eq!(
        (&result["event"]["payload"]["kw"], &result["found"]),
        (&json!(16.0), &json!(true)),
        "{trace:#}"
    );
    // Each is one of those that were sent first, as it was.
    let shown = result["inputs"].as_array().unwrap();
    assert!(
        shown.iter().all(|event| event["payload"]["site"] == "a"),
        "{trace:#}"
    );
    let inputs: BTreeSet<_> = inputs(result).into_iter().collect();
    assert_eq!((shown.len(), inputs.len()), (16, 16), "{trace:#}");
    let partitions: BTreeSet<u64> = inputs.iter().map(|(_, partition, _)| *partition).collect();
    assert!(partitions.len() > 1, "{partitions:?}");
}

#[test]
fn a_result_of_two_streams_names_the_events_of_each() {
    let window = WINDOW.1.replace(
        "from: meter\nsteps:\n",
        "from: [meter, spare]\nsteps:\n  - select: site, kw\n",
    );
    let world = World::new(&[
        READINGS,
        (
            "streams/spare.yaml",
            "topics: spare/+\nformat: json\nschema: { site: text, kw: float }\nlateness: 0s\ntime: { max_ahead: 30000d }\n",
        ),
        SUMS,
        (WINDOW.0, window.as_str()),
    ]);
    // The last two close the window.
    for (topic, second, kw) in [
        ("meter/a", "00:10", 1.0),
        ("spare/a", "00:20", 2.0),
        ("meter/b", "01:10", 4.0),
        ("spare/b", "01:20", 4.0),
    ] {
        let event = json!({
            "topic": topic, "time": format!("2090-11-29T08:{second}Z"),
            "payload": { "site": &topic[6..], "kw": kw }
        });
        assert_eq!(world.post("/api/v1/events", &event).status, 200);
    }
    wait_for(&world, "sums", 1);
    for stream in ["meter", "spare"] {
        let found = lineage(&world, stream, 0);
        let result = &found["results"][0];
        assert_eq!(
            (&result["event"]["payload"]["kw"], &result["found"]),
            (&json!(3.0), &json!(true)),
            "{found:#}"
        );
        let both = [of("meter", &[0]), of("spare", &[0])].concat();
        assert_eq!(inputs(result), both, "{found:#}");
    }
}

#[test]
fn an_event_is_no_part_of_the_later_groups_that_it_shifts() {
    let world = World::new(&[
        READINGS,
        SUMS,
        (
            "flows/pairs.yaml",
            "from: meter\nsteps:\n  - aggregate: { by: [site], count: 2, within: 1h, reopen: true, select: 'site, sum(kw) as kw' }\nto:\n  - topic: sum/${site}\n",
        ),
    ]);
    let all: Vec<(&str, u32, f64)> = (0..60).map(|at| ("a", at, f64::from(at))).collect();
    readings(&world, &all);
    wait_for(&world, "sums", 30);
    let found = lineage(&world, "meter", 20);
    let results = found["results"].as_array().unwrap();
    assert_eq!(results.len(), 1, "{found:#}");
    assert_eq!(inputs(&results[0]), of("meter", &[20, 21]), "{found:#}");
    assert_eq!(results[0]["event"]["offset"], 10);
}

#[test]
fn a_large_group_is_shown_up_to_the_bound_and_the_rest_is_counted() {
    let world = World::new(&[READINGS, SUMS, WINDOW]);
    let events: Vec<Value> = (0..150)
        .map(|at| json!({
            "topic": "meter/a", "time": format!("2090-11-29T08:00:{:02}Z", 10 + at / 10), "payload": { "site": "a", "kw": 1 }
        }))
        .chain([json!({
            "topic": "meter/a", "time": "2090-11-29T08:01:30Z", "payload": { "site": "a", "kw": 1 }
        })])
        .collect();
    for event in &events {
        assert_eq!(world.post("/api/v1/events", event).status, 200);
    }
    wait_for(&world, "sums", 1);
    let found = lineage(&world, "meter", 70);
    let result = &found["results"][0];
    assert_eq!(result["event"]["payload"]["kw"], 150.0, "{found:#}");
    let shown = inputs(result);
    assert!(shown.contains(&("meter".to_owned(), 0, 70)));
    let more = result["more"].as_u64().unwrap();
    assert_eq!(shown.len(), 100, "{found:#}");
    assert!((50..=51).contains(&more), "{more}");
}

#[test]
fn an_event_of_many_results_shows_the_first_of_them_and_counts_the_rest() {
    let world = World::new(&[READINGS, SUMS, LIMITS, BEYOND]);
    let all: Vec<(&str, u32, f64)> = (0..20).map(|at| ("a", at, f64::from(at))).collect();
    readings(&world, &all);
    let limit = json!({
        "topic": "limit/a", "time": "2090-11-29T08:00:10Z", "payload": { "site": "a", "most": 0.5 }
    });
    assert_eq!(world.post("/api/v1/events", &limit).status, 200);
    wait_for(&world, "sums", 20);
    let found = lineage(&world, "limits", 0);
    let results = found["results"].as_array().unwrap();
    assert_eq!(
        (results.len(), &found["more"]),
        (16, &json!(4)),
        "{found:#}"
    );
    let readings: BTreeSet<u64> = results
        .iter()
        .map(|result| {
            let inputs = inputs(result);
            assert_eq!(inputs.len(), 2, "{found:#}");
            inputs[1].2
        })
        .collect();
    assert_eq!(readings.len(), 16, "{found:#}");
    // Each is at its own place, though one frame has them all.
    let places: BTreeSet<u64> = results
        .iter()
        .filter(|result| result["found"] == true)
        .filter_map(|result| result["event"]["offset"].as_u64())
        .collect();
    assert_eq!(places.len(), 16, "{found:#}");
}

/// Running flows again takes its time: the others are asked for by name.
#[test]
fn four_flows_of_an_event_are_run_again_at_once() {
    let names = ["a", "b", "c", "d", "e"].map(|name| format!("flows/{name}.yaml"));
    let flows = names.iter().map(|name| (name.as_str(), WINDOW.1));
    let files: Vec<_> = [READINGS, SUMS].into_iter().chain(flows).collect();
    let world = World::new(&files);
    readings(&world, &[("a", 10, 1.0), ("b", 70, 1.0)]);
    wait_for(&world, "sums", 5);
    let path = "/api/v1/trace?stream=meter&partition=0&offset=0";
    let trace = world.get_json(path);
    let flows = trace["flows"].as_array().unwrap().iter();
    let made: Vec<usize> = flows
        .map(|flow| flow["lineage"]["results"].as_array().map_or(0, Vec::len))
        .collect();
    assert_eq!(made, [1, 1, 1, 1, 0], "{trace:#}");
    let last = world.get_json(&format!("{path}&flow=e"));
    assert_eq!(
        inputs(&last["flows"][0]["lineage"]["results"][0]),
        of("meter", &[0]),
        "{last:#}"
    );
}

/// What the flow's state held of events before those that it is run over again is missing.
#[test]
fn a_lineage_says_whether_it_is_of_all_events_before() {
    let world = World::new(&[READINGS, SUMS, WINDOW]);
    // More than half of what a run takes, left out by the condition.
    let before: Vec<Value> = (0..2_060)
        .map(|_| json!({
            "topic": "meter/z", "time": "2090-11-29T08:00:00Z", "payload": { "site": "z", "kw": 0 }
        }))
        .collect();
    assert_eq!(world.post("/api/v1/events", &json!(before)).status, 200);
    readings(&world, &[("a", 10, 1.0), ("a", 20, 2.0), ("b", 70, 1.0)]);
    wait_for(&world, "sums", 1);
    let found = lineage(&world, "meter", 2_061);
    let result = &found["results"][0];
    assert_eq!(inputs(result), of("meter", &[2_060, 2_061]), "{found:#}");
    assert_eq!(
        (&result["event"]["payload"]["kw"], &result["found"]),
        (&json!(3.0), &json!(true)),
        "{found:#}"
    );
    // From 2,048 events before it to the end.
    assert_eq!(
        (&found["whole"], &found["events"]),
        (&json!(false), &json!(2_050)),
        "{found:#}"
    );
}

/// What a flow read in an older version is shown to those alone who may read it.
#[test]
fn an_older_version_of_a_flow_is_for_those_who_may_read_what_it_read() {
    let (world, ann) = with_admin(&[READINGS, SUMS, LIMITS, BEYOND]);
    let vic = json!({
        "name": "vic", "password": "a-good-password", "role": "viewer", "rules": { "read": ["stream:limits"] }
    });
    let post = |path: &str, body: &Value| {
        let answer = as_user(&world, "POST", &format!("/api/v1/{path}"), &ann, body);
        assert!(matches!(answer.status, 200 | 201), "{answer:?}");
    };
    post("users", &vic);
    let vic = basic("vic", "a-good-password");
    for (topic, payload) in [
        ("meter/a", json!({ "site": "a", "kw": 4321.5 })),
        ("limit/a", json!({ "site": "a", "most": 1.0 })),
    ] {
        let time = "2090-11-29T08:00:15Z";
        post(
            "events",
            &json!({ "topic": topic, "time": time, "payload": payload }),
        );
    }
    let get = |path: &str, login: &str| {
        as_user(
            &world,
            "GET",
            &format!("/api/v1/{path}"),
            login,
            &Value::Null,
        )
        .json()
    };
    let begun = std::time::Instant::now();
    while get("streams/sums", &ann)["end"] != 1 {
        assert!(begun.elapsed() < crate::support::PATIENCE);
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    let alone = "from: limits\nsteps:\n  - select: site, most as kw\nto:\n  - topic: sum/beyond\n";
    let files = [READINGS, SUMS, LIMITS, (BEYOND.0, alone)];
    let files: serde_json::Map<String, Value> = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), json!(text)))
        .collect();
    post("apply", &json!({ "files": files }));
    let traced = |version: u64, login: &str| {
        let path = format!("trace?stream=limits&partition=0&offset=0&version={version}");
        get(&path, login)["flows"][0].take()
    };
    let then = traced(1, &ann);
    let expected = [of("limits", &[0]), of("meter", &[0])].concat();
    assert_eq!(inputs(&then["lineage"]["results"][0]), expected, "{then:#}");
    let hidden = traced(1, &vic);
    assert_eq!(hidden["error"]["code"], "access.read-denied", "{hidden:#}");
    assert!(!hidden.to_string().contains("432"), "{hidden:#}");
    let now = traced(2, &vic);
    assert_eq!(
        (
            &now["error"],
            &now["outputs"][0]["events"][0]["event"]["payload"]["kw"]
        ),
        (&Value::Null, &json!(1.0)),
        "{now:#}"
    );
}
