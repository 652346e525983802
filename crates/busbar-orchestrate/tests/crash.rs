//! The executor is ended again and again while services fail, answer late, or do their work and lose the answer. Whatever
//! happens: what a service sees is on the disk before, each part of an instance that is done was done, all that an
//! instance that has failed did is undone, and there is one instance for each key.

#![allow(missing_docs)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use busbar_log::SystemClock;
use busbar_orchestrate::{
    CallOutcome, Executor, ExecutorOptions, Instance, InstanceFilter, InstanceStatus,
    InstanceStore, Notices, PartFailure, ValueMap,
};
use parking_lot::Mutex;
use serde_json::json;
use support::{Call, CutStore, Dice, Ledger, TestCompiler, lost, refused, spec, values};

const ORDER: &str = "
key: id
parts:
- name: stock
  call: { connection: s }
  compensate: { connection: s }
  retry: { tries: 1000, first: 1ms, most: 4ms }
- name: both
  parallel:
  - - name: points
      call: { connection: s }
      compensate: { connection: s }
      retry: { tries: 1000, first: 1ms, most: 4ms }
  - - name: lines
      each:
        list: lines
        columns: { item: int }
        at_once: 2
        parts:
        - name: line
          call: { connection: s }
          compensate: { connection: s }
          retry: { tries: 1000, first: 1ms, most: 4ms }
- name: pay
  call: { connection: s }
  compensate: { connection: s }
  retry: { tries: 1000, first: 1ms, most: 4ms }
";

const INSTANCES: usize = 40;
const ENDS: usize = 25;

struct Quiet;

impl Notices for Quiet {
    fn stuck(&self, of: (&str, &str), place: &str, _: bool, failure: Option<&PartFailure>) {
        panic!("{of:?} is stuck at {place}: {failure:?}");
    }
}

struct World {
    ledger: Mutex<Ledger>,
    dice: Dice,
    /// Calls that came before they were on the disk.
    early: AtomicU64,
}

impl World {
    fn answer(&self, store: &CutStore, call: &Call) -> CallOutcome {
        let id = call.values["id"].as_str().expect("an id");
        if !is_recorded(store, id, call) {
            self.early.fetch_add(1, Ordering::SeqCst);
        }
        match self.dice.roll(10) {
            // It did not arrive.
            0 => return lost(),
            1 => return CallOutcome::Later(1_000),
            _ => {}
        }
        let fate: usize = id.parse().expect("a number");
        if call.part == "pay" && !call.undo && fate.is_multiple_of(3) {
            return refused("orchestrate.fail");
        }
        self.ledger.lock().take(call);
        match self.dice.roll(8) {
            // It was done, and the answer is lost.
            0 => lost(),
            _ => CallOutcome::Answered(ValueMap::new()),
        }
    }
}

/// Whether the history on the disk says that this call is made.
fn is_recorded(store: &CutStore, id: &str, call: &Call) -> bool {
    let instance = store.get(&[b"iorder\0", id.as_bytes()].concat());
    let Some(instance) = instance.expect("in memory") else {
        return false;
    };
    let instance: Instance = serde_json::from_slice(&instance).expect("an instance");
    let definition = busbar_orchestrate::Definition::new(spec(ORDER));
    // A process that was ended may see its last calls answered after the next has gone on.
    store.is_cut.load(Ordering::SeqCst)
        || instance.waiting(&definition).iter().any(|wait| {
            matches!(wait, busbar_orchestrate::Waiting::Call { place, undo, number, .. }
                if *undo == call.undo && instance.idempotency_key(place, *number, *undo) == call.key)
        })
}

async fn process(world: &Arc<World>, store: &CutStore) -> Executor {
    let (asked, own) = (Arc::clone(world), store.clone());
    let compiler = Arc::new(TestCompiler(Arc::new(move |call: &Call| {
        asked.answer(&own, call)
    })));
    let options = ExecutorOptions {
        store: Arc::new(store.clone()),
        clock: Arc::new(SystemClock),
        notices: Arc::new(Quiet),
    };
    let executor = Executor::start(options, compiler.clone()).expect("a thread");
    let specs = BTreeMap::from([("order".to_owned(), spec(ORDER))]);
    executor.deploy(specs, compiler).await.expect("deployed");
    executor
}

fn input(id: usize) -> ValueMap {
    values(json!({ "id": id.to_string(), "lines": [1, 2, 3] }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_process_ends_at_any_moment() {
    let world = Arc::new(World {
        ledger: Mutex::default(),
        dice: Dice::new(7),
        early: AtomicU64::new(0),
    });
    let mut store = CutStore::default();
    let mut executor = process(&world, &store).await;
    let mut begun = BTreeSet::new();
    for end in 0..ENDS {
        for id in 0..INSTANCES * (end + 1) / ENDS {
            // Those that began earlier are found; a start whose answer was lost is made again.
            let started = executor.begin("order", input(id)).await.expect("started");
            let is_new = begun.insert(id);
            assert!(is_new || started.existed, "a second instance of {id}");
        }
        tokio::time::sleep(Duration::from_micros(200 * world.dice.roll(60))).await;
        store = store.after_end();
        let old = executor.clone();
        tokio::task::spawn_blocking(move || old.stop())
            .await
            .expect("stopped");
        executor = process(&world, &store).await;
    }
    let deadline = Instant::now() + Duration::from_secs(300);
    let all = loop {
        let filter = InstanceFilter {
            limit: 1000,
            ..InstanceFilter::default()
        };
        let (all, _) = executor.list("order", &filter).expect("a list");
        if all.len() == INSTANCES && all.iter().all(|one| one.status.has_ended()) {
            break all;
        }
        let at: Vec<_> = all
            .iter()
            .map(|one| (one.key.clone(), one.status))
            .collect();
        assert!(Instant::now() < deadline, "not all have ended: {at:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    tokio::task::spawn_blocking(move || executor.stop())
        .await
        .expect("stopped");
    let ledger = world.ledger.lock();
    for instance in &all {
        let fate: usize = instance.key.parse().expect("a number");
        let stem = format!("order/{}/1/", instance.key);
        let done: BTreeSet<&str> = ledger
            .done
            .iter()
            .filter_map(|key| key.strip_prefix(&stem))
            .collect();
        if fate.is_multiple_of(3) {
            assert_eq!(instance.status, InstanceStatus::Failed, "{}", instance.key);
            assert!(done.is_empty(), "{} was not undone: {done:?}", instance.key);
        } else {
            assert_eq!(instance.status, InstanceStatus::Done, "{}", instance.key);
            let parts = [
                "lines%5B0%5D.line/1",
                "lines%5B1%5D.line/1",
                "lines%5B2%5D.line/1",
                "pay/1",
                "points/1",
                "stock/1",
            ];
            assert_eq!(done, parts.into(), "{}", instance.key);
        }
    }
    assert_eq!(
        world.early.load(Ordering::SeqCst),
        0,
        "calls before they were on the disk"
    );
    let again = ledger.asked.values().filter(|count| **count > 1).count();
    assert!(again > 0, "no call was made again: the test shows nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_has_one_instance_however_many_ask_for_it() {
    let world = Arc::new(World {
        ledger: Mutex::default(),
        dice: Dice::new(3),
        early: AtomicU64::new(0),
    });
    let store = CutStore::default();
    let executor = process(&world, &store).await;
    let asks = (0..32).map(|at| {
        let executor = executor.clone();
        async move {
            executor
                .begin("order", input(1 + at % 2))
                .await
                .expect("started")
        }
    });
    let started = futures::future::join_all(asks).await;
    let new: Vec<&str> = started
        .iter()
        .filter(|started| !started.existed)
        .map(|started| started.key.as_str())
        .collect();
    assert_eq!(new.len(), 2, "{new:?}");
    for id in ["1", "2"] {
        let ended = tokio::time::timeout(Duration::from_secs(120), executor.ended("order", id));
        assert_eq!(
            ended.await.expect("in time").expect("ended").status,
            InstanceStatus::Done
        );
    }
    // The key is taken as long as the instance is kept, also after its end.
    assert!(
        executor
            .begin("order", input(1))
            .await
            .expect("found")
            .existed
    );
    tokio::task::spawn_blocking(move || executor.stop())
        .await
        .expect("stopped");
}
