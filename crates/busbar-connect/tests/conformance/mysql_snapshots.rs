//! Snapshots of MySQL and MariaDB beside applications that change rows, and those that are asked for while changes come.

use std::collections::BTreeMap;
use std::sync::Arc;

use busbar_change::mysql::binlog::LogPlace;
use busbar_connector::SnapshotState;

use crate::mysql_changes::{VERSIONED, change, connection, joins};
use crate::postgres_changes::{STREAM, apply, events, folded};
use crate::postgres_snapshots::{kept_in_step, taken_anew, target};
use crate::servers::{is_mysql8, mariadb, own_mariadb, postgres};
use crate::world::{AtEnd, World, eventually};

fn world() -> World {
    World::new(Arc::new(tempfile::tempdir().expect("a folder")))
}

#[test]
fn a_snapshot_waits_for_no_lock_and_holds_none() {
    let db = mariadb();
    let database = db.database(
        "create table t (id int primary key, n int); insert into t select seq, 1 from seq_1_to_5000; create table released (id int primary key)",
    );
    // A transaction that has changed every row and goes on until it is told.
    db.run(
        &database,
        "delimiter //\ncreate procedure hold() while not exists (select 1 from released) do do sleep(0.02); end while//\ndelimiter ;\n",
    );
    let world = world();
    std::thread::scope(|scope| {
        let release = AtEnd(|| {
            // A failure shows in what the holder has not done.
            let _ = db.client(&database, "insert into released values (1)");
        });
        let holder = scope.spawn(|| {
            db.run(
                &database,
                "set session transaction isolation level read committed; begin; update t set n = 2; insert into t values (0, 2); call hold(); commit",
            );
        });
        eventually("the transaction", || {
            // The server looks anew only when nobody has asked for a tenth of a second.
            let count = "do sleep(0.3); select count(*) from information_schema.innodb_trx where trx_rows_modified > 5000";
            match db.run(&database, count).as_str() {
                "0" => Err("it has not begun".to_owned()),
                _ => Ok(()),
            }
        });
        apply(&world, &connection(db, &database, "tables: [t]"));
        let read = events(&world, 5_000);
        assert!(read.iter().all(|event| event.text().contains(r#""n":1"#)));
        drop(release);
        holder.join().expect("it has committed");
    });
    let events = events(&world, 10_001);
    assert!(
        events[5_000..]
            .iter()
            .all(|event| event.json()["n"].as_u64() == Some(2))
    );
}

/// MySQL says nothing of what is committed where transactions have no numbers.
#[test]
fn a_snapshot_joins_the_stream_where_transactions_have_no_numbers() {
    if !is_mysql8() {
        return;
    }
    let db = own_mariadb();
    for mode in ["on_permissive", "off_permissive", "off"] {
        db.run(
            "",
            &format!("set global enforce_gtid_consistency = on; set global gtid_mode = {mode}"),
        );
    }
    joins(&db);
    db.kill();
}

/// A change that was appended before the kill, and whose position was not kept, is left out when it comes again: the row of a
/// chunk must not be left out for it.
#[test]
fn a_row_whose_change_streams_hold_from_before_is_in_the_snapshot() {
    let db = mariadb();
    let database = db.database(
        "create table t (id int primary key, n int); insert into t values (1, 1), (2, 1)",
    );
    let world = world();
    apply(&world, &connection(db, &database, "tables: [t]"));
    events(&world, 2);
    let (disk, folder) = world.kill();
    let change = "update t set n = 2 where id = 1; show binary logs";
    let logs = db.run(&database, change);
    let last: Vec<_> = logs
        .lines()
        .last()
        .unwrap_or_default()
        .split('\t')
        .collect();
    let file = last[0].rsplit_once('.').map(|(_, number)| number.parse());
    let place = LogPlace {
        file: file.expect("a number").expect("a number"),
        byte: last[1].parse().expect("its size"),
    };
    let world = World::open(disk, folder);
    world.apply(&[STREAM]);
    let appended = ("connection:c:stream".into(), place.number());
    let update = r#"{"change":"update","id":1,"n":2}"#.to_owned();
    world.publish_as(Some(appended), "in/t", &[update]);
    let again = format!("tables: [t], again: {{ {database}.t: 1 }}");
    apply(&world, &connection(db, &database, &again));
    db.run(&database, "insert into t values (9, 9)");
    let wanted = [("1", 2), ("2", 1), ("9", 9)].map(|(id, n)| (id.to_owned(), n));
    eventually("all rows", || {
        let (rows, _) = folded(&world.events("in"), "t");
        match rows == BTreeMap::from(wanted.clone()) {
            true => Ok(()),
            false => Err(format!("{rows:?} {:?}", world.source("c"))),
        }
    });
}

#[test]
fn a_snapshot_that_is_asked_for_leaves_the_target_as_the_source_is() {
    let db = mariadb();
    let database = db.database(VERSIONED);
    let target_database =
        postgres().database("create table w (id bigint primary key, n bigint not null)");
    let connection = connection(db, &database, "tables: [v, w]");
    let write = target(postgres(), &target_database);
    let files = kept_in_step(&connection, &write);
    let rows = "set group_concat_max_len = 100000000; select group_concat(concat(id, '|', n) order by id separator ',') from v";
    let world = taken_anew(
        world(),
        &files,
        &target_database,
        &format!("{database}.v"),
        |seed| change(db, &database, seed, 100),
        || db.run(&database, rows),
    );
    assert_eq!(world.alarms("c"), Vec::<&str>::new());
    world.take_anew("c", &format!("{database}.w"));
    eventually("its rows to be compared", || {
        match world.snapshot("c", &format!("{database}.w")) {
            Some(status) if status.state == SnapshotState::Equal => Ok(()),
            status => Err(format!("{status:?}")),
        }
    });
}
