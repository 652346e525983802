//! A join live, over a range of time, and as one query over the same events: three ways to the same rows.
//!
//! Random events of two streams in disorder, some of them late, in one to three partitions each, through joins of every kind,
//! while the live flow is killed now and then. `BUSBAR_SIM_SEED=17` runs one case, `BUSBAR_SIM_RUNS=500` many.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    Array, BinaryArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use busbar_event::{Batch, Body, Envelope};
use busbar_flow::{BoundedRange, BoundedState};
use busbar_log::sim::Random;

use crate::bounded::{apply, query_over, rows, run};
use crate::common::{PATIENCE, World, rest};

const SECOND: i64 = 1_000_000;
/// Times of events lie ahead of the clock, so that no partition ticks.
const AHEAD: i64 = 4_000_000_000 * SECOND;
/// Everything behind it only closes what is open.
const CLOSING: i64 = AHEAD + 1_000_000 * SECOND;
const EVENTS: i64 = 1000;
/// Sites with a price. The others have none.
const PRICED: i64 = 3;
/// Prices that a site has, one after the other.
const PRICES: i64 = 20;
const DATED_COLUMNS: &str = "columns: [{ name: site, type: text }, { name: since, type: time }, { name: price, type: int }]\n";

#[derive(Clone, Copy, Debug, PartialEq)]
enum JoinWith {
    Within(i64),
    Itself(i64),
    AsOf,
    Table,
    /// The versions of a wide table, and the rows of a relational one by a time at the end of its key.
    WideAsOf,
    DatedAsOf,
}

#[derive(Clone, Debug)]
struct Event {
    id: i64,
    is_right: bool,
    time: i64,
    site: u64,
    v: i64,
    /// The watermark of its partition before it.
    mark: i64,
}

#[derive(Debug)]
struct Case {
    with: JoinWith,
    is_left: bool,
    partitions: [u16; 2],
    lateness: i64,
}

impl Case {
    /// Every kind of join comes up, whatever the number of cases.
    fn new(seed: u64, random: &mut Random) -> Case {
        let seconds = 1 + random.below(3) as i64;
        Case {
            with: match seed % 6 {
                0 => JoinWith::Within(seconds),
                1 => JoinWith::Itself(seconds),
                2 => JoinWith::AsOf,
                3 => JoinWith::WideAsOf,
                4 => JoinWith::DatedAsOf,
                _ => JoinWith::Table,
            },
            is_left: seed / 6 % 2 == 1,
            partitions: [1 + random.below(3) as u16, 1 + random.below(3) as u16],
            lateness: 1 + random.below(4) as i64,
        }
    }

    fn files(&self) -> Vec<(&'static str, String)> {
        let kind = if self.is_left { "left" } else { "inner" };
        let join = match self.with {
            JoinWith::Within(span) => {
                format!("stream: right, within: {span}s, columns: [id as other]")
            }
            JoinWith::Itself(span) => {
                format!("stream: left, within: {span}s, columns: [id as other]")
            }
            JoinWith::AsOf => "stream: right, as_of: true, columns: [id as other]".to_owned(),
            JoinWith::Table => "table: prices, columns: [price as other]".to_owned(),
            JoinWith::WideAsOf => "table: wide, as_of: true, columns: [price as other]".to_owned(),
            JoinWith::DatedAsOf => {
                "table: dated, as_of: true, columns: [price as other]".to_owned()
            }
        };
        let stream = |topic: &str, partitions: u16| {
            format!(
                "topics: {topic}/#\nformat: json\npartitions: {partitions}\nlateness: {}s\n\
                 schema: {{ id: int, v: int, site: text }}\n",
                self.lateness
            )
        };
        vec![
            ("streams/left.yaml", stream("left", self.partitions[0])),
            ("streams/right.yaml", stream("right", self.partitions[1])),
            ("tables/live.yaml", "relational: {}\n".into()),
            ("tables/again.yaml", "relational: {}\n".into()),
            (
                "tables/prices.yaml",
                "relational: {}\nkey: [site]\ncolumns: [{ name: site, type: text }, { name: price, type: int }]\n".into(),
            ),
            (
                "tables/wide.yaml",
                format!("wide: {{ families: [{{ name: d, versions: 100 }}], time: since }}\nkey: [site]\n{DATED_COLUMNS}"),
            ),
            ("tables/dated.yaml", format!("relational: {{}}\nkey: [site, since]\n{DATED_COLUMNS}")),
            (
                "flows/f.yaml",
                format!(
                    "from: left\nsteps:\n  - where: v >= 0\n  - join: {{ {join}, on: site, type: {kind} }}\n  \
                     - select: id, v, site, coalesce(other, -1) as other\nto:\n  - table: live\n"
                ),
            ),
        ]
    }

    /// The same as a query over `events`: an event counts if its partition had not passed its time before it.
    fn query(&self) -> String {
        let kind = if self.is_left { "left" } else { "inner" };
        let left = "(select * from events where side = 0 and mark <= t and v >= 0)";
        let side = i64::from(!matches!(self.with, JoinWith::Itself(_)));
        let right = format!("(select * from events where side = {side} and mark <= t)");
        let columns = "l.id, l.v, l.site, coalesce(r.id, -1) as other";
        match self.with {
            JoinWith::Within(span) | JoinWith::Itself(span) => {
                let span = span * SECOND;
                format!(
                    "select {columns} from {left} as l {kind} join {right} as r \
                     on l.site = r.site and r.t between l.t - {span} and l.t + {span}"
                )
            }
            JoinWith::AsOf => format!(
                "select id, v, site, other from (select {columns}, \
                 row_number() over (partition by l.id order by r.t desc nulls last) as place \
                 from {left} as l {kind} join {right} as r on l.site = r.site and r.t <= l.t) where place = 1"
            ),
            // A look-up keeps no state: no event is late for it.
            JoinWith::Table => format!(
                "select l.id, l.v, l.site, coalesce(r.price, -1) as other \
                 from (select * from events where side = 0 and v >= 0) as l {kind} join \
                 (values {}) as r(site, price) on l.site = r.site",
                (0..PRICED)
                    .map(|site| format!("('s{site}', {})", price(site)))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            JoinWith::WideAsOf | JoinWith::DatedAsOf => format!(
                "select id, v, site, other from (select l.id, l.v, l.site, coalesce(r.price, -1) as other, \
                 row_number() over (partition by l.id order by r.since desc nulls last) as place \
                 from (select * from events where side = 0 and v >= 0) as l {kind} join \
                 (values {}) as r(site, since, price) on l.site = r.site and r.since <= l.t) where place = 1",
                dated_prices()
                    .map(|(site, since, price)| format!("('s{site}', {since}, {price})"))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        }
    }

    /// The times of no two events are the same, so that there is one latest.
    fn events(&self, random: &mut Random, from: i64, to: i64) -> Vec<Event> {
        (from..to)
            .map(|id| {
                let back = match random.below(30) {
                    0 => random.below(40) as i64 * SECOND,
                    _ => random.below((self.lateness * SECOND) as u64) as i64,
                };
                let time = AHEAD + 100 * SECOND + id * SECOND / 8 - back;
                Event {
                    id,
                    is_right: random.below(2) == 0,
                    time: time.div_euclid(EVENTS) * EVENTS + id,
                    site: random.below(5),
                    v: random.below(20) as i64 - 2,
                    mark: i64::MIN,
                }
            })
            .collect()
    }
}

fn price(site: i64) -> i64 {
    100 + site
}

/// Site, since when, and price: from a while after the first events on.
fn dated_prices() -> impl Iterator<Item = (i64, i64, i64)> {
    let all = (0..PRICED).flat_map(|site| (0..PRICES).map(move |n| (site, n)));
    all.map(|(site, n)| {
        (
            site,
            AHEAD + (105 + site + 6 * n) * SECOND,
            price(site) + 1000 * n,
        )
    })
}

fn batch(events: &[Event]) -> Batch {
    let topic = |e: &Event| {
        let stream = if e.is_right { "right" } else { "left" };
        format!("{stream}/c{}/x", e.id % 16)
    };
    let topics: Vec<String> = events.iter().map(topic).collect();
    let times = events.iter().map(|e| e.time).collect();
    let payloads = events.iter().map(|e| {
        let Event { id, v, site, .. } = e;
        format!(r#"{{"id":{id},"v":{v},"site":"s{site}"}}"#)
    });
    let body = BinaryArray::from_iter_values(payloads.map(String::into_bytes));
    let envelope = Envelope::new(&StringArray::from(topics), times);
    Batch::from_columns(envelope, Body::Payload(body)).unwrap()
}

fn append(world: &World, events: &[Event]) {
    let appended = world.bus.append(batch(events), None);
    world.tokio.block_on(appended).unwrap();
}

/// The events in the log, each with the watermark of its partition before it.
fn logged(world: &World, lateness: i64) -> Vec<Event> {
    let mut events = Vec::new();
    for name in ["left", "right"] {
        for partition in world.bus.stream(name).unwrap().partitions().iter() {
            let mut mark = i64::MIN;
            let mut at = partition.start();
            while at < partition.end() {
                for chunk in partition.read(at, 1 << 20).unwrap() {
                    for row in 0..chunk.batch.rows() {
                        let event = chunk.batch.event(row);
                        let payload: serde_json::Value =
                            serde_json::from_slice(&event.payload).unwrap();
                        events.push(Event {
                            id: payload["id"].as_i64().unwrap(),
                            is_right: name == "right",
                            time: event.time,
                            site: payload["site"].as_str().unwrap()[1..].parse().unwrap(),
                            v: payload["v"].as_i64().unwrap(),
                            mark,
                        });
                        mark = mark.max(event.time - lateness * SECOND);
                    }
                    at = chunk.end();
                }
            }
        }
    }
    events
}

/// What the batch query makes of the events before those that close.
fn batch_rows(world: &World, case: &Case) -> Vec<String> {
    let events = logged(world, case.lateness).into_iter();
    let events: Vec<Event> = events.filter(|e| e.time < CLOSING).collect();
    let ints = |of: fn(&Event) -> i64| -> Arc<dyn Array> {
        Arc::new(events.iter().map(|e| Some(of(e))).collect::<Int64Array>())
    };
    let sites = events.iter().map(|e| Some(format!("s{}", e.site)));
    let sites: Arc<dyn Array> = Arc::new(sites.collect::<StringArray>());
    let events = RecordBatch::try_from_iter_with_nullable([
        ("id", ints(|e| e.id), true),
        ("side", ints(|e| i64::from(e.is_right)), true),
        ("t", ints(|e| e.time), true),
        ("v", ints(|e| e.v), true),
        ("mark", ints(|e| e.mark), true),
        ("site", sites, true),
    ]);
    query_over(world, &events.unwrap(), &case.query())
}

fn fill_prices(world: &World) {
    let sites = (0..PRICED).map(|site| Some(format!("s{site}")));
    let sites: Arc<dyn Array> = Arc::new(sites.collect::<StringArray>());
    let prices: Arc<dyn Array> = Arc::new((0..PRICED).map(price).collect::<Int64Array>());
    let rows = [("site", sites, true), ("price", prices, true)];
    let rows = RecordBatch::try_from_iter_with_nullable(rows).unwrap();
    let table = world.tables.table("prices").unwrap();
    table.apply(&rows, None).unwrap();
    let dated: Vec<_> = dated_prices().collect();
    let sites = dated.iter().map(|(site, ..)| Some(format!("s{site}")));
    let sites: Arc<dyn Array> = Arc::new(sites.collect::<StringArray>());
    let since = dated.iter().map(|(_, since, _)| Some(*since));
    let since = since
        .collect::<TimestampMicrosecondArray>()
        .with_timezone("UTC");
    let prices: Arc<dyn Array> = Arc::new(dated.iter().map(|(.., p)| *p).collect::<Int64Array>());
    let since: Arc<dyn Array> = Arc::new(since);
    let rows = [
        ("site", sites, true),
        ("since", since, true),
        ("price", prices, true),
    ];
    let rows = RecordBatch::try_from_iter_with_nullable(rows).unwrap();
    for table in ["wide", "dated"] {
        world
            .tables
            .table(table)
            .unwrap()
            .apply(&rows, None)
            .unwrap();
    }
}

fn three_ways(seed: u64) {
    let mut random = Random::new(seed);
    let case = Case::new(seed, &mut random);
    let files = case.files();
    let mut world = World::new(seed);
    apply(&world, &files);
    fill_prices(&world);
    let mut next = 0;
    while next < EVENTS {
        let to = (next + 1 + random.below(120) as i64).min(EVENTS);
        append(&world, &case.events(&mut random, next, to));
        next = to;
        if random.below(8) == 0 {
            rest(random.below(40));
            world = world.restart(random.below(2) == 0);
            apply(&world, &files);
        }
    }
    // In every partition of both streams; filtered on the left, so that they make no rows.
    let closing = (0..128).map(|n| Event {
        id: 1_000_000 + n / 2,
        is_right: n % 2 == 1,
        time: CLOSING + SECOND,
        site: 9,
        v: -1,
        mark: i64::MIN,
    });
    append(&world, &closing.collect::<Vec<_>>());
    let expected = batch_rows(&world, &case);
    assert!(expected.len() > 100, "seed {seed}: {}", expected.len());
    let unmatched = expected.iter().filter(|row| row.ends_with(" -1")).count();
    // An event is always near to itself.
    let is_alone = case.is_left && !matches!(case.with, JoinWith::Itself(_));
    assert_eq!(unmatched > 0, is_alone, "seed {seed}, {case:?}");
    let select = |table: &str| format!("select id, v, site, other from {table}");
    let until = Instant::now() + PATIENCE;
    while world.table_ints("live", "id").len() < expected.len() {
        let status = world.flow("f");
        assert!(Instant::now() < until, "seed {seed}, {case:?}: {status:#?}");
        rest(10);
    }
    let before = world.settle("f");
    assert_eq!(
        before.conservation.difference, 0,
        "seed {seed}: {before:#?}"
    );
    let live = rows(&world, &world.tables, &select("live"));
    assert_eq!(live, expected, "seed {seed}, {case:?}, live");
    let range = BoundedRange {
        from: None,
        to: Some(CLOSING),
    };
    let run = run(&world, range, "again");
    assert_eq!(run.state, BoundedState::Done, "seed {seed}: {run:?}");
    let again = rows(&world, &world.tables, &select("again"));
    assert_eq!(again, expected, "seed {seed}, {case:?}, over the range");
}

#[test]
fn joins_live_bounded_and_batch_are_the_same() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    match number("BUSBAR_SIM_SEED") {
        Some(seed) => three_ways(seed),
        None => (0..number("BUSBAR_SIM_RUNS").unwrap_or(18)).for_each(three_ways),
    }
}
