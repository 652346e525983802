//! Databases that are asked: who may, and what shows of it.

use serde_json::{Value, json};

use crate::access::{as_user, basic, with_admin};

/// Nobody listens there: what a refusal does not say is whether somebody does.
const CONNECTION: (&str, &str) = (
    "connections/his.yaml",
    "postgres: { address: '127.0.0.1:1', database: his, user: busbar, sessions: 3 }\n",
);

/// One table of a database that is away holds no other up.
#[test]
fn tables_are_listed_while_a_database_is_away() {
    let (world, ann) = with_admin(&[
        CONNECTION,
        (
            "tables/away.yaml",
            "relational: { connection: his }\nkey: [id]\ncolumns: [{ name: id, type: int }]\n",
        ),
        ("tables/here.yaml", "relational: {}\nkey: [id]\n"),
    ]);
    let shown = as_user(&world, "GET", "/api/v1/tables", &ann, &Value::Null).json();
    let [away, here] = [&shown["tables"][0], &shown["tables"][1]];
    assert_eq!(
        (&away["name"], &away["rows"]),
        (&json!("away"), &Value::Null)
    );
    assert_eq!(away["error"]["code"], "postgres.unreachable", "{shown}");
    assert_eq!(away["columns"][0]["name"], "id");
    assert_eq!((&here["name"], &here["rows"]), (&json!("here"), &json!(0)));
    assert!(here.get("error").is_none(), "{shown}");
    let one = as_user(&world, "GET", "/api/v1/tables/away", &ann, &Value::Null).json();
    assert_eq!(one["error"]["code"], "postgres.unreachable", "{one}");
}

#[test]
fn operators_and_those_whose_rules_name_a_table_may_query_it() {
    let (world, ann) = with_admin(&[CONNECTION]);
    let users = [
        json!({"name":"op","role":"operator"}),
        json!({"name":"viewer","role":"viewer"}),
        json!({"name":"named","role":"viewer","rules":{"read":["table:his.public.*"]}}),
        json!({"name":"other","role":"operator","rules":{"read":["table:nis.*"]}}),
    ];
    for mut user in users {
        user["password"] = json!("a-good-password");
        let made = as_user(&world, "POST", "/api/v1/users", &ann, &user);
        assert_eq!(made.status, 201, "{made:?}");
    }
    for (user, sql, code) in [
        (
            "op",
            "select * from his.public.patient",
            "postgres.unreachable",
        ),
        (
            "op",
            "explain select * from his.patient",
            "postgres.unreachable",
        ),
        (
            "named",
            "select * from his.public.patient",
            "postgres.unreachable",
        ),
        (
            "named",
            "select * from his.hidden.patient",
            "access.read-denied",
        ),
        (
            "viewer",
            "select * from his.public.patient",
            "access.read-denied",
        ),
        (
            "viewer",
            "explain select * from his.public.patient",
            "access.read-denied",
        ),
        (
            "viewer",
            "describe his.public.patient",
            "access.read-denied",
        ),
        (
            "other",
            "select * from his.public.patient",
            "access.read-denied",
        ),
        (
            "op",
            "select * from nis.public.patient",
            "sql.unknown-relation",
        ),
        ("op", "delete from his.public.patient", "sql.read-only"),
    ] {
        let login = basic(user, "a-good-password");
        let answer = as_user(
            &world,
            "POST",
            "/api/v1/sql",
            &login,
            &json!({ "sql": sql }),
        );
        assert_eq!(answer.code(), code, "{user}: {sql}");
    }
    let shown = as_user(&world, "GET", "/api/v1/connections", &ann, &Value::Null).json();
    let his = &shown["connections"][0];
    assert_eq!(
        (&his["name"], &his["direction"]),
        (&json!("his"), &json!("service"))
    );
    let database = &his["database"];
    assert_eq!(
        (&database["sessions"], &database["used"]),
        (&json!(3), &json!(0))
    );
    assert_eq!(database["failures"], 3, "{database}");
    assert_eq!(database["not_opened"], 3, "{database}");
    let metrics = as_user(&world, "GET", "/metrics", &ann, &Value::Null).body;
    assert!(
        metrics.contains("busbar_database_failures_total{connection=\"his\"} 3"),
        "{metrics}"
    );
}

/// Whoever has a table read anew is in the audit log, also where the source has not answered and may do it later.
#[test]
fn a_snapshot_that_is_asked_for_is_in_the_audit_log() {
    let (world, ann) = with_admin(&[
        ("streams/in.yaml", "topics: in/#\n"),
        (
            "connections/changes.yaml",
            "postgres: { address: '127.0.0.1:1', database: his, user: busbar, follow: { tables: [patient] } }\ntopic: in/${table}\n",
        ),
    ]);
    let ask = |connection: &str| {
        let path = format!("/api/v1/connections/{connection}/snapshot");
        let body = json!({"table": "public.patient"});
        as_user(&world, "POST", &path, &ann, &body)
    };
    assert_eq!(ask("other").code(), "flow.no-connection");
    assert_eq!(ask("changes").code(), "connect.source-away");
    let path = "/api/v1/audit?action=connection";
    let shown = as_user(&world, "GET", path, &ann, &Value::Null).json();
    let entries = shown["entries"].as_array().expect("entries");
    let seen = entries.iter().map(|entry| {
        let of = |name: &str| entry[name].clone();
        (
            of("action"),
            of("user"),
            of("target"),
            entry["detail"]["table"].clone(),
        )
    });
    let expected = (
        json!("connection.snapshot"),
        json!("ann"),
        json!("changes"),
        json!("public.patient"),
    );
    assert_eq!(seen.collect::<Vec<_>>(), [expected]);
    let said = entries[0]["message"].as_str().expect("a text");
    assert!(
        said.contains("changes") && said.contains("public.patient"),
        "{said}"
    );
}
