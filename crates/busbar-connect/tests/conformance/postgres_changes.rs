//! What the change source of `postgres` does beside what all sources do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use busbar_connector::SnapshotState;
use busbar_event::{Class, Language};
use busbar_flow::SourceStatus;

use crate::servers::{DatabaseServer, own_postgres, postgres};
use crate::world::{AtEnd, Event, World, eventually, rest};

pub const STREAM: (&str, &str) = ("streams/in.yaml", "topics: in/#\n");

/// A database with a slot that is dropped at the end.
pub struct Followed<'a> {
    pub server: &'a DatabaseServer,
    pub database: String,
}

impl Followed<'_> {
    pub fn new<'a>(server: &'a DatabaseServer, sql: &str) -> Followed<'a> {
        Followed {
            server,
            database: server.database(sql),
        }
    }

    pub fn run(&self, sql: &str) -> String {
        self.server.run(&self.database, sql)
    }

    pub fn connection(&self, follow: &str) -> String {
        format!(
            "postgres: {{ address: '127.0.0.1:{}', database: {}, user: postgres, password: secret, follow: {{ slot: s_{1}, {follow} }} }}\ntopic: in/${{table}}\n",
            self.server.port, self.database
        )
    }

    fn slots(&self, what: &str) -> String {
        self.run(&format!(
            "select {what} from pg_replication_slots where slot_name = 's_{}'",
            self.database
        ))
    }
}

impl Drop for Followed<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.slots("pg_terminate_backend(active_pid)");
            rest(200);
            self.slots("pg_drop_replication_slot(slot_name)");
        }
    }
}

fn world() -> World {
    World::new(Arc::new(tempfile::tempdir().expect("a folder")))
}

pub fn apply(world: &World, connection: &str) {
    world.apply(&[STREAM, ("connections/c.yaml", connection)]);
}

pub fn running(world: &World) {
    eventually("running", || match world.source("c") {
        status if status.state == "running" => Ok(()),
        status => Err(format!("{status:?}")),
    });
}

/// Waits for so many events.
pub fn events(world: &World, count: usize) -> Vec<Event> {
    eventually("the events", || {
        let events = world.events("in");
        match events.len() >= count {
            true => Ok(()),
            false => Err(format!(
                "{} of {count}: {:?}",
                events.len(),
                world.source("c")
            )),
        }
    });
    rest(200);
    let events = world.events("in");
    let last: Vec<_> = events.iter().rev().take(20).map(Event::text).collect();
    assert_eq!(events.len(), count, "{last:?}");
    events
}

pub fn stopped(world: &World) -> SourceStatus {
    eventually("stopped", || match world.source("c") {
        status if status.state == "stopped" => Ok(status),
        status => Err(format!("{status:?}")),
    })
}

/// The columns of a table `t` with one row change while nothing runs, the first time before anything of it has come from the
/// log. Each row comes behind an event with its columns.
pub fn other_columns_are_told_after_a_restart(connection: &str, run: impl Fn(&str)) {
    let mut world = world();
    apply(&world, connection);
    events(&world, 1);
    for (id, sql) in [
        (
            2,
            "alter table t add column more int; insert into t values (2, 7)",
        ),
        (3, "insert into t values (3, 8)"),
        (
            4,
            "alter table t drop column more; alter table t add column other int; insert into t values (4, 9)",
        ),
    ] {
        let (disk, folder) = world.kill();
        run(sql);
        world = World::open(disk, folder);
        apply(&world, connection);
        let all = eventually("the row", || {
            let all: Vec<_> = world.events("in").iter().map(Event::json).collect();
            match all.last() {
                Some(last) if last["id"] == id => Ok(all),
                _ => Err(format!("{all:?} {:?}", world.source("c"))),
            }
        });
        let mut told = vec!["id".to_owned()];
        for event in all {
            if event["change"] == "schema" {
                let columns = event["columns"].as_array().expect("columns").iter();
                let names = columns.map(|column| column["name"].as_str().expect("a name"));
                told = names.map(str::to_owned).collect();
                continue;
            }
            let row = event.as_object().expect("a row").keys();
            let mut row: Vec<_> = row.filter(|name| *name != "change").cloned().collect();
            row.sort();
            assert_eq!(row, told, "{event}");
        }
    }
}

#[test]
fn other_columns_are_told_also_where_they_changed_while_nothing_ran() {
    let db = Followed::new(
        postgres(),
        "create table t (id int primary key); insert into t values (1)",
    );
    other_columns_are_told_after_a_restart(&db.connection("tables: [t]"), |sql| drop(db.run(sql)));
}

#[test]
fn changes_come_with_their_images_in_their_order() {
    let db = Followed::new(
        postgres(),
        "create table t (id int primary key, name text, bio text); create table f (a int primary key, \"before\" text); \
         alter table f replica identity full; insert into t values (1, 'a', repeat('x', 10)); \
         create table other (id int primary key)",
    );
    let world = world();
    apply(&world, &db.connection("tables: [t, public.f]"));
    let first = events(&world, 1);
    assert_eq!(
        first[0].text(),
        r#"{"change":"read","id":1,"name":"a","bio":"xxxxxxxxxx"}"#
    );
    assert_eq!(first[0].topic, "in/t");
    // Random, so that it is not compressed to a value that is repeated.
    let large = "(select string_agg(md5(random()::text), '') from generate_series(1, 500))";
    db.run(&format!(
        "begin; insert into t values (2, null, {large}); update t set name = 'b' where id = 2; commit; \
         insert into other values (1); \
         update t set id = 3 where id = 1; delete from t where id = 3; \
         insert into f values (1, 'x'); update f set \"before\" = 'y'; delete from f; \
         truncate t; alter table t add column more numeric(10, 2); insert into t values (9, 'i', null, 1.50)"
    ));
    let events = events(&world, 12);
    let text: Vec<_> = events[1..].iter().map(Event::text).collect();
    assert!(
        text[0].starts_with(r#"{"change":"insert","id":2,"name":null,"bio":""#),
        "{}",
        text[0]
    );
    assert_eq!(
        text[1..],
        [
            r#"{"change":"update","id":2,"name":"b","unchanged":["bio"]}"#,
            r#"{"change":"delete","id":1}"#,
            r#"{"change":"insert","id":3,"name":"a","bio":"xxxxxxxxxx"}"#,
            r#"{"change":"delete","id":3}"#,
            r#"{"change":"insert","a":1,"column_before":"x"}"#,
            r#"{"change":"update","a":1,"column_before":"y","before":{"a":1,"before":"x"}}"#,
            r#"{"change":"delete","a":1,"column_before":"y"}"#,
            r#"{"change":"truncate"}"#,
            r#"{"change":"schema","columns":[{"name":"id","type":23,"key":true},{"name":"name","type":25,"key":false},{"name":"bio","type":25,"key":false},{"name":"more","type":1700,"key":false}]}"#,
            r#"{"change":"insert","id":9,"name":"i","bio":null,"more":"1.50"}"#,
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
        tag(&events[2], "transaction")
    );
    assert_ne!(
        tag(&events[2], "transaction"),
        tag(&events[3], "transaction")
    );
    assert_eq!(
        (tag(&events[1], "sequence"), tag(&events[2], "sequence")),
        ("1".into(), "2".into())
    );
}

#[test]
fn values_come_without_loss() {
    let db = Followed::new(
        postgres(),
        "create domain positive as int check (value > 0); create type colour as enum ('red', 'blue'); \
         create table v (id int primary key, b bool, s int2, l int8, n numeric, m numeric(20,4), r real, d float8, c char(3), u uuid, \
         day date, at timestamp, tz timestamptz, t time, i interval, j jsonb, raw bytea, a int[], e colour, p positive, x inet)",
    );
    let world = world();
    apply(&world, &db.connection("tables: [v]"));
    running(&world);
    let row = "'true', -32768, 9223372036854775807, '12345678901234567890.123456789012345678901', 1.5, 0.1, 'NaN', 'ab', \
         'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '0001-01-01', '2024-02-29 23:59:59.999999', '2024-02-29 23:59:59+08', '24:00', \
         '1 day 2 hours', '{\"a\": [1, null]}', '\\x00ff', '{1,2}', 'blue', 3, '10.0.0.1'";
    db.run(&format!("insert into v values (1, {row})"));
    let expected = |change: &str, id: u32| {
        format!(
            r#"{{"change":"{change}","id":{id},"b":true,"s":-32768,"l":9223372036854775807,"n":"12345678901234567890.123456789012345678901","m":"1.5000","r":0.1,"d":"NaN","c":"ab ","u":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11","day":"0001-01-01","at":"2024-02-29T23:59:59.999999","tz":"2024-02-29T15:59:59Z","t":"24:00:00","i":"P1DT2H","j":{{"a": [1, null]}},"raw":"\\x00ff","a":"{{1,2}}","e":"blue","p":3,"x":"10.0.0.1"}}"#
        )
    };
    assert_eq!(events(&world, 1)[0].text(), expected("insert", 1));
    // A snapshot writes them as the stream does.
    let again = self::world();
    apply(
        &again,
        &db.connection("tables: [v], generation: 1")
            .replace("slot: s_", "slot: z_"),
    );
    let read = events(&again, 2);
    assert_eq!(read[0].text(), r#"{"change":"truncate"}"#);
    assert_eq!(read[1].text(), expected("read", 1));
    drop(again);
    rest(300);
    db.run(&format!(
        "select pg_drop_replication_slot('z_{}')",
        db.database
    ));
}

/// Rows with a version that grows by one with each change; a writer that changes them at random.
pub const VERSIONED: &str = "create table v (id bigint primary key, n bigint not null, filler text); \
     insert into v select i, 1, repeat('f', 50) from generate_series(1, 30000) i; \
     create table w (id text primary key, n bigint not null); insert into w select md5(i::text), 1 from generate_series(1, 9000) i; \
     create procedure change(count int) language plpgsql as $$ declare at bigint; begin \
       for i in 1..count loop \
         at := 1 + floor(random() * 31000)::bigint; \
         if at % 50 = 0 then delete from v where id = at; \
         else insert into v values (at, 1, 'new') on conflict (id) do update set n = v.n + 1; end if; \
         update w set n = n + 1 where id = md5((1 + at % 9000)::text); \
         if i % 7 = 0 then commit; end if; \
       end loop; end $$";

/// What a reader that keeps rows by key has in the end, and the versions that each row had on the way.
pub fn folded(
    events: &[Event],
    table: &str,
) -> (BTreeMap<String, i64>, BTreeMap<String, Vec<i64>>) {
    let (mut rows, mut versions) = (BTreeMap::new(), BTreeMap::<String, Vec<i64>>::new());
    for event in events
        .iter()
        .filter(|event| event.topic == format!("in/{table}"))
    {
        let json = event.json();
        let id = json["id"].to_string();
        match json["change"].as_str() {
            Some("delete") => {
                rows.remove(&id);
                versions.entry(id).or_default().push(0);
            }
            Some("truncate") => rows.clear(),
            _ => {
                let n = json["n"].as_i64().expect("n");
                rows.insert(id.clone(), n);
                versions.entry(id).or_default().push(n);
            }
        }
    }
    (rows, versions)
}

pub fn same(db: &Followed<'_>, world: &World, table: &str, id: &str) {
    let there = || -> BTreeMap<String, i64> {
        let rows = db.run(&format!("select {id} || '|' || n from {table}"));
        rows.lines()
            .map(|row| row.rsplit_once('|').expect("two"))
            .map(|(id, n)| (id.to_owned(), n.parse().expect("n")))
            .collect()
    };
    let there = there();
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
    let db = Followed::new(postgres(), VERSIONED);
    let done = AtomicBool::new(false);
    let world = world();
    std::thread::scope(|scope| {
        let end = AtEnd(|| done.store(true, Ordering::SeqCst));
        let writers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while !done.load(Ordering::SeqCst) {
                        db.run("call change(200)");
                    }
                })
            })
            .collect();
        apply(&world, &db.connection("tables: [v, w]"));
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
        for writer in writers {
            writer.join().expect("it writes");
        }
    });
    same(&db, &world, "v", "id");
    same(&db, &world, "w", "'\"' || id || '\"'");
    for table in ["public.v", "public.w"] {
        eventually("the rows to be counted", || {
            match world.snapshot("c", table) {
                Some(status) if status.state == SnapshotState::Equal => Ok(()),
                status => Err(format!("{status:?}")),
            }
        });
    }
    // Each version once, and each next one after it: nothing is missing and nothing comes twice.
    for table in ["v", "w"] {
        for (id, versions) in folded(&world.events("in"), table).1 {
            for pair in versions.windows(2) {
                let follows = pair[1] == pair[0] + 1 || pair[1] == 0 && pair[0] > 0;
                assert!(follows, "{table} {id}: {versions:?}");
            }
        }
    }
}

#[test]
fn kills_at_any_moment_lose_nothing() {
    let server = own_postgres();
    let db = Followed::new(&server, VERSIONED);
    let mut world = world();
    let connection = db.connection("tables: [v, w]");
    apply(&world, &connection);
    for round in 0..16_u64 {
        db.run("call change(300)");
        // From the first batch of the snapshot to the middle of the stream.
        rest((round * round * 7 + 5) % 400);
        if round % 5 == 4 {
            server.kill();
            server.start();
        }
        world = world.restart();
        apply(&world, &connection);
    }
    db.run("call change(500)");
    same(&db, &world, "v", "id");
    same(&db, &world, "w", "'\"' || id || '\"'");
    drop(world);
    drop(db);
    server.kill();
}

#[test]
fn a_large_transaction_is_there_once_wherever_it_is_killed() {
    let db = Followed::new(
        postgres(),
        "create table t (id int primary key, filler text)",
    );
    let mut world = world();
    let connection = db.connection("tables: [t]");
    apply(&world, &connection);
    running(&world);
    db.run("insert into t values (0, 'before')");
    db.run("insert into t select i, repeat('x', 100) from generate_series(1, 60000) i");
    db.run("insert into t values (60001, 'after')");
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
fn a_table_without_a_key_and_one_that_is_added_come_whole() {
    let db = Followed::new(
        postgres(),
        "create table k (a int, b text); alter table k replica identity full; insert into k select i, 'x' from generate_series(1, 20000) i; \
         create table late (id int primary key); insert into late select generate_series(1, 10)",
    );
    let world = world();
    apply(&world, &db.connection("tables: [k]"));
    events(&world, 20_000);
    db.run("update k set b = 'y' where a = 7; insert into late values (11)");
    let last = events(&world, 20_001).pop().expect("one");
    assert_eq!(
        last.text(),
        r#"{"change":"update","a":7,"b":"y","before":{"a":7,"b":"x"}}"#
    );
    apply(&world, &db.connection("tables: [k, late]"));
    events(&world, 20_012);
    db.run("delete from late where id = 11");
    assert_eq!(
        events(&world, 20_013).pop().expect("one").text(),
        r#"{"change":"delete","id":11}"#
    );
    // Its snapshot again, for whoever has lost it.
    apply(
        &world,
        &db.connection("tables: [k, late], again: { public.late: 1 }"),
    );
    let again = events(&world, 20_024);
    assert_eq!(again[20_013].text(), r#"{"change":"truncate"}"#);
    assert!(
        again[20_014..]
            .iter()
            .all(|event| event.text().contains("\"read\""))
    );
}

#[test]
fn a_database_where_nothing_happens_to_the_tables_keeps_no_log() {
    let db = Followed::new(
        postgres(),
        "create table quiet (id int primary key); create table busy (id int)",
    );
    let world = world();
    apply(&world, &db.connection("tables: [quiet]"));
    running(&world);
    let before = db.slots("confirmed_flush_lsn");
    db.run("insert into busy select generate_series(1, 10000)");
    let end = db.run("select pg_current_wal_lsn()");
    eventually("the slot to move", || {
        match db
            .slots(&format!("confirmed_flush_lsn >= '{end}'"))
            .as_str()
        {
            "t" => Ok(()),
            other => Err(format!("{other}, from {before}")),
        }
    });
    // Others write to this server meanwhile, so that the lag is small at times only.
    eventually("a small lag", || match world.source("c").lag_bytes {
        Some(lag) if lag < 1 << 20 => Ok(()),
        _ => Err(format!("{:?}", world.source("c"))),
    });
}

#[test]
fn what_cannot_be_followed_is_refused_with_the_statement_that_mends_it() {
    let server = postgres();
    let db = Followed::new(
        server,
        "create table t (id int primary key); create table bare (id int); create view seen as select * from t; \
         create role reader login password 'secret'; create role follower login replication password 'secret'; \
         grant select on t to follower, reader; create publication made for table t",
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
        assert!(en.contains(statement), "{en}");
        assert!(zh.contains(statement), "{zh}");
    };
    let t = db.connection("tables: [t]");
    let by = |user: &str, text: &str| text.replace("user: postgres", &format!("user: {user}"));
    expect(
        &t.replace("password: secret", "password: no"),
        "postgres.credentials",
        "ALTER ROLE \"postgres\"",
    );
    expect(
        &db.connection("tables: [gone]"),
        "postgres.no-table",
        "\"gone\"",
    );
    expect(
        &db.connection("tables: [seen]"),
        "postgres.not-a-table",
        "\"seen\"",
    );
    expect(
        &db.connection("tables: [bare]"),
        "postgres.no-identity",
        "ALTER TABLE \"public\".\"bare\" REPLICA IDENTITY FULL",
    );
    expect(
        &by("follower", &t),
        "postgres.publication",
        "CREATE PUBLICATION \"busbar_c\" FOR TABLE \"public\".\"t\"",
    );
    expect(
        &db.connection("tables: [t], create: false"),
        "postgres.publication",
        "CREATE PUBLICATION \"busbar_c\" FOR TABLE",
    );
    expect(
        &by("reader", &db.connection("tables: [t], publication: made")),
        "postgres.replication-right",
        "ALTER ROLE \"reader\" REPLICATION",
    );
    expect(
        &db.connection("tables: [t], publication: made, create: false"),
        "postgres.no-slot",
        &format!(
            "pg_create_logical_replication_slot('s_{}', 'pgoutput')",
            db.database
        ),
    );
    db.run(&format!(
        "select pg_create_logical_replication_slot('s_{}', 'test_decoding')",
        db.database
    ));
    expect(&t, "postgres.slot-other", "test_decoding");
    db.slots("pg_drop_replication_slot(slot_name)");
}

#[test]
fn a_lost_slot_is_an_alarm_and_a_new_generation_the_way_out() {
    let db = Followed::new(
        postgres(),
        "create table t (id int primary key); insert into t values (1), (2)",
    );
    let world = world();
    apply(&world, &db.connection("tables: [t]"));
    events(&world, 2);
    world.apply(&[STREAM]);
    eventually("the slot to be free", || {
        match db.slots("active").as_str() {
            "f" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    db.slots("pg_drop_replication_slot(slot_name)");
    db.run("delete from t where id = 2; insert into t values (3)");
    apply(&world, &db.connection("tables: [t]"));
    let why = stopped(&world).error.expect("it says why");
    assert_eq!(
        (why.class(), why.code()),
        (Class::Configuration, "postgres.slot-gone")
    );
    assert!(why.message(Language::En).contains("generation"));
    apply(&world, &db.connection("tables: [t], generation: 1"));
    let events = events(&world, 5);
    let text: Vec<_> = events[2..].iter().map(Event::text).collect();
    let expected = [
        r#"{"change":"truncate"}"#,
        r#"{"change":"read","id":1}"#,
        r#"{"change":"read","id":3}"#,
    ];
    assert_eq!(text, expected.map(str::to_owned));
    // Somebody else moved the slot on.
    world.apply(&[STREAM]);
    eventually("the slot to be free", || {
        match db.slots("active").as_str() {
            "f" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    db.run("insert into t values (4)");
    db.slots("pg_replication_slot_advance(slot_name, pg_current_wal_lsn())");
    apply(&world, &db.connection("tables: [t], generation: 1"));
    assert_eq!(
        stopped(&world).error.expect("it says why").code(),
        "postgres.slot-ahead"
    );
}

#[test]
fn a_server_that_cannot_or_that_is_another_one_is_refused() {
    let server = own_postgres();
    let db = Followed::new(&server, "create table t (id int primary key)");
    let world = world();
    apply(&world, &db.connection("tables: [t]"));
    running(&world);
    db.run("insert into t values (1)");
    events(&world, 1);
    // Another server in its place, with all that was there.
    let other = own_postgres();
    let name = other.database("");
    if name != db.database {
        other.run(
            "postgres",
            &format!("alter database {name} rename to {}", db.database),
        );
    }
    other.run(&db.database, "create table t (id int primary key)");
    let moved = db
        .connection("tables: [t]")
        .replace(&format!(":{}", server.port), &format!(":{}", other.port));
    apply(&world, &moved);
    assert_eq!(
        stopped(&world).error.expect("it says why").code(),
        "postgres.other-system"
    );
    other.run("postgres", "alter system set wal_level = replica");
    other.kill();
    other.start();
    let fresh = self::world();
    apply(&fresh, &moved);
    let why = stopped(&fresh).error.expect("it says why");
    assert_eq!(why.code(), "postgres.wal-level");
    assert!(
        why.message(Language::En)
            .contains("ALTER SYSTEM SET wal_level = logical")
    );
    drop((world, fresh));
    drop(db);
    server.kill();
    other.kill();
}

/// From table to table: changes of one database are followed in another, through kills of the node between.
#[test]
fn a_table_is_kept_in_step_with_another_through_kills() {
    let db = Followed::new(
        postgres(),
        "create table patient (id bigint primary key, name text, born date, bio text); \
         insert into patient select i, 'p' || i, date '1950-01-01' + i % 20000, null from generate_series(1, 9000) i",
    );
    let target = postgres().database(
        "create table patient_hl7 (pid bigint primary key, name text, born date, bio text)",
    );
    let mut world = world();
    let write = format!(
        "postgres: {{ address: '127.0.0.1:{}', database: {target}, user: postgres, password: secret, write: {{ table: patient_hl7, key: [pid], change: change, unchanged: unchanged }} }}\n",
        db.server.port
    );
    let connection = db.connection("tables: [patient]");
    let files = [
        (
            "streams/in.yaml",
            "topics: in/#\nformat: json\nschema: { change: text, id: int, name: text, born: text, bio: text, unchanged: json }\n",
        ),
        ("connections/c.yaml", connection.as_str()),
        ("connections/his.yaml", write.as_str()),
        (
            "flows/copy.yaml",
            "from: in\nsteps:\n  - select: change, id as pid, name, born, bio, unchanged\nto:\n  - connection: his\n",
        ),
    ];
    world.apply(&files);
    for round in 0..8_i64 {
        let large = "(select string_agg(md5(random()::text), '') from generate_series(1, 300))";
        db.run(&format!(
            "update patient set name = name || '{round}' where id % 7 = {round} % 7; delete from patient where id % 100 = {round}; \
             insert into patient select 10000 * ({round} + 1) + i, 'n', '2000-02-29', {large} from generate_series(1, 100) i; \
             update patient set id = -id where id = 10000 * ({round} + 1) + 5; update patient set name = 'kept' where id > 9000"
        ));
        rest(u64::try_from(round * 37 % 200).unwrap_or(0));
        world = world.restart();
        world.apply(&files);
    }
    let sum = |database: &str, table: &str, id: &str| {
        postgres().run(database, &format!("select count(*), md5(string_agg(concat_ws('|', {id}, name, born, md5(bio)), ',' order by {id})) from {table}"))
    };
    let wanted = sum(&db.database, "patient", "id");
    eventually("the same table", || {
        match sum(&target, "patient_hl7", "pid") {
            there if there == wanted => Ok(()),
            there => Err(format!(
                "{there}, not {wanted}: {:?} {:?}",
                world.source("c"),
                world.flows.status()
            )),
        }
    });
}
