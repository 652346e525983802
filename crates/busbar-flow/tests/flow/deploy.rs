//! Changing what runs while events stream: whatever is saved, nothing is lost, nothing comes twice, and what
//! does not run says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Instant;

use crate::common::{PATIENCE, World, batch, ids, rest};
use busbar_bus::Bus;
use busbar_flow::{FlowState, ReplayFrom};
use busbar_log::sim::Faults;

const IN: (&str, &str) = (
    "streams/in.yaml",
    "topics: in/#\nformat: json\npartitions: 2\nschema: { id: int, v: int, site: text }\n",
);
const OUT: (&str, &str) = (
    "streams/out.yaml",
    "topics: out/#\nformat: json\nschema: { id: int, w: int }\n",
);
const ALL: (&str, &str) = ("tables/all.yaml", "relational: {}\n");
const LAST: (&str, &str) = ("tables/last.yaml", "hot: {}\nkey: [id]\n");

fn reading(id: i64) -> String {
    format!(r#"{{"id":{id},"v":{},"site":"s{}"}}"#, id % 7, id % 3)
}

/// Publishes for as long as it is there.
struct Load {
    stop: Arc<AtomicBool>,
    published: Arc<AtomicI64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Load {
    fn on(world: &World) -> Load {
        let (stop, published) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicI64::new(0)),
        );
        let (bus, handle): (Bus, _) = (world.bus.clone(), world.tokio.handle().clone());
        let (told, counted) = (Arc::clone(&stop), Arc::clone(&published));
        let thread = std::thread::spawn(move || {
            let mut id = 0;
            while !told.load(Ordering::SeqCst) {
                let events: Vec<String> = (id..id + 40).map(reading).collect();
                let topic = format!("in/c{}/b", id / 40 % 5);
                let appended = bus.append(batch(&topic, &events), None);
                // What a full disk refuses is published again.
                match handle.block_on(appended) {
                    Ok(_) => id += 40,
                    Err(_) => rest(2),
                }
                counted.store(id, Ordering::SeqCst);
                rest(1);
            }
        });
        Load {
            stop,
            published,
            thread: Some(thread),
        }
    }

    fn end(mut self) -> i64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        self.published.load(Ordering::SeqCst)
    }
}

/// Every id once, in a log or table that only grows.
fn once(what: &str, mut found: Vec<i64>, wanted: impl Iterator<Item = i64>) {
    found.sort_unstable();
    let wanted: Vec<i64> = wanted.collect();
    let twice: Vec<_> = found
        .windows(2)
        .filter(|p| p[0] == p[1])
        .map(|p| p[0])
        .collect();
    assert!(twice.is_empty(), "{what}: twice {twice:?}");
    let missing: Vec<_> = wanted
        .iter()
        .filter(|id| found.binary_search(id).is_err())
        .collect();
    assert!(missing.is_empty(), "{what}: missing {missing:?}");
    assert_eq!(found.len(), wanted.len(), "{what}");
}

fn version(n: i64) -> String {
    format!(
        "from: in\nsteps:\n  - where: v <> 6\n  - select: id, 100 / v + {n} as w\n\
         to:\n  - stream: out\n  - table: all\n  - table: last\n"
    )
}

fn alive(count: i64) -> impl Iterator<Item = i64> {
    (0..count).filter(|id| ![0, 6].contains(&(id % 7)))
}

#[test]
fn fifty_quick_saves_under_load() {
    let world = World::new(31);
    world.apply(&[IN, OUT, ALL, LAST, ("flows/f.yaml", &version(0))]);
    let load = Load::on(&world);
    for n in 1..=50 {
        rest(10);
        let text = version(n);
        // Every third save says the same in other words.
        let text = match n % 3 {
            0 => format!("# save {n}\r\n{}", version(n - 1).replace('\n', "\r\n")),
            _ => text,
        };
        let applied = world.apply(&[IN, OUT, ALL, LAST, ("flows/f.yaml", &text)]);
        assert_eq!(applied.deployed.len(), usize::from(n % 3 != 0), "{n}");
        assert!(applied.failed.is_empty(), "{applied:?}");
    }
    let count = load.end();
    world.settle("f");
    assert!(count > 1000, "{count}");
    once("out", ids(&world.contents("out")), alive(count));
    once("all", world.table_ints("all", "id"), alive(count));
    once("last", world.table_ints("last", "id"), alive(count));
    let dead = ids(&world.contents(busbar_flow::DEAD_LETTERS));
    once("dead", dead, (0..count).filter(|id| id % 7 == 0));
    assert_eq!(world.flow("f").conservation.difference, 0);
}

#[test]
fn outputs_streams_and_tables_change_under_a_running_flow() {
    let world = World::new(32);
    world.apply(&[IN, OUT, ALL, LAST, ("flows/f.yaml", &version(0))]);
    let load = Load::on(&world);
    rest(40);
    // A column more, in the flow and in the stream it writes.
    let wider = version(0).replace("as w", "as w, site");
    let wide_out = (
        OUT.0,
        "topics: out/#\nformat: json\nschema: { id: int, w: int, site: text }\n",
    );
    world.apply(&[IN, wide_out, ALL, LAST, ("flows/f.yaml", &wider)]);
    rest(40);
    // A column less in what it reads; another order of outputs.
    let narrow_in = (
        IN.0,
        "topics: in/#\nformat: json\npartitions: 3\nschema: { id: int, v: int }\n",
    );
    let other = "from: in\nsteps:\n  - where: v <> 6\n  - select: id, 100 / v as w\n\
                 to:\n  - table: last\n  - table: all\n  - stream: out\n";
    world.apply(&[narrow_in, OUT, ALL, LAST, ("flows/f.yaml", other)]);
    rest(40);
    // A table that a flow writes cannot go before the flow lets go of it.
    let refused = world.try_apply(&[narrow_in, OUT, ALL, ("flows/f.yaml", other)]);
    assert!(refused.is_err());
    // The flow is taken out and put in again.
    world.apply(&[narrow_in, OUT, ALL, LAST]);
    assert!(world.flows.status_of("f").is_none());
    rest(20);
    world.apply(&[narrow_in, OUT, ALL, LAST, ("flows/f.yaml", other)]);
    let count = load.end();
    world.settle("f");
    once("out", ids(&world.contents("out")), alive(count));
    once("all", world.table_ints("all", "id"), alive(count));
    once("last", world.table_ints("last", "id"), alive(count));
}

#[test]
fn a_renamed_flow_goes_on_where_it_was() {
    let mut world = World::new(33);
    world.apply(&[IN, OUT, ALL, LAST, ("flows/f.yaml", &version(0))]);
    let load = Load::on(&world);
    rest(50);
    let renamed = world.apply(&[IN, OUT, ALL, LAST, ("flows/g.yaml", &version(0))]);
    assert_eq!(
        (renamed.removed, renamed.deployed),
        (vec!["f".into()], vec!["g".into()])
    );
    let count = load.end();
    world.settle("g");
    once("out", ids(&world.contents("out")), alive(count));
    once("all", world.table_ints("all", "id"), alive(count));
    // Also while the node is down.
    world = world.restart(true);
    world.apply(&[IN, OUT, ALL, LAST, ("flows/h.yaml", &version(0))]);
    world.settle("h");
    once("out", ids(&world.contents("out")), alive(count));
    once("all", world.table_ints("all", "id"), alive(count));
    // A copy is a flow of its own and begins at the beginning.
    world.apply(&[
        IN,
        OUT,
        ALL,
        LAST,
        ("flows/h.yaml", &version(0)),
        ("flows/i.yaml", &version(0)),
    ]);
    world.settle("i");
    assert_eq!(ids(&world.contents("out")).len(), 2 * alive(count).count());
}

#[test]
fn what_is_refused_changes_nothing() {
    let world = World::new(34);
    let table = ("tables/all.yaml", "relational: {}\nkey: [id]\n");
    let flow = "from: in\nsteps:\n  - select: id, v as w\nto:\n  - table: all\n";
    world.apply(&[IN, table, ("flows/f.yaml", flow)]);
    world.publish("in/a/b", &[reading(1)]);
    world.settle("f");
    // The key of a table with rows cannot change; the stream beside it must then not change either.
    let wide = (
        IN.0,
        "topics: [in/#, more/#]\nformat: json\npartitions: 5\nschema: { id: int, v: int, site: text }\n",
    );
    let keyed = ("tables/all.yaml", "relational: {}\nkey: [w]\n");
    let refused = world
        .try_apply(&[wide, keyed, ("flows/f.yaml", flow)])
        .unwrap_err();
    assert!(
        refused[0].starts_with("tables/all.yaml:2:7: "),
        "{refused:?}"
    );
    let stream = world.bus.stream("in").unwrap();
    assert_eq!(
        (stream.partitions().len(), stream.spec().topics.len()),
        (2, 1)
    );
    world.publish("in/a/b", &[reading(2)]);
    world.settle("f");
    let mut rows = world.table_ints("all", "id");
    rows.sort_unstable();
    assert_eq!(rows, [1, 2]);
}

#[test]
fn a_disk_that_takes_nothing_in_the_middle_of_a_change_leaves_a_flow_that_runs() {
    let world = World::new(35);
    world.apply(&[IN, OUT, ALL, LAST, ("flows/f.yaml", &version(0))]);
    let load = Load::on(&world);
    for n in 1..=6 {
        rest(20);
        world.disk.set_faults(Faults {
            write_error: 1_000_000,
            ..Faults::default()
        });
        let text = version(n);
        // Whether the change is taken or refused, something runs.
        let _ = world.try_apply(&[IN, OUT, ALL, LAST, ("flows/f.yaml", &text)]);
        let paused = world.tokio.block_on(world.flows.pause("f"));
        let replayed = world
            .tokio
            .block_on(world.flows.replay("f", ReplayFrom::Earliest));
        assert!(
            paused.is_err() && replayed.is_err(),
            "{paused:?} {replayed:?}"
        );
        world.disk.set_faults(Faults::default());
        let state = world.flow("f").state;
        assert!(
            matches!(state, FlowState::Running | FlowState::Retrying),
            "{n}: {state:?}"
        );
    }
    let count = load.end();
    world.settle("f");
    once("out", ids(&world.contents("out")), alive(count));
    once("all", world.table_ints("all", "id"), alive(count));
}

#[test]
fn a_stream_that_lost_its_tail_to_a_power_cut_is_read_on() {
    let world = World::new(36);
    let memory = (
        "streams/in.yaml",
        "topics: in/#\nformat: json\ndurability: memory\nschema: { id: int, v: int, site: text }\n",
    );
    let flow = "from: in\nsteps:\n  - select: id, v as w\nto:\n  - stream: out\n  - table: all\n";
    let files = [memory, OUT, ALL, ("flows/f.yaml", flow)];
    world.apply(&files);
    for id in 0..200 {
        world.publish("in/a/b", &[reading(id)]);
    }
    world.settle("f");
    let world = world.restart(true);
    world.apply(&files);
    let left = world.bus.stream("in").unwrap().partitions()[0].end();
    assert!(left < 200, "nothing was lost, nothing is shown");
    let news: Vec<String> = (1000..1300).map(reading).collect();
    for events in news.chunks(10) {
        world.publish("in/a/b", events);
    }
    world.settle("f");
    // What is new is there once, although its offsets were given out before.
    let news = |found: Vec<i64>| found.into_iter().filter(|id| *id >= 1000).collect();
    once("out", news(ids(&world.contents("out"))), 1000..1300);
    once("all", news(world.table_ints("all", "id")), 1000..1300);
}

#[test]
fn a_table_whose_file_is_taken_away_stops_and_holds_nobody_else_up() {
    let world = World::new(37);
    let flow = "from: in\nsteps:\n  - select: id, v as w\nto:\n  - table: all\n  - stream: out\n";
    world.apply(&[IN, OUT, ALL, ("flows/f.yaml", flow)]);
    let publish = |ids: std::ops::Range<i64>| {
        world.publish("in/a/b", &ids.map(reading).collect::<Vec<_>>());
    };
    publish(0..10);
    world.settle("f");
    for ending in ["db", "db-wal", "db-shm"] {
        let _ = std::fs::remove_file(world.folder.path().join(format!("all.{ending}")));
    }
    publish(10..20);
    let until = Instant::now() + PATIENCE;
    while world.flow("f").state != FlowState::Stopped || world.contents("out").len() < 20 {
        assert!(Instant::now() < until, "{:?}", world.flow("f"));
        rest(5);
    }
    let status = world.flow("f");
    assert_eq!(status.error.unwrap().code(), "table.file-gone");
    assert_eq!(status.conservation.difference, 0);
    let table = status.nodes.iter().find(|node| node.id == "to:0").unwrap();
    assert!(table.lag > 0, "{table:?}");
    // Somebody has looked at it: the table begins anew, the stream goes on.
    world.tokio.block_on(world.flows.resume("f")).unwrap();
    publish(20..30);
    world.settle("f");
    once("out", ids(&world.contents("out")), 0..30);
    once("all", world.table_ints("all", "id"), 10..30);
}
