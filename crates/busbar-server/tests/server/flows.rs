//! Projects, flows, dead letters, tables and SQL over the API.

use crate::access::{as_user, basic, with_admin};
use crate::support::{PATIENCE, World};
use serde_json::{Value, json};

const METER: &str = "topics: meter/+/reading\nformat: json\nschema:\n  kw: float\n";
const ALARM: &str = "from: meter\nsteps:\n  - where: kw >= 3\n  - select: topic_part(topic, 2) as meter, kw\nto:\n  - topic: alarm/${meter}\n";
const KEEP: &str =
    "from: meter\nsteps:\n  - select: topic_part(topic, 2) as meter, kw\nto:\n  - table: last\n";

const PROJECT: &[(&str, &str)] = &[
    ("streams/meter.yaml", METER),
    ("tables/last.yaml", "hot: {}\nkey: [meter]\n"),
    ("flows/alarm.yaml", ALARM),
    ("flows/keep.yaml", KEEP),
];

fn files(changes: &[(&str, Option<&str>)]) -> Value {
    let mut files: serde_json::Map<String, Value> = PROJECT
        .iter()
        .map(|(path, text)| ((*path).to_owned(), json!(text)))
        .collect();
    for (path, text) in changes {
        match text {
            Some(text) => files.insert((*path).to_owned(), json!(text)),
            None => files.remove(*path),
        };
    }
    files.into()
}

#[test]
fn events_go_through_flows_into_topics_and_tables() {
    let world = World::new(PROJECT);
    let mut alarms = world.listen("/api/v1/events?filter=alarm/%23", &[]);
    for kw in [1.0, 5.0, 2.0] {
        world.publish("meter/m1/reading", json!({ "kw": kw }));
    }
    assert_eq!(alarms.next().unwrap().json()["payload"]["kw"], 5.0);
    let flow = world.until("/api/v1/flows/alarm", |flow| {
        flow["in"] == 3 && flow["held"] == 0 && flow["lag"] == 0
    });
    assert_eq!(
        (&flow["out"], &flow["filtered"], &flow["dead"]),
        (&json!(1), &json!(2), &json!(0))
    );
    assert_eq!(flow["conservation"]["balanced"], true);
    assert_eq!(flow["state"], "running");
    // How far event time has come, at each place, and how long ago that is.
    let watermark = &flow["watermark"];
    assert!(watermark.is_string(), "{flow}");
    assert_eq!(&flow["tasks"][0]["watermark"], watermark);
    assert_eq!(&flow["graph"]["nodes"][0]["watermark"], watermark);
    assert_eq!(&flow["graph"]["edges"][0]["watermark"], watermark);
    let age = flow["watermark_age_s"].as_f64().unwrap();
    assert!((0.0..60.0).contains(&age), "{age}");
    assert_eq!(flow["source"], ALARM);
    let kinds: Vec<&str> = flow["graph"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["stream", "where", "select", "topic"]);
    assert!(!flow["graph"]["edges"].as_array().unwrap().is_empty());
    // Of readings in one batch the last one stays.
    world.until("/api/v1/flows/keep", |flow| {
        flow["out"].as_u64().unwrap() + flow["overwritten"].as_u64().unwrap() == 3
    });
    assert_eq!(
        world.sql("select kw from last where meter = 'm1'"),
        json!([[2.0]])
    );
    let table = world.get_json("/api/v1/tables/last");
    assert_eq!(
        (&table["kind"], &table["rows"], &table["key"]),
        (&json!("hot"), &json!(1), &json!(["meter"]))
    );
    assert_eq!(
        world.get_json("/api/v1/flows")["flows"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(world.get("/api/v1/flows/none").status, 404);
    assert_eq!(world.get("/api/v1/tables/none").status, 404);
}

#[test]
fn a_project_is_checked_compared_applied_and_rolled_back() {
    let world = World::new(PROJECT);
    let wrong = ALARM.replace("kw >= 3", "kww >= 3");
    let body = json!({ "files": files(&[("flows/alarm.yaml", Some(&wrong))]) });
    let answer = world.post("/api/v1/apply", &body);
    assert_eq!(
        (answer.status, answer.code()),
        (422, "server.project-wrong".into()),
        "{answer:?}"
    );
    let diagnostic = &answer.json()["diagnostics"][0];
    assert_eq!(
        (&diagnostic["file"], &diagnostic["line"]),
        (&json!("flows/alarm.yaml"), &json!(3))
    );
    assert_eq!(world.get_json("/api/v1/flows/alarm")["state"], "running");
    let lower = ALARM.replace("kw >= 3", "kw >= 1");
    let changed = files(&[("flows/alarm.yaml", Some(&lower))]);
    let dry = world.post(
        "/api/v1/apply",
        &json!({ "files": changed, "dry_run": true }),
    );
    assert_eq!(dry.status, 200, "{dry:?}");
    assert_eq!(
        dry.json()["changes"],
        json!([{"path":"flows/alarm.yaml","kind":"changed","meaning":true}])
    );
    assert_eq!(dry.json()["version"], Value::Null);
    let done = world.post(
        "/api/v1/apply",
        &json!({ "files": changed, "note": "lower" }),
    );
    assert_eq!(
        (done.status, &done.json()["version"]),
        (200, &json!(2)),
        "{done:?}"
    );
    assert_eq!(done.json()["applied"]["deployed"], json!(["alarm"]));
    assert_eq!(done.json()["applied"]["unchanged"], json!(["keep"]));
    let comment = files(&[("flows/alarm.yaml", Some(&format!("# why\n{lower}")))]);
    let done = world.post("/api/v1/apply", &json!({ "files": comment }));
    assert_eq!(done.json()["changes"][0]["meaning"], false);
    assert_eq!(done.json()["applied"]["deployed"], json!([]));
    let versions = world.get_json("/api/v1/flows/alarm/versions");
    let numbers: Vec<u64> = versions["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["version"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [3, 2, 1]);
    assert_eq!(versions["versions"][1]["note"], "lower");
    let diff = world.get_json("/api/v1/flows/alarm/diff?from=1&to=2");
    assert!(
        diff["diff"]
            .as_str()
            .unwrap()
            .contains("-  - where: kw >= 3"),
        "{diff}"
    );
    assert_eq!(
        (&diff["before"], &diff["after"]),
        (&json!(ALARM), &json!(lower))
    );
    let back = world.post("/api/v1/flows/alarm/rollback", &json!({ "version": 1 }));
    assert_eq!(
        (back.status, &back.json()["version"]),
        (200, &json!(4)),
        "{back:?}"
    );
    assert_eq!(world.get_json("/api/v1/flows/alarm")["source"], ALARM);
    let history = world.get_json("/api/v1/history");
    assert_eq!(history["versions"].as_array().unwrap().len(), 4);
    assert_eq!(history["versions"][1]["changes"][0]["meaning"], false);
    assert_eq!(
        history["versions"][3]["changes"].as_array().unwrap().len(),
        4
    );
    assert_eq!(
        world
            .post("/api/v1/flows/alarm/rollback", &json!({ "version": 99 }))
            .status,
        404
    );
    let outside = json!({ "files": { "../evil.yaml": "a: b", "flows/../../x.yaml": "" } });
    assert_eq!(world.post("/api/v1/apply", &outside).status, 422);
    assert!(
        !world
            .folder
            .path()
            .parent()
            .unwrap()
            .join("evil.yaml")
            .exists()
    );
}

#[test]
fn a_flow_pauses_goes_on_and_reads_again() {
    let world = World::new(PROJECT);
    world.publish("meter/m1/reading", json!({ "kw": 4 }));
    world.until("/api/v1/flows/alarm", |flow| flow["out"] == 1);
    let paused = world.post("/api/v1/flows/alarm/pause", &json!({}));
    assert_eq!(
        (paused.status, &paused.json()["state"]),
        (200, &json!("paused")),
        "{paused:?}"
    );
    world.publish("meter/m2/reading", json!({ "kw": 4 }));
    assert_eq!(world.sql("select count(*) from inbox"), json!([[1]]));
    let metrics = world.get("/metrics").body;
    for line in [
        "busbar_flow_running{flow=\"alarm\"} 0\n",
        "busbar_flow_lag_events{flow=\"alarm\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line} {metrics}");
    }
    assert_eq!(
        world
            .request("POST", "/api/v1/flows/alarm/resume", &[], b"")
            .json()["state"],
        "running"
    );
    world.until("/api/v1/streams/inbox", |stream| stream["events"] == 2);
    let again = world.post("/api/v1/flows/alarm/replay", &json!({ "from": "earliest" }));
    assert_eq!(again.status, 200, "{again:?}");
    world.until("/api/v1/streams/inbox", |stream| stream["events"] == 4);
    assert_eq!(
        world
            .post("/api/v1/flows/alarm/replay", &json!({ "from": "7" }))
            .code(),
        "server.bad-replay"
    );
    assert_eq!(
        world.post("/api/v1/flows/none/pause", &json!({})).status,
        404
    );
}

#[test]
fn dead_letters_are_grouped_shown_and_sent_again() {
    let world = World::new(PROJECT);
    world.publish("meter/m1/reading", json!({ "kw": 4 }));
    let bad = world.post_text(
        "/api/v1/events?topic=meter/m1/reading",
        "application/x-ndjson",
        "\"no object\"\n",
    );
    assert_eq!(bad.json()["accepted"], 1);
    // Before anybody asks for the causes: a node that nobody looks at counts too.
    world.until("/api/v1/overview", |overview| {
        overview["dead"]["count"] == 2
    });
    let groups = world.until("/api/v1/dead-letters/groups", |groups| {
        groups["groups"].as_array().unwrap().len() == 2
    });
    let group = &groups["groups"][0];
    assert_eq!(group["count"], 1);
    assert!(
        group["cause_zh"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    );
    let letters = world.get_json("/api/v1/dead-letters?flow=alarm");
    let letter = &letters["letters"][0];
    assert_eq!(
        (&letter["flow"], &letter["stream"], &letter["offset"]),
        (&json!("alarm"), &json!("meter"), &json!(1))
    );
    assert_eq!(letter["event"]["topic"], "meter/m1/reading");
    for place in ["stream", "partition", "offset"] {
        assert_eq!(letter["event"][place], letter[place], "{letter}");
    }
    // Both flows read the event, and each tells of the other.
    assert_eq!(letter["also_in"], json!(["keep"]));
    let both = world.get_json("/api/v1/dead-letters");
    assert_eq!(
        (both["letters"].as_array().unwrap().len(), &both["events"]),
        (2, &json!(1))
    );
    assert_eq!(letter["event"]["payload"], "no object");
    let again = world.post(
        "/api/v1/dead-letters/redrive",
        &json!({ "flow": "alarm", "ids": [letter["id"]] }),
    );
    assert_eq!(again.status, 200, "{again:?}");
    assert_eq!(
        (&again.json()["redriven"], &again.json()["died"]),
        (&json!(1), &json!(1))
    );
    for (query, count) in [
        ("", 2),
        ("?closed=true", 3),
        ("?flow=none", 0),
        ("?limit=1", 1),
    ] {
        let shown = world.get_json(&format!("/api/v1/dead-letters{query}"));
        assert_eq!(shown["letters"].as_array().unwrap().len(), count, "{shown}");
    }
    // A reader of everything gets what was published, not what became of it.
    let mut all = world.listen("/api/v1/events?from=earliest", &[]);
    for _ in 0..3 {
        let event = all.next().unwrap().json();
        assert!(
            ["meter", "inbox"].contains(&event["stream"].as_str().unwrap()),
            "{event}"
        );
    }
    for (ids, status, code) in [
        (json!(["x"]), 400, "server.bad-field"),
        (json!([letter["id"], "999"]), 404, "server.unknown-letter"),
    ] {
        let refused = world.post("/api/v1/dead-letters/redrive", &json!({ "ids": ids }));
        assert_eq!((refused.status, &*refused.code()), (status, code), "{ids}");
    }
}

#[test]
fn sql_answers_and_points_at_what_is_wrong() {
    let world = World::new(PROJECT);
    for n in 0..10 {
        world.publish("meter/m1/reading", json!({ "kw": n }));
    }
    let answer = world.post(
        "/api/v1/sql",
        &json!({"sql":"select topic, kw, time from meter order by kw","limit":3}),
    );
    let body = answer.json();
    assert_eq!(body["columns"][1], json!({"name":"kw","type":"float"}));
    assert_eq!(body["rows"].as_array().unwrap().len(), 3);
    assert_eq!(body["truncated"], true);
    assert!(body["elapsed_ms"].as_f64().unwrap() > 0.0);
    assert!(body["rows"][0][2].as_str().unwrap().ends_with('Z'));
    let wrong = world.post("/api/v1/sql", &json!({"sql":"select kx from meter"}));
    assert_eq!(wrong.status, 422, "{wrong:?}");
    let error = &wrong.json()["error"];
    assert_eq!(error["span"], json!({"start":7,"end":9}));
    assert_eq!(error["suggestion"], "kw");
    for sql in [
        "drop table last",
        "insert into last values (1)",
        "select * from nowhere",
        "",
    ] {
        let answer = world.post("/api/v1/sql", &json!({ "sql": sql }));
        assert!((400..500).contains(&answer.status), "{sql}: {answer:?}");
    }
    let long = format!(
        "select '{}'",
        "x".repeat(busbar_server::limits::SQL_TEXT_BYTES_MAX)
    );
    assert_eq!(
        world.post("/api/v1/sql", &json!({ "sql": long })).code(),
        "server.sql-too-long"
    );
}

#[test]
fn dead_letters_are_edited_and_discarded_and_tell_who_did_it() {
    let (mut world, ann) = with_admin(PROJECT);
    let ask = |world: &World, method: &str, path: &str, body: &Value| {
        as_user(world, method, &format!("/api/v1/{path}"), &ann, body)
    };
    let rules = json!({"read":["stream:other"]});
    let new = json!({"name":"op","password":"a-good-password","role":"operator","rules":rules});
    assert_eq!(ask(&world, "POST", "users", &new).status, 201);
    let bad: Vec<Value> = (0..4)
        .map(|n| json!({"topic":format!("meter/m{n}/reading"),"payload":{"kw":"much"}}))
        .collect();
    ask(&world, "POST", "events", &json!(bad));
    let begun = std::time::Instant::now();
    let letters = loop {
        let answer = ask(&world, "GET", "dead-letters?flow=alarm", &Value::Null).json();
        let letters = answer["letters"].as_array().unwrap().clone();
        if letters.len() == 4 {
            break letters;
        }
        assert!(begun.elapsed() < PATIENCE, "{answer}");
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    };
    let id = |at: usize| letters[at]["id"].as_str().unwrap().to_owned();
    let post = |world: &World, path: &str, body: Value| {
        ask(world, "POST", &format!("dead-letters/{path}"), &body)
    };
    // Who may not read the stream can do nothing to its letters, neither by id nor as a group.
    let op = basic("op", "a-good-password");
    for (path, body, status) in [
        (format!("{}/redrive", id(0)), json!({}), 404),
        ("redrive".to_owned(), json!({"ids":[id(0)]}), 404),
        ("discard".to_owned(), json!({"ids":[id(0)]}), 404),
        ("discard".to_owned(), json!({"flow":"alarm"}), 200),
        ("redrive".to_owned(), json!({}), 200),
    ] {
        let path = format!("/api/v1/dead-letters/{path}");
        let answer = as_user(&world, "POST", &path, &op, &body);
        assert_eq!(answer.status, status, "{path} {body}: {answer:?}");
        if status == 200 {
            let count = answer.json();
            assert_eq!(
                count["discarded"].as_u64().or(count["redriven"].as_u64()),
                Some(0)
            );
        }
    }
    // Edited: the event goes through with the new payload, the letter keeps the old one.
    for (body, code) in [
        (json!({"payload_base64":"?"}), "server.bad-field"),
        (
            json!({"payload_text":"1","payload_base64":"MQ=="}),
            "server.bad-field",
        ),
    ] {
        let refused = post(&world, &format!("{}/redrive", id(0)), body);
        assert_eq!(refused.code(), code);
    }
    let edited = json!({"payload_text":"{\"kw\":5}"});
    let done = post(&world, &format!("{}/redrive", id(0)), edited.clone());
    assert_eq!(
        done.json(),
        json!({"redriven":1,"died":0,"orphaned":0,"refused":0}),
        "{done:?}"
    );
    let sent = ask(
        &world,
        "GET",
        "topics?filter=alarm/%23&all=true",
        &Value::Null,
    )
    .json();
    assert_eq!(sent["topics"][0]["payload"]["kw"], 5.0, "{sent}");
    let again = post(&world, &format!("{}/redrive", id(0)), edited);
    assert_eq!(
        (again.status, again.code()),
        (409, "server.letter-closed".into())
    );
    // As it is, it fails again.
    let done = post(&world, &format!("{}/redrive", id(1)), json!({}));
    assert_eq!(done.json()["died"], 1, "{done:?}");
    // One is discarded, then the rest of the flow.
    assert_eq!(
        post(&world, "discard", json!({})).code(),
        "server.discard-what"
    );
    let unknown = post(&world, "discard", json!({"ids":[id(2),"999"]}));
    assert_eq!(
        (unknown.status, unknown.code()),
        (404, "server.unknown-letter".into())
    );
    let one = post(&world, "discard", json!({"ids":[id(2)]}));
    assert_eq!(one.json(), json!({"discarded":1}));
    let rest = post(&world, "discard", json!({"flow":"alarm"}));
    assert_eq!(
        rest.json(),
        json!({"discarded":2}),
        "the third, and the one that failed again"
    );
    for restart in [false, true] {
        if restart {
            world.restart();
        }
        let open = ask(&world, "GET", "dead-letters?flow=alarm", &Value::Null).json();
        assert_eq!(open["letters"], json!([]), "restart {restart}");
        for (at, state) in ["edited", "redriven", "discarded", "discarded"]
            .iter()
            .enumerate()
        {
            let letter = ask(
                &world,
                "GET",
                &format!("dead-letters/{}", id(at)),
                &Value::Null,
            );
            let letter = letter.json();
            assert_eq!(
                (&letter["state"], &letter["closed_by"]),
                (&json!(state), &json!("ann")),
                "restart {restart}: {letter}"
            );
            assert!(letter["closed_at"].as_str().unwrap().ends_with('Z'));
            assert_eq!(letter["event"]["payload"]["kw"], "much");
        }
    }
    let audit = ask(&world, "GET", "audit?action=dead-letters", &Value::Null).json();
    let seen: Vec<(&str, &str)> = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["action"].as_str().unwrap(), e["target"].as_str().unwrap()))
        .collect();
    assert_eq!(
        seen,
        [
            ("dead-letters.discard", "flow alarm"),
            ("dead-letters.discard", &*format!("ids {}", id(2))),
            ("dead-letters.redrive", &*id(1)),
            ("dead-letters.edit", &*id(0)),
        ]
    );
    assert!(!audit.to_string().contains("kw"), "no payload: {audit}");
}

/// Publishes lines, waits until a flow has done with them, and answers the flow.
fn published(world: &World, lines: &str, flow: &str) -> Value {
    let answer = world.post_text("/api/v1/events", "application/x-ndjson", lines);
    assert_eq!(answer.status, 200, "{answer:?}");
    let count = lines.lines().count();
    let flow = format!("/api/v1/flows/{flow}");
    world.until(&flow, |flow| flow["in"] == count && flow["held"] == 0)
}

#[test]
fn each_reading_of_a_burst_is_a_row_before_and_after_a_restart() {
    let mut world = World::new(&[
        ("streams/meter.yaml", METER),
        ("tables/readings.yaml", "hot: {}\nkey: [meter, time]\n"),
        (
            "flows/keep.yaml",
            "from: meter\nsteps:\n  - select: topic_part(topic, 2) as meter, time, kw\nto:\n  - table: readings\n",
        ),
    ]);
    let burst: String = (0..1000)
        .map(|n| format!("{{\"topic\":\"meter/m1/reading\",\"payload\":{{\"kw\":{n}}}}}\n"))
        .collect();
    let flow = published(&world, &burst, "keep");
    assert_eq!(
        (&flow["out"], &flow["overwritten"]),
        (&json!(1000), &json!(0))
    );
    let counted = "select count(*), count(distinct time) from readings";
    assert_eq!(world.sql(counted), json!([[1000, 1000]]));
    let first = "select partition, offset, kw from meter order by time limit 2";
    assert_eq!(world.sql(first), json!([[0, 0, 0.0], [0, 1, 1.0]]));
    let last = "select offset from meter order by time desc limit 2";
    assert_eq!(world.sql(last), json!([[999], [998]]));
    let some =
        "select offset from meter where topic like 'meter/%' and offset >= 997 order by offset";
    assert_eq!(world.sql(some), json!([[997], [998], [999]]));
    world.restart();
    assert_eq!(world.sql(counted), json!([[1000, 1000]]));
    let flow = published(&world, include_str!("cases/burst.ndjson"), "keep");
    assert_eq!(flow["conservation"]["balanced"], true);
    assert_eq!(world.sql(counted), json!([[1012, 1012]]));
}

#[test]
fn rows_that_a_table_overwrites_are_said() {
    let world = World::new(&[
        ("streams/meter.yaml", METER),
        ("tables/last.yaml", "hot: {}\nkey: [meter]\n"),
        ("flows/keep.yaml", KEEP),
    ]);
    let flow = published(&world, include_str!("cases/burst.ndjson"), "keep");
    let count = |name: &str| flow[name].as_u64().unwrap();
    // However the readings were cut into batches, at least the last one is out.
    assert!(count("out") >= 1, "{flow}");
    assert_eq!(count("in"), count("out") + count("overwritten"), "{flow}");
    assert_eq!(flow["conservation"]["balanced"], true);
    assert_eq!(world.sql("select kw from last"), json!([[2.75]]));
}

#[test]
fn ids_stay_exact_without_a_schema() {
    let world = World::new(&[
        ("streams/id.yaml", "topics: id/#\nformat: json\n"),
        ("tables/ids.yaml", "relational: {}\n"),
        (
            "flows/keep.yaml",
            "from: id\nsteps:\n  - select: id, n\nto:\n  - table: ids\n",
        ),
    ]);
    // The columns are fixed by the first event, which is alone.
    let (first, rest) = include_str!("cases/ids.ndjson").split_once('\n').unwrap();
    published(&world, first, "keep");
    let answer = world.post_text("/api/v1/events", "application/x-ndjson", rest);
    assert_eq!(answer.status, 200, "{answer:?}");
    world.until("/api/v1/flows/keep", |flow| {
        flow["in"] == 6 && flow["held"] == 0
    });
    assert_eq!(world.sql("select count(distinct id) from id"), json!([[6]]));
    assert_eq!(
        world.sql("select count(distinct id) from ids"),
        json!([[6]])
    );
    assert_eq!(
        world.sql("select id from ids order by n limit 2"),
        json!([[9_007_199_254_740_993_i64], [9_007_199_254_740_992_i64]])
    );
}

#[test]
fn a_flow_runs_over_a_range_of_time_into_a_table() {
    let world = World::new(PROJECT);
    for kw in [1.0, 5.0, 7.0] {
        world.publish("meter/m1/reading", json!({ "kw": kw }));
    }
    let live = world.until("/api/v1/flows/alarm", |flow| {
        flow["out"] == 2 && flow["held"] == 0
    });
    let start = |body: Value| world.post("/api/v1/flows/alarm/runs", &body);
    let refused = [
        (json!({"into":"peaks"}), 404, "catalog.unknown-table"),
        (
            json!({"into":"last","from":"7"}),
            400,
            "server.bad-run-time",
        ),
        (
            json!({"into":"last","to":"earliest"}),
            400,
            "server.bad-run-time",
        ),
        (
            json!({"into":"last","from":"-1h","to":"-2h"}),
            400,
            "flow.bounded-empty",
        ),
        (
            json!({"into":"Bad name","create":"hot"}),
            422,
            "server.project-wrong",
        ),
    ];
    for (body, status, code) in refused {
        let answer = start(body.clone());
        assert_eq!(
            (answer.status, &*answer.code()),
            (status, code),
            "{body}: {answer:?}"
        );
    }
    let answer = world.post("/api/v1/flows/none/runs", &json!({"into":"last"}));
    assert_eq!((answer.status, &*answer.code()), (404, "flow.unknown"));
    let run = start(json!({"into":"peaks","create":"relational","from":"-1h"}));
    assert_eq!(run.status, 200, "{run:?}");
    let run = world.until(&format!("/api/v1/runs/{}", run.json()["id"]), |run| {
        run["state"] != "running"
    });
    assert_eq!(
        (&run["state"], &run["events"], &run["rows"], &run["dead"]),
        (&json!("done"), &json!(3), &json!(2), &json!(0)),
        "{run}"
    );
    assert_eq!(run["read"], run["offsets"]);
    assert_eq!(
        world.sql("select meter, kw from peaks order by kw"),
        json!([["m1", 5.0], ["m1", 7.0]])
    );
    // The flow that runs is as it was, and the table is one of the project.
    let after = world.get_json("/api/v1/flows/alarm");
    assert_eq!((&after["in"], &after["out"]), (&live["in"], &live["out"]));
    let project = world.get_json("/api/v1/project");
    assert_eq!(project["files"]["tables/peaks.yaml"], "relational: {}\n");
    let runs = world.get_json("/api/v1/flows/alarm/runs");
    assert_eq!(runs["runs"][0], run);
    assert_eq!(
        world.get_json("/api/v1/flows/keep/runs"),
        json!({"runs":[]})
    );
    let cancelled = world.request("DELETE", &format!("/api/v1/runs/{}", run["id"]), &[], b"");
    assert_eq!(
        (cancelled.status, &cancelled.json()["state"]),
        (200, &json!("done"))
    );
    assert_eq!(world.get("/api/v1/runs/x").status, 404);
}
