//! Tables that are kept in step by streams of changes.

use crate::common::{World, project};
use busbar_connector::Connectors;
use busbar_flow::check;

const IN: (&str, &str) = (
    "streams/in.yaml",
    "topics: in/#\nformat: json\nschema: { change: text, id: int, v: int, unchanged: json }\n",
);
const KEYED: &str = "key: [id]\ncolumns: [{ name: id, type: int }, { name: v, type: int }]\n";

fn ints(world: &World, table: &str) -> [Vec<i64>; 2] {
    ["id", "v"].map(|column| {
        let mut values = world.table_ints(table, column);
        values.sort_unstable();
        values
    })
}

#[test]
fn a_stream_of_changes_keeps_tables_in_step() {
    let world = World::new(1);
    let tables =
        ["hot", "relational", "wide"].map(|engine| (engine, format!("{engine}: {{}}\n{KEYED}")));
    let mut files = vec![IN];
    let paths = tables
        .each_ref()
        .map(|(engine, _)| format!("tables/{engine}.yaml"));
    for ((_, text), path) in tables.iter().zip(&paths) {
        files.push((path, text));
    }
    // With columns of its own, and with those of the stream.
    files.push((
        "flows/f.yaml",
        "from: in\nsteps:\n  - select: change, id, v, unchanged\nto:\n  - { table: hot, change: change, unchanged: unchanged }\n  \
         - { table: relational, change: change, unchanged: unchanged }\n",
    ));
    files.push((
        "flows/g.yaml",
        "from: in\nto:\n  - { table: wide, change: change, unchanged: unchanged }\n",
    ));
    world.apply(&files);
    let publish = |changes: &[&str]| {
        let changes: Vec<_> = changes.iter().map(|text| (*text).to_owned()).collect();
        world.publish("in/a/b", &changes);
        [world.settle("f"), world.settle("g")]
    };
    publish(&[
        r#"{"change":"read","id":1,"v":10}"#,
        r#"{"change":"insert","id":2,"v":20}"#,
        r#"{"change":"insert","id":3,"v":30}"#,
        r#"{"change":"update","id":1,"v":11}"#,
        r#"{"change":"update","id":2,"v":0,"unchanged":["v"]}"#,
        r#"{"change":"delete","id":3,"v":30}"#,
        r#"{"change":"schema","columns":[]}"#,
    ]);
    let all = ["hot", "relational", "wide"];
    for table in all {
        assert_eq!(ints(&world, table), [vec![1, 2], vec![11, 20]], "{table}");
    }
    let statuses = publish(&[
        r#"{"change":"truncate"}"#,
        r#"{"change":"insert","id":4,"v":40}"#,
        r#"{"change":"strange","id":5,"v":50}"#,
    ]);
    for table in all {
        assert_eq!(ints(&world, table), [vec![4], vec![40]], "{table}");
    }
    for status in statuses {
        assert_eq!(status.conservation.difference, 0, "{status:#?}");
        assert!(status.conservation.counters.dead > 0, "{status:#?}");
    }
}

#[test]
fn an_output_that_cannot_follow_changes_is_refused() {
    for (table, select, code) in [
        ("hot: {}\nkey: [id]\n", "id, v", "flow.table-change"),
        ("hot: {}\n", "change, id, v", "flow.table-change-key"),
    ] {
        let flow = format!(
            "from: in\nsteps:\n  - select: {select}\nto:\n  - {{ table: t, change: change }}\n"
        );
        let files = [IN, ("tables/t.yaml", table), ("flows/f.yaml", &flow)];
        let bad = check(&project(&files), &Connectors::default());
        let codes: Vec<_> = bad.iter().map(|bad| bad.error().code()).collect();
        assert_eq!(codes, [code], "{select}");
    }
}
