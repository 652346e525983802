//! Subscribing by server-sent events and over a WebSocket.

use std::net::TcpStream;

use crate::support::{PATIENCE, Socket, World};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest as _};

#[test]
fn events_come_in_order_and_a_reader_resumes_where_it_was() {
    let world = World::new(&[]);
    let mut sse = world.listen("/api/v1/events?filter=a/%2B", &[]);
    for n in 0..20 {
        world.publish(if n % 2 == 0 { "a/x" } else { "b/x" }, json!({ "n": n }));
    }
    let mut last = String::new();
    for n in [0, 2, 4, 6] {
        let message = sse.next().unwrap();
        assert_eq!(message.kind, "event");
        assert_eq!(message.json()["payload"]["n"], n);
        last = message.id;
    }
    drop(sse);
    // A browser asks for the same address again, with all that it says.
    let mut again = world.listen(
        "/api/v1/events?filter=a/%2B&from=earliest",
        &[("last-event-id", &last)],
    );
    for n in (8..20).step_by(2) {
        assert_eq!(again.next().unwrap().json()["payload"]["n"], n);
    }
    world.publish("a/x", json!({ "n": 20 }));
    assert_eq!(again.next().unwrap().json()["payload"]["n"], 20);
}

#[test]
fn a_reader_may_ask_for_topics_in_another_spelling() {
    let world = World::new(&[]);
    let read = |filter: &str| {
        let path = format!("/api/v1/events?filter={filter}&from=earliest");
        let message = world.listen(&path, &[]).next().unwrap();
        message.json()["topic"].as_str().unwrap().to_owned()
    };
    world.publish("gauge/g7/rain", json!(1));
    world.publish("gauge_x/g8/rain", json!(2));
    assert_eq!(read("$as/_/gauge/%2B/rain"), "gauge_g7_rain");
    assert_eq!(read("$as/*/gauge/%2B/rain"), "gauge*g7*rain");
    assert_eq!(read("gauge/%2B/rain"), "gauge/g7/rain");
    // It has the separator within a level, so it cannot be written so.
    assert_eq!(read("$as/_/gauge_x/%2B/rain"), "gauge_x/g8/rain");
}

#[test]
fn a_reader_begins_where_it_asks_to() {
    let world = World::new(&[
        ("streams/a.yaml", "topics: a/#\n"),
        ("streams/b.yaml", "topics: b/#\n"),
    ]);
    for n in 0..10 {
        world.publish("a/x", json!(n));
        world.publish("b/x", json!(100 + n));
    }
    let read = |query: &str, count: usize| -> Vec<i64> {
        let mut sse = world.listen(&format!("/api/v1/events?{query}"), &[]);
        (0..count)
            .map(|_| sse.next().unwrap().json()["payload"].as_i64().unwrap())
            .collect()
    };
    assert_eq!(
        read("stream=a&from=earliest", 10),
        (0..10).collect::<Vec<_>>()
    );
    assert_eq!(read("filter=b/%23&from=last:2", 2), [108, 109]);
    assert_eq!(read("stream=a&from=7", 3), [7, 8, 9]);
    assert_eq!(read("stream=a&from=-1", 1), [9]);
    let mut both = read("from=last:4", 4);
    both.sort_unstable();
    assert_eq!(both, [8, 9, 108, 109]);
    assert_eq!(world.get("/api/v1/events?stream=none").status, 404);
    assert_eq!(world.get("/api/v1/events?filter=a/%23/b").status, 400);
    assert_eq!(world.get("/api/v1/events?from=x").code(), "server.bad-from");
}

#[test]
fn a_reader_is_told_what_cannot_be_read() {
    let mut world = World::new(&[("streams/meter.yaml", "topics: meter/#\n")]);
    for payload in ["before", "to-be-damaged", "after"] {
        world.publish("meter/m1", json!(payload));
    }
    world.stop();
    let folder = world.folder.path().join("data/streams/meter/0");
    let log = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|ending| ending == "log"))
        .unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    let place = bytes.windows(13).position(|part| part == b"to-be-damaged");
    bytes[place.unwrap()] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    world.restart();
    let mut sse = world.listen("/api/v1/events?stream=meter&from=earliest", &[]);
    let mut socket = Socket::open(&world, &[]).unwrap();
    socket.send(json!({"op":"subscribe","id":1,"stream":"meter","from":"earliest"}));
    assert_eq!(socket.next()["op"], "ack");
    assert_eq!(sse.next().unwrap().json()["payload"], "before");
    assert_eq!(socket.next()["payload"], "before");
    let gap = sse.next().unwrap();
    assert_eq!(gap.kind, "gap");
    let told = gap.json();
    assert_eq!((&told["from"], &told["resume"]), (&json!(1), &json!(2)));
    let frame = socket.next();
    assert_eq!((&frame["op"], &frame["gap"]), (&json!("gap"), &told));
    assert_eq!(sse.next().unwrap().json()["payload"], "after");
    assert_eq!(socket.next()["payload"], "after");
}

#[test]
fn a_slow_reader_lags_and_loses_nothing() {
    let world = World::new(&[]);
    let mut sse = world.listen("/api/v1/events", &[]);
    let line = format!("{{\"topic\":\"a\",\"payload\":\"{}\"}}\n", "x".repeat(1000));
    // Much more than a connection's buffers hold.
    for _ in 0..16 {
        let answer = world.post_text("/api/v1/events", "application/x-ndjson", &line.repeat(1000));
        assert_eq!(answer.json()["accepted"], 1000);
    }
    for n in 0..16_000 {
        assert_eq!(sse.next().unwrap().json()["offset"], n);
    }
}

#[test]
fn a_stopping_node_ends_its_streams() {
    let mut world = World::new(&[]);
    let mut sse = world.listen("/api/v1/events", &[]);
    let mut live = world.listen("/api/v1/live", &[]);
    assert!(live.next().unwrap().json()["overview"]["version"].is_string());
    world.stop();
    assert!(sse.next().is_none());
    while live.next().is_some() {}
}

#[test]
fn a_socket_publishes_and_subscribes() {
    let world = World::new(&[]);
    let mut socket = Socket::open(&world, &[]).unwrap();
    socket.send(json!({"op":"subscribe","id":"s","filter":"a/#"}));
    assert_eq!(socket.next(), json!({"op":"ack","id":"s"}));
    socket.send(json!({"op":"publish","id":1,"topic":"a/1","payload":{"n":1},"tags":{"t":"v"}}));
    let (mut ack, mut event) = (socket.next(), socket.next());
    if ack["op"] == "event" {
        std::mem::swap(&mut ack, &mut event);
    }
    assert_eq!(
        ack,
        json!({"op":"ack","id":1,"accepted":1,"rejected":[],"rejected_count":0,"durability":"fsync"})
    );
    assert_eq!(
        (&event["op"], &event["id"], &event["topic"]),
        (&json!("event"), &json!("s"), &json!("a/1"))
    );
    assert_eq!(
        (&event["payload"]["n"], &event["tags"]["t"]),
        (&json!(1), &json!("v"))
    );
    let events: Vec<Value> = (0..100)
        .map(|n| json!({"topic":"a/2","payload":n}))
        .collect();
    socket.send(json!({"op":"publish","id":{"any":"json"},"events":events}));
    let (mut got, mut acked) = (Vec::new(), false);
    while got.len() < 100 || !acked {
        let frame = socket.next();
        match frame["op"].as_str().unwrap() {
            "event" => got.push(frame["payload"].as_i64().unwrap()),
            _ => {
                assert_eq!(
                    (&frame["accepted"], &frame["id"]["any"]),
                    (&json!(100), &json!("json"))
                );
                acked = true;
            }
        }
    }
    assert_eq!(got, (0..100).collect::<Vec<_>>());
    socket.send(json!({"op":"unsubscribe","id":"s"}));
    assert_eq!(socket.next(), json!({"op":"ack","id":"s"}));
    socket.send(json!({"op":"publish","id":2,"topic":"a/1","payload":0}));
    assert_eq!(socket.next()["op"], "ack");
    socket.send(json!({"op":"subscribe","id":3,"filter":"a/1","from":"earliest"}));
    assert_eq!(socket.next()["op"], "ack");
    assert_eq!(socket.next()["payload"]["n"], 1);
    assert_eq!(socket.next()["payload"], 0);
}

#[test]
fn bad_frames_are_answered_and_harm_nobody() {
    let world = World::new(&[]);
    let mut socket = Socket::open(&world, &[]).unwrap();
    for (frame, code) in [
        (json!({"op":"fly","id":1}), "server.unknown-op"),
        (
            json!({"op":"publish","id":1,"topic":"a/+","payload":1}),
            "event.topic-wildcard",
        ),
        (
            json!({"op":"publish","id":1,"topic":"a"}),
            "server.no-payload",
        ),
        (
            json!({"op":"subscribe","id":1,"filter":"a/#/b"}),
            "event.filter-wildcard",
        ),
        (
            json!({"op":"subscribe","id":1,"filter":7}),
            "server.bad-field",
        ),
        (
            json!({"op":"subscribe","id":1,"from":"soon"}),
            "server.bad-from",
        ),
        (
            json!({"op":"unsubscribe","id":9}),
            "server.unknown-subscription",
        ),
        (json!([1]), "server.not-json"),
    ] {
        socket.send(frame.clone());
        let answer = socket.next();
        let found = answer["error"]["code"]
            .as_str()
            .or(answer["rejected"][0]["code"].as_str());
        assert_eq!(found, Some(code), "{frame}: {answer}");
    }
    socket.0.send(Message::text("{")).unwrap();
    assert_eq!(socket.next()["error"]["code"], "server.not-json");
    socket.send(json!({"op":"publish","id":1,"topic":"a","payload":1}));
    assert_eq!(socket.next()["accepted"], 1);
    assert!(Socket::open(&world, &[("origin", "http://evil.example")]).is_err());
    assert!(Socket::open(&world, &[("host", "evil.example")]).is_err());
    assert_eq!(world.get("/api/v1/ws").code(), "server.not-websocket");
}

#[test]
fn mqtt_clients_come_in_by_websocket() {
    let world = World::new(&[]);
    let open = |protocol: Option<&str>, path: &str| {
        let stream = TcpStream::connect(world.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request = format!("ws://{}{path}", world.http)
            .into_client_request()
            .unwrap();
        if let Some(protocol) = protocol {
            let value = protocol.parse().unwrap();
            request
                .headers_mut()
                .insert("sec-websocket-protocol", value);
        }
        tungstenite::client(request, stream).map_err(drop)
    };
    assert!(open(None, "/mqtt").is_err());
    let (mut socket, response) = open(Some("mqtt"), "/mqtt").unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "mqtt");
    let connect = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c";
    socket.send(Message::binary(connect.to_vec())).unwrap();
    let Message::Binary(answer) = socket.read().unwrap() else {
        panic!("not binary");
    };
    assert_eq!(&answer[..], b"\x20\x02\x00\x00");
    let publish = b"\x30\x06\x00\x03a/bx";
    socket.send(Message::binary(publish.to_vec())).unwrap();
    world.until("/api/v1/streams/inbox/events", |page| {
        page["events"][0]["topic"] == "a/b"
    });
}
