//! Edits of a flow with state: what keeps it, what cannot and says so, and a replay instead. Dead letters of results, and late
//! events as a stream of their own.

use std::collections::BTreeSet;
use std::time::Instant;

use arrow::array::{BinaryArray, StringArray};
use busbar_event::{Batch, Body, Envelope};
use busbar_flow::{Applied, DeadFilter, FlowState};
use busbar_sql::{Engine, QueryLimits};
use std::sync::Arc;

use crate::common::{PATIENCE, Streams, World, ids, project, rest};

pub const SECOND: i64 = 1_000_000;
/// Ahead of the clock, so that no partition ticks.
pub const AHEAD: i64 = 4_000_000_000 * SECOND;

pub fn files(steps: &str) -> Vec<(&'static str, String)> {
    vec![
        (
            "streams/in.yaml",
            "topics: in/#\nformat: json\nschema: { id: int, site: text }\n".into(),
        ),
        ("streams/out.yaml", "topics: out/#\nformat: json\n".into()),
        (
            "flows/f.yaml",
            format!("from: in\nsteps:\n{steps}to:\n  - topic: 'out/${{site}}'\n"),
        ),
    ]
}

pub fn window(length: &str) -> String {
    format!(
        "  - window: {{ tumble: {length}, by: [site], select: 'site, count(*) as n, min(id) as id' }}\n"
    )
}

pub fn apply(world: &World, steps: &str, replay: bool) -> Applied {
    let files = files(steps);
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, &**text)).collect();
    let project = project(&files);
    let applied = world.flows.apply_as(&project, 2, (replay, false));
    world.tokio.block_on(applied).unwrap()
}

/// One event each second.
pub fn publish(world: &World, events: impl IntoIterator<Item = i64>, site: Option<&str>) {
    let events: Vec<i64> = events.into_iter().collect();
    let topics = vec!["in/c1/x"; events.len()];
    let times = events.iter().map(|id| AHEAD + id * SECOND).collect();
    let site = serde_json::to_string(&site).unwrap();
    let payloads = events
        .iter()
        .map(|id| format!(r#"{{"id":{id},"site":{site}}}"#).into_bytes());
    let body = BinaryArray::from_iter_values(payloads);
    let envelope = Envelope::new(&StringArray::from(topics), times);
    let batch = Batch::from_columns(envelope, Body::Payload(body)).unwrap();
    world.tokio.block_on(world.bus.append(batch, None)).unwrap();
}

/// Numbers of events of the windows, in the order of their first events.
fn windows(world: &World, count: usize) -> Vec<(i64, i64)> {
    let until = Instant::now() + PATIENCE;
    while world.contents("out").len() < count {
        assert!(Instant::now() < until, "{:#?}", world.flow("f"));
        rest(10);
    }
    let status = world.settle("f");
    assert_eq!(status.conservation.difference, 0, "{status:#?}");
    let int = |row: &serde_json::Value, name: &str| row[name].as_i64().unwrap();
    let rows = world.contents("out");
    let rows = rows.iter();
    let mut rows: Vec<_> = rows.map(|(_, r)| (int(r, "id"), int(r, "n"))).collect();
    rows.sort_unstable();
    rows
}

#[test]
fn an_edit_that_cannot_keep_the_state_says_so_and_offers_a_replay() {
    let mut world = World::new(71);
    apply(&world, &window("10s"), false);
    publish(&world, 0..15, Some("a"));
    assert_eq!(windows(&world, 1), [(0, 10)]);
    // Other steps around it keep the state.
    let around = format!("  - where: id >= 0\n{}  - where: n > 0\n", window("10s"));
    assert!(apply(&world, &around, false).failed.is_empty());
    publish(&world, 15..20, Some("a"));
    // Windows of another length do not.
    for crashed in [false, true] {
        if crashed {
            world = world.restart(true);
            apply(&world, &around, false);
        }
        let refused = apply(&world, &window("20s"), false);
        let error = &refused.failed["f"];
        assert_eq!(error.code(), "flow.state-changed");
        let message = error.message(busbar_event::Language::En);
        for word in ["window-1", "version before goes on", "--replay"] {
            assert!(message.contains(word), "{message}");
        }
        assert_eq!(world.flow("f").state, FlowState::Running);
    }
    // The version before goes on, with its state.
    publish(&world, 20..25, Some("a"));
    assert_eq!(windows(&world, 2), [(0, 10), (10, 10)]);
    // A replay computes everything again from the oldest event that is kept.
    assert!(apply(&world, &window("20s"), true).failed.is_empty());
    publish(&world, 40..45, Some("a"));
    assert_eq!(windows(&world, 4), [(0, 10), (0, 20), (10, 10), (20, 5)]);
    // Another name: empty state from here on, and what was open with the one before is gone with it.
    let named = window("30s").replace("{ tumble", "{ name: thirty, tumble");
    assert_dropped(&world, &apply(&world, &named, false), "window-1");
    publish(&world, 50..52, Some("a"));
    publish(&world, 90..91, Some("a"));
    assert_eq!(windows(&world, 5)[4], (50, 2));
}

/// The version runs, and it is said that state was dropped and how it is computed again.
fn assert_dropped(world: &World, applied: &Applied, operator: &str) {
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    let notice = &applied.notices["f"];
    assert_eq!(notice.code(), "flow.state-dropped");
    let message = notice.message(busbar_event::Language::En);
    assert!(
        message.contains(&format!("state of {operator} ")),
        "{message}"
    );
    assert!(
        message.contains("busbar replay f --from earliest"),
        "{message}"
    );
    let shown = world.flow("f").notice.unwrap();
    assert_eq!(shown.code(), "flow.state-dropped");
}

/// A keyed step under another name begins anew, and so does one that is taken out; it is said also where the node was ended in
/// between. In a flow that regroups, a step that keeps its name and reads other rows is refused, as where it does not.
#[test]
fn state_that_no_step_takes_up_is_told_of() {
    for partitions in [1, 3] {
        let mut world = World::new(75);
        let apply = |world: &World, steps: &str, replay: bool| {
            let mut files = files(steps);
            files[0].1 = format!("{}partitions: {partitions}\n", files[0].1);
            let files: Vec<(&str, &str)> =
                files.iter().map(|(path, text)| (*path, &**text)).collect();
            let project = project(&files);
            let applied = world.flows.apply_as(&project, 2, (replay, false));
            world.tokio.block_on(applied).unwrap()
        };
        let named =
            |name: &str| format!("  - dedupe: {{ name: {name}, by: [site], within: 1h }}\n");
        let first = apply(&world, &named("one"), false);
        assert!(
            first.failed.is_empty() && first.notices.is_empty(),
            "{first:?}"
        );
        publish(&world, 0..5, Some("a"));
        let until = Instant::now() + PATIENCE;
        while world.contents("out").is_empty() {
            assert!(Instant::now() < until, "{:#?}", world.flow("f"));
            rest(10);
        }
        world.settle("f");
        // The same again says nothing.
        let around = format!("{}  - where: id >= 0\n", named("one"));
        let same = apply(&world, &around, false);
        assert!(
            same.failed.is_empty() && same.notices.is_empty(),
            "{same:?}"
        );
        assert_dropped(&world, &apply(&world, &named("two"), false), "one");
        publish(&world, 5..9, Some("a"));
        world.settle("f");
        world = world.restart(true);
        assert_dropped(&world, &apply(&world, "  - where: id >= 0\n", false), "two");
        // What is gone is told of once.
        let later = apply(&world, "  - where: id >= 1\n", false);
        assert!(
            later.failed.is_empty() && later.notices.is_empty(),
            "{later:?}"
        );
        // Everything is computed again where that is asked for, and nothing is said.
        publish(&world, 9..10, Some("a"));
        assert!(apply(&world, &window("10s"), false).failed.is_empty());
        publish(&world, 10..12, Some("a"));
        world.settle("f");
        let wider = window("10s").replace("min(id) as id", "min(id) as id, max(id) as last");
        let refused = apply(&world, &wider, false);
        assert_eq!(
            refused.failed["f"].code(),
            "flow.state-changed",
            "{partitions}"
        );
        assert_eq!(world.flow("f").state, FlowState::Running);
        let replayed = apply(&world, &wider, true);
        assert!(
            replayed.failed.is_empty() && replayed.notices.is_empty(),
            "{replayed:?}"
        );
    }
}

/// A step that holds events is not taken out before they have come out, or before somebody asks for everything to be computed
/// again; not after a crash either.
#[test]
fn a_step_that_holds_events_is_not_taken_out() {
    for (step, operator, held) in [
        ("delay: { for: 1h }", "delay-1", 3),
        ("throttle: { events: 1, every: 1h }", "throttle-1", 2),
        (
            "resequence: { by: [site], order: id, within: 1h, first: 0 }",
            "resequence-1",
            3,
        ),
        (
            "aggregate: { by: [site], count: 100, within: 1h, select: 'site, min(id) as id' }",
            "aggregate-1",
            3,
        ),
    ] {
        let mut world = World::new(76);
        let steps = format!("  - {step}\n");
        let without = "  - where: id >= 0\n";
        assert!(apply(&world, &steps, false).failed.is_empty(), "{step}");
        publish(&world, 1..4, Some("a"));
        world.settle("f");
        let refused = |world: &World| {
            let refused = apply(world, without, false);
            let error = &refused.failed["f"];
            assert_eq!(error.code(), "flow.state-holds", "{step}");
            let message = error.message(busbar_event::Language::En);
            for word in [&*format!("{operator}: {held}"), "--replay"] {
                assert!(message.contains(word), "{message}");
            }
        };
        refused(&world);
        assert_eq!(world.flow("f").state, FlowState::Running);
        // What is committed says it, too: a version that does not run commits at its end.
        let mut files = files(&steps);
        files[2].1.push_str("enabled: false\n");
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, &**text)).collect();
        world.apply(&files);
        refused(&world);
        world = world.restart(true);
        refused(&world);
        assert!(apply(&world, &steps, false).failed.is_empty(), "{step}");
        // Four hours later they come out, and what comes then is held.
        publish(&world, 14_400..14_401, Some("a"));
        until_ids(&world, |ids| ids.contains(&1));
        publish(&world, 14_401..14_402, Some("a"));
        world.settle("f");
        // With a replay everything is computed again.
        let replayed = apply(&world, without, true);
        assert!(replayed.failed.is_empty(), "{replayed:?}");
        until_ids(&world, |ids| ids.iter().eq(&[1, 2, 3, 14_400, 14_401]));
    }
}

/// Waits for the ids that have come out.
fn until_ids(world: &World, are_there: impl Fn(&BTreeSet<i64>) -> bool) {
    let until = Instant::now() + PATIENCE;
    loop {
        let rows = world.contents("out");
        let ids = rows.iter().filter_map(|(_, row)| row["id"].as_i64());
        let ids: BTreeSet<i64> = ids.collect();
        if are_there(&ids) {
            return;
        }
        assert!(Instant::now() < until, "{ids:?} {:#?}", world.flow("f"));
        rest(10);
    }
}

/// What an output refuses of the results of windows is made of many events, and cannot go in again.
#[test]
fn dead_results_of_a_flow_with_state_are_not_sent_again() {
    let world = World::new(72);
    apply(&world, &window("10s"), false);
    // Without a site there is no topic.
    publish(&world, 0..5, None);
    publish(&world, 12..13, Some("a"));
    let until = Instant::now() + PATIENCE;
    while world.contents(busbar_flow::DEAD_LETTERS).is_empty() {
        assert!(Instant::now() < until, "{:#?}", world.flow("f"));
        rest(10);
    }
    let letters = world.flows.dead_letters(DeadFilter::default(), 10);
    let letters = world.tokio.block_on(letters).unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].place, "to:0");
    let sent = world.flows.redrive(DeadFilter::default(), "test");
    let sent = world.tokio.block_on(sent).unwrap();
    assert_eq!((sent.sent, sent.died, sent.refused), (0, 0, 1), "{sent:?}");
    let cause = sent.cause.unwrap();
    assert_eq!(cause.code(), "flow.redrive-results");
    let message = cause.message(busbar_event::Language::En);
    assert!(message.contains("busbar replay f --from TIME"), "{message}");
    // The letter stays open.
    let open = world.flows.dead_letters(DeadFilter::default(), 10);
    assert_eq!(world.tokio.block_on(open).unwrap().len(), 1);
}

#[test]
fn late_events_are_a_stream_that_can_be_asked() {
    let mut world = World::new(73);
    apply(&world, &window("10s"), false);
    publish(&world, 0..5, Some("a"));
    publish(&world, 30..31, Some("a"));
    publish(&world, 1..4, Some("b"));
    publish(&world, 5..7, Some("a"));
    let until = Instant::now() + PATIENCE;
    while world.contents("f.late").len() < 5 {
        assert!(Instant::now() < until, "{:#?}", world.flow("f"));
        rest(10);
    }
    for _ in 0..2 {
        let status = world.settle("f");
        assert_eq!(status.conservation.difference, 0, "{status:#?}");
        assert_eq!(ids(&world.contents("f.late")), [1, 2, 3, 5, 6]);
        let streams = Arc::new(Streams(world.bus.clone()));
        let engine = Engine::new(streams, QueryLimits::default()).unwrap();
        let query = "select count(*) as n from \"f.late\" \
                     where json_get(payload, 'site') = 'b' and json_get(payload, 'id')::bigint > 1";
        let rows = world.tokio.block_on(async {
            let mut result = engine.query(query).await.unwrap();
            result.collect().await.unwrap()
        });
        let counts = rows.iter().filter(|batch| batch.num_rows() > 0);
        let counts = counts.map(|batch| {
            let numbers =
                arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(batch.column(0));
            numbers.value(0)
        });
        assert_eq!(counts.collect::<Vec<_>>(), [2]);
        world = world.restart(true);
        apply(&world, &window("10s"), false);
    }
    // A flow reads declared streams; what is late belongs to the flow that found it so.
    let reader = "from: f.late\nto:\n  - topic: out/x\n";
    let mut files = files(&window("10s"));
    files.push(("flows/g.yaml", reader.into()));
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, &**text)).collect();
    let bad = world.try_apply(&files).unwrap_err();
    assert!(bad[0].contains("no stream f.late"), "{bad:?}");
}

/// Columns that are added to a stream change nothing for the steps that do not read them. A column of another type does, and
/// the flow says so until somebody decides.
#[test]
fn a_column_more_keeps_the_state_and_another_type_does_not() {
    let world = World::new(74);
    let apply = |schema: &str, replay: bool| {
        let mut files = files(&window("10s"));
        files[0].1 = format!("topics: in/#\nformat: json\nschema: {{ {schema} }}\n");
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, &**text)).collect();
        let project = project(&files);
        let applied = world.flows.apply_as(&project, 2, (replay, false));
        world.tokio.block_on(applied).unwrap()
    };
    assert!(apply("id: int, site: text", false).failed.is_empty());
    publish(&world, 0..5, Some("a"));
    world.settle("f");
    let more = apply("more: float, id: int, site: text", false);
    assert!(more.failed.is_empty(), "{:?}", more.failed);
    publish(&world, 5..12, Some("a"));
    assert_eq!(windows(&world, 1), [(0, 10)]);
    let other = apply("id: float, site: text", false);
    assert_eq!(other.failed["f"].code(), "flow.state-changed");
    assert!(apply("id: float, site: text", true).failed.is_empty());
    let until = Instant::now() + PATIENCE;
    while world.contents("out").len() < 2 {
        assert!(Instant::now() < until, "{:#?}", world.flow("f"));
        rest(10);
    }
    assert_eq!(world.contents("out")[1].1["n"], 10);
}
