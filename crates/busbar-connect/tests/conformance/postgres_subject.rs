//! The row of `postgres`, and what its other side is in the suite.

use crate::servers::{Cut, postgres};
use crate::subjects::{Subject, Supply, Taker};

pub fn subject() -> Subject {
    Subject {
        kind: "postgres",
        good: vec![
            "postgres: { address: '127.0.0.1:1', database: d, user: u, sessions: 2 }\n",
            "postgres: { address: '127.0.0.1:1', database: d, user: u, query: { statement: 'select 1', every: 1m, position: id, start: '0', overlap: 100 } }\ntopic: q/${connection}\n",
            "postgres: { address: '127.0.0.1:1', database: d, user: u, follow: { tables: [t, a.u], snapshot: false, slot: s, publication: p, create: false, without: [x], generation: 2, again: { public.t: 1 } } }\ntopic: a/${schema}/${table}\n",
            "postgres: { address: '127.0.0.1:1', database: d, user: u, write: { table: t } }\n",
            "postgres: { address: '127.0.0.1:1', database: d, user: u, password: { env: P }, tls: { ca: ca.pem }, timeout: 5s, write: { table: a.t, mode: upsert, key: [id], newer: at, or_equal: true, create: true, lossy: true, producer: n } }\n",
            "postgres: { address: '127.0.0.1:1', database: d, user: u, password: { file: p }, write: { table: t, change: c, key: [id], unchanged: k } }\n",
        ],
        wrong: vec![
            (
                "postgres: { address: 'a:1', database: d, user: u, write: { table: t, newer: at } }\n",
                "newer",
            ),
            (
                "postgres: { address: 'a:1', database: d, user: u, write: { table: t, mode: upsert, key: [at], newer: at } }\n",
                "newer",
            ),
            (
                "postgres: { address: 'a:1', database: d, user: u, write: { table: t, or_equal: true } }\n",
                "or_equal",
            ),
            (
                "postgres: { address: 'a:1', database: d, user: u, query: { statement: s, position: p } }\n",
                "position",
            ),
            (
                "postgres: { address: 'a:1', database: d, user: u, query: { statement: s, every: 1ms } }\n",
                "1ms",
            ),
            (
                "postgres: { address: 'a:1', database: d, user: u, query: { statement: s }, follow: { tables: [t] } }\n",
                "query",
            ),
            (
                "postgres: { address: 'a:1', database: d, user: u, follow: { tables: [] } }\n",
                "tables",
            ),
            (
                "postgres: { address: 'a:1', database: d, user: u, follow: { tables: [t], again: { u: 1 } } }\n",
                "u",
            ),
            (
                "postgres: { address: 'a:1', database: d, user: u, follow: { tables: [t] } }\ntopic: a/${tabel}\n",
                "tabel",
            ),
            (
                "postgres: { database: d, user: u, write: { table: t } }\n",
                "address",
            ),
            (
                "postgres: { address: here, database: d, user: u, write: { table: t } }\n",
                "here",
            ),
            (
                "postgres: { address: 'a:1', database: d, user: u, sessions: 65 }\n",
                "65",
            ),
            (
                "postgres: { address: 'a:1', database: d, user: u, write: { table: a.b.c } }\n",
                "a.b.c",
            ),
            (
                "postgres: { address: 'a:1', database: d, user: u, write: { table: t, mode: upsert } }\n",
                "key",
            ),
            (
                "postgres: { address: 'a:1', database: d, user: u, write: { table: t, mode: merge } }\n",
                "merge",
            ),
            (
                "postgres: { address: 'a:1', database: d, user: u, timeout: 0s, write: { table: t } }\n",
                "0s",
            ),
            (
                "postgres: { address: 'a:1', database: d, user: u, password: '${P}', write: { table: t } }\n",
                "${P}",
            ),
            (
                "postgres: { address: 'a:1', database: d, user: u, tls: { ca: /etc/x }, write: { table: t } }\n",
                "/etc/x",
            ),
            (
                "postgres: { address: 'a:1', database: d, user: u, password: { file: /etc/x }, write: { table: t } }\n",
                "/etc/x",
            ),
        ],
        secret: vec![
            "postgres: { address: '127.0.0.1:PORT', database: d, user: u, password: SECRET, write: { table: t } }\n",
        ],
        supply: Some(|| Box::new(Followed::new())),
        taker: Some(|| Box::new(Inserted::new())),
    }
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
    fn connection(&self, _: &std::path::Path) -> String {
        format!(
            "postgres: {{ address: '127.0.0.1:{}', database: {}, user: postgres, password: secret, timeout: 20s, write: {{ table: rows }} }}\n",
            self.cut.port, self.database
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

struct Followed {
    database: String,
    cut: Cut,
}

impl Followed {
    fn new() -> Followed {
        let server = postgres();
        Followed {
            database: server.database("create table rows (n bigint primary key)"),
            cut: Cut::before(server.port),
        }
    }
}

impl Supply for Followed {
    fn connection(&self, _: &std::path::Path) -> String {
        format!(
            "postgres: {{ address: '127.0.0.1:{}', database: {}, user: postgres, password: secret, follow: {{ tables: [rows], slot: s_{1} }} }}\ntopic: in/rows\n",
            self.cut.port, self.database
        )
    }
    fn produce(&mut self, numbers: std::ops::Range<u64>) {
        // Transactions of different sizes.
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
        true
    }
    fn go_away(&mut self) {
        self.cut.cut();
    }
    fn come_back(&mut self) {
        self.cut.join();
    }
}

/// A slot keeps the server from dropping anything, so it goes with its test.
impl Drop for Followed {
    fn drop(&mut self) {
        self.cut.cut();
        let sql = format!(
            "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = 's_{0}' and active; select pg_sleep(0.2); select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = 's_{0}'",
            self.database
        );
        postgres().run(&self.database, &sql);
    }
}
