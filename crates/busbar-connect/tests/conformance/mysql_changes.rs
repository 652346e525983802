//! What the change source of `mysql` does beside what all sources do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use busbar_connector::SnapshotState;
use busbar_event::{Class, Language};

use crate::postgres_changes::{
    STREAM, apply, events, folded, other_columns_are_told_after_a_restart, running, stopped,
};
use crate::servers::{DatabaseServer, mariadb, own_mariadb, postgres};
use crate::world::{AtEnd, Event, World, eventually, rest};

pub fn connection(server: &DatabaseServer, database: &str, follow: &str) -> String {
    format!(
        "mysql: {{ address: '127.0.0.1:{}', database: {database}, user: root, follow: {{ {follow} }} }}\ntopic: in/${{table}}\n",
        server.port
    )
}

fn world() -> World {
    World::new(Arc::new(tempfile::tempdir().expect("a folder")))
}

#[test]
fn changes_come_with_their_images_in_their_order() {
    let db = mariadb();
    let database = db.database(
        "create table t (id int primary key, name varchar(20), `change` text); insert into t values (1, 'a', null); create table other (id int primary key)",
    );
    let world = world();
    apply(&world, &connection(db, &database, "tables: [t]"));
    assert_eq!(
        events(&world, 1)[0].text(),
        r#"{"change":"read","id":1,"name":"a","column_change":null}"#
    );
    db.run(
        &database,
        "begin; insert into t values (2, '张三', 'x'), (3, 'c', null); update t set name = 'b' where id = 2; commit; \
         insert into other values (1); update t set id = 4 where id = 1; delete from t where id = 4; \
         begin; insert into t values (8, 'no', null); rollback; \
         truncate table t; alter table t add column more decimal(10, 2) unsigned; insert into t values (9, 'i', null, 1.50)",
    );
    let events = events(&world, 10);
    let text: Vec<_> = events[1..].iter().map(Event::text).collect();
    assert_eq!(
        text,
        [
            r#"{"change":"insert","id":2,"name":"张三","column_change":"x"}"#,
            r#"{"change":"insert","id":3,"name":"c","column_change":null}"#,
            r#"{"change":"update","id":2,"name":"b","column_change":"x","before":{"id":2,"name":"张三","change":"x"}}"#,
            r#"{"change":"delete","id":1,"name":"a","column_change":null}"#,
            r#"{"change":"insert","id":4,"name":"a","column_change":null}"#,
            r#"{"change":"delete","id":4,"name":"a","column_change":null}"#,
            r#"{"change":"truncate"}"#,
            r#"{"change":"schema","columns":[{"name":"id","type":"int","key":true},{"name":"name","type":"text","key":false},{"name":"change","type":"text","key":false},{"name":"more","type":"decimal","key":false}]}"#,
            r#"{"change":"insert","id":9,"name":"i","column_change":null,"more":"1.50"}"#,
        ]
        .map(str::to_owned)
    );
    let tag = |event: &Event, name: &str| {
        event
            .tags
            .iter()
            .find(|(tag, _)| tag == name)
            .expect("the tag")
            .1
            .clone()
    };
    assert_eq!(
        tag(&events[1], "transaction"),
        tag(&events[3], "transaction")
    );
    assert_ne!(
        tag(&events[3], "transaction"),
        tag(&events[4], "transaction")
    );
    assert_eq!(
        (tag(&events[1], "sequence"), tag(&events[3], "sequence")),
        ("1".into(), "3".into())
    );
}

#[test]
fn other_columns_are_told_also_where_they_changed_while_nothing_ran() {
    let db = mariadb();
    let database = db.database("create table t (id int primary key); insert into t values (1)");
    other_columns_are_told_after_a_restart(&connection(db, &database, "tables: [t]"), |sql| {
        drop(db.run(&database, sql));
    });
}

/// The same rows by the snapshot, which the server writes as text, and by the log, whose bytes are read here.
#[test]
fn snapshot_and_log_write_the_same_values() {
    let db = mariadb();
    let database = db.database(
        "create table v (id int primary key, t tinyint, tu tinyint unsigned, s smallint, m mediumint, mu mediumint unsigned, l bigint, lu bigint unsigned, \
         f float, d double, n decimal(30,10), n2 decimal(9,9), n3 decimal(5,0), c char(5), vc varchar(300), tx mediumtext, b binary(4), vb varbinary(300), bl blob, \
         day date, at datetime, at3 datetime(3), at6 datetime(6), ts timestamp(6) null, tm time, tm6 time(6), y year, e enum('red','blue'), st set('a','b','c'), bi bit(12), j json, z int(6) zerofill)",
    );
    let rows = [
        "-128, 255, -32768, -8388608, 16777215, -9223372036854775808, 18446744073709551615, 16777215, 0.1, -12345678901234567890.0123456789, 0.123456789, -99999, \
         'ab', '张三', 'x''y', 0x00ff00, 0x00, 0xdeadbeef, '2024-02-29', '2024-02-29 23:59:59', '2024-02-29 23:59:59.123', '9999-12-31 23:59:59.999999', \
         '2024-02-29 23:59:59.000001', '-838:59:59', '12:34:56.000001', 2024, 'blue', 'a,c', b'101', '{\"a\": [1, null, -70000, 12345678901, 18446744073709551615, 1.5, 1e2, 0.001, 1e30], \"名\": \"x\\\\\"y\\\\n\", \"o\": {\"t\": true, \"e\": {}}}', 42",
        "0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, '', '', '', '', '', '', '1000-01-01', '1000-01-01', '1000-01-01', '1000-01-01', null, '00:00:00', '-00:00:00.5', 1901, \
         'red', '', b'0', 'null', 0",
    ];
    let insert = |from: usize| {
        let values: Vec<_> = rows
            .iter()
            .enumerate()
            .map(|(at, row)| format!("({}, {row})", from + at))
            .collect();
        db.run(
            &database,
            &format!(
                "set time_zone = '+00:00'; insert into v values {}",
                values.join(", ")
            ),
        );
    };
    insert(1);
    db.run(&database, "set sql_mode = ''; insert into v (id, day, at, ts) values (3, '0000-00-00', '0000-00-00', null)");
    let world = world();
    apply(&world, &connection(db, &database, "tables: [v]"));
    events(&world, 3);
    insert(4);
    db.run(&database, "set sql_mode = ''; insert into v (id, day, at, ts) values (6, '0000-00-00', '0000-00-00', null)");
    let events = events(&world, 6);
    for at in 0..3 {
        let (mut read, mut changed) = (events[at].json(), events[at + 3].json());
        assert_eq!(
            (read["change"].take(), changed["change"].take()),
            ("read".into(), "insert".into())
        );
        assert_eq!(read["id"].as_u64().map(|id| id + 3), changed["id"].as_u64());
        read["id"].take();
        changed["id"].take();
        assert_eq!(
            read,
            changed,
            "{}\n{}",
            events[at].text(),
            events[at + 3].text()
        );
    }
    let first = events[3].json();
    for (column, expected) in [
        ("lu", serde_json::json!(u64::MAX)),
        ("n", "-12345678901234567890.0123456789".into()),
        ("vc", "张三".into()),
        ("b", "0x00ff0000".into()),
        ("at6", "9999-12-31T23:59:59.999999".into()),
        ("ts", "2024-02-29T23:59:59.000001Z".into()),
        ("tm", "-838:59:59".into()),
        ("e", "blue".into()),
        ("st", "a,c".into()),
        ("bi", "0x0005".into()),
        ("z", 42.into()),
    ] {
        assert_eq!(first[column], expected, "{column}");
    }
    assert_eq!(events[5].json()["day"], "0000-00-00");
    // Dates that are none, as nothing.
    let nulls = self::world();
    apply(
        &nulls,
        &connection(db, &database, "tables: [v], zero_dates: none"),
    );
    assert_eq!(
        crate::postgres_changes::events(&nulls, 6)[5].json()["day"],
        serde_json::Value::Null
    );
}

pub const VERSIONED: &str = "create table v (id bigint primary key, n bigint not null, filler varchar(100)); \
     insert into v select seq, 1, repeat('f', 50) from seq_1_to_30000; \
     create table w (id varchar(40) primary key, n bigint not null); insert into w select md5(seq), 1 from seq_1_to_9000";

/// Changes rows at random; each change makes a row's version one more.
pub fn change(db: &DatabaseServer, database: &str, seed: u64, count: u64) {
    let (mut sql, mut state) = (String::new(), seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for at in 0..count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let id = 1 + state % 31_000;
        if at % 7 == 0 {
            sql.push_str("begin;");
        }
        match id % 50 {
            0 => sql.push_str(&format!("delete from v where id = {id};")),
            _ => sql.push_str(&format!(
                "insert into v values ({id}, 1, 'new') on duplicate key update n = n + 1;"
            )),
        }
        sql.push_str(&format!(
            "update w set n = n + 1 where id = md5({});",
            1 + id % 9_000
        ));
        if at % 7 == 6 || at + 1 == count {
            sql.push_str("commit;");
        }
    }
    // Nobody is kept waiting, and nothing that somebody has done is taken back.
    db.run(
        database,
        &format!("set session innodb_lock_wait_timeout = 5; {sql}"),
    );
}

pub fn same(db: &DatabaseServer, database: &str, world: &World, table: &str, id: &str) {
    let rows = db.run(
        database,
        &format!("select concat({id}, '|', n) from {table}"),
    );
    let rows = rows.lines().map(|row| row.rsplit_once('|').expect("two"));
    let there: BTreeMap<String, i64> = rows
        .map(|(id, n)| (id.to_owned(), n.parse().expect("n")))
        .collect();
    eventually("the same rows", || {
        let (rows, _) = folded(&world.events("in"), table);
        match rows == there {
            true => Ok(()),
            false => Err(format!(
                "{} of {} rows, {:?}",
                rows.len(),
                there.len(),
                world.source("c")
            )),
        }
    });
}

#[test]
fn a_snapshot_joins_the_stream_without_gap_or_duplicate() {
    joins(mariadb());
}

/// The snapshot of two tables that are changed meanwhile.
pub fn joins(db: &DatabaseServer) {
    let database = db.database(VERSIONED);
    let done = AtomicBool::new(false);
    let world = world();
    std::thread::scope(|scope| {
        let end = AtEnd(|| done.store(true, Ordering::SeqCst));
        let (done, database) = (&done, &database);
        let writer = scope.spawn(move || {
            let mut seed = 1;
            while !done.load(Ordering::SeqCst) {
                change(db, database, seed, 300);
                seed += 1;
            }
        });
        apply(&world, &connection(db, database, "tables: [v, w]"));
        eventually("some changes of each", || {
            let events = world.events("in");
            let of = |topic: &str| {
                events
                    .iter()
                    .filter(|e| e.topic == topic && !e.text().contains("\"read\""))
                    .count()
            };
            match of("in/v") > 500 && of("in/w") > 500 {
                true => Ok(()),
                false => Err(format!("{} events {:?}", events.len(), world.source("c"))),
            }
        });
        drop(end);
        writer.join().expect("it writes");
    });
    same(db, &database, &world, "v", "id");
    same(db, &database, &world, "w", "'\"', id, '\"'");
    eventually("the rows to be counted", || {
        match world.snapshot("c", &format!("{database}.v")) {
            Some(status) if status.state == SnapshotState::Equal => Ok(()),
            status => Err(format!("{status:?}")),
        }
    });
    // The keys of `w` are not compared here, so that a change that a later chunk has, too, comes beside it.
    each_version_once(&world.events("in"), "v");
}

/// Each version once, and each next one after it: nothing is missing and nothing comes twice.
pub fn each_version_once(events: &[Event], table: &str) {
    for (id, versions) in folded(events, table).1 {
        for pair in versions.windows(2) {
            let follows = pair[1] == pair[0] + 1 || pair[1] == 0;
            assert!(follows, "{id}: {versions:?}");
        }
    }
}

#[test]
fn kills_at_any_moment_lose_nothing() {
    let db = own_mariadb();
    let database = db.database(VERSIONED);
    let mut world = world();
    let connection = connection(&db, &database, "tables: [v, w]");
    apply(&world, &connection);
    for round in 0..14_u64 {
        change(&db, &database, round + 1, 300);
        rest((round * round * 7 + 5) % 400);
        if round % 5 == 4 {
            db.kill();
            db.start();
        }
        world = world.restart();
        apply(&world, &connection);
    }
    db.run(&database, "flush binary logs");
    change(&db, &database, 99, 500);
    same(&db, &database, &world, "v", "id");
    same(&db, &database, &world, "w", "'\"', id, '\"'");
    drop(world);
    db.kill();
}

#[test]
fn a_large_transaction_is_there_once_wherever_it_is_killed() {
    let db = mariadb();
    let database = db.database("create table t (id int primary key, filler text)");
    let mut world = world();
    let connection = connection(db, &database, "tables: [t]");
    apply(&world, &connection);
    running(&world);
    db.run(
        &database,
        "insert into t values (0, 'before'); insert into t select seq, repeat('x', 100) from seq_1_to_60000; insert into t values (60001, 'after')",
    );
    for round in 0..5 {
        rest(40 + 60 * round);
        world = world.restart();
        apply(&world, &connection);
    }
    let events = events(&world, 60_002);
    let ids: Vec<_> = events
        .iter()
        .map(|event| event.json()["id"].as_u64().expect("id"))
        .collect();
    assert!(ids.iter().copied().eq(0..=60_001), "out of order");
}

#[test]
fn what_cannot_be_followed_is_refused_with_the_statement_that_mends_it() {
    let db = own_mariadb();
    let database = db.database(
        "create table t (id int primary key); create table bare (id int); create table old (id int primary key, name varchar(10) character set gbk); \
         create table isam (id int primary key) engine = myisam; create table near (id double primary key); \
         create user reader@'127.0.0.1' identified by 'secret'",
    );
    db.run(
        &database,
        &format!("grant select on {database}.* to reader@'127.0.0.1'"),
    );
    let expect = |connection: &str, code: &str, statement: &str| {
        let world = world();
        apply(&world, connection);
        let why = stopped(&world).error.expect("it says why");
        let (en, zh) = (why.message(Language::En), why.message(Language::Zh));
        assert_eq!(
            (why.class(), why.code()),
            (Class::Configuration, code),
            "{en}"
        );
        assert!(
            en.contains(statement) && zh.contains(statement),
            "{en} {zh}"
        );
    };
    let t = connection(&db, &database, "tables: [t]");
    let reader = t.replace("user: root", "user: reader, password: secret");
    expect(
        &reader.replace("secret", "no"),
        "mysql.credentials",
        "ALTER USER 'reader'",
    );
    expect(
        &reader,
        "mysql.replication-right",
        "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'reader'",
    );
    expect(
        &connection(&db, &database, "tables: [gone]"),
        "mysql.no-table",
        "`gone`",
    );
    expect(
        &connection(&db, &database, "tables: [bare]"),
        "mysql.no-identity",
        "ADD PRIMARY KEY",
    );
    expect(
        &connection(&db, &database, "tables: [old]"),
        "mysql.charset",
        "CONVERT TO CHARACTER SET utf8mb4",
    );
    expect(
        &connection(&db, &database, "tables: [isam]"),
        "mysql.engine",
        "ENGINE=InnoDB",
    );
    expect(
        &connection(&db, &database, "tables: [near]"),
        "mysql.float-key",
        "MODIFY id decimal",
    );
    for (variable, wanted, other) in [
        ("binlog_format", "ROW", "MIXED"),
        ("binlog_row_image", "FULL", "MINIMAL"),
        ("binlog_row_metadata", "FULL", "MINIMAL"),
    ] {
        db.run(&database, &format!("set global {variable} = {other}"));
        expect(
            &t,
            "mysql.log-setting",
            &format!("SET GLOBAL {variable} = {wanted}"),
        );
        db.run(&database, &format!("set global {variable} = {wanted}"));
    }
    db.kill();
}

#[test]
fn what_cannot_be_read_from_the_log_stops_the_connection() {
    let db = mariadb();
    for (sql, code) in [
        (
            "alter table t add name varchar(10) character set gbk; insert into t values (2, 'x')",
            "mysql.charset",
        ),
        (
            "xa start 'busbar'; insert into t values (2); xa end 'busbar'; xa prepare 'busbar'; xa rollback 'busbar'",
            "mysql.prepared",
        ),
    ] {
        let database = db.database("create table t (id int primary key); insert into t values (1)");
        let world = world();
        apply(&world, &connection(db, &database, "tables: [t]"));
        events(&world, 1);
        db.run(&database, sql);
        let why = stopped(&world).error.expect("it says why");
        assert_eq!((why.class(), why.code()), (Class::Configuration, code));
        // Nothing of it has come: what it says is the way to go on.
        let last = world.events("in").last().map(Event::text);
        assert_eq!(last.as_deref(), Some(r#"{"change":"read","id":1}"#));
    }
}

#[test]
fn a_table_that_is_dropped_is_emptied_and_goes_on_when_it_is_back() {
    let db = mariadb();
    let database = db.database("create table t (id int primary key); insert into t values (1)");
    let world = world();
    apply(&world, &connection(db, &database, "tables: [t]"));
    events(&world, 1);
    db.run(
        &database,
        "drop table t; create table t (id int primary key); insert into t values (2)",
    );
    let text: Vec<_> = events(&world, 3)[1..].iter().map(Event::text).collect();
    let expected = [r#"{"change":"truncate"}"#, r#"{"change":"insert","id":2}"#];
    assert_eq!(text, expected.map(str::to_owned));
}

/// In several chunks, whose rows the server orders by a number (enumerations), by bytes and by a collation.
#[test]
fn a_snapshot_has_each_row_once_whatever_the_key_is_made_of() {
    let db = mariadb();
    let database = db.database(
        "create table k (e enum('z', 'a', 'm'), b varbinary(20), t varchar(20), d datetime(3), n int, primary key (e, b, t, d)); \
         insert into k select elt(1 + seq % 3, 'z', 'a', 'm'), if(seq < 4, '', unhex(md5(seq))), elt(1 + seq % 2, 'Ä', 'b'), '2024-02-29' + interval seq second, seq from seq_1_to_5000",
    );
    let world = world();
    apply(&world, &connection(db, &database, "tables: [k]"));
    let mut numbers: Vec<_> = events(&world, 5_000)
        .iter()
        .map(|event| event.json()["n"].as_u64().expect("n"))
        .collect();
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(1..=5_000), "{numbers:?}");
}

#[test]
fn another_server_goes_on_where_the_first_one_was() {
    let (first, second) = (own_mariadb(), own_mariadb());
    second.run("", "set global server_id = 2");
    second.run(
        "",
        &format!(
            "change master to master_host = '127.0.0.1', master_port = {}, master_user = 'root', master_use_gtid = slave_pos; start slave",
            first.port
        ),
    );
    // Its log is longer than that of the first one, so that no place is the same.
    let database = first.database("create table t (id int primary key); insert into t values (1)");
    let has = |rows: &str| {
        eventually("the rows", || {
            let there = second.client(&database, "select count(*) from t");
            (there.as_deref() == Ok(rows))
                .then_some(())
                .ok_or_else(|| format!("{there:?}"))
        });
    };
    has("1");
    let mut world = world();
    apply(&world, &connection(&first, &database, "tables: [t]"));
    events(&world, 1);
    first.run(&database, "insert into t values (2), (3)");
    events(&world, 3);
    // What comes while nobody listens.
    world.apply(&[STREAM]);
    first.run(
        &database,
        "delete from t where id = 1; insert into t values (4)",
    );
    has("3");
    first.kill();
    second.run("", "stop slave");
    let there = connection(&second, &database, "tables: [t]");
    apply(&world, &there);
    events(&world, 5);
    world = world.restart();
    apply(&world, &there);
    second.run(&database, "insert into t values (5)");
    let text: Vec<_> = events(&world, 6)[3..].iter().map(Event::text).collect();
    let expected = [
        r#"{"change":"delete","id":1}"#,
        r#"{"change":"insert","id":4}"#,
        r#"{"change":"insert","id":5}"#,
    ];
    assert_eq!(text, expected.map(str::to_owned));
    drop(world);
    second.kill();
}

#[test]
fn a_purged_log_is_an_alarm_and_a_new_generation_the_way_out() {
    let db = own_mariadb();
    let database =
        db.database("create table t (id int primary key); insert into t values (1), (2)");
    let world = world();
    apply(&world, &connection(&db, &database, "tables: [t]"));
    events(&world, 2);
    world.apply(&[STREAM]);
    db.run(&database, "delete from t where id = 2; flush binary logs; insert into t values (3); flush binary logs");
    let last = db.run(&database, "show binary logs");
    let last = last
        .lines()
        .last()
        .and_then(|line| line.split('\t').next())
        .expect("a file")
        .to_owned();
    // A reader that was just there keeps its file for a moment.
    eventually("the log to be purged", || {
        db.run(&database, &format!("purge binary logs to '{last}'"));
        match db.run(&database, "show binary logs").lines().count() {
            1 => Ok(()),
            more => Err(format!("{more} files")),
        }
    });
    apply(&world, &connection(&db, &database, "tables: [t]"));
    let why = stopped(&world).error.expect("it says why");
    assert_eq!(
        (why.class(), why.code()),
        (Class::Configuration, "mysql.position-lost")
    );
    assert!(why.message(Language::En).contains("generation"), "{why}");
    apply(
        &world,
        &connection(&db, &database, "tables: [t], generation: 1"),
    );
    let text: Vec<_> = events(&world, 5)[2..].iter().map(Event::text).collect();
    let expected = [
        r#"{"change":"truncate"}"#,
        r#"{"change":"read","id":1}"#,
        r#"{"change":"read","id":3}"#,
    ];
    assert_eq!(text, expected.map(str::to_owned));
    drop(world);
    db.kill();
}

/// From MariaDB to PostgreSQL, through kills of the node between.
#[test]
fn a_table_is_kept_in_step_with_another_database_through_kills() {
    let db = mariadb();
    let database = db.database(
        "create table patient (id bigint primary key, name varchar(50), born date, weight decimal(6,2)); \
         insert into patient select seq, concat('p', seq), date '1950-01-01' + interval seq % 20000 day, seq / 100 from seq_1_to_9000",
    );
    let target = postgres().database("create table patient_hl7 (pid bigint primary key, name text, born date, weight numeric(6,2))");
    let mut world = world();
    let write = format!(
        "postgres: {{ address: '127.0.0.1:{}', database: {target}, user: postgres, password: secret, write: {{ table: patient_hl7, key: [pid], change: change }} }}\n",
        postgres().port
    );
    let connection = connection(db, &database, "tables: [patient]");
    let files = [
        (
            "streams/in.yaml",
            "topics: in/#\nformat: json\nschema: { change: text, id: int, name: text, born: text, weight: text }\n",
        ),
        ("connections/c.yaml", connection.as_str()),
        ("connections/nis.yaml", write.as_str()),
        (
            "flows/copy.yaml",
            "from: in\nsteps:\n  - select: change, id as pid, name, born, weight\nto:\n  - connection: nis\n",
        ),
    ];
    world.apply(&files);
    for round in 0..6_i64 {
        db.run(
            &database,
            &format!(
                "update patient set name = concat(name, '{round}') where id % 7 = {round}; delete from patient where id % 100 = {round}; \
                 insert into patient select 10000 * ({round} + 1) + seq, 'n', '2000-02-29', 1.25 from seq_1_to_100; \
                 update patient set id = -id where id = 10000 * ({round} + 1) + 5"
            ),
        );
        rest(u64::try_from(round * 37 % 200).unwrap_or(0));
        world = world.restart();
        world.apply(&files);
    }
    let wanted = db.run(&database, "set group_concat_max_len = 100000000; select count(*), md5(group_concat(concat_ws('|', id, name, born, weight) order by id separator ',')) from patient");
    let wanted = wanted.replace('\t', "|");
    eventually("the same table", || {
        match postgres().run(&target, "select count(*), md5(string_agg(concat_ws('|', pid, name, born, weight), ',' order by pid)) from patient_hl7") {
            there if there == wanted => Ok(()),
            there => Err(format!("{there}, not {wanted}: {:?}", world.source("c"))),
        }
    });
}
