//! The row of `mongodb`, and what its other side is in the suite.

use crate::servers::{Cut, mongodb_set};
use crate::subjects::{Subject, Supply, Taker};

pub fn subject() -> Subject {
    Subject {
        kind: "mongodb",
        good: vec![
            "mongodb: { address: '127.0.0.1:1', database: d, write: { collection: c } }\n",
            "mongodb: { address: 'a:1, b:2', database: d, user: u, password: { env: P }, auth_database: d, tls: { ca: ca.pem }, timeout: 5s, write: { collection: c, mode: merge, key: [_id], change: ch, unchanged: k, object_ids: [_id], cut_times: true, producer: n } }\n",
            "mongodb: { address: 'a:1', database: d, write: { collection: c, mode: replace, key: [_id], transactions: false } }\n",
            "mongodb: { address: 'a:1', database: d, read: { collection: c, sort: [at, _id], query: '{\"a\":{\"$gte\":1}}', settle: 1s, every: 1s, rows: 10 } }\ntopic: a/${collection}\n",
            "mongodb: { address: 'a:1', database: d, follow: { collections: [c, e], snapshot: false, before: true, generation: 2, again: { c: 1 } } }\n",
            "mongodb: { address: 'a:1', database: d, sessions: 2, tables: { p: { collection: c, key: [_id, b.c], object_ids: [_id], columns: [{ name: _id, type: text }, { name: b.c, type: int }, { name: x, type: json }] } } }\n",
        ],
        wrong: vec![
            (
                "mongodb: { database: d, write: { collection: c } }\n",
                "address",
            ),
            (
                "mongodb: { address: here, database: d, write: { collection: c } }\n",
                "here",
            ),
            (
                "mongodb: { address: 'mongodb://a:1/d', database: d, write: { collection: c } }\n",
                "mongodb://a:1/d",
            ),
            (
                "mongodb: { address: 'a:1', database: 'd.e', write: { collection: c } }\n",
                "d.e",
            ),
            ("mongodb: { address: 'a:1', database: d }\n", "write"),
            (
                "mongodb: { address: 'a:1', database: d, write: { collection: c }, read: { collection: c, sort: [_id] } }\n",
                "collection",
            ),
            (
                "mongodb: { address: 'a:1', database: d, password: p, write: { collection: c } }\n",
                "password",
            ),
            (
                "mongodb: { address: 'a:1', database: d, timeout: 0s, write: { collection: c } }\n",
                "0s",
            ),
            (
                "mongodb: { address: 'a:1', database: d, write: { collection: system.x } }\n",
                "system.x",
            ),
            (
                "mongodb: { address: 'a:1', database: d, write: { collection: c, mode: replace } }\n",
                "key",
            ),
            (
                "mongodb: { address: 'a:1', database: d, write: { collection: c, mode: delete, key: [_id], change: ch } }\n",
                "delete",
            ),
            (
                "mongodb: { address: 'a:1', database: d, write: { collection: c, unchanged: un } }\n",
                "un",
            ),
            (
                "mongodb: { address: 'a:1', database: d, write: { collection: c, transactions: false } }\n",
                "false",
            ),
            (
                "mongodb: { address: 'a:1', database: d, read: { collection: c, sort: [] } }\n",
                "sort",
            ),
            (
                "mongodb: { address: 'a:1', database: d, read: { collection: c, sort: [a], query: '[1]' } }\n",
                "[1]",
            ),
            (
                "mongodb: { address: 'a:1', database: d, read: { collection: c, sort: [a], every: 1ms } }\n",
                "1ms",
            ),
            (
                "mongodb: { address: 'a:1', database: d, read: { collection: c, sort: [a], rows: 0 } }\n",
                "0",
            ),
            (
                "mongodb: { address: 'a:1', database: d, read: { collection: c, sort: [a] } }\ntopic: a/${colection}\n",
                "colection",
            ),
            (
                "mongodb: { address: 'a:1', database: d, follow: { collections: [c, c] } }\n",
                "collections",
            ),
            (
                "mongodb: { address: 'a:1', database: d, follow: { collections: [c], again: { e: 1 } } }\n",
                "again",
            ),
            (
                "mongodb: { address: 'a:1', database: d, tables: { p: { collection: c, key: [a], columns: [{ name: b, type: int }] } } }\n",
                "columns",
            ),
            (
                "mongodb: { address: 'a:1', database: d, user: u, password: '${P}', write: { collection: c } }\n",
                "${P}",
            ),
            (
                "mongodb: { address: 'a:1', database: d, tls: { ca: /etc/x }, write: { collection: c } }\n",
                "/etc/x",
            ),
        ],
        secret: vec![
            "mongodb: { address: '127.0.0.1:PORT', database: d, user: u, password: SECRET, write: { collection: c } }\n",
        ],
        supply: Some(|| Box::new(FollowedDocuments::new())),
        taker: Some(|| Box::new(AddedDocuments::new())),
    }
}

/// Each row is a document of its own, so that a row that comes twice is seen.
struct AddedDocuments {
    database: String,
    cut: Cut,
}

impl AddedDocuments {
    fn new() -> AddedDocuments {
        let server = mongodb_set();
        AddedDocuments {
            database: server.name(),
            cut: Cut::before(server.port),
        }
    }
}

impl Taker for AddedDocuments {
    fn connection(&self, _: &std::path::Path) -> String {
        format!(
            "mongodb: {{ address: '127.0.0.1:{}', database: {}, timeout: 20s, write: {{ collection: rows }} }}\n",
            self.cut.port, self.database
        )
    }
    fn rows(&mut self) -> Vec<String> {
        let rows = mongodb_set().run(
            &self.database,
            "print(json.dumps([row['note'] for row in db.rows.find()]))",
        );
        serde_json::from_str(&rows).expect("a list")
    }
    fn go_away(&mut self) {
        self.cut.cut();
    }
    fn come_back(&mut self) {
        self.cut.join();
    }
    fn refuse(&mut self, word: &'static str) -> Vec<u8> {
        let rule = format!(
            "db.command('collMod', 'rows', validator={{'note': {{'$not': {{'$regex': '{word}'}}}}}})"
        );
        mongodb_set().run(&self.database, &rule);
        format!("{{\"bad\":\"{word}\"}}").into_bytes()
    }
}

struct FollowedDocuments {
    database: String,
    cut: Cut,
}

impl FollowedDocuments {
    fn new() -> FollowedDocuments {
        let server = mongodb_set();
        FollowedDocuments {
            database: server.name(),
            cut: Cut::before(server.port),
        }
    }
}

impl Supply for FollowedDocuments {
    fn connection(&self, _: &std::path::Path) -> String {
        format!(
            "mongodb: {{ address: '127.0.0.1:{}', database: {}, timeout: 20s, follow: {{ collections: [rows] }} }}\ntopic: in/rows\n",
            self.cut.port, self.database
        )
    }
    fn produce(&mut self, numbers: std::ops::Range<u64>) {
        // Transactions of different sizes.
        let python = format!(
            "at, end = {}, {}\n\
             with c.start_session() as s:\n\
             \x20   while at < end:\n\
             \x20       to = min(at + 1 + at % 13, end)\n\
             \x20       with s.start_transaction():\n\
             \x20           db.rows.insert_many([{{'n': n}} for n in range(at, to)], session=s)\n\
             \x20       at = to\n",
            numbers.start, numbers.end
        );
        mongodb_set().run(&self.database, &python);
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
