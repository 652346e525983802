//! Relational tables that are kept in PostgreSQL and MariaDB do what those in SQLite files do.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use busbar_connector::ColumnType;
use busbar_event::Class;
use busbar_table::{
    Applied, Compare, Condition, Constant, Lookup, ProducerPosition, Scan, Table, Write,
};
use serde_json::json;

use crate::database_lookups::{connection, world};
use crate::driver_engine::Engine;
use crate::servers::{Cut, DatabaseServer, mariadb, postgres};
use crate::world::{World, project};

#[path = "../../../busbar-table/tests/conformance/changes.rs"]
pub mod changes;
#[path = "../../../busbar-table/tests/conformance/interrupted.rs"]
pub mod interrupted;

const KEYED: &str = "key: [k]\ncolumns: [{ name: k, type: text }, { name: v, type: int }]\n";
const WIDER: &str = "key: [k]\ncolumns: [{ name: k, type: text }, { name: v, type: int }, { name: w, type: text }]\n";
const LOOSE: &str = "key: [k]\n";

/// A node with a table on a database, and the same table in a file.
struct Twins {
    world: World,
    server: &'static DatabaseServer,
    database: String,
    rest: &'static str,
}

impl Twins {
    fn new(server: &'static DatabaseServer, rest: &'static str) -> Twins {
        let twins = Twins {
            world: world(),
            server,
            database: server.database(""),
            rest,
        };
        twins.apply(server.port, rest);
        twins
    }

    fn apply(&self, port: u16, rest: &str) {
        let db = connection(self.server, port, &self.database, "");
        let there = format!("relational: {{ connection: db, table: kept }}\n{rest}");
        let here = format!("relational: {{}}\n{rest}");
        self.world.apply(&[
            ("connections/db.yaml", &db),
            ("tables/there.yaml", &there),
            ("tables/here.yaml", &here),
        ]);
    }

    /// The same table after the process was killed.
    fn again(&self) -> Twins {
        let twins = Twins {
            world: world(),
            database: self.database.clone(),
            ..*self
        };
        twins.apply(self.server.port, self.rest);
        twins
    }

    fn there(&self) -> Arc<dyn Table> {
        self.world.tables.table("there").expect("a table")
    }

    fn both(&self) -> [Arc<dyn Table>; 2] {
        [
            self.there(),
            self.world.tables.table("here").expect("a table"),
        ]
    }
}

fn each(rest: &'static str, case: impl Fn(&Twins)) {
    for server in [postgres(), mariadb()] {
        case(&Twins::new(server, rest));
    }
}

fn rows(pairs: &[(&str, Option<i64>)]) -> RecordBatch {
    let keys = StringArray::from_iter_values(pairs.iter().map(|pair| pair.0));
    let values: Int64Array = pairs.iter().map(|pair| pair.1).collect();
    batch(vec![
        ("k", Arc::new(keys) as ArrayRef),
        ("v", Arc::new(values)),
    ])
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

/// All rows, in the order of the first column, as texts.
fn all(table: &dyn Table, scan: &Scan) -> Vec<String> {
    let mut rows = Vec::new();
    for batch in table.scan(scan).expect("a scan") {
        let batch = batch.expect("rows");
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter();
            let values = values.map(|column| match column.is_null(row) {
                true => "null".to_owned(),
                false => arrow::util::display::array_value_to_string(column, row).expect("a text"),
            });
            rows.push(values.collect::<Vec<_>>().join("|"));
        }
    }
    rows.sort();
    rows
}

fn put(table: &dyn Table, rows: &RecordBatch, at: Option<u64>) -> Applied {
    let position = at.map(|at| ProducerPosition::new("flow:f/0", at));
    let applied = table.apply(rows, position.as_ref());
    applied.unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_stream_of_changes_keeps_a_table_in_step() {
    each(WIDER, |twins| changes::followed(&*twins.there()));
}

#[test]
fn changes_that_end_in_the_middle_are_completed() {
    each(WIDER, |twins| interrupted::completed(&*twins.there()));
}

#[test]
fn rows_are_put_and_deleted_as_in_a_file() {
    each(KEYED, |twins| {
        let tables = twins.both();
        for table in &tables {
            let first = rows(&[("a", Some(1)), ("b", Some(2)), ("a", Some(3)), ("雨", None)]);
            let applied = put(&**table, &first, Some(4));
            assert_eq!(
                (applied.put, applied.overwritten, applied.duplicate),
                (4, 1, false)
            );
            // The same once more, as after a crash.
            assert!(put(&**table, &first, Some(4)).duplicate);
            assert_eq!(table.position("flow:f/0").expect("an answer"), Some(4));
            assert_eq!(table.position("flow:g/0").expect("an answer"), None);
            let deletes = BooleanArray::from(vec![true, false]);
            let second = rows(&[("b", None), ("c", Some(7))]);
            let applied = table.write(&Write {
                rows: &second,
                deletes: Some(&deletes),
                position: None,
            });
            let applied = applied.expect("it is written");
            assert_eq!((applied.put, applied.deleted), (1, 1));
            // Without a position each write counts.
            put(&**table, &rows(&[("c", Some(8))]), None);
            assert_eq!(table.rows().expect("an answer"), 3);
            assert_eq!(all(&**table, &Scan::default()), ["a|3", "c|8", "雨|null"]);
            let small = Scan {
                projection: Some(vec![0]),
                conditions: vec![Condition {
                    column: 1,
                    compare: Compare::Less,
                    constant: Constant::Int(5),
                }],
                limit: None,
            };
            let found = all(&**table, &small);
            assert!(found.contains(&"a".to_owned()), "{found:?}");
            let keys: ArrayRef = Arc::new(StringArray::from(vec![Some("c"), Some("A"), None]));
            let lookup = Lookup {
                keys: &[keys],
                columns: &[1],
            };
            let found = table.lookup(&lookup).expect("an answer");
            assert!(found.places.is_valid(0) && found.places.is_null(1) && found.places.is_null(2));
            let place = found.places.value(0) as usize;
            assert_eq!(
                found
                    .rows
                    .column(0)
                    .as_primitive::<Int64Type>()
                    .value(place),
                8
            );
            let asked = table.query(
                match table.name() {
                    "here" => "select k, v from here where v > ? order by k",
                    _ => "select k, v from kept where v > ? order by k",
                },
                &[json!(2)],
                10,
            );
            let asked: serde_json::Value =
                serde_json::from_str(&asked.expect("an answer")).expect("JSON");
            assert_eq!(asked, json!([{"k": "a", "v": 3}, {"k": "c", "v": 8}]));
        }
        let [there, here] = &tables;
        assert_eq!(there.schema(), here.schema());
        assert_eq!(there.engine(), here.engine());
    });
}

#[test]
fn columns_join_a_table_that_names_none() {
    each(LOOSE, |twins| {
        for table in twins.both() {
            assert_eq!(table.rows().expect("an answer"), 0);
            let first = rows(&[("a", Some(1))]);
            table.evolve(&first.schema()).expect("the columns fit");
            put(&*table, &first, Some(1));
            let more = batch(vec![
                ("k", Arc::new(StringArray::from(vec!["a", "b"])) as ArrayRef),
                ("yes", Arc::new(BooleanArray::from(vec![Some(true), None]))),
                ("x", Arc::new(Float64Array::from(vec![1.5, -0.25]))),
                (
                    "at",
                    Arc::new(
                        TimestampMicrosecondArray::from(vec![1_714_979_289_500_000, 0])
                            .with_timezone("UTC"),
                    ),
                ),
            ]);
            let schema = Schema::new(
                more.schema()
                    .fields()
                    .iter()
                    .map(|field| field.as_ref().clone())
                    .chain([
                        ColumnType::Json.field("j"),
                        Field::new("b", DataType::Binary, true),
                    ])
                    .collect::<Vec<_>>(),
            );
            table.evolve(&schema).expect("the columns fit");
            put(&*table, &more, Some(2));
            let words: Vec<_> = table
                .schema()
                .fields()
                .iter()
                .map(|field| {
                    (
                        field.name().clone(),
                        ColumnType::of(field).expect("a type").word(),
                    )
                })
                .collect();
            let expected = [
                ("k", "text"),
                ("v", "int"),
                ("yes", "bool"),
                ("x", "float"),
                ("at", "time"),
                ("j", "json"),
                ("b", "binary"),
            ];
            assert_eq!(words, expected.map(|(name, word)| (name.to_owned(), word)));
            let first = all(&*table, &Scan::default()).swap_remove(0);
            assert!(
                first.starts_with("a|1|true|1.5|2024-05-06T07:08:09.5"),
                "{first}"
            );
            // A text does not become a number.
            let other = batch(vec![
                ("k", Arc::new(StringArray::from(vec!["a"])) as ArrayRef),
                ("x", Arc::new(StringArray::from(vec!["one"]))),
            ]);
            let refused = table.check(&other.schema()).expect_err("another type");
            assert_eq!(refused.code(), "table.column-type");
        }
    });
}

#[test]
fn a_row_that_cannot_be_kept_is_named_and_its_neighbours_are_written() {
    each(KEYED, |twins| {
        for table in twins.both() {
            let keys = StringArray::from(vec![Some("a"), None, Some("c")]);
            let values = Int64Array::from(vec![1, 2, 3]);
            let given = batch(vec![
                ("k", Arc::new(keys) as ArrayRef),
                ("v", Arc::new(values)),
            ]);
            for duplicate in [false, true] {
                let applied = put(&*table, &given, Some(3));
                assert_eq!(applied.duplicate, duplicate);
                let named: Vec<usize> = applied.rejected.iter().map(|one| one.row).collect();
                assert_eq!(named, [1]);
            }
            assert_eq!(all(&*table, &Scan::default()), ["a|1", "c|3"]);
        }
    });
}

/// A node starts while its database is down, and the rows wait until it answers.
#[test]
fn a_database_that_is_away_holds_rows_up() {
    for server in [postgres(), mariadb()] {
        let twins = Twins::new(server, KEYED);
        let cut = Cut::before(server.port);
        twins.apply(cut.port, KEYED);
        let table = twins.there();
        put(&*table, &rows(&[("a", Some(1))]), Some(1));
        cut.cut();
        let away = table.apply(
            &rows(&[("b", Some(2))]),
            Some(&ProducerPosition::new("flow:f/0", 2)),
        );
        let away = away.expect_err("the database is away");
        assert_eq!(away.class(), Class::Transient, "{away}");
        // The columns are known all the same.
        assert_eq!(table.schema().fields().len(), 2);
        table
            .evolve(&rows(&[]).schema())
            .expect("the columns are declared");
        cut.join();
        let applied = put(&*table, &rows(&[("b", Some(2))]), Some(2));
        assert!(!applied.duplicate);
        assert_eq!(all(&*table, &Scan::default()), ["a|1", "b|2"]);
    }
}

#[test]
fn a_table_that_is_not_to_be_made_says_the_statement() {
    for server in [postgres(), mariadb()] {
        let twins = Twins::new(server, KEYED);
        let spec =
            format!("relational: {{ connection: db, table: other, create: false }}\n{KEYED}");
        let db = connection(server, server.port, &twins.database, "");
        twins
            .world
            .apply(&[("connections/db.yaml", &db), ("tables/there.yaml", &spec)]);
        let table = twins.there();
        let refused = table.apply(&rows(&[("a", Some(1))]), None);
        let refused = refused.expect_err("there is no table");
        assert_eq!(refused.code(), "table.database-lacks");
        let mut said = refused.args().iter();
        let statement = said
            .find(|(name, _)| *name == "statement")
            .expect("one")
            .1
            .clone();
        server.run(&twins.database, &statement);
        put(&*table, &rows(&[("a", Some(1))]), None);
        assert_eq!(all(&*table, &Scan::default()), ["a|1"]);
        assert_eq!(twins.rest, KEYED);
    }
}

/// What the server refuses is told again where it may not have been noted: the process died between the write and the note.
#[test]
fn rows_that_the_server_refuses_are_named_again_after_a_crash() {
    each(
        "columns: [{ name: k, type: text }, { name: v, type: int }]\n",
        |twins| {
            twins.server.run(
                &twins.database,
                "create table kept (k varchar(100), v bigint, check (v < 100))",
            );
            let given = rows(&[
                ("a", Some(1)),
                ("b", Some(500)),
                ("c", Some(3)),
                ("b", Some(500)),
            ]);
            let named = |applied: &Applied| -> Vec<(usize, String)> {
                let rejected = applied.rejected.iter();
                rejected
                    .map(|one| (one.row, one.cause.to_string()))
                    .collect()
            };
            let first = put(&*twins.there(), &given, Some(3));
            assert!(!first.duplicate);
            let told = named(&first);
            assert_eq!(told.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1, 3]);
            let twins = twins.again();
            let again = put(&*twins.there(), &given, Some(3));
            assert!(again.duplicate);
            assert_eq!((named(&again), again.put), (told.clone(), 0));
            // Cut otherwise: the rows of a delivery before come along, or only some of these.
            let more = rows(&[
                ("z", Some(9)),
                ("a", Some(1)),
                ("b", Some(500)),
                ("c", Some(3)),
                ("b", Some(500)),
            ]);
            let again = named(&put(&*twins.there(), &more, Some(3)));
            assert_eq!(
                again.iter().map(|(row, _)| *row).collect::<Vec<_>>(),
                [2, 4]
            );
            let part = named(&put(&*twins.there(), &given.slice(0, 2), Some(2)));
            assert_eq!(part, told[..1]);
            // The next delivery has none of them, nor has it when it comes again.
            for _ in 0..2 {
                assert_eq!(
                    named(&put(&*twins.there(), &rows(&[("b", Some(5))]), Some(4))),
                    []
                );
            }
            // Without a key each write adds rows, so what came again has added none.
            let table = twins.there();
            assert_eq!(all(&*table, &Scan::default()), ["a|1", "b|5", "c|3"]);
        },
    );
}

#[test]
fn a_row_in_the_place_of_a_deleted_one_keeps_none_of_its_values() {
    const THREE: &str = "key: [k]\ncolumns: [{ name: k, type: text }, { name: v, type: int }, { name: w, type: int }]\n";
    each(THREE, |twins| {
        for table in twins.both() {
            let texts = |keys: &[&str]| Arc::new(StringArray::from(keys.to_vec())) as ArrayRef;
            let first = batch(vec![
                ("k", texts(&["a", "b"])),
                ("w", Arc::new(Int64Array::from(vec![1, 2]))),
            ]);
            put(&*table, &first, Some(1));
            let second = rows(&[("a", None), ("a", Some(7)), ("b", Some(8))]);
            let deletes = BooleanArray::from(vec![true, false, false]);
            let applied = table.write(&Write {
                rows: &second,
                deletes: Some(&deletes),
                position: Some(&ProducerPosition::new("flow:f/0", 2)),
            });
            applied.expect("it is written");
            assert_eq!(all(&*table, &Scan::default()), ["a|7|null", "b|8|2"]);
        }
    });
}

/// The replica here is a database with other rows, so that it shows who answers.
#[test]
fn reads_go_to_the_replica_and_to_the_main_database_while_it_is_away() {
    for server in [postgres(), mariadb()] {
        let world = world();
        let (main, copy) = (server.database(""), server.database(""));
        let cut = Cut::before(server.port);
        world.apply(&[
            (
                "connections/db.yaml",
                &connection(server, server.port, &main, ""),
            ),
            (
                "connections/copy.yaml",
                &connection(server, cut.port, &copy, ""),
            ),
            (
                "tables/there.yaml",
                &format!("relational: {{ connection: db, replica: copy, table: kept }}\n{KEYED}"),
            ),
        ]);
        let made = "create table kept (k varchar(100) primary key, v bigint)";
        server.run(
            &copy,
            &format!("{made}; insert into kept values ('copy', 1)"),
        );
        let table = world.tables.table("there").expect("a table");
        put(
            &*table,
            &rows(&[("main", Some(2)), ("other", Some(3))]),
            Some(1),
        );
        let answers = || {
            let keys: ArrayRef = Arc::new(StringArray::from(vec!["copy", "main"]));
            let lookup = Lookup {
                keys: &[keys],
                columns: &[1],
            };
            let found = table.lookup(&lookup).expect("an answer");
            let asked = table.query("select k from kept order by k", &[], 10);
            (
                all(&*table, &Scan::default()),
                table.rows().expect("an answer"),
                [found.places.is_valid(0), found.places.is_valid(1)],
                asked.expect("an answer"),
            )
        };
        let of_copy = (
            vec!["copy|1".to_owned()],
            1,
            [true, false],
            r#"[{"k":"copy"}]"#.to_owned(),
        );
        assert_eq!(answers(), of_copy);
        // What decides a write is asked where it is written.
        assert_eq!(table.position("flow:f/0").expect("an answer"), Some(1));
        assert!(put(&*table, &rows(&[("main", Some(2))]), Some(1)).duplicate);
        cut.cut();
        let of_main = (
            vec!["main|2".to_owned(), "other|3".to_owned()],
            2,
            [false, true],
            r#"[{"k":"main"},{"k":"other"}]"#.to_owned(),
        );
        assert_eq!(answers(), of_main);
        put(&*table, &rows(&[("other", Some(4))]), Some(2));
        cut.join();
        assert_eq!(answers(), of_copy);
    }
}

/// A node may start while the replica is away.
#[test]
fn a_replica_that_was_never_there_holds_nothing_up() {
    let server = postgres();
    let world = world();
    let main = server.database("");
    let nobody = crate::ports::free_port();
    world.apply(&[
        (
            "connections/db.yaml",
            &connection(server, server.port, &main, ""),
        ),
        (
            "connections/copy.yaml",
            &connection(server, nobody, &main, ""),
        ),
        (
            "tables/there.yaml",
            &format!("relational: {{ connection: db, replica: copy, table: kept }}\n{KEYED}"),
        ),
    ]);
    let table = world.tables.table("there").expect("a table");
    put(&*table, &rows(&[("a", Some(2))]), Some(1));
    assert_eq!(all(&*table, &Scan::default()), ["a|2"]);
}

/// Behind a driver no tables are made; one that is there is written and read.
#[test]
fn a_table_behind_a_driver_is_kept_alike() {
    for name in ["postgres", "postgres-odbc"] {
        let engine = Engine::start(name);
        engine.run("create table kept (k varchar(100) primary key, v bigint, check (v < 100))");
        let world = World::new(Arc::new(engine.folder));
        let spec = format!("relational: {{ connection: db, table: kept }}\n{KEYED}");
        let missing = format!("relational: {{ connection: db, table: missing }}\n{KEYED}");
        world.apply(&[
            ("connections/db.yaml", &engine.options),
            ("tables/there.yaml", &spec),
            ("tables/missing.yaml", &missing),
        ]);
        let table = world.tables.table("there").expect("a table");
        let given = rows(&[("a", Some(1)), ("b", Some(500)), ("c", None)]);
        for duplicate in [false, true] {
            let applied = put(&*table, &given, Some(3));
            let named: Vec<usize> = applied.rejected.iter().map(|one| one.row).collect();
            assert_eq!((applied.duplicate, named), (duplicate, vec![1]));
        }
        assert_eq!(table.position("flow:f/0").expect("an answer"), Some(3));
        let second = rows(&[("a", None), ("c", Some(7))]);
        let deletes = BooleanArray::from(vec![true, false]);
        let applied = table.write(&Write {
            rows: &second,
            deletes: Some(&deletes),
            position: None,
        });
        assert_eq!(applied.expect("it is written").deleted, 1);
        assert_eq!(all(&*table, &Scan::default()), ["c|7"]);
        let missing = world.tables.table("missing").expect("a table");
        let refused = missing.apply(&given, None).expect_err("there is no table");
        assert_eq!(refused.code(), "table.database-makes-none");
    }
}

#[test]
fn a_connection_that_is_missing_or_no_database_is_found_by_the_check() {
    let files = [
        (
            "connections/pg.yaml",
            "postgres: { address: '127.0.0.1:1', database: d, user: u }\n",
        ),
        (
            "connections/web.yaml",
            "http: { url: 'http://127.0.0.1:1/' }\n",
        ),
        (
            "tables/a.yaml",
            "relational: { connection: pq }\nkey: [k]\n",
        ),
        (
            "tables/b.yaml",
            "relational: { connection: pg, replica: web }\nkey: [k]\n",
        ),
        (
            "tables/c.yaml",
            "relational: { connection: pg }\nkey: [k]\n",
        ),
    ];
    let bad = busbar_flow::check(&project(&files), &busbar_connect::registry());
    let said: Vec<_> = bad.iter().map(|bad| bad.error().code()).collect();
    assert_eq!(
        said,
        ["table.no-connection", "table.connection-kind"],
        "{bad:?}"
    );
    let shown = bad[0].to_string();
    assert!(shown.contains("pg"), "{shown}");
}
