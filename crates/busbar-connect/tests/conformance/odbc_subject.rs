//! The row of `odbc`, and what its other side is in the suite: PostgreSQL with its ODBC driver.

use std::path::Path;

use crate::servers::{Cut, postgres};
use crate::subjects::{Subject, Supply, Taker};

pub fn subject() -> Subject {
    Subject {
        kind: "odbc",
        good: vec![
            "odbc: { connection: 'DSN=x', write: { table: t } }\n",
            "odbc: { connection: 'Driver={x y};Server=a' }\n",
            "odbc: { connection: 'Driver=lib/d.so;Server=a', user: u, password: { env: P }, properties: { a: b, c: { env: D } }, dialect: oracle, memory: 1GiB, sessions: 4, timeout: 5s, write: { table: a.t, mode: upsert, key: [id], create: true, lossy: true, producer: n } }\n",
            "odbc: { connection: 'DSN=x', poll: { tables: [{ table: t, version: v }, { table: a.u, version: w, key: [a, b] }], every: 1s, overlap: 10m, snapshot: false, generation: 2 } }\ntopic: a/${table}\n",
            "odbc: { connection: 'DSN=x', query: { statement: 'select 1', every: 1s, position: a, start: '1', overlap: 5 } }\n",
            "odbc: { connection: 'DSN=x', query: { statement: 'select 1', at: '0 3 * * 1-5' } }\n",
            "odbc: { connection: 'DSN=x', query: { statement: 'select 1', once: true } }\n",
        ],
        wrong: vec![
            ("odbc: { write: { table: t } }\n", "connection"),
            ("odbc: { connection: his, write: { table: t } }\n", "his"),
            (
                "odbc: { connection: 'Server=a', write: { table: t } }\n",
                "Driver",
            ),
            (
                "odbc: { connection: 'DSN=x;Pwd=y', write: { table: t } }\n",
                "password",
            ),
            (
                "odbc: { connection: 'DSN=x;SaveFile=y', write: { table: t } }\n",
                "SAVEFILE",
            ),
            (
                "odbc: { connection: 'DSN=x', properties: { FileDSN: y }, write: { table: t } }\n",
                "FILEDSN",
            ),
            (
                "odbc: { connection: 'DSN=x', properties: { Driver: y }, write: { table: t } }\n",
                "Driver",
            ),
            (
                "odbc: { connection: 'DSN=x', properties: { 'a=b;c': y }, write: { table: t } }\n",
                "property",
            ),
            (
                "odbc: { connection: 'Driver=../d.so', write: { table: t } }\n",
                "../d.so",
            ),
            (
                "odbc: { connection: 'Driver=/tmp/d.so', write: { table: t } }\n",
                "/tmp/d.so",
            ),
            (
                "odbc: { connection: 'DSN=x', memory: 1KB, write: { table: t } }\n",
                "1KB",
            ),
            (
                "odbc: { connection: 'DSN=x', sessions: 0, write: { table: t } }\n",
                "0",
            ),
            (
                "odbc: { connection: 'DSN=x', timeout: 0s, write: { table: t } }\n",
                "0s",
            ),
            (
                "odbc: { connection: 'DSN=x', dialect: sybase, write: { table: t } }\n",
                "sybase",
            ),
            (
                "odbc: { connection: 'DSN=x', write: { table: t, mode: upsert } }\n",
                "key",
            ),
            (
                "odbc: { connection: 'DSN=x', poll: { tables: [] } }\n",
                "tables",
            ),
            (
                "odbc: { connection: 'DSN=x', query: { statement: 'select 1', position: a } }\n",
                "start",
            ),
            (
                "odbc: { connection: 'DSN=x', query: { statement: 'select 1', once: true, every: 1s } }\n",
                "once",
            ),
            (
                "odbc: { connection: 'DSN=x', password: { file: /etc/x }, write: { table: t } }\n",
                "/etc/x",
            ),
            (
                "odbc: { connection: 'DSN=x', password: '${P}', write: { table: t } }\n",
                "${P}",
            ),
        ],
        secret: vec![
            "odbc: { connection: 'Driver=PostgreSQL Unicode;Server=127.0.0.1;Port=PORT', password: SECRET, properties: { token: SECRET }, write: { table: t } }\n",
        ],
        supply: Some(|| Box::new(Versions::new())),
        taker: Some(|| Box::new(Inserted::new())),
    }
}

fn connection(port: u16, database: &str, what: &str) -> String {
    format!(
        "odbc:\n  connection: 'Driver=PostgreSQL Unicode;Server=127.0.0.1;Port={port};Database={database}'\n  user: postgres\n  password: secret\n  timeout: 60s\n  {what}\n"
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
    fn connection(&self, _: &Path) -> String {
        connection(self.cut.port, &self.database, "write: { table: rows }")
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
    fn connection(&self, _: &Path) -> String {
        // Nothing is committed late: each transaction is over before the next one begins.
        let poll = "poll: { tables: [{ table: rows, version: n }], every: 100ms, overlap: 0 }\ntopic: in/rows";
        connection(self.cut.port, &self.database, poll)
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
