//! Databases behind drivers: with JDBC three that run within the worker and two servers, with ODBC one that runs within the
//! worker and the same servers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use busbar_connector::{
    Connector, Delivery, Polled, Resume, Sink, SinkContext, Source, SourceContext,
};
use busbar_event::Error;
use busbar_log::SystemClock;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::servers::{mariadb, postgres};
use crate::world::{PATIENCE, spec};

static TABLES: AtomicU32 = AtomicU32::new(0);

/// Puts the drivers into a project's folder.
pub fn copy_drivers(folder: &Path) {
    static JARS: OnceLock<PathBuf> = OnceLock::new();
    let jars = JARS.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/servers");
        let fetched = Command::new(script).arg("drivers").output();
        let fetched = fetched.expect("scripts/servers runs");
        assert!(
            fetched.status.success(),
            "no JDBC drivers here: {fetched:?}"
        );
        String::from_utf8_lossy(&fetched.stdout).trim().into()
    });
    let drivers = folder.join("drivers");
    std::fs::create_dir_all(&drivers).expect("a folder");
    for jar in std::fs::read_dir(jars).expect("the drivers").flatten() {
        let name = jar.file_name().to_string_lossy().into_owned();
        let Some((plain, _)) = name.strip_suffix(".jar").and_then(|n| n.rsplit_once('-')) else {
            continue;
        };
        let copy = drivers.join(format!("{plain}.jar"));
        if !copy.exists() {
            std::fs::copy(jar.path(), copy).expect("copied");
        }
    }
}

/// A database and what it is reached with. Its worker runs until the test ends.
pub struct Engine {
    pub name: &'static str,
    /// The connector.
    pub kind: &'static str,
    /// What it is, by whatever driver.
    pub database: &'static str,
    pub folder: tempfile::TempDir,
    pub runtime: Runtime,
    pub connector: Arc<dyn Connector>,
    /// The options of every connection to it.
    login: String,
    /// The file of a connection that does nothing by itself.
    pub options: String,
    _open: Option<Box<dyn Source>>,
}

/// The rows of a statement, and the source that brought them.
type Answered = (Vec<Vec<u8>>, Box<dyn Source>);

pub const ENGINES: [&str; 8] = [
    "derby",
    "h2",
    "hsqldb",
    "mariadb",
    "mariadb-odbc",
    "postgres",
    "postgres-odbc",
    "sqlite-odbc",
];

impl Engine {
    pub fn start(name: &'static str) -> Engine {
        let folder = tempfile::tempdir().expect("a folder");
        let (kind, database) = match name.strip_suffix("-odbc") {
            Some(database) => ("odbc", database),
            None => ("jdbc", name),
        };
        if kind == "jdbc" {
            copy_drivers(folder.path());
        }
        let login = login(name);
        let mut engine = Engine {
            name,
            kind,
            database,
            folder,
            runtime: Runtime::new().expect("a runtime"),
            connector: Arc::clone(busbar_connect::registry().get(kind).expect("registered")),
            options: format!("{kind}:\n{login}"),
            login,
            _open: None,
        };
        let (_, open) = engine
            .query(&format!("select 1 as n from {}", engine.one_row()), "")
            .unwrap_or_else(|why| panic!("{name}: {why}"));
        engine._open = Some(open);
        engine
    }

    /// A table of one row.
    pub fn one_row(&self) -> &'static str {
        match self.name {
            "derby" => "sysibm.sysdummy1",
            "hsqldb" => "(values(0))",
            _ => "(select 0 as z) q",
        }
    }

    /// A connection's file.
    pub fn connection(&self, what: &str) -> String {
        format!("{}:\n{}  {what}\n", self.kind, self.login)
    }

    /// A name that no other table has.
    pub fn table(&self) -> String {
        format!("t{}", TABLES.fetch_add(1, Ordering::SeqCst))
    }

    pub fn source_context(&self, resume: Resume) -> SourceContext {
        SourceContext {
            name: "c".into(),
            project_dir: self.folder.path().into(),
            clock: Arc::new(SystemClock),
            resume,
            tables: crate::world::no_tables(),
        }
    }

    fn query(&self, sql: &str, more: &str) -> Result<Answered, Error> {
        let quoted = sql.replace('\'', "''");
        let text = self.connection(&format!(
            "query: {{ statement: '{quoted}', every: 1h{more} }}"
        ));
        self.runtime.block_on(async {
            let context = self.source_context(Resume::default());
            let mut source = self.connector.source(&spec(&text), context).await?;
            let mut rows = Vec::new();
            loop {
                let polled = tokio::time::timeout(PATIENCE, source.poll()).await;
                match polled.expect("the database answers")? {
                    Polled::Batch(polling) => rows.extend(payloads(&polling.batch)),
                    _ => return Ok((rows, source)),
                }
            }
        })
    }

    /// Runs a statement; its rows.
    pub fn run(&self, sql: &str) -> Vec<Vec<u8>> {
        let ran = self.query(sql, "");
        let (rows, _) = ran.unwrap_or_else(|why| panic!("{}: {why}: {sql:.500}", self.name));
        rows
    }

    /// Rows as texts, whatever letters their columns have.
    pub fn texts(&self, sql: &str) -> Vec<String> {
        let rows = self.run(sql);
        rows.iter().map(|row| shown(row)).collect()
    }

    pub async fn sink(&self, write: &str, like: &Delivery) -> Result<Box<dyn Sink>, Error> {
        let context = SinkContext {
            name: "x".into(),
            project_dir: self.folder.path().into(),
            clock: Arc::new(SystemClock),
            schema: like.rows.schema(),
        };
        let text = self.connection(&format!("write: {{ {write} }}"));
        self.connector.sink(&spec(&text), context).await
    }

    /// Writes rows; which of them are refused.
    pub fn write(&self, write: &str, rows: &Delivery) -> Result<Vec<usize>, Error> {
        self.runtime.block_on(async {
            let written = self.sink(write, rows).await?.write(rows).await?;
            Ok(written.rejected.into_iter().map(|(row, _)| row).collect())
        })
    }
}

/// How an engine is reached; a server's database is new.
pub fn login(name: &str) -> String {
    let of = |driver: &str, url: String, user: &str| {
        format!(
            "  driver: {driver}\n  url: '{url}'\n  user: '{user}'\n  timeout: 60s\n  sessions: 16\n"
        )
    };
    let of_odbc = |driver: &str, user: &str| {
        format!(
            "  connection: 'Driver={driver}'\n  user: '{user}'\n  timeout: 60s\n  sessions: 16\n"
        )
    };
    match name {
        "derby" => of(
            "[drivers/derby.jar, drivers/derbyshared.jar]",
            "jdbc:derby:data;create=true".into(),
            "",
        ),
        "h2" => of("drivers/h2.jar", "jdbc:h2:./data".into(), "sa"),
        "hsqldb" => of(
            "drivers/hsqldb.jar",
            "jdbc:hsqldb:file:data/db;shutdown=true;hsqldb.tx=mvcc".into(),
            "SA",
        ),
        "mariadb" => {
            let database = mariadb().database("");
            let url = format!("jdbc:mariadb://127.0.0.1:{}/{database}", mariadb().port);
            of("drivers/mariadb-java-client.jar", url, "root")
        }
        "mariadb-odbc" => {
            let database = mariadb().database("");
            let port = mariadb().port;
            of_odbc(
                &format!("MariaDB Unicode;Server=127.0.0.1;Port={port};Database={database}"),
                "root",
            )
        }
        "postgres-odbc" => {
            let database = postgres().database("");
            let port = postgres().port;
            let login =
                format!("PostgreSQL Unicode;Server=127.0.0.1;Port={port};Database={database}");
            of_odbc(&login, "postgres") + "  password: secret\n"
        }
        "sqlite-odbc" => of_odbc("SQLite3;Database=data.db", ""),
        _ => {
            let database = postgres().database("");
            let url = format!("jdbc:postgresql://127.0.0.1:{}/{database}", postgres().port);
            of("drivers/postgresql.jar", url, "postgres") + "  password: secret\n"
        }
    }
}

/// The values of an object in their order.
struct Ordered(Vec<String>);

impl<'de> serde::Deserialize<'de> for Ordered {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Ordered, D::Error> {
        struct Values;
        impl<'de> serde::de::Visitor<'de> for Values {
            type Value = Ordered;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Ordered, A::Error> {
                let mut values = Vec::new();
                while let Some((_, value)) = map.next_entry::<String, Value>()? {
                    values.push(match value {
                        Value::String(text) => text,
                        other => other.to_string(),
                    });
                }
                Ok(Ordered(values))
            }
        }
        from.deserialize_map(Values)
    }
}

/// The values of an object, with bars between them.
pub fn shown(row: &[u8]) -> String {
    let row: Ordered = serde_json::from_slice(row).expect("an object");
    row.0.join("|")
}

pub fn payloads(batch: &busbar_event::Batch) -> Vec<Vec<u8>> {
    let payloads = batch.payloads();
    let rows = 0..batch.rows();
    rows.map(|row| payloads.value(row).to_vec()).collect()
}
