//! Wide tables: written by flows, read and changed by the cell, read by SQL.

use crate::access::{as_user, basic, with_admin};
use crate::support::World;
use serde_json::json;

const PROJECT: &[(&str, &str)] = &[
    (
        "streams/rig.yaml",
        "topics: rig/+/value\nformat: json\nschema:\n  n: int\n  temp: float\n  marks: json\n",
    ),
    (
        "tables/runs.yaml",
        "wide:\n  families:\n    - { name: m, versions: 3 }\n    - { name: marks, ttl: 30d, free: true }\n  salt: [rig]\nkey: [rig, n]\n",
    ),
    (
        "flows/keep.yaml",
        "from: rig\nsteps:\n  - select: topic_part(topic, 2) as rig, n, temp, upper(topic_part(topic, 2)) as \"m.name\", marks\nto:\n  - table: runs\n",
    ),
    ("tables/plain.yaml", "hot: {}\nkey: [a]\n"),
];

fn filled() -> World {
    let world = World::new(PROJECT);
    for n in 0..5 {
        let marks = json!({ "by": format!("p{n}"), "ok": n % 2 == 0 });
        world.publish(
            "rig/r1/value",
            json!({ "n": n, "temp": 20.5 + f64::from(n), "marks": marks }),
        );
    }
    world.publish(
        "rig/r2/value",
        json!({ "n": 0, "temp": -1.0, "marks": null }),
    );
    world.publish("rig/r2/value", json!({ "n": 1, "temp": 1.0, "marks": [1] }));
    world.until("/api/v1/flows/keep", |flow| {
        flow["out"] == 6 && flow["dead"] == 1
    });
    world
}

#[test]
fn flows_write_cells_and_sql_reads_families_as_structures() {
    let world = filled();
    assert_eq!(
        world.sql("select n, temp, m.name, json_get(marks.others, 'by') as by from runs where rig = 'r1' and n >= 3 order by n"),
        json!([[3, 23.5, "R1", "p3"], [4, 24.5, "R1", "p4"]])
    );
    assert_eq!(
        world.sql("select rig, count(*), max(temp) from runs group by rig order by rig"),
        json!([["r1", 5, 24.5], ["r2", 1, -1.0]])
    );
    let table = world.get_json("/api/v1/tables/runs");
    assert_eq!(
        (&table["kind"], &table["rows"]),
        (&json!("wide"), &json!(6))
    );
    let names: Vec<_> = table["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].clone())
        .collect();
    assert_eq!(names, ["rig", "n", "temp", "m.name", "marks"]);
}

#[test]
fn cells_are_read_changed_and_counted_by_row() {
    let world = filled();
    let post = |what: &str, body: serde_json::Value| {
        let answer = world.post(&format!("/api/v1/tables/runs/rows/{what}"), &body);
        assert_eq!(answer.status, 200, "{what} {body}: {answer:?}");
        answer.json()
    };
    let key = json!({ "rig": "r1", "n": 2 });
    let got = post(
        "get",
        json!({ "rows": [key, { "rig": "r9", "n": 1 }], "columns": ["temp", "marks"] }),
    );
    let cells = got["rows"][0]["cells"].as_array().unwrap();
    let cells: Vec<_> = cells
        .iter()
        .map(|cell| (&cell["column"], &cell["value"]))
        .collect();
    assert_eq!(
        cells,
        [
            (&json!("m.temp"), &json!(22.5)),
            (&json!("marks.by"), &json!("p2")),
            (&json!("marks.ok"), &json!(true))
        ]
    );
    assert_eq!(got["rows"][1], json!(null));

    let change = json!({ "rows": [
        { "key": key, "put": { "temp": 30, "marks.note": { "a": [1] } }, "delete": ["marks.ok"],
          "only_if": [{ "column": "temp", "value": 22.5 }] },
        { "key": { "rig": "r1", "n": 3 }, "delete_row": true },
        { "key": { "rig": "r1", "n": 4 }, "delete": ["marks"], "only_if": [{ "column": "temp", "is": "<", "value": 0 }] },
    ] });
    assert_eq!(
        post("change", change.clone())["changed"],
        json!([true, true, false])
    );
    assert_eq!(
        post("change", change)["changed"],
        json!([false, true, false])
    );
    let got = post(
        "get",
        json!({ "rows": [key], "columns": ["temp"], "versions": 5 }),
    );
    let values: Vec<_> = got["rows"][0]["cells"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["value"].clone())
        .collect();
    assert_eq!(values, [30.0, 22.5]);

    let mut scanned = Vec::new();
    let mut body = json!({ "prefix": { "rig": "r1" }, "from": { "n": 1 }, "columns": ["marks.by"], "limit": 2 });
    loop {
        let part = post("scan", body.clone());
        scanned.extend(
            part["rows"]
                .as_array()
                .unwrap()
                .iter()
                .map(|row| row["key"]["n"].clone()),
        );
        match part.get("next") {
            Some(next) => body["after"] = next.clone(),
            None => break,
        }
    }
    assert_eq!(scanned, [1, 2, 4]);

    let sum = json!({ "cells": [{ "key": key, "column": "m.runs", "by": 2 }, { "key": key, "column": "m.runs", "by": 3 }] });
    assert_eq!(post("increment", sum.clone())["values"], json!([2, 5]));
    assert_eq!(post("increment", sum)["values"], json!([7, 10]));
}

#[test]
fn what_does_not_fit_is_refused_with_a_reason() {
    let world = filled();
    let code = |table: &str, what: &str, body: serde_json::Value| {
        let answer = world.post(&format!("/api/v1/tables/{table}/rows/{what}"), &body);
        (answer.status, answer.code().to_string())
    };
    let row = |more: serde_json::Value| {
        let mut row = json!({ "key": { "rig": "r1", "n": 1 } });
        for (name, value) in more.as_object().unwrap() {
            row[name] = value.clone();
        }
        json!({ "rows": [row] })
    };
    for (table, what, body, wanted) in [
        ("none", "get", json!({ "rows": [] }), "server.unknown-table"),
        (
            "plain",
            "get",
            json!({ "rows": [] }),
            "server.table-not-wide",
        ),
        (
            "runs",
            "get",
            json!({ "rows": [{ "rig": "r1" }] }),
            "table.wide-key-values",
        ),
        (
            "runs",
            "get",
            json!({ "rows": [{ "rig": "r1", "n": "x" }] }),
            "table.wide-key-member",
        ),
        (
            "runs",
            "get",
            json!({ "rows": [{ "rig": "r1", "n": 1, "m": 2 }] }),
            "table.wide-key-member",
        ),
        (
            "runs",
            "scan",
            json!({ "from": { "n": 1 } }),
            "table.wide-key-member",
        ),
        (
            "runs",
            "scan",
            json!({ "filters": [{ "column": "temp", "is": "~", "value": 1 }] }),
            "server.cell-compare",
        ),
        (
            "runs",
            "scan",
            json!({ "limit": 10_001 }),
            "table.wide-call-rows",
        ),
        (
            "runs",
            "change",
            row(json!({ "put": { "temp": "warm" } })),
            "table.wide-value-type",
        ),
        (
            "runs",
            "change",
            row(json!({ "put": { "rig": "r2" } })),
            "table.wide-key-cell",
        ),
        (
            "runs",
            "change",
            row(json!({ "put": { "temp": 1 }, "time": "soon" })),
            "server.cell-time",
        ),
        (
            "runs",
            "increment",
            json!({ "cells": [{ "key": { "rig": "r1", "n": 1 }, "column": "m.name", "by": 1 }] }),
            "table.wide-no-counter",
        ),
    ] {
        let (status, given) = code(table, what, body.clone());
        assert_eq!(given, wanted, "{table} {what} {body}");
        assert!((400..500).contains(&status), "{status} {given}");
    }
}

#[test]
fn viewers_read_cells_and_operators_change_them() {
    let (world, ann) = with_admin(PROJECT);
    for (name, role, read) in [
        ("vi", "viewer", "table:runs"),
        ("op", "operator", "table:runs"),
        ("other", "operator", "table:plain"),
    ] {
        let rules = json!({ "read": [read] });
        let user =
            json!({ "name": name, "password": "a-good-password", "role": role, "rules": rules });
        let answer = as_user(&world, "POST", "/api/v1/users", &ann, &user);
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    let status = |user: &str, what: &str| {
        let body = match what {
            "increment" => json!({ "cells": [] }),
            "scan" => json!({}),
            _ => json!({ "rows": [] }),
        };
        let path = format!("/api/v1/tables/runs/rows/{what}");
        as_user(
            &world,
            "POST",
            &path,
            &basic(user, "a-good-password"),
            &body,
        )
        .status
    };
    for (user, statuses) in [
        ("vi", [200, 200, 403, 403]),
        ("op", [200, 200, 200, 200]),
        ("other", [403, 403, 403, 403]),
    ] {
        let all = ["get", "scan", "change", "increment"];
        assert_eq!(all.map(|what| status(user, what)), statuses, "{user}");
    }
}
