//! Copies of tables behind JDBC and ODBC drivers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use super::{PATIENCE, Site, counts};

/// The JDBC drivers that tests use.
fn jars() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/servers");
    let fetched = Command::new(script).arg("drivers").output();
    let fetched = fetched.expect("scripts/servers runs");
    assert!(fetched.status.success(), "no JDBC drivers: {fetched:?}");
    String::from_utf8_lossy(&fetched.stdout).trim().into()
}

/// A connection to H2, and to PostgreSQL by each kind of driver.
fn connect(site: &Site) {
    let drivers = site.node.project().join("drivers");
    std::fs::create_dir_all(&drivers).expect("a folder");
    for (jar, name) in [("postgresql-42.7.7", "postgresql"), ("h2-2.3.232", "h2")] {
        let from = jars().join(format!("{jar}.jar"));
        std::fs::copy(from, drivers.join(format!("{name}.jar"))).expect("copied");
    }
    let port = site.pg;
    let login = "user: postgres, password: secret";
    site.node.write(
        "connections/j.yaml",
        &format!("jdbc: {{ driver: drivers/postgresql.jar, url: 'jdbc:postgresql://127.0.0.1:{port}/postgres', {login} }}\n"),
    );
    site.node.write(
        "connections/o.yaml",
        &format!("odbc: {{ connection: 'Driver=PostgreSQL Unicode;Server=127.0.0.1;Port={port};Database=postgres', {login} }}\n"),
    );
    // Its names are in capital letters.
    let lab = "CREATE TABLE IF NOT EXISTS LAB (ID BIGINT PRIMARY KEY, NOTE VARCHAR(40), FINE TIMESTAMP(9), SEEN TIMESTAMP NOT NULL)\\;\
               MERGE INTO LAB VALUES (1, '血', NULL, TIMESTAMP '2024-01-01 00:00:00.5'), (2, NULL, NULL, TIMESTAMP '2024-01-01 00:00:00.5')";
    let url = format!("jdbc:h2:mem:lab;DB_CLOSE_DELAY=-1;INIT={lab}");
    let url = Value::from(url).to_string();
    site.node.write(
        "connections/h.yaml",
        &format!("jdbc: {{ driver: drivers/h2.jar, url: {url}, user: sa }}\n"),
    );
}

fn codes<'a>(planned: &'a Value, member: &str) -> Vec<&'a str> {
    let all = planned[member].as_array();
    let all = all.unwrap_or_else(|| panic!("{planned}")).iter();
    all.filter_map(|one| one["code"].as_str()).collect()
}

/// Waits until a source has brought all that it ever will.
fn ended(site: &Site, connection: &str) {
    let begun = Instant::now();
    loop {
        let all = site.node.get_json("/api/v1/connections");
        let mut each = all["connections"].as_array().expect("connections").iter();
        let one = each.find(|one| one["name"] == connection);
        if one.is_some_and(|one| one["state"] == "ended") {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{all}");
        std::thread::park_timeout(std::time::Duration::from_millis(100));
    }
}

#[test]
fn tables_behind_drivers_are_polled_or_copied_once() {
    let mut site = Site::open();
    connect(&site);
    let pg = |site: &Site, sql: &str| site.in_pg(sql).unwrap_or_else(|why| panic!("{why}: {sql}"));
    site.in_maria("create database d character set utf8mb4")
        .expect("a database");
    pg(
        &site,
        "create table seen (id bigint primary key, name varchar(40), money numeric(12,4), big numeric, ok boolean, x double precision, \
         at timestamp, zoned timestamptz, born date, time time, raw bytea, doc jsonb, changed timestamptz not null); \
         insert into seen values (1, '张三', -1.5, 12345678901234567890.123456789, true, 0.1, '2024-02-29 01:02:03.000004', \
         '2024-01-02 03:04:05+00', '1999-12-31', '01:02:03', '\\x00ff', '{\"a\": 1}', '2024-01-01 00:00:00+00'); \
         insert into seen (id, changed) values (2, '2024-01-01 00:00:01+00'); \
         create table other (id bigint primary key, n int, changed timestamptz not null); \
         insert into other values (1, 10, '2024-01-01 00:00:00+00'), (2, 20, '2024-01-01 00:00:00+00'); \
         create table plain (id int primary key, name text); create table odd (x double precision primary key, n bigint)",
    );
    let project = site.node.project().display().to_string();
    let plan = |site: &Site, args: &[&str]| {
        site.busbar(&[&["copy-table", "--json", "--project", &project], args].concat())
    };
    let apply = |site: &Site| {
        let (answer, code) = site.busbar(&["apply", "--json", &project]);
        assert_eq!(code, 0, "{answer}");
    };
    apply(&site);
    // What cannot be says why, and what can be instead.
    for (args, refused, says) in [
        (&["j:seen", "m"][..], "server.copy-poll-version", "changed"),
        (
            &["j:seen", "m", "--version", "name"],
            "server.copy-poll-column",
            "changed",
        ),
        (
            &["j:seen", "m", "--version", "id"],
            "server.copy-poll-column",
            "changed",
        ),
        (
            &["j:seen", "m", "--version", "gone"],
            "server.compare-no-column",
            "changed",
        ),
        (&["o:plain", "m"], "server.copy-poll-none", "once"),
        (
            &["j:odd", "hot", "--version", "n"],
            "server.copy-poll-key",
            "key",
        ),
        (
            &["o:seen", "m", "--both-ways", "--version", "changed"],
            "server.copy-driver-both",
            "odbc",
        ),
        (
            &["j:seen", "m", "--once", "--version", "changed"],
            "server.copy-once-version",
            "seen",
        ),
        (&["p:seen", "m", "--once"], "server.copy-once-kind", "once"),
        (
            &["h:lab", "hot", "--version", "seen"],
            "server.copy-lossy",
            "FINE",
        ),
    ] {
        let (planned, code) = plan(&site, args);
        assert_eq!(code, 1, "{planned}");
        let place = codes(&planned, "refusals")
            .iter()
            .position(|code| *code == refused);
        let refusal = &planned["refusals"][place.unwrap_or_else(|| panic!("{planned}"))];
        for text in ["message", "message_zh"] {
            let told = refusal[text].as_str().unwrap_or_default();
            assert!(told.contains(says), "{refusal}");
        }
        assert_eq!(planned["files"], json!({}), "{planned}");
    }
    let (refused, code) = plan(&site, &["p:seen", "j"]);
    assert_eq!(
        (refused["error"]["code"].as_str(), code),
        (Some("server.copy-driver-to"), 78),
        "{refused}"
    );
    // Polled by JDBC, to a table that is made.
    let (planned, code) = plan(&site, &["j:seen", "m", "--version", "changed"]);
    assert_eq!((code, &planned["statements"]), (0, &json!([])), "{planned}");
    assert!(codes(&planned, "warnings").contains(&"server.copy-polled"));
    let source = &planned["files"]["connections/seen_changes.yaml"];
    let source = source.as_str().expect("a file");
    assert!(
        source.contains("(hidden)") && !source.contains("secret"),
        "{source}"
    );
    apply(&site);
    site.same("j:seen", "m:seen", 2);
    pg(
        &site,
        "update seen set name = 'other', money = 7, big = 0.123456789, raw = '\\x01', changed = '2024-01-02 00:00:00+00' where id = 2; \
         insert into seen (id, ok, changed) values (3, false, '2024-01-02 00:00:00+00')",
    );
    site.same("j:seen", "m:seen", 3);
    // It does not see what is deleted; the comparison does.
    pg(&site, "delete from seen where id = 1");
    let some = ["j:seen", "m:seen", "--columns", "name"];
    let (found, code) = site.compare(&some);
    assert_eq!((counts(&found), code), ([2, 3, 2, 0, 0, 1], 1), "{found}");
    let (found, code) = site.compare(&[&some[..], &["--repair", "--delete"]].concat());
    assert_eq!((found["deleted"].as_u64(), code), (Some(1), 0), "{found}");
    site.same("j:seen", "m:seen", 2);
    // Several by ODBC, to tables of the node: one connection polls them.
    let several = [
        "o:seen,other",
        "hot",
        "--version",
        "changed",
        "--name",
        "odbc",
    ];
    let (planned, code) = plan(&site, &several);
    let flows = json!(["odbc_seen", "odbc_other"]);
    assert_eq!((code, &planned["flows"]), (0, &flows), "{planned}");
    let paths = planned["files"].as_object().expect("files").keys();
    let sources = paths.filter(|path| path.starts_with("connections/"));
    assert_eq!(
        sources.collect::<Vec<_>>(),
        ["connections/odbc_changes.yaml"]
    );
    apply(&site);
    site.same("o:seen", "seen", 2);
    site.same("o:other", "other", 2);
    pg(
        &site,
        "insert into other values (3, 30, '2024-01-03 00:00:00+00'); update seen set x = 2.5, changed = '2024-01-03 00:00:00+00' where id = 3",
    );
    site.same("o:seen", "seen", 2);
    site.same("o:other", "other", 3);
    // A database with names in capital letters, which are found in small ones.
    let lab = ["h:lab", "relational", "--version", "seen", "--lossy"];
    let (planned, code) = plan(&site, &lab);
    assert_eq!(code, 0, "{planned}");
    // To a table that is there with small ones.
    pg(
        &site,
        "create table lab (id bigint primary key, note text, fine timestamptz, seen timestamptz)",
    );
    let (planned, code) = plan(
        &site,
        &["h:lab", "p:lab", "--once", "--lossy", "--name", "once"],
    );
    assert_eq!((code, &planned["exists"]), (0, &json!(true)), "{planned}");
    // Once: by a statement that is not run again, neither by the node that has run it nor by the next one.
    let (planned, code) = plan(&site, &["o:other", "relational:others", "--once"]);
    assert_eq!(code, 0, "{planned}");
    assert_eq!(codes(&planned, "warnings"), ["server.copy-once"]);
    apply(&site);
    site.same("h:LAB", "lab", 2);
    site.same("h:LAB", "p:lab", 2);
    site.same("o:other", "others", 3);
    ended(&site, "others_changes");
    pg(
        &site,
        "insert into other values (4, 40, '2024-01-04 00:00:00+00')",
    );
    site.node.kill();
    site.node.start();
    ended(&site, "others_changes");
    site.same("o:other", "other", 4);
    let (found, code) = site.compare(&["o:other", "others"]);
    assert_eq!((counts(&found), code), ([4, 3, 3, 0, 1, 0], 1), "{found}");
}
