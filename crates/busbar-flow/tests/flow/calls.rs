//! `call` steps: what is asked, how often, in which order results come, and who waits while a service is away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use busbar_catalog::{CallSpec, ConnectionSpec, Diagnostic};
use busbar_connector::{
    BreakerState, CallEscapes, CallFault, CallForm, CallParts, Connector, Connectors, Escape,
    Roles, Service, ServiceAnswer, ServiceContext, ServiceRequest, Work,
};
use busbar_event::{Class, Error};
use busbar_flow::limits::CALL_TRIES;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::json;

use crate::common::{PATIENCE, World, ids, rest};

const IN: (&str, &str) = (
    "streams/in.yaml",
    "topics: in/#\nformat: json\nschema: { id: int, site: text }\n",
);
const OUT: (&str, &str) = (
    "streams/out.yaml",
    "topics: out/#\nformat: json\nschema: { id: int, level: int }\n",
);
const SERVICE: (&str, &str) = ("connections/stations.yaml", "fake: {}\n");
const FLOW: &str = "from: in
steps:
  - call:
      connection: stations
      path: /levels/${id}?site=${site}
      answer: { level: int }
  - select: id, level
to:
  - stream: out
";

/// A service in memory.
#[derive(Default)]
struct Fake {
    /// All requests, in the order in which they came: the id and the key.
    asked: Mutex<Vec<(i64, String)>>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    /// It says "later" to everybody.
    down: AtomicBool,
    /// It says "later" so often to requests with these ids.
    later: Mutex<BTreeMap<i64, usize>>,
    /// It never answers requests with ids from here on.
    silent_from: Mutex<Option<i64>>,
}

impl Fake {
    fn asked_about(&self) -> Vec<i64> {
        self.asked.lock().iter().map(|(id, _)| *id).collect()
    }

    async fn answer(&self, request: &ServiceRequest) -> ServiceAnswer {
        let id = request
            .path
            .strip_prefix("/levels/")
            .and_then(|rest| rest.split('?').next());
        let id: i64 = id
            .and_then(|id| id.parse().ok())
            .expect("an id in the path");
        let key = request
            .headers
            .iter()
            .find(|(name, _)| name == "Idempotency-Key");
        let key = key.map(|(_, key)| key.clone()).unwrap_or_default();
        self.asked.lock().push((id, key));
        // The later ones of some that come together are answered first.
        for _ in 0..8 - id % 8 {
            tokio::task::yield_now().await;
        }
        if self.silent_from.lock().is_some_and(|from| id >= from) {
            std::future::pending::<()>().await;
        }
        let answer = |status, body: String| ServiceAnswer {
            status,
            body: body.into(),
            ..ServiceAnswer::default()
        };
        if self.down.load(Ordering::SeqCst) {
            return answer(503, "away".into());
        }
        if let Some(left) = self.later.lock().get_mut(&id)
            && *left > 0
        {
            *left -= 1;
            return answer(503, "busy".into());
        }
        match id {
            9999 => answer(500, "broken".into()),
            13 => answer(404, "no station 13".into()),
            14 => answer(200, "{\"level\": \"high\"}".into()),
            id => answer(200, json!({ "level": id * 10 }).to_string()),
        }
    }
}

impl Service for Fake {
    fn exchange<'a>(
        &'a self,
        request: &'a ServiceRequest,
    ) -> Work<'a, Result<ServiceAnswer, Error>> {
        Box::pin(async move {
            let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_under_way.fetch_max(now, Ordering::SeqCst);
            let answer = self.answer(request).await;
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            Ok(answer)
        })
    }
}

struct FakeForm;

impl CallForm for FakeForm {
    fn escapes(&self) -> CallEscapes {
        CallEscapes {
            path: Escape::Percent,
            body: Escape::Json,
        }
    }
    fn request(&self, parts: CallParts) -> Result<ServiceRequest, Error> {
        Ok(ServiceRequest {
            method: "GET".into(),
            path: parts.path,
            headers: parts.headers,
            body: parts.body.unwrap_or_default(),
            statement: None,
        })
    }
    fn answer(&self, answer: ServiceAnswer) -> Result<Bytes, Error> {
        let class = match answer.status {
            200 => return Ok(answer.body),
            500 | 503 => Class::Transient,
            _ => Class::Permanent,
        };
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        Err(Error::new(class, "connect.http-refused").with("said", said))
    }
}

/// The service, and the requests of processes before this one.
struct FakeConnector(Arc<Fake>);

impl Connector for FakeConnector {
    fn kind(&self) -> &'static str {
        "fake"
    }
    fn check(&self, _: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        Ok(Roles {
            service: true,
            ..Roles::default()
        })
    }
    fn schema(&self) -> serde_json::Value {
        json!({})
    }
    fn call_form(&self, _: &ConnectionSpec, _: &CallSpec) -> Result<Arc<dyn CallForm>, CallFault> {
        Ok(Arc::new(FakeForm))
    }
    fn service<'a>(
        &'a self,
        _: &'a ConnectionSpec,
        _: ServiceContext,
    ) -> Work<'a, Result<Arc<dyn Service>, Error>> {
        let service = Arc::clone(&self.0);
        Box::pin(async move { Ok(service as Arc<dyn Service>) })
    }
}

fn world(seed: u64) -> (Arc<Fake>, World) {
    let fake = Arc::new(Fake::default());
    let connector: Arc<dyn Connector> = Arc::new(FakeConnector(Arc::clone(&fake)));
    (fake, World::with(seed, Connectors::new([connector])))
}

fn events(ids: std::ops::Range<i64>) -> Vec<String> {
    ids.map(|id| format!(r#"{{"id":{id},"site":"a"}}"#))
        .collect()
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "{what} does not come");
        rest(5);
    }
}

#[test]
fn answers_become_columns_in_the_order_of_events_and_refusals_dead_letters() {
    let (fake, world) = world(71);
    world.apply(&[IN, OUT, SERVICE, ("flows/f.yaml", FLOW)]);
    world.publish("in/a", &events(0..1000));
    let status = world.settle("f");
    let good: Vec<i64> = (0..1000).filter(|id| ![13, 14].contains(id)).collect();
    let came = world.contents("out");
    assert_eq!(ids(&came), good);
    assert!(
        came.iter()
            .all(|(_, row)| row["level"] == json!(row["id"].as_i64().unwrap() * 10))
    );
    assert_eq!(status.conservation.counters.dead, 2);
    assert_eq!(status.conservation.difference, 0, "{status:#?}");
    let letters = world.flows.dead_letters(Default::default(), 10);
    let letters = world.tokio.block_on(letters).unwrap();
    assert!(
        letters.iter().all(|letter| letter.place == "step:0"),
        "{letters:?}"
    );
    let told = serde_json::to_string(&letters).unwrap();
    assert!(told.contains("no station 13"), "{told}");
    let most = fake.most_under_way.load(Ordering::SeqCst);
    assert!((2..=64).contains(&most), "{most} were under way");
    let keys: BTreeSet<_> = fake
        .asked
        .lock()
        .iter()
        .map(|(_, key)| key.clone())
        .collect();
    assert_eq!(keys.len(), 1000, "each event has a key of its own");
}

/// Each output with a cursor of its own gets what the service has answered once.
#[test]
fn a_service_is_asked_once_about_an_event_however_many_outputs_there_are() {
    let (fake, world) = world(77);
    let tables = [
        ("tables/a.yaml", "relational: {}\n"),
        ("tables/b.yaml", "relational: {}\n"),
    ];
    let flow = FLOW.replace("  - stream: out", "  - table: a\n  - table: b");
    world.apply(&[IN, SERVICE, tables[0], tables[1], ("flows/f.yaml", &flow)]);
    world.publish("in/a", &events(100..300));
    let status = world.settle("f");
    assert_eq!(status.conservation.difference, 0, "{status:#?}");
    let mut asked = fake.asked_about();
    asked.sort_unstable();
    let expected: Vec<i64> = (100..300).collect();
    assert_eq!(asked, expected);
    for table in ["a", "b"] {
        let mut levels = world.table_ints(table, "level");
        levels.sort_unstable();
        assert_eq!(
            levels,
            expected.iter().map(|id| id * 10).collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_service_that_says_later_is_asked_again_about_that_event_alone() {
    let (fake, world) = world(72);
    fake.later.lock().extend([(250, 2), (700, 3)]);
    world.apply(&[IN, OUT, SERVICE, ("flows/f.yaml", FLOW)]);
    world.publish("in/a", &events(100..1000));
    world.settle("f");
    assert_eq!(ids(&world.contents("out")), (100..1000).collect::<Vec<_>>());
    let mut times: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for (id, key) in fake.asked.lock().iter() {
        times.entry(*id).or_default().push(key.clone());
    }
    for (id, keys) in times {
        let expected = match id {
            250 => 3,
            700 => 4,
            _ => 1,
        };
        assert_eq!(keys.len(), expected, "{id}");
        assert!(keys.iter().all(|key| *key == keys[0]), "{id}: {keys:?}");
    }
}

/// While the service is unavailable events wait; an answer that it has failed may be about the event.
#[test]
fn an_event_on_which_the_service_fails_is_a_dead_letter_after_some_tries() {
    let (fake, world) = world(78);
    // As often as it is asked at most about one on which it fails.
    fake.later.lock().insert(9998, CALL_TRIES as usize);
    world.apply(&[IN, OUT, SERVICE, ("flows/f.yaml", FLOW)]);
    world.publish("in/a", &events(9998..10000));
    let status = world.settle("f");
    assert_eq!(ids(&world.contents("out")), [9998]);
    let letters = world.flows.dead_letters(Default::default(), 10);
    let letters = world.tokio.block_on(letters).unwrap();
    let told = serde_json::to_string(&letters).unwrap();
    assert_eq!(letters.len(), 1, "{told}");
    assert!(told.contains("broken") && told.contains("9999"), "{told}");
    assert_eq!(status.conservation.difference, 0, "{status:#?}");
    let asked = fake.asked_about();
    let times = |id: i64| asked.iter().filter(|asked| **asked == id).count();
    assert_eq!(times(9999), CALL_TRIES as usize);
    assert_eq!(times(9998), CALL_TRIES as usize + 1);
}

#[test]
fn an_event_that_is_refused_too_often_is_a_dead_letter_where_the_step_says_so() {
    let (fake, world) = world(73);
    fake.later.lock().insert(5, usize::MAX);
    let flow = FLOW.replace("      path:", "      tries: 3\n      path:");
    world.apply(&[IN, OUT, SERVICE, ("flows/f.yaml", &flow)]);
    world.publish("in/a", &events(0..10));
    let status = world.settle("f");
    let good: Vec<i64> = (0..10).filter(|id| *id != 5).collect();
    assert_eq!(ids(&world.contents("out")), good);
    assert_eq!(status.conservation.counters.dead, 1);
    let asked = fake.asked_about().into_iter().filter(|id| *id == 5).count();
    assert_eq!(asked, 3);
}

#[test]
fn events_wait_while_a_service_is_away_and_other_flows_go_on() {
    let (fake, world) = world(74);
    fake.down.store(true, Ordering::SeqCst);
    let other = "from: in\nsteps:\n  - select: id, id as level\nto:\n  - topic: other/${id}\n";
    world.apply(&[
        IN,
        OUT,
        SERVICE,
        (
            "streams/other.yaml",
            "topics: other/#\nformat: json\nschema: { id: int }\n",
        ),
        ("flows/f.yaml", FLOW),
        ("flows/g.yaml", other),
    ]);
    world.publish("in/a", &events(100..200));
    eventually("the other flow's part", || {
        world.contents("other").len() == 100
    });
    let service = || {
        let connections = world.flows.connections();
        connections
            .into_iter()
            .find_map(|c| c.service)
            .expect("a service")
    };
    eventually("the open circuit", || {
        service().circuit == BreakerState::Open
    });
    let error = |code: &str| {
        let nodes = world.flow("f").nodes;
        nodes
            .iter()
            .any(|node| node.error.as_ref().is_some_and(|e| e.code() == code))
    };
    eventually("the reason", || error("flow.call-open"));
    // While it is open nobody is asked but on trial, one event at a time.
    let before = fake.asked_about().len();
    let trials = service().calls;
    eventually("a trial", || service().calls > trials);
    assert!(fake.asked_about().len() - before <= (service().calls - trials) as usize + 1);
    let status = world.flow("f");
    assert_eq!(
        (
            status.conservation.counters.dead,
            world.contents("out").len()
        ),
        (0, 0)
    );
    fake.down.store(false, Ordering::SeqCst);
    let status = world.settle("f");
    assert_eq!(ids(&world.contents("out")), (100..200).collect::<Vec<_>>());
    assert_eq!(status.conservation.difference, 0);
    assert_eq!(service().circuit, BreakerState::Closed);
}

#[test]
fn what_was_not_written_before_a_crash_is_asked_again_with_the_same_key() {
    let (fake, world) = world(75);
    *fake.silent_from.lock() = Some(150);
    world.apply(&[IN, OUT, SERVICE, ("flows/f.yaml", FLOW)]);
    world.publish("in/a", &events(100..200));
    eventually("the middle of the batch", || {
        fake.asked_about().contains(&150)
    });
    let world = world.restart(true);
    *fake.silent_from.lock() = None;
    world.apply(&[IN, OUT, SERVICE, ("flows/f.yaml", FLOW)]);
    world.settle("f");
    assert_eq!(ids(&world.contents("out")), (100..200).collect::<Vec<_>>());
    let mut keys: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
    for (id, key) in fake.asked.lock().iter() {
        keys.entry(*id).or_default().insert(key.clone());
    }
    assert_eq!(keys.len(), 100);
    let asked = fake.asked.lock().clone();
    assert!(keys.values().all(|keys| keys.len() == 1), "{asked:?}");
}

#[test]
fn what_a_call_names_is_checked_where_it_stands() {
    let (_, world) = world(76);
    for (from, to, word) in [
        ("connection: stations", "connection: station", "station"),
        ("${id}", "${idd}", "idd"),
        ("${id}", "${id", "${id"),
        ("answer: { level: int }", "answer: { site: int }", "site"),
        ("answer:", "in_flight: 65\n      answer:", "64"),
        ("answer:", "send: id\n      body: a\n      answer:", "body"),
    ] {
        let flow = FLOW.replacen(from, to, 1);
        let refused = world.try_apply(&[IN, OUT, SERVICE, ("flows/f.yaml", &flow)]);
        let refused = refused.err().unwrap_or_else(|| panic!("{flow}")).join("\n");
        assert!(refused.contains(word), "{word}: {refused}");
    }
}

#[test]
fn a_test_answers_in_place_of_the_service() {
    let tests = "tests:
  - name: levels
    given:
      - { topic: in/a, payload: { id: 1, site: 'n/1' } }
      - { topic: in/a, payload: { id: 2, site: b } }
      - { topic: in/a, payload: { id: 3, site: c } }
    answers:
      stations:
        - { path: '/levels/1?site=n%2F1', status: 503, times: 2 }
        - { path: '/levels/2?site=b', status: 404, body: none there }
        - { body: { level: 7 } }
    expect:
      - { id: 1, level: 7 }
      - { id: 3, level: 7 }
    dead:
      - { place: 'step:0', code: connect.http-refused }
";
    let connectors = || {
        let connector: Arc<dyn Connector> = Arc::new(FakeConnector(Arc::default()));
        Connectors::new([connector])
    };
    let run = |tests: &str| {
        let flow = format!("{FLOW}{tests}");
        let project = crate::common::project(&[IN, OUT, SERVICE, ("flows/f.yaml", &flow)]);
        busbar_flow::run_tests(&project, &connectors(), None)
    };
    let report = run(tests);
    assert!(report.passed(), "{report:#?}");
    assert_eq!(report.tests.len(), 1);
    let report = run(&tests.replace("        - { body: { level: 7 } }\n", ""));
    let told = format!("{report:?}");
    assert!(
        !report.passed() && told.contains("/levels/1?site=n%2F1"),
        "{told}"
    );
    // One that never says anything else ends the test, too.
    let report = run(&tests.replace(", times: 2", ""));
    assert!(!report.passed(), "{report:?}");
}
