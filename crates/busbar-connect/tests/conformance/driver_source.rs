//! What the sources of `jdbc` and `odbc` do beside what all sources do, on each engine.

use std::sync::Arc;

use arrow::array::{ArrayRef, TimestampMicrosecondArray};
use busbar_connector::{Polled, Position, Resume, Source};
use busbar_event::Class;
use serde_json::Value;

use crate::driver_engine::{ENGINES, Engine, payloads};
use crate::postgres_sink::{ints, rows, texts};
use crate::world::{PATIENCE, spec};

/// A source of a test, and how far it was committed.
struct Reading<'a> {
    engine: &'a Engine,
    text: String,
    source: Box<dyn Source>,
    resume: Resume,
}

impl<'a> Reading<'a> {
    fn begin(engine: &'a Engine, what: &str) -> Reading<'a> {
        let text = engine.connection(what);
        let resume = Resume::default();
        Reading {
            source: open(engine, &text, &resume).unwrap_or_else(|why| panic!("{why}: {text}")),
            engine,
            text,
            resume,
        }
    }

    /// The process dies, and goes on where it was committed.
    fn restart(&mut self) {
        self.source = open(self.engine, &self.text, &self.resume).expect("it opens");
    }

    /// What comes until nothing comes for now, or some batches of it.
    fn read(&mut self, batches: usize) -> Vec<Value> {
        let mut all = Vec::new();
        for _ in 0..batches {
            let polled = self
                .engine
                .runtime
                .block_on(async { tokio::time::timeout(PATIENCE, self.source.poll()).await });
            let polling = match polled.expect("the database answers").expect("it reads") {
                Polled::Batch(polling) => polling,
                _ => break,
            };
            let Position::End(position) = polling.position else {
                panic!("{:?}", polling.position);
            };
            let part = polling.part.to_string();
            let before = self.resume.positions.insert(part.clone(), position);
            assert!(before.is_none_or(|before| before < position));
            self.resume.notes.insert(part, polling.note);
            let rows = payloads(&polling.batch);
            all.extend(
                rows.iter()
                    .map(|row| serde_json::from_slice::<Value>(row).expect("JSON")),
            );
        }
        all
    }

    /// What comes until a row is there, whatever looks it takes.
    fn until(&mut self, done: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let began = std::time::Instant::now();
        let mut all = Vec::new();
        while !done(&all) {
            assert!(began.elapsed() < PATIENCE, "{all:?}");
            all.extend(self.read(usize::MAX));
            crate::world::rest(20);
        }
        all
    }
}

fn open(
    engine: &Engine,
    text: &str,
    resume: &Resume,
) -> Result<Box<dyn Source>, busbar_event::Error> {
    engine.runtime.block_on(async {
        let context = engine.source_context(resume.clone());
        engine.connector.source(&spec(text), context).await
    })
}

/// The number in a column, whatever letters its name has.
fn number(row: &Value, column: &str) -> i64 {
    let row = row.as_object().expect("an object");
    let found = row
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(column));
    found
        .and_then(|(_, value)| value.as_i64())
        .unwrap_or_else(|| panic!("{row:?}"))
}

fn ids(rows: &[Value]) -> Vec<i64> {
    rows.iter().map(|row| number(row, "id")).collect()
}

fn changes(rows: &[Value]) -> Vec<&str> {
    rows.iter()
        .map(|row| row["change"].as_str().expect("a change"))
        .collect()
}

/// Adds rows, each with its version.
fn load(engine: &Engine, table: &str, position: u64, all: &[(i64, i64)]) {
    let (id, version): (Vec<_>, Vec<_>) = all.iter().copied().unzip();
    let notes = vec!["雨"; all.len()];
    let delivery = rows(
        position,
        vec![
            ("id", ints(&id)),
            ("ver", ints(&version)),
            ("note", texts(&notes)),
        ],
    );
    let written = engine.write(&format!("table: {table}"), &delivery);
    assert_eq!(
        written.unwrap_or_else(|why| panic!("{}: {why}", engine.name)),
        [0; 0]
    );
}

fn versioned(engine: &Engine) -> String {
    let table = engine.table();
    engine.run(&format!(
        "create table {table} (id bigint not null primary key, ver bigint, note varchar(20))"
    ));
    table
}

#[test]
fn no_row_is_skipped_where_many_have_one_version_on_each_engine() {
    for name in ENGINES {
        let engine = Engine::start(name);
        let table = versioned(&engine);
        let poll = format!(
            "poll: {{ tables: [{{ table: {table}, version: ver }}], every: 100ms, overlap: 3 }}"
        );
        let mut reading = Reading::begin(&engine, &poll);
        assert!(reading.read(10).is_empty(), "{name}");
        // A page ends in the middle of a version.
        let all: Vec<_> = (0..20_000).map(|id| (id, 10 + id / 9_000)).collect();
        load(&engine, &table, 1, &all);
        let there = reading.until(|rows| rows.len() >= 20_000);
        assert_eq!(ids(&there), (0..20_000).collect::<Vec<_>>(), "{name}");
        assert!(
            changes(&there).iter().all(|change| *change == "upsert"),
            "{name}"
        );
        // What is committed late, within the overlap and behind it.
        load(&engine, &table, 2, &[(30_000, 10), (30_001, 8)]);
        load(&engine, &table, 3, &[(30_002, 12)]);
        let late = reading.until(|rows| ids(rows).contains(&30_002));
        assert_eq!(ids(&late), [30_000, 30_002], "{name}");
        // Goes on where it was, with the rows of the overlap.
        reading.restart();
        load(&engine, &table, 4, &[(30_003, 16)]);
        let mut after = ids(&reading.until(|rows| ids(rows).contains(&30_003)));
        after.sort_unstable();
        let expected = (0..20_000).chain([30_000, 30_002, 30_003]);
        assert!(
            after.iter().copied().eq(expected),
            "{name}: {} rows",
            after.len()
        );
        load(&engine, &table, 5, &[(30_004, 17)]);
        let mut last = Vec::new();
        while !last.contains(&30_004) {
            last.extend(ids(&reading.read(usize::MAX)));
        }
        assert_eq!(last, [30_004], "{name}");
    }
}

#[test]
fn what_is_in_a_table_comes_first_and_goes_on_behind_its_last_page_on_each_engine() {
    for name in ENGINES {
        let engine = Engine::start(name);
        let table = versioned(&engine);
        let all: Vec<_> = (0..20_000).map(|id| (id, id % 5)).collect();
        load(&engine, &table, 1, &all);
        let poll = format!(
            "poll: {{ tables: [{{ table: {table}, version: ver }}], every: 100ms, overlap: 0 }}"
        );
        let mut reading = Reading::begin(&engine, &poll);
        // Where it begins, and a page.
        let mut there = reading.read(2);
        assert!(!there.is_empty() && there.len() < 20_000, "{name}");
        reading.restart();
        // Changed while the table is being read.
        engine.run(&format!(
            "update {table} set ver = 100 where id in (1, 15000)"
        ));
        while there.len() < 20_000 {
            there.extend(reading.read(1));
        }
        assert_eq!(
            ids(&there[..20_000]),
            (0..20_000).collect::<Vec<_>>(),
            "{name}"
        );
        assert!(
            changes(&there[..20_000])
                .iter()
                .all(|change| *change == "read"),
            "{name}"
        );
        let mut after = there.split_off(20_000);
        after.extend(reading.until(|rows| {
            let found = ids(rows);
            found.contains(&1) && found.contains(&15_000)
        }));
        // With those that had the highest version before.
        assert!(ids(&after).ends_with(&[1, 15_000]), "{name}");
        assert!(after.iter().all(|row| number(row, "ver") >= 4), "{name}");
    }
}

#[test]
fn columns_that_change_between_two_pages_are_found_by_their_names_on_each_engine() {
    for name in ENGINES {
        let engine = Engine::start(name);
        let table = engine.table();
        // Without the first column the others stand elsewhere.
        engine.run(&format!(
            "create table {table} (note varchar(20), id bigint not null primary key, ver bigint)"
        ));
        let all: Vec<_> = (0..20_000).map(|id| (id, 100_000 + id)).collect();
        load(&engine, &table, 1, &all);
        let poll = format!(
            "poll: {{ tables: [{{ table: {table}, version: ver }}], every: 100ms, overlap: 0 }}"
        );
        let mut reading = Reading::begin(&engine, &poll);
        let mut there = reading.read(2);
        assert!(!there.is_empty() && there.len() < 20_000, "{name}");
        engine.run(&format!("alter table {table} drop column note"));
        let rest = 20_000 - there.len();
        there.extend(reading.until(|rows| rows.len() >= rest));
        // Behind them come those again that had the highest version.
        there.truncate(20_000);
        assert_eq!(ids(&there), (0..20_000).collect::<Vec<_>>(), "{name}");
        let versions: Vec<_> = there.iter().map(|row| number(row, "ver")).collect();
        assert_eq!(versions, (100_000..120_000).collect::<Vec<_>>(), "{name}");
        let last = there.last().and_then(Value::as_object).expect("a row");
        assert_eq!(last.len(), 3, "{name}: {last:?}");
    }
}

#[test]
fn times_are_versions_on_each_engine() {
    for name in ENGINES {
        let engine = Engine::start(name);
        let table = engine.table();
        let time = if engine.database == "mariadb" {
            "datetime(6)"
        } else {
            "timestamp"
        };
        engine.run(&format!(
            "create table {table} (id bigint not null primary key, seen {time})"
        ));
        let add = |position, id: i64, minutes: i64| {
            let micros = 1_715_000_000_000_001 + minutes * 60_000_000;
            let seen: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![micros]));
            let delivery = rows(position, vec![("id", ints(&[id])), ("seen", seen)]);
            engine
                .write(&format!("table: {table}"), &delivery)
                .expect(name);
        };
        let poll = format!(
            "poll: {{ tables: [{{ table: {table}, version: seen }}], every: 100ms, overlap: 10m, snapshot: false }}"
        );
        add(1, 1, 0);
        let mut reading = Reading::begin(&engine, &poll);
        // What is there already comes as far as it is in the overlap.
        assert_eq!(ids(&reading.until(|rows| !rows.is_empty())), [1], "{name}");
        add(2, 2, 5);
        assert_eq!(ids(&reading.until(|rows| !rows.is_empty())), [2], "{name}");
        add(3, 3, -4);
        assert_eq!(ids(&reading.until(|rows| !rows.is_empty())), [3], "{name}");
        add(4, 4, -6);
        add(5, 5, 6);
        assert_eq!(ids(&reading.until(|rows| !rows.is_empty())), [5], "{name}");
    }
}

#[test]
fn a_statement_goes_on_behind_its_last_row_on_each_engine() {
    for name in ENGINES {
        let engine = Engine::start(name);
        let table = versioned(&engine);
        let all: Vec<_> = (1..=20_000).map(|id| (id, 0)).collect();
        load(&engine, &table, 1, &all);
        let query = format!(
            "query: {{ statement: 'select id, note from {table} where id > ? order by id', position: id, start: '10', every: 100ms }}"
        );
        let mut reading = Reading::begin(&engine, &query);
        let mut there = reading.read(1);
        assert!(there.len() < 15_000, "{name}: {}", there.len());
        reading.restart();
        let ended = there.len();
        while there.len() <= 19_990 {
            there.extend(reading.read(usize::MAX));
        }
        // The row at which the run was ended comes again: others may have its value.
        let mut there = ids(&there);
        assert_eq!(there.remove(ended), there[ended - 1], "{name}");
        assert_eq!(there, (11..=20_000).collect::<Vec<_>>(), "{name}");
        load(&engine, &table, 2, &[(20_001, 0)]);
        assert_eq!(
            ids(&reading.until(|rows| !rows.is_empty())),
            [20_001],
            "{name}"
        );
    }
}

#[test]
fn what_is_wrong_is_said() {
    let engine = Engine::start("h2");
    let table = versioned(&engine);
    engine.run(&format!("create table {table}k (id real, ver varchar(5))"));
    for (what, code, part) in [
        (
            "poll: { tables: [{ table: no_such, version: v }] }",
            "driver.no-table",
            "no_such",
        ),
        (
            "poll: { tables: [{ table: T, version: v }] }",
            "driver.poll-column",
            "it has ID",
        ),
        (
            "poll: { tables: [{ table: T, version: note }] }",
            "driver.version-type",
            "NOTE",
        ),
        (
            "poll: { tables: [{ table: Tk, version: id }] }",
            "driver.version-type",
            "ID",
        ),
        (
            "poll: { tables: [{ table: T, version: ver }], overlap: 5m }",
            "driver.query-overlap",
            "VER",
        ),
        ("query: { statement: 'selec 1' }", "driver.refused", "selec"),
        (
            "query: { statement: 'select id from no_such' }",
            "driver.refused",
            "NO_SUCH",
        ),
        // No value is too large, and the row is.
        (
            "query: { statement: 'select repeat(1, 9000000) as a, repeat(1, 9000000) as b, repeat(1, 9000000) as c, repeat(1, 9000000) as d, repeat(1, 9000000) as e' }",
            "driver.value-large",
            "a row, at E",
        ),
        (
            "query: { statement: 'select 1 as a where ? < 5', position: b, start: '1' }",
            "driver.query-column",
            "it has A",
        ),
        (
            "query: { statement: 'select cast(null as int) as b where ? < 5', position: b, start: '1' }",
            "driver.query-null",
            "B",
        ),
    ] {
        let text = engine.connection(&what.replace("table: T", &format!("table: {table}")));
        let failed = match open(&engine, &text, &Resume::default()) {
            Err(why) => why,
            Ok(mut source) => engine.runtime.block_on(source.poll()).expect_err(what),
        };
        assert_eq!(
            (failed.class(), failed.code()),
            (Class::Configuration, code),
            "{failed}"
        );
        let said = failed.message(busbar_event::Language::En);
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn tables_are_shown_and_read_in_the_order_of_their_key_on_each_engine() {
    for name in ENGINES {
        let engine = Engine::start(name);
        let table = engine.table();
        engine.run(&format!(
            "create table {table} (code varchar(20) not null, num integer not null, note varchar(20), primary key (code, num))"
        ));
        let codes = ["b", "B", "a", "ä", "Z", "a"];
        let delivery = rows(
            1,
            vec![
                ("code", texts(&codes)),
                ("num", ints(&[1, 1, 10, 1, 1, 9])),
                ("note", texts(&["x"; 6])),
            ],
        );
        let refused = engine
            .write(&format!("table: {table}"), &delivery)
            .expect(name);
        let text = engine.connection(&format!("write: {{ table: {table} }}"));
        let survey = engine.runtime.block_on(async {
            let folder: std::path::PathBuf = engine.folder.path().into();
            engine
                .connector
                .survey(&spec(&text), folder.into(), true)
                .await
        });
        let survey = survey.expect(name);
        let mut tables = survey.tables.iter();
        let found = tables
            .find(|found| found.name.eq_ignore_ascii_case(&table))
            .expect(name);
        let columns: Vec<_> = found
            .columns
            .iter()
            .map(|column| (column.name.to_lowercase(), column.key))
            .collect();
        let wanted = [("code", true), ("num", true), ("note", false)];
        assert_eq!(
            columns,
            wanted.map(|(name, key)| (name.to_owned(), key)),
            "{name}"
        );
        let read = busbar_connector::TableRead {
            schema: found.schema.clone(),
            table: found.name.clone(),
            columns: ["code", "num", "note"]
                .map(|name| busbar_connector::ReadColumn {
                    name: name.into(),
                    bytes: false,
                })
                .into(),
            key: vec![
                busbar_connector::KeyOrder::Text,
                busbar_connector::KeyOrder::Number,
            ],
        };
        let there = engine.runtime.block_on(async {
            let folder: std::path::PathBuf = engine.folder.path().into();
            let spec = spec(&text);
            let mut rows = engine
                .connector
                .read_table(&spec, folder.into(), read)
                .await
                .expect(name);
            let mut all = Vec::new();
            loop {
                let some = rows.next().await.expect(name);
                if some.is_empty() {
                    return all;
                }
                all.extend(
                    some.into_iter()
                        .map(|row| row.into_iter().flatten().collect::<Vec<_>>().join("|")),
                );
            }
        });
        let mut wanted = vec!["B|1|x", "Z|1|x", "a|9|x", "a|10|x", "b|1|x", "ä|1|x"];
        // To MariaDB some of these keys are the same.
        let gone: Vec<_> = refused
            .iter()
            .map(|row| format!("{}|", codes[*row]))
            .collect();
        wanted.retain(|row| !gone.iter().any(|gone| row.starts_with(gone.as_str())));
        assert_eq!(there, wanted, "{name}");
    }
}

/// A statement that is run once begins anew where it was interrupted, and is not run again once it has come to its end.
#[test]
fn a_statement_that_is_run_once_ends() {
    for name in ["h2", "sqlite-odbc"] {
        let engine = Engine::start(name);
        let table = versioned(&engine);
        let query = format!("query: {{ statement: 'select * from {table}', once: true }}");
        // That there is nothing is an end, too.
        let mut empty = Reading::begin(&engine, &query);
        assert!(empty.read(usize::MAX).is_empty(), "{name}");
        let all: Vec<_> = (0..20_000).map(|id| (id, id)).collect();
        load(&engine, &table, 1, &all);
        empty.restart();
        assert!(empty.read(usize::MAX).is_empty(), "{name}");
        let mut reading = Reading::begin(&engine, &query);
        assert!(reading.read(1).len() < all.len(), "{name}");
        reading.restart();
        assert_eq!(reading.read(usize::MAX).len(), all.len(), "{name}");
        load(&engine, &table, 2, &[(20_000, 0)]);
        assert!(reading.read(usize::MAX).is_empty(), "{name}");
        reading.restart();
        assert!(reading.read(usize::MAX).is_empty(), "{name}");
    }
}
