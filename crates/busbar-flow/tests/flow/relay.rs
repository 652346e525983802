//! Events that their tags relay and store: from envelopes and from payloads, and circles.

use arrow::array::AsArray;
use busbar_event::limits::HOPS_MAX;
use busbar_event::{Batch, BatchBuilder, Flags, Row};
use busbar_flow::DeadFilter;
use busbar_table::Scan;

use crate::common::World;

fn batch(topic: &str, events: &[(&str, &[(&str, &str)])]) -> Batch {
    let mut builder = BatchBuilder::new();
    for (payload, tags) in events {
        let topic = builder.topic_id(topic);
        builder.push(Row {
            topic,
            key: None,
            time: 1_800_000_000_000_000,
            client: None,
            flags: Flags(0),
            tags,
            payload: payload.as_bytes(),
        });
    }
    builder.finish()
}

const IN: (&str, &str) = (
    "streams/in.yaml",
    "topics: in/#\nformat: json\nschema: { id: int }\ntags: payload.TAG\nrelay: true\nstore: kept\n",
);

#[test]
fn tags_of_envelope_and_payload_relay_and_store() {
    let world = World::new(91);
    world.apply(&[
        IN,
        ("streams/out.yaml", "topics: out/#\nformat: json\n"),
        ("tables/kept.yaml", "relational: {}\nkey: [id]\n"),
    ]);
    let events = [
        (
            r#"{"id":1}"#,
            &[
                ("relay_to_out/a", ""),
                ("relay_to_out/b", ""),
                ("site", "x"),
            ][..],
        ),
        (r#"{"id":2,"TAG":["DB","relay_to_out/c"]}"#, &[][..]),
        (r#"{"id":3}"#, &[("DB", "")][..]),
        (r#"{"id":4,"TAG":{"DB":{}}}"#, &[][..]),
        (r#"{"id":5}"#, &[("relay_to_out/+", "")][..]),
        (r#"{"id":6}"#, &[("other", "")][..]),
    ];
    world
        .tokio
        .block_on(world.bus.append(batch("in/g/x", &events), None))
        .unwrap();
    let status = world.settle("in.tags");
    assert_eq!(status.conservation.difference, 0);
    let relayed: Vec<(String, i64)> = world
        .contents("out")
        .into_iter()
        .map(|(topic, payload)| (topic, payload["id"].as_i64().unwrap()))
        .collect();
    let expected = [("out/a", 1), ("out/b", 1), ("out/c", 2)];
    assert_eq!(relayed, expected.map(|(topic, id)| (topic.to_owned(), id)));
    let mut kept = world.table_ints("kept", "id");
    kept.sort_unstable();
    assert_eq!(kept, [2, 3]);
    assert_eq!(world.table_texts("kept", "topic"), ["in/g/x"; 2]);
    let dead = world.flows.dead_letters(DeadFilter::default(), 10);
    let dead = world.tokio.block_on(dead).unwrap();
    let mut codes: Vec<&str> = dead.iter().map(|letter| &*letter.code).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["event.tags-shape", "event.topic-wildcard"]);
    // The other tags go along, with the hop.
    let stream = world.bus.stream("out").unwrap();
    let chunk = &stream.partitions()[0].read(0, 1 << 20).unwrap()[0].batch;
    let tags: Vec<(&str, &str)> = chunk.tags(0).collect();
    assert_eq!(tags, [("site", "x"), ("busbar-hops", "1")]);
}

#[test]
fn a_circle_of_relays_ends_in_a_dead_letter() {
    let world = World::new(92);
    let stream = |topics: &str| {
        format!(
            "topics: {topics}\nformat: json\nschema: {{ id: int, TAG: json }}\ntags: payload.TAG\nrelay: true\n"
        )
    };
    // Each names the other, in the payload, which is never changed.
    world.apply(&[
        ("streams/a.yaml", &stream("a/#")),
        ("streams/b.yaml", &stream("b/#")),
    ]);
    let event = [(
        r#"{"id":1,"TAG":["relay_to_b/x"]}"#,
        &[("relay_to_a/x", "")][..],
    )];
    let event = batch("b/x", &event);
    world.tokio.block_on(world.bus.append(event, None)).unwrap();
    let until = std::time::Instant::now() + crate::common::PATIENCE;
    let dead = loop {
        let dead = world.flows.dead_letters(DeadFilter::default(), 10);
        let dead = world.tokio.block_on(dead).unwrap();
        if !dead.is_empty() {
            break dead;
        }
        assert!(std::time::Instant::now() < until);
        crate::common::rest(10);
    };
    assert!(
        dead.iter()
            .all(|letter| &*letter.code == "flow.relay-circle"),
        "{dead:?}"
    );
    world.settle("a.tags");
    let status = world.settle("b.tags");
    assert_eq!(status.conservation.difference, 0);
    let passed = world.contents("a").len() + world.contents("b").len();
    assert!(passed > HOPS_MAX as usize, "{passed}");
    assert!(passed < 10 * HOPS_MAX as usize, "{passed}");
}

#[test]
fn a_query_sees_the_tags_of_payloads() {
    let world = World::new(93);
    world.apply(&[IN, ("tables/kept.yaml", "hot: {}\nkey: [id]\n")]);
    let events = [(r#"{"id":1,"TAG":{"unit":"mm"}}"#, &[][..])];
    let events = batch("in/g/x", &events);
    world
        .tokio
        .block_on(world.bus.append(events, None))
        .unwrap();
    let stream = world.bus.stream("in").unwrap();
    let relation = busbar_sql::StreamRelation::of(&stream).unwrap();
    struct One(busbar_sql::StreamRelation);
    impl busbar_sql::Relations for One {
        fn names(&self) -> Vec<String> {
            vec!["in".to_owned()]
        }
        fn relation(&self, _: &str) -> Result<Option<busbar_sql::Relation>, busbar_event::Error> {
            Ok(Some(busbar_sql::Relation::Stream(self.0.clone())))
        }
    }
    let relations = std::sync::Arc::new(One(relation));
    let engine = busbar_sql::Engine::new(relations, busbar_sql::QueryLimits::default()).unwrap();
    let batches = world.tokio.block_on(async {
        let text = "select tags['unit'] as unit from \"in\"";
        let mut answer = engine.query(text).await.unwrap();
        answer.collect().await.unwrap()
    });
    let unit = batches[0].column(0).as_string::<i32>().value(0).to_owned();
    assert_eq!(unit, "mm");
    let table = world.tables.table("kept").unwrap();
    assert_eq!(table.scan(&Scan::default()).unwrap().count(), 0);
}
