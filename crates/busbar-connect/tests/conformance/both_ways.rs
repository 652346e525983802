//! Two tables of different databases that are kept in step both ways.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use busbar_connector::Delivery;

use crate::postgres_sink::{open, rows};
use crate::servers::{DatabaseServer, mariadb, postgres};
use crate::world::{World, eventually, rest};

/// Times that the node is killed while both sides change.
const KILLS: u64 = 8;

/// One of the two sides.
struct Side {
    /// Written into each row that a program changes here.
    name: char,
    server: &'static DatabaseServer,
    database: String,
}

impl Side {
    fn run(&self, sql: &str) -> String {
        self.server.run(&self.database, sql)
    }

    /// Runs a statement as a program does that tries again after a deadlock.
    fn change(&self, sql: &str) {
        eventually("a change", || self.server.client(&self.database, sql));
    }

    /// All rows, in an order that both databases have.
    fn rows(&self) -> String {
        self.run(match self.name {
            'a' => "select concat_ws('|', id, name, side, timestampdiff(second, '2024-01-01', changed)) from patient order by id",
            _ => "select concat_ws('|', id, name, side, extract(epoch from changed - '2024-01-01')::int) from patient order by id",
        })
    }

    /// Changes and deletes rows; the other side changes and deletes some of the same.
    fn change_and_delete(&self, round: u64) {
        let Side { name, .. } = self;
        let (step, second, deleted) = match name {
            'a' => ("1 + id % 3", "second", round % 11),
            _ => ("1 + id % 2", "'1 second'", (round + 1) % 11),
        };
        // Each side moves rows to keys of its own.
        let moved = 1000 * (round + 1) + if *name == 'b' { 500 } else { 0 };
        let later = match name {
            'a' => format!("changed + interval ({step}) {second}"),
            _ => format!("changed + interval {second} * ({step})"),
        };
        let modulus = round % 5;
        self.change(&format!(
            "update patient set name = concat('{name}', '{round}', '张'), side = '{name}', changed = {later} where id % 5 = {modulus}"
        ));
        self.change(&format!("delete from patient where id % 11 = {deleted}"));
        self.change(&format!(
            "update patient set id = id + {moved}, side = '{name}', changed = {later} where id = {}",
            20 + 3 * round
        ));
    }

    /// Adds rows under keys that were deleted; the other side adds the same keys.
    fn add(&self, round: u64) {
        let Side { name, .. } = self;
        let (modulus, base) = (round % 7, round * 1000 + 500);
        self.change(&match name {
            'a' => format!(
                "insert ignore into patient select seq, '+a{round}', 'a', '2024-01-01' + interval {base} + seq % 3 second from seq_1_to_300 where seq % 7 = {modulus}"
            ),
            _ => format!(
                "insert into patient select s, '+b{round}', 'b', timestamp '2024-01-01' + interval '1 second' * ({base} + s % 2) \
                 from generate_series(1, 300) s where s % 7 = {modulus} on conflict do nothing"
            ),
        });
    }
}

/// Who wins where both sides change one row.
#[derive(Clone, Copy, PartialEq)]
enum Rule {
    Newer,
    /// The side of this name.
    Side(char),
}

/// The files of the pair.
fn files(sides: &[Side; 2], rule: Rule) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for (from, to) in [(&sides[0], &sides[1]), (&sides[1], &sides[0])] {
        let login = |side: &Side| {
            let (kind, user) = match side.name {
                'a' => ("mysql", "user: root"),
                _ => ("postgres", "user: postgres, password: secret"),
            };
            let (port, database) = (side.server.port, &side.database);
            format!("{kind}: {{ address: '127.0.0.1:{port}', database: {database}, {user}")
        };
        let (source, target) = (from.name, to.name);
        // Slots belong to the whole server, and tests run beside each other.
        let slot = match source {
            'a' => String::new(),
            _ => format!(", slot: {}", from.database),
        };
        let (conflict, echo) = match rule {
            Rule::Newer => (
                format!("newer: changed, or_equal: {}", target == 'b'),
                "deletes",
            ),
            Rule::Side(preferred) => {
                let (row, echo) = match preferred == target {
                    true => ("there", "none"),
                    false => ("coming", "returned"),
                };
                let prefer = format!("{{ row: {row}, version: changed, was: changed_was }}");
                (format!("prefer: {prefer}"), echo)
            }
        };
        let (field, was) = match rule {
            Rule::Newer => ("", ""),
            Rule::Side(_) => (
                "  - { name: changed_was, type: text, path: before.changed }\n",
                ", changed_was",
            ),
        };
        files.push((
            format!("connections/{source}.yaml"),
            format!("{}, follow: {{ tables: [patient], without: [to_{source}], echo: {echo}{slot} }} }}\ntopic: {source}/${{table}}\n", login(from)),
        ));
        files.push((
            format!("connections/to_{target}.yaml"),
            format!(
                "{}, write: {{ table: patient, key: [id], change: change, {conflict} }} }}\n",
                login(to)
            ),
        ));
        files.push((
            format!("streams/from_{source}.yaml"),
            format!(
                "topics: {source}/#\nformat: json\nschema:\n  - {{ name: change, type: text }}\n  - {{ name: id, type: int }}\n  \
                 - {{ name: name, type: text }}\n  - {{ name: side, type: text }}\n  - {{ name: changed, type: text }}\n{field}"
            ),
        ));
        files.push((
            format!("flows/{source}_to_{target}.yaml"),
            format!("from: from_{source}\nsteps:\n  - select: change, id, name, side, changed{was}\nto:\n  - connection: to_{target}\n"),
        ));
    }
    files
}

/// What differs first.
fn difference(a: &str, b: &str) -> Result<(), String> {
    let mut text = String::new();
    for line in a
        .lines()
        .filter(|line| !b.lines().any(|other| other == *line))
    {
        let _ = write!(text, "a: {line}; ");
    }
    for line in b
        .lines()
        .filter(|line| !a.lines().any(|other| other == *line))
    {
        let _ = write!(text, "b: {line}; ");
    }
    match text.is_empty() {
        true => Ok(()),
        false => Err(text),
    }
}

/// Writes rows; the rejected ones, and how many gave way to those there.
fn write(text: &str, rows: &Delivery) -> (Vec<usize>, u64) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut sink = open(text, rows).await.expect("a sink");
        let written = sink.write(rows).await.expect("written");
        let rejected = written.rejected.into_iter().map(|(row, _)| row);
        (rejected.collect(), written.conflicts)
    })
}

#[test]
fn two_tables_are_kept_in_step_both_ways_through_kills() {
    let (sides, world) = changed_through_kills(Rule::Newer);
    let mut returned = 0;
    for side in &sides {
        for event in world.events(&format!("from_{}", side.name)) {
            let json = event.json();
            let from_here = json["side"] == side.name.to_string();
            let marked = event.tags.iter().any(|(name, _)| name == "producer");
            match json["change"].as_str() {
                Some("delete") => returned += u32::from(marked),
                Some("read") => assert!(!marked, "{event:?}"),
                _ => assert!(from_here && !marked, "came back: {event:?}"),
            }
        }
    }
    assert!(returned > 0, "no delete was recognised");
    // Both sides have won.
    let rows = sides[0].rows();
    for side in ["|a|", "|b|"] {
        assert!(rows.contains(side), "{rows}");
    }
    // What is older than the row on the other side gives way, and the flow counts it.
    sides[1].change("update patient set name = 'old', changed = '2000-01-01' where id = 99000");
    eventually("a row that gave way", || match world.conflicts("b_to_a") {
        0 => Err(format!("{:?}", world.source("b"))),
        _ => Ok(()),
    });
    assert!(!sides[0].rows().contains("|old|"));
}

/// Two tables with rows of their own.
fn sides() -> [Side; 2] {
    [
        Side {
            name: 'a',
            server: mariadb(),
            database: mariadb().database(
                "create table patient (id bigint primary key, name varchar(50), side char(1), changed datetime(6)); \
                 insert into patient select seq, concat('p', seq), 'a', '2024-01-01' from seq_1_to_300",
            ),
        },
        Side {
            name: 'b',
            server: postgres(),
            database: postgres().database(
                "create table patient (id bigint primary key, name text, side text, changed timestamp); \
                 alter table patient replica identity full; \
                 insert into patient select s, 'q' || s, 'b', timestamp '2024-01-01' + interval '1 second' * (s % 2) from generate_series(290, 310) s",
            ),
        },
    ]
}

/// Two tables that both sides have changed while the node was killed, and that are in step.
fn changed_through_kills(rule: Rule) -> ([Side; 2], World) {
    let sides = sides();
    let files = files(&sides, rule);
    let files: Vec<_> = files
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    let mut world = World::new(Arc::new(tempfile::tempdir().expect("a folder")));
    world.apply(&files);
    let same = || difference(&sides[0].rows(), &sides[1].rows());
    eventually("the rows of both snapshots on both sides", same);
    for round in 1..=KILLS {
        let changing: [fn(&Side, u64); 2] = [Side::change_and_delete, Side::add];
        world = std::thread::scope(|scope| {
            let writers = scope.spawn(|| {
                for change in changing {
                    std::thread::scope(|scope| {
                        for side in &sides {
                            scope.spawn(move || change(side, round));
                        }
                    });
                }
            });
            rest(round * 61 % 200);
            let world = world.restart();
            world.apply(&files);
            writers.join().expect("the changes");
            world
        });
    }
    // What comes behind everything else says that everything else has come.
    for (number, side) in sides.iter().enumerate() {
        let id = 99_000 + number;
        side.change(&format!(
            "insert into patient values ({id}, 'last', '{}', '2030-01-01')",
            side.name
        ));
    }
    eventually("the last rows on both sides", || {
        let last = |side: &Side| side.run("select count(*) from patient where id >= 99000");
        match (last(&sides[0]), last(&sides[1])) {
            (a, b) if a == "2" && b == "2" => Ok(()),
            other => Err(format!(
                "{other:?}: {:?} {:?}",
                world.source("a"),
                world.source("b")
            )),
        }
    });
    eventually("the same rows on both sides", same);
    (sides, world)
}

#[test]
fn the_rows_of_one_side_win_through_kills() {
    for preferred in ['a', 'b'] {
        let rule = Rule::Side(preferred);
        let (sides, world) = changed_through_kills(rule);
        let other = if preferred == 'a' { 'b' } else { 'a' };
        // What Busbar writes to the other side does not come in; to the preferred one it comes in as such.
        for event in world.events(&format!("from_{other}")) {
            let json = event.json();
            let is_read = json["change"] == "read";
            let is_its_own = json["change"] == "delete" || json["side"] == other.to_string();
            assert!(is_read || is_its_own, "came back: {event:?}");
        }
        let mut returned = 0;
        for event in world.events(&format!("from_{preferred}")) {
            let is_marked = event.tags.iter().any(|(name, _)| name == "producer");
            match event.json()["change"].as_str() {
                Some("returned") => returned += 1,
                Some("delete") => {}
                _ => assert!(!is_marked, "{event:?}"),
            }
            if event.json()["change"] == "returned" {
                assert!(is_marked, "{event:?}");
            }
        }
        assert!(returned > 0);
        let rows = sides[0].rows();
        for side in ["|a|", "|b|"] {
            assert!(rows.contains(side), "{rows}");
        }
        // Both sides change one row while nothing runs.
        let (disk, folder) = world.kill();
        let (first, second) = match preferred {
            'a' => (&sides[0], &sides[1]),
            _ => (&sides[1], &sides[0]),
        };
        first.change(
            "update patient set name = 'preferred', changed = '2030-01-02' where id = 99000",
        );
        second.change("update patient set name = 'other', changed = '2030-01-03' where id = 99000");
        let world = World::open(disk, folder);
        let files = files(&sides, rule);
        let files: Vec<_> = files
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
            .collect();
        world.apply(&files);
        let flow = format!("{other}_to_{preferred}");
        eventually("a change that gave way", || match world.conflicts(&flow) {
            0 => Err("none".to_owned()),
            _ => Ok(()),
        });
        eventually("the same rows on both sides", || {
            difference(&sides[0].rows(), &sides[1].rows())
        });
        assert!(sides[0].rows().contains("|preferred|"));
        // A change that gives way goes back, also where nothing else is on its way.
        let changed = match preferred {
            'a' => "2030-01-05T00:00:00",
            _ => "2030-01-05 00:00:00",
        };
        let stale = format!(
            r#"{{"change":"update","id":99001,"name":"stale","side":"{other}","changed":"{changed}","before":{{"changed":"2001-01-01T00:00:00"}}}}"#
        );
        let before = world.events(&format!("from_{preferred}")).len();
        world.publish(&format!("{other}/patient"), &[stale]);
        eventually("the row that stayed comes in once more", || {
            let events = world.events(&format!("from_{preferred}"));
            let last = events[before..].last().map(|event| event.json());
            match last {
                Some(json) if json["name"] == "last" && json["change"] == "update" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        assert!(sides[0].rows().contains("|last|"));
    }
}

/// `change`, `id`, `name` and `at`.
type Change = (&'static str, i64, &'static str, Option<i64>);

#[test]
fn a_row_gives_way_only_to_a_newer_one() {
    let table = "create table t (id int primary key, name varchar(9), at int); insert into t values (1, 'there', 5), (2, 'there', 5), (3, 'there', null)";
    let changes = [
        // Older, equal and newer; no value there; none there.
        ("update", 1, "old", Some(4)),
        ("update", 2, "same", Some(5)),
        ("update", 3, "new", Some(1)),
        ("insert", 4, "new", Some(1)),
        // What cannot be compared is refused.
        ("update", 5, "none", None),
        ("truncate", 0, "", None),
    ];
    for (server, kind) in [(mariadb(), "mysql"), (postgres(), "postgres")] {
        for (or_equal, second) in [(false, "there"), (true, "same")] {
            let database = server.database(table);
            let user = if kind == "mysql" {
                "root"
            } else {
                "postgres, password: secret"
            };
            let text = format!(
                "{kind}: {{ address: '127.0.0.1:{}', database: {database}, user: {user}, write: {{ table: t, key: [id], change: change, newer: at, or_equal: {or_equal} }} }}\n",
                server.port
            );
            let delivery = |position, of: &[Change]| {
                let column = |pick: fn(&Change) -> Option<i64>| {
                    Arc::new(of.iter().map(pick).collect::<Int64Array>()) as ArrayRef
                };
                let texts = |texts: Vec<&str>| Arc::new(StringArray::from(texts)) as ArrayRef;
                rows(
                    position,
                    vec![
                        ("change", texts(of.iter().map(|row| row.0).collect())),
                        ("id", column(|row| Some(row.1))),
                        ("name", texts(of.iter().map(|row| row.2).collect())),
                        ("at", column(|row| row.3)),
                    ],
                )
            };
            let there = || server.run(&database, "select concat(id, name, at) from t order by id");
            // Two rows are rejected, one or two give way.
            let gave_way = if or_equal { 1 } else { 2 };
            let written = write(&text, &delivery(1, &changes));
            assert_eq!(written, (vec![4, 5], gave_way), "{kind}");
            assert_eq!(
                there(),
                format!("1there5\n2{second}5\n3new1\n4new1"),
                "{kind}"
            );
            // A delete is of the row as it was: 1 has been changed since, 2 has not.
            let deletes = [("delete", 1, "x", Some(4)), ("delete", 2, "x", Some(5))];
            assert_eq!(write(&text, &delivery(2, &deletes)), (vec![], 1), "{kind}");
            assert_eq!(there(), "1there5\n3new1\n4new1", "{kind}");
            // A row that is the same is no conflict, and one that is known already is counted once.
            let same = [("update", 1, "there", Some(5)), ("update", 3, "x", None)];
            assert_eq!(write(&text, &delivery(3, &same)), (vec![1], 0), "{kind}");
            assert_eq!(write(&text, &delivery(2, &deletes)), (vec![], 0), "{kind}");
            // Of rows that come together the newer one stays, too, whichever comes last.
            let together = [
                ("update", 1, "late", Some(7)),
                ("update", 3, "late", Some(9)),
                ("update", 1, "early", Some(6)),
                ("delete", 3, "x", Some(8)),
            ];
            assert_eq!(write(&text, &delivery(4, &together)), (vec![], 2), "{kind}");
            assert_eq!(there(), "1late7\n3late9\n4new1", "{kind}");
        }
    }
}

/// `change`, `id`, `name`, `at` and what `at` was.
type MadeOn = (&'static str, i64, &'static str, Option<i64>, Option<i64>);

#[test]
fn where_one_side_wins_a_row_is_written_by_the_version_that_it_was_made_on() {
    let table = "create table t (id int primary key, name varchar(9), at int); \
                 insert into t values (1, 'there', 5), (2, 'there', 5), (3, 'there', 5), (4, 'there', 5), (5, 'there', 5)";
    let there: &[MadeOn] = &[
        ("update", 1, "new", Some(6), Some(5)),
        ("update", 2, "stale", Some(6), Some(4)),
        ("insert", 3, "twice", Some(9), None),
        ("delete", 4, "x", Some(5), None),
        ("delete", 5, "x", Some(4), None),
        ("insert", 6, "new", Some(1), None),
        ("update", 7, "gone", Some(3), Some(2)),
        ("delete", 8, "x", Some(5), None),
        ("read", 1, "read", Some(1), None),
        ("read", 9, "read", Some(1), None),
        // On the one before it.
        ("update", 1, "newer", Some(7), Some(6)),
        ("update", 1, "late", Some(8), Some(6)),
        // What says no version is refused.
        ("update", 1, "x", Some(9), None),
        ("update", 1, "x", None, Some(7)),
        ("returned", 1, "x", Some(9), Some(7)),
        ("truncate", 0, "", None, None),
    ];
    let coming: &[MadeOn] = &[
        ("returned", 1, "mine", Some(6), Some(5)),
        ("returned", 2, "mine", Some(6), Some(4)),
        ("returned", 3, "mine", Some(6), None),
        ("returned", 6, "mine", Some(1), None),
        ("returned", 7, "mine", Some(2), Some(1)),
        ("update", 4, "theirs", Some(1), Some(9)),
        ("delete", 5, "x", Some(1), None),
        ("insert", 8, "theirs", Some(1), None),
        ("returned", 8, "mine", Some(2), Some(1)),
    ];
    for (server, kind) in [(mariadb(), "mysql"), (postgres(), "postgres")] {
        for (row, changes, rejected, gave_way, expected) in [
            (
                "there",
                there,
                vec![12, 13, 14, 15],
                5,
                "1newer7\n2there5\n3there5\n5there5\n6new1\n9read1",
            ),
            (
                "coming",
                coming,
                vec![],
                0,
                "1mine6\n2there5\n3there5\n4theirs1\n6mine1\n8mine2",
            ),
        ] {
            let database = server.database(table);
            let user = if kind == "mysql" {
                "root"
            } else {
                "postgres, password: secret"
            };
            let text = format!(
                "{kind}: {{ address: '127.0.0.1:{}', database: {database}, user: {user}, write: {{ table: t, key: [id], change: change, \
                 prefer: {{ row: {row}, version: at, was: at_was }} }} }}\n",
                server.port
            );
            let column = |pick: fn(&MadeOn) -> Option<i64>| {
                Arc::new(changes.iter().map(pick).collect::<Int64Array>()) as ArrayRef
            };
            let texts = |pick: fn(&MadeOn) -> &'static str| {
                Arc::new(StringArray::from_iter_values(changes.iter().map(pick))) as ArrayRef
            };
            let delivery = rows(
                1,
                vec![
                    ("change", texts(|row| row.0)),
                    ("id", column(|row| Some(row.1))),
                    ("name", texts(|row| row.2)),
                    ("at", column(|row| row.3)),
                    ("at_was", column(|row| row.4)),
                ],
            );
            assert_eq!(
                write(&text, &delivery),
                (rejected, gave_way),
                "{kind} {row}"
            );
            let found = server.run(&database, "select concat(id, name, at) from t order by id");
            assert_eq!(found, expected, "{kind} {row}");
        }
    }
}
