//! The machine alone: case by case, and with random orchestrations and answers.

#![allow(missing_docs)]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use busbar_orchestrate::limits::HISTORY_RECORDS_MAX;
use busbar_orchestrate::{
    CallOutcome, Definition, Happened, Happening, HistoryRecord, Instance, InstanceStatus,
    PersonOrder, ValueMap, Waiting,
};
use proptest::prelude::*;
use serde_json::json;
use support::{TestRules, lost, refused, spec, values};

struct Run {
    definition: Arc<Definition>,
    rules: TestRules,
    instance: Instance,
    history: Vec<HistoryRecord>,
    now: i64,
}

impl Run {
    fn new(yaml: &str) -> Run {
        Run::of(Definition::new(spec(yaml)))
    }

    fn of(definition: Definition) -> Run {
        let definition = Arc::new(definition);
        let rules = TestRules {
            definition: Arc::clone(&definition),
            answer: Arc::new(|_| panic!("the machine calls nobody")),
        };
        let input = values(json!({ "id": "k", "yes": true, "list": [1, 2] }));
        let first = ("k".to_owned(), input);
        let (instance, history) = Instance::start(&definition, &rules, ("o", 1), first, 0);
        Run {
            definition,
            rules,
            instance,
            history,
            now: 0,
        }
    }

    fn step(&mut self, what: Happening) {
        // What is on the disk is all that there is.
        let kept = serde_json::to_vec(&self.instance).expect("written");
        self.instance = serde_json::from_slice(&kept).expect("read");
        let records = self
            .instance
            .step(&self.definition, &self.rules, what, self.now);
        self.history.extend(records.expect("a step"));
    }

    fn calls(&self) -> Vec<(String, bool)> {
        let waiting = self.instance.waiting(&self.definition).into_iter();
        let calls = waiting.filter_map(|wait| match wait {
            Waiting::Call { place, undo, .. } => Some((place, undo)),
            _ => None,
        });
        calls.collect()
    }

    fn end(&mut self, wanted: &str, outcome: CallOutcome) {
        let waiting = self.instance.waiting(&self.definition).into_iter();
        let call = waiting.into_iter().find_map(|wait| match wait {
            Waiting::Call {
                place,
                undo,
                number,
                tries,
                ..
            } if place == wanted => Some((place, undo, number, tries)),
            _ => None,
        });
        let (place, undo, number, tries) = call.unwrap_or_else(|| panic!("no call at {wanted}"));
        self.step(Happening::Called {
            place,
            undo,
            number,
            tries,
            outcome,
        });
    }

    fn answer(&mut self, place: &str) {
        self.end(place, CallOutcome::Answered(ValueMap::new()));
    }

    fn places(&self, what: Happened) -> Vec<&str> {
        let of = self.history.iter().filter(|record| record.what == what);
        of.map(|record| record.place.as_str()).collect()
    }
}

const TWO: &str = "
key: id
parts:
- { name: a, call: { connection: s }, compensate: { connection: s }, retry: { tries: 2, first: 1s } }
- { name: b, call: { connection: s }, compensate: { connection: s }, retry: { tries: 2, first: 1s } }
";

#[test]
fn what_was_done_is_undone_in_reverse_order() {
    let mut run = Run::new(TWO);
    run.answer("a");
    run.end("b", refused("orchestrate.fail"));
    // It was refused, so there is nothing to undo of it.
    assert_eq!(run.calls(), [("a".to_owned(), true)]);
    run.answer("a");
    assert_eq!(run.instance.status, InstanceStatus::Failed);
}

#[test]
fn a_call_that_nobody_knows_the_outcome_of_is_undone_too() {
    let mut run = Run::new(TWO);
    run.answer("a");
    run.end("b", lost());
    assert_eq!(run.calls(), []);
    run.now = 1_000_000;
    run.step(Happening::Time);
    run.end("b", lost());
    run.answer("b");
    run.answer("a");
    assert_eq!(run.places(Happened::Undone), ["b", "a"]);
    assert_eq!(run.instance.status, InstanceStatus::Failed);
}

#[test]
fn an_answer_of_an_earlier_try_counts_for_nothing() {
    let mut run = Run::new(TWO);
    run.end("a", lost());
    let before = run.instance.clone();
    let late = Happening::Called {
        place: "a".to_owned(),
        undo: false,
        number: 1,
        tries: 1,
        outcome: CallOutcome::Answered(ValueMap::new()),
    };
    run.step(late);
    assert_eq!(run.instance, before);
}

#[test]
fn a_compensation_that_is_refused_waits_for_a_person() {
    let mut run = Run::new(TWO);
    run.answer("a");
    run.end("b", refused("orchestrate.fail"));
    run.end("a", refused("orchestrate.fail"));
    assert_eq!(run.instance.status, InstanceStatus::Stuck);
    let waiting = run.instance.waiting(&run.definition);
    assert!(
        matches!(&waiting[..], [Waiting::Decision { undo: true, .. }]),
        "{waiting:?}"
    );
    run.step(Happening::Order(PersonOrder::Retry, "eve".to_owned()));
    // A request that was refused is another one now.
    assert!(matches!(
        &run.instance.waiting(&run.definition)[..],
        [Waiting::Call {
            undo: true,
            number: 2,
            ..
        }]
    ));
    run.end("a", refused("orchestrate.fail"));
    run.step(Happening::Order(PersonOrder::Skip, "eve".to_owned()));
    assert_eq!(run.instance.status, InstanceStatus::Failed);
    assert_eq!(run.instance.skipped, ["a"]);
    // From the beginning, with keys of its own.
    run.step(Happening::Order(PersonOrder::Retry, "eve".to_owned()));
    assert_eq!(run.instance.run, 2);
    assert_eq!(run.calls(), [("a".to_owned(), false)]);
}

#[test]
fn a_part_that_fails_waits_for_a_person_where_the_file_says_so() {
    let mut run = Run::new(&TWO.replace("key: id", "key: id\non_failure: wait"));
    run.answer("a");
    run.end("b", refused("orchestrate.fail"));
    assert_eq!(run.instance.status, InstanceStatus::Stuck);
    run.step(Happening::Order(PersonOrder::Retry, "eve".to_owned()));
    run.answer("b");
    assert_eq!(run.instance.status, InstanceStatus::Done);
}

#[test]
fn a_paused_instance_begins_nothing_and_ends_what_it_has_begun() {
    let mut run = Run::new(TWO);
    run.step(Happening::Order(PersonOrder::Pause, "eve".to_owned()));
    run.answer("a");
    assert_eq!(run.calls(), []);
    run.step(Happening::Order(PersonOrder::Resume, "eve".to_owned()));
    assert_eq!(run.calls(), [("b".to_owned(), false)]);
    run.step(Happening::Order(PersonOrder::Cancel, "eve".to_owned()));
    // The call that is under way is waited for, and then undone.
    assert_eq!(run.calls(), [("b".to_owned(), false)]);
    run.answer("b");
    run.answer("b");
    run.answer("a");
    assert_eq!(run.instance.status, InstanceStatus::Cancelled);
}

#[test]
fn an_instance_with_a_long_history_waits_for_a_person_and_goes_on_or_back() {
    let outgrown = || {
        let mut run = Run::new(TWO);
        run.instance.records = HISTORY_RECORDS_MAX;
        run.answer("a");
        assert_eq!(run.instance.status, InstanceStatus::Stuck);
        assert_eq!(run.calls(), [], "nothing new begins");
        let stuck: Vec<_> = run.history.iter().rev().take(1).collect();
        assert_eq!(stuck[0].what, Happened::Stuck);
        let failure = stuck[0].failure.as_ref().expect("a cause");
        assert_eq!(failure.code, "orchestrate.history-long");
        assert_eq!(
            run.instance.stuck_at(&run.definition, "").as_ref(),
            Some(failure)
        );
        let waiting = run.instance.waiting(&run.definition);
        assert!(
            matches!(&waiting[..], [Waiting::Decision { place, undo: false, .. }] if place.is_empty()),
            "{waiting:?}"
        );
        // Time and pauses change nothing of it.
        run.step(Happening::Time);
        run.step(Happening::Order(PersonOrder::Pause, "ann".to_owned()));
        run.step(Happening::Order(PersonOrder::Resume, "ann".to_owned()));
        assert_eq!(run.instance.status, InstanceStatus::Stuck);
        assert_eq!(run.calls(), []);
        run
    };
    // A call that was under way may fail: then it goes back by itself.
    let mut run = Run::new(TWO);
    run.answer("a");
    run.instance.records = HISTORY_RECORDS_MAX + 1;
    run.step(Happening::Time);
    assert_eq!(run.instance.status, InstanceStatus::Stuck);
    run.end("b", refused("orchestrate.fail"));
    assert_eq!(run.instance.status, InstanceStatus::Undoing);
    assert_eq!(run.calls(), [("a".to_owned(), true)]);
    // It may write as many records again.
    let mut run = outgrown();
    run.step(Happening::Order(PersonOrder::Retry, "ann".to_owned()));
    assert_eq!(run.calls(), [("b".to_owned(), false)]);
    run.answer("b");
    assert_eq!(run.instance.status, InstanceStatus::Done);
    // Or what it has done is undone; then it may begin again.
    let mut run = outgrown();
    run.step(Happening::Order(PersonOrder::Cancel, "ann".to_owned()));
    assert_eq!(run.calls(), [("a".to_owned(), true)]);
    run.answer("a");
    assert_eq!(run.instance.status, InstanceStatus::Cancelled);
    run.step(Happening::Order(PersonOrder::Retry, "ann".to_owned()));
    assert_eq!(run.calls(), [("a".to_owned(), false)]);
    assert_eq!(run.instance.status, InstanceStatus::Running);
}

#[test]
fn waiting_ends_with_its_time() {
    let mut run = Run::new(
        "
key: id
parts:
- { name: rest, wait: 10s }
- { name: paid, event: { stream: s, by: x, within: 5s, late: continue } }
- { name: asked, person: { title: t, within: 5s } }
",
    );
    run.now = 9_999_999;
    run.step(Happening::Time);
    assert_eq!(run.places(Happened::Woken), [""; 0]);
    run.now = 10_000_000;
    run.step(Happening::Time);
    run.now = 15_000_000;
    run.step(Happening::Time);
    assert_eq!(run.places(Happened::Woken), ["rest", "paid"]);
    run.now = 20_000_000;
    run.step(Happening::Time);
    assert_eq!(run.instance.status, InstanceStatus::Failed);
}

/// Lists of parts, with names by their numbers.
fn bodies() -> impl Strategy<Value = Shape> {
    let leaf = prop_oneof![
        6 => any::<bool>().prop_map(Shape::Call),
        1 => Just(Shape::Set),
        1 => Just(Shape::Wait),
        1 => Just(Shape::Fail),
    ];
    let part = leaf.prop_recursive(3, 12, 3, |inner| {
        let list = prop::collection::vec(inner, 1..3);
        prop_oneof![
            list.clone().prop_map(Shape::Branch),
            prop::collection::vec(list.clone(), 1..3).prop_map(Shape::Parallel),
            (list, 1u16..3).prop_map(|(list, at_once)| Shape::Each(list, at_once)),
        ]
    });
    prop::collection::vec(part, 1..5).prop_map(Shape::Branch)
}

#[derive(Clone, Debug)]
enum Shape {
    Call(bool),
    Set,
    Wait,
    Fail,
    Branch(Vec<Shape>),
    Parallel(Vec<Vec<Shape>>),
    Each(Vec<Shape>, u16),
}

fn part(shape: &Shape, next: &mut u32) -> serde_json::Value {
    *next += 1;
    let name = format!("p{next}");
    let list = |shapes: &[Shape], next: &mut u32| {
        shapes
            .iter()
            .map(|shape| part(shape, next))
            .collect::<Vec<_>>()
    };
    match shape {
        Shape::Call(true) => {
            json!({ "name": name, "call": { "connection": "s" }, "compensate": { "connection": "s" } })
        }
        Shape::Call(false) => json!({ "name": name, "call": { "connection": "s" } }),
        Shape::Set => json!({ "name": name, "set": name }),
        Shape::Wait => json!({ "name": name, "wait": "1s" }),
        Shape::Fail => json!({ "name": name, "fail": "no" }),
        Shape::Branch(parts) => {
            json!({ "name": name, "branch": [{ "when": "yes", "parts": list(parts, next) }] })
        }
        Shape::Parallel(lists) => {
            let lists: Vec<_> = lists.iter().map(|parts| list(parts, next)).collect();
            json!({ "name": name, "parallel": lists })
        }
        Shape::Each(parts, at_once) => json!({ "name": name, "each": {
            "list": "list", "columns": [{ "name": "item", "type": "int" }], "parts": list(parts, next),
            "at_once": at_once, "gather": format!("{name}_all"),
        }}),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever parts there are and whatever calls bring: the instance ends, what it has done is undone exactly when it has
    /// failed, the last first, and its state survives being written and read at each step.
    #[test]
    fn every_instance_ends_and_leaves_nothing_half_done(
        shape in bodies(),
        rolls in prop::collection::vec(0u32..100, 200),
    ) {
        let mut next = 0;
        let body = part(&shape, &mut next);
        let spec = serde_json::from_value(json!({ "key": "id", "parts": [body] })).expect("a spec");
        let mut run = Run::of(Definition::new(spec));
        let mut rolls = rolls.into_iter().cycle();
        let mut roll = || rolls.next().expect("a roll");
        // Calls with something to undo that have taken effect, in order.
        let mut effects: Vec<String> = Vec::new();
        for _ in 0..5_000 {
            if run.instance.status.has_ended() {
                break;
            }
            let waiting = run.instance.waiting(&run.definition);
            prop_assert!(!waiting.is_empty(), "{:?} waits for nothing", run.instance);
            let at = roll() as usize % waiting.len();
            match waiting[at].clone() {
                Waiting::Call { place, part, undo, number, tries } => {
                    let outcome = match roll() {
                        0..8 => lost(),
                        // A compensation that is refused would wait for a person.
                        8..14 if !undo => refused("orchestrate.fail"),
                        14..20 => CallOutcome::Later(5),
                        _ => CallOutcome::Answered(ValueMap::new()),
                    };
                    if matches!(outcome, CallOutcome::Answered(_)) {
                        match undo {
                            false if run.definition.parts[part].compensates => effects.push(place.clone()),
                            true => effects.retain(|known| *known != place),
                            false => {}
                        }
                    }
                    run.step(Happening::Called { place, undo, number, tries, outcome });
                }
                Waiting::Timer(at) => {
                    run.now = run.now.max(at);
                    run.step(Happening::Time);
                }
                Waiting::Decision { .. } => {
                    run.step(Happening::Order(PersonOrder::Retry, "eve".to_owned()));
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
        prop_assert!(run.instance.status.has_ended(), "{:?}", run.instance);
        let undone = run.places(Happened::Undone);
        if run.instance.status == InstanceStatus::Done {
            prop_assert!(undone.is_empty());
        } else {
            prop_assert!(effects.is_empty(), "not undone: {effects:?}");
            let answered = run.places(Happened::Answered);
            let known: BTreeSet<&str> = answered.iter().copied().collect();
            let undone: Vec<&str> = undone.into_iter().filter(|place| known.contains(place)).collect();
            let compensated: BTreeSet<&str> = undone.iter().copied().collect();
            let expected = answered.into_iter().rev().filter(|place| compensated.contains(place));
            prop_assert_eq!(undone, expected.collect::<Vec<_>>());
        }
        // Numbers of records have no holes.
        let numbers: Vec<u64> = run.history.iter().map(|record| record.number).collect();
        prop_assert_eq!(numbers, (0..run.instance.records).collect::<Vec<_>>());
    }
}
