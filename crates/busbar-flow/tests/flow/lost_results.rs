//! Results that stand for no event, and that a step cannot compute or not take, are dead letters of their own.

use std::time::{Duration, Instant};

use busbar_event::BatchBuilder;
use busbar_flow::{DEAD_LETTERS, DeadFilter, DeadLetter, EventAt, FlowState, ReplayFrom};
use busbar_log::{Clock, SystemClock};
use serde_json::Value;

use crate::common::{PATIENCE, State, World, rest};
use crate::edits::{AHEAD, SECOND, apply, publish, window};

/// Waits for as many results and letters of the flow `f`.
fn wait_for(world: &World, results: usize, letters: usize) {
    let until = Instant::now() + PATIENCE;
    while world.contents("out").len() < results || world.contents(DEAD_LETTERS).len() < letters {
        assert!(Instant::now() < until, "{:#?}", world.flow("f"));
        rest(10);
    }
}

/// The node after a power cut, when the flow has read everything again.
fn after_power_cut(world: World, steps: &str) -> World {
    let world = world.restart(true);
    let applied = apply(&world, steps, false);
    assert!(applied.failed.is_empty(), "{applied:?}");
    world.settle("f");
    world
}

fn open_letters(world: &World) -> Vec<DeadLetter> {
    let letters = world.flows.dead_letters(DeadFilter::default(), 100);
    world.tokio.block_on(letters).unwrap()
}

fn payload(letter: &DeadLetter) -> Value {
    serde_json::from_slice(&letter.payload).unwrap()
}

/// Five events of `a`, then four of `b`, whose results are due with the event of a later window.
fn publish_both(world: &World) {
    publish(world, 0..5, Some("a"));
    publish(world, 5..9, Some("b"));
    publish(world, 30..31, Some("c"));
}

/// A result that a step behind the window cannot take.
#[test]
fn results_that_a_step_does_not_take_are_dead_letters() {
    let mut world = World::new(73);
    let steps = format!("{}  - select: site, 12 / (n - 5) as share\n", window("10s"));
    apply(&world, &steps, false);
    publish_both(&world);
    wait_for(&world, 1, 1);
    for crashed in [false, true] {
        if crashed {
            world = after_power_cut(world, &steps);
        }
        let shares = world.contents("out");
        assert_eq!(shares.len(), 1, "{shares:?}");
        assert_eq!(shares[0].1["share"], -12);
        let letters = open_letters(&world);
        assert_eq!(letters.len(), 1, "{letters:?}");
        assert_eq!(letters[0].place, "step:1");
        let result = payload(&letters[0]);
        assert_eq!((&result["site"], &result["n"]), (&"a".into(), &5.into()));
    }
    let sent = world.flows.redrive(DeadFilter::default(), "test");
    let sent = world.tokio.block_on(sent).unwrap();
    assert_eq!((sent.sent, sent.refused), (0, 1), "{sent:?}");
    assert_eq!(sent.cause.unwrap().code(), "flow.redrive-results");
}

/// A result that the window, the query or the aggregate itself cannot compute: its letter has the keys and the bounds, the
/// other results go on, and nothing is told of twice.
#[test]
fn results_that_cannot_be_computed_are_dead_letters() {
    let select = "site, 12 / (count(*) - 5) as share";
    let query = "select site, 12 / (count(*) - 5) as share from input group by tumble(interval '10 seconds'), site";
    let by = "by: [site]";
    for (step, ends, place) in [
        (
            format!("window: {{ tumble: 10s, {by}, select: '{select}' }}"),
            10,
            "window_end",
        ),
        (
            format!(
                "window: {{ hop: {{ size: 10s, every: 10s }}, {by}, select: 'site, count(*) as share', having: '12 / (count(*) - 5) < 0' }}"
            ),
            10,
            "window_end",
        ),
        (
            format!("window: {{ session: 3s, {by}, select: '{select}' }}"),
            7,
            "window_end",
        ),
        (format!("sql: \"{query}\""), 10, "window_end"),
        (
            format!("aggregate: {{ {by}, within: 10s, select: '{select}' }}"),
            4,
            "last_time",
        ),
    ] {
        let mut world = World::new(77);
        let steps = format!("  - {step}\n");
        let applied = apply(&world, &steps, false);
        assert!(applied.failed.is_empty(), "{step} {applied:?}");
        publish_both(&world);
        wait_for(&world, 1, 1);
        for crashed in [false, true] {
            if crashed {
                world = after_power_cut(world, &steps);
            }
            let results = world.contents("out");
            assert_eq!(results.len(), 1, "{step} {results:?}");
            assert_eq!(results[0].0, "out/b", "{step}");
            let letters = open_letters(&world);
            assert_eq!(letters.len(), 1, "{step} {letters:?}");
            let letter = &letters[0];
            assert_eq!(
                (&*letter.place, &*letter.code),
                ("step:0", "sql.divide-by-zero"),
                "{step}"
            );
            let result = payload(letter);
            assert_eq!(result["site"], "a", "{step} {result}");
            let end = busbar_event::time::parse(result[place].as_str().unwrap());
            assert_eq!(end, Some(AHEAD + ends * SECOND), "{step} {result}");
            let status = world.settle("f");
            assert_eq!(status.state, FlowState::Running);
            let counted = &status.conservation;
            assert_eq!(counted.difference, 0, "{step} {counted:#?}");
            assert_eq!(counted.counters.dead, 1, "{step} {counted:#?}");
        }
        // Read again, the same result is told of by one letter; when it can be computed, by none.
        let replayed = world.flows.replay("f", ReplayFrom::Earliest);
        world.tokio.block_on(replayed).unwrap();
        wait_for(&world, 2, 2);
        world.settle("f");
        assert_eq!(open_letters(&world).len(), 1, "{step}");
        let mended = steps.replace("- 5", "- 14");
        assert!(apply(&world, &mended, true).failed.is_empty(), "{step}");
        wait_for(&world, 4, 2);
        world.settle("f");
        assert!(open_letters(&world).is_empty(), "{step}");
    }
}

/// A sum that fits no number is the fault of one group; a window that time closes, and not an event, tells of it as well. An
/// event that comes meanwhile has nothing to do with it.
#[test]
fn a_result_that_time_makes_and_that_cannot_be_computed_is_a_dead_letter() {
    // With several partitions the rows are regrouped, and a second stage makes the results.
    for partitions in [1, 3] {
        sum_out_of_range(partitions);
    }
}

fn sum_out_of_range(partitions: u16) {
    let mut world = World::new(78);
    let ended = (SystemClock.now_micros() / (10 * SECOND) - 1000) * 10 * SECOND;
    let event = |id: i64, site: &str, micros: i64| {
        let time = busbar_event::time::text(micros);
        format!(r#"{{"id":{id},"site":"{site}","at":"{time}"}}"#)
    };
    let mut files = crate::edits::files(
        "  - window: { tumble: 10s, by: [site], select: 'site, sum(id) as id' }\n",
    );
    files[0].1 = format!(
        "topics: in/#\nformat: json\nschema: {{ id: int, site: text, at: time }}\ntime: {{ column: at }}\npartitions: {partitions}\n"
    );
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, &**text)).collect();
    let applied = world.apply(&files);
    assert!(applied.failed.is_empty(), "{applied:?}");
    world.publish(
        "in/c1/x",
        &[
            event(i64::MAX, "a", ended),
            event(7, "b", ended + SECOND),
            event(1, "a", ended + 2 * SECOND),
        ],
    );
    wait_for(&world, 1, 1);
    for crashed in [false, true] {
        if crashed {
            world = world.restart(true);
            world.apply(&files);
            world.settle("f");
        }
        let results = world.contents("out");
        assert_eq!(results.len(), 1, "{results:?}");
        assert_eq!((&*results[0].0, &results[0].1["id"]), ("out/b", &7.into()));
        let letters = open_letters(&world);
        assert_eq!(letters.len(), 1, "{letters:?}");
        assert_eq!(letters[0].code, "sql.out-of-range");
        let result = payload(&letters[0]);
        assert_eq!(result["site"], "a", "{result}");
        let end = busbar_event::time::text(ended + 10 * SECOND);
        assert_eq!(result["window_end"], end.as_str(), "{result}");
        let status = world.settle("f");
        assert_eq!(status.conservation.difference, 0, "{status:#?}");
        if partitions > 1 {
            continue;
        }
        // It names the event behind which it was made, and is no letter of that event.
        assert_eq!((&*letters[0].stream, letters[0].offset), ("in", 2));
        let event = EventAt {
            stream: "in".into(),
            partition: 0,
            offset: 2,
            event: BatchBuilder::new().finish(),
        };
        let of_event = world.flows.dead_letters_of(&event);
        assert!(world.tokio.block_on(of_event).unwrap().is_empty());
    }
}

/// Results that a step cannot compute, and others that the step behind it cannot take, of one batch.
#[test]
fn letters_of_one_batch_are_all_written() {
    let steps = "  - window: { tumble: 10s, by: [site], select: 'site, 12 / (count(*) - 5) as id' }\n  - select: site, 1 / (id + 12) as id\n";
    let world = World::new(80);
    apply(&world, steps, false);
    publish(&world, (0..5).chain(10..14).chain(50..51), Some("a"));
    wait_for(&world, 0, 2);
    world.settle("f");
    let letters = open_letters(&world);
    let mut places: Vec<_> = letters.iter().map(|letter| &*letter.place).collect();
    places.sort_unstable();
    assert_eq!(places, ["step:0", "step:1"]);
}

/// The letters of a batch may be all that came of it. It is cut where they know, when it comes again with others: whatever the
/// batches, each is told of once.
#[test]
fn letters_of_results_are_written_once_whatever_the_batches() {
    let rarely = State {
        snapshot_every: Duration::from_secs(3600),
        ..State::default()
    };
    let steps = "  - window: { tumble: 10s, by: [site], select: 'site, 12 / (count(*) - 5) as id' }\n  - select: site, 1 / (id + 12) as id\n";
    let mut world = World::with_state(79, rarely);
    apply(&world, steps, false);
    // The window itself cannot compute the one of `a`, the step behind it not take the one of `b`.
    for (events, site) in [
        (0..5, "a"),
        (10..14, "b"),
        (20..25, "a"),
        (50..51, "c"),
        (52..53, "c"),
    ] {
        publish(&world, events, Some(site));
        world.settle("f");
    }
    wait_for(&world, 0, 3);
    for crashed in [false, true] {
        if crashed {
            world = after_power_cut(world, steps);
        }
        let letters = open_letters(&world);
        let places = letters
            .iter()
            .map(|letter| (&*letter.place, payload(letter)));
        let mut places: Vec<_> = places
            .map(|(place, result)| (place.to_owned(), result["site"].to_string()))
            .collect();
        places.sort_unstable();
        let expected = [
            ("step:0", "\"a\""),
            ("step:0", "\"a\""),
            ("step:1", "\"b\""),
        ];
        let expected = expected.map(|(place, site)| (place.to_owned(), site.to_owned()));
        assert_eq!(places, expected);
    }
}
