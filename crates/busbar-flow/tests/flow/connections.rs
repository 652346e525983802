//! Sources and sinks that misbehave: what is tried again, what dies, what stops, and who is held up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{PATIENCE, World, batch, ids, rest};
use busbar_catalog::{ConnectionSpec, Diagnostic};
use busbar_connector::{
    Connector, Connectors, Delivery, Polled, Polling, Position, Roles, Sink, SinkContext, Source,
    SourceContext, Work, Written,
};
use busbar_event::{Class, Error};
use busbar_flow::{DeadFilter, FlowState, ReplayFrom};
use parking_lot::Mutex;

const IN: (&str, &str) = (
    "streams/in.yaml",
    "topics: in/#\nformat: json\nschema: { id: int, v: int, site: text }\n",
);
const OUT: (&str, &str) = (
    "streams/out.yaml",
    "topics: out/#\nformat: json\nschema: { id: int, v: int }\n",
);
const FAKE: (&str, &str) = ("connections/fake.yaml", "fake: {}\n");

/// A connector whose other side is in memory.
#[derive(Default)]
pub struct Fake {
    /// Whether the source names its part as over for good, once.
    over: AtomicUsize,
    /// What was written.
    pub written: Mutex<Vec<i64>>,
    /// The topics that were written.
    topics: Mutex<Vec<String>>,
    /// What was written, with the names of the rows.
    names: Mutex<Vec<(i64, String)>>,
    /// Transient failures still to come.
    pub down: AtomicUsize,
    /// Rows that are never taken: refused by name, or by failing every batch they are in.
    pub refused: Mutex<Vec<i64>>,
    poison: Mutex<Vec<i64>>,
    /// Whether it answers with an error of configuration.
    misconfigured: AtomicUsize,
    /// Whether it breaks down.
    panics: AtomicUsize,
    /// Of what class the error is with which it does not open.
    shut: Mutex<Option<Class>>,
    /// For the source: what there is, and how often it fails.
    supply: Mutex<Vec<String>>,
    committed: Mutex<Vec<u64>>,
    /// What the source was told to be on the disk, and where it went on.
    kept: Mutex<Vec<u64>>,
    resumed: Mutex<Vec<u64>>,
    /// Whether the source says where it begins, without rows, and behind which of these places it was polled again.
    marks: AtomicUsize,
    marked: Mutex<Vec<u64>>,
    /// Where it was resumed by these places.
    resumed_marks: Mutex<Vec<u64>>,
}

struct FakeSink(Arc<Fake>);

fn error(class: Class) -> Error {
    Error::new(class, "flow.worker")
}

fn row_ids(delivery: &Delivery) -> Vec<i64> {
    let payloads = delivery.events.payloads();
    let id = |row| {
        let json: serde_json::Value = serde_json::from_slice(payloads.value(row)).unwrap();
        json["id"].as_i64().unwrap()
    };
    (0..delivery.events.rows()).map(id).collect()
}

impl Sink for FakeSink {
    fn write<'a>(&'a mut self, delivery: &'a Delivery) -> Work<'a, Result<Written, Error>> {
        Box::pin(async move {
            let fake = &self.0;
            if fake.misconfigured.load(Ordering::SeqCst) > 0 {
                return Err(error(Class::Configuration));
            }
            assert_eq!(
                fake.panics.load(Ordering::SeqCst),
                0,
                "the sink breaks down"
            );
            let less = |n: usize| n.checked_sub(1);
            if fake
                .down
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
                .is_ok()
            {
                return Err(error(Class::Transient));
            }
            let rows = row_ids(delivery);
            if rows.iter().any(|id| fake.poison.lock().contains(id)) {
                return Err(error(Class::Permanent));
            }
            let mut written = Written::default();
            for (row, id) in rows.into_iter().enumerate() {
                match fake.refused.lock().contains(&id) {
                    true => written.rejected.push((row, error(Class::Permanent))),
                    false => {
                        fake.written.lock().push(id);
                        let topic = delivery.events.topic(row).to_owned();
                        fake.topics.lock().push(topic);
                        let name = delivery.row_name(row);
                        fake.names.lock().push((id, name));
                    }
                }
            }
            Ok(written)
        })
    }
}

/// Brings its supply three lines at a time.
struct FakeSource {
    fake: Arc<Fake>,
    at: usize,
    hiccups: VecDeque<Class>,
    /// The place that it has handed on without rows.
    mark: Option<u64>,
}

impl Source for FakeSource {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(async move {
            if let Some(class) = self.hiccups.pop_front() {
                return Err(error(class));
            }
            if let Some(mark) = self.mark.take() {
                self.fake.marked.lock().push(mark);
            }
            let marks = self.fake.marks.load(Ordering::SeqCst) as u64;
            if marks > 0 {
                self.fake.marks.fetch_add(1, Ordering::SeqCst);
                self.mark = Some(marks);
                return Ok(Polled::Batch(Polling {
                    batch: batch("in/x/y", &[]),
                    part: "marks".into(),
                    position: Position::End(marks),
                    note: Vec::new(),
                }));
            }
            let supply = self.fake.supply.lock().clone();
            let to = (self.at + 3).min(supply.len());
            if to == self.at {
                return Ok(Polled::Idle(Duration::from_millis(5)));
            }
            let positions = (self.at as u64 + 1..=to as u64).collect();
            let polling = Polling {
                batch: batch("in/x/y", &supply[self.at..to]),
                part: "lines".into(),
                position: Position::Rows(positions),
                note: Vec::new(),
            };
            self.at = to;
            Ok(Polled::Batch(polling))
        })
    }

    fn committed(&mut self, _part: &str, position: u64) {
        self.fake.committed.lock().push(position);
    }

    fn kept(&mut self, _part: &str, position: u64) {
        self.fake.kept.lock().push(position);
    }

    fn forgotten(&mut self) -> Vec<Arc<str>> {
        let over = self.fake.over.swap(0, Ordering::SeqCst) > 0;
        over.then(|| "lines".into()).into_iter().collect()
    }
}

struct FakeConnector(Arc<Fake>);

impl Connector for FakeConnector {
    fn kind(&self) -> &'static str {
        "fake"
    }
    fn check(&self, _: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        let source = !self.0.supply.lock().is_empty();
        Ok(Roles {
            source,
            sink: true,
            service: false,
        })
    }
    fn schema(&self) -> serde_json::Value {
        serde_json::json!({})
    }
    fn source<'a>(
        &'a self,
        _: &'a ConnectionSpec,
        context: SourceContext,
    ) -> Work<'a, Result<Box<dyn Source>, Error>> {
        let at = context.resume.position("lines") as usize;
        self.0.resumed.lock().push(at as u64);
        let mark = context.resume.position("marks");
        self.0.resumed_marks.lock().push(mark);
        let hiccups = VecDeque::from([Class::Permanent]);
        let source = FakeSource {
            fake: Arc::clone(&self.0),
            at,
            hiccups,
            mark: None,
        };
        Box::pin(async move { Ok(Box::new(source) as Box<dyn Source>) })
    }
    fn sink<'a>(
        &'a self,
        _: &'a ConnectionSpec,
        _: SinkContext,
    ) -> Work<'a, Result<Box<dyn Sink>, Error>> {
        let sink = FakeSink(Arc::clone(&self.0));
        let shut = self.0.shut.lock().map(error);
        Box::pin(async move { shut.map_or(Ok(Box::new(sink) as Box<dyn Sink>), Err) })
    }
}

pub fn world(seed: u64) -> (Arc<Fake>, World) {
    let fake = Arc::new(Fake::default());
    let connector: Arc<dyn Connector> = Arc::new(FakeConnector(Arc::clone(&fake)));
    let world = World::with(seed, Connectors::new([connector]));
    (fake, world)
}

fn reading(id: i64) -> String {
    format!(r#"{{"id":{id},"v":{id},"site":"a"}}"#)
}

pub fn readings(ids: std::ops::Range<i64>) -> Vec<String> {
    ids.map(reading).collect()
}

pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "{what} does not come");
        rest(5);
    }
}

const BOTH: &str =
    "from: in\nsteps:\n  - select: id, v\nto:\n  - stream: out\n  - connection: fake\n";

#[test]
fn a_sink_that_is_down_holds_nobody_else_up() {
    let (fake, world) = world(11);
    fake.down.store(usize::MAX, Ordering::SeqCst);
    world.apply(&[IN, OUT, FAKE, ("flows/f.yaml", BOTH)]);
    world.publish("in/a/b", &readings(0..100));
    eventually("the stream's part", || world.contents("out").len() == 100);
    eventually("retrying", || world.flow("f").state == FlowState::Retrying);
    let status = world.flow("f");
    let sink = status.nodes.iter().find(|n| n.id == "to:1").unwrap();
    assert_eq!((sink.counters.held, sink.counters.out), (100, 0));
    assert_eq!(status.conservation.difference, 0);
    // Telling it to stop does not wait for the other side; it goes on where it was.
    world.tokio.block_on(world.flows.pause("f")).unwrap();
    assert!(fake.written.lock().is_empty());
    fake.down.store(2, Ordering::SeqCst);
    world.tokio.block_on(world.flows.resume("f")).unwrap();
    let status = world.settle("f");
    assert_eq!(*fake.written.lock(), (0..100).collect::<Vec<_>>());
    assert_eq!(
        (status.state, status.conservation.difference),
        (FlowState::Running, 0)
    );
    assert_eq!(world.contents("out").len(), 100);
}

#[test]
fn rows_a_sink_refuses_become_dead_letters_and_go_to_it_alone_when_sent_again() {
    let (fake, world) = world(12);
    *fake.refused.lock() = vec![5, 6];
    *fake.poison.lock() = vec![40];
    world.apply(&[IN, OUT, FAKE, ("flows/f.yaml", BOTH)]);
    world.publish("in/a/b", &readings(0..100));
    let status = world.settle("f");
    let good: Vec<i64> = (0..100).filter(|id| ![5, 6, 40].contains(id)).collect();
    assert_eq!(*fake.written.lock(), good);
    let sink = status.nodes.iter().find(|n| n.id == "to:1").unwrap();
    assert_eq!((sink.counters.dead, sink.counters.difference()), (3, 0));
    let filter = DeadFilter::default();
    let letters = world
        .tokio
        .block_on(world.flows.dead_letters(filter.clone(), 10))
        .unwrap();
    assert!(letters.iter().all(|l| l.place == "to:1"), "{letters:?}");
    assert_eq!(
        letters.iter().map(|l| l.offset).collect::<Vec<_>>(),
        [40, 6, 5]
    );
    fake.refused.lock().clear();
    fake.poison.lock().clear();
    let one = DeadFilter {
        ids: Some(vec![letters[0].id]),
        ..DeadFilter::default()
    };
    let redriven = world.tokio.block_on(world.flows.redrive(one, "")).unwrap();
    assert_eq!((redriven.sent, redriven.died), (1, 0));
    let redriven = world
        .tokio
        .block_on(world.flows.redrive(filter.clone(), ""))
        .unwrap();
    assert_eq!((redriven.sent, redriven.died), (2, 0));
    assert_eq!(fake.written.lock()[97..], [40, 5, 6]);
    assert_eq!(
        world.contents("out").len(),
        100,
        "the stream has had them before"
    );
    assert_eq!(
        world
            .tokio
            .block_on(world.flows.redrive(filter, ""))
            .unwrap()
            .sent,
        0
    );
}

#[test]
fn results_of_several_events_go_to_a_connection_under_the_name_of_their_flow() {
    let (fake, world) = world(18);
    let pairs = "from: in\nsteps:\n  - aggregate: { by: [site], count: 2, within: 1h, reopen: true, select: max(id) as id }\n\
                 to:\n  - connection: fake\n";
    world.apply(&[IN, FAKE, ("flows/pairs.yaml", pairs)]);
    world.publish("in/a/b", &readings(0..4));
    eventually("the pairs", || fake.written.lock().len() == 2);
    assert_eq!(*fake.written.lock(), [1, 3]);
    assert_eq!(*fake.topics.lock(), ["pairs", "pairs"]);
}

#[test]
fn a_misconfigured_sink_stops_and_says_why() {
    let (fake, world) = world(13);
    fake.misconfigured.store(1, Ordering::SeqCst);
    world.apply(&[IN, OUT, FAKE, ("flows/f.yaml", BOTH)]);
    world.publish("in/a/b", &readings(0..10));
    eventually("stopping", || world.flow("f").state == FlowState::Stopped);
    let status = world.flow("f");
    assert_eq!(status.error.unwrap().class(), Class::Configuration);
    assert_eq!(status.conservation.difference, 0);
    eventually("the stream's part", || world.contents("out").len() == 10);
    fake.misconfigured.store(0, Ordering::SeqCst);
    world.tokio.block_on(world.flows.resume("f")).unwrap();
    world.settle("f");
    assert_eq!(*fake.written.lock(), (0..10).collect::<Vec<_>>());
    assert_eq!(world.contents("out").len(), 10);
}

#[test]
fn a_source_goes_on_where_it_was_committed() {
    let (fake, mut world) = world(14);
    *fake.supply.lock() = readings(0..20);
    world.apply(&[IN, FAKE]);
    eventually("the supply", || world.contents("in").len() == 20);
    assert_eq!(fake.committed.lock().last(), Some(&20));
    for round in 1..=6 {
        fake.supply
            .lock()
            .extend(readings(round * 20..round * 20 + 20));
        // Killed at any moment: before, between or after its appends.
        rest(3 * round as u64);
        world = world.restart(round % 2 == 0);
        world.apply(&[IN, FAKE]);
    }
    eventually("all", || world.contents("in").len() >= 140);
    assert_eq!(ids(&world.contents("in")), (0..140).collect::<Vec<_>>());
    let status = world.flows.connections();
    assert_eq!((status.len(), status[0].name.as_str()), (1, "fake"));
}

/// What a source may forget where it came from is known to it after a kill and after a power cut.
#[test]
fn a_source_goes_on_behind_what_it_was_told_to_be_kept() {
    let (fake, mut world) = world(19);
    for round in 0..20 {
        fake.supply
            .lock()
            .extend(readings(round * 20..round * 20 + 20));
        let told = fake.kept.lock().len();
        world.apply(&[IN, FAKE]);
        // Killed as soon as it is told of something, with more on its way.
        eventually("a position", || fake.kept.lock().len() > told);
        world = world.restart(round % 2 == 0);
        let kept = fake.kept.lock().last().copied();
        let opened = fake.resumed.lock().len();
        world.apply(&[IN, FAKE]);
        // It is opened after its project is applied.
        eventually("the source", || fake.resumed.lock().len() > opened);
        let resumed = fake.resumed.lock().get(opened).copied();
        assert!(resumed >= kept, "round {round}: {resumed:?} {kept:?}");
        world = world.restart(true);
    }
    world.apply(&[IN, FAKE]);
    eventually("all", || world.contents("in").len() >= 400);
    assert_eq!(ids(&world.contents("in")), (0..400).collect::<Vec<_>>());
}

/// A place that comes without rows is on the disk before the source is asked for what comes behind it.
#[test]
fn a_source_goes_on_behind_a_place_that_it_was_polled_behind() {
    let (fake, mut world) = world(20);
    fake.supply.lock().extend(readings(0..1));
    fake.marks.store(1, Ordering::SeqCst);
    for round in 0..20 {
        let polled = fake.marked.lock().len();
        world.apply(&[IN, FAKE]);
        eventually("a place", || fake.marked.lock().len() > polled);
        world = world.restart(round % 2 == 0);
        let marked = fake.marked.lock().last().copied();
        let opened = fake.resumed_marks.lock().len();
        world.apply(&[IN, FAKE]);
        eventually("it opens", || fake.resumed_marks.lock().len() > opened);
        let resumed = fake.resumed_marks.lock().last().copied();
        assert!(resumed >= marked, "round {round}: {resumed:?} {marked:?}");
        world = world.restart(true);
    }
}

/// Nothing is kept of what will not come back; and if it does come back, the streams still know it.
#[test]
fn a_part_that_is_over_for_good_is_forgotten() {
    let (fake, mut world) = world(15);
    *fake.supply.lock() = readings(0..20);
    world.apply(&[IN, FAKE]);
    eventually("the supply", || world.contents("in").len() == 20);
    let positions = |world: &World| {
        let all = world.flows.connections();
        all[0]
            .source
            .as_ref()
            .map(|source| source.positions.clone())
    };
    eventually("its position", || {
        positions(&world).is_some_and(|all| all.get("lines") == Some(&20))
    });
    fake.over.store(1, Ordering::SeqCst);
    eventually("its end", || {
        positions(&world).is_some_and(|all| all.is_empty())
    });
    rest(50);
    fake.committed.lock().clear();
    world = world.restart(true);
    world.apply(&[IN, FAKE]);
    // It begins at its beginning.
    eventually("it again", || fake.committed.lock().first() == Some(&3));
    eventually("all of it", || fake.committed.lock().last() == Some(&20));
    assert_eq!(ids(&world.contents("in")), (0..20).collect::<Vec<_>>());
}

/// Whatever the batch and its parts are in which it comes: a receiver may recognise it after a crash.
#[test]
fn a_row_is_named_by_the_event_that_it_was_made_from() {
    let (fake, world) = world(20);
    let flow = "from: in\nsteps:\n- where: v % 3 <> 0\n- split: { list: \"'[7, 8]'\", as: n, type: int }\n\
                - select: id, n\nto: [{ connection: fake }]\n";
    // Those beside it come in parts of their batch.
    fake.poison.lock().push(7);
    world.apply(&[IN, FAKE, ("flows/f.yaml", flow)]);
    for from in [0, 20, 21] {
        world.publish("in/a/b", &readings(from..from + 20));
        world.settle("f");
    }
    // The offset of an event, of which the third batch repeats some.
    let events = (0..20).chain(20..40).chain(21..41).enumerate();
    let passed = events.filter(|(_, id)| id % 3 != 0 && *id != 7);
    let expected = passed.flat_map(|(offset, id)| {
        let name = |before| (id, format!("{offset}.{before}"));
        [name(0), name(1)]
    });
    assert_eq!(*fake.names.lock(), expected.collect::<Vec<_>>());
}

#[test]
fn a_flow_is_replayed_although_its_sink_is_down() {
    let (fake, world) = world(15);
    world.apply(&[IN, OUT, FAKE, ("flows/f.yaml", BOTH)]);
    world.publish("in/a/b", &readings(0..50));
    world.settle("f");
    *fake.shut.lock() = Some(Class::Transient);
    let replayed = world.flows.replay("f", ReplayFrom::Earliest);
    world.tokio.block_on(replayed).unwrap();
    eventually("the stream's part", || world.contents("out").len() == 100);
    eventually("retrying", || world.flow("f").state == FlowState::Retrying);
    *fake.shut.lock() = None;
    world.settle("f");
    assert_eq!(world.flow("f").state, FlowState::Running);
    assert_eq!(
        *fake.written.lock(),
        (0..50).chain(0..50).collect::<Vec<_>>()
    );
}

#[test]
fn a_flow_that_cannot_start_is_there_and_says_why() {
    let (fake, world) = world(16);
    *fake.shut.lock() = Some(Class::Configuration);
    let applied = world.apply(&[IN, OUT, FAKE, ("flows/f.yaml", BOTH)]);
    assert!(applied.failed.contains_key("f"), "{applied:?}");
    let status = world.flow("f");
    assert_eq!(status.state, FlowState::Stopped);
    assert_eq!(status.error.unwrap().code(), "flow.worker");
    world.publish("in/a/b", &readings(0..10));
    assert!(world.tokio.block_on(world.flows.resume("f")).is_err());
    assert_eq!(world.flow("f").state, FlowState::Stopped);
    *fake.shut.lock() = None;
    world.tokio.block_on(world.flows.resume("f")).unwrap();
    world.settle("f");
    assert_eq!(*fake.written.lock(), (0..10).collect::<Vec<_>>());
    assert_eq!(world.contents("out").len(), 10);
}

#[test]
fn a_new_version_that_cannot_open_its_sink_leaves_the_old_one_running() {
    let (fake, world) = world(17);
    let old = "from: in\nsteps:\n  - select: id, v\nto:\n  - stream: out\n";
    world.apply(&[IN, OUT, FAKE, ("flows/f.yaml", old)]);
    for (round, class) in [Class::Transient, Class::Configuration]
        .into_iter()
        .enumerate()
    {
        *fake.shut.lock() = Some(class);
        let applied = world.apply(&[IN, OUT, FAKE, ("flows/f.yaml", BOTH)]);
        assert!(applied.failed.contains_key("f"), "{applied:?}");
        let from = round as i64 * 10;
        world.publish("in/a/b", &readings(from..from + 10));
        let status = world.settle("f");
        assert_eq!((status.state, status.nodes.len()), (FlowState::Running, 3));
    }
    *fake.shut.lock() = None;
    world.apply(&[IN, OUT, FAKE, ("flows/f.yaml", BOTH)]);
    world.publish("in/a/b", &readings(20..30));
    world.settle("f");
    assert_eq!(ids(&world.contents("out")), (0..30).collect::<Vec<_>>());
    // The new output begins where the flow was.
    assert_eq!(*fake.written.lock(), (20..30).collect::<Vec<_>>());
}

#[test]
fn an_output_that_is_new_begins_where_the_flow_is() {
    let (fake, mut world) = world(18);
    let without = "from: in\nsteps:\n  - select: id, v\nto:\n  - stream: out\n";
    world.apply(&[IN, OUT, FAKE, ("flows/f.yaml", BOTH)]);
    world.publish("in/a/b", &readings(0..10));
    world.settle("f");
    world.apply(&[IN, OUT, FAKE, ("flows/f.yaml", without)]);
    world.publish("in/a/b", &readings(10..20));
    world.settle("f");
    // Another connection than the one that was taken out, after a restart.
    rest(500);
    world = world.restart(false);
    let other = ("connections/other.yaml", "fake: {}\n");
    let with_other = BOTH.replace("fake", "other");
    world.apply(&[IN, OUT, FAKE, other, ("flows/f.yaml", &with_other)]);
    world.publish("in/a/b", &readings(20..30));
    world.settle("f");
    let expected: Vec<i64> = (0..10).chain(20..30).collect();
    assert_eq!(*fake.written.lock(), expected);
}

#[test]
fn a_sink_that_breaks_down_stops_its_flow_and_says_so() {
    let (fake, world) = world(19);
    fake.panics.store(1, Ordering::SeqCst);
    world.apply(&[IN, OUT, FAKE, ("flows/f.yaml", BOTH)]);
    world.publish("in/a/b", &readings(0..10));
    eventually("stopping", || world.flow("f").state == FlowState::Stopped);
    assert_eq!(world.flow("f").error.unwrap().code(), "flow.worker");
    assert_eq!(world.flow("f").conservation.difference, 0);
    fake.panics.store(0, Ordering::SeqCst);
    world.tokio.block_on(world.flows.resume("f")).unwrap();
    world.settle("f");
    assert_eq!(*fake.written.lock(), (0..10).collect::<Vec<_>>());
    assert_eq!(world.contents("out").len(), 10);
}
