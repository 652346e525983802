//! What `call` does with statements of databases.

use busbar_event::Class;
use busbar_flow::{DeadFilter, FlowState};
use serde_json::{Value as Json, json};

use crate::database_lookups::{connection, world};
use crate::servers::{DatabaseServer, mariadb, postgres};
use crate::world::{World, eventually};

const IN: (&str, &str) = (
    "streams/in.yaml",
    "topics: in/#\nformat: json\nschema: { n: int, id: int, name: text, weight: float, at: time, ok: bool }\n",
);
const OUT: (&str, &str) = ("streams/out.yaml", "topics: out/#\n");

pub fn calling(connection: &str, call: &str) -> World {
    let world = world();
    let flow = format!(
        "from: in\nsteps:\n  - call:\n      connection: db\n{call}\nto:\n  - stream: out\n    topic: out/x\n"
    );
    world.apply(&[
        IN,
        OUT,
        ("connections/db.yaml", connection),
        ("flows/f.yaml", &flow),
    ]);
    world
}

fn both(create: &str) -> [(&'static DatabaseServer, String, String); 2] {
    [postgres(), mariadb()].map(|server| {
        let database = server.database(create);
        let text = connection(server, server.port, &database, "");
        (server, database, text)
    })
}

pub fn results(world: &World, rows: &[Json], count: usize) -> Vec<Json> {
    let rows: Vec<String> = rows.iter().map(Json::to_string).collect();
    world.publish("in/x", &rows);
    let mut found = eventually("the results", || match world.events("out") {
        rows if rows.len() >= count => Ok(rows.iter().map(|row| row.json()).collect::<Vec<_>>()),
        rows => Err(format!(
            "{} of {count}: {:?}",
            rows.len(),
            world.flows.status_of("f")
        )),
    });
    assert_eq!(found.len(), count, "{found:?}");
    found.sort_by_key(|row| row["n"].as_i64());
    found
}

pub fn dead(world: &World, count: usize) -> Vec<(String, String)> {
    eventually("the dead letters", || {
        let letters = world
            .tokio
            .block_on(world.flows.dead_letters(DeadFilter::default(), 100));
        let letters = letters.expect("they are read");
        let shown: Vec<_> = letters
            .into_iter()
            .map(|letter| (letter.code, letter.message))
            .collect();
        if shown.len() == count {
            Ok(shown)
        } else {
            Err(format!("{shown:?}"))
        }
    })
}

#[test]
fn a_statement_answers_with_the_columns_of_its_row() {
    let create = "create table p (id int primary key, name varchar(40), weight decimal(6,2), amount decimal(30,4)); \
         insert into p values (1, 'it''s ${x}', 61.25, 12.5000), (2, null, null, null)";
    for (_, _, text) in both(create) {
        let call = "      statement: \"select name as called, weight as kg, amount, id + 1 as next from p where id = ${id}\"\n      answer: { called: text, kg: float, amount: float, next: int }";
        let world = calling(&text, call);
        let rows = [
            json!({"n": 0, "id": 1}),
            json!({"n": 1, "id": 2}),
            json!({"n": 2, "id": 3}),
            json!({"n": 3}),
        ];
        let found = results(&world, &rows, 4);
        assert_eq!(
            (
                &found[0]["called"],
                &found[0]["kg"],
                &found[0]["amount"],
                &found[0]["next"]
            ),
            (&json!("it's ${x}"), &json!(61.25), &json!(12.5), &json!(2))
        );
        assert_eq!(found[1]["next"], 3);
        for row in &found[1..] {
            assert!(row.get("called").is_none_or(Json::is_null), "{row:?}");
        }
        for row in &found[2..] {
            assert!(row.get("next").is_none_or(Json::is_null), "{row:?}");
        }
    }
}

/// A value is never text of the statement, and each type arrives as it is.
#[test]
fn values_are_bound() {
    let create = "create table log (n int primary key, name varchar(100), weight double precision, at timestamp(6) null)";
    for (server, database, text) in both(create) {
        let call = "      statement: \"insert into log (n, name, weight, at) values (${n}, ${name}, ${weight}, ${at})\"\n      answer: { affected: int }";
        let world = calling(&text, call);
        let evil = "'); drop table log; -- \\' \" 雨";
        let rows = [
            json!({"n": 0, "name": evil, "weight": 0.1, "at": "2024-02-29T23:59:59.123456Z"}),
            json!({"n": 1}),
        ];
        let found = results(&world, &rows, 2);
        assert_eq!(
            (&found[0]["affected"], &found[1]["affected"]),
            (&json!(1), &json!(1))
        );
        let rows = server.run(
            &database,
            "select n, name, weight, at from log where name is not null",
        );
        let rows = rows.replace('\t', "|").replace("\\\\", "\\");
        assert_eq!(rows, format!("0|{evil}|0.1|2024-02-29 23:59:59.123456"));
        assert_eq!(
            server.run(
                &database,
                "select count(*) from log where name is null and at is null"
            ),
            "1"
        );
        // The same key again: this event is at fault, and no other.
        let rows = [json!({"n": 1}), json!({"n": 2})];
        assert_eq!(results(&world, &rows, 3).len(), 3);
        let dead = dead(&world, 1);
        assert!(dead[0].0.ends_with(".value"), "{dead:?}");
    }
}

#[test]
fn many_rows_are_a_list_and_one_statement_that_answers_with_many_says_so() {
    let create = "create table c (id int, what varchar(10), price decimal(8,2)); insert into c values (1, 'a', 1.5), (1, 'b', 2), (2, 'c', 3)";
    for (_, _, text) in both(create) {
        let call = "      statement: \"select what, price from c where id = ${id} order by what\"\n      rows: many\n      answer: { rows: json }";
        let world = calling(&text, call);
        let found = results(
            &world,
            &[json!({"n": 0, "id": 1}), json!({"n": 1, "id": 9})],
            2,
        );
        let list = |row: &Json| match &row["rows"] {
            Json::String(text) => serde_json::from_str::<Json>(text).expect("JSON"),
            other => other.clone(),
        };
        let rows = list(&found[0]);
        assert_eq!(
            (rows[0]["what"].clone(), rows[1]["what"].clone()),
            (json!("a"), json!("b"))
        );
        assert_eq!(list(&found[1]), json!([]));
        let call = "      statement: \"select what from c where id = ${id}\"\n      answer: { what: text }";
        let world = calling(&text, call);
        let found = results(
            &world,
            &[json!({"n": 0, "id": 1}), json!({"n": 1, "id": 2})],
            1,
        );
        assert_eq!(found[0]["what"], "c");
        assert_eq!(dead(&world, 1)[0].0, "flow.call-many-rows");
    }
}

#[test]
fn a_stored_procedure_is_called() {
    let postgres = postgres();
    let database = postgres.database(
        "create table t (id int); create procedure add_one(a int, inout total bigint) language plpgsql as \
         $$ begin insert into t values (a); select count(*) into total from t; end $$",
    );
    let on_postgres = connection(postgres, postgres.port, &database, "");
    let maria = mariadb();
    let database = maria.name();
    maria.run("", &format!("create database {database}"));
    maria.run(
        &database,
        "create table t (id int);\ndelimiter //\ncreate procedure add_one(a int) begin insert into t values (a); select count(*) as total from t; end //\n",
    );
    let on_maria = connection(maria, maria.port, &database, "");
    for (text, statement) in [
        (on_postgres, "call add_one(${id}, null)"),
        (on_maria, "call add_one(${id})"),
    ] {
        let call = format!(
            "      statement: \"{statement}\"\n      in_flight: 1\n      answer: {{ total: int }}"
        );
        let world = calling(&text, &call);
        let found = results(
            &world,
            &[
                json!({"n": 0, "id": 7}),
                json!({"n": 1, "id": 8}),
                json!({"n": 2, "id": 9}),
            ],
            3,
        );
        let totals: Vec<_> = found.iter().map(|row| row["total"].as_i64()).collect();
        assert_eq!(totals, [Some(1), Some(2), Some(3)]);
        // One session was enough, and it is used again.
        let status = world.databases.get("db").expect("a database").status();
        assert_eq!((status.pool.opened, status.pool.used), (1, 0), "{status:?}");
    }
}

#[test]
fn a_wrong_statement_stops_the_flow_and_says_why() {
    for (_, _, text) in both("create table t (id int)") {
        let world = calling(
            &text,
            "      statement: \"selec ${id}\"\n      answer: { x: int }",
        );
        world.publish("in/x", &[json!({"id": 1}).to_string()]);
        let why = eventually("the flow stops", || {
            let status = world.flows.status_of("f").expect("a flow");
            match (status.state, status.error) {
                (FlowState::Stopped, Some(error)) => Ok(error),
                other => Err(format!("{other:?}")),
            }
        });
        assert_eq!(why.class(), Class::Configuration);
        assert!(
            why.message(busbar_event::Language::En).contains("selec"),
            "{why}"
        );
    }
}

/// No more sessions than the connection says, however many calls are under way.
#[test]
fn the_pool_is_bounded() {
    let server = postgres();
    let database = server.database("create table t (id int)");
    let text = connection(server, server.port, &database, ", sessions: 2");
    let count = format!("select count(*) from pg_stat_activity where datname = '{database}'");
    let call = format!(
        "      statement: \"select ({count}) as open, pg_sleep(0.01)::text as slept where ${{n}} >= 0\"\n      answer: {{ open: int }}"
    );
    let world = calling(&text, &call);
    let rows: Vec<Json> = (0..100).map(|n| json!({ "n": n })).collect();
    let found = results(&world, &rows, 100);
    let most = found.iter().filter_map(|row| row["open"].as_i64()).max();
    assert_eq!(most, Some(2));
    let status = world.databases.get("db").expect("a database").status();
    assert_eq!((status.pool.size, status.pool.opened), (2, 2), "{status:?}");
}

/// A session is used by one statement after the other: what one of them leaves open must not hold what the others write.
#[test]
fn a_transaction_that_a_statement_leaves_open_holds_nothing_of_others() {
    let maria = mariadb();
    let database = maria.name();
    maria.run("", &format!("create database {database}"));
    // A failure leaves the transaction of 1 open; nothing but that is wrong with 3.
    maria.run(
        &database,
        "create table t (id int);\ndelimiter //\ncreate procedure p(a int) begin \
         if a in (1, 3) then start transaction; end if; insert into t values (a); \
         if a = 1 then signal sqlstate '45000' set message_text = 'no'; end if; end //\n",
    );
    let text = connection(maria, maria.port, &database, ", sessions: 1");
    let call =
        "      statement: \"call p(${id})\"\n      in_flight: 1\n      answer: { affected: int }";
    let world = calling(&text, call);
    let found = results(
        &world,
        &[json!({"n": 0, "id": 1}), json!({"n": 1, "id": 2})],
        1,
    );
    assert_eq!(found[0]["n"], 1);
    assert!(dead(&world, 1)[0].0.ends_with(".value"));
    let there = || maria.run(&database, "select id from t");
    assert_eq!(there(), "2");
    world.publish("in/x", &[json!({"n": 2, "id": 3}).to_string()]);
    let error = eventually("the flow stops", || {
        let status = world.flows.status_of("f").expect("the flow");
        match (status.state, status.error) {
            (FlowState::Stopped, Some(error)) => Ok(error),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(error.code(), "database.transaction-open", "{error}");
    eventually("the end of the session", || {
        let open = format!(
            "select count(*) from information_schema.innodb_trx x join information_schema.processlist p \
             on p.id = x.trx_mysql_thread_id where p.db = '{database}'"
        );
        match (maria.run("", &open).as_str(), there().as_str()) {
            ("0", "2") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}
