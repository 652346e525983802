//! Publishing by POST, and reading pages back.

use crate::support::World;
use busbar_server::limits;
use serde_json::{Value, json};

const STREAMS: &[(&str, &str)] = &[
    ("streams/meter.yaml", "topics: meter/#\npartitions: 2\n"),
    (
        "streams/quick.yaml",
        "topics: quick/#\ndurability: memory\n",
    ),
];

fn payloads(page: &Value) -> Vec<Value> {
    page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["payload"].clone())
        .collect()
}

#[test]
fn one_event_an_array_and_lines_are_stored_and_read_back() {
    let world = World::new(STREAMS);
    let one = world.post(
        "/api/v1/events",
        &json!({"topic":"plant/1","payload":{"b":1,"a":2.50},"key":"k","tags":{"site":"a"},"time":"2026-01-02T03:04:05Z"}),
    );
    assert_eq!(one.status, 200, "{one:?}");
    assert_eq!(one.json()["durability"], "fsync");
    let many = world.post(
        "/api/v1/events",
        &json!([{"topic":"plant/1","payload":1},{"topic":"quick/1","payload":2}]),
    );
    assert_eq!(
        many.json(),
        json!({"accepted":2,"rejected":[],"rejected_count":0,"durability":"memory"})
    );
    let lines = "{\"topic\":\"plant/2\",\"payload\":\"text\"}\n{\"topic\":\"plant/2\",\"payload_base64\":\"/wA=\"}\n";
    let answer = world.post_text("/api/v1/events", "application/x-ndjson", lines);
    assert_eq!(answer.json()["accepted"], 2);
    let page = world.get_json("/api/v1/streams/inbox/events");
    assert_eq!(
        payloads(&page)[..3],
        [json!({"b":1,"a":2.5}), json!(1), json!("text")]
    );
    let event = &page["events"][0];
    assert_eq!(event["key"], "k");
    assert_eq!(event["tags"], json!({"site":"a"}));
    assert_eq!(event["time"], "2026-01-02T03:04:05.000000Z");
    assert_eq!(event["client"], "http:local");
    assert_eq!(
        (&event["stream"], &event["offset"]),
        (&json!("inbox"), &json!(0))
    );
    assert_eq!(page["events"][3]["payload_base64"], "/wA=");
    assert_eq!(page["end"], true);
    let raw = world.get("/api/v1/streams/inbox/events").body;
    // Keys keep their order; serde_json writes them sorted, so this is what was sent.
    assert!(
        raw.contains(r#"{"a":2.5,"b":1}"#) || raw.contains(r#"{"b":1,"a":2.5}"#),
        "{raw}"
    );
}

#[test]
fn payloads_keep_every_byte() {
    let world = World::new(&[]);
    let payload = "{\"z\": 1.50,\n \"a\":[1e3, 9007199254740993], \"z\": null}";
    let answer = world.post_text("/api/v1/events?topic=raw/1", "application/json", payload);
    assert_eq!(answer.status, 200, "{answer:?}");
    let rows = world.sql("select payload from inbox");
    assert_eq!(rows, json!([[payload]]));
    let raw = world.get("/api/v1/streams/inbox/events").body;
    assert!(
        raw.contains("{\"z\": 1.50,  \"a\":[1e3, 9007199254740993], \"z\": null}"),
        "{raw}"
    );
}

#[test]
fn a_topic_in_the_query_makes_each_document_a_payload() {
    let world = World::new(&[]);
    let answer = world.post_text(
        "/api/v1/events?topic=a/b&retain=true",
        "application/x-ndjson",
        "1\n\n[2]\nx\n",
    );
    assert_eq!(answer.json()["accepted"], 2);
    assert_eq!(answer.json()["rejected"][0]["index"], 2);
    assert_eq!(answer.json()["rejected"][0]["code"], "server.not-json");
    let topics = world.get_json("/api/v1/topics?filter=a/%23");
    assert_eq!(topics["topics"][0]["payload"], json!([2]));
    world.publish("a/live", json!("not retained"));
    assert_eq!(
        world.get_json("/api/v1/topics")["topics"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let all = world.get_json("/api/v1/topics?all=true&filter=a/live");
    assert_eq!(all["topics"][0]["payload"], "not retained");
    let bytes = world.request(
        "POST",
        "/api/v1/events?topic=a/c",
        &[("content-type", "application/octet-stream")],
        b"\xff\xfe",
    );
    assert_eq!(bytes.json()["accepted"], 1);
}

#[test]
fn each_bad_event_is_named_and_its_neighbours_are_stored() {
    let world = World::new(&[]);
    let answer = world.post(
        "/api/v1/events",
        &json!([{"topic":"a","payload":1},{"topic":"a/#","payload":2},{"payload":3},{"topic":"b","payload":4}]),
    );
    assert_eq!(answer.status, 200);
    let body = answer.json();
    assert_eq!(body["accepted"], 2);
    assert_eq!(body["rejected"][0]["code"], "event.topic-wildcard");
    assert_eq!(body["rejected"][1]["index"], 2);
    assert!(
        body["rejected"][1]["message_zh"]
            .as_str()
            .unwrap()
            .contains("主题")
    );
    assert_eq!(
        payloads(&world.get_json("/api/v1/streams/inbox/events")),
        [json!(1), json!(4)]
    );
    let none = world.post("/api/v1/events", &json!({"topic":"+","payload":1}));
    assert_eq!(
        (none.status, none.code()),
        (400, "event.topic-wildcard".into())
    );
    assert_eq!(none.json()["accepted"], 0);
}

#[test]
fn bodies_out_of_bounds_are_refused() {
    let mut config = crate::support::config();
    config.limits.payload_size = busbar_catalog::Size::from_bytes(1000);
    config.http.body_size = busbar_catalog::Size::from_bytes(100_000);
    let world = World::with(config, &[]);
    let big = "x".repeat(100_001);
    let answer = world.post_text("/api/v1/events?topic=a", "application/octet-stream", &big);
    assert_eq!(
        (answer.status, answer.code()),
        (413, "server.body-too-large".into())
    );
    let answer = world.post_text(
        "/api/v1/events?topic=a",
        "application/octet-stream",
        &big[..1001],
    );
    assert_eq!(
        (answer.status, answer.code()),
        (413, "bus.payload-large".into())
    );
    let many = "1\n".repeat(40_000);
    assert_eq!(
        world
            .post_text("/api/v1/events?topic=a", "application/x-ndjson", &many)
            .json()["accepted"],
        40_000
    );
    let page = world.get_json("/api/v1/streams/inbox/events?limit=5000");
    assert_eq!(payloads(&page).len(), limits::PAGE_EVENTS_MAX);
    assert_eq!(page["end"], false);
    for (kind, body, code) in [
        ("application/json", "", "server.no-body"),
        ("application/json", "{", "server.not-json"),
        (
            "application/json",
            "{\"topic\":\"a\",\"payload\":1",
            "server.not-json",
        ),
        ("application/octet-stream", "x", "server.raw-needs-topic"),
    ] {
        let answer = world.post_text("/api/v1/events", kind, body);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        let code_found = match answer.json()["rejected"][0]["code"].as_str() {
            Some(code) => code.to_owned(),
            None => answer.code(),
        };
        assert_eq!(code_found, code, "{body}");
    }
    for kind in ["text/plain", "application/x-www-form-urlencoded"] {
        let answer = world.post_text("/api/v1/events", kind, "{}");
        assert_eq!(
            (answer.status, answer.code()),
            (415, "server.content-type".into())
        );
    }
    let answer = world.post_text("/api/v1/events?tpoic=a", "application/json", "{}");
    assert_eq!(
        (answer.status, answer.code()),
        (400, "server.unknown-parameter".into())
    );
    // What is read at once may go over the bound; more than that is not waited for.
    let head = "y".repeat(2 * limits::HEAD_BYTES_MAX);
    let answer = world.request("GET", "/healthz", &[("x-long", &head)], b"");
    assert_eq!(answer.status, 431);
    assert_eq!(world.get("/healthz").status, 200);
}

#[test]
fn pages_follow_each_other_through_all_partitions() {
    let world = World::new(STREAMS);
    for n in 0..50 {
        world.publish(&format!("meter/m{n}/x"), json!(n));
    }
    let mut seen = Vec::new();
    let mut from = "earliest".to_owned();
    loop {
        let page = world.get_json(&format!("/api/v1/streams/meter/events?limit=7&from={from}"));
        seen.extend(payloads(&page).iter().map(|n| n.as_u64().unwrap()));
        from = page["next"].as_str().unwrap().to_owned();
        if page["end"] == true {
            break;
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
    let last = world.get_json("/api/v1/streams/meter/events?from=last:3&partition=1");
    assert_eq!(last["events"].as_array().unwrap().len(), 3);
    assert!(
        last["events"]
            .as_array()
            .unwrap()
            .iter()
            .all(|event| event["partition"] == 1)
    );
    let one = world.get_json("/api/v1/streams/meter/events?filter=meter/m7/%2B");
    assert_eq!(payloads(&one), [json!(7)]);
    let none = world.get_json("/api/v1/streams/meter/events?from=2999-01-01T00:00:00Z");
    assert!(payloads(&none).is_empty());
    assert_eq!(world.get("/api/v1/streams/none/events").status, 404);
    assert_eq!(
        world.get("/api/v1/streams/meter/events?from=soon").code(),
        "server.bad-from"
    );
}

#[test]
fn many_clients_at_once_each_get_their_answer() {
    let world = World::new(STREAMS);
    std::thread::scope(|scope| {
        for client in 0..8 {
            let world = &world;
            scope.spawn(move || {
                for n in 0..40 {
                    world.publish(&format!("meter/{client}/x"), json!(n));
                }
            });
        }
    });
    assert_eq!(world.sql("select count(*) from meter"), json!([[320]]));
    for client in 0..8 {
        let page = world.get_json(&format!(
            "/api/v1/streams/meter/events?limit=1000&filter=meter/{client}/x"
        ));
        let got: Vec<u64> = payloads(&page)
            .iter()
            .map(|n| n.as_u64().unwrap())
            .collect();
        assert_eq!(got, (0..40).collect::<Vec<_>>());
    }
}

#[test]
fn the_envelope_of_a_raw_payload_stands_beside_it() {
    use std::io::{Read as _, Write as _};
    let world = World::new(&[]);
    // An MQTT 5.0 client that subscribes to p/#.
    let mut client = std::net::TcpStream::connect(world.mqtt).unwrap();
    client
        .set_read_timeout(Some(crate::support::PATIENCE))
        .unwrap();
    client
        .write_all(b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c")
        .unwrap();
    client
        .write_all(b"\x82\x09\x00\x01\x00\x00\x03p/#\x02")
        .unwrap();
    let mut heard = Vec::new();
    let mut hear = |wanted: &[u8]| {
        let mut some = [0; 4096];
        while !heard.windows(wanted.len()).any(|part| part == wanted) {
            let read = client.read(&mut some).unwrap();
            assert_ne!(read, 0, "{}", String::from_utf8_lossy(&heard));
            heard.extend_from_slice(&some[..read]);
        }
    };
    hear(b"\x90\x04\x00\x01\x00\x02");
    let answer = world.request(
        "POST",
        "/api/v1/events?topic=p/1&key=k&time=2026-01-02T03:04:05Z&qos=2",
        &[("content-type", "image/png"), ("busbar-tag-site", "上海")],
        b"\x89PNG\xff",
    );
    assert_eq!(answer.json()["accepted"], 1, "{answer:?}");
    let page = world.get_json("/api/v1/streams/inbox/events");
    let event = &page["events"][0];
    assert_eq!(
        (
            &event["key"],
            &event["time"],
            &event["tags"],
            &event["payload_base64"]
        ),
        (
            &json!("k"),
            &json!("2026-01-02T03:04:05.000000Z"),
            &json!({"site":"上海"}),
            &json!("iVBOR/8=")
        )
    );
    hear(b"\x03\x00\x09image/png");
    let topic = heard.windows(5).position(|part| part == b"\x00\x03p/1");
    assert_eq!(heard[topic.unwrap() - 2], 0x34, "a PUBLISH at QoS 2");
    for query in ["time=soon", "time=9223372036854775807", "qos=3"] {
        let answer = world.post(&format!("/api/v1/events?topic=p/1&{query}"), &json!(1));
        assert_eq!(
            (answer.status, answer.code()),
            (400, "server.bad-field".into()),
            "{query}"
        );
    }
}
