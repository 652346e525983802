//! What the source of `redis` does beside what all sources do.

use std::sync::Arc;

use busbar_event::Class;

use crate::servers::redis;
use crate::world::{World, eventually, rest};

const STREAM: (&str, &str) = ("streams/in.yaml", "topics: in/#\n");

fn world() -> World {
    World::new(Arc::new(tempfile::tempdir().expect("a folder")))
}

fn connection(read: &str) -> String {
    format!(
        "redis: {{ address: '127.0.0.1:{}', read: {{ {read} }} }}\ntopic: in/${{stream}}\n",
        redis().port
    )
}

fn apply(world: &World, text: &str) {
    world.apply(&[STREAM, ("connections/c.yaml", text)]);
}

/// Topics and payloads, as soon as there are so many.
fn wait(world: &World, count: usize) -> Vec<String> {
    eventually("the entries", || match world.events("in").len() {
        there if there >= count => Ok(()),
        there => Err(format!("{there} of {count}, {:?}", world.source("c"))),
    });
    rest(200);
    let events = world.events("in");
    let told = events
        .iter()
        .map(|event| format!("{} {}", event.topic, event.text()));
    let told: Vec<_> = told.collect();
    assert_eq!(told.len(), count, "{told:?}");
    told
}

#[test]
fn fields_are_json_and_an_entry_has_its_number() {
    let (world, a, b) = (world(), redis().name(), redis().name());
    redis().run(
        "",
        &format!("xadd {a} 1700000000000-7 n 1 text 'it\"s'\nxadd {a} 1700000000001-0 raw \"\\xff\\x00\"\n"),
    );
    apply(&world, &connection(&format!("streams: [{a}, {b}]")));
    let told = wait(&world, 2);
    assert_eq!(
        told,
        [
            format!("in/{a} {{\"n\":\"1\",\"text\":\"it\\\"s\"}}"),
            format!("in/{a} {{\"raw\":\"\\\\xff00\"}}"),
        ]
    );
    let first = &world.events("in")[0];
    assert_eq!(first.time, 1_700_000_000_000_000);
    assert_eq!(
        first.tags,
        [("redis-id".to_owned(), "1700000000000-7".to_owned())]
    );
    // The other one begins to be.
    redis().run("", &format!("xadd {b} * n 2"));
    assert_eq!(wait(&world, 3)[2], format!("in/{b} {{\"n\":\"2\"}}"));
}

#[test]
fn what_was_there_before_is_left_out_also_after_a_restart() {
    let (mut world, a) = (world(), redis().name());
    redis().run("", &format!("xadd {a} * n 1\nxadd {a} * n 2"));
    let text = connection(&format!("streams: [{a}], new_only: true, payload: n"));
    apply(&world, &text);
    // As soon as the place is kept.
    eventually("the place", || match world.source("c").positions.get(&a) {
        Some(_) => Ok(()),
        None => Err(format!("{:?}", world.source("c"))),
    });
    world.apply(&[STREAM]);
    redis().run("", &format!("xadd {a} * n 3"));
    apply(&world, &text);
    assert_eq!(wait(&world, 1), [format!("in/{a} 3")]);
    world = world.restart();
    redis().run("", &format!("xadd {a} * n 4"));
    apply(&world, &text);
    assert_eq!(wait(&world, 2), [format!("in/{a} 3"), format!("in/{a} 4")]);
}

#[test]
fn entries_that_were_dropped_unread_are_told() {
    let (world, a) = (world(), redis().name());
    redis().run("", &format!("xadd {a} * n 1"));
    let text = connection(&format!("streams: [{a}], payload: n"));
    apply(&world, &text);
    wait(&world, 1);
    world.apply(&[STREAM]);
    redis().run(
        "",
        &format!("xadd {a} * n 2\nxadd {a} * n 3\nxadd {a} * n 4\nxtrim {a} maxlen 1"),
    );
    apply(&world, &text);
    let error = eventually("the error", || {
        world
            .source("c")
            .error
            .ok_or_else(|| format!("{:?}", world.source("c")))
    });
    assert_eq!(
        (error.class(), error.code()),
        (Class::Permanent, "redis.trimmed")
    );
    assert_eq!(wait(&world, 2), [format!("in/{a} 1"), format!("in/{a} 4")]);
}

#[test]
fn a_key_that_is_no_stream_stops_the_connection() {
    let (world, a) = (world(), redis().name());
    redis().run("", &format!("set {a} x"));
    apply(&world, &connection(&format!("streams: [{a}]")));
    let error = eventually("the end", || match world.source("c") {
        status if status.state == "stopped" => status.error.ok_or_else(|| "no error".to_owned()),
        status => Err(format!("{status:?}")),
    });
    assert_eq!(
        (error.class(), error.code()),
        (Class::Configuration, "redis.no-stream")
    );
    // A number that the server's clock has not made.
    let b = redis().name();
    redis().run("", &format!("xadd {b} 9000000000000-1 n 1"));
    apply(&world, &connection(&format!("streams: [{b}]")));
    let error = eventually("the end", || match world.source("c") {
        status if status.state == "stopped" => status.error.ok_or_else(|| "no error".to_owned()),
        status => Err(format!("{status:?}")),
    });
    assert_eq!(error.code(), "redis.entry-id");
}
