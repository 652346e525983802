//! Who may do what over HTTP.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::{Answer, Socket, World};

pub const STREAMS: &[(&str, &str)] = &[
    ("streams/meter.yaml", "topics: meter/#\n"),
    ("streams/rain.yaml", "topics: gauge/#\n"),
];

pub fn as_user(world: &World, method: &str, path: &str, login: &str, body: &Value) -> Answer {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let json = ("content-type", "application/json");
    world.request(
        method,
        path,
        &[json, ("authorization", login)],
        body.as_bytes(),
    )
}

pub fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {text}")
}

pub fn with_admin(files: &[(&str, &str)]) -> (World, String) {
    let world = World::new(files);
    let new = json!({"name":"ann","password":"a-good-password","role":"admin"});
    let answer = world.post("/api/v1/users", &new);
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(!answer.body.contains("a-good-password"));
    (world, basic("ann", "a-good-password"))
}

#[test]
fn the_first_user_closes_the_door() {
    let world = World::new(&[]);
    let all = json!(["publish", "receive", "read", "operate", "administer"]);
    assert_eq!(
        world.get_json("/api/v1/session"),
        json!({"user":"local","role":"admin","rights":all,"restricted":false,"users":false})
    );
    let viewer = json!({"name":"v","password":"a-good-password","role":"viewer"});
    assert_eq!(
        world.post("/api/v1/users", &viewer).code(),
        "access.first-user-admin"
    );
    let weak = json!({"name":"v","password":"short","role":"admin"});
    assert_eq!(
        world.post("/api/v1/users", &weak).code(),
        "access.password-too-short"
    );
    let (world, ann) = with_admin(&[]);
    assert_eq!(
        world.get_json("/api/v1/session"),
        json!({"user":null,"role":null,"rights":[],"restricted":false,"users":true})
    );
    for (method, path) in [
        ("GET", "/api/v1/streams"),
        ("GET", "/api/v1/overview"),
        ("GET", "/api/v1/events"),
        ("GET", "/api/v1/ws"),
        ("GET", "/metrics"),
        ("POST", "/api/v1/events"),
        ("POST", "/api/v1/sql"),
        ("POST", "/api/v1/users"),
        ("POST", "/api/v1/apply"),
        ("DELETE", "/api/v1/users/ann"),
    ] {
        let answer = world.request(method, path, &[("content-type", "application/json")], b"{}");
        assert_eq!(
            (answer.status, answer.code()),
            (401, "access.login-needed".into()),
            "{method} {path}"
        );
    }
    for path in [
        "/",
        "/healthz",
        "/readyz",
        "/api/openapi.json",
        "/api/v1/messages/zh",
    ] {
        assert_eq!(world.get(path).status, 200, "{path}");
    }
    assert_eq!(
        as_user(&world, "GET", "/api/v1/streams", &ann, &Value::Null).status,
        200
    );
    let wrong = basic("ann", "wrong");
    assert_eq!(
        as_user(&world, "GET", "/api/v1/streams", &wrong, &Value::Null).code(),
        "access.refused"
    );
}

#[test]
fn guessing_is_slowed() {
    let (world, _) = with_admin(&[]);
    let mut codes = Vec::new();
    for _ in 0..8 {
        let answer = world.post("/api/v1/session", &json!({"user":"ann","password":"wrong"}));
        codes.push((answer.status, answer.code()));
        if answer.status == 429 {
            assert!(answer.headers["retry-after"].parse::<u32>().unwrap() > 0);
        }
    }
    assert_eq!(codes[0], (401, "access.refused".into()));
    assert_eq!(codes[7], (429, "access.too-many-attempts".into()));
}

#[test]
fn a_session_is_a_cookie_that_scripts_cannot_read() {
    let (mut world, _) = with_admin(&[]);
    let answer = world.post(
        "/api/v1/session",
        &json!({"user":"ann","password":"a-good-password"}),
    );
    assert_eq!(answer.status, 200, "{answer:?}");
    let session = answer.json();
    assert_eq!(
        (&session["user"], &session["role"], &session["users"]),
        (&json!("ann"), &json!("admin"), &json!(true))
    );
    let cookie = answer.headers["set-cookie"].clone();
    assert!(
        cookie.contains("HttpOnly")
            && cookie.contains("SameSite=Strict")
            && cookie.contains("Path=/")
    );
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let get = |world: &World| world.request("GET", "/api/v1/users", &[("cookie", &cookie)], b"");
    assert_eq!(get(&world).status, 200);
    world.restart();
    assert_eq!(get(&world).status, 200, "sessions survive a restart");
    let origin = ("origin", "http://evil.example");
    let headers = [
        ("cookie", &*cookie),
        origin,
        ("content-type", "application/json"),
    ];
    let forged = world.request(
        "POST",
        "/api/v1/events",
        &headers,
        b"{\"topic\":\"a\",\"payload\":1}",
    );
    assert_eq!(
        (forged.status, forged.code()),
        (403, "server.foreign-origin".into())
    );
    let out = world.request("DELETE", "/api/v1/session", &[("cookie", &cookie)], b"");
    assert_eq!(out.status, 204);
    assert!(out.headers["set-cookie"].contains("Max-Age=0"), "{out:?}");
    assert_eq!(get(&world).status, 401);
}

#[test]
fn other_sites_cannot_reach_a_node_without_users() {
    let world = World::new(&[]);
    for host in ["evil.example", "evil.example:8080"] {
        let answer = world.request("GET", "/api/v1/streams", &[("host", host)], b"");
        assert_eq!(
            (answer.status, answer.code()),
            (403, "server.foreign-host".into())
        );
    }
    let answer = world.request("GET", "/api/v1/streams", &[("host", "localhost:1")], b"");
    assert_eq!(answer.status, 200);
    let foreign = [
        ("origin", "http://evil.example"),
        ("content-type", "application/json"),
    ];
    assert_eq!(
        world
            .request("POST", "/api/v1/events", &foreign, b"{}")
            .status,
        403
    );
    let cross = [
        ("sec-fetch-site", "cross-site"),
        ("content-type", "application/json"),
    ];
    assert_eq!(
        world
            .request("POST", "/api/v1/flows/x/pause", &cross, b"{}")
            .status,
        403
    );
}

#[test]
fn a_token_is_shown_once_and_can_be_revoked() {
    let (world, ann) = with_admin(&[]);
    let made = as_user(
        &world,
        "POST",
        "/api/v1/tokens",
        &ann,
        &json!({"name":"ci","role":"operator"}),
    );
    assert_eq!(made.status, 201, "{made:?}");
    let (token, id) = (made.json()["token"].clone(), made.json()["id"].clone());
    let token = token.as_str().unwrap().to_owned();
    let bearer = format!("Bearer {token}");
    let event = json!({"topic":"a","payload":1});
    assert_eq!(
        as_user(&world, "POST", "/api/v1/events", &bearer, &event).status,
        200
    );
    assert_eq!(
        as_user(&world, "GET", "/api/v1/users", &bearer, &Value::Null).status,
        403
    );
    let listed = as_user(&world, "GET", "/api/v1/tokens", &ann, &Value::Null);
    assert_eq!(listed.json()["tokens"][0]["name"], "ci");
    assert!(!listed.body.contains(&token));
    let gone = as_user(
        &world,
        "DELETE",
        &format!("/api/v1/tokens/{}", id.as_str().unwrap()),
        &ann,
        &Value::Null,
    );
    assert_eq!(gone.status, 204);
    assert_eq!(
        as_user(&world, "POST", "/api/v1/events", &bearer, &event).status,
        401
    );
    let bad = json!({"name":"x","expires":"tomorrow"});
    assert_eq!(
        as_user(&world, "POST", "/api/v1/tokens", &ann, &bad).code(),
        "server.bad-field"
    );
}

#[test]
fn rules_narrow_what_a_user_may_do() {
    let (world, ann) = with_admin(STREAMS);
    let device = json!({"name":"device","password":"a-good-password","role":"operator","rules":{
        "publish":["meter/d1/+"],"subscribe":["meter/#"],"read":["stream:meter"]}});
    assert_eq!(
        as_user(&world, "POST", "/api/v1/users", &ann, &device).status,
        201
    );
    let viewer = json!({"name":"viewer","password":"a-good-password","role":"viewer"});
    assert_eq!(
        as_user(&world, "POST", "/api/v1/users", &ann, &viewer).status,
        201
    );
    let device = basic("device", "a-good-password");
    let events = json!([{"topic":"meter/d1/x","payload":1},{"topic":"meter/d2/x","payload":2}]);
    let answer = as_user(&world, "POST", "/api/v1/events", &device, &events);
    assert_eq!(
        (answer.status, &answer.json()["accepted"]),
        (200, &json!(1))
    );
    assert_eq!(
        answer.json()["rejected"][0]["code"],
        "access.publish-denied"
    );
    let none = as_user(
        &world,
        "POST",
        "/api/v1/events",
        &device,
        &json!({"topic":"x","payload":1}),
    );
    assert_eq!(
        (none.status, none.code()),
        (403, "access.publish-denied".into())
    );
    let get = |login: &str, path: &str| as_user(&world, "GET", path, login, &Value::Null);
    assert_eq!(get(&device, "/api/v1/streams/meter/events").status, 200);
    assert_eq!(
        get(&device, "/api/v1/streams/rain/events").code(),
        "access.read-denied"
    );
    assert_eq!(
        get(&device, "/api/v1/events?filter=gauge/%23").code(),
        "access.subscribe-denied"
    );
    // SQL sees what may be read, and nothing else: not by name, not in lists, not in hints.
    let ask = |sql: &str| {
        as_user(
            &world,
            "POST",
            "/api/v1/sql",
            &device,
            &json!({ "sql": sql }),
        )
    };
    assert_eq!(ask("select count(*) from meter").status, 200);
    for query in [
        "select * from rain",
        "select * from meter m join rain r on m.topic = r.topic",
        "select (select count(*) from rain) from meter",
        "with x as (select * from rain) select * from x",
        "explain select * from rain",
        "describe rain",
        "select * from no_such_stream",
    ] {
        let answer = ask(query);
        assert_eq!(
            (answer.status, answer.code()),
            (403, "access.read-denied".into()),
            "{query}"
        );
    }
    let tables = ask("show tables").json();
    let names: Vec<_> = tables["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row[0].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["meter"]);
    as_user(
        &world,
        "POST",
        "/api/v1/events",
        &ann,
        &json!([
        {"topic":"gauge/g/x","payload":"secret"},{"topic":"meter/d9/x","payload":"seen"}]),
    );
    let mut sse = world.listen(
        "/api/v1/events?from=earliest",
        &[("authorization", &device)],
    );
    assert_eq!(sse.next().unwrap().json()["payload"], 1);
    assert_eq!(sse.next().unwrap().json()["payload"], "seen");
    let topics = get(&device, "/api/v1/topics?all=true").json();
    assert_eq!(topics["topics"].as_array().unwrap().len(), 2, "{topics}");
    assert_eq!(
        get(&device, "/api/v1/topics?filter=gauge/%23").code(),
        "access.subscribe-denied"
    );
    let viewer = basic("viewer", "a-good-password");
    let answer = as_user(
        &world,
        "POST",
        "/api/v1/events",
        &viewer,
        &json!({"topic":"x","payload":1}),
    );
    assert_eq!(
        (answer.status, answer.code()),
        (403, "access.role-needed".into())
    );
    assert_eq!(
        as_user(
            &world,
            "POST",
            "/api/v1/apply",
            &viewer,
            &json!({"files":{}})
        )
        .status,
        403
    );
    assert_eq!(get(&viewer, "/api/v1/streams").status, 200);
    // A live reader whose user goes is cut off.
    let gone = as_user(&world, "DELETE", "/api/v1/users/device", &ann, &Value::Null);
    assert_eq!(gone.status, 204);
    as_user(
        &world,
        "POST",
        "/api/v1/events",
        &ann,
        &json!({"topic":"meter/d1/x","payload":"late"}),
    );
    assert!(sse.next().is_none());
}

#[test]
fn mqtt_needs_a_login_too() {
    use std::io::{Read, Write};
    let (world, _) = with_admin(&[]);
    let mut stream = std::net::TcpStream::connect(world.mqtt).unwrap();
    stream
        .set_read_timeout(Some(crate::support::PATIENCE))
        .unwrap();
    stream
        .write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c")
        .unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0x20, 0x02, 0x00, 0x05], "not authorised");
}

#[test]
fn what_is_connected_by_a_session_ends_with_it() {
    let (world, ann) = with_admin(&[]);
    let login = json!({"user":"ann","password":"a-good-password"});
    let answer = world.post("/api/v1/session", &login);
    let cookie = answer.headers["set-cookie"]
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let mut sse = world.listen("/api/v1/events", &[("cookie", &cookie)]);
    let mut live = world.listen("/api/v1/live", &[("cookie", &cookie)]);
    let mut socket = Socket::open(&world, &[("cookie", &cookie)]).unwrap();
    socket.send(json!({"op":"subscribe","id":1}));
    assert_eq!(socket.next()["op"], "ack");
    let mut by_password = world.listen("/api/v1/events", &[("authorization", &ann)]);
    let publish = |payload: &str| {
        let event = json!({"topic":"a","payload":payload});
        assert_eq!(
            as_user(&world, "POST", "/api/v1/events", &ann, &event).status,
            200
        );
    };
    publish("before");
    assert_eq!(sse.next().unwrap().json()["payload"], "before");
    assert_eq!(socket.next()["payload"], "before");
    assert_eq!(by_password.next().unwrap().json()["payload"], "before");
    let out = world.request("DELETE", "/api/v1/session", &[("cookie", &cookie)], b"");
    assert_eq!(out.status, 204);
    publish("after");
    assert!(sse.next().is_none());
    while live.next().is_some() {}
    match socket.0.read() {
        Ok(Message::Close(Some(frame))) => assert_eq!(frame.code, CloseCode::Policy),
        other => panic!("{other:?}"),
    }
    assert_eq!(by_password.next().unwrap().json()["payload"], "after");
    // Whoever logs in anew gets a session that nobody knew before.
    let again = world.post("/api/v1/session", &login);
    assert_ne!(
        again.headers["set-cookie"].split(';').next().unwrap(),
        cookie
    );
    // A new password ends what the old one let in.
    let change = json!({"password":"another-password"});
    assert_eq!(
        as_user(&world, "POST", "/api/v1/users/ann", &ann, &change).status,
        200
    );
    let event = json!({"topic":"a","payload":"late"});
    let ann = basic("ann", "another-password");
    assert_eq!(
        as_user(&world, "POST", "/api/v1/events", &ann, &event).status,
        200
    );
    assert!(by_password.next().is_none());
}

#[test]
fn dead_letters_are_shown_to_those_who_may_read_their_stream() {
    let (world, ann) = with_admin(&[
        (
            "streams/meter.yaml",
            "topics: meter/#\nformat: json\nschema:\n  kw: float\n",
        ),
        ("streams/rain.yaml", "topics: gauge/#\n"),
        (
            "flows/f.yaml",
            "from: meter\nsteps:\n  - where: kw > 1\nto:\n  - topic: out/x\n",
        ),
    ]);
    for (name, stream) in [("may", "stream:meter"), ("may-not", "stream:rain")] {
        let new = json!({"name":name,"password":"a-good-password","role":"viewer","rules":{"read":[stream]}});
        assert_eq!(
            as_user(&world, "POST", "/api/v1/users", &ann, &new).status,
            201
        );
    }
    let event = json!({"topic":"meter/1","payload":{"kw":"a secret"}});
    assert_eq!(
        as_user(&world, "POST", "/api/v1/events", &ann, &event).status,
        200
    );
    let get = |login: &str, path: &str| as_user(&world, "GET", path, login, &Value::Null);
    let begun = std::time::Instant::now();
    while get(&ann, "/api/v1/dead-letters/groups").json()["groups"] == json!([]) {
        assert!(begun.elapsed() < crate::support::PATIENCE);
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    for (name, shown) in [("may", true), ("may-not", false)] {
        let login = basic(name, "a-good-password");
        for (path, list) in [
            ("/api/v1/dead-letters/groups", "groups"),
            ("/api/v1/dead-letters", "letters"),
        ] {
            let answer = get(&login, path).json();
            assert_eq!(answer[list] != json!([]), shown, "{name} {path}: {answer}");
        }
        let one = get(&login, "/api/v1/dead-letters/0").status;
        assert_eq!(one, if shown { 200 } else { 404 }, "{name}");
    }
}
