//! What `join` does with tables of databases.

use std::sync::Arc;

use busbar_connector::DatabaseStatus;
use busbar_event::Class;
use busbar_flow::{DeadFilter, FlowState};
use serde_json::{Value as Json, json};

use crate::database_calls::dead;
use crate::servers::{Cut, DatabaseServer, mariadb, postgres};
use crate::world::{World, eventually, project};

/// A connection named `db`.
pub fn connection(server: &DatabaseServer, port: u16, database: &str, more: &str) -> String {
    let kind = kind(server);
    let user = if kind == "postgres" {
        "postgres, password: secret"
    } else {
        "root"
    };
    format!("{kind}: {{ address: '127.0.0.1:{port}', database: {database}, user: {user}{more} }}\n")
}

fn kind(server: &DatabaseServer) -> &'static str {
    if std::ptr::eq(server, postgres()) {
        "postgres"
    } else {
        "mysql"
    }
}

pub fn world() -> World {
    World::new(Arc::new(tempfile::tempdir().expect("a folder")))
}

const IN: (&str, &str) = (
    "streams/in.yaml",
    "topics: in/#\nformat: json\nschema: { n: int, site: text, id: int }\n",
);
const OUT: (&str, &str) = ("streams/out.yaml", "topics: out/#\n");

/// A world with a flow that has one step.
pub fn joined(connection: &str, join: &str) -> World {
    let world = world();
    let flow = flow(join);
    world.apply(&[
        IN,
        OUT,
        ("connections/db.yaml", connection),
        ("flows/f.yaml", &flow),
    ]);
    world
}

fn flow(join: &str) -> String {
    format!("from: in\nsteps:\n  - join: {{ {join} }}\nto:\n  - stream: out\n    topic: out/x\n")
}

pub fn send(world: &World, rows: &[Json]) {
    let rows: Vec<String> = rows.iter().map(Json::to_string).collect();
    world.publish("in/x", &rows);
}

/// The results, once there are so many, by `n`.
pub fn results(world: &World, count: usize) -> Vec<Json> {
    let mut rows = eventually("the results", || match world.events("out") {
        rows if rows.len() >= count => Ok(rows.iter().map(|row| row.json()).collect::<Vec<_>>()),
        rows => Err(format!(
            "{} of {count}: {:?}",
            rows.len(),
            world.flows.status_of("f")
        )),
    });
    rows.sort_by_key(|row| row["n"].as_i64());
    assert_eq!(rows.len(), count, "{rows:?}");
    rows
}

pub fn counted(world: &World) -> DatabaseStatus {
    world.databases.get("db").expect("a database").status()
}

const TABLE: &str = "create table patient (site varchar(20) not null, id int not null, name varchar(40), weight numeric(6,2), \
     born date, big numeric(30,10), primary key (site, id)); \
     insert into patient values ('n', 1, '张三', 61.25, '1990-02-28', 1.5), ('n', 2, null, null, null, null), ('s', 1, 'it''s', 0, '2001-01-01', 0)";

#[test]
fn rows_are_looked_up_by_several_columns_and_answers_are_used_again() {
    for server in [postgres(), mariadb()] {
        let database = server.database(TABLE);
        let text = connection(server, server.port, &database, "");
        let table = match kind(server) {
            "postgres" => "db.public.patient".to_owned(),
            _ => format!("db.{database}.patient"),
        };
        let join = format!("table: {table}, on: [site, id], type: left, cache: 1h");
        let world = joined(&text, &join);
        let rows = [
            json!({"n": 0, "site": "n", "id": 1}),
            json!({"n": 1, "site": "s", "id": 1}),
            json!({"n": 2, "site": "n", "id": 2}),
            // No such row; null is equal to nothing; and numbers that the column cannot have.
            json!({"n": 3, "site": "x", "id": 1}),
            json!({"n": 4, "site": "n"}),
            json!({"n": 5, "site": "n", "id": 5_000_000_000_i64}),
            json!({"n": 6, "site": "n", "id": 1}),
            json!({"n": 7, "site": "N", "id": 1}),
        ];
        send(&world, &rows);
        let found = results(&world, 8);
        let whole = json!({"name": "张三", "weight": 61.25, "born": "1990-02-28"});
        for (at, name) in [(0, json!("张三")), (1, json!("it's")), (6, json!("张三"))] {
            assert_eq!(found[at]["name"], name, "{:?}", found[at]);
        }
        for (column, value) in whole.as_object().expect("an object") {
            assert_eq!(&found[0][column], value, "{column} of {:?}", found[0]);
        }
        // More digits than a number keeps.
        assert_eq!(found[0]["big"], "1.5000000000");
        for at in [2, 3, 4, 5, 7] {
            assert!(
                found[at].get("name").is_none_or(Json::is_null),
                "{:?}",
                found[at]
            );
        }
        let before = counted(&world);
        assert_eq!(
            (before.keys, before.found, before.cached),
            (6, 3, 0),
            "{before:?}"
        );
        // The same keys: known, also those that there is no row for.
        send(&world, &rows);
        assert_eq!(results(&world, 16).len(), 16);
        let after = counted(&world);
        assert_eq!((after.keys, after.cached), (6, 6), "{after:?}");
        assert_eq!(after.pool.size, 8);
        assert!(after.pool.used == 0 && after.pool.idle >= 1, "{after:?}");
        let status = world.flows.connections();
        assert_eq!(status[0].flows, ["f"]);
        assert_eq!(status[0].database, Some(after));
    }
}

#[test]
fn an_inner_join_drops_what_has_no_row_and_many_keys_go_in_few_statements() {
    for server in [postgres(), mariadb()] {
        let database = server.database(
            "create table t (id bigint primary key, v varchar(10)); \
             insert into t values (1, 'a'), (2, 'b'), (5000, 'c')",
        );
        let text = connection(server, server.port, &database, "");
        let world = joined(&text, "table: db.t, on: id, columns: [v as w], cache: 0s");
        let rows: Vec<Json> = (1..=5000).map(|id| json!({"n": id, "id": id})).collect();
        send(&world, &rows);
        let found = results(&world, 3);
        let shown: Vec<_> = found
            .iter()
            .map(|row| (row["n"].clone(), row["w"].clone()))
            .collect();
        assert_eq!(
            shown,
            [
                (json!(1), json!("a")),
                (json!(2), json!("b")),
                (json!(5000), json!("c"))
            ]
        );
        let counts = counted(&world);
        assert_eq!((counts.keys, counts.found, counts.cached), (5000, 3, 0));
        // 1,000 keys each, and one that describes the table; batches may be cut in other places.
        assert!(counts.statements <= 30, "{counts:?}");
    }
}

#[test]
fn what_does_not_fit_the_table_is_refused_when_the_flow_is_deployed() {
    let server = postgres();
    let database = server.database("create table t (id text, v int)");
    let text = connection(server, server.port, &database, "");
    for (join, code, part) in [
        ("table: db.t, on: id", "flow.join-type", "id"),
        (
            "table: db.t, on: site = ids",
            "flow.join-unknown-column",
            "ids",
        ),
        (
            "table: db.t, on: site = id, columns: [w]",
            "flow.join-unknown-column",
            "w",
        ),
        ("table: db.u, on: id", "catalog.unknown-table", "db.u"),
        (
            "table: db.public.u, on: id",
            "catalog.unknown-table",
            "db.public.u",
        ),
        (
            "table: db.a.b.c, on: id",
            "catalog.unknown-table",
            "db.a.b.c",
        ),
    ] {
        let world = world();
        let flow = flow(join);
        let files = [
            IN,
            OUT,
            ("connections/db.yaml", text.as_str()),
            ("flows/f.yaml", flow.as_str()),
        ];
        let applied = world.tokio.block_on(world.flows.apply(&project(&files), 1));
        let failed = applied.expect("the files are right").failed;
        let why = failed.get("f").unwrap_or_else(|| panic!("{join} is taken"));
        assert_eq!(
            (why.code(), why.class()),
            (code, Class::Configuration),
            "{why}"
        );
        assert!(
            why.message(busbar_event::Language::En).contains(part),
            "{why}"
        );
    }
}

#[test]
fn a_key_with_several_rows_is_a_dead_letter_and_its_neighbours_go_on() {
    let server = mariadb();
    let database = server.database(
        "create table t (id int, v int); insert into t values (1, 1), (2, 2), (2, 3), (3, 3)",
    );
    let text = connection(server, server.port, &database, "");
    let world = joined(&text, "table: db.t, on: id");
    let rows: Vec<Json> = (1..=3).map(|id| json!({"n": id, "id": id})).collect();
    send(&world, &rows);
    let found = results(&world, 2);
    assert_eq!((&found[0]["v"], &found[1]["v"]), (&json!(1), &json!(3)));
    let (code, message) = &dead(&world, 1)[0];
    assert_eq!(code, "database.many-rows");
    assert!(message.contains("id = 2"), "{message}");
}

#[test]
fn a_table_that_is_changed_stops_the_flow_which_goes_on_when_it_is_mended() {
    for server in [postgres(), mariadb()] {
        let create = "create table t (id int primary key, v int); insert into t values (1, 1)";
        let database = server.database(create);
        let text = connection(server, server.port, &database, "");
        let world = joined(&text, "table: db.t, on: id, cache: 0s");
        send(&world, &[json!({"n": 0, "id": 1})]);
        results(&world, 1);
        let changes = [
            ("drop table t", ".no-table", create),
            (
                "alter table t rename column v to w",
                ".no-column",
                "alter table t rename column w to v",
            ),
        ];
        for (at, (change, code, mend)) in changes.into_iter().enumerate() {
            server.run(&database, change);
            send(&world, &[json!({"n": at + 1, "id": 1})]);
            let why = eventually("the flow stops", || {
                let status = world.flows.status_of("f").expect("a flow");
                match (status.state, status.error) {
                    (FlowState::Stopped, Some(error)) => Ok(error),
                    other => Err(format!("{other:?}")),
                }
            });
            assert_eq!(why.class(), Class::Configuration, "{why}");
            assert!(why.code().ends_with(code), "{why}");
            server.run(&database, mend);
            world
                .tokio
                .block_on(world.flows.resume("f"))
                .expect("it goes on");
            let found = results(&world, at + 2);
            assert_eq!(found[at + 1]["v"], 1);
        }
    }
}

#[test]
fn a_server_that_is_away_holds_the_flow_and_nothing_is_lost() {
    for server in [postgres(), mariadb()] {
        let database = server.database(
            "create table t (id int primary key, v int); insert into t values (1, 1), (2, 2)",
        );
        let cut = Cut::before(server.port);
        let text = connection(server, cut.port, &database, "");
        let world = joined(&text, "table: db.t, on: id, cache: 0s");
        send(&world, &[json!({"n": 0, "id": 1})]);
        results(&world, 1);
        cut.cut();
        send(
            &world,
            &[json!({"n": 1, "id": 2}), json!({"n": 2, "id": 9})],
        );
        eventually("the flow says so", || {
            let status = world.flows.status_of("f").expect("a flow");
            let errors = status.nodes.iter().filter_map(|node| node.error.as_ref());
            match errors.map(|error| error.class()).next() {
                Some(Class::Transient) => Ok(()),
                other => Err(format!("{other:?} {:?}", status.state)),
            }
        });
        assert!(counted(&world).failures > 0);
        cut.join();
        send(&world, &[json!({"n": 3, "id": 1})]);
        let found = results(&world, 3);
        let shown: Vec<_> = found
            .iter()
            .map(|row| (row["n"].as_i64(), row["v"].as_i64()))
            .collect();
        assert_eq!(
            shown,
            [(Some(0), Some(1)), (Some(1), Some(2)), (Some(3), Some(1))]
        );
        let letters = world
            .tokio
            .block_on(world.flows.dead_letters(DeadFilter::default(), 10));
        assert!(letters.expect("they are read").is_empty());
    }
}

/// A session that was closed while nobody used it costs no error.
#[test]
fn sessions_that_the_server_has_closed_are_replaced() {
    let server = postgres();
    let database =
        server.database("create table t (id int primary key, v int); insert into t values (1, 1)");
    let text = connection(server, server.port, &database, "");
    let world = joined(&text, "table: db.t, on: id, cache: 0s");
    for round in 0..3 {
        send(&world, &[json!({"n": round, "id": 1})]);
        results(&world, round + 1);
        server.run("postgres", &format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}'"));
        eventually("they are gone", || {
            let left = server.run(
                "postgres",
                &format!("select count(*) from pg_stat_activity where datname = '{database}'"),
            );
            if left == "0" { Ok(()) } else { Err(left) }
        });
    }
    assert_eq!(counted(&world).failures, 0);
}

#[test]
fn a_server_that_does_not_answer_in_time_holds_the_flow_until_it_does() {
    let server = postgres();
    let database =
        server.database("create table t (id int primary key, v int); insert into t values (1, 1)");
    let text = connection(server, server.port, &database, ", timeout: 500ms");
    let world = joined(&text, "table: db.t, on: id, cache: 0s");
    send(&world, &[json!({"n": 0, "id": 1})]);
    results(&world, 1);
    let held = {
        let database = database.clone();
        std::thread::spawn(move || {
            // Ends when its session is ended.
            let _ = server.client(
                &database,
                "begin; lock table t in access exclusive mode; select pg_sleep(3600)",
            );
        })
    };
    let locks = format!(
        "select count(*) from pg_locks l join pg_database d on d.oid = l.database where d.datname = '{database}' and l.mode = 'AccessExclusiveLock' and l.granted"
    );
    eventually("the lock", || {
        match server.run("postgres", &locks).as_str() {
            "0" => Err("none".to_owned()),
            _ => Ok(()),
        }
    });
    send(&world, &[json!({"n": 1, "id": 1})]);
    eventually("the flow says so", || {
        let status = world.flows.status_of("f").expect("a flow");
        let error = status.nodes.iter().find_map(|node| node.error.clone());
        match error {
            Some(error) if error.class() == Class::Transient => Ok(()),
            other => Err(format!("{other:?} {:?}", status.state)),
        }
    });
    server.run("postgres", &format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}' and query like '%pg_sleep%' and pid <> pg_backend_pid()"));
    held.join().expect("it ends");
    assert_eq!(results(&world, 2)[1]["v"], 1);
}

#[test]
fn keys_of_other_types_are_compared_as_the_database_has_them() {
    let server = postgres();
    let database = server.database(
        "create table t (id char(6), u uuid, d date, n numeric(20,0), primary key (id)); \
         insert into t values ('ab', '6ba7b810-9dad-11d1-80b4-00c04fd430c8', '2024-02-29', 12345678901234567890)",
    );
    let text = connection(server, server.port, &database, "");
    for (column, good, bad) in [
        ("id", "ab", "abc"),
        (
            "u",
            "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
            "00000000-9dad-11d1-80b4-00c04fd430c8",
        ),
        ("d", "2024-02-29", "2024-03-01"),
        ("n", "12345678901234567890", "1"),
    ] {
        let world = joined(
            &text,
            &format!("table: db.t, on: site = {column}, columns: [id as found], type: left"),
        );
        send(
            &world,
            &[json!({"n": 0, "site": good}), json!({"n": 1, "site": bad})],
        );
        let found = results(&world, 2);
        assert_eq!(found[0]["found"], "ab", "{column}");
        assert!(
            found[1].get("found").is_none_or(Json::is_null),
            "{column}: {:?}",
            found[1]
        );
    }
    // What is no value of the type is that event's fault alone.
    let world = joined(
        &text,
        "table: db.t, on: site = d, columns: [id as found], type: left",
    );
    send(
        &world,
        &[
            json!({"n": 0, "site": "2024-02-29"}),
            json!({"n": 1, "site": "never"}),
            json!({"n": 2, "site": "2024-01-01"}),
        ],
    );
    assert_eq!(results(&world, 2)[0]["found"], "ab");
    assert_eq!(dead(&world, 1)[0].0, "postgres.value");
}

/// A database that accepts connections and says nothing holds up neither the end of the node nor other flows.
#[test]
fn a_silent_server_does_not_keep_the_node_from_ending() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let text = connection(postgres(), port, "d", ", timeout: 1h");
    let world = world();
    let flow = flow("table: db.t, on: id");
    let files = [
        IN,
        OUT,
        ("connections/db.yaml", text.as_str()),
        ("flows/f.yaml", flow.as_str()),
    ];
    let (project, databases) = (project(&files), world.databases.clone());
    let (told, waits) = std::sync::mpsc::channel();
    listener.set_nonblocking(true).expect("it can");
    std::thread::scope(|scope| {
        // Goes where the test fails, so that the scope has nothing to wait for.
        let silent = listener;
        scope.spawn(|| {
            let applied = world.tokio.block_on(world.flows.apply(&project, 1));
            told.send(applied.expect("the files are right").failed)
                .expect("somebody waits");
        });
        // It is being asked.
        let _socket = eventually("a connection", || {
            silent.accept().map_err(|why| why.to_string())
        });
        databases.stop();
        let failed = waits
            .recv_timeout(crate::world::PATIENCE)
            .expect("it goes on");
        assert_eq!(
            failed.get("f").map(|why| why.code()),
            Some("database.stopped")
        );
    });
}
