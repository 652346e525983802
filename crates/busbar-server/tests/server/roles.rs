//! Which role each route asks for, and what is open to everybody who is logged in.

use serde_json::{Value, json};

use crate::access::{STREAMS, as_user, basic, with_admin};
use crate::support::World;

const ROLES: [&str; 3] = ["viewer", "operator", "admin"];

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
        ("admin", "GET", "users", Value::Null),
        ("admin", "POST", "users", new),
        ("admin", "POST", "users/x", json!({"role":"viewer"})),
        ("admin", "DELETE", "users/x", Value::Null),
        ("viewer", "GET", "streams/meter/events", Value::Null),
        ("viewer", "GET", "tables", Value::Null),
        ("viewer", "GET", "dead-letters", Value::Null),
        ("viewer", "GET", "tokens", Value::Null),
        ("viewer", "POST", "sql", json!({"sql":"select 1"})),
    ];
    let rank = |role: &str| ROLES.iter().position(|known| *known == role);
    // The mightiest last: it takes the streams away.
    for role in ROLES {
        for (needed, method, path, body) in &routes {
            let path = format!("/api/v1/{path}");
            let answer = as_user(&world, method, &path, &basic(role, "a-good-password"), body);
            if rank(role) < rank(needed) {
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
