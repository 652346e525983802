//! What every engine promises, asked of each. A new engine is one more line in [`ENGINES`].

mod cases;
mod change_log;
mod changes;
mod evolve;
mod files;
mod interrupted;
mod lookups;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use busbar_log::{Log, LogOptions, ManualClock, OsDisk};
use busbar_table::{Table, TableSpec, Tables};

const ENGINES: &[&str] = &[r#""hot": {}"#, r#""relational": {}"#, r#""wide": {}"#];

/// The engines that take a table with the rest of this spec. A wide table is nothing without a key.
fn engines(rest: &str) -> impl Iterator<Item = &'static str> {
    let has_key = rest.contains(r#""key": [""#);
    let engines = ENGINES.iter().copied();
    engines.filter(move |engine| has_key || !engine.contains("wide"))
}

/// A table of one engine.
pub struct Bench {
    folder: tempfile::TempDir,
    tables: Tables,
    engine: &'static str,
}

impl Bench {
    /// The table.
    pub fn table(&self) -> Arc<dyn Table> {
        self.tables.table("t").unwrap()
    }

    /// The same table after the process has ended and begun again.
    pub fn restarted(self, rest: &str) -> Bench {
        drop(self.tables);
        let tables = open(self.folder.path(), &format!("{{{}, {rest}}}", self.engine)).unwrap();
        Bench { tables, ..self }
    }

    /// Whether a scan sees the whole table as it was at one moment.
    pub fn sees_one_moment(&self) -> bool {
        true
    }
}

fn open(folder: &Path, spec: &str) -> Result<Tables, busbar_event::Error> {
    let clock = Arc::new(ManualClock::new(0));
    let options = LogOptions::default();
    let disk = Arc::new(OsDisk);
    let log = Log::open(disk, &folder.join("log"), options, Arc::clone(&clock) as _).unwrap();
    let tables = Tables::open(folder, clock)?.with_journals(log)?;
    let spec: TableSpec = serde_json::from_str(spec).unwrap();
    tables.apply(&BTreeMap::from([("t".to_owned(), spec)]))?;
    Ok(tables)
}

/// Run a case on every engine.
pub fn each(rest: &str, case: impl Fn(Bench)) {
    for engine in engines(rest) {
        let folder = tempfile::tempdir().unwrap();
        let tables = open(folder.path(), &format!("{{{engine}, {rest}}}")).unwrap();
        case(Bench {
            folder,
            tables,
            engine,
        });
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(32))]

    #[test]
    fn engines_hold_what_a_map_would(steps in cases::steps()) {
        cases::a_table_holds_what_a_map_would(&steps);
    }
}
