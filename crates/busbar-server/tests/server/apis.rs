//! APIs: queries, flows by request and reply, and orchestrations as resources of the web.

use serde_json::{Value, json};

use crate::access::{as_user, basic, with_admin};
use crate::support::World;

/// A stream of levels with a query, a flow that doubles a number, and an orchestration that adds one.
const FILES: &[(&str, &str)] = &[
    (
        "streams/level.yaml",
        "topics: level/+\npartitions: 1\nformat: json\nschema: { site: text, mm: int }\n",
    ),
    (
        "apis/levels.yaml",
        "description: Levels of a site.\n\
         parameters: { site: { type: text, required: true }, least: int }\n\
         query: select site, mm from level where site = $site and ($least is null or mm >= $least) order by mm\n\
         rows: 2\n",
    ),
    (
        "streams/asked.yaml",
        "topics: double/ask\nformat: json\nschema: { n: int }\n",
    ),
    ("streams/told.yaml", "topics: double/told\n"),
    (
        "flows/double.yaml",
        "from: asked\nsteps:\n- select: n * 2 as twice\nto:\n- topic: double/told\n",
    ),
    (
        "apis/double.yaml",
        "parameters: { n: { type: int, required: true } }\n\
         request: { topic: double/ask, reply: told }\nwithin: 5min\n",
    ),
    (
        "flows/take.yaml",
        "from: taking\nsteps:\n- select: 202 as code\nto:\n- topic: double/told\n",
    ),
    (
        "streams/taking.yaml",
        "topics: take/ask\nformat: json\nschema: { n: int }\n",
    ),
    (
        "apis/taken.yaml",
        "parameters: { n: { type: int, required: true } }\n\
         request: { topic: take/ask, reply: told, status: code }\nwithin: 5min\n",
    ),
    (
        "apis/silent.yaml",
        "parameters: { n: int }\n\
         request: { topic: silent/ask, key: n, reply: told, id: re }\nwithin: 200ms\n",
    ),
    (
        "apis/slow.yaml",
        "parameters: { n: int }\nrequest: { topic: silent/ask, reply: told, id: re }\n\
         within: 5min\nin_flight: 1\n",
    ),
    (
        "orchestrations/add.yaml",
        "input: { id: text, n: int }\nkey: ${id}\nparts:\n- name: sum\n  set: n + 1 as m\nanswer: m\n",
    ),
    (
        "apis/add.yaml",
        "parameters: { id: { type: text, required: true }, n: int }\norchestration: add\nwithin: 5min\n",
    ),
];

#[test]
fn a_query_answers_with_rows_for_its_parameters() {
    let world = World::new(FILES);
    for (site, mm) in [("a", 1), ("a", 5), ("a", 9), ("b", 7)] {
        world.publish(&format!("level/{site}"), json!({"site": site, "mm": mm}));
    }
    let rows = |rows: Value, truncated: bool| json!({"rows": rows, "truncated": truncated});
    let of_a = json!([{"site":"a","mm":1},{"site":"a","mm":5}]);
    assert_eq!(world.get_json("/apis/levels?site=a"), rows(of_a, true));
    let high = rows(json!([{"site":"a","mm":5},{"site":"a","mm":9}]), false);
    assert_eq!(world.get_json("/apis/levels?site=a&least=5"), high);
    let posted = world.post("/apis/levels", &json!({"site":"a","least":5}));
    assert_eq!((posted.status, posted.json()), (200, high));
    let injected = world.get_json("/apis/levels?site=a%27%20or%20%271%27=%271");
    assert_eq!(injected, rows(json!([]), false));
    for (path, status, code) in [
        ("/apis/levels", 400, "server.api-parameter-missing"),
        ("/apis/levels?site=a&least=x", 400, "server.api-parameter"),
        (
            "/apis/levels?site=a&most=1",
            400,
            "server.api-parameter-unknown",
        ),
        ("/apis/none", 404, "server.unknown-api"),
        ("/apis/double?n=1", 405, "server.method-not-allowed"),
    ] {
        let refused = world.get(path);
        assert_eq!((refused.status, &*refused.code()), (status, code), "{path}");
    }
    let list = world.get_json("/api/v1/apis");
    let levels = list["apis"]
        .as_array()
        .unwrap()
        .iter()
        .find(|api| api["name"] == "levels");
    let levels = levels.unwrap();
    let counts = ["in_flight", "answered_total", "refused_total"].map(|key| levels[key].clone());
    assert_eq!(counts, [0, 4, 3].map(Value::from), "{levels:#}");
    // The last call, and why one was refused.
    assert_eq!(levels["last_call"]["status"], 400, "{levels:#}");
    let failure = &levels["last_failure"];
    assert_eq!(failure["time"], levels["last_call"]["time"], "{levels:#}");
    assert_eq!(failure["error"]["code"], "server.api-parameter-unknown");
    assert_eq!(levels["methods"], json!(["GET", "POST"]));
    let site = json!({"name": "site", "type": "text", "required": true});
    assert_eq!(levels["parameters"][0], site);
    let metrics = world.get("/metrics").body;
    let line = r#"busbar_api_calls_total{api="levels",outcome="answered"} 4"#;
    assert!(metrics.contains(line), "{metrics}");
    let document = world.get_json("/apis/levels/openapi.json");
    let parameters = &document["paths"]["/apis/levels"]["get"]["parameters"];
    assert_eq!(parameters[0]["required"], true, "{document:#}");
}

#[test]
fn a_flow_answers_by_request_and_reply() {
    let world = World::new(FILES);
    for n in [4, -3] {
        let answer = world.post("/apis/double", &json!({"n": n}));
        assert_eq!(
            (answer.status, answer.json()),
            (200, json!({"twice": 2 * n}))
        );
    }
    // Nobody replies in time: the request is stored, and the caller learns what identifies it.
    let late = world.post("/apis/silent", &json!({"n": 7}));
    assert_eq!(late.status, 202, "{late:?}");
    let stored = world.sql("select payload from inbox where topic = 'silent/ask'");
    let payload: Value = serde_json::from_str(stored[0][0].as_str().unwrap()).unwrap();
    assert_eq!(payload, json!({"n": 7, "re": late.json()["request"]}));
    // A reply that says 202 by itself is not late.
    let busy = world.post("/apis/taken", &json!({"n": 1}));
    assert_eq!((busy.status, busy.json()), (202, json!({"code": 202})));
    let list = world.get_json("/api/v1/apis");
    let of = |name: &str| {
        let all = list["apis"].as_array().unwrap().iter();
        let one = all.clone().find(|one| one["name"] == name).unwrap();
        (one["answered_total"].clone(), one["late_total"].clone())
    };
    assert_eq!(of("taken"), (json!(1), json!(0)));
    assert_eq!(of("silent"), (json!(0), json!(1)));
}

#[test]
fn a_system_that_keeps_no_tags_replies_by_a_field_and_calls_are_bounded() {
    let world = World::new(FILES);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| world.post("/apis/slow", &json!({"n": 1})));
        let asked = loop {
            let rows = world.sql("select payload from inbox where topic = 'silent/ask'");
            if let Some(payload) = rows[0][0].as_str() {
                break serde_json::from_str::<Value>(payload).unwrap();
            }
            assert!(!asking.is_finished());
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        };
        // The one call that is allowed waits.
        let busy = world.post("/apis/slow", &json!({"n": 2}));
        assert_eq!((busy.status, &*busy.code()), (503, "server.api-busy"));
        // Another deployment does not lose the reply.
        world.save(FILES).unwrap();
        world.publish("double/told", json!({"re": "another", "x": 1}));
        world.publish("double/told", json!({"re": asked["re"], "x": 2}));
        let answer = asking.join().unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["x"], 2);
    });
}

#[test]
fn an_orchestration_answers_with_what_its_instance_gives() {
    let world = World::new(FILES);
    let call = || world.post("/apis/add", &json!({"id": "k", "n": 4}));
    for existed in [false, true] {
        let answer = call();
        let wanted = json!({
            "key": "k", "existed": existed, "status": "done", "answer": {"m": 5}, "failure": null,
        });
        assert_eq!((answer.status, answer.json()), (200, wanted));
    }
    // Whoever did not wait asks by the key.
    let later = world.get("/apis/add/answers/k");
    let wanted = json!({
        "key": "k", "existed": true, "status": "done", "answer": {"m": 5}, "failure": null,
    });
    assert_eq!((later.status, later.json()), (200, wanted));
    let none = world.get("/apis/add/answers/another");
    assert_eq!((none.status, &*none.code()), (404, "server.unknown-answer"));
}

#[test]
fn who_may_call_is_said_by_the_rules() {
    let (world, ann) = with_admin(FILES);
    let add = |name: &str, role: &str, rules: Value| {
        let new =
            json!({"name": name, "password": "a-good-password", "role": role, "rules": rules});
        let made = as_user(&world, "POST", "/api/v1/users", &ann, &new);
        assert_eq!(made.status, 201, "{made:?}");
        basic(name, "a-good-password")
    };
    let partner = add("partner", "device", json!({"call": ["api:double"]}));
    let viewer = add("eve", "viewer", json!({}));
    let narrow = add("nan", "operator", json!({"read": ["stream:asked"]}));
    let double = json!({"n": 1});
    for (who, path, body, status) in [
        (&partner, "/apis/double", &double, 200),
        (&partner, "/apis/add", &json!({"id": "k"}), 403),
        (&partner, "/apis/levels", &json!({"site": "a"}), 403),
        // Whether there is an API that one may not call is not told.
        (&partner, "/apis/none", &json!({}), 403),
        (&viewer, "/apis/levels", &json!({"site": "a"}), 200),
        (&viewer, "/apis/double", &double, 403),
        (&narrow, "/apis/levels", &json!({"site": "a"}), 403),
        (&narrow, "/apis/double", &double, 403),
    ] {
        let answer = as_user(&world, "POST", path, who, body);
        assert_eq!(answer.status, status, "{path}: {answer:?}");
    }
    // The reply to a request that nobody waits for any more is for those who may call its API, and found by no other one.
    let late = as_user(&world, "POST", "/apis/silent", &ann, &json!({"n": 1}));
    let id = late.json()["request"].as_str().unwrap().to_owned();
    let reply =
        json!({"topic": "double/told", "tags": {"busbar-request": id}, "payload": {"x": 3}});
    let told = as_user(&world, "POST", "/api/v1/events", &ann, &reply);
    assert_eq!((late.status, told.status), (202, 200), "{told:?}");
    for (who, api, status) in [
        (&ann, "silent", 200),
        (&partner, "silent", 403),
        (&partner, "double", 404),
        (&ann, "double", 404),
    ] {
        let place = format!("/apis/{api}/answers/{id}");
        let answer = as_user(&world, "GET", &place, who, &Value::Null);
        assert_eq!(answer.status, status, "{place}: {answer:?}");
    }
    // Topics, streams and what went wrong for others are for those who may read them.
    let shown = |who: &str| {
        let list = as_user(&world, "GET", "/api/v1/apis", who, &json!({})).json();
        let all = list["apis"].as_array().unwrap().clone();
        let one = all.into_iter().find(|one| one["name"] == "double").unwrap();
        ["topic", "reply", "last_failure"].map(|name| one.get(name).is_some())
    };
    let refused = as_user(&world, "POST", "/apis/double", &ann, &json!({"m": 1}));
    assert_eq!(refused.status, 400);
    assert_eq!(shown(&ann), [true; 3]);
    let reader = add(
        "rob",
        "operator",
        json!({"call": ["api:double"], "read": ["stream:told"]}),
    );
    assert_eq!(shown(&reader), [false, true, false]);
    // Nothing below /apis is open without a login.
    for path in [
        "/apis/double/answers/x",
        "/apis/levels?site=a",
        "/apis/levels/openapi.json",
        "/apis/none",
        "/apis/levels/other",
    ] {
        let refused = world.get(path);
        assert_eq!(
            (refused.status, &*refused.code()),
            (401, "access.login-needed"),
            "{path}"
        );
    }
}

#[test]
fn a_request_outlives_the_node_and_its_reply_is_read_from_the_stream() {
    let mut world = World::new(FILES);
    let late = world.post("/apis/silent", &json!({"n": 7}));
    assert_eq!(late.status, 202, "{late:?}");
    let id = late.json()["request"].as_str().unwrap().to_owned();
    let place = format!("/apis/silent/answers/{id}");
    assert_eq!(late.headers["location"], place);
    let none_yet = world.get(&place);
    assert_eq!(
        (none_yet.status, none_yet.json()),
        (202, json!({"request": id}))
    );
    world.restart();
    // The request is there after the restart, with what its reply is known by.
    let asked = world.sql("select tags['busbar-request'] from inbox where topic = 'silent/ask'");
    let id = late.json()["request"].clone();
    assert_eq!(asked, json!([[id]]));
    let reply =
        json!({"topic": "double/told", "tags": {"busbar-request": id}, "payload": {"x": 3}});
    assert_eq!(world.post("/api/v1/events", &reply).status, 200);
    let id = id.as_str().unwrap();
    let told = world.sql(&format!(
        "select payload from told where tags['busbar-request'] = '{id}'"
    ));
    assert_eq!(told, json!([["{\"x\":3}"]]));
    // The caller fetches it: the first one by its tag, and another request's by the field, among many events.
    let answer = world.get(&place);
    assert_eq!((answer.status, answer.json()), (200, json!({"x": 3})));
    let late = world.post("/apis/silent", &json!({"n": 8}));
    let other = late.json()["request"].clone();
    for n in 0..50 {
        world.publish("double/told", json!({"re": format!("{n}-1-2"), "x": n}));
    }
    world.publish("double/told", json!({"re": other, "x": 4}));
    world.publish("double/told", json!({"re": other, "x": 5}));
    let answer = world.get(&format!("/apis/silent/answers/{}", other.as_str().unwrap()));
    assert_eq!((answer.status, answer.json()["x"].clone()), (200, json!(4)));
    for id in ["x", "k'", &id[1..]] {
        let none = world.get(&format!("/apis/silent/answers/{id}"));
        assert_eq!((none.status, &*none.code()), (404, "server.unknown-answer"));
    }
    // A caller of the run that is now is not answered by it.
    let answer = world.post("/apis/double", &json!({"n": 8}));
    assert_eq!(answer.json(), json!({"twice": 16}));
}

#[test]
fn a_file_that_cannot_work_is_refused_with_its_place() {
    let world = World::new(FILES);
    let ask = "parameters: { n: int }\nrequest: { topic: silent/ask, reply: told";
    for (file, code) in [
        ("description: nothing\n".to_owned(), "catalog.api-one"),
        (
            "query: select 1\norchestration: add\n".to_owned(),
            "catalog.api-one",
        ),
        (
            "query: select * from levle\n".to_owned(),
            "sql.unknown-relation",
        ),
        (
            "query: select * from level where mm = $n\n".to_owned(),
            "sql.parameters-none",
        ),
        ("query: delete from level\n".to_owned(), "sql.read-only"),
        (
            "query: select 1\nwithin: 1s\n".to_owned(),
            "catalog.api-key",
        ),
        (
            "orchestration: ad\n".to_owned(),
            "catalog.unknown-orchestration",
        ),
        (format!("{ask}s }}\n"), "catalog.unknown-stream"),
        (format!("{ask}, key: m }}\n"), "catalog.api-no-parameter"),
        (format!("{ask}, id: n }}\n"), "catalog.api-id"),
        (format!("{ask}, reply_to: a/b }}\n"), "catalog.api-reply-to"),
        (format!("{ask} }}\nwithin: 6min\n"), "catalog.api-within"),
        // It would be its own reply.
        (
            "request: { topic: double/told, reply: told }\n".to_owned(),
            "catalog.api-topic",
        ),
    ] {
        let mut files: serde_json::Map<String, Value> = FILES
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).into()))
            .collect();
        files.insert("apis/wrong.yaml".to_owned(), file.clone().into());
        let answer = world.post("/api/v1/apply", &json!({"files": files, "dry_run": true}));
        assert_eq!(answer.status, 422, "{file}: {answer:?}");
        let found = &answer.json()["diagnostics"][0];
        let wanted = (Value::from("apis/wrong.yaml"), Value::from(code));
        let found = (found["file"].clone(), found["code"].clone());
        assert_eq!(found, wanted, "{file}: {answer:?}");
    }
}
