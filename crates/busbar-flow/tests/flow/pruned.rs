//! Columns that nobody reads behind a join do not go through it.

use arrow::array::AsArray;
use serde_json::json;

use crate::common::World;

const IN: (&str, &str) = (
    "streams/in.yaml",
    "topics: in/#\nformat: json\npartitions: 2\nschema: { id: int, site: text, a: int, b: int, big: text }\n",
);
const OTHER: (&str, &str) = (
    "streams/other.yaml",
    "topics: other/#\nformat: json\nschema: { site: text, x: int, y: int, large: text }\n",
);
const OUT: (&str, &str) = ("streams/out.yaml", "topics: out/#\nformat: json\n");
const SITES: (&str, &str) = (
    "tables/sites.yaml",
    "hot: {}\nkey: [site]\ncolumns: [{ name: site, type: text }, { name: height, type: int }, { name: note, type: text }]\n",
);

/// The columns of the stream between the stages, of a flow with these steps.
fn between(steps: &str) -> Vec<String> {
    let world = World::new(31);
    let flow = format!("from: in\nsteps:\n{steps}to:\n  - topic: out/x\n");
    let applied = world.apply(&[IN, OTHER, OUT, SITES, ("flows/f.yaml", &flow)]);
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    world.publish(
        "in/x",
        &[json!({ "id": 1, "site": "s", "a": 1, "b": 2, "big": "b" }).to_string()],
    );
    world.publish(
        "other/x",
        &[json!({ "site": "s", "x": 1, "y": 2, "large": "l" }).to_string()],
    );
    let plan = world.tokio.block_on(world.flows.explain("f")).unwrap();
    let regroup = plan.stages[0].regroup.as_ref().unwrap();
    world.settle("f");
    let stream = world.bus.stream(&regroup.stream).unwrap();
    for partition in stream.partitions().iter() {
        for chunk in partition.read(0, 1 << 20).unwrap() {
            let busbar_event::Body::Columns(columns) = chunk.batch.body() else {
                continue;
            };
            let row = columns.column_by_name("row").unwrap().as_struct();
            let names = row.fields().iter().map(|field| field.name().clone());
            return names.filter(|name| !name.starts_with('$')).collect();
        }
    }
    panic!("nothing was regrouped");
}

#[test]
fn only_what_is_read_later_is_regrouped_and_kept() {
    let join = "  - join: { stream: other, on: site, within: 1m }\n";
    // All columns go out.
    let all = between(join);
    assert!(
        ["big", "large", "topic", "a", "y"]
            .iter()
            .all(|name| all.iter().any(|c| c == name)),
        "{all:?}"
    );
    let select = "  - select: id, x\n";
    for (steps, expected) in [
        (format!("{join}{select}"), vec!["site", "id", "x"]),
        // Steps in between read columns, too, and pass the others on.
        (
            format!("{join}  - where: a > y\n{select}"),
            vec!["site", "id", "a", "x", "y"],
        ),
        // So does a second join, of what it compares and of what is read behind it.
        (
            format!(
                "{join}  - join: {{ table: sites, on: site, columns: [height] }}\n  - select: id, height\n"
            ),
            vec!["site", "id"],
        ),
        (
            format!("{join}  - window: {{ tumble: 1m, by: [x], select: 'x, sum(b) as s' }}\n"),
            vec!["site", "b", "x"],
        ),
        // Names without quotes are written as one likes.
        (
            format!("{join}  - select: ID as n, \"X\" + 1 as m\n").replace("\"X\"", "X"),
            vec!["site", "id", "x"],
        ),
    ] {
        let mut found = between(&steps);
        let mut expected = expected;
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{steps}");
    }
}
