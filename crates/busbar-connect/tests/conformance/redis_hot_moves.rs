//! Rows of a hot table in Redis that move to another table when their time is over: none is lost, and none comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray as _, StringArray};
use arrow::datatypes::Int64Type;
use busbar_connector::HotPlace;
use busbar_event::Class;
use busbar_log::{Clock, ManualClock};
use busbar_table::{ColumnSpec, DatabaseTables as _, HotElsewhere, Scan, Table, TableSpec};
use serde_json::json;

use crate::redis_hot::cases::{LOOSE, all, at, batch, pairs, rows};
use crate::redis_hot::{Bench, databases, keys, number, specs, system};
use crate::redis_losing::{LosingPort, Lost};
use crate::servers::{own_redis, redis};
use crate::world::{AtEnd, World, eventually};

const MOVES: &str = r#", "ttl": "10s", "moves_to": "later""#;
const SECOND: i64 = 1_000_000;

#[test]
fn rows_move_when_their_time_is_over() {
    let server = redis();
    let clock = Arc::new(ManualClock::new(0));
    let bench = Bench::of(server, MOVES, LOOSE, Arc::clone(&clock) as _);
    let (table, later) = (bench.table(), bench.tables.table("later").expect("a table"));
    let first = rows(&[("a", 1), ("b", 1)]);
    table.evolve(&first.schema()).expect("columns");
    table.apply(&first, None).expect("written");
    assert_eq!(number(server, &format!("pttl {}:a", bench.place)), -1);
    clock.set(6 * SECOND);
    table.apply(&rows(&[("a", 2)]), None).expect("written");
    clock.set(11 * SECOND);
    eventually("b in the other table", || match keys(&table) {
        left if left == ["a"] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(keys(&later), ["b"]);
    assert_eq!(number(server, &format!("exists {}:b", bench.place)), 0);
    let stats = table.stats().expect("counted");
    assert_eq!((stats.rows, stats.moved, stats.move_lag_us), (1, 1, 0));
    // What was deleted by hand is not waited for.
    table.apply(&rows(&[("c", 1)]), None).expect("written");
    server.run("", &format!("del {}:c", bench.place));
    clock.set(30 * SECOND);
    eventually("a in the other table", || match table.stats() {
        Ok(stats) if stats.rows == 0 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(all(&later), pairs(&[("a", 2), ("b", 1)]));
}

/// A table whose rows somebody moves by hand.
fn moving(port: u16, place: &str, clock: Arc<dyn Clock>) -> Arc<dyn HotElsewhere> {
    let place = HotPlace {
        connection: "cache".into(),
        table: place.to_owned(),
        ttl: Some(Duration::from_secs(10)),
        moves: true,
    };
    let (declared, key) = (rows(&[]).schema(), ["k".to_owned()]);
    databases(port, "").hot("t", &place, &declared, &key, clock)
}

#[test]
fn a_move_whose_answer_was_lost_is_not_made_again() {
    let server = redis();
    let port = LosingPort::before(server.port);
    let clock = Arc::new(ManualClock::new(0));
    let place = server.name();
    let table = moving(port.port, &place, Arc::clone(&clock) as _);
    let written = table.apply(&rows(&[("a", 1), ("b", 1)]), None);
    written.expect("written");
    clock.set(11 * SECOND);
    let due = table.due().expect("an answer").expect("rows");
    port.lose(Lost::Answer);
    due.leave(&[false, false]).expect("asked again");
    assert!(table.due().expect("an answer").is_none());
    assert_eq!(
        number(server, &format!("exists {place}:a {place}:b")),
        0,
        "the server had made it"
    );
}

/// The other table has the rows, and the node that was to delete them here dies.
#[test]
fn a_node_that_dies_within_a_move_has_moved_each_row_once() {
    let server = redis();
    let port = LosingPort::before(server.port);
    let clock = Arc::new(ManualClock::new(0));
    let now = || Arc::clone(&clock) as Arc<dyn Clock>;
    let bench = Bench::behind(port.port, server.name(), MOVES, LOOSE, now());
    let first = rows(&[("a", 1), ("b", 1)]);
    bench.table().evolve(&first.schema()).expect("columns");
    bench.table().apply(&first, None).expect("written");
    port.lose(Lost::Transaction);
    clock.set(11 * SECOND);
    let later = bench.tables.table("later").expect("a table");
    eventually("both in the other table", || match keys(&later) {
        moved if moved == ["a", "b"] && port.is_dead() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    drop(later);
    let place = bench.place.clone();
    let there = || number(server, &format!("exists {place}:a {place}:b"));
    assert_eq!(there(), 2, "nobody has deleted them");
    let bench = bench.reopened(server.port, MOVES, LOOSE, now());
    let table = bench.table();
    eventually("the end of the move", || match table.rows() {
        Ok(0) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(there(), 0);
    assert_eq!(number(server, &format!("exists busbar:rows:{place}")), 0);
    let later = bench.tables.table("later").expect("a table");
    assert_eq!(all(&later), pairs(&[("a", 1), ("b", 1)]));
}

#[test]
fn a_row_that_is_written_while_it_moves_stays() {
    let server = redis();
    let clock = Arc::new(ManualClock::new(0));
    let place = server.name();
    let table = moving(server.port, &place, Arc::clone(&clock) as _);
    table
        .apply(&rows(&[("a", 1), ("b", 1)]), None)
        .expect("written");
    assert!(table.due().expect("an answer").is_none());
    clock.set(11 * SECOND);
    assert!(table.has_waiting().expect("an answer"));
    let due = table.due().expect("an answer").expect("rows");
    assert_eq!(due.rows().num_rows(), 2);
    table.apply(&rows(&[("a", 2)]), None).expect("written");
    due.leave(&[false, false]).expect("an answer");
    // Its neighbour has moved.
    assert!(table.due().expect("an answer").is_none());
    assert_eq!(number(server, &format!("exists {place}:b")), 0);
    let table = table as Arc<dyn Table>;
    assert_eq!(all(&table), pairs(&[("a", 2)]));
    assert_eq!(table.stats().expect("counted").moved, 1);
}

/// Rows that go make room, also beside some that stay.
#[test]
fn rows_move_from_a_server_without_memory() {
    let server = own_redis(&[]);
    let clock = Arc::new(ManualClock::new(0));
    let place = server.name();
    let table = moving(server.port, &place, Arc::clone(&clock) as _);
    let written = table.apply(&rows(&[("a", 1), ("b", 1)]), None);
    written.expect("written");
    clock.set(11 * SECOND);
    server.run("", "config set maxmemory 1\n");
    let due = table.due().expect("an answer").expect("rows");
    let full = due.leave(&[true, false]).expect_err("no memory");
    assert_eq!(
        (full.code(), full.class()),
        ("redis.full", Class::Transient)
    );
    let there = |key: &str| number(&server, &format!("exists {place}:{key}"));
    assert_eq!((there("a"), there("b")), (1, 0));
    server.run("", "config set maxmemory 100mb\n");
    let due = table.due().expect("an answer").expect("a row");
    assert_eq!(due.rows().num_rows(), 1);
    due.leave(&[true]).expect("noted");
    assert!(table.due().expect("an answer").is_none());
    assert_eq!(table.stats().expect("counted").move_rejected, 1);
}

#[test]
fn rows_that_the_other_table_rejects_stay_and_hold_up_nothing() {
    let server = redis();
    let clock = Arc::new(ManualClock::new(0));
    let bench = Bench::of(server, MOVES, LOOSE, Arc::clone(&clock) as _);
    let mut files = specs(&bench.place, MOVES, LOOSE);
    let columns = r#"[{"name": "k", "type": "text"}, {"name": "v", "type": "json"}]"#;
    let columns: Vec<ColumnSpec> = serde_json::from_str(columns).expect("columns");
    let strict = TableSpec {
        columns,
        ..files["later"].clone()
    };
    files.insert("strict".to_owned(), strict);
    let moves_to = |files: &mut BTreeMap<String, TableSpec>, name: &str| {
        let hot = files.get_mut("t").and_then(|t| t.hot.as_mut());
        hot.expect("hot").moves_to = Some(name.to_owned());
    };
    moves_to(&mut files, "strict");
    bench.tables.apply(&files).expect("tables");
    let table = bench.table();
    let texts = |texts: &[&str]| Arc::new(StringArray::from(texts.to_vec())) as ArrayRef;
    let put = |keys: &[&str], values: &[&str]| {
        let rows = batch([("k", texts(keys)), ("v", texts(values))]);
        table.evolve(&rows.schema()).expect("columns");
        table.apply(&rows, None).expect("written");
    };
    put(&["a", "b", "c"], &["1", "no JSON", "2"]);
    clock.set(11 * SECOND);
    let rejected = |count: u64, left: &[&str]| {
        eventually("the others move", || {
            let stats = table.stats().map_err(|error| error.to_string())?;
            match keys(&table) {
                keys if keys == left && stats.move_rejected == count => Ok(()),
                other => Err(format!("{other:?} {stats:?}")),
            }
        });
    };
    rejected(1, &["b"]);
    // Written again it is a row as any other.
    put(&["b"], &["3"]);
    assert_eq!(table.stats().expect("counted").move_rejected, 0);
    put(&["d"], &["no JSON"]);
    clock.set(30 * SECOND);
    rejected(1, &["d"]);
    // Another table takes it.
    moves_to(&mut files, "later");
    bench.tables.apply(&files).expect("tables");
    rejected(0, &[]);
    let later = bench.tables.table("later").expect("a table");
    assert_eq!(keys(&later), ["d"]);
}

#[test]
fn what_would_drop_rows_that_wait_is_refused() {
    let server = redis();
    let clock = Arc::new(ManualClock::new(0));
    let bench = Bench::of(server, MOVES, LOOSE, Arc::clone(&clock) as _);
    let table = bench.table();
    let first = rows(&[("a", 1), ("b", 1)]);
    table.evolve(&first.schema()).expect("columns");
    table.apply(&first, None).expect("written");
    // The other table can take nothing.
    let file = rusqlite::Connection::open(bench.folder.path().join("later.db")).expect("a file");
    file.execute_batch("begin immediate").expect("held");
    clock.set(11 * SECOND);
    let plain = r#", "ttl": "10s""#;
    let refused = bench.apply(plain, LOOSE).expect_err("rows wait");
    assert_eq!(refused.code(), "table.moves-waiting");
    // Nor do they go where a node starts with the other file.
    let other = Bench::behind(
        server.port,
        bench.place.clone(),
        plain,
        LOOSE,
        Arc::clone(&clock) as _,
    );
    let refused = other.table().rows().expect_err("rows wait");
    assert_eq!(refused.code(), "table.moves-waiting");
    assert_eq!(table.stats().expect("counted").move_lag_us, SECOND as u64);
    drop((other, file));
    eventually("the rows move", || match keys(&table) {
        left if left.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let later = bench.tables.table("later").expect("a table");
    assert_eq!(keys(&later), ["a", "b"]);
    table.apply(&rows(&[("c", 1)]), None).expect("written");
    assert_eq!(number(server, &format!("pttl {}:c", bench.place)), -1);
    bench.apply(plain, LOOSE).expect("nothing waits");
    // From now on Redis drops it.
    eventually("the time to live", || {
        bench.table().rows().map_err(|error| error.to_string())?;
        match number(server, &format!("pttl {}:c", bench.place)) {
            -1 => Err("none".to_owned()),
            _ => Ok(()),
        }
    });
    bench.apply(MOVES, LOOSE).expect("it fits");
    bench
        .table()
        .apply(&rows(&[("d", 1)]), None)
        .expect("written");
    assert_eq!(number(server, &format!("pttl {}:d", bench.place)), -1);
}

/// Redis is killed again and again while rows are written and moved: each row that was acknowledged is in one of the tables, as it
/// was written last.
#[test]
fn a_server_that_is_killed_loses_no_row_and_no_move() {
    let server = own_redis(&[]);
    let hot = r#", "ttl": "150ms", "moves_to": "later""#;
    let bench = Bench::of(&server, hot, LOOSE, system());
    let table = bench.table();
    let schema = rows(&[]).schema();
    eventually("the columns", || {
        table.evolve(&schema).map_err(|error| error.to_string())
    });
    let is_over = AtomicBool::new(false);
    let mut written: BTreeSet<String> = BTreeSet::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _over = AtEnd(|| is_over.store(true, Ordering::SeqCst));
            for _ in 0..4 {
                crate::world::rest(300);
                server.kill();
                server.start();
            }
        });
        let mut position = 0;
        while !is_over.load(Ordering::SeqCst) {
            position += 1;
            let names: Vec<String> = (0..20).map(|n| format!("{position}-{n}")).collect();
            let given: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
            let given = rows(&given);
            eventually("the write", || {
                let applied = table.apply(&given, Some(&at("p", position)));
                applied.map(drop).map_err(|error| {
                    assert_eq!(error.class(), Class::Transient, "{error}");
                    error.to_string()
                })
            });
            written.extend(names);
        }
    });
    let later = bench.tables.table("later").expect("a table");
    // The other table is read last: a row that moves meanwhile is in it.
    let mut there: BTreeSet<String> = keys(&table).into_iter().collect();
    there.extend(keys(&later));
    let lost: Vec<_> = written.difference(&there).collect();
    assert!(
        lost.is_empty(),
        "{} of {}: {lost:.500?}",
        lost.len(),
        written.len()
    );
    eventually("all rows move", || match table.rows() {
        Ok(0) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(keys(&later), written.into_iter().collect::<Vec<_>>());
}

/// A node is killed again and again while a flow writes the table and its rows move.
#[test]
fn a_node_that_is_killed_loses_no_row_of_a_flow() {
    let server = redis();
    let mut world = World::new(Arc::new(tempfile::tempdir().expect("a folder")));
    let cache = format!("redis: {{ address: '127.0.0.1:{}' }}\n", server.port);
    let columns = "key: [id]\ncolumns: [{ name: id, type: int }, { name: kw, type: int }]\n";
    let running = format!(
        "hot: {{ connection: cache, table: '{}', ttl: 50ms, moves_to: past }}\n{columns}",
        server.name()
    );
    let past = format!("relational: {{}}\n{columns}");
    let files = [
        ("connections/cache.yaml", cache.as_str()),
        ("tables/running.yaml", &running),
        ("tables/past.yaml", &past),
        (
            "streams/readings.yaml",
            "topics: reading/#\nformat: json\nschema: { id: int, kw: int }\n",
        ),
        (
            "flows/keep.yaml",
            "from: readings\nsteps:\n  - select: id, kw\nto:\n  - table: running\n",
        ),
    ];
    world.apply(&files);
    let (rounds, each): (i64, i64) = (6, 40);
    for round in 0..rounds {
        let readings = (round * each..(round + 1) * each).map(|id| json!({"id": id, "kw": -id}));
        let readings: Vec<String> = readings.map(|one| one.to_string()).collect();
        world.publish("reading/x", &readings);
        if round % 2 == 0 {
            // Some have moved, others have not.
            let past = world.tables.table("past").expect("a table");
            eventually("a row that has moved", || match past.rows() {
                Ok(1..) => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
        world = world.restart();
        world.apply(&files);
    }
    let table = |name: &str| world.tables.table(name).expect("a table");
    eventually("all rows move", || {
        match (table("running").rows(), table("past").rows()) {
            (Ok(0), Ok(240)) => Ok(()),
            other => Err(format!("{other:?} {:?}", world.flows.status_of("keep"))),
        }
    });
    let mut found = Vec::new();
    for batch in table("past").scan(&Scan::default()).expect("a scan") {
        let batch = batch.expect("rows");
        let column = |name: &str| {
            let column = batch.column_by_name(name).expect("a column");
            column.as_primitive::<Int64Type>().clone()
        };
        let (ids, values) = (column("id"), column("kw"));
        found.extend(ids.values().iter().copied().zip(values.values().to_vec()));
    }
    found.sort_unstable();
    let expected: Vec<(i64, i64)> = (0..rounds * each).map(|id| (id, -id)).collect();
    assert_eq!(found, expected);
}
