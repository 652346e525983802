//! The row of `mysql`, and what its other side is in the suite.

use crate::servers::{Cut, mariadb};
use crate::subjects::{Subject, Supply, Taker};

pub fn subject() -> Subject {
    Subject {
        kind: "mysql",
        good: vec![
            "mysql: { address: '127.0.0.1:1', database: d, user: u, follow: { tables: [t, a.u], snapshot: false, zero_dates: none, server_id: 7, generation: 2, without: [x], again: { d.t: 1 } } }\ntopic: a/${table}\n",
            "mysql: { address: '127.0.0.1:1', database: d, user: u, write: { table: t } }\n",
            "mysql: { address: '127.0.0.1:1', database: d, user: u, password: { env: P }, tls: { ca: ca.pem }, timeout: 5s, write: { table: a.t, mode: upsert, key: [id], newer: at, or_equal: true, create: true, lossy: true, producer: n } }\n",
        ],
        wrong: vec![
            (
                "mysql: { address: 'a:1', database: d, user: u, write: { table: t, newer: at } }\n",
                "newer",
            ),
            (
                "mysql: { address: 'a:1', database: d, user: u, write: { table: t, mode: upsert, key: [at], newer: at } }\n",
                "newer",
            ),
            (
                "mysql: { address: 'a:1', database: d, user: u, write: { table: t, or_equal: true } }\n",
                "or_equal",
            ),
            (
                "mysql: { address: 'a:1', database: d, user: u, follow: { tables: [] } }\n",
                "tables",
            ),
            (
                "mysql: { address: 'a:1', database: d, user: u, follow: { tables: [t], again: { u: 1 } } }\n",
                "u",
            ),
            (
                "mysql: { database: d, user: u, write: { table: t } }\n",
                "address",
            ),
            (
                "mysql: { address: here, database: d, user: u, write: { table: t } }\n",
                "here",
            ),
            (
                "mysql: { address: 'a:1', database: d, user: u, sessions: 0 }\n",
                "sessions",
            ),
            (
                "mysql: { address: 'a:1', database: d, user: u, write: { table: a.b.c } }\n",
                "a.b.c",
            ),
            (
                "mysql: { address: 'a:1', database: d, user: u, write: { table: t, mode: upsert } }\n",
                "key",
            ),
            (
                "mysql: { address: 'a:1', database: d, user: u, timeout: 0s, write: { table: t } }\n",
                "0s",
            ),
            (
                "mysql: { address: 'a:1', database: d, user: u, tls: { ca: /etc/x }, write: { table: t } }\n",
                "/etc/x",
            ),
        ],
        secret: vec![
            "mysql: { address: '127.0.0.1:PORT', database: d, user: u, password: SECRET, write: { table: t } }\n",
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
        let server = mariadb();
        let table = "create table `rows` (n bigint, note longtext check (note not like '%poison%'), seq bigint auto_increment primary key)";
        Inserted {
            database: server.database(table),
            cut: Cut::before(server.port),
        }
    }
}

impl Taker for Inserted {
    fn connection(&self, _: &std::path::Path) -> String {
        format!(
            "mysql: {{ address: '127.0.0.1:{}', database: {}, user: root, timeout: 20s, write: {{ table: rows }} }}\n",
            self.cut.port, self.database
        )
    }
    fn rows(&mut self) -> Vec<String> {
        let rows = mariadb().run(&self.database, "select note from `rows` order by seq");
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
        let server = mariadb();
        Followed {
            database: server.database("create table `rows` (n bigint primary key)"),
            cut: Cut::before(server.port),
        }
    }
}

impl Supply for Followed {
    fn connection(&self, _: &std::path::Path) -> String {
        format!(
            "mysql: {{ address: '127.0.0.1:{}', database: {}, user: root, follow: {{ tables: [rows] }} }}\ntopic: in/rows\n",
            self.cut.port, self.database
        )
    }
    fn produce(&mut self, numbers: std::ops::Range<u64>) {
        // Transactions of different sizes.
        let mut sql = String::new();
        let mut from = numbers.start;
        while from < numbers.end {
            let to = (from + 1 + from % 13).min(numbers.end);
            let values: Vec<_> = (from..to).map(|n| format!("({n})")).collect();
            sql.push_str(&format!("insert into `rows` values {};", values.join(",")));
            from = to;
        }
        mariadb().run(&self.database, &sql);
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
