//! Snapshots that are asked for while changes come, and what is told of them, with PostgreSQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use busbar_connector::SnapshotState;

use crate::mysql_changes::each_version_once;
use crate::postgres_changes::{Followed, STREAM, VERSIONED, apply, events, running, same};
use crate::servers::{DatabaseServer, own_postgres, postgres};
use crate::world::{AtEnd, Event, World, eventually};

fn world() -> World {
    World::new(Arc::new(tempfile::tempdir().expect("a folder")))
}

/// The files of a flow that keeps the table `v` of a source in step with `w` of a database of PostgreSQL.
pub fn kept_in_step<'a>(connection: &'a str, write: &'a str) -> [(&'a str, &'a str); 4] {
    [
        (
            "streams/in.yaml",
            "topics: in/#\nformat: json\nschema: { change: text, id: int, n: int }\n",
        ),
        ("connections/c.yaml", connection),
        ("connections/there.yaml", write),
        (
            "flows/copy.yaml",
            "from: in\nsteps:\n  - where: topic_part(topic, 2) = 'v'\n  - select: change, id, n\nto:\n  - connection: there\n",
        ),
    ]
}

/// The sink of that flow.
pub fn target(server: &DatabaseServer, database: &str) -> String {
    format!(
        "postgres: {{ address: '127.0.0.1:{}', database: {database}, user: postgres, password: secret, write: {{ table: w, key: [id], change: change }} }}\n",
        server.port
    )
}

/// Asks for the snapshot of `v` while `write` changes rows, with rows in the target that are not in the source, through
/// kills, until both are the same. `there` says what is in the source.
pub fn taken_anew(
    mut world: World,
    files: &[(&str, &str)],
    target: &str,
    table: &str,
    write: impl Fn(u64) + Sync,
    there: impl Fn() -> String,
) -> World {
    world.apply(files);
    let read = |world: &World| match world.source("c").snapshots.first() {
        Some(status) if status.state != SnapshotState::Reading => Ok(()),
        _ => Err(format!("{:?}", world.source("c"))),
    };
    eventually("the first snapshot", || read(&world));
    for round in 0..4_u64 {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let end = AtEnd(|| done.store(true, Ordering::SeqCst));
            scope.spawn(|| {
                let mut seed = 100 * round + 1;
                while !done.load(Ordering::SeqCst) {
                    write(seed);
                    seed += 1;
                }
            });
            // Not in between what is being written there: each would wait for the other.
            postgres().run(
                target,
                "begin; lock table w in share row exclusive mode; \
                 insert into w select -i, 7 from generate_series(1, 50) i on conflict do nothing; delete from w where id % 3 = 1; commit",
            );
            world.take_anew("c", table);
            let begun = || {
                let events = world.events("in");
                let anew = events
                    .iter()
                    .filter(|event| event.text().contains("truncate"));
                anew.count() as u64
            };
            eventually("its begin", || match begun() {
                anew if anew > round => Ok(()),
                anew => Err(format!("{anew} {:?}", world.source("c"))),
            });
            if round % 2 == 1 {
                // Wherever it is.
                world = std::mem::replace(&mut world, self::world()).restart();
                world.apply(files);
            }
            eventually("the snapshot", || read(&world));
            drop(end);
        });
        let wanted = there();
        let rows = "select coalesce(string_agg(id || '|' || n, ',' order by id), '') from w";
        eventually("the same rows", || match postgres().run(target, rows) {
            found if found == wanted => Ok(()),
            found => Err(format!(
                "{} and {} bytes {:?} {:?}",
                found.len(),
                wanted.len(),
                world.source("c"),
                world.flows.status()
            )),
        });
    }
    world
}

#[test]
fn a_snapshot_that_is_asked_for_leaves_the_target_as_the_source_is() {
    let db = Followed::new(postgres(), VERSIONED);
    let target_database =
        postgres().database("create table w (id bigint primary key, n bigint not null)");
    let connection = db.connection("tables: [v, w]");
    let write = target(postgres(), &target_database);
    let files = kept_in_step(&connection, &write);
    let world = taken_anew(
        world(),
        &files,
        &target_database,
        "public.v",
        |_| drop(db.run("call change(100)")),
        || db.run("select string_agg(id || '|' || n, ',' order by id) from v"),
    );
    // The other table went on, and its rows did not come again.
    let events = world.events("in");
    let read = |topic: &str| {
        let of = events.iter().filter(|event| event.topic == topic);
        of.filter(|event| event.text().contains("\"read\"")).count()
    };
    assert!(
        read("in/w") <= 9_000 && read("in/v") > 60_000,
        "{}",
        read("in/w")
    );
    let asked = world
        .tokio
        .block_on(world.flows.snapshot("c", "public.other"));
    let refused = asked.expect_err("it is not followed");
    assert_eq!(refused.code(), "connect.not-followed");
    assert!(
        refused.to_string().contains("public.v, public.w"),
        "{refused}"
    );
}

#[test]
fn between_two_snapshots_each_version_comes_once() {
    let db = Followed::new(postgres(), VERSIONED);
    let world = world();
    apply(&world, &db.connection("tables: [v]"));
    let read = |least: usize| {
        eventually("the snapshot", || {
            let begun = world.events("in");
            let anew = begun
                .iter()
                .filter(|event| event.text().contains("truncate"))
                .count();
            match world.snapshot("c", "public.v") {
                Some(status) if status.state == SnapshotState::Equal && anew >= least => Ok(status),
                status => Err(format!("{status:?}")),
            }
        })
    };
    let first = read(0);
    assert_eq!(
        (first.rows, first.expected, first.counted),
        (30_000, Some(30_000), Some(30_000))
    );
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let end = AtEnd(|| done.store(true, Ordering::SeqCst));
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                db.run("call change(100)");
            }
        });
        world.take_anew("c", "public.v");
        read(1);
        drop(end);
    });
    let events = world.events("in");
    let anew = events
        .iter()
        .position(|event| event.text().contains("truncate"));
    each_version_once(&events[anew.expect("it was emptied")..], "v");
}

/// Rows with this key in the stream.
fn with_id(world: &World, topic: &str, id: u64) -> Vec<Event> {
    let events = world.events("in").into_iter();
    let of = events.filter(|event| event.topic == topic && event.json()["id"] == id);
    of.collect()
}

/// A source that goes on reads a chunk before it takes anything of the stream, so that the chunk has the rows that came behind the
/// event that empties the table, and stands in front of it. With more rows than one chunk has, others are read behind it.
#[test]
fn a_table_that_is_emptied_and_filled_before_its_chunk_comes_whole() {
    for (rows, state) in [
        (4, SnapshotState::Uncompared),
        (20_000, SnapshotState::Equal),
    ] {
        let db = Followed::new(
            postgres(),
            "create table t (id bigint primary key, n bigint not null); insert into t values (1, 1), (2, 1)",
        );
        let world = world();
        apply(&world, &db.connection("tables: [t]"));
        events(&world, 2);
        let (disk, folder) = world.kill();
        db.run("truncate t");
        db.run(&format!(
            "insert into t select i, 2 from generate_series(2, {rows}) i"
        ));
        db.run(&format!("update t set n = 3 where id in (2, {rows})"));
        let world = World::open(disk, folder);
        apply(
            &world,
            &db.connection("tables: [t], again: { public.t: 1 }"),
        );
        db.run("insert into t values (0, 9)");
        eventually("the last row", || match with_id(&world, "in/t", 0).len() {
            0 => Err(format!("{:?}", world.source("c"))),
            _ => Ok(()),
        });
        same(&db, &world, "t", "id");
        let events = world.events("in").into_iter();
        let words: Vec<_> = events.map(|event| event.json()["change"].clone()).collect();
        let empties: Vec<_> = (0..words.len())
            .filter(|at| words[*at] == "truncate")
            .collect();
        let [asked, emptied] = empties[..] else {
            panic!("{empties:?}");
        };
        let before = &words[asked + 1..emptied];
        assert!(!before.is_empty() && before.iter().all(|word| word == "read"));
        eventually("its end", || match world.snapshot("c", "public.t") {
            Some(status) if status.state == state => Ok(()),
            status => Err(format!("{status:?}")),
        });
    }
}

/// A replica that does not answer holds a transaction back from everybody but those who read the log.
#[test]
fn a_change_that_others_do_not_see_yet_is_in_a_snapshot_behind_a_kill() {
    let server = own_postgres();
    let db = Followed::new(
        &server,
        "create table t (id bigint primary key, n bigint not null); create table w (like t including all); insert into t values (1, 1)",
    );
    let world = world();
    apply(&world, &db.connection("tables: [t, w]"));
    events(&world, 1);
    let done = AtomicBool::new(false);
    let world = std::thread::scope(|scope| {
        let end = AtEnd(|| {
            done.store(true, Ordering::SeqCst);
            db.run("alter system reset synchronous_standby_names; select pg_reload_conf()");
        });
        db.run("alter system set synchronous_standby_names = 'nobody'; select pg_reload_conf()");
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                db.run("set synchronous_commit = on; update t set n = n + 1 where id = 1");
            }
        });
        eventually("a transaction that waits", || {
            let waiting =
                db.run("select count(*) from pg_stat_activity where wait_event = 'SyncRep'");
            let hidden: i64 = db.run("select n from t").trim().parse().expect("n");
            let last = with_id(&world, "in/t", 1)
                .pop()
                .map(|event| event.json()["n"].as_i64());
            match waiting.trim() == "1" && last.flatten() == Some(hidden + 1) {
                true => Ok(()),
                false => Err(format!("{waiting} {hidden} {last:?}")),
            }
        });
        let comes = |world: &World, id: u64| {
            db.run(&format!(
                "set synchronous_commit = local; insert into w values ({id}, 1)"
            ));
            eventually("a row of the other table", || {
                match with_id(world, "in/w", id).len() {
                    0 => Err(format!("{:?}", world.source("c"))),
                    _ => Ok(()),
                }
            });
        };
        comes(&world, 5);
        let (disk, folder) = world.kill();
        let world = World::open(disk, folder);
        apply(
            &world,
            &db.connection("tables: [t, w], again: { public.t: 1 }"),
        );
        // A chunk is read before the stream.
        comes(&world, 6);
        drop(end);
        world
    });
    same(&db, &world, "t", "id");
    drop(world);
    drop(db);
    server.kill();
}

#[test]
fn a_table_that_is_not_published_any_more_is_an_alarm_until_it_is_read_anew() {
    let db = Followed::new(
        postgres(),
        "create table t (id int primary key); create table u (id int primary key); insert into t values (1), (2)",
    );
    let mut world = world();
    let connection = db.connection("tables: [t, u]");
    apply(&world, &connection);
    events(&world, 2);
    running(&world);
    assert_eq!(world.alarms("c"), Vec::<&str>::new());
    db.run("alter publication busbar_c drop table t; delete from t where id = 1; insert into t values (3)");
    let alarms = |world: &World, wanted: &[&str]| {
        eventually("the alarms", || match world.alarms("c") {
            found if found == wanted => Ok(()),
            found => Err(format!("{found:?}")),
        });
    };
    alarms(
        &world,
        &["postgres.not-published", "connect.changes-missed"],
    );
    let said = world.source("c").alarms[0].message(busbar_event::Language::En);
    assert!(
        said.contains("ALTER PUBLICATION \"busbar_c\" ADD TABLE public.t"),
        "{said}"
    );
    // Published again, but what was missed stays missed, also after a restart.
    db.run("alter publication busbar_c add table t");
    alarms(&world, &["connect.changes-missed"]);
    world = world.restart();
    apply(&world, &connection);
    alarms(&world, &["connect.changes-missed"]);
    world.take_anew("c", "public.t");
    alarms(&world, &[]);
    let text: Vec<_> = events(&world, 5)[2..]
        .iter()
        .map(|event| event.text())
        .collect();
    let expected = [
        r#"{"change":"truncate"}"#,
        r#"{"change":"read","id":2}"#,
        r#"{"change":"read","id":3}"#,
    ];
    assert_eq!(text, expected.map(str::to_owned));
    // While the connection is away, it is found when it comes back.
    world.apply(&[STREAM]);
    db.run("alter publication busbar_c drop table u; insert into u values (7)");
    apply(&world, &connection);
    alarms(&world, &["connect.changes-missed"]);
    assert!(
        world.source("c").alarms[0].to_string().contains("public.u"),
        "{:?}",
        world.source("c")
    );
}
