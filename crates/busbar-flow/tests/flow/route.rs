//! `route`: cases as files in `tests/routes`, each a flow with tests of its own; deployment, restarts, and what is refused.

use std::fs;

use crate::common::{World, ids, project};
use busbar_connector::Connectors;
use busbar_flow::{check, run_tests, run_tests_over_history, run_tests_restored};

const IN: (&str, &str) = (
    "streams/in.yaml",
    "topics: ['gauge/#', 'meter/#']\nformat: json\nschema: { n: int, level_mm: int, site: text }\n",
);
const KEPT: (&str, &str) = ("streams/kept.yaml", "format: json\n");

#[test]
fn cases() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/routes");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 6);
    let state = tempfile::tempdir().unwrap();
    for file in files {
        let flow = fs::read_to_string(&file).unwrap();
        let project = project(&[IN, KEPT, ("flows/f.yaml", &flow)]);
        let bad = check(&project, &Connectors::default());
        assert!(bad.is_empty(), "{}: {bad:?}", file.display());
        let connectors = Connectors::default();
        for (how, report) in [
            ("plain", run_tests(&project, &connectors, None)),
            ("restored", run_tests_restored(&project, &connectors)),
            (
                "over history",
                run_tests_over_history(&project, &connectors, state.path()),
            ),
        ] {
            assert!(!report.tests.is_empty(), "{}", file.display());
            for test in &report.tests {
                let told: Vec<String> = test.differences.iter().map(ToString::to_string).collect();
                assert!(test.passed, "{}, {how}: {told:#?}", file.display());
            }
        }
    }
}

#[test]
fn what_is_wrong_with_a_route_is_told_at_its_place() {
    let flow = |cases: &str, rest: &str| {
        format!(
            "from: in\nsteps:\n  - route:\n      cases:\n{cases}{rest}to:\n  - {{ topic: a, name: first }}\n  - stream: kept\n"
        )
    };
    for (cases, rest, code, word) in [
        (
            "        - when: kin = 'x'\n",
            "",
            "sql.unknown-column",
            "kin",
        ),
        (
            "        - when: { or: [{ sql: level_mm > 'x' }] }\n",
            "",
            "sql.types-differ",
            "level_mm > 'x'",
        ),
        (
            "        - { when: 'true', to: [fist] }\n",
            "",
            "flow.route-output",
            "fist",
        ),
        (
            "        - { when: 'true', to: [first] }\n",
            "  - where: level_mm > 1\n",
            "flow.route-to-last",
            "{ when: 'true', to: [first] }",
        ),
        (
            "        - { name: a, when: { kind: a } }\n        - { name: a, when: { kind: b } }\n",
            "",
            "flow.route-case-twice",
            "{ name: a, when: { kind: b } }",
        ),
        (
            "        - when: { kind: gauge }\n          steps: [{ where: level < 3 }]\n",
            "",
            "sql.unknown-column",
            "level",
        ),
        (
            "        - when: { topic: 'a/#/b' }\n",
            "",
            "event.filter-wildcard",
            "'a/#/b'",
        ),
        (
            "        - when: { kind: a }\n          steps: [{ select: site }]\n        - when: { kind: b }\n",
            "  - where: level_mm > 1\n",
            "flow.route-columns",
            "",
        ),
    ] {
        let flow = flow(cases, rest);
        let project = project(&[IN, KEPT, ("flows/f.yaml", &flow)]);
        let bad = check(&project, &Connectors::default());
        assert_eq!(bad.len(), 1, "{cases}: {bad:?}");
        assert_eq!(bad[0].error().code(), code, "{cases}: {bad:?}");
        if !word.is_empty() {
            assert!(
                word.starts_with(bad[0].word()),
                "{cases}: {}",
                bad[0].word()
            );
            assert!(bad[0].word().len() * 2 >= word.len(), "{cases}");
        }
    }
}

#[test]
fn a_case_that_no_event_takes_is_a_warning() {
    let flow = "from: in\nsteps:\n  - route:\n      cases:\n        - { name: gauges, when: { kind: gauge } }\n        \
                - { name: some, when: \"kind = 'gauge' and site = 'a'\" }\n        - { name: none, when: { kind: x, and: [{ kind: y }] } }\n\
                to:\n  - stream: kept\n";
    let project = project(&[IN, KEPT, ("flows/f.yaml", flow)]);
    let found = check(&project, &Connectors::default());
    let told: Vec<(&str, &str)> = found
        .iter()
        .map(|d| (d.error().code(), d.error().args()[0].1.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("flow.route-unreachable", "some"),
            ("flow.route-never", "none")
        ]
    );
    assert!(!busbar_catalog::has_errors(&found));
}

/// Cases by topic, by column and by what is computed, to a stream, to a hot and to a relational table.
const ROUTED: &str = "from: in\nsteps:\n  - route:\n      match: all\n      cases:\n        \
    - { name: even, when: 'n % 2 = 0', to: [kept] }\n        \
    - { name: gauges, when: { kind: gauge }, steps: [{ select: 'n, level_mm * 2 as w' }], to: [hot, disk] }\n        \
    - { name: sites, when: { sql: \"site = 's1'\" }, steps: [{ where: n > 10 }], to: [kept, sites] }\n      \
    default: { to: [others] }\n\
    to:\n  - stream: kept\n  - { table: hot }\n  - { table: disk }\n  - { table: sites }\n  - { topic: others/x, name: others }\n";

fn reading(n: i64) -> String {
    format!(r#"{{"n":{n},"id":{n},"level_mm":{n},"site":"s{}"}}"#, n % 3)
}

#[test]
fn every_event_reaches_its_outputs_once_over_kills_and_is_accounted_for() {
    let mut world = World::new(77);
    let files = [
        IN,
        KEPT,
        ("streams/others.yaml", "topics: others/#\nformat: json\n"),
        ("tables/hot.yaml", "hot: {}\nkey: [n]\n"),
        ("tables/disk.yaml", "relational: {}\n"),
        ("tables/sites.yaml", "relational: {}\n"),
        ("flows/f.yaml", ROUTED),
    ];
    let mut published = 0..0;
    for round in 0..4 {
        world.apply(&files);
        published = 0..published.end + 300;
        for n in published.end - 300..published.end {
            let topic = if n % 4 == 1 { "meter/m/x" } else { "gauge/g/x" };
            world.publish(topic, &[reading(n)]);
        }
        if round < 3 {
            world = world.restart(round % 2 == 0);
        }
    }
    let status = world.settle("f");
    assert_eq!(status.conservation.difference, 0);
    let (even, gauge, site) = (
        |n: &i64| n % 2 == 0,
        |n: &i64| n % 4 != 1,
        |n: &i64| n % 3 == 1,
    );
    // An event as it came goes to `kept` once for the case of even ones, and once more as a result of another case.
    let mut kept: Vec<i64> = published.clone().filter(even).collect();
    kept.extend(published.clone().filter(|n| site(n) && *n > 10));
    kept.sort_unstable();
    let mut found = ids(&world.contents("kept"));
    let own: Vec<i64> = found.clone();
    assert!(own.is_sorted(), "one stream, one order: that of the events");
    found.sort_unstable();
    assert_eq!(found, kept);
    let gauges: Vec<i64> = published.clone().filter(gauge).collect();
    for table in ["hot", "disk"] {
        let mut rows = world.table_ints(table, "n");
        rows.sort_unstable();
        assert_eq!(rows, gauges, "{table}");
    }
    assert_eq!(
        world.table_ints("disk", "w").iter().sum::<i64>(),
        gauges.iter().sum::<i64>() * 2
    );
    let mut sites = world.table_ints("sites", "n");
    sites.sort_unstable();
    let expected: Vec<i64> = published.clone().filter(|n| site(n) && *n > 10).collect();
    assert_eq!(sites, expected);
    let others: Vec<i64> = published
        .filter(|n| !even(n) && !gauge(n) && !site(n))
        .collect();
    assert_eq!(ids(&world.contents("others")), others);
}

#[test]
fn a_window_in_a_case_counts_over_all_partitions() {
    let world = World::new(78);
    let flow = "from: in\nsteps:\n  - route:\n      name: r\n      cases:\n        \
        - { name: gauges, when: { kind: gauge }, steps: [{ window: { tumble: 10s, by: [site], select: 'site, count(*) as n' } }], to: [counts, disk] }\n      \
        default: { to: [kept] }\n\
        to:\n  - { topic: 'count/${site}', name: counts }\n  - { table: disk }\n  - stream: kept\n";
    world.apply(&[
        (
            "streams/in.yaml",
            "topics: ['gauge/#', 'meter/#']\npartitions: 3\nformat: json\nschema: { id: int, site: text }\n",
        ),
        KEPT,
        ("streams/counts.yaml", "topics: count/#\nformat: json\n"),
        ("tables/disk.yaml", "relational: {}\n"),
        ("flows/f.yaml", flow),
    ]);
    for client in 0..30 {
        let events: Vec<String> = (0..10).map(reading).collect();
        world.publish(&format!("gauge/g{client}/x"), &events);
        world.publish(&format!("meter/m{client}/x"), &[reading(client)]);
    }
    // Ticks close the windows.
    let until = std::time::Instant::now() + crate::common::PATIENCE;
    let total = |world: &World| world.table_ints("disk", "n").iter().sum::<i64>();
    while total(&world) < 300 {
        assert!(std::time::Instant::now() < until, "{:#?}", world.flow("f"));
        crate::common::rest(20);
    }
    let status = world.settle("f");
    assert_eq!(status.conservation.difference, 0);
    assert_eq!(total(&world), 300);
    let counts = world.contents("counts");
    let sum: i64 = counts
        .iter()
        .filter_map(|(_, count)| count["n"].as_i64())
        .sum();
    assert_eq!(sum, 300);
    assert_eq!(ids(&world.contents("kept")).len(), 30);
    let names: Vec<&str> = status
        .tasks
        .iter()
        .flat_map(|task| task.operators.iter().map(|o| o.name.as_str()))
        .collect();
    assert!(names.contains(&"r:gauges:window-1"), "{names:?}");
}
