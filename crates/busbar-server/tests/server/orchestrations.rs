//! Orchestrations in a node: what starts and wakes instances, and events that do not fit.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::World;

/// An order that waits for its payment, and an instance by the clock.
const FILES: &[(&str, &str)] = &[
    (
        "streams/placed.yaml",
        "topics: placed\nformat: json\nschema: { id: text, n: int }\n",
    ),
    (
        "streams/paid.yaml",
        "topics: paid\nformat: json\nschema: { id: text, sum: int }\n",
    ),
    (
        "orchestrations/order.yaml",
        "input: { id: { type: text, required: true }, n: int }\nkey: ${id}\nstart:\n- stream: placed\n\
         parts:\n- name: payment\n  event: { stream: paid, by: id, select: sum }\nanswer: n + sum as total\n",
    ),
    (
        "orchestrations/hurry.yaml",
        "input: { id: text }\nkey: ${id}\n\
         parts:\n- name: payment\n  event: { stream: paid, by: id, select: sum, within: 100ms, late: continue }\nanswer: sum\n",
    ),
    (
        "orchestrations/tick.yaml",
        "input: { scheduled_at: text, n: int }\nkey: ${scheduled_at}\n\
         start:\n- { every: 1s, input: { n: 5 } }\nparts:\n- name: next\n  set: n + 1 as m\nanswer: m\n",
    ),
    (
        "apis/order.yaml",
        "parameters: { id: { type: text, required: true }, n: int }\norchestration: order\nwithin: 200ms\n",
    ),
];

fn instance(world: &World, name: &str, key: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let path = format!("/api/v1/orchestrations/{name}/instances/{key}");
    while world.get(&path).status == 404 {
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    world.until(&path, wanted)
}

#[test]
fn an_instance_waits_for_its_event_and_its_caller_is_told_the_key_in_time() {
    let world = World::new(FILES);
    let call = |id: &str| world.post("/apis/order", &json!({"id": id, "n": 4}));
    let late = call("k");
    let wanted = json!({"key": "k", "existed": false, "status": "running"});
    assert_eq!((late.status, late.json()), (202, wanted));
    world.publish("paid", json!({"id": "another", "sum": 1}));
    world.publish("paid", json!({"id": "k", "sum": 3}));
    let done = instance(&world, "order", "k", |one| one["status"] == "done");
    assert_eq!(done["answer"], json!({"total": 7}), "{done:#}");
    // What an event does to instances is part of its way.
    world.publish("placed", json!({"id": "p", "n": 1}));
    instance(&world, "order", "p", |one| one["status"] == "running");
    let placed = world.get_json("/api/v1/trace?stream=placed&partition=0&offset=0");
    let wanted = json!([{"orchestration": "order", "key": "p", "status": "running"}]);
    assert_eq!(placed["orchestrations"], wanted, "{placed:#}");
    let paid = world.get_json("/api/v1/trace?stream=paid&partition=0&offset=1");
    let wanted = json!({"orchestration": "order", "part": "payment", "by": "k"});
    let found = paid["orchestrations"].as_array().unwrap();
    assert!(found.contains(&wanted), "{paid:#}");
    // The same call again finds the instance and its answer.
    let found = call("k");
    let (found, status) = (found.json(), found.status);
    assert_eq!((status, &found["existed"]), (200, &json!(true)), "{found}");
    assert_eq!(found["answer"], json!({"total": 7}));
    // An event that came before its instance counts.
    call("another");
    let early = instance(&world, "order", "another", |one| one["status"] == "done");
    assert_eq!(early["answer"], json!({"total": 5}), "{early:#}");
    // The time of a wait ends.
    let begun = json!({"input": {"id": "h"}, "wait": "100s"});
    let hurry = world.post("/api/v1/orchestrations/hurry/instances", &begun);
    let hurry = hurry.json();
    assert_eq!(
        (&hurry["status"], &hurry["answer"]),
        (&json!("done"), &json!({})),
        "{hurry}"
    );
}

#[test]
fn an_orchestration_that_there_is_not_has_no_list_of_instances() {
    let world = World::new(FILES);
    let list = |name: &str, query: &str| {
        world.get(&format!("/api/v1/orchestrations/{name}/instances{query}"))
    };
    let refused = list("nosuch", "");
    assert_eq!(
        (refused.status, refused.code()),
        (404, "orchestrate.unknown".to_owned())
    );
    assert_eq!(list("order", "?status=done").status, 200);
}

#[test]
fn the_clock_starts_one_instance_for_each_time_also_after_a_restart() {
    let mut world = World::new(FILES);
    let list = "/api/v1/orchestrations/tick/instances?status=done";
    let keys = |list: &Value| -> BTreeSet<String> {
        let all = list["instances"].as_array().unwrap().iter();
        all.map(|one| one["key"].as_str().unwrap().to_owned())
            .collect()
    };
    let before = keys(&world.until(list, |list| keys(list).len() >= 2));
    world.restart();
    let after = keys(&world.until(list, |list| keys(list).len() > before.len()));
    assert!(after.is_superset(&before));
    for key in &after {
        assert!(
            key.ends_with(":00.000000Z") || key.ends_with(".000000Z"),
            "{key}"
        );
        let one = world.get_json(&format!("/api/v1/orchestrations/tick/instances/{key}"));
        assert_eq!(one["answer"], json!({"m": 6}), "{one:#}");
    }
}

#[test]
fn events_that_do_not_fit_are_dead_letters_and_can_be_sent_again() {
    let mut world = World::new(FILES);
    for placed in [
        json!({"n": 1}),
        json!({"id": "", "n": 1}),
        json!({"id": "a", "n": "many"}),
        json!({"id": "b", "n": 1}),
    ] {
        world.publish("placed", placed);
    }
    world.publish("paid", json!({"id": "b", "sum": "much"}));
    let groups = "/api/v1/dead-letters/groups";
    let counts = |groups: &Value| -> Vec<(String, String, u64)> {
        let all = groups["groups"].as_array().unwrap().iter();
        let mut all: Vec<_> = all
            .filter(|group| group["flow"] == "orchestrations/order")
            .map(|group| {
                let text = |key: &str| group[key].as_str().unwrap().to_owned();
                (text("step"), text("code"), group["count"].as_u64().unwrap())
            })
            .collect();
        all.sort();
        all
    };
    let wanted: Vec<_> = [
        ("part:payment", "event.field-type"),
        ("start", "event.field-type"),
        ("start", "orchestrate.key"),
        ("start", "orchestrate.value"),
    ]
    .map(|(step, code)| (step.to_owned(), code.to_owned(), 1))
    .to_vec();
    let found = counts(&world.until(groups, |groups| counts(groups).len() >= wanted.len()));
    assert_eq!(found, wanted);
    // The one that fits has its instance; a restart buries nothing again.
    instance(&world, "order", "b", |one| one["status"] == "running");
    world.restart();
    assert_eq!(counts(&world.get_json(groups)), wanted);

    // As they are they do not fit the next time either.
    let mine = json!({"flow": "orchestrations/order"});
    let again = world.post("/api/v1/dead-letters/redrive", &mine).json();
    assert_eq!(
        (&again["redriven"], &again["refused"]),
        (&json!(0), &json!(4)),
        "{again}"
    );
    let letters = world.get_json("/api/v1/dead-letters?flow=orchestrations/order");
    let send = |code: &str, step: &str, payload: Value| {
        let mut letters = letters["letters"].as_array().unwrap().iter();
        let letter = letters.find(|l| l["code"] == code && l["step"] == step);
        let id = letter.unwrap()["id"].as_str().unwrap();
        let path = format!("/api/v1/dead-letters/{id}/redrive");
        let sent = world.post(&path, &json!({"payload_text": payload.to_string()}));
        assert_eq!(sent.json()["redriven"], 1, "{sent:?}");
    };
    send("orchestrate.value", "start", json!({"id": "c", "n": 2}));
    instance(&world, "order", "c", |one| one["status"] == "running");
    send(
        "event.field-type",
        "part:payment",
        json!({"id": "b", "sum": 9}),
    );
    let paid = instance(&world, "order", "b", |one| one["status"] == "done");
    assert_eq!(paid["answer"], json!({"total": 10}), "{paid:#}");
    assert_eq!(counts(&world.get_json(groups)).len(), 2);
}
