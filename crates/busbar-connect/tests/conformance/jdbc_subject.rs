//! The row of `jdbc`, and what its other side is in the suite: PostgreSQL with its JDBC driver.

use std::path::Path;

use crate::driver_engine::copy_drivers;
use crate::servers::{Cut, postgres};
use crate::subjects::{Subject, Supply, Taker};

pub fn subject() -> Subject {
    Subject {
        kind: "jdbc",
        good: vec![
            "jdbc: { driver: d.jar, url: 'jdbc:x:1', write: { table: t } }\n",
            "jdbc: { driver: d.jar, url: 'jdbc:x:1' }\n",
            "jdbc: { driver: [d.jar, e.jar], class: a.B, url: 'jdbc:x:1', user: u, password: { env: P }, properties: { a: b, c: { env: D } }, dialect: oracle, memory: 1GiB, sessions: 4, timeout: 5s, write: { table: a.t, mode: upsert, key: [id], create: true, lossy: true, producer: n } }\n",
            "jdbc: { driver: d.jar, url: 'jdbc:x:1', poll: { tables: [{ table: t, version: v }, { table: a.u, version: w, key: [a, b] }], every: 1s, overlap: 10m, snapshot: false, generation: 2 } }\ntopic: a/${table}\n",
            "jdbc: { driver: d.jar, url: 'jdbc:x:1', query: { statement: 'select 1', every: 1s, position: a, start: '1', overlap: 5 } }\n",
            "jdbc: { driver: d.jar, url: 'jdbc:x:1', query: { statement: 'select 1', at: '0 3 * * 1-5' } }\n",
            "jdbc: { driver: d.jar, url: 'jdbc:x:1', query: { statement: 'select 1', once: true } }\n",
        ],
        wrong: vec![
            ("jdbc: { url: 'jdbc:x:1', write: { table: t } }\n", "driver"),
            (
                "jdbc: { driver: [], url: 'jdbc:x:1', write: { table: t } }\n",
                "driver",
            ),
            (
                "jdbc: { driver: ../d.jar, url: 'jdbc:x:1', write: { table: t } }\n",
                "../d.jar",
            ),
            ("jdbc: { driver: d.jar, write: { table: t } }\n", "url"),
            (
                "jdbc: { driver: d.jar, url: 'postgres://a', write: { table: t } }\n",
                "postgres://a",
            ),
            (
                "jdbc: { driver: d.jar, url: 'jdbc:oracle:thin:scott/tiger@a', write: { table: t } }\n",
                "password",
            ),
            (
                "jdbc: { driver: d.jar, url: 'jdbc:x:1', memory: 1KB, write: { table: t } }\n",
                "1KB",
            ),
            (
                "jdbc: { driver: d.jar, url: 'jdbc:x:1', sessions: 0, write: { table: t } }\n",
                "0",
            ),
            (
                "jdbc: { driver: d.jar, url: 'jdbc:x:1', timeout: 0s, write: { table: t } }\n",
                "0s",
            ),
            (
                "jdbc: { driver: d.jar, url: 'jdbc:x:1', dialect: sybase, write: { table: t } }\n",
                "sybase",
            ),
            (
                "jdbc: { driver: d.jar, url: 'jdbc:x:1', write: { table: t, mode: upsert } }\n",
                "key",
            ),
            (
                "jdbc: { driver: d.jar, url: 'jdbc:x:1', poll: { tables: [] } }\n",
                "tables",
            ),
            (
                "jdbc: { driver: d.jar, url: 'jdbc:x:1', poll: { tables: [{ table: t }] } }\n",
                "version",
            ),
            (
                "jdbc: { driver: d.jar, url: 'jdbc:x:1', query: { statement: 'select 1', position: a } }\n",
                "start",
            ),
            (
                "jdbc: { driver: d.jar, url: 'jdbc:x:1', query: { statement: 'select 1', once: true, every: 1s } }\n",
                "once",
            ),
            (
                "jdbc: { driver: d.jar, url: 'jdbc:x:1', query: { statement: 'select 1', at: '61 * * * *' } }\n",
                "at",
            ),
            (
                "jdbc: { driver: d.jar, url: 'jdbc:x:1', password: { file: /etc/x }, write: { table: t } }\n",
                "/etc/x",
            ),
            (
                "jdbc: { driver: d.jar, url: 'jdbc:x:1', password: '${P}', write: { table: t } }\n",
                "${P}",
            ),
        ],
        secret: vec![
            "jdbc: { driver: d.jar, url: 'jdbc:x:PORT', password: SECRET, properties: { token: SECRET }, write: { table: t } }\n",
        ],
        supply: Some(|| Box::new(Versions::new())),
        taker: Some(|| Box::new(Inserted::new())),
    }
}

fn connection(folder: &Path, port: u16, database: &str, what: &str) -> String {
    copy_drivers(folder);
    format!(
        "jdbc:\n  driver: drivers/postgresql.jar\n  url: 'jdbc:postgresql://127.0.0.1:{port}/{database}'\n  user: postgres\n  password: secret\n  timeout: 60s\n  {what}\n"
    )
}

struct Inserted {
    database: String,
    cut: Cut,
}

impl Inserted {
    fn new() -> Inserted {
        let server = postgres();
        let table = "create table rows (n bigint, note text check (note not like '%poison%'), seq bigserial)";
        Inserted {
            database: server.database(table),
            cut: Cut::before(server.port),
        }
    }
}

impl Taker for Inserted {
    fn connection(&self, folder: &Path) -> String {
        connection(
            folder,
            self.cut.port,
            &self.database,
            "write: { table: rows }",
        )
    }
    fn rows(&mut self) -> Vec<String> {
        let rows = postgres().run(&self.database, "select note from rows order by seq");
        rows.lines().map(str::to_owned).collect()
    }
    fn go_away(&mut self) {
        self.cut.cut();
    }
    fn come_back(&mut self) {
        self.cut.join();
    }
    fn refuse(&mut self, word: &'static str) -> Vec<u8> {
        format!("{{\"bad\":\"{word}\"}}").into_bytes()
    }
}

struct Versions {
    database: String,
    cut: Cut,
}

impl Versions {
    fn new() -> Versions {
        let server = postgres();
        Versions {
            database: server.database("create table rows (n bigint primary key)"),
            cut: Cut::before(server.port),
        }
    }
}

impl Supply for Versions {
    fn connection(&self, folder: &Path) -> String {
        // Nothing is committed late: each transaction is over before the next one begins.
        let poll = "poll: { tables: [{ table: rows, version: n }], every: 100ms, overlap: 0 }\ntopic: in/rows";
        connection(folder, self.cut.port, &self.database, poll)
    }
    fn produce(&mut self, numbers: std::ops::Range<u64>) {
        let mut sql = String::new();
        let mut from = numbers.start;
        while from < numbers.end {
            let to = (from + 1 + from % 13).min(numbers.end);
            sql.push_str(&format!(
                "insert into rows select generate_series({from}, {});",
                to - 1
            ));
            from = to;
        }
        postgres().run(&self.database, &sql);
    }
    fn topic(&self) -> &'static str {
        "in/rows"
    }
    fn exactly_once(&self) -> bool {
        false
    }
    fn go_away(&mut self) {
        self.cut.cut();
    }
    fn come_back(&mut self) {
        self.cut.join();
    }
}
