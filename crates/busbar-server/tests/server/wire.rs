//! HTTP by the byte: what is asked badly, slowly or too large.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::json;

use crate::support::{PATIENCE, World, config};

/// A connection on which anything can be said.
struct Wire(TcpStream);

impl Wire {
    fn open(world: &World) -> Wire {
        let stream = TcpStream::connect(world.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Wire(stream)
    }

    fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
    }

    /// What comes until `enough`, or until the node hangs up.
    fn hear(&mut self, enough: impl Fn(&str) -> bool) -> String {
        let (mut heard, mut some) = (Vec::new(), [0; 4096]);
        loop {
            let text = String::from_utf8_lossy(&heard).into_owned();
            if enough(&text) {
                return text;
            }
            match self.0.read(&mut some) {
                Ok(0) => return text,
                Ok(read) => heard.extend_from_slice(&some[..read]),
                Err(why) => panic!("{why} after {text:?}"),
            }
        }
    }
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[test]
fn slow_senders_wait_for_themselves_alone() {
    let mut config = config();
    config.http.requests = 2;
    let world = World::with(config, &[]);
    let slow: Vec<Wire> = (0..8)
        .map(|n| {
            let path = ["/api/v1/session", "/api/v1/events"][n % 2];
            let mut wire = Wire::open(&world);
            wire.say(format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                 content-length: 1000\r\n\r\n{{"
            ));
            wire
        })
        .collect();
    // Each of these is answered after the ones before were taken in as far as they go.
    for _ in 0..3 {
        assert_eq!(world.get("/healthz").status, 200);
        world.publish("a/b", json!(1));
    }
    drop(slow);
}

#[test]
fn who_is_not_logged_in_sends_little() {
    let world = World::new(&[]);
    let new = json!({"name":"ann","password":"a-good-password","role":"admin"});
    assert_eq!(world.post("/api/v1/users", &new).status, 201);
    let long = "x".repeat(busbar_server::limits::OPEN_BODY_BYTES_MAX);
    let answer = world.post(
        "/api/v1/session",
        &json!({ "user": "ann", "password": long }),
    );
    assert_eq!(
        (answer.status, answer.code()),
        (413, "server.body-too-large".into())
    );
    let answer = world.post("/api/v1/events", &json!({ "topic": "a", "payload": long }));
    assert_eq!(
        (answer.status, answer.code()),
        (401, "access.login-needed".into())
    );
}

#[test]
fn who_sends_too_much_hears_why() {
    let world = World::new(&[]);
    // Nobody who sends without listening is cut off before the answer.
    let much = vec![b'x'; 40 << 20];
    let raw = [("content-type", "application/octet-stream")];
    let answer = world.request("POST", "/api/v1/events?topic=a", &raw, &much);
    assert_eq!(
        (answer.status, answer.code()),
        (413, "server.body-too-large".into())
    );
    let foreign = [raw[0], ("origin", "http://evil.example")];
    let answer = world.request("POST", "/api/v1/events?topic=a", &foreign, &much);
    assert_eq!(answer.status, 403);
    // It could send all of it, for not every system hands out an answer that a broken connection left.
    let mut wire = Wire::open(&world);
    wire.say(format!(
        "POST /api/v1/events?topic=a HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
        much.len()
    ));
    wire.say(&much);
    let heard = wire.hear(|text| text.contains("\r\n\r\n"));
    assert!(heard.starts_with("HTTP/1.1 413 "), "{heard}");
    // Who asks first need not send at all.
    let mut wire = Wire::open(&world);
    wire.say(
        "POST /api/v1/events?topic=a HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n\
         content-type: application/octet-stream\r\ncontent-length: 40000000\r\n\r\n",
    );
    let heard = wire.hear(|text| text.contains("\r\n\r\n"));
    assert!(heard.starts_with("HTTP/1.1 413 "), "{heard}");
    let mut wire = Wire::open(&world);
    wire.say(
        "POST /api/v1/events?topic=a HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n\
         content-type: application/octet-stream\r\ncontent-length: 2\r\n\r\n",
    );
    let heard = wire.hear(|text| text.contains("\r\n\r\n"));
    assert!(heard.starts_with("HTTP/1.1 100 "), "{heard}");
    wire.say("ab");
    let heard = wire.hear(|text| text.contains("accepted"));
    assert!(heard.contains("\"accepted\":1"), "{heard}");
}

#[test]
fn a_body_comes_whole_in_chunks_or_compressed_or_not_at_all() {
    let world = World::new(&[]);
    let chunked = |body: &str| {
        let mut wire = Wire::open(&world);
        wire.say(format!(
            "POST /api/v1/events?topic=a/b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n{body}"
        ));
        wire.hear(|_| false)
    };
    let heard = chunked("3\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n");
    assert!(heard.contains("\"accepted\":2"), "{heard}");
    let heard = chunked("3\r\n[1,\r\nzz\r\n");
    assert!(heard.starts_with("HTTP/1.1 400 "), "{heard}");
    assert!(heard.contains("server.body-broken"), "{heard}");
    assert_eq!(world.sql("select count(*) from inbox"), json!([[2]]));

    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder
        .write_all(b"{\"topic\":\"a/c\",\"payload\":3}")
        .unwrap();
    let body = encoder.finish().unwrap();
    let send = |encoding| {
        let headers = [JSON, ("content-encoding", encoding)];
        world.request("POST", "/api/v1/events", &headers, &body)
    };
    assert_eq!(send("gzip").json()["accepted"], 1);
    let refused = send("br");
    assert_eq!(
        (refused.status, refused.code()),
        (415, "server.content-encoding".into())
    );
    assert_eq!(refused.headers["accept-encoding"], "gzip");
}

#[test]
fn requests_that_are_not_well_formed_are_refused_in_words() {
    let world = World::new(&[]);
    for hosts in ["", "host: localhost\r\nhost: localhost\r\n"] {
        let mut wire = Wire::open(&world);
        wire.say(format!("GET /healthz HTTP/1.1\r\n{hosts}\r\n"));
        let heard = wire.hear(|text| text.contains('}'));
        assert!(heard.starts_with("HTTP/1.1 400 "), "{heard}");
        assert!(heard.contains("server.no-host"), "{heard}");
    }
    let mut wire = Wire::open(&world);
    wire.say("GET /healthz HTTP/1.0\r\nhost: localhost\r\n\r\n");
    let heard = wire.hear(|_| false);
    assert!(
        heard.contains(" 200 OK") && heard.ends_with("{\"status\":\"ok\"}"),
        "{heard}"
    );
    let answer = world.get("/api/v1/streams/%ff");
    assert_eq!(
        (answer.status, answer.code()),
        (400, "server.bad-path".into())
    );
    let answer = world.post("/api/v1/nonsense", &json!({}));
    assert_eq!(
        (answer.status, answer.code()),
        (404, "server.unknown-route".into())
    );
    for (path, allowed) in [
        ("/", "GET, HEAD"),
        ("/api/v1/sql", "POST"),
        ("/healthz", "GET,HEAD"),
    ] {
        let answer = world.request("PUT", path, &[JSON], b"{}");
        assert_eq!(
            (answer.status, answer.code()),
            (405, "server.method-not-allowed".into()),
            "{path}"
        );
        assert_eq!(answer.headers["allow"], allowed, "{path}");
    }
    // Fields in a list are not taken by their order.
    let user =
        json!({"name":"v","password":"a-good-password","role":"admin","rules":[null,null,null]});
    for body in [json!(["v", "a-good-password", "admin", {}]), user] {
        let answer = world.post("/api/v1/users", &body);
        assert_eq!(
            (answer.status, answer.code()),
            (400, "server.wrong-type".into())
        );
    }
    // Pages of other sites are promised nothing.
    let asked = [
        ("origin", "http://evil.example"),
        ("access-control-request-method", "POST"),
    ];
    let answer = world.request("OPTIONS", "/api/v1/events", &asked, b"");
    assert_eq!(answer.status, 403);
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
    let answer = world.get("/api/v1/ws");
    assert_eq!(
        (answer.status, &*answer.headers["upgrade"]),
        (426, "websocket")
    );
}

#[test]
fn requests_in_a_row_are_answered_in_their_order() {
    let world = World::new(&[]);
    let mut wire = Wire::open(&world);
    wire.say(
        "HEAD /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n\
         GET /api/v1/nonsense HTTP/1.1\r\nhost: localhost\r\n\r\n\
         POST /api/v1/events?topic=a HTTP/1.1\r\nhost: localhost\r\n\
         content-type: application/json\r\ncontent-length: 1\r\n\r\n7\
         GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    );
    let heard = wire.hear(|_| false);
    let statuses: Vec<&str> = heard
        .match_indices("HTTP/1.1 ")
        .map(|(at, _)| &heard[at + 9..at + 12])
        .collect();
    assert_eq!(statuses, ["200", "404", "200", "200"], "{heard}");
    assert!(
        !heard.contains("\r\n\r\n{\"status\":\"ok\"}HTTP"),
        "HEAD has no body: {heard}"
    );
    assert!(
        heard.ends_with("{\"status\":\"ok\",\"writable\":true}"),
        "{heard}"
    );
}

#[test]
fn a_long_head_and_a_coding_that_is_not_known_are_refused() {
    let world = World::new(&[]);
    for bytes in [20 << 10, 40 << 10] {
        let mut wire = Wire::open(&world);
        let long = "x".repeat(bytes);
        wire.say(format!(
            "GET /healthz HTTP/1.1\r\nhost: localhost\r\nlong: {long}\r\n\r\n"
        ));
        let heard = wire.hear(|text| text.contains('}'));
        let expected = if bytes > 32 << 10 {
            "HTTP/1.1 431 "
        } else {
            "HTTP/1.1 200 "
        };
        assert!(heard.starts_with(expected), "{heard}");
    }
    let mut wire = Wire::open(&world);
    wire.say(
        "POST /api/v1/events?topic=a HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         transfer-encoding: gzip, chunked\r\n\r\n1\r\n7\r\n0\r\n\r\n",
    );
    let heard = wire.hear(|_| false);
    assert!(heard.starts_with("HTTP/1.1 501 "), "{heard}");
    assert!(heard.contains("server.transfer-encoding"), "{heard}");
    assert_eq!(world.sql("select count(*) from inbox"), json!([[0]]));
}

#[test]
fn connections_that_wait_keep_nobody_out() {
    let mut few = crate::support::config();
    few.limits.connections = 8;
    let world = World::with(few, &[]);
    let mut idle: Vec<TcpStream> = Vec::new();
    for _ in 0..40 {
        idle.push(TcpStream::connect(world.http).unwrap());
        assert_eq!(world.get("/healthz").status, 200);
    }
    // A request that is being answered is not cut off for others.
    let mut events = world.listen("/api/v1/events?filter=a", &[]);
    events.greeting();
    for _ in 0..20 {
        idle.push(TcpStream::connect(world.http).unwrap());
        assert_eq!(world.get("/readyz").status, 200);
    }
    world.publish("a", json!(1));
    assert_eq!(events.next().unwrap().kind, "event");
}

#[test]
fn rights_are_asked_before_a_body_is_read() {
    let (world, admin) = crate::access::with_admin(&[]);
    let viewer = json!({"name":"v","password":"a-good-password","role":"viewer"});
    let made = crate::access::as_user(&world, "POST", "/api/v1/users", &admin, &viewer);
    assert_eq!(made.status, 201, "{made:?}");
    let login = crate::access::basic("v", "a-good-password");
    for path in ["/api/v1/events", "/api/v1/apply"] {
        // Would be refused as not being gzip if it were looked at.
        let headers = [
            JSON,
            ("content-encoding", "gzip"),
            ("authorization", &*login),
        ];
        let answer = world.request("POST", path, &headers, b"not gzip");
        assert_eq!(
            (answer.status, answer.code()),
            (403, "access.role-needed".into()),
            "{path}"
        );
    }
    // What a viewer may ask is short.
    let headers = [JSON, ("authorization", &*login)];
    let long = vec![b' '; 2 << 20];
    let answer = world.request("POST", "/api/v1/sql", &headers, &long);
    assert_eq!(
        (answer.status, answer.code()),
        (413, "server.body-too-large".into())
    );
}

#[test]
fn pings_that_are_not_read_hold_up_who_sends_them() {
    use tokio_tungstenite::tungstenite::{Message as Frame, protocol::WebSocketConfig};
    let world = World::new(&[]);
    let mut socket = crate::support::Socket::open(&world, &[]).unwrap();
    let stream = socket.0.get_ref();
    stream
        .set_write_timeout(Some(std::time::Duration::from_secs(3)))
        .unwrap();
    socket
        .0
        .set_config(|config: &mut WebSocketConfig| config.max_write_buffer_size = 1 << 20);
    // More than sockets of the operating system hold, by far.
    let mut held_up = false;
    for _ in 0..1_000_000 {
        if socket.0.send(Frame::Ping(vec![7; 125].into())).is_err() {
            held_up = true;
            break;
        }
    }
    assert!(
        held_up,
        "125 MB of pings were taken although no answer was read"
    );
}
