//! A flow live, over a range of time, and as one query over the same events: three ways to the same rows.
//!
//! Random events in disorder, some of them late, in one to three partitions, through windows of every shape with
//! regrouping, while the live flow is killed now and then. `BUSBAR_SIM_SEED=17` runs one case, `BUSBAR_SIM_RUNS=500` many.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, AsArray, BinaryArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimestampMicrosecondType};
use busbar_event::{Batch, Body, Envelope, Error};
use busbar_flow::{BoundedRange, BoundedState, BoundedStatus, ReplayFrom};
use busbar_log::sim::Random;
use busbar_sql::{Engine, QueryLimits, Relation, Relations};
use busbar_table::Tables;

use crate::common::{PATIENCE, World, rest};

const SECOND: i64 = 1_000_000;
/// Times of events lie ahead of the clock, so that no partition ticks.
const AHEAD: i64 = 4_000_000_000 * SECOND;
/// Everything behind it only closes what is open.
const CLOSING: i64 = AHEAD + 1_000_000 * SECOND;

#[derive(Clone, Copy, Debug)]
enum Shape {
    Hop { size: i64, every: i64 },
    Session { gap: i64 },
}

#[derive(Clone, Debug)]
struct Event {
    id: i64,
    time: i64,
    site: u64,
    v: i64,
    /// The watermark of its partition before it.
    mark: i64,
}

struct Case {
    shape: Shape,
    partitions: u16,
    lateness: i64,
    regrouped: bool,
}

impl Case {
    fn new(random: &mut Random) -> Case {
        let shape = match random.below(3) {
            0 => Shape::Hop {
                size: 10,
                every: 10,
            },
            1 => Shape::Hop { size: 12, every: 4 },
            _ => Shape::Session { gap: 3 },
        };
        Case {
            shape,
            partitions: 1 + random.below(3) as u16,
            lateness: 1 + random.below(4) as i64,
            regrouped: random.below(4) > 0,
        }
    }

    fn files(&self) -> Vec<(&'static str, String)> {
        let window = match self.shape {
            Shape::Hop { size, every } if size == every => format!("tumble: {size}s"),
            Shape::Hop { size, every } => format!("hop: {{ size: {size}s, every: {every}s }}"),
            Shape::Session { gap } => format!("session: {gap}s"),
        };
        // Where the stream is keyed by what the window is keyed by, rows meet without regrouping.
        let key = match self.regrouped {
            true => "",
            false => "key: '${subject}'\n",
        };
        let (partitions, lateness) = (self.partitions, self.lateness);
        vec![
            (
                "streams/in.yaml",
                format!(
                    "topics: in/#\nformat: json\npartitions: {partitions}\nlateness: {lateness}s\n{key}\
                     schema: {{ id: int, v: int, site: text }}\n"
                ),
            ),
            ("tables/live.yaml", "relational: {}\n".into()),
            ("tables/again.yaml", "relational: {}\n".into()),
            (
                "flows/f.yaml",
                format!(
                    "from: in\nsteps:\n  - where: v >= 0\n  - window:\n      {window}\n      by: [site]\n      \
                     select: >-\n        site, window_start as w, count(*) as n, sum(v) as s, min(id) as lo,\n        \
                     max(v) as hi, count(distinct v) as d\n\
                     to:\n  - table: live\n"
                ),
            ),
        ]
    }

    /// The same as a query over `events`: an event counts for a window that its partition had not passed before it.
    fn query(&self) -> String {
        let rows =
            "count(*) as n, sum(v) as s, min(id) as lo, max(v) as hi, count(distinct v) as d";
        match self.shape {
            Shape::Hop { size, every } => {
                let (size, every) = (size * SECOND, every * SECOND);
                let steps: Vec<String> = (0..size / every).map(|k| format!("({k})")).collect();
                let steps = steps.join(", ");
                format!(
                    "select site, w, {rows} from (\
                     select site, id, v, t, mark, (t / {every} - k) * {every} as w \
                     from events cross join (values {steps}) as steps(k) where v >= 0) \
                     where t < w + {size} and mark < w + {size} group by site, w"
                )
            }
            Shape::Session { gap } => {
                let gap = gap * SECOND;
                format!(
                    "select site, min(t) as w, {rows} from (\
                     select site, id, v, t, sum(fresh) over (partition by site order by t, id) as part from (\
                     select site, id, v, t, case when t - lag(t) over (partition by site order by t, id) < {gap} \
                     then 0 else 1 end as fresh from events where v >= 0)) group by site, part"
                )
            }
        }
    }

    fn events(&self, random: &mut Random, from: i64, to: i64) -> Vec<Event> {
        let late = matches!(self.shape, Shape::Hop { .. });
        (from..to)
            .map(|id| {
                let back = match random.below(30) {
                    0 if late => random.below(40) as i64 * SECOND,
                    _ => random.below((self.lateness * SECOND) as u64) as i64,
                };
                Event {
                    id,
                    time: AHEAD + (100 + id / 10 + id / 60 * 5) * SECOND - back,
                    site: random.below(4),
                    v: random.below(20) as i64 - 2,
                    mark: i64::MIN,
                }
            })
            .collect()
    }
}

fn batch(events: &[Event]) -> Batch {
    let topics: Vec<String> = events
        .iter()
        .map(|e| format!("in/c{}/s{}", e.id % 16, e.site))
        .collect();
    let times = events.iter().map(|e| e.time).collect();
    let payloads = events.iter().map(|e| {
        let Event { id, v, site, .. } = e;
        format!(r#"{{"id":{id},"v":{v},"site":"s{site}"}}"#)
    });
    let body = BinaryArray::from_iter_values(payloads.map(String::into_bytes));
    let envelope = Envelope::new(&StringArray::from(topics), times);
    Batch::from_columns(envelope, Body::Payload(body)).unwrap()
}

/// The events in the log, each with the watermark of its partition before it.
fn logged(world: &World, lateness: i64) -> Vec<Event> {
    let stream = world.bus.stream("in").unwrap();
    let mut events = Vec::new();
    for partition in stream.partitions().iter() {
        let mut mark = i64::MIN;
        let mut at = partition.start();
        while at < partition.end() {
            for chunk in partition.read(at, 1 << 20).unwrap() {
                for row in 0..chunk.batch.rows() {
                    let event = chunk.batch.event(row);
                    let payload: serde_json::Value =
                        serde_json::from_slice(&event.payload).unwrap();
                    let site = payload["site"].as_str().unwrap();
                    events.push(Event {
                        id: payload["id"].as_i64().unwrap(),
                        time: event.time,
                        site: site[1..].parse().unwrap(),
                        v: payload["v"].as_i64().unwrap(),
                        mark,
                    });
                    mark = mark.max(event.time - lateness * SECOND);
                }
                at = chunk.end();
            }
        }
    }
    events
}

pub struct Names(Arc<Tables>);

impl Relations for Names {
    fn names(&self) -> Vec<String> {
        self.0.names()
    }

    fn relation(&self, name: &str) -> Result<Option<Relation>, Error> {
        Ok(self.0.table(name).map(Relation::Table))
    }
}

/// The rows of a query, in order of their texts.
pub fn rows(world: &World, tables: &Arc<Tables>, query: &str) -> Vec<String> {
    let engine = Engine::new(Arc::new(Names(Arc::clone(tables))), QueryLimits::default()).unwrap();
    let batches = world.tokio.block_on(async {
        let mut result = engine
            .query(query)
            .await
            .unwrap_or_else(|e| panic!("{query}: {e:?}"));
        result.collect().await.unwrap()
    });
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values = batch
                .columns()
                .iter()
                .map(|column| match column.data_type() {
                    DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
                    DataType::Timestamp(..) => {
                        let times = column.as_primitive::<TimestampMicrosecondType>();
                        times.value(row).to_string()
                    }
                    DataType::Utf8 => column.as_string::<i32>().value(row).to_owned(),
                    DataType::Utf8View => column.as_string_view().value(row).to_owned(),
                    other => panic!("{other}"),
                });
            rows.push(values.collect::<Vec<_>>().join(" "));
        }
    }
    rows.sort();
    rows
}

/// What the batch query makes of the events before `to`.
fn batch_rows(world: &World, case: &Case, to: i64) -> Vec<String> {
    let events = logged(world, case.lateness);
    let events: Vec<Event> = events.into_iter().filter(|e| e.time < to).collect();
    let ints = |of: fn(&Event) -> i64| -> Arc<dyn Array> {
        Arc::new(events.iter().map(|e| Some(of(e))).collect::<Int64Array>())
    };
    let sites: StringArray = events
        .iter()
        .map(|e| Some(format!("s{}", e.site)))
        .collect();
    let int = |name: &str| Field::new(name, DataType::Int64, true);
    let schema = Schema::new(vec![
        int("id"),
        int("t"),
        int("v"),
        int("mark"),
        Field::new("site", DataType::Utf8, true),
    ]);
    let columns = vec![
        ints(|e| e.id),
        ints(|e| e.time),
        ints(|e| e.v),
        ints(|e| e.mark),
        Arc::new(sites) as Arc<dyn Array>,
    ];
    let batch = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
    query_over(world, &batch, &case.query())
}

/// What a query makes of `events`.
pub fn query_over(world: &World, events: &RecordBatch, query: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let tables = Tables::open(folder.path(), Arc::new(busbar_log::SystemClock)).unwrap();
    let specs = [(
        "events".to_owned(),
        serde_json::from_str(r#"{"relational":{}}"#).unwrap(),
    )];
    tables.apply(&specs.into()).unwrap();
    let table = tables.table("events").unwrap();
    table.evolve(&events.schema()).unwrap();
    table.apply(events, None).unwrap();
    rows(world, &Arc::new(tables), query)
}

pub fn run(world: &World, range: BoundedRange, into: &str) -> BoundedStatus {
    let run = world.flows.run_bounded("f", range, into, "test");
    let run = world.tokio.block_on(run).unwrap_or_else(|e| panic!("{e}"));
    ended(world, run.id)
}

fn ended(world: &World, id: u64) -> BoundedStatus {
    let until = Instant::now() + PATIENCE;
    loop {
        let run = world.flows.bounded_run(id).unwrap();
        if run.state != BoundedState::Running {
            return run;
        }
        assert!(Instant::now() < until, "{run:?}");
        rest(5);
    }
}

pub fn apply(world: &World, files: &[(&'static str, String)]) {
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, &**text)).collect();
    let applied = world.apply(&files);
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
}

const COLUMNS: &str = "site, w, n, s, lo, hi, d";
const EVENTS: i64 = 1200;

fn three_ways(seed: u64) {
    let mut random = Random::new(seed);
    let case = Case::new(&mut random);
    let files = case.files();
    let mut world = World::new(seed);
    apply(&world, &files);
    let mut next = 0;
    while next < EVENTS {
        let to = (next + 1 + random.below(150) as i64).min(EVENTS);
        let events = batch(&case.events(&mut random, next, to));
        world
            .tokio
            .block_on(world.bus.append(events, None))
            .unwrap();
        next = to;
        if random.below(8) == 0 {
            rest(random.below(40));
            world = world.restart(random.below(2) == 0);
            apply(&world, &files);
        }
    }
    let closing: Vec<Event> = (0..64)
        .map(|n| Event {
            id: 1_000_000 + n,
            time: CLOSING + SECOND,
            site: n as u64 % 8,
            v: 1,
            mark: i64::MIN,
        })
        .collect();
    world
        .tokio
        .block_on(world.bus.append(batch(&closing), None))
        .unwrap();
    let expected = batch_rows(&world, &case, CLOSING);
    assert!(expected.len() > 20, "seed {seed}: {}", expected.len());
    let select = |table: &str| format!("select {COLUMNS} from {table}");
    let until = Instant::now() + PATIENCE;
    while world.table_ints("live", "n").len() < expected.len() {
        assert!(
            Instant::now() < until,
            "seed {seed}: {:#?}",
            world.flow("f")
        );
        rest(10);
    }
    let before = world.settle("f");
    let live = rows(&world, &world.tables, &select("live"));
    assert_eq!(live, expected, "seed {seed}, live");
    let range = BoundedRange {
        from: None,
        to: Some(CLOSING),
    };
    let run = run(&world, range, "again");
    assert_eq!(run.state, BoundedState::Done, "seed {seed}: {run:?}");
    assert_eq!(run.events, EVENTS as u64, "seed {seed}");
    let again = rows(&world, &world.tables, &select("again"));
    assert_eq!(again, expected, "seed {seed}, over the range");
    // The flow that runs has noticed nothing.
    let after = world.flow("f");
    assert_eq!(after.conservation.counters, before.conservation.counters);
    assert_eq!(rows(&world, &world.tables, &select("live")), expected);
}

#[test]
fn live_bounded_and_batch_are_the_same() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    match number("BUSBAR_SIM_SEED") {
        Some(seed) => three_ways(seed),
        None => (0..number("BUSBAR_SIM_RUNS").unwrap_or(12)).for_each(three_ways),
    }
}

const PLAIN: [(&str, &str); 4] = [
    (
        "streams/in.yaml",
        "topics: in/#\nformat: json\npartitions: 2\nlateness: 1s\nschema: { id: int, v: int, site: text }\n",
    ),
    ("tables/live.yaml", "relational: {}\n"),
    ("tables/again.yaml", "hot: {}\nkey: [id]\n"),
    (
        "flows/f.yaml",
        "from: in\nsteps:\n  - select: id, 100 / v as w\nto:\n  - table: live\n",
    ),
];

fn event(id: i64, time: i64, v: i64) -> Event {
    Event {
        id,
        time,
        site: 0,
        v,
        mark: i64::MIN,
    }
}

#[test]
fn a_range_holds_the_events_of_its_times_only() {
    let world = World::new(3);
    world.apply(&PLAIN);
    let mut random = Random::new(3);
    let mut events: Vec<Event> = (0..500)
        .map(|id| {
            event(
                id,
                AHEAD + id * SECOND - random.below(20) as i64 * SECOND,
                1 + id % 7,
            )
        })
        .collect();
    events[120].v = 0;
    world
        .tokio
        .block_on(world.bus.append(batch(&events), None))
        .unwrap();
    world.settle("f");
    let letters = world.contents(busbar_flow::DEAD_LETTERS).len();
    let (from, to) = (AHEAD + 100 * SECOND, AHEAD + 200 * SECOND);
    let range = BoundedRange {
        from: Some(from),
        to: Some(to),
    };
    let run = run(&world, range, "again");
    assert_eq!(run.state, BoundedState::Done, "{run:?}");
    let inside: Vec<&Event> = events
        .iter()
        .filter(|e| (from..to).contains(&e.time))
        .collect();
    let mut wanted: Vec<i64> = inside.iter().filter(|e| e.v != 0).map(|e| e.id).collect();
    wanted.sort_unstable();
    let mut found = world.table_ints("again", "id");
    found.sort_unstable();
    assert_eq!(found, wanted);
    assert_eq!(run.events, inside.len() as u64);
    assert_eq!((run.rows, run.dead), (wanted.len() as u64, 1));
    assert_eq!(
        run.cause.map(|cause| cause.code()),
        Some("sql.divide-by-zero")
    );
    // What died there is told by the run, and kept where the live flow keeps it: not a second time.
    assert_eq!(world.contents(busbar_flow::DEAD_LETTERS).len(), letters);
    assert_eq!(world.table_ints("live", "id").len(), 499);
}

#[test]
fn a_run_that_cannot_be_right_is_refused() {
    let world = World::new(4);
    let mut files = PLAIN.to_vec();
    files.push(("tables/other.yaml", "relational: {}\nkey: [site]\n"));
    world.apply(&files);
    let events: Vec<Event> = (0..10)
        .map(|id| event(id, AHEAD + id * SECOND, 1))
        .collect();
    world
        .tokio
        .block_on(world.bus.append(batch(&events), None))
        .unwrap();
    let refused = |flow: &str, from: Option<i64>, to: Option<i64>, into: &str| {
        let run = world
            .flows
            .run_bounded(flow, BoundedRange { from, to }, into, "test");
        world.tokio.block_on(run).unwrap_err().code()
    };
    assert_eq!(refused("g", None, None, "again"), "flow.unknown");
    assert_eq!(refused("f", None, None, "nowhere"), "catalog.unknown-table");
    assert_eq!(refused("f", None, None, "live"), "flow.bounded-own-output");
    assert_eq!(
        refused("f", Some(AHEAD), Some(AHEAD), "again"),
        "flow.bounded-empty"
    );
    assert_eq!(refused("f", None, None, "other"), "flow.table-key");
    // The first events are gone.
    let stream = world.bus.stream("in").unwrap();
    for partition in stream.partitions().iter() {
        partition.log().trim(partition.end() / 2).unwrap();
    }
    let trimmed = stream
        .partitions()
        .iter()
        .any(|partition| partition.start() > 0);
    if trimmed {
        assert_eq!(
            refused("f", Some(AHEAD), None, "again"),
            "flow.bounded-gone"
        );
    }
    assert_eq!(
        run(&world, BoundedRange::default(), "again").state,
        BoundedState::Done
    );
    assert_eq!(
        world.flows.bounded_run(7).unwrap_err().code(),
        "flow.bounded-unknown"
    );
}

#[test]
fn a_run_is_cancelled_and_applies_ticks_where_they_were() {
    // Times behind the clock: when nothing more comes, the clock closes the windows.
    let world = World::new(5);
    let case = Case {
        shape: Shape::Hop {
            size: 10,
            every: 10,
        },
        partitions: 2,
        lateness: 1,
        regrouped: true,
    };
    apply(&world, &case.files());
    let past = 1_600_000_000 * SECOND;
    let first: Vec<Event> = (0..100)
        .map(|id| event(id, past + id * SECOND, 1))
        .collect();
    world
        .tokio
        .block_on(world.bus.append(batch(&first), None))
        .unwrap();
    let until = Instant::now() + PATIENCE;
    while world.table_ints("live", "n").len() < 10 {
        assert!(Instant::now() < until, "{:#?}", world.flow("f"));
        rest(20);
    }
    // The clock has closed the windows: these come too late, live and in a run.
    let late: Vec<Event> = (100..140)
        .map(|id| event(id, past + id % 100 * SECOND, 1))
        .collect();
    world
        .tokio
        .block_on(world.bus.append(batch(&late), None))
        .unwrap();
    world.settle("f");
    let until = Instant::now() + PATIENCE;
    while world.contents("f.late").len() < 40 {
        assert!(Instant::now() < until, "{:#?}", world.flow("f"));
        rest(20);
    }
    let run = run(&world, BoundedRange::default(), "again");
    assert_eq!((run.state, run.late), (BoundedState::Done, 40), "{run:?}");
    let select = |table: &str| format!("select {COLUMNS} from {table}");
    let live = rows(&world, &world.tables, &select("live"));
    assert_eq!(rows(&world, &world.tables, &select("again")), live);
    assert_eq!(world.contents("f.late").len(), 40);
    // A replay of the flow itself finds the same.
    let again = world.flows.replay("f", ReplayFrom::Earliest);
    world.tokio.block_on(again).unwrap();
    let started = world
        .flows
        .run_bounded("f", BoundedRange::default(), "again", "test");
    let started = world.tokio.block_on(started).unwrap();
    world.flows.cancel_bounded(started.id).unwrap();
    let state = ended(&world, started.id).state;
    assert!(matches!(
        state,
        BoundedState::Cancelled | BoundedState::Done
    ));
    assert_eq!(world.flows.bounded_runs().len(), 2);
}
