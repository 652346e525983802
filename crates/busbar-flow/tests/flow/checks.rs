//! What is refused before a flow runs, and what of a running flow stays when its file changes.

use crate::common::{World, ids, project};
use busbar_connector::Connectors;
use busbar_flow::check;

const IN: (&str, &str) = (
    "streams/in.yaml",
    "topics: in/#\nformat: json\nschema: { id: int, v: int, site: text }\n",
);
const RAW: (&str, &str) = ("streams/in.yaml", "topics: in/#\nformat: json\n");
const OUT: (&str, &str) = (
    "streams/out.yaml",
    "topics: out/#\nformat: json\nschema: { id: int, w: int }\n",
);

fn codes(files: &[(&str, &str)]) -> Vec<(&'static str, String)> {
    let bad = check(&project(files), &Connectors::default());
    bad.iter()
        .map(|bad| (bad.error().code(), bad.word().to_owned()))
        .collect()
}

fn steps(steps: &str) -> String {
    format!("from: in\nsteps:\n  - {steps}\nto:\n  - topic: out/x\n")
}

#[test]
fn a_query_that_looks_at_several_rows_is_refused_in_a_flow() {
    for (query, word) in [
        ("select count(*) as n, sum(v) as s from input", "group by"),
        (
            "select site, max(v) as m from input group by site",
            "group by",
        ),
        ("select distinct site from input", "distinct"),
        (
            "select id, sum(v) over (partition by site) as s from input",
            "over",
        ),
        ("select id from input limit 3", "limit"),
        (
            "select a.id from input a join input b on a.id = b.v",
            "join",
        ),
        (
            "select id from input where v > (select avg(v) from input)",
            "group by",
        ),
        (
            "with m as (select min(v) as v from input) select v from m",
            "group by",
        ),
    ] {
        let found = codes(&[IN, OUT, ("flows/f.yaml", &steps(&format!("sql: {query}")))]);
        assert_eq!(found.len(), 1, "{query}: {found:?}");
        assert_eq!(found[0].0, "flow.sql-across-rows", "{query}");
        // The word is underlined where it stands in the text.
        if query.contains(word) {
            assert_eq!(found[0].1, word, "{query}");
        }
    }
    for query in [
        "select id, v * 2 as w from input where v > 1",
        "select id, v as w from input union all select id, 0 as w from input",
        "select id, w from (select id, v + 1 as w from input) where w > 3",
    ] {
        let found = codes(&[IN, OUT, ("flows/f.yaml", &steps(&format!("sql: {query}")))]);
        assert_eq!(found, [], "{query}");
    }
}

#[test]
fn a_flow_that_reads_a_table_is_told_what_to_do() {
    let flow = "from: last\nto:\n  - topic: out/x\n";
    let table = ("tables/last.yaml", "hot: {}\nkey: [id]\n");
    let files: std::collections::BTreeMap<String, String> = [IN, table, ("flows/f.yaml", flow)]
        .iter()
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
        .collect();
    let (_, bad) = busbar_catalog::Project::parse(busbar_catalog::Bundle { files });
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert_eq!(bad[0].error().code(), "flow.from-table");
    assert_eq!(bad[0].word(), "last");
}

#[test]
fn without_a_schema_syntax_and_functions_are_checked_all_the_same() {
    for (step, code, word) in [
        ("where: 'kw >>> 3; drop table x'", "sql.unexpected", None),
        (
            "where: strat_with(site, 'a')",
            "sql.unknown-function",
            Some("strat_with"),
        ),
        (
            "select: id, rond(v) as w",
            "sql.unknown-function",
            Some("rond"),
        ),
        ("select: id,, v", "sql.unexpected", None),
        (
            "sql: select idd(v) as id from input",
            "sql.unknown-function",
            Some("idd"),
        ),
        ("sql: delete from input", "sql.read-only", None),
    ] {
        let found = codes(&[RAW, ("flows/f.yaml", &steps(step))]);
        assert_eq!(found.len(), 1, "{step}: {found:?}");
        assert_eq!(found[0].0, code, "{step}: {found:?}");
        if let Some(word) = word {
            assert_eq!(found[0].1, word, "{step}");
        }
    }
    let fine = steps("where: starts_with(anything, 'a') and round(kw) > 3");
    assert_eq!(codes(&[RAW, ("flows/f.yaml", &fine)]), []);
}

#[test]
fn an_output_that_gets_a_key_is_still_the_same_output() {
    let world = World::new(41);
    let flow = |to: &str| format!("from: in\nsteps:\n  - select: id, v as w\nto:\n  - {to}\n");
    let events: Vec<String> = (0..50)
        .map(|id| format!(r#"{{"id":{id},"v":1,"site":"s"}}"#))
        .collect();
    world.apply(&[IN, OUT, ("flows/f.yaml", &flow("stream: out"))]);
    world.publish("in/a/b", &events);
    world.settle("f");
    // It goes on where it was: nothing comes twice.
    world.apply(&[
        IN,
        OUT,
        ("flows/f.yaml", &flow("{ stream: out, key: '${id}' }")),
    ]);
    world.publish("in/a/b", &[r#"{"id":50,"v":1,"site":"s"}"#.into()]);
    world.settle("f");
    assert_eq!(ids(&world.contents("out")), (0..=50).collect::<Vec<i64>>());
}

#[test]
fn counters_go_on_over_a_pause_and_a_new_version() {
    let world = World::new(42);
    let flow = |v: &str| {
        format!(
            "from: in\nsteps:\n  - where: v >= {v}\n  - select: id, v as w\nto:\n  - stream: out\n"
        )
    };
    let event = |v: i64| format!(r#"{{"id":1,"v":{v},"site":"s"}}"#);
    world.apply(&[IN, OUT, ("flows/f.yaml", &flow("5"))]);
    world.publish("in/a/b", &[event(1), event(9), event(8)]);
    let counters = |world: &World| {
        let status = world.settle("f");
        assert_eq!(status.conservation.difference, 0, "{status:#?}");
        let of = |id: &str| status.nodes.iter().find(|n| n.id == id).unwrap().counters;
        let counters = status.conservation.counters;
        assert_eq!(of("from:in").input, counters.input);
        assert_eq!(of("step:0").filtered, counters.filtered);
        assert_eq!(of("to:0").out, counters.out);
        (counters.input, counters.filtered, counters.out)
    };
    assert_eq!(counters(&world), (3, 1, 2));
    world.tokio.block_on(world.flows.pause("f")).unwrap();
    world.publish("in/a/b", &[event(1)]);
    world.tokio.block_on(world.flows.resume("f")).unwrap();
    assert_eq!(counters(&world), (4, 2, 2));
    world.apply(&[IN, OUT, ("flows/f.yaml", &flow("0"))]);
    world.publish("in/a/b", &[event(1)]);
    assert_eq!(counters(&world), (5, 2, 3));
}

#[test]
fn a_flow_begins_at_the_time_it_says() {
    let world = World::new(43);
    let at = |seconds: i64| {
        use arrow::array::{BinaryArray, StringArray};
        let payload = format!(r#"{{"id":{seconds},"v":1,"site":"s"}}"#);
        let envelope = busbar_event::Envelope::new(
            &StringArray::from(vec!["in/a/b"]),
            vec![seconds * 1_000_000],
        );
        let body = BinaryArray::from_iter_values([payload.as_bytes()]);
        busbar_event::Batch::from_columns(envelope, busbar_event::Body::Payload(body)).unwrap()
    };
    world.apply(&[IN, OUT]);
    for seconds in [100, 200, 300] {
        let appended = world.bus.append(at(seconds), None);
        world.tokio.block_on(appended).unwrap();
    }
    let flow = "from: in\nstart: '1970-01-01T00:03:20Z'\nsteps:\n  - select: id, v as w\nto:\n  - stream: out\n";
    world.apply(&[IN, OUT, ("flows/f.yaml", flow)]);
    world.settle("f");
    assert_eq!(ids(&world.contents("out")), [200, 300]);
}

#[test]
fn a_number_that_becomes_too_large_dies_alone() {
    let world = World::new(44);
    let flow =
        "from: in\nsteps:\n  - select: id, v + 9223372036854775800 as w\nto:\n  - stream: out\n";
    world.apply(&[IN, OUT, ("flows/f.yaml", flow)]);
    let events: Vec<String> = [1, 7, 8, 2]
        .iter()
        .map(|v| format!(r#"{{"id":{v},"v":{v},"site":"s"}}"#))
        .collect();
    world.publish("in/a/b", &events);
    let status = world.settle("f");
    assert_eq!(ids(&world.contents("out")), [1, 7, 2]);
    let dead = world.contents(busbar_flow::DEAD_LETTERS);
    assert_eq!(ids(&dead), [8]);
    assert_eq!(status.conservation.counters.dead, 1);
}

#[test]
fn a_join_that_does_not_fit_is_pointed_at() {
    let files = |join: &str| {
        let flow = steps(&format!("join: {join}"));
        let files = [
            IN,
            OUT,
            (
                "streams/price.yaml",
                "topics: price/#\nformat: json\nschema: { place: text, eur: float, v: int }\n",
            ),
            (
                "tables/sites.yaml",
                "key: [site]\ncolumns: [{ name: site, type: text }, { name: city, type: text }, { name: v, type: int }]\nhot: {}\n",
            ),
            (
                "tables/log.yaml",
                "columns: [{ name: site, type: text }]\nrelational: {}\n",
            ),
            ("flows/f.yaml", &flow),
        ];
        let bad = check(&project(&files), &Connectors::default());
        let bad = bad.iter().map(|bad| {
            let help = bad.help().and_then(|help| help.args().first());
            let help = help.map(|arg| arg.1.clone()).unwrap_or_default();
            (bad.error().code(), bad.word().to_owned(), help)
        });
        bad.collect::<Vec<_>>()
    };
    for (join, code, word, help) in [
        (
            "{ table: sites, on: sit }",
            "flow.unknown-column",
            "sit",
            "site",
        ),
        (
            "{ table: sites, on: site = sit }",
            "flow.join-unknown-column",
            "sit",
            "site",
        ),
        (
            "{ table: sites, on: [id = site] }",
            "flow.join-type",
            "id",
            "",
        ),
        ("{ table: sites, on: v }", "flow.join-key", "v", ""),
        ("{ table: sites, on: [site, v] }", "flow.join-key", "[", ""),
        ("{ table: log, on: site }", "flow.join-no-key", "site", ""),
        (
            "{ table: sites, on: site }",
            "flow.join-column-twice",
            "{",
            "",
        ),
        (
            "{ table: sites, on: site, columns: [cit] }",
            "flow.join-unknown-column",
            "cit",
            "city",
        ),
        (
            "{ table: sites, on: site, columns: [zzzzz as c] }",
            "flow.join-unknown-column",
            "zzzzz",
            "site, city, v",
        ),
        (
            "{ table: sites, on: site, columns: [city as id] }",
            "flow.join-column-twice",
            "id",
            "",
        ),
        (
            "{ table: sites, on: site, columns: [city], within: 1m }",
            "flow.join-table-options",
            "{",
            "",
        ),
        ("{ on: site }", "flow.join-source", "{", ""),
        (
            "{ stream: price, on: site = place }",
            "flow.join-how",
            "{",
            "",
        ),
        (
            "{ stream: price, on: site = place, within: 1m, as_of: true }",
            "flow.join-how",
            "{",
            "",
        ),
        (
            "{ stream: price, on: site = place, within: 0s }",
            "flow.span-positive",
            "0s",
            "",
        ),
        (
            "{ stream: price, on: site = place, within: 1m, cache: 1s }",
            "flow.join-cache",
            "1s",
            "",
        ),
        (
            "{ stream: price, on: site = places, within: 1m }",
            "flow.join-unknown-column",
            "places",
            "place",
        ),
        (
            "{ stream: price, on: site = place, as_of: true }",
            "flow.join-column-twice",
            "{",
            "",
        ),
    ] {
        let found = files(join);
        let [(found, at, near)] = &found[..] else {
            panic!("{join}: {found:?}");
        };
        assert_eq!((*found, near.as_str()), (code, help), "{join}");
        match word {
            "{" | "[" => assert!(at.starts_with(word), "{join}: {at}"),
            _ => assert_eq!(at, word, "{join}"),
        }
    }
    for join in [
        "{ table: sites, on: site, columns: [city, v as rank] }",
        "{ stream: price, on: site = place, within: 1m, columns: [eur] }",
        "{ stream: price, on: [site = place, v], as_of: true }",
    ] {
        assert_eq!(files(join), [], "{join}");
    }
}

#[test]
fn documents_that_no_step_can_write_are_refused_where_they_are_said() {
    for (step, code, word) in [
        ("{ root: 'a b' }", "event.xml-name", "{ root"),
        ("{ root: r, as: key }", "flow.xml-as", "key"),
        // As text it would take the place of the event's own time.
        ("{ root: r, as: time }", "flow.xml-as", "time"),
        (
            "{ root: r, as: d, encoding: utf-16 }",
            "flow.xml-encoding",
            "utf-16",
        ),
        (
            "{ root: r, encoding: EBCDIC }",
            "event.xml-charset",
            "{ root",
        ),
        (
            "{ root: r, columns: { sit: x } }",
            "flow.unknown-column",
            "{ sit",
        ),
        (
            "{ root: r, columns: { id: x, site: x } }",
            "event.xml-place",
            "{ root",
        ),
    ] {
        let found = codes(&[IN, OUT, ("flows/f.yaml", &steps(&format!("xml: {step}")))]);
        let [(found, at)] = &found[..] else {
            panic!("{step}: {found:?}");
        };
        assert_eq!(*found, code, "{step}");
        match word.starts_with('{') {
            true => assert!(at.starts_with(word), "{step}: {at}"),
            false => assert_eq!(at, word, "{step}"),
        }
    }
    let fits = steps("xml: { root: r, as: document, columns: { id: '@id' } }");
    assert_eq!(codes(&[IN, OUT, ("flows/f.yaml", &fits)]), []);
}
