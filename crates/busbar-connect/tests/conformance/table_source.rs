//! Tables of the node as sources: their changes as they are made, and their rows by a version.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use crate::database_lookups::connection;
use crate::servers::{DatabaseServer, postgres};
use crate::world::{Event, World, eventually, project, rest};

/// Times that the node is killed while the table changes.
const KILLS: u64 = 6;

const COLUMNS: &str = "key: [id]\ncolumns: [{ name: id, type: int }, { name: name, type: text }, { name: note, type: json }, { name: changed, type: int }]\n";

/// A flow that writes changes to the table, and the stream of what the table says.
const FILES: [(&str, &str); 3] = [
    (
        "streams/in.yaml",
        "topics: in/#\nformat: json\nschema: { change: text, id: int, name: text, note: json, changed: int }\n",
    ),
    (
        "flows/fill.yaml",
        "from: in\nsteps:\n  - select: change, id, name, note, changed\nto:\n  - table: t\n    change: change\n",
    ),
    ("streams/out.yaml", "topics: out/#\n"),
];

fn world() -> World {
    World::new(Arc::new(tempfile::tempdir().expect("a folder")))
}

fn apply(world: &World, more: &[(&str, &str)]) {
    let files: Vec<_> = FILES.iter().chain(more).copied().collect();
    world.apply(&files);
}

fn change(change: &str, id: u64, name: &str, changed: u64) -> String {
    format!(
        r#"{{"change":"{change}","id":{id},"name":"{name}","note":{{"n":{id}}},"changed":{changed}}}"#
    )
}

/// The rows of a table, as texts.
fn rows(world: &World, table: &str) -> Vec<String> {
    let table = world.tables.table(table).expect("the table");
    let mut found = Vec::new();
    for batch in table.scan(&busbar_table::Scan::default()).expect("a scan") {
        let batch = batch.expect("rows");
        for row in 0..batch.num_rows() {
            let cell = |column: &str| {
                let column = batch.column_by_name(column).expect("a column");
                arrow::util::display::array_value_to_string(column, row).expect("a text")
            };
            found.push(format!(
                "{}|{}|{}",
                cell("id"),
                cell("name"),
                cell("changed")
            ));
        }
    }
    found.sort();
    found
}

/// What a table is in the end, by the events that tell of it.
fn told(events: &[Event]) -> Vec<String> {
    let mut rows: BTreeMap<u64, String> = BTreeMap::new();
    for event in events {
        let json = event.json();
        let id = json["id"].as_u64().unwrap_or(0);
        match json["change"].as_str() {
            Some("truncate") => rows.clear(),
            Some("delete") => drop(rows.remove(&id)),
            _ => {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let changed = &json["changed"];
                rows.insert(id, format!("{id}|{}|{changed}", text(&json["name"])));
            }
        }
    }
    let mut rows: Vec<_> = rows.into_values().collect();
    rows.sort();
    rows
}

fn come(world: &World, count: usize) -> Vec<Event> {
    let events = eventually("the events", || match world.events("out") {
        events if events.len() >= count => Ok(events),
        events => Err(format!("{events:?} {:?}", world.source("own"))),
    });
    assert_eq!(events.len(), count, "{events:?}");
    events
}

#[test]
fn changes_of_a_table_come_in_as_they_are_made() {
    for engine in ["hot", "relational", "wide"] {
        eprintln!("-- {engine}");
        let world = world();
        let table = format!("{engine}: {{}}\nchanges: true\n{COLUMNS}");
        let table = ("tables/t.yaml", table.as_str());
        apply(&world, &[table]);
        world.publish(
            "in/a",
            &[change("insert", 1, "a", 1), change("insert", 2, "b", 1)],
        );
        eventually("the rows", || match rows(&world, "t").len() {
            2 => Ok(()),
            count => Err(format!("{count}")),
        });
        let own = (
            "connections/own.yaml",
            "table: { follow: { tables: [t] } }\ntopic: out/${table}\n",
        );
        apply(&world, &[table, own]);
        let events = come(&world, 2);
        for event in &events {
            assert_eq!(event.topic, "out/t");
            assert_eq!(event.json()["change"], "read");
            assert_eq!(event.json()["note"]["n"], event.json()["id"]);
        }
        let more = [
            change("update", 1, "张", 2),
            change("delete", 2, "", 2),
            change("delete", 7, "", 2),
            change("insert", 3, "c", 2),
            change("update", 3, "d", 3),
        ];
        world.publish("in/a", &more);
        let events = come(&world, 6);
        let said: Vec<String> = events[2..]
            .iter()
            .map(|event| {
                let json = event.json();
                format!("{} {} {}", json["change"], json["id"], json["name"])
            })
            .collect();
        let expected = [
            r#""upsert" 1 "张""#,
            r#""delete" 2 "b""#,
            r#""upsert" 3 "c""#,
            r#""upsert" 3 "d""#,
        ];
        assert_eq!(said, expected, "{engine}");
        // What is taken anew begins with an event that empties the copy.
        world.take_anew("own", "t");
        let events = eventually("the rows anew", || match world.events("out") {
            events if events.len() == 9 => Ok(events),
            events => Err(format!("{events:?} {:?}", world.source("own"))),
        });
        assert_eq!(events[6].json()["change"], "truncate");
        assert_eq!(told(&events), rows(&world, "t"));
        world.publish("in/a", &[change("update", 3, "e", 4)]);
        assert_eq!(come(&world, 10)[9].json()["name"], "e");
        // A second connection would take the changes from the first one.
        let other = (
            "connections/other.yaml",
            "table: { follow: { tables: [t] } }\ntopic: elsewhere/${table}\n",
        );
        apply(&world, &[table, own, other]);
        eventually("a refusal", || match world.source("other").error {
            Some(why) if why.code() == "table.changes-taken" => Ok(()),
            other => Err(format!("{other:?}")),
        });
        // Changes that were not kept are made up for by what is in the table then.
        let off = format!("{engine}: {{}}\n{COLUMNS}");
        apply(&world, &[("tables/t.yaml", &off)]);
        world.publish(
            "in/a",
            &[change("delete", 1, "", 5), change("insert", 8, "h", 5)],
        );
        eventually("the row that was deleted", || match rows(&world, "t") {
            rows if rows == ["3|e|4", "8|h|5"] => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let before = world.events("out").len();
        apply(&world, &[table, own]);
        eventually("the rows anew", || match told(&world.events("out")) {
            told if told == rows(&world, "t") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let first = &world.events("out")[before];
        assert_eq!(first.json()["change"], "truncate", "{engine}");
    }
}

/// Its journal is another one, in which the positions that were taken of the one before mean something else.
#[test]
fn a_hot_table_that_is_removed_and_added_again_is_followed_from_its_beginning() {
    let world = world();
    let table = format!("hot: {{}}\nchanges: true\n{COLUMNS}");
    let table = ("tables/t.yaml", table.as_str());
    let own = (
        "connections/own.yaml",
        "table: { follow: { tables: [t] } }\ntopic: out/${table}\n",
    );
    let insert = |ids: std::ops::Range<u64>| {
        let rows: Vec<String> = ids.map(|id| change("insert", id, "a", 1)).collect();
        world.publish("in/a", &rows);
    };
    let in_step = |count: usize| {
        eventually("the rows", || {
            let told = told(&world.events("out"));
            match told.len() == count && told == rows(&world, "t") {
                true => Ok(()),
                false => Err(format!("{told:?} {:?}", world.source("own"))),
            }
        });
    };
    apply(&world, &[table, own]);
    insert(0..3);
    in_step(3);
    world.apply(&[FILES[0], FILES[2]]);
    // More than before, so that the old position is within the new journal.
    apply(&world, &[table]);
    insert(10..30);
    eventually("the rows", || match rows(&world, "t").len() {
        20 => Ok(()),
        count => Err(format!("{count}")),
    });
    let before = world.events("out").len();
    apply(&world, &[table, own]);
    in_step(20);
    assert_eq!(world.events("out")[before].json()["change"], "truncate");
    // Other columns are another journal, too, while the connection stays.
    let wider = table.1.replace(
        "changed, type: int }]",
        "changed, type: int }, { name: more, type: int }]",
    );
    apply(&world, &[("tables/t.yaml", &wider), own]);
    insert(40..50);
    in_step(10);
}

#[test]
fn a_table_that_keeps_no_changes_is_not_followed() {
    let world = world();
    let table = format!("relational: {{}}\n{COLUMNS}");
    let own = "table: { follow: { tables: [t] } }\ntopic: out/${table}\n";
    let own = ("connections/own.yaml", own);
    let refused = |files: &[(&str, &str)]| {
        let files: Vec<_> = FILES.iter().chain(files).copied().collect();
        let project = project(&files);
        let applied = world.flows.apply(&project, 1);
        let bad = world.tokio.block_on(applied).expect_err("refused");
        let codes = bad
            .iter()
            .map(|bad| (bad.error().code(), bad.file().to_owned()));
        codes.collect::<Vec<_>>()
    };
    let at = |code| vec![(code, "connections/own.yaml".to_owned())];
    let table = ("tables/t.yaml", table.as_str());
    assert_eq!(refused(&[table, own]), at("table.changes-off"));
    let other = own.1.replace("[t]", "[u]");
    let other = ("connections/own.yaml", other.as_str());
    assert_eq!(refused(&[table, other]), at("table.source-unknown"));
}

/// Changes of many rows; some of them more than once, some are deleted and come again.
fn round(number: u64) -> Vec<String> {
    let mut all = Vec::new();
    for id in 0..200 {
        let changed = number * 10 + id % 3;
        all.push(change("upsert", id, &format!("r{number}"), changed));
        if (id + number).is_multiple_of(7) {
            all.push(change("delete", id, "", changed));
        }
        if (id + number).is_multiple_of(5) {
            all.push(change("upsert", id, &format!("s{number}"), changed + 1));
        }
    }
    all
}

#[test]
fn changes_come_once_and_in_order_through_kills() {
    for engine in ["hot", "relational", "wide"] {
        eprintln!("-- {engine}");
        let table = format!("{engine}: {{}}\nchanges: true\n{COLUMNS}");
        let own = "table: { follow: { tables: [t] } }\ntopic: out/${table}\n";
        let more = [
            ("tables/t.yaml", table.as_str()),
            ("connections/own.yaml", own),
        ];
        let mut world = world();
        apply(&world, &more);
        let mut published = 0;
        for number in 0..KILLS {
            let all = round(number);
            published += all.len();
            world.publish("in/a", &all);
            rest(number * 37 % 90);
            world = world.restart();
            apply(&world, &more);
        }
        world.publish("in/a", &[change("upsert", 9_000, "last", 1)]);
        eventually("the last change", || {
            match world.events("out").last().map(Event::json) {
                Some(json) if json["id"] == 9_000 => Ok(()),
                other => Err(format!("{other:?} {:?}", world.source("own"))),
            }
        });
        let events = world.events("out");
        assert_eq!(told(&events), rows(&world, "t"), "{engine}");
        // Each once: no two changes of a row are alike. Of a delete of a row that is not there nothing is told.
        let changes = events
            .iter()
            .map(Event::json)
            .filter(|event| matches!(event["change"].as_str(), Some("upsert" | "delete")));
        let changes: Vec<String> = changes
            .map(|event| {
                ["change", "id", "name", "changed"]
                    .map(|name| event[name].to_string())
                    .join(" ")
            })
            .collect();
        let distinct: BTreeSet<&String> = changes.iter().collect();
        assert_eq!(distinct.len(), changes.len(), "{engine}");
        assert!(
            changes.len() <= published + 1,
            "{engine}: {} of {published}",
            changes.len()
        );
    }
}

#[test]
fn rows_of_any_table_come_in_by_their_version() {
    let server = postgres();
    let database = server.database("");
    for engine in [
        "hot: {}".to_owned(),
        "relational: {}".to_owned(),
        "wide: {}".to_owned(),
        "relational: { connection: db, table: kept }".to_owned(),
    ] {
        eprintln!("-- {engine}");
        let world = crate::database_lookups::world();
        let table = format!("{engine}\n{COLUMNS}");
        let db = connection(server, server.port, &database, "");
        let own = "table: { poll: { tables: [{ table: t, version: changed }], every: 100ms } }\ntopic: out/${table}\n";
        let more = [
            ("connections/db.yaml", db.as_str()),
            ("tables/t.yaml", table.as_str()),
            ("connections/own.yaml", own),
        ];
        apply(&world, &more);
        world.publish(
            "in/a",
            &[change("insert", 1, "a", 5), change("insert", 2, "b", 5)],
        );
        let has = |wanted: &[&str]| {
            eventually("rows", || {
                let said = |event: &Event| {
                    let json = event.json();
                    format!("{} {} {}", json["id"], json["name"], json["changed"])
                };
                let said: Vec<String> = world.events("out").iter().map(said).collect();
                let mut distinct = said.clone();
                distinct.sort();
                distinct.dedup();
                match distinct.len() == said.len() && distinct == wanted {
                    true => Ok(()),
                    false => Err(format!("{said:?} {:?}", world.source("own"))),
                }
            });
        };
        has(&[r#"1 "a" 5"#, r#"2 "b" 5"#]);
        // One with the version that was the greatest, one with a greater one, and one that is too old.
        let more = [
            change("insert", 3, "c", 5),
            change("update", 1, "d", 6),
            change("insert", 4, "old", 1),
        ];
        world.publish("in/a", &more);
        has(&[r#"1 "a" 5"#, r#"1 "d" 6"#, r#"2 "b" 5"#, r#"3 "c" 5"#]);
        rest(400);
        has(&[r#"1 "a" 5"#, r#"1 "d" 6"#, r#"2 "b" 5"#, r#"3 "c" 5"#]);
    }
}

/// The table of the node and that of a database.
struct Pair {
    server: &'static DatabaseServer,
    database: String,
    engine: &'static str,
}

impl Pair {
    fn files(&self) -> Vec<(String, String)> {
        let Pair {
            server,
            database,
            engine,
        } = self;
        let login = format!(
            "postgres: {{ address: '127.0.0.1:{}', database: {database}, user: postgres, password: secret",
            server.port
        );
        let schema = "format: json\nschema: { change: text, id: int, name: text, changed: int }\n";
        [
            (
                "tables/t.yaml",
                format!(
                    "{engine}: {{}}\nchanges: true\nkey: [id]\ncolumns: [{{ name: id, type: int }}, {{ name: name, type: text }}, {{ name: changed, type: int }}]\n"
                ),
            ),
            (
                "connections/own.yaml",
                "table: { follow: { tables: [t], without: [there_to_t] } }\ntopic: own/${table}\n"
                    .to_owned(),
            ),
            (
                "connections/there.yaml",
                format!(
                    "{login}, follow: {{ tables: [t], without: [to_there], slot: {database} }} }}\ntopic: there/${{table}}\n"
                ),
            ),
            (
                "connections/to_there.yaml",
                format!(
                    "{login}, write: {{ table: t, key: [id], change: change, newer: changed }} }}\n"
                ),
            ),
            ("streams/own.yaml", format!("topics: own/#\n{schema}")),
            ("streams/there.yaml", format!("topics: there/#\n{schema}")),
            ("streams/in.yaml", format!("topics: in/#\n{schema}")),
            (
                "flows/fill.yaml",
                "from: in\nsteps:\n  - select: change, id, name, changed\nto:\n  - table: t\n    change: change\n    newer: changed\n".to_owned(),
            ),
            (
                "flows/t_to_there.yaml",
                "from: own\nsteps:\n  - select: change, id, name, changed\nto:\n  - connection: to_there\n"
                    .to_owned(),
            ),
            (
                "flows/there_to_t.yaml",
                "from: there\nsteps:\n  - select: change, id, name, changed\nto:\n  - table: t\n    change: change\n    newer: changed\n    or_equal: true\n"
                    .to_owned(),
            ),
        ]
        .map(|(path, text)| (path.to_owned(), text))
        .into()
    }

    fn apply(&self, world: &World) {
        let files = self.files();
        let files: Vec<_> = files
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
            .collect();
        world.apply(&files);
    }

    fn there(&self) -> Vec<String> {
        let text = self.server.run(
            &self.database,
            "select concat_ws('|', id, name, changed) from t",
        );
        let mut rows: Vec<String> = text.lines().map(str::to_owned).collect();
        rows.retain(|row| !row.is_empty());
        rows.sort();
        rows
    }
}

#[test]
fn a_table_of_the_node_and_one_of_a_database_stay_in_step_both_ways_through_kills() {
    for engine in ["relational", "hot"] {
        eprintln!("-- {engine}");
        let server = postgres();
        let database = server.database(
            "create table t (id bigint primary key, name text, changed bigint); \
             alter table t replica identity full; \
             insert into t select s, 'q' || s, 1 from generate_series(100, 140) s",
        );
        let pair = Pair {
            server,
            database,
            engine,
        };
        let mut world = world();
        pair.apply(&world);
        let of = |id: u64, name: &str, changed: u64| {
            format!(r#"{{"change":"upsert","id":{id},"name":"{name}","changed":{changed}}}"#)
        };
        let first: Vec<String> = (1..=120).map(|id| of(id, "own", id % 3)).collect();
        world.publish("in/a", &first);
        for number in 1..=KILLS {
            let second = number * 100;
            let rows = (1..=120).filter(|id| id % 5 == number % 5);
            let mut here: Vec<String> = rows
                .map(|id| of(id, &format!("own{number}"), second + id % 4))
                .collect();
            here.push(format!(
                r#"{{"change":"delete","id":{},"changed":{}}}"#,
                number * 3,
                second
            ));
            world.publish("in/a", &here);
            pair.server.run(
                &pair.database,
                &format!(
                    "update t set name = 'there{number}', changed = greatest(changed + 1, {second} + id % 3) where id % 4 = {}; \
                     delete from t where id = {}; \
                     insert into t values ({}, 'new', {second})",
                    number % 4,
                    number * 7,
                    1000 + number
                ),
            );
            rest(number * 61 % 150);
            world = world.restart();
            pair.apply(&world);
        }
        world.publish("in/a", &[of(5001, "last", 9_000)]);
        pair.server
            .run(&pair.database, "insert into t values (5002, 'last', 9000)");
        eventually("the same rows on both sides", || {
            let (here, there) = (rows(&world, "t"), pair.there());
            let last = |rows: &[String]| rows.iter().filter(|row| row.contains("|last|")).count();
            match here == there && last(&here) == 2 {
                true => Ok(()),
                false => Err(format!(
                    "here {here:?}\nthere {there:?}\n{:?} {:?}",
                    world.source("own"),
                    world.source("there")
                )),
            }
        });
        // Nothing goes round: what a flow has brought does not come back but for deletes.
        for event in world.events("own") {
            let json = event.json();
            let marked = event.tags.iter().any(|(name, _)| name == "producer");
            let is_delete = json["change"] == "delete";
            assert!(!marked || is_delete, "came back: {event:?}");
            let from_there = json["name"].as_str().unwrap_or("").starts_with("there");
            let is_read = json["change"] == "read";
            assert!(!from_there || is_read || is_delete, "came back: {event:?}");
        }
        // Of two changes of one row the newer one stays, and the other one is counted.
        world.publish("there/t", &[of(5001, "old", 10)]);
        eventually("a row that gave way", || {
            match world.conflicts("there_to_t") {
                0 => Err(format!("{:?}", rows(&world, "t"))),
                _ => Ok(()),
            }
        });
        assert!(rows(&world, "t").contains(&"5001|last|9000".to_owned()));
    }
}

/// What an attempt appended before a crash, and nobody kept as committed, is not what the next one reads: that comes as well.
#[test]
fn rows_come_behind_a_position_that_was_appended_and_not_kept() {
    for (way, part) in [
        ("follow: { tables: [t] }", "read:t"),
        (
            "poll: { tables: [{ table: t, version: changed }], every: 100ms }",
            "poll:t",
        ),
    ] {
        eprintln!("-- {way}");
        let world = world();
        let table = format!("hot: {{}}\nchanges: true\n{COLUMNS}");
        let table = ("tables/t.yaml", table.as_str());
        apply(&world, &[table]);
        world.publish("in/a", &[change("insert", 1, "a", 1)]);
        eventually("the row", || match rows(&world, "t").len() {
            1 => Ok(()),
            count => Err(format!("{count}")),
        });
        // Farther than the clock says.
        let appended = (format!("connection:own:{part}").into(), 1 << 62);
        let before = change("read", 7, "before", 0);
        world.publish_as(Some(appended), "out/t", &[before]);
        let own = format!("table: {{ {way} }}\ntopic: out/${{table}}\n");
        apply(&world, &[table, ("connections/own.yaml", own.as_str())]);
        let events = come(&world, 2);
        assert_eq!(events[1].json()["name"], "a", "{events:?}");
    }
}
