//! Wide tables kept in a real HBase: `make test-servers`.

#[path = "../../../busbar-table/tests/wide/cases.rs"]
mod cases;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use busbar_connector::{Databases, Survey};
use busbar_event::{Class, Error};
use busbar_log::{Clock as _, ManualClock, SystemClock};
use busbar_table::{ProducerPosition, Table as _, Tables, Wide};
use cases::{PAIRS, rows, specs, versions, wide_cases};

use crate::servers::{Cut, hbase};
use crate::world::{rest, spec};

/// Whether an HBase answers behind this port.
pub fn answers(port: u16) -> Result<String, String> {
    let survey = survey(port, false).map_err(|error| error.to_string())?;
    Ok(survey.server)
}

fn survey(port: u16, tables: bool) -> Result<Survey, Error> {
    let registry = busbar_connect::registry();
    let spec = spec(&format!("hbase: {{ address: '127.0.0.1:{port}' }}\n"));
    let connector = registry.get(&spec.kind).expect("registered");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(connector.survey(&spec, Path::new("/").into(), tables))
}

/// A table of its own in the HBase of all tests.
struct Bench {
    tables: Tables,
    databases: Databases,
    clock: Arc<ManualClock>,
    /// The time at which it began, in microseconds since 1970: HBase itself looks at the time of cells.
    start: i64,
    name: String,
    port: u16,
}

static TABLES: AtomicU32 = AtomicU32::new(0);

impl Bench {
    fn new(spec: &str) -> Bench {
        Bench::behind(hbase().port, spec)
    }

    fn behind(port: u16, spec: &str) -> Bench {
        let start = SystemClock.now_micros() / 1_000 * 1_000;
        let clock = Arc::new(ManualClock::new(start));
        let name = format!("t{}", TABLES.fetch_add(1, Ordering::Relaxed));
        let (tables, databases) = Self::open(port, &name, &clock, spec);
        Bench {
            tables,
            databases,
            clock,
            start,
            name,
            port,
        }
    }

    fn open(port: u16, name: &str, clock: &Arc<ManualClock>, spec: &str) -> (Tables, Databases) {
        let registry = busbar_connect::registry();
        let databases = Databases::new(registry, Path::new("/").into(), Arc::new(SystemClock));
        let databases = databases.expect("a thread");
        let connection = crate::world::spec(&format!(
            "hbase: {{ address: '127.0.0.1:{port}', timeout: 60s }}\n"
        ));
        databases.apply([(&"there".to_owned(), &connection)]);
        // No file is opened.
        let tables = Tables::open(Path::new("/nowhere"), Arc::clone(clock) as _).expect("tables");
        let tables = tables.with_databases(Arc::new(databases.clone()));
        let there = elsewhere(spec, name);
        tables.apply(&specs(&there)).expect("a table");
        (tables, databases)
    }

    fn table(&self) -> Arc<Wide> {
        self.tables.wide("t").expect("a table")
    }

    fn apply(&self, spec: &str) -> Result<(), Error> {
        self.tables.apply(&specs(&elsewhere(spec, &self.name)))
    }

    fn restarted(self, spec: &str) -> Bench {
        drop(self.tables);
        self.databases.stop();
        let (tables, databases) = Self::open(self.port, &self.name, &self.clock, spec);
        Bench {
            tables,
            databases,
            ..self
        }
    }
}

/// The same file, with the cells in HBase.
fn elsewhere(spec: &str, name: &str) -> String {
    let mut spec: serde_json::Value = serde_json::from_str(spec).expect("a file");
    spec["wide"]["connection"] = "there".into();
    spec["wide"]["table"] = name.into();
    spec.to_string()
}

macro_rules! test {
    ($name:ident) => {
        #[test]
        #[ignore = "make test-servers"]
        fn $name() {
            cases::$name();
        }
    };
}
wide_cases!(test);

/// Connections that break off at any moment, and nodes that begin anew: in the end each row has each of its versions once.
#[test]
#[ignore = "make test-servers"]
fn cut_connections_lose_and_repeat_nothing() {
    const WRITES: u64 = 40;
    let cut = Arc::new(Cut::before(hbase().port));
    let mut bench = Bench::behind(cut.port, PAIRS);
    let first = rows(&[("k0", Some(0))]);
    bench.table().evolve(&first.schema()).expect("columns");
    let names: Vec<String> = (0..300).map(|n| format!("k{n}")).collect();
    let batch = |at: u64| {
        let value = Some(at as i64);
        let pairs: Vec<_> = names.iter().map(|name| (name.as_str(), value)).collect();
        rows(&pairs)
    };
    let is_over = Arc::new(AtomicBool::new(false));
    let cutting = std::thread::spawn({
        let (cut, is_over) = (Arc::clone(&cut), Arc::clone(&is_over));
        move || {
            let mut cuts = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                // How far a write comes is another thing each time.
                rest(3 + cuts * 7 % 61);
                cut.cut();
                cut.join();
                cuts += 1;
            }
            cuts
        }
    });
    let mut failures = 0_u64;
    for at in 1..=WRITES {
        let position = ProducerPosition::new("flow:f/0", at);
        while let Err(error) = bench.table().apply(&batch(at), Some(&position)) {
            assert_eq!(error.class(), Class::Transient, "{error:?}");
            failures += 1;
            if failures.is_multiple_of(3) {
                bench = bench.restarted(PAIRS);
            }
        }
    }
    is_over.store(true, Ordering::Relaxed);
    let cuts = cutting.join().expect("it ends");
    assert!(cuts > 0 && failures > 0, "{cuts} cuts, {failures} failures");
    let bench = Bench {
        port: hbase().port,
        ..bench
    };
    let bench = bench.restarted(PAIRS);
    let table = bench.table();
    assert_eq!(table.position("flow:f/0").expect("known"), Some(WRITES));
    let last: Vec<i64> = (0..5).map(|back| (WRITES - back) as i64).collect();
    for name in &names {
        assert_eq!(versions(&table, name).as_ref(), Some(&last), "{name}");
    }
    assert_eq!(table.rows().expect("counted"), 300);
}

#[test]
#[ignore = "make test-servers"]
fn hbase_says_which_tables_and_families_it_has() {
    let bench = Bench::new(cases::RIGS);
    let put = |value| {
        let cells = [("temp", value)];
        bench.table().change(&[cases::put("a", 1, &cells)])
    };
    put(busbar_table::wide::CellValue::Int(1)).expect("written");
    let found = survey(hbase().port, true).expect("it answers");
    let table = found.tables.iter().find(|table| table.name == bench.name);
    let table = table.expect("the table");
    assert_eq!(table.schema, "default");
    let families: Vec<_> = table
        .columns
        .iter()
        .map(|family| format!("{}: {}", family.name, family.kind))
        .collect();
    assert_eq!(
        families,
        ["m: VERSIONS => 3", "note: VERSIONS => 1, TTL => 3600"]
    );
    // Other settings are followed, and what is missing is told where nothing may be made.
    let more = cases::RIGS.replace("\"versions\": 3", "\"versions\": 4");
    bench.apply(&more).expect("another file");
    assert_eq!(bench.table().rows().expect("counted"), 1);
    let found = survey(hbase().port, true).expect("it answers");
    let table = found.tables.iter().find(|table| table.name == bench.name);
    assert_eq!(table.expect("the table").columns[0].kind, "VERSIONS => 4");
    let fixed = cases::RIGS.replace("\"families\"", "\"create\": false, \"families\"");
    bench.apply(&fixed).expect("another file");
    let refused = bench.table().rows().expect_err("it has 4 versions");
    assert_eq!(
        (refused.code(), refused.class()),
        ("hbase.lacks", Class::Configuration)
    );
    let statement = format!("alter '{}', {{NAME => 'm', VERSIONS => 3}}", bench.name);
    assert!(
        refused.args().iter().any(|(_, value)| *value == statement),
        "{refused:?}"
    );
}
