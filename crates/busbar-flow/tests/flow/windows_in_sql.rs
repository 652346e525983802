//! `group by tumble(…)` in a `sql` step: the same rows as the `window` step gives, and as the same query gives over the
//! stored events.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{BinaryArray, RecordBatch, StringArray};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use busbar_connector::Connectors;
use busbar_event::{Batch, Body, Envelope};
use busbar_flow::check;
use busbar_log::sim::Random;
use busbar_sql::{Engine, QueryLimits};

use crate::common::{PATIENCE, Streams, World, project, rest};

const SECOND: i64 = 1_000_000;
/// Times of events lie ahead of the clock, so that no partition ticks.
const AHEAD: i64 = 4_000_000_000 * SECOND;

const IN: (&str, &str) = (
    "streams/in.yaml",
    "topics: in/#\nformat: json\npartitions: 3\nlateness: 5s\nschema: { id: int, v: int, site: text }\n",
);

/// The window as YAML and as SQL.
const WINDOWS: [(&str, &str); 3] = [
    ("tumble: 10s", "tumble(interval '10 seconds')"),
    (
        "hop: { size: 30s, every: 7s }",
        "hop(interval '30 seconds', interval '7 seconds')",
    ),
    ("session: 2s", "session(interval '2' second)"),
];

/// The same, with the columns of the stream qualified by its alias.
const QUALIFIED: &str = "i.site, window_start, window_end, count(*) as n, sum(i.v) as s, count(*) filter (where i.v > 50) as high";
const COLUMNS: &str = "site, window_start, window_end, count(*) as n, sum(v) as s, count(*) filter (where v > 50) as high";

fn rows(world: &World, engine: &Engine, query: &str) -> Vec<String> {
    let batches: Vec<RecordBatch> = world.tokio.block_on(async {
        let answer = engine.query(query).await;
        let mut answer = answer.unwrap_or_else(|wrong| panic!("{query}: {wrong}"));
        answer.collect().await.unwrap()
    });
    let options = FormatOptions::default();
    let mut rows = Vec::new();
    for batch in &batches {
        let cells = batch.columns().iter();
        let cells: Vec<_> = cells
            .map(|cell| ArrayFormatter::try_new(cell, &options).unwrap())
            .collect();
        rows.extend((0..batch.num_rows()).map(|row| {
            let cells = cells.iter().map(|cell| cell.value(row).to_string());
            cells.collect::<Vec<_>>().join(" ")
        }));
    }
    rows.sort_unstable();
    rows
}

fn batch(events: &[(i64, String, i64)]) -> Batch {
    let topics: Vec<String> = (0..events.len())
        .map(|i| format!("in/c{}", i % 16))
        .collect();
    let times = events.iter().map(|(time, ..)| *time).collect();
    let payloads = events
        .iter()
        .map(|(_, site, v)| format!(r#"{{"v":{v},"site":"{site}"}}"#).into_bytes());
    let body = BinaryArray::from_iter_values(payloads);
    Batch::from_columns(
        Envelope::new(&StringArray::from(topics), times),
        Body::Payload(body),
    )
    .unwrap()
}

#[test]
fn a_flow_in_yaml_a_flow_in_sql_and_a_query_over_the_stored_events_agree() {
    let world = World::new(11);
    let mut files = vec![(IN.0.to_owned(), IN.1.to_owned())];
    for (number, (yaml, sql)) in WINDOWS.iter().enumerate() {
        let flows = [
            (
                "yaml",
                format!(
                    "  - where: v >= 0\n  - window:\n      {yaml}\n      by: [site]\n      select: {COLUMNS}\n      having: count(*) > 1\n"
                ),
            ),
            (
                "sql",
                format!(
                    "  - sql: >\n      select {COLUMNS} from input where v >= 0\n      group by {sql}, site having count(*) > 1\n"
                ),
            ),
            (
                "qualified",
                format!(
                    "  - sql: >\n      select {QUALIFIED} from input as i where i.v >= 0\n      group by {sql}, i.site having count(i.v) > 1\n"
                ),
            ),
        ];
        for (kind, steps) in flows {
            let name = format!("{kind}{number}");
            files.push((
                format!("streams/{name}.yaml"),
                format!("topics: {name}\nformat: json\nschema: {{ site: text, window_start: time, window_end: time, n: int, s: int, high: int }}\n"),
            ));
            files.push((
                format!("flows/f{name}.yaml"),
                format!("from: in\nsteps:\n{steps}to:\n  - stream: {name}\n"),
            ));
        }
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(p, t)| (&**p, &**t)).collect();
    let applied = world.apply(&files);
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    let mut random = Random::new(3);
    for piece in 0..20 {
        let events: Vec<_> = (0..100)
            .map(|i| {
                let time = AHEAD + (piece * 100 + i) * SECOND / 10;
                // Less than the lateness: nothing is late.
                let time = time - random.below(4 * SECOND as u64) as i64;
                (
                    time,
                    format!("s{}", random.below(12)),
                    random.below(100) as i64 - 5,
                )
            })
            .collect();
        world
            .tokio
            .block_on(world.bus.append(batch(&events), None))
            .unwrap();
    }
    // What closes the windows, in every partition.
    let last: Vec<_> = (0..64)
        .map(|_| (AHEAD + 10_000 * SECOND, "last".to_owned(), 1))
        .collect();
    world
        .tokio
        .block_on(world.bus.append(batch(&last), None))
        .unwrap();

    let engine = Engine::new(Arc::new(Streams(world.bus.clone())), QueryLimits::default()).unwrap();
    for (number, (_, sql)) in WINDOWS.iter().enumerate() {
        let expected = rows(
            &world,
            &engine,
            &format!(
                "select {COLUMNS} from \"in\" where v >= 0 and site <> 'last' group by {sql}, site having count(*) > 1"
            ),
        );
        assert!(expected.len() > 60, "{sql}: {}", expected.len());
        for kind in ["yaml", "sql", "qualified"] {
            let out = format!(
                "select site, window_start, window_end, n, s, high from {kind}{number} where site <> 'last'"
            );
            let until = Instant::now() + PATIENCE;
            loop {
                world.settle(&format!("f{kind}{number}"));
                let found = rows(&world, &engine, &out);
                if found == expected {
                    break;
                }
                assert!(
                    Instant::now() < until,
                    "{kind} {sql}\n{found:#?}\n{expected:#?}"
                );
                rest(50);
            }
            let status = world.flow(&format!("f{kind}{number}"));
            assert_eq!(status.conservation.difference, 0, "{status:#?}");
            assert_eq!(status.conservation.counters.late, 0, "{status:#?}");
        }
    }
}

/// Codes, and the words under the caret, of what is wrong with a `sql` step.
fn wrong(query: &str) -> Vec<(&'static str, String)> {
    let out = ("streams/out.yaml", "topics: out/x\nformat: json\n");
    [
        format!("  - sql: >-\n      {}\n", query.replace('\n', "\n      ")),
        format!("  - sql: |\n      {}\n", query.replace('\n', "\n      ")),
    ]
    .iter()
    .flat_map(|step| {
        let flow = format!("from: in\nsteps:\n{step}to:\n  - stream: out\n");
        let bad = check(
            &project(&[IN, out, ("flows/f.yaml", &flow)]),
            &Connectors::default(),
        );
        assert!(bad.len() < 2, "{bad:?}");
        bad.iter()
            .map(|bad| (bad.error().code(), bad.word().to_owned()))
            .collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn an_error_is_shown_at_its_place_in_the_query() {
    for (query, code, word) in [
        (
            "select site, sum(w) as s\nfrom input\ngroup by tumble(interval '1 minute'), site",
            "sql.unknown-column",
            "w",
        ),
        (
            "select site, count(*) as n from input where vv > 1\ngroup by tumble(interval '1 minute'), site",
            "sql.unknown-column",
            "vv",
        ),
        (
            "select count(*) as n from input\ngroup by tumble(interval '1 minute'), sitee",
            "sql.unknown-column",
            "sitee",
        ),
        (
            "select count(*) as n from input\ngroup by tumble(interval '1 minute')\nhaving summ(v) > 1",
            "sql.unknown-function",
            "summ",
        ),
        (
            "select id, count(*) as n from input group by tumble(interval '1 minute'), site",
            "sql.not-grouped",
            "id",
        ),
        (
            "select count(*) as n from input\ngroup by hop(interval '1 hour', interval '1 us')",
            "flow.window-panes",
            "hop(interval '1 hour', interval '1 us')",
        ),
        (
            "select count(*) as n from input group by tumbl(interval '1 minute')",
            "sql.unknown-function",
            "tumbl",
        ),
        (
            "select count(*) as n from input group by tumble(interval '1 minute')\norder by n",
            "sql.window-clause",
            "order",
        ),
        (
            "select site, count(*) as n from input group by site",
            "flow.sql-across-rows",
            "group by",
        ),
    ] {
        let found = wrong(query);
        assert_eq!(found.len(), 2, "{query}: {found:?}");
        for found in found {
            assert_eq!((found.0, &*found.1), (code, word), "{query}");
        }
    }
}
