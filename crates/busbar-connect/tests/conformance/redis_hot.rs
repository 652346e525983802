//! Hot tables that are kept in Redis do what those in the node's memory do, and what Redis adds.

#[path = "../../../busbar-table/tests/conformance/cases.rs"]
pub mod cases;
#[path = "../../../busbar-table/tests/conformance/evolve.rs"]
mod evolve;
#[path = "../../../busbar-table/tests/conformance/lookups.rs"]
mod lookups;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, BooleanArray, StringArray};
use busbar_connector::Databases;
use busbar_event::{Class, Error};
use busbar_log::{Clock, ManualClock, SystemClock};
use busbar_table::{Compare, Condition, Constant, Scan, Table, TableSpec, Tables, Write};
use cases::{KEYED, LOOSE, all, at, batch, pairs, rows};
use serde_json::json;

use crate::database_lookups::{results, send};
use crate::kept_tables::{changes, interrupted};
use crate::redis_losing::{LosingPort, Lost};
use crate::servers::{DatabaseServer, own_redis, redis};
use crate::world::{World, eventually, spec};

/// A table of its own in the Redis of all tests.
pub struct Bench {
    pub folder: tempfile::TempDir,
    pub tables: Tables,
    /// What the keys of its rows begin with.
    pub place: String,
}

impl Bench {
    fn new(rest: &str) -> Bench {
        Bench::of(redis(), "", rest, Arc::new(ManualClock::new(0)))
    }

    /// Of some server, with more words for `hot`.
    pub fn of(server: &DatabaseServer, hot: &str, rest: &str, clock: Arc<dyn Clock>) -> Bench {
        Bench::behind(server.port, server.name(), hot, rest, clock)
    }

    pub fn behind(port: u16, place: String, hot: &str, rest: &str, clock: Arc<dyn Clock>) -> Bench {
        let folder = tempfile::tempdir().expect("a folder");
        Bench::within(folder, port, place, hot, rest, clock)
    }

    fn within(
        folder: tempfile::TempDir,
        port: u16,
        place: String,
        hot: &str,
        rest: &str,
        clock: Arc<dyn Clock>,
    ) -> Bench {
        let tables = Tables::open(folder.path(), clock).expect("tables");
        let tables = tables.with_databases(Arc::new(databases(port, "")));
        let bench = Bench {
            folder,
            tables,
            place,
        };
        bench.apply(hot, rest).expect("a table");
        bench
    }

    pub fn apply(&self, hot: &str, rest: &str) -> Result<(), Error> {
        self.tables.apply(&specs(&self.place, hot, rest))
    }

    pub fn table(&self) -> Arc<dyn Table> {
        self.tables.table("t").expect("a table")
    }

    /// The same table of a node that has begun anew.
    pub fn restarted(self, rest: &str) -> Bench {
        self.reopened(redis().port, "", rest, Arc::new(ManualClock::new(0)))
    }

    /// The same, with another way to the server and more words for `hot`.
    pub fn reopened(self, port: u16, hot: &str, rest: &str, clock: Arc<dyn Clock>) -> Bench {
        let Bench {
            folder,
            tables,
            place,
        } = self;
        drop(tables);
        Bench::within(folder, port, place, hot, rest, clock)
    }

    /// Redis answers key by key.
    pub fn sees_one_moment(&self) -> bool {
        false
    }
}

/// A table `t`, and a relational one with the same key that rows may be moved to.
pub fn specs(place: &str, hot: &str, rest: &str) -> BTreeMap<String, TableSpec> {
    let spec = |text: &str| serde_json::from_str::<TableSpec>(text).expect("a file");
    let hot = format!(r#"{{"hot": {{"connection": "cache", "table": "{place}"{hot}}}, {rest}}}"#);
    BTreeMap::from([
        ("t".to_owned(), spec(&hot)),
        (
            "later".to_owned(),
            spec(r#"{"relational": {}, "key": ["k"]}"#),
        ),
    ])
}

pub fn databases(port: u16, more: &str) -> Databases {
    let registry = busbar_connect::registry();
    let databases = Databases::new(registry, Path::new("/").into(), Arc::new(SystemClock));
    let databases = databases.expect("a thread");
    let text = format!("redis: {{ address: '127.0.0.1:{port}', timeout: 20s{more} }}\n");
    databases.apply([(&"cache".to_owned(), &spec(&text))]);
    databases
}

/// Runs a case on a table with the rest of this file. There is none without a key.
pub fn each(rest: &str, case: impl Fn(Bench)) {
    if rest.contains(r#""key": [""#) {
        case(Bench::new(rest));
    }
}

pub fn keys(table: &Arc<dyn Table>) -> Vec<String> {
    let mut found = Vec::new();
    for batch in table.scan(&Scan::default()).expect("a scan") {
        let batch = batch.expect("rows");
        if let Some(keys) = batch.column_by_name("k") {
            found.extend(keys.as_string::<i32>().iter().flatten().map(str::to_owned));
        }
    }
    found.sort();
    found
}

pub fn system() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

pub fn number(server: &DatabaseServer, command: &str) -> i64 {
    let said = server.run("", command);
    said.parse().unwrap_or_else(|_| panic!("{command}: {said}"))
}

#[test]
fn a_row_is_a_hash_that_redis_drops() {
    let server = redis();
    let bench = Bench::of(server, r#", "ttl": "1s""#, LOOSE, system());
    let (table, place) = (bench.table(), &bench.place);
    let first = rows(&[("a:b", 1), ("c", 2)]);
    table.evolve(&first.schema()).expect("columns");
    table.apply(&first, Some(&at("p", 1))).expect("written");
    assert_eq!(
        server.run("", &format!("hmget {place}:a%3Ab k v")),
        "a:b\n1"
    );
    let left = number(server, &format!("pttl {place}:c"));
    assert!((1..=1_000).contains(&left), "{left}");
    assert_eq!(
        server.run("", &format!("get busbar:position:tables/{place}/p")),
        "1"
    );
    assert_eq!(table.rows().expect("counted"), 2);
    eventually("the end of the rows", || {
        match (table.rows(), keys(&table)) {
            (Ok(0), found) if found.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(number(server, &format!("exists {place}:c")), 0);
    // The position stays, and with it what came before.
    assert!(
        table
            .apply(&first, Some(&at("p", 1)))
            .expect("known")
            .duplicate
    );
    assert_eq!(keys(&table), [""; 0]);
}

#[test]
fn conditions_on_the_whole_key_ask_for_one_row() {
    let rest = r#""key": ["k", "n"], "columns": [{"name": "k", "type": "text"}, {"name": "n", "type": "int"}]"#;
    let bench = Bench::new(rest);
    let table = bench.table();
    let given = batch([
        (
            "k",
            Arc::new(StringArray::from(vec!["a", "a:1", "a"])) as ArrayRef,
        ),
        ("n", Arc::new(arrow::array::Int64Array::from(vec![1, 1, 2]))),
    ]);
    table.apply(&given, None).expect("written");
    assert_eq!(table.rows().expect("counted"), 3);
    let is = |column, constant| Condition {
        column,
        compare: Compare::Equal,
        constant,
    };
    let scan = Scan {
        conditions: vec![is(0, Constant::Text("a".into())), is(1, Constant::Int(2))],
        ..Scan::default()
    };
    let found: Vec<_> = table.scan(&scan).expect("a scan").collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].as_ref().expect("a row").num_rows(), 1);
    let shown = table.shown(&scan).expect("shown");
    assert!(shown.contains("one row"), "{shown}");
}

#[test]
fn a_write_whose_answer_was_lost_is_made_once() {
    let server = redis();
    let port = LosingPort::before(server.port);
    let bench = Bench::behind(port.port, server.name(), "", KEYED, system());
    let table = bench.table();
    let first = rows(&[("a", 1), ("b", 1)]);
    table.apply(&first, Some(&at("p", 1))).expect("written");
    port.lose(Lost::Answer);
    let second = rows(&[("a", 2)]);
    let error = table.apply(&second, Some(&at("p", 2)));
    assert_eq!(error.expect_err("no answer").class(), Class::Transient);
    // Somebody else has changed the row by the time that it comes again.
    let place = &bench.place;
    server.run("", &format!("hset {place}:a v 99"));
    let again = table.apply(&second, Some(&at("p", 2))).expect("known");
    assert!(again.duplicate);
    assert_eq!(all(&table), pairs(&[("a", 99), ("b", 1)]));
    assert_eq!(table.position("p").expect("an answer"), Some(2));
}

#[test]
fn a_write_that_did_not_reach_redis_is_made_when_it_comes_again() {
    let server = redis();
    let port = LosingPort::before(server.port);
    let bench = Bench::behind(port.port, server.name(), "", KEYED, system());
    let table = bench.table();
    let first = rows(&[("a", 1), ("b", 1)]);
    table.apply(&first, Some(&at("p", 1))).expect("written");
    port.lose(Lost::Transaction);
    let second = rows(&[("a", 2)]);
    let error = table.apply(&second, Some(&at("p", 2)));
    assert_eq!(error.expect_err("no answer").class(), Class::Transient);
    assert!(port.is_dead());
    port.revive();
    assert_eq!(table.position("p").expect("an answer"), Some(1));
    let again = table.apply(&second, Some(&at("p", 2))).expect("written");
    assert!(!again.duplicate);
    assert_eq!(all(&table), pairs(&[("a", 2), ("b", 1)]));
}

#[test]
fn rows_of_others_under_a_key_are_named_and_their_neighbours_written() {
    let server = redis();
    let bench = Bench::new(KEYED);
    let table = bench.table();
    server.run("", &format!("set {}:b x", bench.place));
    let given = rows(&[("a", 1), ("b", 1), ("c", 1)]);
    for is_duplicate in [false, true] {
        let applied = table.apply(&given, Some(&at("p", 3))).expect("written");
        assert_eq!(applied.duplicate, is_duplicate);
        let named: Vec<_> = applied.rejected.iter().map(|one| one.row).collect();
        assert_eq!(named, [1]);
        assert_eq!(applied.rejected[0].cause.code(), "redis.wrong-type");
    }
    assert_eq!(all(&table), pairs(&[("a", 1), ("c", 1)]));
    assert_eq!(table.rows().expect("counted"), 2);
    // What others put in the place of a row later hides no other row.
    server.run("", &format!("set {}:a x", bench.place));
    assert_eq!(all(&table), pairs(&[("c", 1)]));
}

fn is_eviction(error: &Error) -> bool {
    error.code() == "redis.evicts"
}

#[test]
fn a_server_that_may_drop_rows_or_is_full_or_refuses_the_user_is_told_of() {
    let server = own_redis(&[]);
    server.run(
        "",
        "config set maxmemory 100mb\nconfig set maxmemory-policy allkeys-lru\n",
    );
    let bench = Bench::of(&server, "", KEYED, system());
    let refused = bench.table().apply(&rows(&[("a", 1)]), None);
    let refused = refused.expect_err("rows would be dropped");
    assert_eq!(
        (refused.code(), refused.class()),
        ("redis.evicts", Class::Configuration)
    );
    server.run("", "config set maxmemory-policy noeviction\n");
    let table = bench.table();
    table
        .apply(&rows(&[("a", 1)]), Some(&at("p", 1)))
        .expect("written");
    server.run("", "config set maxmemory 1\n");
    let full = table.apply(&rows(&[("a", 2)]), Some(&at("p", 2)));
    let full = full.expect_err("no memory");
    assert_eq!(
        (full.code(), full.class()),
        ("redis.full", Class::Transient)
    );
    assert_eq!(all(&table), pairs(&[("a", 1)]));
    server.run("", "config set maxmemory 100mb\n");
    let applied = table.apply(&rows(&[("a", 2)]), Some(&at("p", 2)));
    assert!(!applied.expect("there is room").duplicate);
    // What the server is set to may have changed where the session was lost.
    server.run(
        "",
        "config set maxmemory-policy allkeys-lru\nclient kill type normal skipme yes\n",
    );
    let again = |position| table.apply(&rows(&[("a", 2)]), Some(&at("p", position)));
    // The first write finds out that the session is lost.
    let refused = (3..6).find_map(|position| again(position).err().filter(is_eviction));
    assert!(refused.is_some(), "rows would be dropped");
    server.run("", "config set maxmemory-policy noeviction\n");
    assert!(!again(6).expect("rows are kept").duplicate);
    // A user that may do what the docs say and no more.
    let place = &bench.place;
    let rights = "+@connection +@transaction +@hash +@sortedset +get +set +type +exists +del +unlink +pexpire +pexpireat +persist +pttl +eval +info";
    server.run(
        "",
        &format!("acl setuser busbar on >secret ~{place}:* ~busbar:* {rights}\n"),
    );
    let as_user = |more: &str| {
        let tables = Tables::open(bench.folder.path(), system()).expect("tables");
        let tables = tables.with_databases(Arc::new(databases(server.port, more)));
        tables.apply(&specs(place, "", KEYED)).expect("a table");
        tables.table("t").expect("a table")
    };
    let user = as_user(", user: busbar, password: secret");
    user.apply(&rows(&[("b", 1)]), Some(&at("p", 7)))
        .expect("written");
    assert_eq!(all(&user), pairs(&[("a", 2), ("b", 1)]));
    let wrong = as_user(", user: busbar, password: wrong");
    let refused = wrong.rows().expect_err("another password");
    assert_eq!(refused.code(), "redis.credentials");
    assert!(!format!("{refused:?}").contains("wrong\""), "{refused:?}");
}

#[test]
fn a_cluster_is_refused_as_one() {
    let server = own_redis(&[("redis.conf", b"cluster-enabled yes\n")]);
    let bench = Bench::of(&server, "", KEYED, system());
    let refused = bench.table().apply(&rows(&[("a", 1)]), None);
    let refused = refused.expect_err("a cluster");
    assert_eq!(
        (refused.code(), refused.class()),
        ("redis.cluster", Class::Configuration)
    );
}

#[test]
fn a_key_of_rows_that_there_are_does_not_change() {
    let bench = Bench::new(LOOSE);
    let table = bench.table();
    let first = rows(&[("a", 1)]);
    table.evolve(&first.schema()).expect("columns");
    table.apply(&first, None).expect("written");
    let other = Bench::behind(
        redis().port,
        bench.place.clone(),
        "",
        r#""key": ["v"]"#,
        system(),
    );
    let refused = other.table().apply(&first, None).expect_err("another key");
    assert_eq!(refused.code(), "table.hot-key");
    // Two tables at one place are refused together.
    let mut files = specs(&bench.place, "", LOOSE);
    let twin = specs(&format!("{}:x", bench.place), "", LOOSE).remove("t");
    files.insert("twin".to_owned(), twin.expect("a file"));
    let refused = bench.tables.apply(&files).expect_err("one place");
    assert_eq!(refused.code(), "table.hot-overlap");
}

#[test]
fn flows_write_the_table_and_joins_and_programs_read_it() {
    let server = redis();
    let world = World::new(Arc::new(tempfile::tempdir().expect("a folder")));
    let cache = format!("redis: {{ address: '127.0.0.1:{}' }}\n", server.port);
    let table = format!(
        "hot: {{ connection: cache, table: '{}', ttl: 1h }}\nkey: [id]\ncolumns: [{{ name: id, type: int }}, {{ name: kw, type: float }}]\n",
        server.name()
    );
    let fields = "format: json\nschema: { n: int, id: int, kw: float }\n";
    world.apply(&[
        ("connections/cache.yaml", &cache),
        ("tables/meters.yaml", &table),
        ("streams/readings.yaml", &format!("topics: reading/#\n{fields}")),
        ("streams/in.yaml", &format!("topics: in/#\n{fields}")),
        ("streams/out.yaml", "topics: out/#\n"),
        (
            "flows/keep.yaml",
            "from: readings\nsteps:\n  - select: id, kw\nto:\n  - table: meters\n",
        ),
        (
            "flows/f.yaml",
            "from: in\nsteps:\n  - select: n, id\n  - join: { table: meters, on: id, cache: 0s }\nto:\n  - stream: out\n    topic: out/x\n",
        ),
    ]);
    let readings = [json!({"id": 7, "kw": 1.5}), json!({"id": 8, "kw": 2.5})];
    world.publish("reading/x", &readings.map(|one| one.to_string()));
    let kept = world.tables.table("meters").expect("a table");
    eventually("the readings", || match kept.rows() {
        Ok(2) => Ok(()),
        other => Err(format!("{other:?} {:?}", world.flows.status_of("keep"))),
    });
    send(
        &world,
        &[json!({"n": 0, "id": 7}), json!({"n": 1, "id": 8})],
    );
    let found = results(&world, 2);
    assert_eq!(
        (&found[0]["kw"], &found[1]["kw"]),
        (&json!(1.5), &json!(2.5))
    );
}

#[test]
fn what_is_deleted_and_put_in_one_write_is_as_it_was_put_last() {
    let bench = Bench::new(KEYED);
    let table = bench.table();
    let given = rows(&[("a", 1), ("a", 0), ("b", 1), ("b", 0), ("b", 2)]);
    let deletes = BooleanArray::from(vec![false, true, false, true, false]);
    let write = Write {
        rows: &given,
        deletes: Some(&deletes),
        position: None,
    };
    table.write(&write).expect("written");
    assert_eq!(all(&table), pairs(&[("b", 2)]));
    assert_eq!(table.rows().expect("counted"), 1);
    assert_eq!(table.scan(&Scan::default()).expect("a scan").count(), 1);
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(8))]

    #[test]
    fn it_holds_what_a_map_would(steps in cases::steps()) {
        cases::a_table_holds_what_a_map_would(&steps);
    }
}
