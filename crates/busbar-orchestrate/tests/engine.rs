//! The engine over a store that fails, over versions that cannot be compiled, and after the end of its process.

#![allow(missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use busbar_event::{Class, Error};
use busbar_orchestrate::limits::{EARLY_EVENT_MICROS, INSTANCE_BYTES_MAX};
use busbar_orchestrate::{
    CallOutcome, CommandReply, Definition, Happening, HeapStore, InstanceCommand, InstanceEngine,
    InstanceStatus, InstanceStore, Issue, Look, PartRules, PersonOrder, RulesCompiler, StoreChange,
    ValueMap,
};
use serde_json::{Value as Json, json};
use support::{TestRules, refused, spec, values};

/// A store that cannot be read for a while.
#[derive(Default)]
struct FlakyStore {
    kept: HeapStore,
    fails: AtomicBool,
}

impl InstanceStore for FlakyStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self.fails.load(Ordering::SeqCst) {
            true => Err(Error::new(Class::Transient, "orchestrate.disk")),
            false => self.kept.get(key),
        }
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, look: &mut Look<'_>) -> Result<(), Error> {
        self.kept.scan(prefix, after, look)
    }

    fn commit(&self, changes: &[StoreChange]) -> Result<(), Error> {
        self.kept.commit(changes)
    }
}

/// Compiles all versions but those with a part of this name.
struct Picky(&'static str);

impl RulesCompiler for Picky {
    fn compile(
        &self,
        name: &str,
        definition: &Arc<Definition>,
    ) -> Result<Arc<dyn PartRules>, Error> {
        if definition.parts.iter().any(|part| part.name == self.0) {
            let error = Error::new(Class::Configuration, "orchestrate.no-plan");
            return Err(error.with("name", name));
        }
        Ok(Arc::new(TestRules {
            definition: Arc::clone(definition),
            answer: Arc::new(|_| panic!("the engine calls nobody")),
        }))
    }
}

struct Process {
    store: Arc<FlakyStore>,
    engine: InstanceEngine,
    now: i64,
}

impl Process {
    fn over(store: &Arc<FlakyStore>) -> Process {
        let kept: Arc<dyn InstanceStore> = Arc::clone(store) as Arc<dyn InstanceStore>;
        Process {
            store: Arc::clone(store),
            engine: InstanceEngine::new(kept, Arc::new(Picky(""))),
            now: 0,
        }
    }

    fn deploy(&mut self, yaml: &str, compiler: Picky) -> Result<(), Error> {
        let specs = BTreeMap::from([("o".to_owned(), spec(yaml))]);
        self.engine.deploy(&specs, Arc::new(compiler), self.now)
    }

    fn apply(&mut self, command: InstanceCommand) -> CommandReply {
        self.engine.apply(command, self.now)
    }

    fn start(&mut self, input: Json) -> CommandReply {
        let (name, input) = ("o".to_owned(), values(input));
        self.apply(InstanceCommand::Start { name, input })
    }

    fn end(&mut self, key: &str, place: &str, outcome: CallOutcome) -> CommandReply {
        self.apply(InstanceCommand::Happens {
            name: "o".to_owned(),
            key: key.to_owned(),
            what: Happening::Called {
                place: place.to_owned(),
                undo: false,
                number: 1,
                tries: 1,
                outcome,
            },
        })
    }

    fn event(&mut self, value: &str) -> CommandReply {
        self.apply(InstanceCommand::Event {
            name: "o".to_owned(),
            part: "paid".to_owned(),
            value: value.to_owned(),
            values: ValueMap::new(),
        })
    }

    /// Commits; the calls that are made then, each with its instance, and an `!` where it undoes.
    fn commit(&mut self) -> Vec<String> {
        let changes = self.engine.take_changes();
        self.store.commit(&changes).expect("in memory");
        let issues = self.engine.take_issues().into_iter();
        let calls = issues.filter_map(|issue| match issue {
            Issue::Call {
                instance: (_, key),
                place,
                undo,
                ..
            } => Some(format!("{key} {place}{}", if undo { "!" } else { "" })),
            Issue::Alarm {
                instance: (_, key),
                failure,
                ..
            } => {
                let code = failure.map_or_else(String::new, |failure| failure.code);
                Some(format!("{key} needs a person: {code}"))
            }
            _ => None,
        });
        calls.collect()
    }
}

const TWO: &str = "
key: id
parts:
- { name: a, call: { connection: s }, compensate: { connection: s } }
- { name: b, call: { connection: s } }
";

const PAID: &str = "
key: id
parts:
- { name: paid, event: { stream: s, by: id } }
- { name: sent, call: { connection: s } }
";

const PAID_BEFORE: &str = "
key: id
parts:
- { name: paid, event: { stream: s, by: id } }
- { name: old, call: { connection: s } }
";

#[test]
fn a_call_under_way_at_the_end_of_the_process_is_undone_when_it_is_refused_afterwards() {
    let store = Arc::new(FlakyStore::default());
    let mut first = Process::over(&store);
    first.deploy(TWO, Picky("")).expect("deployed");
    first.start(json!({ "id": "k" }));
    assert_eq!(first.commit(), ["k a"]);
    let mut next = Process::over(&store);
    next.deploy(TWO, Picky("")).expect("deployed");
    assert_eq!(next.commit(), ["k a"]);
    // The service may know the request from before, and refuse it for that.
    next.end("k", "a", refused("orchestrate.fail"));
    assert_eq!(next.commit(), ["k a!"]);
}

#[test]
fn an_instance_that_has_become_too_large_waits_for_a_person_over_restarts() {
    let three = "
key: id
parts:
- { name: a, call: { connection: s }, compensate: { connection: s } }
- { name: b, call: { connection: s } }
- { name: c, call: { connection: s } }
";
    let order = |order| InstanceCommand::Happens {
        name: "o".to_owned(),
        key: "k".to_owned(),
        what: Happening::Order(order, "ann".to_owned()),
    };
    let is_stuck = |process: &Process| {
        let counts = process.engine.counts();
        counts.get(&("o".to_owned(), InstanceStatus::Stuck)) == Some(&1)
    };
    let store = Arc::new(FlakyStore::default());
    let mut first = Process::over(&store);
    first.deploy(three, Picky("")).expect("deployed");
    first.start(json!({ "id": "k" }));
    assert_eq!(first.commit(), ["k a"]);
    let large = values(json!({ "scan": "x".repeat(INSTANCE_BYTES_MAX) }));
    first.end("k", "a", CallOutcome::Answered(large));
    // What had begun in the same step goes on; nothing begins behind it.
    assert_eq!(
        first.commit(),
        ["k b", "k needs a person: orchestrate.instance-large"]
    );
    assert!(is_stuck(&first));
    first.end("k", "b", CallOutcome::Answered(ValueMap::new()));
    assert!(first.commit().is_empty());
    let mut next = Process::over(&store);
    next.deploy(three, Picky("")).expect("deployed");
    assert_eq!(
        next.commit(),
        ["k needs a person: orchestrate.instance-large"]
    );
    assert!(is_stuck(&next));
    let CommandReply::Refused(refusal) = next.apply(order(PersonOrder::Retry)) else {
        panic!("it would only grow")
    };
    assert_eq!(refusal.code(), "orchestrate.instance-large");
    assert!(next.commit().is_empty());
    next.apply(order(PersonOrder::Cancel));
    assert_eq!(next.commit(), ["k a!"]);
}

#[test]
fn an_event_reaches_all_who_wait_but_the_one_that_cannot_go_on() {
    let store = Arc::new(FlakyStore::default());
    let mut process = Process::over(&store);
    process.deploy(PAID_BEFORE, Picky("")).expect("deployed");
    process.start(json!({ "id": "k1", "for": "x" }));
    assert!(process.commit().is_empty());
    process.deploy(PAID, Picky("old")).expect("deployed");
    process.start(json!({ "id": "k2", "for": "x" }));
    assert!(process.commit().is_empty());
    assert!(matches!(process.event("x"), CommandReply::Refused(_)));
    assert_eq!(process.commit(), ["k2 sent"]);
    // Once it can, it gets the event, which became a dead letter and is sent again.
    process.deploy(PAID, Picky("")).expect("deployed");
    process.event("x");
    assert_eq!(process.commit(), ["k1 old"]);
}

#[test]
fn an_answer_and_a_time_that_come_while_the_disk_cannot_be_read_count_afterwards() {
    let store = Arc::new(FlakyStore::default());
    let mut process = Process::over(&store);
    let waits = "
key: id
parts:
- { name: a, call: { connection: s } }
- { name: w, wait: 1s }
- { name: b, call: { connection: s } }
";
    process.deploy(waits, Picky("")).expect("deployed");
    process.start(json!({ "id": "k" }));
    assert_eq!(process.commit(), ["k a"]);
    let answer = Happening::Called {
        place: "a".to_owned(),
        undo: false,
        number: 1,
        tries: 1,
        outcome: CallOutcome::Answered(ValueMap::new()),
    };
    for (what, calls) in [(answer, &[][..]), (Happening::Time, &["k b"])] {
        store.fails.store(true, Ordering::SeqCst);
        let (name, key) = ("o".to_owned(), "k".to_owned());
        let said = process.apply(InstanceCommand::Happens { name, key, what });
        assert!(matches!(said, CommandReply::Refused(_)));
        let now = process.now;
        process.engine.take_postponed(now);
        assert!(process.commit().is_empty());
        store.fails.store(false, Ordering::SeqCst);
        process.engine.take_postponed(now);
        assert_eq!(process.commit(), calls);
        process.now += 2_000_000;
    }
    // Nothing is postponed any more.
    let now = process.now;
    process.engine.take_postponed(now);
    assert!(process.commit().is_empty());
}

#[test]
fn an_event_that_takes_the_place_of_one_that_is_over_is_kept() {
    let store = Arc::new(FlakyStore::default());
    let mut process = Process::over(&store);
    process.deploy(PAID, Picky("")).expect("deployed");
    process.event("k");
    process.commit();
    process.now = EARLY_EVENT_MICROS + 1;
    process.event("k");
    let now = process.now;
    process.engine.forget(now).expect("read");
    process.commit();
    process.start(json!({ "id": "k" }));
    assert_eq!(process.commit(), ["k sent"]);
}

#[test]
fn instances_go_on_once_after_a_deployment_that_has_failed() {
    let store = Arc::new(FlakyStore::default());
    let mut first = Process::over(&store);
    first.deploy(TWO, Picky("")).expect("deployed");
    for key in ["k1", "k2"] {
        first.start(json!({ "id": key }));
    }
    first.commit();
    let mut next = Process::over(&store);
    store.fails.store(true, Ordering::SeqCst);
    next.deploy(TWO, Picky("")).expect_err("not read");
    assert!(next.commit().is_empty());
    store.fails.store(false, Ordering::SeqCst);
    next.deploy(TWO, Picky("")).expect("deployed");
    assert_eq!(next.commit(), ["k1 a", "k2 a"]);
    let running = ("o".to_owned(), InstanceStatus::Running);
    assert_eq!(next.engine.counts().get(&running), Some(&2));
    // One that does not fit leaves those before as they are.
    next.deploy(PAID_BEFORE, Picky("old"))
        .expect_err("no rules");
    assert!(next.commit().is_empty());
    let started = next.start(json!({ "id": "k3" }));
    assert!(matches!(started, CommandReply::Started(_)), "{started:?}");
    assert_eq!(next.commit(), ["k3 a"]);
}
