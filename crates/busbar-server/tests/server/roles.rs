//! Which role each route asks for, and what is open to everybody who is logged in.

use serde_json::{Value, json};

use crate::access::{STREAMS, as_user, basic, with_admin};
use crate::support::World;

const ROLES: [&str; 4] = ["device", "viewer", "operator", "admin"];

/// A node with a user of each role, called like it.
fn with_roles(files: &[(&str, &str)]) -> World {
    let (world, ann) = with_admin(files);
    for role in ROLES {
        let new = json!({"name":role,"password":"a-good-password","role":role});
        let made = as_user(&world, "POST", "/api/v1/users", &ann, &new);
        assert_eq!(made.status, 201, "{made:?}");
    }
    world
}

#[test]
fn each_route_asks_for_its_role() {
    let world = with_roles(STREAMS);
    let new = json!({"name":"new","password":"a-good-password","role":"viewer"});
    let routes = [
        (
            "operator",
            "POST",
            "events",
            json!({"topic":"a","payload":1}),
        ),
        ("operator", "POST", "dead-letters/redrive", json!({})),
        (
            "operator",
            "POST",
            "flows/x/replay",
            json!({"from":"earliest"}),
        ),
        ("operator", "POST", "flows/x/runs", json!({"into":"t"})),
        ("operator", "DELETE", "runs/7", Value::Null),
        ("operator", "POST", "flows/x/pause", json!({})),
        ("operator", "POST", "flows/x/resume", json!({})),
        (
            "operator",
            "POST",
            "apply",
            json!({"files":{},"dry_run":true}),
        ),
        ("operator", "GET", "project", Value::Null),
        ("admin", "POST", "apply", json!({"files":{}})),
        ("admin", "POST", "flows/x/rollback", json!({"version":1})),
        ("operator", "GET", "plugins/x", Value::Null),
        ("operator", "GET", "plugins/x/versions", Value::Null),
        ("admin", "PUT", "plugins/x", json!({"files":{}})),
        (
            "admin",
            "POST",
            "plugins/x/try",
            json!({"files":{},"stream":"meter"}),
        ),
        ("admin", "GET", "users", Value::Null),
        ("admin", "GET", "audit", Value::Null),
        ("admin", "POST", "users", new),
        ("admin", "POST", "users/x", json!({"role":"viewer"})),
        ("admin", "DELETE", "users/x", Value::Null),
        ("viewer", "GET", "streams/meter/events", Value::Null),
        ("viewer", "GET", "tables", Value::Null),
        ("viewer", "GET", "overview", Value::Null),
        ("viewer", "GET", "connections", Value::Null),
        ("viewer", "GET", "history", Value::Null),
        ("viewer", "GET", "dead-letters", Value::Null),
        ("viewer", "GET", "tokens", Value::Null),
        ("viewer", "POST", "sql", json!({"sql":"select 1"})),
    ];
    let rank = |role: &str| ROLES.iter().position(|known| *known == role);
    // A device publishes although it reads nothing.
    let allowed = |role: &str, needed: &str, path: &str| match (role, path) {
        ("device", "events" | "tokens") => true,
        _ => rank(role) >= rank(needed),
    };
    // The mightiest last: it takes the streams away.
    for role in ROLES {
        for (needed, method, path, body) in &routes {
            let may = allowed(role, needed, path);
            let path = format!("/api/v1/{path}");
            let answer = as_user(&world, method, &path, &basic(role, "a-good-password"), body);
            if !may {
                assert_eq!(
                    (answer.status, &*answer.code()),
                    (403, "access.role-needed"),
                    "{role} {method} {path} {body}"
                );
            } else {
                assert!(
                    ![401, 403].contains(&answer.status),
                    "{role} {method} {path} {body}: {answer:?}"
                );
            }
        }
    }
}

#[test]
fn users_change_their_own_password_and_nothing_else() {
    let world = with_roles(&[]);
    let login = json!({"user":"viewer","password":"a-good-password"});
    let answer = world.post("/api/v1/session", &login);
    let cookie = answer.headers["set-cookie"].split(';').next().unwrap();
    let headers = [("cookie", cookie), ("content-type", "application/json")];
    let change = |name: &str, body: Value| {
        let path = format!("/api/v1/users/{name}");
        let body = body.to_string();
        world
            .request("POST", &path, &headers, body.as_bytes())
            .status
    };
    let password = json!({"password":"another-password"});
    assert_eq!(change("operator", password.clone()), 403);
    assert_eq!(change("viewer", json!({"role":"admin"})), 403);
    assert_eq!(change("viewer", json!({"rules":{}})), 403);
    // A token that leaked must not become the account.
    let fresh = as_user(
        &world,
        "POST",
        "/api/v1/tokens",
        &basic("viewer", "a-good-password"),
        &json!({"name":"t"}),
    );
    let bearer = format!("Bearer {}", fresh.json()["token"].as_str().unwrap());
    let by_token = as_user(&world, "POST", "/api/v1/users/viewer", &bearer, &password);
    assert_eq!(by_token.status, 403);
    // A session that was left open does not change it: the password there is has to be known.
    assert_eq!(change("viewer", password), 403);
    let with = |current: &str| json!({"password":"another-password","current_password":current});
    assert_eq!(change("viewer", with("a-bad-password")), 401);
    assert_eq!(world.post("/api/v1/session", &login).status, 200);
    assert_eq!(change("viewer", with("a-good-password")), 200);
    assert_eq!(world.post("/api/v1/session", &login).status, 401);
}

#[test]
fn tokens_are_shown_to_their_user_and_to_admins() {
    let world = with_roles(&[]);
    let ask = |role: &str, method: &str, path: &str, body: &Value| {
        as_user(&world, method, path, &basic(role, "a-good-password"), body)
    };
    let fresh = ask("operator", "POST", "/api/v1/tokens", &json!({"name":"t"})).json();
    for (role, shown) in [("viewer", 0), ("operator", 1), ("admin", 1)] {
        let tokens = ask(role, "GET", "/api/v1/tokens", &Value::Null).json();
        assert_eq!(tokens["tokens"].as_array().unwrap().len(), shown, "{role}");
    }
    let bearer = format!("Bearer {}", fresh["token"].as_str().unwrap());
    let mut live = world.listen("/api/v1/live", &[("authorization", &bearer)]);
    let mut sse = world.listen("/api/v1/events", &[("authorization", &bearer)]);
    sse.greeting();
    let path = format!("/api/v1/tokens/{}", fresh["id"].as_str().unwrap());
    for (role, status) in [("viewer", 404), ("admin", 204)] {
        let answer = ask(role, "DELETE", &path, &Value::Null);
        assert_eq!(answer.status, status, "{role}");
    }
    // What is connected by it ends with it.
    let event = json!({"topic":"a","payload":1});
    ask("admin", "POST", "/api/v1/events", &event);
    assert!(sse.next().is_none());
    while live.next().is_some() {}
    let end = "1999-01-01T00:00:00Z";
    let past = ask(
        "viewer",
        "POST",
        "/api/v1/tokens",
        &json!({"name":"t","expires":end}),
    );
    assert_eq!(past.code(), "access.token-expired");
}

#[test]
fn a_restricted_token_does_not_administer() {
    let world = with_roles(STREAMS);
    let admin = basic("admin", "a-good-password");
    let token = |body: Value| {
        let made = as_user(&world, "POST", "/api/v1/tokens", &admin, &body);
        assert_eq!(made.status, 201, "{made:?}");
        format!("Bearer {}", made.json()["token"].as_str().unwrap())
    };
    let rules = json!({"publish":["meter/#"],"subscribe":["meter/#"],"read":["stream:meter"]});
    let restricted = token(json!({"name":"r","rules":rules}));
    let expiring = token(json!({"name":"e","expires":"2999-01-01T00:00:00Z"}));
    let new = json!({"name":"eve","password":"a-good-password","role":"admin"});
    let password = json!({"password":"another-password"});
    for (login, code) in [
        (&restricted, "access.role-needed"),
        (&expiring, "access.token-limited"),
    ] {
        for (method, path, body) in [
            ("GET", "/api/v1/users", &Value::Null),
            ("POST", "/api/v1/users", &new),
            ("POST", "/api/v1/users/viewer", &password),
            ("DELETE", "/api/v1/users/viewer", &Value::Null),
        ] {
            let answer = as_user(&world, method, path, login, body);
            assert_eq!(
                (answer.status, &*answer.code()),
                (403, code),
                "{method} {path}"
            );
        }
    }
    // A project reads and publishes anywhere.
    let apply = json!({"files":{}});
    for body in [&apply, &json!({"files":{},"dry_run":true})] {
        let answer = as_user(&world, "POST", "/api/v1/apply", &restricted, body);
        assert_eq!(answer.status, 403, "{answer:?}");
    }
    assert_eq!(
        as_user(&world, "GET", "/api/v1/audit", &restricted, &Value::Null).status,
        403
    );
    let answer = as_user(&world, "POST", "/api/v1/apply", &expiring, &apply);
    assert_eq!(answer.status, 200, "{answer:?}");
    // An admin has no rules, so no token of one has both.
    let widened = json!({"name":"w","role":"admin","rules":{"publish":["#"]}});
    let answer = as_user(&world, "POST", "/api/v1/tokens", &admin, &widened);
    assert_eq!(answer.code(), "access.admin-with-rules");
}

#[test]
fn a_new_user_is_a_viewer_and_the_first_one_an_admin() {
    let world = World::new(&[]);
    let first = world.post(
        "/api/v1/users",
        &json!({"name":"ann","password":"a-good-password"}),
    );
    assert_eq!(
        (first.status, &first.json()["role"]),
        (201, &json!("admin"))
    );
    let second = as_user(
        &world,
        "POST",
        "/api/v1/users",
        &basic("ann", "a-good-password"),
        &json!({"name":"bob","password":"a-good-password"}),
    );
    assert_eq!(
        (second.status, &second.json()["role"]),
        (201, &json!("viewer"))
    );
}

#[test]
fn nothing_is_described_that_may_not_be_read() {
    let files = [
        STREAMS[0],
        STREAMS[1],
        ("tables/seen.yaml", "hot: {}\nkey: [topic]\n"),
        ("tables/hidden.yaml", "hot: {}\nkey: [topic]\n"),
        (
            "flows/seen.yaml",
            "from: meter\nsteps:\n  - where: topic <> 'x'\nto:\n  - topic: out/x\n",
        ),
        (
            "flows/hidden.yaml",
            "from: rain\nsteps:\n  - where: topic <> 'x'\nto:\n  - topic: out/y\n",
        ),
    ];
    let (world, ann) = with_admin(&files);
    let rules = json!({"read":["stream:meter","table:seen"]});
    let new = json!({"name":"op","password":"a-good-password","role":"operator","rules":rules});
    let made = as_user(&world, "POST", "/api/v1/users", &ann, &new);
    assert_eq!(made.status, 201, "{made:?}");
    let op = basic("op", "a-good-password");
    let ask = |method: &str, path: &str, body: &Value| {
        as_user(&world, method, &format!("/api/v1/{path}"), &op, body)
    };
    let names = |path: &str, list: &str| {
        let answer = ask("GET", path, &Value::Null);
        let items = answer.json()[list].as_array().unwrap().clone();
        let names = items
            .iter()
            .map(|item| item["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names("streams", "streams"), ["meter"]);
    assert_eq!(names("tables", "tables"), ["seen"]);
    assert_eq!(names("flows", "flows"), ["seen"]);
    assert_eq!(names("overview", "streams"), ["meter"]);
    assert_eq!(names("overview", "flows"), ["seen"]);
    let rates = ask("GET", "rates", &Value::Null).json();
    assert_eq!(rates["streams"].as_object().unwrap().len(), 1, "{rates}");
    let mut live = world.listen("/api/v1/live", &[("authorization", &op)]);
    let live = live.next().unwrap();
    assert!(live.data.contains("\"meter\"") && live.data.contains("\"seen\""));
    assert!(
        !live.data.contains("rain") && !live.data.contains("hidden"),
        "{live:?}"
    );
    let project = ask("GET", "project", &Value::Null).json();
    let paths: Vec<&String> = project["files"].as_object().unwrap().keys().collect();
    assert_eq!(
        paths,
        ["flows/seen.yaml", "streams/meter.yaml", "tables/seen.yaml"]
    );
    // What exists and what does not is refused alike.
    for (method, path, body) in [
        ("GET", "streams/rain", Value::Null),
        ("GET", "streams/none", Value::Null),
        ("GET", "tables/hidden", Value::Null),
        ("GET", "tables/none", Value::Null),
        ("GET", "flows/hidden", Value::Null),
        ("GET", "flows/none", Value::Null),
        ("GET", "flows/hidden/versions", Value::Null),
        ("GET", "flows/hidden/diff?from=1&to=1", Value::Null),
        ("POST", "flows/hidden/pause", json!({})),
        ("POST", "flows/hidden/resume", json!({})),
        ("POST", "flows/hidden/replay", json!({"from":"earliest"})),
        ("POST", "flows/hidden/runs", json!({"into":"seen"})),
        ("POST", "flows/seen/runs", json!({"into":"hidden"})),
        ("GET", "flows/hidden/runs", Value::Null),
        ("POST", "flows/none/pause", json!({})),
        ("GET", "history", Value::Null),
        ("POST", "apply", json!({"files":{},"dry_run":true})),
    ] {
        let answer = ask(method, path, &body);
        assert_eq!(
            (answer.status, &*answer.code()),
            (403, "access.read-denied"),
            "{method} {path}"
        );
    }
    let metrics = as_user(&world, "GET", "/metrics", &op, &Value::Null);
    assert_eq!(metrics.code(), "access.read-denied");
    for path in ["streams/meter", "tables/seen", "flows/seen"] {
        assert_eq!(ask("GET", path, &Value::Null).status, 200, "{path}");
    }
    assert_eq!(ask("POST", "flows/seen/pause", &json!({})).status, 200);
    // A reader of one stream does not listen to the others.
    as_user(
        &world,
        "POST",
        "/api/v1/events",
        &ann,
        &json!([{"topic":"gauge/g/x","payload":"hidden"},{"topic":"meter/m/x","payload":"seen"}]),
    );
    let mut tap = world.listen(
        "/api/v1/events?filter=%23&from=earliest",
        &[("authorization", &op)],
    );
    assert_eq!(tap.next().unwrap().json()["payload"], "seen");
}

#[test]
fn changes_are_kept_with_their_author_and_without_secrets() {
    let world = with_roles(&[
        STREAMS[0],
        STREAMS[1],
        (
            "flows/f.yaml",
            "from: meter\nsteps:\n  - where: topic <> 'x'\nto:\n  - topic: out/x\n",
        ),
    ]);
    let admin = basic("admin", "a-good-password");
    let ask = |method: &str, path: &str, body: &Value| {
        let answer = as_user(&world, method, &format!("/api/v1/{path}"), &admin, body);
        assert!(answer.status < 300, "{method} {path}: {answer:?}");
        answer
    };
    let made = ask("POST", "tokens", &json!({"name":"ci","role":"viewer"})).json();
    let (id, token) = (
        made["id"].as_str().unwrap(),
        made["token"].as_str().unwrap(),
    );
    ask("DELETE", &format!("tokens/{id}"), &Value::Null);
    ask(
        "POST",
        "users/viewer",
        &json!({"password":"another-password","rules":{"read":["stream:meter"]}}),
    );
    ask("DELETE", "users/viewer", &Value::Null);
    ask("POST", "flows/f/pause", &json!({}));
    ask("POST", "flows/f/resume", &json!({}));
    ask("POST", "flows/f/replay", &json!({"from":"earliest"}));
    let files = json!({"streams/meter.yaml":"topics: meter/#\n"});
    ask("POST", "apply", &json!({"files":files,"dry_run":true}));
    ask("POST", "apply", &json!({"files":files,"note":"less"}));
    // What fails, or changes nothing, is no change.
    as_user(&world, "DELETE", "/api/v1/users/none", &admin, &Value::Null);
    ask("POST", "sql", &json!({"sql":"select 1"}));
    let audit = ask("GET", "audit?user=admin", &Value::Null);
    let entries = audit.json()["entries"].as_array().unwrap().clone();
    let seen: Vec<(&str, &str)> = entries
        .iter()
        .map(|e| (e["action"].as_str().unwrap(), e["target"].as_str().unwrap()))
        .collect();
    assert_eq!(
        seen,
        [
            ("project.apply", "2"),
            ("flow.replay", "f"),
            ("flow.resume", "f"),
            ("flow.pause", "f"),
            ("user.remove", "viewer"),
            ("user.change", "viewer"),
            ("token.remove", id),
            ("token.add", id),
        ]
    );
    assert_eq!(entries[0]["detail"]["note"], "less");
    assert_eq!(entries[0]["message"], "applied version 2 of the project");
    assert_eq!(entries[0]["origin"], "api");
    assert_eq!(entries[0]["peer"], "127.0.0.1");
    assert_eq!(entries[5]["detail"]["password"], "changed");
    for secret in ["a-good-password", "another-password", token] {
        assert!(!audit.body.contains(secret), "{audit:?}");
    }
    // Pages follow each other, and filters narrow them.
    let page = ask("GET", "audit?user=admin&limit=3", &Value::Null).json();
    assert_eq!(page["entries"].as_array().unwrap()[..], entries[..3]);
    let next = page["next"].as_str().unwrap();
    let page = ask(
        "GET",
        &format!("audit?user=admin&before={next}"),
        &Value::Null,
    )
    .json();
    assert_eq!(page["entries"].as_array().unwrap()[..], entries[3..]);
    assert_eq!(page["next"], Value::Null);
    let users = ask("GET", "audit?action=user&target=viewer", &Value::Null).json();
    let kinds: Vec<&Value> = users["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["action"])
        .collect();
    assert_eq!(kinds, ["user.remove", "user.change", "user.add"]);
    let user = |name: &str| users["entries"][2][name].clone();
    assert_eq!((user("user"), user("origin")), (json!("ann"), json!("api")));
    // A command says that it is one, a browser by its session; both survive a restart.
    let agent = ("user-agent", "busbar/0.1");
    let json = ("content-type", "application/json");
    let headers = [("authorization", &*admin), agent, json];
    world.request("POST", "/api/v1/tokens", &headers, b"{\"name\":\"t\"}");
    let mut world = world;
    let before = as_user(&world, "GET", "/api/v1/audit", &admin, &Value::Null).json();
    assert_eq!(before["entries"][0]["origin"], "cli");
    world.restart();
    let after = as_user(&world, "GET", "/api/v1/audit", &admin, &Value::Null).json();
    assert_eq!(before, after);
}
