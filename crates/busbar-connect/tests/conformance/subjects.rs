//! One row for each connector: options that do, options that do not, and its other side for the tests.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use busbar_connector::Connector;

use crate::peers::{Broker, Listener, Web};

pub struct Subject {
    pub kind: &'static str,
    /// Connections that check.
    pub good: Vec<&'static str>,
    /// Connections that do not, and the word that is at fault.
    pub wrong: Vec<(&'static str, &'static str)>,
    /// Sinks with SECRET somewhere, at a PORT where nobody listens.
    pub secret: Vec<&'static str>,
    /// The other side of a source.
    pub supply: Option<fn() -> Box<dyn Supply>>,
    /// The other side of a sink.
    pub taker: Option<fn() -> Box<dyn Taker>>,
}

/// The other side of a source.
pub trait Supply {
    /// The connection's file; the folder is the project's.
    fn connection(&self, folder: &std::path::Path) -> String;
    /// Makes events `{"n":…}` happen there.
    fn produce(&mut self, numbers: std::ops::Range<u64>);
    /// What the topic of each event must be.
    fn topic(&self) -> &'static str;
    /// Whether each event is there once, whatever happens.
    fn exactly_once(&self) -> bool;
    fn go_away(&mut self);
    fn come_back(&mut self);
}

/// The other side of a sink.
pub trait Taker {
    fn connection(&self, folder: &std::path::Path) -> String;
    /// Each row that is there, in order.
    fn rows(&mut self) -> Vec<String>;
    fn go_away(&mut self);
    fn come_back(&mut self);
    /// From now on a row with this word is refused for good; a payload that is.
    fn refuse(&mut self, word: &'static str) -> Vec<u8>;
}

impl Subject {
    pub fn connector(&self) -> Arc<dyn Connector> {
        let registry = busbar_connect::registry();
        Arc::clone(registry.get(self.kind).expect("it is registered"))
    }
}

pub fn subjects() -> Vec<Subject> {
    vec![
        crate::cassandra_peer::subject(),
        crate::clickhouse_peer::subject(),
        crate::elastic_peer::subject(),
        crate::hbase_peer::subject(),
        crate::fhir_peer::subject(),
        Subject {
            kind: "file",
            good: vec![
                "file: { read: in/*.ndjson }\ntopic: a/${file}\n",
                "file: { read: in.csv, format: csv }\n",
                "file: { read: in.log, format: lines }\n",
                "file: { read: in.hl7, format: hl7 }\n",
                "file: { write: out.ndjson }\n",
            ],
            wrong: vec![
                ("file: {}\n", "read"),
                ("file: { read: a, write: b }\n", "a"),
                ("file: { read: 3.5 }\ntopic: a/${fil}\n", "fil"),
                ("file: { read: [a] }\n", "a"),
                ("file: { read: ../a }\n", "../a"),
                ("file: { write: /etc/passwd }\n", "/etc/passwd"),
                ("file: { read: 'a*/b' }\n", "a*/b"),
                ("file: { write: 'a*' }\n", "a*"),
                ("file: { write: a, format: lines }\n", "lines"),
                ("file: { write: a, format: hl7 }\n", "hl7"),
                ("file: { read: a, format: xml }\n", "xml"),
            ],
            secret: vec![],
            supply: Some(|| Box::new(Lines::default())),
            taker: Some(|| Box::new(Written::default())),
        },
        Subject {
            kind: "grpc",
            good: vec![
                "grpc: { url: 'http://127.0.0.1:1', proto: 'message A { string a = 1; }' }\n",
                "grpc: { url: 'https://127.0.0.1:1', proto: '', headers: { A: { env: B } }, tls: { ca: ca.pem }, timeout: 5s }\n",
            ],
            wrong: vec![
                ("grpc: { proto: '' }\n", "url"),
                ("grpc: { url: 'http://a' }\n", "proto"),
                (
                    "grpc: { url: 'http://a', proto: 'import \"b.proto\";' }\n",
                    "b.proto",
                ),
                (
                    "grpc: { url: 'http://a', proto: 'message A { B b = 1; }' }\n",
                    "B",
                ),
                ("grpc: { url: 'http://a', proto: '', timeout: 1h }\n", "1h"),
            ],
            secret: vec![
                "grpc: { url: 'http://127.0.0.1:PORT/x?token=SECRET', proto: '', headers: { Authorization: Bearer SECRET } }\n",
            ],
            supply: None,
            taker: None,
        },
        Subject {
            kind: "host",
            good: vec![
                "host: {}\n",
                "host: { every: 5s, read: [cpu] }\ntopic: h/${kind}\n",
            ],
            wrong: vec![
                ("host: { every: 1us }\n", "1us"),
                ("host: { every: never }\n", "never"),
                ("host: { read: [weather] }\n", "weather"),
                ("host: {}\ntopic: a/${hots}\n", "hots"),
            ],
            secret: vec![],
            supply: None,
            taker: None,
        },
        Subject {
            kind: "http",
            good: vec![
                "http: { url: 'http://127.0.0.1:1/x' }\n",
                "http: { url: 'http://127.0.0.1:1/x', body: event, method: PUT, timeout: 5s, headers: { A: b, C: { env: D } } }\n",
                "http: { url: 'https://127.0.0.1:1/x', tls: { ca: ca.pem } }\n",
            ],
            wrong: vec![
                ("http: {}\n", "url"),
                ("http: { url: 1 }\n", "1"),
                ("http: { url: /only/a/path }\n", "/only/a/path"),
                ("http: { url: 'ftp://a/b' }\n", "ftp://a/b"),
                ("http: { url: 'http://me:pass@a/b' }\n", "http"),
                ("http: { url: 'http://a', timeout: 1h }\n", "1h"),
                ("http: { url: 'http://a', method: GET }\n", "GET"),
                ("http: { url: 'http://a', body: xml }\n", "xml"),
                ("http: { url: 'http://a', headers: { 'a b': c } }\n", "a b"),
                (
                    "http: { url: 'http://a', headers: { a: \"b\\nc\" } }\n",
                    "a",
                ),
                (
                    "http: { url: 'http://a', headers: { Content-Length: '3' } }\n",
                    "Content-Length",
                ),
                (
                    "http: { url: 'http://a', headers: { a: { env: B, more: c } } }\n",
                    "a",
                ),
                (
                    "http: { url: 'https://a', tls: { ca: /etc/x } }\n",
                    "/etc/x",
                ),
            ],
            secret: vec![
                "http: { url: 'http://127.0.0.1:PORT/x?token=SECRET', headers: { Authorization: Bearer SECRET } }\n",
                "http: { url: 'http://127.0.0.1:PORT/x', headers: { Authorization: \"SECRET\" } }\n",
            ],
            supply: None,
            taker: Some(|| Box::new(Posted::new())),
        },
        crate::kafka_subject::subject(),
        crate::mllp_subject::subject(),
        crate::mongo_subject::subject(),
        Subject {
            kind: "mqtt",
            good: vec![
                "mqtt: { address: '127.0.0.1:1', subscribe: [a/#] }\ntopic: b/${topic}\n",
                "mqtt: { address: '127.0.0.1:1', publish: 'b/${topic}', version: 3.1.1 }\n",
                "mqtt: { address: '127.0.0.1:1', publish: b, user: me, password: { env: P }, tls: { ca: ca.pem } }\n",
            ],
            wrong: vec![
                ("mqtt: { subscribe: [a] }\n", "address"),
                ("mqtt: { address: here, subscribe: [a] }\n", "here"),
                ("mqtt: { address: 'a:1' }\n", "subscribe"),
                (
                    "mqtt: { address: 'a:1', subscribe: [a], publish: b }\n",
                    "a",
                ),
                ("mqtt: { address: 'a:1', subscribe: ['a/#/b'] }\n", "a/#/b"),
                ("mqtt: { address: 'a:1', subscribe: [a], qos: 3 }\n", "3"),
                (
                    "mqtt: { address: 'a:1', subscribe: [a], qos: high }\n",
                    "high",
                ),
                (
                    "mqtt: { address: 'a:1', subscribe: [a], keep_alive: 0s }\n",
                    "0s",
                ),
                (
                    "mqtt: { address: 'a:1', subscribe: [a], password: x }\n",
                    "x",
                ),
                (
                    "mqtt: { address: 'a:1', subscribe: [a], version: 4 }\n",
                    "4",
                ),
                (
                    "mqtt: { address: 'a:1', subscribe: [a], tls: { ca: /etc/x } }\n",
                    "/etc/x",
                ),
                ("mqtt: { address: 'a:1', publish: 'b/${tpic}' }\n", "tpic"),
                ("mqtt: { address: 'a:1', publish: 'b/#' }\n", "b/#"),
            ],
            secret: vec![
                "mqtt: { address: '127.0.0.1:PORT', publish: a, user: me, password: SECRET }\n",
            ],
            supply: Some(|| Box::new(Published::new())),
            taker: Some(|| Box::new(Bridged::new())),
        },
        crate::jdbc_subject::subject(),
        crate::mysql_subject::subject(),
        crate::odbc_subject::subject(),
        crate::postgres_subject::subject(),
        crate::redis_subject::subject(),
        crate::s3_peer::subject(),
        crate::soap_subject::subject(),
        crate::table_subject::subject(),
        crate::tds_peer::subject(),
    ]
}

pub fn numbered(numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|n| format!("{{\"n\":{n}}}")).collect()
}

#[derive(Default)]
struct Lines {
    folder: std::cell::OnceCell<PathBuf>,
}

impl Supply for Lines {
    fn connection(&self, folder: &std::path::Path) -> String {
        let folder = self.folder.get_or_init(|| folder.join("in"));
        fs::create_dir_all(folder).expect("a folder");
        "file: { read: in/*.ndjson }\ntopic: in/line\n".to_owned()
    }
    fn produce(&mut self, numbers: std::ops::Range<u64>) {
        let path = self.folder.get().expect("a folder").join("a.ndjson");
        let mut file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("a file");
        let mut text = String::new();
        for line in numbered(numbers) {
            let _ = writeln!(text, "{line}");
        }
        file.write_all(text.as_bytes()).expect("written");
    }
    fn topic(&self) -> &'static str {
        "in/line"
    }
    fn exactly_once(&self) -> bool {
        true
    }
    fn go_away(&mut self) {
        let folder = self.folder.get().expect("a folder");
        fs::rename(folder, folder.with_extension("away")).expect("moved");
    }
    fn come_back(&mut self) {
        let folder = self.folder.get().expect("a folder");
        fs::rename(folder.with_extension("away"), folder).expect("moved");
    }
}

#[derive(Default)]
struct Written {
    path: std::cell::OnceCell<PathBuf>,
}

impl Taker for Written {
    fn connection(&self, folder: &std::path::Path) -> String {
        let _ = self.path.set(folder.join("out/rows.ndjson"));
        "file: { write: out/rows.ndjson }\n".to_owned()
    }
    fn rows(&mut self) -> Vec<String> {
        let text = fs::read_to_string(self.path.get().expect("a path")).expect("it is there");
        assert!(text.is_empty() || text.ends_with('\n'), "a torn line");
        text.lines().map(str::to_owned).collect()
    }
    fn go_away(&mut self) {
        // A disk that is not there: its folder is a file.
        let folder = self
            .path
            .get()
            .and_then(|p| p.parent())
            .expect("a folder")
            .to_owned();
        fs::rename(&folder, folder.with_extension("away")).expect("moved");
        std::os::unix::fs::symlink("nowhere/at/all", &folder).expect("a link");
    }
    fn come_back(&mut self) {
        let folder = self
            .path
            .get()
            .and_then(|p| p.parent())
            .expect("a folder")
            .to_owned();
        fs::remove_file(&folder).expect("removed");
        fs::rename(folder.with_extension("away"), &folder).expect("moved");
    }
    fn refuse(&mut self, _: &'static str) -> Vec<u8> {
        b"\xff\xfe".to_vec()
    }
}

struct Posted {
    web: Option<Web>,
    port: u16,
    /// What was taken by servers that are gone.
    before: Vec<crate::peers::Request>,
}

impl Posted {
    fn new() -> Posted {
        let web = Web::new();
        Posted {
            port: web.port,
            web: Some(web),
            before: Vec::new(),
        }
    }
}

impl Taker for Posted {
    fn connection(&self, _: &std::path::Path) -> String {
        format!(
            "http: {{ url: 'http://127.0.0.1:{}/rows', timeout: 2s }}\n",
            self.port
        )
    }
    fn rows(&mut self) -> Vec<String> {
        let now = self.web.iter().flat_map(Web::requests);
        let all: Vec<_> = self.before.iter().cloned().chain(now).collect();
        let taken = all.iter().filter(|request| request.status == 200);
        taken
            .flat_map(|request| {
                let rows: Vec<serde_json::Value> =
                    serde_json::from_slice(&request.body).expect("an array");
                rows.into_iter()
                    .map(|row| row.to_string())
                    .collect::<Vec<_>>()
            })
            .collect()
    }
    fn go_away(&mut self) {
        if let Some(web) = self.web.take() {
            self.before.extend(web.requests());
            web.answer(|_| None);
        }
        // Until the listener has let go of the port.
        crate::world::eventually(
            "the end of the server",
            || match std::net::TcpListener::bind(("127.0.0.1", self.port)) {
                Ok(_) => Ok(()),
                Err(why) => Err(why.to_string()),
            },
        );
    }
    fn come_back(&mut self) {
        self.web = Some(Web::on(self.port));
    }
    fn refuse(&mut self, word: &'static str) -> Vec<u8> {
        let web = self.web.as_ref().expect("a server");
        web.answer(move |request| match request.text().contains(word) {
            true => Some((400, "", b"no such thing".to_vec())),
            false => Some((200, "", Vec::new())),
        });
        format!("{{\"bad\":\"{word}\"}}").into_bytes()
    }
}

struct Published(Broker);

impl Published {
    fn new() -> Published {
        Published(Broker::new())
    }
}

impl Supply for Published {
    fn connection(&self, _: &std::path::Path) -> String {
        let port = self.0.port;
        format!(
            "mqtt: {{ address: '127.0.0.1:{port}', subscribe: ['meter/#'] }}\ntopic: 'in/${{topic}}'\n"
        )
    }
    fn produce(&mut self, numbers: std::ops::Range<u64>) {
        self.0.publish("meter/m1", 1, &[], &numbered(numbers));
    }
    fn topic(&self) -> &'static str {
        "in/meter/m1"
    }
    fn exactly_once(&self) -> bool {
        false
    }
    fn go_away(&mut self) {
        self.0.stop();
    }
    fn come_back(&mut self) {
        self.0.start();
    }
}

struct Bridged {
    broker: Broker,
    listener: Listener,
}

impl Bridged {
    fn new() -> Bridged {
        let broker = Broker::with("allow_anonymous true\nmessage_size_limit 5000\n");
        let listener = broker.listen("out/#", "%p");
        Bridged { broker, listener }
    }
}

impl Taker for Bridged {
    fn connection(&self, _: &std::path::Path) -> String {
        format!(
            "mqtt: {{ address: '127.0.0.1:{}', publish: 'out/${{topic}}' }}\n",
            self.broker.port
        )
    }
    fn rows(&mut self) -> Vec<String> {
        // A last message behind all others: what comes before it has come.
        let end = format!("end {}", crate::world::now());
        self.broker
            .publish("out/end", 1, &[], std::slice::from_ref(&end));
        crate::world::eventually("the last message", || {
            let lines = self.listener.lines();
            lines
                .contains(&end)
                .then_some(())
                .ok_or_else(|| format!("{lines:?}"))
        });
        let lines = self.listener.lines();
        lines
            .into_iter()
            .filter(|line| !line.starts_with("end "))
            .collect()
    }
    fn go_away(&mut self) {
        // The listener's own acknowledgements are to arrive before.
        crate::world::rest(300);
        self.broker.stop();
    }
    fn come_back(&mut self) {
        self.broker.start();
    }
    fn refuse(&mut self, word: &'static str) -> Vec<u8> {
        word.repeat(2000).into_bytes()
    }
}
