//! Look-ups, statements and SQL in ClickHouse, with the stand-in and with the engine itself.

use busbar_event::Class;
use busbar_flow::FlowState;
use serde_json::json;

use crate::clickhouse_peer::ClickHousePeer;
use crate::database_calls::{calling, dead, results};
use crate::database_lookups::{self, counted, joined, send};
use crate::database_queries::Asked;
use crate::servers::clickhouse;
use crate::world::eventually;

fn peer() -> (ClickHousePeer, String) {
    let peer = ClickHousePeer::new();
    peer.store.lock().columns = vec![("id", "Int64"), ("name", "Nullable(String)")];
    let text = peer.connection("database: default");
    (peer, text)
}

fn says(peer: &ClickHousePeer, statement: &str, said: &[u8]) {
    let mut store = peer.store.lock();
    store.said.insert(statement.to_owned(), said.to_vec());
}

#[test]
fn one_statement_finds_many_keys_and_its_answer_is_used_again() {
    let (peer, text) = peer();
    let statement = "SELECT `id`, `name` FROM `default`.`t` WHERE `id` IN (1, 2, 9)";
    says(
        &peer,
        statement,
        b"id\tname\nInt64\tNullable(String)\n2\t\\N\n1\t\xe5\xbc\xa0\\t\\'\\\\\n",
    );
    let world = joined(&text, "table: db.t, on: id, type: left, cache: 1h");
    let rows = [
        json!({"n": 0, "id": 1}),
        json!({"n": 1, "id": 2}),
        json!({"n": 2, "id": 9}),
        json!({"n": 3, "id": 1}),
        json!({"n": 4}),
    ];
    send(&world, &rows);
    let found = database_lookups::results(&world, 5);
    for at in [0, 3] {
        assert_eq!(found[at]["name"], "张\t'\\", "{found:?}");
    }
    for at in [1, 2, 4] {
        let name = found[at].get("name");
        assert!(name.is_none_or(serde_json::Value::is_null), "{found:?}");
    }
    send(&world, &rows);
    database_lookups::results(&world, 10);
    assert_eq!(peer.store.lock().asked, [statement]);
    assert_eq!(counted(&world).failures, 0);
}

#[test]
fn statements_have_values_that_stay_values_and_say_how_many_rows_they_wrote() {
    let (peer, text) = peer();
    let call = "      statement: \"INSERT INTO log SELECT ${n}, ${name}, ${at}\"\n      answer: { affected: int }";
    let world = calling(&text, call);
    let evil = "'); drop table log; -- \\' ";
    let row = json!({"n": 7, "name": evil, "at": "2024-02-29T23:59:59.123456Z"});
    assert_eq!(results(&world, &[row], 1)[0]["affected"], 3);
    assert_eq!(
        peer.store.lock().asked,
        [
            r"INSERT INTO log SELECT 7, '\'); drop table log; -- \\\' ', fromUnixTimestamp64Micro(toInt64(1709251199123456), 'UTC')"
        ]
    );
    // A statement that the server does not take stops the flow; nothing is passed over.
    let call = "      statement: \"SELEC ${n}\"\n      answer: { x: int }";
    let world = calling(&text, call);
    world.publish("in/x", &[json!({"n": 1}).to_string()]);
    let why = eventually("the flow stops", || {
        let status = world.flows.status_of("f").expect("a flow");
        match (status.state, status.error) {
            (FlowState::Stopped, Some(error)) => Ok(error),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(
        (why.class(), why.code()),
        (Class::Configuration, "clickhouse.refused")
    );
}

/// More than an answer may have as a whole.
#[test]
fn a_large_table_is_read_as_it_comes() {
    let (peer, text) = peer();
    let mut table = b"name\nNullable(String)\n".to_vec();
    let rows = 20_000;
    for row in 0..rows {
        table.extend_from_slice(format!("{row}{}\n", "x".repeat(1_000)).as_bytes());
    }
    assert!(table.len() > 16 << 20);
    let statement = "SELECT `name` FROM `default`.`t`";
    says(&peer, statement, &table);
    let asked = Asked::new(&text);
    let count = "select count(distinct name) from db.t where length(name) > 1000";
    assert_eq!(asked.column(count), rows.to_string());
    // Half a line is no row.
    table.truncate(table.len() - 10);
    says(&peer, statement, &table);
    let mut begun = asked.begin(count);
    let why = asked.world.tokio.block_on(begun.collect());
    assert_eq!(why.expect_err("half a line").code(), "clickhouse.strange");
}

#[test]
fn a_server_that_is_away_holds_the_flow_and_no_row_is_lost() {
    let (peer, text) = peer();
    let statement = "SELECT `id`, `name` FROM `default`.`t` WHERE `id` IN (1)";
    says(
        &peer,
        statement,
        b"id\tname\nInt64\tNullable(String)\n1\ta\n",
    );
    let world = joined(&text, "table: db.t, on: id, cache: 0s");
    send(&world, &[json!({"n": 0, "id": 1})]);
    database_lookups::results(&world, 1);
    peer.cut.cut();
    send(&world, &[json!({"n": 1, "id": 1})]);
    eventually("the flow says so", || {
        let status = world.flows.status_of("f").expect("a flow");
        let error = status.nodes.iter().find_map(|node| node.error.clone());
        match error {
            Some(error) if error.class() == Class::Transient => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    peer.cut.join();
    assert_eq!(database_lookups::results(&world, 2)[1]["name"], "a");
}

/// The engine of ClickHouse in a process of Python.
#[test]
#[ignore = "make test-servers"]
fn rows_are_found_and_read_as_they_are() {
    let server = clickhouse();
    let run = |statement: &str| {
        let answer = server.request("POST", "/?wait_end_of_query=1&database=default", statement);
        let answer = answer.unwrap_or_else(|why| panic!("{why}: {statement}"));
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        body.trim_end().to_owned()
    };
    run(
        "CREATE TABLE t (id Int64, site LowCardinality(String), name Nullable(String), weight Float64, at DateTime64(6, 'Asia/Shanghai'), \
         day DateTime, ok Bool, amount Decimal(10, 2), big Decimal(38, 4), u UUID, kind Enum8('a' = 1, 'b' = 2), list Array(String)) \
         ENGINE = MergeTree ORDER BY id",
    );
    run(
        r"INSERT INTO t VALUES (1, 'n', '张\t三', 0.5, '2024-02-29 20:00:00.000001', '2024-02-29 12:00:00', true, 1.10, 12345678901234567890.5, '61f0c404-5cb3-11e7-907b-a6006ad3dba0', 'a', ['x']),
          (2, 'n', NULL, nan, '1960-01-01 00:00:00', '1970-01-01 00:00:00', false, 2.20, 0, '00000000-5cb3-11e7-907b-a6006ad3dba0', 'b', []),
          (3, 's', 'B', -inf, '2100-01-01 00:00:00', '2100-01-01 00:00:00', true, -3, 1, '61f0c404-0000-11e7-907b-a6006ad3dba0', 'a', [])",
    );
    let text = format!(
        "clickhouse: {{ url: 'http://127.0.0.1:{}', database: default }}\n",
        server.port
    );
    let asked = Asked::new(&text);
    for (query, expected) in [
        ("select id from db.t order by id", "1,2,3"),
        ("select id from db.default.t where id >= 2 and id < 3", "2"),
        ("select id from db.t where name = 'B'", "3"),
        ("select id from db.t where name < 'C'", "3"),
        ("select id from db.t where name is null", "2"),
        // What is no number is the largest one, here as everywhere.
        ("select id from db.t where weight > 0.4 order by id", "1,2"),
        ("select id from db.t where weight = 0.5", "1"),
        ("select id from db.t where amount = 2.2", "2"),
        ("select id from db.t where amount < 0", "3"),
        ("select id from db.t where ok = true order by id", "1,3"),
        (
            "select id from db.t where at = timestamp '2024-02-29T12:00:00.000001Z'",
            "1",
        ),
        (
            "select id from db.t where at < timestamp '1970-01-01T00:00:00Z'",
            "2",
        ),
        (
            "select id from db.t where day > timestamp '1800-01-01T00:00:00Z' order by id",
            "1,2,3",
        ),
        (
            "select at from db.t where id = 1",
            "2024-02-29T12:00:00.000001Z",
        ),
        ("select name from db.t where id = 1", "张\t三"),
        (
            "select big from db.t where id = 1",
            "12345678901234567890.5",
        ),
        ("select list from db.t where id = 1", "['x']"),
        ("select count(*) from db.t", "3"),
        ("select count(*) from (select 1 from db.t limit 2)", "2"),
        (
            "select t.name from db.t t join db.t u on t.id = u.id and u.site = 's'",
            "B",
        ),
    ] {
        assert_eq!(asked.column(query), expected, "{query}");
    }
    let plan = asked.shown("explain select name from db.t where id > 1 and site <= 'z' limit 7");
    let sent = "db: SELECT `name` FROM `default`.`t` WHERE `id` > 1 AND `site` <= 'z' LIMIT 7";
    assert!(plan.contains(sent), "{plan}");
    let plan = asked.shown("explain select id from db.t where weight < 1 limit 7");
    assert!(!plan.contains("LIMIT 7"), "{plan}");
    // By several columns, and by what is a text here and something else there.
    let world = joined(&text, "table: db.t, on: [site, id], type: left, cache: 1h");
    let rows = [
        json!({"n": 0, "site": "n", "id": 1}),
        json!({"n": 1, "site": "s", "id": 1}),
        json!({"n": 2, "site": "s", "id": 3}),
    ];
    send(&world, &rows);
    let found = database_lookups::results(&world, 3);
    assert_eq!(
        (&found[0]["kind"], &found[2]["name"]),
        (&json!("a"), &json!("B"))
    );
    assert!(found[1].get("kind").is_none_or(|kind| kind.is_null()));
    for (column, good) in [
        ("u", "61f0c404-5cb3-11e7-907b-a6006ad3dba0"),
        ("name", "张\t三"),
    ] {
        let join = format!("table: db.t, on: site = {column}, columns: [id as found], type: left");
        let world = joined(&text, &join);
        send(&world, &[json!({"n": 0, "site": good})]);
        assert_eq!(database_lookups::results(&world, 1)[0]["found"], 1);
    }
    // Keys of a batch make a statement that is longer than servers take unasked.
    let world = joined(
        &text,
        "table: db.t, on: site = name, columns: [id as found], type: left",
    );
    let long: Vec<_> = (0..1_000)
        .map(|n| json!({"n": n, "site": format!("{n}{}", "k".repeat(400))}))
        .chain([json!({"n": 1_000, "site": "B"})])
        .collect();
    send(&world, &long);
    assert_eq!(database_lookups::results(&world, 1_001)[1_000]["found"], 3);
    // What is no value of the type is that event's fault alone.
    let call = "      statement: \"select id as found, at as moment, big from t where u = ${name}\"\n      answer: { found: int, moment: time, big: text }";
    let world = calling(&text, call);
    let rows = [
        json!({"n": 0, "name": "61f0c404-5cb3-11e7-907b-a6006ad3dba0"}),
        json!({"n": 1, "name": "never"}),
    ];
    let found = results(&world, &rows, 1);
    assert_eq!(
        (&found[0]["found"], &found[0]["moment"], &found[0]["big"]),
        (
            &json!(1),
            &json!("2024-02-29T12:00:00.000001Z"),
            &json!("12345678901234567890.5")
        )
    );
    assert_eq!(dead(&world, 1)[0].0, "clickhouse.row");
    let evil = "'); drop table t; -- \\' 雨";
    let call = "      statement: \"insert into t (id, name, at) values (${id}, ${name}, ${at})\"\n      answer: { affected: int }";
    let world = calling(&text, call);
    let row = json!({"n": 0, "id": 4, "name": evil, "at": "1950-02-28T23:59:59.123456Z"});
    assert_eq!(results(&world, &[row], 1)[0]["affected"], 1);
    let sql = "select name from db.t where at = timestamp '1950-02-28T23:59:59.123456Z'";
    assert_eq!(asked.column(sql), evil);
}
