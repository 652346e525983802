//! The row of `redis`, and what its other side is in the suite.

use crate::servers::{Cut, redis};
use crate::subjects::{Subject, Supply, Taker};

pub fn subject() -> Subject {
    Subject {
        kind: "redis",
        good: vec![
            "redis: { address: '127.0.0.1:1' }\n",
            "redis: { address: '127.0.0.1:1', write: { key: 'a:${id}' } }\n",
            "redis: { address: '127.0.0.1:1', database: 3, user: u, password: { env: P }, tls: { ca: ca.pem }, timeout: 5s, write: { key: 'a:${id}', as: hash, ttl: 1h, change: c, unchanged: k, producer: n } }\n",
            "redis: { address: '127.0.0.1:1', write: { key: a, as: stream, max: 1000 } }\n",
            "redis: { address: '127.0.0.1:1', write: { key: a, as: set, delete: true } }\n",
            "redis: { address: '127.0.0.1:1', read: { streams: [a, b], payload: data, new_only: true } }\ntopic: a/${stream}\n",
            "redis: { address: '127.0.0.1:1', sessions: 2, tables: { p: { key: 'p:${a}:${b}', columns: [{ name: a, type: int }, { name: b, type: text }, { name: c, type: json }] } } }\n",
        ],
        wrong: vec![
            (
                "redis: { address: 'a:1', tables: { p: { key: '${a}', columns: [{ name: a, type: int }] } } }\n",
                "${a}",
            ),
            (
                "redis: { address: 'a:1', tables: { p: { key: 'p${a}${b}', columns: [{ name: a, type: int }, { name: b, type: int }] } } }\n",
                "p${a}${b}",
            ),
            (
                "redis: { address: 'a:1', tables: { p: { key: 'p${a}', columns: [{ name: b, type: int }] } } }\n",
                "b",
            ),
            (
                "redis: { address: 'a:1', sessions: 0, tables: { p: { key: 'p${a}', columns: [{ name: a, type: int }] } } }\n",
                "0",
            ),
            ("redis: { write: { key: 'a:${id}' } }\n", "address"),
            (
                "redis: { address: here, write: { key: 'a:${id}' } }\n",
                "here",
            ),
            (
                "redis: { address: 'a:1', read: { streams: [a] }, write: { key: 'a:${id}' } }\n",
                "key",
            ),
            (
                "redis: { address: 'a:1', read: { streams: [] } }\n",
                "streams",
            ),
            (
                "redis: { address: 'a:1', read: { streams: [a, a] } }\n",
                "streams",
            ),
            (
                "redis: { address: 'a:1', read: { streams: [a] } }\ntopic: a/${steam}\n",
                "steam",
            ),
            ("redis: { address: 'a:1', write: { key: '' } }\n", "key"),
            ("redis: { address: 'a:1', write: { key: same } }\n", "same"),
            (
                "redis: { address: 'a:1', write: { key: '${id}', change: c } }\n",
                "${id}",
            ),
            (
                "redis: { address: 'a:1', write: { key: 'a:${id' } }\n",
                "${id",
            ),
            (
                "redis: { address: 'a:1', write: { key: 'a:${id}', as: list } }\n",
                "list",
            ),
            (
                "redis: { address: 'a:1', write: { key: 'a:${id}', as: set, change: ch } }\n",
                "ch",
            ),
            (
                "redis: { address: 'a:1', write: { key: 'a:${id}', as: value, unchanged: un } }\n",
                "un",
            ),
            (
                "redis: { address: 'a:1', write: { key: a, as: stream, delete: true } }\n",
                "true",
            ),
            (
                "redis: { address: 'a:1', write: { key: 'a:${id}', max: 17 } }\n",
                "17",
            ),
            (
                "redis: { address: 'a:1', write: { key: a, as: stream, ttl: 17s } }\n",
                "17s",
            ),
            (
                "redis: { address: 'a:1', write: { key: 'a:${id}', ttl: 0s } }\n",
                "0s",
            ),
            (
                "redis: { address: 'a:1', timeout: 0s, write: { key: 'a:${id}' } }\n",
                "0s",
            ),
            (
                "redis: { address: 'a:1', password: '${P}', write: { key: 'a:${id}' } }\n",
                "${P}",
            ),
            (
                "redis: { address: 'a:1', tls: { ca: /etc/x }, write: { key: 'a:${id}' } }\n",
                "/etc/x",
            ),
            (
                "redis: { address: 'a:1', password: { file: /etc/x }, write: { key: 'a:${id}' } }\n",
                "/etc/x",
            ),
        ],
        secret: vec![
            "redis: { address: '127.0.0.1:PORT', password: SECRET, write: { key: 'a:${n}' } }\n",
        ],
        supply: Some(|| Box::new(Added::new())),
        taker: Some(|| Box::new(Put::new())),
    }
}

/// Each row is an entry of a stream of its own, so that a row that comes twice is seen and one stream can be made to refuse.
struct Put {
    name: String,
    cut: Cut,
}

impl Put {
    fn new() -> Put {
        let server = redis();
        Put {
            name: server.name(),
            cut: Cut::before(server.port),
        }
    }
}

impl Taker for Put {
    fn connection(&self, _: &std::path::Path) -> String {
        format!(
            "redis: {{ address: '127.0.0.1:{}', timeout: 20s, write: {{ key: '{}:${{note}}', as: stream, producer: {1} }} }}\n",
            self.cut.port, self.name
        )
    }
    fn rows(&mut self) -> Vec<String> {
        let script = "local r = {}; for _, k in ipairs(redis.call('keys', ARGV[1])) do \
                      if redis.call('type', k).ok == 'stream' then for _, e in ipairs(redis.call('xrange', k, '-', '+')) do \
                      r[#r + 1] = e[2][4] end end end; return r";
        let rows = redis().run("", &format!("eval \"{script}\" 0 {}:*", self.name));
        let number = |row: &str| {
            let json: serde_json::Value = serde_json::from_str(row).expect("JSON");
            json["n"].as_u64().expect("n")
        };
        let mut rows: Vec<_> = rows.lines().map(str::to_owned).collect();
        rows.sort_by_key(|row| number(row));
        rows
    }
    fn go_away(&mut self) {
        self.cut.cut();
    }
    fn come_back(&mut self) {
        self.cut.join();
    }
    fn refuse(&mut self, word: &'static str) -> Vec<u8> {
        let payload = format!("{{\"bad\":\"{word}\"}}");
        redis().run("", &format!("set '{}:{payload}' taken", self.name));
        payload.into_bytes()
    }
}

struct Added {
    stream: String,
    cut: Cut,
}

impl Added {
    fn new() -> Added {
        let server = redis();
        Added {
            stream: server.name(),
            cut: Cut::before(server.port),
        }
    }
}

impl Supply for Added {
    fn connection(&self, _: &std::path::Path) -> String {
        format!(
            "redis: {{ address: '127.0.0.1:{}', timeout: 20s, read: {{ streams: [{}], payload: data }} }}\ntopic: in/rows\n",
            self.cut.port, self.stream
        )
    }
    fn produce(&mut self, numbers: std::ops::Range<u64>) {
        let commands = numbers.map(|n| format!("xadd {} * data '{{\"n\":{n}}}'\n", self.stream));
        redis().run("", &commands.collect::<String>());
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
