//! Rows of a table in memory that move to another table.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use busbar_log::{Clock, Log, LogOptions, ManualClock, OsDisk, SystemClock};
use busbar_table::{Scan, Table, TableSpec, Tables};

const SECOND: i64 = 1_000_000;

const MOVES: &str = r#"{"ttl": "10s", "moves_to": "r"}"#;

/// The folder of the process that is killed.
const CHILD_FOLDER: &str = "BUSBAR_TEST_MOVES_FOLDER";

fn specs(hot: &str) -> BTreeMap<String, TableSpec> {
    let spec = |text: &str| serde_json::from_str::<TableSpec>(text).unwrap();
    BTreeMap::from([
        (
            "h".to_owned(),
            spec(&format!(r#"{{"hot": {hot}, "key": ["k"]}}"#)),
        ),
        ("r".to_owned(), spec(r#"{"relational": {}, "key": ["k"]}"#)),
    ])
}

/// A node's tables before it has applied a project.
fn unopened(folder: &Path, clock: Arc<dyn Clock>) -> Tables {
    let disk = Arc::new(OsDisk);
    let log = Log::open(disk, folder, LogOptions::default(), Arc::clone(&clock)).unwrap();
    let tables = Tables::open(folder.join("tables"), clock).unwrap();
    tables.with_journals(log).unwrap()
}

fn open(
    folder: &Path,
    clock: Arc<dyn Clock>,
    hot: &str,
) -> (Tables, Arc<dyn Table>, Arc<dyn Table>) {
    let tables = unopened(folder, clock);
    tables.apply(&specs(hot)).unwrap();
    let (h, r) = (tables.table("h").unwrap(), tables.table("r").unwrap());
    h.evolve(rows(&[]).schema_ref()).unwrap();
    (tables, h, r)
}

fn rows(pairs: &[(&str, i64)]) -> RecordBatch {
    let keys = StringArray::from_iter_values(pairs.iter().map(|pair| pair.0));
    let values = Int64Array::from_iter_values(pairs.iter().map(|pair| pair.1));
    RecordBatch::try_from_iter([("k", Arc::new(keys) as ArrayRef), ("v", Arc::new(values))])
        .unwrap()
}

fn keys(table: &Arc<dyn Table>) -> Vec<String> {
    let mut found = Vec::new();
    for batch in table.scan(&Scan::default()).unwrap() {
        let batch = batch.unwrap();
        if let Some(keys) = batch.column_by_name("k") {
            found.extend(keys.as_string::<i32>().iter().flatten().map(str::to_owned));
        }
    }
    found.sort();
    found
}

/// Keys and values, in order.
fn all(table: &Arc<dyn Table>) -> Vec<(String, i64)> {
    let mut found = Vec::new();
    for batch in table.scan(&Scan::default()).unwrap() {
        let batch = batch.unwrap();
        let keys = batch.column_by_name("k").unwrap().as_string::<i32>();
        let values = batch.column_by_name("v").unwrap();
        let values = values.as_primitive::<Int64Type>().values();
        let keys = keys.iter().flatten().map(str::to_owned);
        found.extend(keys.zip(values.iter().copied()));
    }
    found.sort();
    found
}

fn pairs(expected: &[(&str, i64)]) -> Vec<(String, i64)> {
    let owned = expected
        .iter()
        .map(|(key, value)| ((*key).to_owned(), *value));
    owned.collect()
}

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(300);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        // No async worker is blocked.
        #[expect(clippy::disallowed_methods)]
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn rows_move_when_their_time_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(0));
    let (_tables, h, r) = open(folder.path(), Arc::clone(&clock) as _, MOVES);
    h.apply(&rows(&[("a", 1), ("b", 1)]), None).unwrap();
    clock.set(6 * SECOND);
    h.apply(&rows(&[("a", 2)]), None).unwrap();
    clock.set(11 * SECOND);
    wait("b moves", || keys(&h) == ["a"]);
    assert_eq!(all(&r), pairs(&[("b", 1)]));
    let stats = h.stats().unwrap();
    assert_eq!((stats.moved, stats.expired, stats.move_lag_us), (1, 0, 0));
    clock.set(16 * SECOND);
    wait("a moves", || keys(&h).is_empty());
    assert_eq!(all(&r), pairs(&[("a", 2), ("b", 1)]));
}

/// What has moved is not there again after a restart, and is not moved again: it may have changed in the other table since.
#[test]
fn rows_that_have_moved_stay_in_the_other_table() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(0));
    {
        let (_tables, h, r) = open(folder.path(), Arc::clone(&clock) as _, MOVES);
        h.apply(&rows(&[("a", 1), ("b", 1)]), None).unwrap();
        clock.set(11 * SECOND);
        wait("both move", || keys(&h).is_empty());
        r.apply(&rows(&[("a", 2)]), None).unwrap();
    }
    let (_tables, h, r) = open(folder.path(), Arc::clone(&clock) as _, MOVES);
    // It would go with those that are older.
    h.apply(&rows(&[("c", 1)]), None).unwrap();
    clock.set(22 * SECOND);
    wait("c moves", || keys(&h).is_empty());
    assert_eq!(h.stats().unwrap().moved, 1);
    assert_eq!(all(&r), pairs(&[("a", 2), ("b", 1), ("c", 1)]));
}

#[test]
fn a_full_table_makes_room_by_moving() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(0));
    let hot = r#"{"rows_max": 8, "when_full": "evict", "moves_to": "r"}"#;
    let (_tables, h, r) = open(folder.path(), clock, hot);
    for n in 0..100 {
        let key = format!("{n:03}");
        wait("the table has room again", || {
            h.apply(&rows(&[(&key, n)]), None).is_ok()
        });
    }
    wait("rows move", || h.rows().unwrap() < 7);
    let mut all = [keys(&h), keys(&r)].concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 100);
    assert_eq!(h.stats().unwrap().evicted, 0);
}

#[test]
fn rows_that_wait_are_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(0));
    {
        let (_tables, h, _) = open(folder.path(), Arc::clone(&clock) as _, MOVES);
        h.apply(&rows(&[("a", 1)]), None).unwrap();
    }
    clock.set(60 * SECOND);
    let (_tables, h, r) = open(folder.path(), Arc::clone(&clock) as _, MOVES);
    wait("a moves", || keys(&h).is_empty());
    assert_eq!(all(&r), pairs(&[("a", 1)]));
}

#[test]
fn rows_that_the_target_rejects_stay_and_hold_up_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(0));
    let mut specs = specs(MOVES);
    let target = r#"{"relational": {}, "key": ["k"], "columns": [{"name": "k", "type": "text"}, {"name": "v", "type": "json"}]}"#;
    specs.insert("r".to_owned(), serde_json::from_str(target).unwrap());
    let tables = unopened(folder.path(), Arc::clone(&clock) as _);
    tables.apply(&specs).unwrap();
    let (h, r) = (tables.table("h").unwrap(), tables.table("r").unwrap());
    let put = |key: &str, value: &str| {
        let texts = |text: &str| Arc::new(StringArray::from(vec![text])) as ArrayRef;
        let rows = [("k", texts(key)), ("v", texts(value))];
        let rows = RecordBatch::try_from_iter(rows).unwrap();
        h.evolve(rows.schema_ref()).unwrap();
        h.apply(&rows, None).unwrap();
    };
    put("a", "1");
    put("b", "no JSON");
    put("c", "2");
    clock.set(11 * SECOND);
    wait("a and c move", || {
        keys(&h) == ["b"] && h.stats().unwrap().move_rejected == 1
    });
    let stats = h.stats().unwrap();
    assert_eq!((stats.moved, stats.expired, stats.move_lag_us), (2, 0, 0));
    assert_eq!(keys(&r), ["a", "c"]);
    // Written again it is a row as any other.
    put("b", "3");
    assert_eq!(h.stats().unwrap().move_rejected, 0);
    put("d", "no JSON");
    clock.set(22 * SECOND);
    wait("b moves", || {
        keys(&h) == ["d"] && h.stats().unwrap().move_rejected == 1
    });
    assert_eq!(keys(&r), ["a", "b", "c"]);
    // A target that takes it now is tried when tables are applied.
    let other = target.replace("json", "text");
    specs.insert("s".to_owned(), serde_json::from_str(&other).unwrap());
    specs.get_mut("h").unwrap().hot.as_mut().unwrap().moves_to = Some("s".to_owned());
    tables.apply(&specs).unwrap();
    let s = tables.table("s").unwrap();
    wait("d moves", || keys(&h).is_empty());
    assert_eq!(keys(&s), ["d"]);
    specs.get_mut("h").unwrap().hot.as_mut().unwrap().moves_to = Some("r".to_owned());
    tables.apply(&specs).unwrap();
    put("e", "no JSON");
    clock.set(33 * SECOND);
    wait("e is rejected", || h.stats().unwrap().move_rejected == 1);
    // It does not keep the table from moving nothing any more, and then has the time to live of all rows.
    specs.get_mut("h").unwrap().hot.as_mut().unwrap().moves_to = None;
    tables.apply(&specs).unwrap();
    assert!(keys(&h).is_empty());
    assert_eq!(h.stats().unwrap().expired, 1);
}

/// Files of the tables that would drop rows that wait to be moved, with the code of the refusal.
fn droppers() -> Vec<(BTreeMap<String, TableSpec>, &'static str)> {
    let (mut other_key, mut other_columns, mut gone) = (specs(MOVES), specs(MOVES), specs(MOVES));
    for name in ["h", "r"] {
        other_key.get_mut(name).unwrap().key = vec!["v".to_owned()];
    }
    // A table of its own name, since the target's file keeps its key.
    let target = other_key.remove("r").unwrap();
    other_key.insert("r2".to_owned(), target);
    other_key
        .get_mut("h")
        .unwrap()
        .hot
        .as_mut()
        .unwrap()
        .moves_to = Some("r2".to_owned());
    let columns = r#"[{"name": "k", "type": "text"}, {"name": "v", "type": "float"}]"#;
    other_columns.get_mut("h").unwrap().columns = serde_json::from_str(columns).unwrap();
    gone.remove("h");
    vec![
        (specs(r#"{"ttl": "10s"}"#), "table.moves-waiting"),
        (other_key, "table.moves-replaced"),
        (other_columns, "table.moves-replaced"),
        (gone, "table.moves-replaced"),
    ]
}

#[test]
fn what_would_drop_rows_that_wait_is_refused_before_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(0));
    {
        let (tables, h, _) = open(folder.path(), Arc::clone(&clock) as _, MOVES);
        h.apply(&rows(&[("a", 1)]), None).unwrap();
        let file = rusqlite::Connection::open(folder.path().join("tables/r.db")).unwrap();
        file.execute_batch("begin immediate").unwrap();
        clock.set(11 * SECOND);
        for (specs, code) in droppers() {
            assert_eq!(tables.apply(&specs).unwrap_err().code(), code);
        }
        wait("the lag is shown", || {
            h.stats().unwrap().move_lag_us == SECOND as u64
        });
        wait("the failure is shown", || {
            tables.move_failure("h").is_some()
        });
        assert_eq!(keys(&h), ["a"]);
    }
    for (specs, code) in droppers() {
        let tables = unopened(folder.path(), Arc::clone(&clock) as _);
        assert_eq!(tables.apply(&specs).unwrap_err().code(), code);
    }
    let (tables, h, r) = open(folder.path(), Arc::clone(&clock) as _, MOVES);
    wait("a moves", || keys(&h).is_empty());
    assert_eq!(keys(&r), ["a"]);
    // Nothing waits any more.
    tables.apply(&specs(r#"{"ttl": "10s"}"#)).unwrap();
    assert!(tables.move_failure("h").is_none());
}

#[test]
fn a_restart_knows_since_when_rows_were_moved() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(0));
    let expires = r#"{"ttl": "10s"}"#;
    {
        let (tables, h, _) = open(folder.path(), Arc::clone(&clock) as _, expires);
        h.apply(&rows(&[("a", 1)]), None).unwrap();
        clock.set(11 * SECOND);
        tables.apply(&specs(MOVES)).unwrap();
        h.apply(&rows(&[("b", 1)]), None).unwrap();
    }
    clock.set(60 * SECOND);
    {
        let (tables, h, r) = open(folder.path(), Arc::clone(&clock) as _, MOVES);
        wait("b moves", || keys(&h).is_empty());
        assert_eq!(keys(&r), ["b"]);
        h.apply(&rows(&[("c", 1)]), None).unwrap();
        tables.apply(&specs(expires)).unwrap();
        clock.set(90 * SECOND);
        assert!(keys(&h).is_empty());
    }
    // What was over before is neither kept nor a reason to refuse the start.
    let (_tables, h, r) = open(folder.path(), clock, expires);
    assert!(keys(&h).is_empty());
    assert_eq!(keys(&r), ["b"]);
}

#[test]
fn targets_that_cannot_work_are_refused() {
    let code = |hot: &str| {
        let tables = Tables::open("/nowhere", Arc::new(ManualClock::new(0))).unwrap();
        tables.apply(&specs(hot)).unwrap_err().code()
    };
    assert_eq!(code(r#"{"moves_to": "r"}"#), "table.moves-never");
    assert_eq!(
        code(r#"{"ttl": "1s", "moves_to": "x"}"#),
        "table.moves-target"
    );
    assert_eq!(
        code(r#"{"ttl": "1s", "moves_to": "h"}"#),
        "table.moves-target"
    );
    let mut other_key = specs(r#"{"ttl": "1s", "moves_to": "r"}"#);
    other_key.get_mut("r").unwrap().key = vec!["v".to_owned()];
    assert_eq!(
        other_key["h"]
            .check_move("h", &other_key)
            .unwrap_err()
            .code(),
        "table.moves-key"
    );
}

/// Writes until it is killed, when it is started by the test below; otherwise it does nothing.
#[test]
fn child_that_writes() {
    let Ok(folder) = std::env::var(CHILD_FOLDER) else {
        return;
    };
    let (_tables, h, _) = open(
        Path::new(&folder),
        Arc::new(SystemClock),
        r#"{"ttl": "50ms", "moves_to": "r"}"#,
    );
    for n in 0.. {
        let key = format!("{}-{n}", std::process::id());
        h.apply(&rows(&[(&key, n)]), None).unwrap();
        let mut out = std::io::stderr().lock();
        writeln!(out, "wrote {key}").unwrap();
    }
}

#[test]
fn no_acknowledged_row_is_lost_when_the_process_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut written = Vec::new();
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_writes", "--nocapture"])
            .env(CHILD_FOLDER, folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (before, mut held) = (written.len(), None);
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            if let Some(key) = line.unwrap().strip_prefix("wrote ") {
                written.push(key.to_owned());
            }
            // The target can take nothing from here on, so that the process is killed while a move waits.
            if held.is_none() && written.len() > before + 20 + 30 * round {
                let file = rusqlite::Connection::open(folder.path().join("tables/r.db")).unwrap();
                file.busy_timeout(Duration::from_secs(60)).unwrap();
                file.execute_batch("begin immediate").unwrap();
                held = Some((file, Instant::now()));
            }
            if held
                .as_ref()
                .is_some_and(|(_, since)| since.elapsed() > Duration::from_secs(1))
            {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
    }
    let (_tables, h, r) = open(
        folder.path(),
        Arc::new(SystemClock),
        r#"{"ttl": "50ms", "moves_to": "r"}"#,
    );
    // The target is read last: a row that moves meanwhile is in it.
    let mut there = keys(&h);
    there.extend(keys(&r));
    let there: std::collections::HashSet<String> = there.into_iter().collect();
    let lost: Vec<_> = written.iter().filter(|key| !there.contains(*key)).collect();
    assert!(
        lost.is_empty(),
        "{} of {} lost: {lost:?}",
        lost.len(),
        written.len()
    );
    wait("all rows move", || keys(&h).is_empty());
    let moved: std::collections::HashSet<String> = keys(&r).into_iter().collect();
    assert!(written.iter().all(|key| moved.contains(key)));
}
