//! What the source of `postgres` with a statement does.

use std::sync::Arc;

use crate::servers::postgres;
use crate::world::{World, eventually, rest};

const STREAM: (&str, &str) = ("streams/in.yaml", "topics: in/#\n");

fn world() -> World {
    World::new(Arc::new(tempfile::tempdir().expect("a folder")))
}

fn connection(database: &str, query: &str) -> String {
    format!(
        "postgres:\n  address: '127.0.0.1:{}'\n  database: {database}\n  user: postgres\n  password: secret\n  query: {{ every: 100ms, {query} }}\ntopic: in/rows\n",
        postgres().port
    )
}

fn apply(world: &World, text: &str) {
    world.apply(&[STREAM, ("connections/c.yaml", text)]);
}

fn there(world: &World) -> Vec<String> {
    world
        .events("in")
        .iter()
        .map(|event| event.text())
        .collect()
}

fn wait(world: &World, count: usize) -> Vec<String> {
    eventually("the rows", || match there(world) {
        rows if rows.len() >= count => Ok(()),
        rows => Err(format!(
            "{} of {count}, {:?}",
            rows.len(),
            world.source("c")
        )),
    });
    rest(400);
    let rows = there(world);
    assert_eq!(
        rows.len(),
        count,
        "{:?}",
        rows.iter().rev().take(10).collect::<Vec<_>>()
    );
    rows
}

#[test]
fn rows_behind_the_last_position_come_also_after_a_kill() {
    let database = postgres().database("create table o (id bigint primary key, what text); insert into o select i, 'x' from generate_series(1, 20000) i");
    let text = connection(
        &database,
        "statement: 'select id, what from o where id > $1 order by id', position: id, start: '10'",
    );
    let mut world = world();
    apply(&world, &text);
    assert_eq!(wait(&world, 19_990)[0], r#"{"id":11,"what":"x"}"#);
    // The position is kept some time after the rows.
    rest(300);
    world = world.restart();
    apply(&world, &text);
    postgres().run(&database, "insert into o values (20001, null)");
    assert_eq!(
        wait(&world, 19_991).pop().as_deref(),
        Some(r#"{"id":20001,"what":null}"#)
    );
}

#[test]
fn a_row_that_is_committed_late_is_found_in_the_overlap() {
    let database = postgres().database("create table o (at timestamptz, n int); insert into o values ('2024-05-01 12:00Z', 1), ('2024-05-01 12:05Z', 2)");
    let query = "statement: 'select at, n from o where at > $1 order by at', position: at, start: '2024-01-01'";
    let world = world();
    apply(
        &world,
        &connection(&database, &format!("{query}, overlap: 10m")),
    );
    assert_eq!(wait(&world, 2)[1], r#"{"at":"2024-05-01T12:05:00Z","n":2}"#);
    postgres().run(&database, "insert into o values ('2024-05-01 12:01Z', 3)");
    assert!(wait(&world, 3)[2].contains("\"n\":3"));
    // Older than the overlap.
    postgres().run(
        &database,
        "insert into o values ('2024-05-01 11:00Z', 4), ('2024-05-01 12:06Z', 5)",
    );
    assert!(wait(&world, 4)[3].contains("\"n\":5"));
}

#[test]
fn without_a_position_all_rows_come_each_time_and_what_is_wrong_is_said() {
    let database = postgres().database("create table o (n int); insert into o values (1)");
    let world = world();
    apply(
        &world,
        &connection(&database, "statement: 'select count(*) as n from o'"),
    );
    eventually("some runs", || match there(&world).len() {
        0..3 => Err(format!("{:?}", world.source("c"))),
        _ => Ok(()),
    });
    assert!(there(&world).iter().all(|row| row == r#"{"n":1}"#));
    for (query, code, part) in [
        ("statement: 'selec 1'", "postgres.refused", "selec"),
        (
            "statement: 'select 1 as a where $1::text is not null', position: b, start: '1'",
            "postgres.query-column",
            "it has a",
        ),
        (
            "statement: 'select null::int as b where $1::text is not null', position: b, start: '1'",
            "postgres.query-null",
            "b",
        ),
        (
            "statement: 'select 1 as b where $1::text is not null', position: b, start: '1', overlap: 5m",
            "postgres.query-overlap",
            "b",
        ),
    ] {
        let world = self::world();
        apply(&world, &connection(&database, query));
        let status = eventually("stopped", || match world.source("c") {
            status if status.state == "stopped" => Ok(status),
            status => Err(format!("{status:?}")),
        });
        let why = status.error.expect("it says why");
        assert_eq!(why.code(), code, "{why}");
        let said = why.message(busbar_event::Language::En);
        assert!(said.contains(part), "{said}");
    }
}
