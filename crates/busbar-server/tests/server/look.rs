//! What people look at: the sampled tail, the search, answers in lines.

use std::collections::BTreeSet;

use crate::support::World;
use serde_json::{Value, json};

/// Publishes `count` events with payloads 0, 1, … to topics `m/0` to `m/9`, each with a tag and a key.
fn publish(world: &World, count: usize) {
    let lines: Vec<String> = (0..count)
        .map(|n| {
            json!({
                "topic": format!("m/{}", n % 10),
                "key": format!("k{}", n % 3),
                "tags": { "site": if n % 2 == 0 { "north" } else { "south" } },
                "time": 1_000_000 * (1 + n as i64),
                "payload": { "n": n, "word": if n % 100 == 7 { "Needle" } else { "hay" } },
            })
            .to_string()
        })
        .collect();
    let answer = world.post_text("/api/v1/events", "application/x-ndjson", &lines.join("\n"));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["accepted"], count);
}

/// All steps of a search: the numbers found, and how many steps there were.
fn search(world: &World, query: &str) -> (Vec<i64>, usize) {
    let (mut found, mut steps, mut from) = (Vec::new(), 0, String::new());
    loop {
        let answer = world.get_json(&format!("/api/v1/search?{query}{from}"));
        steps += 1;
        found.extend(numbers(&answer));
        let position = answer["next"].as_str().unwrap();
        from = format!("&from={}", position.replace('/', "%2F").replace('@', "%40"));
        if answer["end"] == true {
            assert_eq!(answer["remaining"], 0);
            return (found, steps);
        }
        assert!(answer["remaining"].as_u64().unwrap() > 0);
    }
}

fn numbers(message: &Value) -> Vec<i64> {
    let events = message["events"].as_array().unwrap();
    events
        .iter()
        .map(|event| event["payload"]["n"].as_i64().unwrap())
        .collect()
}

#[test]
fn a_search_finds_every_match_in_either_order() {
    let world = World::new(&[(
        "streams/m.yaml",
        "topics: m/#\npartitions: 1\nformat: json\n",
    )]);
    publish(&world, 1_000);
    let every = |step: usize, first: usize| -> Vec<i64> {
        (first..1_000).step_by(step).map(|n| n as i64).collect()
    };
    let (found, _) = search(&world, "stream=m&text=needle&order=oldest");
    assert_eq!(found, every(100, 7));
    let (newest, steps) = search(&world, "stream=m&text=needle&limit=3");
    let mut backwards = every(100, 7);
    backwards.reverse();
    assert_eq!(newest, backwards);
    assert!(steps >= 4, "{steps}");
    assert_eq!(
        search(&world, "stream=m&filter=m%2F4&order=oldest").0,
        every(10, 4)
    );
    assert_eq!(
        search(&world, "tag=site%3Dsouth&key=k1&order=oldest").0,
        every(6, 1)
    );
    let times = "since=1970-01-01T00:01:41Z&until=1970-01-01T00:01:44Z&order=oldest";
    assert_eq!(search(&world, times).0, [100, 101, 102]);
    assert_eq!(search(&world, "text=nothing-like-it").0, [] as [i64; 0]);
    assert_eq!(search(&world, "field=n%3D77").0, [77]);
    let both = "field=n%3D70&filter=m%2F0";
    assert_eq!(search(&world, both).0, [70]);
    let other = "field=n%3D70&filter=m%2F1";
    assert_eq!(search(&world, other).0, [] as [i64; 0]);
    // A page that is full in the middle of a batch goes on at the next event.
    let (all, _) = search(&world, "stream=m&limit=7");
    assert_eq!(all, (0..1_000).rev().collect::<Vec<_>>());
}

#[test]
fn a_search_covers_all_partitions_and_refuses_what_it_does_not_know() {
    let world = World::new(&[("streams/m.yaml", "topics: m/#\npartitions: 4\n")]);
    publish(&world, 500);
    for order in ["newest", "oldest"] {
        let (found, _) = search(&world, &format!("limit=9&order={order}"));
        assert_eq!(found.len(), 500);
        assert_eq!(
            found.into_iter().collect::<BTreeSet<_>>().len(),
            500,
            "{order}"
        );
    }
    assert_eq!(world.get("/api/v1/search?stream=none").status, 404);
    let bad = world.get("/api/v1/search?from=now");
    assert_eq!(bad.code(), "server.bad-search-from");
    assert_eq!(
        world.get("/api/v1/search?since=x").code(),
        "server.bad-field"
    );
    for (wrong, code) in [
        ("field=n", "server.bad-search-field"),
        ("field=n%3D1&stream=inbox", "server.search-path"),
    ] {
        let answer = world.get(&format!("/api/v1/search?{wrong}"));
        assert_eq!(answer.code(), code);
    }
    let long = "x".repeat(2_000);
    let answer = world.get(&format!("/api/v1/search?text={long}"));
    assert_eq!(answer.code(), "server.condition-too-long");
}

#[test]
fn a_subscription_takes_the_same_conditions() {
    let world = World::new(&[("streams/m.yaml", "topics: m/#\npartitions: 1\n")]);
    publish(&world, 300);
    let read = |query: &str| -> Vec<i64> {
        let mut sse = world.listen(&format!("/api/v1/events?from=earliest&{query}"), &[]);
        // A time that is over ends the subscription.
        std::iter::from_fn(|| sse.next())
            .map(|message| message.json()["payload"]["n"].as_i64().unwrap())
            .collect()
    };
    let until = "until=1970-01-01T00:03:30Z";
    assert_eq!(read(&format!("text=NEEDLE&{until}")), [7, 107, 207]);
    assert_eq!(
        read(&format!("key=k2&tag=site%3Dsouth&filter=m/1&{until}")),
        [11, 41, 71, 101, 131, 161, 191]
    );
}

#[test]
fn a_tail_delivers_the_first_events_and_then_samples() {
    let world = World::new(&[("streams/m.yaml", "topics: m/#\npartitions: 1\n")]);
    publish(&world, 5_000);
    let mut sse = world.listen("/api/v1/tail?stream=m&from=earliest", &[]);
    let (mut matched, mut shown) = (0, Vec::new());
    while matched < 5_000 {
        let message = sse.next().unwrap();
        assert_eq!(message.kind, "tail");
        let message = message.json();
        matched += message["matched"].as_u64().unwrap();
        shown.extend(numbers(&message));
    }
    assert_eq!(matched, 5_000);
    assert_eq!(shown[..1_000], (0..1_000).collect::<Vec<_>>());
    assert!(shown.len() < 5_000, "nothing was sampled");
    assert_eq!(shown.last(), Some(&4_999), "the newest event is shown");
    assert!(shown.is_sorted());
    // From now on no message has more than a hundred.
    for _ in 0..5 {
        publish(&world, 2_000);
    }
    let mut later = 0;
    while later < 10_000 {
        let message = sse.next().unwrap().json();
        assert!(message["events"].as_array().unwrap().len() <= 100);
        later += message["matched"].as_u64().unwrap();
    }
    assert_eq!(later, 10_000);
}

#[test]
fn a_tail_begins_and_resumes_where_it_is_told() {
    let world = World::new(&[("streams/m.yaml", "topics: m/#\npartitions: 1\n")]);
    publish(&world, 200);
    let first = |query: &str, headers: &[(&str, &str)]| {
        let mut sse = world.listen(&format!("/api/v1/tail?stream=m&{query}"), headers);
        let message = sse.next().unwrap();
        (numbers(&message.json()), message.id)
    };
    let (last, id) = first("from=last:3", &[]);
    assert_eq!(last, [197, 198, 199]);
    assert_eq!(first("from=190&text=needle", &[]).0, [] as [i64; 0]);
    assert_eq!(first("from=195", &[]).0, [195, 196, 197, 198, 199]);
    assert_eq!(first("from=1970-01-01T00:03:19Z&key=k0", &[]).0, [198]);
    publish(&world, 2);
    assert_eq!(first("from=earliest", &[("last-event-id", &id)]).0, [0, 1]);
}

#[test]
fn a_value_that_does_not_fit_hides_no_row() {
    let stream = "topics: s/#\nformat: json\nschema:\n  kw: float\n  n: int\n";
    let world = World::new(&[("streams/s.yaml", stream)]);
    for payload in [
        json!({ "kw": 1.0, "n": 2 }),
        json!({ "kw": 2.0, "n": "abc" }),
        json!({ "kw": "x", "n": 3 }),
        json!("text"),
    ] {
        world.publish("s/1", payload);
    }
    let ask = |sql: &str| {
        let answer = world.post("/api/v1/sql", &json!({ "sql": sql })).json();
        let counts = ["partial", "undecodable"].map(|name| answer[name].as_u64().unwrap());
        (answer["rows"].clone(), counts)
    };
    assert_eq!(
        ask("select kw, n from s"),
        (json!([[1.0, 2], [2.0, null], [null, 3]]), [2, 1])
    );
    assert_eq!(
        ask("select kw from s"),
        (json!([[1.0], [2.0], [null]]), [1, 1])
    );
    let columns = ask("select topic, kw, n from s where n is null");
    assert_eq!(columns.0, json!([["s/1", 2.0, null]]));
}

#[test]
fn rows_in_lines_are_complete_whatever_their_number() {
    let stream = "topics: m/#\nformat: json\nschema:\n  n: int\n";
    let world = World::new(&[("streams/m.yaml", stream)]);
    publish(&world, 2_500);
    let ask = |sql: &str, limit: Option<u64>| -> Vec<Value> {
        let body = json!({ "sql": sql, "limit": limit }).to_string();
        let headers = [
            ("content-type", "application/json"),
            ("accept", "application/x-ndjson"),
        ];
        let answer = world.request("POST", "/api/v1/sql", &headers, body.as_bytes());
        assert_eq!(answer.status, 200, "{answer:?}");
        // The transfer encoding puts the lengths of its chunks on lines of their own.
        let lines = answer.body.lines();
        lines
            .filter(|line| line.starts_with(['[', '{']))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let lines = ask("select topic, n from m order by n", None);
    assert_eq!(lines.len(), 2_502);
    assert_eq!(lines[0]["columns"][1]["name"], "n");
    assert_eq!(lines[1], json!(["m/0", 0]));
    assert_eq!(lines[2_500], json!(["m/9", 2_499]));
    assert_eq!(lines[2_501]["end"]["truncated"], false);
    let cut = ask("select n from m", Some(10));
    assert_eq!(cut.len(), 12);
    assert_eq!(cut[11]["end"]["truncated"], true);
    // One document keeps its bound, and says when it is reached.
    let answer = world
        .post("/api/v1/sql", &json!({ "sql": "select n from m" }))
        .json();
    assert_eq!(answer["rows"].as_array().unwrap().len(), 1_000);
    assert_eq!(answer["truncated"], true);
    let failed = ask("select n / (n - 7) as x from m", None);
    assert!(
        failed.last().unwrap()["error"]["code"].is_string(),
        "{failed:?}"
    );
}
